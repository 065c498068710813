//! Far jumps, calls and returns.

use super::descriptor::{Descriptor, named};
use crate::attempt;
use crate::cpu::{Cpu, Segment, Trap, vector};
use crate::op::{Flow, Int, Op, reg, seg};

const SP: usize = reg::SP as usize;
const CS: usize = seg::CS as usize;
const SS: usize = seg::SS as usize;

/// Types of system descriptors (Intel SDM volume 3, table 3-2).
mod kind {
    pub const CALL_16: u32 = 4;
    pub const CALL_32: u32 = 12;
}

/// A stack that is being filled before it is in use.
pub struct Stack {
    /// Its segment.
    pub segment: Segment,
    /// Its pointer.
    pub pointer: u64,
    mask: u64,
}

impl Stack {
    /// A stack of this segment; in 64-bit mode the segment does not matter.
    pub fn new(segment: Segment, pointer: u64, is_64: bool) -> Self {
        let mask = match (is_64, segment.attributes & crate::cpu::attribute::D != 0) {
            (true, _) => u64::MAX,
            (_, true) => 0xffff_ffff,
            _ => 0xffff,
        };
        Self { segment, pointer, mask }
    }

    /// Pushes, as supervisor.
    ///
    /// # Errors
    /// #SS, a page fault.
    pub fn push<T: Int>(&mut self, cpu: &mut Cpu, value: u64) -> Result<(), Trap> {
        let pointer = self.pointer.wrapping_sub(T::BYTES as u64) & self.mask;
        if self.mask != u64::MAX
            && pointer.saturating_add(T::BYTES as u64 - 1) > u64::from(self.segment.limit)
            && self.segment.attributes & crate::cpu::attribute::EXPAND_DOWN == 0
        {
            return Err(cpu.raise_with(vector::SS, named(self.segment.selector)));
        }
        let base = if self.mask == u64::MAX { 0 } else { self.segment.base };
        cpu.store_linear::<T>(base.wrapping_add(pointer), value)?;
        self.pointer = self.pointer & !self.mask | pointer;
        Ok(())
    }
}

impl Cpu {
    /// The stack of now, to be filled without moving RSP yet.
    pub fn stack_now(&self) -> Stack {
        Stack::new(self.segs[SS], self.regs[SP], self.is_64())
    }

    /// The stack for an inner level, from the TSS (32- or 16-bit).
    ///
    /// # Errors
    /// #TS, #SS, page faults.
    pub fn inner_stack(&mut self, cpl: u8) -> Result<Stack, Trap> {
        let tr = self.segs[usize::from(seg::TR)];
        let wide = tr.attributes & 8 != 0;
        let (at, last) = if wide { (4 + u64::from(cpl) * 8, 5) } else { (2 + u64::from(cpl) * 4, 3) };
        if at + last > u64::from(tr.limit) {
            return Err(self.raise_with(vector::TS, named(tr.selector)));
        }
        let at = tr.base.wrapping_add(at);
        let (pointer, selector) = if wide {
            (self.load_linear::<u32>(at)?, self.load_linear::<u16>(at.wrapping_add(4))? as u16)
        } else {
            (self.load_linear::<u16>(at)?, self.load_linear::<u16>(at.wrapping_add(2))? as u16)
        };
        let segment = self.stack_segment_of(selector, cpl, vector::TS)?;
        Ok(Stack::new(segment, pointer, false))
    }

    /// RSP of an inner level or an interrupt stack, from a 64-bit TSS: `index` 0 to 2 for levels, 4 on for interrupts.
    ///
    /// # Errors
    /// #TS, page faults.
    pub fn stack_pointer_64(&mut self, index: u64) -> Result<u64, Trap> {
        let tr = self.segs[usize::from(seg::TR)];
        let at = 4 + index * 8;
        if at + 7 > u64::from(tr.limit) {
            return Err(self.raise_with(vector::TS, named(tr.selector)));
        }
        let pointer = self.load_linear::<u64>(tr.base.wrapping_add(at))?;
        if !self.is_canonical(pointer) {
            return Err(self.raise_with(vector::SS, 0));
        }
        Ok(pointer)
    }

