//! `disk snap`: snapshots, which are named, and restore points, which every flush makes.

use benchtop_block::BlockErrorKind;
use benchtop_control::{Failure, FailureKind, Size};
use benchtop_machine::monitor::block_failure;
use benchtop_strata::{CryptStatus, PointInfo, StrataDisk};
use clap::{ArgGroup, Args, Subcommand};
use serde::Serialize;

use crate::image::{Access, Source};
use crate::output::{Output, table};
use crate::when::{self, When};

/// `disk snap`.
#[derive(Debug, Args)]
pub struct Snap {
    /// What to do
    #[command(subcommand)]
    pub action: Action,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Action {
    /// Name what the disk holds now
    Take {
        /// Disk: FILE or VM:DISK
        disk: String,
        /// Name of the snapshot
        name: String,
        /// How to open it.
        #[command(flatten)]
        access: Access,
    },
    /// List snapshots and restore points, oldest first
    List {
        /// Disk: FILE or VM:DISK
        disk: String,
        /// How to open it.
        #[command(flatten)]
        access: Access,
    },
    /// Make the disk what it was; what it holds now becomes a restore point
    #[command(
        group = ArgGroup::new("point").required(true).args(["name", "at"]),
        override_usage = "benchtop disk snap go [OPTIONS] <DISK> <NAME|--at <T|#N>>"
    )]
    Go {
        /// Disk: FILE or VM:DISK
        disk: String,
        /// Snapshot
        name: Option<String>,
        /// Restore point: #N, or the last one before a time
        #[arg(long, value_name = "T|#N")]
        at: Option<When>,
        /// How to open it.
        #[command(flatten)]
        access: Access,
    },
    /// Remove a snapshot; its space comes back in the background
    Rm {
        /// Disk: FILE or VM:DISK
        disk: String,
        /// Snapshot, or #N for a restore point without a name
        name: String,
        /// How to open it.
        #[command(flatten)]
        access: Access,
    },
}

/// A point as `--json` has it.
#[derive(Debug, Serialize)]
struct Point {
    number: u64,
    time: String,
    name: Option<String>,
    frees_bytes: u64,
}

impl From<PointInfo> for Point {
    fn from(point: PointInfo) -> Self {
        Self { number: point.seq, time: when::utc(point.time_ms), name: point.name, frees_bytes: point.frees_bytes }
    }
}

impl Snap {
    /// Runs the action.
    ///
    /// # Errors
    /// What failed.
    pub fn run(&self, output: &Output) -> Result<(), Failure> {
        match &self.action {
            Action::Take { disk, name, access } => take(output, disk, name, access),
            Action::List { disk, access } => list(output, disk, access),
            Action::Go { disk, name, at, access } => go(output, disk, name.as_deref(), *at, access),
            Action::Rm { disk, name, access } => rm(output, disk, name, access),
        }
    }
}

/// The restore point that is meant: of that name, that number, or the last one at a time or before.
///
/// # Errors
/// There is none.
pub fn find_point(
    disk: &StrataDisk,
    source: &Source,
    at: Option<When>,
    name: Option<&str>,
) -> Result<PointInfo, Failure> {
    let points = disk.points().map_err(|error| block_failure(&source.what("read"), &error))?;
    let (found, why) = match (at, name) {
        (Some(When::Number(number)), _) => {
            (points.into_iter().find(|point| point.seq == number), format!("It has no restore point #{number}."))
        }
        (Some(When::TimeMs(time_ms)), _) => (
            points.into_iter().rfind(|point| point.time_ms <= time_ms),
            format!("It has no restore point of {} or before.", when::local(time_ms)),
        ),
        (None, name) => {
            let name = name.unwrap_or_default();
            let found = points.into_iter().find(|point| point.name.as_deref() == Some(name));
            (found, format!("It has no snapshot `{name}`."))
        }
    };
    found.ok_or_else(|| {
        let fix = "`benchtop disk snap list` lists what it has.";
        Failure::new(FailureKind::NotFound, format!("can not find a state of the disk {}", source.name), why, fix)
    })
}

