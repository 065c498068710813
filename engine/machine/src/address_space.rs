//! What is plain memory at which guest-physical address: RAM, the PAM area below 1 MiB, firmware, and BARs that are
//! memory (video RAM, expansion ROMs).
//!
//! ```text
//!   0          A0000       C0000 ... 100000            low_top            4G-256K    4G      4G + high
//!   │ RAM ─────│ VGA window │ PAM: RAM | ROM | none │ RAM ──│ BARs … LAPIC │ firmware │ RAM ───│
//! ```

use std::collections::HashMap;
use std::sync::Arc;

use benchtop_devices::pci::host::{PAM_REGIONS, PamMapper, PamState};
use benchtop_devices::{BarKind, BarMapping};
use benchtop_hypervisor::{HypervisorError, MemorySlot, Vm};
use benchtop_memory::{Gpa, GuestMemory, SharedRegion};
use parking_lot::Mutex;

/// RAM above this goes above 4 GiB: SeaBIOS places PCI MMIO from here up.
pub const LOW_RAM_LIMIT: u64 = 0xc000_0000;
const FOUR_GIB: u64 = 1 << 32;
const VGA_WINDOW: u64 = 0xa_0000;
const PAM_START: u64 = 0xc_0000;
const PAM_END: u64 = 0x10_0000;
/// Size of the piece of firmware that shows below 1 MiB.
const SHADOW_BYTES: u64 = 0x2_0000;

/// Slot numbers. PAM regions take 13 from `SLOT_PAM`; BARs are numbered from `SLOT_BARS` on.
const SLOT_RAM_BASE: u32 = 0;
const SLOT_RAM_LOW: u32 = 1;
const SLOT_RAM_HIGH: u32 = 2;
const SLOT_FIRMWARE: u32 = 3;
const SLOT_PAM: u32 = 4;
const SLOT_BARS: u32 = 20;

/// Allocates RAM for a guest: what fits below 3 GiB, the rest above 4 GiB.
///
/// # Errors
/// The host's.
pub fn allocate_ram(memory_bytes: u64) -> std::io::Result<GuestMemory> {
    let low = memory_bytes.min(LOW_RAM_LIMIT);
    match memory_bytes - low {
        0 => GuestMemory::new(&[(0, low)]),
        high => GuestMemory::new(&[(0, low), (FOUR_GIB, high)]),
    }
}

/// What the guest sees in one PAM region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seen {
    /// Neither: accesses exit.
    Nothing,
    /// The firmware image.
    Rom,
    /// RAM that drops writes.
    RamReadOnly,
    /// RAM.
    Ram,
}

struct Maps {
    pam: [PamState; 13],
    seen: [Seen; 13],
    /// Slot of each mapped memory BAR, by (device, BAR).
    bars: HashMap<(usize, u8), u32>,
    free_slots: Vec<u32>,
    next_slot: u32,
}

/// Keeps the hypervisor's memory slots as PAM and BARs say.
pub struct AddressSpace {
    vm: Arc<dyn Vm>,
    memory: GuestMemory,
    firmware: SharedRegion,
    maps: Mutex<Maps>,
}

impl AddressSpace {
    /// Maps RAM and firmware, with PAM as at reset.
    ///
    /// # Errors
    /// What the hypervisor refused.
    pub fn new(vm: Arc<dyn Vm>, memory: GuestMemory, firmware: SharedRegion) -> Result<Self, HypervisorError> {
        let maps = Maps {
            pam: [PamState::default(); 13],
            seen: [Seen::Nothing; 13],
            bars: HashMap::new(),
            free_slots: Vec::new(),
            next_slot: SLOT_BARS,
        };
        let space = Self { vm, memory, firmware, maps: Mutex::new(maps) };
        for (index, ram) in space.memory.regions().iter().enumerate() {
            let len_bytes = ram.region.len() as u64;
            let slot = |slot, offset_bytes, len_bytes| MemorySlot {
                slot,
                gpa: ram.base.0 + offset_bytes,
                region: ram.region.clone(),
                offset_bytes,
                len_bytes,
                read_only: false,
                log_dirty: false,
            };
            if index == 0 {
                space.vm.map(&slot(SLOT_RAM_BASE, 0, VGA_WINDOW))?;
                space.vm.map(&slot(SLOT_RAM_LOW, PAM_END, len_bytes - PAM_END))?;
            } else {
                space.vm.map(&slot(SLOT_RAM_HIGH, 0, len_bytes))?;
            }
        }
        let firmware_bytes = space.firmware.len() as u64;
        space.vm.map(&MemorySlot {
            slot: SLOT_FIRMWARE,
            gpa: FOUR_GIB - firmware_bytes,
            region: space.firmware.clone(),
            offset_bytes: 0,
            len_bytes: firmware_bytes,
            read_only: true,
            log_dirty: false,
        })?;
        space.apply_pam(&[PamState::default(); 13])?;
        Ok(space)
    }

