//! The header, its feature bits and extensions, each field checked before anything uses it.
//!
//! Source: "Qcow2 Image File Format" of the QEMU project, sections Header, Additional fields and Header extensions.

use benchtop_block::{BlockError, SECTOR_BYTES};

use super::layout::{Layout, MAX_HOST_BYTES};
use super::luks;
use crate::error::{corrupt, unsupported};
use crate::fields::{be32, be64};
use crate::file::ImageFile;

/// Largest L1 table that is opened, in bytes; QEMU's limit, too.
pub(super) const MAX_L1_BYTES: u64 = 32 << 20;
/// Largest refcount table that is opened or made, in bytes; QEMU's limit, too.
pub(super) const MAX_REFCOUNT_TABLE_BYTES: u64 = 8 << 20;
/// Clusters from 512 bytes to 2 MiB, as in QEMU.
pub(super) const CLUSTER_BITS: std::ops::RangeInclusive<u32> = 9..=21;
/// Subclusters are at least a sector.
pub(super) const MIN_EXTENDED_CLUSTER_BITS: u32 = 14;
/// The longest backing file name the format has, in bytes.
const MAX_BACKING_NAME_BYTES: u64 = 1023;

/// Incompatible features, by bit.
pub(super) const DIRTY: u64 = 1;
pub(super) const CORRUPT: u64 = 1 << 1;
const EXTERNAL_DATA: u64 = 1 << 2;
const COMPRESSION: u64 = 1 << 3;
pub(super) const EXTENDED_L2: u64 = 1 << 4;
/// Auto-clear feature: the bitmaps agree with the disk.
pub(super) const BITMAPS: u64 = 1;

/// Bytes of a version 2 header, and the least of a version 3 one.
pub(super) const HEADER_2_BYTES: usize = 72;
pub(super) const HEADER_3_BYTES: usize = 104;

/// The end of the extensions, and the one that names the backing file's format.
const EXTENSION_END: u32 = 0;
pub(super) const EXTENSION_BACKING_FORMAT: u32 = 0xe279_2aca;

/// The one that says where the keys of an encrypted image are.
const EXTENSION_ENCRYPTION: u32 = 0x0537_be77;

/// How compressed clusters are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Raw deflate; the format calls it zlib.
    Deflate,
    /// Zstandard.
    Zstd,
}

/// A checked header.
#[derive(Clone, Debug)]
pub(super) struct Header {
    pub layout: Layout,
    /// Virtual size in whole sectors.
    pub size_bytes: u64,
    pub l1_offset: u64,
    pub l1_entries: u64,
    pub refcount_table_offset: u64,
    pub refcount_table_clusters: u64,
    pub snapshots_offset: u64,
    pub snapshots: u32,
    pub incompatible: u64,
    pub autoclear: u64,
    pub compression: Compression,
    /// As written in the image; to be shown, never to be opened.
    pub backing_name: Option<String>,
    pub backing_format: Option<String>,
    /// Where the LUKS header is, in an image that is encrypted.
    pub encryption: Option<luks::Place>,
}

impl Header {
    /// Reads the first cluster.
    ///
    /// # Errors
    /// `Unsupported` for what is no qcow2 image or uses something not built, `Corrupt` for what contradicts itself.
    pub fn read(file: &ImageFile) -> Result<Self, BlockError> {
        let start = file.read_bytes(0, HEADER_3_BYTES)?;
        if !start.starts_with(b"QFI\xfb") {
            return Err(unsupported("this is not a qcow2 image"));
        }
        let cluster_bits = be32(&start, 20);
        if !CLUSTER_BITS.contains(&cluster_bits) {
            return Err(unsupported(format!("clusters of 2^{cluster_bits} bytes are not supported")));
        }
        Self::parse(&file.read_bytes(0, 1 << cluster_bits)?, file.len_bytes())
    }

