//! What the metadata region says of the disk ([MS-VHDX] 2.6).

use benchtop_block::BlockError;

use super::header::{Guid, Regions, guid};
use super::{MAX_BYTES, corrupt, unsupported};
use crate::fields::{bytes_at, le16, le32, le64};
use crate::file::ImageFile;

/// The table at the region's start; items follow it.
pub(super) const TABLE_BYTES: usize = 64 << 10;
const MAX_ENTRIES: u16 = 2047;

pub(super) const FILE_PARAMETERS: Guid = guid(0xcaa1_6737_fa36_4d43_b3b6_33f0_aa44_e76b);
pub(super) const DISK_SIZE: Guid = guid(0x2fa5_4224_cd1b_4876_b211_5dbe_d83b_f4b8);
pub(super) const DISK_ID: Guid = guid(0xbeca_12ab_b2e6_4523_93ef_c309_e000_c746);
pub(super) const LOGICAL_SECTOR: Guid = guid(0x8141_bf1d_a96f_4709_ba47_f233_a8fa_ab5f);
pub(super) const PHYSICAL_SECTOR: Guid = guid(0xcda3_48c7_445d_4471_9cc9_e988_5251_c556);
pub(super) const PARENT_LOCATOR: Guid = guid(0xa8d3_5f2d_b30b_454d_abf7_d3d8_4834_ab0c);

/// An entry's flags.
pub(super) mod flag {
    pub const VIRTUAL_DISK: u32 = 2;
    pub const REQUIRED: u32 = 4;
}

/// The file parameters' flags.
pub(super) mod parameter {
    pub const LEAVE_ALLOCATED: u32 = 1;
    pub const HAS_PARENT: u32 = 2;
}

/// What was found. Sizes are checked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Facts {
    pub(super) size_bytes: u64,
    /// A power of two from 1 MiB to 256 MiB.
    pub(super) block_bytes: u32,
    /// 512 or 4096.
    pub(super) logical_sector_bytes: u32,
    /// 512 or 4096.
    pub(super) physical_sector_bytes: u32,
    /// Blocks keep their room: the image is a fixed one.
    pub(super) leave_allocated: bool,
    /// Where in the file the disk's size is.
    pub(super) size_at: u64,
}

/// Reads and checks the metadata.
pub(super) fn read(file: &ImageFile, regions: &Regions) -> Result<Facts, BlockError> {
    let region = regions.metadata;
    let table = file.read_metadata(region.start, TABLE_BYTES, "metadata table")?;
    let count = le16(&table, 10);
    if !table.starts_with(b"metadata") || count > MAX_ENTRIES {
        return Err(corrupt("the VHDX metadata table is not valid"));
    }
    let mut size_at = 0;
    let (mut parameters, mut size, mut logical, mut physical) = (None, None, None, None);
    for entry in table.get(32..).unwrap_or_default().chunks_exact(32).take(usize::from(count)) {
        let (offset, len, flags) = (u64::from(le32(entry, 16)), le32(entry, 20), le32(entry, 24));
        let (place, expected) = match bytes_at::<16>(entry, 0) {
            FILE_PARAMETERS => (&mut parameters, 8),
            DISK_SIZE => (&mut size, 8),
            LOGICAL_SECTOR => (&mut logical, 4),
            PHYSICAL_SECTOR => (&mut physical, 4),
            DISK_ID => continue,
            PARENT_LOCATOR => return Err(unsupported("VHDX differencing images are not built")),
            _ if flags & flag::REQUIRED != 0 => {
                return Err(unsupported("a VHDX image needs metadata that is not known"));
            }
            _ => continue,
        };
        if len != expected || offset < TABLE_BYTES as u64 || offset + u64::from(len) > region.len {
            return Err(corrupt(format!("VHDX metadata at {offset:#x}, {len} bytes long")));
        }
        if expected == 8 && bytes_at::<16>(entry, 0) == DISK_SIZE {
            size_at = region.start + offset;
        }
        let item = file.read_metadata(region.start + offset, len as usize, "metadata")?;
        if place.replace(item).is_some() {
            return Err(corrupt("VHDX metadata is there twice"));
        }
    }
    let (Some(parameters), Some(size), Some(logical), Some(physical)) = (parameters, size, logical, physical) else {
        return Err(corrupt("the VHDX image lacks metadata that is required"));
    };
    if le32(&parameters, 4) & parameter::HAS_PARENT != 0 {
        return Err(unsupported("VHDX differencing images are not built"));
    }
    let facts = Facts {
        size_bytes: le64(&size, 0),
        block_bytes: le32(&parameters, 0),
        logical_sector_bytes: le32(&logical, 0),
        physical_sector_bytes: le32(&physical, 0),
        size_at,
        leave_allocated: le32(&parameters, 4) & parameter::LEAVE_ALLOCATED != 0,
    };
    if !facts.block_bytes.is_power_of_two() || !(1 << 20..=256 << 20).contains(&facts.block_bytes) {
        return Err(corrupt(format!("VHDX blocks of {} bytes", facts.block_bytes)));
    }
    for sector in [facts.logical_sector_bytes, facts.physical_sector_bytes] {
        if !matches!(sector, 512 | 4096) {
            return Err(corrupt(format!("VHDX sectors of {sector} bytes")));
        }
    }
    let whole = facts.size_bytes.is_multiple_of(u64::from(facts.logical_sector_bytes));
    if facts.size_bytes == 0 || !whole || facts.size_bytes > MAX_BYTES {
        return Err(corrupt(format!("a VHDX disk of {} bytes", facts.size_bytes)));
    }
    Ok(facts)
}
