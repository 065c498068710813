//! Replies on their way out: headers and data side by side in one buffer, so that any number of them is one call.

use std::io;

use benchtop_block::{BlockError, BlockErrorKind};

use crate::protocol::{CHUNK_BYTES, DATA_OFFSET_BYTES, SIMPLE_BYTES, SIMPLE_REPLY, STRUCTURED_REPLY, chunk, errno};
use crate::stream::Stream;

/// Data of one chunk of a read at most, in bytes. Longer reads are answered piece by piece, which bounds the buffer.
pub(super) const MAX_CHUNK_BYTES: usize = 1 << 20;
/// Bytes of an error's text at most; the protocol would allow 4096.
const MAX_TEXT_BYTES: usize = 256;

/// Why a request failed, for the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    /// One of [`errno`].
    pub error: u32,
    /// For people.
    pub text: String,
}

impl Refusal {
    pub fn new(error: u32, text: impl Into<String>) -> Self {
        Self { error, text: text.into() }
    }
}

impl From<BlockError> for Refusal {
    fn from(error: BlockError) -> Self {
        let number = match error.kind() {
            BlockErrorKind::OutOfRange => errno::INVAL,
            BlockErrorKind::ReadOnly => errno::PERM,
            BlockErrorKind::NoSpace => errno::NOSPC,
            BlockErrorKind::Unsupported => errno::NOTSUP,
            BlockErrorKind::Poisoned | BlockErrorKind::Corrupt | BlockErrorKind::InUse | BlockErrorKind::Io => {
                errno::IO
            }
        };
        Self::new(number, error.to_string())
    }
}

/// The replies of one thread that are not sent yet.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    /// Only grows, so that it is cleared once and not for each reply.
    bytes: Vec<u8>,
    used: usize,
}

impl Outbox {
    pub fn len(&self) -> usize {
        self.used
    }

    pub fn is_empty(&self) -> bool {
        self.used == 0
    }

    /// Room for `len` bytes behind what is there; [`keep`](Self::keep) takes it up.
    fn room(&mut self, len: usize) -> &mut [u8] {
        let end = self.used + len;
        if self.bytes.len() < end {
            self.bytes.resize(end.next_multiple_of(4096), 0);
        }
        &mut self.bytes[self.used..end]
    }

    fn keep(&mut self, len: usize) {
        self.used = (self.used + len).min(self.bytes.len());
    }

    fn put(&mut self, bytes: &[u8]) {
        self.room(bytes.len()).copy_from_slice(bytes);
        self.keep(bytes.len());
    }

    /// A reply without data; `error` 0 is success.
    pub fn simple(&mut self, cookie: u64, error: u32) {
        self.put(&simple_header(cookie, error));
    }

    /// A failure: with its text where the client takes structured replies. Ends the reply to the request.
    pub fn failure(&mut self, structured: bool, cookie: u64, refusal: &Refusal) {
        if !structured {
            return self.simple(cookie, refusal.error);
        }
        let mut len = refusal.text.len().min(MAX_TEXT_BYTES);
        while !refusal.text.is_char_boundary(len) {
            len -= 1;
        }
        self.put(&chunk_header(chunk::DONE, chunk::ERROR, cookie, 6 + len));
        self.put(&refusal.error.to_be_bytes());
        self.put(&(len as u16).to_be_bytes());
        self.put(&refusal.text.as_bytes()[..len]);
    }

    /// A structured reply of one chunk.
    pub fn chunk(&mut self, kind: u16, cookie: u64, payload: &[u8]) {
        self.put(&chunk_header(chunk::DONE, kind, cookie, payload.len()));
        self.put(payload);
    }

