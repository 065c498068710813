//! Random programs: instructions of all forms, with branches, loops that end, calls, and stack and string operations.
//!
//! Flags that the manual leaves undefined are never consumed: before an instruction that reads one of them there is a CMP,
//! which defines all. What is undefined at each place is kept, for whoever compares there.

use std::ops::Range;

use iced_x86::{FlowControl, Instruction, InstructionInfoFactory, Mnemonic as M, OpKind, Register, RflagsBits as R};

use crate::forms::{Forms, decode};
use crate::layout::{Bits, CODE, DATA, STACK, linear};
use crate::pair::INT3;
use crate::random::Random;
use crate::table;

/// Numbers of registers, as MOV register, immediate has them.
mod reg {
    pub const CX: u8 = 1;
    pub const BX: u8 = 3;
    pub const SP: u8 = 4;
    pub const BP: u8 = 5;
    pub const SI: u8 = 6;
    pub const DI: u8 = 7;
}

/// Where loops count: before all other data.
const CELLS: usize = DATA.start;
/// Where operands are; what an instruction reaches from there is data, too.
const OPERANDS: Range<usize> = DATA.start + 0x800..DATA.end - 0x800;
/// Where the stack begins in each part of a program.
const STACK_BEGIN: usize = STACK.start + 0x1000;
/// Bytes that a program keeps free at its end.
const ROOM: usize = 0x200;
const DEPTH_MAX: usize = 3;
const FUNCTIONS: usize = 4;

/// An instruction that a program may have.
struct Piece {
    bytes: Vec<u8>,
    instruction: Instruction,
}

/// What programs are made of: the forms, and encodings of each.
pub struct Pieces {
    bits: Bits,
    forms: Vec<Vec<Piece>>,
}

impl Pieces {
    pub fn new(bits: Bits, forms: &Forms) -> Self {
        let piece = |bytes: &Vec<u8>| Piece { bytes: bytes.clone(), instruction: decode(bits, bytes) };
        let forms = forms
            .encodings
            .values()
            .map(|encodings| {
                encodings.iter().map(piece).filter(|piece| is_for_programs(&piece.instruction)).collect::<Vec<_>>()
            })
            .filter(|pieces| !pieces.is_empty())
            .collect();
        Self { bits, forms }
    }

    pub fn count_forms(&self) -> usize {
        self.forms.len()
    }
}

/// Whether it may be anywhere in a program, if its operand in memory is placed before.
fn is_for_programs(instruction: &Instruction) -> bool {
    if instruction.flow_control() != FlowControl::Next
        || instruction.is_privileged()
        || table::left_out_of_programs(instruction).is_some()
    {
        return false;
    }
    let mut factory = InstructionInfoFactory::new();
    let used = factory
        .info(instruction)
        .used_registers()
        .iter()
        .any(|used| used.register().is_gpr() && used.register().full_register() == Register::RSP);
    let named = (0..instruction.op_count()).any(|operand| {
        instruction.op_kind(operand) == OpKind::Register
            && instruction.op_register(operand).is_gpr()
            && instruction.op_register(operand).full_register() == Register::RSP
    });
    let is_stack =
        matches!(instruction.mnemonic(), M::Push | M::Pop | M::Pushf | M::Pushfd | M::Pushfq | M::Pusha | M::Pushad);
    !used || (is_stack && !named)
}

/// A program, at the begin of the pages for code.
pub struct Program {
    pub bytes: Vec<u8>,
    /// Flags that are undefined before the instruction at each place, as bits of RFLAGS.
    undefined: Vec<u64>,
}

impl Program {
    /// What is undefined before the instruction at a linear address.
    pub fn undefined_at(&self, address: u64) -> u64 {
        let at = address.wrapping_sub(linear(CODE.start)) as usize;
        self.undefined.get(at).copied().unwrap_or_default()
    }
}

/// Makes programs.
struct Maker<'a> {
    random: &'a mut Random,
    pieces: &'a Pieces,
    bytes: Vec<u8>,
    undefined: Vec<u64>,
    /// What is undefined here, as the decoder names flags.
    now: u32,
    functions: Vec<usize>,
    depth: usize,
    /// Where instructions were put since the last stop.
    since_stop: usize,
}

