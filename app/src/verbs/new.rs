//! `new`: make a VM.

use std::path::{Path, PathBuf};

use benchtop_control::config::{BootFrom, CdConfig, DiskConfig};
use benchtop_control::{Bundle, Failure, FailureKind, Library, Size, VmConfig};
use benchtop_machine::monitor::{host, open};
use clap::Args;

use crate::cli::{AccelChoice, not_built};
use crate::drives::NewDisk;
use crate::output::Output;
use crate::verbs::start;

/// `new`.
#[derive(Debug, Args)]
pub struct New {
    /// Name in the library, or a path
    pub name: String,
    /// Disc in its CD-ROM drive; it stays where it is
    #[arg(long, value_name = "FILE")]
    pub iso: Option<PathBuf>,
    /// Disks to make, as their options were written
    #[arg(
        long = "disk",
        value_name = "SIZE",
        help = "Disk to make: SIZE[,bus=ide][,cache=writethrough|writeback|unsafe]"
    )]
    pub disks: Vec<String>,
    /// RAM
    #[arg(long, default_value = "2G", value_name = "SIZE")]
    pub memory: Size,
    /// CPUs
    #[arg(long, default_value_t = 2, value_name = "N")]
    pub cpus: u32,
    /// Encrypt it (not built yet)
    #[arg(long)]
    pub encrypt: bool,
    /// Start it when it is made
    #[arg(long)]
    pub start: bool,
}

impl New {
    /// Runs the verb.
    ///
    /// # Errors
    /// What failed; nothing is then left behind.
    pub fn run(&self, output: &Output) -> Result<(), Failure> {
        if self.encrypt {
            return Err(not_built("encryption"));
        }
        let (path, name) = Library::of_user()?.place(&self.name)?;
        let disks = self.disks.iter().map(|text| NewDisk::parse(text)).collect::<Result<Vec<_>, _>>()?;
        host::check_memory(self.memory)?;
        let iso = self.iso.as_deref().map(absolute_iso).transpose()?;
        let mut config = VmConfig::new(name);
        config.memory = self.memory;
        config.cpus = self.cpus;
        config.boot = if iso.is_some() { BootFrom::Cd } else { BootFrom::Disk };
        for (index, disk) in disks.iter().enumerate() {
            config.disks.push(DiskConfig {
                name: format!("disk{index}"),
                file: format!("disks/disk{index}.raw").into(),
                bus: disk.options.bus,
                cache: disk.options.cache,
                serial: config.serial_for_disk(index),
            });
        }
        config.cds.push(CdConfig { name: "cd0".to_owned(), iso });
        config.validate().map_err(|error| {
            Failure::new(
                FailureKind::Usage,
                format!("can not make the VM `{}`", config.name),
                error.problem,
                "Choose another value; nothing was changed.",
            )
        })?;
        let files: Vec<(PathBuf, u64)> =
            config.disks.iter().map(|disk| disk.file.clone()).zip(disks.iter().map(|disk| disk.size.bytes())).collect();
        let bundle = Bundle::create(&path, config, |bundle| {
            for (file, bytes) in &files {
                make_disk(bundle, file, *bytes)?;
            }
            Ok(())
        })?;
        if self.start {
            start::start(output, &bundle, AccelChoice::Auto, None)?;
        }
        let config = bundle.config()?;
        let fields = serde_json::json!({
            "name": config.name, "path": bundle.path(), "uuid": config.uuid, "started": self.start,
        });
        output.done("new", &fields, || format!("made {}", bundle.path().display()))
    }
}

/// Makes a sparse file.
fn make_disk(bundle: &Bundle, file: &Path, bytes: u64) -> Result<(), Failure> {
    let what = || format!("can not make the disk {}", file.display());
    let made = bundle.create_file(file).map_err(|error| Failure::from_io(what(), &error))?;
    made.set_len(bytes).and_then(|()| made.sync_all()).map_err(|error| Failure::from_io(what(), &error))
}

/// Checks that the VM will start with a disc, and says where it is for good.
///
/// # Errors
/// It can not be read, or is no disc.
pub fn absolute_iso(path: &Path) -> Result<PathBuf, Failure> {
    open::open_bundle_iso(path)?;
    std::path::absolute(path).map_err(|error| Failure::from_io(format!("can not find {}", path.display()), &error))
}
