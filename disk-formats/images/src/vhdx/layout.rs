//! The block allocation table ([MS-VHDX] 2.5) and how it is changed.

use benchtop_block::BlockError;
use parking_lot::Mutex;

use super::header::{Headers, Regions, new_guid};
use super::metadata::Facts;
use super::{MIB, corrupt, log};
use crate::fields::le64;
use crate::file::ImageFile;
use crate::mapped::{Layout, Own, PageCopy, Place, Room, Slot};

pub(super) const PAGE_BYTES: u64 = 4096;
/// Pages in one log entry, at most: with its header the entry stays below 1 MiB, the shortest log there is.
const MAX_ENTRY_PAGES: usize = 120;

/// The states of a block of data; 7, partly present, belongs to differencing images.
pub(super) mod state {
    pub const NOT_PRESENT: u64 = 0;
    pub const UNDEFINED: u64 = 1;
    pub const ZERO: u64 = 2;
    pub const UNMAPPED: u64 = 3;
    pub const PRESENT: u64 = 6;
    pub const MASK: u64 = 7;
}

/// Blocks between two entries for sector bitmaps: a bitmap of 1 MiB covers 2^23 sectors.
pub(super) fn chunk_blocks(facts: &Facts) -> u64 {
    ((1u64 << 23) * u64::from(facts.logical_sector_bytes) / u64::from(facts.block_bytes)).max(1)
}

/// Entries of the BAT: blocks and, between chunks, bitmaps.
pub(super) fn count_entries(facts: &Facts) -> u64 {
    let blocks = facts.size_bytes.div_ceil(u64::from(facts.block_bytes));
    blocks + blocks.saturating_sub(1) / chunk_blocks(facts)
}

pub(super) struct VhdxLayout {
    regions: Regions,
    entries: u64,
    chunk_blocks: u64,
    block_bytes: u32,
    own: Own,
    writer: Mutex<Writer>,
}

struct Writer {
    headers: Headers,
    /// Of the newest log entry.
    log_sequence: u64,
}

impl VhdxLayout {
    /// # Errors
    /// `Corrupt` where the BAT is too short for the disk.
    pub(super) fn new(headers: Headers, regions: Regions, facts: &Facts) -> Result<Self, BlockError> {
        let entries = count_entries(facts);
        if entries.saturating_mul(8) > regions.bat.len {
            return Err(corrupt(format!("a VHDX block table of {:#x} bytes is too short", regions.bat.len)));
        }
        let writer = Mutex::new(Writer { headers, log_sequence: 0 });
        let Regions { bat, metadata, log } = regions;
        let regions_in_file = [bat, metadata, log].map(|region| region.start..region.start.saturating_add(region.len));
        let own = Own::new(std::iter::once(0..MIB).chain(regions_in_file).collect());
        let block_bytes = facts.block_bytes;
        Ok(Self { regions, entries, chunk_blocks: chunk_blocks(facts), block_bytes, own, writer })
    }
}

impl VhdxLayout {
    /// Changes pages of metadata, given by their offset in the file. Each change is in the log, durably, before it is
    /// made, and made, durably, before the log is used again. So the log holds one entry at a time, at its start.
    pub(super) fn change(&self, file: &ImageFile, pages: &[(u64, &[u8])]) -> Result<(), BlockError> {
        let mut writer = self.writer.lock();
        for pages in pages.chunks(MAX_ENTRY_PAGES) {
            writer.log_sequence += 1;
            let entry = log::entry(pages, &writer.headers.current.log, writer.log_sequence, file.len_bytes());
            file.write_bytes(writer.headers.current.log_at, &entry)?;
            file.sync()?;
            for (offset_bytes, bytes) in pages {
                file.write_bytes(*offset_bytes, bytes)?;
            }
            file.sync()?;
        }
        Ok(())
    }
}

impl Layout for VhdxLayout {
    fn slot(&self, block: u64) -> Slot {
        let entry = block + block / self.chunk_blocks;
        Slot { page: entry / (PAGE_BYTES / 8), at: (entry % (PAGE_BYTES / 8)) as usize * 8 }
    }

    /// Whole pages, as the log needs: the region is longer than the table.
    fn page(&self, page: u64) -> Option<(u64, usize)> {
        let start = page.checked_mul(PAGE_BYTES).filter(|start| *start < self.entries * 8)?;
        Some((self.regions.bat.start + start, PAGE_BYTES as usize))
    }

    fn own(&self) -> &Own {
        &self.own
    }

    fn decode(&self, block: u64, entry: &[u8]) -> Result<Place, BlockError> {
        if entry.len() < 8 {
            return Err(corrupt(format!("the VHDX block table has no block {block}")));
        }
        let entry = le64(entry, 0);
        match entry & state::MASK {
            state::NOT_PRESENT | state::UNDEFINED | state::ZERO | state::UNMAPPED => Ok(Place::Absent),
            state::PRESENT => {
                let start = entry & !(MIB - 1);
                if self.own.holds(start, start.saturating_add(u64::from(self.block_bytes))) {
                    let context = format!("VHDX block {block} at {start:#x} lies in the image's own data");
                    return Err(corrupt(context));
                }
                Ok(Place::At(start))
            }
            other => Err(corrupt(format!("VHDX block {block} is in the state {other}"))),
        }
    }

    fn reserve(&self, _block: u64, end_bytes: u64) -> Result<Room, BlockError> {
        let start_bytes = end_bytes.checked_next_multiple_of(MIB);
        let end = start_bytes.and_then(|start| start.checked_add(u64::from(self.block_bytes)));
        let (Some(start_bytes), Some(end_bytes)) = (start_bytes, end) else {
            return Err(corrupt("the VHDX file is as long as files can be"));
        };
        let entry = (start_bytes | state::PRESENT).to_le_bytes().to_vec();
        Ok(Room { start_bytes, data_bytes: start_bytes, end_bytes, entry })
    }

    /// The content gets a new identity and the log a name: entries of earlier sessions are nobody's from here on.
    fn begin(&self, file: &ImageFile) -> Result<(), BlockError> {
        let mut writer = self.writer.lock();
        writer.log_sequence = 0;
        writer.headers.update(file, |header| {
            header.file_write = new_guid();
            header.data_write = new_guid();
            header.log = new_guid();
        })
    }

    fn commit(&self, file: &ImageFile, pages: &[PageCopy]) -> Result<(), BlockError> {
        let pages: Vec<(u64, &[u8])> = pages
            .iter()
            .filter_map(|copy| self.page(copy.page).map(|(offset_bytes, _)| (offset_bytes, &copy.bytes[..])))
            .collect();
        self.change(file, &pages)
    }

    fn close(&self, file: &ImageFile) -> Result<(), BlockError> {
        file.sync()?;
        self.writer.lock().headers.update(file, |header| header.log = [0; 16])
    }
}
