//! A checkpoint: what changed goes into the map, and a new head says so. Afterwards the log before it is not needed to
//! open the disk, and what nobody needs is given back.

use std::collections::HashSet;
use std::sync::Arc;

use benchtop_block::BlockError;

use crate::core::Core;
use crate::disk::now_ms;
use crate::graves::{Grave, Graves};
use crate::head::{Base, Conversion};
use crate::heads::NewHead;
use crate::layout::{Address, Pointer};
use crate::pages::{PageWriter, Root};
use crate::points::{Point, Points};
use crate::space::Released;
use crate::state::Overlay;
use crate::superblock::Superblock;

/// What only checkpoints change. Its lock is held while one is made.
#[derive(Debug)]
pub struct Checkpoints {
    /// The superblock in the file.
    pub superblock: Superblock,
    /// The newest checkpoint.
    pub now: Base,
    /// Older ones that points need.
    pub bases: Vec<Base>,
    /// The disk is being encrypted or decrypted.
    pub conversion: Option<Conversion>,
    /// Blocks that only points need.
    pub graves: Graves,
    /// The points that the newest head has: what is missing from now on was dropped since.
    pub known: Vec<Point>,
    /// Blocks of graves that the next checkpoint brings back to life.
    pub raised: HashSet<Address>,
}

impl Checkpoints {
    /// With this superblock in force, and what its head says.
    pub fn new(superblock: Superblock, now: Base) -> Self {
        let raised = HashSet::new();
        Self {
            superblock,
            now,
            bases: Vec::new(),
            conversion: None,
            graves: Graves::default(),
            known: Vec::new(),
            raised,
        }
    }
}

/// What a checkpoint makes of it.
struct Planned {
    root: Root,
    /// What is left of the points,
    points: Points,
    /// and which were thinned out.
    gone: Vec<u64>,
    graves: Graves,
    /// Blocks nobody needs any more.
    free: Vec<Address>,
    /// Changed blocks that the map had already.
    replaced: u64,
}

/// What a checkpoint took out of the state.
struct Taken {
    frozen: Arc<Overlay>,
    deaths: Vec<Grave>,
    records: Vec<(Address, u64)>,
    appended: u64,
    base: Base,
}

impl Core {
    /// Makes a checkpoint now.
    ///
    /// # Errors
    /// As [`make_checkpoint`](Self::make_checkpoint).
    pub fn checkpoint(&self) -> Result<(), BlockError> {
        self.make_checkpoint(&mut self.checkpoints.lock())
    }

    /// Makes a checkpoint now.
    ///
    /// # Errors
    /// The host's; the disk goes on without it unless a sync failed.
    pub fn make_checkpoint(&self, checkpoints: &mut Checkpoints) -> Result<(), BlockError> {
        let taken = self.freeze()?;
        let mut begun = Vec::new();
        match self.write_checkpoint(checkpoints, &taken, &mut begun) {
            Ok(released) => {
                self.settle(released);
                Ok(())
            }
            Err(error) => {
                let mut state = self.state.lock();
                state.changes.thaw();
                state.changes.deaths.extend(taken.deaths);
                state.records.extend(taken.records);
                state.appended += taken.appended;
                drop(state);
                let mut space = self.store.space.write();
                space.release(begun);
                Err(error)
            }
        }
    }

    /// Closes the log's newest record, writes what is before, and takes out what changed.
    fn freeze(&self) -> Result<Taken, BlockError> {
        // Most of it while others go on.
        let seq = {
            let mut state = self.state.lock();
            state.log.close(false, now_ms());
            state.log.seq()
        };
        self.push_out(seq)?;
        // No change is half made while this is held.
        let gate = self.gate.write();
        let mut state = loop {
            let mut state = self.usable()?;
            // A flush may close a record at any time: what is taken must be what is written. Each flush adds one at
            // most, for nothing changes meanwhile.
            if !state.log.is_open() && state.log.closed.is_empty() {
                break state;
            }
            state.log.close(false, now_ms());
            let seq = state.log.seq();
            drop(state);
            self.push_out(seq)?;
        };
        let frozen = Arc::new(std::mem::take(&mut state.changes.overlay));
        state.changes.frozen = Some(frozen.clone());
        state.changes.pages.clear();
        state.changes.replaced.clear();
        state.dropped.clear();
        state.changes.frozen_work = std::mem::take(&mut state.changes.work);
        let taken = Taken {
            frozen,
            deaths: std::mem::take(&mut state.changes.deaths),
            records: std::mem::take(&mut state.records),
            appended: std::mem::take(&mut state.appended),
            base: Base { root: state.root, log: state.log.position(), size_bytes: self.size_bytes() },
        };
        drop(state);
        drop(gate);
        Ok(taken)
    }

