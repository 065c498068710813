//! bzImage, entered in real mode (Linux x86 boot protocol, Documentation/arch/x86/boot.rst, "16-bit boot protocol").

use std::io::{Read, Seek, SeekFrom};

use linux_loader::loader::{BzImage, KernelLoader};
use vm_memory::{GuestAddress, GuestMemoryMmap};

use super::{COMMAND_LINE, Loader, TRAMPOLINE, reading};
use crate::MachineError;

/// Where the real-mode part goes: the boot sector at 1000:0000, the entry one sector on.
const REAL_MODE: u64 = 0x1_0000;
const KERNEL: u64 = 0x10_0000;

/// Offsets of the setup header's fields in the image.
mod header {
    pub const SETUP_SECTS: usize = 0x1f1;
    pub const VERSION: usize = 0x206;
    pub const TYPE_OF_LOADER: usize = 0x210;
    pub const LOADFLAGS: usize = 0x211;
    pub const RAMDISK_IMAGE: usize = 0x218;
    pub const RAMDISK_SIZE: usize = 0x21c;
    pub const HEAP_END_PTR: usize = 0x224;
    pub const CMD_LINE_PTR: usize = 0x228;
    pub const INITRD_ADDR_MAX: usize = 0x22c;
    /// loadflags: the protected-mode part goes to 1 MiB.
    pub const LOADED_HIGH: u8 = 0x01;
    /// loadflags: heap_end_ptr is valid.
    pub const CAN_USE_HEAP: u8 = 0x80;
    /// type_of_loader: none of the assigned ones.
    pub const UNDEFINED_LOADER: u8 = 0xff;
}

pub(super) fn load(loader: &mut Loader, view: &GuestMemoryMmap) -> Result<(), MachineError> {
    let refuse = |why: &str| MachineError::Config(format!("the kernel can not be started: {why}"));
    let kernel = &mut loader.parts.kernel;
    kernel.seek(SeekFrom::Start(0)).map_err(reading)?;
    let mut sector = [0; 512];
    kernel.read_exact(&mut sector).map_err(reading)?;
    let setup_sectors = match sector[header::SETUP_SECTS] {
        0 => 4,
        count => usize::from(count),
    };
    let mut setup = vec![0; (setup_sectors + 1) * 512];
    setup[..512].copy_from_slice(&sector);
    kernel.read_exact(&mut setup[512..]).map_err(reading)?;
    if u64::try_from(setup.len()).is_ok_and(|len| REAL_MODE + len > COMMAND_LINE - 0x1000) {
        return Err(refuse("its real-mode part is too large"));
    }
    let version = u16::from_le_bytes([setup[header::VERSION], setup[header::VERSION + 1]]);
    if version < 0x202 || setup[header::LOADFLAGS] & header::LOADED_HIGH == 0 {
        return Err(refuse("it is too old (boot protocol 2.02 with a high kernel is needed)"));
    }
    kernel.seek(SeekFrom::Start(0)).map_err(reading)?;
    let loaded =
        BzImage::load(view, None, kernel, Some(GuestAddress(KERNEL))).map_err(|error| refuse(&format!("{error}")))?;

    let highest = match version {
        0x203.. => u64::from(u32::from_le_bytes(field(&setup, header::INITRD_ADDR_MAX))),
        _ => 0x37ff_ffff,
    };
    let (initrd, initrd_bytes) = loader.put_initrd(highest, loaded.kernel_end)?;
    let mut put = |at: usize, bytes: &[u8]| setup[at..at + bytes.len()].copy_from_slice(bytes);
    put(header::TYPE_OF_LOADER, &[header::UNDEFINED_LOADER]);
    put(header::RAMDISK_IMAGE, &initrd.to_le_bytes());
    put(header::RAMDISK_SIZE, &initrd_bytes.to_le_bytes());
    put(header::CMD_LINE_PTR, &(COMMAND_LINE as u32).to_le_bytes());
    // The heap may reach up to the stack, both below the command line; the field counts from the segment's start
    // less the boot sector.
    put(header::HEAP_END_PTR, &0xfe00u16.wrapping_sub(0x200).to_le_bytes());
    setup[header::LOADFLAGS] |= header::CAN_USE_HEAP;
    loader.put(REAL_MODE, &setup)?;

    let segment = ((REAL_MODE >> 4) as u16).to_le_bytes();
    let entry = (((REAL_MODE + 0x200) >> 4) as u16).to_le_bytes();
    loader.put(
        TRAMPOLINE,
        &[
            0xfa, // cli
            0xfc, // cld
            0xb8, segment[0], segment[1], // mov ax, segment
            0x8e, 0xd8, // mov ds, ax
            0x8e, 0xc0, // mov es, ax
            0x8e, 0xe0, // mov fs, ax
            0x8e, 0xe8, // mov gs, ax
            0x8e, 0xd0, // mov ss, ax
            0xbc, 0xf0, 0xff, // mov sp, fff0h
            0xea, 0x00, 0x00, entry[0], entry[1], // jmp far segment + 20h:0000
        ],
    )
}

/// Four bytes at `at`. The setup part is at least five sectors long.
fn field(setup: &[u8], at: usize) -> [u8; 4] {
    [setup[at], setup[at + 1], setup[at + 2], setup[at + 3]]
}
