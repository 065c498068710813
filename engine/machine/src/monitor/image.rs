//! Disk images of every format, opened from descriptors.

use std::fs::File;
use std::sync::Arc;

use benchtop_block::DiskBackend;
use benchtop_block::file::{Lock, try_lock};
use benchtop_control::config::DiskFormat;
use benchtop_control::{Failure, FailureKind};
use benchtop_images::{Format, OpenError, OpenNamed, OpenOptions, probe};
use benchtop_strata::{HostCache, HostFile, RecoveryKeyError, RepairReport, StrataDisk, check_recovery_key, facts};
use zeroize::Zeroizing;

use super::identity::Expected;
use super::trouble::block_failure;

/// A password. Its bytes are wiped when it goes.
pub type Password = Zeroizing<Vec<u8>>;

/// The longest password, in bytes: what a pipe surely takes at once.
pub const PASSWORD_BYTES_MAX: usize = 4096;

/// How an image is opened.
#[derive(Clone, Copy, Default)]
pub struct ImageUse<'a> {
    /// Its format; by its signature where it is not said.
    pub format: Option<DiskFormat>,
    /// It stays as it is.
    pub read_only: bool,
    /// For one that is encrypted.
    pub password: Option<&'a Password>,
    /// Opens files that the image names, as the user consents to. Without it an image that names one is refused.
    pub named: Option<&'a OpenNamed<'a>>,
    /// What a Strata disk is to be.
    pub expected: Option<&'a Expected>,
}

impl<'a> ImageUse<'a> {
    /// The same as the images crate has it.
    pub fn options(&self) -> OpenOptions<'a> {
        OpenOptions { read_only: self.read_only, named: self.named, password: self.password }
    }
}

impl std::fmt::Debug for ImageUse<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ImageUse").field("format", &self.format).field("options", &self.options()).finish()
    }
}

/// An open image.
pub struct Image {
    /// The disk in it.
    pub backend: Arc<dyn DiskBackend>,
    /// The same, where it is one of Strata.
    pub strata: Option<Arc<StrataDisk>>,
    /// What it is.
    pub format: DiskFormat,
}

/// The format a file's signature says; raw where it says nothing. Not for a file that a guest writes as raw: it can
/// write any signature.
///
/// # Errors
/// It can not be read. `what` begins the message.
pub fn detect(file: &File, what: &str) -> Result<DiskFormat, Failure> {
    let found = probe::probe_file(file).map_err(|error| block_failure(what, &error))?;
    Ok(match found {
        // A disc may be a disk, too.
        Format::Raw | Format::Iso => DiskFormat::Raw,
        Format::Strata => DiskFormat::Strata,
        Format::Qcow2 => DiskFormat::Qcow2,
        Format::Vmdk => DiskFormat::Vmdk,
        Format::Vdi => DiskFormat::Vdi,
        Format::Vhd => DiskFormat::Vhd,
        Format::Vhdx => DiskFormat::Vhdx,
    })
}

/// Opens an image, which is locked against other VMs and programs: who writes is alone, who reads is not.
///
/// # Errors
/// It is in use, damaged, encrypted and the password is not right, or the host's. `what` begins the message.
pub fn open_image(file: File, what: &str, how: ImageUse<'_>) -> Result<Image, Failure> {
    let format = match how.format {
        Some(format) => format,
        None => detect(&file, what)?,
    };
    if format == DiskFormat::Strata {
        let disk = Arc::new(open_strata(file, what, how)?);
        return Ok(Image { backend: disk.clone(), strata: Some(disk), format });
    }
    let backend = benchtop_images::open(file, image_format(format), &how.options());
    Ok(Image { backend: backend.map_err(|error| open_failure(what, &error))?, strata: None, format })
}

/// The images crate's word for a format.
pub fn image_format(format: DiskFormat) -> Format {
    match format {
        DiskFormat::Strata => Format::Strata,
        DiskFormat::Raw => Format::Raw,
        DiskFormat::Qcow2 => Format::Qcow2,
        DiskFormat::Vmdk => Format::Vmdk,
        DiskFormat::Vdi => Format::Vdi,
        DiskFormat::Vhd => Format::Vhd,
        DiskFormat::Vhdx => Format::Vhdx,
    }
}

