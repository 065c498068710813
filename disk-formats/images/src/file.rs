//! The file behind an image: locked, positioned, synced, and poisoned when a sync fails.

pub(crate) mod new;
pub(crate) mod overlay;
#[cfg(test)]
pub(crate) mod recording;

use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use benchtop_block::file::{self, Durability, Lock};
use benchtop_block::{BlockError, BlockErrorKind, DiscardBehavior, DiskInfo, Extent, ExtentKind, SECTOR_BYTES, pieces};
use benchtop_memory::VolatileSlice;
use overlay::Overlay;
use parking_lot::Mutex;

#[cfg(not(test))]
use benchtop_block::file::try_lock;
#[cfg(test)]
use recording::try_lock;

/// How much is written at once where zeroes must be written out, in bytes.
const ZEROES_BYTES: u64 = 64 << 10;

/// An open file. All offsets and lengths are in bytes of the file.
#[derive(Debug)]
pub(crate) struct ImageFile {
    file: File,
    read_only: bool,
    punches: bool,
    /// What lies behind the end reads as zeroes.
    padded: bool,
    /// What is shown in place of a part of the file, which is only read then.
    overlay: Option<Overlay>,
    /// Length as far as this process knows: what it was when opened, or what it was made since.
    len_bytes: AtomicU64,
    /// Kept while the length changes, so that nobody undoes what another did.
    changing_len: Mutex<()>,
    /// A sync failed and the file was not reopened since.
    poisoned: AtomicBool,
    /// Held by a sync: the host tells of a write that failed to the first one, and a second at the same time would
    /// succeed.
    syncing: Mutex<()>,
}

impl ImageFile {
    /// Takes an open descriptor, which must allow writing unless `read_only`, and locks the file against other VMs:
    /// a writer is alone, readers are not.
    ///
    /// # Errors
    /// `InUse` while somebody else holds it, `Unsupported` for what is not a regular file, `ReadOnly` for a descriptor
    /// that can not write, or the host's.
    pub(crate) fn open(file: File, read_only: bool) -> Result<Self, BlockError> {
        regular_file(&file)?;
        let lock = if read_only { Lock::Shared } else { Lock::Exclusive };
        if !try_lock(&file, lock).map_err(lock_error)? {
            return Err(BlockError::new(BlockErrorKind::InUse, "the image is in use by another VM or program"));
        }
        Self::open_unlocked(file, read_only)
    }

    /// As [`open`](Self::open) without the lock, for a file that is being made.
    pub(crate) fn open_unlocked(file: File, read_only: bool) -> Result<Self, BlockError> {
        let len_bytes = regular_file(&file)?;
        // Asked with a hole behind the end of the file, where nothing is.
        let behind = len_bytes.checked_next_multiple_of(4096);
        let punches = !read_only && behind.is_some_and(|behind| punch(&file, behind, 4096).is_ok());
        Ok(Self {
            file,
            read_only,
            punches,
            padded: false,
            overlay: None,
            len_bytes: AtomicU64::new(len_bytes),
            changing_len: Mutex::new(()),
            poisoned: AtomicBool::new(false),
            syncing: Mutex::new(()),
        })
    }

    /// A second descriptor for a look at an image that may be in use.
    pub(crate) fn borrowed(file: &File) -> Result<Self, BlockError> {
        let file = file.try_clone().map_err(|error| BlockError::from_io("the image can not be examined", error))?;
        Self::open_unlocked(file, true)
    }

    /// A second descriptor of the same open file, to be used when the first has gone.
    pub(crate) fn second(&self) -> Result<Self, BlockError> {
        let file = self.file.try_clone().map_err(|error| BlockError::from_io("the image can not be shared", error))?;
        Self::open_unlocked(file, self.read_only)
    }

    /// The same, where what lies behind the end of the file reads as zeroes, as qcow2's preallocations need.
    pub(crate) fn padded(mut self) -> Self {
        self.padded = true;
        self
    }

    /// Shows `overlay` in place of what it covers, and the file `len_bytes` long: what lies behind its real end reads as
    /// zeroes. For a file that is only read.
    pub(crate) fn lay_over(&mut self, overlay: Overlay, len_bytes: u64) {
        self.overlay = Some(overlay);
        self.len_bytes.fetch_max(len_bytes, Relaxed);
    }

