//! The footer of a VHD image: what it is, how long its disk is, and a checksum.

use std::time::{Duration, SystemTime};

use benchtop_block::BlockError;

use super::{MAX_BYTES, corrupt, unsupported};
use crate::fields::{be32, be64, put};

/// Its length, in bytes.
pub(super) const FOOTER_BYTES: u64 = 512;

const COOKIE: &[u8] = b"conectix";
const VERSION: u32 = 0x0001_0000;
/// What stands for "no dynamic header", and for "nothing follows" in that header.
pub(super) const NOWHERE: u64 = u64::MAX;
/// Of time stamps: 2000-01-01 00:00:00 UTC, in seconds since 1970.
const EPOCH_SECONDS: u64 = 946_684_800;

/// Offsets in the footer, in bytes.
mod field {
    pub const FEATURES: usize = 8;
    pub const VERSION: usize = 12;
    pub const DATA_OFFSET: usize = 16;
    pub const TIME: usize = 24;
    pub const CREATOR: usize = 28;
    pub const CREATOR_VERSION: usize = 32;
    pub const CREATOR_HOST: usize = 36;
    pub const ORIGINAL_BYTES: usize = 40;
    pub const CURRENT_BYTES: usize = 48;
    pub const GEOMETRY: usize = 56;
    pub const KIND: usize = 60;
    pub const CHECKSUM: usize = 64;
    pub const ID: usize = 68;
}

/// The kinds that are built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Fixed,
    Dynamic,
}

/// A valid footer.
#[derive(Clone, Debug)]
pub(super) struct Footer {
    pub(super) kind: Kind,
    pub(super) size_bytes: u64,
    /// Where the dynamic header is.
    pub(super) header_bytes: u64,
    /// As it stands in the file.
    pub(super) bytes: Vec<u8>,
}

/// The ones' complement of the sum of all bytes but the checksum's own four.
pub(super) fn checksum(bytes: &[u8], checksum_at: usize) -> u32 {
    let own = checksum_at..checksum_at.saturating_add(4);
    let counted = bytes.iter().enumerate().filter(|(at, _)| !own.contains(at));
    !counted.fold(0u32, |sum, (_, byte)| sum.wrapping_add(u32::from(*byte)))
}

