//! Operands for an instruction form: ordinary ones, and such as make it fault.

use iced_x86::{FlowControl, Instruction, Mnemonic as M, OpKind};

use crate::layout::{BEFORE_FIXED, Bits, CODE, DATA, FIXED, PAGE, STACK, State, linear};
use crate::random::Random;
use crate::table::register_mask;

/// What is special about a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Situation {
    /// Nothing: operands lie in pages that may be written; x87 and SSE exceptions are masked.
    Ordinary,
    /// Operands in memory, or the stack, lie where they can not be reached as a whole.
    Unreachable,
    /// Exceptions of x87 or SSE are not masked, or pending.
    Unmasked,
    /// TF.
    Traced,
    /// AC.
    Aligned,
    /// The instruction reaches into a page that is not there.
    Cut,
}

/// An instruction with all that it meets.
pub struct Case {
    pub situation: Situation,
    pub bytes: Vec<u8>,
    pub state: State,
    /// What is in memory, at offsets.
    pub writes: Vec<(usize, Vec<u8>)>,
}

/// One for an encoding.
pub fn case(random: &mut Random, bits: Bits, bytes: &[u8], instruction: &Instruction) -> Case {
    let situation = match random.below(16) {
        0..=3 => Situation::Unreachable,
        4 | 5 => Situation::Unmasked,
        6 => Situation::Traced,
        7 => Situation::Aligned,
        8 => Situation::Cut,
        _ => Situation::Ordinary,
    };
    let mut state = State { regs: [0; 16], rip: 0, flags: 0x202, fx: [0; 512] };
    state.regs.iter_mut().for_each(|register| *register = random.value());
    let mut writes = Vec::new();
    places(random, bits, instruction, situation, &mut state, &mut writes);
    registers(random, instruction, &mut state);
    state.flags |= match random.below(4) {
        0 => 0,
        1 => 0x8d5,
        _ => random.next() & 0x8d5,
    };
    if random.below(4) == 0 {
        state.flags |= 0x400;
    }
    match situation {
        Situation::Traced => state.flags |= 0x100,
        Situation::Aligned => state.flags |= 0x4_0000,
        _ => {}
    }
    floating(random, situation, &mut state.fx);
    state.regs.iter_mut().for_each(|register| *register &= register_mask(bits));
    let middle = (CODE.start + CODE.end) / 2 + random.below(64) as usize;
    let at = if situation == Situation::Cut { CODE.end - random.below(bytes.len() as u64) as usize } else { middle };
    state.rip = linear(at);
    Case { situation, bytes: bytes.to_vec(), state, writes }
}

/// Where operands in memory are.
fn places(
    random: &mut Random,
    bits: Bits,
    instruction: &Instruction,
    situation: Situation,
    state: &mut State,
    writes: &mut Vec<(usize, Vec<u8>)>,
) {
    let aligned = random.below(2) == 0;
    let near = |random: &mut Random| random.below(64) as usize * if aligned { 16 } else { 1 };
    let (source, target) = (DATA.start + 2 * PAGE + near(random), DATA.start + 2 * PAGE + near(random));
    // A stack is aligned, mostly.
    let stack = STACK.start + PAGE + random.below(64) as usize * if random.below(4) == 0 { 1 } else { 8 };
    (state.regs[6], state.regs[7]) = (linear(source), linear(target));
    state.regs[4] = linear(stack);
    if random.below(2) == 0 {
        state.regs[5] = linear(STACK.start + PAGE + random.below(256) as usize * 8);
    }
    for (place, count) in [(source, 8), (target, 4), (stack, 3)] {
        let bytes: Vec<u8> = (0..count).flat_map(|_| random.vector().to_le_bytes()).collect();
        writes.push((place, bytes));
    }
    // Of XLATB; a pointer of a branch; and MXCSR and FCW images with bits that can be.
    if instruction.mnemonic() == M::Xlatb {
        state.regs[3] = linear(DATA.start + PAGE);
    }
    if instruction.flow_control() != FlowControl::Next && random.below(4) != 0 {
        // Not where the instruction itself is: it may go on for ever.
        let code = |random: &mut Random| linear(CODE.start + random.below(PAGE as u64) as usize);
        for number in 0..16 {
            if !matches!(number, 1 | 4 | 6) {
                state.regs[number] = code(random);
            }
        }
        writes.push((source, code(random).to_le_bytes().to_vec()));
        writes.push((stack, code(random).to_le_bytes().to_vec()));
    }
    if instruction.mnemonic() == M::Ldmxcsr && random.below(2) == 0 {
        writes.push((source, (random.next() as u32 & 0xffff).to_le_bytes().to_vec()));
    }
    if matches!(instruction.mnemonic(), M::Fxrstor | M::Fxrstor64) && random.below(2) == 0 {
        writes.push((source + 24, (random.next() as u32 & 0xffff).to_le_bytes().to_vec()));
    }
    if situation == Situation::Unreachable {
        for number in [4, 6, 7] {
            if random.below(3) != 0 {
                state.regs[number] = unreachable(random, bits);
            }
        }
        if random.below(4) == 0 {
            state.regs[5] = unreachable(random, bits);
        }
    }
}

