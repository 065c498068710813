//! Addition, subtraction, multiplication, division and square root (SDM volume 1, 8.3.5).

use super::f80::{BIAS, Class, F80, INTEGER_BIT};
use super::round::status::{DE, IE, ZE};
use super::round::{Control, Outcome, RoundingMode, denormal_stops, round_pack, shift_right_jam};

/// The answer to an invalid operation.
pub(super) const INVALID: Outcome = Outcome::new(F80::INDEFINITE, IE);

/// What NaNs and unsupported encodings make of two operands, if one of them is such (SDM volume 1, table 4-7).
#[cold]
pub(super) fn nan_operands(a: F80, b: F80) -> Option<Outcome> {
    let (class_a, class_b) = (a.class(), b.class());
    if class_a == Class::Unsupported || class_b == Class::Unsupported {
        return Some(INVALID);
    }
    let is_nan = |class| matches!(class, Class::SignalingNan | Class::QuietNan);
    let signaling_a = class_a == Class::SignalingNan;
    let signaling_b = class_b == Class::SignalingNan;
    let flags = if signaling_a || signaling_b { IE } else { 0 };
    let value = match (is_nan(class_a), is_nan(class_b)) {
        (false, false) => return None,
        (true, false) => a,
        (false, true) => b,
        // Of a quiet and a signalling NaN the quiet one is the answer.
        (true, true) if signaling_a != signaling_b => {
            if signaling_a {
                b
            } else {
                a
            }
        }
        (true, true) if a.mantissa != b.mantissa => {
            if a.mantissa > b.mantissa {
                a
            } else {
                b
            }
        }
        (true, true) => {
            if a.is_negative() {
                b
            } else {
                a
            }
        }
    };
    Some(Outcome::new(value.quieted(), flags))
}

/// What a NaN or an unsupported encoding makes of a single operand.
pub(super) fn nan_operand(a: F80) -> Option<Outcome> {
    match a.class() {
        Class::Unsupported => Some(INVALID),
        Class::SignalingNan => Some(Outcome::new(a.quieted(), IE)),
        Class::QuietNan => Some(Outcome::new(a, 0)),
        Class::Zero | Class::Denormal | Class::Normal | Class::Infinity => None,
    }
}

/// #D if one of the operands is denormal.
#[inline]
pub(super) fn denormal_flag(a: F80, b: F80) -> u16 {
    if a.class() == Class::Denormal || b.class() == Class::Denormal { DE } else { 0 }
}

/// `significand` / 2^`distance` as a whole and a fraction of 2^64, with the lowest bit set if any bit was lost.
#[inline]
fn aligned(significand: u64, distance: u32) -> (u64, u64) {
    match distance {
        0 => (significand, 0),
        1..64 => (significand >> distance, significand << (64 - distance)),
        64..128 => (0, shift_right_jam((significand as u128) << 64, distance) as u64),
        _ => (0, 1),
    }
}

/// The sum of two magnitudes of given signs, both normalised.
#[inline]
fn sum(control: Control, a_negative: bool, a: (i32, u64), b_negative: bool, b: (i32, u64)) -> Outcome {
    let b_larger = b.0 > a.0 || (b.0 == a.0 && b.1 > a.1);
    let (negative, large, small) = if b_larger { (b_negative, b, a) } else { (a_negative, a, b) };
    let (whole, fraction) = aligned(small.1, large.0.wrapping_sub(small.0) as u32);
    if a_negative == b_negative {
        let (sum, carry) = large.1.overflowing_add(whole);
        if !carry {
            return round_pack(control, negative, large.0, sum, fraction);
        }
        let fraction = (fraction >> 1) | (fraction & 1) | (sum << 63);
        return round_pack(control, negative, large.0.wrapping_add(1), (sum >> 1) | INTEGER_BIT, fraction);
    }
    let difference = large.1.wrapping_sub(whole).wrapping_sub((fraction != 0) as u64);
    let fraction = fraction.wrapping_neg();
    if difference & INTEGER_BIT != 0 {
        return round_pack(control, negative, large.0, difference, fraction);
    }
    let wide = ((difference as u128) << 64) | fraction as u128;
    if wide == 0 {
        return Outcome::new(F80::zero(control.rounding() == RoundingMode::Down), 0);
    }
    let shift = wide.leading_zeros();
    let wide = wide << shift;
    round_pack(control, negative, large.0.wrapping_sub(shift as i32), (wide >> 64) as u64, wide as u64)
}

