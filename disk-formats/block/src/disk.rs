//! [`Disk`]: what a front-end holds.

mod worker;

use std::sync::Arc;
use std::time::Instant;

use parking_lot::{Condvar, Mutex};

use benchtop_memory::IoBuffer;

use crate::queue::{Accepted, Core, Job, Reopened};
use crate::{
    BlockError, BlockErrorKind, CacheMode, CacheState, Completed, CompletionSink, DiskBackend, DiskInfo, DiskObserver,
    DiskStats, Operation, Request, Submission, WriteCacheRefused,
};

/// How to open a [`Disk`] on a backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskOptions {
    /// The user's cache mode.
    pub cache: CacheMode,
    /// Run requests on the submitting thread: for tests and tools that submit from one thread.
    pub inline: bool,
}

/// A cloneable handle to one open disk: image, cache policy, counters and workers.
///
/// The queue has no bound of its own: it never holds more than the devices on it have in flight, and every device
/// bounds that (its queue depth). Workers are threads named `disk-…`, at most two, started with the first request that
/// needs one, so they inherit whatever confinement the submitting thread has by then; asleep they cost nothing.
///
/// The end of a disk: [`drain`](Self::drain), then [`sync`](Self::sync), then drop. Dropping the last handle makes
/// durable what was acknowledged (but under `unsafe`), completes requests that were parked with their error, and waits
/// for the workers when nothing was in flight. With requests in flight it does not wait, because the caller may hold a
/// lock that a completion needs; the workers then finish alone.
#[derive(Clone)]
pub struct Disk {
    owner: Arc<Owner>,
}

/// What the last handle's drop ends.
struct Owner {
    core: Arc<Core>,
    inline: bool,
    /// Serialises changes of the user's mode.
    mode_change: Mutex<()>,
}

impl std::fmt::Debug for Disk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Disk").field("info", &self.info()).field("cache", &self.cache()).finish_non_exhaustive()
    }
}

impl Disk {
    /// Puts a disk on `backend`.
    pub fn new(backend: Arc<dyn DiskBackend>, options: DiskOptions) -> Self {
        let core = Arc::new(Core::new(backend, options.cache));
        Self { owner: Arc::new(Owner { core, inline: options.inline, mode_change: Mutex::new(()) }) }
    }

    /// A disk that runs every request on the submitting thread, with the default cache mode.
    pub fn inline(backend: Arc<dyn DiskBackend>) -> Self {
        Self::new(backend, DiskOptions { inline: true, ..DiskOptions::default() })
    }

    /// The image's facts.
    pub fn info(&self) -> DiskInfo {
        self.core().backend.info()
    }

    /// Starts a request. Never waits for the host's disk (but with [`DiskOptions::inline`]).
    ///
    /// [`Submission::Done`] means the sink will not be told: the request was wrong or needed no work. Otherwise the sink
    /// is told on a worker thread, once; also of a read that the host's cache could fill at once. A controller that
    /// interrupts before the write that started it has returned is faster than any real one, and there are drivers that
    /// do not expect it; and the copy is work that the vCPU need not do.
    pub fn submit(&self, request: Request) -> Submission {
        let job = Job { request, submitted: Instant::now(), internal: false };
        if let Err(error) = check(&job.request, &self.info()) {
            return self.done(job, Err(error));
        }
        if self.owner.inline {
            let (job, result) = self.core().run_to_end(job);
            return self.done(job, result);
        }
        self.enqueue(job)
    }

    /// The cache modes now.
    pub fn cache(&self) -> CacheState {
        let state = self.core().lock();
        CacheState { user: state.policy.user, effective: state.policy.effective(), bytes_at_risk: state.risk.bytes() }
    }

    /// Whether the guest is to be told that its write cache is on: the user allows one and the guest has not switched
    /// it off.
    pub fn guest_write_cache(&self) -> bool {
        let policy = self.core().lock().policy;
        policy.user != CacheMode::Writethrough && policy.guest_write_cache
    }

    /// The guest switches its write cache. It holds for requests that end from now on; what was acknowledged before
    /// stays at risk until a flush, which the front-end submits first as a request of its own. A device reset switches
    /// the cache on again, and ignores the refusal.
    ///
    /// # Errors
    /// [`WriteCacheRefused`] when enabling under a user's `Writethrough`.
    pub fn set_guest_write_cache(&self, enabled: bool) -> Result<(), WriteCacheRefused> {
        let mut state = self.core().lock();
        // Remembered even when refused, so that a reset leaves the switch on for a later change of the user's mode.
        state.policy.guest_write_cache = enabled;
        if enabled && state.policy.user == CacheMode::Writethrough { Err(WriteCacheRefused) } else { Ok(()) }
    }

    /// The user's mode while the guest runs. Blocks for one sync; not to be called from a sink or an observer.
    ///
    /// A stricter mode holds for completions from the start of the call, a looser one from its end, and the sync
    /// between covers all that was acknowledged before, so requests need not stop meanwhile.
    ///
    /// # Errors
    /// The sync's. A looser mode is then not set; a stricter one is.
    pub fn set_user_cache_mode(&self, mode: CacheMode) -> Result<(), BlockError> {
        let _one_at_a_time = self.owner.mode_change.lock();
        if mode == CacheMode::Writethrough {
            self.core().lock().policy.user = mode;
        }
        self.sync()?;
        self.core().lock().policy.user = mode;
        Ok(())
    }

