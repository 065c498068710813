//! Integer instructions.

use crate::simd::tests::harness::against_host;
use crate::simd::*;

const ROUNDS: u32 = 20_000;

#[test]
fn as_hosts_sse2() {
    against_host! { Integers, ROUNDS, "sse2":
        "paddb xmm1, xmm2" => |s| s.a = paddb(s.a, s.b);
        "paddb mm1, mm2" => |s| s.m = paddb(s.m, s.n);
        "paddw xmm1, xmm2" => |s| s.a = paddw(s.a, s.b);
        "paddw mm1, mm2" => |s| s.m = paddw(s.m, s.n);
        "paddd xmm1, xmm2" => |s| s.a = paddd(s.a, s.b);
        "paddd mm1, mm2" => |s| s.m = paddd(s.m, s.n);
        "paddq xmm1, xmm2" => |s| s.a = paddq(s.a, s.b);
        "paddq mm1, mm2" => |s| s.m = paddq(s.m, s.n);
        "psubb xmm1, xmm2" => |s| s.a = psubb(s.a, s.b);
        "psubb mm1, mm2" => |s| s.m = psubb(s.m, s.n);
        "psubw xmm1, xmm2" => |s| s.a = psubw(s.a, s.b);
        "psubw mm1, mm2" => |s| s.m = psubw(s.m, s.n);
        "psubd xmm1, xmm2" => |s| s.a = psubd(s.a, s.b);
        "psubd mm1, mm2" => |s| s.m = psubd(s.m, s.n);
        "psubq xmm1, xmm2" => |s| s.a = psubq(s.a, s.b);
        "psubq mm1, mm2" => |s| s.m = psubq(s.m, s.n);
        "paddsb xmm1, xmm2" => |s| s.a = paddsb(s.a, s.b);
        "paddsb mm1, mm2" => |s| s.m = paddsb(s.m, s.n);
        "paddsw xmm1, xmm2" => |s| s.a = paddsw(s.a, s.b);
        "paddsw mm1, mm2" => |s| s.m = paddsw(s.m, s.n);
        "paddusb xmm1, xmm2" => |s| s.a = paddusb(s.a, s.b);
        "paddusb mm1, mm2" => |s| s.m = paddusb(s.m, s.n);
        "paddusw xmm1, xmm2" => |s| s.a = paddusw(s.a, s.b);
        "paddusw mm1, mm2" => |s| s.m = paddusw(s.m, s.n);
        "psubsb xmm1, xmm2" => |s| s.a = psubsb(s.a, s.b);
        "psubsb mm1, mm2" => |s| s.m = psubsb(s.m, s.n);
        "psubsw xmm1, xmm2" => |s| s.a = psubsw(s.a, s.b);
        "psubsw mm1, mm2" => |s| s.m = psubsw(s.m, s.n);
        "psubusb xmm1, xmm2" => |s| s.a = psubusb(s.a, s.b);
        "psubusb mm1, mm2" => |s| s.m = psubusb(s.m, s.n);
        "psubusw xmm1, xmm2" => |s| s.a = psubusw(s.a, s.b);
        "psubusw mm1, mm2" => |s| s.m = psubusw(s.m, s.n);
        "pavgb xmm1, xmm2" => |s| s.a = pavgb(s.a, s.b);
        "pavgb mm1, mm2" => |s| s.m = pavgb(s.m, s.n);
        "pavgw xmm1, xmm2" => |s| s.a = pavgw(s.a, s.b);
        "pavgw mm1, mm2" => |s| s.m = pavgw(s.m, s.n);
        "psadbw xmm1, xmm2" => |s| s.a = psadbw(s.a, s.b);
        "psadbw mm1, mm2" => |s| s.m = psadbw(s.m, s.n);
        "pand xmm1, xmm2" => |s| s.a = pand(s.a, s.b);
        "pand mm1, mm2" => |s| s.m = pand(s.m, s.n);
        "pandn xmm1, xmm2" => |s| s.a = pandn(s.a, s.b);
        "pandn mm1, mm2" => |s| s.m = pandn(s.m, s.n);
        "por xmm1, xmm2" => |s| s.a = por(s.a, s.b);
        "por mm1, mm2" => |s| s.m = por(s.m, s.n);
        "pxor xmm1, xmm2" => |s| s.a = pxor(s.a, s.b);
        "pxor mm1, mm2" => |s| s.m = pxor(s.m, s.n);
        "pcmpeqb xmm1, xmm2" => |s| s.a = pcmpeqb(s.a, s.b);
        "pcmpeqb mm1, mm2" => |s| s.m = pcmpeqb(s.m, s.n);
        "pcmpeqw xmm1, xmm2" => |s| s.a = pcmpeqw(s.a, s.b);
        "pcmpeqw mm1, mm2" => |s| s.m = pcmpeqw(s.m, s.n);
        "pcmpeqd xmm1, xmm2" => |s| s.a = pcmpeqd(s.a, s.b);
        "pcmpeqd mm1, mm2" => |s| s.m = pcmpeqd(s.m, s.n);
        "pcmpgtb xmm1, xmm2" => |s| s.a = pcmpgtb(s.a, s.b);
        "pcmpgtb mm1, mm2" => |s| s.m = pcmpgtb(s.m, s.n);
        "pcmpgtw xmm1, xmm2" => |s| s.a = pcmpgtw(s.a, s.b);
        "pcmpgtw mm1, mm2" => |s| s.m = pcmpgtw(s.m, s.n);
        "pcmpgtd xmm1, xmm2" => |s| s.a = pcmpgtd(s.a, s.b);
        "pcmpgtd mm1, mm2" => |s| s.m = pcmpgtd(s.m, s.n);
        "pminub xmm1, xmm2" => |s| s.a = pminub(s.a, s.b);
        "pminub mm1, mm2" => |s| s.m = pminub(s.m, s.n);
        "pmaxub xmm1, xmm2" => |s| s.a = pmaxub(s.a, s.b);
        "pmaxub mm1, mm2" => |s| s.m = pmaxub(s.m, s.n);
        "pminsw xmm1, xmm2" => |s| s.a = pminsw(s.a, s.b);
        "pminsw mm1, mm2" => |s| s.m = pminsw(s.m, s.n);
        "pmaxsw xmm1, xmm2" => |s| s.a = pmaxsw(s.a, s.b);
        "pmaxsw mm1, mm2" => |s| s.m = pmaxsw(s.m, s.n);
        "pmullw xmm1, xmm2" => |s| s.a = pmullw(s.a, s.b);
        "pmullw mm1, mm2" => |s| s.m = pmullw(s.m, s.n);
        "pmulhw xmm1, xmm2" => |s| s.a = pmulhw(s.a, s.b);
        "pmulhw mm1, mm2" => |s| s.m = pmulhw(s.m, s.n);
        "pmulhuw xmm1, xmm2" => |s| s.a = pmulhuw(s.a, s.b);
        "pmulhuw mm1, mm2" => |s| s.m = pmulhuw(s.m, s.n);
        "pmuludq xmm1, xmm2" => |s| s.a = pmuludq(s.a, s.b);
        "pmuludq mm1, mm2" => |s| s.m = pmuludq(s.m, s.n);
        "pmaddwd xmm1, xmm2" => |s| s.a = pmaddwd(s.a, s.b);
        "pmaddwd mm1, mm2" => |s| s.m = pmaddwd(s.m, s.n);
        "packsswb xmm1, xmm2" => |s| s.a = packsswb(s.a, s.b);
        "packsswb mm1, mm2" => |s| s.m = packsswb(s.m, s.n);
        "packuswb xmm1, xmm2" => |s| s.a = packuswb(s.a, s.b);
        "packuswb mm1, mm2" => |s| s.m = packuswb(s.m, s.n);
        "packssdw xmm1, xmm2" => |s| s.a = packssdw(s.a, s.b);
        "packssdw mm1, mm2" => |s| s.m = packssdw(s.m, s.n);
        "punpcklbw xmm1, xmm2" => |s| s.a = punpcklbw(s.a, s.b);
        "punpcklbw mm1, mm2" => |s| s.m = punpcklbw(s.m, s.n);
        "punpcklwd xmm1, xmm2" => |s| s.a = punpcklwd(s.a, s.b);
        "punpcklwd mm1, mm2" => |s| s.m = punpcklwd(s.m, s.n);
        "punpckldq xmm1, xmm2" => |s| s.a = punpckldq(s.a, s.b);
        "punpckldq mm1, mm2" => |s| s.m = punpckldq(s.m, s.n);
        "punpckhbw xmm1, xmm2" => |s| s.a = punpckhbw(s.a, s.b);
        "punpckhbw mm1, mm2" => |s| s.m = punpckhbw(s.m, s.n);
        "punpckhwd xmm1, xmm2" => |s| s.a = punpckhwd(s.a, s.b);
        "punpckhwd mm1, mm2" => |s| s.m = punpckhwd(s.m, s.n);
        "punpckhdq xmm1, xmm2" => |s| s.a = punpckhdq(s.a, s.b);
        "punpckhdq mm1, mm2" => |s| s.m = punpckhdq(s.m, s.n);
        "punpcklqdq xmm1, xmm2" => |s| s.a = punpcklqdq(s.a, s.b);
        "punpckhqdq xmm1, xmm2" => |s| s.a = punpckhqdq(s.a, s.b);
        "unpcklps xmm1, xmm2" => |s| s.a = unpcklps(s.a, s.b);
        "unpckhps xmm1, xmm2" => |s| s.a = unpckhps(s.a, s.b);
        "unpcklpd xmm1, xmm2" => |s| s.a = unpcklpd(s.a, s.b);
        "unpckhpd xmm1, xmm2" => |s| s.a = unpckhpd(s.a, s.b);
        "andps xmm1, xmm2" => |s| s.a = pand(s.a, s.b);
        "andnps xmm1, xmm2" => |s| s.a = pandn(s.a, s.b);
        "orps xmm1, xmm2" => |s| s.a = por(s.a, s.b);
        "xorpd xmm1, xmm2" => |s| s.a = pxor(s.a, s.b);
        "psllw xmm1, xmm2" => |s| s.a = psllw(s.a, s.b as u64);
        "psllw mm1, mm2" => |s| s.m = psllw(s.m, s.n);
        "psllw xmm1", imm => |s, i| s.a = psllw(s.a, i.into());
        "psllw mm1", imm => |s, i| s.m = psllw(s.m, i.into());
        "pslld xmm1, xmm2" => |s| s.a = pslld(s.a, s.b as u64);
        "pslld mm1, mm2" => |s| s.m = pslld(s.m, s.n);
        "pslld xmm1", imm => |s, i| s.a = pslld(s.a, i.into());
        "pslld mm1", imm => |s, i| s.m = pslld(s.m, i.into());
        "psllq xmm1, xmm2" => |s| s.a = psllq(s.a, s.b as u64);
        "psllq mm1, mm2" => |s| s.m = psllq(s.m, s.n);
        "psllq xmm1", imm => |s, i| s.a = psllq(s.a, i.into());
        "psllq mm1", imm => |s, i| s.m = psllq(s.m, i.into());
        "psrlw xmm1, xmm2" => |s| s.a = psrlw(s.a, s.b as u64);
        "psrlw mm1, mm2" => |s| s.m = psrlw(s.m, s.n);
        "psrlw xmm1", imm => |s, i| s.a = psrlw(s.a, i.into());
        "psrlw mm1", imm => |s, i| s.m = psrlw(s.m, i.into());
        "psrld xmm1, xmm2" => |s| s.a = psrld(s.a, s.b as u64);
        "psrld mm1, mm2" => |s| s.m = psrld(s.m, s.n);
        "psrld xmm1", imm => |s, i| s.a = psrld(s.a, i.into());
        "psrld mm1", imm => |s, i| s.m = psrld(s.m, i.into());
        "psrlq xmm1, xmm2" => |s| s.a = psrlq(s.a, s.b as u64);
        "psrlq mm1, mm2" => |s| s.m = psrlq(s.m, s.n);
        "psrlq xmm1", imm => |s, i| s.a = psrlq(s.a, i.into());
        "psrlq mm1", imm => |s, i| s.m = psrlq(s.m, i.into());
        "psraw xmm1, xmm2" => |s| s.a = psraw(s.a, s.b as u64);
        "psraw mm1, mm2" => |s| s.m = psraw(s.m, s.n);
        "psraw xmm1", imm => |s, i| s.a = psraw(s.a, i.into());
        "psraw mm1", imm => |s, i| s.m = psraw(s.m, i.into());
        "psrad xmm1, xmm2" => |s| s.a = psrad(s.a, s.b as u64);
        "psrad mm1, mm2" => |s| s.m = psrad(s.m, s.n);
        "psrad xmm1", imm => |s, i| s.a = psrad(s.a, i.into());
        "psrad mm1", imm => |s, i| s.m = psrad(s.m, i.into());
        "pslldq xmm1", imm => |s, i| s.a = pslldq(s.a, i);
        "psrldq xmm1", imm => |s, i| s.a = psrldq(s.a, i);
        "pshufd xmm1, xmm2", imm => |s, i| s.a = pshufd(s.b, i);
        "pshuflw xmm1, xmm2", imm => |s, i| s.a = pshuflw(s.b, i);
        "pshufhw xmm1, xmm2", imm => |s, i| s.a = pshufhw(s.b, i);
        "pshufw mm1, mm2", imm => |s, i| s.m = pshufw(s.n, i);
        "shufps xmm1, xmm2", imm => |s, i| s.a = shufps(s.a, s.b, i);
        "shufpd xmm1, xmm2", imm => |s, i| s.a = shufpd(s.a, s.b, i);
        "movmskps eax, xmm2" => |s| s.rax = movmskps(s.b).into();
        "movmskpd eax, xmm2" => |s| s.rax = movmskpd(s.b).into();
        "pmovmskb eax, xmm2" => |s| s.rax = pmovmskb(s.b).into();
        "pmovmskb eax, mm2" => |s| s.rax = pmovmskb(s.n).into();
        "pextrw eax, xmm2", imm => |s, i| s.rax = pextrw(s.b, i).into();
        "pextrw eax, mm2", imm => |s, i| s.rax = pextrw(s.n, i).into();
        "pinsrw xmm1, eax", imm => |s, i| s.a = pinsrw(s.a, s.rax as u32, i);
        "pinsrw mm1, eax", imm => |s, i| s.m = pinsrw(s.m, s.rax as u32, i);
    }
}

