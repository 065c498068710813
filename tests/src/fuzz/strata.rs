//! Strata disks that somebody has changed: superblock, head, log and the root of the map. On a plain disk everybody can
//! make the checksums, so this does: from the changed place up to the superblock, everything is authentic again. What
//! the checksums are of stands in disk-formats/strata/docs/format.md.
//!
//! Input: flags, how many edits, the edits, operations on the disk.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, LazyLock};

use benchtop_block::{BlockError, DiskBackend};
use benchtop_memory::VolatileSlice;
use benchtop_strata::{CreateOptions, Medium, OpenOptions, Retention, StrataDisk};
use highway::{HighwayHash as _, HighwayHasher};
use parking_lot::Mutex;

use super::Input;
use super::exercise::exercise;

const BLOCK: usize = 4096;
const DISK_BYTES: u64 = 4 << 20;
const SUPERBLOCKS: [u64; 2] = [0, 64 << 10];
const HEADS: [u64; 2] = [1 << 20, 65 << 20];
const PLACES: u64 = 132 << 20;
const SEGMENT_BLOCKS: u64 = 1024;
/// Where a block's sealed part begins in a record, and what it holds beside operations, in bytes.
const SEALED_AT: usize = 16;
const PREVIOUS_AT: usize = 24;
const DATA_COUNT_AT: usize = 62;
/// Records that are made authentic, at most.
const MAX_RECORDS: usize = 64;

/// A file in memory: its blocks that hold something, shared until they are written.
#[derive(Debug, Default)]
struct Blocks {
    blocks: Mutex<BTreeMap<u64, Arc<[u8; BLOCK]>>>,
    /// How long it is.
    len: Mutex<u64>,
}

impl Clone for Blocks {
    fn clone(&self) -> Self {
        Self { blocks: Mutex::new(self.blocks.lock().clone()), len: Mutex::new(*self.len.lock()) }
    }
}

impl Blocks {
    fn read(&self, offset: u64, into: &mut [u8]) {
        let blocks = self.blocks.lock();
        let mut done = 0;
        while done < into.len() {
            let at = offset + done as u64;
            let (number, within) = (at / BLOCK as u64, (at % BLOCK as u64) as usize);
            let count = (BLOCK - within).min(into.len() - done);
            match blocks.get(&number) {
                Some(block) => into[done..done + count].copy_from_slice(&block[within..within + count]),
                None => into[done..done + count].fill(0),
            }
            done += count;
        }
    }

    fn write(&self, offset: u64, from: &[u8]) {
        let mut blocks = self.blocks.lock();
        let mut done = 0;
        while done < from.len() {
            let at = offset + done as u64;
            let (number, within) = (at / BLOCK as u64, (at % BLOCK as u64) as usize);
            let count = (BLOCK - within).min(from.len() - done);
            let block = Arc::make_mut(blocks.entry(number).or_insert_with(|| Arc::new([0; BLOCK])));
            block[within..within + count].copy_from_slice(&from[done..done + count]);
            done += count;
        }
        let mut len = self.len.lock();
        *len = (*len).max(offset + from.len() as u64);
    }

    fn bytes(&self, offset: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.read(offset, &mut bytes);
        bytes
    }
}

impl Medium for Blocks {
    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        // As a host file's offsets are.
        if i64::try_from(offset.saturating_add(into.len() as u64)).is_err() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        self.read(offset, into);
        Ok(())
    }

    fn write_at(&self, offset: u64, from: &[&[u8]]) -> io::Result<()> {
        let mut at = offset;
        for bytes in from {
            // What a file system holds.
            if at.saturating_add(bytes.len() as u64) > 1 << 44 {
                return Err(io::ErrorKind::FileTooLarge.into());
            }
            self.write(at, bytes);
            at += bytes.len() as u64;
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        let (first, end) = (offset.div_ceil(BLOCK as u64), offset.saturating_add(len) / BLOCK as u64);
        self.blocks.lock().retain(|number, _| !(first..end).contains(number));
        Ok(())
    }

    fn size(&self) -> io::Result<u64> {
        Ok(*self.len.lock())
    }
}

