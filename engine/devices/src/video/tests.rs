//! The adapter, driven through ports and windows as guests drive it.

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::conformance::device_round_trip;

const VRAM_BYTES: u64 = 1 << 20;
const BAR2: u64 = 0xfebf_0000;

/// A mode as a VGA BIOS sets it: miscellaneous output, sequencer, CRTC, graphics and attribute controller.
struct Mode {
    misc: u8,
    sequencer: [u8; 5],
    crtc: [u8; 25],
    graphics: [u8; 9],
    attribute: [u8; 21],
}

const TEXT: Mode = Mode {
    misc: 0x67,
    sequencer: [3, 0, 3, 0, 2],
    crtc: [
        0x5f, 0x4f, 0x50, 0x82, 0x55, 0x81, 0xbf, 0x1f, 0, 0x4f, 0x0d, 0x0e, 0, 0, 0, 0, 0x9c, 0x8e, 0x8f, 0x28, 0x1f,
        0x96, 0xb9, 0xa3, 0xff,
    ],
    graphics: [0, 0, 0, 0, 0, 0x10, 0x0e, 0x0f, 0xff],
    attribute: [0, 1, 2, 3, 4, 5, 0x14, 7, 0x38, 0x39, 0x3a, 0x3b, 0x3c, 0x3d, 0x3e, 0x3f, 0x0c, 0, 0x0f, 8, 0],
};

const PLANAR: Mode = Mode {
    misc: 0xe3,
    sequencer: [3, 1, 0x0f, 0, 6],
    crtc: [
        0x5f, 0x4f, 0x50, 0x82, 0x54, 0x80, 0x0b, 0x3e, 0, 0x40, 0, 0, 0, 0, 0, 0, 0xea, 0x8c, 0xdf, 0x28, 0, 0xe7, 4,
        0xe3, 0xff,
    ],
    graphics: [0, 0, 0, 0, 0, 0, 5, 0x0f, 0xff],
    attribute: [0, 1, 2, 3, 4, 5, 0x14, 7, 0x38, 0x39, 0x3a, 0x3b, 0x3c, 0x3d, 0x3e, 0x3f, 1, 0, 0x0f, 0, 0],
};

const BYTES: Mode = Mode {
    misc: 0x63,
    sequencer: [3, 1, 0x0f, 0, 0x0e],
    crtc: [
        0x5f, 0x4f, 0x50, 0x82, 0x54, 0x80, 0xbf, 0x1f, 0, 0x41, 0, 0, 0, 0, 0, 0, 0x9c, 0x8e, 0x8f, 0x28, 0x40, 0x96,
        0xb9, 0xa3, 0xff,
    ],
    graphics: [0, 0, 0, 0, 0, 0x40, 5, 0x0f, 0xff],
    attribute: [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 0x41, 0, 0x0f, 0, 0],
};

const CGA: Mode = Mode {
    misc: 0x63,
    sequencer: [3, 9, 3, 0, 2],
    crtc: [
        0x2d, 0x27, 0x28, 0x90, 0x2b, 0x80, 0xbf, 0x1f, 0, 0xc1, 0, 0, 0, 0, 0, 0, 0x9c, 0x8e, 0x8f, 0x14, 0, 0x96,
        0xb9, 0xa2, 0xff,
    ],
    graphics: [0, 0, 0, 0, 0, 0x30, 0x0f, 0x0f, 0xff],
    attribute: [0, 0x13, 0x15, 0x17, 2, 4, 6, 7, 0x10, 0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 1, 0, 3, 0, 0],
};

struct Bench {
    vga: Vga,
    clock: VirtualClock,
}

impl Bench {
    fn new() -> Self {
        Self::with_vram(VRAM_BYTES)
    }

    fn with_vram(bytes: u64) -> Self {
        let clock = VirtualClock::stopped();
        let mut vga = Vga::new(bytes, &[0x55, 0xaa, 1], clock.clone()).unwrap();
        vga.config_write(0x04, 3, 0xffff);
        vga.config_write(0x18, u32::try_from(BAR2).unwrap(), u32::MAX);
        Self { vga, clock }
    }

    fn out(&mut self, port: u16, value: u8) {
        self.vga.port_write(port, &[value]);
    }

    fn input(&mut self, port: u16) -> u8 {
        let mut data = [0xff];
        self.vga.port_read(port, &mut data);
        data[0]
    }

    /// A word write of index and data.
    fn set(&mut self, port: u16, index: u8, value: u8) {
        self.vga.port_write(port, &[index, value]);
    }

