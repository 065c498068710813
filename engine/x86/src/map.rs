//! What is plain memory, by guest-physical address.

#![expect(unsafe_code, reason = "a slot's host address becomes pages; SAFETY says why they stay mapped")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use benchtop_memory::SharedRegion;

use crate::memory::{HostPage, PAGE, PAGE_BITS};

/// A run of guest-physical addresses that is memory.
#[derive(Clone, Debug)]
pub struct Slot {
    /// Its number.
    pub number: u32,
    /// First address, in whole pages.
    pub gpa: u64,
    /// Bytes, in whole pages.
    pub len_bytes: u64,
    /// The memory,
    pub region: SharedRegion,
    /// and where in it the slot begins, in whole pages.
    pub offset_bytes: u64,
    /// Stores go outside.
    pub read_only: bool,
    /// Pages that were written, if anybody asks: a bit each.
    pub dirty: Option<Arc<[AtomicU64]>>,
}

impl Slot {
    /// Whether the slot lies in its region and is made of whole pages.
    pub fn is_sound(&self) -> bool {
        (self.gpa | self.len_bytes | self.offset_bytes) & (PAGE - 1) == 0
            && self.len_bytes > 0
            && self.gpa.checked_add(self.len_bytes).is_some()
            && self.offset_bytes.checked_add(self.len_bytes).is_some_and(|end| end <= self.region.len() as u64)
    }

    /// Notes that a page is written.
    fn mark(&self, page: u64) {
        if let Some(dirty) = &self.dirty
            && let Some(word) = dirty.get((page / 64) as usize)
        {
            let bit = 1 << (page % 64);
            // Most are written again and again, and an atomic change takes long.
            if word.load(Ordering::Relaxed) & bit == 0 {
                word.fetch_or(bit, Ordering::Relaxed);
            }
        }
    }
}

/// A page of guest-physical addresses.
#[derive(Clone, Copy, Debug)]
pub struct Page {
    /// Its memory.
    pub host: HostPage,
    /// It can be written.
    pub writable: bool,
}

/// All memory slots, which do not overlap.
#[derive(Clone, Debug, Default)]
pub struct Map {
    /// Ascending.
    slots: Vec<Slot>,
}

impl Map {
    /// Of these slots; those that are not sound, or overlap one before them, are left out.
    pub fn new(slots: impl IntoIterator<Item = Slot>) -> Self {
        let mut slots: Vec<Slot> = slots.into_iter().filter(Slot::is_sound).collect();
        slots.sort_by_key(|slot| slot.gpa);
        let mut end = 0;
        slots.retain(|slot| {
            let apart = slot.gpa >= end;
            if apart {
                end = slot.gpa + slot.len_bytes;
            }
            apart
        });
        Self { slots }
    }

    /// The slots.
    pub fn slots(&self) -> &[Slot] {
        &self.slots
    }

    /// The page that an address is in, if it is memory. `write`: it is going to be written.
    pub fn page(&self, gpa: u64, write: bool) -> Option<Page> {
        let after = self.slots.partition_point(|slot| slot.gpa <= gpa);
        let slot = self.slots.get(after.checked_sub(1)?)?;
        let offset = gpa - slot.gpa;
        if offset >= slot.len_bytes {
            return None;
        }
        let page = offset >> PAGE_BITS;
        if write && !slot.read_only {
            slot.mark(page);
        }
        let address = slot.region.host_address() + slot.offset_bytes + (page << PAGE_BITS);
        // SAFETY: the slot lies within its region (`is_sound`), which is mapped as long as the map is kept.
        let host = unsafe { HostPage::at(address as usize) };
        Some(Page { host, writable: !slot.read_only })
    }
}
