//! Another size for the guest's disk. The size belongs to the state of the disk as its content does: the log says when
//! it changed, every checkpoint says what it was, and a restore point brings its own back.

use std::sync::atomic::Ordering;

use benchtop_block::{BlockError, BlockErrorKind};

use crate::core::Core;
use crate::disk::now_ms;
use crate::layout::{BLOCK_BYTES, new_block};
use crate::pages::{PageWriter, Root, set_entry};
use crate::passwords::refused;
use crate::record::Op;
use crate::superblock::can_be_size;

/// Blocks of a disk of that size.
pub fn blocks(size_bytes: u64) -> u64 {
    size_bytes.div_ceil(BLOCK_BYTES as u64)
}

impl Core {
    /// Size of the guest's disk.
    pub(crate) fn size_bytes(&self) -> u64 {
        self.size_bytes.load(Ordering::Relaxed)
    }

    /// See [`StrataDisk::resize`](crate::StrataDisk::resize).
    pub fn resize(&self, size_bytes: u64, allow_shrink: bool) -> Result<(), BlockError> {
        if self.read_only {
            return Err(BlockError::new(BlockErrorKind::ReadOnly, "the disk is open for reading only"));
        }
        if !can_be_size(size_bytes) {
            return Err(refused(format!("a disk can not have {size_bytes} bytes")));
        }
        // Tidying writes anew what it finds, perhaps behind the new end.
        let _keeping = self.keeping.lock();
        let old = self.size_bytes();
        if size_bytes == old {
            return self.commit(true).map(|_seq| ());
        }
        if size_bytes < old {
            if !allow_shrink {
                return Err(refused(format!("the disk has {old} bytes; what lies behind {size_bytes} would be lost")));
            }
            let (from, until) = (blocks(size_bytes), blocks(old));
            self.zero_blocks(from, until - from)?;
            // The log's reader then finds nothing to clear behind the new end.
            self.checkpoint()?;
        } else if !old.is_multiple_of(BLOCK_BYTES as u64) {
            // A shrink in the middle of a block left what was there.
            let within = (old % BLOCK_BYTES as u64) as usize;
            let lba = old / BLOCK_BYTES as u64;
            let zeroes = new_block();
            let _alone = self.stripe(lba).write();
            self.change_part(lba, within, &zeroes[within..])?;
        }
        {
            let _gate = self.gate.read();
            let mut state = self.usable()?;
            state.log.push(&mut self.store.space.write(), Op::Resize { size_bytes }, now_ms())?;
            self.size_bytes.store(size_bytes, Ordering::Relaxed);
        }
        self.commit(true)?;
        self.checkpoint()
    }
}

impl PageWriter<'_> {
    /// A tree of the same content that can map so many blocks: new roots above the old one, which stays in it.
    ///
    /// # Errors
    /// No place, or the host's.
    pub fn raise(&mut self, root: &Root, blocks: u64) -> Result<Root, BlockError> {
        let levels = Root::empty(blocks).levels;
        let mut raised = *root;
        while raised.levels < levels {
            if !raised.pointer.address.is_none() {
                let mut page = new_block();
                set_entry(&mut page, 0, &raised.pointer);
                raised.pointer = self.put(&page)?;
            }
            raised.levels += 1;
        }
        Ok(raised)
    }
}
