//! Hosted sparse extents: header, grain directory, grain tables, grains, compressed ones too.

use std::collections::VecDeque;
use std::io::Read as _;
use std::sync::Arc;

use benchtop_block::{BlockError, BlockErrorKind, SECTOR_BYTES};
use parking_lot::Mutex;

use super::descriptor::{self, Descriptor};
use super::{MAX_DESCRIPTOR_BYTES, corrupt, unsupported};
use crate::fields::{le16, le32, le64, put};
use crate::file::ImageFile;
use crate::mapped::{Layout, Own, PageCopy, Place, Room, Slot};

pub(super) const MAGIC: &[u8] = b"KDMV";
/// Entries of a grain table; the format knows no other number.
pub(super) const TABLE_ENTRIES: u64 = 512;
pub(super) const TABLE_BYTES: usize = TABLE_ENTRIES as usize * 4;
/// Our grains, in sectors: 64 KiB, as VMware makes them.
pub(super) const GRAIN_SECTORS: u64 = 128;
/// Room for the descriptor in our images, in sectors.
pub(super) const DESCRIPTOR_SECTORS: u64 = 20;
/// Grain tables of an extent, at most: 32 TiB of usual grains, 4 MiB of directory.
const MAX_TABLES: u64 = 1 << 20;
/// What stands for the directory's place where a footer has it.
pub(super) const IN_FOOTER: u64 = u64::MAX;
/// What stands before a packed grain, in bytes.
const MARKER_BYTES: usize = 12;
/// Unpacked grains that are kept, in bytes.
const CACHE_BYTES: usize = 4 << 20;

/// The header's flags.
pub(super) mod flag {
    /// The bytes that tell a transfer as text are valid.
    pub const NEWLINES: u32 = 1;
    /// There is a second copy of directory and tables.
    pub const REDUNDANT: u32 = 1 << 1;
    /// Entry 1 of a table says a grain of zeroes.
    pub const ZERO_GRAINS: u32 = 1 << 2;
    /// Grains are compressed.
    pub const COMPRESSED: u32 = 1 << 16;
    /// Markers stand before grains and metadata.
    pub const MARKERS: u32 = 1 << 17;
}

/// Offsets in the header, in bytes.
pub(super) mod field {
    pub const VERSION: usize = 4;
    pub const FLAGS: usize = 8;
    pub const CAPACITY: usize = 12;
    pub const GRAIN: usize = 20;
    pub const DESCRIPTOR_OFFSET: usize = 28;
    pub const DESCRIPTOR_SECTORS: usize = 36;
    pub const TABLE_ENTRIES: usize = 44;
    pub const REDUNDANT_DIRECTORY: usize = 48;
    pub const DIRECTORY: usize = 56;
    pub const OVERHEAD: usize = 64;
    pub const UNCLEAN: usize = 72;
    pub const NEWLINES: usize = 73;
    pub const COMPRESSION: usize = 77;
}

/// The header, in its own units: sectors.
#[derive(Clone, Copy, Debug)]
pub(super) struct Header {
    pub(super) version: u32,
    pub(super) flags: u32,
    pub(super) capacity: u64,
    pub(super) grain: u64,
    pub(super) descriptor: u64,
    pub(super) descriptor_sectors: u64,
    pub(super) redundant_directory: u64,
    pub(super) directory: u64,
    pub(super) overhead: u64,
    pub(super) unclean: bool,
}

