//! A disk, as the I/O path sees it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{SystemTime, UNIX_EPOCH};

use benchtop_block::{BlockError, DiscardBehavior, DiskBackend, DiskInfo, Extent, pieces};
use benchtop_memory::VolatileSlice;
use parking_lot::{Mutex, RwLock};

use crate::core::Core;
use crate::keeper::Keeper;
use crate::layout::BLOCK_BYTES;
use crate::open::{OpenOptions, Purpose};
use crate::pens::Pens;
use crate::points::Retention;
use crate::seal::Keyring;
use crate::superblock::Superblock;
use crate::tidy::Tidying;

/// A Strata disk.
#[derive(Debug)]
pub struct StrataDisk {
    /// Another one after the disk was opened anew.
    core: RwLock<Arc<Core>>,
    /// None for one that is only read.
    threads: Mutex<Option<Threads>>,
}

/// What runs beside whoever uses the disk.
#[derive(Debug)]
struct Threads {
    _keeper: Keeper,
    _pens: Pens,
}

impl Threads {
    fn start(core: &Arc<Core>) -> Self {
        Self { _keeper: Keeper::start(core), _pens: Pens::start(core) }
    }
}

/// How full a disk's file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpaceInfo {
    /// Bytes that the newest state or a restore point needs, with what describes them.
    pub live_bytes: u64,
    /// Bytes of the file in use, with what is not needed any more and not yet given back.
    pub used_bytes: u64,
}

/// Milliseconds since 1970, for people; nothing depends on it going forward.
pub(crate) fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| u64::try_from(time.as_millis()).unwrap_or(0))
}

/// Says what failed.
pub(crate) fn io_error(doing: &'static str) -> impl FnOnce(std::io::Error) -> BlockError {
    move |error| BlockError::from_io(format!("{doing} failed"), error)
}

impl StrataDisk {
    pub(crate) fn of(core: Core) -> Self {
        let core = Arc::new(core);
        let threads = (!core.read_only).then(|| Threads::start(&core));
        Self { core: RwLock::new(core), threads: Mutex::new(threads) }
    }

    pub(crate) fn core(&self) -> Arc<Core> {
        self.core.read().clone()
    }

    /// Makes a checkpoint now: opening the disk will find nothing to do.
    ///
    /// # Errors
    /// The host's; the disk goes on without it unless a sync failed.
    pub fn checkpoint(&self) -> Result<(), BlockError> {
        let core = self.core();
        core.make_checkpoint(&mut core.checkpoints.lock())
    }

    /// Frees what guests overwrote since the last checkpoint and no restore point needs, without another checkpoint.
    ///
    /// # Errors
    /// The host's; the disk goes on without it unless a sync failed.
    pub fn amend(&self) -> Result<(), BlockError> {
        let core = self.core();
        core.amend(&mut core.checkpoints.lock())
    }

    /// Puts the disk in order: what neighbours on it is written anew if it lies scattered and no restore point needs it;
    /// what is left of nearly empty segments moves together until no more than `garbage_percent` of what is needed is
    /// garbage; free space goes back to the host.
    ///
    /// # Errors
    /// The host's; the disk goes on without it unless a sync failed.
    pub fn compact(&self, garbage_percent: u64) -> Result<(), BlockError> {
        let core = self.core();
        core.tidy(&mut Tidying::default(), std::time::Duration::MAX)?;
        let mut checkpoints = core.checkpoints.lock();
        core.make_checkpoint(&mut checkpoints)?;
        core.compact_to(&mut checkpoints, garbage_percent)?;
        core.give_back(0);
        Ok(())
    }

    /// From now on, garbage may take so many percent of what is needed before the disk compacts itself.
    pub fn set_garbage_percent(&self, percent: u64) {
        self.core().garbage_percent.store(percent, Ordering::Relaxed);
    }

    /// Lets go of the disk as a crash would: nothing more is written, and what was not flushed is lost.
    pub fn abandon(self) {
        drop(self.threads.lock().take());
        self.core().state.lock().poisoned = true;
    }

    /// How full the file is.
    pub fn space(&self) -> SpaceInfo {
        let usage = self.core().store.space.read().usage();
        let bytes = |blocks: u64| blocks * BLOCK_BYTES as u64;
        SpaceInfo { live_bytes: bytes(usage.live_blocks), used_bytes: bytes(usage.used_blocks) }
    }

    /// Which restore points are kept.
    pub fn retention(&self) -> Retention {
        self.core().state.lock().retention
    }

