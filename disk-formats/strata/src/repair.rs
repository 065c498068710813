//! Repair: what can not be read is taken out of the map, so that the rest can be used.
//!
//! A lost block stays an error until the guest writes or discards it: zeroes would be a lie that a file system believes.
//! What no repair brings back: a head of which both copies are damaged, both superblocks, the key slots; records after
//! the first that is damaged, because nothing says any more what came between.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;

use benchtop_block::{BlockError, BlockErrorKind};

use crate::StrataDisk;
use crate::check::CheckReport;
use crate::graves::Grave;
use crate::layout::{Address, BLOCK_BYTES, Pointer, SEGMENT_BLOCKS, new_block, place_offset};
use crate::medium::Medium;
use crate::open::{OpenOptions, Purpose, Replayed, replay_until};
use crate::pages::{FANOUT, LEVEL_BITS, PageWriter, Root, Store, entry, set_entry};

use crate::record::{Record, SEALED_AT};
use crate::seal::EpochKey;
use crate::superblock::Refused;

/// Findings and ranges written out, at most.
const FINDINGS_MAX: usize = 1000;

/// What a repair found, and did if it was allowed to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RepairReport {
    /// What is wrong with the file's administration, in words.
    pub findings: Vec<String>,
    /// Bytes of the guest's disk that can not be read, in order, the first thousand ranges.
    pub lost: Vec<Range<u64>>,
    /// How many bytes that are, all together.
    pub lost_bytes: u64,
    /// Restore points that can not be returned to; dropped where that was allowed.
    pub points_lost: Vec<u64>,
    /// The newest record that is there.
    pub last_record: u64,
    /// Records that were written after one that is damaged or missing, as far as they are still found. After a power
    /// cut some are to be expected; they were never promised.
    pub records_after_gap: u64,
    /// What a check says afterwards: what only restore points miss is in it.
    pub check: CheckReport,
}

impl RepairReport {
    fn find(&mut self, what: String) {
        if self.findings.len() < FINDINGS_MAX {
            self.findings.push(what);
        }
    }

    pub(crate) fn superblock_refused(&mut self, why: Refused) {
        self.find(match why {
            Refused::NotOne => "a superblock is damaged".to_owned(),
            Refused::Version(version) => format!("a superblock is of version {version}"),
        });
    }

    pub(crate) fn state_lost(&mut self, generation: u64, error: &BlockError) {
        self.find(format!("generation {generation} can not be used: {error}"));
    }

    fn lose(&mut self, lba: u64, blocks: u64, size_bytes: u64) {
        let unit = BLOCK_BYTES as u64;
        let (from, until) = (lba.saturating_mul(unit), lba.saturating_add(blocks).saturating_mul(unit).min(size_bytes));
        if from >= until {
            return;
        }
        self.lost_bytes += until - from;
        let room = self.lost.len() < FINDINGS_MAX;
        match self.lost.last_mut() {
            Some(last) if last.end == from => last.end = until,
            _ if room => self.lost.push(from..until),
            _ => {}
        }
    }

    /// Whether anything is wrong.
    pub fn is_clean(&self) -> bool {
        self.findings.is_empty() && self.lost.is_empty() && self.points_lost.is_empty() && self.check.damages == 0
    }
}

impl StrataDisk {
    /// Looks for what can not be read. With `consent` it is taken out of the map: reading it is an error until it is
    /// written or discarded, and restore points that nothing leads to are dropped. Without, nothing is written, and the
    /// disk is open for reading only.
    ///
    /// # Errors
    /// As [`open_with`](Self::open_with) when no state of the disk can be opened at all.
    pub fn repair(
        medium: Arc<dyn Medium>,
        options: &OpenOptions<'_>,
        consent: bool,
    ) -> Result<(Self, RepairReport), BlockError> {
        let mut report = RepairReport::default();
        let disk = Self::open_for(&medium, options, Purpose::Repair(&mut report, consent))?;
        let core = disk.core();
        let points: Vec<u64> = core.state.lock().points.all().iter().map(|point| point.seq).collect();
        for point in points {
            let base = core.base_of(&core.checkpoints.lock(), point);
            let then = base.and_then(|base| replay_until(&core.store, &base, point));
            if let Err(error) = then {
                report.find(format!("restore point {point} can not be returned to: {error}"));
                report.points_lost.push(point);
                if consent {
                    disk.drop_point(point)?;
                }
            }
        }
        if consent {
            disk.checkpoint()?;
        }
        report.check = disk.check();
        Ok((disk, report))
    }
}

/// Takes out of the newest map what can not be read; `seq` is the checkpoint's number. Without `consent` it only looks.
pub(crate) fn mend(
    store: &Store,
    replayed: &mut Replayed,
    seq: u64,
    report: &mut RepairReport,
    consent: bool,
) -> Result<(), BlockError> {
    report.last_record = replayed.seq;
    report.records_after_gap = records_after_gap(store, replayed);
    let root = replayed.root;
    let mut dead = Vec::new();
    let mut mender = Mender {
        store,
        replayed,
        report,
        seen: HashSet::new(),
        writer: consent.then(|| PageWriter::new(store, seq)),
        dead: &mut dead,
        seq,
    };
    let pointer = mender.page(root.pointer, root.levels.saturating_sub(1), 0)?;
    if let Some(writer) = &mut mender.writer {
        writer.finish()?;
        // Restore points keep the map of before, and what they need of it.
        replayed.root = Root { pointer, ..root };
        replayed.changes.deaths.extend(dead);
    }
    Ok(())
}

