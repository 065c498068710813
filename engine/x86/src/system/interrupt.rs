//! Exceptions and interrupts on their way to their handlers, and back (Intel SDM volume 3, chapter 6).

use super::descriptor::named;
use super::far::Stack;
use crate::attempt;
use crate::cpu::{Cause, Cpu, Exception, Segment, Trap, attribute, vector};
use crate::flags;
use crate::op::{Flow, Int, Op, reg, seg};

const SP: usize = reg::SP as usize;
const CS: usize = seg::CS as usize;
const SS: usize = seg::SS as usize;

/// What is delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// An exception. RIP is the instruction's, or the next one's for a trap.
    Exception(Exception),
    /// INT n, INT3, INTO. RIP is the next instruction's.
    Software(u8),
    /// An interrupt from outside.
    External(u8),
    /// An NMI.
    Nmi,
}

/// A triple fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shutdown;

/// Error code: the fault came while something from outside was delivered.
const EXT: u32 = 1;
/// Error code: it names the IDT.
const IDT: u32 = 2;

/// Whether a fault while delivering it makes a double fault (table 6-5).
fn is_contributory(vector: u8) -> bool {
    matches!(vector, 0 | 10..=13)
}

impl Cpu {
    /// Delivers an event.
    ///
    /// # Errors
    /// A triple fault.
    pub fn deliver(&mut self, event: Event) -> Result<(), Shutdown> {
        let mut event = event;
        // A fault, a double fault, and no third.
        for _ in 0..8 {
            match self.deliver_once(event) {
                Ok(()) => return Ok(()),
                Err(Trap) => {
                    let Cause::Exception(second) = self.trap else { return Err(Shutdown) };
                    event = match event {
                        Event::Exception(first) if first.vector == vector::DF => return Err(Shutdown),
                        Event::Exception(first) => {
                            let page = first.vector == vector::PF;
                            let doubles = (is_contributory(first.vector) && is_contributory(second.vector))
                                || (page && (second.vector == vector::PF || is_contributory(second.vector)));
                            if doubles {
                                Event::Exception(Exception { vector: vector::DF, error: Some(0), address: 0 })
                            } else {
                                Event::Exception(second)
                            }
                        }
                        Event::Software(_) => Event::Exception(second),
                        Event::External(_) | Event::Nmi => {
                            let error =
                                second.error.map(|error| if second.vector == vector::PF { error } else { error | EXT });
                            Event::Exception(Exception { error, ..second })
                        }
                    };
                }
            }
        }
        Err(Shutdown)
    }

    fn deliver_once(&mut self, event: Event) -> Result<(), Trap> {
        let (vector, error, software) = match event {
            Event::Exception(exception) => {
                if exception.vector == vector::PF {
                    self.cr2 = exception.address;
                }
                if exception.vector == vector::DB {
                    self.dr[7] &= !(1 << 13);
                }
                (exception.vector, exception.error, false)
            }
            Event::Software(vector) => (vector, None, true),
            Event::External(vector) => (vector, None, false),
            Event::Nmi => (vector::NMI, None, false),
        };
        let mut pushed = self.flags.get();
        // Faults are to be carried out again without their breakpoint; not so debug exceptions and traps.
        if let Event::Exception(exception) = event
            && !matches!(exception.vector, vector::DB | vector::DF | vector::BP | vector::OF)
        {
            pushed |= flags::RF;
        }
        if !self.is_protected() && !self.is_v86() {
            self.deliver_real(vector, pushed)?;
        } else if self.is_long() {
            self.deliver_long(vector, error, software, pushed)?;
        } else {
            self.deliver_protected(vector, error, software, pushed)?;
        }
        if event == Event::Nmi {
            self.nmi_masked = true;
        }
        Ok(())
    }

