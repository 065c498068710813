//! Control and debug registers, and what forgets translations (Intel SDM volume 3, 2.5, 4.10.4, 9.8.5 and 17.2).

use super::descriptor::kind;
use crate::attempt;
use crate::cpu::{Cpu, Effect, Trap, attribute, cr0, cr4, efer, vector};
use crate::memory::PAGE;
use crate::mmu::PHYSICAL_BITS;
use crate::op::{Flow, Int, Op, seg};

/// Bits of CR0 that there are; the others of the low half are ignored.
const CR0: u64 =
    cr0::PE | cr0::MP | cr0::EM | cr0::TS | cr0::ET | cr0::NE | cr0::WP | cr0::AM | cr0::NW | cr0::CD | cr0::PG;
/// Bits of CR4 that any processor of this kind has.
const CR4: u64 = cr4::VME
    | cr4::PVI
    | cr4::TSD
    | cr4::DE
    | cr4::PSE
    | cr4::PAE
    | cr4::MCE
    | cr4::PGE
    | cr4::PCE
    | cr4::OSFXSR
    | cr4::OSXMMEXCPT;
/// Those that CPUID has to announce: leaf, register, bit.
const CR4_FEATURES: [(u64, u32, usize, u32); 7] = [
    (cr4::PCIDE, 1, 2, 17),
    (cr4::OSXSAVE, 1, 2, 26),
    (cr4::FSGSBASE, 7, 1, 0),
    (cr4::SMEP, 7, 1, 7),
    (cr4::SMAP, 7, 1, 20),
    (cr4::UMIP, 7, 2, 2),
    (cr4::LA57, 7, 2, 16),
];
/// Bits of CR4 that translations depend on.
const CR4_PAGING: u64 = cr4::PSE | cr4::PAE | cr4::PGE | cr4::LA57 | cr4::PCIDE | cr4::SMEP | cr4::SMAP;
/// CR3 with PCID: translations may stay.
const CR3_KEEP: u64 = 1 << 63;
/// DR6: bits that can be written, and those that are always set.
const DR6: (u64, u64) = (0xe00f, 0xffff_0ff0);
/// DR7 likewise.
const DR7: (u64, u64) = (0xffff_23ff, 0x400);
/// DR7: MOV to or from a debug register faults,
const DR7_GD: u64 = 1 << 13;
/// and DR6 then says so.
const DR6_BD: u64 = 1 << 13;

impl Cpu {
    /// Whether CPUID announces something.
    pub(super) fn has(&self, leaf: u32, register: usize, bit: u32) -> bool {
        self.cpuid.lookup(leaf, 0).get(register).is_some_and(|value| value >> bit & 1 != 0)
    }

    /// #GP unless at level 0.
    ///
    /// # Errors
    /// #GP.
    pub(super) fn supervisor(&mut self) -> Result<(), Trap> {
        if self.cpl == 0 { Ok(()) } else { Err(self.gp()) }
    }

    /// #GP at an outer level, if CR4.UMIP says so.
    ///
    /// # Errors
    /// #GP.
    pub(super) fn not_hidden(&mut self) -> Result<(), Trap> {
        if self.cpl > 0 && self.cr4 & cr4::UMIP != 0 { Err(self.gp()) } else { Ok(()) }
    }

    /// Changes CR0 as MOV does.
    ///
    /// # Errors
    /// #GP for bits that contradict each other, or the mode.
    pub fn set_cr0(&mut self, value: u64) -> Result<(), Trap> {
        let new = value & CR0 | cr0::ET;
        let has = |bit: u64| new & bit != 0;
        let (begins, ends) = (has(cr0::PG) && self.cr0 & cr0::PG == 0, !has(cr0::PG) && self.cr0 & cr0::PG != 0);
        let long = begins && self.efer & efer::LME != 0;
        let code = self.segs[usize::from(seg::CS)].attributes;
        let task = (self.segs[usize::from(seg::TR)].attributes & attribute::TYPE) as u8;
        // Long mode begins with PAE, from code without L, and not with the TSS of an 80286.
        let not_long =
            self.cr4 & cr4::PAE == 0 || code & attribute::L != 0 || matches!(task, kind::TSS_16 | kind::TSS_16_BUSY);
        if value >> 32 != 0
            || (has(cr0::PG) && !has(cr0::PE))
            || (has(cr0::NW) && !has(cr0::CD))
            || (long && not_long)
            || (ends && (self.is_64() || self.cr4 & cr4::PCIDE != 0))
        {
            return Err(self.gp());
        }
        if (self.cr0 ^ new) & (cr0::PE | cr0::PG | cr0::WP) != 0 {
            self.memory.flush();
        }
        if long {
            self.efer |= efer::LMA;
        } else if ends {
            self.efer &= !efer::LMA;
        }
        self.cr0 = new;
        self.renew();
        Ok(())
    }

