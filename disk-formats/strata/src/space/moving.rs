//! Moving what is left of segments together, so that the places they were in are free.

use std::collections::{HashMap, HashSet};

use super::bits::Bits;
use super::{Kind, Left, Piece, Space};
use crate::layout::SEGMENT_BLOCKS;

/// Blocks that are worth filling a place on for.
const ROOM_MIN: u64 = 32;

/// Blocks of a segment that move, one after the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Move {
    /// The segment.
    pub segment: u64,
    /// What moves.
    pub blocks: Bits,
}

/// What moves where.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Moves {
    /// The place that was filled in part the last time, and up to which block: what is first in `places` goes there.
    pub filling: Option<(u32, u64)>,
    /// For each place, what goes there.
    pub places: Vec<Vec<Move>>,
    /// The places that are empty then.
    sources: HashSet<u32>,
}

impl Moves {
    /// Blocks of places that are won, and blocks that move for it.
    pub fn won(&self) -> (u64, u64) {
        let moved: u64 = self.places.iter().flatten().map(|one| one.blocks.count()).sum();
        ((self.sources.len() as u64 * SEGMENT_BLOCKS).saturating_sub(moved), moved)
    }

    /// Whether nothing is worth moving.
    pub fn is_empty(&self) -> bool {
        self.sources.is_empty()
    }
}

/// What a place holds that could move away.
#[derive(Default)]
struct Content {
    live: u64,
    /// Segments, and which piece of them.
    parts: Vec<(u64, Option<usize>)>,
    /// Nothing of it may.
    stays: bool,
}

impl Space {
    /// Chooses what is worth moving: the contents of the emptiest places, until `gain` places are won or `most` are
    /// filled. No log segment from `log` on moves: opening reads those where they were written.
    pub fn choose(&self, log: u64, gain: usize, most: usize) -> Moves {
        let mut contents: HashMap<u32, Content> = HashMap::new();
        for (id, segment) in &self.segments {
            // One that is empty goes by itself.
            let stays = segment.open || segment.count == 0 || (segment.kind == Kind::Log && *id >= log);
            let mut add = |place: u32, part: Option<usize>, live: u64| {
                let content = contents.entry(place).or_default();
                content.live += live;
                content.stays |= stays;
                content.parts.push((*id, part));
            };
            if segment.pieces.is_empty() {
                add(segment.place, None, segment.count);
            }
            for (index, piece) in segment.pieces.iter().enumerate() {
                add(piece.place, Some(index), piece.stored.and(&segment.live).count());
            }
        }
        // Filled on, unless it has little room, or so much garbage by now that it had better be emptied.
        let worth = |(place, used): &(u32, u64)| {
            let live = contents.get(place).map_or(0, |content| content.live);
            SEGMENT_BLOCKS - used >= ROOM_MIN && live * 4 >= used * 3
        };
        let filling = self.filling.filter(worth);
        let may = |(place, content): &(u32, Content)| {
            !content.stays && content.live < SEGMENT_BLOCKS && filling.is_none_or(|(filling, _)| filling != *place)
        };
        let mut candidates: Vec<(u32, Content)> = contents.into_iter().filter(may).collect();
        candidates.sort_unstable_by_key(|(place, content)| (content.live, *place));
        let mut room = filling.map_or(0, |(_, used)| SEGMENT_BLOCKS - used);
        let filled =
            |live: u64| usize::try_from(live.saturating_sub(room).div_ceil(SEGMENT_BLOCKS)).unwrap_or(usize::MAX);
        // The fewest of the emptiest that win the most.
        let (mut live, mut best) = (0, (0, 0));
        for (index, (_, content)) in candidates.iter().enumerate() {
            live += content.live;
            if filled(live) > most || best.0 >= gain {
                break;
            }
            let won = (index + 1).saturating_sub(filled(live));
            if won > best.0 {
                best = (won, index + 1);
            }
        }
        candidates.truncate(best.1);
        let mut moves = Moves { filling, ..Moves::default() };
        if filling.is_some() {
            moves.places.push(Vec::new());
        }
        for (place, content) in candidates {
            moves.sources.insert(place);
            for (id, part) in content.parts {
                let Some(segment) = self.segments.get(&id) else { continue };
                let piece = part.and_then(|index| segment.pieces.get(index));
                let mut blocks = piece.map_or(segment.live.clone(), |piece| piece.stored.and(&segment.live));
                while !blocks.is_empty() {
                    if room == 0 {
                        moves.places.push(Vec::new());
                        room = SEGMENT_BLOCKS;
                    }
                    let blocks = blocks.split_off_first(room);
                    room -= blocks.count();
                    if let Some(last) = moves.places.last_mut() {
                        last.push(Move { segment: id, blocks });
                    }
                }
            }
        }
        moves
    }

    /// A place for blocks that move.
    pub fn begin_move(&mut self) -> Option<u32> {
        self.take_place().map(|(place, _)| place)
    }

    /// It was not used after all.
    pub fn cancel_move(&mut self, place: u32) {
        self.holes.insert(place);
    }

    /// They are there, in these places in order, after the one that was filled in part: from now on they are read there.
    /// The places they left are free after the next head.
    pub fn moved(&mut self, moves: &Moves, places: &[u32]) {
        let begun = moves.filling.into_iter().chain(places.iter().map(|place| (*place, 0)));
        let mut left: Vec<Left> = Vec::new();
        // Also of those of which nothing was needed any more.
        for segment in self.segments.values_mut() {
            segment.pieces.retain(|piece| {
                let stays = !moves.sources.contains(&piece.place);
                if !stays {
                    left.push(piece.left());
                }
                stays
            });
        }
        for (moves, (place, mut base)) in moves.places.iter().zip(begun) {
            for Move { segment, blocks } in moves {
                if let Some(segment) = self.segments.get_mut(segment) {
                    segment.pieces.push(Piece { place, base, stored: blocks.clone() });
                    *self.shared.entry(place).or_default() += 1;
                }
                base += blocks.count();
            }
            if !self.shared.contains_key(&place) {
                self.holes.insert(place);
            }
            self.filling = (base < SEGMENT_BLOCKS).then_some((place, base));
        }
        // Those that lay there as they were written.
        left.extend(
            moves
                .sources
                .iter()
                .filter(|place| !self.shared.contains_key(place))
                .map(|place| Left { place: *place, shared: false }),
        );
        self.released.places.extend(left);
    }

    /// Forgets the pieces of a segment of which nothing is needed; says what they leave.
    pub(super) fn drop_dead_pieces(&mut self, id: u64) -> Vec<Left> {
        let Some(segment) = self.segments.get_mut(&id) else { return Vec::new() };
        let mut left = Vec::new();
        segment.pieces.retain(|piece| {
            let stays = !piece.stored.and(&segment.live).is_empty();
            if !stays {
                left.push(piece.left());
            }
            stays
        });
        left
    }
}
