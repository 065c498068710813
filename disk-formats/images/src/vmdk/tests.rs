use std::path::{Path, PathBuf};

use benchtop_block::conformance::{self, read, write};
use benchtop_block::{BlockErrorKind, DiskBackend};

use super::*;
use crate::RawDisk;
use crate::file::recording;
use crate::mapped::crash;
use crate::mapped::testing::{content, fill, flip_bits, open_file, qemu_compare, qemu_img, sample_raw};

const SIZE: u64 = (5 << 20) + 512 * 7;

/// For images that name no other files.
fn alone(name: &str) -> Result<File, BlockError> {
    panic!("{name} must not be opened")
}

fn open(path: &Path, read_only: bool) -> Result<VmdkDisk, BlockError> {
    let folder = path.parent().unwrap().to_owned();
    VmdkDisk::open(open_file(path, read_only), read_only, &mut |name| Ok(open_file(&folder.join(name), read_only)))
}

fn boxed(file: File, read_only: bool) -> Result<Box<dyn DiskBackend>, BlockError> {
    VmdkDisk::open(file, read_only, &mut |_name| Err(unsupported("no other files in this test")))
        .map(|disk| Box::new(disk) as Box<dyn DiskBackend>)
}

fn new_path() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("disk.vmdk");
    (directory, path)
}

#[test]
fn conforms() {
    conformance::run(|| {
        let (_directory, path) = new_path();
        VmdkDisk::open(create(&path, SIZE, VmdkKind::MonolithicSparse).unwrap(), false, &mut alone).unwrap()
    });
}

#[test]
fn images_of_several_files_conform() {
    for kind in [VmdkKind::MonolithicFlat, VmdkKind::SplitSparse, VmdkKind::SplitFlat] {
        let directories = std::cell::RefCell::new(Vec::new());
        conformance::run(|| {
            let (directory, path) = new_path();
            drop(create(&path, SIZE, kind).unwrap());
            directories.borrow_mut().push(directory);
            open(&path, false).unwrap()
        });
    }
}

#[test]
fn survives_power_cuts() {
    let (_directory, path) = new_path();
    create(&path, SIZE, VmdkKind::MonolithicSparse).unwrap();
    crash::check(&std::fs::read(&path).unwrap(), 64 << 10, |file| boxed(file, false));
}

#[test]
fn qemu_reads_what_we_write() {
    let (directory, path) = new_path();
    let raw = directory.path().join("disk.raw");
    // Of three grain tables.
    let size = SIZE + (64 << 20);
    let bytes = sample_raw(&raw, size);
    let disk = VmdkDisk::open(create(&path, size, VmdkKind::MonolithicSparse).unwrap(), false, &mut alone).unwrap();
    fill(&disk, &bytes);
    assert!(content(&disk) == bytes);
    drop(disk);
    assert_eq!(std::fs::read(&path).unwrap()[72], 0, "closed cleanly");
    if qemu_img("vmdk", &["check", "-f", "vmdk", path.to_str().unwrap()]).is_some() {
        qemu_compare("vmdk", "vmdk", &path, &raw);
    }
}

#[test]
fn an_export_is_read_by_us_and_by_qemu() {
    let (directory, path) = new_path();
    let raw = directory.path().join("disk.raw");
    for size in [SIZE, (70 << 20) + 512, 64 << 10] {
        let bytes = sample_raw(&raw, size);
        let mut out = Vec::new();
        let mut told = Vec::new();
        let source = RawDisk::open(open_file(&raw, true), true).unwrap();
        export_stream_optimized(&source, "disk.vmdk", &mut out, &mut |done| told.push(done)).unwrap();
        assert_eq!(told.last(), Some(&size));
        std::fs::write(&path, &out).unwrap();
        let disk = open(&path, true).unwrap();
        conformance::read_only(&disk, &bytes);
        assert!(content(&disk) == bytes);
        drop((disk, source));
        let error = open(&path, false).unwrap_err();
        assert_eq!(error.kind(), BlockErrorKind::Unsupported, "{error}");
        if qemu_img("vmdk export", &["check", "-f", "vmdk", path.to_str().unwrap()]).is_some() {
            qemu_compare("vmdk export", "vmdk", &path, &raw);
        }
    }
}

