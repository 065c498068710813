//! Runs the `benchtop` binary as a user does.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde_json::Value;
use tempfile::TempDir;

use crate::guests::BareGuest;

/// Says that a test can not run here, and why. `cargo xtask test` lists these lines at its end.
pub fn skip(test: &str, why: &str) {
    println!("SKIPPED {test}: {why}");
}

/// Whether VMs can run here; otherwise says that `test` is skipped.
pub fn can_run(test: &str) -> bool {
    if fs::OpenOptions::new().read(true).write(true).open("/dev/kvm").is_err() {
        skip(test, "no access to /dev/kvm");
        return false;
    }
    if binary().is_none() {
        skip(test, "the benchtop binary is not built: cargo build --package benchtop");
        return false;
    }
    true
}

/// The `benchtop` binary of this build: beside the folder our own program is in.
pub fn binary() -> Option<PathBuf> {
    let own = std::env::current_exe().ok()?;
    own.ancestors().skip(1).take(3).map(|folder| folder.join("benchtop")).find(|path| path.is_file())
}

/// A folder for one test: images, its own VM library and runtime folder.
#[derive(Debug)]
pub struct Bench {
    folder: TempDir,
}

impl Bench {
    /// An empty one.
    ///
    /// # Errors
    /// The host's.
    pub fn new() -> Result<Self> {
        let bench = Self { folder: tempfile::Builder::new().prefix("benchtop-test").tempdir()? };
        fs::create_dir(bench.path("library"))?;
        fs::create_dir(bench.path("run"))?;
        rustix::fs::chmod(bench.path("run"), rustix::fs::Mode::from_raw_mode(0o700))?;
        Ok(bench)
    }

    /// A file in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// An empty disk image of `bytes`, sparse.
    ///
    /// # Errors
    /// The host's.
    pub fn disk(&self, name: &str, bytes: u64) -> Result<PathBuf> {
        let path = self.path(name);
        fs::File::create(&path)?.set_len(bytes)?;
        Ok(path)
    }

