//! `cargo xtask test`: every test, with what they need.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use clap::Args;

use crate::guests;
use crate::packages::{self, BINUTILS, COMPILER, EXT4, FIRMWARE, KILL, PYTHON, QEMU_TOOLS};
use crate::process::{cargo, show};

/// Options of `test`.
#[derive(Args)]
pub struct Options {
    /// Only tests whose name contains this
    filter: Option<String>,
}

/// What a test prints when it can not run here (`benchtop_tests::vm::skip`).
const SKIPPED: &str = "SKIPPED ";

/// The command. Tests that can not run here are listed by name at the end.
///
/// # Errors
/// A step that failed.
pub fn test(options: &Options) -> Result<()> {
    packages::ensure_installed(&[&COMPILER, &BINUTILS, &FIRMWARE, &EXT4, &KILL, &PYTHON, &QEMU_TOOLS])?;
    if let Err(error) = guests::ensure_sample() {
        eprintln!("without the sample guests: {error:#}");
    }
    if let Err(error) = guests::ensure_linux().and_then(|_| guests::ensure_generic()) {
        eprintln!("without all Linux guests: {error:#}");
    }
    show(&mut cargo(["build", "--package", "benchtop"]))?;
    let mut command = cargo(["test", "--workspace", "--no-fail-fast"]);
    if let Some(filter) = &options.filter {
        command.arg(filter);
    }
    // The lines of skipped tests would be swallowed with the rest of a passing test's output.
    command.args(["--", "--nocapture"]);
    let mut child = command.stdout(Stdio::piped()).spawn().context("could not start cargo test")?;
    let mut skipped = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        for line in BufReader::new(stdout).lines() {
            let line = line.context("could not read what cargo test prints")?;
            println!("{line}");
            if let Some(start) = line.find(SKIPPED) {
                skipped.push(line[start + SKIPPED.len()..].to_owned());
            }
        }
    }
    let status = child.wait()?;
    if !skipped.is_empty() {
        println!("\n{} tests could not run on this host:", skipped.len());
        for line in &skipped {
            println!("  {line}");
        }
    }
    ensure!(status.success(), "tests failed");
    Ok(())
}
