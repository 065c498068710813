//! Pictures from registers and video memory.
//!
//! Rendering reads video memory row by row with every address masked, so it needs no assumption about what the guest
//! has done. Its cost is bounded by the largest geometry: 4096 by 4096 dots.

use benchtop_memory::SharedRegion;

use super::dispi::LinearMode;
use super::registers::Registers;
use super::text::TextLayout;

/// A picture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Pixels across.
    pub width: u32,
    /// Pixels down.
    pub height: u32,
    /// Rows of R, G, B, A bytes, without padding.
    pub rgba: Vec<u8>,
}

/// A cursor is on for so long and then off for as long: 16 pictures at 70 Hz.
const CURSOR_PHASE_NS: u64 = 16 * 1_000_000_000 / 70;

/// A copy of everything but video memory that a picture depends on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScreenState {
    pub(super) registers: Registers,
    pub(super) mode: Option<LinearMode>,
    /// The cursor shows.
    pub(super) cursor_phase: bool,
    /// Blinking characters show.
    pub(super) blink_phase: bool,
}

/// The size of a screen no mode was set on yet: that of 80 by 25 characters.
const UNSET_DOTS: (usize, usize) = (720, 400);

type Colour = [u8; 4];

const BLACK: Colour = [0, 0, 0, 0xff];

/// What one row of a graphics mode looks like in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pixels {
    /// Four planes of one bit.
    Planar,
    /// Two bits in each of two bytes (CGA's 320 by 200).
    Interleaved,
    /// A byte per pixel, shown twice (VGA's 320 by 200).
    DoubledBytes,
    /// DISPI: so many bits per pixel, 8 to 32.
    Linear(usize),
}

struct Graphics {
    pixels: Pixels,
    width: usize,
    height: usize,
    line_bytes: usize,
    start_bytes: usize,
    /// Each memory line is shown so often.
    line_repeat: usize,
    dot_repeat: usize,
    pan: usize,
}

impl ScreenState {
    pub(super) fn new(registers: &Registers, mode: Option<LinearMode>, now_ns: u64) -> Self {
        let phase = now_ns / CURSOR_PHASE_NS;
        let mut state = Self {
            registers: registers.clone(),
            mode,
            cursor_phase: phase.is_multiple_of(2),
            blink_phase: (phase / 2).is_multiple_of(2),
        };
        // What does not blink has no phases, so that a still picture has one state.
        let is_text = state.text_layout().is_some();
        if !is_text || registers.crtc[0x0a] & 0x20 != 0 {
            state.cursor_phase = true;
        }
        if !is_text || registers.attribute[0x10] & 0x08 == 0 {
            state.blink_phase = true;
        }
        state
    }

    /// Whether nothing is shown: the attribute controller is off or, in a VGA mode, the sequencer's screen off bit set.
    pub fn is_blank(&self) -> bool {
        !self.registers.video_enabled() || (self.mode.is_none() && self.registers.sequencer[1] & 0x20 != 0)
    }

    /// Whether no mode was set yet: registers as after reset have one dot line or one column.
    fn is_unset(&self) -> bool {
        self.mode.is_none() && (self.registers.displayed_columns() < 2 || self.registers.displayed_lines() < 2)
    }

    /// The picture that these registers make of `vram`. Before a mode is set it is the text mode's that will come, in
    /// black.
    pub fn render(&self, vram: &SharedRegion) -> Frame {
        if self.is_unset() {
            return Frame::black(UNSET_DOTS.0, UNSET_DOTS.1);
        }
        let palette = self.palette();
        match self.text_layout() {
            Some(layout) => self.render_text(&layout, vram, &palette),
            None => self.render_graphics(&self.graphics(), vram, &palette),
        }
    }

    fn palette(&self) -> [Colour; 256] {
        let mut palette = [BLACK; 256];
        for (index, colour) in (0..=u8::MAX).zip(&mut palette) {
            let [red, green, blue] = self.registers.dac.colour(index);
            *colour = [red, green, blue, 0xff];
        }
        palette
    }

