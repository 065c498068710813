//! Opening everything a VM needs, before the lock-down.

use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use benchtop_block::{DiscardWrites, Disk, DiskBackend, DiskOptions};
use benchtop_control::command::DeviceInfo;
use benchtop_control::config::{BootFrom, CacheMode, DiskBus, DiskConfig, DiskFormat, VmConfig};
use benchtop_control::{Bundle, Failure, FailureKind, Size};
use benchtop_hypervisor::Hypervisor;
use benchtop_images::IsoDisk;
use benchtop_strata::{StrataDisk, facts};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::identity::{self, Expected};
use super::image::{self, ImageUse, Password, StrataFile};
use super::{block_failure, firmware, host, hypervisor_failure};
use crate::{CdPart, DirectKernel, DiskPart, Firmware, MachineEvent, MachineParts};

/// How a disk's image is used.
#[derive(Clone, Copy, Debug, Default)]
pub struct DiskUse<'a> {
    /// Cache mode.
    pub cache: CacheMode,
    /// Its image. One that is read-only takes the guest's writes in memory.
    pub image: ImageUse<'a>,
}

/// Everything of a VM that has to be opened.
pub struct Opened {
    /// What it is called.
    pub name: String,
    /// Its identity.
    pub uuid: Uuid,
    /// RAM.
    pub memory: Size,
    /// vCPUs.
    pub cpus: u32,
    /// CPUID model.
    pub cpu_model: String,
    /// Boot order.
    pub boot: BootFrom,
    /// Firmware.
    pub firmware: Firmware,
    /// Kernel to start instead of booting.
    pub direct_kernel: Option<DirectKernel>,
    /// Disks.
    pub disks: Vec<VmDisk>,
    /// CD-ROM drives.
    pub cds: Vec<CdPart>,
    /// The same for people.
    pub devices: Vec<DeviceInfo>,
    /// What runs the guest's instructions.
    pub hypervisor: Box<dyn Hypervisor>,
    /// Power off where the guest asks for a reset.
    pub no_reboot: bool,
}

/// A hard disk of a VM.
#[derive(Debug)]
pub struct VmDisk {
    /// `disk0`, ….
    pub name: String,
    /// Controller.
    pub bus: DiskBus,
    /// Its image.
    pub image: DiskFile,
    /// Serial number the guest reads.
    pub serial: String,
}

/// A disk's image: open, or about to be.
pub struct DiskFile {
    image: Pending,
    cache: CacheMode,
    discard_writes: bool,
    format: &'static str,
    size_bytes: Option<u64>,
}

/// What of a disk is open before the lock-down: all of it, or of a Strata disk, whose opening starts a thread, its file.
enum Pending {
    Open(Arc<dyn DiskBackend>),
    Strata(StrataFile),
}

impl std::fmt::Debug for DiskFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DiskFile").field("format", &self.format).field("cache", &self.cache).finish_non_exhaustive()
    }
}

impl DiskFile {
    /// Opens the disk. It needs no path.
    ///
    /// # Errors
    /// It is damaged, or its password is wrong.
    fn open(self) -> Result<(Disk, Option<Arc<StrataDisk>>), Failure> {
        let mut strata = None;
        let image: Arc<dyn DiskBackend> = match self.image {
            Pending::Open(image) => image,
            Pending::Strata(file) => strata.insert(Arc::new(file.open()?)).clone(),
        };
        let backend: Arc<dyn DiskBackend> = if self.discard_writes {
            // Half of the host's memory at most: the guest decides how much it writes.
            let limit = host::memory_bytes().unwrap_or(4 << 30) / 2;
            Arc::new(DiscardWrites::new(image, limit))
        } else {
            image
        };
        Ok((Disk::new(backend, DiskOptions { cache: block_cache(self.cache), inline: false }), strata))
    }
}

/// What a machine is made of.
pub(super) struct Parts {
    /// The accelerator to make it with.
    pub hypervisor: Box<dyn Hypervisor>,
    /// Everything else.
    pub machine: MachineParts,
    /// The Strata disks among its disks, by name.
    pub strata: Vec<(String, Arc<StrataDisk>)>,
}

