//! The board as one running vCPU sees it: accesses go to the bus, and are counted apart by what they are for.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use benchtop_devices::Bus;
use benchtop_devices::chipset::router::InterruptRouter;
use benchtop_devices::input::backdoor::{BACKDOOR_PORT, Backdoor, BackdoorCall};
use benchtop_hypervisor::{BackdoorRegisters, CpuIo};
use parking_lot::Mutex;

use crate::address_space::AddressSpace;

/// One vCPU's way to the board.
pub struct BoardIo {
    bus: Arc<Bus>,
    space: Arc<AddressSpace>,
    router: Arc<InterruptRouter>,
    backdoor: Arc<Mutex<Backdoor>>,
    /// Exits that went to PIC or PIT.
    interrupt_ports: AtomicU64,
    /// Exits that went to the IOAPIC.
    interrupt_addresses: AtomicU64,
}

impl BoardIo {
    /// A new way in.
    pub fn new(
        bus: Arc<Bus>,
        space: Arc<AddressSpace>,
        router: Arc<InterruptRouter>,
        backdoor: Arc<Mutex<Backdoor>>,
    ) -> Self {
        Self {
            bus,
            space,
            router,
            backdoor,
            interrupt_ports: AtomicU64::new(0),
            interrupt_addresses: AtomicU64::new(0),
        }
    }

    /// Exits so far that went to PIC or PIT by port, and to the IOAPIC by address.
    pub fn interrupt_controller_exits(&self) -> (u64, u64) {
        (self.interrupt_ports.load(Ordering::Relaxed), self.interrupt_addresses.load(Ordering::Relaxed))
    }

    fn note_port(&self, port: u16) {
        if matches!(port, 0x20 | 0x21 | 0xa0 | 0xa1 | 0x4d0 | 0x4d1 | 0x40..=0x43) {
            self.interrupt_ports.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn note_address(&self, gpa: u64) {
        if (0xfec0_0000..0xfec0_1000).contains(&gpa) {
            self.interrupt_addresses.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl CpuIo for BoardIo {
    fn port_read(&self, port: u16, width: usize, data: &mut [u8]) {
        self.note_port(port);
        self.bus.port_read(port, width, data);
    }

    fn port_write(&self, port: u16, width: usize, data: &[u8]) {
        self.note_port(port);
        self.bus.port_write(port, width, data);
    }

    fn mmio_read(&self, gpa: u64, data: &mut [u8]) {
        self.note_address(gpa);
        if !self.space.read_unmapped(gpa, data) {
            self.bus.mmio_read(gpa, data);
        }
    }

    fn mmio_write(&self, gpa: u64, data: &[u8]) {
        self.note_address(gpa);
        if !self.space.write_unmapped(gpa, data) {
            self.bus.mmio_write(gpa, data);
        }
    }

    fn coalesced_port_write(&self, port: u16, data: &[u8]) {
        self.bus.coalesced_port_write(port, data);
    }

    fn coalesced_mmio_write(&self, gpa: u64, data: &[u8]) {
        self.bus.coalesced_mmio_write(gpa, data);
    }

    fn backdoor_port(&self) -> Option<u16> {
        Some(BACKDOOR_PORT)
    }

    fn backdoor(&self, registers: &mut BackdoorRegisters) {
        let BackdoorRegisters { eax, ebx, ecx, edx, esi, edi } = *registers;
        let mut call = BackdoorCall { eax, ebx, ecx, edx, esi, edi };
        self.backdoor.lock().call(&mut call);
        let BackdoorCall { eax, ebx, ecx, edx, esi, edi } = call;
        *registers = BackdoorRegisters { eax, ebx, ecx, edx, esi, edi };
    }

    fn pic_pending(&self) -> bool {
        self.router.pic_pending()
    }

    fn pic_acknowledge(&self) -> Option<u8> {
        self.router.pic_acknowledge()
    }

    fn ioapic_eoi(&self, vector: u8) {
        self.router.ioapic_eoi(vector);
    }
}
