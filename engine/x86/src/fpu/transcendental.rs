//! F2XM1, FYL2X, FYL2XP1, FPATAN, FSIN, FCOS, FSINCOS and FPTAN (SDM volume 1, 8.3.7 to 8.3.10).
//!
//! The results are those of exact arithmetic, rounded as the rounding control says, to 64 bits whatever the precision
//! control says. Hardware promises them within 1 ulp. Arguments of the trigonometric instructions are reduced by the
//! 66-bit π of SDM volume 1, 8.3.8, as programs may rely on. As on hardware, #P comes with every result that was
//! computed, even where it happens to be exact.

use super::arith::{INVALID, denormal_flag, nan_operand, nan_operands};
use super::f80::{BIAS, Class, F80, INTEGER_BIT};
use super::round::{Control, Outcome, denormal_stops};
use super::series;
use super::status::{C1, DE, PE, UE, ZE};
use super::wide::Wide;
use std::cmp::Ordering;

/// π/2 of 66 bits, in units of 2^-65.
const HALF_PI_UNITS: u128 = 0x3_243f_6a88_85a3_08d3;

/// 2^x - 1: F2XM1. Beyond -1 to 1, where the result is undefined, it is x.
pub fn exp2_minus_1(control: Control, a: F80) -> Outcome {
    if let Some(outcome) = nan_operand(a) {
        return outcome;
    }
    match a.class() {
        Class::Infinity if a.is_negative() => return Outcome::new(F80::ONE.negated(), 0),
        Class::Zero | Class::Infinity => return Outcome::new(a, 0),
        Class::Denormal if denormal_stops(control) => return Outcome::new(a, DE),
        _ => {}
    }
    let flags = if a.class() == Class::Denormal { DE } else { 0 };
    let x = Wide::from_register(a);
    if x.exponent >= 0 {
        let minus_1 = a == F80::ONE.negated();
        return Outcome::new(if minus_1 { F80::new(true, BIAS as u16 - 1, INTEGER_BIT) } else { a }, PE);
    }
    // The nearest thirty-second, whose power is known.
    let nearest = x.absolute().scaled(5).add(Wide::power_of_two(-1));
    let index = if nearest.exponent < 0 {
        0
    } else {
        nearest.significand.unbounded_shr(127u32.saturating_sub(nearest.exponent.unsigned_abs())).min(32) as usize
    };
    let step = Wide::from_units(a.is_negative(), index as u128, -5);
    let small = series::exponential_minus_1(x.subtract(step).multiply(Wide::LN_2));
    let result = if index == 0 {
        small
    } else {
        let power = if a.is_negative() {
            series::power_of_two_fraction(32usize.saturating_sub(index)).scaled(-1)
        } else {
            series::power_of_two_fraction(index)
        };
        power.subtract(Wide::ONE).add(power.multiply(small))
    };
    result.round_inexact(control).with(flags)
}

/// A base 2 logarithm.
enum Logarithm {
    /// Of a power of two.
    Exact(Wide),
    Inexact(Wide),
}

/// log2 x for x > 0.
fn log2(x: Wide) -> Logarithm {
    // √2 and above belong to the next power of two, so that the logarithm of the rest is at most a half.
    const SQRT_2: u128 = 0xb504_f333_f9de_6484_597d_89b3_754a_be9f;
    let up = x.significand >= SQRT_2;
    let power = x.exponent.saturating_add(up as i32);
    let magnitude = power.unsigned_abs() as u128;
    let whole = Wide::from_units(power < 0, magnitude, 0);
    if x.significand == 1 << 127 {
        return Logarithm::Exact(whole);
    }
    let rest = Wide { negative: false, exponent: -(up as i32), significand: x.significand };
    Logarithm::Inexact(whole.add(log2_near_1(rest.subtract(Wide::ONE), rest.add(Wide::ONE))))
}

/// log2 (1 + x) from x and 2 + x, for x near 0: 2 artanh (x / (2 + x)) in base 2.
fn log2_near_1(x: Wide, x_plus_2: Wide) -> Wide {
    series::inverse_hyperbolic_tangent(x.divide(x_plus_2)).scaled(1).multiply(Wide::LOG2_E)
}

/// `y` × a logarithm that is not zero, both finite.
fn times_logarithm(control: Control, y: F80, logarithm: Logarithm) -> Outcome {
    let y = Wide::from_register(y);
    match logarithm {
        Logarithm::Exact(whole) => {
            let outcome = y.multiply(whole).round_exact(control);
            // As it is held to be inexact, it is an underflow where it is tiny.
            outcome.with(if outcome.value().class() == Class::Denormal { PE | UE } else { PE })
        }
        Logarithm::Inexact(value) => y.multiply(value).round_inexact(control),
    }
}

