//! The file behind an image: locked, positioned, synced, and poisoned when a sync fails.

use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use benchtop_block::file::{self, Durability, Lock};
use benchtop_block::{BlockError, BlockErrorKind, DiscardBehavior, Extent, ExtentKind, SECTOR_BYTES};
use benchtop_memory::VolatileSlice;

use crate::raw::regular_file;

/// How much is written at once where zeroes must be written out, in bytes.
const ZEROES_BYTES: u64 = 64 << 10;

/// An open, locked file. All offsets and lengths are in bytes of the file.
#[derive(Debug)]
pub(crate) struct ImageFile {
    file: File,
    read_only: bool,
    punches: bool,
    /// A sync failed and the file was not reopened since.
    poisoned: AtomicBool,
}

impl ImageFile {
    /// Takes a descriptor and locks it as [`RawDisk::open`](crate::RawDisk::open) does.
    ///
    /// # Errors
    /// `InUse`, `Unsupported` for what is not a regular file, `ReadOnly` for a descriptor that can not write, or the
    /// host's.
    pub(crate) fn open(file: File, read_only: bool) -> Result<Self, BlockError> {
        regular_file(&file)?;
        let lock = if read_only { Lock::Shared } else { Lock::Exclusive };
        if !file::try_lock(&file, lock).map_err(lock_error)? {
            return Err(BlockError::new(BlockErrorKind::InUse, "the image is in use by another VM or program"));
        }
        Self::open_unlocked(file, read_only)
    }

    /// As [`open`](Self::open) without the lock, for a look at an image that may be in use.
    pub(crate) fn open_unlocked(file: File, read_only: bool) -> Result<Self, BlockError> {
        let file_bytes = regular_file(&file)?;
        // Asked with a hole behind the end of the file, where nothing is.
        let behind = file_bytes.checked_next_multiple_of(4096);
        let punches = !read_only && behind.is_some_and(|behind| punch(&file, behind, 4096).is_ok());
        Ok(Self { file, read_only, punches, poisoned: AtomicBool::new(false) })
    }

    /// Whether writes are refused.
    pub(crate) fn is_read_only(&self) -> bool {
        self.read_only
    }

    /// What [`discard`](Self::discard) does.
    pub(crate) fn discard_behavior(&self) -> DiscardBehavior {
        if self.punches { DiscardBehavior::Zeroes } else { DiscardBehavior::Ignored }
    }

    /// Length of the file.
    pub(crate) fn len_bytes(&self) -> Result<u64, BlockError> {
        regular_file(&self.file)
    }

    /// Fails after a failed sync.
    pub(crate) fn check_poison(&self) -> Result<(), BlockError> {
        if self.poisoned.load(Relaxed) {
            return Err(BlockError::new(BlockErrorKind::Poisoned, "an earlier sync of this image failed"));
        }
        Ok(())
    }

    /// Reads `len` bytes, of which the caller has bounded the number.
    pub(crate) fn read_bytes(&self, offset_bytes: u64, len: usize) -> Result<Vec<u8>, BlockError> {
        let mut bytes = vec![0; len];
        self.read(offset_bytes, &[VolatileSlice::from(&mut bytes[..])])?;
        Ok(bytes)
    }

    /// As [`read_bytes`](Self::read_bytes) for a part of the image that the format says is there: a file that ends
    /// first is corrupt.
    pub(crate) fn read_metadata(&self, offset_bytes: u64, len: usize, what: &str) -> Result<Vec<u8>, BlockError> {
        let end = offset_bytes.checked_add(len as u64);
        if end.is_none_or(|end| self.len_bytes().is_ok_and(|len_bytes| end > len_bytes)) {
            let context = format!("the image ends before its {what} at {offset_bytes:#x}");
            return Err(BlockError::new(BlockErrorKind::Corrupt, context));
        }
        self.read_bytes(offset_bytes, len)
    }

