//! Where a server waits for clients.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use benchtop_block::{BlockError, BlockErrorKind};
use rustix::event::{PollFd, PollFlags, poll};

use crate::stream::Stream;

/// A listening socket: a unix socket that only its user can connect to, or a loopback TCP port.
#[derive(Debug)]
pub struct Listener {
    socket: Socket,
}

#[derive(Debug)]
enum Socket {
    Unix { listener: UnixListener, _name: Option<Name> },
    Tcp(TcpListener),
}

/// A name in the file system that this listener made; it goes when the listener does, unless another has taken it.
#[derive(Debug)]
struct Name {
    path: PathBuf,
    identity: (u64, u64),
}

impl Drop for Name {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|now| now == self.identity) {
            // Nothing is left to tell of a failure.
            fs::remove_file(&self.path).unwrap_or_default();
        }
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|metadata| (metadata.dev(), metadata.ino()))
}

impl Listener {
    /// A unix socket at `path`, with mode 0600 from the moment it has that name. A socket there that nobody listens on
    /// any longer is replaced; anything else is not.
    ///
    /// # Errors
    /// `InUse` where somebody listens there or the name is another file's, or the host's.
    pub fn unix(path: &Path) -> Result<Self, BlockError> {
        let failed = |error| BlockError::from_io(format!("can not listen at {}", path.display()), error);
        match fs::symlink_metadata(path) {
            Ok(found) if !found.file_type().is_socket() => {
                let context = format!("something that is not a socket has this name: {}", path.display());
                return Err(BlockError::new(BlockErrorKind::InUse, context));
            }
            Ok(_) if UnixStream::connect(path).is_ok() => {
                let context = format!("another server listens at {}", path.display());
                return Err(BlockError::new(BlockErrorKind::InUse, context));
            }
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
        }
        // A bound name has the mode of the umask until it is changed, so it gets its true name only after that.
        let mut temporary = OsString::from(path);
        temporary.push("~");
        let temporary = PathBuf::from(temporary);
        if fs::symlink_metadata(&temporary).is_ok_and(|found| found.file_type().is_socket()) {
            fs::remove_file(&temporary).map_err(failed)?;
        }
        let listener = UnixListener::bind(&temporary).map_err(failed)?;
        let named = fs::set_permissions(&temporary, fs::Permissions::from_mode(0o600))
            .and_then(|()| identity(&temporary))
            .and_then(|identity| fs::rename(&temporary, path).map(|()| identity));
        let identity = named.map_err(|error| {
            fs::remove_file(&temporary).unwrap_or_default();
            failed(error)
        })?;
        let name = Some(Name { path: path.to_owned(), identity });
        listener.set_nonblocking(true).map_err(failed)?;
        Ok(Self { socket: Socket::Unix { listener, _name: name } })
    }

    /// A unix socket that listens already, as a process that may not make one is given it. Its name stays.
    ///
    /// # Errors
    /// The host's.
    pub fn from_unix(listener: UnixListener) -> Result<Self, BlockError> {
        let failed = |error| BlockError::from_io("can not listen on the socket", error);
        listener.set_nonblocking(true).map_err(failed)?;
        Ok(Self { socket: Socket::Unix { listener, _name: None } })
    }

    /// A TCP port; 0 lets the host choose. Every local user can connect to it.
    ///
    /// # Errors
    /// `Unsupported` for an address that other machines can reach: NBD without TLS asks nobody who they are. Else the
    /// host's.
    pub fn tcp(address: SocketAddr) -> Result<Self, BlockError> {
        if !address.ip().is_loopback() {
            let context = format!("only loopback addresses are served, for TLS is not built: {address}");
            return Err(BlockError::new(BlockErrorKind::Unsupported, context));
        }
        let failed = |error| BlockError::from_io(format!("can not listen at {address}"), error);
        let listener = TcpListener::bind(address).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        Ok(Self { socket: Socket::Tcp(listener) })
    }

    /// The TCP address it has; `None` for a unix socket.
    pub fn tcp_address(&self) -> Option<SocketAddr> {
        match &self.socket {
            Socket::Tcp(listener) => listener.local_addr().ok(),
            Socket::Unix { .. } => None,
        }
    }

    /// Waits for a client, or until the other end of `stop` is closed or written to: then `None`.
    ///
    /// # Errors
    /// The host's, such as too many open files; a later call may succeed.
    pub(crate) fn accept(&self, stop: &UnixStream) -> io::Result<Option<Stream>> {
        loop {
            let listening = match &self.socket {
                Socket::Unix { listener, .. } => PollFd::new(listener, PollFlags::IN),
                Socket::Tcp(listener) => PollFd::new(listener, PollFlags::IN),
            };
            let mut fds = [PollFd::new(stop, PollFlags::IN), listening];
            match poll(&mut fds, None) {
                Ok(_) if !fds[0].revents().is_empty() => return Ok(None),
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            let accepted = match &self.socket {
                Socket::Unix { listener, .. } => listener.accept().and_then(|(socket, _)| Stream::unix(socket)),
                Socket::Tcp(listener) => listener.accept().and_then(|(socket, _)| Stream::tcp(socket)),
            };
            match accepted {
                Ok(stream) => return Ok(Some(stream)),
                // The client went away again, or this was not about one.
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::WouldBlock | io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted
                    ) => {}
                Err(error) => return Err(error),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_taken_only_from_the_dead() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("nbd.sock");
        let first = Listener::unix(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(Listener::unix(&path).unwrap_err().kind(), BlockErrorKind::InUse);
        drop(first);
        assert!(!path.exists());
        // A server that was killed leaves its socket behind.
        drop(UnixListener::bind(&path).unwrap());
        let second = Listener::unix(&path).unwrap();
        // Whoever replaced the name since keeps it.
        fs::remove_file(&path).unwrap();
        fs::write(&path, b"mine").unwrap();
        drop(second);
        assert_eq!(fs::read(&path).unwrap(), b"mine");
        assert_eq!(Listener::unix(&path).unwrap_err().kind(), BlockErrorKind::InUse);
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 1);
    }

    #[test]
    fn other_machines_are_not_served() {
        let error = Listener::tcp("0.0.0.0:0".parse().unwrap()).unwrap_err();
        assert_eq!(error.kind(), BlockErrorKind::Unsupported);
        assert!(Listener::tcp("127.0.0.1:0".parse().unwrap()).unwrap().tcp_address().is_some());
    }
}