    fn dispi(&mut self, index: u16, value: u16) {
        self.vga.port_write(0x1ce, &index.to_le_bytes());
        self.vga.port_write(0x1cf, &value.to_le_bytes());
    }

    fn dispi_read(&mut self, index: u16) -> u16 {
        self.vga.port_write(0x1ce, &index.to_le_bytes());
        let mut data = [0; 2];
        self.vga.port_read(0x1d0, &mut data);
        u16::from_le_bytes(data)
    }

    fn linear(&mut self, width: u16, height: u16, depth: u16) {
        self.dispi(4, 0);
        self.dispi(1, width);
        self.dispi(2, height);
        self.dispi(3, depth);
        self.dispi(4, 0x41);
        self.out(0x3c0, 0x20);
    }

    fn mode(&mut self, mode: &Mode) {
        self.dispi(4, 0);
        self.out(0x3c2, mode.misc);
        self.input(0x3da);
        for (index, value) in (0..).zip(mode.attribute) {
            self.out(0x3c0, index);
            self.out(0x3c0, value);
        }
        for (index, value) in (0..).zip(mode.sequencer) {
            self.set(0x3c4, index, value);
        }
        for (index, value) in (0..).zip(mode.graphics) {
            self.set(0x3ce, index, value);
        }
        self.set(0x3d4, 0x11, 0);
        for (index, value) in (0..).zip(mode.crtc) {
            self.set(0x3d4, index, value);
        }
        self.input(0x3da);
        self.out(0x3c0, 0x20);
        self.out(0x3c8, 0);
        for index in 0..=255u8 {
            for component in 0..3 {
                self.out(0x3c9, index.wrapping_add(component) & 0x3f);
            }
        }
    }

    fn store(&mut self, gpa: u64, data: &[u8]) {
        for (at, chunk) in data.chunks(8).enumerate() {
            self.vga.mmio_write(gpa + at as u64 * 8, chunk);
        }
    }

    fn load(&mut self, gpa: u64) -> u8 {
        let mut data = [0];
        self.vga.mmio_read(gpa, &mut data);
        data[0]
    }

    /// Loads a font into plane 2 through the window, as a BIOS does.
    fn font(&mut self, character: u8, glyph: &[u8]) {
        self.set(0x3c4, 2, 4);
        self.set(0x3c4, 4, 6);
        self.set(0x3ce, 5, 0);
        self.set(0x3ce, 6, 4);
        self.store(0xa0000 + u64::from(character) * 32, glyph);
        self.set(0x3c4, 2, 3);
        self.set(0x3c4, 4, 2);
        self.set(0x3ce, 5, 0x10);
        self.set(0x3ce, 6, 0x0e);
    }

    /// The DAC index behind a pixel, given the palette `mode` sets.
    fn pixel(&self, frame: &Frame, x: usize, y: usize) -> [u8; 3] {
        let at = (y * frame.width as usize + x) * 4;
        assert_eq!(frame.rgba[at + 3], 0xff);
        [frame.rgba[at], frame.rgba[at + 1], frame.rgba[at + 2]]
    }
}

fn colour(index: u8) -> [u8; 3] {
    [0, 1, 2].map(|component| {
        let value = index.wrapping_add(component) & 0x3f;
        value << 2 | value >> 4
    })
}

#[test]
fn text_mode_reads_and_looks_right() {
    let mut bench = Bench::new();
    bench.mode(&TEXT);
    bench.font(b'H', &[0x81; 16]);
    bench.font(0xc4, &[0x01; 16]);
    bench.font(0x42, &[0x00; 16]);
    let blank: Vec<u8> = [b' ', 0x07].repeat(80 * 25);
    bench.store(0xb8000, &blank);
    bench.store(0xb8000, b"H\x1fi\x07\xc4\x1f");
    bench.store(0xb8000 + 160, b"x\x07");
    let lines = bench.vga.text_screen().unwrap();
    assert_eq!((lines.len(), lines[0].as_str(), lines[1].as_str(), lines[24].as_str()), (25, "Hi─", "x", ""));
    let frame = bench.vga.render();
    assert_eq!((frame.width, frame.height), (720, 400));
    // White on blue: first and eighth dot lit, the ninth is background.
    assert_eq!(bench.pixel(&frame, 0, 5), colour(0x3f));
    assert_eq!(bench.pixel(&frame, 1, 5), colour(1));
    assert_eq!(bench.pixel(&frame, 7, 5), colour(0x3f));
    assert_eq!(bench.pixel(&frame, 8, 5), colour(1));
    // Line drawing characters go on into the ninth.
    assert_eq!(bench.pixel(&frame, 18 + 7, 5), colour(0x3f));
    assert_eq!(bench.pixel(&frame, 18 + 8, 5), colour(0x3f));
    assert_eq!(bench.load(0xb8000), b'H');
    assert_eq!(bench.load(0xb8001), 0x1f);
}

