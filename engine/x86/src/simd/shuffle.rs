//! Shuffles.

use super::lanes::{Vector, Xmm, join32, join64, split64};

/// A two-bit field of the immediate.
#[inline(always)]
fn field(imm: u8, i: u32) -> u32 {
    u32::from(imm) >> (2 * i) & 3
}

/// Doublewords by the immediate's fields.
#[inline]
pub fn pshufd(a: Xmm, imm: u8) -> Xmm {
    shufps(a, a, imm)
}

#[inline(always)]
fn words(a: u64, imm: u8) -> u64 {
    (0..4).fold(0, |all, i| all | u64::from((a >> (16 * field(imm, i))) as u16) << (16 * i))
}

/// The low quadword's words by the immediate's fields.
#[inline]
pub fn pshuflw(a: Xmm, imm: u8) -> Xmm {
    a >> 64 << 64 | u128::from(words(a as u64, imm))
}

/// The high quadword's words by the immediate's fields.
#[inline]
pub fn pshufhw(a: Xmm, imm: u8) -> Xmm {
    u128::from(words((a >> 64) as u64, imm)) << 64 | u128::from(a as u64)
}

/// Words of an MMX value by the immediate's fields.
#[inline]
pub fn pshufw(a: u64, imm: u8) -> u64 {
    words(a, imm)
}

/// Bytes of the first operand by the second's: zero where bit 7 is set, else the byte of that number.
#[inline]
pub fn pshufb<V: Vector>(a: V, b: V) -> V {
    let [low, high] = split64(a.wide());
    let quadword = |control: u64| {
        let mut result = 0;
        for i in 0..8 {
            let c = (control >> (8 * i)) as u32;
            let half = if V::BYTES == 16 && c & 8 != 0 { high } else { low };
            let byte = if c & 0x80 != 0 { 0 } else { half >> (c % 8 * 8) & 0xff };
            result |= byte << (8 * i);
        }
        result
    };
    V::narrow(join64(split64(b.wide()).map(quadword)))
}

/// Two doublewords of the first operand, then two of the second, by the immediate's fields.
#[inline]
pub fn shufps(a: Xmm, b: Xmm, imm: u8) -> Xmm {
    let select = |v: Xmm, i: u32| {
        let [low, high] = split64(v);
        let at = field(imm, i);
        ((if at & 2 != 0 { high } else { low }) >> (at % 2 * 32)) as u32
    };
    join32([select(a, 0), select(a, 1), select(b, 2), select(b, 3)])
}

/// A quadword of the first operand, then one of the second, by the immediate's bits.
#[inline]
pub fn shufpd(a: Xmm, b: Xmm, imm: u8) -> Xmm {
    let (low, high) = (if imm & 1 != 0 { a >> 64 } else { a }, if imm & 2 != 0 { b >> 64 } else { b });
    super::punpcklqdq(low, high)
}

/// Interleaves the low doublewords.
#[inline]
pub fn unpcklps(a: Xmm, b: Xmm) -> Xmm {
    super::punpckldq(a, b)
}

/// Interleaves the high doublewords.
#[inline]
pub fn unpckhps(a: Xmm, b: Xmm) -> Xmm {
    super::punpckhdq(a, b)
}

/// Joins the low quadwords.
#[inline]
pub fn unpcklpd(a: Xmm, b: Xmm) -> Xmm {
    super::punpcklqdq(a, b)
}

/// Joins the high quadwords.
#[inline]
pub fn unpckhpd(a: Xmm, b: Xmm) -> Xmm {
    super::punpckhqdq(a, b)
}

/// The low quadword twice.
#[inline]
pub fn movddup(a: Xmm) -> Xmm {
    super::punpcklqdq(a, a)
}

const EVEN: Xmm = 0x0000_0000_ffff_ffff_0000_0000_ffff_ffff;

/// The odd doublewords, each twice.
#[inline]
pub fn movshdup(a: Xmm) -> Xmm {
    a & !EVEN | a >> 32 & EVEN
}

/// The even doublewords, each twice.
#[inline]
pub fn movsldup(a: Xmm) -> Xmm {
    a & EVEN | (a & EVEN) << 32
}