/// Records in the rest of the log's last segment: the one that would come next is not among them.
fn records_after_gap(store: &Store, replayed: &Replayed) -> u64 {
    let end = replayed.end;
    let mut count = 0;
    // The newest epoch may be that of the repair itself.
    let keys = store.keys.newest_two();
    for slot in end.slot..SEGMENT_BLOCKS {
        let mut sealed = new_block();
        let offset = place_offset(end.place) + slot * BLOCK_BYTES as u64;
        if store.medium.read_at(offset, &mut sealed[..]).is_err() {
            continue;
        }
        let tag = crate::bytes::get(&sealed[..], 0);
        let is_record = |key: &EpochKey| {
            let mut block = sealed.clone();
            key.open_block(Address::new(end.segment, slot), &mut block[SEALED_AT..], &tag)
                && Record::decode(&block).is_some_and(|record| record.seq > end.seq)
        };
        count += u64::from(keys.iter().any(|key| is_record(key)));
    }
    count
}

struct Mender<'a> {
    store: &'a Store,
    replayed: &'a Replayed,
    report: &'a mut RepairReport,
    /// A page is in a map once; a map in which it is twice is not one of ours, and could have no end.
    seen: HashSet<Address>,
    writer: Option<PageWriter<'a>>,
    dead: &'a mut Vec<Grave>,
    seq: u64,
}

/// Whether it is the content that can not be had. Other failures pass, and a repair that took them for damage would make
/// them last.
fn is_damage(error: &BlockError) -> bool {
    matches!(error.kind(), BlockErrorKind::Corrupt | BlockErrorKind::Io)
}

impl Mender<'_> {
    fn lose(&mut self, pointer: &Pointer, lba: u64, blocks: u64) {
        self.report.lose(lba, blocks, self.replayed.size_bytes);
        if !pointer.is_lost() {
            self.dead.push(Grave { address: pointer.address, birth: pointer.birth, death: self.seq });
        }
    }

    /// What a page becomes. As deep as the tree has levels.
    fn page(&mut self, pointer: Pointer, level: u8, first: u64) -> Result<Pointer, BlockError> {
        if pointer.address.is_none() {
            return Ok(pointer);
        }
        let bits = LEVEL_BITS * u32::from(level);
        let twice = !pointer.is_lost() && !self.seen.insert(pointer.address);
        let page = match self.store.page(&pointer) {
            Ok(page) if !twice && !pointer.is_lost() => page,
            Err(error) if !is_damage(&error) => return Err(error),
            Ok(_) | Err(_) => {
                self.lose(&pointer, first, FANOUT << bits);
                return self.lost_page(level, first);
            }
        };
        let mut mended = *page;
        for index in 0..FANOUT {
            let below = entry(&page, index);
            let lba = first + (index << bits);
            let new = if level > 0 { self.page(below, level - 1, lba)? } else { self.block(below, lba)? };
            if new != below {
                set_entry(&mut mended, index, &new);
            }
        }
        if mended == *page {
            return Ok(pointer);
        }
        let Some(writer) = &mut self.writer else { return Ok(pointer) };
        self.dead.push(Grave { address: pointer.address, birth: pointer.birth, death: self.seq });
        writer.put(&mended)
    }

    /// What stands for a lost page. Behind the end of the disk nothing was lost: there must be zeroes if it grows.
    fn lost_page(&mut self, level: u8, first: u64) -> Result<Pointer, BlockError> {
        let bits = LEVEL_BITS * u32::from(level);
        let end = crate::resize::blocks(self.replayed.size_bytes);
        if first >= end {
            return Ok(Pointer::NONE);
        }
        if end - first >= FANOUT << bits || self.writer.is_none() {
            return Ok(Pointer::LOST);
        }
        let mut page = new_block();
        for index in 0..FANOUT {
            let lba = first + (index << bits);
            let below = match level {
                0 if lba < end => Pointer::LOST,
                0 => Pointer::NONE,
                _ => self.lost_page(level - 1, lba)?,
            };
            set_entry(&mut page, index, &below);
        }
        match &mut self.writer {
            Some(writer) => writer.put(&page),
            None => Ok(Pointer::LOST),
        }
    }

    fn block(&mut self, pointer: Pointer, lba: u64) -> Result<Pointer, BlockError> {
        if pointer.address.is_none() || self.replayed.changes.fresh(lba).is_some() {
            return Ok(pointer);
        }
        let mut block = new_block();
        let read = self.store.locate(&pointer).and_then(|offset| {
            self.store.medium.read_at(offset, &mut block[..]).map_err(crate::disk::io_error("reading a block"))?;
            self.store.open(&pointer, &mut block[..])
        });
        match read {
            Ok(()) => Ok(pointer),
            Err(error) if !is_damage(&error) => Err(error),
            Err(_) => {
                self.lose(&pointer, lba, 1);
                Ok(Pointer::LOST)
            }
        }
    }
}
