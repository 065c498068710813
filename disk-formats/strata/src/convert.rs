//! Encrypting and decrypting a disk in place.
//!
//! It begins with a checkpoint that opens an epoch of the other cipher: what is written from then on is protected the
//! new way. A pass then writes every block that is older anew, as a guest would, while guests go on. When the map has
//! nothing older, what the file still holds of it is overwritten, and the disk says that it is done. All that is kept
//! between two openings is where the epoch began, so it goes on after a crash as after a pause.

use std::ops::ControlFlow;

use benchtop_block::{BlockError, BlockErrorKind};

use crate::core::Core;
use crate::core::STRIPE_BLOCKS;
use crate::disk::{io_error, now_ms};
use crate::head::Conversion;
use crate::layout::{BLOCK_BYTES, HEAD_BYTES_MAX, HEADS, Pointer};
use crate::pages::no_key;
use crate::passwords::{password_slot, refused};
use crate::points::Retention;
use crate::seal::{Cipher, Epoch, Key, random};
use crate::slots::{Cost, Slots};

/// Pages and blocks looked at between two reports of progress.
const ROUND_STEPS: u64 = 4096;
/// Zeroes written at once.
const WIPE_BYTES: u64 = 1 << 20;

/// Whether a disk is encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CryptStatus {
    /// It is not, and nothing of it ever was or all of that is gone.
    Plain,
    /// All of it is.
    Encrypted,
    /// [`convert`](crate::StrataDisk::convert) has more to encrypt.
    Encrypting,
    /// It has more to decrypt.
    Decrypting,
}

/// How far a pass is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Up to this byte of the guest's disk nothing is left to do.
    pub done_bytes: u64,
    /// Size of the guest's disk.
    pub total_bytes: u64,
}

impl Core {
    /// See [`StrataDisk::crypt_status`](crate::StrataDisk::crypt_status).
    pub fn crypt_status(&self) -> CryptStatus {
        let checkpoints = self.checkpoints.lock();
        match (checkpoints.conversion, checkpoints.superblock.has_slots(), checkpoints.superblock.cipher) {
            (Some(_), _, cipher) if !cipher.is_secret() => CryptStatus::Decrypting,
            (Some(_), ..) => CryptStatus::Encrypting,
            (None, true, _) => CryptStatus::Encrypted,
            (None, false, _) => CryptStatus::Plain,
        }
    }

    /// See [`StrataDisk::encrypt`](crate::StrataDisk::encrypt).
    pub fn encrypt(&self, password: &[u8], cost: Cost, drop_points: bool) -> Result<(), BlockError> {
        self.refuse_while_converting()?;
        if self.crypt_status() != CryptStatus::Plain {
            return Err(refused("the disk is encrypted already"));
        }
        let no_randomness = || BlockError::new(BlockErrorKind::Io, "the host gives no random numbers");
        let master: Key = zeroize::Zeroizing::new(random().ok_or_else(no_randomness)?);
        let slot = password_slot(password, cost, &master, &self.checkpoints.lock().superblock.uuid)?;
        let mut slots = Slots::default();
        slots[0] = Some(slot);
        self.begin_conversion(Cipher::for_this_host(), drop_points, Some((&master, slots)))
    }

    /// See [`StrataDisk::decrypt`](crate::StrataDisk::decrypt).
    pub fn decrypt(&self, drop_points: bool) -> Result<(), BlockError> {
        self.refuse_while_converting()?;
        if self.crypt_status() != CryptStatus::Encrypted {
            return Err(refused("the disk is not encrypted"));
        }
        let plain = Cipher::plain(self.checkpoints.lock().superblock.version);
        self.begin_conversion(plain, drop_points, None)
    }

    /// Restore points would hold blocks of the old epoch.
    pub(crate) fn refuse_while_converting(&self) -> Result<(), BlockError> {
        // Not asked of the checkpoints, which may be busy for seconds.
        if self.state.lock().converting {
            return Err(refused("the disk is being encrypted or decrypted; that must be done first"));
        }
        Ok(())
    }

    fn begin_conversion(
        &self,
        cipher: Cipher,
        drop_points: bool,
        keys: Option<(&Key, Slots)>,
    ) -> Result<(), BlockError> {
        if self.read_only {
            return Err(BlockError::new(BlockErrorKind::ReadOnly, "the disk is open for reading only"));
        }
        let salt = random().ok_or_else(|| BlockError::new(BlockErrorKind::Io, "the host gives no random numbers"))?;
        // Nothing is written between the new epoch and the checkpoint that records it: guests have no disk now, and the
        // keeper waits.
        let _keeping = self.keeping.lock();
        let retention = self.drop_all_points(drop_points)?;
        // The map has everything, and the log is empty.
        if let Err(error) = self.checkpoint() {
            self.state.lock().retention = retention;
            return Err(error);
        }
        let result = self.begin_epoch(cipher, salt, keys, retention).and_then(|()| self.checkpoint());
        if result.is_err() {
            // Nothing may be sealed in an epoch that the file does not know.
            self.state.lock().poisoned = true;
        }
        result
    }

