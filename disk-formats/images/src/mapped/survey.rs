//! Looking at every block of a map: to find damage, and before anything is written.
//!
//! A writer must know where nothing is: a file may end before a block that its map names (it was cut short, or the last
//! block of the disk is stored in part), and then the end of the file is no place for a new one.

use benchtop_block::{BlockError, BlockErrorKind, SECTOR_BYTES};

use super::{Layout, MappedDisk, Place};
use crate::error::{corrupt, unsupported};
use crate::file::ImageFile;
use crate::image::CheckReport;

/// Stored blocks of an image that is checked, at most: 256 MiB of memory, and twice that for a moment.
const MAX_CHECKED: usize = 16 << 20;
/// Blocks of a disk that is checked or written, at most, stored or not: seconds.
const MAX_LOOKED_AT: u64 = 128 << 20;

fn count_blocks(size_bytes: u64, block_bytes: u64) -> Result<u64, BlockError> {
    let blocks = size_bytes.div_ceil(block_bytes);
    if blocks > MAX_LOOKED_AT {
        return Err(unsupported(format!("disks of {blocks} blocks, more than {MAX_LOOKED_AT}, can only be read")));
    }
    Ok(blocks)
}

/// Goes over the map of an image that is to be written, `file_bytes` of whose file may hold blocks, and says behind
/// which byte of the file there is none: not even the part of the disk's last block that is not stored.
///
/// # Errors
/// `Corrupt` for headers and tables that share room, an entry that makes no sense, a block that is not in the file, or
/// two in one place; `Unsupported` for a disk of more blocks than can be looked at; the host's.
pub(crate) fn survey<L: Layout>(
    file: &ImageFile,
    layout: &L,
    size_bytes: u64,
    block_bytes: u32,
    file_bytes: u64,
) -> Result<u64, BlockError> {
    layout.own().require_sound()?;
    let block_bytes = u64::from(block_bytes);
    let blocks = count_blocks(size_bytes, block_bytes)?;
    let room_bytes = layout.before_data() + block_bytes;
    let advice = "the image can be opened read-only";
    // The last block, whose room may reach farther than what is stored of it.
    let last = blocks.saturating_sub(1);
    let last_start = match entry_of(file, layout, last)? {
        Place::At(start) => Some(start),
        _ => None,
    };
    let mut seen = Starts::default();
    let mut end_bytes = 0;
    let mut page = None;
    for block in 0..blocks {
        let slot = layout.slot(block);
        if page.as_ref().is_none_or(|(number, _)| *number != slot.page) {
            page = Some((slot.page, read_page(file, layout, slot.page)?));
        }
        let Some((_, Some(bytes))) = &page else { continue };
        let place = layout.decode(block, bytes.get(slot.at..).unwrap_or_default())?;
        let Place::At(start) = place else { continue };
        let stored = block_bytes.min(size_bytes - block * block_bytes);
        if start.checked_add(stored).is_none_or(|end| end > file_bytes) {
            let context = format!("the file was cut short: block {block} at {start:#x} is behind its end");
            return Err(corrupt(format!("{context}; {advice}")));
        }
        let in_last = block != last && last_start.is_some_and(|last| last.abs_diff(start) < room_bytes);
        if in_last || !seen.insert(start / room_bytes) {
            return Err(corrupt(format!("two blocks share room at {start:#x}; {advice}")));
        }
        end_bytes = end_bytes.max(start.saturating_add(block_bytes));
    }
    Ok(end_bytes)
}

fn read_page<L: Layout>(file: &ImageFile, layout: &L, page: u64) -> Result<Option<Vec<u8>>, BlockError> {
    let Some((offset_bytes, len)) = layout.page(page) else { return Ok(None) };
    file.read_metadata(offset_bytes, len, "block map").map(Some)
}

fn entry_of<L: Layout>(file: &ImageFile, layout: &L, block: u64) -> Result<Place, BlockError> {
    let slot = layout.slot(block);
    match read_page(file, layout, slot.page)? {
        Some(bytes) => layout.decode(block, bytes.get(slot.at..).unwrap_or_default()),
        None => Ok(Place::Absent),
    }
}

