//! In process, plain: ours by the block queue, QEMU's by `qemu-img bench`, with one pattern of requests.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Result;
use benchtop_block::DiskBackend;
use benchtop_strata::{CreateOptions, StrataDisk};

use crate::Bench;
use crate::drive::{Load, drive};
use crate::figures::{Table, ratio, size};
use crate::medium;
use crate::peer::{self, Format, QCOW2, QCOW2_SUB, RAW};

const GROUP: &str = "plain";
/// Ours, in tables.
pub const OURS: &str = "strata";
const PEERS: [Format; 3] = [RAW, QCOW2, QCOW2_SUB];

/// What a cell is measured on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum On {
    /// A new disk each time.
    Fresh,
    /// A disk that was written once, in order.
    Full,
    /// The same, right after a snapshot.
    Snapshot,
}

struct Cell {
    name: &'static str,
    on: On,
    load: Load,
    /// What the format is meant to reach.
    goal: &'static str,
}

fn cells(bench: &Bench) -> Vec<Cell> {
    let cell = |name, on, load, goal| Cell { name, on, load, goal };
    let wr = |depth, count| Load::scattered(true, depth, bench.requests(count));
    let rd = |depth, count| Load::scattered(false, depth, bench.requests(count));
    let seq = |write, depth| Load::sequential(write, depth, (512 << 20) / bench.divisor);
    vec![
        cell("first touch, depth 1", On::Fresh, wr(1, 6000), ""),
        cell("first touch, depth 16", On::Fresh, wr(16, 20000), "5 × qcow2, 2.5 × best"),
        cell("first touch + flush, depth 1", On::Fresh, wr(1, 1500).flushed(), "4 × qcow2"),
        cell("first touch, 16 at once then a flush", On::Fresh, wr(16, 6000).flushed(), ""),
        cell("first touch, sequential MiB, depth 1", On::Fresh, seq(true, 1), "0.9 × raw"),
        cell("first touch, sequential MiB, depth 8", On::Fresh, seq(true, 8), "0.9 × raw"),
        cell("overwrite, depth 1", On::Full, wr(1, 6000), "0.9 × raw"),
        cell("overwrite, depth 16", On::Full, wr(16, 20000), "0.9 × raw"),
        cell("overwrite + flush, depth 1", On::Full, wr(1, 1500).flushed(), ""),
        cell("overwrite, 16 at once then a flush", On::Full, wr(16, 6000).flushed(), ""),
        cell("overwrite, sequential MiB, depth 8", On::Full, seq(true, 8), "0.9 × raw"),
        cell("random read, depth 1", On::Full, rd(1, 6000), "0.9 × raw"),
        cell("random read, depth 16", On::Full, rd(16, 40000), "0.9 × raw"),
        cell("sequential read MiB, depth 1", On::Full, seq(false, 1), "0.9 × raw"),
        cell("sequential read MiB, depth 8", On::Full, seq(false, 8), "0.9 × raw"),
        cell("first overwrite after a snapshot, depth 1", On::Snapshot, wr(1, 2000), "9 × qcow2"),
        cell("first overwrite after a snapshot, depth 16", On::Snapshot, wr(16, 4000), "15 × qcow2"),
    ]
}

