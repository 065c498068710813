//! Where the board's signals leave it: to the hypervisor's interrupts and memory slots, and to the bus.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use benchtop_devices::bus::Attachment;
use benchtop_devices::chipset::ioapic::{IoApic, IoApicOutput};
use benchtop_devices::chipset::pic::PicOutput;
use benchtop_devices::pci::host::BarMapper;
use benchtop_devices::{BarKind, BarMapping, Bus, PortRange, WireSink};
use benchtop_hypervisor::{Msi, VcpuHandle, Vm};

use parking_lot::Mutex;

use crate::address_space::AddressSpace;

/// INTR leads to the first vCPU.
#[derive(Default)]
pub struct Intr {
    boot_vcpu: OnceLock<Arc<dyn VcpuHandle>>,
}

impl Intr {
    /// Connects it. Called once, before anything runs.
    pub fn connect(&self, boot_vcpu: Arc<dyn VcpuHandle>) {
        // A second call would be a mistake of the board's; the first one holds.
        let _first = self.boot_vcpu.set(boot_vcpu);
    }
}

impl PicOutput for Intr {
    fn intr_changed(&self, level: bool) {
        // Only a rise needs the vCPU to look up: INTR is looked at again before every entry.
        if level && let Some(vcpu) = self.boot_vcpu.get() {
            vcpu.kick();
        }
    }
}

/// The I/O APIC's messages go to the local APICs.
pub struct Messages(pub Arc<dyn Vm>);

impl IoApicOutput for Messages {
    fn send_msi(&self, address: u64, data: u32) {
        if let Err(error) = self.0.signal_msi(Msi { address, data }) {
            tracing::debug!(%error, "an interrupt message was refused");
        }
    }

    fn mirror(&self, entries: &[Option<(u64, u32)>]) {
        let entries: Vec<_> = entries.iter().map(|entry| entry.map(|(address, data)| Msi { address, data })).collect();
        if let Err(error) = self.0.mirror_ioapic(&entries) {
            tracing::warn!(%error, "the I/O APIC's entries could not be mirrored");
        }
    }
}

/// Pins of the I/O APIC that no ISA line leads to.
pub struct IoApicPins(pub Arc<Mutex<IoApic>>);

impl WireSink for IoApicPins {
    fn set_level(&self, line: u32, level: bool) {
        if let Ok(pin) = u8::try_from(line) {
            self.0.lock().set_pin(pin, level);
        }
    }
}

/// BARs become ports and addresses on the bus, or memory slots.
pub struct Bars {
    bus: Arc<Bus>,
    space: Arc<AddressSpace>,
    vm: Arc<dyn Vm>,
    /// Ports whose writes are gathered, by device.
    gathered: Mutex<HashMap<usize, Vec<PortRange>>>,
}

impl Bars {
    /// Nothing mapped yet.
    pub fn new(bus: Arc<Bus>, space: Arc<AddressSpace>, vm: Arc<dyn Vm>) -> Self {
        Self { bus, space, vm, gathered: Mutex::default() }
    }

    /// Has writes gathered at the ports that latch, where the function has them to itself: a BAR that a guest put over
    /// somebody else's registers must not delay writes to those.
    fn gather(&self, function: &Arc<Attachment>) {
        let latched = function.device.lock().pci().map(|function| function.latched_ports()).unwrap_or_default();
        let wanted: Vec<_> = latched.into_iter().filter(|range| self.bus.holds_ports(function, *range)).collect();
        let mut all = self.gathered.lock();
        let current = all.entry(function.id()).or_default();
        if *current == wanted {
            return;
        }
        let undone = current.iter().try_for_each(|range| self.vm.uncoalesce_ports(range.first, range.count));
        let done = wanted.iter().try_for_each(|range| self.vm.coalesce_ports(range.first, range.count).map(drop));
        if let Err(error) = undone.and(done) {
            tracing::warn!(%error, device = function.name, "port writes can not be gathered");
        }
        *current = wanted;
    }

    fn ports(bar: &BarMapping) -> PortRange {
        PortRange {
            first: u16::try_from(bar.base).unwrap_or(u16::MAX),
            count: u16::try_from(bar.len_bytes).unwrap_or(u16::MAX),
        }
    }
}

impl BarMapper for Bars {
    fn map(&self, function: &Arc<Attachment>, bar: &BarMapping) {
        match bar.kind {
            BarKind::Io => {
                self.bus.map_ports(function, Self::ports(bar));
                self.gather(function);
            }
            BarKind::Mmio => self.bus.map_mmio(function, bar.base, bar.len_bytes),
            BarKind::Memory { .. } => {
                if let Err(error) = self.space.map_bar(function.id(), bar) {
                    tracing::warn!(%error, device = function.name, "a memory BAR could not be mapped");
                }
            }
        }
    }

    fn unmap(&self, function: &Arc<Attachment>, bar: &BarMapping) {
        match bar.kind {
            BarKind::Io => {
                self.bus.unmap_ports(function, Self::ports(bar));
                self.gather(function);
            }
            BarKind::Mmio => self.bus.unmap_mmio(function, bar.base, bar.len_bytes),
            BarKind::Memory { .. } => self.space.unmap_bar(function.id(), bar),
        }
    }

    fn config_written(&self, function: &Arc<Attachment>) {
        self.bus.with_device(function, |_device| ());
    }
}
