//! VMware's disk images: one sparse file, one flat file, either split at 2 GiB, and the compressed form for transport.
//!
//! ```text
//!   monolithicSparse       header · descriptor · grain tables (twice) · grains          read, write, create
//!   streamOptimized        header · descriptor · (marker · grain, deflated)… · footer   read; written once by export
//!   monolithicFlat         descriptor file, names one flat file                         read, write, create
//!   twoGbMaxExtentSparse   descriptor file, names sparse files                          read, write, create
//!   twoGbMaxExtentFlat     descriptor file, names flat files                            read, write, create
//! ```
//!
//! Source: VMware's "Virtual Disk Format" 1.1 and 5.0 technical notes. All numbers are little-endian.
//!
//! **A descriptor names other files, and nothing here opens one.** Names must be plain file names, meaning the
//! descriptor's own folder; [`extent_names`] tells them so that a user may consent, and [`VmdkDisk::open`] asks the
//! caller for each.
//!
//! Not built: snapshots (a parent is named), ESX's sparse formats (COWD, seSparse), raw device mappings, encryption,
//! and making a grain table where an image lacks one. Each is refused.

mod concat;
mod descriptor;
mod export;
mod maintain;
mod new;
mod sparse;

use std::collections::BTreeSet;
use std::fs::File;

use benchtop_block::{BlockError, SECTOR_BYTES};

use crate::error::{corrupt, unsupported};
use crate::file::ImageFile;
use crate::flat::FlatDisk;
use crate::image::{CheckReport, Facts};
use crate::mapped::{Checked, MappedDisk, delegate_backend, survey};
use concat::{ConcatDisk, Part};
use descriptor::{Descriptor, ExtentStorage};
pub use export::export_stream_optimized;
pub(crate) use maintain::{grow, repair};
pub use new::{VmdkKind, create};
use sparse::SparseLayout;

/// The longest descriptor that is read, in bytes.
const MAX_DESCRIPTOR_BYTES: u64 = 1 << 20;

/// The largest monolithicSparse disk that [`create()`] makes, in bytes: grains and tables must begin within 2 TiB.
pub const MAX_BYTES: u64 = 2040 << 30;

/// An open VMDK image.
pub struct VmdkDisk {
    backend: Box<dyn Checked>,
}

delegate_backend!(VmdkDisk);

/// What the first file of an image is.
enum First {
    Sparse,
    Descriptor(Box<Descriptor>),
}

fn examine(file: &ImageFile) -> Result<First, BlockError> {
    let file_bytes = file.len_bytes();
    let start = file.read_bytes(0, file_bytes.min(SECTOR_BYTES) as usize)?;
    if start.starts_with(sparse::MAGIC) {
        return Ok(First::Sparse);
    }
    if start.starts_with(b"COWD") {
        return Err(unsupported("ESX sparse VMDK extents (COWD) are not built"));
    }
    if !start.starts_with(b"# Disk DescriptorFile") {
        return Err(corrupt("this is neither a sparse VMDK file nor a VMDK descriptor"));
    }
    if file_bytes > MAX_DESCRIPTOR_BYTES {
        return Err(unsupported(format!("a VMDK descriptor of {file_bytes} bytes is longer than any is")));
    }
    let text = file.read_bytes(0, file_bytes as usize)?;
    Descriptor::parse(&text).map(|descriptor| First::Descriptor(Box::new(descriptor)))
}

/// The names of the other files that the image in `file` consists of, in order; none where it is a single file. Takes
/// no lock, so an image in use can be asked too.
///
/// # Errors
/// As [`VmdkDisk::open`].
pub fn extent_names(file: &File) -> Result<Vec<String>, BlockError> {
    match examine(&ImageFile::borrowed(file)?)? {
        First::Sparse => Ok(Vec::new()),
        First::Descriptor(descriptor) => Ok(descriptor.names().map(str::to_owned).collect()),
    }
}

impl VmdkDisk {
    /// Takes an open descriptor, which must allow writing unless `read_only`, and locks the file as
    /// [`RawDisk::open`](crate::RawDisk::open) does, and so every extent. For each name in the descriptor file
    /// `open_extent` is called once with a plain file name; it must have the user's consent and return a file of that
    /// folder, open for writing unless `read_only`. Needs up to 10 MiB of memory for each sparse extent in use, and 50 MiB for one whose
    /// tables lie apart.
    ///
    /// # Errors
    /// `Unsupported` naming what is not built, `Corrupt` where the image contradicts itself, `InUse`, `ReadOnly`,
    /// those of `open_extent`, or the host's.
    pub fn open(
        file: File,
        read_only: bool,
        open_extent: &mut dyn FnMut(&str) -> Result<File, BlockError>,
    ) -> Result<Self, BlockError> {
        let file = ImageFile::open(file, read_only)?;
        match examine(&file)? {
            First::Sparse => open_sparse(file, None).map(|backend| Self { backend }),
            First::Descriptor(descriptor) => {
                let backend = open_extents(file, &descriptor, open_extent)?;
                Ok(Self { backend })
            }
        }
    }

