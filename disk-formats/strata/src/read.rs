//! Reading: what changed since the checkpoint, then the map, then the file.

use std::sync::Arc;

use benchtop_block::{BlockError, BlockErrorKind, Extent, ExtentKind};

use crate::buffer::Blocks;
use crate::core::Core;
use crate::layout::{Address, BLOCK_BYTES, Pointer};
use crate::pages::FANOUT;
use crate::run::Run;

const UNIT: u64 = BLOCK_BYTES as u64;
/// Blocks that an extent of data is told for at once, at most: 1 GiB.
const EXTENT_BLOCKS_MAX: u64 = 256 << 10;

/// Where the content of a guest block comes from.
pub enum Source {
    /// Nobody has looked yet.
    Unknown,
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
        let mut rest = out;
        let mut at = 0;
        while at < sources.len() {
            let run = match &sources[at] {
                Source::Stored(_) => self.stored_run(&sources[at..])?,
                _ => Run::of_one(),
            };
            let (here, after) = rest.split_at_mut(run.count() * BLOCK_BYTES);
            rest = after;
            match &sources[at] {
                Source::Zeroes | Source::Unknown => here.fill(0),
                Source::Waiting(pointer, blocks, index) => {
                    here.copy_from_slice(blocks.run(*index, 1));
                    self.store.open(pointer, here)?;
                }
                Source::Stored(_) => {
                    self.store.read_run(&run, here)?;
                    for (source, block) in sources[at..].iter().zip(here.chunks_mut(BLOCK_BYTES)) {
                        if let Source::Stored(pointer) = source {
                            self.store.open(pointer, block)?;
                        }
                    }
                }
            }
            at += run.count();
        }
        Ok(())
    }

    /// Where `count` blocks from `lba` on are. The caller holds `readers`.
    pub fn sources(&self, lba: u64, count: usize) -> Result<Vec<Source>, BlockError> {
        let mut sources = Vec::with_capacity(count);
        let mut unknown = 0;
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
                        unknown += 1;
                        Source::Unknown
                    }
                });
            }
            state.root
        };
        if unknown == 0 {
            return Ok(sources);
        }
        let mut pointers = [Pointer::NONE; FANOUT as usize];
        for (some, lba) in sources.chunks_mut(pointers.len()).zip((lba..).step_by(pointers.len())) {
            let pointers = &mut pointers[..some.len()];
            if !some.iter().any(|source| matches!(source, Source::Unknown)) {
                continue;
            }
            self.store.lookup_run(&root, lba, pointers)?;
            for (source, pointer) in some.iter_mut().zip(pointers) {
                if matches!(source, Source::Unknown) {
                    *source = if pointer.address.is_none() { Source::Zeroes } else { Source::Stored(*pointer) };
                }
            }
        }
        Ok(sources)
    }

    /// How many of the sources, from the first on, lie one after the other in the file, or nearly so, and can be read at
    /// once.
    fn stored_run(&self, sources: &[Source]) -> Result<Run, BlockError> {
        let mut run = Run::default();
        // The next address, and how many from it on lie behind the last block for certain.
        let (mut next, mut known) = (Address::NONE, 0);
        let space = self.store.space.read();
        for source in sources {
            let Source::Stored(pointer) = source else { break };
            let address = pointer.address;
            let mut offset = run.end();
            if address != next || known == 0 {
                let Some(located) = space.locate_run(address) else {
                    if run.count() == 0 {
                        return Err(self.store.locate_in(&space, pointer).err().unwrap_or_else(crate::pages::no_place));
                    }
                    break;
                };
                (offset, known) = located;
            }
            if !run.add(offset) {
                break;
            }
            known -= 1;
            next = Address::from_bits(address.bits() + 1);
        }
        Ok(run)
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

#[cfg(test)]
mod tests;
