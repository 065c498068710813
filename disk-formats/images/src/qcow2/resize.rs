//! Making the disk larger or smaller.

use std::fs::File;
use std::sync::Arc;

use benchtop_block::{BlockError, BlockErrorKind, DiskBackend};

use super::Qcow2Disk;
use super::check::{Survey, repair, require_sound, switch_refcounts};
use super::header::{self, Header, MAX_L1_BYTES};
use crate::error::{corrupt, unsupported};
use crate::file::ImageFile;

/// Offset of the disk's size in the header, in bytes.
const SIZE_AT: u64 = 24;

/// Makes the disk `size_bytes` long; see [`image::resize`](crate::image::resize). The size in the header changes last,
/// in one sector, when everything it needs is durable.
pub(crate) fn resize(file: File, size_bytes: u64, backing: Option<Arc<dyn DiskBackend>>) -> Result<(), BlockError> {
    let file = ImageFile::open(file, false)?.padded();
    let mut header = Header::read(&file)?;
    if header.is_corrupt() {
        return Err(corrupt("the image says that it is corrupt; repair it first"));
    }
    if header.encryption.is_some() {
        return Err(unsupported("resizing an encrypted qcow2 image is not built"));
    }
    if header.snapshots != 0 {
        return Err(unsupported("resizing a qcow2 image with snapshots is not built"));
    }
    if header.autoclear & header::BITMAPS != 0 {
        return Err(unsupported("resizing a qcow2 image with bitmaps is not built"));
    }
    if header.layout.l1_entries(size_bytes) > MAX_L1_BYTES / 8 {
        let context = format!("{size_bytes} bytes are too many for clusters of this size");
        return Err(BlockError::new(BlockErrorKind::OutOfRange, context));
    }
    if header.is_dirty() {
        repair(&mut header, &file)?;
    }
    if header.layout.l1_entries(size_bytes) > header.l1_entries {
        header.check_refcount_table(file.len_bytes())?;
        require_sound(&header, &file)?;
        grow_l1(&mut header, &file, size_bytes)?;
    }
    let disk = Qcow2Disk::open_on(file, backing, None)?;
    let old = disk.header.size_bytes;
    if size_bytes < old {
        disk.discard_range(size_bytes, old - size_bytes)?;
    } else {
        // What is new must not show the rest of the last cluster, or of a backing file that is longer.
        let end = old.next_multiple_of(disk.header.layout.cluster_bytes()).max(disk.backing_bytes).min(size_bytes);
        disk.discard_range(old, end.saturating_sub(old))?;
    }
    disk.flush()?;
    disk.file.write_bytes(SIZE_AT, &size_bytes.to_be_bytes())?;
    disk.file.sync()
}

/// Copies the L1 table behind everything else, with room for a larger disk, and counts all clusters anew: the header
/// then changes from one table and set of counts to the other at once.
fn grow_l1(header: &mut Header, file: &ImageFile, size_bytes: u64) -> Result<(), BlockError> {
    let mut table = file.read_bytes(header.l1_offset, header.l1_bytes() as usize)?;
    // The caller has checked that the number is at most MAX_L1_BYTES / 8.
    table.resize((header.layout.l1_entries(size_bytes) * 8) as usize, 0);
    header.l1_offset = file.len_bytes().next_multiple_of(header.layout.cluster_bytes());
    header.l1_entries = table.len() as u64 / 8;
    table.resize((table.len() as u64).next_multiple_of(header.layout.cluster_bytes()) as usize, 0);
    file.write_bytes(header.l1_offset, &table)?;
    let survey = Survey::take(header, file)?;
    survey.require_whole()?;
    switch_refcounts(header, survey.into_counts(), file)
}
