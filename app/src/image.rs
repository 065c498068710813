//! A disk on the command line, `FILE[,format=F]`, `VM:DISK` or an NBD URI, opened with the user's password and consent.

use std::cell::RefCell;
use std::fs::File;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use benchtop_block::{BlockError, BlockErrorKind};
use benchtop_control::config::{CacheMode, DiskConfig, DiskFormat};
use benchtop_control::{Bundle, BundleLock, Failure, FailureKind, VmName};
use benchtop_images::{Named, NamedFile, NamedRole, OpenOptions};
use benchtop_machine::monitor::identity::{self, Expected, settle};
use benchtop_machine::monitor::image::{self, Image, ImageUse, Password};
use benchtop_machine::monitor::open::{expected, open_plain};
use benchtop_nbd::{NbdDisk, Uri};
use benchtop_strata::{Identity, StrataDisk};
use clap::Args;
use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};

use crate::drives::DiskFile;
use crate::output::Output;
use crate::password::PasswordArgs;
use crate::remote::{self, TlsArgs};
use crate::target::Target;

/// What the user gives or allows for opening images.
#[derive(Clone, Debug, Default, Args)]
pub struct Access {
    /// The password.
    #[command(flatten)]
    pub password: PasswordArgs,
    /// Allow opening this file if an image names it
    #[arg(long = "allow-file", value_name = "FILE")]
    pub allowed: Vec<PathBuf>,
    /// For disks that a server has.
    #[command(flatten)]
    pub tls: TlsArgs,
}

/// A disk as it was named.
#[derive(Debug)]
pub struct Source {
    /// As it was written.
    pub name: String,
    /// Its image.
    pub path: PathBuf,
    /// Its format, where it is said.
    pub format: Option<DiskFormat>,
    /// The VM it is of.
    owner: Option<Owner>,
    /// The server that has it.
    remote: Option<Uri>,
    /// Another disk that is open holds the bundle's lock.
    is_locked: bool,
    /// An older copy than the VM remembers will do.
    accept_rollback: bool,
}

/// The VM a disk is of, and which one it is there.
#[derive(Clone, Debug)]
struct Owner {
    bundle: Arc<Bundle>,
    disk: DiskConfig,
}

/// An open disk. While it is, no VM can have it. One that was open for writing is remembered in its bundle at its end.
pub struct Opened<T: Strata> {
    /// The disk.
    pub disk: T,
    /// The password it was opened with.
    pub password: Option<Password>,
    /// Where it is remembered, if it is.
    owner: Option<Owner>,
    writable: bool,
    _lock: Option<BundleLock>,
}

/// What may be a Strata disk.
pub trait Strata {
    /// The disk, if it is one.
    fn strata(&self) -> Option<&StrataDisk>;
}

impl Strata for StrataDisk {
    fn strata(&self) -> Option<&StrataDisk> {
        Some(self)
    }
}

impl Strata for Image {
    fn strata(&self) -> Option<&StrataDisk> {
        self.strata.as_deref()
    }
}

impl<T: Strata> Opened<T> {
    fn new(source: &Source, disk: T, password: Option<Password>, writable: bool, lock: Option<BundleLock>) -> Self {
        let opened = Self { disk, password, owner: source.owner.clone(), writable, _lock: lock };
        opened.remember();
        opened
    }

    /// Remembers in the bundle what is durable of the disk, if it is open for writing.
    pub fn remember(&self) {
        if self.writable
            && let Some(disk) = self.disk.strata()
        {
            self.remember_as(&disk.identity());
        }
    }

    /// As [`remember`](Self::remember), in the words of somebody who knows better.
    pub fn remember_as(&self, identity: &Identity) {
        if let Some(owner) = &self.owner {
            owner.remember(identity);
        }
    }

    /// As [`remember`](Self::remember), where it is what was asked for.
    ///
    /// # Errors
    /// The host's.
    pub fn accept(&self, what: &str) -> Result<(), Failure> {
        match (&self.owner, self.disk.strata()) {
            (Some(owner), Some(disk)) => identity::record(&owner.bundle, &owner.disk.name, &disk.identity())
                .map_err(|error| Failure::from_io(what, &error)),
            _ => Ok(()),
        }
    }
}

