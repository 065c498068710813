//! Restore points, and the blocks that only they still need.
//!
//! Records are numbered, and everything in the file has a lifetime in these numbers: a block of the guest from the
//! record that wrote it to the one that overwrote it; a page of the map from the checkpoint that wrote it to the one
//! that replaced it; a record from its own number to the checkpoint that took it up. A block is needed while it is
//! alive now, or was alive at a point that is kept. So one rule frees everything.

use serde::{Deserialize, Serialize};

use crate::layout::Address;

/// A state that can be returned to: all records up to and with this one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Point {
    /// The record that closed it.
    pub seq: u64,
    /// When, in milliseconds since 1970.
    pub time_ms: u64,
    /// A snapshot's.
    pub name: Option<String>,
}

/// A block that is not needed now, but was alive in `birth..death`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grave {
    /// Which.
    pub address: Address,
    /// From this record on it was alive.
    pub birth: u64,
    /// In this one no longer.
    pub death: u64,
}

/// Which points are kept on their own account. Named ones always are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retention {
    /// Every flush makes a point.
    pub every_flush: bool,
    /// All points of the last so many milliseconds are kept.
    pub all_ms: u64,
    /// After that one an hour, for so long.
    pub hourly_ms: u64,
    /// After that one a day. Space for points beyond what is live: so many percent of what is live.
    pub budget_percent: u64,
    /// But at least so many bytes.
    pub budget_min_bytes: u64,
}

const HOUR_MS: u64 = 3_600_000;

impl Retention {
    /// No points but named ones.
    pub const OFF: Self = Self { every_flush: false, all_ms: 0, hourly_ms: 0, budget_percent: 0, budget_min_bytes: 0 };
}

impl Default for Retention {
    /// All for a day, hourly for a week, then daily; a fifth of the live data, at least 1 GiB.
    fn default() -> Self {
        Self {
            every_flush: true,
            all_ms: 24 * HOUR_MS,
            hourly_ms: 7 * 24 * HOUR_MS,
            budget_percent: 20,
            budget_min_bytes: 1 << 30,
        }
    }
}

/// All points and graves.
#[derive(Clone, Debug, Default)]
pub struct Points {
    /// Ascending.
    points: Vec<Point>,
    graves: Vec<Grave>,
}

impl Points {
    /// From a head. `None` when they are not in order.
    pub fn restore(points: Vec<Point>, graves: Vec<Grave>) -> Option<Self> {
        points.is_sorted_by(|a, b| a.seq < b.seq).then_some(Self { points, graves })
    }

    /// The points, oldest first.
    pub fn all(&self) -> &[Point] {
        &self.points
    }

    /// The graves.
    pub fn graves(&self) -> &[Grave] {
        &self.graves
    }

    /// A flush ended with record `seq`, which is the newest.
    pub fn add(&mut self, seq: u64, time_ms: u64) {
        if self.points.last().is_none_or(|last| last.seq < seq) {
            self.points.push(Point { seq, time_ms, name: None });
        }
    }

    fn find(&self, seq: u64) -> Result<usize, usize> {
        self.points.binary_search_by_key(&seq, |point| point.seq)
    }

    /// Names the point, which is made if it is the newest record.
    pub fn name(&mut self, seq: u64, time_ms: u64, name: &str) {
        match self.find(seq) {
            Ok(index) => self.points[index].name = Some(name.to_owned()),
            Err(index) => self.points.insert(index, Point { seq, time_ms, name: Some(name.to_owned()) }),
        }
    }

    /// Drops a point. What only it needed goes with the next [`sweep`](Self::sweep).
    pub fn drop_point(&mut self, seq: u64) -> bool {
        match self.find(seq) {
            Ok(index) => {
                self.points.remove(index);
                true
            }
            Err(_) => false,
        }
    }

    /// Whether a point that is kept needs what lived in `birth..death`.
    fn needs(points: &[Point], birth: u64, death: u64) -> bool {
        let at = points.partition_point(|point| point.seq < birth);
        points.get(at).is_some_and(|point| point.seq < death)
    }

    /// A block died. True when nobody needs it any more; otherwise it is kept in mind.
    pub fn bury(&mut self, grave: Grave) -> bool {
        if !Self::needs(&self.points, grave.birth, grave.death) {
            return true;
        }
        self.graves.push(grave);
        false
    }

    /// Gives out the blocks that no point needs any more.
    pub fn sweep(&mut self) -> Vec<Address> {
        let Self { points, graves } = self;
        let mut gone = Vec::new();
        graves.retain(|grave| {
            let needed = Self::needs(points, grave.birth, grave.death);
            if !needed {
                gone.push(grave.address);
            }
            needed
        });
        gone
    }

