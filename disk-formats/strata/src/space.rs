//! Which segments there are, where they lie, and which of their blocks somebody still needs.
//!
//! A segment is written into a place of its own. When little of it is needed any more, what is left of it moves
//! together with others into one place (see `compact`): the blocks keep their addresses, so neither the map nor a
//! restore point hears of it.

pub mod bits;
mod places;

use std::collections::{BTreeMap, HashMap, HashSet};

use serde::{Deserialize, Serialize};

use crate::layout::{Address, BLOCK_BYTES, SEGMENT_BLOCKS, SEGMENT_BYTES, SEGMENT_MAX, place_offset};
use bits::Bits;
use places::Places;

/// Places kept as they are when they become free, so that the log finds room that was written before: a sync need not
/// convert extents there. More are given back to the host.
pub const SPARE_PLACES: u64 = 64;
/// Neighbouring blocks that are worth a hole of their own in the file.
const HOLE_BLOCKS: usize = 16;

/// What a segment holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// Records and guest data.
    Log,
    /// Pages of the map, and lists.
    Pages,
}

/// What is left of a segment, among others in a place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packed {
    /// The block of the place where it begins.
    base: u64,
    /// Which blocks are there, one after the other.
    stored: Bits,
}

/// A segment.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Segment {
    /// Where it lies.
    place: u32,
    kind: Kind,
    /// If it was moved. Otherwise every block is at its own number.
    packed: Option<Box<Packed>>,
    /// Needed blocks.
    live: Bits,
    /// How many.
    count: u64,
    /// More will be written into it.
    open: bool,
}

/// A segment as the head keeps it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SegmentV1 {
    id: u64,
    place: u32,
    kind: Kind,
    /// 128 bytes, or none for all.
    live: Vec<u8>,
    /// Where it begins, and which blocks are there: 128 bytes, or none for those that are needed.
    packed: Option<(u16, Vec<u8>)>,
}

/// Space as the head keeps it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SpaceV1 {
    next_segment: u64,
    places: u32,
    segments: Vec<SegmentV1>,
}

/// A segment that was begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Begun {
    /// Its number.
    pub segment: u64,
    /// Where it lies.
    pub place: u32,
    /// Nothing was ever written there, as far as is known.
    pub fresh: bool,
}

/// A place that a segment left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Left {
    place: u32,
    shared: bool,
}

/// What may be used again when a head that knows of it is durable.
#[derive(Debug, Default)]
pub struct Released {
    /// Blocks nobody needs.
    pub blocks: Vec<Address>,
    places: Vec<Left>,
}

/// A segment that is to move, and what of it.
#[derive(Clone, Debug)]
pub struct Move {
    /// The segment.
    pub segment: u64,
    /// What moves.
    pub blocks: Bits,
}

/// How full the file is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Blocks that somebody needs.
    pub live_blocks: u64,
    /// Blocks of the places in use, needed or not.
    pub used_blocks: u64,
}

/// All of it.
#[derive(Debug, Default)]
pub struct Space {
    segments: BTreeMap<u64, Segment>,
    next_segment: u64,
    /// Places the file has.
    places: u32,
    /// Of those, not in use, with content from before.
    spare: Places,
    /// Not in use, and given back to the host.
    holes: Places,
    /// Being given back: nobody's until that is done, or it would take what is written there meanwhile.
    leaving: Places,
    /// Segments in places that hold several.
    shared: HashMap<u32, u64>,
    /// Needed blocks.
    live: u64,
    /// Segments that were ended and not looked at since.
    ended: Vec<u64>,
    released: Released,
}

/// A range of the file: offset and length in bytes.
pub type Range = (u64, u64);

/// What the host is to have back. Afterwards it wants to be told to [`given_back`](Space::given_back).
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Freed {
    /// These ranges.
    pub ranges: Vec<Range>,
    /// Those of them that are whole places.
    pub places: Vec<u32>,
}

impl Space {
    /// Of a new disk.
    pub fn new() -> Self {
        Self { next_segment: 1, ..Self::default() }
    }

