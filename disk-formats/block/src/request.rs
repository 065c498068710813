//! One request and its completion.

use std::sync::Arc;

use benchtop_memory::IoBuffer;

use crate::BlockError;

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Disk to buffer.
    Read,
    /// Buffer to disk; with `fua`, durable before it completes whatever the cache mode (but `unsafe`).
    Write {
        /// Force unit access.
        fua: bool,
    },
    /// All completed writes become durable.
    Flush,
    /// The content of the range is no longer wanted.
    Discard,
}

/// A request owns its parameters and its buffer: nothing a guest does later changes what it means (CVE-2023-5088).
#[derive(Debug)]
pub struct Request {
    /// The submitter's own number, handed back with the completion. A device that resets bumps a generation in it, so
    /// that an old completion is told apart.
    pub token: u64,
    /// What to do.
    pub operation: Operation,
    /// Where, in bytes; a whole number of sectors. 0 for a flush.
    pub offset_bytes: u64,
    /// How much; a whole number of sectors. For reads and writes at most the buffer's length. 0 for a flush.
    pub len_bytes: u64,
    /// The memory.
    pub buffer: IoBuffer,
    /// Where a completion that can not be given at once goes.
    pub sink: Arc<dyn CompletionSink>,
}

/// A finished request.
#[derive(Debug)]
pub struct Completed {
    /// The request's token.
    pub token: u64,
    /// How it went.
    pub result: Result<(), BlockError>,
    /// Its buffer, filled if it was a read that succeeded.
    pub buffer: IoBuffer,
}

/// Takes completions, on whatever thread finished the request. Never called from inside `submit`.
pub trait CompletionSink: Send + Sync + std::fmt::Debug {
    /// One request is done.
    fn complete(&self, completed: Completed);
}

/// What `submit` says.
#[derive(Debug)]
#[must_use]
pub enum Submission {
    /// Done already; the sink is not told.
    Done(Completed),
    /// The sink will be told.
    Pending,
}
