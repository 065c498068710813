//! Progress on standard error.

use std::cell::Cell;
use std::io::Write;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::cli::ProgressStyle as Style;
use crate::output::Output;
use crate::plain;

/// How often is told how far it is, at most.
const TELL_EVERY: Duration = Duration::from_millis(250);

/// Something that takes a while.
#[derive(Debug)]
pub struct Progress {
    bar: Option<ProgressBar>,
    json: bool,
    what: String,
    started: Instant,
    /// When bytes were last told of.
    told: Cell<Option<Instant>>,
}

impl Progress {
    /// Begins, as the global options say. Nothing is drawn by a thread of its own.
    pub fn begin(output: &Output, what: &str) -> Self {
        let style = output.progress();
        let bar = (style == Style::Bar).then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(4));
            bar.set_style(ProgressStyle::default_spinner());
            bar.set_message(plain::line(what));
            bar
        });
        Self { bar, json: style == Style::Json, what: what.to_owned(), started: Instant::now(), told: Cell::default() }
    }

    /// Says how far it is.
    pub fn update(&self, state: &str) {
        if let Some(bar) = &self.bar {
            let seconds = self.started.elapsed().as_secs();
            bar.set_message(plain::line(&format!("{} · {seconds} s · {state}", self.what)));
            bar.tick();
        }
        if self.json {
            self.line(serde_json::json!({ "state": state }));
        }
    }

    /// Says how many bytes are done, not more often than it can be read. `state` is one word for programs.
    pub fn update_bytes(&self, state: &str, done: u64, total: u64) {
        if self.told.get().is_some_and(|told| told.elapsed() < TELL_EVERY) {
            return;
        }
        self.told.set(Some(Instant::now()));
        let elapsed = self.started.elapsed();
        let rate = (u128::from(done) * 1_000_000_000).checked_div(elapsed.as_nanos()).unwrap_or(0);
        let rate = u64::try_from(rate).unwrap_or(u64::MAX);
        let left = total.saturating_sub(done).checked_div(rate).map(Duration::from_secs);
        if let Some(bar) = &self.bar {
            bar.set_message(plain::line(&format!("{} · {}", self.what, amount(done, total, rate, left))));
            bar.tick();
        }
        if self.json {
            self.line(serde_json::json!({
                "state": state, "done_bytes": done, "total_bytes": total, "bytes_per_second": rate,
                "remaining_ns": left.map(|left| u64::try_from(left.as_nanos()).unwrap_or(u64::MAX)),
            }));
        }
    }

    /// A line for programs.
    fn line(&self, fields: serde_json::Value) {
        let elapsed_ns = u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let mut line =
            serde_json::json!({ "schema": "benchtop.progress/1", "what": self.what, "elapsed_ns": elapsed_ns });
        if let (Some(line), serde_json::Value::Object(fields)) = (line.as_object_mut(), fields) {
            line.extend(fields);
        }
        let _lost = writeln!(std::io::stderr().lock(), "{}", plain::json(&line.to_string()));
    }

    /// Clears the bar.
    pub fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// How far it is, in three significant digits: `45 % · 512 MB/s · 3 s left`.
fn amount(done: u64, total: u64, rate: u64, left: Option<Duration>) -> String {
    let percent = (u128::from(done) * 100).checked_div(u128::from(total)).unwrap_or(100);
    let left = match left.map(|left| left.as_secs()) {
        None => String::new(),
        Some(seconds @ 0..120) => format!(" · {seconds} s left"),
        Some(seconds @ 120..7200) => format!(" · {} min left", seconds / 60),
        Some(seconds) => format!(" · {} h left", seconds / 3600),
    };
    format!("{percent:>3} % · {}{left}", self::rate(rate))
}

/// Bytes a second, in SI units.
pub fn rate(bytes: u64) -> String {
    let (unit, name) = match bytes {
        0..1_000_000 => (1000, "kB/s"),
        1_000_000..1_000_000_000 => (1_000_000, "MB/s"),
        _ => (1_000_000_000, "GB/s"),
    };
    let hundredths = bytes.saturating_mul(100) / unit;
    match hundredths / 100 {
        whole @ 0..10 => format!("{whole}.{:02} {name}", hundredths % 100),
        whole @ 10..100 => format!("{whole}.{} {name}", hundredths % 100 / 10),
        whole => format!("{whole} {name}"),
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_three_digits() {
        assert_eq!(rate(0), "0.00 kB/s");
        assert_eq!(rate(1_234_567), "1.23 MB/s");
        assert_eq!(rate(56_789_000), "56.7 MB/s");
        assert_eq!(rate(999_999_999), "999 MB/s");
        let text = amount(45, 100, 512_000_000, Some(Duration::from_secs(3)));
        assert_eq!(text, " 45 % · 512 MB/s · 3 s left");
        assert_eq!(amount(0, 0, 0, None), "100 % · 0.00 kB/s");
    }
}
