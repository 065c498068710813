//! Ports.

use crate::attempt;
use crate::cpu::{Cpu, Effect, Request, Trap, cr0};
use crate::flags;
use crate::op::{ADDRESS_MASKS, Flow, Int, Op, reg, seg};

impl Cpu {
    /// Whether the ports may be used (Intel SDM volume 1, 19.5.2).
    fn port(&mut self, port: u16, bytes: u8) -> Result<(), Trap> {
        if self.cr0 & cr0::PE == 0 || (self.cpl <= self.iopl() && !self.is_v86()) {
            return Ok(());
        }
        let tr = self.segs[usize::from(seg::TR)];
        // Only TSSs of 32 and 64 bits have a map.
        if !tr.is_usable() || tr.attributes & 8 == 0 || tr.limit < 0x67 {
            return Err(self.gp());
        }
        let map = self.load_linear::<u16>(tr.base.wrapping_add(0x66))?;
        let at = map + u64::from(port >> 3);
        if at + 1 > u64::from(tr.limit) {
            return Err(self.gp());
        }
        let word = self.load_linear::<u16>(tr.base.wrapping_add(at))?;
        let mask = ((1u64 << bytes) - 1) << (port & 7);
        if word & mask != 0 { Err(self.gp()) } else { Ok(()) }
    }
}

fn input<T: Int>(cpu: &mut Cpu, port: u16) -> Flow {
    attempt!(cpu.port(port, T::BYTES as u8));
    let value = attempt!(cpu.ask(Request::In(port, T::BYTES as u8)));
    cpu.set::<T>(reg::AX, value);
    Flow::Leave
}

fn output<T: Int>(cpu: &mut Cpu, port: u16) -> Flow {
    attempt!(cpu.port(port, T::BYTES as u8));
    let value = cpu.get::<T>(reg::AX);
    cpu.effect(Effect::Out(port, T::BYTES as u8, value as u32));
    Flow::Leave
}

/// IN immediate.
pub fn in_i<T: Int>(cpu: &mut Cpu, op: &Op) -> Flow {
    input::<T>(cpu, op.imm as u16 & 0xff)
}

/// IN DX.
pub fn in_d<T: Int>(cpu: &mut Cpu, _op: &Op) -> Flow {
    let port = cpu.get::<u16>(reg::DX) as u16;
    input::<T>(cpu, port)
}

/// OUT immediate.
pub fn out_i<T: Int>(cpu: &mut Cpu, op: &Op) -> Flow {
    output::<T>(cpu, op.imm as u16 & 0xff)
}

/// OUT DX.
pub fn out_d<T: Int>(cpu: &mut Cpu, _op: &Op) -> Flow {
    let port = cpu.get::<u16>(reg::DX) as u16;
    output::<T>(cpu, port)
}

/// One element of INS or OUTS, with or without REP.
fn element<T: Int>(cpu: &mut Cpu, op: &Op, inward: bool) -> Flow {
    let mask = ADDRESS_MASKS[usize::from(op.asize & 3)];
    let set = |cpu: &mut Cpu, number: u8, value: u64| {
        let register = &mut cpu.regs[usize::from(number)];
        *register = if mask == 0xffff { *register & !0xffff | value & 0xffff } else { value & mask };
    };
    let repeats = op.extra & 1 != 0;
    let count = cpu.regs[usize::from(reg::CX)] & mask;
    if repeats && count == 0 {
        return Flow::Leave;
    }
    let port = cpu.get::<u16>(reg::DX) as u16;
    attempt!(cpu.port(port, T::BYTES as u8));
    let number = if inward { reg::DI } else { reg::SI };
    let at = cpu.regs[usize::from(number)] & mask;
    if inward {
        attempt!(cpu.load_to_write::<T>(seg::ES, at));
        let value = attempt!(cpu.ask(Request::In(port, T::BYTES as u8)));
        attempt!(cpu.store::<T>(seg::ES, at, value));
    } else {
        let value = attempt!(cpu.load::<T>(op.seg, at));
        cpu.effect(Effect::Out(port, T::BYTES as u8, value as u32));
    }
    let bytes = T::BYTES as u64;
    let step = if cpu.flags.rest & flags::DF == 0 { bytes } else { bytes.wrapping_neg() };
    set(cpu, number, at.wrapping_add(step));
    if repeats {
        set(cpu, reg::CX, count.wrapping_sub(1));
        if count > 1 {
            return Flow::Again;
        }
    }
    Flow::Leave
}

/// INS.
pub fn ins<T: Int>(cpu: &mut Cpu, op: &Op) -> Flow {
    element::<T>(cpu, op, true)
}

/// OUTS.
pub fn outs<T: Int>(cpu: &mut Cpu, op: &Op) -> Flow {
    element::<T>(cpu, op, false)
}
