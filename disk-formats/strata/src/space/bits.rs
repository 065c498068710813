//! A bit for every block of a segment.

use crate::layout::SEGMENT_BLOCKS;

const WORDS: usize = (SEGMENT_BLOCKS / 64) as usize;

/// Some of a segment's blocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bits([u64; WORDS]);

impl Bits {
    /// No block.
    pub const NONE: Self = Self([0; WORDS]);
    /// All of them.
    pub const ALL: Self = Self([u64::MAX; WORDS]);

    /// Puts a block in or takes it out; says whether that changed anything.
    pub fn set(&mut self, slot: u64, to: bool) -> bool {
        let Some(word) = self.0.get_mut((slot / 64) as usize) else { return false };
        let bit = 1 << (slot % 64);
        let was = *word & bit != 0;
        *word = if to { *word | bit } else { *word & !bit };
        was != to
    }

    /// Whether a block is in it.
    pub fn has(&self, slot: u64) -> bool {
        self.0.get((slot / 64) as usize).is_some_and(|word| word >> (slot % 64) & 1 == 1)
    }

    /// How many.
    pub fn count(&self) -> u64 {
        self.0.iter().map(|word| u64::from(word.count_ones())).sum()
    }

    /// How many before `slot`.
    pub fn rank(&self, slot: u64) -> u64 {
        let (word, bit) = ((slot / 64) as usize, slot % 64);
        let whole: u64 = self.0.iter().take(word).map(|word| u64::from(word.count_ones())).sum();
        let part = self.0.get(word).map_or(0, |word| (word & ((1 << bit) - 1)).count_ones());
        whole + u64::from(part)
    }

    /// Those that `other` has, too.
    pub fn and(&self, other: &Self) -> Self {
        let mut both = Self::NONE;
        for (both, (a, b)) in both.0.iter_mut().zip(self.0.iter().zip(&other.0)) {
            *both = a & b;
        }
        both
    }

    /// Those of both.
    pub fn or(&self, other: &Self) -> Self {
        let mut either = Self::NONE;
        for (either, (a, b)) in either.0.iter_mut().zip(self.0.iter().zip(&other.0)) {
            *either = a | b;
        }
        either
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }

    /// Takes the first `count` out, or all.
    pub fn split_off_first(&mut self, count: u64) -> Self {
        let mut first = Self::NONE;
        for slot in self.slots().take(usize::try_from(count).unwrap_or(usize::MAX)).collect::<Vec<_>>() {
            first.set(slot, true);
            self.set(slot, false);
        }
        first
    }

    /// How many blocks from `slot` on are in it without a gap.
    pub fn run(&self, slot: u64) -> u64 {
        (slot..SEGMENT_BLOCKS).take_while(|slot| self.has(*slot)).count() as u64
    }

    /// Whether all of it is in `other`.
    pub fn is_within(&self, other: &Self) -> bool {
        self.0.iter().zip(&other.0).all(|(a, b)| a & !b == 0)
    }

    /// Its blocks, ascending.
    pub fn slots(&self) -> impl Iterator<Item = u64> + '_ {
        (0..SEGMENT_BLOCKS).filter(|slot| self.has(*slot))
    }

    /// As stored: nothing for all blocks, else 128 bytes.
    pub fn save(&self) -> Vec<u8> {
        if *self == Self::ALL { Vec::new() } else { self.0.iter().flat_map(|word| word.to_le_bytes()).collect() }
    }

    /// From what [`save`](Self::save) made.
    pub fn restore(bytes: &[u8]) -> Option<Self> {
        if bytes.is_empty() {
            return Some(Self::ALL);
        }
        let mut words = [0; WORDS];
        if bytes.len() != 8 * WORDS {
            return None;
        }
        for (word, bytes) in words.iter_mut().zip(bytes.chunks(8)) {
            *word = crate::bytes::get_u64(bytes, 0);
        }
        Some(Self(words))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_count_what_is_before() {
        let mut bits = Bits::NONE;
        for slot in [0, 3, 63, 64, 700, 1023] {
            assert!(bits.set(slot, true) && !bits.set(slot, true));
        }
        assert_eq!([0, 1, 3, 4, 64, 65, 1023].map(|slot| bits.rank(slot)), [0, 1, 1, 2, 3, 4, 5]);
        assert_eq!(bits.slots().collect::<Vec<_>>(), [0, 3, 63, 64, 700, 1023]);
        assert_eq!(Bits::restore(&bits.save()), Some(bits.clone()));
        assert_eq!((Bits::ALL.save().len(), Bits::restore(&[]), Bits::restore(&[1])), (0, Some(Bits::ALL), None));
        assert!(bits.is_within(&Bits::ALL) && !Bits::ALL.is_within(&bits));
        assert_eq!([63, 64, 65, 1023].map(|slot| bits.run(slot)), [2, 1, 0, 1]);
        let mut rest = bits.clone();
        let first = rest.split_off_first(2);
        assert_eq!((first.slots().collect::<Vec<_>>(), rest.count()), (vec![0, 3], 4));
        assert!(first.and(&rest).is_empty() && first.and(&bits) == first && !rest.is_empty());
    }
}
