//! Reading the log: at opening, from the last checkpoint to its end; for a restore point, from its checkpoint to it.

use std::ops::Range;

use benchtop_block::{BlockError, BlockErrorKind};

use crate::head::LogPosition;
use crate::layout::{Address, BLOCK_BYTES, Block, Pointer, SEGMENT_BLOCKS, Tag, place_offset};
use crate::pages::Store;
use crate::record::{Op, Record, SEALED_AT};

/// Blocks of a segment that are read at once. Most logs end, and most restore points lie, not far from where reading
/// begins.
const WINDOW_BLOCKS: u64 = 64;

/// A record that was found, with where its data is.
#[derive(Debug)]
pub struct Found {
    /// The record.
    pub record: Record,
    /// Where it lies.
    pub address: Address,
}

impl Found {
    /// Its writes: guest block and pointer.
    pub fn writes(&self) -> impl Iterator<Item = (u64, Pointer)> + '_ {
        let data = self.record.ops.iter().filter_map(|op| match op {
            Op::Write { lba, tag } => Some((*lba, *tag)),
            _ => None,
        });
        (1..).zip(data).map(|(index, (lba, tag))| {
            let address = Address::new(self.address.segment(), self.address.slot() + index);
            (lba, Pointer { address, birth: self.record.seq, tag })
        })
    }
}

/// What the log's end is followed through.
pub struct Reader<'a> {
    store: &'a Store,
    position: LogPosition,
    /// A part of the segment being read,
    window: Vec<u8>,
    /// and which: the segment and its slots.
    loaded: Option<(u64, Range<u64>)>,
    /// Slots of it that the host can not read.
    unreadable: Vec<u64>,
    /// What can not be read ends the log, as if it were damaged: for a repair.
    passes_over: bool,
    /// Data is checked, too: at opening, where a record may be there without it.
    checks_data: bool,
}

/// Whether a segment named by the log may be there: asked before it is followed.
pub type Follow<'a> = &'a mut dyn FnMut(u64, u32) -> bool;

impl<'a> Reader<'a> {
    /// From `position` on.
    pub fn new(store: &'a Store, position: LogPosition, checks_data: bool) -> Self {
        let (window, unreadable) = (Vec::new(), Vec::new());
        Self { store, position, window, loaded: None, unreadable, passes_over: false, checks_data }
    }

    /// What the host can not read ends the log instead of being an error.
    pub fn pass_over(&mut self, passes_over: bool) {
        self.passes_over = passes_over;
    }

    /// Where it has come to.
    pub fn position(&self) -> LogPosition {
        self.position
    }

    /// Sees to it that the block of the segment is in memory.
    fn load(&mut self, slot: u64) {
        let segment = self.position.segment;
        if self.loaded.as_ref().is_some_and(|(loaded, slots)| *loaded == segment && slots.contains(&slot)) {
            return;
        }
        let slots = slot.min(SEGMENT_BLOCKS)..(slot + WINDOW_BLOCKS).min(SEGMENT_BLOCKS);
        self.window.clear();
        self.window.resize(slots.clone().count() * BLOCK_BYTES, 0);
        self.unreadable.clear();
        let offsets: Vec<Option<u64>> = if self.checks_data {
            // Where it was written: nothing of it moved yet.
            let offset = place_offset(self.position.place);
            slots.clone().map(|slot| Some(offset + slot * BLOCK_BYTES as u64)).collect()
        } else {
            let space = self.store.space.read();
            slots.clone().map(|slot| space.locate(Address::new(segment, slot))).collect()
        };
        let follows = |a: &Option<u64>, b: &Option<u64>| match (a, b) {
            (Some(a), Some(b)) => a + BLOCK_BYTES as u64 == *b,
            _ => false,
        };
        let medium = &*self.store.medium;
        let mut done = 0;
        for run in offsets.chunk_by(follows) {
            let into = self.window.get_mut(done * BLOCK_BYTES..(done + run.len()) * BLOCK_BYTES).unwrap_or_default();
            if let Some(Some(offset)) = run.first()
                && medium.read_at(*offset, into).is_err()
            {
                // A bad sector behind the log's end harms nobody.
                for (block, index) in into.chunks_exact_mut(BLOCK_BYTES).zip(0u64..) {
                    if medium.read_at(offset + index * BLOCK_BYTES as u64, block).is_err() {
                        self.unreadable.push(slots.start + done as u64 + index);
                    }
                }
            }
            done += run.len();
        }
        self.loaded = Some((segment, slots));
    }

    fn block(&mut self, slot: u64) -> Result<Option<Box<Block>>, BlockError> {
        self.load(slot);
        if self.unreadable.contains(&slot) {
            let segment = self.position.segment;
            let context = format!("reading the log at segment {segment}, block {slot} failed");
            return if self.passes_over { Ok(None) } else { Err(BlockError::new(BlockErrorKind::Io, context)) };
        }
        let Some((_, slots)) = &self.loaded else { return Ok(None) };
        let at = (slot - slots.start) as usize * BLOCK_BYTES;
        let Some(bytes) = self.window.get(at..at + BLOCK_BYTES) else { return Ok(None) };
        let mut block = crate::layout::new_block();
        block.copy_from_slice(bytes);
        Ok(Some(block))
    }

    /// The next record; `None` at the end of the log: where the next would be is nothing whole.
    ///
    /// # Errors
    /// The host's.
    pub fn next(&mut self) -> Result<Option<Found>, BlockError> {
        let LogPosition { segment, slot, seq, tag: previous, .. } = self.position;
        let address = Address::new(segment, slot);
        let Some(mut block) = self.block(slot)? else { return Ok(None) };
        let tag: Tag = crate::bytes::get(&block[..], 0);
        let Some(key) = self.store.keys.of(seq + 1) else { return Ok(None) };
        if !key.open_block(address, &mut block[SEALED_AT..], &tag) {
            return Ok(None);
        }
        let Some(record) = Record::decode(&block) else { return Ok(None) };
        let after = slot + 1 + record.data_count() as u64;
        if record.seq != seq + 1 || record.previous != previous || after > SEGMENT_BLOCKS {
            return Ok(None);
        }
        let found = Found { record, address };
        if self.checks_data {
            for (_, pointer) in found.writes() {
                let Some(mut data) = self.block(pointer.address.slot())? else { return Ok(None) };
                if !key.open_block(pointer.address, &mut data[..], &pointer.tag) {
                    return Ok(None);
                }
            }
        }
        self.position = LogPosition { slot: after, seq: seq + 1, tag, ..self.position };
        Ok(Some(found))
    }

    /// Goes on to the segment after this one where the record that was just read was its last. False when there is no
    /// such segment.
    pub fn follow(&mut self, found: &Found, allowed: Follow<'_>) -> bool {
        if SEGMENT_BLOCKS - self.position.slot >= 2 {
            return true;
        }
        let (segment, place) = (found.record.next_segment, found.record.next_place);
        let forward = segment > self.position.segment && segment <= crate::layout::SEGMENT_MAX;
        if !forward || !allowed(segment, place) {
            return false;
        }
        self.position = LogPosition { segment, place, slot: 0, ..self.position };
        true
    }
}
