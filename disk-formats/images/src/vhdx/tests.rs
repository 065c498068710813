use std::path::PathBuf;

use benchtop_block::BlockErrorKind;
use benchtop_block::DiskBackend;
use benchtop_block::conformance::{self, read, write};

use super::*;
use crate::file::recording;
use crate::image;
use crate::mapped::crash;
use crate::mapped::testing::{content, fill, flip_bits, open_file, put_at, qemu_compare, qemu_img, sample_raw};
use crate::probe::Format;

const SIZE: u64 = (21 << 20) + 512 * 7;

fn boxed(file: File, read_only: bool) -> Result<Box<dyn DiskBackend>, BlockError> {
    VhdxDisk::open(file, read_only).map(|disk| Box::new(disk) as Box<dyn DiskBackend>)
}

fn new_path() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("disk.vhdx");
    (directory, path)
}

#[test]
fn conforms() {
    for kind in [VhdxKind::Dynamic, VhdxKind::Fixed] {
        conformance::run(|| {
            let (_directory, path) = new_path();
            VhdxDisk::open(create(&path, SIZE, kind).unwrap(), false).unwrap()
        });
    }
}

#[test]
fn survives_power_cuts() {
    let (_directory, path) = new_path();
    new::create_with(&path, 5 << 20, VhdxKind::Dynamic, 1 << 20).unwrap();
    crash::check(&std::fs::read(&path).unwrap(), 1 << 20, |file| boxed(file, false));
}

#[test]
fn qemu_reads_what_we_write() {
    let (directory, path) = new_path();
    let raw = directory.path().join("disk.raw");
    let bytes = sample_raw(&raw, SIZE);
    for kind in [VhdxKind::Dynamic, VhdxKind::Fixed] {
        let path = path.with_extension(format!("{kind:?}"));
        let disk = VhdxDisk::open(create(&path, SIZE, kind).unwrap(), false).unwrap();
        fill(&disk, &bytes);
        assert!(content(&disk) == bytes);
        drop(disk);
        if qemu_img("vhdx", &["check", "-f", "vhdx", path.to_str().unwrap()]).is_none() {
            return;
        }
        qemu_compare("vhdx", "vhdx", &path, &raw);
    }
}

#[test]
fn we_read_what_qemu_writes() {
    let (directory, path) = new_path();
    let raw = directory.path().join("disk.raw");
    let bytes = sample_raw(&raw, SIZE);
    for options in ["subformat=dynamic", "subformat=fixed", "subformat=dynamic,block_size=1048576"] {
        let names = (raw.to_str().unwrap(), path.to_str().unwrap());
        if qemu_img("vhdx", &["convert", "-f", "raw", "-O", "vhdx", "-o", options, names.0, names.1]).is_none() {
            return;
        }
        conformance::read_only(&VhdxDisk::open(open_file(&path, true), true).unwrap(), &bytes);
        let disk = VhdxDisk::open(open_file(&path, false), false).unwrap();
        assert!(content(&disk) == bytes);
        write(&disk, 0, &bytes[..512], &[], true).unwrap();
        write(&disk, 9 << 20, &bytes[9 << 20..(9 << 20) + 4096], &[], false).unwrap();
        drop(disk);
        qemu_img("vhdx check", &["check", "-f", "vhdx", names.1]);
        qemu_compare("vhdx", "vhdx", &path, &raw);
    }
}

/// Blocks behind the first chunk, whose entries stand behind one for a bitmap.
#[test]
fn the_second_chunk_of_a_large_disk() {
    let (_directory, path) = new_path();
    let size = 3 << 42;
    let disk = VhdxDisk::open(create(&path, size, VhdxKind::Dynamic).unwrap(), false).unwrap();
    // A chunk is 4 GiB with sectors of 512 bytes.
    for at in [0, (4 << 30) - 512, 4 << 30, (8 << 30) + 512, size - 512] {
        write(&disk, at, &[(at >> 30) as u8 | 1; 512], &[], false).unwrap();
    }
    drop(disk);
    let disk = VhdxDisk::open(open_file(&path, true), true).unwrap();
    for at in [0, (4 << 30) - 512, 4 << 30, (8 << 30) + 512, size - 512] {
        assert_eq!(read(&disk, at, 512, &[]).unwrap(), [(at >> 30) as u8 | 1; 512]);
    }
    assert_eq!(read(&disk, 6 << 30, 512, &[]).unwrap(), [0; 512]);
    drop(disk);
    qemu_img("vhdx check", &["check", "-f", "vhdx", path.to_str().unwrap()]);
}

/// The BAT's change is in the log and nowhere else, as after a crash between the two.
fn unclosed(path: &std::path::Path) {
    let disk = VhdxDisk::open(create(path, SIZE, VhdxKind::Dynamic).unwrap(), false).unwrap();
    write(&disk, 0, &[5; 512], &[], true).unwrap();
    let torn = std::fs::read(path).unwrap();
    drop(disk);
    std::fs::write(path, torn).unwrap();
    put_at(&open_file(path, false), 3 << 20, &[0; 4096]);
}

