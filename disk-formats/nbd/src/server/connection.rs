//! One client: its requests are read, carried out and answered.
//!
//! The threads of a connection are equal. One leads: it holds the receiver's lock and reads requests. A request that
//! should be quick it carries out itself, still leading, so a client with one request at a time is served without a
//! thread being woken; replies gather while further requests are at hand, and leave in one call. When a request may
//! take long and the client has others in flight, the leader gives up the lead first, and the next thread that is free
//! reads on. So as many requests are in flight as there are threads, and no more are read.

use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use benchtop_block::BlockError;
use parking_lot::{Mutex, MutexGuard};

use super::execute::{Task, Work};
use super::handshake::{self, Negotiated};
use super::outbox::{MAX_CHUNK_BYTES, Outbox, Refusal};
use super::pace::{Class, Pace, was_long};
use super::{Place, Served};
use crate::incoming::Incoming;
use crate::protocol::{MAX_PAYLOAD_BYTES, REQUEST_BYTES, Request, chunk, command};
use crate::stream::Stream;

/// Replies that gathered to so many bytes are sent while further requests wait: the client can work on them meanwhile.
const BATCH_BYTES: usize = 16 << 10;
/// For so many requests a client counts as having several in flight after it was seen to.
const DEEP_REQUESTS: u32 = 256;
/// Data of a refused write taken at a time, in bytes.
const SKIP_BYTES: usize = 64 << 10;

/// What has been received of a connection and not been taken, in bytes: a queue of 32 writes of 4 KiB comes in one
/// call. It also bounds the writes that are carried out from where they were received.
const RECEIVE_BYTES: usize = 256 << 10;

/// The receiving half of a connection. Whoever holds its lock leads.
#[derive(Debug)]
struct Receiver {
    incoming: Incoming,
    /// Nothing more is read: the client said so, went away, or broke the protocol.
    ended: bool,
    /// Requests to go for which the client counts as having several in flight.
    deep: u32,
}

/// What a connection's threads share.
#[derive(Debug)]
struct Connection {
    served: Arc<Served>,
    stream: Arc<Stream>,
    negotiated: Negotiated,
    receiver: Mutex<Receiver>,
    /// Held while a reply is sent, so that replies do not mix.
    sending: Mutex<()>,
    /// Threads there are, and those that wait for the lead.
    threads: AtomicUsize,
    waiting: AtomicUsize,
    pace: Pace,
    /// Last, so that the rest is gone when the place is.
    place: Place,
}

/// What one thread of a connection has for itself.
#[derive(Debug, Default)]
struct Worker {
    outbox: Outbox,
    /// Data of a write, or zeroes.
    data: Vec<u8>,
}

/// Serves a client to its end.
pub(super) fn serve(served: Arc<Served>, stream: Arc<Stream>, place: Place) {
    let negotiated = match handshake::run(&stream, &served) {
        Ok(Some(negotiated)) => negotiated,
        Ok(None) => return,
        Err(error) => {
            tracing::debug!(%error, "an NBD client's handshake failed");
            return;
        }
    };
    let connection = Arc::new(Connection {
        served,
        stream,
        negotiated,
        receiver: Mutex::new(Receiver { incoming: Incoming::new(RECEIVE_BYTES), ended: false, deep: 0 }),
        sending: Mutex::new(()),
        threads: AtomicUsize::new(1),
        waiting: AtomicUsize::new(0),
        pace: Pace::default(),
        place,
    });
    connection.work();
}

impl Connection {
    /// What each thread does until nothing more is to be read.
    fn work(self: &Arc<Self>) {
        let mut worker = Worker::default();
        loop {
            self.waiting.fetch_add(1, Ordering::Relaxed);
            let receiver = self.receiver.lock();
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            match self.lead(receiver, &mut worker) {
                Ok(ControlFlow::Continue(())) => {}
                Ok(ControlFlow::Break(())) => return,
                Err(error) => {
                    tracing::debug!(%error, "an NBD client is cut off");
                    // For all threads, whatever they do.
                    self.stream.end();
                    return;
                }
            }
        }
    }

    /// Reads requests and carries them out until one is carried out without the lead, or nothing is left to read.
    fn lead(
        self: &Arc<Self>,
        mut receiver: MutexGuard<'_, Receiver>,
        worker: &mut Worker,
    ) -> io::Result<ControlFlow<()>> {
        let found = self.read_on(&mut receiver, worker);
        // The others see the end when they get the lock.
        receiver.ended |= !matches!(found, Ok(Some(_)));
        // A thread that waits now has the lock next; if none does, one is started.
        let nobody_waits = self.waiting.load(Ordering::Relaxed) == 0;
        let ended = receiver.ended;
        drop(receiver);
        if !ended && nobody_waits {
            self.start_thread();
        }
        // Replies that gathered leave before anything that may take long.
        let found = found?;
        self.send(&mut worker.outbox)?;
        let Some((request, task)) = found else { return Ok(ControlFlow::Break(())) };
        let started = Instant::now();
        let Worker { outbox, data } = worker;
        match task.work {
            Work::Write => self.write(&request, &task, grown(data, task.len_bytes as usize), outbox),
            _ => self.carry_out(&request, &task, outbox, data)?,
        }
        self.pace.took(Class::of(&task), started.elapsed());
        self.send(outbox)?;
        Ok(ControlFlow::Continue(()))
    }

