//! What needs no other program: conformance, structure, backing files, failures.

use benchtop_block::ExtentKind;
use benchtop_block::conformance::{self, Sequence, read, write};
use proptest::prelude::*;

use super::*;

#[test]
fn conforms_in_every_shape() {
    for shape in shapes(1 << 20) {
        conformance::run(|| fresh(&shape));
    }
}

#[test]
fn conforms_over_a_backing_file() {
    for (cluster_bytes, extended) in [(512, false), (4096, false), (65536, false), (65536, true)] {
        let mut options = options(1 << 20, cluster_bytes, 16, extended);
        options.backing = Some(("base.raw".into(), "raw".into()));
        conformance::run(|| {
            let place = Place::new();
            let backing = MemoryDisk::new(700 << 10);
            write(&backing, 0, &Sequence::new(9).bytes(700 << 10), &[], false).unwrap();
            let file = create(&place.path("disk.qcow2"), &options).unwrap();
            Qcow2Disk::open_with_backing(file, false, Arc::new(backing)).unwrap()
        });
    }
}

#[test]
fn a_closed_image_is_sound_and_holds_what_was_written() {
    for shape in shapes(3 << 20) {
        let place = Place::new();
        let path = place.path("disk.qcow2");
        let disk = Qcow2Disk::open(create(&path, &shape).unwrap(), false).unwrap();
        let mut model = vec![0u8; 3 << 20];
        let mut sequence = Sequence::new(shape.cluster_bytes ^ u64::from(shape.refcount_bits));
        for step in 0..150 {
            let start = sequence.below(model.len() as u64 / 512) as usize * 512;
            let len = (1 + sequence.below(if step % 10 == 0 { 1500 } else { 40 })) as usize * 512;
            let end = (start + len).min(model.len());
            if step % 4 == 3 {
                disk.discard(start as u64, (end - start) as u64).unwrap();
                model[start..end].fill(0);
            } else {
                let bytes = sequence.bytes(end - start);
                write(&disk, start as u64, &bytes, &[], step % 7 == 0).unwrap();
                model[start..end].copy_from_slice(&bytes);
            }
            if step % 31 == 0 {
                disk.flush().unwrap();
            }
        }
        assert!(read(&disk, 0, model.len(), &[]).unwrap() == model);
        drop(disk);
        let file = File::open(&path).unwrap();
        assert_eq!(check(&file).unwrap(), CheckReport::default(), "{shape:?}");
        conformance::read_only(&reopen(&path, true).unwrap(), &model);
    }
}

#[test]
fn discarded_clusters_are_used_again() {
    let place = Place::new();
    let path = place.path("disk.qcow2");
    let disk = Qcow2Disk::open(create(&path, &options(64 << 20, 65536, 16, false)).unwrap(), false).unwrap();
    let bytes = Sequence::new(3).bytes(1 << 20);
    for round in 0..40u64 {
        write(&disk, (round % 60) << 20, &bytes, &[], false).unwrap();
        disk.flush().unwrap();
        disk.discard((round % 60) << 20, 1 << 20).unwrap();
        disk.flush().unwrap();
    }
    disk.flush().unwrap();
    drop(disk);
    let file = File::open(&path).unwrap();
    assert!(file.metadata().unwrap().len() < 6 << 20, "{}", file.metadata().unwrap().len());
    assert_eq!(check(&file).unwrap(), CheckReport::default());
    #[cfg(target_os = "linux")]
    assert!(std::os::unix::fs::MetadataExt::blocks(&file.metadata().unwrap()) < 3 << 11);
}

#[test]
fn extents_follow_the_tables() {
    let disk = fresh(&options(1 << 20, 65536, 16, true));
    write(&disk, 65536, &[1; 65536], &[], false).unwrap();
    write(&disk, 131072 + 4096, &[1; 512], &[], false).unwrap();
    let mut told = Vec::new();
    let mut at = 0;
    while at < 1 << 20 {
        let extent = disk.extent_at(at, (1 << 20) - at).unwrap();
        told.push((at, extent.kind));
        at += extent.len_bytes;
    }
    use ExtentKind::{Data, Zeroes};
    // A subcluster has 2048 bytes.
    assert_eq!(told, [(0, Zeroes), (65536, Data), (131072, Zeroes), (135168, Data), (137216, Zeroes)]);
}

#[test]
fn a_backing_file_is_opened_by_the_caller_or_not_at_all() {
    let place = Place::new();
    let path = place.path("disk.qcow2");
    let backing = Some(("/etc/passwd".to_owned(), "raw".to_owned()));
    drop(create(&path, &CreateOptions { backing, ..CreateOptions::new(1 << 20) }).unwrap());
    let error = reopen(&path, true).unwrap_err();
    assert_eq!(error.kind(), BlockErrorKind::Unsupported);
    assert!(error.to_string().contains("\"/etc/passwd\""), "{error}");
    let facts = info(&File::open(&path).unwrap()).unwrap();
    assert_eq!((facts.backing_name.as_deref(), facts.backing_format.as_deref()), (Some("/etc/passwd"), Some("raw")));
    let none = place.path("none.qcow2");
    drop(create(&none, &CreateOptions::new(1 << 20)).unwrap());
    let backing = Arc::new(MemoryDisk::new(1 << 20));
    let error = Qcow2Disk::open_with_backing(File::open(&none).unwrap(), true, backing).unwrap_err();
    assert_eq!(error.kind(), BlockErrorKind::Unsupported);
}

