//! Files that lie.

use std::io::Write as _;
use std::time::{Duration, Instant};

use benchtop_block::conformance::{Sequence, read, write};
use flate2::Compression;
use flate2::write::DeflateEncoder;

use super::*;
use crate::fields::be64;
use crate::qcow2::check::COUNTS_NOTHING;
use crate::qcow2::layout::COMPRESSED;

const DISK_BYTES: u64 = 128 << 10;

/// A file without a name, which needs no syncs where the host has memory files.
fn memory_file(bytes: &[u8]) -> File {
    #[cfg(target_os = "linux")]
    let file = rustix::fs::memfd_create("image", rustix::fs::MemfdFlags::CLOEXEC).map(File::from);
    #[cfg(not(target_os = "linux"))]
    let file = tempfile::tempfile();
    let mut file = file.unwrap();
    file.write_all(bytes).unwrap();
    file
}

fn deflated(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// An image with some of everything: data, zeroes, a compressed cluster, a snapshot.
fn sample(extended: bool) -> Vec<u8> {
    let place = Place::new();
    let path = place.path("disk.qcow2");
    let cluster = if extended { 16384 } else { 512 };
    let mut shape = options(DISK_BYTES, cluster, 16, extended);
    shape.backing = Some(("base".into(), "raw".into()));
    let file = create(&path, &shape).unwrap();
    let disk = Qcow2Disk::open_with_backing(file, false, Arc::new(MemoryDisk::new(DISK_BYTES))).unwrap();
    for index in 0..6 {
        write(&disk, index * 20_480, &[index as u8 + 1; 2048], &[], false).unwrap();
    }
    disk.discard(20_480, 1024).unwrap();
    drop(disk);
    let mut bytes = std::fs::read(&path).unwrap();
    let used = bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    bytes.truncate(used.next_multiple_of(cluster as usize));
    // The first cluster becomes a compressed one, in a cluster at the end; the one behind lists a snapshot, whose L1 table
    // is the third.
    let end = bytes.len();
    bytes.resize(end + 3 * cluster as usize, 0);
    let packed = deflated(&vec![7; cluster as usize]);
    bytes[end + 5..end + 5 + packed.len()].copy_from_slice(&packed);
    let l1 = be64(&bytes, 40) as usize;
    let l2 = (be64(&bytes, l1) & layout::OFFSET_MASK) as usize;
    bytes[l2..l2 + 8].copy_from_slice(&(COMPRESSED | (end as u64 + 5)).to_be_bytes());
    let (table, copy) = (end + cluster as usize, end + 2 * cluster as usize);
    bytes.copy_within(l1..l1 + cluster as usize, copy);
    bytes[table..table + 8].copy_from_slice(&(copy as u64).to_be_bytes());
    (bytes[table + 11], bytes[table + 13], bytes[table + 15], bytes[table + 39]) = (1, 1, 4, 16);
    bytes[table + 56..table + 61].copy_from_slice(b"1name");
    bytes[63] = 1;
    bytes[64..72].copy_from_slice(&(table as u64).to_be_bytes());
    std::fs::write(&path, bytes).unwrap();
    assert_eq!(repair(File::options().read(true).write(true).open(&path).unwrap()).unwrap(), CheckReport::default());
    std::fs::read(&path).unwrap()
}

/// Everything a guest and a user can do to an image. Errors are answers.
fn exercise(bytes: &[u8]) -> usize {
    let started = Instant::now();
    let mut failures = 0;
    let mut note = |failed: bool| failures += usize::from(failed);
    let backing: Arc<dyn DiskBackend> = Arc::new(MemoryDisk::new(DISK_BYTES));
    let file = memory_file(bytes);
    note(info(&file).is_err());
    note(check(&file).is_err());
    // As a large image, which is not looked at as a whole when it is opened, too.
    for (read_only, large) in [(true, false), (false, false), (false, true)] {
        COUNTS_NOTHING.set(large);
        let file = memory_file(bytes);
        let named = info(&file).is_ok_and(|info| info.backing_name.is_some());
        let disk = match named {
            true => Qcow2Disk::open_with_backing(file, read_only, backing.clone()),
            false => Qcow2Disk::open(file, read_only),
        };
        let Ok(disk) = disk else {
            note(true);
            continue;
        };
        note(disk.snapshots().is_err());
        let size = disk.info().size_bytes.min(DISK_BYTES);
        let mut at = 0;
        while at < size {
            note(read(&disk, at, 4096.min(size - at) as usize, &[]).is_err());
            match disk.extent_at(at, size - at) {
                Ok(extent) => at += extent.len_bytes.min(8192),
                Err(_) => at += 4096,
            }
        }
        if !read_only {
            for (offset, len) in [(0, 512), (20_480, 4096), (70_000 / 512 * 512, 8192), (size - 512, 512)] {
                note(write(&disk, offset, &vec![0x55; len], &[], offset == 0).is_err());
            }
            note(disk.discard(4096, 16384).is_err());
            note(disk.flush().is_err());
            note(write(&disk, 4096, &[1; 1024], &[], true).is_err());
        }
        drop(disk);
    }
    COUNTS_NOTHING.set(false);
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    failures
}

/// Address space of this process at its largest, in KiB, where the host says.
fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmPeak:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0)
}

