//! Floating point in integers: all roundings, all operands, all exceptions.

use super::mxcsr::exception::{DE, IE, OE, PE, UE, ZE};
use super::mxcsr::{Mxcsr, Rounding};

/// A format, by the bits of which a lane consists.
pub(super) trait Format: Copy + Eq + Into<u64> {
    /// Bits of the fraction.
    const FRACTION: u32;
    /// Bits of the exponent.
    const EXPONENT: u32;
    /// The low bits.
    fn truncate(bits: u64) -> Self;

    /// The exponent's bias, also the greatest exponent.
    const BIAS: i32 = (1 << (Self::EXPONENT - 1)) - 1;
    const SIGN: u64 = 1 << (Self::EXPONENT + Self::FRACTION);
    const INFINITY: u64 = ((1 << Self::EXPONENT) - 1) << Self::FRACTION;
    const QUIET: u64 = 1 << (Self::FRACTION - 1);
    /// The NaN that invalid operations produce.
    const DEFAULT_NAN: u64 = Self::SIGN | Self::INFINITY | Self::QUIET;
}

impl Format for u32 {
    const FRACTION: u32 = 23;
    const EXPONENT: u32 = 8;
    #[inline(always)]
    fn truncate(bits: u64) -> Self {
        bits as u32
    }
}

impl Format for u64 {
    const FRACTION: u32 = 52;
    const EXPONENT: u32 = 11;
    #[inline(always)]
    fn truncate(bits: u64) -> Self {
        bits
    }
}

/// A result and the exceptions on the way to it.
pub(super) type Flagged<F> = (F, u32);

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    Zero,
    Finite,
    Infinite,
    Quiet,
    Signaling,
}

/// An operand taken apart.
#[derive(Clone, Copy)]
pub(super) struct Parts {
    pub(super) negative: bool,
    pub(super) class: Class,
    /// Of a finite number: the value is `significand * 2^(exponent - 63)`.
    pub(super) exponent: i32,
    /// Of a finite number: bit 63 is set.
    pub(super) significand: u64,
    /// DE, for a denormal number.
    pub(super) denormal: u32,
}

impl Parts {
    pub(super) fn of<F: Format>(v: F, mxcsr: Mxcsr) -> Self {
        let bits: u64 = v.into();
        let fraction = bits & ((1 << F::FRACTION) - 1);
        let exponent = (bits & F::INFINITY) >> F::FRACTION;
        let mut parts =
            Self { negative: bits & F::SIGN != 0, class: Class::Finite, exponent: 0, significand: 0, denormal: 0 };
        if exponent == F::INFINITY >> F::FRACTION {
            parts.class = match fraction {
                0 => Class::Infinite,
                f if f & F::QUIET != 0 => Class::Quiet,
                _ => Class::Signaling,
            };
        } else if exponent != 0 {
            parts.significand = 1 << 63 | fraction << (63 - F::FRACTION);
            parts.exponent = exponent as i32 - F::BIAS;
        } else if fraction == 0 || mxcsr.denormals_are_zeros() {
            parts.class = Class::Zero;
        } else {
            let zeros = fraction.leading_zeros();
            parts.significand = fraction << zeros;
            parts.exponent = 1 - F::BIAS + (63 - F::FRACTION as i32) - zeros as i32;
            parts.denormal = DE;
        }
        parts
    }

    pub(super) fn is_nan(self) -> bool {
        matches!(self.class, Class::Quiet | Class::Signaling)
    }
}

fn zero<F: Format>(negative: bool) -> F {
    F::truncate(if negative { F::SIGN } else { 0 })
}

fn infinity<F: Format>(negative: bool) -> F {
    F::truncate(F::INFINITY | if negative { F::SIGN } else { 0 })
}

fn invalid<F: Format>() -> Flagged<F> {
    (F::truncate(F::DEFAULT_NAN), IE)
}

pub(super) fn quiet<F: Format>(v: F) -> F {
    F::truncate(v.into() | F::QUIET)
}

