//! Uses a disk in every way there is, and holds it to what it says of itself.

use std::collections::BTreeMap;
use std::sync::Arc;

use benchtop_block::{BlockErrorKind, DiscardBehavior, DiskBackend, ExtentKind, SECTOR_BYTES};
use benchtop_memory::VolatileSlice;

use super::Input;

/// Operations of one run at most.
const MAX_OPERATIONS: usize = 48;
/// Extents that are walked at most.
const MAX_EXTENTS: usize = 64;
const SECTOR: usize = SECTOR_BYTES as usize;

/// What was written, a number that is repeated all over the sector, by sector: 0 where it was discarded. Sectors that
/// nobody knows are missing.
#[derive(Debug, Default)]
pub(super) struct Model(BTreeMap<u64, u64>);

impl Model {
    fn set(&mut self, first: u64, count: u64, value: impl Fn(u64) -> u64) {
        self.0.extend((first..first + count).map(|sector| (sector, value(sector))));
    }

    fn forget(&mut self, first: u64, count: u64) {
        self.0.retain(|sector, _| !(first..first + count).contains(sector));
    }

    /// That the disk holds all of it.
    pub(super) fn verify(&self, disk: &dyn DiskBackend) {
        for (sector, value) in &self.0 {
            let got = read(disk, sector * SECTOR_BYTES, SECTOR);
            assert!(got.is_some_and(|got| got == repeated(*value)), "sector {sector} lost what was written to it");
        }
    }
}

fn repeated(value: u64) -> Vec<u8> {
    value.to_le_bytes().repeat(SECTOR / 8)
}

/// `None` where the disk says that it can not.
pub(super) fn read(disk: &dyn DiskBackend, offset_bytes: u64, len: usize) -> Option<Vec<u8>> {
    let mut bytes = vec![0; len];
    disk.read_at(offset_bytes, &[VolatileSlice::from(&mut bytes[..])]).ok()?;
    Some(bytes)
}

/// Reads all over the disk `open` gives, writes, flushes, discards and asks as `input` says, and closes it. What it
/// must hold afterwards, where it is `sound`: else a write may destroy another, and all there is to see is that nothing
/// panics or takes for ever.
pub(super) fn exercise(
    open: &dyn Fn() -> Option<Arc<dyn DiskBackend>>,
    sound: bool,
    input: &mut Input<'_>,
) -> Option<Model> {
    let disk = open()?;
    let info = disk.info();
    assert!(info.size_bytes.is_multiple_of(SECTOR_BYTES) && info.physical_block_bytes >= info.logical_block_bytes);
    sweep(&*disk, info.size_bytes);
    let mut model = Model::default();
    for step in 1..=MAX_OPERATIONS as u64 {
        if input.is_empty() {
            break;
        }
        operate(&*disk, step, &mut model, input);
    }
    if sound {
        model.verify(&*disk);
    }
    sweep(&*disk, info.size_bytes);
    Some(model)
}

/// Reads in places all over the disk, and walks its extents.
fn sweep(disk: &dyn DiskBackend, size_bytes: u64) {
    let sectors = size_bytes / SECTOR_BYTES;
    for part in 0..16 {
        let first = sectors / 16 * part;
        let count = (sectors - first).min(if part == 0 { 128 } else { 8 });
        read(disk, first * SECTOR_BYTES, count as usize * SECTOR);
    }
    let last = sectors.min(8);
    read(disk, (sectors - last) * SECTOR_BYTES, last as usize * SECTOR);
    let mut at = 0;
    for _ in 0..MAX_EXTENTS {
        match extent(disk, at, size_bytes - at) {
            Some(len) if at + len < size_bytes => at += len,
            _ => break,
        }
    }
    let past = read(disk, size_bytes, SECTOR);
    assert!(past.is_none(), "there is something behind the end of the disk");
}

