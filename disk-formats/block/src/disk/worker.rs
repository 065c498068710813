//! The threads that run what blocks.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use parking_lot::MutexGuard;

use crate::queue::{Core, State, Step};

/// One thread may wait in a sync while another moves data; more that write only queue up in the host's file system.
const MAX_WRITERS: usize = 2;
/// A read waits for the host's disk, which serves many at once faster than one after the other.
const MAX_WORKERS: usize = 16;

/// How long a worker that ran out of work looks for more before it sleeps. A wake-up costs about as much.
const SPIN: Duration = Duration::from_micros(50);

/// Starts a worker if requests wait and none is free for them.
///
/// # Errors
/// The host's, when there is no worker at all.
pub(super) fn ensure(core: &Arc<Core>, state: &mut MutexGuard<'_, State>) -> std::io::Result<()> {
    let free = state.workers.asleep + usize::from(state.workers.spinning) + usize::from(core.is_served_here());
    let most = if state.reads_wait() { MAX_WORKERS } else { MAX_WRITERS };
    if state.waiting_for_worker() <= free || state.workers.running >= most {
        return Ok(());
    }
    let name = format!("disk-{}", state.workers.running);
    let shared = Arc::clone(core);
    match std::thread::Builder::new().name(name).spawn(move || work(&shared)) {
        Ok(thread) => {
            state.workers.running += 1;
            state.workers.threads.push(thread);
            Ok(())
        }
        Err(_) if state.workers.running > 0 => Ok(()),
        Err(error) => Err(error),
    }
}

fn work(core: &Core) {
    core.serve_here();
    let mut state = core.lock();
    loop {
        match state.next_step() {
            Step::Stop => break,
            Step::Wait => wait(core, &mut state),
            step => MutexGuard::unlocked(&mut state, || core.perform(step)),
        }
    }
    state.workers.running -= 1;
    let last = state.workers.running == 0;
    drop(state);
    if last {
        core.finish();
    }
}

/// Returns when there may be something to do.
fn wait(core: &Core, state: &mut MutexGuard<'_, State>) {
    if !state.workers.spinning {
        state.workers.spinning = true;
        let seen = core.arrivals.load(Ordering::Acquire);
        MutexGuard::unlocked(state, || {
            let start = Instant::now();
            while core.arrivals.load(Ordering::Acquire) == seen && start.elapsed() < SPIN {
                std::hint::spin_loop();
            }
        });
        state.workers.spinning = false;
        if state.has_work() || state.workers.stop {
            return;
        }
    }
    state.workers.asleep += 1;
    core.work.wait(state);
    state.workers.asleep -= 1;
}
