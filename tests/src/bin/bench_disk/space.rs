//! What metadata takes on the host, and what opening a large disk takes in time and memory.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use anyhow::{Context as _, Result, anyhow, bail};
use benchtop_block::DiskBackend;
use benchtop_memory::IoBuffer;
use benchtop_strata::{CreateOptions, Medium, Retention, StrataDisk};
use clap::ValueEnum as _;

use crate::drive::{Load, Shuffle, drive, noise};
use crate::figures::Table;
use crate::medium::{self, Caching, WithoutData};
use crate::nbd::{ENCRYPTED, new_disk};
use crate::peer::{self, QCOW2, QCOW2_SUB};
use crate::plain::OURS;
use crate::{Bench, trim, upkeep};

const GROUP: &str = "space";
const BLOCK: u64 = 4096;
const TIB: u64 = 1 << 40;
/// Blocks of the 1 TiB disk that follow each other: what one page of the map holds.
const RUN_BLOCKS: u64 = 128;
/// Blocks that are looked up in an open disk before its memory is read again.
const LOOKUPS: u64 = 100_000;

/// What a file takes of the host's file system, in bytes.
///
/// # Errors
/// The host's.
pub fn allocated(path: &Path) -> Result<u64> {
    Ok(fs::metadata(path)?.blocks() * 512)
}

/// Measures the group.
///
/// # Errors
/// A step that failed.
pub fn run(bench: &mut Bench) -> Result<()> {
    if bench.wants("metadata") {
        metadata(bench)?;
    }
    if bench.wants("discard") {
        discard(bench)?;
    }
    if bench.wants("trim") {
        trim::run(bench)?;
    }
    if bench.wants("open") {
        opening(bench)?;
    }
    Ok(())
}

/// Host space after all of a full disk was discarded, with a snapshot that held it and is gone.
fn discard(bench: &mut Bench) -> Result<()> {
    let size = bench.size_bytes;
    let table = Table::new(
        &format!("Discard: host space, MiB, of a {} MiB disk", size >> 20),
        &["format", "full", "discarded under a snapshot", "snapshot deleted", "closed", "returned", "goal"],
    );
    let path = bench.path("discard.strata");
    let disk = new_disk(bench, &path, size, false)?;
    let image: Arc<dyn DiskBackend> = disk.clone();
    drive(&image, bench.way, Load::sequential(true, 8, size))?;
    let full = allocated(&path)?;
    let point = disk.snapshot("full")?;
    for at in (0..size).step_by(1 << 20) {
        disk.discard(at, 1 << 20)?;
    }
    disk.flush()?;
    let discarded = allocated(&path)?;
    disk.drop_point(point)?;
    upkeep::free(&disk)?;
    upkeep::compact(&disk)?;
    let deleted = allocated(&path)?;
    drop((image, disk));
    let closed = allocated(&path)?;
    let returned = (1.0 - closed as f64 / full as f64) * 100.0;
    bench.report.add(GROUP, "discard", OURS, "%", returned)?;
    let mib = |bytes: u64| (bytes >> 20).to_string();
    table.row(&[
        OURS.to_owned(),
        mib(full),
        mib(discarded),
        mib(deleted),
        mib(closed),
        format!("{returned:.1} %"),
        "95 %".to_owned(),
    ]);
    fs::remove_file(&path)?;
    Ok(())
}

/// One run each: bytes, not times.
fn metadata(bench: &mut Bench) -> Result<()> {
    let size = bench.size_bytes;
    let table = Table::new(
        &format!("Metadata: host space beyond the data, of a {} MiB disk that is written once in full", size >> 20),
        &["format", "order", "host space, MiB", "beyond the data", "compacted", "goal"],
    );
    let tell = |bench: &mut Bench, format: &str, order: &str, bytes: u64, compacted: Option<u64>, goal: &str| {
        let beyond = |bytes: u64| (bytes as f64 - size as f64) / size as f64 * 100.0;
        bench.report.add(GROUP, &format!("metadata, {order}"), format, "%", beyond(bytes))?;
        table.row(&[
            format.to_owned(),
            order.to_owned(),
            (bytes >> 20).to_string(),
            format!("{:.2} %", beyond(bytes)),
            compacted.map_or("-".to_owned(), |bytes| format!("{:.2} %", beyond(bytes))),
            goal.to_owned(),
        ]);
        anyhow::Ok(())
    };
    if !bench.ours_only {
        let path = bench.path("peer.img");
        for format in [QCOW2, QCOW2_SUB] {
            for (order, load) in orders(size) {
                peer::create(format, &path, size)?;
                peer::bench(format, &path, &bench.aio, load)?;
                tell(bench, format.name, order, allocated(&path)?, None, "")?;
            }
        }
        fs::remove_file(&path)?;
    }
    for (name, encrypted) in [(OURS, false), (ENCRYPTED, true)] {
        for (order, load) in orders(size) {
            let path = bench.path("space.strata");
            let disk = new_disk(bench, &path, size, encrypted)?;
            let image: Arc<dyn DiskBackend> = disk.clone();
            drive(&image, bench.way, load)?;
            disk.flush()?;
            let before = allocated(&path)?;
            upkeep::compact_all(&disk)?;
            drop((image, disk));
            let compacted = Some(allocated(&path)?);
            tell(bench, name, order, before, compacted, "1.0 %, compacted, encrypted")?;
            fs::remove_file(&path)?;
        }
    }
    Ok(())
}

