//! The TSC stops while the VM is paused.
//!
//! The guest's TSC is the host's (scaled) plus an offset. Resuming lowers the offset by the time between the last
//! vCPU's pause and the first one's resumption, the same on all, so no vCPU sees the counter go back and they stay in
//! step.

#![expect(unsafe_code, reason = "reads and writes the TSC offset, an attribute the wrapper crate does not reach")]
// UNSAFETY: three ioctls, two with a pointer to a local.

use kvm_bindings::{KVM_VCPU_TSC_CTRL, KVM_VCPU_TSC_OFFSET, KVMIO, Msrs, kvm_device_attr, kvm_msr_entry};
use kvm_ioctls::VcpuFd;
use parking_lot::Mutex;
use vmm_sys_util::ioctl::ioctl_with_ref;
use vmm_sys_util::ioctl_iow_nr;

use super::call;
use crate::HypervisorError;

ioctl_iow_nr!(KVM_SET_DEVICE_ATTR, KVMIO, 0xe1, kvm_device_attr);
ioctl_iow_nr!(KVM_GET_DEVICE_ATTR, KVMIO, 0xe2, kvm_device_attr);
ioctl_iow_nr!(KVM_HAS_DEVICE_ATTR, KVMIO, 0xe3, kvm_device_attr);

const IA32_TSC: u32 = 0x10;

/// One MSR of a vCPU.
pub(super) fn read_msr(fd: &VcpuFd, index: u32) -> Result<Option<u64>, HypervisorError> {
    let mut list = msr_list(&[kvm_msr_entry { index, ..kvm_msr_entry::default() }])?;
    let read = fd.get_msrs(&mut list).map_err(call("KVM_GET_MSRS"))?;
    Ok(list.as_slice().first().filter(|_| read == 1).map(|entry| entry.data))
}

/// Writes one MSR; false where the accelerator would not.
pub(super) fn write_msr(fd: &VcpuFd, index: u32, data: u64) -> Result<bool, HypervisorError> {
    let list = msr_list(&[kvm_msr_entry { index, data, ..kvm_msr_entry::default() }])?;
    Ok(fd.set_msrs(&list).map_err(call("KVM_SET_MSRS"))? == 1)
}

pub(super) fn msr_list(entries: &[kvm_msr_entry]) -> Result<Msrs, HypervisorError> {
    Msrs::from_entries(entries).map_err(|error| HypervisorError::Call {
        call: "KVM_GET_MSRS",
        source: std::io::Error::other(format!("{error:?}")),
    })
}

fn attribute(address: u64) -> kvm_device_attr {
    kvm_device_attr { flags: 0, group: KVM_VCPU_TSC_CTRL, attr: KVM_VCPU_TSC_OFFSET.into(), addr: address }
}

/// Whether offsets can be read and written.
fn has_offset(fd: &VcpuFd) -> bool {
    // SAFETY: the kernel reads the attribute's numbers only.
    unsafe { ioctl_with_ref(fd, KVM_HAS_DEVICE_ATTR(), &attribute(0)) == 0 }
}

/// A vCPU's TSC offset, in guest ticks.
fn offset(fd: &VcpuFd) -> Result<u64, HypervisorError> {
    let mut offset = 0u64;
    let attribute = attribute(std::ptr::from_mut(&mut offset).expose_provenance() as u64);
    // SAFETY: the kernel reads the attribute and writes the 8 bytes of `offset`, which outlive the call.
    let result = unsafe { ioctl_with_ref(fd, KVM_GET_DEVICE_ATTR(), &attribute) };
    attribute_result(result).map(|()| offset)
}

fn set_offset(fd: &VcpuFd, offset: u64) -> Result<(), HypervisorError> {
    let attribute = attribute(std::ptr::from_ref(&offset).expose_provenance() as u64);
    // SAFETY: the kernel reads the attribute and the 8 bytes of `offset`, which outlive the call.
    attribute_result(unsafe { ioctl_with_ref(fd, KVM_SET_DEVICE_ATTR(), &attribute) })
}

fn attribute_result(result: i32) -> Result<(), HypervisorError> {
    if result == 0 {
        return Ok(());
    }
    Err(HypervisorError::Call { call: "KVM_VCPU_TSC_OFFSET", source: std::io::Error::last_os_error() })
}

/// A vCPU's TSC.
fn ticks(fd: &VcpuFd) -> Result<u64, HypervisorError> {
    read_msr(fd, IA32_TSC)?.ok_or_else(|| HypervisorError::State { field: "TSC".into() })
}

/// How the TSC is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Method {
    /// Through the offset (Linux 5.16).
    Offset,
    /// By writing the counter back; the kernel's own heuristic keeps the vCPUs in step.
    Counter,
    /// Not at all: the host's KVM takes an offset and does not use it, as some do that run without the processor's
    /// help.
    None,
}

#[derive(Debug)]
struct Inner {
    /// When the last vCPU paused, in ticks before the offset.
    paused_at: u64,
    /// What this pause (or the last one, while running) takes from every offset; `None` until one resumes.
    lost: Option<u64>,
    /// The offset of a vCPU whose guest never wrote its TSC.
    base_offset: u64,
}

impl Inner {
    /// A vCPU pauses; the latest of them counts.
    fn pause(&mut self, now: u64) {
        if self.lost.take().is_some() || self.paused_at < now {
            self.paused_at = now;
        }
    }

