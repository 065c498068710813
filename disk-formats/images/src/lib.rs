//! Image formats, one file each: they implement [`benchtop_block::DiskBackend`].
//!
//! ```text
//!   descriptor (opened by the caller) ─▶ probe ─▶ RawDisk · IsoDisk · Qcow2Disk · … ─▶ benchtop_block::Disk
//! ```
//!
//! [`image`] is the one door to all of them; the modules of the formats are for who needs what only that one has.
//!
//! Images are opened from descriptors, never from paths: the process that serves a guest can not open files, and what
//! an image says of other files (a backing file, an extent) is opened only by the caller, who asks for consent. Only
//! the functions that make images take paths; they run in the command line's process.
//!
//! Trust: the content of an image is the guest's and therefore hostile. A raw image is never guessed from its content
//! on behalf of a running VM, for the guest writes that content: [`probe()`] serves to *refuse* a file that is plainly
//! of another format when a user names it, and the format is then kept in the VM's configuration.
#![forbid(unsafe_code)]

mod error;
mod fields;
mod file;
mod flat;
pub mod image;
pub mod iso;
mod mapped;
pub mod probe;
pub mod qcow2;
pub mod raw;
pub mod vdi;
pub mod vhd;
pub mod vhdx;
pub mod vmdk;

pub use image::{
    BackingName, CheckReport, CreateOptions, ImageInfo, Named, NamedFile, NamedRole, OpenError, OpenNamed, OpenOptions,
    Shrink, Variant, check, create, info, open, repair, resize,
};
pub use iso::IsoDisk;
pub use probe::{Format, probe};
pub use qcow2::Qcow2Disk;
pub use raw::RawDisk;
pub use vdi::VdiDisk;
pub use vhd::VhdDisk;
pub use vhdx::VhdxDisk;
pub use vmdk::VmdkDisk;
