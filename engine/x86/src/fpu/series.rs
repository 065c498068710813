//! The power series, on fractions of 2^128, and the tables that keep them short.

use super::wide::{Wide, multiply_high};

/// 1 as nearly as a fraction of 2^128 has it.
const ALMOST_ONE: u128 = u128::MAX;

/// 1/1!, 1/2!, 1/3! and on.
const FACTORIALS: [u128; 36] = {
    let mut table = [ALMOST_ONE; 36];
    let mut n = 1;
    while n < 36 {
        table[n] = table[n - 1] / (n as u128 + 1);
        n += 1;
    }
    table
};

/// 1/1, 1/3, 1/5 and on.
const ODD: [u128; 28] = {
    let mut table = [ALMOST_ONE; 28];
    let mut n = 1;
    while n < 28 {
        table[n] = ALMOST_ONE / (2 * n as u128 + 1);
        n += 1;
    }
    table
};

/// Horner's scheme with alternating signs: c0 - x (c1 - x (c2 - ...)), of which the coefficients fall.
#[inline]
fn alternating<'a>(x: u128, coefficients: impl DoubleEndedIterator<Item = &'a u128>) -> u128 {
    coefficients.rev().fold(0, |sum, &coefficient| coefficient.saturating_sub(multiply_high(x, sum)))
}

/// Horner's scheme: c0 + x (c1 + x (c2 + ...)), which must stay below 1.
#[inline]
fn ascending<'a>(x: u128, coefficients: impl DoubleEndedIterator<Item = &'a u128>) -> u128 {
    coefficients.rev().fold(0, |sum, &coefficient| coefficient.saturating_add(multiply_high(x, sum)))
}

/// `x` - `x` × `relative`, or just below `x` where the series is too small to be seen.
fn slightly_less(x: Wide, relative: u128) -> Wide {
    if relative == 0 { x.nudged_down() } else { x.subtract(x.multiply(Wide::from_fraction(relative))) }
}

/// sin r for |r| ≤ π/4.
pub(super) fn sine(r: Wide) -> Wide {
    let square = r.multiply(r).to_fraction();
    // r - r (r²/3! - r⁴/5! + ...)
    slightly_less(r, multiply_high(square, alternating(square, FACTORIALS.iter().skip(2).step_by(2).take(15))))
}

/// cos r for |r| ≤ π/4.
pub(super) fn cosine(r: Wide) -> Wide {
    let square = r.multiply(r).to_fraction();
    // 1 - (r²/2! - r⁴/4! + ...)
    slightly_less(Wide::ONE, multiply_high(square, alternating(square, FACTORIALS.iter().skip(1).step_by(2).take(16))))
}

/// e^z - 1 for |z| < 1/32.
pub(super) fn exponential_minus_1(z: Wide) -> Wide {
    let magnitude = z.to_fraction();
    // z + z (z/2! + z²/3! + ...)
    let coefficients = FACTORIALS.iter().skip(1).take(20);
    let factor = if z.negative { alternating(magnitude, coefficients) } else { ascending(magnitude, coefficients) };
    let relative = Wide::from_fraction(multiply_high(magnitude, factor)).negated_if(z.negative);
    z.add(z.multiply(relative))
}

/// artanh s for |s| < 0.18.
pub(super) fn inverse_hyperbolic_tangent(s: Wide) -> Wide {
    let square = s.multiply(s).to_fraction();
    // s + s (s²/3 + s⁴/5 + ...)
    let relative = multiply_high(square, ascending(square, ODD.iter().skip(1)));
    s.add(s.multiply(Wide::from_fraction(relative)))
}

/// arctan t for 0 < t ≤ 1.
pub(super) fn arctangent(t: Wide) -> Wide {
    // The nearest sixteenth, of which the arctangent is known.
    let sixteenths = t.scaled(4).add(Wide::power_of_two(-1));
    let index = if sixteenths.exponent < 0 {
        0
    } else {
        sixteenths.significand.unbounded_shr(127 - sixteenths.exponent.min(4) as u32)
    };
    let Some((&known, index)) = usize::try_from(index).ok().and_then(|index| Some((ARCTANGENTS.get(index)?, index)))
    else {
        return t;
    };
    if index == 0 {
        return small_arctangent(t);
    }
    let c = Wide::from_units(false, index as u128, -4);
    let difference = t.subtract(c);
    if difference.significand == 0 {
        return Wide::from_fraction(known);
    }
    let u = difference.divide(Wide::ONE.add(t.multiply(c)));
    Wide::from_fraction(known).add(small_arctangent(u))
}

/// arctan u for |u| ≤ 1/32.
fn small_arctangent(u: Wide) -> Wide {
    let square = u.multiply(u).to_fraction();
    // u - u (u²/3 - u⁴/5 + ...)
    slightly_less(u, multiply_high(square, alternating(square, ODD.iter().skip(1).take(14))))
}

