//! Rounding to the register format, with overflow and underflow (SDM volume 1, 4.8.4, 8.5.4 to 8.5.6).

use super::f80::{EXPONENT_MAX, F80, INTEGER_BIT};

/// The bits of the status word (SDM volume 1, 8.1.3).
pub mod status {
    /// Invalid operation.
    pub const IE: u16 = 1 << 0;
    /// Denormal operand.
    pub const DE: u16 = 1 << 1;
    /// Division by zero.
    pub const ZE: u16 = 1 << 2;
    /// Overflow.
    pub const OE: u16 = 1 << 3;
    /// Underflow.
    pub const UE: u16 = 1 << 4;
    /// Inexact result (precision).
    pub const PE: u16 = 1 << 5;
    /// Stack fault.
    pub const SF: u16 = 1 << 6;
    /// Exception summary.
    pub const ES: u16 = 1 << 7;
    /// Condition code 0.
    pub const C0: u16 = 1 << 8;
    /// Condition code 1: rounded up, or which way the stack failed.
    pub const C1: u16 = 1 << 9;
    /// Condition code 2.
    pub const C2: u16 = 1 << 10;
    /// Condition code 3.
    pub const C3: u16 = 1 << 14;
    /// Busy: a copy of ES since the 387.
    pub const B: u16 = 1 << 15;
    /// The six exception flags that the control word can mask.
    pub const EXCEPTIONS: u16 = 0x3f;
    /// The exceptions found before anything is computed, whose unmasked answer leaves the operands alone.
    pub const BEFORE: u16 = IE | DE | ZE;
}

use status::{BEFORE, C1, DE, EXCEPTIONS, OE, PE, UE};

/// What the unmasked answer to overflow and underflow takes off or adds to the exponent (SDM volume 1, 8.5.4).
const BIAS_ADJUST: i32 = 24576;

/// The rounding control field (SDM volume 1, table 4-8).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RoundingMode {
    /// To the nearest, of two equally near the even one.
    Nearest,
    /// Toward -∞.
    Down,
    /// Toward +∞.
    Up,
    /// Toward zero.
    Truncate,
}

/// The control word (SDM volume 1, 8.1.5) as the arithmetic wants it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Control(pub u16);

impl Control {
    /// The rounding mode.
    #[inline]
    pub const fn rounding(self) -> RoundingMode {
        match (self.0 >> 10) & 3 {
            0 => RoundingMode::Nearest,
            1 => RoundingMode::Down,
            2 => RoundingMode::Up,
            _ => RoundingMode::Truncate,
        }
    }

    /// The bits of significand that FADD, FSUB, FMUL, FDIV and FSQRT round to.
    #[inline]
    pub const fn precision_bits(self) -> u32 {
        match (self.0 >> 8) & 3 {
            0 => 24,
            2 => 53,
            // The reserved encoding behaves as 64 bits do.
            _ => 64,
        }
    }

    /// Whether it says to round to nearest and to 64 bits.
    #[inline]
    pub(super) const fn is_default(self) -> bool {
        self.0 & 0x0f00 == 0x0300
    }

    /// The same control word with the precision of 64 bits, for what the precision control does not reach.
    #[inline]
    pub const fn extended(self) -> Self {
        Self(self.0 | 0x300)
    }

    /// Those of `flags` that are exceptions and not masked.
    #[inline]
    pub const fn unmasked(self, flags: u16) -> u16 {
        flags & !self.0 & EXCEPTIONS
    }

    /// With these exceptions masked.
    pub(super) const fn masking(self, flags: u16) -> Self {
        Self(self.0 | flags & EXCEPTIONS)
    }
}

/// A result and the status word bits that it sets: exceptions, and C1 where it was rounded up.
///
/// Two scalars, so that it travels in two registers: on its way through memory, written in parts and read as a whole,
/// it would cost as much time as a multiplication.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    mantissa: u64,
    /// The sign and exponent below, the flags in the upper half.
    sign_exponent_flags: u32,
}

