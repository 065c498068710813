//! Checking a disk: everything that is said to be there is there, whole, and counted.

use std::collections::HashSet;

use benchtop_block::BlockError;

use crate::StrataDisk;
use crate::core::Core;
use crate::layout::{Address, Pointer, new_block};
use crate::open::Retrace;
use crate::pages::{FANOUT, entry};
use crate::state::Changes;

/// Findings written out, at most.
const FINDINGS_MAX: usize = 100;

/// What a check found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckReport {
    /// Guest blocks and whole pages of them that a repair gave up. Not damage: reading them is an error, as it should be.
    pub lost_blocks: u64,
    /// Guest blocks and records read, of now and of restore points.
    pub blocks: u64,
    /// Pages of maps read.
    pub pages: u64,
    /// What is wrong, the first hundred of it.
    pub damage: Vec<String>,
    /// How much is wrong.
    pub damages: u64,
    /// Blocks of the file that are kept although nothing needs them. Harmless.
    pub leaked_blocks: u64,
}

impl CheckReport {
    fn wrong(&mut self, what: String) {
        self.damages += 1;
        if self.damage.len() < FINDINGS_MAX {
            self.damage.push(what);
        }
    }
}

/// What a check came by.
#[derive(Default)]
struct Seen {
    /// Read, or known to wait for memory or for the next checkpoint.
    addresses: HashSet<Address>,
    /// In a map, where something newer is in its place: it may be free already.
    replaced: HashSet<Address>,
}

impl StrataDisk {
    /// Reads everything: maps and data of now and of every restore point. The disk should be at rest.
    pub fn check(&self) -> CheckReport {
        let core = self.core();
        let mut report = CheckReport::default();
        let mut seen = Seen::default();
        let checkpoints = core.checkpoints.lock();
        let (now, changes, stored, records, points) = {
            let state = core.state.lock();
            let fresh = state.changes.overlay.values().map(|fresh| fresh.pointer);
            let waits = |pointer: &Pointer| state.log.waiting(pointer.birth, pointer.address).is_some();
            let (waiting, mut stored): (Vec<Pointer>, Vec<Pointer>) = fresh.partition(waits);
            stored.sort_unstable_by_key(|pointer| pointer.address);
            seen.addresses.extend(waiting.iter().map(|pointer| pointer.address));
            seen.addresses.extend(state.changes.deaths.iter().map(|grave| grave.address));
            seen.addresses.extend(state.log.record_addresses());
            let points: Vec<u64> = state.points.all().iter().map(|point| point.seq).collect();
            let changes = Changes { overlay: state.changes.overlay.clone(), ..Changes::default() };
            (state.root, changes, stored, state.records.clone(), points)
        };
        core.check_tree(&now.pointer, now.levels, 0, &changes, &mut seen, &mut report);
        stored.iter().for_each(|pointer| core.check_block(pointer, &mut seen, &mut report));
        seen.addresses.extend(records.iter().map(|(address, _)| *address));
        // Of the points of one checkpoint each is found from the one before it.
        let mut retrace: Option<Retrace<'_>> = None;
        for point in points {
            let then = core.base_of(&checkpoints, point).and_then(|base| {
                let mut reached = match retrace.take() {
                    Some(reached) if reached.base == base => reached,
                    _ => Retrace::new(&core.store, &base),
                };
                reached.until(point)?;
                Ok(retrace.insert(reached))
            });
            match then {
                Ok(Retrace { base, replayed, .. }) => {
                    let (root, changes) = (base.root, &replayed.changes);
                    // What changed between the checkpoint and the point may be gone from the checkpoint's map.
                    core.check_tree(&root.pointer, root.levels, 0, changes, &mut seen, &mut report);
                    let mut fresh: Vec<_> = changes.overlay.values().map(|fresh| fresh.pointer).collect();
                    fresh.sort_unstable_by_key(|pointer| pointer.address);
                    fresh.iter().for_each(|pointer| core.check_block(pointer, &mut seen, &mut report));
                }
                Err(error) => report.wrong(format!("restore point {point}: {error}")),
            }
        }
        if let Err(error) = checkpoints.graves.for_each(&core.store, |grave| {
            seen.addresses.insert(grave.address);
        }) {
            report.wrong(error.to_string());
        }
        seen.addresses.extend(checkpoints.graves.list_blocks());
        seen.addresses.extend(seen.replaced);
        report.leaked_blocks = core.store.space.read().unreached(&seen.addresses);
        report
    }
}

impl Core {
    /// A page and what is below it, but for the guest blocks among `changes`. `lba` counts pages of its level.
    fn check_tree(
        &self,
        pointer: &Pointer,
        levels: u8,
        lba: u64,
        changes: &Changes,
        seen: &mut Seen,
        report: &mut CheckReport,
    ) {
        if pointer.is_lost() {
            report.lost_blocks += 1;
            return;
        }
        if pointer.address.is_none() || levels == 0 || !seen.addresses.insert(pointer.address) {
            return;
        }
        if !self.store.space.read().is_live(pointer.address) {
            report.wrong(format!("a page at {:?} is in use and counted as free", pointer.address));
        }
        report.pages += 1;
        let page = match self.store.page(pointer) {
            Ok(page) => page,
            Err(error) => return report.wrong(error.to_string()),
        };
        for index in 0..FANOUT {
            let below = entry(&page, index);
            let lba = lba * FANOUT + index;
            if levels > 1 {
                self.check_tree(&below, levels - 1, lba, changes, seen, report);
            } else if changes.fresh(lba).is_some() {
                seen.replaced.insert(below.address);
            } else {
                self.check_block(&below, seen, report);
            }
        }
    }

    fn check_block(&self, pointer: &Pointer, seen: &mut Seen, report: &mut CheckReport) {
        if pointer.is_lost() {
            report.lost_blocks += 1;
            return;
        }
        if pointer.address.is_none() || !seen.addresses.insert(pointer.address) {
            return;
        }
        report.blocks += 1;
        if !self.store.space.read().is_live(pointer.address) {
            report.wrong(format!("a block at {:?} is in use and counted as free", pointer.address));
        }
        let read = || -> Result<(), BlockError> {
            let mut block = new_block();
            let offset = self.store.locate(pointer)?;
            self.store.medium.read_at(offset, &mut block[..]).map_err(crate::disk::io_error("reading a block"))?;
            self.store.open(pointer, &mut block[..])
        };
        if let Err(error) = read() {
            report.wrong(error.to_string());
        }
    }
}
