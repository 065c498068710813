//! Where things are in an image: cluster arithmetic and the entries of L1 and L2 tables.
//!
//! Source: "Qcow2 Image File Format" of the QEMU project, sections Cluster mapping, Extended L2 Entries and Host
//! cluster management.

use std::ops::Range;

use benchtop_block::BlockError;

use crate::error::corrupt;
use crate::fields::{be16, be32, be64};

/// Bits 9 to 55 of an L1 or L2 entry, or of an entry of the refcount table: an offset in bytes.
pub(super) const OFFSET_MASK: u64 = 0x00ff_ffff_ffff_fe00;
/// The cluster or table is used once, and may be written in place.
pub(super) const COPIED: u64 = 1 << 63;
/// A compressed cluster.
pub(super) const COMPRESSED: u64 = 1 << 62;
/// The cluster reads as zeroes (version 3, without subclusters).
pub(super) const ZERO: u64 = 1;
/// First offset no entry can name, in bytes.
pub(super) const MAX_HOST_BYTES: u64 = 1 << 56;

/// What decides how the image is laid out; checked when the header was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    /// 2 or 3.
    pub version: u32,
    /// 9 to 21.
    pub cluster_bits: u32,
    /// 0 to 6: a refcount has `1 << refcount_order` bits.
    pub refcount_order: u32,
    /// L2 entries are 128 bits and speak of subclusters.
    pub extended: bool,
}

