//! Floating-point instructions, with their exceptions.

use crate::simd::tests::harness::{State, against_host};
use crate::simd::*;

const ROUNDS: u32 = 40_000;

/// Applies an operation. If it fails, the host is to have trapped, and all but MXCSR is to be as it was.
fn attempt<T>(s: &mut State, op: impl FnOnce(&State, &mut Mxcsr) -> Result<T, Unmasked>) -> Option<T> {
    let mut mxcsr = Mxcsr(s.mxcsr);
    let result = op(s, &mut mxcsr);
    s.mxcsr = mxcsr.0;
    s.trapped = result.is_err().into();
    result.ok()
}

#[test]
fn singles_sse2() {
    against_host! { Singles, ROUNDS, "sse2":
        "addps xmm1, xmm2" => |s| if let Some(v) = attempt(s, |s, m| addps(s.a, s.b, m)) { s.a = v };
        "addss xmm1, xmm2" => |s| if let Some(v) = attempt(s, |s, m| addss(s.a, s.b, m)) { s.a = v };
        "subps xmm1, xmm2" => |s| if let Some(v) = attempt(s, |s, m| subps(s.a, s.b, m)) { s.a = v };
        "subss xmm1, xmm2" => |s| if let Some(v) = attempt(s, |s, m| subss(s.a, s.b, m)) { s.a = v };
        "mulps xmm1, xmm2" => |s| if let Some(v) = attempt(s, |s, m| mulps(s.a, s.b, m)) { s.a = v };
        "mulss xmm1, xmm2" => |s| if let Some(v) = attempt(s, |s, m| mulss(s.a, s.b, m)) { s.a = v };
        "divps xmm1, xmm2" => |s| if let Some(v) = attempt(s, |s, m| divps(s.a, s.b, m)) { s.a = v };
        "divss xmm1, xmm2" => |s| if let Some(v) = attempt(s, |s, m| divss(s.a, s.b, m)) { s.a = v };
        "minps xmm1, xmm2" => |s| if let Some(v) = attempt(s, |s, m| minps(s.a, s.b, m)) { s.a = v };
        "minss xmm1, xmm2" => |s| if let Some(v) = attempt(s, |s, m| minss(s.a, s.b, m)) { s.a = v };
        "maxps xmm1, xmm2" => |s| if let Some(v) = attempt(s, |s, m| maxps(s.a, s.b, m)) { s.a = v };
        "maxss xmm1, xmm2" => |s| if let Some(v) = attempt(s, |s, m| maxss(s.a, s.b, m)) { s.a = v };
        "sqrtps xmm1, xmm2" => |s| if let Some(v) = attempt(s, |s, m| sqrtps(s.b, m)) { s.a = v };
        "sqrtss xmm1, xmm2" => |s| if let Some(v) = attempt(s, |s, m| sqrtss(s.a, s.b, m)) { s.a = v };
        "cmpeqps xmm1, xmm2" => |s| if let Some(v) = attempt(s, |s, m| cmpps(s.a, s.b, 0, m)) { s.a = v };
        "cmpltps xmm1, xmm2" => |s| if let Some(v) = attempt(s, |s, m| cmpps(s.a, s.b, 1, m)) { s.a = v };
        "cmpleps xmm1, xmm2" => |s| if let Some(v) = attempt(s, |s, m| cmpps(s.a, s.b, 2, m)) { s.a = v };
        "cmpunordps xmm1, xmm2" => |s| if let Some(v) = attempt(s, |s, m| cmpps(s.a, s.b, 3, m)) { s.a = v };
        "cmpneqps xmm1, xmm2" => |s| if let Some(v) = attempt(s, |s, m| cmpps(s.a, s.b, 4, m)) { s.a = v };
        "cmpnltps xmm1, xmm2" => |s| if let Some(v) = attempt(s, |s, m| cmpps(s.a, s.b, 5, m)) { s.a = v };
        "cmpnleps xmm1, xmm2" => |s| if let Some(v) = attempt(s, |s, m| cmpps(s.a, s.b, 6, m)) { s.a = v };
        "cmpordps xmm1, xmm2" => |s| if let Some(v) = attempt(s, |s, m| cmpps(s.a, s.b, 7, m)) { s.a = v };
        "cmpeqss xmm1, xmm2" => |s| if let Some(v) = attempt(s, |s, m| cmpss(s.a, s.b, 0, m)) { s.a = v };
        "cmpltss xmm1, xmm2" => |s| if let Some(v) = attempt(s, |s, m| cmpss(s.a, s.b, 1, m)) { s.a = v };
        "cmpless xmm1, xmm2" => |s| if let Some(v) = attempt(s, |s, m| cmpss(s.a, s.b, 2, m)) { s.a = v };
        "cmpunordss xmm1, xmm2" => |s| if let Some(v) = attempt(s, |s, m| cmpss(s.a, s.b, 3, m)) { s.a = v };
        "cmpneqss xmm1, xmm2" => |s| if let Some(v) = attempt(s, |s, m| cmpss(s.a, s.b, 4, m)) { s.a = v };
        "cmpnltss xmm1, xmm2" => |s| if let Some(v) = attempt(s, |s, m| cmpss(s.a, s.b, 5, m)) { s.a = v };
        "cmpnless xmm1, xmm2" => |s| if let Some(v) = attempt(s, |s, m| cmpss(s.a, s.b, 6, m)) { s.a = v };
        "cmpordss xmm1, xmm2" => |s| if let Some(v) = attempt(s, |s, m| cmpss(s.a, s.b, 7, m)) { s.a = v };
        "comiss xmm1, xmm2" => |s| if let Some(v) = attempt(s, |s, m| comiss(s.a, s.b, m)) { s.flags = v };
        "ucomiss xmm1, xmm2" => |s| if let Some(v) = attempt(s, |s, m| ucomiss(s.a, s.b, m)) { s.flags = v };
        "cvtps2pd xmm1, xmm2" => |s| if let Some(v) = attempt(s, |s, m| cvtps2pd(s.b, m)) { s.a = v };
        "cvtps2dq xmm1, xmm2" => |s| if let Some(v) = attempt(s, |s, m| cvtps2dq(s.b, m)) { s.a = v };
        "cvttps2dq xmm1, xmm2" => |s| if let Some(v) = attempt(s, |s, m| cvttps2dq(s.b, m)) { s.a = v };
        "cvtss2sd xmm1, xmm2" => |s| if let Some(v) = attempt(s, |s, m| cvtss2sd(s.a, s.b, m)) { s.a = v };
        "cvtss2si eax, xmm2" => |s| if let Some(v) = attempt(s, |s, m| cvtss2si32(s.b, m)) { s.rax = v.into() };
        "cvtss2si rax, xmm2" => |s| if let Some(v) = attempt(s, |s, m| cvtss2si64(s.b, m)) { s.rax = v };
        "cvtps2pi mm1, xmm2" => |s| if let Some(v) = attempt(s, |s, m| cvtps2pi(s.b, m)) { s.m = v };
        "cvttss2si eax, xmm2" => |s| if let Some(v) = attempt(s, |s, m| cvttss2si32(s.b, m)) { s.rax = v.into() };
        "cvttss2si rax, xmm2" => |s| if let Some(v) = attempt(s, |s, m| cvttss2si64(s.b, m)) { s.rax = v };
        "cvttps2pi mm1, xmm2" => |s| if let Some(v) = attempt(s, |s, m| cvttps2pi(s.b, m)) { s.m = v };
    }
}

