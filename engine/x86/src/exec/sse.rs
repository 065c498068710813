//! MMX and SSE: operands in and out; what is computed is [`simd`]'s.

use iced_x86::{Instruction, Mnemonic as M, OpKind};

use crate::attempt;
use crate::cpu::{Cpu, Trap, cr0, cr4, vector};
use crate::lower::{Mode, is_memory};
use crate::op::{Flow, Handler, Op, reg};
use crate::simd::{self, Unmasked, Xmm};

impl Cpu {
    /// Whether SSE instructions may be carried out.
    ///
    /// # Errors
    /// #UD or #NM (Intel SDM volume 3, 13.1).
    #[inline(always)]
    pub fn sse(&mut self) -> Result<(), Trap> {
        if self.cr0 & (cr0::EM | cr0::TS) != 0 || self.cr4 & cr4::OSFXSR == 0 {
            return Err(self.no_sse());
        }
        Ok(())
    }

    #[cold]
    fn no_sse(&mut self) -> Trap {
        let undefined = self.cr0 & cr0::EM != 0 || self.cr4 & cr4::OSFXSR == 0;
        self.raise(if undefined { vector::UD } else { vector::NM })
    }

    /// Whether MMX instructions may be carried out; the registers are MMX's then.
    ///
    /// # Errors
    /// #UD, #NM or #MF.
    #[inline(always)]
    pub fn mmx(&mut self) -> Result<(), Trap> {
        if self.cr0 & (cr0::EM | cr0::TS) != 0 {
            return Err(self.raise(if self.cr0 & cr0::EM != 0 { vector::UD } else { vector::NM }));
        }
        if self.fpu.pending() {
            return Err(self.raise(vector::MF));
        }
        Ok(())
    }

    /// #XM, or #UD where the system does not handle it.
    #[cold]
    pub fn unmasked(&mut self) -> Trap {
        self.raise(if self.cr4 & cr4::OSXMMEXCPT != 0 { vector::XM } else { vector::UD })
    }

    #[inline(always)]
    fn float<T>(&mut self, result: Result<T, Unmasked>) -> Result<T, Trap> {
        match result {
            Ok(value) => Ok(value),
            Err(Unmasked) => Err(self.unmasked()),
        }
    }

    /// XMM register.
    #[inline(always)]
    pub fn xmm_get(&self, number: u8) -> Xmm {
        self.xmm[usize::from(number & 15)]
    }

    /// XMM register.
    #[inline(always)]
    pub fn xmm_set(&mut self, number: u8, value: Xmm) {
        self.xmm[usize::from(number & 15)] = value;
    }

    /// An operand of `BYTES` bytes in memory; of 16 it must be aligned if `ALIGNED`.
    ///
    /// # Errors
    /// A fault.
    #[inline(always)]
    pub fn load_vector<const BYTES: usize, const ALIGNED: bool>(&mut self, op: &Op) -> Result<Xmm, Trap> {
        let address = self.address(op);
        Ok(match BYTES {
            1 => self.load::<u8>(op.seg, address)?.into(),
            2 => self.load::<u16>(op.seg, address)?.into(),
            4 => self.load::<u32>(op.seg, address)?.into(),
            8 => self.load::<u64>(op.seg, address)?.into(),
            _ => {
                if ALIGNED {
                    self.aligned(op, address)?;
                }
                self.load_16(op.seg, address)?
            }
        })
    }

    /// Whether an operand of 16 bytes is aligned.
    ///
    /// # Errors
    /// #GP.
    #[inline(always)]
    pub fn aligned(&mut self, op: &Op, address: u64) -> Result<(), Trap> {
        if self.segs[usize::from(op.seg & 7)].start.wrapping_add(address) & 15 != 0 {
            return Err(self.gp());
        }
        Ok(())
    }
}

/// A handler of `destination = f(destination, source)` on XMM registers; the source may be `$bytes` of memory.
macro_rules! xmm {
    ($i:expr, $bytes:literal, $aligned:literal, |$cpu:ident, $op:ident, $a:ident, $b:ident| $body:expr) => {{
        #[inline(always)]
        #[allow(unused_variables, clippy::allow_attributes, reason = "not every one needs all of them")]
        fn apply($cpu: &mut Cpu, $op: &Op, $b: Xmm) -> Flow {
            let $a = $cpu.xmm_get($op.dst);
            let result: Result<Xmm, Trap> = $body;
            let value = attempt!(result);
            $cpu.xmm_set($op.dst, value);
            Flow::Next
        }
        fn register(cpu: &mut Cpu, op: &Op) -> Flow {
            attempt!(cpu.sse());
            let b = cpu.xmm_get(op.src);
            apply(cpu, op, b)
        }
        fn memory(cpu: &mut Cpu, op: &Op) -> Flow {
            attempt!(cpu.sse());
            let b = attempt!(cpu.load_vector::<$bytes, $aligned>(op));
            apply(cpu, op, b)
        }
        Some(if is_memory($i, 1) { memory as Handler } else { register as Handler })
    }};
}

