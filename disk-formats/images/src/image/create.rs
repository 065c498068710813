//! New images of every format.

use std::fs::File;
use std::path::Path;

use benchtop_block::BlockError;

use super::{strata, unsupported};
use crate::probe::Format;
use crate::vdi::VdiKind;
use crate::vhd::VhdKind;
use crate::vhdx::VhdxKind;
use crate::vmdk::VmdkKind;
use crate::{qcow2, raw, vdi, vhd, vhdx, vmdk};

/// How the room of a new image comes to be, in whatever words its format has for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Variant {
    /// As it is written.
    #[default]
    Dynamic,
    /// At once; holes of the file system still take no room.
    Fixed,
    /// As it is written, in files for 2 GiB of the disk each.
    SplitDynamic,
    /// At once, in files for 2 GiB of the disk each.
    SplitFixed,
}

impl Variant {
    /// By a name of any format, in any case: `dynamic`, `fixed`, `static`, `monolithicSparse`, `monolithicFlat`,
    /// `twoGbMaxExtentSparse`, `twoGbMaxExtentFlat`.
    pub fn from_name(name: &str) -> Option<Self> {
        Some(match name.to_ascii_lowercase().as_str() {
            "dynamic" | "sparse" | "monolithicsparse" => Self::Dynamic,
            "fixed" | "static" | "flat" | "monolithicflat" => Self::Fixed,
            "split" | "twogbmaxextentsparse" => Self::SplitDynamic,
            "split-fixed" | "twogbmaxextentflat" => Self::SplitFixed,
            _ => return None,
        })
    }
}

/// What a new image is like.
#[derive(Clone, Debug)]
pub struct CreateOptions {
    /// Raw, qcow2, VMDK, VDI, VHD or VHDX.
    pub format: Format,
    /// Size of the disk, a positive number of whole sectors.
    pub size_bytes: u64,
    /// Raw and qcow2 know only [`Variant::Dynamic`]; of the others VMDK alone is split.
    pub variant: Variant,
    /// qcow2 only: a cluster, a power of two from 512 bytes to 2 MiB. 64 KiB where not said.
    pub cluster_bytes: Option<u64>,
    /// qcow2 only: name and format of the backing file, recorded and not opened.
    pub backing: Option<(String, String)>,
}

impl CreateOptions {
    /// The usual image of a format.
    pub fn new(format: Format, size_bytes: u64) -> Self {
        Self { format, size_bytes, variant: Variant::Dynamic, cluster_bytes: None, backing: None }
    }
}

/// Creates an image of zeroes, or of what its backing file holds, and opens its first file for reading and writing. It
/// appears under its name complete and durable, or not at all; a file that exists is never replaced. A split or
/// monolithicFlat VMDK gets more files beside it (see [`VmdkKind`]), and [`open`](super::open) asks
/// for them.
///
/// # Errors
/// `OutOfRange` for a size the format has not, `Unsupported` for options it has not; the host's, with `AlreadyExists`
/// as its cause where a name is taken.
pub fn create(path: &Path, options: &CreateOptions) -> Result<File, BlockError> {
    let CreateOptions { format, size_bytes, variant, cluster_bytes, backing } = options;
    if *format != Format::Qcow2 && (cluster_bytes.is_some() || backing.is_some()) {
        return Err(unsupported(format!("{format} images have no clusters to choose and no backing file")));
    }
    let fixed = match variant {
        Variant::Dynamic => false,
        Variant::Fixed => true,
        Variant::SplitDynamic | Variant::SplitFixed if *format == Format::Vmdk => *variant == Variant::SplitFixed,
        Variant::SplitDynamic | Variant::SplitFixed => {
            return Err(unsupported(format!("{format} images are not split")));
        }
    };
    match format {
        Format::Raw | Format::Qcow2 if fixed => {
            Err(unsupported(format!("{format} images take room only as they are written")))
        }
        Format::Raw => raw::create(path, *size_bytes),
        Format::Qcow2 => {
            let mut options = qcow2::CreateOptions::new(*size_bytes);
            options.cluster_bytes = cluster_bytes.unwrap_or(options.cluster_bytes);
            options.backing.clone_from(backing);
            qcow2::create(path, &options)
        }
        Format::Vmdk => {
            let kind = match variant {
                Variant::Dynamic => VmdkKind::MonolithicSparse,
                Variant::Fixed => VmdkKind::MonolithicFlat,
                Variant::SplitDynamic => VmdkKind::SplitSparse,
                Variant::SplitFixed => VmdkKind::SplitFlat,
            };
            vmdk::create(path, *size_bytes, kind)
        }
        Format::Vdi => vdi::create(path, *size_bytes, if fixed { VdiKind::Static } else { VdiKind::Dynamic }),
        Format::Vhd => vhd::create(path, *size_bytes, if fixed { VhdKind::Fixed } else { VhdKind::Dynamic }),
        Format::Vhdx => vhdx::create(path, *size_bytes, if fixed { VhdxKind::Fixed } else { VhdxKind::Dynamic }),
        Format::Iso => Err(unsupported("an ISO image is made by programs that fill it")),
        Format::Strata => Err(strata()),
    }
}
