//! `disk check`, and what it has in common with `disk repair`.

use benchtop_block::{BlockError, BlockErrorKind};
use benchtop_control::config::DiskFormat;
use benchtop_control::{Failure, FailureKind, Size};
use benchtop_machine::monitor::block_failure;
use benchtop_machine::monitor::identity::is_refusal;
use benchtop_machine::monitor::image::{image_format, lock};
use benchtop_strata::StrataDisk;
use clap::Args;
use serde::Serialize;

use super::holders::{Holder, Holders};
use crate::image::{Access, Opened, Source};
use crate::output::Output;

/// `disk check`.
#[derive(Debug, Args)]
pub struct Check {
    /// Disk: FILE[,format=F] or VM:DISK
    pub disk: String,
    /// Accept an older copy of this disk than the VM had last, as of a restored backup
    #[arg(long)]
    pub accept_rollback: bool,
    /// How to open it.
    #[command(flatten)]
    pub access: Access,
}

/// What was found, in the words all formats share.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    disk: String,
    format: &'static str,
    /// How much is wrong.
    pub damages: u64,
    /// How much space is taken and holds nothing: clusters, or blocks of Strata's.
    pub leaks: u64,
    /// The same in bytes, where it is known.
    pub leaked_bytes: Option<u64>,
    /// Blocks that were read and compared with what authenticates them.
    pub verified_blocks: Option<u64>,
    /// The first of what was found, in words.
    pub findings: Vec<String>,
    /// Strata: restore points that hold damage, as far as they are known.
    pub points_damaged: Vec<Holder>,
    /// What to do about damage.
    #[serde(skip)]
    pub advice: Option<String>,
}

impl Report {
    /// Of a disk of which nothing is known yet.
    pub fn new(source: &Source, format: DiskFormat) -> Self {
        Self { disk: source.name.clone(), format: format.name(), ..Self::default() }
    }

    /// With what an image of another format says.
    pub fn with(self, found: benchtop_images::CheckReport) -> Self {
        let benchtop_images::CheckReport { damages, leaks, findings } = found;
        Self { damages, leaks, findings, ..self }
    }

    /// 0, or that of a finding.
    pub fn exit_code(&self) -> u8 {
        match (self.damages, self.leaks) {
            (0, 0) => 0,
            (0, _) => FailureKind::Leaks.exit_code(),
            _ => FailureKind::Damage.exit_code(),
        }
    }

    /// For people.
    pub fn text(&self) -> String {
        let mut lines = self.findings.clone();
        lines.push(match (self.damages, self.leaks) {
            (0, 0) => "no damage was found".to_owned(),
            (0, leaks) => match self.leaked_bytes {
                Some(bytes) => format!("no damage; {} are taken and hold nothing", Size(bytes).human()),
                None => format!("no damage; {leaks} clusters are taken and hold nothing"),
            },
            (1, _) => "damage was found in 1 place".to_owned(),
            (damages, _) => format!("damage was found in {damages} places"),
        });
        lines.extend(self.advice.clone());
        lines.join("\n")
    }

    /// Prints it; says the exit code.
    pub fn print(&self, output: &Output, verb: &str) -> Result<u8, Failure> {
        output.result(verb, self, || self.text())?;
        Ok(self.exit_code())
    }
}

/// What a check that came to no end says: damage so grave is what was looked for. `fix` is what to do about it.
pub fn failed(what: &str, error: &BlockError, fix: &str) -> Failure {
    let failure = block_failure(what, error);
    match error.kind() {
        BlockErrorKind::Corrupt => failure.with_kind(FailureKind::Damage).with_fix(fix),
        _ => failure,
    }
}

/// What to do where a check finds damage.
const REPAIR: &str = "`benchtop disk repair` puts right what can be; else restore the image from a backup.";

fn holders(opened: &mut Opened<StrataDisk>, what: &str) -> Result<Holders, Failure> {
    // What can not be read now is not known here.
    Holders::find(&mut opened.disk, &[]).map_err(|error| block_failure(what, &error))
}

/// What to do about the damage of a Strata disk.
fn advice(holders: &Holders, disk: &str) -> String {
    match holders.is_past_only() {
        true => format!("what the disk holds now is whole; {}", holders.advice(disk)),
        false => "`benchtop disk repair` shows what is lost, and what can be done about it".to_owned(),
    }
}

impl Check {
    /// Runs the action. The exit code says what was found.
    ///
    /// # Errors
    /// It can not be checked.
    pub fn run(&self, output: &Output) -> Result<u8, Failure> {
        let mut source = Source::find(&self.disk)?;
        if self.accept_rollback {
            source.accept_rollback()?;
        }
        let format = source.format()?;
        let what = source.what("check");
        let report = Report::new(&source, format);
        if format == DiskFormat::Strata {
            let mut opened = source.open_strata(output, &self.access, true).map_err(|failure| match failure.kind {
                FailureKind::Integrity if !is_refusal(&failure) => {
                    failure.with_kind(FailureKind::Damage).with_fix(REPAIR)
                }
                _ => failure,
            })?;
            let found = opened.disk.check();
            if self.accept_rollback {
                opened.accept(&source.what("accept an older copy of"))?;
                output.remark(&format!("from now on {} is as old as this", source.name));
            }
            let holders = if found.damages > 0 { holders(&mut opened, &what)? } else { Holders::default() };
            return Report {
                advice: (found.damages > 0).then(|| advice(&holders, &source.name)),
                points_damaged: holders.points,
                damages: found.damages,
                leaks: found.leaked_blocks,
                leaked_bytes: Some(found.leaked_blocks.saturating_mul(4096)),
                verified_blocks: Some(found.blocks + found.pages),
                findings: found.damage,
                ..report
            }
            .print(output, "disk.check");
        }
        let _lock = source.lock()?;
        let found = source.with_named(output, &self.access, |options| {
            let file = source.file(false)?;
            lock(&file, &what, true)?;
            let options = benchtop_images::OpenOptions { read_only: true, ..options };
            match benchtop_images::check(file, image_format(format), &options) {
                Ok(found) => Ok(Some(found)),
                Err(error) if format == DiskFormat::Raw && error.kind() == BlockErrorKind::Unsupported => Ok(None),
                Err(error) => Err(failed(&what, &error, REPAIR)),
            }
        })?;
        match found {
            Some(found) => report.with(found).print(output, "disk.check"),
            None => {
                output.remark("a raw image is nothing but its content: there is nothing to check");
                report.print(output, "disk.check")
            }
        }
    }
}
