//! Conversions between the register format and what memory holds (SDM volume 1, 8.1.2, 8.2.1, 8.3.3).

use super::arith::INVALID;
use super::f80::{BIAS, Class, EXPONENT_MAX, F80, INTEGER_BIT};
use super::round::status::{C1, DE, IE, OE, PE, UE};
use super::round::{Control, Outcome, RoundingMode, rounds_up, shift_right_jam};

/// A binary interchange format of memory operands.
#[derive(Clone, Copy)]
struct Format {
    bits: u32,
    fraction_bits: u32,
    exponent_max: u32,
    bias: i32,
}

const SINGLE: Format = Format { bits: 32, fraction_bits: 23, exponent_max: 0xff, bias: 127 };
const DOUBLE: Format = Format { bits: 64, fraction_bits: 52, exponent_max: 0x7ff, bias: 1023 };

#[inline]
fn load(format: Format, bits: u64) -> Outcome {
    let negative = bits >> (format.bits - 1) & 1 != 0;
    let exponent = (bits >> format.fraction_bits) as u32 & format.exponent_max;
    let fraction = (bits & ((1 << format.fraction_bits) - 1)) << (63 - format.fraction_bits);
    if exponent == format.exponent_max {
        let value = F80::new(negative, EXPONENT_MAX, INTEGER_BIT | fraction);
        let flags = if value.class() == Class::SignalingNan { IE } else { 0 };
        return Outcome::new(if fraction == 0 { value } else { value.quieted() }, flags);
    }
    if exponent != 0 {
        let exponent = (exponent as i32 - format.bias + BIAS) as u16;
        return Outcome::new(F80::new(negative, exponent, INTEGER_BIT | fraction), 0);
    }
    if fraction == 0 {
        return Outcome::new(F80::zero(negative), 0);
    }
    let shift = fraction.leading_zeros();
    let exponent = 1 - format.bias + BIAS - shift as i32;
    Outcome::new(F80::new(negative, exponent as u16, fraction << shift), DE)
}

/// The value of a single-precision operand, and #IA or #D as it deserves.
#[inline]
pub fn from_single(bits: u32) -> Outcome {
    load(SINGLE, bits as u64)
}

/// The value of a double-precision operand, and #IA or #D as it deserves.
#[inline]
pub fn from_double(bits: u64) -> Outcome {
    load(DOUBLE, bits)
}

/// The value of an integer, exactly.
#[inline]
pub fn from_integer(value: i64) -> F80 {
    if value == 0 {
        return F80::ZERO;
    }
    let magnitude = value.unsigned_abs();
    let shift = magnitude.leading_zeros();
    F80::new(value < 0, (BIAS + 63 - shift as i32) as u16, magnitude << shift)
}

/// Bits for memory and the status bits of the conversion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Converted {
    /// The operand's bits.
    pub bits: u64,
    /// Status word bits.
    pub flags: u16,
    /// An unmasked exception keeps the operand from being written at all (SDM volume 1, 8.5.4, 8.5.5).
    pub withheld: bool,
}

#[inline]
fn store(format: Format, control: Control, value: F80) -> Converted {
    let sign = (value.is_negative() as u64) << (format.bits - 1);
    let infinity = (format.exponent_max as u64) << format.fraction_bits;
    let done = |bits: u64, flags: u16| Converted { bits: sign | bits, flags, withheld: false };
    match value.class() {
        Class::Zero => return done(0, 0),
        Class::Infinity => return done(infinity, 0),
        Class::SignalingNan | Class::QuietNan => {
            let signaling = value.class() == Class::SignalingNan;
            let flags = if signaling { IE } else { 0 };
            let fraction = (value.quieted().mantissa & !INTEGER_BIT) >> (63 - format.fraction_bits);
            return Converted { bits: sign | infinity | fraction, flags, withheld: control.unmasked(flags) != 0 };
        }
        Class::Unsupported => {
            let indefinite = 1 << (format.bits - 1) | infinity | 1 << (format.fraction_bits - 1);
            return Converted { bits: indefinite, flags: IE, withheld: control.unmasked(IE) != 0 };
        }
        Class::Denormal | Class::Normal => {}
    }
    let (exponent, significand) = value.normalized();
    let exponent = exponent - BIAS + format.bias;
    let mode = control.rounding();
    // The integer bit stays, so that a carry out of the fraction counts the exponent up by itself.
    let round = |exponent: i32, significand: u64, sticky: bool| {
        let dropped_bits = 63 - format.fraction_bits;
        let kept = significand >> dropped_bits;
        let dropped = (significand << (64 - dropped_bits)) | sticky as u64;
        let up = rounds_up(mode, value.is_negative(), kept & 1 != 0, dropped);
        let flags = if dropped != 0 { PE | if up { C1 } else { 0 } } else { 0 };
        ((((exponent - 1) as u64) << format.fraction_bits) + kept + up as u64, flags)
    };
    if exponent > 0 {
        if exponent < format.exponent_max as i32 {
            let (bits, flags) = round(exponent, significand, false);
            if bits < infinity {
                return done(bits, flags);
            }
        }
        if control.unmasked(OE) != 0 {
            return Converted { bits: 0, flags: OE, withheld: true };
        }
        let to_infinity = rounds_up(mode, value.is_negative(), true, INTEGER_BIT);
        return done(infinity - !to_infinity as u64, OE | PE | if to_infinity { C1 } else { 0 });
    }
    // Tiny unless the rounding to unbounded exponent carries into the smallest normal exponent.
    let tiny = exponent < 0 || round(1, significand, false).0 >> format.fraction_bits == 1;
    let shift = 1i32.saturating_sub(exponent).min(255) as u32;
    let wide = shift_right_jam((significand as u128) << 64, shift);
    let (bits, flags) = round(1, (wide >> 64) as u64, wide as u64 != 0);
    if tiny && control.unmasked(UE) != 0 {
        return Converted { bits: 0, flags: UE, withheld: true };
    }
    done(bits, if flags != 0 && tiny { flags | UE } else { flags })
}

