//! Loads and stores of instructions: segment, paging, memory or the outside.

use crate::cpu::{Cpu, Effect, Request, Trap, attribute, cr0, vector};
use crate::flags;
use crate::memory::{Allowed, PAGE, Way};
use crate::mmu::{Access, Who};
use crate::op::{Int, seg};

/// A place in guest-physical space.
#[derive(Clone, Copy)]
struct Place {
    gpa: u64,
    bytes: usize,
}

impl Cpu {
    /// The linear address of an operand, if its segment needs no closer look.
    #[inline(always)]
    fn linear(&self, segment: u8, offset: u64) -> u64 {
        self.segs[usize::from(segment & 7)].start.wrapping_add(offset) & self.linear_mask
    }

    /// Loads an operand, zero-extended.
    ///
    /// # Errors
    /// A fault, or it is to be asked for outside.
    #[inline(always)]
    pub fn load<T: Int>(&mut self, segment: u8, offset: u64) -> Result<u64, Trap> {
        if offset < self.segs[usize::from(segment & 7)].read_end
            && let Some(value) = self.memory.load::<T>(self.linear(segment, offset))
        {
            return Ok(value);
        }
        self.load_slow(segment, offset, T::BYTES, Access::Read)
    }

    /// Loads an operand that is going to be stored.
    ///
    /// # Errors
    /// As [`load`](Self::load); also when it must not be written.
    #[inline(always)]
    pub fn load_to_write<T: Int>(&mut self, segment: u8, offset: u64) -> Result<u64, Trap> {
        if offset < self.segs[usize::from(segment & 7)].write_end
            && let Some(value) = self.memory.load_to_write::<T>(self.linear(segment, offset))
        {
            return Ok(value);
        }
        self.load_slow(segment, offset, T::BYTES, Access::Write)
    }

    /// Stores an operand.
    ///
    /// # Errors
    /// A fault.
    #[inline(always)]
    pub fn store<T: Int>(&mut self, segment: u8, offset: u64, value: u64) -> Result<(), Trap> {
        if offset < self.segs[usize::from(segment & 7)].write_end {
            let linear = self.linear(segment, offset);
            if let Some(code) = self.memory.store::<T>(linear, value) {
                self.leave |= code;
                return Ok(());
            }
        }
        self.store_slow(segment, offset, T::BYTES, value)
    }

    /// Loads an operand in 64-bit mode, from a segment whose base counts as 0 there: what the table of translations has
    /// is canonical, and there is no limit.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    #[inline(always)]
    pub fn load_flat<T: Int>(&mut self, segment: u8, offset: u64, access: Access) -> Result<u64, Trap> {
        let value = match access {
            Access::Write => self.memory.load_to_write::<T>(offset),
            _ => self.memory.load::<T>(offset),
        };
        match value {
            Some(value) => Ok(value),
            None => self.load_slow(segment, offset, T::BYTES, access),
        }
    }

    /// Stores one likewise.
    ///
    /// # Errors
    /// A fault.
    #[inline(always)]
    pub fn store_flat<T: Int>(&mut self, segment: u8, offset: u64, value: u64) -> Result<(), Trap> {
        match self.memory.store::<T>(offset, value) {
            Some(code) => {
                self.leave |= code;
                Ok(())
            }
            None => self.store_slow(segment, offset, T::BYTES, value),
        }
    }

    /// Loads 16 bytes.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    #[inline(always)]
    pub fn load_16(&mut self, segment: u8, offset: u64) -> Result<u128, Trap> {
        let next = self.next_8(offset);
        let end = self.segs[usize::from(segment & 7)].read_end;
        if offset < end
            && next < end
            && let Some(low) = self.memory.load::<u64>(self.linear(segment, offset))
            && let Some(high) = self.memory.load::<u64>(self.linear(segment, next))
        {
            return Ok(u128::from(high) << 64 | u128::from(low));
        }
        self.loosely(|cpu| {
            let low = cpu.load::<u64>(segment, offset)?;
            let high = cpu.load::<u64>(segment, next)?;
            Ok(u128::from(high) << 64 | u128::from(low))
        })
    }

