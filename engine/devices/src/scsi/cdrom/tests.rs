//! The drive without a transport.

use std::sync::Arc;

use benchtop_block::{BlockError, DiscardBehavior, Disk, DiskBackend, DiskInfo};
use benchtop_memory::VolatileSlice;

use super::{CdDrive, CdTransport};
use crate::scsi::{Outcome, ScsiTarget, Sense};

/// A disc of nothing but a size.
struct Blank(u64);

impl DiskBackend for Blank {
    fn info(&self) -> DiskInfo {
        DiskInfo {
            size_bytes: self.0 * 2048,
            logical_block_bytes: 2048,
            physical_block_bytes: 2048,
            read_only: true,
            discard: DiscardBehavior::Ignored,
            format: "iso",
        }
    }

    fn read_at(&self, _offset_bytes: u64, _into: &[VolatileSlice<'_>]) -> Result<(), BlockError> {
        Ok(())
    }

    fn write_at(&self, _offset_bytes: u64, _from: &[VolatileSlice<'_>], _fua: bool) -> Result<(), BlockError> {
        Ok(())
    }

    fn flush(&self) -> Result<(), BlockError> {
        Ok(())
    }

    fn discard(&self, _offset_bytes: u64, _len_bytes: u64) -> Result<(), BlockError> {
        Ok(())
    }
}

fn disc(blocks: u64) -> Disk {
    Disk::inline(Arc::new(Blank(blocks)))
}

fn drive(medium: Option<Disk>) -> CdDrive {
    let mut drive = CdDrive::new(CdTransport::Atapi, "SERIAL", medium);
    assert_eq!(check(&mut drive, &[0x00]), Some(Sense::RESET_OCCURRED));
    drive
}

fn check(drive: &mut CdDrive, cdb: &[u8]) -> Option<Sense> {
    match drive.execute(cdb) {
        Outcome::Check(sense) => Some(sense),
        _ => None,
    }
}

fn data(drive: &mut CdDrive, cdb: &[u8]) -> Vec<u8> {
    match drive.execute(cdb) {
        Outcome::DataIn(data) => data,
        Outcome::Good => Vec::new(),
        outcome => panic!("{outcome:?}"),
    }
}

#[test]
fn replies_never_pass_the_allocation_length() {
    // (command, where its 16-bit allocation length stands)
    let commands: [(&[u8], usize); 17] = [
        (&[0x12, 0, 0], 3),
        (&[0x12, 1, 0], 3),
        (&[0x12, 1, 0x80], 3),
        (&[0x12, 1, 0x83], 3),
        (&[0x42, 0, 0x40, 1], 7),
        (&[0x42, 0, 0x40, 2], 7),
        (&[0x43, 0], 7),
        (&[0x43, 2, 1], 7),
        (&[0x43, 2, 2], 7),
        (&[0x46], 7),
        (&[0x4a, 1, 0, 0, 0x10], 7),
        (&[0x4a, 1, 0, 0, 0x02], 7),
        (&[0x51], 7),
        (&[0x52, 1, 0, 0, 0, 1], 7),
        (&[0x5a, 0, 0x3f], 7),
        (&[0xad, 0, 0, 0, 0, 0, 0, 0], 8),
        (&[0xbd], 8),
    ];
    for (command, at) in commands {
        let mut drive = drive(Some(disc(2_000_000)));
        let mut cdb = [0; 12];
        cdb[..command.len()].copy_from_slice(command);
        cdb[at..at + 2].fill(0xff);
        let whole = data(&mut drive, &cdb);
        assert!(!whole.is_empty());
        for allocation in 0..=2100u16 {
            cdb[at..at + 2].copy_from_slice(&allocation.to_be_bytes());
            let part = data(&mut drive, &cdb);
            assert_eq!(part, whole[..whole.len().min(usize::from(allocation))], "{command:x?} {allocation}");
        }
    }
}

#[test]
fn one_track_one_session() {
    let mut drive = drive(Some(disc(1000)));
    let toc = data(&mut drive, &[0x43, 0, 0, 0, 0, 0, 0, 0xff, 0xff]);
    assert_eq!(toc, [0, 18, 1, 1, 0, 0x14, 1, 0, 0, 0, 0, 0, 0, 0x16, 0xaa, 0, 0, 0, 3, 0xe8]);
    let toc = data(&mut drive, &[0x43, 2, 0, 0, 0, 0, 0xaa, 0xff, 0xff]);
    assert_eq!(toc, [0, 10, 1, 1, 0, 0x16, 0xaa, 0, 0, 0, 15, 25]);
    assert_eq!(data(&mut drive, &[0x43, 0, 1, 0, 0, 0, 0, 0, 12]), [0, 10, 1, 1, 0, 0x14, 1, 0, 0, 0, 0, 0]);
    // The old place of the format.
    assert_eq!(data(&mut drive, &[0x43, 0, 0, 0, 0, 0, 0, 0, 12, 0x40])[1], 10);
    assert_eq!(check(&mut drive, &[0x43, 0, 0, 0, 0, 0, 2, 0, 12]), Some(Sense::INVALID_FIELD));
    assert_eq!(check(&mut drive, &[0x43, 0, 5, 0, 0, 0, 0, 0, 12]), Some(Sense::INVALID_FIELD));
    assert_eq!(data(&mut drive, &[0x51, 0, 0, 0, 0, 0, 0, 0, 3]), [0, 32, 0x0e]);
}

#[test]
fn profiles_follow_the_disc() {
    let config = [0x46, 0, 0, 0, 0, 0, 0, 0xff, 0xff];
    for (medium, profile) in [(None, 0u8), (Some(disc(1000)), 8), (Some(disc(400_000)), 0x10)] {
        let mut drive = CdDrive::new(CdTransport::Atapi, "", medium);
        let all = data(&mut drive, &config);
        assert_eq!(u32::from_be_bytes([all[0], all[1], all[2], all[3]]) as usize, all.len() - 4);
        assert_eq!(all[7], profile, "not held up by a unit attention");
    }
    let mut drive = drive(Some(disc(1000)));
    let one = data(&mut drive, &[0x46, 2, 0, 3, 0, 0, 0, 0xff, 0xff]);
    assert_eq!(one[8..], [0, 3, 3, 4, 0x29, 0, 0, 0]);
    assert_eq!(check(&mut drive, &[0xad, 0, 0, 0, 0, 0, 0, 0, 8]), Some(Sense::INCOMPATIBLE_MEDIUM));
}

#[test]
fn the_tray_and_its_lock() {
    let mut drive = drive(Some(disc(1000)));
    assert!(check(&mut drive, &[0x1e, 0, 0, 0, 1]).is_none());
    assert!(drive.is_locked());
    assert_eq!(data(&mut drive, &[0x5a, 0, 0x2a, 0, 0, 0, 0, 0, 64])[14], 0x2b);
    assert_eq!(check(&mut drive, &[0x1b, 0, 0, 0, 2]), Some(Sense::REMOVAL_PREVENTED));
    assert!(drive.eject(false).is_err());
    assert!(check(&mut drive, &[0x1e]).is_none());
    assert!(check(&mut drive, &[0x1b, 0, 0, 0, 2]).is_none());
    assert!(drive.is_tray_open() && drive.medium().is_some());
    assert_eq!(check(&mut drive, &[0x00]), Some(Sense::NO_MEDIUM_OPEN));
    assert!(check(&mut drive, &[0x1b, 0, 0, 0, 3]).is_none());
    assert_eq!(check(&mut drive, &[0x00]), Some(Sense::MEDIUM_CHANGED));
    assert_eq!(check(&mut drive, &[0x00]), None);
    // By force.
    assert!(check(&mut drive, &[0x1e, 0, 0, 0, 1]).is_none());
    assert!(drive.eject(true).unwrap().is_some());
    assert!(!drive.is_locked());
    assert!(check(&mut drive, &[0x1e, 0, 0, 0, 1]).is_none());
    assert_eq!(check(&mut drive, &[0x1b, 0, 0, 0, 2]), Some(Sense::REMOVAL_PREVENTED_EMPTY));
    // An empty locked drive takes a disc.
    assert!(drive.insert(disc(5)).unwrap().is_none());
    assert_eq!(check(&mut drive, &[0x25]), Some(Sense::MEDIUM_CHANGED));
    assert_eq!(data(&mut drive, &[0x25])[3], 4);
    drive.reset();
    assert!(!drive.is_locked());
}

#[test]
fn an_event_that_does_not_fit_is_kept() {
    let mut drive = drive(None);
    assert!(drive.insert(disc(5)).unwrap().is_none());
    assert_eq!(data(&mut drive, &[0x4a, 1, 0, 0, 0x10, 0, 0, 0, 4]).len(), 4);
    assert_eq!(data(&mut drive, &[0x4a, 1, 0, 0, 0x10, 0, 0, 0, 8])[4..6], [2, 2]);
    assert_eq!(data(&mut drive, &[0x4a, 1, 0, 0, 0x10, 0, 0, 0, 8])[4..6], [0, 2]);
    assert_eq!(check(&mut drive, &[0x4a, 0, 0, 0, 0x10, 0, 0, 0, 8]), Some(Sense::INVALID_FIELD));
}

#[test]
fn sense_is_kept_until_it_is_asked_for() {
    let mut drive = drive(None);
    assert_eq!(check(&mut drive, &[0xff]), Some(Sense::INVALID_OPCODE));
    assert_eq!(data(&mut drive, &[0x03, 1, 0, 0, 18]), [0x72, 5, 0x20, 0, 0, 0, 0, 0]);
    assert_eq!(data(&mut drive, &[0x03, 0, 0, 0, 18])[2], 0);
    // A pending unit attention is told, and with that is done.
    drive.reset();
    assert_eq!(data(&mut drive, &[0x03, 0, 0, 0, 18])[12], 0x29);
    assert_eq!(check(&mut drive, &[0x00]), Some(Sense::NO_MEDIUM_CLOSED));
    assert_eq!(check(&mut drive, &[0x5a, 0, 0xc1, 0, 0, 0, 0, 0, 8]), Some(Sense::SAVING_UNSUPPORTED));
}

#[test]
fn short_and_strange_blocks_are_survived() {
    for medium in [None, Some(disc(0)), Some(disc(1)), Some(disc(1 << 32))] {
        let mut drive = drive(medium);
        for code in 0..=255 {
            for fill in [0, 1, 2, 0x7f, 0x80, 0xff] {
                for len_bytes in [1, 6, 10, 12, 16] {
                    let mut cdb = vec![fill; len_bytes];
                    cdb[0] = code;
                    if let Outcome::Read(read) = drive.execute(&cdb) {
                        assert!(read.blocks > 0 && read.len_bytes() > 0);
                    }
                    for list in [0, 3, 8, 20] {
                        drive.parameters(&cdb, &vec![fill; list]);
                    }
                }
            }
        }
    }
}
