//! The register side of the adapter: VGA and DISPI ports, and the same registers in BAR2.

use crate::PortIo;
use crate::pci::config::COMMAND_IO;

use super::{Vga, dispi};

/// BAR2: the EDID.
const EDID_END: u64 = 0x400;
/// BAR2: ports 3C0-3DFh.
const VGA_BASE: u64 = 0x400;
const VGA_END: u64 = 0x420;
/// BAR2: DISPI registers, 16 bits each.
const DISPI_BASE: u64 = 0x500;
const DISPI_END: u64 = DISPI_BASE + 2 * dispi::REGISTER_COUNT as u64;
/// BAR2: length of the extension block, then the framebuffer's byte order.
const EXTENSION_BASE: u64 = 0x600;
const EXTENSION_LEN_BYTES: u32 = 8;
const LITTLE_ENDIAN: u32 = 0x1e1e_1e1e;
const BIG_ENDIAN: u32 = 0xbebe_bebe;

/// Ports of DISPI.
const DISPI_INDEX: u16 = 0x1ce;
const DISPI_DATA: u16 = 0x1cf;
const DISPI_DATA_ALIGNED: u16 = 0x1d0;

/// A 70 Hz picture of 449 lines, as in the text modes. Real retraces are shorter, but a guest whose every read costs
/// an exit must not miss one.
const LINE_NS: u64 = 31_778;
const LINES: u64 = 449;
const DISPLAYED_LINES: u64 = 400;
const RETRACE_LINES: std::ops::Range<u64> = 405..445;
const LINE_DISPLAYED_NS: u64 = 25_422;

const DISPLAY_DISABLED: u8 = 0x01;
const VERTICAL_RETRACE: u8 = 0x08;

impl Vga {
    fn byte_read(&mut self, port: u16) -> u8 {
        if matches!(port, 0x3ba | 0x3da) && self.registers.decodes(port) {
            self.registers.attribute_data_next = false;
            return self.status();
        }
        self.registers.read(port)
    }

    fn byte_write(&mut self, port: u16, value: u8) {
        if self.registers.write(port, value) {
            self.changed();
        }
    }

    /// Input status 1: where the beam is. While the clock stands still it toggles, so that no loop waits forever.
    fn status(&mut self) -> u8 {
        let now_ns = self.clock.now_ns();
        let status = if self.last_status.0 == now_ns {
            self.last_status.1 ^ (DISPLAY_DISABLED | VERTICAL_RETRACE)
        } else {
            let line = now_ns / LINE_NS % LINES;
            let blanked = line >= DISPLAYED_LINES || now_ns % LINE_NS >= LINE_DISPLAYED_NS;
            let retrace = RETRACE_LINES.contains(&line);
            (if blanked { DISPLAY_DISABLED } else { 0 }) | if retrace { VERTICAL_RETRACE } else { 0 }
        };
        self.last_status = (now_ns, status);
        status
    }

    fn dispi_read(&self, index: u16) -> u16 {
        self.dispi.read(index, self.vram.len())
    }

    fn dispi_write(&mut self, index: u16, value: u16) {
        let effect = self.dispi.write(index, value, self.vram.len(), &mut self.registers);
        if let Some(cleared) = self.vram.slice(0, effect.clear_bytes) {
            zero(&cleared);
        }
        if effect.changed {
            self.changed();
        }
    }

    /// A load from BAR2 at `offset`.
    pub(super) fn register_read(&mut self, offset: u64, data: &mut [u8]) {
        for (at, byte) in (offset..).zip(data) {
            *byte = self.register_byte(at);
        }
    }

    fn register_byte(&mut self, offset: u64) -> u8 {
        match offset {
            0..EDID_END => usize::try_from(offset).ok().and_then(|at| self.edid.get(at).copied()).unwrap_or(0),
            VGA_BASE..VGA_END => self.byte_read(vga_port(offset)),
            DISPI_BASE..DISPI_END => {
                let [low, high] = self.dispi_read(dispi_index(offset)).to_le_bytes();
                if offset & 1 == 0 { low } else { high }
            }
            EXTENSION_BASE..0x604 => byte_of(EXTENSION_LEN_BYTES, offset),
            0x604..0x608 => byte_of(if self.big_endian { BIG_ENDIAN } else { LITTLE_ENDIAN }, offset),
            _ => 0xff,
        }
    }

