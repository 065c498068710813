//! Descriptors, and loads of segment registers (Intel SDM volume 3, chapters 3 and 5).

use crate::cpu::{Cpu, Segment, Trap, attribute, vector};
use crate::op::seg;

/// A descriptor of 8 bytes, as it is in its table.
#[derive(Clone, Copy, Debug)]
pub struct Descriptor {
    /// The bytes.
    pub low: u64,
    /// Of a system descriptor in long mode: the upper half of its base.
    pub high: u32,
    /// Where it is: the linear address.
    pub at: u64,
}

impl Descriptor {
    /// Base.
    pub fn base(&self) -> u64 {
        (self.low >> 16 & 0xff_ffff) | (self.low >> 56) << 24 | u64::from(self.high) << 32
    }

    /// Limit in bytes.
    pub fn limit(&self) -> u32 {
        let limit = (self.low & 0xffff) as u32 | (self.low >> 32) as u32 & 0xf_0000;
        if self.attributes() & attribute::G != 0 { limit << 12 | 0xfff } else { limit }
    }

    /// As VMX lays them out.
    pub fn attributes(&self) -> u32 {
        (self.low >> 40) as u32 & 0xf0ff
    }

    /// Type.
    pub fn kind(&self) -> u32 {
        self.attributes() & attribute::TYPE
    }

    /// Code or data.
    pub fn is_segment(&self) -> bool {
        self.attributes() & attribute::S != 0
    }

    /// Code.
    pub fn is_code(&self) -> bool {
        self.is_segment() && self.attributes() & attribute::CODE != 0
    }

    /// Conforming code.
    pub fn is_conforming(&self) -> bool {
        self.is_code() && self.attributes() & attribute::EXPAND_DOWN != 0
    }

    /// Present.
    pub fn is_present(&self) -> bool {
        self.attributes() & attribute::P != 0
    }

    /// Privilege level.
    pub fn dpl(&self) -> u8 {
        (self.attributes() >> 5 & 3) as u8
    }

    /// The segment that it describes.
    pub fn segment(&self, selector: u16) -> Segment {
        Segment {
            selector,
            base: self.base(),
            limit: self.limit(),
            attributes: self.attributes(),
            ..Segment::default()
        }
    }

    /// Of a gate: the selector it leads to,
    pub fn gate_selector(&self) -> u16 {
        (self.low >> 16) as u16
    }

    /// and the offset.
    pub fn gate_offset(&self) -> u64 {
        self.low & 0xffff | (self.low >> 48) << 16 | u64::from(self.high) << 32
    }
}

/// The error code that names a selector.
pub fn named(selector: u16) -> u32 {
    u32::from(selector & 0xfffc)
}

/// What a null selector leaves in a data segment register in long mode.
fn null(selector: u16) -> Segment {
    Segment { selector, attributes: attribute::UNUSABLE, ..Segment::default() }
}

impl Cpu {
    /// Reads the descriptor of a selector that is not null.
    ///
    /// # Errors
    /// `vector` with the selector when it is outside its table; a page fault.
    pub fn descriptor(&mut self, selector: u16, fault: u8) -> Result<Descriptor, Trap> {
        self.wide_descriptor(selector, fault, false)
    }

    /// Likewise; of a system descriptor in long mode also the second half, if `wide`.
    ///
    /// # Errors
    /// As [`descriptor`](Self::descriptor).
    pub fn wide_descriptor(&mut self, selector: u16, fault: u8, wide: bool) -> Result<Descriptor, Trap> {
        let (base, limit) = if selector & 4 == 0 {
            (self.gdt.base, u32::from(self.gdt.limit))
        } else {
            let ldt = &self.segs[usize::from(seg::LDT)];
            if !ldt.is_usable() || ldt.selector & 0xfffc == 0 {
                return Err(self.raise_with(fault, named(selector)));
            }
            (ldt.base, ldt.limit)
        };
        let offset = u32::from(selector & 0xfff8);
        let last = if wide { 15 } else { 7 };
        if offset + last > limit {
            return Err(self.raise_with(fault, named(selector)));
        }
        let at = base.wrapping_add(offset.into());
        let low = self.load_linear::<u64>(at)?;
        let high = if wide { self.load_linear::<u32>(at.wrapping_add(8))? as u32 } else { 0 };
        Ok(Descriptor { low, high, at })
    }

    /// Sets the accessed bit in the table, if it is not.
    ///
    /// # Errors
    /// A page fault.
    pub fn mark_accessed(&mut self, descriptor: &Descriptor) -> Result<(), Trap> {
        if descriptor.low >> 40 & 1 == 0 {
            let at = descriptor.at.wrapping_add(5);
            let byte = self.load_linear::<u8>(at)?;
            self.store_linear::<u8>(at, byte | 1)?;
        }
        Ok(())
    }

    /// Loads a segment register other than CS.
    ///
    /// # Errors
    /// #GP, #NP, #SS; page faults. Nothing is changed then.
    pub fn load_segment(&mut self, number: u8, selector: u16) -> Result<(), Trap> {
        let index = usize::from(number & 7);
        if !self.is_protected() {
            let segment = &mut self.segs[index];
            (segment.selector, segment.base) = (selector, u64::from(selector) << 4);
            if self.is_v86() {
                let segment = &mut self.segs[index];
                (segment.limit, segment.attributes) = (0xffff, 0xf3);
            }
            self.renew();
            return Ok(());
        }
        let segment = if number == seg::SS { self.stack_segment(selector)? } else { self.data_segment(selector)? };
        self.segs[index] = segment;
        self.renew();
        Ok(())
    }

