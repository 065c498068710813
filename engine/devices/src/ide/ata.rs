//! ATA commands of a hard disk (ATA8-ACS, with what ATA/ATAPI-7 kept of older ones).

use benchtop_block::{BlockError, BlockErrorKind, CacheMode, DiscardBehavior, Disk, Operation};
use benchtop_memory::IoBuffer;

use super::AtaIdentity;
use super::channel::Channel;
use super::identify;
use super::phase::{
    DataIn, DataOut, DmaCommand, DmaWork, Next, PIO_BUFFER_BYTES, Phase, SECTOR, SectorRun, Source, Target,
};
use super::smart;
use super::taskfile::{
    ABRT, AddressMode, DEVICE_LBA, DF, DRDY, DRQ, DSC, ERR, Geometry, IDNF, LBA28_LIMIT, LBA48_LIMIT, UNC,
};

/// Most sectors of one block in a READ or WRITE MULTIPLE.
pub(super) const MAX_MULTIPLE: u8 = 16;
/// Most 512-byte blocks of ranges in one DATA SET MANAGEMENT.
pub(super) const MAX_TRIM_BLOCKS: u32 = 8;

/// A hard disk and its settings.
#[derive(Debug)]
pub(super) struct AtaDisk {
    pub disk: Disk,
    pub identity: AtaIdentity,
    /// Capacity in sectors, below 2^48.
    pub sectors: u64,
    pub geometry: Geometry,
    /// Sectors of a block in a multiple command; 0 is off.
    pub multiple: u8,
    /// SET FEATURES transfer mode: high five bits the kind, low three the number.
    pub transfer_mode: u8,
    pub look_ahead: bool,
    pub smart: bool,
    pub standby: bool,
    /// Settings go back to their defaults on a software reset.
    pub revert: bool,
}

impl AtaDisk {
    pub(super) fn new(disk: Disk, identity: AtaIdentity) -> Self {
        let sectors = (disk.info().size_bytes / SECTOR as u64).min(LBA48_LIMIT - 1);
        Self {
            disk,
            identity,
            sectors,
            geometry: Geometry::default(),
            multiple: MAX_MULTIPLE,
            transfer_mode: 0x22,
            look_ahead: true,
            smart: true,
            standby: false,
            revert: false,
        }
    }

    fn defaults(&mut self) {
        self.geometry = Geometry::default();
        self.multiple = MAX_MULTIPLE;
        self.transfer_mode = 0x22;
        self.look_ahead = true;
        // Under a user's write-through there is no cache to enable, and that is as it should be.
        if self.disk.set_guest_write_cache(true).is_err() {
            tracing::trace!("write cache stays off: the user's mode");
        }
    }

    pub(super) fn soft_reset(&mut self) {
        self.standby = false;
        if self.revert {
            self.defaults();
        }
    }

    pub(super) fn power_on(&mut self) {
        self.defaults();
        (self.smart, self.standby, self.revert) = (true, false, false);
    }

    /// Whether the user lets the guest have a write cache.
    pub(super) fn may_cache_writes(&self) -> bool {
        self.disk.cache().user != CacheMode::Writethrough
    }

    /// Whether writes complete before they are durable.
    pub(super) fn caches_writes(&self) -> bool {
        self.disk.guest_write_cache()
    }

    /// Whether the guest has switched off a write cache that the user allows.
    pub(super) fn is_write_cache_off(&self) -> bool {
        self.may_cache_writes() && !self.caches_writes()
    }
}

