//! Finding SeaBIOS and its VGA BIOS where the distributions put them.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use benchtop_control::failure::chain;
use benchtop_control::{Failure, FailureKind};

use crate::Firmware;

/// The BIOS image's names, the better first.
const BIOS_NAMES: [&str; 2] = ["bios-256k.bin", "bios.bin"];
/// The VGA BIOS's.
const VGA_NAMES: [&str; 2] = ["vgabios-stdvga.bin", "vgabios.bin"];
/// Where packages put them: Debian and Fedora, QEMU's own folder, SUSE and Arch, old Red Hat, local builds.
const FOLDERS: [&str; 7] = [
    "/usr/share/seabios",
    "/usr/share/qemu",
    "/usr/share/seavgabios",
    "/usr/share/qemu-kvm",
    "/usr/share/vgabios",
    "/usr/local/share/seabios",
    "/usr/local/share/qemu",
];
/// The largest image that fits below 4 GiB beside the devices there.
const BIOS_BYTES_MAX: u64 = 16 << 20;
/// The largest option ROM: C0000h to DFFFFh.
const VGA_BYTES_MAX: u64 = 128 << 10;

/// Where firmware was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The BIOS.
    pub bios: PathBuf,
    /// The VGA BIOS.
    pub vga_bios: PathBuf,
}

/// Looks for firmware: in the folder or beside the file that was chosen, else in the usual folders.
///
/// # Errors
/// There is none; the advice names the package for this distribution.
pub fn find(chosen: Option<&Path>) -> Result<Found, Failure> {
    let usual = || FOLDERS.iter().map(PathBuf::from);
    let first = |names: &[&str], folders: &[PathBuf]| {
        folders.iter().flat_map(|folder| names.iter().map(|name| folder.join(name))).find(|path| path.is_file())
    };
    let (bios, folders): (Option<PathBuf>, Vec<PathBuf>) = match chosen {
        Some(path) if path.is_file() => {
            // A BIOS of one's own needs a VGA BIOS from beside it or from the system.
            let beside = path.parent().map(Path::to_path_buf);
            (Some(path.to_path_buf()), beside.into_iter().chain(usual()).collect())
        }
        Some(path) => (first(&BIOS_NAMES, &[path.to_path_buf()]), vec![path.to_path_buf()]),
        None => {
            let folders: Vec<PathBuf> = usual().collect();
            (first(&BIOS_NAMES, &folders), folders)
        }
    };
    let place = chosen.map_or_else(|| "the usual folders".to_owned(), |path| path.display().to_string());
    let missing = |names: [&str; 2]| {
        Failure::new(
            FailureKind::NotCapable,
            "can not find the firmware",
            format!("There is no {} in {place}.", names.join(" or ")),
            format!("{}, or name its folder with --firmware.", package()),
        )
    };
    let bios = bios.ok_or_else(|| missing(BIOS_NAMES))?;
    let vga_bios = first(&VGA_NAMES, &folders).ok_or_else(|| missing(VGA_NAMES))?;
    Ok(Found { bios, vga_bios })
}

/// Finds firmware and reads it.
///
/// # Errors
/// As [`find`], or a file that can not be read or is no such image.
pub fn load(chosen: Option<&Path>) -> Result<Firmware, Failure> {
    let found = find(chosen)?;
    let bios = read(&found.bios, BIOS_BYTES_MAX)?;
    let vga_bios = read(&found.vga_bios, VGA_BYTES_MAX)?;
    let no_image = |path: &Path, why: &str| {
        Failure::new(
            FailureKind::Failed,
            format!("can not use the firmware {}", path.display()),
            why,
            format!("{}, or name another with --firmware.", package()),
        )
    };
    if bios.is_empty() || !bios.len().is_multiple_of(64 << 10) {
        return Err(no_image(&found.bios, "A BIOS image is a whole number of 64 KiB."));
    }
    if !vga_bios.starts_with(&[0x55, 0xaa]) {
        return Err(no_image(&found.vga_bios, "It does not begin as an option ROM does (55h AAh)."));
    }
    Ok(Firmware { bios, vga_bios })
}

fn read(path: &Path, limit: u64) -> Result<Vec<u8>, Failure> {
    let what = format!("can not read the firmware {}", path.display());
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(limit + 1).read_to_end(&mut bytes))
        .map_err(|error| Failure::new(FailureKind::NotCapable, what.as_str(), chain(&error), "Check the file."))?;
    if u64::try_from(bytes.len()).is_ok_and(|len| len <= limit) {
        Ok(bytes)
    } else {
        Err(Failure::new(FailureKind::Failed, what, "It is too large.", "Name another with --firmware."))
    }
}

/// How to get the package on this distribution.
fn package() -> &'static str {
    let release = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    advice(&release)
}

/// The advice for a distribution whose os-release(5) is `release`.
fn advice(release: &str) -> &'static str {
    let ids: Vec<&str> = release
        .lines()
        .filter_map(|line| line.strip_prefix("ID=").or_else(|| line.strip_prefix("ID_LIKE=")))
        .flat_map(|value| value.trim_matches('"').split_whitespace())
        .collect();
    let is = |id: &str| ids.contains(&id);
    if is("debian") || is("ubuntu") {
        "Install it with `apt install seabios`"
    } else if is("fedora") || is("rhel") || is("centos") {
        "Install it with `dnf install seabios-bin seavgabios-bin`"
    } else if is("suse") || is("opensuse") || ids.iter().any(|id| id.starts_with("opensuse")) {
        "Install it with `zypper install qemu-seabios qemu-vgabios`"
    } else if is("arch") {
        "Install it with `pacman -S seabios`"
    } else if is("alpine") {
        "Install it with `apk add seabios`"
    } else {
        "Install your distribution's package `seabios`"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_without_firmware_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let failure = find(Some(dir.path())).unwrap_err();
        assert_eq!(failure.kind, FailureKind::NotCapable);
        assert!(failure.fix.contains("--firmware"), "{failure}");
    }

    #[test]
    fn a_folder_is_used_alone() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("bios-256k.bin"), vec![0; 256 << 10]).unwrap();
        std::fs::write(dir.path().join("vgabios-stdvga.bin"), [0x55, 0xaa, 0]).unwrap();
        assert_eq!(load(Some(dir.path())).unwrap().bios.len(), 256 << 10);
        std::fs::write(dir.path().join("vgabios-stdvga.bin"), [0]).unwrap();
        assert!(load(Some(dir.path())).is_err());
    }

    #[test]
    fn each_distribution_gets_its_own_advice() {
        assert!(advice("ID=debian\n").contains("apt"));
        assert!(advice("ID=linuxmint\nID_LIKE=\"ubuntu debian\"\n").contains("apt"));
        assert!(advice("ID=\"opensuse-leap\"\n").contains("zypper"));
        assert!(advice("").contains("seabios"));
    }
}
