//! Decodes and carries out MMC-5 and SPC-3 commands.

use super::super::{MediaRead, Outcome, Sense, be16, be24, be32, byte, reply};
use super::{BlockLayout, CdDrive, CdTransport, DATA_BLOCK_BYTES, disc, features, mode};

/// Operation codes (MMC-5 table 228).
pub(super) mod opcode {
    pub const TEST_UNIT_READY: u8 = 0x00;
    pub const REQUEST_SENSE: u8 = 0x03;
    pub const INQUIRY: u8 = 0x12;
    pub const MODE_SELECT_6: u8 = 0x15;
    pub const MODE_SENSE_6: u8 = 0x1a;
    pub const START_STOP_UNIT: u8 = 0x1b;
    pub const PREVENT_ALLOW: u8 = 0x1e;
    pub const READ_CAPACITY: u8 = 0x25;
    pub const READ_10: u8 = 0x28;
    pub const SEEK_10: u8 = 0x2b;
    pub const SYNCHRONIZE_CACHE: u8 = 0x35;
    pub const READ_SUBCHANNEL: u8 = 0x42;
    pub const READ_TOC: u8 = 0x43;
    pub const GET_CONFIGURATION: u8 = 0x46;
    pub const GET_EVENT_STATUS: u8 = 0x4a;
    pub const READ_DISC_INFORMATION: u8 = 0x51;
    pub const READ_TRACK_INFORMATION: u8 = 0x52;
    pub const MODE_SELECT_10: u8 = 0x55;
    pub const MODE_SENSE_10: u8 = 0x5a;
    pub const READ_12: u8 = 0xa8;
    pub const READ_DVD_STRUCTURE: u8 = 0xad;
    pub const SET_STREAMING: u8 = 0xb6;
    pub const READ_CD_MSF: u8 = 0xb9;
    pub const SET_CD_SPEED: u8 = 0xbb;
    pub const MECHANISM_STATUS: u8 = 0xbd;
    pub const READ_CD: u8 = 0xbe;
}

/// Most blocks of one READ CD that asks for more than user data: their codes are computed, which takes time.
const MAX_SHAPED_BLOCKS: u32 = 1024;
const CD_MINUTE_FRAMES: u32 = 60 * 75;

pub(super) fn execute(drive: &mut CdDrive, cdb: &[u8]) -> Result<Outcome, Sense> {
    let code = byte(cdb, 0);
    match code {
        opcode::REQUEST_SENSE => return Ok(request_sense(drive, cdb)),
        opcode::INQUIRY | opcode::GET_CONFIGURATION | opcode::GET_EVENT_STATUS => drive.sense = Sense::NONE,
        _ => {
            drive.sense = Sense::NONE;
            if let Some(attention) = drive.next_attention() {
                return Err(attention);
            }
        }
    }
    match code {
        opcode::TEST_UNIT_READY => drive.ready().map(|_| Outcome::Good),
        opcode::INQUIRY => inquiry(drive, cdb),
        opcode::START_STOP_UNIT => start_stop(drive, cdb),
        opcode::PREVENT_ALLOW => {
            drive.locked = byte(cdb, 4) & 1 != 0;
            Ok(Outcome::Good)
        }
        opcode::READ_CAPACITY => {
            let blocks = disc::blocks(drive.ready()?);
            let mut data = blocks.saturating_sub(1).to_be_bytes().to_vec();
            data.extend((DATA_BLOCK_BYTES as u32).to_be_bytes());
            Ok(Outcome::DataIn(data))
        }
        opcode::READ_10 => plan(drive, be32(cdb, 2), u32::from(be16(cdb, 7)), BlockLayout::DATA),
        opcode::READ_12 => plan(drive, be32(cdb, 2), be32(cdb, 6), BlockLayout::DATA),
        opcode::READ_CD => read_cd(drive, cdb, be32(cdb, 2), be24(cdb, 6)),
        opcode::READ_CD_MSF => {
            let start = msf_to_block(cdb, 3)?;
            let end = msf_to_block(cdb, 6)?;
            let blocks = end.checked_sub(start).ok_or(Sense::INVALID_FIELD)?;
            read_cd(drive, cdb, start, blocks)
        }
        opcode::SEEK_10 => match be32(cdb, 2) < disc::blocks(drive.ready()?) {
            true => Ok(Outcome::Good),
            false => Err(Sense::LBA_OUT_OF_RANGE),
        },
        opcode::SYNCHRONIZE_CACHE | opcode::SET_CD_SPEED => Ok(Outcome::Good),
        opcode::READ_SUBCHANNEL => disc::read_subchannel(drive, cdb),
        opcode::READ_TOC => disc::read_toc(drive, cdb),
        opcode::READ_DISC_INFORMATION => disc::read_disc_information(drive, cdb),
        opcode::READ_TRACK_INFORMATION => disc::read_track_information(drive, cdb),
        opcode::READ_DVD_STRUCTURE => disc::read_dvd_structure(drive, cdb),
        opcode::GET_CONFIGURATION => features::get_configuration(drive, cdb),
        opcode::GET_EVENT_STATUS => features::get_event_status(drive, cdb),
        opcode::MODE_SENSE_6 | opcode::MODE_SENSE_10 => mode::mode_sense(drive, cdb),
        opcode::MODE_SELECT_6 | opcode::MODE_SELECT_10 => mode::mode_select(cdb),
        opcode::SET_STREAMING => Ok(data_out(be16(cdb, 9))),
        opcode::MECHANISM_STATUS => {
            let mut data = vec![0; 8];
            data[1] = if drive.tray_open { 0x10 } else { 0 };
            Ok(reply(data, usize::from(be16(cdb, 8))))
        }
        _ => Err(Sense::INVALID_OPCODE),
    }
}

