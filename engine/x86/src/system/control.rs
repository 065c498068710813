//! Control and debug registers, tables, flags, and what only a supervisor may.

use super::descriptor::{Descriptor, named};
use crate::attempt;
use crate::cpu::{Cpu, Effect, Segment, Table, Trap, attribute, cr0, cr4, efer, vector};
use crate::exec::alu::zero_flag;
use crate::flags;
use crate::op::{Flow, Int, Op, reg, seg};

const CR0_KNOWN: u64 = 0xe005_003f;
const CR4_KNOWN: u64 = cr4::TSD
    | cr4::DE
    | cr4::PSE
    | cr4::PAE
    | cr4::MCE
    | cr4::PGE
    | cr4::PCE
    | cr4::OSFXSR
    | cr4::OSXMMEXCPT
    | cr4::UMIP
    | cr4::FSGSBASE
    | cr4::PCIDE
    | cr4::SMEP
    | cr4::SMAP;

impl Cpu {
    /// #GP unless at level 0.
    ///
    /// # Errors
    /// #GP.
    pub fn supervisor(&mut self) -> Result<(), Trap> {
        if self.cpl == 0 { Ok(()) } else { Err(self.gp()) }
    }

    /// #GP at level 3 with CR4.UMIP.
    fn not_hidden(&mut self) -> Result<(), Trap> {
        if self.cpl > 0 && self.cr4 & cr4::UMIP != 0 { Err(self.gp()) } else { Ok(()) }
    }

    /// #UD outside protected mode.
    fn protected(&mut self) -> Result<(), Trap> {
        if self.is_protected() { Ok(()) } else { Err(self.raise(vector::UD)) }
    }

    /// Changes CR0.
    ///
    /// # Errors
    /// #GP for bits that contradict each other.
    pub fn set_cr0(&mut self, value: u64) -> Result<(), Trap> {
        let value = value & (CR0_KNOWN | !0xffff_ffff) | cr0::ET;
        let contradicts = value >> 32 != 0
            || (value & cr0::PG != 0 && value & cr0::PE == 0)
            || (value & cr0::NW != 0 && value & cr0::CD == 0);
        let pages = value & cr0::PG != 0;
        let begins = pages && self.cr0 & cr0::PG == 0;
        let begins_long = begins && self.efer & efer::LME != 0;
        if contradicts
            || (begins_long
                && (self.cr4 & cr4::PAE == 0 || self.segs[usize::from(seg::CS)].attributes & attribute::L != 0))
            || (!pages && self.cr0 & cr0::PG != 0 && (self.is_64() || self.cr4 & cr4::PCIDE != 0))
        {
            return Err(self.gp());
        }
        if begins_long {
            self.efer |= efer::LMA;
        } else if !pages {
            self.efer &= !efer::LMA;
        }
        if (self.cr0 ^ value) & (cr0::PG | cr0::WP | cr0::PE) != 0 {
            self.memory.flush();
        }
        self.cr0 = value;
        self.renew();
        Ok(())
    }

    fn set_cr3(&mut self, value: u64) {
        // With PCID bit 63 keeps translations; they may always be forgotten.
        self.cr3 = if self.is_long() { value & 0x7fff_ffff_ffff_ffff } else { value & 0xffff_ffff };
        self.memory.flush();
    }

    fn set_cr4(&mut self, value: u64) -> Result<(), Trap> {
        let pcid = value & cr4::PCIDE != 0 && self.cr4 & cr4::PCIDE == 0;
        if value & !CR4_KNOWN != 0
            || (self.is_long() && value & cr4::PAE == 0)
            || (pcid && (!self.is_long() || self.cr3 & 0xfff != 0))
        {
            return Err(self.gp());
        }
        self.cr4 = value;
        self.memory.flush();
        self.renew();
        Ok(())
    }
}

/// MOV register, CRn.
pub fn from_cr<T: Int>(cpu: &mut Cpu, op: &Op) -> Flow {
    attempt!(cpu.supervisor());
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
    cpu.set::<T>(op.dst, value);
    Flow::Next
}

