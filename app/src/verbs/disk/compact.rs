//! `disk compact`.

use benchtop_control::config::DiskFormat;
use benchtop_control::{Failure, FailureKind, Size};
use benchtop_machine::monitor::block_failure;
use clap::Args;

use crate::image::{Access, Source};
use crate::output::Output;

/// `disk compact`.
#[derive(Debug, Args)]
pub struct Compact {
    /// Disk: FILE or VM:DISK
    pub disk: String,
    /// Garbage that may stay, in percent of what is needed
    #[arg(long, default_value_t = 10, value_name = "PERCENT", value_parser = parse_percent)]
    pub garbage: u64,
    /// How to open it.
    #[command(flatten)]
    pub access: Access,
}

impl Compact {
    /// Runs the action. A crash or Ctrl-C meanwhile does no harm.
    ///
    /// # Errors
    /// What failed.
    pub fn run(&self, output: &Output) -> Result<(), Failure> {
        let source = Source::find(&self.disk)?;
        let format = source.format()?;
        if format != DiskFormat::Strata {
            let why = format!("It is a {format} image, and only Strata disks can be compacted.");
            let fix = "A copy takes no more space than it needs: benchtop disk convert.";
            return Err(Failure::new(FailureKind::Failed, source.what("compact"), why, fix));
        }
        let opened = source.open_strata(output, &self.access, false)?;
        let before = opened.disk.space();
        opened.disk.compact(self.garbage).map_err(|error| block_failure(&source.what("compact"), &error))?;
        let after = opened.disk.space();
        let fields = serde_json::json!({
            "disk": self.disk, "used_bytes_before": before.used_bytes, "used_bytes": after.used_bytes,
            "live_bytes": after.live_bytes,
        });
        output.done("disk.compact", &fields, || {
            let [before, after] = [before, after].map(|space| Size(space.used_bytes).human());
            format!("{} uses {after} now, after {before}", source.name)
        })
    }
}

/// Reads a number of percent.
fn parse_percent(text: &str) -> Result<u64, String> {
    let number = text.strip_suffix('%').unwrap_or(text).parse().ok();
    number
        .filter(|percent| *percent <= 1000)
        .ok_or_else(|| "write a whole number of percent, from 0 to 1000".to_owned())
}