#[test]
fn as_hosts_ssse3() {
    against_host! { Integers, ROUNDS, "ssse3":
        "psignb xmm1, xmm2" => |s| s.a = psignb(s.a, s.b);
        "psignb mm1, mm2" => |s| s.m = psignb(s.m, s.n);
        "psignw xmm1, xmm2" => |s| s.a = psignw(s.a, s.b);
        "psignw mm1, mm2" => |s| s.m = psignw(s.m, s.n);
        "psignd xmm1, xmm2" => |s| s.a = psignd(s.a, s.b);
        "psignd mm1, mm2" => |s| s.m = psignd(s.m, s.n);
        "pshufb xmm1, xmm2" => |s| s.a = pshufb(s.a, s.b);
        "pshufb mm1, mm2" => |s| s.m = pshufb(s.m, s.n);
        "phaddw xmm1, xmm2" => |s| s.a = phaddw(s.a, s.b);
        "phaddw mm1, mm2" => |s| s.m = phaddw(s.m, s.n);
        "phaddd xmm1, xmm2" => |s| s.a = phaddd(s.a, s.b);
        "phaddd mm1, mm2" => |s| s.m = phaddd(s.m, s.n);
        "phaddsw xmm1, xmm2" => |s| s.a = phaddsw(s.a, s.b);
        "phaddsw mm1, mm2" => |s| s.m = phaddsw(s.m, s.n);
        "phsubw xmm1, xmm2" => |s| s.a = phsubw(s.a, s.b);
        "phsubw mm1, mm2" => |s| s.m = phsubw(s.m, s.n);
        "phsubd xmm1, xmm2" => |s| s.a = phsubd(s.a, s.b);
        "phsubd mm1, mm2" => |s| s.m = phsubd(s.m, s.n);
        "phsubsw xmm1, xmm2" => |s| s.a = phsubsw(s.a, s.b);
        "phsubsw mm1, mm2" => |s| s.m = phsubsw(s.m, s.n);
        "pmaddubsw xmm1, xmm2" => |s| s.a = pmaddubsw(s.a, s.b);
        "pmaddubsw mm1, mm2" => |s| s.m = pmaddubsw(s.m, s.n);
        "pmulhrsw xmm1, xmm2" => |s| s.a = pmulhrsw(s.a, s.b);
        "pmulhrsw mm1, mm2" => |s| s.m = pmulhrsw(s.m, s.n);
        "pabsb xmm1, xmm2" => |s| s.a = pabsb(s.b);
        "pabsb mm1, mm2" => |s| s.m = pabsb(s.n);
        "pabsw xmm1, xmm2" => |s| s.a = pabsw(s.b);
        "pabsw mm1, mm2" => |s| s.m = pabsw(s.n);
        "pabsd xmm1, xmm2" => |s| s.a = pabsd(s.b);
        "pabsd mm1, mm2" => |s| s.m = pabsd(s.n);
        "palignr xmm1, xmm2", imm => |s, i| s.a = palignr(s.a, s.b, i);
        "palignr mm1, mm2", imm => |s, i| s.m = palignr(s.m, s.n, i);
    }
}

