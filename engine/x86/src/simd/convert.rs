//! Conversions between integers and the floating-point formats.

use super::fast::{Guess, INTEGRAL_LIMIT, Lane, integral};
use super::float::{each_lane, lane, with_low};
use super::lanes::Xmm;
use super::mxcsr::exception::PE;
use super::mxcsr::{Mxcsr, Rounding, Unmasked};
use super::soft::{self, Flagged, Format};

/// Singles to doubles, which are exact.
#[inline(always)]
fn widen(a: Xmm, lanes: u32, mxcsr: &mut Mxcsr) -> Result<Xmm, Unmasked> {
    each_lane::<u64>(
        lanes,
        mxcsr,
        |i, _| {
            let a: u32 = lane(a, i);
            Guess { value: a.to_f64().to_bits(), certain: a.is_plain(), exceptions: 0 }
        },
        |i, mxcsr| soft::convert::<u32, u64>(lane(a, i), mxcsr),
    )
}

/// Doubles to singles.
#[inline(always)]
fn narrow(a: Xmm, lanes: u32, mxcsr: &mut Mxcsr) -> Result<Xmm, Unmasked> {
    each_lane::<u32>(
        lanes,
        mxcsr,
        |i, _| {
            let a: u64 = lane(a, i);
            let v = f64::from_bits(a);
            let single = (v as f32).to_bits();
            let inside = (2 << u32::FRACTION..0xfe << u32::FRACTION).contains(&(single & !(1 << 31)));
            Guess {
                value: single,
                certain: inside | (a << 1 == 0),
                exceptions: if single.to_f64() != v { PE } else { 0 },
            }
        },
        |i, mxcsr| soft::convert::<u64, u32>(lane(a, i), mxcsr),
    )
}

/// Floating point to integers of `bits` bits, in lanes of `R`.
#[inline(always)]
fn to_integers<L: Lane, R: Lane>(
    a: Xmm,
    lanes: u32,
    rounding: Option<Rounding>,
    mxcsr: &mut Mxcsr,
) -> Result<Xmm, Unmasked> {
    let rounding = rounding.unwrap_or(mxcsr.rounding());
    each_lane::<R>(
        lanes,
        mxcsr,
        |i, _| {
            let a: L = lane(a, i);
            let v = a.to_f64();
            let limit = if R::BITS == 32 { (1u64 << 31) as f64 - 1.0 } else { INTEGRAL_LIMIT };
            let integral = integral(v, rounding);
            Guess {
                value: R::truncate(integral as i64 as u64),
                certain: a.is_plain() & (v.abs() < limit),
                exceptions: if integral != v { PE } else { 0 },
            }
        },
        |i, mxcsr| {
            let (integer, exceptions) = soft::to_integer::<L>(lane(a, i), R::BITS, rounding, mxcsr);
            (R::truncate(integer), exceptions)
        },
    )
}

#[inline(always)]
fn certain<L: Lane>((value, exceptions): Flagged<L>) -> Guess<L> {
    Guess { value, certain: true, exceptions }
}

/// Signed doublewords to floating point.
#[inline(always)]
fn from_integers<L: Lane>(a: Xmm, lanes: u32, mxcsr: &mut Mxcsr) -> Result<Xmm, Unmasked> {
    let integer = |i: u32| i64::from((a >> (32 * i)) as i32);
    each_lane::<L>(
        lanes,
        mxcsr,
        |i, _| certain(L::from_i64(integer(i))),
        |i, mxcsr| soft::from_integer::<L>(integer(i), mxcsr),
    )
}

#[inline(always)]
fn from_integer<L: Lane>(a: Xmm, value: i64, mxcsr: &mut Mxcsr) -> Result<Xmm, Unmasked> {
    let low =
        each_lane::<L>(1, mxcsr, |_, _| certain(L::from_i64(value)), |_, mxcsr| soft::from_integer(value, mxcsr))?;
    Ok(with_low(a, L::of(low)))
}

const TRUNCATE: Option<Rounding> = Some(Rounding::Zero);

/// The low two singles to doubles.
#[inline]
pub fn cvtps2pd(a: Xmm, mxcsr: &mut Mxcsr) -> Result<Xmm, Unmasked> {
    widen(a, 2, mxcsr)
}

/// Doubles to singles in the low half; the high half is zero.
#[inline]
pub fn cvtpd2ps(a: Xmm, mxcsr: &mut Mxcsr) -> Result<Xmm, Unmasked> {
    narrow(a, 2, mxcsr)
}

/// The second operand's low single to a double; the rest is the first operand's.
#[inline]
pub fn cvtss2sd(a: Xmm, b: Xmm, mxcsr: &mut Mxcsr) -> Result<Xmm, Unmasked> {
    Ok(with_low(a, u64::of(widen(b, 1, mxcsr)?)))
}

/// The second operand's low double to a single; the rest is the first operand's.
#[inline]
pub fn cvtsd2ss(a: Xmm, b: Xmm, mxcsr: &mut Mxcsr) -> Result<Xmm, Unmasked> {
    Ok(with_low(a, u32::of(narrow(b, 1, mxcsr)?)))
}

/// Signed doublewords to singles.
#[inline]
pub fn cvtdq2ps(a: Xmm, mxcsr: &mut Mxcsr) -> Result<Xmm, Unmasked> {
    from_integers::<u32>(a, 4, mxcsr)
}