/// Measures the group.
///
/// # Errors
/// A step that failed.
pub fn run(bench: &mut Bench) -> Result<()> {
    let cells: Vec<Cell> = cells(bench).into_iter().filter(|cell| bench.wants(cell.name)).collect();
    let peers: &[Format] = if bench.ours_only { &[] } else { &PEERS };
    if cells.iter().any(|cell| cell.on != On::Fresh) {
        for format in peers {
            let path = full_path(bench, *format);
            peer::create(*format, &path, bench.size_bytes)?;
            peer::bench(*format, &path, &bench.aio, Load::sequential(true, 8, bench.size_bytes))?;
        }
        let disk = new_disk(bench, "full.strata")?;
        drive(&disk, bench.way, Load::sequential(true, 8, bench.size_bytes))?;
    }
    let columns = ["cell", "raw", "qcow2-64k", "qcow2-128k-sub", OURS, "× raw", "× qcow2-64k", "× best qcow2", "goal"];
    let (size, runs, way, caching) = (size(bench.size_bytes), bench.runs, bench.way, bench.caching);
    let table = Table::new(
        &format!(
            "Plain, in process: 4 KiB requests a second (MiB: MiB/s), {size} disk, medians of {runs}; \
             QEMU: cache=none, aio={}; ours: {way:?}, {caching:?}, a flush at the end included",
            bench.aio
        ),
        &columns,
    );
    for cell in &cells {
        for run in 0..bench.runs {
            for format in peers {
                let rate = on_peer(bench, cell, *format, run)?;
                if let Some(rate) = rate {
                    bench.report.add(GROUP, cell.name, format.name, "1/s", rate)?;
                }
            }
            let rate = on_ours(bench, cell, run)?;
            bench.report.add(GROUP, cell.name, OURS, "1/s", rate)?;
        }
        let median = |format| bench.report.median(GROUP, cell.name, format);
        let shown = |format| bench.report.shown(GROUP, cell.name, format);
        let ours = median(OURS);
        let best = median(QCOW2.name).max(median(QCOW2_SUB.name));
        table.row(&[
            cell.name.to_owned(),
            shown(RAW.name),
            shown(QCOW2.name),
            shown(QCOW2_SUB.name),
            shown(OURS),
            ratio(ours, median(RAW.name)),
            ratio(ours, median(QCOW2.name)),
            ratio(ours, best),
            cell.goal.to_owned(),
        ]);
    }
    for entry in fs::read_dir(&bench.dir)? {
        fs::remove_file(entry?.path())?;
    }
    Ok(())
}

fn full_path(bench: &Bench, format: Format) -> PathBuf {
    bench.path(&format!("full.{}", format.name))
}

/// A new plain disk of ours.
fn new_disk(bench: &Bench, name: &str) -> Result<Arc<dyn DiskBackend>> {
    let medium = medium::open(&bench.path(name), true, bench.caching)?;
    let options = CreateOptions { size_bytes: bench.size_bytes, retention: bench.retention, password: None };
    Ok(Arc::new(StrataDisk::create(medium, &options)?))
}

/// Raw has no snapshots.
fn on_peer(bench: &Bench, cell: &Cell, format: Format, run: u32) -> Result<Option<f64>> {
    let aio = &bench.aio;
    let rate = match cell.on {
        On::Fresh => {
            let path = bench.path("fresh.img");
            peer::create(format, &path, bench.size_bytes)?;
            peer::bench(format, &path, aio, cell.load)?
        }
        On::Full => peer::bench(format, &full_path(bench, format), aio, cell.load)?,
        On::Snapshot if format == RAW => return Ok(None),
        On::Snapshot => {
            let path = full_path(bench, format);
            let name = format!("s{run}");
            peer::qemu_img(&["snapshot", "-c", &name], &path)?;
            let rate = peer::bench(format, &path, aio, cell.load)?;
            peer::qemu_img(&["snapshot", "-d", &name], &path)?;
            rate
        }
    };
    Ok(Some(rate))
}

/// Opens, measures, closes, as `qemu-img bench` does; only the middle is timed, on either side.
fn on_ours(bench: &Bench, cell: &Cell, run: u32) -> Result<f64> {
    if cell.on == On::Fresh {
        let disk = new_disk(bench, "fresh.strata")?;
        let rate = drive(&disk, bench.way, cell.load)?.rate();
        drop(disk);
        fs::remove_file(bench.path("fresh.strata"))?;
        return Ok(rate);
    }
    let medium = medium::open(&bench.path("full.strata"), false, bench.caching)?;
    let strata = Arc::new(StrataDisk::open(medium, None, false)?);
    let point = if cell.on == On::Snapshot { Some(strata.snapshot(&format!("s{run}"))?) } else { None };
    let disk: Arc<dyn DiskBackend> = strata.clone();
    let rate = drive(&disk, bench.way, cell.load)?.rate();
    if let Some(point) = point {
        strata.drop_point(point)?;
    }
    Ok(rate)
}
