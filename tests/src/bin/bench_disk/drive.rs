//! Requests on our disks.
//!
//! By default they take the way a VM's do: `Disk::submit`, with as many requests in flight as the depth says, carried
//! out by the disk's own worker threads. A completion submits the next request, as `qemu-img bench` does in its own
//! event loop. `--way calls` has a thread for each request in flight instead, which calls the image directly: what the
//! format could do under more workers.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use benchtop_block::{
    BlockError, CacheMode, Completed, CompletionSink, Disk, DiskBackend, DiskOptions, Operation, Request, Submission,
};
use benchtop_memory::{Gpa, GuestMemory, IoBuffer, ScatterList};
use clap::ValueEnum;
use parking_lot::{Condvar, Mutex};

/// How requests reach the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Way {
    /// The block queue and its workers, as in a VM
    Queue,
    /// A thread for each request in flight, calling the image
    Calls,
}

/// Requests of one run.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Else read.
    pub write: bool,
    /// In flight at once.
    pub depth: u32,
    /// Of each request.
    pub block_bytes: u64,
    /// From one request's offset to the next one's; wraps at the end of the disk.
    pub step_bytes: u64,
    /// How many at most.
    pub count: u64,
    /// For how long at most.
    pub time: Duration,
    /// After as many requests as the depth says: wait until none is in flight, flush, go on, as `qemu-img bench` with
    /// that `--flush-interval`. With [`Way::Calls`] every request has its own flush.
    pub flush: bool,
    /// Write-through.
    pub writethrough: bool,
}

/// The stride of 4 KiB requests: odd, so that 2^20 blocks are each visited once, about 31 MiB apart.
pub const STRIDE_BYTES: u64 = 7919 * 4096;
const FOREVER: Duration = Duration::from_secs(3600);

impl Load {
    /// `count` requests of 4 KiB all over the disk.
    pub fn scattered(write: bool, depth: u32, count: u64) -> Self {
        Self {
            write,
            depth,
            block_bytes: 4096,
            step_bytes: STRIDE_BYTES,
            count,
            time: FOREVER,
            flush: false,
            writethrough: false,
        }
    }

    /// The first `bytes` of the disk in requests of 1 MiB.
    pub fn sequential(write: bool, depth: u32, bytes: u64) -> Self {
        let block_bytes = 1 << 20;
        Self { block_bytes, step_bytes: block_bytes, ..Self::scattered(write, depth, bytes / block_bytes) }
    }

    /// As it is, with a flush after each.
    pub fn flushed(self) -> Self {
        Self { flush: true, ..self }
    }
}

/// What a run did.
#[derive(Clone, Copy, Debug)]
pub struct Done {
    /// Requests.
    pub requests: u64,
    /// From the first submission to the end; for writes, of a flush after the last.
    pub time: Duration,
}

impl Done {
    /// Requests a second.
    pub fn rate(self) -> f64 {
        self.requests as f64 / self.time.as_secs_f64().max(1e-9)
    }
}

/// Puts `load` on `image`. Writes end with a flush within the time, whatever the image has kept in memory so far;
/// `qemu-img bench` has none, so the comparison errs against us.
///
/// # Errors
/// The first request that failed.
pub fn drive(image: &Arc<dyn DiskBackend>, way: Way, load: Load) -> Result<Done> {
    match way {
        Way::Queue => by_queue(image, load),
        Way::Calls => by_calls(&**image, load),
    }
}

/// The same numbers, in no order, on every run (xorshift64).
pub struct Random(u64);

