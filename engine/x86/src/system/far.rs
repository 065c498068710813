//! Far jumps, calls and returns, and call gates (Intel SDM volume 3, 5.8; volume 2, JMP, CALL and RET).

use super::descriptor::{Descriptor, is_null, kind, named, rpl};
use super::frame::Stack;
use super::task::{By, Stop};
use crate::attempt;
use crate::cpu::{Cpu, Trap, vector};
use crate::op::{ADDRESS_MASKS, Flow, Int, Op, reg, seg};

/// Words of a call gate's parameters, at most.
const PARAMETERS: usize = 31;

impl Cpu {
    fn far_8086<T: Int>(&mut self, selector: u16, offset: u64, call: Option<u64>) -> Result<(), Trap> {
        let code = self.segs[usize::from(seg::CS)];
        if offset > u64::from(code.limit) {
            return Err(self.gp());
        }
        if let Some(next) = call {
            self.push_return::<T>(next)?;
        }
        self.go_8086(selector, offset);
        Ok(())
    }

    /// Pushes CS and the offset of the next instruction, both or none.
    fn push_return<T: Int>(&mut self, next: u64) -> Result<(), Trap> {
        let mut stack = self.stack_now();
        let code = self.segs[usize::from(seg::CS)].selector;
        for value in [code.into(), next] {
            self.push_to(&mut stack, T::BYTES as u64, value)?;
        }
        self.use_stack(&stack, false);
        Ok(())
    }

    /// JMP or CALL to a far address; `call` is the offset to return to.
    fn far<T: Int>(&mut self, selector: u16, offset: u64, call: Option<u64>, next: u64) -> Result<(), Stop> {
        let offset = T::cut(offset);
        if !self.is_protected() {
            return Ok(self.far_8086::<T>(selector, offset, call)?);
        }
        if is_null(selector) {
            return Err(self.gp().into());
        }
        let descriptor = self.long_descriptor(selector, vector::GP)?;
        if descriptor.is_system() {
            return self.far_system(selector, &descriptor, call, next);
        }
        let (dpl, level) = (descriptor.dpl(), self.cpl);
        let allowed = if descriptor.is_conforming() { dpl <= level } else { dpl == level && rpl(selector) <= level };
        if !descriptor.is_code() || !allowed || (self.is_long() && descriptor.is_long_and_wide()) {
            return Err(self.raise_with(vector::GP, named(selector)).into());
        }
        if !descriptor.is_present() {
            return Err(self.raise_with(vector::NP, named(selector)).into());
        }
        self.mark_accessed(&descriptor)?;
        let code = descriptor.segment(selector);
        self.check_entry(&code, offset)?;
        if let Some(next) = call {
            self.push_return::<T>(next)?;
        }
        self.enter(code, level, offset);
        Ok(())
    }

    /// JMP or CALL to a call gate, a task gate or a TSS.
    fn far_system(&mut self, selector: u16, descriptor: &Descriptor, call: Option<u64>, next: u64) -> Result<(), Stop> {
        let kinds: &[u8] = if self.is_long() {
            &[kind::CALL]
        } else {
            &[kind::CALL_16, kind::CALL, kind::TASK_GATE, kind::TSS_16, kind::TSS]
        };
        let dpl = descriptor.dpl();
        if !descriptor.is_kind(kinds) || dpl < self.cpl || dpl < rpl(selector) {
            return Err(self.raise_with(vector::GP, named(selector)).into());
        }
        if !descriptor.is_present() {
            return Err(self.raise_with(vector::NP, named(selector)).into());
        }
        if descriptor.is_kind(&[kind::CALL_16, kind::CALL]) {
            return Ok(self.call_gate(descriptor, call)?);
        }
        let by = if call.is_some() { By::Call } else { By::Jump };
        let task = if descriptor.kind() == kind::TASK_GATE { descriptor.target() } else { selector };
        let image = self.flags.get();
        self.switch_task(task, &by, next, image)
    }

    /// Through a call gate (volume 3, 5.8.4).
    fn call_gate(&mut self, gate: &Descriptor, call: Option<u64>) -> Result<(), Trap> {
        let selector = gate.target();
        if is_null(selector) {
            return Err(self.gp());
        }
        let descriptor = self.descriptor(selector, vector::GP)?;
        let (dpl, before, long) = (descriptor.dpl(), self.cpl, self.is_long());
        let reachable = dpl == before || (dpl < before && (call.is_some() || descriptor.is_conforming()));
        let fits = !long || (descriptor.is_long() && !descriptor.is_long_and_wide());
        if !descriptor.is_code() || !reachable || !fits {
            return Err(self.raise_with(vector::GP, named(selector)));
        }
        if !descriptor.is_present() {
            return Err(self.raise_with(vector::NP, named(selector)));
        }
        self.mark_accessed(&descriptor)?;
        let code = descriptor.segment(selector);
        self.check_entry(&code, gate.offset())?;
        let level = if descriptor.is_conforming() { before } else { dpl };
        if let Some(next) = call {
            self.push_gate(gate, level, next)?;
        }
        self.enter(code, level, gate.offset());
        Ok(())
    }

