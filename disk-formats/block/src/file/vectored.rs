//! Positioned, vectored file I/O between a file and volatile slices, without a copy on Linux.
//!
//! Partial transfers and interrupted calls are continued, and lists longer than one call takes are cut. The kernel
//! accesses guest memory on behalf of this process, so the guest may change it meanwhile; nothing here looks at it.
#![cfg_attr(target_os = "linux", expect(unsafe_code, reason = "the kernel takes addresses, not slices"))]

use std::fs::File;
use std::io;

use benchtop_memory::VolatileSlice;

/// When a write returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// When the host has accepted it.
    Accepted,
    /// When it is durable on the host, together with the metadata needed to read it back.
    Durable,
}

/// Fills `into` from `offset_bytes` on.
///
/// # Errors
/// The host's, or `UnexpectedEof` where the file ends first. What `into` holds is then unspecified.
pub fn read_at(file: &File, offset_bytes: u64, into: &[VolatileSlice<'_>]) -> io::Result<()> {
    imp::read_at(file, offset_bytes, into)
}

/// Writes `from` at `offset_bytes`.
///
/// # Errors
/// The host's. How much was written is then unspecified.
pub fn write_at(file: &File, offset_bytes: u64, from: &[VolatileSlice<'_>], durability: Durability) -> io::Result<()> {
    imp::write_at(file, offset_bytes, from, durability)
}

#[cfg(target_os = "linux")]
mod imp {
    use super::*;
    use std::os::fd::AsRawFd;

    /// Slices given to the kernel at once, at most. The kernel's own limit is 1024 (IOV_MAX).
    const MAX_SLICES: usize = 128;

    /// How far a transfer has come.
    struct Transfer<'a, 'b> {
        slices: &'a [VolatileSlice<'b>],
        /// Bytes of the first slice that are done.
        done: usize,
        offset_bytes: u64,
    }

    impl Transfer<'_, '_> {
        /// Skips what is finished; false when nothing is left.
        fn pending(&mut self) -> bool {
            while let Some(first) = self.slices.first() {
                if self.done < first.len() {
                    return true;
                }
                self.done -= first.len();
                self.slices = &self.slices[1..];
            }
            false
        }

        /// One call on what is left: bytes transferred.
        fn step(
            &mut self,
            call: unsafe extern "C" fn(i32, *const libc::iovec, i32, libc::off64_t, i32) -> libc::ssize_t,
            file: &File,
            flags: i32,
        ) -> io::Result<usize> {
            let mut vectors = [libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; MAX_SLICES];
            let mut count = 0;
            let mut skip = self.done;
            for (vector, slice) in vectors.iter_mut().zip(self.slices) {
                // `pending` left `done` inside the first slice; the later ones are whole.
                let address = slice.ptr_guard_mut().as_ptr().wrapping_add(skip);
                *vector = libc::iovec { iov_base: address.cast(), iov_len: slice.len() - skip };
                skip = 0;
                count += 1;
            }
            let offset = i64::try_from(self.offset_bytes).map_err(io::Error::other)?;
            // SAFETY: the first `count` (at most 128) vectors each describe memory of a volatile slice that is
            // borrowed during the call, so it stays mapped, readable and writable; the guest shares it, which the
            // kernel's copy tolerates. The descriptor is open while `file` is borrowed.
            let result = unsafe { call(file.as_raw_fd(), vectors.as_ptr(), count, offset, flags) };
            let moved = usize::try_from(result).map_err(|_negative| io::Error::last_os_error())?;
            self.done += moved;
            self.offset_bytes = self.offset_bytes.saturating_add(moved as u64);
            Ok(moved)
        }
    }

    pub fn read_at(file: &File, offset_bytes: u64, into: &[VolatileSlice<'_>]) -> io::Result<()> {
        let mut transfer = Transfer { slices: into, done: 0, offset_bytes };
        while transfer.pending() {
            match transfer.step(libc::preadv2, file, 0) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    pub fn write_at(
        file: &File,
        offset_bytes: u64,
        from: &[VolatileSlice<'_>],
        durability: Durability,
    ) -> io::Result<()> {
        let flags = match durability {
            Durability::Accepted => 0,
            Durability::Durable => libc::RWF_DSYNC,
        };
        let mut transfer = Transfer { slices: from, done: 0, offset_bytes };
        while transfer.pending() {
            match transfer.step(libc::pwritev2, file, flags) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Hosts without positioned vectored calls: through a bounded buffer.
#[cfg(not(target_os = "linux"))]
mod imp {
    use super::*;
    use crate::pieces;

    const BUFFER_BYTES: usize = 64 << 10;

    #[cfg(unix)]
    fn read_some(file: &File, into: &mut [u8], offset_bytes: u64) -> io::Result<usize> {
        std::os::unix::fs::FileExt::read_at(file, into, offset_bytes)
    }

    #[cfg(unix)]
    fn write_some(file: &File, from: &[u8], offset_bytes: u64) -> io::Result<usize> {
        std::os::unix::fs::FileExt::write_at(file, from, offset_bytes)
    }

    #[cfg(windows)]
    fn read_some(file: &File, into: &mut [u8], offset_bytes: u64) -> io::Result<usize> {
        std::os::windows::fs::FileExt::seek_read(file, into, offset_bytes)
    }

    #[cfg(windows)]
    fn write_some(file: &File, from: &[u8], offset_bytes: u64) -> io::Result<usize> {
        std::os::windows::fs::FileExt::seek_write(file, from, offset_bytes)
    }

    pub fn read_at(file: &File, offset_bytes: u64, into: &[VolatileSlice<'_>]) -> io::Result<()> {
        let mut buffer = vec![0; BUFFER_BYTES];
        pieces::for_each(offset_bytes, into, BUFFER_BYTES, |piece| {
            let start = piece.unit * BUFFER_BYTES as u64 + piece.offset as u64;
            let bytes = &mut buffer[..piece.memory.len()];
            let mut done = 0;
            while done < bytes.len() {
                match read_some(file, &mut bytes[done..], start + done as u64) {
                    Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                    Ok(count) => done += count,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
            piece.memory.copy_from(bytes);
            Ok(())
        })
    }

    pub fn write_at(
        file: &File,
        offset_bytes: u64,
        from: &[VolatileSlice<'_>],
        durability: Durability,
    ) -> io::Result<()> {
        let mut buffer = vec![0; BUFFER_BYTES];
        pieces::for_each(offset_bytes, from, BUFFER_BYTES, |piece| {
            let start = piece.unit * BUFFER_BYTES as u64 + piece.offset as u64;
            let bytes = &mut buffer[..piece.memory.len()];
            piece.memory.copy_to(bytes);
            let mut done = 0;
            while done < bytes.len() {
                match write_some(file, &bytes[done..], start + done as u64) {
                    Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                    Ok(count) => done += count,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
            Ok(())
        })?;
        match durability {
            Durability::Accepted => Ok(()),
            Durability::Durable => file.sync_data(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_slices_than_one_call_takes() {
        let file = tempfile::tempfile().unwrap();
        let mut data: Vec<u8> = (0..3000u32).map(|index| (index % 251) as u8).collect();
        let slices: Vec<_> = data.chunks_mut(7).map(VolatileSlice::from).collect();
        write_at(&file, 5, &slices, Durability::Accepted).unwrap();
        write_at(&file, 5, &slices, Durability::Durable).unwrap();
        let mut got = vec![0u8; 3000];
        let mut into: Vec<_> = got.chunks_mut(11).map(VolatileSlice::from).collect();
        read_at(&file, 5, &into).unwrap();
        // The file ends before the list does.
        let end = read_at(&file, 6, &into).unwrap_err();
        assert_eq!(end.kind(), io::ErrorKind::UnexpectedEof);
        read_at(&file, 5, &into).unwrap();
        into.clear();
        read_at(&file, u64::MAX, &into).unwrap();
        assert_eq!(got, data);
        assert!(read_at(&file, u64::MAX, &[VolatileSlice::from(&mut got[..1])]).is_err());
    }
}
