//! Image files that somebody has changed: what the targets of the image formats share.
//!
//! ```text
//!   seeds (made by our own `create`, used a little) ─▶ files in memory ─▶ edits ─▶ checksums ─▶ probe · info · check ·
//!   repair · open ─▶ exercise ─▶ resize ─▶ check
//! ```
//!
//! Input: which seed, flags, how many edits, the edits, operations on the disk. Edits go where the seed is not zero, so
//! that most hit metadata.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use benchtop_block::{BlockError, BlockErrorKind, DiskBackend, MemoryDisk};
use benchtop_images::image::{self, CreateOptions, Named, NamedFile, NamedRole, OpenOptions, Shrink, Variant};
use benchtop_images::{Format, probe};
use benchtop_memory::VolatileSlice;
use rustix::fs::{MemfdFlags, memfd_create};
use zeroize::Zeroizing;

use super::Input;
use super::exercise::{Model, exercise};

const SECTOR: usize = 512;
/// Numbers that mean something in places: sizes of things, and the largest of their kind.
const NUMBERS: [u64; 14] =
    [0, 1, 2, 511, 512, 4096, 65536, 1 << 20, 1 << 31, u32::MAX as u64, 1 << 32, 1 << 62, 1 << 63, u64::MAX];
/// Of the seeds that are encrypted.
pub(super) const PASSWORD: &[u8] = b"pass word";

/// A file, without its zeroes.
#[derive(Clone, Debug)]
pub(super) struct Sparse {
    pub len: u64,
    /// Where sectors that hold something begin, in order, and what.
    pub sectors: Vec<(u64, [u8; SECTOR])>,
}

impl Sparse {
    pub(super) fn of(bytes: &[u8]) -> Self {
        let sectors = (0..)
            .step_by(SECTOR)
            .zip(bytes.chunks(SECTOR))
            .filter(|(_, bytes)| bytes.iter().any(|byte| *byte != 0))
            .map(|(at, bytes)| {
                let mut sector = [0; SECTOR];
                sector[..bytes.len()].copy_from_slice(bytes);
                (at, sector)
            });
        Self { len: bytes.len() as u64, sectors: sectors.collect() }
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.len as usize];
        for (at, sector) in &self.sectors {
            let into = bytes.iter_mut().skip(*at as usize);
            into.zip(sector).for_each(|(into, byte)| *into = *byte);
        }
        bytes
    }

    fn write(&self) -> io::Result<File> {
        let file = in_memory()?;
        let mut rest = &self.sectors[..];
        // Neighbours in one call.
        while let Some((at, _)) = rest.first() {
            let count = rest.iter().zip((*at..).step_by(SECTOR)).take_while(|((at, _), next)| at == next).count();
            let bytes = rest[..count].iter().map(|(_, bytes)| &bytes[..]).collect::<Vec<_>>().concat();
            file.write_all_at(&bytes, *at)?;
            rest = &rest[count..];
        }
        file.set_len(self.len)?;
        Ok(file)
    }
}

/// An empty file without a name.
pub(super) fn in_memory() -> io::Result<File> {
    Ok(File::from(memfd_create("fuzz", MemfdFlags::CLOEXEC)?))
}

