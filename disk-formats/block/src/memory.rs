//! A disk in this process's memory.

use std::collections::HashMap;

use benchtop_memory::VolatileSlice;
use parking_lot::RwLock;

use crate::{BlockError, DiscardBehavior, DiskBackend, DiskInfo, SECTOR_BYTES, pieces};

/// The unit of allocation, in bytes.
const CHUNK_BYTES: usize = 64 << 10;

/// A sparse disk in memory: what was never written reads as zeroes and takes no room. It is gone with the process.
#[derive(Debug)]
pub struct MemoryDisk {
    size_bytes: u64,
    chunks: RwLock<HashMap<u64, Box<[u8]>>>,
}

impl MemoryDisk {
    /// An empty disk of `size_bytes`, rounded down to whole sectors.
    pub fn new(size_bytes: u64) -> Self {
        Self { size_bytes: size_bytes - size_bytes % SECTOR_BYTES, chunks: RwLock::new(HashMap::new()) }
    }

    /// A disk that holds `content`, padded with zeroes to a whole sector.
    pub fn from_bytes(content: &[u8]) -> Self {
        let disk = Self::new((content.len() as u64).next_multiple_of(SECTOR_BYTES));
        for (index, bytes) in (0..).zip(content.chunks(CHUNK_BYTES)) {
            let mut chunk = vec![0; CHUNK_BYTES].into_boxed_slice();
            chunk[..bytes.len()].copy_from_slice(bytes);
            disk.chunks.write().insert(index, chunk);
        }
        disk
    }

    /// Bytes of host memory its content takes.
    pub fn allocated_bytes(&self) -> u64 {
        self.chunks.read().len() as u64 * CHUNK_BYTES as u64
    }
}

impl DiskBackend for MemoryDisk {
    fn info(&self) -> DiskInfo {
        DiskInfo {
            size_bytes: self.size_bytes,
            logical_block_bytes: 512,
            physical_block_bytes: 4096,
            read_only: false,
            discard: DiscardBehavior::Zeroes,
            format: "memory",
        }
    }

    fn read_at(&self, offset_bytes: u64, into: &[VolatileSlice<'_>]) -> Result<(), BlockError> {
        self.info().check_range(offset_bytes, pieces::len_bytes(into))?;
        let chunks = self.chunks.read();
        pieces::for_each(offset_bytes, into, CHUNK_BYTES, |piece| {
            match chunks.get(&piece.unit) {
                Some(chunk) => piece.memory.copy_from(&chunk[piece.offset..piece.offset + piece.memory.len()]),
                None => pieces::zero(&piece.memory),
            }
            Ok(())
        })
    }

    fn write_at(&self, offset_bytes: u64, from: &[VolatileSlice<'_>], _fua: bool) -> Result<(), BlockError> {
        self.info().check_write(offset_bytes, pieces::len_bytes(from))?;
        let mut chunks = self.chunks.write();
        pieces::for_each(offset_bytes, from, CHUNK_BYTES, |piece| {
            let chunk = chunks.entry(piece.unit).or_insert_with(|| vec![0; CHUNK_BYTES].into_boxed_slice());
            piece.memory.copy_to(&mut chunk[piece.offset..piece.offset + piece.memory.len()]);
            Ok(())
        })
    }

    fn flush(&self) -> Result<(), BlockError> {
        Ok(())
    }

    fn discard(&self, offset_bytes: u64, len_bytes: u64) -> Result<(), BlockError> {
        self.info().check_write(offset_bytes, len_bytes)?;
        let end = offset_bytes + len_bytes;
        let unit = CHUNK_BYTES as u64;
        // Walks what is allocated, not the range: a guest may discard a huge empty disk.
        self.chunks.write().retain(|&index, chunk| {
            let start = index * unit;
            let from = offset_bytes.clamp(start, start + unit) - start;
            let to = end.clamp(start, start + unit) - start;
            if from < to {
                chunk[from as usize..to as usize].fill(0);
            }
            !(from == 0 && to == unit)
        });
        Ok(())
    }

    fn reopen(&self) -> Result<(), BlockError> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance;

    #[test]
    fn conforms() {
        conformance::run(|| MemoryDisk::new(1 << 20));
    }

    #[test]
    fn discarded_chunks_take_no_room() {
        let disk = MemoryDisk::from_bytes(&[7; 200_000]);
        assert_eq!(disk.info().size_bytes, 200_192);
        assert_eq!(disk.allocated_bytes(), 4 * 65536);
        disk.discard(512, 131_072).unwrap();
        assert_eq!(disk.allocated_bytes(), 3 * 65536);
        let mut got = vec![1; 1024];
        disk.read_at(0, &[VolatileSlice::from(&mut got[..])]).unwrap();
        assert_eq!((got[511], got[512]), (7, 0));
    }
}
