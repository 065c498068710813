//! Copying and comparing with progress, until Ctrl-C.

use std::ops::ControlFlow;

use benchtop_block::DiskBackend;
use benchtop_block::copy::{self, CopyError};
use benchtop_control::Failure;

use crate::output::Output;
use crate::progress::Progress;
use crate::remote::disk_failure;
use crate::signals::{Signals, interrupted};

/// Two disks and what they are called.
pub struct Transfer<'a> {
    /// The disk that is read.
    pub source: &'a dyn DiskBackend,
    /// What it is called.
    pub source_name: &'a str,
    /// The other one.
    pub target: &'a dyn DiskBackend,
    /// What that is called.
    pub target_name: &'a str,
}

impl Transfer<'_> {
    /// Copies to a target that is all zeroes or, where not, becomes so behind the source's end; says how many bytes were
    /// written.
    ///
    /// # Errors
    /// A disk's, or Ctrl-C.
    pub fn copy(&self, output: &Output, signals: &Signals, what: &str, is_zeroed: bool) -> Result<u64, Failure> {
        self.run(output, signals, what, |progress| copy::copy(self.source, self.target, is_zeroed, progress))
    }

    /// The first byte in which they differ.
    ///
    /// # Errors
    /// A disk's, or Ctrl-C.
    pub fn compare(&self, output: &Output, signals: &Signals, what: &str) -> Result<Option<u64>, Failure> {
        self.run(output, signals, what, |progress| copy::compare(self.source, self.target, progress))
    }

    fn run<T>(
        &self,
        output: &Output,
        signals: &Signals,
        what: &str,
        act: impl FnOnce(&mut dyn FnMut(copy::Progress) -> ControlFlow<()>) -> Result<T, CopyError>,
    ) -> Result<T, Failure> {
        let bar = Progress::begin(output, what);
        let mut why = None;
        let result = act(&mut |progress| {
            if progress.flushing {
                bar.update("all is copied; waiting until it is safe on disk");
                return ControlFlow::Continue(());
            }
            bar.update_bytes("copying", progress.done_bytes, progress.total_bytes);
            why = why.or_else(|| signals.came());
            if why.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        bar.end();
        result.map_err(|error| match error {
            CopyError::Source(error) => {
                disk_failure(&format!("can not read the disk {}", self.source_name), self.source, &error)
            }
            CopyError::Target(error) => {
                disk_failure(&format!("can not use the disk {}", self.target_name), self.target, &error)
            }
            CopyError::Cancelled => {
                interrupted(why.unwrap_or("It was asked to end."), "Nothing was left behind; do it again.")
            }
        })
    }
}
