//! Microsoft's older disk images (VHD, Virtual PC and Hyper-V), fixed and dynamic.
//!
//! ```text
//!   fixed      disk · footer
//!   dynamic    copy of the footer · dynamic header · block table · (sector bitmap · block)… · footer
//! ```
//!
//! Source: Microsoft's "Virtual Hard Disk Image Format Specification" 1.0 and its algorithms for checksum and geometry.
//! All numbers are big-endian.
//!
//! The disk is as long as the footer's current size says. Some programs take the rounded size that the geometry gives
//! where they know the creator for one that did so, too; both agree on images that such programs made.
//!
//! Not built: differencing images (a parent is named by path). They are refused.

mod dynamic;
mod footer;

use std::fs::File;
use std::path::Path;

use benchtop_block::{BlockError, BlockErrorKind, DiskBackend, DiskInfo};

use crate::mapped::flat::FlatDisk;
use crate::mapped::{ImageFile, MappedDisk, create, delegate_backend};
use dynamic::DynamicLayout;
use footer::{FOOTER_BYTES, Footer, Kind};

/// The largest disk, in bytes: 2040 GiB.
pub const MAX_BYTES: u64 = 2040 << 30;

/// How blocks of a new image come to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VhdKind {
    /// When they are first written.
    Dynamic,
    /// The file holds the bytes of the disk, one for one, and a footer. It takes no room yet where the file system
    /// has holes.
    Fixed,
}

/// An open VHD image.
pub struct VhdDisk {
    backend: Box<dyn DiskBackend>,
}

delegate_backend!(VhdDisk);

fn unsupported(what: impl Into<String>) -> BlockError {
    BlockError::new(BlockErrorKind::Unsupported, what)
}

fn corrupt(what: impl Into<String>) -> BlockError {
    BlockError::new(BlockErrorKind::Corrupt, what)
}

impl VhdDisk {
    /// Takes an open descriptor, which must allow writing unless `read_only`, and locks the file as
    /// [`RawDisk::open`](crate::RawDisk::open) does. Needs up to 10 MiB of memory.
    ///
    /// # Errors
    /// `Unsupported` naming what is not built, `Corrupt` where the image contradicts itself or a checksum is wrong,
    /// `InUse`, `ReadOnly`, or the host's.
    pub fn open(file: File, read_only: bool) -> Result<Self, BlockError> {
        let file = ImageFile::open(file, read_only)?;
        let (footer, footer_bytes) = find_footer(&file)?;
        let info = DiskInfo {
            size_bytes: footer.size_bytes,
            logical_block_bytes: 512,
            physical_block_bytes: 4096,
            read_only,
            discard: file.discard_behavior(),
            format: "vhd",
        };
        let backend: Box<dyn DiskBackend> = match footer.kind {
            Kind::Fixed => {
                if footer_bytes < info.size_bytes {
                    let context = format!("a VHD disk of {} bytes does not fit before its footer", info.size_bytes);
                    return Err(corrupt(context));
                }
                Box::new(FlatDisk::new(file, 0, info)?)
            }
            Kind::Dynamic => {
                let layout = DynamicLayout::read(&file, &footer)?;
                let (block_bytes, end_bytes) = (layout.block_bytes(), layout.first_room(footer_bytes));
                Box::new(MappedDisk::new(file, layout, info, block_bytes, end_bytes)?)
            }
        };
        Ok(Self { backend })
    }
}

/// The footer, and where it is or would be. The copy at the start serves where the footer itself is damaged, as after
/// a crash while the file grew.
fn find_footer(file: &ImageFile) -> Result<(Footer, u64), BlockError> {
    let file_bytes = file.len_bytes()?;
    if file_bytes < FOOTER_BYTES {
        return Err(corrupt("the file is too short for a VHD image"));
    }
    let at = file_bytes - FOOTER_BYTES;
    let last = Footer::parse(&file.read_bytes(at, FOOTER_BYTES as usize)?);
    let Err(error) = last else { return last.map(|footer| (footer, at)) };
    if error.kind() == BlockErrorKind::Unsupported {
        return Err(error);
    }
    match Footer::parse(&file.read_bytes(0, FOOTER_BYTES as usize)?) {
        Ok(footer) if footer.kind == Kind::Dynamic => Ok((footer, file_bytes)),
        _ => Err(error),
    }
}

/// Creates an image of `size_bytes` zeroes and opens it for reading and writing. It appears under its name complete
/// and durable, or not at all; a file that exists is never replaced.
///
/// # Errors
/// `OutOfRange` unless the size is a positive number of whole sectors, at most [`MAX_BYTES`]; the host's, with
/// `AlreadyExists` as its cause where the name is taken.
pub fn create(path: &Path, size_bytes: u64, kind: VhdKind) -> Result<File, BlockError> {
    create::check_size(size_bytes, MAX_BYTES, "VHD")?;
    create::create_file(path, |file| match kind {
        VhdKind::Fixed => {
            let footer = Footer::new(Kind::Fixed, size_bytes);
            create::set_len(file, size_bytes)?;
            create::put_at(file, size_bytes, &footer.bytes)
        }
        VhdKind::Dynamic => dynamic::write_new(file, size_bytes),
    })
}

#[cfg(test)]
mod tests;
