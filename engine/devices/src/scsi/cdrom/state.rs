//! The drive's saved state.

use serde::{Deserialize, Serialize};

use super::{Attention, CdDrive, MediaEvent, Sense};

/// A [`CdDrive`] as it is saved inside its controller's state. The medium itself belongs to the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CdDriveV1 {
    has_medium: bool,
    tray_open: bool,
    locked: bool,
    attention: Attention,
    event: MediaEvent,
    sense: Sense,
}

impl CdDrive {
    /// The guest-visible state.
    pub fn save(&self) -> CdDriveV1 {
        let Self { transport: _, serial: _, medium, tray_open, locked, attention, event, sense } = self;
        CdDriveV1 {
            has_medium: medium.is_some(),
            tray_open: *tray_open,
            locked: *locked,
            attention: *attention,
            event: *event,
            sense: *sense,
        }
    }

    /// Takes a saved state. Where a disc was put in or taken out since, the guest is told so as of any other change.
    pub fn restore(&mut self, state: &CdDriveV1) {
        let CdDriveV1 { has_medium, tray_open, locked, attention, event, sense } = state.clone();
        (self.tray_open, self.locked, self.attention, self.event, self.sense) =
            (tray_open, locked, attention, event, sense);
        match (has_medium, self.medium.is_some()) {
            (true, false) => {
                self.attention.absent_once = false;
                self.attention.changed = false;
                self.event = MediaEvent::MediaRemoval;
            }
            (false, true) => {
                self.tray_open = false;
                self.attention.changed = true;
                self.event = MediaEvent::NewMedia;
            }
            _ => {}
        }
    }
}
