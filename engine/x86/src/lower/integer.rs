//! Handlers of the integer instructions.

use iced_x86::{Instruction, Mnemonic as M};

use super::{Mode, Reach, is_immediate, is_memory, reach, size};
use crate::exec::alu::{self, Adc, Add, And, Cmp, Dec, Inc, Neg, Not, Or, Sbb, Sub, Test, Xor};
use crate::exec::bits::{self, Bt, Btc, Btr, Bts};
use crate::exec::shift::{self, Rcl, Rcr, Rol, Ror, Sar, Shl, Shr};
use crate::exec::{data, muldiv};
use crate::op::{Handler, Op};
use crate::{placed, sized};

/// How operands of two lie.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    RegReg,
    RegImm,
    RegMem,
    MemReg,
    MemImm,
}

fn form(instruction: &Instruction) -> Form {
    let (memory, second) = (is_memory(instruction, 0), is_memory(instruction, 1));
    match (memory, second, is_immediate(instruction, 1)) {
        (true, _, true) => Form::MemImm,
        (true, _, false) => Form::MemReg,
        (false, true, _) => Form::RegMem,
        (false, false, true) => Form::RegImm,
        (false, false, false) => Form::RegReg,
    }
}

macro_rules! binary {
    ($instruction:expr, $reach:expr, $size:expr, $b:ty) => {
        match (form($instruction), $instruction.has_lock_prefix()) {
            (Form::RegReg, _) => sized!($size, alu::rr, $b),
            (Form::RegImm, _) => sized!($size, alu::ri, $b),
            (Form::RegMem, _) => placed!($reach, $size, alu::rm, $b),
            (Form::MemReg, false) => placed!($reach, $size, alu::mr, $b),
            (Form::MemImm, false) => placed!($reach, $size, alu::mi, $b),
            (Form::MemReg, true) => sized!($size, alu::mr_locked, $b),
            (Form::MemImm, true) => sized!($size, alu::mi_locked, $b),
        }
    };
}

macro_rules! unary {
    ($instruction:expr, $reach:expr, $size:expr, $u:ty) => {
        match (is_memory($instruction, 0), $instruction.has_lock_prefix()) {
            (false, _) => sized!($size, alu::r, $u),
            (true, false) => placed!($reach, $size, alu::m, $u),
            (true, true) => sized!($size, alu::m_locked, $u),
        }
    };
}

macro_rules! bit {
    ($instruction:expr, $size:expr, $c:ty) => {
        match (form($instruction), $instruction.has_lock_prefix()) {
            (Form::RegReg | Form::RegMem, _) => sized!($size, bits::rr, $c),
            (Form::RegImm, _) => sized!($size, bits::ri, $c),
            (Form::MemReg, false) => sized!($size, bits::mr, $c),
            (Form::MemImm, false) => sized!($size, bits::mi, $c),
            (Form::MemReg, true) => sized!($size, bits::mr_locked, $c),
            (Form::MemImm, true) => sized!($size, bits::mi_locked, $c),
        }
    };
}

macro_rules! shift {
    ($instruction:expr, $size:expr, $s:ty) => {
        match form($instruction) {
            Form::RegImm => sized!($size, shift::ri, $s),
            Form::RegReg | Form::RegMem => sized!($size, shift::rc, $s),
            Form::MemImm => sized!($size, shift::mi, $s),
            Form::MemReg => sized!($size, shift::mc, $s),
        }
    };
}

/// The one of two handlers: register or memory operand.
macro_rules! either {
    ($memory:expr, $size:expr, $($r:ident)::+, $($m:ident)::+ $(, $more:ty)*) => {
        if $memory { sized!($size, $($m)::+ $(, $more)*) } else { sized!($size, $($r)::+ $(, $more)*) }
    };
}

macro_rules! extension {
    ($reach:expr, $size:expr, $from:expr, $memory:expr, $($r:ident)::+, $($m:ident)::+) => {
        match ($memory, $from) {
            (false, 1) => sized!($size, $($r)::+, u8),
            (false, 2) => sized!($size, $($r)::+, u16),
            (false, _) => sized!($size, $($r)::+, u32),
            (true, 1) => placed!($reach, $size, $($m)::+, u8),
            (true, 2) => placed!($reach, $size, $($m)::+, u16),
            (true, _) => placed!($reach, $size, $($m)::+, u32),
        }
    };
}