#[test]
fn the_log_is_replayed() {
    let (_directory, path) = new_path();
    unclosed(&path);
    let disk = VhdxDisk::open(open_file(&path, false), false).unwrap();
    assert_eq!(read(&disk, 0, 512, &[]).unwrap(), [5; 512]);
    drop(disk);
    VhdxDisk::open(open_file(&path, true), true).unwrap();
}

/// The file as a reader sees it with its log, of which it must not change a byte, and then with the log replayed.
fn read_before_and_after_a_replay(path: &std::path::Path) -> Vec<u8> {
    let before = std::fs::read(path).unwrap();
    let disk = VhdxDisk::open(open_file(path, true), true).unwrap();
    let shown = content(&disk);
    conformance::read_only(&disk, &shown);
    drop(disk);
    assert_eq!(check_image(path), CheckReport::default());
    let told = image::info(&open_file(path, true), Format::Vhdx).unwrap();
    assert!(told.needs_repair && told.virtual_bytes == shown.len() as u64, "{told:?}");
    assert!(std::fs::read(path).unwrap() == before, "the file changed");
    drop(VhdxDisk::open(open_file(path, false), false).unwrap());
    assert!(std::fs::read(path).unwrap() != before);
    assert!(content(&VhdxDisk::open(open_file(path, true), true).unwrap()) == shown);
    assert_eq!(check_image(path), CheckReport::default());
    shown
}

fn check_image(path: &std::path::Path) -> CheckReport {
    image::check(open_file(path, true), Format::Vhdx, &image::OpenOptions::default()).unwrap()
}

/// An image whose writer was killed could not be read at all before it was written to.
#[test]
fn an_image_that_was_not_closed_is_read_with_its_log() {
    let (_directory, path) = new_path();
    unclosed(&path);
    let mut expected = vec![0; SIZE as usize];
    expected[..512].fill(5);
    assert!(read_before_and_after_a_replay(&path) == expected);
}

/// Entries that make the file longer, and make zeroes of what is in it.
#[test]
fn a_log_that_makes_the_file_longer_is_read_over_it() {
    let (_directory, path) = new_path();
    unclosed(&path);
    let mut file = ImageFile::open(open_file(&path, true), true).unwrap();
    let header = header::read_headers(&file).unwrap().current;
    let end = file.len_bytes().next_multiple_of(MIB);
    log::lay_over(&mut file, &header).unwrap();
    let mut page = file.read_bytes(3 << 20, 4096).unwrap();
    let first = crate::fields::le64(&page, 0) & !(MIB - 1);
    drop(file);
    // The second block is behind the end of the file, and in the first there is something to make zeroes of.
    put(&mut page, 8, &(end | layout::state::PRESENT).to_le_bytes());
    put_at(&open_file(&path, false), first + 4096, &[6; 8192]);
    let mut entry = log::entry(&[(3 << 20, &page), (first + 4096, &[0; 4096])], &header.log, 9, end);
    put(&mut entry, 56, &(end + (32 << 20)).to_le_bytes());
    put(&mut entry, 64 + 32, b"zero");
    put(&mut entry, 64 + 32 + 8, &4096u64.to_le_bytes());
    let sum = header::checksum(&entry);
    put(&mut entry, 4, &sum.to_le_bytes());
    put_at(&open_file(&path, false), header.log_at, &entry);
    let shown = read_before_and_after_a_replay(&path);
    assert_eq!(shown[..512], [5; 512]);
    assert!(shown[4096..8192] == [0; 4096] && shown[8192..12288] == [6; 4096]);
    assert!(std::fs::metadata(&path).unwrap().len() >= end + (32 << 20));
}

/// Our log is one that others can replay.
#[test]
fn qemu_replays_our_log() {
    let (directory, path) = new_path();
    unclosed(&path);
    if qemu_img("vhdx log", &["check", "-r", "all", "-f", "vhdx", path.to_str().unwrap()]).is_none() {
        return;
    }
    let raw = directory.path().join("disk.raw");
    let mut bytes = vec![0; SIZE as usize];
    bytes[..512].fill(5);
    std::fs::write(&raw, bytes).unwrap();
    qemu_compare("vhdx log", "vhdx", &path, &raw);
}

