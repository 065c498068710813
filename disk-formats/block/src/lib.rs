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
//! Errors: every failure is a [`BlockError`] with one of a few kinds. Two of them are not the guest's business and are
//! told to a [`DiskObserver`] instead when there is one: the host is out of space, and a sync failed.
//!
//! Threading: a `Disk` is submitted to from any thread and never blocks the caller for the host's disk. Backends are
//! called from worker threads, several at once, and for reads that need not wait from the submitting thread.
//!
//! The feature `testing` adds what tests of backends, devices and the monitor share: the conformance suite, a disk
//! that records the order of things, and a disk that fails on demand.

mod backend;
mod cache;
#[cfg(any(test, feature = "testing"))]
pub mod conformance;
pub mod copy;
mod discard_writes;
mod disk;
mod error;
#[cfg(any(test, feature = "testing"))]
pub mod fault;
pub mod file;
mod memory;
mod observer;
pub mod pieces;
mod queue;
#[cfg(any(test, feature = "testing"))]
pub mod recording;
mod request;
mod stats;

pub use backend::{DiscardBehavior, DiskBackend, DiskInfo, Extent, ExtentKind, SECTOR_BYTES};
pub use cache::{CacheMode, CacheState, WriteCacheRefused};
pub use discard_writes::DiscardWrites;
pub use disk::{Disk, DiskOptions};
pub use error::{BlockError, BlockErrorKind};
pub use memory::MemoryDisk;
pub use observer::DiskObserver;
pub use queue::Reopened;
pub use request::{Completed, CompletionSink, Operation, Request, Submission};
pub use stats::{DiskStats, Latency, RequestBytes, RequestCounts, RequestLatency};
