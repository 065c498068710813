//! Power fails at every write: what was promised must be there, and nothing half-written.
//!
//! ```text
//!   main ─▶ life ─▶ guest    work on a disk, until the power goes; then a look at what is left
//!             ├───▶ model    what the disk may be
//!             └───▶ fault    the medium: power, failures, a full host, and lies that must be found out
//! ```
//!
//! After every cut the disk opens, passes its check, and holds exactly what it held after some step since the last
//! flush: a prefix of the writes. Snapshots, and some of the flushes before, are as they were.
//!
//! BENCHTOP_CRASHES and BENCHTOP_SEED say how many cuts, and which; `cargo xtask soak --crashes` asks for many. A seed
//! is one disk and [`CUTS`] cuts: `BENCHTOP_CRASHES=20 BENCHTOP_SEED=n` has those of seed n again.

mod fault;
mod guest;
mod life;
mod model;
mod threads;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use benchtop_block::conformance::{Sequence, write};
use benchtop_block::{BlockErrorKind, DiskBackend};
use benchtop_strata::{Retention, StrataDisk};

use crate::fault::{Bytes, Fault, Lie};
use crate::guest::{Kind, Step};
use crate::life::{Lost, crash, create, look};
use crate::model::{BLOCKS, Model};

/// Cuts of one disk. Then it is young again, so that failures are short to tell.
const CUTS: u64 = 20;
/// How often progress is told.
const TOLD_EVERY: Duration = Duration::from_secs(10);
/// More cuts than this are told of, and have all processors.
const MANY: u64 = 1000;

fn from_environment(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

/// Crashes disks of seeds one after the other, on several threads if there are many.
fn crash_many(first: u64, crashes: u64) {
    let seeds = crashes.div_ceil(CUTS);
    let (next, done, failed) = (AtomicU64::new(0), AtomicU64::new(0), AtomicBool::new(false));
    let started = Instant::now();
    let rate = || done.load(Ordering::Relaxed) as f64 / started.elapsed().as_secs_f64().max(1e-9);
    let told = parking_lot::Mutex::new(Instant::now());
    let run = || {
        while !failed.load(Ordering::Relaxed) {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= seeds {
                return;
            }
            let seed = first + index;
            if let Err(Lost(why)) = crash(seed, CUTS, Lie::None) {
                failed.store(true, Ordering::Relaxed);
                panic!("{why}\nagain: BENCHTOP_SEED={seed} BENCHTOP_CRASHES={CUTS}");
            }
            done.fetch_add(CUTS, Ordering::Relaxed);
            let mut told = told.lock();
            if crashes > MANY && told.elapsed() >= TOLD_EVERY {
                *told = Instant::now();
                let done = done.load(Ordering::Relaxed);
                eprintln!("{done} of {crashes} cuts, {:.0} a second, at seed {seed}", rate());
            }
        }
    };
    let threads = if crashes > MANY { std::thread::available_parallelism().map_or(1, usize::from) } else { 1 };
    std::thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(run))));
    let seeds = first..first + seeds;
    let done = done.load(Ordering::Relaxed);
    eprintln!("{done} cuts, {:.0} a second, seeds {seeds:?}: nothing promised was lost", rate());
}

#[test]
fn nothing_promised_is_lost() {
    crash_many(from_environment("BENCHTOP_SEED", 1), from_environment("BENCHTOP_CRASHES", 320));
}

/// A little of everything.
const SCRIPT: &[Step] = &[
    Step::Write { first: 0, count: 40, through: false },
    Step::Flush,
    Step::Write { first: 20, count: 40, through: false },
    Step::Snapshot,
    Step::Discard { first: 10, count: 25 },
    Step::Write { first: 100, count: 3, through: true },
    Step::Checkpoint,
    Step::Write { first: 90, count: 30, through: false },
    Step::Sync,
    Step::Write { first: 0, count: 10, through: false },
    Step::Compact,
    Step::Resize(BLOCKS + 1000),
    Step::Write { first: 150, count: 50, through: false },
    Step::Flush,
    Step::Write { first: 0, count: 90, through: false },
    Step::Flush,
    Step::Amend,
    Step::Go,
    Step::Write { first: 3, count: 9, through: false },
    Step::Drop,
    Step::Resize(BLOCKS),
    Step::Compact,
    Step::KeySlot,
    Step::Convert,
    Step::Write { first: 60, count: 9, through: false },
    Step::ConvertOn(1),
    Step::ConvertOn(u64::MAX - 1),
    Step::Snapshot,
    Step::KeySlot,
    Step::Write { first: 0, count: 200, through: false },
    Step::Flush,
    Step::KeySlot,
];

