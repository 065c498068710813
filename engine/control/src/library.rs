//! [`Library`]: the folder a user's VMs are in, and how a name becomes a bundle.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use uuid::Uuid;

use crate::bundle::{Bundle, SUFFIX, has_suffix};
use crate::config::VmConfig;
use crate::failure::{Failure, FailureKind};
use crate::names::check_vm_name;

/// A VM as it is named on a command line, apart from a device of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VmName {
    /// A library name, or a bundle's path.
    pub vm: String,
    /// `disk0` of `VM:disk0`.
    pub device: Option<String>,
}

impl VmName {
    /// Splits `VM:DISK`. A colon that belongs to a path of an existing file stays where it is.
    pub fn parse(text: &str) -> Self {
        match text.rsplit_once(':') {
            Some((vm, device)) if !vm.is_empty() && !device.contains('/') && !Path::new(text).exists() => {
                Self { vm: vm.to_owned(), device: Some(device.to_owned()) }
            }
            _ => Self { vm: text.to_owned(), device: None },
        }
    }
}

/// The folder of VMs.
#[derive(Clone, Debug)]
pub struct Library {
    folder: PathBuf,
}

impl Bundle {
    /// By what a user can name it on a command line: its name in the library, else its path.
    pub fn typed_name(&self) -> String {
        let folder = self.path().parent();
        let in_library = Library::of_user().is_ok_and(|library| Some(library.folder()) == folder);
        if in_library { self.folder_name() } else { self.path().display().to_string() }
    }
}

/// A bundle that turned out to be a copy and got an identity of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewIdentity {
    /// The copy.
    pub path: PathBuf,
    /// What it had in common with its original.
    pub old: Uuid,
    /// What it has now.
    pub new: Uuid,
}

impl Library {
    /// The user's: `$BENCHTOP_LIBRARY`, else `~/Benchtop`. It need not exist.
    ///
    /// # Errors
    /// There is neither.
    pub fn of_user() -> Result<Self, Failure> {
        let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        set("BENCHTOP_LIBRARY").or_else(|| set("HOME").map(|home| home.join("Benchtop"))).map(Self::at).ok_or_else(
            || {
                Failure::new(
                    FailureKind::Failed,
                    "can not find the library of VMs",
                    "Neither BENCHTOP_LIBRARY nor HOME is set.",
                    "Set BENCHTOP_LIBRARY to the folder the VMs shall be in.",
                )
            },
        )
    }