    fn deliver_real(&mut self, vector: u8, pushed: u64) -> Result<(), Trap> {
        let at = u64::from(vector) * 4;
        if at + 3 > u64::from(self.idt.limit) {
            return Err(self.raise_with(vector::GP, u32::from(vector) << 3 | IDT));
        }
        let base = self.idt.base;
        let offset = self.load_linear::<u16>(base.wrapping_add(at))?;
        let selector = self.load_linear::<u16>(base.wrapping_add(at + 2))? as u16;
        let mut stack = self.stack_now();
        stack.push::<u16>(self, pushed & 0xffff)?;
        let (cs, rip) = (self.segs[CS].selector, self.rip);
        stack.push::<u16>(self, cs.into())?;
        stack.push::<u16>(self, rip)?;
        self.set_sp(0xffff, stack.pointer);
        self.flags.rest &= !(flags::IF | flags::TF | flags::AC | flags::RF);
        let segment = &mut self.segs[CS];
        (segment.selector, segment.base) = (selector, u64::from(selector) << 4);
        self.renew();
        self.rip = offset;
        Ok(())
    }

    fn deliver_protected(&mut self, vector: u8, error: Option<u32>, software: bool, pushed: u64) -> Result<(), Trap> {
        let code = u32::from(vector) << 3 | IDT;
        let at = u64::from(vector) * 8;
        if at + 7 > u64::from(self.idt.limit) {
            return Err(self.raise_with(vector::GP, code));
        }
        let low = self.load_linear::<u64>(self.idt.base.wrapping_add(at))?;
        let gate = super::descriptor::Descriptor { low, high: 0, at: 0 };
        // 16- and 32-bit interrupt and trap gates; task gates are refused.
        if gate.is_segment() || !matches!(gate.kind(), 6 | 7 | 14 | 15) || (software && gate.dpl() < self.cpl) {
            return Err(self.raise_with(vector::GP, code));
        }
        if !gate.is_present() {
            return Err(self.raise_with(vector::NP, code));
        }
        let selector = gate.gate_selector();
        if selector & 0xfffc == 0 {
            return Err(self.raise_with(vector::GP, 0));
        }
        let descriptor = self.descriptor(selector, vector::GP)?;
        if !descriptor.is_code() || descriptor.dpl() > self.cpl {
            return Err(self.raise_with(vector::GP, named(selector)));
        }
        let v86 = self.is_v86();
        let cpl = if descriptor.is_conforming() { self.cpl } else { descriptor.dpl() };
        if v86 && cpl != 0 {
            return Err(self.raise_with(vector::GP, named(selector)));
        }
        let segment = self.code_segment(selector, &descriptor, cpl)?;
        let wide = gate.kind() & 8 != 0;
        let offset = if wide { gate.gate_offset() & 0xffff_ffff } else { gate.gate_offset() & 0xffff };
        self.check_entry(&segment, offset)?;
        let inner = cpl < self.cpl || v86;
        let mut stack = if inner { self.inner_stack(cpl)? } else { self.stack_now() };
        let (cs, rip, ss, sp) = (self.segs[CS].selector, self.rip, self.segs[SS].selector, self.regs[SP]);
        let mut words = Vec::with_capacity(10);
        if v86 {
            words.extend(
                [seg::GS, seg::FS, seg::DS, seg::ES].map(|number| u64::from(self.segs[usize::from(number)].selector)),
            );
        }
        if inner {
            words.extend([ss.into(), sp]);
        }
        words.extend([pushed, cs.into(), rip]);
        words.extend(error.map(u64::from));
        for word in words {
            if wide {
                stack.push::<u32>(self, word)?;
            } else {
                stack.push::<u16>(self, word)?;
            }
        }
        if v86 {
            for number in [seg::GS, seg::FS, seg::DS, seg::ES] {
                self.segs[usize::from(number)] = Segment { attributes: attribute::UNUSABLE, ..Segment::default() };
            }
        }
        self.flags.rest &= !(flags::TF | flags::NT | flags::VM | flags::RF);
        if gate.kind() & 1 == 0 {
            self.flags.rest &= !flags::IF;
        }
        if inner {
            self.segs[SS] = stack.segment;
        }
        self.enter(segment, cpl, offset);
        let mask = self.stack_mask();
        self.set_sp(mask, stack.pointer);
        Ok(())
    }