/// Runs the script with the power going at write or sync number `cut_at`; says whether it went.
fn script(origin: &Bytes, cut_at: u64, way: u64, seed: u64) -> Result<bool, Lost> {
    let mut random = Sequence::new(seed);
    let mut model = Model::new(BLOCKS as usize, 0);
    let fault = Arc::new(Fault::new(origin.clone(), cut_at, Lie::None));
    if let Ok(mut disk) = StrataDisk::open(fault.clone(), Some(guest::PASSWORD), false) {
        for step in SCRIPT {
            if let Err(error) = step.carry_out(&mut disk, &fault, &mut model, &mut random) {
                assert!(fault.is_cut(), "{step:?} failed with the power on: {error}");
                break;
            }
        }
        if !fault.is_cut() {
            // Also at the writes of closing it.
            drop(disk);
        }
    }
    let went = fault.is_cut();
    let bytes = fault.after_cut_in(way, seed.is_multiple_of(2), &mut random);
    look(bytes, &mut model, false).map(|_bytes| went)
}

#[test]
fn every_write_of_a_short_life_is_one_too_many() {
    // In CI each cut has one of the four ways in which sectors arrive; a soak has all, again and again.
    let rounds = from_environment("BENCHTOP_CRASHES", 0) / 10_000 * 4;
    for (encrypted, first) in [(false, from_environment("BENCHTOP_SEED", 1)), (true, 77)] {
        let origin = create(&Kind { encrypted, ..Kind::of(0) });
        for round in 0..rounds.max(1) {
            let mut cut_at = 0;
            loop {
                let (way, seed) = ((cut_at + round) % 4, first + round);
                match script(&origin, cut_at, way, seed) {
                    Ok(true) => cut_at += 1,
                    Ok(false) => break,
                    Err(Lost(why)) => panic!("encrypted {encrypted}, seed {seed}, cut at {cut_at}, way {way}: {why}"),
                }
            }
            assert!(cut_at > 100, "the script does little: {cut_at} steps");
            eprintln!("encrypted {encrypted}: cut at each of {cut_at} writes and syncs");
        }
    }
}

/// A process was killed between writing a superblock and syncing it. The next one found that superblock in the host's
/// cache, and wrote its own head over the one of the state before; then the power went. The superblock was lost, the head
/// half-written, and the disk did not open any more.
#[test]
fn a_killed_process_and_then_a_cut_lose_nothing() {
    let origin = create(&Kind::of(0));
    let mut random = Sequence::new(from_environment("BENCHTOP_SEED", 1));
    for killed_at in 0..36 {
        for cut_after in 0..8 {
            let mut model = Model::new(BLOCKS as usize, 0);
            let fault = Arc::new(Fault::new(origin.clone(), killed_at, Lie::None));
            if let Ok(mut disk) = StrataDisk::open(fault.clone(), None, false) {
                let mut steps = SCRIPT.iter();
                while steps
                    .next()
                    .is_some_and(|step| step.carry_out(&mut disk, &fault, &mut model, &mut random).is_ok())
                {
                }
                disk.abandon();
            }
            fault.cut_after(cut_after);
            // It may fail.
            drop(StrataDisk::open(fault.clone(), None, false).map(StrataDisk::abandon));
            if let Err(Lost(why)) = look(fault.after_cut_in(2, false, &mut random), &mut model, false) {
                panic!("killed at {killed_at}, power for {cut_after} more: {why}");
            }
        }
    }
}

