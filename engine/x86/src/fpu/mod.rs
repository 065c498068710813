//! The x87 floating-point unit and the MMX registers that lie in it (SDM volume 1, chapters 8 and 9).
//!
//! ```text
//!   execute ─┬─ arith, remainder, transcendental ─▶ round ─▶ Outcome { value, flags }
//!   store  ──┤  convert, compare                                     │
//!            └───────────────────────────────── Fpu: stack, tags, status ◀┘     state ─▶ FNSAVE, FXSAVE, MMX
//! ```
//!
//! The number work is functions of bits and the control word; the register stack, the masked and unmasked answers and
//! the tags are [`Fpu`]'s. Memory is the caller's: it hands operand bits in, and writes what [`Fpu::store`] returns
//! before it calls [`Fpu::commit`], so that a page fault leaves the unit as it was. Exceptions are precise on the
//! unmasked answer and reported as hardware does, by [`Fpu::pending`] at the next waiting instruction.
//!
//! Nothing here panics or loops without bound on any operand.

mod arith;
mod compare;
mod convert;
mod execute;
mod f80;
mod op;
mod remainder;
mod round;
mod series;
mod state;
mod store;
mod transcendental;
mod wide;

#[cfg(test)]
mod tests;

pub use compare::IntegerFlags;
pub use f80::{Class, F80};
pub use op::{Arithmetic, Constant, FpuOp, FpuStore, Operands};
pub use round::status;
pub use round::{Control, RoundingMode};
pub use state::{Environment, EnvironmentLayout, FxsaveFormat, SavedState};
pub use store::PendingStore;

use round::{Outcome, stops};
use status::{B, C1, DE, ES, IE, SF};

/// Whether CS and DS of the last instruction are no longer kept and read as 0: CPUID.(EAX=07H,ECX=0):EBX\[13\].
pub const FCS_FDS_DEPRECATED: bool = true;

/// The control word after FNINIT (SDM volume 1, 8.1.5).
pub const CONTROL_AFTER_INIT: u16 = 0x037f;
/// The control word bits that can be written; the rest of them reads as 0.
const CONTROL_WRITABLE: u16 = 0x1f3f;
/// Bit 6 of the control word, which always reads as 1.
const CONTROL_FIXED: u16 = 0x0040;
/// The status word without TOP, which is kept apart.
const STATUS_WITHOUT_TOP: u16 = !0x3800;

/// What the unit remembers of the last non-control instruction (SDM volume 1, 8.1.8 and 8.1.9).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LastInstruction {
    /// FIP: the offset of the instruction.
    pub instruction_pointer: u64,
    /// FDP: the offset of its memory operand, if it had one.
    pub data_pointer: u64,
    /// FCS.
    pub code_segment: u16,
    /// FDS.
    pub data_segment: u16,
    /// FOP: the low three bits of the first opcode byte in bits 10:8, and the second in bits 7:0.
    pub opcode: u16,
}

/// The x87 FPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fpu {
    /// The significands by physical number: R0 to R7, which are MM0 to MM7.
    ///
    /// All fields that arithmetic touches are read and written in one width each: a processor forwards a store to the
    /// load that follows it only if it covers that load.
    mantissas: [u64; 8],
    sign_exponents: [u16; 8],
    /// The abridged tag word: a set bit is a register in use. Of 8 bits.
    valid: u32,
    /// Of 3 bits.
    top: u32,
    /// Without TOP.
    status: u16,
    control: u16,
    last: LastInstruction,
}

impl Default for Fpu {
    fn default() -> Self {
        Self::new()
    }
}

impl Fpu {
    /// The unit as FNINIT leaves it, its registers zero.
    pub const fn new() -> Self {
        Self {
            mantissas: [0; 8],
            sign_exponents: [0; 8],
            valid: 0,
            top: 0,
            status: 0,
            control: CONTROL_AFTER_INIT,
            last: LastInstruction {
                instruction_pointer: 0,
                data_pointer: 0,
                code_segment: 0,
                data_segment: 0,
                opcode: 0,
            },
        }
    }

    /// The unit after a power-up or reset, which is not as FNINIT leaves it (SDM volume 3A, table 10-1).
    pub const fn reset() -> Self {
        let mut unit = Self::new();
        unit.control = 0x0040;
        unit.valid = 0xff;
        unit
    }

    /// Whether an unmasked exception waits to be reported by #MF (or IRQ 13, with CR0.NE clear) at the next waiting
    /// instruction (SDM volume 1, 8.6 and 8.7).
    #[inline]
    pub const fn pending(&self) -> bool {
        self.status & ES != 0
    }

    /// FNSTSW: the status word.
    #[inline]
    pub const fn status_word(&self) -> u16 {
        self.status | ((self.top as u16) << 11)
    }

    /// FNSTCW: the control word.
    #[inline]
    pub const fn control_word(&self) -> u16 {
        self.control
    }

