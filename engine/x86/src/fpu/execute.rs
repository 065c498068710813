//! Execution of what ends in the registers: operands and tags in, the masked or the unmasked answer out.

use super::arith::{INVALID, add, divide, multiply, square_root, subtract};
use super::compare::{Comparison, compare, examine, may_pop};
use super::convert::{from_decimal, from_double, from_integer, from_single, round_to_integer};
use super::f80::BIAS;
use super::op::{Arithmetic, Constant, FpuOp, Operands};
use super::remainder::{Remainder, extract, remainder, scale};
use super::round::Outcome;
use super::status::{C0, C1, C2, C3, IE};
use super::{Control, F80, Fpu, IntegerFlags, RoundingMode, denormal_unmasked, transcendental};

const CONDITION_CODES: u16 = C0 | C1 | C2 | C3;

impl Fpu {
    /// Executes `op`. `sti` is the i of ST(i), for the forms that have it; `memory` the operand, for the forms that
    /// read one, of which [`FpuOp::operand_bytes`] count. FCOMI, FCOMIP, FUCOMI and FUCOMIP return flags.
    ///
    /// The caller has looked at [`Fpu::pending`] where [`FpuOp::is_waiting`] says so, and at CR0.EM and CR0.TS.
    // A caller that names `op` by a constant gets the one arm of the match.
    #[inline(always)]
    pub fn execute(&mut self, op: FpuOp, sti: usize, memory: u128) -> Option<IntegerFlags> {
        match op {
            FpuOp::Arithmetic(operation, operands) => self.arithmetic(operation, operands, sti, memory),

            FpuOp::FcomSti => self.compare_register(sti, false, 0),
            FpuOp::FcompSti => self.compare_register(sti, false, 1),
            FpuOp::Fcompp => self.compare_register(1, false, 2),
            FpuOp::FucomSti => self.compare_register(sti, true, 0),
            FpuOp::FucompSti => self.compare_register(sti, true, 1),
            FpuOp::Fucompp => self.compare_register(1, true, 2),
            FpuOp::FcomM32 => self.compare_loaded(from_single(memory as u32), 0),
            FpuOp::FcompM32 => self.compare_loaded(from_single(memory as u32), 1),
            FpuOp::FcomM64 => self.compare_loaded(from_double(memory as u64), 0),
            FpuOp::FcompM64 => self.compare_loaded(from_double(memory as u64), 1),
            FpuOp::FicomM16 => self.compare_loaded(integer(memory as i16 as i64), 0),
            FpuOp::FicompM16 => self.compare_loaded(integer(memory as i16 as i64), 1),
            FpuOp::FicomM32 => self.compare_loaded(integer(memory as i32 as i64), 0),
            FpuOp::FicompM32 => self.compare_loaded(integer(memory as i32 as i64), 1),
            FpuOp::Fcomi => return Some(self.compare_to_flags(sti, false, false)),
            FpuOp::Fcomip => return Some(self.compare_to_flags(sti, false, true)),
            FpuOp::Fucomi => return Some(self.compare_to_flags(sti, true, false)),
            FpuOp::Fucomip => return Some(self.compare_to_flags(sti, true, true)),
            FpuOp::Ftst => self.compare_loaded(Outcome::new(F80::ZERO, 0), 0),
            FpuOp::Fxam => {
                let codes = examine(self.st(0), self.is_empty(0));
                self.set_codes(codes);
            }

            FpuOp::FldSti => self.load_register(sti),
            FpuOp::FldM32 => self.load(from_single(memory as u32)),
            FpuOp::FldM64 => self.load(from_double(memory as u64)),
            FpuOp::FldM80 => self.load(Outcome::new(F80::from_bits(memory), 0)),
            FpuOp::FildM16 => self.load(integer(memory as i16 as i64)),
            FpuOp::FildM32 => self.load(integer(memory as i32 as i64)),
            FpuOp::FildM64 => self.load(integer(memory as i64)),
            FpuOp::Fbld => self.load(Outcome::new(from_decimal(memory), 0)),
            FpuOp::FldConstant(constant) => self.load(Outcome::new(constant_value(self.mode(), constant), 0)),

            FpuOp::FstSti => self.store_register(sti, false),
            FpuOp::FstpSti => self.store_register(sti, true),
            FpuOp::FstpnceSti if self.is_empty(0) => {
                self.clear_c1();
                self.pop();
            }
            FpuOp::FstpnceSti => self.store_register(sti, true),
            FpuOp::Fxch => self.exchange(sti),
            FpuOp::Ffree => {
                self.clear_c1();
                self.free(sti);
            }
            FpuOp::Ffreep => {
                self.clear_c1();
                self.free(sti);
                self.pop();
            }
            FpuOp::Fincstp => {
                self.clear_c1();
                self.top = (self.top + 1) & 7;
            }
            FpuOp::Fdecstp => {
                self.clear_c1();
                self.top = self.top.wrapping_sub(1) & 7;
            }
            FpuOp::Fnop => {}

            FpuOp::Fchs => self.unary(|_, a| Outcome::new(a.negated(), 0)),
            FpuOp::Fabs => self.unary(|_, a| Outcome::new(a.absolute(), 0)),
            FpuOp::Fsqrt => self.unary(square_root),
            FpuOp::Frndint => self.unary(round_to_integer),
            FpuOp::F2xm1 => self.unary(transcendental::exp2_minus_1),
            FpuOp::Fscale => self.binary(scale),
            FpuOp::Fprem => self.remainder(Remainder::Truncating),
            FpuOp::Fprem1 => self.remainder(Remainder::Ieee),
            FpuOp::Fyl2x => self.binary_pop(transcendental::y_log2_x),
            FpuOp::Fyl2xp1 => self.binary_pop(transcendental::y_log2_x_plus_1),
            FpuOp::Fpatan => self.binary_pop(transcendental::arctangent),
            FpuOp::Fxtract => self.extract(),
            FpuOp::Fsin => self.trigonometric(transcendental::sine),
            FpuOp::Fcos => self.trigonometric(transcendental::cosine),
            FpuOp::Fsincos => self.trigonometric_pair(transcendental::sine_cosine),
            FpuOp::Fptan => self.trigonometric_pair(transcendental::tangent),

            FpuOp::Fninit => self.initialize(),
            FpuOp::Fnclex => self.clear_exceptions(),
            FpuOp::Fldcw => self.set_control_word(memory as u16),
        }
        None
    }