    /// Does what touches 16 bytes. Those that need to be aligned were looked at before; of the others #AC may come or not
    /// (Intel SDM volume 2, MOVUPS), and from Intel's processors it does not.
    #[cold]
    #[inline(never)]
    fn loosely<T>(&mut self, access: impl FnOnce(&mut Self) -> Result<T, Trap>) -> Result<T, Trap> {
        let ac = if self.cpl == 3 { self.flags.rest & flags::AC } else { 0 };
        self.flags.rest &= !ac;
        let result = access(self);
        self.flags.rest |= ac;
        result
    }

    /// Stores 16 bytes: all or nothing.
    ///
    /// # Errors
    /// As [`store`](Self::store).
    #[inline(always)]
    pub fn store_16(&mut self, segment: u8, offset: u64, value: u128) -> Result<(), Trap> {
        let next = self.next_8(offset);
        let crosses = self.linear(segment, offset) & (PAGE - 1) > PAGE - 16;
        if crosses || self.memory.way() == Way::Watched {
            return self.loosely(|cpu| {
                // One of the pages may not be writable: the first is the one that a fault tells of.
                cpu.load_to_write::<u64>(segment, offset)?;
                cpu.load_to_write::<u64>(segment, next)?;
                cpu.store::<u64>(segment, offset, value as u64)?;
                cpu.store::<u64>(segment, next, (value >> 64) as u64)
            });
        }
        self.store::<u64>(segment, offset, value as u64)?;
        self.store::<u64>(segment, next, (value >> 64) as u64)
    }

    /// 8 bytes on: addresses wrap by the size of the segment's offsets, which 64-bit mode has no limit for.
    fn next_8(&self, offset: u64) -> u64 {
        offset.wrapping_add(8) & if self.is_64() { u64::MAX } else { 0xffff_ffff }
    }

    /// A fault on an operand in that segment, with error code 0.
    #[cold]
    pub fn segment_fault(&mut self, segment: u8) -> Trap {
        self.raise_with(if segment == seg::SS { vector::SS } else { vector::GP }, 0)
    }

    /// Checks segment, canonical address and alignment; says the linear address.
    ///
    /// # Errors
    /// #GP, #SS or #AC.
    pub fn check(&mut self, segment: u8, offset: u64, bytes: usize, access: Access) -> Result<u64, Trap> {
        let linear = self.linear(segment, offset);
        let last = bytes as u64 - 1;
        if self.is_64() {
            if !self.is_canonical(linear) || !self.is_canonical(linear.wrapping_add(last)) {
                return Err(self.segment_fault(segment));
            }
        } else {
            let Some(end) = offset.checked_add(last) else { return Err(self.segment_fault(segment)) };
            if !self.is_inside(segment, offset, end, access) {
                return Err(self.segment_fault(segment));
            }
        }
        if self.memory.way() == Way::Watched {
            self.watch(linear, bytes, access)?;
        }
        Ok(linear)
    }

    /// Whether a segment outside 64-bit mode allows an access to these offsets.
    fn is_inside(&self, segment: u8, offset: u64, end: u64, access: Access) -> bool {
        let segment = &self.segs[usize::from(segment & 7)];
        let attributes = segment.attributes;
        let is_code = attributes & attribute::CODE != 0;
        let has = attributes & attribute::WRITABLE != 0;
        let kind = match access {
            Access::Read => !is_code || has,
            Access::Write => !is_code && has,
            Access::Execute => is_code,
        };
        if attributes & (attribute::UNUSABLE | attribute::P) != attribute::P || (!kind && self.is_protected()) {
            return false;
        }
        let limit = u64::from(segment.limit);
        if limit == u64::from(u32::MAX) && (is_code || attributes & attribute::EXPAND_DOWN == 0) {
            // All of 4 GiB is inside, what lies across their end, too.
            return true;
        }
        if !is_code && attributes & attribute::EXPAND_DOWN != 0 {
            let top = if attributes & attribute::D != 0 { 0xffff_ffff } else { 0xffff };
            return offset > limit && end <= top;
        }
        end <= limit
    }

