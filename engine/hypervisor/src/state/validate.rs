//! Judging a saved state before any of it reaches the accelerator.

use super::{Element, EventsV1, RunStateV1, SegmentV1, VcpuStateV1};
use crate::HypervisorError;

/// The MSRs that are saved and may be restored, ascending: nothing else a state names is ever written.
///
/// EFER, the APIC base, FS and GS base are in [`SpecialV1`](super::SpecialV1), the TSC in
/// [`TscV1`](super::TscV1).
pub const MSRS: &[u32] = &[
    0x3b,  // IA32_TSC_ADJUST
    0x48,  // IA32_SPEC_CTRL
    0x174, // IA32_SYSENTER_CS
    0x175, // IA32_SYSENTER_ESP
    0x176, // IA32_SYSENTER_EIP
    0x17a, // IA32_MCG_STATUS
    0x1a0, // IA32_MISC_ENABLE
    0x200,
    0x201,
    0x202,
    0x203,
    0x204,
    0x205,
    0x206,
    0x207, // IA32_MTRR_PHYSBASE0 ..
    0x208,
    0x209,
    0x20a,
    0x20b,
    0x20c,
    0x20d,
    0x20e,
    0x20f, // .. IA32_MTRR_PHYSMASK7
    0x250,
    0x258,
    0x259, // IA32_MTRR_FIX64K, FIX16K
    0x268,
    0x269,
    0x26a,
    0x26b,
    0x26c,
    0x26d,
    0x26e,
    0x26f,       // IA32_MTRR_FIX4K
    0x277,       // IA32_PAT
    0x2ff,       // IA32_MTRR_DEF_TYPE
    0x6e0,       // IA32_TSC_DEADLINE
    0xc000_0081, // STAR
    0xc000_0082, // LSTAR
    0xc000_0083, // CSTAR
    0xc000_0084, // SFMASK
    0xc000_0102, // KERNEL_GS_BASE
    0xc000_0103, // TSC_AUX
];

const XSAVE_MIN_BYTES: usize = 576;
const XSAVE_MAX_BYTES: usize = 4096;
const LOCAL_APIC_BYTES: usize = 1024;
/// x87, SSE and AVX: what the CPUID model can show.
const XCR0_KNOWN: u64 = 7;
const RFLAGS_KNOWN: u64 = 0x003f_7fd7;
/// SCE, LME, LMA, NXE, FFXSR.
const EFER_KNOWN: u64 = 0x4d01;
const ATTRIBUTES_KNOWN: u32 = 0x1_f0ff;

impl VcpuStateV1 {
    /// Whether the state could have come from a vCPU.
    ///
    /// # Errors
    /// [`HypervisorError::State`] with the part at fault.
    pub fn validate(&self) -> Result<(), HypervisorError> {
        for element in Element::ALL {
            if let Some(what) = self.fault(element) {
                return Err(HypervisorError::State { field: format!("{}: {what}", element.name()) });
            }
        }
        Ok(())
    }

    fn fault(&self, element: Element) -> Option<&'static str> {
        let check = |good: bool, what| (!good).then_some(what);
        match element {
            Element::General => check(self.general.rflags & !RFLAGS_KNOWN == 0, "RFLAGS")
                .or(check(self.general.rflags & 2 != 0, "RFLAGS")),
            Element::Special => {
                let special = &self.special;
                let known = |segment: &SegmentV1| segment.attributes & !ATTRIBUTES_KNOWN == 0;
                check(special.segments.iter().all(known), "segment")
                    .or(check(known(&special.ldt), "LDTR"))
                    .or(check(known(&special.tr), "TR"))
                    .or(check(special.cr0 >> 32 == 0, "CR0"))
                    .or(check(special.cr0 & (1 << 31) == 0 || special.cr0 & 1 != 0, "CR0"))
                    .or(check(special.cr8 <= 15, "CR8"))
                    .or(check(special.efer & !EFER_KNOWN == 0, "EFER"))
                    .or(check(special.apic_base & 0xff == 0, "IA32_APIC_BASE"))
            }
            Element::Debug => check(self.debug.dr6 >> 32 == 0, "DR6").or(check(self.debug.dr7 >> 32 == 0, "DR7")),
            Element::Extended => {
                let xsave = &self.extended.xsave;
                if !(XSAVE_MIN_BYTES..=XSAVE_MAX_BYTES).contains(&xsave.len()) {
                    return Some("length");
                }
                let header =
                    |at: usize| xsave[at..at + 8].iter().rev().fold(0u64, |sum, byte| sum << 8 | u64::from(*byte));
                check(header(512) & !XCR0_KNOWN == 0, "XSTATE_BV")
                    .or(check(header(520) == 0, "XCOMP_BV"))
                    .or(check(u32::from_le_bytes([xsave[24], xsave[25], xsave[26], xsave[27]]) >> 18 == 0, "MXCSR"))
            }
            Element::Xcr => check(self.xcr0 & 1 != 0 && self.xcr0 & !XCR0_KNOWN == 0, "value")
                .or(check(self.xcr0 & 4 == 0 || self.xcr0 & 2 != 0, "value")),
            Element::Msrs => check(self.msrs.iter().all(|msr| MSRS.binary_search(&msr.index).is_ok()), "index")
                .or(check(self.msrs.is_sorted_by(|a, b| a.index < b.index), "order")),
            Element::LocalApic => check(self.local_apic.registers.len() == LOCAL_APIC_BYTES, "length"),
            Element::Events => {
                let EventsV1 {
                    exception,
                    interrupt: _,
                    shadow,
                    nmi_injected: _,
                    nmi_pending: _,
                    nmi_masked: _,
                    sipi_vector: _,
                } = self.events;
                check(exception.is_none_or(|exception| exception.vector < 32 && exception.vector != 2), "exception")
                    .or(check(shadow <= 3, "interrupt shadow"))
            }
            Element::RunState => match self.run_state {
                RunStateV1::Runnable
                | RunStateV1::Uninitialized
                | RunStateV1::InitReceived
                | RunStateV1::SipiReceived
                | RunStateV1::Halted => None,
            },
            Element::Tsc => None,
        }
    }
}
