//! What a request asks for, checked, and how it is carried out on the disk.

use benchtop_block::{BlockError, CacheMode, DiscardBehavior, ExtentKind, SECTOR_BYTES};
use benchtop_memory::VolatileSlice;

use super::Served;
use super::handshake::{ALLOCATION_ID, Negotiated};
use super::outbox::{MAX_CHUNK_BYTES, Refusal};
use crate::protocol::{MAX_PAYLOAD_BYTES, Request, allocation, command, errno};

/// Extents in one answer at most. The client asks again for the rest.
const MAX_EXTENTS: usize = 1024;
/// How often the disk is asked for one answer at most: neighbours of one kind are one extent.
const MAX_EXTENT_QUERIES: usize = 4096;

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Work {
    /// Read, in one chunk where `whole`.
    Read { whole: bool },
    /// Write the bytes that follow.
    Write,
    /// Make durable.
    Flush,
    /// Discard.
    Trim,
    /// Make read as zeroes: without a hole where `allocated`, and only if that is quick where `fast`.
    Zeroes { allocated: bool, fast: bool },
    /// Say what the disk holds, by one extent where `one`.
    Status { one: bool },
}

/// A request that may be carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Task {
    pub work: Work,
    /// It is answered when it is durable.
    pub durable: bool,
    pub offset_bytes: u64,
    pub len_bytes: u32,
}

impl Task {
    /// Checks a request against the export and what was negotiated.
    ///
    /// # Errors
    /// What to answer instead.
    pub fn new(request: &Request, served: &Served, negotiated: Negotiated) -> Result<Self, Refusal> {
        use command::*;
        let Request { flags, command, cookie: _, offset_bytes, len_bytes } = *request;
        let (work, known) = match command {
            READ => (Work::Read { whole: flags & FLAG_DF != 0 }, FLAG_DF),
            WRITE => (Work::Write, 0),
            FLUSH => (Work::Flush, 0),
            TRIM => (Work::Trim, 0),
            WRITE_ZEROES => {
                let (allocated, fast) = (flags & FLAG_NO_HOLE != 0, flags & FLAG_FAST_ZERO != 0);
                (Work::Zeroes { allocated, fast }, FLAG_NO_HOLE | FLAG_FAST_ZERO)
            }
            BLOCK_STATUS => (Work::Status { one: flags & FLAG_REQ_ONE != 0 }, FLAG_REQ_ONE),
            _ => return Err(Refusal::new(errno::INVAL, "this command is not known")),
        };
        // FUA may come with every command and means nothing with those that change nothing.
        if flags & !(known | FLAG_FUA) != 0 {
            return Err(Refusal::new(errno::INVAL, "a flag does not belong to this command"));
        }
        let changes = matches!(work, Work::Write | Work::Trim | Work::Zeroes { .. });
        let forced = flags & FLAG_FUA != 0 || served.export.cache == CacheMode::Writethrough;
        let durable = changes && forced && served.export.cache != CacheMode::Unsafe;
        let task = Self { work, durable, offset_bytes, len_bytes };
        if work == Work::Flush {
            return Ok(Self { offset_bytes: 0, len_bytes: 0, ..task });
        }
        task.check(served, negotiated, changes)?;
        Ok(task)
    }

    fn check(&self, served: &Served, negotiated: Negotiated, changes: bool) -> Result<(), Refusal> {
        let Self { work, durable: _, offset_bytes, len_bytes } = *self;
        if changes && served.read_only() {
            return Err(Refusal::new(errno::PERM, "the export is read-only"));
        }
        if !(offset_bytes | u64::from(len_bytes)).is_multiple_of(SECTOR_BYTES) {
            return Err(Refusal::new(errno::INVAL, "offset and length are not multiples of 512, the smallest block"));
        }
        if offset_bytes.checked_add(len_bytes.into()).is_none_or(|end| end > served.info.size_bytes) {
            // A write beyond the end has this error by the protocol.
            let grows = matches!(work, Work::Write | Work::Zeroes { .. });
            let error = if grows { errno::NOSPC } else { errno::INVAL };
            return Err(Refusal::new(error, "the range leaves the export"));
        }
        match work {
            Work::Read { .. } | Work::Write if len_bytes > MAX_PAYLOAD_BYTES => {
                Err(Refusal::new(errno::INVAL, "more than 32 MiB at once"))
            }
            Work::Read { whole: true } if !negotiated.structured => {
                Err(Refusal::new(errno::INVAL, "DF needs structured replies"))
            }
            Work::Read { whole: true } if len_bytes as usize > MAX_CHUNK_BYTES => {
                Err(Refusal::new(errno::OVERFLOW, "more than 1 MiB in one chunk"))
            }
            Work::Trim if served.info.discard == DiscardBehavior::Ignored => {
                Err(Refusal::new(errno::INVAL, "the disk has no discard, and that was said"))
            }
            Work::Status { .. } if !negotiated.allocation || len_bytes == 0 => {
                Err(Refusal::new(errno::INVAL, "there is no context, or no range, to tell the state of"))
            }
            _ => Ok(()),
        }
    }
}