/// `a` + `b`: FADD.
#[inline]
pub fn add(control: Control, a: F80, b: F80) -> Outcome {
    if a.is_normal() && b.is_normal() {
        let left = (a.exponent() as i32, a.mantissa);
        let right = (b.exponent() as i32, b.mantissa);
        return sum(control, a.is_negative(), left, b.is_negative(), right);
    }
    add_special(control, a, b, false)
}

/// `a` - `b`: FSUB.
#[inline]
pub fn subtract(control: Control, a: F80, b: F80) -> Outcome {
    if a.is_normal() && b.is_normal() {
        let left = (a.exponent() as i32, a.mantissa);
        let right = (b.exponent() as i32, b.mantissa);
        return sum(control, a.is_negative(), left, !b.is_negative(), right);
    }
    add_special(control, a, b, true)
}

#[cold]
#[inline(never)]
fn add_special(control: Control, a: F80, b: F80, negate_b: bool) -> Outcome {
    // A NaN keeps its sign, so the subtrahend's changes only after the NaNs are dealt with.
    if let Some(outcome) = nan_operands(a, b) {
        return outcome;
    }
    let b = if negate_b { b.negated() } else { b };
    let (class_a, class_b) = (a.class(), b.class());
    if class_a == Class::Infinity && class_b == Class::Infinity && a.is_negative() != b.is_negative() {
        return INVALID;
    }
    let flags = denormal_flag(a, b);
    if flags != 0 && denormal_stops(control) {
        return Outcome::new(a, flags);
    }
    let outcome = match (class_a, class_b) {
        (Class::Infinity, _) => Outcome::new(a, 0),
        (_, Class::Infinity) => Outcome::new(b, 0),
        (Class::Zero, Class::Zero) => {
            let negative = if a.is_negative() == b.is_negative() {
                a.is_negative()
            } else {
                control.rounding() == RoundingMode::Down
            };
            Outcome::new(F80::zero(negative), 0)
        }
        (Class::Zero, _) => rounded(control, b),
        (_, Class::Zero) => rounded(control, a),
        _ => sum(control, a.is_negative(), a.normalized(), b.is_negative(), b.normalized()),
    };
    outcome.with(flags)
}

/// A finite number other than zero, rounded to the precision of the control word.
pub(super) fn rounded(control: Control, a: F80) -> Outcome {
    let (exponent, significand) = a.normalized();
    round_pack(control, a.is_negative(), exponent, significand, 0)
}

#[inline]
fn product(control: Control, negative: bool, a: (i32, u64), b: (i32, u64)) -> Outcome {
    let wide = a.1 as u128 * b.1 as u128;
    let shift = wide.leading_zeros();
    let wide = wide << shift;
    let exponent = a.0.wrapping_add(b.0).wrapping_sub(BIAS - 1 + shift as i32);
    round_pack(control, negative, exponent, (wide >> 64) as u64, wide as u64)
}

/// `a` × `b`: FMUL.
#[inline]
pub fn multiply(control: Control, a: F80, b: F80) -> Outcome {
    let negative = (a.sign_exponent ^ b.sign_exponent) & 0x8000 != 0;
    if a.is_normal() && b.is_normal() {
        return product(control, negative, (a.exponent() as i32, a.mantissa), (b.exponent() as i32, b.mantissa));
    }
    multiply_special(control, negative, a, b)
}

#[cold]
#[inline(never)]
fn multiply_special(control: Control, negative: bool, a: F80, b: F80) -> Outcome {
    if let Some(outcome) = nan_operands(a, b) {
        return outcome;
    }
    let (class_a, class_b) = (a.class(), b.class());
    if matches!((class_a, class_b), (Class::Infinity, Class::Zero) | (Class::Zero, Class::Infinity)) {
        return INVALID;
    }
    let flags = denormal_flag(a, b);
    if flags != 0 && denormal_stops(control) {
        return Outcome::new(a, flags);
    }
    let outcome = match (class_a, class_b) {
        (Class::Infinity, _) | (_, Class::Infinity) => Outcome::new(F80::infinity(negative), 0),
        (Class::Zero, _) | (_, Class::Zero) => Outcome::new(F80::zero(negative), 0),
        _ => product(control, negative, a.normalized(), b.normalized()),
    };
    outcome.with(flags)
}

#[inline]
fn quotient(control: Control, negative: bool, a: (i32, u64), b: (i32, u64)) -> Outcome {
    // Chosen so that the quotient has its integer bit in bit 63.
    let less = a.1 < b.1;
    let dividend = (a.1 as u128) << if less { 64 } else { 63 };
    let divisor = b.1 as u128;
    // A normalised divisor is not zero.
    let Some(quotient) = dividend.checked_div(divisor) else { return INVALID };
    let remainder = dividend.wrapping_sub(quotient.wrapping_mul(divisor));
    let rest = match (remainder << 1).cmp(&divisor) {
        _ if remainder == 0 => 0,
        std::cmp::Ordering::Less => 1,
        std::cmp::Ordering::Equal => INTEGER_BIT,
        std::cmp::Ordering::Greater => INTEGER_BIT | 1,
    };
    let exponent = a.0.wrapping_sub(b.0).wrapping_add(BIAS - less as i32);
    round_pack(control, negative, exponent, quotient as u64, rest)
}

