//! What a guest can ask of the whole machine through a register.

#[cfg(test)]
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};

/// The board's side of requests that reach past one device.
///
/// Every method is called with the asking device locked. It only notes the request, for the machine's own thread to
/// act on: it neither waits nor touches a device.
pub trait SystemControl: Send + Sync {
    /// Reset the machine.
    fn request_reset(&self);

    /// Switch the machine off.
    fn request_power_off(&self);

    /// The guest set the A20 gate. The address line itself is always on; the bit is for those who report it, so that
    /// port 92h and the keyboard controller agree.
    fn set_a20(&self, enabled: bool);

    /// The A20 bit as last set; on after a reset.
    fn a20(&self) -> bool;

    /// The guest wrote `command` to the APM command port (B2h): with no SMM it is the board that switches the PM
    /// function between ACPI (F1h) and legacy (F0h) mode.
    fn apm_command(&self, command: u8);
}

/// A board for tests that writes down what it was asked. Its A20 bit starts off, so that a test sees it set.
#[cfg(test)]
#[derive(Default)]
pub(crate) struct SystemProbe {
    pub resets: AtomicU32,
    pub power_offs: AtomicU32,
    pub apm: AtomicU8,
    a20: AtomicBool,
}

#[cfg(test)]
impl SystemControl for SystemProbe {
    fn request_reset(&self) {
        self.resets.fetch_add(1, Ordering::SeqCst);
    }

    fn request_power_off(&self) {
        self.power_offs.fetch_add(1, Ordering::SeqCst);
    }

    fn set_a20(&self, enabled: bool) {
        self.a20.store(enabled, Ordering::SeqCst);
    }

    fn a20(&self) -> bool {
        self.a20.load(Ordering::SeqCst)
    }

    fn apm_command(&self, command: u8) {
        self.apm.store(command, Ordering::SeqCst);
    }
}