/// The same on MMX registers.
macro_rules! mmx {
    ($i:expr, $bytes:literal, |$cpu:ident, $op:ident, $a:ident, $b:ident| $body:expr) => {{
        #[inline(always)]
        fn apply($cpu: &mut Cpu, $op: &Op, $b: u64) -> Flow {
            let $a = $cpu.fpu.mmx(usize::from($op.dst & 7));
            let value: u64 = $body;
            $cpu.fpu.enter_mmx();
            $cpu.fpu.set_mmx(usize::from($op.dst & 7), value);
            Flow::Next
        }
        fn register(cpu: &mut Cpu, op: &Op) -> Flow {
            attempt!(cpu.mmx());
            let b = cpu.fpu.mmx(usize::from(op.src & 7));
            apply(cpu, op, b)
        }
        fn memory(cpu: &mut Cpu, op: &Op) -> Flow {
            attempt!(cpu.mmx());
            let b = attempt!(cpu.load_vector::<$bytes, false>(op)) as u64;
            apply(cpu, op, b)
        }
        Some(if is_memory($i, 1) { memory as Handler } else { register as Handler })
    }};
}

/// Whether an operand is an MMX register.
fn is_mm(instruction: &Instruction, operand: u32) -> bool {
    operand < instruction.op_count()
        && instruction.op_kind(operand) == OpKind::Register
        && instruction.op_register(operand).is_mm()
}

/// The handler, if it is one of these.
pub fn lower(instruction: &Instruction, op: &mut Op, mode: Mode) -> Option<Handler> {
    if let Some(handler) = super::vector::lower(instruction, op, mode) {
        return Some(handler);
    }
    if matches!(instruction.mnemonic(), M::Pcmpestri64 | M::Pcmpestrm64) {
        op.scale |= WIDE;
    }
    let from_mmx = matches!(instruction.mnemonic(), M::Cvtpi2ps | M::Cvtpi2pd);
    if from_mmx || is_mm(instruction, 0) || is_mm(instruction, 1) {
        return integer_mmx(instruction).or_else(|| convert_mmx(instruction));
    }
    integer(instruction)
        .or_else(|| immediate(instruction))
        .or_else(|| float(instruction))
        .or_else(|| convert(instruction))
        .or_else(|| to_register(instruction))
}

macro_rules! table {
    ($i:ident, $how:ident, $($m:ident => $f:ident,)*) => {
        match $i.mnemonic() {
            $(M::$m => $how!($i, $f),)*
            _ => None,
        }
    };
}

macro_rules! two_xmm {
    ($i:expr, $f:ident) => {
        xmm!($i, 16, true, |cpu, op, a, b| Ok(simd::$f(a, b)))
    };
}

macro_rules! two_mmx {
    ($i:expr, $f:ident) => {
        mmx!($i, 8, |cpu, op, a, b| simd::$f(a, b))
    };
}

/// Packed integers of both widths.
macro_rules! integers {
    ($i:ident, $how:ident $(, $more:ident => $f:ident)* $(,)?) => {
        table! { $i, $how,
            Paddb => paddb, Paddw => paddw, Paddd => paddd, Paddq => paddq, Psubb => psubb, Psubw => psubw,
            Psubd => psubd, Psubq => psubq, Paddsb => paddsb, Paddsw => paddsw, Paddusb => paddusb,
            Paddusw => paddusw, Psubsb => psubsb, Psubsw => psubsw, Psubusb => psubusb, Psubusw => psubusw,
            Pavgb => pavgb, Pavgw => pavgw, Psadbw => psadbw, Pand => pand, Pandn => pandn, Por => por, Pxor => pxor,
            Psignb => psignb, Psignw => psignw, Psignd => psignd, Pmullw => pmullw, Pmulhw => pmulhw,
            Pmulhuw => pmulhuw, Pmuludq => pmuludq, Pmaddwd => pmaddwd, Pmaddubsw => pmaddubsw,
            Pmulhrsw => pmulhrsw, Pminub => pminub, Pmaxub => pmaxub, Pminsw => pminsw, Pmaxsw => pmaxsw,
            Pcmpeqb => pcmpeqb, Pcmpeqw => pcmpeqw, Pcmpeqd => pcmpeqd, Pcmpgtb => pcmpgtb, Pcmpgtw => pcmpgtw,
            Pcmpgtd => pcmpgtd, Pshufb => pshufb, Packsswb => packsswb, Packuswb => packuswb, Packssdw => packssdw,
            Punpckhbw => punpckhbw, Punpckhwd => punpckhwd, Punpckhdq => punpckhdq, Phaddw => phaddw,
            Phaddd => phaddd, Phaddsw => phaddsw, Phsubw => phsubw, Phsubd => phsubd, Phsubsw => phsubsw,
            $($more => $f,)*
        }
    };
}

