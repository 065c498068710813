//! Blends: lanes of the second operand where a mask says so, of the first elsewhere.

use super::lanes::{Xmm, map32, map64};
use super::swar::{self, select};

/// Spreads an immediate's bits to lanes of `bits` bits.
#[inline(always)]
fn spread(imm: u8, bits: u32) -> Xmm {
    let lane = u128::MAX >> (128 - bits);
    (0..128 / bits).fold(0, |all, i| if imm >> i & 1 == 1 { all | lane << (i * bits) } else { all })
}

/// Words by the immediate.
#[inline]
pub fn pblendw(a: Xmm, b: Xmm, imm: u8) -> Xmm {
    select(spread(imm, 16), b, a)
}

/// Doublewords by the immediate.
#[inline]
pub fn blendps(a: Xmm, b: Xmm, imm: u8) -> Xmm {
    select(spread(imm, 32), b, a)
}

/// Quadwords by the immediate.
#[inline]
pub fn blendpd(a: Xmm, b: Xmm, imm: u8) -> Xmm {
    select(spread(imm, 64), b, a)
}

/// Bytes by the mask's (XMM0's) sign bits.
#[inline]
pub fn pblendvb(a: Xmm, b: Xmm, mask: Xmm) -> Xmm {
    let mask = swar::spread(mask, swar::BYTES);
    select(mask, b, a)
}

/// Doublewords by the mask's (XMM0's) sign bits.
#[inline]
pub fn blendvps(a: Xmm, b: Xmm, mask: Xmm) -> Xmm {
    select(map32(mask, |m| (m as i32 >> 31) as u32), b, a)
}

/// Quadwords by the mask's (XMM0's) sign bits.
#[inline]
pub fn blendvpd(a: Xmm, b: Xmm, mask: Xmm) -> Xmm {
    select(map64(mask, |m| (m as i64 >> 63) as u64), b, a)
}
