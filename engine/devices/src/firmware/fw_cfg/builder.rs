//! Puts items and files together and gives files their numbers.

use std::collections::BTreeMap;

use benchtop_memory::GuestMemory;

use super::FwCfg;
use crate::firmware::{AcpiTables, BootDevice, SmbiosTables, acpi, boot_order, e820, smbios};

const KEY_SIGNATURE: u16 = 0x00;
const KEY_FEATURES: u16 = 0x01;
const KEY_NO_GRAPHICS: u16 = 0x04;
const KEY_CPUS: u16 = 0x05;
const KEY_NUMA: u16 = 0x0d;
const KEY_BOOT_MENU: u16 = 0x0e;
const KEY_MAX_CPUS: u16 = 0x0f;
const KEY_DIRECTORY: u16 = 0x19;
const KEY_FIRST_FILE: u16 = 0x20;
const KEY_ACPI_TABLES: u16 = 0x8000;
const KEY_SMBIOS_TABLES: u16 = 0x8001;
const KEY_IRQ0_OVERRIDE: u16 = 0x8002;

/// Traditional interface, and DMA.
const FEATURES: u32 = 1 | 2;

/// A name's field, with its closing zero.
const NAME_FIELD_BYTES: usize = 56;

/// File numbers run up to where architecture-local and write-channel bits begin.
const MAX_FILES: usize = 0x4000 - KEY_FIRST_FILE as usize;

/// Why a set of files can not be offered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FwCfgError {
    /// The directory has room for 55 bytes of name, and a zero byte ends it.
    #[error("the firmware file name `{0}` is empty, longer than 55 bytes, or has a zero byte in it")]
    Name(String),
    /// A file's size is given in 32 bits.
    #[error("the firmware file `{0}` is larger than 4 GiB")]
    Size(String),
    /// More files than numbers.
    #[error("there are more firmware files than the directory can number")]
    TooManyFiles,
}

/// The numbered items firmware asks a PC for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PcKeys {
    /// CPUs present at power-on. SeaBIOS waits until this many have answered.
    pub cpus: u16,
    /// Highest number of CPUs there can be.
    pub max_cpus: u16,
    /// Whether the firmware offers its boot menu.
    pub boot_menu: bool,
    /// Whether the firmware's own output goes to COM1 instead of the screen.
    pub serial_console: bool,
}

/// Collects what a [`FwCfg`] will offer.
#[derive(Clone, Debug, Default)]
pub struct FwCfgBuilder {
    items: BTreeMap<u16, Vec<u8>>,
    files: BTreeMap<String, Vec<u8>>,
}

impl FwCfgBuilder {
    /// Nothing yet but the signature and the feature word.
    pub fn new() -> Self {
        Self::default().item(KEY_SIGNATURE, b"QEMU".to_vec()).item(KEY_FEATURES, FEATURES.to_le_bytes().to_vec())
    }

    /// Sets the numbered items of a PC.
    #[must_use]
    pub fn pc_keys(self, keys: &PcKeys) -> Self {
        let PcKeys { cpus, max_cpus, boot_menu, serial_console } = *keys;
        self.item(KEY_NO_GRAPHICS, u16::from(serial_console).to_le_bytes().to_vec())
            .item(KEY_CPUS, cpus.to_le_bytes().to_vec())
            .item(KEY_NUMA, 0u64.to_le_bytes().to_vec())
            .item(KEY_BOOT_MENU, u16::from(boot_menu).to_le_bytes().to_vec())
            .item(KEY_MAX_CPUS, max_cpus.to_le_bytes().to_vec())
            .item(KEY_ACPI_TABLES, 0u16.to_le_bytes().to_vec())
            .item(KEY_SMBIOS_TABLES, 0u16.to_le_bytes().to_vec())
            // The PIT is on pin 2 of the IOAPIC.
            .item(KEY_IRQ0_OVERRIDE, vec![1])
    }

    /// Adds a numbered item, in place of an earlier one of the same number.
    #[must_use]
    pub fn item(mut self, key: u16, bytes: Vec<u8>) -> Self {
        self.items.insert(key, bytes);
        self
    }

    /// Adds a file, in place of an earlier one of the same name.
    #[must_use]
    pub fn file(mut self, name: &str, bytes: Vec<u8>) -> Self {
        self.files.insert(name.to_owned(), bytes);
        self
    }

    /// Adds the memory map: `ram` and `reserved` as (base, length in bytes), as [`e820::table`] takes them.
    #[must_use]
    pub fn memory_map(self, ram: &[(u64, u64)], reserved: &[(u64, u64)]) -> Self {
        self.file(e820::FILE, e820::table(ram, reserved))
    }

    /// Adds the ACPI tables and the script that places them.
    #[must_use]
    pub fn acpi(self, tables: AcpiTables) -> Self {
        let AcpiTables { rsdp, tables, loader } = tables;
        self.file(acpi::RSDP_FILE, rsdp).file(acpi::TABLES_FILE, tables).file(acpi::LOADER_FILE, loader)
    }

    /// Adds the SMBIOS tables.
    #[must_use]
    pub fn smbios(self, tables: SmbiosTables) -> Self {
        let SmbiosTables { anchor, tables } = tables;
        self.file(smbios::ANCHOR_FILE, anchor).file(smbios::TABLES_FILE, tables)
    }

    /// Adds what to boot from, the first to try first.
    #[must_use]
    pub fn boot_order(self, order: &[BootDevice]) -> Self {
        self.file(boot_order::FILE, boot_order::file(order))
    }

    /// The device, with the files numbered in the order of their names.
    ///
    /// # Errors
    /// [`FwCfgError`], naming the file that does not fit.
    pub fn build(self, memory: GuestMemory) -> Result<FwCfg, FwCfgError> {
        let Self { mut items, files } = self;
        if files.len() > MAX_FILES {
            return Err(FwCfgError::TooManyFiles);
        }
        let count = u32::try_from(files.len()).or(Err(FwCfgError::TooManyFiles))?;
        let mut directory = count.to_be_bytes().to_vec();
        for (key, (name, bytes)) in (KEY_FIRST_FILE..).zip(files) {
            if name.is_empty() || name.len() >= NAME_FIELD_BYTES || name.contains('\0') {
                return Err(FwCfgError::Name(name));
            }
            let Ok(size) = u32::try_from(bytes.len()) else { return Err(FwCfgError::Size(name)) };
            directory.extend(size.to_be_bytes());
            directory.extend(key.to_be_bytes());
            directory.extend([0; 2]);
            directory.extend(name.as_bytes());
            directory.resize(directory.len() + NAME_FIELD_BYTES - name.len(), 0);
            items.insert(key, bytes);
        }
        items.insert(KEY_DIRECTORY, directory);
        Ok(FwCfg::new(memory, items))
    }
}