#[test]
fn doubles_sse2() {
    against_host! { Doubles, ROUNDS, "sse2":
        "addpd xmm1, xmm2" => |s| if let Some(v) = attempt(s, |s, m| addpd(s.a, s.b, m)) { s.a = v };
        "addsd xmm1, xmm2" => |s| if let Some(v) = attempt(s, |s, m| addsd(s.a, s.b, m)) { s.a = v };
        "subpd xmm1, xmm2" => |s| if let Some(v) = attempt(s, |s, m| subpd(s.a, s.b, m)) { s.a = v };
        "subsd xmm1, xmm2" => |s| if let Some(v) = attempt(s, |s, m| subsd(s.a, s.b, m)) { s.a = v };
        "mulpd xmm1, xmm2" => |s| if let Some(v) = attempt(s, |s, m| mulpd(s.a, s.b, m)) { s.a = v };
        "mulsd xmm1, xmm2" => |s| if let Some(v) = attempt(s, |s, m| mulsd(s.a, s.b, m)) { s.a = v };
        "divpd xmm1, xmm2" => |s| if let Some(v) = attempt(s, |s, m| divpd(s.a, s.b, m)) { s.a = v };
        "divsd xmm1, xmm2" => |s| if let Some(v) = attempt(s, |s, m| divsd(s.a, s.b, m)) { s.a = v };
        "minpd xmm1, xmm2" => |s| if let Some(v) = attempt(s, |s, m| minpd(s.a, s.b, m)) { s.a = v };
        "minsd xmm1, xmm2" => |s| if let Some(v) = attempt(s, |s, m| minsd(s.a, s.b, m)) { s.a = v };
        "maxpd xmm1, xmm2" => |s| if let Some(v) = attempt(s, |s, m| maxpd(s.a, s.b, m)) { s.a = v };
        "maxsd xmm1, xmm2" => |s| if let Some(v) = attempt(s, |s, m| maxsd(s.a, s.b, m)) { s.a = v };
        "sqrtpd xmm1, xmm2" => |s| if let Some(v) = attempt(s, |s, m| sqrtpd(s.b, m)) { s.a = v };
        "sqrtsd xmm1, xmm2" => |s| if let Some(v) = attempt(s, |s, m| sqrtsd(s.a, s.b, m)) { s.a = v };
        "cmpeqpd xmm1, xmm2" => |s| if let Some(v) = attempt(s, |s, m| cmppd(s.a, s.b, 0, m)) { s.a = v };
        "cmpltpd xmm1, xmm2" => |s| if let Some(v) = attempt(s, |s, m| cmppd(s.a, s.b, 1, m)) { s.a = v };
        "cmplepd xmm1, xmm2" => |s| if let Some(v) = attempt(s, |s, m| cmppd(s.a, s.b, 2, m)) { s.a = v };
        "cmpunordpd xmm1, xmm2" => |s| if let Some(v) = attempt(s, |s, m| cmppd(s.a, s.b, 3, m)) { s.a = v };
        "cmpneqpd xmm1, xmm2" => |s| if let Some(v) = attempt(s, |s, m| cmppd(s.a, s.b, 4, m)) { s.a = v };
        "cmpnltpd xmm1, xmm2" => |s| if let Some(v) = attempt(s, |s, m| cmppd(s.a, s.b, 5, m)) { s.a = v };
        "cmpnlepd xmm1, xmm2" => |s| if let Some(v) = attempt(s, |s, m| cmppd(s.a, s.b, 6, m)) { s.a = v };
        "cmpordpd xmm1, xmm2" => |s| if let Some(v) = attempt(s, |s, m| cmppd(s.a, s.b, 7, m)) { s.a = v };
        "cmpeqsd xmm1, xmm2" => |s| if let Some(v) = attempt(s, |s, m| cmpsd(s.a, s.b, 0, m)) { s.a = v };
        "cmpltsd xmm1, xmm2" => |s| if let Some(v) = attempt(s, |s, m| cmpsd(s.a, s.b, 1, m)) { s.a = v };
        "cmplesd xmm1, xmm2" => |s| if let Some(v) = attempt(s, |s, m| cmpsd(s.a, s.b, 2, m)) { s.a = v };
        "cmpunordsd xmm1, xmm2" => |s| if let Some(v) = attempt(s, |s, m| cmpsd(s.a, s.b, 3, m)) { s.a = v };
        "cmpneqsd xmm1, xmm2" => |s| if let Some(v) = attempt(s, |s, m| cmpsd(s.a, s.b, 4, m)) { s.a = v };
        "cmpnltsd xmm1, xmm2" => |s| if let Some(v) = attempt(s, |s, m| cmpsd(s.a, s.b, 5, m)) { s.a = v };
        "cmpnlesd xmm1, xmm2" => |s| if let Some(v) = attempt(s, |s, m| cmpsd(s.a, s.b, 6, m)) { s.a = v };
        "cmpordsd xmm1, xmm2" => |s| if let Some(v) = attempt(s, |s, m| cmpsd(s.a, s.b, 7, m)) { s.a = v };
        "comisd xmm1, xmm2" => |s| if let Some(v) = attempt(s, |s, m| comisd(s.a, s.b, m)) { s.flags = v };
        "ucomisd xmm1, xmm2" => |s| if let Some(v) = attempt(s, |s, m| ucomisd(s.a, s.b, m)) { s.flags = v };
        "cvtpd2ps xmm1, xmm2" => |s| if let Some(v) = attempt(s, |s, m| cvtpd2ps(s.b, m)) { s.a = v };
        "cvtpd2dq xmm1, xmm2" => |s| if let Some(v) = attempt(s, |s, m| cvtpd2dq(s.b, m)) { s.a = v };
        "cvttpd2dq xmm1, xmm2" => |s| if let Some(v) = attempt(s, |s, m| cvttpd2dq(s.b, m)) { s.a = v };
        "cvtsd2ss xmm1, xmm2" => |s| if let Some(v) = attempt(s, |s, m| cvtsd2ss(s.a, s.b, m)) { s.a = v };
        "cvtsd2si eax, xmm2" => |s| if let Some(v) = attempt(s, |s, m| cvtsd2si32(s.b, m)) { s.rax = v.into() };
        "cvtsd2si rax, xmm2" => |s| if let Some(v) = attempt(s, |s, m| cvtsd2si64(s.b, m)) { s.rax = v };
        "cvtpd2pi mm1, xmm2" => |s| if let Some(v) = attempt(s, |s, m| cvtpd2pi(s.b, m)) { s.m = v };
        "cvttsd2si eax, xmm2" => |s| if let Some(v) = attempt(s, |s, m| cvttsd2si32(s.b, m)) { s.rax = v.into() };
        "cvttsd2si rax, xmm2" => |s| if let Some(v) = attempt(s, |s, m| cvttsd2si64(s.b, m)) { s.rax = v };
        "cvttpd2pi mm1, xmm2" => |s| if let Some(v) = attempt(s, |s, m| cvttpd2pi(s.b, m)) { s.m = v };
    }
}

