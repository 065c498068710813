//! The transcendental instructions against values computed to 1200 bits and rounded to nearest.
//!
//! The trigonometric ones are those of the argument reduced by the 66-bit π.

use super::super::{F80, Fpu, FpuOp};

/// A significand and a sign and exponent.
type Bits = (u64, u16);

fn check(op: FpuOp, vectors: &[(Bits, Bits, Bits)]) {
    let value = |(mantissa, sign_exponent): Bits| F80 { mantissa, sign_exponent };
    for &(st0, st1, expected) in vectors {
        let mut unit = Fpu::new();
        unit.execute(FpuOp::FldM80, 0, value(st1).to_bits());
        unit.execute(FpuOp::FldM80, 0, value(st0).to_bits());
        unit.execute(op, 0, 0);
        let result = unit.st(if op == FpuOp::Fptan { 1 } else { 0 });
        assert_eq!(result, value(expected), "{op:?} of {st0:x?} and {st1:x?}");
    }
}

#[test]
fn fsin_is_exact() {
    let vectors = [
        ((0xf2a7_4d00_0000_0000, 0xbffc), (0, 0), (0xf063_90f7_3e99_90e5, 0xbffc)),
        ((0xcef8_aa38_9227_6658, 0xc02e), (0, 0), (0x8c2f_c1d2_a34e_0e5e, 0xbff9)),
        ((0xc1d3_fcff_2a3a_f4d4, 0xc003), (0, 0), (0xc934_070d_fdd9_2672, 0x3ffe)),
        ((0xfe62_aa00_0000_0000, 0xc039), (0, 0), (0xda91_28b7_4d75_7e37, 0xbffd)),
        ((0xd190_88f5_90fb_bd11, 0x4004), (0, 0), (0xd997_9c26_4dc0_cebc, 0x3ffe)),
        ((0xe050_9100_0000_0000, 0x3ff7), (0, 0), (0xe050_1e2f_31df_a057, 0x3ff7)),
        ((0xaac3_4446_e883_a1d4, 0x3fff), (0, 0), (0xf8dc_7a62_2aac_6505, 0x3ffe)),
        ((0xba12_917c_1a26_f889, 0xc002), (0, 0), (0xce41_9e6e_a166_33ab, 0x3ffe)),
        ((0x9c90_11ef_256b_adf9, 0x4003), (0, 0), (0xa8f4_61f2_21c6_e195, 0x3ffe)),
        ((0x9556_585e_a997_f351, 0xc019), (0, 0), (0xd07d_4b47_c069_7402, 0xbffe)),
        ((0xe4dd_f9b9_c28e_e907, 0xc003), (0, 0), (0xa7df_231e_3c00_66ce, 0x3ffd)),
        ((0x9f52_5265_c8b0_07ee, 0x3fea), (0, 0), (0x9f52_5265_c8a5_bf0a, 0x3fea)),
        ((0xf5f5_5400_0000_0000, 0x3fff), (0, 0), (0xf069_ca91_1078_14b8, 0x3ffe)),
        ((0xb8ef_ba00_0000_0000, 0xbfe6), (0, 0), (0xb8ef_b9ff_ffff_efea, 0xbfe6)),
        ((0xef44_c0d5_3ee4_da5a, 0x4002), (0, 0), (0xaf2f_eee9_7e75_b964, 0x3ffe)),
        ((0xc4df_96ff_2854_1424, 0xbff8), (0, 0), (0xc4de_6081_df16_d77d, 0xbff8)),
        ((0xc90f_daa2_2168_c235, 0x3fff), (0, 0), (0x8000_0000_0000_0000, 0x3fff)),
        ((0xc90f_daa2_2168_c235, 0x4000), (0, 0), (0x8000_0000_0000_0000, 0xbfbf)),
        ((0x96cb_e3f9_990e_91a8, 0x4001), (0, 0), (0x8000_0000_0000_0000, 0xbfff)),
        ((0xbfbf_8850_3fa2_f219, 0x4013), (0, 0), (0x8000_0000_0000_0000, 0xbfff)),
        ((0x8000_0000_0000_0001, 0x0001), (0, 0), (0x8000_0000_0000_0001, 0x0001)),
        ((0xfedc_ba98_7654_3210, 0x0001), (0, 0), (0xfedc_ba98_7654_3210, 0x0001)),
        ((0x4000_0000_0000_0000, 0x0000), (0, 0), (0x4000_0000_0000_0000, 0x0000)),
        ((0xffff_ffff_ffff_ffff, 0x3fd7), (0, 0), (0xffff_ffff_ffff_ffff, 0x3fd7)),
    ];
    check(FpuOp::Fsin, &vectors);
}

