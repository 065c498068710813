//! Disk images of every format, opened from descriptors.

use std::fs::File;
use std::sync::Arc;

use benchtop_block::DiskBackend;
use benchtop_block::file::{Lock, try_lock};
use benchtop_control::config::DiskFormat;
use benchtop_control::{Failure, FailureKind};
use benchtop_images::{Format, OpenError, OpenNamed, OpenOptions, probe};
use benchtop_strata::{HostCache, HostFile, RecoveryKeyError, RepairReport, StrataDisk, check_recovery_key};
use zeroize::Zeroizing;

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
    let backend: Arc<dyn DiskBackend> = match format {
        DiskFormat::Strata => Arc::new(open_strata(file, what, how.password, how.read_only)?),
        other => {
            let opened = benchtop_images::open(file, image_format(other), &how.options());
            opened.map_err(|error| open_failure(what, &error))?
        }
    };
    Ok(Image { backend, format })
}

/// What a Strata disk says of itself to anybody. Nothing authenticates it: it is for showing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StrataFacts {
    /// Size of the disk.
    pub size_bytes: u64,
    /// It opens with a password only: a key slot is used.
    pub encrypted: bool,
}

/// The key slots of a superblock: where they are, how many, and how long each. The first four bytes of an empty one are
/// zeroes.
const KEY_SLOTS_AT: usize = 256;
const KEY_SLOTS: usize = 8;
const KEY_SLOT_BYTES: usize = 128;

/// Reads a Strata disk's superblocks (disk-formats/strata/docs/format.md, "Superblock"), without a lock or a password
/// and whatever the length of its log. `None` where there is none that can be.
pub fn strata_facts(file: &File) -> Option<StrataFacts> {
    let mut newest: Option<(u64, StrataFacts)> = None;
    for offset in [0, 64 << 10] {
        let mut bytes = [0; KEY_SLOTS_AT + KEY_SLOTS * KEY_SLOT_BYTES];
        if std::os::unix::fs::FileExt::read_exact_at(file, &mut bytes, offset).is_err() {
            continue;
        }
        let Some((b"STRATA\x1a\n\x01\0\0\0", fields)) = bytes.split_first_chunk::<12>() else { continue };
        let word = |at: usize| fields.get(at..at + 8)?.try_into().ok().map(u64::from_le_bytes);
        let (generation, size_bytes) = (word(20)?, word(28)?);
        // A disk that is being decrypted has no cipher any more, and still its passwords.
        let mut slots = bytes.get(KEY_SLOTS_AT..)?.chunks_exact(KEY_SLOT_BYTES);
        let encrypted = slots.any(|slot| slot.first_chunk::<4>() != Some(&[0; 4]));
        let possible = (512..=1 << 57).contains(&size_bytes) && size_bytes.is_multiple_of(512);
        if possible && newest.is_none_or(|(newer, _)| newer < generation) {
            newest = Some((generation, StrataFacts { size_bytes, encrypted }));
        }
    }
    newest.map(|(_, facts)| facts)
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
    file: HostFile,
    what: String,
    password: Option<Password>,
    read_only: bool,
}

impl StrataFile {
    /// Takes an open file and locks it.
    ///
    /// # Errors
    /// It is in use, or encrypted and there is no password.
    pub fn new(file: File, what: &str, password: Option<&Password>, read_only: bool) -> Result<Self, Failure> {
        lock(&file, what, read_only)?;
        if password.is_none() && strata_facts(&file).is_some_and(|facts| facts.encrypted) {
            return Err(no_password(what));
        }
        let file = HostFile::new(file, HostCache::Reads);
        Ok(Self { file, what: what.to_owned(), password: password.cloned(), read_only })
    }

    /// Opens the disk in it.
    ///
    /// # Errors
    /// It is damaged, the password is wrong, or the host's.
    pub fn open(self) -> Result<StrataDisk, Failure> {
        let Self { file, what, password, read_only } = self;
        StrataDisk::open(Arc::new(file), password.as_ref().map(|password| &password[..]), read_only).map_err(|error| {
            let failure = block_failure(&what, &error);
            match password.as_ref().and_then(mistyped_group) {
                Some(group) if failure.kind == FailureKind::BadPassword => {
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
pub fn open_strata(
    file: File,
    what: &str,
    password: Option<&Password>,
    read_only: bool,
) -> Result<StrataDisk, Failure> {
    StrataFile::new(file, what, password, read_only)?.open()
}

/// Looks for what of a Strata disk can not be read, and with `consent` takes it out of the map, as
/// [`StrataDisk::repair`] does. Its file is locked, and open for writing if there is consent.
///
/// # Errors
/// As [`open_image`], or nothing of the disk is left that could be opened.
pub fn repair_strata(
    file: File,
    what: &str,
    password: Option<&Password>,
    consent: bool,
) -> Result<(StrataDisk, RepairReport), Failure> {
    lock(&file, what, !consent)?;
    let options = benchtop_strata::OpenOptions {
        password: password.map(|password| &password[..]),
        read_only: !consent,
        ..Default::default()
    };
    StrataDisk::repair(Arc::new(HostFile::new(file, HostCache::Reads)), &options, consent)
        .map_err(|error| block_failure(what, &error))
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
        assert_eq!(strata_facts(&open(&path)), Some(StrataFacts { size_bytes: 1 << 20, encrypted: true }));
        assert_eq!(strata_facts(&tempfile::tempfile().unwrap()), None);
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
