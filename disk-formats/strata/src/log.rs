//! The log's end: records that are being filled, and where they will go.

use std::collections::VecDeque;
use std::sync::Arc;

use benchtop_block::BlockError;

use crate::buffer::Blocks;
use crate::head::LogPosition;
use crate::layout::{Address, SEGMENT_BLOCKS, Tag};
use crate::pages::no_place;
use crate::record::{DATA_MAX, OPS_BYTES_MAX, Op};
use crate::space::{Begun, Kind, Space};

/// Some data blocks of a batch, sealed: a run of a buffer.
#[derive(Clone, Debug)]
pub struct Part {
    /// The first one's number in the batch.
    pub first: usize,
    /// Where they are in memory.
    pub blocks: Arc<Blocks>,
    /// The first one's number in the buffer.
    pub from: usize,
    /// How many.
    pub count: usize,
}

impl Part {
    /// The sealed bytes.
    pub fn bytes(&self) -> &[u8] {
        self.blocks.run(self.from, self.count)
    }
}

/// How far a closed batch is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Nobody writes it yet.
    Waiting,
    /// Somebody does.
    Writing,
    /// It is in the file, and one before it is not.
    Written,
}

/// A record with its data, on its way to the file.
#[derive(Debug)]
pub struct Batch {
    /// The record's number.
    pub seq: u64,
    /// Where the record goes; its data follows.
    pub address: Address,
    /// Where that is in the file.
    pub offset: u64,
    /// A restore point may be here.
    pub commit: bool,
    /// When it was closed, in milliseconds since 1970.
    pub time_ms: u64,
    /// The segment after this one.
    pub successor: (u64, u32),
    /// Nothing was ever written into this segment's place before.
    pub fresh: bool,
    /// The changes. The tag of a write is filled in when its data is there.
    pub ops: Vec<Op>,
    /// The data, once it is there, in any order.
    pub parts: Vec<Part>,
    /// Whether it is on its way.
    pub progress: Progress,
    /// Data blocks promised.
    pub promised: usize,
    /// Data blocks promised and not there yet.
    pub missing: usize,
    /// For each data block, its operation.
    op_of: Vec<usize>,
    ops_bytes: usize,
    data_max: usize,
    /// The sealed record, from when a first attempt to write it failed: it is never sealed twice.
    pub sealed: Option<Blocks>,
}

impl Batch {
    /// Whether one more block of data fits.
    fn takes_data(&self) -> bool {
        self.promised < self.data_max && self.ops_bytes + 25 <= OPS_BYTES_MAX
    }

    /// Where data block `index` goes.
    pub fn data_address(&self, index: usize) -> Address {
        Address::new(self.address.segment(), self.address.slot() + 1 + index as u64)
    }

    /// Some data is there, with its tags.
    pub fn publish(&mut self, part: Part, tags: &[Tag]) {
        self.missing = self.missing.saturating_sub(part.count);
        for (index, data_tag) in (part.first..).zip(tags) {
            if let Some(Op::Write { tag, .. }) = self.op_of.get(index).and_then(|op| self.ops.get_mut(*op)) {
                *tag = *data_tag;
            }
        }
        self.parts.push(part);
    }

    /// The sealed block at `address`, if it is this batch's: a buffer and a number in it.
    pub fn block_at(&self, address: Address) -> Option<(Arc<Blocks>, usize)> {
        let index = usize::try_from(address.slot().checked_sub(self.address.slot() + 1)?).ok()?;
        let part = self.parts.iter().find(|part| (part.first..part.first + part.count).contains(&index))?;
        Some((part.blocks.clone(), part.from + index - part.first))
    }
}

/// Room in a batch for some data blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reserved {
    /// The batch.
    pub seq: u64,
    /// The first data block's number in it.
    pub first: usize,
    /// How many.
    pub count: usize,
    /// The address of the first.
    pub address: Address,
}

/// The log's end.
#[derive(Debug)]
pub struct Log {
    segment: u64,
    place: u32,
    next_slot: u64,
    /// Nothing was ever written into the place of this segment before.
    fresh: bool,
    successor: Begun,
    /// Number of the newest batch.
    seq: u64,
    open: Option<Batch>,
    /// Closed, not yet written, oldest first.
    pub closed: VecDeque<Batch>,
    /// Tag of the newest record that was sealed: the next one has it.
    pub previous: Tag,
    /// No batch is begun to be written while somebody wants the file's end for itself.
    pub held: bool,
    /// The file is written ahead up to here, in the place the log is in.
    pub written_ahead: u64,
    /// Small batches one after the other.
    pub small_batches: u32,
    /// A batch could not be written, and none was since: whoever writes next tries it, and hears why it fails.
    pub failed: bool,
    /// Something changed since the last commit.
    pub uncommitted: bool,
    /// Something was committed since the last restore point.
    pub unpointed: bool,
}

