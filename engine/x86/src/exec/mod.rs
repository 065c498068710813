//! What instructions do.

pub mod alu;
pub mod bits;
pub mod branch;
pub mod data;
pub mod fused;
pub mod muldiv;
pub mod shift;
pub mod sse;
pub mod stack;
pub mod string;
pub mod vector;
pub mod x87;

use crate::cpu::{Cpu, Trap};
use crate::mmu::Access;
use crate::op::{ADDRESS_MASKS, Int, Op};

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

/// How a memory operand is reached. Which way an instruction's is, decoding says: the shorter ones work out less.
pub trait Place: 'static {
    /// The offset of the operand in its segment.
    fn offset(cpu: &Cpu, op: &Op) -> u64;

    /// Loads it, zero-extended.
    ///
    /// # Errors
    /// A fault, or it is to be asked for outside.
    fn load<T: Int>(cpu: &mut Cpu, op: &Op) -> Result<u64, Trap>;

    /// Loads it, to be stored afterwards.
    ///
    /// # Errors
    /// As [`load`](Self::load); also when it must not be written.
    fn load_to_write<T: Int>(cpu: &mut Cpu, op: &Op) -> Result<u64, Trap>;

    /// Stores it.
    ///
    /// # Errors
    /// A fault.
    fn store<T: Int>(cpu: &mut Cpu, op: &Op, value: u64) -> Result<(), Trap>;
}

/// In any segment, by an address of any size.
#[derive(Debug)]
pub struct Anywhere;

impl Place for Anywhere {
    #[inline(always)]
    fn offset(cpu: &Cpu, op: &Op) -> u64 {
        cpu.address(op)
    }

    #[inline(always)]
    fn load<T: Int>(cpu: &mut Cpu, op: &Op) -> Result<u64, Trap> {
        cpu.load::<T>(op.seg, cpu.address(op))
    }

    #[inline(always)]
    fn load_to_write<T: Int>(cpu: &mut Cpu, op: &Op) -> Result<u64, Trap> {
        cpu.load_to_write::<T>(op.seg, cpu.address(op))
    }

    #[inline(always)]
    fn store<T: Int>(cpu: &mut Cpu, op: &Op, value: u64) -> Result<(), Trap> {
        cpu.store::<T>(op.seg, cpu.address(op), value)
    }
}

/// In 64-bit mode, by an address of 64 bits, in a segment whose base counts as 0 there.
#[derive(Debug)]
pub struct Flat<const INDEXED: bool>;

impl<const INDEXED: bool> Place for Flat<INDEXED> {
    #[inline(always)]
    fn offset(cpu: &Cpu, op: &Op) -> u64 {
        let offset = cpu.regs[usize::from(op.base & 31)].wrapping_add(op.disp);
        if INDEXED { offset.wrapping_add(cpu.regs[usize::from(op.index & 31)] << (op.scale & 3)) } else { offset }
    }

    #[inline(always)]
    fn load<T: Int>(cpu: &mut Cpu, op: &Op) -> Result<u64, Trap> {
        cpu.load_flat::<T>(op.seg, Self::offset(cpu, op), Access::Read)
    }

    #[inline(always)]
    fn load_to_write<T: Int>(cpu: &mut Cpu, op: &Op) -> Result<u64, Trap> {
        cpu.load_flat::<T>(op.seg, Self::offset(cpu, op), Access::Write)
    }

    #[inline(always)]
    fn store<T: Int>(cpu: &mut Cpu, op: &Op, value: u64) -> Result<(), Trap> {
        cpu.store_flat::<T>(op.seg, Self::offset(cpu, op), value)
    }
}
