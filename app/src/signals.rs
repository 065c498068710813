//! Signals that ask the program to end: Ctrl-C, SIGTERM, SIGHUP.

use std::io::Read;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use benchtop_control::{Failure, FailureKind};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

/// Catches them from its making on, for the rest of the process.
#[derive(Debug)]
pub struct Signals {
    socket: UnixStream,
    ctrl_c: Arc<AtomicBool>,
}

impl Signals {
    /// Begins.
    ///
    /// # Errors
    /// The host's.
    pub fn watch() -> Result<Self, Failure> {
        let begin = || {
            let ctrl_c = Arc::new(AtomicBool::new(false));
            // First, so that it is known by the time the socket wakes somebody.
            signal_hook::flag::register(signal_hook::consts::SIGINT, ctrl_c.clone())?;
            let socket = stop_on_signals()?;
            socket.set_nonblocking(true)?;
            Ok(Self { socket, ctrl_c })
        };
        begin().map_err(|error: std::io::Error| Failure::from_io("can not watch for Ctrl-C", &error))
    }

    /// Why to end, if one came.
    pub fn came(&self) -> Option<&'static str> {
        matches!((&self.socket).read(&mut [0]), Ok(1..)).then(|| {
            if self.ctrl_c.load(Ordering::Relaxed) { "Ctrl-C was pressed." } else { "A signal asked it to end." }
        })
    }

    /// Waits for one, and calls `meanwhile` every so often.
    ///
    /// # Errors
    /// The host's.
    pub fn wait(&self, every: Duration, meanwhile: impl Fn()) -> Result<&'static str, Failure> {
        let mut next = Instant::now() + every;
        loop {
            if let Some(why) = self.came() {
                return Ok(why);
            }
            let left = next.saturating_duration_since(Instant::now());
            if left.is_zero() {
                meanwhile();
                next = Instant::now() + every;
                continue;
            }
            let left = Timespec::try_from(left).map_err(|_far| Errno::INVAL);
            match left.and_then(|left| poll(&mut [PollFd::new(&self.socket, PollFlags::IN)], Some(&left))) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(Failure::from_io("can not wait for Ctrl-C", &error.into())),
            }
        }
    }
}

/// A socket that becomes readable when the process is asked to end.
///
/// # Errors
/// The host's.
pub fn stop_on_signals() -> std::io::Result<UnixStream> {
    let (ours, theirs) = UnixStream::pair()?;
    for signal in [signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT, signal_hook::consts::SIGHUP] {
        signal_hook::low_level::pipe::register(signal, theirs.try_clone()?)?;
    }
    Ok(ours)
}

/// The error of what a signal ended.
pub fn interrupted(why: &str, fix: &str) -> Failure {
    Failure::new(FailureKind::Interrupted, "stopped", why, fix)
}
