//! [`Bundle`]: the folder `Name.benchtop/` a VM lives in.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, FlockOperation, Mode, OFlags, RenameFlags, ResolveFlags};
use rustix::io::Errno;

use crate::config::VmConfig;
use crate::config_file::{self, ConfigError};
use crate::failure::{Failure, FailureKind};
use crate::holder::{self, Holder};

/// The suffix of a bundle's folder.
pub const SUFFIX: &str = "benchtop";
/// The configuration's file name.
pub const CONFIG: &str = "machine.toml";
/// Its name while it is written.
const DRAFT: &str = "machine.toml.new";
/// The lock's.
pub const LOCK: &str = "lock";
/// The folders every bundle has.
pub const FOLDERS: [&str; 5] = ["disks", "snapshots", "state", "nvram", "logs"];

/// An open bundle. All access goes through the open folder, never through a link, and never out of it: a bundle may
/// come from anywhere.
#[derive(Debug)]
pub struct Bundle {
    dir: OwnedFd,
    path: PathBuf,
}

/// The right to run or change a VM, for as long as it lives. Held by the monitor while the VM runs; the host releases
/// it with the process.
#[derive(Debug)]
pub struct BundleLock {
    file: OwnedFd,
}

impl BundleLock {
    /// Says for all to read that the holder is a monitor, and where its socket is.
    ///
    /// # Errors
    /// The host's; the lock holds all the same.
    pub fn announce(&self, runtime: &Path) -> std::io::Result<()> {
        holder::announce(&self.file, runtime)
    }
}

impl Bundle {
    /// Opens the bundle at `path`.
    ///
    /// # Errors
    /// [`FailureKind::NotFound`] where there is none.
    pub fn open(path: &Path) -> Result<Self, Failure> {
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        let path = std::path::absolute(path).map_err(|error| Failure::from_io("can not find the VM", &error))?;
        let dir = rustix::fs::open(&path, flags, Mode::empty()).map_err(|error| match error {
            Errno::NOENT | Errno::NOTDIR => Failure::new(
                FailureKind::NotFound,
                format!("there is no VM at {}", path.display()),
                "The folder does not exist.",
                "`benchtop list` shows the VMs of your library.",
            ),
            other => Failure::from_io(format!("can not open the VM at {}", path.display()), &other.into()),
        })?;
        let bundle = Self { dir, path };
        if rustix::fs::statat(&bundle.dir, CONFIG, AtFlags::SYMLINK_NOFOLLOW).is_err() {
            return Err(Failure::new(
                FailureKind::NotFound,
                format!("there is no VM at {}", bundle.path.display()),
                "The folder has no machine.toml.",
                "`benchtop list` shows the VMs of your library.",
            ));
        }
        Ok(bundle)
    }

