//! Floating-point arithmetic.

use super::fast::{Guess, Lane};
use super::lanes::Xmm;
use super::mxcsr::{Mxcsr, Unmasked};
use super::soft::{self, Flagged};

/// A lane of a vector.
#[inline(always)]
pub(super) fn lane<L: Lane>(v: Xmm, i: u32) -> L {
    L::of(v >> (i * L::BITS))
}

/// Replaces the lowest lane.
#[inline(always)]
pub(super) fn with_low<L: Lane>(a: Xmm, low: L) -> Xmm {
    a >> L::BITS << L::BITS | u128::from(low.into())
}

/// How many lanes a vector has.
#[inline(always)]
pub(super) const fn count<L: Lane>() -> u32 {
    128 / L::BITS
}

/// Applies the same to the first `lanes` lanes: by `fast` if that is certain for all of them, else by `slow`. The lanes
/// above are zero.
#[inline(always)]
pub(super) fn each_lane<L: Lane>(
    lanes: u32,
    mxcsr: &mut Mxcsr,
    fast: impl Fn(u32, bool) -> Guess<L>,
    slow: impl Fn(u32, Mxcsr) -> Flagged<L>,
) -> Result<Xmm, Unmasked> {
    if mxcsr.is_ordinary() {
        let guess = if mxcsr.is_inexact() { guess_lanes(lanes, false, &fast) } else { guess_lanes(lanes, true, &fast) };
        if let Some((result, exceptions)) = guess {
            mxcsr.0 |= exceptions;
            return Ok(result);
        }
    }
    each_lane_slowly(lanes, mxcsr, slow)
}

#[inline(always)]
fn guess_lanes<L: Lane>(lanes: u32, check: bool, fast: &impl Fn(u32, bool) -> Guess<L>) -> Option<(Xmm, u32)> {
    let (mut result, mut exceptions) = (0, 0);
    for i in 0..lanes {
        let guess = fast(i, check);
        if !guess.certain {
            return None;
        }
        result |= u128::from(guess.value.into()) << (i * L::BITS);
        exceptions |= guess.exceptions;
    }
    Some((result, exceptions))
}

#[cold]
#[inline(never)]
fn each_lane_slowly<L: Lane>(
    lanes: u32,
    mxcsr: &mut Mxcsr,
    slow: impl Fn(u32, Mxcsr) -> Flagged<L>,
) -> Result<Xmm, Unmasked> {
    let (mut result, mut exceptions) = (0, 0);
    for i in 0..lanes {
        let (value, flags) = slow(i, *mxcsr);
        result |= u128::from(value.into()) << (i * L::BITS);
        exceptions |= flags;
    }
    mxcsr.raise(exceptions)?;
    Ok(result)
}

#[inline(always)]
fn packed<L: Lane>(
    a: Xmm,
    b: Xmm,
    mxcsr: &mut Mxcsr,
    fast: impl Fn(L, L, bool) -> Guess<L>,
    slow: impl Fn(L, L, Mxcsr) -> Flagged<L>,
) -> Result<Xmm, Unmasked> {
    let (fast, slow) = (&fast, &slow);
    each_lane(
        count::<L>(),
        mxcsr,
        |i, check| fast(lane(a, i), lane(b, i), check),
        move |i, mxcsr| slow(lane(a, i), lane(b, i), mxcsr),
    )
}

#[inline(always)]
fn scalar<L: Lane>(
    a: Xmm,
    b: Xmm,
    mxcsr: &mut Mxcsr,
    fast: impl Fn(L, L, bool) -> Guess<L>,
    slow: impl Fn(L, L, Mxcsr) -> Flagged<L>,
) -> Result<Xmm, Unmasked> {
    let low =
        each_lane(1, mxcsr, |_, check| fast(L::of(a), L::of(b), check), |_, mxcsr| slow(L::of(a), L::of(b), mxcsr))?;
    Ok(with_low(a, L::of(low)))
}

macro_rules! arithmetic {
    ($($doc:literal $op:ident: $ps:ident $pd:ident $ss:ident $sd:ident;)*) => {
        $(
            #[doc = concat!($doc, " singles.")]
            #[inline]
            pub fn $ps(a: Xmm, b: Xmm, mxcsr: &mut Mxcsr) -> Result<Xmm, Unmasked> {
                packed::<u32>(a, b, mxcsr, Lane::$op, soft::$op)
            }

            #[doc = concat!($doc, " doubles.")]
            #[inline]
            pub fn $pd(a: Xmm, b: Xmm, mxcsr: &mut Mxcsr) -> Result<Xmm, Unmasked> {
                packed::<u64>(a, b, mxcsr, Lane::$op, soft::$op)
            }

            #[doc = concat!($doc, " the low singles; the rest is the first operand's.")]
            #[inline]
            pub fn $ss(a: Xmm, b: Xmm, mxcsr: &mut Mxcsr) -> Result<Xmm, Unmasked> {
                scalar::<u32>(a, b, mxcsr, Lane::$op, soft::$op)
            }

            #[doc = concat!($doc, " the low doubles; the rest is the first operand's.")]
            #[inline]
            pub fn $sd(a: Xmm, b: Xmm, mxcsr: &mut Mxcsr) -> Result<Xmm, Unmasked> {
                scalar::<u64>(a, b, mxcsr, Lane::$op, soft::$op)
            }
        )*
    };
}

