//! [`DiskIdentity`]: what a bundle remembers of a Strata disk, so that an older copy, or another disk, is noticed in its
//! place. It lies apart from the disk, in `state/DISK.identity`, and so moves and is restored with the whole bundle.

use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, OFlags};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::bundle::Bundle;
use crate::failure::{Failure, FailureKind};

/// The folder of the records.
const FOLDER: &str = "state";
/// The version written here.
const VERSION: u32 = 1;
/// Far more than any record has.
const FILE_BYTES_MAX: u64 = 4096;

/// Which disk was last open, how old it was, and whether it took a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskIdentity {
    /// Of the disk, for ever.
    pub uuid: Uuid,
    /// Of its superblock; it only grows.
    pub generation: u64,
    /// The newest record that was durable; it only grows.
    pub record: u64,
    /// Whether it takes a password.
    pub encrypted: bool,
}

/// What the file holds.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileV1 {
    version: u32,
    uuid: Uuid,
    generation: u64,
    record: u64,
    encrypted: bool,
}

/// Only what every version has.
#[derive(Debug, Deserialize)]
struct Versioned {
    version: u32,
}

fn path_of(disk: &str) -> PathBuf {
    Path::new(FOLDER).join(format!("{disk}.identity"))
}

fn parse(bytes: &[u8]) -> Result<DiskIdentity, String> {
    let damaged = |error: serde_json::Error| format!("It is damaged: {error}.");
    let Versioned { version } = serde_json::from_slice(bytes).map_err(damaged)?;
    if version != VERSION {
        return Err(format!("It is of version {version}, which this program does not know."));
    }
    let FileV1 { uuid, generation, record, encrypted, .. } = serde_json::from_slice(bytes).map_err(damaged)?;
    Ok(DiskIdentity { uuid, generation, record, encrypted })
}

