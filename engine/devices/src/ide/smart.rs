//! SMART structures (ATA8-ACS section 7.52): a disk that keeps no attributes and is well.

use super::phase::SECTOR;

/// SMART READ DATA.
pub(super) fn data() -> [u8; SECTOR] {
    let mut data = [0; SECTOR];
    data[0] = 0x10;
    // Off-line data collection was never started; the last self-test passed or was never run.
    data[363] = 0;
    // Power-saving entry saves data.
    data[368] = 0x02;
    with_checksum(data)
}

/// SMART READ THRESHOLDS.
pub(super) fn thresholds() -> [u8; SECTOR] {
    let mut data = [0; SECTOR];
    data[0] = 0x10;
    with_checksum(data)
}

/// SMART READ LOG of the directory: only the directory itself.
pub(super) fn log_directory() -> [u8; SECTOR] {
    let mut data = [0; SECTOR];
    data[0] = 0x01;
    data
}

/// Makes all bytes sum to 0.
pub(super) fn with_checksum(mut data: [u8; SECTOR]) -> [u8; SECTOR] {
    let sum = data[..SECTOR - 1].iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
    data[SECTOR - 1] = sum.wrapping_neg();
    data
}
