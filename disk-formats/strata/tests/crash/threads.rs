//! Several writers at once, and the keeper's own work under them.

use std::sync::Arc;
use std::time::Duration;

use benchtop_block::DiskBackend;
use benchtop_block::conformance::{Sequence, read, write};
use benchtop_strata::{Retention, StrataDisk};

use crate::fault::{Bytes, Fault, Lie, PAGE};
use crate::guest::{Kind, PASSWORD};
use crate::life::create;
use crate::model::{BLOCKS, Model, block_of, content};
use crate::{CUTS, from_environment};

/// Blocks that one thread has for itself.
const LANE_BLOCKS: usize = (BLOCKS / 4) as usize;

/// One thread's work until the power goes: writes and flushes, all in its own blocks.
fn lane_work(disk: &StrataDisk, lane: usize, model: &mut Model, random: &mut Sequence) -> Option<()> {
    for _ in 0..200 {
        match random.below(12) {
            0..8 => {
                let first = random.below(LANE_BLOCKS as u64);
                let count = 1 + random.below((LANE_BLOCKS as u64 - first).min(12));
                let mut bytes = Vec::new();
                for block in first..first + count {
                    model.counter += 4;
                    let value = if random.below(8) == 0 { 0 } else { model.counter };
                    bytes.extend(block_of(value));
                    model.change(block, value);
                }
                write(disk, ((lane * LANE_BLOCKS) as u64 + first) * PAGE, &bytes, &[], false).ok()?;
            }
            8..11 => {
                disk.flush().ok()?;
                model.flush();
            }
            _ if lane == 0 => disk.checkpoint().ok()?,
            _ if lane == 1 => disk.compact(0).ok()?,
            _ => disk.sync().ok()?,
        }
    }
    Some(())
}

/// Lives of a disk that four threads work on.
fn lanes(password: bool, lives: u64, random: &mut Sequence) {
    let retention = Retention { budget_min_bytes: 100 * PAGE, budget_percent: 0, ..Retention::default() };
    let mut bytes = create(&Kind { encrypted: password, retention, ..Kind::of(0) });
    let mut models: Vec<Model> = (0..4).map(|lane| Model::new(LANE_BLOCKS, lane)).collect();
    for life in 0..lives {
        let fault = Arc::new(Fault::new(bytes, 20 + random.below(600), Lie::None));
        let seeds: Vec<u64> = (0..4).map(|_| random.below(u64::MAX)).collect();
        if let Ok(disk) = StrataDisk::open(fault.clone(), Some(PASSWORD), false) {
            std::thread::scope(|scope| {
                for ((lane, model), seed) in models.iter_mut().enumerate().zip(seeds) {
                    let disk = &disk;
                    scope.spawn(move || lane_work(disk, lane, model, &mut Sequence::new(seed)));
                }
            });
            fault.cut();
        }
        let fault = Fault::kind(fault.after_cut(random));
        let disk = StrataDisk::open(fault.clone(), Some(PASSWORD), false).expect("it opens");
        let report = disk.check();
        assert_eq!(report.damages, 0, "life {life}: {report:?}");
        let found = content(&disk).expect("every block is whole");
        for (lane, (model, found)) in models.iter_mut().zip(found.chunks(LANE_BLOCKS)).enumerate() {
            let differs: Vec<_> = (0..LANE_BLOCKS)
                .filter(|block| found[*block] != model.flushed[*block])
                .map(|block| (block, model.flushed[block], found[block]))
                .collect();
            assert!(model.allows(found), "life {life}, lane {lane}: {differs:?}, changes {:?}", model.since);
            model.settle(found.to_vec());
        }
        drop(disk);
        bytes = fault.seen();
    }
}

#[test]
fn threads_lose_nothing_either() {
    let lives = from_environment("BENCHTOP_CRASHES", 80).div_ceil(4);
    let mut random = Sequence::new(from_environment("BENCHTOP_SEED", 1));
    for password in [false, true] {
        // Young again after a while.
        for _ in 0..lives.div_ceil(CUTS) {
            lanes(password, lives.min(CUTS), &mut random);
        }
    }
    eprintln!("{} cuts under four threads: nothing promised was lost", 2 * lives);
}

