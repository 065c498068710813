//! The parts of a CD sector in mode 1 (ECMA-130 section 14), made up around the 2048 bytes an image holds.

use serde::{Deserialize, Serialize};

/// User data of a block in bytes: what an image holds and READ (10) gives.
pub const DATA_BLOCK_BYTES: usize = 2048;
/// A whole sector in bytes, as READ CD can ask for it.
pub const RAW_BLOCK_BYTES: usize = 2352;

const SYNC: [u8; 12] = [0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0];
const HEADER_END: usize = 16;
const DATA_END: usize = HEADER_END + DATA_BLOCK_BYTES;
/// P parity starts after the error detection code and 8 zero bytes.
const P_PARITY: usize = DATA_END + 12;
const Q_PARITY: usize = P_PARITY + 172;

/// Which parts of a mode 1 sector are transferred, in the order they stand on the disc.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockLayout {
    sync: bool,
    header: bool,
    data: bool,
    correction: bool,
}

impl BlockLayout {
    /// The 2048 bytes of user data.
    pub const DATA: Self = Self { sync: false, header: false, data: true, correction: false };

    /// From byte 9 of READ CD. A mode 1 sector has no sub-header, so asking for one adds nothing.
    pub fn from_selection(selection: u8) -> Self {
        Self {
            sync: selection & 0x80 != 0,
            header: selection & 0x20 != 0,
            data: selection & 0x10 != 0,
            correction: selection & 0x08 != 0,
        }
    }

    /// Whether blocks go to the guest as the image holds them.
    pub fn is_plain(self) -> bool {
        self == Self::DATA
    }

    /// Bytes transferred for one block.
    pub fn block_bytes(self) -> usize {
        let mut len_bytes = 0;
        for (wanted, part_bytes) in [(self.sync, 12), (self.header, 4), (self.data, 2048), (self.correction, 288)] {
            if wanted {
                len_bytes += part_bytes;
            }
        }
        len_bytes
    }

    /// Appends the wanted parts of block `number`, whose user data is `data` (2048 bytes), to `out`.
    pub fn encode(self, number: u32, data: &[u8], out: &mut Vec<u8>) {
        if self.is_plain() {
            out.extend_from_slice(data);
            return;
        }
        let sector = raw_sector(number, data);
        for (wanted, range) in [
            (self.sync, 0..12),
            (self.header, 12..HEADER_END),
            (self.data, HEADER_END..DATA_END),
            (self.correction, DATA_END..RAW_BLOCK_BYTES),
        ] {
            if wanted {
                out.extend_from_slice(&sector[range]);
            }
        }
    }
}

fn bcd(value: u32) -> u8 {
    // Below 100, so below 9Ah.
    (((value / 10 % 10) << 4) | (value % 10)) as u8
}

/// The whole mode 1 sector with its error detection and correction codes.
fn raw_sector(number: u32, data: &[u8]) -> [u8; RAW_BLOCK_BYTES] {
    let mut sector = [0; RAW_BLOCK_BYTES];
    sector[..12].copy_from_slice(&SYNC);
    let frames = number.saturating_add(150);
    sector[12..HEADER_END].copy_from_slice(&[
        bcd(frames / (60 * 75) % 100),
        bcd(frames / 75 % 60),
        bcd(frames % 75),
        1,
    ]);
    let len_bytes = data.len().min(DATA_BLOCK_BYTES);
    sector[HEADER_END..HEADER_END + len_bytes].copy_from_slice(&data[..len_bytes]);
    let code = error_detection(&sector[..DATA_END]);
    sector[DATA_END..DATA_END + 4].copy_from_slice(&code.to_le_bytes());
    parity(&mut sector, P_PARITY, 43, 26, |column, row| row * 86 + column * 2);
    parity(&mut sector, Q_PARITY, 26, 45, |column, row| (column * 86 + row * 88) % 2236);
    sector
}

/// The 32-bit CRC of ECMA-130 section 14.3, least significant bit first.
fn error_detection(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0, |code, &byte| {
        (0..8).fold(code ^ u32::from(byte), |code, _| if code & 1 != 0 { code >> 1 ^ 0xd801_8001 } else { code >> 1 })
    })
}

/// Doubles in GF(2^8) modulo x^8 + x^4 + x^3 + x^2 + 1.
fn double(value: u8) -> u8 {
    value << 1 ^ if value & 0x80 != 0 { 0x1d } else { 0 }
}

/// Divides by 3, the sum of the two weights of the parity positions. 3 has order 255, and F4h is its inverse.
fn third(value: u8) -> u8 {
    let mut product = 0;
    let mut addend = value;
    for bit in 0..8 {
        if 0xf4u8 >> bit & 1 != 0 {
            product ^= addend;
        }
        addend = double(addend);
    }
    product
}

/// Fills in the two parity bytes of each code word (ECMA-130 annex A): words of `length` bytes including parity, with
/// the weights 2^(length - 1 - row), summing to 0 both plain and weighted. Each of `columns` columns is two words, one
/// of the low bytes and one of the high bytes. `position` gives the byte offset after the sync field of data rows.
fn parity(
    sector: &mut [u8; RAW_BLOCK_BYTES],
    at: usize,
    columns: usize,
    length: usize,
    position: impl Fn(usize, usize) -> usize,
) {
    for column in 0..columns {
        for lane in 0..2 {
            let (mut plain, mut weighted) = (0, 0);
            for row in 0..length - 2 {
                let byte = sector[12 + position(column, row) + lane];
                plain ^= byte;
                weighted = double(weighted ^ byte);
            }
            // With parity bytes p (weight 2) and q (weight 1): p + q = plain, 2 p + q = weighted * 2.
            let weighted = double(weighted);
            let first = third(weighted ^ plain);
            sector[at + column * 2 + lane] = first;
            sector[at + (columns + column) * 2 + lane] = first ^ plain;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_words_check_out() {
        let data: Vec<u8> = (0..DATA_BLOCK_BYTES).map(|i| (i * 7 + i / 256) as u8).collect();
        let sector = raw_sector(16, &data);
        assert_eq!(sector[12..16], [0x00, 0x02, 0x16, 0x01]);
        assert_eq!(error_detection(&sector[..DATA_END + 4]), 0);
        let words = |columns: usize, rows: usize, at: usize, position: &dyn Fn(usize, usize) -> usize| {
            for column in 0..columns {
                for lane in 0..2 {
                    let (mut plain, mut weighted) = (0, 0);
                    for row in 0..rows {
                        let byte = match row.checked_sub(rows - 2) {
                            None => sector[12 + position(column, row) + lane],
                            Some(parity) => sector[at + (parity * columns + column) * 2 + lane],
                        };
                        plain ^= byte;
                        weighted = double(weighted) ^ byte;
                    }
                    assert_eq!((plain, weighted), (0, 0), "column {column} lane {lane}");
                }
            }
        };
        words(43, 26, P_PARITY, &|column, row| row * 86 + column * 2);
        words(26, 45, Q_PARITY, &|column, row| (column * 86 + row * 88) % 2236);
    }

    #[test]
    fn a_layout_gives_its_length() {
        for selection in 0..=255u8 {
            let layout = BlockLayout::from_selection(selection);
            let mut out = Vec::new();
            layout.encode(7, &[0x5a; DATA_BLOCK_BYTES], &mut out);
            assert_eq!(out.len(), layout.block_bytes());
        }
        assert_eq!(BlockLayout::from_selection(0xf8).block_bytes(), RAW_BLOCK_BYTES);
    }
}