    /// The 16 colours of text and planar modes, through the attribute controller's own palette.
    fn palette16(&self, palette: &[Colour; 256]) -> [Colour; 16] {
        let attribute = &self.registers.attribute;
        let select = attribute[0x14];
        let mut colours = [BLACK; 16];
        for (colour, entry) in colours.iter_mut().zip(attribute) {
            let index = if attribute[0x10] & 0x80 != 0 {
                (select & 0x0f) << 4 | entry & 0x0f
            } else {
                (select & 0x0c) << 4 | entry & 0x3f
            };
            *colour = palette[usize::from(index)];
        }
        colours
    }

    fn graphics(&self) -> Graphics {
        let registers = &self.registers;
        if let Some(mode) = self.mode {
            return Graphics {
                pixels: if mode.depth == 4 { Pixels::Planar } else { Pixels::Linear(mode.depth) },
                width: mode.width,
                height: mode.height,
                line_bytes: mode.line_bytes,
                start_bytes: mode.start_bytes,
                line_repeat: 1,
                dot_repeat: 1,
                pan: 0,
            };
        }
        let pixels = match registers.graphics[5] >> 5 & 3 {
            0 => Pixels::Planar,
            1 => Pixels::Interleaved,
            _ => Pixels::DoubledBytes,
        };
        let double_scan = usize::from(registers.crtc[9] >> 7);
        let dots_doubled = registers.sequencer[1] & 8 != 0 && pixels != Pixels::DoubledBytes;
        let dot_repeat = if dots_doubled || pixels == Pixels::DoubledBytes { 2 } else { 1 };
        Graphics {
            pixels,
            width: (registers.displayed_columns() * 8) << usize::from(dots_doubled),
            height: registers.displayed_lines(),
            line_bytes: registers.line_bytes(),
            start_bytes: registers.start_address() * 4,
            line_repeat: if pixels == Pixels::Interleaved || registers.crtc[0x17] & 1 == 0 {
                // These modes show a memory line once per row scan address, which the address bits below are.
                1 << double_scan
            } else {
                (usize::from(registers.crtc[9] & 0x1f) + 1) << double_scan
            },
            dot_repeat,
            pan: usize::from(registers.attribute[0x13] & 7) >> usize::from(pixels == Pixels::DoubledBytes),
        }
    }

    fn render_graphics(&self, graphics: &Graphics, vram: &SharedRegion, palette: &[Colour; 256]) -> Frame {
        let mut frame = Frame::black(graphics.width, graphics.height);
        if self.is_blank() {
            return frame;
        }
        let palette16 = self.palette16(palette);
        let planes = u32::from_le_bytes(
            [0, 1, 2, 3].map(|plane: u8| if self.registers.attribute[0x12] >> plane & 1 != 0 { 0xff } else { 0 }),
        );
        let pixels_wide = graphics.width / graphics.dot_repeat;
        let mut memory = vec![0; (pixels_wide + 16) * 4];
        let needed = match graphics.pixels {
            Pixels::Planar | Pixels::Interleaved => (pixels_wide / 8 + 2) * 4,
            Pixels::DoubledBytes => pixels_wide + 4,
            Pixels::Linear(depth) => pixels_wide * depth.next_multiple_of(8) / 8,
        };
        memory.truncate(needed);
        let mut row = Vec::with_capacity(pixels_wide + 16);
        let scan_mask = if self.mode.is_some() { 0 } else { usize::from(!self.registers.crtc[0x17] & 3) };
        let (mut address, mut scan, mut repeated, mut pan) = (graphics.start_bytes, 0, 0, graphics.pan);
        let mut previous = None;
        for (y, line) in frame.rgba.chunks_exact_mut(graphics.width * 4).enumerate() {
            if self.mode.is_none() && y == self.registers.line_compare() + 1 {
                (address, scan, repeated) = (0, 0, 0);
                if self.registers.attribute[0x10] & 0x20 != 0 {
                    pan = 0;
                }
            }
            let line_address = (self.row_scan_address(address, scan), pan);
            if previous != Some(line_address) {
                fetch(vram, line_address.0, &mut memory);
                row.clear();
                match graphics.pixels {
                    Pixels::Planar => planar_row(&memory, planes, &palette16, &mut row),
                    Pixels::Interleaved => interleaved_row(&memory, planes, &palette16, &mut row),
                    Pixels::DoubledBytes | Pixels::Linear(8) => {
                        row.extend(memory.iter().map(|index| palette[usize::from(*index)]));
                    }
                    Pixels::Linear(depth) => direct_row(&memory, depth, &mut row),
                }
                previous = Some(line_address);
            }
            let shown = row.iter().skip(pan);
            if graphics.dot_repeat == 2 {
                for (dots, colour) in line.chunks_exact_mut(8).zip(shown) {
                    dots[..4].copy_from_slice(colour);
                    dots[4..].copy_from_slice(colour);
                }
            } else {
                for (dot, colour) in line.chunks_exact_mut(4).zip(shown) {
                    dot.copy_from_slice(colour);
                }
            }
            repeated += 1;
            if repeated >= graphics.line_repeat {
                repeated = 0;
                if scan & scan_mask == scan_mask {
                    address += graphics.line_bytes;
                }
                scan += 1;
            }
        }
        frame
    }

