//! A part of a file that holds the bytes of a disk, one for one.

use benchtop_block::{BlockError, BlockErrorKind, DiskBackend, DiskInfo, Extent, pieces};
use benchtop_memory::VolatileSlice;

use crate::file::ImageFile;
use crate::image::CheckReport;
use crate::mapped::Checked;

/// The part from `start_bytes` of the file on, as long as `info` says.
#[derive(Debug)]
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
        let file_bytes = file.len_bytes();
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

impl Checked for FlatDisk {
    /// That the part lies in the file was checked when it was opened.
    fn check(&self) -> Result<CheckReport, BlockError> {
        Ok(CheckReport::default())
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
        let at = self.in_file(offset_bytes);
        if fua { self.file.write_durably(at, from) } else { self.file.write(at, from) }
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
        self.file.reopen()
    }
}
