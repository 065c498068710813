//! The traits a device implements.

use std::sync::Arc;

use benchtop_block::Completed;
use benchtop_memory::SharedRegion;
use parking_lot::Mutex;

use crate::{RestoreError, SavedState};

/// A device as the board holds it.
pub type SharedDevice = Arc<Mutex<dyn Device>>;

/// Every device. Reset, save and restore are required: forgetting one is a compile error.
pub trait Device: Send {
    /// Back to the state at power-on. I/O in flight is disowned first: no completion of it may write guest memory or
    /// raise an interrupt afterwards. Media and host connections stay.
    fn reset(&mut self);

    /// The complete guest-visible state, in a versioned form of its own. Called with vCPUs stopped and disks drained.
    fn save(&self) -> SavedState;

    /// Takes a saved state, which is untrusted: every index and enum is validated.
    ///
    /// # Errors
    /// Naming the field at fault. The device is then to be reset.
    fn restore(&mut self, state: &SavedState) -> Result<(), RestoreError>;

    /// Port I/O, for a device that has any.
    fn port_io(&mut self) -> Option<&mut dyn PortIo> {
        None
    }

    /// Memory-mapped registers, for a device that has any.
    fn mmio(&mut self) -> Option<&mut dyn Mmio> {
        None
    }

    /// PCI configuration space, for a PCI function.
    fn pci(&mut self) -> Option<&mut dyn PciFunction> {
        None
    }

    /// Timed work, for a device that has any.
    fn poll(&mut self) -> Option<&mut dyn Poll> {
        None
    }

    /// A disk request of this device finished. Devices that submit none ignore it.
    fn complete(&mut self, completed: Completed) {
        drop(completed);
    }
}

/// Port accesses. `data.len()` is 1, 2 or 4, and the access may reach past the range the device was registered for:
/// bytes it does not know read as FFh.
pub trait PortIo {
    /// IN. `data` arrives filled with FFh.
    fn port_read(&mut self, port: u16, data: &mut [u8]);

    /// OUT.
    fn port_write(&mut self, port: u16, data: &[u8]);

    /// An OUT that the hypervisor gathered without an exit. Differs from [`port_write`](Self::port_write) only for a
    /// device that counts.
    fn port_write_coalesced(&mut self, port: u16, data: &[u8]) {
        self.port_write(port, data);
    }

    /// REP INS: `data` is whole elements of `width` bytes, all from the one port.
    fn port_read_string(&mut self, port: u16, width: usize, data: &mut [u8]) {
        for element in data.chunks_exact_mut(width) {
            self.port_read(port, element);
        }
    }

    /// REP OUTS.
    fn port_write_string(&mut self, port: u16, width: usize, data: &[u8]) {
        for element in data.chunks_exact(width) {
            self.port_write(port, element);
        }
    }
}

/// Register accesses by memory address. `data.len()` is 1 to 8.
pub trait Mmio {
    /// A load at `gpa` (the whole guest-physical address). `data` arrives filled with FFh.
    fn mmio_read(&mut self, gpa: u64, data: &mut [u8]);

    /// A store.
    fn mmio_write(&mut self, gpa: u64, data: &[u8]);
}

/// Timed work, driven by the virtual clock.
pub trait Poll {
    /// When [`poll`](Self::poll) next has something to do, in nanoseconds of the virtual clock. The board asks again
    /// after every access to the device.
    fn deadline_ns(&self) -> Option<u64>;

    /// The time has come (or passed: missed periods are coalesced).
    fn poll(&mut self, now_ns: u64);
}

/// One PCI function's configuration space (256 bytes, in dwords).
pub trait PciFunction {
    /// Reads the dword at `offset` (a multiple of 4, below 256).
    fn config_read(&mut self, offset: u8) -> u32;

    /// Writes the bytes of the dword at `offset` selected by `byte_mask` (each byte 00h or FFh).
    fn config_write(&mut self, offset: u8, value: u32, byte_mask: u32);

    /// Where its BARs are mapped now. A BAR whose decode is off, or that holds the all-ones sizing pattern, is absent.
    fn bars(&self) -> Vec<BarMapping>;

    /// Ports within its I/O BARs, where they are now, whose writes only latch a value: an accelerator may gather them
    /// without an exit.
    fn latched_ports(&self) -> Vec<PortRange> {
        Vec::new()
    }
}

/// What kind of space a BAR asks for.
#[derive(Clone, Debug)]
pub enum BarKind {
    /// I/O ports, served by [`PortIo`].
    Io,
    /// Registers, served by [`Mmio`].
    Mmio,
    /// Plain memory the guest accesses without an exit.
    Memory {
        /// The memory.
        region: SharedRegion,
        /// Whether the guest may only read it (an expansion ROM).
        read_only: bool,
    },
}

/// A BAR that decodes.
#[derive(Clone, Debug)]
pub struct BarMapping {
    /// BAR number; 6 is the expansion ROM.
    pub index: u8,
    /// Its kind.
    pub kind: BarKind,
    /// First port or address.
    pub base: u64,
    /// Length in bytes.
    pub len_bytes: u64,
}

/// A run of I/O ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortRange {
    /// First port.
    pub first: u16,
    /// How many; at least 1.
    pub count: u16,
}
