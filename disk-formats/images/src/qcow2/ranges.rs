//! Who works on which guest clusters, so that a host cluster is never freed or replaced under a transfer.

use parking_lot::{Condvar, Mutex};

/// One request on a run of guest clusters.
#[derive(Clone, Copy, Debug)]
struct Holder {
    ticket: u64,
    first: u64,
    last: u64,
    alone: bool,
}

/// Fair range locks: a request waits for every earlier one it conflicts with, and for no other. A thread holds one at
/// a time, so there are as many holders as workers, and a list is enough.
#[derive(Debug, Default)]
pub(super) struct Ranges {
    holders: Mutex<(u64, Vec<Holder>)>,
    left: Condvar,
}

/// Keeps the range until it is dropped.
#[derive(Debug)]
pub(super) struct Held<'a> {
    ranges: &'a Ranges,
    ticket: u64,
}

impl Ranges {
    /// Waits for clusters `first` to `last`: together with others that share them, or `alone`.
    pub fn hold(&self, first: u64, last: u64, alone: bool) -> Held<'_> {
        let mut holders = self.holders.lock();
        holders.0 += 1;
        let ticket = holders.0;
        holders.1.push(Holder { ticket, first, last, alone });
        let conflicts = |other: &Holder| {
            other.ticket < ticket && (other.alone || alone) && other.first <= last && first <= other.last
        };
        while holders.1.iter().any(conflicts) {
            self.left.wait(&mut holders);
        }
        drop(holders);
        Held { ranges: self, ticket }
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.ranges.holders.lock().1.retain(|holder| holder.ticket != self.ticket);
        self.ranges.left.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

    #[test]
    fn an_exclusive_holder_is_alone() {
        let ranges = Ranges::default();
        let shared = (ranges.hold(0, 4, false), ranges.hold(4, 8, false), ranges.hold(9, 9, true));
        drop(shared);
        let inside = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for thread in 0..4u64 {
                let (ranges, inside) = (&ranges, &inside);
                scope.spawn(move || {
                    for round in 0..500 {
                        let alone = (round + thread) % 3 == 0;
                        let held = ranges.hold(thread, 4, alone);
                        let before = inside.fetch_add(if alone { 1000 } else { 1 }, SeqCst);
                        assert!(before < 1000 && (!alone || before == 0), "{before}");
                        inside.fetch_sub(if alone { 1000 } else { 1 }, SeqCst);
                        drop(held);
                    }
                });
            }
        });
        assert!(ranges.holders.lock().1.is_empty());
    }
}
