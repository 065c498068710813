//! The stack: PUSH, POP and their relatives.

use crate::attempt;
use crate::cpu::{Cpu, Trap};
use crate::mmu::Access;
use crate::op::{Flow, Int, Op, reg, seg};

const SP: usize = reg::SP as usize;

impl Cpu {
    /// Sets the part of RSP that the stack's size says.
    #[inline(always)]
    pub fn set_sp(&mut self, mask: u64, value: u64) {
        let value = value & mask;
        self.regs[SP] = if mask == 0xffff { self.regs[SP] & !0xffff | value } else { value };
    }

    /// Pushes. The stack pointer moves when it is done.
    ///
    /// # Errors
    /// A fault.
    #[inline(always)]
    pub fn push<T: Int>(&mut self, value: u64) -> Result<(), Trap> {
        // Only 64-bit mode has operands of 64 bits.
        if T::BITS == 64 {
            let top = self.regs[SP].wrapping_sub(8);
            self.store_flat::<T>(seg::SS, top, value)?;
            self.regs[SP] = top;
            return Ok(());
        }
        let mask = self.stack_mask();
        let top = self.regs[SP].wrapping_sub(T::BYTES as u64) & mask;
        self.store::<T>(seg::SS, top, value)?;
        self.set_sp(mask, top);
        Ok(())
    }

    /// What a pop would give, `skip` bytes further on.
    ///
    /// # Errors
    /// A fault.
    #[inline(always)]
    pub fn peek<T: Int>(&mut self, skip: u64) -> Result<u64, Trap> {
        if T::BITS == 64 {
            return self.load_flat::<T>(seg::SS, self.regs[SP].wrapping_add(skip), Access::Read);
        }
        let at = self.regs[SP].wrapping_add(skip) & self.stack_mask();
        self.load::<T>(seg::SS, at)
    }

    /// Moves the stack pointer up.
    #[inline(always)]
    pub fn drop_stack(&mut self, bytes: u64) {
        let mask = self.stack_mask();
        self.set_sp(mask, self.regs[SP].wrapping_add(bytes));
    }
}

/// PUSH register.
pub fn push_r<T: Int>(cpu: &mut Cpu, op: &Op) -> Flow {
    let value = cpu.get::<T>(op.dst);
    attempt!(cpu.push::<T>(value));
    cpu.stored()
}

/// PUSH immediate.
pub fn push_i<T: Int>(cpu: &mut Cpu, op: &Op) -> Flow {
    attempt!(cpu.push::<T>(T::cut(op.imm)));
    cpu.stored()
}

/// PUSH memory.
pub fn push_m<T: Int>(cpu: &mut Cpu, op: &Op) -> Flow {
    let value = attempt!(cpu.load::<T>(op.seg, cpu.address(op)));
    attempt!(cpu.push::<T>(value));
    cpu.stored()
}

/// PUSH segment register: the selector alone is written, of however much the stack pointer moves.
pub fn push_s<T: Int>(cpu: &mut Cpu, op: &Op) -> Flow {
    let value = u64::from(cpu.segs[usize::from(op.dst & 7)].selector);
    if T::BITS == 16 {
        attempt!(cpu.push::<u16>(value));
        return cpu.stored();
    }
    let mask = cpu.stack_mask();
    let top = cpu.regs[SP].wrapping_sub(T::BYTES as u64) & mask;
    // In 64-bit mode processors write all 8 bytes.
    if T::BITS == 64 {
        attempt!(cpu.store::<u64>(seg::SS, top, value));
    } else {
        attempt!(cpu.store::<u16>(seg::SS, top, value));
    }
    cpu.set_sp(mask, top);
    cpu.stored()
}

/// POP register.
pub fn pop_r<T: Int>(cpu: &mut Cpu, op: &Op) -> Flow {
    let value = attempt!(cpu.peek::<T>(0));
    cpu.drop_stack(T::BYTES as u64);
    cpu.set::<T>(op.dst, value);
    Flow::Next
}

/// POP memory: an address with RSP in it is worked out with what RSP is afterwards.
pub fn pop_m<T: Int>(cpu: &mut Cpu, op: &Op) -> Flow {
    let value = attempt!(cpu.peek::<T>(0));
    let before = cpu.regs[SP];
    cpu.drop_stack(T::BYTES as u64);
    let address = cpu.address(op);
    if let Err(Trap) = cpu.store::<T>(op.seg, address, value) {
        cpu.regs[SP] = before;
        return Flow::Trap;
    }
    cpu.stored()
}

/// POP segment register.
pub fn pop_s<T: Int>(cpu: &mut Cpu, op: &Op) -> Flow {
    let value = attempt!(cpu.peek::<T>(0));
    attempt!(cpu.load_segment(op.dst, value as u16));
    cpu.drop_stack(T::BYTES as u64);
    if op.dst == seg::SS {
        cpu.shadow_ss = true;
    }
    Flow::Leave
}

/// PUSHA.
pub fn pusha<T: Int>(cpu: &mut Cpu, _op: &Op) -> Flow {
    let before = cpu.regs[SP];
    for number in 0..8 {
        let value = if number == reg::SP { T::cut(before) } else { cpu.get::<T>(number) };
        if let Err(Trap) = cpu.push::<T>(value) {
            cpu.regs[SP] = before;
            return Flow::Trap;
        }
    }
    cpu.stored()
}

/// POPA. What was popped before a fault stays, as on Intel's processors: with RSP where it was, it begins anew.
pub fn popa<T: Int>(cpu: &mut Cpu, _op: &Op) -> Flow {
    for (number, place) in (0..8u8).rev().zip(0u64..) {
        let value = attempt!(cpu.peek::<T>(place * T::BYTES as u64));
        if number != reg::SP {
            cpu.set::<T>(number, value);
        }
    }
    cpu.drop_stack(8 * T::BYTES as u64);
    Flow::Next
}

/// ENTER.
pub fn enter<T: Int>(cpu: &mut Cpu, op: &Op) -> Flow {
    let level = op.extra & 31;
    let (before, mask) = (cpu.regs[SP], cpu.stack_mask());
    let mut frame = || -> Result<u64, Trap> {
        let old = cpu.get::<T>(reg::BP);
        cpu.push::<T>(old)?;
        let frame = cpu.regs[SP] & mask;
        let mut from = cpu.regs[usize::from(reg::BP)] & mask;
        for _ in 1..level {
            from = from.wrapping_sub(T::BYTES as u64) & mask;
            let display = cpu.load::<T>(seg::SS, from)?;
            cpu.push::<T>(display)?;
        }
        if level > 0 {
            cpu.push::<T>(T::cut(frame))?;
        }
        // What is below is touched, so that a fault comes here and not later.
        let top = cpu.regs[SP].wrapping_sub(op.imm & 0xffff) & mask;
        cpu.load_to_write::<T>(seg::SS, top)?;
        cpu.set_sp(mask, top);
        Ok(frame)
    };
    match frame() {
        Ok(frame) => {
            cpu.set::<T>(reg::BP, frame);
            cpu.stored()
        }
        Err(Trap) => {
            cpu.regs[SP] = before;
            Flow::Trap
        }
    }
}

/// LEAVE.
pub fn leave<T: Int>(cpu: &mut Cpu, _op: &Op) -> Flow {
    let mask = cpu.stack_mask();
    let top = cpu.regs[usize::from(reg::BP)] & mask;
    let value = attempt!(cpu.load::<T>(seg::SS, top));
    cpu.set_sp(mask, top.wrapping_add(T::BYTES as u64));
    cpu.set::<T>(reg::BP, value);
    Flow::Next
}