/// The result if an operand is a NaN: the first that is one.
fn nan<F: Format>(a: F, b: F, x: Parts, y: Parts) -> Option<Flagged<F>> {
    if !x.is_nan() && !y.is_nan() {
        return None;
    }
    let signaling = x.class == Class::Signaling || y.class == Class::Signaling;
    Some((quiet(if x.is_nan() { a } else { b }), if signaling { IE } else { 0 }))
}

/// Right by a count, with a lowest bit that remembers whether ones were lost.
fn shift_sticky(v: u128, count: u32) -> u128 {
    match count {
        0 => v,
        1..128 => v >> count | u128::from(v << (128 - count) != 0),
        _ => u128::from(v != 0),
    }
}

/// The significand without its low `drop` bits, rounded, and whether that is inexact.
pub(super) fn round_off(significand: u64, drop: u32, negative: bool, rounding: Rounding) -> (u64, bool) {
    if drop == 0 {
        return (significand, false);
    }
    let kept = significand.checked_shr(drop).unwrap_or(0);
    let (rest, half) =
        if drop >= 64 { (significand, 1 << 63) } else { (significand & ((1 << drop) - 1), 1 << (drop - 1)) };
    let up = match rounding {
        // More than 64 bits away the value is below the half; exactly 64 away it compares as it is.
        Rounding::Nearest => drop <= 64 && (rest > half || rest == half && kept & 1 == 1),
        Rounding::Down => negative && rest != 0,
        Rounding::Up => !negative && rest != 0,
        Rounding::Zero => false,
    };
    (kept + u64::from(up), rest != 0)
}

/// Rounds `significand * 2^(exponent - 63)`, whose bit 63 is set and whose bit 0 is sticky.
pub(super) fn pack<F: Format>(negative: bool, exponent: i32, significand: u64, mxcsr: Mxcsr) -> Flagged<F> {
    let rounding = mxcsr.rounding();
    let sign = if negative { F::SIGN } else { 0 };
    let drop = 63 - F::FRACTION;
    let least = 1 - F::BIAS;
    let (kept, inexact) = round_off(significand, drop, negative, rounding);
    let precision = if inexact { PE } else { 0 };
    let carry = (kept >> F::FRACTION > 1) as i32;
    if exponent + carry < least {
        // Tiny after rounding: it would be below the least normal number were there no limit to the exponent.
        if !mxcsr.masks(UE) {
            // An unmasked exception's result is not used; it would be this with a lesser exponent.
            return (F::truncate(sign), UE | precision);
        }
        if mxcsr.flushes_to_zero() {
            return (F::truncate(sign), UE | PE);
        }
    }
    if exponent < least {
        let below = (least - exponent) as u32;
        let (kept, inexact) = round_off(significand, drop + below, negative, rounding);
        let tiny = exponent + carry < least;
        let exceptions = if inexact { PE | if tiny { UE } else { 0 } } else { 0 };
        return (F::truncate(sign | kept), exceptions);
    }
    if exponent + carry > F::BIAS {
        if !mxcsr.masks(OE) {
            return (F::truncate(sign), OE | precision);
        }
        let infinite = match rounding {
            Rounding::Nearest => true,
            Rounding::Down => negative,
            Rounding::Up => !negative,
            Rounding::Zero => false,
        };
        // The greatest finite number is the one before infinity.
        return (F::truncate(sign | (F::INFINITY - u64::from(!infinite))), OE | PE);
    }
    // The significand's leading one adds one to the exponent, a carry of the rounding another.
    let biased = ((exponent + F::BIAS - 1) as u64) << F::FRACTION;
    (F::truncate(sign | (biased + kept)), precision)
}

/// As [`pack`], of a value with any leading zeros, which is not zero.
fn normalize_and_pack<F: Format>(negative: bool, exponent: i32, significand: u128, mxcsr: Mxcsr) -> Flagged<F> {
    let zeros = significand.leading_zeros();
    let high = shift_sticky(significand << zeros, 64) as u64;
    pack(negative, exponent - zeros as i32, high, mxcsr)
}

pub(super) fn add<F: Format>(a: F, b: F, mxcsr: Mxcsr) -> Flagged<F> {
    add_parts(a, b, Parts::of(a, mxcsr), Parts::of(b, mxcsr), false, mxcsr)
}

