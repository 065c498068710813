//! One IDE channel: two units, their registers, the interrupt line, resets, and the disk request in flight.

use std::sync::Arc;

use benchtop_block::{Completed, CompletionSink, Disk, Operation, Request, Submission};
use benchtop_memory::{GuestMemory, IoBuffer};

use super::ata::AtaDisk;
use super::atapi::AtapiDrive;
use super::bmdma::{BusMaster, BusMasterAction, STATUS_ACTIVE, STATUS_INTERRUPT};
use super::phase::{Cancel, Next, Phase};
use super::stats::UnitStats;
use super::taskfile::{
    ABRT, BSY, CONTROL_HOB, CONTROL_NIEN, CONTROL_SRST, DEVICE_FIXED, DEVICE_SECOND, DRDY, DRQ, DSC, ERR, Registers,
};
use crate::{VirtualClock, Wire};

/// First look at a data-out block that is not filled: the rest may wait in the coalescing ring.
const GATHER_FIRST_NS: u64 = 1_000_000;
/// The looks get rarer down to this, for a guest that has gone away.
const GATHER_LAST_NS: u64 = 64_000_000;

/// What is attached as a unit.
#[derive(Debug)]
pub(super) enum Drive {
    Disk(Box<AtaDisk>),
    Cd(Box<AtapiDrive>),
}

/// One of the two places on a channel, attached or not. Registers exist either way: writes go to both.
#[derive(Debug, Default)]
pub(super) struct Unit {
    pub drive: Option<Drive>,
    pub registers: Registers,
    /// INTRQ is pending; the line shows it while the unit is selected and interrupts are not disabled.
    pub interrupt: bool,
    pub stats: UnitStats,
}

/// One channel.
#[derive(Debug)]
pub(super) struct Channel {
    index: u8,
    pub(super) memory: GuestMemory,
    pub(super) sink: Arc<dyn CompletionSink>,
    clock: VirtualClock,
    wire: Wire,
    pub(super) units: [Unit; 2],
    pub(super) device: u8,
    pub(super) control: u8,
    pub(super) bus_master: BusMaster,
    /// The PCI command register lets the function master the bus.
    pub(super) may_master: bool,
    pub(super) phase: Phase,
    /// SRST was set and the reset is not over.
    pub(super) resetting: bool,
    line: bool,
    sequence: u64,
    /// A request that was done at once, to be followed up before the access ends.
    ready: Option<Completed>,
    /// When to look again at a data-out block, and the wait after that.
    gather: Option<(u64, u64)>,
}

impl Channel {
    pub(super) fn new(
        index: u8,
        memory: GuestMemory,
        sink: Arc<dyn CompletionSink>,
        clock: VirtualClock,
        wire: Wire,
    ) -> Self {
        Self {
            index,
            memory,
            sink,
            clock,
            wire,
            units: Default::default(),
            device: DEVICE_FIXED,
            control: 0,
            bus_master: BusMaster::default(),
            may_master: false,
            phase: Phase::Idle,
            resetting: false,
            line: false,
            sequence: 0,
            ready: None,
            gather: None,
        }
    }

    /// Number of the selected unit.
    pub(super) fn selected(&self) -> usize {
        usize::from(self.device & DEVICE_SECOND != 0)
    }

    pub(super) fn unit(&mut self) -> &mut Unit {
        &mut self.units[usize::from(self.device & DEVICE_SECOND != 0)]
    }

    /// The selected unit's disk; `None` for anything else.
    pub(super) fn ata(&mut self) -> Option<&mut AtaDisk> {
        match &mut self.unit().drive {
            Some(Drive::Disk(disk)) => Some(disk),
            _ => None,
        }
    }

    /// The selected unit's CD-ROM drive; `None` for anything else.
    pub(super) fn atapi(&mut self) -> Option<&mut AtapiDrive> {
        match &mut self.unit().drive {
            Some(Drive::Cd(drive)) => Some(drive),
            _ => None,
        }
    }

    fn is_empty(&self) -> bool {
        self.units.iter().all(|unit| unit.drive.is_none())
    }

    fn status(&self) -> u8 {
        if self.units[self.selected()].drive.is_none() {
            0
        } else if self.resetting {
            BSY
        } else {
            self.units[self.selected()].registers.status
        }
    }

