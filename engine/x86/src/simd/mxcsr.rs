//! The control and status register of SSE.

/// Exception flags, as the low six bits of MXCSR.
pub mod exception {
    /// Invalid operation.
    pub const IE: u32 = 1 << 0;
    /// Denormal operand.
    pub const DE: u32 = 1 << 1;
    /// Division by zero.
    pub const ZE: u32 = 1 << 2;
    /// Overflow.
    pub const OE: u32 = 1 << 3;
    /// Underflow.
    pub const UE: u32 = 1 << 4;
    /// Precision: the result is inexact.
    pub const PE: u32 = 1 << 5;
}

use exception::{DE, IE, PE, ZE};

/// MXCSR. The caller sees to it that reserved bits stay clear.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mxcsr(pub u32);

impl Default for Mxcsr {
    fn default() -> Self {
        Self(0x1f80)
    }
}

/// An unmasked exception: the flags are in MXCSR, the destination is to be left as it is, #XM is to be raised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unmasked;

/// How results are rounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rounding {
    Nearest,
    Down,
    Up,
    Zero,
}

impl Rounding {
    #[inline]
    pub(super) fn from_bits(bits: u32) -> Self {
        match bits & 3 {
            0 => Self::Nearest,
            1 => Self::Down,
            2 => Self::Up,
            _ => Self::Zero,
        }
    }
}

const DENORMALS_ARE_ZEROS: u32 = 1 << 6;
const MASKS: u32 = 0x3f << 7;
const ROUNDING: u32 = 3 << 13;
const FLUSH_TO_ZERO: u32 = 1 << 15;

impl Mxcsr {
    /// Whether the host's arithmetic rounds as the guest's. Flushing does not matter: it is for denormals, which do
    /// not take that way.
    #[inline(always)]
    pub(super) fn is_ordinary(self) -> bool {
        self.0 & (MASKS | ROUNDING) == MASKS
    }

    #[inline(always)]
    pub(super) fn is_inexact(self) -> bool {
        self.0 & PE != 0
    }

    #[inline]
    pub(super) fn rounding(self) -> Rounding {
        Rounding::from_bits(self.0 >> 13)
    }

    #[inline]
    pub(super) fn denormals_are_zeros(self) -> bool {
        self.0 & DENORMALS_ARE_ZEROS != 0
    }

    #[inline]
    pub(super) fn flushes_to_zero(self) -> bool {
        self.0 & FLUSH_TO_ZERO != 0
    }

    /// Whether these exceptions are masked.
    #[inline]
    pub(super) fn masks(self, exceptions: u32) -> bool {
        exceptions << 7 & !self.0 == 0
    }

    /// Records what all lanes of an instruction met with. An unmasked exception of an operand stops the instruction
    /// before it could find any of a result.
    #[inline]
    pub(super) fn raise(&mut self, mut exceptions: u32) -> Result<(), Unmasked> {
        const OF_OPERANDS: u32 = IE | DE | ZE;
        if !self.masks(exceptions & OF_OPERANDS) {
            exceptions &= OF_OPERANDS;
        }
        self.0 |= exceptions;
        if self.masks(exceptions) { Ok(()) } else { Err(Unmasked) }
    }
}
