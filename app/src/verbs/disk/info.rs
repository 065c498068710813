//! `disk info`.

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use benchtop_block::{BlockError, DiskBackend};
use benchtop_control::config::DiskFormat;
use benchtop_control::{Failure, FailureKind, Size};
use benchtop_images::ImageInfo;
use benchtop_machine::monitor::block_failure;
use benchtop_machine::monitor::image::{ImageUse, image_format, open_strata, wants_password};
use clap::Args;
use serde::Serialize;

use crate::image::Source;
use crate::output::{Output, table};
use crate::password::PasswordArgs;
use crate::remote::TlsArgs;
use crate::when;

/// `disk info`.
#[derive(Debug, Args)]
pub struct Info {
    /// Image: FILE[,format=F], or VM:DISK
    pub disk: String,
    /// More is told of an encrypted disk with its password, which is not asked for.
    #[command(flatten)]
    pub password: PasswordArgs,
    /// For a disk that a server has.
    #[command(flatten)]
    pub tls: TlsArgs,
}

/// What `disk info --json` prints.
#[derive(Debug, Default, Serialize)]
struct Facts {
    file: PathBuf,
    format: &'static str,
    /// Of the format's own kinds, which.
    variant: Option<String>,
    size_bytes: Option<u64>,
    /// Of the file; nothing is known of a server's.
    file_bytes: Option<u64>,
    allocated_bytes: Option<u64>,
    /// Whether a server lets nobody write.
    read_only: Option<bool>,
    encrypted: Option<bool>,
    in_use: bool,
    needs_repair: bool,
    /// The file it is based on.
    backing: Option<String>,
    backing_format: Option<String>,
    /// Other files that hold parts of it.
    extents: Vec<String>,
    cluster_bytes: Option<u64>,
    /// Strata's restore points, named or not.
    points: Option<usize>,
    /// Bytes of a Strata file that are needed, and those in use.
    live_bytes: Option<u64>,
    used_bytes: Option<u64>,
    snapshots: Vec<SnapshotFacts>,
}

#[derive(Debug, Serialize)]
struct SnapshotFacts {
    name: String,
    time: Option<String>,
}

impl Info {
    /// Runs the action.
    ///
    /// # Errors
    /// It can not be read.
    pub fn run(&self, output: &Output) -> Result<(), Failure> {
        let source = Source::find(&self.disk)?;
        let what = source.what("read");
        if let Some(export) = source.connect(&self.tls, true)? {
            let info = export.info();
            let facts = Facts {
                file: source.path,
                format: info.format,
                size_bytes: Some(info.size_bytes),
                read_only: Some(export.is_read_only()),
                ..Facts::default()
            };
            return output.result("disk.info", &facts, || facts.text());
        }
        let file = source.file(false)?;
        let metadata = file.metadata().map_err(|error| Failure::from_io(what.as_str(), &error))?;
        let format = source.format()?;
        let mut facts = Facts {
            file: source.path.clone(),
            format: format.name(),
            file_bytes: Some(metadata.len()),
            allocated_bytes: Some(metadata.blocks().saturating_mul(512)),
            ..Facts::default()
        };
        if format == DiskFormat::Strata {
            let password = self.password.given()?;
            let said = benchtop_strata::facts(&file);
            let expected = source.expected()?;
            let (password, expected) = (password.as_ref(), expected.as_ref());
            let how = ImageUse { read_only: true, password, expected, ..ImageUse::default() };
            (facts.size_bytes, facts.encrypted) = (said.map(|said| said.size_bytes), said.map(|said| said.encrypted));
            match open_strata(file, &what, how) {
                Ok(disk) => facts.of_strata(&disk).map_err(|error| block_failure(&what, &error))?,
                Err(failure) if wants_password(&failure) => {}
                Err(failure) if failure.kind == FailureKind::WrongState => facts.in_use = true,
                Err(failure) => return Err(failure),
            }
        } else {
            let info = benchtop_images::info(&file, image_format(format));
            facts.of_image(info.map_err(|error| block_failure(&what, &error))?);
        }
        output.result("disk.info", &facts, || facts.text())
    }
}

impl Facts {
    fn of_strata(&mut self, disk: &benchtop_strata::StrataDisk) -> Result<(), BlockError> {
        self.size_bytes = Some(disk.info().size_bytes);
        let points = disk.points()?;
        self.points = Some(points.len());
        let space = disk.space();
        (self.live_bytes, self.used_bytes) = (Some(space.live_bytes), Some(space.used_bytes));
        let named = points.into_iter().filter_map(|point| point.name.map(|name| (name, point.time_ms)));
        self.snapshots = named.map(|(name, time_ms)| SnapshotFacts { name, time: Some(when::utc(time_ms)) }).collect();
        Ok(())
    }

    fn of_image(&mut self, info: ImageInfo) {
        self.variant = Some(info.variant);
        self.size_bytes = Some(info.virtual_bytes);
        self.encrypted = Some(info.encrypted);
        self.needs_repair = info.needs_repair;
        (self.backing, self.backing_format) =
            info.backing.map(|backing| (Some(backing.name), backing.format)).unwrap_or_default();
        self.extents = info.extents;
        self.cluster_bytes = info.cluster_bytes;
        self.snapshots =
            info.snapshots.into_iter().map(|snapshot| SnapshotFacts { name: snapshot.name, time: None }).collect();
    }

    fn text(&self) -> String {
        let mut rows = Vec::new();
        let mut row = |name: &str, value: String| rows.push(vec![name.to_owned(), value]);
        row("file", self.file.display().to_string());
        row(
            "format",
            match &self.variant {
                Some(variant) if variant != self.format => format!("{} ({variant})", self.format),
                _ => self.format.to_owned(),
            },
        );
        row("size", self.size_bytes.map_or_else(|| "unknown".to_owned(), |bytes| Size(bytes).human()));
        if let Some(allocated) = self.allocated_bytes {
            row("on this host", Size(allocated).human());
        }
        if let Some(read_only) = self.read_only {
            row("can be written", if read_only { "no" } else { "yes" }.to_owned());
        }
        if let (Some(live), Some(used)) = (self.live_bytes, self.used_bytes) {
            row("in its file", format!("{} in use, {} of that needed", Size(used).human(), Size(live).human()));
        }
        if let Some(encrypted) = self.encrypted {
            row("encrypted", if encrypted { "yes" } else { "no" }.to_owned());
        }
        if self.in_use {
            row("in use", "yes".to_owned());
        }
        if self.needs_repair {
            row("state", "not closed in order, or damaged: `benchtop disk check` says more".to_owned());
        }
        if let Some(backing) = &self.backing {
            row("based on", backing.clone());
        }
        for extent in &self.extents {
            row("part", extent.clone());
        }
        if let Some(points) = self.points {
            row("restore points", points.to_string());
        }
        for snapshot in &self.snapshots {
            row("snapshot", snapshot.name.clone());
        }
        table(&rows)
    }
}
