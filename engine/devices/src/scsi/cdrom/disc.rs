//! Commands that describe the disc: table of contents, disc and track information, DVD structures.

use benchtop_block::Disk;

use super::super::{Outcome, Sense, be16, be32, byte, reply};
use super::{CdDrive, DATA_BLOCK_BYTES};

/// Discs of more blocks than this are DVDs: an 80-minute CD has 360 000.
const CD_MAX_BLOCKS: u32 = 360_000;
/// Track 1's control and ADR: a data track, its position in the Q channel.
const DATA_TRACK: u8 = 0x14;
const LEAD_OUT: u8 = 0xaa;

/// Whole 2048-byte blocks on the disc. A disc beyond 2^32 of them is cut there.
pub(super) fn blocks(disk: &Disk) -> u32 {
    u32::try_from(disk.info().size_bytes / DATA_BLOCK_BYTES as u64).unwrap_or(u32::MAX)
}

/// Whether the disc is a DVD, by its size.
pub(super) fn is_dvd(disk: &Disk) -> bool {
    blocks(disk) > CD_MAX_BLOCKS
}

/// A block number as the four bytes of an MSF address. Saturates at 255 minutes: a DVD has no such addresses.
fn msf(block: u32) -> [u8; 4] {
    let frames = block.saturating_add(150);
    let minute = u8::try_from(frames / (60 * 75)).unwrap_or(0xff);
    // Both below 256: they are remainders.
    [0, minute, (frames / 75 % 60) as u8, (frames % 75) as u8]
}

fn address(block: u32, as_msf: bool) -> [u8; 4] {
    if as_msf { msf(block) } else { block.to_be_bytes() }
}

/// READ TOC/PMA/ATIP (MMC-5 section 6.26).
pub(super) fn read_toc(drive: &CdDrive, cdb: &[u8]) -> Result<Outcome, Sense> {
    let end = blocks(drive.ready()?);
    let as_msf = byte(cdb, 1) & 2 != 0;
    let format = match byte(cdb, 2) & 0x0f {
        // SFF-8020i drivers give the format in the control byte.
        0 => byte(cdb, 9) >> 6,
        format => format,
    };
    let start_track = byte(cdb, 6);
    let mut data = vec![0, 0, 1, 1];
    match format {
        0 => {
            if start_track > 1 && start_track != LEAD_OUT {
                return Err(Sense::INVALID_FIELD);
            }
            if start_track <= 1 {
                data.extend([0, DATA_TRACK, 1, 0]);
                data.extend(address(0, as_msf));
            }
            data.extend([0, DATA_TRACK + 2, LEAD_OUT, 0]);
            data.extend(address(end, as_msf));
        }
        1 => {
            data.extend([0, DATA_TRACK, 1, 0]);
            data.extend(address(0, as_msf));
        }
        2 => {
            if start_track > 1 {
                return Err(Sense::INVALID_FIELD);
            }
            let [_, minute, second, frame] = msf(end);
            for (point, position) in
                [(0xa0, [1, 0, 0]), (0xa1, [1, 0, 0]), (0xa2, [minute, second, frame]), (1, [0, 2, 0])]
            {
                data.extend([1, DATA_TRACK, 0, point, 0, 0, 0, 0]);
                data.extend(position);
            }
        }
        _ => return Err(Sense::INVALID_FIELD),
    }
    set_length(&mut data);
    Ok(reply(data, usize::from(be16(cdb, 7))))
}

/// READ DISC INFORMATION (MMC-5 section 6.22), standard data.
pub(super) fn read_disc_information(drive: &CdDrive, cdb: &[u8]) -> Result<Outcome, Sense> {
    if byte(cdb, 1) & 7 != 0 {
        return Err(Sense::INVALID_FIELD);
    }
    let disk = drive.ready()?;
    let mut data = vec![0; 34];
    // Last session complete, disc complete.
    data[2] = 0x0e;
    data[3..7].fill(1);
    // Unrestricted use.
    data[7] = 0x20;
    data[8] = if is_dvd(disk) { 0xff } else { 0x00 };
    // No next session: lead-in and lead-out are all ones.
    data[16..24].fill(0xff);
    set_length(&mut data);
    Ok(reply(data, usize::from(be16(cdb, 7))))
}

