//! The I/O APIC: Intel 82093AA (order number 290566), 24 inputs.
//!
//! Interrupts go out as messages, in the layout of an MSI. The polarity bit is kept and has no effect: a line that is
//! `true` is asserted. An edge on a masked input is lost, as the data sheet has it.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{Device, Mmio, RestoreError, SavedState};

/// Where it answers.
pub const BASE: u64 = 0xfec0_0000;
/// How many bytes from there.
pub const LEN_BYTES: u64 = 0x1000;
/// Number of inputs.
pub const PINS: usize = 24;

const KIND: &str = "ioapic";
const VERSION: u32 = 1;
const IOREGSEL: u64 = 0x00;
const IOWIN: u64 = 0x10;
/// IOAPICVER: version 11h, 24 entries.
const VERSION_REGISTER: u32 = 0x0017_0011;

const RTE_REMOTE_IRR: u64 = 1 << 14;
const RTE_LEVEL: u64 = 1 << 15;
const RTE_MASKED: u64 = 1 << 16;
/// What a guest may change of an entry: all but delivery status and remote IRR.
const RTE_WRITABLE: u64 = 0xff00_0000_0001_afff;

/// An interrupt message: address (FEExxxxxh) and data.
pub type Message = (u64, u32);

/// Where the I/O APIC's messages go. Called with the I/O APIC locked.
pub trait IoApicOutput: Send + Sync {
    /// Delivers an interrupt.
    fn send_msi(&self, address: u64, data: u32);

    /// What each input would send now; `None` for one that never was unmasked. An entry that is masked for a while
    /// keeps its last message, so that the EOI of an interrupt in service still comes back.
    fn mirror(&self, entries: &[Option<Message>]);
}

/// The I/O APIC.
pub struct IoApic {
    output: Arc<dyn IoApicOutput>,
    id: u8,
    select: u8,
    /// Levels of the inputs.
    lines: u32,
    entries: [u64; PINS],
    mirrored: [Option<Message>; PINS],
}

#[derive(Serialize, Deserialize)]
struct IoApicV1 {
    id: u8,
    select: u8,
    lines: u32,
    entries: Vec<u64>,
    /// Which inputs' messages are mirrored although masked.
    mirrored: Vec<Option<Message>>,
}

/// The message an entry stands for; `None` for a delivery mode that is no message (ExtINT, which the PIC's own INTR
/// line is for, and reserved ones).
fn message(entry: u64) -> Option<Message> {
    let [vector, mode, ..] = entry.to_le_bytes();
    let delivery_mode = mode & 7;
    if matches!(delivery_mode, 3 | 6 | 7) {
        return None;
    }
    let destination = entry >> 56;
    let logical = (entry >> 11) & 1;
    let address = 0xfee0_0000 | (destination << 12) | (logical << 2);
    let mut data = u32::from(vector) | (u32::from(delivery_mode) << 8);
    if by_level(entry) {
        // Trigger mode level, and level assert.
        data |= (1 << 15) | (1 << 14);
    }
    Some((address, data))
}

/// Only fixed and lowest-priority interrupts can be level-triggered; the others are edges whatever the bit says.
fn by_level(entry: u64) -> bool {
    entry & RTE_LEVEL != 0 && (entry >> 8) & 7 <= 1
}

impl IoApic {
    /// All inputs masked and low.
    pub fn new(output: Arc<dyn IoApicOutput>) -> Self {
        Self { output, id: 0, select: 0, lines: 0, entries: [RTE_MASKED; PINS], mirrored: [None; PINS] }
    }

    /// Input `pin` is now at `level`.
    pub fn set_pin(&mut self, pin: u8, level: bool) {
        let index = usize::from(pin);
        let Some(entry) = self.entries.get(index).copied() else { return };
        let bit = 1 << index;
        let rose = level && self.lines & bit == 0;
        self.lines = if level { self.lines | bit } else { self.lines & !bit };
        if by_level(entry) {
            self.service_level(index);
        } else if rose && entry & RTE_MASKED == 0 {
            self.send(entry);
        }
    }

    /// A local APIC ended the interrupt of `vector`: level-triggered entries with it look at their lines again.
    pub fn eoi(&mut self, vector: u8) {
        for index in 0..PINS {
            let [entry_vector, ..] = self.entries[index].to_le_bytes();
            if entry_vector == vector && self.entries[index] & RTE_REMOTE_IRR != 0 {
                self.entries[index] &= !RTE_REMOTE_IRR;
                self.service_level(index);
            }
        }
    }

    fn service_level(&mut self, index: usize) {
        let entry = self.entries[index];
        let asserted = self.lines & (1 << index) != 0;
        if asserted && by_level(entry) && entry & (RTE_MASKED | RTE_REMOTE_IRR) == 0 {
            self.entries[index] |= RTE_REMOTE_IRR;
            self.send(entry);
        }
    }

    fn send(&self, entry: u64) {
        if let Some((address, data)) = message(entry) {
            self.output.send_msi(address, data);
        }
    }

