//! What a commit costs beside the host's own, and how many bytes go to the file for each the guest gives.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use benchtop_block::DiskBackend;
use benchtop_memory::IoBuffer;
use benchtop_strata::{CreateOptions, Medium, Retention, StrataDisk};

use crate::Bench;
use crate::drive::{Load, STRIDE_BYTES, Shuffle, drive, noise};
use crate::figures::{Table, number, ratio, size};
use crate::medium::{self, Aligned, Caching, Counted};
use crate::plain::OURS;

const GROUP: &str = "commit";
/// The host's file.
const HOST: &str = "host";
/// Of a run.
const TIME: Duration = Duration::from_secs(2);
const BLOCK: u64 = 4096;

/// Measures the group.
///
/// # Errors
/// A step that failed.
pub fn run(bench: &mut Bench) -> Result<()> {
    if bench.wants("write-through") {
        rates(bench)?;
    }
    if bench.wants("amplification") {
        amplification(bench)?;
    }
    Ok(())
}

/// Durable 4 KiB writes a second.
fn rates(bench: &mut Bench) -> Result<()> {
    let time = TIME / u32::try_from(bench.divisor)?;
    let host = bench.path("host.raw");
    let host_bytes = bench.size_bytes.min(1 << 30);
    write_zeroes(&host, host_bytes)?;
    let (runs, caching) = (bench.runs, bench.caching);
    let table = Table::new(
        &format!(
            "Write-through, 4 KiB scattered: durable writes a second, medians of {runs} runs of {time:?}; \
             host: overwriting a file that was written with zeroes before, O_DIRECT, fdatasync after each; \
             ours: first touch, then overwrite, {caching:?}"
        ),
        &["cell", "host", OURS, "µs, ours", "× host, same depth", "× host, depth 1", "goal"],
    );
    let cells = [
        ("write-through, depth 1", 1, "0.9 × host, depth 1"),
        ("write-through, depth 16", 16, "4 × host, depth 1"),
        ("write-through again, depth 1", 1, "0.9 × host, depth 1"),
        ("write-through again, depth 16", 16, "4 × host, depth 1"),
    ];
    // Interleaved over all cells, so that every ratio is of runs that were close together.
    for _ in 0..runs {
        for (name, depth, _) in &cells[..2] {
            bench.report.add(GROUP, name, HOST, "1/s", host_rate(&host, host_bytes, *depth, time)?)?;
            let path = bench.path("commit.strata");
            let medium = medium::open(&path, true, caching)?;
            let options = CreateOptions { size_bytes: host_bytes, retention: bench.retention, password: None };
            let disk: Arc<dyn DiskBackend> = Arc::new(StrataDisk::create(medium, &options)?);
            let load = Load { time, writethrough: true, ..Load::scattered(true, *depth, u64::MAX >> 30) };
            bench.report.add(GROUP, name, OURS, "1/s", drive(&disk, bench.way, load)?.rate())?;
            // The same blocks once more: what was touched first above is overwritten here.
            let again = name.replace("through", "through again");
            bench.report.add(GROUP, &again, OURS, "1/s", drive(&disk, bench.way, load)?.rate())?;
            drop(disk);
            fs::remove_file(&path)?;
        }
    }
    let single = bench.report.median(GROUP, cells[0].0, HOST);
    for (name, _, goal) in cells {
        let ours = bench.report.median(GROUP, name, OURS);
        let beside = name.replace(" again", "");
        table.row(&[
            name.to_owned(),
            bench.report.shown(GROUP, &beside, HOST),
            bench.report.shown(GROUP, name, OURS),
            number(1e6 / ours),
            ratio(ours, bench.report.median(GROUP, &beside, HOST)),
            ratio(ours, single),
            goal.to_owned(),
        ]);
    }
    fs::remove_file(&host)?;
    Ok(())
}

fn write_zeroes(path: &std::path::Path, len_bytes: u64) -> Result<()> {
    let mut file = File::create(path)?;
    let zeroes = vec![0; 1 << 20];
    for _ in 0..len_bytes >> 20 {
        file.write_all(&zeroes)?;
    }
    file.sync_all()?;
    Ok(())
}

