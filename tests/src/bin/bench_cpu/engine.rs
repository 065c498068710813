//! Who runs the guest, and what COM1 says when.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use benchtop_tests::vm::Bench;
use clap::ValueEnum;

use crate::BOOT;
use crate::guest::{APPEND, DONE, GRUB, Guest, MARKER};

/// Longest time for all of it.
const LIMIT: Duration = Duration::from_secs(900);
/// Lines that wait to be looked at, at most.
const LINES_MAX: usize = 1 << 16;
/// A file that grows is looked at so often.
const LOOK: Duration = Duration::from_millis(5);

/// Who runs the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Engine {
    /// Ours.
    Benchtop,
    /// QEMU's translator.
    Tcg,
    /// Another interpreter.
    Bochs,
    /// The host itself, as a program of its own.
    Native,
}

/// What one run gave.
#[derive(Debug, Default)]
pub struct Measured {
    /// By program.
    pub seconds: BTreeMap<String, f64>,
    /// What the programs worked out.
    pub results: BTreeMap<String, String>,
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            Self::Benchtop => "benchtop",
            Self::Tcg => "tcg",
            Self::Bochs => "bochs",
            Self::Native => "native",
        };
        f.pad(name)
    }
}

impl Engine {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Benchtop, Self::Tcg, Self::Bochs, Self::Native];

    /// Its program's own word on what it is.
    ///
    /// # Errors
    /// It can not be started.
    pub fn version(self) -> Result<String> {
        let first = |mut command: Command| -> Result<String> {
            let output = command.stdin(Stdio::null()).output().with_context(|| format!("{command:?}"))?;
            let said = [output.stdout, output.stderr].concat();
            let text = String::from_utf8_lossy(&said).into_owned();
            let line = text.lines().find(|line| line.chars().any(char::is_alphanumeric)).unwrap_or_default();
            Ok(line.trim_matches([' ', '=']).to_owned())
        };
        let mut command = match self {
            Self::Benchtop => {
                return first(Command::new(benchtop_tests::vm::binary().context("benchtop is not built")?))
                    .map(|_| format!("{} (this tree)", env!("CARGO_PKG_VERSION")));
            }
            Self::Tcg => Command::new("qemu-system-x86_64"),
            Self::Bochs => Command::new("bochs"),
            Self::Native => {
                let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
                let model = text.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
                return Ok(model.trim_matches([' ', '\t', ':']).to_owned());
            }
        };
        command.arg("--version");
        if self == Self::Bochs {
            command = Command::new("bochs");
            command.arg("--help");
        }
        first(command)
    }

    /// Runs the guest to its end.
    ///
    /// # Errors
    /// It can not be started, or does not come to its end.
    pub fn run(self, bench: &Bench, guest: &Guest) -> Result<Measured> {
        match self {
            Self::Benchtop => follow_child(&mut benchtop(bench, guest)?),
            Self::Tcg => follow_child(&mut tcg(guest)),
            Self::Bochs => bochs(bench, guest),
            Self::Native => follow_child(Command::new(&guest.programs).args(guest.own())),
        }
    }
}

fn benchtop(bench: &Bench, guest: &Guest) -> Result<Command> {
    let mut command = bench.benchtop()?;
    command.args(["boot", "--accel", "software", "--memory", "512M", "--serial", "-", "--quiet", "--kernel"]);
    command.arg(&guest.kernel).arg("--initrd").arg(&guest.initrd).args(["--append", APPEND, "--timeout", "900s"]);
    Ok(command)
}

fn tcg(guest: &Guest) -> Command {
    let mut command = Command::new("qemu-system-x86_64");
    command.args(["-accel", "tcg", "-M", "pc", "-m", "512", "-nodefaults", "-display", "none", "-no-reboot"]);
    command.args(["-serial", "stdio", "-append", APPEND, "-kernel"]).arg(&guest.kernel).arg("-initrd");
    command.arg(&guest.initrd);
    command
}

/// Follows what a program prints, to its end.
fn follow_child(command: &mut Command) -> Result<Measured> {
    let begun = Instant::now();
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    let stdout = child.stdout.take().context("no standard output")?;
    let (sender, lines) = sync_channel(LINES_MAX);
    let reader = reader().spawn(move || {
        let mut stdout = BufReader::new(stdout);
        let mut line = Vec::new();
        while stdout.read_until(b'\n', &mut line).is_ok_and(|count| count > 0) {
            if sender.send((Instant::now(), String::from_utf8_lossy(&line).trim().to_owned())).is_err() {
                break;
            }
            line.clear();
        }
    })?;
    let measured = measure(begun, &lines, || true);
    end(&mut child)?;
    // Its pipe is closed, so that it ends.
    let _ended = reader.join();
    measured
}

