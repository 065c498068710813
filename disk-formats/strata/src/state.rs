//! What changed since the last checkpoint: the overlay over the map.

use std::collections::{BTreeMap, HashSet, btree_map};
use std::sync::Arc;

use benchtop_block::{BlockError, BlockErrorKind};

use crate::graves::Grave;
use crate::layout::{Address, Pointer};
use crate::log::Log;
use crate::pages::{FANOUT, Root, Store};
use crate::points::{Points, Retention};
use crate::record::Op;
use crate::space::Space;

/// A guest block that changed since the last checkpoint.
#[derive(Clone, Copy, Debug)]
pub struct Fresh {
    /// Its newest content; [`Pointer::NONE`] for zeroes.
    pub pointer: Pointer,
    /// Of two changes the one with the larger order counts, whichever arrives first.
    pub order: u64,
    /// The record that made the latest change.
    pub seq: u64,
    /// The record that first changed it since the checkpoint: the death of what the map has.
    pub first: u64,
}

/// By guest block, in order: a discard asks for ranges.
pub type Overlay = BTreeMap<u64, Fresh>;

/// Steps that clearing ranges may take before a checkpoint is due: looking at a changed block, a page, or a mapped block
/// is one.
pub const WORK_DUE: u64 = 2 << 20;
/// Steps of clearing after which a log is refused: eight times what any disk writes before it makes a checkpoint, which
/// is a matter of seconds.
pub const WORK_MAX: u64 = 8 * WORK_DUE;
/// Changed blocks after which a log is refused, some 200 MiB of memory: likewise more than any disk writes.
pub const CHANGES_MAX: usize = 2 << 20;
/// Steps that reading one operation may take: all that a part of a range may have, and all that changed before.
const OPERATION_WORK_MAX: u64 = 1 << 20;

/// What changed over the map.
#[derive(Debug, Default)]
pub struct Changes {
    /// What the checkpoint under way is putting into the map.
    pub frozen: Option<Arc<Overlay>>,
    /// What changed since.
    pub overlay: Overlay,
    /// Guest blocks that changed for the first time since the checkpoint, and the record that did it: what the map has
    /// there is dead, if it has anything. Without those whose dead were freed already.
    pub replaced: Vec<(u64, u64)>,
    /// The pages of the map that the overlay changes: what a checkpoint has to write. By number.
    pub pages: HashSet<u64>,
    /// Blocks that were born and died since the checkpoint.
    pub deaths: Vec<Grave>,
    /// Counts changes.
    pub order: u64,
    /// Steps that clearing ranges took since the checkpoint. Whoever reads the log takes as many.
    pub work: u64,
    /// Those of the checkpoint under way.
    pub frozen_work: u64,
}

/// Everything that changes with every write, under one lock. Nothing is read or written under it.
#[derive(Debug)]
pub struct State {
    /// The map of the last checkpoint.
    pub root: Root,
    /// What changed since.
    pub changes: Changes,
    /// The log's end.
    pub log: Log,
    /// Restore points.
    pub points: Points,
    /// Points that were dropped, and the records that say so, as long as these may not be in the file: without its record
    /// a point is there again after a cut of power.
    pub dropped: Vec<(u64, u64)>,
    /// Which are kept.
    pub retention: Retention,
    /// Records since the checkpoint, and their numbers.
    pub records: Vec<(Address, u64)>,
    /// Blocks appended since the checkpoint.
    pub appended: u64,
    /// Of the blocks changed before the checkpoint, how many percent were in the map already.
    pub replaced_percent: u64,
    /// The newest record in the file.
    pub written_seq: u64,
    /// Why nothing may be written until the disk is opened anew.
    pub poisoned: bool,
    /// The disk is being encrypted or decrypted: no point may be made.
    pub converting: bool,
}

impl State {
    /// Of a map nothing was changed in since.
    pub fn new(root: Root, log: Log, points: Points, retention: Retention) -> Self {
        Self {
            root,
            changes: Changes::default(),
            written_seq: log.seq(),
            log,
            points,
            dropped: Vec::new(),
            retention,
            records: Vec::new(),
            appended: 0,
            replaced_percent: 0,
            poisoned: false,
            converting: false,
        }
    }
}

impl State {
    /// Grows with everything that is written, and with every record.
    pub fn written(&self) -> u64 {
        self.log.seq().wrapping_add(self.changes.order)
    }