    /// CGA and Hercules compatibility: row scan bits take the place of address bits 13 and 14.
    fn row_scan_address(&self, address: usize, scan: usize) -> usize {
        let control = self.registers.crtc[0x17];
        if self.mode.is_some() || control & 3 == 3 {
            return address;
        }
        let mut address = address;
        if control & 1 == 0 {
            let bit = 14 + usize::from(control >> 6 & 1);
            address = (address & !(1 << bit)) | (scan & 1) << bit;
        }
        if control & 2 == 0 {
            address = (address & !(1 << 15)) | (scan >> 1 & 1) << 15;
        }
        address
    }

    fn render_text(&self, layout: &TextLayout, vram: &SharedRegion, palette: &[Colour; 256]) -> Frame {
        let cell_width = layout.cell_dots * layout.dot_repeat;
        let mut frame = Frame::black(layout.columns * cell_width, layout.rows * layout.cell_lines);
        if self.is_blank() {
            return frame;
        }
        let colours = self.palette16(palette);
        let fonts = self.fonts(vram);
        let attribute_mode = self.registers.attribute[0x10];
        let blinks = attribute_mode & 0x08 != 0;
        let mono = attribute_mode & 0x02 != 0;
        let underline_line = usize::from(self.registers.crtc[0x14] & 0x1f);
        let line_graphics = attribute_mode & 0x04 != 0;
        let cursor = self.cursor_lines();
        let row_dots = layout.columns * cell_width;
        let mut cells = vec![0; layout.columns * 4];
        for row in 0..layout.rows {
            let row_address = self.text_row_address(layout, row);
            fetch(vram, row_address, &mut cells);
            for (column, cell) in cells.chunks_exact(4).enumerate() {
                let (character, attribute) = (cell[0], cell[1]);
                let background = if blinks { attribute >> 4 & 7 } else { attribute >> 4 };
                let hidden = blinks && attribute & 0x80 != 0 && !self.blink_phase;
                let foreground = if hidden { background } else { attribute & 0x0f };
                let (foreground, background) = (colours[usize::from(foreground)], colours[usize::from(background)]);
                let font = &fonts[usize::from(attribute >> 3 & 1)];
                let at_cursor = row_address / 4 + column == self.registers.cursor_address();
                for line in 0..layout.cell_lines {
                    let glyph_line = line >> usize::from(layout.double_scan);
                    let mut dots = u16::from(font[usize::from(character) * 32 + glyph_line]) << 1;
                    // The ninth dot is background, but for the line drawing characters, whose lines must join.
                    if line_graphics && (0xc0..=0xdf).contains(&character) {
                        dots |= dots >> 1 & 1;
                    }
                    let underlined = mono && attribute & 7 == 1 && glyph_line == underline_line;
                    let in_cursor = at_cursor && cursor.as_ref().is_some_and(|lines| lines.contains(&glyph_line));
                    if in_cursor || underlined {
                        dots = 0x1ff;
                    }
                    let start = ((row * layout.cell_lines + line) * row_dots + column * cell_width) * 4;
                    let Some(line) = frame.rgba.get_mut(start..start + cell_width * 4) else { continue };
                    for (dot, pixel) in line.chunks_exact_mut(4).enumerate() {
                        let lit = dots >> (8 - dot / layout.dot_repeat) & 1 != 0;
                        pixel.copy_from_slice(if lit { &foreground } else { &background });
                    }
                }
            }
        }
        frame
    }

