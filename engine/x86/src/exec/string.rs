//! String instructions. With REP they do as much as lies within a page in one go where it is plain memory, and come back
//! now and then, so that interrupts are taken in between.

use iced_x86::{Instruction, Mnemonic as M};

use crate::attempt;
use crate::cpu::{Cpu, Trap};
use crate::flags;
use crate::lower::{Mode, size};
use crate::memory::PAGE;
use crate::op::{ADDRESS_MASKS, Flow, Handler, Int, Op, reg, seg};
use crate::sized;

/// Work done before somebody may look, in elements done one by one.
const AT_ONCE: u64 = 1024;
/// Bytes that the host copies or fills in the time of one such element.
const BYTES_A_TIME: u64 = 256;
/// Repeat prefix, in `extra`.
const REP: u8 = 1;
/// REPNE.
const REPNE: u8 = 2;

/// The handler, if it is one of these.
pub fn lower(instruction: &Instruction, op: &mut Op, _mode: Mode) -> Option<Handler> {
    let bytes = size(instruction);
    // SSE's MOVSD and CMPSD have operands of other kinds.
    let is_string = instruction.is_string_instruction();
    let handler = match instruction.mnemonic() {
        M::Movsb | M::Movsw | M::Movsq => sized!(bytes, movs),
        M::Movsd if is_string => movs::<u32>,
        M::Stosb | M::Stosw | M::Stosd | M::Stosq => sized!(bytes, stos),
        M::Lodsb | M::Lodsw | M::Lodsd | M::Lodsq => sized!(bytes, lods),
        M::Scasb | M::Scasw | M::Scasd | M::Scasq => sized!(bytes, scas),
        M::Cmpsb | M::Cmpsw | M::Cmpsq => sized!(bytes, cmps),
        M::Cmpsd if is_string => cmps::<u32>,
        _ => return None,
    };
    op.extra = match (instruction.has_repne_prefix(), instruction.has_rep_prefix()) {
        (true, _) => REPNE,
        (_, true) => REP,
        _ => 0,
    };
    Some(handler)
}

/// The registers of a string instruction.
struct Walk {
    mask: u64,
    step: u64,
}

impl Walk {
    fn new<T: Int>(cpu: &Cpu, op: &Op) -> Self {
        let mask = ADDRESS_MASKS[usize::from(op.asize & 3)];
        let bytes = T::BYTES as u64;
        Self { mask, step: if cpu.flags.rest & flags::DF == 0 { bytes } else { bytes.wrapping_neg() } }
    }

    fn get(&self, cpu: &Cpu, number: u8) -> u64 {
        cpu.regs[usize::from(number)] & self.mask
    }

    /// As the address size has it: 32 bits clear the upper half, 16 leave the rest.
    fn set(&self, cpu: &mut Cpu, number: u8, value: u64) {
        let register = &mut cpu.regs[usize::from(number)];
        *register = if self.mask == 0xffff { *register & !0xffff | value & 0xffff } else { value & self.mask };
    }

    fn advance(&self, cpu: &mut Cpu, number: u8, elements: u64) {
        let value = self.get(cpu, number).wrapping_add(self.step.wrapping_mul(elements));
        self.set(cpu, number, value);
    }
}

/// Repeats `one`, which does at least one element and at most as many as it is told, and says how many; and whether
/// that was the last, whatever the count.
#[inline(always)]
fn repeat<T: Int>(
    cpu: &mut Cpu,
    op: &Op,
    mut one: impl FnMut(&mut Cpu, &Walk, u64) -> Result<(u64, bool), Trap>,
) -> Flow {
    let walk = Walk::new::<T>(cpu, op);
    if op.extra & (REP | REPNE) == 0 {
        attempt!(one(cpu, &walk, 1));
        return cpu.stored();
    }
    // A trap after each instruction is one after each element (volume 3, 17.3.1.4).
    let traced = cpu.flags.rest & flags::TF != 0;
    let mut left = if traced { 1 } else { AT_ONCE };
    loop {
        let count = walk.get(cpu, reg::CX);
        if count == 0 {
            return cpu.stored();
        }
        let (done, last) = attempt!(one(cpu, &walk, if traced { 1 } else { count }));
        walk.set(cpu, reg::CX, count.wrapping_sub(done));
        if last || count == done {
            return cpu.stored();
        }
        left = left.saturating_sub(done.min(1 + done * T::BYTES as u64 / BYTES_A_TIME));
        if left == 0 || cpu.leave || !cpu.answers.given.is_empty() {
            return Flow::Again;
        }
    }
}

/// Elements from an address to the end of its page.
fn room<T: Int>(at: usize) -> u64 {
    (PAGE as usize - at) as u64 / T::BYTES as u64
}

/// The host's page and place of an offset in a segment, if it needs no closer look, and elements up to the page's end
/// or the segment's.
fn plain<T: Int>(cpu: &Cpu, segment: u8, offset: u64, write: bool) -> Option<(crate::memory::HostPage, usize, u64)> {
    let part = &cpu.segs[usize::from(segment & 7)];
    let end = if write { part.write_end } else { part.read_end };
    let bytes = end.checked_sub(offset)?;
    let linear = part.start.wrapping_add(offset) & cpu.linear_mask;
    let (page, at) = cpu.memory.run(linear, write)?;
    Some((page, at, room::<T>(at).min(bytes / T::BYTES as u64)))
}

