//! Two 8259A interrupt controllers as a PC has them, with the edge/level control registers of the PIIX (Intel 8259A
//! data sheet, order number 231468; 82371SB data sheet for ELCR).
//!
//! The slave's INT goes to IR2 of the master by level: whenever the slave has something to say, the master has it
//! pending, so no request is lost between the two chips.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::{Deserialize, Serialize};

use crate::state::same_fields;
use crate::{Device, PortIo, PortRange, RestoreError, SavedState};

/// The ports the pair answers at.
pub const PORTS: [PortRange; 3] =
    [PortRange { first: 0x20, count: 2 }, PortRange { first: 0xa0, count: 2 }, PortRange { first: 0x4d0, count: 2 }];

const KIND: &str = "pic";
const VERSION: u32 = 1;
/// The master's input the slave is on.
const CASCADE: u8 = 2;
/// Inputs of master and slave that can be level-triggered: not 0, 1, 2, 8 and 13.
const ELCR_WRITABLE: [u8; 2] = [0xf8, 0xde];

/// Where the master's INT pin leads.
pub trait PicOutput: Send + Sync {
    /// INTR is now at `level`. Called with the PIC locked.
    fn intr_changed(&self, level: bool);
}

/// What a chip expects next at its odd port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
enum Init {
    #[default]
    Ready,
    Icw2,
    Icw3,
    Icw4,
}

/// One 8259A.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Chip {
    /// Levels of the inputs.
    lines: u8,
    /// Edges seen and not acknowledged.
    latched: u8,
    /// Inputs that are level-triggered.
    elcr: u8,
    imr: u8,
    isr: u8,
    /// ICW2: vector of IR0, a multiple of 8.
    vector_base: u8,
    /// Input of the highest priority; others follow in turn.
    highest: u8,
    init: Init,
    /// ICW1: ICW4 will follow.
    wants_icw4: bool,
    /// ICW1: alone, so no ICW3.
    single: bool,
    auto_eoi: bool,
    rotate_on_auto_eoi: bool,
    special_fully_nested: bool,
    special_mask: bool,
    read_isr: bool,
    poll: bool,
}

impl Chip {
    fn irr(&self) -> u8 {
        (self.latched & !self.elcr) | (self.lines & self.elcr)
    }

    fn set_line(&mut self, bit: u8, level: bool) {
        if level {
            self.latched |= bit & !self.lines;
            self.lines |= bit;
        } else {
            // An edge once seen stays, as in the chip sets that replaced the discrete 8259A: a device that pulses its
            // line is not lost.
            self.lines &= !bit;
        }
    }

    /// The most important of `inputs`, as the distance from the highest priority, or 8 for none.
    fn priority(&self, inputs: u8) -> u8 {
        let rotated = inputs.rotate_right(u32::from(self.highest));
        u8::try_from(rotated.trailing_zeros()).unwrap_or(8)
    }

    fn input_of(&self, priority: u8) -> u8 {
        (priority + self.highest) & 7
    }

    /// The input that makes INT high. `cascaded` is a slave that asserts its own.
    fn pending(&self, cascaded: bool) -> Option<u8> {
        if self.init != Init::Ready {
            return None;
        }
        let requests = (self.irr() | if cascaded { 1 << CASCADE } else { 0 }) & !self.imr;
        let mut in_service = self.isr;
        if self.special_mask {
            in_service &= !self.imr;
        }
        if self.special_fully_nested {
            in_service &= !(1 << CASCADE);
        }
        let request = self.priority(requests);
        (request < self.priority(in_service)).then(|| self.input_of(request))
    }

    /// The INTA cycle's effect on this chip.
    fn acknowledge(&mut self, input: u8) {
        let bit = 1 << (input & 7);
        self.latched &= !bit;
        if !self.auto_eoi {
            self.isr |= bit;
        } else if self.rotate_on_auto_eoi {
            self.highest = (input + 1) & 7;
        }
    }

