//! The arithmetic flags, worked out when somebody asks.
//!
//! An operation leaves two words: its result, sign-extended to 64 bits, and `aux`. From the result come ZF, SF and PF.
//! In `aux`, bit 63 is CF; bit 62 differs from it where OF is set (they are the carries out of and into the top bit);
//! bit 3 is AF. Flags that no result could give (POPF, shifts) come from bits that turn what the result says: bit 0 of
//! `aux` turns SF, bits 8 to 15 turn the parity.

/// RFLAGS bits (Intel SDM volume 1, 3.4.3).
pub const CF: u64 = 1;
/// Parity of the low byte.
pub const PF: u64 = 1 << 2;
/// Carry out of bit 3.
pub const AF: u64 = 1 << 4;
/// Zero.
pub const ZF: u64 = 1 << 6;
/// Sign.
pub const SF: u64 = 1 << 7;
/// Trap after each instruction.
pub const TF: u64 = 1 << 8;
/// Interrupts are taken.
pub const IF: u64 = 1 << 9;
/// Strings go downwards.
pub const DF: u64 = 1 << 10;
/// Signed overflow.
pub const OF: u64 = 1 << 11;
/// I/O privilege level.
pub const IOPL: u64 = 3 << 12;
/// Nested task.
pub const NT: u64 = 1 << 14;
/// No instruction breakpoint for the next one.
pub const RF: u64 = 1 << 16;
/// Virtual-8086 mode.
pub const VM: u64 = 1 << 17;
/// Alignment is checked; or: a supervisor may touch user pages.
pub const AC: u64 = 1 << 18;
/// Virtual IF.
pub const VIF: u64 = 1 << 19;
/// An interrupt waits for it.
pub const VIP: u64 = 1 << 20;
/// CPUID is there.
pub const ID: u64 = 1 << 21;
/// Those that arithmetic sets.
pub const ARITHMETIC: u64 = CF | PF | AF | ZF | SF | OF;
/// Always set.
const ONE: u64 = 2;
/// All that can be set.
const ALL: u64 = ARITHMETIC | TF | IF | DF | IOPL | NT | RF | VM | AC | VIF | VIP | ID;

const AUX_CF: u64 = 1 << 63;
const AUX_OVER: u64 = 1 << 62;
const AUX_AF: u64 = 1 << 3;
const AUX_SIGN: u64 = 1;
const AUX_PARITY: u32 = 8;

/// RFLAGS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags {
    /// Of the last operation, sign-extended.
    pub result: u64,
    /// Its carries; see the module's text.
    pub aux: u64,
    /// All flags that are not arithmetic's.
    pub rest: u64,
}

impl Flags {
    /// From RFLAGS.
    pub fn new(value: u64) -> Self {
        let mut flags = Self::default();
        flags.set(value);
        flags
    }

    /// RFLAGS.
    pub fn get(&self) -> u64 {
        let bit = |set: bool, flag: u64| if set { flag } else { 0 };
        self.rest
            | ONE
            | bit(self.carry(), CF)
            | bit(self.parity(), PF)
            | bit(self.adjust(), AF)
            | bit(self.zero(), ZF)
            | bit(self.sign(), SF)
            | bit(self.overflow(), OF)
    }

    /// Sets all of RFLAGS.
    pub fn set(&mut self, value: u64) {
        self.rest = value & ALL & !ARITHMETIC;
        self.set_arithmetic(value);
    }

    /// Sets CF, PF, AF, ZF, SF and OF as in `value`.
    pub fn set_arithmetic(&mut self, value: u64) {
        let carry = value & CF != 0;
        let overflow = value & OF != 0;
        // With ZF the result is 0, whose parity is even and whose sign is plus; else 1, odd and plus.
        let zero = value & ZF != 0;
        self.result = u64::from(!zero);
        let sign_turns = u64::from(value & SF != 0);
        let parity_turns = u64::from((value & PF != 0) != zero);
        self.aux = if carry { AUX_CF } else { 0 }
            | if carry != overflow { AUX_OVER } else { 0 }
            | if value & AF != 0 { AUX_AF } else { 0 }
            | sign_turns
            | parity_turns << AUX_PARITY;
    }

