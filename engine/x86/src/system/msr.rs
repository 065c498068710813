//! Model-specific registers (Intel SDM volume 4, 2.1; volume 3, 11.11 and 11.12).

use crate::attempt;
use crate::cpu::{Cpu, Effect, Request, cr0, efer};
use crate::mmu::PHYSICAL_BITS;
use crate::op::{Flow, Op, reg, seg};

/// Numbers.
mod index {
    pub const TSC: u32 = 0x10;
    pub const PLATFORM_ID: u32 = 0x17;
    pub const APIC_BASE: u32 = 0x1b;
    pub const EBL_CR_POWERON: u32 = 0x2a;
    pub const FEATURE_CONTROL: u32 = 0x3a;
    pub const TSC_ADJUST: u32 = 0x3b;
    pub const BIOS_UPDT_TRIG: u32 = 0x79;
    pub const BIOS_SIGN_ID: u32 = 0x8b;
    pub const PLATFORM_INFO: u32 = 0xce;
    pub const MTRR_CAP: u32 = 0xfe;
    pub const BBL_CR_CTL3: u32 = 0x11e;
    pub const MISC_FEATURES: u32 = 0x140;
    pub const SYSENTER_CS: u32 = 0x174;
    pub const SYSENTER_ESP: u32 = 0x175;
    pub const SYSENTER_EIP: u32 = 0x176;
    pub const MCG_CAP: u32 = 0x179;
    pub const MCG_STATUS: u32 = 0x17a;
    pub const PERF_STATUS: u32 = 0x198;
    pub const MISC_ENABLE: u32 = 0x1a0;
    pub const DEBUG_CTL: u32 = 0x1d9;
    pub const LAST_BRANCH_FROM: u32 = 0x1db;
    pub const LAST_INTERRUPT_TO: u32 = 0x1de;
    pub const MTRR_VARIABLE: u32 = 0x200;
    pub const MTRR_VARIABLE_LAST: u32 = 0x20f;
    pub const PAT: u32 = 0x277;
    pub const MTRR_DEF_TYPE: u32 = 0x2ff;
    pub const TSC_DEADLINE: u32 = 0x6e0;
    pub const X2APIC: u32 = 0x800;
    pub const X2APIC_LAST: u32 = 0x8ff;
    pub const EFER: u32 = 0xc000_0080;
    pub const STAR: u32 = 0xc000_0081;
    pub const LSTAR: u32 = 0xc000_0082;
    pub const CSTAR: u32 = 0xc000_0083;
    pub const SFMASK: u32 = 0xc000_0084;
    pub const FS_BASE: u32 = 0xc000_0100;
    pub const GS_BASE: u32 = 0xc000_0101;
    pub const KERNEL_GS_BASE: u32 = 0xc000_0102;
    pub const TSC_AUX: u32 = 0xc000_0103;
}

/// Of the fixed ranges' types, in the order of `Msrs`.
const MTRR_FIXED: [u32; 11] = [0x250, 0x258, 0x259, 0x268, 0x269, 0x26a, 0x26b, 0x26c, 0x26d, 0x26e, 0x26f];
/// Eight variable ranges; fixed ranges; write-combining.
const MTRR_CAP: u64 = 8 | 1 << 8 | 1 << 10;
/// Locked: nothing in it can be switched on, so software does not try.
const FEATURE_CONTROL: u64 = 1;
/// Bits of EFER that there are.
const EFER: u64 = efer::SCE | efer::LME | efer::LMA | efer::NXE;
/// PAT after power-on (volume 3, table 11-12).
pub(super) const PAT: u64 = 0x0007_0406_0007_0406;
/// MISC_ENABLE after power-on: fast strings; no branch trace store and no precise event sampling.
pub(super) const MISC_ENABLE: u64 = 1 | 1 << 11 | 1 << 12;

/// Whether it is kept outside: the APIC's, and what the clock's owner has to know.
fn is_outside(number: u32) -> bool {
    use index::{APIC_BASE, TSC_ADJUST, TSC_DEADLINE, X2APIC, X2APIC_LAST};
    matches!(number, APIC_BASE | TSC_ADJUST | TSC_DEADLINE | X2APIC..=X2APIC_LAST)
}

/// A memory type that MTRRs know (volume 3, table 11-8).
fn is_memory_type(number: u8) -> bool {
    matches!(number, 0 | 1 | 4 | 5 | 6)
}

/// Bits of a physical address that there are not.
const BEYOND: u64 = !((1 << PHYSICAL_BITS) - 1);

impl Cpu {
    /// A register that the processor keeps; None if there is no such.
    fn msr(&self, number: u32) -> Option<u64> {
        let msrs = &self.msrs;
        Some(match number {
            index::TSC => self.clock.ticks(),
            index::FEATURE_CONTROL => FEATURE_CONTROL,
            index::MTRR_CAP => MTRR_CAP,
            index::SYSENTER_CS => msrs.sysenter_cs,
            index::SYSENTER_ESP => msrs.sysenter_esp,
            index::SYSENTER_EIP => msrs.sysenter_eip,
            index::MCG_STATUS => msrs.mcg_status,
            index::MISC_ENABLE => msrs.misc_enable,
            index::MTRR_VARIABLE..=index::MTRR_VARIABLE_LAST => *msrs.mtrr_variable.get(number as usize & 15)?,
            index::PAT => msrs.pat,
            index::MTRR_DEF_TYPE => msrs.mtrr_def_type,
            index::EFER => self.efer,
            index::STAR => msrs.star,
            index::LSTAR => msrs.lstar,
            index::CSTAR => msrs.cstar,
            index::SFMASK => msrs.sfmask,
            index::FS_BASE => self.segs[usize::from(seg::FS)].base,
            index::GS_BASE => self.segs[usize::from(seg::GS)].base,
            index::KERNEL_GS_BASE => msrs.kernel_gs_base,
            index::TSC_AUX => msrs.tsc_aux,
            // They say nothing: no microcode, no machine check banks, no branch records, no bus or frequency to tell.
            index::PLATFORM_ID
            | index::EBL_CR_POWERON
            | index::BIOS_SIGN_ID
            | index::PLATFORM_INFO
            | index::BBL_CR_CTL3
            | index::MISC_FEATURES
            | index::MCG_CAP
            | index::PERF_STATUS
            | index::DEBUG_CTL
            | index::LAST_BRANCH_FROM..=index::LAST_INTERRUPT_TO => 0,
            _ => *msrs.mtrr_fixed.get(MTRR_FIXED.iter().position(|fixed| *fixed == number)?)?,
        })
    }

