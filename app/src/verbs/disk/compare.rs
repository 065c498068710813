//! `disk compare`.

use benchtop_control::Failure;
use clap::Args;

use super::transfer::Transfer;
use crate::image::{Access, Source};
use crate::output::Output;
use crate::signals::Signals;

/// The exit code for disks that differ.
const DIFFERENT: u8 = 1;

/// `disk compare`.
#[derive(Debug, Args)]
pub struct Compare {
    /// A disk: FILE[,format=F] or VM:DISK
    pub first: String,
    /// Another one
    pub second: String,
    /// How to open them: one password serves both.
    #[command(flatten)]
    pub access: Access,
}

impl Compare {
    /// Runs the action. The exit code is 1 if they differ.
    ///
    /// # Errors
    /// What failed.
    pub fn run(&self, output: &Output) -> Result<u8, Failure> {
        let (first, mut second) = (Source::find(&self.first)?, Source::find(&self.second)?);
        second.opened_beside(&first);
        let a = first.open(output, &self.access, true)?;
        let b = second.open(output, &self.access, true)?;
        let signals = Signals::watch()?;
        let (a, b) = (&*a.disk.backend, &*b.disk.backend);
        let transfer = Transfer { source: a, source_name: &first.name, target: b, target_name: &second.name };
        let difference = transfer.compare(output, &signals, "comparing")?;
        let sizes = (a.info().size_bytes, b.info().size_bytes);
        let fields = serde_json::json!({
            "first": self.first, "second": self.second, "equal": difference.is_none(), "first_difference": difference,
            "size_bytes": [sizes.0, sizes.1],
        });
        output.result("disk.compare", &fields, || match difference {
            Some(at) => format!("they differ from byte {at} on"),
            None if sizes.0 != sizes.1 => "they are the same, but for zeroes at the end of the larger one".to_owned(),
            None => "they are the same".to_owned(),
        })?;
        Ok(if difference.is_none() { 0 } else { DIFFERENT })
    }
}
