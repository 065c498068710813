//! `crypt enable` and `crypt disable`: disks are encrypted and decrypted where they are.

use std::ops::ControlFlow;

use benchtop_block::BlockError;
use benchtop_control::{Failure, FailureKind};
use benchtop_machine::monitor::block_failure;
use benchtop_machine::monitor::image::Password;
use benchtop_strata::{CryptStatus, Identity};
use clap::Args;

use super::{Locked, Unlocked, cost, new_password, sources, unlock};
use crate::output::Output;
use crate::password::{NewPasswordArgs, PasswordArgs};
use crate::progress::Progress;
use crate::signals::{Signals, interrupted};

/// `crypt enable`.
#[derive(Debug, Args)]
#[command(after_help = "Restore points and snapshots can not be encrypted: they are removed, with consent. From its \
    beginning on the disk takes the password, and Ctrl-C only pauses: the same command goes on. Copies and backups that \
    were made before are not encrypted, nor is what the host's own snapshots keep.")]
pub struct Enable {
    /// The disk, and its password where that was begun before.
    #[command(flatten)]
    pub locked: Locked,
    /// The password it gets.
    #[command(flatten)]
    pub new_password: NewPasswordArgs,
}

impl Enable {
    /// Runs the action.
    ///
    /// # Errors
    /// A disk is encrypted already or being decrypted, consent is missing, or Ctrl-C.
    pub fn run(&self, output: &Output) -> Result<(), Failure> {
        let name = &self.locked.disk;
        let sources = sources(name)?;
        // Either will do for both: to begin, and to go on.
        let new = PasswordArgs::from(&self.new_password).given()?;
        let old = self.locked.password.given()?;
        let mut disks = unlock(sources, old.clone().or(new.clone()), output)?;
        let begins = check(&disks, CryptStatus::Encrypting, CryptStatus::Plain, output)?;
        let opened = disks.iter().find(|disk| disk.status() != CryptStatus::Plain);
        let opened_with = opened.and_then(|disk| disk.disk.password.clone());
        let password = match new.or(old).or(opened_with) {
            Some(password) => Some(password),
            None if begins => Some(new_password(&self.new_password, output, name)?),
            None => None,
        };
        let signals = Signals::watch()?;
        for disk in disks.iter_mut().filter(|disk| disk.status() != CryptStatus::Encrypted) {
            if let (CryptStatus::Plain, Some(password)) = (disk.status(), &password) {
                let begun = disk.disk.disk.encrypt(password, cost(), true);
                begun.map_err(|error| disk.failure("encrypt", &error))?;
                disk.disk.remember();
            }
            go_on(disk, "encrypting", &signals, output)?;
        }
        done(&disks, "crypt.enable", output)
    }
}

/// What `crypt disable --help` says besides.
pub const DISABLE_HELP: &str = "Restore points and snapshots can not be decrypted: they are removed, with consent. Until \
    all is done the disk takes its password, and Ctrl-C only pauses: the same command goes on.";

/// `crypt disable`.
///
/// # Errors
/// A disk is not encrypted or being encrypted, consent is missing, or Ctrl-C.
pub fn disable(locked: &Locked, output: &Output) -> Result<(), Failure> {
    let given: Option<Password> = locked.password.given()?;
    let mut disks = unlock(sources(&locked.disk)?, given, output)?;
    check(&disks, CryptStatus::Decrypting, CryptStatus::Encrypted, output)?;
    let signals = Signals::watch()?;
    for disk in disks.iter_mut().filter(|disk| disk.status() != CryptStatus::Plain) {
        // First, so that a crash at the end does not leave a plain disk where an encrypted one is remembered.
        disk.disk.remember_as(&Identity { encrypted: false, ..disk.disk.disk.identity() });
        if disk.status() == CryptStatus::Encrypted {
            let begun = disk.disk.disk.decrypt(true);
            begun.map_err(|error| disk.failure("decrypt", &error))?;
        }
        go_on(disk, "decrypting", &signals, output)?;
    }
    done(&disks, "crypt.disable", output)
}

impl Unlocked {
    fn status(&self) -> CryptStatus {
        self.disk.disk.crypt_status()
    }