impl<T: Strata> Drop for Opened<T> {
    fn drop(&mut self) {
        let (true, Some(owner), Some(disk)) = (self.writable, &self.owner, self.disk.strata()) else { return };
        // A disk that failed says so where it did, and its record stays as it is.
        if let Ok(identity) = settle(disk) {
            owner.remember(&identity);
        }
    }
}

impl Owner {
    /// What was done to the disk is done: a record that stays older than it is only notices less.
    fn remember(&self, identity: &Identity) {
        if let Err(error) = identity::record(&self.bundle, &self.disk.name, identity) {
            tracing::warn!(%error, "{} could not record how old {} is", self.bundle.folder_name(), self.disk.name);
        }
    }
}

impl Source {
    /// The disk in a file.
    pub fn of_file(path: PathBuf, format: Option<DiskFormat>) -> Self {
        let name = path.display().to_string();
        Self { name, path, format, owner: None, remote: None, is_locked: false, accept_rollback: false }
    }

    /// The disk that a server has.
    ///
    /// # Errors
    /// The URI is wrong, or the format.
    pub fn of_export(uri: String, format: Option<DiskFormat>) -> Result<Self, Failure> {
        let remote = Some(remote::parse(&uri)?);
        if let Some(format) = format.filter(|format| *format != DiskFormat::Raw) {
            let why = format!("What a server has is the disk itself; a {format} image in it is not looked into.");
            let fix = "Let the server open the image, or copy the export into a file first.";
            return Err(Failure::new(FailureKind::Usage, format!("can not use {uri}"), why, fix));
        }
        Ok(Self { remote, ..Self::of_file(uri.into(), Some(DiskFormat::Raw)) })
    }

    /// The server that has it, connected, if one has.
    ///
    /// # Errors
    /// As [`remote::connect`].
    pub fn connect(&self, access: &TlsArgs, read_only: bool) -> Result<Option<Arc<NbdDisk>>, Failure> {
        let Some(uri) = &self.remote else { return Ok(None) };
        remote::connect(&self.what("use"), uri, access, read_only).map(Some)
    }

    /// Finds what `text` names; nothing is opened yet.
    ///
    /// # Errors
    /// No such VM, or disk of it.
    pub fn find(text: &str) -> Result<Self, Failure> {
        let parsed = DiskFile::parse(text).map_err(|failure| match failure.kind {
            FailureKind::Usage => failure.with_fix("Name a disk: FILE, FILE,format=F, or VM:DISK."),
            _ => failure,
        });
        let DiskFile { path, options } = parsed?;
        let plain = path.to_str().unwrap_or(text).to_owned();
        if options.cache != CacheMode::default() {
            let why = "It says how to cache, and no VM is about to use it.";
            return Err(Failure::new(FailureKind::Usage, format!("can not use `{text}`"), why, "Name the disk alone."));
        }
        if Uri::is_one(&plain) {
            return Self::of_export(plain, options.format);
        }
        let name = VmName::parse(&plain);
        let Some(device) = &name.device else { return Ok(Self::of_file(path, options.format)) };
        let target = Target::find(&name.vm)?;
        let found = target.config.disks.iter().find(|disk| disk.name == *device).ok_or_else(|| {
            Failure::new(
                FailureKind::NotFound,
                format!("there is no disk `{plain}`"),
                "The VM has none of that name.",
                "`benchtop show` lists its disks.",
            )
        })?;
        let (path, format) = (target.bundle.path().join(&found.file), found.format);
        if options.format.is_some_and(|said| said != format) {
            let why = format!("The VM's configuration says that it is {format}.");
            return Err(Failure::new(
                FailureKind::Usage,
                format!("can not use `{text}`"),
                why,
                "Leave the format out.",
            ));
        }
        // A VM's disk is what its configuration says; its content is the guest's and is not asked.
        let owner = Some(Owner { disk: found.clone(), bundle: Arc::new(target.bundle) });
        Ok(Self { name: plain, owner, ..Self::of_file(path, Some(format)) })
    }

    /// Says that `other` will be open as long as this one: two disks of a VM share its lock.
    pub fn opened_beside(&mut self, other: &Self) {
        let bundle = |source: &Self| source.owner.as_ref().and_then(|owner| owner.bundle.identity());
        self.is_locked = bundle(self).is_some() && bundle(self) == bundle(other);
    }

