//! Counters of guest accesses to one device: the traps the product shows as a live picture.

use std::sync::atomic::{AtomicU64, Ordering};

/// Exits to user space that one device cost, by kind, and writes that KVM gathered without one.
#[derive(Debug, Default)]
pub struct AccessCounters {
    /// IN (a string instruction's run counts once).
    pub pio_read: AtomicU64,
    /// OUT.
    pub pio_write: AtomicU64,
    /// Loads.
    pub mmio_read: AtomicU64,
    /// Stores.
    pub mmio_write: AtomicU64,
    /// Writes taken from a coalescing ring: no exit.
    pub coalesced: AtomicU64,
}

impl AccessCounters {
    /// One more.
    pub(crate) fn count(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }
}
