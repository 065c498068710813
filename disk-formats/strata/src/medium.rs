//! What a disk file is kept on: a host file, or a test's idea of one.

use std::fs::File;
use std::io::{self, IoSliceMut};

/// Positioned I/O, a length, a barrier. Called by several threads.
pub trait Medium: Send + Sync {
    /// Fills `into`; what lies behind the end reads as zeroes.
    ///
    /// # Errors
    /// The host's.
    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()>;

    /// Fills several slices, one after the other.
    ///
    /// # Errors
    /// The host's.
    fn read_all_at(&self, offset: u64, into: &mut [IoSliceMut<'_>]) -> io::Result<()> {
        let mut at = offset;
        for slice in into {
            self.read_at(at, slice)?;
            at += slice.len() as u64;
        }
        Ok(())
    }

    /// Writes all of `from`, one after the other.
    ///
    /// # Errors
    /// The host's. How much was written is then unspecified.
    fn write_at(&self, offset: u64, from: &[&[u8]]) -> io::Result<()>;

    /// Makes everything written before durable.
    ///
    /// # Errors
    /// The host's. What was written since the last sync may be lost, whatever a later sync says.
    fn sync(&self) -> io::Result<()>;

    /// Room in the file for what will soon be written there, one write after the other; what it holds stays. Several
    /// threads can then write at once, where a file system (ext4) lets only one at a time write into nothing.
    ///
    /// # Errors
    /// The host's. Nothing depends on it having worked.
    fn reserve(&self, _offset: u64, _len: u64) -> io::Result<()> {
        Ok(())
    }

    /// Gives room back; the range reads as zeroes or as before.
    ///
    /// # Errors
    /// The host's. Nothing depends on it having worked.
    fn punch(&self, offset: u64, len: u64) -> io::Result<()>;

    /// How long the file is, in bytes.
    ///
    /// # Errors
    /// The host's.
    fn size(&self) -> io::Result<u64>;

    /// From now on reads are of what is on the host's disk, not of what a failed sync may have left in its cache.
    ///
    /// # Errors
    /// The host's.
    fn forget(&self) -> io::Result<()> {
        Ok(())
    }
}

/// What the host's page cache is used for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HostCache {
    /// For what is read, so that what is read again comes from memory. What is written goes past it where the file
    /// system allows: the log is not read again soon.
    #[default]
    Reads,
    /// For nothing, where the file system allows: the guest has a cache of its own.
    Bypassed,
}

/// A disk file on the host.
#[derive(Debug)]
pub struct HostFile {
    file: File,
    /// The same file, opened past the page cache, if it can be.
    #[cfg(target_os = "linux")]
    direct: Option<File>,
    #[cfg(target_os = "linux")]
    cache: HostCache,
}

impl HostFile {
    /// A file that is open for reading, and for writing if the disk is to be written.
    pub fn new(file: File, cache: HostCache) -> Self {
        #[cfg(not(target_os = "linux"))]
        let _ = cache;
        Self {
            #[cfg(target_os = "linux")]
            direct: direct::reopen(&file),
            #[cfg(target_os = "linux")]
            cache,
            file,
        }
    }
}

#[cfg(unix)]
mod plain {
    use super::*;
    use std::io::IoSlice;

    /// Slices given to the kernel at once.
    const SLICES_MAX: usize = 512;

