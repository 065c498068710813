//! The monitor process, from the request that started it to its end.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use benchtop_control::command::VmInfo;
use benchtop_control::runtime::{SCREEN, SOCKET};
use benchtop_control::screen::ScreenWriter;
use benchtop_control::wire::{self, Receiver, WireError};
use benchtop_control::{Bundle, BundleLock, Failure, FailureKind, RuntimeFolder};
use rustix::net::RecvFlags;
use rustix::process::{Resource, Rlimit, setrlimit};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::image::{PASSWORD_BYTES_MAX, Password};
use super::open::{Accelerator, open_bundle};
use super::sandbox::{Allowed, lock_down};
use super::server::{Server, listen};
use super::session::{About, Session};

/// What to start. Descriptors come beside it, in the order of the fields that announce them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartRequest {
    /// The bundle, an absolute path.
    pub bundle: PathBuf,
    /// What runs the guest's instructions.
    pub accelerator: Accelerator,
    /// A file that COM1's output goes to.
    pub serial: bool,
    /// A pipe with the password of the encrypted disks in it, which its writer has closed.
    pub password: bool,
}

/// Sends the request to a monitor that was just started.
///
/// # Errors
/// It has gone.
pub fn send_request(
    socket: &UnixStream,
    request: &StartRequest,
    descriptors: &[BorrowedFd<'_>],
) -> Result<(), WireError> {
    wire::send(socket, &wire::encode(request)?, descriptors)
}

/// Waits for its answer: the guest runs, or why not.
///
/// # Errors
/// It ended without one.
pub fn receive_answer(socket: &UnixStream) -> Result<Result<VmInfo, Failure>, WireError> {
    receive(socket, &mut Receiver::default())
}

fn receive<T: serde::de::DeserializeOwned>(socket: &UnixStream, receiver: &mut Receiver) -> Result<T, WireError> {
    loop {
        if let Some(message) = receiver.next_message()? {
            return Ok(message);
        }
        receiver.receive(socket, RecvFlags::empty())?;
    }
}

/// Runs a VM until it is off. `socket` leads to whoever started this process; `stop` becomes readable when the
/// process is asked to end. Returns the exit code.
pub fn run(socket: UnixStream, stop: Option<UnixStream>, started_at: Instant) -> u8 {
    let mut receiver = Receiver::default();
    let request: StartRequest = match receive(&socket, &mut receiver) {
        Ok(request) => request,
        Err(error) => {
            tracing::error!(%error, "no request came");
            return FailureKind::Usage.exit_code();
        }
    };
    let mut file = |comes: bool| if comes { receiver.take_descriptor().map(File::from) } else { None };
    let (serial, password) = (file(request.serial), file(request.password));
    let password = password.map(read_password).transpose();
    let started = password.and_then(|password| start(&request, serial, password.as_ref(), started_at));
    match started {
        Ok(running) => {
            answer(&socket, &Ok(running.session.info()));
            drop(socket);
            running.serve(stop);
            0
        }
        Err(failure) => {
            tracing::error!(%failure, "not started");
            let code = failure.kind.exit_code();
            answer(&socket, &Err(failure));
            code
        }
    }
}

/// Takes the password out of its pipe. From then on a crash of this process leaves no picture of its memory.
fn read_password(pipe: File) -> Result<Password, Failure> {
    let what = "can not take the password";
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    setrlimit(Resource::Core, none).map_err(|error| Failure::from_io(what, &error.into()))?;
    // Large enough from the start: a buffer that grows leaves its old places unwiped.
    let mut bytes = Zeroizing::new(Vec::with_capacity(PASSWORD_BYTES_MAX));
    let limit = bytes.capacity() as u64;
    pipe.take(limit).read_to_end(&mut bytes).map_err(|error| Failure::from_io(what, &error))?;
    Ok(bytes)
}

fn answer(socket: &UnixStream, result: &Result<VmInfo, Failure>) {
    let sent = wire::encode(result).and_then(|frame| wire::send(socket, &frame, &[]));
    if let Err(error) = sent {
        // Whoever asked has gone; the VM runs all the same.
        tracing::warn!(%error, "nobody heard how the start went");
    }
}

/// A VM whose guest runs.
struct Running {
    session: Arc<Session>,
    listener: std::os::unix::net::UnixListener,
    folder: RuntimeFolder,
    _lock: BundleLock,
}

/// Opens everything, locks the process down, and lets the guest run.
fn start(
    request: &StartRequest,
    serial: Option<File>,
    password: Option<&Password>,
    started_at: Instant,
) -> Result<Running, Failure> {
    let bundle = Bundle::open(&request.bundle)?;
    let lock = bundle.lock()?;
    let config = bundle.config()?;
    let what = format!("can not start the VM `{}`", config.name);
    let opened = open_bundle(&bundle, &config, request.accelerator, password)?;
    let folder = RuntimeFolder::open()?.vm(&config.uuid.to_string())?;
    if let Err(error) = lock.announce(folder.path()) {
        tracing::warn!(%error, "the lock does not say where the socket is");
    }
    let listener = listen(&folder)?;
    let begin = || {
        let screen = ScreenWriter::create(&folder).map_err(|error| Failure::from_io(what.as_str(), &error))?;
        let allowed = Allowed { bundle: Some(bundle.as_fd()), runtime: Some(folder.as_fd()) };
        let sandbox = lock_down(&allowed);
        let about = About {
            bundle: Some(bundle),
            screen: Some(screen),
            serial: serial.map(|file| Box::new(file) as Box<dyn std::io::Write + Send>),
            sandbox,
            started_at,
        };
        let session = Session::new(opened, about)?;
        session.resume()?;
        Ok(Arc::new(session))
    };
    match begin() {
        Ok(session) => Ok(Running { session, listener, folder, _lock: lock }),
        Err(failure) => {
            clean(&folder);
            Err(failure)
        }
    }
}

impl Running {
    /// Serves clients until the VM is off, then cleans up.
    fn serve(self, stop: Option<UnixStream>) {
        match Server::new(self.session.clone(), self.listener, stop) {
            Ok(server) => server.run(),
            Err(error) => tracing::error!(%error, "clients can not be served"),
        }
        self.session.power_off();
        self.session.record_end();
        let (_, reason) = self.session.feed().state();
        tracing::info!(reason = reason.as_deref().unwrap_or("none"), "the VM is off");
        clean(&self.folder);
    }
}

fn clean(folder: &RuntimeFolder) {
    folder.remove(SOCKET);
    folder.remove(SCREEN);
}
