//! New images: they appear under their name complete, or not at all.

use std::fs::File;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use benchtop_block::{BlockError, BlockErrorKind};
use benchtop_control::config::DiskFormat;
use benchtop_control::{Failure, FailureKind, Library, VmName};
use benchtop_images::{CreateOptions, OpenOptions};
use benchtop_machine::monitor::block_failure;
use benchtop_machine::monitor::image::{Image, Password, image_format, lock, open_failure};
use benchtop_machine::monitor::open::open_plain;
use benchtop_strata::{Cost, HostCache, HostFile, Retention, StrataDisk};
use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::workplace::{Workplace, remove_abandoned};
use crate::image::kind_of;
use crate::output::Output;
use crate::password::PasswordArgs;

/// What a new image is like.
#[derive(Clone, Debug)]
pub struct NewImage {
    /// Its format.
    pub format: DiskFormat,
    /// Size of the disk.
    pub size_bytes: u64,
    /// Strata: encrypt it with this.
    pub password: Option<Password>,
    /// Strata: which restore points it keeps.
    pub retention: Retention,
}

/// The format of a new file: what was said, what its name says, else our own.
pub fn format_of(path: &Path, said: Option<DiskFormat>) -> DiskFormat {
    said.or_else(|| DiskFormat::of_extension(path)).unwrap_or(DiskFormat::Strata)
}

/// Refuses encryption for a format that we can not write encrypted.
///
/// # Errors
/// It is not Strata.
pub fn check_encrypt(format: DiskFormat, encrypt: bool, what: &str) -> Result<(), Failure> {
    if !encrypt || format == DiskFormat::Strata {
        return Ok(());
    }
    let why = format!("Encrypted {format} images are not made here.");
    Err(Failure::new(FailureKind::Usage, what, why, "Make it a Strata disk: --format strata."))
}

/// Refuses a password for a disk that is not going to be encrypted.
///
/// # Errors
/// One was given.
pub fn check_password(encrypt: bool, password: &PasswordArgs, what: &str) -> Result<(), Failure> {
    if encrypt || !password.is_given() {
        return Ok(());
    }
    let why = "A password is of no use to a disk that is not encrypted.";
    Err(Failure::new(FailureKind::Usage, what, why, "Add --encrypt, or leave the password out."))
}

/// Refuses a place for a new image that is known to be wrong, before anybody is asked for a password.
///
/// # Errors
/// Something is there that is not to be replaced, or it is a VM's disk.
pub fn check_target(path: &Path, force: bool) -> Result<(), Failure> {
    check_place(path, (!force).then_some("Choose another name, or replace it with --force."))
}

/// The same for a verb that never replaces anything.
///
/// # Errors
/// Something is there, or it is a VM's disk.
pub fn check_new(path: &Path) -> Result<(), Failure> {
    check_place(path, Some("Choose another name, or remove what is there."))
}

/// `fix` is what to do about a file that is there, unless it may be replaced.
fn check_place(path: &Path, fix: Option<&str>) -> Result<(), Failure> {
    let what = format!("can not make the disk {}", path.display());
    match (path.symlink_metadata(), fix) {
        (Ok(metadata), _) if !metadata.is_file() => {
            let why =
                format!("There is {} of that name, and only a file is ever replaced.", kind_of(metadata.file_type()));
            return Err(Failure::new(FailureKind::Failed, what, why, "Choose another name."));
        }
        (Ok(_), Some(fix)) => return Err(Failure::new(FailureKind::Failed, what, "It exists already.", fix)),
        (Ok(_), None) => return Ok(()),
        (Err(_), _) => {}
    }
    let name = VmName::parse(&path.to_string_lossy());
    if name.device.is_some() && Library::of_user()?.find(&name.vm).is_ok() {
        let why = "That means a disk of a VM, and a VM's disks are not replaced.";
        return Err(Failure::new(FailureKind::Usage, what, why, "Name a file."));
    }
    Ok(())
}

/// Refuses to make a disk in the place of the one it is a copy of, by whatever name.
///
/// # Errors
/// It is the same file.
pub fn check_not_itself(source: &Path, target: &Path) -> Result<(), Failure> {
    let identity = |path: &Path| path.metadata().map(|metadata| (metadata.dev(), metadata.ino()));
    match (identity(source), identity(target)) {
        (Ok(source), Ok(target)) if source == target => {}
        _ => return Ok(()),
    }
    let what = format!("can not make the disk {}", target.display());
    let why = "It is the same file as the disk that would be copied.";
    Err(Failure::new(FailureKind::Usage, what, why, "Name another file for the copy."))
}

