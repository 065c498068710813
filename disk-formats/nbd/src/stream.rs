//! A connected stream socket, unix or TCP.

use std::io;
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{RecvFlags, SendFlags, Shutdown, recv, send, shutdown};

use crate::tls::{Ready, Session};

/// One end of a connection. Sending and receiving take `&self`; who does which when is the caller's to order.
#[derive(Debug)]
pub(crate) struct Stream {
    socket: OwnedFd,
    tls: Option<Box<Session>>,
    /// Of the limit, for what takes several calls.
    deadline: Mutex<Option<Instant>>,
}

impl Stream {
    /// Of a unix socket.
    ///
    /// # Errors
    /// The host's.
    pub fn unix(socket: UnixStream) -> io::Result<Self> {
        socket.set_nonblocking(false)?;
        Ok(Self::new(socket.into()))
    }

    fn new(socket: OwnedFd) -> Self {
        Self { socket, tls: None, deadline: Mutex::new(None) }
    }

    /// From here on everything is encrypted.
    pub fn encrypt(&mut self, session: Session) {
        self.tls = Some(Box::new(session));
    }

    /// Of a TCP socket; small replies leave at once.
    ///
    /// # Errors
    /// The host's.
    pub fn tcp(socket: TcpStream) -> io::Result<Self> {
        socket.set_nonblocking(false)?;
        socket.set_nodelay(true)?;
        Ok(Self::new(socket.into()))
    }

    /// Sends all of `bytes`, in one call unless the socket's buffer is full.
    ///
    /// # Errors
    /// The host's; `TimedOut` after a [`limit`](Self::limit).
    pub fn send_all(&self, bytes: &[u8]) -> io::Result<()> {
        match &self.tls {
            None => self.send_plain(bytes),
            Some(tls) => tls.send(bytes, |bytes| self.send_plain(bytes)),
        }
    }

