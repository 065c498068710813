//! `cargo xtask bench`: figures beside a named peer's, from one run on one machine.

use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, Subcommand};

use crate::guests;
use crate::packages::{self, BINUTILS, BOCHS, COMPILER, FIO, FIRMWARE, GRUB_CD, QEMU, QEMU_TOOLS};
use crate::process::{cargo, show, target_directory};

/// Options of `bench`.
#[derive(Args)]
pub struct Options {
    /// What to measure
    #[command(subcommand)]
    what: Bench,
}

#[derive(Subcommand)]
enum Bench {
    /// 4 KiB requests by DMA and PIO: exits and requests a second, beside QEMU's
    Ide(IdeOptions),
    /// The software CPU: a Linux kernel's boot and programs on it, beside QEMU's TCG and Bochs
    Cpu(CpuOptions),
    /// Our disk format beside raw, qcow2 and qcow2 with LUKS, as qemu-img and qemu-nbd have them
    Disk(DiskOptions),
}

#[derive(Args)]
struct IdeOptions {
    /// Runs of each, of which the median is taken
    #[arg(long, default_value_t = 5)]
    runs: u32,
    /// Requests in a run
    #[arg(long, default_value_t = 1000)]
    requests: u32,
}

#[derive(Args)]
struct CpuOptions {
    /// Runs of each, of which the median is taken
    #[arg(long, default_value_t = 5)]
    runs: u32,
    /// More for the program itself, after `--`; `-- --help` lists it
    #[arg(last = true)]
    more: Vec<String>,
}

#[derive(Args)]
struct DiskOptions {
    /// Groups to measure, with commas: plain, nbd, commit, snapshot, space; all without it
    #[arg(long)]
    only: Option<String>,
    /// Runs of each cell, of which the median is taken
    #[arg(long, default_value_t = 5)]
    runs: u32,
    /// Size of the disks in GiB; about six times that is needed on the host
    #[arg(long, default_value_t = 4)]
    size: u64,
    /// Where the disks go, on a real file system; in the build's own folder without it
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Few requests and runs: whether it works, not how fast
    #[arg(long)]
    quick: bool,
    /// Also write every run as a line of JSON to this file
    #[arg(long)]
    json: Option<PathBuf>,
    /// More for the program itself, after `--`; `-- --help` lists it
    #[arg(last = true)]
    more: Vec<String>,
}

/// The command.
///
/// # Errors
/// A step that failed.
pub fn bench(options: &Options) -> Result<()> {
    match &options.what {
        Bench::Ide(options) => {
            packages::ensure_installed(&[&COMPILER, &BINUTILS, &FIRMWARE, &QEMU])?;
            show(&mut cargo(["build", "--release", "--package", "benchtop"]))?;
            let mut command = cargo(["run", "--release", "--package", "benchtop-tests", "--bin", "bench-ide", "--"]);
            show(command.arg(options.runs.to_string()).arg(options.requests.to_string()))
        }
        Bench::Cpu(options) => {
            packages::ensure_installed(&[&COMPILER, &QEMU, &BOCHS, &GRUB_CD])?;
            guests::ensure_linux()?;
            show(&mut cargo(["build", "--release", "--package", "benchtop"]))?;
            let mut command = cargo(["run", "--release", "--package", "benchtop-tests", "--bin", "bench-cpu", "--"]);
            show(command.arg("--runs").arg(options.runs.to_string()).args(&options.more))
        }
        Bench::Disk(options) => disk(options),
    }
}

fn disk(options: &DiskOptions) -> Result<()> {
    let DiskOptions { only, runs, size, dir, quick, json, more } = options;
    packages::ensure_installed(&[&COMPILER, &QEMU_TOOLS, &FIO])?;
    let mut command = cargo(["run", "--release", "--package", "benchtop-tests", "--bin", "bench-disk", "--"]);
    command.arg("--runs").arg(runs.to_string()).arg("--size").arg(size.to_string());
    if let Some(only) = only {
        command.arg("--only").arg(only);
    }
    // Cargo runs it in the repository; a path on the command line is the user's.
    let dir = dir.as_ref().map_or_else(|| Ok(target_directory().join("bench-disk")), std::path::absolute)?;
    command.arg("--dir").arg(dir);
    if *quick {
        command.arg("--quick");
    }
    if let Some(json) = json {
        command.arg("--json").arg(std::path::absolute(json)?);
    }
    show(command.args(more))
}
