//! Making the disk of an image larger or smaller.

use std::fs::File;

use benchtop_block::{BlockError, BlockErrorKind, SECTOR_BYTES};

use super::{OpenError, OpenOptions, info, open_backing, strata, unsupported};
use crate::file::ImageFile;
use crate::probe::Format;
use crate::{qcow2, vdi, vhd, vhdx, vmdk};

/// Whether a disk may lose its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shrink {
    /// A smaller size is refused.
    Refused,
    /// What lies behind the new end is lost.
    Allowed,
}

/// Makes the disk of an image `size_bytes` long. What is new reads as zeroes; what lies behind a smaller size is lost,
/// and only with [`Shrink::Allowed`]. `file` must allow writing. A crash in between leaves a sound image of the old size
/// or of the new one; a disk that was to shrink may have lost what lies behind the new size. `options` serve as for
/// [`open`](super::open).
///
/// Grown: raw, qcow2, VDI, dynamic VHD and VHDX, monolithicSparse VMDK. Shrunk: raw and qcow2.
///
/// # Errors
/// `OutOfRange` for a size that is not a positive number of whole sectors or that the format can not hold, and for a
/// smaller one that was not allowed; `Unsupported` for what is not built; else as `open`.
pub fn resize(
    file: File,
    format: Format,
    size_bytes: u64,
    shrink: Shrink,
    options: &OpenOptions<'_>,
) -> Result<(), OpenError> {
    if size_bytes == 0 || !size_bytes.is_multiple_of(SECTOR_BYTES) {
        let context = format!("{size_bytes} bytes is not a positive number of {SECTOR_BYTES}-byte sectors");
        return Err(BlockError::new(BlockErrorKind::OutOfRange, context).into());
    }
    let old = info(&file, format)?;
    if size_bytes < old.virtual_bytes {
        if shrink == Shrink::Refused {
            let context =
                format!("the disk has {} bytes, and those behind {size_bytes} would be lost", old.virtual_bytes);
            return Err(BlockError::new(BlockErrorKind::OutOfRange, context).into());
        }
        if !matches!(format, Format::Raw | Format::Qcow2) {
            return Err(unsupported(format!("making a {format} disk smaller is not built")).into());
        }
    }
    let result = match format {
        Format::Raw => resize_raw(file, size_bytes),
        Format::Qcow2 => {
            let backing = open_backing(&file, options, &mut Vec::new())?;
            qcow2::resize(file, size_bytes, backing)
        }
        Format::Vdi => vdi::grow(&ImageFile::open(file, false)?, size_bytes),
        Format::Vhd => vhd::grow(&ImageFile::open(file, false)?, size_bytes),
        Format::Vhdx => vhdx::grow(&ImageFile::open(file, false)?, size_bytes),
        Format::Vmdk => vmdk::grow(&ImageFile::open(file, false)?, size_bytes),
        Format::Iso => Err(unsupported("an ISO image has the size of its content")),
        Format::Strata => Err(strata()),
    };
    Ok(result?)
}

fn resize_raw(file: File, size_bytes: u64) -> Result<(), BlockError> {
    let file = ImageFile::open(file, false)?;
    file.set_len(size_bytes)?;
    file.sync()
}