    /// A vCPU resumes: what its offset loses. The first of them decides for all.
    fn resume(&mut self, now: u64) -> u64 {
        *self.lost.get_or_insert_with(|| {
            let lost = now.saturating_sub(self.paused_at);
            self.base_offset = self.base_offset.wrapping_sub(lost);
            lost
        })
    }
}

/// A VM's share of it.
#[derive(Debug)]
pub(super) struct TscClock {
    method: Method,
    inner: Mutex<Inner>,
}

/// A vCPU's share, from pause to resumption.
#[derive(Clone, Copy, Debug)]
pub(super) struct Paused {
    /// Its TSC, where offsets are not to be had.
    ticks: u64,
}

/// Whether an offset that is set is one that is used.
fn offset_takes(first: &VcpuFd) -> Result<bool, HypervisorError> {
    let now = offset(first)?;
    let other = now.wrapping_add(1 << 40);
    set_offset(first, other)?;
    let takes = offset(first)? == other;
    set_offset(first, now)?;
    Ok(takes)
}

impl TscClock {
    pub fn new(first: &VcpuFd) -> Result<Self, HypervisorError> {
        let (method, base_offset) = match has_offset(first) {
            true if offset_takes(first)? => (Method::Offset, offset(first)?),
            true => (Method::None, 0),
            false => (Method::Counter, 0),
        };
        if method == Method::None {
            tracing::warn!("KVM on this host can not offset the TSC: the guest's goes on while the VM is paused");
        }
        Ok(Self { method, inner: Mutex::new(Inner { paused_at: 0, lost: Some(0), base_offset }) })
    }

    /// Whether pausing has an effect.
    pub fn can_stop(&self) -> bool {
        self.method != Method::None
    }

    pub fn pause(&self, fd: &VcpuFd) -> Result<Paused, HypervisorError> {
        let ticks = ticks(fd)?;
        if self.method == Method::Offset {
            let now = ticks.wrapping_sub(offset(fd)?);
            self.inner.lock().pause(now);
        }
        Ok(Paused { ticks })
    }

    pub fn resume(&self, fd: &VcpuFd, paused: Paused) -> Result<(), HypervisorError> {
        match self.method {
            Method::Offset => {
                let offset = offset(fd)?;
                let now = ticks(fd)?.wrapping_sub(offset);
                let lost = self.inner.lock().resume(now);
                set_offset(fd, offset.wrapping_sub(lost))
            }
            Method::Counter => write_msr(fd, IA32_TSC, paused.ticks).map(drop),
            Method::None => Ok(()),
        }
    }

    /// The TSC to save.
    pub fn save(&self, fd: &VcpuFd, paused: Option<&Paused>) -> Result<u64, HypervisorError> {
        match (self.method, paused) {
            (Method::Offset, Some(_)) => Ok(offset(fd)?.wrapping_add(self.inner.lock().paused_at)),
            (Method::Counter | Method::None, Some(paused)) => Ok(paused.ticks),
            (_, None) => ticks(fd),
        }
    }

    /// Makes the TSC go on from `ticks`, now or from the resumption.
    pub fn restore(&self, fd: &VcpuFd, paused: Option<&mut Paused>, to: u64) -> Result<(), HypervisorError> {
        match self.method {
            Method::Offset => {
                let origin = match paused {
                    Some(_) => self.inner.lock().paused_at,
                    None => ticks(fd)?.wrapping_sub(offset(fd)?),
                };
                let offset = to.wrapping_sub(origin);
                self.inner.lock().base_offset = offset;
                set_offset(fd, offset)
            }
            Method::Counter | Method::None => {
                if let Some(paused) = paused {
                    paused.ticks = to;
                }
                write_msr(fd, IA32_TSC, to).map(drop)
            }
        }
    }

    /// Undoes what the guest did to this vCPU's TSC, so that all are in step again.
    pub fn reset(&self, fd: &VcpuFd) -> Result<(), HypervisorError> {
        if self.method == Method::Offset { set_offset(fd, self.inner.lock().base_offset) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two vCPUs that pause and resume at different moments lose the same, so they stay in step, and neither sees its
    /// counter go back.
    #[test]
    fn vcpus_stay_in_step_across_pauses() {
        let mut clock = Inner { paused_at: 0, lost: Some(0), base_offset: 1000 };
        let mut offset = [1000u64, 1000];
        for (pauses, resumes) in [([100u64, 130], [500u64, 490]), ([600, 590], [600, 601]), ([700, 800], [900, 1000])] {
            let mut at_pause = [0, 0];
            for cpu in [0, 1] {
                clock.pause(pauses[cpu]);
                at_pause[cpu] = pauses[cpu] + offset[cpu];
            }
            let mut order = [0, 1];
            order.sort_by_key(|cpu| resumes[*cpu]);
            for cpu in order {
                offset[cpu] -= clock.resume(resumes[cpu]);
                assert!(resumes[cpu] + offset[cpu] >= at_pause[cpu]);
            }
            assert_eq!(offset[0], offset[1]);
            assert_eq!(clock.base_offset, offset[0]);
        }
        assert_eq!(offset[0], 1000 - (490 - 130) - (900 - 800));
    }
}
