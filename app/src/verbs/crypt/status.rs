//! `crypt status`.

use benchtop_control::config::DiskFormat;
use benchtop_control::{Failure, FailureKind, Size};
use benchtop_machine::monitor::block_failure;
use benchtop_machine::monitor::image::{Password, image_format, wants_password};
use benchtop_strata::{CryptStatus, SlotInfo, SlotKind, StrataDisk};
use serde::Serialize;

use super::{Locked, sources};
use crate::image::{Access, Source};
use crate::output::{Output, table};

/// A key slot as `--json` has it.
#[derive(Debug, Serialize)]
struct Slot {
    slot: usize,
    kind: &'static str,
    /// What one try costs.
    memory_bytes: u64,
    passes: u32,
    lanes: u32,
}

/// What is known of a disk.
#[derive(Debug, Serialize)]
struct Facts {
    disk: String,
    format: &'static str,
    /// Whether it takes a password.
    encrypted: Option<bool>,
    /// `plain`, `encrypted`, `encrypting`, `decrypting`; unknown without the password.
    state: Option<&'static str>,
    in_use: bool,
    /// Unknown without the password.
    slots: Option<Vec<Slot>>,
}

impl Facts {
    fn find(source: &Source, given: Option<&Password>, output: &Output) -> Result<Self, Failure> {
        let format = source.format()?;
        let file = source.file(false)?;
        let mut facts = Self {
            disk: source.name.clone(),
            format: format.name(),
            encrypted: None,
            state: None,
            in_use: false,
            slots: None,
        };
        if format != DiskFormat::Strata {
            let info = benchtop_images::info(&file, image_format(format));
            let info = info.map_err(|error| block_failure(&source.what("read"), &error))?;
            facts.encrypted = Some(info.encrypted);
            facts.state = Some(if info.encrypted { "encrypted" } else { "plain" });
            return Ok(facts);
        }
        facts.encrypted = benchtop_strata::facts(&file).map(|facts| facts.encrypted);
        let opened = match given {
            Some(password) => source.open_strata_with(password, true),
            None => source.open_strata(output, &Access::default(), true),
        };
        match opened {
            Ok(opened) => facts.of(&opened.disk),
            Err(failure) if wants_password(&failure) => {}
            Err(failure) if failure.kind == FailureKind::WrongState => facts.in_use = true,
            Err(failure) => return Err(failure),
        }
        Ok(facts)
    }

    fn of(&mut self, disk: &StrataDisk) {
        let status = disk.crypt_status();
        self.encrypted = Some(status != CryptStatus::Plain);
        self.state = Some(match status {
            CryptStatus::Plain => "plain",
            CryptStatus::Encrypted => "encrypted",
            CryptStatus::Encrypting => "encrypting",
            CryptStatus::Decrypting => "decrypting",
        });
        let slot = |SlotInfo { index, kind, cost }| Slot {
            slot: index,
            kind: match kind {
                SlotKind::Password => "password",
                SlotKind::RecoveryKey => "recovery key",
            },
            memory_bytes: u64::from(cost.memory_kib) << 10,
            passes: cost.passes,
            lanes: cost.lanes,
        };
        self.slots = Some(disk.key_slots().into_iter().map(slot).collect());
    }

    fn rows(&self) -> Vec<Vec<String>> {
        let state = match (self.state, self.encrypted) {
            (Some("encrypting"), _) => "being encrypted: `benchtop crypt enable` goes on",
            (Some("decrypting"), _) => "being decrypted: `benchtop crypt disable` goes on",
            (Some(state), _) => state,
            (None, Some(true)) if self.in_use => "takes a password; in use",
            (None, Some(false)) if self.in_use => "plain; in use",
            (None, Some(true)) => "takes a password, which tells more",
            (None, _) => "unknown",
        };
        let mut rows = vec![vec![self.disk.clone(), state.to_owned()]];
        for Slot { slot, kind, memory_bytes, passes, .. } in self.slots.iter().flatten() {
            let cost = match *kind {
                "password" => format!("; a try takes {} and {passes} passes", Size(*memory_bytes).human()),
                _ => String::new(),
            };
            rows.push(vec![format!("  slot {slot}"), format!("{kind}{cost}")]);
        }
        rows
    }
}

/// Runs the action.
///
/// # Errors
/// A disk can not be read, or the password is wrong.
pub fn run(locked: &Locked, output: &Output) -> Result<(), Failure> {
    let given = locked.password.given()?;
    // Each is closed before the next is opened, so each takes the VM's lock itself.
    let disks = sources(&locked.disk)?;
    let disks = disks.iter().map(|source| Facts::find(source, given.as_ref(), output));
    let disks = disks.collect::<Result<Vec<_>, _>>()?;
    let fields = serde_json::json!({ "disks": disks });
    output.result("crypt.status", &fields, || table(&disks.iter().flat_map(Facts::rows).collect::<Vec<_>>()))
}