/// Opens a file again, with a position and locks of its own.
pub(super) fn again(file: &File, read_only: bool) -> io::Result<File> {
    File::options().read(true).write(!read_only).open(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

/// An image that is sound, with the files it names.
#[derive(Clone, Debug)]
pub(super) struct Seed {
    pub format: Format,
    /// The image, then those it names.
    pub files: Vec<(String, Sparse)>,
}

impl Seed {
    /// Makes the checksums of its image right.
    pub(super) fn fix(mut self, fix: fn(&File) -> io::Result<()>) -> Self {
        let file = self.files[0].1.write().expect("a file in memory");
        fix(&file).expect("a file in memory");
        let len = file.metadata().expect("a file in memory").len();
        let mut bytes = vec![0; len as usize];
        file.read_exact_at(&mut bytes, 0).expect("a file in memory");
        self.files[0].1 = Sparse::of(&bytes);
        self
    }
}

#[cfg(test)]
impl Seed {
    /// That it opens unchanged and can be read. For writing, where a log is to be replayed.
    pub(super) fn expect_readable(&self, read_only: bool, what: &str) {
        let case = Case::new(self);
        let named = |wanted: &NamedFile<'_>| case.named(wanted);
        let password = Zeroizing::new(PASSWORD.to_vec());
        let options = OpenOptions { read_only, named: Some(&named), password: Some(&password) };
        let disk = image::open(case.image(read_only).unwrap(), self.format, &options);
        let disk = disk.unwrap_or_else(|error| panic!("{what}: {error}"));
        for at in (0..disk.info().size_bytes).step_by(4096) {
            assert!(super::exercise::read(&*disk, at, 4096).is_some(), "{what} at {at:#x}");
        }
    }

    pub(super) fn info(&self) -> image::ImageInfo {
        image::info(&Case::new(self).image(true).unwrap(), self.format).unwrap()
    }

    /// That it is sound and can be read.
    pub(super) fn expect_sound(&self, what: &str) {
        self.expect_readable(true, what);
        assert!(self.is_sound(), "{what}");
    }

    /// Whether a check finds no damage.
    pub(super) fn is_sound(&self) -> bool {
        Case::new(self).check().is_some_and(|report| report.damages == 0)
    }
}

/// What a new image is given to hold, in bytes of the disk: a little, here and there.
const WRITES: [(u64, usize); 4] = [(0, 1024), (65536, 4096), (200 << 10, 512), (255 << 10, 1024)];

/// Seeds of an image as `options` says; see [`used`].
pub(super) fn seeds(options: &CreateOptions) -> [Seed; 2] {
    used(options.format, |path| image::create(path, options))
}

/// Seeds of a new image that is written to: as it is afterwards, and as it is while it is open.
///
/// # Panics
/// Where it can not be made: then there is nothing to fuzz.
pub(super) fn used(format: Format, create: impl FnOnce(&Path) -> Result<File, BlockError>) -> [Seed; 2] {
    let directory = tempfile::tempdir().expect("a folder for seeds");
    let path = directory.path().join("image");
    drop(create(&path).expect("a seed"));
    let disk = open_seed(&path, format).expect("a seed that opens");
    for (at, len) in WRITES {
        let mut bytes = vec![at as u8 | 1; len];
        disk.write_at(at, &[VolatileSlice::from(&mut bytes[..])], false).expect("a seed that can be written");
    }
    let open = collect(directory.path()).expect("a seed that can be read");
    drop(disk);
    let closed = collect(directory.path()).expect("a seed that can be read");
    [closed, open].map(|files| Seed { format, files })
}

/// All files of a folder, the one called `image` first.
fn collect(directory: &Path) -> io::Result<Vec<(String, Sparse)>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        files.push((entry.file_name().to_string_lossy().into_owned(), Sparse::of(&std::fs::read(entry.path())?)));
    }
    files.sort_by_key(|(name, _)| (name != "image", name.clone()));
    Ok(files)
}

fn open_seed(path: &Path, format: Format) -> Result<Arc<dyn DiskBackend>, image::OpenError> {
    let open = |path: &Path| {
        let failed = |error| BlockError::from_io("a seed", error);
        File::options().read(true).write(true).open(path).map_err(failed)
    };
    let named = |wanted: &NamedFile<'_>| match wanted.role {
        NamedRole::Backing => Ok(backing()),
        NamedRole::Extent => open(&path.with_file_name(wanted.name)).map(Named::File),
    };
    image::open(open(path)?, format, &OpenOptions { read_only: false, named: Some(&named), password: None })
}

fn backing() -> Named {
    Named::Disk(Arc::new(MemoryDisk::from_bytes(&[0xba; 100 << 10])))
}

