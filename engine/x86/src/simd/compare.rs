//! Integer comparisons, minima and maxima, and the tests that write flags.

use super::lanes::{Vector, Xmm, split64, zip32, zip64};
use super::rflags::{CF, ZF};
use super::swar::{self, select};

lanewise! {
    /// Bytes equal.
    pcmpeqb, |a, b| swar::equal(a, b, swar::BYTES);
    /// Words equal.
    pcmpeqw, |a, b| swar::equal(a, b, swar::WORDS);
    /// Doublewords equal.
    pcmpeqd, |a, b| zip32(a, b, |a, b| mask_of!(u32, a == b));
    /// Signed bytes greater.
    pcmpgtb, |a, b| swar::less_signed(b, a, swar::BYTES);
    /// Signed words greater.
    pcmpgtw, |a, b| swar::less_signed(b, a, swar::WORDS);
    /// Signed doublewords greater.
    pcmpgtd, |a, b| zip32(a, b, |a, b| mask_of!(u32, a as i32 > b as i32));
    /// Minimum of unsigned bytes.
    pminub, |a, b| select(swar::less_unsigned(a, b, swar::BYTES), a, b);
    /// Maximum of unsigned bytes.
    pmaxub, |a, b| select(swar::less_unsigned(a, b, swar::BYTES), b, a);
    /// Minimum of signed words.
    pminsw, |a, b| select(swar::less_signed(a, b, swar::WORDS), a, b);
    /// Maximum of signed words.
    pmaxsw, |a, b| select(swar::less_signed(a, b, swar::WORDS), b, a);
}

/// Quadwords equal.
#[inline]
pub fn pcmpeqq(a: Xmm, b: Xmm) -> Xmm {
    zip64(a, b, |a, b| mask_of!(u64, a == b))
}

/// Signed quadwords greater.
#[inline]
pub fn pcmpgtq(a: Xmm, b: Xmm) -> Xmm {
    zip64(a, b, |a, b| mask_of!(u64, a as i64 > b as i64))
}

const SIGNS32: Xmm = u128::MAX / 0xffff_ffff * 0x8000_0000;

/// Minimum of signed bytes.
#[inline]
pub fn pminsb(a: Xmm, b: Xmm) -> Xmm {
    select(pcmpgtb(a, b), b, a)
}

/// Maximum of signed bytes.
#[inline]
pub fn pmaxsb(a: Xmm, b: Xmm) -> Xmm {
    select(pcmpgtb(a, b), a, b)
}

/// Minimum of unsigned words.
#[inline]
pub fn pminuw(a: Xmm, b: Xmm) -> Xmm {
    select(swar::less_unsigned(a, b, swar::WORDS), a, b)
}

/// Maximum of unsigned words.
#[inline]
pub fn pmaxuw(a: Xmm, b: Xmm) -> Xmm {
    select(swar::less_unsigned(a, b, swar::WORDS), b, a)
}

/// Minimum of signed doublewords.
#[inline]
pub fn pminsd(a: Xmm, b: Xmm) -> Xmm {
    select(pcmpgtd(a, b), b, a)
}

/// Maximum of signed doublewords.
#[inline]
pub fn pmaxsd(a: Xmm, b: Xmm) -> Xmm {
    select(pcmpgtd(a, b), a, b)
}

/// Minimum of unsigned doublewords.
#[inline]
pub fn pminud(a: Xmm, b: Xmm) -> Xmm {
    select(pcmpgtd(a ^ SIGNS32, b ^ SIGNS32), b, a)
}

/// Maximum of unsigned doublewords.
#[inline]
pub fn pmaxud(a: Xmm, b: Xmm) -> Xmm {
    select(pcmpgtd(a ^ SIGNS32, b ^ SIGNS32), a, b)
}

/// Tests bits: ZF and CF, for operand 1 and operand 2 of the instruction; its other flags are cleared.
#[inline]
pub fn ptest(a: Xmm, b: Xmm) -> u64 {
    (if a & b == 0 { ZF } else { 0 }) | (if !a & b == 0 { CF } else { 0 })
}

/// Gathers the bytes' sign bits.
#[inline]
pub fn pmovmskb<V: Vector>(a: V) -> u32 {
    // The multiplication adds the signs up in the top byte, each in its place.
    let gather = |v: u64| (v >> 7 & 0x0101_0101_0101_0101).wrapping_mul(0x0102_0408_1020_4080) >> 56;
    let [low, high] = split64(a.wide()).map(gather);
    (high << 8 | low) as u32
}

/// Gathers the doublewords' sign bits.
#[inline]
pub fn movmskps(a: Xmm) -> u32 {
    (0..4).fold(0, |all, i| all | ((a >> (32 * i + 31)) as u32 & 1) << i)
}

/// Gathers the quadwords' sign bits.
#[inline]
pub fn movmskpd(a: Xmm) -> u32 {
    (a >> 63) as u32 & 1 | ((a >> 127) as u32) << 1
}

/// The smallest unsigned word, and above it the place of its first occurrence.
#[inline]
pub fn phminposuw(a: Xmm) -> Xmm {
    let least = (0..8u32).map(|i| ((a >> (16 * i)) as u16 as u32) << 3 | i).min().unwrap_or(0);
    u128::from(least >> 3) | u128::from(least & 7) << 16
}
