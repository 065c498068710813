//! The list of internal snapshots. They are kept, and shown; taking and going back to them is not built.
//!
//! Source: "Qcow2 Image File Format" of the QEMU project, section Snapshots.

use benchtop_block::{BlockError, BlockErrorKind};

use super::header::Header;
use crate::error::corrupt;
use crate::fields::{be16, be32, be64};
use crate::file::ImageFile;

/// Snapshots an image may have; QEMU's limit, too.
const MAX_SNAPSHOTS: u32 = 65536;
/// The longest table that is read, in bytes.
const MAX_TABLE_BYTES: u64 = 16 << 20;
/// The part of an entry that all have, in bytes.
const FIXED_BYTES: usize = 40;

/// An internal snapshot. Name and number are as written in the image, whoever wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// What tools call it by, unique in the image.
    pub id: String,
    /// What its maker called it.
    pub name: String,
    /// When it was taken, in seconds since 1970.
    pub date_seconds: u32,
    /// The fraction of that second, in nanoseconds.
    pub date_nanos: u32,
    /// How long the guest had run, in nanoseconds.
    pub guest_nanos: u64,
    /// Size of the saved memory and devices, 0 for a snapshot of the disk alone.
    pub state_bytes: u64,
    /// Size of the disk then; the disk's present size where the image does not say.
    pub disk_bytes: u64,
}

/// A snapshot and where its L1 table is, which nothing has checked.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub snapshot: Snapshot,
    pub l1_offset: u64,
    pub l1_entries: u64,
}

/// Reads the table; also says how many bytes it has.
///
/// # Errors
/// `Corrupt`, `Unsupported` for a table over the limits, or the host's.
pub(super) fn read(header: &Header, file: &ImageFile) -> Result<(Vec<Entry>, u64), BlockError> {
    if header.snapshots == 0 {
        return Ok((Vec::new(), 0));
    }
    if header.snapshots > MAX_SNAPSHOTS {
        let context = format!("{} snapshots are not supported", header.snapshots);
        return Err(BlockError::new(BlockErrorKind::Unsupported, context));
    }
    let stored = file.len_bytes().saturating_sub(header.snapshots_offset).min(MAX_TABLE_BYTES);
    let bytes = file.read_bytes(header.snapshots_offset, stored as usize)?;
    let mut found = Vec::new();
    let mut at = 0;
    for number in 0..header.snapshots {
        let (entry, len) = bytes
            .get(at..)
            .and_then(|rest| parse(rest, header.size_bytes))
            .ok_or_else(|| corrupt(format!("entry {number} of the snapshot table leaves it")))?;
        found.push(entry);
        at += len.next_multiple_of(8);
    }
    Ok((found, at as u64))
}

/// The entry at the start of `bytes`, and its length without padding.
fn parse(bytes: &[u8], disk_bytes: u64) -> Option<(Entry, usize)> {
    let fixed = bytes.get(..FIXED_BYTES)?;
    let (id_len, name_len) = (be16(fixed, 12) as usize, be16(fixed, 14) as usize);
    let extra = bytes.get(FIXED_BYTES..)?.get(..be32(fixed, 36) as usize)?;
    let strings = bytes.get(FIXED_BYTES + extra.len()..)?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let snapshot = Snapshot {
        id: text(strings.get(..id_len)?),
        name: text(strings.get(id_len..id_len + name_len)?),
        date_seconds: be32(fixed, 16),
        date_nanos: be32(fixed, 20),
        guest_nanos: be64(fixed, 24),
        state_bytes: if extra.len() >= 8 { be64(extra, 0) } else { u64::from(be32(fixed, 32)) },
        disk_bytes: if extra.len() >= 16 { be64(extra, 8) } else { disk_bytes },
    };
    let entry = Entry { snapshot, l1_offset: be64(fixed, 0), l1_entries: u64::from(be32(fixed, 8)) };
    Some((entry, FIXED_BYTES + extra.len() + id_len + name_len))
}
