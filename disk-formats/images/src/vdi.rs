//! VirtualBox's disk images, dynamic and static (fixed), version 1.1.
//!
//! ```text
//!   0      preheader: text, signature, version
//!   48h    header: type, offsets of map and data, disk and block size, counts, identities
//!   map    a number of four bytes for each block of the disk: where among the stored blocks it is
//!   data   stored blocks, each `block size` long
//! ```
//!
//! Sources: the layout as VirtualBox's and QEMU's readers describe it, checked against images both write. All numbers
//! are little-endian.
//!
//! Not built: differencing and undo images (a parent is named by identity), versions before 1.1, blocks with a header
//! of their own. Each is refused.

use std::fs::File;
use std::path::Path;

use benchtop_block::BlockError;

use crate::error::{corrupt, unsupported};
use crate::fields::{bytes_at, le32, le64, put};
use crate::file::{ImageFile, new};
use crate::image::{CheckReport, Facts};
use crate::mapped::{self, Checked, Layout, MappedDisk, Own, Place, Room, Slot, delegate_backend};

const SIGNATURE: u32 = 0xbeda_107f;
const VERSION: u32 = 0x0001_0001;
const HEADER_BYTES: usize = 512;
/// What our images say their main header is long, as VirtualBox's do.
const MAIN_HEADER_BYTES: u32 = 400;
const PAGE_BYTES: u64 = 4096;
/// The map's length at most: 16 Mi blocks, 16 TiB with usual blocks.
const MAX_BLOCKS: u32 = 16 << 20;
const BLOCK_BYTES: u32 = 1 << 20;
/// Entries from here on name no stored block: FFFFFFFFh was never written, FFFFFFFEh was discarded.
const FIRST_ABSENT: u32 = 0xffff_fffe;

/// Offsets in the header, in bytes.
mod field {
    pub const SIGNATURE: usize = 0x40;
    pub const VERSION: usize = 0x44;
    pub const MAIN_HEADER_BYTES: usize = 0x48;
    pub const TYPE: usize = 0x4c;
    pub const MAP_OFFSET: usize = 0x154;
    pub const DATA_OFFSET: usize = 0x158;
    pub const SECTOR_BYTES: usize = 0x168;
    pub const DISK_BYTES: usize = 0x170;
    pub const BLOCK_BYTES: usize = 0x178;
    pub const BLOCK_EXTRA_BYTES: usize = 0x17c;
    pub const BLOCKS: usize = 0x180;
    pub const ALLOCATED: usize = 0x184;
    pub const IMAGE_ID: usize = 0x188;
    pub const SNAPSHOT_ID: usize = 0x198;
    pub const LINK_ID: usize = 0x1a8;
    pub const PARENT_ID: usize = 0x1b8;
}

/// How blocks of a new image come to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VdiKind {
    /// When they are first written.
    Dynamic,
    /// At once. The file is as long as the disk and takes no room yet where the file system has holes.
    Static,
}

/// An open VDI image.
pub struct VdiDisk {
    backend: MappedDisk<VdiLayout>,
}

delegate_backend!(VdiDisk);

struct VdiLayout {
    map_bytes: u64,
    data_bytes: u64,
    block_bytes: u32,
    blocks: u32,
    /// All before the data.
    own: Own,
}

impl VdiDisk {
    /// Takes an open descriptor, which must allow writing unless `read_only`, and locks the file as
    /// [`RawDisk::open`](crate::RawDisk::open) does. Needs up to 10 MiB of memory.
    ///
    /// # Errors
    /// `Unsupported` naming what is not built, `Corrupt` where the image contradicts itself, `InUse`, `ReadOnly`, or
    /// the host's.
    pub fn open(file: File, read_only: bool) -> Result<Self, BlockError> {
        let file = ImageFile::open(file, read_only)?;
        let (header, layout) = read(&file)?;
        let size_bytes = le64(&header, field::DISK_BYTES);
        // Only a writer must know which stored blocks are in use.
        let next = if read_only { 0 } else { count_stored(&file, &layout, size_bytes)? };
        let info = file.disk_info(size_bytes, "vdi");
        let (block_bytes, end_bytes) = (layout.block_bytes, layout.offset_of(next));
        Ok(Self { backend: MappedDisk::new(file, layout, info, block_bytes, end_bytes) })
    }

    /// See [`image::check`](crate::image::check).
    pub(crate) fn check(&self) -> Result<CheckReport, BlockError> {
        self.backend.check()
    }
}

