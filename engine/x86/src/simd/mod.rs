//! What the MMX, SSE to SSE4.2, AES and PCLMULQDQ instructions compute.
//!
//! Nothing here knows of registers, memory or instruction bytes: an operation is a function of its
//! operands' bits, named by its mnemonic. A 128-bit value is an [`Xmm`], a 64-bit MMX value a `u64`; the
//! instructions that exist for both are generic over [`Vector`].
//!
//! The floating-point operations also take the [`Mxcsr`], in which they set the sticky flags, and fail with
//! [`Unmasked`] where the instruction raises #XM. They use the host's arithmetic where its answer is certain to
//! be the guest's (`fast`) and integers everywhere else (`soft`).

#[macro_use]
mod lanes;

mod aes;
mod approximate;
mod arithmetic;
mod blend;
mod carryless;
mod compare;
mod convert;
mod crc;
mod extend;
mod fast;
mod float;
mod float_compare;
mod horizontal;
mod insert;
mod multiply;
mod mxcsr;
mod pack;
mod round;
mod shift;
mod shuffle;
mod soft;
mod strings;
mod swar;

#[cfg(all(test, target_arch = "x86_64"))]
mod tests;

pub use aes::*;
pub use approximate::*;
pub use arithmetic::*;
pub use blend::*;
pub use carryless::*;
pub use compare::*;
pub use convert::*;
pub use crc::*;
pub use extend::*;
pub use float::*;
pub use float_compare::*;
pub use horizontal::*;
pub use insert::*;
pub use lanes::{Vector, Xmm};
pub use multiply::*;
pub use mxcsr::*;
pub use pack::*;
pub use round::*;
pub use shift::*;
pub use shuffle::*;
pub use strings::*;

/// The bits of RFLAGS that the instructions here write.
pub mod rflags {
    /// Carry.
    pub const CF: u64 = 1 << 0;
    /// Parity.
    pub const PF: u64 = 1 << 2;
    /// Zero.
    pub const ZF: u64 = 1 << 6;
    /// Sign.
    pub const SF: u64 = 1 << 7;
    /// Overflow.
    pub const OF: u64 = 1 << 11;
}
