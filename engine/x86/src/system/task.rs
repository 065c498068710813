//! Task switches, which long mode does not have (Intel SDM volume 3, 7.3).

use super::descriptor::{Descriptor, is_null, kind, named, rpl};
use super::interrupt::Event;
use super::segment::{null, v86};
use crate::cpu::{Cause, Cpu, Trap, cr0, vector};
use crate::flags;
use crate::mmu::{Access, Who};
use crate::op::{Flow, Int, reg, seg};

/// What a task switch comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// JMP.
    Jump,
    /// CALL.
    Call,
    /// IRET with NT.
    Return,
    /// An interrupt or exception: its error code is for the new task.
    Gate {
        /// The exception's, if it is one that has one.
        error: Option<u32>,
    },
}

impl By {
    /// Whether the old task stays busy, to be returned to.
    fn nests(self) -> bool {
        matches!(self, Self::Call | Self::Gate { .. })
    }
}

/// A transfer can not be done; [`Cpu::trap`] says why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Nothing has changed.
    Before,
    /// The new task is there, and it is its fault.
    After,
}

impl From<Trap> for Stop {
    fn from(Trap: Trap) -> Self {
        Self::Before
    }
}

/// DR7: breakpoints of this task only, which end with it (volume 3, 17.2.4).
const DR7_LOCAL: u64 = 0x155;
/// DR6: a task switch to a TSS with T.
const DR6_BT: u64 = 1 << 15;
/// Segment registers in the order of the TSS.
const SEGMENTS: [u8; 6] = [seg::ES, seg::CS, seg::SS, seg::DS, seg::FS, seg::GS];

/// Where the fields are (volume 3, figures 7-2 and 7-10).
struct Layout {
    wide: bool,
    /// Lowest limit.
    limit: u32,
    /// EIP, EFLAGS and then the general registers.
    eip: u64,
    /// Segment registers: how many, and the LDT after them.
    segments: (u64, usize),
}

impl Layout {
    const NARROW: Self = Self { wide: false, limit: 0x2b, eip: 0xe, segments: (0x22, 4) };
    const WIDE: Self = Self { wide: true, limit: 0x67, eip: 0x20, segments: (0x48, 6) };

    fn of(wide: bool) -> Self {
        if wide { Self::WIDE } else { Self::NARROW }
    }

    /// Bytes of a field.
    fn step(&self) -> u64 {
        if self.wide { 4 } else { 2 }
    }

    fn ldt(&self) -> u64 {
        self.segments.0 + self.segments.1 as u64 * self.step()
    }
}

/// What a TSS says.
struct Task {
    cr3: u64,
    eip: u64,
    eflags: u64,
    regs: [u64; 8],
    segments: [u16; 6],
    ldt: u16,
    traps: bool,
}

impl Cpu {
    fn task_field(&mut self, layout: &Layout, base: u64, at: u64) -> Result<u64, Trap> {
        let linear = base.wrapping_add(at);
        if layout.wide { self.table::<u32>(linear) } else { self.table::<u16>(linear) }
    }

    fn read_task(&mut self, layout: &Layout, base: u64) -> Result<Task, Trap> {
        let step = layout.step();
        let mut task = Task {
            cr3: if layout.wide { self.table::<u32>(base.wrapping_add(0x1c))? } else { 0 },
            eip: self.task_field(layout, base, layout.eip)?,
            eflags: self.task_field(layout, base, layout.eip + step)?,
            regs: [0; 8],
            segments: [0; 6],
            ldt: self.table::<u16>(base.wrapping_add(layout.ldt()))? as u16,
            traps: layout.wide && self.table::<u16>(base.wrapping_add(0x64))? & 1 != 0,
        };
        for (value, place) in task.regs.iter_mut().zip(2u64..) {
            *value = self.task_field(layout, base, layout.eip + place * step)?;
        }
        for (selector, place) in task.segments.iter_mut().zip(0u64..).take(layout.segments.1) {
            *selector = self.table::<u16>(base.wrapping_add(layout.segments.0 + place * step))? as u16;
        }
        Ok(task)
    }

    /// Whether the processor may write there.
    fn can_write(&mut self, linear: u64) -> Result<(), Trap> {
        self.translate(linear & 0xffff_ffff, Access::Write, Who::Processor).map(|_| ())
    }

