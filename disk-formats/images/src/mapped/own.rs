//! What of an image's file is the image's own: headers and tables, where no block of the disk may lie.

use std::ops::Range;

use benchtop_block::BlockError;

use crate::error::corrupt;

/// Ranges of a file, in bytes.
#[derive(Debug)]
pub(crate) struct Own {
    /// In order, and neither overlapping nor touching.
    ranges: Vec<Range<u64>>,
    /// What is wrong with them: how often, and the first in words.
    damages: u64,
    finding: Option<String>,
}

impl Own {
    /// Of ranges in any order, none of which may share a byte with another.
    pub(crate) fn new(mut ranges: Vec<Range<u64>>) -> Self {
        ranges.sort_unstable_by_key(|range| (range.start, range.end));
        let mut own = Self { ranges: Vec::new(), damages: 0, finding: None };
        for range in ranges {
            if range.is_empty() {
                continue;
            }
            match own.ranges.last_mut() {
                Some(last) if range.start <= last.end => {
                    let shared = range.start < last.end;
                    last.end = last.end.max(range.end);
                    if shared {
                        own.damage(format!("two tables or headers share room at {:#x}", range.start));
                    }
                }
                _ => own.ranges.push(range),
            }
        }
        own
    }

    /// Notes something else that is wrong with them.
    pub(crate) fn damage(&mut self, what: String) {
        self.damages = self.damages.saturating_add(1);
        self.finding.get_or_insert(what);
    }

    /// What is wrong with them, if anything: how often, and the first in words.
    pub(crate) fn damages(&self) -> Option<(u64, &str)> {
        self.finding.as_deref().map(|finding| (self.damages, finding))
    }

    /// Refuses what is wrong, as a writer must.
    ///
    /// # Errors
    /// `Corrupt`.
    pub(crate) fn require_sound(&self) -> Result<(), BlockError> {
        match &self.finding {
            None => Ok(()),
            Some(finding) => Err(corrupt(format!("{finding}; the image can be opened read-only"))),
        }
    }

    /// Whether any byte from `start` to `end` is the image's own.
    pub(crate) fn holds(&self, start: u64, end: u64) -> bool {
        let next = self.ranges.partition_point(|range| range.end <= start);
        self.ranges.get(next).is_some_and(|range| range.start < end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_no_overlap_and_one_shared_byte_is() {
        let own = Own::new(vec![512..1024, 0..512, 4096..8192, 9000..9000]);
        assert_eq!(own.damages(), None);
        own.require_sound().unwrap();
        assert!(own.holds(0, 1) && own.holds(1000, 4096) && own.holds(0, u64::MAX) && own.holds(8191, 8192));
        assert!(!own.holds(1024, 4096) && !own.holds(8192, u64::MAX));
        let own = Own::new(vec![0..512, 2048..4096, 511..600, 2048..4096]);
        assert_eq!(own.damages().unwrap().0, 2);
        own.require_sound().unwrap_err();
    }
}
