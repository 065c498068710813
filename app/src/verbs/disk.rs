//! `disk`: make, look at, copy and serve disk images, one action a file.

mod check;
mod compact;
mod compare;
mod convert;
mod create;
mod draft;
mod fork;
mod holders;
mod info;
mod map;
mod repair;
mod resize;
mod retention;
mod serve;
mod snap;
mod transfer;
mod workplace;

use benchtop_control::{Failure, FailureKind};
use clap::{Args, Subcommand};

pub use check::Check;
pub use draft::{NewImage, check_password, create_at, strata_in};
use retention::parse_retention;

use crate::cli::not_built;
use crate::output::Output;

/// `disk`.
#[derive(Debug, Args)]
#[command(
    after_help = "A disk is FILE, FILE,format=F for a file whose signature misleads, or VM:DISK for a disk of a \
    VM that is off. info, map, convert, compare and serve also take what an NBD server has: nbd://HOST[:PORT]/EXPORT, \
    nbd+unix:///EXPORT?socket=PATH, and with TLS nbds:// and nbds+unix:// (--tls-ca)."
)]
pub struct Disk {
    /// What to do
    #[command(subcommand)]
    pub action: Action,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Action {
    /// Make an image
    Create(create::Create),
    /// Show what an image is
    Info(info::Info),
    /// Check an image; exit code 10 for damage, 11 for leaked space
    Check(Check),
    /// Repair an image; a Strata disk's losses are told, and given up with --yes
    Repair(repair::Repair),
    /// Show which parts of a disk are stored
    Map(map::Map),
    /// Gather what a Strata disk needs and give the rest of its space back
    Compact(compact::Compact),
    /// Make a disk larger or smaller
    Resize(resize::Resize),
    /// Copy a disk into a new image
    Convert(Box<convert::Convert>),
    /// Compare what two disks hold; exit code 1 if they differ
    Compare(compare::Compare),
    /// Serve a disk by NBD until interrupted
    Serve(serve::Serve),
    /// Make a new disk of a restore point
    Fork(Box<fork::Fork>),
    /// Show or choose which restore points a disk keeps
    Retention(retention::RetentionArgs),
    /// Snapshots and restore points of a disk
    Snap(snap::Snap),
    /// Other actions of the contract are not built yet
    #[command(external_subcommand)]
    Other(Vec<String>),
}

/// Actions that are still to come.
const UNBUILT: [&str; 5] = ["cache", "limit", "coalesce", "mirror", "trace"];

impl Disk {
    /// Runs the verb. The exit code is that of a finding, mostly 0.
    ///
    /// # Errors
    /// What failed.
    pub fn run(&self, output: &Output) -> Result<u8, Failure> {
        match &self.action {
            Action::Check(action) => return action.run(output),
            Action::Repair(action) => return action.run(output),
            Action::Compare(action) => return action.run(output),
            Action::Create(action) => action.run(output)?,
            Action::Info(action) => action.run(output)?,
            Action::Map(action) => action.run(output)?,
            Action::Compact(action) => action.run(output)?,
            Action::Resize(action) => action.run(output)?,
            Action::Convert(action) => action.run(output)?,
            Action::Serve(action) => action.run(output)?,
            Action::Fork(action) => action.run(output)?,
            Action::Retention(action) => action.run(output)?,
            Action::Snap(action) => action.run(output)?,
            Action::Other(arguments) => {
                let name = arguments.first().map(String::as_str).unwrap_or_default();
                if UNBUILT.contains(&name) {
                    return Err(not_built(&format!("`disk {name}`")));
                }
                return Err(Failure::new(
                    FailureKind::Usage,
                    format!("can not do `disk {name}`"),
                    "There is no such action.",
                    "`benchtop disk --help` lists them.",
                ));
            }
        }
        Ok(0)
    }
}