    /// Whether the registers are the device's now, so that writes to them are ignored.
    fn is_occupied(&self) -> bool {
        self.resetting || !matches!(self.phase, Phase::Idle)
    }

    /// Reads a command block register, 1 to 7. An empty channel reads 0 everywhere.
    pub(super) fn read(&mut self, register: u8) -> u8 {
        if self.is_empty() {
            return 0;
        }
        let hob = self.control & CONTROL_HOB != 0;
        let absent = self.unit().drive.is_none();
        let registers = &self.units[self.selected()].registers;
        match register {
            1 if absent => 0,
            1 if hob => registers.feature.previous,
            1 => registers.error,
            2 => registers.count.read(hob),
            3 => registers.low.read(hob),
            4 => registers.mid.read(hob),
            5 => registers.high.read(hob),
            6 => self.device,
            7 => {
                let status = self.status();
                self.unit().interrupt = false;
                self.update_line();
                status
            }
            _ => 0xff,
        }
    }

    /// Reads the alternate status: no effect on the interrupt.
    pub(super) fn read_alternate(&self) -> u8 {
        self.status()
    }

    /// Writes a command block register, 1 to 7.
    pub(super) fn write(&mut self, register: u8, value: u8) {
        if register == 7 {
            self.write_command(value);
            return;
        }
        self.control &= !CONTROL_HOB;
        if self.is_occupied() {
            return;
        }
        if register == 6 {
            self.device = value | DEVICE_FIXED;
            self.update_line();
            return;
        }
        for unit in &mut self.units {
            let registers = &mut unit.registers;
            match register {
                1 => registers.feature.push(value),
                2 => registers.count.push(value),
                3 => registers.low.push(value),
                4 => registers.mid.push(value),
                5 => registers.high.push(value),
                _ => {}
            }
        }
    }

    fn write_command(&mut self, code: u8) {
        const DEVICE_RESET: u8 = 0x08;
        const DIAGNOSTIC: u8 = 0x90;
        self.control &= !CONTROL_HOB;
        if self.resetting {
            return;
        }
        if code == DIAGNOSTIC && !self.is_occupied() && !self.is_empty() {
            self.unit().stats.commands += 1;
            self.diagnostic();
            return;
        }
        if self.unit().drive.is_none() {
            return;
        }
        if code == DEVICE_RESET && self.atapi().is_some() {
            self.unit().stats.commands += 1;
            self.clear_interrupt();
            let unit = self.selected();
            self.cancel(Cancel::DeviceReset(unit));
            return;
        }
        if self.is_occupied() {
            return;
        }
        self.unit().stats.commands += 1;
        self.clear_interrupt();
        self.unit().registers.error = 0;
        match &self.unit().drive {
            Some(Drive::Disk(_)) => self.ata_command(code),
            Some(Drive::Cd(_)) => self.atapi_command(code),
            None => {}
        }
        self.pump();
    }

    /// Writes the device control register.
    pub(super) fn write_control(&mut self, value: u8) {
        let was = std::mem::replace(&mut self.control, value & (CONTROL_HOB | CONTROL_SRST | CONTROL_NIEN));
        match (was & CONTROL_SRST != 0, value & CONTROL_SRST != 0) {
            (false, true) => {
                self.resetting = true;
                for unit in &mut self.units {
                    unit.interrupt = false;
                }
                self.cancel(Cancel::SoftReset);
            }
            (true, false) => self.end_soft_reset(),
            _ => {}
        }
        self.update_line();
    }

    /// Reads a bus master register, 0 to 7.
    pub(super) fn read_bus_master(&self, offset: u8) -> u8 {
        self.bus_master.read(offset)
    }

    /// Writes a bus master register.
    pub(super) fn write_bus_master(&mut self, offset: u8, value: u8) {
        match self.bus_master.write(offset, value) {
            BusMasterAction::None => {}
            BusMasterAction::Started => {
                self.try_dma();
                self.pump();
            }
            BusMasterAction::Stopped => self.stop_dma(),
        }
    }

    /// The PCI command register changed.
    pub(super) fn set_may_master(&mut self, may_master: bool) {
        let was = std::mem::replace(&mut self.may_master, may_master);
        if was && !may_master {
            self.stop_dma();
        } else if may_master && !was {
            self.try_dma();
            self.pump();
        }
    }

