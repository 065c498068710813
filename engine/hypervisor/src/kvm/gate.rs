//! Keeps vCPUs out of the guest while the memory map is changed.
//!
//! KVM can replace a memory slot only by deleting it first. A vCPU that touched the slot in between would take RAM
//! for a device, or fail to fetch its next instruction; so nobody is in the guest then.

use parking_lot::{Condvar, Mutex};

#[derive(Debug, Default)]
struct Inner {
    /// vCPUs inside KVM_RUN.
    inside: usize,
    /// Somebody changes the map, or waits to.
    closed: bool,
}

/// The way into the guest.
#[derive(Debug, Default)]
pub(super) struct Gate {
    inner: Mutex<Inner>,
    changed: Condvar,
}

impl Gate {
    /// Waits until the gate is open and goes in.
    pub fn enter(&self) {
        let mut inner = self.inner.lock();
        while inner.closed {
            self.changed.wait(&mut inner);
        }
        inner.inside += 1;
    }

    /// Comes out.
    pub fn leave(&self) {
        let mut inner = self.inner.lock();
        inner.inside -= 1;
        if inner.closed && inner.inside == 0 {
            drop(inner);
            self.changed.notify_all();
        }
    }

    /// Closes the gate, gets everybody out by `interrupt`, and does `change` while nobody is inside.
    pub fn closed<T>(&self, interrupt: impl FnOnce(), change: impl FnOnce() -> T) -> T {
        let mut inner = self.inner.lock();
        while inner.closed {
            self.changed.wait(&mut inner);
        }
        inner.closed = true;
        if inner.inside > 0 {
            drop(inner);
            interrupt();
            inner = self.inner.lock();
            while inner.inside > 0 {
                self.changed.wait(&mut inner);
            }
        }
        drop(inner);
        let result = change();
        self.inner.lock().closed = false;
        self.changed.notify_all();
        result
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn nobody_is_inside_while_it_is_closed() {
        let (gate, inside, leave, done) =
            (Gate::default(), AtomicUsize::new(0), AtomicBool::new(false), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    while done.load(Ordering::SeqCst) < 2 {
                        gate.enter();
                        inside.fetch_add(1, Ordering::SeqCst);
                        // Inside until somebody asks, as a vCPU is.
                        while !leave.load(Ordering::SeqCst) && done.load(Ordering::SeqCst) < 2 {
                            std::thread::yield_now();
                        }
                        inside.fetch_sub(1, Ordering::SeqCst);
                        gate.leave();
                    }
                });
            }
            for _ in 0..2 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        let interrupt = || leave.store(true, Ordering::SeqCst);
                        gate.closed(interrupt, || {
                            assert_eq!(inside.load(Ordering::SeqCst), 0);
                            std::thread::yield_now();
                            assert_eq!(inside.load(Ordering::SeqCst), 0);
                            leave.store(false, Ordering::SeqCst);
                        });
                    }
                    done.fetch_add(1, Ordering::SeqCst);
                });
            }
        });
    }
}
