//! The configuration of a VM: what `machine.toml` in its bundle holds.

use std::fmt;
use std::path::{Component, Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::names::{check_serial, check_vm_name};
use crate::size::Size;

/// The schema of this version.
pub const SCHEMA: &str = "benchtop.machine/1";
/// The CPU model new VMs get.
pub const CPU_MODEL: &str = "benchtop-v1";
/// The least RAM: what the firmware needs to live.
pub const MEMORY_MIN: Size = Size::mebibytes(4);
/// The most RAM any accelerator here can map, before the host's own is considered.
pub const MEMORY_MAX: Size = Size(1 << 40);
/// The most vCPUs.
pub const CPUS_MAX: u32 = 32;
/// Drives on the two IDE channels.
pub const IDE_DRIVES_MAX: usize = 4;

/// The controller a disk sits behind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DiskBus {
    /// PIIX3 IDE.
    #[default]
    Ide,
}

/// When a write completes; see the block crate for what each promises.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CacheMode {
    /// When it is durable.
    #[default]
    Writethrough,
    /// When accepted; a guest flush makes it durable.
    Writeback,
    /// When accepted; flushes are ignored.
    Unsafe,
}

impl CacheMode {
    /// As the CLI spells it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Writethrough => "writethrough",
            Self::Writeback => "writeback",
            Self::Unsafe => "unsafe",
        }
    }
}

impl fmt::Display for CacheMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for CacheMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        [Self::Writethrough, Self::Writeback, Self::Unsafe]
            .into_iter()
            .find(|mode| mode.name() == text)
            .ok_or_else(|| format!("`{text}` is no cache mode; choose writethrough, writeback or unsafe"))
    }
}

/// The format of a disk's image. It is kept in the configuration and never guessed from the content of an image that a
/// guest has written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DiskFormat {
    /// Our own, what new disks get.
    Strata,
    /// The bytes of the disk, one for one. What a configuration without this field means.
    #[default]
    Raw,
    /// QEMU's.
    Qcow2,
    /// VMware's.
    Vmdk,
    /// VirtualBox's.
    Vdi,
    /// Hyper-V's older one.
    Vhd,
    /// Hyper-V's newer one.
    Vhdx,
}

impl DiskFormat {
    /// All of them.
    pub const ALL: [Self; 7] = [Self::Strata, Self::Raw, Self::Qcow2, Self::Vmdk, Self::Vdi, Self::Vhd, Self::Vhdx];

    /// As the CLI spells it; also the usual extension of such files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Strata => "strata",
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
            Self::Vmdk => "vmdk",
            Self::Vdi => "vdi",
            Self::Vhd => "vhd",
            Self::Vhdx => "vhdx",
        }
    }

    /// What a file's extension says, if anything.
    pub fn of_extension(path: &Path) -> Option<Self> {
        let extension = path.extension()?.to_str()?.to_ascii_lowercase();
        match extension.as_str() {
            "img" => Some(Self::Raw),
            "vpc" => Some(Self::Vhd),
            _ => Self::ALL.into_iter().find(|format| format.name() == extension),
        }
    }
}

impl fmt::Display for DiskFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for DiskFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|format| format.name() == text)
            .ok_or_else(|| format!("`{text}` is no disk format; choose strata, raw, qcow2, vmdk, vdi, vhd or vhdx"))
    }
}

/// What the firmware tries first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BootFrom {
    /// The CD-ROM, where one holds a disc, then the disks.
    #[default]
    Cd,
    /// The disks, then the CD-ROM.
    Disk,
}

impl FromStr for BootFrom {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "cd" => Ok(Self::Cd),
            "disk" => Ok(Self::Disk),
            _ => Err(format!("`{text}` is nothing to boot from; choose cd or disk")),
        }
    }
}

/// A hard disk of a VM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiskConfig {
    /// `disk0`, ….
    pub name: String,
    /// Its image, relative to the bundle.
    pub file: PathBuf,
    /// The format of its image.
    #[serde(default)]
    pub format: DiskFormat,
    /// Controller.
    #[serde(default)]
    pub bus: DiskBus,
    /// Cache mode.
    #[serde(default)]
    pub cache: CacheMode,
    /// Serial number the guest reads.
    pub serial: String,
}

/// A CD-ROM drive of a VM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CdConfig {
    /// `cd0`, ….
    pub name: String,
    /// The disc in it: an absolute path, for discs are not copied into the bundle.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iso: Option<PathBuf>,
}