fn movs<T: Int>(cpu: &mut Cpu, op: &Op) -> Flow {
    repeat::<T>(cpu, op, |cpu, walk, count| {
        let (from, to) = (walk.get(cpu, reg::SI), walk.get(cpu, reg::DI));
        if count > 1
            && walk.step == T::BYTES as u64
            && let Some((source, source_at, source_room)) = plain::<T>(cpu, op.seg, from, false)
            && let Some((target, target_at, target_room)) = plain::<T>(cpu, seg::ES, to, true)
        {
            // Registers of 16 bits wrap.
            let wraps = (walk.mask - from).min(walk.mask - to) / T::BYTES as u64;
            let elements = count.min(source_room).min(target_room).min(wraps);
            let bytes = elements as usize * T::BYTES;
            if elements > 0 && source.copy(source_at, target, target_at, bytes) {
                cpu.leave |= cpu.memory.is_code(target);
                walk.advance(cpu, reg::SI, elements);
                walk.advance(cpu, reg::DI, elements);
                return Ok((elements, false));
            }
        }
        let value = cpu.load::<T>(op.seg, from)?;
        cpu.store::<T>(seg::ES, to, value)?;
        walk.advance(cpu, reg::SI, 1);
        walk.advance(cpu, reg::DI, 1);
        Ok((1, false))
    })
}

fn stos<T: Int>(cpu: &mut Cpu, op: &Op) -> Flow {
    let value = cpu.get::<T>(reg::AX);
    let byte = value as u8;
    let alike = T::cut(u64::from(byte).wrapping_mul(0x0101_0101_0101_0101)) == value;
    repeat::<T>(cpu, op, |cpu, walk, count| {
        let to = walk.get(cpu, reg::DI);
        if count > 1
            && alike
            && walk.step == T::BYTES as u64
            && let Some((target, at, room)) = plain::<T>(cpu, seg::ES, to, true)
        {
            let elements = count.min(room).min((walk.mask - to) / T::BYTES as u64);
            if elements > 0 && target.fill(at, byte, elements as usize * T::BYTES) {
                cpu.leave |= cpu.memory.is_code(target);
                walk.advance(cpu, reg::DI, elements);
                return Ok((elements, false));
            }
        }
        cpu.store::<T>(seg::ES, to, value)?;
        walk.advance(cpu, reg::DI, 1);
        Ok((1, false))
    })
}

fn lods<T: Int>(cpu: &mut Cpu, op: &Op) -> Flow {
    repeat::<T>(cpu, op, |cpu, walk, _count| {
        let value = cpu.load::<T>(op.seg, walk.get(cpu, reg::SI))?;
        cpu.set::<T>(reg::AX, value);
        walk.advance(cpu, reg::SI, 1);
        Ok((1, false))
    })
}

/// Whether a comparison ends the repetition.
fn ends(cpu: &Cpu, op: &Op) -> bool {
    match op.extra & (REP | REPNE) {
        REP => !cpu.flags.zero(),
        REPNE => cpu.flags.zero(),
        _ => false,
    }
}

fn compare<T: Int>(cpu: &mut Cpu, a: u64, b: u64) {
    use crate::exec::alu::{Binary, Cmp};
    Cmp::apply::<T>(&mut cpu.flags, a, b);
}

/// Repeats a comparison. Whatever comes in its midst finds the flags as they were before the instruction, which sets
/// them at its end (volume 2, REP).
#[inline(always)]
fn repeat_comparison<T: Int>(
    cpu: &mut Cpu,
    op: &Op,
    one: impl FnMut(&mut Cpu, &Walk, u64) -> Result<(u64, bool), Trap>,
) -> Flow {
    let before = cpu.flags;
    let flow = repeat::<T>(cpu, op, one);
    if matches!(flow, Flow::Trap | Flow::Again) {
        cpu.flags = before;
    }
    flow
}

fn scas<T: Int>(cpu: &mut Cpu, op: &Op) -> Flow {
    repeat_comparison::<T>(cpu, op, |cpu, walk, _count| {
        let value = cpu.load::<T>(seg::ES, walk.get(cpu, reg::DI))?;
        let a = cpu.get::<T>(reg::AX);
        compare::<T>(cpu, a, value);
        walk.advance(cpu, reg::DI, 1);
        Ok((1, ends(cpu, op)))
    })
}

fn cmps<T: Int>(cpu: &mut Cpu, op: &Op) -> Flow {
    repeat_comparison::<T>(cpu, op, |cpu, walk, _count| {
        // In the order in which Intel's processors meet with faults.
        let b = cpu.load::<T>(seg::ES, walk.get(cpu, reg::DI))?;
        let a = cpu.load::<T>(op.seg, walk.get(cpu, reg::SI))?;
        compare::<T>(cpu, a, b);
        walk.advance(cpu, reg::SI, 1);
        walk.advance(cpu, reg::DI, 1);
        Ok((1, ends(cpu, op)))
    })
}