    /// For the head. What was released is counted as gone.
    pub fn save(&self) -> SpaceV1 {
        let mut gone: HashMap<u64, Vec<u64>> = HashMap::new();
        for address in &self.released.blocks {
            gone.entry(address.segment()).or_default().push(address.slot());
        }
        let saved = |(id, segment): (&u64, &Segment)| {
            let (mut live, mut count) = (segment.live.clone(), segment.count);
            for slot in gone.get(id).into_iter().flatten() {
                count -= u64::from(live.set(*slot, false));
            }
            (count > 0 || segment.open).then(|| SegmentV1 {
                id: *id,
                place: segment.place,
                kind: segment.kind,
                packed: segment.packed.as_ref().map(|packed| {
                    let same = packed.stored == live;
                    (packed.base as u16, if same { Vec::new() } else { packed.stored.save() })
                }),
                live: live.save(),
            })
        };
        let segments = self.segments.iter().filter_map(saved).collect();
        SpaceV1 { next_segment: self.next_segment, places: self.places, segments }
    }

    /// From a head. `None` when it contradicts itself.
    pub fn restore(saved: SpaceV1) -> Option<Self> {
        let SpaceV1 { next_segment, places, segments } = saved;
        let mut space = Self { next_segment, places, ..Self::default() };
        // Places behind the last one in use are as good as never made.
        let places = segments.iter().map(|segment| segment.place.saturating_add(1)).max().unwrap_or(0).min(places);
        space.places = places;
        space.holes.insert_range(0, places);
        // Where in shared places something is: it may be there once.
        let mut taken: BTreeMap<u32, Vec<(u64, u64)>> = BTreeMap::new();
        for SegmentV1 { id, place, kind, live, packed } in segments {
            let live = Bits::restore(&live)?;
            let count = live.count();
            let packed = match packed {
                None => None,
                Some((base, stored)) => {
                    let stored = if stored.is_empty() { live.clone() } else { Bits::restore(&stored)? };
                    let (from, until) = (u64::from(base), u64::from(base) + stored.count());
                    if until > SEGMENT_BLOCKS || !live.is_within(&stored) {
                        return None;
                    }
                    taken.entry(place).or_default().push((from, until));
                    Some(Box::new(Packed { base: u64::from(base), stored }))
                }
            };
            let first = match &packed {
                Some(_) => {
                    let count = space.shared.entry(place).or_default();
                    *count += 1;
                    *count == 1
                }
                None => true,
            };
            let known = (1..next_segment).contains(&id) && (!first || space.holes.remove(place));
            let segment = Segment { place, kind, packed, live, count, open: false };
            if !known || space.segments.insert(id, segment).is_some() {
                return None;
            }
            if count == 0 {
                space.ended.push(id);
            }
            space.live += count;
        }
        for ranges in taken.values_mut() {
            ranges.sort_unstable();
            if ranges.windows(2).any(|pair| matches!(pair, [a, b] if b.0 < a.1)) {
                return None;
            }
        }
        (next_segment <= SEGMENT_MAX).then_some(space)
    }

    /// A free place, or a new one at the end of the file, and whether nothing was written there before. `None` when
    /// the file has no place left that can be named.
    fn take_place(&mut self) -> Option<(u32, bool)> {
        if let Some(place) = self.spare.take_first() {
            return Some((place, false));
        }
        self.take_hole().map(|place| (place, true))
    }

    /// A place that has nothing of the host's, perhaps a new one at the end of the file.
    fn take_hole(&mut self) -> Option<u32> {
        if let Some(place) = self.holes.take_first() {
            return Some(place);
        }
        let place = self.places;
        self.places = self.places.checked_add(1)?;
        Some(place)
    }

    /// A place to be written with zeroes, unless `enough` free ones were written before: the log finds it
    /// [`ready`](Self::ready).
    pub fn take_to_prepare(&mut self, enough: u64) -> Option<u32> {
        if self.spare.len() < enough { self.take_hole() } else { None }
    }

    /// That place was written.
    pub fn ready(&mut self, place: u32) {
        self.spare.insert(place);
    }

    /// Begins a segment. `None` when the file has no place left that can be named.
    pub fn begin(&mut self, kind: Kind) -> Option<Begun> {
        let id = self.next_segment;
        if id >= SEGMENT_MAX {
            return None;
        }
        let (place, fresh) = self.take_place()?;
        self.next_segment += 1;
        let segment = Segment { place, kind, packed: None, live: Bits::NONE, count: 0, open: true };
        self.segments.insert(id, segment);
        Some(Begun { segment: id, place, fresh })
    }

