//! Copying and comparing disks of any format.
//!
//! ```text
//!   caller's thread: extents of both disks ─▶ jobs of a piece each ─▶ workers: read, look for zeroes, write
//!          └─ progress, cancelling ◀────────────── bytes done ◀─────────┘
//! ```
//!
//! What a disk says it does not store is not read. Memory is bounded: each worker has two buffers of a piece
//! ([`PIECE_BYTES`]), and a few jobs per worker wait.

use std::collections::VecDeque;
use std::num::NonZero;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use benchtop_memory::VolatileSlice;
use parking_lot::{Condvar, Mutex};

use crate::{BlockError, BlockErrorKind, DiscardBehavior, DiskBackend, ExtentKind};

/// What one worker reads at a time, in bytes. Pieces begin at multiples of it, so no two workers write one cluster of
/// any format.
pub const PIECE_BYTES: usize = 2 << 20;
/// Runs of zeroes this long, in bytes and at its multiples, are not written to a target that holds zeroes anyway.
pub const ZERO_BYTES: usize = 4096;
/// How far a disk is asked about at once, in bytes: workers shall not wait for a long answer.
const WINDOW_BYTES: u64 = 64 << 20;
/// The same where there is nothing but holes.
const WINDOW_BYTES_MAX: u64 = 1 << 50;
const WORKERS_MIN: usize = 2;
const WORKERS_MAX: usize = 8;
/// Jobs that wait for each worker.
const JOBS_PER_WORKER: usize = 2;
/// How often the caller is told.
const TELL_EVERY: Duration = Duration::from_millis(50);

static ZEROES: [u8; ZERO_BYTES] = [0; ZERO_BYTES];

/// How far it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of the disk behind it, holes included.
    pub done_bytes: u64,
    /// Bytes of the disk.
    pub total_bytes: u64,
    /// All is copied; the host makes it durable. It can no longer be cancelled.
    pub flushing: bool,
}

/// Why it did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// Of the source, or the first of two disks that are compared.
    #[error(transparent)]
    Source(BlockError),
    /// Of the target, or the second.
    #[error(transparent)]
    Target(BlockError),
    /// The caller's wish.
    #[error("it was cancelled")]
    Cancelled,
}

/// Which of two disks has something to be looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Touch {
    Neither,
    First,
    Second,
    Both,
}

/// A range in which that is the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Part {
    offset_bytes: u64,
    len_bytes: u64,
    touch: Touch,
}

/// Parts for one worker, ascending.
#[derive(Debug, Default)]
struct Job {
    parts: Vec<Part>,
    /// Bytes of the disk that are behind us with it, those of holes before its parts included.
    bytes: u64,
}

