//! The command line: global options and verbs.

use benchtop_control::{Failure, FailureKind};
use benchtop_machine::monitor::open::Accelerator;
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::output::Output;
use crate::verbs;

/// Desktop virtualization with the best virtual disk there is.
#[derive(Debug, Parser)]
#[command(
    name = "benchtop",
    version,
    propagate_version = true,
    subcommand_required = true,
    arg_required_else_help = true
)]
#[command(after_help = "VM is a name in the library (~/Benchtop or $BENCHTOP_LIBRARY) or a path to a bundle.\n\
    Sizes are written 512M, 4G. Exit codes: 0 ok, 1 failed, 2 usage, 3 not found, 4 wrong state,\n\
    5 permission or host, 6 bad password, 7 integrity, 8 no space, 9 timeout, 10 damage found,\n\
    11 leaked space found, 130 interrupted.")]
pub struct Cli {
    /// Global options.
    #[command(flatten)]
    pub globals: Globals,
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

/// Options every verb takes.
#[derive(Clone, Debug, Default, Args)]
pub struct Globals {
    /// Print one JSON document
    #[arg(long, global = true)]
    pub json: bool,
    /// Print nothing but results and errors
    #[arg(long, short, global = true)]
    pub quiet: bool,
    /// How to show progress, on standard error
    #[arg(long, global = true, value_enum, default_value_t, value_name = "HOW")]
    pub progress: ProgressStyle,
    /// Answer questions with yes
    #[arg(long, short, global = true)]
    pub yes: bool,
}

/// How progress is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum ProgressStyle {
    /// A bar on a terminal, else nothing
    #[default]
    Auto,
    /// A bar
    Bar,
    /// One JSON object a line
    Json,
    /// Nothing
    None,
}

/// `--accel`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum AccelChoice {
    /// The best this host has
    #[default]
    Auto,
    /// KVM
    Kvm,
    /// Windows Hypervisor Platform
    Whpx,
    /// The software CPU
    Software,
}

impl AccelChoice {
    /// Which it is; those there is nothing behind yet are refused. Says so where it is not what a user expects.
    pub fn accelerator(self, output: &Output) -> Result<Accelerator, Failure> {
        match self {
            Self::Auto => {
                let (accelerator, sentence) = Accelerator::best();
                if let Some(sentence) = sentence {
                    output.warning(&sentence);
                }
                Ok(accelerator)
            }
            Self::Kvm => Ok(Accelerator::Kvm),
            Self::Whpx => Err(not_built("the accelerator whpx")),
            Self::Software => Ok(Accelerator::Software),
        }
    }
}

/// A part of the contract that is still to come.
pub fn not_built(what: &str) -> Failure {
    Failure::new(
        FailureKind::Failed,
        format!("can not use {what}"),
        "It is not built yet.",
        "README.md lists what this version has; nothing was changed.",
    )
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Make a VM
    New(verbs::new::New),
    /// List the VMs of the library
    #[command(visible_alias = "ls")]
    List(verbs::list::List),
    /// Show a VM and its devices
    Show(verbs::show::Show),
    /// Change a VM that is off
    Set(verbs::set::Set),
    /// Remove a VM and its disks
    Rm(verbs::rm::Rm),
    /// Start a VM
    Start(verbs::start::Start),
    /// Press the power button and wait until the VM is off
    Stop(verbs::stop::Stop),
    /// Press the reset button
    Reset(verbs::power::Named),
    /// Stop the VM's CPUs; memory is kept
    Pause(verbs::power::Named),
    /// Let a paused VM go on
    Resume(verbs::power::Named),
    /// Run a throw-away VM in the foreground
    Boot(Box<verbs::boot::Boot>),
    /// Save a picture of the screen
    Screenshot(verbs::screenshot::Screenshot),
    /// Type text on the VM's keyboard
    Type(verbs::keyboard::Type),
    /// Press a chord on the VM's keyboard
    Keys(verbs::keyboard::Keys),
    /// Connect the terminal to the VM's serial port
    Console(verbs::console::Console),
    /// Give a VM a CD-ROM drive
    Attach(verbs::attach::Attach),
    /// Take a disk or drive from a VM
    Detach(verbs::detach::Detach),
    /// Insert or eject a disc
    Cd(verbs::cd::Cd),
    /// Make, look at, copy and serve disk images
    Disk(verbs::disk::Disk),
    /// Encrypt and decrypt Strata disks, and change who can open them
    Crypt(verbs::crypt::Crypt),
    /// Show what devices and CPUs do
    Stats(verbs::stats::Stats),
    /// Check what this host can do
    Doctor(verbs::doctor::Doctor),
    /// Print a completion script for a shell
    Completions(verbs::completions::Completions),
    /// Not built yet: save the VM and end it
    #[command(hide = true)]
    Suspend(Unbuilt),
    /// Not built yet: snapshots
    #[command(hide = true)]
    Snap(Unbuilt),
    /// Not built yet: time travel
    #[command(hide = true)]
    Time(Unbuilt),
    /// Not built yet: import
    #[command(hide = true)]
    Import(Unbuilt),
    /// Not built yet: export
    #[command(hide = true)]
    Export(Unbuilt),
}

/// A verb of the contract that is still to come takes anything, to say so.
#[derive(Debug, Args)]
pub struct Unbuilt {
    /// Anything
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    pub arguments: Vec<String>,
}