    fn write_command(&mut self, value: u8) {
        if value & 0x10 != 0 {
            *self = Self {
                lines: self.lines,
                elcr: self.elcr,
                vector_base: self.vector_base,
                init: Init::Icw2,
                wants_icw4: value & 1 != 0,
                single: value & 2 != 0,
                ..Self::default()
            };
        } else if value & 0x08 != 0 {
            self.poll = value & 4 != 0;
            if value & 2 != 0 {
                self.read_isr = value & 1 != 0;
            }
            if value & 0x40 != 0 {
                self.special_mask = value & 0x20 != 0;
            }
        } else {
            self.write_ocw2(value);
        }
    }

    fn write_ocw2(&mut self, value: u8) {
        let named = value & 7;
        let rotate = value & 0x80 != 0;
        match value >> 5 {
            0 | 4 => self.rotate_on_auto_eoi = rotate,
            1 | 5 => {
                // In special mask mode a masked level is none of this command's business.
                let candidates = if self.special_mask { self.isr & !self.imr } else { self.isr };
                let priority = self.priority(candidates);
                if priority < 8 {
                    let input = self.input_of(priority);
                    self.isr &= !(1 << input);
                    if rotate {
                        self.highest = (input + 1) & 7;
                    }
                }
            }
            3 | 7 => {
                self.isr &= !(1 << named);
                if rotate {
                    self.highest = (named + 1) & 7;
                }
            }
            6 => self.highest = (named + 1) & 7,
            _ => {}
        }
    }

    fn write_data(&mut self, value: u8) {
        match self.init {
            Init::Ready => self.imr = value,
            Init::Icw2 => {
                self.vector_base = value & 0xf8;
                self.init = if !self.single { Init::Icw3 } else { self.after_icw3() };
            }
            // Which input the slave is on is soldered.
            Init::Icw3 => self.init = self.after_icw3(),
            Init::Icw4 => {
                self.special_fully_nested = value & 0x10 != 0;
                self.auto_eoi = value & 2 != 0;
                self.init = Init::Ready;
            }
        }
    }

    fn after_icw3(&self) -> Init {
        if self.wants_icw4 { Init::Icw4 } else { Init::Ready }
    }

    fn read(&mut self, odd: bool, cascaded: bool) -> u8 {
        if self.poll {
            self.poll = false;
            return match self.pending(cascaded) {
                Some(input) => {
                    self.acknowledge(input);
                    0x80 | input
                }
                None => 0,
            };
        }
        let cascade = if cascaded { 1 << CASCADE } else { 0 };
        match (odd, self.read_isr) {
            (true, _) => self.imr,
            (false, true) => self.isr,
            (false, false) => self.irr() | cascade,
        }
    }
}

/// The two 8259As.
pub struct Pic {
    master: Chip,
    slave: Chip,
    output: Arc<dyn PicOutput>,
    intr: Arc<AtomicBool>,
}

#[derive(Serialize, Deserialize)]
struct ChipV1 {
    lines: u8,
    latched: u8,
    elcr: u8,
    imr: u8,
    isr: u8,
    vector_base: u8,
    highest: u8,
    init: Init,
    wants_icw4: bool,
    single: bool,
    auto_eoi: bool,
    rotate_on_auto_eoi: bool,
    special_fully_nested: bool,
    special_mask: bool,
    read_isr: bool,
    poll: bool,
}

same_fields!(Chip, ChipV1; lines, latched, elcr, imr, isr, vector_base, highest, init, wants_icw4, single, auto_eoi,
    rotate_on_auto_eoi, special_fully_nested, special_mask, read_isr, poll);

#[derive(Serialize, Deserialize)]
struct PicV1 {
    master: ChipV1,
    slave: ChipV1,
}

impl Pic {
    /// The pair, not yet initialised, with all inputs low.
    pub fn new(output: Arc<dyn PicOutput>) -> Self {
        Self { master: Chip::default(), slave: Chip::default(), output, intr: Arc::default() }
    }

    /// ISA line `irq` (0 to 15; 2 is not one) is now at `level`.
    pub fn set_irq(&mut self, irq: u8, level: bool) {
        match irq {
            CASCADE => {}
            0..8 => self.master.set_line(1 << irq, level),
            8..16 => self.slave.set_line(1 << (irq - 8), level),
            _ => {}
        }
        self.update();
    }

