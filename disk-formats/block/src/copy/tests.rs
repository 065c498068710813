//! Copies equal their source, write no more than they must, and end when they shall.

use std::sync::atomic::AtomicUsize;

use proptest::prelude::*;

use super::*;
use crate::{DiskInfo, Extent, MemoryDisk};

fn go_on(_progress: Progress) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

fn write(disk: &dyn DiskBackend, offset: u64, len: usize, byte: u8) {
    let mut data = vec![byte; len];
    disk.write_at(offset, &[VolatileSlice::from(&mut data[..])], false).unwrap();
}

fn read(disk: &dyn DiskBackend) -> Vec<u8> {
    let mut data = vec![1; disk.info().size_bytes as usize];
    disk.read_at(0, &[VolatileSlice::from(&mut data[..])]).unwrap();
    data
}

/// A disk in memory that knows its holes, at a grain of 64 KiB.
struct Sparse {
    disk: MemoryDisk,
    data: Mutex<std::collections::BTreeSet<u64>>,
    reads: AtomicUsize,
}

const GRAIN: u64 = 64 << 10;

impl Sparse {
    fn new(size_bytes: u64) -> Self {
        Self { disk: MemoryDisk::new(size_bytes), data: Mutex::default(), reads: AtomicUsize::new(0) }
    }
}

impl DiskBackend for Sparse {
    fn info(&self) -> DiskInfo {
        self.disk.info()
    }