    /// The engine stops. A request already out may still write memory, so the engine shows itself active until that
    /// has come back, and the command ends aborted then, without an interrupt.
    fn stop_dma(&mut self) {
        match &self.phase {
            Phase::Busy {
                next: Next::Moved { .. } | Next::DiscMoved { .. } | Next::DiscChunk { .. } | Next::Cancelled(_),
                ..
            } => self.cancel(Cancel::DmaStop),
            _ => self.bus_master.status &= !STATUS_ACTIVE,
        }
    }

    /// Gives up the command in progress. Where its request is out, the rest follows when that comes back: until then
    /// the device is busy. A weightier reason replaces a lighter one.
    fn cancel(&mut self, why: Cancel) {
        match &mut self.phase {
            Phase::Busy { next: Next::Cancelled(known), .. } => *known = (*known).max(why),
            Phase::Busy { next, .. } => {
                *next = Next::Cancelled(why);
                self.unit().registers.status = BSY;
            }
            _ => {
                self.phase = Phase::Idle;
                self.gather = None;
                self.cancelled(why);
            }
        }
    }

    /// Nothing is out any more of a command that was given up.
    pub(super) fn cancelled(&mut self, why: Cancel) {
        self.bus_master.status &= !STATUS_ACTIVE;
        match why {
            Cancel::DmaStop => {
                let registers = &mut self.unit().registers;
                (registers.status, registers.error) = (DRDY | DSC | ERR, ABRT);
            }
            Cancel::DeviceReset(unit) => {
                self.bus_master.armed = false;
                self.set_signature(unit);
            }
            Cancel::SoftReset => {
                for unit in &mut self.units {
                    unit.registers.status = 0;
                }
                self.end_soft_reset();
            }
        }
    }

    /// Ends the software reset, once SRST is clear and no request is out.
    fn end_soft_reset(&mut self) {
        if !self.resetting || self.control & CONTROL_SRST != 0 || matches!(self.phase, Phase::Busy { .. }) {
            return;
        }
        self.resetting = false;
        self.phase = Phase::Idle;
        self.gather = None;
        self.bus_master.armed = false;
        self.device = DEVICE_FIXED;
        for unit in 0..2 {
            self.set_signature(unit);
            match &mut self.units[unit].drive {
                Some(Drive::Disk(disk)) => disk.soft_reset(),
                Some(Drive::Cd(drive)) => drive.soft_reset(),
                None => {}
            }
        }
        self.update_line();
    }

    /// EXECUTE DEVICE DIAGNOSTIC: both units pass, the first answers.
    fn diagnostic(&mut self) {
        self.device = DEVICE_FIXED;
        for unit in 0..2 {
            self.units[unit].interrupt = false;
            self.set_signature(unit);
        }
        self.raise_interrupt();
    }

    /// Registers after a reset (ATA/ATAPI-7 section 9.12).
    pub(super) fn set_signature(&mut self, unit: usize) {
        let Unit { drive, registers, .. } = &mut self.units[unit];
        let (mid, high, status) = match drive {
            Some(Drive::Disk(_)) => (0x00, 0x00, DRDY | DSC),
            Some(Drive::Cd(_)) => (0x14, 0xeb, 0x00),
            None => (0xff, 0xff, 0x00),
        };
        *registers = Registers { status, error: 0x01, ..Registers::default() };
        (registers.count.now, registers.low.now, registers.mid.now, registers.high.now) = (1, 1, mid, high);
    }

    /// Power-on state. A request still out is disowned.
    pub(super) fn reset(&mut self) {
        self.clear();
        self.wire.set(false);
    }

    /// Power-on state, but for the level of the line.
    pub(super) fn clear(&mut self) {
        self.phase = Phase::Idle;
        self.ready = None;
        self.gather = None;
        self.resetting = false;
        self.control = 0;
        self.device = DEVICE_FIXED;
        self.bus_master = BusMaster::default();
        self.may_master = false;
        for unit in 0..2 {
            self.units[unit].interrupt = false;
            match &mut self.units[unit].drive {
                Some(Drive::Disk(disk)) => disk.power_on(),
                Some(Drive::Cd(drive)) => drive.power_on(),
                None => {}
            }
            self.set_signature(unit);
        }
        self.line = false;
    }

    /// The selected unit asks for attention.
    pub(super) fn raise_interrupt(&mut self) {
        self.unit().interrupt = true;
        self.update_line();
    }

