//! Decoding: from bytes to [`Op`]s.
//!
//! `iced-x86` says what the bytes mean; here each instruction gets its handler. Operands are put where handlers expect
//! them: the register that is operand 0 in `dst`, operand 1 in `src`, operand 2 in `extra`; a memory operand's parts in
//! `base`, `index`, `scale`, `disp`, `seg`, `asize`; an immediate, sign-extended as the instruction has it, in `imm`.

mod integer;
mod stack;

use iced_x86::{Code, CodeSize, Decoder, DecoderError, DecoderOptions, Instruction, OpKind, Register};

use crate::cpu::{Cpu, vector};
use crate::exec::fused::Compare;
use crate::op::{Flow, HIGH, Handler, Op, START, ZERO, seg};

/// What the meaning of bytes depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Mode {
    /// 16, 32 or 64.
    pub bits: u8,
    /// One instruction a block: something has to be looked at after each.
    pub single: bool,
}

/// Longest instruction (Intel SDM volume 2, 2.3.11).
pub const LEN_MAX: usize = 15;

/// An instruction.
pub struct Lowered {
    /// What carries it out.
    pub op: Op,
    /// It may be followed by another in its block.
    pub goes_on: bool,
    /// What it may be a part of.
    pub part: Part,
}

/// Instructions that are made one with their neighbour.
#[derive(Clone, Copy, Debug)]
pub enum Part {
    /// None of them.
    No,
    /// The first of two.
    Compare(Compare),
    /// The second: a branch on that condition.
    Branch(u8),
}

/// Whether and how bytes make an instruction.
pub enum Decoded {
    /// They do.
    One(Lowered),
    /// They end before it does.
    More,
}

/// Decodes the instruction at the start of `bytes`, `at` bytes behind the begin of its block.
pub fn decode(bytes: &[u8], at: u16, mode: Mode) -> Decoded {
    let mut decoder = Decoder::with_ip(mode.bits.into(), bytes, at.into(), DecoderOptions::NONE);
    let instruction = decoder.decode();
    if instruction.is_invalid() {
        if decoder.last_error() == DecoderError::NoMoreBytes && bytes.len() < LEN_MAX {
            return Decoded::More;
        }
        let run: Handler = if is_too_long(bytes, mode) { too_long } else { undefined };
        let len = instruction.len().clamp(1, LEN_MAX) as u8;
        return Decoded::One(Lowered {
            op: Op { run, len, next: at + u16::from(len), ..blank() },
            goes_on: false,
            part: Part::No,
        });
    }
    let mut op = operands(&instruction, at);
    let handler = lower(&instruction, &mut op, mode).unwrap_or(undefined);
    op.run = handler;
    Decoded::One(Lowered { op, goes_on: !ends_block(&instruction, handler), part: part(&instruction, mode) })
}

fn part(instruction: &Instruction, mode: Mode) -> Part {
    use iced_x86::Mnemonic as M;
    if mode.bits != 64 {
        return Part::No;
    }
    if instruction.is_jcc_short_or_near() && instruction.op0_kind() == OpKind::NearBranch64 {
        return Part::Branch(instruction.condition_code() as u8 - 1);
    }
    let tests = instruction.mnemonic() == M::Test;
    let compares = tests || instruction.mnemonic() == M::Cmp;
    if !compares || is_memory(instruction, 0) || is_memory(instruction, 1) {
        return Part::No;
    }
    Part::Compare(Compare { tests, immediate: is_immediate(instruction, 1), bytes: size(instruction) })
}

/// Whether bytes that are no instruction are more than one can have. The decoder does not tell, but it misses a byte even
/// without the last one that it may look at.
fn is_too_long(bytes: &[u8], mode: Mode) -> bool {
    let Some(short) = bytes.get(..LEN_MAX - 1) else { return false };
    let mut decoder = Decoder::new(mode.bits.into(), short, DecoderOptions::NONE);
    decoder.decode().is_invalid() && bytes.len() >= LEN_MAX && decoder.last_error() == DecoderError::NoMoreBytes
}

/// The handler of an instruction, from the group that knows it.
fn lower(instruction: &Instruction, op: &mut Op, mode: Mode) -> Option<Handler> {
    integer::lower(instruction, op, mode)
        .or_else(|| stack::lower(instruction, op, mode))
        .or_else(|| crate::system::lower(instruction, op, mode))
        .or_else(|| crate::exec::string::lower(instruction, op, mode))
        .or_else(|| crate::exec::x87::lower(instruction, op, mode))
        .or_else(|| crate::exec::sse::lower(instruction, op, mode))
}

