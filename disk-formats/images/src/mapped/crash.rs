//! Power cuts on paper: what a thread does to its image file is recorded, and every prefix of it, with any part of
//! what was not synced, must open and hold what flushes promised and nothing that was never written there.

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};

use benchtop_block::conformance::{Sequence, read, write};
use benchtop_block::{BlockError, DiskBackend};

use crate::file::recording::{self, Event, record, without_syncs};

/// A file as it may be after a cut. Where the host is not `honest` its syncs do nothing.
pub(crate) fn after_cut(initial: &[u8], events: &[Event], honest: bool, sequence: &mut Sequence) -> Vec<u8> {
    let synced =
        if !honest { 0 } else { events.iter().rposition(|event| matches!(event, Event::Sync)).map_or(0, |at| at + 1) };
    let mut bytes = initial.to_vec();
    // Of what was not synced, all, none, or a random part survives.
    let survive = sequence.below(4);
    for (at, event) in events.iter().enumerate() {
        let lives = |sequence: &mut Sequence| at < synced || survive == 0 || (survive > 1 && sequence.below(2) == 0);
        match event {
            Event::Write(offset, content) => {
                for (index, part) in content.chunks(512).enumerate() {
                    if lives(sequence) {
                        let start = *offset as usize + index * 512;
                        bytes.resize(bytes.len().max(start + part.len()), 0);
                        bytes[start..start + part.len()].copy_from_slice(part);
                    }
                }
            }
            Event::Zero(offset, len) => {
                if lives(sequence) {
                    let len_bytes = bytes.len();
                    bytes[(*offset as usize).min(len_bytes)..((offset + len) as usize).min(len_bytes)].fill(0);
                }
            }
            Event::SetLen(len) => {
                if lives(sequence) {
                    bytes.resize(*len as usize, 0);
                }
            }
            Event::Sync | Event::Step | Event::Done => {}
        }
    }
    bytes
}