/// One that ends by itself.
pub fn program(random: &mut Random, pieces: &Pieces) -> Program {
    let mut maker = Maker {
        random,
        pieces,
        bytes: Vec::new(),
        undefined: Vec::new(),
        now: 0,
        functions: Vec::new(),
        depth: 0,
        since_stop: 0,
    };
    // Over the functions, which come first so that it is known where they are.
    let over = maker.jump();
    for _ in 0..FUNCTIONS {
        let begin = maker.bytes.len();
        maker.straight(6);
        maker.define();
        let skip = if maker.random.below(2) == 0 { 0u16 } else { 16 };
        if skip == 0 {
            maker.put(&[0xc3])
        } else {
            maker.put(&[0xc2, skip as u8, 0])
        }
        maker.functions.push(begin);
    }
    maker.land(over);
    while maker.bytes.len() < CODE.len() - ROOM {
        maker.part();
    }
    maker.define();
    maker.put(&[INT3]);
    Program { bytes: maker.bytes, undefined: maker.undefined }
}

impl Maker<'_> {
    fn put(&mut self, bytes: &[u8]) {
        let undefined = table::rflags(self.now);
        self.undefined.resize(self.bytes.len() + bytes.len(), undefined);
        self.bytes.extend_from_slice(bytes);
        self.since_stop += 1;
    }

    fn set(&mut self, register: u8, value: u32) {
        self.put(&[&[0xb8 | register][..], &value.to_le_bytes()].concat());
    }

    /// CMP of two registers: all flags are defined.
    fn define(&mut self) {
        if self.now != 0 {
            let operands = 0xc0 | self.random.below(64) as u8;
            self.put(&[0x39, operands]);
            self.now = 0;
        }
    }

    /// Something, and a stop now and then.
    fn part(&mut self) {
        match self.random.below(16) {
            0 => self.branch(),
            1 => self.repeat(),
            2 => self.call(),
            3 => self.count_down(),
            4 => self.frame(),
            5 => self.load_flags(),
            6 => self.control(),
            _ => self.straight(4),
        }
        if self.depth == 0 && self.since_stop > 48 {
            self.define();
            self.put(&[INT3]);
            let begin = linear(STACK_BEGIN) as u32 + 8 * self.random.below(64) as u32;
            self.set(reg::SP, begin);
            self.since_stop = 0;
        }
    }

    fn straight(&mut self, most: u64) {
        for _ in 0..=self.random.below(most) {
            self.piece();
        }
    }

    /// An instruction of any form, its operand in memory placed.
    fn piece(&mut self) {
        let pieces = self.pieces;
        let form = &pieces.forms[self.random.below(pieces.forms.len() as u64) as usize];
        let Piece { bytes, instruction } = &form[self.random.below(form.len() as u64) as usize];
        if self.functions.len() < FUNCTIONS && instruction.is_stack_instruction() {
            // Its RET would find something else.
            return;
        }
        if instruction.rflags_read() & self.now != 0 {
            self.define();
        }
        let bytes = self.placed(bytes, instruction);
        self.put(&bytes);
        let by_count = instruction.has_rep_prefix()
            || instruction.has_repne_prefix()
            || (instruction.op_count() > 1 && instruction.op_register(instruction.op_count() - 1) == Register::CL);
        if !by_count {
            self.now &= !(instruction.rflags_written() | instruction.rflags_cleared() | instruction.rflags_set());
        }
        self.now |= instruction.rflags_undefined();
    }

    fn operand(&mut self) -> u32 {
        let at = OPERANDS.start + self.random.below(OPERANDS.len() as u64) as usize;
        // What has to be aligned is, mostly.
        let mask = if self.random.below(8) == 0 { 0 } else { 15 };
        linear(at & !mask) as u32
    }

    /// Makes an operand in memory lie in the data, in one of the ways that there are to name it.
    fn placed(&mut self, bytes: &[u8], instruction: &Instruction) -> Vec<u8> {
        let is_string = instruction.is_string_instruction();
        if is_string || matches!(instruction.mnemonic(), M::Maskmovq | M::Maskmovdqu) {
            let (source, target) = (self.operand(), self.operand());
            self.set(reg::SI, source);
            self.set(reg::DI, target);
            if instruction.has_rep_prefix() || instruction.has_repne_prefix() {
                let count = self.random.below(40) as u32;
                self.set(reg::CX, count);
            }
            return bytes.to_vec();
        }
        if instruction.mnemonic() == M::Xlatb {
            let table = self.operand();
            self.set(reg::BX, table);
            return bytes.to_vec();
        }
        let is_placed = instruction.op_kinds().any(|kind| kind == OpKind::Memory)
            && instruction.memory_base().full_register() == Register::RSI;
        if !is_placed {
            return bytes.to_vec();
        }
        let address = self.operand();
        let Some(at) = modrm(self.pieces.bits, bytes) else {
            self.set(reg::SI, address);
            return bytes.to_vec();
        };
        let (before, mode, after) = (&bytes[..at], bytes[at] & 0x38, &bytes[at + 1..]);
        let near = self.random.below(0x80) as u32;
        let far = self.random.below(0x10_0000) as u32;
        let mut placed = Vec::new();
        match self.random.below(6) {
            0 => {
                self.set(reg::SI, address);
                placed.extend_from_slice(before);
                placed.push(mode | 6);
            }
            1 => {
                self.set(reg::SI, address + near);
                placed.extend_from_slice(before);
                placed.extend([mode | 0x46, near.wrapping_neg() as u8]);
            }
            2 => {
                self.set(reg::SI, address - far);
                placed.extend_from_slice(before);
                placed.push(mode | 0x86);
                placed.extend(far.to_le_bytes());
            }
            3 => {
                // [RSI + RDI * scale + displacement]
                let scale = self.random.below(4) as u8;
                self.set(reg::DI, near);
                self.set(reg::SI, address - (near << scale) - far);
                placed.extend_from_slice(before);
                placed.extend([mode | 0x84, scale << 6 | reg::DI << 3 | reg::SI]);
                placed.extend(far.to_le_bytes());
            }
            4 => {
                // Relative to RIP; outside 64-bit mode, the address itself.
                placed.extend_from_slice(before);
                placed.push(mode | 5);
                let next = linear(CODE.start + self.bytes.len() + placed.len() + 4 + after.len()) as u32;
                let from = if self.pieces.bits == Bits::B64 { next } else { 0 };
                placed.extend(address.wrapping_sub(from).to_le_bytes());
            }
            _ => {
                // With addresses of the other size, where those reach as far.
                let other: &[u8] = if self.pieces.bits == Bits::B64 { &[0x67] } else { &[] };
                self.set(reg::SI, address);
                placed.extend_from_slice(other);
                placed.extend_from_slice(before);
                placed.push(mode | 6);
            }
        }
        placed.extend_from_slice(after);
        placed
    }

    /// A jump to a place that is to come.
    fn jump(&mut self) -> usize {
        self.put(&[0xe9, 0, 0, 0, 0]);
        self.bytes.len()
    }

    fn land(&mut self, from: usize) {
        let distance = (self.bytes.len() - from) as u32;
        self.bytes[from - 4..from].copy_from_slice(&distance.to_le_bytes());
    }

    /// Over something, or not.
    fn branch(&mut self) {
        if self.depth >= DEPTH_MAX {
            return;
        }
        self.depth += 1;
        self.define();
        let condition = self.random.below(16) as u8;
        self.put(&[0x0f, 0x80 | condition, 0, 0, 0, 0]);
        let from = self.bytes.len();
        self.straight(4);
        if self.random.below(2) == 0 {
            self.part();
        }
        self.land(from);
        self.depth -= 1;
    }

    /// The same several times.
    fn repeat(&mut self) {
        if self.depth >= DEPTH_MAX {
            return;
        }
        self.depth += 1;
        let cell = (linear(CELLS) as u32 + 8 * self.depth as u32).to_le_bytes();
        let count = 2 + self.random.below(4) as u32;
        let absolute = |reg: u8| if self.pieces.bits == Bits::B64 { vec![reg | 4, 0x25] } else { vec![reg | 5] };
        let (first, last) = (absolute(0), absolute(8));
        self.define();
        self.put(&[&[0xc7][..], &first, &cell, &count.to_le_bytes()].concat());
        let begin = self.bytes.len();
        self.set(reg::SP, linear(STACK_BEGIN) as u32);
        self.straight(6);
        if self.random.below(2) == 0 {
            self.part();
        }
        self.define();
        self.put(&[&[0xff][..], &last, &cell].concat());
        let distance = begin.wrapping_sub(self.bytes.len() + 6) as u32;
        self.put(&[&[0x0f, 0x85][..], &distance.to_le_bytes()].concat());
        self.depth -= 1;
    }

    fn call(&mut self) {
        if self.functions.is_empty() {
            return;
        }
        self.define();
        self.set(reg::SP, linear(STACK_BEGIN) as u32);
        let target = self.functions[self.random.below(self.functions.len() as u64) as usize];
        let address = linear(CODE.start + target) as u32;
        match self.random.below(3) {
            0 => {
                let distance = target.wrapping_sub(self.bytes.len() + 5) as u32;
                self.put(&[&[0xe8][..], &distance.to_le_bytes()].concat());
            }
            1 => {
                self.set(reg::BX, address);
                self.put(&[0xff, 0xd0 | reg::BX]);
            }
            _ => {
                // PUSH, and a RET that goes there; the function's own goes on behind.
                let behind = self.bytes.len() + 5 + 5 + 1;
                self.put(&[&[0x68][..], &(linear(CODE.start + behind) as u32).to_le_bytes()].concat());
                self.put(&[&[0x68][..], &address.to_le_bytes()].concat());
                self.put(&[0xc3]);
            }
        }
    }

    /// LOOP and JRCXZ.
    fn count_down(&mut self) {
        self.define();
        let count = 1 + self.random.below(5) as u32;
        self.set(reg::CX, count);
        // ADD EAX, ECX; ROL EAX, 3; LOOP, LOOPE or LOOPNE.
        let kind = [0xe2, 0xe1, 0xe0][self.random.below(3) as usize];
        self.put(&[0x01, 0xc8]);
        self.put(&[0xc1, 0xc0, 3]);
        self.now |= R::OF;
        self.put(&[kind, 0xf9]);
        self.define();
        // JRCXZ, over a NOP.
        self.put(&[0xe3, 1]);
        self.put(&[0x90]);
    }

    /// ENTER and LEAVE.
    fn frame(&mut self) {
        self.set(reg::SP, linear(STACK_BEGIN) as u32);
        self.set(reg::BP, linear(STACK_BEGIN) as u32 + 0x100);
        let (bytes, level) = (self.random.below(64) as u8 & !7, self.random.below(4) as u8);
        self.put(&[0xc8, bytes, 0, level]);
        self.straight(2);
        self.set(reg::BP, linear(STACK_BEGIN) as u32 - 16);
        self.put(&[0xc9]);
        self.set(reg::SP, linear(STACK_BEGIN) as u32);
    }

    /// POPF.
    fn load_flags(&mut self) {
        let flags = (2 | self.random.next() as u32 & 0xcd5).to_le_bytes();
        self.put(&[&[0x68][..], &flags].concat());
        self.put(&[0x9d]);
        self.now = 0;
    }

    /// FLDCW and LDMXCSR.
    fn control(&mut self) {
        let address = self.operand();
        let control = 0x7f | (self.random.below(4) as u32) << 10 | [0, 2, 3, 3][self.random.below(4) as usize] << 8;
        let mxcsr = 0x1f80 | self.random.next() as u32 & 0xe040;
        self.set(reg::SI, address);
        self.put(&[&[0xc7, 0x06][..], &control.to_le_bytes()].concat());
        self.put(&[0xd9, 0x2e]);
        self.put(&[&[0xc7, 0x06][..], &mxcsr.to_le_bytes()].concat());
        self.put(&[0x0f, 0xae, 0x16]);
    }
}

/// Where the byte is that names [RSI] as the operand, if there is one.
fn modrm(bits: Bits, bytes: &[u8]) -> Option<usize> {
    let mut at = bytes.iter().position(|byte| !crate::forms::is_prefix(bits, *byte))?;
    if bytes[at] == 0x0f {
        at += if matches!(bytes.get(at + 1)?, 0x38 | 0x3a) { 2 } else { 1 };
    }
    at += 1;
    (bytes.get(at)? & 0xc7 == 6).then_some(at)
}
