//! ADD to CMP, TEST, INC, DEC, NEG, NOT, XADD, CMPXCHG, and their locked forms.

use crate::attempt;
use crate::cpu::{Cpu, vector};
use crate::exec::Place;
use crate::flags::Flags;
use crate::op::{Flow, Int, Op, reg};

/// What an instruction with two operands works out.
pub trait Binary: 'static {
    /// Whether the result goes anywhere but into the flags.
    const WRITES: bool = true;
    /// The result, cut to the size.
    fn apply<T: Int>(flags: &mut Flags, a: u64, b: u64) -> u64;
}

/// Addition with a carry.
#[inline(always)]
fn add<T: Int>(flags: &mut Flags, a: u64, b: u64, carry: u64) -> u64 {
    let sum = a.wrapping_add(b).wrapping_add(carry);
    flags.carries(T::extend(sum), a & b | (a | b) & !sum, T::TOP);
    T::cut(sum)
}

/// Subtraction with a borrow.
#[inline(always)]
fn subtract<T: Int>(flags: &mut Flags, a: u64, b: u64, borrow: u64) -> u64 {
    let difference = a.wrapping_sub(b).wrapping_sub(borrow);
    flags.carries(T::extend(difference), !a & b | (!a | b) & difference, T::TOP);
    T::cut(difference)
}

macro_rules! binary {
    ($name:ident, $writes:expr, |$flags:ident, $a:ident, $b:ident| <$t:ident> $body:expr) => {
        /// The instruction of that name.
        #[derive(Debug)]
        pub struct $name;

        impl Binary for $name {
            const WRITES: bool = $writes;

            #[inline(always)]
            fn apply<$t: Int>($flags: &mut Flags, $a: u64, $b: u64) -> u64 {
                $body
            }
        }
    };
}

#[inline(always)]
fn logic<T: Int>(flags: &mut Flags, result: u64) -> u64 {
    flags.logic(T::extend(result));
    T::cut(result)
}

binary!(Add, true, |flags, a, b| <T> add::<T>(flags, a, b, 0));
binary!(Adc, true, |flags, a, b| <T> { let carry = flags.carry().into(); add::<T>(flags, a, b, carry) });
binary!(Sub, true, |flags, a, b| <T> subtract::<T>(flags, a, b, 0));
binary!(Sbb, true, |flags, a, b| <T> { let carry = flags.carry().into(); subtract::<T>(flags, a, b, carry) });
binary!(Cmp, false, |flags, a, b| <T> subtract::<T>(flags, a, b, 0));
binary!(And, true, |flags, a, b| <T> logic::<T>(flags, a & b));
binary!(Or, true, |flags, a, b| <T> logic::<T>(flags, a | b));
binary!(Xor, true, |flags, a, b| <T> logic::<T>(flags, a ^ b));
binary!(Test, false, |flags, a, b| <T> logic::<T>(flags, a & b));

/// Register, register.
pub fn rr<T: Int, B: Binary>(cpu: &mut Cpu, op: &Op) -> Flow {
    let (a, b) = (cpu.get::<T>(op.dst), cpu.get::<T>(op.src));
    let result = B::apply::<T>(&mut cpu.flags, a, b);
    if B::WRITES {
        cpu.set::<T>(op.dst, result);
    }
    Flow::Next
}

/// Register, immediate.
pub fn ri<T: Int, B: Binary>(cpu: &mut Cpu, op: &Op) -> Flow {
    let a = cpu.get::<T>(op.dst);
    let result = B::apply::<T>(&mut cpu.flags, a, T::cut(op.imm));
    if B::WRITES {
        cpu.set::<T>(op.dst, result);
    }
    Flow::Next
}

/// Register, memory.
pub fn rm<T: Int, B: Binary, P: Place>(cpu: &mut Cpu, op: &Op) -> Flow {
    let b = attempt!(P::load::<T>(cpu, op));
    let a = cpu.get::<T>(op.dst);
    let result = B::apply::<T>(&mut cpu.flags, a, b);
    if B::WRITES {
        cpu.set::<T>(op.dst, result);
    }
    Flow::Next
}

#[inline(always)]
fn to_memory<T: Int, B: Binary, P: Place>(cpu: &mut Cpu, op: &Op, b: u64) -> Flow {
    if !B::WRITES {
        let a = attempt!(P::load::<T>(cpu, op));
        B::apply::<T>(&mut cpu.flags, a, b);
        return Flow::Next;
    }
    let a = attempt!(P::load_to_write::<T>(cpu, op));
    let mut flags = cpu.flags;
    let result = B::apply::<T>(&mut flags, a, b);
    attempt!(P::store::<T>(cpu, op, result));
    cpu.flags = flags;
    cpu.stored()
}

