//! The devices of the PC, and the bus that carries a guest's accesses to them.
//!
//! ```text
//!   vCPU exit ─▶ Bus ─▶ Device (PortIo · Mmio · PciFunction · Poll) ─ Wire ─▶ PIRQ ─▶ PIC + IOAPIC ─▶ vCPU
//!                          │  GuestMemory (DMA)
//!                          └─ Disk (submit / complete)
//! ```
//!
//! A device is a state machine behind `&mut self`: it knows no threads, no host files and no hypervisor. It is given
//! [`Wire`]s, guest memory and disks, and all three have test doubles. The guest is hostile: whatever it writes, a
//! device neither panics nor loops without bound, and every byte it hands out was written by us.
//!
//! Lock order: host bridge → PCI function / device → interrupt controllers → vCPU kick. A device never calls the bus.

pub mod access;
pub mod bus;
pub mod chipset;
pub mod clock;
pub mod conformance;
pub mod device;
pub mod firmware;
pub mod ide;
pub mod input;
pub mod pci;
pub mod scsi;
pub mod serial;
pub mod state;
pub mod video;
pub mod wire;

pub use access::AccessCounters;
pub use bus::Bus;
pub use clock::VirtualClock;
pub use device::{BarKind, BarMapping, Device, Mmio, PciFunction, Poll, PortIo, PortRange, SharedDevice};
pub use state::{RestoreError, SavedState};
pub use wire::{Wire, WireProbe, WireSink};
