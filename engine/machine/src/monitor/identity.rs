//! What a bundle remembers of its Strata disks: the way between its records and the disks, and who writes them while a
//! VM runs.
//!
//! A record is written after what it says is durable in the disk, so a crash in between leaves a disk that is newer than
//! its record, which is in order.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use benchtop_block::{BlockError, DiskBackend};
use benchtop_control::{Bundle, DiskIdentity, Failure, FailureKind};
use benchtop_strata::{Identity, OTHER_DISK, ROLLED_BACK, StrataDisk};
use parking_lot::{Condvar, Mutex};
use uuid::Uuid;

use crate::MachineError;
use crate::machine::named;

/// How often the disks of who runs long are recorded.
pub const RECORD_EVERY: Duration = Duration::from_secs(60);

/// What a disk is to be when it is opened.
#[derive(Clone, Debug)]
pub struct Expected {
    /// How the user names it, `VM:DISK`.
    pub name: String,
    /// What it was when it was last open.
    pub identity: Identity,
    /// An older copy of it will do.
    pub accept_rollback: bool,
}

/// What a bundle remembers of one of its disks.
///
/// # Errors
/// The record can not be used.
pub fn recall(bundle: &Bundle, disk: &str) -> Result<Option<Identity>, Failure> {
    Ok(bundle.disk_identity(disk)?.map(|DiskIdentity { uuid, generation, record, encrypted }| Identity {
        uuid: uuid.into_bytes(),
        generation,
        record,
        encrypted,
    }))
}

/// Remembers what is durable of a disk.
///
/// # Errors
/// The host's.
pub fn record(bundle: &Bundle, disk: &str, identity: &Identity) -> std::io::Result<()> {
    let Identity { uuid, generation, record, encrypted } = *identity;
    bundle.save_disk_identity(disk, &DiskIdentity { uuid: Uuid::from_bytes(uuid), generation, record, encrypted })
}

/// Makes all of a disk durable, and says what it is then.
///
/// # Errors
/// The host's, or the disk is poisoned: what it says of itself is then not to be remembered.
pub fn settle(disk: &StrataDisk) -> Result<Identity, BlockError> {
    disk.sync()?;
    disk.checkpoint()?;
    Ok(disk.identity())
}

/// The option that accepts an older copy, which the advice of every refusal here names.
const ACCEPT: &str = "--accept-rollback";

/// Whether a disk was refused for what is remembered of it.
pub fn is_refusal(failure: &Failure) -> bool {
    failure.kind == FailureKind::Integrity && failure.fix.contains(ACCEPT)
}

const OLDER: &str = "It is an older copy than the one that was last open here.";
const OTHER: &str = "It is not the disk that was last open here, or is not encrypted any more.";
const NO_STRATA: &str = "It is not the disk that was last open here: it is no Strata disk, or damaged beyond that.";

impl Expected {
    /// Refuses a disk that is older than what is expected, where opening it did not.
    ///
    /// # Errors
    /// It is.
    pub fn check_age(&self, found: &Identity, what: &str) -> Result<(), Failure> {
        let newer = found.generation >= self.identity.generation && found.record >= self.identity.record;
        if newer { Ok(()) } else { Err(self.refused(what, OLDER)) }
    }

    /// The failure for a disk that is not what is expected, if that is what `error` says.
    pub(super) fn refusal(&self, what: &str, error: &BlockError) -> Option<Failure> {
        match error.to_string().as_str() {
            ROLLED_BACK => Some(self.refused(what, OLDER)),
            OTHER_DISK => Some(self.refused(what, OTHER)),
            _ => None,
        }
    }

    /// The failure for what is no Strata disk at all.
    pub(super) fn no_strata(&self, what: &str) -> Failure {
        self.refused(what, NO_STRATA)
    }

    /// The failure for another disk.
    pub(super) fn other(&self, what: &str) -> Failure {
        self.refused(what, OTHER)
    }

