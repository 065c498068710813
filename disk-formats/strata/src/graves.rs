//! Blocks that only restore points still need.
//!
//! The newest are in the head. Older ones are in lists, each in some blocks of its own, of which memory and the head
//! hold only a line: a snapshot of a large disk that was overwritten since has more of them than either should hold.

use std::collections::HashSet;

use benchtop_block::{BlockError, BlockErrorKind};
use serde::{Deserialize, Serialize};

use crate::bytes::{get_u64, put};
use crate::layout::{Address, BLOCK_BYTES, Pointer, Tag};
use crate::pages::{PageWriter, Store};
use crate::points::Points;

/// How many the head holds before they go into a list.
const RECENT_MAX: usize = 32 << 10;
/// Bytes of one in a list: address 8, birth 8, death 8.
const GRAVE_BYTES: usize = 24;

/// A block that is not needed now, but was alive in `birth..death`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grave {
    /// Which.
    pub address: Address,
    /// From this record on it was alive.
    pub birth: u64,
    /// In this one no longer.
    pub death: u64,
}

/// A list, in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListV1 {
    /// Its first block.
    address: Address,
    /// The checkpoint that wrote it.
    birth: u64,
    tag: Tag,
    /// Graves in it.
    count: u32,
    /// The first and the last death in it.
    deaths: (u64, u64),
}

impl ListV1 {
    fn bytes(&self) -> usize {
        self.count as usize * GRAVE_BYTES
    }

    /// The blocks it takes.
    fn blocks(&self) -> impl Iterator<Item = Address> + use<> {
        let first = self.address;
        let count = self.bytes().div_ceil(BLOCK_BYTES) as u64;
        (0..count).map(move |index| Address::new(first.segment(), first.slot() + index))
    }

    /// Writes graves, at most [`RECENT_MAX`] of them.
    fn write(graves: &[Grave], writer: &mut PageWriter<'_>, birth: u64) -> Result<Self, BlockError> {
        let mut bytes = vec![0; graves.len() * GRAVE_BYTES];
        for (at, grave) in (0..).step_by(GRAVE_BYTES).zip(graves) {
            put(&mut bytes, at, &grave.address.bits().to_le_bytes());
            put(&mut bytes, at + 8, &grave.birth.to_le_bytes());
            put(&mut bytes, at + 16, &grave.death.to_le_bytes());
        }
        let deaths =
            graves.iter().fold((u64::MAX, 0), |(first, last), grave| (grave.death.min(first), grave.death.max(last)));
        let (address, tag) = writer.put_list(bytes)?;
        Ok(Self { address, birth, tag, count: graves.len() as u32, deaths })
    }

    fn read(&self, store: &Store) -> Result<Vec<Grave>, BlockError> {
        let damaged = || BlockError::new(BlockErrorKind::Corrupt, "a list of a restore point's blocks is damaged");
        let mut bytes = vec![0; self.bytes()];
        for (address, part) in self.blocks().zip(bytes.chunks_mut(BLOCK_BYTES)) {
            // It was written in one go, but a part of it may have moved elsewhere.
            let offset = store.space.read().locate(address).ok_or_else(damaged)?;
            store.medium.read_at(offset, part).map_err(crate::disk::io_error("reading a list"))?;
        }
        let key = store.keys.of(self.birth).ok_or_else(damaged)?;
        if !key.open_list(self.address, &mut bytes, &self.tag) {
            return Err(damaged());
        }
        let grave = |bytes: &[u8]| Grave {
            address: Address::from_bits(get_u64(bytes, 0)),
            birth: get_u64(bytes, 8),
            death: get_u64(bytes, 16),
        };
        Ok(bytes.chunks_exact(GRAVE_BYTES).map(grave).collect())
    }

    /// Whether points that are gone may have freed something in it: only if no kept point lies between them and the
    /// first death, for what was alive at both is still needed.
    fn concerns(&self, points: &Points, gone: &[u64]) -> bool {
        let before = points.last_before(self.deaths.0);
        gone.iter().any(|gone| before.is_none_or(|before| *gone > before) && *gone < self.deaths.1)
    }
}

/// Graves as the head keeps them.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct GravesV1 {
    recent: Vec<Grave>,
    lists: Vec<ListV1>,
}

/// All of them.
#[derive(Clone, Debug, Default)]
pub struct Graves {
    saved: GravesV1,
}

impl Graves {
    /// For the head.
    pub fn save(&self) -> GravesV1 {
        self.saved.clone()
    }

