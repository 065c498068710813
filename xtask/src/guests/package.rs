//! Packages of Debian's, unpacked without being installed.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::packages::{self, Family};
use crate::process::{has_program, program, quiet};

/// What is in one. It goes when this does.
pub struct Unpacked {
    folder: PathBuf,
    package: PathBuf,
}

impl Unpacked {
    /// Fetches a package and unpacks it beside what comes of it, in `folder`, whose list of versions gets a line.
    ///
    /// # Errors
    /// This is no Debian or kin, or the package manager's.
    pub fn fetch(folder: &Path, name: &str) -> Result<Self> {
        ensure!(
            packages::family() == Family::Debian && has_program("dpkg-deb"),
            "{name} is a package of Debian's, and only Debian and its kin can fetch it"
        );
        eprintln!("fetching {name}");
        let unpacked = folder.join(format!("unpack-{name}"));
        if unpacked.exists() {
            fs::remove_dir_all(&unpacked)?;
        }
        fs::create_dir_all(&unpacked)?;
        let download = || quiet(program("apt-get").args(["download", "--quiet", name]).current_dir(&unpacked));
        if download().is_err() {
            packages::update_lists()?;
            download()?;
        }
        let package = fs::read_dir(&unpacked)?
            .filter_map(|entry| entry.ok().map(|entry| entry.path()))
            .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
            .with_context(|| format!("apt-get left no package in {}", unpacked.display()))?;
        quiet(program("dpkg-deb").arg("-x").arg(&package).arg(&unpacked))?;
        let this = Self { folder: unpacked, package };
        let mut versions = fs::File::options().append(true).create(true).open(folder.join("versions.txt"))?;
        writeln!(versions, "{name} {}", this.field("Version")?)?;
        Ok(this)
    }

    /// A file or folder of it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The file in one of its folders whose name begins so.
    ///
    /// # Errors
    /// There is none.
    pub fn only(&self, folder: &str, prefix: &str) -> Result<PathBuf> {
        fs::read_dir(self.path(folder))?
            .filter_map(|entry| entry.ok())
            .find(|entry| entry.file_name().to_string_lossy().starts_with(prefix))
            .map(|entry| entry.path())
            .with_context(|| format!("no {prefix}* in {folder} of {}", self.package.display()))
    }

    /// The first package it depends on.
    ///
    /// # Errors
    /// There is none.
    pub fn depends(&self) -> Result<String> {
        let field = self.field("Depends")?;
        let name = field.split([' ', ',']).next().filter(|name| !name.is_empty());
        Ok(name.with_context(|| format!("{} depends on nothing", self.package.display()))?.to_owned())
    }

    fn field(&self, name: &str) -> Result<String> {
        Ok(quiet(program("dpkg-deb").arg("-f").arg(&self.package).arg(name))?.trim().to_owned())
    }
}

impl Drop for Unpacked {
    fn drop(&mut self) {
        // What stays is removed with the next of that name.
        let _left = fs::remove_dir_all(&self.folder);
    }
}
