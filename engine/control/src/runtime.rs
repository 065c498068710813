//! [`RuntimeFolder`]: where the sockets and screens of running VMs are.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::failure::{Failure, FailureKind};

/// The socket's name in a VM's own folder.
pub const SOCKET: &str = "control.sock";
/// What the folder of a throw-away VM begins with, before its name.
pub const BOOT_PREFIX: &str = "boot.";
/// The screen's.
pub const SCREEN: &str = "screen";

/// A folder only its user can enter, held open: what is found through it can not be swapped for another user's.
#[derive(Debug)]
pub struct RuntimeFolder {
    dir: OwnedFd,
    path: PathBuf,
}

impl RuntimeFolder {
    /// Opens the user's, making it where it is missing: `$XDG_RUNTIME_DIR/benchtop`, else `benchtop-UID` under the
    /// temporary directory.
    ///
    /// # Errors
    /// A folder of another user's, or one others may enter, is refused.
    pub fn open() -> Result<Self, Failure> {
        let xdg = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|path| path.is_absolute());
        match xdg {
            Some(parent) if parent.is_dir() => Self::open_at(&parent, "benchtop"),
            _ => {
                let uid = rustix::process::geteuid().as_raw();
                Self::open_at(&std::env::temp_dir(), &format!("benchtop-{uid}"))
            }
        }
    }

    /// Opens the folder `name` in `parent` as a runtime folder.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_at(parent: &Path, name: &str) -> Result<Self, Failure> {
        let path = parent.join(name);
        let dir = rustix::fs::open(parent, OFlags::DIRECTORY | OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
            .and_then(|parent| private_folder(parent.as_fd(), name))
            .map_err(|error| refused(&path, error))?;
        Ok(Self { dir, path })
    }

    /// The folder of one VM, made where it is missing. `key` is its UUID, or `boot.NAME`.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn vm(&self, key: &str) -> Result<Self, Failure> {
        let path = self.path.join(key);
        let dir = private_folder(self.dir.as_fd(), key).map_err(|error| refused(&path, error))?;
        Ok(Self { dir, path })
    }

    /// The folder of one VM, if there is one.
    pub fn existing_vm(&self, key: &str) -> Option<Self> {
        rustix::fs::statat(&self.dir, key, AtFlags::SYMLINK_NOFOLLOW).ok()?;
        self.vm(key).ok()
    }

    /// The folder `name` in `parent`, if there is one and it is this user's alone.
    pub fn existing_at(parent: &Path, name: &str) -> Option<Self> {
        let dir = rustix::fs::open(parent, OFlags::DIRECTORY | OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).ok()?;
        rustix::fs::statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
        Some(Self { dir: private_folder(dir.as_fd(), name).ok()?, path: parent.join(name) })
    }

    /// The names of throw-away VMs that have a folder here; whether one runs shows when it is connected to.
    pub fn boot_names(&self) -> Vec<String> {
        let Ok(entries) = rustix::fs::Dir::read_from(&self.dir) else { return Vec::new() };
        let mut names: Vec<String> = entries
            .filter_map(|entry| Some(entry.ok()?.file_name().to_str().ok()?.strip_prefix(BOOT_PREFIX)?.to_owned()))
            .collect();
        names.sort();
        names
    }

    /// Removes the folder of a VM if it is empty.
    pub fn forget_vm(&self, key: &str) {
        // Not empty means running; missing is what is wanted.
        let _left = rustix::fs::unlinkat(&self.dir, key, AtFlags::REMOVEDIR);
    }

    /// The path of a file in it that reaches this very folder, however long the folder's own path is: the address of
    /// a socket has 108 bytes.
    pub fn address(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}/{name}", self.dir.as_raw_fd()))
    }

    /// Its path, for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Removes a file; none is fine.
    pub fn remove(&self, name: &str) {
        let _gone = rustix::fs::unlinkat(&self.dir, name, AtFlags::empty());
    }
}

impl AsFd for RuntimeFolder {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }
}

/// Opens (or makes) a folder of the user's that nobody else may enter.
fn private_folder(parent: BorrowedFd<'_>, name: &str) -> Result<OwnedFd, Errno> {
    match rustix::fs::mkdirat(parent, name, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(error),
    }
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::RDONLY | OFlags::CLOEXEC;
    let dir = rustix::fs::openat(parent, name, flags, Mode::empty())?;
    let stat = rustix::fs::fstat(&dir)?;
    let ours = stat.st_uid == rustix::process::geteuid().as_raw();
    let is_dir = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
    if ours && is_dir && Mode::from_raw_mode(stat.st_mode) & (Mode::RWXG | Mode::RWXO) == Mode::empty() {
        Ok(dir)
    } else {
        Err(Errno::PERM)
    }
}

fn refused(path: &Path, error: Errno) -> Failure {
    Failure::new(
        FailureKind::NotCapable,
        format!("can not use the runtime folder {}", path.display()),
        match error {
            Errno::PERM | Errno::LOOP | Errno::NOTDIR => {
                "It is not a folder that belongs to you alone (mode 0700).".to_owned()
            }
            other => format!("{other}."),
        },
        "Remove it, or set XDG_RUNTIME_DIR to a folder of your own.",
    )
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_folder_others_may_enter_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let runtime = RuntimeFolder::open_at(dir.path(), "benchtop").unwrap();
        assert_eq!(std::fs::metadata(runtime.path()).unwrap().permissions().mode() & 0o777, 0o700);
        std::fs::set_permissions(runtime.path(), std::fs::Permissions::from_mode(0o750)).unwrap();
        assert!(RuntimeFolder::open_at(dir.path(), "benchtop").is_err());
    }

    #[test]
    fn a_link_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("real")).unwrap();
        std::os::unix::fs::symlink("real", dir.path().join("benchtop")).unwrap();
        assert!(RuntimeFolder::open_at(dir.path(), "benchtop").is_err());
    }
}
