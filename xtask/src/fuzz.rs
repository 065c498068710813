//! `cargo xtask fuzz NAME`: libFuzzer on a device front-end (tests/fuzz).

use anyhow::Result;
use clap::Args;

use crate::process::{cargo, has_program, repository, show};

/// Options of `fuzz`.
#[derive(Args)]
pub struct Options {
    /// `ide` or `board`
    name: String,
    /// How long
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Resident memory at which growth counts as a failure
    #[arg(long, default_value_t = 2048)]
    memory_mib: u64,
}

/// The command.
///
/// # Errors
/// A crash, a hang, memory growth, or a build that fails.
pub fn fuzz(options: &Options) -> Result<()> {
    if !has_program("cargo-fuzz") {
        eprintln!("installing cargo-fuzz");
        show(&mut cargo(["install", "--locked", "cargo-fuzz"]))?;
    }
    // Sanitizers are unstable flags; the bootstrap variable lets the pinned stable compiler take them.
    let mut command = cargo(["fuzz", "run", "--fuzz-dir", "tests/fuzz"]);
    command.env("RUSTC_BOOTSTRAP", "1").current_dir(repository());
    command.arg(&options.name).arg("--");
    command.arg(format!("-max_total_time={}", options.seconds));
    command.arg(format!("-rss_limit_mb={}", options.memory_mib));
    command.args(["-timeout=10", "-max_len=4096", "-print_final_stats=1"]);
    show(&mut command)
}
