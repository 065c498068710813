//! One instruction, decoded once: what a block is made of.

use crate::cpu::Cpu;

/// What comes after an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// The next one of the block.
    Next,
    /// It set RIP: the block is over.
    Jump,
    /// The instruction is done, and something has to be looked at before the next.
    Leave,
    /// Not all of it is done; it goes on where it was (a repeated string instruction).
    Again,
    /// It can not be done: see [`Cpu::trap`].
    Trap,
}

/// Carries an instruction out.
pub type Handler = fn(&mut Cpu, &Op) -> Flow;

/// The lowered form of an instruction. A handler knows what the fields mean to it.
#[derive(Clone, Copy)]
pub struct Op {
    /// Carries it out.
    pub run: Handler,
    /// Immediate, sign-extended to 64 bits as the instruction has it; the target of a branch, from the block's begin.
    pub imm: u64,
    /// Displacement of the memory operand.
    pub disp: u64,
    /// First register operand. [`HIGH`] for AH to BH.
    pub dst: u8,
    /// Second register operand.
    pub src: u8,
    /// Base register of the memory operand, or [`ZERO`], or [`START`].
    pub base: u8,
    /// Index register, or [`ZERO`].
    pub index: u8,
    /// Shift of the index.
    pub scale: u8,
    /// Segment register of the memory operand.
    pub seg: u8,
    /// Address size: an index into [`ADDRESS_MASKS`].
    pub asize: u8,
    /// Anything else: a condition, a repeat prefix, a number of a form.
    pub extra: u8,
    /// Bytes of the instruction.
    pub len: u8,
    /// Where the next one begins, in bytes from the block's begin.
    pub next: u16,
}

/// Register number: nothing, which is always 0.
pub const ZERO: u8 = 16;
/// Register number: RIP of the block's begin, for addresses relative to RIP.
pub const START: u8 = 17;
/// Of a byte register: bits 8 to 15 of the register.
pub const HIGH: u8 = 0x80;

/// By address size: 16, 32 and 64 bits.
pub const ADDRESS_MASKS: [u64; 4] = [0xffff, 0xffff_ffff, u64::MAX, u64::MAX];

/// Numbers of registers.
pub mod reg {
    #![allow(missing_docs, reason = "they are called what they are")]
    #![allow(clippy::allow_attributes, reason = "an expectation does not reach into constants")]
    pub const AX: u8 = 0;
    pub const CX: u8 = 1;
    pub const DX: u8 = 2;
    pub const BX: u8 = 3;
    pub const SP: u8 = 4;
    pub const BP: u8 = 5;
    pub const SI: u8 = 6;
    pub const DI: u8 = 7;
}

/// Numbers of segment registers.
pub mod seg {
    #![allow(missing_docs, reason = "they are called what they are")]
    #![allow(clippy::allow_attributes, reason = "an expectation does not reach into constants")]
    pub const ES: u8 = 0;
    pub const CS: u8 = 1;
    pub const SS: u8 = 2;
    pub const DS: u8 = 3;
    pub const FS: u8 = 4;
    pub const GS: u8 = 5;
    pub const LDT: u8 = 6;
    pub const TR: u8 = 7;
}

/// An operand's size.
pub trait Int: Copy + 'static {
    /// Bits.
    const BITS: u32;
    /// Bytes.
    const BYTES: usize = Self::BITS as usize / 8;
    /// The highest bit's number.
    const TOP: u32 = Self::BITS - 1;
    /// All bits.
    const MASK: u64 = u64::MAX >> (64 - Self::BITS);

    /// What a register holds, zero-extended.
    fn get(registers: &[u64; 32], number: u8) -> u64;
    /// Changes a register, or the part of it that has this size.
    fn set(registers: &mut [u64; 32], number: u8, value: u64);

    /// Cuts to the size.
    #[inline(always)]
    fn cut(value: u64) -> u64 {
        value & Self::MASK
    }

    /// Sign-extends to 64 bits.
    #[inline(always)]
    fn extend(value: u64) -> u64 {
        let shift = 64 - Self::BITS;
        ((value << shift) as i64 >> shift) as u64
    }

    /// The highest bit.
    #[inline(always)]
    fn is_negative(value: u64) -> bool {
        value >> Self::TOP & 1 != 0
    }
}

#[inline(always)]
fn at(number: u8) -> usize {
    usize::from(number & 31)
}

impl Int for u8 {
    const BITS: u32 = 8;

    #[inline(always)]
    fn get(registers: &[u64; 32], number: u8) -> u64 {
        let shift = number >> 7 << 3;
        registers[at(number)] >> shift & 0xff
    }

    #[inline(always)]
    fn set(registers: &mut [u64; 32], number: u8, value: u64) {
        let shift = number >> 7 << 3;
        let register = &mut registers[at(number)];
        *register = *register & !(0xff << shift) | (value & 0xff) << shift;
    }
}

impl Int for u16 {
    const BITS: u32 = 16;

    #[inline(always)]
    fn get(registers: &[u64; 32], number: u8) -> u64 {
        registers[at(number)] & 0xffff
    }

    #[inline(always)]
    fn set(registers: &mut [u64; 32], number: u8, value: u64) {
        let register = &mut registers[at(number)];
        *register = *register & !0xffff | value & 0xffff;
    }
}

impl Int for u32 {
    const BITS: u32 = 32;

    #[inline(always)]
    fn get(registers: &[u64; 32], number: u8) -> u64 {
        registers[at(number)] & 0xffff_ffff
    }

    #[inline(always)]
    fn set(registers: &mut [u64; 32], number: u8, value: u64) {
        registers[at(number)] = value & 0xffff_ffff;
    }
}

impl Int for u64 {
    const BITS: u32 = 64;

    #[inline(always)]
    fn get(registers: &[u64; 32], number: u8) -> u64 {
        registers[at(number)]
    }

    #[inline(always)]
    fn set(registers: &mut [u64; 32], number: u8, value: u64) {
        registers[at(number)] = value;
    }
}
