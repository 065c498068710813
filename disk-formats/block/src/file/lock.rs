//! Whole-file locks, so that two VMs do not write one image.
#![cfg_attr(
    target_os = "linux",
    expect(unsafe_code, reason = "open-file-description locks have no safe wrapper in use")
)]

use std::fs::File;
use std::io;

/// Who else may hold the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lock {
    /// Other readers.
    Shared,
    /// Nobody. The file must be open for writing.
    Exclusive,
}

/// Tries to lock all of `file`, until its description is closed: `Ok(false)` where somebody else holds it. Where the
/// file system has no locks nothing is locked and the answer is `Ok(true)`.
///
/// On Linux this is an open-file-description lock (fcntl(2), `F_OFD_SETLK`): it conflicts with one taken through any
/// other open of the same file, in this process too, and it travels with a descriptor that is passed on.
///
/// # Errors
/// The host's, such as a descriptor that is not open for writing.
#[cfg(target_os = "linux")]
pub fn try_lock(file: &File, lock: Lock) -> io::Result<bool> {
    use std::os::fd::AsRawFd;

    let kind = match lock {
        Lock::Shared => libc::F_RDLCK,
        Lock::Exclusive => libc::F_WRLCK,
    };
    // From byte 0, without end; `l_pid` must be 0 for this kind of lock.
    let range = libc::flock { l_type: kind as i16, l_whence: libc::SEEK_SET as i16, l_start: 0, l_len: 0, l_pid: 0 };
    // SAFETY: the descriptor is open while `file` is borrowed, and `range` outlives the call, which only reads it.
    let result = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw const range) };
    if result == 0 {
        return Ok(true);
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::EAGAIN | libc::EACCES) => Ok(false),
        Some(libc::ENOLCK | libc::EOPNOTSUPP | libc::ENOSYS | libc::EINVAL) => {
            tracing::warn!(%error, "the file system has no locks; nothing keeps two VMs from one image");
            Ok(true)
        }
        _ => Err(error),
    }
}

/// As on Linux, with the standard library's whole-file lock.
///
/// # Errors
/// The host's.
#[cfg(not(target_os = "linux"))]
pub fn try_lock(file: &File, lock: Lock) -> io::Result<bool> {
    let result = match lock {
        Lock::Shared => file.try_lock_shared(),
        Lock::Exclusive => file.try_lock(),
    };
    match result {
        Ok(()) => Ok(true),
        Err(std::fs::TryLockError::WouldBlock) => Ok(false),
        Err(std::fs::TryLockError::Error(error)) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_writer_is_alone_and_readers_are_not() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let open = || File::options().read(true).write(true).open(file.path()).unwrap();
        let (a, b, c) = (open(), open(), open());
        assert!(try_lock(&a, Lock::Shared).unwrap());
        assert!(try_lock(&b, Lock::Shared).unwrap());
        assert!(!try_lock(&c, Lock::Exclusive).unwrap());
        drop((a, b));
        assert!(try_lock(&c, Lock::Exclusive).unwrap());
        assert!(!try_lock(&open(), Lock::Shared).unwrap());
        drop(c);
        assert!(try_lock(&open(), Lock::Exclusive).unwrap());
    }
}