/// A disk that is open and has something of everything: a checkpoint, points, and a log behind the checkpoint.
static SEED: LazyLock<Blocks> = LazyLock::new(|| {
    let seed = make_seed();
    assert!(seed.is_ok(), "the seed can not be made: {seed:?}");
    seed.unwrap_or_default()
});

fn make_seed() -> Result<Blocks, BlockError> {
    let medium = Arc::new(Blocks::default());
    let options = CreateOptions { size_bytes: DISK_BYTES, retention: Retention::default(), password: None };
    let disk = StrataDisk::create(medium.clone(), &options)?;
    let write = |block: u64, count: u64| {
        let mut bytes = vec![block as u8 | 1; BLOCK * count as usize];
        disk.write_at(block * BLOCK as u64, &[VolatileSlice::from(&mut bytes[..])], false)
    };
    (0..12).try_for_each(|block| write(block * 64, 1))?;
    disk.flush()?;
    disk.snapshot("one")?;
    write(0, 3)?;
    disk.checkpoint()?;
    write(2, 4)?;
    disk.flush()?;
    disk.discard(128 * BLOCK as u64, 16 * BLOCK as u64)?;
    disk.snapshot("two")?;
    write(500, 1)?;
    disk.flush()?;
    Ok((*medium).clone())
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    (0..8).rev().fold(0, |number, index| number << 8 | u64::from(bytes[at + index]))
}

/// A checksum of cipher 3: of what `purpose` says (0 a block, 1 a head), at an address or of a generation.
fn tag(salt: &[u8], purpose: u8, number: u64, bytes: &[u8]) -> [u8; 16] {
    let mut what = [0; 32];
    what[0] = purpose;
    what[8..16].copy_from_slice(&number.to_le_bytes());
    let word = |index: usize| u64_at(salt, index * 8);
    let mut hasher = HighwayHasher::new(highway::Key([word(0), word(1), word(2), word(3)]));
    hasher.append(&what);
    hasher.append(bytes);
    let [low, high] = hasher.finalize128();
    let mut tag = [0; 16];
    tag[..8].copy_from_slice(&low.to_le_bytes());
    tag[8..].copy_from_slice(&high.to_le_bytes());
    tag
}

/// A number as postcard writes it, and where the next begins.
fn varint(bytes: &[u8], mut at: usize) -> Option<(u64, usize)> {
    let mut number = 0u64;
    for shift in (0..64).step_by(7) {
        let byte = *bytes.get(at)?;
        at += 1;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some((number, at));
        }
    }
    None
}

/// The parts of a disk, taken out of the file.
struct Parts {
    medium: Blocks,
    /// Which superblock is in force.
    newest: usize,
    superblock: Vec<u8>,
    head: Vec<u8>,
}

/// What the head says at its beginning: of the map's root and the log. Offsets in the head.
struct Start {
    root_address: u64,
    root_tag_at: usize,
    log_segment: u64,
    log_place: u64,
    log_slot: u64,
    log_tag_at: usize,
}

impl Parts {
    fn of(medium: Blocks) -> Self {
        let both = SUPERBLOCKS.map(|at| medium.bytes(at, BLOCK));
        let newest = usize::from(u64_at(&both[1], 32) > u64_at(&both[0], 32));
        let superblock = both[newest].clone();
        let area = HEADS[usize::from(superblock[13] & 1)];
        let head = medium.bytes(area, (u64_at(&superblock, 56) as u32 as usize).min(1 << 20));
        Self { medium, newest, superblock, head }
    }

    fn salt(&self) -> Vec<u8> {
        self.superblock[80..112].to_vec()
    }

