//! Multiplication and division, and the decimal adjustments.

use crate::attempt;
use crate::cpu::{Cpu, Trap, vector};
use crate::flags::{self, Flags};
use crate::op::{Flow, HIGH, Int, Op, reg};

/// CF and OF: the product does not fit. The others are undefined; they become those of the low half.
fn product_flags<T: Int>(flags: &mut Flags, low: u64, overflows: bool) {
    flags.result_with(T::extend(low), overflows, overflows);
}

#[inline(always)]
fn wide<T: Int>(cpu: &mut Cpu, b: u64, signed: bool) {
    let a = cpu.get::<T>(reg::AX);
    let product = if signed {
        (i128::from(T::extend(a) as i64) * i128::from(T::extend(b) as i64)) as u128
    } else {
        u128::from(a) * u128::from(b)
    };
    let (low, high) = (T::cut(product as u64), T::cut((product >> T::BITS) as u64));
    if T::BITS == 8 {
        cpu.set::<u16>(reg::AX, high << 8 | low);
    } else {
        cpu.set::<T>(reg::AX, low);
        cpu.set::<T>(reg::DX, high);
    }
    let fits = if signed { high == T::cut((T::extend(low) as i64 >> 63) as u64) } else { high == 0 };
    product_flags::<T>(&mut cpu.flags, low, !fits);
}

macro_rules! one_operand {
    ($($r:ident, $m:ident, |$cpu:ident, $b:ident| <$t:ident> $body:expr;)*) => {
        $(
            /// Of a register.
            pub fn $r<$t: Int>($cpu: &mut Cpu, op: &Op) -> Flow {
                let $b = $cpu.get::<$t>(op.dst);
                attempt!($body);
                Flow::Next
            }

            /// Of memory.
            pub fn $m<$t: Int>($cpu: &mut Cpu, op: &Op) -> Flow {
                let $b = attempt!($cpu.load::<$t>(op.seg, $cpu.address(op)));
                attempt!($body);
                Flow::Next
            }
        )*
    };
}

one_operand! {
    mul_r, mul_m, |cpu, b| <T> { wide::<T>(cpu, b, false); Ok(()) };
    imul_r, imul_m, |cpu, b| <T> { wide::<T>(cpu, b, true); Ok(()) };
    div_r, div_m, |cpu, b| <T> divide::<T>(cpu, b);
    idiv_r, idiv_m, |cpu, b| <T> divide_signed::<T>(cpu, b);
}

fn dividend<T: Int>(cpu: &Cpu) -> u128 {
    if T::BITS == 8 {
        cpu.get::<u16>(reg::AX).into()
    } else {
        u128::from(cpu.get::<T>(reg::DX)) << T::BITS | u128::from(cpu.get::<T>(reg::AX))
    }
}

fn put<T: Int>(cpu: &mut Cpu, quotient: u64, remainder: u64) {
    cpu.set::<T>(reg::AX, quotient);
    if T::BITS == 8 {
        cpu.set::<u8>(HIGH | reg::AX, remainder);
    } else {
        cpu.set::<T>(reg::DX, remainder);
    }
}

fn divide<T: Int>(cpu: &mut Cpu, b: u64) -> Result<(), Trap> {
    let a = dividend::<T>(cpu);
    if b == 0 || (a >> T::BITS) as u64 >= b {
        return Err(cpu.raise(vector::DE));
    }
    // The host has no quick division of 128 bits.
    let (quotient, remainder) = match u64::try_from(a) {
        Ok(a) => (a / b, a % b),
        Err(_) => ((a / u128::from(b)) as u64, (a % u128::from(b)) as u64),
    };
    put::<T>(cpu, quotient, remainder);
    Ok(())
}

fn divide_signed<T: Int>(cpu: &mut Cpu, b: u64) -> Result<(), Trap> {
    let shift = 128 - 2 * T::BITS;
    let a = (dividend::<T>(cpu) << shift) as i128 >> shift;
    let b = i128::from(T::extend(b) as i64);
    let quotient = match a.checked_div(b) {
        Some(quotient) if quotient == i128::from(T::extend(quotient as u64) as i64) => quotient,
        _ => return Err(cpu.raise(vector::DE)),
    };
    let remainder = a.wrapping_rem(b);
    put::<T>(cpu, T::cut(quotient as u64), T::cut(remainder as u64));
    Ok(())
}

#[inline(always)]
fn multiply<T: Int>(cpu: &mut Cpu, op: &Op, a: u64, b: u64) {
    let product = i128::from(T::extend(a) as i64) * i128::from(T::extend(b) as i64);
    let low = T::cut(product as u64);
    cpu.set::<T>(op.dst, low);
    product_flags::<T>(&mut cpu.flags, low, product != i128::from(T::extend(low) as i64));
}

