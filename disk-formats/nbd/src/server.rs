//! Exports one disk to any number of clients.

mod connection;
mod execute;
mod handshake;
mod outbox;
mod pace;
mod sync;

use std::collections::BTreeMap;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use benchtop_block::{BlockError, BlockErrorKind, CacheMode, DiscardBehavior, DiskBackend, DiskInfo};
use parking_lot::{Condvar, Mutex};

use crate::listener::Listener;
use crate::protocol::{MAX_STRING_BYTES, transmission};
use crate::stream::Stream;

/// What is exported.
#[derive(Clone)]
pub struct Export {
    /// Its name; clients that ask for the empty name get it too.
    pub name: String,
    /// A line for people, or empty.
    pub description: String,
    /// The disk. All connections share it, so what one flushes covers what another wrote.
    pub backend: Arc<dyn DiskBackend>,
    /// When a write is answered. Under `Writethrough` when it is durable, under `Writeback` when the host has it (a
    /// client's flush and FUA make it durable), and under `Unsafe` flush and FUA do nothing.
    pub cache: CacheMode,
    /// Refuse writes even if the disk could take them.
    pub read_only: bool,
}

impl std::fmt::Debug for Export {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { name, description: _, backend, cache, read_only } = self;
        let info = backend.info();
        f.debug_struct("Export")
            .field("name", name)
            .field("info", &info)
            .field("cache", cache)
            .field("read_only", read_only)
            .finish_non_exhaustive()
    }
}

/// Bounds. Host memory for buffers is at most `max_connections` × (`max_in_flight` × 2.1 MiB + 0.3 MiB), and most of
/// that is only taken by clients that have so many requests of a megabyte in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerOptions {
    /// Clients at once; more are turned away. At least 1.
    pub max_connections: usize,
    /// Requests of one connection carried out at once, each by a thread; further ones wait in the socket. At least 1.
    pub max_in_flight: usize,
    /// How long a client may take to agree on an export.
    pub handshake: Duration,
    /// How long [`Server::shutdown`] waits for requests that have arrived.
    pub drain: Duration,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            max_connections: 32,
            max_in_flight: 16,
            handshake: Duration::from_secs(10),
            drain: Duration::from_secs(10),
        }
    }
}

/// What every thread of a server sees.
#[derive(Debug)]
struct Served {
    export: Export,
    info: DiskInfo,
    options: ServerOptions,
    sync: sync::SharedSync,
}

impl Served {
    fn read_only(&self) -> bool {
        self.export.read_only || self.info.read_only
    }

    /// Whether the client may ask for the export by `name`.
    fn is_called(&self, name: &[u8]) -> bool {
        name.is_empty() || name == self.export.name.as_bytes()
    }

    /// The transmission flags, for a client with structured replies or one without.
    fn flags(&self, structured: bool) -> u16 {
        use transmission::*;
        // Several connections are sound because all of them have the same backend, with one cache.
        let mut flags = HAS_FLAGS | SEND_FLUSH | SEND_FUA | CAN_MULTI_CONN;
        if structured {
            flags |= SEND_DF;
        }
        if self.read_only() {
            return flags | READ_ONLY;
        }
        if self.info.discard != DiscardBehavior::Ignored {
            flags |= SEND_TRIM;
        }
        flags | SEND_WRITE_ZEROES | SEND_FAST_ZERO
    }
}

/// The connections there are.
#[derive(Debug, Default)]
struct Registry {
    state: Mutex<RegistryState>,
    /// A connection ended.
    ended: Condvar,
    stopping: AtomicBool,
}

#[derive(Debug, Default)]
struct RegistryState {
    next: u64,
    streams: BTreeMap<u64, Arc<Stream>>,
}

/// A connection's place in the registry, given back on drop.
#[derive(Debug)]
struct Place {
    registry: Arc<Registry>,
    number: u64,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.registry.state.lock().streams.remove(&self.number);
        self.registry.ended.notify_all();
    }
}

impl Registry {
    /// Takes a connection in, or says why not.
    fn admit(self: &Arc<Self>, stream: &Arc<Stream>, max: usize) -> Result<Place, &'static str> {
        let mut state = self.state.lock();
        // Looked at under the lock, so that whoever stops the server finds every connection there is.
        if self.stopping.load(Ordering::Relaxed) {
            return Err("the server is stopping");
        }
        if state.streams.len() >= max.max(1) {
            return Err("as many clients as are allowed are connected");
        }
        let number = state.next;
        state.next = state.next.wrapping_add(1);
        state.streams.insert(number, stream.clone());
        Ok(Place { registry: self.clone(), number })
    }

    /// Waits until no connection is left: false when `time` is over first.
    fn wait_empty(&self, time: Duration) -> bool {
        let now = Instant::now();
        let until = now.checked_add(time).unwrap_or(now);
        let mut state = self.state.lock();
        while !state.streams.is_empty() {
            if self.ended.wait_until(&mut state, until).timed_out() {
                return state.streams.is_empty();
            }
        }
        true
    }
}

/// A running server. Dropping it shuts it down, and logs what [`shutdown`](Self::shutdown) would return.
#[derive(Debug)]
pub struct Server {
    served: Arc<Served>,
    registry: Arc<Registry>,
    accepting: Mutex<Vec<Accepting>>,
    done: bool,
}

