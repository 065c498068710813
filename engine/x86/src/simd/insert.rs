//! Lanes in and out of vectors.

use super::lanes::{Vector, Xmm};

#[inline(always)]
fn put(a: Xmm, lane: u128, bits: u32, at: u32) -> Xmm {
    let mask = (u128::MAX >> (128 - bits)) << (at * bits);
    a & !mask | lane << (at * bits)
}

/// A byte, zero-extended.
#[inline]
pub fn pextrb(a: Xmm, imm: u8) -> u32 {
    u32::from((a >> (u32::from(imm & 15) * 8)) as u8)
}

/// A word, zero-extended.
#[inline]
pub fn pextrw<V: Vector>(a: V, imm: u8) -> u32 {
    let at = u32::from(imm) & (V::BYTES / 2 - 1);
    u32::from((a.wide() >> (at * 16)) as u16)
}

/// A doubleword; also extractps.
#[inline]
pub fn pextrd(a: Xmm, imm: u8) -> u32 {
    (a >> (u32::from(imm & 3) * 32)) as u32
}

/// A quadword.
#[inline]
pub fn pextrq(a: Xmm, imm: u8) -> u64 {
    (a >> (u32::from(imm & 1) * 64)) as u64
}

/// A doubleword.
#[inline]
pub fn extractps(a: Xmm, imm: u8) -> u32 {
    pextrd(a, imm)
}

/// Replaces a byte.
#[inline]
pub fn pinsrb(a: Xmm, value: u32, imm: u8) -> Xmm {
    put(a, u128::from(value as u8), 8, u32::from(imm & 15))
}

/// Replaces a word.
#[inline]
pub fn pinsrw<V: Vector>(a: V, value: u32, imm: u8) -> V {
    V::narrow(put(a.wide(), u128::from(value as u16), 16, u32::from(imm) & (V::BYTES / 2 - 1)))
}

/// Replaces a doubleword.
#[inline]
pub fn pinsrd(a: Xmm, value: u32, imm: u8) -> Xmm {
    put(a, u128::from(value), 32, u32::from(imm & 3))
}

/// Replaces a quadword.
#[inline]
pub fn pinsrq(a: Xmm, value: u64, imm: u8) -> Xmm {
    put(a, u128::from(value), 64, u32::from(imm & 1))
}

/// Replaces and clears doublewords. For a memory operand, whose one doubleword the source field of the immediate
/// does not select, pass the doubleword in lane 0 and `imm & 0x3f`.
#[inline]
pub fn insertps(a: Xmm, b: Xmm, imm: u8) -> Xmm {
    let inserted = put(a, u128::from(pextrd(b, imm >> 6)), 32, u32::from(imm >> 4 & 3));
    super::blendps(inserted, 0, imm & 15)
}
