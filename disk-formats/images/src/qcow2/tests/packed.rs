//! Compressed clusters that are wrong: a check must tell of what a read refuses, and of what QEMU's check calls damage.

use std::io::Write as _;

use benchtop_block::conformance::{Sequence, read, write};

use super::shared::open_large;
use super::*;
use crate::fields::be64;
use crate::image;
use crate::mapped::testing::{open_file, put_at, qemu_img};
use crate::probe::Format;
use crate::qcow2::layout::{COMPRESSED, COPIED, OFFSET_MASK};

const CLUSTER: u64 = 4096;

/// An image whose disk has 300 bytes of noise and zeroes in its first cluster, compressed, and then a plain cluster: the
/// path, the content, where the compressed bytes are and how many, and where the first L2 entry is.
fn image(place: &Place) -> (std::path::PathBuf, Vec<u8>, u64, usize, u64) {
    let path = place.path("disk.qcow2");
    let disk = Qcow2Disk::open(create(&path, &options(1 << 20, CLUSTER, 16, false)).unwrap(), false).unwrap();
    for cluster in 0..2 {
        write(&disk, cluster * CLUSTER, &[3; CLUSTER as usize], &[], false).unwrap();
    }
    drop(disk);
    let bytes = std::fs::read(&path).unwrap();
    let l2 = be64(&bytes, be64(&bytes, 40) as usize) & OFFSET_MASK;
    let host = be64(&bytes, l2 as usize) & OFFSET_MASK;
    let mut content = Sequence::new(5).bytes(1300);
    content.resize(CLUSTER as usize, 0);
    let mut packer = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::best());
    packer.write_all(&content).unwrap();
    let packed = packer.finish().unwrap();
    let sectors = packed.len() as u64 / 512;
    let file = open_file(&path, false);
    put_at(&file, host, &packed);
    put_at(&file, l2, &(COMPRESSED | sectors << 58 | host).to_be_bytes());
    drop(file);
    assert_eq!(found(&path), CheckReport::default());
    let disk = reopen(&path, true).unwrap();
    assert!(read(&disk, 0, CLUSTER as usize, &[]).unwrap() == content);
    drop(disk);
    (path, content, host, packed.len(), l2)
}

fn found(path: &Path) -> CheckReport {
    check(&open_file(path, true)).unwrap()
}

fn damages(path: &Path) -> u64 {
    let options = image::OpenOptions::default();
    image::check(open_file(path, true), Format::Qcow2, &options).unwrap().damages
}

/// QEMU: "copied flag must never be set for compressed clusters". It harms no write, as a compressed cluster always
/// moves, and a repair takes the mark away.
#[test]
fn a_compressed_cluster_that_is_marked_as_used_once_is_damage() {
    let place = Place::new();
    let (path, content, _, _, l2) = image(&place);
    let entry = be64(&std::fs::read(&path).unwrap(), l2 as usize);
    put_at(&open_file(&path, false), l2, &(entry | COPIED).to_be_bytes());
    assert_eq!(found(&path), CheckReport { marked_compressed: 1, ..CheckReport::default() });
    assert_eq!(damages(&path), 1);
    let copy = place.path("copy.qcow2");
    std::fs::copy(&path, &copy).unwrap();
    assert_eq!(repair(open_file(&path, false)).unwrap(), CheckReport::default());
    qemu_img("packed", &["check", "-f", "qcow2", path.to_str().unwrap()]);
    let disk = reopen(&copy, false).unwrap();
    write(&disk, 512, &[9; 512], &[], false).unwrap();
    let mut expected = content;
    expected[512..1024].fill(9);
    assert!(read(&disk, 0, CLUSTER as usize, &[]).unwrap() == expected);
    drop(disk);
    assert_eq!(found(&copy), CheckReport::default());
}

#[test]
fn a_compressed_cluster_that_can_not_be_unpacked_is_damage() {
    let place = Place::new();
    let (path, _, host, len, _) = image(&place);
    let original = std::fs::read(&path).unwrap();
    for at in [0, 1, len / 2] {
        put_at(&open_file(&path, false), host + at as u64, &[0xff; 4]);
        let disk = reopen(&path, true).unwrap();
        let failed = read(&disk, 0, 512, &[]).is_err_and(|error| error.kind() == BlockErrorKind::Corrupt);
        drop(disk);
        assert_eq!(found(&path).unpackable_clusters, u64::from(failed), "at {at}");
        assert_eq!(damages(&path), u64::from(failed), "at {at}");
        assert!(failed || at > 1);
        std::fs::write(&path, &original).unwrap();
    }
}

/// The packed bytes end with the file, anywhere in a sector, as they may; then a part of them is lost. Bits of zeroes in
/// their place could be unpacked to something.
#[test]
fn compressed_bytes_that_were_cut_off_are_no_zeroes() {
    let place = Place::new();
    let (path, content, host, len, l2) = image(&place);
    // To the end of the file.
    let bytes = std::fs::read(&path).unwrap();
    let end = (bytes.len() as u64).next_multiple_of(CLUSTER);
    let packed = &bytes[host as usize..host as usize + len];
    let file = open_file(&path, false);
    put_at(&file, end, packed);
    put_at(&file, l2, &(COMPRESSED | (len as u64 / 512) << 58 | end).to_be_bytes());
    let open = || open_large(&path).unwrap();
    assert!(read(&open(), 0, CLUSTER as usize, &[]).unwrap() == content);
    for lost in 1..len {
        file.set_len(end + (len - lost) as u64).unwrap();
        let read = read(&open(), 0, CLUSTER as usize, &[]);
        assert_eq!(found(&path).unpackable_clusters, u64::from(read.is_err()), "{lost} lost");
        match read {
            // The mark of the end is all that lacks, which QEMU does not ask for either.
            Ok(bytes) => assert!(lost < 4 && bytes == content, "{lost} lost"),
            Err(error) => assert_eq!(error.kind(), BlockErrorKind::Corrupt, "{lost} lost: {error}"),
        }
    }
}
