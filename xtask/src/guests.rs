//! `cargo xtask guests`: real software for the sample VM and the tests, in the ignored folder `out/guests`.
//!
//! The GRUB rescue CD is unpacked from its distribution package, which needs no root; the sample disk is made here: an
//! MBR with one partition, and an ext4 file system with a few files in it.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::packages::{self, EXT4, Family};
use crate::process::{has_program, out, program, quiet};

const GRUB_PACKAGE: &str = "grub-rescue-pc";
const GRUB_ISO: &str = "grub-rescue-cdrom.iso";
const SAMPLE_DISK: &str = "sample-disk.img";
const DISK_BYTES: u64 = 64 << 20;
const PARTITION_START: u64 = 1 << 20;

/// What the sample VM is made of.
pub struct Sample {
    /// The CD.
    pub iso: PathBuf,
    /// The disk.
    pub disk: PathBuf,
}

/// The command: makes what is not there yet and says what there is.
///
/// # Errors
/// What could not be fetched or made.
pub fn guests() -> Result<()> {
    let sample = ensure_sample()?;
    println!("{}", sample.iso.display());
    println!("{}", sample.disk.display());
    Ok(())
}

/// Makes the guests that are not there yet.
///
/// # Errors
/// What could not be fetched or made.
pub fn ensure_sample() -> Result<Sample> {
    packages::ensure_installed(&[&EXT4])?;
    let folder = out().join("guests");
    fs::create_dir_all(&folder).with_context(|| format!("could not create {}", folder.display()))?;
    let iso = folder.join(GRUB_ISO);
    if !iso.is_file() {
        fetch_grub(&folder, &iso)?;
    }
    let disk = folder.join(SAMPLE_DISK);
    if !disk.is_file() {
        make_disk(&folder, &disk)?;
    }
    Ok(Sample { iso, disk })
}

fn fetch_grub(folder: &Path, iso: &Path) -> Result<()> {
    // Installed already, on any distribution that puts it where Debian does.
    let installed = Path::new("/usr/lib/grub-rescue").join(GRUB_ISO);
    if installed.is_file() {
        fs::copy(&installed, iso)?;
        return Ok(());
    }
    if packages::family() != Family::Debian || !has_program("dpkg-deb") {
        bail!("the sample CD comes from Debian's package {GRUB_PACKAGE}: put its {GRUB_ISO} at {}", iso.display());
    }
    eprintln!("fetching {GRUB_PACKAGE}");
    let unpacked = folder.join("unpack");
    if unpacked.exists() {
        fs::remove_dir_all(&unpacked)?;
    }
    fs::create_dir_all(&unpacked)?;
    let download = || quiet(program("apt-get").args(["download", "--quiet", GRUB_PACKAGE]).current_dir(&unpacked));
    if download().is_err() {
        packages::update_lists()?;
        download()?;
    }
    let package = fs::read_dir(&unpacked)?
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .with_context(|| format!("apt-get left no package in {}", unpacked.display()))?;
    quiet(program("dpkg-deb").arg("-x").arg(&package).arg(&unpacked))?;
    let version = quiet(program("dpkg-deb").arg("-f").arg(&package).arg("Version"))?;
    fs::copy(unpacked.join("usr/lib/grub-rescue").join(GRUB_ISO), iso)?;
    fs::write(folder.join("versions.txt"), format!("{GRUB_PACKAGE} {}\n", version.trim()))?;
    fs::remove_dir_all(&unpacked)?;
    Ok(())
}

/// Files the sample disk holds: small ones to list and read, and one larger than a block group's first blocks.
fn write_files(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder.join("boot"))?;
    fs::write(folder.join("hello.txt"), "Hello from an ext4 disk behind Benchtop's IDE controller.\n")?;
    fs::write(folder.join("boot/readme.txt"), "This partition holds no operating system.\n")?;
    let words: Vec<u8> = (0..400_000u32).flat_map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    fs::write(folder.join("pattern.bin"), words)?;
    Ok(())
}

fn make_disk(folder: &Path, disk: &Path) -> Result<()> {
    let files = folder.join("disk-files");
    write_files(&files)?;
    let partition = folder.join("partition.img");
    File::create(&partition)?.set_len(DISK_BYTES - PARTITION_START)?;
    quiet(
        program("mke2fs")
            .args(["-q", "-F", "-t", "ext4", "-L", "SAMPLE", "-O", "^metadata_csum_seed,^orphan_file", "-d"])
            .arg(&files)
            .arg(&partition),
    )
    .or_else(|_| {
        // Older mke2fs does not know the second feature.
        quiet(program("mke2fs").args(["-q", "-F", "-t", "ext4", "-L", "SAMPLE", "-d"]).arg(&files).arg(&partition))
    })?;
    let unfinished = disk.with_extension("part");
    let mut image = File::create(&unfinished)?;
    image.write_all(&master_boot_record())?;
    image.seek(SeekFrom::Start(PARTITION_START))?;
    copy_sparse(&mut File::open(&partition)?, &mut image)?;
    image.set_len(DISK_BYTES)?;
    fs::rename(&unfinished, disk)?;
    fs::remove_file(&partition)?;
    fs::remove_dir_all(&files)?;
    Ok(())
}

fn copy_sparse(from: &mut File, to: &mut File) -> Result<()> {
    let mut block = vec![0; 1 << 16];
    loop {
        let count = from.read(&mut block)?;
        if count == 0 {
            return Ok(());
        }
        if block[..count].iter().all(|byte| *byte == 0) {
            to.seek(SeekFrom::Current(i64::try_from(count)?))?;
        } else {
            to.write_all(&block[..count])?;
        }
    }
}

/// One Linux partition from 1 MiB to the end; no boot code, so that firmware which tries it goes on.
fn master_boot_record() -> [u8; 512] {
    let mut sector = [0; 512];
    let entry = &mut sector[446..462];
    entry[1..4].copy_from_slice(&[0xfe, 0xff, 0xff]);
    entry[4] = 0x83;
    entry[5..8].copy_from_slice(&[0xfe, 0xff, 0xff]);
    entry[8..12].copy_from_slice(&((PARTITION_START / 512) as u32).to_le_bytes());
    entry[12..16].copy_from_slice(&(((DISK_BYTES - PARTITION_START) / 512) as u32).to_le_bytes());
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    sector
}