    /// The same with writes refused; it stays locked as it is.
    pub(crate) fn into_reader(mut self) -> Self {
        self.read_only = true;
        self.punches = false;
        self
    }

    /// The descriptor.
    pub(crate) fn into_inner(self) -> File {
        self.file
    }

    /// Whether writes are refused.
    pub(crate) fn is_read_only(&self) -> bool {
        self.read_only
    }

    /// What [`discard`](Self::discard) does.
    pub(crate) fn discard_behavior(&self) -> DiscardBehavior {
        if self.punches { DiscardBehavior::Zeroes } else { DiscardBehavior::Ignored }
    }

    /// The facts of a disk in this file, with the usual sectors.
    pub(crate) fn disk_info(&self, size_bytes: u64, format: &'static str) -> DiskInfo {
        DiskInfo {
            size_bytes,
            logical_block_bytes: 512,
            physical_block_bytes: 4096,
            read_only: self.read_only,
            discard: self.discard_behavior(),
            format,
        }
    }

    /// Length of the file.
    pub(crate) fn len_bytes(&self) -> u64 {
        self.len_bytes.load(Relaxed)
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
        if end.is_none_or(|end| end > self.len_bytes()) {
            let context = format!("the image ends before its {what} at {offset_bytes:#x}");
            return Err(BlockError::new(BlockErrorKind::Corrupt, context));
        }
        self.read_bytes(offset_bytes, len)
    }

    /// Refuses a part of the disk that the image's tables say is in the file, and that the file lacks or has a part of.
    ///
    /// # Errors
    /// `Corrupt`.
    pub(crate) fn check_stored(&self, offset_bytes: u64, len_bytes: u64) -> Result<(), BlockError> {
        if len_bytes > 0 && offset_bytes.saturating_add(len_bytes) > self.len_bytes() {
            let context = format!("the image's table names data at {offset_bytes:#x}, behind the end of the file");
            return Err(BlockError::new(BlockErrorKind::Corrupt, context));
        }
        Ok(())
    }