    /// Checks an operand's alignment where that is not to its size, if alignment is checked.
    ///
    /// # Errors
    /// #AC.
    pub fn check_alignment(&mut self, segment: u8, offset: u64, bytes: usize) -> Result<(), Trap> {
        self.align(self.linear(segment, offset), bytes)
    }

    fn align(&mut self, linear: u64, bytes: usize) -> Result<(), Trap> {
        let checked = self.cr0 & cr0::AM != 0 && self.flags.rest & flags::AC != 0 && self.cpl == 3;
        if checked && !linear.is_multiple_of(bytes as u64) {
            return Err(self.raise_with(vector::AC, 0));
        }
        Ok(())
    }

    /// Alignment, and data breakpoints.
    fn watch(&mut self, linear: u64, bytes: usize, access: Access) -> Result<(), Trap> {
        self.align(linear, bytes)?;
        for number in 0..4u32 {
            let enabled = self.dr[7] >> (number * 2) & 3 != 0;
            let kind = self.dr[7] >> (16 + number * 4) & 3;
            let len: u64 = [1, 2, 8, 4][(self.dr[7] >> (18 + number * 4) & 3) as usize];
            let first = self.dr[number as usize] & !(len - 1);
            let touches = linear <= first + (len - 1) && first <= linear.wrapping_add(bytes as u64 - 1);
            if enabled && touches && (kind == 3 || (kind == 1 && access == Access::Write)) {
                self.debug_due |= 1 << number;
                self.leave = true;
            }
        }
        Ok(())
    }

    #[cold]
    #[inline(never)]
    fn load_slow(&mut self, segment: u8, offset: u64, bytes: usize, access: Access) -> Result<u64, Trap> {
        let linear = self.check(segment, offset, bytes, access)?;
        self.load_linear_as(linear, bytes, access, Who::Current)
    }

    #[cold]
    #[inline(never)]
    fn store_slow(&mut self, segment: u8, offset: u64, bytes: usize, value: u64) -> Result<(), Trap> {
        let linear = self.check(segment, offset, bytes, Access::Write)?;
        self.store_linear_as(linear, bytes, value, Who::Current)
    }

    /// Loads what the processor itself needs: a descriptor, a TSS.
    ///
    /// # Errors
    /// A page fault.
    pub fn load_linear<T: Int>(&mut self, linear: u64) -> Result<u64, Trap> {
        self.load_linear_as(linear & self.table_mask(), T::BYTES, Access::Read, Who::Processor)
    }

    /// Stores what the processor itself changes.
    ///
    /// # Errors
    /// A page fault.
    pub fn store_linear<T: Int>(&mut self, linear: u64, value: u64) -> Result<(), Trap> {
        self.store_linear_as(linear & self.table_mask(), T::BYTES, value, Who::Processor)
    }

    /// Linear addresses of tables have 64 bits in long mode, compatibility mode counted.
    fn table_mask(&self) -> u64 {
        if self.is_long() { u64::MAX } else { 0xffff_ffff }
    }

    /// The one or two places of an access. Bytes of the second: those behind the page's end.
    fn places(&mut self, linear: u64, bytes: usize, access: Access, who: Who) -> Result<[Place; 2], Trap> {
        let room = (PAGE - (linear & (PAGE - 1))) as usize;
        let first = self.place(linear, bytes.min(room), access, who)?;
        let second = if bytes > room {
            let mask = if who == Who::Current { self.linear_mask } else { self.table_mask() };
            let next = linear.wrapping_add(room as u64) & mask;
            self.place(next, bytes - room, access, who)?
        } else {
            Place { gpa: 0, bytes: 0 }
        };
        Ok([first, second])
    }

    fn place(&mut self, linear: u64, bytes: usize, access: Access, who: Who) -> Result<Place, Trap> {
        let translation = self.translate(linear, access, who)?;
        if who == Who::Current
            && let Some(page) = self.memory.map.page(translation.gpa, access == Access::Write)
        {
            let logged = access == Access::Write;
            let allowed = Allowed {
                read: access != Access::Execute,
                // Only a store marks the page as dirty.
                write: logged && translation.writable && page.writable,
                execute: access == Access::Execute,
            };
            self.memory.remember(linear, page.host, allowed);
        }
        Ok(Place { gpa: translation.gpa, bytes })
    }

