//! `completions`: a script for a shell.

use benchtop_control::Failure;
use clap::{Args, CommandFactory};
use clap_complete::Shell;

use crate::cli::Cli;
use crate::output::Output;

/// `completions`.
#[derive(Debug, Args)]
pub struct Completions {
    /// Shell
    #[arg(value_enum)]
    pub shell: Shell,
}

impl Completions {
    /// Runs the verb.
    ///
    /// # Errors
    /// Standard output can not be written.
    pub fn run(&self, output: &Output) -> Result<(), Failure> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "benchtop", &mut script);
        let script = String::from_utf8_lossy(&script).into_owned();
        let fields = serde_json::json!({ "shell": self.shell.to_string(), "script": script });
        output.result("completions", &fields, || script.clone())
    }
}