    fn begin_epoch(
        &self,
        cipher: Cipher,
        salt: crate::seal::Salt,
        keys: Option<(&Key, Slots)>,
        retention: Retention,
    ) -> Result<(), BlockError> {
        let mut checkpoints = self.checkpoints.lock();
        let _gate = self.gate.write();
        let seq = self.close_log()?;
        if let Some((master, slots)) = keys {
            self.store.keys.set_master(Some(master)).ok_or_else(no_key)?;
            checkpoints.superblock.slots = slots;
        }
        let first = seq + 1;
        let first_segment = self.state.lock().log.leave_segment(&mut self.store.space.write())?;
        self.store.keys.begin(Epoch { first, salt, cipher }).ok_or_else(no_key)?;
        checkpoints.conversion = Some(Conversion { first, first_segment, retention });
        self.state.lock().converting = true;
        Ok(())
    }

    /// Ends the open record and writes all that is waiting. The gate is closed. Says the newest number.
    fn close_log(&self) -> Result<u64, BlockError> {
        let seq = {
            let mut state = self.usable()?;
            state.log.close(false, now_ms());
            state.log.seq()
        };
        self.push_out(seq)?;
        Ok(seq)
    }

    /// Drops all points, and sees to it that no new ones are made. Says which were kept so far.
    fn drop_all_points(&self, consent: bool) -> Result<Retention, BlockError> {
        let retention = {
            let mut state = self.usable()?;
            let count = state.points.all().len();
            if count > 0 && !consent {
                let what =
                    format!("the disk has {count} restore points, which can not be converted and must be dropped");
                return Err(refused(what));
            }
            let retention = std::mem::replace(&mut state.retention, Retention::OFF);
            let points: Vec<u64> = state.points.all().iter().map(|point| point.seq).collect();
            for point in points {
                state.drop_point(&mut self.store.space.write(), point, now_ms())?;
            }
            retention
        };
        if let Err(error) = self.commit(true) {
            self.state.lock().retention = retention;
            return Err(error);
        }
        Ok(retention)
    }

    /// Goes on with encrypting or decrypting until it is done, or `progress` breaks off. True when nothing is left to
    /// do, in the file either: what was there before is overwritten or given back to the host. (What a host's own
    /// snapshots, or a flash disk's spare blocks, still hold is not in reach.) May be called while guests use the disk;
    /// they wait while the last step overwrites.
    ///
    /// # Errors
    /// `Corrupt` for a block that can not be read: it must be overwritten or discarded first; the host's.
    pub fn convert(&self, progress: &mut dyn FnMut(Progress) -> ControlFlow<()>) -> Result<bool, BlockError> {
        let Some(conversion) = self.checkpoints.lock().conversion else { return Ok(true) };
        let first = conversion.first;
        if self.read_only {
            return Err(BlockError::new(BlockErrorKind::ReadOnly, "the disk is open for reading only"));
        }
        loop {
            let mut found = false;
            let mut lba = 0;
            let end = crate::resize::blocks(self.size_bytes());
            while lba < end {
                let total_bytes = self.size_bytes();
                let done_bytes = (lba * BLOCK_BYTES as u64).min(total_bytes);
                if progress(Progress { done_bytes, total_bytes }).is_break() {
                    return Ok(false);
                }
                let mut old = Vec::new();
                lba = {
                    let _readers = self.readers.read();
                    let root = self.state.lock().root;
                    self.store.walk(&root, lba..end, &mut { ROUND_STEPS }, &mut |lba, pointer| {
                        if pointer.birth < first {
                            old.push(lba);
                        }
                    })?
                };
                for near in old.chunk_by(|a, b| a / STRIPE_BLOCKS == b / STRIPE_BLOCKS) {
                    found |= self.write_anew(near, first)?;
                }
            }
            // What the pass wrote is in the map afterwards, and the next pass finds nothing.
            self.commit(true)?;
            self.checkpoint()?;
            if !found {
                break;
            }
        }
        self.finish_conversion(&conversion)?;
        Ok(true)
    }