#[test]
fn a_disk_in_use_is_refused() {
    let place = Place::new();
    let path = place.path("disk.qcow2");
    let disk = Qcow2Disk::open(create(&path, &CreateOptions::new(1 << 20)).unwrap(), false).unwrap();
    assert_eq!(open_once(&path, false).unwrap_err().kind(), BlockErrorKind::InUse);
    assert_eq!(open_once(&path, true).unwrap_err().kind(), BlockErrorKind::InUse);
    drop(disk);
    let _readers = (reopen(&path, true).unwrap(), reopen(&path, true).unwrap());
    let error = Qcow2Disk::open(File::open(&path).unwrap(), false).unwrap_err();
    #[cfg(target_os = "linux")]
    assert_eq!(error.kind(), BlockErrorKind::ReadOnly);
    drop(error);
}

#[test]
fn an_image_is_created_whole_or_not_at_all() {
    let place = Place::new();
    let path = place.path("disk.qcow2");
    std::fs::write(&path, b"mine").unwrap();
    create(&path, &CreateOptions::new(1 << 20)).unwrap_err();
    assert_eq!(std::fs::read(&path).unwrap(), b"mine");
    let refused = [
        options(1000, 65536, 16, false),
        options(0, 65536, 16, false),
        options(1 << 20, 256, 16, false),
        options(1 << 20, 3000, 16, false),
        options(1 << 20, 4 << 20, 16, false),
        options(1 << 20, 8192, 16, true),
        options(1 << 20, 65536, 128, false),
        options(1 << 20, 65536, 12, false),
        options(1 << 40, 512, 16, false),
    ];
    for options in refused {
        let error = create(&place.path("other"), &options).unwrap_err();
        assert_eq!(error.kind(), BlockErrorKind::OutOfRange, "{options:?}");
    }
    assert_eq!(std::fs::read_dir(&place.0).unwrap().count(), 1);
    let facts = info(&create(&place.path("big"), &options(1 << 50, 1 << 21, 16, false)).unwrap()).unwrap();
    assert_eq!((facts.virtual_bytes, facts.cluster_bytes, facts.refcount_bits), (1 << 50, 1 << 21, 16));
}

/// The host may have dropped what it could not sync: nothing is acknowledged until all of it was written again.
#[test]
fn a_failed_sync_poisons_until_reopen_writes_everything_again() {
    let place = Place::new();
    let path = place.path("disk.qcow2");
    let disk = Qcow2Disk::open(create(&path, &options(1 << 20, 65536, 16, false)).unwrap(), false).unwrap();
    write(&disk, 0, &[1; 4096], &[], true).unwrap();
    write(&disk, 65536, &[2; 4096], &[], false).unwrap();
    recording::fail_syncs_after(0, 1);
    assert_eq!(disk.flush().unwrap_err().kind(), BlockErrorKind::Poisoned);
    for refused in [write(&disk, 0, &[3; 512], &[], false), disk.flush(), disk.discard(0, 512)] {
        assert_eq!(refused.unwrap_err().kind(), BlockErrorKind::Poisoned);
    }
    assert_eq!(read(&disk, 65536, 4096, &[]).unwrap(), [2; 4096]);
    recording::fail_syncs_after(0, 2);
    disk.reopen().unwrap_err();
    assert_eq!(disk.flush().unwrap_err().kind(), BlockErrorKind::Poisoned);
    recording::fail_syncs_after(0, 0);
    disk.reopen().unwrap();
    write(&disk, 65536, &[4; 512], &[], true).unwrap();
    drop(disk);
    let disk = reopen(&path, true).unwrap();
    assert_eq!(read(&disk, 0, 512, &[]).unwrap(), [1; 512]);
    assert_eq!(read(&disk, 65536, 512, &[]).unwrap(), [4; 512]);
    assert_eq!(read(&disk, 65536 + 512, 512, &[]).unwrap(), [2; 512]);
    assert_eq!(check(&File::open(&path).unwrap()).unwrap(), CheckReport::default());
}

