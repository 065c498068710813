//! What the firmware is told: memory map, tables, boot order, and the expansion ROM of a direct start.

use benchtop_control::config::BootFrom;
use benchtop_devices::firmware::boot_order::{self, BootDevice};
use benchtop_devices::firmware::fw_cfg::{FwCfg, FwCfgBuilder, PcKeys};
use benchtop_devices::firmware::{AcpiConfig, SmbiosConfig, SmbiosTables, acpi, e820, smbios};
use benchtop_memory::{GuestMemory, SharedRegion};

use crate::drives::{Drive, DriveKind};
use crate::{MachineError, kernel};

/// Everything the firmware learns about this machine.
pub struct FirmwareFacts<'a> {
    pub memory: &'a GuestMemory,
    /// Ranges the accelerator keeps for itself.
    pub reserved: &'a [(u64, u64)],
    pub cpus: u8,
    pub boot: BootFrom,
    pub drives: &'a [Drive],
    pub uuid: uuid::Uuid,
    pub direct_kernel: bool,
}

/// The firmware image as memory, padded at its start to whole pages: it ends at 4 GiB.
pub fn image(bios: &[u8]) -> Result<SharedRegion, MachineError> {
    /// Nothing below this is the PC's firmware, nothing above it fits below the local APICs.
    const SIZES: std::ops::RangeInclusive<usize> = 0x1_0000..=0x100_0000 - 0x10_0000;
    if !SIZES.contains(&bios.len()) {
        return Err(MachineError::Config("the firmware image is too small or too large to be a PC's".into()));
    }
    let region = SharedRegion::new("benchtop-firmware", bios.len() as u64)
        .map_err(|source| MachineError::Host { what: "allocating memory for the firmware", source })?;
    let start = region.len() - bios.len();
    debug_assert!(start < 4096);
    if region.write(start, bios) {
        Ok(region)
    } else {
        Err(MachineError::Config("the firmware image does not fit its memory".into()))
    }
}

/// The device the firmware reads it all from.
pub fn fw_cfg(facts: &FirmwareFacts<'_>) -> Result<FwCfg, MachineError> {
    let ram: Vec<_> = facts.memory.regions().iter().map(|ram| (ram.base.0, ram.region.len() as u64)).collect();
    let low_top = ram.first().map_or(0, |(_, len_bytes)| *len_bytes);
    let cpus = u16::from(facts.cpus);
    let tables = acpi::AcpiTables::new(&AcpiConfig {
        cpus: facts.cpus,
        low_ram_top: u32::try_from(low_top).unwrap_or(u32::MAX),
        high_window: None,
        hpet: true,
        serial: true,
        pm_base: acpi::PM_BASE,
    });
    let identity = SmbiosTables::new(&SmbiosConfig {
        uuid: *facts.uuid.as_bytes(),
        manufacturer: "Benchtop".to_owned(),
        product: "Benchtop PC".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        serial: facts.uuid.to_string(),
        cpus: facts.cpus,
        ram: ram.clone(),
    });
    let mut builder = FwCfgBuilder::new()
        .pc_keys(&PcKeys { cpus, max_cpus: cpus, boot_menu: false, serial_console: false })
        .file(e820::FILE, e820::table(&ram, facts.reserved))
        .file(boot_order::FILE, boot_order::file(&order(facts)))
        .file(acpi::RSDP_FILE, tables.rsdp)
        .file(acpi::TABLES_FILE, tables.tables)
        .file(acpi::LOADER_FILE, tables.loader)
        .file(smbios::ANCHOR_FILE, identity.anchor)
        .file(smbios::TABLES_FILE, identity.tables);
    if facts.direct_kernel {
        builder = builder.file(kernel::FILE_NAME, kernel::rom());
    }
    builder.build(facts.memory.clone()).map_err(|error| MachineError::Config(error.to_string()))
}

/// Everything bootable, in the order asked for. A drive without a disc is tried and passed over.
fn order(facts: &FirmwareFacts<'_>) -> Vec<BootDevice> {
    let of_kind = |kind: DriveKind| {
        facts
            .drives
            .iter()
            .filter(move |drive| drive.kind == kind)
            .map(|drive| BootDevice::Ide { channel: drive.channel as u8, unit: drive.unit as u8 })
    };
    let mut order = Vec::new();
    if facts.direct_kernel {
        order.push(BootDevice::Rom { name: kernel::ROM_NAME.to_owned() });
    }
    match facts.boot {
        BootFrom::Cd => order.extend(of_kind(DriveKind::Cd).chain(of_kind(DriveKind::Disk))),
        BootFrom::Disk => order.extend(of_kind(DriveKind::Disk).chain(of_kind(DriveKind::Cd))),
    }
    order
}