    /// Loads up to 8 bytes from a linear address.
    ///
    /// # Errors
    /// A page fault, or it is to be asked for outside.
    pub fn load_linear_as(&mut self, linear: u64, bytes: usize, access: Access, who: Who) -> Result<u64, Trap> {
        let places = self.places(linear, bytes, access, who)?;
        let mut value = 0;
        let mut shift = 0;
        for place in places.into_iter().filter(|place| place.bytes > 0) {
            value |= self.load_physical(place.gpa, place.bytes)? << shift;
            shift += 8 * place.bytes as u32;
        }
        Ok(value)
    }

    /// Stores up to 8 bytes to a linear address.
    ///
    /// # Errors
    /// A page fault: nothing is stored then.
    pub fn store_linear_as(&mut self, linear: u64, bytes: usize, value: u64, who: Who) -> Result<(), Trap> {
        let places = self.places(linear, bytes, Access::Write, who)?;
        let mut value = value;
        for place in places.into_iter().filter(|place| place.bytes > 0) {
            self.store_physical(place.gpa, place.bytes, value);
            value = value.checked_shr(8 * place.bytes as u32).unwrap_or_default();
        }
        Ok(())
    }

    fn load_physical(&mut self, gpa: u64, bytes: usize) -> Result<u64, Trap> {
        let Some(page) = self.memory.map.page(gpa, false) else {
            return self.ask(Request::Load(gpa, bytes as u8));
        };
        let at = (gpa & (PAGE - 1)) as usize;
        Ok(match bytes {
            1 => page.host.load::<u8>(at),
            2 => page.host.load::<u16>(at),
            4 => page.host.load::<u32>(at),
            8 => page.host.load::<u64>(at),
            _ => {
                let mut value = [0; 8];
                page.host.read(at, value.get_mut(..bytes).unwrap_or_default());
                u64::from_le_bytes(value)
            }
        })
    }

    fn store_physical(&mut self, gpa: u64, bytes: usize, value: u64) {
        let Some(page) = self.memory.map.page(gpa, true).filter(|page| page.writable) else {
            self.effect(Effect::Store(gpa, bytes as u8, value));
            return;
        };
        self.leave |= self.memory.is_code(page.host);
        let at = (gpa & (PAGE - 1)) as usize;
        match bytes {
            1 => page.host.store::<u8>(at, value),
            2 => page.host.store::<u16>(at, value),
            4 => page.host.store::<u32>(at, value),
            8 => page.host.store::<u64>(at, value),
            _ => page.host.write(at, value.to_le_bytes().get(..bytes).unwrap_or_default()),
        }
    }

    /// Replaces an operand by what `change` makes of it, atomically where it is memory. Says what was there.
    ///
    /// # Errors
    /// A fault.
    pub fn exchange<T: Int>(
        &mut self,
        segment: u8,
        offset: u64,
        mut change: impl FnMut(u64) -> u64,
    ) -> Result<u64, Trap> {
        for _ in 0..2 {
            if offset < self.segs[usize::from(segment & 7)].write_end {
                let linear = self.linear(segment, offset);
                if let Some((old, code)) = self.memory.exchange::<T>(linear, &mut change) {
                    self.leave |= code;
                    return Ok(old);
                }
            }
            // Looks at it, and makes an entry where it can.
            let old = self.load_slow(segment, offset, T::BYTES, Access::Write)?;
            let linear = self.linear(segment, offset);
            if self.memory.way() == Way::Watched || self.memory.load_to_write::<T>(linear).is_none() {
                // Not memory, or over two pages: one after the other is all there is.
                self.store_slow(segment, offset, T::BYTES, T::cut(change(old)))?;
                return Ok(old);
            }
        }
        let old = self.load_to_write::<T>(segment, offset)?;
        self.store::<T>(segment, offset, T::cut(change(old)))?;
        Ok(old)
    }
}
