//! The board, the boot and the life of a VM, and the monitor process that owns it.
//!
//! ```text
//!   MachineParts ─▶ Machine::new ─▶ power_on ─▶ vCPU threads + timer thread ─▶ MachineEvent …
//!                      ▲ pause · resume · reset · power_button · power_off · screen · keys · stats · cd
//! ```

mod machine;
mod parts;

pub use machine::{Machine, MachineError, MachineEvent, Screen};
pub use parts::{CdPart, DirectKernel, DiskPart, Firmware, MachineParts};
