//! What every backend must do.

use std::sync::Arc;

use benchtop_block::conformance::{self, read, write};
use benchtop_block::{DiskBackend, ExtentKind};
use benchtop_strata::{
    Cost, CreateOptions, HostCache, HostFile, Medium, NEEDS_PASSWORD, Retention, StrataDisk, WRONG_PASSWORD,
};

fn options(size_bytes: u64, password: Option<&str>) -> CreateOptions {
    let cost = Cost { memory_kib: 64, passes: 1, lanes: 1 };
    CreateOptions {
        size_bytes,
        retention: Retention::default(),
        password: password.map(|password| (password.as_bytes().to_vec().into(), cost)),
    }
}

fn medium() -> Arc<dyn Medium> {
    Arc::new(HostFile::new(tempfile::tempfile().expect("the host has room for a file"), HostCache::Reads))
}

#[test]
fn it_is_a_disk() {
    for password in [None, Some("secret")] {
        conformance::run(|| StrataDisk::create(medium(), &options(8 << 20, password)).unwrap());
    }
}

#[test]
fn what_was_written_is_there_after_opening() {
    for password in [None, Some("secret")] {
        let medium = medium();
        let disk = StrataDisk::create(medium.clone(), &options(64 << 20, password)).unwrap();
        for block in 0..3000u64 {
            write(&disk, block * 8192, &[block as u8 | 1; 4096], &[], block % 100 == 0).unwrap();
        }
        write(&disk, 4096 + 512, &[9; 1024], &[], false).unwrap();
        drop(disk);
        let disk = StrataDisk::open(medium.clone(), password.map(str::as_bytes), false).unwrap();
        for block in 0..3000u64 {
            assert_eq!(read(&disk, block * 8192, 4096, &[]).unwrap(), [block as u8 | 1; 4096], "{block}");
        }
        assert_eq!(read(&disk, 4096, 1024, &[]).unwrap(), [[0; 512], [9; 512]].concat());
        let report = disk.check();
        assert_eq!((report.damage.as_slice(), report.leaked_blocks), (&[][..], 0), "{report:?}");
        if password.is_some() {
            drop(disk);
            let wrong = StrataDisk::open(medium.clone(), Some(b"wrong"), false).unwrap_err();
            assert_eq!(wrong.to_string(), WRONG_PASSWORD);
            assert_eq!(StrataDisk::open(medium, None, false).unwrap_err().to_string(), NEEDS_PASSWORD);
        }
    }
}

#[test]
fn snapshots_are_returned_to() {
    let medium = medium();
    let mut disk = StrataDisk::create(medium.clone(), &options(64 << 20, None)).unwrap();
    let fill = |disk: &StrataDisk, value: u8, from: u64, count: u64| {
        for block in from..from + count {
            write(disk, block * 4096, &[value; 4096], &[], false).unwrap();
        }
    };
    let starts = |disk: &StrataDisk| [0u64, 100, 200, 5000].map(|block| read(disk, block * 4096, 512, &[]).unwrap()[0]);
    fill(&disk, 1, 0, 300);
    let first = disk.snapshot("first").unwrap();
    fill(&disk, 2, 100, 50);
    disk.flush().unwrap();
    disk.checkpoint().unwrap();
    disk.discard(200 * 4096, 50 * 4096).unwrap();
    fill(&disk, 3, 5000, 10);
    let second = disk.snapshot("second").unwrap();
    fill(&disk, 4, 0, 10);
    disk.flush().unwrap();
    assert!(disk.snapshot("first").is_err(), "names are not given twice");
    let now = starts(&disk);
    assert_eq!(now, [4, 2, 0, 3]);
    disk.go(first).unwrap();
    assert_eq!(starts(&disk), [1, 1, 1, 0]);
    fill(&disk, 5, 5000, 3);
    disk.go(second).unwrap();
    assert_eq!(starts(&disk), [1, 2, 0, 3]);
    let report = disk.check();
    assert_eq!((report.damage.as_slice(), report.leaked_blocks), (&[][..], 0), "{report:?}");
    drop(disk);
    let mut disk = StrataDisk::open(medium.clone(), None, true).unwrap();
    assert_eq!(starts(&disk), [1, 2, 0, 3]);
    disk.rewind(first).unwrap();
    assert_eq!(starts(&disk), [1, 1, 1, 0]);
    drop(disk);
    let disk = StrataDisk::open(medium, None, false).unwrap();
    for point in disk.points().unwrap() {
        disk.drop_point(point.seq).unwrap();
    }
    disk.checkpoint().unwrap();
    disk.checkpoint().unwrap();
    assert_eq!(starts(&disk), [1, 2, 0, 3]);
    let report = disk.check();
    assert_eq!((report.damage.as_slice(), report.leaked_blocks), (&[][..], 0), "{report:?}");
}

