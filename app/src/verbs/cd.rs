//! `cd`: insert or eject a disc.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use benchtop_control::{Command, Failure, FailureKind, Reply, VmConfig, VmName};
use benchtop_machine::monitor::open;
use clap::{Args, Subcommand};

use crate::output::Output;
use crate::target::{Target, running};
use crate::verbs::new::absolute_iso;

/// `cd`.
#[derive(Debug, Args)]
pub struct Cd {
    /// What to do
    #[command(subcommand)]
    pub action: Action,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Action {
    /// Put a disc into the drive; the old one goes
    Insert {
        /// VM, or VM:cd0
        vm: String,
        /// Disc; it stays where it is
        iso: PathBuf,
        /// Even if the guest locks the tray
        #[arg(long)]
        force: bool,
    },
    /// Take the disc out
    Eject {
        /// VM, or VM:cd0
        vm: String,
        /// Even if the guest locks the tray
        #[arg(long)]
        force: bool,
    },
}

impl Cd {
    /// Runs the verb, on a VM that runs or is off.
    ///
    /// # Errors
    /// No such drive, or the guest holds the tray.
    pub fn run(&self, output: &Output) -> Result<(), Failure> {
        let (name, iso, force) = match &self.action {
            Action::Insert { vm, iso, force } => (VmName::parse(vm), Some(iso), *force),
            Action::Eject { vm, force } => (VmName::parse(vm), None, *force),
        };
        let target = Target::find(&name.vm);
        let iso = match iso {
            Some(iso) if target.is_ok() => Some(absolute_iso(iso)?),
            // A throw-away VM takes any file, as `boot --iso` does.
            Some(iso) => {
                Some(std::path::absolute(iso).map_err(|error| Failure::from_io("can not find the disc", &error))?)
            }
            None => None,
        };
        let off = match target {
            Ok(target) if target.client()?.is_none() => Some(target),
            _ => None,
        };
        let device = match off {
            Some(mut target) => {
                let mut device = String::new();
                target.change(|config| {
                    device = drive(config, name.device.as_deref(), &name.vm)?;
                    for cd in config.cds.iter_mut().filter(|cd| cd.name == device) {
                        cd.iso.clone_from(&iso);
                    }
                    Ok(())
                })?;
                device
            }
            None => in_running(&name, iso.as_deref(), force)?,
        };
        let verb = if iso.is_some() { "cd.insert" } else { "cd.eject" };
        let fields = serde_json::json!({ "name": name.vm, "device": device, "iso": iso });
        output.done(verb, &fields, || match &iso {
            Some(iso) => format!("{} is in {device}", iso.display()),
            None => format!("{device} is empty"),
        })
    }
}

fn in_running(name: &VmName, iso: Option<&Path>, force: bool) -> Result<String, Failure> {
    let mut client = running(&name.vm)?;
    let device = name.device.clone();
    let reply = match iso {
        Some(path) => {
            let file = open::open_iso(path)?;
            client.request(Command::CdInsert { device, path: path.to_path_buf(), force }, &[file.as_fd()])?
        }
        None => client.request(Command::CdEject { device, force }, &[])?,
    };
    match reply {
        Reply::Drive { device } => Ok(device),
        _ => Ok(name.device.clone().unwrap_or_default()),
    }
}

/// The drive that is meant: the one named, or the only one.
fn drive(config: &VmConfig, device: Option<&str>, vm: &str) -> Result<String, Failure> {
    let refused = |why: &str| {
        let what = format!("can not change the disc of `{vm}`");
        Err(Failure::new(FailureKind::NotFound, what, why, "`benchtop show` lists its drives; name one as VM:cd0."))
    };
    match (device, config.cds.as_slice()) {
        (Some(device), drives) => match drives.iter().find(|cd| cd.name == device) {
            Some(cd) => Ok(cd.name.clone()),
            None => refused("It has no such drive."),
        },
        (None, [only]) => Ok(only.name.clone()),
        (None, []) => refused("It has no CD-ROM drive."),
        (None, _) => refused("It has several drives."),
    }
}
