//! Starting a kernel without a boot loader: bzImage by the Linux boot protocol, uncompressed ELF by PVH.
//!
//! The firmware starts as always, so the kernel finds ACPI tables, PCI set up and a text screen. Its first boot entry
//! is an expansion ROM of ours ([`rom()`]) that writes one port. That write loads kernel, initrd and command line into
//! guest memory ([`Loader`]), together with a trampoline in the way the image wants to be entered, and the ROM jumps
//! to it. A reset goes the same way again, which is why nothing is loaded beforehand.
//!
//! ```text
//!   10000  real-mode part (bzImage)        20000  command line
//!   22000  PVH start info, map             23000  trampoline
//!   100000 kernel …                        …initrd ends 1 MiB below the top of low RAM
//! ```

mod bzimage;
mod pvh;
mod rom;

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};

use benchtop_devices::{Device, PortIo, RestoreError, SavedState};
use benchtop_memory::{Gpa, GuestMemory};
use vm_memory::{FileOffset, GuestAddress, GuestMemoryMmap};

use crate::{DirectKernel, MachineError};

pub use rom::{FILE_NAME, ROM_NAME, rom};

/// The port whose write loads the kernel. Nothing else of the PC is near it.
pub const DOORBELL_PORT: u16 = 0x640;

const COMMAND_LINE: u64 = 0x2_0000;
/// The kernel's own limit is lower and read from its header where it says so.
const COMMAND_LINE_LIMIT: usize = 0x1000;
const TRAMPOLINE: u64 = 0x2_3000;
/// Left free above the initrd: the firmware keeps its tables at the top of low RAM.
const FIRMWARE_RESERVE: u64 = 1 << 20;

/// Which protocol an image speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocol {
    BzImage,
    Pvh,
}

/// The device behind the doorbell port.
pub struct Loader {
    memory: GuestMemory,
    parts: DirectKernel,
    protocol: Protocol,
}

impl Loader {
    /// Looks at the image, so that a wrong file is refused before the machine starts.
    ///
    /// # Errors
    /// [`MachineError::Config`] for what is no kernel or too large, [`MachineError::Host`] where a file can not be read.
    pub fn new(memory: GuestMemory, mut parts: DirectKernel) -> Result<Self, MachineError> {
        let mut head = [0; 0x210];
        parts.kernel.seek(SeekFrom::Start(0)).map_err(reading)?;
        let protocol = match parts.kernel.read_exact(&mut head) {
            Ok(()) if head[0x202..0x206] == *b"HdrS" => Protocol::BzImage,
            Ok(()) if head[..4] == *b"\x7fELF" => Protocol::Pvh,
            Ok(()) => {
                return Err(MachineError::Config(
                    "the kernel file is neither a bzImage nor an ELF with a PVH entry".into(),
                ));
            }
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
                return Err(MachineError::Config("the kernel file is too short to be a kernel".into()));
            }
            Err(error) => return Err(reading(error)),
        };
        if parts.command_line.len() >= COMMAND_LINE_LIMIT || parts.command_line.contains('\0') {
            return Err(MachineError::Config(format!(
                "the kernel command line must be below {COMMAND_LINE_LIMIT} bytes"
            )));
        }
        let mut loader = Self { memory, parts, protocol };
        // A trial run finds every other fault now; the guest's memory is empty still.
        loader.load()?;
        Ok(loader)
    }

    fn load(&mut self) -> Result<(), MachineError> {
        let view = self.view()?;
        let mut command_line = self.parts.command_line.clone().into_bytes();
        command_line.push(0);
        self.put(COMMAND_LINE, &command_line)?;
        match self.protocol {
            Protocol::BzImage => bzimage::load(self, &view),
            Protocol::Pvh => pvh::load(self, &view),
        }
    }

    /// Guest memory in the shape `linux-loader` takes: the same pages mapped once more, for the length of a load.
    fn view(&self) -> Result<GuestMemoryMmap, MachineError> {
        let mut ranges = Vec::new();
        for ram in self.memory.regions() {
            let file = ram.region.file().map(File::try_clone).transpose().map_err(reading)?;
            ranges.push((GuestAddress(ram.base.0), ram.region.len(), file.map(|file| FileOffset::new(file, 0))));
        }
        GuestMemoryMmap::from_ranges_with_files(ranges)
            .map_err(|error| MachineError::Config(format!("guest memory can not be mapped for loading: {error}")))
    }

    fn put(&self, gpa: u64, data: &[u8]) -> Result<(), MachineError> {
        self.memory
            .write(Gpa(gpa), data)
            .map_err(|error| MachineError::Config(format!("the kernel does not fit the memory: {error}")))
    }

    /// Loads the initrd as high as `highest` and the machine allow. Returns its address and length, zeroes for none.
    fn put_initrd(&mut self, highest: u64, kernel_end: u64) -> Result<(u32, u32), MachineError> {
        let Some(initrd) = &mut self.parts.initrd else { return Ok((0, 0)) };
        let low_top = self.memory.regions().first().map_or(0, |ram| ram.region.len() as u64);
        let top = low_top.saturating_sub(FIRMWARE_RESERVE).min(highest.saturating_add(1));
        let len_bytes = initrd.metadata().map_err(reading)?.len();
        let start = top.checked_sub(len_bytes).map(|start| start & !0xfff).filter(|&start| start >= kernel_end);
        let (Some(start), Ok(len)) = (start, u32::try_from(len_bytes)) else {
            return Err(MachineError::Config("the initrd does not fit the memory: give the VM more".into()));
        };
        initrd.seek(SeekFrom::Start(0)).map_err(reading)?;
        let mut chunk = vec![0; 1 << 20];
        let mut done = 0;
        while done < len_bytes {
            let want = (len_bytes - done).min(chunk.len() as u64) as usize;
            initrd.read_exact(&mut chunk[..want]).map_err(reading)?;
            self.memory
                .write(Gpa(start + done), &chunk[..want])
                .map_err(|error| MachineError::Config(format!("the initrd does not fit the memory: {error}")))?;
            done += want as u64;
        }
        let start = u32::try_from(start)
            .map_err(|_above| MachineError::Config("the initrd does not fit below 4 GiB".into()))?;
        Ok((start, len))
    }
}

impl Device for Loader {
    fn reset(&mut self) {}

    fn save(&self) -> SavedState {
        SavedState::encode("kernel-loader", 1, &())
    }

    fn restore(&mut self, state: &SavedState) -> Result<(), RestoreError> {
        state.decode("kernel-loader", 1)
    }

    fn port_io(&mut self) -> Option<&mut dyn PortIo> {
        Some(self)
    }
}

impl PortIo for Loader {
    fn port_read(&mut self, _port: u16, _data: &mut [u8]) {}

    fn port_write(&mut self, _port: u16, _data: &[u8]) {
        if let Err(error) = self.load() {
            // The files changed under the VM. The trampoline may be stale; the guest's loss, as with a bad disk.
            tracing::warn!(%error, "the kernel could not be loaded again");
        }
    }
}

fn reading(source: std::io::Error) -> MachineError {
    MachineError::Host { what: "reading the kernel or initrd", source }
}
