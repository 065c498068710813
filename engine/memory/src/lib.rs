//! Guest memory: the RAM a guest sees, memory that belongs to a device (video RAM, firmware), and the scatter lists
//! that requests carry.
//!
//! ```text
//!   device ── Gpa, length ──▶ GuestMemory::read / write          control structures, copied once
//!          └─ Gpa, length ──▶ ScatterList ─▶ IoBuffer ─▶ disk    data, moved without a copy
//! ```
//!
//! It is *not* the guest's address map: what answers at an address that is not RAM (ROM, device registers) is the
//! bus's business. A DMA address outside RAM is an error here and is never sent to a device, so a device can not be
//! made to call itself (malicious-guest rule P3).
//!
//! Errors: [`OutOfRam`] names the first address that is not RAM. Nothing here panics on a guest's numbers.
//!
//! Threading: everything is `Send + Sync`. The guest may change memory at any time, so all access goes through
//! volatile slices, and a control structure must be read once into a host value and judged there (rule P2).

mod buffer;
mod ram;
mod region;

pub use buffer::{IoBuffer, ScatterList};
pub use ram::{GuestMemory, OutOfRam, RamRegion};
pub use region::SharedRegion;
pub use vm_memory::VolatileSlice;

/// A guest-physical address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Gpa(pub u64);

impl Gpa {
    /// The address `offset_bytes` further on, or `None` where that passes 2^64.
    pub fn checked_add(self, offset_bytes: u64) -> Option<Self> {
        self.0.checked_add(offset_bytes).map(Self)
    }
}

impl std::fmt::Display for Gpa {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}