    fn store_field<T: Int>(&mut self, base: u64, at: u64, value: u64) -> Result<(), Trap> {
        self.store_linear::<T>(base.wrapping_add(at), T::cut(value))
    }

    fn write_task(&mut self, layout: &Layout, base: u64, eip: u64, eflags: u64) -> Result<(), Trap> {
        let step = layout.step();
        let mut values = [0; 10];
        let (head, regs) = values.split_at_mut(2);
        head.copy_from_slice(&[eip, eflags]);
        regs.iter_mut().zip(self.regs).for_each(|(value, register)| *value = register);
        for (value, place) in values.into_iter().zip(0u64..) {
            let at = layout.eip + place * step;
            if layout.wide {
                self.store_field::<u32>(base, at, value)?;
            } else {
                self.store_field::<u16>(base, at, value)?;
            }
        }
        for (number, place) in SEGMENTS.into_iter().zip(0u64..).take(layout.segments.1) {
            let selector = self.segs[usize::from(number)].selector;
            self.store_field::<u16>(base, layout.segments.0 + place * step, selector.into())?;
        }
        Ok(())
    }

    /// The TSS that a selector names.
    ///
    /// # Errors
    /// #GP or, in a return, #TS; #NP.
    fn task_descriptor(&mut self, selector: u16, by: By) -> Result<Descriptor, Trap> {
        let (fault, kinds) = if by == By::Return {
            (vector::TS, [kind::TSS_16_BUSY, kind::TSS_BUSY])
        } else {
            (vector::GP, [kind::TSS_16, kind::TSS])
        };
        if is_null(selector) || selector & 4 != 0 {
            return Err(self.raise_with(fault, named(selector)));
        }
        let descriptor = self.descriptor(selector, fault)?;
        if !descriptor.is_kind(&kinds) {
            return Err(self.raise_with(fault, named(selector)));
        }
        if !descriptor.is_present() {
            return Err(self.raise_with(vector::NP, named(selector)));
        }
        Ok(descriptor)
    }

    /// Switches to the task of a TSS. The old one goes on at `next` with the flags `image`.
    ///
    /// # Errors
    /// #GP, #TS, #NP, #SS, page faults: before or after the new task is there.
    pub(super) fn switch_task(&mut self, selector: u16, by: &By, next: u64, image: u64) -> Result<(), Stop> {
        let descriptor = self.task_descriptor(selector, *by)?;
        let layout = Layout::of(descriptor.kind() & 8 != 0);
        if descriptor.limit() < layout.limit {
            return Err(self.raise_with(vector::TS, named(selector)).into());
        }
        let base = descriptor.base();
        let old = self.segs[usize::from(seg::TR)];
        let old_layout = Layout::of(self.has_wide_tss());
        let old_descriptor = self.gdt.base.wrapping_add(u64::from(old.selector & 0xfff8));
        if old.limit < old_layout.limit {
            return Err(self.raise_with(vector::TS, named(old.selector)).into());
        }
        let task = self.read_task(&layout, base)?;
        // All that is written is looked at first, so that nothing is half done.
        for linear in [old.base, old.base.wrapping_add(old_layout.limit.into()), old_descriptor.wrapping_add(5)] {
            self.can_write(linear)?;
        }
        for linear in [base, base.wrapping_add(1), descriptor.at.wrapping_add(5)] {
            self.can_write(linear)?;
        }
        let image = if *by == By::Return { image & !flags::NT } else { image };
        self.write_task(&old_layout, old.base, next, image)?;
        if !by.nests() {
            self.mark_busy(old_descriptor, false)?;
        }
        if *by != By::Return {
            self.mark_busy(descriptor.at, true)?;
        }
        if by.nests() {
            self.store_field::<u16>(base, 0, old.selector.into())?;
        }
        let mut tr = descriptor.segment(selector);
        tr.attributes |= 2;
        self.segs[usize::from(seg::TR)] = tr;
        self.begin_task(&layout, &task, *by).map_err(|Trap| Stop::After)
    }