/// Makes `target` hold what `source` does, and makes that durable. The target is at least as large; what it has beyond
/// reads as zeroes afterwards. `target_is_zeroed` says that it is new and reads as zeroes, so zeroes need not be
/// written. The result is how many bytes were written.
///
/// `progress` is called on this thread about twenty times a second, and ends the copy with `Break`; the target then
/// holds a part of it.
///
/// # Errors
/// [`CopyError`]. `OutOfRange` for a target that is too small.
pub fn copy(
    source: &dyn DiskBackend,
    target: &dyn DiskBackend,
    target_is_zeroed: bool,
    progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<u64, CopyError> {
    let (source_bytes, target_info) = (source.info().size_bytes, target.info());
    if target_info.size_bytes < source_bytes {
        let context = format!("a disk of {} bytes can not hold {source_bytes}", target_info.size_bytes);
        return Err(CopyError::Target(BlockError::new(BlockErrorKind::OutOfRange, context)));
    }
    let total_bytes = if target_is_zeroed { source_bytes } else { target_info.size_bytes };
    let can_discard = target_info.discard == DiscardBehavior::Zeroes;
    let extent = |offset: u64, limit: u64| {
        let zeroes = if target_is_zeroed { Touch::Neither } else { Touch::Second };
        if offset >= source_bytes {
            return Ok((zeroes, limit));
        }
        let extent = source.extent_at(offset, limit.min(source_bytes - offset)).map_err(CopyError::Source)?;
        Ok((if extent.kind == ExtentKind::Data { Touch::Both } else { zeroes }, extent.len_bytes))
    };
    let written = AtomicU64::new(0);
    let zero = |offset: u64, len: u64| -> Result<(), CopyError> {
        if target_is_zeroed {
            return Ok(());
        }
        if can_discard { target.discard(offset, len) } else { write_zeroes(target, offset, len) }
            .map_err(CopyError::Target)
    };
    let work = |job: &Job, scratch: &mut Scratch| {
        for part in &job.parts {
            if part.touch != Touch::Both {
                zero(part.offset_bytes, part.len_bytes)?;
                continue;
            }
            let data = scratch.first(part.len_bytes);
            source.read_at(part.offset_bytes, &[VolatileSlice::from(&mut data[..])]).map_err(CopyError::Source)?;
            let mut at = part.offset_bytes;
            let mut rest = data;
            while !rest.is_empty() {
                let (len, is_zero) = run_of(at, rest);
                let (run, after) = rest.split_at_mut(len);
                if is_zero {
                    zero(at, len as u64)?;
                } else {
                    written.fetch_add(len as u64, Relaxed);
                    target.write_at(at, &[VolatileSlice::from(run)], false).map_err(CopyError::Target)?;
                }
                at += len as u64;
                rest = after;
            }
        }
        Ok(())
    };
    run(&mut Walk::new(&extent, total_bytes), &work, progress)?;
    // Nothing is left to cancel.
    let _too_late = progress(Progress { done_bytes: total_bytes, total_bytes, flushing: true });
    target.flush().map_err(CopyError::Target)?;
    Ok(written.load(Relaxed))
}

/// The first byte in which two disks differ, if any. Of disks of different sizes the smaller one counts as continued
/// by zeroes.
///
/// # Errors
/// [`CopyError`], with the first disk as the source.
pub fn compare(
    first: &dyn DiskBackend,
    second: &dyn DiskBackend,
    progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<Option<u64>, CopyError> {
    let sizes = (first.info().size_bytes, second.info().size_bytes);
    let total_bytes = sizes.0.max(sizes.1);
    // A disk's extent, with zeroes behind its end.
    let one = |disk: &dyn DiskBackend, size: u64, offset: u64, limit: u64| {
        if offset >= size {
            return Ok((false, limit));
        }
        disk.extent_at(offset, limit.min(size - offset))
            .map(|extent| (extent.kind == ExtentKind::Data, extent.len_bytes))
    };
    let difference = AtomicU64::new(u64::MAX);
    let extent = |offset: u64, limit: u64| {
        if difference.load(Relaxed) != u64::MAX {
            // What is known lies before.
            return Ok((Touch::Neither, limit));
        }
        let (data, len) = one(first, sizes.0, offset, limit).map_err(CopyError::Source)?;
        let (other_data, other_len) = one(second, sizes.1, offset, limit).map_err(CopyError::Target)?;
        let touch = match (data, other_data) {
            (false, false) => Touch::Neither,
            (true, false) => Touch::First,
            (false, true) => Touch::Second,
            (true, true) => Touch::Both,
        };
        Ok((touch, len.min(other_len)))
    };
    let work = |job: &Job, scratch: &mut Scratch| {
        for part in &job.parts {
            if part.offset_bytes >= difference.load(Relaxed) {
                return Ok(());
            }
            let Part { offset_bytes, len_bytes, touch } = *part;
            let (a, b) = scratch.both(len_bytes);
            if touch != Touch::Second {
                first.read_at(offset_bytes, &[VolatileSlice::from(&mut a[..])]).map_err(CopyError::Source)?;
            }
            if touch != Touch::First {
                second.read_at(offset_bytes, &[VolatileSlice::from(&mut b[..])]).map_err(CopyError::Target)?;
            }
            let at = match touch {
                Touch::Neither => None,
                Touch::First => first_nonzero(a),
                Touch::Second => first_nonzero(b),
                Touch::Both => first_difference(a, b),
            };
            if let Some(at) = at {
                difference.fetch_min(offset_bytes + at as u64, Relaxed);
                return Ok(());
            }
        }
        Ok(())
    };
    run(&mut Walk::new(&extent, total_bytes), &work, progress)?;
    Ok(Some(difference.into_inner()).filter(|at| *at != u64::MAX))
}

/// How many bytes of `data`, which lies at `offset` of a disk, are zeroes to be skipped or are not; at least 1 of
/// what is not empty.
fn run_of(offset: u64, data: &[u8]) -> (usize, bool) {
    let is_zero = |chunk: &[u8]| *chunk == ZEROES[..chunk.len()];
    let to_boundary = ZERO_BYTES - (offset % ZERO_BYTES as u64) as usize;
    let (head, rest) = data.split_at(to_boundary.min(data.len()));
    let zero = is_zero(head);
    let more: usize = rest.chunks(ZERO_BYTES).take_while(|chunk| is_zero(chunk) == zero).map(<[u8]>::len).sum();
    (head.len() + more, zero)
}

fn first_nonzero(data: &[u8]) -> Option<usize> {
    let chunk = data.chunks(ZERO_BYTES).position(|chunk| *chunk != ZEROES[..chunk.len()])? * ZERO_BYTES;
    data[chunk..].iter().position(|byte| *byte != 0).map(|at| chunk + at)
}

fn first_difference(a: &[u8], b: &[u8]) -> Option<usize> {
    if a == b {
        return None;
    }
    a.iter().zip(b).position(|(a, b)| a != b)
}

/// For a target whose discard promises nothing.
fn write_zeroes(target: &dyn DiskBackend, offset: u64, len: u64) -> Result<(), BlockError> {
    let mut zeroes = vec![0; len.min(PIECE_BYTES as u64) as usize];
    let mut at = offset;
    while at < offset + len {
        let part = (offset + len - at).min(zeroes.len() as u64);
        target.write_at(at, &[VolatileSlice::from(&mut zeroes[..part as usize])], false)?;
        at += part;
    }
    Ok(())
}

/// The buffers of a worker, made when they are first needed.
#[derive(Debug, Default)]
struct Scratch {
    buffers: [Vec<u8>; 2],
}

impl Scratch {
    /// Parts to be read are never longer than a piece.
    fn first(&mut self, len_bytes: u64) -> &mut [u8] {
        self.both(len_bytes).0
    }

    fn both(&mut self, len_bytes: u64) -> (&mut [u8], &mut [u8]) {
        let len = len_bytes.min(PIECE_BYTES as u64) as usize;
        let [a, b] = &mut self.buffers;
        for buffer in [&mut *a, &mut *b] {
            if buffer.is_empty() {
                buffer.resize(PIECE_BYTES, 0);
            }
        }
        (&mut a[..len], &mut b[..len])
    }
}

type ExtentOf<'a> = dyn Fn(u64, u64) -> Result<(Touch, u64), CopyError> + 'a;

/// Goes over the disks and makes jobs.
struct Walk<'a> {
    extent: &'a ExtentOf<'a>,
    position: u64,
    end: u64,
    window: u64,
    /// What is left of the last answer: asking again may cost as much as it did.
    known: Option<(Touch, u64)>,
}

impl<'a> Walk<'a> {
    fn new(extent: &'a ExtentOf<'a>, end: u64) -> Self {
        Self { extent, position: 0, end, window: WINDOW_BYTES, known: None }
    }

    /// What comes next, and for how many bytes.
    fn ask(&mut self) -> Result<(Touch, u64), CopyError> {
        if let Some(known) = self.known.take() {
            return Ok(known);
        }
        let limit = (self.end - self.position).min(self.window);
        let (touch, len) = (self.extent)(self.position, limit)?;
        // A disk whose answer is nonsense is read instead.
        let (touch, len) = if len == 0 { (Touch::Both, limit) } else { (touch, len.min(limit)) };
        let grows = touch == Touch::Neither && len == limit;
        self.window = if grows { (self.window * 2).min(WINDOW_BYTES_MAX) } else { WINDOW_BYTES };
        Ok((touch, len))
    }

    /// The next job, perhaps without parts; `None` at the end.
    fn next(&mut self) -> Result<Option<Job>, CopyError> {
        if self.position >= self.end {
            return Ok(None);
        }
        let mut job = Job::default();
        while self.position < self.end {
            let (touch, len) = self.ask()?;
            let to_piece_end = PIECE_BYTES as u64 - self.position % PIECE_BYTES as u64;
            let here = if touch == Touch::Neither { len } else { len.min(to_piece_end) };
            if touch != Touch::Neither {
                job.parts.push(Part { offset_bytes: self.position, len_bytes: here, touch });
            }
            self.position += here;
            job.bytes += here;
            if here < len {
                self.known = Some((touch, len - here));
            }
            if here >= to_piece_end {
                break;
            }
        }
        Ok(Some(job))
    }
}

/// What workers and the caller's thread share.
#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// A job came, or there will be none.
    work: Condvar,
    /// A job was taken or done.
    room: Condvar,
}

