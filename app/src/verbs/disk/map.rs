//! `disk map`.

use benchtop_block::ExtentKind;
use benchtop_control::{Failure, Size};
use clap::Args;
use serde::Serialize;

use crate::image::{Access, Source};
use crate::output::{Output, table};
use crate::remote::disk_failure;
use crate::signals::{Signals, interrupted};

/// Extents that are listed, at most; the sums count all.
const LISTED_MAX: usize = 100_000;
/// How much of a disk is asked about at once: Ctrl-C shall not wait long.
const WINDOW_BYTES: u64 = 1 << 30;

/// `disk map`.
#[derive(Debug, Args)]
pub struct Map {
    /// Disk: FILE[,format=F] or VM:DISK
    pub disk: String,
    /// How to open it.
    #[command(flatten)]
    pub access: Access,
}

#[derive(Clone, Copy, Debug, Serialize)]
struct Range {
    offset_bytes: u64,
    len_bytes: u64,
    kind: &'static str,
}

#[derive(Debug, Default)]
struct Found {
    ranges: Vec<Range>,
    count: u64,
    data_bytes: u64,
}

impl Found {
    fn add(&mut self, offset_bytes: u64, len_bytes: u64, kind: ExtentKind, last: &mut Option<ExtentKind>) {
        let data = kind == ExtentKind::Data;
        self.data_bytes += if data { len_bytes } else { 0 };
        let more = *last == Some(kind);
        *last = Some(kind);
        if !more {
            self.count += 1;
            if self.ranges.len() < LISTED_MAX {
                let kind = if data { "data" } else { "zeroes" };
                self.ranges.push(Range { offset_bytes, len_bytes, kind });
            }
        } else if self.ranges.len() as u64 == self.count
            && let Some(range) = self.ranges.last_mut()
        {
            range.len_bytes += len_bytes;
        }
    }
}

impl Map {
    /// Runs the action.
    ///
    /// # Errors
    /// It can not be read.
    pub fn run(&self, output: &Output) -> Result<(), Failure> {
        let source = Source::find(&self.disk)?;
        let opened = source.open(output, &self.access, true)?;
        let disk = &*opened.disk.backend;
        let size_bytes = disk.info().size_bytes;
        let signals = Signals::watch()?;
        let (mut found, mut last, mut at) = (Found::default(), None, 0);
        let mut window = WINDOW_BYTES;
        while at < size_bytes {
            if let Some(why) = signals.came() {
                return Err(interrupted(why, "Do it again."));
            }
            let limit = window.min(size_bytes - at);
            let extent = disk.extent_at(at, limit);
            let extent = extent.map_err(|error| disk_failure(&source.what("map"), disk, &error))?;
            // A disk that answers nonsense is data to its end.
            let len = if extent.len_bytes == 0 { limit } else { extent.len_bytes.min(limit) };
            // A huge hole shall not take a question for each gibibyte.
            let hole = extent.kind == ExtentKind::Zeroes && len == limit;
            window = if hole { window.saturating_mul(2) } else { WINDOW_BYTES };
            found.add(at, len, extent.kind, &mut last);
            at += len;
        }
        let truncated = found.count > found.ranges.len() as u64;
        let fields = serde_json::json!({
            "disk": self.disk, "format": opened.disk.format.name(), "size_bytes": size_bytes,
            "data_bytes": found.data_bytes, "zero_bytes": size_bytes - found.data_bytes, "count": found.count,
            "truncated": truncated, "extents": found.ranges,
        });
        output.result("disk.map", &fields, || {
            let mut rows = vec![["offset", "length", "holds"].map(str::to_owned).to_vec()];
            rows.extend(
                found.ranges.iter().map(|range| {
                    vec![range.offset_bytes.to_string(), range.len_bytes.to_string(), range.kind.to_owned()]
                }),
            );
            let mut text = table(&rows);
            if truncated {
                text.push_str(&format!("… and {} more\n", found.count - found.ranges.len() as u64));
            }
            let (data, size) = (Size(found.data_bytes).human(), Size(size_bytes).human());
            text.push_str(&format!("{data} of {size} are stored\n"));
            text
        })
    }
}
