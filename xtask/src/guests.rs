//! `cargo xtask guests`: real software for the sample VM and the tests, in the ignored folder `out/guests`.
//!
//! The GRUB rescue CD, a Linux kernel and busybox are unpacked from their distribution packages, which needs no root; the
//! sample disk is made here: an MBR with one partition, and an ext4 file system with a few files in it.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

mod modules;
mod package;

use crate::packages::{self, EXT4, GRUB_CD};
use crate::process::{out, program, quiet};
use package::Unpacked;

const GRUB_PACKAGE: &str = "grub-rescue-pc";
const GRUB_ISO: &str = "grub-rescue-cdrom.iso";
const SAMPLE_DISK: &str = "sample-disk.img";
const DISK_BYTES: u64 = 64 << 20;
const PARTITION_START: u64 = 1 << 20;
/// What a disk behind PIIX's IDE controller and its file system need.
const DISK_MODULES: [&str; 4] = ["ata_piix", "sd_mod", "crc32c_generic", "ext4"];

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
    println!("{}", ensure_linux()?.display());
    println!("{}", ensure_generic()?.display());
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
    let package = Unpacked::fetch(folder, GRUB_PACKAGE)
        .with_context(|| format!("put {GRUB_ISO} of Debian's package {GRUB_PACKAGE} at {}", iso.display()))?;
    fs::copy(package.path("usr/lib/grub-rescue").join(GRUB_ISO), iso)?;
    Ok(())
}

/// Debian's kernel for clouds and a static busybox, in `out/guests/linux`.
///
/// # Errors
/// What could not be fetched.
pub fn ensure_linux() -> Result<PathBuf> {
    let folder = out().join("guests/linux");
    let (kernel, busybox) = (folder.join("vmlinuz"), folder.join("busybox"));
    if kernel.is_file() && busybox.is_file() {
        return Ok(folder);
    }
    fs::create_dir_all(&folder).with_context(|| format!("could not create {}", folder.display()))?;
    // The package without a version depends on the newest with one.
    let newest = Unpacked::fetch(&folder, "linux-image-cloud-amd64")?.depends()?;
    let package = Unpacked::fetch(&folder, &newest)?;
    fs::copy(package.only("boot", "vmlinuz-")?, &kernel)?;
    let package = Unpacked::fetch(&folder, "busybox-static")?;
    fs::copy(package.path("bin/busybox"), &busybox)?;
    Ok(folder)
}

/// Debian's kernel for PCs with the modules that reach an ext4 file system on an IDE disk, and GRUB to start it from
/// there, in `out/guests/generic`.
///
/// # Errors
/// What could not be fetched or made.
pub fn ensure_generic() -> Result<PathBuf> {
    packages::ensure_installed(&[&GRUB_CD])?;
    let folder = out().join("guests/generic");
    let (kernel, modules, core) = (folder.join("vmlinuz"), folder.join("modules"), folder.join("core.img"));
    if kernel.is_file() && core.is_file() {
        return Ok(folder);
    }
    fs::create_dir_all(&modules).with_context(|| format!("could not create {}", modules.display()))?;
    let newest = Unpacked::fetch(&folder, "linux-image-amd64")?.depends()?;
    let package = Unpacked::fetch(&folder, &newest)?;
    for (number, module) in modules::in_order(&package.path("lib/modules"), &DISK_MODULES)?.iter().enumerate() {
        let name = module.file_name().context("a module without a name")?.to_string_lossy();
        fs::copy(module, modules.join(format!("{number:02}-{name}")))?;
    }
    fs::copy(package.only("boot", "vmlinuz-")?, &kernel)?;
    let package = Unpacked::fetch(&folder, "grub-pc-bin")?;
    let grub = package.path("usr/lib/grub/i386-pc");
    fs::copy(grub.join("boot.img"), folder.join("boot.img"))?;
    quiet(
        program("grub-mkimage")
            .args(["-O", "i386-pc", "-p", "(hd0,msdos1)/boot/grub", "-d"])
            .arg(&grub)
            .arg("-o")
            .arg(&core)
            .args(["biosdisk", "part_msdos", "ext2", "linux", "normal", "configfile", "echo", "serial", "terminal"]),
    )?;
    Ok(folder)
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
