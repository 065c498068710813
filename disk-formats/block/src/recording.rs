//! A layer that records the order in which writes, syncs and completions happen, and the proof that is drawn from it.
//!
//! A page cache survives the death of the process, so killing it shows nothing about durability. The order does: a
//! write is durable when a sync that *started* after the write *ended* has itself ended well.

use std::sync::Arc;

use benchtop_memory::VolatileSlice;
use parking_lot::Mutex;

use crate::{BlockError, Completed, CompletionSink, DiskBackend, DiskInfo, pieces};

/// One thing that happened. Writes and syncs carry a number of their own that ties begin and end together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A write was handed to the image.
    WriteBegin {
        /// Which.
        id: u64,
        /// Where, in bytes.
        offset_bytes: u64,
        /// How much.
        len_bytes: u64,
    },
    /// A write came back from the image.
    WriteEnd {
        /// Which.
        id: u64,
        /// Whether it succeeded.
        ok: bool,
        /// Whether it was durable by itself.
        fua: bool,
    },
    /// A sync was handed to the image.
    SyncBegin {
        /// Which.
        id: u64,
    },
    /// A sync came back.
    SyncEnd {
        /// Which.
        id: u64,
        /// Whether it succeeded.
        ok: bool,
    },
    /// The device was told that a write succeeded.
    Completed {
        /// Where, in bytes.
        offset_bytes: u64,
        /// How much.
        len_bytes: u64,
    },
}

/// The record.
#[derive(Debug, Default)]
pub struct Recorder {
    log: Mutex<(Vec<Event>, u64)>,
}

impl Recorder {
    fn push(&self, event: Event) {
        self.log.lock().0.push(event);
    }

    fn begin(&self, event: impl FnOnce(u64) -> Event) -> u64 {
        let mut log = self.log.lock();
        log.1 += 1;
        let id = log.1;
        log.0.push(event(id));
        id
    }

    /// Everything so far, in order.
    pub fn events(&self) -> Vec<Event> {
        self.log.lock().0.clone()
    }

    /// Notes that the device was told of a write's success.
    pub fn completed(&self, offset_bytes: u64, len_bytes: u64) {
        self.push(Event::Completed { offset_bytes, len_bytes });
    }

    /// A sink for the write of that range: notes its success, then tells `inner`.
    pub fn sink(
        self: &Arc<Self>,
        offset_bytes: u64,
        len_bytes: u64,
        inner: Arc<dyn CompletionSink>,
    ) -> Arc<dyn CompletionSink> {
        Arc::new(RecordingSink { recorder: self.clone(), offset_bytes, len_bytes, inner })
    }

    /// Checks that every completed write was durable when it completed, and returns how many there were.
    ///
    /// Writes of one range are matched to their completions in order, oldest first.
    ///
    /// # Errors
    /// A sentence about the first completion that came too early.
    pub fn check_write_through(&self) -> Result<usize, String> {
        let events = self.events();
        let mut spent = vec![false; events.len()];
        let mut count = 0;
        for (at, event) in events.iter().enumerate() {
            let Event::Completed { offset_bytes, len_bytes } = *event else { continue };
            let range = |id| {
                events[..at].iter().any(|event| {
                    matches!(*event, Event::WriteBegin { id: begun, offset_bytes: o, len_bytes: l }
                        if (begun, o, l) == (id, offset_bytes, len_bytes))
                })
            };
            let ended = (0..at).find(|&index| {
                !spent[index] && matches!(events[index], Event::WriteEnd { id, ok: true, .. } if range(id))
            });
            let what = format!("event {at}: the write of {len_bytes:#x} bytes at {offset_bytes:#x} completed");
            let Some(ended) = ended else { return Err(format!("{what} before it was done")) };
            spent[ended] = true;
            count += 1;
            if matches!(events[ended], Event::WriteEnd { fua: true, .. }) {
                continue;
            }
            let covered = events[ended..at].iter().any(|event| {
                matches!(*event, Event::SyncBegin { id } if events[ended..at].contains(&Event::SyncEnd { id, ok: true }))
            });
            if !covered {
                return Err(format!("{what} without a sync that started after it"));
            }
        }
        Ok(count)
    }
}

#[derive(Debug)]
struct RecordingSink {
    recorder: Arc<Recorder>,
    offset_bytes: u64,
    len_bytes: u64,
    inner: Arc<dyn CompletionSink>,
}

