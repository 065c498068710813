//! Carry-less multiplication.

use super::lanes::Xmm;

/// The low 64 bits of the carry-less product.
///
/// Ordinary multiplication carries; with only every fourth bit of the factors set, at most sixteen ones meet in a
/// column, and the carries stay within the three bits between (sixteen meet only in the top column, whose carry
/// leaves the word).
#[inline]
fn low(a: u64, b: u64) -> u64 {
    const EVERY_FOURTH: u64 = 0x1111_1111_1111_1111;
    let part = |v: u64, i: u32| v & EVERY_FOURTH << i;
    (0..4).fold(0, |all, i| {
        let column = (0..4).fold(0, |sum, j| sum ^ part(a, j).wrapping_mul(part(b, (4 + i - j) % 4)));
        all | part(column, i)
    })
}

/// Multiplies one quadword of each operand, which the immediate selects, without carries.
#[inline]
pub fn pclmulqdq(a: Xmm, b: Xmm, imm: u8) -> Xmm {
    let a = super::pextrq(a, imm);
    let b = super::pextrq(b, imm >> 4);
    // The product read backwards is the product of the factors read backwards.
    let high = low(a.reverse_bits(), b.reverse_bits()).reverse_bits() >> 1;
    u128::from(high) << 64 | u128::from(low(a, b))
}
