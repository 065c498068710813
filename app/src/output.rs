//! What goes to standard output and standard error.

use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use benchtop_control::{Failure, FailureKind};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::cli::{Globals, ProgressStyle};
use crate::plain;

/// The exit code of a program whose reader went away: what a shell reports for one that SIGPIPE ended, 128 and 13.
pub const READER_GONE: u8 = 141;

/// How this run speaks.
#[derive(Clone, Debug, Default)]
pub struct Output {
    globals: Globals,
    /// Standard output is a pipe that nobody reads any longer.
    reader_gone: Arc<AtomicBool>,
}

impl Output {
    /// As the global options say.
    pub fn new(globals: &Globals) -> Self {
        Self { globals: globals.clone(), ..Self::default() }
    }

    /// In JSON, where the options could not be read.
    pub fn json() -> Self {
        Self { globals: Globals { json: true, ..Globals::default() }, ..Self::default() }
    }

    /// Whether results are JSON documents.
    pub fn is_json(&self) -> bool {
        self.globals.json
    }

    /// Whether [`print`](Self::print) found that nobody reads: there is then nobody to tell anything.
    pub fn is_reader_gone(&self) -> bool {
        self.reader_gone.load(Ordering::Relaxed)
    }

    /// How progress is shown; `Auto` is settled here.
    pub fn progress(&self) -> ProgressStyle {
        match self.globals.progress {
            _ if self.globals.quiet => ProgressStyle::None,
            ProgressStyle::Auto if std::io::stderr().is_terminal() => ProgressStyle::Bar,
            ProgressStyle::Auto => ProgressStyle::None,
            chosen => chosen,
        }
    }

    /// The result: the document of `verb` with `--json`, else `text`.
    ///
    /// # Errors
    /// Standard output can not be written.
    pub fn result(&self, verb: &str, fields: &impl Serialize, text: impl FnOnce() -> String) -> Result<(), Failure> {
        let text = if self.globals.json { document(verb, fields)? } else { plain::lines(&text()) };
        self.print(&text)
    }

    /// A result that is a remark: without `--json`, and unless `--quiet`, on standard error.
    ///
    /// # Errors
    /// Standard output can not be written.
    pub fn done(&self, verb: &str, fields: &impl Serialize, remark: impl FnOnce() -> String) -> Result<(), Failure> {
        if self.globals.json {
            return self.print(&document(verb, fields)?);
        }
        self.remark(&remark());
        Ok(())
    }

    /// Something worth knowing, on standard error.
    pub fn remark(&self, text: &str) {
        if !self.globals.quiet {
            say(&plain::line(text));
        }
    }

    /// A warning, on standard error.
    pub fn warning(&self, text: &str) {
        self.remark(&format!("warning: {text}"));
    }

    /// An error, in its three parts.
    pub fn failure(&self, failure: &Failure) {
        if self.globals.json {
            if let Ok(text) = document("error", &ErrorDocument { exit_code: failure.kind.exit_code(), error: failure })
            {
                let _told = self.print(&text);
            }
        } else {
            let [what, why, fix] = [&failure.what, &failure.why, &failure.fix].map(|part| plain::line(part));
            say(&format!("benchtop: {}", Failure { kind: failure.kind, what, why, fix }));
        }
    }

    /// Asks a question that is answered with yes or no.
    ///
    /// # Errors
    /// There is nobody to ask, or the answer was no.
    pub fn confirm(&self, question: &str) -> Result<(), Failure> {
        if self.globals.yes {
            return Ok(());
        }
        let refused =
            |why: &str| Failure::new(FailureKind::Usage, "did nothing", why, "Add --yes to do it without a question.");
        if !std::io::stdin().is_terminal() || self.globals.json {
            return Err(refused("This has to be confirmed, and there is no terminal to ask on."));
        }
        eprint!("{} [y/N] ", plain::line(question));
        let mut answer = String::new();
        std::io::stdin().read_line(&mut answer).map_err(|error| Failure::from_io("can not ask", &error))?;
        if matches!(answer.trim(), "y" | "Y" | "yes") { Ok(()) } else { Err(refused("The answer was no.")) }
    }

