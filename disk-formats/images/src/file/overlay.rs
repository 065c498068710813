//! Sectors shown in place of a file's, so that an image can be read as a replay of its log would leave it.

use std::collections::BTreeMap;

use benchtop_block::pieces;
use benchtop_memory::VolatileSlice;

/// What an overlay is made of, in bytes.
pub(crate) const SECTOR_BYTES: u64 = 4096;

/// The sectors by number. What the caller puts in bounds the memory: a sector of zeroes takes about 32 bytes.
#[derive(Debug, Default)]
pub(crate) struct Overlay {
    /// `None` is a sector of zeroes.
    sectors: BTreeMap<u64, Option<Box<[u8]>>>,
}

impl Overlay {
    /// Shows `bytes`, a sector, at `offset_bytes`, a multiple of one. The last word counts.
    pub(crate) fn put(&mut self, offset_bytes: u64, bytes: &[u8]) {
        self.sectors.insert(offset_bytes / SECTOR_BYTES, Some(bytes.into()));
    }

    /// Shows zeroes from `offset_bytes` on; both numbers are whole sectors.
    pub(crate) fn zero(&mut self, offset_bytes: u64, len_bytes: u64) {
        let first = offset_bytes / SECTOR_BYTES;
        self.sectors.extend((first..first.saturating_add(len_bytes / SECTOR_BYTES)).map(|sector| (sector, None)));
    }

    /// Puts the sectors into what was read from `offset_bytes` of the file.
    pub(super) fn apply(&self, offset_bytes: u64, into: &[VolatileSlice<'_>]) {
        let end = offset_bytes.saturating_add(pieces::len_bytes(into));
        for (sector, bytes) in self.sectors.range(offset_bytes / SECTOR_BYTES..end.div_ceil(SECTOR_BYTES)) {
            let start = sector.saturating_mul(SECTOR_BYTES);
            let (from, to) = (start.max(offset_bytes), start.saturating_add(SECTOR_BYTES).min(end));
            // Below a sector.
            let part = (from - start) as usize..(to - start) as usize;
            let zeroes = [0; SECTOR_BYTES as usize];
            let bytes = bytes.as_deref().unwrap_or(&zeroes);
            pieces::scatter(bytes.get(part).unwrap_or_default(), into, from - offset_bytes);
        }
    }

    /// Where the first sector from `offset_bytes` on begins: not behind it where one covers it.
    pub(super) fn next(&self, offset_bytes: u64) -> Option<u64> {
        let first = self.sectors.range(offset_bytes / SECTOR_BYTES..).next();
        first.map(|(sector, _)| sector.saturating_mul(SECTOR_BYTES))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sectors_cover_what_is_read_and_the_last_word_counts() {
        let mut overlay = Overlay::default();
        overlay.put(4096, &[1; 4096]);
        overlay.put(8192, &[2; 4096]);
        overlay.zero(8192, 8192);
        overlay.put(12288, &[3; 4096]);
        let shown = |offset: u64, len: usize| {
            let mut bytes = vec![9; len];
            let (first, second) = bytes.split_at_mut(len / 3);
            overlay.apply(offset, &[VolatileSlice::from(first), VolatileSlice::from(second)]);
            bytes
        };
        assert_eq!(shown(0, 4096), [9; 4096]);
        assert_eq!(shown(4000, 200), [vec![9; 96], vec![1; 104]].concat());
        assert_eq!(shown(0, 5 * 4096), [9, 1, 0, 3, 9].map(|value| [value; 4096]).concat());
        assert_eq!(shown(12000, 300), [vec![0; 288], vec![3; 12]].concat());
        assert_eq!((overlay.next(0), overlay.next(5000), overlay.next(16384)), (Some(4096), Some(4096), None));
    }
}
