//! Frames on the socket: a length (u32, little-endian, at most [`FRAME_BYTES_MAX`]) and so many bytes of JSON, with
//! descriptors beside them.

use std::collections::VecDeque;
use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The largest frame, its length left out.
pub const FRAME_BYTES_MAX: usize = 1 << 20;
/// The most descriptors one read takes; more are closed by the host.
pub const DESCRIPTORS_MAX: usize = 4;
/// How much one read takes.
const READ_BYTES: usize = 16 << 10;

/// Why a peer is not listened to any longer.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// The socket failed.
    #[error("the connection failed")]
    Io(#[from] std::io::Error),
    /// It closed the connection.
    #[error("the other side closed the connection")]
    Closed,
    /// A frame over the limit.
    #[error("a message of {0} bytes is too long")]
    TooLong(usize),
    /// Not what was agreed on.
    #[error("a message makes no sense")]
    Garbage(#[source] serde_json::Error),
    /// More descriptors than any message has.
    #[error("too many descriptors")]
    TooManyDescriptors,
    /// The process on the other side belongs to somebody else.
    #[error("the other side is another user's process")]
    Stranger,
}

impl From<Errno> for WireError {
    fn from(error: Errno) -> Self {
        Self::Io(error.into())
    }
}

/// Checks that the process on the other side belongs to the same user.
///
/// # Errors
/// [`WireError::Stranger`], or the host does not say.
pub fn check_peer(socket: impl AsFd) -> Result<(), WireError> {
    let peer = rustix::net::sockopt::socket_peercred(socket)?;
    if peer.uid == rustix::process::geteuid() { Ok(()) } else { Err(WireError::Stranger) }
}

/// Makes a frame.
///
/// # Errors
/// A message over the limit.
pub fn encode(message: &impl Serialize) -> Result<Vec<u8>, WireError> {
    let mut frame = vec![0; 4];
    serde_json::to_writer(&mut frame, message).map_err(WireError::Garbage)?;
    let len = frame.len() - 4;
    match u32::try_from(len) {
        Ok(length) if len <= FRAME_BYTES_MAX => {
            frame.splice(..4, length.to_le_bytes());
            Ok(frame)
        }
        _ => Err(WireError::TooLong(len)),
    }
}

/// Sends a frame from its start, with descriptors, and waits until all of it is gone.
///
/// # Errors
/// The host's; a time-out set on the socket is one.
pub fn send(socket: impl AsFd, frame: &[u8], descriptors: &[BorrowedFd<'_>]) -> Result<(), WireError> {
    let mut sent = 0;
    while let Some(rest) = frame.get(sent..).filter(|rest| !rest.is_empty()) {
        let fds = if sent == 0 { descriptors } else { &[] };
        sent += send_some(socket.as_fd(), rest, fds, SendFlags::empty())?;
    }
    Ok(())
}

/// Sends what the socket takes now; descriptors go with the first byte.
///
/// # Errors
/// The host's; `WouldBlock` where it takes nothing.
pub fn send_some(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    descriptors: &[BorrowedFd<'_>],
    flags: SendFlags,
) -> Result<usize, Errno> {
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(Errno::TOOMANYREFS);
    }
    loop {
        match rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut ancillary, flags | SendFlags::NOSIGNAL) {
            Err(Errno::INTR) => {}
            result => return result,
        }
    }
}

/// Puts frames together from what a socket brings. Memory is bounded by one frame and one read.
#[derive(Debug, Default)]
pub struct Receiver {
    bytes: VecDeque<u8>,
    descriptors: VecDeque<OwnedFd>,
}

impl Receiver {
    /// Reads once.
    ///
    /// # Errors
    /// [`WireError::Closed`] at the end; `WouldBlock` where there is nothing; more descriptors than are taken away.
    pub fn receive(&mut self, socket: impl AsFd, flags: RecvFlags) -> Result<(), WireError> {
        let mut buffer = [0; READ_BYTES];
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let received = loop {
            let mut into = [IoSliceMut::new(&mut buffer)];
            match rustix::net::recvmsg(&socket, &mut into, &mut ancillary, flags | RecvFlags::CMSG_CLOEXEC) {
                Err(Errno::INTR) => {}
                result => break result?,
            }
        };
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                self.descriptors.extend(descriptors);
            }
        }
        if self.descriptors.len() > DESCRIPTORS_MAX {
            return Err(WireError::TooManyDescriptors);
        }
        if received.bytes == 0 {
            return Err(WireError::Closed);
        }
        self.bytes.extend(buffer.get(..received.bytes).unwrap_or_default());
        Ok(())
    }

    /// Takes a whole message out, if there is one.
    ///
    /// # Errors
    /// [`WireError::TooLong`] as soon as the length is known, [`WireError::Garbage`].
    pub fn next_message<T: DeserializeOwned>(&mut self) -> Result<Option<T>, WireError> {
        let mut length = [0; 4];
        for (index, byte) in length.iter_mut().enumerate() {
            match self.bytes.get(index) {
                Some(value) => *byte = *value,
                None => return Ok(None),
            }
        }
        // A length that does not even fit an address is too long all the same.
        let length = usize::try_from(u32::from_le_bytes(length)).unwrap_or(usize::MAX);
        if length > FRAME_BYTES_MAX {
            return Err(WireError::TooLong(length));
        }
        if self.bytes.len() < length + 4 {
            return Ok(None);
        }
        self.bytes.drain(..4);
        let frame: Vec<u8> = self.bytes.drain(..length).collect();
        serde_json::from_slice(&frame).map(Some).map_err(WireError::Garbage)
    }

    /// Takes the oldest descriptor that came.
    pub fn take_descriptor(&mut self) -> Option<OwnedFd> {
        self.descriptors.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    use proptest::prelude::*;

    use super::*;
    use crate::command::{Command, Request, SCHEMA};

    fn request(command: Command) -> Request {
        Request { schema: SCHEMA.to_owned(), id: 7, command }
    }

    fn receive_all(bytes: &[u8]) -> Result<Vec<Request>, WireError> {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let mut receiver = Receiver::default();
        let mut messages = Vec::new();
        for chunk in bytes.chunks(4000) {
            ours.write_all(chunk).unwrap();
            receiver.receive(&theirs, RecvFlags::empty())?;
            while let Some(message) = receiver.next_message()? {
                messages.push(message);
            }
        }
        Ok(messages)
    }

    #[test]
    fn messages_and_descriptors_arrive() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let file = tempfile::tempfile().unwrap();
        let frame = encode(&request(Command::Console)).unwrap();
        send(&ours, &frame, &[file.as_fd()]).unwrap();
        let mut receiver = Receiver::default();
        receiver.receive(&theirs, RecvFlags::empty()).unwrap();
        assert_eq!(receiver.next_message::<Request>().unwrap(), Some(request(Command::Console)));
        let got = rustix::fs::fstat(receiver.take_descriptor().unwrap()).unwrap();
        assert_eq!(got.st_ino, rustix::fs::fstat(&file).unwrap().st_ino);
        drop(ours);
        assert!(matches!(receiver.receive(&theirs, RecvFlags::empty()), Err(WireError::Closed)));
    }

    #[test]
    fn a_flood_of_descriptors_is_refused() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let file = tempfile::tempfile().unwrap();
        let mut receiver = Receiver::default();
        for round in 0..=DESCRIPTORS_MAX {
            send(&ours, b"x", &[file.as_fd()]).unwrap();
            let result = receiver.receive(&theirs, RecvFlags::empty());
            assert_eq!(matches!(result, Err(WireError::TooManyDescriptors)), round == DESCRIPTORS_MAX);
        }
    }

    #[test]
    fn frames_over_the_limit_are_refused_before_they_arrive() {
        let length = u32::try_from(FRAME_BYTES_MAX + 1).unwrap().to_le_bytes();
        assert!(matches!(receive_all(&length), Err(WireError::TooLong(_))));
        let text = "x".repeat(FRAME_BYTES_MAX);
        assert!(matches!(encode(&request(Command::Type { text })), Err(WireError::TooLong(_))));
    }

    #[test]
    fn split_and_joined_frames_are_told_apart() {
        let mut bytes = encode(&request(Command::Type { text: "x".repeat(9000) })).unwrap();
        bytes.extend(encode(&request(Command::Pause)).unwrap());
        let messages = receive_all(&bytes).unwrap();
        assert_eq!(messages.len(), 2);
        assert_eq!(messages[1].command, Command::Pause);
    }

    #[test]
    fn our_own_process_is_no_stranger() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        check_peer(&ours).unwrap();
    }

    proptest! {
        #[test]
        fn garbage_is_answered(bytes in proptest::collection::vec(any::<u8>(), 1..4000)) {
            let _answer = receive_all(&bytes);
        }
    }
}
