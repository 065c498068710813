//! [`Client`]: a connection to the monitor of a running VM.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::net::RecvFlags;
use rustix::process::Pid;

use crate::command::{Command, Event, Message, Reply, Request, SCHEMA, VmInfo};
use crate::failure::{Failure, FailureKind, chain};
use crate::runtime::{RuntimeFolder, SOCKET};
use crate::screen::{self, Picture};
use crate::stats::VmStats;
use crate::wire::{self, Receiver, WireError};

/// How long a monitor may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// Events kept while an answer is awaited; older ones go first.
const EVENTS_KEPT: usize = 1024;

/// A client of one VM. Requests are answered in order; events that come meanwhile are kept for
/// [`next_event`](Self::next_event).
#[derive(Debug)]
pub struct Client {
    socket: UnixStream,
    receiver: Receiver,
    events: VecDeque<Event>,
    folder: RuntimeFolder,
    next_id: u64,
}

impl Client {
    /// Connects to the VM of that key (its UUID, or `boot.NAME`); `None` where none runs.
    ///
    /// # Errors
    /// The runtime folder or the process behind the socket is not this user's.
    pub fn connect(runtime: &RuntimeFolder, key: &str) -> Result<Option<Self>, Failure> {
        runtime.existing_vm(key).map_or(Ok(None), Self::connect_in)
    }

    /// Connects to the VM whose own runtime folder that is; `None` where none runs.
    pub(crate) fn connect_in(folder: RuntimeFolder) -> Result<Option<Self>, Failure> {
        let Ok(socket) = UnixStream::connect(folder.address(SOCKET)) else { return Ok(None) };
        wire::check_peer(&socket).map_err(|error| lost(&error))?;
        Ok(Some(Self { socket, receiver: Receiver::default(), events: VecDeque::new(), folder, next_id: 1 }))
    }

    /// The process on the other side.
    pub(crate) fn peer(&self) -> Option<Pid> {
        rustix::net::sockopt::socket_peercred(&self.socket).ok().map(|peer| peer.pid)
    }

    /// Asks for something and waits for the answer.
    ///
    /// # Errors
    /// What the monitor answered, or the connection was lost.
    pub fn request(&mut self, command: Command, descriptors: &[BorrowedFd<'_>]) -> Result<Reply, Failure> {
        let id = self.next_id;
        self.next_id = id.wrapping_add(1);
        let frame = wire::encode(&Request { schema: SCHEMA.to_owned(), id, command }).map_err(|error| lost(&error))?;
        wire::send(&self.socket, &frame, descriptors).map_err(|error| lost(&error))?;
        let deadline = Instant::now() + ANSWER_TIMEOUT;
        loop {
            match self.receive(Some(deadline)).map_err(|error| lost(&error))? {
                Some(Message::Reply { id: answered, result }) if answered == id => return result,
                Some(Message::Reply { .. }) => {}
                Some(Message::Event(event)) => {
                    if self.events.len() == EVENTS_KEPT {
                        self.events.pop_front();
                    }
                    self.events.push_back(event);
                }
                None => {
                    return Err(Failure::new(
                        FailureKind::Timeout,
                        "the VM did not answer",
                        "Its monitor is busy or stuck.",
                        "Try again; `benchtop stop --force` ends it.",
                    ));
                }
            }
        }
    }

    /// Asks for something that has no result.
    ///
    /// # Errors
    /// As [`request`](Self::request).
    pub fn command(&mut self, command: Command) -> Result<(), Failure> {
        self.request(command, &[]).map(drop)
    }

    /// The next event, after [`Command::Subscribe`]; `None` when `timeout` has passed.
    ///
    /// # Errors
    /// The monitor has gone: [`WireError::Closed`], which after a VM went off is its normal end.
    pub fn next_event(&mut self, timeout: Option<Duration>) -> Result<Option<Event>, WireError> {
        let deadline = timeout.map(|timeout| Instant::now() + timeout);
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(Some(event));
            }
            match self.receive(deadline)? {
                Some(Message::Event(event)) => return Ok(Some(event)),
                Some(Message::Reply { .. }) => {}
                None => return Ok(None),
            }
        }
    }

    /// About the VM.
    ///
    /// # Errors
    /// As [`request`](Self::request).
    pub fn show(&mut self) -> Result<VmInfo, Failure> {
        match self.request(Command::Show, &[])? {
            Reply::Vm(info) => Ok(*info),
            _ => Err(unexpected()),
        }
    }

    /// The figures.
    ///
    /// # Errors
    /// As [`request`](Self::request).
    pub fn stats(&mut self) -> Result<VmStats, Failure> {
        match self.request(Command::Stats, &[])? {
            Reply::Stats(stats) => Ok(*stats),
            _ => Err(unexpected()),
        }
    }

    /// What the screen shows now.
    ///
    /// # Errors
    /// As [`request`](Self::request) and [`screen::read`].
    pub fn screen(&mut self) -> Result<Picture, Failure> {
        self.command(Command::Screen)?;
        screen::read(&self.folder)
    }

    /// Waits for one message until `deadline`.
    fn receive(&mut self, deadline: Option<Instant>) -> Result<Option<Message>, WireError> {
        loop {
            if let Some(message) = self.receiver.next_message()? {
                return Ok(Some(message));
            }
            if let Some(deadline) = deadline {
                let left = deadline.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    return Ok(None);
                }
                self.socket.set_read_timeout(Some(left))?;
            } else {
                self.socket.set_read_timeout(None)?;
            }
            match self.receiver.receive(&self.socket, RecvFlags::empty()) {
                Ok(()) => {}
                Err(WireError::Io(error)) if error.kind() == std::io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) => return Err(error),
            }
        }
    }
}

impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn lost(error: &WireError) -> Failure {
    let (kind, fix) = match error {
        WireError::Stranger => (FailureKind::NotCapable, "Remove that socket and start the VM again."),
        WireError::TooLong(_) => (FailureKind::Usage, "Send less at once."),
        _ => (FailureKind::Failed, "See whether the VM still runs (`benchtop list`); logs/monitor.log says more."),
    };
    Failure::new(kind, "lost touch with the VM", chain(error), fix)
}

fn unexpected() -> Failure {
    Failure::new(
        FailureKind::Failed,
        "the VM gave an answer that does not belong to the question",
        "Its monitor is of another version of Benchtop.",
        "Stop the VM and start it again.",
    )
}