    fn failure(&self, verb: &str, error: &BlockError) -> Failure {
        block_failure(&self.source.what(verb), error)
    }
}

/// Checks all before one is changed: each must have been begun, be about to, or be done. Says whether one is to begin.
fn check(disks: &[Unlocked], begun: CryptStatus, before: CryptStatus, output: &Output) -> Result<bool, Failure> {
    let (verb, other, already) = match begun {
        CryptStatus::Encrypting => ("encrypt", "decrypt", "It is encrypted already."),
        _ => ("decrypt", "encrypt", "It is not encrypted."),
    };
    let left = disks.iter().filter(|disk| disk.status() == before || disk.status() == begun).count();
    let mut begins = false;
    for disk in disks {
        let name = &disk.source.name;
        match disk.status() {
            status if status == begun => {}
            status if status == before => {
                begins = true;
                let points = disk.disk.disk.points().map_err(|error| disk.failure(verb, &error))?.len();
                if points > 0 {
                    consent(disk, verb, points, output)?;
                }
            }
            CryptStatus::Plain | CryptStatus::Encrypted if left > 0 => output.remark(&format!("{name}: {already}")),
            CryptStatus::Plain | CryptStatus::Encrypted => {
                let fix = match begun {
                    CryptStatus::Encrypting => "`benchtop crypt change` gives it another password.",
                    _ => "There is nothing to do.",
                };
                return Err(Failure::new(FailureKind::WrongState, disk.source.what(verb), already, fix));
            }
            CryptStatus::Encrypting | CryptStatus::Decrypting => {
                let why = format!("It is being {other}ed, which was begun and is not done yet.");
                let action = if other == "encrypt" { "enable" } else { "disable" };
                let fix =
                    format!("Let that be done first: `benchtop crypt {action} {name}` goes on; then do this again.");
                return Err(Failure::new(FailureKind::WrongState, disk.source.what(verb), why, fix));
            }
        }
    }
    Ok(begins)
}

/// Asks before restore points go.
fn consent(disk: &Unlocked, verb: &str, points: usize, output: &Output) -> Result<(), Failure> {
    let name = &disk.source.name;
    let (points, they) = match points {
        1 => ("1 restore point or snapshot".to_owned(), "it"),
        points => (format!("{points} restore points and snapshots"), "they"),
    };
    let question = format!("{name} has {points}, and {they} will be lost. Go on?");
    output.confirm(&question).map_err(|_refused| {
        let why = format!("It has {points}, and {they} would be lost.");
        let fix = "Keep what you need with `benchtop disk fork`, then consent with --yes.";
        Failure::new(FailureKind::Usage, disk.source.what(verb), why, fix)
    })
}

/// Converts what is left, with progress, until Ctrl-C.
fn go_on(disk: &Unlocked, state: &str, signals: &Signals, output: &Output) -> Result<(), Failure> {
    let bar = Progress::begin(output, &format!("{state} {}", disk.source.name));
    let mut why = None;
    let done = disk.disk.disk.convert(&mut |progress| {
        bar.update_bytes(state, progress.done_bytes, progress.total_bytes);
        why = signals.came();
        if why.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    bar.end();
    let verb = state.trim_end_matches("ing");
    match (done.map_err(|error| disk.failure(verb, &error).with_fix(STOPPED))?, why) {
        (true, _) => Ok(()),
        (false, why) => {
            let fix = "What is done stays done, and the disk can be used; the same command goes on.";
            Err(interrupted(why.unwrap_or("It was asked to end."), fix))
        }
    }
}

/// What to do when it can not go on.
const STOPPED: &str = "Put that right (`benchtop disk check`, `disk repair`, or free some space), then do the same again; \
                       the disk can be used meanwhile.";

fn done(disks: &[Unlocked], verb: &str, output: &Output) -> Result<(), Failure> {
    let names: Vec<&str> = disks.iter().map(|disk| disk.source.name.as_str()).collect();
    let encrypted = disks.iter().all(|disk| disk.status() == CryptStatus::Encrypted);
    let fields = serde_json::json!({ "disks": names, "encrypted": encrypted });
    output.done(verb, &fields, || {
        let state = if encrypted { "encrypted" } else { "decrypted: no password is needed any more" };
        format!("{}: {state}", names.join(", "))
    })
}