/// Memory, register.
pub fn mr<T: Int, B: Binary, P: Place>(cpu: &mut Cpu, op: &Op) -> Flow {
    let b = cpu.get::<T>(op.src);
    to_memory::<T, B, P>(cpu, op, b)
}

/// Memory, immediate.
pub fn mi<T: Int, B: Binary, P: Place>(cpu: &mut Cpu, op: &Op) -> Flow {
    to_memory::<T, B, P>(cpu, op, T::cut(op.imm))
}

#[inline(always)]
fn locked<T: Int, B: Binary>(cpu: &mut Cpu, op: &Op, b: u64) -> Flow {
    let before = cpu.flags;
    let mut flags = before;
    let change = |a| {
        flags = before;
        B::apply::<T>(&mut flags, a, b)
    };
    attempt!(cpu.exchange::<T>(op.seg, cpu.address(op), change));
    cpu.flags = flags;
    cpu.stored()
}

/// Memory, register, LOCK.
pub fn mr_locked<T: Int, B: Binary>(cpu: &mut Cpu, op: &Op) -> Flow {
    let b = cpu.get::<T>(op.src);
    locked::<T, B>(cpu, op, b)
}

/// Memory, immediate, LOCK.
pub fn mi_locked<T: Int, B: Binary>(cpu: &mut Cpu, op: &Op) -> Flow {
    locked::<T, B>(cpu, op, T::cut(op.imm))
}

/// What an instruction with one operand works out.
pub trait Unary: 'static {
    /// The result, cut to the size.
    fn apply<T: Int>(flags: &mut Flags, a: u64) -> u64;
}

macro_rules! unary {
    ($name:ident, |$flags:ident, $a:ident| <$t:ident> $body:expr) => {
        /// The instruction of that name.
        #[derive(Debug)]
        pub struct $name;

        impl Unary for $name {
            #[inline(always)]
            fn apply<$t: Int>($flags: &mut Flags, $a: u64) -> u64 {
                $body
            }
        }
    };
}

unary!(Inc, |flags, a| <T> {
    let carry = flags.carry();
    let result = add::<T>(flags, a, 1, 0);
    flags.set_carry(carry);
    result
});
unary!(Dec, |flags, a| <T> {
    let carry = flags.carry();
    let result = subtract::<T>(flags, a, 1, 0);
    flags.set_carry(carry);
    result
});
unary!(Neg, |flags, a| <T> subtract::<T>(flags, 0, a, 0));
unary!(Not, |_flags, a| <T> T::cut(!a));

/// A register.
pub fn r<T: Int, U: Unary>(cpu: &mut Cpu, op: &Op) -> Flow {
    let a = cpu.get::<T>(op.dst);
    let result = U::apply::<T>(&mut cpu.flags, a);
    cpu.set::<T>(op.dst, result);
    Flow::Next
}

/// Memory.
pub fn m<T: Int, U: Unary, P: Place>(cpu: &mut Cpu, op: &Op) -> Flow {
    let a = attempt!(P::load_to_write::<T>(cpu, op));
    let mut flags = cpu.flags;
    let result = U::apply::<T>(&mut flags, a);
    attempt!(P::store::<T>(cpu, op, result));
    cpu.flags = flags;
    cpu.stored()
}

/// Memory, LOCK.
pub fn m_locked<T: Int, U: Unary>(cpu: &mut Cpu, op: &Op) -> Flow {
    let before = cpu.flags;
    let mut flags = before;
    let change = |a| {
        flags = before;
        U::apply::<T>(&mut flags, a)
    };
    attempt!(cpu.exchange::<T>(op.seg, cpu.address(op), change));
    cpu.flags = flags;
    cpu.stored()
}

/// XADD of registers.
pub fn xadd_r<T: Int>(cpu: &mut Cpu, op: &Op) -> Flow {
    let (a, b) = (cpu.get::<T>(op.dst), cpu.get::<T>(op.src));
    let sum = add::<T>(&mut cpu.flags, a, b, 0);
    cpu.set::<T>(op.src, a);
    cpu.set::<T>(op.dst, sum);
    Flow::Next
}