#[test]
fn as_hosts_sse4_1() {
    against_host! { Integers, ROUNDS, "sse4.1":
        "pcmpeqq xmm1, xmm2" => |s| s.a = pcmpeqq(s.a, s.b);
        "pminsb xmm1, xmm2" => |s| s.a = pminsb(s.a, s.b);
        "pmaxsb xmm1, xmm2" => |s| s.a = pmaxsb(s.a, s.b);
        "pminuw xmm1, xmm2" => |s| s.a = pminuw(s.a, s.b);
        "pmaxuw xmm1, xmm2" => |s| s.a = pmaxuw(s.a, s.b);
        "pminsd xmm1, xmm2" => |s| s.a = pminsd(s.a, s.b);
        "pmaxsd xmm1, xmm2" => |s| s.a = pmaxsd(s.a, s.b);
        "pminud xmm1, xmm2" => |s| s.a = pminud(s.a, s.b);
        "pmaxud xmm1, xmm2" => |s| s.a = pmaxud(s.a, s.b);
        "pmuldq xmm1, xmm2" => |s| s.a = pmuldq(s.a, s.b);
        "pmulld xmm1, xmm2" => |s| s.a = pmulld(s.a, s.b);
        "packusdw xmm1, xmm2" => |s| s.a = packusdw(s.a, s.b);
        "pmovsxbw xmm1, xmm2" => |s| s.a = pmovsxbw(s.b);
        "pmovsxbd xmm1, xmm2" => |s| s.a = pmovsxbd(s.b);
        "pmovsxbq xmm1, xmm2" => |s| s.a = pmovsxbq(s.b);
        "pmovsxwd xmm1, xmm2" => |s| s.a = pmovsxwd(s.b);
        "pmovsxwq xmm1, xmm2" => |s| s.a = pmovsxwq(s.b);
        "pmovsxdq xmm1, xmm2" => |s| s.a = pmovsxdq(s.b);
        "pmovzxbw xmm1, xmm2" => |s| s.a = pmovzxbw(s.b);
        "pmovzxbd xmm1, xmm2" => |s| s.a = pmovzxbd(s.b);
        "pmovzxbq xmm1, xmm2" => |s| s.a = pmovzxbq(s.b);
        "pmovzxwd xmm1, xmm2" => |s| s.a = pmovzxwd(s.b);
        "pmovzxwq xmm1, xmm2" => |s| s.a = pmovzxwq(s.b);
        "pmovzxdq xmm1, xmm2" => |s| s.a = pmovzxdq(s.b);
        "pblendw xmm1, xmm2", imm => |s, i| s.a = pblendw(s.a, s.b, i);
        "blendps xmm1, xmm2", imm => |s, i| s.a = blendps(s.a, s.b, i);
        "blendpd xmm1, xmm2", imm => |s, i| s.a = blendpd(s.a, s.b, i);
        "insertps xmm1, xmm2", imm => |s, i| s.a = insertps(s.a, s.b, i);
        "mpsadbw xmm1, xmm2", imm => |s, i| s.a = mpsadbw(s.a, s.b, i);
        "pblendvb xmm1, xmm2, xmm0" => |s| s.a = pblendvb(s.a, s.b, s.c);
        "blendvps xmm1, xmm2, xmm0" => |s| s.a = blendvps(s.a, s.b, s.c);
        "blendvpd xmm1, xmm2, xmm0" => |s| s.a = blendvpd(s.a, s.b, s.c);
        "pextrb eax, xmm2", imm => |s, i| s.rax = pextrb(s.b, i).into();
        "pextrd eax, xmm2", imm => |s, i| s.rax = pextrd(s.b, i).into();
        "extractps eax, xmm2", imm => |s, i| s.rax = extractps(s.b, i).into();
        "pextrq rax, xmm2", imm => |s, i| s.rax = pextrq(s.b, i);
        "pinsrb xmm1, eax", imm => |s, i| s.a = pinsrb(s.a, s.rax as u32, i);
        "pinsrd xmm1, eax", imm => |s, i| s.a = pinsrd(s.a, s.rax as u32, i);
        "pinsrq xmm1, rax", imm => |s, i| s.a = pinsrq(s.a, s.rax, i);
        "ptest xmm1, xmm2" => |s| s.flags = ptest(s.a, s.b);
        "phminposuw xmm1, xmm2" => |s| s.a = phminposuw(s.b);
    }
}

