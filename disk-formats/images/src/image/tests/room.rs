//! Who has which part of a file: blocks that lie on tables or on each other, files that end too early or too late.

use super::*;
use crate::mapped::testing::put_at;

const MIB: u64 = 1 << 20;
const SECTOR: usize = 512;
/// Where the header of a sparse VMDK says in which sectors the copy of the directory and the directory are.
const COPY: u64 = 48;
const DIRECTORY: u64 = 56;

fn corrupt_to_write(path: &Path, format: Format, what: &str) {
    let error = open_all(path, format, false).err().unwrap_or_else(|| panic!("{what}: it opens"));
    assert!(matches!(&error, OpenError::Block(error) if error.kind() == BlockErrorKind::Corrupt), "{what}: {error}");
    assert!(error.to_string().contains("read-only") || error.to_string().contains("own data"), "{what}: {error}");
}

fn le32(bytes: &[u8], at: u64) -> u64 {
    u64::from(u32::from_le_bytes(bytes[at as usize..at as usize + 4].try_into().unwrap()))
}

fn put32(file: &File, at: u64, number: u64) {
    put_at(file, at, &(number as u32).to_le_bytes());
}

/// A VMDK with grains 0 and 5 stored. The image, its table and the table's copy.
fn vmdk(folder: &Folder, size: u64) -> (PathBuf, u64, u64) {
    let path = folder.path("disk.vmdk");
    drop(create(&path, &CreateOptions::new(Format::Vmdk, size)).unwrap());
    let disk = open_all(&path, Format::Vmdk, false).unwrap();
    for at in [0, 5 << 16] {
        write(&*disk, at, &[7; 4096], &[], false).unwrap();
    }
    drop(disk);
    let bytes = std::fs::read(&path).unwrap();
    let tables = [DIRECTORY, COPY].map(|directory| le32(&bytes, le32(&bytes, directory) * 512) * 512);
    assert_eq!(check_all(&path, Format::Vmdk), CheckReport::default());
    (path, tables[0], tables[1])
}

/// A check of a VMDK passed though a grain lay over the header, the descriptor, a directory or a table, or two were in
/// one place; a guest's write would have destroyed the image.
#[test]
fn vmdk_grains_do_not_lie_on_tables_nor_on_each_other() {
    let folder = Folder::new();
    let (path, table, copy) = vmdk(&folder, MIB);
    let bytes = std::fs::read(&path).unwrap();
    let directories = [COPY, DIRECTORY].map(|at| le32(&bytes, at));
    let own = [1, 20, directories[0], directories[1], table / 512, table / 512 + 3, copy / 512];
    for sector in own {
        let file = open_file(&path, false);
        put32(&file, table + 4 * 5, sector);
        drop(file);
        let report = check_all(&path, Format::Vmdk);
        assert_eq!(report.damages, 1, "sector {sector}: {report:?}");
        assert!(report.findings[0].contains("own data"), "{report:?}");
        corrupt_to_write(&path, Format::Vmdk, &format!("sector {sector}"));
        // The rest of it can be read.
        let disk = open_all(&path, Format::Vmdk, true).unwrap();
        assert_eq!(read(&*disk, 0, 4096, &[]).unwrap(), [7; 4096]);
        read(&*disk, 5 << 16, 512, &[]).unwrap_err();
    }
    // Exactly there, and askew.
    let first = le32(&bytes, table);
    for sector in [first, first + 1, first + 127, first - 1] {
        put32(&open_file(&path, false), table + 4 * 5, sector);
        let report = check_all(&path, Format::Vmdk);
        assert!(report.damages == 1 && report.findings[0].contains("share room"), "sector {sector}: {report:?}");
        let repaired = patiently(|| Ok(repair(open_file(&path, false), Format::Vmdk)?)).unwrap();
        assert_eq!(repaired, report, "a repair tells of what it can not repair");
    }
    put32(&open_file(&path, false), table + 4 * 5, first);
    corrupt_to_write(&path, Format::Vmdk, "two grains in one place");
}

/// Two entries of a directory led to one table, which nobody saw while it was empty; and tables lay on other things.
#[test]
fn vmdk_tables_have_room_of_their_own() {
    let folder = Folder::new();
    // Of two tables.
    let (path, table, copy) = vmdk(&folder, 40 * MIB);
    let bytes = std::fs::read(&path).unwrap();
    let (directory, copy_directory) = (le32(&bytes, DIRECTORY) * 512, le32(&bytes, COPY) * 512);
    for (at, sector) in [
        (directory + 4, table / 512),
        (directory + 4, copy / 512),
        (directory + 4, table / 512 - 3),
        (directory + 4, 2),
        (copy_directory + 4, directory / 512),
        (copy_directory + 4, table / 512),
    ] {
        let file = open_file(&path, false);
        put32(&file, at, sector);
        drop(file);
        let report = check_all(&path, Format::Vmdk);
        assert!(report.damages > 0, "{sector} at {at:#x}");
        let finds = |finding: &String| finding.contains("share room") || finding.contains("own data");
        assert!(report.findings.iter().all(finds), "{report:?}");
        corrupt_to_write(&path, Format::Vmdk, "a table on something else");
        put_at(&open_file(&path, false), at, &bytes[at as usize..at as usize + 4]);
    }
    // A copy of the directory that is not in the file: a reader does without it.
    put32(&open_file(&path, false), COPY, 1 << 30);
    assert_eq!(check_all(&path, Format::Vmdk).damages, 1);
    assert_eq!(read(&*open_all(&path, Format::Vmdk, true).unwrap(), 0, 4096, &[]).unwrap(), [7; 4096]);
    open_all(&path, Format::Vmdk, false).err().unwrap();
}