    fn read_at(&self, offset_bytes: u64, into: &[VolatileSlice<'_>]) -> Result<(), BlockError> {
        self.reads.fetch_add(1, Relaxed);
        self.disk.read_at(offset_bytes, into)
    }

    fn write_at(&self, offset_bytes: u64, from: &[VolatileSlice<'_>], fua: bool) -> Result<(), BlockError> {
        let end = offset_bytes + crate::pieces::len_bytes(from);
        self.data.lock().extend(offset_bytes / GRAIN..end.div_ceil(GRAIN));
        self.disk.write_at(offset_bytes, from, fua)
    }

    fn flush(&self) -> Result<(), BlockError> {
        Ok(())
    }

    fn discard(&self, offset_bytes: u64, len_bytes: u64) -> Result<(), BlockError> {
        self.disk.discard(offset_bytes, len_bytes)
    }

    fn extent_at(&self, offset_bytes: u64, limit_bytes: u64) -> Result<Extent, BlockError> {
        let data = self.data.lock();
        let grain = offset_bytes / GRAIN;
        let is_data = data.contains(&grain);
        let until = match is_data {
            true => (grain..).find(|grain| !data.contains(grain)),
            false => data.range(grain..).next().copied(),
        };
        let end = until.map_or(u64::MAX, |until| until * GRAIN).min(offset_bytes + limit_bytes);
        let kind = if is_data { ExtentKind::Data } else { ExtentKind::Zeroes };
        Ok(Extent { kind, len_bytes: end - offset_bytes })
    }
}

#[test]
fn a_huge_sparse_disk_is_copied_at_once() {
    let source = Sparse::new(1 << 50);
    let target = Sparse::new(1 << 50);
    let at = (1 << 49) + 12345 * 512;
    write(&source, at, 512, 7);
    write(&source, (1 << 50) - 512, 512, 9);
    // Blocks of 4 KiB are written whole.
    assert_eq!(copy(&source, &target, true, &mut go_on).unwrap(), 2 * ZERO_BYTES as u64);
    assert_eq!(source.reads.load(Relaxed), 2);
    assert_eq!(compare(&source, &target, &mut go_on).unwrap(), None);
    write(&target, at + 512, 512, 1);
    assert_eq!(compare(&source, &target, &mut go_on).unwrap(), Some(at + 512));
}

#[test]
fn a_target_that_held_something_holds_only_the_copy() {
    let source = MemoryDisk::new(5 << 20);
    write(&source, 3 << 20, 5000 / 512 * 512, 3);
    let target = MemoryDisk::new(9 << 20);
    for at in 0..9 {
        write(&target, at << 20, 70_000 / 512 * 512, 8);
    }
    copy(&source, &target, false, &mut go_on).unwrap();
    assert_eq!(compare(&source, &target, &mut go_on).unwrap(), None);
    assert!(read(&target)[5 << 20..].iter().all(|byte| *byte == 0));
    let small = MemoryDisk::new(1 << 20);
    let error = copy(&source, &small, true, &mut go_on).unwrap_err();
    assert!(matches!(error, CopyError::Target(error) if error.kind() == BlockErrorKind::OutOfRange));
}

#[test]
fn the_first_difference_is_found_whoever_finds_it() {
    let disks = [MemoryDisk::new(64 << 20), MemoryDisk::new(70 << 20)];
    assert_eq!(compare(&disks[0], &disks[1], &mut go_on).unwrap(), None);
    for at in [69 << 20, 40 << 20, 33 << 20, (33 << 20) - 512, 512] {
        write(&disks[1], at, 512, 1);
        for (a, b) in [(0, 1), (1, 0)] {
            assert_eq!(compare(&disks[a], &disks[b], &mut go_on).unwrap(), Some(at));
        }
    }
}

#[test]
fn progress_rises_and_can_end_it() {
    let source = MemoryDisk::new(256 << 20);
    let target = MemoryDisk::new(256 << 20);
    let mut last = 0;
    let mut flushing = 0;
    copy(&source, &target, true, &mut |progress| {
        assert!(progress.done_bytes >= last && progress.total_bytes == 256 << 20);
        last = progress.done_bytes;
        flushing += u32::from(progress.flushing);
        ControlFlow::Continue(())
    })
    .unwrap();
    assert_eq!((last, flushing), (256 << 20, 1));
    struct Slow(MemoryDisk);
    impl DiskBackend for Slow {
        fn info(&self) -> DiskInfo {
            self.0.info()
        }
        fn read_at(&self, offset_bytes: u64, into: &[VolatileSlice<'_>]) -> Result<(), BlockError> {
            std::thread::sleep(Duration::from_millis(20));
            self.0.read_at(offset_bytes, into)
        }
        fn write_at(&self, _: u64, _: &[VolatileSlice<'_>], _: bool) -> Result<(), BlockError> {
            Err(BlockError::new(BlockErrorKind::NoSpace, "full"))
        }
        fn flush(&self) -> Result<(), BlockError> {
            Ok(())
        }
        fn discard(&self, _: u64, _: u64) -> Result<(), BlockError> {
            Ok(())
        }
    }
    let slow = Slow(MemoryDisk::new(1 << 30));
    let begun = Instant::now();
    let error = copy(&slow, &MemoryDisk::new(1 << 30), true, &mut |_| ControlFlow::Break(())).unwrap_err();
    assert!(matches!(error, CopyError::Cancelled) && begun.elapsed() < Duration::from_secs(2));
    // A target that fails ends it at once.
    write(&source, 0, 512, 1);
    let error = copy(&source, &slow, true, &mut go_on).unwrap_err();
    assert!(matches!(error, CopyError::Target(error) if error.kind() == BlockErrorKind::NoSpace));
}

proptest! {
    #[test]
    fn copies_equal_their_source(
        writes in proptest::collection::vec((0..16_000u64, 1..300usize, 0..3u8), 0..20),
        zeroed in any::<bool>(),
    ) {
        let source = Sparse::new(16_300 * 512);
        let target = MemoryDisk::new(16_384 * 512);
        if !zeroed {
            write(&target, 0, 16_384 * 512, 5);
        }
        for (sector, count, byte) in writes {
            write(&source, sector * 512, count * 512, byte);
        }
        copy(&source, &target, zeroed, &mut go_on).unwrap();
        let (mut want, got) = (read(&source), read(&target));
        want.resize(got.len(), 0);
        prop_assert!(want == got);
        prop_assert_eq!(compare(&source, &target, &mut go_on).unwrap(), None);
    }
}