    fn deliver_long(&mut self, vector: u8, error: Option<u32>, software: bool, pushed: u64) -> Result<(), Trap> {
        let code = u32::from(vector) << 3 | IDT;
        let at = u64::from(vector) * 16;
        if at + 15 > u64::from(self.idt.limit) {
            return Err(self.raise_with(vector::GP, code));
        }
        let at = self.idt.base.wrapping_add(at);
        let low = self.load_linear::<u64>(at)?;
        let high = self.load_linear::<u32>(at.wrapping_add(8))? as u32;
        let gate = super::descriptor::Descriptor { low, high, at };
        if gate.is_segment() || !matches!(gate.kind(), 14 | 15) || (software && gate.dpl() < self.cpl) {
            return Err(self.raise_with(vector::GP, code));
        }
        if !gate.is_present() {
            return Err(self.raise_with(vector::NP, code));
        }
        let selector = gate.gate_selector();
        if selector & 0xfffc == 0 {
            return Err(self.raise_with(vector::GP, 0));
        }
        let descriptor = self.descriptor(selector, vector::GP)?;
        if !descriptor.is_code() || descriptor.dpl() > self.cpl || descriptor.attributes() & attribute::L == 0 {
            return Err(self.raise_with(vector::GP, named(selector)));
        }
        let cpl = if descriptor.is_conforming() { self.cpl } else { descriptor.dpl() };
        let segment = self.code_segment(selector, &descriptor, cpl)?;
        let offset = gate.gate_offset();
        if !self.is_canonical(offset) {
            return Err(self.gp());
        }
        let ist = low >> 32 & 7;
        let pointer = match (ist, cpl < self.cpl) {
            (1.., _) => self.stack_pointer_64(3 + ist)?,
            (_, true) => self.stack_pointer_64(cpl.into())?,
            _ => self.regs[SP],
        };
        let inner = cpl < self.cpl;
        let mut stack = Stack::new(Segment::default(), pointer & !15, true);
        let (cs, rip, ss, sp) = (self.segs[CS].selector, self.rip, self.segs[SS].selector, self.regs[SP]);
        for word in [ss.into(), sp, pushed, cs.into(), rip].into_iter().chain(error.map(u64::from)) {
            stack.push::<u64>(self, word)?;
        }
        self.flags.rest &= !(flags::TF | flags::NT | flags::VM | flags::RF);
        if gate.kind() & 1 == 0 {
            self.flags.rest &= !flags::IF;
        }
        if inner {
            self.segs[SS] = Segment {
                selector: cpl.into(),
                attributes: attribute::UNUSABLE | u32::from(cpl) << 5,
                ..Segment::default()
            };
        }
        self.enter(segment, cpl, offset);
        self.regs[SP] = stack.pointer;
        Ok(())
    }

