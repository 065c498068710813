//! Damaged and mixed files: an error or the disk's own content, never anything else.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::sync::Arc;

use benchtop_block::conformance::{read, write};
use benchtop_block::{BlockErrorKind, DiskBackend};
use benchtop_strata::{CreateOptions, OpenOptions, Retention, StrataDisk, WRONG_PASSWORD};
use common::{Memory, assert_whole, fill, first, options};

const BLOCKS: u64 = 48;
const HEADS: u64 = 1 << 20;
const LOG_AND_MAP: u64 = 132 << 20;

/// Each block holds 1, then every second 2, then every third 3: at no moment anything else.
fn example(password: Option<&str>) -> Arc<Memory> {
    let medium = Memory::new();
    let disk = StrataDisk::create(medium.clone(), &options(BLOCKS * 4096, password)).unwrap();
    fill(&disk, 1, 0, BLOCKS);
    disk.snapshot("one").unwrap();
    disk.checkpoint().unwrap();
    (0..BLOCKS).step_by(2).for_each(|block| fill(&disk, 2, block, 1));
    disk.flush().unwrap();
    disk.checkpoint().unwrap();
    (0..BLOCKS).step_by(3).for_each(|block| fill(&disk, 3, block, 1));
    disk.flush().unwrap();
    // As the power would leave it: the last writes are in the log only.
    let left = medium.copy();
    drop(disk);
    left
}

fn may_hold(block: u64, value: u8) -> bool {
    match value {
        // Nothing of it was written yet when the disk was made.
        0 | 1 => true,
        2 => block.is_multiple_of(2),
        3 => block.is_multiple_of(3),
        _ => false,
    }
}

/// Opens it both ways and reads everything. Says whether it opened.
fn look(medium: &Arc<Memory>, password: Option<&[u8]>, what: &str) -> bool {
    look_ways(medium, password, what, &[true, false])
}

fn look_ways(medium: &Arc<Memory>, password: Option<&[u8]>, what: &str, ways: &[bool]) -> bool {
    let mut opened = false;
    for &read_only in ways {
        match StrataDisk::open(medium.clone(), password, read_only) {
            Ok(disk) => {
                opened = true;
                for block in 0..BLOCKS {
                    match read(&disk, block * 4096, 4096, &[]) {
                        Ok(bytes) => {
                            assert!(may_hold(block, bytes[0]), "{what}: block {block} holds {}", bytes[0]);
                            assert!(bytes == [bytes[0]; 4096], "{what}: block {block} is mixed");
                        }
                        Err(error) => assert_eq!(error.kind(), BlockErrorKind::Corrupt, "{what}: {error}"),
                    }
                }
                disk.check();
            }
            Err(error) => {
                let known = [BlockErrorKind::Corrupt, BlockErrorKind::Unsupported].contains(&error.kind());
                assert!(known && error.to_string() != WRONG_PASSWORD, "{what}: {error}");
            }
        }
    }
    opened
}

#[test]
fn truncated_files_are_refused_or_as_they_were() {
    for password in [None, Some("secret")] {
        let secret = password.map(str::as_bytes);
        let medium = example(password);
        let mut lengths = vec![0, 1, 511, 4095];
        for offset in medium.written() {
            lengths.extend([offset, offset + 1, offset + 2048]);
        }
        let mut opened = 0;
        for length in lengths {
            let cut = medium.copy();
            cut.truncate(length);
            opened += u32::from(look(&cut, secret, &format!("{length} bytes")));
        }
        assert!(opened > 0, "with its beginning whole, a part of the log is enough");
    }
}

#[test]
fn every_flipped_byte_is_noticed_or_does_no_harm() {
    for password in [None, Some("secret")] {
        let secret = password.map(str::as_bytes);
        let medium = example(password);
        for page in medium.written() {
            // All fields of the superblocks (what is zero in them has a test of its own) and all of the heads, as far as
            // they go; some of every record, page and block.
            let step = match page {
                0..HEADS => 31,
                HEADS..LOG_AND_MAP => 1,
                _ => 97,
            };
            let fields = if page < HEADS { 0..400 } else { 0..0 };
            let used = medium.bytes(page, 4096).iter().rposition(|byte| *byte != 0).unwrap_or(0);
            for at in fields.chain((0..=used).step_by(step)).chain([4032, 4064, 4095]) {
                let what = format!("byte {at} of {page:#x}");
                medium.flip(page + at as u64);
                assert!(look_ways(&medium, secret, &what, &[true]), "{what}: one damage never takes the disk");
                if at % 16 == 0 {
                    assert!(look(&medium.copy(), secret, &what), "{what}: nor for writing");
                }
                medium.flip(page + at as u64);
            }
        }
    }
}

