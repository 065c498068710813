//! Approximate reciprocals and reciprocal square roots.
//!
//! The architecture bounds their error and leaves the bits open. Here they are the correct value rounded to twelve
//! bits, off by at most 2^-13. They read denormals as zeros, return zeros for denormals, and leave MXCSR alone.

use super::fast::Lane;
use super::float::with_low;
use super::lanes::{Xmm, map32};
use super::soft::{Format, quiet};

const SIGN: u32 = 1 << 31;
const INFINITY: u32 = 0x7f80_0000;
const LEAST_NORMAL: u32 = 0x0080_0000;

/// Twelve bits of a positive or negative result, rounded; zero if it is denormal.
fn shorten(v: f32) -> u32 {
    let bits = v.to_bits();
    if bits & INFINITY == 0 { bits & SIGN } else { (bits + (1 << 10)) & !((1 << 11) - 1) }
}

fn reciprocal(v: u32) -> u32 {
    match v & !SIGN {
        0..LEAST_NORMAL => v & SIGN | INFINITY,
        LEAST_NORMAL..INFINITY => shorten(1.0 / f32::from_bits(v)),
        INFINITY => v & SIGN,
        _ => quiet(v),
    }
}

fn reciprocal_root(v: u32) -> u32 {
    match v & !SIGN {
        0..LEAST_NORMAL => v & SIGN | INFINITY,
        LEAST_NORMAL..=INFINITY if v & SIGN != 0 => u32::DEFAULT_NAN as u32,
        LEAST_NORMAL..INFINITY => shorten(1.0 / f32::from_bits(v).sqrt()),
        INFINITY => 0,
        _ => quiet(v),
    }
}

/// Reciprocals of singles.
#[inline]
pub fn rcpps(a: Xmm) -> Xmm {
    map32(a, reciprocal)
}

/// Reciprocal of the second operand's low single; the rest is the first operand's.
#[inline]
pub fn rcpss(a: Xmm, b: Xmm) -> Xmm {
    with_low(a, reciprocal(u32::of(b)))
}

/// Reciprocal square roots of singles.
#[inline]
pub fn rsqrtps(a: Xmm) -> Xmm {
    map32(a, reciprocal_root)
}

/// Reciprocal square root of the second operand's low single; the rest is the first operand's.
#[inline]
pub fn rsqrtss(a: Xmm, b: Xmm) -> Xmm {
    with_low(a, reciprocal_root(u32::of(b)))
}
