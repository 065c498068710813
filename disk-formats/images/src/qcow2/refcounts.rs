//! Reference counts of host clusters, and which cluster is given out next.
//!
//! A refcount block that is missing is put into the first free cluster of the very range it counts, so making one
//! never needs another. When the table of blocks is full, a larger one and the blocks that count it are written behind
//! everything else, made durable, and the header is switched to it.

use std::collections::{BTreeSet, HashSet};
use std::ops::Range;

use benchtop_block::{BlockError, BlockErrorKind};

use super::header::MAX_REFCOUNT_TABLE_BYTES;
use super::layout::{Layout, MAX_HOST_BYTES, OFFSET_MASK};
use super::tables::{Kind, Tables};
use crate::error::corrupt;
use crate::fields::be64;
use crate::file::ImageFile;
use crate::mapped::Own;

/// Refcount blocks that one allocation looks at, at most, before it takes a cluster behind the end.
const SCAN_BLOCKS: usize = 16;
/// The file grows in steps of this many bytes, or a cluster where that is more.
const GROW_BYTES: u64 = 256 << 10;

/// A host cluster that was given out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Allocated {
    /// Where, in bytes of the file.
    pub host: u64,
    /// Nothing was ever written there, so it reads as zeroes.
    pub is_zero: bool,
}

/// The refcounts of an image that is open for writing.
#[derive(Debug)]
pub(super) struct Refcounts {
    layout: Layout,
    /// Offsets of the blocks in bytes, 0 where there is none.
    table: Vec<u64>,
    /// The clusters it is in, and those of earlier ones that are still counted.
    table_clusters: Range<u64>,
    old_tables: Vec<Range<u64>>,
    /// Entries of `table` that changed since the last commit began, and those it is writing.
    changed: BTreeSet<usize>,
    writing: BTreeSet<usize>,
    /// No cluster before this one is free.
    hint: u64,
    /// Nothing from this cluster on is used.
    end: u64,
    /// Nothing from this cluster on was ever written.
    untouched: u64,
    /// Header and tables that may have several clusters, in bytes of the file: no data may overwrite them, whatever is
    /// counted.
    fixed: Own,
    /// The same for L2 tables and refcount blocks.
    tables: HashSet<u64>,
}

impl Refcounts {
    /// Reads the table. `fixed` are the header, L1 tables and the snapshot table, in bytes.
    ///
    /// # Errors
    /// `Corrupt` where they, the table and its blocks share room; the host's.
    pub fn load(
        layout: Layout,
        table_offset: u64,
        clusters: u64,
        fixed: Vec<Range<u64>>,
        file: &ImageFile,
    ) -> Result<Self, BlockError> {
        let len = (clusters << layout.cluster_bits).min(MAX_REFCOUNT_TABLE_BYTES);
        let bytes = file.read_bytes(table_offset, len as usize)?;
        let table: Vec<u64> = bytes.chunks_exact(8).map(|entry| be64(entry, 0)).collect();
        let first = table_offset >> layout.cluster_bits;
        let blocks = table.iter().copied().filter(|entry| *entry != 0);
        let tables: HashSet<u64> = blocks.clone().map(|entry| entry >> layout.cluster_bits).collect();
        // All of them are written in place.
        let blocks = blocks.map(|block| block..block.saturating_add(layout.cluster_bytes()));
        let alone = blocks.chain(std::iter::once(table_offset..table_offset.saturating_add(len)));
        Own::new(fixed.iter().cloned().chain(alone).collect()).require_sound()?;
        let fixed = Own::new(fixed);
        let end = file.len_bytes().div_ceil(layout.cluster_bytes());
        Ok(Self {
            layout,
            table,
            table_clusters: first..first + clusters,
            old_tables: Vec::new(),
            changed: BTreeSet::new(),
            writing: BTreeSet::new(),
            hint: 1,
            end,
            untouched: end,
            fixed,
            tables,
        })
    }

    /// Notes that a cluster holds a table, or no longer does.
    pub fn guard(&mut self, cluster: u64, holds_table: bool) {
        if holds_table {
            self.tables.insert(cluster);
        } else {
            self.tables.remove(&cluster);
        }
    }

    /// Whether a cluster holds metadata, as far as the tables in use say. Data must not go there.
    pub fn is_metadata(&self, cluster: u64) -> bool {
        let host = cluster.saturating_mul(self.layout.cluster_bytes());
        self.tables.contains(&cluster)
            || self.table_clusters.contains(&cluster)
            || self.fixed.holds(host, host.saturating_add(self.layout.cluster_bytes()))
            || self.old_tables.iter().any(|range| range.contains(&cluster))
    }

    fn place(&self, cluster: u64) -> (usize, u64) {
        let entries = self.layout.block_entries();
        ((cluster / entries) as usize, cluster % entries)
    }

    fn block(&self, index: usize) -> Result<Option<u64>, BlockError> {
        match self.table.get(index).copied().unwrap_or(0) {
            0 => Ok(None),
            entry if entry & !OFFSET_MASK != 0 => Err(corrupt(format!("a refcount block is said to be at {entry:#x}"))),
            entry => Ok(Some(entry)),
        }
    }

