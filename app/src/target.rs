//! The VM a verb is about: its bundle, its configuration, and its monitor if it runs.

use benchtop_control::failure::chain;
use benchtop_control::library::NewIdentity;
use benchtop_control::wire::WireError;
use benchtop_control::{Bundle, Client, Failure, FailureKind, Library, RuntimeFolder, VmConfig};

use crate::output::Output;

/// The key of a throw-away VM's folder.
pub fn boot_key(name: &str) -> String {
    format!("boot.{name}")
}

/// A VM of the library, or one at a path.
#[derive(Debug)]
pub struct Target {
    /// Its bundle.
    pub bundle: Bundle,
    /// Its configuration.
    pub config: VmConfig,
}

impl Target {
    /// Finds a VM.
    ///
    /// # Errors
    /// None of that name, or its configuration can not be read.
    pub fn find(name: &str) -> Result<Self, Failure> {
        let bundle = Library::of_user()?.find(name)?;
        let config = bundle.config()?;
        Ok(Self { bundle, config })
    }

    /// What it is called in messages.
    pub fn name(&self) -> &str {
        &self.config.name
    }

    /// Its monitor, if it runs.
    ///
    /// # Errors
    /// The runtime folder is not this user's.
    pub fn client(&self) -> Result<Option<Client>, Failure> {
        Client::connect(&RuntimeFolder::open()?, &self.config.uuid.to_string())
    }

    /// Changes the configuration of a VM that is off.
    ///
    /// # Errors
    /// It runs, or the change is impossible.
    pub fn change(&mut self, change: impl FnOnce(&mut VmConfig) -> Result<(), Failure>) -> Result<(), Failure> {
        let _lock = self.bundle.lock()?;
        // Read again under the lock: another command may have been faster.
        let mut config = self.bundle.config()?;
        change(&mut config)?;
        self.bundle.save(&config)?;
        self.config = config;
        Ok(())
    }
}

/// The monitor of a VM that must be running: of the library, at a path, or a throw-away VM with a name.
///
/// # Errors
/// No such VM, or it is off.
pub fn running(name: &str) -> Result<Client, Failure> {
    let runtime = RuntimeFolder::open()?;
    match Target::find(name) {
        Ok(target) => target.client()?.ok_or_else(|| is_off(target.name())),
        Err(failure) if failure.kind == FailureKind::NotFound && !name.contains('/') => {
            Client::connect(&runtime, &boot_key(name))?.ok_or(failure)
        }
        Err(failure) => Err(failure),
    }
}

/// The error of a verb that needs a running VM.
pub fn is_off(name: &str) -> Failure {
    Failure::new(
        FailureKind::WrongState,
        format!("can not do that with the VM `{name}`"),
        "It is off.",
        "Start it with `benchtop start`.",
    )
}

/// Looks at why a VM's events ended. That its monitor has gone is how they end after the VM went off.
///
/// # Errors
/// Anything else.
pub fn events_ended(error: &WireError) -> Result<(), Failure> {
    match error {
        WireError::Closed => Ok(()),
        WireError::Io(error) if error.kind() == std::io::ErrorKind::ConnectionReset => Ok(()),
        _ => Err(Failure::new(
            FailureKind::Failed,
            "lost touch with the VM",
            chain(error),
            "See whether it still runs with `benchtop list`.",
        )),
    }
}

/// Gives copies identities of their own, and says so.
///
/// # Errors
/// The library can not be read.
pub fn part_copies(output: &Output) -> Result<(), Failure> {
    for NewIdentity { path, old, new } in Library::of_user()?.part_copies()? {
        output.warning(&format!(
            "{} is a copy of another VM and got a UUID of its own, {new}. To undo: benchtop set {} uuid={old}",
            path.display(),
            path.display(),
        ));
    }
    Ok(())
}