    /// An older copy than its VM remembers will do, and becomes what it remembers.
    ///
    /// # Errors
    /// No VM remembers it.
    pub fn accept_rollback(&mut self) -> Result<(), Failure> {
        let why = match &self.owner {
            None => "Nothing remembers how old the disk in a file was: only a VM does, of its own disks.",
            Some(owner) if owner.disk.format != DiskFormat::Strata => {
                "Only of Strata disks it is known how old they are."
            }
            Some(_) => {
                self.accept_rollback = true;
                return Ok(());
            }
        };
        let fix = "Name a Strata disk of a VM, VM:DISK, or leave --accept-rollback out.";
        Err(Failure::new(FailureKind::Usage, self.what("accept an older copy of"), why, fix))
    }

    /// What its VM remembers of it. To be asked for under the lock.
    ///
    /// # Errors
    /// The record can not be used.
    pub fn expected(&self) -> Result<Option<Expected>, Failure> {
        let Some(owner) = &self.owner else { return Ok(None) };
        match expected(&owner.bundle, &owner.disk) {
            // A record of which nothing is known takes any disk.
            Err(failure) if self.accept_rollback && failure.kind == FailureKind::Integrity => Ok(None),
            result => Ok(result?.map(|expected| Expected {
                name: self.name.clone(),
                accept_rollback: self.accept_rollback,
                ..expected
            })),
        }
    }

    /// Forgets how old the disk was, but not which one it is: before what may make it older. What it is afterwards is
    /// to be remembered.
    ///
    /// # Errors
    /// The host's.
    pub fn forget_age(&self) -> Result<(), Failure> {
        let (Some(owner), Some(expected)) = (&self.owner, self.expected()?) else { return Ok(()) };
        let any_age = Identity { generation: 0, record: 0, ..expected.identity };
        identity::record(&owner.bundle, &owner.disk.name, &any_age)
            .map_err(|error| Failure::from_io(self.what("forget the age of"), &error))
    }

    /// Remembers a disk that was open in another way than by this.
    pub fn remember(&self, disk: &StrataDisk) {
        if let (Some(owner), Ok(identity)) = (&self.owner, settle(disk)) {
            owner.remember(&identity);
        }
    }

    /// How messages about it begin.
    pub fn what(&self, verb: &str) -> String {
        format!("can not {verb} the disk {}", self.name)
    }

    /// Opens its file.
    ///
    /// # Errors
    /// The host's, or it is no regular file.
    pub fn file(&self, writable: bool) -> Result<File, Failure> {
        let what = || self.what("open");
        if self.remote.is_some() {
            let why = "A server has it, and this is done to files only.";
            let fix = "Do it where the file is, or copy the disk first: benchtop disk convert.";
            return Err(Failure::new(FailureKind::Failed, what(), why, fix));
        }
        let file = match &self.owner {
            Some(owner) => owner.bundle.open_file(&owner.disk.file, writable),
            None => open_plain(&self.path, writable),
        };
        let file = file.map_err(|error| self.no_file(&error).unwrap_or_else(|| Failure::from_io(what(), &error)))?;
        let metadata = file.metadata().map_err(|error| Failure::from_io(what(), &error))?;
        let why = match metadata.len() {
            _ if !metadata.is_file() => return Err(self.no_image(kind_of(metadata.file_type()))),
            0 => "It is empty.",
            // The text that describes a VMDK may be as short.
            1..512 if image::detect(&file, &what())? == DiskFormat::Raw => "It is shorter than a sector of 512 bytes.",
            _ => return Ok(file),
        };
        Err(Failure::new(FailureKind::Failed, what(), why, "Make a disk with `benchtop disk create`."))
    }

