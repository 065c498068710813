//! Putting a head in force: at the end of a checkpoint, or between two, when room is wanted sooner than it is worth
//! writing the map.

use benchtop_block::BlockError;

use crate::checkpoint::Checkpoints;
use crate::core::Core;
use crate::disk::io_error;
use crate::graves::Graves;
use crate::head::{Base, HeadV1, Written};
use crate::layout::Address;
use crate::pages::no_key;
use crate::points::{Point, Points};
use crate::seal::Epoch;
use crate::space::Released;
use crate::superblock::Superblock;

/// What a head says of the disk's past; the rest of it is as it is now.
pub struct NewHead {
    /// The newest map, and the log that changes it.
    pub now: Base,
    /// Older ones that points need.
    pub bases: Vec<Base>,
    /// Points up to the newest map. The log has later ones.
    pub known: Vec<Point>,
    /// Blocks that only points need.
    pub graves: Graves,
}

impl Core {
    /// Writes a head and puts it in force; says what may be used again. If that fails, what was released after the first
    /// `released_before` blocks is not released any more.
    ///
    /// # Errors
    /// The host's; the disk goes on without it unless it is open which head is in force.
    pub fn put_head(
        &self,
        checkpoints: &mut Checkpoints,
        next: NewHead,
        released_before: usize,
    ) -> Result<Released, BlockError> {
        let NewHead { now, bases, known, graves } = next;
        // Before the segments: whoever has the state may wait for them.
        let retention = self.state.lock().retention;
        let space = self.store.space.read().save();
        let mut released = self.store.space.write().take_released();
        let (epoch, key) = self.store.keys.newest().ok_or_else(no_key)?;
        let head = HeadV1 {
            now,
            bases,
            epochs: self.store.keys.epochs(),
            space,
            points: known,
            graves: graves.save(),
            retention,
            conversion: checkpoints.conversion,
        };
        let generation = checkpoints.superblock.generation + 1;
        let area = checkpoints.superblock.next_area();
        let written = match head.write(&*self.store.medium, &key, generation, area) {
            Ok(written) => written,
            Err(error) => {
                // No superblock names it: the older one is in force, and what it needs stays. What this head would have
                // freed is decided anew by the next, for a point that is made until then needs the log so far.
                released.blocks.truncate(released_before);
                self.store.space.write().keep_released(released);
                return Err(error);
            }
        };
        // From here on a failure leaves it open which head is in force, so the disk takes no more writes.
        if let Err(error) = self.put_in_force(&mut checkpoints.superblock, written, &epoch, now.size_bytes) {
            self.state.lock().poisoned = true;
            return Err(error);
        }
        let HeadV1 { bases, points: known, .. } = head;
        (checkpoints.now, checkpoints.bases, checkpoints.known, checkpoints.graves) = (now, bases, known, graves);
        Ok(released)
    }

    /// Makes a head that was written the one that counts.
    fn put_in_force(
        &self,
        superblock: &mut Superblock,
        written: Written,
        epoch: &Epoch,
        size_bytes: u64,
    ) -> Result<(), BlockError> {
        let medium = &*self.store.medium;
        self.sync("making a checkpoint durable")?;
        let generation = superblock.generation + 1;
        let next = Superblock {
            generation,
            head_area: written.area,
            head_len: written.len,
            head_generation: generation,
            head_tag: written.tag,
            head_salt: epoch.salt,
            cipher: epoch.cipher,
            size_bytes,
            ..superblock.clone()
        };
        let key = self.store.keys.superblock_key(next.has_slots()).ok_or_else(no_key)?;
        medium.write_at(next.offset(), &[&next.encode(&key)[..]]).map_err(io_error("writing the superblock"))?;
        self.sync("making the superblock durable")?;
        *superblock = next;
        Ok(())
    }

    /// A head that frees this is in force: it is free.
    pub fn settle(&self, released: Released) {
        // Whoever still reads by the old state is waited for; then its blocks may be overwritten.
        drop(self.readers.write());
        let freed = self.store.space.write().settle(released);
        self.punch(&freed);
    }

    /// Frees what moved away, and what guests overwrote and no point needs, without writing the map: the head has the map
    /// and the log of the checkpoint before. An opening reads in the log what took the place of the blocks that are gone.
    ///
    /// # Errors
    /// As [`put_head`](Self::put_head).
    pub fn amend(&self, checkpoints: &mut Checkpoints) -> Result<(), BlockError> {
        if checkpoints.conversion.is_some() {
            return self.make_checkpoint(checkpoints);
        }
        let (mut replaced, points) = {
            let mut state = self.usable()?;
            // Only what records say that are in the file: the sync before the superblock makes them durable.
            let until = state.written_seq;
            let (ready, later) = state.changes.replaced.drain(..).partition(|(_, seq)| *seq <= until);
            state.changes.replaced = later;
            let ready: Vec<(u64, u64)> = ready;
            (ready, state.points_possible())
        };
        replaced.sort_unstable();
        let free = self.dead_of(checkpoints, &replaced, &points)?;
        if let Some(percent) = (free.len() as u64 * 100).checked_div(replaced.len() as u64) {
            self.state.lock().replaced_percent = percent;
        }
        let released_before = {
            let mut space = self.store.space.write();
            let before = space.release(free);
            if !space.has_released() {
                return Ok(());
            }
            before
        };
        let Checkpoints { now, bases, known, graves, .. } = &*checkpoints;
        let next = NewHead { now: *now, bases: bases.clone(), known: known.clone(), graves: graves.clone() };
        let released = self.put_head(checkpoints, next, released_before)?;
        self.settle(released);
        Ok(())
    }

    /// The blocks that the map has where guests wrote something else since, if no point needs them: neither one that there
    /// is nor one that a cut of power would bring back.
    fn dead_of(
        &self,
        checkpoints: &Checkpoints,
        replaced: &[(u64, u64)],
        points: &Points,
    ) -> Result<Vec<Address>, BlockError> {
        let known = Points::restore(checkpoints.known.clone()).unwrap_or_default();
        let mut free = Vec::new();
        for (lba, death) in replaced {
            let old = self.store.lookup(&checkpoints.now.root, *lba)?;
            if old.address.is_none() || old.is_lost() {
                continue;
            }
            if !points.needs(old.birth, *death) && !known.needs(old.birth, *death) {
                free.push(old.address);
            }
        }
        Ok(free)
    }
}
