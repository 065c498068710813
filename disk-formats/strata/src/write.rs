//! Writing and discarding: into memory, and into the log.

use std::sync::Arc;

use benchtop_block::BlockError;

use crate::buffer::Blocks;
use crate::core::{Core, STRIPE_BLOCKS};
use crate::disk::now_ms;
use crate::layout::{Address, BLOCK_BYTES, Pointer, Tag};
use crate::log::{Part, Reserved};
use crate::pages::no_key;

const UNIT: u64 = BLOCK_BYTES as u64;
/// Blocks that are copied and sealed at a time: what was copied is still in the processor's cache when it is sealed.
const PIECE_BLOCKS: u64 = 64;

fn is_zero(block: &[u8]) -> bool {
    block.first() == Some(&0) && block.iter().all(|byte| *byte == 0)
}

impl Core {
    /// Writes whole blocks, at most [`PIECE_BLOCKS`], whose content is in a buffer.
    pub fn write_blocks(&self, lba: u64, blocks: Blocks) -> Result<(), BlockError> {
        let count = blocks.count();
        let zero_at = |index: usize| is_zero(blocks.run(index, 1));
        let mut runs: Vec<(usize, usize, bool)> = Vec::new();
        for index in 0..count {
            let zero = zero_at(index);
            match runs.last_mut() {
                Some((_, len, kind)) if *kind == zero => *len += 1,
                _ => runs.push((index, 1, zero)),
            }
        }
        if runs.iter().all(|(_, _, zero)| *zero) {
            self.store.pool.put(blocks);
            return self.zero_blocks(lba, count as u64);
        }
        self.append(lba, blocks, &runs)
    }

    /// Appends runs of a buffer (first, count, whether it is zeroes) to the log, in their order.
    fn append(&self, lba: u64, mut blocks: Blocks, runs: &[(usize, usize, bool)]) -> Result<(), BlockError> {
        self.make_room(blocks.count() as u64)?;
        let _readers = self.readers.read();
        let _gate = self.gate.read();
        let zeroes = runs.iter().filter(|(_, _, zero)| *zero);
        let cleared = zeroes.map(|(first, len, _)| {
            let lba = lba + *first as u64;
            self.to_clear(lba, lba + *len as u64)
        });
        let mut cleared = cleared.collect::<Result<Vec<_>, _>>()?.into_iter();
        // Each with its place in the buffer and the order of its changes.
        let mut promised: Vec<(Reserved, usize, u64)> = Vec::with_capacity(runs.len() + 1);
        {
            let mut state = self.usable()?;
            let mut space = self.store.space.write();
            let now = now_ms();
            for (first, len, zero) in runs {
                let mut done = 0;
                if *zero {
                    // A run is so short that it can be cleared in one go.
                    if let Some(cleared) = cleared.next() {
                        Self::clear(&mut state, &mut space, cleared)?;
                    }
                    continue;
                }
                while done < *len {
                    let reserved = state.log.reserve(&mut space, lba + (first + done) as u64, len - done, now);
                    let reserved = match reserved {
                        Ok(reserved) => reserved,
                        // What is promised must come, or the log stops for ever.
                        Err(error) if promised.is_empty() => return Err(error),
                        Err(error) => {
                            state.poisoned = true;
                            return Err(error);
                        }
                    };
                    promised.push((reserved, first + done, state.changes.order + 1));
                    state.changes.order += reserved.count as u64;
                    done += reserved.count;
                }
            }
        }
        let mut tags: Vec<Tag> = Vec::with_capacity(blocks.count());
        for (reserved, from, _) in &promised {
            let key = self.store.keys.of(reserved.seq).ok_or_else(no_key)?;
            for index in 0..reserved.count {
                let address = Address::new(reserved.address.segment(), reserved.address.slot() + index as u64);
                tags.push(key.seal_block(address, blocks.block_mut(from + index)).ok_or_else(no_key)?);
            }
        }
        let blocks = Arc::new(blocks);
        let (mut waiting, mut full) = (false, false);
        {
            let mut state = self.state.lock();
            let mut rest = &tags[..];
            for (reserved, from, order) in promised {
                let (these, after) = rest.split_at(reserved.count);
                rest = after;
                let part = Part { first: reserved.first, blocks: blocks.clone(), from, count: reserved.count };
                if let Some(batch) = state.log.find(reserved.seq) {
                    batch.publish(part, these);
                    waiting |= batch.missing == 0;
                }
                full |= waiting && !state.log.is_open_at(reserved.seq);
                for (index, tag) in (0u64..).zip(these) {
                    let address = Address::new(reserved.address.segment(), reserved.address.slot() + index);
                    let pointer = Pointer { address, birth: reserved.seq, tag: *tag };
                    state.changes.change(lba + from as u64 + index, pointer, order + index, reserved.seq);
                }
                state.appended += reserved.count as u64;
            }
        }
        if waiting {
            self.moved.notify_all();
        }
        if full {
            self.full.notify_one();
        }
        Ok(())
    }