#[test]
fn fcos_is_exact() {
    let vectors = [
        ((0xf2a7_4d00_0000_0000, 0xbffc), (0, 0), (0xf8d8_9242_37e2_9591, 0x3ffe)),
        ((0xcef8_aa38_9227_6658, 0xc02e), (0, 0), (0xfff6_6749_5723_443c, 0xbffe)),
        ((0xc1d3_fcff_2a3a_f4d4, 0xc003), (0, 0), (0x9e48_3f28_2995_01c4, 0x3ffe)),
        ((0xfe62_aa00_0000_0000, 0xc039), (0, 0), (0xe780_7a3d_e46b_4982, 0x3ffe)),
        ((0xd190_88f5_90fb_bd11, 0x4004), (0, 0), (0x86de_70ea_75c9_011c, 0xbffe)),
        ((0xe050_9100_0000_0000, 0x3ff7), (0, 0), (0xfffe_76e6_3664_f789, 0x3ffe)),
        ((0xaac3_4446_e883_a1d4, 0x3fff), (0, 0), (0xf022_d2c7_fb12_e93b, 0x3ffc)),
        ((0xba12_917c_1a26_f889, 0xc002), (0, 0), (0x97a3_8919_a2b6_631f, 0x3ffe)),
        ((0x9c90_11ef_256b_adf9, 0x4003), (0, 0), (0xc054_26fe_7d1f_07cd, 0x3ffe)),
        ((0x9556_585e_a997_f351, 0xc019), (0, 0), (0x948d_b589_cae6_07f1, 0x3ffe)),
        ((0xe4dd_f9b9_c28e_e907, 0xc003), (0, 0), (0xf1d9_4269_6433_0179, 0xbffe)),
        ((0x9f52_5265_c8b0_07ee, 0x3fea), (0, 0), (0xffff_ffff_ffce_6c52, 0x3ffe)),
        ((0xf5f5_5400_0000_0000, 0x3fff), (0, 0), (0xafed_0057_31a9_e556, 0xbffd)),
        ((0xb8ef_ba00_0000_0000, 0xbfe6), (0, 0), (0xffff_ffff_ffff_bd33, 0x3ffe)),
        ((0xef44_c0d5_3ee4_da5a, 0x4002), (0, 0), (0xbaab_57e2_2aba_864f, 0xbffe)),
        ((0xc4df_96ff_2854_1424, 0xbff8), (0, 0), (0xfffb_44ca_a724_053c, 0x3ffe)),
        ((0xc90f_daa2_2168_c235, 0x3fff), (0, 0), (0x8000_0000_0000_0000, 0xbfbe)),
        ((0xc90f_daa2_2168_c235, 0x4000), (0, 0), (0x8000_0000_0000_0000, 0xbfff)),
        ((0x96cb_e3f9_990e_91a8, 0x4001), (0, 0), (0xe000_0000_0000_0000, 0x3fc0)),
        ((0xbfbf_8850_3fa2_f219, 0x4013), (0, 0), (0xeb53_9000_0000_0000, 0xbfd1)),
        ((0x8000_0000_0000_0001, 0x0001), (0, 0), (0x8000_0000_0000_0000, 0x3fff)),
        ((0xfedc_ba98_7654_3210, 0x0001), (0, 0), (0x8000_0000_0000_0000, 0x3fff)),
        ((0x4000_0000_0000_0000, 0x0000), (0, 0), (0x8000_0000_0000_0000, 0x3fff)),
        ((0xffff_ffff_ffff_ffff, 0x3fd7), (0, 0), (0x8000_0000_0000_0000, 0x3fff)),
    ];
    check(FpuOp::Fcos, &vectors);
}

