//! Integer shifts.
//!
//! The count is the low quadword of the second operand (or the immediate), for all lanes the same.

use super::lanes::{Vector, Xmm, map32, map64};
use super::swar;

macro_rules! shifts {
    ($($(#[$doc:meta])* $name:ident, |$v:ident, $count:ident| $result:expr;)*) => {
        $(
            $(#[$doc])*
            #[inline]
            pub fn $name<V: Vector>(a: V, count: u64) -> V {
                let ($v, $count) = (a.wide(), count.min(255) as u32);
                V::narrow($result)
            }
        )*
    };
}

/// Shifts quadwords, and clears the bits that came from neighbouring words.
#[inline(always)]
fn words(v: Xmm, n: u32, shift: impl Fn(u64, u32) -> u64, lane: impl Fn(u16, u32) -> u16) -> Xmm {
    if n > 15 {
        return 0;
    }
    let kept = u64::from(lane(0xffff, n)) * 0x0001_0001_0001_0001;
    map64(v, |v| shift(v, n) & kept)
}

shifts! {
    /// Words left by a count.
    psllw, |v, n| words(v, n, |v, n| v << n, |lane, n| lane << n);
    /// Doublewords left by a count.
    pslld, |v, n| map32(v, |v| v.checked_shl(n).unwrap_or(0));
    /// Quadwords left by a count.
    psllq, |v, n| map64(v, |v| v.checked_shl(n).unwrap_or(0));
    /// Words right by a count.
    psrlw, |v, n| words(v, n, |v, n| v >> n, |lane, n| lane >> n);
    /// Doublewords right by a count.
    psrld, |v, n| map32(v, |v| v.checked_shr(n).unwrap_or(0));
    /// Quadwords right by a count.
    psrlq, |v, n| map64(v, |v| v.checked_shr(n).unwrap_or(0));
    /// Signed words right by a count.
    psraw, |v, n| {
        let signs = swar::spread(v, swar::WORDS);
        let n = n.min(15);
        words(v ^ signs, n, |v, n| v >> n, |lane, n| lane >> n) ^ signs
    };
    /// Signed doublewords right by a count.
    psrad, |v, n| map32(v, |v| ((v as i32) >> n.min(31)) as u32);
}

/// The whole value left by bytes.
#[inline]
pub fn pslldq(a: Xmm, imm: u8) -> Xmm {
    a.checked_shl(u32::from(imm) * 8).unwrap_or(0)
}

/// The whole value right by bytes.
#[inline]
pub fn psrldq(a: Xmm, imm: u8) -> Xmm {
    a.checked_shr(u32::from(imm) * 8).unwrap_or(0)
}

/// The operands as one value, the first above the second, right by bytes.
#[inline]
pub fn palignr<V: Vector>(a: V, b: V, imm: u8) -> V {
    let count = u32::from(imm);
    let right = |v: Xmm, bytes: u32| v.checked_shr(bytes * 8).unwrap_or(0);
    let left = |v: Xmm, bytes: u32| v.checked_shl(bytes * 8).unwrap_or(0);
    let size = V::BYTES;
    V::narrow(if count <= size {
        right(b.wide(), count) | left(a.wide(), size - count)
    } else {
        right(a.wide(), count - size)
    })
}
