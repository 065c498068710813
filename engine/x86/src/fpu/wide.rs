//! Arithmetic at twice the precision of a register, for the series and reductions of the transcendental instructions.
//!
//! Results are wrong by at most a few units of 2^-127 of their size, so that after some forty operations the error is
//! still 2^55 times smaller than the last place of a register, and the final rounding nearly always the correct one.

use super::f80::{BIAS, F80};
use super::round::{Control, Outcome, round_pack, shift_right_jam};
use super::status::PE;
use std::cmp::Ordering;

/// The high half of the product of two 128-bit numbers, short of at most two units.
#[inline]
pub(super) const fn multiply_high(a: u128, b: u128) -> u128 {
    let (a_high, a_low) = (a >> 64, a & u64::MAX as u128);
    let (b_high, b_low) = (b >> 64, b & u64::MAX as u128);
    let middle = (a_high.wrapping_mul(b_low) >> 64).wrapping_add(a_low.wrapping_mul(b_high) >> 64);
    a_high.wrapping_mul(b_high).wrapping_add(middle)
}

/// A number: ± `significand` × 2^(`exponent` - 127). The significand's top bit is set, unless the number is zero.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wide {
    pub negative: bool,
    pub exponent: i32,
    pub significand: u128,
}

impl Wide {
    pub const ZERO: Self = Self { negative: false, exponent: 0, significand: 0 };
    pub const ONE: Self = Self::power_of_two(0);
    /// π.
    pub const PI: Self = Self { negative: false, exponent: 1, significand: 0xc90f_daa2_2168_c234_c4c6_628b_80dc_1cd1 };
    /// ln 2.
    pub const LN_2: Self =
        Self { negative: false, exponent: -1, significand: 0xb172_17f7_d1cf_79ab_c9e3_b398_03f2_f6af };
    /// log2 e.
    pub const LOG2_E: Self =
        Self { negative: false, exponent: 0, significand: 0xb8aa_3b29_5c17_f0bb_be87_fed0_691d_3e89 };

    /// 2^`exponent`.
    pub const fn power_of_two(exponent: i32) -> Self {
        Self { negative: false, exponent, significand: 1 << 127 }
    }

    /// `units` × 2^`unit_exponent`, exactly.
    pub fn from_units(negative: bool, units: u128, unit_exponent: i32) -> Self {
        if units == 0 {
            return Self::ZERO;
        }
        let shift = units.leading_zeros();
        Self {
            negative,
            exponent: unit_exponent.wrapping_add(127).wrapping_sub(shift as i32),
            significand: units << shift,
        }
    }

    /// The value of a finite register.
    pub fn from_register(value: F80) -> Self {
        let (exponent, significand) = value.normalized();
        if significand == 0 {
            return Self::ZERO;
        }
        let exponent = exponent.wrapping_sub(BIAS);
        Self { negative: value.is_negative(), exponent, significand: (significand as u128) << 64 }
    }

    /// The number rounded to a register, and reported inexact: it stands for an irrational one.
    pub fn round_inexact(self, control: Control) -> Outcome {
        let rest = self.significand as u64 | 1;
        let high = (self.significand >> 64) as u64;
        let biased = self.exponent.saturating_add(BIAS);
        round_pack(control.extended(), self.negative, biased, high, rest).with(PE)
    }

    /// The number rounded to a register, where it is exact.
    pub fn round_exact(self, control: Control) -> Outcome {
        if self.significand == 0 {
            return Outcome::new(F80::zero(self.negative), 0);
        }
        let high = (self.significand >> 64) as u64;
        let biased = self.exponent.saturating_add(BIAS);
        round_pack(control.extended(), self.negative, biased, high, self.significand as u64)
    }

    pub const fn negated(self) -> Self {
        Self { negative: !self.negative, ..self }
    }

    /// The number with its sign changed if `negate`.
    pub const fn negated_if(self, negate: bool) -> Self {
        Self { negative: self.negative != negate, ..self }
    }

    pub const fn absolute(self) -> Self {
        Self { negative: false, ..self }
    }

    /// The number times 2^`power`.
    pub const fn scaled(self, power: i32) -> Self {
        Self { exponent: self.exponent.saturating_add(power), ..self }
    }

    /// The next number toward zero: for a result that differs from a round one by less than the precision shows.
    pub const fn nudged_down(self) -> Self {
        if self.significand == 1 << 127 {
            return Self { significand: u128::MAX, exponent: self.exponent.wrapping_sub(1), ..self };
        }
        Self { significand: self.significand.wrapping_sub(1), ..self }
    }

    /// The order of the magnitudes of two numbers that are not zero.
    pub fn compare_magnitude(self, other: Self) -> Ordering {
        (self.exponent, self.significand).cmp(&(other.exponent, other.significand))
    }

    pub fn add(self, other: Self) -> Self {
        if self.significand == 0 {
            return other;
        }
        if other.significand == 0 {
            return self;
        }
        let (large, small) =
            if self.compare_magnitude(other) == Ordering::Less { (other, self) } else { (self, other) };
        let distance = large.exponent.saturating_sub(small.exponent).clamp(0, 255) as u32;
        if large.negative == small.negative {
            let (sum, carry) = large.significand.overflowing_add(shift_right_jam(small.significand, distance));
            if carry {
                let significand = (sum >> 1) | (sum & 1) | 1 << 127;
                return Self { significand, exponent: large.exponent.wrapping_add(1), ..large };
            }
            return Self { significand: sum, ..large };
        }
        let difference = large.significand.wrapping_sub(shift_right_jam(small.significand, distance));
        Self::from_units(large.negative, difference, large.exponent.wrapping_sub(127))
    }

    pub fn subtract(self, other: Self) -> Self {
        self.add(other.negated())
    }

    pub fn multiply(self, other: Self) -> Self {
        let product = multiply_high(self.significand, other.significand);
        let exponent = self.exponent.saturating_add(other.exponent).saturating_add(1).wrapping_sub(127);
        Self::from_units(self.negative != other.negative, product, exponent)
    }

    /// The quotient; the divisor must not be zero.
    pub fn divide(self, divisor: Self) -> Self {
        // The reciprocal of d in [1, 2), first to 63 bits, then by a Newton step.
        let high = (divisor.significand >> 64).max(1 << 63);
        let seed = u128::MAX.checked_div(high).unwrap_or(0);
        // In units of 2^-127.
        let estimate = seed << 62;
        // d × estimate is close to 1; in units of 2^-126, that is 2^126.
        let product = multiply_high(divisor.significand, estimate);
        let error = (1u128 << 126).wrapping_sub(product) as i128;
        let correction = multiply_high(estimate, error.unsigned_abs() << 2);
        let reciprocal =
            if error >= 0 { estimate.saturating_add(correction) } else { estimate.saturating_sub(correction) };
        let quotient = multiply_high(self.significand, reciprocal);
        let exponent = self.exponent.saturating_sub(divisor.exponent).saturating_add(1).wrapping_sub(127);
        Self::from_units(self.negative != divisor.negative, quotient, exponent)
    }

    /// The magnitude, which must be less than 1, as a fraction of 2^128.
    pub fn to_fraction(self) -> u128 {
        let shift = (-1i32).saturating_sub(self.exponent).clamp(0, 128) as u32;
        self.significand.unbounded_shr(shift)
    }

    /// A fraction of 2^128.
    pub fn from_fraction(fraction: u128) -> Self {
        Self::from_units(false, fraction, -128)
    }
}