    /// Checks `first`, the first cluster of a file of `file_bytes`.
    pub fn parse(first: &[u8], file_bytes: u64) -> Result<Self, BlockError> {
        let version = be32(first, 4);
        if !(2..=3).contains(&version) {
            return Err(unsupported(format!("qcow2 version {version} is not supported")));
        }
        let cluster_bits = be32(first, 20);
        let extra = |at| if version == 2 { 0 } else { be64(first, at) };
        let (incompatible, autoclear) = (extra(72), extra(88));
        let compression = check_features(incompatible, first, version)?;
        let refcount_order = if version == 2 { 4 } else { be32(first, 96) };
        let header_bytes = if version == 2 { HEADER_2_BYTES } else { be32(first, 100) as usize };
        if version == 3 && !(HEADER_3_BYTES..=first.len()).contains(&header_bytes) || !header_bytes.is_multiple_of(8) {
            return Err(corrupt(format!("the header is said to have {header_bytes} bytes")));
        }
        if refcount_order > 6 {
            return Err(corrupt(format!("refcounts are said to have 2^{refcount_order} bits")));
        }
        let extended = incompatible & EXTENDED_L2 != 0;
        if extended && cluster_bits < MIN_EXTENDED_CLUSTER_BITS {
            return Err(corrupt("the clusters are too small for extended L2 entries"));
        }
        let method = be32(first, 32);
        match method {
            0 | 2 => {}
            1 => return Err(unsupported("qcow2 images encrypted with the old AES method are not supported")),
            _ => return Err(unsupported(format!("qcow2 images encrypted by method {method} are not supported"))),
        }
        let size_bytes = be64(first, 24);
        let mut header = Self {
            layout: Layout { version, cluster_bits, refcount_order, extended },
            size_bytes: size_bytes - size_bytes % SECTOR_BYTES,
            l1_offset: be64(first, 40),
            l1_entries: u64::from(be32(first, 36)),
            refcount_table_offset: be64(first, 48),
            refcount_table_clusters: u64::from(be32(first, 56)),
            snapshots_offset: be64(first, 64),
            snapshots: be32(first, 60),
            incompatible,
            autoclear,
            compression,
            backing_name: None,
            backing_format: None,
            encryption: None,
        };
        header.check_tables(file_bytes)?;
        header.read_extensions(first, header_bytes)?;
        if method == 2 {
            header.check_encryption(file_bytes)?;
        } else {
            header.encryption = None;
        }
        Ok(header)
    }

    /// Whether the refcounts may be wrong.
    pub fn is_dirty(&self) -> bool {
        self.incompatible & DIRTY != 0
    }

    /// Whether nothing may be written.
    pub fn is_corrupt(&self) -> bool {
        self.incompatible & CORRUPT != 0
    }

    /// Bytes of the active L1 table.
    pub fn l1_bytes(&self) -> u64 {
        self.l1_entries * 8
    }

    fn check_tables(&self, file_bytes: u64) -> Result<(), BlockError> {
        if self.size_bytes == 0 {
            return Err(unsupported("the image does not hold even one sector"));
        }
        check_l1(&self.layout, self.l1_offset, self.l1_entries, file_bytes)?;
        if self.l1_entries < self.layout.l1_entries(self.size_bytes) {
            return Err(corrupt("the L1 table is too small for the disk"));
        }
        let cluster = self.layout.cluster_bytes();
        let end = self.snapshots_offset.checked_add(1);
        if self.snapshots != 0
            && (!self.snapshots_offset.is_multiple_of(cluster) || end.is_none_or(|end| end > file_bytes))
        {
            return Err(corrupt(format!("the snapshot table is said to be at {:#x}", self.snapshots_offset)));
        }
        Ok(())
    }

    /// Checks the place of the refcount table, which only writing needs.
    ///
    /// # Errors
    /// `Corrupt`, or `Unsupported` for one over the limit.
    pub fn check_refcount_table(&self, file_bytes: u64) -> Result<(), BlockError> {
        let offset = self.refcount_table_offset;
        let len = self.refcount_table_clusters << self.layout.cluster_bits;
        if len > MAX_REFCOUNT_TABLE_BYTES {
            return Err(unsupported(format!("a refcount table of {len} bytes is not supported")));
        }
        let end = offset.checked_add(1);
        if len == 0
            || offset == 0
            || !offset.is_multiple_of(self.layout.cluster_bytes())
            || end.is_none_or(|end| end > file_bytes || end > MAX_HOST_BYTES)
        {
            return Err(corrupt(format!("the refcount table is said to have {len:#x} bytes at {offset:#x}")));
        }
        Ok(())
    }

