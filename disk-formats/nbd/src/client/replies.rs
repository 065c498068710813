//! Answers of a server, matched to the requests that wait for them. The server is hostile: it can make a request fail
//! or lie about what is on its disk, and nothing else.

use std::collections::BTreeMap;
use std::io;

use benchtop_block::{BlockError, BlockErrorKind};
use parking_lot::Mutex;

use super::handshake::Found;
use crate::incoming::Incoming;
use crate::protocol::{
    CHUNK_BYTES, DATA_OFFSET_BYTES, Fields, SIMPLE_BYTES, SIMPLE_REPLY, STRUCTURED_REPLY, chunk, errno,
};
use crate::stream::Stream;

/// Payload of a chunk that is no data at most, in bytes.
const MAX_PAYLOAD_BYTES: usize = 16 << 10;
/// Bytes of an error's text that are kept.
const MAX_TEXT_BYTES: usize = 200;

/// What a request's answer brings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expected {
    /// Only how it went.
    Nothing,
    /// All of this range's bytes.
    Data { offset_bytes: u64, len_bytes: u32 },
    /// Extents.
    Status,
}

/// A request that is not answered yet, or whose answer was not fetched yet.
#[derive(Debug)]
struct Pending {
    expected: Expected,
    /// Data, or the payload that tells of extents.
    bytes: Vec<u8>,
    /// How many bytes of data came.
    come: u64,
    failed: Option<BlockError>,
    done: bool,
}

/// The requests in flight, by cookie.
#[derive(Debug, Default)]
pub(super) struct Table {
    pending: BTreeMap<u64, Pending>,
    next: u64,
    /// Somebody receives.
    pub receiving: bool,
    /// Why nothing more comes.
    lost: Option<String>,
}

impl Table {
    fn loss(&self) -> Option<BlockError> {
        let context = self.lost.as_ref()?;
        Some(BlockError::new(BlockErrorKind::Io, context.clone()))
    }

    pub fn is_lost(&self) -> bool {
        self.lost.is_some()
    }

    /// A new request: its cookie.
    ///
    /// # Errors
    /// The connection is lost.
    pub fn add(&mut self, expected: Expected) -> Result<u64, BlockError> {
        if let Some(loss) = self.loss() {
            return Err(loss);
        }
        let cookie = self.next;
        self.next = self.next.wrapping_add(1);
        let bytes = match expected {
            // At most a megabyte: the client cuts what is longer.
            Expected::Data { len_bytes, .. } => vec![0; len_bytes as usize],
            Expected::Nothing | Expected::Status => Vec::new(),
        };
        self.pending.insert(cookie, Pending { expected, bytes, come: 0, failed: None, done: false });
        Ok(cookie)
    }

    /// The answer, once it is complete, or the loss of the connection.
    pub fn take(&mut self, cookie: u64) -> Option<Result<Vec<u8>, BlockError>> {
        let done = self.pending.get(&cookie).is_some_and(|pending| pending.done);
        if !done {
            let loss = self.loss()?;
            self.pending.remove(&cookie);
            return Some(Err(loss));
        }
        let pending = self.pending.remove(&cookie)?;
        Some(match pending.failed {
            Some(error) => Err(error),
            None => Ok(pending.bytes),
        })
    }

    pub fn lose(&mut self, error: &io::Error) {
        self.lost.get_or_insert_with(|| {
            format!("the connection to the NBD server is lost, and connecting again is not built: {error}")
        });
    }
}

fn broken(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

/// Receives one simple reply or one chunk.
///
/// # Errors
/// The host's, or `InvalidData` where the server breaks the protocol: the connection is then of no use.
pub(super) fn receive(stream: &Stream, incoming: &mut Incoming, table: &Mutex<Table>, found: &Found) -> io::Result<()> {
    let mut input = Input { stream, incoming };
    let header: [u8; SIMPLE_BYTES] = input.array()?;
    let mut fields = Fields(&header);
    let magic = fields.u32();
    let cookie = match magic {
        Some(SIMPLE_REPLY) => u64::from_be_bytes(*header.last_chunk().ok_or_else(|| broken("a short reply"))?),
        Some(STRUCTURED_REPLY) if found.structured => {
            let chunk = header.get(8..).and_then(|rest| rest.first_chunk());
            u64::from_be_bytes(*chunk.ok_or_else(|| broken("a short reply"))?)
        }
        _ => return Err(broken("a reply does not begin as one")),
    };
    // Its owner waits meanwhile, for it is not done.
    let pending = table.lock().pending.remove(&cookie).filter(|pending| !pending.done);
    let mut pending = pending.ok_or_else(|| broken("an answer to what was not asked"))?;
    let result = if magic == Some(SIMPLE_REPLY) {
        let error = fields.u32().unwrap_or(errno::IO);
        simple(&mut input, &mut pending, error, found)
    } else {
        let (flags, kind) = (fields.u16().unwrap_or(0), fields.u16().unwrap_or(0));
        structured(&mut input, &mut pending, flags, kind, found)
    };
    table.lock().pending.insert(cookie, pending);
    result
}

/// Where answers come from.
struct Input<'a> {
    stream: &'a Stream,
    incoming: &'a mut Incoming,
}

