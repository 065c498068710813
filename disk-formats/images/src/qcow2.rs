//! QEMU's qcow2, versions 2 and 3.
//!
//! ```text
//!   header ─▶ L1 table ─▶ L2 tables ─▶ clusters of data        (what the guest sees)
//!          └▶ refcount table ─▶ refcount blocks                (which clusters are in use)
//! ```
//!
//! Built: clusters of 512 bytes to 2 MiB, refcounts of 1 to 64 bits, zero clusters, compressed clusters (deflate and
//! Zstandard; read, and copied out when they are written), extended L2 entries, images with internal snapshots (listed,
//! and kept intact by writes), LUKS encryption (read), backing files that the caller has opened, repair of refcounts after a crash of a program
//! that defers them. Refused by name: external data files, old encryption, unknown features; for writing, images marked
//! corrupt.
//!
//! Memory: the L1 table (at most 32 MiB, and no longer than the file), the refcount table (at most 8 MiB), a cache of
//! other tables (32 MiB, or 8 tables where clusters are large, and a quarter again while a commit runs), unpacked
//! clusters (2 MiB), and what waits for a commit (about 2 MiB). A request adds what it copies around itself: at most
//! two clusters packed, one unpacked, 8 MiB for the window of Zstandard, or 64 KiB to decrypt in. While an image is open for writing, a set
//! of the offsets its two first-level tables name (at most 80 MiB, for tables at their limits); while one is checked or
//! repaired, 4 bytes for each of its clusters (at most 256 MiB), and for a moment while it is opened for writing, where
//! that is at most 16 MiB.
//!
//! Threads: a request first holds the guest clusters it names (`ranges`), shared to read and to write in place, alone
//! to change where they are; the metadata is under one lock, which is not kept during transfers of data or syncs.
//! Order: guest clusters, then commit, then metadata.
//!
//! Durability: metadata changes stay in memory until a flush, a forced write, or until there are many, and are then
//! written in an order that leaves a consistent image wherever power fails (`commit`). Dropping the disk commits, too.

mod check;
mod commit;
mod compressed;
mod create;
mod discard;
mod header;
mod layout;
mod luks;
mod meta;
mod ranges;
mod read;
mod refcounts;
mod resize;
mod snapshots;
mod tables;
#[cfg(test)]
mod tests;
mod write;

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use benchtop_block::{BlockError, BlockErrorKind, DiscardBehavior, DiskBackend, DiskInfo, Extent, pieces};
use benchtop_memory::VolatileSlice;
use parking_lot::Mutex;
use zeroize::Zeroizing;

pub use check::CheckReport;
pub use create::{CreateOptions, create};
pub use header::Compression;
pub(crate) use resize::resize;
pub use snapshots::Snapshot;

use check::Survey;
use compressed::Unpacker;
use header::Header;
use luks::Cipher;
use meta::Meta;
use ranges::Ranges;
use refcounts::Refcounts;

use crate::error::{corrupt, unsupported};
use crate::file::ImageFile;
use crate::image::OpenError;

/// An open qcow2 image.
pub struct Qcow2Disk {
    file: ImageFile,
    header: Header,
    backing: Option<Arc<dyn DiskBackend>>,
    /// Size of the backing disk, 0 without one.
    backing_bytes: u64,
    /// Of an encrypted image, which is only read.
    cipher: Option<Cipher>,
    ranges: Ranges,
    meta: Mutex<Meta>,
    unpacker: Unpacker,
    /// Number of the last commit that began.
    commits_started: AtomicU64,
    /// Number of the last commit that ended well. Kept locked while one runs.
    commits_done: Mutex<u64>,
}

impl std::fmt::Debug for Qcow2Disk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Qcow2Disk").field("file", &self.file).field("header", &self.header).finish_non_exhaustive()
    }
}

