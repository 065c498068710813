//! The data port: blocks of data between the guest and the buffers of the command in progress.
//!
//! Reads are fetched up to 128 KiB ahead and writes gathered up to as much, so that one command is one disk request
//! or few; the blocks the guest sees stay those the command defines. A write command reports success only after its
//! last sector was written (and, by cache mode, is durable).

use benchtop_block::{Completed, Operation};
use benchtop_memory::IoBuffer;

use super::channel::Channel;
use super::phase::{DataIn, DataOut, Next, PIO_BUFFER_BYTES, Phase, SECTOR, Source, Target};
use super::taskfile::{DRDY, DSC};
use crate::scsi::cdrom::DATA_BLOCK_BYTES;

/// Blocks of a disc read ahead at a time: more than the largest data block of the PACKET protocol.
const DISC_FETCH_BLOCKS: u32 = 32;

impl DataIn {
    /// Bytes that are still to be fetched.
    fn more_bytes(&self) -> u64 {
        match &self.source {
            Source::Reply | Source::Packet => 0,
            Source::Sectors(run) => u64::from(run.left) * SECTOR as u64,
            Source::Disc(read) => read.len_bytes(),
        }
    }

    fn is_packet(&self) -> bool {
        matches!(self.source, Source::Packet | Source::Disc(_))
    }

    /// Sectors or blocks of the smallest fetch that serves one data block.
    fn small_fetch(&self) -> u32 {
        match &self.source {
            // At most 16.
            Source::Sectors(_) => (self.limit / SECTOR).max(1) as u32,
            _ => 1,
        }
    }
}

impl DataOut {
    fn left_bytes(&self) -> usize {
        let total = match &self.target {
            Target::Packet { .. } => 12,
            Target::Parameters { len_bytes, .. } => usize::from(*len_bytes),
            // At most 32 MiB.
            Target::Sectors { run, .. } => run.left as usize * SECTOR,
        };
        total.saturating_sub(self.buffer.len())
    }
}

impl Channel {
    /// Offers the next data block of `data`, fetching first where that is needed; ends the command after the last.
    pub(super) fn data_in(&mut self, mut data: DataIn) {
        let available = data.buffer.len() - data.position;
        let more = data.more_bytes();
        let total = more + available as u64;
        if total == 0 {
            self.data_in_done(&data.source);
            return;
        }
        let block_bytes = usize::try_from(total).unwrap_or(usize::MAX).min(data.limit);
        if available < block_bytes && more > 0 {
            self.fetch(data, false);
            return;
        }
        data.block_end = data.position + block_bytes;
        if data.is_packet() {
            self.set_packet_block(true, block_bytes);
        }
        self.phase = Phase::DataIn(data);
        self.request_data(true);
    }

    fn data_in_done(&mut self, source: &Source) {
        match source {
            Source::Packet | Source::Disc(_) => self.packet_done(),
            Source::Reply => self.data_in_ended(),
            Source::Sectors(run) => {
                self.set_moved(run.mode, run.next);
                self.data_in_ended();
            }
        }
    }

    /// The last word was read: no further interrupt.
    fn data_in_ended(&mut self) {
        self.phase = Phase::Idle;
        self.unit().registers.status = DRDY | DSC;
    }

    /// Reads ahead; `small` is no more than the next data block needs, to find what exactly can not be read.
    fn fetch(&mut self, mut data: DataIn, small: bool) {
        data.buffer.drain(..data.position);
        data.position = 0;
        let small_count = data.small_fetch();
        let (disk, first, count, unit_bytes) = match &mut data.source {
            Source::Reply | Source::Packet => return,
            Source::Sectors(run) => {
                let Some(disk) = self.ata().map(|disk| disk.disk.clone()) else { return };
                let most = if small { small_count } else { (PIO_BUFFER_BYTES / SECTOR) as u32 };
                let (first, count) = (run.next, run.left.min(most));
                run.next += u64::from(count);
                run.left -= count;
                (disk, first, count, SECTOR)
            }
            Source::Disc(read) => {
                let most = if small { small_count } else { DISC_FETCH_BLOCKS };
                let (first, count) = (read.first_block, read.blocks.min(most));
                // The range lies on the disc, so the sum is at most its size.
                read.first_block = read.first_block.saturating_add(count);
                read.blocks -= count;
                (read.disk.clone(), u64::from(first), count, DATA_BLOCK_BYTES)
            }
        };
        let len_bytes = count as usize * unit_bytes;
        let buffer = IoBuffer::Host(vec![0; len_bytes]);
        let next = Next::Fetched { data, first, count };
        self.submit(&disk, Operation::Read, first * unit_bytes as u64, len_bytes as u64, buffer, next);
    }

    /// What [`fetch`](Self::fetch) asked for arrived, or could not be read.
    pub(super) fn fetched(&mut self, mut data: DataIn, first: u64, count: u32, completed: Completed) {
        let Completed { result, buffer, .. } = completed;
        let error = match (result, buffer) {
            (Ok(()), IoBuffer::Host(bytes)) => {
                match &data.source {
                    Source::Disc(read) if !read.layout.is_plain() => {
                        let numbers = first_block(first)..;
                        for (number, block) in numbers.zip(bytes.chunks_exact(DATA_BLOCK_BYTES)) {
                            read.layout.encode(number, block, &mut data.buffer);
                        }
                    }
                    _ if data.buffer.is_empty() => data.buffer = bytes,
                    _ => data.buffer.extend_from_slice(&bytes),
                }
                self.data_in(data);
                return;
            }
            (Ok(()), _) => return,
            (Err(error), _) => error,
        };
        // Take back what was asked for.
        match &mut data.source {
            Source::Sectors(run) => {
                run.next = first;
                run.left = run.left.saturating_add(count);
            }
            Source::Disc(read) => {
                read.first_block = first_block(first);
                read.blocks = read.blocks.saturating_add(count);
            }
            Source::Reply | Source::Packet => {}
        }
        if count > data.small_fetch() {
            self.fetch(data, true);
            return;
        }
        match &data.source {
            Source::Sectors(run) => self.fail_read(run.mode, first, &error),
            _ => self.fail_disc_read(first_block(first), &error),
        }
    }