    /// A chunk of `len` bytes of a disk, which `fill` reads, and the last of its reply where `done`. Where `fill`
    /// fails there is no chunk.
    ///
    /// # Errors
    /// Those of `fill`.
    pub fn data(
        &mut self,
        done: bool,
        cookie: u64,
        offset_bytes: u64,
        len: usize,
        fill: impl FnOnce(&mut [u8]) -> Result<(), BlockError>,
    ) -> Result<(), BlockError> {
        let flags = if done { chunk::DONE } else { 0 };
        let header = chunk_header(flags, chunk::OFFSET_DATA, cookie, DATA_OFFSET_BYTES + len);
        let room = self.room(CHUNK_BYTES + DATA_OFFSET_BYTES + len);
        let (head, data) = room.split_at_mut(CHUNK_BYTES + DATA_OFFSET_BYTES);
        fill(data)?;
        head[..CHUNK_BYTES].copy_from_slice(&header);
        head[CHUNK_BYTES..].copy_from_slice(&offset_bytes.to_be_bytes());
        self.keep(CHUNK_BYTES + DATA_OFFSET_BYTES + len);
        Ok(())
    }

    /// As [`data`](Self::data) for a client without structured replies: a header if `first`, then the bytes.
    ///
    /// # Errors
    /// Those of `fill`.
    pub fn simple_data(
        &mut self,
        first: bool,
        cookie: u64,
        len: usize,
        fill: impl FnOnce(&mut [u8]) -> Result<(), BlockError>,
    ) -> Result<(), BlockError> {
        let head_len = if first { SIMPLE_BYTES } else { 0 };
        let (head, data) = self.room(head_len + len).split_at_mut(head_len);
        fill(data)?;
        if first {
            head.copy_from_slice(&simple_header(cookie, 0));
        }
        self.keep(head_len + len);
        Ok(())
    }

    /// Sends all there is.
    ///
    /// # Errors
    /// The host's; the connection is then of no use.
    pub fn send(&mut self, stream: &Stream) -> io::Result<()> {
        let result = stream.send_all(&self.bytes[..self.used]);
        self.used = 0;
        result
    }
}

fn simple_header(cookie: u64, error: u32) -> [u8; SIMPLE_BYTES] {
    let mut header = [0; SIMPLE_BYTES];
    header[..4].copy_from_slice(&SIMPLE_REPLY.to_be_bytes());
    header[4..8].copy_from_slice(&error.to_be_bytes());
    header[8..].copy_from_slice(&cookie.to_be_bytes());
    header
}

fn chunk_header(flags: u16, kind: u16, cookie: u64, payload: usize) -> [u8; CHUNK_BYTES] {
    let mut header = [0; CHUNK_BYTES];
    header[..4].copy_from_slice(&STRUCTURED_REPLY.to_be_bytes());
    header[4..6].copy_from_slice(&flags.to_be_bytes());
    header[6..8].copy_from_slice(&kind.to_be_bytes());
    header[8..16].copy_from_slice(&cookie.to_be_bytes());
    // A chunk is at most a little longer than MAX_CHUNK_BYTES.
    header[16..].copy_from_slice(&(payload as u32).to_be_bytes());
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_read_leaves_no_chunk_and_a_long_text_is_cut_at_a_letter() {
        let mut outbox = Outbox::default();
        outbox.simple(7, 0);
        let fails = |_: &mut [u8]| Err(BlockError::new(BlockErrorKind::NoSpace, "x"));
        let error = outbox.data(true, 7, 0, 100, fails).unwrap_err();
        assert_eq!((outbox.len(), Refusal::from(error).error), (SIMPLE_BYTES, errno::NOSPC));
        outbox.failure(true, 7, &Refusal::new(errno::IO, "ä".repeat(300)));
        assert_eq!(outbox.len(), SIMPLE_BYTES + CHUNK_BYTES + 6 + MAX_TEXT_BYTES);
        outbox.failure(true, 7, &Refusal::new(errno::IO, format!("a{}", "ä".repeat(300))));
        assert_eq!(outbox.len(), SIMPLE_BYTES + 2 * (CHUNK_BYTES + 6 + MAX_TEXT_BYTES) - 1);
    }
}
