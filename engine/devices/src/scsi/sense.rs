//! Sense data (SPC-4 section 4.5).

use serde::{Deserialize, Serialize};

/// Sense keys in use here (SPC-4 table 28).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[repr(u8)]
pub enum SenseKey {
    /// Nothing to report.
    NoSense = 0x0,
    /// No medium, tray open.
    NotReady = 0x2,
    /// The medium could not be read.
    MediumError = 0x3,
    /// The device itself failed.
    HardwareError = 0x4,
    /// The command or its parameters are wrong.
    IllegalRequest = 0x5,
    /// Something the initiator must know of happened since its last command.
    UnitAttention = 0x6,
    /// The target ended the command.
    AbortedCommand = 0xb,
}

/// Why a command ended in CHECK CONDITION.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sense {
    /// The class of the reason.
    pub key: SenseKey,
    /// Additional sense code.
    pub asc: u8,
    /// Additional sense code qualifier.
    pub ascq: u8,
    /// The block concerned, where there is one.
    pub information: Option<u32>,
}

impl Sense {
    /// Nothing to report.
    pub const NONE: Self = Self::new(SenseKey::NoSense, 0x00, 0x00);
    /// INVALID COMMAND OPERATION CODE.
    pub const INVALID_OPCODE: Self = Self::new(SenseKey::IllegalRequest, 0x20, 0x00);
    /// LOGICAL BLOCK ADDRESS OUT OF RANGE.
    pub const LBA_OUT_OF_RANGE: Self = Self::new(SenseKey::IllegalRequest, 0x21, 0x00);
    /// INVALID FIELD IN CDB.
    pub const INVALID_FIELD: Self = Self::new(SenseKey::IllegalRequest, 0x24, 0x00);
    /// INVALID FIELD IN PARAMETER LIST.
    pub const INVALID_PARAMETER: Self = Self::new(SenseKey::IllegalRequest, 0x26, 0x00);
    /// PARAMETER LIST LENGTH ERROR.
    pub const PARAMETER_LENGTH: Self = Self::new(SenseKey::IllegalRequest, 0x1a, 0x00);
    /// CANNOT READ MEDIUM - INCOMPATIBLE FORMAT.
    pub const INCOMPATIBLE_MEDIUM: Self = Self::new(SenseKey::IllegalRequest, 0x30, 0x02);
    /// SAVING PARAMETERS NOT SUPPORTED.
    pub const SAVING_UNSUPPORTED: Self = Self::new(SenseKey::IllegalRequest, 0x39, 0x00);
    /// MEDIUM REMOVAL PREVENTED, with a medium in.
    pub const REMOVAL_PREVENTED: Self = Self::new(SenseKey::IllegalRequest, 0x53, 0x02);
    /// MEDIUM REMOVAL PREVENTED, with none.
    pub const REMOVAL_PREVENTED_EMPTY: Self = Self::new(SenseKey::NotReady, 0x53, 0x02);
    /// ILLEGAL MODE FOR THIS TRACK.
    pub const ILLEGAL_TRACK_MODE: Self = Self::new(SenseKey::IllegalRequest, 0x64, 0x00);
    /// MEDIUM NOT PRESENT.
    pub const NO_MEDIUM: Self = Self::new(SenseKey::NotReady, 0x3a, 0x00);
    /// MEDIUM NOT PRESENT - TRAY CLOSED.
    pub const NO_MEDIUM_CLOSED: Self = Self::new(SenseKey::NotReady, 0x3a, 0x01);
    /// MEDIUM NOT PRESENT - TRAY OPEN.
    pub const NO_MEDIUM_OPEN: Self = Self::new(SenseKey::NotReady, 0x3a, 0x02);
    /// NOT READY TO READY CHANGE, MEDIUM MAY HAVE CHANGED.
    pub const MEDIUM_CHANGED: Self = Self::new(SenseKey::UnitAttention, 0x28, 0x00);
    /// POWER ON, RESET, OR BUS DEVICE RESET OCCURRED.
    pub const RESET_OCCURRED: Self = Self::new(SenseKey::UnitAttention, 0x29, 0x00);
    /// UNRECOVERED READ ERROR.
    pub const READ_ERROR: Self = Self::new(SenseKey::MediumError, 0x11, 0x00);
    /// DATA PHASE ERROR: the initiator's memory could not take what it asked for.
    pub const DATA_PHASE: Self = Self::new(SenseKey::AbortedCommand, 0x4b, 0x00);

    /// Sense without an information field.
    pub const fn new(key: SenseKey, asc: u8, ascq: u8) -> Self {
        Self { key, asc, ascq, information: None }
    }

    /// Fixed-format sense data, 18 bytes, current error.
    pub fn to_fixed(self) -> [u8; 18] {
        let mut data = [0; 18];
        data[0] = 0x70;
        if let Some(block) = self.information {
            data[0] |= 0x80;
            data[3..7].copy_from_slice(&block.to_be_bytes());
        }
        data[2] = self.key as u8;
        data[7] = 10;
        data[12] = self.asc;
        data[13] = self.ascq;
        data
    }

    /// Descriptor-format sense data (SPC-4 section 4.5.2), with an information descriptor where a block is known.
    pub fn to_descriptor(self) -> Vec<u8> {
        let mut data = vec![0x72, self.key as u8, self.asc, self.ascq, 0, 0, 0, 0];
        if let Some(block) = self.information {
            data[7] = 12;
            data.extend([0x00, 0x0a, 0x80, 0x00]);
            data.extend(u64::from(block).to_be_bytes());
        }
        data
    }
}