    /// Takes up a segment that the log names and the head does not know yet. False when it can not be.
    pub fn adopt(&mut self, id: u64, place: u32, places_max: u32) -> bool {
        let same = |segment: &Segment| segment.place == place && segment.kind == Kind::Log && segment.packed.is_none();
        if self.segments.get(&id).is_some_and(same) {
            return true;
        }
        if place >= self.places && place < places_max {
            self.holes.insert_range(self.places, place + 1);
            self.places = place + 1;
        }
        if id >= SEGMENT_MAX || self.segments.contains_key(&id) || !self.holes.remove(place) {
            return false;
        }
        self.next_segment = self.next_segment.max(id + 1);
        let segment = Segment { place, kind: Kind::Log, packed: None, live: Bits::NONE, count: 0, open: false };
        self.segments.insert(id, segment);
        self.ended.push(id);
        true
    }

    /// Forgets what the log has from `slot` of `segment` on: what is there is found by reading it.
    pub fn cut_log(&mut self, segment: u64, slot: u64) {
        let later = self.segments.range(segment.saturating_add(1)..);
        let gone: Vec<u64> = later.filter(|(_, segment)| segment.kind == Kind::Log).map(|(id, _)| *id).collect();
        let mut left = Vec::new();
        for id in gone {
            if let Some(segment) = self.segments.remove(&id) {
                self.live -= segment.count;
                left.extend(self.leave(segment.left(), 0));
            }
        }
        self.given_back(&left);
        (slot..SEGMENT_BLOCKS).for_each(|slot| self.clear(segment, slot));
    }

    /// Gives up all segments before that one, whatever was needed in them.
    pub fn forget_before(&mut self, first: u64) {
        let later = self.segments.split_off(&first);
        let mut left = Vec::new();
        for segment in std::mem::replace(&mut self.segments, later).into_values() {
            self.live -= segment.count;
            left.extend(self.leave(segment.left(), 0));
        }
        self.given_back(&left);
    }

    /// Nothing more is written into a segment; it goes when nothing in it is needed.
    pub fn end(&mut self, id: u64) {
        if let Some(segment) = self.segments.get_mut(&id) {
            segment.open = false;
            self.ended.push(id);
        }
    }

    /// Somebody needs these blocks, from `address` on.
    pub fn mark(&mut self, address: Address, count: u64) {
        if let Some(segment) = self.segments.get_mut(&address.segment()) {
            for slot in address.slot()..address.slot() + count {
                let new = u64::from(segment.live.set(slot, true));
                segment.count += new;
                self.live += new;
            }
        }
    }

    fn clear(&mut self, segment: u64, slot: u64) {
        if let Some(segment) = self.segments.get_mut(&segment)
            && segment.live.set(slot, false)
        {
            segment.count -= 1;
            self.live -= 1;
        }
    }

    /// Nobody needs these, as of the next head. Says how many there were before.
    pub fn release(&mut self, addresses: impl IntoIterator<Item = Address>) -> usize {
        let before = self.released.blocks.len();
        self.released.blocks.extend(addresses);
        before
    }

    /// What is released so far, in order. It may be used again when a head that knows of it is durable: see
    /// [`settle`](Self::settle).
    pub fn take_released(&mut self) -> Released {
        std::mem::take(&mut self.released)
    }

    /// It may not be used again yet, after all.
    pub fn keep_released(&mut self, released: Released) {
        self.released.blocks.extend(released.blocks);
        self.released.places.extend(released.places);
    }

    /// Frees what was taken; says what the host may have back.
    pub fn settle(&mut self, mut released: Released) -> Freed {
        released.blocks.sort_unstable();
        released.blocks.dedup();
        let mut ranges = Vec::new();
        let mut emptied = std::mem::take(&mut self.ended);
        for run in released.blocks.chunk_by(|a, b| a.segment() == b.segment()) {
            let Some(id) = run.first().map(|address| address.segment()) else { continue };
            run.iter().for_each(|address| self.clear(id, address.slot()));
            let Some(segment) = self.segments.get(&id) else { continue };
            if segment.count == 0 {
                emptied.push(id);
            } else if segment.packed.is_none() {
                ranges.extend(holes(run, place_offset(segment.place)));
            }
        }
        for id in emptied {
            if self.segments.get(&id).is_some_and(|segment| !segment.open && segment.count == 0)
                && let Some(segment) = self.segments.remove(&id)
            {
                released.places.push(segment.left());
            }
        }
        let places: Vec<u32> = released.places.into_iter().filter_map(|left| self.leave(left, SPARE_PLACES)).collect();
        ranges.extend(places.iter().map(|place| (place_offset(*place), SEGMENT_BYTES)));
        Freed { ranges, places }
    }