/// `a` / `b`: FDIV.
#[inline]
pub fn divide(control: Control, a: F80, b: F80) -> Outcome {
    let negative = (a.sign_exponent ^ b.sign_exponent) & 0x8000 != 0;
    if a.is_normal() && b.is_normal() {
        return quotient(control, negative, (a.exponent() as i32, a.mantissa), (b.exponent() as i32, b.mantissa));
    }
    divide_special(control, negative, a, b)
}

#[cold]
#[inline(never)]
fn divide_special(control: Control, negative: bool, a: F80, b: F80) -> Outcome {
    if let Some(outcome) = nan_operands(a, b) {
        return outcome;
    }
    let (class_a, class_b) = (a.class(), b.class());
    match (class_a, class_b) {
        (Class::Infinity, Class::Infinity) | (Class::Zero, Class::Zero) => return INVALID,
        (Class::Normal | Class::Denormal, Class::Zero) => return Outcome::new(F80::infinity(negative), ZE),
        _ => {}
    }
    let flags = denormal_flag(a, b);
    if flags != 0 && denormal_stops(control) {
        return Outcome::new(a, flags);
    }
    let outcome = match (class_a, class_b) {
        (Class::Infinity, _) => Outcome::new(F80::infinity(negative), 0),
        (Class::Zero, _) | (_, Class::Infinity) => Outcome::new(F80::zero(negative), 0),
        _ => quotient(control, negative, a.normalized(), b.normalized()),
    };
    outcome.with(flags)
}

/// The integer square root of a number of at least 2^126, and what the number has above its square.
#[inline]
fn integer_square_root(number: u128) -> (u64, i128) {
    const TWO_TO_30: f64 = 1_073_741_824.0;
    const TWO_TO_63: f64 = 9_223_372_036_854_775_808.0;
    let over_square = |root: u64| number.wrapping_sub((root as u128).wrapping_mul(root as u128)) as i128;
    // Correct to some 52 bits; one Newton step on the exact remainder then leaves an error of at most one.
    // Half the root, and half the number, since processors convert signed integers quickest.
    let half = ((number >> 65) as i64 as f64 * TWO_TO_63).sqrt();
    let estimate = ((half as i64 as u64) << 1).max(INTEGER_BIT);
    let slope = TWO_TO_30 / half;
    let correction = ((over_square(estimate) >> 32) as i64 as f64 * slope) as i64;
    let mut root = estimate.saturating_add_signed(correction);
    let mut rest = over_square(root);
    // Twice each way is more than the error can be.
    for _ in 0..2 {
        if rest < 0 {
            rest = rest.wrapping_add(2 * root as i128 - 1);
            root = root.wrapping_sub(1);
        }
    }
    for _ in 0..2 {
        if rest > 2 * root as i128 {
            root = root.wrapping_add(1);
            rest = rest.wrapping_sub(2 * root as i128 - 1);
        }
    }
    (root, rest)
}

/// The square root: FSQRT.
#[inline]
pub fn square_root(control: Control, a: F80) -> Outcome {
    let mut flags = 0;
    if !a.is_normal() {
        if let Some(outcome) = nan_operand(a) {
            return outcome;
        }
        if a.class() == Class::Zero {
            return Outcome::new(a, 0);
        }
    }
    if a.is_negative() {
        return INVALID;
    }
    match a.class() {
        Class::Infinity => return Outcome::new(a, 0),
        Class::Denormal if denormal_stops(control) => return Outcome::new(a, DE),
        Class::Denormal => flags = DE,
        _ => {}
    }
    let (exponent, significand) = a.normalized();
    let power = exponent.wrapping_sub(BIAS);
    // An even power of two, and a radicand in [2^126, 2^128).
    let radicand = (significand as u128) << if power & 1 == 0 { 63 } else { 64 };
    let (root, remainder) = integer_square_root(radicand);
    let rest = match remainder {
        0 => 0,
        // Half a unit more squared is root² + root + 1/4, which no integer equals.
        r if r <= root as i128 => 1,
        _ => INTEGER_BIT | 1,
    };
    round_pack(control, false, (power >> 1).wrapping_add(BIAS), root, rest).with(flags)
}
