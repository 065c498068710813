//! Near branches.

use crate::attempt;
use crate::cpu::{Cpu, Trap};
use crate::op::{ADDRESS_MASKS, Flow, Int, Op, START, reg, seg};

impl Cpu {
    /// Goes to an address in the code segment; `T` is the operand's size.
    ///
    /// # Errors
    /// #GP when it is outside the segment or not canonical.
    #[inline(always)]
    pub fn go<T: Int>(&mut self, target: u64) -> Result<(), Trap> {
        let target = T::cut(target);
        self.check_target(target)?;
        self.rip = target;
        Ok(())
    }

    /// Whether code may be there.
    ///
    /// # Errors
    /// #GP.
    #[inline(always)]
    pub fn check_target(&mut self, target: u64) -> Result<(), Trap> {
        let allowed = if self.is_64() {
            self.is_canonical(target)
        } else {
            target <= u64::from(self.segs[usize::from(seg::CS)].limit)
        };
        if allowed { Ok(()) } else { Err(self.gp()) }
    }

    /// The target of a relative branch.
    #[inline(always)]
    fn target(&self, op: &Op) -> u64 {
        self.regs[usize::from(START)].wrapping_add(op.imm)
    }
}

/// JMP relative.
pub fn jmp<T: Int>(cpu: &mut Cpu, op: &Op) -> Flow {
    let target = cpu.target(op);
    attempt!(cpu.go::<T>(target));
    Flow::Jump
}

/// JMP register.
pub fn jmp_r<T: Int>(cpu: &mut Cpu, op: &Op) -> Flow {
    let target = cpu.get::<T>(op.dst);
    attempt!(cpu.go::<T>(target));
    Flow::Jump
}

/// JMP memory.
pub fn jmp_m<T: Int>(cpu: &mut Cpu, op: &Op) -> Flow {
    let target = attempt!(cpu.load::<T>(op.seg, cpu.address(op)));
    attempt!(cpu.go::<T>(target));
    Flow::Jump
}

#[inline(always)]
fn branch<T: Int>(cpu: &mut Cpu, op: &Op, taken: bool) -> Flow {
    if taken {
        let target = cpu.target(op);
        attempt!(cpu.go::<T>(target));
    } else {
        cpu.rip = cpu.next_rip(op);
    }
    Flow::Jump
}

/// Jcc, of condition `CODE`: one handler each, so that none has to be looked up.
pub fn jcc<T: Int, const CODE: u8>(cpu: &mut Cpu, op: &Op) -> Flow {
    let taken = cpu.flags.holds(CODE);
    branch::<T>(cpu, op, taken)
}

/// LOOP, LOOPE, LOOPNE: `T` is the branch's size; the count's is the address size.
pub fn loops<T: Int>(cpu: &mut Cpu, op: &Op) -> Flow {
    let mask = ADDRESS_MASKS[usize::from(op.asize & 3)];
    let count = cpu.regs[usize::from(reg::CX)].wrapping_sub(1) & mask;
    let taken = count != 0
        && match op.extra {
            0 => true,
            1 => cpu.flags.zero(),
            _ => !cpu.flags.zero(),
        };
    if taken {
        let target = T::cut(cpu.target(op));
        attempt!(cpu.check_target(target));
    }
    match op.asize {
        0 => cpu.set::<u16>(reg::CX, count),
        _ => cpu.regs[usize::from(reg::CX)] = count,
    }
    branch::<T>(cpu, op, taken)
}

/// JCXZ, JECXZ, JRCXZ.
pub fn jcxz<T: Int>(cpu: &mut Cpu, op: &Op) -> Flow {
    let taken = cpu.regs[usize::from(reg::CX)] & ADDRESS_MASKS[usize::from(op.asize & 3)] == 0;
    branch::<T>(cpu, op, taken)
}

#[inline(always)]
fn calls<T: Int>(cpu: &mut Cpu, op: &Op, target: u64) -> Flow {
    let target = T::cut(target);
    let next = T::cut(cpu.next_rip(op));
    let before = cpu.regs[usize::from(reg::SP)];
    attempt!(cpu.push::<T>(next));
    // By now Intel's processors have stored it; what is wrong with the stack comes first.
    if let Err(Trap) = cpu.check_target(target) {
        cpu.regs[usize::from(reg::SP)] = before;
        return Flow::Trap;
    }
    cpu.rip = target;
    Flow::Jump
}

/// CALL relative.
pub fn call<T: Int>(cpu: &mut Cpu, op: &Op) -> Flow {
    let target = cpu.target(op);
    calls::<T>(cpu, op, target)
}

/// CALL register.
pub fn call_r<T: Int>(cpu: &mut Cpu, op: &Op) -> Flow {
    let target = cpu.get::<T>(op.dst);
    calls::<T>(cpu, op, target)
}

/// CALL memory.
pub fn call_m<T: Int>(cpu: &mut Cpu, op: &Op) -> Flow {
    let target = attempt!(cpu.load::<T>(op.seg, cpu.address(op)));
    calls::<T>(cpu, op, target)
}

/// RET, and RET immediate.
pub fn ret<T: Int>(cpu: &mut Cpu, op: &Op) -> Flow {
    let target = attempt!(cpu.peek::<T>(0));
    attempt!(cpu.go::<T>(target));
    cpu.drop_stack(T::BYTES as u64 + (op.imm & 0xffff));
    Flow::Jump
}
