//! The hidden verb by which the program runs itself as the monitor of a VM.

use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use benchtop_machine::monitor::process;

use crate::output::LossyStderr;
use crate::signals::stop_on_signals;

/// Its name: not for people, who say `start`.
pub const VERB: &str = "__monitor";
/// The most a monitor writes into its log while it runs: a guest that makes it complain can not fill the disk.
const LOG_BYTES_MAX: u64 = 4 << 20;

/// Runs as a monitor if the command line says so.
pub fn run_if_asked(started_at: Instant) -> Option<ExitCode> {
    if std::env::args_os().nth(1)? != VERB {
        return None;
    }
    log_bounded();
    // On failure it stays in the session of whoever started it, which is no worse than any other program.
    if let Err(error) = rustix::process::setsid() {
        tracing::warn!(%error, "no session of its own");
    }
    let socket = match take_stdin() {
        Ok(socket) => socket,
        Err(error) => {
            tracing::error!(%error, "not started by `benchtop start`");
            return Some(ExitCode::from(2));
        }
    };
    let stop = stop_on_signals().inspect_err(|error| tracing::warn!(%error, "signals are not caught")).ok();
    Some(ExitCode::from(process::run(socket, stop, started_at)))
}

/// Standard input is the socket `start` waits on; afterwards it is nothing.
fn take_stdin() -> std::io::Result<UnixStream> {
    let socket = UnixStream::from(std::io::stdin().as_fd().try_clone_to_owned()?);
    // Fails here, and not later, where standard input was no socket.
    socket.peer_addr()?;
    let null = std::fs::File::open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    Ok(socket)
}

/// Standard error, up to a limit.
#[derive(Clone, Copy, Debug)]
struct Bounded;

static LOGGED: AtomicU64 = AtomicU64::new(0);

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let len = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        if LOGGED.fetch_add(len, Ordering::Relaxed) < LOG_BYTES_MAX {
            return LossyStderr.write(bytes);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        std::io::stderr().flush()
    }
}

fn log_bounded() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("BENCHTOP_LOG")
        .unwrap_or_else(|_unset| tracing_subscriber::EnvFilter::new("info"));
    let _first = tracing_subscriber::fmt().with_env_filter(filter).with_writer(|| Bounded).with_ansi(false).try_init();
}
