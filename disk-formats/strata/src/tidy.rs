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

impl Core {
    /// Looks at windows from guest block `lba` on for about `time`; says where it came to, or that there are no more.
    pub fn tidy(&self, mut lba: u64, time: Duration) -> Result<Option<u64>, BlockError> {
        let started = Instant::now();
        let end = self.size_bytes() / BLOCK_BYTES as u64;
        while started.elapsed() < time {
            let root = self.state.lock().root;
            let Some((mapped, _)) = ({
                let _readers = self.readers.read();
                self.store.next_mapped(&root, lba, end)?
            }) else {
                return Ok(None);
            };
            let window = mapped - mapped % STRIPE_BLOCKS;
            self.tidy_window(window, STRIPE_BLOCKS.min(end - window) as usize)?;
            lba = window + STRIPE_BLOCKS;
        }
        Ok(Some(lba))
    }

    fn tidy_window(&self, lba: u64, count: usize) -> Result<(), BlockError> {
        // A window is what shares a lock, so nobody else writes to it.
        let _alone = self.stripe(lba).write();
        if !self.is_scattered(lba, count)? {
            return Ok(());
        }
        let mut blocks = self.store.pool.take(count);
        self.read_blocks(lba, blocks.bytes_mut())?;
        self.write_blocks(lba, blocks)
    }

    fn is_scattered(&self, lba: u64, count: usize) -> Result<bool, BlockError> {
        let _readers = self.readers.read();
        let sources = self.sources(lba, count)?;
        let pieces = sources.chunk_by(|a, b| match (a, b) {
            (Source::Stored(a), Source::Stored(b)) => a.address.bits() + 1 == b.address.bits(),
            (Source::Stored(_), _) | (_, Source::Stored(_)) => false,
            _ => true,
        });
        let stored = pieces.filter(|piece| matches!(piece.first(), Some(Source::Stored(_)))).count();
        if stored <= PIECES_MAX {
            return Ok(false);
        }
        let state = self.state.lock();
        let needed = |source: &&Source| match source {
            Source::Stored(pointer) => state.points.needs(pointer.birth, u64::MAX),
            _ => false,
        };
        Ok(sources.iter().filter(needed).count() <= count / 16)
    }
}
