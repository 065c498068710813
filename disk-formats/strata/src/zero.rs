//! Making ranges read as zeroes. Blocks are cleared one by one, for each has its own death; so a large range is cleared
//! in parts, with room for checkpoints in between, and neither memory nor what an opening has to read grows with it.

use benchtop_block::BlockError;

use crate::core::Core;
use crate::disk::now_ms;
use crate::layout::Pointer;
use crate::record::Op;
use crate::space::Space;
use crate::state::State;

/// Pages and mapped blocks that one operation clears at most.
const PART_STEPS: u64 = 8192;

/// A range to be cleared, and the blocks of it that the map has.
pub struct ToClear {
    lba: u64,
    /// The first block it does not cover.
    pub end: u64,
    mapped: Vec<u64>,
    steps: u64,
}

impl Core {
    /// Makes whole blocks read as zeroes.
    pub fn zero_blocks(&self, lba: u64, count: u64) -> Result<(), BlockError> {
        let end = lba.saturating_add(count);
        let mut lba = lba;
        while lba < end {
            // It takes no room itself.
            self.make_room(0)?;
            let _readers = self.readers.read();
            let _gate = self.gate.read();
            let part = self.to_clear(lba, end)?;
            lba = part.end;
            Self::clear(&mut *self.usable()?, &mut self.store.space.write(), part)?;
        }
        Ok(())
    }

    /// As many of these blocks as one operation may clear. The caller holds `readers` and the gate.
    pub fn to_clear(&self, lba: u64, end: u64) -> Result<ToClear, BlockError> {
        let (root, frozen) = {
            let state = self.usable()?;
            (state.root, state.changes.frozen.clone())
        };
        // A checkpoint under way may end meanwhile and put the frozen changes into the map; none begins before the gate
        // is open again. So the map of before and what was frozen then have all that the map of any moment has.
        let mut left = PART_STEPS;
        let mut mapped = Vec::new();
        let reached = self.store.walk(&root, lba..end, &mut left, &mut |lba, _| mapped.push(lba))?;
        mapped.extend(frozen.iter().flat_map(|frozen| frozen.range(lba..reached)).map(|(lba, _)| *lba));
        Ok(ToClear { lba, end: reached, mapped, steps: PART_STEPS - left })
    }

    /// Clears it: in the log, and over what the map has and what changed lately.
    pub fn clear(state: &mut State, space: &mut Space, part: ToClear) -> Result<(), BlockError> {
        let ToClear { lba, end, mut mapped, steps } = part;
        let seq = state.log.push(space, Op::Zero { lba, count: end - lba }, now_ms())?;
        state.changes.order += 1;
        let order = state.changes.order;
        mapped.extend(state.changes.within(lba, end - lba));
        state.changes.work += steps + mapped.len() as u64;
        for lba in mapped {
            state.changes.change(lba, Pointer::NONE, order, seq);
        }
        Ok(())
    }
}
