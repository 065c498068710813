//! A disk with a volatile and a durable image that fails on demand.
//!
//! Writes reach the volatile image; a sync copies what ended before it to the durable one. A failed sync loses what it
//! was to make durable, as a host's page cache does that marks the pages clean all the same.

use benchtop_memory::VolatileSlice;
use parking_lot::{Condvar, Mutex};

use crate::conformance::Sequence;
use crate::{BlockError, BlockErrorKind, DiscardBehavior, DiskBackend, DiskInfo, MemoryDisk, SECTOR_BYTES, pieces};

/// What goes wrong. Countdowns count calls from the moment the plan is set: 0 is the next one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FaultPlan {
    /// The write that fails with `Io`, and only that.
    pub fail_write: Option<u64>,
    /// The sync that fails, and only that.
    pub fail_sync: Option<u64>,
    /// From this write on there is no space, until the plan changes.
    pub no_space_after: Option<u64>,
    /// A flush finds no space for what it must write before it can sync, until the plan changes.
    pub no_space_at_flush: bool,
    /// Reopening fails.
    pub fail_reopen: bool,
    /// Writes wait at their begin until the plan changes.
    pub hold_writes: bool,
    /// Syncs wait at their begin, after what they cover is fixed, until the plan changes.
    pub hold_syncs: bool,
    /// Every operation takes this long more: for measurements, not for tests.
    pub delay: std::time::Duration,
}

/// How often things happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FaultCounts {
    /// Writes that were begun, failed ones too.
    pub writes_begun: u64,
    /// Writes that ended.
    pub writes_ended: u64,
    /// Syncs that were begun.
    pub syncs_begun: u64,
    /// Syncs that ended.
    pub syncs_ended: u64,
}

/// A sector whose newest content is not durable.
#[derive(Debug)]
struct Change {
    offset_bytes: u64,
    bytes: Vec<u8>,
}

fn changes(offset_bytes: u64, bytes: &[u8]) -> impl Iterator<Item = Change> {
    let offsets = (offset_bytes..).step_by(SECTOR_BYTES as usize);
    offsets
        .zip(bytes.chunks(SECTOR_BYTES as usize))
        .map(|(offset_bytes, bytes)| Change { offset_bytes, bytes: bytes.to_vec() })
}

#[derive(Debug, Default)]
struct State {
    plan: FaultPlan,
    counts: FaultCounts,
    /// In the order they were made.
    pending: Vec<Change>,
    /// Of those, what a running sync covers.
    syncing: Vec<Change>,
    poisoned: bool,
}

/// The disk. Everything it does wrong it does because its [`FaultPlan`] says so.
#[derive(Debug)]
pub struct FaultDisk {
    volatile: MemoryDisk,
    durable: MemoryDisk,
    state: Mutex<State>,
    changed: Condvar,
}

fn copy_of(slices: &[VolatileSlice<'_>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for slice in slices {
        let start = bytes.len();
        bytes.resize(start + slice.len(), 0);
        slice.copy_to(&mut bytes[start..]);
    }
    bytes
}

/// Counts down; true at the call that was meant.
fn due(countdown: &mut Option<u64>) -> bool {
    match countdown {
        Some(0) => {
            *countdown = None;
            true
        }
        Some(left) => {
            *left -= 1;
            false
        }
        None => false,
    }
}

