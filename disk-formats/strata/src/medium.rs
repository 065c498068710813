//! What a disk file is kept on: a host file, or a test's idea of one.

use std::fs::File;
use std::io::{self, IoSlice};

/// Positioned I/O, a length, a barrier. Called by several threads.
pub trait Medium: Send + Sync {
    /// Fills `into`; what lies behind the end reads as zeroes.
    ///
    /// # Errors
    /// The host's.
    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()>;

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
}

/// Slices given to the kernel at once.
const SLICES_MAX: usize = 512;

#[cfg(unix)]
impl Medium for File {
    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        let mut done = 0;
        while done < into.len() {
            match rustix::io::pread(self, &mut into[done..], offset + done as u64) {
                Ok(0) => {
                    into[done..].fill(0);
                    return Ok(());
                }
                Ok(count) => done += count,
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn write_at(&self, offset: u64, from: &[&[u8]]) -> io::Result<()> {
        let mut at = offset;
        for part in from.chunks(SLICES_MAX) {
            let mut slices: Vec<IoSlice<'_>> = part.iter().map(|bytes| IoSlice::new(bytes)).collect();
            let mut rest = &mut slices[..];
            while rest.iter().any(|slice| !slice.is_empty()) {
                match rustix::io::pwritev(self, rest, at) {
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

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }

    #[cfg(target_os = "linux")]
    fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        use rustix::fs::{FallocateFlags, fallocate};
        Ok(fallocate(self, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, offset, len)?)
    }

    #[cfg(not(target_os = "linux"))]
    fn punch(&self, _offset: u64, _len: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }
}
