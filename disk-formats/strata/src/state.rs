//! What changed since the last checkpoint: the overlay over the map.

use std::collections::{BTreeMap, HashMap, btree_map};
use std::sync::Arc;

use benchtop_block::BlockError;

use crate::layout::{Address, Block, Pointer};
use crate::log::Log;
use crate::pages::{Root, Store};
use crate::points::{Grave, Points, Retention};

/// A guest block that changed since the last checkpoint.
#[derive(Clone, Copy, Debug)]
pub struct Fresh {
    /// Its newest content; [`Pointer::NONE`] for zeroes.
    pub pointer: Pointer,
    /// Of two changes the one with the larger order counts, whichever arrives first.
    pub order: u64,
    /// The record that made the latest change.
    pub seq: u64,
    /// The record that first changed it since the checkpoint: the death of what the map has.
    pub first: u64,
}

/// By guest block, in order: a discard asks for ranges.
pub type Overlay = BTreeMap<u64, Fresh>;

/// What changed over the map.
#[derive(Debug, Default)]
pub struct Changes {
    /// What the checkpoint under way is putting into the map.
    pub frozen: Option<Arc<Overlay>>,
    /// What changed since.
    pub overlay: Overlay,
    /// Blocks that were born and died since the checkpoint.
    pub deaths: Vec<Grave>,
    /// Counts changes.
    pub order: u64,
}

/// Everything that changes with every write, under one lock. Nothing is read or written under it.
#[derive(Debug)]
pub struct State {
    /// The map of the last checkpoint.
    pub root: Root,
    /// What changed since.
    pub changes: Changes,
    /// Sealed blocks that are not in the file yet.
    pub pending: HashMap<Address, Arc<Block>>,
    /// The log's end.
    pub log: Log,
    /// Restore points.
    pub points: Points,
    /// Which are kept.
    pub retention: Retention,
    /// Records since the checkpoint, and their numbers.
    pub records: Vec<(Address, u64)>,
    /// Blocks appended since the checkpoint.
    pub appended: u64,
    /// The newest record in the file.
    pub written_seq: u64,
    /// Why nothing may be written until the disk is opened anew.
    pub poisoned: bool,
}

impl State {
    /// Of a map nothing was changed in since.
    pub fn new(root: Root, log: Log, points: Points, retention: Retention) -> Self {
        Self {
            root,
            changes: Changes::default(),
            pending: HashMap::new(),
            written_seq: log.seq(),
            log,
            points,
            retention,
            records: Vec::new(),
            appended: 0,
            poisoned: false,
        }
    }
}

impl Changes {
    /// What is known of a guest block without looking into the map.
    pub fn fresh(&self, lba: u64) -> Option<Fresh> {
        self.overlay.get(&lba).or_else(|| self.frozen.as_ref()?.get(&lba)).copied()
    }

    /// Which guest blocks of a range changed since the checkpoint, ascending.
    pub fn within(&self, lba: u64, count: u64) -> Vec<u64> {
        let range = lba..lba.saturating_add(count);
        let frozen = self.frozen.iter().flat_map(|frozen| frozen.range(range.clone()));
        let mut changed: Vec<u64> = self.overlay.range(range.clone()).chain(frozen).map(|(lba, _)| *lba).collect();
        changed.sort_unstable();
        changed.dedup();
        changed
    }

    /// Guest blocks from `lba` up to `end` read as zeroes: those that changed, and those that the map has.
    pub fn zero(&mut self, store: &Store, root: &Root, lba: u64, end: u64, seq: u64) -> Result<(), BlockError> {
        self.order += 1;
        let order = self.order;
        for changed in self.within(lba, end - lba) {
            self.change(changed, Pointer::NONE, order, seq);
        }
        let mut from = lba;
        while let Some((mapped, _)) = store.next_mapped(root, from, end)? {
            self.change(mapped, Pointer::NONE, order, seq);
            from = mapped + 1;
        }
        Ok(())
    }

    /// A guest block changed: `order` says when, `seq` in which record.
    pub fn change(&mut self, lba: u64, pointer: Pointer, order: u64, seq: u64) {
        let mut dead = Pointer::NONE;
        let mut death = seq;
        match self.overlay.entry(lba) {
            btree_map::Entry::Vacant(place) => {
                place.insert(Fresh { pointer, order, seq, first: seq });
            }
            btree_map::Entry::Occupied(mut place) => {
                let fresh = place.get_mut();
                fresh.first = fresh.first.min(seq);
                if fresh.order > order {
                    (dead, death) = (pointer, fresh.seq);
                } else {
                    dead = fresh.pointer;
                    *fresh = Fresh { pointer, order, seq, first: fresh.first };
                }
            }
        }
        if !dead.address.is_none() {
            self.deaths.push(Grave { address: dead.address, birth: dead.birth, death });
        }
    }

    /// A checkpoint failed: what was frozen is fresh again.
    pub fn thaw(&mut self) {
        let Some(frozen) = self.frozen.take() else { return };
        for (lba, old) in frozen.iter() {
            match self.overlay.entry(*lba) {
                btree_map::Entry::Vacant(place) => {
                    place.insert(*old);
                }
                btree_map::Entry::Occupied(mut place) => {
                    let Pointer { address, birth, .. } = old.pointer;
                    if !address.is_none() {
                        self.deaths.push(Grave { address, birth, death: place.get().first });
                    }
                    place.get_mut().first = old.first;
                }
            }
        }
    }
}