impl Log {
    /// Begins in a new segment; the next record gets the number after `seq`.
    ///
    /// # Errors
    /// No place.
    pub fn begin(space: &mut Space, seq: u64) -> Result<Self, BlockError> {
        let Begun { segment, place, fresh } = space.begin(Kind::Log).ok_or_else(no_place)?;
        let successor = space.begin(Kind::Log).ok_or_else(no_place)?;
        Ok(Self {
            segment,
            place,
            next_slot: 0,
            fresh,
            successor,
            seq,
            open: None,
            closed: VecDeque::new(),
            previous: [0; 16],
            held: false,
            written_ahead: 0,
            small_batches: 0,
            failed: false,
            uncommitted: false,
            unpointed: false,
        })
    }

    /// Number of the newest record, closed or not.
    pub fn seq(&self) -> u64 {
        self.seq
    }

    /// Goes on in a new segment, given that no record is open. Says which.
    ///
    /// # Errors
    /// No place.
    pub fn leave_segment(&mut self, space: &mut Space) -> Result<u64, BlockError> {
        let next = Self::begin(space, self.seq)?;
        space.end(self.segment);
        space.end(self.successor.segment);
        (self.segment, self.place, self.next_slot, self.successor) = (next.segment, next.place, 0, next.successor);
        self.fresh = next.fresh;
        Ok(self.segment)
    }

    /// Where the next record goes, given that none is open or waits. No reader finds the next segment from the end of a
    /// full one: it is a record that names it.
    pub fn position(&self) -> LogPosition {
        let Self { segment, place, next_slot: slot, seq, previous: tag, .. } = *self;
        if SEGMENT_BLOCKS - slot < 2 {
            let Begun { segment, place, .. } = self.successor;
            return LogPosition { segment, place, slot: 0, seq, tag };
        }
        LogPosition { segment, place, slot, seq, tag }
    }

    /// The open batch, a new one if there is none.
    fn batch(&mut self, space: &mut Space) -> Result<&mut Batch, BlockError> {
        if self.open.is_none() {
            // A record needs a block for itself and should have one for data.
            if SEGMENT_BLOCKS - self.next_slot < 2 {
                let after = space.begin(Kind::Log).ok_or_else(no_place)?;
                space.end(self.segment);
                Begun { segment: self.segment, place: self.place, fresh: self.fresh } = self.successor;
                self.successor = after;
                self.next_slot = 0;
            }
            self.seq += 1;
            let address = Address::new(self.segment, self.next_slot);
            space.mark(address, 1);
            let left = (SEGMENT_BLOCKS - self.next_slot - 1) as usize;
            self.open = Some(Batch {
                seq: self.seq,
                address,
                offset: crate::layout::place_offset(self.place) + self.next_slot * crate::layout::BLOCK_BYTES as u64,
                commit: false,
                time_ms: 0,
                successor: (self.successor.segment, self.successor.place),
                fresh: self.fresh,
                ops: Vec::new(),
                parts: Vec::new(),
                progress: Progress::Waiting,
                promised: 0,
                missing: 0,
                op_of: Vec::new(),
                ops_bytes: 0,
                data_max: DATA_MAX.min(left),
                sealed: None,
            });
        }
        self.open.as_mut().ok_or_else(no_place)
    }

    /// Promises data for guest blocks from `lba` on, as many of `count` as fit the open batch. A batch that is full is
    /// closed.
    ///
    /// # Errors
    /// No place.
    pub fn reserve(&mut self, space: &mut Space, lba: u64, count: usize, now_ms: u64) -> Result<Reserved, BlockError> {
        if self.open.as_ref().is_some_and(|batch| !batch.takes_data()) {
            self.close(false, now_ms);
        }
        let batch = self.batch(space)?;
        let first = batch.promised;
        let mut taken = 0;
        while taken < count && batch.takes_data() {
            batch.op_of.push(batch.ops.len());
            batch.ops.push(Op::Write { lba: lba + taken as u64, tag: [0; 16] });
            batch.ops_bytes += 25;
            batch.promised += 1;
            batch.missing += 1;
            taken += 1;
        }
        space.mark(batch.data_address(first), taken as u64);
        let reserved = Reserved { seq: batch.seq, first, count: taken, address: batch.data_address(first) };
        let full = !batch.takes_data();
        self.uncommitted = true;
        if full {
            self.close(false, now_ms);
        }
        Ok(reserved)
    }