    fn write_entry(&mut self, index: usize, value: u64) {
        let mut entry = (self.entries[index] & !RTE_WRITABLE) | (value & RTE_WRITABLE);
        if !by_level(entry) {
            // Switching to edge and back is how software without an EOI register ends a stuck level interrupt.
            entry &= !RTE_REMOTE_IRR;
        }
        self.entries[index] = entry;
        if entry & RTE_MASKED == 0 {
            // Mirrored before the first message of the entry can be sent, so that its EOI is seen.
            self.set_mirrored(index, message(entry));
        }
        self.service_level(index);
    }

    fn set_mirrored(&mut self, index: usize, message: Option<Message>) {
        if self.mirrored[index] != message {
            self.mirrored[index] = message;
            self.output.mirror(&self.mirrored);
        }
    }

    fn read_register(&self) -> u32 {
        match self.select {
            0x00 | 0x02 => u32::from(self.id) << 24,
            0x01 => VERSION_REGISTER,
            0x10.. => {
                let register = usize::from(self.select - 0x10);
                let entry = self.entries.get(register / 2).copied().unwrap_or_default();
                let [low, high] = halves(entry);
                if register % 2 == 0 { low } else { high }
            }
            _ => 0,
        }
    }

    fn write_register(&mut self, value: u32) {
        match self.select {
            0x00 => self.id = (value >> 24).to_le_bytes()[0] & 0x0f,
            0x10.. => {
                let register = usize::from(self.select - 0x10);
                let index = register / 2;
                let Some(entry) = self.entries.get(index).copied() else { return };
                let [low, high] = halves(entry);
                let (low, high) = if register % 2 == 0 { (value, high) } else { (low, value) };
                self.write_entry(index, u64::from(low) | (u64::from(high) << 32));
            }
            _ => {}
        }
    }
}

fn halves(entry: u64) -> [u32; 2] {
    let [a, b, c, d, e, f, g, h] = entry.to_le_bytes();
    [u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h])]
}

impl Device for IoApic {
    fn reset(&mut self) {
        let had_mirrored = self.mirrored.iter().any(Option::is_some);
        *self = Self::new(self.output.clone());
        if had_mirrored {
            self.output.mirror(&self.mirrored);
        }
    }

    fn save(&self) -> SavedState {
        let Self { output: _, id, select, lines, entries, mirrored } = self;
        let state = IoApicV1 {
            id: *id,
            select: *select,
            lines: *lines,
            entries: entries.to_vec(),
            mirrored: mirrored.to_vec(),
        };
        SavedState::encode(KIND, VERSION, &state)
    }

    fn restore(&mut self, state: &SavedState) -> Result<(), RestoreError> {
        let IoApicV1 { id, select, lines, entries, mirrored } = state.decode(KIND, VERSION)?;
        let field = |field| RestoreError::Field { kind: KIND, field };
        let Ok(entries) = <[u64; PINS]>::try_from(entries) else { return Err(field("redirection table")) };
        let Ok(mirrored) = <[Option<Message>; PINS]>::try_from(mirrored) else { return Err(field("mirrored table")) };
        if id > 0x0f {
            return Err(field("ID"));
        }
        if lines >> PINS != 0 {
            return Err(field("inputs"));
        }
        let impossible = |entry: &u64| {
            entry & !(RTE_WRITABLE | RTE_REMOTE_IRR) != 0 || (entry & RTE_REMOTE_IRR != 0 && !by_level(*entry))
        };
        if entries.iter().any(impossible) {
            return Err(field("redirection table"));
        }
        for (entry, mirrored) in entries.iter().zip(&mirrored) {
            let known = match mirrored {
                Some((address, data)) => address & !0x000f_f004 == 0xfee0_0000 && data & !0xc7ff == 0,
                None => true,
            };
            if !known || (entry & RTE_MASKED == 0 && *mirrored != message(*entry)) {
                return Err(field("mirrored table"));
            }
        }
        *self = Self { output: self.output.clone(), id, select, lines, entries, mirrored };
        self.output.mirror(&self.mirrored);
        Ok(())
    }

    fn mmio(&mut self) -> Option<&mut dyn Mmio> {
        Some(self)
    }
}

impl Mmio for IoApic {
    fn mmio_read(&mut self, gpa: u64, data: &mut [u8]) {
        let offset = gpa.wrapping_sub(BASE);
        let value = match offset & !3 {
            IOREGSEL => u32::from(self.select),
            IOWIN => self.read_register(),
            _ => 0,
        };
        let [first, ..] = (offset & 3).to_le_bytes();
        data.fill(0);
        for (byte, value) in data.iter_mut().zip(value.to_le_bytes().into_iter().skip(usize::from(first))) {
            *byte = value;
        }
    }

    fn mmio_write(&mut self, gpa: u64, data: &[u8]) {
        match (gpa.wrapping_sub(BASE), data) {
            (IOREGSEL, [select, ..]) => self.select = *select,
            (IOWIN, [a, b, c, d, ..]) => self.write_register(u32::from_le_bytes([*a, *b, *c, *d])),
            // The registers are dwords; narrower writes to the window are not accesses to it.
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests;