#[test]
fn fptan_is_exact() {
    let vectors = [
        ((0xf2a7_4d00_0000_0000, 0xbffc), (0, 0), (0xf74c_c0f2_4692_4d77, 0xbffc)),
        ((0xcef8_aa38_9227_6658, 0xc02e), (0, 0), (0x8c35_0353_4560_fbbf, 0x3ff9)),
        ((0xc1d3_fcff_2a3a_f4d4, 0xc003), (0, 0), (0xa2b5_9f47_409d_772f, 0x3fff)),
        ((0xfe62_aa00_0000_0000, 0xc039), (0, 0), (0xf1b2_44e5_ea6c_dc8b, 0xbffd)),
        ((0xd190_88f5_90fb_bd11, 0x4004), (0, 0), (0xce82_9c21_65a6_61f8, 0xbfff)),
        ((0xe050_9100_0000_0000, 0x3ff7), (0, 0), (0xe051_76a2_d99c_0532, 0x3ff7)),
        ((0xaac3_4446_e883_a1d4, 0x3fff), (0, 0), (0x84a6_9b91_3415_6cc5, 0x4001)),
        ((0xba12_917c_1a26_f889, 0xc002), (0, 0), (0xae1a_6e72_49e3_c14e, 0x3fff)),
        ((0x9c90_11ef_256b_adf9, 0x4003), (0, 0), (0xe0e3_46d2_2133_0f47, 0x3ffe)),
        ((0x9556_585e_a997_f351, 0xc019), (0, 0), (0xb3a4_adeb_2b98_3a56, 0xbfff)),
        ((0xe4dd_f9b9_c28e_e907, 0xc003), (0, 0), (0xb1b1_bf93_81b8_d45d, 0xbffd)),
        ((0x9f52_5265_c8b0_07ee, 0x3fea), (0, 0), (0x9f52_5265_c8c4_99b5, 0x3fea)),
        ((0xf5f5_5400_0000_0000, 0x3fff), (0, 0), (0xaeeb_7520_f10e_80fe, 0xc000)),
        ((0xb8ef_ba00_0000_0000, 0xbfe6), (0, 0), (0xb8ef_ba00_0000_202c, 0xbfe6)),
        ((0xef44_c0d5_3ee4_da5a, 0x4002), (0, 0), (0xf040_ddbc_aba5_db0d, 0xbffe)),
        ((0xc4df_96ff_2854_1424, 0xbff8), (0, 0), (0xc4e2_0404_0f37_bfe7, 0xbff8)),
        ((0xc90f_daa2_2168_c235, 0x3fff), (0, 0), (0x8000_0000_0000_0000, 0xc040)),
        ((0xc90f_daa2_2168_c235, 0x4000), (0, 0), (0x8000_0000_0000_0000, 0x3fbf)),
        ((0x96cb_e3f9_990e_91a8, 0x4001), (0, 0), (0x9249_2492_4924_9249, 0xc03d)),
        ((0xbfbf_8850_3fa2_f219, 0x4013), (0, 0), (0x8b3e_b0db_64a4_738d, 0x402c)),
        ((0x8000_0000_0000_0001, 0x0001), (0, 0), (0x8000_0000_0000_0001, 0x0001)),
        ((0xfedc_ba98_7654_3210, 0x0001), (0, 0), (0xfedc_ba98_7654_3210, 0x0001)),
        ((0x4000_0000_0000_0000, 0x0000), (0, 0), (0x4000_0000_0000_0000, 0x0000)),
        ((0xffff_ffff_ffff_ffff, 0x3fd7), (0, 0), (0xffff_ffff_ffff_ffff, 0x3fd7)),
    ];
    check(FpuOp::Fptan, &vectors);
}