    /// Writes those of these blocks anew that are still of an older epoch. They lie in one stripe.
    fn write_anew(&self, near: &[u64], first: u64) -> Result<bool, BlockError> {
        let Some(&lba) = near.first() else { return Ok(false) };
        // Guests wait: a block that one of them writes meanwhile must not get its old content back.
        let _alone = self.stripe(lba).write();
        let old: Vec<u64> = {
            let _readers = self.readers.read();
            let mut old = Vec::new();
            for lba in near {
                if self.current(*lba)?.birth < first && !self.current(*lba)?.address.is_none() {
                    old.push(*lba);
                }
            }
            old
        };
        for run in old.chunk_by(|a, b| a + 1 == *b) {
            let mut blocks = self.store.pool.take(run.len());
            self.read_blocks(run[0], blocks.bytes_mut())?;
            self.write_blocks(run[0], blocks)?;
        }
        Ok(!old.is_empty())
    }

    /// What a guest block is now.
    fn current(&self, lba: u64) -> Result<Pointer, BlockError> {
        let (fresh, root) = {
            let state = self.state.lock();
            (state.changes.fresh(lba), state.root)
        };
        match fresh {
            Some(fresh) => Ok(fresh.pointer),
            None => self.store.lookup(&root, lba),
        }
    }

    /// The map has nothing older than `first`: nor shall the file.
    fn finish_conversion(&self, conversion: &Conversion) -> Result<(), BlockError> {
        // Both superblocks and both heads are of the new epoch after two.
        self.checkpoint()?;
        self.checkpoint()?;
        self.wipe_unused(conversion.first_segment)?;
        let decrypted = {
            let mut checkpoints = self.checkpoints.lock();
            let Some(Conversion { retention, .. }) = checkpoints.conversion.take() else { return Ok(()) };
            let mut state = self.state.lock();
            (state.retention, state.converting) = (retention, false);
            drop(state);
            self.store.keys.forget_before(conversion.first);
            let decrypted = !checkpoints.superblock.cipher.is_secret();
            if decrypted {
                checkpoints.superblock.slots = Slots::default();
            }
            decrypted
        };
        if let Err(error) = self.checkpoint() {
            // The file says that there is more to do, and an opening finds that there is not.
            self.state.lock().poisoned = true;
            return Err(error);
        }
        if decrypted {
            let mut checkpoints = self.checkpoints.lock();
            let next = checkpoints.superblock.clone();
            self.write_superblocks(&mut checkpoints.superblock, next)?;
            // Not before: a superblock that an opening finds may still want it.
            self.store.keys.set_master(None);
        }
        Ok(())
    }

    /// Overwrites whatever the file holds and does not need: what was there before may be readable. Nothing is needed in
    /// segments before `first_segment`; what is counted as if it were was lost count of, in a repair.
    fn wipe_unused(&self, first_segment: u64) -> Result<(), BlockError> {
        // Nothing is written or freed meanwhile, and no place is half given back.
        let _keeping = self.keeping.lock();
        let _checkpoints = self.checkpoints.lock();
        // Readers first: who writes takes both in this order.
        let readers = self.readers.write();
        let _gate = self.gate.write();
        drop(readers);
        self.close_log()?;
        let _held = self.hold()?;
        let medium = &*self.store.medium;
        let file_bytes = medium.size().map_err(io_error("asking for the file's length"))?;
        let mut ranges = {
            let mut space = self.store.space.write();
            space.forget_before(first_segment);
            // Spare places are among the free ones then.
            let freed = space.give_back(0, 0);
            space.given_back(&freed.places);
            space.dead_ranges(file_bytes)
        };
        let superblocks = crate::superblock::read_all(medium).map_err(io_error("reading the superblock"))?;
        for (area, offset) in (0u8..).zip(HEADS) {
            let of_area = superblocks.iter().flat_map(|(superblock, _)| superblock.as_ref().ok());
            let used = of_area.filter(|superblock| superblock.head_area == area).map(|superblock| superblock.head_len);
            let used = u64::from(used.max().unwrap_or(0));
            ranges.push((offset + used, HEAD_BYTES_MAX as u64 - used));
        }
        for (offset, len) in ranges {
            let end = (offset + len).min(file_bytes);
            let unit = BLOCK_BYTES as u64;
            let (from, until) = (offset.next_multiple_of(unit), end - end % unit);
            if from < until && medium.punch(from, until - from).is_ok() {
                self.wipe(offset, from)?;
                self.wipe(until, end)?;
            } else {
                self.wipe(offset, end)?;
            }
        }
        self.sync("overwriting what is not needed")
    }

    fn wipe(&self, from: u64, until: u64) -> Result<(), BlockError> {
        let zeroes = vec![0; usize::try_from(WIPE_BYTES.min(until.saturating_sub(from))).unwrap_or(0)];
        let mut at = from;
        while at < until {
            let len = (until - at).min(WIPE_BYTES);
            let bytes = zeroes.get(..len as usize).unwrap_or_default();
            self.store.medium.write_at(at, &[bytes]).map_err(io_error("overwriting what is not needed"))?;
            at += len;
        }
        Ok(())
    }
}