    /// Makes a bundle with what `fill` puts into it; on failure nothing is left behind.
    ///
    /// # Errors
    /// A bundle of that name exists, or the host refused; those of `fill`.
    pub fn create(
        path: &Path,
        mut config: VmConfig,
        fill: impl FnOnce(&Self) -> Result<(), Failure>,
    ) -> Result<Self, Failure> {
        let what = format!("can not make the VM `{}`", config.name);
        let path = std::path::absolute(path).map_err(|error| Failure::from_io(what.as_str(), &error))?;
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(Failure::new(FailureKind::Usage, what, "Its path has no name.", "Give it a name."));
        };
        let io = |error: Errno| Failure::from_io(what.as_str(), &error.into());
        std::fs::create_dir_all(parent).map_err(|error| Failure::from_io(what.as_str(), &error))?;
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        let parent_dir = rustix::fs::open(parent, flags, Mode::empty()).map_err(io)?;
        // Built under a name nobody looks for, and renamed when whole.
        let draft = format!(".{}.{}", config.uuid.simple(), SUFFIX);
        rustix::fs::mkdirat(&parent_dir, draft.as_str(), Mode::RWXU).map_err(io)?;
        let draft_path = parent.join(&draft);
        let built = || -> Result<Self, Failure> {
            let dir =
                rustix::fs::openat(&parent_dir, draft.as_str(), flags | OFlags::NOFOLLOW, Mode::empty()).map_err(io)?;
            let mut bundle = Self { dir, path: draft_path.clone() };
            for folder in FOLDERS {
                rustix::fs::mkdirat(&bundle.dir, folder, Mode::RWXU).map_err(io)?;
            }
            fill(&bundle)?;
            config.folder_inode = bundle.inode();
            bundle.save(&config)?;
            rustix::fs::renameat_with(&parent_dir, draft.as_str(), &parent_dir, name, RenameFlags::NOREPLACE).map_err(
                |error| match error {
                    Errno::EXIST | Errno::NOTEMPTY => exists(&what, &path),
                    other => io(other),
                },
            )?;
            rustix::fs::fsync(&parent_dir).map_err(io)?;
            bundle.path.clone_from(&path);
            Ok(bundle)
        };
        let result = if path.symlink_metadata().is_ok() { Err(exists(&what, &path)) } else { built() };
        if result.is_err() {
            // The draft is ours alone; what can not be removed is named with a dot and in nobody's way.
            let _left = std::fs::remove_dir_all(&draft_path);
        }
        result
    }

    /// Where it is, for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its folder's name without the suffix: what it is called in a library.
    pub fn folder_name(&self) -> String {
        self.path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// The inode of its folder: a copy has another, a moved one mostly the same.
    pub fn inode(&self) -> Option<u64> {
        rustix::fs::fstat(&self.dir).ok().map(|stat| stat.st_ino)
    }

    /// Which folder it is, by whatever path it was opened.
    pub fn identity(&self) -> Option<(u64, u64)> {
        rustix::fs::fstat(&self.dir).ok().map(|stat| (stat.st_dev, stat.st_ino))
    }

    /// Reads the configuration.
    ///
    /// # Errors
    /// What is wrong with it; see [`ConfigError`].
    pub fn config(&self) -> Result<VmConfig, Failure> {
        let path = self.path.join(CONFIG);
        let what = format!("can not read {}", path.display());
        let file = self.open_file(Path::new(CONFIG), false).map_err(|error| Failure::from_io(what.as_str(), &error))?;
        let mut bytes = Vec::new();
        let limit = config_file::FILE_BYTES_MAX + 1;
        file.take(limit).read_to_end(&mut bytes).map_err(|error| Failure::from_io(what.as_str(), &error))?;
        let parsed = String::from_utf8(bytes)
            .map_err(|_not_text| ConfigError::Syntax("it is not UTF-8 text".to_owned()))
            .and_then(|text| config_file::parse(&text));
        parsed.map_err(|error| {
            let why = crate::failure::chain(&error);
            let (kind, fix) = match &error {
                ConfigError::Newer(_) => (
                    FailureKind::Failed,
                    "Use the version of Benchtop that wrote it, or a later one; nothing was changed.",
                ),
                ConfigError::Invalid(_) => (FailureKind::Failed, "Correct that line, or restore the file."),
                _ => (
                    FailureKind::Failed,
                    "Restore the file from a backup or correct it by hand; the disks are beside it, untouched.",
                ),
            };
            Failure::new(kind, what, why, fix)
        })
    }

    /// Writes the configuration: wholly or not at all, also when the host fails meanwhile. The caller holds the lock.
    ///
    /// # Errors
    /// An impossible configuration, or the host refused; the old file is then still there.
    pub fn save(&self, config: &VmConfig) -> Result<(), Failure> {
        let what = format!("can not save {}", self.path.join(CONFIG).display());
        let text = config_file::print(config).map_err(|error| {
            Failure::new(
                FailureKind::Usage,
                format!("can not change the VM `{}`", config.name),
                crate::failure::chain(&error),
                "Choose another value; nothing was changed.",
            )
        })?;
        replace(&self.dir, CONFIG, text.as_bytes()).map_err(|error| match error.kind() {
            ErrorKind::AlreadyExists => Failure::new(
                FailureKind::Failed,
                what,
                format!("Its draft {DRAFT} is in the way: it is no regular file."),
                "Remove that; Benchtop made no such thing.",
            ),
            _ => Failure::from_io(what, &error),
        })
    }

    /// The same folder once more.
    ///
    /// # Errors
    /// The host's.
    pub fn try_clone(&self) -> std::io::Result<Self> {
        Ok(Self { dir: self.dir.try_clone()?, path: self.path.clone() })
    }

    /// Takes the lock, without waiting.
    ///
    /// # Errors
    /// [`FailureKind::WrongState`] when a monitor or another command holds it.
    pub fn lock(&self) -> Result<BundleLock, Failure> {
        let what = format!("can not use the VM `{}`", self.folder_name());
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = rustix::fs::openat(&self.dir, LOCK, flags, Mode::RUSR | Mode::WUSR)
            .map_err(|error| Failure::from_io(what.as_str(), &error.into()))?;
        // A copied bundle may have brought other permissions.
        rustix::fs::fchmod(&file, Mode::RUSR | Mode::WUSR)
            .map_err(|error| Failure::from_io(what.as_str(), &error.into()))?;
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|error| match error {
            Errno::WOULDBLOCK => self.in_use(what),
            other => Failure::from_io(what, &other.into()),
        })?;
        holder::sign(&file);
        Ok(BundleLock { file })
    }

    /// Who holds the lock, as far as the host says. Not for whoever may hold it itself.
    pub fn holder(&self) -> Option<Holder> {
        holder::holder(self)
    }

    /// Ends the monitor that holds the lock, and waits until it has gone; whether there was one.
    ///
    /// # Errors
    /// It is another user's, or does not end.
    pub fn end_monitor(&self) -> Result<bool, Failure> {
        holder::end(self)
    }

    /// The error of whoever finds the lock taken.
    fn in_use(&self, what: String) -> Failure {
        let (why, fix) = match self.holder() {
            Some(holder) if holder.is_monitor() => (
                format!("It is running, in process {}.", holder.pid()),
                "Stop it first (`benchtop stop`; with --force also one that does not answer).",
            ),
            Some(holder) => (
                format!("Another command (process {}) is changing it.", holder.pid()),
                "Wait for the other command, or end it.",
            ),
            None => (
                "It is running, or another command is changing it.".to_owned(),
                "Stop it first (`benchtop stop`), or wait for the other command.",
            ),
        };
        Failure::new(FailureKind::WrongState, what, why, fix)
    }

    /// Opens a regular file in it, never following a link: for reading, or for both.
    ///
    /// # Errors
    /// The host's; a path that leaves the bundle or is no regular file is `PermissionDenied`.
    pub fn open_file(&self, relative: &Path, writable: bool) -> std::io::Result<File> {
        let access = if writable { OFlags::RDWR } else { OFlags::RDONLY };
        // Not blocking, so that a pipe left in a bundle does not hang the caller; it means nothing for a file.
        let flags = access | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = self.open_beneath(relative, flags)?;
        let stat = rustix::fs::fstat(&file)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(std::io::Error::new(ErrorKind::PermissionDenied, "it is no regular file"));
        }
        Ok(File::from(file))
    }

    /// Makes a new file in it.
    ///
    /// # Errors
    /// The host's.
    pub fn create_file(&self, relative: &Path) -> std::io::Result<File> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        Ok(File::from(self.open_beneath(relative, flags)?))
    }

    /// Opens a log in it to append to; one over `limit_bytes` first becomes `NAME.1`.
    ///
    /// # Errors
    /// The host's; what is no regular file is `PermissionDenied`.
    pub fn open_log(&self, name: &str, limit_bytes: u64) -> std::io::Result<File> {
        let logs = self.folder("logs")?;
        let large = rustix::fs::statat(&logs, name, AtFlags::SYMLINK_NOFOLLOW)
            .is_ok_and(|stat| u64::try_from(stat.st_size).is_ok_and(|size| size > limit_bytes));
        if large {
            rustix::fs::renameat(&logs, name, &logs, format!("{name}.1"))?;
        }
        let foreign = || {
            let why = format!("logs/{name} is no regular file");
            std::io::Error::new(ErrorKind::PermissionDenied, why)
        };
        // Not blocking, as in `open_file`: a pipe that nobody reads is then ENXIO, and a link ELOOP.
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::APPEND | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR;
        let file = match rustix::fs::openat(&logs, name, flags | OFlags::NONBLOCK, mode) {
            Err(Errno::NXIO | Errno::LOOP | Errno::ISDIR) => return Err(foreign()),
            result => result?,
        };
        if FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode) != FileType::RegularFile {
            return Err(foreign());
        }
        Ok(File::from(file))
    }

    /// Opens a folder in it, and makes it where a copy has lost it.
    pub(crate) fn folder(&self, name: &str) -> std::io::Result<OwnedFd> {
        match rustix::fs::mkdirat(&self.dir, name, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        self.open_beneath(Path::new(name), OFlags::DIRECTORY | OFlags::CLOEXEC)
    }

    pub(crate) fn open_beneath(&self, relative: &Path, flags: OFlags) -> std::io::Result<OwnedFd> {
        let mode = if flags.contains(OFlags::CREATE) { Mode::RUSR | Mode::WUSR } else { Mode::empty() };
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        match rustix::fs::openat2(&self.dir, relative, flags, mode, resolve) {
            // EXDEV: the path leads out of the bundle. ELOOP: it has a link in it.
            Err(Errno::XDEV | Errno::LOOP) => {
                Err(std::io::Error::new(ErrorKind::PermissionDenied, "it leads out of the bundle"))
            }
            Err(error) => Err(error.into()),
            Ok(file) => Ok(file),
        }
    }
}

