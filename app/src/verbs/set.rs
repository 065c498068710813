//! `set`: change a VM that is off.

use std::path::PathBuf;

use benchtop_control::{Failure, FailureKind, VmConfig};
use benchtop_machine::monitor::{firmware, host};
use clap::Args;

use crate::output::Output;
use crate::target::{Target, check_not_booted};

/// `set`.
#[derive(Debug, Args)]
#[command(after_help = "Keys: name, memory, cpus, boot (cd, disk), firmware (a path, or none), uuid, DISK.cache \
    (writethrough, writeback, unsafe), DISK.serial")]
pub struct Set {
    /// VM
    pub vm: String,
    /// What to change
    #[arg(required = true, value_name = "KEY=VALUE")]
    pub changes: Vec<String>,
}

fn usage(what: &str, why: impl Into<String>) -> Failure {
    Failure::new(
        FailureKind::Usage,
        format!("can not set `{what}`"),
        why,
        "`benchtop set --help` lists the keys; nothing was changed.",
    )
}

impl Set {
    /// Runs the verb: all changes or none.
    ///
    /// # Errors
    /// What failed.
    pub fn run(&self, output: &Output) -> Result<(), Failure> {
        let mut target = Target::find(&self.vm)?;
        let name = target.name().to_owned();
        target.change(|config| {
            for change in &self.changes {
                let (key, value) =
                    change.split_once('=').ok_or_else(|| usage(change, "It is not written KEY=VALUE."))?;
                apply(config, key, value)?;
            }
            Ok(())
        })?;
        let fields = serde_json::json!({ "name": target.name(), "config": target.config });
        output.done("set", &fields, || format!("changed {name}"))
    }
}

fn apply(config: &mut VmConfig, key: &str, value: &str) -> Result<(), Failure> {
    match key {
        "name" => {
            if value != config.name {
                check_not_booted(value)?;
            }
            value.clone_into(&mut config.name);
        }
        "memory" => {
            config.memory = value.parse().map_err(|error| usage(key, format!("{error}.")))?;
            host::check_memory(config.memory)?;
        }
        "cpus" => config.cpus = value.parse().map_err(|_not| usage(key, format!("`{value}` is no number.")))?,
        "boot" => config.boot = value.parse().map_err(|why: String| usage(key, why))?,
        "firmware" if value == "none" => config.firmware = None,
        "firmware" => {
            let path = std::path::absolute(PathBuf::from(value)).map_err(|error| usage(key, format!("{error}.")))?;
            // The same check as at the start.
            firmware::load(Some(&path))?;
            config.firmware = Some(path);
        }
        "uuid" => {
            config.uuid = value.parse().map_err(|_not| usage(key, format!("`{value}` is no UUID.")))?;
            // Chosen by the user: kept, even beside another VM that has it.
            config.uuid_pinned = true;
            config.previous_uuid = None;
        }
        _ => {
            let (name, field) = key.split_once('.').ok_or_else(|| usage(key, "There is no such key."))?;
            let disk = config.disks.iter_mut().find(|disk| disk.name == name).ok_or_else(|| {
                Failure::new(
                    FailureKind::NotFound,
                    format!("can not set `{key}`"),
                    format!("The VM has no disk `{name}`."),
                    "`benchtop show` lists its disks; nothing was changed.",
                )
            })?;
            match field {
                "cache" => disk.cache = value.parse().map_err(|why: String| usage(key, why))?,
                "serial" => value.clone_into(&mut disk.serial),
                _ => return Err(usage(key, "There is no such key.")),
            }
        }
    }
    Ok(())
}
