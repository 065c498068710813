//! The state of a vCPU: saved types of our own, the same for every backend.
//!
//! [`Element`] is the numbered table of its parts. Saving, restoring, resetting and comparing all walk that table, so
//! a part that is added can not be forgotten in one of them: each walk is an exhaustive match.

mod element;
mod entry;
mod reset;
mod validate;

use serde::{Deserialize, Serialize};

pub use element::{Comparison, Element};
pub use entry::EntryState;
pub use reset::PowerOn;
pub use validate::MSRS;

/// A vCPU, as saved. Version 1.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VcpuStateV1 {
    /// [`Element::General`].
    pub general: GeneralV1,
    /// [`Element::Special`].
    pub special: SpecialV1,
    /// [`Element::Debug`].
    pub debug: DebugV1,
    /// [`Element::Extended`].
    pub extended: ExtendedV1,
    /// [`Element::Xcr`]: XCR0.
    pub xcr0: u64,
    /// [`Element::Msrs`], in ascending order of index.
    pub msrs: Vec<MsrV1>,
    /// [`Element::LocalApic`].
    pub local_apic: LocalApicV1,
    /// [`Element::Events`].
    pub events: EventsV1,
    /// [`Element::RunState`].
    pub run_state: RunStateV1,
    /// [`Element::Tsc`].
    pub tsc: TscV1,
}

/// General registers (Intel SDM volume 1, 3.4).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GeneralV1 {
    /// RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8 to R15: the order of their encoding.
    pub registers: [u64; 16],
    /// RIP.
    pub rip: u64,
    /// RFLAGS.
    pub rflags: u64,
}

/// A segment register with its hidden part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentV1 {
    /// Selector.
    pub selector: u16,
    /// Base.
    pub base: u64,
    /// Limit in bytes, the granularity applied.
    pub limit: u32,
    /// The attributes as VMX lays them out (Intel SDM volume 3, 24.4.1): type 3:0, S 4, DPL 6:5, P 7, AVL 12, L 13,
    /// D/B 14, G 15, unusable 16.
    pub attributes: u32,
}

/// GDTR or IDTR.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DescriptorTableV1 {
    /// Base.
    pub base: u64,
    /// Limit in bytes.
    pub limit: u16,
}

/// Segments, tables and control registers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpecialV1 {
    /// ES, CS, SS, DS, FS, GS: the order of their encoding.
    pub segments: [SegmentV1; 6],
    /// LDTR.
    pub ldt: SegmentV1,
    /// TR.
    pub tr: SegmentV1,
    /// GDTR.
    pub gdt: DescriptorTableV1,
    /// IDTR.
    pub idt: DescriptorTableV1,
    /// CR0.
    pub cr0: u64,
    /// CR2.
    pub cr2: u64,
    /// CR3.
    pub cr3: u64,
    /// CR4.
    pub cr4: u64,
    /// CR8, the task priority.
    pub cr8: u64,
    /// IA32_EFER.
    pub efer: u64,
    /// IA32_APIC_BASE.
    pub apic_base: u64,
}

/// Debug registers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DebugV1 {
    /// DR0 to DR3.
    pub addresses: [u64; 4],
    /// DR6.
    pub dr6: u64,
    /// DR7.
    pub dr7: u64,
}

/// x87, SSE and what XSAVE holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExtendedV1 {
    /// An XSAVE area in the standard (not compacted) form, legacy area and header first; at most 4096 bytes.
    pub xsave: Vec<u8>,
}

/// One model-specific register.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MsrV1 {
    /// Index, one of [`MSRS`].
    pub index: u32,
    /// Value.
    pub value: u64,
}

/// The local APIC.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalApicV1 {
    /// The first KiB of its register page, as the guest would read it in xAPIC mode.
    pub registers: Vec<u8>,
}

impl LocalApicV1 {
    /// Whether an interrupt of this vector was accepted and its EOI is yet to come (IRR and ISR).
    ///
    /// An EOI that an accelerator had not reported when the state was saved is not in the state. After restoring, a
    /// level-triggered IOAPIC entry that waits for an EOI (remote IRR) is to be treated as if it had come unless some
    /// vCPU's local APIC says true here.
    pub fn owes_eoi(&self, vector: u8) -> bool {
        let vector = usize::from(vector);
        [IN_SERVICE, REQUESTED].into_iter().any(|base| {
            let byte = base + vector / 32 * 16 + vector % 32 / 8;
            self.registers.get(byte).is_some_and(|bits| bits & (1 << (vector % 8)) != 0)
        })
    }
}

/// Offset of the in-service register (Intel SDM volume 3, table 11-1): 256 bits, 32 in each 16 bytes.
const IN_SERVICE: usize = 0x100;
/// Offset of the interrupt request register.
const REQUESTED: usize = 0x200;

/// Exceptions and interrupts on their way into the guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventsV1 {
    /// An exception whose delivery was begun or is due.
    pub exception: Option<ExceptionV1>,
    /// An acknowledged interrupt that was not delivered yet: its vector, and whether an INT instruction raised it.
    pub interrupt: Option<(u8, bool)>,
    /// Interrupts are held off by the last instruction: bit 0 MOV SS, bit 1 STI.
    pub shadow: u8,
    /// An NMI's delivery was begun.
    pub nmi_injected: bool,
    /// An NMI waits.
    pub nmi_pending: bool,
    /// NMIs are held off until IRET.
    pub nmi_masked: bool,
    /// The vector of a SIPI that was received.
    pub sipi_vector: u8,
}

/// An exception.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExceptionV1 {
    /// Vector, below 32.
    pub vector: u8,
    /// Error code, for those that have one.
    pub error_code: Option<u32>,
    /// Delivery was begun (its side effects on CR2 and DR6 have happened).
    pub injected: bool,
}

/// What the vCPU does when it is let run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RunStateV1 {
    /// Executes.
    Runnable,
    /// After reset, an application processor: waits for INIT.
    Uninitialized,
    /// INIT came: waits for SIPI.
    InitReceived,
    /// SIPI came.
    SipiReceived,
    /// HLT: waits for an interrupt.
    Halted,
}

/// The time-stamp counter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TscV1 {
    /// Its value: at the pause if the VM is paused, else when it was saved.
    pub ticks: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requested_and_in_service_interrupts_owe_an_eoi() {
        let mut apic = LocalApicV1 { registers: vec![0; 1024] };
        // Bits of vector 9bh: word 4, bit 27.
        for base in [IN_SERVICE, REQUESTED] {
            apic.registers[base + 0x43] = 1 << 3;
            assert_eq!((0..=255).filter(|vector| apic.owes_eoi(*vector)).collect::<Vec<u8>>(), [0x9b]);
            apic.registers.fill(0);
        }
        assert!(!LocalApicV1 { registers: Vec::new() }.owes_eoi(255));
    }
}