#[test]
fn f2xm1_is_exact() {
    let vectors = [
        ((0x9818_e811_892f_902b, 0x3ffb), (0, 0), (0xd85f_7d1b_c2e4_2c73, 0x3ffa)),
        ((0x923a_7369_94e3_bf91, 0xbfee), (0, 0), (0xcab7_02e7_07b1_91b1, 0xbfed)),
        ((0xab10_3100_0000_0000, 0xbffd), (0, 0), (0xd3af_d8e6_634e_5122, 0xbffc)),
        ((0xbf63_af83_bd05_61e6, 0xbff6), (0, 0), (0x8486_df1f_8ab6_00ae, 0xbff6)),
        ((0xad1b_72db_a7ab_e1c2, 0x3ffe), (0, 0), (0x9911_a414_a2e6_e879, 0x3ffe)),
        ((0xdd39_d0a8_9a2e_f80f, 0x3fde), (0, 0), (0x9957_91ba_0572_fe44, 0x3fde)),
        ((0x80b0_c08b_c770_2420, 0x3ffc), (0, 0), (0xba67_6363_3c34_2919, 0x3ffb)),
        ((0xfc39_4724_9fc2_d0a1, 0xbfd7), (0, 0), (0xaed4_034f_4fac_8e13, 0xbfd7)),
        ((0xa7e9_e06f_59b4_4e92, 0xbffc), (0, 0), (0xdc09_3b60_7c75_9b95, 0xbffb)),
        ((0xe0cf_ab4c_eaef_c4d2, 0xbff9), (0, 0), (0x9a5a_c35e_6ef8_b187, 0xbff9)),
        ((0x816b_ee06_f92e_2339, 0x3ffc), (0, 0), (0xbb82_8f25_682d_4c1a, 0x3ffb)),
        ((0xa906_922f_a4b9_a9c4, 0x3fe7), (0, 0), (0xea51_c011_beff_29f9, 0x3fe6)),
        ((0x9585_0a03_1ad2_d5f1, 0x3ffb), (0, 0), (0xd49c_d0a7_e656_e6fb, 0x3ffa)),
        ((0xfe8a_d4a1_56d2_a68c, 0x3fe8), (0, 0), (0xb06f_6f9e_515d_d0a1, 0x3fe8)),
        ((0xd5a9_422a_8bc0_8311, 0x3ffd), (0, 0), (0xabbd_cc2a_aaa4_d620, 0x3ffd)),
        ((0xf8fd_d208_5434_8156, 0xbfeb), (0, 0), (0xac96_6f49_787b_8a42, 0xbfeb)),
        ((0x8000_0000_0000_0001, 0x0001), (0, 0), (0x58b9_0bfb_e8e7_bcd7, 0x0000)),
        ((0xfedc_ba98_7654_3210, 0x0001), (0, 0), (0xb0a8_332b_0e51_65ca, 0x0001)),
        ((0x4000_0000_0000_0000, 0x0000), (0, 0), (0x2c5c_85fd_f473_de6b, 0x0000)),
        ((0xffff_ffff_ffff_ffff, 0x3fd7), (0, 0), (0xb172_17f7_d24a_78a3, 0x3fd7)),
    ];
    check(FpuOp::F2xm1, &vectors);
}

