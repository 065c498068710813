//! The log ([MS-VHDX] 2.3): a ring of sectors of 4 KiB that holds entries, each with a checksum and a number.
//!
//! An entry is a header with descriptors, and a sector of data for each descriptor that is not one of zeroes. The
//! sequence in force is the one whose last entry has the highest number; it is replayed from that entry's tail on.

use benchtop_block::BlockError;

use super::header::{Guid, HEADER_AT, Header, Headers, checksum};
use super::{MAX_BYTES, MIB, corrupt};
use crate::fields::{bytes_at, le32, le64, put};
use crate::file::ImageFile;
use crate::file::overlay::Overlay;

const SECTOR: usize = 4096;
const ENTRY_HEADER_BYTES: usize = 64;
const DESCRIPTOR_BYTES: usize = 32;
/// What a log may have set to zeroes in all, in bytes: far more than any metadata.
const MAX_ZEROES_BYTES: u64 = 1 << 30;
/// The log is read through so many times at most, which a log whose entries do not overlap needs not.
const MAX_PASSES: usize = 4;

/// A change that an entry describes.
#[derive(Debug, PartialEq, Eq)]
enum Change {
    Data(u64, Vec<u8>),
    Zeroes(u64, u64),
}

#[derive(Debug)]
struct Entry {
    sequence: u64,
    /// Sector of the log at which it begins.
    start: usize,
    sectors: usize,
    /// Sector of the log at which the sequence that it ends begins.
    tail: usize,
    flushed_bytes: u64,
    last_bytes: u64,
    changes: Vec<Change>,
}

/// The log in memory, at most 16 MiB.
struct Ring {
    bytes: Vec<u8>,
    log: Guid,
    /// Bytes that may still be looked at.
    budget: usize,
}

impl Ring {
    fn count_sectors(&self) -> usize {
        self.bytes.len() / SECTOR
    }

    /// `count` sectors from `start` on, around the end.
    fn sectors(&self, start: usize, count: usize) -> Vec<u8> {
        let (at, len) = (start.saturating_mul(SECTOR), count.saturating_mul(SECTOR));
        let first = self.bytes.get(at..at.saturating_add(len).min(self.bytes.len())).unwrap_or_default();
        let mut sectors = first.to_vec();
        let rest = len.saturating_sub(sectors.len());
        sectors.extend_from_slice(self.bytes.get(..rest).unwrap_or_default());
        sectors
    }

    /// The valid entry that begins at a sector.
    fn entry(&mut self, start: usize) -> Result<Option<Entry>, BlockError> {
        let at = start * SECTOR;
        let Some(head) = self.bytes.get(at..at + ENTRY_HEADER_BYTES) else { return Ok(None) };
        let len = le32(head, 8) as usize;
        if !head.starts_with(b"loge")
            || bytes_at::<16>(head, 32) != self.log
            || len == 0
            || !len.is_multiple_of(SECTOR)
            || len > self.bytes.len()
        {
            return Ok(None);
        }
        self.budget = self.budget.checked_sub(len).ok_or_else(|| corrupt("the VHDX log's entries overlap"))?;
        let bytes = self.sectors(start, len / SECTOR);
        if le32(&bytes, 4) != checksum(&bytes) {
            return Ok(None);
        }
        Ok(parse(&bytes, start, self.count_sectors()))
    }

    /// The sequence in force: entries in the order in which they are replayed; none where the log is empty.
    fn active(&mut self) -> Result<Vec<Entry>, BlockError> {
        let count = self.count_sectors();
        let mut best: Vec<Entry> = Vec::new();
        let mut start = 0;
        while start < count {
            let mut entries: Vec<Entry> = Vec::new();
            let mut sectors = 0;
            while let Some(entry) = self.entry((start + sectors) % count)? {
                let follows = entries.last().is_none_or(|last| last.sequence.checked_add(1) == Some(entry.sequence));
                if !follows || sectors + entry.sectors > count {
                    break;
                }
                sectors += entry.sectors;
                entries.push(entry);
            }
            let head = entries.last().map(|head| (head.sequence, head.tail));
            if let Some((sequence, tail)) = head
                && let Some(from) = entries.iter().position(|entry| entry.start == tail)
                && best.last().is_none_or(|best| sequence > best.sequence)
            {
                best = entries.split_off(from);
            }
            start += sectors.max(1);
        }
        Ok(best)
    }
}

