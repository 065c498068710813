//! [`Holder`]: the process that holds a bundle's lock, and how to reach or to end it.
//!
//! The lock that counts is the one of `flock`, which names nobody. Whoever holds it takes an `fcntl` lock on the same
//! file too: of that the host tells the holder's process, so the number is never one left behind by a process that
//! has gone. A monitor also writes its process and its runtime folder into the file; that is believed only while the
//! host names the same process.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::FlockOperation;
use rustix::io::Errno;
use rustix::process::{Flock, FlockType, Pid, PidfdFlags, Signal, fcntl_getlk, pidfd_open, pidfd_send_signal};

use crate::bundle::{Bundle, LOCK};
use crate::client::Client;
use crate::failure::{Failure, FailureKind};
use crate::runtime::RuntimeFolder;

/// The most that is read of a lock file: a number and a path.
const NOTE_BYTES_MAX: u64 = 8 << 10;
/// How long a monitor may take to end in good order before it is killed.
const END_TIMEOUT: Duration = Duration::from_secs(10);

/// Who holds a bundle's lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    pid: Pid,
    runtime: Option<PathBuf>,
}

impl Holder {
    /// Its process.
    pub fn pid(&self) -> u32 {
        self.pid.as_raw_pid().unsigned_abs()
    }

    /// Whether it is a monitor, and not a command at its work.
    pub fn is_monitor(&self) -> bool {
        self.runtime.is_some()
    }

    /// The runtime folder of the VM, where it is a monitor.
    pub fn runtime(&self) -> Option<&Path> {
        self.runtime.as_deref()
    }

    /// Connects to it where it said its socket is; `None` where no monitor of that process listens.
    ///
    /// # Errors
    /// The process behind the socket is not this user's.
    pub fn connect(&self) -> Result<Option<Client>, Failure> {
        let Some((parent, name)) = self.runtime().and_then(|path| Some((path.parent()?, path.file_name()?.to_str()?)))
        else {
            return Ok(None);
        };
        // The path is a file's word: only a folder of the user's own is taken, and only this very process.
        let Some(folder) = RuntimeFolder::existing_at(parent, name) else { return Ok(None) };
        Ok(Client::connect_in(folder)?.filter(|client| client.peer() == Some(self.pid)))
    }
}

/// Says in the lock's file that its holder is a monitor with that runtime folder.
pub(crate) fn announce(file: &OwnedFd, runtime: &Path) -> std::io::Result<()> {
    let mut note = format!("{}\n", std::process::id()).into_bytes();
    note.extend(runtime.as_os_str().as_bytes());
    // A bundle may come from anywhere: a file that has another name as well may be somebody's treasure.
    if rustix::fs::fstat(file)?.st_nlink != 1 {
        return Err(std::io::Error::new(std::io::ErrorKind::PermissionDenied, "the lock file has another name too"));
    }
    rustix::fs::ftruncate(file, 0)?;
    let mut rest = note.as_slice();
    let mut at = 0;
    while !rest.is_empty() {
        let len = rustix::io::pwrite(file, rest, at)?;
        if len == 0 {
            return Err(std::io::ErrorKind::WriteZero.into());
        }
        rest = rest.get(len..).unwrap_or_default();
        at += len as u64;
    }
    Ok(())
}

/// Makes the host able to name this process as the lock's holder.
pub(crate) fn sign(file: &OwnedFd) {
    // A file system that knows only one of the two locks gives up the name, not the lock.
    let _nameless = rustix::fs::fcntl_lock(file, FlockOperation::NonBlockingLockExclusive);
}

/// Who holds the lock, as far as the host says. Not for a process that may hold it itself: closing the file would
/// take its name off.
pub(crate) fn holder(bundle: &Bundle) -> Option<Holder> {
    let file = bundle.open_file(Path::new(LOCK), false).ok()?;
    let pid = signed_by(&file)?;
    let mut note = Vec::new();
    let read = (&file).take(NOTE_BYTES_MAX).read_to_end(&mut note);
    let runtime = read.ok().and_then(|_len| parse(note, pid));
    Some(Holder { pid, runtime })
}

fn signed_by(file: &File) -> Option<Pid> {
    fcntl_getlk(file, &Flock::from(FlockType::WriteLock)).ok()??.pid
}

