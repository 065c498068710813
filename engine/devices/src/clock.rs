//! The one clock all guest-visible time comes from. It stops while the VM is paused and is saved with it.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;

/// Nanoseconds since the VM was first powered on, not counting pauses. Cheap to clone; clones are the same clock.
#[derive(Clone, Debug)]
pub struct VirtualClock {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug)]
struct Inner {
    /// Time gathered up to `running_since`.
    base_ns: u64,
    running_since: Option<Instant>,
}

impl Default for VirtualClock {
    fn default() -> Self {
        Self::stopped()
    }
}

impl VirtualClock {
    /// A clock at 0 that stands still until [`resume`](Self::resume).
    pub fn stopped() -> Self {
        Self { inner: Arc::new(Mutex::new(Inner { base_ns: 0, running_since: None })) }
    }

    /// Virtual nanoseconds now.
    pub fn now_ns(&self) -> u64 {
        let inner = self.inner.lock();
        inner.base_ns.saturating_add(inner.running_since.map_or(0, elapsed_ns))
    }

    /// Lets time run on.
    pub fn resume(&self) {
        self.inner.lock().running_since.get_or_insert_with(Instant::now);
    }

    /// Stops time.
    pub fn pause(&self) {
        let mut inner = self.inner.lock();
        if let Some(since) = inner.running_since.take() {
            inner.base_ns = inner.base_ns.saturating_add(elapsed_ns(since));
        }
    }

    /// Sets the time, as a restored state or a test wants it.
    pub fn set_ns(&self, now_ns: u64) {
        let mut inner = self.inner.lock();
        inner.base_ns = now_ns;
        if inner.running_since.is_some() {
            inner.running_since = Some(Instant::now());
        }
    }

    /// Moves a stopped clock on: how tests pass time.
    pub fn advance(&self, by: Duration) {
        let mut inner = self.inner.lock();
        inner.base_ns = inner.base_ns.saturating_add(u64::try_from(by.as_nanos()).unwrap_or(u64::MAX));
    }

    /// The host's wall clock, as nanoseconds since 1970: where the RTC starts from.
    pub fn wall_clock_ns() -> u64 {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since_epoch.as_nanos()).unwrap_or(u64::MAX)
    }
}

fn elapsed_ns(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_nanos()).unwrap_or(u64::MAX)
}
