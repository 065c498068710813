//! SMBIOS tables: how the machine describes itself to people and inventories.
//!
//! Facts: DMTF DSP0134 (SMBIOS Reference Specification) 2.8. The firmware adds the BIOS information (type 0), places
//! the tables and fills in the addresses and checksums of the entry point.

#[cfg(test)]
mod tests;

/// File name of the entry point.
pub const ANCHOR_FILE: &str = "etc/smbios/smbios-anchor";
/// File name of the tables.
pub const TABLES_FILE: &str = "etc/smbios/smbios-tables";

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// Most memory one memory device is said to have; a larger memory is several.
const DEVICE_BYTES: u64 = 16 << 30;
/// What a device's size field can not express is given in the extended one.
const SIZE_IS_EXTENDED: u16 = 0x7fff;

const NO_HANDLE: u16 = 0xffff;
const ERRORS_NOT_REPORTED: u16 = 0xfffe;

const SYSTEM: u8 = 1;
const BASE_BOARD: u8 = 2;
const CHASSIS: u8 = 3;
const PROCESSOR: u8 = 4;
const MEMORY_ARRAY: u8 = 16;
const MEMORY_DEVICE: u8 = 17;
const MEMORY_MAPPING: u8 = 19;
const BOOT_INFORMATION: u8 = 32;
const END_OF_TABLE: u8 = 127;

/// What the tables say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SmbiosConfig {
    /// The machine's UUID, in the order it is written in.
    pub uuid: [u8; 16],
    /// Who made the machine.
    pub manufacturer: String,
    /// The machine's product name.
    pub product: String,
    /// The product's version.
    pub version: String,
    /// The machine's serial number; may be empty.
    pub serial: String,
    /// CPUs, each in a socket of its own.
    pub cpus: u8,
    /// RAM as (base, length in bytes).
    pub ram: Vec<(u64, u64)>,
}

/// Contents of the two files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SmbiosTables {
    /// For [`ANCHOR_FILE`].
    pub anchor: Vec<u8>,
    /// For [`TABLES_FILE`].
    pub tables: Vec<u8>,
}

/// One structure: its formatted part, then its strings.
struct Structure {
    formatted: Vec<u8>,
    strings: Vec<u8>,
    string_count: u8,
}

impl Structure {
    fn new(kind: u8, handle: u16) -> Self {
        // The length is set at the end.
        let mut formatted = vec![kind, 0];
        formatted.extend(handle.to_le_bytes());
        Self { formatted, strings: Vec::new(), string_count: 0 }
    }

    fn bytes(mut self, bytes: &[u8]) -> Self {
        self.formatted.extend(bytes);
        self
    }

    fn words(mut self, words: &[u16]) -> Self {
        self.formatted.extend(words.iter().flat_map(|word| word.to_le_bytes()));
        self
    }

    fn dword(self, value: u32) -> Self {
        self.bytes(&value.to_le_bytes())
    }

    fn qword(self, value: u64) -> Self {
        self.bytes(&value.to_le_bytes())
    }

    /// A string's number; 0 where it is empty. A zero byte would end it early and is left out.
    fn string(mut self, text: &str) -> Self {
        const LONGEST: usize = 64;
        let text: Vec<u8> = text.bytes().filter(|byte| *byte != 0).take(LONGEST).collect();
        let mut number = 0;
        if !text.is_empty() {
            self.string_count += 1;
            number = self.string_count;
            self.strings.extend(text);
            self.strings.push(0);
        }
        self.bytes(&[number])
    }
}

#[derive(Default)]
struct Writer {
    bytes: Vec<u8>,
    count: u16,
    largest: u16,
}

impl Writer {
    fn add(&mut self, structure: Structure) {
        let Structure { mut formatted, mut strings, .. } = structure;
        // Formatted parts have fixed layouts, all below 256 bytes.
        formatted[1] = formatted.len() as u8;
        if strings.is_empty() {
            strings.push(0);
        }
        strings.push(0);
        let len = formatted.len() + strings.len();
        self.largest = self.largest.max(u16::try_from(len).unwrap_or(u16::MAX));
        self.count += 1;
        self.bytes.extend(formatted);
        self.bytes.extend(strings);
    }
}

