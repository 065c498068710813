//! [`Server`]: the poll loop between a session and its clients.
//!
//! One thread moves bytes, another executes commands, in order, so that a slow command delays other commands but no
//! event, and a slow client delays nobody. All queues are bounded.

use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::mpsc::{Receiver as JobReceiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use benchtop_control::command::{Message, Request, SCHEMA};
use benchtop_control::runtime::SOCKET;
use benchtop_control::wire::{self, Receiver, WireError};
use benchtop_control::{Command, Event, Failure, FailureKind, Reply, RuntimeFolder, VmState};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{AtFlags, Mode};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};

use super::feed::Answer;
use super::session::Session;

/// Clients at a time; consoles count as clients.
const CLIENTS_MAX: usize = 32;
/// Clients of these that stay for long: consoles, and those that follow events. The other places are for those that
/// ask and go, so that a VM can always be stopped.
const STAYING_MAX: usize = 24;
/// How long a client that does not stay may keep a place another waits for without asking anything.
const IDLE_MAX: Duration = Duration::from_secs(2);
/// How often a full table is looked at while somebody waits.
const FULL_LOOK: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
/// Requests of one client that wait for their turn; more are not read from its socket.
const PENDING_MAX: usize = 8;
/// Bytes a client may be late in taking.
const OUT_BYTES_MAX: usize = 4 << 20;
/// How long the last messages may take once the VM is off.
const FAREWELL: Duration = Duration::from_secs(1);
/// Serial input taken from a console at a time.
const INPUT_BYTES: usize = 4096;

/// Makes the socket of a VM in its runtime folder.
///
/// # Errors
/// A living monitor has it, or the host refused.
pub fn listen(folder: &RuntimeFolder) -> Result<UnixListener, Failure> {
    let what = format!("can not listen in {}", folder.path().display());
    let address = folder.address(SOCKET);
    if UnixStream::connect(&address).is_ok() {
        return Err(Failure::new(
            FailureKind::WrongState,
            what,
            "A VM with the same identity runs already.",
            "Stop that one first, or give this one another UUID with `benchtop set VM uuid=…`.",
        ));
    }
    // Left behind by a monitor that was killed.
    folder.remove(SOCKET);
    let listener = UnixListener::bind(&address).map_err(|error| Failure::from_io(what.as_str(), &error))?;
    // The folder already keeps others out.
    rustix::fs::chmodat(folder, SOCKET, Mode::RUSR | Mode::WUSR, AtFlags::empty())
        .map_err(|error| Failure::from_io(what.as_str(), &error.into()))?;
    listener.set_nonblocking(true).map_err(|error| Failure::from_io(what, &error))?;
    Ok(listener)
}

/// Something for the command thread.
enum Job {
    Command { client: u64, id: u64, command: Command, descriptor: Option<OwnedFd> },
    SerialInput { client: u64, bytes: Vec<u8> },
    PowerOff,
}

/// What a connection is for.
enum Role {
    Commands { receiver: Receiver, subscribed: bool },
    Console { at_end: bool },
}

struct Peer {
    id: u64,
    socket: OwnedFd,
    role: Role,
    out: VecDeque<u8>,
    pending: usize,
    /// When it came, or last asked something or was answered.
    active_at: Instant,
    gone: bool,
}

impl Peer {
    fn new(id: u64, socket: OwnedFd, role: Role) -> Self {
        Self { id, socket, role, out: VecDeque::new(), pending: 0, active_at: Instant::now(), gone: false }
    }

    /// Whether it is here to stay, silent as it may be.
    fn stays(&self) -> bool {
        !self.gone && matches!(self.role, Role::Console { .. } | Role::Commands { subscribed: true, .. })
    }

    /// Whether its place can be given to another.
    fn is_idle(&self) -> bool {
        !self.gone && !self.stays() && self.pending == 0 && self.active_at.elapsed() >= IDLE_MAX
    }

    /// What to wait for.
    fn interest(&self) -> PollFlags {
        let mut flags = PollFlags::empty();
        let reads = match self.role {
            Role::Commands { .. } => self.pending < PENDING_MAX,
            Role::Console { at_end } => !at_end && self.pending == 0,
        };
        if reads {
            flags |= PollFlags::IN;
        }
        if !self.out.is_empty() {
            flags |= PollFlags::OUT;
        }
        flags
    }

