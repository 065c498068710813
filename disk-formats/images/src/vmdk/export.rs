//! Writing a streamOptimized image, once and from the start to the end: the form disks are passed on in.

use std::io::Write;

use benchtop_block::{BlockError, DiskBackend, ExtentKind, SECTOR_BYTES};
use benchtop_memory::VolatileSlice;
use flate2::{Compression, write::ZlibEncoder};

use super::descriptor::{is_plain_name, new_text};
use super::sparse::{DESCRIPTOR_SECTORS, GRAIN_SECTORS, Header, IN_FOOTER, TABLE_BYTES, TABLE_ENTRIES, flag};
use super::{MAX_BYTES, unsupported};
use crate::fields::put;
use crate::file::new::check_size;

const GRAIN_BYTES: usize = (GRAIN_SECTORS * SECTOR_BYTES) as usize;

/// What a marker announces.
const TABLE: u32 = 1;
const DIRECTORY: u32 = 2;
const FOOTER: u32 = 3;

struct Output<'a> {
    out: &'a mut dyn Write,
    written_bytes: u64,
}

impl Output<'_> {
    /// Writes `bytes` and zeroes up to a whole sector; the sector at which it began.
    fn put(&mut self, bytes: &[u8]) -> Result<u32, BlockError> {
        let start = self.written_bytes / SECTOR_BYTES;
        let padding = bytes.len().next_multiple_of(SECTOR_BYTES as usize) - bytes.len();
        self.out
            .write_all(bytes)
            .and_then(|()| self.out.write_all(&[0; SECTOR_BYTES as usize][..padding]))
            .map_err(|error| BlockError::from_io("the VMDK can not be written", error))?;
        self.written_bytes = self.written_bytes.saturating_add((bytes.len() + padding) as u64);
        u32::try_from(start).map_err(|_error| unsupported("a streamOptimized VMDK of more than 2 TiB is not possible"))
    }

    /// Announces `sectors` of metadata.
    fn marker(&mut self, sectors: u64, kind: u32) -> Result<(), BlockError> {
        let mut bytes = [0; 16];
        put(&mut bytes, 0, &sectors.to_le_bytes());
        put(&mut bytes, 12, &kind.to_le_bytes());
        self.put(&bytes).map(drop)
    }
}

/// Writes all of `disk` to `out` as a streamOptimized VMDK that calls itself `name`. Grains of zeroes are left out.
/// After each grain table (32 MiB of the disk) `progress` is told how many bytes of the disk are done. `out` need not
/// seek; making it durable is the caller's. Needs 8 MiB of memory at most.
///
/// # Errors
/// The disk's, `out`'s, `OutOfRange` for a disk of more than [`MAX_BYTES`], `Unsupported` for a name that is not a plain
/// file name or more compressed data than the format holds. What was written then is no image.
pub fn export_stream_optimized(
    disk: &dyn DiskBackend,
    name: &str,
    out: &mut dyn Write,
    progress: &mut dyn FnMut(u64),
) -> Result<(), BlockError> {
    let size_bytes = disk.info().size_bytes;
    check_size(size_bytes, MAX_BYTES, "VMDK")?;
    if !is_plain_name(name) {
        return Err(unsupported(format!("a VMDK can not be called {name:?}")));
    }
    let capacity = size_bytes / SECTOR_BYTES;
    let mut header = Header {
        version: 3,
        flags: flag::NEWLINES | flag::COMPRESSED | flag::MARKERS,
        capacity,
        grain: GRAIN_SECTORS,
        descriptor: 1,
        descriptor_sectors: DESCRIPTOR_SECTORS,
        redundant_directory: 0,
        directory: IN_FOOTER,
        overhead: GRAIN_SECTORS,
        unclean: false,
    };
    let mut out = Output { out, written_bytes: 0 };
    out.put(&header.bytes())?;
    let extent = format!("RW {capacity} SPARSE \"{name}\"\n");
    let mut text = new_text("streamOptimized", &extent, capacity).into_bytes();
    text.resize(GRAIN_BYTES - SECTOR_BYTES as usize, 0);
    out.put(&text)?;

    let grains = capacity.div_ceil(GRAIN_SECTORS);
    let mut directory = Vec::new();
    for first in (0..grains).step_by(TABLE_ENTRIES as usize) {
        let table = write_grains(disk, first..grains.min(first + TABLE_ENTRIES), &mut out)?;
        let sector = if table.iter().all(|byte| *byte == 0) {
            0
        } else {
            out.marker(TABLE_BYTES as u64 / SECTOR_BYTES, TABLE)?;
            out.put(&table)?
        };
        directory.extend_from_slice(&sector.to_le_bytes());
        progress(size_bytes.min((first + TABLE_ENTRIES) * GRAIN_BYTES as u64));
    }
    out.marker((directory.len() as u64).div_ceil(SECTOR_BYTES), DIRECTORY)?;
    header.directory = u64::from(out.put(&directory)?);
    out.marker(1, FOOTER)?;
    out.put(&header.bytes())?;
    // The end of the stream is a marker of zeroes.
    out.put(&[0; SECTOR_BYTES as usize])?;
    out.out.flush().map_err(|error| BlockError::from_io("the VMDK can not be written", error))
}

/// Writes the grains of one table that hold something; the table.
fn write_grains(
    disk: &dyn DiskBackend,
    grains: std::ops::Range<u64>,
    out: &mut Output<'_>,
) -> Result<Vec<u8>, BlockError> {
    let size_bytes = disk.info().size_bytes;
    let mut table = vec![0; TABLE_BYTES];
    let mut bytes = vec![0; GRAIN_BYTES];
    let mut zeroes_until = 0;
    for (index, grain) in grains.enumerate() {
        let at = grain * GRAIN_BYTES as u64;
        let len = (size_bytes - at).min(GRAIN_BYTES as u64);
        if at >= zeroes_until {
            let extent = disk.extent_at(at, size_bytes - at)?;
            if extent.kind == ExtentKind::Zeroes {
                zeroes_until = at.saturating_add(extent.len_bytes);
            }
        }
        if at + len <= zeroes_until {
            continue;
        }
        bytes.fill(0);
        disk.read_at(at, &[VolatileSlice::from(&mut bytes[..len as usize])])?;
        if bytes.iter().all(|byte| *byte == 0) {
            continue;
        }
        let mut packed = vec![0; 12];
        put(&mut packed, 0, &(grain * GRAIN_SECTORS).to_le_bytes());
        let mut encoder = ZlibEncoder::new(packed, Compression::default());
        let done = encoder.write_all(&bytes).and_then(|()| encoder.finish());
        let mut packed = done.map_err(|error| BlockError::from_io("a grain can not be compressed", error))?;
        // A grain compresses to 66 KiB at worst.
        let len = (packed.len() - 12) as u32;
        put(&mut packed, 8, &len.to_le_bytes());
        let sector = out.put(&packed)?;
        put(&mut table, index * 4, &sector.to_le_bytes());
    }
    Ok(table)
}