/// Takes an entry with a good checksum apart; `None` where it contradicts itself.
fn parse(bytes: &[u8], start: usize, log_sectors: usize) -> Option<Entry> {
    let (tail, sequence, count) = (le32(bytes, 12) as usize, le64(bytes, 16), le32(bytes, 24) as usize);
    if !tail.is_multiple_of(SECTOR) || tail / SECTOR >= log_sectors || sequence == 0 {
        return None;
    }
    let described = count.checked_mul(DESCRIPTOR_BYTES)?.checked_add(ENTRY_HEADER_BYTES)?.next_multiple_of(SECTOR);
    let descriptors = bytes.get(ENTRY_HEADER_BYTES..described)?.chunks_exact(DESCRIPTOR_BYTES).take(count);
    let mut data = bytes.get(described..)?.chunks_exact(SECTOR);
    let mut changes = Vec::new();
    for descriptor in descriptors {
        let at = le64(descriptor, 16);
        if le64(descriptor, 24) != sequence || !at.is_multiple_of(SECTOR as u64) {
            return None;
        }
        if descriptor.starts_with(b"zero") {
            let len = le64(descriptor, 8);
            if !len.is_multiple_of(SECTOR as u64) {
                return None;
            }
            changes.push(Change::Zeroes(at, len));
            continue;
        }
        let sector = data.next().filter(|_| descriptor.starts_with(b"desc"))?;
        // The number's halves stand at the ends of the sector; what they displaced is in the descriptor.
        let halves = u64::from(le32(sector, 4)) << 32 | u64::from(le32(sector, SECTOR - 4));
        if !sector.starts_with(b"data") || halves != sequence {
            return None;
        }
        let mut content = sector.to_vec();
        put(&mut content, 0, descriptor.get(8..16)?);
        put(&mut content, SECTOR - 4, descriptor.get(4..8)?);
        changes.push(Change::Data(at, content));
    }
    Some(Entry {
        sequence,
        start,
        sectors: bytes.len() / SECTOR,
        tail: tail / SECTOR,
        flushed_bytes: le64(bytes, 48),
        last_bytes: le64(bytes, 56),
        changes,
    })
}

/// Replays the log of an image that was not closed, and empties it.
pub(super) fn replay(file: &ImageFile, headers: &mut Headers) -> Result<(), BlockError> {
    if headers.current.log == [0; 16] {
        return Ok(());
    }
    let entries = entries_in_force(file, &headers.current)?;
    if let Some(end_bytes) = check_changes(file, &entries, &headers.current)? {
        apply(file, &entries, end_bytes)?;
    }
    file.sync()?;
    headers.update(file, |header| header.log = [0; 16])
}

/// Shows an image that was not closed, and that is only read, as a replay of its log would leave it. The file stays as
/// it is: its log is replayed by whoever writes next. Takes as much memory as the log, and up to 16 MiB more.
pub(super) fn lay_over(file: &mut ImageFile, header: &Header) -> Result<(), BlockError> {
    if header.log == [0; 16] {
        return Ok(());
    }
    let entries = entries_in_force(file, header)?;
    let Some(end_bytes) = check_changes(file, &entries, header)? else { return Ok(()) };
    let mut overlay = Overlay::default();
    for change in entries.iter().flat_map(|entry| &entry.changes) {
        match change {
            Change::Data(at, bytes) => overlay.put(*at, bytes),
            Change::Zeroes(at, len) => overlay.zero(*at, *len),
        }
    }
    file.lay_over(overlay, end_bytes);
    Ok(())
}

