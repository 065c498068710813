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

use benchtop_block::{BlockError, BlockErrorKind};

use crate::error::{corrupt, unsupported};
use crate::file::{ImageFile, new};
use crate::flat::FlatDisk;
use crate::image::{CheckReport, Facts};
use crate::mapped::{Checked, MappedDisk, delegate_backend};
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
    backend: Box<dyn Checked>,
}

delegate_backend!(VhdDisk);

impl VhdDisk {
    /// Takes an open descriptor, which must allow writing unless `read_only`, and locks the file as
    /// [`RawDisk::open`](crate::RawDisk::open) does. Needs up to 10 MiB of memory.
    ///
    /// # Errors
    /// `Unsupported` naming what is not built, `Corrupt` where the image contradicts itself or a checksum is wrong,
    /// `InUse`, `ReadOnly`, or the host's.
    pub fn open(file: File, read_only: bool) -> Result<Self, BlockError> {
        Self::on(ImageFile::open(file, read_only)?)
    }

    pub(crate) fn on(file: ImageFile) -> Result<Self, BlockError> {
        let (footer, footer_bytes) = find_footer(&file)?;
        let info = file.disk_info(footer.size_bytes, "vhd");
        let backend: Box<dyn Checked> = match footer.kind {
            Kind::Fixed => {
                if footer_bytes < info.size_bytes {
                    let context = format!("a VHD disk of {} bytes does not fit before its footer", info.size_bytes);
                    return Err(corrupt(context));
                }
                Box::new(FlatDisk::new(file, 0, info)?)
            }
            Kind::Dynamic => {
                let layout = DynamicLayout::read(&file, &footer, footer_bytes)?;
                let end_bytes = if file.is_read_only() { footer_bytes } else { layout.first_room(&file)? };
                let block_bytes = layout.block_bytes();
                Box::new(MappedDisk::new(file, layout, info, block_bytes, end_bytes))
            }
        };
        Ok(Self { backend })
    }

    /// See [`image::check`](crate::image::check).
    pub(crate) fn check(&self) -> Result<CheckReport, BlockError> {
        self.backend.check()
    }
}

/// What [`image::info`](crate::image::info) tells.
pub(crate) fn facts(file: &ImageFile) -> Result<Facts, BlockError> {
    let (footer, footer_bytes) = find_footer(file)?;
    let variant = if footer.kind == Kind::Fixed { "fixed" } else { "dynamic" };
    let lost = footer_bytes.checked_add(FOOTER_BYTES).is_none_or(|end| end > file.len_bytes());
    Ok(Facts::new(footer.size_bytes, variant, lost))
}

/// Whether these bytes, `at` bytes into a file, are the footer of a fixed image.
pub(crate) fn is_fixed_footer(bytes: &[u8], at: u64) -> bool {
    Footer::parse(bytes).is_ok_and(|footer| footer.kind == Kind::Fixed && footer.size_bytes == at)
}

/// Makes the disk `size_bytes` long; see [`image::resize`](crate::image::resize). The footer's size changes last.
pub(crate) fn grow(file: &ImageFile, size_bytes: u64) -> Result<(), BlockError> {
    new::check_size(size_bytes, MAX_BYTES, "VHD")?;
    restore_footer(file)?;
    let (footer, footer_bytes) = find_footer(file)?;
    if footer.kind == Kind::Fixed {
        return Err(unsupported("making a fixed VHD larger is not built; convert it into a new one"));
    }
    dynamic::grow(file, &footer, footer_bytes, size_bytes)?;
    let footer = footer.resized(size_bytes);
    // The one at the end counts; the copy is for when that is lost.
    for at in [file.len_bytes() - FOOTER_BYTES, 0] {
        file.write_bytes(at, &footer.bytes)?;
        file.sync()?;
    }
    Ok(())
}

/// Puts a lost footer back; see [`image::repair`](crate::image::repair). Not where a block that the file lacks would be.
pub(crate) fn restore_footer(file: &ImageFile) -> Result<(), BlockError> {
    let (footer, at) = find_footer(file)?;
    if at.saturating_add(FOOTER_BYTES) > file.len_bytes() {
        let at = DynamicLayout::read(file, &footer, at)?.first_room(file)?;
        file.write_bytes(at, &footer.bytes)?;
    }
    file.sync()
}

/// The footer, and where it is or would be. The copy at the start serves where the footer itself is damaged, as after
/// a crash while the file grew.
fn find_footer(file: &ImageFile) -> Result<(Footer, u64), BlockError> {
    let file_bytes = file.len_bytes();
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
    new::check_size(size_bytes, MAX_BYTES, "VHD")?;
    new::create_file(path, |file| match kind {
        VhdKind::Fixed => {
            let footer = Footer::new(Kind::Fixed, size_bytes);
            file.set_len(size_bytes)?;
            file.write_bytes(size_bytes, &footer.bytes)
        }
        VhdKind::Dynamic => dynamic::write_new(file, size_bytes),
    })
}

#[cfg(test)]
mod tests;
