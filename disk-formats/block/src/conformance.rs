//! What every backend must do, as one function each backend's tests call.
//!
//! The oracle is exact: a vector of bytes. [`run`] is for backends that can be written, [`read_only`] for the others.

use benchtop_memory::VolatileSlice;

use crate::{BlockError, BlockErrorKind, DiscardBehavior, DiskBackend, ExtentKind, SECTOR_BYTES};

/// Reads `len` bytes, cut into slices at `cuts`.
///
/// # Errors
/// The backend's.
pub fn read(disk: &dyn DiskBackend, offset_bytes: u64, len: usize, cuts: &[usize]) -> Result<Vec<u8>, BlockError> {
    let mut bytes = vec![0xa5; len];
    disk.read_at(offset_bytes, &cut(&mut bytes, cuts))?;
    Ok(bytes)
}

/// Writes `bytes`, cut into slices at `cuts`.
///
/// # Errors
/// The backend's.
pub fn write(
    disk: &dyn DiskBackend,
    offset_bytes: u64,
    bytes: &[u8],
    cuts: &[usize],
    fua: bool,
) -> Result<(), BlockError> {
    let mut bytes = bytes.to_vec();
    disk.write_at(offset_bytes, &cut(&mut bytes, cuts), fua)
}

fn cut<'a>(mut bytes: &'a mut [u8], cuts: &[usize]) -> Vec<VolatileSlice<'a>> {
    let mut slices = Vec::new();
    for &at in cuts {
        let (piece, rest) = bytes.split_at_mut(at.min(bytes.len()));
        slices.push(VolatileSlice::from(piece));
        bytes = rest;
    }
    slices.push(VolatileSlice::from(bytes));
    slices
}

/// A generator of test data with an exact sequence per seed (xorshift64*).
#[derive(Clone, Debug)]
pub struct Sequence(u64);

impl Sequence {
    /// The sequence of `seed`.
    pub fn new(seed: u64) -> Self {
        Self(seed | 1 << 63)
    }

    /// The next number below `bound`, which is not 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11) % bound
    }

    /// `len` bytes.
    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.below(256) as u8).collect()
    }
}

/// All that a writable backend must do. `make` gives a new one, of at least 16 sectors, each time.
///
/// # Panics
/// Where the backend does not.
pub fn run<B: DiskBackend + 'static>(make: impl Fn() -> B) {
    ranges(&make());
    for seed in 0..4 {
        model(&make(), seed);
    }
    concurrent(&make());
}

/// What a backend that can only be read must do, given the bytes it was made from.
///
/// # Panics
/// Where it does not.
pub fn read_only(disk: &dyn DiskBackend, content: &[u8]) {
    let info = disk.info();
    assert!(info.read_only);
    assert_eq!(info.size_bytes, content.len() as u64);
    assert_eq!(read(disk, 0, content.len(), &[1, 700]).expect("the whole disk is read"), content);
    check_out_of_range(disk);
    let sector = vec![0; SECTOR_BYTES as usize];
    for refused in [write(disk, 0, &sector, &[], false), write(disk, 0, &sector, &[], true), disk.discard(0, 512)] {
        assert_eq!(refused.expect_err("writes are refused").kind(), BlockErrorKind::ReadOnly);
    }
    disk.flush().expect("there is nothing to flush");
}

fn check_out_of_range(disk: &dyn DiskBackend) {
    let size = disk.info().size_bytes;
    for (offset, len) in
        [(size, 512), (size - 512, 1024), (size + 512, 512), (!511, 512), (!511, 1024), (0, 511), (1, 512)]
    {
        let error = read(disk, offset, len, &[]).expect_err("a read that leaves the disk fails");
        assert_eq!(error.kind(), BlockErrorKind::OutOfRange, "read {offset:#x}+{len:#x}: {error}");
    }
    read(disk, size, 0, &[]).expect("nothing at the end is on the disk");
}

