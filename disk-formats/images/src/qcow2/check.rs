//! Counting who uses each cluster, to compare with the refcounts or to replace them.

use std::collections::HashSet;
use std::ops::Range;

use benchtop_block::{BlockError, BlockErrorKind, SECTOR_BYTES};

use super::compressed::Unpacker;
use super::header::{CORRUPT, DIRTY, Header, MAX_REFCOUNT_TABLE_BYTES, check_l1};
use super::layout::{COPIED, Entry, Layout, OFFSET_MASK, Standard};
use super::snapshots;
use crate::error::corrupt;
use crate::fields::be64;
use crate::file::ImageFile;

/// Clusters of a file that can be counted: 256 MiB of counts, or 4 TiB of clusters of the usual 64 KiB.
const MAX_CLUSTERS: u64 = 64 << 20;
/// The same where they are only counted to open the image, and the bytes of tables then.
const MAX_OPENED_CLUSTERS: u64 = 4 << 20;
const MAX_OPENED_BYTES: u64 = 32 << 20;
/// Tables read while counting, in bytes: this much and as much as four files. An honest image has each table a few
/// times, once for each snapshot that shares it.
const MIN_BUDGET_BYTES: u64 = 256 << 20;

/// How the refcounts of an image compare with what is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CheckReport {
    /// Clusters that are counted more often than used: room is lost, nothing else.
    pub leaked_clusters: u64,
    /// Clusters that are used more often than counted: a write could destroy somebody's data.
    pub uncounted_clusters: u64,
    /// Marks that a cluster is used once which are wrong: the same danger.
    pub wrong_marks: u64,
    /// Clusters of a header or table of which there must be one, and whose room something else uses, whatever is
    /// counted: the same danger.
    pub shared_tables: u64,
    /// Clusters of data that lie wholly or partly behind the end of the file: it was cut short, and their data is lost.
    pub cut_clusters: u64,
    /// Compressed clusters with the mark that they are used once, which they must never have.
    pub marked_compressed: u64,
    /// Compressed clusters of the disk that can not be unpacked: their data is lost.
    pub unpackable_clusters: u64,
}

impl CheckReport {
    /// Whether a write could destroy somebody's data.
    pub(super) fn is_dangerous(&self) -> bool {
        self.uncounted_clusters > 0 || self.wrong_marks > 0 || self.shared_tables > 0
    }
}

/// Marks "used once" that are wrong.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Marks {
    /// Of tables, and of clusters that are not compressed.
    wrong: u64,
    /// Of compressed clusters.
    compressed: u64,
}

/// How often each cluster of the file is used.
pub(super) struct Survey<'a> {
    header: &'a Header,
    file: &'a ImageFile,
    counts: Vec<u32>,
    /// Clusters of what is written in place: header, L1 tables, snapshot table, keys, refcount table and blocks.
    sole: Vec<Range<u64>>,
    /// Clusters of data that are not in the file, or not whole.
    cut: u64,
    budget: u64,
}

impl<'a> Survey<'a> {
    /// Counts everything but the refcounts' own clusters.
    ///
    /// # Errors
    /// `Corrupt` for a table that makes no sense, `Unsupported` for more than can be counted, or the host's.
    pub fn take(header: &'a Header, file: &'a ImageFile) -> Result<Self, BlockError> {
        Self::take_within(header, file, file.len_bytes().saturating_mul(4).saturating_add(MIN_BUDGET_BYTES))
    }

    /// The same with at most `budget` bytes of tables, else it is `Unsupported`.
    fn take_within(header: &'a Header, file: &'a ImageFile, budget: u64) -> Result<Self, BlockError> {
        let clusters = file.len_bytes().div_ceil(header.layout.cluster_bytes());
        if clusters > MAX_CLUSTERS {
            return Err(BlockError::new(BlockErrorKind::Unsupported, "the image has too many clusters to count"));
        }
        // The file may end where a cluster would begin that was given out and not written.
        let mut survey =
            Self { header, file, counts: vec![0; clusters as usize + 1], sole: Vec::new(), cut: 0, budget };
        survey.count_sole(0, 1)?;
        survey.count_tree(header.l1_offset, header.l1_entries, header.size_bytes)?;
        if let Some(keys) = header.encryption {
            survey.count_sole(keys.start, keys.len)?;
        }
        let (entries, len) = snapshots::read(header, file)?;
        survey.count_sole(header.snapshots_offset, len)?;
        for entry in entries {
            check_l1(&header.layout, entry.l1_offset, entry.l1_entries, file.len_bytes())?;
            survey.count_tree(entry.l1_offset, entry.l1_entries, entry.snapshot.disk_bytes)?;
        }
        Ok(survey)
    }

