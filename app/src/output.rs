//! What goes to standard output and standard error.

use std::io::{IsTerminal, Write};

use benchtop_control::{Failure, FailureKind};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::cli::{Globals, ProgressStyle};

/// How this run speaks.
#[derive(Clone, Debug, Default)]
pub struct Output {
    globals: Globals,
}

impl Output {
    /// As the global options say.
    pub fn new(globals: &Globals) -> Self {
        Self { globals: globals.clone() }
    }

    /// In JSON, where the options could not be read.
    pub fn json() -> Self {
        Self { globals: Globals { json: true, ..Globals::default() } }
    }

    /// Whether results are JSON documents.
    pub fn is_json(&self) -> bool {
        self.globals.json
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
        let text = if self.globals.json { document(verb, fields)? } else { text() };
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
            say(text);
        }
    }

    /// A warning, on standard error.
    pub fn warning(&self, text: &str) {
        say(&format!("warning: {text}"));
    }

    /// An error, in its three parts.
    pub fn failure(&self, failure: &Failure) {
        if self.globals.json {
            if let Ok(text) = document("error", &ErrorDocument { exit_code: failure.kind.exit_code(), error: failure })
            {
                let _told = self.print(&text);
            }
        } else {
            say(&format!("benchtop: {failure}"));
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
        eprint!("{question} [y/N] ");
        let mut answer = String::new();
        std::io::stdin().read_line(&mut answer).map_err(|error| Failure::from_io("can not ask", &error))?;
        if matches!(answer.trim(), "y" | "Y" | "yes") { Ok(()) } else { Err(refused("The answer was no.")) }
    }

    /// Prints to standard output. A reader that went away is no error.
    ///
    /// # Errors
    /// Standard output can not be written.
    pub fn print(&self, text: &str) -> Result<(), Failure> {
        let mut stdout = std::io::stdout().lock();
        let mut text = text.to_owned();
        if !text.is_empty() && !text.ends_with('\n') {
            text.push('\n');
        }
        match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
            Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
                Err(Failure::from_io("can not print the result", &error))
            }
            _ => Ok(()),
        }
    }
}

/// An error as a document.
#[derive(Serialize)]
struct ErrorDocument<'a> {
    exit_code: u8,
    error: &'a Failure,
}

/// A JSON document with its schema first.
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
    serde_json::to_string_pretty(&Value::Object(object)).map_err(|error| failed(error.to_string()))
}

/// A line on standard error; one that can not be written is lost.
fn say(text: &str) {
    let _lost = writeln!(std::io::stderr().lock(), "{text}");
}

/// Columns, padded; the last is left ragged.
pub fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line.push_str(&format!("{cell:<width$}  "));
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
    fn documents_begin_with_their_schema() {
        let text = document("list", &serde_json::json!({ "vms": [] })).unwrap();
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap()["schema"], "benchtop.list/1");
    }

    #[test]
    fn columns_line_up() {
        let rows = [vec!["a".to_owned(), "bb".to_owned()], vec!["ccc".to_owned(), "d".to_owned()]];
        assert_eq!(table(&rows), "a    bb\nccc  d\n");
    }
}
