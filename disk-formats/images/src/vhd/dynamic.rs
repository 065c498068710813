//! Dynamic VHD images: header, block table, and blocks with their sector bitmaps.

use benchtop_block::BlockError;
use parking_lot::Mutex;

use super::footer::{FOOTER_BYTES, Footer, Kind, NOWHERE, checksum};
use super::{corrupt, unsupported};
use crate::fields::{be32, be64, put};
use crate::file::ImageFile;
use crate::mapped::{Layout, Own, Place, Room, Slot, survey, zero_tail};

const HEADER_BYTES: usize = 1024;
const COOKIE: &[u8] = b"cxsparse";
const VERSION: u32 = 0x0001_0000;
const PAGE_BYTES: u64 = 4096;
/// Entries of a block that is not stored.
const ABSENT: u32 = u32::MAX;
/// The size of our blocks, the specification's default, in bytes.
const BLOCK_BYTES: u32 = 2 << 20;
/// Blocks whose bitmap was seen to be full are remembered up to this number.
const MAX_KNOWN_FULL: usize = 1 << 16;

/// Offsets in the header, in bytes.
mod field {
    pub const NEXT: usize = 8;
    pub const TABLE_OFFSET: usize = 16;
    pub const VERSION: usize = 24;
    pub const ENTRIES: usize = 28;
    pub const BLOCK_BYTES: usize = 32;
    pub const CHECKSUM: usize = 36;
}

pub(super) struct DynamicLayout {
    footer: Vec<u8>,
    table_bytes: u64,
    entries: u32,
    block_bytes: u32,
    /// Length of a block's sector bitmap, whole sectors.
    bitmap_bytes: u64,
    file_bytes: u64,
    size_bytes: u64,
    /// Where the footer was when the image was opened, or would be. It moves behind blocks that are added.
    footer_bytes: u64,
    /// The copy of the footer, the header, the table.
    own: Own,
    /// Data offsets of blocks all of whose sectors are marked present.
    full: Mutex<std::collections::HashSet<u64>>,
}

/// Length of the bitmap before a block: a bit a sector, filled up to whole sectors.
fn bitmap_bytes(block_bytes: u32) -> u64 {
    u64::from(block_bytes / 512).div_ceil(8).next_multiple_of(512)
}

impl DynamicLayout {
    /// # Errors
    /// `Corrupt`, or `Unsupported` naming what is not built.
    pub(super) fn read(file: &ImageFile, footer: &Footer, footer_bytes: u64) -> Result<Self, BlockError> {
        let header = file.read_metadata(footer.header_bytes, HEADER_BYTES, "dynamic header")?;
        if !header.starts_with(COOKIE) {
            return Err(corrupt("the VHD dynamic header is missing"));
        }
        if be32(&header, field::CHECKSUM) != checksum(&header, field::CHECKSUM) {
            return Err(corrupt("the VHD dynamic header's checksum is wrong"));
        }
        let version = be32(&header, field::VERSION);
        if version >> 16 != VERSION >> 16 {
            return Err(unsupported(format!("VHD dynamic header version {version:#x} is not built")));
        }
        let block_bytes = be32(&header, field::BLOCK_BYTES);
        if !block_bytes.is_power_of_two() || !(4096..=256 << 20).contains(&block_bytes) {
            return Err(unsupported(format!("VHD blocks of {block_bytes} bytes are not built")));
        }
        let entries = be32(&header, field::ENTRIES);
        let needed = footer.size_bytes.div_ceil(u64::from(block_bytes));
        if needed > u64::from(entries) {
            return Err(corrupt(format!("a VHD table of {entries} entries lacks blocks of the {needed} needed")));
        }
        let table_bytes = be64(&header, field::TABLE_OFFSET);
        let file_bytes = file.len_bytes();
        if !table_bytes.is_multiple_of(512) {
            return Err(unsupported("a VHD block table that does not begin at a sector is not built"));
        }
        let table_end = table_bytes.checked_add(u64::from(entries) * 4);
        if table_bytes < FOOTER_BYTES || table_end.is_none_or(|end| end > file_bytes) {
            return Err(corrupt(format!("the VHD block table at {table_bytes:#x} is not in the file")));
        }
        let header_end = footer.header_bytes.saturating_add(HEADER_BYTES as u64);
        let table_end = table_bytes.saturating_add(u64::from(entries) * 4);
        let mut own = Own::new(vec![0..FOOTER_BYTES, footer.header_bytes..header_end, table_bytes..table_end]);
        if header_end.max(table_end) > footer_bytes {
            own.damage("the VHD header or table lies over the footer".to_owned());
        }
        Ok(Self {
            footer: footer.bytes.clone(),
            table_bytes,
            entries,
            block_bytes,
            bitmap_bytes: bitmap_bytes(block_bytes),
            file_bytes,
            size_bytes: footer.size_bytes,
            footer_bytes,
            own,
            full: Mutex::default(),
        })
    }