/// ST(1) × log2 ST(0): FYL2X (SDM volume 2A, FYL2X).
pub fn y_log2_x(control: Control, x: F80, y: F80) -> Outcome {
    if let Some(outcome) = nan_operands(x, y) {
        return outcome;
    }
    let (class_x, class_y) = (x.class(), y.class());
    if x.is_negative() && class_x != Class::Zero {
        return INVALID;
    }
    let is_one = x == F80::ONE;
    match (class_x, class_y) {
        (Class::Zero | Class::Infinity, Class::Zero) => return INVALID,
        (_, Class::Infinity) if is_one => return INVALID,
        (Class::Zero, Class::Infinity) => return Outcome::new(F80::infinity(!y.is_negative()), 0),
        (Class::Zero, _) => return Outcome::new(F80::infinity(!y.is_negative()), ZE),
        _ => {}
    }
    let flags = denormal_flag(x, y);
    if flags != 0 && denormal_stops(control) {
        return Outcome::new(x, flags);
    }
    let below_1 = x.exponent() < BIAS as u16;
    let outcome = match (class_x, class_y) {
        (Class::Infinity, _) => Outcome::new(F80::infinity(y.is_negative()), 0),
        (_, Class::Infinity) => Outcome::new(F80::infinity(y.is_negative() != below_1), 0),
        (_, Class::Zero) => Outcome::new(F80::zero(y.is_negative() != below_1), 0),
        _ if is_one => Outcome::new(F80::zero(y.is_negative()), 0),
        _ => times_logarithm(control, y, log2(Wide::from_register(x))),
    };
    outcome.with(flags)
}

/// ST(1) × log2 (ST(0) + 1): FYL2XP1. Beyond ±(1 - √½), where the result is undefined, it is the right one above -1
/// and ST(0) from there down, as on hardware; -∞ is an invalid operand.
pub fn y_log2_x_plus_1(control: Control, x: F80, y: F80) -> Outcome {
    if let Some(outcome) = nan_operands(x, y) {
        return outcome;
    }
    let (class_x, class_y) = (x.class(), y.class());
    let negative = x.is_negative() != y.is_negative();
    if class_x == Class::Infinity && x.is_negative() {
        return INVALID;
    }
    if matches!((class_x, class_y), (Class::Zero, Class::Infinity) | (Class::Infinity, Class::Zero)) {
        return INVALID;
    }
    let flags = denormal_flag(x, y);
    if flags != 0 && denormal_stops(control) {
        return Outcome::new(x, flags);
    }
    let outcome = match (class_x, class_y) {
        (Class::Infinity, _) | (_, Class::Infinity) => Outcome::new(F80::infinity(negative), 0),
        (Class::Zero, _) | (_, Class::Zero) => Outcome::new(F80::zero(negative), 0),
        _ if x.is_negative() && x.exponent() >= BIAS as u16 => Outcome::new(x, PE),
        _ => {
            let wide = Wide::from_register(x);
            let logarithm = if wide.exponent < -2 {
                Logarithm::Inexact(log2_near_1(wide, wide.add(Wide::power_of_two(1))))
            } else {
                log2(wide.add(Wide::ONE))
            };
            times_logarithm(control, y, logarithm)
        }
    };
    outcome.with(flags)
}

/// The angle of the point (ST(0), ST(1)): FPATAN (SDM volume 2A, FPATAN).
pub fn arctangent(control: Control, x: F80, y: F80) -> Outcome {
    if let Some(outcome) = nan_operands(x, y) {
        return outcome;
    }
    let flags = denormal_flag(x, y);
    if flags != 0 && denormal_stops(control) {
        return Outcome::new(x, flags);
    }
    let negative = y.is_negative();
    let angle = |value: Wide| value.negated_if(negative).round_inexact(control).with(flags);
    match (x.class(), y.class()) {
        (Class::Infinity, Class::Infinity) if x.is_negative() => {
            return angle(Wide::PI.add(Wide::PI.scaled(1)).scaled(-2));
        }
        (Class::Infinity, Class::Infinity) => return angle(Wide::PI.scaled(-2)),
        (_, Class::Zero) | (Class::Infinity, _) if x.is_negative() => return angle(Wide::PI),
        (_, Class::Zero) | (Class::Infinity, _) => return Outcome::new(F80::zero(negative), flags),
        (_, Class::Infinity) | (Class::Zero, _) => return angle(Wide::PI.scaled(-1)),
        _ => {}
    }
    let (wide_x, wide_y) = (Wide::from_register(x).absolute(), Wide::from_register(y).absolute());
    let first = if wide_y.compare_magnitude(wide_x) == Ordering::Greater {
        Wide::PI.scaled(-1).subtract(series::arctangent(wide_x.divide(wide_y)))
    } else {
        series::arctangent(wide_y.divide(wide_x))
    };
    let outcome = angle(if x.is_negative() { Wide::PI.subtract(first) } else { first });
    if x == F80::ONE { of_denormal(control, y, outcome).with(flags) } else { outcome }
}

/// An argument of a trigonometric function.
enum Argument {
    /// A NaN, an infinity, or a denormal whose exception ends the instruction.
    Special(Outcome),
    Zero,
    /// 2^63 or more.
    OutOfRange,
    Reduced {
        /// How often π/2 was taken off, modulo 4.
        quadrant: u32,
        /// What is left, at most π/4 either way.
        rest: Wide,
        flags: u16,
    },
}

