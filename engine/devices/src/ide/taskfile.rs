//! The task file: the registers of one device on a channel, and block addresses in them (ATA8-ACS, ATA/ATAPI-7 vol. 2).

use serde::{Deserialize, Serialize};

/// STATUS: the device is working and owns the registers.
pub(super) const BSY: u8 = 0x80;
/// STATUS: ready for commands.
pub(super) const DRDY: u8 = 0x40;
/// STATUS: device fault.
pub(super) const DF: u8 = 0x20;
/// STATUS: seek complete.
pub(super) const DSC: u8 = 0x10;
/// STATUS: data is to be moved.
pub(super) const DRQ: u8 = 0x08;
/// STATUS: see ERROR.
pub(super) const ERR: u8 = 0x01;

/// ERROR: the command was refused or given up.
pub(super) const ABRT: u8 = 0x04;
/// ERROR: there is no such address.
pub(super) const IDNF: u8 = 0x10;
/// ERROR: data could not be read.
pub(super) const UNC: u8 = 0x40;

/// Bits of the DEVICE register that always read 1.
pub(super) const DEVICE_FIXED: u8 = 0xa0;
/// DEVICE: the second device is selected.
pub(super) const DEVICE_SECOND: u8 = 0x10;
/// DEVICE: addresses are block numbers.
pub(super) const DEVICE_LBA: u8 = 0x40;

/// CONTROL: no interrupts.
pub(super) const CONTROL_NIEN: u8 = 0x02;
/// CONTROL: software reset.
pub(super) const CONTROL_SRST: u8 = 0x04;
/// CONTROL: reads give what registers held before.
pub(super) const CONTROL_HOB: u8 = 0x80;

/// Largest number of blocks a 28-bit command can reach.
pub(super) const LBA28_LIMIT: u64 = 1 << 28;
/// Largest number of blocks a 48-bit command can reach.
pub(super) const LBA48_LIMIT: u64 = 1 << 48;

/// A register that remembers what it held before, for 48-bit commands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Latch {
    pub now: u8,
    pub previous: u8,
}

impl Latch {
    pub(super) fn push(&mut self, value: u8) {
        self.previous = std::mem::replace(&mut self.now, value);
    }

    pub(super) fn read(self, hob: bool) -> u8 {
        if hob { self.previous } else { self.now }
    }

    fn wide(self) -> u16 {
        u16::from_be_bytes([self.previous, self.now])
    }
}

/// How a command gives its address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum AddressMode {
    Chs,
    Lba28,
    Lba48,
}

/// Heads and sectors per track that CHS addresses are counted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Geometry {
    /// 1 to 16.
    pub heads: u8,
    /// 1 to 255.
    pub sectors: u8,
}

impl Default for Geometry {
    fn default() -> Self {
        Self { heads: 16, sectors: 63 }
    }
}

/// One device's registers. DEVICE is the channel's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Registers {
    pub feature: Latch,
    pub count: Latch,
    pub low: Latch,
    pub mid: Latch,
    pub high: Latch,
    pub status: u8,
    pub error: u8,
}

impl Registers {
    /// Blocks the command asks for: 1 to 256, or to 65536.
    pub(super) fn block_count(&self, mode: AddressMode) -> u32 {
        match mode {
            AddressMode::Lba48 => match self.count.wide() {
                0 => 0x1_0000,
                count => u32::from(count),
            },
            AddressMode::Chs | AddressMode::Lba28 => match self.count.now {
                0 => 0x100,
                count => u32::from(count),
            },
        }
    }

    /// The block addressed, or `None` for a CHS address that is not one.
    pub(super) fn address(&self, mode: AddressMode, device: u8, geometry: Geometry) -> Option<u64> {
        let Self { low, mid, high, .. } = self;
        match mode {
            AddressMode::Lba48 => {
                Some(u64::from_be_bytes([0, 0, high.previous, mid.previous, low.previous, high.now, mid.now, low.now]))
            }
            AddressMode::Lba28 => Some(u64::from(u32::from_be_bytes([device & 0x0f, high.now, mid.now, low.now]))),
            AddressMode::Chs => {
                let cylinder = u64::from(u16::from_be_bytes([high.now, mid.now]));
                let head = device & 0x0f;
                if low.now == 0 || low.now > geometry.sectors || head >= geometry.heads {
                    return None;
                }
                let track = cylinder * u64::from(geometry.heads) + u64::from(head);
                Some(track * u64::from(geometry.sectors) + u64::from(low.now) - 1)
            }
        }
    }

    /// Puts a block number into the registers, in the form the command used. `device` is changed where the form
    /// reaches into it.
    pub(super) fn set_address(&mut self, mode: AddressMode, device: &mut u8, geometry: Geometry, block: u64) {
        let [_, _, b5, b4, b3, b2, b1, b0] = block.to_be_bytes();
        match mode {
            AddressMode::Lba48 => {
                self.low = Latch { now: b0, previous: b3 };
                self.mid = Latch { now: b1, previous: b4 };
                self.high = Latch { now: b2, previous: b5 };
            }
            AddressMode::Lba28 => {
                (self.low.now, self.mid.now, self.high.now) = (b0, b1, b2);
                *device = *device & 0xf0 | b3 & 0x0f;
            }
            AddressMode::Chs => {
                let (heads, sectors) = (u64::from(geometry.heads), u64::from(geometry.sectors));
                let track = block / sectors;
                // Remainders by at most 255 and 16, and a cylinder that the command's own address can hold.
                self.low.now = (block % sectors + 1) as u8;
                let [.., high, mid] = (track / heads).to_be_bytes();
                (self.mid.now, self.high.now) = (mid, high);
                *device = *device & 0xf0 | (track % heads) as u8;
            }
        }
    }
}