impl Opened {
    /// The parts of the machine. To be called after the lock-down: what this opens of the disks may start threads.
    ///
    /// # Errors
    /// A disk is damaged, or its password is wrong.
    pub(super) fn into_parts(self, on_event: Arc<dyn Fn(MachineEvent) + Send + Sync>) -> Result<Parts, Failure> {
        let mut strata = Vec::new();
        let mut disks = Vec::new();
        for disk in self.disks {
            let (open, image) = disk.image.open()?;
            strata.extend(image.map(|image| (disk.name.clone(), image)));
            disks.push(DiskPart { name: disk.name, bus: disk.bus, disk: open, serial: disk.serial });
        }
        let machine = MachineParts {
            uuid: self.uuid,
            memory_bytes: self.memory.bytes(),
            cpus: self.cpus,
            cpu_model: self.cpu_model,
            boot: self.boot,
            firmware: self.firmware,
            direct_kernel: self.direct_kernel,
            disks,
            cds: self.cds,
            // The session takes COM1's output from the events.
            no_reboot: self.no_reboot,
            on_event,
        };
        Ok(Parts { hypervisor: self.hypervisor, machine, strata })
    }
}

/// Opens what a bundle's configuration names; `password` is that of its encrypted disks.
///
/// # Errors
/// What can not be opened; nothing was changed.
pub fn open_bundle(
    bundle: &Bundle,
    config: &VmConfig,
    accelerator: Accelerator,
    password: Option<&Password>,
) -> Result<Opened, Failure> {
    host::check_memory(config.memory)?;
    let hypervisor = open_hypervisor(accelerator)?;
    let firmware = firmware::load(config.firmware.as_deref())?;
    let mut disks = Vec::new();
    let mut cds = Vec::new();
    let mut devices = Vec::new();
    for disk in &config.disks {
        let path = bundle.path().join(&disk.file);
        let file = bundle.open_file(&disk.file, true).map_err(|error| cannot_open("disk", &path, &error))?;
        // The configuration says what it is; its content is the guest's and is not asked.
        // What it names lies outside the bundle, or is no disk of this VM: it is not opened.
        let expected = expected(bundle, disk)?;
        let image =
            ImageUse { format: Some(disk.format), password, expected: expected.as_ref(), ..ImageUse::default() };
        let how = DiskUse { cache: disk.cache, image };
        let image = disk_from_file(file, &path, how)?;
        devices.push(disk_info(&disk.name, disk.bus, &disk.file, &image));
        disks.push(VmDisk { name: disk.name.clone(), bus: disk.bus, image, serial: disk.serial.clone() });
    }
    for cd in &config.cds {
        let medium = match &cd.iso {
            None => None,
            Some(path) => Some(medium_in_bundle(path).map_err(|failure| {
                let drive = format!("{}:{}", bundle.folder_name(), cd.name);
                failure.with_fix(format!("Put a disc there, or start without: `benchtop cd eject '{drive}'`."))
            })?),
        };
        devices.push(cd_info(&cd.name, cd.iso.as_deref(), medium.as_ref()));
        cds.push(CdPart { name: cd.name.clone(), medium });
    }
    Ok(Opened {
        name: config.name.clone(),
        uuid: config.uuid,
        memory: config.memory,
        cpus: config.cpus,
        cpu_model: config.cpu_model.clone(),
        boot: config.boot,
        firmware,
        direct_kernel: None,
        disks,
        cds,
        devices,
        hypervisor,
        no_reboot: false,
    })
}

/// What one of a bundle's disks is to be: that of the record, where it has one.
///
/// # Errors
/// The record can not be used.
pub fn expected(bundle: &Bundle, disk: &DiskConfig) -> Result<Option<Expected>, Failure> {
    if disk.format != DiskFormat::Strata {
        return Ok(None);
    }
    let name = format!("{}:{}", bundle.typed_name(), disk.name);
    let identity = identity::recall(bundle, &disk.name)?;
    Ok(identity.map(|identity| Expected { name, identity, accept_rollback: false }))
}

/// Which accelerator is to be used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Accelerator {
    /// The host's processor, by KVM.
    #[default]
    Kvm,
    /// The software CPU.
    Software,
}

impl Accelerator {
    /// The best this host has: KVM, or the software CPU where that can not be used, with one sentence that says why and
    /// what it costs.
    pub fn best() -> (Self, Option<String>) {
        match open_hypervisor(Self::Kvm) {
            Ok(_) => (Self::Kvm, None),
            Err(failure) => (Self::Software, Some(instead(&failure))),
        }
    }
}

/// What is said where the software CPU takes KVM's place.
fn instead(failure: &Failure) -> String {
    let why = failure.why.trim_end_matches('.');
    format!("{} ({why}): the software CPU runs this VM, correctly and many times slower", failure.what)
}

