//! Everything one lock guards: the L1 table, cached tables, refcounts, and what a commit has still to do.

use std::collections::BTreeSet;
use std::ops::Range;

use benchtop_block::BlockError;

use super::header::Header;
use super::layout::{COPIED, Entry, Layout, OFFSET_MASK, Standard};
use super::refcounts::{Allocated, Refcounts};
use super::tables::{Kind, TableWrite, Tables};
use crate::error::corrupt;
use crate::fields::be64;
use crate::file::ImageFile;

/// References that wait for a commit before they are given back, at most, before a commit is due.
const MAX_FREES: usize = 1 << 16;
/// Parts of clusters that were filled for a guest's smaller write and are not durable, before a commit is due.
const MAX_FILLED: usize = 1 << 12;

/// Metadata in memory.
#[derive(Debug)]
pub(super) struct Meta {
    layout: Layout,
    l1: Vec<u64>,
    l1_offset: u64,
    /// Entries of `l1` that changed since the last commit began, and those it is writing.
    l1_changed: BTreeSet<usize>,
    l1_writing: BTreeSet<usize>,
    pub tables: Tables,
    /// Only where the image is open for writing.
    refcounts: Option<Refcounts>,
    /// Host clusters, each with one reference to give back once the tables that no longer name it are durable.
    frees: Vec<u64>,
    /// Ranges of the file, filled with what a guest did not write and could not write again; see [`Meta::filled`].
    filled: Vec<Range<u64>>,
    filled_writing: Vec<Range<u64>>,
}

/// What one commit writes, in this order, with syncs between the parts.
#[derive(Debug)]
pub(super) struct Batch {
    pub refcount_blocks: Vec<TableWrite>,
    pub refcount_table: Vec<(u64, u64)>,
    pub l2: Vec<TableWrite>,
    pub l1: Vec<(u64, u64)>,
    /// Given back when all is durable.
    pub frees: Vec<u64>,
}

fn read_only() -> BlockError {
    BlockError::new(benchtop_block::BlockErrorKind::ReadOnly, "the qcow2 image is read-only")
}

impl Meta {
    /// Reads the L1 table, whose place the header's check vouches for.
    ///
    /// # Errors
    /// The host's.
    pub fn load(header: &Header, file: &ImageFile) -> Result<Self, BlockError> {
        let bytes = file.read_bytes(header.l1_offset, header.l1_bytes() as usize)?;
        let l1: Vec<u64> = bytes.chunks_exact(8).map(|entry| be64(entry, 0)).collect();
        Ok(Self {
            layout: header.layout,
            l1,
            l1_offset: header.l1_offset,
            l1_changed: BTreeSet::new(),
            l1_writing: BTreeSet::new(),
            tables: Tables::new(header.layout.table_bytes()),
            refcounts: None,
            frees: Vec::new(),
            filled: Vec::new(),
            filled_writing: Vec::new(),
        })
    }

    /// Lets writes in.
    ///
    /// # Errors
    /// `Corrupt` for an L2 table that is used twice, or lies on another table.
    pub fn set_refcounts(&mut self, mut refcounts: Refcounts) -> Result<(), BlockError> {
        for offset in self.l1.iter().map(|entry| entry & OFFSET_MASK).filter(|offset| *offset != 0) {
            let cluster = offset >> self.layout.cluster_bits;
            if refcounts.is_metadata(cluster) {
                let context = format!("the L2 table at {offset:#x} lies on another; the image can be opened read-only");
                return Err(corrupt(context));
            }
            refcounts.guard(cluster, true);
        }
        self.refcounts = Some(refcounts);
        Ok(())
    }

    /// Whether a cluster that is marked as used once is counted so, too. One that is not must not be written in place.
    ///
    /// # Errors
    /// `Corrupt`, or the host's.
    pub fn is_sole(&mut self, host: u64, file: &ImageFile) -> Result<bool, BlockError> {
        let Some(refcounts) = &self.refcounts else { return Ok(false) };
        refcounts.get(host >> self.layout.cluster_bits, &mut self.tables, file).map(|count| count == 1)
    }

    fn place(&self, cluster: u64) -> (usize, u64) {
        let entries = self.layout.l2_entries();
        ((cluster / entries) as usize, cluster % entries)
    }

    /// The L2 table that speaks of a guest cluster, if there is one.
    fn l2(&self, cluster: u64) -> Result<Option<u64>, BlockError> {
        let entry = self.l1.get(self.place(cluster).0).copied().unwrap_or(0);
        if entry & !(OFFSET_MASK | COPIED) != 0 {
            return Err(corrupt(format!("L1 entry {entry:#x} has unknown bits")));
        }
        Ok(Some(entry & OFFSET_MASK).filter(|offset| *offset != 0))
    }

