//! Fast system calls, as Intel's processors have them (Intel SDM volume 2, SYSCALL, SYSRET, SYSENTER and SYSEXIT).

use crate::attempt;
use crate::cpu::{Cpu, Segment, cr0, efer, vector};
use crate::flags;
use crate::op::{Flow, Op, reg, seg};

const CX: usize = reg::CX as usize;
const DX: usize = reg::DX as usize;
const SP: usize = reg::SP as usize;
const R11: usize = 11;

/// Attributes of the flat segments that these instructions load without a look at any table: code for 64-bit mode,
const CODE_64: u32 = 0xa09b;
/// code of 32 bits,
const CODE_32: u32 = 0xc09b;
/// a stack.
const STACK: u32 = 0xc093;
/// RFLAGS bits that SYSRET takes from R11.
const SYSRET_FLAGS: u64 = 0x3c_7fd7;

fn flat(selector: u16, attributes: u32, level: u8) -> Segment {
    let selector = selector & !3 | u16::from(level);
    Segment { selector, base: 0, limit: u32::MAX, attributes: attributes | u32::from(level) << 5, ..Segment::default() }
}

/// Goes to code of that kind, with the stack segment behind it.
fn go(cpu: &mut Cpu, code: u16, stack: u16, attributes: u32, level: u8, rip: u64) -> Flow {
    cpu.put_segment(seg::SS, flat(stack, STACK, level));
    cpu.put_segment(seg::CS, flat(code, attributes, level));
    cpu.cpl = level;
    cpu.renew();
    cpu.rip = rip & cpu.rip_mask;
    Flow::Jump
}

/// SYSCALL.
pub fn syscall(cpu: &mut Cpu, op: &Op) -> Flow {
    if !cpu.is_64() || cpu.efer & efer::SCE == 0 {
        cpu.raise(vector::UD);
        return Flow::Trap;
    }
    let old = cpu.flags.get() & !flags::RF;
    cpu.regs[CX] = cpu.next_rip(op);
    cpu.regs[R11] = old;
    cpu.flags.set(old & !cpu.msrs.sfmask);
    let code = (cpu.msrs.star >> 32) as u16 & 0xfffc;
    go(cpu, code, code.wrapping_add(8), CODE_64, 0, cpu.msrs.lstar)
}

/// SYSRET; `extra` is 1 with REX.W: to 64-bit mode.
pub fn sysret(cpu: &mut Cpu, op: &Op) -> Flow {
    if !cpu.is_64() || cpu.efer & efer::SCE == 0 {
        cpu.raise(vector::UD);
        return Flow::Trap;
    }
    let wide = op.extra == 1;
    let target = cpu.regs[CX];
    if cpu.cpl != 0 || (wide && !cpu.is_canonical(target)) {
        cpu.gp();
        return Flow::Trap;
    }
    cpu.flags.set(cpu.regs[R11] & SYSRET_FLAGS);
    let base = (cpu.msrs.star >> 48) as u16;
    let stack = base.wrapping_add(8);
    if wide {
        go(cpu, base.wrapping_add(16), stack, CODE_64, 3, target)
    } else {
        go(cpu, base, stack, CODE_32, 3, target)
    }
}

/// SYSENTER.
pub fn sysenter(cpu: &mut Cpu, _op: &Op) -> Flow {
    let code = cpu.msrs.sysenter_cs as u16 & 0xfffc;
    if cpu.cr0 & cr0::PE == 0 || code == 0 {
        cpu.gp();
        return Flow::Trap;
    }
    let long = cpu.is_long();
    let mask = if long { u64::MAX } else { 0xffff_ffff };
    cpu.flags.rest &= !(flags::VM | flags::IF | flags::RF);
    cpu.regs[SP] = cpu.msrs.sysenter_esp & mask;
    let target = cpu.msrs.sysenter_eip & mask;
    go(cpu, code, code.wrapping_add(8), if long { CODE_64 } else { CODE_32 }, 0, target)
}

/// SYSEXIT; `extra` is 1 with REX.W: to 64-bit mode.
pub fn sysexit(cpu: &mut Cpu, op: &Op) -> Flow {
    let base = cpu.msrs.sysenter_cs as u16 & 0xfffc;
    if cpu.cr0 & cr0::PE == 0 || base == 0 {
        cpu.gp();
        return Flow::Trap;
    }
    attempt!(cpu.supervisor());
    let wide = op.extra == 1;
    let (target, pointer) = (cpu.regs[DX], cpu.regs[CX]);
    if wide && !(cpu.is_canonical(target) && cpu.is_canonical(pointer)) {
        cpu.gp();
        return Flow::Trap;
    }
    let (mask, code, attributes) = if wide { (u64::MAX, 32, CODE_64) } else { (0xffff_ffff, 16, CODE_32) };
    cpu.regs[SP] = pointer & mask;
    let code = base.wrapping_add(code);
    go(cpu, code, code.wrapping_add(8), attributes, 3, target & mask)
}
