//! New VHDX images.

use std::fs::File;
use std::path::Path;

use benchtop_block::BlockError;

use super::header::{BAT, HEADER_AT, Header, IDENTIFIER, METADATA, REGIONS_AT, REGIONS_BYTES, checksum, new_guid};
use super::layout::{chunk_blocks, count_entries, state};
use super::metadata::{self, Facts, flag, parameter};
use super::{MAX_BYTES, MIB};
use crate::fields::put;
use crate::file::{ImageFile, new};

const LOG_AT: u64 = MIB;
const LOG_BYTES: u32 = MIB as u32;
const METADATA_AT: u64 = 2 * MIB;
const BAT_AT: u64 = 3 * MIB;

/// How blocks of a new image come to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VhdxKind {
    /// When they are first written.
    Dynamic,
    /// At once. The file is as long as the disk and takes no room yet where the file system has holes.
    Fixed,
}

/// Creates an image of `size_bytes` zeroes with sectors of 512 bytes (4096 physically) and opens it for reading and
/// writing. It appears under its name complete and durable, or not at all; a file that exists is never replaced.
///
/// # Errors
/// `OutOfRange` unless the size is a positive number of whole sectors, at most [`MAX_BYTES`]; the host's, with
/// `AlreadyExists` as its cause where the name is taken.
pub fn create(path: &Path, size_bytes: u64, kind: VhdxKind) -> Result<File, BlockError> {
    // Large disks get large blocks, so that the table of the largest has 16 MiB.
    create_with(path, size_bytes, kind, if size_bytes > 1 << 40 { 32 << 20 } else { 8 << 20 })
}

/// As [`create()`], with blocks of a power of two from 1 MiB to 256 MiB.
pub(super) fn create_with(path: &Path, size_bytes: u64, kind: VhdxKind, block_bytes: u32) -> Result<File, BlockError> {
    new::check_size(size_bytes, MAX_BYTES, "VHDX")?;
    let facts = Facts {
        size_bytes,
        block_bytes,
        logical_sector_bytes: 512,
        physical_sector_bytes: 4096,
        leave_allocated: kind == VhdxKind::Fixed,
        size_at: 0,
    };
    new::create_file(path, |file| write(file, &facts))
}

fn write(file: &ImageFile, facts: &Facts) -> Result<(), BlockError> {
    let bat_bytes = (count_entries(facts) * 8).next_multiple_of(MIB);
    let data_at = BAT_AT + bat_bytes;

    let mut identifier = IDENTIFIER.to_vec();
    identifier.extend("Benchtop".encode_utf16().flat_map(u16::to_le_bytes));
    file.write_bytes(0, &identifier)?;
    let mut header = Header {
        sequence: 0,
        file_write: new_guid(),
        data_write: new_guid(),
        log: [0; 16],
        log_bytes: LOG_BYTES,
        log_at: LOG_AT,
    };
    for at in HEADER_AT {
        header.sequence += 1;
        file.write_bytes(at, &header.bytes())?;
    }

    let mut regions = vec![0; REGIONS_BYTES];
    put(&mut regions, 0, b"regi");
    put(&mut regions, 8, &2u32.to_le_bytes());
    // The table's length is at most 17 MiB.
    for (at, id, start, len) in [(16, BAT, BAT_AT, bat_bytes as u32), (48, METADATA, METADATA_AT, MIB as u32)] {
        put(&mut regions, at, &id);
        put(&mut regions, at + 16, &start.to_le_bytes());
        put(&mut regions, at + 24, &len.to_le_bytes());
        put(&mut regions, at + 28, &1u32.to_le_bytes());
    }
    let sum = checksum(&regions);
    put(&mut regions, 4, &sum.to_le_bytes());
    for at in REGIONS_AT {
        file.write_bytes(at, &regions)?;
    }
    file.write_bytes(METADATA_AT, &metadata_region(facts))?;

    let blocks = facts.size_bytes.div_ceil(u64::from(facts.block_bytes));
    let stored = if facts.leave_allocated { blocks } else { 0 };
    let chunk = chunk_blocks(facts);
    // In runs that no bitmap's entry divides, of at most 32 KiB.
    let mut first = 0;
    while first < stored {
        let count = (chunk - first % chunk).min(stored - first).min(4096);
        let entries: Vec<u8> = (first..first + count)
            .flat_map(|block| ((data_at + block * u64::from(facts.block_bytes)) | state::PRESENT).to_le_bytes())
            .collect();
        file.write_bytes(BAT_AT + (first + first / chunk) * 8, &entries)?;
        first += count;
    }
    file.set_len(data_at + stored * u64::from(facts.block_bytes))
}

/// The table of metadata and its items.
fn metadata_region(facts: &Facts) -> Vec<u8> {
    let leave = if facts.leave_allocated { parameter::LEAVE_ALLOCATED } else { 0 };
    let mut parameters = facts.block_bytes.to_le_bytes().to_vec();
    parameters.extend_from_slice(&leave.to_le_bytes());
    let of_disk = flag::REQUIRED | flag::VIRTUAL_DISK;
    let items = [
        (metadata::FILE_PARAMETERS, parameters, flag::REQUIRED),
        (metadata::DISK_SIZE, facts.size_bytes.to_le_bytes().to_vec(), of_disk),
        (metadata::DISK_ID, new_guid().to_vec(), of_disk),
        (metadata::LOGICAL_SECTOR, facts.logical_sector_bytes.to_le_bytes().to_vec(), of_disk),
        (metadata::PHYSICAL_SECTOR, facts.physical_sector_bytes.to_le_bytes().to_vec(), of_disk),
    ];
    let mut region = vec![0; metadata::TABLE_BYTES + 64];
    put(&mut region, 0, b"metadata");
    put(&mut region, 10, &(items.len() as u16).to_le_bytes());
    let mut offset = metadata::TABLE_BYTES;
    for (index, (id, item, flags)) in items.iter().enumerate() {
        let entry = 32 + index * 32;
        put(&mut region, entry, id);
        put(&mut region, entry + 16, &(offset as u32).to_le_bytes());
        put(&mut region, entry + 20, &(item.len() as u32).to_le_bytes());
        put(&mut region, entry + 24, &flags.to_le_bytes());
        put(&mut region, offset, item);
        offset += item.len();
    }
    region
}
