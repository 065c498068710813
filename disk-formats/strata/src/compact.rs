//! Compaction: what is left of nearly empty segments moves together, and their places are free.
//!
//! Blocks move as they are, sealed, under their addresses. So it costs one read and one write of what is still needed,
//! no change of the map, and does for restore points what it does for the newest state. Emptiest first is what costs
//! least when blocks are overwritten at random.

use std::sync::atomic::Ordering;
use std::time::Instant;

use benchtop_block::BlockError;

use crate::checkpoint::Checkpoints;
use crate::core::Core;
use crate::disk::io_error;
use crate::layout::{Address, BLOCK_BYTES, SEGMENT_BLOCKS, place_offset};
use crate::run::Run;
use crate::space::Freed;
use crate::space::moving::Move;

/// Garbage that is left alone, in blocks: 64 MiB.
const GARBAGE_MIN: u64 = 16 << 10;
/// Percent of what is needed that garbage may take while nobody uses the disk.
const PERCENT_AT_REST: u64 = 25;
/// Blocks moved at a time: the guest waits no longer than for one read and one write of so many.
const MOVED_BLOCKS: usize = 64;
/// Where nothing presses, fewer, and compaction rests so many times as long as it took for them.
const MOVED_AT_LEISURE: usize = 16;
const RESTS: u32 = 3;
/// The part of the garbage that is allowed which there may be beyond it before writers are held back.
const FEW_PART: u64 = 8;
const UNIT: u64 = BLOCK_BYTES as u64;
/// Places filled between two heads: a part of those in use, larger where nothing presses,
const PLACES_PART: u64 = 128;
/// a quarter where all garbage is to go,
const PLACES_PART_ASKED: u64 = 4;
/// within these bounds.
const PLACES_AT_ONCE: std::ops::Range<usize> = 4..256;

impl Core {
    /// Blocks of places in use that nobody needs, beyond what is left alone.
    fn excess(&self, percent: u64, least: u64) -> u64 {
        let usage = self.store.space.read().usage();
        usage.garbage_blocks().saturating_sub((usage.live_blocks / 100 * percent).max(least))
    }

    /// Moves some if there is too much garbage; says whether there still is.
    pub fn compact_some(&self, checkpoints: &mut Checkpoints, at_rest: bool) -> Result<bool, BlockError> {
        let percent = self.garbage_percent();
        let percent = if at_rest { percent.min(PERCENT_AT_REST) } else { percent };
        self.compact_round(checkpoints, percent, GARBAGE_MIN)
    }

    /// Moves until there is no more garbage than that, or no more can be gained.
    pub fn compact_to(&self, checkpoints: &mut Checkpoints, percent: u64) -> Result<(), BlockError> {
        // Each round gains a place at least, or ends it.
        while self.compact_round(checkpoints, percent, 0)? {}
        Ok(())
    }

    fn compact_round(&self, checkpoints: &mut Checkpoints, percent: u64, least: u64) -> Result<bool, BlockError> {
        let result = self.compact_once(checkpoints, percent, least);
        if !matches!(result, Ok(true)) {
            // Whether it is done, can gain nothing or failed: nobody waits for it.
            self.pressure.end();
        }
        result
    }

    fn compact_once(&self, checkpoints: &mut Checkpoints, percent: u64, least: u64) -> Result<bool, BlockError> {
        let before = self.excess(percent, least);
        if before == 0 || self.read_only {
            return Ok(false);
        }
        let usage = self.store.space.read().usage();
        let wanted = usize::try_from(before / SEGMENT_BLOCKS).unwrap_or(usize::MAX);
        // What moves is there twice for a while.
        let part = match (least, percent) {
            // Somebody asked for all that can be gained, which many places with a little garbage each may have.
            (0, 0) => PLACES_PART_ASKED,
            _ if self.pressure.is_none() => PLACES_PART / 4,
            _ => PLACES_PART,
        };
        let most = usize::try_from(usage.used_blocks / SEGMENT_BLOCKS / part).unwrap_or(usize::MAX);
        let most = most.clamp(PLACES_AT_ONCE.start, PLACES_AT_ONCE.end);
        let few = usage.live_blocks / 100 * percent / FEW_PART;
        self.pressure.begin(usage.garbage_blocks() + most as u64 * SEGMENT_BLOCKS + few);
        if !self.compact(checkpoints, wanted.max(1), most, least > 0)? {
            return Ok(false);
        }
        // The places they left are free when a head says so.
        self.amend(checkpoints)?;
        let after = self.excess(percent, least);
        if least > 0 {
            self.pressure.adapt(before, after, few);
        }
        Ok(after > 0)
    }

