//! The processor's state, and how an instruction says that it can not go on.

use std::sync::Arc;

use crate::cpuid::CpuidTable;
use crate::flags::{self, Flags};
use crate::fpu::Fpu;
use crate::memory::Memory;
use crate::op::{Flow, Int, seg};
use crate::simd::Mxcsr;
use crate::time::Clock;

/// CR0 (Intel SDM volume 3, 2.5).
pub mod cr0 {
    #![allow(missing_docs, reason = "they are called what they are")]
    #![allow(clippy::allow_attributes, reason = "an expectation does not reach into constants")]
    pub const PE: u64 = 1;
    pub const MP: u64 = 1 << 1;
    pub const EM: u64 = 1 << 2;
    pub const TS: u64 = 1 << 3;
    pub const ET: u64 = 1 << 4;
    pub const NE: u64 = 1 << 5;
    pub const WP: u64 = 1 << 16;
    pub const AM: u64 = 1 << 18;
    pub const NW: u64 = 1 << 29;
    pub const CD: u64 = 1 << 30;
    pub const PG: u64 = 1 << 31;
}

/// CR4.
pub mod cr4 {
    #![allow(missing_docs, reason = "they are called what they are")]
    #![allow(clippy::allow_attributes, reason = "an expectation does not reach into constants")]
    pub const VME: u64 = 1;
    pub const PVI: u64 = 1 << 1;
    pub const TSD: u64 = 1 << 2;
    pub const DE: u64 = 1 << 3;
    pub const PSE: u64 = 1 << 4;
    pub const PAE: u64 = 1 << 5;
    pub const MCE: u64 = 1 << 6;
    pub const PGE: u64 = 1 << 7;
    pub const PCE: u64 = 1 << 8;
    pub const OSFXSR: u64 = 1 << 9;
    pub const OSXMMEXCPT: u64 = 1 << 10;
    pub const UMIP: u64 = 1 << 11;
    pub const LA57: u64 = 1 << 12;
    pub const FSGSBASE: u64 = 1 << 16;
    pub const PCIDE: u64 = 1 << 17;
    pub const OSXSAVE: u64 = 1 << 18;
    pub const SMEP: u64 = 1 << 20;
    pub const SMAP: u64 = 1 << 21;
}

/// IA32_EFER.
pub mod efer {
    #![allow(missing_docs, reason = "they are called what they are")]
    #![allow(clippy::allow_attributes, reason = "an expectation does not reach into constants")]
    pub const SCE: u64 = 1;
    pub const LME: u64 = 1 << 8;
    pub const LMA: u64 = 1 << 10;
    pub const NXE: u64 = 1 << 11;
}

/// Exceptions (Intel SDM volume 3, table 6-1).
pub mod vector {
    #![allow(missing_docs, reason = "they are called what they are")]
    #![allow(clippy::allow_attributes, reason = "an expectation does not reach into constants")]
    pub const DE: u8 = 0;
    pub const DB: u8 = 1;
    pub const NMI: u8 = 2;
    pub const BP: u8 = 3;
    pub const OF: u8 = 4;
    pub const BR: u8 = 5;
    pub const UD: u8 = 6;
    pub const NM: u8 = 7;
    pub const DF: u8 = 8;
    pub const TS: u8 = 10;
    pub const NP: u8 = 11;
    pub const SS: u8 = 12;
    pub const GP: u8 = 13;
    pub const PF: u8 = 14;
    pub const MF: u8 = 16;
    pub const AC: u8 = 17;
    pub const XM: u8 = 19;
}

