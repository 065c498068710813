//! What an image format implements.

use benchtop_memory::VolatileSlice;

use crate::BlockError;

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
    /// [`BlockErrorKind::OutOfRange`](crate::BlockErrorKind::OutOfRange) past the end, else the host's. What `into`
    /// holds is then unspecified but never memory of this process.
    fn read_at(&self, offset_bytes: u64, into: &[VolatileSlice<'_>]) -> Result<(), BlockError>;

    /// Tries to read without waiting for the host's disk: `Ok(true)` when `into` was filled, `Ok(false)` when it would
    /// have to wait and nothing is known about `into`. The default never fills.
    ///
    /// # Errors
    /// As [`read_at`](Self::read_at).
    fn try_read_at(&self, offset_bytes: u64, into: &[VolatileSlice<'_>]) -> Result<bool, BlockError> {
        let (_, _) = (offset_bytes, into);
        Ok(false)
    }

    /// Writes `from` at `offset_bytes`. With `fua` it is durable on return.
    ///
    /// # Errors
    /// `OutOfRange`, `ReadOnly`, `NoSpace` (nothing acknowledged; may be retried), or the host's.
    fn write_at(&self, offset_bytes: u64, from: &[VolatileSlice<'_>], fua: bool) -> Result<(), BlockError>;

    /// Makes every write that completed before this call durable.
    ///
    /// # Errors
    /// After a failed sync the image is poisoned: every later write and flush fails until it is reopened, for the host
    /// may have dropped the very pages it could not write.
    fn flush(&self) -> Result<(), BlockError>;

    /// Tells that the content of the range is no longer wanted; see [`DiskInfo::discard`].
    ///
    /// # Errors
    /// As [`write_at`](Self::write_at).
    fn discard(&self, offset_bytes: u64, len_bytes: u64) -> Result<(), BlockError>;
}