fn entries_in_force(file: &ImageFile, header: &Header) -> Result<Vec<Entry>, BlockError> {
    let bytes = file.read_metadata(header.log_at, header.log_bytes as usize, "log")?;
    let budget = bytes.len() * MAX_PASSES;
    Ring { bytes, log: header.log, budget }.active()
}

/// Checks everything that a replay changes before anything is changed. Says how long it makes the file; `None` where
/// there is nothing to replay.
fn check_changes(file: &ImageFile, entries: &[Entry], header: &Header) -> Result<Option<u64>, BlockError> {
    let log = header.log_at..header.log_at.saturating_add(u64::from(header.log_bytes));
    let Some(head) = entries.last() else { return Ok(None) };
    let file_bytes = file.len_bytes();
    if file_bytes < head.flushed_bytes {
        return Err(corrupt(format!("the VHDX file was cut to {file_bytes:#x} bytes")));
    }
    // Blocks of the largest disk, its table and as much again.
    if head.last_bytes > 2 * MAX_BYTES {
        return Err(corrupt(format!("a VHDX log that makes the file {:#x} bytes long", head.last_bytes)));
    }
    let end_bytes = file_bytes.max(head.last_bytes);
    let mut zeroes = 0u64;
    for change in entries.iter().flat_map(|entry| &entry.changes) {
        let (at, len) = match change {
            Change::Data(at, bytes) => (*at, bytes.len() as u64),
            Change::Zeroes(at, len) => {
                zeroes = zeroes.saturating_add(*len);
                (*at, *len)
            }
        };
        let end = at.checked_add(len);
        let in_log = at < log.end && end.is_some_and(|end| end > log.start);
        // The headers are not changed by way of the log.
        let in_headers = at < HEADER_AT[1] + (64 << 10);
        if end.is_none_or(|end| end > end_bytes) || in_log || in_headers || zeroes > MAX_ZEROES_BYTES {
            return Err(corrupt(format!("a VHDX log that changes {len:#x} bytes at {at:#x}")));
        }
    }
    Ok(Some(if file_bytes < end_bytes { end_bytes.next_multiple_of(MIB) } else { file_bytes }))
}

fn apply(file: &ImageFile, entries: &[Entry], end_bytes: u64) -> Result<(), BlockError> {
    file.grow(end_bytes)?;
    for change in entries.iter().flat_map(|entry| &entry.changes) {
        match change {
            Change::Data(at, bytes) => file.write_bytes(*at, bytes)?,
            Change::Zeroes(at, len) => file.zero(*at, *len)?,
        }
    }
    Ok(())
}