    fn refused(&self, what: &str, why: &str) -> Failure {
        let accept = format!("`benchtop disk check '{}' {ACCEPT}`", self.name);
        let fix = match why {
            OLDER => format!(
                "If you restored a backup, accept it: {accept}. If not, somebody put an old copy there, or its newest \
                 state is damaged, which `benchtop disk repair` says."
            ),
            _ => format!(
                "Put the right disk back. Of a restored backup, an older copy of the same disk can be accepted \
                 ({accept}), another disk can not."
            ),
        };
        Failure::new(FailureKind::Integrity, what, why, fix)
    }
}

/// Records the disks of a running VM: now, every minute, and at the end.
pub(super) struct Recorder {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    bundle: Bundle,
    disks: Vec<(String, Arc<StrataDisk>)>,
    /// What was written last, of each.
    written: Mutex<Vec<Option<Identity>>>,
    ended: Mutex<bool>,
    changed: Condvar,
}

impl Recorder {
    /// Records the disks, which were just opened, and goes on.
    ///
    /// # Errors
    /// No thread can be started.
    pub fn start(bundle: Bundle, disks: Vec<(String, Arc<StrataDisk>)>) -> Result<Self, MachineError> {
        let written = Mutex::new(vec![None; disks.len()]);
        let shared = Arc::new(Shared { bundle, disks, written, ended: Mutex::new(false), changed: Condvar::new() });
        shared.record(|disk| Ok(disk.identity()));
        let thread = match shared.disks.is_empty() {
            true => None,
            false => {
                let shared = shared.clone();
                Some(named("identities", move || shared.keep(RECORD_EVERY))?)
            }
        };
        Ok(Self { shared, thread: Mutex::new(thread) })
    }

    /// Makes the disks durable and records them for the last time. Nobody writes to them any more.
    pub fn end(&self) {
        *self.shared.ended.lock() = true;
        self.shared.changed.notify_all();
        let Some(thread) = self.thread.lock().take() else { return };
        // One that panicked said so where it happened.
        drop(thread.join());
        self.shared.record(settle);
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.end();
    }
}

impl Shared {
    /// Records the disks every so often until the end.
    fn keep(&self, every: Duration) {
        loop {
            let deadline = Instant::now() + every;
            let mut ended = self.ended.lock();
            while !*ended && !self.changed.wait_until(&mut ended, deadline).timed_out() {}
            if *ended {
                return;
            }
            drop(ended);
            self.record(|disk| Ok(disk.identity()));
        }
    }