    /// Changes a register that the processor keeps. None: there is no such, or it can not be that.
    fn set_msr(&mut self, number: u32, value: u64) -> Option<()> {
        let canonical = self.is_canonical(value);
        let msrs = &mut self.msrs;
        match number {
            index::TSC => self.clock.set(value),
            index::SYSENTER_CS => msrs.sysenter_cs = value & 0xffff_ffff,
            index::SYSENTER_ESP if canonical => msrs.sysenter_esp = value,
            index::SYSENTER_EIP if canonical => msrs.sysenter_eip = value,
            index::MCG_STATUS if value >> 3 == 0 => msrs.mcg_status = value,
            index::MISC_ENABLE => msrs.misc_enable = value & !MISC_ENABLE | MISC_ENABLE & !1 | value & 1,
            index::MTRR_VARIABLE..=index::MTRR_VARIABLE_LAST => {
                let fits = if number & 1 == 0 {
                    value & (BEYOND | 0xf00) == 0 && is_memory_type(value as u8)
                } else {
                    value & (BEYOND | 0x7ff) == 0
                };
                *msrs.mtrr_variable.get_mut(number as usize & 15).filter(|_| fits)? = value;
            }
            index::PAT if value.to_le_bytes().iter().all(|kind| is_memory_type(*kind) || *kind == 7) => {
                msrs.pat = value;
            }
            index::MTRR_DEF_TYPE if value & !0xcff == 0 && is_memory_type(value as u8) => msrs.mtrr_def_type = value,
            index::EFER => self.set_efer(value)?,
            index::STAR => msrs.star = value,
            index::LSTAR if canonical => msrs.lstar = value,
            index::CSTAR if canonical => msrs.cstar = value,
            index::SFMASK if value >> 32 == 0 => msrs.sfmask = value,
            index::FS_BASE if canonical => self.set_base(seg::FS, value),
            index::GS_BASE if canonical => self.set_base(seg::GS, value),
            index::KERNEL_GS_BASE if canonical => msrs.kernel_gs_base = value,
            index::TSC_AUX if value >> 32 == 0 => msrs.tsc_aux = value,
            // Nothing comes of them: an update that changes nothing, and features that are not there.
            index::BIOS_UPDT_TRIG | index::BIOS_SIGN_ID => {}
            index::EBL_CR_POWERON | index::BBL_CR_CTL3 | index::MISC_FEATURES if value == 0 => {}
            // Branch records and traps on branches, which no feature bit of CPUID takes away.
            index::DEBUG_CTL if value >> 2 == 0 => {}
            _ => {
                let place = MTRR_FIXED.iter().position(|fixed| *fixed == number)?;
                let fits = value.to_le_bytes().into_iter().all(is_memory_type);
                *msrs.mtrr_fixed.get_mut(place).filter(|_| fits)? = value;
            }
        }
        Some(())
    }

    /// Changes EFER as WRMSR does: LMA is the processor's, and LME stays as it is while paging is on.
    fn set_efer(&mut self, value: u64) -> Option<()> {
        let changes = (value ^ self.efer) & !efer::LMA;
        if value & !EFER != 0 || (changes & efer::LME != 0 && self.cr0 & cr0::PG != 0) {
            return None;
        }
        self.efer ^= changes;
        if changes & efer::NXE != 0 {
            self.memory.flush();
        }
        self.renew();
        Some(())
    }
}

/// RDMSR.
pub fn rdmsr(cpu: &mut Cpu, _op: &Op) -> Flow {
    attempt!(cpu.supervisor());
    let number = cpu.get::<u32>(reg::CX) as u32;
    let value = if is_outside(number) {
        attempt!(cpu.ask(Request::ReadMsr(number)))
    } else {
        let Some(value) = cpu.msr(number) else {
            cpu.gp();
            return Flow::Trap;
        };
        value
    };
    cpu.set::<u32>(reg::AX, value);
    cpu.set::<u32>(reg::DX, value >> 32);
    Flow::Leave
}

/// WRMSR.
pub fn wrmsr(cpu: &mut Cpu, _op: &Op) -> Flow {
    attempt!(cpu.supervisor());
    let number = cpu.get::<u32>(reg::CX) as u32;
    let value = cpu.get::<u32>(reg::DX) << 32 | cpu.get::<u32>(reg::AX);
    if is_outside(number) {
        cpu.effect(Effect::WriteMsr(number, value));
    } else if cpu.set_msr(number, value).is_none() {
        cpu.gp();
        return Flow::Trap;
    }
    Flow::Leave
}
