//! One piece of host memory that can be shown to a guest: RAM, video RAM, a firmware image.

use std::fs::File;
use std::sync::Arc;

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use vm_memory::mmap::{MmapRegionBuilder, MmapRegionError};
use vm_memory::{FileOffset, MmapRegion, VolatileMemory, VolatileSlice};

/// A run of zero-filled host memory, page aligned, cheap to clone, freed with its last clone.
///
/// It is backed by a memfd, so another process of the same user can be handed the same pages.
#[derive(Clone, Debug)]
pub struct SharedRegion {
    mapping: Arc<MmapRegion<()>>,
}

impl SharedRegion {
    /// Reserves `len_bytes` (rounded up to whole 4 KiB pages, at least one). The host gives pages on first touch.
    ///
    /// # Errors
    /// The host's own, when it refuses the size or is out of descriptors.
    pub fn new(name: &str, len_bytes: u64) -> std::io::Result<Self> {
        let len_bytes = len_bytes.max(1).checked_next_multiple_of(4096).ok_or(std::io::ErrorKind::InvalidInput)?;
        let len = usize::try_from(len_bytes).map_err(std::io::Error::other)?;
        let memfd = memfd_create(name, MemfdFlags::CLOEXEC)?;
        ftruncate(&memfd, len_bytes)?;
        let mapping = MmapRegionBuilder::new(len)
            .with_file_offset(FileOffset::new(File::from(memfd), 0))
            .with_mmap_prot(libc_prot::READ | libc_prot::WRITE)
            .with_mmap_flags(libc_prot::SHARED | libc_prot::NORESERVE)
            .build()
            .map_err(mmap_error)?;
        Ok(Self { mapping: Arc::new(mapping) })
    }

    /// Length in bytes, a multiple of 4096.
    pub fn len(&self) -> usize {
        self.mapping.size()
    }

    /// A region is never empty; this exists for symmetry with [`Self::len`].
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Where it starts in this process, for a hypervisor's memory slot. Valid while any clone lives.
    pub fn host_address(&self) -> u64 {
        self.mapping.as_ptr() as u64
    }

    /// The memfd behind it.
    pub fn file(&self) -> Option<&File> {
        self.mapping.file_offset().map(FileOffset::file)
    }

    /// The whole of it.
    pub fn as_slice(&self) -> VolatileSlice<'_> {
        self.mapping.as_volatile_slice()
    }

    /// `len` bytes from `offset`, or `None` where that leaves the region.
    pub fn slice(&self, offset: usize, len: usize) -> Option<VolatileSlice<'_>> {
        self.mapping.get_slice(offset, len).ok()
    }

    /// Copies out of the region; false, and nothing done, where the range leaves it.
    #[must_use]
    pub fn read(&self, offset: usize, out: &mut [u8]) -> bool {
        self.slice(offset, out.len()).is_some_and(|slice| slice.copy_to(out) == out.len())
    }

    /// Copies into the region; false, and nothing done, where the range leaves it.
    #[must_use]
    pub fn write(&self, offset: usize, data: &[u8]) -> bool {
        match self.slice(offset, data.len()) {
            Some(slice) => {
                slice.copy_from(data);
                true
            }
            None => false,
        }
    }
}

/// The few mmap constants used, by their Linux x86-64 values.
mod libc_prot {
    pub const READ: i32 = 1;
    pub const WRITE: i32 = 2;
    pub const SHARED: i32 = 1;
    pub const NORESERVE: i32 = 0x4000;
}

fn mmap_error(error: MmapRegionError) -> std::io::Error {
    match error {
        MmapRegionError::Mmap(error) => error,
        other => std::io::Error::other(other),
    }
}