/// Grains of a compressed image that lie in each other, which only their lengths tell.
#[test]
fn packed_grains_are_measured() {
    let folder = Folder::new();
    let path = folder.path("disk.vmdk");
    let content = benchtop_block::MemoryDisk::new(2 << 16);
    write(&content, 0, &Sequence::new(1).bytes(2 << 16), &[], false).unwrap();
    let mut bytes = Vec::new();
    crate::vmdk::export_stream_optimized(&content, "disk.vmdk", &mut bytes, &mut drop).unwrap();
    std::fs::write(&path, &bytes).unwrap();
    assert_eq!(check_all(&path, Format::Vmdk), CheckReport::default());
    // The second grain begins within the first, with a marker of its own.
    let footer = bytes.len() - 2 * SECTOR;
    let table = le32(&bytes, le32(&bytes, footer as u64 + DIRECTORY) * 512) * 512;
    let inside = le32(&bytes, table) + 10;
    let at = inside as usize * SECTOR;
    bytes[at..at + 12].copy_from_slice(&[&128u64.to_le_bytes()[..], &[100, 0, 0, 0]].concat());
    bytes[table as usize + 4..table as usize + 8].copy_from_slice(&(inside as u32).to_le_bytes());
    std::fs::write(&path, &bytes).unwrap();
    let report = check_all(&path, Format::Vmdk);
    assert!(report.damages == 1 && report.findings[0].contains("share room"), "{report:?}");
}

const MAPPED: [Format; 4] = [Format::Vmdk, Format::Vdi, Format::Vhd, Format::Vhdx];

/// Blocks of 8 MiB are the largest of these formats as we make them.
const STRIDE: u64 = 8 * MIB;

/// A copy of an image that ended too early was written to: the next block went where one was said to be that the copy
/// lacks, and later writes to either changed both.
#[test]
fn a_file_that_was_cut_short_is_not_written() {
    for format in MAPPED {
        let folder = Folder::new();
        let path = folder.path("disk");
        drop(create(&path, &CreateOptions::new(format, 4 * STRIDE)).unwrap());
        let disk = open_all(&path, format, false).unwrap();
        for block in 0..3 {
            write(&*disk, block * STRIDE, &[block as u8 + 1; 4096], &[], false).unwrap();
        }
        drop(disk);
        let len = std::fs::metadata(&path).unwrap().len();
        open_file(&path, false).set_len(len - 40_000).unwrap();
        let before = std::fs::read(&path).unwrap();
        corrupt_to_write(&path, format, format.name());
        let report = check_all(&path, format);
        assert!(report.damages == 1 && report.findings[0].contains("behind the end"), "{format}: {report:?}");
        resized(&path, format, 5 * STRIDE, Shrink::Refused).unwrap_err();
        if format == Format::Vhd {
            // The footer went with the end, and must not be put into the block.
            patiently(|| Ok(repair(open_file(&path, false), format)?)).unwrap_err();
        }
        assert!(std::fs::read(&path).unwrap() == before, "{format}: it was changed");
        let disk = open_all(&path, format, true).unwrap();
        for block in 0..2 {
            assert_eq!(read(&*disk, block * STRIDE, 4096, &[]).unwrap(), [block as u8 + 1; 4096], "{format}");
        }
    }
}

/// What a crash or another program left behind the last block shows nowhere, and nothing is lost by it.
#[test]
fn stale_bytes_behind_the_end_show_nowhere() {
    for format in MAPPED {
        for more in [512, 4096 + 512, MIB, 17 * MIB + 512] {
            let folder = Folder::new();
            let path = folder.path("disk");
            drop(create(&path, &CreateOptions::new(format, 4 * STRIDE)).unwrap());
            let disk = open_all(&path, format, false).unwrap();
            write(&*disk, 0, &[1; 4096], &[], false).unwrap();
            drop(disk);
            let mut bytes = std::fs::read(&path).unwrap();
            bytes.resize(bytes.len() + more as usize, 0xaa);
            std::fs::write(&path, &bytes).unwrap();
            let mut model = vec![0; 4 * STRIDE as usize];
            model[..4096].fill(1);
            let disk = open_all(&path, format, false).unwrap();
            for block in [2, 1, 3] {
                let at = (block * STRIDE + 5 * 512) as usize;
                write(&*disk, at as u64, &[9; 1024], &[], false).unwrap();
                model[at..at + 1024].fill(9);
            }
            assert!(content(&*disk) == model, "{format} with {more} bytes more");
            drop(disk);
            assert!(content(&*open_all(&path, format, true).unwrap()) == model, "{format} with {more} bytes more");
            assert_eq!(check_all(&path, format), CheckReport::default(), "{format} with {more} bytes more");
        }
    }
}

