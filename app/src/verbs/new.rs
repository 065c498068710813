//! `new`: make a VM.

use std::path::{Path, PathBuf};

use benchtop_control::config::{BootFrom, CdConfig, DiskConfig, DiskFormat};
use benchtop_control::{Bundle, Failure, FailureKind, Library, Size, VmConfig};
use benchtop_machine::monitor::{host, identity, open};
use benchtop_strata::Retention;
use clap::Args;

use crate::cli::AccelChoice;
use crate::drives::NewDisk;
use crate::output::Output;
use crate::password::PasswordArgs;
use crate::verbs::disk::{NewImage, check_password, create_at, strata_in};
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
        help = "Disk to make: SIZE[,bus=ide][,cache=writethrough|writeback|unsafe][,format=strata|raw|…]"
    )]
    pub disks: Vec<String>,
    /// RAM
    #[arg(long, default_value = "2G", value_name = "SIZE")]
    pub memory: Size,
    /// CPUs
    #[arg(long, default_value_t = 2, value_name = "N")]
    pub cpus: u32,
    /// Encrypt its disks; the rest of the VM's folder is not encrypted
    #[arg(long)]
    pub encrypt: bool,
    /// Start it when it is made
    #[arg(long)]
    pub start: bool,
    /// The password of its disks.
    #[command(flatten)]
    pub password: PasswordArgs,
}

impl New {
    /// Runs the verb.
    ///
    /// # Errors
    /// What failed; nothing is then left behind.
    pub fn run(&self, output: &Output) -> Result<(), Failure> {
        let (path, name) = Library::of_user()?.place(&self.name)?;
        let disks = self.disks.iter().map(|text| NewDisk::parse(text)).collect::<Result<Vec<_>, _>>()?;
        host::check_memory(self.memory)?;
        let iso = self.iso.as_deref().map(absolute_iso).transpose()?;
        let mut config = VmConfig::new(name);
        config.memory = self.memory;
        config.cpus = self.cpus;
        config.boot = if iso.is_some() { BootFrom::Cd } else { BootFrom::Disk };
        self.check_encrypt(&disks)?;
        check_password(self.encrypt, &self.password, &format!("can not make the VM `{}`", self.name))?;
        for (index, disk) in disks.iter().enumerate() {
            let format = disk.options.format.unwrap_or(DiskFormat::Strata);
            config.disks.push(DiskConfig {
                name: format!("disk{index}"),
                file: format!("disks/disk{index}.{format}").into(),
                format,
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
        let password = if self.encrypt { Some(self.password.new_password(output, &config.name)?) } else { None };
        let new: Vec<(DiskConfig, NewImage)> = std::iter::zip(&config.disks, &disks)
            .map(|(made, disk)| {
                let (format, size_bytes, password) = (made.format, disk.size.bytes(), password.clone());
                (made.clone(), NewImage { format, size_bytes, password, retention: Retention::default() })
            })
            .collect();
        let bundle = Bundle::create(&path, config, |bundle| {
            new.iter().try_for_each(|(disk, new)| make_disk(bundle, disk, new))
        })?;
        if self.start {
            start::start(&bundle, AccelChoice::Auto.accelerator(output)?, password.as_ref())?;
        }
        let config = bundle.config()?;
        let fields = serde_json::json!({
            "name": config.name, "path": bundle.path(), "uuid": config.uuid, "started": self.start,
            "encrypted": self.encrypt,
        });
        output.done("new", &fields, || match self.encrypt {
            true => format!("made {}; its disks are encrypted, the rest is not", bundle.path().display()),
            false => format!("made {}", bundle.path().display()),
        })
    }

    /// Encryption is for disks, and of Strata.
    fn check_encrypt(&self, disks: &[NewDisk]) -> Result<(), Failure> {
        let plain = disks.iter().filter_map(|disk| disk.options.format).find(|format| *format != DiskFormat::Strata);
        let why = match (self.encrypt, plain) {
            (false, _) => return Ok(()),
            (true, None) if !disks.is_empty() => return Ok(()),
            (true, None) => "It has no disks, and only disks are encrypted.".to_owned(),
            (true, Some(format)) => format!("Encrypted {format} disks are not made here."),
        };
        let what = format!("can not encrypt the VM `{}`", self.name);
        Err(Failure::new(FailureKind::Usage, what, why, "Give it disks without a format, or leave --encrypt out."))
    }
}

/// Makes a disk in a new bundle.
fn make_disk(bundle: &Bundle, disk: &DiskConfig, new: &NewImage) -> Result<(), Failure> {
    let file = disk.file.as_path();
    let what = format!("can not make the disk {}", file.display());
    match new.format {
        DiskFormat::Strata | DiskFormat::Raw => {
            let made = bundle.create_file(file).map_err(|error| Failure::from_io(what.as_str(), &error))?;
            if new.format == DiskFormat::Strata {
                let made = strata_in(made, new, &what)?;
                return identity::record(bundle, &disk.name, &made.identity())
                    .map_err(|error| Failure::from_io(what, &error));
            }
            made.set_len(new.size_bytes)
                .and_then(|()| made.sync_all())
                .map_err(|error| Failure::from_io(what.as_str(), &error))
        }
        _ => create_at(&bundle.path().join(file), new, &what).map(drop),
    }
}

/// Checks that the VM will start with a disc, and says where it is for good.
///
/// # Errors
/// It can not be read, or is no disc.
pub fn absolute_iso(path: &Path) -> Result<PathBuf, Failure> {
    open::open_bundle_iso(path)?;
    std::path::absolute(path).map_err(|error| Failure::from_io(format!("can not find {}", path.display()), &error))
}