/// Writes a file without its zeroes, so that large blocks cost little.
fn write_sparse(file: &mut File, bytes: &[u8]) {
    file.set_len(bytes.len() as u64).unwrap();
    for (index, part) in bytes.chunks(4096).enumerate() {
        if part.iter().any(|byte| *byte != 0) {
            file.seek(SeekFrom::Start(index as u64 * 4096)).unwrap();
            file.write_all(part).unwrap();
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Op {
    Write { sector: u64, count: u64, fua: bool },
    Discard { sector: u64, count: u64 },
    Flush,
}

/// Sectors whose content is followed: four places of a few sectors, in blocks of their own where `stride` is a block.
fn sectors(size_bytes: u64, stride_bytes: u64) -> Vec<u64> {
    let mut sectors = Vec::new();
    for place in 0..4 {
        let first = (place * stride_bytes / 512).min(size_bytes / 512 - 8);
        sectors.extend(first..first + 8);
    }
    sectors
}

/// The content of a sector that step `stamp` wrote.
fn stamped(sector: u64, stamp: u64) -> [u8; 512] {
    let mut bytes = [0x5a; 512];
    bytes[..8].copy_from_slice(&sector.to_le_bytes());
    bytes[8..16].copy_from_slice(&stamp.to_le_bytes());
    bytes
}

/// Cuts the power at every event of short workloads on `initial`, a new image. `stride_bytes` is the size of a block.
pub(crate) fn check(
    initial: &[u8],
    stride_bytes: u64,
    open: impl Fn(File) -> Result<Box<dyn DiskBackend>, BlockError>,
) {
    without_syncs();
    for seed in 0..3 {
        check_seed(initial, stride_bytes, &open, true, seed);
    }
    // The negative control: on a host that does not sync the same must fail.
    let lied_to = || (0..3).for_each(|seed| check_seed(initial, stride_bytes, &open, false, seed));
    assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(lied_to)).is_err(), "the check finds nothing");
}

fn check_seed(
    initial: &[u8],
    stride_bytes: u64,
    open: &impl Fn(File) -> Result<Box<dyn DiskBackend>, BlockError>,
    honest: bool,
    seed: u64,
) {
    let mut sequence = Sequence::new(seed);
    let mut file = tempfile::tempfile().unwrap();
    write_sparse(&mut file, initial);
    recording::start();
    let disk = open(file).unwrap();
    let tracked = sectors(disk.info().size_bytes, stride_bytes);
    let mut ops = Vec::new();
    for step in 0..24 {
        let at = sequence.below(tracked.len() as u64);
        let sector = tracked[at as usize];
        let count = 1 + sequence.below(8 - at % 8);
        let op = match sequence.below(6) {
            0 => Op::Flush,
            1 => Op::Discard { sector, count },
            2 => Op::Write { sector, count, fua: true },
            _ => Op::Write { sector, count, fua: false },
        };
        record(|| Event::Step);
        match op {
            Op::Write { sector, count, fua } => {
                let bytes: Vec<u8> = (sector..sector + count).flat_map(|sector| stamped(sector, step as u64)).collect();
                write(&*disk, sector * 512, &bytes, &[], fua).unwrap();
            }
            Op::Discard { sector, count } => disk.discard(sector * 512, count * 512).unwrap(),
            Op::Flush => disk.flush().unwrap(),
        }
        record(|| Event::Done);
        ops.push(op);
    }
    drop(disk);
    let events = recording::take();
    for cut in 0..=events.len() {
        for _ in 0..3 {
            let bytes = after_cut(initial, &events[..cut], honest, &mut sequence);
            let mut file = tempfile::tempfile().unwrap();
            write_sparse(&mut file, &bytes);
            let disk = open(file).unwrap_or_else(|error| panic!("seed {seed}, cut {cut}: {error}"));
            judge(&*disk, &tracked, &ops, &events[..cut], &format!("seed {seed}, cut {cut}"));
            // It goes on working, and a new block shows nothing of what a lost one left in the file.
            let before: Vec<_> = tracked.iter().map(|sector| read(&*disk, sector * 512, 512, &[]).unwrap()).collect();
            let written = [0, 8, 16, 24];
            for index in written {
                write(&*disk, tracked[index] * 512, &stamped(tracked[index], 99), &[], index == 8).unwrap();
            }
            for (index, (sector, before)) in tracked.iter().zip(before).enumerate() {
                let expected = if written.contains(&index) { stamped(*sector, 99).to_vec() } else { before };
                assert!(read(&*disk, sector * 512, 512, &[]).unwrap() == expected, "seed {seed}, cut {cut}: {sector}");
            }
        }
    }
}

/// Every sector holds what was last made durable or something written since.
fn judge(disk: &dyn DiskBackend, tracked: &[u64], ops: &[Op], events: &[Event], context: &str) {
    let begun = events.iter().filter(|event| matches!(event, Event::Step)).count();
    let done = events.iter().filter(|event| matches!(event, Event::Done)).count();
    let durable_until = ops[..done]
        .iter()
        .rposition(|op| matches!(op, Op::Flush | Op::Write { fua: true, .. }))
        .map_or(0, |step| step + 1);
    for &sector in tracked {
        let mut allowed = vec![[0; 512]];
        for (step, op) in ops[..begun].iter().enumerate() {
            let new = match *op {
                Op::Write { sector: first, count, .. } if (first..first + count).contains(&sector) => {
                    stamped(sector, step as u64)
                }
                Op::Discard { sector: first, count } if (first..first + count).contains(&sector) => [0; 512],
                _ => continue,
            };
            if step < durable_until {
                allowed.clear();
            }
            allowed.push(new);
        }
        // A file system without holes ignores discards: then what was there before is right, too.
        if disk.info().discard == benchtop_block::DiscardBehavior::Ignored {
            continue;
        }
        let found = read(disk, sector * 512, 512, &[]).unwrap_or_else(|error| panic!("{context}: {error}"));
        assert!(
            allowed.iter().any(|bytes| bytes[..] == found[..]),
            "{context}: sector {sector} holds {:?}, durable until step {durable_until} of {ops:?}",
            &found[..16]
        );
    }
}