#[test]
fn cursor_and_blinking() {
    let mut bench = Bench::new();
    bench.mode(&TEXT);
    bench.store(0xb8000, &[b' ', 0x07].repeat(2000));
    bench.set(0x3d4, 0x0f, 81);
    bench.font(b'#', &[0xff; 16]);
    bench.store(0xb8000, b"#\x87");
    let frame = bench.vga.render();
    assert_eq!(bench.pixel(&frame, 9, 16 + 13), colour(7));
    assert_eq!(bench.pixel(&frame, 9, 16 + 12), colour(0));
    assert_eq!(bench.pixel(&frame, 0, 0), colour(7));
    let generation = bench.vga.generation();
    bench.clock.advance(Duration::from_millis(230));
    assert_ne!(bench.vga.generation(), generation);
    assert_eq!(bench.pixel(&bench.vga.render(), 9, 16 + 13), colour(0));
    bench.clock.advance(Duration::from_millis(230));
    assert_eq!(bench.pixel(&bench.vga.render(), 0, 0), colour(0));
    bench.set(0x3d4, 0x0a, 0x2d);
    assert_eq!(bench.pixel(&bench.vga.render(), 9, 16 + 13), colour(0));
}

#[test]
fn planar_write_modes() {
    let mut bench = Bench::new();
    bench.mode(&PLANAR);
    let planes = |bench: &Bench, address: usize| {
        let mut word = [0; 4];
        assert!(bench.vga.vram().read(address * 4, &mut word));
        word
    };
    // Mode 0 with rotation, map mask and set/reset.
    bench.set(0x3c4, 2, 0x07);
    bench.set(0x3ce, 3, 0x04);
    bench.set(0x3ce, 1, 0x02);
    bench.store(0xa0000, &[0x0f]);
    assert_eq!(planes(&bench, 0), [0xf0, 0x00, 0xf0, 0x00]);
    bench.set(0x3ce, 1, 0);
    bench.set(0x3ce, 3, 0);
    bench.set(0x3c4, 2, 0x0f);
    // Mode 2 behind a bit mask keeps the latched rest.
    bench.store(0xa0001, &[0xff]);
    assert_eq!(bench.load(0xa0001), 0xff);
    bench.set(0x3ce, 5, 2);
    bench.set(0x3ce, 8, 0x0f);
    bench.store(0xa0001, &[0x05]);
    assert_eq!(planes(&bench, 1), [0xff, 0xf0, 0xff, 0xf0]);
    // Mode 1 copies the latch.
    bench.load(0xa0001);
    bench.set(0x3ce, 5, 1);
    bench.store(0xa0002, &[0]);
    assert_eq!(planes(&bench, 2), [0xff, 0xf0, 0xff, 0xf0]);
    // Mode 3: set/reset behind data and bit mask.
    bench.set(0x3ce, 5, 3);
    bench.set(0x3ce, 8, 0xff);
    bench.set(0x3ce, 0, 0x0a);
    bench.load(0xa0003);
    bench.store(0xa0003, &[0x3c]);
    assert_eq!(planes(&bench, 3), [0, 0x3c, 0, 0x3c]);
    // XOR with the latch.
    bench.set(0x3ce, 5, 0);
    bench.set(0x3ce, 3, 0x18);
    bench.load(0xa0003);
    bench.store(0xa0003, &[0xff]);
    assert_eq!(planes(&bench, 3), [0xff, 0xc3, 0xff, 0xc3]);
    // Read map select, and read mode 1.
    bench.set(0x3ce, 4, 1);
    assert_eq!(bench.load(0xa0003), 0xc3);
    bench.set(0x3ce, 5, 8);
    bench.set(0x3ce, 2, 0x0f);
    assert_eq!(bench.load(0xa0003), 0xc3);
    bench.set(0x3ce, 7, 0x05);
    assert_eq!(bench.load(0xa0003), 0xff);
}

