//! What a machine is put together from: everything is open already, so that nothing needs a path.

use std::fs::File;
use std::sync::Arc;

use benchtop_block::Disk;
use benchtop_control::config::{BootFrom, DiskBus};
use uuid::Uuid;

use crate::MachineEvent;

/// Firmware images.
#[derive(Clone, Debug)]
pub struct Firmware {
    /// SeaBIOS (`bios-256k.bin`).
    pub bios: Vec<u8>,
    /// Its VGA BIOS (`vgabios-stdvga.bin`).
    pub vga_bios: Vec<u8>,
}

/// A kernel started without a boot loader.
#[derive(Debug)]
pub struct DirectKernel {
    /// bzImage or PVH ELF.
    pub kernel: File,
    /// Initial RAM disk.
    pub initrd: Option<File>,
    /// Command line.
    pub command_line: String,
}

/// A hard disk.
#[derive(Debug)]
pub struct DiskPart {
    /// `disk0`, ….
    pub name: String,
    /// Controller.
    pub bus: DiskBus,
    /// The open disk.
    pub disk: Disk,
    /// Serial number the guest reads, at most 20 printable ASCII characters.
    pub serial: String,
}

/// A CD-ROM drive.
#[derive(Debug)]
pub struct CdPart {
    /// `cd0`, ….
    pub name: String,
    /// The disc in it.
    pub medium: Option<Disk>,
}

/// A whole machine.
pub struct MachineParts {
    /// Identity (SMBIOS).
    pub uuid: Uuid,
    /// RAM, a multiple of 1 MiB.
    pub memory_bytes: u64,
    /// vCPUs, at least 1.
    pub cpus: u32,
    /// CPUID model, as the bundle records it.
    pub cpu_model: String,
    /// Boot order.
    pub boot: BootFrom,
    /// Firmware.
    pub firmware: Firmware,
    /// Kernel to start instead of booting a disk.
    pub direct_kernel: Option<DirectKernel>,
    /// Hard disks, at most 4 on IDE less the CD-ROMs.
    pub disks: Vec<DiskPart>,
    /// CD-ROM drives.
    pub cds: Vec<CdPart>,
    /// Power off where the guest asks for a reset.
    pub no_reboot: bool,
    /// Told of what happens, on the machine's threads; must not block or call back.
    pub on_event: Arc<dyn Fn(MachineEvent) + Send + Sync>,
}
