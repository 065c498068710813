//! Sign and zero extension of the low lanes.

use super::lanes::{Xmm, join16, join32, join64};

/// Signed bytes to words.
#[inline]
pub fn pmovsxbw(a: Xmm) -> Xmm {
    let a = a as u64;
    join16(std::array::from_fn(|i| (a >> (8 * i)) as i8 as u16))
}

/// Signed bytes to doublewords.
#[inline]
pub fn pmovsxbd(a: Xmm) -> Xmm {
    let a = a as u64;
    join32(std::array::from_fn(|i| (a >> (8 * i)) as i8 as u32))
}

/// Signed bytes to quadwords.
#[inline]
pub fn pmovsxbq(a: Xmm) -> Xmm {
    let a = a as u64;
    join64(std::array::from_fn(|i| (a >> (8 * i)) as i8 as u64))
}

/// Signed words to doublewords.
#[inline]
pub fn pmovsxwd(a: Xmm) -> Xmm {
    let a = a as u64;
    join32(std::array::from_fn(|i| (a >> (16 * i)) as i16 as u32))
}

/// Signed words to quadwords.
#[inline]
pub fn pmovsxwq(a: Xmm) -> Xmm {
    let a = a as u64;
    join64(std::array::from_fn(|i| (a >> (16 * i)) as i16 as u64))
}

/// Signed doublewords to quadwords.
#[inline]
pub fn pmovsxdq(a: Xmm) -> Xmm {
    let a = a as u64;
    join64(std::array::from_fn(|i| (a >> (32 * i)) as i32 as u64))
}

/// Unsigned bytes to words.
#[inline]
pub fn pmovzxbw(a: Xmm) -> Xmm {
    let a = a as u64;
    join16(std::array::from_fn(|i| u16::from((a >> (8 * i)) as u8)))
}

/// Unsigned bytes to doublewords.
#[inline]
pub fn pmovzxbd(a: Xmm) -> Xmm {
    let a = a as u64;
    join32(std::array::from_fn(|i| u32::from((a >> (8 * i)) as u8)))
}

/// Unsigned bytes to quadwords.
#[inline]
pub fn pmovzxbq(a: Xmm) -> Xmm {
    let a = a as u64;
    join64(std::array::from_fn(|i| u64::from((a >> (8 * i)) as u8)))
}

/// Unsigned words to doublewords.
#[inline]
pub fn pmovzxwd(a: Xmm) -> Xmm {
    let a = a as u64;
    join32(std::array::from_fn(|i| u32::from((a >> (16 * i)) as u16)))
}

/// Unsigned words to quadwords.
#[inline]
pub fn pmovzxwq(a: Xmm) -> Xmm {
    let a = a as u64;
    join64(std::array::from_fn(|i| u64::from((a >> (16 * i)) as u16)))
}

/// Unsigned doublewords to quadwords.
#[inline]
pub fn pmovzxdq(a: Xmm) -> Xmm {
    let a = a as u64;
    join64(std::array::from_fn(|i| u64::from((a >> (32 * i)) as u32)))
}