    /// FLDCW. Unmasking an exception whose flag is set makes it pending (SDM volume 2A, FLDCW).
    #[inline]
    pub const fn set_control_word(&mut self, control: u16) {
        self.control = (control & CONTROL_WRITABLE) | CONTROL_FIXED;
        self.summarize();
    }

    /// Notes what the last-instruction registers are to keep. To be called before the instruction is executed, for
    /// every one for which [`FpuOp::is_recorded`] says so and for every [`FpuStore`]; `data` is the segment selector
    /// and offset of a memory operand.
    #[inline]
    pub const fn record(&mut self, opcode: u16, code: (u16, u64), data: Option<(u16, u64)>) {
        self.last.opcode = opcode & 0x7ff;
        (self.last.code_segment, self.last.instruction_pointer) = code;
        if let Some(data) = data {
            (self.last.data_segment, self.last.data_pointer) = data;
        }
    }

    /// What the last-instruction registers keep.
    #[inline]
    pub const fn last_instruction(&self) -> LastInstruction {
        self.last
    }

    /// The value of ST(`index`), of which the low three bits count, whether it is in use or not.
    #[inline]
    pub const fn st(&self, index: usize) -> F80 {
        self.register(self.physical(index))
    }

    /// Whether ST(`index`) is tagged empty.
    #[inline]
    pub const fn is_empty(&self, index: usize) -> bool {
        self.valid >> self.physical(index) & 1 == 0
    }

    #[inline]
    const fn physical(&self, index: usize) -> usize {
        (self.top as usize).wrapping_add(index) & 7
    }

    #[inline]
    const fn set_st(&mut self, index: usize, value: F80) {
        let physical = self.physical(index);
        self.set_register(physical, value);
        self.valid |= 1 << physical;
    }

    /// Writes a register that is in use already.
    #[inline]
    const fn replace_st(&mut self, index: usize, value: F80) {
        self.set_register(self.physical(index), value);
    }

    #[inline]
    const fn register(&self, physical: usize) -> F80 {
        F80 { mantissa: self.mantissas[physical & 7], sign_exponent: self.sign_exponents[physical & 7] }
    }

    #[inline]
    const fn set_register(&mut self, physical: usize, value: F80) {
        self.mantissas[physical & 7] = value.mantissa;
        self.sign_exponents[physical & 7] = value.sign_exponent;
    }

    #[inline]
    const fn free(&mut self, index: usize) {
        self.valid &= !(1 << self.physical(index));
    }

    #[inline]
    const fn pop(&mut self) {
        self.free(0);
        self.top = (self.top + 1) & 7;
    }

    #[inline]
    const fn push(&mut self, value: F80) {
        self.top = self.top.wrapping_sub(1) & 7;
        self.set_st(0, value);
    }

    #[inline]
    const fn mode(&self) -> Control {
        Control(self.control)
    }

    #[inline]
    const fn clear_c1(&mut self) {
        self.status &= !C1;
    }

    /// Raises status bits, and ES and B with them if one is an unmasked exception.
    #[inline]
    const fn raise(&mut self, flags: u16) {
        self.status |= flags;
        if self.mode().unmasked(flags) != 0 {
            self.status |= ES | B;
        }
    }

    /// Makes ES and B what flags and masks say.
    #[inline]
    const fn summarize(&mut self) {
        if self.mode().unmasked(self.status) != 0 {
            self.status |= ES | B;
        } else {
            self.status &= !(ES | B);
        }
    }

    /// Raises the flags of an outcome and says whether its value is to be written.
    #[inline]
    const fn accept(&mut self, outcome: Outcome) -> bool {
        self.raise(outcome.flags());
        !stops(self.mode(), outcome.flags())
    }

    /// A stack underflow: whether the masked answer is to be given (SDM volume 1, 8.5.1.1).
    #[cold]
    const fn stack_underflow(&mut self) -> bool {
        self.raise(IE | SF);
        self.mode().unmasked(IE) == 0
    }

    /// A stack overflow: whether the masked answer is to be given.
    #[cold]
    const fn stack_overflow(&mut self) -> bool {
        self.raise(IE | SF | C1);
        self.mode().unmasked(IE) == 0
    }

    /// FNCLEX: the exceptions, SF, ES and B.
    const fn clear_exceptions(&mut self) {
        self.status &= !(status::EXCEPTIONS | SF | ES | B);
    }

    /// FNINIT. The registers keep their bits.
    const fn initialize(&mut self) {
        let fresh = Self::new();
        *self = Self { mantissas: self.mantissas, sign_exponents: self.sign_exponents, ..fresh };
    }
}

/// Whether #D among `flags` is unmasked.
#[inline]
const fn denormal_unmasked(control: Control, flags: u16) -> bool {
    control.unmasked(flags & DE) != 0
}