    /// Drops a restore point, which a record says from the next commit on. False when there is none of that number.
    ///
    /// # Errors
    /// No place for the record; the point stays.
    pub fn drop_point(&mut self, space: &mut Space, point: u64, now_ms: u64) -> Result<bool, BlockError> {
        if !self.points.has(point) {
            return Ok(false);
        }
        let record = self.log.push(space, Op::Drop { point }, now_ms)?;
        self.dropped.push((point, record));
        Ok(self.points.drop_point(point))
    }

    /// The points that there are or that a cut of power brings back.
    pub fn points_possible(&mut self) -> Points {
        let written = self.written_seq;
        self.dropped.retain(|(_, record)| *record > written);
        let mut points = self.points.clone();
        self.dropped.iter().for_each(|(point, _)| points.put_back(*point));
        points
    }
}

impl Changes {
    /// What is known of a guest block without looking into the map.
    pub fn fresh(&self, lba: u64) -> Option<Fresh> {
        self.overlay.get(&lba).or_else(|| self.frozen.as_ref()?.get(&lba)).copied()
    }

    /// Which guest blocks of a range changed since the checkpoint, ascending.
    pub fn within(&self, lba: u64, count: u64) -> Vec<u64> {
        let range = lba..lba.saturating_add(count);
        let frozen = self.frozen.iter().flat_map(|frozen| frozen.range(range.clone()));
        let mut changed: Vec<u64> = self.overlay.range(range.clone()).chain(frozen).map(|(lba, _)| *lba).collect();
        changed.sort_unstable();
        changed.dedup();
        changed
    }

    /// Guest blocks from `lba` up to `end` read as zeroes: those that changed, and those that the map has.
    ///
    /// # Errors
    /// `Corrupt` when a page is, or after more work than any disk leaves to be read; the host's.
    pub fn zero(&mut self, store: &Store, root: &Root, lba: u64, end: u64, seq: u64) -> Result<(), BlockError> {
        self.order += 1;
        let order = self.order;
        let changed = self.within(lba, end.saturating_sub(lba));
        self.work = self.work.saturating_add(changed.len() as u64);
        for changed in changed {
            self.change(changed, Pointer::NONE, order, seq);
        }
        let mut left = WORK_MAX.saturating_sub(self.work).min(OPERATION_WORK_MAX);
        let before = left;
        let reached = store.walk(root, lba..end, &mut left, &mut |mapped, _| {
            self.change(mapped, Pointer::NONE, order, seq);
        })?;
        self.work += before - left;
        self.check_bounds(reached == end)
    }

    /// Refuses what no disk writes between two checkpoints.
    ///
    /// # Errors
    /// `Corrupt`.
    pub fn check_bounds(&self, done: bool) -> Result<(), BlockError> {
        if done && self.overlay.len() <= CHANGES_MAX {
            return Ok(());
        }
        let context = "the log changes more than any disk does between two checkpoints";
        Err(BlockError::new(BlockErrorKind::Corrupt, context))
    }

    /// A guest block changed: `order` says when, `seq` in which record.
    pub fn change(&mut self, lba: u64, pointer: Pointer, order: u64, seq: u64) {
        let mut dead = Pointer::NONE;
        let mut death = seq;
        match self.overlay.entry(lba) {
            btree_map::Entry::Vacant(place) => {
                place.insert(Fresh { pointer, order, seq, first: seq });
                self.pages.insert(lba / FANOUT);
                self.replaced.push((lba, seq));
            }
            btree_map::Entry::Occupied(mut place) => {
                let fresh = place.get_mut();
                fresh.first = fresh.first.min(seq);
                if fresh.order > order {
                    (dead, death) = (pointer, fresh.seq);
                } else {
                    dead = fresh.pointer;
                    *fresh = Fresh { pointer, order, seq, first: fresh.first };
                }
            }
        }
        if !dead.address.is_none() {
            self.deaths.push(Grave { address: dead.address, birth: dead.birth, death });
        }
    }

    /// A checkpoint failed: what was frozen is fresh again.
    pub fn thaw(&mut self) {
        let Some(frozen) = self.frozen.take() else { return };
        self.work += std::mem::take(&mut self.frozen_work);
        for (lba, old) in frozen.iter() {
            match self.overlay.entry(*lba) {
                btree_map::Entry::Vacant(place) => {
                    place.insert(*old);
                    self.pages.insert(lba / FANOUT);
                    self.replaced.push((*lba, old.first));
                }
                btree_map::Entry::Occupied(mut place) => {
                    let Pointer { address, birth, .. } = old.pointer;
                    if !address.is_none() {
                        self.deaths.push(Grave { address, birth, death: place.get().first });
                    }
                    place.get_mut().first = old.first;
                }
            }
        }
    }
}