    /// Why opening failed, where no file is there at all.
    fn no_file(&self, error: &std::io::Error) -> Option<Failure> {
        if error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) {
            return Some(self.no_image("a link that leads in a circle"));
        }
        let file_type = self.path.metadata().ok()?.file_type();
        // A file in a bundle may be out of reach for other reasons.
        (self.owner.is_none() && !file_type.is_file()).then(|| self.no_image(kind_of(file_type)))
    }

    fn no_image(&self, kind: &str) -> Failure {
        let why = format!("It is {kind}, not a disk image.");
        Failure::new(FailureKind::Failed, self.what("open"), why, "Name the file of a disk image.")
    }

    /// Its format: what was said, or its signature.
    ///
    /// # Errors
    /// It can not be read.
    pub fn format(&self) -> Result<DiskFormat, Failure> {
        match self.format {
            Some(format) => Ok(format),
            None => image::detect(&self.file(false)?, &self.what("read")),
        }
    }

    /// Keeps a VM from starting with it.
    ///
    /// # Errors
    /// It runs.
    pub fn lock(&self) -> Result<Option<BundleLock>, Failure> {
        match &self.owner {
            Some(owner) if !self.is_locked => owner.bundle.lock().map(Some),
            _ => Ok(None),
        }
    }

    /// Opens the disk.
    ///
    /// # Errors
    /// It is in use, damaged, encrypted and the password is not right, names files without consent, or the host's.
    pub fn open(&self, output: &Output, access: &Access, read_only: bool) -> Result<Opened<Image>, Failure> {
        if let Some(backend) = self.connect(&access.tls, read_only)? {
            let image = Image { backend, strata: None, format: DiskFormat::Raw };
            return Ok(Opened::new(self, image, None, !read_only, None));
        }
        let lock = self.lock()?;
        let what = self.what(if read_only { "read" } else { "write" });
        let expected = self.expected()?;
        let (disk, password) = access.password.unlock(output, &self.name, |password| {
            self.with_named(output, access, |named| {
                let (named, expected) = (named.named, expected.as_ref());
                let how = ImageUse { format: self.format, read_only, password, named, expected };
                image::open_image(self.file(!read_only)?, &what, how)
            })
        })?;
        Ok(Opened::new(self, disk, password, !read_only, lock))
    }

    /// Opens a disk of which something is asked that only Strata has.
    ///
    /// # Errors
    /// As [`open`](Self::open), or it is of another format.
    pub fn open_strata(
        &self,
        output: &Output,
        access: &Access,
        read_only: bool,
    ) -> Result<Opened<StrataDisk>, Failure> {
        let lock = self.lock()?;
        let what = self.what(if read_only { "read" } else { "write" });
        self.check_strata(&what)?;
        let expected = self.expected()?;
        let (disk, password) = access.password.unlock(output, &self.name, |password| {
            let how = ImageUse { read_only, password, expected: expected.as_ref(), ..ImageUse::default() };
            image::open_strata(self.file(!read_only)?, &what, how)
        })?;
        Ok(Opened::new(self, disk, password, !read_only, lock))
    }

    /// Opens such a disk with this password and no other.
    ///
    /// # Errors
    /// As [`open_strata`](Self::open_strata).
    pub fn open_strata_with(&self, password: &Password, read_only: bool) -> Result<Opened<StrataDisk>, Failure> {
        let lock = self.lock()?;
        let what = self.what(if read_only { "read" } else { "write" });
        self.check_strata(&what)?;
        let expected = self.expected()?;
        let how = ImageUse { read_only, password: Some(password), expected: expected.as_ref(), ..ImageUse::default() };
        let disk = image::open_strata(self.file(!read_only)?, &what, how)?;
        Ok(Opened::new(self, disk, Some(password.clone()), !read_only, lock))
    }

    fn check_strata(&self, what: &str) -> Result<(), Failure> {
        let format = self.format()?;
        if format == DiskFormat::Strata {
            return Ok(());
        }
        let why = format!("It is a {format} image, and only Strata disks have restore points and passwords.");
        Err(Failure::new(FailureKind::Failed, what, why, "Convert it first: benchtop disk convert."))
    }

    /// Lets `act` open files that the image names, as far as the user consents. A disk in a bundle names none that are
    /// opened: a bundle may come from anywhere.
    ///
    /// # Errors
    /// Those of `act`; where consent was refused, that.
    pub fn with_named<T>(
        &self,
        output: &Output,
        access: &Access,
        act: impl FnOnce(OpenOptions<'_>) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        if self.owner.is_some() {
            return act(OpenOptions::default());
        }
        let path = std::path::absolute(&self.path).map_err(|error| Failure::from_io(self.what("open"), &error))?;
        let folder = path.parent().unwrap_or(Path::new("/")).to_path_buf();
        let consent =
            Consent { name: &self.name, folder, allowed: &access.allowed, output, refused: RefCell::default() };
        let open = |wanted: &NamedFile<'_>| consent.open(wanted);
        let result = act(OpenOptions { named: Some(&open), ..OpenOptions::default() });
        match (result, consent.refused.take()) {
            (Err(_), Some(refused)) => Err(refused),
            (result, _) => result,
        }
    }
}

