//! `cargo xtask bench disk`: our disk format beside QEMU's, in one run on one machine.
//!
//! ```text
//!   main ─▶ plain · nbd · commit · snapshot · compaction · space      a group of cells each; every cell on every format in turn
//!              ├─▶ drive     requests by our block queue, as a VM's devices submit them
//!              ├─▶ peer      qemu-img; serve: our NBD server, a process of its own
//!              ├─▶ upkeep    what the format does in the background, asked for
//!              ├─▶ medium    files with O_DIRECT, and files that count or leave out what is written
//!              └─▶ figures   medians, Markdown tables, JSON lines
//! ```
//!
//! Runs are interleaved: one run of a cell on every format, then the next cell, then all again. A figure is the median;
//! behind it stands half the range of the runs in per cent. Nothing here is an assertion.

mod commit;
mod compaction;
mod drive;
mod figures;
mod medium;
mod nbd;
mod peer;
mod plain;
mod serve;
mod snapshot;
mod space;
mod trim;
mod upkeep;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use benchtop_strata::Retention;
use clap::{Parser, ValueEnum};

use crate::drive::Way;
use crate::figures::Report;
use crate::medium::Caching;

/// The options, one for one those of `cargo xtask bench disk`, and more for tuning.
#[derive(Parser)]
#[command(name = "bench-disk", about = "Strata beside QEMU's disk formats")]
struct Options {
    /// Groups to measure; all without it
    #[arg(long, value_delimiter = ',')]
    only: Vec<Group>,
    /// Cells to measure in them: those whose name contains this
    #[arg(long)]
    cell: Option<String>,
    /// Runs of each cell, of which the median is taken
    #[arg(long, default_value_t = 5)]
    runs: u32,
    /// Size of the disks in GiB
    #[arg(long, default_value_t = 4)]
    size: u64,
    /// Where the disks go; it must not be a file system in memory
    #[arg(long, default_value = "target/bench-disk")]
    dir: PathBuf,
    /// An eighth of sizes and requests, and two runs: whether it works, not how fast
    #[arg(long)]
    quick: bool,
    /// Also write every run as a line of JSON to this file
    #[arg(long)]
    json: Option<PathBuf>,
    /// How our requests reach the image
    #[arg(long, value_enum, default_value_t = Way::Queue)]
    way: Way,
    /// How our file is opened; QEMU's always with O_DIRECT
    #[arg(long, value_enum, default_value_t = Caching::Direct)]
    caching: Caching,
    /// Restore points of our disks where rates are measured
    #[arg(long, value_enum, default_value_t = Keep::Default)]
    retention: Keep,
    /// How QEMU does its I/O: io_uring, native or threads
    #[arg(long, default_value = "io_uring")]
    aio: String,
    /// GiB of data that the 1 TiB disk of `space` holds; the goal is set for 256
    #[arg(long, default_value_t = 8)]
    mapped: u64,
    /// Leave QEMU out
    #[arg(long)]
    ours_only: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Group {
    /// In process, plain, beside raw and qcow2
    Plain,
    /// By NBD, plain and encrypted, beside qcow2 and qcow2 with LUKS
    Nbd,
    /// What a commit costs, and bytes written for bytes given
    Commit,
    /// Snapshots and restore points, and what they do to reading and writing
    Snapshot,
    /// Bytes written for bytes given on a full disk, and what the guest waits meanwhile
    Compaction,
    /// Metadata on the host, time and memory of opening
    Space,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Keep {
    /// What a disk is made with
    Default,
    /// None but named ones
    Off,
}

/// What every group needs.
pub struct Bench {
    /// Where disks go. Emptied at the end.
    pub dir: PathBuf,
    /// Of each cell; at least 1.
    pub runs: u32,
    /// Of the disks.
    pub size_bytes: u64,
    /// Divides numbers of requests; of sizes, those that the user does not set.
    pub divisor: u64,
    /// How our requests go.
    pub way: Way,
    /// How our files are opened.
    pub caching: Caching,
    /// Of our disks where rates are measured.
    pub retention: Retention,
    /// QEMU's.
    pub aio: String,
    /// On the 1 TiB disk.
    pub mapped_bytes: u64,
    /// No peers.
    pub ours_only: bool,
    /// Only cells with this in their names.
    pub cell: Option<String>,
    /// Where figures go.
    pub report: Report,
}

impl Bench {
    /// A file of that name in the folder for disks.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// So many requests, or fewer with `--quick`.
    pub fn requests(&self, count: u64) -> u64 {
        (count / self.divisor).max(1)
    }

    /// Whether the user wants this cell.
    pub fn wants(&self, cell: &str) -> bool {
        self.cell.as_deref().is_none_or(|part| cell.contains(part))
    }
}

/// Measures a group.
type Run = fn(&mut Bench) -> Result<()>;

/// Removes the folder for disks, which was ours to make.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            eprintln!("warning: {} could not be removed: {error}", self.0.display());
        }
    }
}

