//! The extents of a disk one after the other.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use benchtop_block::{BlockError, BlockErrorKind, DiscardBehavior, DiskBackend, DiskInfo, Extent, ExtentKind, pieces};
use benchtop_memory::VolatileSlice;

use super::descriptor::new_content_id;
use crate::file::ImageFile;
use crate::image::CheckReport;
use crate::mapped::Checked;

/// A run of the disk; without a backend it is zeroes.
pub(super) struct Part {
    pub(super) len_bytes: u64,
    pub(super) backend: Option<Box<dyn Checked>>,
}

pub(super) struct ConcatDisk {
    /// Each with the offset at which it ends.
    parts: Vec<(u64, Part)>,
    info: DiskInfo,
    descriptor: ImageFile,
    content_id_at: Option<u64>,
    /// The descriptor says that the content changed.
    begun: AtomicBool,
    /// A sync of some extent failed: none may be written then.
    poisoned: AtomicBool,
}

impl ConcatDisk {
    /// `parts` are not empty, and together shorter than 2^63 bytes.
    pub(super) fn new(parts: Vec<Part>, read_only: bool, descriptor: ImageFile, content_id_at: Option<u64>) -> Self {
        let mut end = 0u64;
        let parts: Vec<(u64, Part)> = parts
            .into_iter()
            .map(|part| {
                end = end.saturating_add(part.len_bytes);
                (end, part)
            })
            .collect();
        let zeroes = parts
            .iter()
            .all(|(_, part)| part.backend.as_ref().is_some_and(|part| part.info().discard == DiscardBehavior::Zeroes));
        let info = DiskInfo {
            size_bytes: end,
            logical_block_bytes: 512,
            physical_block_bytes: 4096,
            read_only,
            discard: if zeroes { DiscardBehavior::Zeroes } else { DiscardBehavior::Ignored },
            format: "vmdk",
        };
        Self { parts, info, descriptor, content_id_at, begun: AtomicBool::new(false), poisoned: AtomicBool::new(false) }
    }

    /// The part at an offset, with the offset in it and the bytes from there to its end.
    fn part_at(&self, offset_bytes: u64) -> Option<(&Part, u64, u64)> {
        let index = self.parts.partition_point(|(end, _)| *end <= offset_bytes);
        let (end, part) = self.parts.get(index)?;
        let left = end - offset_bytes;
        Some((part, part.len_bytes - left, left))
    }