impl CompletionSink for RecordingSink {
    fn complete(&self, completed: Completed) {
        if completed.result.is_ok() {
            self.recorder.completed(self.offset_bytes, self.len_bytes);
        }
        self.inner.complete(completed);
    }
}

/// The layer.
pub struct RecordingDisk {
    inner: Arc<dyn DiskBackend>,
    recorder: Arc<Recorder>,
    syncs: bool,
}

impl RecordingDisk {
    /// Records what `inner` is asked.
    pub fn new(inner: Arc<dyn DiskBackend>) -> Self {
        Self { inner, recorder: Arc::default(), syncs: true }
    }

    /// The negative control: syncs are neither passed on nor recorded, as if nobody had thought of them. A check of
    /// durability must fail on it.
    pub fn without_sync(inner: Arc<dyn DiskBackend>) -> Self {
        Self { syncs: false, ..Self::new(inner) }
    }

    /// The record, which outlives the disk.
    pub fn recorder(&self) -> Arc<Recorder> {
        self.recorder.clone()
    }
}

impl DiskBackend for RecordingDisk {
    fn info(&self) -> DiskInfo {
        self.inner.info()
    }

    fn read_at(&self, offset_bytes: u64, into: &[VolatileSlice<'_>]) -> Result<(), BlockError> {
        self.inner.read_at(offset_bytes, into)
    }

    fn write_at(&self, offset_bytes: u64, from: &[VolatileSlice<'_>], fua: bool) -> Result<(), BlockError> {
        let len_bytes = pieces::len_bytes(from);
        let id = self.recorder.begin(|id| Event::WriteBegin { id, offset_bytes, len_bytes });
        let fua = fua && self.syncs;
        let result = self.inner.write_at(offset_bytes, from, fua);
        self.recorder.push(Event::WriteEnd { id, ok: result.is_ok(), fua });
        result
    }

    fn flush(&self) -> Result<(), BlockError> {
        if !self.syncs {
            return Ok(());
        }
        let id = self.recorder.begin(|id| Event::SyncBegin { id });
        let result = self.inner.flush();
        self.recorder.push(Event::SyncEnd { id, ok: result.is_ok() });
        result
    }

    fn discard(&self, offset_bytes: u64, len_bytes: u64) -> Result<(), BlockError> {
        self.inner.discard(offset_bytes, len_bytes)
    }

    fn reopen(&self) -> Result<(), BlockError> {
        self.inner.reopen()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{MemoryDisk, conformance};

    const BEGIN: Event = Event::WriteBegin { id: 1, offset_bytes: 512, len_bytes: 512 };
    const END: Event = Event::WriteEnd { id: 1, ok: true, fua: false };
    const SYNC: Event = Event::SyncBegin { id: 2 };
    const SYNCED: Event = Event::SyncEnd { id: 2, ok: true };
    const DONE: Event = Event::Completed { offset_bytes: 512, len_bytes: 512 };

    fn check(events: &[Event]) -> Result<usize, String> {
        let recorder = Recorder::default();
        events.iter().for_each(|event| recorder.push(*event));
        recorder.check_write_through()
    }

    #[test]
    fn only_a_sync_between_counts() {
        assert_eq!(check(&[BEGIN, END, SYNC, SYNCED, DONE]), Ok(1));
        let forced = Event::WriteEnd { id: 1, ok: true, fua: true };
        assert_eq!(check(&[BEGIN, forced, DONE]), Ok(1));
        let failed = Event::SyncEnd { id: 2, ok: false };
        let elsewhere = Event::Completed { offset_bytes: 0, len_bytes: 512 };
        for early in [
            &[BEGIN, END, DONE][..],
            &[BEGIN, SYNC, END, SYNCED, DONE],
            &[BEGIN, END, SYNC, DONE, SYNCED],
            &[BEGIN, END, SYNC, failed, DONE],
            &[BEGIN, DONE],
            &[BEGIN, END, SYNC, SYNCED, elsewhere],
            &[BEGIN, END, SYNC, SYNCED, DONE, DONE],
        ] {
            assert!(check(early).is_err(), "{early:?}");
        }
    }

    #[test]
    fn conforms() {
        conformance::run(|| RecordingDisk::new(Arc::new(MemoryDisk::new(1 << 20))));
    }
}
