//! `disk resize`.

use benchtop_block::DiskBackend;
use benchtop_control::config::DiskFormat;
use benchtop_control::{Failure, FailureKind, Size};
use benchtop_images::Shrink;
use benchtop_machine::monitor::block_failure;
use benchtop_machine::monitor::image::{image_format, open_failure};
use clap::Args;

use crate::drives::check_size;
use crate::image::{Access, Source};
use crate::output::Output;

/// `disk resize`.
#[derive(Debug, Args)]
pub struct Resize {
    /// Disk: FILE[,format=F] or VM:DISK
    pub disk: String,
    /// Its new size
    pub size: Size,
    /// Make it smaller, too: what lies behind the new end is lost
    #[arg(long)]
    pub shrink: bool,
    /// How to open it.
    #[command(flatten)]
    pub access: Access,
}

impl Resize {
    /// Runs the action.
    ///
    /// # Errors
    /// It can not have that size, or consent is missing.
    pub fn run(&self, output: &Output) -> Result<(), Failure> {
        let source = Source::find(&self.disk)?;
        let what = source.what("resize");
        check_size(self.size)
            .map_err(|why| Failure::new(FailureKind::Usage, what.as_str(), why, "Write for example 20G."))?;
        let format = source.format()?;
        if format == DiskFormat::Strata {
            return self.resize_strata(output, &source, &what);
        }
        let lock = source.lock()?;
        let info = benchtop_images::info(&source.file(false)?, image_format(format));
        let old_bytes = info.map_err(|error| block_failure(&what, &error))?.virtual_bytes;
        let new_bytes = self.size.bytes();
        self.check_format(&source, format, old_bytes)?;
        self.consent(output, &source, old_bytes)?;
        source.with_named(output, &self.access, |options| {
            let file = source.file(true)?;
            let password = self.access.password.given()?;
            let options = benchtop_images::OpenOptions { password: password.as_ref(), ..options };
            benchtop_images::resize(file, image_format(format), new_bytes, Shrink::Allowed, &options)
                .map_err(|error| open_failure(&what, &error))
        })?;
        drop(lock);
        self.report(output, &source, old_bytes)
    }

    fn resize_strata(&self, output: &Output, source: &Source, what: &str) -> Result<(), Failure> {
        let mut opened = source.open_strata(output, &self.access, false)?;
        let old_bytes = opened.disk.info().size_bytes;
        self.consent(output, source, old_bytes)?;
        // Consent was given by now where it is needed.
        opened.disk.resize(self.size.bytes(), true).map_err(|error| block_failure(what, &error))?;
        self.report(output, source, old_bytes)
    }

    /// Refuses what no consent makes possible.
    fn check_format(&self, source: &Source, format: DiskFormat, old_bytes: u64) -> Result<(), Failure> {
        if self.size.bytes() >= old_bytes || matches!(format, DiskFormat::Raw | DiskFormat::Qcow2) {
            return Ok(());
        }
        let why = format!("It has {}, and {format} disks can not become smaller here.", Size(old_bytes).human());
        let fix = "Convert it to strata, raw or qcow2 first (benchtop disk convert), and make the copy smaller.";
        Err(Failure::new(FailureKind::Failed, source.what("resize"), why, fix))
    }

    /// Asks before something is lost.
    fn consent(&self, output: &Output, source: &Source, old_bytes: u64) -> Result<(), Failure> {
        let new_bytes = self.size.bytes();
        if self.shrink || new_bytes >= old_bytes {
            return Ok(());
        }
        let lost = Size(old_bytes - new_bytes).human();
        output.confirm(&format!("The last {lost} of {} will be lost. Go on?", source.name)).map_err(|_refused| {
            let why = format!("It would become smaller, and its last {lost} would be lost.");
            let fix = "Make its file systems smaller first, then consent with --shrink.";
            Failure::new(FailureKind::Usage, source.what("resize"), why, fix)
        })
    }

    fn report(&self, output: &Output, source: &Source, old_bytes: u64) -> Result<(), Failure> {
        let fields = serde_json::json!({
            "disk": self.disk, "size_bytes": self.size.bytes(), "old_size_bytes": old_bytes,
        });
        let (old, new) = (Size(old_bytes).human(), self.size.human());
        output.done("disk.resize", &fields, || format!("{} has {new} now, after {old}", source.name))
    }
}
