//! The vCPU-state table on KVM: how each part is read and written.

#![expect(unsafe_code, reason = "hands KVM an XSAVE area")]
// UNSAFETY: KVM_SET_XSAVE reads as much as the guest's features need; these are capped at 4096 bytes.

use kvm_bindings::{kvm_debugregs, kvm_lapic_state, kvm_msr_entry, kvm_xcr, kvm_xcrs, kvm_xsave};
use kvm_ioctls::VcpuFd;

use super::tsc::{msr_list, read_msr};
use super::{call, convert};
use crate::HypervisorError;
use crate::state::{
    DebugV1, Element, EventsV1, ExtendedV1, GeneralV1, LocalApicV1, MSRS, MsrV1, PowerOn, RunStateV1, SpecialV1, TscV1,
    VcpuStateV1,
};

/// A state with nothing in it, to be filled part by part.
pub(super) fn blank() -> VcpuStateV1 {
    VcpuStateV1 {
        general: GeneralV1::default(),
        special: SpecialV1::default(),
        debug: DebugV1::default(),
        extended: ExtendedV1 { xsave: Vec::new() },
        xcr0: 1,
        msrs: Vec::new(),
        local_apic: LocalApicV1 { registers: Vec::new() },
        events: EventsV1::default(),
        run_state: RunStateV1::Runnable,
        tsc: TscV1::default(),
    }
}

/// Those of [`MSRS`] that this host and CPU model have.
pub(super) fn supported_msrs(fd: &VcpuFd) -> Result<Vec<u32>, HypervisorError> {
    let mut supported = Vec::new();
    for &index in MSRS {
        if read_msr(fd, index)?.is_some() {
            supported.push(index);
        }
    }
    Ok(supported)
}

/// What reset needs to know, read from a vCPU that never ran.
pub(super) fn power_on(fd: &VcpuFd, msrs: &[u32], signature: u32, bootstrap: bool) -> Result<PowerOn, HypervisorError> {
    let mut state = blank();
    for element in [Element::Special, Element::Msrs, Element::LocalApic] {
        read(fd, msrs, element, &mut state)?;
    }
    let VcpuStateV1 { special, msrs, local_apic, .. } = state;
    Ok(PowerOn { signature, bootstrap, apic_base: special.apic_base, local_apic, msrs })
}

/// Puts everything but the TSC to how it is at reset.
pub(super) fn reset(fd: &VcpuFd, power_on: &PowerOn) -> Result<(), HypervisorError> {
    let mut state = blank();
    for element in Element::ALL {
        power_on.apply(element, &mut state);
    }
    Element::ALL.into_iter().try_for_each(|element| write(fd, element, &state))
}

/// Reads one part. The TSC is [`TscClock`](super::tsc::TscClock)'s.
pub(super) fn read(
    fd: &VcpuFd,
    msrs: &[u32],
    element: Element,
    state: &mut VcpuStateV1,
) -> Result<(), HypervisorError> {
    match element {
        Element::General => state.general = convert::general_from(&fd.get_regs().map_err(call("KVM_GET_REGS"))?),
        Element::Special => state.special = convert::special_from(&fd.get_sregs().map_err(call("KVM_GET_SREGS"))?),
        Element::Debug => {
            let debug = fd.get_debug_regs().map_err(call("KVM_GET_DEBUGREGS"))?;
            state.debug = DebugV1 { addresses: debug.db, dr6: debug.dr6, dr7: debug.dr7 };
        }
        Element::Extended => {
            let xsave = fd.get_xsave().map_err(call("KVM_GET_XSAVE"))?;
            state.extended = ExtendedV1 { xsave: convert::xsave_from(&xsave.region) };
        }
        Element::Xcr => {
            let xcrs = fd.get_xcrs().map_err(call("KVM_GET_XCRS"))?;
            let count = xcrs.nr_xcrs as usize;
            state.xcr0 = xcrs.xcrs.iter().take(count).find(|xcr| xcr.xcr == 0).map_or(1, |xcr| xcr.value);
        }
        Element::Msrs => {
            let entries: Vec<_> =
                msrs.iter().map(|&index| kvm_msr_entry { index, ..kvm_msr_entry::default() }).collect();
            let mut list = msr_list(&entries)?;
            let count = fd.get_msrs(&mut list).map_err(call("KVM_GET_MSRS"))?;
            if let Some(failed) = msrs.get(count) {
                return Err(HypervisorError::State { field: format!("MSR {failed:#x}") });
            }
            state.msrs = list.as_slice().iter().map(|entry| MsrV1 { index: entry.index, value: entry.data }).collect();
        }
        Element::LocalApic => {
            let apic = fd.get_lapic().map_err(call("KVM_GET_LAPIC"))?;
            state.local_apic = LocalApicV1 { registers: apic.regs.iter().map(|byte| byte.cast_unsigned()).collect() };
        }
        Element::Events => {
            state.events = convert::events_from(&fd.get_vcpu_events().map_err(call("KVM_GET_VCPU_EVENTS"))?);
        }
        Element::RunState => {
            state.run_state = convert::run_state_from(fd.get_mp_state().map_err(call("KVM_GET_MP_STATE"))?)?;
        }
        Element::Tsc => {}
    }
    Ok(())
}