    /// How often a cluster is used.
    ///
    /// # Errors
    /// `Corrupt`, or the host's.
    pub fn get(&self, cluster: u64, tables: &mut Tables, file: &ImageFile) -> Result<u64, BlockError> {
        let (index, within) = self.place(cluster);
        match self.block(index)? {
            None => Ok(0),
            Some(block) => Ok(self.layout.refcount(tables.get(block, Kind::Refcounts, file)?, within)),
        }
    }

    fn set(&self, cluster: u64, value: u64, tables: &mut Tables, file: &ImageFile) -> Result<(), BlockError> {
        let (index, within) = self.place(cluster);
        let block = self.block(index)?.ok_or_else(|| corrupt("a cluster without a refcount is in use"))?;
        let (at, bytes) = self.layout.encode_refcount(tables.get(block, Kind::Refcounts, file)?, within, value);
        tables.modify(block, Kind::Refcounts, at, &bytes, file)
    }

    /// Takes one reference from a cluster. Whoever calls it knows that no table in the file names that reference.
    ///
    /// # Errors
    /// `Corrupt` where there is none, or the host's. The cluster is then lost to others, which harms nothing.
    pub fn release(&mut self, cluster: u64, tables: &mut Tables, file: &ImageFile) -> Result<(), BlockError> {
        let count = self.get(cluster, tables, file)?;
        let less = count.checked_sub(1).ok_or_else(|| corrupt("a cluster in use has no refcount"))?;
        self.set(cluster, less, tables, file)?;
        if less == 0 {
            self.hint = self.hint.min(cluster);
        }
        Ok(())
    }

    /// Gives out a cluster, with one reference.
    ///
    /// # Errors
    /// `Corrupt`, `Unsupported` where the format has no room for more, or the host's.
    pub fn allocate(&mut self, tables: &mut Tables, file: &ImageFile) -> Result<Allocated, BlockError> {
        for _ in 0..SCAN_BLOCKS {
            if self.hint >= self.end {
                break;
            }
            let (found, next) = self.find(self.hint, self.end, tables, file)?;
            self.hint = next;
            if let Some(cluster) = found {
                return self.take(cluster, tables, file);
            }
        }
        for _ in 0..SCAN_BLOCKS {
            self.cover(self.end, tables, file)?;
            let (found, next) = self.find(self.end, u64::MAX, tables, file)?;
            self.end = next;
            if let Some(cluster) = found {
                return self.take(cluster, tables, file);
            }
        }
        Err(corrupt("the refcounts call clusters behind the end of the image used"))
    }

    /// Looks for a free cluster in one block's range, from `from` on and before `limit`; also says where to go on.
    fn find(
        &mut self,
        from: u64,
        limit: u64,
        tables: &mut Tables,
        file: &ImageFile,
    ) -> Result<(Option<u64>, u64), BlockError> {
        let (index, within) = self.place(from);
        let entries = self.layout.block_entries();
        let start = from - within;
        let last = limit.saturating_sub(start).min(entries);
        let free = match self.block(index)? {
            Some(block) => {
                let bytes = tables.get(block, Kind::Refcounts, file)?;
                (within..last)
                    .find(|at| self.layout.refcount(bytes, *at) == 0 && !self.is_metadata(start + at))
                    .map(|at| start + at)
            }
            // Nothing in the range is used. Its first free cluster becomes its block, the next is the answer.
            None if index < self.table.len() => {
                let mut free = (within..last).map(|at| start + at).filter(|cluster| !self.is_metadata(*cluster));
                match (free.next(), free.next()) {
                    (Some(block), Some(free)) => {
                        self.add_block(index, block, tables, file)?;
                        Some(free)
                    }
                    _ => None,
                }
            }
            None => None,
        };
        Ok(free.map_or((None, start + last), |cluster| (Some(cluster), cluster + 1)))
    }

    fn take(&mut self, cluster: u64, tables: &mut Tables, file: &ImageFile) -> Result<Allocated, BlockError> {
        let host = self.prepare(cluster, file)?;
        let is_zero = cluster >= self.untouched;
        self.set(cluster, 1, tables, file)?;
        self.end = self.end.max(cluster + 1);
        self.untouched = self.untouched.max(cluster + 1);
        Ok(Allocated { host, is_zero })
    }

    /// Makes the file long enough for a cluster and says where it is.
    fn prepare(&self, cluster: u64, file: &ImageFile) -> Result<u64, BlockError> {
        let full = || BlockError::new(BlockErrorKind::Unsupported, "the image can not grow further");
        let host = cluster.checked_mul(self.layout.cluster_bytes()).ok_or_else(full)?;
        let end =
            host.checked_add(self.layout.cluster_bytes()).filter(|end| *end <= MAX_HOST_BYTES).ok_or_else(full)?;
        if end > file.len_bytes() {
            file.grow(end.next_multiple_of(GROW_BYTES.max(self.layout.cluster_bytes())))?;
        }
        Ok(host)
    }

