//! The registers of descriptor tables and tasks, and questions about selectors (Intel SDM volume 3, 2.4 and 5.10).

use super::descriptor::{Descriptor, is_null, kind, named, rpl};
use crate::attempt;
use crate::cpu::{Cause, Cpu, Segment, Table, Trap, vector};
use crate::exec::alu::zero_flag;
use crate::op::{ADDRESS_MASKS, Flow, Int, Op, seg};

/// Which of two registers, in `extra`: the IDTR, or TR.
pub const SECOND: u8 = 1;

/// Attributes that LAR gives, of a descriptor's second double word.
const LAR: u64 = 0x00f0_ff00;

/// The place after a 16-bit limit.
fn behind(cpu: &Cpu, op: &Op) -> u64 {
    cpu.address(op).wrapping_add(2) & ADDRESS_MASKS[usize::from(op.asize & 3)]
}

/// SGDT and SIDT.
pub fn store_table(cpu: &mut Cpu, op: &Op) -> Flow {
    attempt!(cpu.not_hidden());
    let table = if op.extra == SECOND { cpu.idt } else { cpu.gdt };
    let (at, base_at) = (cpu.address(op), behind(cpu, op));
    // The base first: if the limit's page faults then, what was written is written again.
    if cpu.is_64() {
        attempt!(cpu.load_to_write::<u16>(op.seg, at));
        attempt!(cpu.store::<u64>(op.seg, base_at, table.base));
    } else {
        attempt!(cpu.load_to_write::<u16>(op.seg, at));
        attempt!(cpu.store::<u32>(op.seg, base_at, table.base & 0xffff_ffff));
    }
    attempt!(cpu.store::<u16>(op.seg, at, table.limit.into()));
    cpu.stored()
}

/// LGDT and LIDT. With 16-bit operands (`NARROW`) only 24 bits of the base count.
pub fn load_table<const NARROW: bool>(cpu: &mut Cpu, op: &Op) -> Flow {
    attempt!(cpu.supervisor());
    let (at, base_at) = (cpu.address(op), behind(cpu, op));
    let limit = attempt!(cpu.load::<u16>(op.seg, at)) as u16;
    let base = if cpu.is_64() {
        attempt!(cpu.load::<u64>(op.seg, base_at))
    } else {
        attempt!(cpu.load::<u32>(op.seg, base_at)) & if NARROW { 0xff_ffff } else { 0xffff_ffff }
    };
    if cpu.is_64() && !cpu.is_canonical(base) {
        cpu.gp();
        return Flow::Trap;
    }
    let table = Table { base, limit };
    if op.extra == SECOND {
        cpu.idt = table;
    } else {
        cpu.gdt = table;
    }
    Flow::Leave
}

impl Cpu {
    /// #UD outside protected mode.
    fn protected_only(&mut self) -> Result<(), Trap> {
        if self.is_protected() { Ok(()) } else { Err(self.raise(vector::UD)) }
    }

    /// Loads TR.
    fn load_task(&mut self, selector: u16) -> Result<(), Trap> {
        if is_null(selector) {
            return Err(self.gp());
        }
        if selector & 4 != 0 {
            return Err(self.raise_with(vector::GP, named(selector)));
        }
        let descriptor = self.long_descriptor(selector, vector::GP)?;
        let kinds: &[u8] = if self.is_long() { &[kind::TSS] } else { &[kind::TSS_16, kind::TSS] };
        if !descriptor.is_kind(kinds) {
            return Err(self.raise_with(vector::GP, named(selector)));
        }
        if !descriptor.is_present() {
            return Err(self.raise_with(vector::NP, named(selector)));
        }
        self.mark_busy(descriptor.at, true)?;
        let segment = descriptor.segment(selector);
        let attributes = segment.attributes | 2;
        self.put_segment(seg::TR, Segment { attributes, ..segment });
        Ok(())
    }

    /// The descriptor that a selector names, if the instruction may see it.
    ///
    /// # Errors
    /// A page fault; all else is an answer.
    fn seen(&mut self, selector: u16) -> Result<Option<Descriptor>, Trap> {
        if is_null(selector) {
            return Ok(None);
        }
        match self.long_descriptor(selector, vector::GP) {
            Ok(found) => {
                let level = self.cpl.max(rpl(selector));
                Ok((found.is_conforming() || found.dpl() >= level).then_some(found))
            }
            Err(Trap) => match self.trap {
                Cause::Exception(exception) if exception.vector == vector::GP => Ok(None),
                _ => Err(Trap),
            },
        }
    }

    /// Answers a question about a selector: ZF says whether there is an answer.
    fn answer(
        &mut self,
        selector: u16,
        question: impl FnOnce(&Descriptor, bool) -> Option<u64>,
    ) -> Result<Option<u64>, Trap> {
        self.protected_only()?;
        let long = self.is_long();
        let answer = self.seen(selector)?.and_then(|descriptor| question(&descriptor, long));
        zero_flag(self, answer.is_some());
        Ok(answer)
    }
}

fn load_system(cpu: &mut Cpu, op: &Op, selector: u16) -> Flow {
    if op.extra == SECOND {
        attempt!(cpu.load_task(selector));
    } else {
        attempt!(cpu.load_ldt(selector, vector::GP, vector::NP));
    }
    Flow::Leave
}

/// LLDT and LTR of a register.
pub fn load_system_r(cpu: &mut Cpu, op: &Op) -> Flow {
    attempt!(cpu.protected_only());
    attempt!(cpu.supervisor());
    let selector = cpu.get::<u16>(op.dst) as u16;
    load_system(cpu, op, selector)
}

