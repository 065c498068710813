//! Every instruction against the host's.

use super::super::f80::Class;
use super::super::{
    Arithmetic, Constant, EnvironmentLayout, Fpu, FpuOp, FpuStore, IntegerFlags, Operands, SavedState, status,
};
use super::host::{HostInstruction, host};
use super::operands::Random;

/// What to run beside the host's instruction.
#[derive(Clone, Copy, Debug)]
enum Ours {
    Op(FpuOp, usize),
    Store(FpuStore),
    Move(fn(u64) -> bool, usize),
}

const LAYOUT: EnvironmentLayout = EnvironmentLayout::Protected32;
const ALL_CODES: u16 = status::C0 | status::C1 | status::C2 | status::C3;

/// Runs ours: the flags after it.
fn run_ours(unit: &mut Fpu, ours: Ours, memory: &mut [u8; 16], flags: u64) -> u64 {
    match ours {
        Ours::Op(op, sti) => match unit.execute(op, sti, u128::from_le_bytes(*memory)) {
            Some(IntegerFlags { zero, parity, carry }) => {
                (flags & !0x8d5) | (zero as u64) << 6 | (parity as u64) << 2 | carry as u64
            }
            None => flags,
        },
        Ours::Store(store) => {
            let pending = unit.store(store);
            let length = pending.length_bytes;
            memory[..length].copy_from_slice(&pending.bits.to_le_bytes()[..length]);
            unit.commit(pending);
            flags
        }
        Ours::Move(condition, sti) => {
            unit.conditional_move(condition(flags), sti);
            flags
        }
    }
}

struct Tally {
    failures: Vec<String>,
    count: usize,
}

impl Tally {
    fn compare(&mut self, name: &str, ours: Ours, host: HostInstruction, random: &mut Random, defined: u16) {
        let unit = random.unit();
        self.compare_unit(name, ours, host, random, defined, unit);
    }

    fn compare_unit(
        &mut self,
        name: &str,
        ours: Ours,
        host: HostInstruction,
        random: &mut Random,
        defined: u16,
        unit: Fpu,
    ) {
        let mut memory = [0; 16];
        let bits = if random.one_in(2) { random.value().to_bits() } else { memory_operand(random) };
        memory.copy_from_slice(&bits.to_le_bytes());
        // SAHF's flags: SF ZF AF PF CF.
        let flags_before = (random.next() & 0xd5) | 2;

        let mut host_state = unit.saved_state(LAYOUT);
        let (mut host_memory, mut host_flags) = (memory, flags_before << 8);
        host(&mut host_state, &mut host_memory, &mut host_flags);

        let mut after = unit.clone();
        let mut our_memory = memory;
        let our_flags = run_ours(&mut after, ours, &mut our_memory, flags_before);
        let our_state = after.saved_state(LAYOUT);

        let ignored = ALL_CODES & !defined;
        let relevant = |state: &SavedState| {
            let mut state = *state;
            // The pointers are not of interest.
            state[12..28].fill(0);
            let word = u16::from_le_bytes([state[4], state[5]]) & !ignored;
            state[4..6].copy_from_slice(&word.to_le_bytes());
            state
        };
        // Whether a remainder that is the denormal operand itself is an underflow, where that is not masked, processors
        // do not agree: AMD's say yes, Intel's no.
        let tiny = unit.control_word() & status::UE == 0 && unit.st(0).class() == Class::Denormal;
        if name.starts_with("fprem") && tiny {
            return;
        }
        let same = relevant(&host_state) == relevant(&our_state)
            && host_memory == our_memory
            && (host_flags & 0xd5) == (our_flags & 0xd5);
        if !same {
            self.count += 1;
            if self.failures.len() < 4 {
                self.failures.push(format!(
                    "{name} of {} memory {}\n   host {} memory {} flags {:x}\n   ours {} memory {} flags {:x}",
                    describe(&unit.saved_state(LAYOUT)),
                    hex(&memory),
                    describe(&host_state),
                    hex(&host_memory),
                    host_flags & 0xd5,
                    describe(&our_state),
                    hex(&our_memory),
                    our_flags & 0xd5,
                ));
            }
        }
    }
}