    fn push(&mut self, bytes: &[u8]) {
        if self.out.len() + bytes.len() > OUT_BYTES_MAX {
            tracing::warn!(client = self.id, "a client that does not listen is dropped");
            self.gone = true;
        }
        if !self.gone {
            self.out.extend(bytes);
            self.flush();
        }
    }

    fn tell(&mut self, message: &Message) {
        match wire::encode(message) {
            Ok(frame) => self.push(&frame),
            Err(error) => {
                tracing::warn!(%error, "a message could not be sent");
                self.gone = true;
            }
        }
    }

    fn flush(&mut self) {
        while !self.out.is_empty() {
            let sent = wire::send_some(self.socket.as_fd(), self.out.as_slices().0, &[], SendFlags::DONTWAIT);
            match sent {
                Ok(len) => drop(self.out.drain(..len.min(self.out.len()))),
                Err(Errno::WOULDBLOCK) => return,
                Err(_broken) => {
                    self.gone = true;
                    return;
                }
            }
        }
    }
}

/// Serves the clients of a session.
pub struct Server {
    session: Arc<Session>,
    listener: UnixListener,
    /// Becomes readable when the process is asked to end.
    stop: Option<UnixStream>,
    peers: Vec<Peer>,
    jobs: SyncSender<Job>,
    next_client: u64,
}

impl Server {
    /// A server on `listener`, with its command thread.
    ///
    /// # Errors
    /// The host has no thread left.
    pub fn new(session: Arc<Session>, listener: UnixListener, stop: Option<UnixStream>) -> std::io::Result<Self> {
        // Every client's pending requests fit, so that sending never waits.
        let (jobs, work) = sync_channel(CLIENTS_MAX * PENDING_MAX + 1);
        let theirs = session.clone();
        // Not joined: it ends when this server is dropped and the command it is at returns.
        std::thread::Builder::new().name("commands".to_owned()).spawn(move || execute(&theirs, &work))?;
        Ok(Self { session, listener, stop, peers: Vec::new(), jobs, next_client: 1 })
    }

    /// Serves until the VM is off and its clients know.
    pub fn run(mut self) {
        let mut farewell = None;
        loop {
            let off = self.session.feed().state().0 == VmState::Off;
            if off {
                let until = *farewell.get_or_insert_with(|| Instant::now() + FAREWELL);
                let busy = self.peers.iter().any(|peer| peer.pending > 0 || !peer.out.is_empty());
                if Instant::now() >= until || (!busy && !self.pass_on_news()) {
                    return;
                }
            }
            let timeout = match off {
                true => Some(Timespec { tv_sec: 0, tv_nsec: 20_000_000 }),
                false => (!self.has_room()).then_some(FULL_LOOK),
            };
            if let Err(error) = self.turn(timeout.as_ref()) {
                tracing::error!(%error, "the monitor can not serve its clients any longer");
                // Without a socket nobody could stop the VM in good order, so it goes on alone until its guest ends it.
                while !self.session.feed().wait_off_for(Duration::from_secs(3600)) {}
                return;
            }
        }
    }

    /// Waits once, and moves what can be moved.
    fn turn(&mut self, timeout: Option<&Timespec>) -> Result<(), Errno> {
        let feed = self.session.feed().clone();
        let bell = feed.bell();
        let accepts = if self.has_room() { PollFlags::IN } else { PollFlags::empty() };
        let mut fds = vec![PollFd::from_borrowed_fd(bell, PollFlags::IN), PollFd::new(&self.listener, accepts)];
        fds.extend(self.peers.iter().map(|peer| PollFd::new(&peer.socket, peer.interest())));
        fds.extend(self.stop.iter().map(|stop| PollFd::new(stop, PollFlags::IN)));
        match poll(&mut fds, timeout) {
            Ok(_) => {}
            Err(Errno::INTR) => return Ok(()),
            Err(error) => return Err(error),
        }
        let ready: Vec<PollFlags> = fds.iter().map(PollFd::revents).collect();
        drop(fds);
        let at = |index: usize| ready.get(index).copied().unwrap_or_else(PollFlags::empty);
        let peers = self.peers.len();
        for index in 0..peers {
            self.serve(index, at(index + 2));
        }
        if self.stop.is_some() && !at(peers + 2).is_empty() {
            self.stop = None;
            if self.jobs.try_send(Job::PowerOff).is_err() {
                tracing::warn!("asked to end while all commands wait");
            }
        }
        self.pass_on_news();
        if at(1).contains(PollFlags::IN) {
            self.accept();
        }
        self.peers.retain(|peer| !peer.gone);
        Ok(())
    }