    fn record(&self, identity: impl Fn(&StrataDisk) -> Result<Identity, BlockError>) {
        let mut written = self.written.lock();
        for ((name, disk), last) in self.disks.iter().zip(written.iter_mut()) {
            let now = match identity(disk) {
                Ok(now) => now,
                Err(error) => {
                    tracing::warn!(%error, disk = name, "how old the disk is could not be recorded");
                    continue;
                }
            };
            if *last == Some(now) {
                continue;
            }
            match record(&self.bundle, name, &now) {
                Ok(()) => *last = Some(now),
                // The guest goes on: an older record only notices less.
                Err(error) => tracing::warn!(%error, disk = name, "how old the disk is could not be recorded"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use benchtop_control::VmConfig;
    use benchtop_memory::VolatileSlice;
    use benchtop_strata::{CreateOptions, HostCache, HostFile, Retention};

    use super::super::image::{ImageUse, open_strata};
    use super::*;

    fn write(disk: &StrataDisk, value: u8) {
        let mut bytes = [value; 4096];
        disk.write_at(0, &[VolatileSlice::from(&mut bytes[..])], true).unwrap();
    }

    /// A bundle with a disk, which is open.
    fn example(dir: &std::path::Path) -> (Bundle, StrataDisk) {
        let bundle = Bundle::create(&dir.join("one.benchtop"), VmConfig::new("one"), |_bundle| Ok(())).unwrap();
        let file = bundle.create_file("disks/disk0.strata".as_ref()).unwrap();
        let options = CreateOptions { size_bytes: 1 << 20, retention: Retention::default(), password: None };
        let disk = StrataDisk::create(Arc::new(HostFile::new(file, HostCache::Reads)), &options).unwrap();
        (bundle, disk)
    }

    fn open(bundle: &Bundle, accept_rollback: bool) -> Result<StrataDisk, Failure> {
        let identity = recall(bundle, "disk0")?.unwrap();
        let expected = Expected { name: "one:disk0".to_owned(), identity, accept_rollback };
        let file = bundle.open_file("disks/disk0.strata".as_ref(), true).unwrap();
        open_strata(file, "can not use it", ImageUse { expected: Some(&expected), ..ImageUse::default() })
    }

    #[test]
    fn disks_are_recorded_at_the_start_and_the_end_and_in_between() {
        let dir = tempfile::tempdir().unwrap();
        let (bundle, disk) = example(dir.path());
        let disk = Arc::new(disk);
        let recorder = Recorder::start(bundle.try_clone().unwrap(), vec![("disk0".to_owned(), disk.clone())]).unwrap();
        let first = recall(&bundle, "disk0").unwrap().unwrap();
        assert_eq!(first, disk.identity());
        write(&disk, 1);
        recorder.end();
        let last = recall(&bundle, "disk0").unwrap().unwrap();
        assert!(last.generation > first.generation && last.record > first.record, "{last:?}");
        assert_eq!(last, disk.identity());
        // The same without its minute.
        let (name, changed, written) = ("disk0".to_owned(), Condvar::new(), Mutex::new(vec![None]));
        let shared = Arc::new(Shared {
            bundle: bundle.try_clone().unwrap(),
            disks: vec![(name, disk.clone())],
            written,
            ended: Mutex::new(false),
            changed,
        });
        let keeping = shared.clone();
        let thread = named("test", move || keeping.keep(Duration::from_millis(5))).unwrap();
        write(&disk, 2);
        let newest = disk.identity();
        let deadline = Instant::now() + Duration::from_secs(10);
        while recall(&bundle, "disk0").unwrap().unwrap().record < newest.record {
            assert!(Instant::now() < deadline);
            std::thread::sleep(Duration::from_millis(5));
        }
        *shared.ended.lock() = true;
        shared.changed.notify_all();
        thread.join().unwrap();
    }

    #[test]
    fn what_is_older_or_another_is_refused_and_only_the_older_can_be_accepted() {
        let dir = tempfile::tempdir().unwrap();
        let (bundle, disk) = example(dir.path());
        let path = bundle.path().join("disks/disk0.strata");
        write(&disk, 1);
        drop(disk);
        let old = std::fs::read(&path).unwrap();
        let options = ImageUse::default();
        let disk = open_strata(bundle.open_file("disks/disk0.strata".as_ref(), true).unwrap(), "x", options).unwrap();
        write(&disk, 2);
        record(&bundle, "disk0", &settle(&disk).unwrap()).unwrap();
        drop(disk);
        // The end of the disk made it newer than the record.
        drop(open(&bundle, false).unwrap());
        std::fs::write(&path, old).unwrap();
        let failure = open(&bundle, false).unwrap_err();
        assert!(is_refusal(&failure) && failure.kind.exit_code() == 7, "{failure}");
        assert!(failure.fix.contains("benchtop disk check 'one:disk0' --accept-rollback"), "{failure}");
        let accepted = open(&bundle, true).unwrap();
        record(&bundle, "disk0", &settle(&accepted).unwrap()).unwrap();
        drop(accepted);
        drop(open(&bundle, false).unwrap());
        for wrong in [
            Identity { uuid: [1; 16], ..recall(&bundle, "disk0").unwrap().unwrap() },
            Identity { encrypted: true, ..recall(&bundle, "disk0").unwrap().unwrap() },
        ] {
            record(&bundle, "disk0", &wrong).unwrap();
            assert!(is_refusal(&open(&bundle, true).unwrap_err()));
        }
        std::fs::write(&path, vec![0; 1 << 20]).unwrap();
        assert!(is_refusal(&open(&bundle, true).unwrap_err()));
    }
}