    /// See [`image::check`](crate::image::check).
    pub(crate) fn check(&self) -> Result<CheckReport, BlockError> {
        self.backend.check()
    }
}

/// What [`image::info`](crate::image::info) tells.
pub(crate) fn facts(file: &ImageFile) -> Result<Facts, BlockError> {
    match examine(file)? {
        First::Sparse => {
            let (layout, sectors) = SparseLayout::read(file, true)?;
            Ok(Facts::new(sectors * SECTOR_BYTES, layout.create_type(), layout.is_unclean()))
        }
        First::Descriptor(descriptor) => {
            let sectors: u64 = descriptor.extents.iter().map(|extent| extent.sectors).sum();
            let extents = descriptor.names().map(str::to_owned).collect();
            Ok(Facts { extents, ..Facts::new(sectors * SECTOR_BYTES, descriptor.create_type, false) })
        }
    }
}

/// Opens a sparse file: a whole image, or the extent of `extent_sectors` of one.
fn open_sparse(file: ImageFile, extent_sectors: Option<u64>) -> Result<Box<dyn Checked>, BlockError> {
    let read_only = file.is_read_only();
    let (layout, size_sectors) = SparseLayout::read(&file, extent_sectors.is_none())?;
    if extent_sectors.is_some_and(|sectors| sectors > size_sectors) {
        return Err(corrupt("a VMDK extent is shorter than its descriptor says"));
    }
    // What the descriptor says counts: a file may have more.
    let size_bytes = extent_sectors.unwrap_or(size_sectors) * SECTOR_BYTES;
    if layout.is_compressed() && !read_only {
        return Err(unsupported("a streamOptimized VMDK can only be read; convert it to write"));
    }
    let info = file.disk_info(size_bytes, "vmdk");
    let grain_bytes = layout.grain_bytes();
    let mut end_bytes = file.len_bytes();
    if !read_only {
        // Of the file's whole capacity, for the next grain must not lie on any.
        end_bytes = end_bytes.max(survey(&file, &layout, size_sectors * SECTOR_BYTES, grain_bytes, end_bytes)?);
    }
    Ok(Box::new(MappedDisk::new(file, layout, info, grain_bytes, end_bytes)))
}

/// Opens all extents of a descriptor file.
fn open_extents(
    file: ImageFile,
    descriptor: &Descriptor,
    open_extent: &mut dyn FnMut(&str) -> Result<File, BlockError>,
) -> Result<Box<dyn Checked>, BlockError> {
    let read_only = file.is_read_only();
    if !read_only && descriptor.extents.iter().any(|extent| extent.read_only) {
        return Err(unsupported("a VMDK with extents that may only be read can not be written"));
    }
    let mut names = BTreeSet::new();
    let mut parts = Vec::new();
    for extent in &descriptor.extents {
        let backend = match &extent.storage {
            ExtentStorage::Zero => None,
            ExtentStorage::Flat { name, .. } | ExtentStorage::Sparse { name } if !names.insert(name.as_str()) => {
                return Err(unsupported(format!("a VMDK that uses the file {name:?} twice is not built")));
            }
            ExtentStorage::Flat { name, start_sectors } => {
                let part = ImageFile::open(open_extent(name)?, read_only)?;
                let info = part.disk_info(extent.sectors * SECTOR_BYTES, "vmdk");
                Some(Box::new(FlatDisk::new(part, start_sectors * SECTOR_BYTES, info)?) as Box<dyn Checked>)
            }
            ExtentStorage::Sparse { name } => {
                Some(open_sparse(ImageFile::open(open_extent(name)?, read_only)?, Some(extent.sectors))?)
            }
        };
        parts.push(Part { len_bytes: extent.sectors * SECTOR_BYTES, backend });
    }
    if !read_only && parts.iter().any(|part| part.backend.is_none()) {
        return Err(unsupported("a VMDK with extents of nothing but zeroes can not be written"));
    }
    Ok(Box::new(ConcatDisk::new(parts, read_only, file, descriptor.content_id_at)))
}

#[cfg(test)]
mod tests;
