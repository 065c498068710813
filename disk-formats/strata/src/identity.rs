//! Which disk this is and how old, for whoever keeps it beside the file: an older copy of the whole file is the one thing
//! that the file can not tell by itself.

use benchtop_block::{BlockError, BlockErrorKind};

use crate::core::Core;
use crate::superblock::Superblock;

/// The text of the error for a disk that is older than it was when it was last seen.
pub const ROLLED_BACK: &str = "the disk is an older copy than the one that was last open here";
/// The text of the error for a disk that is not the one that was last seen.
pub const OTHER_DISK: &str = "this is not the disk that was last open here";

/// What can be remembered of a disk. To be asked for after opening, after each snapshot, at the end, and now and then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Of the disk, for ever.
    pub uuid: [u8; 16],
    /// The superblock's; it only grows.
    pub generation: u64,
    /// The newest record that is durable; it only grows.
    pub record: u64,
    /// Whether it takes a password: a plain disk in the place of an encrypted one is noticed.
    pub encrypted: bool,
}

fn refused(text: &str) -> BlockError {
    BlockError::new(BlockErrorKind::Unsupported, text)
}

impl Identity {
    /// Whether a superblock is of this disk.
    ///
    /// # Errors
    /// `Unsupported` with [`OTHER_DISK`].
    pub(crate) fn check_disk(&self, found: &Superblock) -> Result<(), BlockError> {
        let same = self.uuid == found.uuid && (!self.encrypted || found.has_slots());
        if same { Ok(()) } else { Err(refused(OTHER_DISK)) }
    }

    /// Whether what was found is not older.
    ///
    /// # Errors
    /// `Unsupported` with [`ROLLED_BACK`].
    pub(crate) fn check_age(&self, generation: u64, record: u64) -> Result<(), BlockError> {
        let newer = generation >= self.generation && record >= self.record;
        if newer { Ok(()) } else { Err(refused(ROLLED_BACK)) }
    }
}

impl Core {
    /// See [`StrataDisk::identity`](crate::StrataDisk::identity).
    pub fn identity(&self) -> Identity {
        let (uuid, generation, encrypted) = {
            let checkpoints = self.checkpoints.lock();
            let superblock = &checkpoints.superblock;
            (superblock.uuid, superblock.generation, superblock.has_slots())
        };
        Identity { uuid, generation, record: *self.synced.lock(), encrypted }
    }
}