    /// Takes these out of their graves: they are alive again.
    pub fn raise(&mut self, alive: &std::collections::HashSet<Address>) {
        self.graves.retain(|grave| !alive.contains(&grave.address));
    }

    /// Blocks that would be free if the point were dropped.
    pub fn held_only_by(&self, seq: u64) -> u64 {
        let Ok(index) = self.find(seq) else { return 0 };
        let before = index.checked_sub(1).and_then(|index| self.points.get(index)).map(|point| point.seq);
        let after = self.points.get(index + 1).map(|point| point.seq);
        let only = |grave: &&Grave| {
            (grave.birth..grave.death).contains(&seq)
                && before.is_none_or(|before| before < grave.birth)
                && after.is_none_or(|after| after >= grave.death)
        };
        self.graves.iter().filter(only).count() as u64
    }

    /// Drops unnamed points as `retention` wants it, given the time and how many blocks are live now.
    pub fn thin(&mut self, retention: &Retention, now_ms: u64, live_blocks: u64) {
        let mut hours = std::collections::HashSet::new();
        self.points.retain(|point| {
            let age = now_ms.saturating_sub(point.time_ms);
            let slot = match age {
                _ if point.name.is_some() => return true,
                _ if !retention.every_flush => return false,
                age if age <= retention.all_ms => return true,
                age if age <= retention.hourly_ms => (1, point.time_ms / HOUR_MS),
                _ => (24, point.time_ms / (24 * HOUR_MS)),
            };
            // The first of an hour or a day stays for it.
            hours.insert(slot)
        });
        let budget_bytes = (live_blocks.saturating_mul(4096) / 100).saturating_mul(retention.budget_percent);
        let budget_blocks = budget_bytes.max(retention.budget_min_bytes) / 4096;
        while self.needed_graves() > budget_blocks {
            let unnamed = self.points.iter().filter(|point| point.name.is_none()).count();
            if unnamed == 0 {
                return;
            }
            // The oldest go first, an eighth at a time.
            let mut left = unnamed.div_ceil(8);
            self.points.retain(|point| {
                let goes = point.name.is_none() && left > 0;
                left -= usize::from(goes);
                !goes
            });
        }
    }

    fn needed_graves(&self) -> u64 {
        self.graves.iter().filter(|grave| Self::needs(&self.points, grave.birth, grave.death)).count() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grave(number: u64, birth: u64, death: u64) -> Grave {
        Grave { address: Address::new(1, number), birth, death }
    }

    #[test]
    fn a_block_is_kept_for_the_points_it_lived_at() {
        let mut points = Points::default();
        points.add(10, 0);
        points.add(20, 0);
        assert!(points.bury(grave(1, 3, 10)), "dead before the first point");
        assert!(points.bury(grave(2, 11, 20)), "born and dead between two");
        assert!(!points.bury(grave(3, 10, 11)));
        assert!(!points.bury(grave(4, 5, 25)));
        assert!(points.bury(grave(5, 21, 30)));
        assert_eq!((points.held_only_by(10), points.held_only_by(20)), (1, 0));
        points.drop_point(10);
        assert_eq!(points.sweep(), [Address::new(1, 3)]);
        assert_eq!(points.held_only_by(20), 1);
        points.drop_point(20);
        assert_eq!(points.sweep(), [Address::new(1, 4)]);
    }

    #[test]
    fn old_points_are_thinned_and_named_ones_stay() {
        let mut points = Points::default();
        let day = 24 * HOUR_MS;
        for minute in 0..(10 * 24 * 60) {
            points.add(minute, minute * 60_000);
        }
        points.name(1, 0, "first");
        points.thin(&Retention::default(), 10 * day, 0);
        let counts = points.all().iter().filter(|point| point.name.is_none()).fold([0; 3], |mut counts, point| {
            let age = 10 * day - point.time_ms;
            counts[if age <= day {
                0
            } else if age <= 7 * day {
                1
            } else {
                2
            }] += 1;
            counts
        });
        assert_eq!(counts, [24 * 60, 6 * 24, 3]);
        assert_eq!(points.all().iter().filter(|point| point.name.is_some()).count(), 1);
    }

    #[test]
    fn the_budget_takes_the_oldest() {
        let mut points = Points::default();
        for seq in 1..=16 {
            points.add(seq, seq);
            assert!(!points.bury(grave(seq, seq, seq + 1)));
        }
        let retention = Retention { budget_min_bytes: 8 * 4096, ..Retention::default() };
        points.thin(&retention, 16, 0);
        assert_eq!(points.sweep().len(), 8);
        assert_eq!(points.all().first().unwrap().seq, 9);
    }
}
