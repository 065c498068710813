//! The queue on disks that are held, failed and recorded. Nothing here depends on time: where a test needs two things
//! at once, it holds one of them.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use proptest::prelude::*;

use super::*;
use crate::SECTOR_BYTES;
use crate::conformance::Sequence;
use crate::fault::{FaultDisk, FaultPlan};
use crate::queue::{State, Step};
use crate::recording::{Recorder, RecordingDisk};
use crate::{DiscardBehavior, MemoryDisk};

#[derive(Debug)]
struct Sink(SyncSender<Completed>);

impl CompletionSink for Sink {
    fn complete(&self, completed: Completed) {
        // A test that has ended no longer listens.
        self.0.send(completed).unwrap_or_default();
    }
}

/// A disk and the one submitter it has.
struct Bench {
    disk: Disk,
    sink: Arc<Sink>,
    completions: Receiver<Completed>,
    recorder: Option<Arc<Recorder>>,
}

impl Bench {
    fn new(backend: Arc<dyn DiskBackend>, cache: CacheMode) -> Self {
        let (sender, completions) = sync_channel(1024);
        let disk = Disk::new(backend, DiskOptions { cache, inline: false });
        Self { disk, sink: Arc::new(Sink(sender)), completions, recorder: None }
    }

    fn recording(layer: RecordingDisk, cache: CacheMode) -> Self {
        let recorder = layer.recorder();
        Self { recorder: Some(recorder), ..Self::new(Arc::new(layer), cache) }
    }

    fn submit(&self, token: u64, operation: Operation, sector: u64, bytes: Vec<u8>) -> Submission {
        let (offset_bytes, len_bytes) = (sector * SECTOR_BYTES, bytes.len() as u64);
        let sink: Arc<dyn CompletionSink> = match (&self.recorder, operation) {
            (Some(recorder), Operation::Write { .. }) => recorder.sink(offset_bytes, len_bytes, self.sink.clone()),
            _ => self.sink.clone(),
        };
        self.disk.submit(Request { token, operation, offset_bytes, len_bytes, buffer: IoBuffer::Host(bytes), sink })
    }

    /// A one-sector write that goes to a worker.
    fn write(&self, token: u64, sector: u64, fill: u8) {
        self.write_with(token, sector, fill, false);
    }

    fn write_with(&self, token: u64, sector: u64, fill: u8, fua: bool) {
        let submission = self.submit(token, Operation::Write { fua }, sector, vec![fill; 512]);
        assert!(matches!(submission, Submission::Pending), "{submission:?}");
    }

    fn flush(&self, token: u64) -> Completed {
        match self.submit(token, Operation::Flush, 0, Vec::new()) {
            Submission::Done(completed) => completed,
            Submission::Pending => self.next(),
        }
    }

    fn next(&self) -> Completed {
        self.completions.recv().unwrap()
    }

    /// The next completion, which must be this one and have succeeded.
    fn expect(&self, token: u64) {
        let completed = self.next();
        assert_eq!(completed.token, token);
        completed.result.unwrap();
    }

    fn expect_all(&self, tokens: impl Iterator<Item = u64>) {
        let mut left: Vec<u64> = tokens.collect();
        while !left.is_empty() {
            let completed = self.next();
            completed.result.unwrap();
            let at = left.iter().position(|&token| token == completed.token).unwrap();
            left.swap_remove(at);
        }
    }

    fn nothing_came(&self) -> bool {
        self.completions.try_recv().is_err()
    }
}

fn kind(result: Result<(), BlockError>) -> BlockErrorKind {
    result.unwrap_err().kind()
}

/// Many write-through writes, several at once, some overlapping: the workload both durability tests run.
fn write_through_workload(layer: RecordingDisk) -> (Result<usize, String>, u64) {
    let bench = Bench::recording(layer, CacheMode::Writethrough);
    let recorder = bench.recorder.clone().unwrap();
    for round in 0..50 {
        for lane in 0..8 {
            bench.write_with(round * 8 + lane, (round + lane) % 16, lane as u8, lane == 3);
        }
        bench.expect_all(round * 8..round * 8 + 8);
    }
    (recorder.check_write_through(), bench.disk.stats().syncs)
}

