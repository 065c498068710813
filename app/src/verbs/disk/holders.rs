//! Which states of a Strata disk hold damage: what the disk holds now, and restore points.

use std::ops::Range;

use benchtop_block::{BlockError, BlockErrorKind, DiskBackend, ExtentKind};
use benchtop_memory::VolatileSlice;
use benchtop_strata::{GIVEN_UP, PointInfo, StrataDisk};
use serde::Serialize;

use crate::plain;

/// As much is read, at most, where every state is read as a whole.
const READ_BYTES_MAX: u64 = 4 << 30;
/// Restore points that are looked at, at most, where only some ranges are read: each takes reading a part of the log.
const POINTS_MAX: usize = 2000;
/// Restore points that are named, at most.
const NAMED_MAX: usize = 20;
/// What is read at once, and what is damaged as one.
const CHUNK_BYTES: u64 = 64 << 10;
const BLOCK_BYTES: u64 = 4096;

/// A restore point.
#[derive(Clone, Debug, Serialize)]
pub struct Holder {
    number: u64,
    name: Option<String>,
}

/// Who holds damage.
#[derive(Clone, Debug, Default)]
pub struct Holders {
    /// What the disk holds now.
    pub now: bool,
    /// Restore points, oldest first.
    pub points: Vec<Holder>,
    /// All was read; else there may be more.
    pub complete: bool,
}

impl Holders {
    /// Looks at a disk that is open for reading only, which shows its past afterwards. Of a large disk only `known` is
    /// read, ranges in which something can not be read now.
    ///
    /// # Errors
    /// Its restore points can not be listed.
    pub fn find(disk: &mut StrataDisk, known: &[Range<u64>]) -> Result<Self, BlockError> {
        Self::find_within(disk, known, READ_BYTES_MAX)
    }

    fn find_within(disk: &mut StrataDisk, known: &[Range<u64>], read_bytes_max: u64) -> Result<Self, BlockError> {
        let points = disk.points()?;
        let states = points.len() as u64 + 1;
        let complete = disk.space().live_bytes.saturating_mul(states) <= read_bytes_max;
        let whole = 0..u64::MAX;
        let ranges = if complete { std::slice::from_ref(&whole) } else { known };
        let mut found = Self { now: is_damaged(disk, ranges), points: Vec::new(), complete };
        if !complete && points.len() > POINTS_MAX {
            return Ok(found);
        }
        for PointInfo { seq, name, .. } in points {
            // One that nothing leads to is a finding of its own.
            if disk.rewind(seq).is_ok() && is_damaged(disk, ranges) {
                found.points.push(Holder { number: seq, name });
            }
        }
        Ok(found)
    }

    /// Whether it is certain that only restore points hold damage.
    pub fn is_past_only(&self) -> bool {
        self.complete && !self.now && !self.points.is_empty()
    }

    /// What to do about damage that a repair leaves, since restore points hold it.
    pub fn advice(&self, disk: &str) -> String {
        let gone = "that goes when they are removed";
        let Some(first) = self.points.first() else {
            let which = "the oldest first; `benchtop disk snap list` lists them";
            return match self.complete {
                true => {
                    "all states of the disk can be read: copy it (benchtop disk convert), and use the copy".to_owned()
                }
                false => format!("restore points may hold damage; {gone} (benchtop disk snap rm {disk} '#N'), {which}"),
            };
        };
        let names: Vec<String> = self.points.iter().take(NAMED_MAX).map(Holder::text).collect();
        let more = match self.points.len() - names.len() {
            0 => String::new(),
            more => format!(" and {more} more (--json lists them)"),
        };
        let (count, hold, goes) = match self.points.len() {
            1 => (plain::count(1, "restore point"), "holds", "that goes when it is removed"),
            many => (plain::count(many, "restore point"), "hold", gone),
        };
        let also = if self.complete { "" } else { "; there may be more" };
        let names = names.join(", ");
        format!("{count} {hold} damage: {names}{more}{also}; {goes}: benchtop disk snap rm {disk} {}", first.argument())
    }
}

impl Holder {
    fn text(&self) -> String {
        match &self.name {
            Some(name) => format!("#{} (snapshot {name})", self.number),
            None => format!("#{}", self.number),
        }
    }

    /// As `disk snap rm` takes it, in a shell.
    fn argument(&self) -> String {
        format!("'#{}'", self.number)
    }
}

/// Whether something in these ranges is damaged.
fn is_damaged(disk: &StrataDisk, ranges: &[Range<u64>]) -> bool {
    let size_bytes = disk.info().size_bytes;
    ranges.iter().any(|range| is_range_damaged(disk, range.start, range.end.min(size_bytes)))
}

fn is_range_damaged(disk: &StrataDisk, from: u64, end: u64) -> bool {
    let mut at = from;
    while at < end {
        let (data, len) = match disk.extent_at(at, end - at) {
            Ok(extent) => (extent.kind == ExtentKind::Data, extent.len_bytes.clamp(1, end - at)),
            Err(error) if is_damage(&error) => return true,
            Err(_) => (false, BLOCK_BYTES.min(end - at)),
        };
        if data && chunks(at, at + len, CHUNK_BYTES).any(|chunk| is_chunk_damaged(disk, chunk)) {
            return true;
        }
        at += len;
    }
    false
}

