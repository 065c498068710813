//! Shifts and rotates.

use crate::attempt;
use crate::cpu::Cpu;
use crate::flags::Flags;
use crate::op::{Flow, Int, Op, reg};

/// What a shift works out: the result, for a count that is not masked yet. None: nothing changes, the flags neither.
pub trait Shift: 'static {
    /// The result, cut to the size.
    fn apply<T: Int>(flags: &mut Flags, a: u64, count: u32) -> Option<u64>;
}

/// A count as the processor takes it (Intel SDM, SAL/SAR/SHL/SHR).
#[inline(always)]
fn masked<T: Int>(count: u32) -> u32 {
    count & if T::BITS == 64 { 63 } else { 31 }
}

/// SHL.
#[derive(Debug)]
pub struct Shl;
/// SHR.
#[derive(Debug)]
pub struct Shr;
/// SAR.
#[derive(Debug)]
pub struct Sar;
/// ROL.
#[derive(Debug)]
pub struct Rol;
/// ROR.
#[derive(Debug)]
pub struct Ror;
/// RCL.
#[derive(Debug)]
pub struct Rcl;
/// RCR.
#[derive(Debug)]
pub struct Rcr;

impl Shift for Shl {
    #[inline(always)]
    fn apply<T: Int>(flags: &mut Flags, a: u64, count: u32) -> Option<u64> {
        let count = masked::<T>(count);
        if count == 0 {
            return None;
        }
        let result = T::cut(a << count);
        let carry = count <= T::BITS && a >> (T::BITS - count) & 1 != 0;
        flags.result_with(T::extend(result), carry, T::is_negative(result) != carry);
        Some(result)
    }
}

impl Shift for Shr {
    #[inline(always)]
    fn apply<T: Int>(flags: &mut Flags, a: u64, count: u32) -> Option<u64> {
        let count = masked::<T>(count);
        if count == 0 {
            return None;
        }
        let result = a >> count;
        flags.result_with(T::extend(result), a >> (count - 1) & 1 != 0, T::is_negative(a));
        Some(result)
    }
}

impl Shift for Sar {
    #[inline(always)]
    fn apply<T: Int>(flags: &mut Flags, a: u64, count: u32) -> Option<u64> {
        let count = masked::<T>(count);
        if count == 0 {
            return None;
        }
        let wide = T::extend(a) as i64;
        let result = T::cut((wide >> count) as u64);
        flags.result_with(T::extend(result), wide >> (count - 1) & 1 != 0, false);
        Some(result)
    }
}

/// CF and OF of a rotate; the others stay.
#[inline(always)]
fn rotated(flags: &mut Flags, carry: bool, overflow: bool) {
    const TOP: u64 = 3 << 62;
    flags.aux = flags.aux & !TOP | if carry { 1 << 63 } else { 0 } | if carry != overflow { 1 << 62 } else { 0 };
}

impl Shift for Rol {
    #[inline(always)]
    fn apply<T: Int>(flags: &mut Flags, a: u64, count: u32) -> Option<u64> {
        let count = masked::<T>(count);
        if count == 0 {
            return None;
        }
        let count = count % T::BITS;
        let result = if count == 0 { a } else { T::cut(a << count | a >> (T::BITS - count)) };
        let carry = result & 1 != 0;
        rotated(flags, carry, T::is_negative(result) != carry);
        Some(result)
    }
}

impl Shift for Ror {
    #[inline(always)]
    fn apply<T: Int>(flags: &mut Flags, a: u64, count: u32) -> Option<u64> {
        let count = masked::<T>(count);
        if count == 0 {
            return None;
        }
        let count = count % T::BITS;
        let result = if count == 0 { a } else { T::cut(a >> count | a << (T::BITS - count)) };
        let second = result >> (T::TOP - 1) & 1 != 0;
        rotated(flags, T::is_negative(result), T::is_negative(result) != second);
        Some(result)
    }
}

impl Shift for Rcl {
    fn apply<T: Int>(flags: &mut Flags, a: u64, count: u32) -> Option<u64> {
        // All the way round changes nothing, OF included.
        let count = masked::<T>(count) % (T::BITS + 1);
        if count == 0 {
            return None;
        }
        let wide = u128::from(a) | u128::from(flags.carry()) << T::BITS;
        let turned = wide << count | wide >> (T::BITS + 1 - count);
        let result = T::cut(turned as u64);
        let carry = turned >> T::BITS & 1 != 0;
        rotated(flags, carry, T::is_negative(result) != carry);
        Some(result)
    }
}

impl Shift for Rcr {
    fn apply<T: Int>(flags: &mut Flags, a: u64, count: u32) -> Option<u64> {
        // All the way round changes nothing, OF included.
        let count = masked::<T>(count) % (T::BITS + 1);
        if count == 0 {
            return None;
        }
        let wide = u128::from(a) | u128::from(flags.carry()) << T::BITS;
        let turned = wide >> count | wide << (T::BITS + 1 - count);
        let result = T::cut(turned as u64);
        let carry = turned >> T::BITS & 1 != 0;
        let second = result >> (T::TOP - 1) & 1 != 0;
        rotated(flags, carry, T::is_negative(result) != second);
        Some(result)
    }
}

