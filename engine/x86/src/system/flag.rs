//! Instructions that change RFLAGS as a whole, or its system flags (Intel SDM volume 2, CLI, STI, PUSHF and POPF; volume
//! 3, 20.3.3 and 20.4).

use crate::attempt;
use crate::cpu::{Cpu, Trap, cr0, cr4, vector};
use crate::flags;
use crate::op::{Flow, Int, Op};

/// Whose interrupt flag an instruction changes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Whose {
    /// The processor's: IF.
    Real,
    /// The program's own: VIF.
    Virtual,
}

impl Cpu {
    /// Whether CLI and STI are allowed, and what they change.
    fn interrupt_flag(&mut self) -> Result<Whose, Trap> {
        if self.cr0 & cr0::PE == 0 || self.cpl <= self.iopl() {
            return Ok(Whose::Real);
        }
        let virtualized = if self.is_v86() { cr4::VME } else { cr4::PVI };
        if self.cpl == 3 && self.cr4 & virtualized != 0 { Ok(Whose::Virtual) } else { Err(self.gp()) }
    }

    /// In virtual-8086 mode below IOPL 3: whether PUSHF and POPF work on VIF.
    ///
    /// # Errors
    /// #GP when they do not work at all.
    fn flags_are_virtual<T: Int>(&mut self) -> Result<bool, Trap> {
        if !self.is_v86() || self.iopl() == 3 {
            return Ok(false);
        }
        if self.cr4 & cr4::VME != 0 && T::BITS == 16 { Ok(true) } else { Err(self.gp()) }
    }
}

/// CLI.
pub fn cli(cpu: &mut Cpu, _op: &Op) -> Flow {
    match attempt!(cpu.interrupt_flag()) {
        Whose::Real => cpu.flags.rest &= !flags::IF,
        Whose::Virtual => cpu.flags.rest &= !flags::VIF,
    }
    Flow::Leave
}

/// STI: if IF was clear, the next instruction is carried out before an interrupt is taken.
pub fn sti(cpu: &mut Cpu, _op: &Op) -> Flow {
    match attempt!(cpu.interrupt_flag()) {
        Whose::Real => {
            cpu.shadow_sti = cpu.flags.rest & flags::IF == 0;
            cpu.flags.rest |= flags::IF;
        }
        Whose::Virtual if cpu.flags.rest & flags::VIP != 0 => {
            cpu.gp();
            return Flow::Trap;
        }
        Whose::Virtual => cpu.flags.rest |= flags::VIF,
    }
    Flow::Leave
}

/// PUSHF, PUSHFD, PUSHFQ: without VM and RF.
pub fn pushf<T: Int>(cpu: &mut Cpu, _op: &Op) -> Flow {
    let is_virtual = attempt!(cpu.flags_are_virtual::<T>());
    let mut image = cpu.flags.get() & !(flags::VM | flags::RF);
    if is_virtual {
        let enabled = if image & flags::VIF != 0 { flags::IF } else { 0 };
        image = image & !flags::IF | enabled | flags::IOPL;
    }
    attempt!(cpu.push::<T>(T::cut(image)));
    cpu.stored()
}

/// POPF, POPFD, POPFQ.
pub fn popf<T: Int>(cpu: &mut Cpu, _op: &Op) -> Flow {
    let is_virtual = attempt!(cpu.flags_are_virtual::<T>());
    let image = attempt!(cpu.peek::<T>(0));
    let mut mask = flags::ARITHMETIC | flags::TF | flags::DF | flags::NT | flags::AC | flags::ID;
    if is_virtual {
        let waits = cpu.flags.rest & flags::VIP != 0 && image & flags::IF != 0;
        if waits || image & flags::TF != 0 {
            cpu.gp();
            return Flow::Trap;
        }
        let enabled = if image & flags::IF != 0 { flags::VIF } else { 0 };
        cpu.flags.rest = cpu.flags.rest & !flags::VIF | enabled;
    } else {
        if cpu.cr0 & cr0::PE == 0 || cpu.cpl <= cpu.iopl() {
            mask |= flags::IF;
        }
        if cpu.cpl == 0 {
            mask |= flags::IOPL;
        }
    }
    let (mut mask, mut image) = (mask & T::MASK, image);
    if T::BITS > 16 {
        // RF is cleared; at level 0 so are VIF and VIP.
        let cleared = flags::RF | if cpu.cpl == 0 { flags::VIF | flags::VIP } else { 0 };
        (mask, image) = (mask | cleared, image & !cleared);
    }
    cpu.drop_stack(T::BYTES as u64);
    cpu.change_flags(mask, image);
    Flow::Leave
}

/// CLAC and STAC; `extra` is 1 for the latter. A supervisor does them for each access to a user's memory.
pub fn set_ac(cpu: &mut Cpu, op: &Op) -> Flow {
    // Outside level 0 they are as if not there.
    if cpu.cpl != 0 || (cpu.cr4 & cr4::SMAP == 0 && !cpu.has(7, 1, 20)) {
        cpu.raise(vector::UD);
        return Flow::Trap;
    }
    let ac = if op.extra == 1 { flags::AC } else { 0 };
    cpu.flags.rest = cpu.flags.rest & !flags::AC | ac;
    cpu.renew_memory();
    Flow::Leave
}
