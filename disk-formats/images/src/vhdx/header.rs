//! The first mebibyte: identifier, headers, region tables ([MS-VHDX] 2.2).

use benchtop_block::BlockError;

use super::{MIB, corrupt, unsupported};
use crate::fields::{bytes_at, le16, le32, le64, put};
use crate::file::ImageFile;

pub(super) const IDENTIFIER: &[u8] = b"vhdxfile";
const HEADER_BYTES: usize = 4096;
/// Where the two headers are.
pub(super) const HEADER_AT: [u64; 2] = [64 << 10, 128 << 10];
/// Where the two copies of the region table are.
pub(super) const REGIONS_AT: [u64; 2] = [192 << 10, 256 << 10];
pub(super) const REGIONS_BYTES: usize = 64 << 10;
/// Entries of a region table, at most (2.2.3.1).
const MAX_REGIONS: u32 = 2047;
/// The longest log that is built: sixteen times the usual one.
const MAX_LOG_BYTES: u32 = 16 << 20;

/// A GUID as it stands in a file.
pub(super) type Guid = [u8; 16];

/// A GUID from the way the specification writes it.
pub(super) const fn guid(text: u128) -> Guid {
    uuid::Uuid::from_u128(text).to_bytes_le()
}

pub(super) const BAT: Guid = guid(0x2dc2_7766_f623_4200_9d64_115e_9bfd_4a08);
pub(super) const METADATA: Guid = guid(0x8b7c_a206_4790_4b9a_b8fe_575f_050f_886e);

/// A new one.
pub(super) fn new_guid() -> Guid {
    uuid::Uuid::new_v4().to_bytes_le()
}

/// CRC-32C of a structure whose own checksum, at byte 4, counts as zero.
pub(super) fn checksum(bytes: &[u8]) -> u32 {
    let (head, rest) = bytes.split_at(bytes.len().min(8));
    let start = crc32c::crc32c_append(crc32c::crc32c(head.get(..4).unwrap_or_default()), &[0; 4]);
    crc32c::crc32c_append(start, rest)
}

/// A header (2.2.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) sequence: u64,
    pub(super) file_write: Guid,
    pub(super) data_write: Guid,
    /// Zeroes where the log is empty.
    pub(super) log: Guid,
    pub(super) log_bytes: u32,
    pub(super) log_at: u64,
}

impl Header {
    fn parse(bytes: &[u8]) -> Option<Self> {
        (bytes.starts_with(b"head") && le32(bytes, 4) == checksum(bytes) && le16(bytes, 66) == 1).then(|| Self {
            sequence: le64(bytes, 8),
            file_write: bytes_at(bytes, 16),
            data_write: bytes_at(bytes, 32),
            log: bytes_at(bytes, 48),
            log_bytes: le32(bytes, 68),
            log_at: le64(bytes, 72),
        })
    }

    /// As it stands in the file.
    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; HEADER_BYTES];
        put(&mut bytes, 0, b"head");
        put(&mut bytes, 8, &self.sequence.to_le_bytes());
        put(&mut bytes, 16, &self.file_write);
        put(&mut bytes, 32, &self.data_write);
        put(&mut bytes, 48, &self.log);
        // Version of the log 0, of the file 1.
        put(&mut bytes, 66, &1u16.to_le_bytes());
        put(&mut bytes, 68, &self.log_bytes.to_le_bytes());
        put(&mut bytes, 72, &self.log_at.to_le_bytes());
        let sum = checksum(&bytes);
        put(&mut bytes, 4, &sum.to_le_bytes());
        bytes
    }
}

/// The header in force, and where it is.
#[derive(Debug)]
pub(super) struct Headers {
    pub(super) current: Header,
    /// Of [`HEADER_AT`].
    pub(super) place: usize,
}

impl Headers {
    /// Changes the header durably: the one not in force is overwritten, so that one is always whole, and then the
    /// other one too (2.2.2.1).
    pub(super) fn update(&mut self, file: &ImageFile, change: impl FnOnce(&mut Header)) -> Result<(), BlockError> {
        let mut header = self.current.clone();
        change(&mut header);
        for _ in 0..2 {
            header.sequence = header
                .sequence
                .checked_add(1)
                .ok_or_else(|| corrupt("the VHDX header's sequence number is at its end"))?;
            let place = 1 - self.place.min(1);
            let at = HEADER_AT.get(place).copied().unwrap_or_default();
            file.write_bytes(at, &header.bytes())?;
            file.sync()?;
            (self.current, self.place) = (header.clone(), place);
        }
        Ok(())
    }
}