fn integer(i: &Instruction) -> Option<Handler> {
    integers! { i, two_xmm,
        Punpcklbw => punpcklbw, Punpcklwd => punpcklwd, Punpckldq => punpckldq, Punpcklqdq => punpcklqdq,
        Punpckhqdq => punpckhqdq, Pmuldq => pmuldq, Pmulld => pmulld, Pcmpeqq => pcmpeqq, Pcmpgtq => pcmpgtq,
        Pminsb => pminsb, Pmaxsb => pmaxsb, Pminuw => pminuw, Pmaxuw => pmaxuw, Pminsd => pminsd,
        Pmaxsd => pmaxsd, Pminud => pminud, Pmaxud => pmaxud, Packusdw => packusdw, Aesenc => aesenc,
        Aesenclast => aesenclast, Aesdec => aesdec, Aesdeclast => aesdeclast, Unpcklps => unpcklps,
        Unpckhps => unpckhps, Unpcklpd => unpcklpd, Unpckhpd => unpckhpd, Andps => pand, Andpd => pand,
        Andnps => pandn, Andnpd => pandn, Orps => por, Orpd => por, Xorps => pxor, Xorpd => pxor,
    }
}

fn integer_mmx(i: &Instruction) -> Option<Handler> {
    match i.mnemonic() {
        M::Punpcklbw => mmx!(i, 4, |cpu, op, a, b| simd::punpcklbw(a, b)),
        M::Punpcklwd => mmx!(i, 4, |cpu, op, a, b| simd::punpcklwd(a, b)),
        M::Punpckldq => mmx!(i, 4, |cpu, op, a, b| simd::punpckldq(a, b)),
        M::Pabsb => mmx!(i, 8, |cpu, op, _a, b| simd::pabsb(b)),
        M::Pabsw => mmx!(i, 8, |cpu, op, _a, b| simd::pabsw(b)),
        M::Pabsd => mmx!(i, 8, |cpu, op, _a, b| simd::pabsd(b)),
        M::Pshufw => mmx!(i, 8, |cpu, op, _a, b| simd::pshufw(b, op.imm as u8)),
        M::Palignr => mmx!(i, 8, |cpu, op, a, b| simd::palignr(a, b, op.imm as u8)),
        M::Psllw | M::Pslld | M::Psllq | M::Psrlw | M::Psrld | M::Psrlq | M::Psraw | M::Psrad => shift_mmx(i),
        _ => integers! { i, two_mmx },
    }
}

macro_rules! shifts {
    ($i:ident, $how:ident) => {
        table! { $i, $how,
            Psllw => psllw, Pslld => pslld, Psllq => psllq, Psrlw => psrlw, Psrld => psrld, Psrlq => psrlq,
            Psraw => psraw, Psrad => psrad,
        }
    };
}

macro_rules! shift_by_register_mmx {
    ($i:expr, $f:ident) => {
        mmx!($i, 8, |cpu, op, a, b| simd::$f(a, b))
    };
}

macro_rules! shift_by_immediate_mmx {
    ($i:expr, $f:ident) => {{
        fn handler(cpu: &mut Cpu, op: &Op) -> Flow {
            attempt!(cpu.mmx());
            let value = simd::$f(cpu.fpu.mmx(usize::from(op.dst & 7)), op.imm & 0xff);
            cpu.fpu.enter_mmx();
            cpu.fpu.set_mmx(usize::from(op.dst & 7), value);
            Flow::Next
        }
        Some(handler as Handler)
    }};
}

fn shift_mmx(i: &Instruction) -> Option<Handler> {
    if i.op_kind(1) == OpKind::Immediate8 {
        shifts!(i, shift_by_immediate_mmx)
    } else {
        shifts!(i, shift_by_register_mmx)
    }
}

macro_rules! shift_by_register {
    ($i:expr, $f:ident) => {
        xmm!($i, 16, true, |cpu, op, a, b| Ok(simd::$f(a, b as u64)))
    };
}

macro_rules! shift_by_immediate {
    ($i:expr, $f:ident) => {{
        fn handler(cpu: &mut Cpu, op: &Op) -> Flow {
            attempt!(cpu.sse());
            let value = simd::$f(cpu.xmm_get(op.dst), op.imm & 0xff);
            cpu.xmm_set(op.dst, value);
            Flow::Next
        }
        Some(handler as Handler)
    }};
}

