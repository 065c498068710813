//! The same user code on ours, in long mode, with the same pages at the same addresses.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use benchtop_memory::SharedRegion;
use benchtop_x86::cpu::{Cpu, Effect, Segment, Table, cr0, cr4, efer, vector};
use benchtop_x86::map::{Map, Slot};
use benchtop_x86::op::seg;
use benchtop_x86::run::{Exit, Processor};

use crate::layout::{BASE, Bits, Kind, LEN, PAGE, PAGES, State, Stop, USER_CODE_32, USER_CODE_64, USER_DATA};

const TABLES: u64 = 0x1000;
/// The system's page, at this physical address,
const SYSTEM: u64 = 0x2_0000;
/// and at this linear one, in the system's half: descriptors, TSS, its stack.
const SYSTEM_LINEAR: u64 = 0xffff_8000_0000_0000;
const GDT: u64 = 0;
const GDT_LIMIT: u16 = 0x7f;
const TSS: u64 = 0x100;
const TSS_LEN: u16 = 0x68;
const HANDLERS: u64 = 0x200;
const IDT: u64 = 0x1000;
const STACK: u64 = 0x3000;
const SYSTEM_LEN: u64 = 0x3000;
const KERNEL_CODE: u16 = 0x10;
const KERNEL_DATA: u16 = 0x18;
const TASK: u16 = 0x40;
/// Where the pages are.
const ARENA: u64 = 0x10_0000;
const REGION_LEN: u64 = 0x20_0000;
const HLT: u8 = 0xf4;
/// A loop that does not end is a mistake.
const INSTRUCTIONS_MAX: u64 = 50_000_000;

/// Of a page table.
mod entry {
    pub const P: u64 = 1;
    pub const RW: u64 = 2;
    pub const US: u64 = 4;
    pub const A: u64 = 0x20;
    pub const D: u64 = 0x40;
    pub const NX: u64 = 1 << 63;
}

/// A processor of ours.
pub struct Guest {
    region: SharedRegion,
    processor: Processor,
    next_table: u64,
}

impl Guest {
    pub fn new() -> Self {
        let region = SharedRegion::new("differential", REGION_LEN).unwrap();
        let slot = Slot {
            number: 0,
            gpa: 0,
            len_bytes: REGION_LEN,
            region: region.clone(),
            offset_bytes: 0,
            read_only: false,
            dirty: None,
        };
        let mut cpu = Cpu::new(Arc::new(Map::new([slot])), Arc::default(), 1_000_000);
        cpu.cr0 = cr0::PE | cr0::PG | cr0::NE | cr0::WP | cr0::ET | cr0::MP | cr0::AM;
        cpu.cr4 = cr4::PAE | cr4::OSFXSR | cr4::OSXMMEXCPT;
        cpu.efer = efer::LME | efer::LMA | efer::NXE;
        cpu.cr3 = TABLES;
        cpu.gdt = Table { base: SYSTEM_LINEAR + GDT, limit: GDT_LIMIT };
        cpu.idt = Table { base: SYSTEM_LINEAR + IDT, limit: 0xfff };
        cpu.segs[usize::from(seg::TR)] = Segment {
            selector: TASK,
            base: SYSTEM_LINEAR + TSS,
            limit: u32::from(TSS_LEN) - 1,
            attributes: 0x8b,
            ..Segment::default()
        };
        let processor = Processor::new(cpu, Arc::new(AtomicBool::new(false)));
        let mut guest = Self { region, processor, next_table: TABLES + 0x1000 };
        guest.make_system();
        for (number, kind) in PAGES.into_iter().enumerate() {
            let page = (number * PAGE) as u64;
            let rights = match kind {
                Kind::Nothing => continue,
                Kind::Code => entry::RW,
                Kind::Data => entry::RW | entry::NX,
                Kind::Fixed => entry::NX,
            };
            guest.map(BASE + page, ARENA + page, rights | entry::US);
        }
        guest.write_all(0, &[0x5a; LEN]);
        guest
    }

    fn make_system(&mut self) {
        let descriptors = [
            (KERNEL_CODE, 0x00af_9b00_0000_ffff),
            (KERNEL_DATA, 0x00cf_9300_0000_ffff),
            (USER_CODE_32 & !3, 0x00cf_fb00_0000_ffff),
            (USER_DATA & !3, 0x00cf_f300_0000_ffff),
            (USER_CODE_64 & !3, 0x00af_fb00_0000_ffff),
        ];
        for (selector, descriptor) in descriptors {
            self.set_word(SYSTEM + GDT + u64::from(selector), descriptor);
        }
        self.set_word(SYSTEM + TSS + 4, SYSTEM_LINEAR + STACK);
        // The map of ports begins behind the TSS's end: there is none.
        assert!(self.region.write((SYSTEM + TSS) as usize + 0x66, &TSS_LEN.to_le_bytes()));
        for number in 0..256u64 {
            // As Linux has them: user code may use INT3 and INTO.
            let level = if [vector::BP, vector::OF].map(u64::from).contains(&number) { 3 } else { 0 };
            let handler = SYSTEM_LINEAR + HANDLERS + number;
            let low = handler & 0xffff | u64::from(KERNEL_CODE) << 16 | (0x8e | level << 5) << 40 | handler >> 16 << 48;
            self.set_word(SYSTEM + IDT + number * 16, low);
            self.set_word(SYSTEM + IDT + number * 16 + 8, handler >> 32);
        }
        assert!(self.region.write((SYSTEM + HANDLERS) as usize, &[HLT; 256]));
        for page in (0..SYSTEM_LEN).step_by(PAGE) {
            self.map(SYSTEM_LINEAR + page, SYSTEM + page, entry::RW);
        }
    }

