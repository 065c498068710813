//! What was measured: medians, tables, JSON lines.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write as _;

use anyhow::Result;

/// Collects figures of a group.
pub struct Report {
    json: Option<File>,
    runs: BTreeMap<(String, String), Vec<f64>>,
}

impl Report {
    /// `json` gets a line for every run.
    pub fn new(json: Option<File>) -> Self {
        Self { json, runs: BTreeMap::new() }
    }

    /// One run of `cell` on `format`.
    ///
    /// # Errors
    /// The JSON file can not be written.
    pub fn add(&mut self, group: &str, cell: &str, format: &str, unit: &str, value: f64) -> Result<()> {
        let runs = self.runs.entry((format!("{group} {cell}"), format.to_owned())).or_default();
        runs.push(value);
        if let Some(json) = &mut self.json {
            let line = serde_json::json!({
                "group": group, "cell": cell, "format": format, "unit": unit, "run": runs.len(), "value": value,
            });
            writeln!(json, "{line}")?;
        }
        Ok(())
    }

    /// The median of a cell; NaN without runs.
    pub fn median(&self, group: &str, cell: &str, format: &str) -> f64 {
        self.runs.get(&(format!("{group} {cell}"), format.to_owned())).map_or(f64::NAN, |runs| median(runs))
    }

    /// The median and how far the runs lie apart, for a table; a dash without runs.
    pub fn shown(&self, group: &str, cell: &str, format: &str) -> String {
        match self.runs.get(&(format!("{group} {cell}"), format.to_owned())) {
            None => "-".to_owned(),
            Some(runs) => spread(runs),
        }
    }
}

/// The median; of an even number the upper one.
pub fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The median with half the range in per cent of it.
fn spread(values: &[f64]) -> String {
    let middle = median(values);
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if values.len() < 2 || middle == 0.0 {
        return number(middle);
    }
    format!("{} ±{:.0}%", number(middle), (most - least) / middle * 50.0)
}

/// A size in GiB, or in MiB below one.
pub fn size(bytes: u64) -> String {
    if bytes >= 1 << 30 { format!("{} GiB", bytes >> 30) } else { format!("{} MiB", bytes >> 20) }
}

/// Three figures or so.
pub fn number(value: f64) -> String {
    match value.abs() {
        _ if value.is_nan() => "-".to_owned(),
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 0.1 => format!("{value:.2}"),
        _ => format!("{value:.4}"),
    }
}

/// A ratio for a table; a dash where one side is missing.
pub fn ratio(ours: f64, theirs: f64) -> String {
    let ratio = ours / theirs;
    if ratio.is_finite() { format!("{ratio:.2}") } else { "-".to_owned() }
}

/// A Markdown table on standard output, line by line, so that a long run shows what it has.
pub struct Table {
    columns: usize,
}

impl Table {
    /// Prints title and head.
    pub fn new(title: &str, columns: &[&str]) -> Self {
        println!("\n### {title}\n");
        println!("| {} |", columns.join(" | "));
        println!("|{}", "---|".repeat(columns.len()));
        Self { columns: columns.len() }
    }

    /// Prints a row.
    pub fn row(&self, cells: &[String]) {
        debug_assert_eq!(cells.len(), self.columns, "a row as long as the head");
        println!("| {} |", cells.join(" | "));
    }
}