#[test]
fn every_write_through_completion_follows_a_sync_that_covers_it() {
    let (checked, syncs) = write_through_workload(RecordingDisk::new(Arc::new(FaultDisk::new(65536))));
    assert_eq!(checked, Ok(400));
    assert!((1..=400).contains(&syncs));
}

#[test]
fn the_same_check_fails_with_the_sync_removed() {
    let (checked, _) = write_through_workload(RecordingDisk::without_sync(Arc::new(FaultDisk::new(65536))));
    assert!(checked.is_err());
}

#[test]
fn concurrent_writes_share_one_sync() {
    let fault = Arc::new(FaultDisk::new(65536));
    fault.set_plan(FaultPlan { hold_syncs: true, ..FaultPlan::default() });
    let bench = Bench::recording(RecordingDisk::new(fault.clone()), CacheMode::Writethrough);
    bench.write(0, 0, 1);
    fault.wait_until(|counts| counts.syncs_begun == 1);
    // The other worker writes these while the first sync is held. None may complete with that one.
    for token in 1..=20 {
        bench.write(token, token, 2);
    }
    while bench.disk.owner.core.lock().waiting_for_sync() < 20 {
        std::thread::yield_now();
    }
    assert!(bench.nothing_came());
    fault.set_plan(FaultPlan::default());
    bench.expect_all(0..=20);
    bench.disk.drain();
    assert_eq!(fault.counts().syncs_begun, 2);
    assert_eq!(fault.durable(512, 512), [2; 512]);
    assert_eq!(bench.recorder.clone().unwrap().check_write_through(), Ok(21));
    assert_eq!(bench.disk.cache().bytes_at_risk, 0);
}

/// Steps a queue by hand, as one worker would: a steady stream of writes does not keep the first from its sync.
#[test]
fn a_sync_is_not_starved_by_a_long_queue() {
    let bench = Bench::new(Arc::new(MemoryDisk::new(65536)), CacheMode::Writethrough);
    let mut state = bench.disk.owner.core.lock();
    let submit = |state: &mut State, token| {
        let buffer = IoBuffer::Host(vec![0; 512]);
        let operation = Operation::Write { fua: false };
        let request = Request { token, operation, offset_bytes: 0, len_bytes: 512, buffer, sink: bench.sink.clone() };
        let job = Job { request, submitted: Instant::now(), internal: false };
        assert!(matches!(state.accept(job), Accepted::Queued));
    };
    submit(&mut state, 0);
    let mut run = 0;
    let batch = loop {
        // There is always one more.
        submit(&mut state, run + 1);
        match state.next_step() {
            Step::Run(job, _) => assert!(state.changed(job, false).is_none(), "it waits for the sync"),
            Step::Sync(batch) => break batch,
            _ => panic!("there is work"),
        }
        run += 1;
    };
    assert!(run <= 40, "{run}");
    let tokens: Vec<u64> = batch.iter().map(|job| job.request.token).collect();
    assert_eq!(tokens, (0..run).collect::<Vec<_>>());
}

#[test]
fn disks_may_come_and_go_quickly() {
    for round in 0..300 {
        let mode = [CacheMode::Writethrough, CacheMode::Writeback][round % 2];
        let backend = Arc::new(MemoryDisk::new(8192));
        let Bench { disk, sink, completions, .. } = Bench::new(backend.clone(), mode);
        let count = (round % 5) as u64;
        for token in 0..count {
            let buffer = IoBuffer::Host(vec![1; 512]);
            let operation = Operation::Write { fua: false };
            let (offset_bytes, len_bytes) = (token * 512, 512);
            let request = Request { token, operation, offset_bytes, len_bytes, buffer, sink: sink.clone() };
            assert!(matches!(disk.submit(request), Submission::Pending));
        }
        if round % 3 == 0 {
            disk.drain();
        }
        drop((disk, sink));
        // Every request completes, and then the workers let go of the sink.
        assert_eq!(completions.iter().map(|completed| completed.result.unwrap()).count() as u64, count);
    }
}

