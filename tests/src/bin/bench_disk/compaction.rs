//! What compaction costs: bytes written for bytes of the guest on a full disk that is overwritten at random, and what the
//! guest waits meanwhile.

use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use benchtop_block::DiskBackend as _;
use benchtop_memory::IoBuffer;
use benchtop_strata::{CreateOptions, Medium, Retention, StrataDisk};

use crate::Bench;
use crate::drive::{Random, noise};
use crate::figures::{Table, number, ratio, size};
use crate::medium::{self, Caching, Counted};
use crate::plain::OURS;

const GROUP: &str = "compaction";
const BLOCK: u64 = 4096;
/// Of the disk, unless `--quick` makes it smaller.
const SIZE_BYTES: u64 = 1 << 30;
/// Percent of what is needed that is not needed and there.
const GARBAGE: [u64; 3] = [10, 25, 50];
/// The disk is overwritten so often before anything is counted, and so often while it is.
const PASSES: u64 = 2;
/// More garbage than there will ever be.
const NEVER: u64 = 1 << 20;
/// How often the space in use is looked at, in writes.
const LOOKS_EVERY: u64 = 4096;

/// Measures the group.
///
/// # Errors
/// A step that failed.
pub fn run(bench: &mut Bench) -> Result<()> {
    if bench.wants("curve") {
        curve(bench)?;
    }
    if bench.wants("latency") {
        latency(bench)?;
    }
    Ok(())
}

/// Blocks written for each block of the guest by the best cleaning of a log known for uniformly random overwrites, with
/// `spread` blocks in use for each that is needed.
///
/// A segment is cleaned when the log has come round to it: `spread` × L blocks were written since, for a disk of L
/// blocks, and of these the guest's were a share of 1 - x, if x is the share of a cleaned segment that is still needed.
/// None of them hit a given block with the probability (1 - 1/L)^((1 - x) × spread × L), so x = exp(-spread × (1 - x)),
/// and 1 / (1 - x) is written for each. That is cleaning in order of age; taking the emptiest segment first is no better
/// where segments have many blocks, as ours have 1024 (Desnoyers, Analytic Modeling of SSD Write Performance, SYSTOR
/// 2012; Bux and Iliadis, Performance of Greedy Garbage Collection in Flash-based SSDs, Performance Evaluation 67, 2010).
fn bound(spread: f64) -> f64 {
    // From 0 the iteration climbs to the smaller solution; 1 is the other.
    let mut needed = 0.0f64;
    for _ in 0..100_000 {
        needed = (-spread * (1.0 - needed)).exp();
    }
    1.0 / (1.0 - needed)
}

/// A full disk.
fn full_disk(medium: Arc<dyn Medium>, size_bytes: u64) -> Result<StrataDisk> {
    let disk = StrataDisk::create(medium, &CreateOptions { size_bytes, retention: Retention::OFF, password: None })?;
    let len = 1 << 20;
    let mut buffer = IoBuffer::Host(noise(len));
    for at in (0..size_bytes).step_by(1 << 20) {
        disk.write_at(at, &buffer.slices(0, len), false)?;
    }
    Ok(disk)
}

fn curve(bench: &mut Bench) -> Result<()> {
    let size_bytes = SIZE_BYTES / bench.divisor;
    let blocks = size_bytes / BLOCK;
    let table = Table::new(
        &format!(
            "Compaction: a full {} disk, overwritten {PASSES} times in uniformly random 4 KiB writes after as many to \
             warm up; retention off, no syncs, one run, for it is counted; the bound is that of the space that was in use",
            size(size_bytes),
        ),
        &["wanted space", "in use over needed", "written over the guest's", "bound", "over the bound", "seconds"],
    );
    for percent in GARBAGE {
        let path = bench.path("compaction.strata");
        let counted = Arc::new(Counted::new(medium::open(&path, true, Caching::Host)?));
        let disk = full_disk(counted.clone(), size_bytes)?;
        disk.set_garbage_percent(percent);
        let started = Instant::now();
        let mut random = Random::new(1);
        let mut buffer = IoBuffer::Host(noise(BLOCK));
        let slices = buffer.slices(0, BLOCK);
        let (mut before, mut spread, mut looks) = (0, 0.0, 0.0);
        for number in 0..2 * PASSES * blocks {
            if number == PASSES * blocks {
                before = counted.written();
            }
            if number >= PASSES * blocks && number % LOOKS_EVERY == 0 {
                spread += disk.space().used_bytes as f64 / size_bytes as f64;
                looks += 1.0;
            }
            disk.write_at(random.below(blocks) * BLOCK, &slices, false)?;
        }
        let amplification = (counted.written() - before) as f64 / (PASSES * size_bytes) as f64;
        disk.abandon();
        let spread = spread / looks;
        let best = bound(spread);
        bench.report.add(GROUP, &format!("curve, {percent} %"), OURS, "ratio", amplification)?;
        bench.report.add(GROUP, &format!("curve, {percent} %, bound"), OURS, "ratio", best)?;
        table.row(&[
            format!("{:.2}", 1.0 + percent as f64 / 100.0),
            format!("{spread:.3}"),
            format!("{amplification:.3}"),
            format!("{best:.3}"),
            ratio(amplification, best),
            number(started.elapsed().as_secs_f64()),
        ]);
        fs::remove_file(&path)?;
    }
    Ok(())
}

