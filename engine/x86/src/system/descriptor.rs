//! Descriptors in their tables (Intel SDM volume 3, 3.4.5 and 3.5).

use crate::cpu::{Cpu, Segment, Trap, attribute, vector};
use crate::memory::PAGE;
use crate::mmu::{Access, Who};
use crate::op::{Int, seg};

/// Types of system descriptors (volume 3, table 3-2).
pub mod kind {
    #![allow(missing_docs, reason = "they are called what they are")]
    #![allow(clippy::allow_attributes, reason = "an expectation does not reach into constants")]
    pub const TSS_16: u8 = 1;
    pub const LDT: u8 = 2;
    pub const TSS_16_BUSY: u8 = 3;
    pub const CALL_16: u8 = 4;
    pub const TASK_GATE: u8 = 5;
    pub const INTERRUPT_16: u8 = 6;
    pub const TRAP_16: u8 = 7;
    pub const TSS: u8 = 9;
    pub const TSS_BUSY: u8 = 11;
    pub const CALL: u8 = 12;
    pub const INTERRUPT: u8 = 14;
    pub const TRAP: u8 = 15;
}

/// The bit of a TSS descriptor's type that says that the task is busy.
const BUSY: u8 = 2;
/// The bit of a segment descriptor's type that says that it was loaded.
const ACCESSED: u8 = 1;

/// A descriptor, as it is in its table.
#[derive(Clone, Copy, Debug)]
pub struct Descriptor {
    /// Its 8 bytes.
    pub low: u64,
    /// The 8 bytes after it, which belong to it if it is a system descriptor in long mode; else 0.
    pub high: u64,
    /// Its linear address.
    pub at: u64,
}

impl Descriptor {
    /// As VMX lays them out; see [`attribute`].
    pub fn attributes(&self) -> u32 {
        (self.low >> 40) as u32 & 0xf0ff
    }

    /// Type, without S.
    pub fn kind(&self) -> u8 {
        (self.low >> 40 & 15) as u8
    }

    /// Not code or data.
    pub fn is_system(&self) -> bool {
        self.attributes() & attribute::S == 0
    }

    /// Whether it is a system descriptor of one of these types.
    pub fn is_kind(&self, kinds: &[u8]) -> bool {
        self.is_system() && kinds.contains(&self.kind())
    }

    /// Code.
    pub fn is_code(&self) -> bool {
        !self.is_system() && self.kind() & 8 != 0
    }

    /// Code that keeps its caller's privilege level.
    pub fn is_conforming(&self) -> bool {
        self.is_code() && self.kind() & 4 != 0
    }

    /// Data, or code that can be read.
    pub fn is_readable(&self) -> bool {
        !self.is_system() && (self.kind() & 8 == 0 || self.kind() & 2 != 0)
    }

    /// Data that can be written.
    pub fn is_writable(&self) -> bool {
        !self.is_system() && self.kind() & 8 == 0 && self.kind() & 2 != 0
    }

    /// Privilege level.
    pub fn dpl(&self) -> u8 {
        (self.low >> 45 & 3) as u8
    }

    /// Present.
    pub fn is_present(&self) -> bool {
        self.attributes() & attribute::P != 0
    }

    /// Code for 64-bit mode, if long mode is active.
    pub fn is_long(&self) -> bool {
        self.attributes() & attribute::L != 0
    }

    /// L and D together, which long mode does not allow.
    pub fn is_long_and_wide(&self) -> bool {
        self.attributes() & (attribute::L | attribute::D) == attribute::L | attribute::D
    }

    /// Base.
    pub fn base(&self) -> u64 {
        (self.low >> 16 & 0xff_ffff) | (self.low >> 56) << 24 | self.high << 32
    }

    /// Limit in bytes.
    pub fn limit(&self) -> u32 {
        let limit = (self.low & 0xffff) as u32 | (self.low >> 32) as u32 & 0xf_0000;
        if self.attributes() & attribute::G != 0 { limit << 12 | 0xfff } else { limit }
    }

    /// What a segment register holds that was loaded with it.
    pub fn segment(&self, selector: u16) -> Segment {
        let accessed = if self.is_system() { 0 } else { attribute::ACCESSED };
        Segment {
            selector,
            base: self.base(),
            limit: self.limit(),
            attributes: self.attributes() | accessed,
            ..Segment::default()
        }
    }

    /// Of a gate: the selector it leads to,
    pub fn target(&self) -> u16 {
        (self.low >> 16) as u16
    }

    /// and the offset there.
    pub fn offset(&self) -> u64 {
        if self.kind() & 8 == 0 {
            self.low & 0xffff
        } else {
            self.low & 0xffff | self.low >> 32 & 0xffff_0000 | self.high << 32
        }
    }
}

/// A selector as an error code names it.
pub fn named(selector: u16) -> u32 {
    u32::from(selector & 0xfffc)
}

/// Whether a selector names nothing.
pub fn is_null(selector: u16) -> bool {
    selector & 0xfffc == 0
}

/// Its requested privilege level.
pub fn rpl(selector: u16) -> u8 {
    (selector & 3) as u8
}