fn parse(mut note: Vec<u8>, holder: Pid) -> Option<PathBuf> {
    let line = note.iter().position(|byte| *byte == b'\n')?;
    let path = note.split_off(line + 1);
    note.truncate(line);
    let path = PathBuf::from(std::ffi::OsString::from_vec(path));
    (note == holder.as_raw_pid().to_string().as_bytes() && path.is_absolute()).then_some(path)
}

/// Ends the monitor that holds the lock: in good order if it can, else at once. Returns when it has gone; `false`
/// where no monitor holds the lock.
///
/// # Errors
/// It is another user's, or does not end.
pub(crate) fn end(bundle: &Bundle) -> Result<bool, Failure> {
    let Some(holder) = holder(bundle).filter(Holder::is_monitor) else { return Ok(false) };
    let what = format!("can not end the VM `{}`", bundle.folder_name());
    let failed = |error: Errno| {
        Failure::from_io(what.as_str(), &error.into())
            .with_fix(format!("End process {} yourself, as the user who started it.", holder.pid()))
    };
    let process = match pidfd_open(holder.pid, PidfdFlags::empty()) {
        Ok(process) => process,
        Err(Errno::SRCH) => return Ok(true),
        Err(error) => return Err(failed(error)),
    };
    // The handle is the holder's only if it still holds the lock: the number could have passed to another meanwhile.
    if self::holder(bundle).as_ref() != Some(&holder) {
        return Ok(true);
    }
    for signal in [Signal::TERM, Signal::KILL] {
        match pidfd_send_signal(&process, signal) {
            Ok(()) => {}
            Err(Errno::SRCH) => return Ok(true),
            Err(error) => return Err(failed(error)),
        }
        if ended(&process, END_TIMEOUT) {
            return Ok(true);
        }
    }
    Err(Failure::new(
        FailureKind::Timeout,
        what,
        format!("Its process {} was killed and does not end: it waits for the host.", holder.pid()),
        "Look whether a disk or a network drive of the host hangs.",
    ))
}

/// Waits for the end of a process.
fn ended(process: &OwnedFd, timeout: Duration) -> bool {
    let timeout = Timespec { tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX), tv_nsec: 0 };
    let mut fds = [PollFd::from_borrowed_fd(process.as_fd(), PollFlags::IN)];
    matches!(poll(&mut fds, Some(&timeout)), Ok(1..))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::VmConfig;

    fn bundle(dir: &tempfile::TempDir) -> Bundle {
        Bundle::create(&dir.path().join("one.benchtop"), VmConfig::new("one"), |_bundle| Ok(())).unwrap()
    }

    #[test]
    fn a_note_counts_only_with_the_hosts_word() {
        let pid = Pid::from_raw(77).unwrap();
        assert_eq!(parse(b"77\n/run/x/vm".to_vec(), pid), Some(PathBuf::from("/run/x/vm")));
        for wrong in [&b""[..], b"77", b"78\n/run/x", b"77\nrun/x", b"-77\n/run/x", b"\xff\n/run/x", b"0\n/run"] {
            assert_eq!(parse(wrong.to_vec(), pid), None, "{wrong:?}");
        }
    }

    #[test]
    fn what_a_killed_monitor_left_names_nobody() {
        // The note of process 1, and nobody holds the lock: nothing may be signalled.
        let dir = tempfile::tempdir().unwrap();
        let bundle = bundle(&dir);
        std::fs::write(bundle.path().join(LOCK), "1\n/run/benchtop/vm").unwrap();
        assert_eq!(bundle.holder(), None);
        assert_eq!(bundle.end_monitor(), Ok(false));
    }

    #[test]
    fn a_lock_with_another_name_is_not_written() {
        let dir = tempfile::tempdir().unwrap();
        let bundle = bundle(&dir);
        std::fs::write(dir.path().join("treasure"), "gold").unwrap();
        std::fs::hard_link(dir.path().join("treasure"), bundle.path().join(LOCK)).unwrap();
        bundle.lock().unwrap().announce(Path::new("/run/x")).unwrap_err();
        assert_eq!(std::fs::read(dir.path().join("treasure")).unwrap(), b"gold");
    }

    #[test]
    fn a_pipe_for_a_lock_is_nobodys() {
        let dir = tempfile::tempdir().unwrap();
        let bundle = bundle(&dir);
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        rustix::fs::mknodat(&bundle, LOCK, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        assert_eq!(bundle.holder(), None);
    }
}