    /// Adds an operation without data; says which record has it.
    ///
    /// # Errors
    /// No place.
    pub fn push(&mut self, space: &mut Space, op: Op, now_ms: u64) -> Result<u64, BlockError> {
        if self.open.as_ref().is_some_and(|batch| batch.ops_bytes + op.len() > OPS_BYTES_MAX) {
            self.close(false, now_ms);
        }
        let batch = self.batch(space)?;
        batch.ops_bytes += op.len();
        batch.ops.push(op);
        let seq = batch.seq;
        self.uncommitted = true;
        Ok(seq)
    }

    /// Ends the open record, or one made for it, with a commit that has a name. Says its number.
    ///
    /// # Errors
    /// No place.
    pub fn name_commit(&mut self, space: &mut Space, name: &str, now_ms: u64) -> Result<u64, BlockError> {
        let op = Op::Name { point: 0, name: name.to_owned() };
        if self.open.as_ref().is_some_and(|batch| batch.ops_bytes + op.len() > OPS_BYTES_MAX) {
            self.close(false, now_ms);
        }
        let batch = self.batch(space)?;
        let seq = batch.seq;
        batch.ops_bytes += op.len();
        batch.ops.push(Op::Name { point: seq, name: name.to_owned() });
        self.close(true, now_ms);
        Ok(seq)
    }

    /// Opens a batch if there is none, so that a commit has a record.
    ///
    /// # Errors
    /// No place.
    pub fn ensure_open(&mut self, space: &mut Space) -> Result<u64, BlockError> {
        Ok(self.batch(space)?.seq)
    }

    /// Closes the open batch, if any.
    pub fn close(&mut self, commit: bool, now_ms: u64) {
        if let Some(mut batch) = self.open.take() {
            batch.commit = commit;
            batch.time_ms = now_ms;
            self.next_slot += 1 + batch.promised as u64;
            self.closed.push_back(batch);
            if commit {
                (self.uncommitted, self.unpointed) = (false, false);
            }
        }
    }

    /// The batch of that number, if it is not written yet.
    pub fn find(&mut self, seq: u64) -> Option<&mut Batch> {
        if let Some(open) = self.open.as_mut().filter(|open| open.seq == seq) {
            return Some(open);
        }
        // They are numbered one after the other.
        let index = seq.checked_sub(self.closed.front()?.seq)?;
        self.closed.get_mut(usize::try_from(index).ok()?)
    }

    /// The sealed block at `address`, written by record `seq`, if it is not in the file yet.
    pub fn waiting(&self, seq: u64, address: Address) -> Option<(Arc<Blocks>, usize)> {
        if let Some(open) = self.open.as_ref().filter(|open| open.seq == seq) {
            return open.block_at(address);
        }
        let index = seq.checked_sub(self.closed.front()?.seq)?;
        self.closed.get(usize::try_from(index).ok()?)?.block_at(address)
    }

    /// Where the records go that are not in the file yet.
    pub fn record_addresses(&self) -> impl Iterator<Item = Address> + '_ {
        self.closed.iter().chain(&self.open).map(|batch| batch.address)
    }

    /// Whether a batch is open.
    pub fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// Whether that one is.
    pub fn is_open_at(&self, seq: u64) -> bool {
        self.open.as_ref().is_some_and(|batch| batch.seq == seq)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_follow_each_other_over_segments() {
        let mut space = Space::new();
        let mut log = Log::begin(&mut space, 0).unwrap();
        let mut last = Address::NONE;
        let mut left = 5000;
        while left > 0 {
            let reserved = log.reserve(&mut space, 0, left, 0).unwrap();
            assert!(reserved.count > 0 && reserved.address > last, "{reserved:?}");
            last = reserved.address;
            left -= reserved.count;
        }
        log.close(true, 0);
        let mut previous: Option<&Batch> = None;
        for batch in &log.closed {
            if let Some(previous) = previous {
                assert_eq!(batch.seq, previous.seq + 1);
                let follows = previous.address.slot() + 1 + previous.promised as u64;
                if batch.address.segment() == previous.address.segment() {
                    assert_eq!(batch.address.slot(), follows);
                } else {
                    assert_eq!((batch.address.segment(), batch.address.slot()), (previous.successor.0, 0));
                    assert!(SEGMENT_BLOCKS - follows < 2);
                }
            }
            assert!(batch.address.slot() + (batch.promised as u64) < SEGMENT_BLOCKS);
            previous = Some(batch);
        }
    }
}
