//! One door to every format: open, create, examine, check, repair and resize an image by its [`Format`].
//!
//! ```text
//!   open ───▶ RawDisk · Qcow2Disk · VmdkDisk · … as a DiskBackend          info · check    look, change nothing
//!      └──▶ OpenOptions::named, for each file the image names (consent)    create · repair · resize
//! ```
//!
//! Nothing here opens a file that an image names: [`OpenOptions::named`] is asked for each of them and opens it, or
//! refuses, as the user decided. Strata disks are told by [`probe`](crate::probe()) and opened by their own crate.

mod check;
mod create;
mod info;
mod resize;

use std::fs::File;
use std::sync::Arc;

use benchtop_block::{BlockError, BlockErrorKind, DiskBackend};
use zeroize::Zeroizing;

pub use check::{CheckReport, check, repair};
pub use create::{CreateOptions, Variant, create};
pub(crate) use info::Facts;
pub use info::{BackingName, ImageInfo, info};
pub use resize::{Shrink, resize};

use crate::error::unsupported;
use crate::probe::{Format, probe_file};
use crate::{IsoDisk, Qcow2Disk, RawDisk, VdiDisk, VhdDisk, VhdxDisk, VmdkDisk, qcow2};

/// Images that stand behind each other, at most. A chain that names itself would not end.
const MAX_CHAIN: usize = 32;

/// Why an image names another file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NamedRole {
    /// It holds what was not written to the image. It is only read.
    Backing,
    /// It holds a part of the disk. Its name is a plain file name, of the image's own folder.
    Extent,
}

/// A file that an image names. All of it is the image's word and not to be trusted.
#[derive(Clone, Copy, Debug)]
pub struct NamedFile<'a> {
    /// What for.
    pub role: NamedRole,
    /// As written in the image: a path relative to the folder of the image that names it, an absolute one, or a URL.
    pub name: &'a str,
    /// Its format as the image names it; QEMU's names.
    pub format: Option<&'a str>,
    /// The names that led here: empty where the opened image itself names the file, else those of the backing files
    /// from the first to the one that names it. Relative names are relative to the last.
    pub through: &'a [String],
    /// It must be open for reading only; else for writing, too.
    pub read_only: bool,
}

/// What [`OpenOptions::named`] answers.
pub enum Named {
    /// The file. A backing file is opened in the format the image says it has, or that it plainly is.
    File(File),
    /// For a backing file: the disk itself, of whatever kind.
    Disk(Arc<dyn DiskBackend>),
}

impl std::fmt::Debug for Named {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(file) => f.debug_tuple("File").field(file).finish(),
            Self::Disk(disk) => f.debug_tuple("Disk").field(&disk.info()).finish(),
        }
    }
}

/// Opens, with the user's consent, a file that an image names.
pub type OpenNamed<'a> = dyn Fn(&NamedFile<'_>) -> Result<Named, BlockError> + 'a;

/// How an image is opened.
#[derive(Clone, Copy, Default)]
pub struct OpenOptions<'a> {
    /// Writes are refused, and the image may be shared with other readers.
    pub read_only: bool,
    /// Asked for every file that the image names. Without it an image that names one is refused.
    pub named: Option<&'a OpenNamed<'a>>,
    /// For encrypted images, backing files too.
    pub password: Option<&'a Zeroizing<Vec<u8>>>,
}

impl std::fmt::Debug for OpenOptions<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OpenOptions")
            .field("read_only", &self.read_only)
            .field("named", &self.named.is_some())
            .field("password", &self.password.is_some())
            .finish()
    }
}

/// Why an image was not opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// It is encrypted, and no password was given.
    #[error("the image is encrypted and needs a password")]
    PasswordNeeded,
    /// No key of the image opens with the password.
    #[error("the password is wrong")]
    PasswordWrong,
    /// Any other reason.
    #[error(transparent)]
    Block(#[from] BlockError),
}

