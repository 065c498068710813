//! CRC-32C, which the CRC32 instruction accumulates.

/// The polynomial 0x1edc6f41, reflected.
const POLYNOMIAL: u32 = 0x82f6_3b78;

/// `TABLES[n][byte]`: what a byte contributes that has `n` more bytes after it.
static TABLES: [[u32; 256]; 8] = {
    let mut tables = [[0; 256]; 8];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u32;
        let mut n = 0;
        while n < 8 {
            let mut bit = 0;
            while bit < 8 {
                crc = crc >> 1 ^ if crc & 1 == 1 { POLYNOMIAL } else { 0 };
                bit += 1;
            }
            tables[n][byte] = crc;
            n += 1;
        }
        byte += 1;
    }
    tables
};

/// Accumulates a byte.
#[inline]
pub fn crc32_u8(crc: u32, value: u8) -> u32 {
    crc >> 8 ^ TABLES[0][usize::from(crc as u8 ^ value)]
}

/// Accumulates two bytes.
#[inline]
pub fn crc32_u16(crc: u32, value: u16) -> u32 {
    let [a, b] = (crc as u16 ^ value).to_le_bytes();
    crc >> 16 ^ TABLES[1][usize::from(a)] ^ TABLES[0][usize::from(b)]
}

/// Accumulates four bytes.
#[inline]
pub fn crc32_u32(crc: u32, value: u32) -> u32 {
    let bytes = (crc ^ value).to_le_bytes();
    (0..4).fold(0, |all, i| all ^ TABLES[3 - i][usize::from(bytes[i])])
}

/// Accumulates eight bytes.
#[inline]
pub fn crc32_u64(crc: u32, value: u64) -> u32 {
    let bytes = (u64::from(crc) ^ value).to_le_bytes();
    (0..8).fold(0, |all, i| all ^ TABLES[7 - i][usize::from(bytes[i])])
}
