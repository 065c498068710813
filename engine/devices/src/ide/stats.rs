//! What each unit cost and did.

/// Counters of one unit since the machine was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UnitStats {
    /// Exits for IN on the channel's ports while the unit was selected; a string instruction's run counts once.
    pub pio_read: u64,
    /// Exits for OUT.
    pub pio_write: u64,
    /// Writes taken from the coalescing ring, without an exit of their own.
    pub coalesced: u64,
    /// Commands written to the unit's command register.
    pub commands: u64,
    /// Times the channel's interrupt line rose for it.
    pub interrupts: u64,
}
