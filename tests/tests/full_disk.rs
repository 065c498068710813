//! The host's file system fills up under a running guest: the VM pauses and says why, and once there is room `resume`
//! tries the write again, so that the guest never learns of it.
//!
//! The library is then on that file system as well, as it is for most users. So the monitor's log has no room either.

use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use benchtop_tests::records::{self, SLOT_BYTES};
use benchtop_tests::vm::{self, Bench, BundledVm};

const TEST: &str = "a_full_host_pauses_the_vm_and_resume_tries_again";

/// Set for the second run of this program, which has mounts of its own.
const OWN_MOUNTS: &str = "BENCHTOP_TEST_OWN_MOUNTS";

/// What the file system holds, and what is in the way on it. The rest is less than the guest's ring of records, which
/// fits as soon as the ballast is gone.
const HOST_BYTES: u64 = 8 << 20;
const BALLAST_BYTES: usize = 6 << 20;
const SLOTS: u32 = 1024;

/// More than the host could ever hold.
const DISK_BYTES: u64 = 64 << 20;

const LIMIT: Duration = Duration::from_secs(60);

#[test]
fn a_full_host_pauses_the_vm_and_resume_tries_again() -> Result<()> {
    if !vm::can_run(TEST) {
        return Ok(());
    }
    if std::env::var_os(OWN_MOUNTS).is_some() {
        fill_and_resume("writethrough", "dma")?;
        return fill_and_resume("writeback", "pio");
    }
    let Some(mut unshare) = unshare()? else {
        vm::skip(TEST, "a small file system can not be mounted: neither as root nor in a user namespace");
        return Ok(());
    };
    let output =
        unshare.arg(std::env::current_exe()?).args(["--exact", TEST, "--nocapture"]).env(OWN_MOUNTS, "1").output()?;
    // What it skips must be seen outside.
    print!("{}", String::from_utf8_lossy(&output.stdout));
    ensure!(output.status.success(), "with mounts of its own: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// A command that runs another one where it may mount file systems that nobody else sees.
fn unshare() -> Result<Option<Command>> {
    let folder = tempfile::tempdir()?;
    for how in ["-m", "-Urm"] {
        let mut probe = Command::new("unshare");
        probe.arg(how).args(["mount", "-t", "tmpfs", "tmpfs"]).arg(folder.path());
        let probed = probe.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
        if probed.is_ok_and(|status| status.success()) {
            let mut command = Command::new("unshare");
            command.arg(how);
            return Ok(Some(command));
        }
    }
    Ok(None)
}

/// A file system of a few megabytes.
struct SmallHost(PathBuf);

impl SmallHost {
    fn mount(at: PathBuf) -> Result<Self> {
        let options = format!("size={HOST_BYTES},mode=700");
        mount(
            &["mount".as_ref(), "-t".as_ref(), "tmpfs".as_ref(), "-o".as_ref(), options.as_ref(), "tmpfs".as_ref()],
            &at,
        )?;
        Ok(Self(at))
    }

    fn ballast(&self) -> PathBuf {
        self.0.join("ballast")
    }

    fn is_full(&self) -> Result<bool> {
        let state = rustix::fs::statvfs(&self.0)?;
        Ok(state.f_bavail == 0)
    }
}

impl Drop for SmallHost {
    fn drop(&mut self) {
        // Lazily: the folder it is on must go even if the VM of a failed test still has files on it.
        if mount(&["umount".as_ref(), "-l".as_ref()], &self.0).is_err() {
            eprintln!("{} stays mounted", self.0.display());
        }
    }
}

fn mount(command: &[&OsStr], at: &Path) -> Result<()> {
    let (program, arguments) = command.split_first().context("no command")?;
    let status = Command::new(program).args(arguments).arg(at).status()?;
    ensure!(status.success(), "{}: {status}", program.display());
    Ok(())
}

/// Waits until the VM has paused for want of space, and gives the last record reported until then.
fn paused(guest: &BundledVm<'_>) -> Result<u32> {
    let end = Instant::now() + LIMIT;
    let shown = loop {
        let shown = guest.show()?;
        if shown["state"] == "paused" {
            break shown;
        }
        let waits = shown["state"] == "running" && Instant::now() < end;
        ensure!(waits, "the VM does not pause: {shown}; it wrote {:?}", guest.serial().lines().last());
        std::thread::sleep(Duration::from_millis(20));
    };
    let reason = shown["reason"].as_str().unwrap_or_default();
    ensure!(reason.contains("no space for the disk") && reason.contains("resume"), "the reason given: {shown}");
    ensure!(guest.listed_state()? == "paused", "`list` says {}", guest.listed_state()?);
    // The serial port's output comes by a thread of its own, which may be behind.
    std::thread::sleep(Duration::from_millis(300));
    records::last_reported(&guest.serial()).context("the guest reported nothing")
}

fn fill_and_resume(cache: &str, way: &str) -> Result<()> {
    let bench = Bench::new()?;
    let host = SmallHost::mount(bench.path("library"))?;
    let iso = bench.bare_iso(&format!("mode=writeloop slots={SLOTS} first=1 way={way}"))?;
    let mut guest = bench.new_vm("full", &format!("{DISK_BYTES},cache={cache},format=raw"), &iso)?;
    let image = guest.image()?;
    fs::write(host.ballast(), vec![0; BALLAST_BYTES])?;
    guest.start()?;

    let done = paused(&guest)?;
    ensure!(host.is_full()?, "the VM paused before the host was full");
    ensure!(u64::from(done) * SLOT_BYTES < HOST_BYTES - BALLAST_BYTES as u64, "{done} records went where no room is");
    records::check(&image, SLOTS, 1, done).context("when the host was full")?;

    // Up to the end of what the log has room for: the next line finds none, and that must stop nobody. A worker once
    // panicked over it before it had the VM paused, and the guest waited for its disk until it gave up.
    let mut log = fs::OpenOptions::new().append(true).open(host.0.join("full.benchtop/logs/monitor.log"))?;
    let used = log.metadata()?.len() % 4096;
    log.write_all(&vec![b'\n'; if used == 0 { 0 } else { 4096 - used as usize }])?;
    // Without room the write only fails again.
    bench.run(&["resume", "full"])?;
    ensure!(paused(&guest)? == done, "a write was reported complete that the host had no room for");

    fs::remove_file(host.ballast())?;
    bench.run(&["resume", "full"])?;
    // Once round the ring, so that every slot has been written, and once more.
    let enough = done + 2 * SLOTS;
    guest.wait_for(&format!("done {enough}\n"), LIMIT)?;
    let shown = guest.show()?;
    ensure!(shown["state"] == "running" && shown["reason"].is_null(), "after the second resume: {shown}");
    let serial = guest.serial();
    for number in 1..=enough {
        ensure!(serial.contains(&format!("done {number}\n")), "record {number} was left out");
    }
    guest.stop()?;
    let done = records::last_reported(&guest.serial()).context("the guest reported nothing")?;
    records::check(&image, SLOTS, 1, done).context("after the host had room again")
}