    /// Changes those arithmetic flags that are in `mask`.
    pub fn change(&mut self, mask: u64, value: u64) {
        self.set_arithmetic(self.get() & !mask | value & mask);
    }

    /// CF.
    #[inline(always)]
    pub fn carry(&self) -> bool {
        self.aux >> 63 != 0
    }

    /// OF.
    #[inline(always)]
    pub fn overflow(&self) -> bool {
        (self.aux ^ self.aux << 1) >> 63 != 0
    }

    /// ZF.
    #[inline(always)]
    pub fn zero(&self) -> bool {
        self.result == 0
    }

    /// SF.
    #[inline(always)]
    pub fn sign(&self) -> bool {
        (self.result >> 63 ^ self.aux & AUX_SIGN) != 0
    }

    /// PF.
    #[inline(always)]
    pub fn parity(&self) -> bool {
        ((self.result ^ self.aux >> AUX_PARITY) as u8).count_ones().is_multiple_of(2)
    }

    /// AF.
    #[inline(always)]
    pub fn adjust(&self) -> bool {
        self.aux & AUX_AF != 0
    }

    /// CF becomes `carry`; the others stay.
    #[inline(always)]
    pub fn set_carry(&mut self, carry: bool) {
        let over = self.overflow() != carry;
        self.aux = self.aux & !(AUX_CF | AUX_OVER) | if carry { AUX_CF } else { 0 } | if over { AUX_OVER } else { 0 };
    }

    /// The flags of a result without carries.
    #[inline(always)]
    pub fn logic(&mut self, result: u64) {
        (self.result, self.aux) = (result, 0);
    }

    /// The flags of a result with these carries: bit n of `carries` is the one out of bit n. `top` is the number of the
    /// highest bit.
    #[inline(always)]
    pub fn carries(&mut self, result: u64, carries: u64, top: u32) {
        self.result = result;
        self.aux = carries << (63 - top) & (AUX_CF | AUX_OVER) | carries & AUX_AF;
    }

    /// The flags of a result with CF and OF as given and AF clear.
    #[inline(always)]
    pub fn result_with(&mut self, result: u64, carry: bool, overflow: bool) {
        self.result = result;
        self.aux = if carry { AUX_CF } else { 0 } | if carry != overflow { AUX_OVER } else { 0 };
    }

    /// Whether condition `code` holds, as in the low four bits of Jcc (Intel SDM volume 2, appendix B.1.4).
    #[inline(always)]
    pub fn holds(&self, code: u8) -> bool {
        let yes = match code >> 1 & 7 {
            0 => self.overflow(),
            1 => self.carry(),
            2 => self.zero(),
            3 => self.carry() || self.zero(),
            4 => self.sign(),
            5 => self.parity(),
            6 => self.sign() != self.overflow(),
            _ => self.zero() || self.sign() != self.overflow(),
        };
        yes != (code & 1 != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_flags_can_be_set_and_read() {
        for value in 0..1 << 12 {
            let value = value & ARITHMETIC;
            let mut flags = Flags::new(value | IF | IOPL);
            assert_eq!(flags.get(), value | IF | IOPL | ONE);
            flags.set_carry(value & CF == 0);
            assert_eq!(flags.get(), (value ^ CF) | IF | IOPL | ONE);
            flags.change(OF | ZF, !value);
            assert_eq!(flags.get(), (value ^ (CF | OF | ZF)) | IF | IOPL | ONE);
        }
    }

    #[test]
    fn carries_give_the_flags_of_an_addition() {
        for a in 0..=255u64 {
            for b in 0..=255 {
                let sum = a + b;
                let mut flags = Flags::default();
                let result = sum as u8 as i8 as u64;
                flags.carries(result, a & b | (a | b) & !sum, 7);
                assert_eq!(flags.carry(), sum > 255);
                assert_eq!(flags.zero(), sum as u8 == 0);
                assert_eq!(flags.sign(), sum & 128 != 0);
                assert_eq!(flags.adjust(), (a & 15) + (b & 15) > 15);
                assert_eq!(flags.overflow(), (a as i8).checked_add(b as i8).is_none());
                assert_eq!(flags.parity(), (sum as u8).count_ones().is_multiple_of(2));
            }
        }
    }
}
