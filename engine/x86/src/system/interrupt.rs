//! Exceptions and interrupts: how they get to their handlers (Intel SDM volume 3, chapter 6; volume 2, INT n).

use super::descriptor::{Descriptor, is_null, kind, named};
use super::frame::Stack;
use super::segment::{null, null_stack, v86};
use super::task::{By, Stop};
use crate::cpu::{Cause, Cpu, Exception, Segment, Trap, cr0, cr4, vector};
use crate::flags;
use crate::op::{Flow, Op, reg, seg};

/// Something that is to be delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// An exception; RIP is that of the instruction that it is about.
    Exception(Exception),
    /// INT n, INT3, INTO or INT1; RIP is that of the next instruction.
    Software(u8),
    /// An interrupt.
    External(u8),
    /// A non-maskable interrupt.
    Nmi,
}

/// A triple fault: the processor has stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shutdown;

/// Error code: it was an event from outside the program that was being delivered (volume 3, 6.13),
const ERROR_EXT: u32 = 1;
/// and the IDT that the index is of.
const ERROR_IDT: u32 = 2;
/// DR7: MOV to a debug register faults.
const DR7_GD: u64 = 1 << 13;
/// Events that may follow from each other in one delivery: fault, fault, double fault. More than that is a loop.
const CHAIN_MAX: u32 = 6;

/// Which instruction it is, in [`Cpu::interrupts`].
mod form {
    /// INT3 and INTO: no check of IOPL in virtual-8086 mode.
    pub const SHORT: u64 = 1;
    /// INT1: no check of privilege either.
    pub const DEBUG: u64 = 2;
}

/// An event, as the IDT sees it.
struct Vectored {
    vector: u8,
    error: Option<u32>,
    /// The gate's privilege level is checked.
    checked: bool,
    /// RFLAGS as they are pushed.
    image: u64,
}

impl Vectored {
    /// The error code that names its gate.
    fn gate(&self) -> u32 {
        u32::from(self.vector) << 3 | ERROR_IDT
    }
}

/// Whether a second fault makes a double fault (volume 3, table 6-4).
fn is_contributory(number: u8) -> bool {
    matches!(number, vector::DE | vector::TS | vector::NP | vector::SS | vector::GP)
}

/// What is delivered when delivering `first` ends in `second`.
fn next(first: Event, second: Exception) -> Result<Event, Shutdown> {
    if let Event::Exception(first) = first {
        let first = first.vector;
        if first == vector::DF && (is_contributory(second.vector) || second.vector == vector::PF) {
            return Err(Shutdown);
        }
        let page = first == vector::PF && second.vector == vector::PF;
        if page || (is_contributory(second.vector) && (first == vector::PF || is_contributory(first))) {
            return Ok(Event::Exception(Exception { vector: vector::DF, error: Some(0), address: 0 }));
        }
    }
    // It happened while something from outside the program was under way.
    let outside = !matches!(first, Event::Software(_)) && second.vector != vector::PF;
    let error = if outside { second.error.map(|error| error | ERROR_EXT) } else { second.error };
    Ok(Event::Exception(Exception { error, ..second }))
}

impl Cpu {
    /// Delivers an event. RIP is where its handler returns to.
    ///
    /// # Errors
    /// A triple fault.
    pub fn deliver(&mut self, event: Event) -> Result<(), Shutdown> {
        let (len, form) = std::mem::take(&mut self.interrupts);
        let mut event = event;
        for _ in 0..CHAIN_MAX {
            let Err(stop) = self.deliver_once(event, form) else { return Ok(()) };
            // Tables that are no memory can not be asked for in the midst of this.
            let Cause::Exception(second) = self.trap else { return Err(Shutdown) };
            if matches!(event, Event::Software(_)) && stop == Stop::Before {
                // The fault is INT's own.
                self.rip = self.rip.wrapping_sub(len.into()) & self.rip_mask;
            }
            if second.vector == vector::PF {
                self.cr2 = second.address;
            }
            event = next(event, second)?;
        }
        Err(Shutdown)
    }