impl Bundle {
    /// What is remembered of the disk `disk0`, …; nothing of one that was never open. The caller holds the lock, or
    /// takes it that the disk may be newer.
    ///
    /// # Errors
    /// [`FailureKind::Integrity`] for a record that can not be used: that is no reason to do without one.
    pub fn disk_identity(&self, disk: &str) -> Result<Option<DiskIdentity>, Failure> {
        let path = path_of(disk);
        let refused = |why: String| {
            let name = format!("{}:{disk}", self.typed_name());
            let what = format!("can not tell whether {name} is the disk that was last open");
            let why = format!("{} says that. {why}", self.path().join(&path).display());
            let fix = format!(
                "If you trust the disk as it is, `benchtop disk check '{name}' --accept-rollback` makes a new record."
            );
            Failure::new(FailureKind::Integrity, what, why, fix)
        };
        let file = match self.open_file(&path, false) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(refused(format!("It can not be read: {error}."))),
        };
        let mut bytes = Vec::new();
        file.take(FILE_BYTES_MAX + 1)
            .read_to_end(&mut bytes)
            .map_err(|error| refused(format!("It can not be read: {error}.")))?;
        if bytes.len() as u64 > FILE_BYTES_MAX {
            return Err(refused("It is damaged: it is far too long.".to_owned()));
        }
        parse(&bytes).map(Some).map_err(refused)
    }

    /// Remembers a disk: wholly or as before, also when the host fails meanwhile. The caller holds the lock, and what it
    /// remembers is durable in the disk.
    ///
    /// # Errors
    /// The host's.
    pub fn save_disk_identity(&self, disk: &str, identity: &DiskIdentity) -> std::io::Result<()> {
        let DiskIdentity { uuid, generation, record, encrypted } = *identity;
        let mut bytes = serde_json::to_vec(&FileV1 { version: VERSION, uuid, generation, record, encrypted })?;
        bytes.push(b'\n');
        // A copy made without empty folders lacks it.
        let folder = self.folder(FOLDER)?;
        crate::bundle::replace(&folder, &format!("{disk}.identity"), &bytes)
    }

    /// Forgets a disk that the VM has no more. The caller holds the lock.
    ///
    /// # Errors
    /// The host's.
    pub fn forget_disk_identity(&self, disk: &str) -> std::io::Result<()> {
        let folder = match self.open_beneath(Path::new(FOLDER), OFlags::DIRECTORY | OFlags::CLOEXEC) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            folder => folder?,
        };
        match rustix::fs::unlinkat(&folder, format!("{disk}.identity"), AtFlags::empty()) {
            Err(rustix::io::Errno::NOENT) => Ok(()),
            result => Ok(result?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::VmConfig;

    const IDENTITY: DiskIdentity =
        DiskIdentity { uuid: Uuid::from_bytes([7; 16]), generation: u64::MAX, record: 3, encrypted: true };

    fn bundle(dir: &Path) -> Bundle {
        Bundle::create(&dir.join("one.benchtop"), VmConfig::new("one"), |_bundle| Ok(())).unwrap()
    }

    #[test]
    fn a_disk_is_remembered_and_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let bundle = bundle(dir.path());
        assert_eq!(bundle.disk_identity("disk0").unwrap(), None);
        bundle.forget_disk_identity("disk0").unwrap();
        bundle.save_disk_identity("disk0", &IDENTITY).unwrap();
        assert_eq!(bundle.disk_identity("disk0").unwrap(), Some(IDENTITY));
        assert_eq!(bundle.disk_identity("disk1").unwrap(), None);
        // A copy that was made without empty folders.
        std::fs::remove_dir_all(bundle.path().join("state")).unwrap();
        bundle.forget_disk_identity("disk0").unwrap();
        let newer = DiskIdentity { generation: 0, ..IDENTITY };
        bundle.save_disk_identity("disk0", &newer).unwrap();
        // A draft that a crash left is no obstacle.
        std::fs::write(bundle.path().join("state/disk0.identity.new"), "stale").unwrap();
        bundle.save_disk_identity("disk0", &IDENTITY).unwrap();
        assert_eq!(std::fs::read_dir(bundle.path().join("state")).unwrap().count(), 1);
        bundle.forget_disk_identity("disk0").unwrap();
        assert_eq!(bundle.disk_identity("disk0").unwrap(), None);
    }

    #[test]
    fn what_is_no_record_is_an_error_and_can_be_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let bundle = bundle(dir.path());
        let path = bundle.path().join("state/disk0.identity");
        let whole =
            r#"{"version":1,"uuid":"07070707-0707-0707-0707-070707070707","generation":1,"record":2,"encrypted":true}"#;
        assert!(parse(whole.as_bytes()).is_ok());
        let mut bad: Vec<Vec<u8>> = (0..whole.len()).map(|len| whole.as_bytes()[..len].to_vec()).collect();
        bad.extend([b"\xff\0".to_vec(), vec![b'['; 4000], vec![b' '; 1 << 20]]);
        bad.push(whole.replace("\"version\":1", "\"version\":2").into_bytes());
        bad.push(whole.replace(":2,", ":-2,").into_bytes());
        bad.push(whole.replace(":2,", ":18446744073709551616,").into_bytes());
        bad.push(whole.replace("true", "true,\"more\":0").into_bytes());
        for bytes in bad {
            std::fs::write(&path, &bytes).unwrap();
            let failure = bundle.disk_identity("disk0").unwrap_err();
            assert_eq!(failure.kind, FailureKind::Integrity, "{failure}");
            assert!(failure.fix.contains("--accept-rollback"), "{failure}");
        }
        std::fs::File::create(&path).unwrap().set_len(1 << 40).unwrap();
        assert!(bundle.disk_identity("disk0").is_err());
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/dev/zero", &path).unwrap();
        assert!(bundle.disk_identity("disk0").is_err());
        bundle.save_disk_identity("disk0", &IDENTITY).unwrap();
        assert_eq!(bundle.disk_identity("disk0").unwrap(), Some(IDENTITY));
    }
}
