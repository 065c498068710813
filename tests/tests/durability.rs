//! The monitor is killed under a write-through load, and what the guest was told is complete must be in the image.
//!
//! This shows that no acknowledgement runs ahead of the write. It can not show that the host's cache was flushed, for
//! that cache survives the kill: the block crate's recording disk shows that part.

use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use benchtop_tests::guests::crc32;
use benchtop_tests::vm::{self, Bench};

const SLOTS: u32 = 64;

/// Kills in an ordinary test run; `cargo xtask soak` asks for more.
const KILLS: u32 = 5;

fn from_environment<T: std::str::FromStr>(name: &str) -> Option<T> {
    std::env::var(name).ok()?.parse().ok()
}

/// The number of the record in each slot, if all its sectors are whole and agree.
fn records(image: &Path) -> Result<Vec<Option<u32>>> {
    let content = fs::read(image)?;
    let word = |sector: &[u8], index: usize| {
        u32::from_le_bytes([sector[index * 4], sector[index * 4 + 1], sector[index * 4 + 2], sector[index * 4 + 3]])
    };
    let slot_number = |slot: &[u8]| {
        let first = word(slot, 0);
        slot.chunks_exact(512)
            .all(|sector| {
                let body = [&sector[..8], &sector[12..]].concat();
                word(sector, 0) == first && word(sector, 2) == crc32(&body)
            })
            .then_some(first)
    };
    Ok(content.chunks_exact(4096).take(SLOTS as usize).map(slot_number).collect())
}

#[test]
fn what_was_reported_complete_survives_the_monitors_death() -> Result<()> {
    if !vm::can_run("what_was_reported_complete_survives_the_monitors_death") {
        return Ok(());
    }
    let kills = from_environment("BENCHTOP_KILLS").unwrap_or(KILLS);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let mut seed: u64 = from_environment("BENCHTOP_SEED").unwrap_or(now);
    println!("{kills} kills, BENCHTOP_SEED={seed}");
    let bench = Bench::new()?;
    let disk = bench.disk("disk.img", u64::from(SLOTS) * 4096)?;
    let option = format!("{},cache=writethrough", disk.display());
    let mut first = 1;
    for kill in 0..kills {
        let way = if kill % 2 == 0 { "dma" } else { "pio" };
        let iso = bench.bare_iso(&format!("mode=writeloop slots={SLOTS} first={first} way={way}"))?;
        let mut guest = bench.boot(&iso, &["--disk", &option])?;
        // A second report has begun, so the first is whole, whenever the kill comes.
        guest.wait_for(&format!("done {}", first + 1), Duration::from_secs(60))?;
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        std::thread::sleep(Duration::from_millis((seed >> 33) % 700));
        guest.kill()?;
        fs::remove_file(&iso)?;

        let serial = guest.serial();
        let done: u32 = serial
            .rsplit_once('\n')
            .map_or("", |(whole, _)| whole)
            .lines()
            .rev()
            .find_map(|line| line.strip_prefix("done ")?.parse().ok())
            .context("the guest reported nothing")?;
        let found = records(&disk)?;
        for back in 0..SLOTS.min(done - first + 1) {
            let number = done - back;
            let slot = (number % SLOTS) as usize;
            // The one write in flight may be torn: it went to the slot of the oldest record.
            let overtaken = back == SLOTS - 1;
            ensure!(
                found[slot].is_some_and(|found| found >= number) || overtaken,
                "kill {kill}: record {number} was reported complete, but its slot holds {:?}",
                found[slot]
            );
        }
        first = done + SLOTS;
        if (kill + 1) % 20 == 0 {
            println!("{} kills, {done} records so far", kill + 1);
        }
    }
    Ok(())
}