/// With an immediate, or one operand only.
fn immediate(i: &Instruction) -> Option<Handler> {
    let by_immediate = i.op_count() == 2 && i.op_kind(1) == OpKind::Immediate8;
    match i.mnemonic() {
        M::Psllw | M::Pslld | M::Psllq | M::Psrlw | M::Psrld | M::Psrlq | M::Psraw | M::Psrad if by_immediate => {
            shifts!(i, shift_by_immediate)
        }
        M::Psllw | M::Pslld | M::Psllq | M::Psrlw | M::Psrld | M::Psrlq | M::Psraw | M::Psrad => {
            shifts!(i, shift_by_register)
        }
        M::Pslldq => xmm!(i, 16, true, |cpu, op, a, b| Ok(simd::pslldq(a, op.imm as u8))),
        M::Psrldq => xmm!(i, 16, true, |cpu, op, a, b| Ok(simd::psrldq(a, op.imm as u8))),
        M::Palignr => xmm!(i, 16, true, |cpu, op, a, b| Ok(simd::palignr(a, b, op.imm as u8))),
        M::Pshufd => xmm!(i, 16, true, |cpu, op, a, b| Ok(simd::pshufd(b, op.imm as u8))),
        M::Pshufhw => xmm!(i, 16, true, |cpu, op, a, b| Ok(simd::pshufhw(b, op.imm as u8))),
        M::Pshuflw => xmm!(i, 16, true, |cpu, op, a, b| Ok(simd::pshuflw(b, op.imm as u8))),
        M::Shufps => xmm!(i, 16, true, |cpu, op, a, b| Ok(simd::shufps(a, b, op.imm as u8))),
        M::Shufpd => xmm!(i, 16, true, |cpu, op, a, b| Ok(simd::shufpd(a, b, op.imm as u8))),
        M::Pblendw => xmm!(i, 16, true, |cpu, op, a, b| Ok(simd::pblendw(a, b, op.imm as u8))),
        M::Blendps => xmm!(i, 16, true, |cpu, op, a, b| Ok(simd::blendps(a, b, op.imm as u8))),
        M::Blendpd => xmm!(i, 16, true, |cpu, op, a, b| Ok(simd::blendpd(a, b, op.imm as u8))),
        M::Pblendvb => xmm!(i, 16, true, |cpu, op, a, b| Ok(simd::pblendvb(a, b, cpu.xmm[0]))),
        M::Blendvps => xmm!(i, 16, true, |cpu, op, a, b| Ok(simd::blendvps(a, b, cpu.xmm[0]))),
        M::Blendvpd => xmm!(i, 16, true, |cpu, op, a, b| Ok(simd::blendvpd(a, b, cpu.xmm[0]))),
        M::Mpsadbw => xmm!(i, 16, true, |cpu, op, a, b| Ok(simd::mpsadbw(a, b, op.imm as u8))),
        M::Pclmulqdq => xmm!(i, 16, true, |cpu, op, a, b| Ok(simd::pclmulqdq(a, b, op.imm as u8))),
        M::Aeskeygenassist => xmm!(i, 16, true, |cpu, op, a, b| Ok(simd::aeskeygenassist(b, op.imm as u8))),
        M::Aesimc => xmm!(i, 16, true, |cpu, op, a, b| Ok(simd::aesimc(b))),
        M::Phminposuw => xmm!(i, 16, true, |cpu, op, a, b| Ok(simd::phminposuw(b))),
        M::Pabsb => xmm!(i, 16, true, |cpu, op, a, b| Ok(simd::pabsb(b))),
        M::Pabsw => xmm!(i, 16, true, |cpu, op, a, b| Ok(simd::pabsw(b))),
        M::Pabsd => xmm!(i, 16, true, |cpu, op, a, b| Ok(simd::pabsd(b))),
        M::Pmovsxbw => xmm!(i, 8, false, |cpu, op, a, b| Ok(simd::pmovsxbw(b))),
        M::Pmovsxbd => xmm!(i, 4, false, |cpu, op, a, b| Ok(simd::pmovsxbd(b))),
        M::Pmovsxbq => xmm!(i, 2, false, |cpu, op, a, b| Ok(simd::pmovsxbq(b))),
        M::Pmovsxwd => xmm!(i, 8, false, |cpu, op, a, b| Ok(simd::pmovsxwd(b))),
        M::Pmovsxwq => xmm!(i, 4, false, |cpu, op, a, b| Ok(simd::pmovsxwq(b))),
        M::Pmovsxdq => xmm!(i, 8, false, |cpu, op, a, b| Ok(simd::pmovsxdq(b))),
        M::Pmovzxbw => xmm!(i, 8, false, |cpu, op, a, b| Ok(simd::pmovzxbw(b))),
        M::Pmovzxbd => xmm!(i, 4, false, |cpu, op, a, b| Ok(simd::pmovzxbd(b))),
        M::Pmovzxbq => xmm!(i, 2, false, |cpu, op, a, b| Ok(simd::pmovzxbq(b))),
        M::Pmovzxwd => xmm!(i, 8, false, |cpu, op, a, b| Ok(simd::pmovzxwd(b))),
        M::Pmovzxwq => xmm!(i, 4, false, |cpu, op, a, b| Ok(simd::pmovzxwq(b))),
        M::Pmovzxdq => xmm!(i, 8, false, |cpu, op, a, b| Ok(simd::pmovzxdq(b))),
        // A register gives any of its singles; memory the one there is.
        M::Insertps if is_memory(i, 1) => {
            xmm!(i, 4, false, |cpu, op, a, b| Ok(simd::insertps(a, b, op.imm as u8 & 0x3f)))
        }
        M::Insertps => xmm!(i, 4, false, |cpu, op, a, b| Ok(simd::insertps(a, b, op.imm as u8))),
        M::Movddup => xmm!(i, 8, false, |cpu, op, a, b| Ok(simd::movddup(b))),
        M::Movshdup => xmm!(i, 16, true, |cpu, op, a, b| Ok(simd::movshdup(b))),
        M::Movsldup => xmm!(i, 16, true, |cpu, op, a, b| Ok(simd::movsldup(b))),
        _ => None,
    }
}