    /// Fills `into`.
    pub(crate) fn read(&self, offset_bytes: u64, into: &[VolatileSlice<'_>]) -> Result<(), BlockError> {
        file::read_at(&self.file, offset_bytes, into)
            .map_err(|error| BlockError::from_io(format!("reading the image at {offset_bytes:#x} failed"), error))
    }

    /// Writes `from`.
    pub(crate) fn write(&self, offset_bytes: u64, from: &[VolatileSlice<'_>]) -> Result<(), BlockError> {
        #[cfg(test)]
        super::crash::record_write(offset_bytes, from);
        file::write_at(&self.file, offset_bytes, from, Durability::Accepted)
            .map_err(|error| BlockError::from_io(format!("writing the image at {offset_bytes:#x} failed"), error))
    }

    /// Writes bytes of our own.
    pub(crate) fn write_bytes(&self, offset_bytes: u64, bytes: &[u8]) -> Result<(), BlockError> {
        let mut bytes = bytes.to_vec();
        self.write(offset_bytes, &[VolatileSlice::from(&mut bytes[..])])
    }

    /// Makes the file `len_bytes` long.
    pub(crate) fn set_len(&self, len_bytes: u64) -> Result<(), BlockError> {
        #[cfg(test)]
        super::crash::record_set_len(len_bytes);
        self.file
            .set_len(len_bytes)
            .map_err(|error| BlockError::from_io(format!("making the image {len_bytes:#x} bytes long failed"), error))
    }

    /// Makes the range read as zeroes, with a hole where the file system makes them. The range must end in the file.
    pub(crate) fn zero(&self, offset_bytes: u64, len_bytes: u64) -> Result<(), BlockError> {
        if self.punches && self.punch(offset_bytes, len_bytes).is_ok() {
            return Ok(());
        }
        let zeroes = vec![0; len_bytes.min(ZEROES_BYTES) as usize];
        let mut done = 0;
        while done < len_bytes {
            let here = (len_bytes - done).min(ZEROES_BYTES);
            self.write_bytes(offset_bytes.saturating_add(done), &zeroes[..here as usize])?;
            done += here;
        }
        Ok(())
    }

    /// Makes the range, which must end in the file, read as zeroes and gives its room back, where the file system can.
    pub(crate) fn discard(&self, offset_bytes: u64, len_bytes: u64) -> Result<(), BlockError> {
        if !self.punches || len_bytes == 0 {
            return Ok(());
        }
        self.punch(offset_bytes, len_bytes)
            .map_err(|error| BlockError::from_io(format!("discarding at {offset_bytes:#x} failed"), error))
    }

    fn punch(&self, offset_bytes: u64, len_bytes: u64) -> io::Result<()> {
        #[cfg(test)]
        super::crash::record_zero(offset_bytes, len_bytes);
        punch(&self.file, offset_bytes, len_bytes)
    }

    /// Makes all that was written before durable; a failure poisons the image.
    pub(crate) fn sync(&self) -> Result<(), BlockError> {
        self.check_poison()?;
        #[cfg(test)]
        if super::crash::sync_fails() {
            self.poisoned.store(true, Relaxed);
            return Err(BlockError::new(BlockErrorKind::Io, "syncing the image failed as the test asked"));
        }
        #[cfg(test)]
        if !super::crash::sync_is_real() {
            super::crash::record_sync();
            return Ok(());
        }
        self.file.sync_data().map_err(|error| {
            self.poisoned.store(true, Relaxed);
            BlockError::from_io("syncing the image failed", error)
        })?;
        #[cfg(test)]
        super::crash::record_sync();
        Ok(())
    }

    /// The error of a forced write: one after which nothing may be retried must not look like a lack of room.
    pub(crate) fn forced(&self, error: BlockError) -> BlockError {
        match self.check_poison() {
            Ok(()) => error,
            Err(_) => BlockError::new(BlockErrorKind::Poisoned, format!("forcing a write to disk failed: {error}")),
        }
    }

    /// Syncs after a failure, and is usable again if that succeeds. The descriptor stays, as in
    /// [`RawDisk`](crate::RawDisk).
    pub(crate) fn reopen(&self, at_least_bytes: u64) -> Result<(), BlockError> {
        if self.len_bytes()? < at_least_bytes {
            return Err(BlockError::new(BlockErrorKind::Corrupt, "the image became shorter while it was open"));
        }
        self.file.sync_all().map_err(|error| BlockError::from_io("syncing the image failed again", error))?;
        self.poisoned.store(false, Relaxed);
        Ok(())
    }

    /// What the file holds from `offset_bytes` on, for at most `limit_bytes`, which is not 0 and whole sectors: holes
    /// of the file are told as zeroes.
    #[cfg(target_os = "linux")]
    pub(crate) fn extent(&self, offset_bytes: u64, limit_bytes: u64) -> Extent {
        use rustix::fs::{SeekFrom, seek};
        let end = offset_bytes.saturating_add(limit_bytes);
        // The file's position is nobody's: all transfers say where.
        let (kind, until) = match seek(&self.file, SeekFrom::Data(offset_bytes)) {
            Ok(data) if data <= offset_bytes => {
                (ExtentKind::Data, seek(&self.file, SeekFrom::Hole(offset_bytes)).unwrap_or(end))
            }
            Ok(data) => (ExtentKind::Zeroes, data),
            // Behind the end of the file is nothing to read, which the read then says.
            Err(_) => (ExtentKind::Data, end),
        };
        let len_bytes = until.min(end).saturating_sub(offset_bytes);
        match len_bytes - len_bytes % SECTOR_BYTES {
            0 => Extent { kind: ExtentKind::Data, len_bytes: limit_bytes.min(SECTOR_BYTES) },
            len_bytes => Extent { kind, len_bytes },
        }
    }

    /// As on Linux, where nothing is known of holes.
    #[cfg(not(target_os = "linux"))]
    pub(crate) fn extent(&self, _offset_bytes: u64, limit_bytes: u64) -> Extent {
        Extent { kind: ExtentKind::Data, len_bytes: limit_bytes }
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