/// What `machine.toml` holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VmConfig {
    /// [`SCHEMA`].
    pub schema: String,
    /// What the VM is called.
    pub name: String,
    /// Its identity: what the guest sees through SMBIOS, and the name of its socket.
    pub uuid: Uuid,
    /// The identity before this bundle was noticed to be a copy; `set VM uuid=…` goes back to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous_uuid: Option<Uuid>,
    /// The user chose this UUID: it is kept even beside another VM that has it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub uuid_pinned: bool,
    /// The inode of the bundle's folder when it got its UUID, by which an original is told from its copy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub folder_inode: Option<u64>,
    /// RAM, a multiple of 1 MiB.
    pub memory: Size,
    /// vCPUs.
    pub cpus: u32,
    /// The CPUID model the guest was installed on.
    pub cpu_model: String,
    /// Boot order.
    #[serde(default)]
    pub boot: BootFrom,
    /// Firmware to use instead of the system's: a folder or a BIOS file, absolute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub firmware: Option<PathBuf>,
    /// Hard disks.
    #[serde(default)]
    pub disks: Vec<DiskConfig>,
    /// CD-ROM drives.
    #[serde(default)]
    pub cds: Vec<CdConfig>,
}

/// What makes a configuration impossible.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct InvalidConfig {
    /// The field, as `machine.toml` spells it.
    pub field: String,
    /// What is wrong, a sentence.
    pub problem: String,
}

impl InvalidConfig {
    fn new(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { field: field.into(), problem: problem.into() }
    }
}

impl VmConfig {
    /// A VM without disks.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            schema: SCHEMA.to_owned(),
            name: name.into(),
            uuid: Uuid::new_v4(),
            previous_uuid: None,
            uuid_pinned: false,
            folder_inode: None,
            memory: Size(2 << 30),
            cpus: 2,
            cpu_model: CPU_MODEL.to_owned(),
            boot: BootFrom::Cd,
            firmware: None,
            disks: Vec::new(),
            cds: Vec::new(),
        }
    }

    /// A serial number for the disk of that index that no other disk of this or another VM has.
    pub fn serial_for_disk(&self, index: usize) -> String {
        let id = self.uuid.simple().to_string();
        format!("BT{}{:02}", id.get(..14).unwrap_or_default().to_uppercase(), index % 100)
    }

    /// The first free name `PREFIX0`, `PREFIX1`, ….
    pub fn free_device_name(&self, prefix: &str) -> String {
        let mut index = 0u32;
        loop {
            let name = format!("{prefix}{index}");
            if !self.device_names().any(|taken| taken == name) {
                return name;
            }
            index = index.saturating_add(1);
        }
    }

    /// Names of all disks and drives.
    pub fn device_names(&self) -> impl Iterator<Item = &str> {
        self.disks.iter().map(|disk| disk.name.as_str()).chain(self.cds.iter().map(|cd| cd.name.as_str()))
    }

    /// Checks every field.
    ///
    /// # Errors
    /// The first field that is impossible.
    pub fn validate(&self) -> Result<(), InvalidConfig> {
        let invalid = |field: &str, problem: String| Err(InvalidConfig::new(field, problem));
        check_vm_name(&self.name).map_err(|problem| InvalidConfig::new("name", problem))?;
        if self.uuid.is_nil() {
            return invalid("uuid", "It can not be all zeroes.".to_owned());
        }
        if self.memory < MEMORY_MIN || self.memory > MEMORY_MAX {
            return invalid("memory", format!("A VM has from {MEMORY_MIN} to {MEMORY_MAX}, not {}.", self.memory));
        }
        if !self.memory.bytes().is_multiple_of(1 << 20) {
            return invalid("memory", "It must be a whole number of MiB.".to_owned());
        }
        if self.cpus == 0 || self.cpus > CPUS_MAX {
            return invalid("cpus", format!("A VM has from 1 to {CPUS_MAX} CPUs, not {}.", self.cpus));
        }
        if self.cpu_model != CPU_MODEL {
            return invalid("cpu_model", format!("`{}` is not known; this version has {CPU_MODEL}.", self.cpu_model));
        }
        if self.firmware.as_ref().is_some_and(|path| !path.is_absolute()) {
            return invalid("firmware", "It must be an absolute path.".to_owned());
        }
        for (index, disk) in self.disks.iter().enumerate() {
            let field = |name: &str| format!("disks[{index}].{name}");
            check_device_name(&disk.name, "disk").map_err(|problem| InvalidConfig::new(field("name"), problem))?;
            check_inside(&disk.file).map_err(|problem| InvalidConfig::new(field("file"), problem))?;
            check_serial(&disk.serial).map_err(|problem| InvalidConfig::new(field("serial"), problem))?;
            if self.disks.iter().take(index).any(|other| other.file == disk.file) {
                return invalid(&field("file"), "Another disk has the same file.".to_owned());
            }
        }
        for (index, cd) in self.cds.iter().enumerate() {
            let field = |name: &str| format!("cds[{index}].{name}");
            check_device_name(&cd.name, "cd").map_err(|problem| InvalidConfig::new(field("name"), problem))?;
            if cd.iso.as_ref().is_some_and(|path| !path.is_absolute()) {
                return invalid(&field("iso"), "It must be an absolute path.".to_owned());
            }
        }
        let names: Vec<&str> = self.device_names().collect();
        for (index, name) in names.iter().enumerate() {
            if names.iter().take(index).any(|other| other == name) {
                return invalid("disks", format!("Two devices are called {name}."));
            }
        }
        if names.len() > IDE_DRIVES_MAX {
            return invalid("disks", format!("IDE has room for {IDE_DRIVES_MAX} disks and CD-ROM drives together."));
        }
        Ok(())
    }
}

