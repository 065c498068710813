//! Which segments there are, where they lie, and which of their blocks somebody still needs.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::layout::{Address, BLOCK_BYTES, SEGMENT_BLOCKS, SEGMENT_BYTES, SEGMENT_MAX, place_offset};

/// Places kept as they are when they become free, so that the log finds room that was written before: a sync need not
/// convert extents there. More are given back to the host.
const SPARE_PLACES: u64 = 8;

/// What a segment holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// Records and guest data.
    Log,
    /// Pages of the map.
    Pages,
}

/// Which blocks of a segment are needed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Live {
    bits: [u64; (SEGMENT_BLOCKS / 64) as usize],
}

impl Live {
    fn none() -> Self {
        Self { bits: [0; _] }
    }

    fn set(&mut self, slot: u64, live: bool) {
        if let Some(word) = self.bits.get_mut((slot / 64) as usize) {
            let bit = 1 << (slot % 64);
            *word = if live { *word | bit } else { *word & !bit };
        }
    }

    fn has(&self, slot: u64) -> bool {
        self.bits.get((slot / 64) as usize).is_some_and(|word| word >> (slot % 64) & 1 == 1)
    }

    /// How many.
    pub fn count(&self) -> u64 {
        self.bits.iter().map(|word| u64::from(word.count_ones())).sum()
    }
}

/// A segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Where it lies.
    pub place: u32,
    /// What it holds.
    pub kind: Kind,
    /// Needed blocks.
    pub live: Live,
    /// More will be written into it.
    pub open: bool,
}

/// A segment as the head keeps it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SegmentV1 {
    id: u64,
    place: u32,
    kind: Kind,
    /// Sixteen words, or none for a segment whose every block is needed.
    live: Vec<u64>,
}

/// All of it.
#[derive(Debug, Default)]
pub struct Space {
    segments: BTreeMap<u64, Segment>,
    next_segment: u64,
    /// Places the file has.
    places: u32,
    /// Of those, not in use; content from before, which nobody needs.
    free: Places,
    /// Blocks nobody needs once the next head is durable.
    released: Vec<Address>,
}

/// Space as the head keeps it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SpaceV1 {
    next_segment: u64,
    places: u32,
    segments: Vec<SegmentV1>,
}

/// A range of the file to give back: offset and length in bytes.
pub type Range = (u64, u64);

impl Space {
    /// Of a new disk.
    pub fn new() -> Self {
        Self { next_segment: 1, ..Self::default() }
    }

    /// For the head. What was released is counted as gone.
    pub fn save(&self) -> SpaceV1 {
        let mut gone: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
        for address in &self.released {
            gone.entry(address.segment()).or_default().push(address.slot());
        }
        let segments = self
            .segments
            .iter()
            .filter_map(|(id, segment)| {
                let mut live = segment.live.clone();
                for slot in gone.get(id).into_iter().flatten() {
                    live.set(*slot, false);
                }
                let count = live.count();
                let live = if count == SEGMENT_BLOCKS { Vec::new() } else { live.bits.to_vec() };
                (count > 0 || segment.open).then_some(SegmentV1 {
                    id: *id,
                    place: segment.place,
                    kind: segment.kind,
                    live,
                })
            })
            .collect();
        SpaceV1 { next_segment: self.next_segment, places: self.places, segments }
    }

    /// From a head. `None` when it contradicts itself.
    pub fn restore(saved: SpaceV1) -> Option<Self> {
        let SpaceV1 { next_segment, places, segments } = saved;
        let mut space = Self { next_segment, places, ..Self::default() };
        // Places behind the last one in use are as good as never made.
        let places = segments.iter().map(|segment| segment.place.saturating_add(1)).max().unwrap_or(0).min(places);
        space.places = places;
        space.free.insert_range(0, places);
        for SegmentV1 { id, place, kind, live } in segments {
            let live = match live.len() {
                0 => Live { bits: [u64::MAX; _] },
                _ => Live { bits: live.try_into().ok()? },
            };
            let segment = Segment { place, kind, live, open: false };
            let known = (1..next_segment).contains(&id) && space.free.remove(place);
            if !known || space.segments.insert(id, segment).is_some() {
                return None;
            }
        }
        (next_segment <= SEGMENT_MAX).then_some(space)
    }

    /// Begins a segment in a free place, or in a new one at the end of the file. `None` when the file has no place
    /// left that can be named.
    pub fn begin(&mut self, kind: Kind) -> Option<(u64, u32)> {
        let place = match self.free.take_first() {
            Some(place) => place,
            None => {
                let place = self.places;
                self.places = self.places.checked_add(1)?;
                place
            }
        };
        let id = self.next_segment;
        if id > SEGMENT_MAX {
            return None;
        }
        self.next_segment += 1;
        self.segments.insert(id, Segment { place, kind, live: Live::none(), open: true });
        Some((id, place))
    }

