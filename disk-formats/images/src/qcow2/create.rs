//! New images.

use std::fs::File;
use std::path::Path;

use benchtop_block::{BlockError, BlockErrorKind};

use super::check::write_refcounts;
use super::header::{
    CLUSTER_BITS, EXTENDED_L2, EXTENSION_BACKING_FORMAT, HEADER_3_BYTES, MAX_L1_BYTES, MIN_EXTENDED_CLUSTER_BITS,
};
use super::layout::Layout;
use crate::fields::put;
use crate::file::{ImageFile, new};

/// What a new image is like. It is of version 3.
#[derive(Clone, Debug)]
pub struct CreateOptions {
    /// Size of the disk, a positive multiple of [`SECTOR_BYTES`](benchtop_block::SECTOR_BYTES).
    pub size_bytes: u64,
    /// A cluster: a power of two from 512 bytes to 2 MiB; with `extended_l2` from 16 KiB. Usually 64 KiB.
    pub cluster_bytes: u64,
    /// Width of a refcount: a power of two from 1 to 64. Usually 16. With 1 there can be no snapshots.
    pub refcount_bits: u32,
    /// Clusters are given out in 32 parts.
    pub extended_l2: bool,
    /// Name and format of the file that holds what was not written, at most 256 bytes together: recorded, not opened.
    pub backing: Option<(String, String)>,
}

impl CreateOptions {
    /// The usual image.
    pub fn new(size_bytes: u64) -> Self {
        Self { size_bytes, cluster_bytes: 64 << 10, refcount_bits: 16, extended_l2: false, backing: None }
    }

    fn layout(&self) -> Result<Layout, BlockError> {
        let refuse = |context: String| Err(BlockError::new(BlockErrorKind::OutOfRange, context));
        new::check_size(self.size_bytes, u64::MAX, "qcow2")?;
        let cluster_bits = self.cluster_bytes.trailing_zeros();
        let least = if self.extended_l2 { MIN_EXTENDED_CLUSTER_BITS } else { *CLUSTER_BITS.start() };
        if !self.cluster_bytes.is_power_of_two() || !(least..=*CLUSTER_BITS.end()).contains(&cluster_bits) {
            return refuse(format!("clusters of {} bytes are not possible", self.cluster_bytes));
        }
        if !self.refcount_bits.is_power_of_two() || self.refcount_bits > 64 {
            return refuse(format!("refcounts of {} bits are not possible", self.refcount_bits));
        }
        let refcount_order = self.refcount_bits.trailing_zeros();
        let layout = Layout { version: 3, cluster_bits, refcount_order, extended: self.extended_l2 };
        if layout.l1_entries(self.size_bytes) > MAX_L1_BYTES / 8 {
            return refuse(format!("{} bytes are too many for clusters of this size", self.size_bytes));
        }
        Ok(layout)
    }

    fn header(&self, layout: &Layout, table: (u64, u64)) -> Result<Vec<u8>, BlockError> {
        let mut bytes = vec![0; HEADER_3_BYTES];
        put(&mut bytes, 0, b"QFI\xfb");
        put(&mut bytes, 4, &layout.version.to_be_bytes());
        put(&mut bytes, 20, &layout.cluster_bits.to_be_bytes());
        put(&mut bytes, 24, &self.size_bytes.to_be_bytes());
        put(&mut bytes, 36, &(layout.l1_entries(self.size_bytes) as u32).to_be_bytes());
        put(&mut bytes, 40, &layout.cluster_bytes().to_be_bytes());
        put(&mut bytes, 48, &table.0.to_be_bytes());
        put(&mut bytes, 56, &(table.1 as u32).to_be_bytes());
        put(&mut bytes, 72, &(if layout.extended { EXTENDED_L2 } else { 0 }).to_be_bytes());
        put(&mut bytes, 96, &layout.refcount_order.to_be_bytes());
        put(&mut bytes, 100, &(HEADER_3_BYTES as u32).to_be_bytes());
        let Some((name, format)) = &self.backing else {
            bytes.extend([0; 8]);
            return Ok(bytes);
        };
        if name.is_empty() || name.len() + format.len() > 256 {
            let context = "the backing file's name must have 1 to 256 bytes";
            return Err(BlockError::new(BlockErrorKind::OutOfRange, context));
        }
        bytes.extend(EXTENSION_BACKING_FORMAT.to_be_bytes());
        bytes.extend((format.len() as u32).to_be_bytes());
        bytes.extend(format.as_bytes());
        bytes.resize(bytes.len().next_multiple_of(8) + 8, 0);
        let offset = bytes.len() as u64;
        put(&mut bytes, 8, &offset.to_be_bytes());
        put(&mut bytes, 16, &(name.len() as u32).to_be_bytes());
        bytes.extend(name.as_bytes());
        Ok(bytes)
    }

    fn write(&self, layout: &Layout, file: &ImageFile) -> Result<(), BlockError> {
        // The header, then the L1 table.
        let l1_clusters = (layout.l1_entries(self.size_bytes) * 8).div_ceil(layout.cluster_bytes());
        let counts = vec![1; 1 + l1_clusters as usize];
        file.grow((counts.len() as u64) << layout.cluster_bits)?;
        let table = write_refcounts(layout, &counts, file)?;
        file.write_bytes(0, &self.header(layout, table)?)
    }
}

/// Creates an image of zeroes, or of what its backing file holds, and opens it for reading and writing. It appears
/// under its name complete and durable, or not at all; a file that exists is never replaced.
///
/// # Errors
/// `OutOfRange` for what [`CreateOptions`] does not allow; the host's, with `AlreadyExists` as its cause where the
/// name is taken.
pub fn create(path: &Path, options: &CreateOptions) -> Result<File, BlockError> {
    let layout = options.layout()?;
    new::create_file(path, |file| options.write(&layout, file))
}