    /// A segment left its place, which is free if it was the last; the place, if the host gets it back because there are
    /// more than `spare` free ones.
    fn leave(&mut self, left: Left, spare: u64) -> Option<u32> {
        if left.shared {
            let others = self.shared.get_mut(&left.place)?;
            *others -= 1;
            if *others > 0 {
                return None;
            }
            self.shared.remove(&left.place);
        }
        if self.spare.len() < spare {
            self.spare.insert(left.place);
            return None;
        }
        self.leaving.insert(left.place);
        Some(left.place)
    }

    /// Keeps at most `keep` free places as they are, and nothing behind the last up to `reserved_until` bytes in the
    /// file; what the host gets back.
    pub fn give_back(&mut self, keep: u64, reserved_until: u64) -> Freed {
        let mut places = Vec::new();
        while self.spare.len() > keep
            && let Some(place) = self.spare.take_first()
        {
            self.leaving.insert(place);
            places.push(place);
        }
        while self.end_bytes() < reserved_until
            && let Some(next) = self.places.checked_add(1)
        {
            self.leaving.insert(self.places);
            places.push(self.places);
            self.places = next;
        }
        Freed { ranges: places.iter().map(|place| (place_offset(*place), SEGMENT_BYTES)).collect(), places }
    }

    /// The host has these back, as far as it wanted them.
    pub fn given_back(&mut self, places: &[u32]) {
        for place in places {
            if self.leaving.remove(*place) {
                self.holes.insert(*place);
            }
        }
    }

    /// Where the last place ends in the file, in bytes.
    pub fn end_bytes(&self) -> u64 {
        place_offset(self.places)
    }

    /// Every place nobody uses, and what is behind the last, up to the end of a file of so many bytes.
    pub fn free_ranges(&self, file_bytes: u64) -> Vec<Range> {
        let range = |(from, until): (u32, u32)| (place_offset(from), u64::from(until - from) * SEGMENT_BYTES);
        let end = place_offset(self.places);
        let tail = (file_bytes > end).then(|| (end, file_bytes - end));
        self.holes.runs().map(range).chain(tail).collect()
    }

    /// Every block nobody needs, in a file of so many bytes. What is being written counts.
    pub fn dead_ranges(&self, file_bytes: u64) -> Vec<Range> {
        let mut needed: BTreeMap<u32, Bits> = BTreeMap::new();
        for segment in self.segments.values() {
            let bits = needed.entry(segment.place).or_insert(Bits::NONE);
            for slot in segment.live.slots() {
                let at = segment.packed.as_ref().map_or(slot, |packed| packed.base + packed.stored.rank(slot));
                bits.set(at, true);
            }
        }
        let mut ranges = self.free_ranges(file_bytes);
        for (place, bits) in needed {
            let dead: Vec<u64> = (0..SEGMENT_BLOCKS).filter(|slot| !bits.has(*slot)).collect();
            ranges.extend(dead.chunk_by(|a, b| a + 1 == *b).map(|run| {
                let first = run.first().copied().unwrap_or_default();
                (place_offset(place) + first * BLOCK_BYTES as u64, (run.len() * BLOCK_BYTES) as u64)
            }));
        }
        ranges.retain(|(offset, len)| *len > 0 && *offset < file_bytes);
        ranges
    }

    // ---- moving ----