    fn data_segment(&mut self, selector: u16) -> Result<Segment, Trap> {
        if selector & 0xfffc == 0 {
            return Ok(null(selector));
        }
        let descriptor = self.descriptor(selector, vector::GP)?;
        let readable = descriptor.is_segment() && (!descriptor.is_code() || descriptor.kind() & 2 != 0);
        let rpl = (selector & 3) as u8;
        let allowed = descriptor.is_conforming() || (descriptor.dpl() >= self.cpl && descriptor.dpl() >= rpl);
        if !readable || !allowed {
            return Err(self.raise_with(vector::GP, named(selector)));
        }
        if !descriptor.is_present() {
            return Err(self.raise_with(vector::NP, named(selector)));
        }
        self.mark_accessed(&descriptor)?;
        let mut segment = descriptor.segment(selector);
        segment.attributes |= attribute::ACCESSED;
        Ok(segment)
    }

    fn stack_segment(&mut self, selector: u16) -> Result<Segment, Trap> {
        let cpl = self.cpl;
        self.stack_segment_of(selector, cpl, vector::GP)
    }

    /// The stack segment for a privilege level.
    ///
    /// # Errors
    /// `fault` (#GP, or #TS for one from a TSS), #SS.
    pub fn stack_segment_of(&mut self, selector: u16, cpl: u8, fault: u8) -> Result<Segment, Trap> {
        if selector & 0xfffc == 0 {
            // In 64-bit mode, but not at level 3.
            if self.is_64() && cpl < 3 && (selector & 3) as u8 == cpl {
                let mut segment = null(selector);
                segment.attributes |= u32::from(cpl) << 5;
                return Ok(segment);
            }
            return Err(self.raise_with(fault, 0));
        }
        let descriptor = self.descriptor(selector, fault)?;
        let writable = descriptor.is_segment() && !descriptor.is_code() && descriptor.kind() & 2 != 0;
        if !writable || (selector & 3) as u8 != cpl || descriptor.dpl() != cpl {
            return Err(self.raise_with(fault, named(selector)));
        }
        if !descriptor.is_present() {
            return Err(self.raise_with(vector::SS, named(selector)));
        }
        self.mark_accessed(&descriptor)?;
        let mut segment = descriptor.segment(selector);
        segment.attributes |= attribute::ACCESSED;
        Ok(segment)
    }

    /// Checks a code segment that a jump, call or return goes to. `cpl`: the level that it is to have.
    ///
    /// # Errors
    /// #GP, #NP.
    pub fn code_segment(&mut self, selector: u16, descriptor: &Descriptor, cpl: u8) -> Result<Segment, Trap> {
        if !descriptor.is_code() {
            return Err(self.raise_with(vector::GP, named(selector)));
        }
        let allowed = if descriptor.is_conforming() { descriptor.dpl() <= cpl } else { descriptor.dpl() == cpl };
        // L and D together mean nothing.
        let odd =
            self.is_long() && descriptor.attributes() & (attribute::L | attribute::D) == attribute::L | attribute::D;
        if !allowed || odd {
            return Err(self.raise_with(vector::GP, named(selector)));
        }
        if !descriptor.is_present() {
            return Err(self.raise_with(vector::NP, named(selector)));
        }
        self.mark_accessed(descriptor)?;
        let mut segment = descriptor.segment(selector & !3 | u16::from(cpl));
        segment.attributes |= attribute::ACCESSED;
        if !self.is_long() {
            segment.attributes &= !attribute::L;
        }
        Ok(segment)
    }

    /// Whether code of this segment runs in 64-bit mode.
    pub fn is_long_segment(&self, segment: &Segment) -> bool {
        self.is_long() && segment.attributes & attribute::L != 0
    }

    /// Whether code may begin there.
    ///
    /// # Errors
    /// #GP.
    pub fn check_entry(&mut self, segment: &Segment, offset: u64) -> Result<(), Trap> {
        let fine =
            if self.is_long_segment(segment) { self.is_canonical(offset) } else { offset <= u64::from(segment.limit) };
        if fine { Ok(()) } else { Err(self.gp()) }
    }

    /// Code of this segment is executed from now on, at this level.
    pub fn enter(&mut self, segment: Segment, cpl: u8, offset: u64) {
        self.segs[usize::from(seg::CS)] = segment;
        self.cpl = cpl;
        self.renew();
        self.rip = offset & self.rip_mask;
    }

    /// After a return to an outer level: data segments that it must not have are emptied.
    pub fn drop_inner_segments(&mut self) {
        for number in [seg::ES, seg::DS, seg::FS, seg::GS] {
            let segment = &self.segs[usize::from(number)];
            let attributes = segment.attributes;
            let conforming =
                attributes & (attribute::CODE | attribute::EXPAND_DOWN) == attribute::CODE | attribute::EXPAND_DOWN;
            if segment.is_usable() && segment.dpl() < self.cpl && !conforming {
                self.segs[usize::from(number)] = null(0);
            }
        }
        self.renew();
    }
}
