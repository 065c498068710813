//! Integer addition, subtraction, averages, sums of differences, signs and bitwise logic.

use super::lanes::{Vector, join64, split64, zip32, zip64};
use super::{pcmpgtb, pcmpgtd, pcmpgtw, swar};

lanewise! {
    /// Adds bytes, wrapping.
    paddb, |a, b| swar::add(a, b, swar::BYTES);
    /// Adds words, wrapping.
    paddw, |a, b| swar::add(a, b, swar::WORDS);
    /// Adds doublewords, wrapping.
    paddd, |a, b| zip32(a, b, u32::wrapping_add);
    /// Adds quadwords, wrapping.
    paddq, |a, b| zip64(a, b, u64::wrapping_add);
    /// Subtracts bytes, wrapping.
    psubb, |a, b| swar::sub(a, b, swar::BYTES);
    /// Subtracts words, wrapping.
    psubw, |a, b| swar::sub(a, b, swar::WORDS);
    /// Subtracts doublewords, wrapping.
    psubd, |a, b| zip32(a, b, u32::wrapping_sub);
    /// Subtracts quadwords, wrapping.
    psubq, |a, b| zip64(a, b, u64::wrapping_sub);
    /// Adds signed bytes with saturation.
    paddsb, |a, b| swar::add_signed(a, b, swar::BYTES);
    /// Adds signed words with saturation.
    paddsw, |a, b| swar::add_signed(a, b, swar::WORDS);
    /// Adds unsigned bytes with saturation.
    paddusb, |a, b| swar::add_unsigned(a, b, swar::BYTES);
    /// Adds unsigned words with saturation.
    paddusw, |a, b| swar::add_unsigned(a, b, swar::WORDS);
    /// Subtracts signed bytes with saturation.
    psubsb, |a, b| swar::sub_signed(a, b, swar::BYTES);
    /// Subtracts signed words with saturation.
    psubsw, |a, b| swar::sub_signed(a, b, swar::WORDS);
    /// Subtracts unsigned bytes with saturation.
    psubusb, |a, b| swar::sub_unsigned(a, b, swar::BYTES);
    /// Subtracts unsigned words with saturation.
    psubusw, |a, b| swar::sub_unsigned(a, b, swar::WORDS);
    /// Averages unsigned bytes, rounding up.
    pavgb, |a, b| swar::average(a, b, swar::BYTES);
    /// Averages unsigned words, rounding up.
    pavgw, |a, b| swar::average(a, b, swar::WORDS);
    /// Sums the absolute differences of each eight unsigned bytes.
    psadbw, |a, b| {
        // One of the differences is zero where they saturate.
        let differences = swar::sub_unsigned(a, b, swar::BYTES) | swar::sub_unsigned(b, a, swar::BYTES);
        const EVEN: u128 = u128::MAX / 0xffff * 0xff;
        let pairs = (differences & EVEN).wrapping_add(differences >> 8 & EVEN);
        // The multiplication adds the words up in the highest.
        join64(split64(pairs).map(|v| v.wrapping_mul(0x0001_0001_0001_0001) >> 48))
    };
}

/// Bitwise and; also andps and andpd.
#[inline]
pub fn pand<V: Vector>(a: V, b: V) -> V {
    V::narrow(a.wide() & b.wide())
}

/// Bitwise and with the complement of the first operand; also andnps and andnpd.
#[inline]
pub fn pandn<V: Vector>(a: V, b: V) -> V {
    V::narrow(!a.wide() & b.wide())
}

/// Bitwise or; also orps and orpd.
#[inline]
pub fn por<V: Vector>(a: V, b: V) -> V {
    V::narrow(a.wide() | b.wide())
}

/// Bitwise exclusive or; also xorps and xorpd.
#[inline]
pub fn pxor<V: Vector>(a: V, b: V) -> V {
    V::narrow(a.wide() ^ b.wide())
}

/// Absolute values of signed bytes.
#[inline]
pub fn pabsb<V: Vector>(a: V) -> V {
    let negative = pcmpgtb(0, a.wide());
    V::narrow(psubb(a.wide() ^ negative, negative))
}

/// Absolute values of signed words.
#[inline]
pub fn pabsw<V: Vector>(a: V) -> V {
    let negative = pcmpgtw(0, a.wide());
    V::narrow(psubw(a.wide() ^ negative, negative))
}

/// Absolute values of signed doublewords.
#[inline]
pub fn pabsd<V: Vector>(a: V) -> V {
    let negative = pcmpgtd(0, a.wide());
    V::narrow(psubd(a.wide() ^ negative, negative))
}

/// The first operand's bytes negated, zeroed or kept by the signs of the second's.
#[inline]
pub fn psignb<V: Vector>(a: V, b: V) -> V {
    let (a, b) = (a.wide(), b.wide());
    let negative = pcmpgtb(0, b);
    V::narrow(psubb(a ^ negative, negative) & !super::pcmpeqb(b, 0))
}

/// The first operand's words negated, zeroed or kept by the signs of the second's.
#[inline]
pub fn psignw<V: Vector>(a: V, b: V) -> V {
    let (a, b) = (a.wide(), b.wide());
    let negative = pcmpgtw(0, b);
    V::narrow(psubw(a ^ negative, negative) & !super::pcmpeqw(b, 0))
}

/// The first operand's doublewords negated, zeroed or kept by the signs of the second's.
#[inline]
pub fn psignd<V: Vector>(a: V, b: V) -> V {
    let (a, b) = (a.wide(), b.wide());
    let negative = pcmpgtd(0, b);
    V::narrow(psubd(a ^ negative, negative) & !super::pcmpeqd(b, 0))
}