fn memory_operand(random: &mut Random) -> u128 {
    let exponent = match random.below(8) {
        0 => 0,
        1 => 0x7ff,
        2 => random.below(0x800),
        _ => 1023 + 70 - random.below(140),
    };
    let double = (random.next() & 1) << 63 | exponent << 52 | random.mantissa() >> 12;
    let exponent = match random.below(8) {
        0 => 0,
        1 => 0xff,
        2 => random.below(0x100),
        _ => 127 + 35 - random.below(70),
    };
    let single = (random.next() & 1) << 31 | exponent << 23 | random.mantissa() >> 41;
    match random.below(4) {
        0 => double as u128,
        1 => single as u128,
        2 => (random.mantissa() as i64 >> random.below(64)) as u128,
        // A packed decimal.
        _ => (0..18).fold((random.next() & 0x80) as u128, |number, _| number << 4 | random.below(10) as u128),
    }
}

fn hex(bytes: &[u8; 16]) -> String {
    format!("{:032x}", u128::from_le_bytes(*bytes))
}

fn describe(state: &SavedState) -> String {
    let half = |offset: usize| u16::from_le_bytes([state[offset], state[offset + 1]]);
    let registers: Vec<String> = (0..8)
        .map(|index| {
            let at = 28 + 10 * index;
            let mantissa = u64::from_le_bytes(state[at..at + 8].try_into().expect("eight bytes"));
            format!("{:04x}.{mantissa:016x}", half(at + 8))
        })
        .collect();
    format!("cw {:04x} sw {:04x} tw {:04x} st {}", half(0), half(4), half(8), registers[..4].join(" "))
}

struct Case {
    name: &'static str,
    ours: Ours,
    host: HostInstruction,
    /// The condition codes that are compared.
    defined: u16,
}

macro_rules! cases {
    ($($text:literal => $ours:expr, $defined:expr;)*) => {
        [$(Case { name: $text, ours: $ours, host: host!($text), defined: $defined }),*]
    };
}

/// Often C1 alone is defined; the others are compared too, since processors agree in leaving them alone.
const KEPT: u16 = ALL_CODES;

fn op(op: FpuOp, sti: usize) -> Ours {
    Ours::Op(op, sti)
}

fn arithmetic(operation: Arithmetic, operands: Operands, sti: usize) -> Ours {
    Ours::Op(FpuOp::Arithmetic(operation, operands), sti)
}

fn check(cases: &[Case], rounds: usize, seed: u64) {
    let mut report = Vec::new();
    for (index, case) in cases.iter().enumerate() {
        let mut random = Random::new(seed + index as u64);
        let mut tally = Tally { failures: Vec::new(), count: 0 };
        for _ in 0..rounds {
            tally.compare(case.name, case.ours, case.host, &mut random, case.defined);
        }
        if tally.count != 0 {
            report.push(format!("{}: {} of {rounds} differ\n{}", case.name, tally.count, tally.failures.join("\n")));
        }
    }
    assert!(report.is_empty(), "{}", report.join("\n\n"));
}

const ROUNDS: usize = 20_000;

