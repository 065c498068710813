//! The one error of the disk path.

use std::fmt;

/// The few kinds a caller decides by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockErrorKind {
    /// The range leaves the disk, or is not whole sectors.
    OutOfRange,
    /// The image is open for reading only.
    ReadOnly,
    /// The host has no room; nothing was acknowledged and the request may be retried.
    NoSpace,
    /// A sync failed earlier; only reopening helps.
    Poisoned,
    /// The image contradicts itself or a checksum does not match.
    Corrupt,
    /// Another process, or another disk of this one, holds the image.
    InUse,
    /// This image or request needs something not built.
    Unsupported,
    /// The host's file system or device failed.
    Io,
}

/// A failed disk operation: its kind, what was being done, and the cause.
#[derive(Debug)]
pub struct BlockError {
    kind: BlockErrorKind,
    context: String,
    source: Option<std::io::Error>,
}

impl BlockError {
    /// An error without a host cause.
    pub fn new(kind: BlockErrorKind, context: impl Into<String>) -> Self {
        Self { kind, context: context.into(), source: None }
    }

    /// An error of the host; out-of-space and read-only conditions get their own kind.
    pub fn from_io(context: impl Into<String>, source: std::io::Error) -> Self {
        let kind = match source.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => BlockErrorKind::NoSpace,
            std::io::ErrorKind::ReadOnlyFilesystem => BlockErrorKind::ReadOnly,
            _ => BlockErrorKind::Io,
        };
        Self { kind, context: context.into(), source: Some(source) }
    }

    /// What a caller decides by.
    pub fn kind(&self) -> BlockErrorKind {
        self.kind
    }
}

impl fmt::Display for BlockError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.context)
    }
}

impl std::error::Error for BlockError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|source| source as _)
    }
}