/// The length of the extent there; what reads as zeroes must do so.
fn extent(disk: &dyn DiskBackend, offset_bytes: u64, limit_bytes: u64) -> Option<u64> {
    if limit_bytes == 0 {
        return None;
    }
    let extent = disk.extent_at(offset_bytes, limit_bytes).ok()?;
    let len = extent.len_bytes;
    assert!(len > 0 && len <= limit_bytes && len.is_multiple_of(SECTOR_BYTES), "an extent of {len} of {limit_bytes}");
    if extent.kind == ExtentKind::Zeroes {
        let part = len.min(4096);
        for at in [offset_bytes, offset_bytes + len - part] {
            let zeroes = read(disk, at, part as usize).is_none_or(|bytes| bytes == vec![0; bytes.len()]);
            assert!(zeroes, "an extent of zeroes at {at:#x} holds something");
        }
    }
    Some(len)
}

/// Where on the disk: near its start, anywhere, near its end, or past it. Whole sectors.
fn place(sectors: u64, input: &mut Input<'_>) -> u64 {
    let (way, number) = (input.byte(), u64::from(input.word()));
    match way % 8 {
        0..=3 => number % sectors.clamp(1, 4096),
        4 | 5 => ((u128::from(sectors) * u128::from(number)) >> 16) as u64,
        6 => sectors.saturating_sub(1 + number % 64),
        _ => sectors.saturating_add(number).min(u64::MAX / SECTOR_BYTES),
    }
}

fn operate(disk: &dyn DiskBackend, step: u64, model: &mut Model, input: &mut Input<'_>) {
    let info = disk.info();
    let sectors = info.size_bytes / SECTOR_BYTES;
    let operation = input.byte();
    let first = place(sectors, input);
    let offset_bytes = first * SECTOR_BYTES;
    let count = 1 + u64::from(input.byte() % 32);
    let fits = first.checked_add(count).is_some_and(|end| end <= sectors);
    match operation % 8 {
        0..=2 => {
            let value = |sector: u64| (step << 56 | sector << 8 >> 8).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            // Whole sectors at once: fuzzed code is slow byte by byte.
            let bytes = (first..first + count).map(|sector| repeated(value(sector))).collect::<Vec<_>>().concat();
            // As guests give it: in parts that do not end with sectors.
            let (mut head, mut tail) = (bytes, Vec::new());
            if operation & 0x40 != 0 {
                tail = head.split_off(700.min(head.len()));
            }
            let slices = [VolatileSlice::from(&mut head[..]), VolatileSlice::from(&mut tail[..])];
            match disk.write_at(offset_bytes, &slices, operation & 0x80 != 0) {
                Ok(()) => model.set(first, count, value),
                Err(error) => {
                    assert!(fits || matches!(error.kind(), BlockErrorKind::OutOfRange | BlockErrorKind::ReadOnly));
                    model.forget(first, count);
                }
            }
        }
        3 => drop(read(disk, offset_bytes, count as usize * SECTOR)),
        4 => disk.flush().unwrap_or_default(),
        5 => discard(disk, first, [count, count, count * 128, 0][usize::from(operation >> 6)], model),
        6 => {
            let at = offset_bytes.min(info.size_bytes);
            extent(disk, at, info.size_bytes - at);
        }
        _ if operation & 0x80 == 0 => disk.sync().unwrap_or_default(),
        _ => disk.reopen().unwrap_or_default(),
    }
}

/// A range, or the whole disk at once.
fn discard(disk: &dyn DiskBackend, first: u64, count: u64, model: &mut Model) {
    let (first, count) = if count == 0 { (0, disk.info().size_bytes / SECTOR_BYTES) } else { (first, count) };
    match (disk.discard(first * SECTOR_BYTES, count * SECTOR_BYTES), disk.info().discard) {
        (Ok(()), DiscardBehavior::Zeroes) => {
            model.0.range_mut(first..first + count).for_each(|(_, value)| *value = 0);
            model.set(first, count.min(64), |_sector| 0);
        }
        (Ok(()), DiscardBehavior::Ignored) => {}
        _ => model.forget(first, count),
    }
}
