//! Restore points, and the blocks that only they still need.
//!
//! Records are numbered, and everything in the file has a lifetime in these numbers: a block of the guest from the
//! record that wrote it to the one that overwrote it; a page of the map from the checkpoint that wrote it to the one
//! that replaced it; a record from its own number to the checkpoint that took it up. A block is needed while it is
//! alive now, or was alive at a point that is kept. So one rule frees everything.

use serde::{Deserialize, Serialize};

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

/// Unnamed points that are kept, at most: an opening reads them all.
const UNNAMED_MAX: usize = 100_000;

/// All points.
#[derive(Clone, Debug, Default)]
pub struct Points {
    /// Ascending.
    points: Vec<Point>,
}

impl Points {
    /// From a head. `None` when they are not in order.
    pub fn restore(points: Vec<Point>) -> Option<Self> {
        points.is_sorted_by(|a, b| a.seq < b.seq).then_some(Self { points })
    }

    /// The points, oldest first.
    pub fn all(&self) -> &[Point] {
        &self.points
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

    /// Whether there is such a point.
    pub fn has(&self, seq: u64) -> bool {
        self.find(seq).is_ok()
    }

    /// A point that was dropped counts again for what is needed.
    pub fn put_back(&mut self, seq: u64) {
        if let Err(index) = self.find(seq) {
            self.points.insert(index, Point { seq, time_ms: 0, name: None });
        }
    }

    /// Those up to record `seq`.
    pub fn until(&self, seq: u64) -> Self {
        Self { points: self.points[..self.points.partition_point(|point| point.seq <= seq)].to_vec() }
    }

    /// Drops a point. What only it needed goes at the next checkpoint.
    pub fn drop_point(&mut self, seq: u64) -> bool {
        match self.find(seq) {
            Ok(index) => {
                self.points.remove(index);
                true
            }
            Err(_) => false,
        }
    }

    /// Drops these, which are in order.
    pub fn drop_all(&mut self, gone: &[u64]) {
        self.points.retain(|point| gone.binary_search(&point.seq).is_err());
    }

    /// Whether a point needs what lived in `birth..death`.
    pub fn needs(&self, birth: u64, death: u64) -> bool {
        let at = self.points.partition_point(|point| point.seq < birth);
        self.points.get(at).is_some_and(|point| point.seq < death)
    }

    /// The last point before record `seq`.
    pub fn last_before(&self, seq: u64) -> Option<u64> {
        let at = self.points.partition_point(|point| point.seq < seq);
        self.points.get(at.checked_sub(1)?).map(|point| point.seq)
    }

    /// The only point that needs what lived in `birth..death`, if there is but one.
    pub fn needed_only_by(&self, birth: u64, death: u64) -> Option<u64> {
        let at = self.points.partition_point(|point| point.seq < birth);
        let only = self.points.get(at).filter(|point| point.seq < death)?;
        let next = self.points.get(at + 1).is_some_and(|point| point.seq < death);
        (!next).then_some(only.seq)
    }

    /// Drops unnamed points as `retention` wants it by their age; says which, in order.
    pub fn thin(&mut self, retention: &Retention, now_ms: u64) -> Vec<u64> {
        let mut hours = std::collections::HashSet::new();
        let mut gone = Vec::new();
        let unnamed = self.points.iter().filter(|point| point.name.is_none()).count();
        // Too many: of the older half, every second goes.
        let mut halved = if unnamed > UNNAMED_MAX { unnamed / 2 } else { 0 };
        self.points.retain(|point| {
            let age = now_ms.saturating_sub(point.time_ms);
            let slot = match age {
                _ if point.name.is_some() => return true,
                _ if !retention.every_flush => None,
                age if age <= retention.all_ms => {
                    halved = halved.saturating_sub(1);
                    if halved % 2 == 0 {
                        return true;
                    }
                    None
                }
                age if age <= retention.hourly_ms => Some((1, point.time_ms / HOUR_MS)),
                _ => Some((24, point.time_ms / (24 * HOUR_MS))),
            };
            // The first of an hour or a day stays for it.
            let stays = slot.is_some_and(|slot| hours.insert(slot));
            if !stays {
                gone.push(point.seq);
            }
            stays
        });
        gone
    }

    /// Drops the oldest eighth of the unnamed points; says which, in order.
    pub fn drop_oldest(&mut self) -> Vec<u64> {
        let unnamed = self.points.iter().filter(|point| point.name.is_none());
        let most = unnamed.clone().count().div_ceil(8);
        let gone: Vec<u64> = unnamed.take(most).map(|point| point.seq).collect();
        self.drop_all(&gone);
        gone
    }
}

impl Retention {
    /// Blocks that points may hold beyond what is live.
    pub fn budget_blocks(&self, live_blocks: u64) -> u64 {
        let bytes = (live_blocks.saturating_mul(4096) / 100).saturating_mul(self.budget_percent);
        bytes.max(self.budget_min_bytes) / 4096
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_kept_for_the_points_it_lived_at() {
        let mut points = Points::default();
        points.add(10, 0);
        points.add(20, 0);
        assert!(!points.needs(3, 10), "dead before the first point");
        assert!(!points.needs(11, 20), "born and dead between two");
        assert!(points.needs(10, 11) && points.needs(5, 25));
        assert!(!points.needs(21, 30));
        let only = [(10, 11), (5, 25), (11, 21), (1, 2)].map(|(birth, death)| points.needed_only_by(birth, death));
        assert_eq!(only, [Some(10), None, Some(20), None]);
        assert_eq!([10, 11, 21].map(|seq| points.last_before(seq)), [None, Some(10), Some(20)]);
        points.drop_all(&[10]);
        assert!(!points.needs(10, 11) && points.needs(5, 25));
    }

    #[test]
    fn old_points_are_thinned_and_named_ones_stay() {
        let mut points = Points::default();
        let day = 24 * HOUR_MS;
        for minute in 0..(10 * 24 * 60) {
            points.add(minute, minute * 60_000);
        }
        points.name(1, 0, "first");
        let all = points.all().len();
        let gone = points.thin(&Retention::default(), 10 * day);
        assert_eq!(points.all().len() + gone.len(), all);
        assert!(gone.is_sorted());
        let counts = points.all().iter().filter(|point| point.name.is_none()).fold([0; 3], |mut counts, point| {
            let age = 10 * day - point.time_ms;
            let class = if age <= day { 0 } else { 1 + usize::from(age > 7 * day) };
            counts[class] += 1;
            counts
        });
        assert_eq!(counts, [24 * 60, 6 * 24, 3]);
        assert_eq!(points.all().iter().filter(|point| point.name.is_some()).count(), 1);
    }

    #[test]
    fn there_are_never_too_many() {
        let mut points = Points::default();
        for seq in 0..=UNNAMED_MAX as u64 {
            points.add(seq, seq);
        }
        let gone = points.thin(&Retention::default(), 0);
        assert_eq!(gone.len(), UNNAMED_MAX / 4);
        assert!(gone.iter().all(|seq| *seq < UNNAMED_MAX as u64 / 2 + 1));
    }

    #[test]
    fn the_budget_takes_the_oldest() {
        let mut points = Points::default();
        (1..=16).for_each(|seq| points.add(seq, seq));
        points.name(1, 1, "kept");
        assert_eq!(points.drop_oldest(), [2, 3]);
        assert_eq!(points.all().first().unwrap().seq, 1);
        let blocks = Retention::default().budget_blocks(1 << 30);
        assert!((200 << 20..205 << 20).contains(&blocks), "a fifth: {blocks}");
    }
}
