//! What can be said of an image without opening its disk.

use std::fs::File;

use benchtop_block::{BlockError, SECTOR_BYTES};

use super::strata;
use crate::file::ImageFile;
use crate::iso;
use crate::probe::{Format, probe_file};
use crate::qcow2::{self, Snapshot};
use crate::{raw, vdi, vhd, vhdx, vmdk};

/// A backing file as an image names it: to be shown, and opened only with the user's consent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackingName {
    /// A path or URL.
    pub name: String,
    /// Its format; QEMU's names.
    pub format: Option<String>,
}

/// What an image says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageInfo {
    /// Its format.
    pub format: Format,
    /// Of the format's own kinds, which: `v2`, `v3`, `dynamic`, `static`, `fixed`, `monolithicSparse`, ….
    pub variant: String,
    /// Size of the disk, whole sectors.
    pub virtual_bytes: u64,
    /// Length of the file; of the first one where there are several.
    pub file_bytes: u64,
    /// Room that file takes on the host.
    pub allocated_bytes: u64,
    /// A qcow2 cluster.
    pub cluster_bytes: Option<u64>,
    /// The disk is encrypted, and opening it takes a password.
    pub encrypted: bool,
    /// The image was not closed in order, or says that it is damaged.
    pub needs_repair: bool,
    /// The backing file.
    pub backing: Option<BackingName>,
    /// Other files that hold parts of the disk, plain file names of the image's folder.
    pub extents: Vec<String>,
    /// Internal snapshots.
    pub snapshots: Vec<Snapshot>,
}

/// What a format without qcow2's riches says.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    pub(crate) size_bytes: u64,
    pub(crate) variant: String,
    pub(crate) needs_repair: bool,
    pub(crate) extents: Vec<String>,
}

impl Facts {
    pub(crate) fn new(size_bytes: u64, variant: impl Into<String>, needs_repair: bool) -> Self {
        Self { size_bytes, variant: variant.into(), needs_repair, extents: Vec::new() }
    }
}

/// Facts about an open image, whose position may move. Takes no lock and needs neither password nor other files, so an
/// image in use can be asked about too.
///
/// # Errors
/// As [`open`](super::open) for a reader.
pub fn info(file: &File, format: Format) -> Result<ImageInfo, BlockError> {
    let host = raw::info(file)?;
    let facts = match format {
        Format::Raw => Facts::new(host.virtual_bytes, "raw", false),
        Format::Iso => {
            let variant = if probe_file(file)? == Format::Iso { "volume" } else { "no volume" };
            Facts::new(
                host.file_bytes.saturating_add(iso::BLOCK_BYTES - 1) / iso::BLOCK_BYTES * iso::BLOCK_BYTES,
                variant,
                false,
            )
        }
        Format::Vmdk => vmdk::facts(&ImageFile::borrowed(file)?)?,
        Format::Vdi => vdi::facts(&ImageFile::borrowed(file)?)?,
        Format::Vhd => vhd::facts(&ImageFile::borrowed(file)?)?,
        Format::Vhdx => vhdx::facts(ImageFile::borrowed(file)?)?,
        Format::Qcow2 => return qcow2_info(file, &host),
        Format::Strata => return Err(strata()),
    };
    Ok(ImageInfo {
        format,
        variant: facts.variant,
        virtual_bytes: facts.size_bytes - facts.size_bytes % SECTOR_BYTES,
        file_bytes: host.file_bytes,
        allocated_bytes: host.allocated_bytes,
        cluster_bytes: None,
        encrypted: false,
        needs_repair: facts.needs_repair,
        backing: None,
        extents: facts.extents,
        snapshots: Vec::new(),
    })
}

fn qcow2_info(file: &File, host: &raw::RawInfo) -> Result<ImageInfo, BlockError> {
    let info = qcow2::info(file)?;
    Ok(ImageInfo {
        format: Format::Qcow2,
        variant: format!("v{}", info.version),
        virtual_bytes: info.virtual_bytes,
        file_bytes: host.file_bytes,
        allocated_bytes: host.allocated_bytes,
        cluster_bytes: Some(info.cluster_bytes),
        encrypted: info.encrypted,
        needs_repair: info.dirty || info.corrupt,
        backing: info.backing_name.map(|name| BackingName { name, format: info.backing_format }),
        extents: Vec::new(),
        snapshots: info.snapshots,
    })
}
