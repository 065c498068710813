//! DMA commands: from the descriptors to a disk request on guest memory, and what follows every disk request.

use benchtop_block::{Completed, Operation};
use benchtop_memory::{IoBuffer, ScatterList, VolatileSlice};

use super::bmdma::GatherError;
use super::channel::{Channel, Drive};
use super::phase::{DmaCommand, DmaWork, Next, Phase, SECTOR, SectorRun};
use super::pio::first_block;
use super::taskfile::{ABRT, DF, DRDY, DSC, ERR};
use crate::scsi::cdrom::DATA_BLOCK_BYTES;
use crate::scsi::{MediaRead, Sense};

/// Blocks that are reshaped at a time on their way to memory.
const SHAPED_BLOCKS: u32 = 32;

impl Channel {
    /// Runs the waiting DMA command, if there is one, the engine was started, and the function may master the bus.
    pub(super) fn try_dma(&mut self) {
        if !self.bus_master.armed || !self.may_master || !matches!(self.phase, Phase::Dma(_)) {
            return;
        }
        let Phase::Dma(DmaCommand { len_bytes, work }) = std::mem::replace(&mut self.phase, Phase::Idle) else {
            return;
        };
        self.bus_master.armed = false;
        match self.bus_master.gather(&self.memory, len_bytes) {
            Ok((list, more)) => self.run_dma(work, list, more),
            Err(reason) => {
                match reason {
                    GatherError::Short => self.bus_master.finish(false),
                    GatherError::NotRam => self.bus_master.fail(),
                }
                match self.atapi() {
                    Some(drive) => {
                        let sense = drive.drive.transfer_failed();
                        self.packet_failed(sense);
                    }
                    None => self.abort(),
                }
            }
        }
    }

    fn run_dma(&mut self, work: DmaWork, list: ScatterList, more: bool) {
        let len_bytes = list.len_bytes();
        match work {
            DmaWork::Read(run) => self.move_sectors(Operation::Read, run, list, more),
            DmaWork::Write { run, fua } => self.move_sectors(Operation::Write { fua }, run, list, more),
            DmaWork::Trim => {
                let ranges = copy_out(&list);
                self.bus_master.finish(more);
                self.trim(&ranges);
            }
            DmaWork::Reply(bytes) => {
                copy_in(&list, 0, &bytes);
                self.bus_master.finish(more);
                self.packet_done();
            }
            DmaWork::Parameters(cdb) => {
                let bytes = copy_out(&list);
                self.bus_master.finish(more);
                self.execute_parameters(cdb, &bytes);
            }
            DmaWork::Disc(read) if read.layout.is_plain() => {
                let first = read.first_block;
                let offset_bytes = u64::from(first) * DATA_BLOCK_BYTES as u64;
                let next = Next::DiscMoved { first, more };
                self.submit(&read.disk, Operation::Read, offset_bytes, len_bytes, IoBuffer::Guest(list), next);
            }
            DmaWork::Disc(read) => self.shape_next(read, list, 0, more),
        }
    }

    fn move_sectors(&mut self, operation: Operation, run: SectorRun, list: ScatterList, more: bool) {
        let Some(disk) = self.ata().map(|disk| disk.disk.clone()) else { return };
        let next = Next::Moved { run, write: operation != Operation::Read, more };
        let len_bytes = list.len_bytes();
        self.submit(&disk, operation, run.next * SECTOR as u64, len_bytes, IoBuffer::Guest(list), next);
    }

    /// Reads the next blocks of a transfer that does not leave them as they are.
    fn shape_next(&mut self, mut rest: MediaRead, list: ScatterList, offset_bytes: u64, more: bool) {
        if rest.blocks == 0 {
            self.bus_master.finish(more);
            self.packet_done();
            return;
        }
        let (first, count) = (rest.first_block, rest.blocks.min(SHAPED_BLOCKS));
        rest.first_block = first.saturating_add(count);
        rest.blocks -= count;
        let disk = rest.disk.clone();
        let len_bytes = count as usize * DATA_BLOCK_BYTES;
        let at = u64::from(first) * DATA_BLOCK_BYTES as u64;
        let next = Next::DiscChunk { rest, first, list, offset_bytes, more };
        self.submit(&disk, Operation::Read, at, len_bytes as u64, IoBuffer::Host(vec![0; len_bytes]), next);
    }

