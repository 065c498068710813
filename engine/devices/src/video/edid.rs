//! The monitor's description: one 128-byte EDID 1.3 block (VESA E-EDID standard, release A).

/// Length of the block.
pub const EDID_LEN: usize = 128;

/// A block whose preferred mode is `width` by `height` at 60 Hz. Sizes are clamped to what a detailed timing holds
/// (64 to 4080).
pub fn edid(width: u16, height: u16) -> [u8; EDID_LEN] {
    let (width, height) = (width.clamp(64, 4080), height.clamp(64, 4080));
    let mut block = [0; EDID_LEN];
    block[..8].copy_from_slice(&[0x00, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x00]);
    // Manufacturer "BTP": three 5-bit letters, big-endian.
    block[8..10].copy_from_slice(&(2u16 << 10 | 20 << 5 | 16).to_be_bytes());
    block[10..12].copy_from_slice(&1u16.to_le_bytes());
    // Week 1 of 2026, EDID 1.3.
    block[16] = 1;
    block[17] = 36;
    block[18] = 1;
    block[19] = 3;
    // Digital input; the size follows from 100 dpi; gamma 2.2; RGB colour, preferred timing is the first.
    block[20] = 0x80;
    let centimetres = |pixels: u16| u8::try_from(u32::from(pixels) * 254 / 10_000).unwrap_or(u8::MAX).max(1);
    block[21] = centimetres(width);
    block[22] = centimetres(height);
    block[23] = 120;
    block[24] = 0x0a;
    // sRGB chromaticity.
    block[25..35].copy_from_slice(&[0xee, 0x91, 0xa3, 0x54, 0x4c, 0x99, 0x26, 0x0f, 0x50, 0x54]);
    // Established: 640x480, 800x600 and 1024x768 at 60 Hz.
    block[35] = 0x21;
    block[36] = 0x08;
    // Standard timings: width / 8 - 31, aspect (0 = 16:10, 1 = 4:3, 2 = 5:4, 3 = 16:9) and 60 Hz.
    let standard = [(1280u16, 0u8), (1280, 2), (1440, 0), (1600, 1), (1680, 0), (1920, 3), (1920, 0), (1152, 1)];
    for (slot, (pixels, aspect)) in block[38..54].chunks_exact_mut(2).zip(standard) {
        slot[0] = u8::try_from(pixels / 8 - 31).unwrap_or(1);
        slot[1] = aspect << 6;
    }
    block[54..72].copy_from_slice(&detailed_timing(width, height));
    // Range limits: 50-75 Hz, 30-160 kHz, 600 MHz.
    block[72..90]
        .copy_from_slice(&[0, 0, 0, 0xfd, 0, 50, 75, 30, 160, 60, 0, 0x0a, 0x20, 0x20, 0x20, 0x20, 0x20, 0x20]);
    block[90..108].copy_from_slice(&text_descriptor(0xfc, b"Benchtop"));
    block[108..126].copy_from_slice(&text_descriptor(0xff, b"1"));
    let sum = block.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
    block[127] = sum.wrapping_neg();
    block
}

fn detailed_timing(width: u16, height: u16) -> [u8; 18] {
    // Reduced blanking as CVT 1.1 has it: 160 pixels, and 23 lines or more so that 460 us of blanking fit.
    let (h_blank, h_front, h_sync) = (160u16, 48u16, 32u16);
    let (v_blank, v_front, v_sync) = (31u16.max(height / 32), 3u16, 6u16);
    let hertz = u32::from(width + h_blank) * u32::from(height + v_blank) * 60;
    let clock = u16::try_from(hertz / 10_000).unwrap_or(u16::MAX).to_le_bytes();
    let low = |value: u16| value.to_le_bytes()[0];
    let high = |value: u16| value.to_le_bytes()[1] & 0x0f;
    let millimetres = |pixels: u16| u16::try_from(u32::from(pixels) * 254 / 1000).unwrap_or(0x0fff);
    let (h_size, v_size) = (millimetres(width), millimetres(height));
    [
        clock[0],
        clock[1],
        low(width),
        low(h_blank),
        high(width) << 4 | high(h_blank),
        low(height),
        low(v_blank),
        high(height) << 4 | high(v_blank),
        low(h_front),
        low(h_sync),
        low(v_front) << 4 | low(v_sync),
        0,
        low(h_size),
        low(v_size),
        high(h_size) << 4 | high(v_size),
        0,
        0,
        // Separate digital syncs: horizontal positive, vertical negative.
        0x1a,
    ]
}

fn text_descriptor(tag: u8, text: &[u8]) -> [u8; 18] {
    let mut descriptor = [0x20; 18];
    descriptor[..5].copy_from_slice(&[0, 0, 0, tag, 0]);
    for (slot, byte) in descriptor[5..].iter_mut().zip(text.iter().chain(b"\n")) {
        *slot = *byte;
    }
    descriptor
}
