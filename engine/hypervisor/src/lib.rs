//! The accelerators behind one shape.
//!
//! ```text
//!   Hypervisor ─ build ─▶ Vm  +  one VcpuSeed per vCPU ─ bind on its thread ─▶ Vcpu::run(&dyn CpuIo) ─▶ StopReason
//! ```
//!
//! Exits stay private to each backend: port and MMIO accesses go to [`CpuIo`], and only halt-like reasons come out of
//! [`Vcpu::run`]. PIC, PIT and IOAPIC are the board's on every backend; the local APIC is the accelerator's.
//!
//! Threading: [`Vm`] is shared; a [`Vcpu`] lives and dies on the thread its seed was bound on; [`VcpuHandle`] is how
//! other threads reach it.

pub mod conformance;
pub mod cpuid;
mod error;
pub mod io;
#[cfg(target_os = "linux")]
pub mod kvm;
pub mod software;
pub mod state;
pub mod traits;

pub use error::HypervisorError;
pub use io::{BackdoorRegisters, CpuIo};
pub use state::{EntryState, VcpuStateV1};
pub use traits::{
    ClockRates, ExitCounts, Hypervisor, MemorySlot, Msi, RESERVED_GPA, RESERVED_LEN_BYTES, StopReason, Vcpu,
    VcpuHandle, VcpuSeed, Vm, VmParts, VmSetup,
};
