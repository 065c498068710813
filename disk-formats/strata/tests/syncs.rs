//! A host tells of a write that failed once, to the sync that comes first. So syncs come one at a time, and none follows
//! one that failed.

mod common;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use benchtop_block::conformance::write;
use benchtop_block::{BlockErrorKind, DiskBackend};
use benchtop_strata::{Medium, StrataDisk};
use common::{Memory, options};

struct Counting {
    memory: Arc<Memory>,
    inside: AtomicUsize,
    most: AtomicUsize,
    done: AtomicUsize,
    /// The sync of that number fails, and none may come after it.
    fails_at: AtomicUsize,
    after: AtomicUsize,
}

impl Medium for Counting {
    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        self.memory.read_at(offset, into)
    }

    fn write_at(&self, offset: u64, from: &[&[u8]]) -> io::Result<()> {
        self.memory.write_at(offset, from)
    }

    fn sync(&self) -> io::Result<()> {
        let inside = self.inside.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(inside, Ordering::SeqCst);
        // Time for another to come.
        std::thread::sleep(Duration::from_millis(2));
        let number = self.done.fetch_add(1, Ordering::SeqCst);
        self.inside.fetch_sub(1, Ordering::SeqCst);
        let fails_at = self.fails_at.load(Ordering::SeqCst);
        self.after.fetch_add(usize::from(number > fails_at), Ordering::SeqCst);
        if number == fails_at { Err(io::Error::other("a write failed")) } else { self.memory.sync() }
    }

    fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        self.memory.punch(offset, len)
    }

    fn size(&self) -> io::Result<u64> {
        self.memory.size()
    }
}

#[test]
fn syncs_come_one_at_a_time_and_none_after_one_that_failed() {
    let medium = Arc::new(Counting {
        memory: Memory::new(),
        inside: AtomicUsize::new(0),
        most: AtomicUsize::new(0),
        done: AtomicUsize::new(0),
        fails_at: AtomicUsize::new(usize::MAX),
        after: AtomicUsize::new(0),
    });
    let disk = StrataDisk::create(medium.clone(), &options(1 << 20, None)).unwrap();
    medium.fails_at.store(medium.done.load(Ordering::SeqCst) + 40, Ordering::SeqCst);
    std::thread::scope(|scope| {
        for thread in 0..3u64 {
            let disk = &disk;
            let body = move || {
                for round in 0..200u8 {
                    let at = thread * 65536 + u64::from(round % 16) * 4096;
                    let written = write(disk, at, &[round; 4096], &[], false).and_then(|()| match thread {
                        0 => disk.flush(),
                        1 => disk.checkpoint(),
                        _ => disk.snapshot(&format!("{round}")).map(|_seq| ()),
                    });
                    if let Err(error) = written {
                        assert_eq!(error.kind(), BlockErrorKind::Poisoned, "{error}");
                        return;
                    }
                }
                panic!("nobody was told");
            };
            std::thread::Builder::new().spawn_scoped(scope, body).unwrap();
        }
    });
    assert_eq!((medium.most.load(Ordering::SeqCst), medium.after.load(Ordering::SeqCst)), (1, 0));
    disk.abandon();
}