impl Header {
    fn parse(bytes: &[u8]) -> Result<Self, BlockError> {
        if !bytes.starts_with(MAGIC) {
            return Err(corrupt("the VMDK signature is missing"));
        }
        let header = Self {
            version: le32(bytes, field::VERSION),
            flags: le32(bytes, field::FLAGS),
            capacity: le64(bytes, field::CAPACITY),
            grain: le64(bytes, field::GRAIN),
            descriptor: le64(bytes, field::DESCRIPTOR_OFFSET),
            descriptor_sectors: le64(bytes, field::DESCRIPTOR_SECTORS),
            redundant_directory: le64(bytes, field::REDUNDANT_DIRECTORY),
            directory: le64(bytes, field::DIRECTORY),
            overhead: le64(bytes, field::OVERHEAD),
            unclean: bytes.get(field::UNCLEAN).is_some_and(|byte| *byte != 0),
        };
        if !(1..=3).contains(&header.version) {
            return Err(unsupported(format!("VMDK sparse version {} is not built", header.version)));
        }
        // A transfer as text would have changed these: line feed, space, carriage return, line feed.
        if header.flags & flag::NEWLINES != 0 && bytes.get(field::NEWLINES..field::NEWLINES + 4) != Some(b"\n \r\n") {
            return Err(corrupt("the VMDK file was changed by a transfer as text"));
        }
        if u64::from(le32(bytes, field::TABLE_ENTRIES)) != TABLE_ENTRIES {
            return Err(unsupported("VMDK grain tables of other than 512 entries are not built"));
        }
        if !header.grain.is_power_of_two() || !(8..=2048).contains(&header.grain) {
            return Err(unsupported(format!("VMDK grains of {} sectors are not built", header.grain)));
        }
        let tables = header.capacity.div_ceil(header.grain * TABLE_ENTRIES);
        if header.capacity == 0 || tables > MAX_TABLES {
            return Err(unsupported(format!("a VMDK extent of {} sectors is not built", header.capacity)));
        }
        // The method counts only where grains are compressed; 1 is deflate with a zlib header.
        let method = le16(bytes, field::COMPRESSION);
        if header.flags & flag::COMPRESSED != 0 && (method != 1 || header.flags & flag::MARKERS == 0) {
            return Err(unsupported(format!("VMDK compression {method} or compression without markers is not built")));
        }
        Ok(header)
    }

    fn count_tables(&self) -> usize {
        // At most MAX_TABLES.
        self.capacity.div_ceil(self.grain * TABLE_ENTRIES) as usize
    }

    /// As it stands in the file.
    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; SECTOR_BYTES as usize];
        put(&mut bytes, 0, MAGIC);
        for (at, number) in
            [(field::VERSION, self.version), (field::FLAGS, self.flags), (field::TABLE_ENTRIES, TABLE_ENTRIES as u32)]
        {
            put(&mut bytes, at, &number.to_le_bytes());
        }
        for (at, number) in [
            (field::CAPACITY, self.capacity),
            (field::GRAIN, self.grain),
            (field::DESCRIPTOR_OFFSET, self.descriptor),
            (field::DESCRIPTOR_SECTORS, self.descriptor_sectors),
            (field::REDUNDANT_DIRECTORY, self.redundant_directory),
            (field::DIRECTORY, self.directory),
            (field::OVERHEAD, self.overhead),
        ] {
            put(&mut bytes, at, &number.to_le_bytes());
        }
        put(&mut bytes, field::NEWLINES, b"\n \r\n");
        let compression = u16::from(self.flags & flag::COMPRESSED != 0);
        put(&mut bytes, field::COMPRESSION, &compression.to_le_bytes());
        bytes
    }
}

pub(super) struct SparseLayout {
    pub(super) header: Header,
    /// Sectors of the grain tables; 0 where there is none.
    pub(super) directory: Vec<u32>,
    /// The copy, in an image that has one.
    pub(super) redundant: Vec<u32>,
    /// Header, descriptor, directories and tables.
    own: Own,
    /// Where in the file the descriptor has its content's identity, in bytes.
    content_id_at: Option<u64>,
    /// The newest unpacked grains, by their offset.
    unpacked: Mutex<VecDeque<(u64, Arc<[u8]>)>>,
}

impl SparseLayout {
    /// The layout and the disk's size in sectors. `whole` says that the file is an image of its own.
    ///
    /// # Errors
    /// `Corrupt`, or `Unsupported` naming what is not built.
    pub(super) fn read(file: &ImageFile, whole: bool) -> Result<(Self, u64), BlockError> {
        let sector = SECTOR_BYTES as usize;
        let mut header = Header::parse(&file.read_metadata(0, sector, "header")?)?;
        if header.directory == IN_FOOTER {
            // The last two sectors are the footer and the end-of-stream marker.
            let at = file.len_bytes().checked_sub(2 * SECTOR_BYTES);
            let at = at.ok_or_else(|| corrupt("the VMDK file is too short for its footer"))?;
            let descriptor = (header.descriptor, header.descriptor_sectors);
            header = Header::parse(&file.read_metadata(at, sector, "footer")?)?;
            (header.descriptor, header.descriptor_sectors) = descriptor;
            if header.directory == IN_FOOTER {
                return Err(corrupt("the VMDK footer does not say where the grain directory is"));
            }
        }
        let content_id_at = if whole { check_descriptor(file, &header)? } else { None };
        let count = header.count_tables();
        let directory = read_directory(file, header.directory, count)?;
        let has_copy = header.flags & flag::REDUNDANT != 0 && header.flags & flag::COMPRESSED == 0;
        let (redundant, lost) = if has_copy && header.redundant_directory != header.directory {
            match read_directory(file, header.redundant_directory, count) {
                Ok(redundant) => (redundant, None),
                // A reader can do without it.
                Err(error) if file.is_read_only() && error.kind() == BlockErrorKind::Corrupt => {
                    (Vec::new(), Some(format!("the copy of the VMDK grain directory is lost: {error}")))
                }
                Err(error) => return Err(error),
            }
        } else {
            (Vec::new(), None)
        };
        let mut own = own_ranges(&header, &directory, &redundant, whole);
        if let Some(lost) = lost {
            own.damage(lost);
        }
        let capacity = header.capacity;
        Ok((Self { header, directory, redundant, own, content_id_at, unpacked: Mutex::default() }, capacity))
    }

