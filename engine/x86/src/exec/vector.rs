//! Moving MMX and XMM registers, and the state of both.

use iced_x86::{Instruction, Mnemonic as M, OpKind};

use crate::attempt;
use crate::cpu::{Cpu, Trap, vector};
use crate::fpu::FxsaveFormat;
use crate::lower::{Mode, is_memory};
use crate::op::{Flow, Handler, Int, Op, reg, seg};
use crate::simd::{self, Mxcsr, Xmm};

/// Bits of MXCSR that there are.
const MXCSR_MASK: u32 = 0xffff;
const LOW: Xmm = u64::MAX as Xmm;

/// The handler, if it is one of these.
pub fn lower(i: &Instruction, _op: &mut Op, mode: Mode) -> Option<Handler> {
    let to_memory = is_memory(i, 0);
    let from_memory = is_memory(i, 1);
    let mm = |operand: u32| i.op_kind(operand) == OpKind::Register && i.op_register(operand).is_mm();
    Some(match i.mnemonic() {
        M::Movaps | M::Movapd | M::Movdqa | M::Movntdqa => whole::<true>(to_memory, from_memory),
        M::Movups | M::Movupd | M::Movdqu | M::Lddqu => whole::<false>(to_memory, from_memory),
        M::Movntps | M::Movntpd | M::Movntdq => store_whole::<true>,
        M::Movss if to_memory => store_low::<u32>,
        M::Movss if from_memory => load_low::<u32>,
        M::Movss => merge_low::<u32>,
        M::Movsd if to_memory && i.op1_kind() == OpKind::Register => store_low::<u64>,
        M::Movsd if from_memory && i.op0_kind() == OpKind::Register => load_low::<u64>,
        M::Movsd if i.op0_kind() == OpKind::Register && i.op1_kind() == OpKind::Register => merge_low::<u64>,
        M::Movlps | M::Movlpd if to_memory => store_low::<u64>,
        M::Movlps | M::Movlpd => load_half::<false>,
        M::Movhps | M::Movhpd if to_memory => store_high,
        M::Movhps | M::Movhpd => load_half::<true>,
        M::Movhlps => movhlps,
        M::Movlhps => movlhps,
        M::Movd | M::Movq if mm(0) || (i.op_count() > 1 && mm(1)) => mmx_move(i, to_memory, from_memory)?,
        M::Movd if to_memory => store_low::<u32>,
        M::Movd if from_memory => load_low::<u32>,
        M::Movd => general::<u32>(i),
        M::Movq if to_memory => store_low::<u64>,
        M::Movq if from_memory => load_low::<u64>,
        M::Movq if i.op_register(0).is_xmm() && i.op_register(1).is_xmm() => movq,
        M::Movq => general::<u64>(i),
        M::Movq2dq => movq2dq,
        M::Movdq2q => movdq2q,
        M::Movnti if i.op_register(1).size() == 8 => super::data::mov_mr::<u64, super::Anywhere>,
        M::Movnti => super::data::mov_mr::<u32, super::Anywhere>,
        M::Movntq => store_mmx::<u64>,
        M::Maskmovq => maskmovq,
        M::Maskmovdqu => maskmovdqu,
        M::Pmovmskb if mm(1) => pmovmskb_mmx,
        M::Pextrb => extract(to_memory, store_byte, pextrb),
        M::Pextrw if i.op_register(1).is_mm() => pextrw_mmx,
        M::Pextrw => extract(to_memory, store_word, pextrw),
        M::Pextrd => extract(to_memory, store_double, pextrd),
        M::Extractps => extract(to_memory, store_double, pextrd),
        M::Pextrq => extract(to_memory, store_quad, pextrq),
        M::Pinsrb => extract(from_memory, pinsrb_m, pinsrb_r),
        M::Pinsrw if mm(0) => extract(from_memory, pinsrw_mmx_m, pinsrw_mmx_r),
        M::Pinsrw => extract(from_memory, pinsrw_m, pinsrw_r),
        M::Pinsrd => extract(from_memory, pinsrd_m, pinsrd_r),
        M::Pinsrq => extract(from_memory, pinsrq_m, pinsrq_r),
        M::Emms => emms,
        M::Ldmxcsr => ldmxcsr,
        M::Stmxcsr => stmxcsr,
        M::Fxsave | M::Fxsave64 => fxsave(mode, i.mnemonic() == M::Fxsave64),
        M::Fxrstor | M::Fxrstor64 => fxrstor(mode, i.mnemonic() == M::Fxrstor64),
        M::Clflush => touch,
        _ => return None,
    })
}