    /// Changes CR3 as MOV does.
    ///
    /// # Errors
    /// #GP for reserved bits in long mode.
    pub fn set_cr3(&mut self, value: u64) -> Result<(), Trap> {
        let keep = if self.cr4 & cr4::PCIDE != 0 { CR3_KEEP } else { 0 };
        let value = value & !keep;
        if self.is_long() && value >> PHYSICAL_BITS != 0 {
            return Err(self.gp());
        }
        self.cr3 = value;
        // Translations are kept for one address space only: none may stay.
        self.memory.flush();
        Ok(())
    }

    /// Changes CR4 as MOV does.
    ///
    /// # Errors
    /// #GP for bits that there are not, or that contradict the mode.
    pub fn set_cr4(&mut self, value: u64) -> Result<(), Trap> {
        let announced = |(bit, leaf, register, at): &(u64, u32, usize, u32)| {
            if self.has(*leaf, *register, *at) { *bit } else { 0 }
        };
        let known = CR4_FEATURES.iter().map(announced).fold(CR4, |known, bit| known | bit);
        let long = self.is_long();
        let pcid = value & !self.cr4 & cr4::PCIDE != 0;
        if value & !known != 0
            || (long && (value & cr4::PAE == 0 || (value ^ self.cr4) & cr4::LA57 != 0))
            || (pcid && (!long || self.cr3 & 0xfff != 0))
        {
            return Err(self.gp());
        }
        if (self.cr4 ^ value) & CR4_PAGING != 0 {
            self.memory.flush();
        }
        self.cr4 = value;
        self.renew();
        Ok(())
    }

    /// The debug register that a number means (volume 3, 17.2.2 and 17.2.4).
    fn debug_register(&mut self, number: u8) -> Result<usize, Trap> {
        if number > 7 || (matches!(number, 4 | 5) && self.cr4 & cr4::DE != 0) {
            return Err(self.raise(vector::UD));
        }
        self.supervisor()?;
        if self.dr[7] & DR7_GD != 0 {
            // This is sure to be delivered: DR6 may say so at once.
            self.dr[6] |= DR6_BD;
            return Err(self.raise(vector::DB));
        }
        Ok(usize::from(if matches!(number, 4 | 5) { number + 2 } else { number } & 7))
    }

    /// Whether the tables lead down to a table of 4 KiB pages for an address.
    fn is_in_small_pages(&self, linear: u64) -> bool {
        let (pae, long) = (self.cr4 & cr4::PAE != 0, self.is_long());
        let levels = match (long, pae) {
            (true, _) if self.cr4 & cr4::LA57 != 0 => 5,
            (true, _) => 4,
            (false, true) => 3,
            (false, false) => 2,
        };
        let (bits, bytes) = if pae { (9, 8) } else { (10, 4) };
        let address = ((1 << PHYSICAL_BITS) - 1) & !(PAGE - 1);
        let mut table = self.cr3 & if levels == 3 { 0xffff_ffe0 } else { address };
        for level in (1..levels).rev() {
            let at = table + (linear >> (12 + bits * level) & ((1 << bits) - 1)) * bytes;
            let Some(page) = self.memory.map.page(at, false) else { return false };
            let place = (at & (PAGE - 1)) as usize;
            let entry = if pae { page.host.load::<u64>(place) } else { page.host.load::<u32>(place) };
            if entry & 0x81 != 1 {
                return false;
            }
            table = entry & address;
        }
        true
    }
}

/// MOV register, CRn.
pub fn from_cr<T: Int>(cpu: &mut Cpu, op: &Op) -> Flow {
    let value = match op.src {
        0 => cpu.cr0,
        2 => cpu.cr2,
        3 => cpu.cr3,
        4 => cpu.cr4,
        8 => cpu.cr8.into(),
        _ => {
            cpu.raise(vector::UD);
            return Flow::Trap;
        }
    };
    attempt!(cpu.supervisor());
    cpu.set::<T>(op.dst, value);
    Flow::Leave
}

/// MOV CRn, register.
pub fn to_cr<T: Int>(cpu: &mut Cpu, op: &Op) -> Flow {
    if !matches!(op.dst, 0 | 2 | 3 | 4 | 8) {
        cpu.raise(vector::UD);
        return Flow::Trap;
    }
    attempt!(cpu.supervisor());
    let value = cpu.get::<T>(op.src);
    match op.dst {
        0 => attempt!(cpu.set_cr0(value)),
        2 => cpu.cr2 = value,
        3 => attempt!(cpu.set_cr3(value)),
        4 => attempt!(cpu.set_cr4(value)),
        _ if value > 15 => {
            cpu.gp();
            return Flow::Trap;
        }
        _ => {
            cpu.cr8 = value as u8;
            cpu.effect(Effect::Priority(cpu.cr8));
        }
    }
    Flow::Leave
}

