//! The file behind an image: locked, positioned, synced, and poisoned when a sync fails.

use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use benchtop_block::file::{self, Durability, Lock};
use benchtop_block::{BlockError, BlockErrorKind, pieces};
use benchtop_memory::VolatileSlice;
use parking_lot::Mutex;

use super::scatter::Scatter;
use crate::raw::regular_file;

/// An open, locked file. All offsets and lengths are in bytes of the file.
#[derive(Debug)]
pub(super) struct ImageFile {
    file: File,
    read_only: bool,
    punches: bool,
    /// Length as far as this process knows: what it was when opened, or what it was made since.
    len_bytes: AtomicU64,
    /// Kept while the file is made longer, so that nobody makes it shorter again.
    growing: Mutex<()>,
    /// A sync failed and the file was not reopened since.
    poisoned: AtomicBool,
    #[cfg(test)]
    pub(super) journal: super::tests::Journal,
}

impl ImageFile {
    /// Takes a descriptor and locks it as [`RawDisk::open`](crate::RawDisk::open) does.
    ///
    /// # Errors
    /// `InUse`, `Unsupported` for what is not a regular file, `ReadOnly` for a descriptor that can not write, or the
    /// host's.
    pub fn open(file: File, read_only: bool) -> Result<Self, BlockError> {
        let lock = if read_only { Lock::Shared } else { Lock::Exclusive };
        regular_file(&file)?;
        if !file::try_lock(&file, lock).map_err(lock_error)? {
            return Err(BlockError::new(BlockErrorKind::InUse, "the image is in use by another VM or program"));
        }
        let len_bytes = regular_file(&file)?;
        Ok(Self::unlocked(file, len_bytes, read_only))
    }

    /// As [`open`](Self::open), for a file of `len_bytes` that is being made or only asked about.
    pub fn unlocked(file: File, len_bytes: u64, read_only: bool) -> Self {
        // Asked with a hole behind the end of the file, where nothing is.
        let behind = len_bytes.checked_next_multiple_of(4096);
        let punches = !read_only && behind.is_some_and(|behind| punch(&file, behind, 4096).is_ok());
        Self {
            file,
            read_only,
            punches,
            len_bytes: AtomicU64::new(len_bytes),
            growing: Mutex::new(()),
            poisoned: AtomicBool::new(false),
            #[cfg(test)]
            journal: super::tests::Journal::default(),
        }
    }

    /// The descriptor.
    pub fn into_inner(self) -> File {
        self.file
    }

    /// Whether writes are refused.
    pub fn is_read_only(&self) -> bool {
        self.read_only
    }

    /// Length of the file.
    pub fn len_bytes(&self) -> u64 {
        self.len_bytes.load(Relaxed)
    }

    /// Fails after a failed sync.
    pub fn check_poison(&self) -> Result<(), BlockError> {
        if self.poisoned.load(Relaxed) {
            return Err(BlockError::new(BlockErrorKind::Poisoned, "an earlier sync of this image failed"));
        }
        Ok(())
    }