#[test]
fn arithmetic_is_the_hosts() {
    use Arithmetic::{Add, Div, Divr, Mul, Sub, Subr};
    use Operands::{I16, I32, M32, M64, St0Sti, StiSt0, StiSt0Pop};
    let cases = cases! {
        "fadd st, st(1)" => arithmetic(Add, St0Sti, 1), KEPT;
        "fmul st, st(1)" => arithmetic(Mul, St0Sti, 1), KEPT;
        ".byte 0xd8, 0xe1" => arithmetic(Sub, St0Sti, 1), KEPT;
        ".byte 0xd8, 0xe9" => arithmetic(Subr, St0Sti, 1), KEPT;
        ".byte 0xd8, 0xf1" => arithmetic(Div, St0Sti, 1), KEPT;
        ".byte 0xd8, 0xf9" => arithmetic(Divr, St0Sti, 1), KEPT;
        ".byte 0xdc, 0xc0" => arithmetic(Add, StiSt0, 0), KEPT;
        ".byte 0xdc, 0xc3" => arithmetic(Add, StiSt0, 3), KEPT;
        ".byte 0xdc, 0xcb" => arithmetic(Mul, StiSt0, 3), KEPT;
        ".byte 0xdc, 0xeb" => arithmetic(Sub, StiSt0, 3), KEPT;
        ".byte 0xdc, 0xe3" => arithmetic(Subr, StiSt0, 3), KEPT;
        ".byte 0xdc, 0xfb" => arithmetic(Div, StiSt0, 3), KEPT;
        ".byte 0xdc, 0xf3" => arithmetic(Divr, StiSt0, 3), KEPT;
        ".byte 0xde, 0xc0" => arithmetic(Add, StiSt0Pop, 0), KEPT;
        ".byte 0xde, 0xc1" => arithmetic(Add, StiSt0Pop, 1), KEPT;
        ".byte 0xde, 0xc9" => arithmetic(Mul, StiSt0Pop, 1), KEPT;
        ".byte 0xde, 0xe9" => arithmetic(Sub, StiSt0Pop, 1), KEPT;
        ".byte 0xde, 0xe1" => arithmetic(Subr, StiSt0Pop, 1), KEPT;
        ".byte 0xde, 0xf9" => arithmetic(Div, StiSt0Pop, 1), KEPT;
        ".byte 0xde, 0xf1" => arithmetic(Divr, StiSt0Pop, 1), KEPT;
        "fadd dword ptr [rcx]" => arithmetic(Add, M32, 0), KEPT;
        "fmul dword ptr [rcx]" => arithmetic(Mul, M32, 0), KEPT;
        "fsub dword ptr [rcx]" => arithmetic(Sub, M32, 0), KEPT;
        "fsubr dword ptr [rcx]" => arithmetic(Subr, M32, 0), KEPT;
        "fdiv dword ptr [rcx]" => arithmetic(Div, M32, 0), KEPT;
        "fdivr dword ptr [rcx]" => arithmetic(Divr, M32, 0), KEPT;
        "fadd qword ptr [rcx]" => arithmetic(Add, M64, 0), KEPT;
        "fmul qword ptr [rcx]" => arithmetic(Mul, M64, 0), KEPT;
        "fsub qword ptr [rcx]" => arithmetic(Sub, M64, 0), KEPT;
        "fsubr qword ptr [rcx]" => arithmetic(Subr, M64, 0), KEPT;
        "fdiv qword ptr [rcx]" => arithmetic(Div, M64, 0), KEPT;
        "fdivr qword ptr [rcx]" => arithmetic(Divr, M64, 0), KEPT;
        "fiadd word ptr [rcx]" => arithmetic(Add, I16, 0), KEPT;
        "fimul word ptr [rcx]" => arithmetic(Mul, I16, 0), KEPT;
        "fisub word ptr [rcx]" => arithmetic(Sub, I16, 0), KEPT;
        "fisubr word ptr [rcx]" => arithmetic(Subr, I16, 0), KEPT;
        "fidiv word ptr [rcx]" => arithmetic(Div, I16, 0), KEPT;
        "fidivr word ptr [rcx]" => arithmetic(Divr, I16, 0), KEPT;
        "fiadd dword ptr [rcx]" => arithmetic(Add, I32, 0), KEPT;
        "fimul dword ptr [rcx]" => arithmetic(Mul, I32, 0), KEPT;
        "fisub dword ptr [rcx]" => arithmetic(Sub, I32, 0), KEPT;
        "fisubr dword ptr [rcx]" => arithmetic(Subr, I32, 0), KEPT;
        "fidiv dword ptr [rcx]" => arithmetic(Div, I32, 0), KEPT;
        "fidivr dword ptr [rcx]" => arithmetic(Divr, I32, 0), KEPT;
        "fsqrt" => op(FpuOp::Fsqrt, 0), KEPT;
    };
    check(&cases, ROUNDS, 1);
}

#[test]
fn exponents_and_remainders_are_the_hosts() {
    let cases = cases! {
        "frndint" => op(FpuOp::Frndint, 0), KEPT;
        "fscale" => op(FpuOp::Fscale, 0), KEPT;
        "fxtract" => op(FpuOp::Fxtract, 0), KEPT;
        "fprem" => op(FpuOp::Fprem, 0), KEPT;
        "fprem1" => op(FpuOp::Fprem1, 0), KEPT;
        "fchs" => op(FpuOp::Fchs, 0), KEPT;
        "fabs" => op(FpuOp::Fabs, 0), KEPT;
    };
    check(&cases, ROUNDS, 2);
}