/// Asks for a parameter list; a length of 0 is no error and changes nothing.
pub(super) fn data_out(len_bytes: u16) -> Outcome {
    if len_bytes == 0 { Outcome::Good } else { Outcome::DataOut(usize::from(len_bytes)) }
}

fn request_sense(drive: &mut CdDrive, cdb: &[u8]) -> Outcome {
    let mut sense = std::mem::replace(&mut drive.sense, Sense::NONE);
    if sense == Sense::NONE
        && let Some(attention) = drive.next_attention()
    {
        sense = attention;
    }
    let data = if byte(cdb, 1) & 1 != 0 { sense.to_descriptor() } else { sense.to_fixed().to_vec() };
    reply(data, usize::from(byte(cdb, 4)))
}

fn inquiry(drive: &CdDrive, cdb: &[u8]) -> Result<Outcome, Sense> {
    let vital = byte(cdb, 1) & 1 != 0;
    let page = byte(cdb, 2);
    let allocation_bytes = usize::from(be16(cdb, 3));
    if vital {
        return Ok(reply(vital_page(drive, page)?, allocation_bytes));
    }
    if page != 0 || byte(cdb, 1) & 2 != 0 {
        return Err(Sense::INVALID_FIELD);
    }
    let (version, format) = match drive.transport {
        CdTransport::Atapi => (0x00, 0x21),
        CdTransport::Scsi => (0x05, 0x12),
    };
    let mut data = vec![0x05, 0x80, version, format, 31, 0, 0, 0];
    data.extend(*b"Benchtop");
    data.extend(*b"CD-ROM          ");
    data.extend(*b"1.0 ");
    Ok(reply(data, allocation_bytes))
}

/// Vital product data pages (SPC-4 section 7.8).
fn vital_page(drive: &CdDrive, page: u8) -> Result<Vec<u8>, Sense> {
    let body = match page {
        0x00 => vec![0x00, 0x80, 0x83],
        0x80 => drive.serial.as_bytes().to_vec(),
        0x83 => {
            // One T10 vendor identification designator, in ASCII.
            let mut name = b"Benchtop".to_vec();
            name.extend(drive.serial.as_bytes());
            let mut body = vec![0x02, 0x01, 0x00, u8::try_from(name.len()).unwrap_or(0)];
            body.extend(name);
            body
        }
        _ => return Err(Sense::INVALID_FIELD),
    };
    let mut data = vec![0x05, page, 0, u8::try_from(body.len()).unwrap_or(0)];
    data.extend(body);
    Ok(data)
}

fn start_stop(drive: &mut CdDrive, cdb: &[u8]) -> Result<Outcome, Sense> {
    if byte(cdb, 4) & 0xf0 != 0 {
        // A power condition: the drive has none that shows.
        return Ok(Outcome::Good);
    }
    match byte(cdb, 4) & 3 {
        0 => {}
        1 => {
            drive.ready()?;
        }
        2 if drive.locked => {
            return Err(match drive.loaded() {
                Some(_) => Sense::REMOVAL_PREVENTED,
                None => Sense::REMOVAL_PREVENTED_EMPTY,
            });
        }
        2 => drive.open_tray(),
        _ => drive.close_tray(),
    }
    Ok(Outcome::Good)
}

/// Checks a range against the medium.
fn plan(drive: &CdDrive, first_block: u32, blocks: u32, layout: BlockLayout) -> Result<Outcome, Sense> {
    let disk = drive.ready()?;
    let capacity = u64::from(disc::blocks(disk));
    if u64::from(first_block) + u64::from(blocks) > capacity {
        return Err(Sense::LBA_OUT_OF_RANGE);
    }
    match blocks {
        0 => Ok(Outcome::Good),
        _ => Ok(Outcome::Read(MediaRead { disk: disk.clone(), first_block, blocks, layout })),
    }
}

fn read_cd(drive: &CdDrive, cdb: &[u8], first_block: u32, blocks: u32) -> Result<Outcome, Sense> {
    drive.ready()?;
    let wanted = byte(cdb, 9);
    if wanted & 0x07 != 0 || byte(cdb, 10) & 0x07 != 0 {
        // Error flags and sub-channels are not kept in a disc image.
        return Err(Sense::INVALID_FIELD);
    }
    // Expected sector type: any, or mode 1, which is what every block is.
    if !matches!((byte(cdb, 1) >> 2) & 7, 0 | 2) {
        return Err(Sense::ILLEGAL_TRACK_MODE);
    }
    let layout = BlockLayout::from_selection(wanted);
    if !layout.is_plain() && blocks > MAX_SHAPED_BLOCKS {
        return Err(Sense::INVALID_FIELD);
    }
    match plan(drive, first_block, blocks, layout)? {
        Outcome::Read(read) if read.layout.block_bytes() == 0 => Ok(Outcome::Good),
        outcome => Ok(outcome),
    }
}

/// A minute, second, frame address; block 0 is at 00:02:00.
fn msf_to_block(cdb: &[u8], at: usize) -> Result<u32, Sense> {
    let (minute, second, frame) = (byte(cdb, at), byte(cdb, at + 1), byte(cdb, at + 2));
    if second >= 60 || frame >= 75 {
        return Err(Sense::INVALID_FIELD);
    }
    let frames = u32::from(minute) * CD_MINUTE_FRAMES + u32::from(second) * 75 + u32::from(frame);
    frames.checked_sub(150).ok_or(Sense::LBA_OUT_OF_RANGE)
}