    /// Fills `into`; what lies behind the end of the file reads as zeroes, as the format's preallocations need.
    pub fn read(&self, offset_bytes: u64, into: &[VolatileSlice<'_>]) -> Result<(), BlockError> {
        let wanted = pieces::len_bytes(into);
        let stored = self.len_bytes().saturating_sub(offset_bytes).min(wanted);
        let failed = |error| BlockError::from_io(format!("reading the image at {offset_bytes:#x} failed"), error);
        if stored == wanted {
            return file::read_at(&self.file, offset_bytes, into).map_err(failed);
        }
        let mut rest = Scatter::new(into);
        file::read_at(&self.file, offset_bytes, &rest.take(stored)).map_err(failed)?;
        rest.take(wanted - stored).iter().for_each(pieces::zero);
        Ok(())
    }

    /// As [`read`](Self::read) into new memory, whose length the caller has bounded.
    pub fn read_bytes(&self, offset_bytes: u64, len: usize) -> Result<Vec<u8>, BlockError> {
        let mut bytes = vec![0; len];
        self.read(offset_bytes, &[VolatileSlice::from(&mut bytes[..])])?;
        Ok(bytes)
    }

    /// Writes `from`, durably on return where that is asked for; then a failure poisons the image. The file becomes
    /// longer where it must: images of others end within their last cluster.
    pub fn write(
        &self,
        offset_bytes: u64,
        from: &[VolatileSlice<'_>],
        durability: Durability,
    ) -> Result<(), BlockError> {
        self.grow(offset_bytes.saturating_add(pieces::len_bytes(from)))?;
        #[cfg(test)]
        self.journal.wrote(offset_bytes, from);
        let result = file::write_at(&self.file, offset_bytes, from, durability);
        let context = || format!("writing the image at {offset_bytes:#x} failed");
        match durability {
            Durability::Accepted => result.map_err(|error| BlockError::from_io(context(), error)),
            Durability::Durable => result.map_err(|error| self.poison(&format!("{} durably: {error}", context()))),
        }
    }

    /// Writes bytes of our own.
    pub fn write_bytes(&self, offset_bytes: u64, bytes: &[u8]) -> Result<(), BlockError> {
        let mut bytes = bytes.to_vec();
        self.write(offset_bytes, &[VolatileSlice::from(&mut bytes[..])], Durability::Accepted)
    }

    /// Makes the file at least `len_bytes` long.
    pub fn grow(&self, len_bytes: u64) -> Result<(), BlockError> {
        if len_bytes <= self.len_bytes() {
            return Ok(());
        }
        let _growing = self.growing.lock();
        if len_bytes <= self.len_bytes() {
            return Ok(());
        }
        #[cfg(test)]
        self.journal.grew(len_bytes);
        self.file.set_len(len_bytes).map_err(|error| BlockError::from_io("making the image longer failed", error))?;
        self.len_bytes.store(len_bytes, Relaxed);
        Ok(())
    }

    /// Gives the room of a range back, where the file system can; the range then reads as zeroes. It is done for
    /// the room alone, so a failure is none.
    pub fn punch(&self, offset_bytes: u64, len_bytes: u64) {
        let end = offset_bytes.saturating_add(len_bytes).min(self.len_bytes());
        if self.punches && offset_bytes < end && punch(&self.file, offset_bytes, end - offset_bytes).is_ok() {
            #[cfg(test)]
            self.journal.punched(offset_bytes, end - offset_bytes);
        }
    }

    /// Makes all that was written before durable; a failure poisons the image.
    pub fn sync(&self) -> Result<(), BlockError> {
        self.check_poison()?;
        #[cfg(test)]
        if self.journal.sync_fails() {
            return Err(self.poison("syncing the image failed as the test asked"));
        }
        self.file.sync_data().map_err(|error| self.poison(&format!("syncing the image failed: {error}")))?;
        #[cfg(test)]
        self.journal.synced();
        Ok(())
    }

    /// As after a failed sync: recovering from one failed.
    pub fn poison_again(&self) {
        self.poisoned.store(true, Relaxed);
    }

    fn poison(&self, context: &str) -> BlockError {
        self.poisoned.store(true, Relaxed);
        BlockError::new(BlockErrorKind::Poisoned, context)
    }

    /// Lets writes in again after a failed sync; the caller syncs next. The descriptor stays, as in
    /// [`RawDisk`](crate::RawDisk).
    pub fn unpoison(&self) -> Result<(), BlockError> {
        if regular_file(&self.file)? < self.len_bytes() {
            return Err(BlockError::new(BlockErrorKind::Corrupt, "the image became shorter while it was open"));
        }
        self.poisoned.store(false, Relaxed);
        Ok(())
    }
}

fn lock_error(error: io::Error) -> BlockError {
    #[cfg(unix)]
    if error.raw_os_error() == Some(rustix::io::Errno::BADF.raw_os_error()) {
        return BlockError::new(BlockErrorKind::ReadOnly, "the image's descriptor is not open for writing");
    }
    BlockError::from_io("the image can not be locked", error)
}

#[cfg(target_os = "linux")]
fn punch(file: &File, offset_bytes: u64, len_bytes: u64) -> io::Result<()> {
    use rustix::fs::{FallocateFlags, fallocate};
    loop {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        match fallocate(file, flags, offset_bytes, len_bytes) {
            Err(rustix::io::Errno::INTR) => {}
            result => return result.map_err(io::Error::from),
        }
    }
}

/// Not built for this host.
#[cfg(not(target_os = "linux"))]
fn punch(_file: &File, _offset_bytes: u64, _len_bytes: u64) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}