/// An image on its way to its name.
#[derive(Debug)]
pub struct Draft {
    /// Removed with everything in it.
    folder: Workplace,
    /// The image in it. Its name is the final one, for some formats write it into the image.
    pub file: PathBuf,
    to: PathBuf,
    /// What is replaced, locked, so that no VM begins to use it.
    replaced: Option<File>,
}

impl Draft {
    /// Begins an image at `path`, and replaces what is there only with `force`. What killed programs left beside it goes.
    ///
    /// # Errors
    /// Something is there, or is in use, or the host's.
    pub fn begin(output: &Output, path: &Path, force: bool) -> Result<Self, Failure> {
        let what = format!("can not make the disk {}", path.display());
        let io = |error: std::io::Error| Failure::from_io(what.as_str(), &error);
        check_target(path, force)?;
        let mut replaced = None;
        match path.symlink_metadata() {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(io(error)),
            Ok(_) => {
                let file = open_plain(path, true).map_err(io)?;
                lock(&file, &what, false)?;
                replaced = Some(file);
            }
        }
        let name = path.file_name().ok_or_else(|| io(std::io::ErrorKind::InvalidInput.into()))?;
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        remove_abandoned(parent, output);
        let folder = Workplace::begin(parent).map_err(io)?;
        Ok(Self { file: folder.path().join(name), folder, to: path.to_path_buf(), replaced })
    }

    /// Makes the image and opens it.
    ///
    /// # Errors
    /// The format can not hold that, or the host's.
    pub fn create(&self, new: &NewImage) -> Result<Image, Failure> {
        create_at(&self.file, new, &format!("can not make the disk {}", self.to.display()))
    }

    /// Gives the image, which is closed, its name.
    ///
    /// # Errors
    /// The host's; nothing is then changed.
    pub fn finish(self) -> Result<(), Failure> {
        let finish = || {
            let file = File::open(&self.file)?;
            if let Some(replaced) = &self.replaced {
                let mode = replaced.metadata()?.permissions().mode() & 0o777;
                file.set_permissions(std::fs::Permissions::from_mode(mode))?;
            }
            file.sync_all()?;
            match &self.replaced {
                Some(_) => std::fs::rename(&self.file, &self.to)?,
                None => rename_to_new(&self.file, &self.to)?,
            }
            if let Some(parent) = self.folder.path().parent() {
                File::open(parent)?.sync_all()?;
            }
            Ok(())
        };
        finish().map_err(|error: std::io::Error| {
            Failure::from_io(format!("can not make the disk {}", self.to.display()), &error)
        })
    }
}

/// Renames, and never over another file.
fn rename_to_new(from: &Path, to: &Path) -> std::io::Result<()> {
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // A file system that does not know how. It may have hard links.
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => std::fs::hard_link(from, to),
        result => Ok(result?),
    }
}

/// Makes an image at a path that nobody else uses, and opens it.
///
/// # Errors
/// As [`Draft::create`].
pub fn create_at(path: &Path, new: &NewImage, what: &str) -> Result<Image, Failure> {
    let failed = |error: BlockError| match error.kind() {
        BlockErrorKind::OutOfRange | BlockErrorKind::Unsupported => {
            block_failure(what, &error).with_fix("Choose another size or format.")
        }
        _ => block_failure(what, &error),
    };
    if new.format == DiskFormat::Strata {
        // A disk is its owner's alone, as every other format's.
        let file = File::options().read(true).write(true).create_new(true).mode(0o600).open(path);
        let file = file.map_err(|error| Failure::from_io(what, &error))?;
        let disk = Arc::new(strata_in(file, new, what)?);
        return Ok(Image { backend: disk.clone(), strata: Some(disk), format: DiskFormat::Strata });
    }
    let format = image_format(new.format);
    let file = benchtop_images::create(path, &CreateOptions::new(format, new.size_bytes)).map_err(failed)?;
    let backend = benchtop_images::open(file, format, &OpenOptions::default());
    let backend = backend.map_err(|error| open_failure(what, &error))?;
    Ok(Image { backend, strata: None, format: new.format })
}

/// Makes a Strata disk in an empty file.
///
/// # Errors
/// As [`Draft::create`].
pub fn strata_in(file: File, new: &NewImage, what: &str) -> Result<StrataDisk, Failure> {
    lock(&file, what, false)?;
    let options = benchtop_strata::CreateOptions {
        size_bytes: new.size_bytes,
        retention: new.retention,
        password: new.password.clone().map(|password| (password, Cost::default())),
    };
    StrataDisk::create(Arc::new(HostFile::new(file, HostCache::Reads)), &options).map_err(|error| match error.kind() {
        BlockErrorKind::Unsupported => block_failure(what, &error).with_fix("Choose another size or format."),
        _ => block_failure(what, &error),
    })
}
