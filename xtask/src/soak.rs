//! `cargo xtask soak`: the kill tests of tests/tests/durability.rs, for longer.

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
    /// Seed of the moments at which it is killed; printed, so that a failure can be run again
    #[arg(long)]
    seed: Option<u64>,
}

/// The command.
///
/// # Errors
/// A kill after which something reported complete was lost.
pub fn soak(options: &Options) -> Result<()> {
    packages::ensure_installed(&[&COMPILER, &BINUTILS, &FIRMWARE])?;
    show(&mut cargo(["build", "--package", "benchtop"]))?;
    let mut command = cargo(["test", "--package", "benchtop-tests", "--test", "durability"]);
    command.env("BENCHTOP_KILLS", options.kills.to_string());
    if let Some(seed) = options.seed {
        command.env("BENCHTOP_SEED", seed.to_string());
    }
    show(command.args(["--", "--nocapture"]))
}
