//! Who is told about conditions the guest should not see.

use crate::BlockError;

/// Told when a disk can not go on without help from outside, so that the VM can be paused and the user asked.
///
/// Called on a worker thread with no lock held. It must return soon, must not call [`Disk::drain`](crate::Disk::drain)
/// or [`Disk::reopen`](crate::Disk::reopen), and is called once per request concerned. With an observer, the requests
/// concerned wait; without one they complete with the error.
pub trait DiskObserver: Send + Sync {
    /// The host has no room for a write. It waits for [`Disk::retry_parked`](crate::Disk::retry_parked); nothing was
    /// acknowledged.
    fn out_of_space(&self, error: &BlockError);

    /// A sync failed. Writes and flushes that were not acknowledged, and those that still come, wait for
    /// [`Disk::reopen`](crate::Disk::reopen).
    fn poisoned(&self, error: &BlockError);
}