#[test]
fn singles_sse4_1() {
    against_host! { Singles, ROUNDS, "sse4.1":
        "roundps xmm1, xmm2", imm => |s, i| if let Some(v) = attempt(s, |s, m| roundps(s.b, i, m)) { s.a = v };
        "roundss xmm1, xmm2", imm => |s, i| if let Some(v) = attempt(s, |s, m| roundss(s.a, s.b, i, m)) { s.a = v };
        "dpps xmm1, xmm2", imm => |s, i| if let Some(v) = attempt(s, |s, m| dpps(s.a, s.b, i, m)) { s.a = v };
    }
}

#[test]
fn doubles_sse4_1() {
    against_host! { Doubles, ROUNDS, "sse4.1":
        "roundpd xmm1, xmm2", imm => |s, i| if let Some(v) = attempt(s, |s, m| roundpd(s.b, i, m)) { s.a = v };
        "roundsd xmm1, xmm2", imm => |s, i| if let Some(v) = attempt(s, |s, m| roundsd(s.a, s.b, i, m)) { s.a = v };
        "dppd xmm1, xmm2", imm => |s, i| if let Some(v) = attempt(s, |s, m| dppd(s.a, s.b, i, m)) { s.a = v };
    }
}

#[test]
fn singles_sse3() {
    against_host! { Singles, ROUNDS, "sse3":
        "haddps xmm1, xmm2" => |s| if let Some(v) = attempt(s, |s, m| haddps(s.a, s.b, m)) { s.a = v };
        "hsubps xmm1, xmm2" => |s| if let Some(v) = attempt(s, |s, m| hsubps(s.a, s.b, m)) { s.a = v };
        "addsubps xmm1, xmm2" => |s| if let Some(v) = attempt(s, |s, m| addsubps(s.a, s.b, m)) { s.a = v };
    }
}

