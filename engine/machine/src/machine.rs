//! [`Machine`]: a running PC, and the order of its life.
//!
//! ```text
//!   new ─▶ Paused ◀─ pause ─ resume ─▶ Running        reset: Running ─▶ all parked ─▶ devices, then vCPUs ─▶ Running
//!             └────────── power_off ──────┴─▶ Off
//! ```
//!
//! Parking order: vCPUs, clock, timers, disks. Nothing moves afterwards: no access, no timer, no completion. Going on
//! is the reverse.

use std::sync::Arc;
use std::sync::OnceLock;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use benchtop_block::Disk;
use benchtop_control::stats::VmStats;
use benchtop_hypervisor::{Hypervisor, HypervisorError};
use parking_lot::{Condvar, Mutex};

use crate::board::Board;
use crate::supervisor::Task;
use crate::{MachineParts, Typing, typing};

/// Why a machine could not be made or did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// The accelerator refused.
    #[error(transparent)]
    Hypervisor(#[from] HypervisorError),
    /// The host refused memory, a thread, ….
    #[error("{what}")]
    Host {
        /// What was being done.
        what: &'static str,
        /// What the host said.
        source: std::io::Error,
    },
    /// The configuration asks for what this machine does not have.
    #[error("{0}")]
    Config(String),
    /// A disk can not go on.
    #[error("{0}")]
    Disk(String),
    /// No device of that name.
    #[error("no device `{0}`")]
    NoDevice(String),
    /// The guest has locked the tray.
    #[error("the guest has locked the tray of `{0}`")]
    TrayLocked(String),
    /// A character no key types.
    #[error("{0}")]
    NoKey(String),
    /// A chord with a name that is no key's.
    #[error("{0}")]
    BadChord(String),
    /// The guest stopped reading its keyboard while a text was typed.
    #[error("the guest reads no keys: {typed} of {of} characters were typed")]
    KeysNotRead {
        /// Characters pressed so far.
        typed: usize,
        /// Characters of the whole text.
        of: usize,
    },
}

/// What happens to a machine by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MachineEvent {
    /// The guest powered off (ACPI S5), or reset under `no_reboot`.
    PoweredOff,
    /// The guest reset the machine.
    Reset,
    /// Paused by itself, with the reason: a full host disk, a poisoned image.
    Paused(String),
    /// A vCPU can not go on.
    Failed(String),
    /// COM1 wrote these bytes.
    Serial(Vec<u8>),
}

/// A picture of the screen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Screen {
    /// Pixels across.
    pub width: u32,
    /// Pixels down.
    pub height: u32,
    /// Rows of R, G, B, A bytes, without padding.
    pub rgba: Vec<u8>,
}

/// Where a machine is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    Paused,
    Running,
    Off,
}

struct Inner {
    board: Board,
    life: Mutex<Life>,
    changed: Condvar,
    first_run: OnceLock<Instant>,
    no_reboot: bool,
    on_event: Arc<dyn Fn(MachineEvent) + Send + Sync>,
}

