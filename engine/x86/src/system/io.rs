//! Ports (Intel SDM volume 1, chapter 19; volume 3, 17.2.4).

use crate::attempt;
use crate::cpu::{Cause, Cpu, Effect, Request, Trap, cr0, cr4, vector};
use crate::flags;
use crate::op::{ADDRESS_MASKS, Flow, Int, Op, reg, seg};

/// Where the TSS says where its bitmap is.
const BITMAP: u64 = 0x66;
/// In `extra` of INS and OUTS: repeated.
pub const REPEATED: u8 = 1;

impl Cpu {
    /// Whether a port may be used: by I/O privilege level, or by the bitmap of the TSS (volume 1, 19.5).
    ///
    /// # Errors
    /// #GP, a page fault.
    fn check_port(&mut self, port: u16, bytes: usize) -> Result<(), Trap> {
        if self.cr0 & cr0::PE != 0 && (self.is_v86() || self.cpl > self.iopl()) {
            let mask = ((1u64 << bytes) - 1) << (port & 7);
            match self.port_bits(port) {
                Ok(bits) if bits & mask == 0 => {}
                // What is beyond the TSS is forbidden.
                Err(Trap) if !is_task_fault(self.trap) => return Err(Trap),
                _ => return Err(self.gp()),
            }
        }
        self.watch_port(port, bytes);
        Ok(())
    }

    /// The 16 bits of the bitmap that a port's are in.
    fn port_bits(&mut self, port: u16) -> Result<u64, Trap> {
        if !self.has_wide_tss() {
            return Err(self.gp());
        }
        let bitmap = self.tss_field::<u16>(BITMAP)?;
        self.tss_field::<u16>(bitmap + u64::from(port / 8))
    }

    /// Breakpoints on ports.
    fn watch_port(&mut self, port: u16, bytes: usize) {
        if self.cr4 & cr4::DE == 0 || self.dr[7] & 0xff == 0 {
            return;
        }
        let (first, last) = (u64::from(port), u64::from(port) + bytes as u64 - 1);
        for number in 0..4usize {
            let enabled = self.dr[7] >> (number * 2) & 3 != 0 && self.dr[7] >> (16 + number * 4) & 3 == 2;
            let len = [1u64, 2, 8, 4][(self.dr[7] >> (18 + number * 4) & 3) as usize];
            let from = self.dr[number] & !(len - 1);
            if enabled && first <= from.saturating_add(len - 1) && from <= last {
                self.debug_due |= 1 << number;
                self.leave = true;
            }
        }
    }
}

/// Whether it is a fault of the TSS.
fn is_task_fault(cause: Cause) -> bool {
    matches!(cause, Cause::Exception(exception) if exception.vector == vector::TS)
}

fn input<T: Int>(cpu: &mut Cpu, port: u16) -> Flow {
    attempt!(cpu.check_port(port, T::BYTES));
    let value = attempt!(cpu.ask(Request::In(port, T::BYTES as u8)));
    cpu.set::<T>(reg::AX, value);
    Flow::Leave
}

fn output<T: Int>(cpu: &mut Cpu, port: u16) -> Flow {
    attempt!(cpu.check_port(port, T::BYTES));
    let value = cpu.get::<T>(reg::AX);
    cpu.effect(Effect::Out(port, T::BYTES as u8, value as u32));
    Flow::Leave
}

/// IN from an immediate port.
pub fn in_i<T: Int>(cpu: &mut Cpu, op: &Op) -> Flow {
    input::<T>(cpu, op.imm as u16 & 0xff)
}

/// IN from the port in DX.
pub fn in_r<T: Int>(cpu: &mut Cpu, _op: &Op) -> Flow {
    let port = cpu.get::<u16>(reg::DX) as u16;
    input::<T>(cpu, port)
}

/// OUT to an immediate port.
pub fn out_i<T: Int>(cpu: &mut Cpu, op: &Op) -> Flow {
    output::<T>(cpu, op.imm as u16 & 0xff)
}

/// OUT to the port in DX.
pub fn out_r<T: Int>(cpu: &mut Cpu, _op: &Op) -> Flow {
    let port = cpu.get::<u16>(reg::DX) as u16;
    output::<T>(cpu, port)
}

/// Registers of a string instruction, as wide as addresses are.
struct Walk {
    mask: u64,
}

impl Walk {
    fn get(&self, cpu: &Cpu, number: u8) -> u64 {
        cpu.regs[usize::from(number)] & self.mask
    }

    fn set(&self, cpu: &mut Cpu, number: u8, value: u64) {
        let register = &mut cpu.regs[usize::from(number)];
        *register = if self.mask == 0xffff { *register & !0xffff | value & 0xffff } else { value & self.mask };
    }
}

/// Does one element, `one`, whose address is in the register `number`. More of them are another time's: in between
/// somebody outside does what is to be done, and interrupts are taken.
fn element<T: Int>(
    cpu: &mut Cpu,
    op: &Op,
    number: u8,
    one: impl FnOnce(&mut Cpu, u64, u16) -> Result<(), Trap>,
) -> Flow {
    let walk = Walk { mask: ADDRESS_MASKS[usize::from(op.asize & 3)] };
    let repeated = op.extra & REPEATED != 0;
    let count = walk.get(cpu, reg::CX);
    let port = cpu.get::<u16>(reg::DX) as u16;
    // It must be allowed even if there is nothing to do.
    attempt!(cpu.check_port(port, T::BYTES));
    if repeated && count == 0 {
        return Flow::Leave;
    }
    let at = walk.get(cpu, number);
    attempt!(one(cpu, at, port));
    let bytes = T::BYTES as u64;
    let step = if cpu.flags.rest & flags::DF == 0 { bytes } else { bytes.wrapping_neg() };
    walk.set(cpu, number, at.wrapping_add(step));
    if repeated {
        walk.set(cpu, reg::CX, count.wrapping_sub(1));
        if count > 1 {
            return Flow::Again;
        }
    }
    Flow::Leave
}

/// INS.
pub fn ins<T: Int>(cpu: &mut Cpu, op: &Op) -> Flow {
    element::<T>(cpu, op, reg::DI, |cpu, at, port| {
        // A port that is read has changed: that it can be stored has to be sure before.
        cpu.load_to_write::<T>(seg::ES, at)?;
        let value = cpu.ask(Request::In(port, T::BYTES as u8))?;
        cpu.store::<T>(seg::ES, at, T::cut(value))
    })
}

/// OUTS.
pub fn outs<T: Int>(cpu: &mut Cpu, op: &Op) -> Flow {
    element::<T>(cpu, op, reg::SI, |cpu, at, port| {
        let value = cpu.load::<T>(op.seg, at)?;
        cpu.effect(Effect::Out(port, T::BYTES as u8, value as u32));
        Ok(())
    })
}