impl SmbiosTables {
    /// The tables of a machine.
    pub fn new(config: &SmbiosConfig) -> Self {
        let mut writer = Writer::default();
        writer.add(system(config));
        writer.add(base_board(config));
        writer.add(chassis(config));
        for cpu in 0..config.cpus.max(1) {
            writer.add(processor(config, cpu));
        }
        let total_bytes = config.ram.iter().fold(0u64, |sum, (_, len_bytes)| sum.saturating_add(*len_bytes));
        // Handles leave room below each type's for as many as there can be.
        let devices = u16::try_from(total_bytes.div_ceil(DEVICE_BYTES)).unwrap_or(u16::MAX).clamp(1, 0x00ff);
        writer.add(memory_array(total_bytes, devices));
        for device in 0..devices {
            writer.add(memory_device(total_bytes, devices, device));
        }
        for (range, handle) in config.ram.iter().filter(|(_, len_bytes)| *len_bytes >= KIB).zip(0x1300..) {
            writer.add(memory_mapping(*range, handle));
        }
        writer.add(Structure::new(BOOT_INFORMATION, 0x2000).bytes(&[0; 7]));
        writer.add(Structure::new(END_OF_TABLE, 0x7f00));
        let anchor = anchor(&writer);
        Self { anchor, tables: writer.bytes }
    }
}

/// The 2.1 entry point (section 5.2.1). The firmware sets the address and both checksums.
fn anchor(writer: &Writer) -> Vec<u8> {
    const LEN_BYTES: u8 = 31;
    const VERSION: [u8; 2] = [2, 8];
    const VERSION_BCD: u8 = 0x28;
    let mut anchor = b"_SM_".to_vec();
    anchor.extend([0, LEN_BYTES, VERSION[0], VERSION[1]]);
    anchor.extend(writer.largest.to_le_bytes());
    // Entry point revision, and five bytes that belong to it.
    anchor.extend([0; 6]);
    anchor.extend(b"_DMI_\0");
    anchor.extend(u16::try_from(writer.bytes.len()).unwrap_or(u16::MAX).to_le_bytes());
    anchor.extend(0u32.to_le_bytes());
    anchor.extend(writer.count.to_le_bytes());
    anchor.push(VERSION_BCD);
    anchor
}

fn system(config: &SmbiosConfig) -> Structure {
    const WOKEN_BY_POWER_SWITCH: u8 = 6;
    // The first three fields of a UUID are numbers, and are stored little endian.
    let mut uuid = config.uuid;
    uuid[0..4].reverse();
    uuid[4..6].reverse();
    uuid[6..8].reverse();
    Structure::new(SYSTEM, 0x0100)
        .string(&config.manufacturer)
        .string(&config.product)
        .string(&config.version)
        .string(&config.serial)
        .bytes(&uuid)
        .bytes(&[WOKEN_BY_POWER_SWITCH])
        // SKU and family.
        .bytes(&[0, 0])
}

fn base_board(config: &SmbiosConfig) -> Structure {
    const HOSTING_BOARD: u8 = 1;
    const MOTHERBOARD: u8 = 0x0a;
    Structure::new(BASE_BOARD, 0x0200)
        .string(&config.manufacturer)
        .string(&config.product)
        .string(&config.version)
        .string(&config.serial)
        // No asset tag; no location in the chassis.
        .bytes(&[0, HOSTING_BOARD, 0])
        .words(&[CHASSIS_HANDLE])
        .bytes(&[MOTHERBOARD, 0])
}

const CHASSIS_HANDLE: u16 = 0x0300;

fn chassis(config: &SmbiosConfig) -> Structure {
    const DESKTOP: u8 = 3;
    const SAFE: u8 = 3;
    const NO_SECURITY: u8 = 3;
    Structure::new(CHASSIS, CHASSIS_HANDLE)
        .string(&config.manufacturer)
        .bytes(&[DESKTOP])
        .string(&config.version)
        .string(&config.serial)
        // No asset tag; boot-up, power supply and thermal state, security.
        .bytes(&[0, SAFE, SAFE, SAFE, NO_SECURITY])
        .dword(0)
        // Height and power cords unknown; no contained elements; no SKU.
        .bytes(&[0; 5])
}

