//! The PIIX3 IDE function: two channels of two units each, bus-master DMA, ATA disks and ATAPI CD-ROM drives
//! (82371SB datasheet; ATA8-ACS; Programming Interface for Bus Master IDE Controller 1.0).
//!
//! ```text
//!   1F0-1F7, 3F6 ─▶ Channel ─ task file ─▶ ata / atapi ─▶ Phase ─▶ Disk::submit ─┐
//!   170-177, 376     │  BAR4 ─▶ BusMaster ─ descriptors ─▶ ScatterList           │
//!                    └─ Wire (IRQ 14 / 15) ◀──── status, INTRQ ◀── complete() ◀──┘
//! ```
//!
//! A command's parameters are taken from the registers when it is written; nothing the guest does later changes them.
//! One command at a time is in progress on a channel, and it is always in one `phase`: none, data through the port,
//! DMA waiting for START, or one disk request out.
//!
//! **Resets and stops with a request out.** A DMA request may write guest memory until it comes back. Stopping the bus
//! master, a software reset, or DEVICE RESET therefore only marks the command as given up: the device stays busy (and
//! the engine active) until the request has come back, and then ends the reset or the command, without an interrupt
//! of the old command. So when a guest sees the device ready again, nothing writes its memory any more. A power-on
//! [`reset`](crate::Device::reset) disowns the request at once; the board drains the disks before it.
//!
//! **Coalesced writes.** [`COALESCED_PORTS`] and the bus master's table registers only latch, or gather data, so a
//! hypervisor may collect writes to them and hand them over before any other access. Data for a block may then wait in
//! the ring while the guest halts for the interrupt of it; the controller asks to be polled for that case, and the
//! board drains the ring before it polls.

mod ata;
mod atapi;
mod bmdma;
mod channel;
mod dma;
mod identify;
mod phase;
mod pio;
mod smart;
mod state;
mod stats;
mod taskfile;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use benchtop_block::{Completed, CompletionSink, Disk};
use benchtop_memory::GuestMemory;

pub use self::stats::UnitStats;

use self::ata::AtaDisk;
use self::atapi::AtapiDrive;
use self::channel::{Channel, Drive};
use crate::pci::config::{self, ConfigSpace, PciIdentity};
use crate::scsi::cdrom::{CdDrive, TrayLocked};
use crate::{BarMapping, Device, PciFunction, Poll, PortIo, PortRange, RestoreError, SavedState, VirtualClock, Wire};

/// The fixed ports of both channels.
pub const PORTS: [PortRange; 4] = [
    PortRange { first: 0x1f0, count: 8 },
    PortRange { first: 0x3f6, count: 1 },
    PortRange { first: 0x170, count: 8 },
    PortRange { first: 0x376, count: 1 },
];

/// Ports whose writes may be gathered: data, and the registers that only latch. Never command and control.
pub const COALESCED_PORTS: [PortRange; 2] =
    [PortRange { first: 0x1f0, count: 7 }, PortRange { first: 0x170, count: 7 }];

const COMMAND_BASE: [u16; 2] = [0x1f0, 0x170];
const CONTROL_PORT: [u16; 2] = [0x3f6, 0x376];
const BUS_MASTER_BAR: u8 = 4;
const BUS_MASTER_BYTES: u32 = 16;
/// IDE timing, one register for each channel; bit 15 enables its decode. Firmware sets it and drivers look at it.
const IDETIM: u8 = 0x40;
/// Slave timing.
const SIDETIM: u8 = 0x44;

/// What IDENTIFY says a unit is. Text is cut or padded to the field, and characters other than printable ASCII are
/// left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AtaIdentity {
    /// Model, at most 40 characters.
    pub model: String,
    /// Serial number, at most 20 characters, unique in the machine.
    pub serial: String,
    /// Firmware revision, at most 8 characters.
    pub firmware: String,
    /// World-wide name, for disks.
    pub wwn: Option<u64>,
}

/// A completion nobody waits for.
#[derive(Debug)]
struct NoSink;

impl CompletionSink for NoSink {
    fn complete(&self, completed: Completed) {
        drop(completed);
    }
}

/// What a port of the function is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Register {
    Data,
    /// Command block, 1 to 7.
    Command(u8),
    Control,
    /// Bus master, 0 to 7.
    BusMaster(u8),
}

/// The IDE function.
#[derive(Debug)]
pub struct IdeController {
    config: ConfigSpace,
    channels: [Channel; 2],
}