/// MOV CRn, register.
pub fn to_cr<T: Int>(cpu: &mut Cpu, op: &Op) -> Flow {
    attempt!(cpu.supervisor());
    let value = cpu.get::<T>(op.src);
    match op.dst {
        0 => attempt!(cpu.set_cr0(value)),
        2 => cpu.cr2 = value,
        3 => cpu.set_cr3(value),
        4 => attempt!(cpu.set_cr4(value)),
        8 if value > 15 => {
            cpu.gp();
            return Flow::Trap;
        }
        8 => {
            cpu.cr8 = value as u8;
            cpu.effect(Effect::Priority(value as u8));
        }
        _ => {
            cpu.raise(vector::UD);
            return Flow::Trap;
        }
    }
    Flow::Leave
}

/// Number of a debug register, DR4 and DR5 being others' names.
fn debug_number(cpu: &mut Cpu, number: u8) -> Result<usize, Trap> {
    if cpu.dr[7] >> 13 & 1 != 0 {
        cpu.dr[6] |= 1 << 13;
        return Err(cpu.raise(vector::DB));
    }
    match number {
        4 | 5 if cpu.cr4 & cr4::DE != 0 => Err(cpu.raise(vector::UD)),
        4 | 5 => Ok(usize::from(number) + 2),
        0..=7 => Ok(number.into()),
        _ => Err(cpu.raise(vector::UD)),
    }
}

/// MOV register, DRn.
pub fn from_dr<T: Int>(cpu: &mut Cpu, op: &Op) -> Flow {
    attempt!(cpu.supervisor());
    let number = attempt!(debug_number(cpu, op.src));
    let value = cpu.dr[number & 7];
    cpu.set::<T>(op.dst, value);
    Flow::Next
}

/// MOV DRn, register.
pub fn to_dr<T: Int>(cpu: &mut Cpu, op: &Op) -> Flow {
    attempt!(cpu.supervisor());
    let number = attempt!(debug_number(cpu, op.dst));
    let value = cpu.get::<T>(op.src);
    if number >= 6 && value >> 32 != 0 {
        cpu.gp();
        return Flow::Trap;
    }
    cpu.dr[number & 7] = match number {
        6 => value & 0xe00f | 0xffff_0ff0,
        7 => value & 0xffff_2fff | 0x400,
        _ => value,
    };
    cpu.renew();
    Flow::Leave
}

/// CLTS.
pub fn clts(cpu: &mut Cpu, _op: &Op) -> Flow {
    attempt!(cpu.supervisor());
    cpu.cr0 &= !cr0::TS;
    Flow::Leave
}

/// LMSW: it can set PE and not clear it.
pub fn lmsw(cpu: &mut Cpu, value: u64) -> Flow {
    attempt!(cpu.supervisor());
    let value = cpu.cr0 & !0xe | value & 0xf;
    attempt!(cpu.set_cr0(value));
    Flow::Leave
}

/// LMSW register.
pub fn lmsw_r(cpu: &mut Cpu, op: &Op) -> Flow {
    let value = cpu.get::<u16>(op.dst);
    lmsw(cpu, value)
}

/// LMSW memory.
pub fn lmsw_m(cpu: &mut Cpu, op: &Op) -> Flow {
    let value = attempt!(cpu.load::<u16>(op.seg, cpu.address(op)));
    lmsw(cpu, value)
}

/// What SMSW, SLDT and STR store: in `extra` 0, 1, 2.
fn stored_word(cpu: &mut Cpu, op: &Op) -> Result<u64, Trap> {
    cpu.not_hidden()?;
    if op.extra == 0 {
        return Ok(cpu.cr0);
    }
    cpu.protected()?;
    let number = if op.extra == 1 { seg::LDT } else { seg::TR };
    Ok(cpu.segs[usize::from(number)].selector.into())
}

/// SMSW, SLDT, STR register.
pub fn store_word_r<T: Int>(cpu: &mut Cpu, op: &Op) -> Flow {
    let value = attempt!(stored_word(cpu, op));
    cpu.set::<T>(op.dst, value);
    Flow::Next
}