/// MOV register, DRn.
pub fn from_dr<T: Int>(cpu: &mut Cpu, op: &Op) -> Flow {
    let number = attempt!(cpu.debug_register(op.src));
    let value = cpu.dr[number];
    cpu.set::<T>(op.dst, value);
    Flow::Leave
}

/// MOV DRn, register.
pub fn to_dr<T: Int>(cpu: &mut Cpu, op: &Op) -> Flow {
    let number = attempt!(cpu.debug_register(op.dst));
    let value = cpu.get::<T>(op.src);
    if number >= 6 && value >> 32 != 0 {
        cpu.gp();
        return Flow::Trap;
    }
    cpu.dr[number] = match number {
        6 => value & DR6.0 | DR6.1,
        7 => value & DR7.0 | DR7.1,
        _ => value,
    };
    // Breakpoints on data make each access be looked at.
    cpu.renew();
    Flow::Leave
}

/// CLTS.
pub fn clts(cpu: &mut Cpu, _op: &Op) -> Flow {
    attempt!(cpu.supervisor());
    cpu.cr0 &= !cr0::TS;
    Flow::Leave
}

/// LMSW, which can set PE and not clear it.
fn lmsw(cpu: &mut Cpu, value: u64) -> Flow {
    let low = cr0::PE | cr0::MP | cr0::EM | cr0::TS;
    let value = cpu.cr0 & (!low | cr0::PE) | value & low;
    attempt!(cpu.set_cr0(value));
    Flow::Leave
}

/// LMSW register.
pub fn lmsw_r(cpu: &mut Cpu, op: &Op) -> Flow {
    attempt!(cpu.supervisor());
    let value = cpu.get::<u16>(op.dst);
    lmsw(cpu, value)
}

/// LMSW memory.
pub fn lmsw_m(cpu: &mut Cpu, op: &Op) -> Flow {
    attempt!(cpu.supervisor());
    let value = attempt!(cpu.load::<u16>(op.seg, cpu.address(op)));
    lmsw(cpu, value)
}

/// SMSW register.
pub fn smsw_r<T: Int>(cpu: &mut Cpu, op: &Op) -> Flow {
    attempt!(cpu.not_hidden());
    let value = cpu.cr0;
    cpu.set::<T>(op.dst, value);
    Flow::Next
}

/// SMSW memory.
pub fn smsw_m(cpu: &mut Cpu, op: &Op) -> Flow {
    attempt!(cpu.not_hidden());
    attempt!(cpu.store::<u16>(op.seg, cpu.address(op), cpu.cr0 & 0xffff));
    cpu.stored()
}

/// INVLPG. Translations of a large page are kept in pieces of 4 KiB, all of which have to go. Whether it was one the
/// tables do not say any more; but software that changes a page's size invalidates it while it is not present (volume 3,
/// 4.10.2.3): if a table of small pages is there now, it was there before.
pub fn invlpg(cpu: &mut Cpu, op: &Op) -> Flow {
    attempt!(cpu.supervisor());
    let base = cpu.segs[usize::from(op.seg & 7)].start;
    let linear = base.wrapping_add(cpu.address(op)) & cpu.linear_mask;
    if cpu.is_in_small_pages(linear) {
        cpu.memory.flush_page(linear);
    } else {
        cpu.memory.flush();
    }
    Flow::Leave
}

/// INVPCID: all is forgotten, whatever it names; that is allowed (volume 3, 4.10.4.1).
pub fn invpcid(cpu: &mut Cpu, op: &Op) -> Flow {
    if !cpu.has(7, 1, 10) {
        cpu.raise(vector::UD);
        return Flow::Trap;
    }
    attempt!(cpu.supervisor());
    let what = cpu.get::<u64>(op.dst) & cpu.linear_mask;
    let descriptor = attempt!(cpu.load_16(op.seg, cpu.address(op)));
    let (pcid, linear) = (descriptor as u64, (descriptor >> 64) as u64);
    let names_pcid = what < 2;
    if what > 3
        || pcid >> 12 != 0
        || (names_pcid && pcid != 0 && cpu.cr4 & cr4::PCIDE == 0)
        || (what == 0 && !cpu.is_canonical(linear))
    {
        cpu.gp();
        return Flow::Trap;
    }
    cpu.memory.flush();
    Flow::Leave
}

/// INVD, WBINVD: there is no cache.
pub fn no_cache(cpu: &mut Cpu, _op: &Op) -> Flow {
    attempt!(cpu.supervisor());
    Flow::Next
}
