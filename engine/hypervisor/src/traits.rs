//! The shape every accelerator has.

use std::sync::Arc;

use benchtop_memory::SharedRegion;

use crate::state::{EntryState, VcpuStateV1};
use crate::{CpuIo, HypervisorError};

/// First guest-physical address an accelerator may keep pages for itself at (on KVM: the identity map and the task
/// segment that real mode needs on some Intel CPUs). The board maps nothing there and reserves it in E820.
pub const RESERVED_GPA: u64 = 0xfeff_c000;

/// Length of the range at [`RESERVED_GPA`], in bytes.
pub const RESERVED_LEN_BYTES: u64 = 0x4000;

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

/// How fast the guest's clocks run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockRates {
    /// TSC, in kHz.
    pub tsc_khz: u32,
    /// The local APIC timer's input before its divider, in kHz.
    pub apic_bus_khz: u32,
}

/// How often a vCPU left the guest for user space, since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExitCounts {
    /// Port accesses. A string access that comes out in one piece counts once.
    pub port: u64,
    /// MMIO accesses.
    pub mmio: u64,
    /// The guest became able to take a PIC interrupt that was waiting. Not caused by an access.
    pub interrupt_window: u64,
    /// EOIs the IOAPIC had to hear of.
    pub ioapic_eoi: u64,
    /// [`VcpuHandle::kick`], as often as it was heard.
    pub kicked: u64,
    /// Anything else.
    pub other: u64,
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
    /// Maps (or replaces) a memory slot. vCPUs may be running: none of them sees the moment in which a replaced slot
    /// is gone. Mapping a slot as it already is costs nothing.
    ///
    /// May be called from a [`CpuIo`] callback. The caller must not hold a lock that a callback on another vCPU waits
    /// for while *that* vCPU is inside the accelerator; a lock taken in callbacks is fine.
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

    /// Ends what [`coalesce_ports`](Self::coalesce_ports) began, for the same range. What was gathered is still handed
    /// over; no such range is fine.
    ///
    /// # Errors
    /// What the host refused.
    fn uncoalesce_ports(&self, first: u16, count: u16) -> Result<(), HypervisorError>;

    /// The same as [`coalesce_ports`](Self::coalesce_ports) for MMIO stores.
    ///
    /// # Errors
    /// What the host refused.
    fn coalesce_mmio(&self, gpa: u64, len_bytes: u64) -> Result<bool, HypervisorError>;

    /// Hands over gathered writes, in order. A backend does this by itself before it reports any exit; others call it
    /// before they change what a device's registers say, before save, and before reset.
    ///
    /// When it returns, every write gathered before the call has been delivered, whichever thread delivered it. The
    /// caller must not hold a lock that [`CpuIo::coalesced_port_write`] or [`CpuIo::coalesced_mmio_write`] takes. A
    /// call from within one of these two returns at once: the call further out goes on delivering.
    fn drain_coalesced(&self, io: &dyn CpuIo);

    /// The rates the guest is told in CPUID leaf 4000_0010h.
    fn clock_rates(&self) -> ClockRates;

    /// Whether [`Vcpu::tsc_pause`] has an effect: some hosts have no say over the guest's TSC.
    fn can_stop_tsc(&self) -> bool;
}

/// A vCPU that has no thread yet.
pub trait VcpuSeed: Send {
    /// How other threads reach it, from now on.
    fn handle(&self) -> Arc<dyn VcpuHandle>;

    /// Makes it the calling thread's. It is in its state after power-on; vCPUs may be bound in any order, also while
    /// others run.
    ///
    /// # Errors
    /// What the host refused.
    fn bind(self: Box<Self>) -> Result<Box<dyn Vcpu>, HypervisorError>;
}

/// Reaches a vCPU from other threads.
pub trait VcpuHandle: Send + Sync {
    /// Makes [`Vcpu::run`] return [`StopReason::Kicked`] soon, now or at its next call. Kicks do not add up.
    fn kick(&self);

    /// Its exits so far.
    fn exits(&self) -> ExitCounts;
}

/// A vCPU on its thread.
///
/// [`run`](Self::run) comes back from a kick only between two instructions: an access that was begun has been finished
/// and its result is in the registers. So the other methods, called between two runs, always see whole instructions.
pub trait Vcpu {
    /// Runs guest code until something other than an access stops it.
    ///
    /// An instruction's accesses to several MMIO pieces or a long REP may call `io` more than once.
    ///
    /// # Errors
    /// [`HypervisorError::Stuck`] where the guest can not go on; else what the host refused.
    fn run(&mut self, io: &dyn CpuIo) -> Result<StopReason, HypervisorError>;

    /// State as at power-on: vCPU 0 at FFFFFFF0h in real mode, the others waiting for SIPI. All vCPUs of a VM are reset
    /// before any of them runs again, or a SIPI may be lost.
    ///
    /// # Errors
    /// What the host refused.
    fn reset(&mut self) -> Result<(), HypervisorError>;

    /// Everything the guest could tell about this vCPU. Gathered writes and the accelerator's memory are not in it.
    ///
    /// # Errors
    /// What the host refused.
    fn save(&mut self) -> Result<VcpuStateV1, HypervisorError>;

    /// Puts a saved state back. It is not trusted: it is checked before any of it is used.
    ///
    /// # Errors
    /// [`HypervisorError::State`] naming the element at fault (the vCPU is then as it was); else what the host
    /// refused (the vCPU is then to be reset or discarded).
    fn restore(&mut self, state: &VcpuStateV1) -> Result<(), HypervisorError>;

    /// Sets the registers for starting a kernel without firmware, as [`EntryState`] says. Call it on vCPU 0, after
    /// reset.
    ///
    /// # Errors
    /// What the host refused.
    fn set_entry(&mut self, entry: &EntryState) -> Result<(), HypervisorError>;

    /// Notes that the guest's time stands still from here. Called on every vCPU of the VM, each on its own thread,
    /// after [`run`](Self::run) came back and before any of them resumes. A second call does nothing.
    ///
    /// # Errors
    /// What the host refused.
    fn tsc_pause(&mut self) -> Result<(), HypervisorError>;

    /// Lets the guest's TSC go on from where [`tsc_pause`](Self::tsc_pause) left it, by the same amount on every vCPU
    /// so that they stay in step. Called on every vCPU before it runs again, after *all* of them were paused. Without
    /// a pause before it, it does nothing. A TSC deadline of the local APIC waits along; its other timer modes run on
    /// KVM's own clock, so that a guest may see one of their interrupts come early.
    ///
    /// # Errors
    /// What the host refused.
    fn tsc_resume(&mut self) -> Result<(), HypervisorError>;
}