    /// Prints to standard output.
    ///
    /// # Errors
    /// Standard output can not be written. That its reader went away is one too, which [`is_reader_gone`] tells:
    /// nothing else would end what prints again and again.
    ///
    /// [`is_reader_gone`]: Self::is_reader_gone
    pub fn print(&self, text: &str) -> Result<(), Failure> {
        let mut stdout = std::io::stdout().lock();
        let mut text = text.to_owned();
        if !text.is_empty() && !text.ends_with('\n') {
            text.push('\n');
        }
        stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).map_err(|error| {
            if error.kind() == std::io::ErrorKind::BrokenPipe {
                self.reader_gone.store(true, Ordering::Relaxed);
            }
            Failure::from_io("can not print the result", &error)
        })
    }
}

/// An error as a document.
#[derive(Serialize)]
struct ErrorDocument<'a> {
    exit_code: u8,
    error: &'a Failure,
}

/// A JSON document that names its schema.
pub fn document(verb: &str, fields: &impl Serialize) -> Result<String, Failure> {
    let failed = |why: String| Failure::new(FailureKind::Failed, "can not print the result", why, "Report this.");
    let mut object = Map::new();
    object.insert("schema".to_owned(), Value::String(format!("benchtop.{verb}/1")));
    match serde_json::to_value(fields).map_err(|error| failed(error.to_string()))? {
        Value::Object(fields) => object.extend(fields),
        Value::Null => {}
        other => {
            object.insert("value".to_owned(), other);
        }
    }
    let text = serde_json::to_string_pretty(&Value::Object(object)).map_err(|error| failed(error.to_string()))?;
    Ok(plain::json(&text))
}

/// A line on standard error; one that can not be written is lost.
pub fn say(text: &str) {
    let _lost = writeln!(std::io::stderr().lock(), "{text}");
}

/// Columns, padded; the last is left ragged. Cells are made safe and cut to what can be read.
pub fn table(rows: &[Vec<String>]) -> String {
    let rows: Vec<Vec<String>> = rows
        .iter()
        .map(|row| row.iter().enumerate().map(|(at, cell)| plain::cell(cell, at + 1 == row.len())).collect())
        .collect();
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    // The last cell of a row pushes nothing to the right.
    let width = |column: usize| {
        let cells = rows.iter().filter(|row| row.len() > column + 1).filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in &rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line.push_str(cell);
            line.push_str(&" ".repeat(width.saturating_sub(cell.chars().count()) + 2));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// Standard error for the log. It may be a file without room, most of all when the disk beside it has none: a line is
/// lost then. Told of it, tracing would complain on standard error too, and panic where that fails.
#[derive(Clone, Copy, Debug)]
pub struct LossyStderr;

impl Write for LossyStderr {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let _lost = std::io::stderr().write_all(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_name_their_schema() {
        let text = document("list", &serde_json::json!({ "vms": [] })).unwrap();
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap()["schema"], "benchtop.list/1");
    }

    #[test]
    fn columns_line_up() {
        let rows = [vec!["a".to_owned(), "bb".to_owned()], vec!["ccc".to_owned(), "d".to_owned()]];
        assert_eq!(table(&rows), "a    bb\nccc  d\n");
    }

    /// A line of 70 000 characters in a bundle ended `list`: it was wider than what `format!` pads to.
    #[test]
    fn cells_of_any_length_are_lined_up() {
        let long = "x".repeat(70_000);
        let text = table(&[vec![long.clone(), "\u{1b}[2J".to_owned()], vec!["b".to_owned(), long]]);
        assert!(text.lines().all(|line| line.len() < 3000), "{text}");
        assert!(text.contains("\\u{1b}[2J"), "{text}");
    }
}