#[test]
fn doubles_sse3() {
    against_host! { Doubles, ROUNDS, "sse3":
        "haddpd xmm1, xmm2" => |s| if let Some(v) = attempt(s, |s, m| haddpd(s.a, s.b, m)) { s.a = v };
        "hsubpd xmm1, xmm2" => |s| if let Some(v) = attempt(s, |s, m| hsubpd(s.a, s.b, m)) { s.a = v };
        "addsubpd xmm1, xmm2" => |s| if let Some(v) = attempt(s, |s, m| addsubpd(s.a, s.b, m)) { s.a = v };
    }
}

#[test]
fn integers_sse2() {
    against_host! { Integers, ROUNDS, "sse2":
        "cvtdq2ps xmm1, xmm2" => |s| if let Some(v) = attempt(s, |s, m| cvtdq2ps(s.b, m)) { s.a = v };
        "cvtdq2pd xmm1, xmm2" => |s| s.a = cvtdq2pd(s.b);
        "cvtpi2pd xmm1, mm2" => |s| s.a = cvtpi2pd(s.n);
        "cvtpi2ps xmm1, mm2" => |s| if let Some(v) = attempt(s, |s, m| cvtpi2ps(s.a, s.n, m)) { s.a = v };
        "cvtsi2ss xmm1, eax" => |s| if let Some(v) = attempt(s, |s, m| cvtsi2ss32(s.a, s.rax as u32, m)) { s.a = v };
        "cvtsi2ss xmm1, rax" => |s| if let Some(v) = attempt(s, |s, m| cvtsi2ss64(s.a, s.rax, m)) { s.a = v };
        "cvtsi2sd xmm1, eax" => |s| s.a = cvtsi2sd32(s.a, s.rax as u32);
        "cvtsi2sd xmm1, rax" => |s| if let Some(v) = attempt(s, |s, m| cvtsi2sd64(s.a, s.rax, m)) { s.a = v };
    }
}

/// The bound of the architecture, and what is exact.
#[test]
fn approximations() {
    let mut random = tests::harness::Random::new("approximations");
    for _ in 0..400_000 {
        let v = f32::from_bits(random.floats(false) as u32);
        for (ours, exact) in [
            (rcpps(v.to_bits().into()) as u32, 1.0 / f64::from(v)),
            (rsqrtss(0, v.to_bits().into()) as u32, 1.0 / f64::from(v).sqrt()),
        ] {
            let ours = f32::from_bits(ours);
            if v.is_subnormal() || v == 0.0 {
                assert!(ours.is_infinite() && ours.is_sign_negative() == v.is_sign_negative(), "{v:e}: {ours:e}");
            } else if exact.is_nan() {
                assert!(ours.is_nan(), "{v:e}: {ours:e}");
            } else if exact.abs() < f64::from(f32::MIN_POSITIVE) {
                assert!(ours == 0.0 && ours.is_sign_negative() == v.is_sign_negative(), "{v:e}: {ours:e}");
            } else {
                let error = (f64::from(ours) - exact).abs() / exact.abs();
                assert!(error <= 1.5 / 4096.0, "{v:e}: {ours:e}, not {exact:e}");
            }
        }
    }
}