fn whole<const ALIGNED: bool>(to_memory: bool, from_memory: bool) -> Handler {
    match (to_memory, from_memory) {
        (true, _) => store_whole::<ALIGNED>,
        (_, true) => load_whole::<ALIGNED>,
        _ => copy,
    }
}

fn extract(memory: bool, in_memory: Handler, in_register: Handler) -> Handler {
    if memory { in_memory } else { in_register }
}

fn copy(cpu: &mut Cpu, op: &Op) -> Flow {
    attempt!(cpu.sse());
    let value = cpu.xmm_get(op.src);
    cpu.xmm_set(op.dst, value);
    Flow::Next
}

fn load_whole<const ALIGNED: bool>(cpu: &mut Cpu, op: &Op) -> Flow {
    attempt!(cpu.sse());
    let value = attempt!(cpu.load_vector::<16, ALIGNED>(op));
    cpu.xmm_set(op.dst, value);
    Flow::Next
}

fn store_whole<const ALIGNED: bool>(cpu: &mut Cpu, op: &Op) -> Flow {
    attempt!(cpu.sse());
    let address = cpu.address(op);
    if ALIGNED {
        attempt!(cpu.aligned(op, address));
    }
    let value = cpu.xmm_get(op.src);
    attempt!(cpu.store_16(op.seg, address, value));
    cpu.stored()
}

fn load_low<T: Int>(cpu: &mut Cpu, op: &Op) -> Flow {
    attempt!(cpu.sse());
    let value = attempt!(cpu.load::<T>(op.seg, cpu.address(op)));
    cpu.xmm_set(op.dst, value.into());
    Flow::Next
}

fn store_low<T: Int>(cpu: &mut Cpu, op: &Op) -> Flow {
    attempt!(cpu.sse());
    let value = cpu.xmm_get(op.src) as u64;
    attempt!(cpu.store::<T>(op.seg, cpu.address(op), T::cut(value)));
    cpu.stored()
}

fn merge_low<T: Int>(cpu: &mut Cpu, op: &Op) -> Flow {
    attempt!(cpu.sse());
    let mask = Xmm::from(T::MASK);
    let value = cpu.xmm_get(op.dst) & !mask | cpu.xmm_get(op.src) & mask;
    cpu.xmm_set(op.dst, value);
    Flow::Next
}

fn load_half<const HIGH: bool>(cpu: &mut Cpu, op: &Op) -> Flow {
    attempt!(cpu.sse());
    let value = Xmm::from(attempt!(cpu.load::<u64>(op.seg, cpu.address(op))));
    let old = cpu.xmm_get(op.dst);
    cpu.xmm_set(op.dst, if HIGH { old & LOW | value << 64 } else { old & !LOW | value });
    Flow::Next
}

fn store_high(cpu: &mut Cpu, op: &Op) -> Flow {
    attempt!(cpu.sse());
    let value = (cpu.xmm_get(op.src) >> 64) as u64;
    attempt!(cpu.store::<u64>(op.seg, cpu.address(op), value));
    cpu.stored()
}

fn movhlps(cpu: &mut Cpu, op: &Op) -> Flow {
    attempt!(cpu.sse());
    let value = cpu.xmm_get(op.dst) & !LOW | cpu.xmm_get(op.src) >> 64;
    cpu.xmm_set(op.dst, value);
    Flow::Next
}

