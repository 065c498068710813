//! Files of every version, as they were written when it was new. Whatever is built later opens them.
//!
//! BENCHTOP_MAKE_GOLDEN=1 writes them anew, which only a new version of the format is a reason for.

mod common;

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;

use benchtop_block::DiskBackend;
use benchtop_block::conformance::{read, write};
use benchtop_strata::{CreateOptions, Medium, OpenOptions, Retention, SlotKind, StrataDisk};
use common::{COST, Memory};

const PASSWORD: &str = "golden";
/// The version that new disks have.
const NEWEST: &str = "v2";
/// All versions, and what the recovery keys of their encrypted files are.
const VERSIONS: [(&str, &str); 2] =
    [("v1", include_str!("golden/v1-encrypted.key")), ("v2", include_str!("golden/v2-encrypted.key"))];

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

/// Something of everything: snapshots and unnamed points, a moved segment, a resized disk, a log behind the checkpoint.
fn make(password: Option<&str>) -> (Arc<Memory>, Option<String>) {
    let memory = Memory::new();
    let options = CreateOptions {
        size_bytes: 1 << 20,
        retention: Retention::default(),
        password: password.map(|password| (password.as_bytes().to_vec().into(), COST)),
    };
    let mut disk = StrataDisk::create(memory.clone(), &options).expect("all of it works");
    let key = password.map(|_| disk.add_recovery_key().expect("all of it works").1.to_string());
    for block in 0..8 {
        write(&disk, block * 8192, &[1; 4096], &[], false).expect("all of it works");
    }
    disk.snapshot("one").expect("all of it works");
    disk.checkpoint().expect("all of it works");
    write(&disk, 0, &[2; 4096], &[], true).expect("all of it works");
    disk.discard(8192, 4096).expect("all of it works");
    disk.flush().expect("all of it works");
    drop(disk);
    disk = StrataDisk::open(memory.clone(), password.map(str::as_bytes), false).expect("all of it works");
    disk.resize(4 << 20, false).expect("all of it works");
    write(&disk, 3 << 20, &[3; 4096], &[], false).expect("all of it works");
    disk.snapshot("two").expect("all of it works");
    disk.compact(0).expect("all of it works");
    write(&disk, 16384, &[4; 4096], &[], true).expect("all of it works");
    disk.flush().expect("all of it works");
    disk.abandon();
    (memory, key)
}

fn look(name: &str, secret: Option<&[u8]>) {
    let memory = Memory::load(&std::fs::read(path(name)).expect("golden files are part of the sources"));
    let starts = |disk: &StrataDisk| {
        [0u64, 8192, 16384, 3 << 20].map(|offset| {
            let readable = offset < disk.info().size_bytes;
            if readable { read(disk, offset, 4096, &[]).expect("all of it works")[4095] } else { 255 }
        })
    };
    let medium: Arc<dyn Medium> = memory.copy();
    let past = OpenOptions { password: secret, read_only: true, ..OpenOptions::default() };
    let mut disk = StrataDisk::open_with(medium, &past).expect("all of it works");
    assert_eq!((disk.info().size_bytes, starts(&disk)), (4 << 20, [2, 0, 4, 3]));
    let named: Vec<_> = disk
        .points()
        .expect("all of it works")
        .into_iter()
        .filter_map(|point| Some((point.name?, point.seq)))
        .collect();
    assert_eq!(named.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["one", "two"]);
    let report = disk.check();
    assert_eq!((report.damages, report.leaked_blocks), (0, 0), "{report:?}");
    disk.rewind(named[0].1).expect("all of it works");
    assert_eq!((disk.info().size_bytes, starts(&disk)), (1 << 20, [1, 1, 1, 255]));
    // And it is a disk as any other.
    let mut disk = StrataDisk::open(memory.clone(), secret, false).expect("all of it works");
    assert_eq!(starts(&disk), [2, 0, 4, 3]);
    disk.go(named[1].1).expect("all of it works");
    assert_eq!(starts(&disk), [2, 0, 1, 3]);
    write(&disk, 8192, &[5; 4096], &[], true).expect("all of it works");
    drop(disk);
    let disk = StrataDisk::open(memory, secret, false).expect("all of it works");
    assert_eq!(starts(&disk), [2, 5, 1, 3]);
}

#[test]
fn files_of_every_version_are_read() {
    if std::env::var_os("BENCHTOP_MAKE_GOLDEN").is_some() {
        let put = |name: &str, bytes: &[u8]| {
            std::fs::write(path(&format!("{NEWEST}-{name}")), bytes).expect("all of it works");
        };
        put("plain", &make(None).0.save());
        let (memory, key) = make(Some(PASSWORD));
        put("encrypted", &memory.save());
        put("encrypted.key", key.expect("all of it works").as_bytes());
        return;
    }
    for (version, recovery_key) in VERSIONS {
        let encrypted = format!("{version}-encrypted");
        look(&format!("{version}-plain"), None);
        look(&encrypted, Some(PASSWORD.as_bytes()));
        look(&encrypted, Some(recovery_key.as_bytes()));
        let memory = Memory::load(&std::fs::read(path(&encrypted)).expect("all of it works"));
        let kinds: Vec<_> = StrataDisk::open(memory, Some(PASSWORD.as_bytes()), true)
            .expect("all of it works")
            .key_slots()
            .iter()
            .map(|slot| slot.kind)
            .collect();
        assert_eq!(kinds, [SlotKind::Password, SlotKind::RecoveryKey]);
    }
}

/// A disk of version 1 stays one, whatever is done to it: the build that made it goes on reading it.
#[test]
fn a_disk_keeps_its_version() {
    let version = |memory: &Memory| {
        let mut bytes = [0; 12];
        memory.read_at(0, &mut bytes).expect("all of it works");
        bytes[8]
    };
    for (name, expected) in [("v1", 1), ("v2", 2)] {
        let memory = Memory::load(&std::fs::read(path(&format!("{name}-plain"))).expect("all of it works"));
        let mut disk = StrataDisk::open(memory.clone(), None, false).expect("all of it works");
        disk.encrypt(b"x", COST, true).expect("all of it works");
        assert!(disk.convert(&mut |_| ControlFlow::Continue(())).expect("all of it works"));
        disk.decrypt(true).expect("all of it works");
        assert!(disk.convert(&mut |_| ControlFlow::Continue(())).expect("all of it works"));
        drop(disk);
        assert_eq!(version(&memory), expected);
        let disk = StrataDisk::open(memory.clone(), None, true).expect("all of it works");
        assert_eq!(disk.check().damages, 0);
    }
}
