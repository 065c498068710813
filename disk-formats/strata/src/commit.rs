//! From memory into the file: batches, commits, syncs.

use benchtop_block::{BlockError, BlockErrorKind};

use crate::core::{Core, Writer};
use crate::disk::{io_error, now_ms};
use crate::layout::{BLOCK_BYTES, SEGMENT_BYTES, Tag};
use crate::log::Part;
use crate::pages::no_key;
use crate::record::{Record, SEALED_AT};

/// Batches that may wait for the file, before writes wait for them.
const CLOSED_MAX: usize = 16;
/// A batch of so few bytes was closed by a commit.
const SMALL_BYTES: u64 = 256 << 10;
/// After so many of them in a row the file is written ahead of them.
const SMALL_BATCHES: u32 = 4;
/// How far: what one commit in many pays for the others.
const AHEAD_BYTES: u64 = 1 << 20;

static ZEROES: [u8; 64 << 10] = [0; 64 << 10];

/// A batch as it goes into the file.
struct Outgoing {
    seq: u64,
    offset: u64,
    fresh: bool,
    parts: Vec<Part>,
}

impl Core {
    /// Sees to it that not too much waits for the file.
    pub fn relieve(&self) -> Result<(), BlockError> {
        let closed = self.usable()?.log.closed.len();
        if closed > 0
            && let Some(mut writer) =
                if closed > CLOSED_MAX { Some(self.writer.lock()) } else { self.writer.try_lock() }
        {
            self.push_out(&mut writer, u64::MAX)?;
        }
        Ok(())
    }

    /// Puts closed batches up to number `seq` into the file.
    pub fn push_out(&self, writer: &mut Writer, seq: u64) -> Result<(), BlockError> {
        loop {
            let outgoing = {
                let mut state = self.usable()?;
                match state.log.closed.front_mut() {
                    None => return Ok(()),
                    Some(batch) if batch.seq > seq => return Ok(()),
                    Some(batch) if batch.missing > 0 => {
                        self.published.wait(&mut state);
                        continue;
                    }
                    Some(batch) => {
                        batch.parts.sort_unstable_by_key(|part| part.first);
                        if batch.sealed.is_none() {
                            let record = Record {
                                seq: batch.seq,
                                previous: writer.previous,
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
                            batch.sealed = Some((block, tag));
                        }
                        Outgoing {
                            seq: batch.seq,
                            offset: batch.offset,
                            fresh: batch.fresh,
                            parts: batch.parts.clone(),
                        }
                    }
                }
            };
            self.put(writer, outgoing)?;
        }
    }

    /// Writes the oldest batch: record and data side by side, in one call.
    fn put(&self, writer: &mut Writer, outgoing: Outgoing) -> Result<(), BlockError> {
        let Some((record, tag)) = self.state.lock().log.closed.front_mut().and_then(|batch| batch.sealed.take()) else {
            return Err(no_key());
        };
        let result = self.write_batch(writer, &outgoing, record.bytes());
        let parts = {
            let mut state = self.state.lock();
            if let Err(error) = result {
                if let Some(batch) = state.log.closed.front_mut() {
                    batch.sealed = Some((record, tag));
                }
                if error.kind() != BlockErrorKind::NoSpace {
                    state.poisoned = true;
                }
                return Err(error);
            }
            writer.previous = tag;
            state.written_seq = outgoing.seq;
            state.appended += 1;
            let batch = state.log.closed.pop_front();
            if let Some(batch) = &batch {
                state.records.push((batch.address, batch.seq));
            }
            batch.map(|batch| batch.parts).unwrap_or_default()
        };
        self.store.pool.put(record);
        drop(outgoing.parts);
        parts.into_iter().for_each(|part| self.store.pool.put_shared(part.blocks));
        Ok(())
    }

    fn write_batch(&self, writer: &mut Writer, outgoing: &Outgoing, record: &[u8]) -> Result<(), BlockError> {
        let mut slices = Vec::with_capacity(outgoing.parts.len() + 1);
        slices.push(record);
        slices.extend(outgoing.parts.iter().map(Part::bytes));
        let len: u64 = slices.iter().map(|bytes| bytes.len() as u64).sum();
        let end = outgoing.offset + len;
        writer.small_batches = if len <= SMALL_BYTES { writer.small_batches.saturating_add(1) } else { 0 };
        let place_end = outgoing.offset - crate::layout::within_place(outgoing.offset) + SEGMENT_BYTES;
        let covered = (end..=place_end).contains(&writer.written_ahead);
        if outgoing.fresh && writer.small_batches > SMALL_BATCHES && !covered {
            // One sync that converts extents, or makes the file longer, for many that need not.
            let ahead = AHEAD_BYTES.min(place_end - end);
            let mut with_zeroes = slices.clone();
            let mut left = ahead as usize;
            while left > 0 {
                let len = left.min(ZEROES.len());
                with_zeroes.push(&ZEROES[..len]);
                left -= len;
            }
            if self.store.medium.write_at(outgoing.offset, &with_zeroes).is_ok() {
                writer.written_ahead = end + ahead;
                return Ok(());
            }
            // No room for that much, perhaps; the batch alone may have it.
        }
        self.store.medium.write_at(outgoing.offset, &slices).map_err(io_error("writing the log"))
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
            let mut writer = self.writer.lock();
            self.push_out(&mut writer, seq)?;
        }
        let mut synced = self.synced.lock();
        if *synced >= seq {
            return Ok(());
        }
        let written = self.usable()?.written_seq;
        if let Err(error) = self.store.medium.sync() {
            self.state.lock().poisoned = true;
            let context = format!("making the disk durable failed: {error}");
            return Err(BlockError::new(BlockErrorKind::Poisoned, context));
        }
        *synced = written;
        Ok(())
    }
}

/// A writer at the log's beginning.
impl Writer {
    /// After the record with that tag.
    pub fn after(previous: Tag) -> Self {
        Self { previous, written_ahead: 0, small_batches: 0 }
    }
}

const _: () = assert!(AHEAD_BYTES.is_multiple_of(BLOCK_BYTES as u64), "whole blocks");
