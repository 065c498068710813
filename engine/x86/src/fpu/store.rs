//! FST, FIST, FISTTP, FBSTP to memory, in two steps (SDM volume 1, 8.3.3).

use super::convert::{Converted, to_decimal, to_double, to_integer, to_single};
use super::op::FpuStore;
use super::status::{IE, SF};
use super::{F80, Fpu};

/// What a store is about to do. Nothing has happened to the unit yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a store does nothing until it is committed"]
pub struct PendingStore {
    /// The operand's bits, little-endian.
    pub bits: u128,
    /// The bytes to be written; 0 if an unmasked exception withholds them, in which case [`Fpu::commit`] is still to be
    /// called.
    pub length_bytes: usize,
    flags: u16,
    pops: bool,
}

impl Fpu {
    /// The first step of a store: the bits to be written. The caller then checks and writes the operand, and calls
    /// [`Fpu::commit`] if that succeeded.
    #[inline]
    pub fn store(&self, store: FpuStore) -> PendingStore {
        let control = self.mode();
        let length_bytes = store.operand_bytes();
        if self.is_empty(0) {
            // The masked answer to a stack underflow is the indefinite of the operand's format.
            let bits = match store {
                FpuStore::FstpM80 => F80::INDEFINITE.to_bits(),
                FpuStore::Fbstp => to_decimal(control, F80::INDEFINITE).0,
                FpuStore::FstM32 | FpuStore::FstpM32 => 0xffc0_0000,
                FpuStore::FstM64 | FpuStore::FstpM64 => 0xfff8_0000_0000_0000,
                FpuStore::FistM16 | FpuStore::FistpM16 | FpuStore::FisttpM16 => 1 << 15,
                FpuStore::FistM32 | FpuStore::FistpM32 | FpuStore::FisttpM32 => 1 << 31,
                FpuStore::FistpM64 | FpuStore::FisttpM64 => 1 << 63,
            };
            let masked = control.unmasked(IE) == 0;
            return PendingStore {
                bits,
                length_bytes: if masked { length_bytes } else { 0 },
                flags: IE | SF,
                pops: masked && store.pops(),
            };
        }
        let value = self.st(0);
        let (bits, flags, withheld) = match store {
            FpuStore::FstpM80 => (value.to_bits(), 0, false),
            FpuStore::Fbstp => to_decimal(control, value),
            FpuStore::FstM32 | FpuStore::FstpM32 => parts(to_single(control, value)),
            FpuStore::FstM64 | FpuStore::FstpM64 => parts(to_double(control, value)),
            FpuStore::FistM16 | FpuStore::FistpM16 => parts(to_integer(control, value, 16, false)),
            FpuStore::FistM32 | FpuStore::FistpM32 => parts(to_integer(control, value, 32, false)),
            FpuStore::FistpM64 => parts(to_integer(control, value, 64, false)),
            FpuStore::FisttpM16 => parts(to_integer(control, value, 16, true)),
            FpuStore::FisttpM32 => parts(to_integer(control, value, 32, true)),
            FpuStore::FisttpM64 => parts(to_integer(control, value, 64, true)),
        };
        PendingStore {
            bits: bits & low_bytes(length_bytes),
            length_bytes: if withheld { 0 } else { length_bytes },
            flags,
            pops: !withheld && store.pops(),
        }
    }

    /// The second step: raises the flags and pops.
    #[inline]
    pub fn commit(&mut self, store: PendingStore) {
        self.clear_c1();
        self.raise(store.flags);
        if store.pops {
            self.pop();
        }
    }
}

#[inline]
fn parts(converted: Converted) -> (u128, u16, bool) {
    (converted.bits as u128, converted.flags, converted.withheld)
}

#[inline]
fn low_bytes(length_bytes: usize) -> u128 {
    (1u128 << (8 * length_bytes)).wrapping_sub(1)
}
