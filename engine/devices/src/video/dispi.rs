//! The DISPI registers (Bochs VBE extensions): linear modes of any depth, set up in a handful of 16-bit writes.

use super::registers::Registers;

/// ID the BIOS writes back to probe for; the newest is read after reset.
const ID_NEWEST: u16 = 0xb0c5;
const ID_OLDEST: u16 = 0xb0c0;

/// Largest width in pixels.
pub const MAX_WIDTH: u16 = 4096;
/// Largest height in lines.
pub const MAX_HEIGHT: u16 = 4096;
const MAX_DEPTH: u16 = 32;

/// How many registers there are.
pub const REGISTER_COUNT: usize = 11;

const ID: usize = 0;
const XRES: usize = 1;
const YRES: usize = 2;
const BPP: usize = 3;
const ENABLE: usize = 4;
const BANK: usize = 5;
const VIRT_WIDTH: usize = 6;
const VIRT_HEIGHT: usize = 7;
const X_OFFSET: usize = 8;
const Y_OFFSET: usize = 9;
const VIDEO_MEMORY_64K: usize = 10;

const ENABLED: u16 = 0x01;
const GET_CAPS: u16 = 0x02;
const DAC_8BIT: u16 = 0x20;
const NO_CLEAR: u16 = 0x80;

/// A mode that was checked against the size of video memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinearMode {
    /// Pixels per line.
    pub width: usize,
    /// Lines.
    pub height: usize,
    /// 4, 8, 15, 16, 24 or 32.
    pub depth: usize,
    /// From one line to the next.
    pub line_bytes: usize,
    /// Where the first pixel is.
    pub start_bytes: usize,
}

/// What a write asks of the rest of the device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Effect {
    /// The picture may have changed.
    pub changed: bool,
    /// So many bytes from the start of video memory are to be zeroed; never more than there are.
    pub clear_bytes: usize,
}

/// The register file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dispi {
    /// Selected register (1CEh).
    pub index: u16,
    /// Values, normalised whenever the extension is enabled.
    pub values: [u16; REGISTER_COUNT],
}

impl Default for Dispi {
    /// As after power-on.
    fn default() -> Self {
        let mut values = [0; REGISTER_COUNT];
        values[ID] = ID_NEWEST;
        Self { index: 0, values }
    }
}

impl Dispi {
    /// Whether a DISPI mode is on.
    pub fn enabled(&self) -> bool {
        self.values[ENABLE] & ENABLED != 0
    }

    /// Whether the DAC has 8 bits per component.
    pub fn dac_eight_bit(&self) -> bool {
        self.values[ENABLE] & DAC_8BIT != 0
    }

    /// Offset the bank register adds to window addresses (in planar units at 4 bits per pixel).
    pub fn bank_bytes(&self) -> usize {
        usize::from(self.values[BANK]) << 16
    }

    /// Reads register `index`.
    pub fn read(&self, index: u16, vram_bytes: usize) -> u16 {
        let caps = self.values[ENABLE] & GET_CAPS != 0;
        match usize::from(index) {
            XRES if caps => MAX_WIDTH,
            YRES if caps => MAX_HEIGHT,
            BPP if caps => MAX_DEPTH,
            VIDEO_MEMORY_64K => u16::try_from(vram_bytes >> 16).unwrap_or(u16::MAX),
            index => self.values.get(index).copied().unwrap_or(0),
        }
    }

    /// Writes register `index`. Modes are normalised against `vram_bytes` at every write while enabled, whatever the
    /// order of the writes, and mirrored into the VGA registers as guests rely on.
    pub fn write(&mut self, index: u16, value: u16, vram_bytes: usize, registers: &mut Registers) -> Effect {
        let before = self.values;
        let mut clear_bytes = 0;
        match usize::from(index) {
            ID => {
                if (ID_OLDEST..=ID_NEWEST).contains(&value) {
                    self.values[ID] = value;
                }
                return Effect::default();
            }
            index @ (XRES | YRES | BPP | VIRT_WIDTH | X_OFFSET | Y_OFFSET) => {
                self.values[index] = value;
                if self.enabled() {
                    self.normalise(vram_bytes);
                    self.program(vram_bytes, registers);
                }
            }
            BANK => {
                let banks = vram_bytes >> 16;
                let mask = if self.enabled() && self.values[BPP] == 4 { banks >> 2 } else { banks }.saturating_sub(1);
                self.values[BANK] = value & u16::try_from(mask).unwrap_or(u16::MAX);
                return Effect::default();
            }
            ENABLE => {
                let was_enabled = self.enabled();
                self.values[BANK] = 0;
                self.values[ENABLE] = value & (ENABLED | GET_CAPS | DAC_8BIT | 0x40 | NO_CLEAR);
                registers.dac.eight_bit = self.dac_eight_bit();
                if self.enabled() && !was_enabled {
                    self.values[VIRT_WIDTH] = 0;
                    self.values[X_OFFSET] = 0;
                    self.values[Y_OFFSET] = 0;
                    self.normalise(vram_bytes);
                    self.program(vram_bytes, registers);
                    if let (true, Some(mode)) = (value & NO_CLEAR == 0, self.mode(vram_bytes)) {
                        clear_bytes = mode.height.saturating_mul(mode.line_bytes).min(vram_bytes);
                    }
                }
            }
            _ => return Effect::default(),
        }
        Effect { changed: clear_bytes != 0 || before != self.values, clear_bytes }
    }