fn reduce(control: Control, a: F80) -> Argument {
    if let Some(outcome) = nan_operand(a) {
        return Argument::Special(outcome);
    }
    match a.class() {
        Class::Infinity => return Argument::Special(INVALID),
        Class::Zero => return Argument::Zero,
        Class::Denormal if denormal_stops(control) => return Argument::Special(Outcome::new(a, DE)),
        _ => {}
    }
    let (exponent, significand) = a.normalized();
    let power = exponent - BIAS;
    if power >= 63 {
        return Argument::OutOfRange;
    }
    let flags = if a.class() == Class::Denormal { DE } else { 0 };
    if power < -1 {
        return Argument::Reduced { quadrant: 0, rest: Wide::from_register(a), flags };
    }
    // In units of 2^-65, of which the argument is a whole number.
    let units = (significand as u128) << (power + 2);
    let mut quotient = units / HALF_PI_UNITS;
    let mut rest = units.wrapping_sub(quotient.wrapping_mul(HALF_PI_UNITS));
    let mut negative = a.is_negative();
    if rest > HALF_PI_UNITS / 2 {
        quotient = quotient.wrapping_add(1);
        rest = HALF_PI_UNITS.wrapping_sub(rest);
        negative = !negative;
    }
    let quadrant = (quotient & 3) as u32;
    let quadrant = if a.is_negative() { quadrant.wrapping_neg() & 3 } else { quadrant };
    Argument::Reduced { quadrant, rest: Wide::from_units(negative, rest, -65), flags }
}

/// sin of `rest` + `quadrant` × π/2.
fn sine_of(quadrant: u32, rest: Wide) -> Wide {
    let magnitude = if quadrant & 1 == 0 { series::sine(rest) } else { series::cosine(rest) };
    magnitude.negated_if(quadrant & 2 != 0)
}

/// A function that is its argument as nearly as can be, of a denormal argument: Intel's processors answer the argument
/// itself, however they round. It is held to be inexact, and to underflow if it still is denormal as a normal number.
fn of_denormal(control: Control, a: F80, outcome: Outcome) -> Outcome {
    let is_normal = a.mantissa & INTEGER_BIT != 0;
    match a.class() {
        Class::Denormal if is_normal => Outcome::new(F80::new(a.is_negative(), 1, a.mantissa), PE),
        Class::Denormal if control.unmasked(UE) == 0 => Outcome::new(a, PE | UE),
        _ => outcome,
    }
}

/// FSIN. `None` is an argument of 2^63 or more.
pub fn sine(control: Control, a: F80) -> Option<Outcome> {
    match reduce(control, a) {
        Argument::Special(outcome) => Some(outcome),
        Argument::Zero => Some(Outcome::new(a, 0)),
        Argument::OutOfRange => None,
        Argument::Reduced { quadrant, rest, flags } => {
            let sine = sine_of(quadrant, rest).round_inexact(control);
            Some(of_denormal(control, a, sine).with(flags))
        }
    }
}

/// FCOS.
pub fn cosine(control: Control, a: F80) -> Option<Outcome> {
    match reduce(control, a) {
        Argument::Special(outcome) => Some(outcome),
        Argument::Zero => Some(Outcome::new(F80::ONE, 0)),
        Argument::OutOfRange => None,
        Argument::Reduced { quadrant, rest, flags } => {
            Some(sine_of(quadrant.wrapping_add(1) & 3, rest).round_inexact(control).with(flags))
        }
    }
}

/// FSINCOS: the sine, with the flags of both, and the cosine that is pushed.
pub fn sine_cosine(control: Control, a: F80) -> Option<(Outcome, F80)> {
    match reduce(control, a) {
        Argument::Special(outcome) => Some((outcome, outcome.value())),
        Argument::Zero => Some((Outcome::new(a, 0), F80::ONE)),
        Argument::OutOfRange => None,
        Argument::Reduced { quadrant, rest, flags } => {
            let sine = of_denormal(control, a, sine_of(quadrant, rest).round_inexact(control));
            let cosine = sine_of(quadrant.wrapping_add(1) & 3, rest).round_inexact(control);
            // C1 can tell of only one of them, the sine.
            Some((sine.with((cosine.flags() & !C1) | flags), cosine.value()))
        }
    }
}

/// FPTAN: the tangent, and the 1 (or the NaN) that is pushed.
pub fn tangent(control: Control, a: F80) -> Option<(Outcome, F80)> {
    match reduce(control, a) {
        Argument::Special(outcome) => Some((outcome, outcome.value())),
        Argument::Zero => Some((Outcome::new(a, 0), F80::ONE)),
        Argument::OutOfRange => None,
        Argument::Reduced { quadrant, rest, flags } => {
            let value = if quadrant & 1 != 0 {
                series::cosine(rest).divide(series::sine(rest)).negated()
            } else if rest.exponent < -62 {
                // Just above the argument.
                Wide { significand: rest.significand | 1, ..rest }
            } else {
                series::sine(rest).divide(series::cosine(rest))
            };
            Some((of_denormal(control, a, value.round_inexact(control)).with(flags), F80::ONE))
        }
    }
}
