//! System packages: installed on Debian and its kin, named elsewhere.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::process::{has_program, program, quiet, show};

/// Something the host must have.
pub struct Need {
    /// What tells that it is there.
    probe: Probe,
    debian: &'static str,
    fedora: &'static str,
    arch: &'static str,
}

enum Probe {
    Program(&'static str),
    Files(&'static [&'static str]),
}

/// The firmware a VM starts with.
pub const FIRMWARE: Need = Need {
    probe: Probe::Files(&[
        "/usr/share/seabios/bios-256k.bin",
        "/usr/share/seabios/bios.bin",
        "/usr/share/qemu/bios-256k.bin",
    ]),
    debian: "seabios",
    fedora: "seabios-bin seavgabios-bin",
    arch: "seabios",
};
/// Makes and checks ext4.
pub const EXT4: Need =
    Need { probe: Probe::Program("mke2fs"), debian: "e2fsprogs", fedora: "e2fsprogs", arch: "e2fsprogs" };
/// Builds the bare-metal guest (and links Rust programs).
pub const COMPILER: Need =
    Need { probe: Probe::Program("gcc"), debian: "build-essential", fedora: "gcc binutils", arch: "base-devel" };
/// Links and cuts out the bare-metal guest.
pub const BINUTILS: Need =
    Need { probe: Probe::Program("objcopy"), debian: "binutils", fedora: "binutils", arch: "binutils" };
/// `kill`, by which tests end monitors as a user would.
pub const KILL: Need = Need { probe: Probe::Program("kill"), debian: "procps", fedora: "procps-ng", arch: "procps-ng" };
/// The other local user of a test.
pub const PYTHON: Need =
    Need { probe: Probe::Program("python3"), debian: "python3-minimal", fedora: "python3", arch: "python" };
/// What images are compared by.
pub const QEMU_TOOLS: Need =
    Need { probe: Probe::Program("qemu-img"), debian: "qemu-utils", fedora: "qemu-img", arch: "qemu-img" };
/// What puts a load on NBD servers.
pub const FIO: Need = Need { probe: Probe::Program("fio"), debian: "fio", fedora: "fio", arch: "fio" };
/// Another PC in software, with its firmware.
pub const BOCHS: Need = Need {
    probe: Probe::Program("bochs"),
    debian: "bochs bochs-sdl bochsbios vgabios",
    fedora: "bochs",
    arch: "bochs",
};
/// Makes a CD that boots a kernel.
pub const GRUB_CD: Need = Need {
    probe: Probe::Program("grub-mkrescue"),
    debian: "grub-common grub-pc-bin xorriso mtools",
    fedora: "grub2-tools-extra grub2-pc-modules xorriso mtools",
    arch: "grub libisoburn mtools",
};
/// The peer of the benchmarks.
pub const QEMU: Need = Need {
    probe: Probe::Program("qemu-system-x86_64"),
    debian: "qemu-system-x86",
    fedora: "qemu-system-x86",
    arch: "qemu-system-x86",
};

impl Need {
    fn is_met(&self) -> bool {
        match self.probe {
            Probe::Program(name) => has_program(name),
            Probe::Files(files) => files.iter().any(|file| Path::new(file).is_file()),
        }
    }
}

/// The distribution's family, by os-release.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// Debian, Ubuntu and what derives from them.
    Debian,
    /// Fedora, RHEL and kin.
    Fedora,
    /// Arch and kin.
    Arch,
    /// Anything else.
    Other,
}

/// Which family this host is of.
pub fn family() -> Family {
    let text = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let words: Vec<String> = text
        .lines()
        .filter_map(|line| line.strip_prefix("ID=").or_else(|| line.strip_prefix("ID_LIKE=")))
        .flat_map(|value| value.trim_matches('"').split(' ').map(str::to_owned).collect::<Vec<_>>())
        .collect();
    let is = |name: &str| words.iter().any(|word| word == name);
    if is("debian") || is("ubuntu") {
        Family::Debian
    } else if is("fedora") || is("rhel") {
        Family::Fedora
    } else if is("arch") {
        Family::Arch
    } else {
        Family::Other
    }
}

/// Sees to it that every need is met: installs what is missing on Debian and its kin, and says what it installs.
///
/// # Errors
/// An installation that fails, or a distribution on which the user must do it, with the names to install.
pub fn ensure_installed(needs: &[&Need]) -> Result<()> {
    let missing: Vec<_> = needs.iter().filter(|need| !need.is_met()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let names = |pick: fn(&Need) -> &'static str| missing.iter().map(|need| pick(need)).collect::<Vec<_>>().join(" ");
    match family() {
        Family::Debian => {
            let packages = names(|need| need.debian);
            eprintln!("installing: {packages}");
            let mut arguments = vec!["apt-get", "install", "--yes", "--no-install-recommends", "--quiet"];
            arguments.extend(packages.split(' '));
            // A fresh machine knows no packages yet; an old list is good enough where it works.
            if as_root(&arguments).is_err() {
                update_lists()?;
                as_root(&arguments).with_context(|| format!("install these packages and try again: {packages}"))?;
            }
            Ok(())
        }
        Family::Fedora => bail!("install what is missing and try again: dnf install {}", names(|need| need.fedora)),
        Family::Arch => bail!("install what is missing and try again: pacman -S {}", names(|need| need.arch)),
        Family::Other => {
            bail!("install what is missing and try again (names as Debian has them): {}", names(|need| need.debian))
        }
    }
}

/// Asks the distribution what packages there are.
///
/// # Errors
/// The package manager's.
pub fn update_lists() -> Result<()> {
    as_root(&["apt-get", "update", "--quiet"])
}

fn as_root(arguments: &[&str]) -> Result<()> {
    let root = quiet(program("id").arg("-u"))?.trim() == "0";
    let mut command = if root {
        let mut command = program(arguments[0]);
        command.args(&arguments[1..]);
        command
    } else {
        let mut command = program("sudo");
        command.args(arguments);
        command
    };
    show(command.env("DEBIAN_FRONTEND", "noninteractive"))
}