#[test]
fn fyl2x_is_exact() {
    let vectors = [
        ((0x8999_5000_0000_0000, 0x3fff), (0xbd9c_1700_0000_0000, 0xc006), (0x9e3f_83a9_c1dd_1824, 0xc003)),
        ((0x9012_f037_b64c_e422, 0x50ba), (0xff15_0524_34b9_b5df, 0x4006), (0x855e_81ad_723f_548b, 0x4013)),
        ((0x9828_9fcd_59a5_4a7b, 0x3fff), (0xd708_2000_0000_0000, 0xbffc), (0xd68b_4144_4527_db25, 0xbffa)),
        ((0xe6d2_2876_72fd_f202, 0x7291), (0xd1bc_52d9_230d_977e, 0xc00e), (0xa5bc_5ff7_e442_a770, 0xc01c)),
        ((0xf3ae_d0b6_c7ac_1491, 0x3fff), (0xe623_7a04_65e7_e423, 0x4009), (0xd5c4_4a7d_afa7_8ed2, 0x4009)),
        ((0xfa52_9ba3_fe3b_fada, 0x3f6d), (0x95fc_8900_0000_0000, 0x4000), (0xa9f1_c7d1_07f9_7433, 0xc007)),
        ((0xfc24_1d0b_c9d4_88b1, 0x3ffe), (0xbd48_82a5_ce5b_2a92, 0xbff9), (0x84b9_ffd1_0e52_7a68, 0x3ff4)),
        ((0xd810_d60e_a729_91b9, 0x0c59), (0xa91c_2400_0000_0000, 0x4003), (0x8877_0ebe_895c_4588, 0xc011)),
        ((0xf88c_422b_cca2_a92b, 0x3ffe), (0xbfde_fc15_86ce_03f9, 0x4006), (0x82d7_34d7_8bcf_9295, 0xc002)),
        ((0x84c9_d78d_82b3_3599, 0x64e3), (0x9bca_3c00_0000_0000, 0xbff4), (0xb399_c675_09cd_f20c, 0xc001)),
        ((0x8216_858f_73cc_ef03, 0x3fff), (0xf106_37ce_81fc_069e, 0x400c), (0xb40b_a9ec_efc8_4f90, 0x4007)),
        ((0xf7bd_891f_f7b1_03df, 0x7b6a), (0xe5f4_2986_1818_9af4, 0x3ff5), (0xd580_f6c8_5883_acd2, 0x4003)),
        ((0xc53b_f491_2e7a_26e9, 0x3fff), (0xe952_6a69_d97e_967b, 0xbffb), (0x9189_cc52_9eb2_a0eb, 0xbffb)),
        ((0x86e3_e726_0b0f_873b, 0x7993), (0xf81e_5400_0000_0000, 0xbfee), (0xdf39_1404_eb33_aa75, 0xbffc)),
        ((0xbac4_da9a_fb81_3921, 0x3ffe), (0xfd4b_d030_679a_44dd, 0x3fee), (0xe671_7ccb_83e2_f997, 0xbfed)),
        ((0xe1e4_37b7_f735_efe6, 0x2f23), (0x8046_0d69_2ed6_5411, 0xbff0), (0x8723_3ebc_62fb_3867, 0x3ffc)),
        ((0x8000_0000_0000_0001, 0x3fff), (0x9876_5432_10fe_dcba, 0x4002), (0xdbf4_dca7_9954_8c2b, 0x3fc3)),
        ((0x8000_0000_0000_0002, 0x3fff), (0x9876_5432_10fe_dcba, 0x4002), (0xdbf4_dca7_9954_8c2a, 0x3fc4)),
        ((0xffff_ffff_ffff_ffff, 0x3ffe), (0x9876_5432_10fe_dcba, 0x4002), (0xdbf4_dca7_9954_8c2c, 0xbfc2)),
        ((0x8000_0000_0000_0003, 0x3fff), (0x9876_5432_10fe_dcba, 0x4002), (0xa4f7_a57d_b2ff_691f, 0x3fc5)),
    ];
    check(FpuOp::Fyl2x, &vectors);
}

