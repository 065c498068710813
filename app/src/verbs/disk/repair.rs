//! `disk repair`.

use benchtop_control::config::DiskFormat;
use benchtop_control::{Failure, FailureKind, Size};
use benchtop_machine::monitor::block_failure;
use benchtop_machine::monitor::identity::is_refusal;
use benchtop_machine::monitor::image::{ImageUse, Password, image_format, repair_strata};
use benchtop_strata::{Identity, RepairReport};
use clap::Args;
use serde::Serialize;

use super::check::{Report, failed};
use super::holders::Holders;
use crate::image::{Access, Source};
use crate::output::Output;
use crate::plain;

/// `disk repair`.
#[derive(Debug, Args)]
#[command(after_help = "A Strata disk is looked at first. What can not be read stays an error until it is written or \
    discarded anew, and --yes consents to that; without it nothing is changed. Exit codes: 0 in order, 10 damage is left.")]
pub struct Repair {
    /// Disk: FILE[,format=F] or VM:DISK
    pub disk: String,
    /// How to open it.
    #[command(flatten)]
    pub access: Access,
}

/// A part of a disk that can not be read.
#[derive(Debug, Serialize)]
struct Lost {
    offset_bytes: u64,
    len_bytes: u64,
}

/// What `disk repair --json` prints of a Strata disk.
#[derive(Debug, Serialize)]
struct StrataReport {
    #[serde(flatten)]
    report: Report,
    /// Something was changed.
    repaired: bool,
    /// What can not be read until it is written anew.
    lost_bytes: u64,
    /// Where that is, the first thousand ranges.
    lost: Vec<Lost>,
    /// Restore points that can not be returned to, by number.
    points_lost: Vec<u64>,
    /// Records found after one that is damaged or missing. After a power cut some are to be expected.
    records_after_gap: u64,
}

impl StrataReport {
    /// `found` is what was looked at or, where `repaired`, changed; `holders` of damage were looked for before.
    fn new(source: &Source, found: RepairReport, holders: &Holders, repaired: bool) -> Self {
        let RepairReport { findings, lost, lost_bytes, points_lost, records_after_gap, check, .. } = found;
        let mut report = Report::new(source, DiskFormat::Strata);
        // What was repaired is in order now; what a check still finds is not.
        let known = findings.len() as u64;
        report.damages = if repaired { check.damages } else { check.damages.max(known) };
        report.leaks = check.leaked_blocks;
        report.leaked_bytes = Some(check.leaked_blocks.saturating_mul(4096));
        report.verified_blocks = Some(check.blocks.saturating_add(check.pages));
        report.findings = findings;
        report.findings.extend(check.damage);
        if report.damages > 0 {
            report.points_damaged = holders.points.clone();
            // A repair leaves what restore points hold: theirs is the past, which it does not change.
            let is_left = repaired || holders.is_past_only();
            report.advice = is_left.then(|| holders.advice(&source.name));
        }
        let lost = lost.into_iter();
        let lost = lost.map(|range| Lost { offset_bytes: range.start, len_bytes: range.end - range.start }).collect();
        Self { report, repaired, lost_bytes, lost, points_lost, records_after_gap }
    }

    fn text(&self) -> String {
        let mut lines = Vec::new();
        for Lost { offset_bytes, len_bytes } in self.lost.iter().take(20) {
            lines.push(format!("{len_bytes} bytes at {offset_bytes} can not be read"));
        }
        if self.lost.len() > 20 {
            lines.push(format!("… and more, {} bytes all together; --json lists them", self.lost_bytes));
        }
        if self.repaired && self.report.damages > 0 {
            lines.push("what the disk holds now was repaired, but not all is in order:".to_owned());
        }
        lines.push(self.report.text());
        let is_left = self.report.advice.is_some();
        lines.extend(match self.repaired {
            true if self.lost_bytes > 0 && is_left => Some(STAYS.to_owned()),
            true if self.lost_bytes > 0 => Some(format!("it was repaired; {STAYS}")),
            true if !is_left => Some("it was repaired".to_owned()),
            false if is_left => Some("there is nothing to repair in what the disk holds now".to_owned()),
            false if self.report.damages > 0 => Some("nothing was changed; --yes repairs it".to_owned()),
            _ => None,
        });
        lines.join("\n")
    }