impl IdeController {
    /// A controller with no units. `wires` are IRQ 14 and 15 (ISA, rising edge).
    pub fn new(memory: GuestMemory, wires: [Wire; 2], clock: VirtualClock) -> Self {
        let mut config = ConfigSpace::new(PciIdentity {
            vendor: 0x8086,
            device: 0x7010,
            class: 0x01_0180,
            revision: 0,
            subsystem_vendor: 0x1af4,
            subsystem: 0x1100,
        });
        // Fast back-to-back capable, medium DEVSEL timing.
        config.preset_u16(config::STATUS, 0x0280);
        config.add_io_bar(BUS_MASTER_BAR, BUS_MASTER_BYTES);
        config.allow_write(IDETIM, &[0xff; 4]);
        config.allow_write(SIDETIM, &[0xff]);
        let sink: Arc<dyn CompletionSink> = Arc::new(NoSink);
        let [primary, secondary] = wires;
        Self {
            config,
            channels: [
                Channel::new(0, memory.clone(), sink.clone(), clock.clone(), primary),
                Channel::new(1, memory, sink, clock, secondary),
            ],
        }
    }

    /// Where completions of requests that could not be served at once come from: the sink is to call
    /// [`Device::complete`] of this device.
    pub fn set_sink(&mut self, sink: Arc<dyn CompletionSink>) {
        for channel in &mut self.channels {
            channel.sink = sink.clone();
        }
    }

    /// Attaches a hard disk. Done before the machine starts; `channel` and `unit` are 0 or 1, others are ignored.
    pub fn attach_disk(&mut self, channel: usize, unit: usize, disk: Disk, identity: AtaIdentity) {
        self.attach(channel, unit, Drive::Disk(Box::new(AtaDisk::new(disk, identity))));
    }

    /// Attaches a CD-ROM drive.
    pub fn attach_cd(&mut self, channel: usize, unit: usize, drive: CdDrive, identity: AtaIdentity) {
        self.attach(channel, unit, Drive::Cd(Box::new(AtapiDrive::new(drive, identity))));
    }

    fn attach(&mut self, channel: usize, unit: usize, drive: Drive) {
        if let Some(channel) = self.channels.get_mut(channel)
            && let Some(place) = channel.units.get_mut(unit)
        {
            place.drive = Some(drive);
            for unit in 0..2 {
                channel.set_signature(unit);
            }
        }
    }

    fn cd_mut(&mut self, channel: usize, unit: usize) -> Option<&mut CdDrive> {
        match &mut self.channels.get_mut(channel)?.units.get_mut(unit)?.drive {
            Some(Drive::Cd(drive)) => Some(&mut drive.drive),
            _ => None,
        }
    }

    /// The CD-ROM drive at a place, if one is there.
    pub fn cd(&self, channel: usize, unit: usize) -> Option<&CdDrive> {
        match &self.channels.get(channel)?.units.get(unit)?.drive {
            Some(Drive::Cd(drive)) => Some(&drive.drive),
            _ => None,
        }
    }

    /// Puts a disc into a drive; see [`CdDrive::insert`]. Gives back the disc that was in it. Without a drive there,
    /// the disc itself comes back.
    ///
    /// # Errors
    /// [`TrayLocked`].
    pub fn cd_insert(&mut self, channel: usize, unit: usize, medium: Disk) -> Result<Option<Disk>, TrayLocked> {
        match self.cd_mut(channel, unit) {
            Some(drive) => drive.insert(medium),
            None => Ok(Some(medium)),
        }
    }

    /// Takes the disc out of a drive; see [`CdDrive::eject`].
    ///
    /// # Errors
    /// [`TrayLocked`].
    pub fn cd_eject(&mut self, channel: usize, unit: usize, force: bool) -> Result<Option<Disk>, TrayLocked> {
        self.cd_mut(channel, unit).map_or(Ok(None), |drive| drive.eject(force))
    }

    /// Counters of a place, whether a unit is attached there or not.
    pub fn stats(&self, channel: usize, unit: usize) -> UnitStats {
        self.channels
            .get(channel)
            .and_then(|channel| channel.units.get(unit))
            .map_or_else(UnitStats::default, |u| u.stats)
    }

    /// Whether a disk request of a channel is out: while one is, the state can not be saved.
    pub fn is_busy(&self) -> bool {
        self.channels.iter().any(|channel| matches!(channel.phase, phase::Phase::Busy { .. }))
    }

    fn bus_master_base(&self) -> Option<u16> {
        u16::try_from(self.config.bar(BUS_MASTER_BAR)?.base).ok()
    }

    /// The channel and register at a port.
    fn decode(&self, port: u16) -> Option<(usize, Register)> {
        for channel in 0..2 {
            match port.checked_sub(COMMAND_BASE[channel]) {
                Some(0) => return Some((channel, Register::Data)),
                // Below 8.
                Some(register @ 1..=7) => return Some((channel, Register::Command(register as u8))),
                _ if port == CONTROL_PORT[channel] => return Some((channel, Register::Control)),
                _ => {}
            }
        }
        match port.checked_sub(self.bus_master_base()?)? {
            // Below 16.
            offset @ 0..16 => Some((usize::from(offset >= 8), Register::BusMaster((offset % 8) as u8))),
            _ => None,
        }
    }