/// A target: its seeds, and what makes the checksums of a changed file right again.
pub(super) struct Target {
    pub seeds: Vec<Seed>,
    pub fix: fn(&File) -> io::Result<()>,
}

#[cfg(test)]
impl Target {
    /// That all its seeds are.
    pub(super) fn expect_sound(&self) {
        for (number, seed) in self.seeds.iter().enumerate() {
            seed.expect_sound(&format!("seed {number}"));
        }
    }
}

impl Target {
    /// A dynamic and a fixed image of a format, used a little.
    pub(super) fn of(format: Format, dynamic_bytes: u64, fixed_bytes: u64, fix: fn(&File) -> io::Result<()>) -> Self {
        let dynamic = seeds(&CreateOptions::new(format, dynamic_bytes));
        let fixed = seeds(&CreateOptions { variant: Variant::Fixed, ..CreateOptions::new(format, fixed_bytes) });
        Self { seeds: [dynamic, fixed].concat(), fix }
    }

    /// Runs one input.
    pub(super) fn run(&self, data: &[u8]) {
        let mut input = Input(data);
        let (choice, flags) = (usize::from(input.byte()), input.byte());
        let Some(seed) = self.seeds.get(choice % (self.seeds.len() + 1)) else {
            // A file of no seed: the input itself, as the first seed's format.
            if let Some(seed) = self.seeds.first() {
                let alone = vec![("image".to_owned(), Sparse::of(input.0))];
                Case::new(&Seed { format: seed.format, files: alone }).run(flags, &mut Input(data));
            }
            return;
        };
        let case = Case::new(seed);
        let places: Vec<Vec<u64>> =
            seed.files.iter().map(|(_, file)| file.sectors.iter().map(|(at, _)| *at).collect()).collect();
        let edits = input.byte() % 12;
        for _ in 0..edits {
            // Of several files the first two, which is one of each kind.
            let which = usize::from(input.byte() & 1) % case.files.len().min(2);
            edit(&case.files[which].1, &places[which], &mut input).unwrap_or_default();
        }
        // Of qcow2 it is not checksums that are made right, but what would take minutes.
        if flags & 1 == 0 || seed.format == Format::Qcow2 {
            (self.fix)(&case.files[0].1).unwrap_or_default();
        }
        case.run(flags, &mut input);
    }
}

/// One change of a file.
fn edit(file: &File, places: &[u64], input: &mut Input<'_>) -> io::Result<()> {
    let kind = input.byte();
    let len = file.metadata()?.len();
    let number = usize::from(input.word());
    let sector = match places.get(number % places.len().max(1)) {
        Some(at) if kind & 0x80 == 0 => *at,
        _ => (number * SECTOR) as u64 % len.next_multiple_of(SECTOR as u64).max(1),
    };
    let at = sector + u64::from(input.word() % SECTOR as u16);
    let width = 1 << (kind >> 3 & 3);
    let little = kind & 0x20 == 0;
    let mut old = [0; 8];
    let there = file.read_at(&mut old[..width], at)?;
    match kind & 7 {
        0 => file.write_all_at(&[input.byte()], at),
        1 => file.write_all_at(&[old[0] ^ (1 << (input.byte() & 7))], at),
        2 => file.write_all_at(&input.take(width), at),
        3 | 4 => {
            let number = NUMBERS[usize::from(input.byte()) % NUMBERS.len()];
            file.write_all_at(&number_bytes(number, width, little), at)
        }
        5 => {
            // A little more or less than what stands there.
            let by = u64::from(input.byte()).wrapping_sub(128);
            let (mut le, mut be) = ([0; 8], [0; 8]);
            le[..there.min(width)].copy_from_slice(&old[..there.min(width)]);
            be[8 - width..].copy_from_slice(&old[..width]);
            let now = if little { u64::from_le_bytes(le) } else { u64::from_be_bytes(be) };
            file.write_all_at(&number_bytes(now.wrapping_add(by), width, little), at)
        }
        6 => {
            let mut bytes = [0; SECTOR];
            let from = places.get(usize::from(input.word()) % places.len().max(1)).copied().unwrap_or_default();
            let got = file.read_at(&mut bytes, from)?;
            file.write_all_at(&bytes[..got], sector)
        }
        _ if input.byte() & 1 == 0 => file.set_len(at),
        _ => file.set_len(len + u64::from(input.word()) * 64),
    }
}