/// The first block that can not be read hides those behind it.
fn is_chunk_damaged(disk: &StrataDisk, chunk: Range<u64>) -> bool {
    match read(disk, &chunk) {
        Ok(()) => false,
        Err(_) => chunks(chunk.start, chunk.end, BLOCK_BYTES)
            .any(|block| read(disk, &block).is_err_and(|error| is_damage(&error))),
    }
}

fn read(disk: &StrataDisk, range: &Range<u64>) -> Result<(), BlockError> {
    let mut buffer = vec![0; usize::try_from(range.end - range.start).unwrap_or(0)];
    disk.read_at(range.start, &[VolatileSlice::from(&mut buffer[..])])
}

/// What a repair gave up is an error, but no damage any more.
fn is_damage(error: &BlockError) -> bool {
    matches!(error.kind(), BlockErrorKind::Corrupt | BlockErrorKind::Io) && !error.to_string().contains(GIVEN_UP)
}

/// A range in pieces that begin at multiples of `unit`.
fn chunks(from: u64, end: u64, unit: u64) -> impl Iterator<Item = Range<u64>> {
    let mut at = from;
    std::iter::from_fn(move || {
        let next = ((at / unit + 1) * unit).min(end);
        let chunk = (at < end).then_some(at..next);
        at = next.max(at);
        chunk
    })
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::FileExt;
    use std::sync::Arc;

    use benchtop_strata::{CreateOptions, HostCache, HostFile, OpenOptions, Retention};

    use super::*;

    /// A disk of which every restore point would take too long to read is read where something is known to be lost.
    #[test]
    fn damage_is_found_in_every_state_that_holds_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk");
        let file = || File::options().read(true).write(true).create(true).truncate(false).open(&path).unwrap();
        let medium = || Arc::new(HostFile::new(file(), HostCache::Reads));
        let options = CreateOptions { size_bytes: 1 << 20, retention: Retention::OFF, password: None };
        let disk = StrataDisk::create(medium(), &options).unwrap();
        let write = |at, byte| disk.write_at(at, &[VolatileSlice::from(&mut [byte; 4096][..])], false).unwrap();
        write(0, 1);
        let before = disk.snapshot("before").unwrap();
        write(8192, 0xa5);
        let [with, still] = ["with", "still"].map(|name| {
            write(0, name.as_bytes()[0]);
            disk.snapshot(name).unwrap()
        });
        drop(disk);
        let content = std::fs::read(&path).unwrap();
        let at = content.windows(4096).position(|window| window == [0xa5; 4096]).unwrap();
        file().write_all_at(&[0], at as u64 + 77).unwrap();
        let how = OpenOptions { read_only: true, ..OpenOptions::default() };
        for read_bytes_max in [0, u64::MAX] {
            let (mut disk, report) = StrataDisk::repair(medium(), &how, false).unwrap();
            let found = Holders::find_within(&mut disk, &report.lost, read_bytes_max).unwrap();
            let numbers: Vec<u64> = found.points.iter().map(|point| point.number).collect();
            assert_eq!((found.now, found.complete, numbers), (true, read_bytes_max > 0, vec![with, still]), "{before}");
        }
        // Given up, it is no damage of now any more, and still one of the past.
        let how = OpenOptions::default();
        drop(StrataDisk::repair(medium(), &how, true).unwrap());
        let how = OpenOptions { read_only: true, ..how };
        let (mut disk, report) = StrataDisk::repair(medium(), &how, false).unwrap();
        let found = Holders::find_within(&mut disk, &report.lost, u64::MAX).unwrap();
        assert!(found.is_past_only() && found.points.len() == 2, "{found:?}");
    }

    #[test]
    fn pieces_cover_a_range() {
        let pieces: Vec<_> = chunks(512, 9000, 4096).collect();
        assert_eq!(pieces, [512..4096, 4096..8192, 8192..9000]);
        assert_eq!(chunks(5, 5, 4096).count(), 0);
    }

    #[test]
    fn advice_names_what_to_remove() {
        let holder = |number, name: Option<&str>| Holder { number, name: name.map(str::to_owned) };
        let mut holders = Holders { points: vec![holder(7, Some("a"))], complete: true, now: false };
        let one =
            "1 restore point holds damage: #7 (snapshot a); that goes when it is removed: benchtop disk snap rm d '#7'";
        assert_eq!(holders.advice("d"), one);
        holders.points.push(holder(9, None));
        holders.complete = false;
        let two = "2 restore points hold damage: #7 (snapshot a), #9; there may be more; that goes when they are removed: \
                   benchtop disk snap rm d '#7'";
        assert_eq!(holders.advice("d"), two);
        holders.points.clear();
        assert!(holders.advice("d").contains("the oldest first"));
        holders.complete = true;
        assert!(holders.advice("d").contains("disk convert"));
    }
}