    /// Brings all geometry registers into range: afterwards the visible area lies in video memory.
    fn normalise(&mut self, vram_bytes: usize) {
        let values = &mut self.values;
        if !matches!(values[BPP], 4 | 8 | 15 | 16 | 24 | 32) {
            values[BPP] = 8;
        }
        values[XRES] = (values[XRES] & !7).clamp(8, MAX_WIDTH);
        values[VIRT_WIDTH] = (values[VIRT_WIDTH] & !7).clamp(values[XRES], MAX_WIDTH);
        let line_bytes = line_bytes(values[VIRT_WIDTH], values[BPP]);
        let lines = u16::try_from(vram_bytes / line_bytes).unwrap_or(u16::MAX).max(1);
        values[YRES] = values[YRES].clamp(1, MAX_HEIGHT.min(lines));
        values[VIRT_HEIGHT] = lines;
        values[X_OFFSET] = values[X_OFFSET].min(MAX_WIDTH);
        let visible = usize::from(values[YRES]).saturating_mul(line_bytes);
        if start_bytes(values, line_bytes).saturating_add(visible) > vram_bytes {
            values[Y_OFFSET] = 0;
            if start_bytes(values, line_bytes).saturating_add(visible) > vram_bytes {
                values[X_OFFSET] = 0;
            }
        }
    }

    /// The mode in force, or `None` while off. Normalised afresh, so that it holds for any register values.
    pub fn mode(&self, vram_bytes: usize) -> Option<LinearMode> {
        if !self.enabled() {
            return None;
        }
        let mut checked = self.clone();
        checked.normalise(vram_bytes);
        let values = &checked.values;
        let line_bytes = line_bytes(values[VIRT_WIDTH], values[BPP]);
        Some(LinearMode {
            width: usize::from(values[XRES]),
            height: usize::from(values[YRES]),
            depth: usize::from(values[BPP]),
            line_bytes,
            start_bytes: start_bytes(values, line_bytes),
        })
    }

    /// Sets the VGA registers that a driver which knows DISPI alone leaves to us.
    fn program(&self, vram_bytes: usize, registers: &mut Registers) {
        let Some(mode) = self.mode(vram_bytes) else { return };
        registers.graphics[6] = (registers.graphics[6] & !0x0c) | 0x05;
        let crtc = &mut registers.crtc;
        crtc[0x17] |= 0x03;
        // These keep the low bits the hardware has room for, as the overflow bits below do.
        crtc[0x13] = low_byte(mode.line_bytes >> 3);
        crtc[0x01] = low_byte((mode.width >> 3) - 1);
        let last = mode.height - 1;
        crtc[0x12] = low_byte(last);
        crtc[0x07] = (crtc[0x07] & !0x42) | low_byte(last >> 7 & 0x02) | low_byte(last >> 3 & 0x40);
        crtc[0x18] = 0xff;
        crtc[0x07] |= 0x10;
        crtc[0x09] = (crtc[0x09] & !0x9f) | 0x40;
        let start = mode.start_bytes >> 2;
        crtc[0x0c] = low_byte(start >> 8);
        crtc[0x0d] = low_byte(start);
        let shift = if mode.depth == 4 {
            registers.sequencer[1] &= !0x08;
            0
        } else {
            registers.sequencer[4] |= 0x08;
            registers.sequencer[2] |= 0x0f;
            2
        };
        registers.graphics[5] = (registers.graphics[5] & !0x60) | shift << 5;
    }
}

fn low_byte(value: usize) -> u8 {
    value.to_le_bytes()[0]
}

/// Bytes of a line: at least 4, since the width is at least 8.
fn line_bytes(width: u16, depth: u16) -> usize {
    let bits = if depth == 15 { 16 } else { usize::from(depth) };
    usize::from(width) * bits / 8
}

fn start_bytes(values: &[u16; REGISTER_COUNT], line_bytes: usize) -> usize {
    let bits = if values[BPP] == 15 { 16 } else { usize::from(values[BPP]) };
    let start = usize::from(values[Y_OFFSET]) * line_bytes + usize::from(values[X_OFFSET]) * bits / 8;
    if bits == 4 { start & !3 } else { start }
}
