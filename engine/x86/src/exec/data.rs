//! Moving and converting; single flags.

use crate::attempt;
use crate::cpu::Cpu;
use crate::exec::Place;
use crate::flags;
use crate::op::{Flow, HIGH, Int, Op, reg};

/// MOV register, register.
pub fn mov_rr<T: Int>(cpu: &mut Cpu, op: &Op) -> Flow {
    let value = cpu.get::<T>(op.src);
    cpu.set::<T>(op.dst, value);
    Flow::Next
}

/// MOV register, immediate.
pub fn mov_ri<T: Int>(cpu: &mut Cpu, op: &Op) -> Flow {
    cpu.set::<T>(op.dst, op.imm);
    Flow::Next
}

/// MOV register, memory.
pub fn mov_rm<T: Int, P: Place>(cpu: &mut Cpu, op: &Op) -> Flow {
    let value = attempt!(P::load::<T>(cpu, op));
    cpu.set::<T>(op.dst, value);
    Flow::Next
}

/// MOV memory, register.
pub fn mov_mr<T: Int, P: Place>(cpu: &mut Cpu, op: &Op) -> Flow {
    let value = cpu.get::<T>(op.src);
    attempt!(P::store::<T>(cpu, op, value));
    cpu.stored()
}

/// MOV memory, immediate.
pub fn mov_mi<T: Int, P: Place>(cpu: &mut Cpu, op: &Op) -> Flow {
    attempt!(P::store::<T>(cpu, op, op.imm));
    cpu.stored()
}

/// MOVZX register, register: from `S` to `T`.
pub fn movzx_r<T: Int, S: Int>(cpu: &mut Cpu, op: &Op) -> Flow {
    let value = cpu.get::<S>(op.src);
    cpu.set::<T>(op.dst, value);
    Flow::Next
}

/// MOVZX register, memory.
pub fn movzx_m<T: Int, S: Int, P: Place>(cpu: &mut Cpu, op: &Op) -> Flow {
    let value = attempt!(P::load::<S>(cpu, op));
    cpu.set::<T>(op.dst, value);
    Flow::Next
}

/// MOVSX and MOVSXD register, register.
pub fn movsx_r<T: Int, S: Int>(cpu: &mut Cpu, op: &Op) -> Flow {
    let value = S::extend(cpu.get::<S>(op.src));
    cpu.set::<T>(op.dst, value);
    Flow::Next
}

/// MOVSX and MOVSXD register, memory.
pub fn movsx_m<T: Int, S: Int, P: Place>(cpu: &mut Cpu, op: &Op) -> Flow {
    let value = S::extend(attempt!(P::load::<S>(cpu, op)));
    cpu.set::<T>(op.dst, value);
    Flow::Next
}

/// LEA.
pub fn lea<T: Int, P: Place>(cpu: &mut Cpu, op: &Op) -> Flow {
    let address = P::offset(cpu, op);
    cpu.set::<T>(op.dst, address);
    Flow::Next
}

/// CMOVcc register, register. A 32-bit register is zero-extended either way.
pub fn cmov_r<T: Int>(cpu: &mut Cpu, op: &Op) -> Flow {
    let from = if cpu.flags.holds(op.extra) { op.src } else { op.dst };
    let value = cpu.get::<T>(from);
    cpu.set::<T>(op.dst, value);
    Flow::Next
}

/// CMOVcc register, memory, which is read either way.
pub fn cmov_m<T: Int>(cpu: &mut Cpu, op: &Op) -> Flow {
    let value = attempt!(cpu.load::<T>(op.seg, cpu.address(op)));
    let value = if cpu.flags.holds(op.extra) { value } else { cpu.get::<T>(op.dst) };
    cpu.set::<T>(op.dst, value);
    Flow::Next
}

/// SETcc register.
pub fn set_r(cpu: &mut Cpu, op: &Op) -> Flow {
    let value = cpu.flags.holds(op.extra).into();
    cpu.set::<u8>(op.dst, value);
    Flow::Next
}

/// SETcc memory.
pub fn set_m(cpu: &mut Cpu, op: &Op) -> Flow {
    let value = cpu.flags.holds(op.extra).into();
    attempt!(cpu.store::<u8>(op.seg, cpu.address(op), value));
    cpu.stored()
}

fn swapped<T: Int>(value: u64) -> u64 {
    value.swap_bytes() >> (64 - T::BITS)
}

/// BSWAP. Of 16 bits, which is undefined, processors make 0.
pub fn bswap<T: Int>(cpu: &mut Cpu, op: &Op) -> Flow {
    let value = if T::BITS == 16 { 0 } else { swapped::<T>(cpu.get::<T>(op.dst)) };
    cpu.set::<T>(op.dst, value);
    Flow::Next
}

