//! Linux kernels on the software CPU, as their distribution has them: long mode, paging, interrupts, two CPUs, user space.

use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use benchtop_tests::guests::sample;
use benchtop_tests::initrd;
use benchtop_tests::vm::{self, Bench};

const INIT: &str = "#!/bin/busybox sh
b=/bin/busybox
$b mount -t devtmpfs d /dev
$b mount -t proc p /proc
$b mount -t tmpfs t /tmp
$b dd if=/dev/zero of=/tmp/zero bs=1M count=1 2>/dev/null
$b sha256sum /tmp/zero
$b gzip -c /bin/busybox | $b gunzip -c | $b cmp - /bin/busybox && echo unpacked what was packed
echo processors: $($b nproc)
$b poweroff -f
";

/// SHA-256 of 1 MiB of zeroes.
const SHA256: &str = "30e14955ebf1352266dc2ff8067e68104607e750abb9d3b36582b8af909fcb58";

#[test]
fn debians_kernel_runs_programs_on_two_software_cpus() -> Result<()> {
    let Some(kernel) = sample("linux/vmlinuz") else {
        let name = "debians_kernel_runs_programs_on_two_software_cpus";
        vm::skip(name, "the Linux guest is not there: cargo xtask guests");
        return Ok(());
    };
    let bench = Bench::new()?;
    let (initrd, serial) = (bench.path("initrd"), bench.path("serial"));
    fs::write(&initrd, initrd::with_busybox(INIT, &[])?)?;
    bench.run(&[
        "boot",
        "--accel",
        "software",
        "--cpus",
        "2",
        "--memory",
        "512M",
        "--quiet",
        "--kernel",
        &kernel.to_string_lossy(),
        "--initrd",
        &initrd.to_string_lossy(),
        "--append",
        "console=ttyS0 panic=-1",
        "--serial",
        &serial.to_string_lossy(),
        "--timeout",
        "300s",
    ])?;
    let said = String::from_utf8_lossy(&fs::read(&serial)?).into_owned();
    for text in [SHA256, "unpacked what was packed", "processors: 2", "reboot: Power down"] {
        assert!(said.contains(text), "no {text:?} in:\n{said}");
    }
    Ok(())
}

