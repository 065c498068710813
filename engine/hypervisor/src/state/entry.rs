//! Registers for starting a kernel without firmware.

use super::{DescriptorTableV1, GeneralV1, SegmentV1, SpecialV1};

/// Selector of the flat code segment in the caller's GDT (Linux x86 boot protocol: `__BOOT_CS`).
const CODE_SELECTOR: u16 = 0x10;
/// Selector of the flat data segments (`__BOOT_DS`).
const DATA_SELECTOR: u16 = 0x18;
/// Selector of the task segment.
const TASK_SELECTOR: u16 = 0x20;

/// Read/execute, accessed, present, 4 KiB granularity.
const CODE: u32 = 0x809b;
/// Read/write, accessed, present, 4 KiB granularity, big.
const DATA: u32 = 0xc093;
/// Busy 32-bit (in long mode: 64-bit) task segment, present.
const TASK: u32 = 0x008b;
const DEFAULT_32: u32 = 1 << 14;
const LONG: u32 = 1 << 13;

const CR0_PE: u64 = 1;
const CR0_ET: u64 = 1 << 4;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;

const RBX: usize = 3;
const RSP: usize = 4;
const RSI: usize = 6;

/// How vCPU 0 starts a kernel. Interrupts are off in both.
///
/// The caller has put what the registers point to into memory: the kernel, its parameters, page tables, and a GDT
/// that has flat code at 10h, flat data at 18h and a task segment at 20h, as the hidden parts say that are set here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryState {
    /// 32-bit protected mode without paging, flat 4 GiB segments: the PVH entry (EBX: `hvm_start_info`) and Linux's
    /// 32-bit boot protocol (ESI: `boot_params`).
    Protected {
        /// Where it starts.
        eip: u32,
        /// EBX.
        ebx: u32,
        /// ESI.
        esi: u32,
        /// Top of a stack, or 0.
        esp: u32,
        /// The GDT.
        gdt: DescriptorTableV1,
    },
    /// 64-bit mode: Linux's 64-bit boot protocol (RSI: `boot_params`). The page tables map the kernel, its parameters
    /// and the command line to themselves.
    Long {
        /// Where it starts.
        rip: u64,
        /// RSI.
        rsi: u64,
        /// Top of a stack, or 0.
        rsp: u64,
        /// Physical address of the top-level page table.
        cr3: u64,
        /// The GDT.
        gdt: DescriptorTableV1,
    },
}

impl EntryState {
    /// The general registers to start with.
    pub fn general(&self) -> GeneralV1 {
        let mut general = GeneralV1 { rflags: 2, ..GeneralV1::default() };
        match *self {
            Self::Protected { eip, ebx, esi, esp, gdt: _ } => {
                general.rip = eip.into();
                general.registers[RBX] = ebx.into();
                general.registers[RSI] = esi.into();
                general.registers[RSP] = esp.into();
            }
            Self::Long { rip, rsi, rsp, cr3: _, gdt: _ } => {
                general.rip = rip;
                general.registers[RSI] = rsi;
                general.registers[RSP] = rsp;
            }
        }
        general
    }

    /// The segments and control registers to start with, made from what they are now (the APIC base stays).
    pub fn special(&self, now: &SpecialV1) -> SpecialV1 {
        let (code_mode, gdt) = match *self {
            Self::Protected { gdt, .. } => (DEFAULT_32, gdt),
            Self::Long { gdt, .. } => (LONG, gdt),
        };
        let data = SegmentV1 { selector: DATA_SELECTOR, base: 0, limit: u32::MAX, attributes: DATA };
        let code = SegmentV1 { selector: CODE_SELECTOR, base: 0, limit: u32::MAX, attributes: CODE | code_mode };
        let mut special = SpecialV1 {
            segments: [data, code, data, data, data, data],
            tr: SegmentV1 { selector: TASK_SELECTOR, base: 0, limit: 0x67, attributes: TASK },
            gdt,
            idt: DescriptorTableV1::default(),
            cr0: CR0_PE | CR0_ET,
            cr2: 0,
            cr3: 0,
            cr4: 0,
            cr8: 0,
            efer: 0,
            ..*now
        };
        if let Self::Long { cr3, .. } = *self {
            special.cr0 |= CR0_PG;
            special.cr3 = cr3;
            special.cr4 = CR4_PAE;
            special.efer = EFER_LME | EFER_LMA;
        }
        special
    }
}
