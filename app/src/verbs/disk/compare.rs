//! `disk compare`.

use benchtop_control::{Failure, FailureKind};
use benchtop_machine::monitor::image::Image;
use clap::Args;

use super::transfer::Transfer;
use crate::image::{Access, Opened, Source};
use crate::output::Output;
use crate::password::OtherPasswordArgs;
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
    /// How to open them: one password serves both, unless the second has its own.
    #[command(flatten)]
    pub access: Access,
    /// The second disk's.
    #[command(flatten)]
    pub other: OtherPasswordArgs,
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
        let b = self.open_second(output, &second)?;
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

    /// Opens the second disk with its own password, else with that of the first.
    fn open_second(&self, output: &Output, second: &Source) -> Result<Opened<Image>, Failure> {
        let own = self.other.said();
        let shared = own.is_none() && self.access.password.is_given();
        let password = own.unwrap_or_else(|| self.access.password.clone());
        second.open(output, &Access { password, ..self.access.clone() }, true).map_err(|failure| match failure.kind {
            FailureKind::BadPassword if shared => {
                failure.with_fix("If it is not that of the first disk, give it with --other-password-file.")
            }
            _ => failure,
        })
    }
}
