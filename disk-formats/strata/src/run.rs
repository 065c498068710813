//! Blocks that lie near each other in the file and are read in one go.

use std::io::IoSliceMut;

use benchtop_block::BlockError;

use crate::disk::io_error;
use crate::layout::BLOCK_BYTES;
use crate::pages::Store;

const UNIT: u64 = BLOCK_BYTES as u64;
/// Blocks that are read and thrown away rather than begin another read: a record lies between the data of two, and what
/// died between what compaction moves.
const GAP_BLOCKS_MAX: usize = 8;
/// Of one read.
const GAPS_MAX: usize = 16;

/// Blocks that are not wanted, in a run.
#[derive(Debug)]
struct Gap {
    /// Behind so many that are.
    after: usize,
    blocks: usize,
}

/// Blocks that one read brings, in the order of the file.
#[derive(Debug, Default)]
pub struct Run {
    /// Wanted ones.
    count: usize,
    /// In the file.
    offset: u64,
    end: u64,
    gaps: Vec<Gap>,
}

impl Run {
    /// A block that needs no reading.
    pub fn of_one() -> Self {
        Self { count: 1, ..Self::default() }
    }

    /// As many blocks of the file as there are from the first on.
    pub fn first_of(offsets: &[u64]) -> Self {
        let mut run = Self::default();
        let _all = offsets.iter().all(|offset| run.add(*offset));
        run
    }

    /// Wanted blocks.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Where it ends in the file.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// Adds the block at `offset` in the file, unless it is too far behind the last.
    pub fn add(&mut self, offset: u64) -> bool {
        if self.count == 0 {
            (self.offset, self.end) = (offset, offset);
        }
        let Some(blocks) = offset.checked_sub(self.end).map(|bytes| (bytes / UNIT) as usize) else { return false };
        if blocks > 0 {
            if blocks > GAP_BLOCKS_MAX || self.gaps.len() == GAPS_MAX {
                return false;
            }
            self.gaps.push(Gap { after: self.count, blocks });
        }
        self.count += 1;
        self.end = offset + UNIT;
        true
    }
}

impl Store {
    /// Reads the blocks of a run, one after the other, as they are.
    ///
    /// # Errors
    /// The host's.
    pub fn read_run(&self, run: &Run, mut into: &mut [u8]) -> Result<(), BlockError> {
        let between: usize = run.gaps.iter().map(|gap| gap.blocks).sum();
        let mut skipped = self.pool.take(between);
        let mut left = skipped.bytes_mut();
        let mut slices = Vec::with_capacity(2 * run.gaps.len() + 1);
        let mut at = 0;
        for gap in &run.gaps {
            let (wanted, after) = into.split_at_mut((gap.after - at) * BLOCK_BYTES);
            let (unwanted, others) = left.split_at_mut(gap.blocks * BLOCK_BYTES);
            slices.extend([IoSliceMut::new(wanted), IoSliceMut::new(unwanted)]);
            (into, left, at) = (after, others, gap.after);
        }
        slices.push(IoSliceMut::new(into));
        let read = self.medium.read_all_at(run.offset, &mut slices);
        drop(slices);
        self.pool.put(skipped);
        read.map_err(io_error("reading the disk's file"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(blocks: &[u64]) -> usize {
        Run::first_of(&blocks.iter().map(|block| block * UNIT).collect::<Vec<u64>>()).count()
    }

    #[test]
    fn what_is_near_is_read_at_once() {
        assert_eq!(count(&[]), 0);
        assert_eq!(count(&[5, 6, 7, 4]), 3, "never backwards");
        assert_eq!(count(&[5, 5]), 1, "nor the same again");
        let far = 7 + 2 + GAP_BLOCKS_MAX as u64;
        assert_eq!(count(&[5, 7, far - 1]), 3);
        assert_eq!(count(&[5, 7, far]), 2);
        let every_second: Vec<u64> = (0..40).map(|block| 2 * block).collect();
        assert_eq!(count(&every_second), GAPS_MAX + 1);
    }
}
