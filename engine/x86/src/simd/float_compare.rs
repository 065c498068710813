//! Floating-point comparisons, minima and maxima.

use std::cmp::Ordering;

use super::fast::{Guess, Lane};
use super::float::{count, each_lane, lane, with_low};
use super::lanes::Xmm;
use super::mxcsr::exception::IE;
use super::mxcsr::{Mxcsr, Unmasked};
use super::rflags::{CF, PF, ZF};
use super::soft::{Class, Flagged, Format, Parts};

/// How the operands compare, and the exceptions if a quiet NaN is invalid (`signaling`) or not.
fn order<F: Format>(a: F, b: F, signaling: bool, mxcsr: Mxcsr) -> (Option<Ordering>, u32) {
    let (x, y) = (Parts::of(a, mxcsr), Parts::of(b, mxcsr));
    if x.is_nan() || y.is_nan() {
        let invalid = signaling || x.class == Class::Signaling || y.class == Class::Signaling;
        return (None, if invalid { IE } else { 0 });
    }
    // Bits without the sign are ordered as the numbers are.
    let key = |v: F, parts: Parts| {
        let magnitude = if parts.class == Class::Zero { 0 } else { (v.into() & !F::SIGN) as i64 };
        if parts.negative { -magnitude } else { magnitude }
    };
    (Some(key(a, x).cmp(&key(b, y))), x.denormal | y.denormal)
}

/// Whether the predicate that the immediate's low bits are holds.
#[inline(always)]
fn predicate(order: Option<Ordering>, imm: u8) -> bool {
    let holds = match imm & 3 {
        0 => order == Some(Ordering::Equal),
        1 => order == Some(Ordering::Less),
        2 => matches!(order, Some(Ordering::Less | Ordering::Equal)),
        _ => order.is_none(),
    };
    holds != (imm & 4 != 0)
}

#[inline(always)]
fn compare<L: Lane>(a: Xmm, b: Xmm, imm: u8, lanes: u32, mxcsr: &mut Mxcsr) -> Result<Xmm, Unmasked> {
    let mask = |holds: bool| L::truncate(if holds { u64::MAX } else { 0 });
    each_lane(
        lanes,
        mxcsr,
        |i, _| {
            let (a, b) = (lane::<L>(a, i), lane::<L>(b, i));
            let (x, y) = (a.to_f64(), b.to_f64());
            let holds = match imm & 3 {
                0 => x == y,
                1 => x < y,
                2 => x <= y,
                _ => false,
            };
            let value = mask(holds != (imm & 4 != 0));
            Guess { value, certain: a.is_plain() & b.is_plain(), exceptions: 0 }
        },
        |i, mxcsr| {
            // Less and less-or-equal, and their negations.
            let signaling = matches!(imm & 3, 1 | 2);
            let (order, exceptions) = order::<L>(lane(a, i), lane(b, i), signaling, mxcsr);
            (mask(predicate(order, imm)), exceptions)
        },
    )
}

/// Compares singles by predicate: equal, less, less or equal, unordered, and from 4 their negations. Only the
/// immediate's low three bits count.
#[inline]
pub fn cmpps(a: Xmm, b: Xmm, imm: u8, mxcsr: &mut Mxcsr) -> Result<Xmm, Unmasked> {
    compare::<u32>(a, b, imm, 4, mxcsr)
}

/// Compares doubles; see [`cmpps`].
#[inline]
pub fn cmppd(a: Xmm, b: Xmm, imm: u8, mxcsr: &mut Mxcsr) -> Result<Xmm, Unmasked> {
    compare::<u64>(a, b, imm, 2, mxcsr)
}

/// Compares the low singles; see [`cmpps`].
#[inline]
pub fn cmpss(a: Xmm, b: Xmm, imm: u8, mxcsr: &mut Mxcsr) -> Result<Xmm, Unmasked> {
    Ok(with_low(a, u32::of(compare::<u32>(a, b, imm, 1, mxcsr)?)))
}

/// Compares the low doubles; see [`cmpps`].
#[inline]
pub fn cmpsd(a: Xmm, b: Xmm, imm: u8, mxcsr: &mut Mxcsr) -> Result<Xmm, Unmasked> {
    Ok(with_low(a, u64::of(compare::<u64>(a, b, imm, 1, mxcsr)?)))
}

#[inline(always)]
fn flags<L: Lane>(a: Xmm, b: Xmm, signaling: bool, mxcsr: &mut Mxcsr) -> Result<u64, Unmasked> {
    let (a, b) = (L::of(a), L::of(b));
    let order = if a.is_plain() && b.is_plain() {
        a.to_f64().partial_cmp(&b.to_f64())
    } else {
        let (order, exceptions) = order(a, b, signaling, *mxcsr);
        mxcsr.raise(exceptions)?;
        order
    };
    Ok(match order {
        None => ZF | PF | CF,
        Some(Ordering::Greater) => 0,
        Some(Ordering::Less) => CF,
        Some(Ordering::Equal) => ZF,
    })
}