/// The header as it stands in the file, and what it says, checked.
fn read(file: &ImageFile) -> Result<(Vec<u8>, VdiLayout), BlockError> {
    let header = file.read_metadata(0, HEADER_BYTES, "header")?;
    let layout = parse(&header, le64(&header, field::DISK_BYTES))?;
    Ok((header, layout))
}

/// What [`image::info`](crate::image::info) tells.
pub(crate) fn facts(file: &ImageFile) -> Result<Facts, BlockError> {
    let (header, _) = read(file)?;
    let variant = if le32(&header, field::TYPE) == 2 { "static" } else { "dynamic" };
    Ok(Facts::new(le64(&header, field::DISK_BYTES), variant, false))
}

/// Checks a header. The disk's size is whole sectors and fits into the blocks when this succeeds.
fn parse(header: &[u8], size_bytes: u64) -> Result<VdiLayout, BlockError> {
    if le32(header, field::SIGNATURE) != SIGNATURE {
        return Err(corrupt("the VDI signature is missing"));
    }
    let version = le32(header, field::VERSION);
    if version != VERSION {
        return Err(unsupported(format!("VDI version {}.{} is not built", version >> 16, version & 0xffff)));
    }
    match le32(header, field::TYPE) {
        1 | 2 => {}
        3 => return Err(unsupported("VDI undo images are not built")),
        4 => return Err(unsupported("VDI differencing images are not built")),
        other => return Err(corrupt(format!("{other} is no type of VDI image"))),
    }
    let parent = [bytes_at::<16>(header, field::LINK_ID), bytes_at(header, field::PARENT_ID)];
    if parent != [[0; 16]; 2] {
        return Err(unsupported("VDI images with a parent are not built"));
    }
    if le32(header, field::BLOCK_EXTRA_BYTES) != 0 {
        return Err(unsupported("VDI blocks with data of their own are not built"));
    }
    // Old writers left the sector's size out.
    if !matches!(le32(header, field::SECTOR_BYTES), 0 | 512) {
        return Err(unsupported("VDI sectors of other than 512 bytes are not built"));
    }
    let block_bytes = le32(header, field::BLOCK_BYTES);
    if !block_bytes.is_power_of_two() || !(4096..=256 << 20).contains(&block_bytes) {
        return Err(unsupported(format!("VDI blocks of {block_bytes} bytes are not built")));
    }
    let blocks = le32(header, field::BLOCKS);
    if blocks > MAX_BLOCKS {
        return Err(unsupported(format!("VDI images of {blocks} blocks, more than {MAX_BLOCKS}, are not built")));
    }
    if size_bytes == 0
        || !size_bytes.is_multiple_of(512)
        || size_bytes > u64::from(blocks).saturating_mul(u64::from(block_bytes))
    {
        return Err(corrupt(format!("a VDI disk of {size_bytes} bytes does not fit {blocks} blocks of {block_bytes}")));
    }
    let map_bytes = u64::from(le32(header, field::MAP_OFFSET));
    let data_bytes = u64::from(le32(header, field::DATA_OFFSET));
    let map_end = map_bytes.saturating_add(u64::from(blocks) * 4);
    if map_bytes < HEADER_BYTES as u64 || map_end > data_bytes {
        return Err(corrupt(format!("the VDI map at {map_bytes:#x} does not lie between header and data")));
    }
    if !(map_bytes | data_bytes).is_multiple_of(512) {
        return Err(unsupported("a VDI map or data that does not begin at a sector is not built"));
    }
    let own = Own::new(std::iter::once(0..data_bytes).collect());
    Ok(VdiLayout { map_bytes, data_bytes, block_bytes, blocks, own })
}

/// Where the next block goes: behind the last one in use. Two blocks of the disk in one place are refused, for a write
/// to one would change the other; and so is a block that is not in the file, which would be zeroes once others follow.
fn count_stored(file: &ImageFile, layout: &VdiLayout, size_bytes: u64) -> Result<u32, BlockError> {
    let mut used = vec![0u64; (layout.blocks as usize).div_ceil(64)];
    let mut next = 0;
    let mut left = size_bytes;
    for page in 0..u64::from(layout.blocks).div_ceil(PAGE_BYTES / 4) {
        let Some((offset_bytes, len)) = layout.page(page) else { break };
        for entry in file.read_metadata(offset_bytes, len, "block map")?.chunks_exact(4) {
            let stored = le32(entry, 0);
            // The last block may be stored in part.
            let here = left.min(u64::from(layout.block_bytes));
            left -= here;
            if stored >= FIRST_ABSENT {
                continue;
            }
            let Some(word) = used.get_mut(stored as usize / 64).filter(|_| stored < layout.blocks) else {
                return Err(corrupt(format!("the VDI map names stored block {stored} of {}", layout.blocks)));
            };
            if *word & 1 << (stored % 64) != 0 {
                return Err(corrupt(format!("the VDI map names stored block {stored} twice")));
            }
            if layout.offset_of(stored).saturating_add(here) > file.len_bytes() {
                let context = format!("the file was cut short: stored block {stored} is behind its end");
                return Err(corrupt(format!("{context}; the image can be opened read-only")));
            }
            *word |= 1 << (stored % 64);
            next = next.max(stored + 1);
        }
    }
    Ok(next)
}

