//! By NBD: our server and `qemu-nbd`, both on a unix socket, under the same fio.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use benchtop_strata::{Cost, CreateOptions, StrataDisk};
use zeroize::Zeroizing;

use crate::Bench;
use crate::drive::{Load, drive};
use crate::figures::{Table, ratio, size};
use crate::medium;
use crate::peer::{self, Format, QCOW2, QCOW2_LUKS};
use crate::plain::OURS;

const GROUP: &str = "nbd";
/// Ours with a password, in tables.
pub const ENCRYPTED: &str = "strata-encrypted";
/// Protects nothing.
pub const PASSWORD: &str = "benchmark";
/// Unlocking is no part of any figure, so it is cheap.
const COST: Cost = Cost { memory_kib: 8 << 10, passes: 1, lanes: 1 };

/// What is served.
#[derive(Clone, Copy)]
enum Kind {
    Theirs(Format),
    Ours { encrypted: bool },
}

const KINDS: [Kind; 4] =
    [Kind::Theirs(QCOW2), Kind::Ours { encrypted: false }, Kind::Theirs(QCOW2_LUKS), Kind::Ours { encrypted: true }];

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Theirs(format) => format.name,
            Self::Ours { encrypted: false } => OURS,
            Self::Ours { encrypted: true } => ENCRYPTED,
        }
    }
}

struct Cell {
    name: &'static str,
    /// On a new disk each time; else on one that was written once, in order.
    fresh: bool,
    /// For fio.
    options: &'static [&'static str],
    /// Encrypted beside qcow2-luks.
    goal: &'static str,
}

