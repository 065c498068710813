//! Loads of segment registers (Intel SDM volume 3, 3.4.3 and 5.6; volume 2, MOV, POP and LDS).

use super::descriptor::{is_null, named, rpl};
use crate::attempt;
use crate::cpu::{Cpu, Segment, Trap, attribute, vector};
use crate::op::{ADDRESS_MASKS, Flow, Int, Op, seg};

/// What a null selector leaves.
pub(super) fn null(selector: u16) -> Segment {
    Segment { selector, attributes: attribute::UNUSABLE, ..Segment::default() }
}

/// A null selector in SS, as 64-bit mode allows it below level 3.
pub(super) fn null_stack(selector: u16, level: u8) -> Segment {
    Segment { selector, attributes: attribute::UNUSABLE | u32::from(level) << 5, ..Segment::default() }
}

/// A segment of virtual-8086 mode (volume 3, 20.1.1).
pub(super) fn v86(selector: u16) -> Segment {
    Segment { selector, base: u64::from(selector) << 4, limit: 0xffff, attributes: 0xf3, ..Segment::default() }
}

impl Cpu {
    /// Changes a segment register with its hidden part. [`renew`](Self::renew) has to follow.
    pub(super) fn put_segment(&mut self, number: u8, segment: Segment) {
        self.segs[usize::from(number & 7)] = segment;
    }

    /// The segment that a load in real mode leaves: base and selector change, the limit does not ("unreal mode").
    pub(super) fn real_segment(&self, number: u8, selector: u16) -> Segment {
        let old = self.segs[usize::from(number & 7)];
        // Real mode knows no rights; what protected mode left of them, code in CS too, must not be in the way.
        let attributes = old.attributes & (attribute::D | attribute::G) | 0x93;
        let limit = if old.is_usable() { old.limit } else { 0xffff };
        Segment { selector, base: u64::from(selector) << 4, limit, attributes, ..Segment::default() }
    }

    /// Loads DS, ES, FS, GS or SS.
    ///
    /// # Errors
    /// #GP, #NP, #SS, page faults: nothing is changed then.
    pub fn load_segment(&mut self, number: u8, selector: u16) -> Result<(), Trap> {
        let segment = if self.is_v86() {
            v86(selector)
        } else if !self.is_protected() {
            self.real_segment(number, selector)
        } else if number == seg::SS {
            let level = self.cpl;
            if is_null(selector) && self.is_64() && level < 3 && rpl(selector) == level {
                null_stack(selector, level)
            } else {
                self.stack_segment(selector, level, vector::GP)?
            }
        } else {
            self.data_segment(selector)?
        };
        self.put_segment(number, segment);
        self.renew();
        Ok(())
    }

    /// The data segment that a selector names, at the current level.
    ///
    /// # Errors
    /// #GP, #NP, page faults.
    fn data_segment(&mut self, selector: u16) -> Result<Segment, Trap> {
        let level = self.cpl;
        self.data_segment_as(selector, level, vector::GP)
    }

    /// Likewise for a level, with the fault that says that it is none.
    ///
    /// # Errors
    /// `fault`, #NP, page faults.
    pub(super) fn data_segment_as(&mut self, selector: u16, level: u8, fault: u8) -> Result<Segment, Trap> {
        if is_null(selector) {
            return Ok(null(selector));
        }
        let descriptor = self.descriptor(selector, fault)?;
        let dpl = descriptor.dpl();
        let allowed = descriptor.is_conforming() || (dpl >= level && dpl >= rpl(selector));
        if !descriptor.is_readable() || !allowed {
            return Err(self.raise_with(fault, named(selector)));
        }
        if !descriptor.is_present() {
            return Err(self.raise_with(vector::NP, named(selector)));
        }
        self.mark_accessed(&descriptor)?;
        Ok(descriptor.segment(selector))
    }

    /// The stack segment that a selector names, for a level: `fault` is #GP, or #TS where a TSS says so.
    ///
    /// # Errors
    /// `fault`, #SS, page faults.
    pub(super) fn stack_segment(&mut self, selector: u16, level: u8, fault: u8) -> Result<Segment, Trap> {
        if is_null(selector) {
            return Err(self.raise_with(fault, 0));
        }
        let descriptor = self.descriptor(selector, fault)?;
        if rpl(selector) != level || descriptor.dpl() != level || !descriptor.is_writable() {
            return Err(self.raise_with(fault, named(selector)));
        }
        if !descriptor.is_present() {
            return Err(self.raise_with(vector::SS, named(selector)));
        }
        self.mark_accessed(&descriptor)?;
        Ok(descriptor.segment(selector))
    }

    /// After a return to an outer level: data segments that it must not have are taken away (volume 2, RET).
    pub(super) fn drop_inner_segments(&mut self) {
        for number in [seg::ES, seg::DS, seg::FS, seg::GS] {
            let segment = self.segs[usize::from(number)];
            let code = attribute::CODE | attribute::EXPAND_DOWN;
            let conforming = segment.attributes & code == code;
            if segment.is_usable() && segment.dpl() < self.cpl && !conforming {
                self.put_segment(number, null(0));
            }
        }
    }
}

/// What follows a load of a segment register: after SS nothing comes in between (volume 3, 6.8.3).
fn loaded(cpu: &mut Cpu, number: u8) -> Flow {
    if number == seg::SS {
        cpu.shadow_ss = true;
    }
    Flow::Leave
}

/// MOV segment register, register.
pub fn mov_sr(cpu: &mut Cpu, op: &Op) -> Flow {
    let selector = cpu.get::<u16>(op.src) as u16;
    attempt!(cpu.load_segment(op.dst, selector));
    loaded(cpu, op.dst)
}

/// MOV segment register, memory.
pub fn mov_sm(cpu: &mut Cpu, op: &Op) -> Flow {
    let selector = attempt!(cpu.load::<u16>(op.seg, cpu.address(op))) as u16;
    attempt!(cpu.load_segment(op.dst, selector));
    loaded(cpu, op.dst)
}

/// MOV register, segment register.
pub fn mov_rs<T: Int>(cpu: &mut Cpu, op: &Op) -> Flow {
    let selector = cpu.segs[usize::from(op.src & 7)].selector;
    cpu.set::<T>(op.dst, selector.into());
    Flow::Next
}

/// MOV memory, segment register: always 16 bits.
pub fn mov_ms(cpu: &mut Cpu, op: &Op) -> Flow {
    let selector = cpu.segs[usize::from(op.src & 7)].selector;
    attempt!(cpu.store::<u16>(op.seg, cpu.address(op), selector.into()));
    cpu.stored()
}

/// MOV CS, which there is not.
pub fn mov_cs(cpu: &mut Cpu, _op: &Op) -> Flow {
    cpu.raise(vector::UD);
    Flow::Trap
}

/// LDS, LES, LSS, LFS, LGS: `extra` is the segment register.
pub fn load_pointer<T: Int>(cpu: &mut Cpu, op: &Op) -> Flow {
    let address = cpu.address(op);
    let offset = attempt!(cpu.load::<T>(op.seg, address));
    let behind = address.wrapping_add(T::BYTES as u64) & ADDRESS_MASKS[usize::from(op.asize & 3)];
    let selector = attempt!(cpu.load::<u16>(op.seg, behind)) as u16;
    attempt!(cpu.load_segment(op.extra, selector));
    cpu.set::<T>(op.dst, offset);
    Flow::Leave
}