macro_rules! packed {
    ($i:expr, $f:ident) => {
        xmm!($i, 16, true, |cpu, op, a, b| {
            let result = simd::$f(a, b, &mut cpu.mxcsr);
            cpu.float(result)
        })
    };
}

macro_rules! single {
    ($i:expr, $f:ident) => {
        xmm!($i, 4, false, |cpu, op, a, b| {
            let result = simd::$f(a, b, &mut cpu.mxcsr);
            cpu.float(result)
        })
    };
}

macro_rules! double {
    ($i:expr, $f:ident) => {
        xmm!($i, 8, false, |cpu, op, a, b| {
            let result = simd::$f(a, b, &mut cpu.mxcsr);
            cpu.float(result)
        })
    };
}

macro_rules! with_immediate {
    ($i:expr, $bytes:literal, $aligned:literal, $f:ident) => {
        xmm!($i, $bytes, $aligned, |cpu, op, a, b| {
            let result = simd::$f(a, b, op.imm as u8, &mut cpu.mxcsr);
            cpu.float(result)
        })
    };
}

/// Of one operand, with the MXCSR.
macro_rules! one {
    ($i:expr, $bytes:literal, $aligned:literal, $f:ident) => {
        xmm!($i, $bytes, $aligned, |cpu, op, a, b| {
            let result = simd::$f(b, &mut cpu.mxcsr);
            cpu.float(result)
        })
    };
}

/// Of one operand, with an immediate and the MXCSR.
macro_rules! round {
    ($i:expr, $bytes:literal, $aligned:literal, $f:ident) => {
        xmm!($i, $bytes, $aligned, |cpu, op, a, b| {
            let result = simd::$f(b, op.imm as u8, &mut cpu.mxcsr);
            cpu.float(result)
        })
    };
}
fn float(i: &Instruction) -> Option<Handler> {
    let two = table! { i, packed,
        Addps => addps, Addpd => addpd, Subps => subps, Subpd => subpd, Mulps => mulps, Mulpd => mulpd,
        Divps => divps, Divpd => divpd, Minps => minps, Minpd => minpd, Maxps => maxps, Maxpd => maxpd,
        Haddps => haddps, Haddpd => haddpd, Hsubps => hsubps, Hsubpd => hsubpd, Addsubps => addsubps,
        Addsubpd => addsubpd,
    };
    let two = two.or_else(|| {
        table! { i, single,
            Addss => addss, Subss => subss, Mulss => mulss, Divss => divss, Minss => minss, Maxss => maxss,
            Sqrtss => sqrtss,
        }
    });
    let two = two.or_else(|| {
        table! { i, double,
            Addsd => addsd, Subsd => subsd, Mulsd => mulsd, Divsd => divsd, Minsd => minsd, Maxsd => maxsd,
            Sqrtsd => sqrtsd,
        }
    });
    two.or_else(|| match i.mnemonic() {
        M::Sqrtps => one!(i, 16, true, sqrtps),
        M::Sqrtpd => one!(i, 16, true, sqrtpd),
        M::Cmpps => with_immediate!(i, 16, true, cmpps),
        M::Cmppd => with_immediate!(i, 16, true, cmppd),
        M::Cmpss => with_immediate!(i, 4, false, cmpss),
        M::Cmpsd => with_immediate!(i, 8, false, cmpsd),
        M::Dpps => with_immediate!(i, 16, true, dpps),
        M::Dppd => with_immediate!(i, 16, true, dppd),
        M::Roundps => round!(i, 16, true, roundps),
        M::Roundpd => round!(i, 16, true, roundpd),
        M::Roundss => with_immediate!(i, 4, false, roundss),
        M::Roundsd => with_immediate!(i, 8, false, roundsd),
        M::Rcpps => xmm!(i, 16, true, |cpu, op, a, b| Ok(simd::rcpps(b))),
        M::Rcpss => xmm!(i, 4, false, |cpu, op, a, b| Ok(simd::rcpss(a, b))),
        M::Rsqrtps => xmm!(i, 16, true, |cpu, op, a, b| Ok(simd::rsqrtps(b))),
        M::Rsqrtss => xmm!(i, 4, false, |cpu, op, a, b| Ok(simd::rsqrtss(a, b))),
        _ => None,
    })
}