    fn start_thread(self: &Arc<Self>) {
        let max = self.served.options.max_in_flight.max(1);
        // Only the thread that just led comes here, but the next leader may do so meanwhile.
        let more = |threads| (threads < max).then_some(threads + 1);
        if self.threads.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_err() {
            return;
        }
        let connection = self.clone();
        let spawned = std::thread::Builder::new().name("nbd-worker".to_owned()).spawn(move || connection.work());
        if let Err(error) = spawned {
            // The threads there are go on.
            self.threads.fetch_sub(1, Ordering::Relaxed);
            tracing::debug!(%error, "an NBD connection gets no further thread");
        }
    }

    /// Reads requests and carries out those that should be quick. The one it returns is to be carried out without the
    /// lead; if it is a write, its data is in the worker's. `None` is the end.
    fn read_on(&self, receiver: &mut Receiver, worker: &mut Worker) -> io::Result<Option<(Request, Task)>> {
        while !receiver.ended {
            if receiver.incoming.buffered() < REQUEST_BYTES {
                self.send(&mut worker.outbox)?;
                if self.place.registry.stopping.load(Ordering::Relaxed) && !receiver.incoming.look(&self.stream) {
                    return Ok(None);
                }
                if !receiver.incoming.wait_for(&self.stream, REQUEST_BYTES)? {
                    return Ok(None);
                }
            }
            let request = receiver.incoming.array().and_then(|header| Request::decode(&header));
            let request = request.ok_or_else(|| invalid("a request does not begin as one"))?;
            if request.command == command::DISCONNECT {
                return Ok(None);
            }
            match Task::new(&request, &self.served, self.negotiated) {
                Ok(task) => {
                    if self.take_on(&request, &task, receiver, worker)? {
                        return Ok(Some((request, task)));
                    }
                }
                Err(refusal) => {
                    if request.command == command::WRITE {
                        self.skip_data(&request, receiver, worker)?;
                    }
                    self.fail(&mut worker.outbox, &request, &refusal);
                }
            }
            if worker.outbox.len() >= BATCH_BYTES {
                self.send(&mut worker.outbox)?;
            }
        }
        Ok(None)
    }

    /// Takes the data of a write, and carries the request out unless it is worth another thread: whether that is so.
    fn take_on(
        &self,
        request: &Request,
        task: &Task,
        receiver: &mut Receiver,
        worker: &mut Worker,
    ) -> io::Result<bool> {
        let len = if task.work == Work::Write { task.len_bytes as usize } else { 0 };
        let Worker { outbox, data } = worker;
        if receiver.incoming.buffered() < len {
            // The rest of the data may be long in coming.
            self.send(outbox)?;
        }
        if len > MAX_CHUNK_BYTES {
            self.write_long(request, task, receiver, worker)?;
            return Ok(false);
        }
        let class = Class::of(task);
        let alone = receiver.incoming.buffered() <= len;
        if !alone {
            receiver.deep = DEEP_REQUESTS;
        }
        let hand_over = receiver.deep > 0 && !self.pace.is_quick(class);
        if hand_over {
            receiver.deep -= 1;
            if len > 0 {
                receiver.incoming.take_into(&self.stream, grown(data, len))?;
            }
            return Ok(true);
        }
        // Only what is quick is worth gathering replies for.
        if !self.pace.is_quick(class) {
            self.send(outbox)?;
        }
        let mut started = Instant::now();
        if task.work != Work::Write {
            self.carry_out(request, task, outbox, data)?;
        } else if receiver.incoming.can_hold(len) {
            if !receiver.incoming.wait_for(&self.stream, len)? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            started = Instant::now();
            self.write(request, task, receiver.incoming.take(len), outbox);
        } else {
            let data = grown(data, len);
            receiver.incoming.take_into(&self.stream, data)?;
            started = Instant::now();
            self.write(request, task, data, outbox);
        }
        let took = started.elapsed();
        self.pace.took(class, took);
        if was_long(took) {
            // What came meanwhile had to wait: so the client does not always wait for an answer first.
            if alone && receiver.incoming.look(&self.stream) {
                receiver.deep = DEEP_REQUESTS;
            }
            self.send(outbox)?;
        }
        Ok(false)
    }

    /// A write that is carried out in parts as its data comes, still leading: it bounds what a thread has to hold.
    fn write_long(
        &self,
        request: &Request,
        task: &Task,
        receiver: &mut Receiver,
        worker: &mut Worker,
    ) -> io::Result<()> {
        let mut result = Ok(());
        let mut at = task.offset_bytes;
        let mut left = task.len_bytes as usize;
        while left > 0 {
            let part = left.min(MAX_CHUNK_BYTES);
            let bytes = grown(&mut worker.data, part);
            receiver.incoming.take_into(&self.stream, bytes)?;
            // After an error the rest of the data still has to be taken from the socket.
            if result.is_ok() {
                result = self.served.write(at, bytes);
            }
            at = at.saturating_add(part as u64);
            left -= part;
        }
        self.end(&mut worker.outbox, request, result.and_then(|()| self.served.settle(task)));
        Ok(())
    }