    /// Makes all that was acknowledged durable, whatever the mode, and waits for it: before a pause is reported, and
    /// at the end. Not to be called from a sink or an observer.
    ///
    /// # Errors
    /// The sync's; the image is then poisoned.
    pub fn sync(&self) -> Result<(), BlockError> {
        let waiter = Arc::new(Waiter::default());
        let request = Request {
            token: 0,
            operation: Operation::Flush,
            offset_bytes: 0,
            len_bytes: 0,
            buffer: IoBuffer::None,
            sink: waiter.clone(),
        };
        let job = Job { request, submitted: Instant::now(), internal: true };
        if self.owner.inline {
            return self.core().run_to_end(job).1;
        }
        match self.enqueue(job) {
            Submission::Done(completed) => completed.result,
            Submission::Pending => waiter.wait(),
        }
    }

    /// Waits until nothing is in flight and every completion was delivered. Requests that wait for space or for a
    /// reopen are not in flight. The caller sees to it that nothing new is submitted; not to be called from a sink or
    /// an observer.
    pub fn drain(&self) {
        self.core().drain();
    }

    /// Who is told when the host runs out of space or a sync fails. Requests concerned wait from then on instead of
    /// failing.
    pub fn set_observer(&self, observer: Arc<dyn DiskObserver>) {
        self.core().lock().observer = Some(observer);
    }

    /// Runs the writes again that wait for space on the host, and says how many.
    pub fn retry_parked(&self) -> usize {
        let count = self.core().retry_parked();
        self.ensure_worker();
        count
    }

    /// Makes a poisoned image usable again: reopens it, then does the writes again that were not acknowledged. Blocks
    /// for the host's disk; not to be called from a sink or an observer.
    ///
    /// # Errors
    /// The image's own; it stays poisoned and requests keep waiting.
    pub fn reopen(&self) -> Result<Reopened, BlockError> {
        let reopened = self.core().reopen()?;
        self.ensure_worker();
        Ok(reopened)
    }

    /// Whether a sync failed and the image was not reopened since.
    pub fn is_poisoned(&self) -> bool {
        self.core().lock().poisoned()
    }

    /// What the disk has done so far.
    pub fn stats(&self) -> DiskStats {
        let mut stats = self.core().counters.snapshot();
        let state = self.core().lock();
        stats.in_flight = state.in_flight() as u64;
        stats.parked = state.set_aside() as u64;
        stats.bytes_at_risk = state.risk.bytes();
        stats.since_durable = state.risk.since_durable(Instant::now());
        stats
    }

    fn core(&self) -> &Arc<Core> {
        &self.owner.core
    }

    fn done(&self, job: Job, result: Result<(), BlockError>) -> Submission {
        self.core().count(&job, &result);
        let Request { token, buffer, .. } = job.request;
        Submission::Done(Completed { token, result, buffer })
    }

    fn enqueue(&self, job: Job) -> Submission {
        let flush = job.request.operation == Operation::Flush;
        let core = self.core();
        let mut state = core.lock();
        match state.accept(job) {
            Accepted::Done(job, result) => {
                drop(state);
                self.done(job, result)
            }
            Accepted::Queued => {
                if let Err(error) = worker::ensure(core, &mut state)
                    && let Some(job) = state.withdraw(flush)
                {
                    drop(state);
                    return self.done(job, Err(BlockError::from_io("no thread could be started for the disk", error)));
                }
                core.announce(state, false);
                Submission::Pending
            }
        }
    }

    /// For requests put back on their way. They had a worker before, so one is there.
    fn ensure_worker(&self) {
        let mut state = self.core().lock();
        if let Err(error) = worker::ensure(self.core(), &mut state) {
            tracing::error!(%error, "no thread could be started for a disk");
        }
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        let mut state = self.core.lock();
        state.workers.stop = true;
        let quiet = state.in_flight() == 0 && state.set_aside() == 0;
        let none_running = state.workers.running == 0;
        let threads = std::mem::take(&mut state.workers.threads);
        self.core.announce(state, true);
        if none_running {
            self.core.finish();
        }
        // With nothing in flight no worker is inside a sink, so none can wait for a lock of this thread, and this
        // thread is not one of them.
        if quiet {
            for thread in threads {
                if thread.join().is_err() {
                    tracing::error!("a disk worker panicked");
                }
            }
        }
    }
}

/// Checks what a front-end should have checked: the range is whole sectors of the disk, the buffer is long enough.
fn check(request: &Request, info: &DiskInfo) -> Result<(), BlockError> {
    let Request { operation, offset_bytes, len_bytes, ref buffer, .. } = *request;
    match operation {
        Operation::Flush => return Ok(()),
        Operation::Read | Operation::Write { .. } if len_bytes > buffer.len_bytes() => {
            let context = format!("a request of {len_bytes:#x} bytes has a buffer of {:#x}", buffer.len_bytes());
            return Err(BlockError::new(BlockErrorKind::OutOfRange, context));
        }
        Operation::Read | Operation::Write { .. } | Operation::Discard => {}
    }
    info.check_range(offset_bytes, len_bytes)
}

/// Waits for the completion of a request of the disk's own.
#[derive(Debug, Default)]
struct Waiter {
    result: Mutex<Option<Result<(), BlockError>>>,
    done: Condvar,
}

impl Waiter {
    fn wait(&self) -> Result<(), BlockError> {
        let mut result = self.result.lock();
        loop {
            if let Some(result) = result.take() {
                return result;
            }
            self.done.wait(&mut result);
        }
    }
}

impl CompletionSink for Waiter {
    fn complete(&self, completed: Completed) {
        *self.result.lock() = Some(completed.result);
        self.done.notify_one();
    }
}

#[cfg(test)]
mod tests;
