//! The verbs, one a file.

pub mod attach;
pub mod boot;
pub mod cd;
pub mod completions;
pub mod console;
pub mod crypt;
pub mod detach;
pub mod disk;
pub mod doctor;
pub mod keyboard;
pub mod list;
pub mod monitor;
pub mod new;
pub mod power;
pub mod rm;
pub mod screenshot;
pub mod set;
pub mod show;
pub mod start;
pub mod stats;
pub mod stop;

use benchtop_control::{Command, Failure, Library};

use crate::cli::{Cli, Verb, not_built};
use crate::output::Output;
use crate::target::check_not_booted;

/// Does what the command line says. The exit code is that of a success that is not quite one, mostly 0.
///
/// # Errors
/// What failed.
pub fn run(cli: Cli, output: &Output) -> Result<u8, Failure> {
    match cli.verb {
        Verb::New(verb) => {
            check_not_booted(&Library::of_user()?.place(&verb.name)?.1)?;
            verb.run(output)?;
        }
        Verb::List(verb) => verb.run(output)?,
        Verb::Show(verb) => verb.run(output)?,
        Verb::Set(verb) => verb.run(output)?,
        Verb::Rm(verb) => verb.run(output)?,
        Verb::Start(verb) => return verb.run(output),
        Verb::Stop(verb) => verb.run(output)?,
        Verb::Reset(verb) => verb.run(output, "reset", Command::Reset)?,
        Verb::Pause(verb) => verb.run(output, "pause", Command::Pause)?,
        Verb::Resume(verb) => verb.run(output, "resume", Command::Resume)?,
        Verb::Boot(verb) => return verb.run(output),
        Verb::Screenshot(verb) => verb.run(output)?,
        Verb::Type(verb) => verb.run(output)?,
        Verb::Keys(verb) => verb.run(output)?,
        Verb::Console(verb) => verb.run(output)?,
        Verb::Attach(verb) => verb.run(output)?,
        Verb::Detach(verb) => verb.run(output)?,
        Verb::Cd(verb) => verb.run(output)?,
        Verb::Disk(verb) => return verb.run(output),
        Verb::Crypt(verb) => return verb.run(output),
        Verb::Stats(verb) => verb.run(output)?,
        Verb::Doctor(verb) => return verb.run(output),
        Verb::Completions(verb) => verb.run(output)?,
        Verb::Suspend(_) => return Err(not_built("`suspend`")),
        Verb::Snap(_) => return Err(not_built("`snap`")),
        Verb::Time(_) => return Err(not_built("`time`")),
        Verb::Import(_) => return Err(not_built("`import`")),
        Verb::Export(_) => return Err(not_built("`export`")),
    }
    Ok(0)
}