pub(super) fn sub<F: Format>(a: F, b: F, mxcsr: Mxcsr) -> Flagged<F> {
    add_parts(a, b, Parts::of(a, mxcsr), Parts::of(b, mxcsr), true, mxcsr)
}

fn add_parts<F: Format>(a: F, b: F, x: Parts, y: Parts, subtract: bool, mxcsr: Mxcsr) -> Flagged<F> {
    if let Some(nan) = nan(a, b, x, y) {
        return nan;
    }
    let y = Parts { negative: y.negative != subtract, ..y };
    let denormal = x.denormal | y.denormal;
    if x.class == Class::Infinite || y.class == Class::Infinite {
        if x.class == y.class && x.negative != y.negative {
            return invalid();
        }
        return (infinity(if x.class == Class::Infinite { x.negative } else { y.negative }), denormal);
    }
    let sum_of_nothing = mxcsr.rounding() == Rounding::Down;
    let (x, y) = match (x.class, y.class) {
        (Class::Zero, Class::Zero) => {
            return (zero(if x.negative == y.negative { x.negative } else { sum_of_nothing }), denormal);
        }
        (Class::Zero, _) => (y, Parts { exponent: y.exponent, ..x }),
        (_, Class::Zero) => (x, Parts { exponent: x.exponent, ..y }),
        _ if (x.exponent, x.significand) >= (y.exponent, y.significand) => (x, y),
        _ => (y, x),
    };
    // The greater at bit 126: room for a carry above and 63 bits for what is shifted out below.
    let greater = u128::from(x.significand) << 63;
    let less = shift_sticky(u128::from(y.significand) << 63, (x.exponent - y.exponent) as u32);
    let sum = if x.negative == y.negative { greater + less } else { greater - less };
    if sum == 0 {
        return (zero(sum_of_nothing), denormal);
    }
    let (result, exceptions) = normalize_and_pack(x.negative, x.exponent + 1, sum, mxcsr);
    (result, exceptions | denormal)
}

pub(super) fn mul<F: Format>(a: F, b: F, mxcsr: Mxcsr) -> Flagged<F> {
    let (x, y) = (Parts::of(a, mxcsr), Parts::of(b, mxcsr));
    if let Some(nan) = nan(a, b, x, y) {
        return nan;
    }
    let negative = x.negative != y.negative;
    let denormal = x.denormal | y.denormal;
    match (x.class, y.class) {
        (Class::Infinite, Class::Zero) | (Class::Zero, Class::Infinite) => invalid(),
        (Class::Infinite, _) | (_, Class::Infinite) => (infinity(negative), denormal),
        (Class::Zero, _) | (_, Class::Zero) => (zero(negative), denormal),
        _ => {
            let product = u128::from(x.significand) * u128::from(y.significand);
            let (result, exceptions) = normalize_and_pack(negative, x.exponent + y.exponent + 1, product, mxcsr);
            (result, exceptions | denormal)
        }
    }
}

pub(super) fn div<F: Format>(a: F, b: F, mxcsr: Mxcsr) -> Flagged<F> {
    let (x, y) = (Parts::of(a, mxcsr), Parts::of(b, mxcsr));
    if let Some(nan) = nan(a, b, x, y) {
        return nan;
    }
    let negative = x.negative != y.negative;
    let denormal = x.denormal | y.denormal;
    match (x.class, y.class) {
        (Class::Infinite, Class::Infinite) | (Class::Zero, Class::Zero) => invalid(),
        (Class::Infinite, _) => (infinity(negative), denormal),
        (_, Class::Zero) => (infinity(negative), ZE),
        (Class::Zero, _) | (_, Class::Infinite) => (zero(negative), denormal),
        _ => {
            let less = x.significand < y.significand;
            let dividend = u128::from(x.significand) << (63 + u32::from(less));
            let divisor = u128::from(y.significand);
            let quotient = (dividend / divisor) as u64 | u64::from(dividend % divisor != 0);
            let exponent = x.exponent - y.exponent - i32::from(less);
            let (result, exceptions) = pack(negative, exponent, quotient, mxcsr);
            (result, exceptions | denormal)
        }
    }
}

