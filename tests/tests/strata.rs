//! A guest on a Strata disk. The monitor is killed under a write-through load; the disk opens, is whole, and has what
//! the guest was told is complete.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use benchtop_tests::records::{self, SLOT_BYTES};
use benchtop_tests::vm::{self, Bench};

const SLOTS: u32 = 64;
const KILLS: u32 = 3;

/// The disk's content as a raw image, after a check of the disk.
fn exported(bench: &Bench, disk: &str, more: &[&str]) -> Result<PathBuf> {
    let checked = bench.json(&[&["disk", "check", disk], more].concat())?;
    ensure!(checked["damages"] == 0 && checked["leaks"] == 0, "{checked}");
    let raw = bench.path("exported.raw");
    let path = raw.to_string_lossy();
    bench.run(&[&["disk", "convert", disk, &path, "--force", "--verify"], more].concat())?;
    Ok(raw)
}

#[test]
fn a_bundles_strata_disk_outlives_its_monitor() -> Result<()> {
    if !vm::can_run("a_bundles_strata_disk_outlives_its_monitor") {
        return Ok(());
    }
    let bench = Bench::new()?;
    let iso = bench.path("guest.iso");
    fs::rename(bench.bare_iso("mode=writeloop")?, &iso)?;
    let mut guest = bench.new_vm("killed", &format!("{},cache=writethrough", u64::from(SLOTS) * SLOT_BYTES), &iso)?;
    ensure!(guest.image()?.extension().is_some_and(|extension| extension == "strata"), "new disks are Strata");
    let mut first = 1;
    for kill in 0..KILLS {
        fs::rename(bench.bare_iso(&format!("mode=writeloop slots={SLOTS} first={first} way=dma"))?, &iso)?;
        guest.start()?;
        guest.wait_for(&format!("done {}", first + 1), Duration::from_secs(60))?;
        std::thread::sleep(Duration::from_millis(u64::from(kill) * 250));
        guest.kill()?;
        let done = records::last_reported(&guest.serial()).context("the guest reported nothing")?;
        let raw = exported(&bench, "killed:disk0", &[])?;
        records::check(&raw, SLOTS, first, done).with_context(|| format!("kill {kill}"))?;
        first = done + SLOTS;
    }
    Ok(())
}

#[test]
fn an_encrypted_disk_outlives_its_vm() -> Result<()> {
    if !vm::can_run("an_encrypted_disk_outlives_its_vm") {
        return Ok(());
    }
    let bench = Bench::new()?;
    let (key, disk) = (bench.path("key"), bench.path("disk.strata"));
    fs::write(&key, "open sesame")?;
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let (key, disk) = (text(&key), text(&disk));
    let size = (u64::from(SLOTS) * SLOT_BYTES).to_string();
    let password = ["--password-file", key.as_str()];
    bench.run(&[&["disk", "create", &disk, "--size", &size, "--encrypt"], &password[..]].concat())?;
    let option = format!("{disk},cache=writethrough");
    let iso = bench.bare_iso(&format!("mode=writeloop slots={SLOTS} first=1 way=dma"))?;
    let mut guest = bench.boot(&iso, &[&["--disk", &option], &password[..]].concat())?;
    guest.wait_for("done 20", Duration::from_secs(60))?;
    guest.kill()?;
    let done = records::last_reported(&guest.serial()).context("the guest reported nothing")?;
    records::check(&exported(&bench, &disk, &password)?, SLOTS, 1, done)
}

/// Every byte by PIO and DMA, verified by the guest, and a clean end.
#[test]
fn a_guest_reads_back_what_it_wrote_in_every_format() -> Result<()> {
    if !vm::can_run("a_guest_reads_back_what_it_wrote_in_every_format") {
        return Ok(());
    }
    let bench = Bench::new()?;
    for format in ["strata", "qcow2", "vmdk", "vdi", "vhd", "vhdx"] {
        let disk = bench.path(&format!("disk.{format}"));
        let path = disk.to_string_lossy();
        bench.run(&["disk", "create", &path, "--size", "2M"])?;
        let option = format!("{path},cache=writeback");
        let serial = bench.bare("mode=verify seed=7", &["--disk", &option])?;
        ensure!(serial.contains("verify ok"), "{format}: {serial}");
        let raw = exported(&bench, &path, &[])?;
        for (lba, sector) in (0..).zip(fs::read(&raw)?.chunks_exact(512).take(4096)) {
            ensure!(sector == benchtop_tests::guests::pattern_sector(7, lba), "{format}: sector {lba}");
        }
    }
    Ok(())
}
