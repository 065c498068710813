//! QEMU's side: images made and measured by `qemu-img`.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use crate::drive::Load;

/// A format of QEMU's, and how it is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Format {
    /// In tables.
    pub name: &'static str,
    /// As `qemu-img -f` has it.
    pub driver: &'static str,
    /// For `-o`.
    pub options: &'static str,
    /// Needs [`SECRET`].
    pub encrypted: bool,
}

/// No format.
pub const RAW: Format = Format { name: "raw", driver: "raw", options: "", encrypted: false };
/// As QEMU makes it.
pub const QCOW2: Format = Format { name: "qcow2-64k", driver: "qcow2", options: "", encrypted: false };
/// With subclusters of 4 KiB, its best for small writes.
pub const QCOW2_SUB: Format =
    Format { name: "qcow2-128k-sub", driver: "qcow2", options: "cluster_size=128k,extended_l2=on", encrypted: false };

/// With a LUKS header and AES-256-XTS.
pub const QCOW2_LUKS: Format = Format {
    name: "qcow2-luks",
    driver: "qcow2",
    options: "encrypt.format=luks,encrypt.key-secret=s0,encrypt.iter-time=100",
    encrypted: true,
};
/// An object for programs that open encrypted images. It protects nothing.
pub const SECRET: &str = "secret,id=s0,data=benchmark";
/// Making a LUKS image measures the host's speed, and fails now and then where CPU times are coarse.
const CREATE_TRIES: u32 = 20;

/// Runs a command to its end; says how long it took and what it printed.
///
/// # Errors
/// It can not be started or fails, with what it said.
pub fn run(command: &mut Command) -> Result<(Duration, String)> {
    let start = Instant::now();
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("could not start {name}"))?;
    let time = start.elapsed();
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {}\n{complaint}", output.status);
    Ok((time, String::from_utf8_lossy(&output.stdout).into_owned()))
}

/// `qemu-img` with these arguments; the time it took, start of the process included.
///
/// # Errors
/// As [`run`].
pub fn qemu_img(arguments: &[&str], path: &Path) -> Result<Duration> {
    Ok(run(Command::new("qemu-img").args(arguments).arg(path))?.0)
}

/// Makes an empty image, in place of what was there.
///
/// # Errors
/// As [`run`].
pub fn create(format: Format, path: &Path, size_bytes: u64) -> Result<()> {
    if path.exists() {
        fs::remove_file(path)?;
    }
    let mut command = Command::new("qemu-img");
    command.args(["create", "-q", "-f", format.driver]);
    if format.encrypted {
        command.args(["--object", SECRET]);
    }
    if !format.options.is_empty() {
        command.args(["-o", format.options]);
    }
    command.arg(path).arg(size_bytes.to_string());
    for _ in 1..if format.encrypted { CREATE_TRIES } else { 1 } {
        if run(&mut command).is_ok() {
            return Ok(());
        }
    }
    run(&mut command)?;
    Ok(())
}

/// For `--image-opts`.
pub fn image_options(format: Format, path: &Path) -> String {
    let secret = if format.encrypted { ",encrypt.format=luks,encrypt.key-secret=s0" } else { "" };
    format!("driver={},file.filename={}{secret}", format.driver, path.display())
}

/// `qemu-img bench` with cache=none. Requests a second by its own clock, which leaves out start and close.
///
/// What is written is not zeroes, which a format might leave out.
///
/// # Errors
/// As [`run`].
pub fn bench(format: Format, path: &Path, aio: &str, load: Load) -> Result<f64> {
    let mut command = Command::new("qemu-img");
    command.args(["bench", "-f", format.driver, "-t", "none", "-i", aio, "--pattern=165"]);
    let mut option = |name: &str, value: u64| {
        command.arg(name).arg(value.to_string());
    };
    option("-c", load.count);
    option("-d", u64::from(load.depth));
    option("-s", load.block_bytes);
    option("-S", load.step_bytes);
    if load.write {
        command.arg("-w");
    }
    if load.flush {
        // It refuses an interval below the depth, so at depth 16 the nearest is a flush for every 16, drained.
        command.arg(format!("--flush-interval={}", load.depth));
    }
    let (_, text) = run(command.arg(path))?;
    let seconds = text.split_once("completed in ").and_then(|(_, rest)| rest.split(' ').next());
    let seconds: f64 = seconds.and_then(|word| word.parse().ok()).with_context(|| format!("qemu-img said {text:?}"))?;
    Ok(load.count as f64 / seconds.max(1e-3))
}
