//! The SMBus host of the PIIX4, with nothing on the bus: every transaction ends at once with "no answer", so that a
//! driver that looks for sensors or memory modules finds none and does not wait.

use serde::{Deserialize, Serialize};

// Offsets from the SMBus base.
const HOST_STATUS: u16 = 0x00;
const HOST_CONTROL: u16 = 0x02;
const HOST_COMMAND: u16 = 0x03;
const HOST_ADDRESS: u16 = 0x04;
const HOST_DATA0: u16 = 0x05;
const HOST_DATA1: u16 = 0x06;
const BLOCK_DATA: u16 = 0x07;

/// INTR, DEV_ERR, BUS_COLL and FAILED, each cleared by writing 1.
const STATUS_BITS: u8 = 0x1e;
/// The device did not acknowledge.
const STATUS_DEVICE_ERROR: u8 = 1 << 2;
const CONTROL_START: u8 = 1 << 6;
/// INTEREN and the protocol.
const CONTROL_BITS: u8 = 0x1d;

const BLOCK_LEN: usize = 32;

#[derive(Clone, Debug)]
pub(super) struct Smbus {
    status: u8,
    control: u8,
    command: u8,
    address: u8,
    data: [u8; 2],
    block: [u8; BLOCK_LEN],
    /// Next byte of the block; below [`BLOCK_LEN`].
    block_index: usize,
}

#[derive(Serialize, Deserialize)]
pub(super) struct SmbusV1 {
    status: u8,
    control: u8,
    command: u8,
    address: u8,
    data: [u8; 2],
    block: [u8; BLOCK_LEN],
    block_index: u8,
}

impl Default for Smbus {
    fn default() -> Self {
        Self { status: 0, control: 0, command: 0, address: 0, data: [0; 2], block: [0; BLOCK_LEN], block_index: 0 }
    }
}

impl Smbus {
    pub(super) fn read(&mut self, offset: u16) -> u8 {
        match offset {
            HOST_STATUS => self.status,
            HOST_CONTROL => {
                // Reading the control register starts the block over.
                self.block_index = 0;
                self.control
            }
            HOST_COMMAND => self.command,
            HOST_ADDRESS => self.address,
            HOST_DATA0 => self.data[0],
            HOST_DATA1 => self.data[1],
            BLOCK_DATA => self.block[self.next_block_index()],
            // The slave side never sees anything.
            _ => 0,
        }
    }

    pub(super) fn write(&mut self, offset: u16, value: u8) {
        match offset {
            HOST_STATUS => self.status &= !(value & STATUS_BITS),
            HOST_CONTROL => {
                self.control = value & CONTROL_BITS;
                if value & CONTROL_START != 0 {
                    self.status |= STATUS_DEVICE_ERROR;
                }
            }
            HOST_COMMAND => self.command = value,
            HOST_ADDRESS => self.address = value,
            HOST_DATA0 => self.data[0] = value,
            HOST_DATA1 => self.data[1] = value,
            BLOCK_DATA => self.block[self.next_block_index()] = value,
            _ => {}
        }
    }

    fn next_block_index(&mut self) -> usize {
        let index = self.block_index;
        self.block_index = (index + 1) % BLOCK_LEN;
        index
    }

    pub(super) fn save(&self) -> SmbusV1 {
        let Self { status, control, command, address, data, block, block_index } = self.clone();
        // An index below 32.
        SmbusV1 { status, control, command, address, data, block, block_index: block_index as u8 }
    }

    /// `None` where the index is past the block.
    pub(super) fn restore(state: SmbusV1) -> Option<Self> {
        let SmbusV1 { status, control, command, address, data, block, block_index } = state;
        let block_index = Some(usize::from(block_index)).filter(|index| *index < BLOCK_LEN)?;
        let (status, control) = (status & STATUS_BITS, control & CONTROL_BITS);
        Some(Self { status, control, command, address, data, block, block_index })
    }
}
