//! New image files, whole or not at all.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use benchtop_block::{BlockError, BlockErrorKind, SECTOR_BYTES};

use super::ImageFile;

/// Refuses a size that is not a positive number of whole sectors, or more than the format holds.
///
/// # Errors
/// `OutOfRange`.
pub(crate) fn check_size(size_bytes: u64, max_bytes: u64, format: &str) -> Result<(), BlockError> {
    if size_bytes == 0 || !size_bytes.is_multiple_of(SECTOR_BYTES) {
        let context = format!("{size_bytes} bytes is not a positive number of {SECTOR_BYTES}-byte sectors");
        return Err(BlockError::new(BlockErrorKind::OutOfRange, context));
    }
    if size_bytes > max_bytes {
        let context = format!("{size_bytes} bytes are more than the {max_bytes} a {format} image may hold");
        return Err(BlockError::new(BlockErrorKind::OutOfRange, context));
    }
    Ok(())
}

/// Creates a file only its owner can read, lets `fill` write it, and gives it its name when it is durable. A file that
/// exists is never replaced. The answer is open for reading and writing.
///
/// # Errors
/// `fill`'s, or the host's, with `AlreadyExists` as its cause where the name is taken.
pub(crate) fn create_file(
    path: &Path,
    fill: impl FnOnce(&ImageFile) -> Result<(), BlockError>,
) -> Result<File, BlockError> {
    let failed = |error| BlockError::from_io(format!("the image can not be created: {}", path.display()), error);
    let temporary = temporary_name(path).map_err(failed)?;
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let file = options.open(&temporary).map_err(failed)?;
    let unfinished = Unfinished(&temporary);
    let file = ImageFile::open_unlocked(file, false)?;
    fill(&file)?;
    let file = file.into_inner();
    file.sync_all()
        .and_then(|()| rename_new(&temporary, path))
        .and_then(|()| sync_directory(path).inspect_err(|_error| std::fs::remove_file(path).unwrap_or_default()))
        .map_err(failed)?;
    drop(unfinished);
    Ok(file)
}

/// Removes a temporary name when it has served.
struct Unfinished<'a>(&'a Path);

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        // After a rename it is gone, and a failure to clean up must not hide the error that led here.
        std::fs::remove_file(self.0).unwrap_or_default();
    }
}

/// A name in the same directory that nobody else uses: hidden, with this process's number.
fn temporary_name(path: &Path) -> io::Result<PathBuf> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let mut temporary = std::ffi::OsString::from(".");
    temporary.push(name);
    temporary.push(format!(".{}.new", std::process::id()));
    Ok(path.with_file_name(temporary))
}

/// Gives a file its name unless that is taken. File systems without the rename that refuses have hard links.
#[cfg(target_os = "linux")]
fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    use rustix::io::Errno;
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        Err(Errno::INVAL | Errno::NOSYS) => std::fs::hard_link(from, to),
        result => result.map_err(io::Error::from),
    }
}

#[cfg(not(target_os = "linux"))]
fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    std::fs::hard_link(from, to)
}

/// Makes the name of a file durable.
fn sync_directory(path: &Path) -> io::Result<()> {
    if cfg!(windows) {
        return Ok(());
    }
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(directory)?.sync_all()
}
