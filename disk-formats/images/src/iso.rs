//! A CD or DVD as the file that holds its sectors.

use std::fs::File;
use std::io;

use benchtop_block::file::{self, Lock};
use benchtop_block::{BlockError, BlockErrorKind, DiscardBehavior, DiskBackend, DiskInfo, pieces};
use benchtop_memory::VolatileSlice;

use crate::file::regular_file;
use crate::probe::{Format, probe_file};

/// A CD's block, in bytes.
pub const BLOCK_BYTES: u64 = 2048;

/// A read-only disc of 2048-byte blocks. A file that ends inside a block is read as if zeroes followed.
#[derive(Debug)]
pub struct IsoDisk {
    file: File,
    /// Length of the file when it was opened.
    file_bytes: u64,
    size_bytes: u64,
    iso9660: bool,
}

impl IsoDisk {
    /// Takes an open descriptor. Others may read the file at the same time, and nobody may write it who asks.
    ///
    /// # Errors
    /// `Unsupported` for what is not a regular file, `Corrupt` for an empty one, `InUse` while a VM writes it, or the
    /// host's.
    pub fn open(file: File) -> Result<Self, BlockError> {
        let file_bytes = regular_file(&file)?;
        if file_bytes == 0 {
            return Err(BlockError::new(BlockErrorKind::Corrupt, "the disc image is empty"));
        }
        let size_bytes = file_bytes
            .checked_next_multiple_of(BLOCK_BYTES)
            .ok_or_else(|| BlockError::new(BlockErrorKind::Unsupported, "the disc image is too long"))?;
        let locked = file::try_lock(&file, Lock::Shared)
            .map_err(|error| BlockError::from_io("the disc image can not be locked", error))?;
        if !locked {
            return Err(BlockError::new(BlockErrorKind::InUse, "the disc image is being written by another VM"));
        }
        let iso9660 = probe_file(&file)? == Format::Iso;
        Ok(Self { file, file_bytes, size_bytes, iso9660 })
    }

    /// Whether it holds an ISO 9660 or UDF volume. Guests use discs without one too, so this is only advice.
    pub fn is_iso9660(&self) -> bool {
        self.iso9660
    }

    /// Splits `into` at the end of the file: what the file has, and what is zeroes.
    fn split<'a>(
        &self,
        offset_bytes: u64,
        into: &[VolatileSlice<'a>],
    ) -> (Vec<VolatileSlice<'a>>, Vec<VolatileSlice<'a>>) {
        let mut left = self.file_bytes.saturating_sub(offset_bytes);
        let (mut stored, mut padding) = (Vec::new(), Vec::new());
        for slice in into {
            let here = usize::try_from(left).unwrap_or(usize::MAX).min(slice.len());
            left -= here as u64;
            if let Ok((head, tail)) = slice.split_at(here) {
                stored.push(head);
                padding.push(tail);
            }
        }
        (stored, padding)
    }

    fn read(&self, offset_bytes: u64, into: &[VolatileSlice<'_>]) -> io::Result<()> {
        // Only the last block can be short; all other reads go as they are.
        if offset_bytes.saturating_add(pieces::len_bytes(into)) <= self.file_bytes {
            return file::read_at(&self.file, offset_bytes, into);
        }
        let (stored, padding) = self.split(offset_bytes, into);
        file::read_at(&self.file, offset_bytes, &stored)?;
        padding.iter().for_each(pieces::zero);
        Ok(())
    }
}

impl DiskBackend for IsoDisk {
    fn info(&self) -> DiskInfo {
        DiskInfo {
            size_bytes: self.size_bytes,
            logical_block_bytes: BLOCK_BYTES as u32,
            physical_block_bytes: BLOCK_BYTES as u32,
            read_only: true,
            discard: DiscardBehavior::Ignored,
            format: "iso",
        }
    }

    fn read_at(&self, offset_bytes: u64, into: &[VolatileSlice<'_>]) -> Result<(), BlockError> {
        self.info().check_range(offset_bytes, pieces::len_bytes(into))?;
        self.read(offset_bytes, into)
            .map_err(|error| BlockError::from_io(format!("reading the disc image at {offset_bytes:#x} failed"), error))
    }

    fn write_at(&self, offset_bytes: u64, from: &[VolatileSlice<'_>], _fua: bool) -> Result<(), BlockError> {
        self.info().check_write(offset_bytes, pieces::len_bytes(from))
    }

    fn flush(&self) -> Result<(), BlockError> {
        Ok(())
    }

    fn discard(&self, offset_bytes: u64, len_bytes: u64) -> Result<(), BlockError> {
        self.info().check_write(offset_bytes, len_bytes)
    }

    fn reopen(&self) -> Result<(), BlockError> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use benchtop_block::conformance::{self, Sequence, read};
    use std::io::Write as _;

    fn disc(content: &[u8]) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(content).unwrap();
        file
    }

    #[test]
    fn a_short_tail_is_padded() {
        for tail in [0, 1, 511, 512, 513, 2047] {
            let mut content = Sequence::new(tail).bytes(20 * 2048 + tail as usize);
            let disk = IsoDisk::open(disc(&content).reopen().unwrap()).unwrap();
            content.resize(content.len().next_multiple_of(2048), 0);
            conformance::read_only(&disk, &content);
            let last = content.len() - 2048;
            assert_eq!(read(&disk, last as u64, 2048, &[3, 1000, 900]).unwrap(), content[last..]);
            assert!(!disk.is_iso9660());
        }
    }

    #[test]
    fn a_volume_is_recognised_and_an_empty_file_refused() {
        let mut content = vec![0; 40 * 2048];
        content[0x8001..0x8006].copy_from_slice(b"CD001");
        assert!(IsoDisk::open(disc(&content).reopen().unwrap()).unwrap().is_iso9660());
        assert_eq!(IsoDisk::open(disc(&[]).reopen().unwrap()).unwrap_err().kind(), BlockErrorKind::Corrupt);
    }

    #[test]
    fn a_file_cut_short_while_open_is_an_error_not_zeroes() {
        let file = disc(&[1; 8 * 2048]);
        let disk = IsoDisk::open(file.reopen().unwrap()).unwrap();
        file.as_file().set_len(4096).unwrap();
        assert_eq!(read(&disk, 4096, 2048, &[]).unwrap_err().kind(), BlockErrorKind::Io);
    }
}
