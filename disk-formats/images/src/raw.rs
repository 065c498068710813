//! A file that holds the bytes of a disk, one for one.

use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use benchtop_block::file::{self, Durability, Lock};
use benchtop_block::{
    BlockError, BlockErrorKind, DiscardBehavior, DiskBackend, DiskInfo, Extent, ExtentKind, SECTOR_BYTES, pieces,
};
use benchtop_memory::VolatileSlice;

/// A raw image. Reads and writes go through the host's page cache, straight between it and the request's memory.
///
/// The disk is the whole sectors of the file; bytes after the last whole one are not visible and are not touched.
#[derive(Debug)]
pub struct RawDisk {
    file: File,
    size_bytes: u64,
    read_only: bool,
    discard: DiscardBehavior,
    /// A sync failed and the image was not reopened since.
    poisoned: AtomicBool,
}

impl RawDisk {
    /// Takes an open descriptor, which must allow writing unless `read_only`, and locks the file against other VMs:
    /// a writer is alone, readers are not.
    ///
    /// # Errors
    /// `InUse` while somebody else holds it, `Unsupported` for what is not a regular file or holds no sector,
    /// `ReadOnly` for a descriptor that can not write, or the host's.
    pub fn open(file: File, read_only: bool) -> Result<Self, BlockError> {
        let file_bytes = regular_file(&file)?;
        let size_bytes = file_bytes - file_bytes % SECTOR_BYTES;
        if size_bytes == 0 {
            return Err(BlockError::new(BlockErrorKind::Unsupported, "the image does not hold even one sector"));
        }
        let lock = if read_only { Lock::Shared } else { Lock::Exclusive };
        if !file::try_lock(&file, lock).map_err(lock_error)? {
            return Err(BlockError::new(BlockErrorKind::InUse, "the image is in use by another VM or program"));
        }
        let discard =
            if read_only || !can_punch(&file, file_bytes) { DiscardBehavior::Ignored } else { DiscardBehavior::Zeroes };
        let poisoned = AtomicBool::new(false);
        Ok(Self { file, size_bytes, read_only, discard, poisoned })
    }

    fn check_write(&self, offset_bytes: u64, len_bytes: u64) -> Result<(), BlockError> {
        self.info().check_write(offset_bytes, len_bytes)?;
        self.check_poison()
    }

