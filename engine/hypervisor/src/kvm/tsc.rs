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

#[derive(Debug)]
struct Inner {
    /// When the last vCPU paused, in ticks before the offset.
    paused_at: u64,
    /// What this pause (or the last one, while running) takes from every offset; `None` until one resumes.
    lost: Option<u64>,
    /// The offset of a vCPU whose guest never wrote its TSC.
    base_offset: u64,
}

/// A VM's share of it.
#[derive(Debug)]
pub(super) struct TscClock {
    /// Whether offsets can be read and written (Linux 5.16); without, the counter itself is written back and the
    /// kernel's own heuristic keeps the vCPUs in step.
    has_offset: bool,
    inner: Mutex<Inner>,
}

/// A vCPU's share, from pause to resumption.
#[derive(Clone, Copy, Debug)]
pub(super) struct Paused {
    /// Its TSC where offsets are not to be had.
    ticks: u64,
}

impl TscClock {
    pub fn new(first: &VcpuFd) -> Result<Self, HypervisorError> {
        let has_offset = has_offset(first);
        let base_offset = if has_offset { offset(first)? } else { 0 };
        Ok(Self { has_offset, inner: Mutex::new(Inner { paused_at: 0, lost: Some(0), base_offset }) })
    }

    pub fn pause(&self, fd: &VcpuFd) -> Result<Paused, HypervisorError> {
        let ticks = ticks(fd)?;
        if self.has_offset {
            let now = ticks.wrapping_sub(offset(fd)?);
            let mut inner = self.inner.lock();
            if inner.lost.take().is_some() || inner.paused_at < now {
                inner.paused_at = now;
            }
        }
        Ok(Paused { ticks })
    }

    pub fn resume(&self, fd: &VcpuFd, paused: Paused) -> Result<(), HypervisorError> {
        if !self.has_offset {
            write_msr(fd, IA32_TSC, paused.ticks)?;
            return Ok(());
        }
        let offset = offset(fd)?;
        let now = ticks(fd)?.wrapping_sub(offset);
        let lost = {
            let mut inner = self.inner.lock();
            match inner.lost {
                Some(lost) => lost,
                None => {
                    let lost = now.saturating_sub(inner.paused_at);
                    inner.lost = Some(lost);
                    inner.base_offset = inner.base_offset.wrapping_sub(lost);
                    lost
                }
            }
        };
        set_offset(fd, offset.wrapping_sub(lost))
    }

    /// The TSC to save.
    pub fn save(&self, fd: &VcpuFd, paused: Option<&Paused>) -> Result<u64, HypervisorError> {
        match paused {
            Some(_) if self.has_offset => Ok(offset(fd)?.wrapping_add(self.inner.lock().paused_at)),
            Some(paused) => Ok(paused.ticks),
            None => ticks(fd),
        }
    }

    /// Makes the TSC go on from `ticks`, now or from the resumption.
    pub fn restore(&self, fd: &VcpuFd, paused: Option<&mut Paused>, to: u64) -> Result<(), HypervisorError> {
        if !self.has_offset {
            if let Some(paused) = paused {
                paused.ticks = to;
            }
            write_msr(fd, IA32_TSC, to)?;
            return Ok(());
        }
        let origin = match paused {
            Some(_) => self.inner.lock().paused_at,
            None => ticks(fd)?.wrapping_sub(offset(fd)?),
        };
        let offset = to.wrapping_sub(origin);
        self.inner.lock().base_offset = offset;
        set_offset(fd, offset)
    }

    /// Undoes what the guest did to this vCPU's TSC, so that all are in step again.
    pub fn reset(&self, fd: &VcpuFd) -> Result<(), HypervisorError> {
        if self.has_offset { set_offset(fd, self.inner.lock().base_offset) } else { Ok(()) }
    }
}
