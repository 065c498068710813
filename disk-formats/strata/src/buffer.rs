//! Memory for blocks on their way to or from the file, aligned as direct I/O wants it, and kept for the next request.

use std::sync::Arc;

use parking_lot::Mutex;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

use crate::layout::BLOCK_BYTES;

/// Blocks of the larger kind of buffer: what one request is worked on at a time.
pub const LARGE_BLOCKS: usize = 256;
/// The sizes of buffers, in blocks, and how many of each are kept. Of single blocks, all that may wait for the file, and
/// some.
const SIZES: [(usize, usize); 3] = [(1, 4096), (64, 96), (LARGE_BLOCKS, 16)];

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, align(4096))]
struct Aligned([u8; BLOCK_BYTES]);

/// Some blocks that follow each other in memory.
pub struct Blocks {
    /// As many as one of [`SIZES`].
    memory: Vec<Aligned>,
    /// In use, from the first on.
    count: usize,
}

impl Blocks {
    fn new(room: usize, count: usize) -> Self {
        // Memory that the host has zeroed already is not touched before it is used.
        Self { memory: Aligned::new_vec_zeroed(room).unwrap_or_default(), count }
    }

    /// How many.
    pub fn count(&self) -> usize {
        self.count
    }

    /// All bytes.
    pub fn bytes(&self) -> &[u8] {
        self.memory.get(..self.count).unwrap_or_default().as_bytes()
    }

    /// All bytes.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        self.memory.get_mut(..self.count).unwrap_or_default().as_mut_bytes()
    }

    /// The bytes of blocks `first` and after, `count` of them. Empty where there are none.
    pub fn run(&self, first: usize, count: usize) -> &[u8] {
        self.bytes().get(first * BLOCK_BYTES..(first + count) * BLOCK_BYTES).unwrap_or_default()
    }

    /// The bytes of block `index`. Empty where there is none.
    pub fn block_mut(&mut self, index: usize) -> &mut [u8] {
        self.bytes_mut().get_mut(index * BLOCK_BYTES..(index + 1) * BLOCK_BYTES).unwrap_or_default()
    }
}

impl std::fmt::Debug for Blocks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Blocks").field("count", &self.count).finish_non_exhaustive()
    }
}

/// Buffers not in use.
#[derive(Debug, Default)]
pub struct Pool {
    /// Of each size.
    kept: [Mutex<Vec<Blocks>>; SIZES.len()],
}

impl Pool {
    /// A buffer of `count` blocks, at most [`LARGE_BLOCKS`]. What is in it is unspecified: the last user's bytes.
    pub fn take(&self, count: usize) -> Blocks {
        debug_assert!(count <= LARGE_BLOCKS, "{count}");
        let class = SIZES.iter().position(|(room, _)| count <= *room).unwrap_or(SIZES.len() - 1);
        let found = self.kept[class].lock().pop();
        match found {
            Some(mut blocks) => {
                blocks.count = count;
                blocks
            }
            None => Blocks::new(SIZES[class].0, count),
        }
    }

    /// Takes a buffer back.
    pub fn put(&self, blocks: Blocks) {
        let Some(class) = SIZES.iter().position(|(room, _)| blocks.memory.len() == *room) else { return };
        let mut kept = self.kept[class].lock();
        if kept.len() < SIZES[class].1 {
            kept.push(blocks);
        }
    }

    /// Takes a shared buffer back if nobody else has it.
    pub fn put_shared(&self, blocks: Arc<Blocks>) {
        if let Some(blocks) = Arc::into_inner(blocks) {
            self.put(blocks);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_aligned_and_used_again() {
        let pool = Pool::default();
        for count in [1, 2, 65, LARGE_BLOCKS] {
            let mut blocks = pool.take(count);
            assert_eq!(blocks.bytes().as_ptr().addr() % BLOCK_BYTES, 0);
            assert_eq!(blocks.bytes_mut().len(), count * BLOCK_BYTES);
            blocks.block_mut(count - 1).fill(7);
            assert_eq!(blocks.run(count - 1, 1), [7; BLOCK_BYTES]);
            let at = blocks.bytes().as_ptr();
            pool.put_shared(Arc::new(blocks));
            assert_eq!(pool.take(count).bytes().as_ptr(), at);
        }
    }
}