    fn clear_interrupt(&mut self) {
        self.unit().interrupt = false;
        self.update_line();
    }

    /// Drives the line from the selected unit's INTRQ. The bus master latches a rising line.
    pub(super) fn update_line(&mut self) {
        let enabled = self.control & CONTROL_NIEN == 0;
        let level = enabled && self.unit().interrupt && self.unit().drive.is_some();
        if level == self.line {
            return;
        }
        self.line = level;
        if level {
            self.bus_master.status |= STATUS_INTERRUPT;
            self.unit().stats.interrupts += 1;
        }
        self.wire.set(level);
    }

    /// Drives the line as a restored state has it. That is no new interrupt.
    pub(super) fn restore_line(&mut self) {
        let enabled = self.control & CONTROL_NIEN == 0;
        self.line = enabled && self.unit().interrupt && self.unit().drive.is_some();
        self.wire.set(self.line);
    }

    /// The command is done.
    pub(super) fn finish(&mut self) {
        self.end(DRDY | DSC, 0);
    }

    /// The command is refused.
    pub(super) fn abort(&mut self) {
        self.end(DRDY | DSC | ERR, ABRT);
    }

    /// The command ends with these registers and an interrupt.
    pub(super) fn end(&mut self, status: u8, error: u8) {
        self.phase = Phase::Idle;
        self.gather = None;
        let registers = &mut self.unit().registers;
        (registers.status, registers.error) = (status, error);
        self.raise_interrupt();
    }

    /// Asks for data through the data port.
    pub(super) fn request_data(&mut self, interrupt: bool) {
        self.unit().registers.status = DRDY | DSC | DRQ;
        if interrupt {
            self.raise_interrupt();
        }
    }

    /// Submits a request. What comes after it happens in [`pump`](Self::pump), at once or when the sink is told.
    pub(super) fn submit(
        &mut self,
        disk: &Disk,
        operation: Operation,
        offset_bytes: u64,
        len_bytes: u64,
        buffer: IoBuffer,
        next: Next,
    ) {
        self.sequence = self.sequence.wrapping_add(1);
        let token = self.sequence << 1 | u64::from(self.index);
        self.unit().registers.status = BSY;
        self.gather = None;
        self.phase = Phase::Busy { token, next };
        let request = Request { token, operation, offset_bytes, len_bytes, buffer, sink: self.sink.clone() };
        match disk.submit(request) {
            Submission::Done(completed) => self.ready = Some(completed),
            Submission::Pending => {}
        }
    }

    /// Follows up requests that were done at once, until one is out or the command waits for the guest. A command has a
    /// bounded number of requests, so this ends.
    pub(super) fn pump(&mut self) {
        while let Some(completed) = self.ready.take() {
            self.follow_up(completed);
        }
    }

    /// A request came back. One that was disowned by a power-on reset is dropped.
    pub(super) fn complete(&mut self, completed: Completed) {
        self.follow_up(completed);
        self.pump();
    }

    fn follow_up(&mut self, completed: Completed) {
        match &self.phase {
            Phase::Busy { token, .. } if *token == completed.token => {}
            _ => return,
        }
        if let Phase::Busy { next, .. } = std::mem::replace(&mut self.phase, Phase::Idle) {
            self.advance(next, completed);
        }
    }

    /// The guest owes data: look again soon, and ever more rarely.
    pub(super) fn expect_data(&mut self) {
        self.gather = Some((self.clock.now_ns().saturating_add(GATHER_FIRST_NS), GATHER_FIRST_NS));
    }

    /// When to look whether the data owed waits in the coalescing ring.
    pub(super) fn deadline_ns(&self) -> Option<u64> {
        match (&self.phase, self.gather) {
            (Phase::DataOut(_), Some((deadline_ns, _))) => Some(deadline_ns),
            _ => None,
        }
    }

    /// The board drained the ring before it called this, so nothing is left to do but to look again later.
    pub(super) fn poll(&mut self, now_ns: u64) {
        if let Some((deadline_ns, wait_ns)) = &mut self.gather
            && *deadline_ns <= now_ns
        {
            *wait_ns = wait_ns.saturating_mul(2).min(GATHER_LAST_NS);
            *deadline_ns = now_ns.saturating_add(*wait_ns);
        }
    }
}