    /// FCMOVcc ST(0), ST(`sti`): DA and DB C0+i to D8+i, of which the caller has tested the condition.
    pub fn conditional_move(&mut self, condition: bool, sti: usize) {
        if self.is_empty(0) || self.is_empty(sti) {
            // The operands are checked, and the masked answer given, whatever the condition. Only here is C1 touched.
            self.clear_c1();
            if self.stack_underflow() {
                self.set_st(0, F80::INDEFINITE);
            }
        } else if condition {
            self.set_st(0, self.st(sti));
        }
    }

    #[inline]
    fn set_codes(&mut self, codes: u16) {
        self.status = (self.status & !CONDITION_CODES) | codes;
    }

    #[inline(always)]
    fn arithmetic(&mut self, operation: Arithmetic, operands: Operands, sti: usize, memory: u128) {
        self.clear_c1();
        let (destination, source, pops) = match operands {
            Operands::St0Sti => (0, sti, false),
            Operands::StiSt0 => (sti, 0, false),
            Operands::StiSt0Pop => (sti, 0, true),
            Operands::M32 => return self.arithmetic_loaded(operation, from_single(memory as u32)),
            Operands::M64 => return self.arithmetic_loaded(operation, from_double(memory as u64)),
            Operands::I16 => return self.arithmetic_loaded(operation, integer(memory as i16 as i64)),
            Operands::I32 => return self.arithmetic_loaded(operation, integer(memory as i32 as i64)),
        };
        let written = if self.is_empty(destination) || self.is_empty(source) {
            let masked = self.stack_underflow();
            if masked {
                self.set_st(destination, F80::INDEFINITE);
            }
            masked
        } else {
            let outcome = calculate(self.mode(), operation, self.st(destination), self.st(source));
            let written = self.accept(outcome);
            if written {
                self.replace_st(destination, outcome.value());
            }
            written
        };
        if written && pops {
            self.pop();
        }
    }