    /// An ISO with the bare-metal guest and 600 kB of data.
    ///
    /// # Errors
    /// The compiler's or the host's.
    pub fn bare_iso(&self, command: &str) -> Result<PathBuf> {
        let path = self.path(&format!("{}.iso", command.replace(|c: char| !c.is_ascii_alphanumeric(), "-")));
        let data: Vec<u8> = (0..600_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        fs::write(&path, BareGuest::build()?.iso(command, &data)?)?;
        Ok(path)
    }

    /// `benchtop` with this bench's library and runtime folder.
    ///
    /// # Errors
    /// It is not built.
    pub fn benchtop(&self) -> Result<Command> {
        let mut command = Command::new(binary().context("the benchtop binary is not built")?);
        command
            .env("BENCHTOP_LIBRARY", self.path("library"))
            .env("XDG_RUNTIME_DIR", self.path("run"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        Ok(command)
    }

    /// Runs `benchtop` with `arguments` to its end and gives its standard output.
    ///
    /// # Errors
    /// It failed; what it said is in the error.
    pub fn run(&self, arguments: &[&str]) -> Result<String> {
        let output = self.benchtop()?.args(arguments).output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(
            output.status.success(),
            "benchtop {}: {}\n{text}{}",
            arguments.join(" "),
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(text)
    }

    /// Runs `benchtop --json` with `arguments` to its end and gives the document it printed.
    ///
    /// # Errors
    /// It failed, or what it printed is no JSON.
    pub fn json(&self, arguments: &[&str]) -> Result<Value> {
        let text = self.run(&[&["--json"], arguments].concat())?;
        serde_json::from_str(&text).with_context(|| format!("benchtop {}: {text}", arguments.join(" ")))
    }

    /// Makes a VM in the library, with a disk as `new --disk` takes it and `iso` in its drive.
    ///
    /// # Errors
    /// What `new` refused.
    pub fn new_vm(&self, name: &str, disk: &str, iso: &Path) -> Result<BundledVm<'_>> {
        let iso = iso.to_string_lossy();
        self.run(&["new", name, "--memory", "128M", "--cpus", "1", "--disk", disk, "--iso", &iso])?;
        let serial = self.path(&format!("{name}-serial.txt"));
        Ok(BundledVm { bench: self, name: name.to_owned(), serial, monitor: None })
    }

    /// Starts `benchtop boot --accel kvm` with COM1 to `serial.txt`.
    ///
    /// # Errors
    /// It can not be started.
    pub fn boot(&self, iso: &Path, more: &[&str]) -> Result<Guest> {
        let serial = self.path("serial.txt");
        if serial.exists() {
            fs::remove_file(&serial)?;
        }
        let child = self
            .benchtop()?
            .args(["boot", "--accel", "kvm", "--memory", "128M", "--quiet", "--iso"])
            .arg(iso)
            .arg("--serial")
            .arg(&serial)
            .args(more)
            .spawn()?;
        Ok(Guest { child, serial })
    }

    /// Boots the bare-metal guest, waits until it powers off, and gives what it wrote on COM1.
    ///
    /// # Errors
    /// A guest that reports failure or does not come to its end.
    pub fn bare(&self, command: &str, more: &[&str]) -> Result<String> {
        let iso = self.bare_iso(command)?;
        let mut guest = self.boot(&iso, &[&["--timeout", "180s"], more].concat())?;
        guest.finish(Duration::from_secs(200))
    }
}

/// A VM in the foreground of a child process.
#[derive(Debug)]
pub struct Guest {
    child: Child,
    serial: PathBuf,
}

impl Guest {
    /// What it has written on COM1 so far.
    pub fn serial(&self) -> String {
        fs::read(&self.serial).map(|bytes| String::from_utf8_lossy(&bytes).replace('\r', "")).unwrap_or_default()
    }

    /// Waits until COM1 has `text`.
    ///
    /// # Errors
    /// The VM ends or the time passes before.
    pub fn wait_for(&mut self, text: &str, limit: Duration) -> Result<()> {
        let end = Instant::now() + limit;
        loop {
            let serial = self.serial();
            if serial.contains(text) {
                return Ok(());
            }
            if self.child.try_wait()?.is_some() {
                let said = self.said();
                bail!("the VM ended before it wrote {text:?}; COM1:\n{serial}\n{said}");
            }
            ensure!(Instant::now() < end, "no {text:?} in {limit:?}; COM1:\n{serial}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits for its end, which must be a good one, and gives what it wrote.
    ///
    /// # Errors
    /// As said.
    pub fn finish(&mut self, limit: Duration) -> Result<String> {
        let end = Instant::now() + limit;
        let status = loop {
            if let Some(status) = self.child.try_wait()? {
                break status;
            }
            ensure!(Instant::now() < end, "still running after {limit:?}; COM1:\n{}", self.serial());
            std::thread::sleep(Duration::from_millis(20));
        };
        let serial = self.serial();
        let said = self.said();
        ensure!(status.success() && !serial.contains("FAIL"), "{status}; COM1:\n{serial}\n{said}");
        Ok(serial)
    }

    /// Kills the process as a crash would.
    ///
    /// # Errors
    /// The host's.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    fn said(&mut self) -> String {
        use std::io::Read;
        let mut text = String::new();
        if let Some(stderr) = self.child.stderr.as_mut()
            && stderr.read_to_string(&mut text).is_err()
        {
            text.push_str("(standard error is not text)");
        }
        text
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) && self.kill().is_err() {
            eprintln!("a VM of a failed test could not be ended");
        }
    }
}

/// A VM of a bench's library. Its monitor is a process of its own, which no test is the parent of.
#[derive(Debug)]
pub struct BundledVm<'a> {
    bench: &'a Bench,
    name: String,
    serial: PathBuf,
    monitor: Option<OwnedFd>,
}

impl BundledVm<'_> {
    /// Starts it, with COM1 to a file of the bench's.
    ///
    /// # Errors
    /// What `start` refused.
    pub fn start(&mut self) -> Result<()> {
        self.bench.run(&["start", &self.name, "--accel", "kvm", "--serial", &self.serial.to_string_lossy()])?;
        let shown = self.show()?;
        let pid = shown["pid"].as_i64().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
        // Held from now on, so that the number can not become another process's.
        self.monitor = Some(pidfd_open(pid.with_context(|| format!("no monitor: {shown}"))?, PidfdFlags::empty())?);
        Ok(())
    }

    /// What `show --json` says.
    ///
    /// # Errors
    /// What it refused.
    pub fn show(&self) -> Result<Value> {
        self.bench.json(&["show", &self.name])
    }

    /// Its state as `list --json` says it.
    ///
    /// # Errors
    /// What it refused; a VM that is not listed, or as unreadable.
    pub fn listed_state(&self) -> Result<String> {
        let listed = self.bench.json(&["list"])?;
        let rows = listed["vms"].as_array().context("no list of VMs")?;
        let row = rows.iter().find(|row| row["name"] == self.name.as_str());
        let state = row.and_then(|row| row["state"].as_str());
        Ok(state.with_context(|| format!("no state of {}: {listed}", self.name))?.to_owned())
    }

    /// The image of its first disk.
    ///
    /// # Errors
    /// It can not be shown, or has none.
    pub fn image(&self) -> Result<PathBuf> {
        let shown = self.show()?;
        let devices = shown["devices"].as_array().context("no devices")?;
        let file = devices.iter().find(|device| device["kind"] == "disk").and_then(|disk| disk["file"].as_str());
        let bundle = shown["path"].as_str().context("no path")?;
        Ok(Path::new(bundle).join(file.context("no disk")?))
    }

    /// What it has written on COM1 since it was started.
    pub fn serial(&self) -> String {
        fs::read(&self.serial).map(|bytes| String::from_utf8_lossy(&bytes).replace('\r', "")).unwrap_or_default()
    }

    /// Waits until COM1 has `text`.
    ///
    /// # Errors
    /// The time passes before.
    pub fn wait_for(&self, text: &str, limit: Duration) -> Result<()> {
        let end = Instant::now() + limit;
        while !self.serial().contains(text) {
            ensure!(Instant::now() < end, "no {text:?} in {limit:?}: {}; COM1:\n{}", self.show()?, self.serial());
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Kills the monitor as a crash would, and returns when the host has closed all it held.
    ///
    /// # Errors
    /// It is not started, or the host's.
    pub fn kill(&mut self) -> Result<()> {
        let monitor = self.monitor.take().context("the VM is not started")?;
        pidfd_send_signal(&monitor, Signal::KILL)?;
        self.ended(&monitor)
    }

    /// Pulls the plug as `stop --force` does.
    ///
    /// # Errors
    /// What it refused.
    pub fn stop(&mut self) -> Result<()> {
        self.bench.run(&["stop", &self.name, "--force"])?;
        let monitor = self.monitor.take().context("the VM is not started")?;
        self.ended(&monitor)
    }

    fn ended(&self, monitor: &OwnedFd) -> Result<()> {
        let limit = Timespec { tv_sec: 30, tv_nsec: 0 };
        let ended = poll(&mut [PollFd::new(monitor, PollFlags::IN)], Some(&limit))?;
        ensure!(ended == 1, "the monitor of {} does not end", self.name);
        Ok(())
    }
}

impl Drop for BundledVm<'_> {
    fn drop(&mut self) {
        if self.monitor.is_some() && self.kill().is_err() {
            eprintln!("the monitor of a failed test could not be ended");
        }
    }
}