    fn deliver_once(&mut self, event: Event, form: u64) -> Result<(), Stop> {
        let image = self.flags.get();
        let vectored = match event {
            Event::Exception(exception) => {
                let vector = exception.vector;
                if vector == vector::PF {
                    self.cr2 = exception.address;
                }
                // Faults are begun again without their instruction breakpoint. Debug exceptions leave that to their
                // handler, and the other two come after their instruction (volume 3, 17.3.1.1).
                let again = !matches!(vector, vector::DB | vector::BP | vector::OF | vector::DF);
                let image = if again { image | flags::RF } else { image };
                Vectored { vector, error: exception.error, checked: false, image }
            }
            Event::Software(vector) => {
                Vectored { vector, error: None, checked: form & form::DEBUG == 0, image: image & !flags::RF }
            }
            Event::External(vector) => Vectored { vector, error: None, checked: false, image },
            Event::Nmi => Vectored { vector: vector::NMI, error: None, checked: false, image },
        };
        if self.cr0 & cr0::PE == 0 {
            let base = self.idt.base;
            let at = u64::from(vectored.vector) * 4;
            if at + 3 > u64::from(self.idt.limit) {
                return Err(self.raise_with(vector::GP, vectored.gate()).into());
            }
            self.deliver_8086(base.wrapping_add(at), image)?;
        } else if self.is_long() {
            self.deliver_long(&vectored)?;
        } else {
            // INT3 and INTO are not the program's own in virtual-8086 mode (volume 3, 20.3.3).
            let own = self.is_v86() && vectored.checked && form == 0 && self.delivers_itself(&vectored)?;
            if !own {
                self.deliver_protected(&vectored)?;
            }
        }
        if vectored.vector == vector::DB && !matches!(event, Event::External(_)) {
            self.dr[7] &= !DR7_GD;
        }
        if event == Event::Nmi {
            self.nmi_masked = true;
        }
        Ok(())
    }

    /// As an 8086 does it: `at` is the linear address of the handler's far address (volume 3, 20.1.4).
    fn deliver_8086(&mut self, at: u64, image: u64) -> Result<(), Trap> {
        let offset = self.table::<u16>(at)?;
        let selector = self.table::<u16>(at.wrapping_add(2))? as u16;
        let (code, rip) = (self.segs[usize::from(seg::CS)].selector, self.rip);
        let mut stack = self.stack_now();
        for value in [image, code.into(), rip] {
            self.push_to(&mut stack, 2, value)?;
        }
        self.use_stack(&stack, false);
        self.flags.rest &= !(flags::IF | flags::TF | flags::AC | flags::RF);
        self.go_8086(selector, offset);
        Ok(())
    }

    /// INT n in virtual-8086 mode: whether the program's own handler took it (volume 3, 20.3.3).
    ///
    /// # Errors
    /// #GP when the monitor is to do it.
    fn delivers_itself(&mut self, vectored: &Vectored) -> Result<bool, Trap> {
        let iopl = self.iopl();
        let monitored = self.cr4 & cr4::VME == 0 || {
            // 32 bytes below the I/O bitmap: a bit that is set keeps the protected mode handler.
            let bitmap = self.tss_field::<u16>(0x66)?;
            let at = bitmap.wrapping_sub(32).wrapping_add(u64::from(vectored.vector) / 8);
            self.tss_field::<u8>(at & 0xffff)? >> (vectored.vector & 7) & 1 != 0
        };
        if monitored {
            return if iopl < 3 { Err(self.gp()) } else { Ok(false) };
        }
        let at = u64::from(vectored.vector) * 4;
        if iopl == 3 {
            self.deliver_8086(at, vectored.image)?;
            return Ok(true);
        }
        // The program sees VIF as its IF.
        let (virtual_if, enabled) = (self.flags.rest & flags::VIF != 0, self.flags.rest & flags::IF);
        let image = vectored.image & !flags::IF | flags::IOPL | if virtual_if { flags::IF } else { 0 };
        self.deliver_8086(at, image)?;
        self.flags.rest = self.flags.rest & !flags::VIF | enabled;
        Ok(true)
    }