    #[inline(always)]
    fn arithmetic_loaded(&mut self, operation: Arithmetic, source: Outcome) {
        if self.is_empty(0) {
            if self.stack_underflow() {
                self.set_st(0, F80::INDEFINITE);
            }
            return;
        }
        let outcome = with_loaded(self.mode(), source, self.st(0), |control, destination, source| {
            calculate(control, operation, destination, source)
        });
        if self.accept(outcome) {
            self.replace_st(0, outcome.value());
        }
    }

    #[inline]
    fn unary(&mut self, operation: impl FnOnce(Control, F80) -> Outcome) {
        self.clear_c1();
        if self.is_empty(0) {
            if self.stack_underflow() {
                self.set_st(0, F80::INDEFINITE);
            }
            return;
        }
        let outcome = operation(self.mode(), self.st(0));
        if self.accept(outcome) {
            self.replace_st(0, outcome.value());
        }
    }

    /// ST(0) ← ST(0) op ST(1).
    fn binary(&mut self, operation: impl FnOnce(Control, F80, F80) -> Outcome) {
        let operand = self.st(1);
        if self.is_empty(1) {
            self.clear_c1();
            if self.stack_underflow() {
                self.set_st(0, F80::INDEFINITE);
            }
            return;
        }
        self.unary(|control, a| operation(control, a, operand));
    }

    /// ST(1) ← ST(0) op ST(1), and a pop.
    fn binary_pop(&mut self, operation: impl FnOnce(Control, F80, F80) -> Outcome) {
        self.clear_c1();
        let value = if self.is_empty(0) || self.is_empty(1) {
            if !self.stack_underflow() {
                return;
            }
            F80::INDEFINITE
        } else {
            let outcome = operation(self.mode(), self.st(0), self.st(1));
            if !self.accept(outcome) {
                return;
            }
            outcome.value()
        };
        self.set_st(1, value);
        self.pop();
    }

    /// FPREM and FPREM1. C0 and C3 change only where there is a quotient or a step toward it to report.
    fn remainder(&mut self, kind: Remainder) {
        self.status &= !(C1 | C2);
        let mut codes = None;
        self.binary(|control, a, b| {
            let (outcome, found) = remainder(control, kind, a, b);
            codes = found;
            outcome
        });
        if let Some(codes) = codes {
            self.set_codes(codes);
        }
    }

    #[inline]
    fn compare_register(&mut self, sti: usize, quiet: bool, pops: usize) {
        self.clear_c1();
        let comparison = if self.is_empty(0) || self.is_empty(sti) {
            if !self.stack_underflow() {
                return self.set_codes(Comparison::INVALID.condition_codes());
            }
            Comparison::INVALID
        } else {
            compare(self.st(0), self.st(sti), quiet)
        };
        self.finish_comparison(comparison, pops);
    }

    #[inline]
    fn compare_loaded(&mut self, source: Outcome, pops: usize) {
        self.clear_c1();
        let comparison = if self.is_empty(0) {
            if !self.stack_underflow() {
                return self.set_codes(Comparison::INVALID.condition_codes());
            }
            Comparison::INVALID
        } else if source.flags() & IE != 0 {
            Comparison::INVALID
        } else {
            let comparison = compare(self.st(0), source.value(), false);
            // Only where the comparison got as far as numbers do denormals matter.
            let loaded = if comparison.order.is_some() { source.flags() } else { 0 };
            Comparison { flags: comparison.flags | loaded, ..comparison }
        };
        self.finish_comparison(comparison, pops);
    }