/// READ TRACK INFORMATION (MMC-5 section 6.27).
pub(super) fn read_track_information(drive: &CdDrive, cdb: &[u8]) -> Result<Outcome, Sense> {
    let end = blocks(drive.ready()?);
    let number = be32(cdb, 2);
    let on_disc = match byte(cdb, 1) & 3 {
        0 => number < end,
        1 | 2 => number == 1,
        _ => false,
    };
    if !on_disc {
        return Err(Sense::INVALID_FIELD);
    }
    let mut data = vec![0; 36];
    data[2] = 1;
    data[3] = 1;
    data[5] = 0x04;
    data[6] = 0x01;
    // The last recorded address is valid.
    data[7] = 0x02;
    data[24..28].copy_from_slice(&end.to_be_bytes());
    data[28..32].copy_from_slice(&end.saturating_sub(1).to_be_bytes());
    set_length(&mut data);
    Ok(reply(data, usize::from(be16(cdb, 7))))
}

/// READ SUB-CHANNEL (MMC-3 section 5.17): a data disc plays nothing.
pub(super) fn read_subchannel(drive: &CdDrive, cdb: &[u8]) -> Result<Outcome, Sense> {
    drive.ready()?;
    // No current audio status.
    let mut data = vec![0, 0x15, 0, 0];
    if byte(cdb, 2) & 0x40 != 0 {
        let as_msf = byte(cdb, 1) & 2 != 0;
        match byte(cdb, 3) {
            1 => {
                data.extend([1, DATA_TRACK, 1, 1]);
                data.extend(address(0, as_msf));
                data.extend([0; 4]);
            }
            // Media catalogue number and ISRC: there is none.
            format @ (2 | 3) => {
                data.resize(24, 0);
                data[4] = format;
            }
            _ => return Err(Sense::INVALID_FIELD),
        }
    }
    let len_bytes = u16::try_from(data.len() - 4).unwrap_or(u16::MAX);
    data[2..4].copy_from_slice(&len_bytes.to_be_bytes());
    Ok(reply(data, usize::from(be16(cdb, 7))))
}

/// READ DVD STRUCTURE (MMC-5 section 6.23).
pub(super) fn read_dvd_structure(drive: &CdDrive, cdb: &[u8]) -> Result<Outcome, Sense> {
    let disk = drive.ready()?;
    if byte(cdb, 1) & 0x0f != 0 || byte(cdb, 6) != 0 {
        return Err(Sense::INVALID_FIELD);
    }
    if !is_dvd(disk) {
        return Err(Sense::INCOMPATIBLE_MEDIUM);
    }
    let mut data = match byte(cdb, 7) {
        0x00 => {
            let mut data = vec![0; 2052];
            // DVD-ROM, part version 1; 120 mm, no maximum rate given; one embossed layer.
            data[4..8].copy_from_slice(&[0x01, 0x0f, 0x01, 0x00]);
            // The data zone starts at physical sector 30000h.
            data[8..12].copy_from_slice(&0x3_0000u32.to_be_bytes());
            let last = blocks(disk).saturating_sub(1).saturating_add(0x3_0000);
            data[12..16].copy_from_slice(&last.to_be_bytes());
            data
        }
        0x01 => vec![0; 8],
        0x04 => vec![0; 2052],
        0xff => {
            let mut data = vec![0; 4];
            for (format, len_bytes) in [(0x00, 2052u16), (0x01, 8), (0x04, 2052), (0xff, 20)] {
                data.extend([format, 0x40]);
                data.extend(len_bytes.to_be_bytes());
            }
            data
        }
        _ => return Err(Sense::INVALID_FIELD),
    };
    set_length(&mut data);
    Ok(reply(data, usize::from(be16(cdb, 8))))
}

/// Writes the 16-bit length of what follows it into bytes 0 and 1.
fn set_length(data: &mut [u8]) {
    // Replies here are at most a few KiB.
    let len_bytes = u16::try_from(data.len().saturating_sub(2)).unwrap_or(u16::MAX);
    data[0..2].copy_from_slice(&len_bytes.to_be_bytes());
}
