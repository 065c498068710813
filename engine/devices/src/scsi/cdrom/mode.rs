//! MODE SENSE and MODE SELECT.

use super::super::{Outcome, Sense, be16, byte, reply};
use super::CdDrive;
use super::commands::{data_out, opcode};

/// 48 times the speed of an audio CD, in thousands of bytes per second.
const SPEED: [u8; 2] = 8467u16.to_be_bytes();
const PAGES: [u8; 4] = [0x01, 0x0e, 0x1a, 0x2a];
const ALL_PAGES: u8 = 0x3f;

/// A page with its two header bytes (MMC-5 section 7).
fn page(drive: &CdDrive, code: u8) -> Vec<u8> {
    let mut data = match code {
        // Read error recovery: five retries.
        0x01 => vec![0x01, 6, 0, 5, 0, 0, 0, 0],
        // Audio control: both ports connected, at full volume. Nothing is played.
        0x0e => vec![0x0e, 14, 4, 0, 0, 0, 0, 75, 1, 0xff, 2, 0xff, 0, 0, 0, 0],
        // Power condition: no timers.
        0x1a => vec![0x1a, 10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        // Capabilities and mechanical status.
        _ => {
            let mut data = vec![0; 20];
            // Reads CD-R, CD-RW, DVD-ROM, DVD-R; mode 2 forms and several sessions.
            data[2] = 0x1b;
            data[4] = 0x70;
            // Tray, can eject, can lock; locked now.
            data[6] = 0x29 | u8::from(drive.locked) << 1;
            data[8..10].copy_from_slice(&SPEED);
            data[12..14].copy_from_slice(&512u16.to_be_bytes());
            data[14..16].copy_from_slice(&SPEED);
            data
        }
    };
    data[0] = code;
    data[1] = u8::try_from(data.len() - 2).unwrap_or(0);
    data
}

/// MODE SENSE (6) and (10), without block descriptors.
pub(super) fn mode_sense(drive: &CdDrive, cdb: &[u8]) -> Result<Outcome, Sense> {
    let control = byte(cdb, 2) >> 6;
    let wanted = byte(cdb, 2) & 0x3f;
    if control == 3 {
        return Err(Sense::SAVING_UNSUPPORTED);
    }
    if !PAGES.contains(&wanted) && wanted != ALL_PAGES || !matches!(byte(cdb, 3), 0x00 | 0xff) {
        return Err(Sense::INVALID_FIELD);
    }
    let mut pages = Vec::new();
    for code in PAGES {
        if wanted == code || wanted == ALL_PAGES {
            let mut page = page(drive, code);
            if control == 1 {
                // Nothing can be changed.
                page[2..].fill(0);
            }
            pages.extend(page);
        }
    }
    // Medium type by SFF-8020i: door open, no disc, data disc.
    let medium = match (drive.is_tray_open(), drive.loaded()) {
        (true, _) => 0x71,
        (false, None) => 0x70,
        (false, Some(_)) => 0x01,
    };
    let (mut data, allocation_bytes) = if byte(cdb, 0) == opcode::MODE_SENSE_6 {
        let len_bytes = u8::try_from(pages.len() + 3).unwrap_or(u8::MAX);
        (vec![len_bytes, medium, 0, 0], usize::from(byte(cdb, 4)))
    } else {
        let [high, low] = u16::try_from(pages.len() + 6).unwrap_or(u16::MAX).to_be_bytes();
        (vec![high, low, medium, 0, 0, 0, 0, 0], usize::from(be16(cdb, 7)))
    };
    data.extend(pages);
    Ok(reply(data, allocation_bytes))
}

/// MODE SELECT (6) and (10): asks for the list.
pub(super) fn mode_select(cdb: &[u8]) -> Result<Outcome, Sense> {
    if byte(cdb, 1) & 1 != 0 {
        return Err(Sense::INVALID_FIELD);
    }
    Ok(data_out(match byte(cdb, 0) {
        opcode::MODE_SELECT_6 => u16::from(byte(cdb, 4)),
        _ => be16(cdb, 7),
    }))
}

/// Takes the parameter list of MODE SELECT or SET STREAMING. All pages are known and none has a lasting effect, so
/// the list is only judged.
pub(super) fn parameters(cdb: &[u8], data: &[u8]) -> Result<Outcome, Sense> {
    let (header_bytes, descriptor_bytes) = match byte(cdb, 0) {
        opcode::MODE_SELECT_6 => (4, usize::from(byte(data, 3))),
        opcode::MODE_SELECT_10 => (8, usize::from(be16(data, 6))),
        opcode::SET_STREAMING if data.len() == usize::from(be16(cdb, 9)) => return Ok(Outcome::Good),
        _ => return Err(Sense::PARAMETER_LENGTH),
    };
    let mut rest = data.get(header_bytes + descriptor_bytes..).ok_or(Sense::PARAMETER_LENGTH)?;
    while let [code, len_bytes, body @ ..] = rest {
        if !PAGES.contains(&(code & 0x3f)) {
            return Err(Sense::INVALID_PARAMETER);
        }
        rest = body.get(usize::from(*len_bytes)..).ok_or(Sense::PARAMETER_LENGTH)?;
    }
    if rest.is_empty() { Ok(Outcome::Good) } else { Err(Sense::PARAMETER_LENGTH) }
}