fn movlhps(cpu: &mut Cpu, op: &Op) -> Flow {
    attempt!(cpu.sse());
    let value = cpu.xmm_get(op.dst) & LOW | cpu.xmm_get(op.src) << 64;
    cpu.xmm_set(op.dst, value);
    Flow::Next
}

fn movq(cpu: &mut Cpu, op: &Op) -> Flow {
    attempt!(cpu.sse());
    let value = cpu.xmm_get(op.src) & LOW;
    cpu.xmm_set(op.dst, value);
    Flow::Next
}

/// MOVD and MOVQ between an XMM and a general register.
fn general<T: Int>(i: &Instruction) -> Handler {
    fn to_xmm<T: Int>(cpu: &mut Cpu, op: &Op) -> Flow {
        attempt!(cpu.sse());
        let value = cpu.get::<T>(op.src);
        cpu.xmm_set(op.dst, value.into());
        Flow::Next
    }
    fn from_xmm<T: Int>(cpu: &mut Cpu, op: &Op) -> Flow {
        attempt!(cpu.sse());
        let value = cpu.xmm_get(op.src) as u64;
        cpu.set::<T>(op.dst, value);
        Flow::Next
    }
    if i.op_register(0).is_xmm() { to_xmm::<T> } else { from_xmm::<T> }
}

fn set_mmx(cpu: &mut Cpu, number: u8, value: u64) {
    cpu.fpu.enter_mmx();
    cpu.fpu.set_mmx(usize::from(number & 7), value);
}

fn get_mmx(cpu: &Cpu, number: u8) -> u64 {
    cpu.fpu.mmx(usize::from(number & 7))
}

fn load_mmx<T: Int>(cpu: &mut Cpu, op: &Op) -> Flow {
    attempt!(cpu.mmx());
    let value = attempt!(cpu.load::<T>(op.seg, cpu.address(op)));
    set_mmx(cpu, op.dst, value);
    Flow::Next
}

fn store_mmx<T: Int>(cpu: &mut Cpu, op: &Op) -> Flow {
    attempt!(cpu.mmx());
    let value = T::cut(get_mmx(cpu, op.src));
    cpu.fpu.begin_mmx();
    attempt!(cpu.store::<T>(op.seg, cpu.address(op), value));
    cpu.fpu.enter_mmx();
    cpu.stored()
}

/// MOVD and MOVQ with an MMX register.
fn mmx_move(i: &Instruction, to_memory: bool, from_memory: bool) -> Option<Handler> {
    fn copy(cpu: &mut Cpu, op: &Op) -> Flow {
        attempt!(cpu.mmx());
        let value = get_mmx(cpu, op.src);
        set_mmx(cpu, op.dst, value);
        Flow::Next
    }
    fn to_mmx<T: Int>(cpu: &mut Cpu, op: &Op) -> Flow {
        attempt!(cpu.mmx());
        let value = cpu.get::<T>(op.src);
        set_mmx(cpu, op.dst, value);
        Flow::Next
    }
    fn from_mmx<T: Int>(cpu: &mut Cpu, op: &Op) -> Flow {
        attempt!(cpu.mmx());
        let value = get_mmx(cpu, op.src);
        cpu.fpu.enter_mmx();
        cpu.set::<T>(op.dst, value);
        Flow::Next
    }
    let wide = i.mnemonic() == M::Movq;
    Some(match (to_memory, from_memory, i.op_register(0).is_mm(), i.op_register(1).is_mm()) {
        (true, ..) if wide => store_mmx::<u64>,
        (true, ..) => store_mmx::<u32>,
        (_, true, ..) if wide => load_mmx::<u64>,
        (_, true, ..) => load_mmx::<u32>,
        (_, _, true, true) => copy,
        (_, _, true, false) if wide => to_mmx::<u64>,
        (_, _, true, false) => to_mmx::<u32>,
        _ if wide => from_mmx::<u64>,
        _ => from_mmx::<u32>,
    })
}

