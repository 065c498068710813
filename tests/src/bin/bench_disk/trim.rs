//! Host space that comes back when a guest's file system is emptied and trimmed.
//!
//! The file system is a real one, made, emptied and trimmed by e2fsprogs in a raw file. What changed there is carried
//! over as a guest would: data is written, holes are discarded.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use benchtop_block::DiskBackend as _;
use benchtop_memory::IoBuffer;
use benchtop_strata::StrataDisk;
use rustix::fs::{SeekFrom, seek};

use crate::Bench;
use crate::drive::noise;
use crate::figures::Table;
use crate::nbd::new_disk;
use crate::plain::OURS;
use crate::snapshot::PATIENCE;
use crate::space::allocated;

const GROUP: &str = "space";
/// Of each file in the file system.
const FILE_BYTES: u64 = 64 << 20;
const CHUNK: u64 = 1 << 20;

/// Carries all of `raw` over: data is written, holes are discarded.
fn carry_over(raw: &File, disk: &StrataDisk) -> Result<()> {
    let end = raw.metadata()?.len();
    let mut at = 0;
    let mut bytes = vec![0; CHUNK as usize];
    while at < end {
        // Behind the last data there is only a hole, and no data to be found.
        let data = seek(raw, SeekFrom::Data(at)).unwrap_or(end);
        for from in (at..data).step_by(CHUNK as usize) {
            disk.discard(from, CHUNK.min(data - from))?;
        }
        let hole = if data < end { seek(raw, SeekFrom::Hole(data))? } else { end };
        for from in (data..hole).step_by(CHUNK as usize) {
            let len = CHUNK.min(hole - from) as usize;
            raw.read_exact_at(&mut bytes[..len], from)?;
            let mut buffer = IoBuffer::Host(bytes[..len].to_vec());
            disk.write_at(from, &buffer.slices(0, len as u64), false)?;
        }
        at = hole;
    }
    disk.flush()?;
    Ok(())
}

/// Runs a program of e2fsprogs, of which some say by their exit code that they changed something.
fn e2fs(command: &mut Command, most: i32) -> Result<()> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    let code = output.status.code().unwrap_or(-1);
    ensure!((0..=most).contains(&code), "{command:?}: {code}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// A file system that is nine tenths full, in a new file; says how many files it has.
fn make(bench: &Bench, raw: &Path, size_bytes: u64) -> Result<u64> {
    let folder = bench.path("ext4.files");
    fs::create_dir(&folder)?;
    let files = size_bytes * 9 / 10 / FILE_BYTES;
    let content = noise(FILE_BYTES);
    for number in 0..files {
        File::create(folder.join(number.to_string()))?.write_all(&content)?;
    }
    File::create(raw)?.set_len(size_bytes)?;
    e2fs(Command::new("mkfs.ext4").args(["-q", "-F", "-d"]).arg(&folder).arg(raw), 0)?;
    fs::remove_dir_all(&folder)?;
    Ok(files)
}

/// Measures it.
///
/// # Errors
/// A step that failed.
pub fn run(bench: &mut Bench) -> Result<()> {
    if Command::new("mkfs.ext4").arg("-V").output().is_err() {
        eprintln!("skipped: trim, for there is no mkfs.ext4");
        return Ok(());
    }
    let size = bench.size_bytes;
    let (raw, path) = (bench.path("ext4.raw"), bench.path("ext4.strata"));
    let files = make(bench, &raw, size)?;
    let disk = new_disk(bench, &path, size, false)?;
    carry_over(&File::open(&raw)?, &disk)?;
    let full = allocated(&path)?;
    let point = disk.snapshot("full")?;

    // A script by standard input would end at the first error.
    let script = bench.path("ext4.rm");
    fs::write(&script, (0..files).map(|number| format!("rm {number}\n")).collect::<String>())?;
    e2fs(Command::new("debugfs").arg("-w").arg("-f").arg(&script).arg(&raw), 0)?;
    e2fs(Command::new("e2fsck").args(["-f", "-y", "-E", "discard"]).arg(&raw), 1)?;
    let emptied = allocated(&raw)?;
    carry_over(&File::open(&raw)?, &disk)?;
    disk.checkpoint()?;
    let trimmed = allocated(&path)?;

    disk.drop_point(point)?;
    disk.set_retention(benchtop_strata::Retention::OFF)?;
    // From here on nothing is asked of the disk: it does the rest by itself.
    let started = Instant::now();
    let goal = full / 20;
    while allocated(&path)? > goal && started.elapsed() < PATIENCE {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    let waited = started.elapsed();
    let pruned = allocated(&path)?;
    let returned = (1.0 - pruned as f64 / full as f64) * 100.0;
    bench.report.add(GROUP, "trim", OURS, "%", returned)?;
    let table = Table::new(
        &format!(
            "A {} MiB ext4 file system: filled, emptied, trimmed (raw file after that: {} MiB); host space in MiB; one \
             run",
            size >> 20,
            emptied >> 20
        ),
        &["full", "trimmed under a snapshot", "points pruned", "after, s", "returned", "goal"],
    );
    let mib = |bytes: u64| (bytes >> 20).to_string();
    table.row(&[
        mib(full),
        mib(trimmed),
        mib(pruned),
        format!("{:.1}", waited.as_secs_f64()),
        format!("{returned:.1} %"),
        "95 %".to_owned(),
    ]);
    drop(disk);
    fs::remove_file(&path)?;
    fs::remove_file(&raw)?;
    Ok(())
}
