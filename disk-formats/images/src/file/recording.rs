//! What a thread does to its image files, for tests: recorded, and made to fail on demand.

use std::cell::RefCell;
use std::fs::File;
use std::io;
use std::time::Duration;

use benchtop_block::file::Lock;
use benchtop_memory::VolatileSlice;

/// Something that was done to a file, or said by a test about it.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    Write(u64, Vec<u8>),
    Zero(u64, u64),
    SetLen(u64),
    Sync,
    /// A step of the workload began.
    Step,
    /// A step of the workload ended.
    Done,
}

#[derive(Debug, Default)]
struct Recorder {
    events: Option<Vec<Event>>,
    /// Syncs that succeed before some fail, and how many do.
    fail_syncs: Option<(u64, u64)>,
    /// Syncs are only noted: nothing here outlives the process, and thousands of them take minutes.
    unsynced: bool,
}

thread_local! {
    static RECORDER: RefCell<Recorder> = RefCell::new(Recorder::default());
}

/// Notes an event, if this thread is recorded.
pub(crate) fn record(event: impl FnOnce() -> Event) {
    RECORDER.with_borrow_mut(|recorder| {
        if let Some(events) = &mut recorder.events {
            events.push(event());
        }
    });
}

/// Records this thread from here on.
pub(crate) fn start() {
    RECORDER.with_borrow_mut(|recorder| recorder.events = Some(Vec::new()));
}

/// Events so far.
pub(crate) fn count() -> usize {
    RECORDER.with_borrow(|recorder| recorder.events.as_ref().map_or(0, Vec::len))
}

/// Ends the record.
pub(crate) fn take() -> Vec<Event> {
    RECORDER.with_borrow_mut(|recorder| recorder.events.take()).unwrap()
}

/// From here on this thread's syncs do not reach the host.
pub(crate) fn without_syncs() {
    RECORDER.with_borrow_mut(|recorder| recorder.unsynced = true);
}

/// Lets `failures` syncs of this thread after `count` others fail.
pub(crate) fn fail_syncs_after(count: u64, failures: u64) {
    RECORDER.with_borrow_mut(|recorder| recorder.fail_syncs = Some((count, failures)));
}

pub(super) fn write(offset_bytes: u64, from: &[VolatileSlice<'_>]) {
    record(|| {
        let mut bytes = Vec::new();
        for slice in from {
            let start = bytes.len();
            bytes.resize(start + slice.len(), 0);
            slice.copy_to(&mut bytes[start..]);
        }
        Event::Write(offset_bytes, bytes)
    });
}

pub(super) fn zero(offset_bytes: u64, len_bytes: u64) {
    record(|| Event::Zero(offset_bytes, len_bytes));
}

pub(super) fn set_len(len_bytes: u64) {
    record(|| Event::SetLen(len_bytes));
}

/// What a sync answers instead of the host. A sync that succeeds is recorded.
pub(super) fn sync() -> Option<io::Result<()>> {
    let (fails, unsynced) = RECORDER.with_borrow_mut(|recorder| {
        let fails = match &mut recorder.fail_syncs {
            Some((0, 0)) | None => false,
            Some((0, left)) => {
                *left -= 1;
                true
            }
            Some((before, _)) => {
                *before -= 1;
                false
            }
        };
        (fails, recorder.unsynced)
    });
    if fails {
        return Some(Err(io::Error::other("the test asked for it")));
    }
    record(|| Event::Sync);
    unsynced.then_some(Ok(()))
}

/// As the real one, but patient: a test beside this one that starts a program holds all our files, with their locks,
/// from its fork to its exec.
pub(super) fn try_lock(file: &File, lock: Lock) -> io::Result<bool> {
    for _ in 0..50 {
        if benchtop_block::file::try_lock(file, lock)? {
            return Ok(true);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(false)
}
