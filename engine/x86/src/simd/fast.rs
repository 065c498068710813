//! Floating point by the host's arithmetic, for operands and results that are zero or well inside the normal range,
//! rounded to nearest with all exceptions masked. There the only exception left is the inexact result, and whether
//! it occurred is asked only while its sticky flag is not set yet.
//!
//! Rust's arithmetic assumes the host's default modes, which are these.

use super::mxcsr::Rounding;
use super::mxcsr::exception::PE;
use super::soft::{Flagged, Format};

/// A result of the host's: whether it is certain to be the guest's (if not, the integers of [`super::soft`] are to
/// decide), and the exceptions. Operations come to it without branches, so that the compiler can do lanes together.
pub(super) struct Guess<F> {
    pub(super) value: F,
    pub(super) certain: bool,
    pub(super) exceptions: u32,
}

/// A lane the host can calculate with.
pub(super) trait Lane: Format {
    /// Bits of a lane.
    const BITS: u32 = 1 + Self::EXPONENT + Self::FRACTION;
    fn of(v: u128) -> Self;
    /// Zero, or a normal number a little below the greatest.
    fn is_plain(self) -> bool;
    fn to_f64(self) -> f64;
    fn add(a: Self, b: Self, check: bool) -> Guess<Self>;
    fn sub(a: Self, b: Self, check: bool) -> Guess<Self>;
    fn mul(a: Self, b: Self, check: bool) -> Guess<Self>;
    fn div(a: Self, b: Self, check: bool) -> Guess<Self>;
    fn sqrt(a: Self, check: bool) -> Guess<Self>;
    /// An integral result of at most 2^51.
    fn from_integral(v: f64) -> Self;
    /// An integer, and whether that is inexact.
    fn from_i64(v: i64) -> Flagged<Self>;
}

#[inline(always)]
fn precision(inexact: bool) -> u32 {
    if inexact { PE } else { 0 }
}

macro_rules! lane {
    ($bits:ty, $float:ty, $product_inexact:ident, $quotient_inexact:ident) => {
        impl Lane for $bits {
            #[inline(always)]
            fn of(v: u128) -> Self {
                v as $bits
            }

            #[inline(always)]
            fn is_plain(self) -> bool {
                let magnitude = self & !(1 << (Self::BITS - 1));
                let least = 1 << Self::FRACTION;
                (magnitude.wrapping_sub(least) < Self::INFINITY as $bits - 3 * least) | (magnitude == 0)
            }

            #[inline(always)]
            fn to_f64(self) -> f64 {
                <$float>::from_bits(self).into()
            }

            #[inline(always)]
            fn add(a: Self, b: Self, check: bool) -> Guess<Self> {
                let (x, y) = (<$float>::from_bits(a), <$float>::from_bits(b));
                let sum = x + y;
                // What the sum lacks, which is a number of the format: the branch-free test of Knuth and Møller.
                let inexact = check && {
                    let second = sum - x;
                    (x - (sum - second)) + (y - second) != 0.0
                };
                let value = sum.to_bits();
                let certain = a.is_plain() & b.is_plain() & !is_denormal(value);
                Guess { value, certain, exceptions: precision(inexact) }
            }

            #[inline(always)]
            fn sub(a: Self, b: Self, check: bool) -> Guess<Self> {
                // NaNs, whose sign must stay, are not certain.
                Self::add(a, b ^ (1 << (Self::BITS - 1)), check)
            }

            #[inline(always)]
            fn mul(a: Self, b: Self, check: bool) -> Guess<Self> {
                let value = (<$float>::from_bits(a) * <$float>::from_bits(b)).to_bits();
                let zero = (a << 1 == 0) | (b << 1 == 0);
                let certain = a.is_plain() & b.is_plain() & (is_inside(value) | zero);
                let inexact = check && !zero & $product_inexact(a, b, value);
                Guess { value, certain, exceptions: precision(inexact) }
            }

            #[inline(always)]
            fn div(a: Self, b: Self, check: bool) -> Guess<Self> {
                let value = (<$float>::from_bits(a) / <$float>::from_bits(b)).to_bits();
                let zero = (a << 1 == 0) & (b << 1 != 0);
                let certain = a.is_plain() & b.is_plain() & (is_inside(value) | zero);
                let inexact = check && !zero & $quotient_inexact(value, b, a);
                Guess { value, certain, exceptions: precision(inexact) }
            }

            #[inline(always)]
            fn sqrt(a: Self, check: bool) -> Guess<Self> {
                let value = <$float>::from_bits(a).sqrt().to_bits();
                let zero = a << 1 == 0;
                let certain = a.is_plain() & ((a >> (Self::BITS - 1) == 0) | zero);
                let inexact = check && !zero & $quotient_inexact(value, value, a);
                Guess { value, certain, exceptions: precision(inexact) }
            }

            #[inline(always)]
            fn from_integral(v: f64) -> Self {
                (v as $float).to_bits()
            }

            #[inline(always)]
            fn from_i64(v: i64) -> Flagged<Self> {
                let magnitude = v.unsigned_abs();
                let width = (64 - magnitude.leading_zeros()).saturating_sub(magnitude.trailing_zeros());
                ((v as $float).to_bits(), precision(width > Self::FRACTION + 1))
            }
        }
    };
}
lane!(u32, f32, product_inexact32, quotient_inexact32);
lane!(u64, f64, product_inexact64, quotient_inexact64);