/// A handler of an XMM register and a general one or memory of `T`.
macro_rules! from_general {
    ($i:expr, $t:ty, |$cpu:ident, $a:ident, $b:ident| $body:expr) => {{
        #[inline(always)]
        fn apply($cpu: &mut Cpu, op: &Op, $b: u64) -> Flow {
            let $a = $cpu.xmm_get(op.dst);
            let result: Result<Xmm, Trap> = $body;
            let value = attempt!(result);
            $cpu.xmm_set(op.dst, value);
            Flow::Next
        }
        fn register(cpu: &mut Cpu, op: &Op) -> Flow {
            attempt!(cpu.sse());
            let b = cpu.get::<$t>(op.src);
            apply(cpu, op, b)
        }
        fn memory(cpu: &mut Cpu, op: &Op) -> Flow {
            attempt!(cpu.sse());
            let b = attempt!(cpu.load::<$t>(op.seg, cpu.address(op)));
            apply(cpu, op, b)
        }
        Some(if is_memory($i, 1) { memory as Handler } else { register as Handler })
    }};
}

fn convert(i: &Instruction) -> Option<Handler> {
    let wide = if is_memory(i, 1) { i.memory_size().size() == 8 } else { i.op_register(1).size() == 8 };
    match i.mnemonic() {
        M::Cvtps2pd => one!(i, 8, false, cvtps2pd),
        M::Cvtpd2ps => one!(i, 16, true, cvtpd2ps),
        M::Cvtss2sd => single!(i, cvtss2sd),
        M::Cvtsd2ss => double!(i, cvtsd2ss),
        M::Cvtdq2ps => one!(i, 16, true, cvtdq2ps),
        M::Cvtdq2pd => xmm!(i, 8, false, |cpu, op, a, b| Ok(simd::cvtdq2pd(b))),
        M::Cvtps2dq => one!(i, 16, true, cvtps2dq),
        M::Cvttps2dq => one!(i, 16, true, cvttps2dq),
        M::Cvtpd2dq => one!(i, 16, true, cvtpd2dq),
        M::Cvttpd2dq => one!(i, 16, true, cvttpd2dq),
        M::Cvtsi2ss if wide => from_general!(i, u64, |cpu, a, b| {
            let result = simd::cvtsi2ss64(a, b, &mut cpu.mxcsr);
            cpu.float(result)
        }),
        M::Cvtsi2ss => from_general!(i, u32, |cpu, a, b| {
            let result = simd::cvtsi2ss32(a, b as u32, &mut cpu.mxcsr);
            cpu.float(result)
        }),
        M::Cvtsi2sd if wide => from_general!(i, u64, |cpu, a, b| {
            let result = simd::cvtsi2sd64(a, b, &mut cpu.mxcsr);
            cpu.float(result)
        }),
        M::Cvtsi2sd => from_general!(i, u32, |cpu, a, b| Ok(simd::cvtsi2sd32(a, b as u32))),
        _ => None,
    }
}

