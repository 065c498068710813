//! The request queue of one disk: what waits for what, and the cache policy.
//!
//! ```text
//!   submit ─▶ queue ─▶ a worker runs it ─┬─▶ delivered                      (reads, cached writes, errors)
//!                                        ├─▶ unsynced ─▶ one sync for all ─▶ delivered   (write-through, flush)
//!                                        ├─▶ parked   ─▶ retry_parked ─▶ queue           (no space)
//!                                        └─▶ stalled  ─▶ reopen ─▶ queue                 (failed sync)
//! ```
//!
//! Group commit: a write that has ended joins `unsynced`; whoever finds no more requests to run, or has passed enough
//! of them, takes all of `unsynced` and syncs once. A write joins only after the image's `write_at` returned, and a
//! batch is fixed before the sync starts, so a completion always follows a sync that started after the write ended.
//!
//! There is no order between requests in flight. A flush covers writes whose completion was delivered before it was
//! submitted, which is what disks promise; a front-end that must keep an order waits for completions.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::cache::{CachePolicy, RiskLedger};
use crate::stats::Counters;
use crate::{BlockError, BlockErrorKind, CacheMode, Completed, DiskBackend, DiskObserver, Operation, Request};

/// How many requests may be run while a write or flush waits for a sync that could start.
const SYNC_AFTER_REQUESTS: u32 = 32;

/// How many waiting requests are looked at for a read.
const READS_SOUGHT: usize = 16;

/// What reopening a poisoned image found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reopened {
    /// Writes and flushes that were waiting and are being done again.
    pub reissued: u64,
    /// Bytes that had been acknowledged under a write cache and may be lost. If not 0, the next flush reports it to
    /// the guest as an error, once.
    pub doubtful_bytes: u64,
}