    pub(super) fn block_bytes(&self) -> u32 {
        self.block_bytes
    }

    /// Where the first new block goes: over the footer, which moves.
    ///
    /// # Errors
    /// As [`survey`].
    pub(super) fn first_room(&self, file: &ImageFile) -> Result<u64, BlockError> {
        let end = survey(file, self, self.size_bytes, self.block_bytes, self.footer_bytes)?;
        Ok(end.max(self.footer_bytes).next_multiple_of(512))
    }

    fn is_known_full(&self, data_bytes: u64) -> bool {
        self.full.lock().contains(&data_bytes)
    }

    fn remember_full(&self, data_bytes: u64) {
        let mut full = self.full.lock();
        if full.len() < MAX_KNOWN_FULL {
            full.insert(data_bytes);
        }
    }
}

impl Layout for DynamicLayout {
    fn slot(&self, block: u64) -> Slot {
        Slot { page: block / (PAGE_BYTES / 4), at: (block % (PAGE_BYTES / 4)) as usize * 4 }
    }

    fn page(&self, page: u64) -> Option<(u64, usize)> {
        let start = page.checked_mul(PAGE_BYTES)?;
        let left = (u64::from(self.entries) * 4).checked_sub(start).filter(|left| *left > 0)?;
        Some((self.table_bytes + start, left.min(PAGE_BYTES) as usize))
    }

    fn own(&self) -> &Own {
        &self.own
    }

    fn before_data(&self) -> u64 {
        self.bitmap_bytes
    }

    /// Sectors of a stored block whose bit is not set were never written and hold zeroes, so the bitmap need not be
    /// looked at to read.
    fn decode(&self, block: u64, entry: &[u8]) -> Result<Place, BlockError> {
        if entry.len() < 4 {
            return Err(corrupt(format!("the VHD table has no block {block}")));
        }
        match be32(entry, 0) {
            ABSENT => Ok(Place::Absent),
            sector => {
                let start = u64::from(sector) * 512;
                // The last block may be stored in part.
                let used = self.size_bytes.saturating_sub(block.saturating_mul(u64::from(self.block_bytes)));
                let end = start + self.bitmap_bytes + used.min(u64::from(self.block_bytes));
                let on_footer =
                    start < self.footer_bytes && end > self.footer_bytes && self.footer_bytes < self.file_bytes;
                if self.own.holds(start, end) || on_footer {
                    return Err(corrupt(format!("VHD block {block} at sector {sector} lies in the image's own data")));
                }
                Ok(Place::At(start + self.bitmap_bytes))
            }
        }
    }

    fn reserve(&self, _block: u64, end_bytes: u64) -> Result<Room, BlockError> {
        let sector = u32::try_from(end_bytes / 512).ok().filter(|sector| *sector != ABSENT);
        let Some(sector) = sector else {
            return Err(unsupported("a VHD file of more than 2 TiB is not possible"));
        };
        let data_bytes = end_bytes + self.bitmap_bytes;
        Ok(Room {
            start_bytes: end_bytes,
            data_bytes,
            end_bytes: data_bytes + u64::from(self.block_bytes),
            entry: sector.to_be_bytes().to_vec(),
        })
    }

    /// All sectors are marked present, for the block is zeroes; and the footer follows it.
    fn prepare(&self, file: &ImageFile, room: &Room) -> Result<(), BlockError> {
        file.write_bytes(room.end_bytes, &self.footer)?;
        file.write_bytes(room.start_bytes, &vec![0xff; self.bitmap_bytes as usize])?;
        self.remember_full(room.data_bytes);
        Ok(())
    }

    /// Programs that trust bitmaps must find the sectors that were written.
    fn written(&self, file: &ImageFile, data_bytes: u64, in_block: u64, len: u64) -> Result<(), BlockError> {
        if self.is_known_full(data_bytes) {
            return Ok(());
        }
        let bitmap_at = data_bytes.saturating_sub(self.bitmap_bytes);
        // Two writers of one bitmap must not lose each other's bits.
        let full = self.full.lock();
        let mut bitmap = file.read_metadata(bitmap_at, self.bitmap_bytes as usize, "sector bitmap")?;
        let mut changed = false;
        for sector in in_block / 512..in_block.saturating_add(len).div_ceil(512) {
            // The highest bit of a byte is its first sector.
            let bit = 0x80u8 >> (sector % 8);
            if let Some(byte) = bitmap.get_mut((sector / 8) as usize).filter(|byte| **byte & bit == 0) {
                *byte |= bit;
                changed = true;
            }
        }
        if changed {
            file.write_bytes(bitmap_at, &bitmap)?;
        }
        drop(full);
        let used = (self.block_bytes / 512).div_ceil(8) as usize;
        if bitmap.iter().take(used).all(|byte| *byte == 0xff) {
            self.remember_full(data_bytes);
        }
        Ok(())
    }