    fn send_plain(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match send(&self.socket, bytes, SendFlags::NOSIGNAL) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(sent) => bytes = bytes.get(sent..).unwrap_or_default(),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Err(io::ErrorKind::TimedOut.into()),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Waits for bytes and takes what fits: how many, 0 at the end of the stream or where `into` is empty.
    ///
    /// # Errors
    /// As [`send_all`](Self::send_all), and `InvalidData` for what is no TLS where that is spoken.
    pub fn receive(&self, into: &mut [u8]) -> io::Result<usize> {
        let Some(tls) = &self.tls else { return self.receive_plain(into, RecvFlags::empty()) };
        loop {
            match tls.receive(into, |into| self.receive_plain(into, RecvFlags::empty()))? {
                Ready::Bytes(count) => return Ok(count),
                // A record that drips in shall not outlast the limit, which is that of one call.
                Ready::Nothing if self.deadline.lock().is_some_and(|deadline| deadline <= Instant::now()) => {
                    return Err(io::ErrorKind::TimedOut.into());
                }
                Ready::Nothing => {}
            }
        }
    }

    fn receive_plain(&self, into: &mut [u8], flags: RecvFlags) -> io::Result<usize> {
        loop {
            match recv(&self.socket, &mut *into, flags) {
                Ok((_, count)) => return Ok(count),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Err(io::ErrorKind::TimedOut.into()),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// As [`receive`](Self::receive), but `None` where it would wait. Not for TLS, which only clients speak here.
    ///
    /// # Errors
    /// The host's.
    pub fn receive_now(&self, into: &mut [u8]) -> io::Result<Option<usize>> {
        match self.receive_plain(into, RecvFlags::DONTWAIT) {
            Err(error) if error.kind() == io::ErrorKind::TimedOut => Ok(None),
            result => result.map(Some),
        }
    }

    /// Fills `into`.
    ///
    /// # Errors
    /// As [`receive`](Self::receive), or `UnexpectedEof`.
    pub fn receive_exact(&self, into: &mut [u8]) -> io::Result<()> {
        let mut rest = into;
        while !rest.is_empty() {
            match self.receive(rest)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => rest = rest.get_mut(count..).unwrap_or_default(),
            }
        }
        Ok(())
    }

    /// How long one later call may wait; `None` is for ever.
    ///
    /// # Errors
    /// The host's.
    pub fn limit(&self, time: Option<Duration>) -> io::Result<()> {
        *self.deadline.lock() = time.and_then(|time| Instant::now().checked_add(time));
        set_socket_timeout(&self.socket, Timeout::Recv, time)?;
        set_socket_timeout(&self.socket, Timeout::Send, time)?;
        Ok(())
    }

    /// Receiving ends after what has arrived already; sending goes on.
    pub fn end_receiving(&self) {
        // A peer that is gone already is as good.
        shutdown(&self.socket, Shutdown::Read).unwrap_or_default();
    }

    /// Ends both directions and wakes whoever waits.
    pub fn end(&self) {
        shutdown(&self.socket, Shutdown::Both).unwrap_or_default();
    }
}

/// A stream during a handshake: everything together must be done by a deadline, however slowly the peer drips.
#[derive(Debug)]
pub(crate) struct Hurried<'a> {
    stream: &'a Stream,
    deadline: Instant,
}

impl<'a> Hurried<'a> {
    /// `stream`, for `time` from now on.
    pub fn new(stream: &'a Stream, time: Duration) -> Self {
        let now = Instant::now();
        Self::until(stream, now.checked_add(time).unwrap_or(now))
    }

    /// `stream`, until then.
    pub fn until(stream: &'a Stream, deadline: Instant) -> Self {
        Self { stream, deadline }
    }

    fn remaining(&self) -> io::Result<Duration> {
        // A limit of 0 would be none.
        match self.deadline.saturating_duration_since(Instant::now()) {
            left if left < Duration::from_millis(1) => Err(io::ErrorKind::TimedOut.into()),
            left => Ok(left),
        }
    }

    /// As [`Stream::send_all`].
    ///
    /// # Errors
    /// Its, or `TimedOut`.
    pub fn send(&self, bytes: &[u8]) -> io::Result<()> {
        self.stream.limit(Some(self.remaining()?))?;
        self.stream.send_all(bytes)
    }

    /// As [`Stream::receive_exact`].
    ///
    /// # Errors
    /// Its, or `TimedOut`.
    pub fn receive(&self, into: &mut [u8]) -> io::Result<()> {
        let mut rest = into;
        while !rest.is_empty() {
            self.stream.limit(Some(self.remaining()?))?;
            match self.stream.receive(rest)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => rest = rest.get_mut(count..).unwrap_or_default(),
            }
        }
        Ok(())
    }

    /// What comes next, at least a byte: how many.
    ///
    /// # Errors
    /// As [`receive`](Self::receive).
    pub fn receive_some(&self, into: &mut [u8]) -> io::Result<usize> {
        self.stream.limit(Some(self.remaining()?))?;
        match self.stream.receive(into)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            count => Ok(count),
        }
    }

    /// When it must be done.
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// The next `N` bytes.
    ///
    /// # Errors
    /// As [`receive`](Self::receive).
    pub fn array<const N: usize>(&self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.receive(&mut bytes)?;
        Ok(bytes)
    }

    /// The handshake is over: calls may wait for ever again.
    ///
    /// # Errors
    /// The host's.
    pub fn finish(self) -> io::Result<()> {
        self.stream.limit(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dripping_bytes_do_not_extend_a_deadline() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let dripping = std::thread::Builder::new()
            .spawn(move || {
                let theirs = Stream::unix(theirs).unwrap();
                while theirs.send_all(&[1]).is_ok() {
                    std::thread::sleep(Duration::from_millis(5));
                }
            })
            .unwrap();
        let stream = Stream::unix(ours).unwrap();
        let started = Instant::now();
        let error = Hurried::new(&stream, Duration::from_millis(60)).receive(&mut [0; 1000]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(started.elapsed() < Duration::from_secs(2));
        drop(stream);
        dripping.join().unwrap();
    }

    #[test]
    fn what_arrived_is_received_after_the_end() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (ours, theirs) = (Stream::unix(ours).unwrap(), Stream::unix(theirs).unwrap());
        assert_eq!(ours.receive_now(&mut [0; 4]).unwrap(), None);
        theirs.send_all(&[1, 2, 3]).unwrap();
        ours.end_receiving();
        let mut got = [0; 3];
        ours.receive_exact(&mut got).unwrap();
        assert_eq!((got, ours.receive(&mut [0; 4]).unwrap()), ([1, 2, 3], 0));
        ours.send_all(&[9]).unwrap();
        assert_eq!(theirs.receive_now(&mut [0; 4]).unwrap(), Some(1));
    }
}