impl Layout {
    /// A cluster, in bytes.
    pub fn cluster_bytes(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// The clusters that `[start, end)` of the disk touches, each with the part of it in bytes from its start.
    pub fn clusters(self, start: u64, end: u64) -> impl Iterator<Item = (u64, Range<u64>)> {
        let mut at = start;
        std::iter::from_fn(move || {
            let cluster = (at < end).then_some(at >> self.cluster_bits)?;
            let cluster_start = cluster << self.cluster_bits;
            let stop = cluster_start.saturating_add(self.cluster_bytes()).min(end);
            let part = at - cluster_start..stop - cluster_start;
            at = stop;
            Some((cluster, part))
        })
    }

    /// The same, to index a table with.
    pub fn table_bytes(&self) -> usize {
        1 << self.cluster_bits
    }

    /// Bytes of an L2 entry.
    pub fn entry_bytes(&self) -> usize {
        if self.extended { 16 } else { 8 }
    }

    /// Entries of an L2 table.
    pub fn l2_entries(&self) -> u64 {
        self.cluster_bytes() / self.entry_bytes() as u64
    }

    /// Subclusters of a cluster; the cluster itself where the format knows none.
    pub fn subclusters(&self) -> u32 {
        if self.extended { 32 } else { 1 }
    }

    /// A subcluster, in bytes.
    pub fn subcluster_bytes(&self) -> u64 {
        self.cluster_bytes() / u64::from(self.subclusters())
    }

    /// One bit for each subcluster.
    pub fn full_mask(&self) -> u32 {
        if self.extended { u32::MAX } else { 1 }
    }

    /// The subclusters that `[start, end)` of a cluster touches.
    pub fn mask(&self, start: u64, end: u64) -> u32 {
        if start >= end {
            return 0;
        }
        let size = self.subcluster_bytes();
        let (first, last) = ((start / size).min(31) as u32, ((end - 1) / size).min(31) as u32);
        (u32::MAX >> (31 - (last - first))) << first
    }

    /// Refcounts in a refcount block.
    pub fn block_entries(&self) -> u64 {
        (self.cluster_bytes() * 8) >> self.refcount_order
    }

    /// The largest count there is room for.
    pub fn max_refcount(&self) -> u64 {
        u64::MAX >> (64 - (1u32 << self.refcount_order))
    }

    /// How much of a guest cluster a disk of `disk_bytes` shows, in bytes from its start.
    pub fn shown_bytes(&self, cluster: u64, disk_bytes: u64) -> u64 {
        let start = cluster.saturating_mul(self.cluster_bytes());
        disk_bytes.saturating_sub(start).min(self.cluster_bytes())
    }

    /// L1 entries that a disk of `size_bytes` needs.
    pub fn l1_entries(&self, size_bytes: u64) -> u64 {
        size_bytes.div_ceil(self.cluster_bytes()).div_ceil(self.l2_entries())
    }

    /// The refcount of entry `index` of a block.
    pub fn refcount(&self, block: &[u8], index: u64) -> u64 {
        let index = index as usize;
        match self.refcount_order {
            order @ 0..3 => {
                let (bits, per_byte) = (1usize << order, 8usize >> order);
                let byte = block.get(index / per_byte).copied().unwrap_or(0);
                u64::from((byte >> (index % per_byte * bits)) & ((1u16 << bits) - 1) as u8)
            }
            3 => u64::from(block.get(index).copied().unwrap_or(0)),
            4 => u64::from(be16(block, index * 2)),
            5 => u64::from(be32(block, index * 4)),
            _ => be64(block, index * 8),
        }
    }

    /// The bytes to write, and where, to make entry `index` of a block `value`.
    pub fn encode_refcount(&self, block: &[u8], index: u64, value: u64) -> (usize, Vec<u8>) {
        let index = index as usize;
        match self.refcount_order {
            order @ 0..3 => {
                let (bits, per_byte) = (1usize << order, 8usize >> order);
                let shift = index % per_byte * bits;
                let mask = (((1u16 << bits) - 1) as u8) << shift;
                let byte = block.get(index / per_byte).copied().unwrap_or(0);
                (index / per_byte, vec![(byte & !mask) | (((value as u8) << shift) & mask)])
            }
            3 => (index, vec![value as u8]),
            4 => (index * 2, (value as u16).to_be_bytes().to_vec()),
            5 => (index * 4, (value as u32).to_be_bytes().to_vec()),
            _ => (index * 8, value.to_be_bytes().to_vec()),
        }
    }

    /// Entry `index` of an L2 table, checked against itself.
    ///
    /// # Errors
    /// `Corrupt`.
    pub fn entry(&self, table: &[u8], index: u64) -> Result<Entry, BlockError> {
        let at = index as usize * self.entry_bytes();
        let word = be64(table, at);
        if word & COMPRESSED != 0 {
            let length_bits = self.cluster_bits - 8;
            let split = 62 - length_bits;
            let offset_bytes = word & ((1 << split) - 1);
            let sectors = ((word & !(COPIED | COMPRESSED)) >> split) + 1;
            if offset_bytes >= MAX_HOST_BYTES {
                return Err(corrupt(format!("a compressed cluster is said to be at {offset_bytes:#x}")));
            }
            return Ok(Entry::Compressed(Compressed { offset_bytes, len_bytes: sectors * 512 - offset_bytes % 512 }));
        }
        let (host, copied) = (word & OFFSET_MASK, word & COPIED != 0);
        let bitmap = if self.extended { be64(table, at + 8) } else { 0 };
        let (alloc, zero) = match self.extended {
            true => (bitmap as u32, (bitmap >> 32) as u32),
            false if word & ZERO != 0 => (0, 1),
            false => (u32::from(host != 0), 0),
        };
        let reserved = word & !(OFFSET_MASK | COPIED | ZERO) != 0;
        let misplaced = !host.is_multiple_of(self.cluster_bytes()) || (host == 0 && (copied || alloc != 0));
        let unknown_zero = word & ZERO != 0 && (self.version < 3 || self.extended);
        if reserved || misplaced || unknown_zero || alloc & zero != 0 {
            return Err(corrupt(format!("an L2 entry contradicts itself: {word:#018x} {bitmap:#018x}")));
        }
        Ok(Entry::Standard(Standard { host: (host != 0).then_some(host), copied, alloc, zero }))
    }

    /// The bytes of a standard entry.
    pub fn encode(&self, entry: &Standard) -> Vec<u8> {
        let mut word = entry.host.unwrap_or(0);
        if entry.copied {
            word |= COPIED;
        }
        if !self.extended && entry.zero != 0 {
            word |= ZERO;
        }
        let mut bytes = word.to_be_bytes().to_vec();
        if self.extended {
            bytes.extend((u64::from(entry.zero) << 32 | u64::from(entry.alloc)).to_be_bytes());
        }
        bytes
    }
}

/// What an L2 entry says of a guest cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Entry {
    /// Stored as it is, or not at all.
    Standard(Standard),
    /// Stored compressed.
    Compressed(Compressed),
}

/// A cluster that is not compressed. A subcluster without a bit in either mask comes from the backing file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Standard {
    /// The host cluster, in bytes of the file.
    pub host: Option<u64>,
    /// The host cluster is used once.
    pub copied: bool,
    /// Subclusters whose bytes are in the host cluster.
    pub alloc: u32,
    /// Subclusters that read as zeroes.
    pub zero: u32,
}

impl Standard {
    /// How much of the host cluster the file must hold, in bytes from its start, where the disk shows `shown_bytes` of
    /// the guest's: up to the last subcluster that is there.
    pub fn stored_bytes(&self, layout: &Layout, shown_bytes: u64) -> u64 {
        let subclusters = u64::from(u32::BITS - self.alloc.leading_zeros());
        (subclusters * layout.subcluster_bytes()).min(shown_bytes)
    }
}

/// Where compressed bytes are. They end somewhere in the range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Compressed {
    /// In bytes of the file; at any byte.
    pub offset_bytes: u64,
    /// At most two clusters.
    pub len_bytes: u64,
}

impl Entry {
    /// A cluster nothing was written to.
    pub const UNALLOCATED: Self = Self::Standard(Standard { host: None, copied: false, alloc: 0, zero: 0 });