    fn check_poison(&self) -> Result<(), BlockError> {
        if self.poisoned.load(Relaxed) {
            return Err(BlockError::new(BlockErrorKind::Poisoned, "an earlier sync of this image failed"));
        }
        Ok(())
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

/// Whether the file system makes holes, asked with a hole behind the end of the file, where nothing is.
fn can_punch(file: &File, file_bytes: u64) -> bool {
    match file_bytes.checked_next_multiple_of(4096) {
        Some(behind) => punch(file, behind, 4096).is_ok(),
        None => false,
    }
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

impl DiskBackend for RawDisk {
    fn info(&self) -> DiskInfo {
        DiskInfo {
            size_bytes: self.size_bytes,
            logical_block_bytes: 512,
            physical_block_bytes: 4096,
            read_only: self.read_only,
            discard: self.discard,
            format: "raw",
        }
    }

    fn read_at(&self, offset_bytes: u64, into: &[VolatileSlice<'_>]) -> Result<(), BlockError> {
        self.info().check_range(offset_bytes, pieces::len_bytes(into))?;
        file::read_at(&self.file, offset_bytes, into)
            .map_err(|error| BlockError::from_io(format!("reading the image at {offset_bytes:#x} failed"), error))
    }

    fn write_at(&self, offset_bytes: u64, from: &[VolatileSlice<'_>], fua: bool) -> Result<(), BlockError> {
        self.check_write(offset_bytes, pieces::len_bytes(from))?;
        // A forced write is tried without force first: "no space" then certainly concerns the write and may be
        // retried, while any failure of the second call is a failed sync. One call would not tell the two apart, and
        // the second copy into the page cache costs little beside the sync.
        file::write_at(&self.file, offset_bytes, from, Durability::Accepted)
            .map_err(|error| BlockError::from_io(format!("writing the image at {offset_bytes:#x} failed"), error))?;
        if fua {
            file::write_at(&self.file, offset_bytes, from, Durability::Durable).map_err(|error| {
                self.poisoned.store(true, Relaxed);
                let context = format!("forcing a write of the image at {offset_bytes:#x} to disk failed: {error}");
                BlockError::new(BlockErrorKind::Poisoned, context)
            })?;
        }
        Ok(())
    }

    fn flush(&self) -> Result<(), BlockError> {
        if self.read_only {
            return Ok(());
        }
        self.check_poison()?;
        self.file.sync_data().map_err(|error| {
            self.poisoned.store(true, Relaxed);
            BlockError::from_io("syncing the image failed", error)
        })
    }

    fn discard(&self, offset_bytes: u64, len_bytes: u64) -> Result<(), BlockError> {
        self.check_write(offset_bytes, len_bytes)?;
        if len_bytes == 0 || self.discard == DiscardBehavior::Ignored {
            return Ok(());
        }
        punch(&self.file, offset_bytes, len_bytes)
            .map_err(|error| BlockError::from_io(format!("discarding at {offset_bytes:#x} failed"), error))
    }

    /// The descriptor stays: a process that may not open files has no other, and none is needed. Linux marks pages
    /// clean that it could not write, so a sync through any descriptor says nothing about *them*; but writing them
    /// again makes them dirty again, and the caller does that with all it still has.
    #[cfg(target_os = "linux")]
    fn extent_at(&self, offset_bytes: u64, limit_bytes: u64) -> Result<Extent, BlockError> {
        use rustix::fs::{SeekFrom, seek};
        self.info().check_range(offset_bytes, limit_bytes)?;
        if limit_bytes == 0 {
            return Err(BlockError::new(BlockErrorKind::OutOfRange, "an empty range has no extents"));
        }
        let end = offset_bytes + limit_bytes;
        // The file's position is nobody's: all transfers say where.
        let (kind, until) = match seek(&self.file, SeekFrom::Data(offset_bytes)) {
            Ok(data) if data == offset_bytes => {
                (ExtentKind::Data, seek(&self.file, SeekFrom::Hole(offset_bytes)).unwrap_or(end))
            }
            Ok(data) => (ExtentKind::Zeroes, data),
            // Nothing but a hole is left.
            Err(rustix::io::Errno::NXIO) => (ExtentKind::Zeroes, end),
            // A file system without an answer.
            Err(_) => (ExtentKind::Data, end),
        };
        // Holes begin and end at the file system's blocks, which are whole sectors but at the end of the file.
        let len_bytes = until.min(end) - offset_bytes;
        match len_bytes - len_bytes % SECTOR_BYTES {
            0 => Ok(Extent { kind: ExtentKind::Data, len_bytes: SECTOR_BYTES }),
            len_bytes => Ok(Extent { kind, len_bytes }),
        }
    }

    fn reopen(&self) -> Result<(), BlockError> {
        let len_bytes = regular_file(&self.file)?;
        if len_bytes < self.size_bytes {
            return Err(BlockError::new(BlockErrorKind::Corrupt, "the image became shorter while it was open"));
        }
        self.file.sync_all().map_err(|error| BlockError::from_io("syncing the image failed again", error))?;
        self.poisoned.store(false, Relaxed);
        Ok(())
    }
}

/// What can be said of a raw image without a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RawInfo {
    /// Size of the disk, whole sectors.
    pub virtual_bytes: u64,
    /// Length of the file.
    pub file_bytes: u64,
    /// Room it takes on the host; less than its length where it has holes.
    pub allocated_bytes: u64,
}

/// Facts about an open raw image. Takes no lock, so an image in use can be asked about too.
///
/// # Errors
/// `Unsupported` for what is not a regular file, or the host's.
pub fn info(file: &File) -> Result<RawInfo, BlockError> {
    let file_bytes = regular_file(file)?;
    let metadata = file.metadata().map_err(|error| BlockError::from_io("the image can not be examined", error))?;
    Ok(RawInfo {
        virtual_bytes: file_bytes - file_bytes % SECTOR_BYTES,
        file_bytes,
        allocated_bytes: allocated_bytes(&metadata),
    })
}

#[cfg(unix)]
fn allocated_bytes(metadata: &Metadata) -> u64 {
    // POSIX counts in 512-byte units here whatever the file system's block.
    std::os::unix::fs::MetadataExt::blocks(metadata).saturating_mul(512)
}

#[cfg(not(unix))]
fn allocated_bytes(metadata: &Metadata) -> u64 {
    metadata.len()
}

/// Removes a temporary name when it has served.
struct Unfinished<'a>(&'a Path);

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        // After a rename it is gone, and a failure to clean up must not hide the error that led here.
        std::fs::remove_file(self.0).unwrap_or_default();
    }
}

/// Creates an image of `size_bytes` zeroes that takes no room yet, and opens it for reading and writing. It appears
/// under its name complete and durable, or not at all; a file that exists is never replaced.
///
/// # Errors
/// `OutOfRange` unless the size is a positive number of whole sectors; the host's, with `AlreadyExists` as its cause
/// where the name is taken.
pub fn create(path: &Path, size_bytes: u64) -> Result<File, BlockError> {
    if size_bytes == 0 || !size_bytes.is_multiple_of(SECTOR_BYTES) {
        let context = format!("{size_bytes} bytes is not a positive number of {SECTOR_BYTES}-byte sectors");
        return Err(BlockError::new(BlockErrorKind::OutOfRange, context));
    }
    let failed = |what: &str, error| BlockError::from_io(format!("{what}: {}", path.display()), error);
    let temporary = temporary_name(path).map_err(|error| failed("this is not a name for an image", error))?;
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let file = options.open(&temporary).map_err(|error| failed("the image can not be created", error))?;
    let unfinished = Unfinished(&temporary);
    file.set_len(size_bytes)
        .and_then(|()| file.sync_all())
        .and_then(|()| rename_new(&temporary, path))
        .and_then(|()| sync_directory(path).inspect_err(|_error| std::fs::remove_file(path).unwrap_or_default()))
        .map_err(|error| failed("the image can not be created", error))?;
    drop(unfinished);
    Ok(file)
}

/// A name in the same directory that nobody else uses: hidden, with this process's number.
fn temporary_name(path: &Path) -> io::Result<PathBuf> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let mut temporary = std::ffi::OsString::from(".");
    temporary.push(name);
    temporary.push(format!(".{}.new", std::process::id()));
    Ok(path.with_file_name(temporary))
}

/// Gives a file its name unless that is taken. A hard link does it on every Unix file system that has them; others
/// have the rename that refuses.
#[cfg(target_os = "linux")]
fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    use rustix::io::Errno;
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        Err(Errno::INVAL | Errno::NOSYS) => std::fs::hard_link(from, to),
        result => result.map_err(io::Error::from),
    }
}

#[cfg(not(target_os = "linux"))]
fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    std::fs::hard_link(from, to)
}

/// Makes the name of a file durable.
fn sync_directory(path: &Path) -> io::Result<()> {
    if cfg!(windows) {
        return Ok(());
    }
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests;