    /// Wins up to `gain` places by filling up to `most`. False when nothing was won.
    fn compact(&self, checkpoints: &Checkpoints, gain: usize, most: usize, paced: bool) -> Result<bool, BlockError> {
        let moves = self.store.space.read().choose(checkpoints.now.log.segment, gain, most);
        let mut places = Vec::with_capacity(moves.places.len());
        let mut filling = moves.filling;
        let won = moves.won();
        let result = moves.places.iter().try_for_each(|moves| {
            let (place, used) = match filling.take() {
                Some(filling) => filling,
                None => {
                    let place = self.store.space.write().begin_move().ok_or_else(crate::pages::no_place)?;
                    places.push(place);
                    (place, 0)
                }
            };
            self.copy(moves, place_offset(place) + used * UNIT, won, paced)
        });
        let mut space = self.store.space.write();
        match result {
            Ok(()) => space.moved(&moves, &places),
            Err(_) => places.iter().for_each(|place| space.cancel_move(*place)),
        }
        result.map(|()| !moves.is_empty())
    }

    /// Copies what moves to the file from `to` on, one after the other. With so many blocks `won` for so many that move.
    fn copy(&self, moves: &[Move], mut to: u64, won: (u64, u64), paced: bool) -> Result<(), BlockError> {
        let addresses = moves.iter().flat_map(|one| one.blocks.slots().map(|slot| Address::new(one.segment, slot)));
        let addresses: Vec<Address> = addresses.collect();
        let mut buffer = self.store.pool.take(MOVED_BLOCKS);
        let mut result = Ok(());
        let mut rest = &addresses[..];
        while !rest.is_empty() {
            // Who waits for a checkpoint waits for this first.
            let leisure = paced && self.pressure.is_none() && !self.wanted.hurries();
            let (some, after) = rest.split_at(rest.len().min(if leisure { MOVED_AT_LEISURE } else { MOVED_BLOCKS }));
            rest = after;
            let bytes = some.len() * BLOCK_BYTES;
            let started = Instant::now();
            result = self.gather(some, &mut buffer.bytes_mut()[..bytes]).and_then(|()| {
                self.store.medium.write_at(to, &[&buffer.bytes()[..bytes]]).map_err(io_error("moving blocks"))
            });
            if result.is_err() {
                break;
            }
            if !self.pressure.is_none() {
                self.pressure.win(some.len() as u64 * won.0 / won.1.max(1));
            } else if leisure {
                self.pressure.look(self.store.space.read().usage().garbage_blocks());
                self.wanted.rest(started.elapsed() * RESTS);
            }
            to += bytes as u64;
        }
        self.store.pool.put(buffer);
        result
    }

    /// Reads blocks one after the other into memory, as they are.
    fn gather(&self, addresses: &[Address], into: &mut [u8]) -> Result<(), BlockError> {
        let space = self.store.space.read();
        let offsets: Option<Vec<u64>> = addresses.iter().map(|address| space.locate(*address)).collect();
        drop(space);
        let offsets = offsets.ok_or_else(crate::pages::no_key)?;
        let (mut rest, mut left) = (&offsets[..], into);
        while !rest.is_empty() {
            let run = Run::first_of(rest);
            let (here, others) = left.split_at_mut(run.count() * BLOCK_BYTES);
            self.store.read_run(&run, here)?;
            (rest, left) = (&rest[run.count()..], others);
        }
        Ok(())
    }

    /// Gives free places back to the host, but for `keep` of them, and what was reserved behind the last.
    pub fn give_back(&self, keep: u64) {
        let reserved_until = self.reserved_until.swap(0, Ordering::Relaxed);
        let freed = self.store.space.write().give_back(keep, reserved_until);
        self.punch(&freed);
    }

    /// Gives back what was freed. From then on it can be used again.
    pub fn punch(&self, freed: &Freed) {
        for (offset, len) in &freed.ranges {
            // Room that could not be given back stays taken, which harms nobody.
            let _kept = self.store.medium.punch(*offset, *len);
        }
        self.store.space.write().given_back(&freed.places);
    }
}