arithmetic! {
    "Adds" add: addps addpd addss addsd;
    "Subtracts" sub: subps subpd subss subsd;
    "Multiplies" mul: mulps mulpd mulss mulsd;
    "Divides" div: divps divpd divss divsd;
}

#[inline(always)]
fn root<L: Lane>(a: Xmm, lanes: u32, mxcsr: &mut Mxcsr) -> Result<Xmm, Unmasked> {
    each_lane(lanes, mxcsr, |i, check| L::sqrt(lane(a, i), check), |i, mxcsr| soft::sqrt::<L>(lane(a, i), mxcsr))
}

/// Square roots of singles.
#[inline]
pub fn sqrtps(a: Xmm, mxcsr: &mut Mxcsr) -> Result<Xmm, Unmasked> {
    root::<u32>(a, 4, mxcsr)
}

/// Square roots of doubles.
#[inline]
pub fn sqrtpd(a: Xmm, mxcsr: &mut Mxcsr) -> Result<Xmm, Unmasked> {
    root::<u64>(a, 2, mxcsr)
}

/// Square root of the second operand's low single; the rest is the first operand's.
#[inline]
pub fn sqrtss(a: Xmm, b: Xmm, mxcsr: &mut Mxcsr) -> Result<Xmm, Unmasked> {
    Ok(with_low(a, u32::of(root::<u32>(b, 1, mxcsr)?)))
}

/// Square root of the second operand's low double; the rest is the first operand's.
#[inline]
pub fn sqrtsd(a: Xmm, b: Xmm, mxcsr: &mut Mxcsr) -> Result<Xmm, Unmasked> {
    Ok(with_low(a, u64::of(root::<u64>(b, 1, mxcsr)?)))
}

/// Adds neighbouring singles.
#[inline]
pub fn haddps(a: Xmm, b: Xmm, mxcsr: &mut Mxcsr) -> Result<Xmm, Unmasked> {
    addps(super::shufps(a, b, 0x88), super::shufps(a, b, 0xdd), mxcsr)
}

/// Adds neighbouring doubles.
#[inline]
pub fn haddpd(a: Xmm, b: Xmm, mxcsr: &mut Mxcsr) -> Result<Xmm, Unmasked> {
    addpd(super::unpcklpd(a, b), super::unpckhpd(a, b), mxcsr)
}

/// Subtracts neighbouring singles, the odd from the even.
#[inline]
pub fn hsubps(a: Xmm, b: Xmm, mxcsr: &mut Mxcsr) -> Result<Xmm, Unmasked> {
    subps(super::shufps(a, b, 0x88), super::shufps(a, b, 0xdd), mxcsr)
}

/// Subtracts neighbouring doubles, the odd from the even.
#[inline]
pub fn hsubpd(a: Xmm, b: Xmm, mxcsr: &mut Mxcsr) -> Result<Xmm, Unmasked> {
    subpd(super::unpcklpd(a, b), super::unpckhpd(a, b), mxcsr)
}

#[inline(always)]
fn alternate<L: Lane>(a: Xmm, b: Xmm, mxcsr: &mut Mxcsr) -> Result<Xmm, Unmasked> {
    each_lane(
        count::<L>(),
        mxcsr,
        |i, check| {
            if i % 2 == 0 { L::sub(lane(a, i), lane(b, i), check) } else { L::add(lane(a, i), lane(b, i), check) }
        },
        |i, mxcsr| {
            let op = if i % 2 == 0 { soft::sub::<L> } else { soft::add::<L> };
            op(lane(a, i), lane(b, i), mxcsr)
        },
    )
}

/// Subtracts the even singles, adds the odd.
#[inline]
pub fn addsubps(a: Xmm, b: Xmm, mxcsr: &mut Mxcsr) -> Result<Xmm, Unmasked> {
    alternate::<u32>(a, b, mxcsr)
}

/// Subtracts the even double, adds the odd.
#[inline]
pub fn addsubpd(a: Xmm, b: Xmm, mxcsr: &mut Mxcsr) -> Result<Xmm, Unmasked> {
    alternate::<u64>(a, b, mxcsr)
}

/// The dot product of the singles the immediate's high half selects, in the lanes its low half selects.
#[inline]
pub fn dpps(a: Xmm, b: Xmm, imm: u8, mxcsr: &mut Mxcsr) -> Result<Xmm, Unmasked> {
    // What is not selected counts as zero, and so does a product of zeros.
    let products = mulps(super::blendps(0, a, imm >> 4), super::blendps(0, b, imm >> 4), mxcsr)?;
    // Each lane adds itself to its neighbour, then the other half: of several NaNs each keeps the one that it met first.
    let pairs = addps(super::pshufd(products, 0b10_11_00_01), products, mxcsr)?;
    let sum = addps(pairs, super::pshufd(pairs, 0b01_00_11_10), mxcsr)?;
    Ok(super::blendps(0, sum, imm))
}

/// The dot product of the doubles the immediate's high half selects, in the lanes its low half selects.
#[inline]
pub fn dppd(a: Xmm, b: Xmm, imm: u8, mxcsr: &mut Mxcsr) -> Result<Xmm, Unmasked> {
    let products = mulpd(super::blendpd(0, a, imm >> 4), super::blendpd(0, b, imm >> 4), mxcsr)?;
    let sum = addpd(products, super::shufpd(products, products, 1), mxcsr)?;
    Ok(super::blendpd(0, sum, imm))
}