/// Attributes of a segment, as VMX lays them out (Intel SDM volume 3, 24.4.1).
pub mod attribute {
    #![allow(missing_docs, reason = "they are called what they are")]
    #![allow(clippy::allow_attributes, reason = "an expectation does not reach into constants")]
    pub const TYPE: u32 = 0xf;
    pub const ACCESSED: u32 = 1;
    /// Of data; of code: readable.
    pub const WRITABLE: u32 = 2;
    /// Of data; of code: conforming.
    pub const EXPAND_DOWN: u32 = 4;
    pub const CODE: u32 = 8;
    pub const S: u32 = 1 << 4;
    pub const DPL: u32 = 3 << 5;
    pub const P: u32 = 1 << 7;
    pub const L: u32 = 1 << 13;
    pub const D: u32 = 1 << 14;
    pub const G: u32 = 1 << 15;
    pub const UNUSABLE: u32 = 1 << 16;
}

/// A segment register with its hidden part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Segment {
    /// Selector.
    pub selector: u16,
    /// Base.
    pub base: u64,
    /// Limit in bytes, the granularity applied.
    pub limit: u32,
    /// See [`attribute`].
    pub attributes: u32,
    /// What is added to offsets: the base, but 0 where 64-bit mode takes it as that. Kept by [`Cpu::renew`].
    pub start: u64,
    /// Reading up to 16 bytes below this offset needs no closer look. Kept by [`Cpu::renew`].
    pub read_end: u64,
    /// Likewise writing.
    pub write_end: u64,
}

impl Segment {
    /// Privilege level.
    pub fn dpl(&self) -> u8 {
        (self.attributes >> 5 & 3) as u8
    }

    /// Whether it can be used at all.
    pub fn is_usable(&self) -> bool {
        self.attributes & attribute::UNUSABLE == 0
    }
}

/// GDTR or IDTR.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// Base.
    pub base: u64,
    /// Limit.
    pub limit: u16,
}

/// An instruction can not be carried out; [`Cpu::trap`] says why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trap;

/// Why an instruction was not carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// An exception.
    Exception(Exception),
    /// INT n, INT3, INTO or INT1: delivered with the address of the next instruction.
    Software(u8),
    /// Somebody outside has to do something first; see [`Exit`](crate::run::Exit).
    Outside(Request),
    /// It can not be carried out at all: code that is no memory, and the like.
    Stuck(&'static str),
}

/// An exception.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exception {
    /// Its number.
    pub vector: u8,
    /// Its error code, if it has one.
    pub error: Option<u32>,
    /// For a page fault: the address.
    pub address: u64,
}

/// What an instruction needs of the outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// A load that is not from memory: guest-physical address and bytes.
    Load(u64, u8),
    /// IN: port and bytes.
    In(u16, u8),
    /// RDMSR of a register that is not the processor's own.
    ReadMsr(u32),
}

/// What an instruction that is done leaves for the outside to do, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// A store that is not to memory: guest-physical address, bytes, value.
    Store(u64, u8, u64),
    /// OUT: port, bytes, value.
    Out(u16, u8, u32),
    /// WRMSR.
    WriteMsr(u32, u64),
    /// CR8 changed.
    Priority(u8),
    /// HLT.
    Halt,
}

/// Answers to what an instruction asked for, kept until it is done: it begins anew with each.
#[derive(Clone, Debug, Default)]
pub struct Answers {
    /// What was asked, and the answer.
    pub given: Vec<(Request, u64)>,
    /// How many of them the instruction has used, this time.
    pub used: usize,
}

/// Model-specific registers that are the processor's own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "they are called what they are")]
pub struct Msrs {
    pub star: u64,
    pub lstar: u64,
    pub cstar: u64,
    pub sfmask: u64,
    pub kernel_gs_base: u64,
    pub sysenter_cs: u64,
    pub sysenter_esp: u64,
    pub sysenter_eip: u64,
    pub tsc_aux: u64,
    pub pat: u64,
    pub misc_enable: u64,
    pub mtrr_def_type: u64,
    pub mtrr_fixed: [u64; 11],
    pub mtrr_variable: [u64; 16],
    pub mcg_status: u64,
}