    /// Goes on after a disk request.
    pub(super) fn advance(&mut self, next: Next, completed: Completed) {
        match next {
            Next::Flushed => match completed.result {
                Ok(()) => self.finish(),
                Err(error) => self.fail_flush(&error),
            },
            Next::WriteCacheOff => match completed.result {
                Ok(()) => self.write_cache_off(),
                Err(error) => self.fail_flush(&error),
            },
            Next::Verify(run) => match completed.result {
                Ok(()) => {
                    let SectorRun { next, left, mode } = run;
                    // A whole number of sectors, at most what was left.
                    let count = (completed.buffer.len_bytes() / SECTOR as u64).min(u64::from(left)) as u32;
                    self.verify_next(SectorRun { next: next + u64::from(count), left: left - count, mode });
                }
                Err(error) => self.fail_read(run.mode, run.next, &error),
            },
            Next::Fetched { data, first, count } => self.fetched(data, first, count, completed),
            Next::Stored { data, count } => self.stored(data, count, completed),
            Next::Moved { run, write, more } => match completed.result {
                Ok(()) => {
                    self.bus_master.finish(more);
                    self.set_moved(run.mode, run.next + u64::from(run.left));
                    self.finish();
                }
                Err(error) => {
                    self.bus_master.finish(false);
                    if write {
                        self.fail_write(run.mode, run.next, &error);
                    } else {
                        self.fail_read(run.mode, run.next, &error);
                    }
                }
            },
            Next::DiscMoved { first, more } => match completed.result {
                Ok(()) => {
                    self.bus_master.finish(more);
                    self.packet_done();
                }
                Err(error) => {
                    self.bus_master.finish(false);
                    self.fail_disc_read(first, &error);
                }
            },
            Next::DiscChunk { rest, first, list, offset_bytes, more } => match (completed.result, completed.buffer) {
                (Ok(()), IoBuffer::Host(bytes)) => {
                    let mut shaped = Vec::new();
                    for (number, block) in (first..).zip(bytes.chunks_exact(DATA_BLOCK_BYTES)) {
                        rest.layout.encode(number, block, &mut shaped);
                    }
                    copy_in(&list, offset_bytes, &shaped);
                    self.shape_next(rest, list, offset_bytes + shaped.len() as u64, more);
                }
                (Ok(()), _) => {}
                (Err(error), _) => {
                    self.bus_master.finish(false);
                    self.fail_disc_read(first_block(u64::from(first)), &error);
                }
            },
            Next::Trimmed { ranges } => match completed.result {
                Ok(()) => self.trim_next(ranges),
                Err(error) => self.fail_flush(&error),
            },
            Next::Cancelled(why) => self.cancelled(why),
        }
    }

    /// A flush or a discard failed: nothing may be taken as durable.
    fn fail_flush(&mut self, error: &benchtop_block::BlockError) {
        tracing::debug!(%error, "disk flush failed");
        self.end(DRDY | DSC | DF | ERR, ABRT);
    }

    fn write_cache_off(&mut self) {
        match self.ata().map(|disk| disk.disk.set_guest_write_cache(false)) {
            Some(Ok(())) => self.finish(),
            _ => self.abort(),
        }
    }

    /// The image could not read a block of the disc.
    pub(super) fn fail_disc_read(&mut self, block: u32, error: &benchtop_block::BlockError) {
        use crate::scsi::ScsiTarget;
        tracing::debug!(block, %error, "disc read failed");
        let sense = match &mut self.unit().drive {
            Some(Drive::Cd(drive)) => drive.drive.read_failed(block, error),
            _ => Sense::READ_ERROR,
        };
        self.packet_failed(sense);
    }
}

/// The bytes a list names, read once.
fn copy_out(list: &ScatterList) -> Vec<u8> {
    let mut bytes = Vec::new();
    for slice in list.slices(0, list.len_bytes()) {
        let start = bytes.len();
        bytes.resize(start + slice.len(), 0);
        slice.copy_to(&mut bytes[start..]);
    }
    bytes
}

/// Writes `bytes` from `offset_bytes` of a list on.
fn copy_in(list: &ScatterList, offset_bytes: u64, mut bytes: &[u8]) {
    let slices: Vec<VolatileSlice<'_>> = list.slices(offset_bytes, bytes.len() as u64).collect();
    for slice in slices {
        let (piece, rest) = bytes.split_at(slice.len().min(bytes.len()));
        slice.copy_from(piece);
        bytes = rest;
    }
}
