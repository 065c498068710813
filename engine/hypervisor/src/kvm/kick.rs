//! Stopping a vCPU from another thread.
//!
//! Two things together are free of races (Linux `Documentation/virt/kvm/api.rst`, `immediate_exit`): the flag in the
//! shared page makes a KVM_RUN that was not entered yet return at once, and the signal, sent after the flag was set,
//! interrupts one that was.

#![expect(unsafe_code, reason = "maps the vCPU's shared page and sends a signal to one thread")]
// UNSAFETY: one mmap of its own, so the flag can be written by any thread while the vCPU's thread uses the kernel
// interface's mapping; the mapping lives as long as the handle.

use std::os::fd::AsRawFd;
use std::ptr::NonNull;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};

use kvm_bindings::kvm_run;
use parking_lot::Mutex;
use vmm_sys_util::signal;

use crate::{ExitCounts, HypervisorError, VcpuHandle};

/// Enough of the vCPU's mapping to reach `immediate_exit`.
const PAGE_BYTES: usize = 4096;

/// What other threads reach a vCPU by.
#[derive(Debug)]
pub(super) struct Kick {
    page: NonNull<u8>,
    /// A stop of [`StopReason::Kicked`](crate::StopReason::Kicked) is due.
    requested: AtomicBool,
    /// The thread that runs the vCPU.
    thread: Mutex<Option<libc::pid_t>>,
    pub counts: Counts,
}

/// See [`ExitCounts`].
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub port: AtomicU64,
    pub mmio: AtomicU64,
    pub interrupt_window: AtomicU64,
    pub ioapic_eoi: AtomicU64,
    pub kicked: AtomicU64,
    pub other: AtomicU64,
}

// SAFETY: the page is only reached through the atomic in it, and unmapped only when the last reference is gone.
unsafe impl Send for Kick {}
// SAFETY: as above.
unsafe impl Sync for Kick {}

impl Kick {
    pub fn new(vcpu: &impl AsRawFd) -> Result<Self, HypervisorError> {
        // SAFETY: a new shared mapping at an address the kernel chooses; the vCPU's descriptor has at least a page.
        let address = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                PAGE_BYTES,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                vcpu.as_raw_fd(),
                0,
            )
        };
        let page = NonNull::new(address.cast::<u8>())
            .filter(|_| address != libc::MAP_FAILED)
            .ok_or_else(|| HypervisorError::Call { call: "mmap", source: std::io::Error::last_os_error() })?;
        Ok(Self { page, requested: AtomicBool::new(false), thread: Mutex::new(None), counts: Counts::default() })
    }

    fn immediate_exit(&self) -> &AtomicU8 {
        let offset = std::mem::offset_of!(kvm_run, immediate_exit);
        // SAFETY: inside the mapping, which lives as long as self; every access to this byte by user space is
        // through this atomic.
        unsafe { AtomicU8::from_ptr(self.page.as_ptr().add(offset)) }
    }

    /// Makes the calling thread the one that runs the vCPU.
    pub fn bind(&self) -> Result<(), HypervisorError> {
        install_handler()?;
        // SAFETY: no arguments, can not fail.
        let thread = unsafe { libc::gettid() };
        *self.thread.lock() = Some(thread);
        Ok(())
    }

    /// No thread runs the vCPU from here on.
    pub fn unbind(&self) {
        *self.thread.lock() = None;
    }

    /// The next KVM_RUN only finishes what is begun. For the vCPU's own thread.
    pub fn arm(&self) {
        self.immediate_exit().store(1, Ordering::SeqCst);
    }

    /// Takes a request to stop. For the vCPU's own thread, outside KVM_RUN.
    ///
    /// The flag is cleared before the request is looked at: a kick in between is either seen here, or sets the flag
    /// again afterwards.
    pub fn take(&self) -> bool {
        self.immediate_exit().store(0, Ordering::SeqCst);
        self.requested.swap(false, Ordering::SeqCst)
    }

    /// Gets the vCPU out of KVM_RUN, if it is in there, without stopping it for good.
    pub fn interrupt(&self) {
        self.arm();
        // SAFETY: no arguments, can not fail.
        let own = unsafe { libc::gettid() };
        // The vCPU's own thread is not in there: an access of the guest's that it is handling raised an interrupt.
        if let Some(thread) = self.thread.lock().filter(|thread| *thread != own) {
            // SAFETY: plain numbers. The thread is bound, so it is alive; were it not, the call would fail, and the
            // handler does nothing wherever it runs.
            unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), thread, signal_number()) };
        }
    }
}

impl Drop for Kick {
    fn drop(&mut self) {
        // SAFETY: mapped in `new` with this length; nothing else points into it.
        unsafe { libc::munmap(self.page.as_ptr().cast(), PAGE_BYTES) };
    }
}

impl VcpuHandle for Kick {
    fn kick(&self) {
        // Someone who asked before and was not heard yet asks for us, too.
        if !self.requested.swap(true, Ordering::SeqCst) {
            self.interrupt();
        }
    }

    fn exits(&self) -> ExitCounts {
        let get = |count: &AtomicU64| count.load(Ordering::Relaxed);
        ExitCounts {
            port: get(&self.counts.port),
            mmio: get(&self.counts.mmio),
            interrupt_window: get(&self.counts.interrupt_window),
            ioapic_eoi: get(&self.counts.ioapic_eoi),
            kicked: get(&self.counts.kicked),
            other: get(&self.counts.other),
        }
    }
}

/// The first real-time signal that the C library leaves to programs.
fn signal_number() -> libc::c_int {
    signal::SIGRTMIN()
}

/// The signal's only effect is that a system call returns.
extern "C" fn on_signal(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}

/// Installs the handler once for the process and lets the signal through to this thread.
fn install_handler() -> Result<(), HypervisorError> {
    static INSTALLED: OnceLock<Result<(), i32>> = OnceLock::new();
    INSTALLED
        .get_or_init(|| signal::register_signal_handler(signal_number(), on_signal).map_err(|error| error.errno()))
        .map_err(|errno| HypervisorError::Call {
            call: "sigaction",
            source: std::io::Error::from_raw_os_error(errno),
        })?;
    signal::unblock_signal(signal_number()).map_err(|error| HypervisorError::Call {
        call: "pthread_sigmask",
        source: std::io::Error::other(error.to_string()),
    })?;
    Ok(())
}
