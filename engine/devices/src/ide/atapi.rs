//! The PACKET interface: SCSI commands for a CD-ROM drive over the task file (ATA/ATAPI-7 section 9.8 and SFF-8020i).

use super::AtaIdentity;
use super::ata::is_transfer_mode;
use super::channel::Channel;
use super::identify;
use super::phase::{Cdb, DataIn, DataOut, DmaCommand, DmaWork, Source, Target};
use super::taskfile::{ABRT, DRDY, DSC, ERR};
use crate::scsi::cdrom::CdDrive;
use crate::scsi::{Outcome, ScsiTarget, Sense};

/// Interrupt reason: a command packet is awaited.
const REASON_COMMAND: u8 = 0x01;
/// Interrupt reason: data for the guest.
const REASON_IN: u8 = 0x02;
/// Interrupt reason: data from the guest.
const REASON_OUT: u8 = 0x00;
/// Interrupt reason: the command is done.
const REASON_DONE: u8 = 0x03;

/// A CD-ROM drive on the channel.
#[derive(Debug)]
pub(super) struct AtapiDrive {
    pub drive: CdDrive,
    pub identity: AtaIdentity,
    pub transfer_mode: u8,
}

impl AtapiDrive {
    pub(super) fn new(drive: CdDrive, identity: AtaIdentity) -> Self {
        Self { drive, identity, transfer_mode: 0x22 }
    }

    pub(super) fn soft_reset(&mut self) {
        self.drive.reset();
    }

    pub(super) fn power_on(&mut self) {
        self.transfer_mode = 0x22;
        self.drive.reset();
    }
}

impl Channel {
    /// Carries out a command on the selected unit, which is a CD-ROM drive.
    pub(super) fn atapi_command(&mut self, code: u8) {
        match code {
            0xa0 => self.packet(),
            0xa1 => {
                if let Some(reply) = self.atapi().map(|drive| identify::packet(drive)) {
                    self.reply(reply.to_vec());
                }
            }
            // What a driver that looks for a disk is told: this is none.
            0xec | 0x20 => {
                let unit = self.selected();
                self.set_signature(unit);
                self.abort();
            }
            0xef => {
                let (feature, mode) = (self.unit().registers.feature.now, self.unit().registers.count.now);
                match (feature, self.atapi()) {
                    (0x03, Some(drive)) if is_transfer_mode(mode) => {
                        drive.transfer_mode = mode;
                        self.finish();
                    }
                    (0x66 | 0xcc, _) => self.finish(),
                    _ => self.abort(),
                }
            }
            0xe5 | 0x98 => {
                self.unit().registers.count.now = 0xff;
                self.finish();
            }
            // Power modes, and a flush of what is never written.
            0xe0..=0xe3 | 0xe6 | 0xe7 | 0xea | 0x94..=0x97 | 0x99 => self.finish(),
            _ => self.abort(),
        }
    }

    /// PACKET: asks for the command packet, without an interrupt.
    fn packet(&mut self) {
        const DMA: u8 = 1;
        const OVERLAP: u8 = 2;
        let registers = &mut self.unit().registers;
        let feature = registers.feature.now;
        let limit = u16::from_be_bytes([registers.high.now, registers.mid.now]);
        if feature & OVERLAP != 0 {
            self.abort();
            return;
        }
        registers.count.now = REASON_COMMAND;
        let target = Target::Packet { dma: feature & DMA != 0, limit };
        self.data_out(DataOut { buffer: Vec::new(), block_end: 0, limit: 12, target }, false);
    }

    /// The packet is here.
    pub(super) fn execute_packet(&mut self, cdb: Cdb, dma: bool, limit: u16) {
        let Some(outcome) = self.atapi().map(|drive| drive.drive.execute(&cdb)) else { return };
        let limit = data_block_limit(limit);
        match outcome {
            Outcome::Good => self.packet_done(),
            Outcome::Check(sense) => self.packet_failed(sense),
            Outcome::DataIn(buffer) if dma => {
                self.packet_dma(REASON_IN, buffer.len() as u64, DmaWork::Reply(buffer));
            }
            Outcome::DataIn(buffer) => {
                self.data_in(DataIn { buffer, position: 0, block_end: 0, limit, source: Source::Packet });
            }
            Outcome::Read(read) if dma => self.packet_dma(REASON_IN, read.len_bytes(), DmaWork::Disc(read)),
            Outcome::Read(read) => {
                let source = Source::Disc(read);
                self.data_in(DataIn { buffer: Vec::new(), position: 0, block_end: 0, limit, source });
            }
            Outcome::DataOut(len_bytes) if dma => {
                self.packet_dma(REASON_OUT, len_bytes as u64, DmaWork::Parameters(cdb));
            }
            Outcome::DataOut(len_bytes) => {
                // Asked for by a 16-bit field.
                let len_bytes = u16::try_from(len_bytes).unwrap_or(u16::MAX);
                let target = Target::Parameters { cdb, len_bytes };
                self.data_out(DataOut { buffer: Vec::new(), block_end: 0, limit, target }, true);
            }
        }
    }

    fn packet_dma(&mut self, reason: u8, len_bytes: u64, work: DmaWork) {
        self.unit().registers.count.now = reason;
        self.begin_dma(DmaCommand { len_bytes, work });
    }

    /// The parameter list of a packet command is here.
    pub(super) fn execute_parameters(&mut self, cdb: Cdb, data: &[u8]) {
        match self.atapi().map(|drive| drive.drive.parameters(&cdb, data)) {
            Some(Outcome::Check(sense)) => self.packet_failed(sense),
            _ => self.packet_done(),
        }
    }

    /// Shows the length and direction of the data block that follows.
    pub(super) fn set_packet_block(&mut self, to_guest: bool, block_bytes: usize) {
        let registers = &mut self.unit().registers;
        registers.count.now = if to_guest { REASON_IN } else { REASON_OUT };
        // Blocks are at most FFFEh long.
        [registers.high.now, registers.mid.now] = u16::try_from(block_bytes).unwrap_or(u16::MAX).to_be_bytes();
    }

    /// The packet command is done.
    pub(super) fn packet_done(&mut self) {
        self.unit().registers.count.now = REASON_DONE;
        self.end(DRDY | DSC, 0);
    }

    /// The packet command failed; ERROR shows the sense key.
    pub(super) fn packet_failed(&mut self, sense: Sense) {
        self.unit().registers.count.now = REASON_DONE;
        self.end(DRDY | ERR, (sense.key as u8) << 4 | ABRT);
    }
}

/// Most bytes of a data block by the guest's byte count limit: even, at least 2, at most FFFEh, which 0 asks for too.
fn data_block_limit(limit: u16) -> usize {
    match limit & 0xfffe {
        0 if limit == 1 => 2,
        0 => 0xfffe,
        even => usize::from(even),
    }
}
