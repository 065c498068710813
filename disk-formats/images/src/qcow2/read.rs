//! From guest offsets to what is behind them, and reading that.

use benchtop_block::{BlockError, BlockErrorKind, Extent, ExtentKind, pieces};
use benchtop_memory::VolatileSlice;

use super::Qcow2Disk;
use super::layout::{Compressed, Entry, Standard};
use crate::error::{corrupt, unsupported};

/// Pieces looked up at once, so that the lock is not kept for a whole large request.
const MAX_PIECES: usize = 128;

/// Where bytes of the disk are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// In the file, at this offset in bytes.
    Host(u64),
    /// Nowhere: they are zeroes.
    Zeroes,
    /// In the backing file, at the guest's offset.
    Backing,
    /// In a compressed cluster, whole or in part.
    Compressed(Compressed),
}

/// A run of the disk that has one source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    /// Guest offset in bytes.
    pub start: u64,
    pub len: u64,
    pub source: Source,
}

impl Piece {
    /// Makes `self` longer by `next` where that is its continuation.
    fn join(&mut self, next: &Piece) -> bool {
        let continues = match (self.source, next.source) {
            (Source::Host(a), Source::Host(b)) => a + self.len == b,
            (Source::Zeroes, Source::Zeroes) | (Source::Backing, Source::Backing) => true,
            _ => false,
        };
        if continues {
            self.len += next.len;
        }
        continues
    }
}

impl Qcow2Disk {
    /// Whether the disk shows zeroes from `start` on where the image itself holds nothing.
    pub(super) fn is_past_backing(&self, start: u64) -> bool {
        self.backing.is_none() || start >= self.backing_bytes
    }

    /// What is behind a subcluster, `start` being its guest offset.
    pub(super) fn source(&self, entry: &Standard, subcluster: u32, start: u64) -> Source {
        let bit = 1 << subcluster;
        match entry.host {
            Some(host) if entry.alloc & bit != 0 => {
                Source::Host(host + u64::from(subcluster) * self.header.layout.subcluster_bytes())
            }
            _ if entry.zero & bit != 0 || self.is_past_backing(start) => Source::Zeroes,
            _ => Source::Backing,
        }
    }

    /// Looks up `[start, end)` of the disk, or the first part of it. Not empty unless the range is.
    ///
    /// # Errors
    /// `Corrupt`, or the host's.
    pub(super) fn map(&self, start: u64, end: u64) -> Result<Vec<Piece>, BlockError> {
        let layout = &self.header.layout;
        let (cluster_bytes, size) = (layout.cluster_bytes(), layout.subcluster_bytes());
        let mut found: Vec<Piece> = Vec::new();
        let mut meta = self.meta.lock();
        let mut at = start;
        while at < end && found.len() < MAX_PIECES {
            let cluster = at >> layout.cluster_bits;
            let cluster_start = cluster << layout.cluster_bits;
            let cluster_end = cluster_start.saturating_add(cluster_bytes).min(end);
            match meta.entry(cluster, &self.file)? {
                Entry::Compressed(data) => {
                    found.push(Piece { start: at, len: cluster_end - at, source: Source::Compressed(data) });
                    at = cluster_end;
                }
                Entry::Standard(entry) => {
                    while at < cluster_end {
                        let subcluster = (at - cluster_start) / size;
                        let first = cluster_start + subcluster * size;
                        let stop = first.saturating_add(size).min(cluster_end);
                        let source = match self.source(&entry, subcluster as u32, first) {
                            Source::Host(host) => Source::Host(host + (at - first)),
                            other => other,
                        };
                        let piece = Piece { start: at, len: stop - at, source };
                        if !found.last_mut().is_some_and(|last| last.join(&piece)) {
                            found.push(piece);
                        }
                        at = stop;
                    }
                }
            }
        }
        Ok(found)
    }

