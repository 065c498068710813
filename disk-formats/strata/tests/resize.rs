//! Other sizes: up and down, with restore points of their own size, and cuts of power at every step.

mod common;

use benchtop_block::conformance::{self, Sequence, read, write};
use benchtop_block::{BlockErrorKind, DiskBackend};
use benchtop_strata::StrataDisk;
use common::{Memory, assert_whole, fill, first, options, size};

const MIB: u64 = 1 << 20;

#[test]
fn a_resized_disk_is_a_disk() {
    for (from, to) in [(MIB, 600 * MIB), (600 * MIB, 8 * MIB), (512 * 17, 512 * 1001), (8 * MIB, 512 * 1001)] {
        conformance::run(|| {
            let mut disk = StrataDisk::create(Memory::new(), &options(from, None)).unwrap();
            write(&disk, from - 512, &[5; 512], &[], false).unwrap();
            disk.resize(to, true).unwrap();
            assert_eq!(size(&disk), to);
            if to < from {
                disk.discard(0, to).unwrap();
            } else {
                disk.discard(0, from).unwrap();
            }
            disk
        });
    }
}

#[test]
fn growing_adds_zeroes_and_shrinking_needs_consent() {
    let medium = Memory::new();
    let mut disk = StrataDisk::create(medium.clone(), &options(512 * 13, Some("x"))).unwrap();
    write(&disk, 0, &[9; 512 * 13], &[], false).unwrap();
    for bad in [0, 511, 513, u64::MAX, 1 << 58] {
        assert_eq!(disk.resize(bad, true).unwrap_err().kind(), BlockErrorKind::Unsupported, "{bad}");
    }
    assert_eq!(disk.resize(512, false).unwrap_err().kind(), BlockErrorKind::Unsupported);
    assert_eq!(size(&disk), 512 * 13);
    disk.resize(512 * 3, true).unwrap();
    // What was cut off in the middle of a block does not come back.
    disk.resize(1 << 57, false).unwrap();
    assert_eq!(read(&disk, 0, 512 * 13, &[]).unwrap(), [[9; 512 * 3].as_slice(), &[0; 512 * 10]].concat());
    write(&disk, (1 << 57) - 4096, &[4; 4096], &[], true).unwrap();
    drop(disk);
    let mut disk = StrataDisk::open(medium, Some(b"x"), false).unwrap();
    assert_eq!(size(&disk), 1 << 57);
    assert_eq!(read(&disk, (1 << 57) - 4096, 4096, &[]).unwrap(), [4; 4096]);
    assert_whole(&disk);
    disk.resize(MIB, true).unwrap();
    disk.resize(1 << 57, true).unwrap();
    assert_eq!(read(&disk, (1 << 57) - 4096, 4096, &[]).unwrap(), [0; 4096]);
    assert_whole(&disk);
}

#[test]
fn a_restore_point_brings_its_size_back() {
    let medium = Memory::new();
    let mut disk = StrataDisk::create(medium.clone(), &options(4 * MIB, None)).unwrap();
    fill(&disk, 1, 0, 1024);
    let small = disk.snapshot("small").unwrap();
    disk.resize(900 * MIB, false).unwrap();
    fill(&disk, 2, 200_000, 10);
    let large = disk.snapshot("large").unwrap();
    disk.resize(MIB, true).unwrap();
    let least = disk.snapshot("least").unwrap();
    fill(&disk, 3, 0, 1);
    disk.flush().unwrap();
    for _ in 0..2 {
        disk.go(small).unwrap();
        assert_eq!((size(&disk), first(&disk, 0), first(&disk, 1023)), (4 * MIB, 1, 1));
        disk.go(large).unwrap();
        assert_eq!((size(&disk), first(&disk, 1023), first(&disk, 200_009)), (900 * MIB, 1, 2));
        disk.go(least).unwrap();
        assert_eq!((size(&disk), first(&disk, 0), first(&disk, 255)), (MIB, 1, 1));
        assert_whole(&disk);
        drop(disk);
        disk = StrataDisk::open(medium.clone(), None, false).unwrap();
        assert_eq!(size(&disk), MIB);
    }
    drop(disk);
    for (point, bytes) in [(small, 4 * MIB), (large, 900 * MIB), (least, MIB)] {
        let mut past = StrataDisk::open(medium.clone(), None, true).unwrap();
        past.rewind(point).unwrap();
        assert_eq!(size(&past), bytes);
        if point == large {
            assert_eq!(first(&past, 200_005), 2);
        }
    }
    let disk = StrataDisk::open(medium, None, false).unwrap();
    disk.points().unwrap().iter().for_each(|point| disk.drop_point(point.seq).unwrap());
    disk.checkpoint().unwrap();
    disk.checkpoint().unwrap();
    assert_whole(&disk);
}

#[test]
fn a_cut_leaves_the_old_size_or_the_new() {
    for (old, new) in [(4 * MIB + 512, 700 * MIB), (700 * MIB, 4 * MIB + 512)] {
        let origin = Memory::new();
        let disk = StrataDisk::create(origin.clone(), &options(old, None)).unwrap();
        fill(&disk, 1, 0, 1025 - u64::from(old < new));
        write(&disk, old - 512, &[8; 512], &[], false).unwrap();
        drop(disk);
        let mut both = [false; 2];
        let mut random = Sequence::new(4);
        for steps in 0.. {
            let medium = origin.copy();
            let mut disk = StrataDisk::open(medium.clone(), None, false).unwrap();
            medium.cut_after(steps);
            let done = disk.resize(new, true).is_ok();
            drop(disk);
            let disk = StrataDisk::open(medium.after_cut(&mut random), None, false).unwrap();
            assert_whole(&disk);
            let found = size(&disk);
            assert!(found == new || (found == old && !done), "step {steps}: {found}");
            both[usize::from(found == new)] = true;
            assert_eq!((first(&disk, 0), first(&disk, 1023)), (1, 1));
            if old < new {
                assert_eq!(read(&disk, old - 512, 512, &[]).unwrap(), [8; 512]);
            }
            if found == new && new > old {
                assert_eq!(read(&disk, old, 8192, &[]).unwrap(), [0; 8192]);
            }
            if done {
                break;
            }
        }
        assert_eq!(both, [true; 2], "cuts fell before and after");
    }
}
