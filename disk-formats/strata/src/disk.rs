//! An open disk: reading, writing, flushing.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use benchtop_block::{BlockError, BlockErrorKind, DiscardBehavior, DiskBackend, DiskInfo, Extent, ExtentKind, pieces};
use benchtop_memory::VolatileSlice;
use parking_lot::{Condvar, Mutex, MutexGuard, RwLock};

use crate::checkpoint::Checkpoints;
use crate::layout::{Address, BLOCK_BYTES, Block, Pointer, Tag, new_block};
use crate::log::Batch;
use crate::pages::{Store, no_key};
use crate::record::{Op, Record, SEALED_AT};
use crate::state::State;

/// Changed blocks that a checkpoint waits for. Random writes over a large disk change a page of the map each; the more
/// are gathered, the fewer pages are written more than once.
const CHANGED_MAX: usize = 256 << 10;
/// Blocks appended before a checkpoint: how much of the log an opening may have to read, 1 GiB.
const APPENDED_MAX: u64 = 256 << 10;
/// Batches that may wait for the file, before writes wait for them.
const CLOSED_MAX: usize = 16;
/// Locks for writes to parts of blocks; a run of blocks shares one.
const STRIPES: usize = 64;
const STRIPE_BLOCKS: u64 = 256;
/// Blocks of one write that are worked on at a time.
const PART_BLOCKS: u64 = 256;

/// Who writes the log.
#[derive(Debug)]
pub struct Writer {
    /// Tag of the newest record written.
    pub previous: Tag,
}

/// A Strata disk.
#[derive(Debug)]
pub struct StrataDisk {
    pub(crate) store: Store,
    pub(crate) state: Mutex<State>,
    /// A block that a batch waited for is there.
    pub(crate) published: Condvar,
    /// One thread at a time puts batches into the file, in their order.
    pub(crate) writer: Mutex<Writer>,
    /// The newest record known to be durable. Who syncs holds it.
    pub(crate) synced: Mutex<u64>,
    /// Held shared while a change is made, alone while changes are taken for a checkpoint.
    pub(crate) gate: RwLock<()>,
    /// Held shared while blocks are read, alone for a moment before old ones may be overwritten.
    pub(crate) readers: RwLock<()>,
    pub(crate) checkpoints: Mutex<Checkpoints>,
    pub(crate) stripes: Vec<RwLock<()>>,
    pub(crate) size_bytes: u64,
    pub(crate) read_only: bool,
}

/// Milliseconds since 1970, for people; nothing depends on it going forward.
pub(crate) fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| u64::try_from(time.as_millis()).unwrap_or(0))
}

/// Says what failed.
pub(crate) fn io_error(doing: &'static str) -> impl FnOnce(std::io::Error) -> BlockError {
    move |error| BlockError::from_io(format!("{doing} failed"), error)
}

fn poisoned() -> BlockError {
    BlockError::new(BlockErrorKind::Poisoned, "an earlier sync of this disk failed")
}

/// Where the content of a guest block comes from.
enum Source {
    Zeroes,
    /// Sealed, in memory.
    Pending(Pointer, Arc<Block>),
    /// In the file.
    Stored(Pointer),
}

impl StrataDisk {
    pub(crate) fn stripes() -> Vec<RwLock<()>> {
        (0..STRIPES).map(|_| RwLock::new(())).collect()
    }

    fn stripe(&self, lba: u64) -> &RwLock<()> {
        &self.stripes[(lba / STRIPE_BLOCKS) as usize % STRIPES]
    }