    fn count(&self) -> usize {
        self.peers.iter().filter(|peer| !peer.gone).count()
    }

    /// Whether one more client can be had, if need be in the place of an idle one.
    fn has_room(&self) -> bool {
        self.count() < CLIENTS_MAX || self.peers.iter().any(Peer::is_idle)
    }

    /// Makes room for one more client: the one that has been idle longest goes. Whether there is room.
    fn make_room(&mut self) -> bool {
        if self.count() < CLIENTS_MAX {
            return true;
        }
        let idle = self.peers.iter_mut().filter(|peer| peer.is_idle()).min_by_key(|peer| peer.active_at);
        match idle {
            Some(peer) => {
                tracing::debug!(client = peer.id, "an idle client makes room for another");
                peer.gone = true;
                true
            }
            None => false,
        }
    }

    /// Refuses one more client that stays where there are enough of them.
    ///
    /// # Errors
    /// There are.
    fn check_staying(&self) -> Result<(), Failure> {
        if self.peers.iter().filter(|peer| peer.stays()).count() < STAYING_MAX {
            return Ok(());
        }
        Err(Failure::new(
            FailureKind::WrongState,
            format!("can not follow the VM `{}`", self.session.name()),
            format!("{STAYING_MAX} consoles, windows and waiting commands are connected to it, and more do not fit."),
            "Close some of them.",
        ))
    }

    fn accept(&mut self) {
        if !self.make_room() {
            return;
        }
        match self.listener.accept() {
            Ok((socket, _)) => match wire::check_peer(&socket) {
                Ok(()) => {
                    let role = Role::Commands { receiver: Receiver::default(), subscribed: false };
                    self.peers.push(Peer::new(self.next_client, socket.into(), role));
                    self.next_client += 1;
                }
                Err(error) => tracing::warn!(%error, "a client was turned away"),
            },
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(error) => tracing::warn!(%error, "a client could not be accepted"),
        }
    }

    /// Sends events, answers and serial output where they belong. Whether there was any.
    fn pass_on_news(&mut self) -> bool {
        let news = self.session.feed().news();
        let any = !(news.events.is_empty() && news.answers.is_empty() && news.serial.is_empty());
        for answer in news.answers {
            let Some(peer) = self.peers.iter_mut().find(|peer| peer.id == answer.client) else { continue };
            peer.pending = peer.pending.saturating_sub(1);
            peer.active_at = Instant::now();
            if matches!(peer.role, Role::Commands { .. }) {
                peer.tell(&Message::Reply { id: answer.id, result: answer.result });
            }
        }
        for peer in &mut self.peers {
            match peer.role {
                Role::Commands { subscribed: true, .. } => {
                    for event in &news.events {
                        peer.tell(&Message::Event(event.clone()));
                    }
                }
                Role::Console { .. } if !news.serial.is_empty() => peer.push(&news.serial),
                _ => {}
            }
        }
        any
    }

    /// Serves one client.
    fn serve(&mut self, index: usize, ready: PollFlags) {
        let Some(peer) = self.peers.get_mut(index) else { return };
        if ready.contains(PollFlags::OUT) {
            peer.flush();
        }
        if ready.contains(PollFlags::IN) {
            match &mut peer.role {
                Role::Commands { receiver, .. } => match receiver.receive(&peer.socket, RecvFlags::DONTWAIT) {
                    Ok(()) => {}
                    Err(WireError::Io(error)) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                    Err(error) => {
                        if !matches!(error, WireError::Closed) {
                            tracing::warn!(%error, client = peer.id, "a client is dropped");
                        }
                        peer.gone = true;
                    }
                },
                Role::Console { at_end } => {
                    let mut bytes = vec![0; INPUT_BYTES];
                    match rustix::net::recv(&peer.socket, bytes.as_mut_slice(), RecvFlags::DONTWAIT) {
                        Ok((0, _)) => *at_end = true,
                        Ok((len, _)) => {
                            bytes.truncate(len);
                            let job = Job::SerialInput { client: peer.id, bytes };
                            match self.jobs.try_send(job) {
                                Ok(()) => peer.pending += 1,
                                Err(_full) => peer.gone = true,
                            }
                        }
                        Err(Errno::WOULDBLOCK | Errno::INTR) => {}
                        Err(_broken) => peer.gone = true,
                    }
                }
            }
        } else if ready.intersects(PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL) {
            peer.gone = true;
        }
        self.take_requests(index);
    }

