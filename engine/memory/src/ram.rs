//! The guest's RAM: where it is, and bounds-checked copies in and out.

use std::sync::Arc;

use vm_memory::VolatileSlice;

use crate::{Gpa, SharedRegion};

/// An access touched an address that is not RAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("guest-physical range {gpa} + {len_bytes:#x} is not all RAM")]
pub struct OutOfRam {
    /// Start of the refused range.
    pub gpa: Gpa,
    /// Its length in bytes.
    pub len_bytes: u64,
}

/// One run of RAM: `region` appears to the guest at `base`.
#[derive(Clone, Debug)]
pub struct RamRegion {
    /// First guest-physical address, a multiple of 4096.
    pub base: Gpa,
    /// The memory.
    pub region: SharedRegion,
}

impl RamRegion {
    fn end(&self) -> u64 {
        self.base.0 + self.region.len() as u64
    }
}

/// All the RAM of one guest. Cheap to clone; all clones are the same memory.
#[derive(Clone, Debug)]
pub struct GuestMemory {
    regions: Arc<[RamRegion]>,
}

impl GuestMemory {
    /// RAM of the given `(base, length in bytes)` runs.
    ///
    /// # Errors
    /// The host's, or `InvalidInput` where runs overlap, are empty, or are not page aligned.
    pub fn new(layout: &[(u64, u64)]) -> std::io::Result<Self> {
        let mut sorted = layout.to_vec();
        sorted.sort_unstable();
        let mut end = 0;
        let mut regions = Vec::with_capacity(sorted.len());
        for (base, len_bytes) in sorted {
            let next = base.checked_add(len_bytes).ok_or(std::io::ErrorKind::InvalidInput)?;
            if base < end || len_bytes == 0 || (base | len_bytes) & 0xfff != 0 {
                return Err(std::io::ErrorKind::InvalidInput.into());
            }
            end = next;
            regions.push(RamRegion { base: Gpa(base), region: SharedRegion::new("benchtop-ram", len_bytes)? });
        }
        Ok(Self { regions: regions.into() })
    }

    /// The runs, in ascending order.
    pub fn regions(&self) -> &[RamRegion] {
        &self.regions
    }

    /// Bytes of RAM in all.
    pub fn total_bytes(&self) -> u64 {
        self.regions.iter().map(|ram| ram.region.len() as u64).sum()
    }

    /// The `len_bytes` at `gpa` as one slice.
    ///
    /// # Errors
    /// [`OutOfRam`] unless all of it lies in one run of RAM.
    pub fn slice(&self, gpa: Gpa, len_bytes: u64) -> Result<VolatileSlice<'_>, OutOfRam> {
        let refused = OutOfRam { gpa, len_bytes };
        let end = gpa.0.checked_add(len_bytes).ok_or(refused)?;
        let ram =
            self.regions.iter().find(|ram| ram.base <= gpa && gpa.0 < ram.end() && end <= ram.end()).ok_or(refused)?;
        // Both fit in usize: the region does.
        ram.region.slice((gpa.0 - ram.base.0) as usize, len_bytes as usize).ok_or(refused)
    }

    /// Whether all of the range is RAM.
    pub fn contains(&self, gpa: Gpa, len_bytes: u64) -> bool {
        self.slice(gpa, len_bytes).is_ok()
    }

    /// Copies guest memory into `out`: the one read of a control structure.
    ///
    /// # Errors
    /// [`OutOfRam`]; `out` is then untouched.
    pub fn read(&self, gpa: Gpa, out: &mut [u8]) -> Result<(), OutOfRam> {
        self.slice(gpa, out.len() as u64)?.copy_to(out);
        Ok(())
    }

    /// Copies `data` into guest memory.
    ///
    /// # Errors
    /// [`OutOfRam`]; nothing is then written.
    pub fn write(&self, gpa: Gpa, data: &[u8]) -> Result<(), OutOfRam> {
        self.slice(gpa, data.len() as u64)?.copy_from(data);
        Ok(())
    }

    /// Reads `N` bytes, for `u32::from_le_bytes` and its like.
    ///
    /// # Errors
    /// [`OutOfRam`].
    pub fn read_array<const N: usize>(&self, gpa: Gpa) -> Result<[u8; N], OutOfRam> {
        let mut out = [0; N];
        self.read(gpa, &mut out)?;
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_outside_ram_are_refused() {
        let memory = GuestMemory::new(&[(0, 0x2000), (0x10_0000, 0x1000)]).unwrap();
        for (gpa, len) in
            [(0x1fff, 2), (0x2000, 1), (0x10_0000, 0x1001), (u64::MAX, 1), (u64::MAX, u64::MAX), (0x2000, 0)]
        {
            assert!(memory.slice(Gpa(gpa), len).is_err(), "{gpa:#x}+{len:#x}");
        }
        memory.write(Gpa(0x1ffe), &[1, 2]).unwrap();
        assert_eq!(memory.read_array(Gpa(0x1ffe)), Ok([1, 2]));
        assert_eq!(memory.total_bytes(), 0x3000);
    }

    #[test]
    fn overlapping_runs_are_refused() {
        assert!(GuestMemory::new(&[(0, 0x2000), (0x1000, 0x1000)]).is_err());
        assert!(GuestMemory::new(&[(0, 0)]).is_err());
        assert!(GuestMemory::new(&[(0x800, 0x1000)]).is_err());
    }
}