    fn check_encryption(&self, file_bytes: u64) -> Result<(), BlockError> {
        let Some(luks::Place { start, len }) = self.encryption else {
            return Err(corrupt("the image is encrypted and does not say where its keys are"));
        };
        let end = start.checked_add(len);
        if start == 0
            || len == 0
            || !start.is_multiple_of(self.layout.cluster_bytes())
            || end.is_none_or(|end| end > file_bytes.next_multiple_of(self.layout.cluster_bytes()))
        {
            return Err(corrupt(format!("the image's keys are said to be at {start:#x}, {len:#x} bytes")));
        }
        Ok(())
    }

    fn read_extensions(&mut self, first: &[u8], header_bytes: usize) -> Result<(), BlockError> {
        let (offset, len) = (be64(first, 8), u64::from(be32(first, 16)));
        let mut limit = first.len();
        if offset != 0 {
            let end = offset.checked_add(len).filter(|end| *end <= first.len() as u64);
            if len > MAX_BACKING_NAME_BYTES || end.is_none() {
                return Err(corrupt("the backing file's name leaves the header"));
            }
            limit = offset as usize;
            let name = first.get(limit..limit + len as usize).unwrap_or_default();
            self.backing_name = Some(String::from_utf8_lossy(name).into_owned());
        }
        let mut at = header_bytes;
        // Each round takes at least 8 bytes of at most one cluster.
        while at + 8 <= limit {
            let (kind, len) = (be32(first, at), be32(first, at + 4) as usize);
            at += 8;
            if kind == EXTENSION_END {
                break;
            }
            let Some(content) = first.get(at..limit).and_then(|rest| rest.get(..len)) else {
                return Err(corrupt(format!("header extension {kind:#x} leaves the header")));
            };
            if kind == EXTENSION_BACKING_FORMAT {
                self.backing_format = Some(String::from_utf8_lossy(content).into_owned());
            }
            if kind == EXTENSION_ENCRYPTION && content.len() >= 16 {
                self.encryption = Some(luks::Place { start: be64(content, 0), len: be64(content, 8) });
            }
            at += len.next_multiple_of(8);
        }
        Ok(())
    }
}

/// Refuses what is not known, and says how clusters are compressed.
fn check_features(incompatible: u64, first: &[u8], version: u32) -> Result<Compression, BlockError> {
    if incompatible & EXTERNAL_DATA != 0 {
        return Err(unsupported("qcow2 images with an external data file are not supported"));
    }
    let unknown = incompatible & !(DIRTY | CORRUPT | COMPRESSION | EXTENDED_L2);
    if unknown != 0 {
        return Err(unsupported(format!("the image uses unknown features: bits {unknown:#x}")));
    }
    let has_field = version == 3 && be32(first, 100) as usize > HEADER_3_BYTES;
    let kind = if has_field { first.get(HEADER_3_BYTES).copied().unwrap_or(0) } else { 0 };
    match (incompatible & COMPRESSION != 0, kind) {
        (false, 0) => Ok(Compression::Deflate),
        (true, 1) => Ok(Compression::Zstd),
        (true, 2..) => Err(unsupported(format!("compression type {kind} is not supported"))),
        _ => Err(corrupt(format!("compression type {kind} contradicts the feature bits"))),
    }
}

