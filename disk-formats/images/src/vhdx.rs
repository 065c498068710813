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
//! The log is replayed when an image is opened for writing. To who only reads, the image is shown as the replay would
//! leave it, and the file stays as it is. While an image is written its header names the log, and every change of the BAT goes there first.
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

use crate::error::{corrupt, unsupported};
use crate::fields::put;
use crate::file::ImageFile;
use crate::image::{CheckReport, Facts};
use crate::mapped::{Checked, Layout as _, MappedDisk, delegate_backend, survey, zero_tail};
use layout::{PAGE_BYTES, VhdxLayout};
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

impl VhdxDisk {
    /// Takes an open descriptor, which must allow writing unless `read_only`, and locks the file as
    /// [`RawDisk::open`](crate::RawDisk::open) does. Replays the log where the image was not closed; with `read_only` in
    /// memory, and the file stays as it is. Needs up to 10 MiB of memory, and for a replay five times the log, which is
    /// 16 MiB at most. What is replayed in memory stays there: at most the log and 16 MiB.
    ///
    /// # Errors
    /// `Unsupported` naming what is not built, `Corrupt` where the image contradicts itself or a checksum is wrong, `InUse`, `ReadOnly`, or the host's.
    pub fn open(file: File, read_only: bool) -> Result<Self, BlockError> {
        let mut file = ImageFile::open(file, read_only)?;
        let mut headers = header::read_headers(&file)?;
        if read_only {
            log::lay_over(&mut file, &headers.current)?;
        } else {
            log::replay(&file, &mut headers)?;
        }
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
        let layout = VhdxLayout::new(headers, regions, &facts)?;
        let mut end_bytes = file.len_bytes();
        if !read_only {
            end_bytes = end_bytes.max(survey(&file, &layout, facts.size_bytes, facts.block_bytes, end_bytes)?);
        }
        Ok(Self { backend: MappedDisk::new(file, layout, info, facts.block_bytes, end_bytes) })
    }

    /// See [`image::check`](crate::image::check).
    pub(crate) fn check(&self) -> Result<CheckReport, BlockError> {
        self.backend.check()
    }
}

/// What [`image::info`](crate::image::info) tells, as a replay of the log would leave it.
pub(crate) fn facts(mut file: ImageFile) -> Result<Facts, BlockError> {
    let headers = header::read_headers(&file)?;
    // The image may be in use, and an entry of its log newer than the length of the file that was read before. A log that
    // makes no sense is refused when the image is opened.
    log::lay_over(&mut file, &headers.current).unwrap_or_default();
    let regions = header::read_regions(&file, &headers.current)?;
    let facts = metadata::read(&file, &regions)?;
    let variant = if facts.leave_allocated { "fixed" } else { "dynamic" };
    Ok(Facts::new(facts.size_bytes, variant, headers.current.log != [0; 16]))
}

/// Makes the disk `size_bytes` long; see [`image::resize`](crate::image::resize). The size goes through the log.
pub(crate) fn grow(file: &ImageFile, size_bytes: u64) -> Result<(), BlockError> {
    crate::file::new::check_size(size_bytes, MAX_BYTES, "VHDX")?;
    let mut headers = header::read_headers(file)?;
    log::replay(file, &mut headers)?;
    let regions = header::read_regions(file, &headers.current)?;
    let facts = metadata::read(file, &regions)?;
    if facts.leave_allocated {
        return Err(unsupported("making a fixed VHDX larger is not built; convert it into a new one"));
    }
    if !size_bytes.is_multiple_of(u64::from(facts.logical_sector_bytes)) {
        let context = format!("{size_bytes} bytes are not whole sectors of {}", facts.logical_sector_bytes);
        return Err(BlockError::new(BlockErrorKind::OutOfRange, context));
    }
    let larger = metadata::Facts { size_bytes, ..facts };
    let (first, end) = (layout::count_entries(&facts) * 8, layout::count_entries(&larger) * 8);
    if end > regions.bat.len {
        let context = "the VHDX image has no room for a longer block table; convert it into a new one";
        return Err(unsupported(context));
    }
    let page_at = facts.size_at - facts.size_at % PAGE_BYTES;
    let in_page = (facts.size_at - page_at) as usize;
    if in_page + 8 > PAGE_BYTES as usize {
        return Err(unsupported("a VHDX disk size that two sectors hold is not built"));
    }
    let bat = regions.bat.start;
    let layout = VhdxLayout::new(headers, regions, &larger)?;
    survey(file, &layout, facts.size_bytes, facts.block_bytes, file.len_bytes())?;
    zero_tail(file, &layout, facts.size_bytes, facts.block_bytes)?;
    // Nobody looked at these entries so far.
    file.zero(bat + first, end - first)?;
    file.sync()?;
    let mut page = file.read_metadata(page_at, PAGE_BYTES as usize, "metadata")?;
    put(&mut page, in_page, &size_bytes.to_le_bytes());
    layout.begin(file)?;
    layout.change(file, &[(page_at, &page)])?;
    layout.close(file)
}

#[cfg(test)]
mod tests;