    fn word(&self, at: u64) -> u64 {
        let mut bytes = [0; 8];
        assert!(self.region.read(at as usize, &mut bytes));
        u64::from_le_bytes(bytes)
    }

    fn set_word(&self, at: u64, value: u64) {
        assert!(self.region.write(at as usize, &value.to_le_bytes()));
    }

    fn map(&mut self, linear: u64, gpa: u64, rights: u64) {
        let mut table = TABLES;
        for level in (1..4).rev() {
            let at = table + (linear >> (12 + 9 * level) & 511) * 8;
            if self.word(at) == 0 {
                self.set_word(at, self.next_table | entry::P | entry::RW | entry::US);
                self.next_table += 0x1000;
            }
            table = self.word(at) & !0xfff;
        }
        self.set_word(table + (linear >> 12 & 511) * 8, gpa | rights | entry::P | entry::A | entry::D);
    }

    /// Copies from the pages.
    pub fn read(&self, offset: usize, bytes: &mut [u8]) {
        assert!(self.region.read(ARENA as usize + offset, bytes));
    }

    /// Copies to the pages.
    pub fn write(&mut self, offset: usize, bytes: &[u8]) {
        self.write_all(offset, bytes);
    }

    fn write_all(&self, offset: usize, bytes: &[u8]) {
        assert!(self.region.write(ARENA as usize + offset, bytes));
    }

    /// Instructions carried out so far.
    pub fn instructions(&self) -> u64 {
        self.processor.cpu.instructions
    }

    /// Runs user code from `state` on until an exception ends it.
    ///
    /// # Errors
    /// What came instead.
    pub fn run(&mut self, state: &mut State, bits: Bits) -> Result<Stop, String> {
        self.load(state, bits);
        let exit = self.processor.run(INSTRUCTIONS_MAX);
        self.stopped(&exit, state)
    }

    fn load(&mut self, state: &State, bits: Bits) {
        let cpu = &mut self.processor.cpu;
        cpu.regs[..16].copy_from_slice(&state.regs);
        cpu.flags.set(state.flags);
        cpu.load_fx(&state.fx);
        cpu.rip = state.rip;
        cpu.cpl = 3;
        let code = if bits == Bits::B64 { 0xa0fb } else { 0xc0fb };
        for number in [seg::ES, seg::CS, seg::SS, seg::DS] {
            let (selector, attributes) = if number == seg::CS { (bits.code(), code) } else { (USER_DATA, 0xc0f3) };
            cpu.segs[usize::from(number)] = Segment { selector, limit: u32::MAX, attributes, ..Segment::default() };
        }
        for number in [seg::FS, seg::GS] {
            cpu.segs[usize::from(number)] = Segment { attributes: 1 << 16, ..Segment::default() };
        }
        (cpu.cr2, cpu.dr[6]) = (0, 0xffff_0ff0);
        cpu.renew();
    }

    /// The exception that was delivered: a handler's HLT is where it stands, and the frame is on the system's stack.
    fn stopped(&self, exit: &Exit, state: &mut State) -> Result<Stop, String> {
        let cpu = &self.processor.cpu;
        if *exit != Exit::Effects(vec![Effect::Halt]) {
            return Err(format!("{exit:?}, RIP {:#x}, {:?}", cpu.rip, cpu.trap));
        }
        let vector = cpu.rip.wrapping_sub(SYSTEM_LINEAR + HANDLERS + 1);
        let Ok(vector) = u8::try_from(vector) else { return Err(format!("RIP {:#x}", cpu.rip)) };
        let has_error = matches!(vector, vector::DF..=vector::PF | vector::AC) && vector != 9;
        let frame = SYSTEM + (cpu.regs[4] - SYSTEM_LINEAR);
        let error = if has_error { self.word(frame) as u32 } else { 0 };
        let frame = if has_error { frame + 8 } else { frame };
        if frame + 40 != SYSTEM + STACK {
            return Err(format!("vector {vector}, RSP {:#x}", cpu.regs[4]));
        }
        state.regs.copy_from_slice(&cpu.regs[..16]);
        state.rip = self.word(frame);
        state.flags = self.word(frame + 16);
        state.regs[4] = self.word(frame + 24);
        cpu.save_fx(&mut state.fx);
        Ok(Stop { vector, error, address: (vector == vector::PF).then_some(cpu.cr2) })
    }
}