/// MMX and XMM in one instruction.
fn convert_mmx(i: &Instruction) -> Option<Handler> {
    macro_rules! to_xmm {
        (|$cpu:ident, $a:ident, $b:ident| $body:expr) => {{
            #[inline(always)]
            #[allow(unused_variables, clippy::allow_attributes, reason = "not every one needs all of them")]
            fn apply($cpu: &mut Cpu, op: &Op, $b: u64) -> Flow {
                let $a = $cpu.xmm_get(op.dst);
                let result: Result<Xmm, Trap> = $body;
                let value = attempt!(result);
                $cpu.xmm_set(op.dst, value);
                Flow::Next
            }
            fn register(cpu: &mut Cpu, op: &Op) -> Flow {
                attempt!(cpu.sse());
                attempt!(cpu.mmx());
                let b = cpu.fpu.mmx(usize::from(op.src & 7));
                cpu.fpu.enter_mmx();
                apply(cpu, op, b)
            }
            fn memory(cpu: &mut Cpu, op: &Op) -> Flow {
                attempt!(cpu.sse());
                let b = attempt!(cpu.load::<u64>(op.seg, cpu.address(op)));
                apply(cpu, op, b)
            }
            Some(if is_memory(i, 1) { memory as Handler } else { register as Handler })
        }};
    }
    macro_rules! to_mmx {
        ($bytes:literal, $aligned:literal, $f:ident) => {{
            fn apply(cpu: &mut Cpu, op: &Op, b: Xmm) -> Flow {
                // The registers are MMX's even if there is an exception.
                cpu.fpu.enter_mmx();
                let result = simd::$f(b, &mut cpu.mxcsr);
                let value = attempt!(cpu.float(result));
                cpu.fpu.set_mmx(usize::from(op.dst & 7), value);
                Flow::Next
            }
            fn register(cpu: &mut Cpu, op: &Op) -> Flow {
                attempt!(cpu.sse());
                attempt!(cpu.mmx());
                let b = cpu.xmm_get(op.src);
                apply(cpu, op, b)
            }
            fn memory(cpu: &mut Cpu, op: &Op) -> Flow {
                attempt!(cpu.sse());
                attempt!(cpu.mmx());
                let b = attempt!(cpu.load_vector::<$bytes, $aligned>(op));
                apply(cpu, op, b)
            }
            Some(if is_memory(i, 1) { memory as Handler } else { register as Handler })
        }};
    }
    match i.mnemonic() {
        M::Cvtpi2ps => to_xmm!(|cpu, a, b| {
            let result = simd::cvtpi2ps(a, b, &mut cpu.mxcsr);
            cpu.float(result)
        }),
        M::Cvtpi2pd => to_xmm!(|cpu, a, b| Ok(simd::cvtpi2pd(b))),
        M::Cvtps2pi => to_mmx!(8, false, cvtps2pi),
        M::Cvttps2pi => to_mmx!(8, false, cvttps2pi),
        M::Cvtpd2pi => to_mmx!(16, true, cvtpd2pi),
        M::Cvttpd2pi => to_mmx!(16, true, cvttpd2pi),
        _ => None,
    }
}

/// A handler that makes a general register, or flags, of an XMM register or memory.
macro_rules! from_xmm {
    ($i:expr, $bytes:literal, $aligned:literal, |$cpu:ident, $op:ident, $b:ident| $body:expr) => {{
        #[inline(always)]
        fn apply($cpu: &mut Cpu, $op: &Op, $b: Xmm) -> Result<(), Trap> {
            $body
        }
        fn register(cpu: &mut Cpu, op: &Op) -> Flow {
            attempt!(cpu.sse());
            let b = cpu.xmm_get(op.src);
            attempt!(apply(cpu, op, b));
            Flow::Next
        }
        fn memory(cpu: &mut Cpu, op: &Op) -> Flow {
            attempt!(cpu.sse());
            let b = attempt!(cpu.load_vector::<$bytes, $aligned>(op));
            attempt!(apply(cpu, op, b));
            Flow::Next
        }
        Some(if is_memory($i, 1) { memory as Handler } else { register as Handler })
    }};
}

macro_rules! to_integer {
    ($i:expr, $bytes:literal, $narrow:ident, $wide:ident) => {
        if $i.op_register(0).size() == 8 {
            from_xmm!($i, $bytes, false, |cpu, op, b| {
                let result = simd::$wide(b, &mut cpu.mxcsr);
                let value = cpu.float(result)?;
                cpu.set::<u64>(op.dst, value);
                Ok(())
            })
        } else {
            from_xmm!($i, $bytes, false, |cpu, op, b| {
                let result = simd::$narrow(b, &mut cpu.mxcsr);
                let value = cpu.float(result)?;
                cpu.set::<u32>(op.dst, value.into());
                Ok(())
            })
        }
    };
}

macro_rules! ordered {
    ($i:expr, $bytes:literal, $f:ident) => {
        from_xmm!($i, $bytes, false, |cpu, op, b| {
            let a = cpu.xmm_get(op.dst);
            let result = simd::$f(a, b, &mut cpu.mxcsr);
            let value = cpu.float(result)?;
            cpu.flags.set_arithmetic(value);
            Ok(())
        })
    };
}

/// The lengths that PCMPESTRx takes from RAX and RDX.
fn lengths(cpu: &Cpu, op: &Op) -> (i64, i64) {
    if op.scale & WIDE != 0 {
        (cpu.get::<u64>(reg::AX) as i64, cpu.get::<u64>(reg::DX) as i64)
    } else {
        (i64::from(cpu.get::<u32>(reg::AX) as i32), i64::from(cpu.get::<u32>(reg::DX) as i32))
    }
}