    /// The library in `folder`.
    pub fn at(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// Its folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Where a new VM of that name goes: a path is taken as it is.
    ///
    /// # Errors
    /// The name can not be a VM's.
    pub fn place(&self, name: &str) -> Result<(PathBuf, String), Failure> {
        let (path, plain) = if is_path(name) {
            let mut path = PathBuf::from(name);
            if !has_suffix(&path) {
                path.as_mut_os_string().push(format!(".{SUFFIX}"));
            }
            let plain = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            (path, plain)
        } else {
            (self.folder.join(format!("{name}.{SUFFIX}")), name.to_owned())
        };
        check_vm_name(&plain).map_err(|problem| {
            let what = format!("can not call a VM `{plain}`");
            Failure::new(FailureKind::Usage, what, problem, "Choose another name.")
        })?;
        Ok((path, plain))
    }

    /// The paths of all bundles, in order of their names. One that a link leads to as well is there once, by its own
    /// path if the library has that.
    ///
    /// # Errors
    /// The folder can not be read; one that does not exist is empty.
    pub fn paths(&self) -> Result<Vec<PathBuf>, Failure> {
        let what = || format!("can not read the library {}", self.folder.display());
        let entries = match std::fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(Failure::from_io(what(), &error)),
        };
        let mut paths = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|error| Failure::from_io(what(), &error))?;
            let hidden = entry.file_name().to_string_lossy().starts_with('.');
            if !hidden && has_suffix(&entry.path()) && entry.path().is_dir() {
                paths.push((entry.path().is_symlink(), entry.path()));
            }
        }
        paths.sort();
        let mut seen = BTreeSet::new();
        let mut paths: Vec<PathBuf> = paths.into_iter().map(|(_link, path)| path).collect();
        // One that can not be looked at is kept, so that it is listed with the reason.
        paths.retain(|path| path.metadata().map_or(true, |metadata| seen.insert((metadata.dev(), metadata.ino()))));
        paths.sort();
        Ok(paths)
    }

    /// Opens the VM of a name: its folder's, else the one in its configuration; or of a path.
    ///
    /// # Errors
    /// [`FailureKind::NotFound`].
    pub fn find(&self, name: &str) -> Result<Bundle, Failure> {
        if is_path(name) {
            let path = Path::new(name);
            if !has_suffix(path) && !path.exists() {
                return Bundle::open(Path::new(&format!("{name}.{SUFFIX}")));
            }
            return Bundle::open(path);
        }
        let missing = || {
            Failure::new(
                FailureKind::NotFound,
                format!("there is no VM `{name}`"),
                format!("The library {} has none of that name.", self.folder.display()),
                "`benchtop list` shows the VMs there are; a path to a bundle works too.",
            )
        };
        if check_vm_name(name).is_err() {
            return Err(missing());
        }
        let path = self.folder.join(format!("{name}.{SUFFIX}"));
        if path.exists() {
            return Bundle::open(&path);
        }
        let mut found = None;
        for path in self.paths()? {
            let Ok(bundle) = Bundle::open(&path) else { continue };
            if bundle.config().is_ok_and(|config| config.name == name) {
                if found.is_some() {
                    return Err(Failure::new(
                        FailureKind::NotFound,
                        format!("can not tell which VM `{name}` is"),
                        "Two bundles of the library have that name.",
                        "Give the path of the bundle.",
                    ));
                }
                found = Some(bundle);
            }
        }
        found.ok_or_else(missing)
    }

    /// Gives a copy that is seen beside its original an identity of its own, and says which did. A running VM, one
    /// that can not be written and one whose UUID its user chose keep theirs.
    ///
    /// # Errors
    /// The library can not be read.
    pub fn part_copies(&self) -> Result<Vec<NewIdentity>, Failure> {
        let mut seen: Vec<(Bundle, VmConfig)> = Vec::new();
        for path in self.paths()? {
            let Ok(bundle) = Bundle::open(&path) else { continue };
            if let Ok(config) = bundle.config() {
                seen.push((bundle, config));
            }
        }
        // The original comes first: its folder is still the one it was made in. Between two that both moved, the
        // older folder is.
        seen.sort_by_cached_key(|(bundle, config)| {
            let moved = config.folder_inode != bundle.inode();
            (config.uuid, !config.uuid_pinned, moved, birth(bundle.path()), bundle.path().to_path_buf())
        });
        let mut parted = Vec::new();
        let mut before = None;
        for (bundle, mut config) in seen {
            let old = config.uuid;
            if before.replace(old) != Some(old) || config.uuid_pinned {
                continue;
            }
            let Ok(_lock) = bundle.lock() else { continue };
            config.previous_uuid = Some(old);
            config.uuid = Uuid::new_v4();
            config.folder_inode = bundle.inode();
            if bundle.save(&config).is_ok() {
                parted.push(NewIdentity { path: bundle.path().to_path_buf(), old, new: config.uuid });
            }
        }
        Ok(parted)
    }
}

fn is_path(name: &str) -> bool {
    name.contains('/') || has_suffix(Path::new(name))
}

