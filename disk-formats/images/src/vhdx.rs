//! Microsoft's newer disk images (VHDX), dynamic and fixed.
//!
//! ```text
//!   0        identifier · two headers · two copies of the region table          1 MiB
//!   log      changes of metadata, written before they are made
//!   metadata block size, disk size, sector sizes
//!   BAT      8 bytes a block: state and offset; after every chunk of blocks an entry for a sector bitmap
//!   blocks   at multiples of 1 MiB
//! ```
//!
//! Source: [MS-VHDX] "Virtual Hard Disk v2 (VHDX) File Format". All numbers are little-endian. Sections are cited from
//! it.
//!
//! The log is replayed when an image is opened for writing; one that must be replayed is not opened for reading only.
//! While an image is written its header names the log, and every change of the BAT goes there first.
//!
//! Not built: differencing images (a parent is named by path) and with them sector bitmaps, whose places in the BAT are
//! skipped; regions and metadata that are marked as required and not in the specification. Each is refused.

mod header;
mod layout;
mod log;
mod metadata;
mod new;

use std::fs::File;

use benchtop_block::{BlockError, BlockErrorKind, DiskInfo};

use crate::mapped::{ImageFile, MappedDisk, delegate_backend};
use layout::VhdxLayout;
pub use new::{VhdxKind, create};

/// What regions and blocks are aligned to, in bytes.
const MIB: u64 = 1 << 20;

/// The largest disk, in bytes: 64 TiB.
pub const MAX_BYTES: u64 = 64 << 40;

/// An open VHDX image.
pub struct VhdxDisk {
    backend: MappedDisk<VhdxLayout>,
}

delegate_backend!(VhdxDisk);

fn unsupported(what: impl Into<String>) -> BlockError {
    BlockError::new(BlockErrorKind::Unsupported, what)
}

fn corrupt(what: impl Into<String>) -> BlockError {
    BlockError::new(BlockErrorKind::Corrupt, what)
}

impl VhdxDisk {
    /// Takes an open descriptor, which must allow writing unless `read_only`, and locks the file as
    /// [`RawDisk::open`](crate::RawDisk::open) does. Replays the log where the image was not closed. Needs up to 10 MiB
    /// of memory, and for a replay five times the log, which is 16 MiB at most.
    ///
    /// # Errors
    /// `Unsupported` naming what is not built (and for a log that must be replayed in an image that is only read),
    /// `Corrupt` where the image contradicts itself or a checksum is wrong, `InUse`, `ReadOnly`, or the host's.
    pub fn open(file: File, read_only: bool) -> Result<Self, BlockError> {
        let file = ImageFile::open(file, read_only)?;
        let mut headers = header::read_headers(&file)?;
        log::replay(&file, &mut headers)?;
        let regions = header::read_regions(&file, &headers.current)?;
        let facts = metadata::read(&file, &regions)?;
        let info = DiskInfo {
            size_bytes: facts.size_bytes,
            logical_block_bytes: facts.logical_sector_bytes,
            physical_block_bytes: facts.physical_sector_bytes.max(4096),
            read_only,
            discard: file.discard_behavior(),
            format: "vhdx",
        };
        let end_bytes = file.len_bytes()?.next_multiple_of(MIB);
        let layout = VhdxLayout::new(headers, regions, &facts)?;
        Ok(Self { backend: MappedDisk::new(file, layout, info, facts.block_bytes, end_bytes)? })
    }
}

#[cfg(test)]
mod tests;
