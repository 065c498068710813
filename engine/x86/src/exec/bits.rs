//! Bits: BT and its like, scans, counts.

use crate::attempt;
use crate::cpu::Cpu;
use crate::op::{ADDRESS_MASKS, Flow, Int, Op};

/// What becomes of a bit.
pub trait Change: 'static {
    /// Whether anything is stored.
    const WRITES: bool = true;
    /// The word, with one bit of `mask`.
    fn apply(word: u64, mask: u64) -> u64;
}

macro_rules! change {
    ($name:ident, $writes:expr, |$word:ident, $mask:ident| $body:expr) => {
        /// The instruction of that name.
        #[derive(Debug)]
        pub struct $name;

        impl Change for $name {
            const WRITES: bool = $writes;

            #[inline(always)]
            fn apply($word: u64, $mask: u64) -> u64 {
                $body
            }
        }
    };
}

change!(Bt, false, |word, _mask| word);
change!(Bts, true, |word, mask| word | mask);
change!(Btr, true, |word, mask| word & !mask);
change!(Btc, true, |word, mask| word ^ mask);

#[inline(always)]
fn register<T: Int, C: Change>(cpu: &mut Cpu, op: &Op, number: u64) -> Flow {
    let mask = 1 << (number & u64::from(T::TOP));
    let word = cpu.get::<T>(op.dst);
    cpu.flags.set_carry(word & mask != 0);
    if C::WRITES {
        cpu.set::<T>(op.dst, C::apply(word, mask));
    }
    Flow::Next
}

/// Register, register.
pub fn rr<T: Int, C: Change>(cpu: &mut Cpu, op: &Op) -> Flow {
    let number = cpu.get::<T>(op.src);
    register::<T, C>(cpu, op, number)
}

/// Register, immediate.
pub fn ri<T: Int, C: Change>(cpu: &mut Cpu, op: &Op) -> Flow {
    register::<T, C>(cpu, op, op.imm)
}

#[inline(always)]
fn memory<T: Int, C: Change>(cpu: &mut Cpu, op: &Op, address: u64, number: u64, locked: bool) -> Flow {
    let mask = 1 << (number & u64::from(T::TOP));
    let word = if !C::WRITES {
        attempt!(cpu.load::<T>(op.seg, address))
    } else if locked {
        attempt!(cpu.exchange::<T>(op.seg, address, |word| C::apply(word, mask)))
    } else {
        let word = attempt!(cpu.load_to_write::<T>(op.seg, address));
        attempt!(cpu.store::<T>(op.seg, address, C::apply(word, mask)));
        word
    };
    cpu.flags.set_carry(word & mask != 0);
    cpu.stored()
}

/// The address of the word that has the bit: a register's number reaches beyond the operand.
fn reaching<T: Int>(cpu: &Cpu, op: &Op) -> (u64, u64) {
    let number = cpu.get::<T>(op.src);
    let words = T::extend(number) as i64 >> T::BITS.trailing_zeros();
    let address = cpu.address(op).wrapping_add((words as u64).wrapping_mul(T::BYTES as u64));
    (address & ADDRESS_MASKS[usize::from(op.asize & 3)], number)
}

/// Memory, register.
pub fn mr<T: Int, C: Change>(cpu: &mut Cpu, op: &Op) -> Flow {
    let (address, number) = reaching::<T>(cpu, op);
    memory::<T, C>(cpu, op, address, number, false)
}

/// Memory, register, LOCK.
pub fn mr_locked<T: Int, C: Change>(cpu: &mut Cpu, op: &Op) -> Flow {
    let (address, number) = reaching::<T>(cpu, op);
    memory::<T, C>(cpu, op, address, number, true)
}

/// Memory, immediate.
pub fn mi<T: Int, C: Change>(cpu: &mut Cpu, op: &Op) -> Flow {
    let address = cpu.address(op);
    memory::<T, C>(cpu, op, address, op.imm, false)
}

/// Memory, immediate, LOCK.
pub fn mi_locked<T: Int, C: Change>(cpu: &mut Cpu, op: &Op) -> Flow {
    let address = cpu.address(op);
    memory::<T, C>(cpu, op, address, op.imm, true)
}

/// BSF and BSR leave the destination as it is when there is no bit, all 64 bits of it: AMD says so, and programs know.
#[inline(always)]
fn scan<T: Int>(cpu: &mut Cpu, op: &Op, word: u64, forward: bool) -> Flow {
    if word != 0 {
        let number = if forward { word.trailing_zeros() } else { 63 - word.leading_zeros() };
        cpu.set::<T>(op.dst, number.into());
    }
    // ZF says whether there was none; the others are undefined.
    cpu.flags.logic(T::extend(word));
    Flow::Next
}

/// BSF or BSR of a register.
pub fn scan_r<T: Int, const FORWARD: bool>(cpu: &mut Cpu, op: &Op) -> Flow {
    let word = cpu.get::<T>(op.src);
    scan::<T>(cpu, op, word, FORWARD)
}

/// BSF or BSR of memory.
pub fn scan_m<T: Int, const FORWARD: bool>(cpu: &mut Cpu, op: &Op) -> Flow {
    let word = attempt!(cpu.load::<T>(op.seg, cpu.address(op)));
    scan::<T>(cpu, op, word, FORWARD)
}

#[inline(always)]
fn count<T: Int>(cpu: &mut Cpu, op: &Op, word: u64) -> Flow {
    cpu.set::<T>(op.dst, word.count_ones().into());
    // All flags are clear but ZF.
    cpu.flags.set_arithmetic(if word == 0 { crate::flags::ZF } else { 0 });
    Flow::Next
}

/// POPCNT of a register.
pub fn popcnt_r<T: Int>(cpu: &mut Cpu, op: &Op) -> Flow {
    let word = cpu.get::<T>(op.src);
    count::<T>(cpu, op, word)
}

/// POPCNT of memory.
pub fn popcnt_m<T: Int>(cpu: &mut Cpu, op: &Op) -> Flow {
    let word = attempt!(cpu.load::<T>(op.seg, cpu.address(op)));
    count::<T>(cpu, op, word)
}