    /// The layout of an exported file whose end is damaged.
    #[cfg(test)]
    pub(super) fn for_test(file: &ImageFile) -> Self {
        let header = Header::parse(&file.read_bytes(0, 512).unwrap()).unwrap();
        Self {
            header,
            directory: Vec::new(),
            redundant: Vec::new(),
            own: Own::new(Vec::new()),
            content_id_at: None,
            unpacked: Mutex::default(),
        }
    }

    /// What the format calls an image of one file that is like this.
    pub(super) fn create_type(&self) -> &'static str {
        if self.is_compressed() { "streamOptimized" } else { "monolithicSparse" }
    }

    /// Whether a writer did not close it.
    pub(super) fn is_unclean(&self) -> bool {
        self.header.unclean
    }

    pub(super) fn is_compressed(&self) -> bool {
        self.header.flags & flag::COMPRESSED != 0
    }

    pub(super) fn grain_bytes(&self) -> u32 {
        // At most 2048 sectors.
        (self.header.grain * SECTOR_BYTES) as u32
    }
}

/// Checks the descriptor inside a single-file image, and says where its content's identity is.
fn check_descriptor(file: &ImageFile, header: &Header) -> Result<Option<u64>, BlockError> {
    if header.descriptor == 0 || header.descriptor_sectors == 0 {
        return Err(unsupported("this is one extent of a split VMDK; its descriptor file is the image"));
    }
    let (start, len) =
        (header.descriptor.checked_mul(SECTOR_BYTES), header.descriptor_sectors.checked_mul(SECTOR_BYTES));
    let (Some(start), Some(len)) = (start, len.filter(|len| *len <= MAX_DESCRIPTOR_BYTES)) else {
        return Err(corrupt("the VMDK descriptor lies outside the file"));
    };
    let descriptor = Descriptor::parse(&file.read_metadata(start, len as usize, "descriptor")?)?;
    if !matches!(descriptor.create_type.as_str(), "monolithicSparse" | "streamOptimized")
        || descriptor.extents.len() != 1
    {
        return Err(unsupported(format!("a sparse VMDK of the type {:?} is not built", descriptor.create_type)));
    }
    Ok(descriptor.content_id_at.map(|at| start + at))
}

fn read_directory(file: &ImageFile, sector: u64, count: usize) -> Result<Vec<u32>, BlockError> {
    let start = sector.checked_mul(SECTOR_BYTES).filter(|start| *start > 0);
    let start = start.ok_or_else(|| corrupt("the VMDK grain directory lies outside the file"))?;
    let bytes = file.read_metadata(start, count * 4, "grain directory")?;
    let directory: Vec<u32> = bytes.chunks_exact(4).map(|entry| le32(entry, 0)).collect();
    // Tables are written where this says, which must not make the file longer.
    let file_bytes = file.len_bytes();
    match directory.iter().find(|sector| u64::from(**sector) * SECTOR_BYTES + TABLE_BYTES as u64 > file_bytes) {
        Some(sector) => Err(corrupt(format!("a VMDK grain table at sector {sector} lies outside the file"))),
        None => Ok(directory),
    }
}