#[derive(Debug, Default)]
struct State {
    jobs: VecDeque<Job>,
    running: usize,
    closed: bool,
    done_bytes: u64,
    failed: Option<CopyError>,
}

impl Shared {
    /// A worker's life.
    fn work(&self, work: &(dyn Fn(&Job, &mut Scratch) -> Result<(), CopyError> + Sync)) {
        let mut scratch = Scratch::default();
        let mut state = self.state.lock();
        loop {
            if let Some(job) = state.jobs.pop_front() {
                state.running += 1;
                drop(state);
                self.room.notify_one();
                let result = work(&job, &mut scratch);
                state = self.state.lock();
                state.running -= 1;
                state.done_bytes += job.bytes;
                if let Err(error) = result {
                    state.jobs.clear();
                    state.failed.get_or_insert(error);
                }
                self.room.notify_one();
            } else if state.closed {
                return;
            } else {
                self.work.wait(&mut state);
            }
        }
    }

    /// No more jobs.
    fn close(&self) {
        self.state.lock().closed = true;
        self.work.notify_all();
    }
}

/// Lets workers do every job, and tells the caller how far they are.
fn run(
    walk: &mut Walk<'_>,
    work: &(dyn Fn(&Job, &mut Scratch) -> Result<(), CopyError> + Sync),
    progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<(), CopyError> {
    let total_bytes = walk.end;
    let shared = Shared::default();
    let workers = std::thread::available_parallelism().map_or(WORKERS_MIN, NonZero::get);
    let workers = workers.clamp(WORKERS_MIN, WORKERS_MAX);
    std::thread::scope(|scope| {
        let mut started = 0;
        for _ in 0..workers {
            let spawned =
                std::thread::Builder::new().name("disk-copy".to_owned()).spawn_scoped(scope, || shared.work(work));
            match spawned {
                Ok(_) => started += 1,
                // The others do it, if there are any.
                Err(error) if started == 0 => {
                    let context = "no thread could be started for the copy";
                    return Err(CopyError::Source(BlockError::from_io(context, error)));
                }
                Err(_) => break,
            }
        }
        let result = feed(walk, &shared, started * JOBS_PER_WORKER, total_bytes, progress);
        if result.is_err() {
            shared.state.lock().jobs.clear();
        }
        shared.close();
        result
    })?;
    match shared.state.into_inner().failed {
        Some(error) => Err(error),
        None => Ok(()),
    }
}

/// Hands out jobs until all are done, one has failed or the caller has had enough.
fn feed(
    walk: &mut Walk<'_>,
    shared: &Shared,
    jobs_max: usize,
    total_bytes: u64,
    progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<(), CopyError> {
    let mut told = Instant::now();
    let mut tell = |done_bytes: u64| {
        if told.elapsed() < TELL_EVERY {
            return Ok(());
        }
        told = Instant::now();
        match progress(Progress { done_bytes, total_bytes, flushing: false }) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(CopyError::Cancelled),
        }
    };
    while let Some(job) = walk.next()? {
        let mut state = shared.state.lock();
        if job.parts.is_empty() {
            state.done_bytes += job.bytes;
        } else {
            while state.failed.is_none() && state.jobs.len() >= jobs_max {
                shared.room.wait_for(&mut state, TELL_EVERY);
                let done_bytes = state.done_bytes;
                parking_lot::MutexGuard::unlocked(&mut state, || tell(done_bytes))?;
            }
            state.jobs.push_back(job);
            shared.work.notify_one();
        }
        let (done_bytes, failed) = (state.done_bytes, state.failed.is_some());
        drop(state);
        if failed {
            return Ok(());
        }
        tell(done_bytes)?;
    }
    let mut state = shared.state.lock();
    while state.failed.is_none() && (state.running > 0 || !state.jobs.is_empty()) {
        shared.room.wait_for(&mut state, TELL_EVERY);
        let done_bytes = state.done_bytes;
        parking_lot::MutexGuard::unlocked(&mut state, || tell(done_bytes))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