impl Footer {
    /// # Errors
    /// `Corrupt`, or `Unsupported` naming what is not built.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, BlockError> {
        if !bytes.starts_with(COOKIE) {
            return Err(corrupt("the VHD footer is missing"));
        }
        if be32(bytes, field::CHECKSUM) != checksum(bytes, field::CHECKSUM) {
            return Err(corrupt("the VHD footer's checksum is wrong"));
        }
        let version = be32(bytes, field::VERSION);
        if version >> 16 != VERSION >> 16 {
            return Err(unsupported(format!("VHD version {}.{} is not built", version >> 16, version & 0xffff)));
        }
        let kind = match be32(bytes, field::KIND) {
            2 => Kind::Fixed,
            3 => Kind::Dynamic,
            4 => return Err(unsupported("VHD differencing images are not built")),
            other => return Err(unsupported(format!("VHD images of type {other} are not built"))),
        };
        let size_bytes = be64(bytes, field::CURRENT_BYTES);
        if size_bytes == 0 || !size_bytes.is_multiple_of(512) {
            return Err(corrupt(format!("a VHD disk of {size_bytes} bytes is not whole sectors")));
        }
        if size_bytes > MAX_BYTES {
            return Err(unsupported(format!("a VHD disk of {size_bytes} bytes, more than {MAX_BYTES}, is not built")));
        }
        Ok(Self { kind, size_bytes, header_bytes: be64(bytes, field::DATA_OFFSET), bytes: bytes.to_vec() })
    }

    /// The same for a disk of another size.
    pub(super) fn resized(mut self, size_bytes: u64) -> Self {
        put(&mut self.bytes, field::CURRENT_BYTES, &size_bytes.to_be_bytes());
        put(&mut self.bytes, field::GEOMETRY, &geometry(size_bytes / 512).to_be_bytes());
        let sum = checksum(&self.bytes, field::CHECKSUM);
        put(&mut self.bytes, field::CHECKSUM, &sum.to_be_bytes());
        Self { size_bytes, ..self }
    }

    /// The footer of a new image.
    pub(super) fn new(kind: Kind, size_bytes: u64) -> Self {
        let header_bytes = if kind == Kind::Fixed { NOWHERE } else { FOOTER_BYTES };
        let mut bytes = vec![0; FOOTER_BYTES as usize];
        put(&mut bytes, 0, COOKIE);
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
        let time = u32::try_from(since.as_secs().saturating_sub(EPOCH_SECONDS)).unwrap_or(u32::MAX);
        let kind_number: u32 = if kind == Kind::Fixed { 2 } else { 3 };
        // Bit 1 is reserved and always set. "win " is the creator for which all known programs take the size and not
        // the geometry, which is rounded; the host is Windows for the same reason.
        for (at, number) in [
            (field::FEATURES, 2),
            (field::VERSION, VERSION),
            (field::TIME, time),
            (field::CREATOR, u32::from_be_bytes(*b"win ")),
            (field::CREATOR_VERSION, 0x000a_0000),
            (field::CREATOR_HOST, u32::from_be_bytes(*b"Wi2k")),
            (field::GEOMETRY, geometry(size_bytes / 512)),
            (field::KIND, kind_number),
        ] {
            put(&mut bytes, at, &number.to_be_bytes());
        }
        for (at, number) in [
            (field::DATA_OFFSET, header_bytes),
            (field::ORIGINAL_BYTES, size_bytes),
            (field::CURRENT_BYTES, size_bytes),
        ] {
            put(&mut bytes, at, &number.to_be_bytes());
        }
        put(&mut bytes, field::ID, uuid::Uuid::new_v4().as_bytes());
        let sum = checksum(&bytes, field::CHECKSUM);
        put(&mut bytes, field::CHECKSUM, &sum.to_be_bytes());
        Self { kind, size_bytes, header_bytes, bytes }
    }
}

/// Cylinders (16 bits), heads (8) and sectors per track (8) of a disk of so many sectors: the specification's appendix
/// on CHS calculation. The product may be less than the disk has.
fn geometry(sectors: u64) -> u32 {
    let sectors = sectors.min(65535 * 16 * 255);
    let (per_track, heads, tracks);
    if sectors >= 65535 * 16 * 63 {
        (per_track, heads, tracks) = (255, 16, sectors / 255);
    } else {
        let least_heads = (sectors / 17).div_ceil(1024).max(4);
        if least_heads <= 16 && sectors / 17 < least_heads * 1024 {
            (per_track, heads, tracks) = (17, least_heads, sectors / 17);
        } else if sectors / 31 < 16 * 1024 {
            (per_track, heads, tracks) = (31, 16, sectors / 31);
        } else {
            (per_track, heads, tracks) = (63, 16, sectors / 63);
        }
    }
    let cylinders = u32::try_from(tracks / heads).unwrap_or(0xffff).min(0xffff);
    cylinders << 16 | (heads as u32) << 8 | per_track
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn geometries_are_those_of_the_specification() {
        // By hand from the appendix: 1 MiB, 512 MiB, 127 GiB, and the greatest.
        for (sectors, cylinders, heads, per_track) in
            [(2048, 30, 4, 17), (1 << 20, 1040, 16, 63), (127 << 21, 65278, 16, 255), (u64::MAX, 65535, 16, 255)]
        {
            assert_eq!(geometry(sectors), cylinders << 16 | heads << 8 | per_track, "{sectors}");
        }
    }

    #[test]
    fn a_footer_is_read_back_and_a_changed_one_is_not() {
        let footer = Footer::new(Kind::Dynamic, 1 << 20);
        let again = Footer::parse(&footer.bytes).unwrap();
        assert_eq!((again.kind, again.size_bytes, again.header_bytes), (Kind::Dynamic, 1 << 20, 512));
        for at in 0..512 {
            let mut bytes = footer.bytes.clone();
            bytes[at] ^= 4;
            Footer::parse(&bytes).unwrap_err();
        }
    }
}
