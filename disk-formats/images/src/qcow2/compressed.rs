//! Compressed clusters: reading them.

use std::collections::VecDeque;
use std::sync::Arc;

use benchtop_block::BlockError;
use flate2::{Decompress, FlushDecompress};
use parking_lot::Mutex;
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

use super::header::Compression;
use super::layout::{Compressed, Layout};
use crate::error::corrupt;
use crate::file::ImageFile;

/// Unpacked clusters that are kept, in bytes; at least one. Guests read in smaller pieces than clusters.
const KEPT_BYTES: u64 = 2 << 20;
/// The largest window a Zstandard frame may ask for, in bytes. A cluster has at most 2 MiB; the window may be larger
/// than what is in it.
const MAX_WINDOW_BYTES: u64 = 8 << 20;

/// Unpacks clusters and keeps the last few.
#[derive(Debug)]
pub(super) struct Unpacker {
    compression: Compression,
    cluster_bytes: usize,
    keep: usize,
    kept: Mutex<VecDeque<(Compressed, Arc<Vec<u8>>)>>,
}

impl Unpacker {
    /// For an image of this layout.
    pub fn new(layout: &Layout, compression: Compression) -> Self {
        let keep = (KEPT_BYTES / layout.cluster_bytes()).clamp(1, 16) as usize;
        Self { compression, cluster_bytes: layout.table_bytes(), keep, kept: Mutex::default() }
    }

    /// The content of a compressed cluster. Nothing here ever writes one, so what is kept stays true.
    ///
    /// # Errors
    /// `Corrupt`, or the host's.
    pub fn cluster(&self, data: &Compressed, file: &ImageFile) -> Result<Arc<Vec<u8>>, BlockError> {
        let found = self.kept.lock().iter().find(|(key, _)| key == data).map(|(_, bytes)| bytes.clone());
        if let Some(bytes) = found {
            return Ok(bytes);
        }
        // At most two clusters, which is how long an entry can say it is. The file may end before the last sector does;
        // but to bits of zeroes in place of what is lost a packer's code gives a meaning.
        let stored = file.len_bytes().saturating_sub(data.offset_bytes).min(data.len_bytes);
        let packed = file.read_bytes(data.offset_bytes, stored as usize)?;
        let unpacked = match self.compression {
            Compression::Deflate => inflate(&packed, self.cluster_bytes),
            Compression::Zstd => unpack_zstd(&packed, self.cluster_bytes),
        };
        let context = || corrupt(format!("the compressed cluster at {:#x} can not be unpacked", data.offset_bytes));
        let bytes = Arc::new(unpacked.ok_or_else(context)?);
        let mut kept = self.kept.lock();
        kept.push_front((*data, bytes.clone()));
        kept.truncate(self.keep);
        Ok(bytes)
    }
}

/// Raw deflate data; what follows its end is somebody else's.
fn inflate(packed: &[u8], len: usize) -> Option<Vec<u8>> {
    let mut bytes = vec![0; len];
    let mut state = Decompress::new(false);
    state.decompress(packed, &mut bytes, FlushDecompress::Finish).ok()?;
    (state.total_out() == len as u64).then_some(bytes)
}

/// One Zstandard frame, block by block, so that little more than a window beyond `len` is ever unpacked.
fn unpack_zstd(packed: &[u8], len: usize) -> Option<Vec<u8>> {
    let mut source = packed;
    let mut decoder = FrameDecoder::new();
    decoder.set_max_window_size(MAX_WINDOW_BYTES);
    decoder.reset(&mut source).ok()?;
    let mut bytes = Vec::with_capacity(len);
    // A block may hold nothing, but takes 3 bytes of the source, so this ends. The decoder keeps a window back until
    // the frame is finished.
    while bytes.len() < len && !decoder.is_finished() {
        decoder.decode_blocks(&mut source, BlockDecodingStrategy::UptoBlocks(1)).ok()?;
        decoder.collect_to_writer(&mut bytes).ok()?;
    }
    bytes.truncate(len);
    (bytes.len() == len).then_some(bytes)
}