fn processor(config: &SmbiosConfig, cpu: u8) -> Structure {
    const CENTRAL: u8 = 3;
    const OTHER: u8 = 1;
    const POPULATED_ENABLED: u8 = 0x41;
    const UNKNOWN_CHARACTERISTICS: u16 = 2;
    Structure::new(PROCESSOR, 0x0400 + u16::from(cpu))
        .string(&format!("CPU {cpu}"))
        .bytes(&[CENTRAL, OTHER])
        .string(&config.manufacturer)
        // Its CPUID signature is for CPUID to tell.
        .qword(0)
        .string(&config.version)
        .bytes(&[0])
        // Clock, highest and present speed: unknown.
        .words(&[0, 0, 0])
        .bytes(&[POPULATED_ENABLED, OTHER])
        .words(&[NO_HANDLE; 3])
        // No serial number, asset tag, part number. One core, enabled, of one thread.
        .bytes(&[0, 0, 0, 1, 1, 1])
        .words(&[UNKNOWN_CHARACTERISTICS, u16::from(OTHER)])
}

const MEMORY_ARRAY_HANDLE: u16 = 0x1000;

fn memory_array(total_bytes: u64, devices: u16) -> Structure {
    const SYSTEM_BOARD: u8 = 3;
    const SYSTEM_MEMORY: u8 = 3;
    const NO_ERROR_CORRECTION: u8 = 3;
    const CAPACITY_IS_EXTENDED: u32 = 0x8000_0000;
    let kib = u32::try_from(total_bytes / KIB).ok().filter(|kib| *kib < CAPACITY_IS_EXTENDED);
    let structure = Structure::new(MEMORY_ARRAY, MEMORY_ARRAY_HANDLE)
        .bytes(&[SYSTEM_BOARD, SYSTEM_MEMORY, NO_ERROR_CORRECTION])
        .dword(kib.unwrap_or(CAPACITY_IS_EXTENDED))
        .words(&[ERRORS_NOT_REPORTED, devices]);
    structure.qword(if kib.is_none() { total_bytes } else { 0 })
}

fn memory_device(total_bytes: u64, devices: u16, device: u16) -> Structure {
    const WIDTH_UNKNOWN: u16 = 0xffff;
    const DIMM: u8 = 9;
    const RAM: u8 = 7;
    const DETAIL_OTHER: u16 = 1 << 1;
    let before = u64::from(device).saturating_mul(DEVICE_BYTES);
    let rest = total_bytes.saturating_sub(before);
    let mib = (if device + 1 == devices { rest } else { DEVICE_BYTES }) / MIB;
    let small = u16::try_from(mib).ok().filter(|mib| *mib < SIZE_IS_EXTENDED);
    let extended = if small.is_none() { u32::try_from(mib).unwrap_or(0x7fff_ffff) } else { 0 };
    Structure::new(MEMORY_DEVICE, 0x1100 + device)
        .words(&[MEMORY_ARRAY_HANDLE, ERRORS_NOT_REPORTED, WIDTH_UNKNOWN, WIDTH_UNKNOWN])
        .words(&[small.unwrap_or(SIZE_IS_EXTENDED)])
        // Of no set.
        .bytes(&[DIMM, 0])
        .string(&format!("DIMM {device}"))
        // No bank.
        .bytes(&[0, RAM])
        // Speed unknown.
        .words(&[DETAIL_OTHER, 0])
        // No manufacturer, serial number, asset tag, part number; rank unknown.
        .bytes(&[0; 5])
        .dword(extended)
        // Configured speed; minimum, maximum and configured voltage: unknown.
        .words(&[0; 4])
}

fn memory_mapping((base, len_bytes): (u64, u64), handle: u16) -> Structure {
    const ADDRESS_IS_EXTENDED: u32 = 0xffff_ffff;
    let last = base.saturating_add(len_bytes - 1);
    let kib = |address: u64| u32::try_from(address / KIB).ok().filter(|kib| *kib != ADDRESS_IS_EXTENDED);
    let (addresses, extended) = match (kib(base), kib(last)) {
        (Some(first), Some(last)) => ([first, last], [0, 0]),
        _ => ([ADDRESS_IS_EXTENDED; 2], [base, last]),
    };
    Structure::new(MEMORY_MAPPING, handle)
        .dword(addresses[0])
        .dword(addresses[1])
        .words(&[MEMORY_ARRAY_HANDLE])
        // One device to a row.
        .bytes(&[1])
        .qword(extended[0])
        .qword(extended[1])
}