    /// The counts, without the cluster behind the end of the file where that is unused.
    pub fn into_counts(mut self) -> Vec<u32> {
        if self.counts.last() == Some(&0) {
            self.counts.pop();
        }
        self.counts
    }

    /// Counts a use of each cluster of a range of the file.
    fn count(&mut self, offset: u64, len: u64) -> Result<(), BlockError> {
        if len == 0 {
            return Ok(());
        }
        let bits = self.header.layout.cluster_bits;
        let last = offset.checked_add(len - 1).map(|last| last >> bits);
        for cluster in offset >> bits..=last.unwrap_or(u64::MAX) {
            match self.counts.get_mut(cluster as usize) {
                Some(count) => *count = count.saturating_add(1),
                None => return Err(corrupt(format!("{offset:#x} is behind the end of the image"))),
            }
        }
        Ok(())
    }

    /// The same for a range that nothing else may use.
    fn count_sole(&mut self, offset: u64, len: u64) -> Result<(), BlockError> {
        self.count(offset, len)?;
        if let Some(last) = len.checked_sub(1) {
            let bits = self.header.layout.cluster_bits;
            self.sole.push(offset >> bits..(offset.saturating_add(last) >> bits) + 1);
        }
        Ok(())
    }

    /// Clusters that only one table should use, and something else does.
    pub fn shared_tables(&self) -> u64 {
        let count = |cluster: u64| self.counts.get(cluster as usize).copied().unwrap_or(0);
        self.sole.iter().cloned().flatten().filter(|cluster| count(*cluster) > 1).count() as u64
    }

    fn spend(&mut self, bytes: u64) -> Result<(), BlockError> {
        self.budget = self.budget.checked_sub(bytes).ok_or_else(|| {
            BlockError::new(BlockErrorKind::Unsupported, "the image has too many tables to count its clusters")
        })?;
        Ok(())
    }

    fn table(&mut self, offset: u64) -> Result<Vec<u8>, BlockError> {
        let bytes = self.header.layout.cluster_bytes();
        if !offset.is_multiple_of(bytes) {
            return Err(corrupt(format!("a table is said to be at {offset:#x}")));
        }
        self.spend(bytes)?;
        self.file.read_metadata(offset, self.header.layout.table_bytes(), "table")
    }

    /// The entries of an L1 table that name L2 tables, with their numbers.
    fn l2_tables(&mut self, offset: u64, entries: u64) -> Result<Vec<(u64, u64)>, BlockError> {
        self.spend(entries * 8)?;
        let bytes = self.file.read_bytes(offset, (entries * 8) as usize)?;
        let entries = bytes.chunks_exact(8).map(|entry| be64(entry, 0));
        let used: Vec<(u64, u64)> = (0u64..).zip(entries).filter(|(_, entry)| *entry != 0).collect();
        // Reading the disk refuses them, too.
        if let Some((_, entry)) = used.iter().find(|(_, entry)| entry & !(OFFSET_MASK | COPIED) != 0) {
            return Err(corrupt(format!("L1 entry {entry:#x} has unknown bits")));
        }
        Ok(used.into_iter().filter(|(_, entry)| entry & OFFSET_MASK != 0).collect())
    }

    /// Counts what the tree of a disk of `disk_bytes` uses.
    fn count_tree(&mut self, offset: u64, entries: u64, disk_bytes: u64) -> Result<(), BlockError> {
        let layout = self.header.layout;
        self.count_sole(offset, entries * 8)?;
        let mut seen = HashSet::new();
        for (number, entry) in self.l2_tables(offset, entries)? {
            let table = entry & OFFSET_MASK;
            if !seen.insert(table) {
                return Err(corrupt(format!("the L2 table at {table:#x} is used twice")));
            }
            let bytes = self.table(table)?;
            self.count(table, 1)?;
            for index in 0..layout.l2_entries() {
                let shown_bytes = layout.shown_bytes(number * layout.l2_entries() + index, disk_bytes);
                self.count_data(&layout.entry(&bytes, index)?, shown_bytes)?;
            }
        }
        Ok(())
    }

