//! What a file plainly is, by the signature of its format.

use std::fs::File;
use std::io;

use benchtop_block::{BlockError, BlockErrorKind, file};
use benchtop_memory::VolatileSlice;

/// How much of a file's start [`probe`] wants to see, in bytes: up to and with the first volume descriptor of an ISO.
pub const PROBE_BYTES: usize = 17 * 2048;

/// A format of disk images.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// No signature: the bytes of the disk themselves.
    Raw,
    /// QEMU's qcow2, any version.
    Qcow2,
    /// VMware's, sparse or a descriptor.
    Vmdk,
    /// VirtualBox's.
    Vdi,
    /// Hyper-V's newer one.
    Vhdx,
    /// Hyper-V's older one. In a file's start it is seen of dynamic and differencing images only, which begin with a
    /// copy of their footer.
    Vhd,
    /// An ISO 9660 or UDF volume. A bootable one may be a disk image too.
    Iso,
    /// Benchtop's own disks, which this crate tells from images and does not open.
    Strata,
}

impl Format {
    /// Its name as the command line spells it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
            Self::Vmdk => "vmdk",
            Self::Vdi => "vdi",
            Self::Vhdx => "vhdx",
            Self::Vhd => "vhd",
            Self::Iso => "iso",
            Self::Strata => "strata",
        }
    }

    /// By its [`name`](Self::name), or the one QEMU has for it.
    pub fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "raw" => Self::Raw,
            "qcow2" => Self::Qcow2,
            "vmdk" => Self::Vmdk,
            "vdi" => Self::Vdi,
            "vhd" | "vpc" => Self::Vhd,
            "vhdx" => Self::Vhdx,
            "iso" => Self::Iso,
            "strata" => Self::Strata,
            _ => return None,
        })
    }
}

impl std::fmt::Display for Format {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// Signatures by offset in bytes. Sources: the qcow2 specification; VMware's Virtual Disk Format 1.1; Microsoft's VHD
/// specification and [MS-VHDX]; ECMA-119 section 8.1 and ECMA-167 part 2, section 9.1 (volume structure descriptors);
/// for VDI the constant of VirtualBox's image header; for Strata its own format page.
const SIGNATURES: [(usize, &[u8], Format); 11] = [
    (0, b"STRATA\x1a\n", Format::Strata),
    (0, b"QFI\xfb", Format::Qcow2),
    (0, b"KDMV", Format::Vmdk),
    (0, b"COWD", Format::Vmdk),
    (0, b"# Disk DescriptorFile", Format::Vmdk),
    (64, &[0x7f, 0x10, 0xda, 0xbe], Format::Vdi),
    (0, b"vhdxfile", Format::Vhdx),
    (0, b"conectix", Format::Vhd),
    (0x8001, b"CD001", Format::Iso),
    (0x8001, b"BEA01", Format::Iso),
    (0x8001, b"NSR0", Format::Iso),
];

/// What the start of a file says it is; [`Format::Raw`] where it says nothing.
pub fn probe(start: &[u8]) -> Format {
    let matches =
        |(offset, magic, _): &&(usize, &[u8], Format)| start.get(*offset..).is_some_and(|rest| rest.starts_with(magic));
    SIGNATURES.iter().find(matches).map_or(Format::Raw, |(_, _, format)| *format)
}

/// As [`probe`], for an open file, shorter ones too. A fixed VHD is told by its footer, if that is whole.
///
/// # Errors
/// The host's.
pub fn probe_file(file: &File) -> Result<Format, BlockError> {
    let failed = |error| BlockError::from_io("the image can not be read", error);
    match read_start(file).map(|start| probe(&start)).map_err(failed)? {
        Format::Raw if ends_in_vhd_footer(file).map_err(failed)? => Ok(Format::Vhd),
        format => Ok(format),
    }
}

fn ends_in_vhd_footer(file: &File) -> io::Result<bool> {
    let mut footer = vec![0; 512];
    let Some(at) = file.metadata()?.len().checked_sub(footer.len() as u64) else { return Ok(false) };
    file::read_at(file, at, &[VolatileSlice::from(&mut footer[..])])?;
    Ok(crate::vhd::is_fixed_footer(&footer, at))
}

fn read_start(file: &File) -> io::Result<Vec<u8>> {
    let len = file.metadata()?.len().min(PROBE_BYTES as u64) as usize;
    let mut start = vec![0; len];
    file::read_at(file, 0, &[VolatileSlice::from(&mut start[..])])?;
    Ok(start)
}

/// Refuses a file that a user calls raw and that plainly is an image of another format: a guest would see the
/// container instead of the disk, and destroy it with its first write. An ISO is its own content and passes.
///
/// # Errors
/// [`Unsupported`](BlockErrorKind::Unsupported) with the format's name, or the host's.
pub fn require_raw(file: &File) -> Result<(), BlockError> {
    match probe_file(file)? {
        Format::Raw | Format::Iso => Ok(()),
        format => Err(BlockError::new(BlockErrorKind::Unsupported, format!("this is a {format} image, not a raw one"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    #[test]
    fn signatures_are_found_where_they_belong() {
        for (offset, magic, format) in SIGNATURES {
            let mut start = vec![0; PROBE_BYTES];
            start[offset..offset + magic.len()].copy_from_slice(magic);
            assert_eq!(probe(&start), format);
            assert_eq!(probe(&start[..offset + magic.len()]), format);
            assert_eq!(probe(&start[..offset + magic.len() - 1]), Format::Raw);
            assert_eq!(probe(&start[1..]), Format::Raw);
        }
        assert_eq!(probe(&[]), Format::Raw);
    }

    #[test]
    fn a_container_is_not_taken_for_a_disk() {
        let mut file = tempfile::tempfile().unwrap();
        require_raw(&file).unwrap();
        file.write_all(b"QFI\xfb\0\0\0\x03").unwrap();
        let error = require_raw(&file).unwrap_err();
        assert_eq!(error.kind(), BlockErrorKind::Unsupported);
        assert_eq!(error.to_string(), "this is a qcow2 image, not a raw one");
    }
}
