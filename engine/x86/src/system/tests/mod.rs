//! A processor over a small memory, and what the tests of all parts share.

mod any;
mod legacy;
mod long;
mod rules;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use benchtop_memory::SharedRegion;

use crate::cpu::{Cpu, Segment, Table, cr0, cr4, efer};
use crate::map::{Map, Slot};
use crate::op::seg;
use crate::run::{Exit, Processor};

const LEN: u64 = 0x20_0000;
const CODE: u64 = 0x1000;
const GDT: u64 = 0x2000;
const IDT: u64 = 0x3000;
const TSS: u64 = 0x5000;
const STACK: u64 = 0x8000;
const STACK_0: u64 = 0x9000;
const HANDLER: u64 = 0xa000;
const PML4: u64 = 0x1_3000;

const CODE_32: u16 = 0x08;
const DATA: u16 = 0x10;
const CODE_64: u16 = 0x18;
const CODE_USER_32: u16 = 0x20;
const DATA_USER: u16 = 0x28;
const CODE_USER_64: u16 = 0x30;
const TASK: u16 = 0x38;
/// What a test likes; 16 bytes.
const FREE: u16 = 0x48;

pub(super) struct Bench {
    pub region: SharedRegion,
    pub processor: Processor,
}

impl Bench {
    /// In real mode, everything at 0.
    pub fn real(code: &[u8]) -> Self {
        let region = SharedRegion::new("system", LEN).unwrap();
        let slot = Slot {
            number: 0,
            gpa: 0,
            len_bytes: LEN,
            region: region.clone(),
            offset_bytes: 0,
            read_only: false,
            dirty: None,
        };
        let mut cpu = Cpu::new(Arc::new(Map::new([slot])), Arc::default(), 1_000_000);
        cpu.load_segment(seg::SS, 0).unwrap();
        cpu.put_segment(seg::CS, cpu.real_segment(seg::CS, 0));
        cpu.renew();
        cpu.rip = CODE;
        cpu.regs[4] = STACK;
        let bench = Self { region, processor: Processor::new(cpu, Arc::new(AtomicBool::new(false))) };
        bench.put(CODE, code);
        let flat = 0xcf_0000_0000_ffff_u64;
        let rights = [0, 0x9a, 0x92, 0, 0xfa, 0xf2];
        for (at, rights) in (GDT..).step_by(8).zip(rights) {
            bench.put_64(at, if rights == 0 { 0 } else { flat | rights << 40 });
        }
        bench.put_64(GDT + u64::from(CODE_64), 0xaf_9a00_0000_ffff);
        bench.put_64(GDT + u64::from(CODE_USER_64), 0xaf_fa00_0000_ffff);
        bench.put_64(GDT + u64::from(TASK), 0x2000 | TSS << 16 | 0x89 << 40);
        bench.put_64(TSS + 4, STACK_0);
        bench.put_64(TSS + 8, DATA.into());
        bench
    }

    /// In protected mode of 32 bits, at a level.
    pub fn protected(level: u8, code: &[u8]) -> Self {
        let mut bench = Self::real(code);
        let cpu = &mut bench.processor.cpu;
        cpu.gdt = Table { base: GDT, limit: 0xfff };
        cpu.idt = Table { base: IDT, limit: 0x7ff };
        cpu.cr0 |= cr0::PE;
        let (code, data) = if level == 0 { (CODE_32, DATA) } else { (CODE_USER_32 | 3, DATA_USER | 3) };
        let rights = u32::from(level) << 5;
        for number in 0..6 {
            let (selector, attributes) =
                if number == seg::CS { (code, 0xc09b | rights) } else { (data, 0xc093 | rights) };
            cpu.put_segment(number, Segment { selector, limit: u32::MAX, attributes, ..Segment::default() });
        }
        cpu.segs[usize::from(seg::TR)] =
            Segment { selector: TASK, base: TSS, limit: 0x2000, attributes: 0x8b, ..Segment::default() };
        cpu.cpl = level;
        cpu.renew();
        bench
    }

    /// In 64-bit mode, at a level; the first 2 MiB are mapped, for everybody.
    pub fn long(level: u8, code: &[u8]) -> Self {
        let mut bench = Self::protected(level, code);
        bench.map();
        bench.put_64(TSS + 4, STACK_0);
        let cpu = &mut bench.processor.cpu;
        cpu.idt.limit = 0xfff;
        cpu.cr3 = PML4;
        cpu.cr4 = cr4::PAE;
        cpu.cr0 |= cr0::PG | cr0::WP;
        cpu.efer = efer::LME | efer::LMA | efer::SCE | efer::NXE;
        let (selector, rights) = if level == 0 { (CODE_64, 0) } else { (CODE_USER_64 | 3, 0x60) };
        let code = Segment { selector, limit: u32::MAX, attributes: 0xa09b | rights, ..Segment::default() };
        cpu.put_segment(seg::CS, code);
        cpu.renew();
        bench
    }

    pub fn map(&self) {
        self.put_64(PML4, (PML4 + 0x1000) | 7);
        self.put_64(PML4 + 0x1000, (PML4 + 0x2000) | 7);
        self.put_64(PML4 + 0x2000, 0x87);
    }

    pub fn put(&self, at: u64, bytes: &[u8]) {
        assert!(self.region.write(at as usize, bytes));
    }

    pub fn put_64(&self, at: u64, value: u64) {
        self.put(at, &value.to_le_bytes());
    }

    pub fn put_32(&self, at: u64, value: u32) {
        self.put(at, &value.to_le_bytes());
    }

    pub fn put_16(&self, at: u64, value: u16) {
        self.put(at, &value.to_le_bytes());
    }

    pub fn get(&self, at: u64, bytes: usize) -> u64 {
        let mut value = [0; 8];
        assert!(self.region.read(at as usize, &mut value[..bytes]));
        u64::from_le_bytes(value)
    }

    /// An interrupt gate of 32 bits, or of 64.
    pub fn gate(&self, vector: u8, selector: u16, level: u64) {
        let low = HANDLER | u64::from(selector) << 16 | (0x8e | level << 5) << 40;
        if self.processor.cpu.is_long() {
            self.put_64(IDT + u64::from(vector) * 16, low);
        } else {
            self.put_64(IDT + u64::from(vector) * 8, low);
        }
    }

    /// Carries out so many instructions, or says what came instead.
    pub fn steps(&mut self, count: usize) -> Option<Exit> {
        (0..count).find_map(|_| self.processor.step_one())
    }

    pub fn cpu(&mut self) -> &mut Cpu {
        &mut self.processor.cpu
    }

    pub fn selector(&self, number: u8) -> u16 {
        self.processor.cpu.segs[usize::from(number)].selector
    }

    /// What was pushed, from the top on, in words of so many bytes.
    pub fn stack(&self, bytes: usize, count: usize) -> Vec<u64> {
        let cpu = &self.processor.cpu;
        let base = if cpu.is_64() { 0 } else { cpu.segs[usize::from(seg::SS)].base };
        let top = base + (cpu.regs[4] & cpu.stack_mask());
        (0..count).map(|place| self.get(top + (place * bytes) as u64, bytes)).collect()
    }
}