    /// Real and virtual-8086 mode go to an address.
    pub(super) fn go_8086(&mut self, selector: u16, offset: u64) {
        let segment = if self.is_v86() { v86(selector) } else { self.real_segment(seg::CS, selector) };
        self.put_segment(seg::CS, segment);
        self.renew();
        self.rip = offset & 0xffff_ffff;
    }

    /// Checks a gate of the IDT.
    fn check_gate(&mut self, gate: &Descriptor, vectored: &Vectored, kinds: &[u8]) -> Result<(), Trap> {
        if !gate.is_kind(kinds) || (vectored.checked && gate.dpl() < self.cpl) {
            return Err(self.raise_with(vector::GP, vectored.gate()));
        }
        if !gate.is_present() {
            return Err(self.raise_with(vector::NP, vectored.gate()));
        }
        Ok(())
    }

    /// The code that a gate leads to, and its level.
    fn handler(&mut self, gate: &Descriptor) -> Result<(Segment, u8), Trap> {
        let selector = gate.target();
        if is_null(selector) {
            return Err(self.raise_with(vector::GP, 0));
        }
        let descriptor = self.descriptor(selector, vector::GP)?;
        let level = if descriptor.is_conforming() { self.cpl } else { descriptor.dpl() };
        let long = self.is_long() && (!descriptor.is_long() || descriptor.is_long_and_wide());
        if !descriptor.is_code() || descriptor.dpl() > self.cpl || long || (self.is_v86() && level != 0) {
            return Err(self.raise_with(vector::GP, named(selector)));
        }
        if !descriptor.is_present() {
            return Err(self.raise_with(vector::NP, named(selector)));
        }
        self.mark_accessed(&descriptor)?;
        let segment = descriptor.segment(selector);
        self.check_entry(&segment, gate.offset())?;
        Ok((segment, level))
    }

    /// What a handler's flags are (volume 3, 6.12.1.2).
    fn clear_flags(&mut self, gate: &Descriptor) {
        self.flags.rest &= !(flags::TF | flags::NT | flags::RF | flags::VM);
        if gate.kind() & 1 == 0 {
            self.flags.rest &= !flags::IF;
        }
    }

    /// Outside long mode (volume 3, 6.12 and 20.3.1).
    fn deliver_protected(&mut self, vectored: &Vectored) -> Result<(), Stop> {
        let at = u64::from(vectored.vector) * 8;
        if at + 7 > u64::from(self.idt.limit) {
            return Err(self.raise_with(vector::GP, vectored.gate()).into());
        }
        let low = self.table::<u64>(self.idt.base.wrapping_add(at))?;
        let gate = Descriptor { low, high: 0, at: 0 };
        let kinds = [kind::TASK_GATE, kind::INTERRUPT_16, kind::TRAP_16, kind::INTERRUPT, kind::TRAP];
        self.check_gate(&gate, vectored, &kinds)?;
        if gate.kind() == kind::TASK_GATE {
            let rip = self.rip;
            let image = vectored.image;
            return self.switch_task(gate.target(), &By::Gate { error: vectored.error }, rip, image);
        }
        let (code, level) = self.handler(&gate)?;
        let was_v86 = self.is_v86();
        let inner = level < self.cpl;
        let mut stack = if inner { self.inner_stack(level)? } else { self.stack_now() };
        let selector = |number: u8| u64::from(self.segs[usize::from(number)].selector);
        let pointer = self.regs[usize::from(reg::SP)];
        // What is pushed, and whether it is.
        let frame = [
            (was_v86, selector(seg::GS)),
            (was_v86, selector(seg::FS)),
            (was_v86, selector(seg::DS)),
            (was_v86, selector(seg::ES)),
            (inner, selector(seg::SS)),
            (inner, pointer),
            (true, vectored.image),
            (true, selector(seg::CS)),
            (true, self.rip),
            (vectored.error.is_some(), vectored.error.unwrap_or_default().into()),
        ];
        let bytes = if gate.kind() & 8 == 0 { 2 } else { 4 };
        self.at_level(level, |cpu| {
            let mut pushed = frame.into_iter().filter(|(is, _)| *is);
            pushed.try_for_each(|(_, value)| cpu.push_to(&mut stack, bytes, value))
        })?;
        self.use_stack(&stack, inner);
        if was_v86 {
            for number in [seg::GS, seg::FS, seg::DS, seg::ES] {
                self.put_segment(number, null(0));
            }
        }
        self.clear_flags(&gate);
        self.enter(code, level, gate.offset());
        Ok(())
    }

