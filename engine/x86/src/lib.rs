//! An x86-64 processor in software, at the level that today's distributions ask for (x86-64-v2).
//!
//! ```text
//!   bytes ─ lower ─▶ Op, Op, Op … a block ─ run ─▶ handlers (exec, system) ─▶ Cpu
//!                                                       │
//!                  segment ─ access ─▶ mmu ─▶ memory ◀──┘        the outside: Exit, answered by the caller
//! ```
//!
//! It knows no devices: what is not memory comes out of [`run::Processor::run`] as an [`run::Exit`], and the instruction
//! begins anew when it is answered.

pub mod access;
pub mod blocks;
pub mod cpu;
pub mod cpuid;
pub mod exec;
pub mod flags;
pub mod fpu;
pub mod lower;
pub mod map;
pub mod memory;
pub mod mmu;
pub mod op;
pub mod run;
pub mod simd;
pub mod system;
pub mod time;