impl Qcow2Disk {
    /// Takes an open descriptor, which must allow writing unless `read_only`, and locks the file against other VMs:
    /// a writer is alone, readers are not. An image that was not closed in order has its refcounts repaired when it
    /// is opened for writing. One whose tables are few is checked then, and refused where a write could destroy data. Backing files need [`open_with_backing`](Self::open_with_backing).
    ///
    /// # Errors
    /// `InUse` while somebody else holds it; `Unsupported` for what is no qcow2 image, uses something not built, or
    /// needs a backing file; `Corrupt` for one that contradicts itself or says it is corrupt; `ReadOnly` for a
    /// descriptor that can not write; or the host's.
    pub fn open(file: File, read_only: bool) -> Result<Self, BlockError> {
        Self::open_inner(file, read_only, None)
    }

    /// As [`open`](Self::open), for an image that names a backing file. The caller opened that, with the user's
    /// consent: its name comes from the image ([`info`]). It is only read.
    ///
    /// # Errors
    /// As `open`, and `Unsupported` for an image that names none.
    pub fn open_with_backing(file: File, read_only: bool, backing: Arc<dyn DiskBackend>) -> Result<Self, BlockError> {
        Self::open_inner(file, read_only, Some(backing))
    }

    /// As [`open`](Self::open), with what an image may need: its backing file's disk, and a password. An encrypted image
    /// can only be read.
    pub(crate) fn open_with(
        file: File,
        read_only: bool,
        backing: Option<Arc<dyn DiskBackend>>,
        password: Option<&Zeroizing<Vec<u8>>>,
    ) -> Result<Self, OpenError> {
        let file = ImageFile::open(file, read_only)?.padded();
        let Some(place) = Header::read(&file)?.encryption else {
            return Ok(Self::open_on(file, backing, None)?);
        };
        if !read_only {
            let context = "an encrypted qcow2 image can only be read; convert it to write";
            return Err(unsupported(context).into());
        }
        let password = password.ok_or(OpenError::PasswordNeeded)?;
        let cipher = luks::unlock(&file, &place, password)?.ok_or(OpenError::PasswordWrong)?;
        Ok(Self::open_on(file, backing, Some(cipher))?)
    }

    fn open_inner(file: File, read_only: bool, backing: Option<Arc<dyn DiskBackend>>) -> Result<Self, BlockError> {
        Self::open_on(ImageFile::open(file, read_only)?.padded(), backing, None)
    }

    fn open_on(
        file: ImageFile,
        backing: Option<Arc<dyn DiskBackend>>,
        cipher: Option<Cipher>,
    ) -> Result<Self, BlockError> {
        let read_only = file.is_read_only();
        let mut header = Header::read(&file)?;
        if header.encryption.is_some() != cipher.is_some() {
            return Err(unsupported("an encrypted qcow2 image needs a password"));
        }
        match (&header.backing_name, &backing) {
            (Some(name), None) => {
                let context = format!("the image needs its backing file {name:?}, which was not given");
                return Err(BlockError::new(BlockErrorKind::Unsupported, context));
            }
            (None, Some(_)) => {
                return Err(BlockError::new(BlockErrorKind::Unsupported, "the image has no backing file"));
            }
            _ => {}
        }
        let refcounts = if read_only { None } else { Some(prepare_writing(&mut header, &file)?) };
        let mut meta = Meta::load(&header, &file)?;
        if let Some(refcounts) = refcounts {
            meta.set_refcounts(refcounts)?;
        }
        let backing_bytes = backing.as_ref().map_or(0, |backing| backing.info().size_bytes);
        let unpacker = Unpacker::new(&header.layout, header.compression);
        Ok(Self {
            file,
            backing,
            backing_bytes,
            cipher,
            ranges: Ranges::default(),
            meta: Mutex::new(meta),
            unpacker,
            header,
            commits_started: AtomicU64::new(0),
            commits_done: Mutex::new(0),
        })
    }

    /// The internal snapshots.
    ///
    /// # Errors
    /// `Corrupt` for a table that contradicts itself, or the host's.
    pub fn snapshots(&self) -> Result<Vec<Snapshot>, BlockError> {
        let (entries, _) = snapshots::read(&self.header, &self.file)?;
        Ok(entries.into_iter().map(|entry| entry.snapshot).collect())
    }

