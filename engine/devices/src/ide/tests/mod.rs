//! A small driver that speaks to the controller as firmware and kernels do, and the disks it is tried on.

mod cd;
mod disk;
mod dma;
mod hostile;
mod reset;
mod saved;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use benchtop_block::{
    BlockError, BlockErrorKind, CacheMode, Completed, CompletionSink, DiscardBehavior, Disk, DiskBackend, DiskInfo,
    DiskOptions,
};
use benchtop_memory::{Gpa, GuestMemory, VolatileSlice};
use parking_lot::{Condvar, Mutex};

use super::{AtaIdentity, IdeController};
use crate::scsi::cdrom::{CdDrive, CdTransport};
use crate::{Device, PciFunction, PortIo, VirtualClock, Wire, WireProbe};

/// What the backend was asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    Read(u64, u64),
    Write(u64, u64, bool),
    Flush,
    Discard(u64, u64),
}

/// A sparse disk of any size, which can fail and can be held up.
pub(super) struct SparseDisk {
    info: Mutex<DiskInfo>,
    sectors: Mutex<BTreeMap<u64, [u8; 512]>>,
    pub asked: Mutex<Vec<Asked>>,
    /// Sectors that can not be read.
    pub bad: Mutex<Vec<u64>>,
    pub fail_writes: AtomicBool,
    pub fail_flush: AtomicBool,
    held: Mutex<bool>,
    released: Condvar,
    waiting: AtomicU64,
}

impl SparseDisk {
    pub fn new(sectors: u64) -> Arc<Self> {
        Arc::new(Self {
            info: Mutex::new(DiskInfo {
                size_bytes: sectors * 512,
                logical_block_bytes: 512,
                physical_block_bytes: 4096,
                read_only: false,
                discard: DiscardBehavior::Zeroes,
                format: "memory",
            }),
            sectors: Mutex::default(),
            asked: Mutex::default(),
            bad: Mutex::default(),
            fail_writes: AtomicBool::new(false),
            fail_flush: AtomicBool::new(false),
            held: Mutex::new(false),
            released: Condvar::new(),
            waiting: AtomicU64::new(0),
        })
    }

    pub fn change_info(&self, change: impl FnOnce(&mut DiskInfo)) {
        change(&mut self.info.lock());
    }

    pub fn sector(&self, number: u64) -> [u8; 512] {
        self.sectors.lock().get(&number).copied().unwrap_or([0; 512])
    }

    pub fn set_sector(&self, number: u64, data: [u8; 512]) {
        self.sectors.lock().insert(number, data);
    }

    pub fn fill(&self, first: u64, count: u64) {
        for number in first..first + count {
            self.set_sector(number, pattern(number));
        }
    }

    /// Requests wait until [`release`](Self::release).
    pub fn hold(&self) {
        *self.held.lock() = true;
    }

    pub fn release(&self) {
        *self.held.lock() = false;
        self.released.notify_all();
    }

    pub fn take_asked(&self) -> Vec<Asked> {
        std::mem::take(&mut self.asked.lock())
    }

    fn note(&self, asked: Asked) {
        self.asked.lock().push(asked);
        self.waiting.fetch_add(1, Ordering::SeqCst);
        let mut held = self.held.lock();
        while *held {
            self.released.wait(&mut held);
        }
    }
}

impl DiskBackend for SparseDisk {
    fn info(&self) -> DiskInfo {
        self.info.lock().clone()
    }