impl Outcome {
    /// A result that raises `flags`.
    #[inline]
    pub(super) const fn new(value: F80, flags: u16) -> Self {
        Self { mantissa: value.mantissa, sign_exponent_flags: value.sign_exponent as u32 | ((flags as u32) << 16) }
    }

    /// The value. Of no meaning where an unmasked exception was found before the computation.
    #[inline]
    pub(super) const fn value(self) -> F80 {
        F80 { mantissa: self.mantissa, sign_exponent: self.sign_exponent_flags as u16 }
    }

    /// Status word bits.
    #[inline]
    pub(super) const fn flags(self) -> u16 {
        (self.sign_exponent_flags >> 16) as u16
    }

    /// The same with `flags` raised besides.
    #[inline]
    pub(super) const fn with(self, flags: u16) -> Self {
        Self { sign_exponent_flags: self.sign_exponent_flags | ((flags as u32) << 16), ..self }
    }
}

/// Whether a magnitude grows by one in its last place, of which the discarded part is `rest` / 2^64.
#[inline]
pub(super) fn rounds_up(mode: RoundingMode, negative: bool, odd: bool, rest: u64) -> bool {
    match mode {
        RoundingMode::Nearest => rest > INTEGER_BIT || (rest == INTEGER_BIT && odd),
        RoundingMode::Down => negative && rest != 0,
        RoundingMode::Up => !negative && rest != 0,
        RoundingMode::Truncate => false,
    }
}

/// `value` / 2^`shift`, with the lowest bit set if any bit was lost: enough for any later rounding.
#[inline]
pub(super) const fn shift_right_jam(value: u128, shift: u32) -> u128 {
    if shift == 0 {
        value
    } else if shift < 128 {
        (value >> shift) | (value << (128 - shift) != 0) as u128
    } else {
        (value != 0) as u128
    }
}

/// A significand of 64 bits rounded to fewer.
#[derive(Clone, Copy)]
struct Rounded {
    significand: u64,
    /// It passed 2^64: `significand` is then 0.
    carry: bool,
    inexact: bool,
    up: bool,
}

/// Rounds `significand` + `rest` / 2^64 to the topmost `bits` of the 64 places, be they filled or not.
#[inline]
fn round_places(mode: RoundingMode, negative: bool, bits: u32, significand: u64, rest: u64) -> Rounded {
    if bits >= 64 {
        let up = rounds_up(mode, negative, significand & 1 != 0, rest);
        let (sum, carry) = significand.overflowing_add(up as u64);
        return Rounded { significand: sum, carry, inexact: rest != 0, up };
    }
    let dropped_bits = 64 - bits;
    let unit = 1u64 << dropped_bits;
    let dropped = (significand << bits) | (rest != 0) as u64;
    let kept = significand & !(unit - 1);
    let up = rounds_up(mode, negative, kept & unit != 0, dropped);
    let (sum, carry) = kept.overflowing_add(if up { unit } else { 0 });
    Rounded { significand: sum, carry, inexact: dropped != 0, up }
}

/// Rounds a finite number other than zero, of normalised significand `significand` + `rest` / 2^64 (any bit of `rest`
/// may stand for all that are below it) and of any exponent, to a register.
#[inline]
pub(super) fn round_pack(control: Control, negative: bool, exponent: i32, significand: u64, rest: u64) -> Outcome {
    // Nearly all programs leave the rounding and the precision as FNINIT sets them.
    if control.is_default() && exponent > 0 && exponent < EXPONENT_MAX as i32 - 1 {
        let up = rest > INTEGER_BIT || (rest == INTEGER_BIT && significand & 1 != 0);
        let (sum, carry) = significand.overflowing_add(up as u64);
        let flags = if rest != 0 { PE | ((up as u16) * C1) } else { 0 };
        return Outcome::new(F80::new(negative, exponent as u16 + carry as u16, sum | INTEGER_BIT), flags);
    }
    round_pack_as_controlled(control, negative, exponent, significand, rest)
}

