//! IRET (Intel SDM volume 2, IRET; volume 3, 6.14.3 and 20.2).

use super::descriptor::{is_null, named, rpl};
use super::segment::{null_stack, v86};
use super::task::{By, Stop};
use crate::cpu::{Cpu, Segment, Trap, attribute, cr0, cr4, vector};
use crate::flags;
use crate::op::{Flow, Int, Op, reg, seg};

/// Flags that IRET can change at any level, but for IF, IOPL and what only level 0 may.
const ANY: u64 = flags::ARITHMETIC | flags::TF | flags::DF | flags::NT | flags::RF | flags::AC | flags::ID;

impl Cpu {
    /// Changes the flags in `mask`, and works out what follows.
    pub(super) fn change_flags(&mut self, mask: u64, value: u64) {
        let old = self.flags.get();
        let new = old & !mask | value & mask;
        self.flags.set(new);
        if (old ^ new) & (flags::AC | flags::VM) != 0 {
            self.renew();
        }
    }

    /// The code segment that a return goes to, at the level that its selector asks for.
    ///
    /// # Errors
    /// #GP, #NP, page faults.
    pub(super) fn return_segment(&mut self, selector: u16, offset: u64) -> Result<Segment, Trap> {
        if is_null(selector) {
            return Err(self.gp());
        }
        let descriptor = self.descriptor(selector, vector::GP)?;
        let level = rpl(selector);
        let dpl = descriptor.dpl();
        let allowed = if descriptor.is_conforming() { dpl <= level } else { dpl == level };
        if !descriptor.is_code() || level < self.cpl || !allowed || (self.is_long() && descriptor.is_long_and_wide()) {
            return Err(self.raise_with(vector::GP, named(selector)));
        }
        if !descriptor.is_present() {
            return Err(self.raise_with(vector::NP, named(selector)));
        }
        self.mark_accessed(&descriptor)?;
        let segment = descriptor.segment(selector);
        self.check_entry(&segment, offset)?;
        Ok(segment)
    }

    /// The stack segment that a return to `code` goes to.
    ///
    /// # Errors
    /// #GP, #SS, page faults.
    pub(super) fn return_stack(&mut self, selector: u16, level: u8, code: &Segment) -> Result<Segment, Trap> {
        let to_64 = self.is_long() && code.attributes & attribute::L != 0;
        if is_null(selector) && to_64 && level < 3 && rpl(selector) == level {
            return Ok(null_stack(selector, level));
        }
        self.stack_segment(selector, level, vector::GP)
    }

    /// Sets RSP as a return to another stack does: as much of it as that stack uses.
    pub(super) fn set_returned_stack(&mut self, pointer: u64) {
        let mask = self.stack_mask();
        self.set_sp(mask, pointer);
    }

    fn return_8086<T: Int>(&mut self) -> Result<(), Trap> {
        let bytes = T::BYTES as u64;
        let in_v86 = self.is_v86();
        let monitored = in_v86 && self.iopl() < 3;
        if monitored && (self.cr4 & cr4::VME == 0 || T::BITS != 16) {
            return Err(self.gp());
        }
        let (offset, selector, image) = (self.peek::<T>(0)?, self.peek::<T>(bytes)? as u16, self.peek::<T>(2 * bytes)?);
        let limit = self.segs[usize::from(seg::CS)].limit;
        if offset > u64::from(limit) {
            return Err(self.gp());
        }
        if monitored {
            // The program's IF is VIF (volume 3, 20.3.3.4).
            let waits = self.flags.rest & flags::VIP != 0 && image & flags::IF != 0;
            if waits || image & flags::TF != 0 {
                return Err(self.gp());
            }
            self.change_flags(ANY & 0xffff, image);
            self.flags.rest = self.flags.rest & !flags::VIF | if image & flags::IF != 0 { flags::VIF } else { 0 };
        } else {
            let iopl = if in_v86 { 0 } else { flags::IOPL };
            self.change_flags((ANY | flags::IF | iopl) & T::MASK, image);
        }
        self.drop_stack(3 * bytes);
        self.go_8086(selector, offset);
        Ok(())
    }

    fn return_to_v86(&mut self, offset: u64, selector: u16, image: u64) -> Result<(), Trap> {
        let mut words = [0; 6];
        for (word, place) in words.iter_mut().zip(3u64..) {
            *word = self.peek::<u32>(place * 4)?;
        }
        if offset > 0xffff {
            return Err(self.gp());
        }
        let [pointer, stack, es, ds, fs, gs] = words;
        self.flags.set(image);
        self.cpl = 3;
        let data = [(seg::SS, stack), (seg::ES, es), (seg::DS, ds), (seg::FS, fs), (seg::GS, gs)];
        for (number, selector) in data {
            self.put_segment(number, v86(selector as u16));
        }
        self.put_segment(seg::CS, v86(selector));
        self.renew();
        self.regs[usize::from(reg::SP)] = pointer;
        self.rip = offset;
        Ok(())
    }

    fn return_protected<T: Int>(&mut self, next: u64) -> Result<(), Stop> {
        let bytes = T::BYTES as u64;
        if self.flags.rest & flags::NT != 0 {
            if self.is_long() {
                return Err(self.gp().into());
            }
            let link = self.tss_field::<u16>(0)? as u16;
            let image = self.flags.get();
            return self.switch_task(link, &By::Return, next, image);
        }
        let (offset, selector, image) = (self.peek::<T>(0)?, self.peek::<T>(bytes)? as u16, self.peek::<T>(2 * bytes)?);
        if T::BITS == 32 && image & flags::VM != 0 && self.cpl == 0 && !self.is_long() {
            self.return_to_v86(offset, selector, image)?;
            return Ok(());
        }
        let code = self.return_segment(selector, offset)?;
        let (before, level) = (self.cpl, rpl(selector));
        let outer = level > before;
        // In 64-bit mode there always is a stack to return to.
        let stack = if outer || self.is_64() {
            let (pointer, selector) = (self.peek::<T>(3 * bytes)?, self.peek::<T>(4 * bytes)? as u16);
            Some((self.return_stack(selector, level, &code)?, pointer))
        } else {
            None
        };
        let mut mask = ANY;
        if before <= self.iopl() {
            mask |= flags::IF;
        }
        if before == 0 {
            mask |= flags::IOPL | flags::VIF | flags::VIP;
        }
        self.change_flags(mask & T::MASK, image);
        match stack {
            Some((segment, pointer)) => {
                self.put_segment(seg::SS, segment);
                self.enter(code, level, offset);
                self.set_returned_stack(pointer);
                if outer {
                    self.drop_inner_segments();
                    self.renew();
                }
            }
            None => {
                self.drop_stack(3 * bytes);
                self.enter(code, level, offset);
            }
        }
        Ok(())
    }
}

/// IRET, IRETD, IRETQ.
pub fn iret<T: Int>(cpu: &mut Cpu, op: &Op) -> Flow {
    let next = cpu.next_rip(op);
    let done = if cpu.cr0 & cr0::PE == 0 || cpu.is_v86() {
        cpu.return_8086::<T>().map_err(Stop::from)
    } else {
        cpu.return_protected::<T>(next)
    };
    if done != Err(Stop::Before) {
        cpu.nmi_masked = false;
    }
    cpu.after_transfer(done)
}
