//! Restore points: named, dropped, returned to.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::Ordering;

use benchtop_block::{BlockError, BlockErrorKind};

use crate::StrataDisk;
use crate::checkpoint::Checkpoints;
use crate::core::Core;
use crate::disk::now_ms;
use crate::head::Base;
use crate::layout::Pointer;
use crate::open::{Replayed, replay_until};
use crate::points::Point;
use crate::record::NAME_BYTES_MAX;
use crate::resize::blocks;
use crate::state::Changes;

/// A restore point, as people see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PointInfo {
    /// Its number.
    pub seq: u64,
    /// When, in milliseconds since 1970.
    pub time_ms: u64,
    /// A snapshot's name.
    pub name: Option<String>,
    /// Bytes of the file that dropping it would free.
    pub frees_bytes: u64,
}

/// Blocks that a repair may have given up and that are in the map nevertheless: 16 GiB. Beyond them a map has no more
/// blocks than somebody needs, or it is hostile.
const LOST_MAX: u64 = 4 << 20;

fn refused(context: String) -> BlockError {
    BlockError::new(BlockErrorKind::Unsupported, context)
}

impl StrataDisk {
    /// The restore points, oldest first.
    ///
    /// # Errors
    /// The host's, or `Corrupt`.
    pub fn points(&self) -> Result<Vec<PointInfo>, BlockError> {
        let core = self.core();
        let checkpoints = core.checkpoints.lock();
        let points = core.state.lock().points.clone();
        let mut only: HashMap<u64, u64> = HashMap::new();
        checkpoints.graves.for_each(&core.store, |grave| {
            if let Some(point) = points.needed_only_by(grave.birth, grave.death) {
                *only.entry(point).or_default() += 1;
            }
        })?;
        let info = |point: &Point| PointInfo {
            seq: point.seq,
            time_ms: point.time_ms,
            name: point.name.clone(),
            frees_bytes: only.get(&point.seq).copied().unwrap_or_default() * crate::layout::BLOCK_BYTES as u64,
        };
        Ok(points.all().iter().map(info).collect())
    }

    /// Names the state of now: one record, one sync, whatever the size of the disk. Says its number.
    ///
    /// # Errors
    /// `Unsupported` for a name that is taken, empty or longer than 120 bytes; the host's.
    pub fn snapshot(&self, name: &str) -> Result<u64, BlockError> {
        if name.is_empty() || name.len() > NAME_BYTES_MAX {
            return Err(refused(format!("a snapshot's name has 1 to {NAME_BYTES_MAX} bytes")));
        }
        let core = self.core();
        core.refuse_while_converting()?;
        let seq = {
            let mut state = core.usable()?;
            if state.points.all().iter().any(|point| point.name.as_deref() == Some(name)) {
                return Err(refused(format!("there is a snapshot named {name:?} already")));
            }
            let mut space = core.store.space.write();
            let now = now_ms();
            let seq = state.log.name_commit(&mut space, name, now)?;
            state.points.name(seq, now, name);
            seq
        };
        let done = core.make_durable(seq);
        if done.as_ref().is_err_and(|error| error.kind() == BlockErrorKind::NoSpace) {
            // Its record is written when there is room. Nobody was promised a snapshot, so there shall be none then.
            core.usable()?.drop_point(&mut core.store.space.write(), seq, now_ms())?;
        }
        done.map(|()| seq)
    }

    /// Drops a restore point, named or not. What only it needed is given back at the next checkpoint.
    ///
    /// # Errors
    /// `Unsupported` when there is none of that number, or the host's.
    pub fn drop_point(&self, seq: u64) -> Result<(), BlockError> {
        let core = self.core();
        if !core.usable()?.drop_point(&mut core.store.space.write(), seq, now_ms())? {
            return Err(refused(format!("there is no restore point {seq}")));
        }
        core.commit(false).map(|_seq| ())
    }