    /// Takes up a segment that the log names and the head does not know yet. False when it can not be.
    pub fn adopt(&mut self, id: u64, place: u32, places_max: u32) -> bool {
        if self.segments.get(&id).is_some_and(|segment| segment.place == place && segment.kind == Kind::Log) {
            return true;
        }
        if place >= self.places && place < places_max {
            self.free.insert_range(self.places, place + 1);
            self.places = place + 1;
        }
        if id > SEGMENT_MAX || self.segments.contains_key(&id) || !self.free.remove(place) {
            return false;
        }
        self.next_segment = self.next_segment.max(id + 1);
        self.segments.insert(id, Segment { place, kind: Kind::Log, live: Live::none(), open: false });
        true
    }

    /// Forgets what the log has from `slot` of `segment` on: what is there is found by reading it.
    pub fn cut_log(&mut self, segment: u64, slot: u64) {
        let gone: Vec<u64> = self
            .segments
            .range(segment.saturating_add(1)..)
            .filter_map(|(id, segment)| (segment.kind == Kind::Log).then_some(*id))
            .collect();
        for id in gone {
            if let Some(segment) = self.segments.remove(&id) {
                self.free.insert(segment.place);
            }
        }
        if let Some(segment) = self.segments.get_mut(&segment) {
            (slot..SEGMENT_BLOCKS).for_each(|slot| segment.live.set(slot, false));
        }
    }

    /// Nothing more is written into a segment; it goes when nothing in it is needed.
    pub fn end(&mut self, id: u64) {
        if let Some(segment) = self.segments.get_mut(&id) {
            segment.open = false;
        }
    }

    /// Somebody needs this block.
    pub fn mark(&mut self, address: Address) {
        if let Some(segment) = self.segments.get_mut(&address.segment()) {
            segment.live.set(address.slot(), true);
        }
    }

    /// Nobody needs it, as of the next head.
    pub fn release(&mut self, address: Address) {
        self.released.push(address);
    }

    /// What is released so far. It may be used again when a head that knows of it is durable: see
    /// [`settle`](Self::settle).
    pub fn take_released(&mut self) -> Vec<Address> {
        std::mem::take(&mut self.released)
    }

    /// Frees what was taken; says which ranges the host may have back.
    pub fn settle(&mut self, released: &[Address]) -> Vec<Range> {
        let mut slots: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
        for address in released {
            slots.entry(address.segment()).or_default().push(address.slot());
        }
        let mut ranges = Vec::new();
        for (id, mut slots) in slots {
            let Some(segment) = self.segments.get_mut(&id) else { continue };
            slots.iter().for_each(|slot| segment.live.set(*slot, false));
            if segment.open || segment.live.count() > 0 {
                slots.sort_unstable();
                ranges.extend(runs(&slots, place_offset(segment.place)));
            }
        }
        let (segments, free) = (&mut self.segments, &mut self.free);
        segments.retain(|_, segment| {
            let gone = !segment.open && segment.live.count() == 0;
            if gone {
                if free.len() >= SPARE_PLACES {
                    ranges.push((place_offset(segment.place), SEGMENT_BYTES));
                }
                free.insert(segment.place);
            }
            !gone
        });
        ranges
    }

    /// Where a block is in the file, if its segment is known.
    pub fn locate(&self, address: Address) -> Option<u64> {
        let segment = self.segments.get(&address.segment())?;
        Some(place_offset(segment.place) + address.slot() * BLOCK_BYTES as u64)
    }

    /// Whether the segment is known and lies there.
    pub fn lies_at(&self, id: u64, place: u32) -> bool {
        self.segments.get(&id).is_some_and(|segment| segment.place == place)
    }

    /// Whether the block is marked as needed.
    pub fn is_live(&self, address: Address) -> bool {
        self.segments.get(&address.segment()).is_some_and(|segment| segment.live.has(address.slot()))
    }

    /// Blocks marked as needed that are not among `reached`.
    pub fn unreached(&self, reached: &std::collections::HashSet<Address>) -> u64 {
        let missing = |(id, segment): (&u64, &Segment)| {
            let live = (0..SEGMENT_BLOCKS).filter(|slot| segment.live.has(*slot));
            live.filter(|slot| !reached.contains(&Address::new(*id, *slot))).count() as u64
        };
        self.segments.iter().map(missing).sum()
    }