/// The entry that writes `pages` of 4 KiB each, at most 120, for the start of the log. `file_bytes` of the file are
/// durable.
pub(super) fn entry(pages: &[(u64, &[u8])], log: &Guid, sequence: u64, file_bytes: u64) -> Vec<u8> {
    let described = (ENTRY_HEADER_BYTES + pages.len() * DESCRIPTOR_BYTES).next_multiple_of(SECTOR);
    let mut bytes = vec![0; described + pages.len() * SECTOR];
    put(&mut bytes, 0, b"loge");
    let len = bytes.len() as u32;
    put(&mut bytes, 8, &len.to_le_bytes());
    // The tail, at 12, is this entry: all before it is done.
    put(&mut bytes, 16, &sequence.to_le_bytes());
    put(&mut bytes, 24, &(pages.len() as u32).to_le_bytes());
    put(&mut bytes, 32, log);
    put(&mut bytes, 48, &file_bytes.to_le_bytes());
    put(&mut bytes, 56, &file_bytes.to_le_bytes());
    let (high, low) = ((sequence >> 32) as u32, (sequence & u64::from(u32::MAX)) as u32);
    for (index, (at, page)) in pages.iter().enumerate() {
        let descriptor = ENTRY_HEADER_BYTES + index * DESCRIPTOR_BYTES;
        put(&mut bytes, descriptor, b"desc");
        put(&mut bytes, descriptor + 4, &bytes_at::<4>(page, SECTOR - 4));
        put(&mut bytes, descriptor + 8, &bytes_at::<8>(page, 0));
        put(&mut bytes, descriptor + 16, &at.to_le_bytes());
        put(&mut bytes, descriptor + 24, &sequence.to_le_bytes());
        let sector = described + index * SECTOR;
        put(&mut bytes, sector, page);
        put(&mut bytes, sector, b"data");
        put(&mut bytes, sector + 4, &high.to_le_bytes());
        put(&mut bytes, sector + SECTOR - 4, &low.to_le_bytes());
    }
    let sum = checksum(&bytes);
    put(&mut bytes, 4, &sum.to_le_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: Guid = [7; 16];

    fn ring(sectors: usize) -> Ring {
        Ring { bytes: vec![0; sectors * SECTOR], log: LOG, budget: sectors * SECTOR * MAX_PASSES }
    }

    /// An entry of one page at a place of a ring, with a tail.
    fn put_entry(ring: &mut Ring, at: usize, tail: usize, sequence: u64, fill: u8) {
        let page = [fill; SECTOR];
        let mut bytes = entry(&[(1 << 20, &page)], &LOG, sequence, 2 << 20);
        put(&mut bytes, 12, &((tail * SECTOR) as u32).to_le_bytes());
        let sum = checksum(&bytes);
        put(&mut bytes, 4, &sum.to_le_bytes());
        let count = ring.count_sectors();
        for (index, sector) in bytes.chunks(SECTOR).enumerate() {
            put(&mut ring.bytes, (at + index) % count * SECTOR, sector);
        }
    }

    fn active(ring: &mut Ring) -> Vec<u64> {
        ring.active().unwrap().iter().map(|entry| entry.sequence).collect()
    }

    #[test]
    fn an_entry_comes_back() {
        let mut ring = ring(8);
        assert!(active(&mut ring).is_empty());
        put_entry(&mut ring, 0, 0, 3 << 32 | 5, 0xaa);
        let entries = ring.active().unwrap();
        assert_eq!(entries[0].changes, [Change::Data(1 << 20, vec![0xaa; SECTOR])]);
        assert_eq!((entries[0].flushed_bytes, entries[0].sectors), (2 << 20, 2));
        for at in 0..2 * SECTOR {
            ring.bytes[at] ^= 1;
            ring.budget = 1 << 20;
            assert!(ring.active().unwrap().is_empty(), "byte {at}");
            ring.bytes[at] ^= 1;
        }
    }

    #[test]
    fn a_sequence_goes_around_the_end_and_begins_at_the_tail() {
        let mut ring = ring(10);
        // Two old entries, then three in force, of which the last says that the first is done.
        put_entry(&mut ring, 2, 2, 1, 1);
        put_entry(&mut ring, 6, 6, 10, 2);
        put_entry(&mut ring, 8, 6, 11, 3);
        put_entry(&mut ring, 0, 8, 12, 4);
        assert_eq!(active(&mut ring), [11, 12]);
        // A tail that is not in the sequence makes it void, and an older one serves.
        put_entry(&mut ring, 0, 4, 12, 4);
        assert_eq!(active(&mut ring), [1]);
        // Another log's entries are none.
        ring.log = [8; 16];
        assert!(active(&mut ring).is_empty());
    }

    #[test]
    fn overlapping_entries_end_the_search() {
        let mut ring = ring(1024);
        for sector in 0..1024 {
            put(&mut ring.bytes, sector * SECTOR, b"loge");
            put(&mut ring.bytes, sector * SECTOR + 8, &(1024 * SECTOR as u32).to_le_bytes());
            put(&mut ring.bytes, sector * SECTOR + 32, &LOG);
        }
        assert!(ring.active().is_err());
    }
}
