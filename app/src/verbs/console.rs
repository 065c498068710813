//! `console`: the terminal on the VM's serial port.

use std::io::{IsTerminal, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use benchtop_control::{Client, Command, Failure};
use clap::Args;
use rustix::termios::{OptionalActions, Termios};

use crate::output::Output;
use crate::target::{ended_unexpectedly, follow, running};

/// Ctrl-], which leaves.
const LEAVE: u8 = 0x1d;
/// How long the VM's last word may take once its serial port is closed.
const END_TIMEOUT: Duration = Duration::from_secs(5);
/// How often it is looked for.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// `console`.
#[derive(Debug, Args)]
pub struct Console {
    /// VM
    pub vm: String,
}

/// Puts the terminal back.
struct Raw(Termios);

impl Drop for Raw {
    fn drop(&mut self) {
        // Nothing better can be done about a terminal that went away.
        let _gone = rustix::termios::tcsetattr(std::io::stdin(), OptionalActions::Drain, &self.0);
    }
}

impl Console {
    /// Runs the verb, until Ctrl-] or the end of the VM. Without a terminal, input is sent until it ends and output
    /// followed until the VM is off.
    ///
    /// # Errors
    /// The VM is off.
    pub fn run(&self, output: &Output) -> Result<(), Failure> {
        let what = "can not connect to the serial port";
        let io = |error: std::io::Error| Failure::from_io(what, &error);
        let mut client = running(&self.vm)?;
        let (ours, theirs) = UnixStream::pair().map_err(io)?;
        client.command(Command::Subscribe)?;
        client.request(Command::Console, &[theirs.as_fd()])?;
        drop(theirs);
        let terminal = std::io::stdin().is_terminal();
        let _raw = if terminal {
            output.remark(&format!("connected to {}; Ctrl-] leaves", self.vm));
            Some(raw().map_err(|error| io(error.into()))?)
        } else {
            None
        };
        let input = ours.try_clone().map_err(io)?;
        let left = Arc::new(AtomicBool::new(false));
        let leaves = left.clone();
        // Ends with the process: a thread that waits for the keyboard can not be called back.
        std::thread::Builder::new()
            .name("console-input".to_owned())
            .spawn(move || send(&input, terminal, &leaves))
            .map_err(io)?;
        let mut buffer = [0; 4096];
        let mut stdout = std::io::stdout().lock();
        loop {
            match (&ours).read(&mut buffer) {
                Ok(0) => return self.ended(client, &left),
                Ok(len) => {
                    let bytes = buffer.get(..len).unwrap_or_default();
                    if stdout.write_all(bytes).and_then(|()| stdout.flush()).is_err() {
                        return Ok(());
                    }
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {
                    return self.ended(client, &left);
                }
                Err(error) => return Err(io(error)),
            }
        }
    }

    /// The serial port is closed: because the user left, the VM went off, or its monitor was killed.
    fn ended(&self, mut client: Client, left: &AtomicBool) -> Result<(), Failure> {
        let mut off = None;
        let deadline = Instant::now() + END_TIMEOUT;
        loop {
            // Looked at each time: the thread that reads the keyboard says it a moment before the socket closes.
            if left.load(Ordering::Acquire) || off.is_some() || Instant::now() >= deadline {
                return Ok(());
            }
            if follow(&mut client, Some(LOOK_EVERY), &mut off)? {
                return Err(ended_unexpectedly(&self.vm));
            }
        }
    }
}

fn send(mut socket: &UnixStream, terminal: bool, left: &AtomicBool) {
    let mut buffer = [0; 1024];
    let mut stdin = std::io::stdin().lock();
    while let Ok(len @ 1..) = stdin.read(&mut buffer) {
        let bytes = buffer.get(..len).unwrap_or_default();
        let leave = bytes.iter().position(|byte| *byte == LEAVE).filter(|_at| terminal);
        let bytes = leave.and_then(|at| bytes.get(..at)).unwrap_or(bytes);
        if socket.write_all(bytes).is_err() || leave.is_some() {
            break;
        }
    }
    // With a terminal the session is over; without one the guest may still have something to say.
    left.store(terminal, Ordering::Release);
    let how = if terminal { Shutdown::Both } else { Shutdown::Write };
    let _closed = socket.shutdown(how);
}

fn raw() -> rustix::io::Result<Raw> {
    let stdin = std::io::stdin();
    let before = rustix::termios::tcgetattr(&stdin)?;
    let mut raw = before.clone();
    raw.make_raw();
    rustix::termios::tcsetattr(&stdin, OptionalActions::Drain, &raw)?;
    Ok(Raw(before))
}