/// Removes what runs left that were killed: gigabytes each.
fn remove_abandoned(parent: &Path) -> Result<()> {
    for entry in fs::read_dir(parent)? {
        let entry = entry?;
        let name = entry.file_name();
        let process = name.to_str().and_then(|name| name.strip_prefix("run-")?.parse::<u32>().ok());
        if process.is_some_and(|process| !Path::new(&format!("/proc/{process}")).exists()) {
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

fn main() -> Result<()> {
    // Processes of its own, for what is measured of a whole process.
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.split_first() {
        Some((verb, rest)) if verb == "serve" => return serve::serve(rest),
        Some((verb, rest)) if verb == "open" => return space::open_and_tell(rest),
        _ => {}
    }
    let options = Options::parse();
    ensure!(options.runs > 0 && options.size > 0, "--runs and --size are at least 1");
    fs::create_dir_all(&options.dir).with_context(|| format!("could not make {}", options.dir.display()))?;
    remove_abandoned(&options.dir)?;
    // Absolute, for qemu-nbd wants its socket so.
    let dir = std::path::absolute(&options.dir)?.join(format!("run-{}", std::process::id()));
    fs::create_dir(&dir)?;
    let folder = Folder(dir.clone());
    warn(&dir)?;
    let json = options.json.as_deref().map(File::create).transpose().context("could not make the JSON file")?;
    let divisor = if options.quick { 8 } else { 1 };
    let mut bench = Bench {
        dir,
        runs: if options.quick { options.runs.min(2) } else { options.runs },
        size_bytes: (options.size << 30) / divisor,
        divisor,
        way: options.way,
        caching: options.caching,
        retention: match options.retention {
            Keep::Default => Retention::default(),
            Keep::Off => Retention::OFF,
        },
        aio: options.aio,
        mapped_bytes: (options.mapped << 30) / divisor,
        ours_only: options.ours_only,
        cell: options.cell,
        report: Report::new(json),
    };
    let groups: [(Group, Run); 6] = [
        (Group::Plain, plain::run),
        (Group::Nbd, nbd::run),
        (Group::Commit, commit::run),
        (Group::Snapshot, snapshot::run),
        (Group::Compaction, compaction::run),
        (Group::Space, space::run),
    ];
    for (group, run) in groups {
        if options.only.is_empty() || options.only.contains(&group) {
            let start = Instant::now();
            run(&mut bench)?;
            eprintln!("{group:?}: {:.0?}", start.elapsed());
        }
    }
    drop(folder);
    Ok(())
}

/// Says on standard error what would spoil the figures.
fn warn(dir: &Path) -> Result<()> {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load: f64 = text.split(' ').next().and_then(|word| word.parse().ok()).unwrap_or_default();
    if load > 0.5 {
        eprintln!("warning: the load average is {load}; figures of a busy machine say little (above 0.5)");
    }
    // TMPFS_MAGIC and RAMFS_MAGIC of linux/magic.h.
    let kind = rustix::fs::statfs(dir)?.f_type;
    ensure!(kind != 0x0102_1994 && kind != 0x8584_58f6, "{} is in memory; name another --dir", dir.display());
    Ok(())
}