fn movq2dq(cpu: &mut Cpu, op: &Op) -> Flow {
    attempt!(cpu.sse());
    attempt!(cpu.mmx());
    let value = get_mmx(cpu, op.src);
    cpu.fpu.enter_mmx();
    cpu.xmm_set(op.dst, value.into());
    Flow::Next
}

fn movdq2q(cpu: &mut Cpu, op: &Op) -> Flow {
    attempt!(cpu.sse());
    attempt!(cpu.mmx());
    let value = cpu.xmm_get(op.src) as u64;
    set_mmx(cpu, op.dst, value);
    Flow::Next
}

/// Stores those bytes whose mask has its top bit set, at DS:RDI.
fn masked(cpu: &mut Cpu, op: &Op, value: &[u8], mask: &[u8]) -> Result<(), Trap> {
    let address_mask = crate::op::ADDRESS_MASKS[usize::from(op.asize & 3)];
    let base = cpu.regs[usize::from(reg::DI)];
    let segment = if op.seg == seg::ES { seg::DS } else { op.seg };
    // All or nothing. Intel's processors look at whole halves, the high one first, whatever the mask says.
    let halves = [8, 0];
    for begin in halves.into_iter().filter(|begin| *begin < mask.len() as u64) {
        cpu.load_to_write::<u64>(segment, base.wrapping_add(begin) & address_mask)?;
    }
    for ((byte, value), index) in mask.iter().zip(value).zip(0u64..) {
        if byte & 0x80 != 0 {
            cpu.store::<u8>(segment, base.wrapping_add(index) & address_mask, (*value).into())?;
        }
    }
    Ok(())
}

fn maskmovq(cpu: &mut Cpu, op: &Op) -> Flow {
    attempt!(cpu.mmx());
    let (value, mask) = (get_mmx(cpu, op.src), get_mmx(cpu, op.extra));
    cpu.fpu.enter_mmx();
    attempt!(masked(cpu, op, &value.to_le_bytes(), &mask.to_le_bytes()));
    cpu.stored()
}

fn maskmovdqu(cpu: &mut Cpu, op: &Op) -> Flow {
    attempt!(cpu.sse());
    let (value, mask) = (cpu.xmm_get(op.src), cpu.xmm_get(op.extra));
    attempt!(masked(cpu, op, &value.to_le_bytes(), &mask.to_le_bytes()));
    cpu.stored()
}

fn pmovmskb_mmx(cpu: &mut Cpu, op: &Op) -> Flow {
    attempt!(cpu.mmx());
    let value = simd::pmovmskb(get_mmx(cpu, op.src));
    cpu.fpu.enter_mmx();
    cpu.set::<u32>(op.dst, value.into());
    Flow::Next
}

fn pextrw_mmx(cpu: &mut Cpu, op: &Op) -> Flow {
    attempt!(cpu.mmx());
    let value = simd::pextrw(get_mmx(cpu, op.src), op.imm as u8);
    cpu.fpu.enter_mmx();
    cpu.set::<u32>(op.dst, value.into());
    Flow::Next
}

macro_rules! extracts {
    ($($r:ident, $m:ident, $f:ident, $t:ty, $register:ty;)*) => {
        $(
            fn $r(cpu: &mut Cpu, op: &Op) -> Flow {
                attempt!(cpu.sse());
                let value = simd::$f(cpu.xmm_get(op.src), op.imm as u8);
                cpu.set::<$register>(op.dst, value as u64);
                Flow::Next
            }

            fn $m(cpu: &mut Cpu, op: &Op) -> Flow {
                attempt!(cpu.sse());
                let value = simd::$f(cpu.xmm_get(op.src), op.imm as u8);
                attempt!(cpu.store::<$t>(op.seg, cpu.address(op), value as u64));
                cpu.stored()
            }
        )*
    };
}