    /// Whether there is no L2 table for a guest cluster, and so none for those that would share the table with it.
    ///
    /// # Errors
    /// `Corrupt`.
    pub fn has_no_table(&self, cluster: u64) -> Result<bool, BlockError> {
        Ok(self.l2(cluster)?.is_none())
    }

    /// What the image says of a guest cluster.
    ///
    /// # Errors
    /// `Corrupt`, or the host's.
    pub fn entry(&mut self, cluster: u64, file: &ImageFile) -> Result<Entry, BlockError> {
        match self.l2(cluster)? {
            None => Ok(Entry::UNALLOCATED),
            Some(table) => {
                let index = self.place(cluster).1;
                self.layout.entry(self.tables.get(table, Kind::Mapping, file)?, index)
            }
        }
    }

    /// Refuses a host cluster that holds metadata in use, or is not in the file and would not be the next. So is one
    /// of whose first `stored_bytes`, which hold the disk's, some are not in the file: a write behind them would make
    /// zeroes of what is lost, and nothing would tell of it any more.
    ///
    /// # Errors
    /// `Corrupt`.
    pub fn check_data(&self, host: u64, stored_bytes: u64, file: &ImageFile) -> Result<(), BlockError> {
        if host > file.len_bytes() {
            return Err(corrupt(format!("data is said to be at {host:#x}, behind the end of the image")));
        }
        file.check_stored(host, stored_bytes)?;
        let cluster = host >> self.layout.cluster_bits;
        if self.refcounts.as_ref().is_some_and(|refcounts| refcounts.is_metadata(cluster)) {
            return Err(corrupt(format!("data is said to be at {host:#x}, where metadata is")));
        }
        Ok(())
    }

    /// Gives out a host cluster.
    ///
    /// # Errors
    /// As [`Refcounts::allocate`].
    pub fn allocate(&mut self, file: &ImageFile) -> Result<Allocated, BlockError> {
        self.refcounts.as_mut().ok_or_else(read_only)?.allocate(&mut self.tables, file)
    }

    /// Takes a cluster back that no table ever named. A failure leaves it unused and counted, which harms nothing.
    pub fn take_back(&mut self, host: u64, file: &ImageFile) {
        if let Some(refcounts) = &mut self.refcounts {
            refcounts.release(host >> self.layout.cluster_bits, &mut self.tables, file).unwrap_or_default();
        }
    }

    /// The L2 table of a guest cluster, for writing: made if there is none, copied if it is shared.
    ///
    /// # Errors
    /// As [`Refcounts::allocate`].
    fn l2_for_writing(&mut self, cluster: u64, file: &ImageFile) -> Result<u64, BlockError> {
        let index = self.place(cluster).0;
        let old = self.l2(cluster)?;
        if let Some(table) = old
            && self.l1.get(index).is_some_and(|entry| entry & COPIED != 0)
            && self.is_sole(table, file)?
        {
            return Ok(table);
        }
        let bytes = match old {
            Some(table) => self.tables.get(table, Kind::Mapping, file)?.to_vec(),
            None => vec![0; self.layout.table_bytes()],
        };
        let new = self.allocate(file)?.host;
        // Written now so that the host's room for it is certain; a commit writes it again in its order.
        file.write_bytes(new, &bytes).inspect_err(|_error| self.take_back(new, file))?;
        let entry = self.l1.get_mut(index).ok_or_else(|| corrupt("the L1 table is too small"))?;
        *entry = new | COPIED;
        self.l1_changed.insert(index);
        self.tables.insert(new, Kind::Mapping, bytes);
        let bits = self.layout.cluster_bits;
        if let Some(refcounts) = &mut self.refcounts {
            refcounts.guard(new >> bits, true);
            if let Some(table) = old {
                refcounts.guard(table >> bits, false);
            }
        }
        if let Some(table) = old {
            self.tables.forget(table);
            self.frees.push(table >> bits);
        }
        Ok(new)
    }

    /// Makes room for the entry of a guest cluster, so that [`set_entry`](Self::set_entry) finds a table.
    ///
    /// # Errors
    /// As [`Refcounts::allocate`].
    pub fn prepare_entry(&mut self, cluster: u64, file: &ImageFile) -> Result<(), BlockError> {
        self.l2_for_writing(cluster, file).map(|_table| ())
    }