    /// The glyph lines the cursor covers, while it shows.
    fn cursor_lines(&self) -> Option<std::ops::RangeInclusive<usize>> {
        let (start, end) = (self.registers.crtc[0x0a], self.registers.crtc[0x0b]);
        (start & 0x20 == 0 && self.cursor_phase).then(|| usize::from(start & 0x1f)..=usize::from(end & 0x1f))
    }

    /// The two fonts (attribute bit 3 clear, set): 256 glyphs of 32 lines each, from plane 2.
    fn fonts(&self, vram: &SharedRegion) -> [Vec<u8>; 2] {
        let select = self.registers.sequencer[3];
        let map_b = (select >> 4 & 1) | (select << 1 & 6);
        let map_a = (select >> 5 & 1) | (select >> 1 & 6);
        [map_b, map_a].map(|map| {
            let mut words = vec![0; 256 * 32 * 4];
            fetch(vram, usize::from(map) * words.len(), &mut words);
            words.chunks_exact(4).map(|planes| planes[2]).collect()
        })
    }
}

impl Frame {
    fn black(width: usize, height: usize) -> Self {
        let size = |dots: usize| u32::try_from(dots).unwrap_or(u32::MAX);
        Self { width: size(width), height: size(height), rgba: BLACK.repeat(width * height) }
    }
}

/// Eight pixels of each 32-bit word, a bit of each plane.
fn planar_row(memory: &[u8], planes: u32, palette: &[Colour; 16], row: &mut Vec<Colour>) {
    for word in memory.chunks_exact(4) {
        let word = u32::from_le_bytes([word[0], word[1], word[2], word[3]]) & planes;
        let [plane0, plane1, plane2, plane3] = word.to_le_bytes();
        for bit in (0..8).rev() {
            let index =
                (plane0 >> bit & 1) | (plane1 >> bit & 1) << 1 | (plane2 >> bit & 1) << 2 | (plane3 >> bit & 1) << 3;
            row.push(palette[usize::from(index)]);
        }
    }
}

/// Eight pixels of each 32-bit word: four from planes 0 and 2, then four from planes 1 and 3, two bits of each.
fn interleaved_row(memory: &[u8], planes: u32, palette: &[Colour; 16], row: &mut Vec<Colour>) {
    for word in memory.chunks_exact(4) {
        let word = u32::from_le_bytes([word[0], word[1], word[2], word[3]]) & planes;
        let [plane0, plane1, plane2, plane3] = word.to_le_bytes();
        for (low, high) in [(plane0, plane2), (plane1, plane3)] {
            for shift in [6, 4, 2, 0] {
                let index = (low >> shift & 3) | (high >> shift & 3) << 2;
                row.push(palette[usize::from(index)]);
            }
        }
    }
}

/// Pixels that are colours themselves.
fn direct_row(memory: &[u8], depth: usize, row: &mut Vec<Colour>) {
    let five = |value: u16| low_byte((value & 0x1f) << 3 | (value & 0x1f) >> 2);
    let six = |value: u16| low_byte((value & 0x3f) << 2 | (value & 0x3f) >> 4);
    match depth {
        15 => row.extend(memory.chunks_exact(2).map(|pixel| {
            let value = u16::from_le_bytes([pixel[0], pixel[1]]);
            [five(value >> 10), five(value >> 5), five(value), 0xff]
        })),
        16 => row.extend(memory.chunks_exact(2).map(|pixel| {
            let value = u16::from_le_bytes([pixel[0], pixel[1]]);
            [five(value >> 11), six(value >> 5), five(value), 0xff]
        })),
        24 => row.extend(memory.chunks_exact(3).map(|pixel| [pixel[2], pixel[1], pixel[0], 0xff])),
        _ => row.extend(memory.chunks_exact(4).map(|pixel| [pixel[2], pixel[1], pixel[0], 0xff])),
    }
}

fn low_byte(value: u16) -> u8 {
    value.to_le_bytes()[0]
}

/// Reads `out.len()` bytes from `address`, going round at the end of video memory (whose length is a power of two).
pub(super) fn fetch(vram: &SharedRegion, address: usize, out: &mut [u8]) {
    let mut at = address & (vram.len() - 1);
    let mut rest = out;
    while !rest.is_empty() {
        let (part, after) = rest.split_at_mut(rest.len().min(vram.len() - at));
        if !vram.read(at, part) {
            part.fill(0);
        }
        (rest, at) = (after, 0);
    }
}