    /// Fills `into`. A file that ends first is an error unless it is [`padded`](Self::padded).
    pub(crate) fn read(&self, offset_bytes: u64, into: &[VolatileSlice<'_>]) -> Result<(), BlockError> {
        let failed = |error| BlockError::from_io(format!("reading the image at {offset_bytes:#x} failed"), error);
        let wanted = pieces::len_bytes(into);
        if let Some(overlay) = &self.overlay {
            return self.read_over(overlay, offset_bytes, into);
        }
        let stored = self.len_bytes().saturating_sub(offset_bytes).min(wanted);
        if !self.padded || stored == wanted {
            return file::read_at(&self.file, offset_bytes, into).map_err(failed);
        }
        let mut rest = pieces::Scatter::new(into);
        file::read_at(&self.file, offset_bytes, &rest.take(stored)).map_err(failed)?;
        rest.take(wanted - stored).iter().for_each(pieces::zero);
        Ok(())
    }

    /// Reads the file as [`lay_over`](Self::lay_over) shows it.
    fn read_over(&self, overlay: &Overlay, offset_bytes: u64, into: &[VolatileSlice<'_>]) -> Result<(), BlockError> {
        let failed = |error| BlockError::from_io(format!("reading the image at {offset_bytes:#x} failed"), error);
        let wanted = pieces::len_bytes(into);
        if offset_bytes.saturating_add(wanted) > self.len_bytes() {
            return Err(failed(io::ErrorKind::UnexpectedEof.into()));
        }
        let stored = regular_file(&self.file)?.saturating_sub(offset_bytes).min(wanted);
        let mut rest = pieces::Scatter::new(into);
        file::read_at(&self.file, offset_bytes, &rest.take(stored)).map_err(failed)?;
        rest.take(wanted - stored).iter().for_each(pieces::zero);
        overlay.apply(offset_bytes, into);
        Ok(())
    }

    /// Writes `from`; the file becomes longer where it must.
    pub(crate) fn write(&self, offset_bytes: u64, from: &[VolatileSlice<'_>]) -> Result<(), BlockError> {
        self.grow(offset_bytes.saturating_add(pieces::len_bytes(from)))?;
        #[cfg(test)]
        recording::write(offset_bytes, from);
        file::write_at(&self.file, offset_bytes, from, Durability::Accepted)
            .map_err(|error| BlockError::from_io(format!("writing the image at {offset_bytes:#x} failed"), error))
    }

    /// As [`write`](Self::write), and durably on return; a failure of that poisons the image.
    ///
    /// It is tried without force first: "no space" then certainly concerns the write and may be retried, while any
    /// failure of the second call is a failed sync. One call would not tell the two apart, and the second copy into the
    /// page cache costs little beside the sync.
    pub(crate) fn write_durably(&self, offset_bytes: u64, from: &[VolatileSlice<'_>]) -> Result<(), BlockError> {
        self.write(offset_bytes, from)?;
        file::write_at(&self.file, offset_bytes, from, Durability::Durable).map_err(|error| {
            self.poison(&format!("forcing a write of the image at {offset_bytes:#x} to disk failed: {error}"))
        })
    }

    /// Writes bytes of our own.
    pub(crate) fn write_bytes(&self, offset_bytes: u64, bytes: &[u8]) -> Result<(), BlockError> {
        let mut bytes = bytes.to_vec();
        self.write(offset_bytes, &[VolatileSlice::from(&mut bytes[..])])
    }

    /// Makes the file at least `len_bytes` long.
    pub(crate) fn grow(&self, len_bytes: u64) -> Result<(), BlockError> {
        if len_bytes <= self.len_bytes() {
            return Ok(());
        }
        let _changing = self.changing_len.lock();
        if len_bytes <= self.len_bytes() { Ok(()) } else { self.set_len_held(len_bytes) }
    }

    /// Makes the file `len_bytes` long.
    pub(crate) fn set_len(&self, len_bytes: u64) -> Result<(), BlockError> {
        let _changing = self.changing_len.lock();
        self.set_len_held(len_bytes)
    }

    fn set_len_held(&self, len_bytes: u64) -> Result<(), BlockError> {
        #[cfg(test)]
        recording::set_len(len_bytes);
        self.file.set_len(len_bytes).map_err(|error| {
            BlockError::from_io(format!("making the image {len_bytes:#x} bytes long failed"), error)
        })?;
        self.len_bytes.store(len_bytes, Relaxed);
        Ok(())
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

    /// As [`discard`](Self::discard) for any range, and for the room alone, so that a failure is none.
    pub(crate) fn give_room_back(&self, offset_bytes: u64, len_bytes: u64) {
        let end = offset_bytes.saturating_add(len_bytes).min(self.len_bytes());
        self.discard(offset_bytes, end.saturating_sub(offset_bytes)).unwrap_or_default();
    }

    fn punch(&self, offset_bytes: u64, len_bytes: u64) -> io::Result<()> {
        #[cfg(test)]
        recording::zero(offset_bytes, len_bytes);
        punch(&self.file, offset_bytes, len_bytes)
    }

    /// Makes all that was written before durable; a failure poisons the image.
    pub(crate) fn sync(&self) -> Result<(), BlockError> {
        let _one = self.syncing.lock();
        self.check_poison()?;
        let synced = || {
            #[cfg(test)]
            if let Some(answer) = recording::sync() {
                return answer;
            }
            self.file.sync_data()
        };
        synced().map_err(|error| self.poison(&format!("syncing the image failed: {error}")))
    }

    /// What is said where nothing may be retried, and of nothing else: that must not look like a lack of room.
    fn poison(&self, context: &str) -> BlockError {
        self.poisoned.store(true, Relaxed);
        BlockError::new(BlockErrorKind::Poisoned, context)
    }

    /// As after a failed sync: recovering from one failed.
    pub(crate) fn poison_again(&self) {
        self.poisoned.store(true, Relaxed);
    }

    /// Lets writes in again after a failed sync; the caller syncs next.
    ///
    /// The descriptor stays: a process that may not open files has no other, and none is needed. Linux marks pages clean
    /// that it could not write, so a sync through any descriptor says nothing about *them*; but writing them again makes
    /// them dirty again, and the caller does that with all it still has.
    pub(crate) fn unpoison(&self) -> Result<(), BlockError> {
        if regular_file(&self.file)? < self.len_bytes() {
            return Err(BlockError::new(BlockErrorKind::Corrupt, "the image became shorter while it was open"));
        }
        self.poisoned.store(false, Relaxed);
        Ok(())
    }

    /// Syncs after a failure, and is usable again if that succeeds.
    pub(crate) fn reopen(&self) -> Result<(), BlockError> {
        self.unpoison()?;
        self.sync()
    }

    /// What the file holds from `offset_bytes` on, for at most `limit_bytes`, which is not 0 and whole sectors: holes
    /// of the file are told as zeroes.
    pub(crate) fn extent(&self, offset_bytes: u64, limit_bytes: u64) -> Extent {
        match self.overlay.as_ref().and_then(|overlay| overlay.next(offset_bytes)) {
            // What covers holes is data, to the end of its sector or as far as is asked.
            Some(next) if next <= offset_bytes => {
                let covered = next.saturating_add(overlay::SECTOR_BYTES) - offset_bytes;
                Extent { kind: ExtentKind::Data, len_bytes: covered.min(limit_bytes) }
            }
            Some(next) => self.stored_extent(offset_bytes, limit_bytes.min(next - offset_bytes)),
            None => self.stored_extent(offset_bytes, limit_bytes),
        }
    }

    /// As [`extent`](Self::extent), of the file alone.
    #[cfg(target_os = "linux")]
    fn stored_extent(&self, offset_bytes: u64, limit_bytes: u64) -> Extent {
        use rustix::fs::{SeekFrom, seek};
        let end = offset_bytes.saturating_add(limit_bytes);
        // The file's position is nobody's: all transfers say where.
        let (kind, until) = match seek(&self.file, SeekFrom::Data(offset_bytes)) {
            Ok(data) if data <= offset_bytes => {
                (ExtentKind::Data, seek(&self.file, SeekFrom::Hole(offset_bytes)).unwrap_or(end))
            }
            Ok(data) => (ExtentKind::Zeroes, data),
            // Nothing but a hole is left, if the file goes that far; what lies behind its end a read must refuse.
            Err(rustix::io::Errno::NXIO) if end <= self.len_bytes() => (ExtentKind::Zeroes, end),
            // A file system without an answer.
            Err(_) => (ExtentKind::Data, end),
        };
        // Holes begin and end at the file system's blocks, which are whole sectors but at the end of the file.
        let len_bytes = until.min(end).saturating_sub(offset_bytes);
        match len_bytes - len_bytes % SECTOR_BYTES {
            0 => Extent { kind: ExtentKind::Data, len_bytes: limit_bytes.min(SECTOR_BYTES) },
            len_bytes => Extent { kind, len_bytes },
        }
    }

    /// As on Linux, where nothing is known of holes.
    #[cfg(not(target_os = "linux"))]
    fn stored_extent(&self, _offset_bytes: u64, limit_bytes: u64) -> Extent {
        Extent { kind: ExtentKind::Data, len_bytes: limit_bytes }
    }
}

/// The length of a regular file, in bytes.
pub(crate) fn regular_file(file: &File) -> Result<u64, BlockError> {
    let metadata = file.metadata().map_err(|error| BlockError::from_io("the image's length can not be read", error))?;
    if !metadata.is_file() {
        return Err(BlockError::new(BlockErrorKind::Unsupported, "the image is not a regular file"));
    }
    Ok(metadata.len())
}

fn lock_error(error: io::Error) -> BlockError {
    #[cfg(unix)]
    if error.raw_os_error() == Some(rustix::io::Errno::BADF.raw_os_error()) {
        return BlockError::new(BlockErrorKind::ReadOnly, "the image's descriptor is not open for writing");
    }
    BlockError::from_io("the image can not be locked", error)
}

/// Makes a range read as zeroes and gives its room back.
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