/// An image that was not opened.
pub fn open_failure(what: &str, error: &OpenError) -> Failure {
    match error {
        OpenError::PasswordNeeded => no_password(what),
        OpenError::PasswordWrong => wrong_password(what),
        OpenError::Block(error) => block_failure(what, error),
    }
}

/// A Strata disk whose file is open and locked, and which nobody has read yet. Opening the disk starts a thread, and a
/// VM's threads start after the lock-down.
pub struct StrataFile {
    file: File,
    what: String,
    password: Option<Password>,
    read_only: bool,
    expected: Option<Expected>,
}

impl StrataFile {
    /// Takes an open file and locks it.
    ///
    /// # Errors
    /// It is in use, another disk than what is expected, or encrypted and there is no password.
    pub fn new(file: File, what: &str, how: ImageUse<'_>) -> Result<Self, Failure> {
        lock(&file, what, how.read_only)?;
        let facts = facts(&file);
        // Again when it is opened, where it counts; here, so that nobody is asked for another disk's password.
        if let (Some(expected), Some(facts)) = (how.expected, facts)
            && facts.uuid != expected.identity.uuid
        {
            return Err(expected.other(what));
        }
        if how.password.is_none() && facts.is_some_and(|facts| facts.encrypted) {
            return Err(no_password(what));
        }
        let (password, expected) = (how.password.cloned(), how.expected.cloned());
        Ok(Self { file, what: what.to_owned(), password, read_only: how.read_only, expected })
    }

    /// Opens the disk in it.
    ///
    /// # Errors
    /// It is damaged, not what is expected, the password is wrong, or the host's.
    pub fn open(self) -> Result<StrataDisk, Failure> {
        let Self { file, what, password, read_only, expected } = self;
        let options = benchtop_strata::OpenOptions {
            password: password.as_ref().map(|password| &password[..]),
            read_only,
            expected: expected.as_ref().map(|expected| expected.identity),
            accept_rollback: expected.as_ref().is_some_and(|expected| expected.accept_rollback),
        };
        let is_one = facts(&file).is_some();
        let file = Arc::new(HostFile::new(file, HostCache::Reads));
        StrataDisk::open_with(file, &options).map_err(|error| {
            let failure = block_failure(&what, &error);
            match (&expected, password.as_ref().and_then(mistyped_group)) {
                (Some(expected), _) if !is_one && failure.kind == FailureKind::Failed => expected.no_strata(&what),
                (Some(expected), _) if expected.refusal(&what, &error).is_some() => {
                    expected.refusal(&what, &error).unwrap_or(failure)
                }
                (_, Some(group)) if failure.kind == FailureKind::BadPassword => {
                    failure.with_fix(format!("If that is a recovery key, group {group} of it is not right: try again."))
                }
                _ => failure,
            }
        })
    }
}

/// Which group of five characters is wrong in what can only be meant as a recovery key.
fn mistyped_group(password: &Password) -> Option<usize> {
    match check_recovery_key(std::str::from_utf8(password).ok()?) {
        Err(RecoveryKeyError::Group(group)) => Some(group),
        _ => None,
    }
}

/// Opens a Strata disk as [`open_image`] does, for what only Strata can.
///
/// # Errors
/// As [`open_image`].
pub fn open_strata(file: File, what: &str, how: ImageUse<'_>) -> Result<StrataDisk, Failure> {
    StrataFile::new(file, what, how)?.open()
}