#[test]
fn planar_picture_with_split_and_panning() {
    let mut bench = Bench::new();
    bench.mode(&PLANAR);
    bench.set(0x3c4, 2, 0x09);
    bench.store(0xa0000 + 80 * 479 + 79, &[0x01]);
    let frame = bench.vga.render();
    assert_eq!((frame.width, frame.height), (640, 480));
    assert_eq!(bench.pixel(&frame, 639, 479), colour(0x39));
    assert_eq!(bench.pixel(&frame, 638, 479), colour(0));
    // Line 100 on shows memory from 0 again.
    bench.set(0x3d4, 0x18, 99);
    bench.set(0x3d4, 0x07, 0x2e);
    bench.set(0x3d4, 0x09, 0);
    bench.store(0xa0000, &[0x80]);
    let frame = bench.vga.render();
    assert_eq!(bench.pixel(&frame, 0, 0), colour(0x39));
    assert_eq!(bench.pixel(&frame, 0, 100), colour(0x39));
    assert_eq!(bench.pixel(&frame, 639, 479), colour(0));
    // Panned by one dot.
    bench.store(0xa0001, &[0x80]);
    bench.input(0x3da);
    bench.out(0x3c0, 0x33);
    bench.out(0x3c0, 1);
    let frame = bench.vga.render();
    assert_eq!(bench.pixel(&frame, 7, 0), colour(0x39));
    assert_eq!(bench.pixel(&frame, 8, 0), colour(0));
}

#[test]
fn byte_modes() {
    let mut bench = Bench::new();
    bench.mode(&BYTES);
    bench.store(0xa0000 + 320 * 199 + 319, &[0x2a]);
    let frame = bench.vga.render();
    assert_eq!((frame.width, frame.height), (640, 400));
    for (x, y) in [(638, 398), (639, 399)] {
        assert_eq!(bench.pixel(&frame, x, y), colour(0x2a));
    }
    assert_eq!(bench.pixel(&frame, 637, 399), colour(0));
    // Unchained ("mode X"): a plane is every fourth pixel.
    bench.set(0x3c4, 4, 6);
    bench.set(0x3c4, 2, 0x02);
    bench.store(0xa0000, &[0x11]);
    let frame = bench.vga.render();
    assert_eq!(bench.pixel(&frame, 2, 0), colour(0x11));
    assert_eq!(bench.pixel(&frame, 4, 0), colour(0));
    // The map mask holds in chain-4 as well.
    bench.set(0x3c4, 4, 0x0e);
    bench.store(0xa0000, &[1, 2, 3, 4]);
    assert_eq!(bench.load(0xa0000), 0);
    assert_eq!(bench.load(0xa0001), 2);
}

#[test]
fn cga_mode() {
    let mut bench = Bench::new();
    bench.mode(&CGA);
    bench.store(0xb8000, &[0b01_10_11_00]);
    bench.store(0xba000 + 79, &[0b00_00_00_11]);
    let frame = bench.vga.render();
    assert_eq!((frame.width, frame.height), (640, 400));
    assert_eq!(bench.pixel(&frame, 0, 0), colour(0x13));
    assert_eq!(bench.pixel(&frame, 2, 1), colour(0x15));
    assert_eq!(bench.pixel(&frame, 5, 0), colour(0x17));
    assert_eq!(bench.pixel(&frame, 639, 2), colour(0x17));
    assert_eq!(bench.pixel(&frame, 639, 4), colour(0));
}

#[test]
fn linear_modes() {
    let mut bench = Bench::new();
    let cases: [(u16, &[u8], [u8; 3]); 4] = [
        (15, &[0x1f, 0x7c], [0xff, 0, 0xff]),
        (16, &[0xe0, 0x07], [0, 0xff, 0]),
        (24, &[1, 2, 3], [3, 2, 1]),
        (32, &[1, 2, 3, 0], [3, 2, 1]),
    ];
    for (depth, bytes, expected) in cases {
        bench.linear(320, 200, depth);
        let line = 320 * bytes.len();
        assert!(bench.vga.vram().write(199 * line + 319 * bytes.len(), bytes));
        let frame = bench.vga.render();
        assert_eq!((frame.width, frame.height), (320, 200));
        assert_eq!(bench.pixel(&frame, 319, 199), expected, "{depth}");
        assert_eq!(bench.pixel(&frame, 318, 199), [0; 3]);
    }
    assert_eq!(bench.vga.text_screen(), None);
    bench.mode(&BYTES);
    bench.linear(320, 200, 8);
    assert!(bench.vga.vram().write(1, &[9]));
    assert_eq!(bench.pixel(&bench.vga.render(), 1, 0), colour(9));
    bench.linear(800, 600, 4);
    bench.set(0x3ce, 6, 5);
    bench.set(0x3c4, 4, 6);
    bench.set(0x3ce, 5, 0);
    bench.set(0x3c4, 2, 0x0f);
    bench.store(0xa0000 + 100, &[0x80]);
    assert_eq!(bench.pixel(&bench.vga.render(), 0, 1), colour(15));
}

