//! The instructions of opcodes D8 to DF (SDM volume 2D, A.5), one variant a form.
//!
//! [`FpuOp`] has what reads its operands and leaves a result in the registers, [`FpuStore`] what writes a number to
//! memory. FCMOVcc is [`super::Fpu::conditional_move`]; FNSTCW, FNSTSW, FNSTENV, FLDENV, FNSAVE and FRSTOR are methods
//! of their own, since what they move is not a number.

/// The six two-operand operations, in the order of their /digit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Arithmetic {
    /// /0: destination + source.
    Add,
    /// /1: destination × source.
    Mul,
    /// /4 (in DC and DE register forms /5): destination - source.
    Sub,
    /// /5 (in DC and DE register forms /4): source - destination.
    Subr,
    /// /6 (in DC and DE register forms /7): destination / source.
    Div,
    /// /7 (in DC and DE register forms /6): source / destination.
    Divr,
}

/// Destination and source of a two-operand operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operands {
    /// D8 C0+i and on: ST(0) ← ST(0) op ST(i).
    St0Sti,
    /// DC C0+i and on: ST(i) ← ST(i) op ST(0).
    StiSt0,
    /// DE C0+i and on: ST(i) ← ST(i) op ST(0), and a pop.
    StiSt0Pop,
    /// D8 with memory: a single-precision source.
    M32,
    /// DC with memory: a double-precision source.
    M64,
    /// DE with memory: a word integer source (FIADD and its like).
    I16,
    /// DA with memory: a doubleword integer source.
    I32,
}

/// The constants of D9 E8 to D9 EE.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Constant {
    /// D9 E8, FLD1.
    One,
    /// D9 E9, FLDL2T: log2 10.
    Log2Of10,
    /// D9 EA, FLDL2E: log2 e.
    Log2OfE,
    /// D9 EB, FLDPI: π.
    Pi,
    /// D9 EC, FLDLG2: log10 2.
    Log10Of2,
    /// D9 ED, FLDLN2: ln 2.
    LnOf2,
    /// D9 EE, FLDZ: +0.
    Zero,
}

/// An instruction that ends in the registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FpuOp {
    /// FADD, FMUL, FSUB, FSUBR, FDIV, FDIVR, with P and with I: D8, DA, DC, DE.
    Arithmetic(Arithmetic, Operands),

    /// D8 D0+i, and DC D0+i, which means the same.
    FcomSti,
    /// D8 D8+i, and DC D8+i and DE D0+i, which mean the same.
    FcompSti,
    /// D8 /2.
    FcomM32,
    /// D8 /3.
    FcompM32,
    /// DC /2.
    FcomM64,
    /// DC /3.
    FcompM64,
    /// DE /2.
    FicomM16,
    /// DE /3.
    FicompM16,
    /// DA /2.
    FicomM32,
    /// DA /3.
    FicompM32,
    /// DE D9. Compares with ST(1) whatever `sti` is.
    Fcompp,
    /// DD E0+i.
    FucomSti,
    /// DD E8+i.
    FucompSti,
    /// DA E9. Compares with ST(1) whatever `sti` is.
    Fucompp,
    /// DB F0+i.
    Fcomi,
    /// DF F0+i.
    Fcomip,
    /// DB E8+i.
    Fucomi,
    /// DF E8+i.
    Fucomip,
    /// D9 E4.
    Ftst,
    /// D9 E5.
    Fxam,

    /// D9 C0+i.
    FldSti,
    /// D9 /0.
    FldM32,
    /// DD /0.
    FldM64,
    /// DB /5.
    FldM80,
    /// DF /0.
    FildM16,
    /// DB /0.
    FildM32,
    /// DF /5.
    FildM64,
    /// DF /4.
    Fbld,
    /// D9 E8 to D9 EE.
    FldConstant(Constant),

    /// DD D0+i.
    FstSti,
    /// DD D8+i, and DF D0+i and DF D8+i, which mean the same.
    FstpSti,
    /// D9 D8+i, an undocumented FSTP that takes no notice of an empty ST(0).
    FstpnceSti,
    /// D9 C8+i, and DD C8+i and DF C8+i, which mean the same.
    Fxch,
    /// DD C0+i.
    Ffree,
    /// DF C0+i.
    Ffreep,
    /// D9 F7.
    Fincstp,
    /// D9 F6.
    Fdecstp,
    /// D9 D0.
    Fnop,

    /// D9 E0.
    Fchs,
    /// D9 E1.
    Fabs,
    /// D9 FA.
    Fsqrt,
    /// D9 FC.
    Frndint,
    /// D9 FD.
    Fscale,
    /// D9 F4.
    Fxtract,
    /// D9 F8.
    Fprem,
    /// D9 F5.
    Fprem1,

    /// D9 F0.
    F2xm1,
    /// D9 F1.
    Fyl2x,
    /// D9 F9.
    Fyl2xp1,
    /// D9 F2.
    Fptan,
    /// D9 F3.
    Fpatan,
    /// D9 FE.
    Fsin,
    /// D9 FF.
    Fcos,
    /// D9 FB.
    Fsincos,

    /// DB E3.
    Fninit,
    /// DB E2.
    Fnclex,
    /// D9 /5.
    Fldcw,
}

