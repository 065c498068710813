//! A layer that keeps writes in memory and never touches what is below.

use std::collections::HashMap;
use std::sync::Arc;

use benchtop_memory::VolatileSlice;
use parking_lot::RwLock;

use crate::{BlockError, BlockErrorKind, DiscardBehavior, DiskBackend, DiskInfo, SECTOR_BYTES, pieces};

/// The unit of allocation, in bytes: 128 sectors, one bit each.
const CHUNK_BYTES: usize = 64 << 10;
const SECTOR: usize = SECTOR_BYTES as usize;

/// Part of the overlay.
#[derive(Debug)]
struct Chunk {
    bytes: Box<[u8]>,
    /// Which sectors the guest has written, from bit 0.
    written: u128,
}

/// A writable disk over a base that stays as it is: writes live in memory and are gone with the process.
pub struct DiscardWrites {
    base: Arc<dyn DiskBackend>,
    limit_bytes: u64,
    chunks: RwLock<HashMap<u64, Chunk>>,
}

impl std::fmt::Debug for DiscardWrites {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DiscardWrites").field("base", &self.base.info()).finish_non_exhaustive()
    }
}

impl DiscardWrites {
    /// A layer over `base` that takes at most `limit_bytes` of host memory; a write beyond fails with `NoSpace`.
    pub fn new(base: Arc<dyn DiskBackend>, limit_bytes: u64) -> Self {
        Self { base, limit_bytes, chunks: RwLock::new(HashMap::new()) }
    }

    /// Bytes of host memory the overlay takes.
    pub fn allocated_bytes(&self) -> u64 {
        self.chunks.read().len() as u64 * CHUNK_BYTES as u64
    }
}

/// The bits of the `len` bytes from `offset` of a chunk.
fn sector_bits(offset: usize, len: usize) -> u128 {
    let (first, count) = (offset / SECTOR, len / SECTOR);
    let bits = if count >= 128 { u128::MAX } else { (1 << count) - 1 };
    bits << first
}

impl DiskBackend for DiscardWrites {
    fn info(&self) -> DiskInfo {
        DiskInfo { read_only: false, discard: DiscardBehavior::Ignored, ..self.base.info() }
    }

    fn read_at(&self, offset_bytes: u64, into: &[VolatileSlice<'_>]) -> Result<(), BlockError> {
        self.info().check_range(offset_bytes, pieces::len_bytes(into))?;
        self.base.read_at(offset_bytes, into)?;
        self.cover(offset_bytes, into);
        Ok(())
    }

    fn write_at(&self, offset_bytes: u64, from: &[VolatileSlice<'_>], _fua: bool) -> Result<(), BlockError> {
        self.info().check_write(offset_bytes, pieces::len_bytes(from))?;
        let limit = usize::try_from(self.limit_bytes / CHUNK_BYTES as u64).unwrap_or(usize::MAX);
        let mut chunks = self.chunks.write();
        // Pieces may be smaller than a sector, so the bits are set once all bytes are there.
        pieces::for_each(offset_bytes, from, CHUNK_BYTES, |piece| {
            let taken = chunks.len();
            let chunk = match chunks.entry(piece.unit) {
                std::collections::hash_map::Entry::Occupied(chunk) => chunk.into_mut(),
                std::collections::hash_map::Entry::Vacant(_) if taken >= limit => {
                    let context = format!("writes to be discarded take more than {} bytes", self.limit_bytes);
                    return Err(BlockError::new(BlockErrorKind::NoSpace, context));
                }
                std::collections::hash_map::Entry::Vacant(entry) => {
                    entry.insert(Chunk { bytes: vec![0; CHUNK_BYTES].into_boxed_slice(), written: 0 })
                }
            };
            piece.memory.copy_to(&mut chunk.bytes[piece.offset..piece.offset + piece.memory.len()]);
            Ok(())
        })?;
        let mut position = offset_bytes;
        let end = offset_bytes + pieces::len_bytes(from);
        while position < end {
            let (unit, offset) = (position / CHUNK_BYTES as u64, (position % CHUNK_BYTES as u64) as usize);
            let len = (CHUNK_BYTES - offset).min(usize::try_from(end - position).unwrap_or(usize::MAX));
            if let Some(chunk) = chunks.get_mut(&unit) {
                chunk.written |= sector_bits(offset, len);
            }
            position += len as u64;
        }
        Ok(())
    }

    fn flush(&self) -> Result<(), BlockError> {
        Ok(())
    }

    fn discard(&self, offset_bytes: u64, len_bytes: u64) -> Result<(), BlockError> {
        self.info().check_write(offset_bytes, len_bytes)
    }

    fn reopen(&self) -> Result<(), BlockError> {
        Ok(())
    }
}

impl DiscardWrites {
    /// Lays what was written over what the base gave.
    fn cover(&self, offset_bytes: u64, into: &[VolatileSlice<'_>]) {
        let chunks = self.chunks.read();
        if chunks.is_empty() {
            return;
        }
        let covered: Result<(), ()> = pieces::for_each(offset_bytes, into, CHUNK_BYTES, |piece| {
            let Some(chunk) = chunks.get(&piece.unit) else { return Ok(()) };
            let mut done = 0;
            while done < piece.memory.len() {
                let at = piece.offset + done;
                let len = (SECTOR - at % SECTOR).min(piece.memory.len() - done);
                if chunk.written >> (at / SECTOR) & 1 == 1
                    && let Ok(memory) = piece.memory.subslice(done, len)
                {
                    memory.copy_from(&chunk.bytes[at..at + len]);
                }
                done += len;
            }
            Ok(())
        });
        debug_assert!(covered.is_ok(), "covering has no failure");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{MemoryDisk, conformance};

    #[test]
    fn conforms() {
        conformance::run(|| DiscardWrites::new(Arc::new(MemoryDisk::new(1 << 20)), 2 << 20));
    }

    #[test]
    fn the_base_stays_as_it_is_and_memory_is_bounded() {
        let base = Arc::new(MemoryDisk::from_bytes(&[9; 1 << 20]));
        let layer = DiscardWrites::new(base.clone(), 2 * 65536);
        let mut data = vec![5; 1024];
        let mut got = vec![0; 2048];
        // Two pieces of which neither is a whole sector.
        let (a, b) = data.split_at_mut(700);
        layer.write_at(512, &[VolatileSlice::from(a), VolatileSlice::from(b)], false).unwrap();
        layer.read_at(0, &[VolatileSlice::from(&mut got[..])]).unwrap();
        assert!(got[..512].iter().all(|&byte| byte == 9));
        assert!(got[512..1536].iter().all(|&byte| byte == 5));
        assert!(got[1536..].iter().all(|&byte| byte == 9));
        base.read_at(0, &[VolatileSlice::from(&mut got[..])]).unwrap();
        assert!(got.iter().all(|&byte| byte == 9));
        layer.write_at(65536, &[VolatileSlice::from(&mut data[..])], false).unwrap();
        let error = layer.write_at(131_072, &[VolatileSlice::from(&mut data[..])], false).unwrap_err();
        assert_eq!(error.kind(), BlockErrorKind::NoSpace);
        assert_eq!(layer.allocated_bytes(), 2 * 65536);
    }
}