#[test]
fn two_copies_of_an_encrypted_disk_can_not_be_mixed() {
    let origin = example(Some("secret"));
    let [ours, theirs] = [4u8, 5].map(|value| {
        let medium = origin.copy();
        let disk = StrataDisk::open(medium.clone(), Some(b"secret"), false).unwrap();
        fill(&disk, value, 0, BLOCKS);
        disk.flush().unwrap();
        disk.checkpoint().unwrap();
        fill(&disk, value, 0, 3);
        disk.flush().unwrap();
        let left = medium.copy();
        drop(disk);
        left
    });
    let mut pages = ours.written();
    pages.extend(theirs.written());
    pages.sort_unstable();
    pages.dedup();
    let mut noticed = 0;
    let mut mixes: Vec<Vec<u64>> = pages.iter().map(|page| vec![*page]).collect();
    // Halves, too: superblocks of one with the log and map of the other, and so on.
    mixes.extend(
        [0, 64 << 10, 1 << 20, 65 << 20, LOG_AND_MAP, LOG_AND_MAP + (4 << 20)]
            .map(|from| pages.iter().copied().filter(|page| *page >= from).collect()),
    );
    for mix in mixes {
        let mixed = ours.copy();
        for page in &mix {
            mixed.put(*page, &theirs.bytes(*page, 4096));
        }
        let Ok(disk) = StrataDisk::open(mixed.clone(), Some(b"secret"), true) else {
            noticed += 1;
            continue;
        };
        let mut values = std::collections::BTreeSet::new();
        for block in 0..BLOCKS {
            match read(&disk, block * 4096, 4096, &[]) {
                Ok(bytes) => _ = values.insert(bytes[0]),
                Err(error) => {
                    assert_eq!(error.kind(), BlockErrorKind::Corrupt);
                    noticed += 1;
                }
            }
        }
        assert!(!(values.contains(&4) && values.contains(&5)), "{mix:?}: a mixture");
    }
    assert!(noticed > 20, "{noticed}");
}

#[test]
fn an_old_superblock_in_a_new_file_is_noticed() {
    for password in [None, Some("secret")] {
        let secret = password.map(str::as_bytes);
        let medium = example(password);
        let old: Vec<_> = [0, 64 << 10].map(|place| (place, medium.bytes(place, 4096))).into();
        for _ in 0..3 {
            let disk = StrataDisk::open(medium.clone(), secret, false).unwrap();
            fill(&disk, 9, 0, BLOCKS);
        }
        let identity = StrataDisk::open(medium.clone(), secret, true).unwrap().identity();
        old.iter().for_each(|(place, bytes)| medium.put(*place, bytes));
        let options = OpenOptions { password: secret, expected: Some(identity), ..OpenOptions::default() };
        assert!(StrataDisk::open_with(medium.clone(), &options).is_err());
        // Without a memory of it either: the heads it names are gone.
        assert_eq!(StrataDisk::open(medium, secret, false).unwrap_err().kind(), BlockErrorKind::Corrupt);
    }
}

#[test]
fn a_superblock_without_its_slots_opens_nothing() {
    let medium = example(Some("secret"));
    for place in [0, 64 << 10] {
        let mut bytes = medium.bytes(place, 4096);
        bytes[256..1280].fill(0);
        let checksum = *blake3::hash(&bytes[..4064]).as_bytes();
        bytes[4064..].copy_from_slice(&checksum);
        medium.put(place, &bytes);
    }
    for secret in [None, Some(&b"secret"[..])] {
        assert_eq!(StrataDisk::open(medium.clone(), secret, false).unwrap_err().kind(), BlockErrorKind::Corrupt);
    }
    // And said to be plain, it is as little.
    for place in [0, 64 << 10] {
        let mut bytes = medium.bytes(place, 4096);
        bytes[12] = 0;
        let mac = *blake3::keyed_hash(&[0; 32], &bytes[..4032]).as_bytes();
        bytes[4032..4064].copy_from_slice(&mac);
        let checksum = *blake3::hash(&bytes[..4064]).as_bytes();
        bytes[4064..].copy_from_slice(&checksum);
        medium.put(place, &bytes);
    }
    assert_eq!(StrataDisk::open(medium, None, false).unwrap_err().kind(), BlockErrorKind::Corrupt);
}