const PARTITION_START: u64 = 1 << 20;
const DISK_BYTES: u64 = 192 << 20;
/// What GRUB starts. COM1 is where the test looks.
const MENU: &str = "set timeout=0
serial --unit=0
terminal_output serial
echo GRUB reads its menu
linux /boot/vmlinuz console=ttyS0 panic=-1
initrd /boot/initrd
boot
";
/// Loads what the disk needs, and reads from it what GRUB can not have handed on.
const DISK_INIT: &str = "#!/bin/busybox sh
b=/bin/busybox
$b mount -t devtmpfs d /dev
$b mount -t sysfs s /sys
for module in /modules/*; do $b insmod $module; done
$b mkdir /disk
for try in 1 2 3 4 5 6 7 8 9 10; do $b mount -t ext4 /dev/sda1 /disk && break; $b sleep 1; done
$b cat /disk/proof.txt
echo written by the guest > /disk/answer.txt
$b umount /disk
$b poweroff -f
";
const PROOF: &str = "read from the ext4 file system on the IDE disk";

/// The kernel for PCs, as SeaBIOS and GRUB start it from an IDE disk, drives that disk with its own modules.
#[test]
fn debians_generic_kernel_starts_by_grub_from_an_ide_disk() -> Result<()> {
    let name = "debians_generic_kernel_starts_by_grub_from_an_ide_disk";
    let Some(core) = sample("generic/core.img") else {
        vm::skip(name, "the generic Linux guest is not there: cargo xtask guests");
        return Ok(());
    };
    let bench = Bench::new()?;
    let (disk, serial) = (disk(&bench, core.parent().context("no folder")?)?, bench.path("serial"));
    bench.run(&[
        "boot",
        "--accel",
        "software",
        "--memory",
        "512M",
        "--quiet",
        "--disk",
        &format!("{},cache=writeback", disk.display()),
        "--serial",
        &serial.to_string_lossy(),
        "--timeout",
        "400s",
    ])?;
    let said = String::from_utf8_lossy(&fs::read(&serial)?).into_owned();
    for text in ["GRUB reads its menu", PROOF, "reboot: Power down"] {
        assert!(said.contains(text), "no {text:?} in:\n{said}");
    }
    assert_eq!(answer(&bench, &disk)?, "written by the guest\n");
    Ok(())
}

/// A disk with GRUB in its first sectors, and a partition with an ext4 file system.
fn disk(bench: &Bench, guest: &Path) -> Result<PathBuf> {
    let files = bench.path("files");
    fs::create_dir_all(files.join("boot/grub"))?;
    fs::write(files.join("boot/grub/grub.cfg"), MENU)?;
    fs::write(files.join("proof.txt"), format!("{PROOF}\n"))?;
    fs::copy(guest.join("vmlinuz"), files.join("boot/vmlinuz"))?;
    let mut modules = Vec::new();
    for entry in fs::read_dir(guest.join("modules"))? {
        let path = entry?.path();
        let name = path.file_name().context("a module without a name")?.to_string_lossy().into_owned();
        modules.push((format!("modules/{name}"), fs::read(path)?));
    }
    modules.sort();
    let modules: Vec<_> = modules.iter().map(|(name, content)| (name.as_str(), content.as_slice())).collect();
    fs::write(files.join("boot/initrd"), initrd::with_busybox(DISK_INIT, &modules)?)?;
    let partition = bench.path("partition");
    File::create(&partition)?.set_len(DISK_BYTES - PARTITION_START)?;
    // GRUB reads neither of the two.
    tool(
        Command::new("mke2fs")
            .args(["-q", "-F", "-t", "ext4", "-O", "^metadata_csum_seed,^orphan_file", "-d"])
            .arg(&files)
            .arg(&partition),
    )
    .or_else(|_| tool(Command::new("mke2fs").args(["-q", "-F", "-t", "ext4", "-d"]).arg(&files).arg(&partition)))?;
    let (disk, core) = (bench.path("disk"), fs::read(guest.join("core.img"))?);
    ensure!(core.len() as u64 <= PARTITION_START - 512, "GRUB's core does not fit before the partition");
    let mut image = File::create(&disk)?;
    image.write_all(&first_sector(&fs::read(guest.join("boot.img"))?)?)?;
    image.write_all(&core)?;
    image.seek(SeekFrom::Start(PARTITION_START))?;
    image.write_all(&fs::read(&partition)?)?;
    Ok(disk)
}

/// GRUB's boot code, which reads on from sector 1, and one Linux partition.
fn first_sector(boot: &[u8]) -> Result<[u8; 512]> {
    let mut sector: [u8; 512] = boot.try_into().context("boot.img is one sector")?;
    let start = (PARTITION_START / 512) as u32;
    // Code for floppy disks lies where a hard disk has its partitions.
    sector[446..510].fill(0);
    let entry = &mut sector[446..462];
    entry.copy_from_slice(&[0x80, 0xfe, 0xff, 0xff, 0x83, 0xfe, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0]);
    entry[8..12].copy_from_slice(&start.to_le_bytes());
    entry[12..].copy_from_slice(&((DISK_BYTES / 512) as u32 - start).to_le_bytes());
    Ok(sector)
}

/// What the guest wrote, read by the host's tools, which first play the journal back.
fn answer(bench: &Bench, disk: &Path) -> Result<String> {
    let partition = bench.path("after");
    let content = fs::read(disk)?;
    fs::write(&partition, content.get(PARTITION_START as usize..).context("the disk became shorter")?)?;
    tool(Command::new("debugfs").args(["-R", "cat /answer.txt"]).arg(&partition))
}

fn tool(command: &mut Command) -> Result<String> {
    if let Some(path) = std::env::var_os("PATH") {
        let mut path = path;
        path.push(":/usr/sbin:/sbin");
        command.env("PATH", path);
    }
    let output = command.output().with_context(|| format!("could not start {:?}", command.get_program()))?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