#[test]
fn write_back_completes_at_once_and_counts_what_is_at_risk() {
    let fault = Arc::new(FaultDisk::new(65536));
    let bench = Bench::new(fault.clone(), CacheMode::Writeback);
    assert!(bench.disk.guest_write_cache());
    bench.write(0, 0, 1);
    bench.expect(0);
    bench.write(1, 1, 1);
    bench.expect(1);
    assert_eq!(bench.disk.cache().bytes_at_risk, 1024);
    assert!(bench.disk.stats().since_durable > std::time::Duration::ZERO);
    assert_eq!(fault.counts().syncs_begun, 0);
    // Forced: durable by itself, and it takes nothing with it.
    bench.write_with(2, 2, 3, true);
    bench.expect(2);
    assert_eq!(fault.durable(1024, 512), [3; 512]);
    assert_eq!(fault.durable(0, 512), [0; 512]);
    assert_eq!(bench.disk.cache().bytes_at_risk, 1024);
    bench.flush(3).result.unwrap();
    assert_eq!(fault.durable(0, 512), [1; 512]);
    assert_eq!(bench.disk.cache().bytes_at_risk, 0);
    assert_eq!(bench.disk.stats().since_durable, std::time::Duration::ZERO);
    // Nothing changed since, so this costs nothing.
    bench.flush(4).result.unwrap();
    assert_eq!(fault.counts().syncs_begun, 1);
}

#[test]
fn writes_during_a_sync_stay_at_risk() {
    let fault = Arc::new(FaultDisk::new(65536));
    let bench = Bench::new(fault.clone(), CacheMode::Writeback);
    bench.write(0, 0, 1);
    bench.expect(0);
    fault.set_plan(FaultPlan { hold_syncs: true, ..FaultPlan::default() });
    assert!(matches!(bench.submit(1, Operation::Flush, 0, Vec::new()), Submission::Pending));
    fault.wait_until(|counts| counts.syncs_begun == 1);
    bench.write(2, 1, 1);
    bench.expect(2);
    assert_eq!(bench.disk.cache().bytes_at_risk, 1024);
    fault.set_plan(FaultPlan::default());
    bench.expect(1);
    assert_eq!(bench.disk.cache().bytes_at_risk, 512);
    assert_eq!(fault.durable(512, 512), [0; 512]);
}

#[test]
fn unsafe_ignores_the_guest_but_not_the_user() {
    let fault = Arc::new(FaultDisk::new(65536));
    let bench = Bench::new(fault.clone(), CacheMode::Unsafe);
    bench.write_with(0, 0, 1, true);
    bench.expect(0);
    bench.flush(1).result.unwrap();
    assert_eq!((fault.counts().syncs_begun, bench.disk.cache().bytes_at_risk), (0, 512));
    bench.disk.sync().unwrap();
    assert_eq!((fault.counts().syncs_begun, bench.disk.cache().bytes_at_risk), (1, 0));
    assert_eq!(fault.durable(0, 512), [1; 512]);
}

#[test]
fn the_guest_switches_its_cache_below_the_users_ceiling() {
    let fault = Arc::new(FaultDisk::new(65536));
    let bench = Bench::new(fault.clone(), CacheMode::Writeback);
    bench.disk.set_guest_write_cache(false).unwrap();
    assert_eq!(bench.disk.cache().effective, CacheMode::Writethrough);
    bench.write(0, 0, 1);
    bench.expect(0);
    assert_eq!(fault.durable(0, 512), [1; 512]);
    bench.disk.set_guest_write_cache(true).unwrap();
    assert_eq!(bench.disk.cache().effective, CacheMode::Writeback);
    bench.disk.set_user_cache_mode(CacheMode::Writethrough).unwrap();
    assert_eq!(bench.disk.set_guest_write_cache(true), Err(WriteCacheRefused));
    assert!(!bench.disk.guest_write_cache());
    assert_eq!(bench.disk.cache().effective, CacheMode::Writethrough);
}

