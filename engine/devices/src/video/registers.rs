//! The VGA's register files: sequencer, CRT controller, graphics controller, attribute controller and DAC.
//!
//! Register meanings are those of the IBM VGA as every compatible since documents them; what a register does to
//! memory accesses is in `memory`, what it does to the picture in `render`.

/// How many sequencer registers there are.
pub const SEQUENCER_COUNT: usize = 8;
/// How many CRT controller registers there are.
pub const CRTC_COUNT: usize = 0x19;
/// How many graphics controller registers there are.
pub const GRAPHICS_COUNT: usize = 9;
/// How many attribute controller registers there are.
pub const ATTRIBUTE_COUNT: usize = 0x15;

const SEQUENCER_WRITABLE: [u8; SEQUENCER_COUNT] = [0x03, 0x3d, 0x0f, 0x3f, 0x0e, 0x00, 0x00, 0xff];
const GRAPHICS_WRITABLE: [u8; GRAPHICS_COUNT] = [0x0f, 0x0f, 0x0f, 0x1f, 0x03, 0x7b, 0x0f, 0x0f, 0xff];

/// The DAC: 256 colours behind a mask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dac {
    /// Pixel mask (3C6h).
    pub mask: u8,
    /// Next colour 3C9h reads.
    pub read_index: u8,
    /// Next colour 3C9h writes.
    pub write_index: u8,
    /// Which of red, green and blue comes next: below 3.
    pub component: u8,
    /// Whether 3C7h was written last: 3C7h then reads 3.
    pub reading: bool,
    /// Components gathered until the third arrives.
    pub gathered: [u8; 3],
    /// Red, green, blue of each colour, as written.
    pub colours: [[u8; 3]; 256],
    /// 8 bits per component (DISPI) instead of 6.
    pub eight_bit: bool,
}

impl Default for Dac {
    /// As after power-on: all black, nothing masked.
    fn default() -> Self {
        Self {
            mask: 0xff,
            read_index: 0,
            write_index: 0,
            component: 0,
            reading: false,
            gathered: [0; 3],
            colours: [[0; 3]; 256],
            eight_bit: false,
        }
    }
}

impl Dac {
    fn read_data(&mut self) -> u8 {
        let value = self.colours[usize::from(self.read_index)].get(usize::from(self.component)).copied().unwrap_or(0);
        self.component += 1;
        if self.component >= 3 {
            self.component = 0;
            self.read_index = self.read_index.wrapping_add(1);
        }
        value
    }

    /// True when a colour changed.
    fn write_data(&mut self, value: u8) -> bool {
        let value = if self.eight_bit { value } else { value & 0x3f };
        if let Some(component) = self.gathered.get_mut(usize::from(self.component)) {
            *component = value;
        }
        self.component += 1;
        if self.component < 3 {
            return false;
        }
        self.component = 0;
        let colour = &mut self.colours[usize::from(self.write_index)];
        let changed = *colour != self.gathered;
        *colour = self.gathered;
        self.write_index = self.write_index.wrapping_add(1);
        changed
    }

    /// Colour `index` behind the mask, as 8-bit red, green, blue.
    pub fn colour(&self, index: u8) -> [u8; 3] {
        let colour = self.colours[usize::from(index & self.mask)];
        if self.eight_bit {
            colour
        } else {
            // The top bits repeat below, so that 3Fh becomes FFh.
            colour.map(|component| (component & 0x3f) << 2 | (component & 0x3f) >> 4)
        }
    }
}

/// All register files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Registers {
    /// Miscellaneous output (3C2h; read at 3CCh).
    pub misc: u8,
    /// Feature control (3DAh/3BAh; read at 3CAh).
    pub feature: u8,
    /// Sequencer index, below 8.
    pub sequencer_index: u8,
    /// Sequencer.
    pub sequencer: [u8; SEQUENCER_COUNT],
    /// CRTC index.
    pub crtc_index: u8,
    /// CRT controller.
    pub crtc: [u8; CRTC_COUNT],
    /// Graphics controller index, below 16.
    pub graphics_index: u8,
    /// Graphics controller.
    pub graphics: [u8; GRAPHICS_COUNT],
    /// Attribute controller index, with the video enable bit (20h).
    pub attribute_index: u8,
    /// The next write to 3C0h is data.
    pub attribute_data_next: bool,
    /// Attribute controller.
    pub attribute: [u8; ATTRIBUTE_COUNT],
    /// DAC.
    pub dac: Dac,
}

impl Registers {
    /// Whether the CRTC answers at `port` with the present colour/mono choice. Other ports answer always.
    pub fn decodes(&self, port: u16) -> bool {
        match port {
            0x3b0..=0x3bf => self.misc & 1 == 0,
            0x3d0..=0x3df => self.misc & 1 != 0,
            _ => true,
        }
    }