#[inline(always)]
fn register<T: Int, S: Shift>(cpu: &mut Cpu, op: &Op, count: u32) -> Flow {
    let a = cpu.get::<T>(op.dst);
    match S::apply::<T>(&mut cpu.flags, a, count) {
        Some(result) => cpu.set::<T>(op.dst, result),
        // A 32-bit register is zero-extended nevertheless.
        None => cpu.set::<T>(op.dst, a),
    }
    Flow::Next
}

#[inline(always)]
fn memory<T: Int, S: Shift>(cpu: &mut Cpu, op: &Op, count: u32) -> Flow {
    let address = cpu.address(op);
    let a = attempt!(cpu.load_to_write::<T>(op.seg, address));
    let mut flags = cpu.flags;
    if let Some(result) = S::apply::<T>(&mut flags, a, count) {
        attempt!(cpu.store::<T>(op.seg, address, result));
        cpu.flags = flags;
    }
    cpu.stored()
}

/// A register by an immediate.
pub fn ri<T: Int, S: Shift>(cpu: &mut Cpu, op: &Op) -> Flow {
    register::<T, S>(cpu, op, op.imm as u32)
}

/// A register by CL.
pub fn rc<T: Int, S: Shift>(cpu: &mut Cpu, op: &Op) -> Flow {
    let count = cpu.get::<u8>(reg::CX) as u32;
    register::<T, S>(cpu, op, count)
}

/// Memory by an immediate.
pub fn mi<T: Int, S: Shift>(cpu: &mut Cpu, op: &Op) -> Flow {
    memory::<T, S>(cpu, op, op.imm as u32)
}

/// Memory by CL.
pub fn mc<T: Int, S: Shift>(cpu: &mut Cpu, op: &Op) -> Flow {
    let count = cpu.get::<u8>(reg::CX) as u32;
    memory::<T, S>(cpu, op, count)
}

/// SHLD or SHRD.
fn double<T: Int>(flags: &mut Flags, a: u64, b: u64, count: u32, left: bool) -> Option<u64> {
    let count = masked::<T>(count);
    if count == 0 {
        return None;
    }
    let bits = T::BITS;
    let (result, carry) = if bits == 64 {
        if left {
            (a << count | b >> (64 - count), a >> (64 - count) & 1 != 0)
        } else {
            (a >> count | b << (64 - count), a >> (count - 1) & 1 != 0)
        }
    } else {
        // For 16 bits a count beyond 16 is undefined; processors go on into the first operand again.
        let wide = u128::from(a) << (2 * bits) | u128::from(b) << bits | u128::from(a);
        if left {
            let turned = wide << count;
            (T::cut((turned >> (2 * bits)) as u64), turned >> (3 * bits) & 1 != 0)
        } else {
            (T::cut((wide >> count) as u64), wide >> (count - 1) & 1 != 0)
        }
    };
    flags.result_with(T::extend(result), carry, T::is_negative(result) != T::is_negative(a));
    Some(result)
}

fn double_register<T: Int, const LEFT: bool>(cpu: &mut Cpu, op: &Op, count: u32) -> Flow {
    let (a, b) = (cpu.get::<T>(op.dst), cpu.get::<T>(op.src));
    let result = double::<T>(&mut cpu.flags, a, b, count, LEFT).unwrap_or(a);
    cpu.set::<T>(op.dst, result);
    Flow::Next
}

fn double_memory<T: Int, const LEFT: bool>(cpu: &mut Cpu, op: &Op, count: u32) -> Flow {
    let address = cpu.address(op);
    let a = attempt!(cpu.load_to_write::<T>(op.seg, address));
    let b = cpu.get::<T>(op.src);
    let mut flags = cpu.flags;
    if let Some(result) = double::<T>(&mut flags, a, b, count, LEFT) {
        attempt!(cpu.store::<T>(op.seg, address, result));
        cpu.flags = flags;
    }
    cpu.stored()
}

macro_rules! doubles {
    ($($name:ident, $how:ident, $left:expr, $cl:expr;)*) => {
        $(
            /// SHLD or SHRD: of a register or memory, by an immediate or CL.
            pub fn $name<T: Int>(cpu: &mut Cpu, op: &Op) -> Flow {
                let count = if $cl { cpu.get::<u8>(reg::CX) as u32 } else { op.imm as u32 };
                $how::<T, $left>(cpu, op, count)
            }
        )*
    };
}

doubles! {
    shld_ri, double_register, true, false;
    shld_rc, double_register, true, true;
    shld_mi, double_memory, true, false;
    shld_mc, double_memory, true, true;
    shrd_ri, double_register, false, false;
    shrd_rc, double_register, false, true;
    shrd_mi, double_memory, false, false;
    shrd_mc, double_memory, false, true;
}
