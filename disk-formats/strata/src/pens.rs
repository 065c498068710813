//! The threads that write full batches into the file, so that whoever wrote the data goes on while the host's disk
//! works. A commit writes what it needs itself: it would only wait for a thread to wake.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;

use crate::commit::Claim;
use crate::core::Core;

/// Enough to keep the host's disk at work while one of them takes up the next batch.
const PENS: usize = 6;

/// The running threads.
#[derive(Debug)]
pub struct Pens {
    core: Arc<Core>,
    threads: Vec<JoinHandle<()>>,
}

impl Pens {
    /// Begins, with as many threads as the host gives; without any, writers do the work themselves.
    pub fn start(core: &Arc<Core>) -> Self {
        let mut threads = Vec::new();
        for number in 0..PENS {
            let shared = core.clone();
            core.pens.fetch_add(1, Ordering::Relaxed);
            match std::thread::Builder::new().name(format!("strata-pen-{number}")).spawn(move || shared.write_on()) {
                Ok(thread) => threads.push(thread),
                Err(error) => {
                    core.pens.fetch_sub(1, Ordering::Relaxed);
                    tracing::warn!(%error, "no thread to write a disk's log with");
                }
            }
        }
        Self { core: core.clone(), threads }
    }
}

impl Drop for Pens {
    fn drop(&mut self) {
        {
            let _state = self.core.state.lock();
            self.core.pens.store(0, Ordering::Relaxed);
            self.core.full.notify_all();
        }
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread that writes a disk's log panicked");
            }
        }
    }
}

impl Core {
    /// Writes full batches until the disk is closed.
    fn write_on(&self) {
        loop {
            let outgoing = {
                let mut state = self.state.lock();
                loop {
                    if self.pens.load(Ordering::Relaxed) == 0 {
                        return;
                    }
                    // What failed is tried again by who needs it, and hears why.
                    let failed = state.poisoned || state.log.failed;
                    let claimed = if failed { Ok(Claim::Done) } else { self.claim(&mut state, u64::MAX) };
                    match claimed {
                        Ok(Claim::Batch(outgoing)) => break outgoing,
                        Ok(Claim::NotYet | Claim::Done) => {}
                        Err(error) => {
                            tracing::error!(%error, "a disk's log can not be sealed");
                            state.poisoned = true;
                        }
                    }
                    self.full.wait(&mut state);
                }
            };
            if let Err(error) = self.put(outgoing) {
                tracing::debug!(%error, "a batch waits for the next writer");
            }
        }
    }
}
