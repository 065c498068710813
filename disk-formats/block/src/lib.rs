//! The line between a device and the file behind it.
//!
//! ```text
//!   front-end ─ Request ─▶ Disk ─▶ cache policy · stats ─▶ worker ─▶ DiskBackend (raw, iso, memory, fault, …)
//!       ◀───── Completed ─┘   (at once, or later from a worker through a CompletionSink)
//! ```
//!
//! Who checks what: a front-end checks that the guest's range lies on the disk and answers in its own terms; [`Disk`]
//! checks again that nothing overflows and that sizes are whole sectors; a [`DiskBackend`] checks its own range and
//! returns an error. Nobody panics.
//!
//! Threading: a `Disk` is submitted to from any thread and never blocks the caller for the host's disk. Backends are
//! called from worker threads, several at once.

mod backend;
mod disk;
mod error;
mod request;

pub use backend::{DiscardBehavior, DiskBackend, DiskInfo, SECTOR_BYTES};
pub use disk::{CacheMode, CacheState, Disk, DiskOptions, WriteCacheRefused};
pub use error::{BlockError, BlockErrorKind};
pub use request::{Completed, CompletionSink, Operation, Request, Submission};
