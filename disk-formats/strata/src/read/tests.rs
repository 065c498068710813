//! How many reads of the file a read of the disk takes.

use std::io::{self, IoSliceMut};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use benchtop_block::DiskBackend as _;
use benchtop_block::conformance::{read, write};

use crate::medium::{HostCache, HostFile, Medium};
use crate::{CreateOptions, Retention, StrataDisk};

/// Counts reads.
struct Counted {
    under: HostFile,
    reads: AtomicU64,
}

impl Medium for Counted {
    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        self.read_all_at(offset, &mut [IoSliceMut::new(into)])
    }

    fn read_all_at(&self, offset: u64, into: &mut [IoSliceMut<'_>]) -> io::Result<()> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.under.read_all_at(offset, into)
    }

    fn write_at(&self, offset: u64, from: &[&[u8]]) -> io::Result<()> {
        self.under.write_at(offset, from)
    }

    fn sync(&self) -> io::Result<()> {
        self.under.sync()
    }

    fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        self.under.punch(offset, len)
    }

    fn size(&self) -> io::Result<u64> {
        self.under.size()
    }
}

const MIB: u64 = 1 << 20;

/// A disk of 64 MiB, written in order: 128 pages of the map at the bottom, one above.
fn disk() -> (Arc<Counted>, StrataDisk) {
    let under = HostFile::new(tempfile::tempfile().unwrap(), HostCache::Reads);
    let medium = Arc::new(Counted { under, reads: AtomicU64::new(0) });
    let options = CreateOptions { size_bytes: 64 * MIB, retention: Retention::OFF, password: None };
    let disk = StrataDisk::create(medium.clone(), &options).unwrap();
    for at in 0..64 {
        write(&disk, at * MIB, &vec![at as u8 + 1; MIB as usize], &[], false).unwrap();
    }
    disk.flush().unwrap();
    disk.checkpoint().unwrap();
    disk.core().store.forget_pages();
    medium.reads.store(0, Ordering::Relaxed);
    (medium, disk)
}

/// A record lies behind every 160 blocks of data. Reading around it took a request of its own for each side.
#[test]
fn what_lies_nearly_together_is_read_at_once() {
    let (medium, disk) = disk();
    read(&disk, 0, 4096, &[]).unwrap();
    medium.reads.store(0, Ordering::Relaxed);
    let mut blocks = disk.core().store.pool.take(256);
    // Within the first segment, and over a record.
    disk.core().read_blocks(100, blocks.bytes_mut()).unwrap();
    assert_eq!(medium.reads.load(Ordering::Relaxed), 1);
    for (index, block) in blocks.bytes().chunks(4096).enumerate() {
        assert!(block.iter().all(|byte| u64::from(*byte) == (100 + index as u64) / 256 + 1), "{index}");
    }
}

/// A disk that was just opened read a page of the map for every read of data.
#[test]
fn pages_come_with_their_neighbours() {
    let (medium, disk) = disk();
    for at in 0..128u64 {
        assert_eq!(read(&disk, at * (MIB / 2), 4096, &[]).unwrap()[0], (at / 2) as u8 + 1);
    }
    let pages = medium.reads.load(Ordering::Relaxed) - 128;
    assert!(pages <= 1 + 2 + 2, "the top, two halves, and where a segment of pages ends: {pages}");
}

/// A damaged neighbour is the trouble of who needs it, and of nobody else.
#[test]
fn a_damaged_neighbour_harms_nobody_else() {
    let (medium, disk) = disk();
    let core = disk.core();
    let root = core.state.lock().root;
    let top = core.store.page(&root.pointer).unwrap();
    let damaged = crate::pages::entry(&top, 5);
    medium.write_at(core.store.locate(&damaged).unwrap(), &[&[0xff; 100]]).unwrap();
    core.store.forget_pages();
    read(&disk, 0, 4096, &[]).unwrap();
    assert!(read(&disk, 5 * (MIB / 2), 4096, &[]).is_err());
    read(&disk, 6 * (MIB / 2), 4096, &[]).unwrap();
}

/// Large reads are done by several threads; every piece must land in its own place, ends included.
#[test]
fn a_large_read_is_put_together() {
    let (_medium, disk) = disk();
    let (from, len) = (3 * MIB + 512, 5 * MIB + 1024);
    let bytes = read(&disk, from, len as usize, &[]).unwrap();
    for (index, byte) in bytes.iter().enumerate() {
        assert_eq!(u64::from(*byte), (from + index as u64) / MIB + 1, "{index}");
    }
}