/// Geometry, and what lies outside is refused and changes nothing.
fn ranges(disk: &dyn DiskBackend) {
    let info = disk.info();
    let size = info.size_bytes;
    assert!(!info.read_only && size >= 16 * SECTOR_BYTES && size.is_multiple_of(SECTOR_BYTES), "{info:?}");
    assert!(info.physical_block_bytes >= info.logical_block_bytes && info.logical_block_bytes >= 512, "{info:?}");
    check_out_of_range(disk);
    write(disk, size - 512, &[3; 512], &[], false).expect("the last sector is written");
    for (offset, len) in [(size, 512), (size - 512, 1024), (!511, 512), (!511, 1024), (0, 100), (7, 512)] {
        let error = write(disk, offset, &vec![9; len], &[], false).expect_err("a write that leaves the disk fails");
        assert_eq!(error.kind(), BlockErrorKind::OutOfRange, "write {offset:#x}+{len:#x}: {error}");
        let error = disk.discard(offset, len as u64).expect_err("a discard that leaves the disk fails");
        assert_eq!(error.kind(), BlockErrorKind::OutOfRange, "discard {offset:#x}+{len:#x}: {error}");
    }
    assert_eq!(read(disk, size - 512, 512, &[]).expect("the last sector is read"), [3; 512]);
    disk.discard(0, 0).expect("nothing is discarded");
    disk.flush().expect("flush");
    assert_eq!(disk.info(), info, "facts do not change");
}

/// A random workload against a vector of bytes.
fn model(disk: &dyn DiskBackend, seed: u64) {
    let info = disk.info();
    let sectors = (info.size_bytes / SECTOR_BYTES).min(1024);
    let mut sequence = Sequence::new(seed);
    let whole = (sectors * SECTOR_BYTES) as usize;
    let mut model = read(disk, 0, whole, &[]).expect("the start is read");
    for step in 0..200 {
        let first = sequence.below(sectors);
        let count = 1 + sequence.below((sectors - first).min(160));
        let (offset, len) = (first * SECTOR_BYTES, (count * SECTOR_BYTES) as usize);
        let range = offset as usize..offset as usize + len;
        // Guests may cut a transfer anywhere, not only at sectors.
        let cuts: Vec<usize> = (0..sequence.below(5)).map(|_| sequence.below(2000) as usize).collect();
        match sequence.below(8) {
            0..3 => {
                let bytes = sequence.bytes(len);
                write(disk, offset, &bytes, &cuts, step % 5 == 0).expect("a write succeeds");
                model[range].copy_from_slice(&bytes);
            }
            3 => {
                disk.discard(offset, len as u64).expect("a discard succeeds");
                match info.discard {
                    DiscardBehavior::Zeroes => model[range].fill(0),
                    DiscardBehavior::Ignored => {}
                    DiscardBehavior::Unspecified => {
                        let now = read(disk, offset, len, &[]).expect("a read succeeds");
                        model[range].copy_from_slice(&now);
                    }
                }
            }
            4 => disk.flush().expect("a flush succeeds"),
            _ => {
                let bytes = read(disk, offset, len, &cuts).expect("a read succeeds");
                assert_eq!(bytes, model[range], "seed {seed}, step {step}: read at {offset:#x}");
            }
        }
    }
    assert_eq!(read(disk, 0, whole, &[]).expect("the whole is read"), model, "seed {seed}");
    check_extents(disk, &model);
}

/// Extents cover the range without gaps, and what is said to be zeroes is.
fn check_extents(disk: &dyn DiskBackend, model: &[u8]) {
    let mut at = 0;
    while at < model.len() {
        let left = (model.len() - at) as u64;
        let extent = disk.extent_at(at as u64, left).expect("an extent is told");
        assert!((SECTOR_BYTES..=left).contains(&extent.len_bytes), "at {at:#x}: {extent:?}");
        assert!(extent.len_bytes.is_multiple_of(SECTOR_BYTES), "at {at:#x}: {extent:?}");
        let end = at + extent.len_bytes as usize;
        if extent.kind == ExtentKind::Zeroes {
            assert!(model[at..end].iter().all(|byte| *byte == 0), "not zeroes: {extent:?} at {at:#x}");
        }
        at = end;
    }
    let size = disk.info().size_bytes;
    for (offset, limit) in [(0, 0), (size, 512), (0, size + 512), (1, 512)] {
        let error = disk.extent_at(offset, limit).expect_err("a range that is not on the disk has no extents");
        assert_eq!(error.kind(), BlockErrorKind::OutOfRange, "extent {offset:#x}+{limit:#x}: {error}");
    }
}