/// The disk's last block may be stored as far as the disk goes. The next one was put directly behind, or between, and
/// was overwritten with zeroes when the disk grew.
#[test]
fn the_room_of_a_last_block_that_is_stored_in_part_stays_free() {
    for format in [Format::Vmdk, Format::Vdi, Format::Vhdx] {
        let folder = Folder::new();
        let path = folder.path("disk");
        let size = STRIDE + 1024;
        drop(create(&path, &CreateOptions::new(format, size)).unwrap());
        let disk = open_all(&path, format, false).unwrap();
        write(&*disk, STRIDE, &[5; 1024], &[], false).unwrap();
        drop(disk);
        let mut bytes = std::fs::read(&path).unwrap();
        let block = match format {
            Format::Vmdk => 64 << 10,
            Format::Vdi => MIB,
            _ => STRIDE,
        };
        let mut start = bytes.len() - block as usize;
        bytes.truncate(start + 1024);
        if format == Format::Vmdk {
            // Askew: two sectors before it would end a grain.
            let tables = [DIRECTORY, COPY].map(|directory| le32(&bytes, le32(&bytes, directory) * 512) * 512);
            bytes.splice(start..start, vec![0; 60 << 10]);
            start += 60 << 10;
            for table in tables {
                let entry = (table + 4 * (STRIDE >> 16)) as usize;
                bytes[entry..entry + 4].copy_from_slice(&((start / SECTOR) as u32).to_le_bytes());
            }
        }
        if format == Format::Vhdx {
            bytes.resize((start + 1024).next_multiple_of(MIB as usize), 0xaa);
        }
        std::fs::write(&path, &bytes).unwrap();
        assert_eq!(check_all(&path, format), CheckReport::default(), "{format}");
        let disk = open_all(&path, format, false).unwrap();
        write(&*disk, 0, &vec![6; block as usize], &[], false).unwrap();
        drop(disk);
        assert_eq!(check_all(&path, format), CheckReport::default(), "{format}");
        resized(&path, format, 2 * STRIDE, Shrink::Refused).unwrap_or_else(|error| panic!("{format}: {error}"));
        let mut model = vec![0; 2 * STRIDE as usize];
        model[..block as usize].fill(6);
        model[STRIDE as usize..size as usize].fill(5);
        let disk = open_all(&path, format, false).unwrap();
        assert!(content(&*disk) == model, "{format}");
        write(&*disk, size, &[8; 30 << 10], &[], false).unwrap();
        model[size as usize..size as usize + (30 << 10)].fill(8);
        assert!(content(&*disk) == model, "{format}");
        drop(disk);
        assert_eq!(check_all(&path, format), CheckReport::default(), "{format}");
    }
}

/// Tables are longer than the disk; what stood in the rest of one became a part of the disk when it grew.
#[test]
fn what_a_table_says_behind_the_end_is_forgotten_when_the_disk_grows() {
    let folder = Folder::new();
    let (path, table, copy) = vmdk(&folder, MIB);
    let first = le32(&std::fs::read(&path).unwrap(), table);
    for table in [table, copy] {
        put32(&open_file(&path, false), table + 4 * 16, first);
    }
    let path_vdi = folder.path("disk.vdi");
    let fixed = CreateOptions { variant: Variant::Fixed, ..CreateOptions::new(Format::Vdi, 2 * MIB) };
    drop(create(&path_vdi, &fixed).unwrap());
    let disk = open_all(&path_vdi, Format::Vdi, false).unwrap();
    write(&*disk, 0, &vec![7; 2 * MIB as usize], &[], false).unwrap();
    drop(disk);
    put_at(&open_file(&path_vdi, false), 0x170, &MIB.to_le_bytes());
    for (path, format) in [(path, Format::Vmdk), (path_vdi, Format::Vdi)] {
        resized(&path, format, 3 * MIB, Shrink::Refused).unwrap();
        let disk = open_all(&path, format, true).unwrap();
        assert!(content(&*disk)[MIB as usize..].iter().all(|byte| *byte == 0), "{format}");
        assert_eq!(read(&*disk, 0, 4096, &[]).unwrap(), [7; 4096], "{format}");
        drop(disk);
        assert_eq!(check_all(&path, format), CheckReport::default(), "{format}");
    }
}