/// The bytes of a sample that are metadata, and of each cluster with large ones only the start, where something is.
fn metadata(bytes: &[u8], cluster: usize) -> Vec<usize> {
    let (snapshots, l2) = (be64(bytes, 64), be64(bytes, be64(bytes, 40) as usize) & layout::OFFSET_MASK);
    let packed = be64(bytes, l2 as usize) & (layout::OFFSET_MASK >> 8);
    let mut clusters: Vec<usize> =
        [0, snapshots, be64(bytes, snapshots as usize), packed].map(|offset| offset as usize / cluster).into();
    for field in [40, 48] {
        let table = be64(bytes, field) as usize;
        clusters.push(table / cluster);
        let entries = bytes[table..table + cluster].chunks_exact(8).map(|entry| be64(entry, 0) & layout::OFFSET_MASK);
        clusters.extend(entries.filter(|entry| *entry != 0).map(|entry| entry as usize / cluster));
    }
    let starts = clusters.into_iter().map(|index| index * cluster);
    starts.flat_map(|start| start..start + cluster.min(512)).collect()
}

/// Each byte of the metadata, changed in several ways, in an image that is clean and in one to be repaired.
#[test]
fn no_changed_byte_harms_more_than_the_image() {
    let before = peak_kib();
    for extended in [false, true] {
        let whole = sample(extended);
        assert_eq!(exercise(&whole), 0);
        let places = metadata(&whole, if extended { 16384 } else { 512 });
        let mut changed = 0;
        for at in places {
            let flips = match whole[at] {
                _ if at < 112 => &[1u8, 2, 4, 8, 16, 32, 64, 128, 255][..],
                0 => &[0x81][..],
                _ => &[1, 128, 255][..],
            };
            for flip in flips {
                for dirty in [false, true] {
                    let mut bytes = whole.clone();
                    bytes[79] |= u8::from(dirty);
                    bytes[at] ^= flip;
                    changed += usize::from(exercise(&bytes) > 0);
                }
            }
        }
        assert!(changed > 100, "{changed}");
    }
    assert!(peak_kib() - before < 4 << 20, "from {before} to {} KiB", peak_kib());
}

#[test]
fn a_file_cut_anywhere_is_answered() {
    let whole = sample(false);
    for len in (0..whole.len()).step_by(37) {
        exercise(&whole[..len]);
    }
}

/// Fields at their extremes ask for tables and disks nobody has memory for.
#[test]
fn fields_at_their_extremes_are_answered() {
    let whole = sample(false);
    for at in (4..112).step_by(4) {
        for value in [u32::MAX, 0x7fff_ffff, 0x8000_0000, 0x0100_0000, 0x10000, 21, 0] {
            let mut bytes = whole.clone();
            bytes[at..at + 4].copy_from_slice(&value.to_be_bytes());
            exercise(&bytes);
            bytes[79] |= 1;
            exercise(&bytes);
        }
    }
    // Every entry of a table of counts names the same block, and every L1 entry the same L2 table.
    for table in [40, 48] {
        let mut bytes = whole.clone();
        let offset = be64(&bytes, table) as usize;
        let first: [u8; 8] = bytes[offset..offset + 8].try_into().unwrap();
        bytes[offset..offset + 512].copy_from_slice(&first.repeat(64));
        exercise(&bytes);
        bytes[79] |= 1;
        exercise(&bytes);
    }
}

