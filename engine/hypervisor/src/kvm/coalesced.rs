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

#[cfg(test)]
mod tests {
    use std::io::{Seek, SeekFrom, Write};
    use std::os::unix::fs::FileExt;

    use benchtop_memory::SharedRegion;
    use parking_lot::Mutex;

    use super::*;
    use crate::BackdoorRegisters;

    const RING_AT: u64 = KVM_COALESCED_MMIO_PAGE_OFFSET as u64 * PAGE_BYTES as u64;

    type During<'a> = Box<dyn Fn() + Sync + 'a>;

    struct Board<'a> {
        got: Mutex<Vec<u64>>,
        during: During<'a>,
    }

    impl CpuIo for Board<'_> {
        fn port_read(&self, _: u16, _: usize, _: &mut [u8]) {}
        fn port_write(&self, _: u16, _: usize, _: &[u8]) {}
        fn mmio_read(&self, _: u64, _: &mut [u8]) {}
        fn mmio_write(&self, _: u64, _: &[u8]) {}
        fn coalesced_port_write(&self, port: u16, data: &[u8]) {
            assert_eq!(data.len(), 8);
            self.coalesced_mmio_write(port.into(), data);
        }
        fn coalesced_mmio_write(&self, gpa: u64, _: &[u8]) {
            (self.during)();
            self.got.lock().push(gpa);
        }
        fn backdoor_port(&self) -> Option<u16> {
            None
        }
        fn backdoor(&self, _: &mut BackdoorRegisters) {}
        fn pic_pending(&self) -> bool {
            false
        }
        fn pic_acknowledge(&self) -> Option<u8> {
            None
        }
        fn ioapic_eoi(&self, _: u8) {}
    }

    /// A vCPU's file as far as the ring is concerned.
    fn fake_vcpu() -> SharedRegion {
        SharedRegion::new("ring", RING_AT + PAGE_BYTES as u64).unwrap()
    }

    /// What the kernel does: puts entries at `last`.
    fn fill(vcpu: &SharedRegion, first: u32, addresses: std::ops::Range<u64>) {
        let mut file = vcpu.file().unwrap();
        let mut last = first;
        for address in addresses {
            file.seek(SeekFrom::Start(RING_AT + 8 + 24 * u64::from(last))).unwrap();
            // Length 9 is more than an entry holds: never read past it.
            let parts: [&[u8]; 4] =
                [&address.to_le_bytes(), &9u32.to_le_bytes(), &((address & 1) as u32).to_le_bytes(), &[0; 8]];
            file.write_all(&parts.concat()).unwrap();
            last = (last + 1) % CAPACITY;
        }
        file.write_at(&first.to_le_bytes(), RING_AT).unwrap();
        file.write_at(&last.to_le_bytes(), RING_AT + 4).unwrap();
    }

    #[test]
    fn entries_arrive_once_and_in_order_whoever_drains() {
        let vcpu = fake_vcpu();
        let ring = CoalescedRing::new(vcpu.file().unwrap()).unwrap();
        // From near the end, so that the ring wraps.
        fill(&vcpu, CAPACITY - 5, 0..u64::from(CAPACITY) - 1);
        let board = Board { got: Mutex::default(), during: Box::new(std::thread::yield_now) };
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    ring.drain(&board);
                    // Whoever comes back finds all delivered.
                    assert_eq!(board.got.lock().len() as u32, CAPACITY - 1);
                });
            }
        });
        assert_eq!(*board.got.lock(), (0..u64::from(CAPACITY) - 1).collect::<Vec<_>>());
    }

    #[test]
    fn a_drain_within_a_delivery_leaves_the_rest_to_the_outer_one() {
        let vcpu = fake_vcpu();
        let ring = CoalescedRing::new(vcpu.file().unwrap()).unwrap();
        fill(&vcpu, 0, 10..20);
        let inner = Board { got: Mutex::default(), during: Box::new(|| ()) };
        let board = Board { got: Mutex::default(), during: Box::new(|| ring.drain(&inner)) };
        ring.drain(&board);
        assert_eq!(*board.got.lock(), (10..20).collect::<Vec<_>>());
        assert!(inner.got.lock().is_empty());
    }

    #[test]
    fn a_panicking_device_does_not_stop_the_ring() {
        let vcpu = fake_vcpu();
        let ring = CoalescedRing::new(vcpu.file().unwrap()).unwrap();
        fill(&vcpu, 0, 10..12);
        let broken = Board { got: Mutex::default(), during: Box::new(|| panic!("a device panics")) };
        let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| ring.drain(&broken)));
        assert!(caught.is_err());
        let board = Board { got: Mutex::default(), during: Box::new(|| ()) };
        ring.drain(&board);
        assert_eq!(*board.got.lock(), [10, 11]);
    }
}
