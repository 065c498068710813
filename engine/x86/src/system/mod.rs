//! The system's instructions: segments, far transfers, interrupts, control registers, ports.

pub mod control;
pub mod descriptor;
pub mod far;
pub mod interrupt;
pub mod io;
pub mod msr;
mod reset;
pub mod syscall;

use iced_x86::{Code as C, Instruction, Mnemonic as M, OpKind};

pub use interrupt::{Event, Shutdown};

use crate::lower::{Mode, is_memory, size};
use crate::op::{Handler, Op, seg};
use crate::sized;

macro_rules! wide {
    ($bytes:expr, $($handler:ident)::+) => {
        match $bytes {
            2 => $($handler)::+::<u16> as Handler,
            4 => $($handler)::+::<u32> as Handler,
            _ => $($handler)::+::<u64> as Handler,
        }
    };
}

/// The handler, if it is one of these.
pub fn lower(i: &Instruction, op: &mut Op, mode: Mode) -> Option<Handler> {
    let memory = is_memory(i, 0);
    let either = |m: Handler, r: Handler| if memory { m } else { r };
    Some(match i.mnemonic() {
        M::Mov => return mov(i, memory),
        M::Jmp | M::Call => return far_branch(i),
        M::Retf => match i.code() {
            C::Retfw | C::Retfw_imm16 => far::ret::<u16>,
            C::Retfd | C::Retfd_imm16 => far::ret::<u32>,
            _ => far::ret::<u64>,
        },
        M::Lds | M::Les | M::Lss | M::Lfs | M::Lgs => {
            op.extra = match i.mnemonic() {
                M::Lds => seg::DS,
                M::Les => seg::ES,
                M::Lss => seg::SS,
                M::Lfs => seg::FS,
                _ => seg::GS,
            };
            wide!(size(i), far::load_pointer)
        }
        M::Iret => interrupt::iret::<u16>,
        M::Iretd => interrupt::iret::<u32>,
        M::Iretq => interrupt::iret::<u64>,
        M::Int => interrupt::int,
        M::Int3 => interrupt::int3,
        M::Into => interrupt::into,
        M::Int1 => interrupt::int1,
        M::Syscall => syscall::syscall,
        M::Sysret | M::Sysretq => {
            op.extra = (i.mnemonic() == M::Sysretq).into();
            syscall::sysret
        }
        M::Sysenter => syscall::sysenter,
        M::Sysexit | M::Sysexitq => {
            op.extra = (i.mnemonic() == M::Sysexitq).into();
            syscall::sysexit
        }
        M::Clts => control::clts,
        M::Lmsw => either(control::lmsw_m, control::lmsw_r),
        M::Smsw | M::Sldt | M::Str => {
            op.extra = match i.mnemonic() {
                M::Smsw => 0,
                M::Sldt => 1,
                _ => 2,
            };
            if memory { control::store_word_m } else { wide!(i.op_register(0).size(), control::store_word_r) }
        }
        M::Sgdt | M::Sidt => {
            op.extra = (i.mnemonic() == M::Sidt).into();
            control::store_table
        }
        M::Lgdt | M::Lidt => {
            op.extra = (i.mnemonic() == M::Lidt).into();
            let narrow = matches!(i.code(), C::Lgdt_m1632_16 | C::Lidt_m1632_16);
            if narrow { control::load_table::<true> } else { control::load_table::<false> }
        }
        M::Lldt | M::Ltr => {
            op.extra = (i.mnemonic() == M::Ltr).into();
            either(control::load_system_m, control::load_system_r)
        }
        M::Lar if is_memory(i, 1) => wide!(size(i), control::lar_m),
        M::Lar => wide!(size(i), control::lar_r),
        M::Lsl if is_memory(i, 1) => wide!(size(i), control::lsl_m),
        M::Lsl => wide!(size(i), control::lsl_r),
        M::Verr => either(control::verr_m::<u16>, control::verr_r::<u16>),
        M::Verw => either(control::verw_m::<u16>, control::verw_r::<u16>),
        M::Arpl => either(control::arpl_m, control::arpl_r),
        M::Invlpg => control::invlpg,
        M::Invpcid => control::invpcid,
        M::Invd | M::Wbinvd => control::no_cache,
        M::Hlt => control::hlt,
        M::Cli => control::cli,
        M::Sti => control::sti,
        M::Pushf => control::pushf::<u16>,
        M::Pushfd => control::pushf::<u32>,
        M::Pushfq => control::pushf::<u64>,
        M::Popf => control::popf::<u16>,
        M::Popfd => control::popf::<u32>,
        M::Popfq => control::popf::<u64>,
        M::Clac | M::Stac => {
            op.extra = (i.mnemonic() == M::Stac).into();
            control::set_ac
        }
        M::Swapgs => control::swapgs,
        M::Rdfsbase | M::Rdgsbase => {
            op.extra = if i.mnemonic() == M::Rdfsbase { seg::FS } else { seg::GS };
            wide!(i.op_register(0).size(), control::read_base)
        }
        M::Wrfsbase | M::Wrgsbase => {
            op.extra = if i.mnemonic() == M::Wrfsbase { seg::FS } else { seg::GS };
            wide!(i.op_register(0).size(), control::write_base)
        }
        M::Cpuid => control::cpuid,
        M::Rdtsc | M::Rdtscp => {
            op.extra = (i.mnemonic() == M::Rdtscp).into();
            control::rdtsc
        }
        M::Rdpmc => control::rdpmc,
        M::Rdmsr => msr::rdmsr,
        M::Wrmsr => msr::wrmsr,
        M::In | M::Out | M::Insb | M::Insw | M::Insd | M::Outsb | M::Outsw | M::Outsd => return ports(i, op, mode),
        _ => return None,
    })
}