/// The low two signed doublewords to doubles, which is exact.
#[inline]
pub fn cvtdq2pd(a: Xmm) -> Xmm {
    let double = |v: u32| u128::from(f64::from(v as i32).to_bits());
    double(a as u32) | double((a >> 32) as u32) << 64
}

/// Singles to signed doublewords.
#[inline]
pub fn cvtps2dq(a: Xmm, mxcsr: &mut Mxcsr) -> Result<Xmm, Unmasked> {
    to_integers::<u32, u32>(a, 4, None, mxcsr)
}

/// Singles to signed doublewords, toward zero.
#[inline]
pub fn cvttps2dq(a: Xmm, mxcsr: &mut Mxcsr) -> Result<Xmm, Unmasked> {
    to_integers::<u32, u32>(a, 4, TRUNCATE, mxcsr)
}

/// Doubles to signed doublewords in the low half; the high half is zero.
#[inline]
pub fn cvtpd2dq(a: Xmm, mxcsr: &mut Mxcsr) -> Result<Xmm, Unmasked> {
    to_integers::<u64, u32>(a, 2, None, mxcsr)
}

/// Doubles to signed doublewords in the low half, toward zero; the high half is zero.
#[inline]
pub fn cvttpd2dq(a: Xmm, mxcsr: &mut Mxcsr) -> Result<Xmm, Unmasked> {
    to_integers::<u64, u32>(a, 2, TRUNCATE, mxcsr)
}

/// A doubleword to a single; the rest is the operand's.
#[inline]
pub fn cvtsi2ss32(a: Xmm, value: u32, mxcsr: &mut Mxcsr) -> Result<Xmm, Unmasked> {
    from_integer::<u32>(a, i64::from(value as i32), mxcsr)
}

/// A quadword to a single; the rest is the operand's.
#[inline]
pub fn cvtsi2ss64(a: Xmm, value: u64, mxcsr: &mut Mxcsr) -> Result<Xmm, Unmasked> {
    from_integer::<u32>(a, value as i64, mxcsr)
}

/// A doubleword to a double, which is exact; the rest is the operand's.
#[inline]
pub fn cvtsi2sd32(a: Xmm, value: u32) -> Xmm {
    with_low(a, f64::from(value as i32).to_bits())
}

/// A quadword to a double; the rest is the operand's.
#[inline]
pub fn cvtsi2sd64(a: Xmm, value: u64, mxcsr: &mut Mxcsr) -> Result<Xmm, Unmasked> {
    from_integer::<u64>(a, value as i64, mxcsr)
}

macro_rules! to_register {
    ($($(#[$doc:meta])* $name:ident: $lane:ty => $register:ty, $rounding:expr;)*) => {
        $(
            $(#[$doc])*
            #[inline]
            pub fn $name(a: Xmm, mxcsr: &mut Mxcsr) -> Result<$register, Unmasked> {
                Ok(to_integers::<$lane, $register>(a, 1, $rounding, mxcsr)? as $register)
            }
        )*
    };
}

to_register! {
    /// The low single to a doubleword.
    cvtss2si32: u32 => u32, None;
    /// The low single to a quadword.
    cvtss2si64: u32 => u64, None;
    /// The low single to a doubleword, toward zero.
    cvttss2si32: u32 => u32, TRUNCATE;
    /// The low single to a quadword, toward zero.
    cvttss2si64: u32 => u64, TRUNCATE;
    /// The low double to a doubleword.
    cvtsd2si32: u64 => u32, None;
    /// The low double to a quadword.
    cvtsd2si64: u64 => u64, None;
    /// The low double to a doubleword, toward zero.
    cvttsd2si32: u64 => u32, TRUNCATE;
    /// The low double to a quadword, toward zero.
    cvttsd2si64: u64 => u64, TRUNCATE;
}

/// Two signed doublewords to singles in the low half; the high half is the operand's.
#[inline]
pub fn cvtpi2ps(a: Xmm, value: u64, mxcsr: &mut Mxcsr) -> Result<Xmm, Unmasked> {
    Ok(a >> 64 << 64 | from_integers::<u32>(value.into(), 2, mxcsr)?)
}

/// Two signed doublewords to doubles, which is exact.
#[inline]
pub fn cvtpi2pd(value: u64) -> Xmm {
    cvtdq2pd(value.into())
}

/// The low two singles to signed doublewords.
#[inline]
pub fn cvtps2pi(a: Xmm, mxcsr: &mut Mxcsr) -> Result<u64, Unmasked> {
    Ok(to_integers::<u32, u32>(a, 2, None, mxcsr)? as u64)
}

/// The low two singles to signed doublewords, toward zero.
#[inline]
pub fn cvttps2pi(a: Xmm, mxcsr: &mut Mxcsr) -> Result<u64, Unmasked> {
    Ok(to_integers::<u32, u32>(a, 2, TRUNCATE, mxcsr)? as u64)
}

/// Doubles to signed doublewords.
#[inline]
pub fn cvtpd2pi(a: Xmm, mxcsr: &mut Mxcsr) -> Result<u64, Unmasked> {
    Ok(cvtpd2dq(a, mxcsr)? as u64)
}

/// Doubles to signed doublewords, toward zero.
#[inline]
pub fn cvttpd2pi(a: Xmm, mxcsr: &mut Mxcsr) -> Result<u64, Unmasked> {
    Ok(cvttpd2dq(a, mxcsr)? as u64)
}