/// A thread that takes lines.
fn reader() -> std::thread::Builder {
    std::thread::Builder::new().name("reader".to_owned())
}

fn end(child: &mut Child) -> Result<()> {
    // It may have ended by itself.
    let _ended = child.kill();
    child.wait()?;
    Ok(())
}

/// Makes times of lines, as long as there may be more.
fn measure(
    begun: Instant,
    lines: &Receiver<(Instant, String)>,
    mut may_be_more: impl FnMut() -> bool,
) -> Result<Measured> {
    let mut measured = Measured::default();
    let (mut begun, mut since) = (begun, None);
    let end = Instant::now() + LIMIT;
    let mut last = String::new();
    loop {
        let (when, line) = match lines.recv_timeout(Duration::from_secs(1)) {
            Ok(line) => line,
            Err(RecvTimeoutError::Disconnected) if !measured.results.is_empty() => return Ok(measured),
            Err(RecvTimeoutError::Timeout) if may_be_more() && Instant::now() < end => continue,
            Err(error) => bail!("{error}; the last line was {last:?}"),
        };
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            _ if line.contains(GRUB) => begun = when,
            _ if line.contains(MARKER) => drop(measured.seconds.insert(BOOT.to_owned(), (when - begun).as_secs_f64())),
            ["BENCH", _, "begin"] => since = Some(when),
            ["BENCH", name, "end", ref result @ ..] => {
                let since = since.take().with_context(|| format!("an end without a begin: {line}"))?;
                measured.seconds.insert(name.to_owned(), (when - since).as_secs_f64());
                // Busybox's are not run on the host.
                if let [result] = result
                    && name != "sha256"
                {
                    measured.results.insert(name.to_owned(), (*result).to_owned());
                }
            }
            _ if line.contains(DONE) => return Ok(measured),
            _ => {}
        }
        last = line;
    }
}

/// Bochs, from a CD, with COM1 in a file.
fn bochs(bench: &Bench, guest: &Guest) -> Result<Measured> {
    let iso = guest.cd(bench)?;
    let (serial, settings) = (bench.path("bochs-serial"), bench.path("bochsrc"));
    File::create(&serial)?;
    fs::write(&settings, bochsrc(bench, &iso, &serial))?;
    let begun = Instant::now();
    let log = File::create(bench.path("bochs-output"))?;
    let mut child = Command::new("bochs")
        .arg("-q")
        .arg("-f")
        .arg(&settings)
        .env("SDL_VIDEODRIVER", "dummy")
        .env("SDL_AUDIODRIVER", "dummy")
        .stdin(Stdio::piped())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .context("could not start bochs")?;
    // One built with its debugger waits for a command at the reset.
    if let Some(mut stdin) = child.stdin.take() {
        use std::io::Write;
        let _closed = stdin.write_all(b"c\nc\nc\n");
    }
    let (sender, lines) = sync_channel(LINES_MAX);
    let mut file = File::open(&serial)?;
    let over = Arc::new(AtomicBool::new(false));
    let is_over = over.clone();
    let reader = reader().spawn(move || -> Result<()> {
        let mut text = Vec::new();
        while !is_over.load(Ordering::Relaxed) {
            if file.read_to_end(&mut text)? == 0 {
                std::thread::sleep(LOOK);
            }
            let now = Instant::now();
            while let Some(end) = text.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = text.drain(..=end).collect();
                // Nobody listens any more when the guest is done.
                let _heard = sender.send((now, String::from_utf8_lossy(&line).trim().to_owned()));
            }
        }
        Ok(())
    })?;
    let measured = measure(begun, &lines, || matches!(child.try_wait(), Ok(None)));
    end(&mut child)?;
    over.store(true, Ordering::Relaxed);
    // What it could not read shows as lines that are missing.
    let _read = reader.join();
    measured.with_context(|| fs::read_to_string(bench.path("bochs-output")).unwrap_or_default())
}

fn bochsrc(bench: &Bench, iso: &Path, serial: &Path) -> String {
    let log = bench.path("bochs.log");
    format!(
        "config_interface: textconfig\n\
         display_library: sdl2\n\
         romimage: file=/usr/share/bochs/BIOS-bochs-latest\n\
         vgaromimage: file=/usr/share/vgabios/vgabios.bin\n\
         megs: 512\n\
         cpu: model=corei7_haswell_4770, count=1, ips=100000000, reset_on_triple_fault=0\n\
         clock: sync=none, time0=utc\n\
         ata0-master: type=cdrom, path={}, status=inserted\n\
         boot: cdrom\n\
         com1: enabled=1, mode=file, dev={}\n\
         log: {}\n\
         panic: action=fatal\n\
         error: action=report\n\
         info: action=ignore\n\
         speaker: enabled=0\n\
         sound: waveoutdrv=dummy\n",
        iso.display(),
        serial.display(),
        log.display()
    )
}