    /// Writes map and head; says what may be used again.
    fn write_checkpoint(
        &self,
        checkpoints: &mut Checkpoints,
        taken: &Taken,
        begun: &mut Vec<Address>,
    ) -> Result<Released, BlockError> {
        let mut writer = PageWriter::new(&self.store, taken.base.log.seq);
        let planned = self.plan(checkpoints, taken, &mut writer);
        let finished = writer.finish();
        begun.extend(writer.take_written());
        let Planned { root, points, gone, graves, free, replaced } = planned?;
        finished?;

        let now = Base { root, ..taken.base };
        let mut bases = checkpoints.bases.clone();
        bases.push(checkpoints.now);
        keep_needed(&mut bases, points.all(), taken.base.log.seq);
        let released_before = self.store.space.write().release(free);
        let known = points.all().to_vec();
        let released = self.put_head(checkpoints, NewHead { now, bases, known, graves }, released_before)?;
        checkpoints.raised.clear();
        let mut state = self.state.lock();
        state.root = root;
        state.changes.frozen = None;
        state.replaced_percent = (replaced * 100).checked_div(taken.frozen.len() as u64).unwrap_or_default();
        state.points.drop_all(&gone);
        Ok(released)
    }

    /// Puts the changes into the map, and decides what nobody needs any more.
    fn plan(
        &self,
        checkpoints: &Checkpoints,
        taken: &Taken,
        writer: &mut PageWriter<'_>,
    ) -> Result<Planned, BlockError> {
        let number = taken.base.log.seq;
        let changes: Vec<(u64, Pointer)> = taken.frozen.iter().map(|(lba, fresh)| (*lba, fresh.pointer)).collect();
        let mut dead = taken.deaths.clone();
        let root = writer.raise(&taken.base.root, crate::resize::blocks(taken.base.size_bytes))?;
        let mut replaced = 0;
        let root = writer.update(&root, &changes, &mut |lba, old| {
            replaced += u64::from(lba.is_some());
            let death = lba.and_then(|lba| taken.frozen.get(&lba)).map_or(number, |fresh| fresh.first);
            dead.push(Grave { address: old.address, birth: old.birth, death });
        })?;
        dead.extend(taken.records.iter().map(|(address, seq)| Grave { address: *address, birth: *seq, death: number }));

        let (mut points, retention) = {
            let state = self.state.lock();
            // Newer ones are the log's, which brings them back: they need nothing that is dead by now, and what is
            // decided of them here would not be in the file.
            (state.points.until(number), state.retention)
        };
        let mut graves = checkpoints.graves.clone();
        let thinned = points.thin(&retention, now_ms());
        // Gone from the head's points: thinned just now, or dropped by somebody since.
        let known = checkpoints.known.iter().map(|point| point.seq);
        let missing: Vec<u64> = known.filter(|seq| !points.has(*seq)).collect();
        let mut free = Vec::new();
        if !checkpoints.raised.is_empty() {
            free.extend(graves.raise(&checkpoints.raised, writer, &self.store, number)?);
        }
        free.extend(graves.bury(&points, &dead));
        if !missing.is_empty() {
            free.extend(graves.sweep(&points, &missing, writer, &self.store, number)?);
        }
        let mut gone = thinned;
        let budget =
            retention.budget_blocks(self.store.space.read().usage().live_blocks.saturating_sub(graves.count()));
        while graves.count() > budget {
            let oldest = points.drop_oldest();
            if oldest.is_empty() {
                break;
            }
            free.extend(graves.sweep(&points, &oldest, writer, &self.store, number)?);
            gone.extend(oldest);
        }
        gone.sort_unstable();
        graves.spill(writer, number)?;
        Ok(Planned { root, points, gone, graves, free, replaced })
    }
}

/// Drops bases that no point needs: those without a point from them to the next, the last of which is `now`.
fn keep_needed(bases: &mut Vec<Base>, points: &[Point], now: u64) {
    let ends: Vec<u64> = bases.iter().skip(1).map(|base| base.log.seq).chain([now]).collect();
    let mut ends = ends.into_iter();
    bases.retain(|base| {
        let end = ends.next().unwrap_or(now);
        let at = points.partition_point(|point| point.seq < base.log.seq);
        points.get(at).is_some_and(|point| point.seq < end)
    });
}