    /// Takes the requests a client has sent, as many as it may have waiting.
    fn take_requests(&mut self, index: usize) {
        loop {
            let Some(peer) = self.peers.get_mut(index) else { return };
            let Role::Commands { receiver, subscribed } = &mut peer.role else { return };
            if peer.gone || peer.pending >= PENDING_MAX {
                return;
            }
            let request = match receiver.next_message::<Request>() {
                Ok(None) => return,
                Ok(Some(request)) if request.schema == SCHEMA => request,
                Ok(Some(request)) => {
                    let failure = Failure::new(
                        FailureKind::Failed,
                        "can not talk to this VM",
                        format!("It speaks {SCHEMA}, not {}.", request.schema),
                        "Use the version of Benchtop that started it, or stop it first.",
                    );
                    peer.tell(&Message::Reply { id: request.id, result: Err(failure) });
                    continue;
                }
                Err(error) => {
                    tracing::warn!(%error, client = peer.id, "a client is dropped");
                    peer.gone = true;
                    return;
                }
            };
            peer.active_at = Instant::now();
            let descriptor = if request.command.descriptors() > 0 { receiver.take_descriptor() } else { None };
            let id = request.id;
            match request.command {
                Command::Subscribe if *subscribed => peer.tell(&Message::Reply { id, result: Ok(Reply::Done) }),
                Command::Subscribe => {
                    let result = self.check_staying();
                    if let Some(peer) = self.peers.get_mut(index) {
                        subscribe(peer, id, result, self.session.feed().state());
                    }
                }
                Command::Console => {
                    let result = descriptor.ok_or_else(no_descriptor).and_then(|socket| self.connect_console(socket));
                    if let Some(peer) = self.peers.get_mut(index) {
                        peer.tell(&Message::Reply { id, result: result.map(|()| Reply::Done) });
                    }
                }
                command => {
                    let job = Job::Command { client: peer.id, id, command, descriptor };
                    match self.jobs.try_send(job) {
                        Ok(()) => peer.pending += 1,
                        Err(_full) => peer.gone = true,
                    }
                }
            }
        }
    }

    fn connect_console(&mut self, socket: OwnedFd) -> Result<(), Failure> {
        self.check_staying()?;
        if !self.make_room() {
            return Err(Failure::new(
                FailureKind::WrongState,
                format!("can not connect to the serial port of `{}`", self.session.name()),
                format!("{CLIENTS_MAX} clients are connected to it, and more do not fit."),
                "Try again, or close some of them.",
            ));
        }
        let mut peer = Peer::new(self.next_client, socket, Role::Console { at_end: false });
        self.next_client += 1;
        peer.push(&self.session.feed().backlog());
        self.peers.push(peer);
        Ok(())
    }
}

/// Answers a client that wants to follow events.
fn subscribe(peer: &mut Peer, id: u64, result: Result<(), Failure>, (state, reason): (VmState, Option<String>)) {
    if let (Ok(()), Role::Commands { subscribed, .. }) = (&result, &mut peer.role) {
        *subscribed = true;
    }
    let subscribed = result.is_ok();
    peer.tell(&Message::Reply { id, result: result.map(|()| Reply::Done) });
    if subscribed && state == VmState::Off {
        // That it went off was told before: without this, its end would look like that of a killed monitor.
        peer.tell(&Message::Event(Event::State { state, reason }));
    }
}

fn no_descriptor() -> Failure {
    Failure::new(
        FailureKind::Usage,
        "can not connect to the serial port",
        "No socket came with the request.",
        "Use `benchtop console`.",
    )
}

/// The command thread.
fn execute(session: &Session, work: &JobReceiver<Job>) {
    while let Ok(job) = work.recv() {
        match job {
            Job::Command { client, id, command, descriptor } => {
                let result = session.execute(command, descriptor);
                session.feed().answer(Answer { client, id, result });
            }
            Job::SerialInput { client, bytes } => {
                session.machine().serial_input(&bytes);
                session.feed().answer(Answer { client, id: 0, result: Ok(Reply::Done) });
            }
            Job::PowerOff => session.power_off(),
        }
    }
}
