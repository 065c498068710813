//! What the tests of the formats share: other programs, and damaged images.

use std::fs::{File, OpenOptions};
use std::path::Path;
use std::process::Command;

use benchtop_block::conformance::{Sequence, read, write};
use benchtop_block::{BlockError, DiskBackend, ExtentKind};

use crate::file::recording::without_syncs;

/// Opens for reading and writing, or reading.
pub(crate) fn open_file(path: &Path, read_only: bool) -> File {
    OpenOptions::new().read(true).write(!read_only).open(path).unwrap()
}

/// Writes into a file behind the back of whoever opened it.
pub(crate) fn put_at(file: &File, offset_bytes: u64, bytes: &[u8]) {
    let mut bytes = bytes.to_vec();
    let slices = [benchtop_memory::VolatileSlice::from(&mut bytes[..])];
    benchtop_block::file::write_at(file, offset_bytes, &slices, benchtop_block::file::Durability::Accepted).unwrap();
}

/// Runs a program that must succeed; its output. `None`, with a word about it, where it is not installed.
pub(crate) fn run(test: &str, program: &str, arguments: &[&str]) -> Option<String> {
    // A test beside this one that starts a program holds our files, with their locks, from its fork to its exec.
    for _ in 0..200 {
        let output = match Command::new(program).args(arguments).output() {
            Ok(output) => output,
            Err(error) => {
                println!("SKIPPED {test}: no {program}: {error}");
                return None;
            }
        };
        let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        if output.status.success() {
            return Some(text);
        }
        // And on a busy host it can not measure how fast it derives keys.
        let passes = text.contains("lock") || text.contains("accurate CPU usage");
        assert!(passes, "{program} {arguments:?}: {text}");
        std::thread::sleep(std::time::Duration::from_millis(25));
    }
    panic!("{program} {arguments:?}: the same again and again");
}

/// Runs `qemu-img`; `None`, with a word about it, where there is none.
pub(crate) fn qemu_img(test: &str, arguments: &[&str]) -> Option<()> {
    run(test, "qemu-img", arguments).map(drop)
}

/// Has `qemu-img` compare an image with a raw one, and their sizes.
pub(crate) fn qemu_compare(test: &str, format: &str, image: &Path, raw: &Path) -> Option<()> {
    let names = (image.to_str().unwrap(), raw.to_str().unwrap());
    qemu_img(test, &["compare", "-f", format, "-F", "raw", names.0, names.1])?;
    let info = run(test, "qemu-img", &["info", "--output=json", "-f", format, names.0])?;
    let size = format!("\"virtual-size\": {},", std::fs::metadata(raw).unwrap().len());
    assert!(info.contains(&size), "not {size} in {info}");
    Some(())
}

/// A raw image with data here and there, not a multiple of any block.
pub(crate) fn sample_raw(path: &Path, size_bytes: u64) -> Vec<u8> {
    let mut bytes = vec![0; size_bytes as usize];
    let mut sequence = Sequence::new(size_bytes);
    for _ in 0..12 {
        let at = sequence.below(size_bytes / 512) as usize * 512;
        let len = (512 + sequence.below(300 << 10) as usize).min(bytes.len() - at);
        let content = sequence.bytes(len);
        bytes[at..at + len].copy_from_slice(&content);
    }
    let end = bytes.len();
    bytes[end - 512..].fill(7);
    std::fs::write(path, &bytes).unwrap();
    bytes
}

/// The whole disk, skipping what it says to be zeroes.
pub(crate) fn content(disk: &dyn DiskBackend) -> Vec<u8> {
    let size = disk.info().size_bytes;
    let mut bytes = vec![0; size as usize];
    let mut at = 0;
    while at < size {
        let extent = disk.extent_at(at, size - at).unwrap();
        let end = at + extent.len_bytes;
        if extent.kind == ExtentKind::Data {
            let part = read(disk, at, extent.len_bytes as usize, &[300]).unwrap();
            bytes[at as usize..end as usize].copy_from_slice(&part);
        }
        at = end;
    }
    bytes
}

/// Writes what is not zero in pieces in a shuffled order, so that blocks are made out of order.
pub(crate) fn fill(disk: &dyn DiskBackend, bytes: &[u8]) {
    const PIECE: usize = 192 << 10;
    let mut pieces: Vec<usize> = (0..bytes.len().div_ceil(PIECE)).collect();
    let mut sequence = Sequence::new(9);
    for index in 0..pieces.len() {
        let other = sequence.below(pieces.len() as u64) as usize;
        pieces.swap(index, other);
    }
    for piece in pieces {
        let part = &bytes[piece * PIECE..bytes.len().min((piece + 1) * PIECE)];
        if part.iter().any(|byte| *byte != 0) {
            write(disk, (piece * PIECE) as u64, part, &[700], false).unwrap();
        }
    }
    disk.flush().unwrap();
}

/// Flips a bit of every byte in `ranges` of an image and lets it be read and, in a copy, written. Anything may come of
/// it but a panic, a hang or much memory.
pub(crate) fn flip_bits(
    path: &Path,
    ranges: &[std::ops::Range<u64>],
    open: impl Fn(File, bool) -> Result<Box<dyn DiskBackend>, BlockError>,
) {
    without_syncs();
    let work = path.with_extension("flip");
    std::fs::copy(path, &work).unwrap();
    let original = std::fs::read(path).unwrap();
    let file = open_file(&work, false);
    for at in ranges.iter().flat_map(Clone::clone) {
        let byte = original[at as usize];
        // All bits of the first kilobyte, one of the others.
        let bits = if at < 1024 { 0..8 } else { at % 8..at % 8 + 1 };
        for bit in bits {
            put_at(&file, at, &[byte ^ (1 << bit)]);
            if let Ok(disk) = open(open_file(&work, true), true) {
                use_disk(&*disk, false);
            }
        }
        if at < 1024 || at % 61 == 0 {
            if let Ok(disk) = open(open_file(&work, false), false) {
                use_disk(&*disk, true);
            }
            // What was written goes, whether or not the image was opened; `file` still names it.
            std::fs::copy(path, &work).unwrap();
        }
        put_at(&file, at, &[byte]);
    }
    // The original is none the worse. Some images can only be read, and some only after they were written.
    let disk = open(open_file(path, false), false).or_else(|_error| open(open_file(path, true), true));
    use_disk(&*disk.unwrap(), false);
}

fn use_disk(disk: &dyn DiskBackend, writing: bool) {
    let size = disk.info().size_bytes;
    let ends = [0, size.saturating_sub(64 << 10) / 512 * 512];
    for at in ends {
        let len = (size - at).min(64 << 10);
        let mut left = len;
        while left > 0 {
            let Ok(extent) = disk.extent_at(at + len - left, left) else { break };
            assert!((1..=left).contains(&extent.len_bytes));
            left -= extent.len_bytes;
        }
        // An error is a fine answer.
        read(disk, at, len as usize, &[]).map(drop).unwrap_or_default();
        if writing {
            write(disk, at, &[1; 512], &[], true).unwrap_or_default();
            disk.discard(at, 512).unwrap_or_default();
            disk.flush().unwrap_or_default();
        }
    }
}