/// In `scale`, whose low two bits alone are the scale: lengths of 64 bits.
const WIDE: u8 = 4;

fn to_register(i: &Instruction) -> Option<Handler> {
    match i.mnemonic() {
        M::Cvtss2si => to_integer!(i, 4, cvtss2si32, cvtss2si64),
        M::Cvttss2si => to_integer!(i, 4, cvttss2si32, cvttss2si64),
        M::Cvtsd2si => to_integer!(i, 8, cvtsd2si32, cvtsd2si64),
        M::Cvttsd2si => to_integer!(i, 8, cvttsd2si32, cvttsd2si64),
        M::Comiss => ordered!(i, 4, comiss),
        M::Ucomiss => ordered!(i, 4, ucomiss),
        M::Comisd => ordered!(i, 8, comisd),
        M::Ucomisd => ordered!(i, 8, ucomisd),
        M::Ptest => from_xmm!(i, 16, true, |cpu, op, b| {
            let flags = simd::ptest(cpu.xmm_get(op.dst), b);
            cpu.flags.set_arithmetic(flags);
            Ok(())
        }),
        M::Pmovmskb => from_xmm!(i, 16, true, |cpu, op, b| {
            cpu.set::<u32>(op.dst, simd::pmovmskb(b).into());
            Ok(())
        }),
        M::Movmskps => from_xmm!(i, 16, true, |cpu, op, b| {
            cpu.set::<u32>(op.dst, simd::movmskps(b).into());
            Ok(())
        }),
        M::Movmskpd => from_xmm!(i, 16, true, |cpu, op, b| {
            cpu.set::<u32>(op.dst, simd::movmskpd(b).into());
            Ok(())
        }),
        M::Pcmpistri => from_xmm!(i, 16, false, |cpu, op, b| {
            let (index, flags) = simd::pcmpistri(cpu.xmm_get(op.dst), b, op.imm as u8);
            cpu.set::<u32>(reg::CX, index.into());
            cpu.flags.set_arithmetic(flags);
            Ok(())
        }),
        M::Pcmpistrm => from_xmm!(i, 16, false, |cpu, op, b| {
            let (mask, flags) = simd::pcmpistrm(cpu.xmm_get(op.dst), b, op.imm as u8);
            cpu.xmm[0] = mask;
            cpu.flags.set_arithmetic(flags);
            Ok(())
        }),
        M::Pcmpestri | M::Pcmpestri64 => from_xmm!(i, 16, false, |cpu, op, b| {
            let (a_length, b_length) = lengths(cpu, op);
            let (index, flags) = simd::pcmpestri(cpu.xmm_get(op.dst), b, a_length, b_length, op.imm as u8);
            cpu.set::<u32>(reg::CX, index.into());
            cpu.flags.set_arithmetic(flags);
            Ok(())
        }),
        M::Pcmpestrm | M::Pcmpestrm64 => from_xmm!(i, 16, false, |cpu, op, b| {
            let (a_length, b_length) = lengths(cpu, op);
            let (mask, flags) = simd::pcmpestrm(cpu.xmm_get(op.dst), b, a_length, b_length, op.imm as u8);
            cpu.xmm[0] = mask;
            cpu.flags.set_arithmetic(flags);
            Ok(())
        }),
        M::Crc32 => crc(i),
        _ => None,
    }
}

fn crc(i: &Instruction) -> Option<Handler> {
    macro_rules! crc32 {
        ($t:ty, $as:ty, $f:ident) => {{
            #[inline(always)]
            fn apply(cpu: &mut Cpu, op: &Op, value: u64) -> Flow {
                let result = simd::$f(cpu.get::<u32>(op.dst) as u32, value as $as);
                cpu.set::<u32>(op.dst, result.into());
                Flow::Next
            }
            fn register(cpu: &mut Cpu, op: &Op) -> Flow {
                let value = cpu.get::<$t>(op.src);
                apply(cpu, op, value)
            }
            fn memory(cpu: &mut Cpu, op: &Op) -> Flow {
                let value = attempt!(cpu.load::<$t>(op.seg, cpu.address(op)));
                apply(cpu, op, value)
            }
            Some(if is_memory(i, 1) { memory as Handler } else { register as Handler })
        }};
    }
    let bytes = if is_memory(i, 1) { i.memory_size().size() } else { i.op_register(1).size() };
    match bytes {
        1 => crc32!(u8, u8, crc32_u8),
        2 => crc32!(u16, u16, crc32_u16),
        4 => crc32!(u32, u32, crc32_u32),
        _ => crc32!(u64, u64, crc32_u64),
    }
}
