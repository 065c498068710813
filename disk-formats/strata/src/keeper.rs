//! The thread that keeps house while the guest works: checkpoints, compaction, room for the host.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use benchtop_block::BlockError;
use parking_lot::{Condvar, Mutex};

use crate::checkpoint::Checkpoints;
use crate::commit::ZEROES;
use crate::core::Core;
use crate::disk::io_error;
use crate::due::Due;
use crate::layout::{SEGMENT_BYTES, place_offset};
use crate::tidy::Tidying;

/// How often it looks by itself.
const LOOKS_EVERY: Duration = Duration::from_millis(200);
/// Looks without a write after which the disk is at rest.
const RESTS_AFTER: u32 = 10;
/// Looks after which committed writes are a restore point although more keep coming: 5 s.
const POINTS_AFTER: u32 = 25;
/// How long it does nothing after something failed: a full host stays full for a while.
const FAILED_FOR: Duration = Duration::from_secs(5);
/// How long it tidies between two looks.
const TIDIES_FOR: Duration = Duration::from_millis(50);
/// Places that are written ahead of small commits,
const PLACES_READY: u64 = 2;
/// after so many in a row: half a place of them.
const SMALL_BATCHES_MANY: u32 = 256;
/// Free places that are kept as they are while the disk is at rest.
const SPARE_AT_REST: u64 = 4;

#[derive(Debug, Default)]
struct Flags {
    running: bool,
    checkpoint: bool,
    places: bool,
    stop: bool,
}

/// What the keeper is asked for.
#[derive(Debug, Default)]
pub struct Wanted {
    flags: Mutex<Flags>,
    changed: Condvar,
}

impl Wanted {
    /// Does nothing for so long, whatever is asked for, unless the disk is being closed.
    fn pause(&self, time: Duration) {
        let until = Instant::now() + time;
        let mut flags = self.flags.lock();
        while !flags.stop && !self.changed.wait_until(&mut flags, until).timed_out() {}
    }

    /// The log will soon want places that were written before.
    pub fn want_places(&self) {
        let mut flags = self.flags.lock();
        if flags.running && !flags.places {
            flags.places = true;
            self.changed.notify_all();
        }
    }

    /// Whether a writer may be waiting for a checkpoint.
    pub fn hurries(&self) -> bool {
        self.flags.lock().checkpoint
    }

    /// Does nothing for so long, unless something is asked for.
    pub fn rest(&self, time: Duration) {
        let mut flags = self.flags.lock();
        if !flags.stop {
            self.changed.wait_for(&mut flags, time);
        }
    }
}

/// The running thread.
#[derive(Debug)]
pub struct Keeper {
    core: Arc<Core>,
    thread: Option<JoinHandle<()>>,
}

impl Keeper {
    /// Begins. Without a thread, if the host gives none: then writers do the work themselves.
    pub fn start(core: &Arc<Core>) -> Self {
        let shared = core.clone();
        core.wanted.flags.lock().running = true;
        let thread = std::thread::Builder::new().name("strata".to_owned()).spawn(move || shared.keep());
        let thread = thread.inspect_err(|error| tracing::warn!(%error, "no thread for a disk's housekeeping")).ok();
        core.wanted.flags.lock().running = thread.is_some();
        Self { core: core.clone(), thread }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        {
            let mut flags = self.core.wanted.flags.lock();
            (flags.stop, flags.running) = (true, false);
            self.core.wanted.changed.notify_all();
        }
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("a disk's housekeeping panicked");
        }
    }
}

impl Core {
    /// A checkpoint should be made; `now` if nothing more may be written before.
    pub fn want_checkpoint(&self, now: bool) -> Result<(), BlockError> {
        let running = {
            let mut flags = self.wanted.flags.lock();
            if flags.running && !flags.checkpoint {
                flags.checkpoint = true;
                self.wanted.changed.notify_all();
            }
            flags.running
        };
        if running && !now {
            return Ok(());
        }
        let mut checkpoints = self.checkpoints.lock();
        // Whoever was here before may have made it.
        let due = self.due(&*self.usable()?);
        if due.most() < 1.0 {
            return Ok(());
        }
        self.do_what_is(due, &mut checkpoints)?;
        if running { Ok(()) } else { self.compact_some(&mut checkpoints, false).map(|_more| ()) }
    }

    /// Makes a checkpoint or a head without one, if it is due.
    fn do_what_is(&self, due: Due, checkpoints: &mut Checkpoints) -> Result<(), BlockError> {
        if due.checkpoint >= 1.0 {
            self.make_checkpoint(checkpoints)
        } else if due.amendment >= 1.0 {
            self.amend(checkpoints)
        } else {
            Ok(())
        }
    }