/// An address at the end or the begin of what can be read or written; or far away.
fn unreachable(random: &mut Random, bits: Bits) -> u64 {
    let around = |random: &mut Random, edge: usize| linear(edge) + random.below(48) - 24;
    match random.below(if bits == Bits::B64 { 14 } else { 9 }) {
        0 | 1 => around(random, DATA.end),
        2 => around(random, DATA.start),
        3 => around(random, FIXED.start),
        4 => around(random, FIXED.end),
        5 | 6 => around(random, BEFORE_FIXED.end),
        7 => linear(FIXED.start) + random.below(64) * 16,
        8 => around(random, STACK.start),
        9 => linear(0) + random.below(0x1000),
        10 => 1 << 63 | random.next() >> 8,
        11 => (1 << 47) + random.below(16),
        12 => u64::MAX << 47 & !(1 << 63) | random.below(4096),
        _ => random.next() | 1 << 62,
    }
}

/// Counts, and numbers of bits.
fn registers(random: &mut Random, instruction: &Instruction, state: &mut State) {
    if instruction.has_rep_prefix() || instruction.has_repne_prefix() {
        state.regs[1] = random.below(40);
    }
    if matches!(instruction.mnemonic(), M::Bt | M::Bts | M::Btr | M::Btc) && instruction.op0_kind() == OpKind::Memory {
        // A register's bit may be far away.
        for number in 0..16 {
            if !matches!(number, 4 | 6) {
                let far = random.below(0x4000) as i64 - 0x2000;
                state.regs[number] = state.regs[number] & !0xffff_ffff | u64::from(far as u32);
                if instruction.op1_register().size() == 8 {
                    state.regs[number] = far.cast_unsigned();
                }
            }
        }
    }
}

/// x87 and SSE.
fn floating(random: &mut Random, situation: Situation, fx: &mut [u8; 512]) {
    let unmasked = situation == Situation::Unmasked;
    // FCW: precision and rounding vary. MXCSR likewise.
    let mut control = 0x3f | (random.below(4) as u16) << 10 | [0, 2, 3, 3][random.below(4) as usize] << 8 | 0x40;
    let mut status = (random.below(8) as u16) << 11 | random.next() as u16 & 0x4700;
    let mut mxcsr = 0x1f80 | if random.below(2) == 0 { 0 } else { random.next() as u32 & 0xe040 };
    if unmasked {
        control &= !(random.next() as u16 & 0x3f);
        mxcsr &= !(random.next() as u32 & 0x1f80);
        if random.below(4) == 0 {
            status |= random.next() as u16 & 0x7f;
        }
        if random.below(2) == 0 {
            mxcsr |= random.next() as u32 & 0x3f;
        }
    }
    if status & !control & 0x3f != 0 {
        // The summary of exceptions, and what is a copy of it.
        status |= 0x8080;
    }
    fx[0..2].copy_from_slice(&control.to_le_bytes());
    fx[2..4].copy_from_slice(&status.to_le_bytes());
    fx[4] = if random.below(2) == 0 { 0xff } else { random.next() as u8 };
    fx[24..28].copy_from_slice(&mxcsr.to_le_bytes());
    fx[28..32].copy_from_slice(&0xffffu32.to_le_bytes());
    for number in 0..8 {
        fx[32 + number * 16..42 + number * 16].copy_from_slice(&random.extended());
    }
    for number in 0..16 {
        fx[160 + number * 16..176 + number * 16].copy_from_slice(&random.vector().to_le_bytes());
    }
}

/// Registers at a program's begin.
pub fn start(random: &mut Random, bits: Bits) -> State {
    let mut state = State { regs: [0; 16], rip: linear(CODE.start), flags: 0x202, fx: [0; 512] };
    state.regs.iter_mut().for_each(|register| *register = random.value() & register_mask(bits));
    state.regs[4] = linear(STACK.start + PAGE);
    let situation = if random.below(16) == 0 { Situation::Unmasked } else { Situation::Ordinary };
    floating(random, situation, &mut state.fx);
    state
}