fn take(output: &Output, disk: &str, name: &str, access: &Access) -> Result<(), Failure> {
    let source = Source::find(disk)?;
    if name.starts_with('#') || name.chars().any(char::is_control) {
        let why = "A name that begins with # is a number, and one with control characters can not be typed.";
        return Err(Failure::new(FailureKind::Usage, source.what("take a snapshot of"), why, "Choose another name."));
    }
    let opened = source.open_strata(output, access, false)?;
    let number = opened.disk.snapshot(name).map_err(|error| {
        let failure = block_failure(&source.what("take a snapshot of"), &error);
        match error.kind() {
            BlockErrorKind::Unsupported if is_converting(&opened.disk) => failure.with_fix(CONVERTING),
            // Only the name can be wrong.
            BlockErrorKind::Unsupported => failure.with_fix("Choose another name."),
            _ => failure,
        }
    })?;
    let fields = serde_json::json!({ "disk": disk, "name": name, "number": number });
    output.done("disk.snap.take", &fields, || format!("took the snapshot {name} (#{number})"))
}

/// What to do where a disk that is encrypted or decrypted right now refuses.
const CONVERTING: &str = "Let that be done first: the same `benchtop crypt enable` or `disable` goes on.";

fn is_converting(disk: &StrataDisk) -> bool {
    matches!(disk.crypt_status(), CryptStatus::Encrypting | CryptStatus::Decrypting)
}

fn list(output: &Output, disk: &str, access: &Access) -> Result<(), Failure> {
    let source = Source::find(disk)?;
    let opened = source.open_strata(output, access, true)?;
    let points = opened.disk.points().map_err(|error| block_failure(&source.what("read"), &error))?;
    let text = || {
        let mut rows = vec![["number", "time", "freed by removing", "snapshot"].map(str::to_owned).to_vec()];
        rows.extend(points.iter().map(|point| {
            vec![
                format!("#{}", point.seq),
                when::local(point.time_ms),
                Size(point.frees_bytes).human(),
                point.name.clone().unwrap_or_default(),
            ]
        }));
        table(&rows)
    };
    let fields = serde_json::json!({
        "disk": disk, "points": points.iter().cloned().map(Point::from).collect::<Vec<_>>(),
    });
    output.result("disk.snap.list", &fields, text)
}

fn go(output: &Output, disk: &str, name: Option<&str>, at: Option<When>, access: &Access) -> Result<(), Failure> {
    let source = Source::find(disk)?;
    let mut opened = source.open_strata(output, access, false)?;
    let point = find_point(&opened.disk, &source, at, name)?;
    let failed = |error| block_failure(&source.what("change"), &error);
    // Every flush made a restore point, unless the disk keeps none: then what it holds now would be gone.
    if !opened.disk.retention().every_flush {
        let now = when::now_utc();
        let kept = format!("before going to {} at {now}", short(name.unwrap_or("a restore point")));
        opened.disk.snapshot(&kept).map_err(failed)?;
        output.remark(&format!("what it held became the snapshot {kept}"));
    }
    opened.disk.go(point.seq).map_err(failed)?;
    let fields = serde_json::json!({ "disk": disk, "point": Point::from(point.clone()) });
    output.done("disk.snap.go", &fields, || {
        let name = point.name.map(|name| format!(" ({name})")).unwrap_or_default();
        format!("{} is what it was at {}{name}", source.name, when::local(point.time_ms))
    })
}

/// A name cut so that there is room for more.
fn short(name: &str) -> &str {
    let end = name.char_indices().map(|(at, _)| at).take_while(|at| *at <= 60).last().unwrap_or(0);
    if name.len() <= 60 { name } else { name.get(..end).unwrap_or_default() }
}

fn rm(output: &Output, disk: &str, name: &str, access: &Access) -> Result<(), Failure> {
    let source = Source::find(disk)?;
    let opened = source.open_strata(output, access, false)?;
    let at = match name.strip_prefix('#') {
        None => None,
        Some(_) => {
            let usage = |why| Failure::new(FailureKind::Usage, source.what("change"), why, "Name a snapshot, or #N.");
            Some(name.parse::<When>().map_err(usage)?)
        }
    };
    let point = find_point(&opened.disk, &source, at, Some(name))?;
    opened.disk.drop_point(point.seq).map_err(|error| block_failure(&source.what("change"), &error))?;
    let fields = serde_json::json!({ "disk": disk, "point": Point::from(point.clone()) });
    output.done("disk.snap.rm", &fields, || format!("removed {name}; {} will be free", Size(point.frees_bytes).human()))
}