    /// Changes which restore points are kept. What is no longer wanted goes with the checkpoint that this makes.
    ///
    /// # Errors
    /// The host's.
    pub fn set_retention(&self, retention: Retention) -> Result<(), BlockError> {
        self.core().refuse_while_converting()?;
        self.core().usable()?.retention = retention;
        self.checkpoint()
    }
}

impl DiskBackend for StrataDisk {
    fn info(&self) -> DiskInfo {
        let core = self.core();
        let read_only = core.read_only;
        DiskInfo {
            size_bytes: core.size_bytes(),
            logical_block_bytes: 512,
            physical_block_bytes: BLOCK_BYTES as u32,
            read_only,
            discard: if read_only { DiscardBehavior::Ignored } else { DiscardBehavior::Zeroes },
            format: "strata",
        }
    }

    fn read_at(&self, offset_bytes: u64, into: &[VolatileSlice<'_>]) -> Result<(), BlockError> {
        let len_bytes = pieces::len_bytes(into);
        self.info().check_range(offset_bytes, len_bytes)?;
        self.core().read_bytes(offset_bytes, offset_bytes + len_bytes, into)
    }

    fn write_at(&self, offset_bytes: u64, from: &[VolatileSlice<'_>], fua: bool) -> Result<(), BlockError> {
        let len_bytes = pieces::len_bytes(from);
        self.info().check_write(offset_bytes, len_bytes)?;
        let core = self.core();
        core.split(
            offset_bytes,
            len_bytes,
            |lba, count, at| {
                let mut blocks = core.store.pool.take(count as usize);
                pieces::gather(from, at, blocks.bytes_mut());
                core.write_blocks(lba, blocks)
            },
            |lba, within, len, at| {
                let mut bytes = [0; BLOCK_BYTES];
                pieces::gather(from, at, &mut bytes[..len]);
                core.change_part(lba, within, &bytes[..len])
            },
        )?;
        if fua { core.commit(false).map(|_seq| ()) } else { Ok(()) }
    }

    fn flush(&self) -> Result<(), BlockError> {
        if self.core().read_only {
            return Ok(());
        }
        self.core().commit(true).map(|_seq| ())
    }

    fn sync(&self) -> Result<(), BlockError> {
        if self.core().read_only {
            return Ok(());
        }
        self.core().commit(false).map(|_seq| ())
    }

    fn reopen(&self) -> Result<(), BlockError> {
        let old = self.core();
        if !old.state.lock().poisoned {
            return Ok(());
        }
        let mut threads = self.threads.lock();
        drop(threads.take());
        // What the host's cache has of the file may be what it failed to write.
        old.store.medium.forget().map_err(io_error("opening the disk anew"))?;
        // While a disk is being encrypted or decrypted, the one in force may be from before or after.
        let keys = |superblock: &Superblock| match superblock.has_slots() {
            true => old.store.keys.anew(),
            false => Keyring::new(None),
        };
        let unlock = &mut |superblock: &_| keys(superblock).ok_or_else(crate::open::no_memory);
        let core = Arc::new(Core::open(&old.store.medium, unlock, &OpenOptions::default(), Purpose::Writing)?);
        *threads = Some(Threads::start(&core));
        *self.core.write() = core;
        Ok(())
    }

    fn discard(&self, offset_bytes: u64, len_bytes: u64) -> Result<(), BlockError> {
        self.info().check_write(offset_bytes, len_bytes)?;
        self.core().discard_range(offset_bytes, len_bytes)
    }

    fn extent_at(&self, offset_bytes: u64, limit_bytes: u64) -> Result<Extent, BlockError> {
        self.info().check_range(offset_bytes, limit_bytes)?;
        self.core().extent(offset_bytes, limit_bytes)
    }
}

impl Drop for StrataDisk {
    fn drop(&mut self) {
        drop(self.threads.lock().take());
        let core = self.core();
        if core.read_only {
            return;
        }
        let poisoned = || core.state.lock().poisoned;
        if !poisoned() {
            // What was acknowledged and not flushed may be lost; a clean end loses nothing.
            if let Err(error) = core.commit(true).and_then(|_seq| self.checkpoint()) {
                tracing::error!(%error, "the disk could not be closed cleanly; opening it will read the log");
            }
            // Nobody writes to a closed disk: it keeps no room to spare.
            core.give_back(0);
        }
        if poisoned() {
            crate::open::forget_what_failed(&*core.store.medium);
        }
    }
}
