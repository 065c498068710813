//! Rounding to integral values in floating point.

use super::fast::{Guess, INTEGRAL_LIMIT, Lane, integral};
use super::float::{count, each_lane, lane, with_low};
use super::lanes::Xmm;
use super::mxcsr::exception::PE;
use super::mxcsr::{Mxcsr, Rounding, Unmasked};
use super::soft;

#[inline(always)]
fn round<L: Lane>(a: Xmm, imm: u8, lanes: u32, mxcsr: &mut Mxcsr) -> Result<Xmm, Unmasked> {
    let rounding = if imm & 4 != 0 { mxcsr.rounding() } else { Rounding::from_bits(imm.into()) };
    let wanted = if imm & 8 != 0 { !PE } else { !0 };
    each_lane(
        lanes,
        mxcsr,
        |i, _| {
            let a = lane::<L>(a, i);
            let v = a.to_f64();
            let integral = integral(v, rounding);
            Guess {
                value: L::from_integral(integral),
                certain: a.is_plain() & (v.abs() < INTEGRAL_LIMIT),
                exceptions: if integral != v { PE & wanted } else { 0 },
            }
        },
        |i, mxcsr| {
            let (result, exceptions) = soft::round_to_integer::<L>(lane(a, i), rounding, mxcsr);
            (result, exceptions & wanted)
        },
    )
}

/// Rounds singles: by the immediate's low two bits, or MXCSR if bit 2 is set; bit 3 keeps PE clear.
#[inline]
pub fn roundps(a: Xmm, imm: u8, mxcsr: &mut Mxcsr) -> Result<Xmm, Unmasked> {
    round::<u32>(a, imm, count::<u32>(), mxcsr)
}

/// Rounds doubles; see [`roundps`].
#[inline]
pub fn roundpd(a: Xmm, imm: u8, mxcsr: &mut Mxcsr) -> Result<Xmm, Unmasked> {
    round::<u64>(a, imm, count::<u64>(), mxcsr)
}

/// Rounds the second operand's low single; the rest is the first operand's. See [`roundps`].
#[inline]
pub fn roundss(a: Xmm, b: Xmm, imm: u8, mxcsr: &mut Mxcsr) -> Result<Xmm, Unmasked> {
    Ok(with_low(a, u32::of(round::<u32>(b, imm, 1, mxcsr)?)))
}

/// Rounds the second operand's low double; the rest is the first operand's. See [`roundps`].
#[inline]
pub fn roundsd(a: Xmm, b: Xmm, imm: u8, mxcsr: &mut Mxcsr) -> Result<Xmm, Unmasked> {
    Ok(with_low(a, u64::of(round::<u64>(b, imm, 1, mxcsr)?)))
}
