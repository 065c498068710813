//! The conformance suite on the accelerators of this host.

use std::sync::Arc;

use benchtop_hypervisor::conformance;
use benchtop_hypervisor::{ClockRates, CpuIo, Hypervisor, HypervisorError, MemorySlot, Msi, Vm, VmParts, VmSetup};

/// KVM, or `None` and a word about it where this host or this user has none. A KVM that is there must do.
#[cfg(target_os = "linux")]
fn kvm(name: &str) -> Option<benchtop_hypervisor::kvm::Kvm> {
    match benchtop_hypervisor::kvm::Kvm::open() {
        Ok(kvm) => Some(kvm),
        Err(error @ (HypervisorError::NotAvailable { .. } | HypervisorError::NoPermission { .. })) => {
            eprintln!("{name}: skipped: no /dev/kvm ({error})");
            None
        }
        Err(error) => panic!("{name}: {error}"),
    }
}

#[cfg(target_os = "linux")]
fn on_kvm(name: &str) {
    let check = conformance::check(name).expect("the suite has a check of this name");
    if let Some(kvm) = kvm(name) {
        check(&kvm);
    }
}

#[cfg(not(target_os = "linux"))]
fn on_kvm(name: &str) {
    eprintln!("{name}: skipped: no /dev/kvm on this system");
}

macro_rules! on_kvm {
    ($($name:ident)*) => {
        $(#[test]
        fn $name() {
            on_kvm(stringify!($name));
        })*

        /// The same on the software CPU, which is there on every host.
        mod software {
            $(#[test]
            fn $name() {
                let check = super::conformance::check(stringify!($name)).expect("the suite has a check of this name");
                check(&benchtop_hypervisor::software::Software);
            })*
        }

        /// A check that is in the suite but not in this list would never run.
        #[test]
        fn the_list_is_complete() {
            let listed = [$(stringify!($name)),*];
            let missing: Vec<_> =
                conformance::ALL.iter().map(|(name, _)| *name).filter(|name| !listed.contains(name)).collect();
            assert!(missing.is_empty(), "{missing:?}");
            assert_eq!(listed.len(), conformance::ALL.len());
        }
    };
}

on_kvm! {
    port_sizes
    mmio_sizes
    string_io
    backdoor_registers
    gathered_writes_come_in_order
    read_only_memory
    dirty_log
    slots_can_be_replaced_while_running
    pic_waits_for_the_window
    pic_is_taken_at_hlt
    pic_wakes_a_halted_vcpu
    msi
    ioapic_eoi
    an_owed_eoi_is_in_the_state
    sipi_starts_a_vcpu
    kick_before_run
    kick_while_spinning
    kick_while_halted
    a_kick_leaves_no_access_half_done
    triple_fault
    cpuid_names_the_hypervisor
    state_round_trip
    a_state_moves_to_another_vm
    impossible_state_is_refused
    reset_starts_over
    an_acknowledged_interrupt_survives_saving
    tsc_stands_still_while_paused
    long_mode_entry
    protected_mode_entry
}

/// An accelerator with one fault.
struct Faulty<H> {
    inner: H,
    fault: Fault,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    WritableRom,
    StrayMsi,
    NoDirtyLog,
    DeafIoapic,
}

struct FaultyVm {
    inner: Arc<dyn Vm>,
    fault: Fault,
}

impl<H: Hypervisor> Hypervisor for Faulty<H> {
    fn name(&self) -> &'static str {
        "faulty"
    }

    fn build(&self, setup: &VmSetup) -> Result<VmParts, HypervisorError> {
        let VmParts { vm, seeds } = self.inner.build(setup)?;
        Ok(VmParts { vm: Arc::new(FaultyVm { inner: vm, fault: self.fault }), seeds })
    }
}

impl Vm for FaultyVm {
    fn map(&self, slot: &MemorySlot) -> Result<(), HypervisorError> {
        let read_only = slot.read_only && self.fault != Fault::WritableRom;
        self.inner.map(&MemorySlot { read_only, ..slot.clone() })
    }

    fn unmap(&self, slot: u32) -> Result<(), HypervisorError> {
        self.inner.unmap(slot)
    }

    fn take_dirty(&self, slot: u32) -> Result<Vec<u64>, HypervisorError> {
        let log = self.inner.take_dirty(slot)?;
        Ok(if self.fault == Fault::NoDirtyLog { vec![0; log.len()] } else { log })
    }

    fn signal_msi(&self, msi: Msi) -> Result<(), HypervisorError> {
        // Vector 42h is the one that must not arrive.
        let address = if self.fault == Fault::StrayMsi { 0xfee0_0000 } else { msi.address };
        self.inner.signal_msi(Msi { address, ..msi })
    }

    fn mirror_ioapic(&self, entries: &[Option<Msi>]) -> Result<(), HypervisorError> {
        if self.fault == Fault::DeafIoapic { Ok(()) } else { self.inner.mirror_ioapic(entries) }
    }

    fn coalesce_ports(&self, first: u16, count: u16) -> Result<bool, HypervisorError> {
        self.inner.coalesce_ports(first, count)
    }

    fn uncoalesce_ports(&self, first: u16, count: u16) -> Result<(), HypervisorError> {
        self.inner.uncoalesce_ports(first, count)
    }

    fn coalesce_mmio(&self, gpa: u64, len_bytes: u64) -> Result<bool, HypervisorError> {
        self.inner.coalesce_mmio(gpa, len_bytes)
    }

    fn drain_coalesced(&self, io: &dyn CpuIo) {
        self.inner.drain_coalesced(io);
    }

    fn clock_rates(&self) -> ClockRates {
        self.inner.clock_rates()
    }

    fn can_stop_tsc(&self) -> bool {
        self.inner.can_stop_tsc()
    }
}

/// A descriptor of something else is refused, not used.
#[cfg(target_os = "linux")]
#[test]
fn another_file_is_not_kvm() {
    let file = std::fs::File::open("/dev/null").expect("there is /dev/null");
    let refused = benchtop_hypervisor::kvm::Kvm::from_fd(file.into());
    assert!(matches!(refused, Err(HypervisorError::Lacks { .. })), "{refused:?}");
}

/// What can not be built says why.
#[cfg(target_os = "linux")]
#[test]
fn impossible_machines_are_refused() {
    let Some(kvm) = kvm("impossible_machines_are_refused") else { return };
    for (cpus, model) in [(0, "benchtop-v1"), (100_000, "benchtop-v1"), (1, "host")] {
        let setup = VmSetup { cpus, cpu_model: model.into(), ioapic_pins: 24 };
        assert!(matches!(kvm.build(&setup).err(), Some(HypervisorError::Lacks { .. })), "{cpus} {model}");
    }
}

/// The suite notices what it is there to notice.
#[cfg(target_os = "linux")]
#[test]
fn faults_are_found() {
    for (fault, name) in [
        (Fault::WritableRom, "read_only_memory"),
        (Fault::StrayMsi, "msi"),
        (Fault::NoDirtyLog, "dirty_log"),
        (Fault::DeafIoapic, "ioapic_eoi"),
    ] {
        let Some(inner) = kvm("faults_are_found") else { return };
        let check = conformance::check(name).expect("the suite has a check of this name");
        let found = std::panic::catch_unwind(move || check(&Faulty { inner, fault }));
        assert!(found.is_err(), "{name} did not find {fault:?}");
    }
}
