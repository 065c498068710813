//! A checkpoint: what changed goes into the map, and a new head says so. Afterwards the log before it is not needed to
//! open the disk, and what nobody needs is given back.

use std::sync::Arc;

use benchtop_block::BlockError;

use crate::StrataDisk;
use crate::disk::{io_error, now_ms};
use crate::head::{Base, HeadV1};
use crate::layout::{Address, Pointer};
use crate::pages::{PageWriter, no_key};
use crate::points::Grave;
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
}

/// What a checkpoint took out of the state.
struct Taken {
    frozen: Arc<Overlay>,
    deaths: Vec<Grave>,
    records: Vec<(Address, u64)>,
    appended: u64,
    base: Base,
}

impl StrataDisk {
    /// Makes a checkpoint now.
    ///
    /// # Errors
    /// The host's; the disk goes on without it unless a sync failed.
    pub fn checkpoint(&self) -> Result<(), BlockError> {
        let mut checkpoints = self.checkpoints.lock();
        let taken = self.freeze()?;
        let mut begun = Vec::new();
        match self.write_checkpoint(&mut checkpoints, &taken, &mut begun) {
            Ok(released) => {
                // Whoever still reads by the old map is waited for; then its blocks may be overwritten.
                drop(self.readers.write());
                let ranges = self.store.space.write().settle(&released);
                for (offset, len) in ranges {
                    // Room that could not be given back stays taken, which harms nobody.
                    let _kept = self.store.medium.punch(offset, len);
                }
                Ok(())
            }
            Err(error) => {
                let mut state = self.state.lock();
                state.changes.thaw();
                state.changes.deaths.extend(taken.deaths);
                state.records.extend(taken.records);
                state.appended += taken.appended;
                drop(state);
                self.store.space.write().settle(&begun);
                Err(error)
            }
        }
    }

    /// Closes the log's newest record, writes what is before, and takes out what changed.
    fn freeze(&self) -> Result<Taken, BlockError> {
        let mut writer = self.writer.lock();
        // No change is half made while this is held.
        let gate = self.gate.write();
        let seq = {
            let mut state = self.state.lock();
            state.log.close(false, now_ms());
            state.log.seq()
        };
        self.push_out(&mut writer, seq)?;
        let mut state = self.state.lock();
        let frozen = Arc::new(std::mem::take(&mut state.changes.overlay));
        state.changes.frozen = Some(frozen.clone());
        let taken = Taken {
            frozen,
            deaths: std::mem::take(&mut state.changes.deaths),
            records: std::mem::take(&mut state.records),
            appended: std::mem::take(&mut state.appended),
            base: Base { root: state.root, log: state.log.position(writer.previous) },
        };
        drop(state);
        drop(gate);
        Ok(taken)
    }

    /// Writes map and head; says which blocks nobody needs any more.
    fn write_checkpoint(
        &self,
        checkpoints: &mut Checkpoints,
        taken: &Taken,
        begun: &mut Vec<Address>,
    ) -> Result<Vec<Address>, BlockError> {
        let number = taken.base.log.seq;
        let changes: Vec<(u64, Pointer)> = taken.frozen.iter().map(|(lba, fresh)| (*lba, fresh.pointer)).collect();
        let mut dead = Vec::new();
        let mut writer = PageWriter::new(&self.store, number);
        let root = writer.update(&taken.base.root, &changes, &mut |lba, old| {
            let death = lba.and_then(|lba| taken.frozen.get(&lba)).map_or(number, |fresh| fresh.first);
            dead.push(Grave { address: old.address, birth: old.birth, death });
        });
        let finished = writer.finish();
        begun.extend_from_slice(writer.written());
        let root = root?;
        finished?;
        dead.extend(&taken.deaths);
        dead.extend(taken.records.iter().map(|(address, seq)| Grave { address: *address, birth: *seq, death: number }));

        let now = Base { root, log: taken.base.log };
        let mut bases = checkpoints.bases.clone();
        bases.push(checkpoints.now);
        let key_salt = self.store.keys.epochs().last().map(|epoch| epoch.salt).ok_or_else(no_key)?;
        let key = self.store.keys.key(&key_salt).ok_or_else(no_key)?;
        let head = {
            let mut state = self.state.lock();
            let mut points = state.points.clone();
            let mut space = self.store.space.write();
            for grave in dead {
                if points.bury(grave) {
                    space.release(grave.address);
                }
            }
            let graves = points.graves().len() as u64;
            let retention = state.retention;
            points.thin(&retention, now_ms(), space.live_blocks().saturating_sub(graves));
            points.sweep().into_iter().for_each(|address| space.release(address));
            keep_needed(&mut bases, points.all(), number);
            let head = HeadV1 {
                now,
                bases: bases.clone(),
                epochs: self.store.keys.epochs(),
                space: space.save(),
                points: points.all().to_vec(),
                graves: points.graves().to_vec(),
                retention,
            };
            state.points = points;
            head
        };
        let released = self.store.space.write().take_released();
        // From here on a failure leaves it open which head is in force, so the disk takes no more writes.
        let result = self.write_head(&mut checkpoints.superblock, &head, &key, key_salt);
        if let Err(error) = result {
            self.state.lock().poisoned = true;
            return Err(error);
        }
        checkpoints.now = now;
        checkpoints.bases = bases;
        let mut state = self.state.lock();
        state.root = root;
        state.changes.frozen = None;
        Ok(released)
    }

    fn write_head(
        &self,
        superblock: &mut Superblock,
        head: &HeadV1,
        key: &crate::seal::EpochKey,
        salt: crate::seal::Salt,
    ) -> Result<(), BlockError> {
        let medium = &*self.store.medium;
        let generation = superblock.generation + 1;
        let written = head.write(medium, key, generation)?;
        medium.sync().map_err(io_error("making a checkpoint durable"))?;
        let next = Superblock {
            generation,
            head_area: written.area,
            head_len: written.len,
            head_generation: generation,
            head_tag: written.tag,
            head_salt: salt,
            ..superblock.clone()
        };
        let key = self.store.keys.superblock_key().ok_or_else(no_key)?;
        medium.write_at(next.offset(), &[&next.encode(&key)[..]]).map_err(io_error("writing the superblock"))?;
        medium.sync().map_err(io_error("making the superblock durable"))?;
        *superblock = next;
        Ok(())
    }
}

/// Drops bases that no point needs: those without a point from them to the next, the last of which is `now`.
fn keep_needed(bases: &mut Vec<Base>, points: &[crate::points::Point], now: u64) {
    let ends: Vec<u64> = bases.iter().skip(1).map(|base| base.log.seq).chain([now]).collect();
    let mut ends = ends.into_iter();
    bases.retain(|base| {
        let end = ends.next().unwrap_or(now);
        let at = points.partition_point(|point| point.seq < base.log.seq);
        points.get(at).is_some_and(|point| point.seq < end)
    });
}
