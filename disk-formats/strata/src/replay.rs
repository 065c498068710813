//! Reading the log: at opening, from the last checkpoint to its end; for a restore point, from its checkpoint to it.

use benchtop_block::BlockError;

use crate::head::LogPosition;
use crate::layout::{Address, BLOCK_BYTES, Block, Pointer, SEGMENT_BLOCKS, SEGMENT_BYTES, Tag, place_offset};
use crate::pages::Store;
use crate::record::{Op, Record, SEALED_AT};

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
    /// The segment being read.
    segment: Vec<u8>,
    loaded: Option<u64>,
    /// Data is checked, too: at opening, where a record may be there without it.
    checks_data: bool,
}

/// Whether a segment named by the log may be there: asked before it is followed.
pub type Follow<'a> = &'a mut dyn FnMut(u64, u32) -> bool;

impl<'a> Reader<'a> {
    /// From `position` on.
    pub fn new(store: &'a Store, position: LogPosition, checks_data: bool) -> Self {
        Self { store, position, segment: Vec::new(), loaded: None, checks_data }
    }

    /// Where it has come to.
    pub fn position(&self) -> LogPosition {
        self.position
    }

    fn load(&mut self) -> Result<(), BlockError> {
        if self.loaded != Some(self.position.segment) {
            self.segment.resize(SEGMENT_BYTES as usize, 0);
            let offset = place_offset(self.position.place);
            self.store
                .medium
                .read_at(offset, &mut self.segment)
                .map_err(|error| BlockError::from_io(format!("reading the log at {offset:#x} failed"), error))?;
            self.loaded = Some(self.position.segment);
        }
        Ok(())
    }

    fn block(&self, slot: u64) -> Option<Box<Block>> {
        let at = usize::try_from(slot).ok()?.checked_mul(BLOCK_BYTES)?;
        let mut block = crate::layout::new_block();
        block.copy_from_slice(self.segment.get(at..at.checked_add(BLOCK_BYTES)?)?);
        Some(block)
    }

    /// The next record; `None` at the end of the log: where the next would be is nothing whole.
    ///
    /// # Errors
    /// The host's.
    pub fn next(&mut self) -> Result<Option<Found>, BlockError> {
        self.load()?;
        let LogPosition { segment, slot, seq, tag: previous, .. } = self.position;
        let address = Address::new(segment, slot);
        let Some(mut block) = self.block(slot) else { return Ok(None) };
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
                let Some(mut data) = self.block(pointer.address.slot()) else { return Ok(None) };
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
