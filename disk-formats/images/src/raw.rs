//! A file that holds the bytes of a disk, one for one.

use std::fs::{File, Metadata};
use std::path::Path;

use benchtop_block::{BlockError, BlockErrorKind, SECTOR_BYTES};

use crate::file::{ImageFile, new, regular_file};
use crate::flat::FlatDisk;
use crate::mapped::delegate_backend;

/// A raw image. Reads and writes go through the host's page cache, straight between it and the request's memory.
///
/// The disk is the whole sectors of the file; bytes after the last whole one are not visible and are not touched.
pub struct RawDisk {
    backend: FlatDisk,
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
        let file = ImageFile::open(file, read_only)?;
        let info = file.disk_info(size_bytes, "raw");
        Ok(Self { backend: FlatDisk::new(file, 0, info)? })
    }
}

delegate_backend!(RawDisk);

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

/// Creates an image of `size_bytes` zeroes that takes no room yet, and opens it for reading and writing. It appears
/// under its name complete and durable, or not at all; a file that exists is never replaced.
///
/// # Errors
/// `OutOfRange` unless the size is a positive number of whole sectors; the host's, with `AlreadyExists` as its cause
/// where the name is taken.
pub fn create(path: &Path, size_bytes: u64) -> Result<File, BlockError> {
    new::check_size(size_bytes, u64::MAX, "raw")?;
    new::create_file(path, |file| file.set_len(size_bytes))
}

#[cfg(test)]
mod tests;