#[test]
fn as_hosts_sse4_2() {
    against_host! { Integers, ROUNDS, "sse4.2":
        "pcmpgtq xmm1, xmm2" => |s| s.a = pcmpgtq(s.a, s.b);
        "pcmpestri xmm1, xmm2", imm => |s, i| { let (v, flags) = pcmpestri(s.a, s.b, i64::from(s.rax as i32), i64::from(s.rdx as i32), i); s.rcx = v.into(); s.flags = flags; };
        ".byte 0x66, 0x48, 0x0f, 0x3a, 0x61, 0xca", imm => |s, i| { let (v, flags) = pcmpestri(s.a, s.b, s.rax as i64, s.rdx as i64, i); s.rcx = v.into(); s.flags = flags; };
        "pcmpestrm xmm1, xmm2", imm => |s, i| { let (v, flags) = pcmpestrm(s.a, s.b, i64::from(s.rax as i32), i64::from(s.rdx as i32), i); s.c = v; s.flags = flags; };
        ".byte 0x66, 0x48, 0x0f, 0x3a, 0x60, 0xca", imm => |s, i| { let (v, flags) = pcmpestrm(s.a, s.b, s.rax as i64, s.rdx as i64, i); s.c = v; s.flags = flags; };
        "pcmpistri xmm1, xmm2", imm => |s, i| { let (v, flags) = pcmpistri(s.a, s.b, i); s.rcx = v.into(); s.flags = flags; };
        "pcmpistrm xmm1, xmm2", imm => |s, i| { let (v, flags) = pcmpistrm(s.a, s.b, i); s.c = v; s.flags = flags; };
        "crc32 eax, cl" => |s| s.rax = crc32_u8(s.rax as u32, s.rcx as u8).into();
        "crc32 eax, cx" => |s| s.rax = crc32_u16(s.rax as u32, s.rcx as u16).into();
        "crc32 eax, ecx" => |s| s.rax = crc32_u32(s.rax as u32, s.rcx as u32).into();
        "crc32 rax, rcx" => |s| s.rax = crc32_u64(s.rax as u32, s.rcx).into();
    }
}