thread_local! {
    /// The address of the core that this thread is a worker of; 0 for other threads. Only compared.
    static SERVED: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

/// A request on its way.
pub(crate) struct Job {
    pub request: Request,
    pub submitted: Instant,
    /// Asked by the disk itself (a mode change, a pause): a real flush whatever the mode, never held back.
    pub internal: bool,
}

/// What a worker does next.
pub(crate) enum Step {
    /// Runs one request against the image; forced unit access if set.
    Run(Job, bool),
    /// Syncs, then completes these.
    Sync(Vec<Job>),
    /// Hands over completions that were decided elsewhere.
    Deliver(Vec<(Job, Result<(), BlockError>)>),
    /// Nothing to do now.
    Wait,
    /// Nothing to do ever again.
    Stop,
}

/// Everything of the queue that changes, under one lock. The lock is never held while the image, a sink or the
/// observer is called.
pub(crate) struct State {
    queue: VecDeque<Job>,
    flushes: Vec<Job>,
    unsynced: Vec<Job>,
    parked: Vec<Job>,
    stalled: Vec<Job>,
    decided: Vec<(Job, Result<(), BlockError>)>,
    sync_running: bool,
    passed_since_due: u32,
    /// Accepted, completion not yet delivered, neither parked nor stalled.
    in_flight: usize,
    poisoned: bool,
    /// Acknowledged writes may have been lost and no flush has said so yet.
    doubtful: bool,
    pub policy: CachePolicy,
    pub risk: RiskLedger,
    pub observer: Option<Arc<dyn DiskObserver>>,
    pub workers: Workers,
}

/// Where the workers are.
#[derive(Default)]
pub(crate) struct Workers {
    /// Threads started and not ended.
    pub running: usize,
    /// Of those, asleep.
    pub asleep: usize,
    /// One of them is looking for work without sleeping.
    pub spinning: bool,
    /// The last handle is gone.
    pub stop: bool,
    pub threads: Vec<std::thread::JoinHandle<()>>,
}

/// What becomes of a request on submission.
pub(crate) enum Accepted {
    Queued,
    Done(Job, Result<(), BlockError>),
}

/// The shared heart of a [`Disk`](crate::Disk).
pub(crate) struct Core {
    pub backend: Arc<dyn DiskBackend>,
    pub counters: Counters,
    state: Mutex<State>,
    /// A worker sleeps here.
    pub work: Condvar,
    /// Somebody waits here for `in_flight` to become 0.
    idle: Condvar,
    /// Counts what a spinning worker waits for.
    pub arrivals: AtomicUsize,
}

impl Core {
    pub fn new(backend: Arc<dyn DiskBackend>, mode: CacheMode) -> Self {
        Self {
            backend,
            counters: Counters::new(),
            state: Mutex::new(State {
                queue: VecDeque::with_capacity(64),
                flushes: Vec::new(),
                unsynced: Vec::with_capacity(64),
                parked: Vec::new(),
                stalled: Vec::new(),
                decided: Vec::new(),
                sync_running: false,
                passed_since_due: 0,
                in_flight: 0,
                poisoned: false,
                doubtful: false,
                policy: CachePolicy { user: mode, guest_write_cache: true },
                risk: RiskLedger::new(),
                observer: None,
                workers: Workers::default(),
            }),
            work: Condvar::new(),
            idle: Condvar::new(),
            arrivals: AtomicUsize::new(0),
        }
    }

    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// From now on this thread is a worker of this disk.
    pub fn serve_here(&self) {
        SERVED.set(std::ptr::from_ref(self).addr());
    }

    /// Whether this thread is one.
    pub fn is_served_here(&self) -> bool {
        SERVED.get() == std::ptr::from_ref(self).addr()
    }

    /// Tells workers that there is something to do.
    pub fn announce(&self, state: MutexGuard<'_, State>, all: bool) {
        self.arrivals.fetch_add(1, Ordering::Release);
        let asleep = state.workers.asleep > 0;
        // A worker that is spinning takes one without being woken, and so does one that is handing over a completion:
        // who submits from there is that worker.
        let coming = usize::from(state.workers.spinning) + usize::from(self.is_served_here());
        let short = state.waiting_for_worker() > coming;
        drop(state);
        if asleep && all {
            self.work.notify_all();
        } else if asleep && short {
            self.work.notify_one();
        }
    }

    /// Does `step`, with no lock held. Wait and Stop are the caller's.
    pub fn perform(&self, step: Step) {
        match step {
            Step::Run(job, fua) => self.run(job, fua),
            Step::Sync(batch) => self.sync(batch),
            Step::Deliver(decided) => {
                let count = decided.len();
                for (job, result) in decided {
                    self.deliver(job, result);
                }
                self.landed(count);
            }
            Step::Wait | Step::Stop => {}
        }
    }

    /// Runs a request on this thread, to its end: for disks without workers.
    pub fn run_to_end(&self, mut job: Job) -> (Job, Result<(), BlockError>) {
        let mode = match self.lock().admit(&job) {
            Ok(mode) => mode,
            Err(result) => return (job, result),
        };
        let (operation, len_bytes) = (job.request.operation, job.request.len_bytes);
        let mut result = self.call_backend(&mut job.request, false);
        let synced = match operation {
            Operation::Read => false,
            Operation::Write { fua } => mode == CacheMode::Writethrough || (fua && mode == CacheMode::Writeback),
            Operation::Discard => mode == CacheMode::Writethrough,
            Operation::Flush => true,
        };
        if synced && result.is_ok() {
            let started = self.lock().begin_sync();
            debug_assert!(started.is_empty(), "a disk without workers queues nothing");
            self.counters.synced();
            result = if operation == Operation::Flush { self.backend.flush() } else { self.backend.sync() };
            self.lock().end_sync(&result);
        } else if result.is_ok() && operation != Operation::Read {
            self.lock().risk.acknowledged(written_bytes(operation, len_bytes), Instant::now());
        }
        (job, result)
    }

    fn call_backend(&self, request: &mut Request, fua: bool) -> Result<(), BlockError> {
        let (offset, len) = (request.offset_bytes, request.len_bytes);
        match request.operation {
            Operation::Read => self.backend.read_at(offset, &request.buffer.slices(0, len)),
            Operation::Write { .. } => self.backend.write_at(offset, &request.buffer.slices(0, len), fua),
            Operation::Discard => self.backend.discard(offset, len),
            // A flush is not a call of its own: the sync that follows it is.
            Operation::Flush => Ok(()),
        }
    }

    fn run(&self, mut job: Job, fua: bool) {
        let result = self.call_backend(&mut job.request, fua);
        if job.request.operation == Operation::Read {
            self.deliver(job, result);
            return self.landed(1);
        }
        let mut state = self.lock();
        match result {
            Ok(()) if state.poisoned => {
                // Whatever the host did with this write, the sync that failed meanwhile may have undone it.
                let failing = state.stall(job);
                drop(state);
                let count = usize::from(failing.is_some());
                if let Some(job) = failing {
                    self.deliver(job, Err(poisoned()));
                }
                self.landed(count);
            }
            Ok(()) => {
                if let Some(job) = state.changed(job, fua) {
                    drop(state);
                    self.deliver(job, Ok(()));
                    self.landed(1);
                }
            }
            Err(error) if error.kind() == BlockErrorKind::Poisoned => self.poison(state, vec![job], error),
            Err(error) if error.kind() == BlockErrorKind::NoSpace => self.park(state, vec![job], error),
            Err(error) => {
                drop(state);
                self.deliver(job, Err(error));
                self.landed(1);
            }
        }
    }

    fn sync(&self, batch: Vec<Job>) {
        self.counters.synced();
        let asked = batch.iter().any(|job| job.request.operation == Operation::Flush);
        let result = if asked { self.backend.flush() } else { self.backend.sync() };
        let mut state = self.lock();
        state.end_sync(&result);
        match result {
            Ok(()) => {
                // Deliveries may take a while; let another worker lead the next sync.
                if state.has_work() {
                    self.announce(state, false);
                } else {
                    drop(state);
                }
                let count = batch.len();
                for job in batch {
                    self.deliver(job, Ok(()));
                }
                self.landed(count);
            }
            // Nothing was lost: what could not be written yet is still with the image.
            Err(error) if error.kind() == BlockErrorKind::NoSpace => self.park(state, batch, error),
            Err(error) => self.poison(state, batch, error),
        }
    }

    /// There is no room on the host: these wait until there is, or fail if nobody can be told.
    fn park(&self, mut state: MutexGuard<'_, State>, jobs: Vec<Job>, error: BlockError) {
        let count = jobs.len();
        let observer = state.observer.clone();
        let (failing, waiting): (Vec<Job>, Vec<Job>) =
            jobs.into_iter().partition(|job| job.internal || observer.is_none());
        state.parked.extend(waiting);
        drop(state);
        if let Some(observer) = observer {
            observer.out_of_space(&error);
            tracing::warn!(%error, "no space on the host for a write; it waits");
        }
        // The first to fail carries the host's own error.
        let mut error = Some(error);
        for job in failing {
            let none = || BlockError::new(BlockErrorKind::NoSpace, "there is no space on the host");
            self.deliver(job, Err(error.take().unwrap_or_else(none)));
        }
        self.landed(count);
    }

    /// A sync failed: nothing that is not acknowledged may be, until the image was reopened.
    fn poison(&self, mut state: MutexGuard<'_, State>, concerned: Vec<Job>, error: BlockError) {
        state.poisoned = true;
        let waiting = state.take_changes();
        let failing: Vec<Job> = concerned.into_iter().chain(waiting).filter_map(|job| state.stall(job)).collect();
        let observer = state.observer.clone();
        drop(state);
        tracing::error!(%error, "a sync failed; the image is poisoned");
        if let Some(observer) = observer {
            observer.poisoned(&error);
        }
        let count = failing.len();
        // The first to fail carries the host's own error.
        let mut error = Some(error);
        for job in failing {
            self.deliver(job, Err(error.take().unwrap_or_else(poisoned)));
        }
        // Even if none fails: those that were set aside left the count.
        self.landed(count);
    }

    /// Hands one completion over. The caller then reports it to [`Self::landed`].
    fn deliver(&self, job: Job, result: Result<(), BlockError>) {
        self.count(&job, &result);
        let Request { token, buffer, sink, .. } = job.request;
        sink.complete(Completed { token, result, buffer });
    }

    pub fn count(&self, job: &Job, result: &Result<(), BlockError>) {
        if !job.internal {
            let Request { operation, len_bytes, .. } = job.request;
            self.counters.completed(operation, len_bytes, job.submitted.elapsed(), result.is_ok());
        }
    }

    /// `count` requests left: delivered, or set aside.
    fn landed(&self, count: usize) {
        let mut state = self.lock();
        state.in_flight = state.in_flight.saturating_sub(count);
        if state.in_flight == 0 {
            self.idle.notify_all();
        }
    }

    /// Waits until nothing is in flight.
    pub fn drain(&self) {
        let mut state = self.lock();
        while state.in_flight > 0 {
            self.idle.wait(&mut state);
        }
    }

    /// Runs parked requests again.
    pub fn retry_parked(&self) -> usize {
        let mut state = self.lock();
        let parked = std::mem::take(&mut state.parked);
        let count = parked.len();
        state.requeue(parked);
        self.announce(state, true);
        count
    }

    /// See [`Disk::reopen`](crate::Disk::reopen).
    pub fn reopen(&self) -> Result<Reopened, BlockError> {
        // While the image is poisoned no new change is run, so this ends as soon as those on their way have.
        self.drain();
        self.backend.reopen()?;
        let mut state = self.lock();
        if !state.poisoned {
            return Ok(Reopened { reissued: 0, doubtful_bytes: 0 });
        }
        state.poisoned = false;
        let doubtful_bytes = state.risk.bytes();
        state.doubtful = doubtful_bytes > 0;
        state.risk.forget();
        let stalled = std::mem::take(&mut state.stalled);
        let reissued = stalled.len() as u64;
        state.requeue(stalled);
        self.announce(state, true);
        Ok(Reopened { reissued, doubtful_bytes })
    }

    /// After the last request of a disk nobody holds any more: gives up on what waits, and makes durable what is not.
    pub fn finish(&self) {
        let mut state = self.lock();
        let parked = std::mem::take(&mut state.parked);
        let stalled = std::mem::take(&mut state.stalled);
        let wanted = state.wants_final_sync();
        if wanted {
            state.begin_sync();
        }
        drop(state);
        for job in parked {
            self.deliver(
                job,
                Err(BlockError::new(BlockErrorKind::NoSpace, "the disk was closed before there was room")),
            );
        }
        for job in stalled {
            self.deliver(job, Err(poisoned()));
        }
        if wanted {
            self.counters.synced();
            let result = self.backend.flush();
            if let Err(error) = &result {
                tracing::error!(%error, "the last flush of a disk failed");
            }
            self.lock().end_sync(&result);
        }
    }
}

/// The error of requests that come while the image is poisoned.
fn poisoned() -> BlockError {
    BlockError::new(BlockErrorKind::Poisoned, "an earlier sync of this image failed")
}

fn written_bytes(operation: Operation, len_bytes: u64) -> u64 {
    if matches!(operation, Operation::Write { .. }) { len_bytes } else { 0 }
}

impl State {
    /// Whether `job` needs the image at all: the mode it runs under, or its result.
    fn admit(&mut self, job: &Job) -> Result<CacheMode, Result<(), BlockError>> {
        let mode = self.policy.effective();
        match job.request.operation {
            Operation::Read => Ok(mode),
            Operation::Flush if mode == CacheMode::Unsafe && !job.internal => Err(Ok(())),
            _ if self.poisoned => Err(Err(poisoned())),
            Operation::Flush if !job.internal && std::mem::take(&mut self.doubtful) => Err(Err(BlockError::new(
                BlockErrorKind::Poisoned,
                "writes acknowledged before the image was reopened may be lost",
            ))),
            Operation::Flush if self.risk.is_clean() => Err(Ok(())),
            _ => Ok(mode),
        }
    }

    /// Takes a request in, or answers it at once.
    pub fn accept(&mut self, job: Job) -> Accepted {
        if self.workers.stop {
            return Accepted::Done(job, Err(BlockError::new(BlockErrorKind::Io, "the disk is closed")));
        }
        match self.admit(&job) {
            Ok(_) => {}
            Err(Err(_)) if self.poisoned && !job.internal && self.observer.is_some() => {
                self.stalled.push(job);
                return Accepted::Queued;
            }
            Err(result) => return Accepted::Done(job, result),
        }
        self.in_flight += 1;
        match job.request.operation {
            Operation::Flush => self.flushes.push(job),
            _ => self.queue.push_back(job),
        }
        Accepted::Queued
    }

    /// Takes back the request accepted last: no thread could be started for it.
    pub fn withdraw(&mut self, flush: bool) -> Option<Job> {
        let job = if flush { self.flushes.pop() } else { self.queue.pop_back() }?;
        self.in_flight = self.in_flight.saturating_sub(1);
        Some(job)
    }

    /// Puts requests that waited back on their way. Their time starts anew.
    fn requeue(&mut self, jobs: Vec<Job>) {
        for job in jobs {
            match self.accept(Job { submitted: Instant::now(), ..job }) {
                Accepted::Queued => {}
                Accepted::Done(job, result) => {
                    self.in_flight += 1;
                    self.decided.push((job, result));
                }
            }
        }
    }

    fn sync_due(&self) -> bool {
        let wanted = !self.unsynced.is_empty() || !self.flushes.is_empty();
        wanted && !self.sync_running
    }

    pub fn has_work(&self) -> bool {
        !self.queue.is_empty() || !self.decided.is_empty() || self.sync_due()
    }

    /// Requests that no worker has taken yet.
    pub fn waiting_for_worker(&self) -> usize {
        self.queue.len() + usize::from(self.sync_due())
    }

    /// Whether reads are among the next requests.
    pub fn reads_wait(&self) -> bool {
        self.queue.iter().take(READS_SOUGHT).any(|job| job.request.operation == Operation::Read)
    }

    pub fn next_step(&mut self) -> Step {
        if !self.decided.is_empty() {
            return Step::Deliver(std::mem::take(&mut self.decided));
        }
        let due = self.sync_due();
        if due && (self.queue.is_empty() || self.passed_since_due >= SYNC_AFTER_REQUESTS) {
            return Step::Sync(self.begin_sync());
        }
        if let Some(job) = self.queue.pop_front() {
            self.passed_since_due = if due { self.passed_since_due + 1 } else { 0 };
            // Under write-through the group's sync covers the write; only under write-back is there one of its own.
            let fua = matches!(job.request.operation, Operation::Write { fua: true })
                && self.policy.effective() == CacheMode::Writeback;
            return Step::Run(job, fua);
        }
        if self.workers.stop { Step::Stop } else { Step::Wait }
    }

    /// Fixes what the sync that starts now covers.
    fn begin_sync(&mut self) -> Vec<Job> {
        self.sync_running = true;
        self.passed_since_due = 0;
        self.risk.sync_started();
        let mut batch = Vec::with_capacity(self.unsynced.len() + self.flushes.len());
        batch.append(&mut self.unsynced);
        batch.append(&mut self.flushes);
        batch
    }

    fn end_sync(&mut self, result: &Result<(), BlockError>) {
        self.sync_running = false;
        match result {
            Ok(()) => self.risk.sync_succeeded(),
            Err(error) => {
                self.risk.sync_failed();
                self.poisoned = error.kind() != BlockErrorKind::NoSpace;
            }
        }
    }

    /// A change reached the host: it is handed back if it is complete, else it waits for a sync.
    pub fn changed(&mut self, job: Job, was_fua: bool) -> Option<Job> {
        let Request { operation, len_bytes, .. } = job.request;
        let wants_fua = matches!(operation, Operation::Write { fua: true });
        let wait = match self.policy.effective() {
            CacheMode::Writethrough => !was_fua,
            CacheMode::Writeback => wants_fua && !was_fua,
            CacheMode::Unsafe => false,
        };
        if wait {
            self.unsynced.push(job);
            return None;
        }
        if !was_fua {
            self.risk.acknowledged(written_bytes(operation, len_bytes), Instant::now());
        }
        Some(job)
    }

    /// All requests that change something and are not at the image now.
    fn take_changes(&mut self) -> Vec<Job> {
        let mut changes = std::mem::take(&mut self.unsynced);
        changes.append(&mut self.flushes);
        let (reads, others): (VecDeque<_>, VecDeque<_>) =
            self.queue.drain(..).partition(|job| job.request.operation == Operation::Read);
        self.queue = reads;
        changes.extend(others);
        changes
    }

    /// Sets a change aside until the image is reopened and takes it out of the count, or hands it back to be failed.
    fn stall(&mut self, job: Job) -> Option<Job> {
        if self.observer.is_none() || job.internal {
            return Some(job);
        }
        self.stalled.push(job);
        self.in_flight = self.in_flight.saturating_sub(1);
        None
    }

    fn wants_final_sync(&self) -> bool {
        !self.poisoned && self.policy.user != CacheMode::Unsafe && self.risk.bytes() > 0
    }

    #[cfg(test)]
    pub fn waiting_for_sync(&self) -> usize {
        self.unsynced.len()
    }

    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    pub fn set_aside(&self) -> usize {
        self.parked.len() + self.stalled.len()
    }

    pub fn poisoned(&self) -> bool {
        self.poisoned
    }
}
