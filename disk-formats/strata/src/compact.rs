//! Compaction: what is left of nearly empty segments moves together, and their places are free.
//!
//! Blocks move as they are, sealed, under their addresses. So it costs one read and one write of what is still needed,
//! no change of the map, and does for restore points what it does for the newest state. Emptiest first is what costs
//! least when blocks are overwritten at random.

use std::sync::atomic::Ordering;
use std::time::Instant;

use benchtop_block::BlockError;

use crate::buffer::LARGE_BLOCKS;
use crate::checkpoint::Checkpoints;
use crate::core::Core;
use crate::disk::io_error;
use crate::layout::{Address, BLOCK_BYTES, SEGMENT_BLOCKS, place_offset};
use crate::space::{Freed, Move};

/// Garbage that is left alone, in blocks: 64 MiB.
const GARBAGE_MIN: u64 = 16 << 10;
/// Percent of what is needed that garbage may take while nobody uses the disk.
const PERCENT_AT_REST: u64 = 25;
/// Places filled between two heads.
const PLACES_AT_ONCE: usize = 16;

impl Core {
    /// Blocks of places in use that nobody needs, beyond what is left alone.
    fn excess(&self, percent: u64, least: u64) -> u64 {
        let usage = self.store.space.read().usage();
        let garbage = usage.used_blocks.saturating_sub(usage.live_blocks);
        garbage.saturating_sub((usage.live_blocks / 100 * percent).max(least))
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
        let excess = self.excess(percent, least);
        if excess == 0 || self.read_only {
            return Ok(false);
        }
        let wanted = usize::try_from(excess / SEGMENT_BLOCKS).unwrap_or(usize::MAX);
        // Where garbage comes faster than this clears it away at half speed, it goes at full speed.
        let usage = self.store.space.read().usage();
        let paced = least > 0 && excess < usage.live_blocks / 100 * percent;
        if !self.compact(checkpoints, wanted.clamp(1, PLACES_AT_ONCE), paced)? {
            return Ok(false);
        }
        // The places they left are free when a head says so.
        self.make_checkpoint(checkpoints)?;
        Ok(self.excess(percent, least) > 0)
    }

    /// Fills up to `places` places. False when nothing was gained.
    fn compact(&self, checkpoints: &Checkpoints, places: usize, paced: bool) -> Result<bool, BlockError> {
        let chosen = self.store.space.read().choose(checkpoints.now.log.segment, places);
        for moves in &chosen {
            let place = self.store.space.write().begin_move().ok_or_else(crate::pages::no_place)?;
            match self.copy(moves, place, paced) {
                Ok(()) => self.store.space.write().moved(moves, place),
                Err(error) => {
                    self.store.space.write().cancel_move(place);
                    return Err(error);
                }
            }
        }
        Ok(!chosen.is_empty())
    }

    /// Copies what moves to a place, one after the other.
    fn copy(&self, moves: &[Move], place: u32, paced: bool) -> Result<(), BlockError> {
        let addresses = moves.iter().flat_map(|one| one.blocks.slots().map(|slot| Address::new(one.segment, slot)));
        let addresses: Vec<Address> = addresses.collect();
        let mut buffer = self.store.pool.take(LARGE_BLOCKS);
        let mut to = place_offset(place);
        let mut result = Ok(());
        for some in addresses.chunks(LARGE_BLOCKS) {
            let bytes = some.len() * BLOCK_BYTES;
            let started = Instant::now();
            result = self.gather(some, &mut buffer.bytes_mut()[..bytes]).and_then(|()| {
                self.store.medium.write_at(to, &[&buffer.bytes()[..bytes]]).map_err(io_error("moving blocks"))
            });
            if result.is_err() {
                break;
            }
            if paced {
                // The guest has the disk for as long as this had it.
                self.wanted.rest(started.elapsed());
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
        let mut at = 0;
        for run in offsets.chunk_by(|a, b| a + BLOCK_BYTES as u64 == *b) {
            let len = run.len() * BLOCK_BYTES;
            let from = run.first().copied().unwrap_or_default();
            self.store.medium.read_at(from, &mut into[at..at + len]).map_err(io_error("reading what moves"))?;
            at += len;
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
