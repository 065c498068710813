//! The table of memory slots.

#![expect(unsafe_code, reason = "tells KVM which of our memory the guest may use")]
// UNSAFETY: KVM is given host addresses. The table keeps the region behind each alive until KVM was told to forget it.

use std::collections::BTreeMap;

use kvm_bindings::{KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY, kvm_userspace_memory_region};
use kvm_ioctls::VmFd;

use super::call;
use crate::{HypervisorError, MemorySlot};

/// What KVM knows.
#[derive(Debug, Default)]
pub(super) struct Slots {
    slots: BTreeMap<u32, MemorySlot>,
}

/// What it takes to get from the slot KVM knows to the one that is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// It is as wanted.
    None,
    /// One call, during which the guest may run.
    InPlace,
    /// The old slot goes first.
    Replace,
}

fn host_address(slot: &MemorySlot) -> u64 {
    slot.region.host_address().wrapping_add(slot.offset_bytes)
}

fn refused(what: &'static str) -> HypervisorError {
    HypervisorError::Call {
        call: "KVM_SET_USER_MEMORY_REGION",
        source: std::io::Error::new(std::io::ErrorKind::InvalidInput, what),
    }
}

impl Slots {
    /// How `wanted` differs from what is there.
    pub fn change(&self, wanted: &MemorySlot) -> Change {
        let Some(now) = self.slots.get(&wanted.slot) else { return Change::InPlace };
        let same_place = now.gpa == wanted.gpa
            && now.len_bytes == wanted.len_bytes
            && host_address(now) == host_address(wanted)
            && now.read_only == wanted.read_only;
        match (same_place, now.log_dirty == wanted.log_dirty) {
            (true, true) => Change::None,
            (true, false) => Change::InPlace,
            (false, _) => Change::Replace,
        }
    }

    /// Length of a slot that has a dirty log.
    pub fn logged_len_bytes(&self, slot: u32) -> Option<u64> {
        self.slots.get(&slot).filter(|slot| slot.log_dirty).map(|slot| slot.len_bytes)
    }

    /// Makes KVM's slot as wanted, whatever the change takes.
    pub fn map(&mut self, vm: &VmFd, wanted: &MemorySlot) -> Result<(), HypervisorError> {
        let end = wanted.offset_bytes.checked_add(wanted.len_bytes);
        if end.is_none_or(|end| end > wanted.region.len() as u64) {
            return Err(refused("the slot is longer than its region"));
        }
        if wanted.len_bytes == 0 || (wanted.gpa | wanted.len_bytes | wanted.offset_bytes) & 0xfff != 0 {
            return Err(refused("the slot is not whole pages"));
        }
        match self.change(wanted) {
            Change::None => return Ok(()),
            Change::InPlace => {}
            Change::Replace => self.unmap(vm, wanted.slot)?,
        }
        let mut flags = 0;
        if wanted.read_only {
            flags |= KVM_MEM_READONLY;
        }
        if wanted.log_dirty {
            flags |= KVM_MEM_LOG_DIRTY_PAGES;
        }
        let region = kvm_userspace_memory_region {
            slot: wanted.slot,
            flags,
            guest_phys_addr: wanted.gpa,
            memory_size: wanted.len_bytes,
            userspace_addr: host_address(wanted),
        };
        // SAFETY: the range was checked to lie in the region, whose clone in the table keeps it mapped until the slot
        // was deleted; guest memory is only ever accessed as volatile.
        unsafe { vm.set_user_memory_region(region) }.map_err(call("KVM_SET_USER_MEMORY_REGION"))?;
        self.slots.insert(wanted.slot, wanted.clone());
        Ok(())
    }

    /// Deletes a slot, if it is there.
    pub fn unmap(&mut self, vm: &VmFd, slot: u32) -> Result<(), HypervisorError> {
        let Some(known) = self.slots.get(&slot) else { return Ok(()) };
        let region =
            kvm_userspace_memory_region { slot, guest_phys_addr: known.gpa, ..kvm_userspace_memory_region::default() };
        // SAFETY: a size of 0 deletes the slot; no memory is given.
        unsafe { vm.set_user_memory_region(region) }.map_err(call("KVM_SET_USER_MEMORY_REGION"))?;
        self.slots.remove(&slot);
        Ok(())
    }

    /// Copies guest memory for a report; shorter where it is not mapped.
    pub fn peek(&self, gpa: u64, len: usize) -> Vec<u8> {
        for slot in self.slots.values() {
            let Some(inside) = gpa.checked_sub(slot.gpa).filter(|inside| *inside < slot.len_bytes) else { continue };
            let len = (slot.len_bytes - inside).min(len as u64) as usize;
            let mut bytes = vec![0; len];
            return match slot.region.read((slot.offset_bytes + inside) as usize, &mut bytes) {
                true => bytes,
                false => Vec::new(),
            };
        }
        Vec::new()
    }
}