    /// Reads what the disk holds. The caller holds the range, and the range lies in clusters of the disk.
    ///
    /// # Errors
    /// `Corrupt`, the host's, or the backing file's.
    pub(super) fn read_held(&self, start: u64, into: &[VolatileSlice<'_>]) -> Result<(), BlockError> {
        let end = start.saturating_add(pieces::len_bytes(into));
        let mut rest = pieces::Scatter::new(into);
        let mut at = start;
        while at < end {
            for piece in self.map(at, end)? {
                self.read_piece(&piece, &rest.take(piece.len))?;
                at = piece.start + piece.len;
            }
        }
        Ok(())
    }

    fn read_piece(&self, piece: &Piece, into: &[VolatileSlice<'_>]) -> Result<(), BlockError> {
        match piece.source {
            Source::Host(host) => self.read_host(piece, host, into),
            Source::Zeroes => {
                into.iter().for_each(pieces::zero);
                Ok(())
            }
            Source::Backing => self.read_backing(piece.start, into),
            Source::Compressed(_) if self.cipher.is_some() => {
                Err(unsupported("compressed clusters of encrypted images are not supported"))
            }
            Source::Compressed(data) => {
                let cluster = self.unpacker.cluster(&data, &self.file)?;
                let mut at = (piece.start % self.header.layout.cluster_bytes()) as usize;
                for slice in into {
                    let part = cluster.get(at..at + slice.len());
                    slice.copy_from(part.ok_or_else(|| corrupt("a compressed cluster is too short"))?);
                    at += slice.len();
                }
                Ok(())
            }
        }
    }

    /// Reads what is in the file, at `host`. All of it that the disk shows must be there: a file that was cut short
    /// would read as zeroes in place of what is lost.
    ///
    /// That holds for what QEMU writes too, although its files may end within a cluster. A subcluster that is there
    /// is written whole (`handle_alloc_space` and `perform_cow` of its `block/qcow2.c`, `block/qcow2-cluster.c`), and a
    /// preallocation of metadata alone makes the file long enough for all it gave out ("otherwise we get failing reads
    /// after EOF", `preallocate_co`). What may lack are subclusters without a bit in `alloc`, which are not read here,
    /// and what the disk's last cluster has behind the end of the disk, which is padded.
    fn read_host(&self, piece: &Piece, host: u64, into: &[VolatileSlice<'_>]) -> Result<(), BlockError> {
        let shown_bytes = self.header.size_bytes.saturating_sub(piece.start).min(piece.len);
        self.file.check_stored(host, shown_bytes)?;
        match &self.cipher {
            None => self.file.read(host, into),
            Some(cipher) => cipher.read(&self.file, host, into),
        }
    }

    /// Reads the backing file, behind whose end are zeroes.
    fn read_backing(&self, start: u64, into: &[VolatileSlice<'_>]) -> Result<(), BlockError> {
        let wanted = pieces::len_bytes(into);
        let stored = self.backing_bytes.saturating_sub(start).min(wanted);
        let mut rest = pieces::Scatter::new(into);
        let head = rest.take(stored);
        if let Some(backing) = &self.backing
            && stored > 0
        {
            backing.read_at(start, &head)?;
        }
        rest.take(wanted - stored).iter().for_each(pieces::zero);
        Ok(())
    }

    /// What the disk holds from `start` on; the range was checked and is not empty.
    ///
    /// # Errors
    /// As [`map`](Self::map), or the backing file's.
    pub(super) fn extent(&self, start: u64, limit: u64) -> Result<Extent, BlockError> {
        let found = self.map(start, start.saturating_add(limit))?;
        let Some(first) = found.first() else {
            return Err(BlockError::new(BlockErrorKind::OutOfRange, "an empty range has no extents"));
        };
        let kind = |piece: &Piece| match piece.source {
            Source::Zeroes => ExtentKind::Zeroes,
            _ => ExtentKind::Data,
        };
        if first.source == Source::Backing
            && let Some(backing) = &self.backing
        {
            // The backing file knows its own holes. Behind its end nothing is asked: `source` says zeroes there, but
            // within a subcluster it may end.
            let stored = self.backing_bytes.saturating_sub(start);
            if stored == 0 {
                return Ok(Extent { kind: ExtentKind::Zeroes, len_bytes: first.len });
            }
            return backing.extent_at(start, first.len.min(stored));
        }
        let same = found.iter().take_while(|piece| kind(piece) == kind(first) && piece.source != Source::Backing);
        Ok(Extent { kind: kind(first), len_bytes: same.map(|piece| piece.len).sum() })
    }
}