/// A thread that accepts, and the end of a socket pair whose closing stops it.
#[derive(Debug)]
struct Accepting {
    thread: JoinHandle<()>,
    stop: UnixStream,
}

/// How long to wait before accepting again when the host refused.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);
/// How long connections may take to end once they are cut.
const CUT: Duration = Duration::from_secs(5);

impl Server {
    /// A server that serves nobody yet.
    ///
    /// # Errors
    /// `Unsupported` for a name or description longer than the protocol's 4096 bytes or with a NUL.
    pub fn new(export: Export, options: ServerOptions) -> Result<Self, BlockError> {
        for text in [&export.name, &export.description] {
            if text.len() > MAX_STRING_BYTES || text.contains('\0') {
                let context = "an export's name and description have at most 4096 bytes, none of them 0";
                return Err(BlockError::new(BlockErrorKind::Unsupported, context));
            }
        }
        let info = export.backend.info();
        let served = Arc::new(Served { export, info, options, sync: sync::SharedSync::default() });
        Ok(Self { served, registry: Arc::default(), accepting: Mutex::default(), done: false })
    }

    /// Accepts clients on `listener`, beside other listeners, until the server shuts down.
    ///
    /// # Errors
    /// The host has no thread or descriptor left.
    pub fn listen(&self, listener: Listener) -> Result<(), BlockError> {
        let failed = |error| BlockError::from_io("a listener could not be started", error);
        let (stop, stopped) = UnixStream::pair().map_err(failed)?;
        let (served, registry) = (self.served.clone(), self.registry.clone());
        let thread = std::thread::Builder::new()
            .name("nbd-accept".to_owned())
            .spawn(move || accept(&listener, &stopped, &served, &registry))
            .map_err(failed)?;
        self.accepting.lock().push(Accepting { thread, stop });
        Ok(())
    }

    /// Serves one connected client on a thread of its own.
    ///
    /// # Errors
    /// `InUse` where no more clients are allowed or the server is stopping, or the host's.
    pub fn serve(&self, socket: UnixStream) -> Result<(), BlockError> {
        let stream = Stream::unix(socket).map_err(|error| BlockError::from_io("the socket can not be used", error))?;
        start(stream, &self.served, &self.registry)
    }

    /// How many clients are connected.
    pub fn connections(&self) -> usize {
        self.registry.state.lock().streams.len()
    }

    /// Stops accepting, answers every request that has arrived, closes the connections and makes durable what was
    /// written (but under `Unsafe`). A client that does not take its answers within [`ServerOptions::drain`] is cut.
    ///
    /// # Errors
    /// The sync's, or `Io` where a request hangs in the disk.
    pub fn shutdown(mut self) -> Result<(), BlockError> {
        self.finish()
    }

    fn finish(&mut self) -> Result<(), BlockError> {
        self.done = true;
        {
            let state = self.registry.state.lock();
            self.registry.stopping.store(true, Ordering::Relaxed);
            state.streams.values().for_each(|stream| stream.end_receiving());
        }
        for Accepting { thread, stop } in std::mem::take(&mut *self.accepting.lock()) {
            drop(stop);
            if thread.join().is_err() {
                tracing::error!("an NBD listener's thread panicked");
            }
        }
        if !self.registry.wait_empty(self.served.options.drain) {
            let streams: Vec<_> = self.registry.state.lock().streams.values().cloned().collect();
            tracing::warn!(clients = streams.len(), "NBD clients that do not take their answers are cut");
            streams.iter().for_each(|stream| stream.end());
            if !self.registry.wait_empty(CUT) {
                return Err(BlockError::new(BlockErrorKind::Io, "requests of NBD clients hang in the disk"));
            }
        }
        if self.served.read_only() || self.served.export.cache == CacheMode::Unsafe {
            return Ok(());
        }
        self.served.export.backend.flush()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if !self.done
            && let Err(error) = self.finish()
        {
            tracing::error!(%error, "an NBD server did not end well");
        }
    }
}

/// Accepts until told to stop.
fn accept(listener: &Listener, stop: &UnixStream, served: &Arc<Served>, registry: &Arc<Registry>) {
    loop {
        match listener.accept(stop) {
            Ok(None) => return,
            Ok(Some(stream)) => {
                if let Err(error) = start(stream, served, registry) {
                    tracing::debug!(%error, "an NBD client is turned away");
                }
            }
            Err(error) => {
                tracing::debug!(%error, "an NBD client could not be accepted");
                std::thread::sleep(ACCEPT_AGAIN);
            }
        }
    }
}

/// Serves `stream` on a thread of its own.
fn start(stream: Stream, served: &Arc<Served>, registry: &Arc<Registry>) -> Result<(), BlockError> {
    let stream = Arc::new(stream);
    let place = registry
        .admit(&stream, served.options.max_connections)
        .map_err(|why| BlockError::new(BlockErrorKind::InUse, why))?;
    let served = served.clone();
    std::thread::Builder::new()
        .name("nbd-worker".to_owned())
        .spawn(move || connection::serve(served, stream, place))
        .map_err(|error| BlockError::from_io("no thread could be started for an NBD client", error))?;
    Ok(())
}

#[cfg(test)]
mod tests;
