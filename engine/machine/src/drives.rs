//! Which drive is where: disks and CD-ROMs on the four places of the two IDE channels.

use crate::MachineError;

/// What a drive is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DriveKind {
    /// A hard disk.
    Disk,
    /// A CD-ROM.
    Cd,
}

/// A place on IDE.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drive {
    /// `disk0`, `cd0`, ….
    pub name: String,
    /// What it is.
    pub kind: DriveKind,
    /// 0 primary, 1 secondary.
    pub channel: usize,
    /// 0 master, 1 slave.
    pub unit: usize,
}

/// Gives every drive its place: disks from the primary master on, CD-ROMs from the secondary master on, as PCs are
/// wired, so that a drive's place does not depend on what else is attached until all four are taken.
///
/// # Errors
/// More than four drives.
pub fn place(disks: &[String], cds: &[String]) -> Result<Vec<Drive>, MachineError> {
    let mut free = vec![(0, 0), (0, 1), (1, 0), (1, 1)];
    let mut drives = Vec::new();
    let full = || MachineError::Config("IDE has room for four drives, disks and CD-ROMs together".to_owned());
    for name in cds {
        let at = free.iter().position(|place| place.0 == 1).unwrap_or(free.len().saturating_sub(1));
        let (channel, unit) = if free.is_empty() { return Err(full()) } else { free.remove(at) };
        drives.push(Drive { name: name.clone(), kind: DriveKind::Cd, channel, unit });
    }
    for name in disks {
        let (channel, unit) = if free.is_empty() { return Err(full()) } else { free.remove(0) };
        drives.push(Drive { name: name.clone(), kind: DriveKind::Disk, channel, unit });
    }
    Ok(drives)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(disks: usize, cds: usize) -> Option<Vec<(String, usize, usize)>> {
        let names = |kind: &str, count: usize| (0..count).map(|index| format!("{kind}{index}")).collect::<Vec<_>>();
        let drives = place(&names("disk", disks), &names("cd", cds)).ok()?;
        Some(drives.into_iter().map(|drive| (drive.name, drive.channel, drive.unit)).collect())
    }

    #[test]
    fn a_disk_and_a_cd_are_two_masters() {
        assert_eq!(places(1, 1), Some(vec![("cd0".into(), 1, 0), ("disk0".into(), 0, 0)]));
    }

    #[test]
    fn four_drives_fit_and_five_do_not() {
        for cds in 0..=4 {
            let mut seen: Vec<_> = places(4 - cds, cds).unwrap().into_iter().map(|(_, c, u)| (c, u)).collect();
            seen.sort_unstable();
            assert_eq!(seen, [(0, 0), (0, 1), (1, 0), (1, 1)]);
            assert_eq!(places(5 - cds, cds), None);
        }
    }
}
