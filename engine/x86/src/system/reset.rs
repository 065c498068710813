//! Power-on, INIT and SIPI (Intel SDM volume 3, 9.1 and table 9-1).

use std::sync::Arc;

use super::msr::{MISC_ENABLE, PAT};
use crate::cpu::{Answers, Cause, Cpu, Msrs, Segment, Table, cr0};
use crate::cpuid::CpuidTable;
use crate::flags::Flags;
use crate::fpu::Fpu;
use crate::map::Map;
use crate::memory::Memory;
use crate::op::{reg, seg};
use crate::simd::Mxcsr;
use crate::time::Clock;

/// DR6 and DR7.
const DEBUG: (u64, u64) = (0xffff_0ff0, 0x400);
/// MXCSR.
const MXCSR: u32 = 0x1f80;
/// Where the first instruction is.
const START: (u16, u64, u64) = (0xf000, 0xffff_0000, 0xfff0);

impl Cpu {
    /// A processor after power-on, whose clock begins at 0.
    pub fn new(map: Arc<Map>, cpuid: Arc<CpuidTable>, khz: u32) -> Self {
        let mut cpu = Self {
            regs: [0; 32],
            rip: 0,
            flags: Flags::default(),
            segs: [Segment::default(); 8],
            cpl: 0,
            gdt: Table::default(),
            idt: Table::default(),
            cr0: 0,
            cr2: 0,
            cr3: 0,
            cr4: 0,
            cr8: 0,
            efer: 0,
            xcr0: 1,
            dr: [0; 8],
            msrs: Msrs::default(),
            fpu: Fpu::default(),
            xmm: [0; 16],
            mxcsr: Mxcsr(MXCSR),
            memory: Memory::new(map),
            linear_mask: 0,
            rip_mask: 0,
            trap: Cause::Stuck("nothing was carried out yet"),
            leave: false,
            effects: Vec::new(),
            answers: Answers::default(),
            shadow_sti: false,
            shadow_ss: false,
            nmi_masked: false,
            instructions: 0,
            clock: Clock::new(khz),
            cpuid,
            interrupts: (0, 0),
            debug_due: 0,
        };
        cpu.reset();
        cpu
    }

    /// As after power-on. The clock is whoever's who resets.
    pub fn reset(&mut self) {
        self.fpu = Fpu::default();
        self.xmm = [0; 16];
        self.mxcsr = Mxcsr(MXCSR);
        self.xcr0 = 1;
        self.msrs = Msrs { pat: PAT, misc_enable: MISC_ENABLE, ..Msrs::default() };
        self.cr0 = cr0::CD | cr0::NW;
        self.init();
    }

    /// INIT: as after power-on, but for x87, SSE, model-specific registers, the time, and whether memory is cached.
    pub fn init(&mut self) {
        self.regs = [0; 32];
        self.regs[usize::from(reg::DX)] = self.cpuid.lookup(1, 0)[0].into();
        self.flags = Flags::new(0);
        self.segs = [Segment { limit: 0xffff, attributes: 0x93, ..Segment::default() }; 8];
        let (selector, base, rip) = START;
        let code = &mut self.segs[usize::from(seg::CS)];
        (code.selector, code.base) = (selector, base);
        self.rip = rip;
        self.segs[usize::from(seg::LDT)].attributes = 0x82;
        self.segs[usize::from(seg::TR)].attributes = 0x8b;
        self.cpl = 0;
        let table = Table { base: 0, limit: 0xffff };
        (self.gdt, self.idt) = (table, table);
        self.cr0 = self.cr0 & (cr0::CD | cr0::NW) | cr0::ET;
        (self.cr2, self.cr3, self.cr4, self.cr8, self.efer) = (0, 0, 0, 0, 0);
        self.dr = [0, 0, 0, 0, 0, 0, DEBUG.0, DEBUG.1];
        (self.leave, self.shadow_sti, self.shadow_ss, self.nmi_masked) = (false, false, false, false);
        self.effects.clear();
        self.answers = Answers::default();
        self.debug_due = 0;
        self.memory.flush();
        self.renew();
    }

    /// SIPI, after INIT: code begins at the page that the vector names (volume 3, 8.4.2).
    pub fn sipi(&mut self, vector: u8) {
        let code = &mut self.segs[usize::from(seg::CS)];
        (code.selector, code.base) = (u16::from(vector) << 8, u64::from(vector) << 12);
        self.rip = 0;
        self.renew();
    }
}
