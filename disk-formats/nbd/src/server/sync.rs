//! One sync for all who wait for one.

use benchtop_block::{BlockError, BlockErrorKind, DiskBackend};
use parking_lot::{Condvar, Mutex};

/// Syncs of one disk. A caller that comes while one runs waits for the next, together with all others that came.
#[derive(Debug, Default)]
pub(super) struct SharedSync {
    state: Mutex<State>,
    ended: Condvar,
}

#[derive(Debug, Default)]
struct State {
    running: bool,
    /// How many were begun and how many ended; they have numbers from 1 on.
    begun: u64,
    ended: u64,
    /// The last that failed, and how.
    failed: Option<(u64, BlockErrorKind, String)>,
}

impl SharedSync {
    /// Makes durable what was completed on `disk` before the call.
    ///
    /// # Errors
    /// The sync's; each caller it was for gets it.
    pub fn sync(&self, disk: &dyn DiskBackend) -> Result<(), BlockError> {
        let mut state = self.state.lock();
        // A sync that runs already may have begun before the caller's writes ended.
        let ours = state.begun + 1;
        loop {
            if state.ended >= ours {
                return state.result(ours);
            }
            if state.running {
                self.ended.wait(&mut state);
                continue;
            }
            state.running = true;
            state.begun += 1;
            let number = state.begun;
            drop(state);
            let result = disk.flush();
            state = self.state.lock();
            state.running = false;
            state.ended = number;
            if let Err(error) = &result {
                state.failed = Some((number, error.kind(), error.to_string()));
            }
            self.ended.notify_all();
            return result;
        }
    }
}

impl State {
    /// How the sync `number` went. One that failed after it counts too: too strict is the safe side, for a poisoned
    /// disk fails all that comes anyway.
    fn result(&self, number: u64) -> Result<(), BlockError> {
        match &self.failed {
            Some((failed, kind, context)) if *failed >= number => Err(BlockError::new(*kind, context.clone())),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use benchtop_block::conformance::write;
    use benchtop_block::fault::{FaultDisk, FaultPlan};

    #[test]
    fn those_who_wait_share_the_next_sync_and_its_failure() {
        for fail_sync in [None, Some(1)] {
            let disk = FaultDisk::new(1 << 20);
            let shared = SharedSync::default();
            disk.set_plan(FaultPlan { hold_syncs: true, ..FaultPlan::default() });
            std::thread::scope(|scope| {
                let first = scope.spawn(|| shared.sync(&disk));
                disk.wait_until(|counts| counts.syncs_begun == 1);
                // Too late for the first sync.
                let others: Vec<_> = (0..8u64)
                    .map(|index| {
                        let (disk, shared) = (&disk, &shared);
                        scope.spawn(move || {
                            write(disk, index * 512, &[7; 512], &[], false).unwrap();
                            shared.sync(disk)
                        })
                    })
                    .collect();
                disk.wait_until(|counts| counts.writes_ended == 8);
                // A writer is between its write and the lock for a moment.
                std::thread::sleep(std::time::Duration::from_millis(50));
                disk.set_plan(FaultPlan { fail_sync, ..FaultPlan::default() });
                first.join().unwrap().unwrap();
                for other in others {
                    assert_eq!(other.join().unwrap().is_err(), fail_sync.is_some());
                }
            });
            assert_eq!(disk.counts().syncs_begun, 2);
            assert_eq!(disk.durable(0, 4096) == [7; 4096], fail_sync.is_none());
        }
    }
}