/// Overwrites by the host's means alone, `depth` threads at once.
fn host_rate(path: &std::path::Path, len_bytes: u64, depth: u32, time: Duration) -> Result<f64> {
    let file = medium::direct(path)?;
    let next = AtomicU64::new(0);
    let done = AtomicU64::new(0);
    let start = Instant::now();
    let work = || -> Result<()> {
        let mut buffer = Aligned::new(BLOCK as usize);
        let window = buffer.window(BLOCK as usize);
        window.copy_from_slice(&noise(BLOCK));
        while start.elapsed() < time {
            let number = next.fetch_add(1, Ordering::Relaxed);
            file.write_all_at(window, number * STRIDE_BYTES % len_bytes)?;
            file.sync_data()?;
            done.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let mut threads = Vec::new();
        for number in 0..depth {
            let builder = std::thread::Builder::new().name(format!("host-{number}"));
            threads.push(builder.spawn_scoped(scope, work).context("no thread")?);
        }
        for thread in threads {
            thread.join().map_err(|_panic| anyhow!("a thread panicked"))??;
        }
        anyhow::Ok(())
    })?;
    Ok(done.into_inner() as f64 / start.elapsed().as_secs_f64())
}

/// Bytes to the file over bytes from the guest, checkpoints and the closing one included, retention off.
fn amplification(bench: &mut Bench) -> Result<()> {
    let bytes = bench.size_bytes;
    let blocks = bytes / BLOCK;
    let large = bytes * 64;
    let table = Table::new(
        "Write amplification: bytes to the file over bytes of the guest, 4 KiB writes in random order, no block twice, \
         retention off; all but making the disk counted, with a checkpoint at the end; one run, for it is counted, not timed",
        &[
            "cell",
            "written, MiB",
            "of it zeroes ahead of the log, MiB",
            "syncs",
            "amplification",
            "without zeroes",
            "goal",
        ],
    );
    let (name, large_name) = (size(bytes), size(large));
    let cells = [
        (format!("amplification, {name} disk once"), bytes, blocks, false, "1.05"),
        (format!("amplification, {large_name} disk, the first {name}"), large, blocks, false, ""),
        (format!("amplification, {name} disk, a quarter, flush after each"), bytes, blocks / 4, true, "2.1"),
    ];
    for (name, size_bytes, count, flush, goal) in cells {
        let path = bench.path("amplification.strata");
        // By the page cache and without syncs: only bytes count here.
        let counted = Arc::new(Counted::new(medium::open(&path, true, Caching::Host)?));
        let under: Arc<dyn Medium> = counted.clone();
        let options = CreateOptions { size_bytes, retention: Retention::OFF, password: None };
        let disk = StrataDisk::create(under, &options)?;
        let order = Shuffle::new(size_bytes / BLOCK);
        let mut buffer = IoBuffer::Host(noise(BLOCK));
        let slices = buffer.slices(0, BLOCK);
        // Small commits once more, where the file was written before: there no zeroes go ahead of them.
        let again = flush.then(|| format!("{name}, all again"));
        for name in [Some(name), again].into_iter().flatten() {
            let before = (counted.written(), counted.syncs(), counted.ahead());
            for index in 0..count {
                disk.write_at(order.at(index) * BLOCK, &slices, false)?;
                if flush {
                    disk.flush()?;
                }
            }
            disk.flush()?;
            disk.checkpoint()?;
            let written = counted.written() - before.0;
            let ahead = counted.ahead() - before.2;
            let amplification = written as f64 / (count * BLOCK) as f64;
            let of_the_log = (written - ahead) as f64 / (count * BLOCK) as f64;
            bench.report.add(GROUP, &name, OURS, "ratio", amplification)?;
            table.row(&[
                name,
                (written >> 20).to_string(),
                (ahead >> 20).to_string(),
                (counted.syncs() - before.1).to_string(),
                format!("{amplification:.3}"),
                format!("{of_the_log:.3}"),
                goal.to_owned(),
            ]);
        }
        drop(disk);
        fs::remove_file(&path)?;
    }
    Ok(())
}