/// Compares the low singles: ZF, PF and CF; OF, SF and AF are cleared. A quiet NaN is invalid.
#[inline]
pub fn comiss(a: Xmm, b: Xmm, mxcsr: &mut Mxcsr) -> Result<u64, Unmasked> {
    flags::<u32>(a, b, true, mxcsr)
}

/// Compares the low doubles; see [`comiss`].
#[inline]
pub fn comisd(a: Xmm, b: Xmm, mxcsr: &mut Mxcsr) -> Result<u64, Unmasked> {
    flags::<u64>(a, b, true, mxcsr)
}

/// Compares the low singles as [`comiss`], but a quiet NaN is valid.
#[inline]
pub fn ucomiss(a: Xmm, b: Xmm, mxcsr: &mut Mxcsr) -> Result<u64, Unmasked> {
    flags::<u32>(a, b, false, mxcsr)
}

/// Compares the low doubles as [`comiss`], but a quiet NaN is valid.
#[inline]
pub fn ucomisd(a: Xmm, b: Xmm, mxcsr: &mut Mxcsr) -> Result<u64, Unmasked> {
    flags::<u64>(a, b, false, mxcsr)
}

/// A denormal operand counts as the zero it is read as.
fn flushed<F: Format>(v: F, mxcsr: Mxcsr) -> F {
    if Parts::of(v, mxcsr).class == Class::Zero { F::truncate(v.into() & F::SIGN) } else { v }
}

/// The first operand if it is on the wanted side of the second; the second if not, if they are equal, and if either is
/// a NaN.
fn extreme_slowly<F: Format>(a: F, b: F, wanted: Ordering, mxcsr: Mxcsr) -> Flagged<F> {
    let (order, exceptions) = order(a, b, true, mxcsr);
    (flushed(if order == Some(wanted) { a } else { b }, mxcsr), exceptions)
}

#[inline(always)]
fn extreme<L: Lane>(a: Xmm, b: Xmm, wanted: Ordering, lanes: u32, mxcsr: &mut Mxcsr) -> Result<Xmm, Unmasked> {
    each_lane(
        lanes,
        mxcsr,
        |i, _| {
            let (a, b) = (lane::<L>(a, i), lane::<L>(b, i));
            let (x, y) = (a.to_f64(), b.to_f64());
            let first = if wanted == Ordering::Less { x < y } else { x > y };
            Guess { value: if first { a } else { b }, certain: a.is_plain() & b.is_plain(), exceptions: 0 }
        },
        |i, mxcsr| extreme_slowly::<L>(lane(a, i), lane(b, i), wanted, mxcsr),
    )
}

macro_rules! extremes {
    ($($doc:literal $wanted:ident: $ps:ident $pd:ident $ss:ident $sd:ident;)*) => {
        $(
            #[doc = concat!($doc, " of singles; the second operand's of equals and of NaNs.")]
            #[inline]
            pub fn $ps(a: Xmm, b: Xmm, mxcsr: &mut Mxcsr) -> Result<Xmm, Unmasked> {
                extreme::<u32>(a, b, Ordering::$wanted, count::<u32>(), mxcsr)
            }

            #[doc = concat!($doc, " of doubles; the second operand's of equals and of NaNs.")]
            #[inline]
            pub fn $pd(a: Xmm, b: Xmm, mxcsr: &mut Mxcsr) -> Result<Xmm, Unmasked> {
                extreme::<u64>(a, b, Ordering::$wanted, count::<u64>(), mxcsr)
            }

            #[doc = concat!($doc, " of the low singles; the second operand's of equals and of NaNs.")]
            #[inline]
            pub fn $ss(a: Xmm, b: Xmm, mxcsr: &mut Mxcsr) -> Result<Xmm, Unmasked> {
                Ok(with_low(a, u32::of(extreme::<u32>(a, b, Ordering::$wanted, 1, mxcsr)?)))
            }

            #[doc = concat!($doc, " of the low doubles; the second operand's of equals and of NaNs.")]
            #[inline]
            pub fn $sd(a: Xmm, b: Xmm, mxcsr: &mut Mxcsr) -> Result<Xmm, Unmasked> {
                Ok(with_low(a, u64::of(extreme::<u64>(a, b, Ordering::$wanted, 1, mxcsr)?)))
            }
        )*
    };
}

extremes! {
    "Minimum" Less: minps minpd minss minsd;
    "Maximum" Greater: maxps maxpd maxss maxsd;
}
