//! The guests that tests boot: our own bare-metal one, assembled when it is first asked for, and those that
//! `cargo xtask guests` unpacks from distribution packages.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::iso;

const COMMAND_OFFSET: usize = 64;
const COMMAND_BYTES: usize = 448;

/// Top of the repository.
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// A guest that `cargo xtask guests` makes, such as `grub-rescue-cdrom.iso`, or `None` where it has not been run.
pub fn sample(name: &str) -> Option<PathBuf> {
    let path = repository().join("out/guests").join(name);
    path.is_file().then_some(path)
}

/// The bare-metal guest (tests/guests/bare), ready to boot.
#[derive(Clone, Debug)]
pub struct BareGuest {
    image: Vec<u8>,
}

impl BareGuest {
    /// Assembles, compiles and links it with the host's `gcc`, `ld` and `objcopy`.
    ///
    /// # Errors
    /// A tool that is missing or fails.
    pub fn build() -> Result<Self> {
        let out = tempfile::tempdir()?;
        let source = repository().join("tests/guests/bare");
        let mut sources: Vec<PathBuf> = fs::read_dir(&source)
            .with_context(|| format!("read {}", source.display()))?
            .filter_map(|entry| entry.ok().map(|entry| entry.path()))
            .filter(|path| path.extension().is_some_and(|extension| extension == "S" || extension == "c"))
            .collect();
        sources.sort();
        ensure!(!sources.is_empty(), "no sources in {}", source.display());
        let elf = out.path().join("guest.elf");
        let image = out.path().join("guest.bin");
        let script = source.join("link.ld");
        let mut gcc = Command::new("gcc");
        gcc.args(["-m64", "-O2", "-std=gnu11", "-ffreestanding", "-nostdlib", "-static", "-fno-pic", "-mcmodel=small"])
            .args(["-mno-red-zone", "-fcf-protection=none"])
            .args(["-no-pie", "-fno-stack-protector", "-mgeneral-regs-only", "-fno-asynchronous-unwind-tables"])
            .args(["-Wall", "-Wextra", "-Werror", "-Wl,--build-id=none", "-Wl,--no-warn-rwx-segments", "-Wl,-T"])
            .arg(script)
            .arg("-o")
            .arg(&elf)
            .args(&sources);
        run(&mut gcc)?;
        run(Command::new("objcopy").args(["-O", "binary", "-j", ".image"]).arg(&elf).arg(&image))?;
        Ok(Self { image: fs::read(&image)? })
    }

    /// An ISO that boots it with `command`, such as `mode=verify seed=7`, and carries `data` as a file.
    ///
    /// # Errors
    /// A command that is too long.
    pub fn iso(&self, command: &str, data: &[u8]) -> Result<Vec<u8>> {
        ensure!(command.len() < COMMAND_BYTES && command.is_ascii(), "no room for the command {command:?}");
        let mut image = self.image.clone();
        let place = image.get_mut(COMMAND_OFFSET..COMMAND_OFFSET + COMMAND_BYTES).context("image too short")?;
        place.fill(0);
        place[..command.len()].copy_from_slice(command.as_bytes());
        iso::bootable(&image, &[("DATA.BIN", data)])
    }
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("start {:?}", command.get_program()))?;
    if !output.status.success() {
        bail!("{:?} failed:\n{}", command.get_program(), String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}

/// The pattern word the guest's `pattern_word` makes (tests/guests/bare/verify.c).
pub fn pattern_word(seed: u32, lba: u64, index: u32) -> u32 {
    let (low, high) = (lba as u32, (lba >> 32) as u32);
    let mut x = low ^ high.wrapping_mul(0x85eb_ca6b) ^ index.wrapping_mul(0x9e37_79b9) ^ seed;
    x ^= x >> 16;
    x = x.wrapping_mul(0x7feb_352d);
    x ^= x >> 15;
    x = x.wrapping_mul(0x846c_a68b);
    x ^ (x >> 16)
}

/// A whole sector of it.
pub fn pattern_sector(seed: u32, lba: u64) -> [u8; 512] {
    let mut sector = [0; 512];
    for (index, word) in (0..).zip(sector.chunks_exact_mut(4)) {
        word.copy_from_slice(&pattern_word(seed, lba, index).to_le_bytes());
    }
    sector
}

/// The CRC-32 (IEEE) the guest reports.
pub fn crc32(data: &[u8]) -> u32 {
    !data.iter().fold(!0u32, |mut crc, byte| {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0xedb8_8320 } else { crc >> 1 };
        }
        crc
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crc_of_the_check_string() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }
}