extracts! {
    pextrb, store_byte, pextrb, u8, u32;
    pextrw, store_word, pextrw, u16, u32;
    pextrd, store_double, pextrd, u32, u32;
    pextrq, store_quad, pextrq, u64, u64;
}

macro_rules! inserts {
    ($($r:ident, $m:ident, $f:ident, $t:ty, $as:ty;)*) => {
        $(
            fn $r(cpu: &mut Cpu, op: &Op) -> Flow {
                attempt!(cpu.sse());
                let from = cpu.regs[usize::from(op.src & 15)];
                let value = simd::$f(cpu.xmm_get(op.dst), from as $as, op.imm as u8);
                cpu.xmm_set(op.dst, value);
                Flow::Next
            }

            fn $m(cpu: &mut Cpu, op: &Op) -> Flow {
                attempt!(cpu.sse());
                let from = attempt!(cpu.load::<$t>(op.seg, cpu.address(op)));
                let value = simd::$f(cpu.xmm_get(op.dst), from as $as, op.imm as u8);
                cpu.xmm_set(op.dst, value);
                Flow::Next
            }
        )*
    };
}

inserts! {
    pinsrb_r, pinsrb_m, pinsrb, u8, u32;
    pinsrw_r, pinsrw_m, pinsrw, u16, u32;
    pinsrd_r, pinsrd_m, pinsrd, u32, u32;
    pinsrq_r, pinsrq_m, pinsrq, u64, u64;
}

fn pinsrw_mmx_r(cpu: &mut Cpu, op: &Op) -> Flow {
    attempt!(cpu.mmx());
    let from = cpu.regs[usize::from(op.src & 15)];
    let value = simd::pinsrw(get_mmx(cpu, op.dst), from as u32, op.imm as u8);
    set_mmx(cpu, op.dst, value);
    Flow::Next
}

fn pinsrw_mmx_m(cpu: &mut Cpu, op: &Op) -> Flow {
    attempt!(cpu.mmx());
    let from = attempt!(cpu.load::<u16>(op.seg, cpu.address(op)));
    let value = simd::pinsrw(get_mmx(cpu, op.dst), from as u32, op.imm as u8);
    set_mmx(cpu, op.dst, value);
    Flow::Next
}

fn emms(cpu: &mut Cpu, _op: &Op) -> Flow {
    attempt!(cpu.mmx());
    cpu.fpu.emms();
    Flow::Next
}

fn ldmxcsr(cpu: &mut Cpu, op: &Op) -> Flow {
    attempt!(cpu.sse());
    let value = attempt!(cpu.load::<u32>(op.seg, cpu.address(op))) as u32;
    if value & !MXCSR_MASK != 0 {
        cpu.gp();
        return Flow::Trap;
    }
    cpu.mxcsr = Mxcsr(value);
    Flow::Next
}

fn stmxcsr(cpu: &mut Cpu, op: &Op) -> Flow {
    attempt!(cpu.sse());
    let value = cpu.mxcsr.0.into();
    attempt!(cpu.store::<u32>(op.seg, cpu.address(op), value));
    cpu.stored()
}

/// CLFLUSH: there is no cache, but the address must be one that can be read.
fn touch(cpu: &mut Cpu, op: &Op) -> Flow {
    attempt!(cpu.load::<u8>(op.seg, cpu.address(op)));
    Flow::Next
}

/// XMM registers that there are in a mode.
fn registers(cpu: &Cpu) -> usize {
    if cpu.is_64() { 16 } else { 8 }
}

impl Cpu {
    /// The FXSAVE area (Intel SDM volume 1, 10.5.1): what FXSAVE64 writes in 64-bit mode.
    pub fn save_fx(&self, area: &mut [u8; 512]) {
        self.save_area(area, FxsaveFormat::Wide, 16);
    }

    /// Takes an FXSAVE64 area. Bits of MXCSR that there are not are left out.
    pub fn load_fx(&mut self, area: &[u8; 512]) {
        self.load_area(area, FxsaveFormat::Wide, 16);
    }

