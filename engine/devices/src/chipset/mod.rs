//! The chipset: what stands on the ISA side of the PC, and its interrupt controllers.

pub mod control;
pub mod debug_port;
pub mod dma;
pub mod hpet;
pub mod ioapic;
pub mod pic;
pub mod piix3;
pub mod pit;
pub mod pm;
pub mod router;
pub mod rtc;

pub use control::SystemControl;
