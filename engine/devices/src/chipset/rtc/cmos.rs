//! The CMOS cells in which a PC's firmware finds what the machine has.

use super::{CELLS, CENTURY};

const FLOPPY_TYPES: usize = 0x10;
const EQUIPMENT: usize = 0x14;
const BASE_MEMORY_KIB: usize = 0x15;
const EXTENDED_MEMORY_KIB: usize = 0x17;
const CHECKSUM: usize = 0x2e;
const EXTENDED_MEMORY_KIB_POST: usize = 0x30;
const MEMORY_ABOVE_16_MIB: usize = 0x34;
const BOOT_THIRD: usize = 0x38;
const DISK_TRANSLATION: usize = 0x39;
const BOOT_FIRST_SECOND: usize = 0x3d;
const MEMORY_ABOVE_4_GIB: usize = 0x5b;
const OTHER_CPUS: usize = 0x5f;

/// Equipment: a mathematics coprocessor and a pointing device.
const EQUIPMENT_FPU_MOUSE: u8 = 0x06;
/// Four disks with LBA translation, two bits each. With none, INT 13h would show the first 504 MiB only.
const TRANSLATE_LBA: u8 = 0x55;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// A kind of boot device, by its number in CMOS. Firmware goes by these only where it has no `bootorder` file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BootClass {
    /// A floppy disk.
    Floppy,
    /// A hard disk.
    HardDisk,
    /// A CD-ROM.
    Cd,
    /// The network.
    Network,
}

impl BootClass {
    fn number(self) -> u8 {
        match self {
            Self::Floppy => 1,
            Self::HardDisk => 2,
            Self::Cd => 3,
            Self::Network => 4,
        }
    }
}

/// What the cells tell the firmware.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CmosLayout {
    /// Bytes of RAM from address 0, at most 3 GiB.
    pub low_ram_bytes: u64,
    /// Bytes of RAM from 4 GiB.
    pub high_ram_bytes: u64,
    /// CPUs, at least 1. It must agree with fw_cfg.
    pub cpus: u8,
    /// Up to three kinds of boot device, the first to try first.
    pub boot_order: Vec<BootClass>,
}

impl CmosLayout {
    pub(super) fn fill(&self, cells: &mut [u8; CELLS]) {
        let Self { low_ram_bytes, high_ram_bytes, cpus, boot_order } = self;
        let extended_kib = (low_ram_bytes.saturating_sub(MIB) / KIB).min(0xffff);
        let above_16_mib = (low_ram_bytes.saturating_sub(16 * MIB) / (64 * KIB)).min(0xffff);
        let above_4_gib = (high_ram_bytes / (64 * KIB)).min(0xff_ffff);
        let boot = |place: usize| boot_order.get(place).map_or(0, |class| class.number());

        cells[FLOPPY_TYPES] = 0;
        cells[EQUIPMENT] = EQUIPMENT_FPU_MOUSE;
        put(cells, BASE_MEMORY_KIB, 2, 640);
        put(cells, EXTENDED_MEMORY_KIB, 2, extended_kib);
        put(cells, EXTENDED_MEMORY_KIB_POST, 2, extended_kib);
        put(cells, MEMORY_ABOVE_16_MIB, 2, above_16_mib);
        put(cells, MEMORY_ABOVE_4_GIB, 3, above_4_gib);
        cells[BOOT_FIRST_SECOND] = boot(1) << 4 | boot(0);
        cells[BOOT_THIRD] = boot(2) << 4;
        cells[DISK_TRANSLATION] = TRANSLATE_LBA;
        cells[OTHER_CPUS] = cpus.saturating_sub(1);
        // The PC AT's checksum of the configuration cells, high byte first.
        let sum: u16 = cells[FLOPPY_TYPES..CHECKSUM].iter().map(|cell| u16::from(*cell)).sum();
        cells[CHECKSUM..CHECKSUM + 2].copy_from_slice(&sum.to_be_bytes());
    }
}

fn put(cells: &mut [u8; CELLS], at: usize, len: usize, value: u64) {
    cells[at..at + len].copy_from_slice(&value.to_le_bytes()[..len]);
}

// The layout and the clock share the cells.
const _: () = assert!(CENTURY > EXTENDED_MEMORY_KIB_POST + 1 && CENTURY < MEMORY_ABOVE_16_MIB);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_sizes() {
        let mut cells = [0; CELLS];
        let layout = CmosLayout {
            low_ram_bytes: 0xc000_0000,
            high_ram_bytes: 5 << 30,
            cpus: 4,
            boot_order: vec![BootClass::Cd, BootClass::HardDisk, BootClass::Network],
        };
        layout.fill(&mut cells);
        assert_eq!(cells[0x15..0x19], [0x80, 0x02, 0xff, 0xff]);
        assert_eq!(cells[0x30..0x32], [0xff, 0xff]);
        assert_eq!(cells[0x34..0x36], (((0xc000_0000_u32 - (16 << 20)) >> 16) as u16).to_le_bytes());
        assert_eq!(cells[0x5b..0x5e], [0, 0x40, 0x01]);
        assert_eq!((cells[0x3d], cells[0x38], cells[0x39], cells[0x5f]), (0x23, 0x40, 0x55, 3));

        CmosLayout { low_ram_bytes: 8 << 20, high_ram_bytes: 0, cpus: 1, boot_order: Vec::new() }.fill(&mut cells);
        assert_eq!(cells[0x30..0x32], (7u16 * 1024).to_le_bytes());
        assert_eq!(cells[0x34..0x36], [0, 0]);
        let sum: u16 = cells[0x10..0x2e].iter().map(|cell| u16::from(*cell)).sum();
        assert_eq!(cells[0x2e..0x30], sum.to_be_bytes());
    }
}