    fn apply_pam(&self, pam: &[PamState; 13]) -> Result<(), HypervisorError> {
        let mut maps = self.maps.lock();
        maps.pam = *pam;
        let wanted: [Seen; 13] = std::array::from_fn(|index| self.seen(index, pam[index]));
        for index in (0..13).filter(|&index| maps.seen[index] != wanted[index]).collect::<Vec<_>>() {
            match self.pam_slot(index, wanted[index]) {
                Some(slot) => self.vm.map(&slot)?,
                None => self.vm.unmap(SLOT_PAM + index as u32)?,
            }
            maps.seen[index] = wanted[index];
        }
        Ok(())
    }

    fn seen(&self, index: usize, pam: PamState) -> Seen {
        let (start, len_bytes) = PAM_REGIONS[index];
        match (pam.read_ram, pam.write_ram) {
            (true, true) => Seen::Ram,
            (true, false) => Seen::RamReadOnly,
            (false, _) if self.shadow_offset(start, len_bytes).is_some() => Seen::Rom,
            (false, _) => Seen::Nothing,
        }
    }

    /// Where in the firmware image the range's pristine content is.
    fn shadow_offset(&self, start: u64, len_bytes: u64) -> Option<u64> {
        let firmware_bytes = self.firmware.len() as u64;
        let shadow_bytes = SHADOW_BYTES.min(firmware_bytes);
        let from_end = PAM_END - start;
        (from_end <= shadow_bytes && len_bytes <= from_end).then(|| firmware_bytes - from_end)
    }

    fn pam_slot(&self, index: usize, seen: Seen) -> Option<MemorySlot> {
        let (gpa, len_bytes) = PAM_REGIONS[index];
        let (region, offset_bytes) = match seen {
            Seen::Nothing => return None,
            Seen::Rom => (self.firmware.clone(), self.shadow_offset(gpa, len_bytes)?),
            Seen::Ram | Seen::RamReadOnly => (self.memory.regions().first()?.region.clone(), gpa),
        };
        let read_only = seen != Seen::Ram;
        Some(MemorySlot {
            slot: SLOT_PAM + index as u32,
            gpa,
            region,
            offset_bytes,
            len_bytes,
            read_only,
            log_dirty: false,
        })
    }

    /// Serves a load that exited although it may be memory: a PAM region between two mappings.
    pub fn read_unmapped(&self, gpa: u64, data: &mut [u8]) -> bool {
        let Some(index) = pam_index(gpa) else { return false };
        let pam = self.maps.lock().pam[index];
        pam.read_ram && self.memory.read(Gpa(gpa), data).is_ok()
    }

    /// Serves a store that exited: writes under a ROM reach RAM where PAM says so. True where it was in the PAM area,
    /// whether or not anything was written.
    pub fn write_unmapped(&self, gpa: u64, data: &[u8]) -> bool {
        let Some(index) = pam_index(gpa) else { return false };
        let pam = self.maps.lock().pam[index];
        if pam.write_ram {
            // The PAM area is RAM underneath, so this fails only where an access straddles its end; that is dropped.
            let _straddles = self.memory.write(Gpa(gpa), data);
        }
        true
    }

    /// A memory BAR of device `id` now decodes.
    ///
    /// # Errors
    /// What the hypervisor refused, such as a slot over another: the BAR is then not visible.
    pub fn map_bar(&self, id: usize, bar: &BarMapping) -> Result<(), HypervisorError> {
        let BarKind::Memory { region, read_only } = &bar.kind else { return Ok(()) };
        let mut maps = self.maps.lock();
        let slot = match maps.free_slots.pop() {
            Some(slot) => slot,
            None => {
                maps.next_slot += 1;
                maps.next_slot - 1
            }
        };
        let result = self.vm.map(&MemorySlot {
            slot,
            gpa: bar.base,
            region: region.clone(),
            offset_bytes: 0,
            len_bytes: bar.len_bytes,
            read_only: *read_only,
            log_dirty: false,
        });
        match result {
            Ok(()) => drop(maps.bars.insert((id, bar.index), slot)),
            Err(_) => maps.free_slots.push(slot),
        }
        result
    }

    /// A memory BAR no longer decodes.
    pub fn unmap_bar(&self, id: usize, bar: &BarMapping) {
        let mut maps = self.maps.lock();
        if let Some(slot) = maps.bars.remove(&(id, bar.index)) {
            if let Err(error) = self.vm.unmap(slot) {
                tracing::error!(%error, "a BAR could not be unmapped");
            }
            maps.free_slots.push(slot);
        }
    }
}

impl PamMapper for AddressSpace {
    fn pam_changed(&self, pam: &[PamState; 13]) {
        if let Err(error) = self.apply_pam(pam) {
            tracing::error!(%error, "memory below 1 MiB could not be remapped");
        }
    }
}

fn pam_index(gpa: u64) -> Option<usize> {
    match gpa {
        0xf_0000..PAM_END => Some(0),
        PAM_START..0xf_0000 => Some(1 + ((gpa - PAM_START) / 0x4000) as usize),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_address_of_the_pam_area_has_its_region() {
        for (index, (start, len_bytes)) in PAM_REGIONS.into_iter().enumerate() {
            assert_eq!(pam_index(start), Some(index));
            assert_eq!(pam_index(start + len_bytes - 1), Some(index));
        }
        assert_eq!(pam_index(PAM_END), None);
        assert_eq!(pam_index(PAM_START - 1), None);
    }
}