    fn keep(&self) {
        let mut watch = Watch::new();
        let mut busy = false;
        loop {
            let places = {
                let mut flags = self.wanted.flags.lock();
                if !flags.stop && !flags.checkpoint && !flags.places && !busy {
                    self.wanted.changed.wait_for(&mut flags, LOOKS_EVERY);
                }
                if flags.stop {
                    return;
                }
                let places = std::mem::take(&mut flags.places);
                flags.checkpoint &= places;
                places
            };
            let keeping = self.keeping.lock();
            if places {
                if let Err(error) = self.prepare_places() {
                    // The log does without, more slowly; a full host is told of by whoever writes.
                    tracing::debug!(%error, "no room was written ahead of the log");
                }
                continue;
            }
            busy = match self.keep_once(&mut watch) {
                Ok(more) => more,
                Err(error) => {
                    // A writer that runs into the same hears of it.
                    tracing::warn!(%error, "a disk's housekeeping failed");
                    drop(keeping);
                    self.pressure.end();
                    self.wanted.pause(FAILED_FOR);
                    continue;
                }
            };
            drop(keeping);
        }
    }

    /// Writes zeroes where small commits will soon go, so that their syncs neither convert extents of the host's file
    /// system nor make the file longer.
    fn prepare_places(&self) -> Result<(), BlockError> {
        loop {
            if self.usable()?.log.small_batches < SMALL_BATCHES_MANY {
                return Ok(());
            }
            let Some(place) = self.store.space.write().take_to_prepare(PLACES_READY) else { return Ok(()) };
            let written = self.zero_place(place);
            let mut space = self.store.space.write();
            match written {
                Ok(()) => space.ready(place),
                Err(error) => {
                    space.cancel_move(place);
                    return Err(error);
                }
            }
        }
    }

    fn zero_place(&self, place: u32) -> Result<(), BlockError> {
        let slices = [&ZEROES.0[..]; 16];
        let mut at = place_offset(place);
        let end = at + SEGMENT_BYTES;
        while at < end {
            self.store.medium.write_at(at, &slices).map_err(io_error("writing ahead of the log"))?;
            at += (slices.len() * ZEROES.0.len()) as u64;
        }
        self.sync("writing ahead of the log")
    }

    /// Does something that writes, which does not count as somebody else's.
    fn by_itself<T>(&self, watch: &mut Watch, act: impl FnOnce() -> T) -> T {
        let before = self.state.lock().written();
        let done = act();
        watch.last = watch.last.wrapping_add(self.state.lock().written().wrapping_sub(before));
        done
    }

    /// Does what there is to do; says whether there is more.
    fn keep_once(&self, watch: &mut Watch) -> Result<bool, BlockError> {
        let (written, unpointed) = {
            let state = self.state.lock();
            if state.poisoned {
                return Ok(false);
            }
            (state.written(), state.log.unpointed && state.retention.every_flush)
        };
        watch.look(written, unpointed);
        if unpointed && (watch.idle > 0 || watch.unpointed >= POINTS_AFTER) {
            self.by_itself(watch, || self.commit(true))?;
        }
        let mut checkpoints = self.checkpoints.lock();
        let (due, rests) = {
            let state = self.usable()?;
            (self.due(&state), watch.idle == RESTS_AFTER && state.appended > 0)
        };
        if rests {
            self.make_checkpoint(&mut checkpoints)?;
        } else {
            self.do_what_is(due, &mut checkpoints)?;
        }
        // A disk in order is not searched again and again.
        let mut more = !watch.in_order && self.compact_some(&mut checkpoints, watch.idle > RESTS_AFTER)?;
        drop(checkpoints);
        if watch.idle > RESTS_AFTER
            && let Some(mut tidying) = watch.tidied
        {
            let goes_on = self.by_itself(watch, || self.tidy(&mut tidying, TIDIES_FOR))?;
            watch.tidied = goes_on.then_some(tidying);
            more |= goes_on;
            if watch.tidied.is_none() {
                self.make_checkpoint(&mut self.checkpoints.lock())?;
                self.give_back(SPARE_AT_REST);
            }
        } else {
            watch.in_order = watch.idle > RESTS_AFTER && !more;
        }
        Ok(more)
    }
}

/// What the keeper saw when it last looked.
#[derive(Debug)]
struct Watch {
    /// How much was written by then.
    last: u64,
    /// When it counted last: it looks more often while it has work.
    counted: Instant,
    /// Looks since somebody else wrote.
    idle: u32,
    /// Looks with something that is not at a restore point.
    unpointed: u32,
    /// How far the disk is tidied since then; nothing when it is.
    tidied: Option<Tidying>,
    /// It was tidied and compacted since.
    in_order: bool,
}

impl Watch {
    fn new() -> Self {
        Self { last: 0, counted: Instant::now(), idle: 0, unpointed: 0, tidied: None, in_order: false }
    }

    fn look(&mut self, written: u64, unpointed: bool) {
        let counts = self.counted.elapsed() >= LOOKS_EVERY * 9 / 10;
        if counts {
            self.counted = Instant::now();
        }
        self.unpointed = if unpointed { self.unpointed + u32::from(counts) } else { 0 };
        if written == self.last {
            self.idle = self.idle.saturating_add(u32::from(counts));
        } else {
            (self.idle, self.tidied, self.in_order) = (0, Some(Tidying::default()), false);
            self.last = written;
        }
    }
}
