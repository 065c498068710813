//! Giving clusters back. What was discarded reads as zeroes, always.

use benchtop_block::BlockError;
use benchtop_memory::VolatileSlice;

use super::Qcow2Disk;
use super::layout::{Entry, Standard};
use super::read::Source;

/// Zeroes written at once where a part of a cluster must be overwritten, in bytes.
const ZEROES_BYTES: u64 = 256 << 10;

impl Qcow2Disk {
    /// Carries out a discard that was checked, a few clusters at a time.
    ///
    /// # Errors
    /// As [`discard`](benchtop_block::DiskBackend::discard).
    pub(super) fn discard_range(&self, start: u64, len: u64) -> Result<(), BlockError> {
        let layout = &self.header.layout;
        // The rest of the last cluster is nobody's.
        let disk_end = self.header.size_bytes;
        let mut end = start.saturating_add(len);
        if end == disk_end {
            end = end.next_multiple_of(layout.cluster_bytes());
        }
        let mut at = start;
        while at < end {
            self.commit_if_due()?;
            let per_table = layout.l2_entries();
            let first = at >> layout.cluster_bits;
            let next_table = (first / per_table + 1).saturating_mul(per_table);
            let untouched = self.meta.lock().has_no_table(first)? && self.is_past_backing(at);
            let clusters = if untouched { next_table } else { (first + self.step_clusters()).min(next_table) };
            let stop = clusters.checked_mul(layout.cluster_bytes()).unwrap_or(end).min(end);
            let _held = self.ranges.hold(first, (stop - 1) >> layout.cluster_bits, true);
            if !(self.meta.lock().has_no_table(first)? && self.is_past_backing(at)) {
                self.discard_step(at, stop)?;
            }
            at = stop;
        }
        Ok(())
    }

    /// Discards a range of few clusters, all of which the caller holds alone.
    fn discard_step(&self, start: u64, end: u64) -> Result<(), BlockError> {
        let layout = &self.header.layout;
        for (cluster, part) in layout.clusters(start, end) {
            let cluster_start = cluster << layout.cluster_bits;
            for rest in self.discard_cluster(cluster, part.start, part.end)? {
                self.write_zeroes(cluster_start + rest.start, cluster_start + rest.end)?;
            }
        }
        Ok(())
    }

    /// Changes the entry of a cluster as far as whole subclusters go, and says which parts must be overwritten.
    fn discard_cluster(&self, cluster: u64, from: u64, to: u64) -> Result<Vec<std::ops::Range<u64>>, BlockError> {
        let layout = &self.header.layout;
        let (size, cluster_start) = (layout.subcluster_bytes(), cluster << layout.cluster_bits);
        let mut meta = self.meta.lock();
        let old = meta.entry(cluster, &self.file)?;
        let whole = from == 0 && to == layout.cluster_bytes();
        // Version 2 has no way to say that a cluster hides the backing file's bytes.
        let hides = !self.is_past_backing(cluster_start);
        let says_zero = layout.version >= 3;
        let entry = match old {
            Entry::Standard(entry) => entry,
            Entry::Compressed(_) if whole => Standard { alloc: layout.full_mask(), ..Standard::default() },
            Entry::Compressed(_) => return Ok(std::iter::once(from..to).collect()),
        };
        let inside = layout.mask(from.next_multiple_of(size), to - to % size);
        let inside = if hides && !says_zero { 0 } else { inside };
        let mut new = Standard { alloc: entry.alloc & !inside, ..entry };
        if hides {
            new.zero |= inside;
        }
        if new.alloc == 0 && inside != 0 {
            // Without a host cluster the entry of the plain format says "zeroes" by its one bit only.
            (new.host, new.copied) = (None, false);
        }
        if Entry::Standard(new) != old && inside != 0 {
            meta.set_entry(cluster, &old, &new, &self.file)?;
        }
        // Of what is left, only what can be seen.
        let touched = layout.mask(from, to) & !inside;
        let mut rest: Vec<std::ops::Range<u64>> = Vec::new();
        for index in (0..layout.subclusters()).filter(|index| touched & (1 << index) != 0) {
            let first = u64::from(index) * size;
            if self.source(&new, index, cluster_start + first) == Source::Zeroes {
                continue;
            }
            let part = first.max(from)..(first + size).min(to);
            match rest.last_mut() {
                Some(last) if last.end == part.start => last.end = part.end,
                _ => rest.push(part),
            }
        }
        Ok(rest)
    }

    fn write_zeroes(&self, start: u64, end: u64) -> Result<(), BlockError> {
        let mut zeroes = vec![0; (end - start).min(ZEROES_BYTES) as usize];
        let mut at = start;
        while at < end {
            let len = (end - at).min(ZEROES_BYTES);
            let part = zeroes.get_mut(..len as usize).unwrap_or_default();
            self.write_step(at, &[VolatileSlice::from(part)])?;
            at += len;
        }
        Ok(())
    }
}
