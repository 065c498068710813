use std::path::PathBuf;

use benchtop_block::BlockErrorKind;
use benchtop_block::DiskBackend;
use benchtop_block::conformance::{self, read, write};

use super::*;
use crate::mapped::crash;
use crate::mapped::testing::{content, fill, flip_bits, open_file, put_at, qemu_compare, qemu_img, sample_raw};

const SIZE: u64 = (9 << 20) + 512 * 7;

fn boxed(file: File, read_only: bool) -> Result<Box<dyn DiskBackend>, BlockError> {
    VhdDisk::open(file, read_only).map(|disk| Box::new(disk) as Box<dyn DiskBackend>)
}

fn new_path() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("disk.vhd");
    (directory, path)
}

#[test]
fn conforms() {
    for kind in [VhdKind::Dynamic, VhdKind::Fixed] {
        conformance::run(|| {
            let (_directory, path) = new_path();
            VhdDisk::open(create(&path, SIZE, kind).unwrap(), false).unwrap()
        });
    }
}

#[test]
fn survives_power_cuts() {
    let (_directory, path) = new_path();
    create(&path, SIZE, VhdKind::Dynamic).unwrap();
    crash::check(&std::fs::read(&path).unwrap(), 2 << 20, |file| boxed(file, false));
}

#[test]
fn qemu_reads_what_we_write() {
    let (directory, path) = new_path();
    let raw = directory.path().join("disk.raw");
    let bytes = sample_raw(&raw, SIZE);
    for kind in [VhdKind::Dynamic, VhdKind::Fixed] {
        let path = path.with_extension(format!("{kind:?}"));
        let disk = VhdDisk::open(create(&path, SIZE, kind).unwrap(), false).unwrap();
        fill(&disk, &bytes);
        assert!(content(&disk) == bytes);
        drop(disk);
        qemu_compare("vhd", "vpc", &path, &raw);
    }
}

#[test]
fn we_read_what_qemu_writes() {
    let (directory, path) = new_path();
    let raw = directory.path().join("disk.raw");
    let bytes = sample_raw(&raw, SIZE);
    for kind in ["dynamic", "fixed"] {
        let names = (raw.to_str().unwrap(), path.to_str().unwrap());
        let options = format!("subformat={kind},force_size=on");
        if qemu_img("vhd", &["convert", "-f", "raw", "-O", "vpc", "-o", &options, names.0, names.1]).is_none() {
            return;
        }
        conformance::read_only(&VhdDisk::open(open_file(&path, true), true).unwrap(), &bytes);
        let disk = VhdDisk::open(open_file(&path, false), false).unwrap();
        assert!(content(&disk) == bytes);
        write(&disk, 0, &bytes[..512], &[], true).unwrap();
        write(&disk, 5 << 20, &bytes[5 << 20..(5 << 20) + 4096], &[], false).unwrap();
        drop(disk);
        qemu_compare("vhd", "vpc", &path, &raw);
        // Without force_size the disk grows to what the geometry gives, and both sizes are that.
        let options = format!("subformat={kind}");
        qemu_img("vhd", &["convert", "-f", "raw", "-O", "vpc", "-o", &options, names.0, names.1]);
        let disk = VhdDisk::open(open_file(&path, true), true).unwrap();
        let found = content(&disk);
        assert!(found.len() >= bytes.len() && found[..bytes.len()] == bytes[..]);
        assert!(found[bytes.len()..].iter().all(|byte| *byte == 0));
    }
}

#[test]
fn damage_is_an_error() {
    for kind in [VhdKind::Dynamic, VhdKind::Fixed] {
        let (_directory, path) = new_path();
        let disk = VhdDisk::open(create(&path, 4 << 20, kind).unwrap(), false).unwrap();
        write(&disk, 2 << 20, &[1; 4096], &[], true).unwrap();
        drop(disk);
        let len = std::fs::metadata(&path).unwrap().len();
        // Footer copy, header, table, bitmap; footer.
        flip_bits(&path, &[0..2560, len - 512..len], boxed);
    }
}

/// A crash while the file grew leaves no footer; the copy at the start says the same, and the next write puts the
/// footer back.
#[test]
fn a_lost_footer_is_put_back() {
    let (_directory, path) = new_path();
    let disk = VhdDisk::open(create(&path, SIZE, VhdKind::Dynamic).unwrap(), false).unwrap();
    write(&disk, 0, &[1; 512], &[], true).unwrap();
    drop(disk);
    let file = open_file(&path, false);
    let len = file.metadata().unwrap().len();
    put_at(&file, len - 512, &[0; 512]);
    let disk = VhdDisk::open(file, false).unwrap();
    write(&disk, 0, &[2; 512], &[], true).unwrap();
    drop(disk);
    let file = open_file(&path, false);
    put_at(&file, 0, &[0; 512]);
    let disk = VhdDisk::open(file, false).unwrap();
    assert_eq!(read(&disk, 0, 512, &[]).unwrap(), [2; 512]);
}

