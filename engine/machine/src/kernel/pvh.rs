//! ELF with a PVH entry point (Xen's docs/misc/pvh.pandoc and public/arch-x86/hvm/start_info.h): entered in flat
//! 32-bit protected mode with paging off and EBX pointing at the start info.

use benchtop_memory::Gpa;
use linux_loader::loader::KernelLoader;
use linux_loader::loader::elf::{Elf, PvhBootCapability};
use vm_memory::{GuestAddress, GuestMemoryMmap};

use super::{COMMAND_LINE, Loader, TRAMPOLINE};
use crate::MachineError;

const START_INFO: u64 = 0x2_2000;
const MODULE_LIST: u64 = 0x2_2100;
const MEMORY_MAP: u64 = 0x2_2200;
/// `hvm_start_info.magic`, "xEn3" with the top bit set.
const MAGIC: u32 = 0x336e_c578;
const RAM: u32 = 1;
const RESERVED: u32 = 2;

pub(super) fn load(loader: &mut Loader, view: &GuestMemoryMmap) -> Result<(), MachineError> {
    let refuse = |why: String| MachineError::Config(format!("the kernel can not be started: {why}"));
    let loaded = Elf::load(view, None, &mut loader.parts.kernel, Some(GuestAddress(0x10_0000)))
        .map_err(|error| refuse(error.to_string()))?;
    let PvhBootCapability::PvhEntryPresent(entry) = loaded.pvh_boot_cap else {
        return Err(refuse("it is an ELF without a PVH entry".into()));
    };
    let entry = u32::try_from(entry.0).map_err(|_above| refuse("its PVH entry is above 4 GiB".into()))?;
    let (initrd, initrd_bytes) = loader.put_initrd(u64::from(u32::MAX), loaded.kernel_end)?;

    let mut map = Vec::new();
    let mut entries = 0u32;
    let mut add = |base: u64, len_bytes: u64, kind: u32| {
        map.extend_from_slice(&base.to_le_bytes());
        map.extend_from_slice(&len_bytes.to_le_bytes());
        map.extend_from_slice(&kind.to_le_bytes());
        map.extend_from_slice(&[0; 4]);
        entries += 1;
    };
    for ram in loader.memory.regions() {
        let len_bytes = ram.region.len() as u64;
        if ram.base.0 == 0 {
            add(0, 0x9_fc00, RAM);
            add(0x9_fc00, 0x400, RESERVED);
            add(0xf_0000, 0x1_0000, RESERVED);
            add(0x10_0000, len_bytes - 0x10_0000 - super::FIRMWARE_RESERVE, RAM);
            add(len_bytes - super::FIRMWARE_RESERVE, super::FIRMWARE_RESERVE, RESERVED);
        } else {
            add(ram.base.0, len_bytes, RAM);
        }
    }
    loader.put(MEMORY_MAP, &map)?;

    let mut module = Vec::new();
    for value in [u64::from(initrd), u64::from(initrd_bytes), 0, 0] {
        module.extend_from_slice(&value.to_le_bytes());
    }
    loader.put(MODULE_LIST, &module)?;

    let modules = u32::from(initrd_bytes != 0);
    let mut info = Vec::new();
    for value in [MAGIC, 1, 0, modules] {
        info.extend_from_slice(&value.to_le_bytes());
    }
    for value in [if modules == 0 { 0 } else { MODULE_LIST }, COMMAND_LINE, rsdp(loader), MEMORY_MAP] {
        info.extend_from_slice(&value.to_le_bytes());
    }
    info.extend_from_slice(&entries.to_le_bytes());
    info.extend_from_slice(&[0; 4]);
    loader.put(START_INFO, &info)?;
    loader.put(TRAMPOLINE, &trampoline(entry))
}

/// Where the firmware put the ACPI root pointer: on a 16-byte boundary below 1 MiB (ACPI 6.5 §5.2.5.1), or 0.
fn rsdp(loader: &Loader) -> u64 {
    (0xe_0000..0x10_0000)
        .step_by(16)
        .find(|&gpa| loader.memory.read_array::<8>(Gpa(gpa)).is_ok_and(|bytes| bytes == *b"RSD PTR "))
        .unwrap_or(0)
}

/// Real mode to flat protected mode, then the kernel.
fn trampoline(entry: u32) -> Vec<u8> {
    /// Offsets within the trampoline.
    const PROTECTED: u32 = 0x20;
    const GDT: u32 = 0x60;
    const GDT_POINTER: u32 = 0x78;
    let base = TRAMPOLINE as u32;
    let mut code = vec![0x90; 0x80];
    let mut put = |at: u32, bytes: &[u8]| code[at as usize..at as usize + bytes.len()].copy_from_slice(bytes);
    let pointer = (GDT_POINTER as u16).to_le_bytes();
    put(
        0,
        &[
            0xfa, // cli
            0xfc, // cld
            0x2e, 0x66, 0x0f, 0x01, 0x16, pointer[0], pointer[1], // lgdt cs:[GDT_POINTER] (32-bit base)
            0x0f, 0x20, 0xc0, // mov eax, cr0
            0x0c, 0x01, // or al, 1
            0x0f, 0x22, 0xc0, // mov cr0, eax
            0x66, 0xea, // jmp far 0008:PROTECTED
        ],
    );
    put(19, &(base + PROTECTED).to_le_bytes());
    put(23, &[0x08, 0x00]);
    put(
        PROTECTED,
        &[
            0x66, 0xb8, 0x10, 0x00, // mov ax, 0010h
            0x8e, 0xd8, // mov ds, ax
            0x8e, 0xc0, // mov es, ax
            0x8e, 0xe0, // mov fs, ax
            0x8e, 0xe8, // mov gs, ax
            0x8e, 0xd0, // mov ss, ax
            0xbb, // mov ebx, start info
        ],
    );
    put(PROTECTED + 15, &(START_INFO as u32).to_le_bytes());
    put(PROTECTED + 19, &[0xb8]); // mov eax, entry
    put(PROTECTED + 20, &entry.to_le_bytes());
    put(PROTECTED + 24, &[0xff, 0xe0]); // jmp eax
    put(GDT + 8, &[0xff, 0xff, 0, 0, 0, 0x9b, 0xcf, 0]);
    put(GDT + 16, &[0xff, 0xff, 0, 0, 0, 0x93, 0xcf, 0]);
    put(GDT_POINTER, &23u16.to_le_bytes());
    put(GDT_POINTER + 2, &(base + GDT).to_le_bytes());
    code
}
