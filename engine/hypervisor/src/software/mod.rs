//! The software CPU as an accelerator: runs guests where the host's own processor can not.
//!
//! One thread a vCPU. Locked instructions are the host's atomic ones, and plain loads and stores are the host's, which
//! is an x86 as well: so the guest sees the memory order that it knows. The local APIC is ours.

mod apic;
mod convert;
mod cpuid;
mod vcpu;
mod vm;

use std::sync::Arc;

use vcpu::SoftwareSeed;
use vm::SoftwareVm;

use crate::{ClockRates, Hypervisor, HypervisorError, VcpuSeed, VmParts, VmSetup};

/// Ticks of the guest's TSC in a millisecond: the counter is worked out from the host's clock.
const TSC_KHZ: u32 = 1_000_000;
/// APIC ids are 8 bits here, 255 is everybody.
const MAX_CPUS: u32 = 255;

/// The software CPU.
#[derive(Debug, Default)]
pub struct Software;

impl Hypervisor for Software {
    fn name(&self) -> &'static str {
        "software"
    }

    fn build(&self, setup: &VmSetup) -> Result<VmParts, HypervisorError> {
        let lacks = |what| HypervisorError::Lacks { name: "the software CPU", what };
        if setup.cpus == 0 || setup.cpus > MAX_CPUS {
            return Err(lacks("that many vCPUs"));
        }
        let rates = ClockRates { tsc_khz: TSC_KHZ, apic_bus_khz: apic::BUS_KHZ };
        let vm = Arc::new(SoftwareVm::new(setup.cpus, rates));
        let seeds = (0..setup.cpus).map(|id| {
            let table = cpuid::table(&setup.cpu_model, setup.cpus, rates, id)
                .ok_or_else(|| lacks("the CPU model that was asked for"))?;
            Ok(Box::new(SoftwareSeed { vm: vm.clone(), id, cpuid: Arc::new(table) }) as Box<dyn VcpuSeed>)
        });
        let seeds = seeds.collect::<Result<Vec<_>, HypervisorError>>()?;
        Ok(VmParts { vm, seeds })
    }
}