impl AsFd for Bundle {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }
}

/// Puts a file of these bytes in the place of `name`: wholly or not at all, also when the host fails meanwhile. A draft
/// that a crash left is removed; a pipe, a link or a folder in its place is nothing of ours, and `AlreadyExists`.
pub(crate) fn replace(folder: &OwnedFd, name: &str, bytes: &[u8]) -> std::io::Result<()> {
    let draft = format!("{name}.new");
    let stale = rustix::fs::statat(folder, &draft, AtFlags::SYMLINK_NOFOLLOW)
        .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile);
    if stale {
        rustix::fs::unlinkat(folder, &draft, AtFlags::empty())?;
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(folder, &draft, flags, Mode::RUSR | Mode::WUSR)?;
    let write = || -> std::io::Result<()> {
        let mut file = File::from(file);
        file.write_all(bytes)?;
        file.sync_all()?;
        rustix::fs::renameat(folder, &draft, folder, name)?;
        rustix::fs::fsync(folder)?;
        Ok(())
    };
    write().inspect_err(|_error| {
        let _gone = rustix::fs::unlinkat(folder, &draft, AtFlags::empty());
    })
}

/// Whether a path looks like a bundle's.
pub fn has_suffix(path: &Path) -> bool {
    path.extension() == Some(OsStr::new(SUFFIX))
}

