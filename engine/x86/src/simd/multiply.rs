//! Integer multiplication.

use super::lanes::{Vector, Xmm, join16, join32, split8, split16, split32, zip16, zip32, zip64};

lanewise! {
    /// Low words of the products of words.
    pmullw, |a, b| zip16(a, b, u16::wrapping_mul);
    /// High words of the products of signed words.
    pmulhw, |a, b| zip16(a, b, |a, b| ((i32::from(a as i16) * i32::from(b as i16)) >> 16) as u16);
    /// High words of the products of unsigned words.
    pmulhuw, |a, b| zip16(a, b, |a, b| ((u32::from(a) * u32::from(b)) >> 16) as u16);
    /// Products of the even unsigned doublewords.
    pmuludq, |a, b| zip64(a, b, |a, b| (a & 0xffff_ffff) * (b & 0xffff_ffff));
    /// Products of signed words, neighbours added.
    pmaddwd, |a, b| zip32(a, b, |a, b| {
        let product = |a: u32, b: u32| i32::from(a as i16) * i32::from(b as i16);
        product(a, b).wrapping_add(product(a >> 16, b >> 16)) as u32
    });
}

/// Products of the even signed doublewords.
#[inline]
pub fn pmuldq(a: Xmm, b: Xmm) -> Xmm {
    zip64(a, b, |a, b| (i64::from(a as i32) * i64::from(b as i32)) as u64)
}

/// Low doublewords of the products of doublewords.
#[inline]
pub fn pmulld(a: Xmm, b: Xmm) -> Xmm {
    zip32(a, b, u32::wrapping_mul)
}

/// Products of unsigned bytes of the first and signed bytes of the second operand, neighbours added with saturation.
#[inline]
pub fn pmaddubsw<V: Vector>(a: V, b: V) -> V {
    let (a, b) = (split8(a.wide()), split8(b.wide()));
    let product = |i: usize| i32::from(a[i]) * i32::from(b[i] as i8);
    V::narrow(join16(std::array::from_fn(|i| {
        (product(2 * i) + product(2 * i + 1)).clamp(i32::from(i16::MIN), i32::from(i16::MAX)) as u16
    })))
}

/// Products of signed words scaled by 2^-15 and rounded.
#[inline]
pub fn pmulhrsw<V: Vector>(a: V, b: V) -> V {
    let (a, b) = (split16(a.wide()), split16(b.wide()));
    V::narrow(join16(std::array::from_fn(|i| {
        ((((i32::from(a[i] as i16) * i32::from(b[i] as i16)) >> 14) + 1) >> 1) as u16
    })))
}

/// Sums of absolute differences of four bytes of the second operand with each four neighbours of the first; `imm`
/// says which.
#[inline]
pub fn mpsadbw(a: Xmm, b: Xmm, imm: u8) -> Xmm {
    let block = split32(b)[usize::from(imm & 3)].to_le_bytes();
    let a = split8(a >> (u32::from(imm & 4) * 8));
    join16(std::array::from_fn(|i| (0..4).map(|j| u16::from(a[i + j].abs_diff(block[j]))).sum()))
}

/// Combines neighbouring doublewords, the first operand's and then the second's.
#[inline(always)]
pub(super) fn neighbours32(a: Xmm, b: Xmm, f: impl Fn(u32, u32) -> u32) -> Xmm {
    let (a, b) = (split32(a), split32(b));
    join32([f(a[0], a[1]), f(a[2], a[3]), f(b[0], b[1]), f(b[2], b[3])])
}