/// A head could not be written, and what its checkpoint would have freed was freed by the next one: among it the records
/// that a point made in between needed. And going back to a point left its changes in memory when the last checkpoint
/// failed, in no record: what was flushed afterwards was something else after a cut.
#[test]
fn a_failed_checkpoint_takes_no_point_and_leaves_no_half() {
    // Without points for flushes: what is overwritten is free, and so much of it in a row is given back to the host.
    let origin = create(&Kind { retention: Retention::OFF, ..Kind::of(0) });
    let put = |disk: &StrataDisk, first: u64, value: u64| {
        let bytes = model::block_of(value).repeat(4);
        write(disk, first * fault::PAGE, &bytes, &[], false).and_then(|()| disk.flush())
    };
    for goes in [false, true] {
        for fails_at in 0..12 {
            let fault = Arc::new(Fault::new(origin.clone(), u64::MAX, Lie::None));
            let mut disk = StrataDisk::open(fault.clone(), None, false).expect("it opens");
            put(&disk, 0, 1).expect("it is written");
            let point = disk.snapshot("first").expect("it is taken");
            (2..40).try_for_each(|value| put(&disk, 2, value)).expect("it is written");
            fault.fail(fault.steps() + fails_at, u64::MAX);
            let failed = if goes { disk.go(point) } else { disk.checkpoint() }.is_err();
            fault.fail(u64::MAX, u64::MAX);
            disk.reopen().expect("it opens anew");
            put(&disk, 8, 40).expect("it is written");
            disk.snapshot("between").expect("it is taken");
            // The next checkpoint is of a later state, so the point is found by the log from the one before.
            put(&disk, 12, 41).expect("it is written");
            let then = model::content(&disk).expect("it is whole");
            if !goes {
                disk.checkpoint().expect("it has a checkpoint");
                disk.checkpoint().expect("it has another");
            }
            disk.abandon();
            let bytes = fault.after_cut_in(1, false, &mut Sequence::new(1));
            let disk = StrataDisk::open(Fault::kind(bytes), None, false).expect("it opens");
            let report = disk.check();
            assert_eq!(report.damages, 0, "{goes}, {fails_at}, {failed}: {report:?}");
            assert!(model::content(&disk) == Ok(then), "{goes}, {fails_at}, {failed}: it is another");
        }
    }
}

/// Whoever heard that there was no room has no snapshot, and can take it when there is.
#[test]
fn a_snapshot_on_a_full_host_is_refused_and_does_not_come_later() {
    let fault = Fault::kind(create(&Kind::of(0)));
    let disk = StrataDisk::open(fault.clone(), None, false).expect("it opens");
    let write = |value| write(&disk, 0, &model::block_of(value), &[], false).expect("it is taken");
    write(1);
    fault.fill_up(true);
    let error = disk.snapshot("late").expect_err("there is no room");
    assert_eq!(error.kind(), BlockErrorKind::NoSpace);
    fault.fill_up(false);
    disk.flush().expect("there is room");
    assert!(disk.points().expect("there are points").iter().all(|point| point.name.is_none()));
    write(2);
    let seq = disk.snapshot("late").expect("the name is free");
    write(3);
    disk.abandon();
    let bytes = fault.after_cut_in(1, false, &mut Sequence::new(1));
    let mut disk = StrataDisk::open(Fault::kind(bytes), None, true).expect("it opens");
    let named: Vec<u64> = disk
        .points()
        .expect("there are points")
        .into_iter()
        .filter(|point| point.name.is_some())
        .map(|point| point.seq)
        .collect();
    assert_eq!(named, [seq]);
    disk.rewind(seq).expect("it is there");
    assert_eq!(model::content(&disk).expect("it is whole")[0], 2);
}

/// The record that drops a point had no room, a head was written, and the power went: the point is there again, and whole.
#[test]
fn a_point_whose_end_is_not_in_the_file_comes_back_whole() {
    let fault = Fault::kind(create(&Kind { retention: Retention::OFF, ..Kind::of(0) }));
    let disk = StrataDisk::open(fault.clone(), None, false).expect("it opens");
    let put = |value| {
        let bytes = model::block_of(value).repeat(40);
        write(&disk, 0, &bytes, &[], false).and_then(|()| disk.flush()).expect("it is written");
    };
    put(1);
    disk.checkpoint().expect("the map has it");
    // So that heads have room.
    disk.checkpoint().expect("and again");
    let point = disk.snapshot("dropped").expect("it is taken");
    put(2);
    fault.fill_up(true);
    let error = disk.drop_point(point).expect_err("there is no room for the record");
    assert_eq!(error.kind(), BlockErrorKind::NoSpace);
    disk.amend().expect("there is for a head");
    disk.abandon();
    let bytes = fault.after_cut_in(0, false, &mut Sequence::new(1));
    let mut disk = StrataDisk::open(Fault::kind(bytes), None, true).expect("it opens");
    let report = disk.check();
    assert_eq!(report.damages, 0, "{report:?}");
    disk.rewind(point).expect("it is there");
    assert_eq!(model::content(&disk).expect("it is whole")[..40], [1; 40]);
}

#[test]
fn a_medium_that_breaks_the_order_is_found_out() {
    for lie in [Lie::Syncs, Lie::HeadsLate, Lie::PlacesLate, Lie::LastWriteLate] {
        let found = (1..60).find_map(|seed| crash(seed, CUTS, lie).err());
        let Some(Lost(why)) = found else { panic!("{lie:?}: the test would not notice") };
        eprintln!("{lie:?}: {}", why.lines().next().unwrap_or_default());
    }
}
