//! `disk convert`.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use benchtop_block::DiskBackend;
use benchtop_control::config::DiskFormat;
use benchtop_control::{Failure, FailureKind, Size};
use benchtop_machine::monitor::image::{Image, ImageUse, Password, open_image};
use benchtop_machine::monitor::open::open_plain;
use benchtop_nbd::Uri;
use benchtop_strata::Retention;
use clap::Args;

use super::draft::{Draft, NewImage, check_encrypt, check_not_itself, check_password, check_target, format_of};
use super::transfer::Transfer;
use crate::image::{Access, Source};
use crate::output::Output;
use crate::password::{NewPasswordArgs, PasswordArgs};
use crate::progress::rate;
use crate::signals::Signals;

/// `disk convert`.
#[derive(Debug, Args)]
pub struct Convert {
    /// Disk to copy: FILE[,format=F] or VM:DISK
    pub source: String,
    /// File to make, or the export of an NBD server to write
    pub target: PathBuf,
    /// What the new image is like.
    #[command(flatten)]
    pub target_args: TargetArgs,
    /// How to open the source.
    #[command(flatten)]
    pub access: Access,
}

/// What a copy becomes.
#[derive(Debug, Args)]
pub struct TargetArgs {
    /// Format of the new image: strata, raw, qcow2, vmdk, vdi, vhd or vhdx; by its extension, else strata
    #[arg(long)]
    pub format: Option<DiskFormat>,
    /// Encrypt the new image (Strata)
    #[arg(long)]
    pub encrypt: bool,
    /// Read the new image again and compare it with its source
    #[arg(long)]
    pub verify: bool,
    /// Replace a file that is there
    #[arg(long)]
    pub force: bool,
    /// The new disk's password, where it is not that of the source.
    #[command(flatten)]
    pub new_password: NewPasswordArgs,
}

impl TargetArgs {
    /// The password of a new encrypted disk: its own, or that of the source.
    pub fn password(
        &self,
        output: &Output,
        name: &str,
        source: &PasswordArgs,
        opened_with: Option<&Password>,
    ) -> Result<Password, Failure> {
        let own = PasswordArgs::from(&self.new_password);
        if let Some(password) = own.given()?.or(source.given()?) {
            return Ok(password);
        }
        match opened_with {
            Some(password) => Ok(password.clone()),
            None => own.new_password(output, name),
        }
    }
}

impl Convert {
    /// Runs the action.
    ///
    /// # Errors
    /// What failed, or Ctrl-C; nothing is then left behind.
    pub fn run(&self, output: &Output) -> Result<(), Failure> {
        let args = &self.target_args;
        let name = self.target.display().to_string();
        let what = format!("can not make the disk {name}");
        let format = format_of(&self.target, args.format);
        check_encrypt(format, args.encrypt, &what)?;
        check_password(args.encrypt, &(&args.new_password).into(), &what)?;
        let source = Source::find(&self.source)?;
        if let Some(uri) = self.target.to_str().filter(|text| Uri::is_one(text)) {
            return self.run_to_export(output, &source, Source::of_export(uri.to_owned(), args.format)?);
        }
        check_not_itself(&source.path, &self.target)?;
        check_target(&self.target, args.force)?;
        let opened = source.open(output, &self.access, true)?;
        let password = match args.encrypt {
            true => Some(args.password(output, &name, &self.access.password, opened.password.as_ref())?),
            false => None,
        };
        if opened.password.is_some() && password.is_none() {
            output.warning(&format!("{} is encrypted, and {name} will not be", source.name));
        }
        let size_bytes = opened.disk.backend.info().size_bytes;
        let new = NewImage { format, size_bytes, password, retention: Retention::default() };
        let copied = copy_to(output, &*opened.disk.backend, &source.name, &self.target, &new, args)?;
        let fields = serde_json::json!({
            "source": self.source, "source_format": opened.disk.format.name(), "file": self.target,
            "format": format.name(), "encrypted": args.encrypt, "size_bytes": size_bytes,
            "written_bytes": copied.written_bytes, "elapsed_ns": copied.elapsed_ns, "verified": args.verify,
        });
        output.done("disk.convert", &fields, || copied.text(&name, format, size_bytes, args.verify))
    }
}

