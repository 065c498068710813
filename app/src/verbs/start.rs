//! `start`: start a VM's monitor.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command as Process, Stdio};

use benchtop_control::command::VmInfo;
use benchtop_control::{Bundle, Client, Command, Failure, FailureKind, Library, VmState};
use benchtop_machine::monitor::image::Password;
use benchtop_machine::monitor::process::{StartRequest, receive_answer, send_request};
use clap::Args;

use benchtop_machine::monitor::open::Accelerator;

use crate::cli::{AccelChoice, not_built};
use crate::output::Output;
use crate::password::PasswordArgs;
use crate::target::{Off, Target, ended_unexpectedly, follow, part_copies};
use crate::verbs::monitor::VERB;

/// The monitor's log starts anew above this size.
const LOG_BYTES_MAX: u64 = 1 << 20;

/// `start`.
#[derive(Debug, Args)]
pub struct Start {
    /// VM
    pub vm: String,
    /// What runs the guest's instructions
    #[arg(long, value_enum, default_value_t)]
    pub accel: AccelChoice,
    /// Wait until it is off
    #[arg(long)]
    pub wait: bool,
    /// Where the serial port's output goes: a file, or - for standard output (implies --wait)
    #[arg(long, value_name = "-|FILE")]
    pub serial: Option<String>,
    /// Open its window (not built yet)
    #[arg(long)]
    pub gui: bool,
    /// The password of its encrypted disks.
    #[command(flatten)]
    pub password: PasswordArgs,
}

impl Start {
    /// Runs the verb.
    ///
    /// # Errors
    /// What failed.
    pub fn run(&self, output: &Output) -> Result<u8, Failure> {
        if self.gui {
            return Err(not_built("the window"));
        }
        part_copies(output)?;
        // Only the bundle: what is wrong with its configuration is the monitor's to find, under the lock.
        let bundle = Library::of_user()?.find(&self.vm)?;
        let (serial, shown) = match self.serial.as_deref() {
            None => (None, None),
            Some("-") => {
                let (ours, theirs) =
                    UnixStream::pair().map_err(|error| Failure::from_io("can not connect the serial port", &error))?;
                (Some(OwnedFd::from(theirs)), Some(ours))
            }
            Some(path) => (Some(create(Path::new(path))?.into()), None),
        };
        let name = bundle.folder_name().to_owned();
        let accelerator = self.accel.accelerator(output)?;
        let ((mut info, monitor), _) =
            self.password.unlock(output, &name, |password| spawn(&bundle, accelerator, serial.as_ref(), password))?;
        // Only the monitor holds it now, so its end is the end of what is shown.
        drop(serial);
        let target = Target { config: bundle.config()?, bundle };
        let waits = self.wait || shown.is_some();
        // Before the serial port is followed, so that no event is missed. Where this fails the VM goes off this very
        // moment, and its process says how.
        let client = if waits { target.client().unwrap_or_default() } else { None };
        let client = client.and_then(|mut client| client.command(Command::Subscribe).is_ok().then_some(client));
        if let Some(mut serial) = shown {
            // Ends when the monitor does.
            let copied = std::io::copy(&mut serial, &mut std::io::stdout().lock());
            copied.map_err(|error| Failure::from_io("can not follow the serial port", &error))?;
            std::io::stdout().flush().map_err(|error| Failure::from_io("can not print", &error))?;
        }
        if waits {
            if let Some(why) = wait_until_off(client, monitor, target.name())? {
                return Err(Failure::new(
                    FailureKind::Failed,
                    format!("the VM `{}` went off by itself", target.name()),
                    why,
                    "logs/monitor.log in its bundle says more.",
                ));
            }
            info.state = VmState::Off;
            info.pid = None;
        }
        let fields = serde_json::json!({ "vm": info, "path": target.bundle.path() });
        if self.serial.as_deref() == Some("-") && !output.is_json() {
            return Ok(0);
        }
        output.done("start", &fields, || match info.state {
            VmState::Off => format!("{} is off", info.name),
            _ => format!("{} runs on {}", info.name, info.accel.as_deref().unwrap_or("?")),
        })?;
        Ok(0)
    }
}

/// Follows events until the VM is off, and waits for its monitor; the reason is one of a failure.
///
/// # Errors
/// The monitor was killed or failed.
fn wait_until_off(client: Option<Client>, mut monitor: Child, name: &str) -> Result<Option<String>, Failure> {
    let mut off = None;
    if let Some(mut client) = client {
        while off.is_none() && !follow(&mut client, None, &mut off)? {}
    }
    let status = monitor.wait().map_err(|error| Failure::from_io("can not wait for the VM's process", &error))?;
    match off {
        Some(Off { reason }) => Ok(reason),
        None if status.success() => Ok(None),
        None => Err(ended_unexpectedly(name)),
    }
}

/// Starts the monitor of `bundle` and waits until its guest runs.
///
/// # Errors
/// What failed, here or in the monitor.
pub fn start(bundle: &Bundle, accelerator: Accelerator, password: Option<&Password>) -> Result<VmInfo, Failure> {
    // Without waiting: the monitor outlives this process and belongs to nobody.
    spawn(bundle, accelerator, None, password).map(|(info, _monitor)| info)
}

/// As [`start`], with the process. `serial` is where COM1's output goes.
fn spawn(
    bundle: &Bundle,
    accelerator: Accelerator,
    serial: Option<&OwnedFd>,
    password: Option<&Password>,
) -> Result<(VmInfo, Child), Failure> {
    let what = || format!("can not start the VM `{}`", bundle.folder_name());
    let io = |error: std::io::Error| Failure::from_io(what(), &error);
    let (ours, theirs) = UnixStream::pair().map_err(io)?;
    let log = bundle.open_log("monitor.log", LOG_BYTES_MAX).map_err(io)?;
    let executable = std::env::current_exe().map_err(io)?;
    // The path is for people who look at the list of processes; the monitor takes the request's.
    let child = Process::new(executable)
        .arg(VERB)
        .arg(bundle.path())
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::from(log.try_clone().map_err(io)?))
        .stderr(Stdio::from(log))
        .current_dir("/")
        .spawn()
        .map_err(io)?;
    let password = password.map(in_pipe).transpose().map_err(io)?;
    let request = StartRequest {
        bundle: bundle.path().to_path_buf(),
        accelerator,
        serial: serial.is_some(),
        password: password.is_some(),
    };
    let descriptors: Vec<_> = serial.into_iter().chain(&password).map(AsFd::as_fd).collect();
    let answer = send_request(&ours, &request, &descriptors).and_then(|()| receive_answer(&ours));
    let info = answer.map_err(|error| {
        Failure::new(
            FailureKind::Failed,
            what(),
            format!("Its monitor ended without an answer: {error}."),
            format!("{} says more.", bundle.path().join("logs/monitor.log").display()),
        )
    })??;
    Ok((info, child))
}

/// A pipe with a password in it: nobody sees that among a process's arguments, in its environment or in a file.
fn in_pipe(password: &Password) -> std::io::Result<OwnedFd> {
    let (reader, mut writer) = std::io::pipe()?;
    // A pipe takes more than the longest password without a reader.
    writer.write_all(password)?;
    Ok(reader.into())
}

/// Makes a file for output.
///
/// # Errors
/// The host's.
pub fn create(path: &Path) -> Result<File, Failure> {
    File::create(path).map_err(|error| Failure::from_io(format!("can not write {}", path.display()), &error))
}