    /// Makes the disk what it was at a restore point, its size included. All points stay, and so does the state of now if it is one.
    ///
    /// # Errors
    /// `Unsupported` when there is none of that number; `Corrupt`, or the host's, after which the disk may have to be
    /// opened anew.
    pub fn go(&mut self, seq: u64) -> Result<(), BlockError> {
        let core = self.core();
        // Tidying reads and writes anew what it finds: it would bring back what was before.
        let _keeping = core.keeping.lock();
        core.refuse_while_converting()?;
        core.commit(true)?;
        let mut checkpoints = core.checkpoints.lock();
        // From here on the map has everything, and all that is dead is in its grave.
        core.make_checkpoint(&mut checkpoints)?;
        let base = core.base_of(&checkpoints, seq)?;
        let Replayed { changes: then, size_bytes, .. } = replay_until(&core.store, &base, seq)?;
        let now = core.state.lock().root;
        let blocks = blocks(size_bytes.max(core.size_bytes()));
        let mut alive = HashSet::new();
        let mut differences = Vec::new();
        let changed = then.within(0, blocks);
        let mut lba = 0;
        let mut steps = core.store.space.read().usage().live_blocks.saturating_add(LOST_MAX + changed.len() as u64);
        while let Some(next) = core.next_of_any(&base, &changed, &now, lba, blocks)? {
            steps = steps.checked_sub(1).ok_or_else(|| {
                BlockError::new(BlockErrorKind::Corrupt, "the disk's map has more blocks than there can be")
            })?;
            let (old, new) = (core.pointer_at(&base, &then, next)?, core.store.lookup(&now, next)?);
            if old.address != new.address {
                differences.push((next, old));
                if !old.address.is_none() {
                    alive.insert(old.address);
                }
            }
            lba = next + 1;
        }
        core.take_over(&differences, size_bytes)?;
        checkpoints.raised = alive;
        core.make_checkpoint(&mut checkpoints).inspect_err(|_error| {
            // What was taken over is in no record: a flush must not promise what stands on it.
            core.state.lock().poisoned = true;
        })
    }

    /// Shows a disk that is open for reading only as it was at a restore point.
    ///
    /// # Errors
    /// `Unsupported` when there is none of that number or the disk is open for writing; `Corrupt`, or the host's.
    pub fn rewind(&mut self, seq: u64) -> Result<(), BlockError> {
        let core = self.core();
        if !core.read_only {
            return Err(refused("only a disk that is open for reading can show its past".to_owned()));
        }
        let base = core.base_of(&core.checkpoints.lock(), seq)?;
        let Replayed { changes, size_bytes, .. } = replay_until(&core.store, &base, seq)?;
        let mut state = core.state.lock();
        core.size_bytes.store(size_bytes, Ordering::Relaxed);
        (state.root, state.changes) = (base.root, changes);
        Ok(())
    }
}

impl Core {
    /// Puts pointers of an old state into the new one. They are in no record: the checkpoint after this makes them so.
    fn take_over(&self, differences: &[(u64, Pointer)], size_bytes: u64) -> Result<(), BlockError> {
        let _gate = self.gate.read();
        let mut state = self.usable()?;
        let seq = state.log.ensure_open(&mut self.store.space.write())?;
        for (lba, pointer) in differences {
            state.changes.order += 1;
            let order = state.changes.order;
            state.changes.change(*lba, *pointer, order, seq);
        }
        self.size_bytes.store(size_bytes, Ordering::Relaxed);
        Ok(())
    }

    /// The checkpoint that a restore point is counted from.
    ///
    /// # Errors
    /// `Unsupported` when there is no such point; `Corrupt`.
    pub fn base_of(&self, checkpoints: &Checkpoints, seq: u64) -> Result<Base, BlockError> {
        if !self.state.lock().points.has(seq) {
            return Err(refused(format!("there is no restore point {seq}")));
        }
        let base = checkpoints.bases.iter().chain([&checkpoints.now]).rfind(|base| base.log.seq <= seq);
        base.copied().ok_or_else(|| {
            BlockError::new(BlockErrorKind::Corrupt, format!("no checkpoint is kept for restore point {seq}"))
        })
    }

    fn pointer_at(&self, base: &Base, then: &Changes, lba: u64) -> Result<Pointer, BlockError> {
        match then.fresh(lba) {
            Some(fresh) => Ok(fresh.pointer),
            None => self.store.lookup(&base.root, lba),
        }
    }

    /// The next guest block that one of two maps has or that is among `changed`.
    fn next_of_any(
        &self,
        base: &Base,
        changed: &[u64],
        now: &crate::pages::Root,
        lba: u64,
        blocks: u64,
    ) -> Result<Option<u64>, BlockError> {
        let stored = |root| self.store.next_mapped(root, lba, blocks).map(|found| found.map(|(lba, _)| lba));
        let changed = changed.get(changed.partition_point(|changed| *changed < lba)).copied();
        Ok(stored(&base.root)?.into_iter().chain(stored(now)?).chain(changed).min())
    }
}