#[test]
fn what_can_not_be_read_is_taken_out_and_told() {
    for (password, retention) in [
        (None, Retention::OFF),
        (Some("secret"), Retention::OFF),
        // With restore points, which keep the damage as it is: a check tells of it.
        (None, Retention::default()),
    ] {
        let secret = password.map(str::as_bytes);
        let has_points = retention == Retention::default();
        let medium = Memory::new();
        let made = CreateOptions { retention, ..options(256 << 20, password) };
        let disk = StrataDisk::create(medium.clone(), &made).unwrap();
        fill(&disk, 1, 0, 1000);
        fill(&disk, 2, 30_000, 10);
        disk.checkpoint().unwrap();
        drop(disk);
        let options = OpenOptions { password: secret, ..OpenOptions::default() };
        let (disk, report) = StrataDisk::repair(medium.copy(), &options, true).unwrap();
        assert!(report.is_clean(), "{report:?}");
        drop(disk);
        let mut kinds = std::collections::BTreeSet::new();
        let map = LOG_AND_MAP + (8 << 20);
        let every = |page: &u64| *page >= map || (*page >= LOG_AND_MAP && (page / 4096).is_multiple_of(61));
        for page in medium.written().into_iter().filter(every) {
            let damaged = medium.copy();
            damaged.flip(page + 99);
            let (looked, found) = StrataDisk::repair(damaged.clone(), &options, false).unwrap();
            assert!(looked.info().read_only);
            drop(looked);
            let (disk, report) = StrataDisk::repair(damaged.clone(), &options, true).unwrap();
            assert_eq!((&found.lost, found.lost_bytes), (&report.lost, report.lost_bytes));
            assert!(report.check.damages == 0 || (has_points && report.lost_bytes > 0), "{report:?}");
            kinds.insert(report.lost_bytes / 4096);
            let is_lost = |block: u64| report.lost.iter().any(|lost| lost.contains(&(block * 4096)));
            let looks_right = |disk: &StrataDisk| {
                for block in (0..1000).chain(30_000..30_010) {
                    match read(disk, block * 4096, 4096, &[]) {
                        Ok(bytes) => assert!(!is_lost(block) && bytes[0] == if block < 1000 { 1 } else { 2 }),
                        Err(error) => assert!(is_lost(block), "{block}: {error}"),
                    }
                }
            };
            looks_right(&disk);
            fill(&disk, 1, 5000, 1);
            disk.checkpoint().unwrap();
            drop(disk);
            // It stays so, until somebody writes there or gives it up.
            let mut disk = StrataDisk::open(damaged.clone(), secret, false).unwrap();
            looks_right(&disk);
            for lost in &report.lost {
                let middle = lost.start / 4096 + (lost.end - lost.start) / 8192;
                fill(&disk, 7, middle, 1);
                disk.discard(lost.start, (middle * 4096) - lost.start).unwrap();
                assert!(lost.start / 4096 == middle || first(&disk, lost.start / 4096) == 0);
                disk.discard((middle + 1) * 4096, lost.end - (middle + 1) * 4096).unwrap();
                assert_eq!(first(&disk, middle), 7);
            }
            disk.checkpoint().unwrap();
            disk.resize(1 << 30, false).unwrap();
            assert_eq!(first(&disk, 100_000), 0, "nothing was lost behind the end");
            let check = disk.check();
            assert!(has_points || (check.lost_blocks, check.damages) == (0, 0), "{check:?}");
            if has_points {
                disk.points().unwrap().iter().for_each(|point| disk.drop_point(point.seq).unwrap());
                disk.checkpoint().unwrap();
                let check = disk.check();
                assert_eq!((check.lost_blocks, check.damages), (0, 0), "{check:?}");
            }
        }
        assert!(kinds.len() >= 4, "nothing, a block, a page, pages of pages: {kinds:?}");
    }
}

