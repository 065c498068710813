//! The ACPI tables of the board, and the script by which the firmware puts them into the guest's memory.
//!
//! ```text
//!   etc/acpi/tables   FACS · DSDT · FACP · APIC · [HPET] · WAET · RSDT · XSDT, pointers as offsets into this file
//!   etc/acpi/rsdp     RSDP
//!   etc/table-loader  allocate both, add their addresses to the pointers, then fill in the checksums
//! ```
//!
//! Facts: ACPI Specification 6.4, chapter 5; QEMU's table loader as SeaBIOS reads it.

mod aml;
mod dsdt;
mod loader;
mod tables;
#[cfg(test)]
mod tests;

use loader::{Loader, Zone};
use tables::Table;

/// File name of the tables.
pub const TABLES_FILE: &str = "etc/acpi/tables";
/// File name of the root pointer.
pub const RSDP_FILE: &str = "etc/acpi/rsdp";
/// File name of the script.
pub const LOADER_FILE: &str = "etc/table-loader";

/// The PM base that firmware chooses when it finds [`LOADER_FILE`].
pub const PM_BASE: u16 = 0x600;

/// The part of memory above 4 GiB that is kept free for devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HighWindow {
    /// First address, past all RAM.
    pub base: u64,
    /// Length in bytes; the end must be below what the guest's CPUs can address.
    pub len_bytes: u64,
}

/// What the tables depend on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AcpiConfig {
    /// CPUs, with APIC IDs from 0; at least 1 and at most 254 are described.
    pub cpus: u8,
    /// Where RAM below 4 GiB ends: from here to FEBF_FFFFh is for PCI devices.
    pub low_ram_top: u32,
    /// A window above 4 GiB, where the board has devices there. Windows XP does not start with one.
    pub high_window: Option<HighWindow>,
    /// Whether there is an HPET.
    pub hpet: bool,
    /// Whether there is a serial port COM1.
    pub serial: bool,
    /// Where the PM registers are: [`PM_BASE`] with SeaBIOS.
    pub pm_base: u16,
}

/// Contents of the three files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AcpiTables {
    /// For [`RSDP_FILE`].
    pub rsdp: Vec<u8>,
    /// For [`TABLES_FILE`].
    pub tables: Vec<u8>,
    /// For [`LOADER_FILE`].
    pub loader: Vec<u8>,
}

/// Puts tables one after the other into the tables file.
struct Assembler {
    tables: Vec<u8>,
    loader: Loader,
}

impl Assembler {
    /// Adds a table and returns where in the file it is.
    fn add(&mut self, table: Table) -> u32 {
        let at = offset(self.tables.len());
        let Table { bytes, pointers } = table;
        for pointer in pointers {
            self.loader.add_pointer(TABLES_FILE, TABLES_FILE, at + pointer.offset, pointer.len_bytes);
        }
        self.loader.add_checksum(TABLES_FILE, at + tables::CHECKSUM_OFFSET, at, offset(bytes.len()));
        self.tables.extend(bytes);
        self.tables.resize(self.tables.len().next_multiple_of(16), 0);
        at
    }
}

/// The tables of a board take some kilobytes.
fn offset(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}

impl AcpiTables {
    /// The tables for a board.
    pub fn new(config: &AcpiConfig) -> Self {
        let mut loader = Loader::default();
        loader.allocate(TABLES_FILE, 64, Zone::High);
        loader.allocate(RSDP_FILE, 16, Zone::FSegment);
        let mut assembler = Assembler { tables: tables::facs(), loader };
        // The FACS has no checksum and needs 64-byte alignment: it is first.
        let facs = 0;
        let dsdt = assembler.add(dsdt::dsdt(config));
        let mut entries = vec![assembler.add(tables::fadt(config.pm_base, facs, dsdt))];
        entries.push(assembler.add(tables::madt(config.cpus)));
        if config.hpet {
            entries.push(assembler.add(tables::hpet()));
        }
        entries.push(assembler.add(tables::waet()));
        let rsdt = assembler.add(tables::rsdt(&entries));
        let xsdt = assembler.add(tables::xsdt(&entries));
        let Assembler { tables, mut loader } = assembler;

        let rsdp = tables::rsdp(rsdt, xsdt);
        loader.add_pointer(RSDP_FILE, TABLES_FILE, tables::RSDP_RSDT, 4);
        loader.add_pointer(RSDP_FILE, TABLES_FILE, tables::RSDP_XSDT, 8);
        loader.add_checksum(RSDP_FILE, tables::RSDP_CHECKSUM, 0, tables::RSDP_V1_LEN);
        loader.add_checksum(RSDP_FILE, tables::RSDP_EXTENDED_CHECKSUM, 0, offset(rsdp.len()));
        Self { rsdp, tables, loader: loader.into_bytes() }
    }
}