    pub fn read(file: &File, offset: u64, into: &mut [IoSliceMut<'_>]) -> io::Result<()> {
        let mut at = offset;
        let mut rest = into;
        while rest.iter().any(|slice| !slice.is_empty()) {
            let some = rest.len().min(SLICES_MAX);
            match rustix::io::preadv(file, &mut rest[..some], at) {
                Ok(0) => {
                    rest.iter_mut().for_each(|slice| slice.fill(0));
                    return Ok(());
                }
                Ok(count) => {
                    at += count as u64;
                    IoSliceMut::advance_slices(&mut rest, count);
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    pub fn write(file: &File, offset: u64, from: &[&[u8]]) -> io::Result<()> {
        let mut at = offset;
        for part in from.chunks(SLICES_MAX) {
            let mut slices: Vec<IoSlice<'_>> = part.iter().map(|bytes| IoSlice::new(bytes)).collect();
            let mut rest = &mut slices[..];
            while rest.iter().any(|slice| !slice.is_empty()) {
                match rustix::io::pwritev(file, rest, at) {
                    Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                    Ok(count) => {
                        at += count as u64;
                        IoSlice::advance_slices(&mut rest, count);
                    }
                    Err(rustix::io::Errno::INTR) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(())
    }
}

/// Past the page cache (open(2), O_DIRECT). Mixed with cached reads of the same file, which the kernel keeps coherent:
/// a direct write drops the pages of its range. Nothing is read before the write that brought it has returned.
#[cfg(target_os = "linux")]
mod direct {
    use super::*;
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::OpenOptionsExt;

    const ALIGNMENT: usize = 4096;

    /// The file again, as another open file description. `None` where the file system can not, or the process may not.
    pub fn reopen(file: &File) -> Option<File> {
        let flags = rustix::fs::fcntl_getfl(file).ok()?;
        let writes = flags.contains(rustix::fs::OFlags::RDWR);
        let direct = i32::try_from(rustix::fs::OFlags::DIRECT.bits()).ok()?;
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        std::fs::OpenOptions::new().read(true).write(writes).custom_flags(direct).open(path).ok()
    }

    pub fn is_aligned(offset: u64, bytes: &[u8]) -> bool {
        offset.is_multiple_of(ALIGNMENT as u64)
            && bytes.len().is_multiple_of(ALIGNMENT)
            && bytes.as_ptr().addr().is_multiple_of(ALIGNMENT)
    }
}

#[cfg(unix)]
impl Medium for HostFile {
    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        self.read_all_at(offset, &mut [IoSliceMut::new(into)])
    }

    fn read_all_at(&self, offset: u64, into: &mut [IoSliceMut<'_>]) -> io::Result<()> {
        #[cfg(target_os = "linux")]
        if let (Some(file), HostCache::Bypassed) = (&self.direct, self.cache)
            && into.iter().all(|slice| direct::is_aligned(offset, slice))
        {
            match plain::read(file, offset, into) {
                // The file ends within a block, or the file system wants more alignment than this.
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => {}
                result => return result,
            }
        }
        plain::read(&self.file, offset, into)
    }

    fn write_at(&self, offset: u64, from: &[&[u8]]) -> io::Result<()> {
        #[cfg(target_os = "linux")]
        if let Some(file) = &self.direct
            && from.iter().all(|bytes| direct::is_aligned(offset, bytes))
        {
            match plain::write(file, offset, from) {
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => {}
                result => return result,
            }
        }
        plain::write(&self.file, offset, from)
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    #[cfg(target_os = "linux")]
    fn reserve(&self, offset: u64, len: u64) -> io::Result<()> {
        use rustix::fs::{FallocateFlags, fallocate};
        Ok(fallocate(&self.file, FallocateFlags::empty(), offset, len)?)
    }

    #[cfg(target_os = "linux")]
    fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        use rustix::fs::{FallocateFlags, fallocate};
        Ok(fallocate(&self.file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, offset, len)?)
    }

    #[cfg(not(target_os = "linux"))]
    fn punch(&self, _offset: u64, _len: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    #[cfg(target_os = "linux")]
    fn forget(&self) -> io::Result<()> {
        Ok(rustix::fs::fadvise(&self.file, 0, None, rustix::fs::Advice::DontNeed)?)
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn direct_and_cached_see_the_same_bytes() {
        let pool = crate::buffer::Pool::default();
        for cache in [HostCache::Reads, HostCache::Bypassed] {
            let host = HostFile::new(tempfile::tempfile().unwrap(), cache);
            let mut blocks = pool.take(3);
            for round in 1..4u8 {
                blocks.bytes_mut().fill(round);
                host.write_at(4096, &[blocks.bytes()]).unwrap();
                let mut unaligned = vec![0; 3 * 4096 + 512];
                host.read_at(3584, &mut unaligned).unwrap();
                assert!(unaligned[..512] == [0; 512] && unaligned[512..].iter().all(|byte| *byte == round));
                host.write_at(4096, &[&[9; 10]]).unwrap();
                host.read_at(4096, blocks.bytes_mut()).unwrap();
                assert!(blocks.bytes()[..10] == [9; 10] && blocks.bytes()[10..].iter().all(|byte| *byte == round));
            }
            host.read_at(1 << 30, blocks.bytes_mut()).unwrap();
            assert!(blocks.bytes().iter().all(|byte| *byte == 0), "behind the end");
        }
    }
}
