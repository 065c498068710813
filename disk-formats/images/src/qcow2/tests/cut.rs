//! Files that end before what their tables say is in them: a copy that was broken off, a full disk. What is lost read as
//! zeroes, and a conversion of such an image succeeded.

use benchtop_block::conformance::{read, write};

use super::shared::open_large;
use super::*;
use crate::fields::be64;
use crate::image;
use crate::mapped::testing::{open_file, put_at};
use crate::probe::Format;
use crate::qcow2::layout::{COPIED, OFFSET_MASK};

const CLUSTER: u64 = 65536;

/// An image whose disk has the numbers 1 to 3 in its first clusters, and where these are in the file: one behind the
/// other. Nothing is behind the last.
fn image(place: &Place, extended: bool) -> (std::path::PathBuf, Vec<u64>) {
    let path = place.path("disk.qcow2");
    let disk = Qcow2Disk::open(create(&path, &options(16 << 20, CLUSTER, 16, extended)).unwrap(), false).unwrap();
    for number in 0..3 {
        write(&disk, number * CLUSTER, &[number as u8 + 1; CLUSTER as usize], &[], false).unwrap();
    }
    drop(disk);
    let bytes = std::fs::read(&path).unwrap();
    let l2 = be64(&bytes, be64(&bytes, 40) as usize) & OFFSET_MASK;
    let entry_bytes = if extended { 16 } else { 8 };
    let hosts: Vec<u64> = (0..3).map(|index| be64(&bytes, (l2 + index * entry_bytes) as usize) & OFFSET_MASK).collect();
    assert!(hosts.is_sorted());
    set_len(&path, hosts[2] + CLUSTER);
    assert_eq!(check(&open_file(&path, true)).unwrap(), CheckReport::default());
    (path, hosts)
}

fn set_len(path: &Path, len_bytes: u64) {
    open_file(path, false).set_len(len_bytes).unwrap();
}

fn cut(error: &BlockError) {
    assert_eq!(error.kind(), BlockErrorKind::Corrupt, "{error}");
    assert!(error.to_string().contains("cut short"), "{error}");
}

#[test]
fn what_was_cut_off_is_no_zeroes() {
    for extended in [false, true] {
        let place = Place::new();
        let (path, hosts) = image(&place, extended);
        let end = hosts[2] + CLUSTER;
        for (lost_bytes, whole) in [(512, 2), (CLUSTER, 2), (CLUSTER + 4096, 1), (3 * CLUSTER, 0)] {
            set_len(&path, end - lost_bytes);
            let disk = reopen(&path, true).unwrap();
            for (cluster, host) in (0u64..).zip(&hosts) {
                let found = read(&disk, cluster * CLUSTER, CLUSTER as usize, &[]);
                if cluster < whole {
                    assert_eq!(found.unwrap(), [cluster as u8 + 1; CLUSTER as usize]);
                    continue;
                }
                let error = found.unwrap_err();
                assert_eq!(error.kind(), BlockErrorKind::Corrupt, "{error}");
                assert!(error.to_string().contains(&format!("{host:#x}")), "{error}");
            }
            drop(disk);
            let report = check(&open_file(&path, true)).unwrap();
            let expected = CheckReport { cut_clusters: 3 - whole, ..CheckReport::default() };
            assert_eq!(report, expected, "{lost_bytes:#x} lost");
            let report = image::check(open_file(&path, true), Format::Qcow2, &image::OpenOptions::default()).unwrap();
            assert_eq!((report.damages, report.findings.len()), (3 - whole, 1), "{report:?}");
            // What comes back is not lost.
            assert!(std::fs::metadata(&path).unwrap().len() < end);
            std::fs::write(&path, fill_up(&path, &hosts)).unwrap();
            assert_eq!(check(&open_file(&path, true)).unwrap(), CheckReport::default());
        }
    }
}

/// The file with its data again.
fn fill_up(path: &Path, hosts: &[u64]) -> Vec<u8> {
    let mut bytes = std::fs::read(path).unwrap();
    bytes.resize((hosts[2] + CLUSTER) as usize, 0);
    for (number, host) in (1u8..).zip(hosts) {
        bytes[*host as usize..(*host + CLUSTER) as usize].fill(number);
    }
    bytes
}