    fn far_jump<T: Int>(&mut self, selector: u16, offset: u64) -> Result<(), Trap> {
        if !self.is_protected() {
            return self.far_real(selector, T::cut(offset));
        }
        let (descriptor, offset) = self.far_target(selector, offset)?;
        let (selector, descriptor) = descriptor;
        let cpl = self.cpl;
        if (selector & 3) as u8 > cpl && !descriptor.is_conforming() {
            return Err(self.raise_with(vector::GP, named(selector)));
        }
        let segment = self.code_segment(selector, &descriptor, cpl)?;
        self.check_entry(&segment, T::cut(offset))?;
        self.enter(segment, cpl, T::cut(offset));
        Ok(())
    }

    fn far_real(&mut self, selector: u16, offset: u64) -> Result<(), Trap> {
        if offset > u64::from(self.segs[CS].limit) {
            return Err(self.gp());
        }
        let segment = &mut self.segs[CS];
        (segment.selector, segment.base) = (selector, u64::from(selector) << 4);
        self.renew();
        self.rip = offset & self.rip_mask;
        Ok(())
    }

    /// The code segment that a far pointer means: through a call gate, if it names one.
    fn far_target(&mut self, selector: u16, offset: u64) -> Result<((u16, Descriptor), u64), Trap> {
        if selector & 0xfffc == 0 {
            return Err(self.raise_with(vector::GP, 0));
        }
        let mut descriptor = self.descriptor(selector, vector::GP)?;
        if descriptor.is_segment() {
            return Ok(((selector, descriptor), offset));
        }
        let long = self.is_long();
        match descriptor.kind() {
            kind::CALL_16 if !long => {}
            kind::CALL_32 => {
                if long {
                    descriptor = self.wide_descriptor(selector, vector::GP, true)?;
                }
            }
            _ => return Err(self.raise_with(vector::GP, named(selector))),
        }
        if descriptor.dpl() < self.cpl || descriptor.dpl() < (selector & 3) as u8 {
            return Err(self.raise_with(vector::GP, named(selector)));
        }
        if !descriptor.is_present() {
            return Err(self.raise_with(vector::NP, named(selector)));
        }
        let mut offset = descriptor.gate_offset();
        if descriptor.kind() == kind::CALL_16 {
            offset &= 0xffff;
        }
        let target = descriptor.gate_selector() & !3;
        if target == 0 {
            return Err(self.raise_with(vector::GP, 0));
        }
        let code = self.descriptor(target, vector::GP)?;
        // A gate to an inner level would need a call; those that stay are all that is used.
        if !code.is_conforming() && code.dpl() != self.cpl {
            return Err(self.raise_with(vector::GP, named(target)));
        }
        Ok(((target | u16::from(self.cpl), code), offset))
    }

    fn far_call<T: Int>(&mut self, op: &Op, selector: u16, offset: u64) -> Result<(), Trap> {
        let mut stack = self.stack_now();
        let (old, next) = (self.segs[CS].selector, self.next_rip(op));
        if !self.is_protected() {
            if T::cut(offset) > u64::from(self.segs[CS].limit) {
                return Err(self.gp());
            }
            stack.push::<T>(self, old.into())?;
            stack.push::<T>(self, next)?;
            self.regs[SP] = stack.pointer;
            return self.far_real(selector, T::cut(offset));
        }
        let ((selector, descriptor), offset) = self.far_target(selector, offset)?;
        let cpl = self.cpl;
        if (selector & 3) as u8 > cpl && !descriptor.is_conforming() {
            return Err(self.raise_with(vector::GP, named(selector)));
        }
        let segment = self.code_segment(selector, &descriptor, cpl)?;
        self.check_entry(&segment, T::cut(offset))?;
        stack.push::<T>(self, old.into())?;
        stack.push::<T>(self, next)?;
        self.regs[SP] = stack.pointer;
        self.enter(segment, cpl, T::cut(offset));
        Ok(())
    }