    #[inline]
    fn finish_comparison(&mut self, comparison: Comparison, pops: usize) {
        self.raise(comparison.flags);
        self.set_codes(comparison.condition_codes());
        if may_pop(self.mode(), comparison.flags) {
            for _ in 0..pops.min(2) {
                self.pop();
            }
        }
    }

    /// FCOMI and its like. As with the condition codes of FCOM, the flags are written even if the exception that goes
    /// with them is unmasked; only the pop is then left out. C1 is left as it was but for a stack fault, on AMD's
    /// processors and, whatever their manual says, on Intel's.
    fn compare_to_flags(&mut self, sti: usize, quiet: bool, pops: bool) -> IntegerFlags {
        let (comparison, pops) = if self.is_empty(0) || self.is_empty(sti) {
            self.clear_c1();
            let masked = self.stack_underflow();
            (Comparison::INVALID, pops && masked)
        } else {
            let comparison = compare(self.st(0), self.st(sti), quiet);
            self.raise(comparison.flags);
            (comparison, pops && may_pop(self.mode(), comparison.flags))
        };
        if pops {
            self.pop();
        }
        comparison.integer_flags()
    }

    #[inline]
    fn load(&mut self, source: Outcome) {
        self.clear_c1();
        if !self.is_empty(7) {
            if self.stack_overflow() {
                self.push(F80::INDEFINITE);
            }
        } else {
            self.raise(source.flags());
            // A denormal is loaded even where #D is unmasked: only #IA keeps the stack as it was.
            if self.mode().unmasked(source.flags() & IE) == 0 {
                self.push(source.value());
            }
        }
    }

    #[inline]
    fn load_register(&mut self, sti: usize) {
        self.clear_c1();
        if self.is_empty(sti) {
            if self.stack_underflow() {
                self.push(F80::INDEFINITE);
            }
        } else if !self.is_empty(7) {
            if self.stack_overflow() {
                self.push(F80::INDEFINITE);
            }
        } else {
            self.push(self.st(sti));
        }
    }

    #[inline]
    fn store_register(&mut self, sti: usize, pops: bool) {
        self.clear_c1();
        if !self.is_empty(0) {
            self.set_st(sti, self.st(0));
        } else if self.stack_underflow() {
            self.set_st(sti, F80::INDEFINITE);
        } else {
            return;
        }
        if pops {
            self.pop();
        }
    }

    #[inline]
    fn exchange(&mut self, sti: usize) {
        self.clear_c1();
        let value = |unit: &Self, index| if unit.is_empty(index) { F80::INDEFINITE } else { unit.st(index) };
        let (first, second) = (value(self, 0), value(self, sti));
        if (self.is_empty(0) || self.is_empty(sti)) && !self.stack_underflow() {
            return;
        }
        self.set_st(0, second);
        self.set_st(sti, first);
    }

    /// The stack faults of what takes one operand and leaves two results: whether there was one.
    fn pair_faults(&mut self) -> bool {
        let masked = if self.is_empty(0) {
            self.stack_underflow()
        } else if !self.is_empty(7) {
            self.stack_overflow()
        } else {
            return false;
        };
        if masked {
            self.set_st(0, F80::INDEFINITE);
            self.push(F80::INDEFINITE);
        }
        true
    }

    fn extract(&mut self) {
        self.clear_c1();
        if self.pair_faults() {
            return;
        }
        let extracted = extract(self.mode(), self.st(0));
        if self.accept(Outcome::new(extracted.exponent, extracted.flags)) {
            self.set_st(0, extracted.exponent);
            self.push(extracted.significand);
        }
    }