pub(super) fn sqrt<F: Format>(a: F, mxcsr: Mxcsr) -> Flagged<F> {
    let x = Parts::of(a, mxcsr);
    if let Some(nan) = nan(a, a, x, x) {
        return nan;
    }
    match x.class {
        Class::Zero => (zero(x.negative), 0),
        _ if x.negative => invalid(),
        Class::Infinite => (infinity(false), 0),
        _ => {
            let square = u128::from(x.significand) << (63 + (x.exponent & 1));
            let root = square.isqrt();
            let sticky = u64::from(root * root != square);
            let (result, exceptions) = pack(false, x.exponent >> 1, root as u64 | sticky, mxcsr);
            (result, exceptions | x.denormal)
        }
    }
}

/// Another format's value in this one.
pub(super) fn convert<F: Format, T: Format>(a: F, mxcsr: Mxcsr) -> Flagged<T> {
    let x = Parts::of(a, mxcsr);
    match x.class {
        Class::Zero => (zero(x.negative), 0),
        Class::Infinite => (infinity(x.negative), 0),
        Class::Finite => {
            let (result, exceptions) = pack(x.negative, x.exponent, x.significand, mxcsr);
            (result, exceptions | x.denormal)
        }
        Class::Quiet | Class::Signaling => {
            let payload = a.into() << (63 - F::FRACTION) & (u64::MAX >> 1);
            let sign = if x.negative { T::SIGN } else { 0 };
            let bits = sign | T::INFINITY | T::QUIET | payload >> (63 - T::FRACTION);
            (T::truncate(bits), if x.class == Class::Signaling { IE } else { 0 })
        }
    }
}

/// An integer in this format.
pub(super) fn from_integer<F: Format>(v: i64, mxcsr: Mxcsr) -> Flagged<F> {
    if v == 0 {
        return (zero(false), 0);
    }
    let magnitude = v.unsigned_abs();
    let zeros = magnitude.leading_zeros();
    pack(v < 0, 63 - zeros as i32, magnitude << zeros, mxcsr)
}

/// The integer of so many bits, or their least for what does not fit.
pub(super) fn to_integer<F: Format>(a: F, bits: u32, rounding: Rounding, mxcsr: Mxcsr) -> Flagged<u64> {
    let x = Parts::of(a, mxcsr);
    let indefinite = (1 << (bits - 1), IE);
    let (magnitude, inexact) = match x.class {
        Class::Zero => (0, false),
        Class::Finite if x.exponent <= 63 => {
            round_off(x.significand, (63 - x.exponent).min(200) as u32, x.negative, rounding)
        }
        _ => return indefinite,
    };
    if magnitude > (1 << (bits - 1)) - u64::from(!x.negative) {
        return indefinite;
    }
    let value = if x.negative { magnitude.wrapping_neg() } else { magnitude };
    (value & (u64::MAX >> (64 - bits)), if inexact { PE } else { 0 })
}

/// The integer in floating point.
pub(super) fn round_to_integer<F: Format>(a: F, rounding: Rounding, mxcsr: Mxcsr) -> Flagged<F> {
    let x = Parts::of(a, mxcsr);
    match x.class {
        Class::Zero => (zero(x.negative), 0),
        Class::Quiet => (a, 0),
        Class::Signaling => (quiet(a), IE),
        Class::Finite if x.exponent < F::FRACTION as i32 => {
            let drop = (63 - x.exponent).min(200) as u32;
            let (integer, inexact) = round_off(x.significand, drop, x.negative, rounding);
            let sign = if x.negative { F::SIGN } else { 0 };
            let magnitude = if integer == 0 {
                0
            } else {
                let zeros = integer.leading_zeros();
                let biased = (63 - zeros as i32 + F::BIAS - 1) as u64;
                (biased << F::FRACTION) + ((integer << zeros) >> (63 - F::FRACTION))
            };
            (F::truncate(sign | magnitude), if inexact { PE } else { 0 })
        }
        Class::Finite | Class::Infinite => (a, 0),
    }
}
