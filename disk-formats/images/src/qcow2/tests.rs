mod basic;
mod crash;
mod cut;
mod hostile;
mod packed;
mod qemu;
mod shared;

use std::fs::File;
use std::path::Path;

use benchtop_block::MemoryDisk;
use benchtop_memory::VolatileSlice;

use super::*;
use crate::file::recording::{self, Event};

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
