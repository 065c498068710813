//! A VM: memory, interrupts, gathered writes.

use std::sync::Arc;

use kvm_bindings::{KVM_IRQ_ROUTING_MSI, KvmIrqRouting, kvm_irq_routing_entry, kvm_irq_routing_msi, kvm_msi};
use kvm_ioctls::{Cap, IoEventAddress, VcpuFd, VmFd};
use parking_lot::Mutex;

use super::call;
use super::coalesced::CoalescedRing;
use super::gate::Gate;
use super::kick::Kick;
use super::slots::{Change, Slots};
use super::tsc::TscClock;
use crate::{ClockRates, CpuIo, HypervisorError, MemorySlot, Msi, Vm};

/// A VM on KVM. Its vCPUs keep it alive, so that the guest's memory outlives whoever runs on it.
#[derive(Debug)]
pub(super) struct KvmVm {
    fd: VmFd,
    slots: Mutex<Slots>,
    pub gate: Gate,
    kicks: Vec<Arc<Kick>>,
    ring: Option<CoalescedRing>,
    coalesced_ports: bool,
    routes: Mutex<Vec<Option<Msi>>>,
    rates: ClockRates,
    pub tsc: TscClock,
}

impl KvmVm {
    pub fn new(fd: VmFd, first: &VcpuFd, kicks: Vec<Arc<Kick>>, rates: ClockRates) -> Result<Self, HypervisorError> {
        let ring = fd.check_extension(Cap::CoalescedMmio).then(|| CoalescedRing::new(first)).transpose()?;
        let coalesced_ports = ring.is_some() && fd.check_extension(Cap::CoalescedPio);
        let tsc = TscClock::new(first)?;
        Ok(Self {
            fd,
            slots: Mutex::default(),
            gate: Gate::default(),
            kicks,
            ring,
            coalesced_ports,
            routes: Mutex::default(),
            rates,
            tsc,
        })
    }

    /// Guest memory for a report.
    pub fn peek(&self, gpa: u64, len: usize) -> Vec<u8> {
        self.slots.lock().peek(gpa, len)
    }

    /// Does `change` to the slots while no vCPU is in the guest.
    fn with_guest_out<T>(&self, change: impl FnOnce(&mut Slots) -> T) -> T {
        let interrupt = || self.kicks.iter().for_each(|kick| kick.interrupt());
        self.gate.closed(interrupt, || change(&mut self.slots.lock()))
    }
}

fn is_msi_address(address: u64) -> bool {
    address >> 20 == 0xfee
}

impl Vm for KvmVm {
    fn map(&self, slot: &MemorySlot) -> Result<(), HypervisorError> {
        {
            let mut slots = self.slots.lock();
            match slots.change(slot) {
                Change::None => return Ok(()),
                Change::InPlace => return slots.map(&self.fd, slot),
                Change::Replace => {}
            }
        }
        self.with_guest_out(|slots| slots.map(&self.fd, slot))
    }

    fn unmap(&self, slot: u32) -> Result<(), HypervisorError> {
        self.slots.lock().unmap(&self.fd, slot)
    }

    fn take_dirty(&self, slot: u32) -> Result<Vec<u64>, HypervisorError> {
        let slots = self.slots.lock();
        let len = slots.logged_len_bytes(slot).and_then(|len| usize::try_from(len).ok()).ok_or_else(|| {
            let source = std::io::Error::new(std::io::ErrorKind::InvalidInput, "the slot has no dirty log");
            HypervisorError::Call { call: "KVM_GET_DIRTY_LOG", source }
        })?;
        self.fd.get_dirty_log(slot, len).map_err(call("KVM_GET_DIRTY_LOG"))
    }

    fn signal_msi(&self, msi: Msi) -> Result<(), HypervisorError> {
        if !is_msi_address(msi.address) {
            return Ok(());
        }
        let message = kvm_msi { address_lo: msi.address as u32, data: msi.data, ..kvm_msi::default() };
        match self.fd.signal_msi(message) {
            Ok(_) => Ok(()),
            // KVM's way to say that no local APIC has that address; the guest chose it.
            Err(error) if error.errno() == libc::EPERM => Ok(()),
            Err(error) => Err(call("KVM_SIGNAL_MSI")(error)),
        }
    }

    fn mirror_ioapic(&self, entries: &[Option<Msi>]) -> Result<(), HypervisorError> {
        let mut routes = self.routes.lock();
        if *routes == entries {
            return Ok(());
        }
        let table: Vec<_> = (0u32..)
            .zip(entries)
            .filter_map(|(gsi, entry)| {
                let msi = entry.filter(|msi| is_msi_address(msi.address))?;
                let mut route =
                    kvm_irq_routing_entry { gsi, type_: KVM_IRQ_ROUTING_MSI, ..kvm_irq_routing_entry::default() };
                route.u.msi = kvm_irq_routing_msi {
                    address_lo: msi.address as u32,
                    data: msi.data,
                    ..kvm_irq_routing_msi::default()
                };
                Some(route)
            })
            .collect();
        let table = KvmIrqRouting::from_entries(&table).map_err(|error| HypervisorError::Call {
            call: "KVM_SET_GSI_ROUTING",
            source: std::io::Error::other(format!("{error:?}")),
        })?;
        self.fd.set_gsi_routing(&table).map_err(call("KVM_SET_GSI_ROUTING"))?;
        *routes = entries.to_vec();
        Ok(())
    }

    fn coalesce_ports(&self, first: u16, count: u16) -> Result<bool, HypervisorError> {
        if !self.coalesced_ports {
            return Ok(false);
        }
        self.fd
            .register_coalesced_mmio(IoEventAddress::Pio(first.into()), count.into())
            .map_err(call("KVM_REGISTER_COALESCED_MMIO"))?;
        Ok(true)
    }

    fn uncoalesce_ports(&self, first: u16, count: u16) -> Result<(), HypervisorError> {
        if !self.coalesced_ports {
            return Ok(());
        }
        self.fd
            .unregister_coalesced_mmio(IoEventAddress::Pio(first.into()), count.into())
            .map_err(call("KVM_UNREGISTER_COALESCED_MMIO"))
    }

    fn coalesce_mmio(&self, gpa: u64, len_bytes: u64) -> Result<bool, HypervisorError> {
        let Ok(len) = u32::try_from(len_bytes) else { return Ok(false) };
        if self.ring.is_none() {
            return Ok(false);
        }
        self.fd.register_coalesced_mmio(IoEventAddress::Mmio(gpa), len).map_err(call("KVM_REGISTER_COALESCED_MMIO"))?;
        Ok(true)
    }

    fn drain_coalesced(&self, io: &dyn CpuIo) {
        if let Some(ring) = &self.ring {
            ring.drain(io);
        }
    }

    fn clock_rates(&self) -> ClockRates {
        self.rates
    }

    fn can_stop_tsc(&self) -> bool {
        self.tsc.can_stop()
    }
}