    /// Counts the host clusters of a guest cluster, of which the disk shows `shown_bytes`.
    fn count_data(&mut self, entry: &Entry, shown_bytes: u64) -> Result<(), BlockError> {
        let layout = self.header.layout;
        let Some((first, clusters)) = entry.host_clusters(&layout) else { return Ok(()) };
        let (start, stored_bytes) = match entry {
            Entry::Standard(entry) => (entry.host.unwrap_or(0), entry.stored_bytes(&layout, shown_bytes)),
            // Where in its last sector it ends only unpacking can tell.
            Entry::Compressed(data) => {
                let end = data.offset_bytes + data.len_bytes;
                (data.offset_bytes, (end - SECTOR_BYTES).saturating_sub(data.offset_bytes) + 1)
            }
        };
        if shown_bytes == 0 || self.file.check_stored(start, stored_bytes).is_ok() {
            return self.count(first << layout.cluster_bits, clusters << layout.cluster_bits);
        }
        self.cut = self.cut.saturating_add(1);
        for cluster in first..first + clusters {
            if let Some(count) = self.counts.get_mut(cluster as usize) {
                *count = count.saturating_add(1);
            }
        }
        Ok(())
    }

    /// Refuses a file that was cut short: what is written behind its end would stand where data is missing, and nothing
    /// would tell of the loss any more.
    ///
    /// # Errors
    /// `Corrupt`.
    pub fn require_whole(&self) -> Result<(), BlockError> {
        match self.cut {
            0 => Ok(()),
            cut => Err(corrupt(format!("the file was cut short: {cut} clusters of data are behind its end"))),
        }
    }

    fn count_of(&self, offset: u64) -> Option<u32> {
        self.counts.get((offset >> self.header.layout.cluster_bits) as usize).copied()
    }

    /// Compares the marks "used once" of the active tables with the counts, and corrects them if asked to. Returns
    /// how many said too much.
    pub fn marks(&mut self, correct: bool) -> Result<Marks, BlockError> {
        let layout = self.header.layout;
        let mut marks = Marks::default();
        for (number, entry) in self.l2_tables(self.header.l1_offset, self.header.l1_entries)? {
            let mark = self.mark_of(entry);
            marks.wrong += self.judge(self.header.l1_offset + number * 8, entry, mark, correct)?;
            let table = entry & OFFSET_MASK;
            let bytes = self.table(table)?;
            for index in 0..layout.l2_entries() {
                let within = index * layout.entry_bytes() as u64;
                let word = be64(&bytes, within as usize);
                match layout.entry(&bytes, index)? {
                    Entry::Standard(Standard { host: None, .. }) => {}
                    Entry::Standard(_) => {
                        marks.wrong += self.judge(table + within, word, self.mark_of(word), correct)?;
                    }
                    Entry::Compressed(_) => marks.compressed += self.judge(table + within, word, 0, correct)?,
                }
            }
        }
        Ok(marks)
    }

    /// The mark that a table or a cluster which is not compressed should have. Of those behind the end of a file that was
    /// cut short nothing is known.
    fn mark_of(&self, word: u64) -> u64 {
        match self.count_of(word & OFFSET_MASK) {
            None => word & COPIED,
            Some(1) => COPIED,
            Some(_) => 0,
        }
    }

    /// 1 where the entry at `at` of the file is marked and should not be; corrects it if asked to.
    fn judge(&self, at: u64, word: u64, mark: u64, correct: bool) -> Result<u64, BlockError> {
        if correct && word & COPIED != mark {
            self.file.write_bytes(at, &(word & !COPIED | mark).to_be_bytes())?;
        }
        Ok(u64::from(word & COPIED > mark))
    }

    /// Unpacks every compressed cluster that the disk shows, one after the other, and says how many can not be. Takes
    /// as long as reading them, and little memory. Those of encrypted images are not supported and left out.
    ///
    /// # Errors
    /// As [`take`](Self::take).
    fn count_unpackable(&mut self) -> Result<u64, BlockError> {
        let layout = self.header.layout;
        if self.header.encryption.is_some() {
            return Ok(0);
        }
        let unpacker = Unpacker::new(&layout, self.header.compression);
        let mut found = 0;
        for (number, entry) in self.l2_tables(self.header.l1_offset, self.header.l1_entries)? {
            let bytes = self.table(entry & OFFSET_MASK)?;
            for index in 0..layout.l2_entries() {
                let shown_bytes = layout.shown_bytes(number * layout.l2_entries() + index, self.header.size_bytes);
                let Entry::Compressed(data) = layout.entry(&bytes, index)? else { continue };
                if shown_bytes == 0 {
                    break;
                }
                match unpacker.cluster(&data, self.file).map(drop) {
                    Err(error) if error.kind() == BlockErrorKind::Corrupt => found += 1,
                    unpacked => unpacked?,
                }
            }
        }
        Ok(found)
    }

