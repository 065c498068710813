//! The VM a verb is about: its bundle, its configuration, and its monitor if it runs.

use std::time::Duration;

use benchtop_control::failure::chain;
use benchtop_control::library::NewIdentity;
use benchtop_control::runtime::BOOT_PREFIX;
use benchtop_control::wire::WireError;
use benchtop_control::{
    Bundle, Client, Event, Failure, FailureKind, Holder, Library, RuntimeFolder, VmConfig, VmState,
};

use crate::output::Output;

/// The key of a throw-away VM's folder.
pub fn boot_key(name: &str) -> String {
    format!("{BOOT_PREFIX}{name}")
}

/// How often, and after what time, a VM is looked at again whose monitor is there without its socket: it may be about
/// to start or to end.
const LOOKS: u32 = 10;
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// What there is of a VM's monitor.
#[derive(Debug)]
pub enum Found {
    /// None: the VM is off.
    Nothing,
    /// One that listens.
    Client(Client),
    /// One whose socket is gone: its runtime folder was removed.
    Unreachable(Holder),
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
    /// The runtime folder is not this user's, or the monitor can not be reached.
    pub fn client(&self) -> Result<Option<Client>, Failure> {
        match look(&self.bundle, &self.config)? {
            Found::Nothing => Ok(None),
            Found::Client(client) => Ok(Some(client)),
            Found::Unreachable(monitor) => Err(unreachable(self.name(), &monitor)),
        }
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

/// Looks for the monitor of a VM: in this user's runtime folder, and where the monitor itself said it listens, which
/// is another folder if `$XDG_RUNTIME_DIR` was another when it started.
///
/// # Errors
/// The runtime folder is not this user's.
pub fn look(bundle: &Bundle, config: &VmConfig) -> Result<Found, Failure> {
    let runtime = RuntimeFolder::open()?;
    let key = config.uuid.to_string();
    let mut last = None;
    for _ in 0..LOOKS {
        if let Some(client) = Client::connect(&runtime, &key)? {
            return Ok(Found::Client(client));
        }
        let Some(monitor) = bundle.holder().filter(Holder::is_monitor) else { return Ok(Found::Nothing) };
        if let Some(client) = monitor.connect()? {
            return Ok(Found::Client(client));
        }
        last = Some(monitor);
        std::thread::sleep(LOOK_AGAIN);
    }
    Ok(last.map_or(Found::Nothing, Found::Unreachable))
}

/// The error of a verb on a VM whose monitor has lost its socket.
pub fn unreachable(name: &str, monitor: &Holder) -> Failure {
    let socket = monitor.runtime().unwrap_or_else(|| "its runtime folder".as_ref()).display();
    Failure::new(
        FailureKind::WrongState,
        format!("can not reach the VM `{name}`"),
        format!("It runs in process {}, whose socket in {socket} is gone.", monitor.pid()),
        "Shut it down from inside, or end it with `benchtop stop --force`.",
    )
}

/// The throw-away VM of that name, if one runs.
///
/// # Errors
/// The runtime folder is not this user's.
pub fn booted(name: &str) -> Result<Option<Client>, Failure> {
    if name.contains('/') { Ok(None) } else { Client::connect(&RuntimeFolder::open()?, &boot_key(name)) }
}

/// Refuses a name for a VM that a running throw-away VM has: verbs would no longer reach that one.
///
/// # Errors
/// It has.
pub fn check_not_booted(name: &str) -> Result<(), Failure> {
    if booted(name)?.is_none() {
        return Ok(());
    }
    Err(Failure::new(
        FailureKind::WrongState,
        format!("can not call a VM `{name}`"),
        "A VM of that name runs from `benchtop boot`.",
        "Choose another name, or stop that one first.",
    ))
}

/// The monitor of a VM that must be running: of the library, at a path, or a throw-away VM with a name. A throw-away
/// VM goes before one of the library that is off.
///
/// # Errors
/// No such VM, or it is off.
pub fn running(name: &str) -> Result<Client, Failure> {
    match Target::find(name) {
        Ok(target) => match target.client()? {
            Some(client) => Ok(client),
            None => booted(name)?.ok_or_else(|| is_off(target.name())),
        },
        Err(failure) if failure.kind == FailureKind::NotFound => booted(name)?.ok_or(failure),
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

/// Follows a client's events until its connection ends or, where `timeout` is given, that has passed. What it saw of
/// the VM's end is kept in `off`; the result is whether the connection has ended.
///
/// # Errors
/// The connection was lost other than by the monitor's end.
pub fn follow(client: &mut Client, timeout: Option<Duration>, off: &mut Option<Off>) -> Result<bool, Failure> {
    match client.next_event(timeout) {
        Ok(Some(Event::State { state: VmState::Off, reason })) => {
            *off = Some(Off { reason });
            Ok(false)
        }
        Ok(_) => Ok(false),
        Err(WireError::Closed) => Ok(true),
        Err(WireError::Io(error)) if error.kind() == std::io::ErrorKind::ConnectionReset => Ok(true),
        Err(error) => Err(Failure::new(
            FailureKind::Failed,
            "lost touch with the VM",
            chain(&error),
            "See whether it still runs with `benchtop list`.",
        )),
    }
}

/// How a VM said it went off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Off {
    /// Why, where it did so by itself.
    pub reason: Option<String>,
}

/// The error of a VM whose monitor ended without a word: it was killed, or it failed.
pub fn ended_unexpectedly(name: &str) -> Failure {
    Failure::new(
        FailureKind::Failed,
        format!("the VM `{name}` ended unexpectedly"),
        "Its process was killed or failed; the guest was not shut down.",
        "logs/monitor.log in its bundle may say more; start it again and let its guest check its disks.",
    )
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
