//! `disk`: make and look at images.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use benchtop_block::BlockErrorKind;
use benchtop_control::{Failure, FailureKind, Size, VmName};
use benchtop_images::{Format, probe, raw};
use benchtop_machine::monitor::open::open_regular;
use clap::{Args, Subcommand};

use crate::cli::not_built;
use crate::drives::check_size;
use crate::output::{Output, table};
use crate::target::Target;

/// `disk`.
#[derive(Debug, Args)]
pub struct Disk {
    /// What to do
    #[command(subcommand)]
    pub action: Action,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Action {
    /// Make an image
    Create {
        /// File to make
        file: PathBuf,
        /// Size of the disk
        #[arg(long)]
        size: Size,
        /// Format: raw (others are not built yet)
        #[arg(long)]
        format: Option<String>,
        /// Encrypt it (not built yet)
        #[arg(long)]
        encrypt: bool,
    },
    /// Show what an image is
    Info {
        /// Image, or VM:DISK
        disk: String,
    },
    /// Other actions of the contract are not built yet
    #[command(external_subcommand)]
    Other(Vec<String>),
}

/// Actions that are still to come.
const UNBUILT: [&str; 16] = [
    "check",
    "repair",
    "map",
    "compact",
    "resize",
    "convert",
    "compare",
    "serve",
    "fork",
    "retention",
    "cache",
    "limit",
    "coalesce",
    "snap",
    "mirror",
    "trace",
];

impl Disk {
    /// Runs the verb.
    ///
    /// # Errors
    /// What failed.
    pub fn run(&self, output: &Output) -> Result<(), Failure> {
        match &self.action {
            Action::Create { encrypt: true, .. } => Err(not_built("encryption")),
            Action::Create { file, size, format, .. } => create(output, file, *size, format.as_deref()),
            Action::Info { disk } => info(output, disk),
            Action::Other(arguments) => {
                let name = arguments.first().map(String::as_str).unwrap_or_default();
                if UNBUILT.contains(&name) {
                    return Err(not_built(&format!("`disk {name}`")));
                }
                Err(Failure::new(
                    FailureKind::Usage,
                    format!("can not do `disk {name}`"),
                    "There is no such action.",
                    "`benchtop disk --help` lists them.",
                ))
            }
        }
    }
}

fn create(output: &Output, file: &Path, size: Size, format: Option<&str>) -> Result<(), Failure> {
    let what = format!("can not make the disk {}", file.display());
    match format {
        None | Some("raw") => {}
        Some(format @ ("strata" | "qcow2" | "vmdk" | "vdi" | "vhd" | "vhdx")) => {
            return Err(not_built(&format!("the disk format {format}")));
        }
        Some(format) => {
            let why = format!("`{format}` is no disk format.");
            return Err(Failure::new(FailureKind::Usage, what, why, "This version makes raw disks."));
        }
    }
    check_size(size).map_err(|why| Failure::new(FailureKind::Usage, what.as_str(), why, "Write for example 20G."))?;
    raw::create(file, size.bytes()).map_err(|error| match (error.kind(), std::error::Error::source(&error)) {
        (BlockErrorKind::NoSpace, _) => Failure::new(
            FailureKind::NoSpace,
            what.as_str(),
            benchtop_control::failure::chain(&error),
            "Free some space on that file system, or choose another one.",
        ),
        (_, Some(cause)) => match cause.downcast_ref::<std::io::Error>() {
            Some(io) => Failure::from_io(what.as_str(), io),
            None => failed(&what, &error),
        },
        _ => failed(&what, &error),
    })?;
    let fields = serde_json::json!({ "file": file, "format": "raw", "size_bytes": size.bytes() });
    output.done("disk.create", &fields, || format!("made {} (raw, {})", file.display(), size.human()))
}

fn failed(what: &str, error: &benchtop_block::BlockError) -> Failure {
    Failure::new(FailureKind::Failed, what, benchtop_control::failure::chain(error), "Choose another place or size.")
}

fn info(output: &Output, disk: &str) -> Result<(), Failure> {
    let name = VmName::parse(disk);
    let (path, file, declared) = match &name.device {
        Some(device) => {
            let target = Target::find(&name.vm)?;
            let found = target.config.disks.iter().find(|disk| disk.name == *device).ok_or_else(|| {
                Failure::new(
                    FailureKind::NotFound,
                    format!("there is no disk `{disk}`"),
                    "The VM has none of that name.",
                    "`benchtop show` lists its disks.",
                )
            })?;
            let path = target.bundle.path().join(&found.file);
            let file = target.bundle.open_file(&found.file, false);
            // A VM's disk is what its configuration says; its content is the guest's.
            let what = || format!("can not read the disk {}", path.display());
            let file = file.map_err(|error| Failure::from_io(what(), &error))?;
            (path, file, Some(Format::Raw))
        }
        None => (PathBuf::from(disk), open_regular("disk", Path::new(disk))?, None),
    };
    let what = format!("can not read the disk {}", path.display());
    let metadata = file.metadata().map_err(|error| Failure::from_io(what.as_str(), &error))?;
    if metadata.len() < 512 {
        let why = if metadata.len() == 0 { "It is empty." } else { "It is shorter than a sector of 512 bytes." };
        return Err(Failure::new(FailureKind::Failed, what, why, "Make a disk with `benchtop disk create`."));
    }
    let format = match declared {
        Some(format) => format,
        None => probe::probe_file(&file).map_err(|error| failed(&what, &error))?,
    };
    // The size of a disk inside a container is in a header this version does not read.
    let size_bytes = match format {
        Format::Raw => Some(metadata.len() - metadata.len() % 512),
        Format::Iso => Some(metadata.len()),
        _ => None,
    };
    let allocated_bytes = metadata.blocks().saturating_mul(512);
    let fields = serde_json::json!({
        "file": path, "format": format.name(), "size_bytes": size_bytes, "file_bytes": metadata.len(),
        "allocated_bytes": allocated_bytes,
    });
    output.result("disk.info", &fields, || {
        let row = |name: &str, value: String| vec![name.to_owned(), value];
        table(&[
            row("file", path.display().to_string()),
            row("format", format.name().to_owned()),
            row("size", size_bytes.map_or_else(|| "unknown".to_owned(), |bytes| Size(bytes).human())),
            row("on this host", Size(allocated_bytes).human()),
        ])
    })
}