/// Where blocks begin, in rooms of one block: two in one room overlap for certain. Blocks that lie askew may overlap
/// without being found, which only a check has the memory for.
#[derive(Default)]
struct Starts {
    /// 4 KiB of bits each, made when they are needed: a file may have long holes.
    pages: std::collections::HashMap<u64, Box<[u64; 512]>>,
}

impl Starts {
    /// False where it was there.
    fn insert(&mut self, room: u64) -> bool {
        let page = self.pages.entry(room / 32768).or_insert_with(|| Box::new([0; 512]));
        // Below 512 and 64.
        let (word, bit) = ((room % 32768 / 64) as usize, 1u64 << (room % 64));
        let Some(word) = page.get_mut(word) else { return false };
        let new = *word & bit == 0;
        *word |= bit;
        new
    }
}

/// Before a disk of `size_bytes` grows, whose map [`survey`] found sound: what its last block holds behind the end
/// becomes zeroes, and is there where it was not stored.
///
/// # Errors
/// `Corrupt`, or the host's.
pub(crate) fn zero_tail<L: Layout>(
    file: &ImageFile,
    layout: &L,
    size_bytes: u64,
    block_bytes: u32,
) -> Result<(), BlockError> {
    let block_bytes = u64::from(block_bytes);
    let (block, used) = (size_bytes / block_bytes, size_bytes % block_bytes);
    if used == 0 {
        return Ok(());
    }
    let Place::At(start) = entry_of(file, layout, block)? else { return Ok(()) };
    let (start, end) = (start.saturating_add(used), start.saturating_add(block_bytes));
    let stored = end.min(file.len_bytes());
    file.grow(end)?;
    if start < stored { file.zero(start, stored - start) } else { Ok(()) }
}

/// What a check finds: see [`image::check`](crate::image::check).
pub(super) fn check<L: Layout>(disk: &MappedDisk<L>) -> Result<CheckReport, BlockError> {
    let mut report = CheckReport::default();
    if let Some((count, finding)) = disk.layout.own().damages() {
        report.damage(count, || finding.to_owned());
    }
    let block_bytes = disk.block_bytes as u64;
    let before = disk.layout.before_data();
    let file_bytes = disk.file.len_bytes();
    let blocks = count_blocks(disk.info.size_bytes, block_bytes)?;
    let mut rooms = Vec::new();
    for block in 0..blocks {
        let place = match disk.place(&mut disk.table.lock(), block) {
            Err(error) if error.kind() == BlockErrorKind::Corrupt => {
                report.damage(1, || format!("block {block}: {error}"));
                continue;
            }
            place => place?,
        };
        let (start, len, room) = match place {
            Place::Absent => continue,
            // The last block may be shorter than the others.
            Place::At(start) => {
                (start - before, before + block_bytes.min(disk.info.size_bytes - block * block_bytes), None)
            }
            Place::Packed(start) => match disk.layout.packed_bytes(&disk.file, block, start) {
                Ok(len) => (start, len, Some(len)),
                Err(error) if error.kind() == BlockErrorKind::Corrupt => {
                    report.damage(1, || format!("block {block}: {error}"));
                    continue;
                }
                Err(error) => return Err(error),
            },
        };
        if start.checked_add(len).is_none_or(|end| end > file_bytes) {
            report.damage(1, || format!("block {block} at {start:#x} lies behind the end of the file"));
            continue;
        }
        if rooms.len() >= MAX_CHECKED {
            let context = format!("images of more than {MAX_CHECKED} blocks can not be checked");
            return Err(BlockError::new(BlockErrorKind::Unsupported, context));
        }
        // Packed blocks take whole sectors, at most a few thousand; 0 stands for the room all others have.
        let packed = room.map_or(0, |len| len.div_ceil(SECTOR_BYTES).min(u64::from(u32::MAX)) as u32);
        rooms.push((start, packed));
    }
    rooms.sort_unstable();
    let mut end = 0;
    for (start, packed) in rooms {
        if start < end {
            report.damage(1, || format!("two blocks share room at {start:#x}"));
        }
        let len = if packed == 0 { before + block_bytes } else { u64::from(packed) * SECTOR_BYTES };
        end = end.max(start.saturating_add(len));
    }
    Ok(report)
}
