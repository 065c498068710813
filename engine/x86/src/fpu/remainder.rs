//! FPREM, FPREM1, FSCALE and FXTRACT: what works on the exponent (SDM volume 1, 8.3.5, and volume 2A).

use super::arith::{INVALID, denormal_flag, nan_operand, nan_operands};
use super::convert::from_integer;
use super::f80::{BIAS, Class, F80};
use super::round::status::{C0, C1, C2, C3, DE, UE, ZE};
use super::round::{Control, Outcome, denormal_stops, round_pack};

/// Which remainder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remainder {
    /// FPREM: the quotient is truncated.
    Truncating,
    /// FPREM1: the quotient is rounded to nearest, as IEEE 754 has it.
    Ieee,
}

/// The condition codes that report the low three bits of a quotient.
const fn quotient_codes(quotient: u64) -> u16 {
    let mut codes = 0;
    if quotient & 4 != 0 {
        codes |= C0;
    }
    if quotient & 2 != 0 {
        codes |= C3;
    }
    if quotient & 1 != 0 {
        codes |= C1;
    }
    codes
}

/// The remainder of `a` / `b`, or where the exponents are 64 or more apart a step toward it with C2 set. The second of
/// the two is C0 to C3, if they are to change.
pub fn remainder(control: Control, kind: Remainder, a: F80, b: F80) -> (Outcome, Option<u16>) {
    let control = control.extended();
    if let Some(outcome) = nan_operands(a, b) {
        return (outcome, None);
    }
    let (class_a, class_b) = (a.class(), b.class());
    if class_a == Class::Infinity || class_b == Class::Zero {
        return (INVALID, None);
    }
    let flags = denormal_flag(a, b);
    if flags != 0 && denormal_stops(control) {
        return (Outcome::new(a, flags), None);
    }
    if class_a == Class::Zero {
        return (Outcome::new(a, flags), Some(0));
    }
    let (outcome, codes) = finite_remainder(control, kind, a, b, class_b == Class::Infinity);
    (outcome.with(flags), Some(codes))
}

fn finite_remainder(control: Control, kind: Remainder, a: F80, b: F80, b_infinite: bool) -> (Outcome, u16) {
    let negative = a.is_negative();
    let (exponent_a, significand_a) = a.normalized();
    if b_infinite {
        // The dividend as it is, which is no underflow even where that is not masked.
        return (round_pack(control.masking(UE), negative, exponent_a, significand_a, 0), 0);
    }
    let whole = || round_pack(control, negative, exponent_a, significand_a, 0);
    let (exponent_b, significand_b) = b.normalized();
    let distance = exponent_a.wrapping_sub(exponent_b);
    let divisor = significand_b as u128;
    if distance >= 64 {
        // 32 to 63 steps, such that the last execution finds a distance below 64.
        let steps = (distance as u32 & 31) | 32;
        let rest = ((significand_a as u128) << steps).checked_rem(divisor).unwrap_or(0);
        return (remainder_pack(control, negative, exponent_a.wrapping_sub(steps as i32), rest as u64), C2);
    }
    // In units of the last place of the smaller exponent.
    let (unit_exponent, dividend, divisor) = match distance {
        0.. => (exponent_b, (significand_a as u128) << distance, divisor),
        -1 => (exponent_a, significand_a as u128, divisor << 1),
        _ => return (whole(), 0),
    };
    let quotient = dividend.checked_div(divisor).unwrap_or(0);
    let rest = dividend.wrapping_sub(quotient.wrapping_mul(divisor));
    let other = divisor.wrapping_sub(rest);
    if kind == Remainder::Ieee && (rest > other || (rest == other && quotient & 1 != 0)) {
        let codes = quotient_codes((quotient as u64).wrapping_add(1));
        return (remainder_pack(control, !negative, unit_exponent, other as u64), codes);
    }
    (remainder_pack(control, negative, unit_exponent, rest as u64), quotient_codes(quotient as u64))
}

/// A remainder in units of the last place of `exponent`. It is exact, but may be tiny.
fn remainder_pack(control: Control, negative: bool, exponent: i32, rest: u64) -> Outcome {
    if rest == 0 {
        // An IEEE remainder of zero never comes from the other side: its quotient was exact.
        return Outcome::new(F80::zero(negative), 0);
    }
    let shift = rest.leading_zeros();
    round_pack(control, negative, exponent.wrapping_sub(shift as i32), rest << shift, 0)
}

/// `a` × 2^⌊`b`⌋, truncated toward zero: FSCALE (SDM volume 2A, FSCALE).
pub fn scale(control: Control, a: F80, b: F80) -> Outcome {
    let control = control.extended();
    if let Some(outcome) = nan_operands(a, b) {
        return outcome;
    }
    let (class_a, class_b) = (a.class(), b.class());
    let flags = denormal_flag(a, b);
    if class_b == Class::Infinity {
        return match (b.is_negative(), class_a) {
            (false, Class::Zero) | (true, Class::Infinity) => INVALID,
            _ if flags != 0 && denormal_stops(control) => Outcome::new(a, flags),
            (false, _) => Outcome::new(F80::infinity(a.is_negative()), flags),
            (true, _) => Outcome::new(F80::zero(a.is_negative()), flags),
        };
    }
    if flags != 0 && denormal_stops(control) {
        return Outcome::new(a, flags);
    }
    if matches!(class_a, Class::Zero | Class::Infinity) {
        return Outcome::new(a, flags);
    }
    let (exponent, significand) = a.normalized();
    let amount = match b.exponent() as i32 - BIAS {
        ..0 => 0,
        // Far past every exponent there is.
        16.. => 0x1_0000,
        places => (b.mantissa >> (63 - places)) as i32,
    };
    let amount = if b.is_negative() { -amount } else { amount };
    round_pack(control, a.is_negative(), exponent.wrapping_add(amount), significand, 0).with(flags)
}

/// What FXTRACT makes of its operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extracted {
    /// The unbiased exponent, which takes the operand's place.
    pub exponent: F80,
    /// The significand, which is pushed.
    pub significand: F80,
    /// Status word bits.
    pub flags: u16,
}

/// The exponent and the significand of `a`: FXTRACT.
pub fn extract(control: Control, a: F80) -> Extracted {
    if let Some(outcome) = nan_operand(a) {
        return Extracted { exponent: outcome.value(), significand: outcome.value(), flags: outcome.flags() };
    }
    match a.class() {
        Class::Zero => return Extracted { exponent: F80::infinity(true), significand: a, flags: ZE },
        Class::Infinity => return Extracted { exponent: F80::infinity(false), significand: a, flags: 0 },
        Class::Denormal if denormal_stops(control) => return Extracted { exponent: a, significand: a, flags: DE },
        _ => {}
    }
    let flags = if a.class() == Class::Denormal { DE } else { 0 };
    let (exponent, significand) = a.normalized();
    Extracted {
        exponent: from_integer((exponent - BIAS) as i64),
        significand: F80::new(a.is_negative(), BIAS as u16, significand),
        flags,
    }
}
