//! The board, the boot and the life of a VM, and the monitor process that owns it.
//!
//! ```text
//!   MachineParts ─▶ Machine::new ─▶ resume ─▶ vCPU threads + timer thread + supervisor ─▶ MachineEvent …
//!                      ▲ pause · resume · reset · power_button · power_off · screen · keys · stats · cd
//! ```
//!
//! Threads: one a vCPU, which carries guest accesses to the devices and never waits for a disk; one timer thread;
//! one supervisor, which does to the whole machine what a device asked for; and the disks' workers.

mod address_space;
mod board;
mod cpu_io;
mod drives;
mod kernel;
mod machine;
pub mod monitor;
mod parts;
mod supervisor;
mod timers;
mod typing;
mod vcpus;

pub use machine::{Machine, MachineError, MachineEvent, Screen};
pub use parts::{CdPart, DirectKernel, DiskPart, Firmware, MachineParts};
pub use typing::{Typing, check_chord};