impl VdiLayout {
    fn offset_of(&self, stored: u32) -> u64 {
        // 2^32 blocks of 2^28 bytes at most.
        self.data_bytes.saturating_add(u64::from(stored) * u64::from(self.block_bytes))
    }

    fn stored_until(&self, end_bytes: u64) -> u32 {
        u32::try_from(end_bytes.saturating_sub(self.data_bytes) / u64::from(self.block_bytes)).unwrap_or(u32::MAX)
    }
}

impl Layout for VdiLayout {
    fn slot(&self, block: u64) -> Slot {
        Slot { page: block / (PAGE_BYTES / 4), at: (block % (PAGE_BYTES / 4)) as usize * 4 }
    }

    fn page(&self, page: u64) -> Option<(u64, usize)> {
        let start = page.checked_mul(PAGE_BYTES)?;
        let left = (u64::from(self.blocks) * 4).checked_sub(start).filter(|left| *left > 0)?;
        Some((self.map_bytes + start, left.min(PAGE_BYTES) as usize))
    }

    fn own(&self) -> &Own {
        &self.own
    }

    fn decode(&self, block: u64, entry: &[u8]) -> Result<Place, BlockError> {
        if entry.len() < 4 {
            return Err(corrupt(format!("the VDI map has no block {block}")));
        }
        match le32(entry, 0) {
            FIRST_ABSENT.. => Ok(Place::Absent),
            stored if stored < self.blocks => Ok(Place::At(self.offset_of(stored))),
            stored => Err(corrupt(format!("VDI block {block} is stored block {stored} of {}", self.blocks))),
        }
    }

    fn reserve(&self, _block: u64, end_bytes: u64) -> Result<Room, BlockError> {
        let stored = self.stored_until(end_bytes);
        if stored >= self.blocks {
            return Err(corrupt("the VDI image holds all its blocks and lacks one"));
        }
        Ok(Room {
            start_bytes: end_bytes,
            data_bytes: end_bytes,
            end_bytes: end_bytes.saturating_add(u64::from(self.block_bytes)),
            entry: stored.to_le_bytes().to_vec(),
        })
    }

    /// Others put their next block where the count says: a count that is too high loses room, one that is too low
    /// would lose data.
    fn before_sync(&self, file: &ImageFile, end_bytes: u64) -> Result<(), BlockError> {
        file.write_bytes(field::ALLOCATED as u64, &self.stored_until(end_bytes).to_le_bytes())
    }
}

/// Creates an image of `size_bytes` zeroes and opens it for reading and writing. It appears under its name complete
/// and durable, or not at all; a file that exists is never replaced.
///
/// # Errors
/// `OutOfRange` unless the size is a positive number of whole sectors, 16 TiB at most; the host's, with
/// `AlreadyExists` as its cause where the name is taken.
pub fn create(path: &Path, size_bytes: u64, kind: VdiKind) -> Result<File, BlockError> {
    new::check_size(size_bytes, u64::from(MAX_BLOCKS) * u64::from(BLOCK_BYTES), "VDI")?;
    // The check bounds it.
    let blocks = size_bytes.div_ceil(u64::from(BLOCK_BYTES)) as u32;
    let map_end = BLOCK_BYTES_ALIGN + u64::from(blocks) * 4;
    let data_bytes = map_end.next_multiple_of(BLOCK_BYTES_ALIGN);
    let allocated = if kind == VdiKind::Static { blocks } else { 0 };
    let mut header = vec![0; HEADER_BYTES];
    put(&mut header, 0, b"<<< Benchtop disk image, VDI 1.1 >>>\n");
    for (at, number) in [
        (field::SIGNATURE, SIGNATURE),
        (field::VERSION, VERSION),
        (field::MAIN_HEADER_BYTES, MAIN_HEADER_BYTES),
        (field::TYPE, if kind == VdiKind::Static { 2 } else { 1 }),
        (field::MAP_OFFSET, BLOCK_BYTES_ALIGN as u32),
        (field::DATA_OFFSET, data_bytes as u32),
        (field::SECTOR_BYTES, 512),
        (field::BLOCK_BYTES, BLOCK_BYTES),
        (field::BLOCKS, blocks),
        (field::ALLOCATED, allocated),
    ] {
        put(&mut header, at, &number.to_le_bytes());
    }
    put(&mut header, field::DISK_BYTES, &size_bytes.to_le_bytes());
    put(&mut header, field::IMAGE_ID, &uuid::Uuid::new_v4().to_bytes_le());
    put(&mut header, field::SNAPSHOT_ID, &uuid::Uuid::new_v4().to_bytes_le());
    new::create_file(path, |file| {
        file.write_bytes(0, &header)?;
        // In pages, for the map may have 64 MiB.
        for first in (0..blocks).step_by(1024) {
            let entries = first..blocks.min(first + 1024);
            let page: Vec<u8> = entries
                .flat_map(|block| if kind == VdiKind::Static { block } else { u32::MAX }.to_le_bytes())
                .collect();
            file.write_bytes(BLOCK_BYTES_ALIGN + u64::from(first) * 4, &page)?;
        }
        file.set_len(data_bytes + u64::from(allocated) * u64::from(BLOCK_BYTES))
    })
}

