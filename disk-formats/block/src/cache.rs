//! When a write completes, and what a power cut now would cost.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

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
    /// Bytes acknowledged to the guest that a power cut now could lose. An upper bound: a sector written twice counts
    /// twice, and the host may have written some back on its own.
    pub bytes_at_risk: u64,
}

/// The user's mode does not allow the guest to enable its write cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the user's cache mode does not allow a write cache")]
pub struct WriteCacheRefused;

/// The cache policy of one disk.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CachePolicy {
    pub user: CacheMode,
    /// The guest's own switch; it only matters under a user's `Writeback`.
    pub guest_write_cache: bool,
}

impl CachePolicy {
    pub fn effective(self) -> CacheMode {
        match self.user {
            CacheMode::Writeback if !self.guest_write_cache => CacheMode::Writethrough,
            mode => mode,
        }
    }
}

/// Changes the guest believes done that are not known to be durable.
#[derive(Clone, Copy, Debug, Default)]
struct Epoch {
    bytes: u64,
    /// When the first of them was acknowledged.
    since: Option<Instant>,
    /// There are changes, perhaps of no bytes (discards).
    changed: bool,
}

impl Epoch {
    fn absorb(&mut self, later: Self) {
        self.bytes = self.bytes.saturating_add(later.bytes);
        self.since = self.since.or(later.since);
        self.changed |= later.changed;
    }
}

/// Accounts for acknowledged changes in two epochs: those a running sync covers, and those made since it started.
#[derive(Debug)]
pub(crate) struct RiskLedger {
    syncing: Epoch,
    current: Epoch,
}

impl RiskLedger {
    /// A ledger that knows nothing of what happened to the image before it was opened: an earlier process may have
    /// left writes in the host's cache, so the first flush is a real one.
    pub fn new() -> Self {
        Self { syncing: Epoch::default(), current: Epoch { changed: true, ..Epoch::default() } }
    }

    /// A change was made on the host and is about to be acknowledged.
    pub fn acknowledged(&mut self, bytes: u64, now: Instant) {
        self.current.absorb(Epoch { bytes, since: (bytes > 0).then_some(now), changed: true });
    }

    /// A sync starts: it covers everything so far.
    pub fn sync_started(&mut self) {
        let current = std::mem::take(&mut self.current);
        self.syncing.absorb(current);
    }

    /// The running sync ended well.
    pub fn sync_succeeded(&mut self) {
        self.syncing = Epoch::default();
    }

    /// The running sync failed: all it covered is at risk as before.
    pub fn sync_failed(&mut self) {
        let current = std::mem::replace(&mut self.current, std::mem::take(&mut self.syncing));
        self.current.absorb(current);
    }

    /// Nothing is known to be undone any more: the image was reopened.
    pub fn forget(&mut self) {
        *self = Self { syncing: Epoch::default(), current: Epoch::default() };
    }

    /// Whether a sync would have nothing to do for the guest.
    pub fn is_clean(&self) -> bool {
        !self.syncing.changed && !self.current.changed
    }

    pub fn bytes(&self) -> u64 {
        self.syncing.bytes.saturating_add(self.current.bytes)
    }

    /// How long ago everything acknowledged was last durable; zero while it is.
    pub fn since_durable(&self, now: Instant) -> Duration {
        self.syncing.since.or(self.current.since).map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sync_covers_only_what_was_acknowledged_before_it_started() {
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let mut ledger = RiskLedger::new();
        assert!(!ledger.is_clean());
        ledger.acknowledged(10, start);
        ledger.sync_started();
        ledger.acknowledged(5, start + second);
        assert_eq!(ledger.bytes(), 15);
        assert_eq!(ledger.since_durable(start + second * 3), second * 3);
        ledger.sync_succeeded();
        assert_eq!(ledger.bytes(), 5);
        assert_eq!(ledger.since_durable(start + second * 3), second * 2);
        ledger.sync_started();
        ledger.acknowledged(1, start + second * 2);
        ledger.sync_failed();
        assert_eq!(ledger.bytes(), 6);
        assert_eq!(ledger.since_durable(start + second * 3), second * 2);
        ledger.sync_started();
        ledger.sync_succeeded();
        assert!(ledger.is_clean());
        assert_eq!((ledger.bytes(), ledger.since_durable(start + second * 9)), (0, Duration::ZERO));
    }

    #[test]
    fn the_users_mode_is_the_ceiling() {
        for (user, guest, effective) in [
            (CacheMode::Writethrough, true, CacheMode::Writethrough),
            (CacheMode::Writeback, true, CacheMode::Writeback),
            (CacheMode::Writeback, false, CacheMode::Writethrough),
            (CacheMode::Unsafe, false, CacheMode::Unsafe),
        ] {
            assert_eq!(CachePolicy { user, guest_write_cache: guest }.effective(), effective);
        }
    }
}