    /// Takes the data of a write that is refused.
    fn skip_data(&self, request: &Request, receiver: &mut Receiver, worker: &mut Worker) -> io::Result<()> {
        if request.len_bytes > MAX_PAYLOAD_BYTES {
            return Err(invalid("a write has more than 32 MiB"));
        }
        let mut left = request.len_bytes as usize;
        if receiver.incoming.buffered() < left {
            self.send(&mut worker.outbox)?;
        }
        while left > 0 {
            let part = left.min(SKIP_BYTES);
            receiver.incoming.take_into(&self.stream, grown(&mut worker.data, part))?;
            left -= part;
        }
        Ok(())
    }

    fn write(&self, request: &Request, task: &Task, data: &mut [u8], outbox: &mut Outbox) {
        let result = self.served.write(task.offset_bytes, data).and_then(|()| self.served.settle(task));
        self.end(outbox, request, result);
    }

    /// Carries out what is not a write.
    fn carry_out(&self, request: &Request, task: &Task, outbox: &mut Outbox, scratch: &mut Vec<u8>) -> io::Result<()> {
        match task.work {
            Work::Read { .. } if self.negotiated.structured => self.read(request, task, outbox)?,
            Work::Read { .. } => self.read_simple(request, task, outbox)?,
            Work::Status { one } => match self.served.status(task, one) {
                Ok(payload) => outbox.chunk(chunk::BLOCK_STATUS, request.cookie, &payload),
                Err(error) => self.fail(outbox, request, &error.into()),
            },
            Work::Write | Work::Flush | Work::Trim | Work::Zeroes { .. } => match self.served.change(task, scratch) {
                Ok(()) => outbox.simple(request.cookie, 0),
                Err(refusal) => self.fail(outbox, request, &refusal),
            },
        }
        Ok(())
    }

    /// Reads into chunks; all but the last leave at once.
    fn read(&self, request: &Request, task: &Task, outbox: &mut Outbox) -> io::Result<()> {
        if task.len_bytes == 0 {
            outbox.chunk(chunk::NONE, request.cookie, &[]);
            return Ok(());
        }
        let mut at = task.offset_bytes;
        let mut left = task.len_bytes as usize;
        while left > 0 {
            let part = left.min(MAX_CHUNK_BYTES);
            let filled = outbox.data(left == part, request.cookie, at, part, |into| self.served.read(at, into));
            if let Err(error) = filled {
                self.fail(outbox, request, &error.into());
                return Ok(());
            }
            at = at.saturating_add(part as u64);
            left -= part;
            if left > 0 {
                self.send(outbox)?;
            }
        }
        Ok(())
    }

    /// Reads for a client that wants the data of a reply in one piece. A long one goes out in parts all the same, and
    /// nobody else's reply may come between.
    fn read_simple(&self, request: &Request, task: &Task, outbox: &mut Outbox) -> io::Result<()> {
        let len = task.len_bytes as usize;
        if len <= MAX_CHUNK_BYTES {
            let read = |into: &mut [u8]| self.served.read(task.offset_bytes, into);
            if let Err(error) = outbox.simple_data(true, request.cookie, len, read) {
                self.fail(outbox, request, &error.into());
            }
            return Ok(());
        }
        let _turn = self.sending.lock();
        let mut at = task.offset_bytes;
        let mut left = len;
        while left > 0 {
            let part = left.min(MAX_CHUNK_BYTES);
            let first = left == len;
            match outbox.simple_data(first, request.cookie, part, |into| self.served.read(at, into)) {
                Ok(()) => {}
                Err(error) if first => {
                    self.fail(outbox, request, &error.into());
                    return Ok(());
                }
                // The client was told that all is well, and there is no other way to take that back.
                Err(error) => return Err(io::Error::other(error)),
            }
            outbox.send(&self.stream)?;
            at = at.saturating_add(part as u64);
            left -= part;
        }
        Ok(())
    }

    fn end(&self, outbox: &mut Outbox, request: &Request, result: Result<(), BlockError>) {
        match result {
            Ok(()) => outbox.simple(request.cookie, 0),
            Err(error) => self.fail(outbox, request, &error.into()),
        }
    }

    fn fail(&self, outbox: &mut Outbox, request: &Request, refusal: &Refusal) {
        outbox.failure(self.negotiated.structured, request.cookie, refusal);
    }

    /// Sends the replies that gathered.
    fn send(&self, outbox: &mut Outbox) -> io::Result<()> {
        if outbox.is_empty() {
            return Ok(());
        }
        let _turn = self.sending.lock();
        outbox.send(&self.stream)
    }
}

fn invalid(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

/// The first `len` bytes of a buffer that only grows.
fn grown(buffer: &mut Vec<u8>, len: usize) -> &mut [u8] {
    if buffer.len() < len {
        buffer.resize(len, 0);
    }
    &mut buffer[..len]
}
