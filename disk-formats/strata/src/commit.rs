//! From memory into the file: batches, commits, syncs.

use std::sync::atomic::Ordering;

use benchtop_block::{BlockError, BlockErrorKind};

use crate::buffer::Blocks;
use crate::core::Core;
use crate::disk::{io_error, now_ms};
use crate::layout::{BLOCK_BYTES, SEGMENT_BYTES};
use crate::log::{Batch, Log, Part, Progress};
use crate::pages::no_key;
use crate::record::{Record, SEALED_AT};
use crate::state::State;

/// Batches that may wait for the file, before writes wait for them.
const CLOSED_MAX: usize = 16;
/// A batch of so few bytes was closed by a commit.
const SMALL_BYTES: u64 = 256 << 10;
/// After so many of them in a row the file is written ahead of them.
const SMALL_BATCHES: u32 = 4;
/// How far: what one commit in many pays for the others.
const AHEAD_BYTES: u64 = 1 << 20;

/// Room that the file gets at its end, at once: a part of what it has,
const RESERVED_PART: u64 = 2;
/// and no more than this.
const RESERVED_BYTES_MAX: u64 = 64 << 20;

/// Aligned as direct I/O wants it.
#[repr(align(4096))]
pub struct Zeroes(pub [u8; 64 << 10]);

/// Room written ahead.
pub static ZEROES: Zeroes = Zeroes([0; 64 << 10]);

/// A batch as it goes into the file.
pub struct Outgoing {
    seq: u64,
    offset: u64,
    record: Blocks,
    parts: Vec<Part>,
    /// Zeroes to be written behind it.
    ahead: u64,
    /// It is the first in a place where nothing was written before, and not a small one.
    reserve: bool,
}

/// What there is to write.
pub enum Claim {
    /// This.
    Batch(Outgoing),
    /// Others write what is left, or its data is not there yet.
    NotYet,
    /// All of it is in the file.
    Done,
}

/// The file's end, for one alone.
pub struct Held<'a>(&'a Core);

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.state.lock().log.held = false;
        self.0.moved.notify_all();
        self.0.full.notify_all();
    }
}

impl Core {
    /// Sees to it that not too much waits for the file: writes a batch if there are many or if nobody else will, and
    /// waits while there are many.
    pub fn relieve(&self) -> Result<(), BlockError> {
        loop {
            let (outgoing, many) = {
                let mut state = self.usable()?;
                let many = state.log.closed.len() > CLOSED_MAX;
                if !many && !state.log.failed && self.pens.load(Ordering::Relaxed) > 0 {
                    return Ok(());
                }
                match self.claim(&mut state, u64::MAX)? {
                    Claim::Batch(outgoing) => (outgoing, many),
                    Claim::NotYet if many => {
                        self.moved.wait(&mut state);
                        continue;
                    }
                    Claim::NotYet | Claim::Done => return Ok(()),
                }
            };
            self.put(outgoing)?;
            if !many {
                return Ok(());
            }
        }
    }

    /// Puts closed batches up to number `seq` into the file. Several threads do so at once: a record names the one
    /// before it, which is sealed by then, and a reader goes no further than to the first that is missing.
    pub fn push_out(&self, seq: u64) -> Result<(), BlockError> {
        loop {
            let outgoing = {
                let mut state = self.usable()?;
                match self.claim(&mut state, seq)? {
                    Claim::Batch(outgoing) => outgoing,
                    Claim::NotYet => {
                        self.moved.wait(&mut state);
                        continue;
                    }
                    Claim::Done => return Ok(()),
                }
            };
            self.put(outgoing)?;
        }
    }