/// Writers that mark sectors one by one are followed.
#[test]
fn a_bitmap_with_gaps_gets_the_bits_of_what_is_written() {
    let (_directory, path) = new_path();
    let disk = VhdDisk::open(create(&path, SIZE, VhdKind::Dynamic).unwrap(), false).unwrap();
    write(&disk, 0, &[1; 512], &[], true).unwrap();
    drop(disk);
    let file = open_file(&path, false);
    // Footer copy, header and one sector of table come first.
    put_at(&file, 2048, &[0x80; 1]);
    put_at(&file, 2049, &[0; 511]);
    let disk = VhdDisk::open(file, false).unwrap();
    write(&disk, 2 * 512, &[2; 7 * 512], &[], true).unwrap();
    drop(disk);
    assert_eq!(std::fs::read(&path).unwrap()[2048..2051], [0xbf, 0x80, 0]);
}

/// Says that the image is `size_bytes` long, in both footers.
fn say_size(path: &Path, size_bytes: u64) {
    let image = ImageFile::open(open_file(path, true), true).unwrap();
    let (footer, at) = find_footer(&image).unwrap();
    let bytes = footer.resized(size_bytes).bytes;
    drop(image);
    let file = open_file(path, false);
    put_at(&file, 0, &bytes);
    put_at(&file, at, &bytes);
}

/// A table longer than the disk: what stood in the rest of it became a part of the disk when that grew.
#[test]
fn what_the_table_says_behind_the_end_is_forgotten_when_the_disk_grows() {
    let (_directory, path) = new_path();
    let disk = VhdDisk::open(create(&path, 8 << 20, VhdKind::Dynamic).unwrap(), false).unwrap();
    write(&disk, 6 << 20, &[1; 512], &[], true).unwrap();
    drop(disk);
    say_size(&path, 4 << 20);
    grow(&ImageFile::open(open_file(&path, false), false).unwrap(), 8 << 20).unwrap();
    let disk = VhdDisk::open(open_file(&path, true), true).unwrap();
    assert!(content(&disk) == vec![0; 8 << 20]);
}

/// A block said to be where the header or the footer is, or so near to another that it begins within its data or its
/// bitmap lies in it.
#[test]
fn blocks_do_not_lie_on_headers_nor_in_each_other() {
    let (_directory, path) = new_path();
    let disk = VhdDisk::open(create(&path, SIZE, VhdKind::Dynamic).unwrap(), false).unwrap();
    for at in [0, 2 << 20] {
        write(&disk, at, &[1; 512], &[], true).unwrap();
    }
    drop(disk);
    let bytes = std::fs::read(&path).unwrap();
    let sector = |entry: usize| u32::from_be_bytes(bytes[1536 + entry * 4..1540 + entry * 4].try_into().unwrap());
    let footer = (bytes.len() as u64 / 512 - 1) as u32;
    for place in [0, 1, 2, 3, footer - 4096, sector(0) + 4096] {
        put_at(&open_file(&path, false), 1540, &place.to_be_bytes());
        let report = VhdDisk::open(open_file(&path, true), true).unwrap().check().unwrap();
        assert_eq!(report.damages, 1, "sector {place}: {report:?}");
    }
    put_at(&open_file(&path, false), 1540, &(footer - 4096).to_be_bytes());
    let error = VhdDisk::open(open_file(&path, false), false).unwrap_err();
    assert_eq!(error.kind(), BlockErrorKind::Corrupt, "{error}");
}

#[test]
fn what_is_not_built_is_named() {
    let (_directory, path) = new_path();
    let file = create(&path, SIZE, VhdKind::Fixed).unwrap();
    let mut bytes = Footer::new(Kind::Fixed, SIZE).bytes;
    bytes[63] = 4;
    let sum = footer::checksum(&bytes, 64);
    bytes[64..68].copy_from_slice(&sum.to_be_bytes());
    put_at(&file, SIZE, &bytes);
    let error = VhdDisk::open(file, false).unwrap_err();
    assert_eq!(error.kind(), BlockErrorKind::Unsupported);
    assert!(error.to_string().contains("differencing"), "{error}");
}