#[test]
fn we_read_and_write_what_qemu_writes() {
    let directory = tempfile::tempdir().unwrap();
    let raw = directory.path().join("disk.raw");
    let bytes = sample_raw(&raw, SIZE);
    for (kind, files) in [
        ("monolithicSparse", 0),
        ("streamOptimized", 0),
        ("monolithicFlat", 1),
        ("twoGbMaxExtentSparse", 1),
        ("twoGbMaxExtentFlat", 1),
    ] {
        let path = directory.path().join(format!("{kind}.vmdk"));
        let names = (raw.to_str().unwrap(), path.to_str().unwrap());
        let options = format!("subformat={kind}");
        if qemu_img("vmdk", &["convert", "-f", "raw", "-O", "vmdk", "-o", &options, names.0, names.1]).is_none() {
            return;
        }
        assert_eq!(extent_names(&open_file(&path, true)).unwrap().len(), files, "{kind}");
        conformance::read_only(&open(&path, true).unwrap(), &bytes);
        if kind == "streamOptimized" {
            continue;
        }
        let disk = open(&path, false).unwrap();
        assert!(content(&disk) == bytes, "{kind}");
        write(&disk, 0, &bytes[..512], &[], true).unwrap();
        write(&disk, 3 << 20, &bytes[3 << 20..(3 << 20) + 4096], &[], false).unwrap();
        drop(disk);
        if !kind.ends_with("Flat") {
            qemu_img("vmdk", &["check", "-f", "vmdk", names.1]);
        }
        qemu_compare("vmdk", "vmdk", &path, &raw);
    }
}

/// More grain tables than are kept in memory, and more of them changed than may wait for a flush.
#[test]
fn more_tables_than_the_cache_holds() {
    const TABLES: u64 = 2500;
    let (_directory, path) = new_path();
    let disk =
        VmdkDisk::open(create(&path, TABLES << 25, VmdkKind::MonolithicSparse).unwrap(), false, &mut alone).unwrap();
    for table in 0..TABLES {
        write(&disk, table << 25, &[table as u8 | 1; 512], &[], false).unwrap();
    }
    // Without a flush, those that had to make room for others are in the file by now.
    let file = open_file(&path, true);
    let mut start = vec![0; (26 + 2 * TABLES * 2048 / 512 * 512) as usize];
    std::io::Read::read_exact(&mut &file, &mut start).unwrap();
    let directory = u64::from_le_bytes(start[56..64].try_into().unwrap()) as usize * 512;
    let first = u32::from_le_bytes(start[directory..directory + 4].try_into().unwrap()) as usize * 512;
    assert_ne!(start[first..first + 4], [0; 4]);
    for _ in 0..2 {
        for table in 0..TABLES {
            assert_eq!(read(&disk, table << 25, 512, &[]).unwrap(), [table as u8 | 1; 512]);
        }
    }
    drop((disk, file));
    let disk = open(&path, true).unwrap();
    for table in 0..TABLES {
        assert_eq!(read(&disk, table << 25, 512, &[]).unwrap(), [table as u8 | 1; 512]);
    }
    drop(disk);
    qemu_img("vmdk large", &["check", "-f", "vmdk", path.to_str().unwrap()]);
}

/// A disk of four extents: sparse, flat with a start, sparse, flat.
fn split(folder: &Path) -> PathBuf {
    let path = folder.join("split.vmdk");
    let mut text =
        String::from("# Disk DescriptorFile\nversion=1\nCID=00000001\nparentCID=ffffffff\ncreateType=\"custom\"\n");
    for (index, sectors) in [40u64, 17, 300, 33].into_iter().enumerate() {
        let name = format!("split-{index}.vmdk");
        if index % 2 == 0 {
            create(&folder.join(&name), sectors * 512, VmdkKind::MonolithicSparse).unwrap();
            text += &format!("RW {sectors} SPARSE \"{name}\"\n");
        } else {
            File::create(folder.join(&name)).unwrap().set_len((sectors + 5) * 512).unwrap();
            text += &format!("RW {sectors} FLAT \"{name}\" 5\n");
        }
    }
    std::fs::write(&path, text).unwrap();
    path
}

#[test]
fn extents_one_after_the_other_conform() {
    let mut folders = Vec::new();
    let folders = std::cell::RefCell::new(&mut folders);
    conformance::run(|| {
        let folder = tempfile::tempdir().unwrap();
        let disk = open(&split(folder.path()), false).unwrap();
        assert_eq!(disk.info().size_bytes, 390 * 512);
        folders.borrow_mut().push(folder);
        disk
    });
}