    fn start(&self) -> Option<Start> {
        let (root_address, at) = varint(&self.head, 0)?;
        let (_birth, root_tag_at) = varint(&self.head, at)?;
        // The levels are one byte.
        let (log_segment, at) = varint(&self.head, root_tag_at + 16 + 1)?;
        let (log_place, at) = varint(&self.head, at)?;
        let (log_slot, at) = varint(&self.head, at)?;
        let (_seq, log_tag_at) = varint(&self.head, at)?;
        let start = Start { root_address, root_tag_at, log_segment, log_place, log_slot, log_tag_at };
        (log_tag_at + 16 <= self.head.len() && log_place < 64 && log_slot < SEGMENT_BLOCKS).then_some(start)
    }

    /// Where in the file the root page is: the block that has its checksum.
    fn find_root(&self, start: &Start) -> Option<u64> {
        let (salt, wanted) = (self.salt(), self.head.get(start.root_tag_at..start.root_tag_at + 16)?);
        let blocks = self.medium.blocks.lock();
        let places = blocks.range(PLACES / BLOCK as u64..);
        let mut found = places.filter(|(_, block)| tag(&salt, 0, start.root_address, &block[..]) == wanted);
        found.next().map(|(number, _)| number * BLOCK as u64)
    }

    /// Where records are, from the head on, at most [`MAX_RECORDS`]: as their data counts say.
    fn records(&self, start: &Start) -> Vec<(u64, u64)> {
        let mut records = Vec::new();
        let mut slot = start.log_slot;
        while slot < SEGMENT_BLOCKS - 1 && records.len() < MAX_RECORDS {
            let offset = PLACES + (start.log_place * SEGMENT_BLOCKS + slot) * BLOCK as u64;
            let block = self.medium.bytes(offset, 80);
            if block.iter().all(|byte| *byte == 0) {
                break;
            }
            records.push((offset, start.log_segment << 10 | slot));
            slot += 1 + u64::from(block[DATA_COUNT_AT]) + (u64::from(block[DATA_COUNT_AT + 1]) << 8);
        }
        records
    }

    /// Makes everything authentic and gives the file back.
    fn seal(mut self, start: Option<&Start>, root: Option<u64>) -> Blocks {
        let salt = self.salt();
        if let Some(start) = start {
            if let Some(root) = root {
                let page = self.medium.bytes(root, BLOCK);
                let sum = tag(&salt, 0, start.root_address, &page);
                self.head[start.root_tag_at..start.root_tag_at + 16].copy_from_slice(&sum);
            }
            let mut previous = self.head[start.log_tag_at..start.log_tag_at + 16].to_vec();
            for (offset, address) in self.records(start) {
                self.medium.write(offset + PREVIOUS_AT as u64, &previous);
                let body = self.medium.bytes(offset + SEALED_AT as u64, BLOCK - SEALED_AT);
                previous = tag(&salt, 0, address, &body).to_vec();
                self.medium.write(offset, &previous);
            }
        }
        let generation = u64_at(&self.superblock, 48);
        let sum = tag(&salt, 1, generation, &self.head);
        self.superblock[64..80].copy_from_slice(&sum);
        self.superblock[56..60].copy_from_slice(&(self.head.len() as u32).to_le_bytes());
        self.medium.write(HEADS[usize::from(self.superblock[13] & 1)], &self.head);
        self.seal_superblock();
        self.medium
    }

    fn seal_superblock(&mut self) {
        let mac = *blake3::keyed_hash(&[0; 32], &self.superblock[..4032]).as_bytes();
        self.superblock[4032..4064].copy_from_slice(&mac);
        let sum = *blake3::hash(&self.superblock[..4064]).as_bytes();
        self.superblock[4064..].copy_from_slice(&sum);
        self.medium.write(SUPERBLOCKS[self.newest], &self.superblock);
    }
}