/// Blocks of a disk of which half, 80 MiB, was overwritten: enough garbage for the keeper.
const LARGE_BLOCKS: u64 = 40 << 10;
/// How often a block was written.
const VALUES: u64 = 256;

fn overwritten(block: u64) -> bool {
    // No neighbours, or their room would be given back at once.
    block % 2 == block / 2 % 2
}

fn large_value(block: u64) -> u64 {
    1 + block % VALUES + if overwritten(block) { VALUES } else { 0 }
}

fn large_disk() -> Bytes {
    let fault = Fault::kind(create(&Kind { retention: Retention::OFF, ..Kind::of(0) }));
    let mut disk = StrataDisk::open(fault.clone(), None, false).expect("it opens");
    disk.resize(LARGE_BLOCKS * PAGE, false).expect("it grows");
    disk.set_garbage_percent(1000);
    let all: Vec<u8> = (1..=VALUES).flat_map(block_of).collect();
    for at in (0..LARGE_BLOCKS).step_by(VALUES as usize) {
        write(&disk, at * PAGE, &all, &[], false).expect("it is written");
    }
    disk.checkpoint().expect("it has a checkpoint");
    for block in (0..LARGE_BLOCKS).filter(|block| overwritten(*block)) {
        write(&disk, block * PAGE, &block_of(large_value(block)), &[], false).expect("it is written");
    }
    disk.flush().expect("it is flushed");
    disk.checkpoint().expect("it has a checkpoint");
    let space = disk.space();
    assert!(space.used_bytes - space.live_bytes > 70 << 20, "{space:?}");
    disk.abandon();
    fault.seen()
}

/// The keeper compacts under a writer while the power goes: what it moves is there, wherever it was on the way.
#[test]
fn the_keepers_compaction_loses_nothing() {
    let lives = from_environment("BENCHTOP_CRASHES", 800).div_ceil(200);
    let mut random = Sequence::new(from_environment("BENCHTOP_SEED", 1));
    let origin = large_disk();
    let mut compacted = 0;
    for life in 0..lives {
        let fault = Arc::new(Fault::new(origin.clone(), u64::MAX, Lie::None));
        let disk = StrataDisk::open(fault.clone(), None, false).expect("it opens");
        let mut model = Model::new(BLOCKS as usize, 2 * VALUES);
        model.settle((0..BLOCKS).map(large_value).collect());
        disk.set_garbage_percent(1);
        fault.cut_after(20 + random.below(250));
        while !fault.is_cut() {
            model.counter += 1;
            let (block, value) = (random.below(BLOCKS), model.counter);
            model.change(block, value);
            if write(&disk, block * PAGE, &block_of(value), &[], false).is_err() {
                break;
            }
            // It looks five times a second, and then writes 64 KiB at a time, or more.
            std::thread::sleep(Duration::from_millis(5));
            if random.below(8) == 0 && disk.flush().is_ok() {
                model.flush();
            }
        }
        // Guests here write a block at a time.
        compacted += u64::from(fault.largest_write() >= 1 << 16);
        disk.abandon();
        let fault = Fault::kind(fault.after_cut(&mut random));
        let disk = StrataDisk::open(fault.clone(), None, false).expect("it opens");
        let report = disk.check();
        assert_eq!(report.damages, 0, "life {life}: {report:?}");
        let found = content(&disk).expect("every block is whole");
        assert!(model.allows(&found), "life {life}: {found:?} is nothing that was there since {:?}", model.flushed);
        for block in (BLOCKS..LARGE_BLOCKS).step_by(7) {
            let bytes = read(&disk, block * PAGE, PAGE as usize, &[]).expect("it can be read");
            assert!(bytes == block_of(large_value(block)), "life {life}: block {block} is another");
        }
    }
    assert!(compacted * 2 >= lives, "the keeper was seldom at work: in {compacted} of {lives} lives");
    eprintln!("{lives} cuts, {compacted} under the keeper's compaction: nothing promised was lost");
}