    fn read_at(&self, offset_bytes: u64, into: &[VolatileSlice<'_>]) -> Result<(), BlockError> {
        let len_bytes: u64 = into.iter().map(|slice| slice.len() as u64).sum();
        self.note(Asked::Read(offset_bytes / 512, len_bytes / 512));
        let mut bytes = Vec::new();
        for number in offset_bytes / 512..(offset_bytes + len_bytes) / 512 {
            if self.bad.lock().contains(&number) {
                return Err(BlockError::new(BlockErrorKind::Io, "bad sector"));
            }
            bytes.extend(self.sector(number));
        }
        let mut at = 0;
        for slice in into {
            slice.copy_from(&bytes[at..at + slice.len()]);
            at += slice.len();
        }
        Ok(())
    }

    fn write_at(&self, offset_bytes: u64, from: &[VolatileSlice<'_>], fua: bool) -> Result<(), BlockError> {
        let mut bytes = Vec::new();
        for slice in from {
            let mut piece = vec![0u8; slice.len()];
            slice.copy_to(&mut piece);
            bytes.extend(piece);
        }
        self.note(Asked::Write(offset_bytes / 512, bytes.len() as u64 / 512, fua));
        if self.fail_writes.load(Ordering::SeqCst) {
            return Err(BlockError::new(BlockErrorKind::Io, "no writes"));
        }
        for (number, data) in (offset_bytes / 512..).zip(bytes.chunks_exact(512)) {
            self.set_sector(number, data.try_into().unwrap());
        }
        Ok(())
    }

    fn flush(&self) -> Result<(), BlockError> {
        self.note(Asked::Flush);
        match self.fail_flush.load(Ordering::SeqCst) {
            true => Err(BlockError::new(BlockErrorKind::Io, "no flush")),
            false => Ok(()),
        }
    }

    fn discard(&self, offset_bytes: u64, len_bytes: u64) -> Result<(), BlockError> {
        self.note(Asked::Discard(offset_bytes / 512, len_bytes / 512));
        for number in offset_bytes / 512..(offset_bytes + len_bytes) / 512 {
            self.sectors.lock().remove(&number);
        }
        Ok(())
    }
}

/// What sector `number` holds where a test filled it: never zero.
pub(super) fn pattern(number: u64) -> [u8; 512] {
    std::array::from_fn(|i| ((number * 131 + i as u64 * 7) % 251) as u8 + 1)
}

/// Keeps completions until the test delivers them.
#[derive(Debug, Default)]
pub(super) struct Mailbox {
    arrived: Mutex<Vec<Completed>>,
    changed: Condvar,
}

impl CompletionSink for Mailbox {
    fn complete(&self, completed: Completed) {
        self.arrived.lock().push(completed);
        self.changed.notify_all();
    }
}

pub(super) struct Machine {
    pub ide: IdeController,
    pub memory: GuestMemory,
    pub wires: [Arc<WireProbe>; 2],
    pub mailbox: Arc<Mailbox>,
    pub clock: VirtualClock,
}

pub(super) const BM: u16 = 0xc000;
pub(super) const RAM_BYTES: u64 = 4 << 20;
const PRDS: u32 = 0x1000;

impl Machine {
    pub fn new() -> Self {
        let memory = GuestMemory::new(&[(0, RAM_BYTES)]).unwrap();
        let (first, first_probe) = Wire::probe();
        let (second, second_probe) = Wire::probe();
        let clock = VirtualClock::stopped();
        let mut ide = IdeController::new(memory.clone(), [first, second], clock.clone());
        let mailbox = Arc::new(Mailbox::default());
        ide.set_sink(mailbox.clone());
        ide.config_write(0x20, u32::from(BM) | 1, u32::MAX);
        ide.config_write(0x04, 0x0005, 0xffff);
        Self { ide, memory, wires: [first_probe, second_probe], mailbox, clock }
    }

    pub fn with_disk(sectors: u64) -> (Self, Arc<SparseDisk>) {
        Self::with_cache(sectors, CacheMode::Writethrough, true)
    }

    pub fn with_cache(sectors: u64, cache: CacheMode, inline: bool) -> (Self, Arc<SparseDisk>) {
        let backend = SparseDisk::new(sectors);
        let mut machine = Self::new();
        let disk = Disk::new(backend.clone(), DiskOptions { cache, inline });
        machine.ide.attach_disk(0, 0, disk, identity());
        (machine, backend)
    }

    /// A CD-ROM drive as secondary master with a disc of `blocks` blocks.
    pub fn with_cd(blocks: u64) -> (Self, Arc<SparseDisk>) {
        let (mut machine, disk) = (Self::new(), SparseDisk::new(blocks * 4));
        disk.fill(0, (blocks * 4).min(512));
        let drive = CdDrive::new(CdTransport::Atapi, "CD0001", Some(Disk::inline(disk.clone())));
        machine.ide.attach_cd(1, 0, drive, identity());
        (machine, disk)
    }

    pub fn inb(&mut self, port: u16) -> u8 {
        let mut data = [0xff];
        self.ide.port_read(port, &mut data);
        data[0]
    }

    pub fn outb(&mut self, port: u16, value: u8) {
        self.ide.port_write(port, &[value]);
    }

    pub fn outl(&mut self, port: u16, value: u32) {
        self.ide.port_write(port, &value.to_le_bytes());
    }

    /// REP INS.
    pub fn ins(&mut self, port: u16, width: usize, len_bytes: usize) -> Vec<u8> {
        let mut data = vec![0xff; len_bytes];
        self.ide.port_read_string(port, width, &mut data);
        data
    }

    pub fn status(&mut self) -> u8 {
        self.inb(0x1f7)
    }

    /// A 28-bit command on the primary master.
    pub fn command28(&mut self, lba: u32, count: u8, code: u8) {
        self.outb(0x1f2, count);
        let [b0, b1, b2, b3] = lba.to_le_bytes();
        self.outb(0x1f3, b0);
        self.outb(0x1f4, b1);
        self.outb(0x1f5, b2);
        self.outb(0x1f6, 0xe0 | b3);
        self.outb(0x1f7, code);
    }

    /// A 48-bit command on the primary master.
    pub fn command48(&mut self, lba: u64, count: u16, code: u8) {
        let [b0, b1, b2, b3, b4, b5, ..] = lba.to_le_bytes();
        let [c0, c1] = count.to_le_bytes();
        for (register, value) in [(2, c1), (3, b3), (4, b4), (5, b5), (2, c0), (3, b0), (4, b1), (5, b2)] {
            self.outb(0x1f0 + register, value);
        }
        self.outb(0x1f6, 0xe0);
        self.outb(0x1f7, code);
    }

    /// Writes descriptors of (address, length in bytes) and points the primary engine at them.
    pub fn set_prds(&mut self, regions: &[(u32, u32)]) {
        for (index, (address, len_bytes)) in regions.iter().enumerate() {
            let end = if index + 1 == regions.len() { 0x8000_0000 } else { 0u32 };
            let mut entry = address.to_le_bytes().to_vec();
            entry.extend(((len_bytes & 0xffff) | end).to_le_bytes());
            self.memory.write(Gpa(u64::from(PRDS) + 8 * index as u64), &entry).unwrap();
        }
        self.outl(BM + 4, PRDS);
    }

    pub fn start_dma(&mut self, to_memory: bool) {
        self.outb(BM + 2, 0x06);
        let direction = if to_memory { 8 } else { 0 };
        self.outb(BM, direction);
        self.outb(BM, direction | 1);
    }

    /// Status of the primary engine, then stops it.
    pub fn stop_dma(&mut self) -> u8 {
        let status = self.inb(BM + 2);
        self.outb(BM, 0);
        self.outb(BM + 2, 0x06);
        status
    }

    pub fn guest_bytes(&self, at: u64, len_bytes: usize) -> Vec<u8> {
        let mut data = vec![0; len_bytes];
        self.memory.read(Gpa(at), &mut data).unwrap();
        data
    }

    /// Waits for `count` completions and delivers them.
    pub fn deliver(&mut self, count: usize) {
        let mut arrived = self.mailbox.arrived.lock();
        while arrived.len() < count {
            let timeout = std::time::Duration::from_secs(20);
            assert!(!self.mailbox.changed.wait_for(&mut arrived, timeout).timed_out(), "no completion");
        }
        let completed = std::mem::take(&mut *arrived);
        drop(arrived);
        for completed in completed {
            self.ide.complete(completed);
        }
    }

    /// Reads sectors by PIO the way SeaBIOS does, one block at a time with the status in between.
    pub fn pio_read(&mut self, code: u8, lba: u64, count: u32, block_sectors: u32) -> Vec<u8> {
        if matches!(code, 0x24 | 0x29) {
            self.command48(lba, (count & 0xffff) as u16, code);
        } else {
            self.command28(lba as u32, (count & 0xff) as u8, code);
        }
        let mut data = Vec::new();
        while (data.len() as u32) < count * 512 {
            assert_eq!(self.inb(0x3f6) & 0x89, 0x08, "BSY, DRQ, ERR");
            let left = count - data.len() as u32 / 512;
            data.extend(self.ins(0x1f0, 4, left.min(block_sectors) as usize * 512));
        }
        assert_eq!(self.status(), 0x50);
        data
    }

    /// A packet command by PIO on the secondary master. Gives the data blocks, or the error register.
    pub fn packet(&mut self, cdb: &[u8], limit: u16) -> Result<Vec<Vec<u8>>, u8> {
        self.outb(0x176, 0xa0);
        self.outb(0x171, 0);
        let [low, high] = limit.to_le_bytes();
        self.outb(0x174, low);
        self.outb(0x175, high);
        self.outb(0x177, 0xa0);
        assert_eq!(self.inb(0x177) & 0x89, 0x08);
        assert_eq!(self.inb(0x172) & 3, 1);
        let mut packet = [0; 12];
        packet[..cdb.len()].copy_from_slice(cdb);
        self.ide.port_write_string(0x170, 2, &packet);
        let mut blocks = Vec::new();
        loop {
            let status = self.inb(0x177);
            assert_eq!(status & 0x80, 0);
            if status & 1 != 0 {
                return Err(self.inb(0x171));
            }
            if status & 8 == 0 {
                assert_eq!(self.inb(0x172) & 3, 3);
                return Ok(blocks);
            }
            assert_eq!(self.inb(0x172) & 3, 2);
            let len_bytes = usize::from(self.inb(0x174)) | usize::from(self.inb(0x175)) << 8;
            assert!(len_bytes > 0);
            let mut block = self.ins(0x170, 2, len_bytes.next_multiple_of(2));
            block.truncate(len_bytes);
            blocks.push(block);
        }
    }

    /// Sense key, code and qualifier by REQUEST SENSE.
    pub fn sense(&mut self) -> (u8, u8, u8) {
        let data = self.packet(&[0x03, 0, 0, 0, 18], 18).unwrap().concat();
        (data[2], data[12], data[13])
    }
}

pub(super) fn identity() -> AtaIdentity {
    AtaIdentity {
        model: "Benchtop Disk".into(),
        serial: "BT0001".into(),
        firmware: "1.0".into(),
        wwn: Some(0x5000_0000_1234_5678),
    }
}