/// Whether nothing can follow it in a block: it goes elsewhere, or changes what decoding depends on.
fn ends_block(instruction: &Instruction, handler: Handler) -> bool {
    use iced_x86::{FlowControl, Mnemonic as M};
    // Handlers are told apart by address, which is right for these two: nothing else is ever merged with them.
    if std::ptr::fn_addr_eq(handler, undefined as Handler) {
        return true;
    }
    instruction.flow_control() != FlowControl::Next
        || matches!(
            instruction.mnemonic(),
            M::Sti
                | M::Cli
                | M::Popf
                | M::Popfd
                | M::Popfq
                | M::Hlt
                | M::Clac
                | M::Stac
                | M::Lmsw
                | M::Clts
                | M::Wrmsr
                | M::Invlpg
                | M::Invpcid
                | M::Xsetbv
                | M::In
                | M::Out
                | M::Insb
                | M::Insw
                | M::Insd
                | M::Outsb
                | M::Outsw
                | M::Outsd
                | M::Swapgs
                | M::Pause
                | M::Lds
                | M::Les
                | M::Lss
                | M::Lfs
                | M::Lgs
                | M::Xrstor
                | M::Fxrstor
                | M::Ldmxcsr
                | M::Lgdt
                | M::Lidt
                | M::Lldt
                | M::Ltr
        )
        || (0..instruction.op_count().min(2)).any(|operand| {
            let register = if instruction.op_kind(operand) == OpKind::Register {
                instruction.op_register(operand)
            } else {
                Register::None
            };
            register.is_cr() || register.is_dr() || (operand == 0 && register.is_segment_register())
        })
}

fn blank() -> Op {
    Op {
        run: undefined,
        imm: 0,
        disp: 0,
        dst: ZERO,
        src: ZERO,
        base: ZERO,
        index: ZERO,
        scale: 0,
        seg: seg::DS,
        asize: 2,
        extra: 0,
        len: 0,
        next: 0,
    }
}

/// #UD.
pub fn undefined(cpu: &mut Cpu, _op: &Op) -> Flow {
    cpu.raise(vector::UD);
    Flow::Trap
}

/// More than 15 bytes.
fn too_long(cpu: &mut Cpu, _op: &Op) -> Flow {
    cpu.gp();
    Flow::Trap
}

/// The operands, where handlers expect them.
fn operands(instruction: &Instruction, at: u16) -> Op {
    let len = instruction.len() as u8;
    let mut op = Op { len, next: at + u16::from(len), ..blank() };
    for operand in 0..instruction.op_count() {
        match instruction.op_kind(operand) {
            OpKind::Register => {
                let number = number(instruction.op_register(operand));
                match operand {
                    0 => op.dst = number,
                    1 => op.src = number,
                    _ => op.extra = number,
                }
            }
            OpKind::NearBranch16 => op.imm = instruction.near_branch16().into(),
            OpKind::NearBranch32 => op.imm = instruction.near_branch32().into(),
            OpKind::NearBranch64 => op.imm = instruction.near_branch64(),
            OpKind::FarBranch16 => {
                op.imm = instruction.far_branch16().into();
                op.disp = instruction.far_branch_selector().into();
            }
            OpKind::FarBranch32 => {
                op.imm = instruction.far_branch32().into();
                op.disp = instruction.far_branch_selector().into();
            }
            OpKind::Memory => memory(instruction, &mut op),
            OpKind::MemorySegSI | OpKind::MemorySegDI | OpKind::MemoryESDI => op.asize = 0,
            OpKind::MemorySegESI | OpKind::MemorySegEDI | OpKind::MemoryESEDI => op.asize = 1,
            OpKind::MemorySegRSI | OpKind::MemorySegRDI | OpKind::MemoryESRDI => op.asize = 2,
            // ENTER and EXTRQ have two; the second is a byte.
            OpKind::Immediate8_2nd => op.extra = instruction.immediate8_2nd(),
            _ => op.imm = instruction.immediate(operand),
        }
        if let OpKind::MemorySegSI
        | OpKind::MemorySegESI
        | OpKind::MemorySegRSI
        | OpKind::MemorySegDI
        | OpKind::MemorySegEDI
        | OpKind::MemorySegRDI = instruction.op_kind(operand)
        {
            op.seg = segment(instruction, Register::None);
        }
    }
    op
}

fn memory(instruction: &Instruction, op: &mut Op) {
    let (base, index) = (instruction.memory_base(), instruction.memory_index());
    op.seg = segment(instruction, base);
    op.disp = instruction.memory_displacement64();
    op.scale = instruction.memory_index_scale().trailing_zeros() as u8;
    if instruction.is_ip_rel_memory_operand() {
        // The displacement is from the begin of the block then.
        op.base = START;
        op.asize = if base == Register::EIP { 1 } else { 2 };
        return;
    }
    if base != Register::None {
        op.base = number(base);
    }
    if index != Register::None {
        op.index = number(index);
    }
    let any = if base == Register::None { index } else { base };
    op.asize = match any.size() {
        2 => 0,
        4 => 1,
        8 => 2,
        // Only a displacement: its size is the address size.
        _ => match instruction.memory_displ_size() {
            2 => 0,
            4 => 1,
            _ => 2,
        },
    };
}