impl Cpu {
    /// Does something at another privilege level, whose rights its loads and stores have.
    pub(super) fn at_level<R>(&mut self, level: u8, work: impl FnOnce(&mut Self) -> R) -> R {
        let before = self.cpl;
        if before == level {
            return work(self);
        }
        self.cpl = level;
        self.renew_memory();
        let result = work(self);
        self.cpl = before;
        self.renew_memory();
        result
    }

    /// Loads from a table of the system's: as a supervisor, whatever the level (volume 3, 4.6).
    ///
    /// # Errors
    /// A page fault.
    pub(super) fn table<T: Int>(&mut self, linear: u64) -> Result<u64, Trap> {
        let linear = linear & self.table_addresses();
        let level = self.cpl.min(2);
        self.at_level(level, |cpu| match cpu.memory.load::<T>(linear) {
            Some(value) => Ok(value),
            None => cpu.load_linear_as(linear, T::BYTES, Access::Read, Who::Current),
        })
    }

    /// Addresses of tables have 64 bits in long mode, compatibility mode counted.
    pub(super) fn table_addresses(&self) -> u64 {
        if self.is_long() { u64::MAX } else { 0xffff_ffff }
    }

    /// Reads the descriptor that a selector names: 8 bytes.
    ///
    /// # Errors
    /// `fault` when it is outside its table; a page fault.
    pub(super) fn descriptor(&mut self, selector: u16, fault: u8) -> Result<Descriptor, Trap> {
        let index = u64::from(selector & 0xfff8);
        let at = self.place_of(selector, index + 7, fault)?.wrapping_add(index);
        Ok(Descriptor { low: self.table::<u64>(at)?, high: 0, at })
    }

    /// Likewise; a system descriptor in long mode has 16 bytes (volume 3, 3.5.2 and 5.8.3.1).
    ///
    /// # Errors
    /// As [`descriptor`](Self::descriptor); also `fault` when the second half is no such.
    pub(super) fn long_descriptor(&mut self, selector: u16, fault: u8) -> Result<Descriptor, Trap> {
        let descriptor = self.descriptor(selector, fault)?;
        if !self.is_long() || !descriptor.is_system() {
            return Ok(descriptor);
        }
        self.place_of(selector, u64::from(selector & 0xfff8) + 15, fault)?;
        let high = self.table::<u64>(descriptor.at.wrapping_add(8))?;
        // Its type, which has to be none.
        if high >> 40 & 0x1f != 0 {
            return Err(self.raise_with(fault, named(selector)));
        }
        Ok(Descriptor { high: high & 0xffff_ffff, ..descriptor })
    }

    /// The base of the table that a selector is in, if that has an offset `last`.
    fn place_of(&mut self, selector: u16, last: u64, fault: u8) -> Result<u64, Trap> {
        let (base, limit) = if selector & 4 == 0 {
            (self.gdt.base, u64::from(self.gdt.limit))
        } else {
            let ldt = &self.segs[usize::from(seg::LDT)];
            if !ldt.is_usable() || is_null(ldt.selector) {
                return Err(self.raise_with(fault, named(selector)));
            }
            (ldt.base, u64::from(ldt.limit))
        };
        if last > limit { Err(self.raise_with(fault, named(selector))) } else { Ok(base) }
    }

    /// Notes in the table that a segment was loaded, if that is not noted yet (volume 3, 3.4.5.1).
    ///
    /// # Errors
    /// A page fault.
    pub(super) fn mark_accessed(&mut self, descriptor: &Descriptor) -> Result<(), Trap> {
        if descriptor.kind() & ACCESSED != 0 { Ok(()) } else { self.change_kind(descriptor.at, ACCESSED, 0) }
    }

    /// Notes in the table that a task is busy, or is not (volume 3, 7.2.2).
    ///
    /// # Errors
    /// A page fault.
    pub(super) fn mark_busy(&mut self, at: u64, busy: bool) -> Result<(), Trap> {
        if busy { self.change_kind(at, BUSY, 0) } else { self.change_kind(at, 0, BUSY) }
    }

    /// Sets and clears bits of a descriptor's type, atomically: other processors may have the same table.
    fn change_kind(&mut self, at: u64, set: u8, clear: u8) -> Result<(), Trap> {
        let linear = at.wrapping_add(5) & self.table_addresses();
        let gpa = self.translate(linear, Access::Write, Who::Processor)?.gpa;
        // A table in ROM stays as it is.
        if let Some(page) = self.memory.map.page(gpa, true).filter(|page| page.writable) {
            let change = |byte: u64| byte & !u64::from(clear) | u64::from(set);
            page.host.exchange::<u8>((gpa & (PAGE - 1)) as usize, change);
            self.leave |= self.memory.is_code(page.host);
        }
        Ok(())
    }

    /// Whether an offset is one where code of this segment may begin.
    ///
    /// # Errors
    /// #GP with error code 0.
    pub(super) fn check_entry(&mut self, segment: &Segment, offset: u64) -> Result<(), Trap> {
        let fine = if self.is_long() && segment.attributes & attribute::L != 0 {
            self.is_canonical(offset)
        } else {
            offset <= u64::from(segment.limit)
        };
        if fine { Ok(()) } else { Err(self.raise_with(vector::GP, 0)) }
    }
}