/// Reads both headers and takes the newer valid one.
pub(super) fn read_headers(file: &ImageFile) -> Result<Headers, BlockError> {
    if file.read_metadata(0, IDENTIFIER.len(), "identifier")? != IDENTIFIER {
        return Err(corrupt("the VHDX signature is missing"));
    }
    let mut found: Option<Headers> = None;
    for (place, at) in HEADER_AT.into_iter().enumerate() {
        let bytes = file.read_metadata(at, HEADER_BYTES, "header")?;
        if let Some(current) = Header::parse(&bytes)
            && found.as_ref().is_none_or(|found| current.sequence > found.current.sequence)
        {
            if le16(&bytes, 64) != 0 {
                return Err(unsupported("a VHDX log of another version is not built"));
            }
            found = Some(Headers { current, place });
        }
    }
    let headers = found.ok_or_else(|| corrupt("neither VHDX header is valid"))?;
    let header = &headers.current;
    if header.log_bytes > MAX_LOG_BYTES {
        return Err(unsupported(format!("a VHDX log of {} bytes is not built", header.log_bytes)));
    }
    let log = Range { start: header.log_at, len: u64::from(header.log_bytes) };
    log.check(file.len_bytes(), "log")?;
    Ok(headers)
}

/// A part of the file, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) start: u64,
    pub(super) len: u64,
}

impl Range {
    fn check(&self, file_bytes: u64, what: &str) -> Result<(), BlockError> {
        let end = self.start.checked_add(self.len);
        let aligned = self.start.is_multiple_of(MIB) && self.len.is_multiple_of(MIB);
        if !aligned || self.start < MIB || self.len == 0 || end.is_none_or(|end| end > file_bytes) {
            return Err(corrupt(format!("the VHDX {what} lies at {:#x}, {:#x} long", self.start, self.len)));
        }
        Ok(())
    }

    /// Whether the two share a byte.
    pub(super) fn overlaps(&self, other: &Self) -> bool {
        self.start < other.start.saturating_add(other.len) && other.start < self.start.saturating_add(self.len)
    }
}

/// The regions of an image. They do not overlap and lie in the file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Regions {
    pub(super) bat: Range,
    pub(super) metadata: Range,
    pub(super) log: Range,
}

/// Reads the region table (2.2.3).
pub(super) fn read_regions(file: &ImageFile, header: &Header) -> Result<Regions, BlockError> {
    for at in REGIONS_AT {
        let bytes = file.read_metadata(at, REGIONS_BYTES, "region table")?;
        if bytes.starts_with(b"regi") && le32(&bytes, 4) == checksum(&bytes) {
            return parse_regions(&bytes, header, file.len_bytes());
        }
    }
    Err(corrupt("neither VHDX region table is valid"))
}

fn parse_regions(bytes: &[u8], header: &Header, file_bytes: u64) -> Result<Regions, BlockError> {
    let count = le32(bytes, 8);
    if count > MAX_REGIONS {
        return Err(corrupt(format!("a VHDX region table of {count} entries")));
    }
    let (mut bat, mut metadata) = (None, None);
    for entry in bytes.get(16..).unwrap_or_default().chunks_exact(32).take(count as usize) {
        let range = Range { start: le64(entry, 16), len: u64::from(le32(entry, 24)) };
        let place = match bytes_at::<16>(entry, 0) {
            BAT => &mut bat,
            METADATA => &mut metadata,
            _ if le32(entry, 28) & 1 != 0 => return Err(unsupported("a VHDX image needs a region that is not known")),
            _ => continue,
        };
        range.check(file_bytes, "region")?;
        if place.replace(range).is_some() {
            return Err(corrupt("a VHDX region is there twice"));
        }
    }
    let (Some(bat), Some(metadata)) = (bat, metadata) else {
        return Err(corrupt("the VHDX image lacks its block table or its metadata"));
    };
    let log = Range { start: header.log_at, len: u64::from(header.log_bytes) };
    if bat.overlaps(&metadata) || bat.overlaps(&log) || metadata.overlaps(&log) {
        return Err(corrupt("VHDX regions overlap"));
    }
    Ok(Regions { bat, metadata, log })
}
