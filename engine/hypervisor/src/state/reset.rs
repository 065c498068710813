//! State at power-on and reset (Intel SDM volume 3, table 10-1).

use super::{
    DebugV1, DescriptorTableV1, Element, EventsV1, ExtendedV1, GeneralV1, LocalApicV1, MsrV1, RunStateV1, SegmentV1,
    SpecialV1, VcpuStateV1,
};

/// Data segment of real mode: read/write, accessed, present.
const REAL_DATA: u32 = 0x93;
/// Code segment of real mode.
const REAL_CODE: u32 = 0x9b;
const LDT: u32 = 0x82;
const TASK: u32 = 0x8b;
const RDX: usize = 2;

/// What a reset needs to know of one vCPU.
#[derive(Clone, Debug)]
pub struct PowerOn {
    /// CPUID leaf 1 EAX, which is in EDX after reset.
    pub signature: u32,
    /// It is vCPU 0, the bootstrap processor.
    pub bootstrap: bool,
    /// IA32_APIC_BASE as the accelerator made it.
    pub apic_base: u64,
    /// The local APIC as the accelerator made it: its identity and version are in there.
    pub local_apic: LocalApicV1,
    /// The MSRs as the accelerator made them.
    pub msrs: Vec<MsrV1>,
}

impl PowerOn {
    /// Puts one part of `state` back to how it is at reset. The TSC goes on: a guest can not tell a machine whose
    /// counter was not cleared from one that took a while to start.
    pub fn apply(&self, element: Element, state: &mut VcpuStateV1) {
        match element {
            Element::General => {
                state.general = GeneralV1 { rip: 0xfff0, rflags: 2, ..GeneralV1::default() };
                state.general.registers[RDX] = self.signature.into();
            }
            Element::Special => {
                let data = SegmentV1 { selector: 0, base: 0, limit: 0xffff, attributes: REAL_DATA };
                let code = SegmentV1 { selector: 0xf000, base: 0xffff_0000, limit: 0xffff, attributes: REAL_CODE };
                let table = DescriptorTableV1 { base: 0, limit: 0xffff };
                state.special = SpecialV1 {
                    segments: [data, code, data, data, data, data],
                    ldt: SegmentV1 { attributes: LDT, ..data },
                    tr: SegmentV1 { attributes: TASK, ..data },
                    gdt: table,
                    idt: table,
                    cr0: 0x6000_0010,
                    apic_base: self.apic_base,
                    ..SpecialV1::default()
                };
            }
            Element::Debug => state.debug = DebugV1 { addresses: [0; 4], dr6: 0xffff_0ff0, dr7: 0x400 },
            Element::Extended => {
                let mut xsave = vec![0; 4096];
                // FCW and MXCSR of FNINIT and of reset; an empty XSTATE_BV would say the same, but not to a host
                // that has no XSAVE.
                xsave[0..2].copy_from_slice(&0x37fu16.to_le_bytes());
                xsave[24..28].copy_from_slice(&0x1f80u32.to_le_bytes());
                xsave[512] = 3;
                state.extended = ExtendedV1 { xsave };
            }
            Element::Xcr => state.xcr0 = 1,
            Element::Msrs => state.msrs.clone_from(&self.msrs),
            Element::LocalApic => state.local_apic.clone_from(&self.local_apic),
            Element::Events => state.events = EventsV1::default(),
            Element::RunState => {
                state.run_state = if self.bootstrap { RunStateV1::Runnable } else { RunStateV1::Uninitialized };
            }
            Element::Tsc => {}
        }
    }
}