/// Opens an image of a known format; who does not know it asks [`probe_file`]. The file is locked: a writer is alone,
/// readers are not. With `options.read_only` the descriptor need not allow writing.
///
/// # Errors
/// For passwords as [`OpenError`] says; else `Unsupported` for what is not built, needs a file nobody opened, or is
/// Strata's; `Corrupt` where the image contradicts itself; `InUse`; `ReadOnly` for a descriptor that can not write;
/// those of `options.named`; or the host's.
pub fn open(file: File, format: Format, options: &OpenOptions<'_>) -> Result<Arc<dyn DiskBackend>, OpenError> {
    open_in_chain(file, format, options, &mut Vec::new())
}

fn open_in_chain(
    file: File,
    format: Format,
    options: &OpenOptions<'_>,
    chain: &mut Vec<String>,
) -> Result<Arc<dyn DiskBackend>, OpenError> {
    let read_only = options.read_only;
    Ok(match format {
        Format::Raw => Arc::new(RawDisk::open(file, read_only)?),
        Format::Iso if read_only => Arc::new(IsoDisk::open(file)?),
        Format::Iso => return Err(BlockError::new(BlockErrorKind::ReadOnly, "an ISO image can only be read").into()),
        Format::Qcow2 => {
            let backing = open_backing(&file, options, chain)?;
            Arc::new(Qcow2Disk::open_with(file, read_only, backing, options.password)?)
        }
        Format::Vmdk => Arc::new(open_vmdk(file, options, chain)?),
        Format::Vdi => Arc::new(VdiDisk::open(file, read_only)?),
        Format::Vhd => Arc::new(VhdDisk::open(file, read_only)?),
        Format::Vhdx => Arc::new(VhdxDisk::open(file, read_only)?),
        Format::Strata => return Err(strata().into()),
    })
}

fn open_vmdk(file: File, options: &OpenOptions<'_>, chain: &[String]) -> Result<VmdkDisk, BlockError> {
    let read_only = options.read_only;
    VmdkDisk::open(file, read_only, &mut |name| {
        let wanted = NamedFile { role: NamedRole::Extent, name, format: None, through: chain, read_only };
        match ask(options, &wanted)? {
            Named::File(file) => Ok(file),
            Named::Disk(_) => Err(unsupported("an extent of an image must be a file")),
        }
    })
}

/// The backing file of a qcow2 image, if it names one.
fn open_backing(
    file: &File,
    options: &OpenOptions<'_>,
    chain: &mut Vec<String>,
) -> Result<Option<Arc<dyn DiskBackend>>, OpenError> {
    let info = qcow2::info(file)?;
    let Some(name) = info.backing_name else { return Ok(None) };
    if chain.len() >= MAX_CHAIN {
        return Err(unsupported(format!("a chain of more than {MAX_CHAIN} backing files is not supported")).into());
    }
    let format = info.backing_format.as_deref();
    let wanted = NamedFile { role: NamedRole::Backing, name: &name, format, through: chain, read_only: true };
    let file = match ask(options, &wanted)? {
        Named::Disk(disk) => return Ok(Some(disk)),
        Named::File(file) => file,
    };
    let format = match format {
        Some(name) => Format::from_name(name)
            .ok_or_else(|| unsupported(format!("a backing file of the format {name:?} is not supported")))?,
        None => probe_file(&file)?,
    };
    chain.push(name);
    let disk = open_in_chain(file, format, &OpenOptions { read_only: true, ..*options }, chain);
    chain.pop();
    disk.map(Some)
}

fn ask(options: &OpenOptions<'_>, wanted: &NamedFile<'_>) -> Result<Named, BlockError> {
    match options.named {
        Some(named) => named(wanted),
        None => Err(unsupported(format!("the image needs the file {:?}, which was not given", wanted.name))),
    }
}

fn strata() -> BlockError {
    unsupported("this is a Strata disk, which is no image of another program")
}

#[cfg(test)]
mod tests;