/// Whatever would be written behind the end would make zeroes of what is lost, and no check would tell of it.
#[test]
fn what_was_cut_off_is_not_covered_up() {
    for lost_bytes in [512, CLUSTER, 2 * CLUSTER + 512] {
        let place = Place::new();
        let (path, hosts) = image(&place, false);
        set_len(&path, hosts[2] + CLUSTER - lost_bytes);
        let before = std::fs::read(&path).unwrap();
        let error = reopen(&path, false).unwrap_err();
        cut(&error);
        assert!(error.to_string().contains("read-only"), "{error}");
        cut(&repair(open_file(&path, false)).unwrap_err());
        cut(&resize(open_file(&path, false), 2 << 40, None).unwrap_err());
        assert!(std::fs::read(&path).unwrap() == before);
        // One too large to be looked at as a whole.
        let disk = open_large(&path).unwrap();
        let error = write(&disk, 2 * CLUSTER, &[9; 512], &[], false).unwrap_err();
        assert_eq!(error.kind(), BlockErrorKind::Corrupt, "{error}");
        let error = write(&disk, 2 * CLUSTER + 65024, &[9; 512], &[], false).unwrap_err();
        assert_eq!(error.kind(), BlockErrorKind::Corrupt, "{error}");
    }
}

/// The clusters that a table would name read as zeroes where the table was cut.
#[test]
fn a_table_that_was_cut_off_is_none() {
    let place = Place::new();
    let (path, hosts) = image(&place, false);
    let bytes = std::fs::read(&path).unwrap();
    let l1 = be64(&bytes, 40);
    let l2 = (be64(&bytes, l1 as usize) & OFFSET_MASK) as usize;
    let end = hosts[2] + CLUSTER;
    let file = open_file(&path, false);
    put_at(&file, end, &bytes[l2..l2 + CLUSTER as usize]);
    put_at(&file, l1, &(end | COPIED).to_be_bytes());
    for len in [end, end + 512, end + CLUSTER - 8] {
        file.set_len(len).unwrap();
        let disk = Qcow2Disk::open(open_file(&path, true), true).unwrap();
        let error = read(&disk, 100 * CLUSTER, 512, &[]).unwrap_err();
        assert_eq!(error.kind(), BlockErrorKind::Corrupt, "{error}");
        assert!(error.to_string().contains(&format!("{end:#x}")), "{error}");
        assert_eq!(check(&open_file(&path, true)).unwrap_err().kind(), BlockErrorKind::Corrupt);
    }
}

/// The disk ends in a cluster, and so does the file: what is behind the disk's end was never there.
#[test]
fn a_file_may_end_where_the_disk_does() {
    let place = Place::new();
    let path = place.path("disk.qcow2");
    let size = 3 * CLUSTER + 1536;
    let disk = Qcow2Disk::open(create(&path, &options(size, CLUSTER, 16, false)).unwrap(), false).unwrap();
    write(&disk, 3 * CLUSTER, &[7; 1536], &[], false).unwrap();
    drop(disk);
    let bytes = std::fs::read(&path).unwrap();
    let l2 = be64(&bytes, be64(&bytes, 40) as usize) & OFFSET_MASK;
    let host = be64(&bytes, l2 as usize + 24) & OFFSET_MASK;
    set_len(&path, host + 1536);
    assert_eq!(check(&open_file(&path, true)).unwrap(), CheckReport::default());
    let disk = reopen(&path, false).unwrap();
    assert_eq!(read(&disk, 3 * CLUSTER, 1536, &[]).unwrap(), [7; 1536]);
    write(&disk, 3 * CLUSTER + 512, &[8; 512], &[], false).unwrap();
    drop(disk);
    resize(open_file(&path, false), 4 * CLUSTER, None).unwrap();
    let disk = reopen(&path, true).unwrap();
    let expected = [vec![7; 512], vec![8; 512], vec![7; 512], vec![0; CLUSTER as usize - 1536]].concat();
    assert!(read(&disk, 3 * CLUSTER, CLUSTER as usize, &[]).unwrap() == expected);
    drop(disk);
    assert_eq!(check(&open_file(&path, true)).unwrap(), CheckReport::default());
}