#[test]
fn a_change_of_the_users_mode_makes_all_durable() {
    let fault = Arc::new(FaultDisk::new(65536));
    let bench = Bench::new(fault.clone(), CacheMode::Unsafe);
    for (sector, mode) in [(0, CacheMode::Writethrough), (1, CacheMode::Writeback), (2, CacheMode::Unsafe)] {
        bench.write(sector, sector, 9);
        bench.expect(sector);
        bench.disk.set_user_cache_mode(mode).unwrap();
        assert_eq!(fault.durable(sector * 512, 512), [9; 512]);
        assert_eq!((bench.disk.cache().user, bench.disk.cache().bytes_at_risk), (mode, 0));
    }
    // If the sync fails, a looser mode is not set.
    let bench = Bench::new(fault.clone(), CacheMode::Writeback);
    fault.set_plan(FaultPlan { fail_sync: Some(0), ..FaultPlan::default() });
    assert_eq!(kind(bench.disk.set_user_cache_mode(CacheMode::Unsafe)), BlockErrorKind::Io);
    assert_eq!(bench.disk.cache().user, CacheMode::Writeback);
    assert!(bench.disk.is_poisoned());
}

/// Notes what it is told.
#[derive(Debug)]
struct Watch(SyncSender<(&'static str, BlockErrorKind)>);

impl DiskObserver for Watch {
    fn out_of_space(&self, error: &BlockError) {
        self.0.send(("out of space", error.kind())).unwrap_or_default();
    }

    fn poisoned(&self, error: &BlockError) {
        self.0.send(("poisoned", error.kind())).unwrap_or_default();
    }
}

#[test]
fn without_space_a_write_waits_until_there_is_some() {
    let fault = Arc::new(FaultDisk::new(65536));
    let bench = Bench::new(fault.clone(), CacheMode::Writethrough);
    let (sender, told) = sync_channel(16);
    bench.disk.set_observer(Arc::new(Watch(sender)));
    fault.set_plan(FaultPlan { no_space_after: Some(0), ..FaultPlan::default() });
    bench.write(7, 3, 8);
    assert_eq!(told.recv().unwrap(), ("out of space", BlockErrorKind::NoSpace));
    bench.disk.drain();
    assert!(bench.nothing_came());
    assert_eq!((bench.disk.stats().parked, bench.disk.stats().in_flight), (1, 0));
    // Still none.
    assert_eq!(bench.disk.retry_parked(), 1);
    assert_eq!(told.recv().unwrap().0, "out of space");
    fault.set_plan(FaultPlan::default());
    bench.disk.drain();
    assert_eq!(bench.disk.retry_parked(), 1);
    bench.expect(7);
    assert_eq!(fault.durable(1536, 512), [8; 512]);
    assert_eq!(bench.disk.retry_parked(), 0);
}

#[test]
fn without_space_for_a_flush_nothing_is_lost_and_it_waits() {
    let fault = Arc::new(FaultDisk::new(65536));
    let bench = Bench::new(fault.clone(), CacheMode::Writethrough);
    let (sender, told) = sync_channel(16);
    bench.disk.set_observer(Arc::new(Watch(sender)));
    fault.set_plan(FaultPlan { no_space_at_flush: true, ..FaultPlan::default() });
    bench.write(7, 3, 8);
    assert_eq!(told.recv().unwrap(), ("out of space", BlockErrorKind::NoSpace));
    bench.disk.drain();
    assert!(bench.nothing_came() && !bench.disk.is_poisoned());
    // What the disk itself wants is not held back.
    assert_eq!(kind(bench.disk.set_user_cache_mode(CacheMode::Writeback)), BlockErrorKind::NoSpace);
    fault.set_plan(FaultPlan::default());
    assert_eq!(bench.disk.retry_parked(), 1);
    bench.expect(7);
    assert_eq!(fault.durable(1536, 512), [8; 512]);
}

#[test]
fn without_an_observer_errors_go_to_the_device() {
    let fault = Arc::new(FaultDisk::new(65536));
    let bench = Bench::new(fault.clone(), CacheMode::Writethrough);
    fault.set_plan(FaultPlan { no_space_after: Some(0), ..FaultPlan::default() });
    bench.write(0, 0, 1);
    assert_eq!(kind(bench.next().result), BlockErrorKind::NoSpace);
    fault.set_plan(FaultPlan { fail_write: Some(0), ..FaultPlan::default() });
    bench.write(1, 0, 1);
    assert_eq!(kind(bench.next().result), BlockErrorKind::Io);
    assert!(!bench.disk.is_poisoned());
    // The first to wait for a failed sync hears of its cause, the later ones of the poison, until it is reopened.
    fault.set_plan(FaultPlan { fail_sync: Some(0), ..FaultPlan::default() });
    bench.write(2, 0, 1);
    assert_eq!(kind(bench.next().result), BlockErrorKind::Io);
    let refused = bench.submit(3, Operation::Write { fua: false }, 0, vec![0; 512]);
    let Submission::Done(refused) = refused else { panic!("{refused:?}") };
    assert_eq!(kind(refused.result), BlockErrorKind::Poisoned);
    assert_eq!(kind(bench.flush(4).result), BlockErrorKind::Poisoned);
    assert_eq!(bench.disk.reopen().unwrap(), Reopened { reissued: 0, doubtful_bytes: 0 });
    bench.write(5, 0, 1);
    bench.expect(5);
    assert_eq!(bench.disk.stats().failed, 5);
}

#[test]
fn after_a_failed_sync_what_was_not_acknowledged_is_done_again() {
    let fault = Arc::new(FaultDisk::new(65536));
    let bench = Bench::recording(RecordingDisk::new(fault.clone()), CacheMode::Writethrough);
    let (sender, told) = sync_channel(16);
    bench.disk.set_observer(Arc::new(Watch(sender)));
    fault.set_plan(FaultPlan { hold_syncs: true, ..FaultPlan::default() });
    bench.write(0, 0, 1);
    fault.wait_until(|counts| counts.syncs_begun == 1);
    bench.write(1, 1, 2);
    fault.wait_until(|counts| counts.writes_ended == 2);
    fault.set_plan(FaultPlan { fail_sync: Some(0), fail_reopen: true, ..FaultPlan::default() });
    assert_eq!(told.recv().unwrap(), ("poisoned", BlockErrorKind::Io));
    bench.write(2, 2, 3);
    bench.disk.drain();
    assert!(bench.nothing_came());
    assert_eq!(bench.disk.stats().parked, 3);
    assert_eq!(bench.disk.sync().unwrap_err().kind(), BlockErrorKind::Poisoned);
    assert!(bench.disk.reopen().is_err());
    assert!(bench.disk.is_poisoned());
    fault.set_plan(FaultPlan::default());
    assert_eq!(bench.disk.reopen().unwrap(), Reopened { reissued: 3, doubtful_bytes: 0 });
    bench.expect_all(0..3);
    for sector in 0..3 {
        assert_eq!(fault.durable(sector * 512, 512), [sector as u8 + 1; 512]);
    }
    assert_eq!(bench.recorder.clone().unwrap().check_write_through(), Ok(3));
}

/// Writes acknowledged under a write cache are gone with a failed sync and nobody has them any more. The guest's flush
/// must not succeed over that.
#[test]
fn a_flush_reports_lost_writes_once() {
    let fault = Arc::new(FaultDisk::new(65536));
    let bench = Bench::new(fault.clone(), CacheMode::Writeback);
    let (sender, told) = sync_channel(16);
    bench.disk.set_observer(Arc::new(Watch(sender)));
    bench.write(0, 0, 1);
    bench.expect(0);
    fault.set_plan(FaultPlan { fail_sync: Some(0), ..FaultPlan::default() });
    assert!(matches!(bench.submit(1, Operation::Flush, 0, Vec::new()), Submission::Pending));
    told.recv().unwrap();
    assert_eq!(bench.disk.reopen().unwrap(), Reopened { reissued: 1, doubtful_bytes: 512 });
    let flushed = bench.next();
    assert_eq!((flushed.token, kind(flushed.result)), (1, BlockErrorKind::Poisoned));
    bench.write(2, 0, 1);
    bench.expect(2);
    bench.flush(3).result.unwrap();
    assert_eq!(fault.durable(0, 512), [1; 512]);
}

#[test]
fn wrong_requests_are_answered_at_once() {
    let bench = Bench::new(Arc::new(MemoryDisk::new(8192)), CacheMode::Writethrough);
    for (offset_bytes, len_bytes, buffer) in [
        (1, 512, IoBuffer::Host(vec![0; 512])),
        (0, 511, IoBuffer::Host(vec![0; 511])),
        (0, 1024, IoBuffer::Host(vec![0; 512])),
        (0, 512, IoBuffer::None),
        (!511, 512, IoBuffer::Host(vec![0; 512])),
        (!511, 1024, IoBuffer::Host(vec![0; 1024])),
        (8192, 512, IoBuffer::Host(vec![0; 512])),
    ] {
        let sink = bench.sink.clone();
        let request = Request { token: 1, operation: Operation::Read, offset_bytes, len_bytes, buffer, sink };
        let Submission::Done(completed) = bench.disk.submit(request) else { panic!("{offset_bytes} {len_bytes}") };
        assert_eq!(kind(completed.result), BlockErrorKind::OutOfRange);
    }
}

#[test]
fn a_read_that_need_not_wait_completes_apart_all_the_same() {
    let bench = Bench::new(Arc::new(MemoryDisk::from_bytes(&[6; 4096])), CacheMode::Writethrough);
    assert!(matches!(bench.submit(1, Operation::Read, 1, vec![0; 1024]), Submission::Pending));
    bench.expect(1);
    assert_eq!(bench.disk.owner.core.lock().workers.running, 1);
    assert_eq!((bench.disk.stats().requests.read, bench.disk.stats().bytes.read), (1, 1024));
}

#[test]
fn the_last_handle_makes_durable_what_was_acknowledged() {
    let fault = Arc::new(FaultDisk::new(65536));
    let bench = Bench::new(fault.clone(), CacheMode::Writeback);
    bench.write(0, 0, 1);
    bench.expect(0);
    bench.disk.drain();
    let other = bench.disk.clone();
    drop(bench);
    assert_eq!(fault.counts().syncs_begun, 0);
    drop(other);
    assert_eq!(fault.durable(0, 512), [1; 512]);
}

#[test]
fn a_disk_dropped_with_requests_in_flight_completes_them() {
    let fault = Arc::new(FaultDisk::new(65536));
    let Bench { disk, sink, completions, .. } = Bench::new(fault.clone(), CacheMode::Writethrough);
    disk.set_observer(Arc::new(Watch(sync_channel(16).0)));
    fault.set_plan(FaultPlan { hold_writes: true, ..FaultPlan::default() });
    for token in 0..4 {
        let buffer = IoBuffer::Host(vec![1; 512]);
        let operation = Operation::Write { fua: false };
        let (offset_bytes, len_bytes) = (token * 512, 512);
        let request = Request { token, operation, offset_bytes, len_bytes, buffer, sink: sink.clone() };
        assert!(matches!(disk.submit(request), Submission::Pending));
    }
    drop(disk);
    // Two find room and the others do not; those that can not wait any longer say so.
    fault.set_plan(FaultPlan { no_space_after: Some(2), ..FaultPlan::default() });
    let results: Vec<_> = (0..4).map(|_| completions.recv().unwrap().result.map_err(|error| error.kind())).collect();
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 2);
    assert_eq!(results.iter().filter(|result| **result == Err(BlockErrorKind::NoSpace)).count(), 2);
}

/// A completion may own the last handle: the worker then drops the disk it works for.
#[test]
fn a_completion_may_drop_the_disk() {
    #[derive(Debug)]
    struct Owner(Mutex<Option<Disk>>, SyncSender<()>);
    impl CompletionSink for Owner {
        fn complete(&self, _completed: Completed) {
            self.0.lock().take();
            self.1.send(()).unwrap_or_default();
        }
    }
    let fault = Arc::new(FaultDisk::new(65536));
    let (sender, done) = sync_channel(1);
    let disk = Disk::new(fault.clone(), DiskOptions { cache: CacheMode::Writeback, inline: false });
    let sink = Arc::new(Owner(Mutex::new(Some(disk.clone())), sender));
    fault.set_plan(FaultPlan { hold_writes: true, ..FaultPlan::default() });
    let buffer = IoBuffer::Host(vec![1; 512]);
    let operation = Operation::Write { fua: false };
    assert!(matches!(
        disk.submit(Request { token: 0, operation, offset_bytes: 0, len_bytes: 512, buffer, sink }),
        Submission::Pending
    ));
    drop(disk);
    fault.set_plan(FaultPlan::default());
    done.recv().unwrap();
    fault.wait_until(|counts| counts.syncs_ended == 1);
    assert_eq!(fault.durable(0, 512), [1; 512]);
}

#[test]
fn inline_disks_keep_the_same_promises() {
    let fault = Arc::new(FaultDisk::new(65536));
    let bench = Bench { disk: Disk::inline(fault.clone()), ..Bench::new(fault.clone(), CacheMode::Writethrough) };
    let Submission::Done(completed) = bench.submit(0, Operation::Write { fua: false }, 0, vec![1; 512]) else {
        panic!("pending")
    };
    completed.result.unwrap();
    assert_eq!(fault.durable(0, 512), [1; 512]);
    fault.set_plan(FaultPlan { fail_sync: Some(0), ..FaultPlan::default() });
    for expected in [BlockErrorKind::Io, BlockErrorKind::Poisoned] {
        let Submission::Done(completed) = bench.submit(0, Operation::Write { fua: false }, 0, vec![2; 512]) else {
            panic!("pending")
        };
        assert_eq!(kind(completed.result), expected);
    }
    bench.disk.reopen().unwrap();
    let Submission::Done(completed) = bench.submit(0, Operation::Read, 0, vec![0; 512]) else { panic!("pending") };
    let IoBuffer::Host(bytes) = completed.buffer else { panic!("another buffer") };
    assert_eq!(bytes, [1; 512]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    /// Any mix of requests, several in flight on sectors of their own, leaves what a vector of bytes says; and what a
    /// power cut leaves holds at least all that was promised.
    #[test]
    fn the_queue_agrees_with_a_vector(
        mode in prop::sample::select(&[CacheMode::Writethrough, CacheMode::Writeback, CacheMode::Unsafe][..]),
        seed in any::<u64>(),
    ) {
        const SECTORS: u64 = 64;
        let fault = Arc::new(FaultDisk::new(SECTORS * SECTOR_BYTES));
        assert_eq!(fault.info().discard, DiscardBehavior::Zeroes);
        let bench = Bench::new(fault.clone(), mode);
        let mut sequence = Sequence::new(seed);
        let mut model = vec![0u8; SECTORS as usize];
        let mut promised = model.clone();
        for _ in 0..12 {
            let mut pending = 0;
            let mut forced = Vec::new();
            // Each lane has its own sectors, so that no two requests in flight overlap.
            for lane in 0..8u64 {
                let sector = lane * 8 + sequence.below(8);
                let fill = sequence.below(255) as u8 + 1;
                let (operation, value) = match sequence.below(6) {
                    0 => (Operation::Discard, Some(0)),
                    1 => (Operation::Read, None),
                    2 => (Operation::Write { fua: true }, Some(fill)),
                    _ => (Operation::Write { fua: false }, Some(fill)),
                };
                match bench.submit(sector, operation, sector, vec![fill; 512]) {
                    Submission::Done(completed) => completed.result.unwrap(),
                    Submission::Pending => pending += 1,
                }
                if let Some(value) = value {
                    model[sector as usize] = value;
                    if operation == (Operation::Write { fua: true }) {
                        forced.push((sector as usize, value));
                    }
                }
            }
            for _ in 0..pending {
                let completed = bench.next();
                completed.result.unwrap();
            }
            let flushed = sequence.below(3) == 0;
            if flushed {
                bench.flush(0).result.unwrap();
            }
            let check: Vec<usize> = match mode {
                CacheMode::Unsafe => Vec::new(),
                CacheMode::Writeback if !flushed => forced.iter().map(|&(sector, _)| sector).collect(),
                _ => (0..SECTORS as usize).collect(),
            };
            for &sector in &check {
                promised[sector] = model[sector];
                prop_assert_eq!(fault.durable(sector as u64 * SECTOR_BYTES, 512), vec![promised[sector]; 512]);
            }
        }
        for (sector, &value) in (0..).zip(&model) {
            let bytes = crate::conformance::read(&*fault, sector * SECTOR_BYTES, 512, &[]).unwrap();
            prop_assert_eq!(bytes, vec![value; 512]);
        }
        bench.disk.sync().unwrap();
        prop_assert_eq!(bench.disk.cache().bytes_at_risk, 0);
    }
}
