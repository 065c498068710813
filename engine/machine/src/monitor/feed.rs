//! [`Feed`]: what happens in a VM, on its way to whoever wants to know.

use std::collections::VecDeque;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use benchtop_control::{Event, Failure, Reply, VmState};
use parking_lot::{Condvar, Mutex};
use rustix::event::{EventfdFlags, eventfd};

use crate::MachineEvent;

/// Events kept for a poll loop that is late; the oldest go first.
const EVENTS_KEPT: usize = 1024;
/// Serial output kept for those who connect later.
const BACKLOG_BYTES: usize = 64 << 10;
/// Serial output kept for a poll loop that is late.
const FRESH_BYTES_MAX: usize = 1 << 20;

/// The answer to a client's request.
#[derive(Debug)]
pub(super) struct Answer {
    /// The server's number of the client.
    pub client: u64,
    /// The client's number of the request.
    pub id: u64,
    /// The answer.
    pub result: Result<Reply, Failure>,
}

/// What came since the last look.
#[derive(Debug, Default)]
pub(super) struct News {
    /// Events, oldest first.
    pub events: Vec<Event>,
    /// Answers.
    pub answers: Vec<Answer>,
    /// Serial output.
    pub serial: Vec<u8>,
}

#[derive(Debug)]
struct Inner {
    state: VmState,
    reason: Option<String>,
    events: VecDeque<Event>,
    answers: Vec<Answer>,
    fresh: VecDeque<u8>,
    backlog: VecDeque<u8>,
}

/// The meeting point of the machine's threads, the command thread and the poll loop. Nothing here blocks for longer
/// than a copy.
#[derive(Debug)]
pub struct Feed {
    inner: Mutex<Inner>,
    changed: Condvar,
    bell: OwnedFd,
}

impl Feed {
    /// A feed of a VM that stands still.
    ///
    /// # Errors
    /// The host has no descriptor left.
    pub fn new() -> std::io::Result<Arc<Self>> {
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let inner = Inner {
            state: VmState::Paused,
            reason: None,
            events: VecDeque::new(),
            answers: Vec::new(),
            fresh: VecDeque::new(),
            backlog: VecDeque::new(),
        };
        Ok(Arc::new(Self { inner: Mutex::new(inner), changed: Condvar::new(), bell }))
    }

    /// The state, and why where the VM came to it by itself.
    pub fn state(&self) -> (VmState, Option<String>) {
        let inner = self.inner.lock();
        (inner.state, inner.reason.clone())
    }

    /// Waits until the VM is off, at most until `deadline`. False when that came first.
    pub fn wait_off(&self, deadline: Instant) -> bool {
        let mut inner = self.inner.lock();
        while inner.state != VmState::Off {
            if self.changed.wait_until(&mut inner, deadline).timed_out() {
                return inner.state == VmState::Off;
            }
        }
        true
    }

    /// Waits until the VM is off, at most for `timeout`.
    pub fn wait_off_for(&self, timeout: Duration) -> bool {
        self.wait_off(Instant::now() + timeout)
    }

    /// Changes the state. Off is for good.
    pub fn set_state(&self, state: VmState, reason: Option<String>) {
        let mut inner = self.inner.lock();
        if inner.state == VmState::Off || (inner.state == state && inner.reason == reason) {
            return;
        }
        inner.state = state;
        inner.reason.clone_from(&reason);
        push(&mut inner, Event::State { state, reason });
        drop(inner);
        self.changed.notify_all();
        self.ring();
    }

    /// Takes an event of the machine.
    pub fn machine_event(&self, event: MachineEvent) {
        match event {
            MachineEvent::PoweredOff => self.set_state(VmState::Off, None),
            MachineEvent::Failed(reason) => self.set_state(VmState::Off, Some(reason)),
            MachineEvent::Paused(reason) => self.set_state(VmState::Paused, Some(reason)),
            MachineEvent::Reset => self.tell(Event::Reset),
            // Serial output comes through the writer the machine was given, which may block.
            MachineEvent::Serial(_) => {}
        }
    }

    /// Tells clients.
    pub fn tell(&self, event: Event) {
        push(&mut self.inner.lock(), event);
        self.ring();
    }

    /// Hands an answer to the poll loop. As many wait as commands were accepted, which is bounded.
    pub(super) fn answer(&self, answer: Answer) {
        self.inner.lock().answers.push(answer);
        self.ring();
    }

    /// Takes serial output.
    fn serial(&self, bytes: &[u8]) {
        let mut inner = self.inner.lock();
        keep(&mut inner.backlog, bytes, BACKLOG_BYTES);
        keep(&mut inner.fresh, bytes, FRESH_BYTES_MAX);
        drop(inner);
        self.ring();
    }

    /// The latest serial output that was handed on already, for a console that connects now.
    pub(super) fn backlog(&self) -> Vec<u8> {
        let inner = self.inner.lock();
        let handed_on = inner.backlog.len().saturating_sub(inner.fresh.len());
        inner.backlog.iter().take(handed_on).copied().collect()
    }