#[test]
fn as_hosts_aes() {
    against_host! { Integers, ROUNDS, "aes":
        "aesenc xmm1, xmm2" => |s| s.a = aesenc(s.a, s.b);
        "aesenclast xmm1, xmm2" => |s| s.a = aesenclast(s.a, s.b);
        "aesdec xmm1, xmm2" => |s| s.a = aesdec(s.a, s.b);
        "aesdeclast xmm1, xmm2" => |s| s.a = aesdeclast(s.a, s.b);
        "aesimc xmm1, xmm2" => |s| s.a = aesimc(s.b);
        "aeskeygenassist xmm1, xmm2", imm => |s, i| s.a = aeskeygenassist(s.b, i);
    }
}

#[test]
fn as_hosts_sse3() {
    against_host! { Integers, ROUNDS, "sse3":
        "movddup xmm1, xmm2" => |s| s.a = movddup(s.b);
        "movshdup xmm1, xmm2" => |s| s.a = movshdup(s.b);
        "movsldup xmm1, xmm2" => |s| s.a = movsldup(s.b);
    }
}

#[test]
fn as_hosts_pclmulqdq() {
    against_host! { Integers, ROUNDS, "pclmulqdq":
        "pclmulqdq xmm1, xmm2", imm => |s, i| s.a = pclmulqdq(s.a, s.b, i);
    }
}
