//! Restore points: named, dropped, returned to.

use std::collections::HashSet;

use benchtop_block::{BlockError, BlockErrorKind};

use crate::StrataDisk;
use crate::disk::now_ms;
use crate::head::Base;
use crate::layout::{Address, Pointer};
use crate::open::replay_until;
use crate::points::Point;
use crate::record::{NAME_BYTES_MAX, Op};
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

fn refused(context: String) -> BlockError {
    BlockError::new(BlockErrorKind::Unsupported, context)
}

impl StrataDisk {
    /// The restore points, oldest first.
    pub fn points(&self) -> Vec<PointInfo> {
        let state = self.state.lock();
        let info = |point: &Point| PointInfo {
            seq: point.seq,
            time_ms: point.time_ms,
            name: point.name.clone(),
            frees_bytes: state.points.held_only_by(point.seq) * crate::layout::BLOCK_BYTES as u64,
        };
        state.points.all().iter().map(info).collect()
    }

    /// Names the state of now: one record, one sync, whatever the size of the disk. Says its number.
    ///
    /// # Errors
    /// `Unsupported` for a name that is taken, empty or longer than 120 bytes; the host's.
    pub fn snapshot(&self, name: &str) -> Result<u64, BlockError> {
        if name.is_empty() || name.len() > NAME_BYTES_MAX {
            return Err(refused(format!("a snapshot's name has 1 to {NAME_BYTES_MAX} bytes")));
        }
        {
            let mut state = self.state.lock();
            if state.points.all().iter().any(|point| point.name.as_deref() == Some(name)) {
                return Err(refused(format!("there is a snapshot named {name:?} already")));
            }
            let mut space = self.store.space.write();
            let now = now_ms();
            let seq = state.log.name_commit(&mut space, name, now)?;
            state.points.name(seq, now, name);
        }
        self.commit()
    }

    /// Drops a restore point, named or not. What only it needed is given back at the next checkpoint.
    ///
    /// # Errors
    /// `Unsupported` when there is none of that number, or the host's.
    pub fn drop_point(&self, seq: u64) -> Result<(), BlockError> {
        {
            let mut state = self.state.lock();
            if !state.points.drop_point(seq) {
                return Err(refused(format!("there is no restore point {seq}")));
            }
            let mut space = self.store.space.write();
            state.log.push(&mut space, Op::Drop { point: seq }, now_ms())?;
        }
        self.commit().map(|_seq| ())
    }

    /// Makes the disk what it was at a restore point. All points stay, and so does the state of now if it is one.
    ///
    /// # Errors
    /// `Unsupported` when there is none of that number; `Corrupt`, or the host's.
    pub fn go(&mut self, seq: u64) -> Result<(), BlockError> {
        if !self.state.lock().points.all().iter().any(|point| point.seq == seq) {
            return Err(refused(format!("there is no restore point {seq}")));
        }
        self.commit()?;
        // From here on the map has everything, and all that is dead is in its grave.
        self.checkpoint()?;
        let base = self.base_of(seq)?;
        let then = replay_until(&self.store, &base, seq, self.size_bytes)?;
        let now = self.state.lock().root;
        let blocks = self.size_bytes.div_ceil(crate::layout::BLOCK_BYTES as u64);
        let mut alive = HashSet::new();
        let mut differences = Vec::new();
        let changed = then.within(0, blocks);
        let mut lba = 0;
        while let Some(next) = self.next_of_any(&base, &changed, &now, lba, blocks)? {
            let (old, new) = (self.pointer_at(&base, &then, next)?, self.store.lookup(&now, next)?);
            if old.address != new.address {
                differences.push((next, old));
                if !old.address.is_none() {
                    alive.insert(old.address);
                }
            }
            lba = next + 1;
        }
        self.take_over(&differences, &alive)?;
        self.checkpoint()
    }

    /// Puts pointers of an old state into the new one. They are in no record: the checkpoint after this makes them so.
    fn take_over(&self, differences: &[(u64, Pointer)], alive: &HashSet<Address>) -> Result<(), BlockError> {
        let mut state = self.state.lock();
        let seq = state.log.ensure_open(&mut self.store.space.write())?;
        state.points.raise(alive);
        for (lba, pointer) in differences {
            state.changes.order += 1;
            let order = state.changes.order;
            state.changes.change(*lba, *pointer, order, seq);
        }
        Ok(())
    }

    /// Shows a disk that is open for reading only as it was at a restore point.
    ///
    /// # Errors
    /// `Unsupported` when there is none of that number or the disk is open for writing; `Corrupt`, or the host's.
    pub fn rewind(&mut self, seq: u64) -> Result<(), BlockError> {
        if !self.read_only {
            return Err(refused("only a disk that is open for reading can show its past".to_owned()));
        }
        if !self.state.lock().points.all().iter().any(|point| point.seq == seq) {
            return Err(refused(format!("there is no restore point {seq}")));
        }
        let base = self.base_of(seq)?;
        let changes = replay_until(&self.store, &base, seq, self.size_bytes)?;
        let mut state = self.state.lock();
        (state.root, state.changes) = (base.root, changes);
        Ok(())
    }

    /// The checkpoint that a restore point is counted from.
    pub(crate) fn base_of(&self, seq: u64) -> Result<Base, BlockError> {
        let checkpoints = self.checkpoints.lock();
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
