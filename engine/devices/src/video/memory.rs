//! Accesses through the legacy window A0000-BFFFFh: chain-4, odd/even and the planar data path with its latch.
//!
//! Video memory is held as one 32-bit word per planar address, a byte per plane. Every address is masked by the size
//! of the memory, which is a power of two, after the bank and the plane shift are applied: that is the only bound
//! that matters, since all of them come from the guest.

use benchtop_memory::SharedRegion;

use super::registers::Registers;

/// First address of the legacy window.
pub const WINDOW_BASE: u64 = 0xa_0000;
/// Length of the legacy window in bytes.
pub const WINDOW_LEN_BYTES: u64 = 0x2_0000;

/// The data path between the window and video memory.
pub(super) struct Window<'a> {
    pub registers: &'a Registers,
    pub vram: &'a SharedRegion,
    /// Added to window addresses in the A0000h 64 KiB map (DISPI bank).
    pub bank_bytes: usize,
    pub latch: &'a mut u32,
}

impl Window<'_> {
    fn mask(&self) -> usize {
        // The length is a power of two (`Vga::new`), so masking never leaves the region.
        self.vram.len() - 1
    }

    /// Where window offset `offset` leads under the memory map in force, or `None` where nothing answers.
    fn locate(&self, offset: usize) -> Option<usize> {
        match self.registers.graphics[6] >> 2 & 3 {
            0 => Some(offset & 0x1_ffff),
            1 => (offset < 0x1_0000).then(|| offset.wrapping_add(self.bank_bytes)),
            2 => offset.checked_sub(0x1_0000).filter(|offset| *offset < 0x8000),
            _ => offset.checked_sub(0x1_8000).filter(|offset| *offset < 0x8000),
        }
    }

    fn read_byte(&self, address: usize) -> u8 {
        let mut byte = [0xff];
        if self.vram.read(address & self.mask(), &mut byte) { byte[0] } else { 0xff }
    }

    fn write_byte(&self, address: usize, value: u8) {
        // Masked, so it can not miss.
        let _written = self.vram.write(address & self.mask(), &[value]);
    }

    fn word_address(&self, address: usize) -> usize {
        (address.wrapping_mul(4) & self.mask()) & !3
    }

    fn read_word(&self, address: usize) -> u32 {
        let mut word = [0; 4];
        if self.vram.read(self.word_address(address), &mut word) { u32::from_le_bytes(word) } else { 0 }
    }

    /// Reads one byte at `offset` from A0000h.
    pub fn read(&mut self, offset: usize) -> u8 {
        let Some(address) = self.locate(offset) else { return 0xff };
        let graphics = &self.registers.graphics;
        if self.registers.chain4() {
            return self.read_byte(address);
        }
        if graphics[5] & 0x10 != 0 {
            let plane = usize::from(graphics[4] & 2) | address & 1;
            return self.read_byte((address & !1) << 1 | plane);
        }
        *self.latch = self.read_word(address);
        if graphics[5] & 0x08 == 0 {
            self.latch.to_le_bytes()[usize::from(graphics[4] & 3)]
        } else {
            // Read mode 1: a bit is set where all cared-for planes have the compare colour.
            let difference = (*self.latch ^ spread(graphics[2])) & spread(graphics[7]);
            difference.to_le_bytes().iter().fold(0xff, |matching, plane| matching & !plane)
        }
    }

    /// Writes one byte. True when video memory was written.
    pub fn write(&mut self, offset: usize, value: u8) -> bool {
        let Some(address) = self.locate(offset) else { return false };
        let graphics = &self.registers.graphics;
        let map_mask = self.registers.sequencer[2];
        if self.registers.chain4() {
            let enabled = map_mask >> (address & 3) & 1 != 0;
            if enabled {
                self.write_byte(address, value);
            }
            return enabled;
        }
        if graphics[5] & 0x10 != 0 {
            let plane = usize::from(graphics[4] & 2) | address & 1;
            let enabled = map_mask >> plane & 1 != 0;
            if enabled {
                self.write_byte((address & !1) << 1 | plane, value);
            }
            return enabled;
        }
        let planes = spread(map_mask);
        if planes == 0 {
            return false;
        }
        let data = self.planar_data(value);
        let merged = (self.read_word(address) & !planes) | (data & planes);
        let _written = self.vram.write(self.word_address(address), &merged.to_le_bytes());
        true
    }

    /// What the four planes are to hold after a write of `value`, by write mode.
    fn planar_data(&self, value: u8) -> u32 {
        let graphics = &self.registers.graphics;
        let rotated = value.rotate_right(u32::from(graphics[3] & 7));
        let set_reset = spread(graphics[0]);
        let bit_mask = repeat(graphics[8]);
        let (data, bit_mask) = match graphics[5] & 3 {
            1 => return *self.latch,
            0 => {
                let enabled = spread(graphics[1]);
                ((repeat(rotated) & !enabled) | (set_reset & enabled), bit_mask)
            }
            2 => (spread(value & 0x0f), bit_mask),
            _ => (set_reset, bit_mask & repeat(rotated)),
        };
        let data = match graphics[3] >> 3 & 3 {
            0 => data,
            1 => data & *self.latch,
            2 => data | *self.latch,
            _ => data ^ *self.latch,
        };
        (data & bit_mask) | (*self.latch & !bit_mask)
    }
}

/// A byte of FFh for each plane whose bit is set.
fn spread(planes: u8) -> u32 {
    u32::from_le_bytes([0, 1, 2, 3].map(|plane: u8| if planes >> plane & 1 != 0 { 0xff } else { 0 }))
}

fn repeat(value: u8) -> u32 {
    u32::from_le_bytes([value; 4])
}
