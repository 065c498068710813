//! When something has to be done about what writes leave behind, and how much writers wait for it.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use benchtop_block::BlockError;

use crate::core::Core;
use crate::state::{State, WORK_DUE};

/// Changed blocks that a checkpoint waits for. Random writes over a large disk change a page of the map each; the more
/// are gathered, the fewer pages are written more than once.
const CHANGED_MAX: usize = 256 << 10;
/// Blocks appended before a checkpoint: how much of the log an opening may have to read, 1 GiB.
const APPENDED_MAX: u64 = 256 << 10;
/// Blocks that died since the last checkpoint and are not worth another, 64 MiB.
const DEAD_MIN: u64 = 16 << 10;
/// Blocks that must have died for each page of the map that a checkpoint would write: it frees them, and may cost a
/// sixteenth of that at most. Where garbage may take less room than the live data, each free block costs compaction more
/// to win, about as the square.
const DEAD_PER_PAGE: u64 = 16;
/// Blocks that are not worth a head without a map, 16 MiB.
const REPLACED_MIN: u64 = 4 << 10;
/// The part of the garbage that is allowed which may wait to be freed.
const WAITING_PART: u64 = 32;

/// A writer's longest wait for compaction, and how often it looks.
const WAIT_MAX: Duration = Duration::from_millis(20);
const LOOKS_EVERY: Duration = Duration::from_millis(1);
/// Blocks that may be written at once when writers have to wait: what they leave unused is not kept for later.
const CREDIT_MAX: i64 = 1024;

/// What is due; from 1 on it should be done, from 2 on writers wait for it.
#[derive(Clone, Copy, Debug)]
pub struct Due {
    /// A checkpoint.
    pub checkpoint: f64,
    /// A head that frees what guests overwrote ([`amend`](Core::amend)).
    pub amendment: f64,
}

impl Due {
    /// The more urgent of the two.
    pub fn most(self) -> f64 {
        self.checkpoint.max(self.amendment)
    }
}

/// Holds writers back while they leave garbage faster than compaction clears it away.
#[derive(Debug, Default)]
pub struct Pressure {
    /// They are held back, and compaction takes all the time it can get.
    on: AtomicBool,
    /// Blocks that they may write.
    credit: AtomicI64,
    /// Blocks of garbage at which they are, if compaction is not done before.
    limit: AtomicU64,
}

impl Pressure {
    /// Whether nobody is held back, and compaction leaves the guest most of the time.
    pub fn is_none(&self) -> bool {
        !self.on.load(Ordering::Relaxed)
    }

    /// A round of compaction begins; it presses when there are so many blocks of garbage.
    pub fn begin(&self, limit: u64) {
        self.limit.store(limit, Ordering::Relaxed);
    }

    /// So many there are now.
    pub fn look(&self, garbage: u64) {
        if garbage > self.limit.load(Ordering::Relaxed) {
            self.on.store(true, Ordering::Relaxed);
        }
    }

    /// A round of compaction found so many blocks of garbage too many, and left so many. `few` are no reason to press.
    pub fn adapt(&self, before: u64, after: u64, few: u64) {
        let shrinks = after < before - before / 16;
        self.on.store(after > few && (!self.is_none() || !shrinks), Ordering::Relaxed);
    }

    /// Nobody is held back.
    pub fn end(&self) {
        self.on.store(false, Ordering::Relaxed);
    }

    /// Compaction won so many blocks; writers may have three of four.
    pub fn win(&self, blocks: u64) {
        let more = i64::try_from(blocks / 4 * 3).unwrap_or(CREDIT_MAX);
        let add = |credit: i64| Some(credit.saturating_add(more).min(CREDIT_MAX));
        let _always = self.credit.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
    }

    /// Waits until `blocks` may be written, or has waited long enough: a guest is slowed, never stopped.
    fn wait(&self, blocks: u64) {
        if self.is_none() || blocks == 0 {
            return;
        }
        self.credit.fetch_sub(i64::try_from(blocks).unwrap_or(CREDIT_MAX), Ordering::Relaxed);
        let started = Instant::now();
        while self.credit.load(Ordering::Relaxed) < 0 && !self.is_none() {
            if started.elapsed() >= WAIT_MAX {
                // What was waited for is paid.
                self.credit.store(0, Ordering::Relaxed);
                return;
            }
            std::thread::sleep(LOOKS_EVERY);
        }
    }
}

impl Core {
    /// Sees to it that not too much waits for the file or for a checkpoint, and that garbage does not grow beyond what
    /// is allowed. `blocks` are to be written.
    pub fn make_room(&self, blocks: u64) -> Result<(), BlockError> {
        self.pressure.wait(blocks);
        let (closed, due) = {
            let state = self.usable()?;
            (!state.log.closed.is_empty(), self.due(&state).most())
        };
        if closed {
            self.relieve()?;
        }
        if due >= 1.0 { self.want_checkpoint(due >= 2.0) } else { Ok(()) }
    }

    /// How much waits for a checkpoint or a head.
    pub fn due(&self, state: &State) -> Due {
        let live = self.store.space.read().usage().live_blocks;
        let percent = self.garbage_percent().min(100);
        let waiting = live / 100 * self.garbage_percent() / WAITING_PART;
        let changed = state.changes.overlay.len() as f64;
        // What died in the log itself, and its records.
        let dead = (state.changes.deaths.len() + state.records.len()) as f64;
        let pages = state.changes.pages.len() as u64;
        let worth = (pages * DEAD_PER_PAGE * percent * percent / 10_000).max(DEAD_MIN * percent / 100);
        let work = state.changes.work as f64 / WORK_DUE as f64;
        let checkpoint = (changed / CHANGED_MAX as f64)
            .max(state.appended as f64 / APPENDED_MAX as f64)
            .max(dead / waiting.max(worth).max(1) as f64)
            .max(work);
        // How many of those in the map died is not known; about as many as before.
        let replaced = state.changes.replaced.len() as f64 * state.replaced_percent as f64 / 100.0;
        Due { checkpoint, amendment: replaced / waiting.max(REPLACED_MIN) as f64 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writers_wait_while_garbage_grows_and_never_for_long() {
        let pressure = Pressure::default();
        pressure.wait(1000);
        pressure.adapt(1000, 900, 100);
        assert!(pressure.is_none(), "it shrinks");
        pressure.adapt(50, 60, 100);
        assert!(pressure.is_none(), "that little is no reason");
        pressure.adapt(1000, 1000, 100);
        assert!(!pressure.is_none());
        pressure.win(1000);
        let started = Instant::now();
        pressure.wait(750);
        assert!(started.elapsed() < WAIT_MAX, "compaction won them");
        pressure.wait(1);
        assert!(started.elapsed() >= WAIT_MAX, "and no more");
        pressure.adapt(1000, 900, 100);
        assert!(!pressure.is_none(), "there is still too much");
        pressure.adapt(110, 90, 100);
        assert!(pressure.is_none());
    }
}
