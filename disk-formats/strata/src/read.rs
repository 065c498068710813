//! Reading: what changed since the checkpoint, then the map, then the file.

use std::sync::Arc;

use benchtop_block::{BlockError, BlockErrorKind, Extent, ExtentKind};

use crate::buffer::Blocks;
use crate::core::Core;
use crate::layout::{BLOCK_BYTES, Pointer, SEGMENT_BLOCKS};

const UNIT: u64 = BLOCK_BYTES as u64;
/// Blocks that an extent of data is told for at once, at most: 1 GiB.
const EXTENT_BLOCKS_MAX: u64 = 256 << 10;

/// Where the content of a guest block comes from.
pub enum Source {
    /// From nowhere.
    Zeroes,
    /// Sealed, in memory: a buffer and a number in it.
    Waiting(Pointer, Arc<Blocks>, usize),
    /// In the file.
    Stored(Pointer),
}

impl Core {
    /// Fills `out` with whole blocks from `lba` on.
    pub fn read_blocks(&self, lba: u64, out: &mut [u8]) -> Result<(), BlockError> {
        let _readers = self.readers.read();
        let sources = self.sources(lba, out.len() / BLOCK_BYTES)?;
        let mut at = 0;
        while at < sources.len() {
            let bytes = |index: usize| index * BLOCK_BYTES..(index + 1) * BLOCK_BYTES;
            match &sources[at] {
                Source::Zeroes => out[bytes(at)].fill(0),
                Source::Waiting(pointer, blocks, index) => {
                    out[bytes(at)].copy_from_slice(blocks.run(*index, 1));
                    self.store.open(pointer, &mut out[bytes(at)])?;
                }
                Source::Stored(first) => {
                    let run = self.neighbours(&sources[at..], first);
                    let offset = self.store.locate(first)?;
                    let range = at * BLOCK_BYTES..(at + run) * BLOCK_BYTES;
                    let read = self.store.medium.read_at(offset, &mut out[range]);
                    read.map_err(|error| BlockError::from_io(format!("reading at {offset:#x} failed"), error))?;
                    for (index, source) in sources[at..at + run].iter().enumerate() {
                        if let Source::Stored(pointer) = source {
                            self.store.open(pointer, &mut out[bytes(at + index)])?;
                        }
                    }
                    at += run - 1;
                }
            }
            at += 1;
        }
        Ok(())
    }

    /// Where `count` blocks from `lba` on are. The caller holds `readers`.
    pub fn sources(&self, lba: u64, count: usize) -> Result<Vec<Source>, BlockError> {
        let mut sources = Vec::with_capacity(count);
        let mut unknown = Vec::new();
        let root = {
            let state = self.state.lock();
            for index in 0..count {
                sources.push(match state.changes.fresh(lba + index as u64) {
                    Some(fresh) if fresh.pointer.address.is_none() => Source::Zeroes,
                    Some(fresh) => match state.log.waiting(fresh.pointer.birth, fresh.pointer.address) {
                        Some((blocks, at)) => Source::Waiting(fresh.pointer, blocks, at),
                        None => Source::Stored(fresh.pointer),
                    },
                    None => {
                        unknown.push(index);
                        Source::Zeroes
                    }
                });
            }
            state.root
        };
        for index in unknown {
            let pointer = self.store.lookup(&root, lba + index as u64)?;
            if !pointer.address.is_none() {
                sources[index] = Source::Stored(pointer);
            }
        }
        Ok(sources)
    }

    /// How many of the sources lie one after the other in the file and can be read at once.
    fn neighbours(&self, sources: &[Source], first: &Pointer) -> usize {
        let space = self.store.space.read();
        let Some(offset) = space.locate(first.address) else { return 1 };
        let follows = |(source, index): &(&Source, u64)| {
            let Source::Stored(pointer) = source else { return false };
            let same_segment =
                first.address.slot() + index < SEGMENT_BLOCKS && pointer.address.bits() == first.address.bits() + index;
            same_segment && space.locate(pointer.address) == Some(offset + index * UNIT)
        };
        sources.iter().zip(0u64..).take_while(follows).count().max(1)
    }

    /// How far the kind of content at `offset_bytes` goes.
    pub fn extent(&self, offset_bytes: u64, limit_bytes: u64) -> Result<Extent, BlockError> {
        if limit_bytes == 0 {
            return Err(BlockError::new(BlockErrorKind::OutOfRange, "an empty range has no extents"));
        }
        let _readers = self.readers.read();
        let end = offset_bytes + limit_bytes;
        let (from, until) = (offset_bytes / UNIT, end.div_ceil(UNIT));
        let root = self.state.lock().root;
        let mapped = |lba: u64| -> Result<bool, BlockError> {
            let fresh = self.state.lock().changes.fresh(lba);
            match fresh {
                Some(fresh) => Ok(!fresh.pointer.address.is_none()),
                None => Ok(!self.store.lookup(&root, lba)?.address.is_none()),
            }
        };
        let is_data = mapped(from)?;
        let mut lba = from + 1;
        if is_data {
            // Told in parts: a caller asks for the rest, and a map without end does not keep it waiting.
            let until = until.min(from + EXTENT_BLOCKS_MAX);
            while lba < until && mapped(lba)? {
                lba += 1;
            }
        } else {
            // Nothing changed lately and nothing mapped: the map says how far.
            let changed = {
                let state = self.state.lock();
                let changed = state.changes.within(lba, until.saturating_sub(lba)).into_iter();
                changed
                    .into_iter()
                    .find(|lba| state.changes.fresh(*lba).is_some_and(|fresh| !fresh.pointer.address.is_none()))
            };
            let mut stored = lba;
            let next = loop {
                match self.store.next_mapped(&root, stored, until)? {
                    None => break None,
                    Some((lba, _)) if mapped(lba)? => break Some(lba),
                    Some((lba, _)) => stored = lba + 1,
                }
            };
            lba = changed.into_iter().chain(next).min().unwrap_or(until);
        }
        let kind = if is_data { ExtentKind::Data } else { ExtentKind::Zeroes };
        Ok(Extent { kind, len_bytes: (lba * UNIT).min(end) - offset_bytes })
    }
}
