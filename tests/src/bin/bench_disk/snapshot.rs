//! Snapshots and restore points: taking, deleting, having many, and what they do to reading and writing.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use benchtop_block::DiskBackend;
use benchtop_memory::IoBuffer;
use benchtop_strata::{CreateOptions, Retention, StrataDisk};

use crate::drive::{Load, Shuffle, drive, noise};
use crate::figures::{Table, number, ratio};
use crate::nbd::{filled_disk, new_disk};
use crate::peer::{self, Format, QCOW2, RAW};
use crate::plain::OURS;
use crate::space::allocated;
use crate::{Bench, medium, upkeep};

const GROUP: &str = "snapshot";
const BLOCK: u64 = 4096;
const GIB: u64 = 1 << 30;
/// How long to wait for space to come back.
pub const PATIENCE: Duration = Duration::from_secs(10);

type Part = fn(&mut Bench) -> Result<()>;

/// Measures the group.
///
/// # Errors
/// A step that failed.
pub fn run(bench: &mut Bench) -> Result<()> {
    let parts: [(&str, Part); 5] =
        [("take", take), ("delete", delete), ("points", points), ("overwrite", overwrite), ("scattered", scattered)];
    for (name, part) in parts {
        if bench.wants(name) {
            part(bench)?;
        }
    }
    Ok(())
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// Writes one block, which is of the noise.
fn touch(disk: &StrataDisk, lba: u64) -> Result<()> {
    let mut buffer = IoBuffer::Host(noise(BLOCK));
    disk.write_at(lba * BLOCK, &buffer.slices(0, BLOCK), false)?;
    Ok(())
}

/// Taking one, of a small and a large disk, with and without others.
fn take(bench: &mut Bench) -> Result<()> {
    let fill = GIB / 2 / bench.divisor;
    let many = bench.requests(100);
    let table = Table::new(
        &format!(
            "Taking a snapshot, ms: {} MiB written, one block changed before each; medians of {}; \
             qemu-img snapshot -c, its start as a process (qemu-img info) in brackets",
            fill >> 20,
            bench.runs * 4
        ),
        &["virtual size", "snapshots", OURS, "qcow2-64k", "goal"],
    );
    for size_bytes in [GIB, 1024 * GIB] {
        let (path, peer_path) = (bench.path("take.strata"), bench.path("take.qcow2"));
        let disk = filled_disk(bench, &path, size_bytes, fill)?;
        if !bench.ours_only {
            peer::create(QCOW2, &peer_path, size_bytes)?;
            peer::bench(QCOW2, &peer_path, &bench.aio, Load::sequential(true, 8, fill))?;
        }
        for existing in [0, many] {
            let cell = format!("take, {} GiB, {existing}", size_bytes / GIB);
            for number in 0..existing {
                touch(&disk, number)?;
                disk.snapshot(&format!("before{number}"))?;
                if !bench.ours_only {
                    peer::qemu_img(&["snapshot", "-c", &format!("before{number}")], &peer_path)?;
                }
            }
            for run in 0..bench.runs * 4 {
                touch(&disk, u64::from(run))?;
                let start = Instant::now();
                let point = disk.snapshot("taken")?;
                bench.report.add(GROUP, &cell, OURS, "ms", millis(start.elapsed()))?;
                disk.drop_point(point)?;
                if !bench.ours_only {
                    peer::bench(QCOW2, &peer_path, &bench.aio, Load::scattered(true, 1, 1))?;
                    let time = peer::qemu_img(&["snapshot", "-c", "taken"], &peer_path)?;
                    bench.report.add(GROUP, &cell, QCOW2.name, "ms", millis(time))?;
                    peer::qemu_img(&["snapshot", "-d", "taken"], &peer_path)?;
                    let time = peer::qemu_img(&["info"], &peer_path)?;
                    bench.report.add(GROUP, &format!("{cell}, start"), QCOW2.name, "ms", millis(time))?;
                }
            }
            let start = number(bench.report.median(GROUP, &format!("{cell}, start"), QCOW2.name));
            table.row(&[
                format!("{} GiB", size_bytes / GIB),
                existing.to_string(),
                bench.report.shown(GROUP, &cell, OURS),
                format!("{} ({start})", bench.report.shown(GROUP, &cell, QCOW2.name)),
                "5 ms, all the same".to_owned(),
            ]);
        }
        drop(disk);
        remove(&[&path, &peer_path])?;
    }
    Ok(())
}

fn remove(paths: &[&Path]) -> Result<()> {
    for path in paths {
        if path.exists() {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

/// Deleting one that alone holds the size of the disk.
fn delete(bench: &mut Bench) -> Result<()> {
    let size = bench.size_bytes;
    let mib = size >> 20;
    let path = bench.path("delete.strata");
    let disk = filled_disk(bench, &path, size, size)?;
    let image: Arc<dyn DiskBackend> = disk.clone();
    let (mut returned, mut late) = (0, 0);
    for run in 0..bench.runs {
        let point = disk.snapshot(&format!("s{run}"))?;
        drive(&image, bench.way, Load::sequential(true, 8, size))?;
        let full = allocated(&path)?;
        let start = Instant::now();
        disk.drop_point(point)?;
        bench.report.add(GROUP, "delete", OURS, "ms", millis(start.elapsed()))?;
        // Nine tenths: what is left may be in places that hold something else, too.
        let is_back = || anyhow::Ok(allocated(&path)? + size / 10 * 9 <= full);
        // Waited out once at most.
        while late == 0 && !is_back()? && start.elapsed() < PATIENCE {
            upkeep::free(&disk)?;
            std::thread::sleep(Duration::from_millis(5));
        }
        if is_back()? {
            bench.report.add(GROUP, "delete, space", OURS, "ms", millis(start.elapsed()))?;
            returned += 1;
        } else {
            late += 1;
        }
    }
    let open_mib = allocated(&path)? >> 20;
    drop((image, disk));
    let closed_mib = allocated(&path)? >> 20;
    remove(&[&path])?;
    let mut peer_mib = 0;
    if !bench.ours_only {
        let path = bench.path("delete.qcow2");
        peer::create(QCOW2, &path, size)?;
        let fill = Load::sequential(true, 8, size);
        peer::bench(QCOW2, &path, &bench.aio, fill)?;
        for run in 0..bench.runs {
            let name = format!("s{run}");
            peer::qemu_img(&["snapshot", "-c", &name], &path)?;
            peer::bench(QCOW2, &path, &bench.aio, fill)?;
            let time = peer::qemu_img(&["snapshot", "-d", &name], &path)?;
            bench.report.add(GROUP, "delete", QCOW2.name, "ms", millis(time))?;
        }
        peer_mib = allocated(&path)? >> 20;
        remove(&[&path])?;
    }
    let shown = |cell, format| bench.report.shown(GROUP, cell, format);
    let table = Table::new(
        &format!("Deleting a snapshot that alone holds {mib} MiB, medians of {}", bench.runs),
        &["format", "to the caller, ms", "nine tenths of the space back, ms", "host space at the end, MiB", "goal"],
    );
    table.row(&[
        OURS.to_owned(),
        shown("delete", OURS),
        format!("{} ({returned} of {} within {PATIENCE:?})", shown("delete, space", OURS), returned + late),
        format!("{open_mib}; closed {closed_mib}"),
        "5 ms".to_owned(),
    ]);
    let peer = shown("delete", QCOW2.name);
    table.row(&[QCOW2.name.to_owned(), peer, "-".to_owned(), peer_mib.to_string(), String::new()]);
    Ok(())
}

/// Ten thousand restore points, beside none.
fn points(bench: &mut Bench) -> Result<()> {
    let size_bytes = GIB / bench.divisor;
    let wanted = bench.requests(10_000);
    let order = Shuffle::new(size_bytes / BLOCK);
    let none = Retention::OFF;
    // All are kept, whatever the budget of the default.
    let all = Retention { budget_percent: 100_000, ..Retention::default() };
    let mut counts = Vec::new();
    for (name, retention) in [("none", none), ("many", all)] {
        let medium = medium::open(&bench.path(name), true, bench.caching)?;
        let disk = Arc::new(StrataDisk::create(medium, &CreateOptions { size_bytes, retention, password: None })?);
        let image: Arc<dyn DiskBackend> = disk.clone();
        drive(&image, bench.way, Load::sequential(true, 8, size_bytes))?;
        for index in 0..wanted {
            touch(&disk, order.at(index))?;
            disk.flush()?;
        }
        counts.push(disk.points()?.len());
    }
    let load = Load::scattered(false, 1, bench.requests(6000));
    let deep = Load::scattered(false, 16, bench.requests(40_000));
    for _ in 0..bench.runs {
        for name in ["none", "many"] {
            let start = Instant::now();
            let medium = medium::open(&bench.path(name), false, bench.caching)?;
            let image: Arc<dyn DiskBackend> = Arc::new(StrataDisk::open(medium, None, false)?);
            bench.report.add(GROUP, "points, open", name, "ms", millis(start.elapsed()))?;
            for (cell, load) in [("points, read, depth 1", load), ("points, read, depth 16", deep)] {
                bench.report.add(GROUP, cell, name, "1/s", drive(&image, bench.way, load)?.rate())?;
            }
        }
    }
    let table = Table::new(
        &format!("Restore points on a {} MiB disk, medians of {}", size_bytes >> 20, bench.runs),
        &["cell", &format!("{} points", counts[0]), &format!("{} points", counts[1]), "many over none", "goal"],
    );
    for (cell, what, goal) in [
        ("points, open", "open, ms", "100 ms"),
        ("points, read, depth 1", "random read a second, depth 1", "0.9"),
        ("points, read, depth 16", "random read a second, depth 16", "0.9"),
    ] {
        let median = |format| bench.report.median(GROUP, cell, format);
        table.row(&[
            what.to_owned(),
            bench.report.shown(GROUP, cell, "none"),
            bench.report.shown(GROUP, cell, "many"),
            ratio(median("many"), median("none")),
            goal.to_owned(),
        ]);
    }
    remove(&[&bench.path("none"), &bench.path("many")])
}

/// The first overwrite after a snapshot beside overwriting before it.
fn overwrite(bench: &mut Bench) -> Result<()> {
    let size = GIB / bench.divisor;
    let (path, peer_path) = (bench.path("overwrite.strata"), bench.path("overwrite.qcow2"));
    let disk = filled_disk(bench, &path, size, size)?;
    let image: Arc<dyn DiskBackend> = disk.clone();
    let peers = if bench.ours_only { None } else { Some(QCOW2) };
    if let Some(format) = peers {
        peer::create(format, &peer_path, size)?;
        peer::bench(format, &peer_path, &bench.aio, Load::sequential(true, 8, size))?;
    }
    let table = Table::new(
        &format!("First overwrite after a snapshot beside one before it, 4 KiB scattered, medians of {}", bench.runs),
        &["cell", "before", "after", "before over after", "goal"],
    );
    for (depth, count) in [(1, 2000), (16, 4000)] {
        let load = Load::scattered(true, depth, bench.requests(count));
        let cells = [format!("overwrite, depth {depth}, before"), format!("overwrite, depth {depth}, after")];
        for run in 0..bench.runs {
            let name = format!("s{depth}-{run}");
            bench.report.add(GROUP, &cells[0], OURS, "1/s", drive(&image, bench.way, load)?.rate())?;
            let point = disk.snapshot(&name)?;
            bench.report.add(GROUP, &cells[1], OURS, "1/s", drive(&image, bench.way, load)?.rate())?;
            disk.drop_point(point)?;
            if let Some(format) = peers {
                let measure = || peer::bench(format, &peer_path, &bench.aio, load);
                let before = measure()?;
                peer::qemu_img(&["snapshot", "-c", &name], &peer_path)?;
                let after = measure()?;
                peer::qemu_img(&["snapshot", "-d", &name], &peer_path)?;
                bench.report.add(GROUP, &cells[0], format.name, "1/s", before)?;
                bench.report.add(GROUP, &cells[1], format.name, "1/s", after)?;
            }
        }
        for (format, goal) in [(OURS, "at most 1.1"), (QCOW2.name, "")] {
            let median = |cell: &str| bench.report.median(GROUP, cell, format);
            table.row(&[
                format!("{format}, depth {depth}"),
                bench.report.shown(GROUP, &cells[0], format),
                bench.report.shown(GROUP, &cells[1], format),
                ratio(median(&cells[0]), median(&cells[1])),
                goal.to_owned(),
            ]);
        }
    }
    drop((image, disk));
    remove(&[&path, &peer_path])
}

/// Reading in order what was overwritten out of order.
fn scattered(bench: &mut Bench) -> Result<()> {
    let size = GIB / bench.divisor;
    let path = bench.path("scattered.strata");
    let fill = Load::sequential(true, 8, size);
    let over = Load::scattered(true, 16, size / BLOCK);
    let read = Load::sequential(false, 8, size);
    let cell = "scattered, read";
    let peers: &[Format] = if bench.ours_only { &[] } else { &[RAW, QCOW2] };
    for format in peers {
        let path = bench.path(format.name);
        peer::create(*format, &path, size)?;
        peer::bench(*format, &path, &bench.aio, fill)?;
        peer::bench(*format, &path, &bench.aio, over)?;
    }
    let disk = new_disk(bench, &path, size, false)?;
    let image: Arc<dyn DiskBackend> = disk.clone();
    drive(&image, bench.way, fill)?;
    drive(&image, bench.way, over)?;
    for _ in 0..bench.runs {
        for format in peers {
            let rate = peer::bench(*format, &bench.path(format.name), &bench.aio, read)?;
            bench.report.add(GROUP, cell, format.name, "MiB/s", rate)?;
        }
        bench.report.add(GROUP, cell, OURS, "MiB/s", drive(&image, bench.way, read)?.rate())?;
    }
    let compacted = format!("{OURS}, compacted");
    upkeep::compact(&disk)?;
    for _ in 0..bench.runs {
        bench.report.add(GROUP, cell, &compacted, "MiB/s", drive(&image, bench.way, read)?.rate())?;
    }
    let table = Table::new(
        &format!(
            "Sequential read, depth 8, MiB/s, of {} MiB that were overwritten in 4 KiB all over, medians of {}",
            size >> 20,
            bench.runs
        ),
        &["raw", "qcow2-64k", OURS, &compacted, "× raw", "compacted × raw", "goal"],
    );
    let median = |format: &str| bench.report.median(GROUP, cell, format);
    let shown = |format: &str| bench.report.shown(GROUP, cell, format);
    table.row(&[
        shown(RAW.name),
        shown(QCOW2.name),
        shown(OURS),
        shown(&compacted),
        ratio(median(OURS), median(RAW.name)),
        ratio(median(&compacted), median(RAW.name)),
        "compacted 0.5 × raw".to_owned(),
    ]);
    drop((image, disk));
    remove(&[&path, &bench.path(RAW.name), &bench.path(QCOW2.name)])
}