    /// As [`compare`](Self::compare), and looks into what is compressed.
    ///
    /// # Errors
    /// As [`take`](Self::take).
    pub fn examine(&mut self) -> Result<CheckReport, BlockError> {
        let report = self.compare()?;
        Ok(CheckReport { unpackable_clusters: self.count_unpackable()?, ..report })
    }

    /// Compares the counts with the refcounts of the image.
    pub fn compare(&mut self) -> Result<CheckReport, BlockError> {
        let layout = self.header.layout;
        self.header.check_refcount_table(self.file.len_bytes())?;
        let (offset, clusters) = (self.header.refcount_table_offset, self.header.refcount_table_clusters);
        let bytes = self.file.read_bytes(offset, (clusters << layout.cluster_bits) as usize)?;
        self.count_sole(offset, clusters << layout.cluster_bits)?;
        let table: Vec<u64> = bytes.chunks_exact(8).map(|entry| be64(entry, 0)).collect();
        for block in table.iter().filter(|block| **block != 0) {
            self.count_sole(*block, 1)?;
        }
        let marks = self.marks(false)?;
        let mut report = CheckReport {
            wrong_marks: marks.wrong,
            marked_compressed: marks.compressed,
            shared_tables: self.shared_tables(),
            cut_clusters: self.cut,
            ..CheckReport::default()
        };
        let entries = layout.block_entries();
        for (number, block) in (0u64..).zip(table) {
            let block = if block == 0 { Vec::new() } else { self.table(block)? };
            let first = number.saturating_mul(entries);
            let end = if block.is_empty() {
                (self.counts.len() as u64).min(first.saturating_add(entries))
            } else {
                first.saturating_add(entries)
            };
            for cluster in first..end {
                // Of a file that was cut short those behind its end are the ones that are lost.
                if self.cut > 0 && cluster >= self.counts.len() as u64 {
                    break;
                }
                let used = u64::from(self.counts.get(cluster as usize).copied().unwrap_or(0));
                let counted = layout.refcount(&block, cluster - first);
                report.leaked_clusters += u64::from(counted > used);
                report.uncounted_clusters += u64::from(counted < used);
            }
        }
        Ok(report)
    }
}

