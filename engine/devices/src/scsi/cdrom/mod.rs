//! The CD-ROM drive: an MMC-5 target that reads data discs (one track, one session) from a [`Disk`].
//!
//! ```text
//!              host insert / guest load                  PREVENT
//!   tray open ─────────────────────────▶ closed, disc ◀──────────▶ locked
//!       ▲                                     │                      │ host eject: event "eject request"
//!       └─────── guest eject, host eject ─────┘                      ▼ (or by force)
//! ```
//!
//! What the guest is told of a change: a unit attention (28/00, after one "not present" where the disc was swapped
//! in a closed drive, so that a guest that only looks at that notices too) and a media event for GET EVENT STATUS
//! NOTIFICATION.

mod commands;
mod disc;
mod features;
mod mode;
mod sector;
mod state;
#[cfg(test)]
mod tests;

use benchtop_block::{BlockError, BlockErrorKind, Disk};
use serde::{Deserialize, Serialize};

pub use sector::{BlockLayout, DATA_BLOCK_BYTES, RAW_BLOCK_BYTES};
pub use state::CdDriveV1;

use super::{Outcome, ScsiTarget, Sense};

/// How the drive is connected: it shows in INQUIRY and in the core feature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CdTransport {
    /// The PACKET command of an IDE channel.
    Atapi,
    /// A SCSI bus.
    Scsi,
}

/// The guest has locked the door.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the guest has locked the drive's door")]
pub struct TrayLocked;

/// A media event waiting to be fetched (MMC-5 table 293).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[repr(u8)]
enum MediaEvent {
    #[default]
    None = 0,
    EjectRequest = 1,
    NewMedia = 2,
    MediaRemoval = 3,
}

/// Unit attentions and the one-time "not present", in the order they are reported.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Attention {
    reset: bool,
    absent_once: bool,
    changed: bool,
}

/// A CD-ROM drive.
#[derive(Debug)]
pub struct CdDrive {
    transport: CdTransport,
    serial: String,
    medium: Option<Disk>,
    tray_open: bool,
    locked: bool,
    attention: Attention,
    event: MediaEvent,
    sense: Sense,
}

impl CdDrive {
    /// A closed drive, just powered on, with `medium` in it. `serial` is cut to 20 printable ASCII characters.
    pub fn new(transport: CdTransport, serial: &str, medium: Option<Disk>) -> Self {
        Self {
            transport,
            serial: serial.chars().filter(|c| c.is_ascii_graphic() || *c == ' ').take(20).collect(),
            medium,
            tray_open: false,
            locked: false,
            attention: Attention { reset: true, ..Attention::default() },
            event: MediaEvent::None,
            sense: Sense::NONE,
        }
    }

    /// The disc in the drive, also while the tray is open.
    pub fn medium(&self) -> Option<&Disk> {
        self.medium.as_ref()
    }

    /// Whether the tray is out.
    pub fn is_tray_open(&self) -> bool {
        self.tray_open
    }

    /// Whether the guest holds the door locked.
    pub fn is_locked(&self) -> bool {
        self.locked
    }

    /// The user puts a disc in and closes the tray. A disc that was in is swapped and given back, unless the door is
    /// locked.
    ///
    /// # Errors
    /// [`TrayLocked`], with a disc in a locked drive; the guest is then asked to eject. Eject by force first.
    pub fn insert(&mut self, medium: Disk) -> Result<Option<Disk>, TrayLocked> {
        let swapped = self.loaded().is_some();
        if swapped && self.locked {
            self.event = MediaEvent::EjectRequest;
            return Err(TrayLocked);
        }
        let previous = self.medium.replace(medium);
        self.tray_open = false;
        self.attention.absent_once = swapped;
        self.attention.changed = true;
        self.event = MediaEvent::NewMedia;
        Ok(previous)
    }

    /// The user presses the button and takes the disc out. With `force` a lock is broken, as with a paper clip.
    ///
    /// # Errors
    /// [`TrayLocked`]; the guest is told of the wish and may open the tray itself.
    pub fn eject(&mut self, force: bool) -> Result<Option<Disk>, TrayLocked> {
        if self.locked && !force {
            self.event = MediaEvent::EjectRequest;
            return Err(TrayLocked);
        }
        self.locked = false;
        self.open_tray();
        Ok(self.medium.take())
    }

    fn open_tray(&mut self) {
        if !self.tray_open {
            self.tray_open = true;
            self.attention.absent_once = false;
            self.attention.changed = false;
            if self.medium.is_some() {
                self.event = MediaEvent::MediaRemoval;
            }
        }
    }

    fn close_tray(&mut self) {
        if self.tray_open {
            self.tray_open = false;
            if self.medium.is_some() {
                self.attention.changed = true;
                self.event = MediaEvent::NewMedia;
            }
        }
    }

    /// The disc, where the tray is closed on one.
    fn loaded(&self) -> Option<&Disk> {
        self.medium.as_ref().filter(|_| !self.tray_open)
    }

    /// The disc, or the sense that says why there is none.
    fn ready(&self) -> Result<&Disk, Sense> {
        self.loaded().ok_or(if self.tray_open { Sense::NO_MEDIUM_OPEN } else { Sense::NO_MEDIUM_CLOSED })
    }

    /// Takes the next thing that must be reported before any command is done.
    fn next_attention(&mut self) -> Option<Sense> {
        if std::mem::take(&mut self.attention.reset) {
            Some(Sense::RESET_OCCURRED)
        } else if std::mem::take(&mut self.attention.absent_once) {
            Some(Sense::NO_MEDIUM)
        } else if std::mem::take(&mut self.attention.changed) {
            Some(Sense::MEDIUM_CHANGED)
        } else {
            None
        }
    }

    fn concluded(&mut self, outcome: Result<Outcome, Sense>) -> Outcome {
        match outcome {
            Ok(Outcome::Check(sense)) | Err(sense) => {
                self.sense = sense;
                Outcome::Check(sense)
            }
            Ok(outcome) => outcome,
        }
    }

    /// The transport could not move the data: the command ends with this sense, kept for REQUEST SENSE.
    pub fn transfer_failed(&mut self) -> Sense {
        self.sense = Sense::DATA_PHASE;
        self.sense
    }
}

impl ScsiTarget for CdDrive {
    fn execute(&mut self, cdb: &[u8]) -> Outcome {
        let outcome = commands::execute(self, cdb);
        self.concluded(outcome)
    }

    fn parameters(&mut self, cdb: &[u8], data: &[u8]) -> Outcome {
        let outcome = mode::parameters(cdb, data);
        self.concluded(outcome)
    }

    fn read_failed(&mut self, block: u32, error: &BlockError) -> Sense {
        let sense = match error.kind() {
            BlockErrorKind::OutOfRange => Sense::LBA_OUT_OF_RANGE,
            _ => Sense::READ_ERROR,
        };
        self.sense = Sense { information: Some(block), ..sense };
        self.sense
    }

    fn reset(&mut self) {
        self.locked = false;
        self.sense = Sense::NONE;
        self.event = MediaEvent::None;
        self.attention.reset = true;
    }
}