/// IMUL register, register.
pub fn imul_rr<T: Int>(cpu: &mut Cpu, op: &Op) -> Flow {
    let (a, b) = (cpu.get::<T>(op.dst), cpu.get::<T>(op.src));
    multiply::<T>(cpu, op, a, b);
    Flow::Next
}

/// IMUL register, memory.
pub fn imul_rm<T: Int>(cpu: &mut Cpu, op: &Op) -> Flow {
    let b = attempt!(cpu.load::<T>(op.seg, cpu.address(op)));
    let a = cpu.get::<T>(op.dst);
    multiply::<T>(cpu, op, a, b);
    Flow::Next
}

/// IMUL register, register, immediate.
pub fn imul_rri<T: Int>(cpu: &mut Cpu, op: &Op) -> Flow {
    let a = cpu.get::<T>(op.src);
    multiply::<T>(cpu, op, a, T::cut(op.imm));
    Flow::Next
}

/// IMUL register, memory, immediate.
pub fn imul_rmi<T: Int>(cpu: &mut Cpu, op: &Op) -> Flow {
    let a = attempt!(cpu.load::<T>(op.seg, cpu.address(op)));
    multiply::<T>(cpu, op, a, T::cut(op.imm));
    Flow::Next
}

fn result_flags(cpu: &mut Cpu, result: u64, carry: bool, adjust: bool) {
    cpu.flags.result_with(u8::extend(result), carry, false);
    cpu.flags.change(flags::AF, if adjust { flags::AF } else { 0 });
}

/// DAA.
pub fn daa(cpu: &mut Cpu, _op: &Op) -> Flow {
    decimal(cpu, true)
}

/// DAS.
pub fn das(cpu: &mut Cpu, _op: &Op) -> Flow {
    decimal(cpu, false)
}

fn decimal(cpu: &mut Cpu, adds: bool) -> Flow {
    let old = cpu.get::<u8>(reg::AX);
    let (old_carry, old_adjust) = (cpu.flags.carry(), cpu.flags.adjust());
    let step = |value: u64, by: u64| if adds { value.wrapping_add(by) } else { value.wrapping_sub(by) };
    let mut result = old;
    let adjust = old & 0xf > 9 || old_adjust;
    let mut carry = false;
    if adjust {
        result = step(result, 6);
        // Of DAS a borrow here counts, too.
        carry = old_carry || (!adds && old < 6) || (adds && old > 0xf9);
    }
    if old > 0x99 || old_carry {
        result = step(result, 0x60);
        carry = true;
    } else if adds {
        carry = false;
    }
    let result = result & 0xff;
    cpu.set::<u8>(reg::AX, result);
    result_flags(cpu, result, carry, adjust);
    Flow::Next
}

/// AAA.
pub fn aaa(cpu: &mut Cpu, _op: &Op) -> Flow {
    ascii(cpu, true)
}

/// AAS.
pub fn aas(cpu: &mut Cpu, _op: &Op) -> Flow {
    ascii(cpu, false)
}

fn ascii(cpu: &mut Cpu, adds: bool) -> Flow {
    let ax = cpu.get::<u16>(reg::AX);
    let adjust = ax & 0xf > 9 || cpu.flags.adjust();
    let ax = match (adjust, adds) {
        (false, _) => ax,
        (true, true) => ax.wrapping_add(0x106),
        (true, false) => ax.wrapping_sub(0x106),
    };
    let ax = ax & 0xff0f;
    cpu.set::<u16>(reg::AX, ax);
    result_flags(cpu, ax & 0xff, adjust, adjust);
    Flow::Next
}

/// AAM.
pub fn aam(cpu: &mut Cpu, op: &Op) -> Flow {
    let (al, by) = (cpu.get::<u8>(reg::AX), op.imm & 0xff);
    if by == 0 {
        cpu.raise(vector::DE);
        return Flow::Trap;
    }
    cpu.set::<u16>(reg::AX, ((al / by) << 8) | (al % by));
    cpu.flags.logic(u8::extend(al % by));
    Flow::Next
}

/// AAD.
pub fn aad(cpu: &mut Cpu, op: &Op) -> Flow {
    let ax = cpu.get::<u16>(reg::AX);
    let al = (ax & 0xff).wrapping_add((ax >> 8).wrapping_mul(op.imm & 0xff)) & 0xff;
    cpu.set::<u16>(reg::AX, al);
    cpu.flags.logic(u8::extend(al));
    Flow::Next
}
