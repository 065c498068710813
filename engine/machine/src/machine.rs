//! [`Machine`]: a running PC.

use std::time::Duration;

use benchtop_block::Disk;
use benchtop_control::stats::VmStats;
use benchtop_hypervisor::{Hypervisor, HypervisorError};

use crate::MachineParts;

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
    /// No device of that name.
    #[error("no device `{0}`")]
    NoDevice(String),
    /// The guest has locked the tray.
    #[error("the guest has locked the tray of `{0}`")]
    TrayLocked(String),
    /// A character no key types.
    #[error("no key types {0:?}")]
    NoKey(String),
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

/// A PC, powered on or paused. Dropping it stops it at once, as pulling the plug does (but completed writes hold).
///
/// Every method may be called from any thread; lifecycle calls are serialised.
pub struct Machine {
    _private: (),
}

impl Machine {
    /// Puts the parts together. Nothing runs yet.
    ///
    /// # Errors
    /// [`MachineError`].
    pub fn new(hypervisor: &dyn Hypervisor, parts: MachineParts) -> Result<Self, MachineError> {
        let (_, _) = (hypervisor, parts);
        Err(MachineError::Config("not assembled yet".to_owned()))
    }

    /// Starts (or after [`pause`](Self::pause) goes on).
    ///
    /// # Errors
    /// [`MachineError`].
    pub fn resume(&self) -> Result<(), MachineError> {
        Ok(())
    }

    /// Stops the vCPUs, drains the disks and stops the clock; returns when all stand still.
    ///
    /// # Errors
    /// [`MachineError`].
    pub fn pause(&self) -> Result<(), MachineError> {
        Ok(())
    }

    /// Whether it stands still.
    pub fn is_paused(&self) -> bool {
        true
    }

    /// The reset button.
    ///
    /// # Errors
    /// [`MachineError`].
    pub fn reset(&self) -> Result<(), MachineError> {
        Ok(())
    }

    /// The power button: the guest is asked to shut down.
    pub fn power_button(&self) {}

    /// Pulls the plug: stops everything, flushes write-back data, and returns when all threads are gone.
    pub fn power_off(&self) {}

    /// What the screen shows now.
    pub fn screen(&self) -> Screen {
        Screen { width: 1, height: 1, rgba: vec![0; 4] }
    }

    /// The characters on the screen, a line each without trailing spaces, where it is in a text mode.
    pub fn text_screen(&self) -> Option<Vec<String>> {
        None
    }

    /// Types text on a US keyboard, at a pace firmware keeps up with. `\n` is Enter. Returns when it was all queued.
    ///
    /// # Errors
    /// [`MachineError::NoKey`], before any key is typed.
    pub fn type_text(&self, text: &str) -> Result<(), MachineError> {
        Err(MachineError::NoKey(text.to_owned()))
    }

    /// Presses a chord, such as `ctrl-alt-del` or `f12`, and lets go.
    ///
    /// # Errors
    /// [`MachineError::NoKey`].
    pub fn send_keys(&self, chord: &str) -> Result<(), MachineError> {
        Err(MachineError::NoKey(chord.to_owned()))
    }

    /// Input for COM1.
    pub fn serial_input(&self, bytes: &[u8]) {
        let _ = bytes;
    }

    /// Puts a disc in a drive (`cd0`), closing the tray; the old disc goes first.
    ///
    /// # Errors
    /// [`MachineError::NoDevice`], [`MachineError::TrayLocked`] unless `force`.
    pub fn cd_insert(&self, name: &str, medium: Disk, force: bool) -> Result<(), MachineError> {
        let (_, _) = (medium, force);
        Err(MachineError::NoDevice(name.to_owned()))
    }

    /// Opens the tray and takes the disc out. A locked tray is asked for first (an eject request the guest sees), and
    /// refused unless `force`.
    ///
    /// # Errors
    /// [`MachineError::NoDevice`], [`MachineError::TrayLocked`].
    pub fn cd_eject(&self, name: &str, force: bool) -> Result<(), MachineError> {
        let _ = force;
        Err(MachineError::NoDevice(name.to_owned()))
    }

    /// The figures.
    pub fn stats(&self) -> VmStats {
        VmStats::default()
    }

    /// Waits until the machine has powered off or failed, at most `timeout`. False on time-out.
    pub fn wait_off(&self, timeout: Option<Duration>) -> bool {
        let _ = timeout;
        false
    }
}