    /// A crash may have taken the footer, and only the copy at the start was found.
    fn begin(&self, file: &ImageFile) -> Result<(), BlockError> {
        let last = self.file_bytes.saturating_sub(FOOTER_BYTES);
        if Footer::parse(&file.read_bytes(last, FOOTER_BYTES as usize)?).is_ok() {
            return Ok(());
        }
        file.write_bytes(self.file_bytes.next_multiple_of(512), &self.footer)
    }
}

/// Makes room in the table for a disk of `size_bytes`: a longer copy of it goes to where the footer is, a footer behind
/// it, and then the header names the copy, in one sector. The room of the old table is lost.
pub(super) fn grow(file: &ImageFile, footer: &Footer, footer_bytes: u64, size_bytes: u64) -> Result<(), BlockError> {
    let layout = DynamicLayout::read(file, footer, footer_bytes)?;
    if survey(file, &layout, footer.size_bytes, layout.block_bytes, footer_bytes)? > footer_bytes {
        return Err(unsupported("making a VHD larger whose last block is not whole is not built; convert it"));
    }
    blank_behind(file, &layout)?;
    zero_tail(file, &layout, footer.size_bytes, layout.block_bytes)?;
    // 2040 GiB in blocks of 4 KiB at least.
    let entries = size_bytes.div_ceil(u64::from(layout.block_bytes)) as u32;
    if entries <= layout.entries {
        return file.sync();
    }
    let mut header = file.read_metadata(footer.header_bytes, HEADER_BYTES, "dynamic header")?;
    // At the end of the file, so that the old footer stays where it is until a new one is durable.
    let table_at = file.len_bytes().next_multiple_of(512);
    let mut at = table_at;
    let end = table_at + (u64::from(entries) * 4).next_multiple_of(512);
    let mut old = layout.table_bytes..layout.table_bytes + u64::from(layout.entries) * 4;
    // In pages, for the table may have 2 GiB.
    while at < end {
        let len = (end - at).min(PAGE_BYTES);
        let mut page = file.read_bytes(old.start, (old.end - old.start).min(len) as usize)?;
        old.start += page.len() as u64;
        page.resize(len as usize, 0xff);
        file.write_bytes(at, &page)?;
        at += len;
    }
    file.write_bytes(end, &footer.bytes)?;
    file.sync()?;
    put(&mut header, field::TABLE_OFFSET, &table_at.to_be_bytes());
    put(&mut header, field::ENTRIES, &entries.to_be_bytes());
    let sum = checksum(&header, field::CHECKSUM);
    put(&mut header, field::CHECKSUM, &sum.to_be_bytes());
    file.write_bytes(footer.header_bytes, header.get(..FOOTER_BYTES as usize).unwrap_or_default())?;
    file.sync()
}

/// Makes the entries of blocks behind the end of the disk absent, which nobody looked at so far.
fn blank_behind(file: &ImageFile, layout: &DynamicLayout) -> Result<(), BlockError> {
    let first = layout.size_bytes.div_ceil(u64::from(layout.block_bytes)) * 4;
    let end = u64::from(layout.entries) * 4;
    for at in (first..end).step_by(PAGE_BYTES as usize) {
        file.write_bytes(layout.table_bytes + at, &vec![0xff; (end - at).min(PAGE_BYTES) as usize])?;
    }
    Ok(())
}

/// Writes a new image of `size_bytes`, which the caller has checked, into an empty file.
pub(super) fn write_new(file: &ImageFile, size_bytes: u64) -> Result<(), BlockError> {
    const TABLE_AT: u64 = FOOTER_BYTES + HEADER_BYTES as u64;
    // 2040 GiB are 1 Mi blocks.
    let entries = size_bytes.div_ceil(u64::from(BLOCK_BYTES)) as u32;
    let footer = Footer::new(Kind::Dynamic, size_bytes);
    let mut header = vec![0; HEADER_BYTES];
    put(&mut header, 0, COOKIE);
    put(&mut header, field::NEXT, &NOWHERE.to_be_bytes());
    put(&mut header, field::TABLE_OFFSET, &TABLE_AT.to_be_bytes());
    put(&mut header, field::VERSION, &VERSION.to_be_bytes());
    put(&mut header, field::ENTRIES, &entries.to_be_bytes());
    put(&mut header, field::BLOCK_BYTES, &BLOCK_BYTES.to_be_bytes());
    let sum = checksum(&header, field::CHECKSUM);
    put(&mut header, field::CHECKSUM, &sum.to_be_bytes());
    file.write_bytes(0, &footer.bytes)?;
    file.write_bytes(FOOTER_BYTES, &header)?;
    // What fills the table's last sector is written as absent entries, too.
    let table = vec![0xff; (u64::from(entries) * 4).next_multiple_of(512) as usize];
    file.write_bytes(TABLE_AT, &table)?;
    file.write_bytes(TABLE_AT + table.len() as u64, &footer.bytes)
}
