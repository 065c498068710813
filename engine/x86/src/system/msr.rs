//! Model-specific registers.

use crate::attempt;
use crate::cpu::{Cpu, Effect, Request, cr0, efer};
use crate::op::{Flow, Op, reg, seg};

const EFER_KNOWN: u64 = efer::SCE | efer::LME | efer::LMA | efer::NXE;
const MTRR_FIXED: [u32; 11] = [0x250, 0x258, 0x259, 0x268, 0x269, 0x26a, 0x26b, 0x26c, 0x26d, 0x26e, 0x26f];
/// Eight variable ranges, fixed ranges, write-combining.
const MTRR_CAP: u64 = 8 | 1 << 8 | 1 << 10;
/// Fast strings.
const MISC_ENABLE_FAST_STRINGS: u64 = 1;

/// Whether it is somebody else's: the APIC's, the clock's.
fn is_outside(index: u32) -> bool {
    matches!(index, 0x1b | 0x3b | 0x6e0 | 0x800..=0x8ff)
}

impl Cpu {
    fn msr(&self, index: u32) -> Option<u64> {
        let msrs = &self.msrs;
        Some(match index {
            0x10 => self.clock.ticks(),
            0x174 => msrs.sysenter_cs,
            0x175 => msrs.sysenter_esp,
            0x176 => msrs.sysenter_eip,
            0x179 => 0,
            0x17a => msrs.mcg_status,
            0x1a0 => msrs.misc_enable | MISC_ENABLE_FAST_STRINGS,
            0x277 => msrs.pat,
            0x2ff => msrs.mtrr_def_type,
            0xfe => MTRR_CAP,
            0xc000_0080 => self.efer,
            0xc000_0081 => msrs.star,
            0xc000_0082 => msrs.lstar,
            0xc000_0083 => msrs.cstar,
            0xc000_0084 => msrs.sfmask,
            0xc000_0100 => self.segs[usize::from(seg::FS)].base,
            0xc000_0101 => self.segs[usize::from(seg::GS)].base,
            0xc000_0102 => msrs.kernel_gs_base,
            0xc000_0103 => msrs.tsc_aux,
            0x200..=0x20f => *msrs.mtrr_variable.get(index as usize & 15)?,
            // PLATFORM_ID, FEATURE_CONTROL, BIOS_SIGN_ID, machine check addresses, and others that say nothing.
            0x17 | 0x3a | 0x8b | 0xce | 0x140 | 0x1d9 | 0x1db..=0x1de | 0x400..=0x47f => 0,
            _ => *msrs.mtrr_fixed.get(MTRR_FIXED.iter().position(|known| *known == index)?)?,
        })
    }

    /// False: #GP.
    fn set_msr(&mut self, index: u32, value: u64) -> bool {
        let canonical = self.is_canonical(value);
        let msrs = &mut self.msrs;
        match index {
            0x10 => self.clock.set(value),
            0x174 => msrs.sysenter_cs = value & 0xffff_ffff,
            0x175 if canonical => msrs.sysenter_esp = value,
            0x176 if canonical => msrs.sysenter_eip = value,
            0x17a => msrs.mcg_status = value,
            0x1a0 => msrs.misc_enable = value,
            0x277 => {
                if value.to_le_bytes().iter().any(|kind| !matches!(kind, 0 | 1 | 4..=7)) {
                    return false;
                }
                msrs.pat = value;
            }
            0x2ff => msrs.mtrr_def_type = value & 0xcff,
            0xc000_0080 => return self.set_efer(value),
            0xc000_0081 => msrs.star = value,
            0xc000_0082 if canonical => msrs.lstar = value,
            0xc000_0083 if canonical => msrs.cstar = value,
            0xc000_0084 => msrs.sfmask = value & 0xffff_ffff,
            0xc000_0100 if canonical => self.segs[usize::from(seg::FS)].base = value,
            0xc000_0101 if canonical => self.segs[usize::from(seg::GS)].base = value,
            0xc000_0102 if canonical => msrs.kernel_gs_base = value,
            0xc000_0103 if value >> 32 == 0 => msrs.tsc_aux = value,
            0x200..=0x20f => {
                if let Some(place) = msrs.mtrr_variable.get_mut(index as usize & 15) {
                    *place = value;
                }
            }
            0x8b | 0x140 | 0x1d9 | 0x400..=0x47f => {}
            _ => match MTRR_FIXED.iter().position(|known| *known == index) {
                Some(place) => {
                    if let Some(place) = msrs.mtrr_fixed.get_mut(place) {
                        *place = value;
                    }
                }
                None => return false,
            },
        }
        true
    }

    fn set_efer(&mut self, value: u64) -> bool {
        let pages = self.cr0 & cr0::PG != 0;
        if value & !EFER_KNOWN != 0 || (pages && (value ^ self.efer) & efer::LME != 0) {
            return false;
        }
        if (value ^ self.efer) & efer::NXE != 0 {
            self.memory.flush();
        }
        // LMA is the processor's.
        self.efer = value & !efer::LMA | self.efer & efer::LMA;
        self.renew();
        true
    }
}

/// RDMSR.
pub fn rdmsr(cpu: &mut Cpu, _op: &Op) -> Flow {
    attempt!(cpu.supervisor());
    let index = cpu.get::<u32>(reg::CX) as u32;
    let value = if is_outside(index) { Some(attempt!(cpu.ask(Request::ReadMsr(index)))) } else { cpu.msr(index) };
    let Some(value) = value else {
        cpu.gp();
        return Flow::Trap;
    };
    cpu.set::<u32>(reg::AX, value);
    cpu.set::<u32>(reg::DX, value >> 32);
    Flow::Next
}

/// WRMSR.
pub fn wrmsr(cpu: &mut Cpu, _op: &Op) -> Flow {
    attempt!(cpu.supervisor());
    let index = cpu.get::<u32>(reg::CX) as u32;
    let value = cpu.get::<u32>(reg::DX) << 32 | cpu.get::<u32>(reg::AX);
    if is_outside(index) {
        cpu.effect(Effect::WriteMsr(index, value));
    } else if !cpu.set_msr(index, value) {
        cpu.gp();
        return Flow::Trap;
    }
    Flow::Leave
}