    /// Says something new of a guest cluster. The host clusters of `old` that it no longer names are given back by
    /// the commit that makes it durable.
    ///
    /// # Errors
    /// As [`Refcounts::allocate`].
    pub fn set_entry(&mut self, cluster: u64, old: &Entry, new: &Standard, file: &ImageFile) -> Result<(), BlockError> {
        let table = self.l2_for_writing(cluster, file)?;
        let at = self.place(cluster).1 as usize * self.layout.entry_bytes();
        self.tables.modify(table, Kind::Mapping, at, &self.layout.encode(new), file)?;
        if let Some((first, count)) = old.host_clusters(&self.layout)
            && new.host.is_none_or(|host| host >> self.layout.cluster_bits != first)
        {
            self.frees.extend(first..first + count);
        }
        Ok(())
    }

    /// Notes that a range of the file got bytes that are the disk's but not the guest's write: should a sync fail, the
    /// guest's side writes again what it wrote, and these must be written again from here.
    pub fn filled(&mut self, range: Range<u64>) {
        self.filled.push(range);
    }

    /// The ranges told to [`filled`](Self::filled) that are not durable.
    pub fn unsafe_fills(&self) -> Vec<Range<u64>> {
        self.filled.iter().chain(&self.filled_writing).cloned().collect()
    }

    /// So much waits for a commit that one is due.
    pub fn is_commit_due(&self) -> bool {
        self.tables.is_commit_due() || self.frees.len() >= MAX_FREES || self.filled.len() >= MAX_FILLED
    }

    /// Whether all metadata is durable.
    pub fn is_clean(&self) -> bool {
        self.tables.is_clean()
            && self.l1_changed.is_empty()
            && self.l1_writing.is_empty()
            && self.frees.is_empty()
            && self.filled.is_empty()
            && self.filled_writing.is_empty()
            && self.refcounts.as_ref().is_none_or(Refcounts::is_clean)
    }

    /// Starts a commit: what there is to write now. Changes that come later are the next commit's.
    pub fn begin_commit(&mut self) -> Batch {
        let mut frees = std::mem::take(&mut self.frees);
        if let Some(refcounts) = &mut self.refcounts {
            frees.append(&mut refcounts.take_old_tables());
        }
        self.l1_writing.append(&mut self.l1_changed);
        self.filled_writing.append(&mut self.filled);
        let entry = |index: &usize| self.l1.get(*index).map(|entry| (self.l1_offset + *index as u64 * 8, *entry));
        Batch {
            refcount_blocks: self.tables.begin(Kind::Refcounts),
            refcount_table: self.refcounts.as_mut().map(Refcounts::begin).unwrap_or_default(),
            l2: self.tables.begin(Kind::Mapping),
            l1: self.l1_writing.iter().filter_map(entry).collect(),
            frees,
        }
    }

    /// Ends it: either all of the batch is durable, or nothing is certain and the next commit writes it again.
    pub fn end_commit(&mut self, batch: &mut Batch, durable: bool) {
        self.tables.end(durable);
        if let Some(refcounts) = &mut self.refcounts {
            refcounts.end(durable);
        }
        let mut l1 = std::mem::take(&mut self.l1_writing);
        let mut filled = std::mem::take(&mut self.filled_writing);
        if !durable {
            self.l1_changed.append(&mut l1);
            self.filled.append(&mut filled);
            self.frees.append(&mut batch.frees);
        }
    }

    /// Of clusters whose references are about to be given back, those that then are free, in order and once each.
    pub fn unused_after(&mut self, frees: &[u64], file: &ImageFile) -> Vec<u64> {
        let Some(refcounts) = &self.refcounts else { return Vec::new() };
        let mut sorted = frees.to_vec();
        sorted.sort_unstable();
        let runs = sorted.chunk_by(|a, b| a == b).filter_map(|run| run.first().map(|cluster| (*cluster, run.len())));
        let tables = &mut self.tables;
        runs.filter(|(cluster, count)| refcounts.get(*cluster, tables, file).is_ok_and(|now| now == *count as u64))
            .map(|(cluster, _)| cluster)
            .collect()
    }

    /// Gives references back. One that can not be is left counted, which costs room and nothing else.
    pub fn give_back(&mut self, frees: &[u64], file: &ImageFile) {
        let Some(refcounts) = &mut self.refcounts else { return };
        for cluster in frees {
            refcounts.release(*cluster, &mut self.tables, file).unwrap_or_default();
        }
    }
}