/// A processor.
pub struct Cpu {
    /// RAX to R15, then [`ZERO`](crate::op::ZERO), [`START`](crate::op::START); the rest is there so that no number is out of bounds.
    pub regs: [u64; 32],
    /// Where it goes on, when a block is over; within one it is worked out.
    pub rip: u64,
    /// RFLAGS.
    pub flags: Flags,
    /// ES, CS, SS, DS, FS, GS, LDTR, TR.
    pub segs: [Segment; 8],
    /// Privilege level.
    pub cpl: u8,
    /// GDTR.
    pub gdt: Table,
    /// IDTR.
    pub idt: Table,
    /// CR0.
    pub cr0: u64,
    /// CR2.
    pub cr2: u64,
    /// CR3.
    pub cr3: u64,
    /// CR4.
    pub cr4: u64,
    /// CR8: the task priority.
    pub cr8: u8,
    /// IA32_EFER.
    pub efer: u64,
    /// XCR0.
    pub xcr0: u64,
    /// DR0 to DR3, unused, unused, DR6, DR7.
    pub dr: [u64; 8],
    /// Others.
    pub msrs: Msrs,
    /// x87 and MMX.
    pub fpu: Fpu,
    /// XMM0 to XMM15.
    pub xmm: [u128; 16],
    /// MXCSR.
    pub mxcsr: Mxcsr,
    /// Memory as this processor sees it.
    pub memory: Memory,
    /// Linear addresses are cut to this: 32 bits outside 64-bit mode.
    pub linear_mask: u64,
    /// RIP is cut to this.
    pub rip_mask: u64,
    /// Why the last instruction was not carried out.
    pub trap: Cause,
    /// After the current instruction something has to be looked at.
    pub leave: bool,
    /// What is left for the outside.
    pub effects: Vec<Effect>,
    /// What the outside said.
    pub answers: Answers,
    /// Interrupts are held off for one instruction: after STI,
    pub shadow_sti: bool,
    /// or after a load of SS.
    pub shadow_ss: bool,
    /// NMIs are held off until IRET.
    pub nmi_masked: bool,
    /// Instructions carried out.
    pub instructions: u64,
    /// Time.
    pub clock: Clock,
    /// What CPUID says.
    pub cpuid: Arc<CpuidTable>,
    /// Of an instruction that is an interrupt, until its delivery, which comes next: its length, and which it is.
    pub interrupts: (u8, u64),
    /// Debug exceptions that are due after the current instruction, as bits of DR6.
    pub debug_due: u64,
}

impl Cpu {
    /// Notes an exception without an error code.
    #[cold]
    pub fn raise(&mut self, vector: u8) -> Trap {
        self.trap = Cause::Exception(Exception { vector, error: None, address: 0 });
        Trap
    }

    /// Notes an exception with an error code.
    #[cold]
    pub fn raise_with(&mut self, vector: u8, error: u32) -> Trap {
        self.trap = Cause::Exception(Exception { vector, error: Some(error), address: 0 });
        Trap
    }

    /// Notes a general protection fault with error code 0.
    #[cold]
    pub fn gp(&mut self) -> Trap {
        self.raise_with(vector::GP, 0)
    }

    /// Asks the outside, or says what it answered.
    ///
    /// # Errors
    /// The answer is not there yet; the instruction is begun anew when it is.
    pub fn ask(&mut self, request: Request) -> Result<u64, Trap> {
        let answers = &mut self.answers;
        if let Some((asked, answer)) = answers.given.get(answers.used)
            && *asked == request
        {
            answers.used += 1;
            return Ok(*answer);
        }
        // An instruction that asks for something else than before has changed under our hands.
        answers.given.truncate(answers.used);
        self.trap = Cause::Outside(request);
        Err(Trap)
    }

    /// Leaves something for the outside.
    pub fn effect(&mut self, effect: Effect) {
        self.effects.push(effect);
        self.leave = true;
    }

    /// What comes after an instruction that may have stored something.
    #[inline(always)]
    pub fn stored(&self) -> Flow {
        if self.leave { Flow::Leave } else { Flow::Next }
    }

    /// Whether it is in 64-bit mode, compatibility mode not counted.
    #[inline(always)]
    pub fn is_64(&self) -> bool {
        self.linear_mask == u64::MAX
    }