#[test]
fn dispi_registers() {
    let mut bench = Bench::new();
    assert_eq!(bench.dispi_read(0), 0xb0c5);
    bench.dispi(0, 0xb0c0);
    assert_eq!(bench.dispi_read(0), 0xb0c0);
    bench.dispi(0, 0x1234);
    assert_eq!(bench.dispi_read(0), 0xb0c0);
    assert_eq!(bench.dispi_read(10), 16);
    bench.dispi(4, 2);
    assert_eq!((bench.dispi_read(1), bench.dispi_read(2), bench.dispi_read(3)), (4096, 4096, 32));
    assert!(bench.vga.vram().write(0, &[0xaa; 8]));
    bench.dispi(1, 640);
    bench.dispi(2, 100);
    bench.dispi(3, 16);
    bench.dispi(4, 0xc1);
    let mut first = [0];
    assert!(bench.vga.vram().read(0, &mut first));
    assert_eq!((first[0], bench.dispi_read(6), bench.dispi_read(7)), (0xaa, 640, 819));
    // Page flip and pan.
    bench.dispi(6, 800);
    bench.dispi(9, 100);
    bench.dispi(8, 10);
    assert_eq!(bench.vga.screen_state().mode.unwrap().start_bytes, 100 * 1600 + 20);
    // A virtual width below the visible one, and an offset past the end, are brought into range.
    bench.dispi(6, 8);
    assert_eq!(bench.dispi_read(6), 640);
    bench.dispi(9, 0xffff);
    assert_eq!(bench.dispi_read(9), 0);
    bench.dispi(4, 0x40);
    bench.dispi(4, 0x41);
    assert!(bench.vga.vram().read(0, &mut first));
    assert_eq!(first[0], 0);
}

#[test]
fn registers_in_bar2() {
    let mut bench = Bench::new();
    let edid: Vec<u8> = (0..128).map(|at| bench.load(BAR2 + at)).collect();
    assert_eq!(edid, edid::edid(1280, 800));
    assert_eq!(bench.load(BAR2 + 0x3ff), 0);
    bench.store(BAR2 + 0x504, &800u16.to_le_bytes());
    bench.store(BAR2 + 0x502, &[0x80, 2, 0xe0, 1]);
    let mut both = [0; 4];
    bench.vga.mmio_read(BAR2 + 0x502, &mut both);
    assert_eq!(both, [0x80, 2, 0xe0, 1]);
    assert_eq!(bench.dispi_read(2), 480);
    bench.store(BAR2 + 0x404, &[2, 0x0f]);
    assert_eq!(bench.load(BAR2 + 0x405), 0x0f);
    bench.vga.mmio_read(BAR2 + 0x600, &mut both);
    assert_eq!(u32::from_le_bytes(both), 8);
    bench.store(BAR2 + 0x604, &0xbebe_bebeu32.to_le_bytes());
    bench.vga.mmio_read(BAR2 + 0x604, &mut both);
    assert_eq!(u32::from_le_bytes(both), 0xbebe_bebe);
    // Past the registers nobody answers.
    let mut none = [0xff; 8];
    bench.vga.mmio_read(BAR2 + 0xffc, &mut none);
    assert_eq!(none, [0xff; 8]);
}

#[test]
fn edid_is_well_formed() {
    for (width, height) in [(1280, 800), (1920, 1080), (0, 0), (u16::MAX, u16::MAX)] {
        let block = edid::edid(width, height);
        assert_eq!(block.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)), 0);
        assert_ne!(u16::from_le_bytes([block[54], block[55]]), 0);
    }
    let block = edid::edid(1280, 800);
    assert_eq!(usize::from(block[56]) | usize::from(block[58] >> 4) << 8, 1280);
    assert_eq!(usize::from(block[59]) | usize::from(block[61] >> 4) << 8, 800);
}