fn orders(size_bytes: u64) -> [(&'static str, Load); 2] {
    [
        ("in order", Load::sequential(true, 8, size_bytes)),
        ("4 KiB scattered", Load::scattered(true, 16, size_bytes / BLOCK)),
    ]
}

/// Writes `content` again and again, in runs that are far from each other, on all processors: nothing of it follows
/// another in the file as it does on the disk, and each run has a page of the map.
fn scatter(disk: &StrataDisk, content: &[u8], runs: u64) -> Result<()> {
    let order = Shuffle::new(TIB / BLOCK / RUN_BLOCKS);
    let next = AtomicU64::new(0);
    let work = || -> Result<()> {
        let len = RUN_BLOCKS * BLOCK;
        let mut buffer = IoBuffer::Host(content.repeat(RUN_BLOCKS as usize));
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= runs {
                return Ok(());
            }
            disk.write_at(order.at(index) * len, &buffer.slices(0, len), false)?;
        }
    };
    std::thread::scope(|scope| {
        let mut threads = Vec::new();
        for number in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            let builder = std::thread::Builder::new().name(format!("scatter-{number}"));
            threads.push(builder.spawn_scoped(scope, work).context("no thread")?);
        }
        threads.into_iter().try_for_each(|thread| thread.join().map_err(|_panic| anyhow!("a thread panicked"))?)
    })
}

/// A disk of 1 TiB with data all over it.
fn opening(bench: &mut Bench) -> Result<()> {
    let path = bench.path("large.strata");
    let count = bench.mapped_bytes / BLOCK;
    let content = noise(BLOCK);
    let under = medium::open(&path, true, Caching::Host)?;
    let medium: Arc<dyn Medium> = Arc::new(WithoutData::new(under, content.clone()));
    let options = CreateOptions { size_bytes: TIB, retention: Retention::OFF, password: None };
    let disk = StrataDisk::create(medium, &options)?;
    let started = Instant::now();
    scatter(&disk, &content, count.div_ceil(RUN_BLOCKS))?;
    drop(disk);
    let made = started.elapsed();
    let table = Table::new(
        &format!(
            "Opening a 1 TiB disk that holds {:.1} GiB in runs of {} KiB all over it (made without the data itself in \
             {made:.0?}), medians of {}; memory: VmHWM of a process that does nothing else, {} MiB on the host",
            (count * BLOCK) as f64 / f64::from(1 << 30),
            (RUN_BLOCKS * BLOCK) >> 10,
            bench.runs,
            allocated(&path)? >> 20,
        ),
        &[
            "open, ms",
            "memory, MiB",
            &format!("after {LOOKUPS} look-ups, MiB"),
            "without a disk, MiB",
            "goal at 256 GiB",
        ],
    );
    for _ in 0..bench.runs {
        let caching = format!("{:?}", bench.caching);
        let mut command = Command::new(std::env::current_exe()?);
        let (_, text) = peer::run(command.arg("open").arg(&path).arg(caching))?;
        let numbers: Vec<f64> = text.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
        let [before, millis, opened, used] = numbers[..] else { bail!("the child said {text:?}") };
        for (cell, unit, value) in [
            ("open", "ms", millis),
            ("open memory", "MiB", opened),
            ("open used", "MiB", used),
            ("open none", "MiB", before),
        ] {
            bench.report.add(GROUP, cell, OURS, unit, value)?;
        }
    }
    let shown = |cell| bench.report.shown(GROUP, cell, OURS);
    table.row(&[
        shown("open"),
        shown("open memory"),
        shown("open used"),
        shown("open none"),
        "200 ms, 64 MiB".to_owned(),
    ]);
    fs::remove_file(&path)?;
    Ok(())
}

/// `bench-disk open FILE CACHING`: opens it and prints peak memory before in MiB, the time in ms, peak memory after,
/// and peak memory after many look-ups in the map.
///
/// # Errors
/// The disk's.
pub fn open_and_tell(arguments: &[String]) -> Result<()> {
    let [path, caching] = arguments else { bail!("usage: open FILE direct|host") };
    let caching = Caching::from_str(caching, true).ok().context("direct or host")?;
    let before = peak_mib()?;
    let start = Instant::now();
    let disk = StrataDisk::open(medium::open(Path::new(path), false, caching)?, None, true)?;
    let time = start.elapsed();
    let opened = peak_mib()?;
    let blocks = disk.info().size_bytes / BLOCK;
    let order = Shuffle::new(blocks);
    for index in 0..LOOKUPS.min(blocks) {
        disk.extent_at(order.at(index) * BLOCK, BLOCK)?;
    }
    println!("{before} {} {opened} {}", time.as_secs_f64() * 1e3, peak_mib()?);
    Ok(())
}

/// The most memory this process ever held, in MiB (proc(5), VmHWM).
fn peak_mib() -> Result<f64> {
    let text = fs::read_to_string("/proc/self/status")?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM")?;
    let kib: f64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kib / 1024.0)
}
