//! The hidden folders that images are made in, and what a crash left of them.

use std::ffi::OsStr;
use std::fs::{File, Permissions};
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use rustix::fs::{AtFlags, Dir, FileType, FlockOperation, Mode, OFlags, flock, fstat, openat, statat, unlinkat};
use rustix::io::Errno;
use tempfile::TempDir;

use crate::output::Output;

/// How their names begin, and how many letters and digits follow.
const PREFIX: &str = ".benchtop-";
const RANDOM_CHARS: usize = 6;
/// A file in each that is locked as long as somebody works there.
const LOCK: &str = ".benchtop-lock";
/// Folders made before the place is given up.
const TRIES: usize = 10;

/// A folder to make an image in. It goes with everything in it.
#[derive(Debug)]
pub struct Workplace {
    // Before the lock, so that nobody finds it abandoned while it goes.
    folder: TempDir,
    _lock: File,
}

impl Workplace {
    /// Makes one in `parent`.
    ///
    /// # Errors
    /// The host's.
    pub fn begin(parent: &Path) -> std::io::Result<Self> {
        for _ in 0..TRIES {
            let mut new = tempfile::Builder::new();
            new.prefix(PREFIX).rand_bytes(RANDOM_CHARS).permissions(Permissions::from_mode(0o700));
            let folder = new.tempdir_in(parent)?;
            let path = folder.path().join(LOCK);
            let mut lock = File::options().read(true).write(true).create_new(true).mode(0o600).open(path)?;
            match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
                // Only what was locked is marked, and only what is marked is ever taken for abandoned.
                Ok(()) => lock.write_all(mark().as_bytes())?,
                // Somebody looks whether it is abandoned.
                Err(Errno::WOULDBLOCK) => continue,
                // A file system without locks: what a crash leaves there stays.
                Err(_) => {}
            }
            return Ok(Self { folder, _lock: lock });
        }
        Err(std::io::ErrorKind::AlreadyExists.into())
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }
}

/// What says in the lock that it is ours, and of this host: not every file system tells one host of another's locks.
fn mark() -> String {
    let host = rustix::system::uname();
    format!("An unfinished disk image of Benchtop on {}\n", host.nodename().to_string_lossy())
}

/// Removes from `parent` what was left where a program that made an image was killed, and says so. That is a service:
/// what can not be removed stays.
pub fn remove_abandoned(parent: &Path, output: &Output) {
    let (Ok(folder), Ok(entries)) = (File::open(parent), std::fs::read_dir(parent)) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        if is_ours(&name) && remove_if_abandoned(&folder, &name).unwrap_or(false) {
            let path = parent.join(&name);
            output.remark(&format!("removed {}: an unfinished image that nobody works on any more", path.display()));
        }
    }
}

fn is_ours(name: &OsStr) -> bool {
    let random = name.as_bytes().strip_prefix(PREFIX.as_bytes());
    random.is_some_and(|random| random.len() == RANDOM_CHARS && random.iter().all(u8::is_ascii_alphanumeric))
}

/// Removes a folder if it is certainly one of ours and nobody works there; says whether it did.
fn remove_if_abandoned(parent: &File, name: &OsStr) -> std::io::Result<bool> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let folder = openat(parent, name, OFlags::RDONLY | flags, Mode::empty())?;
    if fstat(&folder)?.st_uid != rustix::process::geteuid().as_raw() {
        return Ok(false);
    }
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let lock = File::from(openat(&folder, LOCK, flags, Mode::empty())?);
    if !lock.metadata()?.is_file() || flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
        return Ok(false);
    }
    let (mut marked, expected) = (String::new(), mark());
    (&lock).take(expected.len() as u64 + 1).read_to_string(&mut marked)?;
    if marked != expected || !holds_one_image(&folder)? {
        return Ok(false);
    }
    for entry in Dir::read_from(&folder)? {
        let entry = entry?;
        if is_image(&entry) {
            unlinkat(&folder, entry.file_name(), AtFlags::empty())?;
        }
    }
    unlinkat(&folder, LOCK, AtFlags::empty())?;
    unlinkat(parent, name, AtFlags::REMOVEDIR)?;
    Ok(true)
}

/// Whether there is nothing but the lock and at most one regular file.
fn holds_one_image(folder: &OwnedFd) -> std::io::Result<bool> {
    let mut images = 0;
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        if is_image(&entry) {
            images += 1;
            let stat = statat(folder.as_fd(), entry.file_name(), AtFlags::SYMLINK_NOFOLLOW)?;
            if images > 1 || FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

fn is_image(entry: &rustix::fs::DirEntry) -> bool {
    !matches!(entry.file_name().to_bytes(), b"." | b"..") && entry.file_name().to_bytes() != LOCK.as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is left where the program is killed: nothing is dropped, and the lock goes with the process.
    fn kill(workplace: Workplace) -> std::path::PathBuf {
        workplace.folder.keep()
    }

    #[test]
    fn only_what_is_abandoned_and_ours_goes() {
        let dir = tempfile::tempdir().unwrap();
        let begin = || Workplace::begin(dir.path()).unwrap();
        let busy = begin();
        let abandoned = kill(begin());
        let finished = kill(begin());
        std::fs::write(abandoned.join("disk.strata"), "half").unwrap();
        // What somebody added, did not mark, or named otherwise is not ours to remove.
        let more = kill(begin());
        std::fs::write(more.join("one"), "").unwrap();
        std::fs::write(more.join("two"), "").unwrap();
        let linked = kill(begin());
        std::os::unix::fs::symlink(&more, linked.join("link")).unwrap();
        let unmarked = kill(begin());
        std::fs::write(unmarked.join(LOCK), "").unwrap();
        let other_host = kill(begin());
        std::fs::write(other_host.join(LOCK), "An unfinished disk image of Benchtop on another host\n").unwrap();
        let old = dir.path().join(".benchtop-abcdef");
        std::fs::create_dir(&old).unwrap();
        let renamed = dir.path().join("mine");
        std::fs::rename(kill(begin()), &renamed).unwrap();
        std::os::unix::fs::symlink(&renamed, dir.path().join(".benchtop-linked")).unwrap();
        remove_abandoned(dir.path(), &Output::default());
        assert!(!abandoned.exists() && !finished.exists());
        for stays in [busy.path(), &more, &linked, &unmarked, &other_host, &old, &renamed] {
            assert!(stays.exists(), "{}", stays.display());
        }
        assert!(renamed.join(LOCK).exists());
        let path = busy.path().to_path_buf();
        drop(busy);
        assert!(!path.exists());
    }
}
