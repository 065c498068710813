//! Opening KVM and making a VM.

#![expect(unsafe_code, reason = "takes over a descriptor of /dev/kvm")]
// UNSAFETY: one conversion from an owned descriptor.

use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd};
use std::sync::Arc;

use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES, kvm_cpuid_entry2, kvm_enable_cap};
use kvm_ioctls::Cap;

use super::kick::Kick;
use super::registers::supported_msrs;
use super::vcpu::KvmSeed;
use super::vm::KvmVm;
use super::{call, registers};
use crate::cpuid::{self, CpuidLeaf, Placement};
use crate::{ClockRates, Hypervisor, HypervisorError, RESERVED_GPA, VcpuSeed, VmParts, VmSetup};

const NAME: &str = "KVM";
/// The version of the interface that Linux has had since 2.6.22.
const API_VERSION: i32 = 12;
/// KVM's local APIC timer counts nanoseconds.
const APIC_BUS_KHZ: u32 = 1_000_000;
/// APIC ids are 8 bits here, 255 is everybody.
const MAX_CPUS: u32 = 255;

/// KVM on this host.
#[derive(Debug)]
pub struct Kvm {
    kvm: kvm_ioctls::Kvm,
}

impl Kvm {
    /// Opens `/dev/kvm`.
    ///
    /// # Errors
    /// [`HypervisorError::NotAvailable`], [`HypervisorError::NoPermission`], or [`HypervisorError::Lacks`] for a
    /// kernel that is too old.
    pub fn open() -> Result<Self, HypervisorError> {
        let file =
            std::fs::OpenOptions::new().read(true).write(true).open("/dev/kvm").map_err(|source| {
                match source.kind() {
                    std::io::ErrorKind::PermissionDenied => HypervisorError::NoPermission { name: NAME, source },
                    _ => HypervisorError::NotAvailable { name: NAME, source },
                }
            })?;
        Self::from_fd(file.into())
    }

    /// Uses a descriptor of `/dev/kvm` that somebody else opened.
    ///
    /// # Errors
    /// [`HypervisorError::Lacks`] where it is something else or lacks what is needed.
    pub fn from_fd(fd: OwnedFd) -> Result<Self, HypervisorError> {
        // SAFETY: the descriptor is open and ours; every call on it is checked, so one of another file only fails.
        let kvm = unsafe { kvm_ioctls::Kvm::from_raw_fd(fd.into_raw_fd()) };
        let lacks = |what| HypervisorError::Lacks { name: NAME, what };
        if kvm.get_api_version() != API_VERSION {
            return Err(lacks("version 12 of its interface"));
        }
        for (cap, what) in [
            (Cap::SplitIrqchip, "a local APIC without the other interrupt controllers (split irqchip)"),
            (Cap::ImmediateExit, "immediate exit"),
            (Cap::ReadonlyMem, "read-only memory"),
            (Cap::SignalMsi, "message-signalled interrupts"),
            (Cap::VcpuEvents, "saving of pending events"),
            (Cap::Xsave, "saving of extended state"),
            (Cap::Xcrs, "saving of extended control registers"),
            (Cap::GetTscKhz, "the rate of the TSC"),
        ] {
            if !kvm.check_extension(cap) {
                return Err(lacks(what));
            }
        }
        Ok(Self { kvm })
    }

    fn host_cpuid(&self) -> Result<Vec<CpuidLeaf>, HypervisorError> {
        let supported = self.kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).map_err(call("KVM_GET_SUPPORTED_CPUID"))?;
        Ok(supported
            .as_slice()
            .iter()
            .map(|entry| CpuidLeaf {
                leaf: entry.function,
                subleaf: entry.index,
                indexed: entry.flags & kvm_bindings::KVM_CPUID_FLAG_SIGNIFCANT_INDEX != 0,
                eax: entry.eax,
                ebx: entry.ebx,
                ecx: entry.ecx,
                edx: entry.edx,
            })
            .collect())
    }
}

