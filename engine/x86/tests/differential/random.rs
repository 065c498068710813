//! Numbers of the kinds that find mistakes.

/// xorshift64*.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// A number that may be at an end of something.
    pub fn value(&mut self) -> u64 {
        let bits = 8 << self.below(4);
        let top = 1u64 << (bits - 1);
        match self.below(8) {
            0 => 0,
            1 => 1,
            2 => u64::MAX,
            3 => top,
            4 => top - 1,
            5 => self.below(64),
            6 => u64::MAX << self.below(64),
            _ => self.next(),
        }
    }

    pub fn float(&mut self) -> u32 {
        match self.below(10) {
            0 => 0,
            1 => 0x8000_0000,
            2 => 0x7f80_0000 | (self.below(2) as u32) << 31,
            3 => 0x7f80_0001 | self.next() as u32 & 0x807f_ffff,
            4 => 0x7fc0_0000 | self.next() as u32 & 0x803f_ffff,
            5 => self.next() as u32 & 0x807f_ffff,
            6 => (self.below(1000) as f32 - 500.0).to_bits(),
            _ => self.next() as u32,
        }
    }

    pub fn double(&mut self) -> u64 {
        match self.below(10) {
            0 => 0,
            1 => 1 << 63,
            2 => 0x7ff << 52 | self.below(2) << 63,
            3 => 0x7ff << 52 | 1 | self.next() & 0x8007_ffff_ffff_ffff,
            4 => 0xfff << 51 | self.next() & 0x8007_ffff_ffff_ffff,
            5 => self.next() & 0x800f_ffff_ffff_ffff,
            6 => (self.below(1000) as f64 - 500.0).to_bits(),
            7 => (self.next() as i32 as f64 / 3.0).to_bits(),
            _ => self.next(),
        }
    }

    pub fn vector(&mut self) -> u128 {
        match self.below(3) {
            0 => u128::from(self.value()) << 64 | u128::from(self.value()),
            1 => (0..4).fold(0, |value, _| value << 32 | u128::from(self.float())),
            _ => u128::from(self.double()) << 64 | u128::from(self.double()),
        }
    }

    pub fn extended(&mut self) -> [u8; 10] {
        let mantissa = match self.below(6) {
            0 => 1 << 63,
            1 => u64::MAX,
            2 => self.next(),
            3 => 0,
            4 => self.next() | 3 << 62,
            _ => self.next() | 1 << 63,
        };
        let exponent = match self.below(6) {
            0 => 0x7fff,
            1 => 0,
            2 => self.next() as u16 & 0x7fff,
            _ => 0x3fff + self.below(140) as u16 - 70,
        } | (self.below(2) as u16) << 15;
        let mut bytes = [0; 10];
        bytes[..8].copy_from_slice(&mantissa.to_le_bytes());
        bytes[8..].copy_from_slice(&exponent.to_le_bytes());
        bytes
    }
}