#[test]
fn palette_access() {
    let mut bench = Bench::new();
    bench.out(0x3c8, 10);
    for value in [0x3f, 0xff, 0x01, 4, 5, 6] {
        bench.out(0x3c9, value);
    }
    assert_eq!(bench.input(0x3c8), 12);
    bench.out(0x3c7, 10);
    assert_eq!(bench.input(0x3c7), 3);
    assert_eq!([0; 6].map(|_: u8| bench.input(0x3c9)), [0x3f, 0x3f, 1, 4, 5, 6]);
    bench.dispi(4, 0x21);
    bench.out(0x3c8, 0);
    assert_eq!(bench.input(0x3c7), 0);
    for value in [0xfe, 0x80, 0x7f] {
        bench.out(0x3c9, value);
    }
    assert_eq!(bench.vga.registers.dac.colour(0), [0xfe, 0x80, 0x7f]);
}

#[test]
fn status_moves_even_while_the_clock_stands() {
    let mut bench = Bench::new();
    bench.out(0x3c2, 1);
    let first = bench.input(0x3da);
    assert_ne!(bench.input(0x3da), first);
    // Over one picture's time both states of the retrace are seen.
    let mut seen = [false; 2];
    for _ in 0..200 {
        bench.clock.advance(Duration::from_micros(100));
        seen[usize::from(bench.input(0x3da) >> 3 & 1)] = true;
    }
    assert_eq!(seen, [true; 2]);
    // The address not chosen is nobody's, and the read resets the attribute flip-flop.
    assert_eq!(bench.input(0x3ba), 0xff);
    bench.out(0x3c0, 0x11);
    bench.input(0x3da);
    bench.out(0x3c0, 0x12);
    bench.out(0x3c0, 0x0f);
    assert_eq!(bench.input(0x3c1), 0x0f);
}

#[test]
fn protected_crtc_registers() {
    let mut bench = Bench::new();
    bench.mode(&TEXT);
    bench.set(0x3d4, 1, 0x20);
    assert_eq!(bench.input(0x3d5), 0x4f);
    bench.set(0x3d4, 7, 0x00);
    assert_eq!(bench.input(0x3d5), 0x0f);
    bench.set(0x3d4, 0x11, 0x0e);
    bench.set(0x3d4, 1, 0x20);
    assert_eq!(bench.input(0x3d5), 0x20);
}

#[test]
fn decode_follows_the_command_register() {
    let mut bench = Bench::new();
    bench.mode(&BYTES);
    bench.store(0xa0000, &[7]);
    bench.vga.config_write(0x04, 1, 0xffff);
    assert_eq!(bench.load(0xa0000), 0, "the test's buffer is left alone");
    bench.vga.config_write(0x04, 2, 0xffff);
    assert_eq!(bench.load(0xa0000), 7);
    assert_eq!(bench.input(0x3cc), 0xff);
    bench.vga.config_write(0x04, 3, 0xffff);
    assert_eq!(bench.input(0x3cc), 0x63);
    assert_eq!(bench.vga.config_read(0), 0x1111_1234);
    bench.vga.config_write(0x10, 0xfd00_0008, u32::MAX);
    bench.vga.config_write(0x30, 0xfe00_0001, u32::MAX);
    let indexes: Vec<u8> = bench.vga.bars().iter().map(|bar| bar.index).collect();
    assert_eq!(indexes, [0, 2, 6]);
}

#[test]
fn generation_changes_with_the_picture() {
    let mut bench = Bench::new();
    bench.mode(&PLANAR);
    let before = bench.vga.generation();
    assert_eq!(bench.vga.generation(), before);
    bench.input(0x3da);
    bench.load(0xa0000);
    assert_eq!(bench.vga.generation(), before);
    bench.store(0xa0000, &[1]);
    let after = bench.vga.generation();
    assert_ne!(after, before);
    bench.set(0x3d4, 0x0d, 1);
    assert_ne!(bench.vga.generation(), after);
}

#[test]
fn blank_screens_are_black() {
    let mut bench = Bench::new();
    bench.mode(&TEXT);
    bench.store(0xb8000, b"A\x70");
    bench.input(0x3da);
    bench.out(0x3c0, 0);
    let frame = bench.vga.render();
    assert_eq!((frame.width, frame.height), (720, 400));
    assert!(frame.rgba.chunks(4).all(|pixel| pixel == [0, 0, 0, 0xff]));
    assert_eq!(bench.vga.text_screen().unwrap()[0], "A");
    // As after power-on, before the firmware sets a mode: a screenshot right after the start was 9 dots by 1.
    let frame = Bench::new().vga.render();
    assert_eq!((frame.width, frame.height, frame.rgba.len()), (720, 400, 720 * 400 * 4));
    assert!(frame.rgba.chunks(4).all(|pixel| pixel == [0, 0, 0, 0xff]));
}

