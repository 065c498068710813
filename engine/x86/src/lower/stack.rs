//! Handlers of the stack's instructions and of near branches.

use iced_x86::{Code, Instruction, Mnemonic as M};

use super::{Mode, is_immediate, is_memory};
use crate::exec::{branch, stack};
use crate::op::{Handler, Op};

/// A handler for 16, 32 or 64 bits.
macro_rules! wide {
    ($bits:expr, $($handler:ident)::+) => {
        match $bits {
            16 => $($handler)::+::<u16> as Handler,
            32 => $($handler)::+::<u32> as Handler,
            _ => $($handler)::+::<u64> as Handler,
        }
    };
}

macro_rules! conditions {
    ($bits:expr, $code:expr, $($number:literal)*) => {
        match ($bits, $code) {
            $((16, $number) => branch::jcc::<u16, $number> as Handler,)*
            $((32, $number) => branch::jcc::<u32, $number> as Handler,)*
            $((_, $number) => branch::jcc::<u64, $number> as Handler,)*
            _ => return None,
        }
    };
}

/// The handler, if it is one of these.
pub fn lower(instruction: &Instruction, op: &mut Op, mode: Mode) -> Option<Handler> {
    let memory = is_memory(instruction, 0);
    // What the stack pointer moves by says the operand's size.
    let stack = instruction.stack_pointer_increment();
    let bits = 8 * stack.unsigned_abs();
    Some(match instruction.mnemonic() {
        M::Push if memory => wide!(bits, stack::push_m),
        M::Push if is_immediate(instruction, 0) => wide!(bits, stack::push_i),
        M::Push if instruction.op_register(0).is_segment_register() => wide!(bits, stack::push_s),
        M::Push => wide!(bits, stack::push_r),
        M::Pop if memory => wide!(bits, stack::pop_m),
        M::Pop if instruction.op_register(0).is_segment_register() => wide!(bits, stack::pop_s),
        M::Pop => wide!(bits, stack::pop_r),
        M::Pusha => stack::pusha::<u16>,
        M::Pushad => stack::pusha::<u32>,
        M::Popa => stack::popa::<u16>,
        M::Popad => stack::popa::<u32>,
        M::Enter => match instruction.code() {
            Code::Enterw_imm16_imm8 => stack::enter::<u16>,
            Code::Enterd_imm16_imm8 => stack::enter::<u32>,
            _ => stack::enter::<u64>,
        },
        M::Leave => match instruction.code() {
            Code::Leavew => stack::leave::<u16>,
            Code::Leaved => stack::leave::<u32>,
            _ => stack::leave::<u64>,
        },
        M::Jmp => jump(instruction, memory)?,
        M::Call => call(instruction, memory)?,
        M::Ret => match instruction.code() {
            Code::Retnw | Code::Retnw_imm16 => branch::ret::<u16>,
            Code::Retnd | Code::Retnd_imm16 => branch::ret::<u32>,
            Code::Retnq | Code::Retnq_imm16 => branch::ret::<u64>,
            _ => return None,
        },
        M::Loop | M::Loope | M::Loopne | M::Jcxz | M::Jecxz | M::Jrcxz => counted(instruction, op, mode)?,
        _ if instruction.is_jcc_short_or_near() => {
            let code = instruction.condition_code() as u8 - 1;
            conditions!(branch_bits(instruction), code, 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15)
        }
        _ => return None,
    })
}

/// The operand size of a relative branch.
fn branch_bits(instruction: &Instruction) -> u32 {
    match instruction.op0_kind() {
        iced_x86::OpKind::NearBranch16 => 16,
        iced_x86::OpKind::NearBranch32 => 32,
        _ => 64,
    }
}

fn jump(instruction: &Instruction, memory: bool) -> Option<Handler> {
    if instruction.is_jmp_short_or_near() {
        return Some(wide!(branch_bits(instruction), branch::jmp));
    }
    if !instruction.is_jmp_near_indirect() {
        return None;
    }
    Some(if memory {
        wide!(8 * instruction.memory_size().size(), branch::jmp_m)
    } else {
        wide!(8 * instruction.op_register(0).size(), branch::jmp_r)
    })
}

fn call(instruction: &Instruction, memory: bool) -> Option<Handler> {
    if instruction.is_call_near() {
        return Some(wide!(branch_bits(instruction), branch::call));
    }
    if !instruction.is_call_near_indirect() {
        return None;
    }
    Some(if memory {
        wide!(8 * instruction.memory_size().size(), branch::call_m)
    } else {
        wide!(8 * instruction.op_register(0).size(), branch::call_r)
    })
}

/// LOOP and JCXZ: the count's size is the address size.
fn counted(instruction: &Instruction, op: &mut Op, _mode: Mode) -> Option<Handler> {
    use Code as C;
    let (asize, kind) = match instruction.code() {
        C::Loop_rel8_16_CX | C::Loop_rel8_32_CX => (0, 0),
        C::Loop_rel8_16_ECX | C::Loop_rel8_32_ECX | C::Loop_rel8_64_ECX => (1, 0),
        C::Loop_rel8_16_RCX | C::Loop_rel8_64_RCX => (2, 0),
        C::Loope_rel8_16_CX | C::Loope_rel8_32_CX => (0, 1),
        C::Loope_rel8_16_ECX | C::Loope_rel8_32_ECX | C::Loope_rel8_64_ECX => (1, 1),
        C::Loope_rel8_16_RCX | C::Loope_rel8_64_RCX => (2, 1),
        C::Loopne_rel8_16_CX | C::Loopne_rel8_32_CX => (0, 2),
        C::Loopne_rel8_16_ECX | C::Loopne_rel8_32_ECX | C::Loopne_rel8_64_ECX => (1, 2),
        C::Loopne_rel8_16_RCX | C::Loopne_rel8_64_RCX => (2, 2),
        C::Jcxz_rel8_16 | C::Jcxz_rel8_32 => (0, 3),
        C::Jecxz_rel8_16 | C::Jecxz_rel8_32 | C::Jecxz_rel8_64 => (1, 3),
        C::Jrcxz_rel8_16 | C::Jrcxz_rel8_64 => (2, 3),
        _ => return None,
    };
    (op.asize, op.extra) = (asize, kind);
    Some(if kind == 3 {
        wide!(branch_bits(instruction), branch::jcxz)
    } else {
        wide!(branch_bits(instruction), branch::loops)
    })
}
