//! How long requests take, to tell whether one is worth another thread.
//!
//! Waking a thread costs some microseconds. A read that the host's page cache fills costs one, so a queue of those is
//! served fastest by the thread that read them, one after the other, with one reply to several. A sync takes
//! milliseconds, and what came behind it should not wait.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use super::execute::{Task, Work};

/// What is expected to take less is carried out at once by the thread that read it.
const QUICK: Duration = Duration::from_micros(30);
/// Kinds of work × sizes.
const CLASSES: usize = 4 * 3;

/// Moving averages of what requests of a connection took, in nanoseconds.
#[derive(Debug, Default)]
pub(super) struct Pace {
    averages: [AtomicU64; CLASSES],
}

/// What requests have in common that take about as long as each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Class(usize);

impl Class {
    pub fn of(task: &Task) -> Self {
        let kind = match task.work {
            _ if task.durable => 2,
            Work::Read { .. } => 0,
            Work::Write => 1,
            Work::Flush => 2,
            Work::Trim | Work::Zeroes { .. } | Work::Status { .. } => 3,
        };
        let size = match task.len_bytes {
            0..=16_384 => 0,
            16_385..=131_072 => 1,
            _ => 2,
        };
        Self(kind * 3 + size)
    }
}

impl Pace {
    /// Whether the next of its class should be done before one could have woken another thread.
    pub fn is_quick(&self, class: Class) -> bool {
        self.averages.get(class.0).is_some_and(|average| average.load(Relaxed) < nanos(QUICK))
    }

    /// One of `class` took so long.
    pub fn took(&self, class: Class, time: Duration) {
        let Some(average) = self.averages.get(class.0) else { return };
        let before = average.load(Relaxed);
        // A thread that was not scheduled for a while says nothing about the disk: one such figure must not count for
        // much, but three slow requests in a row do.
        let figure = nanos(time).min(nanos(QUICK).saturating_add(before).saturating_mul(4));
        // Threads may overwrite each other's average; it is an estimate.
        average.store(before - before / 8 + figure / 8, Relaxed);
    }
}

/// Whether a request that was carried out by the thread that read it has kept others waiting for long.
pub(super) fn was_long(time: Duration) -> bool {
    time >= QUICK
}

fn nanos(time: Duration) -> u64 {
    // Bounded, so that one hang does not stay in the average for ever.
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX).min(100_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_average_follows_and_forgets() {
        let pace = Pace::default();
        let class = Class::of(&Task { work: Work::Write, durable: false, offset_bytes: 0, len_bytes: 4096 });
        let other = Class::of(&Task { work: Work::Write, durable: true, offset_bytes: 0, len_bytes: 4096 });
        assert!(pace.is_quick(class));
        pace.took(class, Duration::from_millis(5));
        assert!(pace.is_quick(class));
        (0..2).for_each(|_| pace.took(class, Duration::from_millis(5)));
        assert!(!pace.is_quick(class) && pace.is_quick(other));
        for _ in 0..40 {
            pace.took(class, Duration::from_micros(2));
        }
        assert!(pace.is_quick(class));
        (0..1000).for_each(|_| pace.took(class, Duration::MAX));
        for _ in 0..100 {
            pace.took(class, Duration::from_micros(2));
        }
        assert!(pace.is_quick(class));
    }
}