/// What of the file no grain may overwrite. All of it was found to be in the file.
fn own_ranges(header: &Header, directory: &[u32], redundant: &[u32], whole: bool) -> Own {
    let sectors = |start: u64, count: u64| {
        let start = start.saturating_mul(SECTOR_BYTES);
        start..start.saturating_add(count.saturating_mul(SECTOR_BYTES))
    };
    let mut ranges = Vec::with_capacity(directory.len() + redundant.len() + 4);
    ranges.push(0..SECTOR_BYTES);
    if whole {
        ranges.push(sectors(header.descriptor, header.descriptor_sectors));
    }
    for (sector, directory) in [(header.directory, directory), (header.redundant_directory, redundant)] {
        let start = sector.saturating_mul(SECTOR_BYTES);
        ranges.push(start..start.saturating_add(directory.len() as u64 * 4));
        let tables = directory.iter().filter(|table| **table != 0);
        ranges.extend(tables.map(|table| sectors(u64::from(*table), TABLE_BYTES as u64 / SECTOR_BYTES)));
    }
    Own::new(ranges)
}

fn table_offset(directory: &[u32], table: u64) -> Option<u64> {
    let sector = usize::try_from(table).ok().and_then(|table| directory.get(table))?;
    (*sector != 0).then(|| u64::from(*sector) * SECTOR_BYTES)
}

impl Layout for SparseLayout {
    fn slot(&self, block: u64) -> Slot {
        Slot { page: block / TABLE_ENTRIES, at: (block % TABLE_ENTRIES) as usize * 4 }
    }

    fn page(&self, page: u64) -> Option<(u64, usize)> {
        table_offset(&self.directory, page).map(|offset| (offset, TABLE_BYTES))
    }

    fn own(&self) -> &Own {
        &self.own
    }

    fn decode(&self, block: u64, entry: &[u8]) -> Result<Place, BlockError> {
        if entry.len() < 4 {
            return Err(corrupt(format!("the VMDK tables have no grain {block}")));
        }
        let sector = match le32(entry, 0) {
            0 => return Ok(Place::Absent),
            1 if self.header.flags & flag::ZERO_GRAINS != 0 => return Ok(Place::Absent),
            sector => u64::from(sector),
        };
        let start = sector * SECTOR_BYTES;
        // The last grain may be stored in part, and of a packed one no more is known yet than that it is there.
        let used = match self.is_compressed() {
            true => SECTOR_BYTES,
            false => {
                let left = self.header.capacity.saturating_sub(block.saturating_mul(self.header.grain));
                left.min(self.header.grain) * SECTOR_BYTES
            }
        };
        if self.own.holds(start, start + used) {
            return Err(corrupt(format!("VMDK grain {block} at sector {sector} lies in the image's own data")));
        }
        Ok(if self.is_compressed() { Place::Packed(start) } else { Place::At(start) })
    }

    fn reserve(&self, _block: u64, end_bytes: u64) -> Result<Room, BlockError> {
        let grain_bytes = u64::from(self.grain_bytes());
        let start_bytes = end_bytes.checked_next_multiple_of(grain_bytes).unwrap_or(u64::MAX);
        let Ok(sector) = u32::try_from(start_bytes / SECTOR_BYTES) else {
            return Err(unsupported("a sparse VMDK file of more than 2 TiB is not possible"));
        };
        Ok(Room {
            start_bytes,
            data_bytes: start_bytes,
            end_bytes: start_bytes + grain_bytes,
            entry: sector.to_le_bytes().to_vec(),
        })
    }

    /// From now on until it is closed the image says that it is in use, and its content is another.
    fn begin(&self, file: &ImageFile) -> Result<(), BlockError> {
        file.write_bytes(field::UNCLEAN as u64, &[1])?;
        match self.content_id_at {
            Some(at) => file.write_bytes(at, descriptor::new_content_id().as_bytes()),
            None => Ok(()),
        }
    }

    /// Both copies of the tables.
    fn commit(&self, file: &ImageFile, pages: &[PageCopy]) -> Result<(), BlockError> {
        for copy in pages {
            for directory in [&self.redundant, &self.directory] {
                if let Some(offset_bytes) = table_offset(directory, copy.page) {
                    file.write_bytes(offset_bytes, &copy.bytes)?;
                }
            }
        }
        file.sync()
    }

    fn close(&self, file: &ImageFile) -> Result<(), BlockError> {
        file.sync()?;
        file.write_bytes(field::UNCLEAN as u64, &[0])?;
        file.sync()
    }

    fn packed_bytes(&self, file: &ImageFile, block: u64, offset_bytes: u64) -> Result<u64, BlockError> {
        let len_bytes = (MARKER_BYTES + self.read_marker(file, block, offset_bytes)?) as u64;
        if self.own.holds(offset_bytes, offset_bytes.saturating_add(len_bytes)) {
            return Err(corrupt(format!("VMDK grain {block} at {offset_bytes:#x} lies in the image's own data")));
        }
        Ok(len_bytes)
    }

