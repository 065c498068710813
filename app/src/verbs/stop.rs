//! `stop`: the power button, or the plug.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use benchtop_control::{Client, Command, Failure, FailureKind, Library, VmState};
use clap::Args;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::output::Output;
use crate::progress::Progress;
use crate::target::{ended_unexpectedly, follow, running};
use crate::verbs::boot::{human_duration, parse_duration};

/// `stop`.
#[derive(Debug, Args)]
pub struct Stop {
    /// VM
    pub vm: String,
    /// Pull the plug: what the guest has not made durable is lost
    #[arg(long)]
    pub force: bool,
    /// How long the guest may take
    #[arg(long, default_value = "60s", value_parser = parse_duration, value_name = "TIME")]
    pub timeout: Duration,
}

impl Stop {
    /// Runs the verb. Returns when the monitor has gone.
    ///
    /// # Errors
    /// The guest did not shut down in time, or the monitor was killed meanwhile.
    pub fn run(&self, output: &Output) -> Result<(), Failure> {
        let asked = running(&self.vm).and_then(|client| self.ask(output, client));
        match asked {
            Ok(()) => {}
            Err(failure) if self.force && !self.end_monitor(&failure)? => return Err(failure),
            Err(failure) if !self.force => return Err(failure),
            Err(_ended) => {}
        }
        let fields = serde_json::json!({ "name": self.vm, "forced": self.force });
        output.done("stop", &fields, || format!("{} is off", self.vm))
    }

    /// Ends a monitor that can not be reached, or that does not answer; whether there was one.
    fn end_monitor(&self, failure: &Failure) -> Result<bool, Failure> {
        match failure.kind {
            FailureKind::WrongState | FailureKind::Timeout => Library::of_user()?.find(&self.vm)?.end_monitor(),
            _ => Ok(false),
        }
    }

    /// Asks the monitor, and waits for its end.
    fn ask(&self, output: &Output, mut client: Client) -> Result<(), Failure> {
        let info = client.show()?;
        // Held before it ends: the number could be another process's afterwards.
        let process = info.pid.and_then(process_handle);
        // Refused where many follow the VM already: then its process says when it has gone.
        let subscribed = match client.command(Command::Subscribe) {
            Ok(()) => true,
            Err(failure) if failure.kind == FailureKind::WrongState => false,
            Err(failure) => return Err(failure),
        };
        if !self.force && info.state == VmState::Paused {
            return Err(Failure::new(
                FailureKind::WrongState,
                format!("can not press the power button of `{}`", self.vm),
                "It is paused: its guest can not react.",
                "Let it go on with `benchtop resume`, or end it with `benchtop stop --force`.",
            ));
        }
        client.command(if self.force { Command::PowerOff } else { Command::PowerButton })?;
        let progress = Progress::begin(output, &format!("stopping {}", self.vm));
        let deadline = Instant::now().checked_add(self.timeout);
        let mut off = None;
        loop {
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                return Err(Failure::new(
                    FailureKind::Timeout,
                    format!("the VM `{}` is still running", self.vm),
                    format!("Its guest did not shut down within {}.", human_duration(self.timeout)),
                    "Shut it down from inside, wait longer with --timeout, or pull the plug with --force.",
                ));
            }
            let wait = left.unwrap_or(Duration::from_millis(250)).min(Duration::from_millis(250));
            if follow(&mut client, Some(wait), &mut off)? {
                break;
            }
            progress.update("waiting for the guest");
        }
        // The connection ends a moment before the monitor has let go of the disks.
        if let Some(process) = &process {
            let wait = Timespec { tv_sec: 10, tv_nsec: 0 };
            if let Err(error) = poll(&mut [PollFd::new(process, PollFlags::IN)], Some(&wait)) {
                tracing::debug!(%error, "the monitor's end was not waited for");
            }
        }
        progress.end();
        // Also where it was to be forced: the disks' files were not closed in good order.
        if subscribed && off.is_none() { Err(ended_unexpectedly(&self.vm)) } else { Ok(()) }
    }
}

/// A descriptor that becomes readable when the process has ended.
fn process_handle(pid: u32) -> Option<OwnedFd> {
    let pid = Pid::from_raw(i32::try_from(pid).ok()?)?;
    pidfd_open(pid, PidfdFlags::empty()).ok()
}
