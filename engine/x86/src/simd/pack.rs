//! Narrowing with saturation, and interleaving.

use super::lanes::{Vector, Xmm, by_halves, join16, split32};

/// The definitions for 128 bits.
mod full {
    use super::super::lanes::{join8, join16, join32, join64, split8, split16, split32, split64};
    use super::super::swar;

    /// A one in every word.
    const SPREAD: u128 = u128::MAX / 0xffff;

    /// Signed words to unsigned bytes.
    #[inline(always)]
    fn bytes(words: u128) -> u64 {
        let negative = swar::spread(words, swar::WORDS);
        let over = swar::spread((words & !swar::WORDS).wrapping_add(SPREAD * 0x7f00), swar::WORDS);
        low_bytes((words | over) & !negative)
    }

    /// The low bytes of the words.
    #[inline(always)]
    fn low_bytes(words: u128) -> u64 {
        let [low, high] = split64(words & (SPREAD * 0xff)).map(|v| {
            let pairs = (v | v >> 8) & 0x0000_ffff_0000_ffff;
            (pairs | pairs >> 16) & 0xffff_ffff
        });
        high << 32 | low
    }

    lanewise! {
        /// Signed words to signed bytes.
        packsswb, |a, b| {
            let saturate = |v: u128| {
                // Of either sign, the bits but the sign are a number from 0 that 127 bounds.
                let signs = swar::spread(v, swar::WORDS);
                let over = swar::spread((v ^ signs).wrapping_add(SPREAD * 0x7f80), swar::WORDS);
                low_bytes(((v ^ signs | over) & (SPREAD * 0x7f)) ^ signs)
            };
            join64([saturate(a), saturate(b)])
        };
        /// Signed words to unsigned bytes.
        packuswb, |a, b| join64([bytes(a), bytes(b)]);
        /// Signed doublewords to signed words.
        packssdw, |a, b| {
            let (a, b) = (split32(a), split32(b));
            join16(std::array::from_fn(|i| {
                (if i < 4 { a[i] } else { b[i - 4] } as i32).clamp(-0x8000, 0x7fff) as u16
            }))
        };
        /// Low bytes.
        punpcklbw, |a, b| {
            let (a, b) = (split8(a), split8(b));
            join8(std::array::from_fn(|i| if i % 2 == 0 { a[i / 2] } else { b[i / 2] }))
        };
        /// Low words.
        punpcklwd, |a, b| {
            let (a, b) = (split16(a), split16(b));
            join16(std::array::from_fn(|i| if i % 2 == 0 { a[i / 2] } else { b[i / 2] }))
        };
        /// Low doublewords.
        punpckldq, |a, b| {
            let (a, b) = (split32(a), split32(b));
            join32([a[0], b[0], a[1], b[1]])
        };
        /// High bytes.
        punpckhbw, |a, b| {
            let (a, b) = (split8(a), split8(b));
            join8(std::array::from_fn(|i| if i % 2 == 0 { a[8 + i / 2] } else { b[8 + i / 2] }))
        };
        /// High words.
        punpckhwd, |a, b| {
            let (a, b) = (split16(a), split16(b));
            join16(std::array::from_fn(|i| if i % 2 == 0 { a[4 + i / 2] } else { b[4 + i / 2] }))
        };
        /// High doublewords.
        punpckhdq, |a, b| {
            let (a, b) = (split32(a), split32(b));
            join32([a[2], b[2], a[3], b[3]])
        };
    }
}

/// Signed words to signed bytes, with saturation.
#[inline]
pub fn packsswb<V: Vector>(a: V, b: V) -> V {
    by_halves(a, b, full::packsswb)
}

/// Signed words to unsigned bytes, with saturation.
#[inline]
pub fn packuswb<V: Vector>(a: V, b: V) -> V {
    by_halves(a, b, full::packuswb)
}

/// Signed doublewords to signed words, with saturation.
#[inline]
pub fn packssdw<V: Vector>(a: V, b: V) -> V {
    by_halves(a, b, full::packssdw)
}

/// Signed doublewords to unsigned words, with saturation.
#[inline]
pub fn packusdw(a: Xmm, b: Xmm) -> Xmm {
    let (a, b) = (split32(a), split32(b));
    join16(std::array::from_fn(|i| (if i < 4 { a[i] } else { b[i - 4] } as i32).clamp(0, 0xffff) as u16))
}

/// Interleaves the low halves' bytes.
#[inline]
pub fn punpcklbw<V: Vector>(a: V, b: V) -> V {
    V::narrow(full::punpcklbw(a.wide(), b.wide()))
}

/// Interleaves the low halves' words.
#[inline]
pub fn punpcklwd<V: Vector>(a: V, b: V) -> V {
    V::narrow(full::punpcklwd(a.wide(), b.wide()))
}

/// Interleaves the low halves' doublewords; also unpcklps.
#[inline]
pub fn punpckldq<V: Vector>(a: V, b: V) -> V {
    V::narrow(full::punpckldq(a.wide(), b.wide()))
}

/// The high halves of 64-bit operands are, interleaved, the upper half of what the low form makes of them.
#[inline(always)]
fn high<V: Vector>(a: V, b: V, low: impl Fn(Xmm, Xmm) -> Xmm, high: impl Fn(Xmm, Xmm) -> Xmm) -> V {
    V::narrow(if V::BYTES == 8 { low(a.wide(), b.wide()) >> 64 } else { high(a.wide(), b.wide()) })
}

/// Interleaves the high halves' bytes.
#[inline]
pub fn punpckhbw<V: Vector>(a: V, b: V) -> V {
    high(a, b, full::punpcklbw, full::punpckhbw)
}

/// Interleaves the high halves' words.
#[inline]
pub fn punpckhwd<V: Vector>(a: V, b: V) -> V {
    high(a, b, full::punpcklwd, full::punpckhwd)
}

/// Interleaves the high halves' doublewords; also unpckhps.
#[inline]
pub fn punpckhdq<V: Vector>(a: V, b: V) -> V {
    high(a, b, full::punpckldq, full::punpckhdq)
}

/// Joins the low quadwords; also unpcklpd.
#[inline]
pub fn punpcklqdq(a: Xmm, b: Xmm) -> Xmm {
    u128::from(a as u64) | b << 64
}

/// Joins the high quadwords; also unpckhpd.
#[inline]
pub fn punpckhqdq(a: Xmm, b: Xmm) -> Xmm {
    a >> 64 | b >> 64 << 64
}