/// LLDT and LTR of memory.
pub fn load_system_m(cpu: &mut Cpu, op: &Op) -> Flow {
    attempt!(cpu.protected_only());
    attempt!(cpu.supervisor());
    let selector = attempt!(cpu.load::<u16>(op.seg, cpu.address(op))) as u16;
    load_system(cpu, op, selector)
}

fn system_selector(cpu: &mut Cpu, op: &Op) -> Result<u64, Trap> {
    cpu.protected_only()?;
    cpu.not_hidden()?;
    Ok(cpu.segs[usize::from(if op.extra == SECOND { seg::TR } else { seg::LDT })].selector.into())
}

/// SLDT and STR to a register.
pub fn store_system_r<T: Int>(cpu: &mut Cpu, op: &Op) -> Flow {
    let selector = attempt!(system_selector(cpu, op));
    cpu.set::<T>(op.dst, selector);
    Flow::Next
}

/// SLDT and STR to memory.
pub fn store_system_m(cpu: &mut Cpu, op: &Op) -> Flow {
    let selector = attempt!(system_selector(cpu, op));
    attempt!(cpu.store::<u16>(op.seg, cpu.address(op), selector));
    cpu.stored()
}

/// What LAR says.
fn rights(found: &Descriptor, long: bool) -> Option<u64> {
    let system: &[u8] = if long {
        &[kind::LDT, kind::TSS, kind::TSS_BUSY, kind::CALL]
    } else {
        &[
            kind::TSS_16,
            kind::LDT,
            kind::TSS_16_BUSY,
            kind::CALL_16,
            kind::TASK_GATE,
            kind::TSS,
            kind::TSS_BUSY,
            kind::CALL,
        ]
    };
    (!found.is_system() || found.is_kind(system)).then_some(found.low >> 32 & LAR)
}

/// What LSL says.
fn limit(found: &Descriptor, long: bool) -> Option<u64> {
    let system: &[u8] = if long {
        &[kind::LDT, kind::TSS, kind::TSS_BUSY]
    } else {
        &[kind::TSS_16, kind::LDT, kind::TSS_16_BUSY, kind::TSS, kind::TSS_BUSY]
    };
    (!found.is_system() || found.is_kind(system)).then_some(found.limit().into())
}

fn readable(found: &Descriptor, _long: bool) -> Option<u64> {
    found.is_readable().then_some(0)
}

fn writable(found: &Descriptor, _long: bool) -> Option<u64> {
    found.is_writable().then_some(0)
}

/// The selector that is asked about: from a register or from memory.
fn asked<const MEMORY: bool>(cpu: &mut Cpu, op: &Op, register: u8) -> Result<u16, Trap> {
    cpu.protected_only()?;
    let selector = if MEMORY { cpu.load::<u16>(op.seg, cpu.address(op))? } else { cpu.get::<u16>(register) };
    Ok(selector as u16)
}

/// LAR.
pub fn lar<T: Int, const MEMORY: bool>(cpu: &mut Cpu, op: &Op) -> Flow {
    let selector = attempt!(asked::<MEMORY>(cpu, op, op.src));
    if let Some(answer) = attempt!(cpu.answer(selector, rights)) {
        cpu.set::<T>(op.dst, answer);
    }
    Flow::Next
}

/// LSL.
pub fn lsl<T: Int, const MEMORY: bool>(cpu: &mut Cpu, op: &Op) -> Flow {
    let selector = attempt!(asked::<MEMORY>(cpu, op, op.src));
    if let Some(answer) = attempt!(cpu.answer(selector, limit)) {
        cpu.set::<T>(op.dst, answer);
    }
    Flow::Next
}

/// VERR.
pub fn verr<const MEMORY: bool>(cpu: &mut Cpu, op: &Op) -> Flow {
    let selector = attempt!(asked::<MEMORY>(cpu, op, op.dst));
    attempt!(cpu.answer(selector, readable));
    Flow::Next
}

/// VERW.
pub fn verw<const MEMORY: bool>(cpu: &mut Cpu, op: &Op) -> Flow {
    let selector = attempt!(asked::<MEMORY>(cpu, op, op.dst));
    attempt!(cpu.answer(selector, writable));
    Flow::Next
}

/// The selector with the level that ARPL gives it, if that is another.
fn adjusted(selector: u64, of: u64) -> Option<u64> {
    (selector & 3 < of & 3).then_some(selector & !3 | of & 3)
}

/// ARPL of a register.
pub fn arpl_r(cpu: &mut Cpu, op: &Op) -> Flow {
    attempt!(cpu.protected_only());
    let new = adjusted(cpu.get::<u16>(op.dst), cpu.get::<u16>(op.src));
    if let Some(new) = new {
        cpu.set::<u16>(op.dst, new);
    }
    zero_flag(cpu, new.is_some());
    Flow::Next
}

/// ARPL of memory.
pub fn arpl_m(cpu: &mut Cpu, op: &Op) -> Flow {
    attempt!(cpu.protected_only());
    let at = cpu.address(op);
    let selector = attempt!(cpu.load_to_write::<u16>(op.seg, at));
    let new = adjusted(selector, cpu.get::<u16>(op.src));
    if let Some(new) = new {
        attempt!(cpu.store::<u16>(op.seg, at, new));
    }
    zero_flag(cpu, new.is_some());
    cpu.stored()
}