    /// Needed blocks, all together.
    pub fn live_blocks(&self) -> u64 {
        self.segments.values().map(|segment| segment.live.count()).sum()
    }
}

/// A set of places, as runs: a file may claim billions of them.
#[derive(Debug, Default, PartialEq, Eq)]
struct Places {
    /// First place of a run, and the one after its last.
    runs: BTreeMap<u32, u32>,
    count: u64,
}

impl Places {
    fn len(&self) -> u64 {
        self.count
    }

    /// Adds `from..until`, of which none is in the set.
    fn insert_range(&mut self, from: u32, until: u32) {
        if from >= until {
            return;
        }
        self.count += u64::from(until - from);
        let until = self.runs.remove(&until).unwrap_or(until);
        match self.runs.range_mut(..from).next_back() {
            Some((_, end)) if *end == from => *end = until,
            _ => {
                self.runs.insert(from, until);
            }
        }
    }

    fn insert(&mut self, place: u32) {
        if let Some(after) = place.checked_add(1) {
            self.insert_range(place, after);
        }
    }

    /// Takes a place out; false when it is not in the set.
    fn remove(&mut self, place: u32) -> bool {
        let Some((&from, &until)) = self.runs.range(..=place).next_back() else { return false };
        if place >= until {
            return false;
        }
        self.runs.remove(&from);
        if from < place {
            self.runs.insert(from, place);
        }
        if place + 1 < until {
            self.runs.insert(place + 1, until);
        }
        self.count -= 1;
        true
    }

    fn take_first(&mut self) -> Option<u32> {
        let (&from, _) = self.runs.first_key_value()?;
        self.remove(from).then_some(from)
    }
}

/// Runs of neighbouring slots as ranges of the file.
fn runs(slots: &[u64], offset: u64) -> Vec<Range> {
    slots
        .chunk_by(|a, b| a + 1 == *b)
        .map(|run| (offset + run[0] * BLOCK_BYTES as u64, run.len() as u64 * BLOCK_BYTES as u64))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_used_again_when_nothing_in_it_is_needed() {
        let mut space = Space::new();
        let (id, place) = space.begin(Kind::Log).unwrap();
        space.mark(Address::new(id, 0));
        space.mark(Address::new(id, 1));
        space.end(id);
        space.release(Address::new(id, 0));
        let released = space.take_released();
        assert_eq!(space.settle(&released), [(place_offset(place), 4096)]);
        assert_eq!(space.live_blocks(), 1);
        space.release(Address::new(id, 1));
        let saved = space.save();
        assert!(saved.segments.is_empty());
        let released = space.take_released();
        assert!(space.settle(&released).is_empty(), "a spare place is kept");
        let (next, again) = space.begin(Kind::Pages).unwrap();
        assert_eq!((next, again), (id + 1, place), "numbers are not used twice");
    }

    #[test]
    fn it_survives_a_save_and_refuses_contradictions() {
        let mut space = Space::new();
        for _ in 0..3 {
            let (id, _) = space.begin(Kind::Log).unwrap();
            space.mark(Address::new(id, 7));
        }
        let saved = space.save();
        let restored = Space::restore(saved.clone()).unwrap();
        assert_eq!(restored.live_blocks(), 3);
        let mut twice = saved.clone();
        twice.segments[1].place = 0;
        assert!(Space::restore(twice).is_none());
        let mut far = saved;
        far.segments[1].place = 3;
        assert!(Space::restore(far).is_none());
    }

    #[test]
    fn places_are_a_set() {
        let mut places = Places::default();
        places.insert_range(0, 10);
        assert!(places.remove(3) && places.remove(0) && places.remove(9));
        assert!(!places.remove(3) && !places.remove(10));
        assert_eq!(places.runs, BTreeMap::from([(1, 3), (4, 9)]));
        places.insert(3);
        places.insert(9);
        assert_eq!((places.take_first(), places.len()), (Some(1), 8));
        assert_eq!(places.runs, BTreeMap::from([(2, 10)]));
    }

    #[test]
    fn the_log_may_name_only_free_places() {
        let mut space = Space::new();
        let (id, place) = space.begin(Kind::Log).unwrap();
        assert!(space.adopt(id, place, 10), "known");
        assert!(!space.adopt(id + 1, place, 10), "in use");
        assert!(space.adopt(id + 1, 5, 10));
        assert!(!space.adopt(id + 1, 6, 10), "a known number elsewhere");
        assert!(!space.adopt(id + 2, 10, 10), "behind the end of the file");
    }
}