    /// The frame of a call through a gate, on the stack of the level it leads to.
    fn push_gate(&mut self, gate: &Descriptor, level: u8, next: u64) -> Result<(), Trap> {
        let (inner, long) = (level < self.cpl, self.is_long());
        let bytes = match (long, gate.kind() == kind::CALL) {
            (true, _) => 8,
            (false, true) => 4,
            (false, false) => 2,
        };
        let (stack_segment, pointer) = (self.segs[usize::from(seg::SS)], self.regs[usize::from(reg::SP)]);
        let mut parameters = [0; PARAMETERS];
        // In long mode there are none.
        let count = if inner && !long { (gate.low >> 32 & 31) as usize } else { 0 };
        for (parameter, place) in parameters.iter_mut().zip(0u64..).take(count) {
            *parameter = if bytes == 4 { self.peek::<u32>(place * bytes)? } else { self.peek::<u16>(place * bytes)? };
        }
        let mut stack = match (inner, long) {
            (true, true) => self.inner_stack_long(level)?,
            (true, false) => self.inner_stack(level)?,
            (false, true) => Stack::long(stack_segment, pointer, 0),
            (false, false) => self.stack_now(),
        };
        let code = self.segs[usize::from(seg::CS)].selector;
        self.at_level(level, |cpu| {
            if inner {
                cpu.push_to(&mut stack, bytes, stack_segment.selector.into())?;
                cpu.push_to(&mut stack, bytes, pointer)?;
            }
            for parameter in parameters.iter().take(count).rev() {
                cpu.push_to(&mut stack, bytes, *parameter)?;
            }
            cpu.push_to(&mut stack, bytes, code.into())?;
            cpu.push_to(&mut stack, bytes, next)
        })?;
        self.use_stack(&stack, inner);
        Ok(())
    }

    /// RETF that takes `release` bytes more from the stack, or from both.
    fn far_return<T: Int>(&mut self, release: u64) -> Result<(), Trap> {
        let bytes = T::BYTES as u64;
        let (offset, selector) = (self.peek::<T>(0)?, self.peek::<T>(bytes)? as u16);
        if !self.is_protected() {
            let limit = self.segs[usize::from(seg::CS)].limit;
            if offset > u64::from(limit) {
                return Err(self.gp());
            }
            self.drop_stack(2 * bytes + release);
            self.go_8086(selector, offset);
            return Ok(());
        }
        let code = self.return_segment(selector, offset)?;
        let level = rpl(selector);
        if level == self.cpl {
            self.drop_stack(2 * bytes + release);
            self.enter(code, level, offset);
            return Ok(());
        }
        let pointer = self.peek::<T>(2 * bytes + release)?;
        let selector = self.peek::<T>(3 * bytes + release)? as u16;
        let stack = self.return_stack(selector, level, &code)?;
        self.put_segment(seg::SS, stack);
        self.enter(code, level, offset);
        self.set_returned_stack(pointer.wrapping_add(release));
        self.drop_inner_segments();
        self.renew();
        Ok(())
    }

    /// The far address in memory: the offset, then the selector.
    fn far_pointer<T: Int>(&mut self, op: &Op) -> Result<(u16, u64), Trap> {
        let address = self.address(op);
        let offset = self.load::<T>(op.seg, address)?;
        let behind = address.wrapping_add(T::BYTES as u64) & ADDRESS_MASKS[usize::from(op.asize & 3)];
        Ok((self.load::<u16>(op.seg, behind)? as u16, offset))
    }
}

fn go<T: Int>(cpu: &mut Cpu, op: &Op, selector: u16, offset: u64, calls: bool) -> Flow {
    let next = cpu.next_rip(op);
    let done = cpu.far::<T>(selector, offset, calls.then_some(next), next);
    cpu.after_transfer(done)
}

/// JMP to an immediate far address.
pub fn jmp_i<T: Int>(cpu: &mut Cpu, op: &Op) -> Flow {
    go::<T>(cpu, op, op.disp as u16, op.imm, false)
}

/// CALL to an immediate far address.
pub fn call_i<T: Int>(cpu: &mut Cpu, op: &Op) -> Flow {
    go::<T>(cpu, op, op.disp as u16, op.imm, true)
}

/// JMP to a far address in memory.
pub fn jmp_m<T: Int>(cpu: &mut Cpu, op: &Op) -> Flow {
    let (selector, offset) = attempt!(cpu.far_pointer::<T>(op));
    go::<T>(cpu, op, selector, offset, false)
}

/// CALL to a far address in memory.
pub fn call_m<T: Int>(cpu: &mut Cpu, op: &Op) -> Flow {
    let (selector, offset) = attempt!(cpu.far_pointer::<T>(op));
    go::<T>(cpu, op, selector, offset, true)
}

/// RETF, and RETF immediate.
pub fn ret<T: Int>(cpu: &mut Cpu, op: &Op) -> Flow {
    attempt!(cpu.far_return::<T>(op.imm & 0xffff));
    Flow::Jump
}