    fn save_area(&self, area: &mut [u8; 512], format: FxsaveFormat, registers: usize) {
        self.fpu.fxsave(area, format);
        area[24..28].copy_from_slice(&self.mxcsr.0.to_le_bytes());
        area[28..32].copy_from_slice(&MXCSR_MASK.to_le_bytes());
        for (place, value) in area[160..416].chunks_exact_mut(16).zip(self.xmm).take(registers) {
            place.copy_from_slice(&value.to_le_bytes());
        }
    }

    fn load_area(&mut self, area: &[u8; 512], format: FxsaveFormat, registers: usize) {
        self.fpu.fxrstor(area, format);
        self.mxcsr = Mxcsr(word(area, 24) & MXCSR_MASK);
        for (place, value) in area[160..416].chunks_exact(16).zip(self.xmm.iter_mut()).take(registers) {
            *value = place.iter().rev().fold(0, |value, byte| value << 8 | Xmm::from(*byte));
        }
    }
}

fn word(area: &[u8; 512], at: usize) -> u32 {
    area[at..at + 4].iter().rev().fold(0, |value, byte| value << 8 | u32::from(*byte))
}

/// #UD with EM, #NM with TS; OSFXSR does not matter.
fn state_allowed(cpu: &mut Cpu) -> Result<(), Trap> {
    use crate::cpu::cr0;
    if cpu.cr0 & cr0::EM != 0 {
        return Err(cpu.raise(vector::UD));
    }
    if cpu.cr0 & cr0::TS != 0 { Err(cpu.raise(vector::NM)) } else { Ok(()) }
}

fn format(wide: bool) -> FxsaveFormat {
    if wide { FxsaveFormat::Wide } else { FxsaveFormat::Narrow }
}

fn fxsave(_mode: Mode, wide: bool) -> Handler {
    fn save<const WIDE: bool>(cpu: &mut Cpu, op: &Op) -> Flow {
        attempt!(state_allowed(cpu));
        let address = cpu.address(op);
        attempt!(cpu.check_alignment(op.seg, address, 4));
        attempt!(cpu.aligned(op, address));
        let mut area = [0; 512];
        // What is not written stays: reserved bytes, and XMM registers that there are not.
        let len = 160 + 16 * registers(cpu);
        cpu.save_area(&mut area, format(WIDE), registers(cpu));
        // As Intel's processors do, the last byte is looked at first.
        attempt!(cpu.load_to_write::<u8>(op.seg, address.wrapping_add(511)));
        attempt!(cpu.load_to_write::<u8>(op.seg, address));
        for (word, at) in area[..len].as_chunks::<8>().0.iter().zip((0u64..).step_by(8)) {
            attempt!(cpu.store::<u64>(op.seg, address.wrapping_add(at), u64::from_le_bytes(*word)));
        }
        cpu.stored()
    }
    if wide { save::<true> } else { save::<false> }
}

fn fxrstor(_mode: Mode, wide: bool) -> Handler {
    fn restore<const WIDE: bool>(cpu: &mut Cpu, op: &Op) -> Flow {
        attempt!(state_allowed(cpu));
        let address = cpu.address(op);
        attempt!(cpu.check_alignment(op.seg, address, 4));
        attempt!(cpu.aligned(op, address));
        attempt!(cpu.load::<u8>(op.seg, address.wrapping_add(511)));
        attempt!(cpu.load::<u8>(op.seg, address));
        let mut area = [0; 512];
        for (word, at) in area.as_chunks_mut::<8>().0.iter_mut().zip((0u64..).step_by(8)) {
            *word = attempt!(cpu.load::<u64>(op.seg, address.wrapping_add(at))).to_le_bytes();
        }
        if word(&area, 24) & !MXCSR_MASK != 0 {
            cpu.gp();
            return Flow::Trap;
        }
        let registers = registers(cpu);
        cpu.load_area(&area, format(WIDE), registers);
        Flow::Next
    }
    if wide { restore::<true> } else { restore::<false> }
}