    fn check_write(&self, offset_bytes: u64, len_bytes: u64) -> Result<(), BlockError> {
        self.info().check_write(offset_bytes, len_bytes)?;
        self.file.check_poison()
    }

    /// Waits for everybody who works on a range, and keeps others from moving it.
    fn hold_to_read(&self, start: u64, len: u64) -> ranges::Held<'_> {
        let bits = self.header.layout.cluster_bits;
        self.ranges.hold(start >> bits, start.saturating_add(len.max(1) - 1) >> bits, false)
    }
}

/// Checks what only writing needs, repairs, and takes features away that what is written next would make untrue.
fn prepare_writing(header: &mut Header, file: &ImageFile) -> Result<Refcounts, BlockError> {
    if header.is_corrupt() {
        return Err(corrupt("the image says that it is corrupt; it can be opened read-only"));
    }
    if header.is_dirty() {
        if header.autoclear & header::BITMAPS != 0 {
            let context = "the image was not closed in order and has bitmaps, so it can not be repaired here; it can be \
                           opened read-only";
            return Err(BlockError::new(BlockErrorKind::Unsupported, context));
        }
        check::repair(header, file)?;
    }
    header.check_refcount_table(file.len_bytes())?;
    check::require_sound(header, file)?;
    let (snapshots, snapshot_bytes) = snapshots::read(header, file)?;
    let cluster_bytes = header.layout.cluster_bytes();
    let clusters = |offset: u64, len: u64| match offset.saturating_add(len).checked_next_multiple_of(cluster_bytes) {
        _ if len == 0 => 0..0,
        end => offset - offset % cluster_bytes..end.unwrap_or(u64::MAX),
    };
    let mut fixed = vec![
        0..cluster_bytes,
        clusters(header.l1_offset, header.l1_bytes()),
        clusters(header.snapshots_offset, snapshot_bytes),
    ];
    fixed.extend(snapshots.iter().map(|entry| clusters(entry.l1_offset, entry.l1_entries * 8)));
    let (table, table_clusters) = (header.refcount_table_offset, header.refcount_table_clusters);
    let refcounts = Refcounts::load(header.layout, table, table_clusters, fixed, file)?;
    if header.autoclear != 0 {
        file.write_bytes(88, &[0; 8])?;
        file.sync()?;
        header.autoclear = 0;
    }
    Ok(refcounts)
}

impl DiskBackend for Qcow2Disk {
    fn info(&self) -> DiskInfo {
        let read_only = self.file.is_read_only();
        DiskInfo {
            size_bytes: self.header.size_bytes,
            logical_block_bytes: 512,
            physical_block_bytes: self.header.layout.cluster_bytes().min(4096) as u32,
            read_only,
            discard: if read_only { DiscardBehavior::Ignored } else { DiscardBehavior::Zeroes },
            format: "qcow2",
        }
    }