fn birth(path: &Path) -> Option<std::time::SystemTime> {
    path.metadata().and_then(|metadata| metadata.created()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn library() -> (tempfile::TempDir, Library) {
        let dir = tempfile::tempdir().unwrap();
        let library = Library::at(dir.path().to_path_buf());
        (dir, library)
    }

    fn add(library: &Library, name: &str) -> Bundle {
        let (path, name) = library.place(name).unwrap();
        Bundle::create(&path, VmConfig::new(name), |_bundle| Ok(())).unwrap()
    }

    fn copy(library: &Library, from: &str, to: &str) {
        let to = library.folder().join(format!("{to}.benchtop"));
        std::fs::create_dir(&to).unwrap();
        let from = library.folder().join(format!("{from}.benchtop/machine.toml"));
        std::fs::copy(from, to.join("machine.toml")).unwrap();
    }

    #[test]
    fn names_and_paths_find_the_same() {
        let (dir, library) = library();
        let made = add(&library, "one");
        for name in ["one", dir.path().join("one.benchtop").to_str().unwrap(), dir.path().join("one").to_str().unwrap()]
        {
            assert_eq!(library.find(name).unwrap().inode(), made.inode(), "{name}");
        }
        for name in ["two", "../one", "", "/nowhere/x.benchtop"] {
            assert_eq!(library.find(name).unwrap_err().kind, FailureKind::NotFound, "{name}");
        }
    }

    #[test]
    fn a_renamed_folder_is_found_by_both_names() {
        let (dir, library) = library();
        add(&library, "one");
        std::fs::rename(dir.path().join("one.benchtop"), dir.path().join("uno.benchtop")).unwrap();
        assert_eq!(library.find("one").unwrap().inode(), library.find("uno").unwrap().inode());
        assert_eq!(library.part_copies().unwrap(), []);
    }

    #[test]
    fn a_copy_gets_an_identity_and_an_undo() {
        let (_dir, library) = library();
        let original = add(&library, "two");
        // By name, the copy would come first.
        copy(&library, "two", "a copy");
        let id = original.config().unwrap().uuid;
        let parted = library.part_copies().unwrap();
        assert_eq!(parted.len(), 1);
        assert!(parted[0].path.ends_with("a copy.benchtop"));
        assert_eq!(original.config().unwrap().uuid, id);
        let copied = library.find("a copy").unwrap();
        let mut config = copied.config().unwrap();
        assert_eq!(config.previous_uuid, Some(id));
        assert_ne!(config.uuid, id);
        // Undone by hand, it stays so.
        config.uuid = id;
        config.uuid_pinned = true;
        copied.save(&config).unwrap();
        assert_eq!(copied.config().unwrap().uuid, id);
    }

    #[test]
    fn a_link_to_a_bundle_is_no_copy() {
        // Every `list` gave the one bundle behind both names another UUID.
        let (dir, library) = library();
        let made = add(&library, "one");
        let before = made.config().unwrap();
        for link in ["a", "two"] {
            std::os::unix::fs::symlink("one.benchtop", dir.path().join(format!("{link}.benchtop"))).unwrap();
        }
        assert_eq!(library.part_copies().unwrap(), []);
        assert_eq!(made.config().unwrap(), before);
        assert_eq!(library.paths().unwrap(), [dir.path().join("one.benchtop")]);
        assert_eq!(library.find("two").unwrap().identity(), made.identity());
        // Nor do two names make the one in its configuration ambiguous.
        std::fs::rename(dir.path().join("one.benchtop"), dir.path().join("uno.benchtop")).unwrap();
        std::fs::remove_file(dir.path().join("two.benchtop")).unwrap();
        std::os::unix::fs::symlink("uno.benchtop", dir.path().join("two.benchtop")).unwrap();
        assert_eq!(library.find("one").unwrap().identity(), made.identity());
    }

    #[test]
    fn a_running_copy_is_left_alone() {
        let (_dir, library) = library();
        add(&library, "one");
        copy(&library, "one", "two");
        let copied = library.find("two").unwrap();
        let _running = copied.lock().unwrap();
        assert_eq!(library.part_copies().unwrap(), []);
    }

    #[test]
    fn devices_are_told_from_paths() {
        let name = |vm: &str, device: Option<&str>| VmName { vm: vm.into(), device: device.map(Into::into) };
        assert_eq!(VmName::parse("one:disk0"), name("one", Some("disk0")));
        assert_eq!(VmName::parse("one"), name("one", None));
        assert_eq!(VmName::parse("a:b/c.raw"), name("a:b/c.raw", None));
    }
}