    fn unpack(&self, file: &ImageFile, block: u64, offset_bytes: u64) -> Result<Arc<[u8]>, BlockError> {
        if let Some((_, grain)) = self.unpacked.lock().iter().find(|(offset, _)| *offset == offset_bytes) {
            return Ok(grain.clone());
        }
        let grain = self.read_packed(file, block, offset_bytes)?;
        let mut unpacked = self.unpacked.lock();
        if unpacked.len() >= (CACHE_BYTES / self.grain_bytes() as usize).max(1) {
            unpacked.pop_front();
        }
        unpacked.push_back((offset_bytes, grain.clone()));
        Ok(grain)
    }
}

impl SparseLayout {
    /// Reads what stands before a packed grain; how many bytes follow.
    fn read_marker(&self, file: &ImageFile, block: u64, offset_bytes: u64) -> Result<usize, BlockError> {
        // Sector of the disk (8 bytes), bytes that follow (4).
        let marker = file.read_metadata(offset_bytes, MARKER_BYTES, "grain marker")?;
        let (sector, len) = (le64(&marker, 0), le32(&marker, 8) as usize);
        // Deflate adds five bytes a 16 KiB at worst.
        if block.checked_mul(self.header.grain) != Some(sector) || len == 0 || len > self.grain_bytes() as usize * 2 {
            return Err(corrupt(format!("VMDK grain {block} has the marker of another, or too long a one")));
        }
        Ok(len)
    }

    fn read_packed(&self, file: &ImageFile, block: u64, offset_bytes: u64) -> Result<Arc<[u8]>, BlockError> {
        let grain_bytes = self.grain_bytes() as usize;
        let len = self.read_marker(file, block, offset_bytes)?;
        let packed = file.read_metadata(offset_bytes.saturating_add(MARKER_BYTES as u64), len, "grain")?;
        let mut grain = Vec::with_capacity(grain_bytes);
        flate2::read::ZlibDecoder::new(&packed[..])
            .take(grain_bytes as u64)
            .read_to_end(&mut grain)
            .map_err(|error| corrupt(format!("VMDK grain {block} can not be decompressed: {error}")))?;
        // The last grain of a disk may be cut short.
        let sector = block.saturating_mul(self.header.grain);
        let left = self.header.capacity.saturating_sub(sector).saturating_mul(SECTOR_BYTES);
        if (grain.len() as u64) < left.min(grain_bytes as u64) {
            return Err(corrupt(format!("VMDK grain {block} is too short")));
        }
        grain.resize(grain_bytes, 0);
        Ok(grain.into())
    }
}

/// Writes a new sparse file of so many sectors into an empty file: all tables are there and empty. With the text of a
/// descriptor it is an image, without one an extent.
pub(super) fn write_new(file: &ImageFile, text: Option<&str>, capacity: u64) -> Result<(), BlockError> {
    let tables = capacity.div_ceil(GRAIN_SECTORS * TABLE_ENTRIES);
    let table_sectors = TABLE_BYTES as u64 / SECTOR_BYTES;
    let directory_sectors = (tables * 4).div_ceil(SECTOR_BYTES);
    let redundant_directory = 1 + DESCRIPTOR_SECTORS;
    let directory = redundant_directory + directory_sectors + tables * table_sectors;
    let end = directory + directory_sectors + tables * table_sectors;
    let header = Header {
        version: 1,
        flags: flag::NEWLINES | flag::REDUNDANT,
        capacity,
        grain: GRAIN_SECTORS,
        descriptor: u64::from(text.is_some()),
        descriptor_sectors: if text.is_some() { DESCRIPTOR_SECTORS } else { 0 },
        redundant_directory,
        directory,
        overhead: end.next_multiple_of(GRAIN_SECTORS),
        unclean: false,
    };
    file.write_bytes(0, &header.bytes())?;
    if let Some(text) = text {
        file.write_bytes(SECTOR_BYTES, text.as_bytes())?;
    }
    for start in [redundant_directory, directory] {
        let first = start + directory_sectors;
        let entries: Vec<u8> = (0..tables)
            // Two TiB have 65536 tables, far below 2^32 sectors.
            .flat_map(|table| ((first + table * table_sectors) as u32).to_le_bytes())
            .collect();
        file.write_bytes(start * SECTOR_BYTES, &entries)?;
    }
    file.set_len(header.overhead * SECTOR_BYTES)
}
