//! What devices and vCPUs ask of the whole machine, noted where they ask and carried out on a thread of its own: a
//! device can not stop the vCPU it is being called from.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use benchtop_devices::chipset::SystemControl;
use parking_lot::{Condvar, Mutex};

use crate::vcpus::Vcpus;

/// Things to do, most urgent first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Task {
    /// End the supervisor's thread.
    Quit,
    /// The machine can not go on, for this reason.
    Fail(String),
    /// Switch off.
    PowerOff,
    /// Reset.
    Reset,
    /// Pause, for this reason.
    Pause(String),
    /// The guest wrote this APM command.
    Apm(u8),
}

#[derive(Default)]
struct Pending {
    quit: bool,
    fail: Option<String>,
    power_off: bool,
    reset: bool,
    pause: Option<String>,
    apm: Option<u8>,
}

/// Where requests are left. One slot a kind: a guest that asks a thousand times is served once.
pub struct Supervisor {
    pending: Mutex<Pending>,
    changed: Condvar,
    vcpus: OnceLock<Arc<Vcpus>>,
    a20: AtomicBool,
}

impl Supervisor {
    /// Nothing asked yet.
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            pending: Mutex::default(),
            changed: Condvar::new(),
            vcpus: OnceLock::new(),
            a20: AtomicBool::new(true),
        })
    }

    /// Says which vCPUs to park when something is asked. Called once.
    pub fn set_vcpus(&self, vcpus: &Arc<Vcpus>) {
        // A second call would be a mistake of the board's; the first one holds.
        let _first = self.vcpus.set(vcpus.clone());
    }

    /// A20 as at reset: on.
    pub fn reset_a20(&self) {
        self.a20.store(true, Ordering::Relaxed);
    }

    fn ask(&self, note: impl FnOnce(&mut Pending), park: bool) {
        note(&mut self.pending.lock());
        self.changed.notify_all();
        if park && let Some(vcpus) = self.vcpus.get() {
            vcpus.ask_to_park();
        }
    }

    /// A vCPU shut down: the PC's logic resets the machine.
    pub fn triple_fault(&self) {
        self.request_reset();
    }

    /// The machine can not go on.
    pub fn fail(&self, reason: String) {
        self.ask(|pending| pending.fail = pending.fail.take().or(Some(reason)), true);
    }

    /// The machine must pause, for a reason to show.
    pub fn pause(&self, reason: String) {
        self.ask(|pending| pending.pause = pending.pause.take().or(Some(reason)), true);
    }

    /// Ends [`next`](Self::next)'s thread.
    pub fn quit(&self) {
        self.ask(|pending| pending.quit = true, false);
    }

    /// Waits for something to do and takes it.
    pub fn next(&self) -> Task {
        let mut pending = self.pending.lock();
        loop {
            if pending.quit {
                return Task::Quit;
            }
            if let Some(reason) = pending.fail.take() {
                return Task::Fail(reason);
            }
            if std::mem::take(&mut pending.power_off) {
                return Task::PowerOff;
            }
            if std::mem::take(&mut pending.reset) {
                return Task::Reset;
            }
            if let Some(reason) = pending.pause.take() {
                return Task::Pause(reason);
            }
            if let Some(command) = pending.apm.take() {
                return Task::Apm(command);
            }
            self.changed.wait(&mut pending);
        }
    }
}

impl SystemControl for Supervisor {
    fn request_reset(&self) {
        self.ask(|pending| pending.reset = true, true);
    }

    fn request_power_off(&self) {
        self.ask(|pending| pending.power_off = true, true);
    }

    fn set_a20(&self, enabled: bool) {
        self.a20.store(enabled, Ordering::Relaxed);
    }

    fn a20(&self) -> bool {
        self.a20.load(Ordering::Relaxed)
    }

    fn apm_command(&self, command: u8) {
        self.ask(|pending| pending.apm = Some(command), false);
    }
}