    /// Asks the guest for the next data block of `data`.
    pub(super) fn data_out(&mut self, mut data: DataOut, interrupt: bool) {
        let block_bytes = data.left_bytes().min(data.limit);
        data.block_end = data.buffer.len() + block_bytes;
        if matches!(data.target, Target::Parameters { .. }) {
            self.set_packet_block(false, block_bytes);
        }
        self.phase = Phase::DataOut(data);
        self.request_data(interrupt);
        self.expect_data();
    }

    /// The guest filled a data block.
    fn block_written(&mut self, data: DataOut) {
        match data.target {
            Target::Packet { dma, limit } => {
                let mut cdb = [0; 12];
                for (to, from) in cdb.iter_mut().zip(&data.buffer) {
                    *to = *from;
                }
                self.execute_packet(cdb, dma, limit);
            }
            Target::Parameters { cdb, .. } if data.left_bytes() == 0 => self.execute_parameters(cdb, &data.buffer),
            Target::Sectors { .. } if data.left_bytes() == 0 || data.buffer.len() >= PIO_BUFFER_BYTES => {
                self.store(data);
            }
            Target::Parameters { .. } | Target::Sectors { .. } => self.data_out(data, true),
        }
    }

    /// Writes what was gathered.
    fn store(&mut self, mut data: DataOut) {
        let Target::Sectors { run, fua } = data.target else { return };
        let Some(disk) = self.ata().map(|disk| disk.disk.clone()) else { return };
        let bytes = std::mem::take(&mut data.buffer);
        let len_bytes = bytes.len() as u64;
        // At most 256 sectors.
        let count = (bytes.len() / SECTOR) as u32;
        let next = Next::Stored { data, count };
        let offset_bytes = run.next * SECTOR as u64;
        self.submit(&disk, Operation::Write { fua }, offset_bytes, len_bytes, IoBuffer::Host(bytes), next);
    }

    /// What [`store`](Self::store) gave to the disk is written, or could not be.
    pub(super) fn stored(&mut self, mut data: DataOut, count: u32, completed: Completed) {
        let Target::Sectors { run, .. } = &mut data.target else { return };
        if let Err(error) = completed.result {
            let (mode, sector) = (run.mode, run.next);
            self.fail_write(mode, sector, &error);
            return;
        }
        run.next += u64::from(count);
        run.left = run.left.saturating_sub(count);
        if run.left == 0 {
            let (mode, end) = (run.mode, run.next);
            self.set_moved(mode, end);
            self.finish();
            return;
        }
        if let IoBuffer::Host(mut bytes) = completed.buffer {
            bytes.clear();
            data.buffer = bytes;
        }
        self.data_out(data, true);
    }

    /// Reads from the data port, as many words as there are bytes for. Words the guest may not read now are FFFFh.
    pub(super) fn read_data(&mut self, out: &mut [u8]) {
        let mut at = 0;
        while at < out.len() {
            let Phase::DataIn(data) = &mut self.phase else { break };
            let len_bytes = (data.block_end - data.position).min(out.len() - at);
            let end = data.position + len_bytes;
            out[at..at + len_bytes].copy_from_slice(&data.buffer[data.position..end]);
            data.position = end;
            at += len_bytes;
            if data.position == data.block_end {
                // A block of odd length ends within a word.
                if at % 2 == 1
                    && let Some(pad) = out.get_mut(at)
                {
                    *pad = 0;
                    at += 1;
                }
                if let Phase::DataIn(data) = std::mem::replace(&mut self.phase, Phase::Idle) {
                    self.data_in(data);
                    self.pump();
                }
            }
        }
        out[at..].fill(0xff);
    }

    /// Reads the low byte of a word.
    pub(super) fn read_data_byte(&mut self) -> u8 {
        let mut word = [0; 2];
        self.read_data(&mut word);
        word[0]
    }

    /// Writes words to the data port. Those that nobody asked for are dropped.
    pub(super) fn write_data(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let Phase::DataOut(data) = &mut self.phase else { break };
            let (taken, rest) = bytes.split_at((data.block_end - data.buffer.len()).min(bytes.len()));
            data.buffer.extend_from_slice(taken);
            bytes = rest;
            if data.buffer.len() == data.block_end {
                // A block of odd length ends within a word.
                if taken.len() % 2 == 1 {
                    bytes = bytes.get(1..).unwrap_or_default();
                }
                if let Phase::DataOut(data) = std::mem::replace(&mut self.phase, Phase::Idle) {
                    self.block_written(data);
                    self.pump();
                }
            }
        }
    }
}

/// A block of a disc: there are at most 2^32.
pub(super) fn first_block(first: u64) -> u32 {
    u32::try_from(first).unwrap_or(u32::MAX)
}
