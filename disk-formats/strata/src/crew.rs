//! Reading a large piece of the disk with several threads: what one waits for the host's disk, others check and copy,
//! and the host's disk always has something to do.
//!
//! The threads are the process's, for all its disks, and begin with the first large read. A disk that has many requests
//! at once has threads enough: there, each reads alone.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, OnceLock};

use benchtop_block::{BlockError, pieces};
use benchtop_memory::VolatileSlice;
use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::buffer::{Blocks, LARGE_BLOCKS};
use crate::core::Core;
use crate::layout::BLOCK_BYTES;

const UNIT: u64 = BLOCK_BYTES as u64;
/// Blocks that one thread reads at a time when several read.
const PIECE_BLOCKS: u64 = 64;
/// Threads beside the one that was asked.
const HELPERS: usize = 3;
/// Large reads at once that still are split.
const LARGE_READS_MAX: u64 = 2;

fn crew() -> Option<&'static ThreadPool> {
    static CREW: OnceLock<Option<ThreadPool>> = OnceLock::new();
    let begin = || {
        let builder = ThreadPoolBuilder::new().num_threads(HELPERS).thread_name(|index| format!("strata-{index}"));
        builder.build().inspect_err(|error| tracing::warn!(%error, "no threads to read a disk with")).ok()
    };
    CREW.get_or_init(begin).as_ref()
}

/// Some bytes of the disk, in pieces of whole blocks but for the ends.
struct Pieces {
    from: u64,
    end: u64,
    piece_bytes: u64,
    next: AtomicU64,
}

impl Pieces {
    fn new(from: u64, end: u64, piece_blocks: u64) -> Self {
        Self { from, end, piece_bytes: piece_blocks * UNIT, next: AtomicU64::new(0) }
    }

    /// The next one that nobody has taken.
    fn take(&self) -> Option<(u64, u64)> {
        let first = self.from - self.from % UNIT;
        let from = first + self.next.fetch_add(1, Ordering::Relaxed) * self.piece_bytes;
        (from < self.end).then(|| (from.max(self.from), (from + self.piece_bytes).min(self.end)))
    }
}

/// Counts a read while it lasts.
struct Counted<'a>(&'a AtomicU64);

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Core {
    /// Reads bytes from `from` up to `end`, which is in range.
    pub fn read_bytes(self: &Arc<Self>, from: u64, end: u64, into: &[VolatileSlice<'_>]) -> Result<(), BlockError> {
        let put = |at: u64, until: u64, blocks: Result<Blocks, BlockError>| -> Result<(), BlockError> {
            let blocks = blocks?;
            let skip = (at % UNIT) as usize;
            pieces::scatter(&blocks.bytes()[skip..skip + (until - at) as usize], into, at - from);
            self.store.pool.put(blocks);
            Ok(())
        };
        if end - from > PIECE_BLOCKS * UNIT {
            let before = self.large_reads.fetch_add(1, Ordering::Relaxed);
            let _counted = Counted(&self.large_reads);
            if before < LARGE_READS_MAX
                && let Some(crew) = crew()
            {
                return self.read_together(crew, &Pieces::new(from, end, PIECE_BLOCKS), put);
            }
        }
        let pieces = Pieces::new(from, end, LARGE_BLOCKS as u64);
        while let Some((at, until)) = pieces.take() {
            put(at, until, self.read_piece(at, until))?;
        }
        Ok(())
    }

    fn read_piece(&self, at: u64, until: u64) -> Result<Blocks, BlockError> {
        let lba = at / UNIT;
        let mut blocks = self.store.pool.take((until.div_ceil(UNIT) - lba) as usize);
        match self.read_blocks(lba, blocks.bytes_mut()) {
            Ok(()) => Ok(blocks),
            Err(error) => {
                self.store.pool.put(blocks);
                Err(error)
            }
        }
    }

    /// Whoever is free takes the next piece; the guest's memory is this thread's to fill.
    fn read_together(
        &self,
        crew: &ThreadPool,
        pieces: &Pieces,
        put: impl Fn(u64, u64, Result<Blocks, BlockError>) -> Result<(), BlockError>,
    ) -> Result<(), BlockError> {
        let most = ((pieces.end - pieces.from).div_ceil(pieces.piece_bytes) + 1) as usize;
        crew.in_place_scope(|scope| {
            let (sender, receiver) = sync_channel(most);
            for _ in 0..HELPERS.min(most - 1) {
                let sender = sender.clone();
                scope.spawn(move |_| {
                    while let Some((at, until)) = pieces.take() {
                        // Nobody waits for it any more after an error.
                        let _unwanted = sender.send((at, until, self.read_piece(at, until)));
                    }
                });
            }
            drop(sender);
            while let Some((at, until)) = pieces.take() {
                put(at, until, self.read_piece(at, until))?;
                for (at, until, blocks) in receiver.try_iter() {
                    put(at, until, blocks)?;
                }
            }
            receiver.iter().try_for_each(|(at, until, blocks)| put(at, until, blocks))
        })
    }
}
