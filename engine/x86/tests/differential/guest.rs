//! The same instruction on ours, in 64-bit mode, with the same memory at the same addresses.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use benchtop_memory::SharedRegion;
use benchtop_x86::cpu::{Cpu, Segment, cr0, cr4, efer};
use benchtop_x86::map::{Map, Slot};
use benchtop_x86::op::seg;
use benchtop_x86::run::{Exit, Processor};

use crate::native::Context;

const TABLES: u64 = 0x1000;
const CODE: u64 = 0x10_0000;
/// Where data is in the region.
pub const DATA: usize = 0x20_0000;
/// How much.
pub const DATA_LEN: usize = 0x4000;
const LEN: u64 = 0x40_0000;

/// A processor of ours with memory that the host's instructions reach at the same addresses.
pub struct Guest {
    pub region: SharedRegion,
    processor: Processor,
    tables: u64,
}

impl Guest {
    pub fn new() -> Self {
        let region = SharedRegion::new("differential", LEN).unwrap();
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
        cpu.cr0 = cr0::PE | cr0::PG | cr0::NE | cr0::WP | cr0::ET;
        cpu.cr4 = cr4::PAE | cr4::OSFXSR | cr4::OSXMMEXCPT;
        cpu.efer = efer::LME | efer::LMA | efer::SCE;
        cpu.cr3 = TABLES;
        for number in 0..6 {
            let attributes = if number == usize::from(seg::CS) { 0xa0fb } else { 0xc0f3 };
            cpu.segs[number] = Segment { selector: 0x33, limit: u32::MAX, attributes, ..Segment::default() };
        }
        cpu.cpl = 3;
        cpu.renew();
        let processor = Processor::new(cpu, Arc::new(AtomicBool::new(false)));
        let mut guest = Self { region, processor, tables: TABLES + 0x1000 };
        guest.map(CODE, CODE);
        let data = guest.data();
        for page in (0..DATA_LEN as u64).step_by(0x1000) {
            guest.map(data + page, DATA as u64 + page);
        }
        guest
    }

    /// The address of the data, on both.
    pub fn data(&self) -> u64 {
        self.region.host_address() + DATA as u64
    }

    fn word(&self, at: u64) -> u64 {
        let mut bytes = [0; 8];
        assert!(self.region.read(at as usize, &mut bytes));
        u64::from_le_bytes(bytes)
    }

    fn set_word(&self, at: u64, value: u64) {
        assert!(self.region.write(at as usize, &value.to_le_bytes()));
    }

    fn map(&mut self, linear: u64, gpa: u64) {
        let mut table = TABLES;
        for level in (1..4).rev() {
            let at = table + (linear >> (12 + 9 * level) & 511) * 8;
            if self.word(at) == 0 {
                self.set_word(at, self.tables | 7);
                self.tables += 0x1000;
            }
            table = self.word(at) & !0xfff;
        }
        self.set_word(table + (linear >> 12 & 511) * 8, gpa | 0x67);
    }

    /// Carries out one instruction. An error is what came instead.
    pub fn run(&mut self, instruction: &[u8], context: &mut Context) -> Result<(), String> {
        let mut code = [0x90; 32];
        code[..instruction.len()].copy_from_slice(instruction);
        assert!(self.region.write(CODE as usize, &code));
        let cpu = &mut self.processor.cpu;
        let stack = cpu.regs[4];
        cpu.regs[..16].copy_from_slice(&context.regs);
        cpu.regs[4] = stack;
        cpu.flags.set(context.flags);
        cpu.load_fx(&context.fx);
        cpu.rip = CODE;
        cpu.cpl = 3;
        cpu.renew();
        let end = CODE + instruction.len() as u64;
        // A repeated string instruction takes several steps.
        for _ in 0..1000 {
            match self.processor.step_one() {
                None if self.processor.cpu.rip == CODE => {}
                None => break,
                Some(exit) => return Err(told(&exit)),
            }
        }
        let cpu = &mut self.processor.cpu;
        if cpu.rip != end {
            return Err(format!("RIP {:#x}, {:?}", cpu.rip, cpu.trap));
        }
        context.regs.copy_from_slice(&cpu.regs[..16]);
        context.flags = cpu.flags.get();
        cpu.save_fx(&mut context.fx);
        Ok(())
    }
}

fn told(exit: &Exit) -> String {
    format!("{exit:?}")
}
