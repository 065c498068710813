//! The `benchtop` command: one verb a file under `verbs/`.
//!
//! Results go to standard output, progress, warnings and errors to standard error; with `--json` the result or the
//! error is one JSON document on standard output. The exit code is that of the failure's kind.

mod cli;
mod drives;
mod files;
mod image;
mod output;
mod password;
mod plain;
mod progress;
mod remote;
mod signals;
mod target;
mod verbs;
mod when;

use std::io::IsTerminal;
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
    log_to_stderr(cli.globals.quiet);
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
        let why = text.lines().next().unwrap_or_default().trim_start_matches("error: ");
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

/// Warnings of the engine, on standard error, unless it shall be quiet; `BENCHTOP_LOG` says more or less.
fn log_to_stderr(quiet: bool) {
    let filter = tracing_subscriber::EnvFilter::try_from_env("BENCHTOP_LOG")
        .unwrap_or_else(|_unset| tracing_subscriber::EnvFilter::new(if quiet { "error" } else { "warn" }));
    let coloured = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|set| set.is_empty());
    let _first = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(|| output::LossyStderr)
        .with_ansi(coloured)
        .without_time()
        .with_target(false)
        .try_init();
}
