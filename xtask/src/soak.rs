//! `cargo xtask soak`: the kill tests of tests/tests/durability.rs, or the power cuts of
//! disk-formats/strata/tests/crash, for longer.

use anyhow::Result;
use clap::Args;

use crate::packages::{self, BINUTILS, COMPILER, FIRMWARE};
use crate::process::{cargo, show};

/// Options of `soak`.
#[derive(Args)]
pub struct Options {
    /// How many times each test kills its monitor
    #[arg(long, default_value_t = 200)]
    kills: u32,
    /// Instead cut the power of Strata disks in memory so many times: at every write of a short life, and at random
    /// ones of long lives; says how far it is, and may be interrupted
    #[arg(long, conflicts_with = "kills")]
    crashes: Option<u64>,
    /// Seed of the moments at which it is killed, or of the first disk; printed, so that a failure can be run again
    #[arg(long)]
    seed: Option<u64>,
}

/// The command.
///
/// # Errors
/// A kill after which something reported complete was lost.
pub fn soak(options: &Options) -> Result<()> {
    if let Some(crashes) = options.crashes {
        return crash(crashes, options.seed);
    }
    packages::ensure_installed(&[&COMPILER, &BINUTILS, &FIRMWARE])?;
    show(&mut cargo(["build", "--package", "benchtop"]))?;
    let mut command = cargo(["test", "--package", "benchtop-tests", "--test", "durability"]);
    command.env("BENCHTOP_KILLS", options.kills.to_string());
    if let Some(seed) = options.seed {
        command.env("BENCHTOP_SEED", seed.to_string());
    }
    show(command.args(["--", "--nocapture"]))
}

fn crash(crashes: u64, seed: Option<u64>) -> Result<()> {
    let mut command = cargo(["test", "--release", "--package", "benchtop-strata", "--test", "crash"]);
    command.env("BENCHTOP_CRASHES", crashes.to_string());
    if let Some(seed) = seed {
        command.env("BENCHTOP_SEED", seed.to_string());
    }
    // One test after the other: each has all processors, and what they say is in order.
    show(command.args(["--", "--nocapture", "--test-threads=1"]))
}