#[test]
fn a_failed_sync_of_one_extent_poisons_all() {
    let folder = tempfile::tempdir().unwrap();
    let path = split(folder.path());
    let disk = open(&path, false).unwrap();
    write(&disk, 0, &[1; 512], &[], false).unwrap();
    recording::fail_syncs_after(2, 1);
    disk.flush().unwrap_err();
    assert_eq!(write(&disk, 389 * 512, &[2; 512], &[], false).unwrap_err().kind(), BlockErrorKind::Poisoned);
    disk.reopen().unwrap();
    write(&disk, 389 * 512, &[2; 512], &[], true).unwrap();
    drop(disk);
    let disk = open(&path, true).unwrap();
    assert_eq!(read(&disk, 0, 512, &[]).unwrap(), [1; 512]);
    assert!(!std::fs::read_to_string(&path).unwrap().contains("CID=00000001"), "the content has a new identity");
}

#[test]
fn extents_are_asked_for_and_may_be_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = split(folder.path());
    assert_eq!(
        extent_names(&open_file(&path, true)).unwrap(),
        ["split-0.vmdk", "split-1.vmdk", "split-2.vmdk", "split-3.vmdk"]
    );
    assert_eq!(boxed(open_file(&path, true), true).err().unwrap().kind(), BlockErrorKind::Unsupported);
    // A single extent is no image.
    std::fs::write(folder.path().join("bare"), {
        let mut bytes = std::fs::read(folder.path().join("split-0.vmdk")).unwrap();
        bytes[28..44].fill(0);
        bytes
    })
    .unwrap();
    let error = open(&folder.path().join("bare"), true).unwrap_err();
    assert!(error.to_string().contains("split VMDK"), "{error}");
    let text = std::fs::read_to_string(&path).unwrap();
    for (from, to) in
        [("split-1.vmdk", "../x"), ("split-1.vmdk", "split-3.vmdk"), ("RW 40", "RW 41"), ("RW 33", "RW 34")]
    {
        std::fs::write(&path, text.replace(from, to)).unwrap();
        open(&path, false).unwrap_err();
    }
}

#[test]
fn damage_is_an_error() {
    let (_directory, path) = new_path();
    let disk = VmdkDisk::open(create(&path, 1 << 20, VmdkKind::MonolithicSparse).unwrap(), false, &mut alone).unwrap();
    write(&disk, 0, &[1; 4096], &[], true).unwrap();
    drop(disk);
    // Header, descriptor, both directories; the first entries of the tables.
    flip_bits(
        &path,
        &[0..1024, 21 * 512..21 * 512 + 64, 22 * 512..22 * 512 + 64, 26 * 512..26 * 512 + 8, 27 * 512..27 * 512 + 64],
        boxed,
    );

    let raw = path.with_extension("raw");
    let bytes = sample_raw(&raw, 192 << 10);
    let source = RawDisk::open(open_file(&raw, true), true).unwrap();
    let mut out = Vec::new();
    export_stream_optimized(&source, "disk.vmdk", &mut out, &mut drop).unwrap();
    std::fs::write(&path, &out).unwrap();
    let len = out.len() as u64;
    // Header and descriptor; the first grain's marker and some of its data; tables, directory and footer.
    flip_bits(&path, &[0..700, 65536..65536 + 600, len - 9 * 512..len], boxed);
    assert_eq!(content(&open(&path, true).unwrap()), bytes);
}

/// A stream that decompresses to more than a grain costs no more than a grain.
#[test]
fn a_bomb_is_cut_at_the_grain() {
    use std::io::Write as _;
    let (_directory, path) = new_path();
    let raw = path.with_extension("raw");
    std::fs::write(&raw, vec![1; 128 << 10]).unwrap();
    let source = RawDisk::open(open_file(&raw, true), true).unwrap();
    let mut out = Vec::new();
    export_stream_optimized(&source, "disk.vmdk", &mut out, &mut drop).unwrap();
    let mut bomb = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::best());
    bomb.write_all(&vec![2; 64 << 20]).unwrap();
    let bomb = bomb.finish().unwrap();
    assert!(bomb.len() < 128 << 10, "{}", bomb.len());
    out[65536 + 8..65536 + 12].copy_from_slice(&(bomb.len() as u32).to_le_bytes());
    // Whatever follows is overwritten, but the table still leads to the first grain.
    let end = out.len();
    let tail = out.split_off(65536 + 512);
    let mut long = out;
    long.truncate(65536 + 12);
    long.extend_from_slice(&bomb);
    assert!(end > 0 && !tail.is_empty());
    std::fs::write(&path, &long).unwrap();
    let file = ImageFile::open(open_file(&path, true), true).unwrap();
    let layout = SparseLayout::for_test(&file);
    let grain = crate::mapped::Layout::unpack(&layout, &file, 0, 65536).unwrap();
    assert_eq!((grain.len(), grain[65535]), (64 << 10, 2));
}