/// 2^(`index`/32) for 0 ≤ `index` ≤ 32.
pub(super) fn power_of_two_fraction(index: usize) -> Wide {
    match EXPONENTIALS.get(index) {
        Some(&significand) => Wide { negative: false, exponent: 0, significand },
        None => Wide::power_of_two(1),
    }
}

/// arctan (i/16), as fractions of 2^128.
const ARCTANGENTS: [u128; 17] = [
    0x0000_0000_0000_0000_0000_0000_0000_0000,
    0x0ffa_addb_967e_f4e3_6cb2_792d_c0e2_e0d5,
    0x1fd5_ba9a_ac2f_6dc6_5912_f313_e7d1_11df,
    0x2f72_f697_9cb6_044d_1ec2_d3e2_0727_1d22,
    0x3eb6_ebf2_5901_bac5_5b71_e7bd_7de8_85f9,
    0x4d89_dcdc_1faf_2f34_e2d5_da4c_693d_7994,
    0x5bd8_6507_937b_c239_c551_9091_6e7f_2242,
    0x6993_bb0f_308f_f2db_213e_4af4_800f_389b,
    0x76b1_9c15_86ed_3da2_b7f2_22f6_5e1d_4682,
    0x832b_f4a6_d986_7e2a_4b6a_09cb_61a5_15c1,
    0x8f00_5d5e_f7f5_9f9b_5c83_5e16_65c4_3748,
    0x9a2f_80e6_71bd_da20_4226_f8e2_204f_f3bd,
    0xa4bc_7d19_34f7_0924_19a8_7f2a_457d_ac9f,
    0xaeac_4c38_b4d8_c080_1472_5e2f_3e52_070a,
    0xb805_3e2b_c231_9e73_cb2d_a552_10a4_443d,
    0xc0ce_85b8_ac52_6640_89dd_62c4_6e92_fa25,
    0xc90f_daa2_2168_c234_c4c6_628b_80dc_1cd1,
];

/// 2^(i/32), in units of 2^-127.
const EXPONENTIALS: [u128; 32] = [
    0x8000_0000_0000_0000_0000_0000_0000_0000,
    0x82cd_8698_ac2b_a1d7_3e2a_475b_4652_0bff,
    0x85aa_c367_cc48_7b14_c5c9_5b8c_2154_c1b2,
    0x8898_0e80_92da_8527_5df8_d76c_98c6_7563,
    0x8b95_c1e3_ea8b_d6e6_fbe4_6287_58a5_3c90,
    0x8ea4_398b_45cd_53c0_2dc0_144c_8783_d4c6,
    0x91c3_d373_ab11_c336_0fd6_d8e0_ae5a_c9d8,
    0x94f4_efa8_fef7_0961_2e8a_fad1_2551_de54,
    0x9837_f051_8db8_a96f_46ad_2318_2e42_f6f6,
    0x9b8d_39b9_d54e_5538_a2a8_17a2_a3cc_3f1f,
    0x9ef5_3260_91a1_11ad_a091_1f09_ebb9_fdd1,
    0xa270_4303_0c49_6818_9b7a_04ef_80cf_dea8,
    0xa5fe_d6a9_b151_38ea_1cbd_7f62_1710_701b,
    0xa9a1_5ab4_ea7c_0ef8_541e_24ec_3531_fa73,
    0xad58_3eea_42a1_4ac6_4980_a8c8_f59a_2ec4,
    0xb123_f581_d2ac_258f_87d0_37e9_6d21_5d8e,
    0xb504_f333_f9de_6484_597d_89b3_754a_be9f,
    0xb8fb_af47_62fb_9ee9_1b87_9778_566b_65a2,
    0xbd08_a39f_580c_36be_a881_1fb6_6d0f_af7a,
    0xc12c_4cca_6670_9456_7c45_7d59_a500_87b5,
    0xc567_2a11_5506_dadd_3e2a_d0c9_64dd_9f37,
    0xc9b9_bd86_6e2f_27a2_80e1_f92a_0511_697e,
    0xce24_8c15_1f84_80e3_e235_838f_95f2_c6ed,
    0xd2a8_1d91_f12a_e45a_1224_8e57_c3de_4028,
    0xd744_fcca_d69d_6af4_39a6_8bb9_902d_3fde,
    0xdbfb_b797_daf2_3755_3d84_0d5a_9e29_aa64,
    0xe0cc_deec_2a94_e111_0658_9504_8dd3_33ca,
    0xe5b9_06e7_7c83_48a8_1e5e_8f4a_4edb_b0ed,
    0xeac0_c6e7_dd24_392e_d02d_75b3_706e_54fb,
    0xefe4_b99b_dcda_f5cb_4656_1cf6_948d_b913,
    0xf525_7d15_2486_cc2c_7b9d_0c7a_ed98_0fc3,
    0xfa83_b2db_722a_033a_7c25_bb14_315d_7fcd,
];