/// A PC, powered on or paused. Dropping it stops it at once, as pulling the plug does (but completed writes hold).
///
/// Every method may be called from any thread; lifecycle calls are serialised.
pub struct Machine {
    inner: Arc<Inner>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Machine {
    /// Puts the parts together. Nothing runs yet.
    ///
    /// # Errors
    /// [`MachineError`].
    pub fn new(hypervisor: &dyn Hypervisor, parts: MachineParts) -> Result<Self, MachineError> {
        let no_reboot = parts.no_reboot;
        let on_event = parts.on_event.clone();
        let (board, mut threads) = Board::assemble(hypervisor, parts)?;
        let inner = Arc::new(Inner {
            board,
            life: Mutex::new(Life::Paused),
            changed: Condvar::new(),
            first_run: OnceLock::new(),
            no_reboot,
            on_event,
        });
        let theirs = inner.clone();
        threads.push(named("supervisor", move || supervise(&theirs))?);
        Ok(Self { inner, threads: Mutex::new(threads) })
    }

    /// Starts (or after [`pause`](Self::pause) goes on), and retries what a full host disk had held up.
    ///
    /// # Errors
    /// [`MachineError`]; a machine that is off stays off.
    pub fn resume(&self) -> Result<(), MachineError> {
        let mut life = self.inner.life.lock();
        match *life {
            Life::Off => return Err(MachineError::Config("the machine is off".into())),
            Life::Running => return Ok(()),
            Life::Paused => {}
        }
        self.inner.board.go()?;
        *life = Life::Running;
        self.inner.first_run.get_or_init(Instant::now);
        self.inner.changed.notify_all();
        Ok(())
    }

    /// Stops the vCPUs, drains the disks and stops the clock; returns when all stand still.
    ///
    /// # Errors
    /// [`MachineError`].
    pub fn pause(&self) -> Result<(), MachineError> {
        self.inner.pause()
    }

    /// Whether it stands still.
    pub fn is_paused(&self) -> bool {
        *self.inner.life.lock() == Life::Paused
    }

    /// The reset button. A paused machine stays paused, at its first instruction.
    ///
    /// # Errors
    /// [`MachineError`].
    pub fn reset(&self) -> Result<(), MachineError> {
        self.inner.reset()
    }

    /// The power button: the guest is asked to shut down.
    pub fn power_button(&self) {
        self.inner.board.power_button();
    }

    /// Pulls the plug: stops everything, flushes write-back data, and returns when all threads are gone.
    pub fn power_off(&self) {
        self.inner.switch_off();
        self.inner.board.supervisor().quit();
        for thread in self.threads.lock().drain(..) {
            // A thread that panicked is gone too; the panic was printed where it happened.
            drop(thread.join());
        }
        self.inner.board.close();
    }

    /// When the first guest instruction ran.
    pub fn first_run_at(&self) -> Option<Instant> {
        self.inner.first_run.get().copied()
    }

    /// What the screen shows now.
    pub fn screen(&self) -> Screen {
        self.inner.board.screen()
    }

    /// The characters on the screen, a line each without trailing spaces, where it is in a text mode.
    pub fn text_screen(&self) -> Option<Vec<String>> {
        self.inner.board.text_screen()
    }

    /// Types text on a US keyboard, each character when the guest has taken the one before. `\n` is Enter. Returns
    /// when it is all typed.
    ///
    /// # Errors
    /// [`MachineError::NoKey`], before any key is typed; [`MachineError::KeysNotRead`] when the guest reads none for
    /// five seconds.
    pub fn type_text(&self, text: &str) -> Result<(), MachineError> {
        typing::type_text(&self.inner.board, text)
    }

    /// As [`type_text`](Self::type_text), for who has other things to do meanwhile: goes on with `typing` if the guest
    /// is ready, and says whether it is done.
    ///
    /// # Errors
    /// [`MachineError::KeysNotRead`].
    pub fn type_on(&self, typing: &mut Typing) -> Result<bool, MachineError> {
        typing.step(&self.inner.board)
    }

    /// Presses a chord, such as `ctrl-alt-del` or `f12`, and lets go.
    ///
    /// # Errors
    /// [`MachineError::BadChord`].
    pub fn send_keys(&self, chord: &str) -> Result<(), MachineError> {
        typing::send_keys(&self.inner.board, chord)
    }

    /// Input for COM1. Waits where the guest takes it slowly, at most five seconds without progress; the rest is
    /// lost, as on a line without flow control.
    pub fn serial_input(&self, bytes: &[u8]) {
        typing::serial_input(&self.inner.board, bytes);
    }

    /// Puts a disc in a drive (`cd0`), closing the tray; the old disc goes first.
    ///
    /// # Errors
    /// [`MachineError::NoDevice`], [`MachineError::TrayLocked`] unless `force`.
    pub fn cd_insert(&self, name: &str, medium: Disk, force: bool) -> Result<(), MachineError> {
        self.inner.board.cd_insert(name, medium, force)
    }

    /// Opens the tray and takes the disc out. A locked tray is asked for first (an eject request the guest sees), and
    /// refused unless `force`.
    ///
    /// # Errors
    /// [`MachineError::NoDevice`], [`MachineError::TrayLocked`].
    pub fn cd_eject(&self, name: &str, force: bool) -> Result<(), MachineError> {
        self.inner.board.cd_eject(name, force)
    }

    /// The figures.
    pub fn stats(&self) -> VmStats {
        self.inner.board.stats()
    }

    /// Waits until the machine has powered off or failed, at most `timeout`. False on time-out.
    pub fn wait_off(&self, timeout: Option<Duration>) -> bool {
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let mut life = self.inner.life.lock();
        while *life != Life::Off {
            match deadline {
                None => self.inner.changed.wait(&mut life),
                Some(deadline) => {
                    if self.inner.changed.wait_until(&mut life, deadline).timed_out() {
                        return *life == Life::Off;
                    }
                }
            }
        }
        true
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.power_off();
    }
}

impl Inner {
    fn pause(&self) -> Result<(), MachineError> {
        let mut life = self.life.lock();
        if *life == Life::Running {
            self.board.stand_still()?;
            *life = Life::Paused;
            self.changed.notify_all();
        }
        Ok(())
    }

    fn reset(&self) -> Result<(), MachineError> {
        let mut life = self.life.lock();
        let was = *life;
        if was == Life::Off {
            return Err(MachineError::Config("the machine is off".into()));
        }
        if was == Life::Running {
            self.board.stand_still()?;
            *life = Life::Paused;
        }
        self.board.reset()?;
        if was == Life::Running {
            self.board.go()?;
            *life = Life::Running;
        }
        Ok(())
    }

    /// Off for good. True for the caller that did it.
    fn switch_off(&self) -> bool {
        let mut life = self.life.lock();
        if *life == Life::Off {
            return false;
        }
        if *life == Life::Running
            && let Err(error) = self.board.stand_still()
        {
            tracing::warn!(%error, "while switching off");
        }
        self.board.stop();
        *life = Life::Off;
        self.changed.notify_all();
        true
    }
}

/// The supervisor thread: does what devices and vCPUs asked for.
fn supervise(inner: &Inner) {
    loop {
        match inner.board.supervisor().next() {
            Task::Quit => return,
            Task::Apm(command) => inner.board.apm_command(command),
            Task::Pause(reason) => match inner.pause() {
                Ok(()) => (inner.on_event)(MachineEvent::Paused(reason)),
                Err(error) => fail(inner, error.to_string()),
            },
            Task::Reset if inner.no_reboot => power_off(inner),
            Task::Reset => match inner.reset() {
                Ok(()) => (inner.on_event)(MachineEvent::Reset),
                Err(error) => fail(inner, error.to_string()),
            },
            Task::PowerOff => power_off(inner),
            Task::Fail(reason) => fail(inner, reason),
        }
    }
}

fn power_off(inner: &Inner) {
    if inner.switch_off() {
        (inner.on_event)(MachineEvent::PoweredOff);
    }
}

fn fail(inner: &Inner, reason: String) {
    if inner.switch_off() {
        (inner.on_event)(MachineEvent::Failed(reason));
    }
}

/// Starts a thread with a name.
pub(crate) fn named(name: &str, body: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, MachineError> {
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(body)
        .map_err(|source| MachineError::Host { what: "starting a thread", source })
}
