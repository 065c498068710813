//! What instructions do.

pub mod alu;
pub mod bits;
pub mod branch;
pub mod data;
pub mod muldiv;
pub mod shift;
pub mod sse;
pub mod stack;
pub mod string;
pub mod vector;
pub mod x87;

use crate::cpu::Cpu;
use crate::op::{ADDRESS_MASKS, Op};

impl Cpu {
    /// The offset of the memory operand in its segment.
    #[inline(always)]
    pub fn address(&self, op: &Op) -> u64 {
        let base = self.regs[usize::from(op.base & 31)];
        let index = self.regs[usize::from(op.index & 31)] << (op.scale & 3);
        base.wrapping_add(index).wrapping_add(op.disp) & ADDRESS_MASKS[usize::from(op.asize & 3)]
    }

    /// Where the next instruction begins.
    #[inline(always)]
    pub fn next_rip(&self, op: &Op) -> u64 {
        self.regs[usize::from(crate::op::START)].wrapping_add(op.next.into()) & self.rip_mask
    }
}
