//! VHDX images: headers, region tables, log, metadata and BAT. Checksums are made right again, so that what they guard
//! is read.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::LazyLock;

use benchtop_images::Format;

use super::image::{Seed, Sparse, Target};

const KIB: usize = 1 << 10;
/// Where the headers and the region tables are, and how long they are, in bytes ([MS-VHDX] 2.2).
const SUMMED: [(&[u8], usize, usize); 4] = [
    (b"head", 64 * KIB, 4 * KIB),
    (b"head", 128 * KIB, 4 * KIB),
    (b"regi", 192 * KIB, 64 * KIB),
    (b"regi", 256 * KIB, 64 * KIB),
];
/// A sector of the log, in bytes.
const LOG_SECTOR: usize = 4 * KIB;
/// How much of a log is made right, in bytes.
const LOG_BYTES: usize = 64 * KIB;

static TARGET: LazyLock<Target> = LazyLock::new(|| {
    let mut target = Target::of(Format::Vhdx, 4 << 20, 1 << 20, fix);
    let logs: Vec<Seed> = target.seeds[..2].iter().map(|seed| with_log(seed).fix(fix)).collect();
    target.seeds.extend(logs);
    target
});

fn number(bytes: &[u8], at: usize) -> usize {
    bytes[at..].iter().take(8).rev().fold(0, |number, byte| number << 8 | usize::from(*byte))
}

fn put(bytes: &mut [u8], at: usize, what: &[u8]) {
    bytes[at..at + what.len()].copy_from_slice(what);
}

/// The same image with two entries in its log: data for a block of the disk, and zeroes.
fn with_log(seed: &Seed) -> Seed {
    let mut seed = seed.clone();
    let mut bytes = seed.files[0].1.bytes();
    for header in [64 * KIB, 128 * KIB] {
        put(&mut bytes, header + 48, &[7; 16]);
    }
    let (log, end) = (number(&bytes, 64 * KIB + 72), bytes.len() as u64);
    for sequence in 1..=2u64 {
        let entry = log + (sequence as usize - 1) * 2 * LOG_SECTOR;
        put(&mut bytes, entry, b"loge");
        put(&mut bytes, entry + 8, &(2 * LOG_SECTOR as u32).to_le_bytes());
        put(&mut bytes, entry + 16, &sequence.to_le_bytes());
        put(&mut bytes, entry + 24, &2u32.to_le_bytes());
        put(&mut bytes, entry + 32, &[7; 16]);
        put(&mut bytes, entry + 48, &end.to_le_bytes());
        put(&mut bytes, entry + 56, &end.to_le_bytes());
        let (data, zero) = (entry + 64, entry + 96);
        put(&mut bytes, data, b"desc");
        put(&mut bytes, zero, b"zero");
        put(&mut bytes, zero + 8, &(LOG_SECTOR as u64).to_le_bytes());
        for descriptor in [data, zero] {
            let place = end - LOG_SECTOR as u64 * (sequence + if descriptor == zero { 4 } else { 0 });
            put(&mut bytes, descriptor + 16, &place.to_le_bytes());
            put(&mut bytes, descriptor + 24, &sequence.to_le_bytes());
        }
        let sector = entry + LOG_SECTOR;
        put(&mut bytes, sector, b"data");
        put(&mut bytes, sector + 4, &((sequence >> 32) as u32).to_le_bytes());
        put(&mut bytes, sector + LOG_SECTOR - 4, &(sequence as u32).to_le_bytes());
    }
    seed.files[0].1 = Sparse::of(&bytes);
    seed
}

fn fix(file: &File) -> io::Result<()> {
    for (signature, at, len) in SUMMED {
        let mut bytes = vec![0; len];
        let got = file.read_at(&mut bytes, at as u64)?;
        if got == len && bytes.starts_with(signature) {
            fix_one(file, at as u64, &mut bytes)?;
        }
    }
    let mut header = [0; 80];
    file.read_at(&mut header, 64 << 10)?;
    let log = number(&header, 72) as u64;
    let mut bytes = vec![0; LOG_BYTES];
    let got = file.read_at(&mut bytes, log)?;
    for at in (0..got).step_by(LOG_SECTOR) {
        let Some(rest) = bytes.get_mut(at..got).filter(|rest| rest.starts_with(b"loge")) else { continue };
        let len = u32::from_le_bytes([rest[8], rest[9], rest[10], rest[11]]) as usize;
        if let Some(entry) = rest.get_mut(..len).filter(|entry| entry.len() >= 8) {
            fix_one(file, log + at as u64, entry)?;
        }
    }
    Ok(())
}

/// Writes the CRC-32C of a structure whose own checksum is at byte 4.
fn fix_one(file: &File, at: u64, bytes: &mut [u8]) -> io::Result<()> {
    bytes[4..8].fill(0);
    file.write_all_at(&crc32c::crc32c(bytes).to_le_bytes(), at + 4)
}

/// Runs one input; see `image.rs` for what it says.
pub fn run(data: &[u8]) {
    TARGET.run(data);
}

#[cfg(test)]
mod tests {
    #[test]
    fn changed_vhdx_images_do_no_harm() {
        super::super::smoke(super::run);
    }
    #[test]
    fn every_seed_is_sound() {
        // The last two have a log, over which a reader sees the image.
        for (number, seed) in super::TARGET.seeds.iter().enumerate() {
            seed.expect_sound(&format!("seed {number}"));
        }
    }
}
