//! New images, of one file or of several.

use std::fs::File;
use std::path::{Path, PathBuf};

use benchtop_block::{BlockError, SECTOR_BYTES};

use super::descriptor::{MAX_EXTENTS, MAX_SECTORS, is_plain_name, new_text};
use super::{MAX_BYTES, sparse};
use crate::error::unsupported;
use crate::file::new;

/// The disk's bytes in each file of a split image.
const SPLIT_BYTES: u64 = 2 << 30;

/// What files a new image consists of, and how their room comes to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VmdkKind {
    /// One file, whose room comes as it is written.
    MonolithicSparse,
    /// A descriptor and one file with the bytes of the disk, `NAME-flat.vmdk`.
    MonolithicFlat,
    /// A descriptor and files for 2 GiB of the disk each, `NAME-s001.vmdk` and so on, whose room comes as they are
    /// written.
    SplitSparse,
    /// A descriptor and files with 2 GiB of the disk each, `NAME-f001.vmdk` and so on.
    SplitFlat,
}

impl VmdkKind {
    fn create_type(self) -> &'static str {
        match self {
            Self::MonolithicSparse => "monolithicSparse",
            Self::MonolithicFlat => "monolithicFlat",
            Self::SplitSparse => "twoGbMaxExtentSparse",
            Self::SplitFlat => "twoGbMaxExtentFlat",
        }
    }

    fn max_bytes(self) -> u64 {
        match self {
            Self::MonolithicSparse => MAX_BYTES,
            Self::MonolithicFlat => MAX_SECTORS * SECTOR_BYTES,
            Self::SplitSparse | Self::SplitFlat => MAX_EXTENTS as u64 * SPLIT_BYTES,
        }
    }

    /// The name of an extent, counted from 0, of an image called `stem`.
    fn extent_name(self, stem: &str, index: u64) -> String {
        match self {
            Self::MonolithicSparse => format!("{stem}.vmdk"),
            Self::MonolithicFlat => format!("{stem}-flat.vmdk"),
            Self::SplitSparse => format!("{stem}-s{:03}.vmdk", index + 1),
            Self::SplitFlat => format!("{stem}-f{:03}.vmdk", index + 1),
        }
    }
}

/// Files that go again unless the whole image was made.
struct Unfinished(Vec<PathBuf>);

impl Drop for Unfinished {
    fn drop(&mut self) {
        // A failure to clean up must not hide the error that led here.
        self.0.iter().for_each(|path| std::fs::remove_file(path).unwrap_or_default());
    }
}

/// Creates an image of `size_bytes` zeroes and opens its first file for reading and writing. That appears under its
/// name complete and durable, after all others did, or not at all; a file that exists is never replaced.
///
/// # Errors
/// `OutOfRange` unless the size is a positive number of whole sectors, at most 2040 GiB in one sparse file, 64 TiB in
/// one flat, and 1 TiB split; `Unsupported` for a name that a descriptor can not hold; the host's, with `AlreadyExists`
/// as its cause where a name is taken.
pub fn create(path: &Path, size_bytes: u64, kind: VmdkKind) -> Result<File, BlockError> {
    new::check_size(size_bytes, kind.max_bytes(), "VMDK")?;
    let name = path.file_name().and_then(|name| name.to_str()).filter(|name| is_plain_name(name));
    let stem = path.file_stem().and_then(|stem| stem.to_str());
    let (Some(name), Some(stem)) = (name, stem) else {
        return Err(unsupported(format!("a VMDK can not be called that: {}", path.display())));
    };
    let sectors = size_bytes / SECTOR_BYTES;
    if kind == VmdkKind::MonolithicSparse {
        let text = new_text(kind.create_type(), &format!("RW {sectors} SPARSE \"{name}\"\n"), sectors);
        return new::create_file(path, |file| sparse::write_new(file, Some(&text), sectors));
    }
    let mut made = Unfinished(Vec::new());
    let mut extents = String::new();
    let step = if kind == VmdkKind::MonolithicFlat { size_bytes } else { SPLIT_BYTES };
    for index in 0..size_bytes.div_ceil(step) {
        let name = kind.extent_name(stem, index);
        let len = step.min(size_bytes - index * step);
        let sectors = len / SECTOR_BYTES;
        let path = path.with_file_name(&name);
        new::create_file(&path, |file| match kind {
            VmdkKind::SplitSparse => sparse::write_new(file, None, sectors),
            _ => file.set_len(len),
        })?;
        made.0.push(path);
        extents += &match kind {
            VmdkKind::SplitSparse => format!("RW {sectors} SPARSE \"{name}\"\n"),
            _ => format!("RW {sectors} FLAT \"{name}\" 0\n"),
        };
    }
    let file =
        new::create_file(path, |file| file.write_bytes(0, new_text(kind.create_type(), &extents, sectors).as_bytes()))?;
    made.0.clear();
    Ok(file)
}
