//! Points of time as people write them.

use jiff::civil::{DateTime, Time};
use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};

/// `--at`: a restore point by its number, or the last one before a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// Its number.
    Number(u64),
    /// Milliseconds since 1970.
    TimeMs(u64),
}

impl std::str::FromStr for When {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        parse(text, &Zoned::now()).ok_or_else(|| {
            format!(
                "`{text}` is no restore point; write #123, 2026-05-01T12:00:00Z, `2026-05-01 14:00` or 14:00, \
                 the last two in local time"
            )
        })
    }
}

fn parse(text: &str, now: &Zoned) -> Option<When> {
    if let Some(number) = text.strip_prefix('#') {
        return number.parse().ok().map(When::Number);
    }
    let local = |date: DateTime, zone: &TimeZone| date.to_zoned(zone.clone()).ok().map(|zoned| zoned.timestamp());
    let zone = now.time_zone();
    let time = text
        .parse::<Timestamp>()
        .ok()
        .or_else(|| local(text.parse::<DateTime>().ok()?, zone))
        .or_else(|| local(now.date().to_datetime(text.parse::<Time>().ok()?), zone))?;
    u64::try_from(time.as_millisecond()).ok().map(When::TimeMs)
}

/// Now, as [`utc`] has it, to the second.
pub fn now_utc() -> String {
    Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Now, in milliseconds since 1970.
pub fn now_ms() -> u64 {
    u64::try_from(Timestamp::now().as_millisecond()).unwrap_or(0)
}

/// A time in UTC as documents have it (RFC 3339); empty for one no calendar has.
pub fn utc(time_ms: u64) -> String {
    timestamp(time_ms).map(|time| time.to_string()).unwrap_or_default()
}

/// A time as people read it, in the zone they are in.
pub fn local(time_ms: u64) -> String {
    let zoned = timestamp(time_ms).map(|time| time.to_zoned(TimeZone::system()));
    zoned.map(|zoned| zoned.strftime("%Y-%m-%d %H:%M:%S").to_string()).unwrap_or_default()
}

fn timestamp(time_ms: u64) -> Option<Timestamp> {
    Timestamp::from_millisecond(i64::try_from(time_ms).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_written() {
        let now: Zoned = "2026-05-01T15:00:00+02:00[Europe/Berlin]".parse().unwrap();
        let noon = 1_777_629_600_000;
        for (text, when) in [
            ("#17", Some(When::Number(17))),
            ("2026-05-01T10:00:00Z", Some(When::TimeMs(noon))),
            ("2026-05-01 12:00", Some(When::TimeMs(noon))),
            ("12:00", Some(When::TimeMs(noon))),
            ("12:00:01.5", Some(When::TimeMs(noon + 1500))),
            ("#", None),
            ("#-1", None),
            ("yesterday", None),
            ("1066-10-14T09:00:00Z", None),
        ] {
            assert_eq!(parse(text, &now), when, "{text}");
        }
        assert_eq!(utc(noon), "2026-05-01T10:00:00Z");
        assert_eq!(utc(u64::MAX), "");
    }
}
