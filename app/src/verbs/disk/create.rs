//! `disk create`.

use std::path::PathBuf;

use benchtop_control::config::DiskFormat;
use benchtop_control::{Failure, FailureKind, Size};
use benchtop_strata::Retention;
use clap::Args;

use super::draft::{Draft, NewImage, check_encrypt, check_new, check_password, format_of};
use super::parse_retention;
use crate::drives::check_size;
use crate::output::Output;
use crate::password::PasswordArgs;
use crate::signals::{Signals, interrupted};

/// `disk create`.
#[derive(Debug, Args)]
pub struct Create {
    /// File to make
    pub file: PathBuf,
    /// Size of the disk
    #[arg(long)]
    pub size: Size,
    /// Format: strata, raw, qcow2, vmdk, vdi, vhd or vhdx; by the file's extension, else strata
    #[arg(long)]
    pub format: Option<DiskFormat>,
    /// Encrypt it (Strata)
    #[arg(long)]
    pub encrypt: bool,
    /// Restore points it keeps (Strata): off, or for example all=24h,hourly=7d,budget=20%,least=1G
    #[arg(long, value_name = "WHICH", value_parser = parse_retention)]
    pub retention: Option<Retention>,
    /// Its password.
    #[command(flatten)]
    pub password: PasswordArgs,
}

impl Create {
    /// Runs the action.
    ///
    /// # Errors
    /// What failed; nothing is then left behind.
    pub fn run(&self, output: &Output) -> Result<(), Failure> {
        let what = format!("can not make the disk {}", self.file.display());
        let size_bytes = self.size.bytes();
        check_size(self.size)
            .map_err(|why| Failure::new(FailureKind::Usage, what.as_str(), why, "Write for example 20G."))?;
        let format = format_of(&self.file, self.format);
        check_encrypt(format, self.encrypt, &what)?;
        check_password(self.encrypt, &self.password, &what)?;
        if self.retention.is_some() && format != DiskFormat::Strata {
            let why = format!("A {format} image keeps no restore points.");
            return Err(Failure::new(FailureKind::Usage, what, why, "Leave --retention out, or make it Strata."));
        }
        check_new(&self.file)?;
        let name = self.file.display().to_string();
        let password = if self.encrypt { Some(self.password.new_password(output, &name)?) } else { None };
        let retention = self.retention.unwrap_or_default();
        let signals = Signals::watch()?;
        let draft = Draft::begin(output, &self.file, false)?;
        drop(draft.create(&NewImage { format, size_bytes, password, retention })?);
        if let Some(why) = signals.came() {
            return Err(interrupted(why, "Nothing was left behind; do it again."));
        }
        draft.finish()?;
        let fields = serde_json::json!({
            "file": self.file, "format": format.name(), "size_bytes": size_bytes, "encrypted": self.encrypt,
        });
        let kind = if self.encrypt { "encrypted strata" } else { format.name() };
        output.done("disk.create", &fields, || format!("made {name} ({kind}, {})", self.size.human()))
    }
}
