//! What a channel is in the middle of. One command at a time is, on one of its two units.

use benchtop_memory::ScatterList;
use serde::{Deserialize, Serialize};

use super::taskfile::AddressMode;
use crate::scsi::MediaRead;

/// Most bytes that are read ahead for, or gathered from, the data port: 256 sectors.
pub(super) const PIO_BUFFER_BYTES: usize = 128 << 10;
/// Bytes of an ATA sector.
pub(super) const SECTOR: usize = 512;

/// The command packet of a PACKET command.
pub(super) type Cdb = [u8; 12];

/// The state of the command in progress.
#[derive(Debug)]
pub(super) enum Phase {
    /// None is.
    Idle,
    /// The guest reads the data port.
    DataIn(DataIn),
    /// The guest writes the data port.
    DataOut(DataOut),
    /// A DMA command waits for the bus master to be started.
    Dma(DmaCommand),
    /// A disk request is out; the device is busy.
    Busy {
        /// The request's.
        token: u64,
        /// What comes after it.
        next: Next,
    },
}

/// Data on its way to the guest through the data port.
#[derive(Debug)]
pub(super) struct DataIn {
    /// What was read so far and is not used up.
    pub buffer: Vec<u8>,
    /// Next byte of it the guest reads.
    pub position: usize,
    /// End of the block the guest reads now.
    pub block_end: usize,
    /// Most bytes of a block.
    pub limit: usize,
    /// Where more comes from.
    pub source: Source,
}

/// Where the data of a [`DataIn`] comes from.
#[derive(Clone, Debug)]
pub(super) enum Source {
    /// An ATA command's reply: all of it is in the buffer.
    Reply,
    /// A packet command's reply: all of it is in the buffer.
    Packet,
    /// Sectors of a disk.
    Sectors(SectorRun),
    /// Blocks of a disc.
    Disc(MediaRead),
}

/// Sectors still to be read or written, or to be read only to see that they can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SectorRun {
    pub next: u64,
    pub left: u32,
    pub mode: AddressMode,
}

/// Data on its way from the guest through the data port.
#[derive(Debug)]
pub(super) struct DataOut {
    /// What was written so far.
    pub buffer: Vec<u8>,
    /// End of the block the guest writes now.
    pub block_end: usize,
    /// Most bytes of a block.
    pub limit: usize,
    /// Where it goes.
    pub target: Target,
}

/// Where the data of a [`DataOut`] goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Target {
    /// It is a command packet.
    Packet {
        /// Whether the data of the command goes by DMA.
        dma: bool,
        /// Byte count limit of its data blocks, as the guest gave it.
        limit: u16,
    },
    /// It is the parameter list of a packet command.
    Parameters {
        /// The command.
        cdb: Cdb,
        /// Length of the list.
        len_bytes: u16,
    },
    /// Sectors of a disk; `next` and `left` count what is not written to it yet.
    Sectors {
        /// The sectors.
        run: SectorRun,
        /// Durable on completion.
        fua: bool,
    },
}

/// A DMA command whose parameters are checked.
#[derive(Clone, Debug)]
pub(super) struct DmaCommand {
    /// Bytes to move.
    pub len_bytes: u64,
    /// What to do with them.
    pub work: DmaWork,
}

/// What a DMA command moves.
#[derive(Clone, Debug)]
pub(super) enum DmaWork {
    /// Disk to memory.
    Read(SectorRun),
    /// Memory to disk.
    Write {
        /// The sectors.
        run: SectorRun,
        /// Durable on completion.
        fua: bool,
    },
    /// A list of ranges to discard, from memory.
    Trim,
    /// A packet command's reply, to memory.
    Reply(Vec<u8>),
    /// Blocks of a disc, to memory.
    Disc(MediaRead),
    /// A packet command's parameter list, from memory.
    Parameters(Cdb),
}

/// What follows a disk request.
#[derive(Debug)]
pub(super) enum Next {
    /// The command is done, if the flush was.
    Flushed,
    /// The write cache goes off, if the flush succeeded.
    WriteCacheOff,
    /// More sectors are to be verified.
    Verify(SectorRun),
    /// Sectors or blocks arrived for the data port. The run counts what follows them.
    Fetched {
        /// The transfer they belong to.
        data: DataIn,
        /// First sector or block asked for.
        first: u64,
        /// How many.
        count: u32,
    },
    /// Gathered sectors were written.
    Stored {
        /// The transfer, with `run` still at their start.
        data: DataOut,
        /// How many.
        count: u32,
    },
    /// A DMA read or write ended.
    Moved {
        /// The sectors.
        run: SectorRun,
        /// Whether it wrote.
        write: bool,
        /// Whether descriptors are left over.
        more: bool,
    },
    /// A DMA read of a disc ended.
    DiscMoved {
        /// First block.
        first: u32,
        /// Whether descriptors are left over.
        more: bool,
    },
    /// Blocks of a disc arrived that must be reshaped on their way to memory.
    DiscChunk {
        /// What follows them.
        rest: MediaRead,
        /// First block of those that arrived.
        first: u32,
        /// All the memory of the command.
        list: ScatterList,
        /// Bytes of it used up.
        offset_bytes: u64,
        /// Whether descriptors are left over.
        more: bool,
    },
    /// A range was discarded; these follow, last first.
    Trimmed {
        /// (first sector, count).
        ranges: Vec<(u64, u32)>,
    },
    /// The command was given up while its request was out.
    Cancelled(Cancel),
}

/// Why a command was given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Cancel {
    /// The bus master was stopped or may no longer master the bus.
    DmaStop,
    /// DEVICE RESET of this unit.
    DeviceReset(usize),
    /// The channel's software reset.
    SoftReset,
}
