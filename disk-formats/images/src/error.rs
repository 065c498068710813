//! The two errors that formats make most.

use benchtop_block::{BlockError, BlockErrorKind};

/// Something that is not built.
pub(crate) fn unsupported(context: impl Into<String>) -> BlockError {
    BlockError::new(BlockErrorKind::Unsupported, context)
}

/// An image that contradicts itself.
pub(crate) fn corrupt(context: impl Into<String>) -> BlockError {
    BlockError::new(BlockErrorKind::Corrupt, context)
}