#[cfg(test)]
thread_local! {
    /// To this thread every image is too large for [`require_sound`] to look at.
    pub(super) static COUNTS_NOTHING: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// Refuses to write an image in which a write could destroy somebody's data. All tables are looked at where they are
/// few: a large image would open too slowly. What the refcounts say is obeyed at each write all the same.
///
/// # Errors
/// `Corrupt`, or the host's.
pub(super) fn require_sound(header: &Header, file: &ImageFile) -> Result<(), BlockError> {
    if file.len_bytes() >> header.layout.cluster_bits > MAX_OPENED_CLUSTERS {
        return Ok(());
    }
    #[cfg(test)]
    if COUNTS_NOTHING.get() {
        return Ok(());
    }
    let survey = Survey::take_within(header, file, MAX_OPENED_BYTES);
    let report = match survey.and_then(|mut survey| survey.compare()) {
        Err(error) if error.kind() == BlockErrorKind::Unsupported => return Ok(()),
        Err(error) => {
            return Err(BlockError::new(error.kind(), format!("{error}; the image can be opened read-only")));
        }
        Ok(report) => report,
    };
    if report.cut_clusters > 0 {
        let context = format!("the file was cut short: {} clusters of data are behind its end", report.cut_clusters);
        return Err(corrupt(format!("{context}; the image can be opened read-only")));
    }
    if report.is_dangerous() {
        let advice = "it can be repaired, or opened read-only";
        return Err(corrupt(format!(
            "the image's counts of clusters are wrong, and a write could destroy data; {advice}"
        )));
    }
    Ok(())
}

/// Writes refcounts for `counts` behind everything else of the file: blocks, then the table that names them. Returns
/// offset and clusters of the table, which nothing names yet.
///
/// # Errors
/// `Unsupported` where a count or the table has no room, or the host's.
pub(super) fn write_refcounts(layout: &Layout, counts: &[u32], file: &ImageFile) -> Result<(u64, u64), BlockError> {
    let used = counts.len() as u64;
    let entries = layout.block_entries();
    // Both only grow until they count themselves, and the table's limit ends it.
    let (mut blocks, mut clusters) = (1u64, 1u64);
    loop {
        let needed = (used + blocks + clusters).div_ceil(entries);
        let table = (needed * 8).div_ceil(layout.cluster_bytes());
        if table << layout.cluster_bits > MAX_REFCOUNT_TABLE_BYTES {
            return Err(BlockError::new(BlockErrorKind::Unsupported, "the image has too many clusters to count"));
        }
        if needed <= blocks && table <= clusters {
            break;
        }
        (blocks, clusters) = (blocks.max(needed), clusters.max(table));
    }
    let end = used + blocks + clusters;
    file.grow(end << layout.cluster_bits)?;
    let mut table = Vec::new();
    for block in 0..blocks {
        let mut bytes = vec![0; layout.table_bytes()];
        for index in 0..entries {
            let cluster = block * entries + index;
            let count = match counts.get(cluster as usize) {
                Some(count) => u64::from(*count),
                None => u64::from(cluster < end),
            };
            if count > layout.max_refcount() {
                return Err(BlockError::new(
                    BlockErrorKind::Unsupported,
                    "a cluster is used more often than can be counted",
                ));
            }
            let (at, value) = layout.encode_refcount(&bytes, index, count);
            if let Some(place) = bytes.get_mut(at..at + value.len()) {
                place.copy_from_slice(&value);
            }
        }
        let host = (used + block) << layout.cluster_bits;
        file.write_bytes(host, &bytes)?;
        table.extend(host.to_be_bytes());
    }
    table.resize((clusters << layout.cluster_bits) as usize, 0);
    let offset = (used + blocks) << layout.cluster_bits;
    file.write_bytes(offset, &table)?;
    Ok((offset, clusters))
}

/// Counts all clusters of an image that was not closed in order, writes new refcounts, and only then takes the mark
/// "dirty" away, with the switch to them. The old refcounts' clusters become free.
///
/// # Errors
/// As [`Survey::take`] and [`write_refcounts`], with advice.
pub(super) fn repair(header: &mut Header, file: &ImageFile) -> Result<(), BlockError> {
    let advice = |error: BlockError| {
        let context = format!(
            "the image was not closed in order and can not be repaired here ({error}); it can be opened read-only"
        );
        BlockError::new(error.kind(), context)
    };
    let mut survey = Survey::take(header, file).map_err(advice)?;
    if survey.shared_tables() > 0 {
        return Err(advice(corrupt("tables share room")));
    }
    survey.require_whole().map_err(advice)?;
    survey.marks(true).map_err(advice)?;
    let counts = survey.into_counts();
    header.incompatible &= !(DIRTY | CORRUPT);
    switch_refcounts(header, counts, file).map_err(advice)
}

/// Writes refcounts for `counts`, and then makes the header name them and what else of `header` changed with them: the
/// L1 table and the incompatible features. The old refcounts' clusters become free.
///
/// # Errors
/// As [`write_refcounts`].
pub(super) fn switch_refcounts(header: &mut Header, counts: Vec<u32>, file: &ImageFile) -> Result<(), BlockError> {
    let (offset, clusters) = write_refcounts(&header.layout, &counts, file)?;
    file.sync()?;
    (header.refcount_table_offset, header.refcount_table_clusters) = (offset, clusters);
    // At most MAX_L1_BYTES / 8, and MAX_REFCOUNT_TABLE_BYTES in clusters.
    let mut fields = (header.l1_entries as u32).to_be_bytes().to_vec();
    fields.extend(header.l1_offset.to_be_bytes());
    fields.extend(offset.to_be_bytes());
    fields.extend((clusters as u32).to_be_bytes());
    fields.extend(header.snapshots.to_be_bytes());
    fields.extend(header.snapshots_offset.to_be_bytes());
    if header.layout.version >= 3 {
        fields.extend(header.incompatible.to_be_bytes());
    }
    // 44 bytes of one sector: all of them or none.
    file.write_bytes(36, &fields)?;
    file.sync()
}