#[test]
fn a_damaged_head_or_log_is_told() {
    let medium = example(None);
    let area = |generation: u64| [0u64, 64 << 10][usize::from(generation % 2 == 1)];
    let newest = StrataDisk::open(medium.clone(), None, true).unwrap().identity().generation;
    // The newest head: the one before is used, and it is said.
    let damaged = medium.copy();
    let head = [1u64 << 20, 65 << 20][usize::from(medium.bytes(area(newest) + 13, 1)[0])];
    damaged.flip(head + 5);
    let (disk, report) = StrataDisk::repair(damaged, &OpenOptions::default(), true).unwrap();
    assert!(report.findings.iter().any(|finding| finding.contains(&format!("generation {newest}"))), "{report:?}");
    assert_eq!(disk.check().damages, 0);
    drop(disk);
    // A superblock: the other one is used, and it is said.
    for offset in [0, 64 << 10] {
        let damaged = medium.copy();
        damaged.flip(offset + 100);
        let (disk, report) = StrataDisk::repair(damaged, &OpenOptions::default(), true).unwrap();
        assert_eq!(report.findings, ["a superblock is damaged"], "{report:?}");
        assert_whole(&disk);
    }
    // The log: a record in the middle is damaged, later ones are there.
    let (_, whole) = StrataDisk::repair(medium.clone(), &OpenOptions::default(), false).unwrap();
    assert_eq!(whole.records_after_gap, 0);
    let origin = Memory::new();
    let disk = StrataDisk::create(origin.clone(), &options(1 << 20, None)).unwrap();
    for value in 1..5 {
        write(&disk, 0, &[value; 4096], &[], true).unwrap();
    }
    let cut = origin.copy();
    drop(disk);
    // Each flush is a record and a block; the second one's record goes.
    cut.flip(LOG_AND_MAP + 2 * 4096 + 300);
    let (disk, report) = StrataDisk::repair(cut, &OpenOptions::default(), true).unwrap();
    assert_eq!((first(&disk, 0), report.records_after_gap), (1, 2), "{report:?}");
    assert_whole(&disk);
    // Nothing to be had.
    let gone = Memory::new();
    gone.put(0, &[7; 8192]);
    let error = StrataDisk::repair(gone, &OpenOptions::default(), true).map(|_| ()).unwrap_err();
    assert_eq!(error.kind(), BlockErrorKind::Unsupported);
}

#[test]
fn bad_sectors_are_passed_over_by_a_repair() {
    let medium = Memory::new();
    let made = CreateOptions { retention: Retention::OFF, ..options(64 << 20, None) };
    let disk = StrataDisk::create(medium.clone(), &made).unwrap();
    fill(&disk, 1, 0, 100);
    disk.checkpoint().unwrap();
    disk.checkpoint().unwrap();
    let generation = disk.identity().generation;
    drop(disk);
    let newest = [0u64, 64 << 10][usize::from((generation + 1) % 2 == 1)];
    let bad = medium.copy();
    bad.make_unreadable(newest);
    assert_eq!(first(&StrataDisk::open(bad, None, true).unwrap(), 99), 1, "the other superblock does");
    let head = [HEADS, 65 << 20][usize::from(medium.bytes(newest + 13, 1)[0])];
    let bad = medium.copy();
    bad.make_unreadable(head);
    assert_eq!(StrataDisk::open(bad.clone(), None, true).unwrap_err().kind(), BlockErrorKind::Io, "it may pass");
    let (disk, report) = StrataDisk::repair(bad, &OpenOptions::default(), false).unwrap();
    assert!(first(&disk, 99) == 1 && !report.is_clean());
    let bad = medium.copy();
    bad.make_unreadable(LOG_AND_MAP + 5 * 4096);
    let (disk, report) = StrataDisk::repair(bad, &OpenOptions::default(), true).unwrap();
    assert_eq!((report.lost_bytes, report.lost.len()), (4096, 1), "{report:?}");
    let lost = report.lost[0].start / 4096;
    assert!((0..100).filter(|block| *block != lost).all(|block| first(&disk, block) == 1));
}
