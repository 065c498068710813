//! The parts of an open disk, and the locks between them.
//!
//! Locks are taken in this order: `keeping`, the stripes, `checkpoints`, `readers`, `gate`, `state`, the segments;
//! `synced`, then `syncing`, before `state`.
//! Nothing is read or written under `state` or the segments.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use benchtop_block::{BlockError, BlockErrorKind};
use parking_lot::{Condvar, Mutex, MutexGuard, RwLock};

use crate::checkpoint::Checkpoints;
use crate::due::Pressure;
use crate::keeper::Wanted;
use crate::pages::Store;
use crate::state::State;

/// Locks for writes to parts of blocks; a run of blocks shares one.
const STRIPES: usize = 64;
/// Blocks of such a run.
pub const STRIPE_BLOCKS: u64 = 256;

/// An open disk.
#[derive(Debug)]
pub struct Core {
    pub store: Store,
    pub state: Mutex<State>,
    /// A block that a batch waited for is there, or a batch is in the file.
    pub moved: Condvar,
    /// A batch is full and its data there.
    pub full: Condvar,
    /// Room was given to the file up to here, in bytes, perhaps behind its last place.
    pub reserved_until: AtomicU64,
    /// Threads that write full batches.
    pub pens: AtomicUsize,
    /// Large reads under way.
    pub large_reads: AtomicU64,
    /// The newest record known to be durable. Who syncs holds it.
    pub synced: Mutex<u64>,
    /// Held while the file is synced: see [`sync`](Self::sync).
    pub syncing: Mutex<()>,
    /// Held shared while a change is made, alone while changes are taken for a checkpoint.
    pub gate: RwLock<()>,
    /// Held shared while blocks are read, alone for a moment before old ones may be overwritten.
    pub readers: RwLock<()>,
    /// Held while the disk is looked after, and while nothing may be: before all others.
    pub keeping: Mutex<()>,
    pub checkpoints: Mutex<Checkpoints>,
    pub stripes: Vec<RwLock<()>>,
    pub wanted: Wanted,
    /// What compaction has writers wait.
    pub pressure: Pressure,
    /// Percent of the live data that garbage may take before segments are compacted.
    pub garbage_percent: AtomicU64,
    /// Size of the guest's disk. Changed under the gate, so that a checkpoint knows which size it is of.
    pub size_bytes: AtomicU64,
    pub read_only: bool,
}

fn poisoned() -> BlockError {
    BlockError::new(BlockErrorKind::Poisoned, "an earlier sync of this disk failed")
}

impl Core {
    pub fn stripes() -> Vec<RwLock<()>> {
        (0..STRIPES).map(|_| RwLock::new(())).collect()
    }

    /// The lock of the run that the block is in.
    pub fn stripe(&self, lba: u64) -> &RwLock<()> {
        &self.stripes[(lba / STRIPE_BLOCKS) as usize % STRIPES]
    }

    /// The state, unless nothing may be written until the disk is opened anew.
    pub fn usable(&self) -> Result<MutexGuard<'_, State>, BlockError> {
        let state = self.state.lock();
        if state.poisoned { Err(poisoned()) } else { Ok(state) }
    }

    /// Makes all that was written before durable, or says that it may not be: nothing is written after that until the
    /// disk is opened anew.
    ///
    /// One at a time: the host tells of a write that failed once, to whichever sync comes first (Linux: once for each
    /// open file). Of two at once the other would succeed, and promise what is lost.
    ///
    /// # Errors
    /// `Poisoned`, now or because an earlier one failed.
    pub fn sync(&self, what: &str) -> Result<(), BlockError> {
        let _one = self.syncing.lock();
        drop(self.usable()?);
        self.store.medium.sync().map_err(|error| {
            self.state.lock().poisoned = true;
            BlockError::new(BlockErrorKind::Poisoned, format!("{what} failed: {error}"))
        })
    }

    pub fn garbage_percent(&self) -> u64 {
        self.garbage_percent.load(Ordering::Relaxed)
    }
}