    /// In long mode (volume 3, 6.14).
    fn deliver_long(&mut self, vectored: &Vectored) -> Result<(), Trap> {
        let at = u64::from(vectored.vector) * 16;
        if at + 15 > u64::from(self.idt.limit) {
            return Err(self.raise_with(vector::GP, vectored.gate()));
        }
        let at = self.idt.base.wrapping_add(at);
        let low = self.table::<u64>(at)?;
        let high = self.table::<u64>(at.wrapping_add(8))? & 0xffff_ffff;
        let gate = Descriptor { low, high, at };
        self.check_gate(&gate, vectored, &[kind::INTERRUPT, kind::TRAP])?;
        let (code, level) = self.handler(&gate)?;
        let inner = level < self.cpl;
        let mut stack = if inner {
            // Only where no interrupt stack takes its place.
            match low >> 32 & 7 {
                0 => self.inner_stack_long(level)?,
                _ => Stack::long(null_stack(level.into(), level), 0, 0),
            }
        } else {
            Stack::long(self.segs[usize::from(seg::SS)], self.regs[usize::from(reg::SP)], 0)
        };
        if let number @ 1.. = low >> 32 & 7 {
            stack.pointer = self.interrupt_stack(number)?;
        }
        stack.pointer &= !15;
        let selector = |number: u8| u64::from(self.segs[usize::from(number)].selector);
        let pointer = self.regs[usize::from(reg::SP)];
        let frame = [selector(seg::SS), pointer, vectored.image, selector(seg::CS), self.rip];
        let error = vectored.error.map(u64::from);
        self.at_level(level, |cpu| {
            frame.into_iter().chain(error).try_for_each(|value| cpu.push_to(&mut stack, 8, value))
        })?;
        self.use_stack(&stack, inner);
        self.clear_flags(&gate);
        self.enter(code, level, gate.offset());
        Ok(())
    }
}

/// Ends an instruction that is an interrupt. Its length and form are for [`Cpu::deliver`], which comes next.
fn software(cpu: &mut Cpu, op: &Op, vector: u8, form: u64) -> Flow {
    cpu.interrupts = (op.len, form);
    cpu.trap = Cause::Software(vector);
    Flow::Trap
}

/// INT n.
pub fn int(cpu: &mut Cpu, op: &Op) -> Flow {
    software(cpu, op, op.imm as u8, 0)
}

/// INT3.
pub fn int3(cpu: &mut Cpu, op: &Op) -> Flow {
    software(cpu, op, vector::BP, form::SHORT)
}

/// INTO.
pub fn into(cpu: &mut Cpu, op: &Op) -> Flow {
    if cpu.flags.overflow() { software(cpu, op, vector::OF, form::SHORT) } else { Flow::Next }
}

/// INT1, which is a debug exception whatever the gate's privilege level.
pub fn int1(cpu: &mut Cpu, op: &Op) -> Flow {
    software(cpu, op, vector::DB, form::DEBUG)
}