    /// Loads what the new task's TSS says.
    fn begin_task(&mut self, layout: &Layout, task: &Task, by: By) -> Result<(), Trap> {
        self.cr0 |= cr0::TS;
        self.dr[7] &= !DR7_LOCAL;
        if layout.wide && self.cr0 & cr0::PG != 0 {
            self.cr3 = task.cr3;
            self.memory.flush();
        }
        let eflags = if layout.wide { task.eflags } else { task.eflags & 0xffff };
        self.flags.set(eflags | if by.nests() { flags::NT } else { 0 });
        for (number, value) in (reg::AX..=reg::DI).zip(task.regs) {
            if layout.wide {
                self.set::<u32>(number, value);
            } else {
                self.set::<u16>(number, value);
            }
        }
        self.rip = task.eip;
        // Selectors are there at once; what they mean may fault.
        for (number, selector) in SEGMENTS.into_iter().zip(task.segments) {
            self.put_segment(number, null(selector));
        }
        self.put_segment(seg::LDT, null(task.ldt));
        let [es, cs, ss, ds, fs, gs] = task.segments;
        let level = if self.is_v86() { 3 } else { rpl(cs) };
        self.cpl = level;
        self.renew();
        self.load_ldt(task.ldt, vector::TS, vector::TS)?;
        if self.is_v86() {
            for (number, selector) in SEGMENTS.into_iter().zip(task.segments) {
                self.put_segment(number, v86(selector));
            }
        } else {
            let descriptor = if is_null(cs) {
                return Err(self.raise_with(vector::TS, 0));
            } else {
                self.descriptor(cs, vector::TS)?
            };
            let dpl = descriptor.dpl();
            let allowed = if descriptor.is_conforming() { dpl <= level } else { dpl == level };
            if !descriptor.is_code() || !allowed {
                return Err(self.raise_with(vector::TS, named(cs)));
            }
            if !descriptor.is_present() {
                return Err(self.raise_with(vector::NP, named(cs)));
            }
            self.mark_accessed(&descriptor)?;
            self.put_segment(seg::CS, descriptor.segment(cs));
            let stack = self.stack_segment(ss, level, vector::TS)?;
            self.put_segment(seg::SS, stack);
            for (number, selector) in [(seg::DS, ds), (seg::ES, es), (seg::FS, fs), (seg::GS, gs)] {
                let segment = self.data_segment_as(selector, level, vector::TS)?;
                self.put_segment(number, segment);
            }
        }
        self.renew();
        if let By::Gate { error: Some(error) } = by {
            let mut stack = self.stack_now();
            self.push_to(&mut stack, layout.step(), error.into())?;
            self.use_stack(&stack, false);
        }
        if task.traps {
            self.debug_due |= DR6_BT;
            self.leave = true;
        }
        let code = self.segs[usize::from(seg::CS)];
        self.check_entry(&code, task.eip)
    }

    /// Loads LDTR.
    ///
    /// # Errors
    /// `fault`, or `absent` when it is not present.
    pub(super) fn load_ldt(&mut self, selector: u16, fault: u8, absent: u8) -> Result<(), Trap> {
        if is_null(selector) {
            self.put_segment(seg::LDT, null(selector));
            return Ok(());
        }
        if selector & 4 != 0 {
            return Err(self.raise_with(fault, named(selector)));
        }
        let descriptor = self.long_descriptor(selector, fault)?;
        if !descriptor.is_kind(&[kind::LDT]) {
            return Err(self.raise_with(fault, named(selector)));
        }
        if !descriptor.is_present() {
            return Err(self.raise_with(absent, named(selector)));
        }
        self.put_segment(seg::LDT, descriptor.segment(selector));
        Ok(())
    }

    /// How a far transfer ends. A fault of the new task is delivered here: the instruction is done.
    pub(super) fn after_transfer(&mut self, done: Result<(), Stop>) -> Flow {
        match done {
            Ok(()) => Flow::Jump,
            Err(Stop::Before) => Flow::Trap,
            Err(Stop::After) => {
                if let Cause::Exception(exception) = self.trap
                    && self.deliver(Event::Exception(exception)).is_ok()
                {
                    return Flow::Jump;
                }
                self.trap = Cause::Stuck("a task was switched to that can not run");
                Flow::Trap
            }
        }
    }
}
