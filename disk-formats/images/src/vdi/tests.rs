use std::path::PathBuf;

use benchtop_block::BlockErrorKind;
use benchtop_block::conformance::{self, read, write};
use benchtop_block::{DiscardBehavior, DiskBackend};

use super::*;
use crate::file::recording;
use crate::mapped::crash;
use crate::mapped::testing::{content, fill, flip_bits, open_file, put_at, qemu_compare, qemu_img, sample_raw};

const SIZE: u64 = (5 << 20) + 512 * 7;

fn boxed(file: File, read_only: bool) -> Result<Box<dyn DiskBackend>, BlockError> {
    VdiDisk::open(file, read_only).map(|disk| Box::new(disk) as Box<dyn DiskBackend>)
}

fn new_path() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("disk.vdi");
    (directory, path)
}

#[test]
fn conforms() {
    for kind in [VdiKind::Dynamic, VdiKind::Static] {
        conformance::run(|| {
            let (_directory, path) = new_path();
            VdiDisk::open(create(&path, SIZE, kind).unwrap(), false).unwrap()
        });
    }
}

#[test]
fn survives_power_cuts() {
    let (_directory, path) = new_path();
    create(&path, SIZE, VdiKind::Dynamic).unwrap();
    crash::check(&std::fs::read(&path).unwrap(), u64::from(BLOCK_BYTES), |file| boxed(file, false));
}

#[test]
fn qemu_reads_what_we_write() {
    let (directory, path) = new_path();
    let raw = directory.path().join("disk.raw");
    let bytes = sample_raw(&raw, SIZE);
    for kind in [VdiKind::Dynamic, VdiKind::Static] {
        let path = path.with_extension(format!("{kind:?}"));
        let disk = VdiDisk::open(create(&path, SIZE, kind).unwrap(), false).unwrap();
        fill(&disk, &bytes);
        assert!(content(&disk) == bytes);
        drop(disk);
        if qemu_img("vdi check", &["check", "-f", "vdi", path.to_str().unwrap()]).is_none() {
            return;
        }
        qemu_compare("vdi", "vdi", &path, &raw);
    }
}

#[test]
fn we_read_what_qemu_writes() {
    let (directory, path) = new_path();
    let raw = directory.path().join("disk.raw");
    let bytes = sample_raw(&raw, SIZE);
    for options in ["static=off", "static=on"] {
        let names = (raw.to_str().unwrap(), path.to_str().unwrap());
        if qemu_img("vdi", &["convert", "-f", "raw", "-O", "vdi", "-o", options, names.0, names.1]).is_none() {
            return;
        }
        conformance::read_only(&VdiDisk::open(open_file(&path, true), true).unwrap(), &bytes);
        let disk = VdiDisk::open(open_file(&path, false), false).unwrap();
        assert!(content(&disk) == bytes);
        write(&disk, 0, &bytes[..512], &[], true).unwrap();
        write(&disk, 3 << 20, &bytes[3 << 20..(3 << 20) + 4096], &[], false).unwrap();
        drop(disk);
        qemu_img("vdi check", &["check", "-f", "vdi", names.1]);
        qemu_compare("vdi", "vdi", &path, &raw);
    }
}

#[test]
fn damage_is_an_error() {
    let (_directory, path) = new_path();
    let disk = VdiDisk::open(create(&path, 2 << 20, VdiKind::Dynamic).unwrap(), false).unwrap();
    write(&disk, 1 << 20, &[1; 4096], &[], true).unwrap();
    drop(disk);
    flip_bits(&path, &[0..512, (1 << 20)..(1 << 20) + 8], boxed);
}