/// Writes one part of a state that was judged. The TSC is [`TscClock`](super::tsc::TscClock)'s.
pub(super) fn write(fd: &VcpuFd, element: Element, state: &VcpuStateV1) -> Result<(), HypervisorError> {
    match element {
        Element::General => fd.set_regs(&convert::general_to(&state.general)).map_err(call("KVM_SET_REGS")),
        Element::Special => fd.set_sregs(&convert::special_to(&state.special)).map_err(call("KVM_SET_SREGS")),
        Element::Debug => {
            let DebugV1 { addresses, dr6, dr7 } = state.debug;
            let debug = kvm_debugregs { db: addresses, dr6, dr7, ..kvm_debugregs::default() };
            fd.set_debug_regs(&debug).map_err(call("KVM_SET_DEBUGREGS"))
        }
        Element::Extended => {
            let mut xsave = kvm_xsave::default();
            convert::xsave_to(&state.extended.xsave, &mut xsave.region);
            // SAFETY: the CPUID model shows no component beyond AVX, and none is enabled dynamically, so KVM reads
            // the 4096 bytes of the region only.
            unsafe { fd.set_xsave(&xsave) }.map_err(call("KVM_SET_XSAVE"))
        }
        Element::Xcr => {
            let mut xcrs = kvm_xcrs { nr_xcrs: 1, ..kvm_xcrs::default() };
            xcrs.xcrs[0] = kvm_xcr { xcr: 0, value: state.xcr0, ..kvm_xcr::default() };
            fd.set_xcrs(&xcrs).map_err(call("KVM_SET_XCRS"))
        }
        Element::Msrs => {
            let entries: Vec<_> = state
                .msrs
                .iter()
                .map(|msr| kvm_msr_entry { index: msr.index, data: msr.value, ..kvm_msr_entry::default() })
                .collect();
            let count = fd.set_msrs(&msr_list(&entries)?).map_err(call("KVM_SET_MSRS"))?;
            match state.msrs.get(count) {
                Some(refused) => Err(HypervisorError::State { field: format!("MSR {:#x}", refused.index) }),
                None => Ok(()),
            }
        }
        Element::LocalApic => {
            let mut apic = kvm_lapic_state::default();
            for (to, from) in apic.regs.iter_mut().zip(&state.local_apic.registers) {
                *to = from.cast_signed();
            }
            fd.set_lapic(&apic).map_err(call("KVM_SET_LAPIC"))
        }
        Element::Events => fd.set_vcpu_events(&convert::events_to(&state.events)).map_err(call("KVM_SET_VCPU_EVENTS")),
        Element::RunState => fd.set_mp_state(convert::run_state_to(state.run_state)).map_err(call("KVM_SET_MP_STATE")),
        Element::Tsc => Ok(()),
    }
}