/// MOVBE register, memory.
pub fn movbe_rm<T: Int>(cpu: &mut Cpu, op: &Op) -> Flow {
    let value = attempt!(cpu.load::<T>(op.seg, cpu.address(op)));
    cpu.set::<T>(op.dst, swapped::<T>(value));
    Flow::Next
}

/// MOVBE memory, register.
pub fn movbe_mr<T: Int>(cpu: &mut Cpu, op: &Op) -> Flow {
    let value = swapped::<T>(cpu.get::<T>(op.src));
    attempt!(cpu.store::<T>(op.seg, cpu.address(op), value));
    cpu.stored()
}

/// XLAT. The operand's base is BX, its index AL.
pub fn xlat(cpu: &mut Cpu, op: &Op) -> Flow {
    let address = cpu.regs[usize::from(reg::BX)].wrapping_add(cpu.get::<u8>(reg::AX));
    let address = address & crate::op::ADDRESS_MASKS[usize::from(op.asize & 3)];
    let value = attempt!(cpu.load::<u8>(op.seg, address));
    cpu.set::<u8>(reg::AX, value);
    Flow::Next
}

/// CBW, CWDE, CDQE: from `S` to `T`.
pub fn convert<T: Int, S: Int>(cpu: &mut Cpu, _op: &Op) -> Flow {
    let value = S::extend(cpu.get::<S>(reg::AX));
    cpu.set::<T>(reg::AX, value);
    Flow::Next
}

/// CWD, CDQ, CQO.
pub fn spread<T: Int>(cpu: &mut Cpu, _op: &Op) -> Flow {
    let value = (T::extend(cpu.get::<T>(reg::AX)) as i64 >> 63) as u64;
    cpu.set::<T>(reg::DX, value);
    Flow::Next
}

/// LAHF.
pub fn lahf(cpu: &mut Cpu, _op: &Op) -> Flow {
    let value = cpu.flags.get();
    cpu.set::<u8>(HIGH | reg::AX, value);
    Flow::Next
}

/// SAHF.
pub fn sahf(cpu: &mut Cpu, _op: &Op) -> Flow {
    let value = cpu.get::<u8>(HIGH | reg::AX);
    cpu.flags.change(flags::SF | flags::ZF | flags::AF | flags::PF | flags::CF, value);
    Flow::Next
}

/// SALC, which no manual has and every processor.
pub fn salc(cpu: &mut Cpu, _op: &Op) -> Flow {
    let value = if cpu.flags.carry() { 0xff } else { 0 };
    cpu.set::<u8>(reg::AX, value);
    Flow::Next
}

/// CLC.
pub fn clc(cpu: &mut Cpu, _op: &Op) -> Flow {
    cpu.flags.set_carry(false);
    Flow::Next
}

/// STC.
pub fn stc(cpu: &mut Cpu, _op: &Op) -> Flow {
    cpu.flags.set_carry(true);
    Flow::Next
}

/// CMC.
pub fn cmc(cpu: &mut Cpu, _op: &Op) -> Flow {
    let carry = cpu.flags.carry();
    cpu.flags.set_carry(!carry);
    Flow::Next
}

/// CLD.
pub fn cld(cpu: &mut Cpu, _op: &Op) -> Flow {
    cpu.flags.rest &= !flags::DF;
    Flow::Next
}

/// STD.
pub fn std(cpu: &mut Cpu, _op: &Op) -> Flow {
    cpu.flags.rest |= flags::DF;
    Flow::Next
}

/// NOP, prefetches, fences: accesses here are in order, and a locked one is a fence for others.
pub fn nop(_cpu: &mut Cpu, _op: &Op) -> Flow {
    Flow::Next
}

/// MFENCE.
pub fn fence(_cpu: &mut Cpu, _op: &Op) -> Flow {
    std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
    Flow::Next
}

/// BOUND.
pub fn bound<T: Int>(cpu: &mut Cpu, op: &Op) -> Flow {
    let address = cpu.address(op);
    let low = T::extend(attempt!(cpu.load::<T>(op.seg, address))) as i64;
    let index = T::extend(cpu.get::<T>(op.dst)) as i64;
    if index < low {
        // Before the other bound is read.
        cpu.raise(crate::cpu::vector::BR);
        return Flow::Trap;
    }
    let next = address.wrapping_add(T::BYTES as u64) & crate::op::ADDRESS_MASKS[usize::from(op.asize & 3)];
    let high = T::extend(attempt!(cpu.load::<T>(op.seg, next))) as i64;
    if index > high {
        cpu.raise(crate::cpu::vector::BR);
        return Flow::Trap;
    }
    Flow::Next
}
