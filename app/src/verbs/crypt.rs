//! `crypt`: encryption of Strata disks and the passwords that open them.

mod convert;
mod slots;
mod status;

use std::path::Path;
use std::time::Duration;

use benchtop_control::{Failure, FailureKind, VmName};
use benchtop_machine::monitor::image::Password;
use benchtop_strata::{Cost, StrataDisk};
use clap::{Args, Subcommand};

use crate::cli::not_built;
use crate::image::{Access, Opened, Source};
use crate::output::Output;
use crate::password::{NewPasswordArgs, PasswordArgs};
use crate::target::Target;
use crate::verbs::disk::Check;

/// How long one try of a password shall take on this host.
const TRY_TIME: Duration = Duration::from_secs(1);

/// `crypt`.
#[derive(Debug, Args)]
#[command(after_help = "DISK is FILE, VM:DISK, or a VM that is off: all its disks. Where a password is asked for, a \
    recovery key does as well. Only disks are encrypted, not the rest of a VM's folder.")]
pub struct Crypt {
    /// What to do
    #[command(subcommand)]
    pub action: Action,
}

/// A disk and its password.
#[derive(Debug, Args)]
pub struct Locked {
    /// FILE, VM:DISK, or VM for all its disks
    #[arg(value_name = "DISK")]
    pub disk: String,
    /// The password.
    #[command(flatten)]
    pub password: PasswordArgs,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Action {
    /// Show whether a disk is encrypted and, with its password, what opens it
    Status(Locked),
    /// Encrypt a disk in place; goes on where it was interrupted
    Enable(convert::Enable),
    /// Decrypt a disk in place; goes on where it was interrupted
    #[command(after_help = convert::DISABLE_HELP)]
    Disable(Locked),
    /// Add a password
    AddSlot(slots::AddSlot),
    /// Remove a password or recovery key
    RmSlot(slots::RmSlot),
    /// Put a new password in the place of the one it is opened with
    Change(slots::Change),
    /// Make a recovery key and print it, this once
    RecoveryKey(Locked),
    /// Read everything, as `disk check` does
    Verify(Locked),
    /// Other actions of the contract are not built yet
    #[command(external_subcommand)]
    Other(Vec<String>),
}

impl Crypt {
    /// Runs the verb. The exit code is that of a finding, mostly 0.
    ///
    /// # Errors
    /// What failed.
    pub fn run(&self, output: &Output) -> Result<u8, Failure> {
        match &self.action {
            Action::Status(locked) => status::run(locked, output)?,
            Action::Enable(action) => action.run(output)?,
            Action::Disable(locked) => convert::disable(locked, output)?,
            Action::AddSlot(action) => action.run(output)?,
            Action::RmSlot(action) => action.run(output)?,
            Action::Change(action) => action.run(output)?,
            Action::RecoveryKey(locked) => slots::recovery_key(locked, output)?,
            Action::Verify(locked) => {
                let disk = one(&locked.disk)?.name;
                return Check { disk, accept_rollback: false, access: access(&locked.password) }.run(output);
            }
            Action::Other(arguments) => {
                let name = arguments.first().map(String::as_str).unwrap_or_default();
                if name == "rekey" {
                    return Err(not_built("`crypt rekey`"));
                }
                return Err(Failure::new(
                    FailureKind::Usage,
                    format!("can not do `crypt {name}`"),
                    "There is no such action.",
                    "`benchtop crypt --help` lists them.",
                ));
            }
        }
        Ok(0)
    }
}

fn access(password: &PasswordArgs) -> Access {
    Access { password: password.clone(), ..Access::default() }
}

/// The disks that `text` names: one, or all of a VM.
///
/// # Errors
/// None, or it is the name of a file and of a VM.
fn sources(text: &str) -> Result<Vec<Source>, Failure> {
    let is_file = Path::new(text).is_file();
    if VmName::parse(text).device.is_some() {
        return Source::find(text).map(|source| vec![source]);
    }
    let target = match Target::find(text) {
        Ok(target) => target,
        Err(failure) if is_file || failure.kind == FailureKind::NotFound => {
            return Source::find(text).map(|source| vec![source]);
        }
        Err(failure) => return Err(failure),
    };
    let what = format!("can not tell what `{text}` is");
    if is_file {
        let fix = format!("Write ./{text} for the file, or {text}:disk0 for a disk of the VM.");
        return Err(Failure::new(FailureKind::Usage, what, "There is a file and a VM of that name.", fix));
    }
    let disks = target.config.disks.iter();
    let sources: Vec<Source> =
        disks.map(|disk| Source::find(&format!("{text}:{}", disk.name))).collect::<Result<_, _>>()?;
    if sources.is_empty() {
        let what = format!("can not do that with the VM `{text}`");
        return Err(Failure::new(FailureKind::Usage, what, "It has no disks.", "Name a VM with disks, or a file."));
    }
    Ok(sources)
}

/// The disk that `text` names, where several will not do.
///
/// # Errors
/// None, or several.
fn one(text: &str) -> Result<Source, Failure> {
    let mut sources = sources(text)?;
    match (sources.pop(), sources.last()) {
        (Some(source), None) => Ok(source),
        _ => Err(Failure::new(
            FailureKind::Usage,
            format!("can not do that with all disks of the VM `{text}`"),
            "It has several, and each has its own.",
            format!("Name one: {text}:disk0."),
        )),
    }
}

/// A disk of several, open.
struct Unlocked {
    source: Source,
    disk: Opened<StrataDisk>,
}

/// Opens them all for writing, each with the password given, else that of the one before, else one from a prompt.
///
/// # Errors
/// One of them can not be opened.
fn unlock(mut sources: Vec<Source>, given: Option<Password>, output: &Output) -> Result<Vec<Unlocked>, Failure> {
    if let Some((first, others)) = sources.split_first_mut() {
        others.iter_mut().for_each(|other| other.opened_beside(first));
    }
    let (asks, mut known) = (given.is_none(), given);
    let mut disks = Vec::new();
    for source in sources {
        let prompted = || source.open_strata(output, &Access::default(), false);
        let disk = match &known {
            None => prompted()?,
            Some(password) => match source.open_strata_with(password, false) {
                Err(failure) if asks && failure.kind == FailureKind::BadPassword => prompted()?,
                opened => opened?,
            },
        };
        known = known.or_else(|| disk.password.clone());
        disks.push(Unlocked { source, disk });
    }
    Ok(disks)
}

/// A new password: what was given, or typed twice.
///
/// # Errors
/// As [`PasswordArgs::new_password`].
fn new_password(args: &NewPasswordArgs, output: &Output, name: &str) -> Result<Password, Failure> {
    PasswordArgs::from(args).new_password(output, name).map_err(|failure| {
        let asked = PasswordArgs::from(args);
        match (asked.password_fd, &asked.password_file) {
            (None, None) if failure.kind == FailureKind::BadPassword => {
                failure.with_fix("Type a new one twice on a terminal, or give it with --new-password-file.")
            }
            _ => failure,
        }
    })
}

/// What trying a new password costs.
fn cost() -> Cost {
    Cost::calibrate(TRY_TIME)
}

/// The words for a disk that takes no password.
fn not_encrypted(what: &str) -> Failure {
    let fix = "Encrypt it first: benchtop crypt enable.";
    Failure::new(FailureKind::WrongState, what, "It is not encrypted, so it has no passwords.", fix)
}
