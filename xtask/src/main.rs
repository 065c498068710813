//! `cargo xtask`: everything a contributor or a newcomer runs on this repository, one command a file.
//!
//! ```text
//!   run      install what is needed, build, boot the sample VM
//!   test     install what is needed, build the guests, run every test
//!   check    formatting, lints, licences, layering, docs, style: all failures, not the first
//!   guests   fetch and make the guests of the sample VM and the tests, into out/guests
//!   bench    measure against a named peer on this machine
//!   fuzz     fuzz a device front-end, an image format, or NBD
//!   soak     kill the monitor under load, again and again
//! ```

mod bench;
mod check;
mod fuzz;
mod guests;
mod packages;
mod process;
mod run;
mod soak;
mod test;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Build, run, test and measure Benchtop")]
struct Arguments {
    #[command(subcommand)]
    command: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Install what is needed, build, and boot the sample VM
    Run,
    /// Install what is needed, build the guests, and run every test
    Test(test::Options),
    /// Formatting, lints, licences, layering, docs and style; reports all failures
    Check,
    /// Fetch and make the guests of the sample VM and the tests
    Guests,
    /// Measure against a peer on this machine
    Bench(bench::Options),
    /// Fuzz a device front-end, an image format, or NBD
    Fuzz(fuzz::Options),
    /// Kill the monitor under a write-through load, again and again, and look at what is left
    Soak(soak::Options),
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Task::Run => run::run(),
        Task::Test(options) => test::test(&options),
        Task::Check => check::check(),
        Task::Guests => guests::guests(),
        Task::Bench(options) => bench::bench(&options),
        Task::Fuzz(options) => fuzz::fuzz(&options),
        Task::Soak(options) => soak::soak(&options),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