/// Class of CVE-2016-3710: the bank is added after the window offset was checked.
#[test]
fn banked_accesses_stay_in_video_memory() {
    let mut bench = Bench::new();
    bench.linear(640, 400, 8);
    bench.dispi(5, 3);
    bench.store(0xa0000 + 0xfffc, &[1, 2, 3, 4]);
    let mut bytes = [0; 4];
    assert!(bench.vga.vram().read(0x3fffc, &mut bytes));
    assert_eq!(bytes, [1, 2, 3, 4]);
    for bank in [0x0f, 0x10, 0xff, 0xffff] {
        bench.dispi(5, bank);
        assert_eq!(bench.dispi_read(5), bank & 0x0f);
        for (chain4, odd_even) in [(0x0e, 0), (6, 0), (6, 0x10)] {
            bench.set(0x3c4, 4, chain4);
            bench.set(0x3ce, 5, odd_even);
            for map in 0..4 {
                bench.set(0x3ce, 6, map << 2 | 1);
                for offset in [0, 0xffff, 0x1_0000, 0x1_7fff, 0x1_8000, 0x1_ffff] {
                    bench.store(0xa0000 + offset, &[0x5a; 8]);
                    bench.load(0xa0000 + offset);
                }
            }
        }
    }
}

/// Class of CVE-2016-3712: geometry whose products overflow or leave video memory.
#[test]
fn extreme_geometry_renders() {
    let mut bench = Bench::new();
    for depth in [0, 4, 8, 15, 16, 24, 32, 0xffff] {
        for values in [[0xffff; 5], [0, 0, 0, 0, 0], [8, 0xffff, 0xffff, 0xffff, 0xffff], [4096, 1, 1, 4095, 65535]] {
            bench.linear(values[0], values[1], depth);
            for (index, value) in [(6, values[2]), (8, values[3]), (9, values[4]), (1, values[0]), (2, values[1])] {
                bench.dispi(index, value);
                let mode = bench.vga.screen_state().mode.unwrap();
                let end = mode.start_bytes + mode.height * mode.line_bytes;
                assert!(mode.width <= 4096 && mode.height <= 4096 && mode.width >= 8 && mode.height >= 1);
                assert!(end <= bench.vga.vram().len(), "{mode:?}");
            }
            let frame = bench.vga.render();
            assert_eq!(frame.rgba.len(), frame.width as usize * frame.height as usize * 4);
        }
    }
}

/// Classes of CVE-2018-5683 (text) and CVE-2017-13673 (split screen): extreme start, pitch and compare values.
#[test]
fn extreme_vga_registers_render() {
    for mode in [&TEXT, &PLANAR, &BYTES, &CGA] {
        for value in [0x00, 0x7f, 0xff] {
            let mut bench = Bench::new();
            bench.mode(mode);
            bench.set(0x3d4, 0x11, 0);
            for index in (0..=0x18).filter(|index| *index != 0x11) {
                bench.set(0x3d4, index, value);
                let frame = bench.vga.render();
                assert!(frame.width <= 4608 && frame.height <= 1088);
                assert_eq!(frame.rgba.len(), frame.width as usize * frame.height as usize * 4);
                bench.vga.text_screen();
            }
        }
    }
}

/// Class of CVE-2014-3615: a mode larger than what was cleared must not show what others left behind. Enabling clears
/// the whole visible area, and video memory starts out zero.
#[test]
fn enabling_clears_all_that_becomes_visible() {
    let mut bench = Bench::new();
    assert!(bench.vga.vram().write(0, &vec![0xee; bench.vga.vram().len()]));
    bench.linear(640, 400, 32);
    let frame = bench.vga.render();
    assert!(frame.rgba.chunks(4).all(|pixel| pixel == [0, 0, 0, 0xff]));
}

