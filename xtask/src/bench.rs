//! `cargo xtask bench`: figures beside a named peer's, from one run on one machine.

use anyhow::Result;
use clap::{Args, ValueEnum};

use crate::packages::{self, BINUTILS, COMPILER, FIRMWARE, QEMU};
use crate::process::{cargo, show};

/// Options of `bench`.
#[derive(Args)]
pub struct Options {
    /// What to measure
    what: Bench,
    /// Runs of each, of which the median is taken
    #[arg(long, default_value_t = 5)]
    runs: u32,
    /// Requests in a run
    #[arg(long, default_value_t = 1000)]
    requests: u32,
}

#[derive(Clone, Copy, ValueEnum)]
enum Bench {
    /// 4 KiB requests by DMA and PIO: exits and requests a second, beside QEMU's
    Ide,
}

/// The command.
///
/// # Errors
/// A step that failed.
pub fn bench(options: &Options) -> Result<()> {
    match options.what {
        Bench::Ide => {
            packages::ensure_installed(&[&COMPILER, &BINUTILS, &FIRMWARE, &QEMU])?;
            show(&mut cargo(["build", "--release", "--package", "benchtop"]))?;
            let mut command = cargo(["run", "--release", "--package", "benchtop-tests", "--bin", "bench-ide", "--"]);
            show(command.arg(options.runs.to_string()).arg(options.requests.to_string()))
        }
    }
}