#[inline(always)]
fn is_denormal<F: Lane>(v: F) -> bool {
    let bits: u64 = v.into();
    (bits & F::INFINITY == 0) & (bits & !F::SIGN != 0)
}

/// Whether a result is far enough from underflow and overflow that rounding brought it into neither, nor out of it.
#[inline(always)]
fn is_inside<F: Lane>(v: F) -> bool {
    let magnitude = v.into() & !F::SIGN;
    let least = 2 << F::FRACTION;
    magnitude.wrapping_sub(least) < F::INFINITY - 2 * least
}

/// 48 bits of product fit the greater format.
#[inline(always)]
fn product_inexact32(a: u32, b: u32, product: u32) -> bool {
    a.to_f64() * b.to_f64() != product.to_f64()
}

#[inline(always)]
fn quotient_inexact32(quotient: u32, divisor: u32, dividend: u32) -> bool {
    quotient.to_f64() * divisor.to_f64() != dividend.to_f64()
}

#[inline(always)]
fn significand(v: u64) -> u64 {
    v & ((1 << u64::FRACTION) - 1) | 1 << u64::FRACTION
}

/// Whether any of the bits are set that the product of 53 by 53 bits, 105 or 106 long, has too many. They are in its
/// low half.
#[inline(always)]
fn product_inexact64(a: u64, b: u64, _: u64) -> bool {
    let product = u128::from(significand(a)) * u128::from(significand(b));
    let excess = 52 + (product >> 105) as u32;
    product as u64 & ((1 << excess) - 1) != 0
}

/// Whether quotient times divisor is not the dividend. They differ by at most half the divisor, which their low
/// halves suffice to tell.
#[inline(always)]
fn quotient_inexact64(quotient: u64, divisor: u64, dividend: u64) -> bool {
    let exponent = |v: u64| (v & u64::INFINITY) >> u64::FRACTION;
    // 52 or 53, as the quotient's significand is less than the dividend's or not; only its lowest bit is in question.
    let scale = exponent(dividend)
        .wrapping_add(u64::BIAS as u64 + 52)
        .wrapping_sub(exponent(quotient))
        .wrapping_sub(exponent(divisor));
    significand(quotient).wrapping_mul(significand(divisor)) != significand(dividend) << (scale & 63)
}

/// The greatest magnitude [`integral`] takes.
pub(super) const INTEGRAL_LIMIT: f64 = (1u64 << 51) as f64;

/// A number of magnitude less than 2^51 as an integral one, its sign kept.
#[inline(always)]
pub(super) fn integral(v: f64, rounding: Rounding) -> f64 {
    let toward_zero = (v as i64) as f64;
    let integral = match rounding {
        Rounding::Nearest => {
            // Adding 2^52 leaves no room for a fraction.
            let room = (2.0 * INTEGRAL_LIMIT).copysign(v);
            (v + room) - room
        }
        Rounding::Down => toward_zero - f64::from(u8::from(toward_zero > v)),
        Rounding::Up => toward_zero + f64::from(u8::from(toward_zero < v)),
        Rounding::Zero => toward_zero,
    };
    integral.copysign(v)
}