impl FaultDisk {
    /// An empty disk without faults.
    pub fn new(size_bytes: u64) -> Self {
        Self {
            volatile: MemoryDisk::new(size_bytes),
            durable: MemoryDisk::new(size_bytes),
            state: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    /// Replaces the plan; what was held goes on if the new plan does not hold it.
    pub fn set_plan(&self, plan: FaultPlan) {
        self.state.lock().plan = plan;
        self.changed.notify_all();
    }

    /// How often things happened so far.
    pub fn counts(&self) -> FaultCounts {
        self.state.lock().counts
    }

    /// Waits until `reached` holds for the counts.
    pub fn wait_until(&self, reached: impl Fn(&FaultCounts) -> bool) {
        let mut state = self.state.lock();
        while !reached(&state.counts) {
            self.changed.wait(&mut state);
        }
    }

    /// What a power cut now would leave of these whole sectors at the least: only what was made durable.
    pub fn durable(&self, offset_bytes: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        // Out of range reads as zeroes: this is an oracle, not a device.
        if self.durable.read_at(offset_bytes, &[VolatileSlice::from(&mut bytes[..])]).is_err() {
            bytes.fill(0);
        }
        bytes
    }

    /// A disk as a power cut now may leave it: what is durable, and of the rest any sectors, in no order, by `seed`.
    ///
    /// # Errors
    /// None that the ranges of accepted writes could cause.
    pub fn after_power_cut(&self, seed: u64) -> Result<Self, BlockError> {
        let mut sequence = Sequence::new(seed);
        let state = self.state.lock();
        let after = Self::new(self.durable.info().size_bytes);
        let mut sector = [0; SECTOR_BYTES as usize];
        let put = |offset_bytes: u64, bytes: &mut [u8]| {
            after.volatile.write_at(offset_bytes, &[VolatileSlice::from(&mut *bytes)], false)?;
            after.durable.write_at(offset_bytes, &[VolatileSlice::from(bytes)], false)
        };
        for index in 0..self.durable.info().size_bytes / SECTOR_BYTES {
            self.durable.read_at(index * SECTOR_BYTES, &[VolatileSlice::from(&mut sector[..])])?;
            put(index * SECTOR_BYTES, &mut sector)?;
        }
        for change in state.syncing.iter().chain(&state.pending) {
            if sequence.below(2) == 0 {
                put(change.offset_bytes, &mut change.bytes.clone())?;
            }
        }
        drop(state);
        Ok(after)
    }

    fn apply_durably(&self, changes: impl Iterator<Item = Change>) -> Result<(), BlockError> {
        for mut change in changes {
            self.durable.write_at(change.offset_bytes, &[VolatileSlice::from(&mut change.bytes[..])], false)?;
        }
        Ok(())
    }

    fn poisoned(&self) -> Result<(), BlockError> {
        if self.state.lock().poisoned {
            return Err(BlockError::new(BlockErrorKind::Poisoned, "an earlier sync of this disk failed"));
        }
        Ok(())
    }

    fn begin_write(&self) -> Result<(), BlockError> {
        let mut state = self.state.lock();
        state.counts.writes_begun += 1;
        self.changed.notify_all();
        while state.plan.hold_writes {
            self.changed.wait(&mut state);
        }
        let delay = state.plan.delay;
        let result = if due(&mut state.plan.fail_write) {
            Err(BlockError::new(BlockErrorKind::Io, "the plan says that this write fails"))
        } else {
            match &mut state.plan.no_space_after {
                Some(0) => Err(BlockError::new(BlockErrorKind::NoSpace, "the plan says that there is no space")),
                Some(left) => {
                    *left -= 1;
                    Ok(())
                }
                None => Ok(()),
            }
        };
        drop(state);
        std::thread::sleep(delay);
        result
    }

    fn end_write(&self, changes: impl Iterator<Item = Change>) {
        let mut state = self.state.lock();
        state.counts.writes_ended += 1;
        state.pending.extend(changes);
        self.changed.notify_all();
    }

    /// A forced write is durable, and what was written there before can not come back.
    fn end_forced_write(&self, offset_bytes: u64, bytes: &[u8]) -> Result<(), BlockError> {
        let mut state = self.state.lock();
        state.counts.writes_ended += 1;
        self.changed.notify_all();
        let range = offset_bytes..offset_bytes + bytes.len() as u64;
        state.pending.retain(|change| !range.contains(&change.offset_bytes));
        state.syncing.retain(|change| !range.contains(&change.offset_bytes));
        self.apply_durably(changes(offset_bytes, bytes))
    }
}

impl DiskBackend for FaultDisk {
    fn info(&self) -> DiskInfo {
        DiskInfo { discard: DiscardBehavior::Zeroes, format: "fault", ..self.volatile.info() }
    }

    fn read_at(&self, offset_bytes: u64, into: &[VolatileSlice<'_>]) -> Result<(), BlockError> {
        self.volatile.read_at(offset_bytes, into)
    }

    fn write_at(&self, offset_bytes: u64, from: &[VolatileSlice<'_>], fua: bool) -> Result<(), BlockError> {
        self.poisoned()?;
        self.info().check_write(offset_bytes, pieces::len_bytes(from))?;
        let begun = self.begin_write();
        if begun.is_err() {
            self.end_write(std::iter::empty());
            return begun;
        }
        let mut bytes = copy_of(from);
        self.volatile.write_at(offset_bytes, &[VolatileSlice::from(&mut bytes[..])], false)?;
        if fua {
            return self.end_forced_write(offset_bytes, &bytes);
        }
        self.end_write(changes(offset_bytes, &bytes));
        Ok(())
    }

    fn flush(&self) -> Result<(), BlockError> {
        self.poisoned()?;
        let mut state = self.state.lock();
        if state.plan.no_space_at_flush {
            return Err(BlockError::new(BlockErrorKind::NoSpace, "the plan says that there is no space"));
        }
        state.counts.syncs_begun += 1;
        let mut covered = std::mem::take(&mut state.pending);
        state.syncing.append(&mut covered);
        self.changed.notify_all();
        while state.plan.hold_syncs {
            self.changed.wait(&mut state);
        }
        let delay = state.plan.delay;
        let fails = due(&mut state.plan.fail_sync);
        drop(state);
        std::thread::sleep(delay);
        let mut state = self.state.lock();
        state.poisoned |= fails;
        state.counts.syncs_ended += 1;
        self.changed.notify_all();
        let covered = std::mem::take(&mut state.syncing);
        if fails {
            return Err(BlockError::new(BlockErrorKind::Io, "the plan says that this sync fails"));
        }
        self.apply_durably(covered.into_iter())
    }

    fn discard(&self, offset_bytes: u64, len_bytes: u64) -> Result<(), BlockError> {
        self.poisoned()?;
        self.info().check_write(offset_bytes, len_bytes)?;
        self.volatile.discard(offset_bytes, len_bytes)?;
        let len = usize::try_from(len_bytes).unwrap_or(usize::MAX);
        self.state.lock().pending.extend(changes(offset_bytes, &vec![0; len]));
        Ok(())
    }

    /// Forgets all that is not durable, as a host does that drops its clean pages.
    fn reopen(&self) -> Result<(), BlockError> {
        let mut state = self.state.lock();
        if state.plan.fail_reopen {
            return Err(BlockError::new(BlockErrorKind::Io, "the plan says that reopening fails"));
        }
        state.pending.clear();
        let mut chunk = vec![0; 65536];
        let size = self.durable.info().size_bytes;
        for offset in (0..size).step_by(chunk.len()) {
            let len = chunk.len().min(usize::try_from(size - offset).unwrap_or(usize::MAX));
            self.durable.read_at(offset, &[VolatileSlice::from(&mut chunk[..len])])?;
            self.volatile.write_at(offset, &[VolatileSlice::from(&mut chunk[..len])], false)?;
        }
        state.poisoned = false;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::{self, read, write};

    #[test]
    fn conforms() {
        conformance::run(|| FaultDisk::new(1 << 20));
    }

    #[test]
    fn only_synced_writes_are_durable() {
        let disk = FaultDisk::new(8192);
        write(&disk, 0, &[1; 512], &[], false).unwrap();
        write(&disk, 512, &[2; 512], &[], true).unwrap();
        assert_eq!((disk.durable(0, 512)[0], disk.durable(512, 512)[0]), (0, 2));
        disk.flush().unwrap();
        assert_eq!(disk.durable(0, 512)[0], 1);
        write(&disk, 0, &[3; 512], &[], false).unwrap();
        let left: Vec<u8> =
            (0..16).map(|seed| read(&disk.after_power_cut(seed).unwrap(), 0, 512, &[]).unwrap()[0]).collect();
        assert!(left.contains(&1) && left.contains(&3), "{left:?}");
    }

    #[test]
    fn a_failed_sync_loses_and_poisons() {
        let disk = FaultDisk::new(8192);
        disk.set_plan(FaultPlan { fail_sync: Some(0), ..FaultPlan::default() });
        write(&disk, 0, &[1; 512], &[], false).unwrap();
        assert_eq!(disk.flush().unwrap_err().kind(), BlockErrorKind::Io);
        assert_eq!(disk.flush().unwrap_err().kind(), BlockErrorKind::Poisoned);
        assert_eq!(write(&disk, 0, &[1; 512], &[], false).unwrap_err().kind(), BlockErrorKind::Poisoned);
        disk.reopen().unwrap();
        disk.flush().unwrap();
        assert_eq!(read(&disk, 0, 512, &[]).unwrap(), [0; 512]);
    }
}
