//! The monitor is killed under a write-through load, and what the guest was told is complete must be in the image.
//!
//! This shows that no acknowledgement runs ahead of the write. It can not show that the host's cache was flushed, for
//! that cache survives the kill: the block crate's recording disk shows that part.

use std::fs;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use benchtop_tests::records::{self, SLOT_BYTES};
use benchtop_tests::vm::{self, Bench};

const SLOTS: u32 = 64;

/// Kills in an ordinary test run; `cargo xtask soak` asks for more.
const KILLS: u32 = 5;

/// The same for a VM of the library, which takes longer to start.
const KILLS_OF_BUNDLES: u32 = 3;

/// A kill comes within this time after the guest's first reports.
const LOAD: Duration = Duration::from_millis(700);

/// A kill of `set` comes within this time after its start: before, while or after it saves.
const SETTING: Duration = Duration::from_millis(10);

fn from_environment<T: std::str::FromStr>(name: &str) -> Option<T> {
    std::env::var(name).ok()?.parse().ok()
}

/// Moments to kill at. Printed, so that a failure can be run again.
struct Moments(u64);

impl Moments {
    fn new(what: &str, kills: u32) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let seed = from_environment("BENCHTOP_SEED").unwrap_or(now);
        println!("{what}: {kills} kills, BENCHTOP_SEED={seed}");
        Self(seed)
    }

    fn below(&mut self, limit: Duration) -> Duration {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        Duration::from_micros((self.0 >> 33) % limit.as_micros() as u64)
    }
}

#[test]
fn what_was_reported_complete_survives_the_monitors_death() -> Result<()> {
    if !vm::can_run("what_was_reported_complete_survives_the_monitors_death") {
        return Ok(());
    }
    let kills = from_environment("BENCHTOP_KILLS").unwrap_or(KILLS);
    let mut moments = Moments::new("boot", kills);
    let bench = Bench::new()?;
    let disk = bench.disk("disk.img", u64::from(SLOTS) * SLOT_BYTES)?;
    let option = format!("{},cache=writethrough", disk.display());
    let mut first = 1;
    for kill in 0..kills {
        let way = if kill % 2 == 0 { "dma" } else { "pio" };
        let iso = bench.bare_iso(&format!("mode=writeloop slots={SLOTS} first={first} way={way}"))?;
        let mut guest = bench.boot(&iso, &["--disk", &option])?;
        // A second report has begun, so the first is whole, whenever the kill comes.
        guest.wait_for(&format!("done {}", first + 1), Duration::from_secs(60))?;
        std::thread::sleep(moments.below(LOAD));
        guest.kill()?;
        fs::remove_file(&iso)?;

        let done = records::last_reported(&guest.serial()).context("the guest reported nothing")?;
        records::check(&disk, SLOTS, first, done).with_context(|| format!("kill {kill}"))?;
        first = done + SLOTS;
        if (kill + 1) % 20 == 0 {
            println!("boot: {} kills, {done} records so far", kill + 1);
        }
    }
    Ok(())
}

/// The same for a VM of the library. What a monitor leaves behind (its lock, its socket, a half-written
/// configuration) must not be in the way of the next start, round after round.
#[test]
fn a_bundle_outlives_its_monitor_and_a_half_done_set() -> Result<()> {
    if !vm::can_run("a_bundle_outlives_its_monitor_and_a_half_done_set") {
        return Ok(());
    }
    let kills = from_environment("BENCHTOP_KILLS").unwrap_or(KILLS_OF_BUNDLES);
    let mut moments = Moments::new("bundle", kills);
    let bench = Bench::new()?;
    let iso = bench.path("guest.iso");
    fs::rename(bench.bare_iso("mode=writeloop")?, &iso)?;
    let disk = format!("{},cache=writethrough,format=raw", u64::from(SLOTS) * SLOT_BYTES);
    let mut guest = bench.new_vm("killed", &disk, &iso)?;
    let image = guest.image()?;
    let mut memory_bytes = guest.show()?["memory_bytes"].clone();
    let (mut first, mut sets, mut saved) = (1, 0, 0);
    for kill in 0..kills {
        let way = if kill % 2 == 0 { "dma" } else { "pio" };
        fs::rename(bench.bare_iso(&format!("mode=writeloop slots={SLOTS} first={first} way={way}"))?, &iso)?;
        guest.start().with_context(|| format!("start {kill}"))?;
        guest.wait_for(&format!("done {}", first + 1), Duration::from_secs(60))?;
        std::thread::sleep(moments.below(LOAD));
        guest.kill()?;

        let (listed, shown) = (guest.listed_state()?, guest.show()?);
        ensure!(listed == "off" && shown["state"] == "off", "kill {kill}: listed as {listed}, shown as {shown}");
        ensure!(shown["memory_bytes"] == memory_bytes, "kill {kill}: the memory became {}", shown["memory_bytes"]);
        let done = records::last_reported(&guest.serial()).context("the guest reported nothing")?;
        records::check(&image, SLOTS, first, done).with_context(|| format!("kill {kill}"))?;
        first = done + SLOTS;

        if kill % 3 == 2 {
            let other: u64 = if memory_bytes == 128 << 20 { 160 << 20 } else { 128 << 20 };
            let mut set = bench.benchtop()?.args(["set", "killed", &format!("memory={other}")]).spawn()?;
            std::thread::sleep(moments.below(SETTING));
            set.kill()?;
            set.wait()?;
            let now = guest.show()?["memory_bytes"].clone();
            ensure!(now == memory_bytes || now == other, "kill {kill}: neither the old nor the new memory, but {now}");
            sets += 1;
            saved += u32::from(now == other);
            memory_bytes = now;
        }
        if (kill + 1) % 20 == 0 {
            println!("bundle: {} kills, {done} records so far, {saved} of {sets} sets were faster", kill + 1);
        }
    }
    Ok(())
}