impl Random {
    /// A sequence for each `seed`.
    pub fn new(seed: u64) -> Self {
        Self(0x9e37_79b9_7f4a_7c15 ^ seed)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// The next one below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

/// What a write carries: nothing that a format could leave out.
pub fn noise(len: u64) -> Vec<u8> {
    let mut random = Random::new(0);
    (0..len / 8).flat_map(|_| random.next().to_le_bytes()).collect()
}

/// `count` pieces of a guest's memory, each with [`noise`] in it: aligned to pages, as guests' and QEMU's buffers are.
fn guest_buffers(count: u32, len: u64) -> Result<Vec<IoBuffer>> {
    let room = len.next_multiple_of(4096);
    let memory = GuestMemory::new(&[(0, room * u64::from(count))])?;
    let content = noise(len);
    let buffer = |index: u32| -> Result<IoBuffer> {
        let address = Gpa(room * u64::from(index));
        memory.write(address, &content)?;
        let mut list = ScatterList::new(&memory);
        list.push(address, u32::try_from(len)?)?;
        Ok(IoBuffer::Guest(list))
    };
    (0..count).map(buffer).collect()
}

/// The loop of requests on a [`Disk`].
#[derive(Debug)]
struct Loop {
    this: Weak<Self>,
    load: Load,
    size_bytes: u64,
    start: Instant,
    state: Mutex<LoopState>,
    ended: Condvar,
}

#[derive(Debug)]
struct LoopState {
    /// Taken out before the end, so that no worker drops the last handle.
    disk: Option<Disk>,
    offset_bytes: u64,
    issued: u64,
    done: u64,
    in_flight: u64,
    flushing: bool,
    /// Of those not in flight.
    buffers: Vec<IoBuffer>,
    result: Option<Result<(), BlockError>>,
}

/// Tokens.
const DATA: u64 = 0;
const FLUSH: u64 = 1;

impl Loop {
    /// Submits what there is room for.
    fn go_on(&self, mut state: parking_lot::MutexGuard<'_, LoopState>) {
        let mut requests = Vec::new();
        let over = state.issued >= self.load.count || self.start.elapsed() >= self.load.time;
        if !state.flushing {
            while !over && state.issued < self.load.count && state.in_flight < u64::from(self.load.depth) {
                let Some(buffer) = state.buffers.pop() else { break };
                let operation = if self.load.write { Operation::Write { fua: false } } else { Operation::Read };
                let (offset_bytes, len_bytes) = (state.offset_bytes, self.load.block_bytes);
                requests.push(self.request(DATA, operation, offset_bytes, len_bytes, buffer));
                state.offset_bytes = (offset_bytes + self.load.step_bytes) % self.size_bytes;
                state.issued += 1;
                state.in_flight += 1;
            }
            if over && state.in_flight == 0 {
                state.result.get_or_insert(Ok(()));
                self.ended.notify_all();
                return;
            }
        }
        let disk = state.disk.clone();
        drop(state);
        if let Some(disk) = disk {
            self.submit(&disk, requests);
        }
    }

    fn request(
        &self,
        token: u64,
        operation: Operation,
        offset_bytes: u64,
        len_bytes: u64,
        buffer: IoBuffer,
    ) -> Request {
        let sink: Arc<dyn CompletionSink> = match self.this.upgrade() {
            Some(this) => this,
            // Nobody waits any more.
            None => Arc::new(Nobody),
        };
        Request { token, operation, offset_bytes, len_bytes, buffer, sink }
    }

    fn submit(&self, disk: &Disk, requests: Vec<Request>) {
        for request in requests {
            if let Submission::Done(completed) = disk.submit(request) {
                self.take(completed);
            }
        }
    }

    fn take(&self, completed: Completed) {
        let mut state = self.state.lock();
        if let Err(error) = completed.result {
            state.result.get_or_insert(Err(error));
            self.ended.notify_all();
            return;
        }
        if completed.token == FLUSH {
            state.flushing = false;
        } else {
            state.in_flight -= 1;
            state.done += 1;
            state.buffers.push(completed.buffer);
            if self.load.flush {
                if state.in_flight > 0 {
                    return;
                }
                state.flushing = true;
                let disk = state.disk.clone();
                drop(state);
                if let Some(disk) = disk {
                    self.submit(&disk, vec![self.request(FLUSH, Operation::Flush, 0, 0, IoBuffer::None)]);
                }
                return;
            }
        }
        self.go_on(state);
    }
}

impl CompletionSink for Loop {
    fn complete(&self, completed: Completed) {
        self.take(completed);
    }
}

#[derive(Debug)]
struct Nobody;

impl CompletionSink for Nobody {
    fn complete(&self, _completed: Completed) {}
}

fn by_queue(image: &Arc<dyn DiskBackend>, load: Load) -> Result<Done> {
    let cache = if load.writethrough { CacheMode::Writethrough } else { CacheMode::Writeback };
    let disk = Disk::new(image.clone(), DiskOptions { cache, inline: false });
    let state = LoopState {
        disk: Some(disk.clone()),
        offset_bytes: 0,
        issued: 0,
        done: 0,
        in_flight: 0,
        flushing: false,
        buffers: guest_buffers(load.depth, load.block_bytes)?,
        result: None,
    };
    let size_bytes = disk.info().size_bytes;
    let start = Instant::now();
    let run = Arc::new_cyclic(|this| Loop {
        this: this.clone(),
        load,
        size_bytes,
        start,
        state: Mutex::new(state),
        ended: Condvar::new(),
    });
    run.go_on(run.state.lock());
    let (requests, result) = {
        let mut state = run.state.lock();
        while state.result.is_none() {
            run.ended.wait(&mut state);
        }
        state.disk = None;
        (state.done, state.result.take().unwrap_or(Ok(())))
    };
    result?;
    if load.write {
        disk.sync()?;
    }
    let time = start.elapsed();
    disk.drain();
    Ok(Done { requests, time })
}

fn by_calls(image: &dyn DiskBackend, load: Load) -> Result<Done> {
    let size_bytes = image.info().size_bytes;
    let next = AtomicU64::new(0);
    let done = AtomicU64::new(0);
    let start = Instant::now();
    let work = |mut buffer: IoBuffer| -> Result<(), BlockError> {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= load.count || start.elapsed() >= load.time {
                return Ok(());
            }
            // Below 2^64: at most a few million requests some 2^25 apart.
            let offset_bytes = number * load.step_bytes % size_bytes;
            let slices = buffer.slices(0, load.block_bytes);
            if load.write {
                image.write_at(offset_bytes, &slices, load.writethrough)?;
                if load.flush {
                    image.flush()?;
                }
            } else {
                image.read_at(offset_bytes, &slices)?;
            }
            done.fetch_add(1, Ordering::Relaxed);
        }
    };
    std::thread::scope(|scope| {
        let mut threads = Vec::new();
        for buffer in guest_buffers(load.depth, load.block_bytes)? {
            let builder = std::thread::Builder::new().name("load".to_owned());
            threads.push(builder.spawn_scoped(scope, || work(buffer)).context("no thread")?);
        }
        for thread in threads {
            thread.join().map_err(|_panic| anyhow!("a thread panicked"))??;
        }
        anyhow::Ok(())
    })?;
    if load.write {
        image.flush()?;
    }
    Ok(Done { requests: done.into_inner(), time: start.elapsed() })
}

/// A permutation of 0..`count`, far from any order, without a table.
#[derive(Clone, Copy, Debug)]
pub struct Shuffle {
    count: u64,
    bits: u32,
}

impl Shuffle {
    /// Of `count` numbers, 2 to 2^48.
    pub fn new(count: u64) -> Self {
        Self { count, bits: count.next_power_of_two().trailing_zeros() }
    }

    /// Where `index` goes. Every step can be undone on numbers of that many bits; what falls outside is sent on until
    /// it comes back in.
    pub fn at(self, index: u64) -> u64 {
        let mask = (1u64 << self.bits) - 1;
        let half = self.bits.div_ceil(2);
        let mut value = index;
        loop {
            for factor in [0x9e37_79b9_7f4a_7c15u64, 0xbf58_476d_1ce4_e5b9, 0x94d0_49bb_1331_11eb] {
                value = value.wrapping_mul(factor) & mask;
                value ^= value >> half;
            }
            if value < self.count {
                return value;
            }
        }
    }
}