    /// Chooses what is worth moving: per new place the segments that go into it, at most `places` of them, from the
    /// emptiest places. No log segment from `log` on moves: opening reads those where they were written.
    pub fn choose(&self, log: u64, places: usize) -> Vec<Vec<Move>> {
        let mut contents: HashMap<u32, (u64, Vec<u64>)> = HashMap::new();
        for (id, segment) in &self.segments {
            let content = contents.entry(segment.place).or_default();
            content.0 += segment.count;
            content.1.push(*id);
            if segment.open || (segment.kind == Kind::Log && *id >= log) {
                // Nothing of this place.
                content.0 = u64::MAX / 2;
            }
        }
        let mut candidates: Vec<(u64, Vec<u64>)> =
            contents.into_values().filter(|(live, _)| *live < SEGMENT_BLOCKS).collect();
        candidates.sort_unstable();
        let mut chosen = Vec::new();
        let mut candidates = candidates.into_iter().peekable();
        while chosen.len() < places {
            let (mut live, mut emptied, mut moves) = (0, 0, Vec::new());
            while let Some((_, ids)) = candidates.next_if(|(more, _)| live + more <= SEGMENT_BLOCKS) {
                emptied += 1;
                for id in ids {
                    let Some(segment) = self.segments.get(&id) else { continue };
                    live += segment.count;
                    moves.push(Move { segment: id, blocks: segment.live.clone() });
                }
            }
            // One place for one gains nothing.
            if emptied < 2 {
                break;
            }
            chosen.push(moves);
        }
        chosen
    }

    /// A place for segments that move.
    pub fn begin_move(&mut self) -> Option<u32> {
        self.take_place().map(|(place, _)| place)
    }

    /// It was not used after all.
    pub fn cancel_move(&mut self, place: u32) {
        self.holes.insert(place);
    }

    /// They are there, one after the other: from now on they are read there. The places they left are free after the
    /// next head. Segments that are gone by now are left out.
    pub fn moved(&mut self, moves: &[Move], place: u32) {
        let mut base = 0;
        for Move { segment: id, blocks } in moves {
            if let Some(segment) = self.segments.get_mut(id) {
                let left = segment.left();
                segment.place = place;
                segment.packed = Some(Box::new(Packed { base, stored: blocks.clone() }));
                *self.shared.entry(place).or_default() += 1;
                self.released.places.push(left);
            }
            base += blocks.count();
        }
        if !self.shared.contains_key(&place) {
            self.holes.insert(place);
        }
    }

    // ---- asking ----

    /// Where a block is in the file, if its segment is known and holds it.
    pub fn locate(&self, address: Address) -> Option<u64> {
        let segment = self.segments.get(&address.segment())?;
        let block = match &segment.packed {
            None => address.slot(),
            Some(packed) if packed.stored.has(address.slot()) => packed.base + packed.stored.rank(address.slot()),
            Some(_) => return None,
        };
        Some(place_offset(segment.place) + block * BLOCK_BYTES as u64)
    }

    /// Whether the segment is known.
    pub fn knows(&self, id: u64) -> bool {
        self.segments.contains_key(&id)
    }

    /// Whether the block is marked as needed.
    pub fn is_live(&self, address: Address) -> bool {
        self.segments.get(&address.segment()).is_some_and(|segment| segment.live.has(address.slot()))
    }

    /// Blocks marked as needed that are not among `reached`.
    pub fn unreached(&self, reached: &HashSet<Address>) -> u64 {
        let missing = |(id, segment): (&u64, &Segment)| {
            segment.live.slots().filter(|slot| !reached.contains(&Address::new(*id, *slot))).count() as u64
        };
        self.segments.iter().map(missing).sum()
    }

    /// How full the file is.
    pub fn usage(&self) -> Usage {
        let free = self.spare.len() + self.holes.len() + self.leaving.len();
        Usage { live_blocks: self.live, used_blocks: u64::from(self.places).saturating_sub(free) * SEGMENT_BLOCKS }
    }
}

impl Segment {
    fn left(&self) -> Left {
        Left { place: self.place, shared: self.packed.is_some() }
    }
}

/// Runs of neighbouring blocks of one segment that are worth a hole, as ranges of the file.
fn holes(run: &[Address], offset: u64) -> impl Iterator<Item = Range> + '_ {
    run.chunk_by(|a, b| a.slot() + 1 == b.slot()).filter(|run| run.len() >= HOLE_BLOCKS).map(move |run| {
        let first = run.first().map_or(0, |address| address.slot());
        (offset + first * BLOCK_BYTES as u64, (run.len() * BLOCK_BYTES) as u64)
    })
}

#[cfg(test)]
mod tests;
