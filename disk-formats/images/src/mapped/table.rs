//! The pages of a block map that are in memory.
//!
//! A page is clean, changed, or being committed (and perhaps changed again meanwhile). Only clean ones leave.

use std::collections::BTreeMap;

/// Pages held at most while they are clean, of at most 4 KiB each: 8 MiB.
const MAX_PAGES: usize = 2048;
/// From so many changed pages on, the next allocation commits first.
pub(crate) const MAX_CHANGED: usize = 512;

#[derive(Debug)]
struct Page {
    bytes: Vec<u8>,
    changed: bool,
    committing: bool,
    used: u64,
}

/// What a commit writes.
#[derive(Clone, Debug)]
pub(crate) struct PageCopy {
    pub(crate) page: u64,
    pub(crate) bytes: Vec<u8>,
}

/// The cache, and where the next block goes.
#[derive(Debug)]
pub(crate) struct Table {
    pages: BTreeMap<u64, Page>,
    clock: u64,
    /// Offset in the file at which the next block is put.
    pub(crate) end_bytes: u64,
}

impl Table {
    pub(crate) fn new(end_bytes: u64) -> Self {
        Self { pages: BTreeMap::new(), clock: 0, end_bytes }
    }

    /// The bytes of a page, if it is here.
    pub(crate) fn get(&mut self, page: u64) -> Option<&[u8]> {
        self.clock += 1;
        let page = self.pages.get_mut(&page)?;
        page.used = self.clock;
        Some(&page.bytes)
    }

    /// Keeps a page that was read.
    pub(crate) fn insert(&mut self, page: u64, bytes: Vec<u8>) {
        if self.pages.len() >= MAX_PAGES {
            let clean = self.pages.iter().filter(|(_, page)| !page.changed && !page.committing);
            if let Some(oldest) = clean.min_by_key(|(_, page)| page.used).map(|(number, _)| *number) {
                self.pages.remove(&oldest);
            }
        }
        self.clock += 1;
        self.pages.insert(page, Page { bytes, changed: false, committing: false, used: self.clock });
    }

    /// Changes an entry of a page that is here; false where it is not.
    pub(crate) fn set(&mut self, page: u64, at: usize, entry: &[u8]) -> bool {
        let Some(page) = self.pages.get_mut(&page) else { return false };
        let Some(place) = at.checked_add(entry.len()).and_then(|end| page.bytes.get_mut(at..end)) else {
            return false;
        };
        place.copy_from_slice(entry);
        page.changed = true;
        true
    }

    /// Changed pages.
    pub(crate) fn count_changed(&self) -> usize {
        self.pages.values().filter(|page| page.changed).count()
    }

    /// Whether everything here is durable.
    pub(crate) fn is_durable(&self) -> bool {
        self.pages.values().all(|page| !page.changed && !page.committing)
    }

    /// Copies of all changed pages, for a commit that [`end_commit`](Self::end_commit) ends.
    pub(crate) fn begin_commit(&mut self) -> Vec<PageCopy> {
        let mut copies = Vec::new();
        for (number, page) in &mut self.pages {
            if page.changed {
                page.changed = false;
                page.committing = true;
                copies.push(PageCopy { page: *number, bytes: page.bytes.clone() });
            }
        }
        copies
    }

    /// Ends a commit; after a failure its pages count as changed again.
    pub(crate) fn end_commit(&mut self, succeeded: bool) {
        for page in self.pages.values_mut() {
            page.changed |= page.committing && !succeeded;
            page.committing = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changed_pages_stay_until_they_are_durable() {
        let mut table = Table::new(0);
        for page in 0..MAX_PAGES as u64 {
            table.insert(page, vec![0; 8]);
        }
        assert!(table.set(0, 4, &[1, 2, 3, 4]));
        assert!(!table.set(0, 5, &[0; 4]) && !table.set(9999, 0, &[0; 4]));
        table.get(1).unwrap();
        table.insert(10_000, vec![0; 8]);
        assert!(table.get(0).is_some() && table.get(1).is_some() && table.get(2).is_none());
        assert_eq!((table.count_changed(), table.is_durable()), (1, false));
        let copies = table.begin_commit();
        assert_eq!((copies.len(), copies[0].page, &copies[0].bytes[..]), (1, 0, &[0, 0, 0, 0, 1, 2, 3, 4][..]));
        assert_eq!((table.count_changed(), table.is_durable()), (0, false));
        // A change during the commit is not covered by it.
        table.set(0, 0, &[9; 4]);
        table.end_commit(true);
        assert_eq!(table.count_changed(), 1);
        table.begin_commit();
        table.end_commit(false);
        assert_eq!(table.count_changed(), 1);
        table.begin_commit();
        table.end_commit(true);
        assert!(table.is_durable());
    }
}
