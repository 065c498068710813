//! Tidying: what neighbours on the guest's disk and lies scattered in the file is written again, in order.
//!
//! A disk that was overwritten at random reads slowly from end to end. Where a whole window of it lies in many pieces
//! it goes through the log once more, as if the guest had written it. What restore points need is left alone, for it
//! would be there twice.

use std::time::{Duration, Instant};

use benchtop_block::BlockError;

use crate::core::{Core, STRIPE_BLOCKS};
use crate::layout::BLOCK_BYTES;
use crate::read::Source;

/// Pieces that a window may lie in: of 256 blocks, eight in a row are as good as all.
const PIECES_MAX: usize = 32;

/// How far a disk is tidied.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tidying {
    /// The guest block where it goes on.
    lba: u64,
    /// Mapped blocks that may still be found: there are no more of them than blocks that somebody needs, or a hostile
    /// map has the same ones again and again. Nothing before the first look.
    left: Option<u64>,
}

impl Core {
    /// Looks at windows for about `time`; says whether there are more.
    pub fn tidy(&self, tidying: &mut Tidying, time: Duration) -> Result<bool, BlockError> {
        let started = Instant::now();
        let end = self.size_bytes() / BLOCK_BYTES as u64;
        let mut left = tidying.left.unwrap_or_else(|| self.store.space.read().usage().live_blocks);
        while started.elapsed() < time {
            let root = self.state.lock().root;
            let Some((mapped, _)) = ({
                let _readers = self.readers.read();
                self.store.next_mapped(&root, tidying.lba, end)?
            }) else {
                return Ok(false);
            };
            let window = mapped - mapped % STRIPE_BLOCKS;
            let found = self.tidy_window(window, STRIPE_BLOCKS.min(end - window) as usize)?;
            tidying.lba = window + STRIPE_BLOCKS;
            // One at least, whatever became of it since.
            let Some(after) = left.checked_sub((found as u64).max(1)) else { return Ok(false) };
            left = after;
        }
        tidying.left = Some(left);
        Ok(true)
    }

    /// Says how many of its blocks are in the file.
    fn tidy_window(&self, lba: u64, count: usize) -> Result<usize, BlockError> {
        // A window is what shares a lock, so nobody else writes to it.
        let _alone = self.stripe(lba).write();
        let (found, scattered) = self.is_scattered(lba, count)?;
        if scattered {
            let mut blocks = self.store.pool.take(count);
            self.read_blocks(lba, blocks.bytes_mut())?;
            self.write_blocks(lba, blocks)?;
        }
        Ok(found)
    }

    /// How many blocks are in the file, and whether they lie in many pieces there.
    fn is_scattered(&self, lba: u64, count: usize) -> Result<(usize, bool), BlockError> {
        let _readers = self.readers.read();
        let sources = self.sources(lba, count)?;
        let pieces = sources.chunk_by(|a, b| match (a, b) {
            (Source::Stored(a), Source::Stored(b)) => a.address.bits() + 1 == b.address.bits(),
            (Source::Stored(_), _) | (_, Source::Stored(_)) => false,
            _ => true,
        });
        let stored = pieces.filter(|piece| matches!(piece.first(), Some(Source::Stored(_)))).count();
        let found = sources.iter().filter(|source| matches!(source, Source::Stored(_))).count();
        if stored <= PIECES_MAX {
            return Ok((found, false));
        }
        let state = self.state.lock();
        let needed = |source: &&Source| match source {
            Source::Stored(pointer) => state.points.needs(pointer.birth, u64::MAX),
            _ => false,
        };
        Ok((found, sources.iter().filter(needed).count() <= count / 16))
    }
}