/// An L2 entry that points at the header, a table or the counts does not let a guest write there.
#[test]
fn data_does_not_go_where_metadata_is() {
    for field in [40, 48] {
        let place = Place::new();
        let path = place.path("disk.qcow2");
        let disk = Qcow2Disk::open(create(&path, &options(DISK_BYTES, 512, 16, false)).unwrap(), false).unwrap();
        write(&disk, 0, &[1; 512], &[], false).unwrap();
        drop(disk);
        let mut bytes = std::fs::read(&path).unwrap();
        let l2 = (be64(&bytes, be64(&bytes, 40) as usize) & layout::OFFSET_MASK) as usize;
        let target = be64(&bytes, field) | layout::COPIED;
        bytes[l2..l2 + 8].copy_from_slice(&target.to_be_bytes());
        let error = Qcow2Disk::open(memory_file(&bytes), false).unwrap_err();
        assert_eq!(error.kind(), BlockErrorKind::Corrupt, "{error}");
        COUNTS_NOTHING.set(true);
        let disk = Qcow2Disk::open(memory_file(&bytes), false).unwrap();
        COUNTS_NOTHING.set(false);
        let error = write(&disk, 0, &[9; 512], &[], false).unwrap_err();
        assert_eq!(error.kind(), BlockErrorKind::Corrupt, "{error}");
        read(&disk, 0, 512, &[]).unwrap();
    }
}

#[test]
fn marks_of_the_header_are_obeyed() {
    let mut bytes = sample(false);
    let open = |bytes: &[u8], read_only| {
        Qcow2Disk::open_with_backing(memory_file(bytes), read_only, Arc::new(MemoryDisk::new(DISK_BYTES)))
    };
    bytes[79] = 2;
    open(&bytes, true).unwrap();
    assert_eq!(open(&bytes, false).unwrap_err().kind(), BlockErrorKind::Corrupt);
    // Unknown auto-clear features are gone once the image may be written.
    bytes[79] = 0;
    bytes[88] = 1;
    let file = memory_file(&bytes);
    let backing = Arc::new(MemoryDisk::new(DISK_BYTES));
    drop(Qcow2Disk::open_with_backing(file.try_clone().unwrap(), false, backing).unwrap());
    let mut now = [0; 8];
    benchtop_block::file::read_at(&file, 88, &[VolatileSlice::from(&mut now[..])]).unwrap();
    assert_eq!(now, [0; 8]);
}

/// Packed data that is not: every byte of a stream of either kind changed, and streams cut short.
#[test]
fn packed_data_that_lies_is_corrupt_or_wrong_but_no_more() {
    let mut content = Sequence::new(1).bytes(3000);
    content.resize(65536, 7);
    // Made by zstd 1.5 from 64 KiB of the byte 7: frame header, one block of one repeated byte.
    let zstd = [0x28, 0xb5, 0x2f, 0xfd, 0x60, 0x00, 0xff, 0x03, 0x00, 0x08, 0x07];
    for (compression, packed) in
        [(super::Compression::Deflate, deflated(&content)), (super::Compression::Zstd, zstd.to_vec())]
    {
        let unpack = |packed: &[u8]| {
            let mut padded = vec![0u8; 512];
            padded.extend(packed);
            let len_bytes = padded.len() as u64 - 512;
            let file = ImageFile::open_unlocked(memory_file(&padded), true).unwrap();
            let layout = layout::Layout { version: 3, cluster_bits: 16, refcount_order: 4, extended: false };
            Unpacker::new(&layout, compression).cluster(&layout::Compressed { offset_bytes: 512, len_bytes }, &file)
        };
        unpack(&packed).unwrap();
        for at in 0..packed.len() {
            for flip in [1u8, 16, 128, 255] {
                let mut bytes = packed.clone();
                bytes[at] ^= flip;
                // Wrong bytes are as good an answer as an error: the format has no checksum of its own here.
                assert!(unpack(&bytes).is_ok_and(|bytes| bytes.len() == 65536) || unpack(&bytes).is_err());
            }
            assert!(at + 1 == packed.len() || unpack(&packed[..at]).is_err());
        }
    }
}