    /// Reads the block, changes a part of it, writes it back. The caller holds its stripe alone.
    pub fn change_part(&self, lba: u64, offset: usize, from: &[u8]) -> Result<(), BlockError> {
        let mut blocks = self.store.pool.take(1);
        self.read_blocks(lba, blocks.bytes_mut())?;
        if let Some(part) = blocks.bytes_mut().get_mut(offset..offset + from.len()) {
            part.copy_from_slice(from);
        }
        self.write_blocks(lba, blocks)
    }

    /// Calls `whole` with every run of whole blocks (at most [`PIECE_BLOCKS`] long) under its shared lock, and `part`
    /// with every piece of a block under its own, in order: first block, offset in bytes from the request's start.
    pub fn split(
        &self,
        offset_bytes: u64,
        len_bytes: u64,
        mut whole: impl FnMut(u64, u64, u64) -> Result<(), BlockError>,
        mut part: impl FnMut(u64, usize, usize, u64) -> Result<(), BlockError>,
    ) -> Result<(), BlockError> {
        let end = offset_bytes + len_bytes;
        let mut at = offset_bytes;
        while at < end {
            let lba = at / UNIT;
            let stripe = self.stripe(lba);
            if at.is_multiple_of(UNIT) && end - at >= UNIT {
                let to_stripe_end = STRIPE_BLOCKS - lba % STRIPE_BLOCKS;
                let count = ((end - at) / UNIT).min(PIECE_BLOCKS).min(to_stripe_end);
                let _shared = stripe.read();
                whole(lba, count, at - offset_bytes)?;
                at += count * UNIT;
            } else {
                let within = at % UNIT;
                let len = (UNIT - within).min(end - at);
                let _alone = stripe.write();
                part(lba, within as usize, len as usize, at - offset_bytes)?;
                at += len;
            }
        }
        Ok(())
    }

    /// Makes a range read as zeroes.
    pub fn discard_range(&self, offset_bytes: u64, len_bytes: u64) -> Result<(), BlockError> {
        let (from, until) = (offset_bytes.div_ceil(UNIT), (offset_bytes + len_bytes) / UNIT);
        if until.saturating_sub(from) > STRIPE_BLOCKS {
            // The whole blocks in one go; the ends as below.
            let (head, tail) = (from * UNIT, until * UNIT);
            self.discard_range(offset_bytes, head - offset_bytes)?;
            {
                let _shared: Vec<_> = self.stripes.iter().map(|stripe| stripe.read()).collect();
                self.zero_blocks(from, until - from)?;
            }
            return self.discard_range(tail, offset_bytes + len_bytes - tail);
        }
        self.split(
            offset_bytes,
            len_bytes,
            |lba, count, _at| self.zero_blocks(lba, count),
            |lba, within, len, _at| self.change_part(lba, within, &[0; BLOCK_BYTES][..len]),
        )
    }
}