    /// Cuts a request at the ends of extents and hands the parts on.
    fn for_each<'a>(
        &self,
        offset_bytes: u64,
        slices: &[VolatileSlice<'a>],
        mut each: impl FnMut(&Part, u64, &[VolatileSlice<'a>]) -> Result<(), BlockError>,
    ) -> Result<(), BlockError> {
        let mut rest = slices.iter().copied();
        let mut next = rest.next();
        let mut at = offset_bytes;
        while next.is_some() {
            let Some((part, in_part, mut left)) = self.part_at(at) else { break };
            let mut here = Vec::new();
            while let (Some(slice), true) = (next, left > 0) {
                let len = usize::try_from(left).unwrap_or(usize::MAX).min(slice.len());
                let Ok((head, tail)) = slice.split_at(len) else { return Ok(()) };
                here.push(head);
                left -= len as u64;
                at = at.saturating_add(len as u64);
                next = if tail.is_empty() { rest.next() } else { Some(tail) };
            }
            each(part, in_part, &here)?;
        }
        Ok(())
    }

    fn backends(&self) -> impl Iterator<Item = &dyn Checked> {
        self.parts.iter().filter_map(|(_, part)| part.backend.as_deref())
    }

    fn check_write(&self, offset_bytes: u64, len_bytes: u64) -> Result<(), BlockError> {
        self.info.check_write(offset_bytes, len_bytes)?;
        self.check_poison()?;
        if !self.begun.swap(true, Relaxed)
            && let Some(at) = self.content_id_at
        {
            self.descriptor.write_bytes(at, new_content_id().as_bytes())?;
        }
        Ok(())
    }

    fn check_poison(&self) -> Result<(), BlockError> {
        if self.poisoned.load(Relaxed) {
            return Err(BlockError::new(BlockErrorKind::Poisoned, "an earlier sync of this image failed"));
        }
        Ok(())
    }

    /// A sync of one extent that failed poisons all.
    fn note(&self, result: Result<(), BlockError>) -> Result<(), BlockError> {
        result.inspect_err(|_error| self.poisoned.store(true, Relaxed))
    }
}

impl Checked for ConcatDisk {
    fn check(&self) -> Result<CheckReport, BlockError> {
        let mut report = CheckReport::default();
        for backend in self.backends() {
            report.add(backend.check()?);
        }
        Ok(report)
    }
}

impl DiskBackend for ConcatDisk {
    fn info(&self) -> DiskInfo {
        self.info.clone()
    }

    fn read_at(&self, offset_bytes: u64, into: &[VolatileSlice<'_>]) -> Result<(), BlockError> {
        self.info.check_range(offset_bytes, pieces::len_bytes(into))?;
        self.for_each(offset_bytes, into, |part, in_part, slices| match &part.backend {
            Some(backend) => backend.read_at(in_part, slices),
            None => {
                slices.iter().for_each(pieces::zero);
                Ok(())
            }
        })
    }

    fn write_at(&self, offset_bytes: u64, from: &[VolatileSlice<'_>], fua: bool) -> Result<(), BlockError> {
        self.check_write(offset_bytes, pieces::len_bytes(from))?;
        // Not forced at first, so that a lack of room is not taken for a failed sync.
        self.for_each(offset_bytes, from, |part, in_part, slices| match &part.backend {
            Some(backend) => backend.write_at(in_part, slices, false),
            None => Err(BlockError::new(BlockErrorKind::Unsupported, "an extent of zeroes can not be written")),
        })?;
        if !fua {
            return Ok(());
        }
        let mut at = offset_bytes;
        let end = offset_bytes.saturating_add(pieces::len_bytes(from));
        while let Some((part, _, left)) = self.part_at(at).filter(|_| at < end) {
            if let Some(backend) = &part.backend {
                self.note(backend.flush()).map_err(|error| {
                    let context = format!("forcing a write to disk failed: {error}");
                    BlockError::new(BlockErrorKind::Poisoned, context)
                })?;
            }
            at = at.saturating_add(left);
        }
        Ok(())
    }

    fn flush(&self) -> Result<(), BlockError> {
        if self.info.read_only {
            return Ok(());
        }
        self.check_poison()?;
        self.backends().try_for_each(|backend| self.note(backend.flush()))?;
        if self.begun.load(Relaxed) { self.note(self.descriptor.sync()) } else { Ok(()) }
    }

    fn discard(&self, offset_bytes: u64, len_bytes: u64) -> Result<(), BlockError> {
        self.check_write(offset_bytes, len_bytes)?;
        if self.info.discard == DiscardBehavior::Ignored {
            return Ok(());
        }
        let mut at = offset_bytes;
        let end = offset_bytes.saturating_add(len_bytes);
        while let Some((part, in_part, left)) = self.part_at(at).filter(|_| at < end) {
            let here = left.min(end - at);
            if let Some(backend) = &part.backend {
                backend.discard(in_part, here)?;
            }
            at = at.saturating_add(here);
        }
        Ok(())
    }

    fn extent_at(&self, offset_bytes: u64, limit_bytes: u64) -> Result<Extent, BlockError> {
        self.info.check_range(offset_bytes, limit_bytes)?;
        let Some((part, in_part, left)) = self.part_at(offset_bytes).filter(|_| limit_bytes > 0) else {
            return Err(BlockError::new(BlockErrorKind::OutOfRange, "an empty range has no extents"));
        };
        match &part.backend {
            Some(backend) => backend.extent_at(in_part, left.min(limit_bytes)),
            None => Ok(Extent { kind: ExtentKind::Zeroes, len_bytes: left.min(limit_bytes) }),
        }
    }

    fn reopen(&self) -> Result<(), BlockError> {
        if self.info.read_only {
            return Ok(());
        }
        self.backends().try_for_each(|backend| backend.reopen())?;
        self.descriptor.reopen()?;
        self.poisoned.store(false, Relaxed);
        Ok(())
    }
}
