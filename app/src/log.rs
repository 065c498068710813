//! What the engine notices besides its errors, on standard error.

use std::fmt::{self, Debug, Write};
use std::io::IsTerminal;

use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use crate::{output, plain};

/// Prints warnings as the program's own, unless it shall be quiet. With `BENCHTOP_LOG` the log itself, as much of it as
/// that says.
pub fn to_stderr(quiet: bool) {
    let asked = EnvFilter::try_from_env("BENCHTOP_LOG").ok();
    let as_warnings = asked.is_none();
    let filter = asked.unwrap_or_else(|| EnvFilter::new(if quiet { "error" } else { "warn" }));
    let coloured = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|set| set.is_empty());
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(|| output::LossyStderr)
        .with_ansi(coloured)
        .without_time()
        .with_target(false);
    let _first = if as_warnings { log.event_format(Warnings).try_init() } else { log.try_init() };
}

/// Events as warnings of the program.
struct Warnings;

impl<S, N> FormatEvent<S, N> for Warnings
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut to: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut words = Words::default();
        event.record(&mut words);
        writeln!(to, "warning: {}", plain::line(&words.text()))
    }
}

/// What an event says.
#[derive(Default)]
struct Words {
    message: String,
    error: String,
    facts: String,
}

impl Words {
    /// The message, what it is about, and why.
    fn text(&self) -> String {
        let facts = if self.facts.is_empty() { String::new() } else { format!(" ({})", self.facts) };
        let error = if self.error.is_empty() { String::new() } else { format!(": {}", self.error) };
        format!("{}{facts}{error}", self.message)
    }
}

impl Visit for Words {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        // A text that can not be written is lost: there is nobody to tell.
        let _written = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            "error" => write!(self.error, "{value:?}"),
            name => {
                let comma = if self.facts.is_empty() { "" } else { ", " };
                write!(self.facts, "{comma}{} {value:?}", name.replace('_', " "))
            }
        };
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_the_engine_notices_reads_as_a_warning() {
        let lines = Lines::default();
        let writer = lines.clone();
        let log = tracing_subscriber::fmt().with_writer(move || writer.clone()).event_format(Warnings).finish();
        tracing::subscriber::with_default(log, || {
            let error = std::io::Error::from(std::io::ErrorKind::StorageFull);
            tracing::error!(%error, "the disk\u{1b} could not be closed");
            tracing::warn!(%error, generation = 7, "a state can not be used");
        });
        let said = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        let wanted = "warning: the disk\\u{1b} could not be closed: no storage space\n\
                      warning: a state can not be used (generation 7): no storage space\n";
        assert_eq!(said, wanted);
    }
}