/// SMSW, SLDT, STR memory.
pub fn store_word_m(cpu: &mut Cpu, op: &Op) -> Flow {
    let value = attempt!(stored_word(cpu, op));
    attempt!(cpu.store::<u16>(op.seg, cpu.address(op), value & 0xffff));
    cpu.stored()
}

fn behind(cpu: &Cpu, op: &Op) -> u64 {
    cpu.address(op).wrapping_add(2) & crate::op::ADDRESS_MASKS[usize::from(op.asize & 3)]
}

/// SGDT and SIDT: `extra` is 1 for the IDT.
pub fn store_table(cpu: &mut Cpu, op: &Op) -> Flow {
    attempt!(cpu.not_hidden());
    let table = if op.extra == 0 { cpu.gdt } else { cpu.idt };
    let next = behind(cpu, op);
    if cpu.is_64() {
        attempt!(cpu.load_to_write::<u64>(op.seg, next));
        attempt!(cpu.store::<u16>(op.seg, cpu.address(op), table.limit.into()));
        attempt!(cpu.store::<u64>(op.seg, next, table.base));
    } else {
        attempt!(cpu.load_to_write::<u32>(op.seg, next));
        attempt!(cpu.store::<u16>(op.seg, cpu.address(op), table.limit.into()));
        attempt!(cpu.store::<u32>(op.seg, next, table.base & 0xffff_ffff));
    }
    cpu.stored()
}

/// LGDT and LIDT: `extra` is 1 for the IDT; of 16-bit operands 24 bits of the base count.
pub fn load_table<const NARROW: bool>(cpu: &mut Cpu, op: &Op) -> Flow {
    attempt!(cpu.supervisor());
    let limit = attempt!(cpu.load::<u16>(op.seg, cpu.address(op))) as u16;
    let next = behind(cpu, op);
    let base = if cpu.is_64() {
        attempt!(cpu.load::<u64>(op.seg, next))
    } else {
        attempt!(cpu.load::<u32>(op.seg, next)) & if NARROW { 0xff_ffff } else { 0xffff_ffff }
    };
    if cpu.is_64() && !cpu.is_canonical(base) {
        cpu.gp();
        return Flow::Trap;
    }
    let table = Table { base, limit };
    if op.extra == 0 {
        cpu.gdt = table;
    } else {
        cpu.idt = table;
    }
    Flow::Leave
}

fn load_system(cpu: &mut Cpu, selector: u16, task: bool) -> Flow {
    attempt!(cpu.protected());
    attempt!(cpu.supervisor());
    let number = usize::from(if task { seg::TR } else { seg::LDT });
    if selector & 0xfffc == 0 && !task {
        cpu.segs[number] = Segment { selector, attributes: attribute::UNUSABLE, ..Segment::default() };
        return Flow::Leave;
    }
    if selector & 4 != 0 || selector & 0xfffc == 0 {
        cpu.raise_with(vector::GP, named(selector));
        return Flow::Trap;
    }
    let long = cpu.is_long();
    let descriptor = attempt!(cpu.wide_descriptor(selector, vector::GP, long));
    let fits = if task {
        matches!(descriptor.kind(), 1 | 9) && !(long && descriptor.kind() == 1)
    } else {
        descriptor.kind() == 2
    };
    if descriptor.is_segment() || !fits {
        cpu.raise_with(vector::GP, named(selector));
        return Flow::Trap;
    }
    if !descriptor.is_present() {
        cpu.raise_with(vector::NP, named(selector));
        return Flow::Trap;
    }
    let mut segment = descriptor.segment(selector);
    if task {
        // Busy.
        let at = descriptor.at.wrapping_add(5);
        let byte = attempt!(cpu.load_linear::<u8>(at));
        attempt!(cpu.store_linear::<u8>(at, byte | 2));
        segment.attributes |= 2;
    }
    cpu.segs[number] = segment;
    Flow::Leave
}

/// LLDT and LTR register: `extra` is 1 for the task.
pub fn load_system_r(cpu: &mut Cpu, op: &Op) -> Flow {
    let selector = cpu.get::<u16>(op.dst) as u16;
    load_system(cpu, selector, op.extra == 1)
}

