//! GET CONFIGURATION and GET EVENT STATUS NOTIFICATION.

use super::super::{Outcome, Sense, be16, byte, reply};
use super::{CdDrive, CdTransport, DATA_BLOCK_BYTES, MediaEvent, disc};

const PROFILE_NONE: u16 = 0x0000;
const PROFILE_CD_ROM: u16 = 0x0008;
const PROFILE_DVD_ROM: u16 = 0x0010;

/// One feature descriptor before it is encoded (MMC-5 section 5.2.2).
struct Feature {
    code: u16,
    version: u8,
    persistent: bool,
    current: bool,
    data: Vec<u8>,
}

fn profile(drive: &CdDrive) -> u16 {
    match drive.loaded() {
        None => PROFILE_NONE,
        Some(disk) if disc::is_dvd(disk) => PROFILE_DVD_ROM,
        Some(_) => PROFILE_CD_ROM,
    }
}

fn features(drive: &CdDrive) -> Vec<Feature> {
    let now = profile(drive);
    let mut profiles = Vec::new();
    for known in [PROFILE_DVD_ROM, PROFILE_CD_ROM] {
        profiles.extend(known.to_be_bytes());
        profiles.extend([u8::from(known == now), 0]);
    }
    let interface: u32 = match drive.transport {
        CdTransport::Scsi => 1,
        CdTransport::Atapi => 2,
    };
    let mut core = interface.to_be_bytes().to_vec();
    core.extend([0; 4]);
    let mut random_readable = (DATA_BLOCK_BYTES as u32).to_be_bytes().to_vec();
    random_readable.extend([0, 1, 0, 0]);
    let present = now != PROFILE_NONE;
    vec![
        Feature { code: 0x0000, version: 0, persistent: true, current: true, data: profiles },
        Feature { code: 0x0001, version: 2, persistent: true, current: true, data: core },
        // Tray; can eject; can lock.
        Feature { code: 0x0003, version: 0, persistent: true, current: true, data: vec![0x29, 0, 0, 0] },
        Feature { code: 0x0010, version: 0, persistent: false, current: present, data: random_readable },
        Feature { code: 0x001e, version: 2, persistent: false, current: now == PROFILE_CD_ROM, data: vec![0, 0, 0, 0] },
        Feature { code: 0x001f, version: 0, persistent: false, current: now == PROFILE_DVD_ROM, data: vec![] },
    ]
}

/// GET CONFIGURATION (MMC-5 section 6.6).
pub(super) fn get_configuration(drive: &CdDrive, cdb: &[u8]) -> Result<Outcome, Sense> {
    let start = be16(cdb, 2);
    let mut data = vec![0; 6];
    data.extend(profile(drive).to_be_bytes());
    for feature in features(drive) {
        let wanted = match byte(cdb, 1) & 3 {
            0 => feature.code >= start,
            1 => feature.code >= start && feature.current,
            2 => feature.code == start,
            _ => return Err(Sense::INVALID_FIELD),
        };
        if wanted {
            data.extend(feature.code.to_be_bytes());
            data.push(feature.version << 2 | u8::from(feature.persistent) << 1 | u8::from(feature.current));
            data.push(u8::try_from(feature.data.len()).unwrap_or(0));
            data.extend(feature.data);
        }
    }
    let len_bytes = u32::try_from(data.len() - 4).unwrap_or(0);
    data[0..4].copy_from_slice(&len_bytes.to_be_bytes());
    Ok(reply(data, usize::from(be16(cdb, 7))))
}

/// GET EVENT STATUS NOTIFICATION (MMC-5 section 6.7): polled only, media class only.
pub(super) fn get_event_status(drive: &mut CdDrive, cdb: &[u8]) -> Result<Outcome, Sense> {
    const MEDIA_CLASS: u8 = 4;
    const SUPPORTED: u8 = 1 << MEDIA_CLASS;
    if byte(cdb, 1) & 1 == 0 {
        return Err(Sense::INVALID_FIELD);
    }
    let allocation_bytes = usize::from(be16(cdb, 7));
    if byte(cdb, 4) & SUPPORTED == 0 {
        // No event available of the classes asked for.
        return Ok(reply(vec![0, 0, 0x80, SUPPORTED], allocation_bytes));
    }
    // An event the guest leaves no room for is kept for its next look.
    let event = if allocation_bytes > 4 { std::mem::take(&mut drive.event) } else { MediaEvent::None };
    let state = u8::from(drive.tray_open) | u8::from(drive.loaded().is_some()) << 1;
    Ok(reply(vec![0, 4, MEDIA_CLASS, SUPPORTED, event as u8, state, 0, 0], allocation_bytes))
}