impl Input<'_> {
    fn array<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        if !self.incoming.wait_for(self.stream, N)? {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.incoming.array().ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }

    fn fill(&mut self, into: &mut [u8]) -> io::Result<()> {
        self.incoming.take_into(self.stream, into)
    }

    fn payload(&mut self, len: usize) -> io::Result<Vec<u8>> {
        if len > MAX_PAYLOAD_BYTES {
            return Err(broken("an answer is far too long"));
        }
        let mut bytes = vec![0; len];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }
}

fn simple(input: &mut Input<'_>, pending: &mut Pending, error: u32, found: &Found) -> io::Result<()> {
    match pending.expected {
        Expected::Data { .. } | Expected::Status if found.structured => {
            return Err(broken("a simple reply where only a structured one may be"));
        }
        _ if error != 0 => pending.failed = Some(failure(error, "")),
        Expected::Data { .. } => input.fill(&mut pending.bytes)?,
        Expected::Nothing | Expected::Status => {}
    }
    pending.done = true;
    Ok(())
}

fn structured(input: &mut Input<'_>, pending: &mut Pending, flags: u16, kind: u16, found: &Found) -> io::Result<()> {
    // The header is longer than a simple reply's by the payload's length.
    const { assert!(CHUNK_BYTES == SIMPLE_BYTES + 4) };
    let len = u32::from_be_bytes(input.array()?) as usize;
    let done = flags & chunk::DONE != 0;
    match (kind, pending.expected) {
        (chunk::NONE, _) if len == 0 && done => {}
        (chunk::OFFSET_DATA, Expected::Data { .. }) if len > DATA_OFFSET_BYTES => {
            let at = u64::from_be_bytes(input.array()?);
            let part = pending.part(at, (len - DATA_OFFSET_BYTES) as u64)?;
            input.fill(part)?;
        }
        (chunk::OFFSET_HOLE, Expected::Data { .. }) if len == 12 => {
            let at = u64::from_be_bytes(input.array()?);
            let hole = u32::from_be_bytes(input.array()?);
            pending.part(at, hole.into())?.fill(0);
        }
        (chunk::BLOCK_STATUS, Expected::Status) if len >= 12 => {
            let payload = input.payload(len)?;
            let mut fields = Fields(&payload);
            if fields.u32() == found.allocation {
                pending.bytes = fields.0.to_vec();
            }
        }
        (kind, _) if kind & chunk::IS_ERROR != 0 && len >= 6 => {
            let payload = input.payload(len)?;
            let mut fields = Fields(&payload);
            let error = fields.u32().unwrap_or(errno::IO);
            let text_len = usize::from(fields.u16().unwrap_or(0)).min(MAX_TEXT_BYTES);
            let text = fields.bytes(text_len).unwrap_or_default();
            pending.failed = Some(failure(error, &String::from_utf8_lossy(text)));
        }
        _ => return Err(broken("a chunk that does not belong to its request")),
    }
    if done {
        pending.finish();
    }
    Ok(())
}

impl Pending {
    /// The memory of `len_bytes` of the disk at `offset_bytes`.
    fn part(&mut self, offset_bytes: u64, len_bytes: u64) -> io::Result<&mut [u8]> {
        let outside = || broken("data that was not asked for");
        let Expected::Data { offset_bytes: start, .. } = self.expected else { return Err(outside()) };
        let from = offset_bytes.checked_sub(start).ok_or_else(outside)?;
        let to = from.checked_add(len_bytes).ok_or_else(outside)?;
        let (Ok(from), Ok(to)) = (usize::try_from(from), usize::try_from(to)) else { return Err(outside()) };
        let part = self.bytes.get_mut(from..to).ok_or_else(outside)?;
        self.come = self.come.saturating_add(len_bytes);
        Ok(part)
    }

    fn finish(&mut self) {
        self.done = true;
        // Bytes that came twice can hide others that did not: those read as zeroes, and the server could have said so.
        if let Expected::Data { len_bytes, .. } = self.expected
            && self.failed.is_none()
            && self.come != u64::from(len_bytes)
        {
            let context = "the NBD server did not send all that was read";
            self.failed = Some(BlockError::new(BlockErrorKind::Corrupt, context));
        }
    }
}

fn failure(error: u32, text: &str) -> BlockError {
    let (kind, name) = match error {
        errno::PERM => (BlockErrorKind::ReadOnly, "not permitted".to_owned()),
        errno::NOSPC => (BlockErrorKind::NoSpace, "no space".to_owned()),
        errno::NOTSUP => (BlockErrorKind::Unsupported, "not supported".to_owned()),
        errno::IO => (BlockErrorKind::Io, "input/output error".to_owned()),
        other => (BlockErrorKind::Io, format!("error {other}")),
    };
    // Shown to people, so without what could drive their terminal.
    let text: String = text.chars().filter(|letter| !letter.is_control()).collect();
    let colon = if text.is_empty() { "" } else { ": " };
    BlockError::new(kind, format!("the NBD server failed the request: {name}{colon}{text}"))
}

/// Length in bytes and flags of the first extent in an answer.
pub(super) fn first_extent(answer: &[u8]) -> Option<(u32, u32)> {
    let mut fields = Fields(answer);
    let (len, flags) = (fields.u32()?, fields.u32()?);
    (len > 0).then_some((len, flags))
}
