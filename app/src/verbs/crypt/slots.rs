//! `crypt add-slot`, `rm-slot`, `change` and `recovery-key`. No data is rewritten: every slot opens the same key.

use benchtop_control::{Failure, FailureKind};
use benchtop_machine::monitor::block_failure;
use benchtop_strata::{CryptStatus, SlotKind, StrataDisk};
use clap::Args;

use super::{Locked, Unlocked, cost, new_password, not_encrypted, one, sources, unlock};
use crate::image::Source;
use crate::output::Output;
use crate::password::NewPasswordArgs;

/// `crypt add-slot`.
#[derive(Debug, Args)]
pub struct AddSlot {
    /// The disk, and a password it has.
    #[command(flatten)]
    pub locked: Locked,
    /// The one to add.
    #[command(flatten)]
    pub new_password: NewPasswordArgs,
}

/// `crypt rm-slot`.
#[derive(Debug, Args)]
#[command(after_help = "Older copies of the file are still opened by what is removed here.")]
pub struct RmSlot {
    /// The disk, and a password it has.
    #[command(flatten)]
    pub locked: Locked,
    /// Number of the slot, as `crypt status` shows it
    #[arg(value_parser = clap::value_parser!(u8).range(0..8))]
    pub slot: u8,
}

/// `crypt change`.
#[derive(Debug, Args)]
#[command(after_help = "Older copies of the file are still opened by the old password.")]
pub struct Change {
    /// The disk, and its password.
    #[command(flatten)]
    pub locked: Locked,
    /// The new one.
    #[command(flatten)]
    pub new_password: NewPasswordArgs,
    /// Slot of the password to replace, if it is not the one given: after opening the disk with a recovery key
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(0..8))]
    pub slot: Option<u8>,
}

/// Opens disks that have passwords.
fn unlock_encrypted(sources: Vec<Source>, locked: &Locked, output: &Output) -> Result<Vec<Unlocked>, Failure> {
    let disks = unlock(sources, locked.password.given()?, output)?;
    match disks.iter().find(|disk| disk.disk.disk.crypt_status() == CryptStatus::Plain) {
        Some(plain) => Err(not_encrypted(&plain.source.what("change the passwords of"))),
        None => Ok(disks),
    }
}

/// The same for what is done to one disk only.
fn unlock_one(locked: &Locked, output: &Output) -> Result<Unlocked, Failure> {
    let mut disks = unlock_encrypted(vec![one(&locked.disk)?], locked, output)?;
    disks.pop().ok_or_else(|| not_encrypted(&locked.disk))
}

impl AddSlot {
    /// Runs the action.
    ///
    /// # Errors
    /// It is not encrypted, the password is wrong, or all slots are used.
    pub fn run(&self, output: &Output) -> Result<(), Failure> {
        let disks = unlock_encrypted(sources(&self.locked.disk)?, &self.locked, output)?;
        let password = new_password(&self.new_password, output, &self.locked.disk)?;
        let mut slots = Vec::new();
        for Unlocked { source, disk } in &disks {
            let slot = disk.disk.add_password(&password, cost()).map_err(|error| {
                block_failure(&source.what("add a password to"), &error)
                    .with_fix("`benchtop crypt status` lists the slots; remove one with `crypt rm-slot`.")
            })?;
            slots.push(serde_json::json!({ "disk": source.name, "slot": slot }));
            output.remark(&format!("{}: the new password is in slot {slot}", source.name));
        }
        output.done("crypt.add-slot", &serde_json::json!({ "disks": slots }), || "the old ones stay".to_owned())
    }
}

impl RmSlot {
    /// Runs the action.
    ///
    /// # Errors
    /// There is no such slot, it is the last, or the password is wrong.
    pub fn run(&self, output: &Output) -> Result<(), Failure> {
        let Unlocked { source, disk } = unlock_one(&self.locked, output)?;
        let index = usize::from(self.slot);
        let what = format!("can not remove slot {index} of the disk {}", source.name);
        let slots = disk.disk.key_slots();
        if !slots.iter().any(|slot| slot.index == index) {
            return Err(no_slot(what));
        }
        if slots.len() == 1 {
            let why = "It is the last one: nobody could open the disk.";
            let fix = "Add another first (crypt add-slot), or decrypt the disk (crypt disable).";
            return Err(Failure::new(FailureKind::WrongState, what, why, fix));
        }
        disk.disk.remove_key_slot(index).map_err(|error| block_failure(&what, &error))?;
        let fields = serde_json::json!({ "disk": source.name, "slot": index });
        output.done("crypt.rm-slot", &fields, || format!("{}: slot {index} is empty now", source.name))
    }
}

fn no_slot(what: String) -> Failure {
    let fix = "`benchtop crypt status` lists the slots.";
    Failure::new(FailureKind::NotFound, what, "There is no password in it.", fix)
}

impl Change {
    /// Runs the action.
    ///
    /// # Errors
    /// It is not encrypted, the password is wrong, or it is not said which one is to be replaced.
    pub fn run(&self, output: &Output) -> Result<(), Failure> {
        let disks = unlock_encrypted(sources(&self.locked.disk)?, &self.locked, output)?;
        // Before anything is changed, and before anybody is asked.
        let slots: Vec<usize> = disks.iter().map(|disk| self.slot_of(disk)).collect::<Result<_, _>>()?;
        let password = new_password(&self.new_password, output, &self.locked.disk)?;
        let mut changed = Vec::new();
        for (Unlocked { source, disk }, slot) in disks.iter().zip(slots) {
            let change = disk.disk.change_password(slot, &password, cost());
            change.map_err(|error| block_failure(&source.what("change the password of"), &error))?;
            changed.push(serde_json::json!({ "disk": source.name, "slot": slot }));
        }
        let fields = serde_json::json!({ "disks": changed });
        output.done("crypt.change", &fields, || format!("{} has a new password", self.locked.disk))
    }

    /// The slot whose password is replaced.
    fn slot_of(&self, unlocked: &Unlocked) -> Result<usize, Failure> {
        let what = unlocked.source.what("change the password of");
        let disk: &StrataDisk = &unlocked.disk.disk;
        let opened = || unlocked.disk.password.as_ref().and_then(|password| disk.slot_of(password));
        let index = self.slot.map(usize::from).or_else(opened);
        let slot = disk.key_slots().into_iter().find(|slot| Some(slot.index) == index);
        match slot {
            Some(slot) if slot.kind == SlotKind::Password => Ok(slot.index),
            Some(_) => {
                let fix = "Say which password to replace with --slot, or add one with `crypt add-slot`.";
                Err(Failure::new(FailureKind::Usage, what, "That is a recovery key and no password.", fix))
            }
            None => Err(no_slot(what)),
        }
    }
}

/// `crypt recovery-key`.
///
/// # Errors
/// It is not encrypted, the password is wrong, or all slots are used.
pub fn recovery_key(locked: &Locked, output: &Output) -> Result<(), Failure> {
    let Unlocked { source, disk } = unlock_one(locked, output)?;
    let what = source.what("make a recovery key of");
    let (slot, key) = disk.disk.add_recovery_key().map_err(|error| block_failure(&what, &error))?;
    let fields = serde_json::json!({ "disk": source.name, "slot": slot, "recovery_key": *key });
    if let Err(failure) = output.result("crypt.recovery-key", &fields, || key.to_string()) {
        // Nobody has seen it.
        disk.disk.remove_key_slot(slot).map_err(|error| block_failure(&what, &error))?;
        return Err(failure);
    }
    output.remark("it opens the disk as a password does and is not shown again: write it down, and keep it elsewhere");
    Ok(())
}