    fn far_return<T: Int>(&mut self, drops: u64) -> Result<(), Trap> {
        let bytes = T::BYTES as u64;
        let offset = self.peek::<T>(0)?;
        let selector = self.peek::<T>(bytes)? as u16;
        if !self.is_protected() {
            if offset > u64::from(self.segs[CS].limit) {
                return Err(self.gp());
            }
            self.drop_stack(2 * bytes + drops);
            return self.far_real(selector, offset);
        }
        let rpl = (selector & 3) as u8;
        if selector & 0xfffc == 0 || rpl < self.cpl {
            return Err(self.raise_with(vector::GP, named(selector)));
        }
        let descriptor = self.descriptor(selector, vector::GP)?;
        let segment = self.code_segment(selector, &descriptor, rpl)?;
        self.check_entry(&segment, offset)?;
        if rpl == self.cpl {
            self.drop_stack(2 * bytes + drops);
            self.enter(segment, rpl, offset);
            return Ok(());
        }
        let pointer = self.peek::<T>(2 * bytes + drops)?;
        let stack_selector = self.peek::<T>(3 * bytes + drops)? as u16;
        let stack = if self.is_long_segment(&segment) && stack_selector & 0xfffc == 0 && rpl < 3 {
            Segment { selector: stack_selector, attributes: crate::cpu::attribute::UNUSABLE, ..Segment::default() }
        } else {
            self.stack_segment_of(stack_selector, rpl, vector::GP)?
        };
        self.segs[SS] = stack;
        self.enter(segment, rpl, offset);
        let mask = self.stack_mask();
        self.set_sp(mask, pointer.wrapping_add(drops));
        self.drop_inner_segments();
        Ok(())
    }
}

/// JMP ptr16:16 and ptr16:32.
pub fn jmp_direct<T: Int>(cpu: &mut Cpu, op: &Op) -> Flow {
    attempt!(cpu.far_jump::<T>(op.disp as u16, op.imm));
    Flow::Jump
}

/// CALL ptr16:16 and ptr16:32.
pub fn call_direct<T: Int>(cpu: &mut Cpu, op: &Op) -> Flow {
    attempt!(cpu.far_call::<T>(op, op.disp as u16, op.imm));
    Flow::Jump
}

/// A far pointer in memory.
pub fn pointer<T: Int>(cpu: &mut Cpu, op: &Op) -> Result<(u16, u64), Trap> {
    let address = cpu.address(op);
    let offset = cpu.load::<T>(op.seg, address)?;
    let behind = address.wrapping_add(T::BYTES as u64) & crate::op::ADDRESS_MASKS[usize::from(op.asize & 3)];
    Ok((cpu.load::<u16>(op.seg, behind)? as u16, offset))
}

/// JMP m16:16, m16:32, m16:64.
pub fn jmp_memory<T: Int>(cpu: &mut Cpu, op: &Op) -> Flow {
    let (selector, offset) = attempt!(pointer::<T>(cpu, op));
    attempt!(cpu.far_jump::<T>(selector, offset));
    Flow::Jump
}

/// CALL m16:16, m16:32, m16:64.
pub fn call_memory<T: Int>(cpu: &mut Cpu, op: &Op) -> Flow {
    let (selector, offset) = attempt!(pointer::<T>(cpu, op));
    attempt!(cpu.far_call::<T>(op, selector, offset));
    Flow::Jump
}

/// RETF.
pub fn ret<T: Int>(cpu: &mut Cpu, op: &Op) -> Flow {
    attempt!(cpu.far_return::<T>(op.imm & 0xffff));
    Flow::Jump
}

/// LDS and its like: the segment register is in `extra`.
pub fn load_pointer<T: Int>(cpu: &mut Cpu, op: &Op) -> Flow {
    let (selector, offset) = attempt!(pointer::<T>(cpu, op));
    attempt!(cpu.load_segment(op.extra, selector));
    cpu.set::<T>(op.dst, offset);
    if op.extra == seg::SS {
        cpu.shadow_ss = true;
    }
    Flow::Leave
}