const fn cell(name: &'static str, fresh: bool, options: &'static [&'static str], goal: &'static str) -> Cell {
    Cell { name, fresh, options, goal }
}

const CELLS: [Cell; 11] = [
    cell("first touch, depth 1", true, &["--rw=randwrite", "--bs=4k", "--iodepth=1"], "2.5"),
    cell("first touch, depth 16", true, &["--rw=randwrite", "--bs=4k", "--iodepth=16"], "4"),
    cell("first touch + fsync, depth 1", true, &["--rw=randwrite", "--bs=4k", "--iodepth=1", "--fsync=1"], "3"),
    cell("first touch, sequential MiB", true, &["--rw=write", "--bs=1M", "--iodepth=4"], "2"),
    cell("overwrite, depth 1", false, &["--rw=randwrite", "--bs=4k", "--iodepth=1"], ""),
    cell("overwrite, depth 16", false, &["--rw=randwrite", "--bs=4k", "--iodepth=16"], "1.5"),
    cell("overwrite + fsync, depth 1", false, &["--rw=randwrite", "--bs=4k", "--iodepth=1", "--fsync=1"], ""),
    cell("overwrite, sequential MiB", false, &["--rw=write", "--bs=1M", "--iodepth=4"], "2"),
    cell("random read, depth 1", false, &["--rw=randread", "--bs=4k", "--iodepth=1"], "1"),
    cell("random read, depth 16", false, &["--rw=randread", "--bs=4k", "--iodepth=16"], "1"),
    cell("sequential read MiB", false, &["--rw=read", "--bs=1M", "--iodepth=4"], "2"),
];

/// Measures the group.
///
/// # Errors
/// A step that failed.
pub fn run(bench: &mut Bench) -> Result<()> {
    let cells: Vec<&Cell> = CELLS.iter().filter(|cell| bench.wants(cell.name)).collect();
    let kinds: Vec<Kind> =
        KINDS.into_iter().filter(|kind| !bench.ours_only || matches!(kind, Kind::Ours { .. })).collect();
    let time = Duration::from_millis(if bench.divisor > 1 { 300 } else { 1000 });
    // Runs are interleaved over all cells: the fresh ones first, then the full disks, whose servers stay up.
    for _ in 0..bench.runs {
        for cell in cells.iter().filter(|cell| cell.fresh) {
            for kind in &kinds {
                let server = Server::new(bench, *kind, "fresh")?;
                measure(bench, cell, *kind, &server, time)?;
                server.end()?;
                fs::remove_file(bench.path(&format!("fresh.{}", kind.name())))?;
            }
        }
    }
    if cells.iter().any(|cell| !cell.fresh) {
        let mut servers = Vec::new();
        for kind in &kinds {
            let server = Server::new(bench, *kind, "full")?;
            fio(&server, bench.size_bytes, &["--rw=write", "--bs=1M", "--iodepth=8", "--end_fsync=1"], None)?;
            servers.push((*kind, server));
        }
        for _ in 0..bench.runs {
            for cell in cells.iter().filter(|cell| !cell.fresh) {
                for (kind, server) in &servers {
                    measure(bench, cell, *kind, server, time)?;
                }
            }
        }
        for (kind, server) in servers {
            server.end()?;
            fs::remove_file(bench.path(&format!("full.{}", kind.name())))?;
        }
    }
    tables(bench, &cells, time);
    Ok(())
}

fn tables(bench: &Bench, cells: &[&Cell], time: Duration) {
    let (size, runs, caching) = (size(bench.size_bytes), bench.runs, bench.caching);
    let about = format!(
        "by NBD under fio, {size} disk, medians of {runs} runs of {time:?}; qemu-nbd: cache=none, aio={}; \
         ours: {caching:?}",
        bench.aio
    );
    let columns =
        ["cell", "qcow2-64k", OURS, "× qcow2-64k", "qcow2-luks", ENCRYPTED, "× qcow2-luks", "goal, encrypted"];
    for (suffix, what, goal) in [
        ("", "Requests a second", None),
        (" cpu", "Server's CPU, µs a request", Some("at most 0.5 for 4 KiB")),
        (" p99", "99th percentile of latency, µs", Some("")),
    ] {
        let table = Table::new(&format!("{what}, {about}"), &columns);
        for cell in cells {
            let name = format!("{}{suffix}", cell.name);
            let shown = |format| bench.report.shown(GROUP, &name, format);
            let median = |format| bench.report.median(GROUP, &name, format);
            table.row(&[
                cell.name.to_owned(),
                shown(QCOW2.name),
                shown(OURS),
                ratio(median(OURS), median(QCOW2.name)),
                shown(QCOW2_LUKS.name),
                shown(ENCRYPTED),
                ratio(median(ENCRYPTED), median(QCOW2_LUKS.name)),
                goal.unwrap_or(cell.goal).to_owned(),
            ]);
        }
    }
}

fn measure(bench: &mut Bench, cell: &Cell, kind: Kind, server: &Server, time: Duration) -> Result<()> {
    let before = server.cpu_micros()?;
    let result = fio(server, bench.size_bytes, cell.options, Some(time))?;
    let cpu = (server.cpu_micros()? - before) / result.requests.max(1.0);
    bench.report.add(GROUP, cell.name, kind.name(), "1/s", result.rate)?;
    bench.report.add(GROUP, &format!("{} cpu", cell.name), kind.name(), "us/request", cpu)?;
    bench.report.add(GROUP, &format!("{} p99", cell.name), kind.name(), "us", result.p99_micros)?;
    Ok(())
}

/// A server process on a new disk.
struct Server {
    child: Child,
    uri: String,
    ours: bool,
}

impl Server {
    fn new(bench: &Bench, kind: Kind, stem: &str) -> Result<Self> {
        let path = bench.path(&format!("{stem}.{}", kind.name()));
        let socket = bench.path(&format!("{}.sock", kind.name()));
        if socket.exists() {
            fs::remove_file(&socket)?;
        }
        make(bench, kind, &path)?;
        let mut command = match kind {
            Kind::Theirs(format) => {
                let mut command = Command::new("qemu-nbd");
                command.args(["-t", "-e", "8", "--cache=none", "--discard=unmap"]);
                command.arg(format!("--aio={}", bench.aio)).arg("-k").arg(&socket);
                if format.encrypted {
                    command.args(["--object", peer::SECRET]);
                }
                command.arg("--image-opts").arg(peer::image_options(format, &path));
                command
            }
            Kind::Ours { encrypted } => {
                let mut command = Command::new(std::env::current_exe()?);
                let caching = format!("{:?}", bench.caching);
                command.arg("serve").arg(&path).arg(&socket).arg(caching);
                if encrypted {
                    command.arg(PASSWORD);
                }
                command
            }
        };
        let child = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().context("no server")?;
        let uri = format!("nbd+unix:///?socket={}", std::path::absolute(&socket)?.display());
        let mut server = Self { child, uri, ours: matches!(kind, Kind::Ours { .. }) };
        let start = Instant::now();
        while !socket.exists() {
            if let Some(status) = server.child.try_wait()? {
                bail!("the server of {} ended: {status}", kind.name());
            }
            if start.elapsed() > Duration::from_secs(30) {
                bail!("the server of {} does not listen", kind.name());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        // The greeting comes once the image is open, so that unlocking it is no part of what follows.
        greet(UnixStream::connect(&socket)?)?;
        Ok(server)
    }

    /// User and system time so far.
    fn cpu_micros(&self) -> Result<f64> {
        /// Of /proc on every common architecture, in µs (proc(5), USER_HZ).
        const TICK_MICROS: f64 = 10_000.0;
        let text = fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        let fields: Vec<&str> = text.rsplit(") ").next().unwrap_or_default().split(' ').collect();
        // Fields 14 and 15 of the line, of which two lie before the bracket.
        let ticks = |index: usize| fields.get(index).and_then(|word| word.parse::<f64>().ok()).context("no times");
        Ok((ticks(11)? + ticks(12)?) * TICK_MICROS)
    }

    /// Ends it as its user would.
    fn end(mut self) -> Result<()> {
        if self.ours {
            drop(self.child.stdin.take());
        } else {
            rustix::process::kill_process(
                rustix::process::Pid::from_child(&self.child),
                rustix::process::Signal::TERM,
            )?;
        }
        let status = self.child.wait()?;
        anyhow::ensure!(status.success(), "a server failed at its end: {status}");
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // After an error; a server that was ended is gone already, and then this does nothing.
        if self.child.kill().and_then(|()| self.child.wait()).is_err() {
            eprintln!("warning: a server could not be ended");
        }
    }
}

/// Takes a server's greeting and goes again, by the protocol's fixed newstyle handshake: flags, then NBD_OPT_ABORT.
fn greet(mut socket: UnixStream) -> Result<()> {
    socket.read_exact(&mut [0; 18])?;
    socket.write_all(b"\0\0\0\x01IHAVEOPT\0\0\0\x02\0\0\0\0")?;
    socket.read_to_end(&mut Vec::new())?;
    Ok(())
}

/// Makes the disk that is served.
fn make(bench: &Bench, kind: Kind, path: &Path) -> Result<()> {
    match kind {
        Kind::Theirs(format) => peer::create(format, path, bench.size_bytes),
        Kind::Ours { encrypted } => {
            drop(new_disk(bench, path, bench.size_bytes, encrypted)?);
            Ok(())
        }
    }
}

/// A new disk of ours, encrypted or plain, with the retention asked for.
///
/// # Errors
/// The host's.
pub fn new_disk(bench: &Bench, path: &Path, size_bytes: u64, encrypted: bool) -> Result<Arc<StrataDisk>> {
    let password = encrypted.then(|| (Zeroizing::new(PASSWORD.as_bytes().to_vec()), COST));
    let medium = medium::open(path, true, bench.caching)?;
    let options = CreateOptions { size_bytes, retention: bench.retention, password };
    Ok(Arc::new(StrataDisk::create(medium, &options)?))
}

/// As [`new_disk`], with its first bytes written in order and durable.
///
/// # Errors
/// The host's.
pub fn filled_disk(bench: &Bench, path: &Path, size_bytes: u64, fill_bytes: u64) -> Result<Arc<StrataDisk>> {
    let disk = new_disk(bench, path, size_bytes, false)?;
    let image: Arc<dyn benchtop_block::DiskBackend> = disk.clone();
    drive(&image, bench.way, Load::sequential(true, 8, fill_bytes))?;
    Ok(disk)
}

struct FioResult {
    rate: f64,
    requests: f64,
    p99_micros: f64,
}

/// One job, for so long or once over the disk.
fn fio(server: &Server, size_bytes: u64, options: &[&str], time: Option<Duration>) -> Result<FioResult> {
    let mut command = Command::new("fio");
    command.args(["--output-format=json", "--name=job", "--ioengine=nbd"]);
    command.arg(format!("--uri={}", server.uri)).arg(format!("--size={size_bytes}")).args(options);
    if let Some(time) = time {
        command.arg("--time_based").arg(format!("--runtime={}ms", time.as_millis()));
    }
    let (_, text) = peer::run(&mut command)?;
    let json = text.find('{').and_then(|start| text.get(start..)).context("fio said no JSON")?;
    let document: serde_json::Value = serde_json::from_str(json)?;
    let job = &document["jobs"][0];
    let direction = if job["write"]["total_ios"].as_f64() > Some(0.0) { &job["write"] } else { &job["read"] };
    Ok(FioResult {
        rate: direction["iops"].as_f64().context("fio said no rate")?,
        requests: direction["total_ios"].as_f64().context("fio said no number")?,
        p99_micros: direction["clat_ns"]["percentile"]["99.000000"].as_f64().unwrap_or(f64::NAN) / 1e3,
    })
}