impl Channel {
    /// Carries out a command on the selected unit, which is a disk.
    pub(super) fn ata_command(&mut self, code: u8) {
        use AddressMode::{Lba28, Lba48};
        let Some(disk) = self.ata() else { return };
        if !matches!(code, 0xe5 | 0x98 | 0xe0 | 0x94 | 0xe2 | 0x96 | 0xe6 | 0x99) {
            disk.standby = false;
        }
        match code {
            // CFA REQUEST EXTENDED ERROR and the like are not offered; NOP always aborts.
            0x20 | 0x21 => self.read_sectors(Lba28, 1),
            0x24 => self.read_sectors(Lba48, 1),
            0xc4 => self.read_multiple(Lba28),
            0x29 => self.read_multiple(Lba48),
            0x30 | 0x31 => self.write_sectors(Lba28, 1, false),
            0x34 => self.write_sectors(Lba48, 1, false),
            0xc5 => self.write_multiple(Lba28, false),
            0x39 => self.write_multiple(Lba48, false),
            0xce => self.write_multiple(Lba48, true),
            0xc8 | 0xc9 => self.dma_sectors(Lba28, false, false),
            0x25 => self.dma_sectors(Lba48, false, false),
            0xca | 0xcb => self.dma_sectors(Lba28, true, false),
            0x35 => self.dma_sectors(Lba48, true, false),
            0x3d => self.dma_sectors(Lba48, true, true),
            0x40 | 0x41 => self.verify(Lba28),
            0x42 => self.verify(Lba48),
            0x06 => self.data_set_management(),
            0x10..=0x1f => self.finish(),
            0x70 => self.seek(),
            0x27 => self.native_max(Lba48),
            0xf8 => self.native_max(Lba28),
            0x91 => self.initialize_parameters(),
            0xc6 => self.set_multiple(),
            0xe7 | 0xea => self.flush(Next::Flushed),
            0xec => self.identify(),
            0xef => self.set_features(),
            // STANDBY, SLEEP and their older codes: what is cached becomes durable first.
            0xe0 | 0x94 | 0xe2 | 0x96 | 0xe6 | 0x99 => {
                if let Some(disk) = self.ata() {
                    disk.standby = true;
                }
                self.flush(Next::Flushed);
            }
            0xe1 | 0x95 | 0xe3 | 0x97 | 0xf5 => self.finish(),
            0xe5 | 0x98 => {
                let power = if self.ata().is_some_and(|disk| disk.standby) { 0x00 } else { 0xff };
                self.unit().registers.count.now = power;
                self.finish();
            }
            0xb0 => self.smart(),
            _ => self.abort(),
        }
    }

    /// CHS where the guest did not ask for LBA; 48-bit commands know only LBA.
    fn mode(&self, mode: AddressMode) -> AddressMode {
        if mode == AddressMode::Lba28 && self.device & DEVICE_LBA == 0 { AddressMode::Chs } else { mode }
    }

    /// The sectors the registers name, if all of them exist. Ends the command with IDNF otherwise.
    fn checked_run(&mut self, mode: AddressMode) -> Option<SectorRun> {
        let mode = self.mode(mode);
        let device = self.device;
        let (geometry, sectors) = self.ata().map(|disk| (disk.geometry, disk.sectors))?;
        let registers = &self.unit().registers;
        let left = registers.block_count(mode);
        match registers.address(mode, device, geometry) {
            Some(next) if next.checked_add(u64::from(left)).is_some_and(|end| end <= sectors) => {
                Some(SectorRun { next, left, mode })
            }
            Some(next) => {
                // The first address that is not there.
                self.set_sector_address(mode, next.max(sectors));
                self.end(DRDY | DSC | ERR, IDNF);
                None
            }
            None => {
                self.end(DRDY | DSC | ERR, IDNF);
                None
            }
        }
    }

    pub(super) fn set_sector_address(&mut self, mode: AddressMode, sector: u64) {
        let geometry = self.ata().map_or_else(Geometry::default, |disk| disk.geometry);
        let mut device = self.device;
        self.unit().registers.set_address(mode, &mut device, geometry, sector);
        self.device = device;
    }

    /// A data command moved everything: the registers name the last sector and nothing left.
    pub(super) fn set_moved(&mut self, mode: AddressMode, end: u64) {
        self.set_sector_address(mode, end.saturating_sub(1));
        let count = &mut self.unit().registers.count;
        count.now = 0;
        if mode == AddressMode::Lba48 {
            count.previous = 0;
        }
    }

    /// The image could not read.
    pub(super) fn fail_read(&mut self, mode: AddressMode, sector: u64, error: &BlockError) {
        tracing::debug!(sector, %error, "disk read failed");
        self.set_sector_address(mode, sector);
        let code = if error.kind() == BlockErrorKind::OutOfRange { IDNF } else { UNC };
        self.end(DRDY | DSC | ERR, code);
    }

    /// The image could not write.
    pub(super) fn fail_write(&mut self, mode: AddressMode, sector: u64, error: &BlockError) {
        tracing::debug!(sector, %error, "disk write failed");
        self.set_sector_address(mode, sector);
        match error.kind() {
            BlockErrorKind::OutOfRange => self.end(DRDY | DSC | ERR, IDNF),
            BlockErrorKind::ReadOnly => self.abort(),
            _ => self.end(DRDY | DSC | DF | ERR, ABRT),
        }
    }

    fn read_multiple(&mut self, mode: AddressMode) {
        match self.ata().map_or(0, |disk| disk.multiple) {
            0 => self.abort(),
            block_sectors => self.read_sectors(mode, block_sectors),
        }
    }

    fn read_sectors(&mut self, mode: AddressMode, block_sectors: u8) {
        let Some(run) = self.checked_run(mode) else { return };
        self.data_in(DataIn {
            buffer: Vec::new(),
            position: 0,
            block_end: 0,
            limit: usize::from(block_sectors) * SECTOR,
            source: Source::Sectors(run),
        });
    }