    /// Whether INTR is asserted.
    pub fn pending(&self) -> bool {
        self.intr.load(Ordering::SeqCst)
    }

    /// The same, to look at without locking the PIC.
    pub(crate) fn intr(&self) -> Arc<AtomicBool> {
        self.intr.clone()
    }

    /// The INTA cycle: the vector. Where no request is left it is that of IR7 (of the slave, if it was the slave that
    /// took its request back), and nothing is then in service: the spurious interrupt.
    pub fn acknowledge(&mut self) -> u8 {
        let cascaded = self.slave.pending(false).is_some();
        let vector = match self.master.pending(cascaded) {
            Some(CASCADE) => {
                self.master.acknowledge(CASCADE);
                match self.slave.pending(false) {
                    Some(input) => {
                        self.slave.acknowledge(input);
                        self.slave.vector_base | input
                    }
                    None => self.slave.vector_base | 7,
                }
            }
            Some(input) => {
                self.master.acknowledge(input);
                self.master.vector_base | input
            }
            None => self.master.vector_base | 7,
        };
        self.update();
        vector
    }

    fn update(&mut self) {
        let cascaded = self.slave.pending(false).is_some();
        let level = self.master.pending(cascaded).is_some();
        if self.intr.swap(level, Ordering::SeqCst) != level {
            self.output.intr_changed(level);
        }
    }

    fn read_byte(&mut self, port: u16) -> u8 {
        let cascaded = self.slave.pending(false).is_some();
        match port {
            0x20 | 0x21 => self.master.read(port == 0x21, cascaded),
            0xa0 | 0xa1 => self.slave.read(port == 0xa1, false),
            0x4d0 => self.master.elcr,
            0x4d1 => self.slave.elcr,
            _ => 0xff,
        }
    }

    fn write_byte(&mut self, port: u16, value: u8) {
        match port {
            0x20 => self.master.write_command(value),
            0x21 => self.master.write_data(value),
            0xa0 => self.slave.write_command(value),
            0xa1 => self.slave.write_data(value),
            0x4d0 => self.master.elcr = value & ELCR_WRITABLE[0],
            0x4d1 => self.slave.elcr = value & ELCR_WRITABLE[1],
            _ => {}
        }
    }
}

impl Device for Pic {
    fn reset(&mut self) {
        self.master = Chip::default();
        self.slave = Chip::default();
        self.update();
    }

    fn save(&self) -> SavedState {
        let state = PicV1 { master: self.master.clone().into(), slave: self.slave.clone().into() };
        SavedState::encode(KIND, VERSION, &state)
    }

    fn restore(&mut self, state: &SavedState) -> Result<(), RestoreError> {
        let PicV1 { master, slave } = state.decode(KIND, VERSION)?;
        let master = restore_chip(master, ELCR_WRITABLE[0])?;
        let slave = restore_chip(slave, ELCR_WRITABLE[1])?;
        if (master.lines | master.latched) & (1 << CASCADE) != 0 {
            return Err(RestoreError::Field { kind: KIND, field: "cascade input" });
        }
        self.master = master;
        self.slave = slave;
        self.update();
        Ok(())
    }

    fn port_io(&mut self) -> Option<&mut dyn PortIo> {
        Some(self)
    }
}

fn restore_chip(saved: ChipV1, elcr_writable: u8) -> Result<Chip, RestoreError> {
    let field = |field| RestoreError::Field { kind: KIND, field };
    if saved.elcr & !elcr_writable != 0 {
        return Err(field("ELCR"));
    }
    if saved.vector_base & 7 != 0 {
        return Err(field("vector base"));
    }
    if saved.highest > 7 {
        return Err(field("priority"));
    }
    Ok(saved.into())
}

impl PortIo for Pic {
    fn port_read(&mut self, port: u16, data: &mut [u8]) {
        for (byte, port) in data.iter_mut().zip(port..=u16::MAX) {
            *byte = self.read_byte(port);
        }
        self.update();
    }

    fn port_write(&mut self, port: u16, data: &[u8]) {
        for (byte, port) in data.iter().zip(port..=u16::MAX) {
            self.write_byte(port, *byte);
        }
        self.update();
    }
}

#[cfg(test)]
mod tests;