/// The value as a single-precision operand.
#[inline]
pub fn to_single(control: Control, value: F80) -> Converted {
    store(SINGLE, control, value)
}

/// The value as a double-precision operand.
#[inline]
pub fn to_double(control: Control, value: F80) -> Converted {
    store(DOUBLE, control, value)
}

/// The magnitude of a finite value rounded to an integer, which must stay below 2^64, and its flags.
fn integer_magnitude(mode: RoundingMode, value: F80) -> Option<(u64, u16)> {
    match value.class() {
        Class::Zero => return Some((0, 0)),
        Class::Denormal | Class::Normal => {}
        _ => return None,
    }
    let (exponent, significand) = value.normalized();
    if exponent > BIAS + 63 {
        return None;
    }
    let shift = (BIAS + 63 - exponent).clamp(0, 255) as u32;
    let wide = shift_right_jam((significand as u128) << 64, shift);
    let (whole, rest) = ((wide >> 64) as u64, wide as u64);
    let up = rounds_up(mode, value.is_negative(), whole & 1 != 0, rest);
    let flags = if rest != 0 { PE | if up { C1 } else { 0 } } else { 0 };
    Some((whole.checked_add(up as u64)?, flags))
}

/// The value as an integer of `bits` bits: FIST, and with `truncate` FISTTP. What does not fit is the integer
/// indefinite (SDM volume 1, 8.2.1).
pub fn to_integer(control: Control, value: F80, bits: u32, truncate: bool) -> Converted {
    let mode = if truncate { RoundingMode::Truncate } else { control.rounding() };
    let limit = 1u64.unbounded_shl(bits.saturating_sub(1));
    let fits = |magnitude: u64| magnitude < limit || (value.is_negative() && magnitude == limit);
    match integer_magnitude(mode, value) {
        Some((magnitude, flags)) if fits(magnitude) => {
            let bits = if value.is_negative() { magnitude.wrapping_neg() } else { magnitude };
            Converted { bits, flags, withheld: false }
        }
        _ => Converted { bits: limit, flags: IE, withheld: control.unmasked(IE) != 0 },
    }
}

/// The largest magnitude of eighteen decimal digits.
const DECIMAL_MAX: u64 = 999_999_999_999_999_999;
/// The packed decimal indefinite (SDM volume 1, table 4-4).
const DECIMAL_INDEFINITE: u128 = 0xffff_c000_0000_0000_0000;

/// The value as a packed decimal of ten bytes: FBSTP. The bits, the status bits and whether the store is withheld.
pub fn to_decimal(control: Control, value: F80) -> (u128, u16, bool) {
    let Some((mut magnitude, flags)) =
        integer_magnitude(control.rounding(), value).filter(|&(magnitude, _)| magnitude <= DECIMAL_MAX)
    else {
        return (DECIMAL_INDEFINITE, IE, control.unmasked(IE) != 0);
    };
    let mut bits = (value.is_negative() as u128) << 79;
    for digit in 0..18 {
        bits |= ((magnitude % 10) as u128) << (4 * digit);
        magnitude /= 10;
    }
    (bits, flags, false)
}

/// The value of a packed decimal: FBLD. Digits above nine count as what they are, as the hardware does.
pub fn from_decimal(bits: u128) -> F80 {
    let magnitude =
        (0..18).rev().fold(0u64, |sum, digit| sum.wrapping_mul(10).wrapping_add((bits >> (4 * digit)) as u64 & 0xf));
    let negative = bits >> 79 & 1 != 0;
    let value = from_integer(magnitude as i64);
    if negative { value.negated() } else { value }
}

/// The value rounded to an integer in the register format: FRNDINT.
pub fn round_to_integer(control: Control, value: F80) -> Outcome {
    match value.class() {
        Class::Zero | Class::Infinity | Class::QuietNan => return Outcome::new(value, 0),
        Class::SignalingNan => return Outcome::new(value.quieted(), IE),
        Class::Unsupported => return INVALID,
        Class::Denormal if control.unmasked(DE) != 0 => return Outcome::new(value, DE),
        Class::Denormal | Class::Normal => {}
    }
    let denormal = if value.class() == Class::Denormal { DE } else { 0 };
    let (exponent, significand) = value.normalized();
    if exponent >= BIAS + 63 {
        return Outcome::new(value, denormal);
    }
    let shift = (BIAS + 63).saturating_sub(exponent).min(255) as u32;
    let wide = shift_right_jam((significand as u128) << 64, shift);
    let (whole, rest) = ((wide >> 64) as u64, wide as u64);
    let up = rounds_up(control.rounding(), value.is_negative(), whole & 1 != 0, rest);
    let flags = if rest != 0 { PE | if up { C1 } else { 0 } } else { 0 };
    let rounded = from_integer(whole.wrapping_add(up as u64) as i64);
    let result = F80 { sign_exponent: rounded.exponent() | (value.sign_exponent & 0x8000), ..rounded };
    Outcome::new(result, flags | denormal)
}