    fn usable<'a>(&self, state: MutexGuard<'a, State>) -> Result<MutexGuard<'a, State>, BlockError> {
        if state.poisoned { Err(poisoned()) } else { Ok(state) }
    }

    // ---- writing ----

    /// Writes whole blocks; `data` is as long.
    fn write_blocks(&self, lba: u64, data: &mut [Box<Block>]) -> Result<(), BlockError> {
        let mut lba = lba;
        let mut rest = data;
        while !rest.is_empty() {
            let zero = is_zero(&rest[0]);
            let run = rest.iter().take_while(|block| is_zero(block) == zero).count();
            let (part, after) = std::mem::take(&mut rest).split_at_mut(run);
            if zero {
                self.zero_blocks(lba, run as u64)?
            } else {
                self.append(lba, part)?
            }
            lba += run as u64;
            rest = after;
        }
        Ok(())
    }

    /// Appends blocks to the log.
    fn append(&self, lba: u64, data: &mut [Box<Block>]) -> Result<(), BlockError> {
        let mut done = 0;
        while done < data.len() {
            self.make_room()?;
            let gate = self.gate.read();
            let (reserved, order) = {
                let mut state = self.usable(self.state.lock())?;
                let mut space = self.store.space.write();
                let left = data.len() - done;
                let reserved = state.log.reserve(&mut space, lba + done as u64, left, now_ms())?;
                let order = state.changes.order + 1;
                state.changes.order += reserved.count as u64;
                (reserved, order)
            };
            let key = self.store.keys.of(reserved.seq).ok_or_else(no_key)?;
            let mut sealed = Vec::with_capacity(reserved.count);
            for (index, block) in data[done..done + reserved.count].iter_mut().enumerate() {
                let slot = reserved.address.slot() + index as u64;
                let address = Address::new(reserved.address.segment(), slot);
                let mut block = std::mem::replace(block, new_block());
                let tag = key.seal_block(address, &mut block[..]).ok_or_else(no_key)?;
                sealed.push((Pointer { address, birth: reserved.seq, tag }, Arc::from(block)));
            }
            let mut state = self.state.lock();
            let mut space = self.store.space.write();
            for (index, (pointer, block)) in sealed.into_iter().enumerate() {
                let block: Arc<Block> = block;
                space.mark(pointer.address);
                state.pending.insert(pointer.address, block.clone());
                if let Some(batch) = state.log.find(reserved.seq) {
                    batch.publish(reserved.first + index, block, pointer.tag);
                }
                let number = (done + index) as u64;
                state.changes.change(lba + number, pointer, order + index as u64, reserved.seq);
            }
            state.appended += reserved.count as u64;
            drop(space);
            drop(state);
            drop(gate);
            self.published.notify_all();
            done += reserved.count;
        }
        Ok(())
    }

    /// Makes whole blocks read as zeroes.
    fn zero_blocks(&self, lba: u64, count: u64) -> Result<(), BlockError> {
        self.make_room()?;
        let _readers = self.readers.read();
        let _gate = self.gate.read();
        let (seq, order, root) = {
            let mut state = self.usable(self.state.lock())?;
            let mut space = self.store.space.write();
            let seq = state.log.push(&mut space, Op::Zero { lba, count }, now_ms())?;
            drop(space);
            state.changes.order += 1;
            let order = state.changes.order;
            for changed in state.changes.within(lba, count) {
                state.changes.change(changed, Pointer::NONE, order, seq);
            }
            (seq, order, state.root)
        };
        let mut from = lba;
        while let Some((mapped, _)) = self.store.next_mapped(&root, from, lba + count)? {
            self.state.lock().changes.change(mapped, Pointer::NONE, order, seq);
            from = mapped + 1;
        }
        Ok(())
    }

    /// Sees to it that not too much waits for the file or for a checkpoint.
    fn make_room(&self) -> Result<(), BlockError> {
        let (closed, due, overdue) = {
            let state = self.usable(self.state.lock())?;
            let due = |times: usize| {
                state.changes.overlay.len() > CHANGED_MAX * times || state.appended > APPENDED_MAX * times as u64
            };
            (state.log.closed.len(), due(1), due(2))
        };
        if closed > 0
            && let Some(mut writer) =
                if closed > CLOSED_MAX { Some(self.writer.lock()) } else { self.writer.try_lock() }
        {
            self.push_out(&mut writer, u64::MAX)?;
        }
        if overdue || (due && self.checkpoints.try_lock().is_some()) {
            self.checkpoint()?;
        }
        Ok(())
    }

    /// Puts closed batches up to number `seq` into the file.
    pub(crate) fn push_out(&self, writer: &mut Writer, seq: u64) -> Result<(), BlockError> {
        loop {
            let mut batch = {
                let mut state = self.state.lock();
                match state.log.closed.front() {
                    None => return Ok(()),
                    Some(batch) if batch.seq > seq => return Ok(()),
                    Some(batch) if batch.missing > 0 => {
                        self.published.wait(&mut state);
                        continue;
                    }
                    Some(_) => {}
                }
                let mut state = self.usable(state)?;
                let Some(batch) = state.log.closed.pop_front() else { return Ok(()) };
                batch
            };
            let result = self.put(writer, &mut batch);
            let mut state = self.state.lock();
            match result {
                Ok(tag) => {
                    writer.previous = tag;
                    state.written_seq = batch.seq;
                    state.records.push((batch.address, batch.seq));
                    state.appended += 1;
                    for index in 0..batch.blocks.len() {
                        state.pending.remove(&batch.data_address(index));
                    }
                    self.store.space.write().mark(batch.address);
                }
                Err(error) => {
                    state.log.closed.push_front(batch);
                    if error.kind() != BlockErrorKind::NoSpace {
                        state.poisoned = true;
                    }
                    return Err(error);
                }
            }
        }
    }

    /// Writes one batch: record and data side by side, in one call.
    fn put(&self, writer: &Writer, batch: &mut Batch) -> Result<Tag, BlockError> {
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
            let mut block = record.encode();
            let key = self.store.keys.of(batch.seq).ok_or_else(no_key)?;
            let tag = key.seal_block(batch.address, &mut block[SEALED_AT..]).ok_or_else(no_key)?;
            block[..SEALED_AT].copy_from_slice(&tag);
            batch.sealed = Some((block, tag));
        }
        let (record, tag) = batch.sealed.as_ref().ok_or_else(no_key)?;
        let mut parts: Vec<&[u8]> = vec![&record[..]];
        parts.extend(batch.blocks.iter().flatten().map(|block| &block[..]));
        self.store.medium.write_at(batch.offset, &parts).map_err(io_error("writing the log"))?;
        Ok(*tag)
    }

    /// Makes everything so far durable; a commit if something changed.
    pub(crate) fn commit(&self) -> Result<u64, BlockError> {
        let seq = {
            let mut state = self.usable(self.state.lock())?;
            if state.log.uncommitted {
                if !state.log.is_open() {
                    state.log.ensure_open(&mut self.store.space.write())?;
                }
                let now = now_ms();
                state.log.close(true, now);
                let seq = state.log.seq();
                if state.retention.every_flush {
                    state.points.add(seq, now);
                }
            }
            state.log.seq()
        };
        self.make_durable(seq)?;
        Ok(seq)
    }

    /// Makes the log up to record `seq` durable. Who comes while another syncs shares the next sync.
    fn make_durable(&self, seq: u64) -> Result<(), BlockError> {
        if self.state.lock().written_seq < seq {
            let mut writer = self.writer.lock();
            self.push_out(&mut writer, seq)?;
        }
        let mut synced = self.synced.lock();
        if *synced >= seq {
            return Ok(());
        }
        let written = self.usable(self.state.lock())?.written_seq;
        if let Err(error) = self.store.medium.sync() {
            self.state.lock().poisoned = true;
            let context = format!("making the disk durable failed: {error}");
            return Err(BlockError::new(BlockErrorKind::Poisoned, context));
        }
        *synced = written;
        Ok(())
    }

    // ---- reading ----

    /// Fills `out` with whole blocks from `lba` on.
    pub(crate) fn read_blocks(&self, lba: u64, out: &mut [u8]) -> Result<(), BlockError> {
        let _readers = self.readers.read();
        let count = (out.len() / BLOCK_BYTES) as u64;
        let mut sources = Vec::with_capacity(count as usize);
        let mut unknown = Vec::new();
        let root = {
            let state = self.state.lock();
            for index in 0..count {
                sources.push(match state.changes.fresh(lba + index) {
                    Some(fresh) if fresh.pointer.address.is_none() => Source::Zeroes,
                    Some(fresh) => match state.pending.get(&fresh.pointer.address) {
                        Some(block) => Source::Pending(fresh.pointer, block.clone()),
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
            let pointer = self.store.lookup(&root, lba + index)?;
            if !pointer.address.is_none() {
                sources[index as usize] = Source::Stored(pointer);
            }
        }
        let mut at = 0;
        while at < sources.len() {
            let bytes = |index: usize| index * BLOCK_BYTES..(index + 1) * BLOCK_BYTES;
            match &sources[at] {
                Source::Zeroes => out[bytes(at)].fill(0),
                Source::Pending(pointer, block) => {
                    out[bytes(at)].copy_from_slice(&block[..]);
                    self.store.open(pointer, &mut out[bytes(at)])?;
                }
                Source::Stored(first) => {
                    // Neighbours in the file are read at once.
                    let run = sources[at..].iter().zip(0u64..).take_while(|(source, index)| {
                        let same_segment = first.address.slot() + index < crate::layout::SEGMENT_BLOCKS;
                        matches!(source, Source::Stored(pointer)
                            if same_segment && pointer.address.bits() == first.address.bits() + index)
                    });
                    let run = run.count();
                    let offset = self.store.locate(first)?;
                    let range = at * BLOCK_BYTES..(at + run) * BLOCK_BYTES;
                    self.store
                        .medium
                        .read_at(offset, &mut out[range])
                        .map_err(|error| BlockError::from_io(format!("reading at {offset:#x} failed"), error))?;
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

    /// Reads the block, changes a part of it, writes it back. The caller holds its stripe alone.
    fn change_part(&self, lba: u64, offset: usize, from: &[u8]) -> Result<(), BlockError> {
        let mut block = new_block();
        self.read_blocks(lba, &mut block[..])?;
        if let Some(part) = block.get_mut(offset..offset + from.len()) {
            part.copy_from_slice(from);
        }
        self.write_blocks(lba, std::slice::from_mut(&mut block))
    }

    /// Calls `whole` with every run of whole blocks (at most [`PART_BLOCKS`] long) under its shared lock, and `part`
    /// with every piece of a block under its own, in order: first block, offset in bytes from the request's start.
    fn split(
        &self,
        offset_bytes: u64,
        len_bytes: u64,
        mut whole: impl FnMut(u64, u64, u64) -> Result<(), BlockError>,
        mut part: impl FnMut(u64, usize, usize, u64) -> Result<(), BlockError>,
    ) -> Result<(), BlockError> {
        const UNIT: u64 = BLOCK_BYTES as u64;
        let end = offset_bytes + len_bytes;
        let mut at = offset_bytes;
        while at < end {
            let lba = at / UNIT;
            let stripe = self.stripe(lba);
            if at.is_multiple_of(UNIT) && end - at >= UNIT {
                let to_stripe_end = STRIPE_BLOCKS - lba % STRIPE_BLOCKS;
                let count = ((end - at) / UNIT).min(PART_BLOCKS).min(to_stripe_end);
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
}

fn is_zero(block: &Block) -> bool {
    block[0] == 0 && block.iter().all(|byte| *byte == 0)
}

/// Copies `into.len()` bytes from `offset` of the slices.
fn gather(from: &[VolatileSlice<'_>], offset: u64, into: &mut [u8]) {
    let mut skip = usize::try_from(offset).unwrap_or(usize::MAX);
    let mut done = 0;
    for slice in from {
        if skip >= slice.len() {
            skip -= slice.len();
            continue;
        }
        let len = (slice.len() - skip).min(into.len() - done);
        let Ok(part) = slice.subslice(skip, len) else { return };
        part.copy_to(&mut into[done..done + len]);
        done += len;
        skip = 0;
        if done == into.len() {
            return;
        }
    }
}

/// Copies `from` to `offset` of the slices.
fn scatter(from: &[u8], into: &[VolatileSlice<'_>], offset: u64) {
    let mut skip = usize::try_from(offset).unwrap_or(usize::MAX);
    let mut done = 0;
    for slice in into {
        if skip >= slice.len() {
            skip -= slice.len();
            continue;
        }
        let len = (slice.len() - skip).min(from.len() - done);
        let Ok(part) = slice.subslice(skip, len) else { return };
        part.copy_from(&from[done..done + len]);
        done += len;
        skip = 0;
        if done == from.len() {
            return;
        }
    }
}

impl DiskBackend for StrataDisk {
    fn info(&self) -> DiskInfo {
        DiskInfo {
            size_bytes: self.size_bytes,
            logical_block_bytes: 512,
            physical_block_bytes: BLOCK_BYTES as u32,
            read_only: self.read_only,
            discard: if self.read_only { DiscardBehavior::Ignored } else { DiscardBehavior::Zeroes },
            format: "strata",
        }
    }

    fn read_at(&self, offset_bytes: u64, into: &[VolatileSlice<'_>]) -> Result<(), BlockError> {
        let len_bytes = pieces::len_bytes(into);
        self.info().check_range(offset_bytes, len_bytes)?;
        const UNIT: u64 = BLOCK_BYTES as u64;
        let end = offset_bytes + len_bytes;
        let mut at = offset_bytes;
        let mut buffer = Vec::new();
        while at < end {
            let lba = at / UNIT;
            let until = end.min((lba + PART_BLOCKS) * UNIT);
            let blocks = until.div_ceil(UNIT) - lba;
            buffer.resize((blocks * UNIT) as usize, 0);
            self.read_blocks(lba, &mut buffer)?;
            let skip = (at - lba * UNIT) as usize;
            scatter(&buffer[skip..skip + (until - at) as usize], into, at - offset_bytes);
            at = until;
        }
        Ok(())
    }

    fn write_at(&self, offset_bytes: u64, from: &[VolatileSlice<'_>], fua: bool) -> Result<(), BlockError> {
        let len_bytes = pieces::len_bytes(from);
        self.info().check_write(offset_bytes, len_bytes)?;
        self.split(
            offset_bytes,
            len_bytes,
            |lba, count, at| {
                let mut data: Vec<Box<Block>> = (0..count).map(|_| new_block()).collect();
                for (index, block) in data.iter_mut().enumerate() {
                    gather(from, at + (index * BLOCK_BYTES) as u64, &mut block[..]);
                }
                self.write_blocks(lba, &mut data)
            },
            |lba, within, len, at| {
                let mut bytes = [0; BLOCK_BYTES];
                gather(from, at, &mut bytes[..len]);
                self.change_part(lba, within, &bytes[..len])
            },
        )?;
        if fua { self.commit().map(|_seq| ()) } else { Ok(()) }
    }

    fn flush(&self) -> Result<(), BlockError> {
        if self.read_only {
            return Ok(());
        }
        self.commit().map(|_seq| ())
    }

    fn discard(&self, offset_bytes: u64, len_bytes: u64) -> Result<(), BlockError> {
        self.info().check_write(offset_bytes, len_bytes)?;
        const UNIT: u64 = BLOCK_BYTES as u64;
        let (from, until) = (offset_bytes.div_ceil(UNIT), (offset_bytes + len_bytes) / UNIT);
        if until.saturating_sub(from) > STRIPE_BLOCKS {
            // The whole blocks in one go; the ends as below.
            let (head, tail) = (from * UNIT, until * UNIT);
            self.discard(offset_bytes, head - offset_bytes)?;
            {
                let _shared: Vec<_> = self.stripes.iter().map(|stripe| stripe.read()).collect();
                self.zero_blocks(from, until - from)?;
            }
            return self.discard(tail, offset_bytes + len_bytes - tail);
        }
        self.split(
            offset_bytes,
            len_bytes,
            |lba, count, _at| self.zero_blocks(lba, count),
            |lba, within, len, _at| self.change_part(lba, within, &[0; BLOCK_BYTES][..len]),
        )
    }

    fn extent_at(&self, offset_bytes: u64, limit_bytes: u64) -> Result<Extent, BlockError> {
        self.info().check_range(offset_bytes, limit_bytes)?;
        if limit_bytes == 0 {
            return Err(BlockError::new(BlockErrorKind::OutOfRange, "an empty range has no extents"));
        }
        const UNIT: u64 = BLOCK_BYTES as u64;
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
            while lba < until && mapped(lba)? {
                lba += 1;
            }
        } else {
            // Nothing changed lately and nothing mapped: the map says how far.
            let changed = {
                let state = self.state.lock();
                state
                    .changes
                    .within(lba, until.saturating_sub(lba))
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

impl Drop for StrataDisk {
    fn drop(&mut self) {
        if !self.read_only && !self.state.lock().poisoned {
            // What was acknowledged and not flushed may be lost; a clean end loses nothing.
            if let Err(error) = self.commit().and_then(|_seq| self.checkpoint()) {
                tracing::error!(%error, "the disk could not be closed cleanly; opening it will read the log");
            }
        }
    }
}
