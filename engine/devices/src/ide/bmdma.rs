//! Bus-master DMA: the registers and the walk of physical region descriptors (Programming Interface for Bus Master
//! IDE Controller 1.0; 82371SB datasheet section 2.7).

use benchtop_memory::{Gpa, GuestMemory, ScatterList};
use serde::{Deserialize, Serialize};

/// COMMAND: run.
pub(super) const COMMAND_START: u8 = 0x01;
/// COMMAND: bits a guest may set; bit 3 is the direction.
const COMMAND_WRITABLE: u8 = 0x09;
/// STATUS: running.
pub(super) const STATUS_ACTIVE: u8 = 0x01;
/// STATUS: a memory access failed.
pub(super) const STATUS_ERROR: u8 = 0x02;
/// STATUS: the device raised its interrupt.
pub(super) const STATUS_INTERRUPT: u8 = 0x04;
/// STATUS: "drive is set up for DMA", scratch for drivers.
const STATUS_CAPABLE: u8 = 0x60;

/// A descriptor is 8 bytes, and a table does not cross 64 KiB.
const DESCRIPTOR_BYTES: u32 = 8;
const TABLE_BOUNDARY: u32 = 0x1_0000;

/// Registers of one channel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct BusMaster {
    pub command: u8,
    pub status: u8,
    pub table: u32,
    /// START was set and no transfer has used it up yet.
    pub armed: bool,
}

/// What a write to the registers asks of the channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BusMasterAction {
    None,
    Started,
    Stopped,
}

/// Why descriptors can not serve a transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum GatherError {
    /// They end before the transfer does.
    Short,
    /// The table or a region is not RAM.
    NotRam,
}

impl BusMaster {
    pub(super) fn read(&self, offset: u8) -> u8 {
        match offset & 7 {
            0 => self.command,
            2 => self.status,
            // 4 to 7: the subtraction stays below 4.
            at @ 4..=7 => self.table.to_le_bytes()[usize::from(at - 4)],
            _ => 0,
        }
    }

    pub(super) fn write(&mut self, offset: u8, value: u8) -> BusMasterAction {
        match offset & 7 {
            0 => {
                let was = self.command & COMMAND_START != 0;
                self.command = value & COMMAND_WRITABLE;
                match (was, value & COMMAND_START != 0) {
                    (false, true) => {
                        self.armed = true;
                        self.status |= STATUS_ACTIVE;
                        BusMasterAction::Started
                    }
                    (true, false) => {
                        self.armed = false;
                        BusMasterAction::Stopped
                    }
                    _ => BusMasterAction::None,
                }
            }
            2 => {
                let cleared = value & (STATUS_ERROR | STATUS_INTERRUPT);
                self.status = (self.status & !cleared & !STATUS_CAPABLE) | value & STATUS_CAPABLE;
                BusMasterAction::None
            }
            at @ 4..=7 => {
                let mut bytes = self.table.to_le_bytes();
                bytes[usize::from(at - 4)] = value;
                self.table = u32::from_le_bytes(bytes) & !3;
                BusMasterAction::None
            }
            _ => BusMasterAction::None,
        }
    }

    /// Whether the registers hold what they can hold.
    pub(super) fn is_valid(&self) -> bool {
        let Self { command, status, table, armed } = *self;
        let started = command & COMMAND_START != 0;
        command & !COMMAND_WRITABLE == 0 && status & 0x98 == 0 && table & 3 == 0 && (!armed || started)
    }

    /// Walks the table for a transfer of `len_bytes`: the memory it covers, and whether the table describes more than
    /// that. Each descriptor is read once. At most 8192 are, for the table ends at its 64 KiB boundary.
    pub(super) fn gather(&self, memory: &GuestMemory, len_bytes: u64) -> Result<(ScatterList, bool), GatherError> {
        let mut list = ScatterList::new(memory);
        let mut at = self.table;
        let room = TABLE_BOUNDARY - self.table % TABLE_BOUNDARY;
        for _ in 0..room / DESCRIPTOR_BYTES {
            let entry: [u8; 8] = memory.read_array(Gpa(u64::from(at))).map_err(|_out_of_ram| GatherError::NotRam)?;
            let [a0, a1, a2, a3, c0, c1, _, flags] = entry;
            let address = u32::from_le_bytes([a0 & !1, a1, a2, a3]);
            let region_bytes = match u16::from_le_bytes([c0 & !1, c1]) {
                0 => 0x1_0000,
                count => u32::from(count),
            };
            let left = len_bytes - list.len_bytes();
            // At most 64 KiB either way.
            let used = u64::from(region_bytes).min(left) as u32;
            list.push(Gpa(u64::from(address)), used).map_err(|_out_of_ram| GatherError::NotRam)?;
            let last = flags & 0x80 != 0;
            if list.len_bytes() == len_bytes {
                return Ok((list, !last || used < region_bytes));
            }
            if last {
                break;
            }
            at = at.wrapping_add(DESCRIPTOR_BYTES);
        }
        Err(GatherError::Short)
    }

    /// A transfer ended; with `more` the table has regions left and the engine still waits for the device.
    pub(super) fn finish(&mut self, more: bool) {
        if !more {
            self.status &= !STATUS_ACTIVE;
        }
    }

    /// A memory access failed.
    pub(super) fn fail(&mut self) {
        self.status = self.status & !STATUS_ACTIVE | STATUS_ERROR;
    }
}