impl Served {
    /// Reads.
    ///
    /// # Errors
    /// The disk's.
    pub(super) fn read(&self, offset_bytes: u64, into: &mut [u8]) -> Result<(), BlockError> {
        self.export.backend.read_at(offset_bytes, &[VolatileSlice::from(into)])
    }

    /// Writes, not yet durably: [`settle`](Self::settle) comes after the last part.
    ///
    /// # Errors
    /// The disk's.
    pub(super) fn write(&self, offset_bytes: u64, from: &mut [u8]) -> Result<(), BlockError> {
        self.export.backend.write_at(offset_bytes, &[VolatileSlice::from(from)], false)
    }

    /// Makes what was changed so far durable where the task says so.
    ///
    /// # Errors
    /// The sync's.
    pub(super) fn settle(&self, task: &Task) -> Result<(), BlockError> {
        if task.durable { self.sync.sync(&*self.export.backend) } else { Ok(()) }
    }

    /// Carries out what has no data: flush, trim and zeroes. `scratch` serves for zeroes that must be written.
    ///
    /// # Errors
    /// The disk's.
    pub(super) fn change(&self, task: &Task, scratch: &mut Vec<u8>) -> Result<(), Refusal> {
        match task.work {
            Work::Flush => {
                if self.export.cache != CacheMode::Unsafe && !self.read_only() {
                    self.sync.sync(&*self.export.backend)?;
                }
            }
            Work::Trim => self.export.backend.discard(task.offset_bytes, task.len_bytes.into())?,
            Work::Zeroes { allocated, fast } => self.zero(task, allocated, fast, scratch)?,
            Work::Read { .. } | Work::Write | Work::Status { .. } => {}
        }
        Ok(self.settle(task)?)
    }

    fn zero(&self, task: &Task, allocated: bool, fast: bool, scratch: &mut Vec<u8>) -> Result<(), Refusal> {
        let Task { offset_bytes, len_bytes, .. } = *task;
        if self.info.discard == DiscardBehavior::Zeroes && !allocated {
            return Ok(self.export.backend.discard(offset_bytes, len_bytes.into())?);
        }
        if fast {
            return Err(Refusal::new(errno::NOTSUP, "zeroes would have to be written here"));
        }
        let end = offset_bytes.saturating_add(len_bytes.into());
        let mut at = offset_bytes;
        scratch.clear();
        scratch.resize(MAX_CHUNK_BYTES.min(len_bytes as usize), 0);
        while at < end {
            let part = scratch.len().min(usize::try_from(end - at).unwrap_or(usize::MAX));
            self.write(at, &mut scratch[..part])?;
            at += part as u64;
        }
        Ok(())
    }

    /// The payload that tells what the range of `task` holds: extents without gaps from its start on, not beyond its
    /// end, and perhaps not up to it.
    ///
    /// # Errors
    /// The disk's.
    pub(super) fn status(&self, task: &Task, one: bool) -> Result<Vec<u8>, BlockError> {
        let end = task.offset_bytes.saturating_add(task.len_bytes.into());
        let mut at = task.offset_bytes;
        let mut extents: Vec<(u32, u32)> = Vec::new();
        for _ in 0..MAX_EXTENT_QUERIES {
            if at >= end {
                break;
            }
            let extent = self.export.backend.extent_at(at, end - at)?;
            // At most what was asked for, which fits in 32 bits.
            let len = u32::try_from(extent.len_bytes.min(end - at)).unwrap_or(u32::MAX);
            let flags = match extent.kind {
                ExtentKind::Data => 0,
                ExtentKind::Zeroes => allocation::HOLE | allocation::ZERO,
            };
            let full = extents.len() >= if one { 1 } else { MAX_EXTENTS };
            match extents.last_mut() {
                Some((last, kind)) if *kind == flags => *last = last.saturating_add(len),
                _ if full => break,
                _ => extents.push((len, flags)),
            }
            at = at.saturating_add(extent.len_bytes.max(SECTOR_BYTES));
        }
        let mut payload = Vec::with_capacity(4 + extents.len() * 8);
        payload.extend(ALLOCATION_ID.to_be_bytes());
        for (len, flags) in extents {
            payload.extend(len.to_be_bytes());
            payload.extend(flags.to_be_bytes());
        }
        Ok(payload)
    }
}