/// Decides on files that an image names.
struct Consent<'a> {
    name: &'a str,
    /// The image's.
    folder: PathBuf,
    allowed: &'a [PathBuf],
    output: &'a Output,
    /// Why one was not opened.
    refused: RefCell<Option<Failure>>,
}

impl Consent<'_> {
    fn open(&self, wanted: &NamedFile<'_>) -> Result<Named, BlockError> {
        self.try_open(wanted).map(Named::File).map_err(|failure| {
            let error = BlockError::new(BlockErrorKind::Unsupported, failure.why.clone());
            self.refused.replace(Some(failure));
            error
        })
    }

    fn try_open(&self, wanted: &NamedFile<'_>) -> Result<File, Failure> {
        let mut folder = self.folder.clone();
        for name in wanted.through {
            let path = folder.join(name);
            folder = path.parent().unwrap_or(Path::new("/")).to_path_buf();
        }
        let path = folder.join(wanted.name);
        let io = |error: std::io::Error| Failure::from_io(format!("can not open {}", path.display()), &error);
        let identity = |path: &Path| path.metadata().map(|metadata| (metadata.dev(), metadata.ino()));
        let named = identity(&path).map_err(io)?;
        if self.allowed.iter().any(|allowed| identity(allowed).is_ok_and(|allowed| allowed == named)) {
            return regular(open_plain(&path, !wanted.read_only).map_err(io)?, &path);
        }
        let what = format!("can not open the disk {}", self.name);
        let role = match wanted.role {
            NamedRole::Backing => "is based on",
            NamedRole::Extent => "keeps a part of the disk in",
        };
        let inside = path.strip_prefix(&self.folder).ok().filter(|inside| {
            let plain = |part: Component<'_>| matches!(part, Component::Normal(_));
            inside.components().all(plain)
        });
        let Some(inside) = inside else {
            let why = format!("It {role} {}, which is outside its own folder.", path.display());
            let fix = "If you trust the image, allow that with --allow-file.";
            return Err(Failure::new(FailureKind::Failed, what, why, fix));
        };
        let why = format!("It {role} {}.", path.display());
        self.output.confirm(&format!("{why} Open that, too?")).map_err(|_refused| {
            let fix = "If you trust the image, consent with --yes, or with --allow-file to that file alone.";
            Failure::new(FailureKind::Failed, what, why, fix)
        })?;
        // No link on the way: it could lead out.
        let open = || {
            let access = if wanted.read_only { OFlags::RDONLY } else { OFlags::RDWR };
            let flags = access | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
            let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
            let folder = File::open(&self.folder)?;
            Ok(File::from(openat2(folder, inside, flags, Mode::empty(), resolve)?))
        };
        regular(open().map_err(io)?, &path)
    }
}

/// What something is that is no regular file.
pub fn kind_of(file_type: std::fs::FileType) -> &'static str {
    match file_type {
        kind if kind.is_dir() => "a directory",
        kind if kind.is_symlink() => "a link",
        kind if kind.is_fifo() => "a pipe",
        kind if kind.is_socket() => "a socket",
        kind if kind.is_block_device() || kind.is_char_device() => "a device",
        _ => "something that is no regular file",
    }
}

fn regular(file: File, path: &Path) -> Result<File, Failure> {
    let what = || format!("can not open {}", path.display());
    match file.metadata() {
        Ok(metadata) if metadata.is_file() => Ok(file),
        Ok(_) => Err(Failure::new(FailureKind::Failed, what(), "It is no regular file.", "Name a file.")),
        Err(error) => Err(Failure::from_io(what(), &error)),
    }
}