/// Opens the accelerator.
///
/// # Errors
/// This host has none, or the user may not use it.
pub fn open_hypervisor(which: Accelerator) -> Result<Box<dyn Hypervisor>, Failure> {
    if which == Accelerator::Software {
        return Ok(Box::new(benchtop_hypervisor::software::Software));
    }
    match benchtop_hypervisor::kvm::Kvm::open() {
        Ok(kvm) => Ok(Box::new(kvm)),
        Err(error) => Err(hypervisor_failure("can not use KVM", &error)),
    }
}

/// Opens a disk image, as far as that is done before the lock-down.
///
/// # Errors
/// It can not be opened, is in use, or needs a password and there is none.
pub fn open_disk(path: &Path, how: DiskUse<'_>) -> Result<DiskFile, Failure> {
    let file = open_plain(path, !how.image.read_only).map_err(|error| cannot_open("disk", path, &error))?;
    disk_from_file(file, path, how)
}

/// A disk that a server has, and that is connected by now: a network is out of reach after the lock-down. With
/// `discard_writes` it takes the guest's writes in memory.
pub fn connected_disk(image: Arc<dyn DiskBackend>, cache: CacheMode, discard_writes: bool) -> DiskFile {
    let info = image.info();
    DiskFile {
        image: Pending::Open(image),
        cache,
        discard_writes,
        format: info.format,
        size_bytes: Some(info.size_bytes),
    }
}

fn disk_from_file(file: File, path: &Path, how: DiskUse<'_>) -> Result<DiskFile, Failure> {
    let what = format!("can not use the disk {}", path.display());
    let DiskUse { cache, image: how } = how;
    let format = match how.format {
        Some(format) => format,
        None => image::detect(&file, &what)?,
    };
    let (image, size_bytes) = if format == DiskFormat::Strata {
        let size_bytes = facts(&file).map(|facts| facts.size_bytes);
        (Pending::Strata(StrataFile::new(file, &what, how)?), size_bytes)
    } else {
        let image = image::open_image(file, &what, ImageUse { format: Some(format), ..how })?.backend;
        let size_bytes = Some(image.info().size_bytes);
        (Pending::Open(image), size_bytes)
    };
    Ok(DiskFile { image, cache, discard_writes: how.read_only, format: format.name(), size_bytes })
}

/// Opens the file of a disc.
///
/// # Errors
/// It is missing, can not be read, or is no file.
pub fn open_iso(path: &Path) -> Result<File, Failure> {
    let what = format!("can not use the disc {}", path.display());
    let file = open_plain(path, false).map_err(|error| cannot_open("disc", path, &error))?;
    let metadata = file.metadata().map_err(|error| Failure::from_io(what.as_str(), &error))?;
    if !metadata.is_file() || metadata.len() == 0 {
        let why = if metadata.is_file() { "It is empty." } else { "It is no regular file." };
        return Err(Failure::new(FailureKind::Failed, what, why, "Name an ISO file."));
    }
    Ok(file)
}

/// Makes a disc of an open file.
///
/// # Errors
/// It is no file, or a VM writes it.
pub fn medium(file: File, path: &Path) -> Result<Disk, Failure> {
    iso(file, path).map(|iso| Disk::new(Arc::new(iso), DiskOptions::default()))
}

fn iso(file: File, path: &Path) -> Result<IsoDisk, Failure> {
    let what = format!("can not use the disc {}", path.display());
    IsoDisk::open(file).map_err(|error| block_failure(&what, &error))
}

/// The disc a bundle names.
fn medium_in_bundle(path: &Path) -> Result<Disk, Failure> {
    bundle_medium(open_iso(path)?, path)
}

/// As [`medium`], for a disc that a bundle's configuration names. The bundle may come from anywhere, so what the file
/// holds must be a disc: otherwise a bundle could show its guest any file of the user's.
///
/// # Errors
/// As [`medium`], or it holds no volume.
pub fn bundle_medium(file: File, path: &Path) -> Result<Disk, Failure> {
    let disc = iso(file, path)?;
    if !disc.is_iso9660() {
        return Err(Failure::new(
            FailureKind::Failed,
            format!("can not use the disc {}", path.display()),
            "It holds no ISO 9660 or UDF volume, or is cut short.",
            "Name an ISO file. A VM without a bundle takes any: `benchtop boot --iso`.",
        ));
    }
    Ok(Disk::new(Arc::new(disc), DiskOptions::default()))
}

/// Opens the file of a disc for a VM with a bundle, after the same check as at its start.
///
/// # Errors
/// As [`open_iso`] and [`bundle_medium`].
pub fn open_bundle_iso(path: &Path) -> Result<File, Failure> {
    medium_in_bundle(path)?;
    open_iso(path)
}

