//! Sets of places.

use std::collections::BTreeMap;

/// A set of places, as runs: a file may claim billions of them.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Places {
    /// First place of a run, and the one after its last.
    runs: BTreeMap<u32, u32>,
    count: u64,
}

impl Places {
    /// How many.
    pub fn len(&self) -> u64 {
        self.count
    }

    /// Adds `from..until`, of which none is in the set.
    pub fn insert_range(&mut self, from: u32, until: u32) {
        if from >= until {
            return;
        }
        self.count += u64::from(until - from);
        let until = self.runs.remove(&until).unwrap_or(until);
        match self.runs.range_mut(..from).next_back() {
            Some((_, end)) if *end == from => *end = until,
            _ => {
                self.runs.insert(from, until);
            }
        }
    }

    /// Adds one that is not in the set.
    pub fn insert(&mut self, place: u32) {
        if let Some(after) = place.checked_add(1) {
            self.insert_range(place, after);
        }
    }

    /// Takes a place out; false when it is not in the set.
    pub fn remove(&mut self, place: u32) -> bool {
        let Some((&from, &until)) = self.runs.range(..=place).next_back() else { return false };
        if place >= until {
            return false;
        }
        self.runs.remove(&from);
        if from < place {
            self.runs.insert(from, place);
        }
        if place + 1 < until {
            self.runs.insert(place + 1, until);
        }
        self.count -= 1;
        true
    }

    /// Takes the first one out.
    pub fn take_first(&mut self) -> Option<u32> {
        let (&from, _) = self.runs.first_key_value()?;
        self.remove(from).then_some(from)
    }

    /// The runs: first place, and the one after the last.
    pub fn runs(&self) -> impl Iterator<Item = (u32, u32)> + '_ {
        self.runs.iter().map(|(from, until)| (*from, *until))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_a_set() {
        let mut places = Places::default();
        places.insert_range(0, 10);
        assert!(places.remove(3) && places.remove(0) && places.remove(9));
        assert!(!places.remove(3) && !places.remove(10));
        assert_eq!(places.runs, BTreeMap::from([(1, 3), (4, 9)]));
        places.insert(3);
        places.insert(9);
        assert_eq!((places.take_first(), places.len()), (Some(1), 8));
        assert_eq!(places.runs, BTreeMap::from([(2, 10)]));
    }
}
