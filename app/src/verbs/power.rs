//! `reset`, `pause` and `resume`: one command each.

use benchtop_control::{Command, Failure};
use clap::Args;

use crate::output::Output;
use crate::target::running;

/// A verb that takes a VM and nothing else.
#[derive(Debug, Args)]
pub struct Named {
    /// VM
    pub vm: String,
}

impl Named {
    /// Sends the command.
    ///
    /// # Errors
    /// The VM is off, or refused.
    pub fn run(&self, output: &Output, verb: &str, command: Command) -> Result<(), Failure> {
        let mut client = running(&self.vm)?;
        client.command(command)?;
        let state = client.show()?.state;
        let fields = serde_json::json!({ "name": self.vm, "state": state });
        output.done(verb, &fields, || format!("{} is {}", self.vm, state.name()))
    }
}
