//! The SCSI command layer: targets that carry out command descriptor blocks, whatever carries the blocks to them.
//!
//! ```text
//!   ATAPI PACKET ─┐                 ┌─ Good / DataIn(bytes) / Check(sense)        answered at once
//!   (LSI, PVSCSI) ┴▶ ScsiTarget ────┼─ DataOut(n) ─ transport fetches n bytes ─▶ parameters()
//!                      execute(cdb) └─ Read(plan) ─ transport reads the disk, straight into guest memory if it can
//! ```
//!
//! A target never moves data and never waits: it says what is to be moved, and the transport does that with its own
//! buffers, interrupts and resets. Replies are already cut to the allocation length, and every byte in them was
//! written by the target.

pub mod cdrom;
mod sense;

use benchtop_block::{BlockError, Disk};

pub use sense::{Sense, SenseKey};

use cdrom::BlockLayout;

/// What a command comes to.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// GOOD, no data.
    Good,
    /// GOOD, after these bytes went to the initiator. Never empty.
    DataIn(Vec<u8>),
    /// The target wants a parameter list of this many bytes (1 to 65535), given to [`ScsiTarget::parameters`].
    DataOut(usize),
    /// GOOD, after the blocks of this plan went to the initiator.
    Read(MediaRead),
    /// CHECK CONDITION. The target keeps the sense for REQUEST SENSE.
    Check(Sense),
}

/// A checked read of a medium: the range lies on it.
#[derive(Clone, Debug)]
pub struct MediaRead {
    /// The medium as it was when the command was checked. It stays readable even if it is taken out meanwhile.
    pub disk: Disk,
    /// First block.
    pub first_block: u32,
    /// Number of blocks, at least 1.
    pub blocks: u32,
    /// Which parts of a block go to the initiator.
    pub layout: BlockLayout,
}

impl MediaRead {
    /// Bytes the initiator is sent in all.
    pub fn len_bytes(&self) -> u64 {
        u64::from(self.blocks) * self.layout.block_bytes() as u64
    }
}

/// A SCSI device behind some transport.
pub trait ScsiTarget: Send {
    /// Carries out a command descriptor block. One shorter than its operation needs reads as if padded with zeroes.
    fn execute(&mut self, cdb: &[u8]) -> Outcome;

    /// Takes the parameter list [`Outcome::DataOut`] asked for. Shorter data is a parameter list length error.
    fn parameters(&mut self, cdb: &[u8], data: &[u8]) -> Outcome;

    /// The disk failed a planned read at `block`: the sense to end the command with, kept for REQUEST SENSE.
    fn read_failed(&mut self, block: u32, error: &BlockError) -> Sense;

    /// A reset of the device or its bus: locks are released and a unit attention is due. Media stay.
    fn reset(&mut self);
}

/// Reads a big-endian 16-bit field of a CDB; bytes past its end read 0.
pub(crate) fn be16(cdb: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([byte(cdb, at), byte(cdb, at + 1)])
}

/// Reads a big-endian 24-bit field.
pub(crate) fn be24(cdb: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([0, byte(cdb, at), byte(cdb, at + 1), byte(cdb, at + 2)])
}

/// Reads a big-endian 32-bit field.
pub(crate) fn be32(cdb: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([byte(cdb, at), byte(cdb, at + 1), byte(cdb, at + 2), byte(cdb, at + 3)])
}

/// Reads one byte; 0 past the end.
pub(crate) fn byte(cdb: &[u8], at: usize) -> u8 {
    cdb.get(at).copied().unwrap_or(0)
}

/// A reply cut to the initiator's allocation length; nothing at all is plain GOOD.
pub(crate) fn reply(mut data: Vec<u8>, allocation_bytes: usize) -> Outcome {
    data.truncate(allocation_bytes);
    if data.is_empty() { Outcome::Good } else { Outcome::DataIn(data) }
}