#[test]
fn extents_tell_what_is_stored() {
    let disk = StrataDisk::create(medium(), &options(1 << 30, None)).unwrap();
    write(&disk, 1 << 20, &[1; 65536], &[], false).unwrap();
    let extent = disk.extent_at(0, 1 << 30).unwrap();
    assert_eq!((extent.kind, extent.len_bytes), (ExtentKind::Zeroes, 1 << 20));
    let extent = disk.extent_at(1 << 20, 1 << 29).unwrap();
    assert_eq!((extent.kind, extent.len_bytes), (ExtentKind::Data, 65536));
    disk.checkpoint().unwrap();
    assert_eq!(disk.extent_at((1 << 20) + 65536, 1 << 29).unwrap().len_bytes, 1 << 29);
    disk.discard(0, 1 << 30).unwrap();
    assert_eq!(disk.extent_at(0, 1 << 30).unwrap().len_bytes, 1 << 30);
}

#[test]
fn a_scattered_disk_is_put_in_order() {
    for password in [None, Some("secret")] {
        let medium = medium();
        let options = CreateOptions { retention: Retention::OFF, ..options(64 << 20, password) };
        let disk = StrataDisk::create(medium.clone(), &options).unwrap();
        let content = |round: u64, block: u64| [(round * 7 + block) as u8 | 1; 4096];
        for round in 0..3 {
            for index in 0..4096u64 {
                let block = index * 1237 % 4096;
                write(&disk, block * 4096, &content(round, block), &[], false).unwrap();
            }
        }
        disk.flush().unwrap();
        disk.compact(5).unwrap();
        let space = disk.space();
        assert!(space.live_bytes >= 16 << 20 && space.used_bytes <= space.live_bytes + (12 << 20), "{space:?}");
        let looks = |disk: &StrataDisk| {
            for block in 0..4096 {
                assert_eq!(read(disk, block * 4096, 4096, &[]).unwrap(), content(2, block), "{block}");
            }
            let report = disk.check();
            assert_eq!((report.damage.as_slice(), report.leaked_blocks), (&[][..], 0), "{report:?}");
        };
        looks(&disk);
        drop(disk);
        looks(&StrataDisk::open(medium, password.map(str::as_bytes), false).unwrap());
    }
}

#[test]
fn moved_blocks_are_still_those_of_their_restore_points() {
    let medium = medium();
    let mut disk = StrataDisk::create(medium.clone(), &options(64 << 20, None)).unwrap();
    let fill = |disk: &StrataDisk, round: u8, step: usize| {
        for block in (0..4096u64).step_by(step) {
            write(disk, block * 4096, &[round; 4096], &[], false).unwrap();
        }
    };
    fill(&disk, 1, 1);
    let points: Vec<u64> = (2..6)
        .map(|round| {
            let point = disk.snapshot(&format!("round {round}")).unwrap();
            fill(&disk, round, usize::from(round));
            disk.checkpoint().unwrap();
            point
        })
        .collect();
    for point in disk.points().unwrap() {
        if point.name.is_none() || point.seq == points[1] {
            disk.drop_point(point.seq).unwrap();
        }
    }
    let used = disk.space().used_bytes;
    disk.compact(5).unwrap();
    assert!(disk.space().used_bytes < used, "something was gained");
    let value = |disk: &StrataDisk, block: u64| read(disk, block * 4096, 512, &[]).unwrap()[0];
    assert_eq!([0, 60, 1, 3, 5].map(|block| value(&disk, block)), [5, 5, 1, 3, 5]);
    disk.go(points[2]).unwrap();
    assert_eq!([0, 60, 1, 3, 5].map(|block| value(&disk, block)), [3, 3, 1, 3, 1]);
    let report = disk.check();
    assert_eq!((report.damage.as_slice(), report.leaked_blocks), (&[][..], 0), "{report:?}");
    drop(disk);
    let mut disk = StrataDisk::open(medium, None, true).unwrap();
    disk.rewind(points[0]).unwrap();
    assert_eq!([0, 60, 1, 3, 5].map(|block| value(&disk, block)), [1; 5]);
}

#[test]
fn flushes_during_checkpoints_lose_nothing() {
    let medium = medium();
    let disk = StrataDisk::create(medium.clone(), &options(64 << 20, None)).unwrap();
    let rounds = 300u64;
    std::thread::scope(|scope| {
        let disk = &disk;
        for lane in 0..3u64 {
            scope.spawn(move || {
                for round in 1..=rounds {
                    let block = lane * 1000 + round % 7;
                    write(disk, block * 4096, &[round as u8 | 1; 4096], &[], false).unwrap();
                    disk.flush().unwrap();
                }
            });
        }
        scope.spawn(move || {
            for _ in 0..100 {
                disk.checkpoint().unwrap();
            }
        });
    });
    // As after a cut: no clean end.
    disk.abandon();
    let disk = StrataDisk::open(medium, None, false).unwrap();
    for lane in 0..3u64 {
        for last in rounds - 6..=rounds {
            let block = lane * 1000 + last % 7;
            assert_eq!(read(&disk, block * 4096, 4096, &[]).unwrap(), [last as u8 | 1; 4096], "{lane}, {last}");
        }
    }
    let report = disk.check();
    assert_eq!((report.damage.as_slice(), report.leaked_blocks), (&[][..], 0), "{report:?}");
}