/// The handler, if it is one of these.
pub fn lower(instruction: &Instruction, op: &mut Op, mode: Mode) -> Option<Handler> {
    let bytes = size(instruction);
    let memory = is_memory(instruction, 0) || is_memory(instruction, 1);
    let reach = reach(op, mode);
    // XCHG with memory is locked anyway, and takes no part here.
    let code = instruction.condition_code();
    if code != iced_x86::ConditionCode::None {
        op.extra = code as u8 - 1;
    }
    Some(match instruction.mnemonic() {
        M::Mov => mov(instruction, reach, bytes)?,
        M::Add => binary!(instruction, reach, bytes, Add),
        M::Adc => binary!(instruction, reach, bytes, Adc),
        M::Sub => binary!(instruction, reach, bytes, Sub),
        M::Sbb => binary!(instruction, reach, bytes, Sbb),
        M::Cmp => binary!(instruction, reach, bytes, Cmp),
        M::And => binary!(instruction, reach, bytes, And),
        M::Or => binary!(instruction, reach, bytes, Or),
        M::Xor => binary!(instruction, reach, bytes, Xor),
        M::Test => binary!(instruction, reach, bytes, Test),
        M::Inc => unary!(instruction, reach, bytes, Inc),
        M::Dec => unary!(instruction, reach, bytes, Dec),
        M::Neg => unary!(instruction, reach, bytes, Neg),
        M::Not => unary!(instruction, reach, bytes, Not),
        M::Xadd => either!(memory, bytes, alu::xadd_r, alu::xadd_m),
        M::Xchg => {
            if is_memory(instruction, 1) {
                op.src = op.dst;
            }
            either!(memory, bytes, alu::xchg_r, alu::xchg_m)
        }
        M::Cmpxchg => either!(memory, bytes, alu::cmpxchg_r, alu::cmpxchg_m),
        M::Cmpxchg8b => alu::cmpxchg8b,
        M::Cmpxchg16b => alu::cmpxchg16b,
        M::Shl | M::Sal => shift!(instruction, bytes, Shl),
        M::Shr => shift!(instruction, bytes, Shr),
        M::Sar => shift!(instruction, bytes, Sar),
        M::Rol => shift!(instruction, bytes, Rol),
        M::Ror => shift!(instruction, bytes, Ror),
        M::Rcl => shift!(instruction, bytes, Rcl),
        M::Rcr => shift!(instruction, bytes, Rcr),
        M::Shld if is_immediate(instruction, 2) => either!(memory, bytes, shift::shld_ri, shift::shld_mi),
        M::Shld => either!(memory, bytes, shift::shld_rc, shift::shld_mc),
        M::Shrd if is_immediate(instruction, 2) => either!(memory, bytes, shift::shrd_ri, shift::shrd_mi),
        M::Shrd => either!(memory, bytes, shift::shrd_rc, shift::shrd_mc),
        M::Bt => bit!(instruction, bytes, Bt),
        M::Bts => bit!(instruction, bytes, Bts),
        M::Btr => bit!(instruction, bytes, Btr),
        M::Btc => bit!(instruction, bytes, Btc),
        // Without BMI1 the prefix that makes TZCNT of BSF means nothing; LZCNT likewise.
        M::Bsf | M::Tzcnt => scan_forward(bytes, memory),
        M::Bsr | M::Lzcnt => scan_backward(bytes, memory),
        M::Popcnt => either!(memory, bytes, bits::popcnt_r, bits::popcnt_m),
        M::Mul => either!(memory, bytes, muldiv::mul_r, muldiv::mul_m),
        M::Div => either!(memory, bytes, muldiv::div_r, muldiv::div_m),
        M::Idiv => either!(memory, bytes, muldiv::idiv_r, muldiv::idiv_m),
        M::Imul => match instruction.op_count() {
            1 => either!(memory, bytes, muldiv::imul_r, muldiv::imul_m),
            2 => either!(memory, bytes, muldiv::imul_rr, muldiv::imul_rm),
            _ => either!(memory, bytes, muldiv::imul_rri, muldiv::imul_rmi),
        },
        M::Daa => muldiv::daa,
        M::Das => muldiv::das,
        M::Aaa => muldiv::aaa,
        M::Aas => muldiv::aas,
        M::Aam => muldiv::aam,
        M::Aad => muldiv::aad,
        M::Movzx => extension!(reach, bytes, source(instruction), memory, data::movzx_r, data::movzx_m),
        M::Movsx | M::Movsxd => extension!(reach, bytes, source(instruction), memory, data::movsx_r, data::movsx_m),
        M::Lea => placed!(reach, bytes, data::lea),
        M::Cmova
        | M::Cmovae
        | M::Cmovb
        | M::Cmovbe
        | M::Cmove
        | M::Cmovg
        | M::Cmovge
        | M::Cmovl
        | M::Cmovle
        | M::Cmovne
        | M::Cmovno
        | M::Cmovnp
        | M::Cmovns
        | M::Cmovo
        | M::Cmovp
        | M::Cmovs => {
            either!(memory, bytes, data::cmov_r, data::cmov_m)
        }
        M::Seta
        | M::Setae
        | M::Setb
        | M::Setbe
        | M::Sete
        | M::Setg
        | M::Setge
        | M::Setl
        | M::Setle
        | M::Setne
        | M::Setno
        | M::Setnp
        | M::Setns
        | M::Seto
        | M::Setp
        | M::Sets => {
            if memory {
                data::set_m
            } else {
                data::set_r
            }
        }
        M::Bswap => sized!(bytes, data::bswap),
        M::Movbe if is_memory(instruction, 0) => sized!(bytes, data::movbe_mr),
        M::Movbe => sized!(bytes, data::movbe_rm),
        M::Xlatb => data::xlat,
        M::Cbw => data::convert::<u16, u8>,
        M::Cwde => data::convert::<u32, u16>,
        M::Cdqe => data::convert::<u64, u32>,
        M::Cwd => data::spread::<u16>,
        M::Cdq => data::spread::<u32>,
        M::Cqo => data::spread::<u64>,
        M::Lahf => data::lahf,
        M::Sahf => data::sahf,
        M::Salc => data::salc,
        M::Clc => data::clc,
        M::Stc => data::stc,
        M::Cmc => data::cmc,
        M::Cld => data::cld,
        M::Std => data::std,
        M::Nop
        | M::Lfence
        | M::Sfence
        | M::Prefetchnta
        | M::Prefetcht0
        | M::Prefetcht1
        | M::Prefetcht2
        | M::Prefetchw
        | M::Prefetch
        | M::Reservednop
        | M::Endbr32
        | M::Endbr64
        | M::Pause => data::nop,
        M::Mfence => data::fence,
        M::Bound if mode.bits != 64 => match bytes {
            2 => data::bound::<u16>,
            _ => data::bound::<u32>,
        },
        _ => return None,
    })
}