#[test]
fn conformance() {
    let make = || -> Box<dyn Device> { Box::new(Vga::new(VRAM_BYTES, &[1], VirtualClock::stopped()).unwrap()) };
    device_round_trip(make, |device| {
        let function = device.pci().unwrap();
        function.config_write(0x04, 3, 0xffff);
        function.config_write(0x18, 0xfebf_0000, u32::MAX);
        let ports = device.port_io().unwrap();
        for index in 0..=0x18 {
            ports.port_write(0x3c2, &[0x67]);
            ports.port_write(0x3d4, &[index, index | 0x40]);
            ports.port_write(0x3ce, &[index, 0x11]);
            ports.port_write(0x3c4, &[index & 7, 0x0d]);
            ports.port_write(0x3c9, &[index]);
        }
        ports.port_write(0x3c0, &[0x31]);
        for (index, value) in [(1, 640u16), (2, 100), (3, 16), (4, 0x61), (9, 3), (5, 2)] {
            ports.port_write(0x1ce, &[index, 0]);
            ports.port_write(0x1cf, &value.to_le_bytes());
        }
        let mut data = [0; 4];
        device.mmio().unwrap().mmio_read(0xa0000, &mut data);
    });
}

#[derive(Clone, Debug)]
enum Step {
    Port(u16, Vec<u8>),
    Read(u16, u8),
    Dispi(u16, u16),
    Window(u32, Vec<u8>),
    Load(u32, u8),
    Registers(u16, Vec<u8>),
    Tick(u16),
    Picture,
}

fn step() -> impl Strategy<Value = Step> {
    let bytes = || proptest::collection::vec(any::<u8>(), 1..=8);
    let word = || proptest::sample::select(vec![vec![0u8], vec![0, 0], vec![0, 0, 0, 0]]);
    prop_oneof![
        6 => (0x3b0u16..0x3e0, word(), any::<[u8; 4]>()).prop_map(|(port, shape, values)| {
            Step::Port(port, values[..shape.len()].to_vec())
        }),
        4 => (proptest::sample::select(vec![0x3c4u16, 0x3ce, 0x3d4]), 0u8..0x19, any::<u8>())
            .prop_map(|(port, index, value)| Step::Port(port, vec![index, value])),
        1 => (0x3b0u16..0x3e0, 1u8..=4).prop_map(|(port, len)| Step::Read(port, len)),
        3 => (0u16..12, prop_oneof![any::<u16>(), 0u16..64]).prop_map(|(index, value)| Step::Dispi(index, value)),
        4 => (0u32..0x2_0000, bytes()).prop_map(|(offset, data)| Step::Window(offset, data)),
        1 => (0u32..0x2_0000, 1u8..=8).prop_map(|(offset, len)| Step::Load(offset, len)),
        1 => (0u16..0x1000, bytes()).prop_map(|(offset, data)| Step::Registers(offset, data)),
        1 => any::<u16>().prop_map(Step::Tick),
        1 => Just(Step::Picture),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn any_registers_render(start in 0usize..5, steps in proptest::collection::vec(step(), 0..120)) {
        let mut bench = Bench::new();
        if let Some(mode) = [&TEXT, &PLANAR, &BYTES, &CGA].get(start) {
            bench.mode(mode);
        }
        let mut pictures = 0;
        for step in steps.into_iter().chain([Step::Picture]) {
            match step {
                Step::Port(port, data) => bench.vga.port_write(port, &data),
                Step::Read(port, len) => bench.vga.port_read(port, &mut vec![0xff; usize::from(len)]),
                Step::Dispi(index, value) => bench.dispi(index, value),
                Step::Window(offset, data) => bench.vga.mmio_write(0xa0000 + u64::from(offset), &data),
                Step::Load(offset, len) => {
                    bench.vga.mmio_read(0xa0000 + u64::from(offset), &mut vec![0; usize::from(len)]);
                }
                Step::Registers(offset, data) => {
                    bench.vga.mmio_write(BAR2 + u64::from(offset), &data);
                    bench.vga.mmio_read(BAR2 + u64::from(offset), &mut vec![0; data.len()]);
                }
                Step::Tick(micros) => bench.clock.advance(Duration::from_micros(u64::from(micros))),
                Step::Picture if pictures < 4 => {
                    pictures += 1;
                    let frame = bench.vga.render();
                    prop_assert!(frame.width <= 4608 && frame.height <= 4096);
                    prop_assert_eq!(frame.rgba.len(), frame.width as usize * frame.height as usize * 4);
                    if let Some(text) = bench.vga.text_screen() {
                        prop_assert!(text.len() <= 1024);
                    }
                }
                Step::Picture => {}
            }
        }
        let saved = bench.vga.save();
        let mut twin = Bench::new();
        twin.vga.restore(&saved).unwrap();
        prop_assert_eq!(twin.vga.save(), saved);
        prop_assert_eq!(twin.vga.screen_state().mode, bench.vga.screen_state().mode);
    }
}
