//! Frames that are pushed before anything else changes, and the stacks of inner levels (Intel SDM volume 3, 5.8.5, 6.12
//! and 6.14).

use super::descriptor::{kind, named};
use super::segment::null_stack;
use crate::cpu::{Cpu, Segment, Trap, attribute, vector};
use crate::mmu::Who;
use crate::op::{Int, reg, seg};

const SP: usize = reg::SP as usize;

/// A stack that is filled before it is in use: RSP moves when all is done.
#[derive(Clone, Copy, Debug)]
pub struct Stack {
    /// Its segment.
    pub segment: Segment,
    /// Its pointer, all 64 bits of the register.
    pub pointer: u64,
    /// The part of the pointer that counts; all of it in 64-bit mode, where the segment does not matter.
    mask: u64,
    /// What a stack fault's error code names.
    error: u32,
}

impl Stack {
    /// Of a segment outside 64-bit mode.
    fn legacy(segment: Segment, pointer: u64, error: u32) -> Self {
        let mask = if segment.attributes & attribute::D != 0 { 0xffff_ffff } else { 0xffff };
        Self { segment, pointer, mask, error }
    }

    /// In 64-bit mode.
    pub fn long(segment: Segment, pointer: u64, error: u32) -> Self {
        Self { segment, pointer, mask: u64::MAX, error }
    }

    /// Whether these bytes may be written.
    fn reaches(&self, offset: u64, bytes: u64) -> bool {
        let attributes = self.segment.attributes;
        let right = attribute::P | attribute::WRITABLE;
        if attributes & (right | attribute::UNUSABLE | attribute::CODE) != right {
            return false;
        }
        let last = offset.saturating_add(bytes - 1);
        let limit = u64::from(self.segment.limit);
        if attributes & attribute::EXPAND_DOWN != 0 { offset > limit && last <= self.mask } else { last <= limit }
    }
}

impl Cpu {
    /// The stack in use.
    pub(super) fn stack_now(&self) -> Stack {
        let (segment, pointer) = (self.segs[usize::from(seg::SS)], self.regs[SP]);
        if self.is_64() { Stack::long(segment, pointer, 0) } else { Stack::legacy(segment, pointer, 0) }
    }

    /// Pushes `bytes` (2, 4 or 8) of a value, with the current level's rights.
    ///
    /// # Errors
    /// #SS, a page fault.
    pub(super) fn push_to(&mut self, stack: &mut Stack, bytes: u64, value: u64) -> Result<(), Trap> {
        let top = stack.pointer.wrapping_sub(bytes) & stack.mask;
        let linear = if stack.mask == u64::MAX {
            if !self.is_canonical(top) || !self.is_canonical(top.wrapping_add(bytes - 1)) {
                return Err(self.raise_with(vector::SS, stack.error));
            }
            top
        } else {
            if !stack.reaches(top, bytes) {
                return Err(self.raise_with(vector::SS, stack.error));
            }
            stack.segment.base.wrapping_add(top) & 0xffff_ffff
        };
        match bytes {
            2 => self.store_stack::<u16>(linear, value)?,
            4 => self.store_stack::<u32>(linear, value)?,
            _ => self.store_stack::<u64>(linear, value)?,
        }
        stack.pointer = if stack.mask == 0xffff { stack.pointer & !0xffff | top } else { top };
        Ok(())
    }

    fn store_stack<T: Int>(&mut self, linear: u64, value: u64) -> Result<(), Trap> {
        if let Some(code) = self.memory.store::<T>(linear, value) {
            self.leave |= code;
            return Ok(());
        }
        self.store_linear_as(linear, T::BYTES, T::cut(value), Who::Current)
    }

    /// Takes a stack into use, its segment loaded if it is another one.
    pub(super) fn use_stack(&mut self, stack: &Stack, other: bool) {
        if other {
            self.put_segment(seg::SS, stack.segment);
        }
        self.regs[SP] = stack.pointer;
    }

    /// A field of the TSS.
    ///
    /// # Errors
    /// #TS when it is beyond its limit; a page fault.
    pub(super) fn tss_field<T: Int>(&mut self, at: u64) -> Result<u64, Trap> {
        let tr = self.segs[usize::from(seg::TR)];
        if at + T::BYTES as u64 - 1 > u64::from(tr.limit) {
            return Err(self.raise_with(vector::TS, named(tr.selector)));
        }
        self.table::<T>(tr.base.wrapping_add(at))
    }

    /// Whether the task's TSS has 32 bits (or 64); else it has 16.
    pub(super) fn has_wide_tss(&self) -> bool {
        let attributes = self.segs[usize::from(seg::TR)].attributes;
        matches!((attributes & attribute::TYPE) as u8, kind::TSS | kind::TSS_BUSY)
    }

    /// The stack of an inner level outside long mode, from the TSS (volume 3, 7.2.1 and 7.6).
    ///
    /// # Errors
    /// #TS, #SS, page faults.
    pub(super) fn inner_stack(&mut self, level: u8) -> Result<Stack, Trap> {
        let (pointer, selector) = if self.has_wide_tss() {
            let at = 4 + u64::from(level) * 8;
            // Both fields are within the limit, or neither is looked at.
            let selector = self.tss_field::<u16>(at + 4)?;
            (self.tss_field::<u32>(at)?, selector as u16)
        } else {
            let at = 2 + u64::from(level) * 4;
            let selector = self.tss_field::<u16>(at + 2)?;
            (self.tss_field::<u16>(at)?, selector as u16)
        };
        let segment = self.stack_segment(selector, level, vector::TS)?;
        Ok(Stack::legacy(segment, pointer, named(selector)))
    }

    /// The stack of an inner level in long mode: SS is null then (volume 3, 6.14.2).
    ///
    /// # Errors
    /// #TS, page faults.
    pub(super) fn inner_stack_long(&mut self, level: u8) -> Result<Stack, Trap> {
        let pointer = self.tss_field::<u64>(4 + u64::from(level) * 8)?;
        Ok(Stack::long(null_stack(level.into(), level), pointer, 0))
    }

    /// The pointer of an interrupt stack: 1 to 7 (volume 3, 6.14.5).
    ///
    /// # Errors
    /// #TS, page faults.
    pub(super) fn interrupt_stack(&mut self, number: u64) -> Result<u64, Trap> {
        self.tss_field::<u64>(0x1c + number * 8)
    }

    /// Code of this segment is executed from now on, at this level and offset.
    pub(super) fn enter(&mut self, mut segment: Segment, level: u8, offset: u64) {
        segment.selector = segment.selector & !3 | u16::from(level);
        if !self.is_long() {
            segment.attributes &= !attribute::L;
        }
        self.put_segment(seg::CS, segment);
        self.cpl = level;
        self.renew();
        self.rip = offset & self.rip_mask;
    }
}
