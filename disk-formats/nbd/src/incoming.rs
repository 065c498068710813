//! A socket's bytes on their way in, fetched in as few calls as can be.

use std::io;

use crate::stream::Stream;

/// A buffer between a socket and what reads it.
#[derive(Debug)]
pub(crate) struct Incoming {
    buffer: Vec<u8>,
    start: usize,
    end: usize,
}

impl Incoming {
    /// A buffer of `len` bytes.
    pub fn new(len: usize) -> Self {
        Self { buffer: vec![0; len], start: 0, end: 0 }
    }

    /// Bytes that have been received and not been taken.
    pub fn buffered(&self) -> usize {
        self.end - self.start
    }

    /// Whether `len` bytes can be buffered at once.
    pub fn can_hold(&self, len: usize) -> bool {
        len <= self.buffer.len()
    }

    /// Makes the room behind what is buffered at least `len` with it.
    fn make_room(&mut self, len: usize) {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.buffer.len() - self.start < len {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
    }

    /// Waits until `len` bytes are buffered, which [`can_hold`](Self::can_hold): false where the stream ends first.
    ///
    /// # Errors
    /// The host's.
    pub fn wait_for(&mut self, stream: &Stream, len: usize) -> io::Result<bool> {
        while self.buffered() < len {
            self.make_room(len);
            match stream.receive(&mut self.buffer[self.end..])? {
                0 => return Ok(false),
                count => self.end += count,
            }
        }
        Ok(true)
    }

    /// Takes in what has arrived, without waiting: whether there was something. An end or an error is for the next
    /// call that waits.
    pub fn look(&mut self, stream: &Stream) -> bool {
        self.make_room(self.buffered() + 1);
        if self.end == self.buffer.len() {
            return true;
        }
        match stream.receive_now(&mut self.buffer[self.end..]) {
            Ok(Some(count)) if count > 0 => {
                self.end += count;
                true
            }
            _ => false,
        }
    }

    /// Takes the next `N` bytes, if they are buffered.
    pub fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let bytes = *self.buffer[self.start..self.end].first_chunk()?;
        self.start += N;
        Some(bytes)
    }

    /// Takes `len` bytes, which [`wait_for`](Self::wait_for) has seen to.
    pub fn take(&mut self, len: usize) -> &mut [u8] {
        let from = self.start;
        let to = (from + len).min(self.end);
        self.start = to;
        &mut self.buffer[from..to]
    }

    /// Fills `into` with what comes next, without going through the buffer where it can.
    ///
    /// # Errors
    /// The host's, or `UnexpectedEof`.
    pub fn take_into(&mut self, stream: &Stream, into: &mut [u8]) -> io::Result<()> {
        let here = self.buffered().min(into.len());
        let (buffered, rest) = into.split_at_mut(here);
        buffered.copy_from_slice(self.take(here));
        stream.receive_exact(rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    #[test]
    fn bytes_come_in_order_through_and_past_the_buffer() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (ours, theirs) = (Stream::unix(ours).unwrap(), Stream::unix(theirs).unwrap());
        let sent: Vec<u8> = (0..100).collect();
        theirs.send_all(&sent).unwrap();
        drop(theirs);
        let mut incoming = Incoming::new(16);
        assert!(incoming.wait_for(&ours, 4).unwrap() && incoming.can_hold(16) && !incoming.can_hold(17));
        assert_eq!((incoming.buffered(), incoming.array::<4>()), (16, Some([0, 1, 2, 3])));
        // What is left moves to the front.
        assert!(incoming.wait_for(&ours, 14).unwrap());
        assert_eq!(incoming.take(3), [4, 5, 6]);
        let mut rest = [0; 80];
        incoming.take_into(&ours, &mut rest).unwrap();
        assert_eq!(rest[..], sent[7..87]);
        assert!(incoming.look(&ours));
        assert_eq!((incoming.buffered(), incoming.array::<16>()), (13, None));
        assert!(!incoming.wait_for(&ours, 14).unwrap() && !incoming.look(&ours));
    }
}