/// Looks for what of a Strata disk can not be read and, unless it is read-only, takes that out of the map, as
/// [`StrataDisk::repair`] does. Its file is locked, and open for writing then. However old it is: what is damaged may be
/// its newest state.
///
/// # Errors
/// As [`open_image`], or nothing of the disk is left that could be opened.
pub fn repair_strata(file: File, what: &str, how: ImageUse<'_>) -> Result<(StrataDisk, RepairReport), Failure> {
    lock(&file, what, how.read_only)?;
    let options = benchtop_strata::OpenOptions {
        password: how.password.map(|password| &password[..]),
        read_only: how.read_only,
        expected: how.expected.map(|expected| expected.identity),
        accept_rollback: true,
    };
    let file = Arc::new(HostFile::new(file, HostCache::Reads));
    StrataDisk::repair(file, &options, !how.read_only).map_err(|error| {
        let refusal = how.expected.and_then(|expected| expected.refusal(what, &error));
        refusal.unwrap_or_else(|| block_failure(what, &error))
    })
}

/// Locks an image's file, which is open for writing unless `read_only`, for as long as it is open.
///
/// # Errors
/// Somebody else holds it, or the host's.
pub fn lock(file: &File, what: &str, read_only: bool) -> Result<(), Failure> {
    let lock = if read_only { Lock::Shared } else { Lock::Exclusive };
    match try_lock(file, lock) {
        Ok(true) => Ok(()),
        Ok(false) => Err(in_use(what)),
        Err(error) => Err(Failure::from_io(what, &error)),
    }
}

/// The error of whoever finds an image locked.
pub fn in_use(what: &str) -> Failure {
    Failure::new(
        FailureKind::WrongState,
        what,
        "Another VM or program uses it.",
        "Stop that one first, or work on a copy.",
    )
}

/// Whether opening failed only because no password was given.
pub fn wants_password(failure: &Failure) -> bool {
    failure.kind == FailureKind::BadPassword && failure.why == NO_PASSWORD
}

/// Why a disk was not opened without a password.
const NO_PASSWORD: &str = "It is encrypted, and no password was given.";

pub(super) fn no_password(what: &str) -> Failure {
    let fix = "Give its password on a terminal, or with --password-fd or --password-file.";
    Failure::new(FailureKind::BadPassword, what, NO_PASSWORD, fix)
}

pub(super) fn wrong_password(what: &str) -> Failure {
    let fix = "Try again; without one of its passwords nobody can read the disk.";
    Failure::new(FailureKind::BadPassword, what, "The password is wrong.", fix)
}

#[cfg(test)]
mod tests {
    use benchtop_strata::{Cost, CreateOptions, Retention};

    use super::*;

    const CHEAP: Cost = Cost { memory_kib: 64, passes: 1, lanes: 1 };

    fn open(path: &std::path::Path) -> File {
        File::options().read(true).write(true).open(path).unwrap()
    }

    #[test]
    fn a_strata_disk_is_known_locked_and_needs_its_password() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        File::create(&path).unwrap();
        let password: Password = b"secret".to_vec().into();
        let options = CreateOptions {
            size_bytes: 1 << 20,
            retention: Retention::default(),
            password: Some((password.clone(), CHEAP)),
        };
        drop(StrataDisk::create(Arc::new(HostFile::new(open(&path), HostCache::Reads)), &options).unwrap());
        let said = facts(&open(&path)).unwrap();
        assert_eq!((said.size_bytes, said.encrypted), (1 << 20, true));
        assert_eq!(facts(&tempfile::tempfile().unwrap()), None);
        let how = ImageUse { password: Some(&password), ..ImageUse::default() };
        assert!(!format!("{how:?}").contains(&format!("{:?}", b's')), "{how:?}");
        let image = open_image(open(&path), "x", how).unwrap();
        assert_eq!(image.format, DiskFormat::Strata);
        assert_eq!(open_image(open(&path), "x", how).err().unwrap().kind, FailureKind::WrongState);
        drop(image);
        let none = open_image(open(&path), "x", ImageUse::default()).err().unwrap();
        assert!(wants_password(&none) && none.kind.exit_code() == 6);
        let other = Password::new(b"guess".to_vec());
        let wrong = open_image(open(&path), "x", ImageUse { password: Some(&other), ..ImageUse::default() });
        let wrong = wrong.err().unwrap();
        assert!(!wants_password(&wrong) && wrong.kind.exit_code() == 6, "{wrong}");
    }
}