    /// FSIN and FCOS: `None` is an operand too large to reduce, reported by C2.
    fn trigonometric(&mut self, operation: fn(Control, F80) -> Option<Outcome>) {
        self.status &= !(C1 | C2);
        if self.is_empty(0) {
            if self.stack_underflow() {
                self.set_st(0, F80::INDEFINITE);
            }
            return;
        }
        match operation(self.mode(), self.st(0)) {
            None => self.status |= C2,
            Some(outcome) => {
                if self.accept(outcome) {
                    self.replace_st(0, outcome.value());
                }
            }
        }
    }

    /// FSINCOS and FPTAN.
    fn trigonometric_pair(&mut self, operation: fn(Control, F80) -> Option<(Outcome, F80)>) {
        self.status &= !(C1 | C2);
        if self.pair_faults() {
            return;
        }
        match operation(self.mode(), self.st(0)) {
            None => self.status |= C2,
            Some((outcome, pushed)) => {
                if self.accept(outcome) {
                    self.replace_st(0, outcome.value());
                    self.push(pushed);
                }
            }
        }
    }
}

#[inline]
fn integer(value: i64) -> Outcome {
    Outcome::new(from_integer(value), 0)
}

#[inline(always)]
fn calculate(control: Control, operation: Arithmetic, destination: F80, source: F80) -> Outcome {
    match operation {
        Arithmetic::Add => add(control, destination, source),
        Arithmetic::Mul => multiply(control, destination, source),
        Arithmetic::Sub => subtract(control, destination, source),
        Arithmetic::Subr => subtract(control, source, destination),
        Arithmetic::Div => divide(control, destination, source),
        Arithmetic::Divr => divide(control, source, destination),
    }
}

/// An operation with a source that came from single or double precision, where it may have been a signalling NaN or
/// denormal though it no longer looks like one.
#[inline]
fn with_loaded(
    control: Control,
    source: Outcome,
    destination: F80,
    operation: impl FnOnce(Control, F80, F80) -> Outcome,
) -> Outcome {
    if source.flags() == 0 {
        return operation(control, destination, source.value());
    }
    if source.flags() & IE != 0 {
        if destination.class() == super::Class::Unsupported {
            return INVALID;
        }
        let signaling = F80 { mantissa: source.value().mantissa & !super::f80::QUIET_BIT, ..source.value() };
        return operation(control, destination, signaling);
    }
    let outcome = operation(control, destination, source.value());
    let is_nan = outcome.value().exponent() == super::f80::EXPONENT_MAX && outcome.value().mantissa << 1 != 0;
    if is_nan || outcome.flags() & super::status::ZE != 0 {
        outcome
    } else if denormal_unmasked(control, source.flags()) {
        source
    } else {
        outcome.with(source.flags())
    }
}

/// A constant as the rounding control rounds it. No flag tells that it is inexact.
fn constant_value(control: Control, constant: Constant) -> F80 {
    // The significands truncated, and whether nearest is one more.
    let (exponent, truncated, nearest_is_up) = match constant {
        Constant::One => return F80::ONE,
        Constant::Zero => return F80::ZERO,
        Constant::Log2Of10 => (BIAS + 1, 0xd49a_784b_cd1b_8afe, false),
        Constant::Log2OfE => (BIAS, 0xb8aa_3b29_5c17_f0bb, true),
        Constant::Pi => (BIAS + 1, 0xc90f_daa2_2168_c234, true),
        Constant::Log10Of2 => (BIAS - 2, 0x9a20_9a84_fbcf_f798, true),
        Constant::LnOf2 => (BIAS - 1, 0xb172_17f7_d1cf_79ab, true),
    };
    let up = match control.rounding() {
        RoundingMode::Nearest => nearest_is_up,
        RoundingMode::Up => true,
        RoundingMode::Down | RoundingMode::Truncate => false,
    };
    F80::new(false, exponent as u16, truncated + up as u64)
}
