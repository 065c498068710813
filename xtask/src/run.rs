//! `cargo xtask run`: from nothing to a VM's screen.

use anyhow::{Context, Result, ensure};

use crate::packages::{self, COMPILER, EXT4, FIRMWARE};
use crate::process::{cargo, out, show, target_directory};
use crate::{guests, process};

/// The command.
///
/// # Errors
/// The step that failed.
pub fn run() -> Result<()> {
    packages::ensure_installed(&[&COMPILER, &FIRMWARE, &EXT4])?;
    show(&mut cargo(["build", "--release", "--package", "benchtop"]))?;
    let sample = guests::ensure_sample()?;
    if ["DISPLAY", "WAYLAND_DISPLAY"].iter().any(|name| std::env::var_os(name).is_some()) {
        eprintln!("there is a display here, but the window is not built yet: the sample VM runs without one");
    }
    let screenshot = out().join("sample.png");
    if screenshot.exists() {
        std::fs::remove_file(&screenshot).context("could not remove the last screenshot")?;
    }
    eprintln!("booting the sample VM: GRUB's rescue CD with a 64 MiB IDE disk");
    show(
        process::program(&target_directory().join("release/benchtop").to_string_lossy())
            .arg("boot")
            .arg("--iso")
            .arg(&sample.iso)
            .arg("--disk")
            .arg(&sample.disk)
            .args(["--discard-writes", "--memory", "256M", "--until", "GNU GRUB", "--timeout", "180s"])
            .arg("--screenshot")
            .arg(&screenshot),
    )?;
    ensure!(screenshot.is_file(), "the VM ran but left no screenshot at {}", screenshot.display());
    println!("the sample VM's screen: {}", screenshot.display());
    Ok(())
}
