//! `attach`: give a VM a CD-ROM drive, or a disc for one it has.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use benchtop_control::config::CdConfig;
use benchtop_control::{Command, Failure, FailureKind};
use benchtop_machine::monitor::open;
use clap::{Args, Subcommand};

use crate::cli::not_built;
use crate::output::Output;
use crate::target::Target;
use crate::verbs::new::absolute_iso;

/// `attach`.
#[derive(Debug, Args)]
pub struct Attach {
    /// VM
    pub vm: String,
    /// Kind of device
    #[command(subcommand)]
    pub kind: Kind,
}

/// What to attach.
#[derive(Debug, Subcommand)]
pub enum Kind {
    /// A CD-ROM drive, with a disc or empty
    Cd {
        /// Disc
        iso: Option<PathBuf>,
    },
    /// A disk (not built yet)
    Disk {
        /// Image and options
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
}

impl Attach {
    /// Runs the verb.
    ///
    /// # Errors
    /// There is no room for it, or the VM runs and has no empty drive.
    pub fn run(&self, output: &Output) -> Result<(), Failure> {
        let Kind::Cd { iso } = &self.kind else { return Err(not_built("`attach disk`")) };
        let mut target = Target::find(&self.vm)?;
        let iso = iso.as_deref().map(absolute_iso).transpose()?;
        let device = match target.client()? {
            Some(mut client) => insert_into_empty(&mut client, &self.vm, iso.as_deref())?,
            None => {
                let mut device = String::new();
                target.change(|config| {
                    let empty = config.cds.iter_mut().find(|cd| cd.iso.is_none());
                    match (empty, &iso) {
                        (Some(drive), Some(_)) => {
                            drive.iso.clone_from(&iso);
                            device.clone_from(&drive.name);
                        }
                        _ => {
                            device = config.free_device_name("cd");
                            config.cds.push(CdConfig { name: device.clone(), iso: iso.clone() });
                        }
                    }
                    Ok(())
                })?;
                device
            }
        };
        let fields = serde_json::json!({ "name": target.name(), "device": device, "iso": iso });
        output.done("attach", &fields, || format!("attached {device} to {}", target.name()))
    }
}

fn insert_into_empty(client: &mut benchtop_control::Client, vm: &str, iso: Option<&Path>) -> Result<String, Failure> {
    let refused = |why: &str, fix: &str| {
        Err(Failure::new(FailureKind::WrongState, format!("can not attach a CD-ROM drive to `{vm}`"), why, fix))
    };
    let Some(iso) = iso else {
        return refused(
            "It is running, and IDE drives can not be plugged in while it runs.",
            "Stop it first, or insert a disc into a drive it has with `benchtop cd insert`.",
        );
    };
    let info = client.show()?;
    let Some(drive) = info.devices.iter().find(|device| device.kind == "cd" && device.file.is_none()) else {
        return refused(
            "It is running without an empty drive, and IDE drives can not be plugged in while it runs.",
            "Change a disc with `benchtop cd insert`, or stop the VM first.",
        );
    };
    let file = open::open_bundle_iso(iso)?;
    let device = drive.name.clone();
    let command = Command::CdInsert { device: Some(device.clone()), path: iso.to_path_buf(), force: false };
    client.request(command, &[file.as_fd()])?;
    Ok(device)
}
