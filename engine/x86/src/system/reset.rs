//! Power-on, INIT and SIPI (Intel SDM volume 3, table 10-1).

use std::sync::Arc;

use crate::cpu::{Answers, Cause, Cpu, Msrs, Segment, Table};
use crate::cpuid::CpuidTable;
use crate::flags::Flags;
use crate::fpu::Fpu;
use crate::map::Map;
use crate::memory::Memory;
use crate::op::seg;
use crate::simd::Mxcsr;
use crate::time::Clock;

const PAT: u64 = 0x0007_0406_0007_0406;

impl Cpu {
    /// As after power-on.
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
            mxcsr: Mxcsr(0x1f80),
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
            debug_due: 0,
        };
        cpu.reset();
        cpu
    }

    /// Power-on state; the clock goes on.
    pub fn reset(&mut self) {
        self.fpu = Fpu::new();
        self.xmm = [0; 16];
        self.mxcsr = Mxcsr(0x1f80);
        self.xcr0 = 1;
        self.msrs = Msrs { pat: PAT, ..Msrs::default() };
        self.init();
        self.cr0 = 0x6000_0010;
    }

    /// INIT: x87, SSE and MSRs stay.
    pub fn init(&mut self) {
        self.regs = [0; 32];
        self.regs[2] = self.cpuid.lookup(1, 0)[0].into();
        self.rip = 0xfff0;
        self.flags = Flags::new(2);
        let data = Segment { limit: 0xffff, attributes: 0x93, ..Segment::default() };
        self.segs = [data; 8];
        self.segs[usize::from(seg::CS)] =
            Segment { selector: 0xf000, base: 0xffff_0000, limit: 0xffff, attributes: 0x9b, ..Segment::default() };
        self.segs[usize::from(seg::LDT)].attributes = 0x82;
        self.segs[usize::from(seg::TR)].attributes = 0x8b;
        self.cpl = 0;
        (self.gdt, self.idt) = (Table { base: 0, limit: 0xffff }, Table { base: 0, limit: 0xffff });
        // Caching stays as it was.
        self.cr0 = self.cr0 & 0x6000_0000 | 0x10;
        (self.cr2, self.cr3, self.cr4, self.cr8, self.efer) = (0, 0, 0, 0, 0);
        self.dr = [0, 0, 0, 0, 0, 0, 0xffff_0ff0, 0x400];
        (self.shadow_sti, self.shadow_ss, self.nmi_masked, self.leave) = (false, false, false, false);
        self.effects.clear();
        self.answers = Answers::default();
        self.debug_due = 0;
        self.memory.flush();
        self.renew();
    }

    /// A SIPI, after INIT.
    pub fn sipi(&mut self, vector: u8) {
        let code = &mut self.segs[usize::from(seg::CS)];
        (code.selector, code.base) = (u16::from(vector) << 8, u64::from(vector) << 12);
        self.rip = 0;
        self.renew();
    }
}