    /// Waits until nobody writes to the log; nobody does until the result is dropped.
    pub fn hold(&self) -> Result<Held<'_>, BlockError> {
        let mut state = self.usable()?;
        while state.log.held || state.log.closed.iter().any(|batch| batch.progress == Progress::Writing) {
            self.moved.wait(&mut state);
            if state.poisoned {
                drop(state);
                state = self.usable()?;
            }
        }
        state.log.held = true;
        Ok(Held(self))
    }

    /// The oldest batch up to number `seq` that nobody writes yet, sealed.
    pub fn claim(&self, state: &mut State, seq: u64) -> Result<Claim, BlockError> {
        let Log { closed, previous, held, written_ahead, small_batches, .. } = &mut state.log;
        if closed.front().is_none_or(|batch| batch.seq > seq) {
            return Ok(Claim::Done);
        }
        let alone = closed.iter().all(|batch| batch.progress == Progress::Waiting);
        let Some(batch) = closed.iter_mut().find(|batch| batch.progress == Progress::Waiting) else {
            return Ok(Claim::NotYet);
        };
        if *held || batch.seq > seq || batch.missing > 0 {
            return Ok(Claim::NotYet);
        }
        let record = match batch.sealed.take() {
            Some(record) => record,
            None => {
                batch.parts.sort_unstable_by_key(|part| part.first);
                let record = Record {
                    seq: batch.seq,
                    previous: *previous,
                    time_ms: batch.time_ms,
                    next_segment: batch.successor.0,
                    next_place: batch.successor.1,
                    commit: batch.commit,
                    ops: std::mem::take(&mut batch.ops),
                };
                let mut block = self.store.pool.take(1);
                record.encode(block.bytes_mut());
                let key = self.store.keys.of(batch.seq).ok_or_else(no_key)?;
                let bytes = block.bytes_mut();
                let tag = key.seal_block(batch.address, &mut bytes[SEALED_AT..]).ok_or_else(no_key)?;
                bytes[..SEALED_AT].copy_from_slice(&tag);
                *previous = tag;
                block
            }
        };
        let len = (1 + batch.promised as u64) * BLOCK_BYTES as u64;
        *small_batches = if len <= SMALL_BYTES { small_batches.saturating_add(1) } else { 0 };
        let end = batch.offset + len;
        let place_end = batch.offset - crate::layout::within_place(batch.offset) + SEGMENT_BYTES;
        let covered = end == place_end || (end..=place_end).contains(written_ahead);
        let mut ahead = 0;
        if batch.fresh && *small_batches > SMALL_BATCHES && !covered && alone {
            // One sync that converts extents, or makes the file longer, for many that need not. What comes next waits,
            // or it would be overwritten.
            ahead = AHEAD_BYTES.min(place_end - end);
            (*held, *written_ahead) = (true, end + ahead);
        }
        if *small_batches > SMALL_BATCHES && (ahead > 0 || crate::layout::within_place(batch.offset) == 0) {
            self.wanted.want_places();
        }
        batch.progress = Progress::Writing;
        let Batch { seq, offset, fresh, .. } = *batch;
        let reserve = fresh && len > SMALL_BYTES && crate::layout::within_place(offset) == 0;
        Ok(Claim::Batch(Outgoing { seq, offset, record, parts: batch.parts.clone(), ahead, reserve }))
    }

    /// Writes a batch: record and data side by side, in one call.
    pub fn put(&self, outgoing: Outgoing) -> Result<(), BlockError> {
        let result = self.write_batch(&outgoing);
        let Outgoing { seq, record, parts, ahead, .. } = outgoing;
        drop(parts);
        let mut written = Vec::new();
        {
            let mut state = self.state.lock();
            if ahead > 0 {
                state.log.held = false;
            }
            match result {
                Ok(()) => {
                    if std::mem::take(&mut state.log.failed) {
                        self.full.notify_all();
                    }
                    if let Some(batch) = state.log.find(seq) {
                        batch.progress = Progress::Written;
                    }
                    while let Some(batch) = state.log.closed.pop_front_if(|batch| batch.progress == Progress::Written) {
                        state.written_seq = batch.seq;
                        state.appended += 1;
                        state.records.push((batch.address, batch.seq));
                        written.extend(batch.parts);
                    }
                    self.store.pool.put(record);
                }
                Err(error) => {
                    if let Some(batch) = state.log.find(seq) {
                        batch.progress = Progress::Waiting;
                        batch.sealed = Some(record);
                    }
                    if error.kind() != BlockErrorKind::NoSpace {
                        state.poisoned = true;
                    }
                    state.log.failed = true;
                    drop(state);
                    self.moved.notify_all();
                    return Err(error);
                }
            }
        }
        self.moved.notify_all();
        written.into_iter().for_each(|part| self.store.pool.put_shared(part.blocks));
        Ok(())
    }

    /// Gives a place room, before large batches go there: then none of them makes the file longer, and several can be
    /// under way. At the file's end it is more than one place, for the host's file system lets all writes under way end
    /// first.
    fn reserve_place(&self, offset: u64) {
        let reserved = self.reserved_until.load(Ordering::Relaxed);
        if offset + SEGMENT_BYTES <= reserved {
            return;
        }
        let end = self.store.space.read().end_bytes();
        let mut len = SEGMENT_BYTES;
        // The log has its next place already.
        if offset + 2 * SEGMENT_BYTES >= end {
            let grown = (offset - crate::layout::PLACES) / RESERVED_PART;
            len = (grown - grown % SEGMENT_BYTES).clamp(SEGMENT_BYTES, RESERVED_BYTES_MAX);
        }
        // Whether there is room at all, the write will tell.
        if self.store.medium.reserve(offset, len).is_ok() && len > SEGMENT_BYTES {
            self.reserved_until.fetch_max(offset + len, Ordering::Relaxed);
        }
    }

    fn write_batch(&self, outgoing: &Outgoing) -> Result<(), BlockError> {
        if outgoing.reserve {
            self.reserve_place(outgoing.offset);
        }
        let mut slices = Vec::with_capacity(outgoing.parts.len() + 1);
        slices.push(outgoing.record.bytes());
        slices.extend(outgoing.parts.iter().map(Part::bytes));
        let data = slices.len();
        let mut left = outgoing.ahead as usize;
        while left > 0 {
            let len = left.min(ZEROES.0.len());
            slices.push(&ZEROES.0[..len]);
            left -= len;
        }
        match self.store.medium.write_at(outgoing.offset, &slices) {
            // No room for that much, perhaps; the batch alone may have it.
            Err(_) if outgoing.ahead > 0 => self.store.medium.write_at(outgoing.offset, &slices[..data]),
            result => result,
        }
        .map_err(io_error("writing the log"))
    }

    /// Makes everything so far durable, with a record if something changed. `point`: a restore point, if retention
    /// wants one for every flush.
    pub fn commit(&self, point: bool) -> Result<u64, BlockError> {
        let seq = {
            let mut state = self.usable()?;
            let point = point && state.retention.every_flush;
            if state.log.uncommitted || (point && state.log.unpointed) {
                if !state.log.is_open() {
                    state.log.ensure_open(&mut self.store.space.write())?;
                }
                let now = now_ms();
                state.log.close(point, now);
                state.log.uncommitted = false;
                state.log.unpointed = !point;
                let seq = state.log.seq();
                if point {
                    state.points.add(seq, now);
                }
            }
            state.log.seq()
        };
        self.make_durable(seq)?;
        Ok(seq)
    }

    /// Makes the log up to record `seq` durable. Who comes while another syncs shares the next sync.
    pub fn make_durable(&self, seq: u64) -> Result<(), BlockError> {
        if self.state.lock().written_seq < seq {
            self.push_out(seq)?;
        }
        let mut synced = self.synced.lock();
        if *synced >= seq {
            return Ok(());
        }
        let written = self.usable()?.written_seq;
        self.sync("making the disk durable")?;
        *synced = written;
        Ok(())
    }
}

const _: () = assert!(AHEAD_BYTES.is_multiple_of(BLOCK_BYTES as u64), "whole blocks");
