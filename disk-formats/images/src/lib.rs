//! Image formats, one file each: they implement [`benchtop_block::DiskBackend`].
//!
//! ```text
//!   descriptor (opened by the caller) ─▶ probe ─▶ RawDisk · IsoDisk ─▶ benchtop_block::Disk
//! ```
//!
//! Images are opened from descriptors, never from paths: the process that serves a guest can not open files, and
//! nothing written inside an image names another file to open. Only [`raw::create`] takes a path; it runs in the
//! command line's process.
//!
//! Trust: the content of an image is the guest's and therefore hostile. A raw image is never guessed from its content
//! on behalf of a running VM, for the guest writes that content: [`probe()`] serves to *refuse* a file that is plainly
//! of another format when a user names it, and the format is then kept in the VM's configuration.
#![forbid(unsafe_code)]

pub mod iso;
pub mod probe;
pub mod raw;

pub use iso::IsoDisk;
pub use probe::{Format, probe};
pub use raw::RawDisk;