/// A disk as `show` prints it.
pub fn disk_info(name: &str, bus: DiskBus, file: &Path, disk: &DiskFile) -> DeviceInfo {
    DeviceInfo {
        name: name.to_owned(),
        kind: "disk".to_owned(),
        bus,
        file: Some(file.to_path_buf()),
        format: Some(disk.format.to_owned()),
        cache: Some(disk.cache),
        size_bytes: disk.size_bytes,
    }
}

/// A drive as `show` prints it.
pub fn cd_info(name: &str, iso: Option<&Path>, medium: Option<&Disk>) -> DeviceInfo {
    DeviceInfo {
        name: name.to_owned(),
        kind: "cd".to_owned(),
        bus: DiskBus::Ide,
        file: iso.map(PathBuf::from),
        format: None,
        cache: None,
        size_bytes: medium.map(|disk| disk.info().size_bytes),
    }
}

/// Opens without waiting for the other end of a pipe.
///
/// # Errors
/// The host's.
pub fn open_plain(path: &Path, writable: bool) -> std::io::Result<File> {
    let flags = rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::NOCTTY;
    let flags = i32::try_from(flags.bits()).unwrap_or(0);
    File::options().read(true).write(writable).custom_flags(flags).open(path)
}

/// Opens a regular file to read it, without waiting for anybody.
///
/// # Errors
/// The host's, or it is no regular file. `kind` is what it is called there: a kernel, a disk.
pub fn open_regular(kind: &str, path: &Path) -> Result<File, Failure> {
    let file = open_plain(path, false).map_err(|error| cannot_open(kind, path, &error))?;
    let metadata = file.metadata().map_err(|error| cannot_open(kind, path, &error))?;
    if metadata.is_file() {
        return Ok(file);
    }
    let what = format!("can not open the {kind} {}", path.display());
    Err(Failure::new(FailureKind::Failed, what, "It is no regular file.", "Name a file."))
}

fn cannot_open(kind: &str, path: &Path, error: &std::io::Error) -> Failure {
    let failure = Failure::from_io(format!("can not open the {kind} {}", path.display()), error);
    match error.kind() {
        std::io::ErrorKind::NotFound => failure.with_fix("Check the path, or make the file first."),
        _ => failure,
    }
}

/// The block crate's word for a cache mode.
pub fn block_cache(mode: CacheMode) -> benchtop_block::CacheMode {
    match mode {
        CacheMode::Writethrough => benchtop_block::CacheMode::Writethrough,
        CacheMode::Writeback => benchtop_block::CacheMode::Writeback,
        CacheMode::Unsafe => benchtop_block::CacheMode::Unsafe,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sentence_about_the_software_cpu_says_why_and_what_it_costs() {
        let why = Failure::new(FailureKind::NotCapable, "can not use KVM", "/dev/kvm is not there.", "Load kvm_intel.");
        let sentence = instead(&why);
        assert!(sentence.contains("/dev/kvm is not there):") && sentence.contains("slower"), "{sentence}");
        let (accelerator, sentence) = Accelerator::best();
        assert_eq!(accelerator == Accelerator::Kvm, sentence.is_none());
        assert!(open_hypervisor(accelerator).is_ok());
    }

    #[test]
    fn a_missing_or_empty_disc_is_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.iso");
        assert_eq!(open_iso(&path).unwrap_err().kind, FailureKind::NotFound);
        std::fs::write(&path, []).unwrap();
        assert_eq!(open_iso(&path).unwrap_err().kind, FailureKind::Failed);
        assert!(open_iso(dir.path()).is_err());
    }

    #[test]
    fn a_disk_has_one_writer() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.raw");
        File::create(&path).unwrap().set_len(1 << 20).unwrap();
        let first = open_disk(&path, DiskUse::default()).unwrap();
        assert_eq!(open_disk(&path, DiskUse::default()).unwrap_err().kind, FailureKind::WrongState);
        drop(first);
        open_disk(&path, DiskUse::default()).unwrap();
    }

    #[test]
    fn another_format_is_not_taken_for_raw() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.img");
        let mut content = b"QFI\xfb".to_vec();
        content.resize(4096, 0);
        std::fs::write(&path, content).unwrap();
        open_disk(&path, DiskUse::default()).unwrap_err();
        let image = ImageUse { format: Some(DiskFormat::Raw), ..ImageUse::default() };
        open_disk(&path, DiskUse { image, ..DiskUse::default() }).unwrap();
    }

    #[test]
    fn a_bundle_can_not_show_any_file_as_a_disc() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        std::fs::write(&path, "secret").unwrap();
        assert!(medium_in_bundle(&path).is_err());
    }
}