    fn read_at(&self, offset_bytes: u64, into: &[VolatileSlice<'_>]) -> Result<(), BlockError> {
        let len_bytes = pieces::len_bytes(into);
        self.info().check_range(offset_bytes, len_bytes)?;
        let _held = self.hold_to_read(offset_bytes, len_bytes);
        self.read_held(offset_bytes, into)
    }

    fn write_at(&self, offset_bytes: u64, from: &[VolatileSlice<'_>], fua: bool) -> Result<(), BlockError> {
        self.check_write(offset_bytes, pieces::len_bytes(from))?;
        self.write(offset_bytes, from, fua)
    }

    fn flush(&self) -> Result<(), BlockError> {
        if self.file.is_read_only() { Ok(()) } else { self.commit() }
    }

    fn discard(&self, offset_bytes: u64, len_bytes: u64) -> Result<(), BlockError> {
        self.check_write(offset_bytes, len_bytes)?;
        self.discard_range(offset_bytes, len_bytes)
    }

    fn extent_at(&self, offset_bytes: u64, limit_bytes: u64) -> Result<Extent, BlockError> {
        self.info().check_range(offset_bytes, limit_bytes)?;
        let _held = self.hold_to_read(offset_bytes, limit_bytes);
        self.extent(offset_bytes, limit_bytes)
    }

    fn reopen(&self) -> Result<(), BlockError> {
        if self.file.is_read_only() { Ok(()) } else { self.recover() }
    }
}

impl Drop for Qcow2Disk {
    fn drop(&mut self) {
        // Who needs to know whether it works flushes before. A poisoned image is left as it is. The first commit gives
        // references back, which a second writes.
        for _ in 0..2 {
            let clean = self.meta.lock().is_clean();
            if !self.file.is_read_only() && !clean && self.file.check_poison().is_ok() {
                self.commit().unwrap_or_default();
            }
        }
    }
}

/// What can be said of an image without a guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Qcow2Info {
    /// Size of the disk, whole sectors.
    pub virtual_bytes: u64,
    /// Length of the file.
    pub file_bytes: u64,
    /// 2 or 3.
    pub version: u32,
    /// A cluster.
    pub cluster_bytes: u64,
    /// Width of a refcount.
    pub refcount_bits: u32,
    /// Clusters are given out in 32 parts.
    pub extended_l2: bool,
    /// How compressed clusters are compressed, should there be any.
    pub compression: Compression,
    /// Refcounts may be wrong; opening it for writing repairs them.
    pub dirty: bool,
    /// The image says that it is corrupt.
    pub corrupt: bool,
    /// The disk is encrypted.
    pub encrypted: bool,
    /// The backing file as the image names it: to be shown, and opened only with the user's consent.
    pub backing_name: Option<String>,
    /// Its format as the image names it.
    pub backing_format: Option<String>,
    /// The internal snapshots.
    pub snapshots: Vec<Snapshot>,
}

/// Facts about an open image, whose position may move. Takes no lock, so an image in use can be asked about too.
///
/// # Errors
/// As [`Qcow2Disk::open`], for a reader.
pub fn info(file: &File) -> Result<Qcow2Info, BlockError> {
    let file = ImageFile::borrowed(file)?.padded();
    let header = Header::read(&file)?;
    let (entries, _) = snapshots::read(&header, &file)?;
    Ok(Qcow2Info {
        virtual_bytes: header.size_bytes,
        file_bytes: file.len_bytes(),
        version: header.layout.version,
        cluster_bytes: header.layout.cluster_bytes(),
        refcount_bits: 1 << header.layout.refcount_order,
        extended_l2: header.layout.extended,
        compression: header.compression,
        dirty: header.is_dirty(),
        corrupt: header.is_corrupt(),
        encrypted: header.encryption.is_some(),
        backing_name: header.backing_name,
        backing_format: header.backing_format,
        snapshots: entries.into_iter().map(|entry| entry.snapshot).collect(),
    })
}

/// Counts who uses each cluster and compares that with the refcounts, looks for data behind the end of the file, and
/// unpacks what the disk has compressed, which takes as long as reading it. The image must not be in use. Bitmaps, which
/// are not known here, count as leaks.
///
/// # Errors
/// `Corrupt` for tables that make no sense, `Unsupported` for an image too large to count, or the host's.
pub fn check(file: &File) -> Result<CheckReport, BlockError> {
    let file = ImageFile::borrowed(file)?.padded();
    let header = Header::read(&file)?;
    Survey::take(&header, &file)?.examine()
}

/// Counts who uses each cluster, writes new refcounts, takes the marks "dirty" and "corrupt" away, and says what a check
/// then finds.
///
/// # Errors
/// `Corrupt` for tables that make no sense, `Unsupported` for an image too large to count or with bitmaps, `InUse`,
/// `ReadOnly`, or the host's.
pub fn repair(file: File) -> Result<CheckReport, BlockError> {
    let file = ImageFile::open(file, false)?.padded();
    let mut header = Header::read(&file)?;
    if header.autoclear & header::BITMAPS != 0 {
        let context = "the image has bitmaps, so it can not be repaired here";
        return Err(BlockError::new(BlockErrorKind::Unsupported, context));
    }
    check::repair(&mut header, &file)?;
    Survey::take(&header, &file)?.examine()
}
