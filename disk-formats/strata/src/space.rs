//! Which segments there are, where they lie, and which of their blocks somebody still needs.
//!
//! A segment is written into a place of its own. When little of it is needed any more, what is left of it moves
//! together with others into one place (see `compact`): the blocks keep their addresses, so neither the map nor a
//! restore point hears of it.

pub mod bits;
pub mod moving;
mod places;

use std::collections::btree_map::Entry;
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

/// Some blocks of a segment that was moved, among others in a place.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Piece {
    /// Where they lie.
    place: u32,
    /// The block of the place where they begin.
    base: u64,
    /// Which blocks are there, one after the other.
    stored: Bits,
}

/// A segment.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Segment {
    /// Where it was written. Every block is there at its own number, if it was not moved.
    place: u32,
    kind: Kind,
    /// If it was moved: where its blocks are now. No two have the same block.
    pieces: Vec<Piece>,
    /// Needed blocks.
    live: Bits,
    /// How many.
    count: u64,
    /// More will be written into it.
    open: bool,
}

/// A segment as the head keeps it, or a piece of one that was moved.
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
    /// The place that was filled with such in part, and up to which block.
    filling: Option<(u32, u64)>,
    /// Pieces in places that hold what was moved.
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
        let mut segments = Vec::new();
        for (id, segment) in &self.segments {
            let mut live = segment.live.clone();
            for slot in gone.get(id).into_iter().flatten() {
                live.set(*slot, false);
            }
            let saved = |place, live: &Bits, packed| SegmentV1 {
                id: *id,
                place,
                kind: segment.kind,
                live: live.save(),
                packed,
            };
            if segment.pieces.is_empty() {
                if segment.open || !live.is_empty() {
                    segments.push(saved(segment.place, &live, None));
                }
                continue;
            }
            for Piece { place, base, stored } in &segment.pieces {
                let live = live.and(stored);
                if !live.is_empty() {
                    let stored = if *stored == live { Vec::new() } else { stored.save() };
                    segments.push(saved(*place, &live, Some((*base as u16, stored))));
                }
            }
        }
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
            let mut first = true;
            let mut pieces = Vec::new();
            if let Some((base, stored)) = packed {
                let stored = if stored.is_empty() { live.clone() } else { Bits::restore(&stored)? };
                let (base, until) = (u64::from(base), u64::from(base) + stored.count());
                if until > SEGMENT_BLOCKS || !live.is_within(&stored) {
                    return None;
                }
                taken.entry(place).or_default().push((base, until));
                let count = space.shared.entry(place).or_default();
                *count += 1;
                first = *count == 1;
                pieces.push(Piece { place, base, stored });
            }
            if !(1..next_segment).contains(&id) || (first && !space.holes.remove(place)) {
                return None;
            }
            match space.segments.entry(id) {
                Entry::Vacant(entry) => {
                    entry.insert(Segment { place, kind, pieces, live, count, open: false });
                    if count == 0 {
                        space.ended.push(id);
                    }
                }
                Entry::Occupied(mut entry) => {
                    // Another piece of it. None is empty, so there are not too many.
                    let segment = entry.get_mut();
                    let stored = &pieces.first()?.stored;
                    let apart = segment.pieces.iter().all(|piece| piece.stored.and(stored).is_empty());
                    if segment.pieces.is_empty() || segment.kind != kind || count == 0 || segment.count == 0 || !apart {
                        return None;
                    }
                    segment.live = segment.live.or(&live);
                    segment.count += count;
                    segment.pieces.append(&mut pieces);
                }
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
        let segment = Segment { place, kind, pieces: Vec::new(), live: Bits::NONE, count: 0, open: true };
        self.segments.insert(id, segment);
        Some(Begun { segment: id, place, fresh })
    }

    /// Takes up a segment that the log names and the head does not know yet. False when it can not be.
    pub fn adopt(&mut self, id: u64, place: u32, places_max: u32) -> bool {
        if self.segments.get(&id).is_some_and(|segment| segment.is_log_at(place)) {
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
        let segment = Segment { place, kind: Kind::Log, pieces: Vec::new(), live: Bits::NONE, count: 0, open: false };
        self.segments.insert(id, segment);
        self.ended.push(id);
        true
    }

    /// Forgets what the log has from `slot` of `segment` on: what is there is found by reading it. False when the segment
    /// is not the log's, or lies elsewhere.
    pub fn cut_log(&mut self, segment: u64, place: u32, slot: u64) -> bool {
        if self.segments.get(&segment).is_some_and(|segment| !segment.is_log_at(place)) {
            return false;
        }
        let later = self.segments.range(segment.saturating_add(1)..);
        let gone: Vec<u64> = later.filter(|(_, segment)| segment.kind == Kind::Log).map(|(id, _)| *id).collect();
        let mut left = Vec::new();
        for id in gone {
            if let Some(segment) = self.segments.remove(&id) {
                self.live -= segment.count;
                left.extend(segment.left().filter_map(|left| self.leave(left, 0)));
            }
        }
        self.given_back(&left);
        (slot..SEGMENT_BLOCKS).for_each(|slot| self.clear(segment, slot));
        true
    }

    /// Gives up all segments before that one, whatever was needed in them.
    pub fn forget_before(&mut self, first: u64) {
        let later = self.segments.split_off(&first);
        let mut left = Vec::new();
        for segment in std::mem::replace(&mut self.segments, later).into_values() {
            self.live -= segment.count;
            left.extend(segment.left().filter_map(|left| self.leave(left, 0)));
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

    /// Whether the next head frees anything.
    pub fn has_released(&self) -> bool {
        !self.released.blocks.is_empty() || !self.released.places.is_empty()
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
            } else if segment.pieces.is_empty() {
                ranges.extend(holes(run, place_offset(segment.place)));
            } else {
                released.places.extend(self.drop_dead_pieces(id));
            }
        }
        for id in emptied {
            if self.segments.get(&id).is_some_and(|segment| !segment.open && segment.count == 0)
                && let Some(segment) = self.segments.remove(&id)
            {
                released.places.extend(segment.left());
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
            self.filling.take_if(|(filling, _)| *filling == left.place);
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
            if segment.pieces.is_empty() {
                let bits = needed.entry(segment.place).or_insert(Bits::NONE);
                *bits = bits.or(&segment.live);
            }
            for Piece { place, base, stored } in &segment.pieces {
                let bits = needed.entry(*place).or_insert(Bits::NONE);
                for slot in stored.and(&segment.live).slots() {
                    bits.set(base + stored.rank(slot), true);
                }
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

    // ---- asking ----

    /// Where a block is in the file, if its segment is known and holds it.
    pub fn locate(&self, address: Address) -> Option<u64> {
        let segment = self.segments.get(&address.segment())?;
        let (place, block, _) = segment.find(address.slot())?;
        Some(place_offset(place) + block * BLOCK_BYTES as u64)
    }

    /// The same, and for how many blocks from this one on each lies behind the one before.
    pub fn locate_run(&self, address: Address) -> Option<(u64, u64)> {
        let segment = self.segments.get(&address.segment())?;
        let (place, block, piece) = segment.find(address.slot())?;
        let run = piece.map_or(SEGMENT_BLOCKS - address.slot(), |piece| piece.stored.run(address.slot()));
        Some((place_offset(place) + block * BLOCK_BYTES as u64, run))
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

impl Usage {
    /// Blocks of places in use that nobody needs.
    pub fn garbage_blocks(self) -> u64 {
        self.used_blocks.saturating_sub(self.live_blocks)
    }
}

impl Segment {
    /// Whether the log may be there: it lies where it was written.
    fn is_log_at(&self, place: u32) -> bool {
        self.place == place && self.kind == Kind::Log && self.pieces.is_empty()
    }

    /// What it leaves when it goes.
    fn left(&self) -> impl Iterator<Item = Left> + use<> {
        let whole = self.pieces.is_empty().then_some(Left { place: self.place, shared: false });
        let pieces: Vec<Left> = self.pieces.iter().map(Piece::left).collect();
        whole.into_iter().chain(pieces)
    }

    /// The place of a block, its number there, and the piece it is in if the segment was moved.
    fn find(&self, slot: u64) -> Option<(u32, u64, Option<&Piece>)> {
        if self.pieces.is_empty() {
            return Some((self.place, slot, None));
        }
        let piece = self.pieces.iter().find(|piece| piece.stored.has(slot))?;
        Some((piece.place, piece.base + piece.stored.rank(slot), Some(piece)))
    }
}

impl Piece {
    fn left(&self) -> Left {
        Left { place: self.place, shared: true }
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