/// The low `width` bytes of a number.
fn number_bytes(number: u64, width: usize, little: bool) -> Vec<u8> {
    if little { number.to_le_bytes()[..width].to_vec() } else { number.to_be_bytes()[8 - width..].to_vec() }
}

/// Changed files.
struct Case {
    format: Format,
    files: Vec<(String, File)>,
}

impl Case {
    fn new(seed: &Seed) -> Self {
        let file = |sparse: &Sparse| sparse.write().expect("a file in memory");
        let files = seed.files.iter().map(|(name, sparse)| (name.clone(), file(sparse))).collect();
        Self { format: seed.format, files }
    }

    fn image(&self, read_only: bool) -> io::Result<File> {
        again(&self.files[0].1, read_only)
    }

    /// A file the image names. A name that is none of ours gets one as well, so that more is read.
    fn named(&self, wanted: &NamedFile<'_>) -> Result<Named, BlockError> {
        let missing = || BlockError::new(BlockErrorKind::Io, "there is no such file");
        let file = match wanted.role {
            NamedRole::Backing => return Ok(backing()),
            NamedRole::Extent => self.files.iter().skip(1).find(|(name, _)| name == wanted.name),
        };
        let (_, file) = file.or(self.files.get(1)).ok_or_else(missing)?;
        again(file, wanted.read_only).map(Named::File).map_err(|error| BlockError::from_io("a file in memory", error))
    }

    fn check(&self) -> Option<image::CheckReport> {
        let named = |wanted: &NamedFile<'_>| self.named(wanted);
        let options = OpenOptions { read_only: true, named: Some(&named), password: None };
        image::check(self.image(true).ok()?, self.format, &options).ok()
    }

    fn run(&self, flags: u8, input: &mut Input<'_>) {
        let password = Zeroizing::new(PASSWORD.to_vec());
        let named = |wanted: &NamedFile<'_>| self.named(wanted);
        let options = OpenOptions { read_only: flags & 2 != 0, named: Some(&named), password: Some(&password) };
        let Ok(file) = self.image(true) else { return };
        let _format = probe::probe_file(&file);
        let info = image::info(&file, self.format).ok();
        drop(file);
        if flags & 4 != 0
            && let Ok(file) = self.image(false)
        {
            drop(image::repair(file, self.format).ok());
        }
        let sound = self.check().is_some_and(|report| report.damages == 0);
        let open = || image::open(self.image(options.read_only).ok()?, self.format, &options).ok();
        let model = exercise(&open, sound, input).filter(|_| sound);
        if let Some(model) = &model {
            let report = self.check();
            assert!(report.as_ref().is_some_and(|report| report.damages == 0), "writing did damage: {report:?}");
            self.verify(&open, model);
        }
        // A check does not look at what tables say of places behind the disk's end, so growing may come upon anything;
        // but what was written stays.
        if let Some(info) = info
            && flags & 8 != 0
            && let Ok(file) = self.image(false)
        {
            let size_bytes = info.virtual_bytes.saturating_add(u64::from(input.byte()) << 16);
            if image::resize(file, self.format, size_bytes, Shrink::Refused, &options).is_ok()
                && let Some(model) = &model
            {
                self.verify(&open, model);
            }
            drop(self.check());
        }
    }

    fn verify(&self, open: &dyn Fn() -> Option<Arc<dyn DiskBackend>>, model: &Model) {
        let disk = open();
        assert!(disk.is_some(), "a sound {} image that was written does not open again", self.format);
        if let Some(disk) = disk {
            model.verify(&*disk);
        }
    }
}