#[test]
fn comparisons_are_the_hosts() {
    let cases = cases! {
        ".byte 0xd8, 0xd1" => op(FpuOp::FcomSti, 1), KEPT;
        ".byte 0xd8, 0xdb" => op(FpuOp::FcompSti, 3), KEPT;
        ".byte 0xdc, 0xd3" => op(FpuOp::FcomSti, 3), KEPT;
        ".byte 0xdc, 0xdb" => op(FpuOp::FcompSti, 3), KEPT;
        ".byte 0xde, 0xd3" => op(FpuOp::FcompSti, 3), KEPT;
        "fcom dword ptr [rcx]" => op(FpuOp::FcomM32, 0), KEPT;
        "fcomp dword ptr [rcx]" => op(FpuOp::FcompM32, 0), KEPT;
        "fcom qword ptr [rcx]" => op(FpuOp::FcomM64, 0), KEPT;
        "fcomp qword ptr [rcx]" => op(FpuOp::FcompM64, 0), KEPT;
        "ficom word ptr [rcx]" => op(FpuOp::FicomM16, 0), KEPT;
        "ficomp word ptr [rcx]" => op(FpuOp::FicompM16, 0), KEPT;
        "ficom dword ptr [rcx]" => op(FpuOp::FicomM32, 0), KEPT;
        "ficomp dword ptr [rcx]" => op(FpuOp::FicompM32, 0), KEPT;
        "fcompp" => op(FpuOp::Fcompp, 1), KEPT;
        "fucom st(1)" => op(FpuOp::FucomSti, 1), KEPT;
        "fucomp st(3)" => op(FpuOp::FucompSti, 3), KEPT;
        "fucompp" => op(FpuOp::Fucompp, 1), KEPT;
        "fcomi st, st(1)" => op(FpuOp::Fcomi, 1), KEPT;
        ".byte 0xdf, 0xf1" => op(FpuOp::Fcomip, 1), KEPT;
        "fucomi st, st(1)" => op(FpuOp::Fucomi, 1), KEPT;
        ".byte 0xdf, 0xe9" => op(FpuOp::Fucomip, 1), KEPT;
        "ftst" => op(FpuOp::Ftst, 0), KEPT;
        "fxam" => op(FpuOp::Fxam, 0), KEPT;
    };
    check(&cases, ROUNDS, 3);
}

#[test]
fn loads_are_the_hosts() {
    let cases = cases! {
        "fld st(0)" => op(FpuOp::FldSti, 0), KEPT;
        "fld st(3)" => op(FpuOp::FldSti, 3), KEPT;
        "fld dword ptr [rcx]" => op(FpuOp::FldM32, 0), KEPT;
        "fld qword ptr [rcx]" => op(FpuOp::FldM64, 0), KEPT;
        "fld tbyte ptr [rcx]" => op(FpuOp::FldM80, 0), KEPT;
        "fild word ptr [rcx]" => op(FpuOp::FildM16, 0), KEPT;
        "fild dword ptr [rcx]" => op(FpuOp::FildM32, 0), KEPT;
        "fild qword ptr [rcx]" => op(FpuOp::FildM64, 0), KEPT;
        "fbld tbyte ptr [rcx]" => op(FpuOp::Fbld, 0), KEPT;
        "fld1" => op(FpuOp::FldConstant(Constant::One), 0), KEPT;
        "fldl2t" => op(FpuOp::FldConstant(Constant::Log2Of10), 0), KEPT;
        "fldl2e" => op(FpuOp::FldConstant(Constant::Log2OfE), 0), KEPT;
        "fldpi" => op(FpuOp::FldConstant(Constant::Pi), 0), KEPT;
        "fldlg2" => op(FpuOp::FldConstant(Constant::Log10Of2), 0), KEPT;
        "fldln2" => op(FpuOp::FldConstant(Constant::LnOf2), 0), KEPT;
        "fldz" => op(FpuOp::FldConstant(Constant::Zero), 0), KEPT;
    };
    check(&cases, ROUNDS, 4);
}