/// Makes the disk `size_bytes` long; see [`image::resize`](crate::image::resize). The map grows into the room before the
/// data, and then the header's numbers change, in one sector.
pub(crate) fn grow(file: &ImageFile, size_bytes: u64) -> Result<(), BlockError> {
    let (mut header, layout) = read(file)?;
    new::check_size(size_bytes, u64::from(MAX_BLOCKS) * u64::from(layout.block_bytes), "VDI")?;
    // The check bounds it.
    let blocks = (size_bytes.div_ceil(u64::from(layout.block_bytes)) as u32).max(layout.blocks);
    if layout.map_bytes + u64::from(blocks) * 4 > layout.data_bytes {
        let most = (layout.data_bytes - layout.map_bytes) / 4 * u64::from(layout.block_bytes);
        let context = format!("the VDI image has room for a map of {most} bytes; convert it into a new one for more");
        return Err(unsupported(context));
    }
    let old_bytes = le64(&header, field::DISK_BYTES);
    let mut next = count_stored(file, &layout, old_bytes)?;
    mapped::zero_tail(file, &layout, old_bytes, layout.block_bytes)?;
    zero_behind(file, &layout, old_bytes)?;
    let is_static = le32(&header, field::TYPE) == 2;
    let added: Vec<u8> = (layout.blocks..blocks)
        .zip(next..)
        .flat_map(|(_, stored)| if is_static { stored } else { u32::MAX }.to_le_bytes())
        .collect();
    if is_static {
        next = next.saturating_add(blocks - layout.blocks);
        file.grow(layout.offset_of(next))?;
    }
    file.write_bytes(layout.map_bytes + u64::from(layout.blocks) * 4, &added)?;
    file.sync()?;
    put(&mut header, field::DISK_BYTES, &size_bytes.to_le_bytes());
    put(&mut header, field::BLOCKS, &blocks.to_le_bytes());
    put(&mut header, field::ALLOCATED, &next.to_le_bytes());
    let changed = header.get(field::DISK_BYTES..field::ALLOCATED + 4).unwrap_or_default();
    file.write_bytes(field::DISK_BYTES as u64, changed)?;
    file.sync()
}

/// Makes blocks zeroes that are stored behind the end of a disk of `size_bytes`, which nobody looked at so far.
fn zero_behind(file: &ImageFile, layout: &VdiLayout, size_bytes: u64) -> Result<(), BlockError> {
    let first = size_bytes.div_ceil(u64::from(layout.block_bytes));
    let per_page = PAGE_BYTES / 4;
    for page in first / per_page..u64::from(layout.blocks).div_ceil(per_page) {
        let Some((offset_bytes, len)) = layout.page(page) else { break };
        let entries = file.read_metadata(offset_bytes, len, "block map")?;
        for (block, entry) in (page * per_page..).zip(entries.chunks_exact(4)).filter(|(block, _)| *block >= first) {
            let Place::At(start) = layout.decode(block, entry)? else { continue };
            let end = start.saturating_add(u64::from(layout.block_bytes)).min(file.len_bytes());
            if start < end {
                file.zero(start, end - start)?;
            }
        }
    }
    Ok(())
}

/// What map and data of our images are aligned to, in bytes: blocks then lie well on every disk.
const BLOCK_BYTES_ALIGN: u64 = 1 << 20;

#[cfg(test)]
mod tests;
