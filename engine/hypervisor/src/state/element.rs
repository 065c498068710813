//! The table of the parts of a vCPU's state.

use super::VcpuStateV1;

/// How a part is compared with what was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    /// Equal to the bit.
    Exact,
    /// Time goes on between writing and reading back: only what stands still is compared.
    Moving,
}

/// One part of a vCPU's state. The numbers are part of the saved format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Element {
    /// General registers, RIP, RFLAGS.
    General = 1,
    /// Segments, descriptor tables, control registers, EFER, APIC base.
    Special = 2,
    /// Debug registers.
    Debug = 3,
    /// x87, SSE, AVX.
    Extended = 4,
    /// Extended control registers.
    Xcr = 5,
    /// Model-specific registers.
    Msrs = 6,
    /// Local APIC.
    LocalApic = 7,
    /// Pending exceptions and interrupts.
    Events = 8,
    /// Running, halted, waiting for SIPI.
    RunState = 9,
    /// Time-stamp counter.
    Tsc = 10,
}

/// Registers of the local APIC that run: the timer's current count (Intel SDM volume 3, table 11-1).
const TIMER_CURRENT_COUNT: std::ops::Range<usize> = 0x390..0x394;

impl Element {
    /// All of them, in the order in which a backend writes them: the APIC base decides what the APIC's registers
    /// mean, XCR0 what an XSAVE area may hold, the TSC what a deadline means; writing segments may wake a vCPU, so
    /// its run state comes last.
    pub const ALL: [Self; 10] = [
        Self::Special,
        Self::General,
        Self::Xcr,
        Self::Extended,
        Self::Debug,
        Self::Tsc,
        Self::LocalApic,
        Self::Msrs,
        Self::Events,
        Self::RunState,
    ];

    /// Its name, for errors.
    pub fn name(self) -> &'static str {
        match self {
            Self::General => "general registers",
            Self::Special => "segments and control registers",
            Self::Debug => "debug registers",
            Self::Extended => "XSAVE area",
            Self::Xcr => "XCR0",
            Self::Msrs => "MSRs",
            Self::LocalApic => "local APIC",
            Self::Events => "pending events",
            Self::RunState => "run state",
            Self::Tsc => "TSC",
        }
    }

    /// How it is compared.
    pub fn comparison(self) -> Comparison {
        match self {
            Self::LocalApic | Self::Tsc => Comparison::Moving,
            Self::General
            | Self::Special
            | Self::Debug
            | Self::Extended
            | Self::Xcr
            | Self::Msrs
            | Self::Events
            | Self::RunState => Comparison::Exact,
        }
    }

    /// Whether `a` and `b` are the same in this part, as far as it can be compared.
    pub fn same(self, a: &VcpuStateV1, b: &VcpuStateV1) -> bool {
        match self {
            Self::General => a.general == b.general,
            Self::Special => a.special == b.special,
            Self::Debug => a.debug == b.debug,
            Self::Extended => a.extended == b.extended,
            Self::Xcr => a.xcr0 == b.xcr0,
            Self::Msrs => a.msrs == b.msrs,
            Self::LocalApic => {
                let still = |registers: &[u8]| {
                    let mut registers = registers.to_vec();
                    if let Some(count) = registers.get_mut(TIMER_CURRENT_COUNT) {
                        count.fill(0);
                    }
                    registers
                };
                still(&a.local_apic.registers) == still(&b.local_apic.registers)
            }
            Self::Events => a.events == b.events,
            Self::RunState => a.run_state == b.run_state,
            // Nothing of it stands still; that it went on from there is for the reader to judge.
            Self::Tsc => true,
        }
    }
}

impl VcpuStateV1 {
    /// The parts in which two states differ.
    pub fn differences(&self, other: &Self) -> Vec<Element> {
        Element::ALL.into_iter().filter(|element| !element.same(self, other)).collect()
    }
}