fn scan_forward(bytes: usize, memory: bool) -> Handler {
    match (bytes, memory) {
        (2, false) => bits::scan_r::<u16, true>,
        (4, false) => bits::scan_r::<u32, true>,
        (_, false) => bits::scan_r::<u64, true>,
        (2, true) => bits::scan_m::<u16, true>,
        (4, true) => bits::scan_m::<u32, true>,
        (_, true) => bits::scan_m::<u64, true>,
    }
}

fn scan_backward(bytes: usize, memory: bool) -> Handler {
    match (bytes, memory) {
        (2, false) => bits::scan_r::<u16, false>,
        (4, false) => bits::scan_r::<u32, false>,
        (_, false) => bits::scan_r::<u64, false>,
        (2, true) => bits::scan_m::<u16, false>,
        (4, true) => bits::scan_m::<u32, false>,
        (_, true) => bits::scan_m::<u64, false>,
    }
}

/// Bytes of the second operand.
fn source(instruction: &Instruction) -> usize {
    if is_memory(instruction, 1) { instruction.memory_size().size() } else { instruction.op_register(1).size() }
}

/// MOV between general registers, memory and immediates. Others are the system's.
fn mov(instruction: &Instruction, reach: Reach, bytes: usize) -> Option<Handler> {
    let other = |operand: u32| {
        let register = instruction.op_register(operand);
        register.is_segment_register() || register.is_cr() || register.is_dr() || register.is_tr()
    };
    if other(0) || other(1) {
        return None;
    }
    Some(match form(instruction) {
        Form::RegReg => sized!(bytes, data::mov_rr),
        Form::RegImm => sized!(bytes, data::mov_ri),
        Form::RegMem => placed!(reach, bytes, data::mov_rm),
        Form::MemReg => placed!(reach, bytes, data::mov_mr),
        Form::MemImm => placed!(reach, bytes, data::mov_mi),
    })
}
