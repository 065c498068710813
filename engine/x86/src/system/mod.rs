//! The system's instructions: segments and privilege, interrupts, control registers, ports; and power-on.
//!
//! ```text
//!   far  iret  interrupt  task ─▶ frame (stacks) ─▶ segment ─▶ descriptor ─▶ tables in memory
//!   syscall  control  table  flag  misc  msr  io                reset
//! ```

pub mod control;
pub mod descriptor;
pub mod far;
pub mod flag;
pub mod frame;
pub mod interrupt;
pub mod io;
pub mod iret;
pub mod misc;
pub mod msr;
mod reset;
pub mod segment;
pub mod syscall;
pub mod table;
pub mod task;

#[cfg(test)]
mod tests;

use iced_x86::{Code, Instruction, Mnemonic as M, OpKind};

pub use interrupt::{Event, Shutdown};

use crate::lower::{Mode, is_memory, size};
use crate::op::{Handler, Op, seg};
use crate::sized;

/// A handler for 16, 32 or 64 bits, by bytes.
macro_rules! wide {
    ($bytes:expr, $($handler:ident)::+ $(, $more:tt)*) => {
        match $bytes {
            2 => $($handler)::+::<u16 $(, $more)*> as Handler,
            4 => $($handler)::+::<u32 $(, $more)*> as Handler,
            _ => $($handler)::+::<u64 $(, $more)*> as Handler,
        }
    };
}

/// The handler, if it is one of these.
pub fn lower(instruction: &Instruction, op: &mut Op, _mode: Mode) -> Option<Handler> {
    let mnemonic = instruction.mnemonic();
    // Which of two instructions it is that share their handlers.
    let mut second = |is: M| op.extra = u8::from(mnemonic == is);
    Some(match mnemonic {
        M::Mov => return moves(instruction),
        M::Lds | M::Les | M::Lss | M::Lfs | M::Lgs => {
            op.extra = match mnemonic {
                M::Lds => seg::DS,
                M::Les => seg::ES,
                M::Lss => seg::SS,
                M::Lfs => seg::FS,
                _ => seg::GS,
            };
            wide!(size(instruction), segment::load_pointer)
        }
        M::Jmp | M::Call | M::Retf => return far_branch(instruction),
        M::Iret => iret::iret::<u16>,
        M::Iretd => iret::iret::<u32>,
        M::Iretq => iret::iret::<u64>,
        M::Int => interrupt::int,
        M::Int3 => interrupt::int3,
        M::Into => interrupt::into,
        M::Int1 => interrupt::int1,
        M::Syscall => syscall::syscall,
        M::Sysret | M::Sysretq => {
            second(M::Sysretq);
            syscall::sysret
        }
        M::Sysenter => syscall::sysenter,
        M::Sysexit | M::Sysexitq => {
            second(M::Sysexitq);
            syscall::sysexit
        }
        M::Cli => flag::cli,
        M::Sti => flag::sti,
        M::Pushf => flag::pushf::<u16>,
        M::Pushfd => flag::pushf::<u32>,
        M::Pushfq => flag::pushf::<u64>,
        M::Popf => flag::popf::<u16>,
        M::Popfd => flag::popf::<u32>,
        M::Popfq => flag::popf::<u64>,
        M::Clac | M::Stac => {
            second(M::Stac);
            flag::set_ac
        }
        M::Hlt => misc::hlt,
        M::Cpuid => misc::cpuid,
        M::Rdtsc => misc::rdtsc,
        M::Rdtscp => misc::rdtscp,
        M::Rdpmc => misc::rdpmc,
        M::Xgetbv => misc::xgetbv,
        M::Xsetbv => misc::xsetbv,
        M::Swapgs => misc::swapgs,
        M::Rdfsbase | M::Rdgsbase => {
            op.extra = if mnemonic == M::Rdfsbase { seg::FS } else { seg::GS };
            wide!(size(instruction), misc::read_base)
        }
        M::Wrfsbase | M::Wrgsbase => {
            op.extra = if mnemonic == M::Wrfsbase { seg::FS } else { seg::GS };
            wide!(size(instruction), misc::write_base)
        }
        M::Rdmsr => msr::rdmsr,
        M::Wrmsr => msr::wrmsr,
        M::In | M::Out | M::Insb | M::Insw | M::Insd | M::Outsb | M::Outsw | M::Outsd => {
            return ports(instruction, op);
        }
        M::Clts | M::Lmsw | M::Smsw | M::Invlpg | M::Invpcid | M::Invd | M::Wbinvd | M::Wbnoinvd => {
            return controls(instruction);
        }
        M::Sgdt
        | M::Sidt
        | M::Lgdt
        | M::Lidt
        | M::Sldt
        | M::Str
        | M::Lldt
        | M::Ltr
        | M::Lar
        | M::Lsl
        | M::Verr
        | M::Verw
        | M::Arpl => {
            op.extra = u8::from(matches!(mnemonic, M::Sidt | M::Lidt | M::Str | M::Ltr));
            return tables(instruction);
        }
        _ => return None,
    })
}