    /// The code segment's size: 16, 32 or 64 bits.
    #[inline(always)]
    pub fn code_bits(&self) -> u8 {
        // The mask of RIP follows from the same.
        match self.rip_mask {
            u64::MAX => 64,
            0xffff_ffff => 32,
            _ => 16,
        }
    }

    /// Whether long mode is active, compatibility mode counted.
    pub fn is_long(&self) -> bool {
        self.efer & efer::LMA != 0
    }

    /// Protected mode, virtual-8086 mode not counted.
    pub fn is_protected(&self) -> bool {
        self.cr0 & cr0::PE != 0 && !self.is_v86()
    }

    /// Virtual-8086 mode.
    pub fn is_v86(&self) -> bool {
        self.flags.rest & flags::VM != 0
    }

    /// I/O privilege level.
    pub fn iopl(&self) -> u8 {
        ((self.flags.rest & flags::IOPL) >> 12) as u8
    }

    /// The stack pointer's width: 16, 32 or 64 bits, as a mask.
    pub fn stack_mask(&self) -> u64 {
        if self.is_64() {
            u64::MAX
        } else if self.segs[usize::from(seg::SS)].attributes & attribute::D != 0 {
            0xffff_ffff
        } else {
            0xffff
        }
    }

    /// A register.
    #[inline(always)]
    pub fn get<T: Int>(&self, number: u8) -> u64 {
        T::get(&self.regs, number)
    }

    /// Changes a register.
    #[inline(always)]
    pub fn set<T: Int>(&mut self, number: u8, value: u64) {
        T::set(&mut self.regs, number, value);
    }

    /// Changes the base of FS or GS, as WRFSBASE and SWAPGS do.
    pub fn set_base(&mut self, number: u8, base: u64) {
        let segment = &mut self.segs[usize::from(number & 7)];
        (segment.base, segment.start) = (base, base);
    }

    /// Works out all that follows from segments, control registers and flags: to be called after any of CR0, CR3 (for
    /// its meaning), CR4, EFER, CPL, RFLAGS.AC, RFLAGS.VM, or a segment register changed.
    pub fn renew(&mut self) {
        let code = &self.segs[usize::from(seg::CS)];
        let is_64 = self.efer & efer::LMA != 0 && code.attributes & attribute::L != 0;
        self.linear_mask = if is_64 { u64::MAX } else { 0xffff_ffff };
        self.rip_mask = match (is_64, code.attributes & attribute::D != 0) {
            (true, _) => u64::MAX,
            (false, true) => 0xffff_ffff,
            (false, false) => 0xffff,
        };
        let protected = self.is_protected();
        for number in 0..6 {
            let segment = &mut self.segs[number];
            // FS and GS have theirs in 64-bit mode, too (Intel SDM volume 3, 3.2.4); the others' count again after it.
            segment.start = if is_64 && number < usize::from(seg::FS) { 0 } else { segment.base };
            (segment.read_end, segment.write_end) =
                if is_64 { (u64::MAX, u64::MAX) } else { open_ends(segment, protected) };
        }
        self.renew_memory();
    }
}

/// Up to which offsets a segment outside 64-bit mode can be read and written without a closer look.
fn open_ends(segment: &Segment, protected: bool) -> (u64, u64) {
    let attributes = segment.attributes;
    let is_code = attributes & attribute::CODE != 0;
    if attributes & (attribute::UNUSABLE | attribute::P) != attribute::P
        || (!is_code && attributes & attribute::EXPAND_DOWN != 0)
    {
        return (0, 0);
    }
    let end = u64::from(segment.limit).saturating_sub(14);
    if !protected {
        // Of a segment's type nothing counts but its limit: a program in real mode may write to its code.
        return (end, end);
    }
    let has = attributes & attribute::WRITABLE != 0;
    // The bit means readable for code, writable for data.
    if is_code { (if has { end } else { 0 }, 0) } else { (end, if has { end } else { 0 }) }
}
