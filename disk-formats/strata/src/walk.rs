//! Going through a map with bounded work: a hostile one may name the same page in many places, so that a few pages map
//! more blocks than anybody can count.

use std::ops::Range;

use benchtop_block::BlockError;

use crate::layout::Pointer;
use crate::pages::{FANOUT, LEVEL_BITS, Root, Store, entry};

/// One walk.
struct Walk<'a> {
    store: &'a Store,
    range: Range<u64>,
    left: &'a mut u64,
    visit: &'a mut dyn FnMut(u64, Pointer),
}

impl Store {
    /// Tells `visit` the mapped guest blocks of a range in order. A page or a block takes one of the steps `left`; when
    /// there are none it stops. Says up to where it came: the end of the range, or the first block it has not told.
    ///
    /// # Errors
    /// `Corrupt`, or the host's.
    pub fn walk(
        &self,
        root: &Root,
        range: Range<u64>,
        left: &mut u64,
        visit: &mut dyn FnMut(u64, Pointer),
    ) -> Result<u64, BlockError> {
        let end = range.end;
        let range = range.start..end.min(root.capacity());
        if range.is_empty() || root.pointer.address.is_none() {
            return Ok(end);
        }
        let stopped = Walk { store: self, range, left, visit }.page(&root.pointer, root.levels.saturating_sub(1), 0)?;
        Ok(stopped.unwrap_or(end))
    }
}

impl Walk<'_> {
    fn step(&mut self, lba: u64) -> Result<(), u64> {
        match self.left.checked_sub(1) {
            Some(left) => {
                *self.left = left;
                Ok(())
            }
            None => Err(lba.max(self.range.start)),
        }
    }

    /// A page whose first block is `first`. As deep as the tree has levels. `Some` where it stopped.
    fn page(&mut self, pointer: &Pointer, level: u8, first: u64) -> Result<Option<u64>, BlockError> {
        if let Err(stopped) = self.step(first) {
            return Ok(Some(stopped));
        }
        let page = self.store.page(pointer)?;
        let bits = LEVEL_BITS * u32::from(level);
        let begin = self.range.start.saturating_sub(first) >> bits;
        for index in begin..FANOUT {
            let lba = first + (index << bits);
            if lba >= self.range.end {
                break;
            }
            let below = entry(&page, index);
            if below.address.is_none() {
                continue;
            }
            let stopped = if level > 0 {
                self.page(&below, level - 1, lba)?
            } else if let Err(stopped) = self.step(lba) {
                Some(stopped)
            } else {
                (self.visit)(lba, below);
                None
            };
            if stopped.is_some() {
                return Ok(stopped);
            }
        }
        Ok(None)
    }
}