/// Changes a few bytes from `at` on.
fn change(bytes: &mut [u8], at: usize, input: &mut Input<'_>) {
    const NUMBERS: [u64; 10] = [0, 1, 0x7f, 0x80, 0xff, 1 << 30, 1 << 46, 1 << 62, 1 << 63, u64::MAX];
    let way = input.byte();
    let width = 1 << (way >> 4 & 3);
    let place = bytes.iter_mut().skip(at).take(width);
    match way & 3 {
        0 => place.for_each(|byte| *byte = input.byte()),
        1 => place.take(1).for_each(|byte| *byte ^= 1 << (input.byte() & 7)),
        2 => {
            let number = NUMBERS[usize::from(input.byte()) % NUMBERS.len()];
            place.zip(number.to_le_bytes()).for_each(|(byte, new)| *byte = new);
        }
        _ => place.take(1).for_each(|byte| *byte = byte.wrapping_add(input.byte())),
    }
}

/// Changes a part of the file in place.
fn change_file(medium: &Blocks, offset: u64, at: usize, input: &mut Input<'_>) {
    let mut bytes = medium.bytes(offset, BLOCK);
    change(&mut bytes, at, input);
    medium.write(offset, &bytes);
}

fn edit(parts: &mut Parts, root: Option<u64>, start: Option<&Start>, input: &mut Input<'_>) {
    let (kind, at) = (input.byte(), usize::from(input.word()));
    match kind % 8 {
        // Its fields; rarely its key slots.
        0 => change(&mut parts.superblock, 8 + at % if kind & 0x80 == 0 { 50 } else { 1400 }, input),
        1..=3 => {
            let len = parts.head.len().max(1);
            match kind >> 3 & 7 {
                0 => parts.head.truncate(at % len),
                1 => parts.head.insert(at % len, input.byte()),
                2 if at < parts.head.len() => drop(parts.head.drain(at..at + 1)),
                _ => change(&mut parts.head, at % len, input),
            }
        }
        4 | 5 => {
            let records = start.map(|start| parts.records(start)).unwrap_or_default();
            if let Some((offset, _)) = records.get(usize::from(kind >> 3) % records.len().max(1)) {
                // Mostly operations of few bytes, behind the 80 of the fields.
                let at = SEALED_AT + at % if kind & 0x80 == 0 { 200 } else { BLOCK - SEALED_AT };
                change_file(&parts.medium, *offset, at, input);
            }
        }
        6 => {
            if let Some(root) = root {
                change_file(&parts.medium, root, at % if kind & 0x80 == 0 { 320 } else { BLOCK }, input);
            }
        }
        // The other superblock and the other head, or what there is of the file; its checksums stay wrong.
        _ => {
            let number = parts.medium.blocks.lock().keys().nth(at % 64).copied();
            if let Some(number) = number {
                change_file(&parts.medium, number * BLOCK as u64, usize::from(input.word()) % BLOCK, input);
            }
        }
    }
}

/// Changes the seed as `data` says, opens it in every way and uses it.
pub fn run(data: &[u8]) {
    let mut input = Input(data);
    let flags = input.byte();
    let mut parts = Parts::of(SEED.clone());
    let start = parts.start();
    let root = start.as_ref().and_then(|start| parts.find_root(start));
    let edits = input.byte() % 8;
    for _ in 0..edits {
        edit(&mut parts, root, start.as_ref(), &mut input);
    }
    if flags & 1 != 0 {
        parts.medium.write(SUPERBLOCKS[1 - parts.newest], &[0; BLOCK]);
    }
    // A head that became longer or shorter has other places.
    let start = parts.start();
    let root = root.filter(|_| start.is_some());
    let medium: Arc<dyn Medium> = Arc::new(parts.seal(start.as_ref(), root));
    let mut sound = false;
    if let Ok(mut disk) = StrataDisk::open(medium.clone(), None, true) {
        sound = disk.check().damages == 0;
        look(&disk);
        if let Some(point) = points(&disk).get(usize::from(flags >> 2 & 3)).copied()
            && disk.rewind(point).is_ok()
        {
            super::exercise::read(&disk, 0, BLOCK);
        }
    }
    let open = || StrataDisk::open(medium.clone(), None, false).ok();
    let as_disk = || open().map(|disk| Arc::new(disk) as Arc<dyn DiskBackend>);
    let model = exercise(&as_disk, sound && edits == 0, &mut input);
    // Each restore point costs every check some milliseconds, so not all is done every time.
    if (flags & 1 != 0 || edits == 0)
        && let Some(mut disk) = open()
    {
        if let (true, Some(model)) = (edits == 0, model) {
            model.verify(&disk);
            assert_eq!(disk.check().damages, 0, "writing did damage");
        }
        administer(&mut disk, flags, &mut input).unwrap_or_default();
        look(&disk);
    }
    if input.byte() & 7 == 1 {
        repair(medium, flags & 2 != 0);
    }
}

