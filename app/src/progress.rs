//! Progress on standard error.

use std::io::Write;
use std::time::Instant;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::cli::ProgressStyle as Style;
use crate::output::Output;
use crate::plain;

/// Something that takes a while.
#[derive(Debug)]
pub struct Progress {
    bar: Option<ProgressBar>,
    json: bool,
    what: String,
    started: Instant,
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
        Self { bar, json: style == Style::Json, what: what.to_owned(), started: Instant::now() }
    }

    /// Says how far it is.
    pub fn update(&self, state: &str) {
        if let Some(bar) = &self.bar {
            let seconds = self.started.elapsed().as_secs();
            bar.set_message(plain::line(&format!("{} · {seconds} s · {state}", self.what)));
            bar.tick();
        }
        if self.json {
            let elapsed_ns = u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX);
            let line = serde_json::json!({
                "schema": "benchtop.progress/1", "what": self.what, "state": state, "elapsed_ns": elapsed_ns,
            });
            let _lost = writeln!(std::io::stderr().lock(), "{}", plain::json(&line.to_string()));
        }
    }

    /// Clears the bar.
    pub fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.end();
    }
}
