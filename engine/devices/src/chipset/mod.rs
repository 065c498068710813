//! The chipset: what stands on the ISA side of the PC, and its interrupt controllers.

pub mod control;

pub use control::SystemControl;
