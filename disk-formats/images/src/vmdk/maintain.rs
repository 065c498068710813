//! Growing a sparse image of one file, and taking its mark "in use" away.

use benchtop_block::{BlockError, SECTOR_BYTES};

use super::sparse::{SparseLayout, TABLE_BYTES, TABLE_ENTRIES, field, flag};
use super::{First, MAX_BYTES, MAX_DESCRIPTOR_BYTES, examine, open_sparse};
use crate::error::{corrupt, unsupported};
use crate::fields::put;
use crate::file::{ImageFile, new};
use crate::image::CheckReport;
use crate::mapped::{survey, zero_tail};

/// Makes the disk `size_bytes` long; see [`image::resize`](crate::image::resize). Longer directories and the tables that
/// are new go behind everything else; then the header names them, in one sector, and last the descriptor changes.
pub(crate) fn grow(file: &ImageFile, size_bytes: u64) -> Result<(), BlockError> {
    if let First::Descriptor(_) = examine(file)? {
        return Err(unsupported("resizing a VMDK of several files is not built; convert it into a new one"));
    }
    new::check_size(size_bytes, MAX_BYTES, "VMDK")?;
    let (layout, old_sectors) = SparseLayout::read(file, true)?;
    if layout.is_compressed() {
        return Err(unsupported("a streamOptimized VMDK can only be read; convert it to resize"));
    }
    let sectors = size_bytes / SECTOR_BYTES;
    let text = changed_descriptor(file, &layout, sectors)?;
    let old_bytes = old_sectors * SECTOR_BYTES;
    survey(file, &layout, old_bytes, layout.grain_bytes(), file.len_bytes())?;
    zero_tail(file, &layout, old_bytes, layout.grain_bytes())?;
    blank_behind(file, &layout)?;
    let mut header = file.read_metadata(0, SECTOR_BYTES as usize, "header")?;
    let tables = sectors.div_ceil(layout.header.grain * TABLE_ENTRIES);
    if tables > layout.directory.len() as u64 {
        if layout.header.flags & flag::REDUNDANT != 0 {
            let start = add_directory(file, &layout.redundant, tables)?;
            put(&mut header, field::REDUNDANT_DIRECTORY, &start.to_le_bytes());
        }
        let start = add_directory(file, &layout.directory, tables)?;
        put(&mut header, field::DIRECTORY, &start.to_le_bytes());
    }
    put(&mut header, field::CAPACITY, &sectors.to_le_bytes());
    file.sync()?;
    file.write_bytes(0, &header)?;
    file.sync()?;
    file.write_bytes(text.0, &text.1)?;
    file.sync()
}

/// Makes the entries of grains behind the end of the disk absent, which nobody looked at so far: the rest of the last
/// table, and of its copy.
fn blank_behind(file: &ImageFile, layout: &SparseLayout) -> Result<(), BlockError> {
    let grains = layout.header.capacity.div_ceil(layout.header.grain);
    let used = (grains % TABLE_ENTRIES) as usize * 4;
    for directory in [&layout.redundant, &layout.directory] {
        if let Some(sector) = directory.last().filter(|sector| **sector != 0 && used != 0) {
            file.write_bytes(u64::from(*sector) * SECTOR_BYTES + used as u64, &vec![0; TABLE_BYTES - used])?;
        }
    }
    Ok(())
}

/// Writes a directory of so many tables behind everything else, the old ones and empty ones; its sector.
fn add_directory(file: &ImageFile, old: &[u32], tables: u64) -> Result<u64, BlockError> {
    let table_sectors = TABLE_BYTES as u64 / SECTOR_BYTES;
    let start = file.len_bytes().div_ceil(SECTOR_BYTES);
    let first = start + (tables * 4).div_ceil(SECTOR_BYTES);
    let added = tables.saturating_sub(old.len() as u64);
    let end = first + added * table_sectors;
    if u32::try_from(end).is_err() {
        return Err(unsupported("a sparse VMDK file of more than 2 TiB is not possible"));
    }
    let added = (0..added).map(|table| (first + table * table_sectors) as u32);
    let entries: Vec<u8> = old.iter().copied().chain(added).flat_map(u32::to_le_bytes).collect();
    file.grow(end * SECTOR_BYTES)?;
    file.write_bytes(start * SECTOR_BYTES, &entries)?;
    Ok(start)
}

/// What of the descriptor changes with the size: offset in the file, and bytes. They lie in one sector.
fn changed_descriptor(file: &ImageFile, layout: &SparseLayout, sectors: u64) -> Result<(u64, Vec<u8>), BlockError> {
    let (start, len) = (layout.header.descriptor * SECTOR_BYTES, layout.header.descriptor_sectors * SECTOR_BYTES);
    // Reading the layout checked both.
    let bytes = file.read_metadata(start, len.min(MAX_DESCRIPTOR_BYTES) as usize, "descriptor")?;
    let text = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
    let lost = || corrupt("the VMDK descriptor has no line for its extent");
    let mut at = 0;
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        if let Some(rest) = line.strip_prefix(b"RW ") {
            let old = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
            let digits = sectors.to_string().into_bytes();
            let from = at + b"RW ".len();
            let tail = if digits.len() == old { &[] } else { text.get(from + old..).ok_or_else(lost)? };
            let changed = [&digits, tail].concat();
            let offset = start + from as u64;
            let last = offset + changed.len().max(1) as u64 - 1;
            if old == 0 || offset / SECTOR_BYTES != last / SECTOR_BYTES || from + changed.len() > bytes.len() {
                return Err(unsupported("resizing a VMDK with so long a descriptor is not built; convert it"));
            }
            return Ok((offset, changed));
        }
        at += line.len();
    }
    Err(lost())
}

/// Takes the mark "in use" of an image away that is sound; see [`image::repair`](crate::image::repair).
pub(crate) fn repair(file: ImageFile) -> Result<CheckReport, BlockError> {
    if let First::Descriptor(_) = examine(&file)? {
        return Err(unsupported("a VMDK of several files holds nothing to repair it by"));
    }
    let again = file.second()?;
    // As a reader: a writer is not let in where there is damage to tell of.
    let report = open_sparse(file.into_reader(), None)?.check()?;
    if report == CheckReport::default() {
        again.write_bytes(field::UNCLEAN as u64, &[0])?;
        again.sync()?;
    }
    Ok(report)
}
