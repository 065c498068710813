//! A part of a file that holds the bytes of a disk, one for one.

use benchtop_block::{BlockError, BlockErrorKind, DiskBackend, DiskInfo, Extent, pieces};
use benchtop_memory::VolatileSlice;

use super::ImageFile;

/// The part from `start_bytes` of the file on, as long as `info` says.
pub(crate) struct FlatDisk {
    file: ImageFile,
    start_bytes: u64,
    info: DiskInfo,
}

impl FlatDisk {
    /// # Errors
    /// `Corrupt` where the file ends before the part does.
    pub(crate) fn new(file: ImageFile, start_bytes: u64, info: DiskInfo) -> Result<Self, BlockError> {
        let end = start_bytes.checked_add(info.size_bytes);
        let file_bytes = file.len_bytes()?;
        if end.is_none_or(|end| end > file_bytes) {
            let context = format!("a disk of {:#x} bytes does not fit into a file of {file_bytes:#x}", info.size_bytes);
            return Err(BlockError::new(BlockErrorKind::Corrupt, context));
        }
        Ok(Self { file, start_bytes, info })
    }

    fn check_write(&self, offset_bytes: u64, len_bytes: u64) -> Result<(), BlockError> {
        self.info.check_write(offset_bytes, len_bytes)?;
        self.file.check_poison()
    }

    /// The range was checked, so that nothing overflows.
    fn in_file(&self, offset_bytes: u64) -> u64 {
        self.start_bytes.saturating_add(offset_bytes)
    }
}

impl DiskBackend for FlatDisk {
    fn info(&self) -> DiskInfo {
        self.info.clone()
    }

    fn read_at(&self, offset_bytes: u64, into: &[VolatileSlice<'_>]) -> Result<(), BlockError> {
        self.info.check_range(offset_bytes, pieces::len_bytes(into))?;
        self.file.read(self.in_file(offset_bytes), into)
    }

    fn write_at(&self, offset_bytes: u64, from: &[VolatileSlice<'_>], fua: bool) -> Result<(), BlockError> {
        self.check_write(offset_bytes, pieces::len_bytes(from))?;
        self.file.write(self.in_file(offset_bytes), from)?;
        if fua { self.file.sync().map_err(|error| self.file.forced(error)) } else { Ok(()) }
    }

    fn flush(&self) -> Result<(), BlockError> {
        if self.info.read_only { Ok(()) } else { self.file.sync() }
    }

    fn discard(&self, offset_bytes: u64, len_bytes: u64) -> Result<(), BlockError> {
        self.check_write(offset_bytes, len_bytes)?;
        self.file.discard(self.in_file(offset_bytes), len_bytes)
    }

    fn extent_at(&self, offset_bytes: u64, limit_bytes: u64) -> Result<Extent, BlockError> {
        self.info.check_range(offset_bytes, limit_bytes)?;
        if limit_bytes == 0 {
            return Err(BlockError::new(BlockErrorKind::OutOfRange, "an empty range has no extents"));
        }
        Ok(self.file.extent(self.in_file(offset_bytes), limit_bytes))
    }

    fn reopen(&self) -> Result<(), BlockError> {
        self.file.reopen(self.in_file(self.info.size_bytes))
    }
}