/// A device's name is its prefix and a number.
fn check_device_name(name: &str, prefix: &str) -> Result<(), String> {
    let number = name.strip_prefix(prefix).unwrap_or_default();
    let plain = !number.is_empty() && number.len() <= 2 && number.bytes().all(|b| b.is_ascii_digit());
    if plain && (number == "0" || !number.starts_with('0')) {
        Ok(())
    } else {
        Err(format!("`{name}` must be {prefix}0, {prefix}1, ….").replace("….", "…"))
    }
}

/// A path that stays inside the bundle, whoever wrote it.
fn check_inside(path: &Path) -> Result<(), &'static str> {
    if path.as_os_str().is_empty() {
        return Err("A path can not be empty.");
    }
    if path.components().all(|part| matches!(part, Component::Normal(_))) {
        Ok(())
    } else {
        Err("It must be a path inside the bundle.")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_disk(file: &str) -> VmConfig {
        let mut config = VmConfig::new("test");
        let serial = config.serial_for_disk(0);
        config.disks.push(DiskConfig {
            name: "disk0".to_owned(),
            file: file.into(),
            format: DiskFormat::Raw,
            bus: DiskBus::Ide,
            cache: CacheMode::Writethrough,
            serial,
        });
        config
    }

    #[test]
    fn a_new_machine_is_valid() {
        assert_eq!(with_disk("disks/disk0.raw").validate(), Ok(()));
    }

    #[test]
    fn a_bundle_can_not_name_files_outside_itself() {
        for file in ["/etc/shadow", "../x", "disks/../../x", ""] {
            assert!(with_disk(file).validate().is_err(), "{file}");
        }
    }

    #[test]
    fn formats_are_known_by_their_extensions() {
        for (path, format) in [
            ("a.strata", Some(DiskFormat::Strata)),
            ("a.b/c.IMG", Some(DiskFormat::Raw)),
            ("a.qcow2", Some(DiskFormat::Qcow2)),
            ("a.qcow2/b", None),
            ("vmdk", None),
        ] {
            assert_eq!(DiskFormat::of_extension(Path::new(path)), format, "{path}");
        }
    }

    #[test]
    fn impossible_numbers_are_refused() {
        for memory in [0, 1, (4 << 20) + 1, 1 << 50] {
            let config = VmConfig { memory: Size(memory), ..with_disk("disks/a.raw") };
            assert_eq!(config.validate().unwrap_err().field, "memory");
        }
        for cpus in [0, 33] {
            assert_eq!(VmConfig { cpus, ..with_disk("disks/a.raw") }.validate().unwrap_err().field, "cpus");
        }
    }

    #[test]
    fn ide_has_four_drives() {
        let mut config = with_disk("disks/a.raw");
        for _drive in 0..4 {
            let name = config.free_device_name("cd");
            config.cds.push(CdConfig { name, iso: None });
        }
        assert!(config.validate().is_err());
        config.cds.pop();
        assert_eq!(config.validate(), Ok(()));
    }

    #[test]
    fn serial_numbers_fit_ata() {
        let config = VmConfig::new("x");
        assert_eq!(check_serial(&config.serial_for_disk(3)), Ok(()));
        assert_ne!(config.serial_for_disk(0), config.serial_for_disk(1));
    }
}