#[test]
fn fyl2xp1_is_exact() {
    let vectors = [
        ((0x9fb1_7c23_90c1_92cf, 0x3feb), (0x8fd6_30f1_f29d_0da9, 0xc004), (0x8172_54ea_2e28_32c1, 0xbff1)),
        ((0x95e7_61d1_7731_af10, 0xbfda), (0xae05_319a_cb5c_7427, 0xbffa), (0x9302_969d_1387_657c, 0x3fd6)),
        ((0x90a3_d600_0000_0000, 0xbfef), (0xfe3b_890b_93f4_48b3, 0xc007), (0xcf3b_84ba_943c_a1ce, 0x3ff8)),
        ((0xfc89_1b4a_6a50_df4d, 0xbffb), (0xa6a2_c000_0000_0000, 0xbff4), (0xfd19_0f58_4ea4_b1cc, 0x3ff1)),
        ((0xb0cb_c900_0000_0000, 0xbfd0), (0xd70d_c195_1c24_42f9, 0xbff1), (0xd644_3339_1306_e512, 0x3fc3)),
        ((0xd42f_ddbb_7a86_f7a2, 0xbfe4), (0xf3b7_a50d_f373_ca53, 0x3ff4), (0x91b7_8381_dec9_f16b, 0xbfdb)),
        ((0xdb06_258e_7e26_f36a, 0x3fc4), (0xc259_4000_0000_0000, 0x4011), (0xefe3_396e_72c1_482a, 0x3fd7)),
        ((0xb306_98a1_c009_3492, 0xbfce), (0xd51f_d800_0000_0000, 0xc004), (0xd705_add3_f965_0efe, 0x3fd4)),
        ((0xd37e_e915_31de_c4f4, 0xbfc4), (0x804c_25d6_4aff_dcd1, 0xc010), (0x98ea_9d31_45b9_ec73, 0x3fd6)),
        ((0x9e7d_6b37_7936_d536, 0xbfe6), (0x84b2_8054_aead_44b0, 0x4009), (0xed0b_285f_711f_90a4, 0xbff0)),
        ((0xed84_e91e_f132_bf2d, 0x3fe6), (0xd70a_39d1_33dc_d77f, 0xc005), (0x8feb_a026_0cbc_5d45, 0xbfee)),
        ((0xb945_3300_0000_0000, 0x3fde), (0xd6d0_50cd_6760_1367, 0xc001), (0xe049_40ac_1b6c_c192, 0xbfe1)),
        ((0xeb4e_d2e3_895e_8b6b, 0x3fe2), (0xc770_a000_0000_0000, 0xbff6), (0x843c_b0ec_364b_dec9, 0xbfdb)),
        ((0xcfde_bbec_eea7_bb64, 0x3fe4), (0xf218_88ff_4a3a_df99, 0xbff6), (0x8dcd_6f7e_3257_b9f3, 0xbfdd)),
        ((0x921a_e3e6_03a6_3966, 0xbffb), (0x8e2e_c400_0000_0000, 0x4003), (0xf2e9_7bb1_ef99_bce5, 0xbfff)),
        ((0xa7f0_c99e_80b5_244a, 0x3fe3), (0xc3a0_8f06_1742_0e94, 0xbff4), (0xb925_ee23_2474_01cf, 0xbfd9)),
        ((0x8000_0000_0000_0001, 0x0001), (0xc000_0000_0000_0000, 0x3fff), (0x8a7f_ac5f_0511_f48e, 0x0002)),
        ((0xfedc_ba98_7654_3210, 0x0001), (0xc000_0000_0000_0000, 0x3fff), (0x89e2_17b1_a7bf_f49a, 0x0003)),
        ((0x4000_0000_0000_0000, 0x0000), (0xc000_0000_0000_0000, 0x3fff), (0x8a7f_ac5f_0511_f48d, 0x0001)),
        ((0xffff_ffff_ffff_ffff, 0x3fd7), (0xc000_0000_0000_0000, 0x3fff), (0x8a7f_ac5f_0487_74e0, 0x3fd9)),
    ];
    check(FpuOp::Fyl2xp1, &vectors);
}

