//! SYSCALL and SYSENTER, and back.

use crate::attempt;
use crate::cpu::{Cpu, Segment, cr0, efer, vector};
use crate::flags;
use crate::op::{Flow, Op, reg, seg};

const SP: usize = reg::SP as usize;
const CX: usize = reg::CX as usize;
const DX: usize = reg::DX as usize;
const R11: usize = 11;

/// A flat segment, as these instructions load it.
fn flat(selector: u16, attributes: u32, cpl: u8) -> Segment {
    let attributes = attributes | u32::from(cpl) << 5;
    Segment { selector, base: 0, limit: u32::MAX, attributes, ..Segment::default() }
}

const CODE_64: u32 = 0xa09b;
const CODE_32: u32 = 0xc09b;
const DATA: u32 = 0xc093;

fn load(cpu: &mut Cpu, code: Segment, stack: Segment, cpl: u8, rip: u64) {
    cpu.segs[usize::from(seg::SS)] = stack;
    cpu.enter(code, cpl, rip);
}

/// SYSCALL.
pub fn syscall(cpu: &mut Cpu, op: &Op) -> Flow {
    if !cpu.is_64() || cpu.efer & efer::SCE == 0 {
        cpu.raise(vector::UD);
        return Flow::Trap;
    }
    cpu.regs[CX] = cpu.next_rip(op);
    let old = cpu.flags.get();
    cpu.regs[R11] = old & !flags::RF;
    cpu.flags.set(old & !(cpu.msrs.sfmask | flags::RF));
    let selector = (cpu.msrs.star >> 32) as u16 & 0xfffc;
    let target = cpu.msrs.lstar;
    load(cpu, flat(selector, CODE_64, 0), flat(selector.wrapping_add(8), DATA, 0), 0, target);
    Flow::Jump
}

/// SYSRET; `extra` is 1 for the return to 64-bit mode.
pub fn sysret(cpu: &mut Cpu, op: &Op) -> Flow {
    if !cpu.is_64() || cpu.efer & efer::SCE == 0 {
        cpu.raise(vector::UD);
        return Flow::Trap;
    }
    attempt!(cpu.supervisor());
    let target = cpu.regs[CX];
    let base = (cpu.msrs.star >> 48) as u16;
    let (selector, attributes, target) = if op.extra == 1 {
        if !cpu.is_canonical(target) {
            cpu.gp();
            return Flow::Trap;
        }
        (base.wrapping_add(16), CODE_64, target)
    } else {
        (base, CODE_32, target & 0xffff_ffff)
    };
    let image = cpu.regs[R11] & !(flags::RF | flags::VM);
    cpu.flags.set(image);
    load(cpu, flat(selector | 3, attributes, 3), flat(base.wrapping_add(8) | 3, DATA, 3), 3, target);
    Flow::Jump
}

/// SYSENTER.
pub fn sysenter(cpu: &mut Cpu, _op: &Op) -> Flow {
    let selector = cpu.msrs.sysenter_cs as u16 & 0xfffc;
    if cpu.cr0 & cr0::PE == 0 || selector == 0 {
        cpu.gp();
        return Flow::Trap;
    }
    cpu.flags.rest &= !(flags::VM | flags::IF | flags::RF);
    let long = cpu.is_long();
    let (target, pointer) = (cpu.msrs.sysenter_eip, cpu.msrs.sysenter_esp);
    let code = if long { CODE_64 } else { CODE_32 };
    load(cpu, flat(selector, code, 0), flat(selector.wrapping_add(8), DATA, 0), 0, target);
    cpu.regs[SP] = if long { pointer } else { pointer & 0xffff_ffff };
    Flow::Jump
}

/// SYSEXIT; `extra` is 1 for the return to 64-bit mode.
pub fn sysexit(cpu: &mut Cpu, op: &Op) -> Flow {
    let base = cpu.msrs.sysenter_cs as u16 & 0xfffc;
    if cpu.cr0 & cr0::PE == 0 || base == 0 || cpu.cpl != 0 {
        cpu.gp();
        return Flow::Trap;
    }
    let (target, pointer) = (cpu.regs[DX], cpu.regs[CX]);
    if op.extra == 1 {
        if !cpu.is_canonical(target) || !cpu.is_canonical(pointer) {
            cpu.gp();
            return Flow::Trap;
        }
        load(cpu, flat(base.wrapping_add(32) | 3, CODE_64, 3), flat(base.wrapping_add(40) | 3, DATA, 3), 3, target);
        cpu.regs[SP] = pointer;
    } else {
        let target = target & 0xffff_ffff;
        load(cpu, flat(base.wrapping_add(16) | 3, CODE_32, 3), flat(base.wrapping_add(24) | 3, DATA, 3), 3, target);
        cpu.regs[SP] = pointer & 0xffff_ffff;
    }
    Flow::Jump
}
