//! A disk that is the export of an NBD server.

mod handshake;
mod replies;

use std::io;
use std::net::{TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use benchtop_block::{
    BlockError, BlockErrorKind, DiscardBehavior, DiskBackend, DiskInfo, Extent, ExtentKind, SECTOR_BYTES, pieces,
};
use benchtop_memory::VolatileSlice;
use parking_lot::{Condvar, Mutex};

use crate::address::Address;
use crate::incoming::Incoming;
use crate::protocol::{MAX_PAYLOAD_BYTES, MAX_STRING_BYTES, REQUEST_BYTES, Request, allocation, command, transmission};
use crate::stream::Stream;
use crate::tls::Tls;
use handshake::Found;
pub use handshake::{NO_SUCH_EXPORT, WANTS_TLS};
use replies::{Expected, Table};

/// How long connecting and the handshake may take, each.
const PATIENCE: Duration = Duration::from_secs(10);
/// Data of one request at most, in bytes; longer transfers are cut.
const TRANSFER_BYTES: u32 = 1 << 20;
/// Range of one request without data at most, in bytes.
const RANGE_BYTES: u32 = 1 << 30;
/// What is received at once, in bytes.
const RECEIVE_BYTES: usize = 64 << 10;

/// The export of an NBD server as a disk.
///
/// Requests of several threads are in flight at once. A lost connection is not made again: everything fails from then
/// on. An answer is waited for without limit, as a local disk's is.
///
/// What is discarded reads as zeroes where the server knows both trimming and writing zeroes, as anything where it only
/// knows trimming, and otherwise discards do nothing.
#[derive(Debug)]
pub struct NbdDisk {
    stream: Stream,
    info: DiskInfo,
    found: Found,
    /// What is being sent.
    sending: Mutex<Vec<u8>>,
    /// Locked by the one who receives, which the table knows.
    incoming: Mutex<Incoming>,
    table: Mutex<Table>,
    /// A request was answered, or nobody receives.
    changed: Condvar,
    /// A sync failed.
    poisoned: AtomicBool,
}

impl NbdDisk {
    /// Connects to the export `name` of the server at `address`. `read_only` refuses writes whatever the server says.
    ///
    /// # Errors
    /// `Unsupported` where the server wants TLS, has no such export, has blocks larger than 512 bytes, or could be
    /// written but has no flush; `Corrupt` where it breaks the protocol; else the host's.
    pub fn connect(address: &Address, name: &str, read_only: bool) -> Result<Self, BlockError> {
        Self::open(dial(address)?, name, read_only, None)
    }

    /// As [`connect`](Self::connect), by TLS. A server without it is refused.
    ///
    /// # Errors
    /// As there, and `Unsupported` for a server that is not to be trusted.
    pub fn connect_with_tls(address: &Address, name: &str, read_only: bool, tls: &Tls) -> Result<Self, BlockError> {
        Self::open(dial(address)?, name, read_only, Some(tls))
    }

    /// As [`connect`](Self::connect), on a socket that is connected already: for a process that may not connect itself.
    ///
    /// # Errors
    /// As there.
    pub fn from_unix(socket: UnixStream, name: &str, read_only: bool) -> Result<Self, BlockError> {
        Self::open(Stream::unix(socket).map_err(unusable)?, name, read_only, None)
    }

    /// As [`from_unix`](Self::from_unix), by TLS.
    ///
    /// # Errors
    /// As [`connect_with_tls`](Self::connect_with_tls).
    pub fn from_unix_with_tls(socket: UnixStream, name: &str, read_only: bool, tls: &Tls) -> Result<Self, BlockError> {
        Self::open(Stream::unix(socket).map_err(unusable)?, name, read_only, Some(tls))
    }

    /// As [`from_unix`](Self::from_unix), for TCP.
    ///
    /// # Errors
    /// As there.
    pub fn from_tcp(socket: TcpStream, name: &str, read_only: bool) -> Result<Self, BlockError> {
        Self::open(Stream::tcp(socket).map_err(unusable)?, name, read_only, None)
    }

    fn open(mut stream: Stream, name: &str, read_only: bool, tls: Option<&Tls>) -> Result<Self, BlockError> {
        let unsupported = |why: &str| Err(BlockError::new(BlockErrorKind::Unsupported, why));
        if name.len() > MAX_STRING_BYTES || name.contains('\0') {
            return unsupported("an NBD export's name has at most 4096 bytes, none of them 0");
        }
        let found = handshake::run(&mut stream, name, PATIENCE, tls)?;
        let read_only = read_only || found.has(transmission::READ_ONLY);
        if found.size_bytes < SECTOR_BYTES {
            return unsupported("the NBD export does not hold even one sector");
        }
        if u64::from(found.min_block_bytes) > SECTOR_BYTES {
            return unsupported("the NBD export has blocks larger than 512 bytes, which is not built");
        }
        if !read_only && !found.has(transmission::SEND_FLUSH) {
            return unsupported("the NBD server has no flush, so no write could be made durable; open it read-only");
        }
        let zeroes = found.has(transmission::SEND_WRITE_ZEROES);
        let discard = match found.has(transmission::SEND_TRIM) {
            true if read_only => DiscardBehavior::Ignored,
            true if zeroes => DiscardBehavior::Zeroes,
            true => DiscardBehavior::Unspecified,
            false => DiscardBehavior::Ignored,
        };
        let info = DiskInfo {
            size_bytes: found.size_bytes - found.size_bytes % SECTOR_BYTES,
            logical_block_bytes: 512,
            physical_block_bytes: found.preferred_block_bytes.clamp(512, 4096),
            read_only,
            discard,
            format: "nbd",
        };
        Ok(Self {
            stream,
            info,
            found,
            sending: Mutex::default(),
            incoming: Mutex::new(Incoming::new(RECEIVE_BYTES)),
            table: Mutex::default(),
            changed: Condvar::new(),
            poisoned: AtomicBool::new(false),
        })
    }

    /// Whether the server lets nobody write, however the disk was opened.
    pub fn is_read_only(&self) -> bool {
        self.found.has(transmission::READ_ONLY)
    }

    /// Data of one request at most, whole sectors.
    fn transfer_bytes(&self) -> usize {
        let limit = self.found.max_block_bytes.min(TRANSFER_BYTES);
        (limit - limit % SECTOR_BYTES as u32) as usize
    }

    /// Range of one request without data at most, whole sectors.
    fn range_bytes(&self) -> u64 {
        // Servers need not take more than the largest transfer here either.
        let limit = self.found.max_block_bytes.clamp(MAX_PAYLOAD_BYTES, RANGE_BYTES);
        u64::from(limit - limit % SECTOR_BYTES as u32)
    }

    /// One request and its answer.
    fn call(
        &self,
        command: u16,
        flags: u16,
        offset_bytes: u64,
        len_bytes: u32,
        data: &[VolatileSlice<'_>],
    ) -> Result<Vec<u8>, BlockError> {
        let expected = match command {
            command::READ => Expected::Data { offset_bytes, len_bytes },
            command::BLOCK_STATUS => Expected::Status,
            _ => Expected::Nothing,
        };
        let cookie = self.table.lock().add(expected)?;
        let mut bytes = self.sending.lock();
        bytes.clear();
        Request { flags, command, cookie, offset_bytes, len_bytes }.encode(&mut bytes);
        for slice in data {
            let start = bytes.len();
            bytes.resize(start + slice.len(), 0);
            slice.copy_to(&mut bytes[start..]);
        }
        let sent = self.stream.send_all(&bytes);
        drop(bytes);
        if let Err(error) = sent {
            self.lose(&error);
        }
        self.wait(cookie)
    }

    /// Waits for the answer to a request. One of those who wait receives for all.
    fn wait(&self, cookie: u64) -> Result<Vec<u8>, BlockError> {
        let mut table = self.table.lock();
        loop {
            if let Some(answer) = table.take(cookie) {
                return answer;
            }
            if table.receiving {
                self.changed.wait(&mut table);
                continue;
            }
            table.receiving = true;
            drop(table);
            let received = replies::receive(&self.stream, &mut self.incoming.lock(), &self.table, &self.found);
            if let Err(error) = &received {
                self.lose(error);
            }
            table = self.table.lock();
            table.receiving = false;
            self.changed.notify_all();
        }
    }

    /// Nothing more comes of this connection.
    fn lose(&self, error: &io::Error) {
        self.stream.end();
        self.table.lock().lose(error);
        self.changed.notify_all();
    }

    fn check_write(&self, offset_bytes: u64, len_bytes: u64) -> Result<(), BlockError> {
        self.info.check_write(offset_bytes, len_bytes)?;
        self.check_poison()
    }

    fn check_poison(&self) -> Result<(), BlockError> {
        if self.poisoned.load(Relaxed) {
            return Err(BlockError::new(BlockErrorKind::Poisoned, "an earlier sync of this NBD export failed"));
        }
        Ok(())
    }

    /// Cuts a transfer and calls `each` with the parts: where, how long, and their memory.
    fn transfers<'a>(
        &self,
        offset_bytes: u64,
        slices: &[VolatileSlice<'a>],
        mut each: impl FnMut(u64, u32, &[VolatileSlice<'a>]) -> Result<(), BlockError>,
    ) -> Result<(), BlockError> {
        let unit = self.transfer_bytes();
        let end = pieces::len_bytes(slices);
        let mut part: Vec<VolatileSlice<'a>> = Vec::with_capacity(slices.len());
        let (mut start, mut len) = (0u64, 0u64);
        // Cut from the transfer's own start, so that a transfer that fits one request is one.
        pieces::for_each(0, slices, unit, |piece| {
            len += piece.memory.len() as u64;
            part.push(piece.memory);
            if len == unit as u64 || start + len == end {
                // At most TRANSFER_BYTES.
                each(offset_bytes + start, len as u32, &part)?;
                start += len;
                len = 0;
                part.clear();
            }
            Ok(())
        })
    }

    /// Sends `command` for each part of a range.
    fn ranges(&self, command: u16, offset_bytes: u64, len_bytes: u64) -> Result<(), BlockError> {
        let mut at = offset_bytes;
        let mut left = len_bytes;
        while left > 0 {
            let part = left.min(self.range_bytes());
            // At most RANGE_BYTES.
            self.call(command, 0, at, part as u32, &[])?;
            at += part;
            left -= part;
        }
        Ok(())
    }
}

fn unusable(error: io::Error) -> BlockError {
    BlockError::from_io("the NBD server's socket can not be used", error)
}

fn dial(address: &Address) -> Result<Stream, BlockError> {
    let stream = match address {
        Address::Unix(path) => UnixStream::connect(path).and_then(Stream::unix),
        Address::Tcp(host, port) => connect_tcp(host, *port),
    };
    stream.map_err(|error| BlockError::from_io(format!("can not connect to the NBD server at {address}"), error))
}

fn connect_tcp(host: &str, port: u16) -> io::Result<Stream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
    for address in (host, port).to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, PATIENCE) {
            Ok(socket) => return Stream::tcp(socket),
            Err(error) => last = error,
        }
    }
    Err(last)
}

impl DiskBackend for NbdDisk {
    fn info(&self) -> DiskInfo {
        self.info.clone()
    }

    fn read_at(&self, offset_bytes: u64, into: &[VolatileSlice<'_>]) -> Result<(), BlockError> {
        self.info.check_range(offset_bytes, pieces::len_bytes(into))?;
        self.transfers(offset_bytes, into, |offset_bytes, len_bytes, part| {
            let bytes = self.call(command::READ, 0, offset_bytes, len_bytes, &[])?;
            let mut rest = &bytes[..];
            for slice in part {
                let (here, after) = rest.split_at_checked(slice.len()).unwrap_or((rest, &[]));
                slice.copy_from(here);
                rest = after;
            }
            Ok(())
        })
    }

    fn write_at(&self, offset_bytes: u64, from: &[VolatileSlice<'_>], fua: bool) -> Result<(), BlockError> {
        self.check_write(offset_bytes, pieces::len_bytes(from))?;
        let forced = fua && self.found.has(transmission::SEND_FUA);
        let flags = if forced { command::FLAG_FUA } else { 0 };
        self.transfers(offset_bytes, from, |offset_bytes, len_bytes, part| {
            let result = self.call(command::WRITE, flags, offset_bytes, len_bytes, part);
            // Without space nothing was written; any other failure of a forced write may be that of its sync.
            if result.as_ref().is_err_and(|error| forced && error.kind() != BlockErrorKind::NoSpace) {
                self.poisoned.store(true, Relaxed);
            }
            result.map(drop)
        })?;
        if fua && !forced { self.flush() } else { Ok(()) }
    }

    fn flush(&self) -> Result<(), BlockError> {
        if self.info.read_only {
            return Ok(());
        }
        self.check_poison()?;
        let result = self.call(command::FLUSH, 0, 0, 0, &[]);
        self.poisoned.fetch_or(result.is_err(), Relaxed);
        result.map(drop)
    }

    fn discard(&self, offset_bytes: u64, len_bytes: u64) -> Result<(), BlockError> {
        self.check_write(offset_bytes, len_bytes)?;
        match self.info.discard {
            DiscardBehavior::Zeroes => self.ranges(command::WRITE_ZEROES, offset_bytes, len_bytes),
            DiscardBehavior::Unspecified => self.ranges(command::TRIM, offset_bytes, len_bytes),
            DiscardBehavior::Ignored => Ok(()),
        }
    }

    fn extent_at(&self, offset_bytes: u64, limit_bytes: u64) -> Result<Extent, BlockError> {
        self.info.check_range(offset_bytes, limit_bytes)?;
        if limit_bytes == 0 {
            return Err(BlockError::new(BlockErrorKind::OutOfRange, "an empty range has no extents"));
        }
        if self.found.allocation.is_none() {
            return Ok(Extent { kind: ExtentKind::Data, len_bytes: limit_bytes });
        }
        let limit = limit_bytes.min(self.range_bytes());
        // At most RANGE_BYTES.
        let answer = self.call(command::BLOCK_STATUS, command::FLAG_REQ_ONE, offset_bytes, limit as u32, &[])?;
        let (len, flags) = replies::first_extent(&answer)
            .ok_or_else(|| BlockError::new(BlockErrorKind::Corrupt, "the NBD server tells of no extent"))?;
        let len_bytes = u64::from(len).min(limit);
        let kind = if flags & allocation::ZERO == 0 { ExtentKind::Data } else { ExtentKind::Zeroes };
        match len_bytes - len_bytes % SECTOR_BYTES {
            // Less than a sector of something: the sector holds data then.
            0 => Ok(Extent { kind: ExtentKind::Data, len_bytes: SECTOR_BYTES }),
            len_bytes => Ok(Extent { kind, len_bytes }),
        }
    }

    fn reopen(&self) -> Result<(), BlockError> {
        if self.poisoned.load(Relaxed) || self.table.lock().is_lost() {
            let context = "connecting to an NBD server again is not built";
            return Err(BlockError::new(BlockErrorKind::Unsupported, context));
        }
        self.flush()
    }
}

impl Drop for NbdDisk {
    fn drop(&mut self) {
        let mut bytes = Vec::with_capacity(REQUEST_BYTES);
        let command = command::DISCONNECT;
        Request { flags: 0, command, cookie: 0, offset_bytes: 0, len_bytes: 0 }.encode(&mut bytes);
        // Polite, not needed: the server sees the end of the stream either way.
        let polite = self.stream.limit(Some(Duration::from_secs(1))).and_then(|()| self.stream.send_all(&bytes));
        polite.unwrap_or_default();
        self.stream.end();
    }
}
