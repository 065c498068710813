//! A bounded cache of L2 tables and refcount blocks, which remembers what the file does not hold yet.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use benchtop_block::BlockError;

use crate::error::corrupt;
use crate::file::ImageFile;

/// Room for tables that could be read again, in bytes; at least [`MIN_TABLES`] of them.
const CACHE_BYTES: usize = 32 << 20;
/// Tables kept whatever their size.
const MIN_TABLES: usize = 8;
/// Changes are written in multiples of this many bytes, so that no sector is written in part.
const WRITE_BYTES: usize = 512;

/// What a table is, which decides when it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A refcount block.
    Refcounts,
    /// An L2 table.
    Mapping,
}

#[derive(Debug)]
struct Slot {
    kind: Kind,
    bytes: Arc<Vec<u8>>,
    used: u64,
    /// Bytes that changed since the last commit began.
    changed: Option<Range<usize>>,
    /// Bytes that a commit is writing.
    writing: Option<Range<usize>>,
}

/// A part of a table to be written.
#[derive(Debug)]
pub(super) struct TableWrite {
    table: u64,
    range: Range<usize>,
    bytes: Arc<Vec<u8>>,
}

impl TableWrite {
    /// Writes it.
    ///
    /// # Errors
    /// The host's.
    pub fn write(&self, file: &ImageFile) -> Result<(), BlockError> {
        let part = self.bytes.get(self.range.clone()).unwrap_or_default();
        file.write_bytes(self.table + self.range.start as u64, part)
    }
}

/// The cache, by offset in the file.
#[derive(Debug)]
pub(super) struct Tables {
    table_bytes: usize,
    slots: BTreeMap<u64, Slot>,
    /// Those of `slots` that are not clean.
    unclean: BTreeSet<u64>,
    clock: u64,
}

fn join(a: Option<Range<usize>>, b: Option<Range<usize>>) -> Option<Range<usize>> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.start.min(b.start)..a.end.max(b.end)),
        (a, b) => a.or(b),
    }
}

impl Tables {
    /// For tables of `table_bytes`, a cluster.
    pub fn new(table_bytes: usize) -> Self {
        Self { table_bytes, slots: BTreeMap::new(), unclean: BTreeSet::new(), clock: 0 }
    }

    fn capacity(&self) -> usize {
        (CACHE_BYTES / self.table_bytes).max(MIN_TABLES)
    }

    /// So much is not in the file that a commit is due. What one step of a request can add fits beside it.
    pub fn is_commit_due(&self) -> bool {
        self.unclean.len() > self.capacity() / 4
    }

    /// Whether the file holds all, and no commit is under way.
    pub fn is_clean(&self) -> bool {
        self.unclean.is_empty()
    }

    /// The table at `offset`, a multiple of the cluster.
    ///
    /// # Errors
    /// `Corrupt` for one that is not in the file, or the host's.
    pub fn get(&mut self, offset: u64, kind: Kind, file: &ImageFile) -> Result<&Arc<Vec<u8>>, BlockError> {
        self.slot(offset, kind, file).map(|slot| &slot.bytes)
    }

    fn slot(&mut self, offset: u64, kind: Kind, file: &ImageFile) -> Result<&mut Slot, BlockError> {
        self.clock += 1;
        if !self.slots.contains_key(&offset) {
            if offset == 0 || !offset.is_multiple_of(self.table_bytes as u64) {
                return Err(corrupt(format!("a table is said to be at {offset:#x}")));
            }
            // All of it: what lacked would say that clusters are not there, or not used.
            let bytes = Arc::new(file.read_metadata(offset, self.table_bytes, "table")?);
            self.make_room();
            self.slots.insert(offset, Slot { kind, bytes, used: 0, changed: None, writing: None });
        }
        let slot = self.slots.get_mut(&offset).ok_or_else(|| corrupt("a table vanished"))?;
        slot.used = self.clock;
        Ok(slot)
    }

    /// Drops a quarter of the tables, those least recently used, when there are too many. What is not clean stays.
    fn make_room(&mut self) {
        if self.slots.len() < self.capacity() {
            return;
        }
        let clean = self.slots.iter().filter(|(offset, _)| !self.unclean.contains(offset));
        let mut clean: Vec<(u64, u64)> = clean.map(|(offset, slot)| (slot.used, *offset)).collect();
        clean.sort_unstable();
        for (_, offset) in clean.into_iter().take((self.capacity() / 4).max(1)) {
            self.slots.remove(&offset);
        }
    }

    /// A new table, of which the file holds nothing.
    pub fn insert(&mut self, offset: u64, kind: Kind, bytes: Vec<u8>) {
        self.make_room();
        self.clock += 1;
        let changed = Some(0..bytes.len());
        let slot = Slot { kind, bytes: Arc::new(bytes), used: self.clock, changed, writing: None };
        self.slots.insert(offset, slot);
        self.unclean.insert(offset);
    }

    /// Replaces `bytes` at `at` of a table.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn modify(
        &mut self,
        offset: u64,
        kind: Kind,
        at: usize,
        bytes: &[u8],
        file: &ImageFile,
    ) -> Result<(), BlockError> {
        let slot = self.slot(offset, kind, file)?;
        let end = at.saturating_add(bytes.len());
        // A commit that still writes the old bytes has its own reference, and they are copied then.
        let Some(place) = Arc::make_mut(&mut slot.bytes).get_mut(at..end) else {
            return Err(corrupt(format!("entry {at} is not in a table")));
        };
        place.copy_from_slice(bytes);
        let range = at - at % WRITE_BYTES..end.next_multiple_of(WRITE_BYTES);
        slot.changed = join(slot.changed.take(), Some(range));
        self.unclean.insert(offset);
        Ok(())
    }

    /// Forgets a table that nothing refers to any more.
    pub fn forget(&mut self, offset: u64) {
        self.slots.remove(&offset);
        self.unclean.remove(&offset);
    }

    /// All of one kind that the file does not certainly hold; it stays so.
    pub fn unclean(&self, kind: Kind) -> Vec<TableWrite> {
        let slots = self.unclean.iter().filter_map(|offset| self.slots.get(offset).map(|slot| (*offset, slot)));
        let slots = slots.filter(|(_, slot)| slot.kind == kind);
        let write = |(table, slot): (u64, &Slot)| {
            let range = join(slot.writing.clone(), slot.changed.clone())?;
            Some(TableWrite { table, range, bytes: slot.bytes.clone() })
        };
        slots.filter_map(write).collect()
    }

    /// What a commit must write of one kind. Only one commit runs at a time.
    pub fn begin(&mut self, kind: Kind) -> Vec<TableWrite> {
        let mut writes = Vec::new();
        for offset in &self.unclean {
            let Some(slot) = self.slots.get_mut(offset).filter(|slot| slot.kind == kind) else { continue };
            slot.writing = join(slot.writing.take(), slot.changed.take());
            if let Some(range) = slot.writing.clone() {
                writes.push(TableWrite { table: *offset, range, bytes: slot.bytes.clone() });
            }
        }
        writes
    }

    /// The commit ended: what it wrote is clean, or is still to be written.
    pub fn end(&mut self, durable: bool) {
        for offset in &self.unclean {
            let Some(slot) = self.slots.get_mut(offset) else { continue };
            let written = slot.writing.take();
            if !durable {
                slot.changed = join(slot.changed.take(), written);
            }
        }
        let slots = &self.slots;
        self.unclean.retain(|offset| slots.get(offset).is_some_and(|slot| slot.changed.is_some()));
    }
}
