//! What the tests of the command line share: a library and a runtime folder of their own, and the program.

#![expect(clippy::unwrap_used, reason = "only tests use this")]

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

/// A user's world: library, runtime folder and a place for files.
pub struct World {
    pub dir: tempfile::TempDir,
}

/// What a run of the program said.
pub struct Run {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl World {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for folder in ["runtime", "library"] {
            std::fs::create_dir(dir.path().join(folder)).unwrap();
        }
        Self { dir }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn library(&self) -> PathBuf {
        self.path("library")
    }

    pub fn bundle(&self, name: &str) -> PathBuf {
        self.library().join(format!("{name}.benchtop"))
    }

    /// The program, in this world.
    pub fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_benchtop"));
        command
            .env("BENCHTOP_LIBRARY", self.library())
            .env("XDG_RUNTIME_DIR", self.path("runtime"))
            .current_dir(self.dir.path());
        command
    }

    pub fn run<I: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = I>) -> Run {
        run(self.command().args(arguments))
    }

    /// Runs with `--json`, and takes the document.
    pub fn json<I: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = I>) -> (i32, Value) {
        let run = run(self.command().arg("--json").args(arguments));
        let document = serde_json::from_str(&run.stdout).unwrap_or_else(|error| panic!("{error}: {}", run.stdout));
        (run.code, document)
    }

    /// Runs, and wants success.
    pub fn ok<I: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = I>) -> Run {
        let run = self.run(arguments);
        assert_eq!(run.code, 0, "{}{}", run.stdout, run.stderr);
        run
    }

    /// Runs, and wants a failure in three parts with this exit code.
    pub fn fails<I: AsRef<OsStr>>(&self, code: i32, arguments: impl IntoIterator<Item = I>) -> Run {
        let run = self.run(arguments);
        assert_eq!(run.code, code, "{}{}", run.stdout, run.stderr);
        assert_three_parts(&run);
        run
    }

    /// Every file below it, with its content: to show that nothing was changed.
    pub fn snapshot(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let mut files = Vec::new();
        collect(&self.library(), &mut files);
        files.sort();
        files
    }
}

fn collect(folder: &Path, files: &mut Vec<(PathBuf, Vec<u8>)>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.push((path.clone(), Vec::new()));
            collect(&path, files);
        } else {
            let content = std::fs::read(&path).unwrap();
            files.push((path, content));
        }
    }
}

pub fn run(command: &mut Command) -> Run {
    let Output { status, stdout, stderr } = command.output().unwrap();
    Run {
        code: status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&stdout).into_owned(),
        stderr: String::from_utf8_lossy(&stderr).into_owned(),
    }
}

pub fn assert_three_parts(run: &Run) {
    let has = |part: &str| run.stderr.lines().any(|line| line.starts_with(part) && line.len() > part.len());
    assert!(has("benchtop: ") && has("  why: ") && has("  do:  "), "not three parts: {}", run.stderr);
}

/// Says by name that a test was not done.
pub fn skip(test: &str, reason: &str) {
    eprintln!("SKIPPED {test}: {reason}");
}

/// Whether there is a firmware that VMs start with.
pub fn has_firmware() -> bool {
    ["/usr/share/seabios", "/usr/share/qemu"]
        .iter()
        .any(|folder| Path::new(folder).join("bios-256k.bin").exists() || Path::new(folder).join("bios.bin").exists())
}

/// Whether VMs can run here; says so if not.
pub fn can_run_vms(test: &str) -> bool {
    let kvm = std::fs::File::options().read(true).write(true).open("/dev/kvm").is_ok();
    match (kvm, has_firmware()) {
        (false, _) => skip(test, "no access to /dev/kvm"),
        (_, false) => skip(test, "no SeaBIOS"),
        _ => return true,
    }
    false
}

/// A command that runs as nobody, where this is root; else says so.
pub fn as_nobody(test: &str, program: &Path) -> Option<Command> {
    if !is_root() {
        skip(test, "only root can run a program as another user");
        return None;
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(program);
    if Command::new("setpriv").arg("--version").output().is_err() {
        skip(test, "setpriv is not installed");
        return None;
    }
    Some(command)
}

pub fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|metadata| std::os::unix::fs::MetadataExt::uid(&metadata) == 0)
}

/// A file that looks like a disc to the host and boots nothing.
pub fn blank_iso(path: &Path) {
    let mut content = vec![0; 64 << 10];
    content[0x8001..0x8006].copy_from_slice(b"CD001");
    std::fs::write(path, content).unwrap();
}

/// A pipe with a name, which nobody has open.
pub fn fifo(path: &Path) {
    assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
}