    fn write_multiple(&mut self, mode: AddressMode, fua: bool) {
        match self.ata().map_or(0, |disk| disk.multiple) {
            0 => self.abort(),
            block_sectors => self.write_sectors(mode, block_sectors, fua),
        }
    }

    fn is_read_only(&mut self) -> bool {
        self.ata().is_none_or(|disk| disk.disk.info().read_only)
    }

    fn write_sectors(&mut self, mode: AddressMode, block_sectors: u8, fua: bool) {
        if self.is_read_only() {
            self.abort();
            return;
        }
        let Some(run) = self.checked_run(mode) else { return };
        self.data_out(
            DataOut {
                buffer: Vec::with_capacity((run.left as usize * SECTOR).min(PIO_BUFFER_BYTES)),
                block_end: 0,
                limit: usize::from(block_sectors) * SECTOR,
                target: Target::Sectors { run, fua },
            },
            false,
        );
    }

    fn dma_sectors(&mut self, mode: AddressMode, write: bool, fua: bool) {
        if write && self.is_read_only() {
            self.abort();
            return;
        }
        let Some(run) = self.checked_run(mode) else { return };
        let work = if write { DmaWork::Write { run, fua } } else { DmaWork::Read(run) };
        self.begin_dma(DmaCommand { len_bytes: u64::from(run.left) * SECTOR as u64, work });
    }

    /// A checked DMA command: it runs when the bus master does.
    pub(super) fn begin_dma(&mut self, command: DmaCommand) {
        self.unit().registers.status = DRDY | DSC | DRQ;
        self.phase = Phase::Dma(command);
        self.try_dma();
    }

    fn verify(&mut self, mode: AddressMode) {
        if let Some(run) = self.checked_run(mode) {
            self.verify_next(run);
        }
    }

    /// Reads the next sectors of `run` and forgets them.
    pub(super) fn verify_next(&mut self, run: SectorRun) {
        let Some(disk) = self.ata().map(|disk| disk.disk.clone()) else { return };
        if run.left == 0 {
            self.set_moved(run.mode, run.next);
            self.finish();
            return;
        }
        let count = run.left.min((PIO_BUFFER_BYTES / SECTOR) as u32);
        let len_bytes = u64::from(count) * SECTOR as u64;
        let buffer = IoBuffer::Host(vec![0; count as usize * SECTOR]);
        self.submit(&disk, Operation::Read, run.next * SECTOR as u64, len_bytes, buffer, Next::Verify(run));
    }

    pub(super) fn flush(&mut self, next: Next) {
        let Some(disk) = self.ata().map(|disk| disk.disk.clone()) else { return };
        self.submit(&disk, Operation::Flush, 0, 0, IoBuffer::None, next);
    }

    fn seek(&mut self) {
        let mode = self.mode(AddressMode::Lba28);
        let device = self.device;
        let Some((geometry, sectors)) = self.ata().map(|disk| (disk.geometry, disk.sectors)) else { return };
        match self.unit().registers.address(mode, device, geometry) {
            Some(sector) if sector < sectors => self.finish(),
            _ => self.end(DRDY | DSC | ERR, IDNF),
        }
    }

    fn native_max(&mut self, mode: AddressMode) {
        let mode = self.mode(mode);
        let Some(disk) = self.ata() else { return };
        let limit = if mode == AddressMode::Lba48 { LBA48_LIMIT } else { LBA28_LIMIT };
        let last = disk.sectors.min(limit).saturating_sub(1);
        self.set_sector_address(mode, last);
        self.finish();
    }

    fn initialize_parameters(&mut self) {
        let heads = (self.device & 0x0f) + 1;
        let sectors = self.unit().registers.count.now;
        if sectors == 0 {
            self.abort();
            return;
        }
        if let Some(disk) = self.ata() {
            disk.geometry = Geometry { heads, sectors };
        }
        self.finish();
    }

    fn set_multiple(&mut self) {
        let count = self.unit().registers.count.now;
        if count > MAX_MULTIPLE || count != 0 && !count.is_power_of_two() {
            self.abort();
            return;
        }
        if let Some(disk) = self.ata() {
            disk.multiple = count;
        }
        self.finish();
    }

    fn identify(&mut self) {
        if let Some(reply) = self.ata().map(|disk| identify::disk(disk)) {
            self.reply(reply.to_vec());
        }
    }

    /// Gives a reply of one block through the data port.
    pub(super) fn reply(&mut self, buffer: Vec<u8>) {
        let limit = buffer.len();
        self.data_in(DataIn { buffer, position: 0, block_end: 0, limit, source: Source::Reply });
    }