/// Threads that write sectors of their own do not disturb each other.
fn concurrent(disk: &dyn DiskBackend) {
    const THREADS: u64 = 4;
    let rounds = (disk.info().size_bytes / SECTOR_BYTES / THREADS).min(64);
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            scope.spawn(move || {
                for round in 0..rounds {
                    let offset = (round * THREADS + thread) * SECTOR_BYTES;
                    write(disk, offset, &[thread as u8 + 1; 512], &[100], false).expect("a write succeeds");
                    assert_eq!(read(disk, offset, 512, &[]).expect("a read succeeds"), [thread as u8 + 1; 512]);
                }
            });
        }
    });
    for index in 0..rounds * THREADS {
        let bytes = read(disk, index * SECTOR_BYTES, 512, &[]).expect("a read succeeds");
        assert_eq!(bytes, [(index % THREADS) as u8 + 1; 512], "sector {index}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DiskInfo, MemoryDisk, pieces};

    /// What a backend may get wrong.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Mistake {
        None,
        LosesTheLastSlice,
        WritesNextDoor,
        GrowsAtTheEnd,
        PanicsOnOverflow,
        DiscardDoesNothing,
        DiscardTakesMore,
        ForcedWriteIsLost,
    }

    /// The negative control of the suite: a disk with one mistake.
    struct Wrong(MemoryDisk, Mistake);

    impl DiskBackend for Wrong {
        fn info(&self) -> DiskInfo {
            self.0.info()
        }

        fn read_at(&self, offset_bytes: u64, into: &[VolatileSlice<'_>]) -> Result<(), BlockError> {
            let len = pieces::len_bytes(into);
            match self.1 {
                Mistake::GrowsAtTheEnd if offset_bytes == self.info().size_bytes => Ok(()),
                Mistake::PanicsOnOverflow => self.0.read_at(offset_bytes + len - len, into),
                _ => self.0.read_at(offset_bytes, into),
            }
        }

        fn write_at(&self, offset_bytes: u64, from: &[VolatileSlice<'_>], fua: bool) -> Result<(), BlockError> {
            let len = pieces::len_bytes(from);
            match self.1 {
                Mistake::ForcedWriteIsLost if fua => self.info().check_write(offset_bytes, len),
                Mistake::LosesTheLastSlice if from.len() > 1 => {
                    self.info().check_write(offset_bytes, len)?;
                    let kept = &from[..1];
                    let rest = pieces::len_bytes(kept) % 512;
                    if rest == 0 { self.0.write_at(offset_bytes, kept, fua) } else { Ok(()) }
                }
                Mistake::WritesNextDoor if offset_bytes == 1024 => self.0.write_at(offset_bytes + 512, from, fua),
                _ => self.0.write_at(offset_bytes, from, fua),
            }
        }

        fn flush(&self) -> Result<(), BlockError> {
            self.0.flush()
        }

        fn discard(&self, offset_bytes: u64, len_bytes: u64) -> Result<(), BlockError> {
            match self.1 {
                Mistake::DiscardDoesNothing => self.info().check_write(offset_bytes, len_bytes),
                Mistake::DiscardTakesMore if len_bytes > 0 => self.0.discard(offset_bytes & !4095, len_bytes),
                _ => self.0.discard(offset_bytes, len_bytes),
            }
        }
    }

    #[test]
    fn the_suite_finds_each_mistake() {
        for mistake in [
            Mistake::None,
            Mistake::LosesTheLastSlice,
            Mistake::WritesNextDoor,
            Mistake::GrowsAtTheEnd,
            Mistake::PanicsOnOverflow,
            Mistake::DiscardDoesNothing,
            Mistake::DiscardTakesMore,
            Mistake::ForcedWriteIsLost,
        ] {
            let passed = std::panic::catch_unwind(|| run(|| Wrong(MemoryDisk::new(64 << 10), mistake))).is_ok();
            assert_eq!(passed, mistake == Mistake::None, "{mistake:?}");
        }
    }
}