/// LLDT and LTR memory.
pub fn load_system_m(cpu: &mut Cpu, op: &Op) -> Flow {
    let selector = attempt!(cpu.load::<u16>(op.seg, cpu.address(op))) as u16;
    load_system(cpu, selector, op.extra == 1)
}

/// What a selector leads to, if the instruction may see it.
fn seen(cpu: &mut Cpu, selector: u16) -> Result<Option<Descriptor>, Trap> {
    if selector & 0xfffc == 0 {
        return Ok(None);
    }
    let found = match cpu.descriptor(selector, vector::GP) {
        Ok(found) => found,
        // Outside its table is an answer, a page fault is not.
        Err(Trap) => {
            return match cpu.trap {
                crate::cpu::Cause::Exception(exception) if exception.vector == vector::GP => Ok(None),
                _ => Err(Trap),
            };
        }
    };
    let outer = cpu.cpl.max((selector & 3) as u8);
    Ok((found.is_conforming() || found.dpl() >= outer).then_some(found))
}

/// LAR, LSL, VERR, VERW.
#[derive(Clone, Copy)]
enum Question {
    Rights,
    Limit,
    Readable,
    Writable,
}

fn ask<T: Int>(cpu: &mut Cpu, op: &Op, selector: u16, question: Question) -> Flow {
    attempt!(cpu.protected());
    let found = attempt!(seen(cpu, selector));
    let long = cpu.is_long();
    let answer = found.and_then(|found| {
        let kind = found.kind();
        match question {
            Question::Rights
                if found.is_segment()
                    || matches!(kind, 2 | 9 | 11 | 12)
                    || (!long && matches!(kind, 1 | 3 | 4 | 5)) =>
            {
                Some(found.low >> 32 & 0x00f0_ff00)
            }
            Question::Limit if found.is_segment() || matches!(kind, 2 | 9 | 11) || (!long && matches!(kind, 1 | 3)) => {
                Some(found.limit().into())
            }
            Question::Readable if found.is_segment() && (!found.is_code() || kind & 2 != 0) => Some(0),
            Question::Writable if found.is_segment() && !found.is_code() && kind & 2 != 0 => Some(0),
            _ => None,
        }
    });
    if let (Some(answer), Question::Rights | Question::Limit) = (answer, question) {
        cpu.set::<T>(op.dst, answer);
    }
    zero_flag(cpu, answer.is_some());
    Flow::Next
}

macro_rules! questions {
    ($($r:ident, $m:ident, $question:expr, $from:ident;)*) => {
        $(
            /// LAR, LSL, VERR or VERW of a register.
            pub fn $r<T: Int>(cpu: &mut Cpu, op: &Op) -> Flow {
                let selector = cpu.get::<u16>(op.$from) as u16;
                ask::<T>(cpu, op, selector, $question)
            }

            /// LAR, LSL, VERR or VERW of memory.
            pub fn $m<T: Int>(cpu: &mut Cpu, op: &Op) -> Flow {
                let selector = attempt!(cpu.load::<u16>(op.seg, cpu.address(op))) as u16;
                ask::<T>(cpu, op, selector, $question)
            }
        )*
    };
}

questions! {
    lar_r, lar_m, Question::Rights, src;
    lsl_r, lsl_m, Question::Limit, src;
    verr_r, verr_m, Question::Readable, dst;
    verw_r, verw_m, Question::Writable, dst;
}

/// ARPL of a register.
pub fn arpl_r(cpu: &mut Cpu, op: &Op) -> Flow {
    attempt!(cpu.protected());
    let (a, b) = (cpu.get::<u16>(op.dst), cpu.get::<u16>(op.src) & 3);
    let less = a & 3 < b;
    if less {
        cpu.set::<u16>(op.dst, a & !3 | b);
    }
    zero_flag(cpu, less);
    Flow::Next
}