/// Checks the place of an L1 table.
///
/// # Errors
/// `Corrupt`, or `Unsupported` for one over the limit.
pub(super) fn check_l1(layout: &Layout, offset: u64, entries: u64, file_bytes: u64) -> Result<(), BlockError> {
    let len = entries * 8;
    if len > MAX_L1_BYTES {
        return Err(unsupported(format!("an L1 table of {len} bytes is not supported")));
    }
    let end = offset.checked_add(len);
    if len != 0
        && (offset == 0
            || !offset.is_multiple_of(layout.cluster_bytes())
            || end.is_none_or(|end| end > file_bytes || end > MAX_HOST_BYTES))
    {
        return Err(corrupt(format!("the L1 table is said to have {entries} entries at {offset:#x}")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use benchtop_block::BlockErrorKind;

    use super::*;

    /// A header of version 3, 64 KiB clusters and 1 GiB.
    fn header() -> Vec<u8> {
        let mut first = vec![0u8; 65536];
        first[..4].copy_from_slice(b"QFI\xfb");
        for (at, value) in [(4, 3u32), (20, 16), (36, 2), (56, 1), (96, 4), (100, 104)] {
            first[at..at + 4].copy_from_slice(&value.to_be_bytes());
        }
        for (at, value) in [(24, 1u64 << 30), (40, 0x10000), (48, 0x20000)] {
            first[at..at + 8].copy_from_slice(&value.to_be_bytes());
        }
        first
    }

    fn parse(change: impl FnOnce(&mut Vec<u8>)) -> Result<Header, BlockError> {
        let mut first = header();
        change(&mut first);
        Header::parse(&first, 1 << 20)
    }

    #[test]
    fn what_is_not_built_is_refused_by_name() {
        let message = |change: &dyn Fn(&mut Vec<u8>)| {
            let error = parse(change).unwrap_err();
            assert_eq!(error.kind(), BlockErrorKind::Unsupported, "{error}");
            error.to_string()
        };
        assert!(message(&|first| first[79] = 4).contains("external data file"));
        assert!(message(&|first| first[79] = 32).contains("bits 0x20"));
        assert!(message(&|first| first[72] = 128).contains("bits 0x8000000000000000"));
        assert!(message(&|first| first[35] = 1).contains("encrypted"));
        assert!(message(&|first| first[35] = 3).contains("encrypted"));
        assert!(message(&|first| first[7] = 1).contains("version 1"));
        assert!(message(&|first| first[24..32].fill(0)).contains("one sector"));
        let zstd_2 = |first: &mut Vec<u8>| (first[79], first[103], first[104]) = (8, 112, 2);
        assert!(message(&zstd_2).contains("compression type 2"));
    }

    type Change = dyn Fn(&mut Vec<u8>);

    #[test]
    fn what_contradicts_itself_is_corrupt() {
        let changes: [&Change; 10] = [
            &|first| first[35] = 2,
            &|first| first[99] = 7,
            &|first| first[103] = 100,
            &|first| first[103] = 106,
            &|first| first[79] = 8,
            &|first| (first[103], first[104]) = (112, 1),
            &|first| first[39] = 1,
            &|first| first[47] = 1,
            &|first| first[24] = 1,
            &|first| (first[15], first[18]) = (200, 4),
        ];
        for (index, change) in changes.iter().enumerate() {
            assert_eq!(parse(change).unwrap_err().kind(), BlockErrorKind::Corrupt, "change {index}");
        }
        let header = parse(|_| ()).unwrap();
        header.check_refcount_table(1 << 20).unwrap();
        assert!(header.check_refcount_table(0x20000).is_err());
    }

    #[test]
    fn names_are_read_and_bounded() {
        let named = |first: &mut Vec<u8>| {
            first[104..108].copy_from_slice(&EXTENSION_BACKING_FORMAT.to_be_bytes());
            first[111] = 3;
            first[112..115].copy_from_slice(b"raw");
            (first[15], first[19]) = (200, 4);
            first[200..204].copy_from_slice(b"base");
        };
        let header = parse(named).unwrap();
        assert_eq!(header.backing_name.as_deref(), Some("base"));
        assert_eq!(header.backing_format.as_deref(), Some("raw"));
        let error = parse(|first| {
            named(first);
            first[108] = 0xff;
        });
        assert_eq!(error.unwrap_err().kind(), BlockErrorKind::Corrupt);
    }
}
