//! What a guest can ask of the whole machine through a register.

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
