//! `disk retention`.

use std::collections::HashSet;
use std::time::Duration;

use benchtop_control::{Failure, FailureKind, Size};
use benchtop_machine::monitor::block_failure;
use benchtop_strata::{PointInfo, Retention};
use clap::Args;

use crate::image::{Access, Source};
use crate::output::Output;
use crate::{plain, when};

const HOUR_MS: u64 = 3_600_000;

/// `disk retention`.
#[derive(Debug, Args)]
#[command(
    after_help = "Restore points that the new choice does not keep are removed, with consent (--yes); snapshots never \
    are."
)]
pub struct RetentionArgs {
    /// Disk: FILE or VM:DISK
    pub disk: String,
    /// show; off, which keeps snapshots only; or what differs from the default all=24h,hourly=7d,budget=20%,least=1G
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
            let points = opened.disk.points().map_err(|error| block_failure(&what, &error))?;
            if let Some(going) = going(&opened.disk.retention(), &retention, &points, when::now_ms()) {
                consent(output, &source, &what, &going)?;
            }
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

/// Which restore points a change takes away, in words; `None` if none. Snapshots always stay.
fn going(old: &Retention, new: &Retention, points: &[PointInfo], now_ms: u64) -> Option<String> {
    let unnamed = points.iter().filter(|point| point.name.is_none()).count();
    // What goes anyway does not go by this change.
    let (before, after) = (too_old(old, points, now_ms), too_old(new, points, now_ms));
    let gone = after.difference(&before).count();
    let less_room = new.budget_percent < old.budget_percent || new.budget_min_bytes < old.budget_min_bytes;
    let all = plain::count(unnamed, "restore point");
    match (gone, less_room) {
        _ if unnamed == 0 => None,
        (0, false) => None,
        // How much room each takes is not known before it goes.
        (0, true) => Some(format!("as many of {all} as are over the new budget")),
        (gone, _) if gone == unnamed => Some(all),
        (gone, false) => Some(format!("{gone} of {all}")),
        (gone, true) => Some(format!("{gone} of {all}, and more where they are over the new budget,")),
    }
}

/// The unnamed points that a retention does not keep by their age, by number: after the time of all it keeps the first
/// of each hour, after that of each day.
fn too_old(retention: &Retention, points: &[PointInfo], now_ms: u64) -> HashSet<u64> {
    let mut kept = HashSet::new();
    let goes = |point: &&PointInfo| {
        let age_ms = now_ms.saturating_sub(point.time_ms);
        let unit_ms = if age_ms <= retention.hourly_ms { HOUR_MS } else { 24 * HOUR_MS };
        let is_recent = age_ms <= retention.all_ms;
        !retention.every_flush || (!is_recent && !kept.insert((unit_ms, point.time_ms / unit_ms)))
    };
    points.iter().filter(|point| point.name.is_none()).filter(goes).map(|point| point.seq).collect()
}

/// Asks before restore points go.
fn consent(output: &Output, source: &Source, what: &str, going: &str) -> Result<(), Failure> {
    let question = format!("Of {} {going} will be lost; snapshots stay. Go on?", source.name);
    output.confirm(&question).map_err(|_refused| {
        let why = format!("By that {going} would be lost; snapshots stay.");
        let fix = "Keep what you need with `benchtop disk fork`, then consent with --yes.";
        Failure::new(FailureKind::Usage, what, why, fix)
    })
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
    }

    #[test]
    fn what_a_change_takes_away_is_counted() {
        let day = 24 * HOUR_MS;
        let now = 1000 * day;
        let point = |age_ms, name: Option<&str>| PointInfo {
            seq: now - age_ms,
            time_ms: now - age_ms,
            name: name.map(str::to_owned),
            frees_bytes: 0,
        };
        // Two in one hour of two days ago, a snapshot among them, and one of a minute ago.
        let points =
            [point(2 * day, None), point(2 * day - 1, Some("x")), point(2 * day - 2, None), point(60_000, None)];
        let retention = |text| parse_retention(text).unwrap();
        let going = |old, new| going(&retention(old), &retention(new), &points, now);
        assert_eq!(going("all=3d", "off").as_deref(), Some("3 restore points"));
        assert_eq!(going("all=3d", "all=24h").as_deref(), Some("1 of 3 restore points"));
        assert_eq!(
            (going("all=24h", "all=12h"), going("all=24h", "all=3d"), going("off", "default")),
            (None, None, None)
        );
        assert_eq!(
            going("default", "least=512M").as_deref(),
            Some("as many of 3 restore points as are over the new budget")
        );
        let both = going("all=3d", "all=1h,budget=1%").unwrap();
        assert!(both.starts_with("1 of 3 restore points, and more"), "{both}");
        assert_eq!(super::going(&retention("default"), &Retention::OFF, &points[1..2], now), None);
    }

    #[test]
    fn wrong_retentions_are_refused() {
        for wrong in ["", "on", "all", "all=24", "all=x", "budget=20", "least=much", "all=9999999999w", "all=1h,"] {
            assert!(parse_retention(wrong).is_err(), "{wrong}");
        }
    }
}
