//! Integer additions and subtractions of neighbours.

use super::lanes::{Vector, Xmm, by_halves, join16, split16};
use super::multiply::neighbours32;

#[inline(always)]
fn neighbours16(a: Xmm, b: Xmm, f: impl Fn(u16, u16) -> u16) -> Xmm {
    let (a, b) = (split16(a), split16(b));
    join16(std::array::from_fn(|i| {
        let (from, at) = if i < 4 { (&a, 2 * i) } else { (&b, 2 * i - 8) };
        f(from[at], from[at + 1])
    }))
}

/// Adds neighbouring words.
#[inline]
pub fn phaddw<V: Vector>(a: V, b: V) -> V {
    by_halves(a, b, |a, b| neighbours16(a, b, u16::wrapping_add))
}

/// Adds neighbouring doublewords.
#[inline]
pub fn phaddd<V: Vector>(a: V, b: V) -> V {
    by_halves(a, b, |a, b| neighbours32(a, b, u32::wrapping_add))
}

/// Adds neighbouring signed words with saturation.
#[inline]
pub fn phaddsw<V: Vector>(a: V, b: V) -> V {
    by_halves(a, b, |a, b| neighbours16(a, b, |a, b| (a as i16).saturating_add(b as i16) as u16))
}

/// Subtracts neighbouring words, the odd from the even.
#[inline]
pub fn phsubw<V: Vector>(a: V, b: V) -> V {
    by_halves(a, b, |a, b| neighbours16(a, b, u16::wrapping_sub))
}

/// Subtracts neighbouring doublewords, the odd from the even.
#[inline]
pub fn phsubd<V: Vector>(a: V, b: V) -> V {
    by_halves(a, b, |a, b| neighbours32(a, b, u32::wrapping_sub))
}

/// Subtracts neighbouring signed words with saturation, the odd from the even.
#[inline]
pub fn phsubsw<V: Vector>(a: V, b: V) -> V {
    by_halves(a, b, |a, b| neighbours16(a, b, |a, b| (a as i16).saturating_sub(b as i16) as u16))
}