    /// IRET.
    fn interrupt_return<T: Int>(&mut self) -> Result<(), Trap> {
        let bytes = T::BYTES as u64;
        if self.is_v86() && self.iopl() < 3 {
            return Err(self.gp());
        }
        let offset = self.peek::<T>(0)?;
        let selector = self.peek::<T>(bytes)? as u16;
        let image = self.peek::<T>(2 * bytes)?;
        if !self.is_protected() {
            if offset > u64::from(self.segs[CS].limit) {
                return Err(self.gp());
            }
            let keeps = if self.is_v86() { flags::IOPL } else { 0 };
            self.set_image::<T>(image, keeps | flags::VM | flags::VIF | flags::VIP);
            self.drop_stack(3 * bytes);
            let segment = &mut self.segs[CS];
            (segment.selector, segment.base) = (selector, u64::from(selector) << 4);
            self.renew();
            self.rip = offset & self.rip_mask;
            return Ok(());
        }
        if self.flags.rest & flags::NT != 0 {
            // A task return: no guest of today does it.
            return Err(self.gp());
        }
        if image & flags::VM != 0 && self.cpl == 0 && !self.is_long() && T::BITS == 32 {
            return self.return_to_v86(offset, selector, image);
        }
        let rpl = (selector & 3) as u8;
        if selector & 0xfffc == 0 || rpl < self.cpl {
            return Err(self.raise_with(vector::GP, named(selector)));
        }
        let descriptor = self.descriptor(selector, vector::GP)?;
        let segment = self.code_segment(selector, &descriptor, rpl)?;
        self.check_entry(&segment, offset)?;
        let outer = rpl > self.cpl;
        let stack = if outer || self.is_64() {
            let pointer = self.peek::<T>(3 * bytes)?;
            let stack_selector = self.peek::<T>(4 * bytes)? as u16;
            let null = self.is_long_segment(&segment) && stack_selector & 0xfffc == 0 && rpl < 3;
            let stack = if null {
                let attributes = attribute::UNUSABLE | u32::from(rpl) << 5;
                Segment { selector: stack_selector, attributes, ..Segment::default() }
            } else {
                self.stack_segment_of(stack_selector, rpl, vector::GP)?
            };
            Some((stack, pointer))
        } else {
            None
        };
        let mut keeps = flags::VM;
        if self.cpl > 0 {
            keeps |= flags::IOPL | flags::VIF | flags::VIP;
        }
        if self.cpl > self.iopl() {
            keeps |= flags::IF;
        }
        self.set_image::<T>(image, keeps);
        match stack {
            Some((stack, pointer)) => {
                self.segs[SS] = stack;
                self.enter(segment, rpl, offset);
                let mask = self.stack_mask();
                self.set_sp(mask, pointer);
                if outer {
                    self.drop_inner_segments();
                }
            }
            None => {
                self.drop_stack(3 * bytes);
                self.enter(segment, rpl, offset);
            }
        }
        Ok(())
    }

    /// RFLAGS from a stack's image of that size, but for some.
    pub fn set_image<T: Int>(&mut self, image: u64, keeps: u64) {
        let old = self.flags.get();
        let mask = T::MASK & !keeps;
        self.flags.set(old & !mask | image & mask);
    }

    fn return_to_v86(&mut self, offset: u64, selector: u16, image: u64) -> Result<(), Trap> {
        let mut words = [0; 6];
        for (word, index) in words.iter_mut().zip(3u64..) {
            *word = self.peek::<u32>(index * 4)?;
        }
        let [pointer, ss, es, ds, fs, gs] = words;
        self.flags.set(image);
        self.cpl = 3;
        for (number, selector) in
            [(seg::CS, u64::from(selector)), (seg::SS, ss), (seg::ES, es), (seg::DS, ds), (seg::FS, fs), (seg::GS, gs)]
        {
            let selector = selector as u16;
            self.segs[usize::from(number)] = Segment {
                selector,
                base: u64::from(selector) << 4,
                limit: 0xffff,
                attributes: 0xf3,
                ..Segment::default()
            };
        }
        self.segs[CS].attributes = 0xfb;
        self.renew();
        self.rip = offset & 0xffff;
        self.regs[SP] = pointer;
        Ok(())
    }
}

/// IRET, IRETD, IRETQ.
pub fn iret<T: Int>(cpu: &mut Cpu, _op: &Op) -> Flow {
    attempt!(cpu.interrupt_return::<T>());
    cpu.nmi_masked = false;
    Flow::Jump
}

/// INT n.
pub fn int(cpu: &mut Cpu, op: &Op) -> Flow {
    if cpu.is_v86() && cpu.iopl() < 3 {
        cpu.gp();
        return Flow::Trap;
    }
    cpu.trap = Cause::Software(op.imm as u8);
    Flow::Trap
}

/// INT3.
pub fn int3(cpu: &mut Cpu, _op: &Op) -> Flow {
    cpu.trap = Cause::Software(vector::BP);
    Flow::Trap
}

/// INTO.
pub fn into(cpu: &mut Cpu, _op: &Op) -> Flow {
    if !cpu.flags.overflow() {
        return Flow::Next;
    }
    cpu.trap = Cause::Software(vector::OF);
    Flow::Trap
}

/// INT1.
pub fn int1(cpu: &mut Cpu, _op: &Op) -> Flow {
    cpu.trap = Cause::Software(vector::DB);
    Flow::Trap
}