#[inline(never)]
fn round_pack_as_controlled(control: Control, negative: bool, exponent: i32, significand: u64, rest: u64) -> Outcome {
    let rounded = round_places(control.rounding(), negative, control.precision_bits(), significand, rest);
    // One less than the largest, for the carry.
    if exponent > 0 && exponent < EXPONENT_MAX as i32 - 1 {
        let exponent = exponent as u16 + rounded.carry as u16;
        // A carry leaves zeros, and so just the integer bit.
        let significand = rounded.significand | INTEGER_BIT;
        let flags = if rounded.inexact { PE | if rounded.up { C1 } else { 0 } } else { 0 };
        return Outcome::new(F80::new(negative, exponent, significand), flags);
    }
    round_pack_extreme(control, negative, exponent, significand, rest, rounded)
}

#[cold]
#[inline(never)]
fn round_pack_extreme(
    control: Control,
    negative: bool,
    exponent: i32,
    significand: u64,
    rest: u64,
    rounded: Rounded,
) -> Outcome {
    let mode = control.rounding();
    let inexact = if rounded.inexact { PE | if rounded.up { C1 } else { 0 } } else { 0 };
    let after = exponent.saturating_add(rounded.carry as i32);
    let normal = |exponent: i32, flags: u16| {
        Outcome::new(F80::new(negative, exponent as u16, rounded.significand | INTEGER_BIT), flags)
    };
    if after >= EXPONENT_MAX as i32 {
        if control.unmasked(OE) != 0 {
            let adjusted = after - BIAS_ADJUST;
            if adjusted >= EXPONENT_MAX as i32 {
                // Massive overflow, of FSCALE only.
                return Outcome::new(F80::infinity(negative), OE | PE | C1);
            }
            return normal(adjusted, OE | inexact);
        }
        let to_infinity = match mode {
            RoundingMode::Nearest => true,
            RoundingMode::Down => negative,
            RoundingMode::Up => !negative,
            RoundingMode::Truncate => false,
        };
        if to_infinity {
            return Outcome::new(F80::infinity(negative), OE | PE | C1);
        }
        let largest = u64::MAX << (64 - control.precision_bits());
        return Outcome::new(F80::new(negative, EXPONENT_MAX - 1, largest), OE | PE);
    }
    if after > 0 {
        return normal(after, inexact);
    }
    // Tiny, which on this processor is judged after the rounding to unbounded exponent (SDM volume 1, 4.9.1.5).
    if control.unmasked(UE) != 0 {
        let adjusted = after + BIAS_ADJUST;
        if adjusted <= 0 {
            return Outcome::new(F80::zero(negative), UE | PE);
        }
        return normal(adjusted, UE | inexact);
    }
    let shift = (1i64 - exponent as i64).clamp(0, 255) as u32;
    let wide = shift_right_jam(((significand as u128) << 64) | rest as u128, shift);
    let denormal = round_places(mode, negative, control.precision_bits(), (wide >> 64) as u64, wide as u64);
    // Rounded up to the smallest normal number, its integer bit is its exponent's.
    let exponent = (denormal.significand >> 63) as u16;
    let flags = if denormal.inexact { UE | PE | if denormal.up { C1 } else { 0 } } else { 0 };
    Outcome::new(F80::new(negative, exponent, denormal.significand), flags)
}

/// The answer to operands of which one is denormal, if unmasked #D ends the instruction before it computes.
#[inline]
pub(super) const fn denormal_stops(control: Control) -> bool {
    control.unmasked(DE) != 0
}

/// Whether `flags` hold an unmasked exception that leaves the destination alone.
#[inline]
pub(super) const fn stops(control: Control, flags: u16) -> bool {
    control.unmasked(flags & BEFORE) != 0
}