    /// Takes everything that came, and silences the bell.
    pub(super) fn news(&self) -> News {
        let mut count = [0; 8];
        // Nothing to read means that nobody rang: there is then no news, which is fine.
        let _silent = rustix::io::read(&self.bell, &mut count);
        let mut inner = self.inner.lock();
        News {
            events: inner.events.drain(..).collect(),
            answers: std::mem::take(&mut inner.answers),
            serial: inner.fresh.drain(..).collect(),
        }
    }

    /// Becomes readable when there is news.
    pub(super) fn bell(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }

    fn ring(&self) {
        // A counter that is full is readable already.
        let _full = rustix::io::write(&self.bell, &[1, 0, 0, 0, 0, 0, 0, 0]);
    }
}

fn push(inner: &mut Inner, event: Event) {
    if inner.events.len() == EVENTS_KEPT {
        inner.events.pop_front();
    }
    inner.events.push_back(event);
}

fn keep(queue: &mut VecDeque<u8>, bytes: &[u8], limit: usize) {
    let bytes = bytes.get(bytes.len().saturating_sub(limit)..).unwrap_or_default();
    let excess = (queue.len() + bytes.len()).saturating_sub(limit);
    queue.drain(..excess.min(queue.len()));
    queue.extend(bytes);
}

/// COM1's output: to a file where one was asked for, and to whoever is connected.
pub struct SerialFeed {
    feed: Arc<Feed>,
    also: Option<Box<dyn Write + Send>>,
}

impl SerialFeed {
    /// Feeds `feed`, and writes to `also`.
    pub fn new(feed: Arc<Feed>, also: Option<Box<dyn Write + Send>>) -> Self {
        Self { feed, also }
    }
}

impl Write for SerialFeed {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.feed.serial(bytes);
        if let Some(also) = &mut self.also
            && let Err(error) = also.write_all(bytes).and_then(|()| also.flush())
        {
            // The guest goes on without it; a full disk or a reader that left is not its business.
            tracing::warn!(%error, "serial output goes no further");
            self.also = None;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Serial output waiting for its writer; what a slow one can not take in time is lost, as on the wire.
const CHUNKS_MAX: usize = 1024;

/// The thread that writes COM1's output, which may block where the machine's threads must not.
pub(super) struct SerialPump {
    sender: Mutex<Option<SyncSender<Vec<u8>>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl SerialPump {
    /// Starts it.
    pub fn start(mut out: SerialFeed) -> std::io::Result<Arc<Self>> {
        let (sender, receiver) = sync_channel::<Vec<u8>>(CHUNKS_MAX);
        let thread = std::thread::Builder::new().name("serial".to_owned()).spawn(move || {
            for chunk in receiver {
                // A feed takes everything, and keeps its own troubles.
                let _taken = out.write_all(&chunk);
            }
        })?;
        Ok(Arc::new(Self { sender: Mutex::new(Some(sender)), thread: Mutex::new(Some(thread)) }))
    }

    /// Takes output, without waiting.
    pub fn take(&self, bytes: Vec<u8>) {
        if let Some(sender) = self.sender.lock().as_ref()
            && sender.try_send(bytes).is_err()
        {
            tracing::debug!("serial output is lost: its reader is too slow");
        }
    }

    /// Writes what is left, and ends.
    pub fn end(&self) {
        drop(self.sender.lock().take());
        if let Some(thread) = self.thread.lock().take() {
            // A panic was printed where it happened.
            drop(thread.join());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn off_is_for_good() {
        let feed = Feed::new().unwrap();
        feed.set_state(VmState::Running, None);
        feed.machine_event(MachineEvent::Failed("triple fault".to_owned()));
        feed.set_state(VmState::Running, None);
        assert_eq!(feed.state(), (VmState::Off, Some("triple fault".to_owned())));
        assert!(feed.wait_off(Instant::now()));
        assert_eq!(feed.news().events.len(), 2);
    }

    #[test]
    fn what_nobody_takes_is_bounded() {
        let feed = Feed::new().unwrap();
        let mut serial = SerialFeed::new(feed.clone(), None);
        for _ in 0..200 {
            serial.write_all(&[b'x'; 10_000]).unwrap();
            feed.tell(Event::Reset);
        }
        for _ in 0..2000 {
            feed.tell(Event::Reset);
        }
        let news = feed.news();
        assert_eq!(news.serial.len(), FRESH_BYTES_MAX);
        assert_eq!(news.events.len(), EVENTS_KEPT);
        assert_eq!(feed.backlog().len(), BACKLOG_BYTES);
        assert!(feed.news().serial.is_empty());
    }

    #[test]
    fn a_console_gets_every_byte_once() {
        let feed = Feed::new().unwrap();
        let mut serial = SerialFeed::new(feed.clone(), None);
        serial.write_all(b"old").unwrap();
        assert_eq!(feed.news().serial, b"old");
        serial.write_all(b"new").unwrap();
        assert_eq!(feed.backlog(), b"old");
        assert_eq!(feed.news().serial, b"new");
    }
}