fn exists(what: &str, path: &Path) -> Failure {
    Failure::new(
        FailureKind::Failed,
        what,
        format!("{} exists already.", path.display()),
        "Choose another name, or remove the old VM with `benchtop rm`.",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn make(dir: &Path, name: &str) -> Bundle {
        Bundle::create(&dir.join(format!("{name}.benchtop")), VmConfig::new(name), |_bundle| Ok(())).unwrap()
    }

    #[test]
    fn a_new_bundle_has_its_folders_and_configuration() {
        let dir = tempfile::tempdir().unwrap();
        let bundle = make(dir.path(), "one");
        for folder in FOLDERS {
            assert!(bundle.path().join(folder).is_dir(), "{folder}");
        }
        let config = Bundle::open(bundle.path()).unwrap().config().unwrap();
        assert_eq!(config.name, "one");
        assert_eq!(config.folder_inode, bundle.inode());
    }

    #[test]
    fn a_failed_creation_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let full = || Failure::new(FailureKind::NoSpace, "x", "y", "z");
        let path = dir.path().join("one.benchtop");
        assert_eq!(Bundle::create(&path, VmConfig::new("one"), |_bundle| Err(full())).unwrap_err(), full());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn an_existing_bundle_is_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let first = make(dir.path(), "one");
        let id = first.config().unwrap().uuid;
        assert!(Bundle::create(first.path(), VmConfig::new("one"), |_bundle| Ok(())).is_err());
        assert_eq!(first.config().unwrap().uuid, id);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn one_lock_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let bundle = make(dir.path(), "one");
        let lock = bundle.lock().unwrap();
        let again = Bundle::open(bundle.path()).unwrap();
        assert_eq!(again.lock().unwrap_err().kind, FailureKind::WrongState);
        drop(lock);
        again.lock().unwrap();
    }

    #[test]
    fn links_do_not_lead_out() {
        let dir = tempfile::tempdir().unwrap();
        let bundle = make(dir.path(), "one");
        std::fs::write(dir.path().join("secret"), "x").unwrap();
        std::os::unix::fs::symlink("../../secret", bundle.path().join("disks/disk0.raw")).unwrap();
        for path in ["disks/disk0.raw", "../secret", "disks"] {
            let error = bundle.open_file(Path::new(path), false).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{path}");
        }
    }

    #[test]
    fn a_failed_save_keeps_the_old_file() {
        let dir = tempfile::tempdir().unwrap();
        let bundle = make(dir.path(), "one");
        let before = std::fs::read(bundle.path().join(CONFIG)).unwrap();
        let mut config = bundle.config().unwrap();
        config.cpus = 0;
        assert_eq!(bundle.save(&config).unwrap_err().kind, FailureKind::Usage);
        assert_eq!(std::fs::read(bundle.path().join(CONFIG)).unwrap(), before);
    }

    /// `set` and `start` waited for ever on pipes in the place of files they write.
    #[test]
    fn a_pipe_in_the_place_of_a_file_is_an_error_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let bundle = make(dir.path(), "one");
        let config = bundle.config().unwrap();
        let pipe = |name: &str| {
            let mode = Mode::RUSR | Mode::WUSR;
            rustix::fs::mknodat(&bundle, name, FileType::Fifo, mode, 0).unwrap();
        };
        pipe(DRAFT);
        let failure = bundle.save(&config).unwrap_err();
        assert!(failure.why.contains("no regular file"), "{failure}");
        assert!(bundle.path().join(DRAFT).exists());
        std::fs::remove_file(bundle.path().join(DRAFT)).unwrap();
        // A link is not followed, and a draft that a crash left is no obstacle.
        std::os::unix::fs::symlink("../secret", bundle.path().join(DRAFT)).unwrap();
        bundle.save(&config).unwrap_err();
        std::fs::remove_file(bundle.path().join(DRAFT)).unwrap();
        std::fs::write(bundle.path().join(DRAFT), "stale").unwrap();
        bundle.save(&config).unwrap();
        assert!(!bundle.path().join(DRAFT).exists());
        pipe("logs/monitor.log");
        let error = bundle.open_log("monitor.log", 10).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    }

    #[test]
    fn logs_are_rotated() {
        let dir = tempfile::tempdir().unwrap();
        let bundle = make(dir.path(), "one");
        bundle.open_log("monitor.log", 10).unwrap().write_all(b"a long first log").unwrap();
        bundle.open_log("monitor.log", 10).unwrap().write_all(b"second").unwrap();
        assert_eq!(std::fs::read(bundle.path().join("logs/monitor.log")).unwrap(), b"second");
        assert_eq!(std::fs::read(bundle.path().join("logs/monitor.log.1")).unwrap(), b"a long first log");
    }
}
