//! The `benchtop` command: one verb a file under `verbs/`.
//!
//! Results go to standard output, progress, warnings and errors to standard error; with `--json` the result or the
//! error is one JSON document on standard output. The exit code is that of the failure's kind.

mod cli;
mod drives;
mod files;
mod image;
mod log;
mod output;
mod password;
mod plain;
mod progress;
mod remote;
mod signals;
mod target;
mod verbs;
mod when;

use std::process::ExitCode;
use std::time::Instant;

use benchtop_control::{Failure, FailureKind};
use clap::Parser;

use crate::cli::Cli;
use crate::output::Output;

fn main() -> ExitCode {
    let started_at = Instant::now();
    if let Some(code) = verbs::monitor::run_if_asked(started_at) {
        return code;
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    let output = Output::new(&cli.globals);
    log::to_stderr(cli.globals.quiet);
    match verbs::run(cli, &output) {
        Ok(code) => ExitCode::from(code),
        Err(_) if output.is_reader_gone() => ExitCode::from(output::READER_GONE),
        Err(failure) => {
            output.failure(&failure);
            ExitCode::from(failure.kind.exit_code())
        }
    }
}

/// A command line that was not understood, or `--help` and `--version`.
fn usage(error: &clap::Error) -> ExitCode {
    // What can not be printed can not be reported either; the exit code still says it.
    if !error.use_stderr() {
        let _printed = error.print();
        return ExitCode::SUCCESS;
    }
    if std::env::args_os().any(|argument| argument == "--json") {
        let text = error.to_string();
        // What is missing may be listed on lines of its own.
        let why = text.trim_start_matches("error: ").lines().take_while(|line| !line.is_empty());
        let why = why.map(str::trim).collect::<Vec<_>>().join(" ");
        Output::json().failure(&Failure::new(
            FailureKind::Usage,
            "did not understand the command",
            why,
            "`benchtop help` lists the verbs, `benchtop VERB --help` what one takes.",
        ));
    } else {
        output::say(&plain::lines(error.to_string().trim_end()));
    }
    ExitCode::from(FailureKind::Usage.exit_code())
}
