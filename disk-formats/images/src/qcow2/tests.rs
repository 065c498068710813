mod basic;
mod crash;
mod hostile;
mod qemu;

use std::fs::File;
use std::path::Path;

use benchtop_block::MemoryDisk;
use benchtop_memory::VolatileSlice;
use parking_lot::Mutex;

use super::*;

/// Something that was done to the file.
#[derive(Clone, Debug)]
pub(super) enum Event {
    Wrote(u64, Vec<u8>),
    Grew(u64),
    Punched(u64, u64),
    Synced,
}

/// What was done to the file while it was recorded, and the failures a test asked for.
#[derive(Debug, Default)]
pub(super) struct Journal {
    events: Mutex<Option<Vec<Event>>>,
    fail_syncs: Mutex<u32>,
}

impl Journal {
    fn push(&self, event: impl FnOnce() -> Event) {
        if let Some(events) = self.events.lock().as_mut() {
            events.push(event());
        }
    }

    pub fn wrote(&self, offset_bytes: u64, from: &[VolatileSlice<'_>]) {
        self.push(|| {
            let mut bytes = Vec::new();
            for slice in from {
                let at = bytes.len();
                bytes.resize(at + slice.len(), 0);
                slice.copy_to(&mut bytes[at..]);
            }
            Event::Wrote(offset_bytes, bytes)
        });
    }

    pub fn grew(&self, len_bytes: u64) {
        self.push(|| Event::Grew(len_bytes));
    }

    pub fn punched(&self, offset_bytes: u64, len_bytes: u64) {
        self.push(|| Event::Punched(offset_bytes, len_bytes));
    }

    pub fn synced(&self) {
        self.push(|| Event::Synced);
    }

    pub fn sync_fails(&self) -> bool {
        let mut left = self.fail_syncs.lock();
        let fails = *left > 0;
        *left = left.saturating_sub(1);
        fails
    }
}

/// A directory and an image in it.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.0.path().join(name)
    }
}

fn open_once(path: &Path, read_only: bool) -> Result<Qcow2Disk, BlockError> {
    Qcow2Disk::open(File::options().read(true).write(!read_only).open(path).unwrap(), read_only)
}

/// Opens an image that nobody holds. A test beside this one that starts a program holds all our files, with their
/// locks, from its fork to its exec; so a lock may outlive the disk for a moment.
fn reopen(path: &Path, read_only: bool) -> Result<Qcow2Disk, BlockError> {
    let started = std::time::Instant::now();
    loop {
        match open_once(path, read_only) {
            Err(error) if error.kind() == BlockErrorKind::InUse && started.elapsed().as_secs() < 10 => {
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
            result => return result,
        }
    }
}

/// An open image with a temporary file that has no name any more.
fn fresh(options: &CreateOptions) -> Qcow2Disk {
    let place = Place::new();
    Qcow2Disk::open(create(&place.path("disk.qcow2"), options).unwrap(), false).unwrap()
}

fn options(size_bytes: u64, cluster_bytes: u64, refcount_bits: u32, extended_l2: bool) -> CreateOptions {
    CreateOptions { cluster_bytes, refcount_bits, extended_l2, ..CreateOptions::new(size_bytes) }
}

/// The shapes most tests go through: every cluster size that matters, every refcount width, both kinds of entries.
fn shapes(size_bytes: u64) -> Vec<CreateOptions> {
    let mut shapes: Vec<_> =
        [512, 1024, 4096, 65536, 1 << 21].map(|bytes| options(size_bytes, bytes, 16, false)).into();
    shapes.extend([1, 2, 4, 8, 32, 64].map(|bits| options(size_bytes, 512, bits, false)));
    shapes.extend([16384, 65536, 1 << 21].map(|bytes| options(size_bytes, bytes, 16, true)));
    shapes
}