    /// A store to BAR2 at `offset`.
    pub(super) fn register_write(&mut self, offset: u64, data: &[u8]) {
        match offset {
            VGA_BASE..VGA_END => {
                for (at, byte) in (offset..VGA_END).zip(data) {
                    self.byte_write(vga_port(at), *byte);
                }
            }
            DISPI_BASE..DISPI_END if offset & 1 == 0 => {
                for (at, word) in (offset..DISPI_END).step_by(2).zip(data.chunks_exact(2)) {
                    self.dispi_write(dispi_index(at), u16::from_le_bytes([word[0], word[1]]));
                }
            }
            0x604 => {
                if let Ok(order) = <[u8; 4]>::try_from(data) {
                    match u32::from_le_bytes(order) {
                        LITTLE_ENDIAN => self.set_big_endian(false),
                        BIG_ENDIAN => self.set_big_endian(true),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }

    fn set_big_endian(&mut self, big_endian: bool) {
        if self.big_endian != big_endian {
            self.big_endian = big_endian;
            self.changed();
        }
    }

    fn io_decoded(&self) -> bool {
        self.config.command() & COMMAND_IO != 0
    }
}

impl PortIo for Vga {
    fn port_read(&mut self, port: u16, data: &mut [u8]) {
        if !self.io_decoded() {
            return;
        }
        if !(DISPI_INDEX..=DISPI_DATA_ALIGNED).contains(&port) {
            for (port, byte) in (port..=u16::MAX).zip(data) {
                *byte = self.byte_read(port);
            }
            return;
        }
        for (at, word) in (port..).step_by(2).zip(data.chunks_mut(2)) {
            let value = match at {
                DISPI_INDEX => self.dispi.index,
                DISPI_DATA | DISPI_DATA_ALIGNED => self.dispi_read(self.dispi.index),
                _ => return,
            };
            for (byte, value) in word.iter_mut().zip(value.to_le_bytes()) {
                *byte = value;
            }
        }
    }

    fn port_write(&mut self, port: u16, data: &[u8]) {
        if !self.io_decoded() {
            return;
        }
        if !(DISPI_INDEX..=DISPI_DATA_ALIGNED).contains(&port) {
            for (port, byte) in (port..=u16::MAX).zip(data) {
                self.byte_write(port, *byte);
            }
            return;
        }
        for (at, word) in (port..).step_by(2).zip(data.chunks(2)) {
            // The registers are 16 bits wide; a byte alone is taken as the low half.
            let value = u16::from(word[0]) | word.get(1).map_or(0, |high| u16::from(*high) << 8);
            match at {
                DISPI_INDEX => self.dispi.index = value,
                DISPI_DATA | DISPI_DATA_ALIGNED => self.dispi_write(self.dispi.index, value),
                _ => return,
            }
        }
    }
}

/// The port behind an offset into the VGA block.
fn vga_port(offset: u64) -> u16 {
    0x3c0 | u16::from(offset.to_le_bytes()[0] & 0x1f)
}

/// The DISPI register behind an offset into its block.
fn dispi_index(offset: u64) -> u16 {
    u16::from(offset.to_le_bytes()[0] >> 1)
}

fn byte_of(value: u32, offset: u64) -> u8 {
    value.to_le_bytes()[usize::from(offset.to_le_bytes()[0] & 3)]
}

fn zero(slice: &benchtop_memory::VolatileSlice<'_>) {
    const BLOCK: [u8; 4096] = [0; 4096];
    let mut at = 0;
    while at < slice.len() {
        let len = BLOCK.len().min(slice.len() - at);
        let Ok(part) = slice.subslice(at, len) else { return };
        part.copy_from(&BLOCK[..len]);
        at += len;
    }
}