/// MOV with a segment, control or debug register.
fn mov(i: &Instruction, memory: bool) -> Option<Handler> {
    let register = |operand: u32| {
        if i.op_kind(operand) == OpKind::Register { i.op_register(operand) } else { iced_x86::Register::None }
    };
    let (first, second) = (register(0), register(1));
    Some(if first.is_segment_register() {
        if is_memory(i, 1) { control::to_segment_m } else { control::to_segment }
    } else if second.is_segment_register() {
        if memory { control::from_segment_m } else { wide!(first.size(), control::from_segment) }
    } else if first.is_cr() {
        wide!(second.size(), control::to_cr)
    } else if second.is_cr() {
        wide!(first.size(), control::from_cr)
    } else if first.is_dr() {
        wide!(second.size(), control::to_dr)
    } else if second.is_dr() {
        wide!(first.size(), control::from_dr)
    } else {
        return None;
    })
}

fn far_branch(i: &Instruction) -> Option<Handler> {
    Some(match i.code() {
        C::Jmp_ptr1616 => far::jmp_direct::<u16>,
        C::Jmp_ptr1632 => far::jmp_direct::<u32>,
        C::Call_ptr1616 => far::call_direct::<u16>,
        C::Call_ptr1632 => far::call_direct::<u32>,
        C::Jmp_m1616 => far::jmp_memory::<u16>,
        C::Jmp_m1632 => far::jmp_memory::<u32>,
        C::Jmp_m1664 => far::jmp_memory::<u64>,
        C::Call_m1616 => far::call_memory::<u16>,
        C::Call_m1632 => far::call_memory::<u32>,
        C::Call_m1664 => far::call_memory::<u64>,
        _ => return None,
    })
}

fn ports(i: &Instruction, op: &mut Op, _mode: Mode) -> Option<Handler> {
    op.extra = (i.has_rep_prefix() || i.has_repne_prefix()).into();
    Some(match i.mnemonic() {
        M::In if i.op_kind(1) == OpKind::Register => sized!(i.op_register(0).size(), io::in_d),
        M::In => sized!(i.op_register(0).size(), io::in_i),
        M::Out if i.op_kind(0) == OpKind::Register => sized!(i.op_register(1).size(), io::out_d),
        M::Out => sized!(i.op_register(1).size(), io::out_i),
        M::Insb => io::ins::<u8>,
        M::Insw => io::ins::<u16>,
        M::Insd => io::ins::<u32>,
        M::Outsb => io::outs::<u8>,
        M::Outsw => io::outs::<u16>,
        M::Outsd => io::outs::<u32>,
        _ => return None,
    })
}