/// Threads that write, discard and flush parts of their own clusters, and of clusters they share.
#[test]
fn threads_do_not_disturb_each_other() {
    for (cluster_bytes, extended) in [(512, false), (65536, false), (65536, true)] {
        let place = Place::new();
        let path = place.path("disk.qcow2");
        let shape = options(4 << 20, cluster_bytes, 16, extended);
        let disk = Qcow2Disk::open(create(&path, &shape).unwrap(), false).unwrap();
        const SLICE: usize = 4096;
        const THREADS: u64 = 4;
        std::thread::scope(|scope| {
            for thread in 0..THREADS {
                let disk = &disk;
                scope.spawn(move || {
                    let mut sequence = Sequence::new(thread + 1);
                    let mut model = std::collections::BTreeMap::new();
                    for _ in 0..400 {
                        let slot = sequence.below((4 << 20) / SLICE as u64 / THREADS);
                        let offset = (slot * THREADS + thread) * SLICE as u64;
                        match sequence.below(8) {
                            0 => {
                                disk.discard(offset, SLICE as u64).unwrap();
                                model.insert(offset, 0);
                            }
                            1 => disk.flush().unwrap(),
                            2..5 => {
                                let value = sequence.below(255) as u8 + 1;
                                write(disk, offset, &[value; SLICE], &[], sequence.below(9) == 0).unwrap();
                                model.insert(offset, value);
                            }
                            _ => {
                                let expected = model.get(&offset).copied().unwrap_or(0);
                                assert!(read(disk, offset, SLICE, &[]).unwrap() == [expected; SLICE]);
                            }
                        }
                    }
                    for (offset, value) in model {
                        assert!(read(disk, offset, SLICE, &[]).unwrap() == [value; SLICE], "at {offset:#x}");
                    }
                });
            }
        });
        drop(disk);
        assert_eq!(check(&File::open(&path).unwrap()).unwrap(), CheckReport::default());
    }
}

/// What a guest may ask, in units of sectors.
#[derive(Clone, Copy, Debug)]
enum Ask {
    Write(u64, u64, u8, bool),
    Discard(u64, u64),
    Flush,
    Reopen,
}

fn asks() -> impl Strategy<Value = Vec<Ask>> {
    let ask = prop_oneof![
        4 => (0..256u64, 1..90u64, 1..255u8, any::<bool>()).prop_map(|(at, len, value, fua)| Ask::Write(at, len, value, fua)),
        2 => (0..256u64, 1..256u64).prop_map(|(at, len)| Ask::Discard(at, len)),
        1 => Just(Ask::Flush),
        1 => Just(Ask::Reopen),
    ];
    proptest::collection::vec(ask, 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// Any sequence of requests on any shape of image does what it does to a vector of bytes.
    #[test]
    fn any_requests_do_what_they_do_to_a_vector(asks in asks(), shape in 0..14usize) {
        let shapes = shapes(128 << 10);
        let shape = &shapes[shape % shapes.len()];
        let place = Place::new();
        let path = place.path("disk.qcow2");
        let mut disk = Some(Qcow2Disk::open(create(&path, shape).unwrap(), false).unwrap());
        let mut model = vec![0u8; 128 << 10];
        for ask in asks {
            let backend = disk.as_ref().unwrap();
            match ask {
                Ask::Write(at, len, value, fua) => {
                    let len = len.min(256 - at);
                    let range = at as usize * 512..(at + len) as usize * 512;
                    write(backend, at * 512, &vec![value; range.len()], &[700], fua).unwrap();
                    model[range].fill(value);
                }
                Ask::Discard(at, len) => {
                    let len = len.min(256 - at);
                    backend.discard(at * 512, len * 512).unwrap();
                    model[at as usize * 512..(at + len) as usize * 512].fill(0);
                }
                Ask::Flush => backend.flush().unwrap(),
                Ask::Reopen => {
                    drop(disk.take());
                    prop_assert_eq!(check(&File::open(&path).unwrap()).unwrap(), CheckReport::default());
                    disk = Some(reopen(&path, false).unwrap());
                }
            }
            let now = read(disk.as_ref().unwrap(), 0, model.len(), &[]).unwrap();
            prop_assert!(now == model, "after {:?} on {:?}", ask, shape);
        }
        drop(disk);
        prop_assert_eq!(check(&File::open(&path).unwrap()).unwrap(), CheckReport::default());
    }
}

/// QEMU ends the file within its last cluster, behind the last subcluster that is there. A write behind that made it
/// longer without anybody noticing, and what was read back was zeroes.
#[test]
fn a_file_that_ends_within_its_last_cluster_is_written_there() {
    let place = Place::new();
    let path = place.path("disk.qcow2");
    let disk = Qcow2Disk::open(create(&path, &options(1 << 20, 65536, 16, true)).unwrap(), false).unwrap();
    write(&disk, 0, &[1; 512], &[], false).unwrap();
    drop(disk);
    let bytes = std::fs::read(&path).unwrap();
    let end = bytes.iter().rposition(|byte| *byte != 0).unwrap() as u64 + 1;
    assert!(!end.next_multiple_of(2048).is_multiple_of(65536));
    File::options().write(true).open(&path).unwrap().set_len(end.next_multiple_of(2048)).unwrap();
    let disk = reopen(&path, false).unwrap();
    write(&disk, 32768, &[2; 512], &[], false).unwrap();
    assert_eq!(read(&disk, 32768, 512, &[]).unwrap(), [2; 512]);
    assert_eq!(read(&disk, 0, 1024, &[]).unwrap(), [[1; 512], [0; 512]].concat());
}
