//! `cargo xtask fuzz NAME`: libFuzzer on what reads a hostile guest's, file's or peer's words (tests/fuzz).

use anyhow::Result;
use clap::Args;

use crate::process::{cargo, has_program, repository, show};

/// Options of `fuzz`.
#[derive(Args)]
pub struct Options {
    /// Of the target: devices (ide, board), image files (qcow2, vmdk, vdi, vhd, vhdx, probe, strata), or the two sides
    /// of NBD (nbd-server, nbd-client)
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
    // Long inputs at once: most targets take what is missing for zeroes, so short ones do little.
    command.args(["-timeout=10", "-max_len=4096", "-len_control=0", "-print_final_stats=1"]);
    // A thread that is just ending looks like a leak; a true one ends at the limit of memory.
    command.arg("-detect_leaks=0");
    show(&mut command)
}