/// The segment of an operand in memory. In 64-bit mode the prefixes of all but FS and GS mean nothing, and do not even
/// choose between #SS and #GP (Intel SDM volume 1, 3.4.2.1).
fn segment(instruction: &Instruction, base: Register) -> u8 {
    let named = number(instruction.memory_segment());
    if instruction.code_size() != CodeSize::Code64 || matches!(named, seg::FS | seg::GS) {
        return named;
    }
    let is_stack = matches!(base, Register::RSP | Register::ESP | Register::RBP | Register::EBP);
    if is_stack { seg::SS } else { seg::DS }
}

/// The number of a register within its kind; bytes 8 to 15 of a general one with [`HIGH`].
pub fn number(register: Register) -> u8 {
    match register {
        Register::AH => HIGH,
        Register::CH => HIGH | 1,
        Register::DH => HIGH | 2,
        Register::BH => HIGH | 3,
        // Without AH to BH in between, SPL comes after BL.
        register if register.is_gpr8() => {
            let number = register as u32 - Register::AL as u32;
            (if number >= 8 { number - 4 } else { number }) as u8
        }
        Register::None => ZERO,
        register => register.number() as u8,
    }
}

/// Bytes of the operand that says how large the instruction's work is: the first that has a size.
pub fn size(instruction: &Instruction) -> usize {
    let of = |operand: u32| match instruction.op_kind(operand) {
        OpKind::Register => instruction.op_register(operand).size(),
        OpKind::Memory
        | OpKind::MemorySegSI
        | OpKind::MemorySegESI
        | OpKind::MemorySegRSI
        | OpKind::MemorySegDI
        | OpKind::MemorySegEDI
        | OpKind::MemorySegRDI
        | OpKind::MemoryESDI
        | OpKind::MemoryESEDI
        | OpKind::MemoryESRDI => instruction.memory_size().size(),
        _ => 0,
    };
    (0..instruction.op_count()).map(of).find(|size| *size > 0).unwrap_or_default()
}

/// Whether operand 0, or any, is in memory.
pub fn is_memory(instruction: &Instruction, operand: u32) -> bool {
    operand < instruction.op_count() && instruction.op_kind(operand) == OpKind::Memory
}

/// Whether it is an immediate.
pub fn is_immediate(instruction: &Instruction, operand: u32) -> bool {
    operand < instruction.op_count()
        && matches!(
            instruction.op_kind(operand),
            OpKind::Immediate8
                | OpKind::Immediate16
                | OpKind::Immediate32
                | OpKind::Immediate64
                | OpKind::Immediate8to16
                | OpKind::Immediate8to32
                | OpKind::Immediate8to64
                | OpKind::Immediate32to64
        )
}

/// Whether the code of an instruction is one of these.
pub fn is_one_of(instruction: &Instruction, codes: &[Code]) -> bool {
    codes.contains(&instruction.code())
}

/// Which [`Place`](crate::exec::Place) a memory operand is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Anywhere.
    Anywhere,
    /// Flat, by a base and a displacement.
    Based,
    /// Flat, with an index.
    Indexed,
}

/// How the memory operand of `op` is reached.
pub fn reach(op: &Op, mode: Mode) -> Reach {
    // FS and GS have bases in 64-bit mode, too.
    match mode.bits == 64 && op.asize == 2 && op.seg < seg::FS {
        false => Reach::Anywhere,
        true if op.index == ZERO => Reach::Based,
        true => Reach::Indexed,
    }
}

/// The handler for an operand size and a way to memory, from one that is generic over both, the way being last.
#[macro_export]
macro_rules! placed {
    ($reach:expr, $size:expr, $($handler:tt)::+ $(, $more:ty)*) => {
        match $reach {
            $crate::lower::Reach::Anywhere => $crate::sized!($size, $($handler)::+ $(, $more)*, $crate::exec::Anywhere),
            $crate::lower::Reach::Based => $crate::sized!($size, $($handler)::+ $(, $more)*, $crate::exec::Flat<false>),
            $crate::lower::Reach::Indexed => $crate::sized!($size, $($handler)::+ $(, $more)*, $crate::exec::Flat<true>),
        }
    };
}

/// The handler for an operand size, from one that is generic over [`Int`](crate::op::Int).
#[macro_export]
macro_rules! sized {
    ($size:expr, $($handler:tt)::+ $(, $more:ty)*) => {
        match $size {
            1 => $($handler)::+::<u8 $(, $more)*> as $crate::op::Handler,
            2 => $($handler)::+::<u16 $(, $more)*> as $crate::op::Handler,
            4 => $($handler)::+::<u32 $(, $more)*> as $crate::op::Handler,
            _ => $($handler)::+::<u64 $(, $more)*> as $crate::op::Handler,
        }
    };
}

/// Ends a handler when something could not be done.
#[macro_export]
macro_rules! attempt {
    ($result:expr) => {
        match $result {
            Ok(value) => value,
            Err($crate::cpu::Trap) => return $crate::op::Flow::Trap,
        }
    };
}