fn to_kvm(leaves: &[CpuidLeaf]) -> Result<CpuId, HypervisorError> {
    let entries: Vec<_> = leaves
        .iter()
        .map(|leaf| kvm_cpuid_entry2 {
            function: leaf.leaf,
            index: leaf.subleaf,
            flags: if leaf.indexed { kvm_bindings::KVM_CPUID_FLAG_SIGNIFCANT_INDEX } else { 0 },
            eax: leaf.eax,
            ebx: leaf.ebx,
            ecx: leaf.ecx,
            edx: leaf.edx,
            ..kvm_cpuid_entry2::default()
        })
        .collect();
    CpuId::from_entries(&entries).map_err(|error| HypervisorError::Call {
        call: "KVM_SET_CPUID2",
        source: std::io::Error::other(format!("{error:?}")),
    })
}

impl Hypervisor for Kvm {
    fn name(&self) -> &'static str {
        "kvm"
    }

    fn build(&self, setup: &VmSetup) -> Result<VmParts, HypervisorError> {
        let lacks = |what| HypervisorError::Lacks { name: NAME, what };
        if setup.cpus == 0 || setup.cpus > MAX_CPUS || setup.cpus as usize > self.kvm.get_max_vcpus() {
            return Err(lacks("that many vCPUs"));
        }
        let fd = self.kvm.create_vm().map_err(call("KVM_CREATE_VM"))?;
        fd.enable_cap(&kvm_enable_cap {
            cap: kvm_bindings::KVM_CAP_SPLIT_IRQCHIP,
            args: [setup.ioapic_pins.into(), 0, 0, 0],
            ..kvm_enable_cap::default()
        })
        .map_err(call("KVM_CAP_SPLIT_IRQCHIP"))?;
        // One page for the identity map, three for the task segment.
        fd.set_identity_map_address(RESERVED_GPA).map_err(call("KVM_SET_IDENTITY_MAP_ADDR"))?;
        let task_segment = usize::try_from(RESERVED_GPA + 0x1000).map_err(|_too_wide| lacks("64-bit addresses"))?;
        fd.set_tss_address(task_segment).map_err(call("KVM_SET_TSS_ADDR"))?;

        let mut vcpus = Vec::new();
        for id in 0..setup.cpus {
            vcpus.push(fd.create_vcpu(id.into()).map_err(call("KVM_CREATE_VCPU"))?);
        }
        let first = vcpus.first().ok_or_else(|| lacks("vCPUs"))?;
        let tsc_khz = first.get_tsc_khz().map_err(call("KVM_GET_TSC_KHZ"))?;
        let rates = ClockRates { tsc_khz, apic_bus_khz: APIC_BUS_KHZ };
        let host = self.host_cpuid()?;
        let placement =
            Placement { cpus: setup.cpus, tsc_deadline: self.kvm.check_extension(Cap::TscDeadlineTimer), rates };
        for (id, vcpu) in (0..).zip(&vcpus) {
            let leaves = cpuid::model(&setup.cpu_model, &host, &placement, id)
                .ok_or_else(|| lacks("the CPU model that was asked for"))?;
            vcpu.set_cpuid2(&to_kvm(&leaves)?).map_err(call("KVM_SET_CPUID2"))?;
        }
        let signature = host.iter().find(|entry| entry.leaf == 1).map_or(0, |entry| entry.eax);
        let msrs: Arc<[u32]> = supported_msrs(first)?.into();
        let kicks = vcpus.iter().map(|vcpu| Kick::new(vcpu).map(Arc::new)).collect::<Result<Vec<_>, _>>()?;
        let vm = Arc::new(KvmVm::new(fd, first, kicks.clone(), rates)?);
        let mut seeds: Vec<Box<dyn VcpuSeed>> = Vec::new();
        for ((id, vcpu), kick) in (0u32..).zip(vcpus).zip(kicks) {
            let power_on = registers::power_on(&vcpu, &msrs, signature, id == 0)?;
            registers::reset(&vcpu, &power_on)?;
            seeds.push(Box::new(KvmSeed { fd: vcpu, vm: vm.clone(), kick, msrs: msrs.clone(), power_on, id }));
        }
        Ok(VmParts { vm, seeds })
    }
}