impl Convert {
    /// Copies into what a server has already.
    fn run_to_export(&self, output: &Output, source: &Source, target: Source) -> Result<(), Failure> {
        let args = &self.target_args;
        let what = target.what("write");
        if args.encrypt {
            let why = "What a server has is written as it is: encrypting it is the server's to do.";
            return Err(Failure::new(FailureKind::Usage, what, why, "Leave --encrypt out."));
        }
        if !args.force {
            let why = "What it holds now would be lost.";
            return Err(Failure::new(FailureKind::Failed, what, why, "Replace it with --force."));
        }
        let opened = source.open(output, &self.access, true)?;
        let Some(export) = target.connect(&self.access.tls, false)? else { return Ok(()) };
        if opened.password.is_some() {
            output.warning(&format!("{} is encrypted, and {} will not be", source.name, target.name));
        }
        let (size_bytes, room_bytes) = (opened.disk.backend.info().size_bytes, export.info().size_bytes);
        if room_bytes < size_bytes {
            let why = format!("It has {}, and the disk {}.", Size(room_bytes).human(), Size(size_bytes).human());
            return Err(Failure::new(FailureKind::Failed, what, why, "Serve a larger disk."));
        }
        let signals = Signals::watch()?;
        let (from, to) = (&*opened.disk.backend, &*export);
        let transfer = Transfer { source: from, source_name: &source.name, target: to, target_name: &target.name };
        let begun = Instant::now();
        let partly = |failure: Failure| match failure.kind {
            FailureKind::Interrupted => failure.with_fix("The server has a part of the copy; do it again."),
            _ => failure,
        };
        let written_bytes = transfer.copy(output, &signals, "copying", false).map_err(partly)?;
        let elapsed_ns = u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX);
        if args.verify
            && let Some(at) = transfer.compare(output, &signals, "verifying").map_err(partly)?
        {
            return Err(differs(format!("can not verify the disk {}", target.name), at));
        }
        let copied = Copied { written_bytes, elapsed_ns };
        let fields = serde_json::json!({
            "source": self.source, "source_format": opened.disk.format.name(), "file": self.target, "format": "raw",
            "encrypted": false, "size_bytes": size_bytes, "written_bytes": written_bytes, "elapsed_ns": elapsed_ns,
            "verified": args.verify,
        });
        output.done("disk.convert", &fields, || copied.text(&target.name, DiskFormat::Raw, size_bytes, args.verify))
    }
}

fn differs(what: String, at: u64) -> Failure {
    let why = format!("The copy differs from its source at byte {at}.");
    let fix = "Was the source changed meanwhile? If not, suspect the host's memory or disk.";
    Failure::new(FailureKind::Integrity, what, why, fix)
}

/// What a copy was.
pub struct Copied {
    /// Bytes written to the target.
    pub written_bytes: u64,
    /// How long it took, without a comparison.
    pub elapsed_ns: u64,
}

impl Copied {
    /// For people.
    pub fn text(&self, name: &str, format: DiskFormat, size_bytes: u64, verified: bool) -> String {
        let speed = u128::from(size_bytes) * 1_000_000_000 / u128::from(self.elapsed_ns.max(1));
        let speed = rate(u64::try_from(speed).unwrap_or(u64::MAX));
        let verified = if verified { ", verified" } else { "" };
        let (size, written) = (Size(size_bytes).human(), Size(self.written_bytes).human());
        format!("made {name} ({format}, {size}, of which {written} were written, {speed}{verified})")
    }
}

/// Lets go of an image that is thrown away: there is nothing to be said of how it was closed.
fn abandon(image: Image) {
    let Image { backend, strata, .. } = image;
    drop(backend);
    if let Some(disk) = strata.and_then(Arc::into_inner) {
        disk.abandon();
    }
}

/// Makes a new image at `path`, copies a disk into it, closes it and, where that is asked for, compares.
///
/// # Errors
/// What failed, or Ctrl-C; nothing is then left behind.
pub fn copy_to(
    output: &Output,
    source: &dyn DiskBackend,
    source_name: &str,
    path: &Path,
    new: &NewImage,
    args: &TargetArgs,
) -> Result<Copied, Failure> {
    // First, so that it is cleaned up after Ctrl-C from here on.
    let signals = Signals::watch()?;
    let draft = Draft::begin(output, path, args.force)?;
    let target_name = path.display().to_string();
    let begun = Instant::now();
    let image = draft.create(new)?;
    let transfer = |target: &Image, what: &str| -> Result<(u64, Option<u64>), Failure> {
        let target = &*target.backend;
        let transfer = Transfer { source, source_name, target, target_name: &target_name };
        match what {
            "copying" => Ok((transfer.copy(output, &signals, what, true)?, None)),
            _ => Ok((0, transfer.compare(output, &signals, what)?)),
        }
    };
    let (written_bytes, _) = match transfer(&image, "copying") {
        Ok(copied) => copied,
        Err(failure) => {
            abandon(image);
            return Err(failure);
        }
    };
    drop(image);
    let elapsed_ns = u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX);
    if args.verify {
        // As somebody else would find it.
        let what = format!("can not verify the disk {target_name}");
        let file = open_plain(&draft.file, false).map_err(|error| Failure::from_io(what.as_str(), &error))?;
        let (format, password) = (Some(new.format), new.password.as_ref());
        let how = ImageUse { format, read_only: true, password, ..ImageUse::default() };
        let image = open_image(file, &what, how)?;
        if let (_, Some(at)) = transfer(&image, "verifying")? {
            return Err(differs(what, at));
        }
    }
    draft.finish()?;
    Ok(Copied { written_bytes, elapsed_ns })
}