/// XADD of memory, atomic with LOCK or without.
pub fn xadd_m<T: Int>(cpu: &mut Cpu, op: &Op) -> Flow {
    let b = cpu.get::<T>(op.src);
    let a = attempt!(cpu.exchange::<T>(op.seg, cpu.address(op), |a| T::cut(a.wrapping_add(b))));
    add::<T>(&mut cpu.flags, a, b, 0);
    cpu.set::<T>(op.src, a);
    cpu.stored()
}

/// XCHG of registers.
pub fn xchg_r<T: Int>(cpu: &mut Cpu, op: &Op) -> Flow {
    let (a, b) = (cpu.get::<T>(op.dst), cpu.get::<T>(op.src));
    cpu.set::<T>(op.dst, b);
    cpu.set::<T>(op.src, a);
    Flow::Next
}

/// XCHG with memory, which is always locked.
pub fn xchg_m<T: Int>(cpu: &mut Cpu, op: &Op) -> Flow {
    let b = cpu.get::<T>(op.src);
    let a = attempt!(cpu.exchange::<T>(op.seg, cpu.address(op), |_| b));
    cpu.set::<T>(op.src, a);
    cpu.stored()
}

/// CMPXCHG of registers.
pub fn cmpxchg_r<T: Int>(cpu: &mut Cpu, op: &Op) -> Flow {
    let (accumulator, a) = (cpu.get::<T>(reg::AX), cpu.get::<T>(op.dst));
    subtract::<T>(&mut cpu.flags, accumulator, a, 0);
    if accumulator == a {
        let b = cpu.get::<T>(op.src);
        cpu.set::<T>(op.dst, b);
    } else {
        cpu.set::<T>(reg::AX, a);
    }
    Flow::Next
}

/// CMPXCHG of memory. It always stores: what was there, if nothing else.
pub fn cmpxchg_m<T: Int>(cpu: &mut Cpu, op: &Op) -> Flow {
    let (accumulator, b) = (cpu.get::<T>(reg::AX), cpu.get::<T>(op.src));
    let a = attempt!(cpu.exchange::<T>(op.seg, cpu.address(op), |a| if a == accumulator { b } else { a }));
    subtract::<T>(&mut cpu.flags, accumulator, a, 0);
    if accumulator != a {
        cpu.set::<T>(reg::AX, a);
    }
    cpu.stored()
}

/// CMPXCHG8B.
pub fn cmpxchg8b(cpu: &mut Cpu, op: &Op) -> Flow {
    let pair = |cpu: &Cpu, high, low| cpu.get::<u32>(high) << 32 | cpu.get::<u32>(low);
    let (expected, new) = (pair(cpu, reg::DX, reg::AX), pair(cpu, reg::CX, reg::BX));
    let old = attempt!(cpu.exchange::<u64>(op.seg, cpu.address(op), |old| if old == expected { new } else { old }));
    if old != expected {
        cpu.set::<u32>(reg::AX, old);
        cpu.set::<u32>(reg::DX, old >> 32);
    }
    zero_flag(cpu, old == expected);
    cpu.stored()
}

/// CMPXCHG16B.
pub fn cmpxchg16b(cpu: &mut Cpu, op: &Op) -> Flow {
    let wide = |high: u64, low: u64| u128::from(high) << 64 | u128::from(low);
    let expected = wide(cpu.get::<u64>(reg::DX), cpu.get::<u64>(reg::AX));
    let new = wide(cpu.get::<u64>(reg::CX), cpu.get::<u64>(reg::BX));
    let address = cpu.address(op);
    let linear = cpu.segs[usize::from(op.seg & 7)].start.wrapping_add(address) & cpu.linear_mask;
    if linear & 15 != 0 {
        cpu.raise_with(vector::GP, 0);
        return Flow::Trap;
    }
    // Looks at it, and makes an entry.
    let low = attempt!(cpu.load_to_write::<u64>(op.seg, address));
    let high = attempt!(cpu.load_to_write::<u64>(op.seg, address.wrapping_add(8)));
    let change = |old| if old == expected { new } else { old };
    let old = match cpu.memory.exchange_16(linear, change) {
        Some((old, code)) => {
            cpu.leave |= code;
            old
        }
        None => {
            let old = wide(high, low);
            attempt!(cpu.store_16(op.seg, address, change(old)));
            old
        }
    };
    if old != expected {
        cpu.set::<u64>(reg::AX, old as u64);
        cpu.set::<u64>(reg::DX, (old >> 64) as u64);
    }
    zero_flag(cpu, old == expected);
    cpu.stored()
}

/// ZF alone.
pub fn zero_flag(cpu: &mut Cpu, is: bool) {
    cpu.flags.change(crate::flags::ZF, if is { crate::flags::ZF } else { 0 });
}