#[test]
fn fpatan_is_exact() {
    let vectors = [
        ((0x8bec_d7b0_3898_d190, 0xbff3), (0x8a6a_63ec_24ed_e6a4, 0xbff3), (0x9724_bf87_1348_f6ba, 0xc000)),
        ((0x8673_4721_4cdd_2055, 0x4000), (0x9be4_bcfc_49b6_4a08, 0x3ff2), (0x946a_19f3_b77c_b9b5, 0x3ff1)),
        ((0xe315_1288_62c3_3a4f, 0x3fec), (0xab05_37e6_5aff_b229, 0xbfec), (0xa53f_2edc_db96_a144, 0xbffe)),
        ((0x8316_909e_3bbb_e9ea, 0xc010), (0x810c_4700_0000_0000, 0xc00d), (0xc139_d019_b4c0_34a4, 0xc000)),
        ((0x895f_d700_0000_0000, 0x4002), (0xdfd4_3f37_1200_339d, 0x4002), (0x829a_2e11_12a3_da30, 0x3fff)),
        ((0x86ec_41ad_ea05_7543, 0x3ffe), (0x974c_77a2_dd02_de92, 0x3ffb), (0x8e9b_4013_d5ff_0058, 0x3ffc)),
        ((0xcefe_2a1f_727d_8349, 0x4001), (0x949e_259b_5d58_c705, 0x4001), (0x9f68_ecbd_03c6_053f, 0x3ffe)),
        ((0xf261_4900_0000_0000, 0xbff5), (0x870d_7100_0000_0000, 0x4008), (0xc90f_f759_42c2_c6dc, 0x3fff)),
        ((0xeb44_6806_8b5a_b3ee, 0x3fee), (0xe5cf_edfa_5a91_96f0, 0x3fee), (0xc60f_3524_e0bc_b109, 0x3ffe)),
        ((0xe21b_37ca_1b29_fc99, 0xbffa), (0xc5b2_e700_0000_0000, 0x4007), (0xc914_6dc5_c805_c42c, 0x3fff)),
        ((0xd0e4_0d00_0000_0000, 0xbffa), (0xab62_86cd_3672_d6ae, 0xbffa), (0x9d16_9b90_e75e_017c, 0xc000)),
        ((0xddaf_1000_0000_0000, 0xc00e), (0x84a1_0547_b401_ba85, 0x400c), (0xbf8f_54ff_25e4_6f84, 0x4000)),
        ((0xc4d8_2a53_1289_bafa, 0xc013), (0x9570_266b_42b3_8755, 0x4013), (0x9f81_03ad_f4d1_4c99, 0x4000)),
        ((0x84a6_5651_cdbd_e747, 0xbfed), (0x8172_8a07_bbab_27f6, 0x3ff7), (0xc930_a549_d2ed_6d45, 0x3fff)),
        ((0xf88e_de10_aba8_b9b3, 0x3ffa), (0xf59e_b559_0b94_af3a, 0x3ffa), (0xc78a_375a_3a2a_9b91, 0x3ffe)),
        ((0xe4db_c800_0000_0000, 0x3ffe), (0x95e8_c93e_15a0_a8ae, 0x3ff4), (0xa7b0_1363_cf68_aa30, 0x3ff4)),
        ((0x8000_0000_0000_0000, 0x7ffe), (0xabcd_ef01_2345_6789, 0x0003), (0x0000_0000_0000_0000, 0x0000)),
        ((0xabcd_ef01_2345_6789, 0x4045), (0x8000_0000_0000_0000, 0x3fff), (0xbeba_7ea4_1ff0_46fc, 0x3fb8)),
        ((0xabcd_ef01_2345_6789, 0x3fb9), (0x8000_0000_0000_0000, 0x3fff), (0xc90f_daa2_2168_c235, 0x3fff)),
        ((0x8000_0000_0000_0000, 0x3fff), (0x8000_0000_0000_0000, 0x3fb9), (0x8000_0000_0000_0000, 0x3fb9)),
    ];
    check(FpuOp::Fpatan, &vectors);
}