    /// The host clusters it holds a reference to: the first and how many, at most 3.
    pub fn host_clusters(&self, layout: &Layout) -> Option<(u64, u64)> {
        match self {
            Self::Standard(entry) => entry.host.map(|host| (host >> layout.cluster_bits, 1)),
            Self::Compressed(data) => {
                let first = data.offset_bytes >> layout.cluster_bits;
                let last = (data.offset_bytes + data.len_bytes - 1) >> layout.cluster_bits;
                Some((first, last - first + 1))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(cluster_bits: u32, refcount_order: u32, extended: bool) -> Layout {
        Layout { version: 3, cluster_bits, refcount_order, extended }
    }

    #[test]
    fn refcounts_of_every_width_keep_their_neighbours() {
        for order in 0..=6 {
            let layout = layout(9, order, false);
            let mut block = vec![0u8; 512];
            let value = |index: u64| (index * 7 + 3) & layout.max_refcount();
            for index in 0..layout.block_entries() {
                let (at, bytes) = layout.encode_refcount(&block, index, value(index));
                block[at..at + bytes.len()].copy_from_slice(&bytes);
            }
            for index in 0..layout.block_entries() {
                assert_eq!(layout.refcount(&block, index), value(index), "order {order}, index {index}");
            }
        }
        // Bit 0 of a byte is the first of its entries.
        assert_eq!(layout(9, 0, false).refcount(&[0b10], 1), 1);
    }

    #[test]
    fn entries_survive_encoding() {
        for (extended, entry) in [
            (false, Standard::default()),
            (false, Standard { host: Some(0x30000), copied: true, alloc: 1, zero: 0 }),
            (false, Standard { host: Some(0x30000), copied: false, alloc: 0, zero: 1 }),
            (false, Standard { host: None, copied: false, alloc: 0, zero: 1 }),
            (true, Standard { host: Some(0x30000), copied: true, alloc: 5, zero: 1 << 31 }),
            (true, Standard { host: None, copied: false, alloc: 0, zero: 9 }),
        ] {
            let layout = layout(16, 4, extended);
            assert_eq!(layout.entry(&layout.encode(&entry), 0).unwrap(), Entry::Standard(entry));
        }
    }

    #[test]
    fn entries_that_contradict_themselves_are_corrupt() {
        let plain = layout(16, 4, false);
        for word in [0x30200u64, COPIED, 1 << 56, 0x30000 | 2, ZERO | 4] {
            assert!(plain.entry(&word.to_be_bytes(), 0).is_err(), "{word:#x}");
        }
        let version_2 = Layout { version: 2, ..plain };
        assert!(version_2.entry(&ZERO.to_be_bytes(), 0).is_err());
        let extended = layout(16, 4, true);
        let words = |a: u64, b: u64| [a.to_be_bytes(), b.to_be_bytes()].concat();
        for (word, bitmap) in [(0, 1), (ZERO, 0), (0x30000, 1 << 32 | 1)] {
            assert!(extended.entry(&words(word, bitmap), 0).is_err(), "{word:#x} {bitmap:#x}");
        }
    }

    #[test]
    fn a_compressed_entry_names_bytes_to_the_end_of_a_sector() {
        let layout = layout(16, 4, false);
        let word = COMPRESSED | 2 << 54 | 0x12345;
        let Entry::Compressed(data) = layout.entry(&word.to_be_bytes(), 0).unwrap() else { panic!("not compressed") };
        assert_eq!(data, Compressed { offset_bytes: 0x12345, len_bytes: 3 * 512 - 0x145 });
        assert_eq!(Entry::Compressed(data).host_clusters(&layout), Some((1, 1)));
    }

    #[test]
    fn what_must_be_stored_ends_with_the_last_subcluster_or_the_disk() {
        let layout = layout(16, 4, true);
        let entry = |alloc| Standard { host: Some(0x30000), copied: true, alloc, zero: 0 };
        assert_eq!(entry(0b101).stored_bytes(&layout, 65536), 3 * 2048);
        assert_eq!(entry(u32::MAX).stored_bytes(&layout, 512), 512);
        assert_eq!(entry(0).stored_bytes(&layout, 65536), 0);
        let plain = Layout { extended: false, ..layout };
        assert_eq!(entry(1).stored_bytes(&plain, 65536), 65536);
        assert_eq!((plain.shown_bytes(1, 65536 + 512), plain.shown_bytes(2, 65536 + 512)), (512, 0));
    }

    #[test]
    fn masks_cover_what_is_touched() {
        let layout = layout(16, 4, true);
        assert_eq!(layout.mask(0, 65536), u32::MAX);
        assert_eq!((layout.mask(2047, 2049), layout.mask(63 << 10, 64 << 10), layout.mask(5, 5)), (3, 1 << 31, 0));
        assert_eq!(Layout { extended: false, ..layout }.mask(100, 200), 1);
    }
}
