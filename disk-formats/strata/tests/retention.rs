//! Which restore points there are, how long, and what they may take.

mod common;

use std::sync::Arc;
use std::time::{Duration, Instant};

use benchtop_block::DiskBackend;
use benchtop_block::conformance::{read, write};
use benchtop_strata::{CreateOptions, PointInfo, Retention, StrataDisk};

use common::Memory;

const BLOCK: u64 = 4096;
/// What a test waits for that takes a fraction of a second on an idle machine.
const PATIENCE: Duration = Duration::from_secs(60);

fn disk(retention: Retention) -> (Arc<Memory>, StrataDisk) {
    let medium = Memory::new();
    let options = CreateOptions { size_bytes: 64 << 20, retention, password: None };
    let disk = StrataDisk::create(medium.clone(), &options).expect("it is made");
    (medium, disk)
}

fn put(disk: &StrataDisk, lba: u64, value: u8) {
    write(disk, lba * BLOCK, &[value; BLOCK as usize], &[], false).expect("it is written");
}

fn value(disk: &StrataDisk, lba: u64) -> u8 {
    read(disk, lba * BLOCK, BLOCK as usize, &[]).expect("it is read")[0]
}

/// Waits until there are points beyond `before`.
fn more_points(disk: &StrataDisk, before: usize) -> Vec<PointInfo> {
    let started = Instant::now();
    loop {
        let points = disk.points().expect("they can be listed");
        if points.len() > before {
            return points;
        }
        assert!(started.elapsed() < PATIENCE, "no restore point came by itself");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn every_flush_is_a_point_and_each_is_what_the_disk_was() {
    let (medium, disk) = disk(Retention::default());
    for value in 1..=100 {
        put(&disk, u64::from(value % 7), value);
        disk.flush().unwrap();
        // Nothing changed: there is nothing new to return to.
        disk.flush().unwrap();
    }
    let points = disk.points().unwrap();
    assert_eq!(points.len(), 100);
    assert!(points.is_sorted_by(|a, b| a.seq < b.seq && a.time_ms <= b.time_ms));
    drop(disk);
    let mut past = StrataDisk::open(medium, None, true).unwrap();
    let seqs = |points: &[PointInfo]| points.iter().map(|point| point.seq).collect::<Vec<_>>();
    assert_eq!(seqs(&past.points().unwrap()), seqs(&points));
    for (then, point) in (1..=100u8).zip(&points) {
        past.rewind(point.seq).unwrap();
        for lba in 0..7u8 {
            let newest = (1..=then).rev().find(|value| value % 7 == lba).unwrap_or(0);
            assert_eq!(value(&past, u64::from(lba)), newest, "block {lba} at the {then}th flush");
        }
    }
}

#[test]
fn what_is_only_synced_becomes_a_point_after_a_while() {
    let (_medium, disk) = disk(Retention::default());
    put(&disk, 0, 1);
    disk.sync().unwrap();
    let synced = Instant::now();
    assert!(disk.points().unwrap().is_empty(), "a sync alone makes none");
    let points = more_points(&disk, 0);
    assert_eq!(points.len(), 1);
    // Also while writes keep coming.
    let written_until = |until: &dyn Fn(&[PointInfo]) -> bool| {
        let mut number = 0u64;
        let started = Instant::now();
        while !until(&disk.points().unwrap()) {
            assert!(started.elapsed() < PATIENCE, "no restore point came by itself");
            number += 1;
            put(&disk, number % 100, number as u8);
            disk.sync().unwrap();
        }
    };
    written_until(&|points| points.len() > 1);
    assert!(synced.elapsed() < PATIENCE);
    drop(disk);
    let (_medium, disk) = self::disk(Retention::OFF);
    put(&disk, 0, 1);
    disk.sync().unwrap();
    disk.flush().unwrap();
    std::thread::sleep(Duration::from_millis(700));
    assert!(disk.points().unwrap().is_empty(), "retention is off");
}

#[test]
fn the_budget_holds_and_named_points_stay() {
    const BUDGET: u64 = 4 << 20;
    let (_medium, disk) = disk(Retention { budget_percent: 0, budget_min_bytes: BUDGET, ..Retention::default() });
    put(&disk, 0, 1);
    let named = disk.snapshot("kept").unwrap();
    // Each flush overwrites what the one before wrote.
    for round in 0..60u8 {
        (0..64).for_each(|lba| put(&disk, lba, round.wrapping_add(2)));
        disk.flush().unwrap();
    }
    let all = disk.points().unwrap().len();
    disk.checkpoint().unwrap();
    let points = disk.points().unwrap();
    assert!(points.len() < all && points.len() > 2, "{} of {all}", points.len());
    assert_eq!(points[0].seq, named);
    // Those that stay are the newest.
    let unnamed: Vec<u64> = points.iter().filter(|point| point.name.is_none()).map(|point| point.seq).collect();
    assert!(unnamed[0] > named + unnamed.len() as u64 / 8, "{unnamed:?}");
    disk.compact(0).unwrap();
    let space = disk.space();
    // The budget, the newest state, and what describes them.
    assert!(space.live_bytes < BUDGET + (1 << 20), "{space:?}");
    assert!(space.used_bytes < space.live_bytes + (17 << 20), "{space:?}");
    let report = disk.check();
    assert_eq!((report.damages, report.leaked_blocks), (0, 0), "{report:?}");
}

#[test]
fn less_retention_takes_points_at_once_and_gives_their_space_back() {
    let (_medium, disk) = disk(Retention::default());
    for round in 0..40u8 {
        (0..128).for_each(|lba| put(&disk, lba, round + 1));
        disk.flush().unwrap();
    }
    disk.checkpoint().unwrap();
    let before = disk.space();
    assert!(disk.points().unwrap().len() >= 40);
    disk.set_retention(Retention::OFF).unwrap();
    assert!(disk.points().unwrap().is_empty());
    let after = disk.space();
    assert!(after.live_bytes * 10 < before.live_bytes, "{before:?} {after:?}");
    assert!((0..128).all(|lba| value(&disk, lba) == 40));
}
