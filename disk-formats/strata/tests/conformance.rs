//! What every backend must do.

use std::sync::Arc;

use benchtop_block::conformance::{self, read, write};
use benchtop_block::{DiskBackend, ExtentKind};
use benchtop_strata::{Cost, CreateOptions, Medium, NEEDS_PASSWORD, Retention, StrataDisk, WRONG_PASSWORD};

fn options(size_bytes: u64, password: Option<&str>) -> CreateOptions {
    let cost = Cost { memory_kib: 64, passes: 1, lanes: 1 };
    CreateOptions {
        size_bytes,
        retention: Retention::default(),
        password: password.map(|password| (password.as_bytes().to_vec().into(), cost)),
    }
}

fn medium() -> Arc<dyn Medium> {
    Arc::new(tempfile::tempfile().expect("the host has room for a file"))
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
    for point in disk.points() {
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