impl FpuOp {
    /// Whether the instruction looks for pending exceptions before it begins (SDM volume 1, 8.3.12 and 8.6). FNSTCW,
    /// FNSTSW, FNSTENV and FNSAVE, which are not in this enumeration, do not; FLDENV and FRSTOR do.
    #[inline]
    pub const fn is_waiting(self) -> bool {
        !matches!(self, Self::Fninit | Self::Fnclex)
    }

    /// Whether the instruction is one whose addresses the last-instruction registers keep: all but the control
    /// instructions (SDM volume 1, 8.1.8).
    #[inline]
    pub const fn is_recorded(self) -> bool {
        !matches!(self, Self::Fninit | Self::Fnclex | Self::Fldcw)
    }

    /// The bytes of memory operand that the instruction reads.
    #[inline]
    pub const fn operand_bytes(self) -> usize {
        match self {
            Self::Arithmetic(_, Operands::I16) | Self::FicomM16 | Self::FicompM16 | Self::FildM16 | Self::Fldcw => 2,
            Self::Arithmetic(_, Operands::M32 | Operands::I32)
            | Self::FcomM32
            | Self::FcompM32
            | Self::FicomM32
            | Self::FicompM32
            | Self::FldM32
            | Self::FildM32 => 4,
            Self::Arithmetic(_, Operands::M64) | Self::FcomM64 | Self::FcompM64 | Self::FldM64 | Self::FildM64 => 8,
            Self::FldM80 | Self::Fbld => 10,
            _ => 0,
        }
    }
}

/// An instruction that writes a number to memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FpuStore {
    /// D9 /2.
    FstM32,
    /// D9 /3.
    FstpM32,
    /// DD /2.
    FstM64,
    /// DD /3.
    FstpM64,
    /// DB /7.
    FstpM80,
    /// DF /2.
    FistM16,
    /// DF /3.
    FistpM16,
    /// DB /2.
    FistM32,
    /// DB /3.
    FistpM32,
    /// DF /7.
    FistpM64,
    /// DF /1.
    FisttpM16,
    /// DB /1.
    FisttpM32,
    /// DD /1.
    FisttpM64,
    /// DF /6.
    Fbstp,
}

impl FpuStore {
    /// The bytes that the instruction writes unless an unmasked exception withholds them. A page fault on them comes
    /// before any exception of the number.
    #[inline]
    pub const fn operand_bytes(self) -> usize {
        match self {
            Self::FistM16 | Self::FistpM16 | Self::FisttpM16 => 2,
            Self::FstM32 | Self::FstpM32 | Self::FistM32 | Self::FistpM32 | Self::FisttpM32 => 4,
            Self::FstM64 | Self::FstpM64 | Self::FistpM64 | Self::FisttpM64 => 8,
            Self::FstpM80 | Self::Fbstp => 10,
        }
    }

    /// Whether the register stack is popped.
    #[inline]
    pub const fn pops(self) -> bool {
        !matches!(self, Self::FstM32 | Self::FstM64 | Self::FistM16 | Self::FistM32)
    }
}
