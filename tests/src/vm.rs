//! Runs the `benchtop` binary as a user does.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
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
