//! What the board tells its firmware: the fw_cfg device and the files in it (memory map, ACPI and SMBIOS tables, boot
//! order).
//!
//! The BIOS image itself is not here: it is the host's file, shown to the guest as read-only memory.

pub mod acpi;
pub mod boot_order;
pub mod e820;
pub mod fw_cfg;
pub mod smbios;

pub use acpi::{AcpiConfig, AcpiTables};
pub use boot_order::BootDevice;
pub use fw_cfg::{FwCfg, FwCfgBuilder, FwCfgError, PcKeys};
pub use smbios::{SmbiosConfig, SmbiosTables};
