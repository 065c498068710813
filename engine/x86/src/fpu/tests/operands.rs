//! Seeded operands: every class of encoding, and pairs whose exponents lie where the arithmetic has its edges.

use super::super::{F80, Fpu, LastInstruction, status};

/// A xorshift generator: what the tests draw is the same each time.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        (self.next() >> 11) % limit
    }

    pub fn one_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }

    pub fn mantissa(&mut self) -> u64 {
        let bits = self.next();
        match self.below(8) {
            0 => 0,
            1 => u64::MAX,
            2 => u64::MAX << self.below(64),
            3 => u64::MAX >> self.below(64),
            4 => 1 << self.below(64),
            5 => bits & (u64::MAX << self.below(64)),
            _ => bits,
        }
    }

    /// Any encoding.
    pub fn value(&mut self) -> F80 {
        let negative = self.next() & 1 != 0;
        let mut mantissa = self.mantissa();
        if !self.one_in(12) {
            mantissa |= 1 << 63;
        }
        let exponent = match self.below(24) {
            0 => 0,
            1 => 1 + self.below(70) as u16,
            2 => 0x7ffe - self.below(70) as u16,
            3 => 0x7fff,
            4 => {
                mantissa &= !(1 << 63);
                0
            }
            5 => return F80::zero(negative),
            6 => return F80::infinity(negative),
            7 => self.below(0x8000) as u16,
            8 => 16383 - 127 + 4 - self.below(60) as u16,
            9 => 16383 + 127 + 2 - self.below(4) as u16,
            10 => 16383 - 1023 + 4 - self.below(60) as u16,
            11 => 16383 + 1023 + 2 - self.below(4) as u16,
            12..=13 => 16383 + 72 - self.below(12) as u16,
            _ => 16383 + 70 - self.below(140) as u16,
        };
        F80::new(negative, exponent, mantissa)
    }

    /// A partner of a value: often of an exponent at which a sum, product or quotient has an edge.
    pub fn partner(&mut self, of: F80) -> F80 {
        let exponent = of.exponent() as i32;
        let sign = self.next() & 1 != 0;
        let mantissa = if self.one_in(6) { of.mantissa } else { self.mantissa() | 1 << 63 };
        let spread = self.below(140) as i32 - 70;
        let exponent = match self.below(8) {
            0 => exponent,
            1..=2 => exponent + spread,
            3 => exponent + self.below(3) as i32 - 1,
            // Products at both ends of the range.
            4 => 0x7ffe + 16383 - exponent + self.below(5) as i32 - 2,
            5 => 16383 - exponent + spread,
            _ => return self.value(),
        };
        F80::new(sign, exponent.clamp(0, 0x7fff) as u16, mantissa)
    }

    /// A control word: all rounding modes and precisions, mostly with the exceptions masked.
    pub fn control(&mut self) -> u16 {
        let bits = self.next() as u16 & 0x0f3f;
        let precision = if self.one_in(8) { 0 } else { [0, 0x100, 0x200, 0x300, 0x300][self.below(5) as usize] };
        let word = (bits & 0x0c3f) | precision;
        if self.one_in(4) { word } else { word | 0x3f }
    }

    /// A whole unit in which nothing is pending.
    pub fn unit(&mut self) -> Fpu {
        let mut unit = Fpu::new();
        unit.set_control_word(self.control());
        let sticky = if self.one_in(4) { self.next() as u16 & unit.control & 0x3f } else { 0 };
        let codes = self.next() as u16 & (status::C0 | status::C1 | status::C2 | status::C3);
        unit.top = self.below(8) as u32;
        unit.status = sticky | codes;
        let first = self.value();
        for index in 0..8 {
            let value = if index == 0 { first } else { self.partner(first) };
            unit.set_st(index, value);
        }
        unit.valid = match self.below(12) {
            0 => self.next() as u32 & 0xff,
            1 => 0xff,
            _ => 0x0fu8.rotate_left(unit.top) as u32,
        };
        unit.last = LastInstruction::default();
        unit
    }
}