/// MOV with a segment, control or debug register.
fn moves(instruction: &Instruction) -> Option<Handler> {
    let register = |operand: u32| {
        if instruction.op_kind(operand) == OpKind::Register {
            instruction.op_register(operand)
        } else {
            iced_x86::Register::None
        }
    };
    let (to, from) = (register(0), register(1));
    Some(if to == iced_x86::Register::CS {
        segment::mov_cs
    } else if to.is_segment_register() {
        if is_memory(instruction, 1) { segment::mov_sm } else { segment::mov_sr }
    } else if from.is_segment_register() {
        if is_memory(instruction, 0) { segment::mov_ms } else { wide!(to.size(), segment::mov_rs) }
    } else if to.is_cr() {
        wide!(from.size(), control::to_cr)
    } else if from.is_cr() {
        wide!(to.size(), control::from_cr)
    } else if to.is_dr() {
        wide!(from.size(), control::to_dr)
    } else if from.is_dr() {
        wide!(to.size(), control::from_dr)
    } else {
        return None;
    })
}

fn far_branch(instruction: &Instruction) -> Option<Handler> {
    Some(match instruction.code() {
        Code::Jmp_ptr1616 => far::jmp_i::<u16>,
        Code::Jmp_ptr1632 => far::jmp_i::<u32>,
        Code::Call_ptr1616 => far::call_i::<u16>,
        Code::Call_ptr1632 => far::call_i::<u32>,
        Code::Jmp_m1616 => far::jmp_m::<u16>,
        Code::Jmp_m1632 => far::jmp_m::<u32>,
        Code::Jmp_m1664 => far::jmp_m::<u64>,
        Code::Call_m1616 => far::call_m::<u16>,
        Code::Call_m1632 => far::call_m::<u32>,
        Code::Call_m1664 => far::call_m::<u64>,
        Code::Retfw | Code::Retfw_imm16 => far::ret::<u16>,
        Code::Retfd | Code::Retfd_imm16 => far::ret::<u32>,
        Code::Retfq | Code::Retfq_imm16 => far::ret::<u64>,
        _ => return None,
    })
}

fn controls(instruction: &Instruction) -> Option<Handler> {
    let memory = is_memory(instruction, 0);
    Some(match instruction.mnemonic() {
        M::Clts => control::clts,
        M::Lmsw if memory => control::lmsw_m,
        M::Lmsw => control::lmsw_r,
        M::Smsw if memory => control::smsw_m,
        M::Smsw => wide!(size(instruction), control::smsw_r),
        M::Invlpg => control::invlpg,
        M::Invpcid => control::invpcid,
        _ => control::no_cache,
    })
}

fn tables(instruction: &Instruction) -> Option<Handler> {
    let (memory, source) = (is_memory(instruction, 0), is_memory(instruction, 1));
    let bytes = size(instruction);
    let narrow = matches!(instruction.code(), Code::Lgdt_m1632_16 | Code::Lidt_m1632_16);
    Some(match instruction.mnemonic() {
        M::Sgdt | M::Sidt => table::store_table,
        M::Lgdt | M::Lidt if narrow => table::load_table::<true>,
        M::Lgdt | M::Lidt => table::load_table::<false>,
        M::Sldt | M::Str if memory => table::store_system_m,
        M::Sldt | M::Str => wide!(bytes, table::store_system_r),
        M::Lldt | M::Ltr if memory => table::load_system_m,
        M::Lldt | M::Ltr => table::load_system_r,
        M::Lar if source => wide!(bytes, table::lar, true),
        M::Lar => wide!(bytes, table::lar, false),
        M::Lsl if source => wide!(bytes, table::lsl, true),
        M::Lsl => wide!(bytes, table::lsl, false),
        M::Verr if memory => table::verr::<true>,
        M::Verr => table::verr::<false>,
        M::Verw if memory => table::verw::<true>,
        M::Verw => table::verw::<false>,
        M::Arpl if memory => table::arpl_m,
        M::Arpl => table::arpl_r,
        _ => return None,
    })
}

fn ports(instruction: &Instruction, op: &mut Op) -> Option<Handler> {
    if instruction.has_rep_prefix() || instruction.has_repne_prefix() {
        op.extra = io::REPEATED;
    }
    let by_register = |operand: u32| instruction.op_kind(operand) == OpKind::Register;
    Some(match instruction.mnemonic() {
        M::In if by_register(1) => sized!(size(instruction), io::in_r),
        M::In => sized!(size(instruction), io::in_i),
        M::Out if by_register(0) => sized!(instruction.op_register(1).size(), io::out_r),
        M::Out => sized!(instruction.op_register(1).size(), io::out_i),
        M::Insb => io::ins::<u8>,
        M::Insw => io::ins::<u16>,
        M::Insd => io::ins::<u32>,
        M::Outsb => io::outs::<u8>,
        M::Outsw => io::outs::<u16>,
        M::Outsd => io::outs::<u32>,
        _ => return None,
    })
}