    /// From a head. `None` when it contradicts itself.
    pub fn restore(saved: GravesV1) -> Option<Self> {
        let sane = |list: &ListV1| {
            let blocks = list.bytes().div_ceil(BLOCK_BYTES) as u64;
            list.count > 0
                && list.count as usize <= RECENT_MAX
                && (1..crate::layout::SEGMENT_MAX).contains(&list.address.segment())
                && list.address.slot() + blocks <= crate::layout::SEGMENT_BLOCKS
        };
        saved.lists.iter().all(sane).then_some(Self { saved })
    }

    /// How many.
    pub fn count(&self) -> u64 {
        self.saved.recent.len() as u64 + self.saved.lists.iter().map(|list| u64::from(list.count)).sum::<u64>()
    }

    /// Blocks died. Gives back those that no point needs; the others are kept in mind.
    pub fn bury(&mut self, points: &Points, dead: &[Grave]) -> Vec<Address> {
        // A block that was given up is nowhere.
        let dead = dead.iter().filter(|grave| grave.address != Pointer::LOST.address);
        let (needed, free): (Vec<Grave>, Vec<Grave>) = dead.partition(|grave| points.needs(grave.birth, grave.death));
        self.saved.recent.extend(needed);
        free.into_iter().map(|grave| grave.address).collect()
    }

    /// Gives out the blocks that no point needs any more, now that those numbered `gone` are.
    ///
    /// # Errors
    /// The host's, or `Corrupt`.
    pub fn sweep(
        &mut self,
        points: &Points,
        gone: &[u64],
        writer: &mut PageWriter<'_>,
        store: &Store,
        birth: u64,
    ) -> Result<Vec<Address>, BlockError> {
        let mut free = Vec::new();
        let mut keep = |graves: &mut Vec<Grave>| {
            graves.retain(|grave| {
                let needed = points.needs(grave.birth, grave.death);
                if !needed {
                    free.push(grave.address);
                }
                needed
            });
        };
        keep(&mut self.saved.recent);
        let mut replaced = Vec::new();
        for list in &mut self.saved.lists {
            if !list.concerns(points, gone) {
                continue;
            }
            let mut graves = list.read(store)?;
            keep(&mut graves);
            if graves.len() < list.count as usize {
                replaced.extend(list.blocks());
                *list = match graves.is_empty() {
                    true => ListV1 { count: 0, ..*list },
                    false => ListV1::write(&graves, writer, birth)?,
                };
            }
        }
        self.saved.lists.retain(|list| list.count > 0);
        free.extend(replaced);
        Ok(free)
    }

    /// Puts the oldest into lists when there are many.
    ///
    /// # Errors
    /// The host's.
    pub fn spill(&mut self, writer: &mut PageWriter<'_>, birth: u64) -> Result<(), BlockError> {
        if self.saved.recent.len() < RECENT_MAX {
            return Ok(());
        }
        // Sorted by death, so that each list concerns few points.
        self.saved.recent.sort_unstable_by_key(|grave| grave.death);
        while self.saved.recent.len() >= RECENT_MAX {
            let some: Vec<Grave> = self.saved.recent.drain(..RECENT_MAX).collect();
            self.saved.lists.push(ListV1::write(&some, writer, birth)?);
        }
        Ok(())
    }

    /// Takes these out: they are alive again. What lists are replaced for it gives blocks back.
    ///
    /// # Errors
    /// The host's, or `Corrupt`.
    pub fn raise(
        &mut self,
        alive: &HashSet<Address>,
        writer: &mut PageWriter<'_>,
        store: &Store,
        birth: u64,
    ) -> Result<Vec<Address>, BlockError> {
        self.saved.recent.retain(|grave| !alive.contains(&grave.address));
        let mut replaced = Vec::new();
        for list in &mut self.saved.lists {
            let mut graves = list.read(store)?;
            graves.retain(|grave| !alive.contains(&grave.address));
            if graves.len() < list.count as usize {
                replaced.extend(list.blocks());
                *list = match graves.is_empty() {
                    true => ListV1 { count: 0, ..*list },
                    false => ListV1::write(&graves, writer, birth)?,
                };
            }
        }
        self.saved.lists.retain(|list| list.count > 0);
        Ok(replaced)
    }

    /// Calls `each` with every one.
    ///
    /// # Errors
    /// The host's, or `Corrupt`.
    pub fn for_each(&self, store: &Store, mut each: impl FnMut(&Grave)) -> Result<(), BlockError> {
        self.saved.recent.iter().for_each(&mut each);
        for list in &self.saved.lists {
            list.read(store)?.iter().for_each(&mut each);
        }
        Ok(())
    }

    /// The blocks that the lists themselves take.
    pub fn list_blocks(&self) -> impl Iterator<Item = Address> + '_ {
        self.saved.lists.iter().flat_map(ListV1::blocks)
    }
}
