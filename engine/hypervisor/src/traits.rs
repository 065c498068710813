//! The shape every accelerator has.

use std::sync::Arc;

use benchtop_memory::SharedRegion;

use crate::{CpuIo, HypervisorError};

/// What a VM is made with.
#[derive(Clone, Debug)]
pub struct VmSetup {
    /// vCPUs, at least 1. All are created; all but the first wait for SIPI.
    pub cpus: u32,
    /// Name of the CPUID model (`benchtop-v1`): what the guest sees is this, less what the host lacks.
    pub cpu_model: String,
    /// IOAPIC pins whose redirection entries are mirrored (24).
    pub ioapic_pins: u32,
}

/// A piece of the guest-physical map that is plain memory.
#[derive(Clone, Debug)]
pub struct MemorySlot {
    /// Its number; mapping the same number again replaces it.
    pub slot: u32,
    /// First guest-physical address, page aligned.
    pub gpa: u64,
    /// The memory.
    pub region: SharedRegion,
    /// Where in it the slot starts, in bytes, page aligned.
    pub offset_bytes: u64,
    /// Length, in whole pages.
    pub len_bytes: u64,
    /// Guest writes exit to [`CpuIo::mmio_write`] instead of changing it.
    pub read_only: bool,
    /// Keep a log of the pages the guest writes.
    pub log_dirty: bool,
}

/// A message-signalled interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Msi {
    /// Address, FEExxxxxh.
    pub address: u64,
    /// Data.
    pub data: u32,
}

/// Why a vCPU came back from [`Vcpu::run`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// [`VcpuHandle::kick`] was called (a pause, or an interrupt to look at).
    Kicked,
    /// Triple fault: the PC resets.
    Shutdown,
    /// The guest halted for good (only where the accelerator hands HLT out).
    Halted,
}

/// An accelerator on this host.
pub trait Hypervisor: Send + Sync {
    /// `kvm`, `whpx` or `software`.
    fn name(&self) -> &'static str;

    /// Makes a VM and the seeds of its vCPUs.
    ///
    /// # Errors
    /// What the host refused.
    fn build(&self, setup: &VmSetup) -> Result<VmParts, HypervisorError>;
}

/// A new VM and its vCPUs, one seed each, in order.
pub struct VmParts {
    /// The VM.
    pub vm: Arc<dyn Vm>,
    /// The vCPUs to be.
    pub seeds: Vec<Box<dyn VcpuSeed>>,
}

/// A VM: its memory map and its interrupts.
pub trait Vm: Send + Sync {
    /// Maps (or replaces) a memory slot. vCPUs may be running.
    ///
    /// # Errors
    /// What the host refused; the old mapping of the slot is then gone.
    fn map(&self, slot: &MemorySlot) -> Result<(), HypervisorError>;

    /// Removes a slot; no slot of that number is fine.
    ///
    /// # Errors
    /// What the host refused.
    fn unmap(&self, slot: u32) -> Result<(), HypervisorError>;

    /// Takes and clears the dirty log of a slot: one bit a page, from the slot's start.
    ///
    /// # Errors
    /// What the host refused, or a slot without a log.
    fn take_dirty(&self, slot: u32) -> Result<Vec<u64>, HypervisorError>;

    /// Delivers a message to the local APICs. An address outside FEExxxxxh is dropped.
    ///
    /// # Errors
    /// What the host refused.
    fn signal_msi(&self, msi: Msi) -> Result<(), HypervisorError>;

    /// Mirrors the IOAPIC's redirection table (`None`: masked), so that EOIs of level-triggered entries come back
    /// through [`CpuIo::ioapic_eoi`].
    ///
    /// # Errors
    /// What the host refused.
    fn mirror_ioapic(&self, entries: &[Option<Msi>]) -> Result<(), HypervisorError>;

    /// Lets writes to these ports be gathered without an exit, if the accelerator can (false where not). Only for
    /// ports whose writes merely latch: see design.md §5.
    ///
    /// # Errors
    /// What the host refused.
    fn coalesce_ports(&self, first: u16, count: u16) -> Result<bool, HypervisorError>;

    /// The same for MMIO stores.
    ///
    /// # Errors
    /// What the host refused.
    fn coalesce_mmio(&self, gpa: u64, len_bytes: u64) -> Result<bool, HypervisorError>;

    /// Hands over gathered writes, in order. A backend does this by itself before it reports any exit; others call it
    /// before they change what a device's registers say, before save, and before reset.
    fn drain_coalesced(&self, io: &dyn CpuIo);
}

/// A vCPU that has no thread yet.
pub trait VcpuSeed: Send {
    /// How other threads reach it, from now on.
    fn handle(&self) -> Arc<dyn VcpuHandle>;

    /// Makes it the calling thread's.
    ///
    /// # Errors
    /// What the host refused.
    fn bind(self: Box<Self>) -> Result<Box<dyn Vcpu>, HypervisorError>;
}

/// Reaches a vCPU from other threads.
pub trait VcpuHandle: Send + Sync {
    /// Makes [`Vcpu::run`] return [`StopReason::Kicked`] soon, now or at its next call. Kicks do not add up.
    fn kick(&self);
}

/// A vCPU on its thread.
pub trait Vcpu {
    /// Runs guest code until something other than an access stops it.
    ///
    /// # Errors
    /// [`HypervisorError::Stuck`] where the guest can not go on; else what the host refused.
    fn run(&mut self, io: &dyn CpuIo) -> Result<StopReason, HypervisorError>;

    /// State as at power-on: vCPU 0 at FFFFFFF0h in real mode, the others waiting for SIPI.
    ///
    /// # Errors
    /// What the host refused.
    fn reset(&mut self) -> Result<(), HypervisorError>;
}
