//! The bare-metal guest on our devices: every byte it moves is checked, on its side and on ours.

use std::fs;
use std::io::{Read, Seek, SeekFrom};
use std::time::Duration;

use anyhow::Result;
use benchtop_tests::guests::{crc32, pattern_sector};
use benchtop_tests::vm::{self, Bench};
use tempfile::NamedTempFile;

#[test]
fn a_whole_disk_by_pio_and_dma_with_interrupts_and_polling() -> Result<()> {
    if !vm::can_run("a_whole_disk_by_pio_and_dma_with_interrupts_and_polling") {
        return Ok(());
    }
    let bench = Bench::new()?;
    let disk = bench.disk("disk.img", 2 << 20)?;
    let option = format!("{},cache=writeback", disk.display());
    let serial = bench.bare("mode=verify seed=7", &["--disk", &option])?;
    assert!(serial.contains("verify ok"), "{serial}");
    let content = fs::read(&disk)?;
    for (lba, sector) in (0..).zip(content.chunks_exact(512)) {
        assert_eq!(sector, pattern_sector(7, lba), "sector {lba} on the host");
    }
    Ok(())
}

/// IDENTIFY DEVICE has 48 bits for the number of sectors, so the highest address, 2^48 - 1, is never one of a disk's.
const SECTORS_MAX: u64 = (1 << 48) - 1;

/// Sizes around 2^28 sectors, the largest disk that ext4 can hold sparsely, and the largest one that LBA48 can name,
/// for which there is tmpfs.
#[test]
fn addresses_at_the_limits_of_lba28_and_lba48() -> Result<()> {
    if !vm::can_run("addresses_at_the_limits_of_lba28_and_lba48") {
        return Ok(());
    }
    let bench = Bench::new()?;
    for sectors in [(1u64 << 28) - 1, 1 << 28, (1 << 28) + 4096, 15 << 31, SECTORS_MAX, SECTORS_MAX + 1] {
        let Some(disk) = sparse(sectors * 512) else {
            vm::skip(&format!("a disk of {sectors} sectors"), "no file system here can hold such a file");
            continue;
        };
        let option = format!("{},cache=writeback", disk.path().display());
        let serial = bench.bare("mode=limits seed=3", &["--disk", &option])?;
        let sectors = sectors.min(SECTORS_MAX);
        assert!(serial.contains(&format!("disk sectors {sectors} ")), "{serial}");
        assert!(serial.contains("limits ok"), "{serial}");
        for line in serial.lines().filter(|line| line.starts_with("refused")) {
            assert!(line.contains("status 1 ") && line.ends_with("timed out 0"), "{line}");
        }
        // The guest would not notice addresses that the device mixes up the same way in both directions.
        let powers = (33..48).map(|bit| 1 << bit).filter(|lba| lba + 64 < sectors);
        for lba in powers.chain([sectors - 1]) {
            let mut file = disk.as_file();
            file.seek(SeekFrom::Start(lba * 512))?;
            let mut sector = [0; 512];
            file.read_exact(&mut sector)?;
            assert_eq!(sector, pattern_sector(3, lba), "sector {lba} of {sectors} on the host");
        }
    }
    Ok(())
}

/// An empty file of `bytes` on the first file system that holds it.
fn sparse(bytes: u64) -> Option<NamedTempFile> {
    [std::env::temp_dir(), "/dev/shm".into()].into_iter().find_map(|folder| {
        let file = tempfile::Builder::new().prefix("benchtop-test").tempfile_in(folder).ok()?;
        file.as_file().set_len(bytes).ok()?;
        Some(file)
    })
}

#[test]
fn the_cd_reads_as_the_iso_byte_for_byte() -> Result<()> {
    if !vm::can_run("the_cd_reads_as_the_iso_byte_for_byte") {
        return Ok(());
    }
    let bench = Bench::new()?;
    let serial = bench.bare("mode=cd", &[])?;
    let iso = fs::read(bench.path("mode-cd.iso"))?;
    assert!(serial.contains(&format!("cd blocks {}\n", iso.len() / 2048)), "{serial}");
    for way in ["pio-2048", "pio-65534", "dma"] {
        for (index, chunk) in iso.chunks(32 * 2048).enumerate() {
            let line = format!("cd {way} {} {:08x}\n", index * 32, crc32(chunk));
            assert!(serial.contains(&line), "no {line:?} in:\n{serial}");
        }
    }
    assert!(serial.contains("cd end status 1 sense 00052100"), "{serial}");
    Ok(())
}

#[test]
fn an_ejected_and_an_inserted_disc_are_seen() -> Result<()> {
    if !vm::can_run("an_ejected_and_an_inserted_disc_are_seen") {
        return Ok(());
    }
    let bench = Bench::new()?;
    let first = bench.bare_iso("mode=media seconds=60")?;
    let second = bench.bare_iso("mode=cd the=second disc")?;
    let mut guest = bench.boot(&first, &["--name", "media", "--timeout", "120s"])?;
    guest.wait_for("media waiting", Duration::from_secs(60))?;
    bench.run(&["cd", "eject", "media"])?;
    guest.wait_for("media sense 00023a", Duration::from_secs(20))?;
    bench.run(&["cd", "insert", "media", &second.to_string_lossy()])?;
    let serial = guest.finish(Duration::from_secs(60))?;
    assert!(serial.contains("media event"), "{serial}");
    assert!(serial.contains("sense 00062800"), "{serial}");
    let crc = crc32(&fs::read(&second)?[..32 * 2048]);
    assert!(serial.contains(&format!("crc {crc:08x}\nmedia changed")), "{serial}");
    Ok(())
}

#[test]
fn two_cpus_both_run() -> Result<()> {
    if !vm::can_run("two_cpus_both_run") {
        return Ok(());
    }
    let serial = Bench::new()?.bare("mode=smp", &["--cpus", "2"])?;
    assert!(serial.contains("smp bsp 0 ap 1 counted"), "{serial}");
    Ok(())
}

#[test]
fn a_halted_cpu_wakes_for_the_timer() -> Result<()> {
    if !vm::can_run("a_halted_cpu_wakes_for_the_timer") {
        return Ok(());
    }
    let serial = Bench::new()?.bare("mode=idle count=10", &[])?;
    assert!(serial.contains("idle over"), "{serial}");
    Ok(())
}
