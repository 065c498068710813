//! What an image format implements.

use benchtop_memory::VolatileSlice;

use crate::{BlockError, BlockErrorKind};

/// The unit of every offset and length on the disk path, in bytes. A disk whose logical block is larger still
/// speaks in these.
pub const SECTOR_BYTES: u64 = 512;

/// What a discarded range reads as afterwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiscardBehavior {
    /// Zeroes, always.
    Zeroes,
    /// Anything that was ever written there, or zeroes.
    Unspecified,
    /// Discards do nothing.
    Ignored,
}

/// What a part of an image holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExtentKind {
    /// Bytes are stored for it; they may be zeroes.
    Data,
    /// It reads as zeroes, and the image says so without storing them all.
    Zeroes,
}

/// A run of an image that is of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// What it holds.
    pub kind: ExtentKind,
    /// How long it is from where it was asked for, in bytes; a multiple of [`SECTOR_BYTES`], not 0. The next one may
    /// be of the same kind.
    pub len_bytes: u64,
}

/// Facts about an image that do not change while it is open, except `size_bytes` by an explicit resize.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskInfo {
    /// Virtual size, a multiple of [`SECTOR_BYTES`].
    pub size_bytes: u64,
    /// Logical block in bytes: 512, 2048 (CD) or 4096.
    pub logical_block_bytes: u32,
    /// Physical block in bytes, at least the logical one: what the image writes without read-modify-write.
    pub physical_block_bytes: u32,
    /// Writes are refused.
    pub read_only: bool,
    /// What discard does.
    pub discard: DiscardBehavior,
    /// The format's name as the CLI spells it: `raw`, `iso`, `memory`, ….
    pub format: &'static str,
}

impl DiskInfo {
    /// Whether a transfer of `len_bytes` at `offset_bytes` is whole sectors on the disk: the check every backend makes.
    ///
    /// # Errors
    /// [`OutOfRange`](BlockErrorKind::OutOfRange).
    pub fn check_range(&self, offset_bytes: u64, len_bytes: u64) -> Result<(), BlockError> {
        let end = offset_bytes.checked_add(len_bytes);
        if (offset_bytes | len_bytes).is_multiple_of(SECTOR_BYTES) && end.is_some_and(|end| end <= self.size_bytes) {
            return Ok(());
        }
        let size = self.size_bytes;
        let context = format!("{len_bytes:#x} bytes at {offset_bytes:#x} are not whole sectors of a disk of {size:#x}");
        Err(BlockError::new(BlockErrorKind::OutOfRange, context))
    }

    /// As [`check_range`](Self::check_range), and that the image may be written.
    ///
    /// # Errors
    /// `OutOfRange`, or [`ReadOnly`](BlockErrorKind::ReadOnly).
    pub fn check_write(&self, offset_bytes: u64, len_bytes: u64) -> Result<(), BlockError> {
        if self.read_only {
            return Err(BlockError::new(BlockErrorKind::ReadOnly, format!("the {} image is read-only", self.format)));
        }
        self.check_range(offset_bytes, len_bytes)
    }
}

/// One open image: synchronous, called by several threads at once.
///
/// Concurrent overlapping requests may take effect in any order; a request that starts after another completed sees
/// its effect.
pub trait DiskBackend: Send + Sync {
    /// The facts.
    fn info(&self) -> DiskInfo;

    /// Fills `into` from `offset_bytes` on.
    ///
    /// # Errors
    /// [`BlockErrorKind::OutOfRange`] past the end, else the host's. What `into`
    /// holds is then unspecified but never memory of this process.
    fn read_at(&self, offset_bytes: u64, into: &[VolatileSlice<'_>]) -> Result<(), BlockError>;

    /// Writes `from` at `offset_bytes`. With `fua` it is durable on return.
    ///
    /// # Errors
    /// `OutOfRange`, `ReadOnly`, `NoSpace` (nothing acknowledged; may be retried), or the host's.
    fn write_at(&self, offset_bytes: u64, from: &[VolatileSlice<'_>], fua: bool) -> Result<(), BlockError>;

    /// Makes every write that completed before this call durable.
    ///
    /// # Errors
    /// After a failed sync the image is poisoned: every later write and flush fails until it is reopened, for the host
    /// may have dropped the very pages it could not write. `NoSpace` where writing failed before any sync: nothing is
    /// lost, and it may be tried again.
    fn flush(&self) -> Result<(), BlockError>;

    /// Does what [`flush`](Self::flush) does where no guest asked for it: a write-through cache makes every write durable,
    /// and an image that remembers flushes as points to return to need not remember those.
    ///
    /// # Errors
    /// As [`flush`](Self::flush).
    fn sync(&self) -> Result<(), BlockError> {
        self.flush()
    }

    /// Tells that the content of the range is no longer wanted; see [`DiskInfo::discard`].
    ///
    /// # Errors
    /// As [`write_at`](Self::write_at).
    fn discard(&self, offset_bytes: u64, len_bytes: u64) -> Result<(), BlockError>;

    /// What the image holds at `offset_bytes`, and for how long it holds nothing else, at most `limit_bytes`: what a
    /// copy may skip. The default knows only data.
    ///
    /// # Errors
    /// `OutOfRange` where the range is not on the disk or is empty, else the host's.
    fn extent_at(&self, offset_bytes: u64, limit_bytes: u64) -> Result<Extent, BlockError> {
        let info = self.info();
        info.check_range(offset_bytes, limit_bytes)?;
        if limit_bytes == 0 {
            return Err(BlockError::new(BlockErrorKind::OutOfRange, "an empty range has no extents"));
        }
        Ok(Extent { kind: ExtentKind::Data, len_bytes: limit_bytes })
    }

    /// Tries to become usable again after a failed sync. On success everything the image still holds is durable, and
    /// writes and flushes work again; writes that were not durable before the failure may be gone, so the caller
    /// writes again what it still has. On an image that is not poisoned it is a flush. No call but reads runs at the
    /// same time.
    ///
    /// # Errors
    /// The host's; the image then stays poisoned. The default knows no way.
    fn reopen(&self) -> Result<(), BlockError> {
        let format = self.info().format;
        Err(BlockError::new(BlockErrorKind::Unsupported, format!("a {format} image can not be reopened in place")))
    }
}
