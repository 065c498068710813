//! Files that results are written to.

use std::fs::{File, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use benchtop_control::{Failure, FailureKind};
use tempfile::NamedTempFile;

/// Links followed before they are taken for a circle, as many as the kernel follows.
const LINKS_MAX: usize = 40;
/// What a new file may be used for, before the user's umask.
const NEW_FILE_MODE: u32 = 0o666;

/// A file on its way to a new content. A regular file, or one that is not there yet, gets all of it at once in
/// [`finish`](Self::finish), at the end of the links that lead to it and with the permissions it has. Anything else (a
/// device, a pipe, `/dev/stdout`) is written as it is.
#[derive(Debug)]
pub struct Replacement {
    /// What was named, for messages.
    path: PathBuf,
    target: Target,
}

#[derive(Debug)]
enum Target {
    Draft { draft: NamedTempFile, to: PathBuf },
    Through(File),
}

impl Replacement {
    /// Begins to write `path`.
    ///
    /// # Errors
    /// It can not be written, or is a folder.
    pub fn begin(path: &Path) -> Result<Self, Failure> {
        let io = |error: std::io::Error| Failure::from_io(what(path), &error);
        let existing = match path.metadata() {
            Ok(metadata) => Some(metadata),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => return Err(io(error)),
        };
        if existing.as_ref().is_some_and(std::fs::Metadata::is_dir) {
            return Err(Failure::new(FailureKind::Failed, what(path), "It is a folder.", "Name a file."));
        }
        // Also asked of a file that will be replaced: who may not write it may not replace it either.
        let open = |truncate: bool| File::options().write(true).truncate(truncate).open(path).map_err(io);
        let end = end_of_links(path).map_err(io)?;
        let target = match (existing, end) {
            (Some(existing), Some(to)) if existing.is_file() => {
                drop(open(false)?);
                let draft = draft_beside(&to).map_err(io)?;
                let mode = existing.permissions().mode() & 0o7777;
                draft.as_file().set_permissions(Permissions::from_mode(mode)).map_err(io)?;
                Target::Draft { draft, to }
            }
            (Some(existing), _) => Target::Through(open(existing.is_file())?),
            (None, Some(to)) => Target::Draft { draft: draft_beside(&to).map_err(io)?, to },
            (None, None) => return Err(io(ErrorKind::NotFound.into())),
        };
        Ok(Self { path: path.to_path_buf(), target })
    }

    /// Where to write.
    pub fn file(&self) -> &File {
        match &self.target {
            Target::Draft { draft, .. } => draft.as_file(),
            Target::Through(file) => file,
        }
    }

    /// Puts what was written in its place.
    ///
    /// # Errors
    /// The host's; the old file is then still there.
    pub fn finish(self) -> Result<(), Failure> {
        match self.target {
            Target::Draft { draft, to } => {
                draft.persist(&to).map(drop).map_err(|error| Failure::from_io(what(&self.path), &error.error))
            }
            Target::Through(_) => Ok(()),
        }
    }
}

fn what(path: &Path) -> String {
    format!("can not write {}", path.display())
}

fn draft_beside(path: &Path) -> std::io::Result<NamedTempFile> {
    let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    tempfile::Builder::new().permissions(Permissions::from_mode(NEW_FILE_MODE)).tempfile_in(folder)
}

/// Where links lead in the end, whether anything is there or not. `None` for links into `/proc`: they stand for open
/// files, which may have no name or another one.
fn end_of_links(path: &Path) -> std::io::Result<Option<PathBuf>> {
    let mut path = path.to_path_buf();
    for _ in 0..LINKS_MAX {
        if path.starts_with("/proc") {
            return Ok(None);
        }
        match path.symlink_metadata() {
            Ok(metadata) if metadata.is_symlink() => {
                let to = path.read_link()?;
                path = path.parent().unwrap_or(Path::new("")).join(to);
            }
            Ok(_) => return Ok(Some(path)),
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Some(path)),
            Err(error) => return Err(error),
        }
    }
    Err(ErrorKind::NotFound.into())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn write(path: &Path, text: &str) -> Result<(), Failure> {
        let target = Replacement::begin(path)?;
        target.file().write_all(text.as_bytes()).map_err(|error| Failure::from_io("test", &error))?;
        target.finish()
    }

    fn mode(path: &Path) -> u32 {
        path.metadata().unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn a_file_keeps_its_mode_and_links_stay() {
        let dir = tempfile::tempdir().unwrap();
        let (file, link) = (dir.path().join("file"), dir.path().join("link"));
        std::os::unix::fs::symlink("file", &link).unwrap();
        // A link to nothing makes what it names.
        write(&link, "one").unwrap();
        assert_eq!(std::fs::read(&file).unwrap(), b"one");
        for permissions in [0o640, 0o600, 0o755] {
            std::fs::set_permissions(&file, Permissions::from_mode(permissions)).unwrap();
            write(&link, "two").unwrap();
            assert_eq!(mode(&file), permissions);
        }
        assert!(link.symlink_metadata().unwrap().is_symlink());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
    }

    #[test]
    fn what_is_no_regular_file_is_written_through() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        // Open both ways, so that nobody has to be waited for.
        let mut reader = File::options().read(true).write(true).open(&pipe).unwrap();
        write(&pipe, "x").unwrap();
        let mut read = [0];
        std::io::Read::read_exact(&mut reader, &mut read).unwrap();
        assert_eq!((&read, pipe.metadata().unwrap().is_file()), (b"x", false));
    }

    #[test]
    fn links_in_a_circle_and_folders_are_errors() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink("link", &link).unwrap();
        write(&link, "x").unwrap_err();
        assert!(write(dir.path(), "x").unwrap_err().why.contains("folder"));
        write(&dir.path().join("missing/file"), "x").unwrap_err();
    }
}