    /// Reads one port other than the status port 3DAh/3BAh. Ports nobody drives read FFh.
    pub fn read(&mut self, port: u16) -> u8 {
        match port {
            0x3c0 => {
                if self.attribute_data_next {
                    0
                } else {
                    self.attribute_index
                }
            }
            0x3c1 => self.attribute.get(usize::from(self.attribute_index & 0x1f)).copied().unwrap_or(0),
            // Input status 0: the switch sense says a colour monitor is there.
            0x3c2 => 0x10,
            0x3c4 => self.sequencer_index,
            0x3c5 => self.sequencer[usize::from(self.sequencer_index & 7)],
            0x3c6 => self.dac.mask,
            0x3c7 => {
                if self.dac.reading {
                    3
                } else {
                    0
                }
            }
            0x3c8 => self.dac.write_index,
            0x3c9 => self.dac.read_data(),
            0x3ca => self.feature,
            0x3cc => self.misc,
            0x3ce => self.graphics_index,
            0x3cf => self.graphics.get(usize::from(self.graphics_index)).copied().unwrap_or(0),
            0x3b4 | 0x3d4 if self.decodes(port) => self.crtc_index,
            0x3b5 | 0x3d5 if self.decodes(port) => self.crtc.get(usize::from(self.crtc_index)).copied().unwrap_or(0),
            _ => 0xff,
        }
    }

    /// Writes one port. True when the picture may have changed by it.
    pub fn write(&mut self, port: u16, value: u8) -> bool {
        match port {
            0x3c0 => return self.write_attribute(value),
            0x3c2 => return replace(&mut self.misc, value & !0x10),
            0x3c4 => self.sequencer_index = value & 7,
            0x3c5 => {
                let index = usize::from(self.sequencer_index & 7);
                return replace(&mut self.sequencer[index], value & SEQUENCER_WRITABLE[index]);
            }
            0x3c6 => return replace(&mut self.dac.mask, value),
            0x3c7 => {
                self.dac.read_index = value;
                self.dac.component = 0;
                self.dac.reading = true;
            }
            0x3c8 => {
                self.dac.write_index = value;
                self.dac.component = 0;
                self.dac.reading = false;
            }
            0x3c9 => return self.dac.write_data(value),
            0x3ce => self.graphics_index = value & 0x0f,
            0x3cf => {
                let index = usize::from(self.graphics_index);
                if let (Some(register), Some(writable)) = (self.graphics.get_mut(index), GRAPHICS_WRITABLE.get(index)) {
                    return replace(register, value & writable);
                }
            }
            0x3b4 | 0x3d4 if self.decodes(port) => self.crtc_index = value,
            0x3b5 | 0x3d5 if self.decodes(port) => return self.write_crtc(value),
            0x3ba | 0x3da if self.decodes(port) => self.feature = value & 0x13,
            _ => {}
        }
        false
    }

    fn write_attribute(&mut self, value: u8) -> bool {
        self.attribute_data_next = !self.attribute_data_next;
        if self.attribute_data_next {
            return replace(&mut self.attribute_index, value & 0x3f);
        }
        let index = usize::from(self.attribute_index & 0x1f);
        let writable = match index {
            0x00..=0x0f => 0x3f,
            0x10 => 0xef,
            0x11 => 0xff,
            0x12 => 0x3f,
            _ => 0x0f,
        };
        self.attribute.get_mut(index).is_some_and(|register| replace(register, value & writable))
    }

    fn write_crtc(&mut self, value: u8) -> bool {
        let index = usize::from(self.crtc_index);
        let protected = self.crtc[0x11] & 0x80 != 0;
        let value = match index {
            // Of the protected registers only the line compare bit of the overflow register stays writable.
            7 if protected => (self.crtc[7] & !0x10) | (value & 0x10),
            0..=6 if protected => return false,
            _ => value,
        };
        self.crtc.get_mut(index).is_some_and(|register| replace(register, value))
    }

    /// Lines displayed, 1 to 1024.
    pub fn displayed_lines(&self) -> usize {
        let overflow = usize::from(self.crtc[7]);
        (usize::from(self.crtc[0x12]) | (overflow & 0x02) << 7 | (overflow & 0x40) << 3) + 1
    }

    /// Character clocks displayed per line, 1 to 256.
    pub fn displayed_columns(&self) -> usize {
        usize::from(self.crtc[1]) + 1
    }

    /// First line that shows memory from address 0 again (split screen), below 1024.
    pub fn line_compare(&self) -> usize {
        usize::from(self.crtc[0x18]) | (usize::from(self.crtc[7]) & 0x10) << 4 | (usize::from(self.crtc[9]) & 0x40) << 3
    }

    /// Start address in planar units.
    pub fn start_address(&self) -> usize {
        usize::from(self.crtc[0x0c]) << 8 | usize::from(self.crtc[0x0d])
    }

    /// Cursor address in planar units.
    pub fn cursor_address(&self) -> usize {
        usize::from(self.crtc[0x0e]) << 8 | usize::from(self.crtc[0x0f])
    }

    /// Bytes of video memory from one row to the next.
    pub fn line_bytes(&self) -> usize {
        usize::from(self.crtc[0x13]) << 3
    }

    /// Whether the attribute controller shows a picture at all.
    pub fn video_enabled(&self) -> bool {
        self.attribute_index & 0x20 != 0
    }

    /// Whether the graphics controller is in a graphics mode.
    pub fn is_graphics(&self) -> bool {
        self.graphics[6] & 1 != 0
    }

    /// Chain-4 addressing.
    pub fn chain4(&self) -> bool {
        self.sequencer[4] & 0x08 != 0
    }
}

fn replace(register: &mut u8, value: u8) -> bool {
    let changed = *register != value;
    *register = value;
    changed
}