#[test]
fn two_blocks_in_one_place_are_refused() {
    let (_directory, path) = new_path();
    let file = create(&path, SIZE, VdiKind::Dynamic).unwrap();
    put_at(&file, 1 << 20, &[0, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(VdiDisk::open(file, false).unwrap_err().kind(), BlockErrorKind::Corrupt);
    VdiDisk::open(open_file(&path, true), true).unwrap();
}

#[test]
fn what_is_not_built_is_named() {
    let (_directory, path) = new_path();
    for (at, bytes, named) in [
        (field::TYPE, [4, 0, 0, 0], "differencing"),
        (field::TYPE, [3, 0, 0, 0], "undo"),
        (field::VERSION, [2, 0, 1, 0], "version 1.2"),
        (field::PARENT_ID, [1, 0, 0, 0], "parent"),
        (field::BLOCK_BYTES, [0, 0, 24, 0], "1572864 bytes"),
        (field::BLOCK_EXTRA_BYTES, [0, 2, 0, 0], "data of their own"),
    ] {
        let file = create(&path, SIZE, VdiKind::Dynamic).unwrap();
        put_at(&file, at as u64, &bytes);
        let error = VdiDisk::open(file, false).unwrap_err();
        assert_eq!(error.kind(), BlockErrorKind::Unsupported);
        assert!(error.to_string().contains(named), "{error}");
        std::fs::remove_file(&path).unwrap();
    }
}

#[test]
fn a_failed_sync_poisons_until_reopened() {
    let (_directory, path) = new_path();
    let disk = VdiDisk::open(create(&path, SIZE, VdiKind::Dynamic).unwrap(), false).unwrap();
    // The sync of the data, then that of the map.
    for count in [0, 1] {
        write(&disk, count << 20, &[5; 512], &[], false).unwrap();
        recording::fail_syncs_after(count, 1);
        disk.flush().unwrap_err();
        for refused in [write(&disk, 0, &[6; 512], &[], false), disk.flush(), disk.discard(0, 512)] {
            assert_eq!(refused.unwrap_err().kind(), BlockErrorKind::Poisoned);
        }
        assert_eq!(read(&disk, count << 20, 512, &[]).unwrap(), [5; 512]);
        disk.reopen().unwrap();
    }
    drop(disk);
    let disk = VdiDisk::open(open_file(&path, true), true).unwrap();
    assert_eq!(
        (read(&disk, 0, 512, &[]).unwrap(), read(&disk, 1 << 20, 512, &[]).unwrap()),
        (vec![5; 512], vec![5; 512])
    );
}

#[test]
fn discarded_room_goes_back() {
    let (_directory, path) = new_path();
    let disk = VdiDisk::open(create(&path, SIZE, VdiKind::Dynamic).unwrap(), false).unwrap();
    if disk.info().discard == DiscardBehavior::Ignored {
        println!("SKIPPED discarded_room_goes_back: the file system makes no holes");
        return;
    }
    write(&disk, 0, &vec![3; 1 << 20], &[], true).unwrap();
    let before = crate::raw::info(&open_file(&path, true)).unwrap().allocated_bytes;
    disk.discard(0, 1 << 20).unwrap();
    disk.flush().unwrap();
    let after = crate::raw::info(&open_file(&path, true)).unwrap().allocated_bytes;
    assert!(after + (1 << 20) <= before, "{before} then {after}");
    assert!(read(&disk, 0, 1 << 20, &[]).unwrap().iter().all(|byte| *byte == 0));
}

/// More blocks than one page of the map names.
#[test]
fn a_large_disk() {
    let (_directory, path) = new_path();
    let size = 5 << 40;
    let disk = VdiDisk::open(create(&path, size, VdiKind::Dynamic).unwrap(), false).unwrap();
    let places = [0, 1 << 30, (1 << 40) + 512, size - 512];
    for at in places {
        write(&disk, at, &[(at >> 30) as u8 | 1; 512], &[], false).unwrap();
    }
    drop(disk);
    let disk = VdiDisk::open(open_file(&path, false), false).unwrap();
    for at in places {
        assert_eq!(read(&disk, at, 512, &[]).unwrap(), [(at >> 30) as u8 | 1; 512]);
    }
    drop(disk);
    qemu_img("vdi large", &["check", "-f", "vdi", path.to_str().unwrap()]);
}

#[test]
fn an_image_in_use_is_refused() {
    let (_directory, path) = new_path();
    let disk = VdiDisk::open(create(&path, SIZE, VdiKind::Dynamic).unwrap(), false).unwrap();
    assert_eq!(VdiDisk::open(open_file(&path, true), true).unwrap_err().kind(), BlockErrorKind::InUse);
    drop(disk);
    assert_eq!(VdiDisk::open(open_file(&path, true), false).unwrap_err().kind(), BlockErrorKind::ReadOnly);
}
