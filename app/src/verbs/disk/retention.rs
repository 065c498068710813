//! `disk retention`.

use std::time::Duration;

use benchtop_control::{Failure, FailureKind, Size};
use benchtop_machine::monitor::block_failure;
use benchtop_strata::Retention;
use clap::Args;

use crate::image::{Access, Source};
use crate::output::Output;

/// `disk retention`.
#[derive(Debug, Args)]
pub struct RetentionArgs {
    /// Disk: FILE or VM:DISK
    pub disk: String,
    /// show; off, which removes all restore points but snapshots; or what differs from the default all=24h,hourly=7d,budget=20%,least=1G
    #[arg(default_value = "show", value_name = "WHICH")]
    pub which: String,
    /// How to open it.
    #[command(flatten)]
    pub access: Access,
}

impl RetentionArgs {
    /// Runs the action.
    ///
    /// # Errors
    /// What failed.
    pub fn run(&self, output: &Output) -> Result<(), Failure> {
        let source = Source::find(&self.disk)?;
        let what = source.what("change");
        let chosen = match self.which.as_str() {
            "show" => None,
            which => Some(parse_retention(which).map_err(|why| {
                Failure::new(FailureKind::Usage, what.as_str(), format!("{why}."), "Nothing was changed.")
            })?),
        };
        let opened = source.open_strata(output, &self.access, chosen.is_none())?;
        if let Some(retention) = chosen {
            if !retention.every_flush {
                let points = opened.disk.points().map_err(|error| block_failure(&what, &error))?;
                let count = points.iter().filter(|point| point.name.is_none()).count();
                if count > 0 {
                    output.confirm(&format!(
                        "{count} restore points of {} will be lost; snapshots stay. Go on?",
                        source.name
                    ))?;
                }
            }
            let gone = if retention.every_flush { "may be" } else { "are" };
            output.remark(&format!("restore points that it does not name {gone} removed; snapshots stay"));
            opened.disk.set_retention(retention).map_err(|error| block_failure(&what, &error))?;
        }
        let Retention { every_flush, all_ms, hourly_ms, budget_percent, budget_min_bytes } = opened.disk.retention();
        let fields = serde_json::json!({
            "disk": self.disk, "every_flush": every_flush, "all_ns": ns(all_ms), "hourly_ns": ns(hourly_ms),
            "budget_percent": budget_percent, "budget_min_bytes": budget_min_bytes,
        });
        output.result("disk.retention", &fields, || match every_flush {
            false => "off: only snapshots are kept".to_owned(),
            true => format!(
                "every flush is a restore point: all for {}, hourly until {}, then daily, in {budget_percent} % of what \
                 is live but at least {}",
                span(all_ms),
                span(hourly_ms),
                Size(budget_min_bytes).human()
            ),
        })
    }
}

fn ns(millis: u64) -> u64 {
    millis.saturating_mul(1_000_000)
}

/// A time in the largest unit it is a whole number of.
fn span(millis: u64) -> String {
    let seconds = millis / 1000;
    let units = [(604_800, "w"), (86_400, "d"), (3600, "h"), (60, "m")];
    let unit = units.into_iter().find(|(unit, _)| seconds != 0 && seconds.is_multiple_of(*unit));
    unit.map_or_else(|| format!("{seconds}s"), |(unit, name)| format!("{}{name}", seconds / unit))
}

/// Reads `off`, `default`, or `all=24h,hourly=7d,budget=20%,least=1G` in any order; what is not said is as by default.
///
/// # Errors
/// A sentence.
pub fn parse_retention(text: &str) -> Result<Retention, String> {
    let mut retention = Retention::default();
    match text {
        "off" => return Ok(Retention::OFF),
        "default" => return Ok(retention),
        _ => {}
    }
    for part in text.split(',') {
        let wrong =
            || format!("`{part}` is not understood; write off, or for example all=24h,hourly=7d,budget=20%,least=1G");
        let (key, value) = part.split_once('=').ok_or_else(wrong)?;
        match key {
            "all" => retention.all_ms = parse_span_ms(value).ok_or_else(wrong)?,
            "hourly" => retention.hourly_ms = parse_span_ms(value).ok_or_else(wrong)?,
            "budget" => {
                let percent = value.strip_suffix('%').and_then(|number| number.parse().ok());
                retention.budget_percent = percent.filter(|percent| *percent <= 10_000).ok_or_else(wrong)?;
            }
            "least" => retention.budget_min_bytes = value.parse::<Size>().map_err(|_not| wrong())?.bytes(),
            _ => return Err(wrong()),
        }
    }
    Ok(retention)
}

/// A time with a unit from seconds to weeks.
fn parse_span_ms(text: &str) -> Option<u64> {
    let split = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(split);
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        "w" => 604_800,
        _ => return None,
    };
    let span = Duration::from_secs(number.parse::<u32>().ok()?.into()).checked_mul(seconds)?;
    u64::try_from(span.as_millis()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retention_is_read_as_written() {
        assert_eq!(parse_retention("off"), Ok(Retention::OFF));
        assert_eq!(parse_retention("all=24h,hourly=7d,budget=20%,least=1G"), Ok(Retention::default()));
        let retention = parse_retention("least=512M,all=30m").unwrap();
        assert_eq!((retention.all_ms, retention.budget_min_bytes), (30 * 60_000, 512 << 20));
        assert_eq!((span(86_400_000), span(90_000), span(0)), ("1d".to_owned(), "90s".to_owned(), "0s".to_owned()));
        for wrong in ["", "on", "all", "all=24", "all=x", "budget=20", "least=much", "all=9999999999w", "all=1h,"] {
            assert!(parse_retention(wrong).is_err(), "{wrong}");
        }
    }
}