/// ARPL of memory.
pub fn arpl_m(cpu: &mut Cpu, op: &Op) -> Flow {
    attempt!(cpu.protected());
    let address = cpu.address(op);
    let a = attempt!(cpu.load_to_write::<u16>(op.seg, address));
    let b = cpu.get::<u16>(op.src) & 3;
    let less = a & 3 < b;
    if less {
        attempt!(cpu.store::<u16>(op.seg, address, a & !3 | b));
    }
    zero_flag(cpu, less);
    cpu.stored()
}

/// INVLPG.
pub fn invlpg(cpu: &mut Cpu, op: &Op) -> Flow {
    attempt!(cpu.supervisor());
    let linear = cpu.segs[usize::from(op.seg & 7)].base.wrapping_add(cpu.address(op)) & cpu.linear_mask;
    cpu.memory.flush_page(linear);
    Flow::Leave
}

/// INVPCID: all translations are forgotten, whatever it names.
pub fn invpcid(cpu: &mut Cpu, op: &Op) -> Flow {
    attempt!(cpu.supervisor());
    attempt!(cpu.load_16(op.seg, cpu.address(op)));
    if cpu.regs[usize::from(op.dst & 15)] > 3 {
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

/// HLT.
pub fn hlt(cpu: &mut Cpu, _op: &Op) -> Flow {
    attempt!(cpu.supervisor());
    cpu.effect(Effect::Halt);
    Flow::Leave
}

/// Whether IF may be changed.
fn may_mask(cpu: &mut Cpu) -> Result<(), Trap> {
    if cpu.cr0 & cr0::PE != 0 && cpu.cpl > cpu.iopl() { Err(cpu.gp()) } else { Ok(()) }
}

/// CLI.
pub fn cli(cpu: &mut Cpu, _op: &Op) -> Flow {
    attempt!(may_mask(cpu));
    cpu.flags.rest &= !flags::IF;
    Flow::Leave
}

/// STI.
pub fn sti(cpu: &mut Cpu, _op: &Op) -> Flow {
    attempt!(may_mask(cpu));
    if cpu.flags.rest & flags::IF == 0 {
        cpu.shadow_sti = true;
    }
    cpu.flags.rest |= flags::IF;
    Flow::Leave
}

/// PUSHF, PUSHFD, PUSHFQ.
pub fn pushf<T: Int>(cpu: &mut Cpu, _op: &Op) -> Flow {
    if cpu.is_v86() && cpu.iopl() < 3 {
        cpu.gp();
        return Flow::Trap;
    }
    let value = cpu.flags.get() & !(flags::RF | flags::VM);
    attempt!(cpu.push::<T>(T::cut(value)));
    cpu.stored()
}

/// POPF, POPFD, POPFQ.
pub fn popf<T: Int>(cpu: &mut Cpu, _op: &Op) -> Flow {
    if cpu.is_v86() && cpu.iopl() < 3 {
        cpu.gp();
        return Flow::Trap;
    }
    let image = attempt!(cpu.peek::<T>(0));
    let mut keeps = flags::VM | flags::RF | flags::VIF | flags::VIP;
    if cpu.cr0 & cr0::PE != 0 {
        if cpu.cpl > 0 {
            keeps |= flags::IOPL;
        }
        if cpu.cpl > cpu.iopl() {
            keeps |= flags::IF;
        }
    }
    cpu.drop_stack(T::BYTES as u64);
    cpu.set_image::<T>(image, keeps);
    cpu.renew();
    Flow::Leave
}

/// CLAC and STAC: `extra` is 1 for STAC.
pub fn set_ac(cpu: &mut Cpu, op: &Op) -> Flow {
    if cpu.cpl > 0 || cpu.cr4 & cr4::SMAP == 0 {
        cpu.raise(vector::UD);
        return Flow::Trap;
    }
    if op.extra == 0 {
        cpu.flags.rest &= !flags::AC;
    } else {
        cpu.flags.rest |= flags::AC;
    }
    cpu.renew();
    Flow::Leave
}

/// SWAPGS.
pub fn swapgs(cpu: &mut Cpu, _op: &Op) -> Flow {
    if !cpu.is_64() {
        cpu.raise(vector::UD);
        return Flow::Trap;
    }
    attempt!(cpu.supervisor());
    std::mem::swap(&mut cpu.segs[usize::from(seg::GS)].base, &mut cpu.msrs.kernel_gs_base);
    Flow::Leave
}

/// RDFSBASE and RDGSBASE: the segment is in `extra`.
pub fn read_base<T: Int>(cpu: &mut Cpu, op: &Op) -> Flow {
    if !cpu.is_64() || cpu.cr4 & cr4::FSGSBASE == 0 {
        cpu.raise(vector::UD);
        return Flow::Trap;
    }
    let value = cpu.segs[usize::from(op.extra & 7)].base;
    cpu.set::<T>(op.dst, value);
    Flow::Next
}

/// WRFSBASE and WRGSBASE.
pub fn write_base<T: Int>(cpu: &mut Cpu, op: &Op) -> Flow {
    if !cpu.is_64() || cpu.cr4 & cr4::FSGSBASE == 0 {
        cpu.raise(vector::UD);
        return Flow::Trap;
    }
    let value = cpu.get::<T>(op.dst);
    if !cpu.is_canonical(value) {
        cpu.gp();
        return Flow::Trap;
    }
    cpu.segs[usize::from(op.extra & 7)].base = value;
    Flow::Next
}

/// MOV register, segment register.
pub fn from_segment<T: Int>(cpu: &mut Cpu, op: &Op) -> Flow {
    let value = cpu.segs[usize::from(op.src & 7)].selector.into();
    cpu.set::<T>(op.dst, value);
    Flow::Next
}

/// MOV memory, segment register.
pub fn from_segment_m(cpu: &mut Cpu, op: &Op) -> Flow {
    let value = cpu.segs[usize::from(op.src & 7)].selector.into();
    attempt!(cpu.store::<u16>(op.seg, cpu.address(op), value));
    cpu.stored()
}

fn into_segment(cpu: &mut Cpu, number: u8, selector: u16) -> Flow {
    if number == seg::CS {
        cpu.raise(vector::UD);
        return Flow::Trap;
    }
    attempt!(cpu.load_segment(number, selector));
    if number == seg::SS {
        cpu.shadow_ss = true;
    }
    Flow::Leave
}

/// MOV segment register, register.
pub fn to_segment(cpu: &mut Cpu, op: &Op) -> Flow {
    let selector = cpu.get::<u16>(op.src) as u16;
    into_segment(cpu, op.dst, selector)
}

/// MOV segment register, memory.
pub fn to_segment_m(cpu: &mut Cpu, op: &Op) -> Flow {
    let selector = attempt!(cpu.load::<u16>(op.seg, cpu.address(op))) as u16;
    into_segment(cpu, op.dst, selector)
}

/// CPUID.
pub fn cpuid(cpu: &mut Cpu, _op: &Op) -> Flow {
    let (leaf, subleaf) = (cpu.get::<u32>(reg::AX) as u32, cpu.get::<u32>(reg::CX) as u32);
    let [eax, ebx, ecx, edx] = cpu.cpuid.lookup(leaf, subleaf);
    cpu.set::<u32>(reg::AX, eax.into());
    cpu.set::<u32>(reg::BX, ebx.into());
    cpu.set::<u32>(reg::CX, ecx.into());
    cpu.set::<u32>(reg::DX, edx.into());
    Flow::Next
}

/// RDTSC, and RDTSCP with `extra` 1.
pub fn rdtsc(cpu: &mut Cpu, op: &Op) -> Flow {
    if cpu.cr4 & cr4::TSD != 0 && cpu.cpl > 0 {
        cpu.gp();
        return Flow::Trap;
    }
    let ticks = cpu.clock.ticks();
    cpu.set::<u32>(reg::AX, ticks);
    cpu.set::<u32>(reg::DX, ticks >> 32);
    if op.extra == 1 {
        let aux = cpu.msrs.tsc_aux;
        cpu.set::<u32>(reg::CX, aux);
    }
    Flow::Next
}

/// RDPMC: there are no counters.
pub fn rdpmc(cpu: &mut Cpu, _op: &Op) -> Flow {
    cpu.gp();
    Flow::Trap
}