    fn set_features(&mut self) {
        let (feature, count) = (self.unit().registers.feature.now, self.unit().registers.count.now);
        let Some(disk) = self.ata() else { return };
        let accepted = match feature {
            0x02 => disk.disk.set_guest_write_cache(true).is_ok(),
            0x82 => {
                self.flush(Next::WriteCacheOff);
                return;
            }
            0x03 => {
                let known = is_transfer_mode(count);
                if known {
                    disk.transfer_mode = count;
                }
                known
            }
            0xaa | 0x55 => {
                disk.look_ahead = feature == 0xaa;
                true
            }
            0x66 | 0xcc => {
                disk.revert = feature == 0xcc;
                true
            }
            // Advanced power management and acoustic management: accepted, with nothing behind them.
            0x05 | 0x85 | 0x42 | 0xc2 => true,
            _ => false,
        };
        if accepted { self.finish() } else { self.abort() }
    }

    fn smart(&mut self) {
        let registers = self.unit().registers;
        if (registers.mid.now, registers.high.now) != (0x4f, 0xc2) {
            self.abort();
            return;
        }
        let Some(disk) = self.ata() else { return };
        match (registers.feature.now, disk.smart) {
            (0xd8, _) => {
                disk.smart = true;
                self.finish();
            }
            (0xd0, true) => self.reply(smart::data().to_vec()),
            (0xd1, true) => self.reply(smart::thresholds().to_vec()),
            (0xd5, true) if registers.low.now == 0 && registers.count.now == 1 => {
                self.reply(smart::log_directory().to_vec());
            }
            // Attribute autosave; off-line routines, which find nothing; and the status, which is good: the
            // registers that say so are left as the guest wrote them.
            (0xd2 | 0xd4 | 0xda, true) => self.finish(),
            (0xd9, true) => {
                disk.smart = false;
                self.finish();
            }
            _ => self.abort(),
        }
    }

    /// DATA SET MANAGEMENT with the TRIM bit: ranges by DMA.
    fn data_set_management(&mut self) {
        const TRIM: u8 = 1;
        let registers = self.unit().registers;
        let blocks = registers.block_count(AddressMode::Lba48);
        let offered = self.ata().is_some_and(|disk| disk.disk.info().discard != DiscardBehavior::Ignored);
        if !offered || registers.feature.now != TRIM || blocks > MAX_TRIM_BLOCKS || self.is_read_only() {
            self.abort();
            return;
        }
        self.begin_dma(DmaCommand { len_bytes: u64::from(blocks) * SECTOR as u64, work: DmaWork::Trim });
    }

    /// Judges a list of ranges, which was read once, and discards them one by one if all are good.
    pub(super) fn trim(&mut self, list: &[u8]) {
        let Some(sectors) = self.ata().map(|disk| disk.sectors) else { return };
        let mut ranges: Vec<(u64, u32)> = Vec::new();
        for entry in list.chunks_exact(8) {
            let [b0, b1, b2, b3, b4, b5, c0, c1] = entry else { continue };
            let first = u64::from_le_bytes([*b0, *b1, *b2, *b3, *b4, *b5, 0, 0]);
            let count = u16::from_le_bytes([*c0, *c1]);
            if count == 0 {
                continue;
            }
            if first + u64::from(count) > sectors {
                self.end(DRDY | DSC | ERR, IDNF);
                return;
            }
            match ranges.last_mut() {
                // Long ranges come as a chain of the longest an entry can hold. All entries together stay below 2^32.
                Some((known, known_count)) if *known + u64::from(*known_count) == first => {
                    *known_count += u32::from(count);
                }
                _ => ranges.push((first, u32::from(count))),
            }
        }
        ranges.reverse();
        self.trim_next(ranges);
    }

    pub(super) fn trim_next(&mut self, mut ranges: Vec<(u64, u32)>) {
        let Some(disk) = self.ata().map(|disk| disk.disk.clone()) else { return };
        let Some((first, count)) = ranges.pop() else {
            self.finish();
            return;
        };
        let (offset_bytes, len_bytes) = (first * SECTOR as u64, u64::from(count) * SECTOR as u64);
        self.submit(&disk, Operation::Discard, offset_bytes, len_bytes, IoBuffer::None, Next::Trimmed { ranges });
    }
}

/// Transfer modes PIIX3 and its drives have: PIO default, PIO with flow control 0 to 4, multiword DMA 0 to 2.
pub(super) fn is_transfer_mode(mode: u8) -> bool {
    matches!(mode, 0x00 | 0x01 | 0x08..=0x0c | 0x20..=0x22)
}