/// A repair gives up what it must, and what is left is sound; or it refuses.
fn repair(medium: Arc<dyn Medium>, consent: bool) {
    let Ok((disk, report)) = StrataDisk::repair(medium.clone(), &OpenOptions::default(), consent) else { return };
    super::exercise::read(&disk, 0, BLOCK);
    drop(disk);
    let again = StrataDisk::open(medium, None, true);
    assert!(again.is_ok(), "a disk that was repaired does not open: {report:?}");
}

fn points(disk: &StrataDisk) -> Vec<u64> {
    disk.points().unwrap_or_default().iter().map(|point| point.seq).take(4).collect()
}

fn look(disk: &StrataDisk) {
    let _space = disk.space();
    let _retention = disk.retention();
    super::exercise::read(disk, 0, BLOCK);
}

/// Everything but reading and writing; what fails is not tried further.
fn administer(disk: &mut StrataDisk, flags: u8, input: &mut Input<'_>) -> Result<(), BlockError> {
    let points = points(disk);
    disk.snapshot("three")?;
    disk.set_retention(Retention { every_flush: flags & 2 != 0, ..disk.retention() })?;
    if let Some(point) = points.get(usize::from(flags >> 4 & 3)) {
        if flags & 0x40 == 0 {
            disk.drop_point(*point)?;
        } else {
            disk.go(*point)?;
        }
    }
    if flags & 0x80 == 0 {
        disk.compact(u64::from(input.byte() % 100))?;
    }
    disk.discard(0, disk.info().size_bytes)?;
    disk.resize(DISK_BYTES + (u64::from(input.byte()) << 9) - (64 << 10), input.byte() & 1 == 0)?;
    disk.checkpoint()?;
    disk.check();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changed_strata_disks_do_no_harm() {
        super::super::smoke(run);
    }

    /// Else nothing behind the checksums would be fuzzed.
    #[test]
    fn a_disk_that_is_sealed_anew_is_authentic() {
        let mut parts = Parts::of(SEED.clone());
        let start = parts.start().unwrap();
        let root = parts.find_root(&start).unwrap();
        let records = parts.records(&start);
        assert!(records.len() >= 3, "{records:?}");
        // The time of a record: the chain behind it is made anew.
        change_file(&parts.medium, records[0].0, 40, &mut Input(&[1, 0]));
        // What nobody reads of a page, and of the superblock.
        parts.medium.write(root + BLOCK as u64 - 8, &[0; 8]);
        parts.superblock[2000] = 0;
        parts.medium.write(SUPERBLOCKS[1 - parts.newest], &[0; BLOCK]);
        let medium = Arc::new(parts.seal(Some(&start), Some(root)));
        let disk = StrataDisk::open(medium, None, false).unwrap();
        assert_eq!(disk.check().damages, 0);
        let names: Vec<String> = disk.points().unwrap().into_iter().filter_map(|point| point.name).collect();
        assert_eq!(names, ["one", "two"]);
        // Written behind the checkpoint: in the log.
        assert_eq!(super::super::exercise::read(&disk, 500 * BLOCK as u64, 512).unwrap()[0], 500u64 as u8 | 1);
    }
}
