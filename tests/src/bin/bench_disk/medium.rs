//! Files under our disks: as a host file is opened, counted, or without the guest's data.

use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use benchtop_strata::{HostCache, HostFile, Medium};
use clap::ValueEnum;

/// Whether the host's page cache lies between.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Caching {
    /// O_DIRECT, as QEMU's cache=none
    Direct,
    /// Reads by the host's page cache, writes past it
    Host,
}

const ALIGN: usize = 4096;

/// Opens `path` for reading and writing, empty if `new`.
///
/// # Errors
/// The host's.
pub fn open(path: &Path, new: bool, caching: Caching) -> io::Result<Arc<dyn Medium>> {
    let host = File::options().read(true).write(true).create(new).truncate(new).open(path)?;
    let cache = match caching {
        Caching::Host => HostCache::Reads,
        Caching::Direct => HostCache::Bypassed,
    };
    Ok(Arc::new(HostFile::new(host, cache)))
}

/// Opens `path` with O_DIRECT.
///
/// # Errors
/// The host's.
pub fn direct(path: &Path) -> io::Result<File> {
    let flags = rustix::fs::OFlags::DIRECT.bits().cast_signed();
    File::options().read(true).write(true).custom_flags(flags).open(path)
}

/// Memory with an aligned window.
pub struct Aligned {
    bytes: Vec<u8>,
}

impl Aligned {
    /// Room for `len` bytes.
    pub fn new(len: usize) -> Self {
        Self { bytes: vec![0; len + ALIGN] }
    }

    /// The first `len` bytes.
    pub fn window(&mut self, len: usize) -> &mut [u8] {
        let start = self.bytes.as_ptr().align_offset(ALIGN);
        &mut self.bytes[start..start + len]
    }
}

/// Counts what goes to the file. It does not sync: bytes are what is counted, and a sync each would take a quarter of
/// an hour.
pub struct Counted {
    under: Arc<dyn Medium>,
    written: AtomicU64,
    ahead: AtomicU64,
    syncs: AtomicU64,
}

impl Counted {
    /// Around `under`.
    pub fn new(under: Arc<dyn Medium>) -> Self {
        Self { under, written: AtomicU64::new(0), ahead: AtomicU64::new(0), syncs: AtomicU64::new(0) }
    }

    /// Bytes written so far.
    pub fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    /// Of these, zeroes: room written ahead of the log.
    pub fn ahead(&self) -> u64 {
        self.ahead.load(Ordering::Relaxed)
    }

    /// Syncs asked for so far.
    pub fn syncs(&self) -> u64 {
        self.syncs.load(Ordering::Relaxed)
    }
}

impl Medium for Counted {
    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        self.under.read_at(offset, into)
    }

    fn write_at(&self, offset: u64, from: &[&[u8]]) -> io::Result<()> {
        let len: usize = from.iter().map(|bytes| bytes.len()).sum();
        self.written.fetch_add(len as u64, Ordering::Relaxed);
        let zeroes = from.iter().filter(|bytes| bytes.len() >= ALIGN && bytes.iter().all(|byte| *byte == 0));
        self.ahead.fetch_add(zeroes.map(|bytes| bytes.len() as u64).sum(), Ordering::Relaxed);
        self.under.write_at(offset, from)
    }

    fn sync(&self) -> io::Result<()> {
        self.syncs.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        self.under.punch(offset, len)
    }

    fn size(&self) -> io::Result<u64> {
        self.under.size()
    }
}

/// Leaves out of the file whatever is the guest's data, and syncs: for large plain disks of which only the metadata is
/// of interest. Reading such data fails its check.
pub struct WithoutData {
    under: Arc<dyn Medium>,
    /// The one block that the guest writes.
    data: Vec<u8>,
}

impl WithoutData {
    /// Around `under`.
    pub fn new(under: Arc<dyn Medium>, data: Vec<u8>) -> Self {
        Self { under, data }
    }
}

impl Medium for WithoutData {
    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        self.under.read_at(offset, into)
    }

    fn write_at(&self, offset: u64, from: &[&[u8]]) -> io::Result<()> {
        let mut at = offset;
        for part in from.iter().flat_map(|bytes| bytes.chunks(ALIGN)) {
            if part != self.data {
                self.under.write_at(at, &[part])?;
            }
            at += part.len() as u64;
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        self.under.punch(offset, len)
    }

    fn size(&self) -> io::Result<u64> {
        self.under.size()
    }
}
