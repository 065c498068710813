//! Writes that KVM gathered without an exit: a ring of one page, shared by all vCPUs of a VM.

#![expect(unsafe_code, reason = "the ring is a page shared with the kernel")]
// UNSAFETY: the kernel writes entries and `last`, we write `first`; both indices are read and written as atomics and
// an entry is copied out only while it is ours (between `first` and `last`).

use std::cell::Cell;
use std::os::fd::AsRawFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

use kvm_bindings::{KVM_COALESCED_MMIO_PAGE_OFFSET, kvm_coalesced_mmio, kvm_coalesced_mmio_ring};
use parking_lot::ReentrantMutex;

use crate::{CpuIo, HypervisorError};

const PAGE_BYTES: usize = 4096;
/// Entries the page holds.
const CAPACITY: u32 = ((PAGE_BYTES - size_of::<kvm_coalesced_mmio_ring>()) / size_of::<kvm_coalesced_mmio>()) as u32;

/// The ring, mapped through one of the vCPUs.
#[derive(Debug)]
pub(super) struct CoalescedRing {
    page: NonNull<kvm_coalesced_mmio_ring>,
    /// Held while entries are delivered, so that they arrive in order whoever delivers them. Inside: whether the
    /// holder is delivering, for a drain called from a device that is being delivered to.
    delivery: ReentrantMutex<Cell<bool>>,
}

// SAFETY: the page is used only under `delivery`, but for the indices, which are atomics.
unsafe impl Send for CoalescedRing {}
// SAFETY: as above.
unsafe impl Sync for CoalescedRing {}

impl CoalescedRing {
    pub fn new(vcpu: &impl AsRawFd) -> Result<Self, HypervisorError> {
        let offset = i64::from(KVM_COALESCED_MMIO_PAGE_OFFSET) * PAGE_BYTES as i64;
        // SAFETY: a new shared mapping at an address the kernel chooses. KVM has the ring's page at this offset of a
        // vCPU when it has the capability, which the caller checked; otherwise the call fails.
        let address = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                PAGE_BYTES,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                vcpu.as_raw_fd(),
                offset,
            )
        };
        let page = NonNull::new(address.cast::<kvm_coalesced_mmio_ring>())
            .filter(|_| address != libc::MAP_FAILED)
            .ok_or_else(|| HypervisorError::Call { call: "mmap", source: std::io::Error::last_os_error() })?;
        Ok(Self { page, delivery: ReentrantMutex::new(Cell::new(false)) })
    }

    fn first(&self) -> &AtomicU32 {
        // SAFETY: the first word of the mapping, aligned, alive as long as self.
        unsafe { AtomicU32::from_ptr(&raw mut (*self.page.as_ptr()).first) }
    }

    fn last(&self) -> &AtomicU32 {
        // SAFETY: the second word of the mapping, aligned, alive as long as self.
        unsafe { AtomicU32::from_ptr(&raw mut (*self.page.as_ptr()).last) }
    }

    /// An index is given back only when its entry was delivered, so an empty ring says that all were.
    fn is_empty(&self) -> bool {
        self.first().load(Ordering::Acquire) == self.last().load(Ordering::Acquire)
    }

    /// Delivers what is in the ring, at most as much as a full ring: what comes in meanwhile is younger than the call.
    pub fn drain(&self, io: &dyn CpuIo) {
        if self.is_empty() {
            return;
        }
        let delivering = self.delivery.lock();
        if delivering.replace(true) {
            return;
        }
        let _done = Done(&delivering);
        let last = self.last().load(Ordering::Acquire) % CAPACITY;
        let mut first = self.first().load(Ordering::Relaxed) % CAPACITY;
        while first != last {
            // SAFETY: first < CAPACITY, so the entry lies in the page; the kernel does not write it before `first`
            // moved past it.
            let entry = unsafe {
                (&raw const (*self.page.as_ptr()).coalesced_mmio)
                    .cast::<kvm_coalesced_mmio>()
                    .add(first as usize)
                    .read()
            };
            let data = entry.data.get(..entry.len as usize).unwrap_or(&entry.data);
            // SAFETY: both members of the union are a u32.
            let is_port = unsafe { entry.__bindgen_anon_1.pio } != 0;
            if is_port {
                io.coalesced_port_write(entry.phys_addr as u16, data);
            } else {
                io.coalesced_mmio_write(entry.phys_addr, data);
            }
            first = (first + 1) % CAPACITY;
            self.first().store(first, Ordering::Release);
        }
    }
}

/// Ends the delivery, also where a device panics: the next drain would find it going on for ever.
struct Done<'a>(&'a Cell<bool>);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.set(false);
    }
}

impl Drop for CoalescedRing {
    fn drop(&mut self) {
        // SAFETY: mapped in `new` with this length; nothing else points into it.
        unsafe { libc::munmap(self.page.as_ptr().cast(), PAGE_BYTES) };
    }
}
