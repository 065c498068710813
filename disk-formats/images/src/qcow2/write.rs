//! Writing: in place where the image holds the clusters alone, else to new ones that are linked when they are filled.

use std::ops::Range;

use benchtop_block::{BlockError, pieces};
use benchtop_memory::VolatileSlice;

use super::Qcow2Disk;
use super::layout::{Entry, Standard};
use super::meta::Meta;
use super::read::Source;

/// Clusters that one step of a write changes, at most, and their bytes; at least one cluster is.
const STEP_CLUSTERS: u64 = 64;
const STEP_BYTES: u64 = 4 << 20;
/// How much is copied around a guest's write at once, in bytes.
const FILL_BYTES: u64 = 256 << 10;

/// What a step does to one guest cluster.
#[derive(Debug)]
struct Plan {
    cluster: u64,
    /// The part of the cluster that is written.
    start: u64,
    end: u64,
    old: Entry,
    new: Standard,
    host: u64,
    /// The host cluster was given out for this, and if so whether it reads as zeroes.
    allocated: Option<bool>,
    /// Subclusters that were not in the host cluster and will be.
    gained: u32,
}

impl Qcow2Disk {
    /// Carries out a write that was checked.
    ///
    /// # Errors
    /// As [`write_at`](benchtop_block::DiskBackend::write_at).
    pub(super) fn write(&self, start: u64, from: &[VolatileSlice<'_>], fua: bool) -> Result<(), BlockError> {
        let end = start.saturating_add(pieces::len_bytes(from));
        if start == end {
            return if fua { self.commit() } else { Ok(()) };
        }
        let bits = self.header.layout.cluster_bits;
        let (first, last) = (start >> bits, (end - 1) >> bits);
        let held = self.ranges.hold(first, last, false);
        if let Some(runs) = self.in_place(start, end)? {
            // One run whose place is durable: a sync of everything else would only cost time.
            let alone = fua && runs.len() == 1 && self.meta.lock().is_clean();
            self.write_runs(&runs, from, alone)?;
            if alone {
                return Ok(());
            }
        } else {
            drop(held);
            let _held = self.ranges.hold(first, last, true);
            let mut rest = pieces::Scatter::new(from);
            let mut at = start;
            while at < end {
                self.commit_if_due()?;
                let stop = (((at >> bits) + self.step_clusters()) << bits).min(end);
                self.write_step(at, &rest.take(stop - at))?;
                at = stop;
            }
        }
        if fua { self.commit() } else { Ok(()) }
    }

    /// How much of the host cluster of a guest cluster the file must hold.
    fn stored_bytes(&self, cluster: u64, entry: &Standard) -> u64 {
        let layout = &self.header.layout;
        entry.stored_bytes(layout, layout.shown_bytes(cluster, self.header.size_bytes))
    }

    pub(super) fn step_clusters(&self) -> u64 {
        (STEP_BYTES >> self.header.layout.cluster_bits).clamp(1, STEP_CLUSTERS)
    }

    /// Where all of a range is, if the image holds all of it alone.
    fn in_place(&self, start: u64, end: u64) -> Result<Option<Vec<Range<u64>>>, BlockError> {
        let layout = &self.header.layout;
        let mut runs: Vec<Range<u64>> = Vec::new();
        let mut meta = self.meta.lock();
        for (cluster, part) in layout.clusters(start, end) {
            let mask = layout.mask(part.start, part.end);
            let Entry::Standard(entry @ Standard { host: Some(host), copied: true, alloc, .. }) =
                meta.entry(cluster, &self.file)?
            else {
                return Ok(None);
            };
            if alloc & mask != mask {
                return Ok(None);
            }
            meta.check_data(host, self.stored_bytes(cluster, &entry), &self.file)?;
            if !meta.is_sole(host, &self.file)? {
                return Ok(None);
            }
            add_run(&mut runs, host + part.start, part.end - part.start);
        }
        Ok(Some(runs))
    }

    fn write_runs(&self, runs: &[Range<u64>], from: &[VolatileSlice<'_>], durably: bool) -> Result<(), BlockError> {
        let mut rest = pieces::Scatter::new(from);
        runs.iter().try_for_each(|run| {
            let part = rest.take(run.end - run.start);
            if durably { self.file.write_durably(run.start, &part) } else { self.file.write(run.start, &part) }
        })
    }

    /// Writes a range of few clusters, all of which the caller holds alone.
    ///
    /// # Errors
    /// As [`write`](Self::write); nothing then changed that a guest could see, or the whole clusters it names did.
    pub(super) fn write_step(&self, start: u64, from: &[VolatileSlice<'_>]) -> Result<(), BlockError> {
        let end = start.saturating_add(pieces::len_bytes(from));
        let mut plans = Vec::new();
        let mut meta = self.meta.lock();
        let planned = self.plan(start, end, &mut meta, &mut plans);
        drop(meta);
        let written = planned.and_then(|()| self.carry_out(&plans, from));
        let mut meta = self.meta.lock();
        let mut result = written.map(|fills| fills.into_iter().for_each(|fill| meta.filled(fill)));
        for plan in &plans {
            if result.is_ok() && Entry::Standard(plan.new) != plan.old {
                result = meta.set_entry(plan.cluster, &plan.old, &plan.new, &self.file);
            }
            if result.is_err() && plan.allocated.is_some() {
                meta.take_back(plan.host, &self.file);
            }
        }
        result
    }

    fn plan(&self, start: u64, end: u64, meta: &mut Meta, plans: &mut Vec<Plan>) -> Result<(), BlockError> {
        let layout = &self.header.layout;
        for (cluster, part) in layout.clusters(start, end) {
            meta.prepare_entry(cluster, &self.file)?;
            let old = meta.entry(cluster, &self.file)?;
            plans.push(self.plan_cluster(cluster, part.start, part.end, old, meta)?);
        }
        Ok(())
    }

    fn plan_cluster(
        &self,
        cluster: u64,
        start: u64,
        end: u64,
        old: Entry,
        meta: &mut Meta,
    ) -> Result<Plan, BlockError> {
        let layout = &self.header.layout;
        let touched = layout.mask(start, end);
        if let Entry::Standard(entry @ Standard { host: Some(host), copied: true, .. }) = old {
            meta.check_data(host, self.stored_bytes(cluster, &entry), &self.file)?;
        }
        if let Entry::Standard(entry @ Standard { host: Some(host), copied: true, alloc, zero }) = old
            && meta.is_sole(host, &self.file)?
        {
            let new = Standard { alloc: alloc | touched, zero: zero & !touched, ..entry };
            return Ok(Plan { cluster, start, end, old, new, host, allocated: None, gained: touched & !alloc });
        }
        // The whole of a compressed cluster moves, and all that a shared one has.
        let (gained, zero) = match old {
            Entry::Compressed(_) => (layout.full_mask(), 0),
            Entry::Standard(entry) => (touched | entry.alloc, entry.zero & !touched),
        };
        let given = meta.allocate(&self.file)?;
        let new = Standard { host: Some(given.host), copied: true, alloc: gained, zero };
        Ok(Plan { cluster, start, end, old, new, host: given.host, allocated: Some(given.is_zero), gained })
    }

    /// Moves the bytes: the guest's, and around them what the subclusters held. Says which ranges of the file the
    /// latter went to.
    fn carry_out(&self, plans: &[Plan], from: &[VolatileSlice<'_>]) -> Result<Vec<Range<u64>>, BlockError> {
        let mut fills = Vec::new();
        let mut runs = Vec::new();
        for plan in plans {
            for range in gaps(plan, self.header.layout.subcluster_bytes()) {
                self.fill(plan, range, &mut fills)?;
            }
            add_run(&mut runs, plan.host + plan.start, plan.end - plan.start);
        }
        self.write_runs(&runs, from, false)?;
        Ok(fills)
    }

    /// Copies a part of a cluster, which lies in whole subclusters but for the guest's side of it, to its new place.
    fn fill(&self, plan: &Plan, range: Range<u64>, fills: &mut Vec<Range<u64>>) -> Result<(), BlockError> {
        let layout = &self.header.layout;
        let cluster_start = plan.cluster << layout.cluster_bits;
        let size = layout.subcluster_bytes();
        let is_zero = match &plan.old {
            Entry::Compressed(_) => false,
            Entry::Standard(entry) => (range.start / size..range.end.div_ceil(size))
                .all(|index| self.source(entry, index as u32, cluster_start + index * size) == Source::Zeroes),
        };
        if is_zero && plan.allocated == Some(true) {
            return Ok(());
        }
        let mut at = range.start;
        while at < range.end {
            let mut bytes = vec![0; (range.end - at).min(FILL_BYTES) as usize];
            let slices = [VolatileSlice::from(&mut bytes[..])];
            // The entry is still the old one, so this is what the disk held.
            if !is_zero {
                self.read_held(cluster_start + at, &slices)?;
            }
            self.file.write(plan.host + at, &slices)?;
            at += slices.iter().map(|slice| slice.len() as u64).sum::<u64>();
        }
        fills.push(plan.host + range.start..plan.host + range.end);
        Ok(())
    }
}

fn add_run(runs: &mut Vec<Range<u64>>, start: u64, len: u64) {
    match runs.last_mut() {
        Some(last) if last.end == start => last.end += len,
        _ => runs.push(start..start + len),
    }
}

/// The parts of a cluster that must be filled beside the guest's bytes.
fn gaps(plan: &Plan, subcluster_bytes: u64) -> Vec<Range<u64>> {
    let mut gaps = Vec::new();
    for index in (0..32u64).filter(|index| plan.gained & (1 << index) != 0) {
        let (first, end) = (index * subcluster_bytes, (index + 1) * subcluster_bytes);
        for part in [first..end.min(plan.start), first.max(plan.end)..end] {
            if part.start < part.end {
                add_run(&mut gaps, part.start, part.end - part.start);
            }
        }
    }
    gaps
}
