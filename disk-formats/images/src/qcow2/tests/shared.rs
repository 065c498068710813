//! Clusters that two things use, though the format or the counts say that only one does.

use benchtop_block::conformance::{read, write};

use super::*;
use crate::fields::be64;
use crate::mapped::testing::{open_file, put_at};
use crate::qcow2::check::COUNTS_NOTHING;
use crate::qcow2::layout::{COPIED, OFFSET_MASK};

const CLUSTER: usize = 512;

/// An image whose disk has the numbers 1 to 4 in its first clusters. Offsets of the L1 table, the first L2 table and the
/// first refcount block.
fn image(place: &Place) -> (std::path::PathBuf, [u64; 3]) {
    let path = place.path("disk.qcow2");
    let disk = Qcow2Disk::open(create(&path, &options(128 << 10, CLUSTER as u64, 16, false)).unwrap(), false).unwrap();
    for number in 0..4u64 {
        write(&disk, number * CLUSTER as u64, &[number as u8 + 1; CLUSTER], &[], false).unwrap();
    }
    drop(disk);
    let bytes = std::fs::read(&path).unwrap();
    let (l1, counts) = (be64(&bytes, 40), be64(&bytes, 48));
    let l2 = be64(&bytes, l1 as usize) & OFFSET_MASK;
    let block = be64(&bytes, counts as usize);
    assert_eq!(found(&path), CheckReport::default());
    (path, [l1, l2, block])
}

fn found(path: &Path) -> CheckReport {
    check(&open_file(path, true)).unwrap()
}

/// Opens as if the image were too large to be looked at as a whole.
pub(super) fn open_large(path: &Path) -> Result<Qcow2Disk, BlockError> {
    COUNTS_NOTHING.set(true);
    let disk = reopen(path, false);
    COUNTS_NOTHING.set(false);
    disk
}

fn refused(path: &Path) {
    let error = reopen(path, false).unwrap_err();
    assert_eq!(error.kind(), BlockErrorKind::Corrupt, "{error}");
    assert!(error.to_string().contains("read-only"), "{error}");
    let disk = reopen(path, true).unwrap();
    assert_eq!(read(&disk, 0, CLUSTER, &[]).unwrap(), [1; CLUSTER]);
}

fn set_count(path: &Path, block: u64, offset: u64, count: u16) {
    put_at(&open_file(path, false), block + offset / CLUSTER as u64 * 2, &count.to_be_bytes());
}

/// Two clusters of the disk are in one place, which is counted once: a write to one changed the other. After a repair,
/// which counts it twice, it does not.
#[test]
fn a_cluster_of_data_used_twice_is_found_and_not_written_in_place() {
    let place = Place::new();
    let (path, [_, l2, _]) = image(&place);
    let first = be64(&std::fs::read(&path).unwrap(), l2 as usize);
    put_at(&open_file(&path, false), l2 + 8, &first.to_be_bytes());
    let report = found(&path);
    assert_eq!((report.uncounted_clusters, report.wrong_marks), (1, 2), "{report:?}");
    refused(&path);
    assert_eq!(repair(open_file(&path, false)).unwrap(), CheckReport::default());
    let disk = reopen(&path, false).unwrap();
    write(&disk, 0, &[9; CLUSTER], &[], false).unwrap();
    assert_eq!(read(&disk, 0, 2 * CLUSTER, &[]).unwrap(), [[9; CLUSTER], [1; CLUSTER]].concat());
    drop(disk);
    assert_eq!(found(&path), CheckReport::default());
}

/// Counted twice, and marked as used once all the same: the count is obeyed.
#[test]
fn a_wrong_mark_changes_nobody_elses_data() {
    let place = Place::new();
    let (path, [_, l2, block]) = image(&place);
    let first = be64(&std::fs::read(&path).unwrap(), l2 as usize);
    put_at(&open_file(&path, false), l2 + 8, &first.to_be_bytes());
    set_count(&path, block, first & OFFSET_MASK, 2);
    assert_eq!(found(&path).wrong_marks, 2);
    refused(&path);
    let disk = open_large(&path).unwrap();
    write(&disk, 0, &[9; CLUSTER], &[], false).unwrap();
    assert_eq!(read(&disk, 0, 2 * CLUSTER, &[]).unwrap(), [[9; CLUSTER], [1; CLUSTER]].concat());
}

/// A table that is marked as used once and counted twice is copied before it changes; one that two parts of the disk
/// share is refused.
#[test]
fn an_l2_table_that_is_counted_twice_is_copied() {
    let place = Place::new();
    let (path, [l1, l2, block]) = image(&place);
    set_count(&path, block, l2, 2);
    let disk = open_large(&path).unwrap();
    disk.discard(0, CLUSTER as u64).unwrap();
    drop(disk);
    assert_ne!(be64(&std::fs::read(&path).unwrap(), l1 as usize) & OFFSET_MASK, l2);
    let place = Place::new();
    let (path, [l1, l2, block]) = image(&place);
    put_at(&open_file(&path, false), l1 + 8, &(l2 | COPIED).to_be_bytes());
    set_count(&path, block, l2, 2);
    assert_eq!(check(&open_file(&path, true)).unwrap_err().kind(), BlockErrorKind::Corrupt);
    refused(&path);
    assert_eq!(open_large(&path).unwrap_err().kind(), BlockErrorKind::Corrupt);
}

/// The L1 table is always written in place. A snapshot that has the same one, counted twice as it should be for data,
/// passed a check and changed with the disk.
#[test]
fn an_l1_table_used_twice_is_found_and_not_written() {
    for large in [false, true] {
        let place = Place::new();
        let (path, [l1, _, block]) = image(&place);
        // A cluster that is free.
        let list = 200 * CLUSTER as u64;
        let mut table = [0; CLUSTER];
        table[..8].copy_from_slice(&l1.to_be_bytes());
        (table[11], table[13], table[15], table[39]) = (4, 1, 4, 16);
        table[56..61].copy_from_slice(b"1name");
        let file = open_file(&path, false);
        put_at(&file, list, &table);
        put_at(&file, 60, &1u32.to_be_bytes());
        put_at(&file, 64, &list.to_be_bytes());
        drop(file);
        set_count(&path, block, list, 1);
        set_count(&path, block, l1, 2);
        assert!(found(&path).shared_tables > 0, "{:?}", found(&path));
        let error = if large { open_large(&path) } else { reopen(&path, false) }.unwrap_err();
        assert_eq!(error.kind(), BlockErrorKind::Corrupt, "{error}");
        let error = repair(open_file(&path, false)).unwrap_err();
        assert_eq!(error.kind(), BlockErrorKind::Corrupt, "{error}");
    }
}

/// One block that counts two ranges of clusters: taking a cluster of one took one of the other.
#[test]
fn a_refcount_block_used_twice_is_found_and_not_written() {
    for large in [false, true] {
        let place = Place::new();
        let (path, [_, _, block]) = image(&place);
        let counts = be64(&std::fs::read(&path).unwrap(), 48);
        put_at(&open_file(&path, false), counts + 8, &block.to_be_bytes());
        set_count(&path, block, block, 2);
        assert!(found(&path).shared_tables > 0, "{:?}", found(&path));
        let error = if large { open_large(&path) } else { reopen(&path, false) }.unwrap_err();
        assert_eq!(error.kind(), BlockErrorKind::Corrupt, "{error}");
        assert_eq!(repair(open_file(&path, false)).unwrap(), CheckReport::default());
        let disk = reopen(&path, false).unwrap();
        assert_eq!(read(&disk, 0, CLUSTER, &[]).unwrap(), [1; CLUSTER]);
    }
}