#[test]
fn stores_are_the_hosts() {
    let cases = cases! {
        "fst dword ptr [rcx]" => Ours::Store(FpuStore::FstM32), KEPT;
        "fstp dword ptr [rcx]" => Ours::Store(FpuStore::FstpM32), KEPT;
        "fst qword ptr [rcx]" => Ours::Store(FpuStore::FstM64), KEPT;
        "fstp qword ptr [rcx]" => Ours::Store(FpuStore::FstpM64), KEPT;
        "fstp tbyte ptr [rcx]" => Ours::Store(FpuStore::FstpM80), KEPT;
        "fist word ptr [rcx]" => Ours::Store(FpuStore::FistM16), KEPT;
        "fistp word ptr [rcx]" => Ours::Store(FpuStore::FistpM16), KEPT;
        "fist dword ptr [rcx]" => Ours::Store(FpuStore::FistM32), KEPT;
        "fistp dword ptr [rcx]" => Ours::Store(FpuStore::FistpM32), KEPT;
        "fistp qword ptr [rcx]" => Ours::Store(FpuStore::FistpM64), KEPT;
        "fisttp word ptr [rcx]" => Ours::Store(FpuStore::FisttpM16), KEPT;
        "fisttp dword ptr [rcx]" => Ours::Store(FpuStore::FisttpM32), KEPT;
        "fisttp qword ptr [rcx]" => Ours::Store(FpuStore::FisttpM64), KEPT;
        "fbstp tbyte ptr [rcx]" => Ours::Store(FpuStore::Fbstp), KEPT;
        "fst st(3)" => op(FpuOp::FstSti, 3), KEPT;
        "fstp st(0)" => op(FpuOp::FstpSti, 0), KEPT;
        "fstp st(3)" => op(FpuOp::FstpSti, 3), KEPT;
    };
    check(&cases, ROUNDS, 5);
}

#[test]
fn stack_and_control_are_the_hosts() {
    let carry = |flags: u64| flags & 1 != 0;
    let zero = |flags: u64| flags & 0x40 != 0;
    let either = |flags: u64| flags & 0x41 != 0;
    let parity = |flags: u64| flags & 4 != 0;
    let not_carry = |flags: u64| flags & 1 == 0;
    let not_zero = |flags: u64| flags & 0x40 == 0;
    let neither = |flags: u64| flags & 0x41 == 0;
    let not_parity = |flags: u64| flags & 4 == 0;
    let cases = cases! {
        ".byte 0xd9, 0xdb" => op(FpuOp::FstpnceSti, 3), KEPT;
        ".byte 0xd9, 0xd8" => op(FpuOp::FstpnceSti, 0), KEPT;
        ".byte 0xdd, 0xcb" => op(FpuOp::Fxch, 3), KEPT;
        ".byte 0xdf, 0xcb" => op(FpuOp::Fxch, 3), KEPT;
        ".byte 0xdf, 0xd3" => op(FpuOp::FstpSti, 3), KEPT;
        ".byte 0xdf, 0xdb" => op(FpuOp::FstpSti, 3), KEPT;
        "fxch st(0)" => op(FpuOp::Fxch, 0), KEPT;
        "fxch st(3)" => op(FpuOp::Fxch, 3), KEPT;
        "ffree st(3)" => op(FpuOp::Ffree, 3), KEPT;
        ".byte 0xdf, 0xc0" => op(FpuOp::Ffreep, 0), KEPT;
        ".byte 0xdf, 0xc3" => op(FpuOp::Ffreep, 3), KEPT;
        "fincstp" => op(FpuOp::Fincstp, 0), KEPT;
        "fdecstp" => op(FpuOp::Fdecstp, 0), KEPT;
        "fnop" => op(FpuOp::Fnop, 0), KEPT;
        "fcmovb st, st(1)" => Ours::Move(carry, 1), KEPT;
        "fcmove st, st(1)" => Ours::Move(zero, 1), KEPT;
        "fcmovbe st, st(3)" => Ours::Move(either, 3), KEPT;
        "fcmovu st, st(3)" => Ours::Move(parity, 3), KEPT;
        "fcmovnb st, st(3)" => Ours::Move(not_carry, 3), KEPT;
        "fcmovne st, st(3)" => Ours::Move(not_zero, 3), KEPT;
        "fcmovnbe st, st(3)" => Ours::Move(neither, 3), KEPT;
        "fcmovnu st, st(3)" => Ours::Move(not_parity, 3), KEPT;
        "fninit" => op(FpuOp::Fninit, 0), KEPT;
        "fnclex" => op(FpuOp::Fnclex, 0), KEPT;
        "fldcw word ptr [rcx]" => op(FpuOp::Fldcw, 0), KEPT;
    };
    check(&cases, ROUNDS, 6);
}