/// The 99th of a hundred waits, in ms.
fn p99(mut waits: Vec<Duration>) -> f64 {
    waits.sort_unstable();
    waits.get(waits.len() * 99 / 100).map_or(f64::NAN, |wait| wait.as_secs_f64() * 1e3)
}

/// Overwrites with a flush each, until there are so many or nothing is left to clear away.
fn waits(disk: &StrataDisk, random: &mut Random, count: u64, until: Option<f64>) -> Result<Vec<Duration>> {
    let blocks = disk.info().size_bytes / BLOCK;
    let mut buffer = IoBuffer::Host(noise(BLOCK));
    let mut waits = Vec::new();
    for _ in 0..count {
        let space = disk.space();
        if until.is_some_and(|spread| (space.used_bytes as f64) < space.live_bytes as f64 * spread) {
            break;
        }
        let started = Instant::now();
        disk.write_at(random.below(blocks) * BLOCK, &buffer.slices(0, BLOCK), false)?;
        disk.flush()?;
        waits.push(started.elapsed());
    }
    Ok(waits)
}

fn latency(bench: &mut Bench) -> Result<()> {
    let size_bytes = SIZE_BYTES / bench.divisor;
    let blocks = size_bytes / BLOCK;
    let count = bench.requests(8000);
    let path = bench.path("latency.strata");
    let disk = full_disk(medium::open(&path, true, bench.caching)?, size_bytes)?;
    let mut random = Random::new(2);
    let mut buffer = IoBuffer::Host(noise(BLOCK));
    let mut during = 0;
    for _ in 0..bench.runs {
        disk.set_garbage_percent(NEVER);
        for _ in 0..blocks / 2 {
            disk.write_at(random.below(blocks) * BLOCK, &buffer.slices(0, BLOCK), false)?;
        }
        disk.checkpoint()?;
        let without = waits(&disk, &mut random, count, None)?;
        bench.report.add(GROUP, "latency, without", OURS, "ms", p99(without))?;
        // Its keeper begins within a fifth of a second.
        disk.set_garbage_percent(GARBAGE[0]);
        let with = waits(&disk, &mut random, count, Some(1.0 + GARBAGE[0] as f64 / 100.0))?;
        during += with.len();
        bench.report.add(GROUP, "latency, with", OURS, "ms", p99(with))?;
    }
    let table = Table::new(
        &format!(
            "99th percentile of a random 4 KiB overwrite with its flush, ms, on a full {} disk; medians of {} runs of \
             {count}; {during} in all while it compacts",
            size(size_bytes),
            bench.runs
        ),
        &["without compaction", "during compaction", "during over without", "goal"],
    );
    let median = |cell| bench.report.median(GROUP, cell, OURS);
    table.row(&[
        bench.report.shown(GROUP, "latency, without", OURS),
        bench.report.shown(GROUP, "latency, with", OURS),
        ratio(median("latency, with"), median("latency, without")),
        "2".to_owned(),
    ]);
    drop(disk);
    fs::remove_file(&path)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bound_solves_its_equation() {
        for (spread, expected) in [(1.1, 5.6775), (1.25, 2.6927), (1.5, 1.7158), (4.0, 1.0202)] {
            let best = bound(spread);
            let needed = 1.0 - 1.0 / best;
            assert!((needed - (-spread * (1.0 - needed)).exp()).abs() < 1e-9, "{spread}: {best}");
            assert!((best - expected).abs() < 0.0001, "{spread}: {best}");
        }
    }
}
