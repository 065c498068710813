//! Two instructions in one: a comparison and the branch on it, which compilers put side by side. In 64-bit mode only.

use super::alu::{Binary, Cmp, Test};
use crate::attempt;
use crate::cpu::Cpu;
use crate::op::{Flow, Handler, Int, Op, START};

/// A comparison of a register with
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compare {
    /// TEST, not CMP;
    pub tests: bool,
    /// with an immediate, not a register.
    pub immediate: bool,
    /// Bytes of the operands.
    pub bytes: usize,
}

/// Makes one of a comparison and a branch on condition `code` behind it, if there is a handler for them.
pub fn fuse(first: &Op, compare: Compare, branch: &Op, code: u8) -> Option<Op> {
    let Compare { tests, immediate, bytes } = compare;
    let run = match (tests, bytes) {
        (false, 1) => handler::<u8, Cmp>(immediate, code),
        (false, 4) => handler::<u32, Cmp>(immediate, code),
        (false, 8) => handler::<u64, Cmp>(immediate, code),
        (true, 1) => handler::<u8, Test>(immediate, code),
        (true, 4) => handler::<u32, Test>(immediate, code),
        (true, 8) => handler::<u64, Test>(immediate, code),
        _ => None,
    }?;
    // Length and end are the branch's: it is what can fault.
    Some(Op { run, disp: branch.imm, len: branch.len, next: branch.next, ..*first })
}

macro_rules! handlers {
    ($immediate:expr, $code:expr, $($number:literal)*) => {
        match ($immediate, $code) {
            $((false, $number) => Some(registers::<T, B, $number> as Handler),)*
            $((true, $number) => Some(with_immediate::<T, B, $number> as Handler),)*
            _ => None,
        }
    };
}

fn handler<T: Int, B: Binary>(immediate: bool, code: u8) -> Option<Handler> {
    handlers!(immediate, code, 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15)
}

fn registers<T: Int, B: Binary, const CODE: u8>(cpu: &mut Cpu, op: &Op) -> Flow {
    let b = cpu.get::<T>(op.src);
    compare::<T, B, CODE>(cpu, op, b)
}

fn with_immediate<T: Int, B: Binary, const CODE: u8>(cpu: &mut Cpu, op: &Op) -> Flow {
    compare::<T, B, CODE>(cpu, op, T::cut(op.imm))
}

#[inline(always)]
fn compare<T: Int, B: Binary, const CODE: u8>(cpu: &mut Cpu, op: &Op, b: u64) -> Flow {
    let a = cpu.get::<T>(op.dst);
    B::apply::<T>(&mut cpu.flags, a, b);
    // That was one; the block counts the other.
    cpu.instructions = cpu.instructions.wrapping_add(1);
    let start = cpu.regs[usize::from(START)];
    if cpu.flags.holds(CODE) {
        attempt!(cpu.go::<u64>(start.wrapping_add(op.disp)));
    } else {
        cpu.rip = start.wrapping_add(op.next.into());
    }
    Flow::Jump
}