    fn add_block(
        &mut self,
        index: usize,
        cluster: u64,
        tables: &mut Tables,
        file: &ImageFile,
    ) -> Result<(), BlockError> {
        let host = self.prepare(cluster, file)?;
        let mut bytes = vec![0; self.layout.table_bytes()];
        put(&self.layout, &mut bytes, self.place(cluster).1, 1);
        // Written now so that the host's room for it is certain; a commit writes it again in its order.
        file.write_bytes(host, &bytes)?;
        tables.insert(host, Kind::Refcounts, bytes);
        if let Some(entry) = self.table.get_mut(index) {
            *entry = host;
        }
        self.changed.insert(index);
        self.guard(cluster, true);
        self.end = self.end.max(cluster + 1);
        self.untouched = self.untouched.max(cluster + 1);
        Ok(())
    }

    /// Makes the table long enough to count `cluster`.
    fn cover(&mut self, cluster: u64, tables: &mut Tables, file: &ImageFile) -> Result<(), BlockError> {
        if self.place(cluster).0 < self.table.len() {
            return Ok(());
        }
        let per_cluster = self.layout.cluster_bytes() / 8;
        let first = cluster;
        let first_block = self.place(first).0;
        // Blocks, and the clusters of the new table, that together count and hold themselves. Both only grow, and the
        // table's limit ends it.
        let (mut blocks, mut clusters) = (1u64, (self.table.len() as u64 * 2).div_ceil(per_cluster));
        loop {
            let last_block = self.place(first + blocks + clusters - 1).0;
            let needed = ((last_block - first_block) as u64 + 1, (last_block as u64 + 1).div_ceil(per_cluster));
            if clusters << self.layout.cluster_bits > MAX_REFCOUNT_TABLE_BYTES {
                return Err(BlockError::new(BlockErrorKind::Unsupported, "the image can not count more clusters"));
            }
            if needed.0 <= blocks && needed.1 <= clusters {
                break;
            }
            (blocks, clusters) = (blocks.max(needed.0), clusters.max(needed.1));
        }
        let table_at = self.prepare(first + blocks, file)?;
        self.prepare(first + blocks + clusters - 1, file)?;
        let mut table = self.table.clone();
        table.resize((clusters * per_cluster) as usize, 0);
        let mut added = Vec::new();
        for block in 0..blocks {
            let index = first_block + block as usize;
            let start = index as u64 * self.layout.block_entries();
            let mut bytes = vec![0; self.layout.table_bytes()];
            for used in first.max(start)..(first + blocks + clusters).min(start + self.layout.block_entries()) {
                put(&self.layout, &mut bytes, used - start, 1);
            }
            let host = (first + block) << self.layout.cluster_bits;
            file.write_bytes(host, &bytes)?;
            if let Some(entry) = table.get_mut(index) {
                *entry = host;
            }
            added.push((host, bytes));
        }
        for write in tables.unclean(Kind::Refcounts) {
            write.write(file)?;
        }
        let bytes: Vec<u8> = table.iter().flat_map(|entry| entry.to_be_bytes()).collect();
        file.write_bytes(table_at, &bytes)?;
        file.sync()?;
        let mut fields = table_at.to_be_bytes().to_vec();
        fields.extend((clusters as u32).to_be_bytes());
        file.write_bytes(48, &fields)?;
        file.sync()?;
        // The old table's clusters stay counted, so that a commit under way, which may write to it, harms nobody.
        let clusters = first + blocks..first + blocks + clusters;
        self.end = clusters.end;
        self.untouched = self.untouched.max(clusters.end);
        self.old_tables.push(std::mem::replace(&mut self.table_clusters, clusters));
        self.table = table;
        self.changed.clear();
        for (host, bytes) in added {
            self.guard(host >> self.layout.cluster_bits, true);
            tables.insert(host, Kind::Refcounts, bytes);
        }
        Ok(())
    }

    /// The clusters of earlier refcount tables, once: to be released when a commit that begins now has ended.
    pub fn take_old_tables(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.old_tables).into_iter().flatten().collect()
    }

    /// The entries of the table that a commit must write: where, and what.
    pub fn begin(&mut self) -> Vec<(u64, u64)> {
        self.writing.append(&mut self.changed);
        let start = self.table_clusters.start << self.layout.cluster_bits;
        let entry = |index: &usize| self.table.get(*index).map(|entry| (start + *index as u64 * 8, *entry));
        self.writing.iter().filter_map(entry).collect()
    }

    /// The commit ended: its entries are durable, or are still to be written.
    pub fn end(&mut self, durable: bool) {
        let mut written = std::mem::take(&mut self.writing);
        if !durable {
            self.changed.append(&mut written);
        }
    }

    /// Whether the file holds the whole table.
    pub fn is_clean(&self) -> bool {
        self.changed.is_empty() && self.writing.is_empty()
    }
}

/// Makes entry `index` of a block in memory `value`.
fn put(layout: &Layout, block: &mut [u8], index: u64, value: u64) {
    let (at, bytes) = layout.encode_refcount(block, index, value);
    if let Some(place) = block.get_mut(at..at + bytes.len()) {
        place.copy_from_slice(&bytes);
    }
}
