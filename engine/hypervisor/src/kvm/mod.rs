//! The KVM backend.
//!
//! ```text
//!   Kvm::open ─ build ─▶ KvmVm (slots, routes, coalesced ring, gate)
//!                        KvmSeed ─ bind ─▶ KvmVcpu::run
//!                          gate.enter ▸ KVM_RUN ▸ gate.leave ▸ drain the ring ▸ serve the exit ▸ again
//! ```
//!
//! The local APICs are KVM's; PIC, PIT and IOAPIC are the board's (`KVM_CAP_SPLIT_IRQCHIP`).
//!
//! Facts about the interface: Linux `Documentation/virt/kvm/api.rst`.

mod coalesced;
mod convert;
mod gate;
mod kick;
mod registers;
mod slots;
mod system;
mod tsc;
mod vcpu;
mod vm;

pub use system::Kvm;

use crate::HypervisorError;

/// For `map_err`: the error of a call, by KVM's name for it.
fn call(name: &'static str) -> impl Fn(vmm_sys_util::errno::Error) -> HypervisorError {
    move |error| HypervisorError::Call { call: name, source: std::io::Error::from_raw_os_error(error.errno()) }
}