/// A hostile log may not change what it likes.
#[test]
fn a_log_that_leaves_the_file_is_refused() {
    let (_directory, path) = new_path();
    unclosed(&path);
    let headers = header::read_headers(&ImageFile::open(open_file(&path, true), true).unwrap()).unwrap();
    for at in [64 << 10, 1 << 20, 1 << 40, u64::MAX << 12] {
        let entry = log::entry(&[(at, &[1; 4096])], &headers.current.log, 9, 4 << 20);
        put_at(&open_file(&path, false), 1 << 20, &entry);
        let error = VhdxDisk::open(open_file(&path, false), false).unwrap_err();
        assert_eq!(error.kind(), BlockErrorKind::Corrupt, "{at:#x}: {error}");
        let error = VhdxDisk::open(open_file(&path, true), true).unwrap_err();
        assert_eq!(error.kind(), BlockErrorKind::Corrupt, "{at:#x}: {error}");
    }
    let entry = log::entry(&[], &headers.current.log, 9, 1 << 50);
    put_at(&open_file(&path, false), 1 << 20, &entry);
    assert_eq!(VhdxDisk::open(open_file(&path, false), false).unwrap_err().kind(), BlockErrorKind::Corrupt);
}

#[test]
fn damage_is_an_error() {
    let (_directory, path) = new_path();
    let disk = VhdxDisk::open(create(&path, 1 << 20, VhdxKind::Dynamic).unwrap(), false).unwrap();
    write(&disk, 0, &[1; 4096], &[], true).unwrap();
    // Not closed, so that the log counts.
    let image = std::fs::read(&path).unwrap();
    drop(disk);
    std::fs::write(&path, image).unwrap();
    let k = 1 << 10;
    flip_bits(
        &path,
        &[0..16, 64 * k..64 * k + 96, 128 * k..128 * k + 96, 192 * k..192 * k + 96, 256 * k..256 * k + 96],
        boxed,
    );
    VhdxDisk::open(open_file(&path, false), false).unwrap();
    let mib = 1 << 20;
    flip_bits(&path, &[2 * mib..2 * mib + 200, 2 * mib + 64 * k..2 * mib + 64 * k + 48, 3 * mib..3 * mib + 16], boxed);
}

/// With checksums put right, so that what is behind them is reached.
#[test]
fn damage_behind_good_checksums_is_an_error() {
    recording::without_syncs();
    let (_directory, path) = new_path();
    let file = new::create_with(&path, 1 << 20, VhdxKind::Dynamic, 1 << 20).unwrap();
    let disk = VhdxDisk::open(file, false).unwrap();
    write(&disk, 0, &[1; 4096], &[], true).unwrap();
    let image = std::fs::read(&path).unwrap();
    drop(disk);
    let mut length = 0;
    // Structure, its length, how much of it matters.
    for (at, len, used) in [(64 << 10, 4096, 80), (128 << 10, 4096, 80), (192 << 10, 64 << 10, 96), (1 << 20, 8192, 96)]
    {
        for (byte, bit) in (8..used).flat_map(|byte| (0..8).map(move |bit| (byte, bit))) {
            if length != image.len() as u64 {
                std::fs::write(&path, &image).unwrap();
            }
            let file = open_file(&path, false);
            let mut part = image[at..at + len].to_vec();
            part[byte] ^= 1 << bit;
            let sum = header::checksum(&part);
            part[4..8].copy_from_slice(&sum.to_le_bytes());
            put_at(&file, at as u64, &part);
            if at < 192 << 10 {
                // The other header must not be the better one.
                put_at(&file, (192 << 10) - at as u64, &[0; 4096]);
            }
            // Every bit of the log's entry is replayed, of the rest one a byte is used for writing.
            for read_only in [true, false] {
                if (read_only || at == 1 << 20 || bit == byte % 8)
                    && let Ok(disk) = boxed(open_file(&path, read_only), read_only)
                {
                    read(&*disk, 0, 512, &[]).map(drop).unwrap_or_default();
                }
            }
            length = file.metadata().unwrap().len();
            // What a replay may change: headers, the log is not, and the place its only change names.
            put_at(&file, 0, &image[..(1 << 20) + 8192]);
            put_at(&file, 3 << 20, &image[3 << 20..(3 << 20) + 8192]);
        }
    }
}

#[test]
fn a_failed_sync_poisons_until_reopened() {
    let (_directory, path) = new_path();
    let disk = VhdxDisk::open(create(&path, SIZE, VhdxKind::Dynamic).unwrap(), false).unwrap();
    write(&disk, 20 << 20, &[5; 512], &[], true).unwrap();
    // The sync of the data, that of the log, that of the table.
    for count in 0..3 {
        write(&disk, count % 2 * (8 << 20), &[5; 512], &[], false).unwrap();
        if count == 2 {
            // Both blocks are there: only the data is synced.
            break;
        }
        recording::fail_syncs_after(count, 1);
        disk.flush().unwrap_err();
        assert_eq!(disk.flush().unwrap_err().kind(), BlockErrorKind::Poisoned);
        disk.reopen().unwrap();
    }
    drop(disk);
    let disk = VhdxDisk::open(open_file(&path, true), true).unwrap();
    for at in [0, 8 << 20, 20 << 20] {
        assert_eq!(read(&disk, at, 512, &[]).unwrap(), [5; 512]);
    }
}