    fn write_bytes(&mut self, port: u16, data: &[u8]) -> Option<usize> {
        let (first, register) = self.decode(port)?;
        if register == Register::Data {
            // A byte is half a word, and the other half is not known: it is dropped.
            if data.len() > 1 {
                self.channels[first].write_data(data);
            }
            return Some(first);
        }
        for (port, value) in (port..=u16::MAX).zip(data) {
            match self.decode(port) {
                Some((channel, Register::Command(register))) => self.channels[channel].write(register, *value),
                Some((channel, Register::Control)) => self.channels[channel].write_control(*value),
                Some((channel, Register::BusMaster(offset))) => {
                    self.channels[channel].write_bus_master(offset, *value);
                }
                Some((_, Register::Data)) | None => {}
            }
        }
        Some(first)
    }

    fn read_bytes(&mut self, port: u16, data: &mut [u8]) -> Option<usize> {
        let (first, register) = self.decode(port)?;
        if register == Register::Data {
            match data {
                [byte] => *byte = self.channels[first].read_data_byte(),
                words => self.channels[first].read_data(words),
            }
            return Some(first);
        }
        for (port, value) in (port..=u16::MAX).zip(data) {
            match self.decode(port) {
                Some((channel, Register::Command(register))) => *value = self.channels[channel].read(register),
                Some((channel, Register::Control)) => *value = self.channels[channel].read_alternate(),
                Some((channel, Register::BusMaster(offset))) => *value = self.channels[channel].read_bus_master(offset),
                Some((_, Register::Data)) | None => {}
            }
        }
        Some(first)
    }

    fn count(&mut self, channel: Option<usize>, counter: impl FnOnce(&mut UnitStats) -> &mut u64) {
        if let Some(channel) = channel {
            let stats = &mut self.channels[channel].unit().stats;
            *counter(stats) += 1;
        }
    }
}

impl PortIo for IdeController {
    fn port_read(&mut self, port: u16, data: &mut [u8]) {
        let channel = self.read_bytes(port, data);
        self.count(channel, |stats| &mut stats.pio_read);
    }

    fn port_write(&mut self, port: u16, data: &[u8]) {
        let channel = self.write_bytes(port, data);
        self.count(channel, |stats| &mut stats.pio_write);
    }

    fn port_read_string(&mut self, port: u16, width: usize, data: &mut [u8]) {
        let channel = match self.decode(port) {
            Some((channel, Register::Data)) if width > 1 => {
                self.channels[channel].read_data(data);
                Some(channel)
            }
            _ => data.chunks_exact_mut(width.max(1)).fold(None, |_, element| self.read_bytes(port, element)),
        };
        self.count(channel, |stats| &mut stats.pio_read);
    }

    fn port_write_string(&mut self, port: u16, width: usize, data: &[u8]) {
        let channel = match self.decode(port) {
            Some((channel, Register::Data)) if width > 1 => {
                self.channels[channel].write_data(data);
                Some(channel)
            }
            _ => data.chunks_exact(width.max(1)).fold(None, |_, element| self.write_bytes(port, element)),
        };
        self.count(channel, |stats| &mut stats.pio_write);
    }

    fn port_write_coalesced(&mut self, port: u16, data: &[u8]) {
        let channel = self.write_bytes(port, data);
        self.count(channel, |stats| &mut stats.coalesced);
    }
}

impl PciFunction for IdeController {
    fn config_read(&mut self, offset: u8) -> u32 {
        self.config.read(offset)
    }

    fn config_write(&mut self, offset: u8, value: u32, byte_mask: u32) {
        self.config.write(offset, value, byte_mask);
        let may_master = self.config.bus_master_enabled();
        for channel in &mut self.channels {
            channel.set_may_master(may_master);
        }
    }

    fn bars(&self) -> Vec<BarMapping> {
        self.config.bars()
    }

    /// The descriptor table addresses of the bus master.
    fn latched_ports(&self) -> Vec<PortRange> {
        let base = self.bus_master_base();
        base.into_iter()
            .flat_map(|base| [4, 12].map(|offset| PortRange { first: base.saturating_add(offset), count: 4 }))
            .collect()
    }
}

impl Poll for IdeController {
    fn deadline_ns(&self) -> Option<u64> {
        self.channels.iter().filter_map(Channel::deadline_ns).min()
    }

    fn poll(&mut self, now_ns: u64) {
        for channel in &mut self.channels {
            channel.poll(now_ns);
        }
    }
}

impl Device for IdeController {
    fn reset(&mut self) {
        self.config.reset();
        for channel in &mut self.channels {
            channel.reset();
        }
    }

    fn save(&self) -> SavedState {
        state::save(self)
    }

    fn restore(&mut self, state: &SavedState) -> Result<(), RestoreError> {
        state::restore(self, state)
    }

    fn port_io(&mut self) -> Option<&mut dyn PortIo> {
        Some(self)
    }

    fn pci(&mut self) -> Option<&mut dyn PciFunction> {
        Some(self)
    }

    fn poll(&mut self) -> Option<&mut dyn Poll> {
        Some(self)
    }

    fn complete(&mut self, completed: Completed) {
        // The channel is in the token's lowest bit.
        let channel = usize::from(completed.token & 1 != 0);
        self.channels[channel].complete(completed);
    }
}
