//! How long operations take: `cargo test --release speed -- --ignored --nocapture`.

use std::hint::black_box;
use std::time::Instant;

use crate::simd::*;

fn time(name: &str, mut op: impl FnMut(u128, u128) -> u128) {
    const ROUNDS: u32 = 20_000;
    // Ordinary numbers in both formats.
    let (a, b) = (0x3f81_2345_4049_0fdb_3fff_1234_402d_f854, 0x3f91_1111_4022_3333_3fe4_5555_3fb5_04f3);
    // The least of many tries, as the machine has other things to do.
    let least = (0..50)
        .map(|_| {
            let start = Instant::now();
            for _ in 0..ROUNDS {
                black_box(op(black_box(a), black_box(b)));
            }
            start.elapsed()
        })
        .min();
    println!("{name:>12} {:6.2} ns", least.unwrap_or_default().as_secs_f64() * 1e9 / f64::from(ROUNDS));
}

macro_rules! time_integer {
    ($($name:ident)*) => { $(time(stringify!($name), |a, b| $name(a, b));)* };
}

macro_rules! time_float {
    ($($name:ident)*) => {
        $(
            time(stringify!($name), |a, b| {
                let mut mxcsr = black_box(Mxcsr(0x1f80));
                $name(a, b, &mut mxcsr).unwrap_or(0) ^ u128::from(mxcsr.0)
            });
            time(concat!(stringify!($name), " PE"), |a, b| {
                let mut mxcsr = black_box(Mxcsr(0x1fa0));
                $name(a, b, &mut mxcsr).unwrap_or(0) ^ u128::from(mxcsr.0)
            });
        )*
    };
}

#[test]
#[ignore = "a measurement, of use in release builds only"]
fn speed() {
    time("nothing", |a, _| a);
    time_integer! {
        pand paddb paddw paddd paddq psubb paddsb paddsw paddusb paddusw psubusb pavgb psadbw
        pcmpeqb pcmpeqw pcmpeqd pcmpgtb pcmpgtw pcmpgtd pminub pmaxub pminsw pmaxsw pminud
        pmullw pmulhw pmulhuw pmuludq pmaddwd pmulld pmaddubsw pmulhrsw
        packsswb packuswb packssdw packusdw punpcklbw punpcklwd punpckldq punpckhbw punpcklqdq
        pshufb phaddw phaddd psignb aesenc aesdec aesenclast
    }
    time("psllw", |a, _| psllw(a, black_box(3)));
    time("psrld", |a, _| psrld(a, black_box(3)));
    time("psrad", |a, _| psrad(a, black_box(3)));
    time("psraw", |a, _| psraw(a, black_box(3)));
    time("psrlq", |a, _| psrlq(a, black_box(3)));
    time("pslldq", |a, _| pslldq(a, black_box(3)));
    time("palignr", |a, b| palignr(a, b, black_box(3)));
    time("pshufd", |a, _| pshufd(a, black_box(0x1b)));
    time("pshuflw", |a, _| pshuflw(a, black_box(0x1b)));
    time("shufps", |a, b| shufps(a, b, black_box(0x1b)));
    time("pmovmskb", |a, _| pmovmskb(a).into());
    time("pmovzxbw", |a, _| pmovzxbw(a));
    time("pmovsxwd", |a, _| pmovsxwd(a));
    time("pabsw", |a, _| pabsw(a));
    time("pblendvb", |a, b| pblendvb(a, b, a));
    time("pblendw", |a, b| pblendw(a, b, black_box(0x1b)));
    time("pclmulqdq", |a, b| pclmulqdq(a, b, black_box(1)));
    time("pcmpistri", |a, b| pcmpistri(a, b, black_box(0xc)).0.into());
    time("pcmpistri =", |a, b| pcmpistri(a, b, black_box(0x18)).0.into());
    time("crc32_u64", |a, _| crc32_u64(a as u32, a as u64).into());
    time_float! {
        addps addpd addss addsd mulps mulpd mulss mulsd divps divpd divss divsd minps maxpd minss maxsd haddps addsubpd
        sqrtss sqrtsd cvtss2sd cvtsd2ss
    }
    time("sqrtps", |a, _| sqrtps(a, &mut Mxcsr(0x1fa0)).unwrap_or(0));
    time("sqrtpd", |a, _| sqrtpd(a, &mut Mxcsr(0x1fa0)).unwrap_or(0));
    time("ucomisd", |a, b| ucomisd(a, b, &mut Mxcsr(0x1fa0)).unwrap_or(0).into());
    time("cmpps", |a, b| cmpps(a, b, black_box(1), &mut Mxcsr(0x1fa0)).unwrap_or(0));
    time("cvtsi2sd64", |a, b| cvtsi2sd64(a, b as u64, &mut Mxcsr(0x1fa0)).unwrap_or(0));
    time("cvttsd2si64", |a, _| cvttsd2si64(a, &mut Mxcsr(0x1fa0)).unwrap_or(0).into());
    time("cvtsd2si64", |a, _| cvtsd2si64(a, &mut Mxcsr(0x1fa0)).unwrap_or(0).into());
    time("cvtdq2ps", |a, _| cvtdq2ps(a, &mut Mxcsr(0x1fa0)).unwrap_or(0));
    time("cvttps2dq", |a, _| cvttps2dq(a, &mut Mxcsr(0x1fa0)).unwrap_or(0));
    time("roundsd", |a, b| roundsd(a, b, black_box(1), &mut Mxcsr(0x1fa0)).unwrap_or(0));
    time("slow addsd", |a, b| addsd(a, b, &mut Mxcsr(0x3f80)).unwrap_or(0));
    time("slow divsd", |a, b| divsd(a, b, &mut Mxcsr(0x3f80)).unwrap_or(0));
    time("slow mulps", |a, b| mulps(a, b, &mut Mxcsr(0x3f80)).unwrap_or(0));
    time("rcpps", |a, _| rcpps(a));
}