    fn print(&self, output: &Output) -> Result<u8, Failure> {
        output.result("disk.repair", self, || self.text())?;
        Ok(self.report.exit_code())
    }
}

/// What becomes of lost parts.
const STAYS: &str = "what can not be read stays an error until it is written anew";

/// What to do where damage is too grave.
const NOTHING_LEFT: &str = "Nothing of it is left that could be repaired: restore it from a backup.";

/// Whether there is anything to put right: what an earlier repair gave up is as it should be.
fn needs_repair(found: &RepairReport) -> bool {
    !found.findings.is_empty() || !found.points_lost.is_empty() || found.check.damages > 0
}

impl Repair {
    /// Runs the action. The exit code says what is left.
    ///
    /// # Errors
    /// It can not be repaired.
    pub fn run(&self, output: &Output) -> Result<u8, Failure> {
        let source = Source::find(&self.disk)?;
        let format = source.format()?;
        let _lock = source.lock()?;
        let what = source.what("repair");
        if format == DiskFormat::Strata {
            return self.repair_strata(output, &source, &what);
        }
        let file = source.file(true)?;
        let found =
            benchtop_images::repair(file, image_format(format)).map_err(|error| failed(&what, &error, NOTHING_LEFT))?;
        Report::new(&source, format).with(found).print(output, "disk.repair")
    }

    fn repair_strata(&self, output: &Output, source: &Source, what: &str) -> Result<u8, Failure> {
        let expected = source.expected()?;
        let repair = |password: Option<&Password>,
                      consent: bool|
         -> Result<(RepairReport, Identity, Holders), Failure> {
            let how = ImageUse { read_only: !consent, password, expected: expected.as_ref(), ..ImageUse::default() };
            // Closed here, and with that written.
            let repaired = repair_strata(source.file(consent)?, what, how);
            let (mut disk, report) = repaired.map_err(|failure| match failure.kind {
                FailureKind::Integrity if !is_refusal(&failure) => {
                    failure.with_kind(FailureKind::Damage).with_fix(NOTHING_LEFT)
                }
                _ => failure,
            })?;
            let identity = disk.identity();
            if consent {
                source.remember(&disk);
                return Ok((report, identity, Holders::default()));
            }
            let holders = match report.check.damages {
                0 => Holders::default(),
                _ => Holders::find(&mut disk, &report.lost).map_err(|error| block_failure(what, &error))?,
            };
            Ok((report, identity, holders))
        };
        let ((found, identity, holders), password) =
            self.access.password.unlock(output, &source.name, |password| repair(password, false))?;
        let in_past = found.findings.is_empty() && found.points_lost.is_empty() && holders.is_past_only();
        if in_past || !needs_repair(&found) {
            // Nothing is damaged now, and still it is older.
            expected.map_or(Ok(()), |expected| expected.check_age(&identity, what))?;
            return StrataReport::new(source, found, &holders, false).print(output);
        }
        let (lost, points) = (Size(found.lost_bytes).human(), plain::count(found.points_lost.len(), "restore point"));
        let go = if found.points_lost.len() == 1 { "goes" } else { "go" };
        let question =
            format!("{}: {lost} can not be read and will be given up, and {points} {go}. Repair it?", source.name);
        if output.confirm(&question).is_err() {
            return StrataReport::new(source, found, &holders, false).print(output);
        }
        // What is left may be older than what is remembered, also if this process ends before it is done.
        source.forget_age()?;
        let (repaired, ..) = repair(password.as_ref(), true)?;
        StrataReport::new(source, repaired, &holders, true).print(output)
    }
}
