//! `disk fork`: a new disk of a restore point, sharing nothing with the old one.

use std::path::PathBuf;

use benchtop_block::DiskBackend;
use benchtop_control::Failure;
use benchtop_machine::monitor::block_failure;
use benchtop_strata::Retention;
use clap::Args;

use super::convert::{TargetArgs, copy_to};
use super::draft::{NewImage, check_encrypt, check_not_itself, check_password, check_target, format_of};
use super::snap::find_point;
use crate::image::{Access, Source};
use crate::output::Output;
use crate::when::When;

/// `disk fork`.
#[derive(Debug, Args)]
pub struct Fork {
    /// Disk: FILE or VM:DISK
    pub disk: String,
    /// File to make
    pub new: PathBuf,
    /// Restore point: #N, or the last one before a time; what the disk holds now where not said
    #[arg(long, value_name = "T|#N", conflicts_with = "snapshot")]
    pub at: Option<When>,
    /// Snapshot
    #[arg(long, value_name = "NAME")]
    pub snapshot: Option<String>,
    /// What the new disk is like. One of an encrypted disk is encrypted, too.
    #[command(flatten)]
    pub target_args: TargetArgs,
    /// How to open the disk.
    #[command(flatten)]
    pub access: Access,
}

impl Fork {
    /// Runs the action.
    ///
    /// # Errors
    /// What failed, or Ctrl-C; nothing is then left behind.
    pub fn run(&self, output: &Output) -> Result<(), Failure> {
        let args = &self.target_args;
        let name = self.new.display().to_string();
        let format = format_of(&self.new, args.format);
        let source = Source::find(&self.disk)?;
        check_not_itself(&source.path, &self.new)?;
        check_target(&self.new, args.force)?;
        let mut opened = source.open_strata(output, &self.access, true)?;
        let encrypt = args.encrypt || opened.password.is_some();
        let what = format!("can not make the disk {name}");
        check_encrypt(format, encrypt, &what).map_err(|failure| match opened.password {
            Some(_) => failure.with_fix("Fork it as Strata, or make a plain copy: benchtop disk convert."),
            None => failure,
        })?;
        check_password(encrypt, &(&args.new_password).into(), &what)?;
        let point = match (self.at, &self.snapshot) {
            (None, None) => None,
            (at, name) => Some(find_point(&opened.disk, &source, at, name.as_deref())?),
        };
        if let Some(point) = &point {
            opened.disk.rewind(point.seq).map_err(|error| block_failure(&source.what("read"), &error))?;
        }
        let password = match encrypt {
            true => Some(args.password(output, &name, &self.access.password, opened.password.as_ref())?),
            false => None,
        };
        let size_bytes = opened.disk.info().size_bytes;
        let new = NewImage { format, size_bytes, password, retention: Retention::default() };
        let copied = copy_to(output, &opened.disk, &source.name, &self.new, &new, args)?;
        let fields = serde_json::json!({
            "source": self.disk, "point": point.as_ref().map(|point| point.seq), "file": self.new,
            "format": format.name(), "encrypted": encrypt, "size_bytes": size_bytes,
            "written_bytes": copied.written_bytes, "elapsed_ns": copied.elapsed_ns, "verified": args.verify,
        });
        output.done("disk.fork", &fields, || copied.text(&name, format, size_bytes, args.verify))
    }
}
