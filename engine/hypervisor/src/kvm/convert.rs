//! KVM's structures to our saved types and back.

use kvm_bindings::{
    KVM_MP_STATE_HALTED, KVM_MP_STATE_INIT_RECEIVED, KVM_MP_STATE_RUNNABLE, KVM_MP_STATE_SIPI_RECEIVED,
    KVM_MP_STATE_UNINITIALIZED, KVM_VCPUEVENT_VALID_NMI_PENDING, KVM_VCPUEVENT_VALID_SHADOW,
    KVM_VCPUEVENT_VALID_SIPI_VECTOR, kvm_dtable, kvm_mp_state, kvm_regs, kvm_segment, kvm_sregs, kvm_vcpu_events,
};

use crate::HypervisorError;
use crate::state::{DescriptorTableV1, EventsV1, ExceptionV1, GeneralV1, RunStateV1, SegmentV1, SpecialV1};

pub(super) fn general_from(regs: &kvm_regs) -> GeneralV1 {
    GeneralV1 {
        registers: [
            regs.rax, regs.rcx, regs.rdx, regs.rbx, regs.rsp, regs.rbp, regs.rsi, regs.rdi, regs.r8, regs.r9, regs.r10,
            regs.r11, regs.r12, regs.r13, regs.r14, regs.r15,
        ],
        rip: regs.rip,
        rflags: regs.rflags,
    }
}

pub(super) fn general_to(general: &GeneralV1) -> kvm_regs {
    let [rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15] = general.registers;
    let (rip, rflags) = (general.rip, general.rflags);
    kvm_regs { rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15, rip, rflags }
}

fn segment_from(segment: &kvm_segment) -> SegmentV1 {
    let fields: [(u8, u32, u32); 8] = [
        (segment.type_, 0xf, 0),
        (segment.s, 1, 4),
        (segment.dpl, 3, 5),
        (segment.present, 1, 7),
        (segment.avl, 1, 12),
        (segment.l, 1, 13),
        (segment.db, 1, 14),
        (segment.g, 1, 15),
    ];
    let mut attributes = u32::from(segment.unusable & 1) << 16;
    for (value, mask, shift) in fields {
        attributes |= (u32::from(value) & mask) << shift;
    }
    SegmentV1 { selector: segment.selector, base: segment.base, limit: segment.limit, attributes }
}

fn segment_to(segment: &SegmentV1) -> kvm_segment {
    let field = |shift: u32, mask: u32| (segment.attributes >> shift & mask) as u8;
    kvm_segment {
        base: segment.base,
        limit: segment.limit,
        selector: segment.selector,
        type_: field(0, 0xf),
        s: field(4, 1),
        dpl: field(5, 3),
        present: field(7, 1),
        avl: field(12, 1),
        l: field(13, 1),
        db: field(14, 1),
        g: field(15, 1),
        unusable: field(16, 1),
        padding: 0,
    }
}

fn table_from(table: &kvm_dtable) -> DescriptorTableV1 {
    DescriptorTableV1 { base: table.base, limit: table.limit }
}

fn table_to(table: &DescriptorTableV1) -> kvm_dtable {
    kvm_dtable { base: table.base, limit: table.limit, ..kvm_dtable::default() }
}

pub(super) fn special_from(sregs: &kvm_sregs) -> SpecialV1 {
    SpecialV1 {
        segments: [&sregs.es, &sregs.cs, &sregs.ss, &sregs.ds, &sregs.fs, &sregs.gs].map(segment_from),
        ldt: segment_from(&sregs.ldt),
        tr: segment_from(&sregs.tr),
        gdt: table_from(&sregs.gdt),
        idt: table_from(&sregs.idt),
        cr0: sregs.cr0,
        cr2: sregs.cr2,
        cr3: sregs.cr3,
        cr4: sregs.cr4,
        cr8: sregs.cr8,
        efer: sregs.efer,
        apic_base: sregs.apic_base,
    }
}

pub(super) fn special_to(special: &SpecialV1) -> kvm_sregs {
    let [es, cs, ss, ds, fs, gs] = special.segments.each_ref().map(segment_to);
    kvm_sregs {
        cs,
        ds,
        es,
        fs,
        gs,
        ss,
        tr: segment_to(&special.tr),
        ldt: segment_to(&special.ldt),
        gdt: table_to(&special.gdt),
        idt: table_to(&special.idt),
        cr0: special.cr0,
        cr2: special.cr2,
        cr3: special.cr3,
        cr4: special.cr4,
        cr8: special.cr8,
        efer: special.efer,
        apic_base: special.apic_base,
        // An interrupt under way is part of the events.
        interrupt_bitmap: [0; 4],
    }
}

pub(super) fn events_from(events: &kvm_vcpu_events) -> EventsV1 {
    let exception = &events.exception;
    EventsV1 {
        exception: (exception.injected != 0 || exception.pending != 0).then(|| ExceptionV1 {
            vector: exception.nr,
            error_code: (exception.has_error_code != 0).then_some(exception.error_code),
            injected: exception.injected != 0,
        }),
        interrupt: (events.interrupt.injected != 0).then_some((events.interrupt.nr, events.interrupt.soft != 0)),
        shadow: events.interrupt.shadow,
        nmi_injected: events.nmi.injected != 0,
        nmi_pending: events.nmi.pending != 0,
        nmi_masked: events.nmi.masked != 0,
        sipi_vector: events.sipi_vector as u8,
    }
}

pub(super) fn events_to(events: &EventsV1) -> kvm_vcpu_events {
    let mut to = kvm_vcpu_events {
        sipi_vector: events.sipi_vector.into(),
        flags: KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SHADOW | KVM_VCPUEVENT_VALID_SIPI_VECTOR,
        ..kvm_vcpu_events::default()
    };
    if let Some(exception) = events.exception {
        // Without the payload capability KVM knows no exception that is due but not begun, and calls both injected.
        to.exception.injected = 1;
        to.exception.nr = exception.vector;
        to.exception.has_error_code = exception.error_code.is_some().into();
        to.exception.error_code = exception.error_code.unwrap_or(0);
    }
    if let Some((vector, soft)) = events.interrupt {
        to.interrupt.injected = 1;
        to.interrupt.nr = vector;
        to.interrupt.soft = soft.into();
    }
    to.interrupt.shadow = events.shadow;
    to.nmi.injected = events.nmi_injected.into();
    to.nmi.pending = events.nmi_pending.into();
    to.nmi.masked = events.nmi_masked.into();
    to
}

pub(super) fn run_state_from(state: kvm_mp_state) -> Result<RunStateV1, HypervisorError> {
    match state.mp_state {
        KVM_MP_STATE_RUNNABLE => Ok(RunStateV1::Runnable),
        KVM_MP_STATE_UNINITIALIZED => Ok(RunStateV1::Uninitialized),
        KVM_MP_STATE_INIT_RECEIVED => Ok(RunStateV1::InitReceived),
        KVM_MP_STATE_SIPI_RECEIVED => Ok(RunStateV1::SipiReceived),
        KVM_MP_STATE_HALTED => Ok(RunStateV1::Halted),
        other => Err(HypervisorError::State { field: format!("run state {other}") }),
    }
}

pub(super) fn run_state_to(state: RunStateV1) -> kvm_mp_state {
    let mp_state = match state {
        RunStateV1::Runnable => KVM_MP_STATE_RUNNABLE,
        RunStateV1::Uninitialized => KVM_MP_STATE_UNINITIALIZED,
        RunStateV1::InitReceived => KVM_MP_STATE_INIT_RECEIVED,
        RunStateV1::SipiReceived => KVM_MP_STATE_SIPI_RECEIVED,
        RunStateV1::Halted => KVM_MP_STATE_HALTED,
    };
    kvm_mp_state { mp_state }
}

/// Length of what an XSAVE area holds for x87, SSE and AVX.
const XSAVE_BYTES: usize = 832;
/// Where the AVX part begins.
const AVX_AT: usize = 576;
/// XSTATE_BV.
const STATE_BITS_AT: usize = 512;

/// The area in one form for one content: parts in their initial state are either all present or all absent.
pub(super) fn xsave_from(region: &[u32]) -> Vec<u8> {
    let mut bytes: Vec<u8> = region.iter().flat_map(|word| word.to_le_bytes()).take(XSAVE_BYTES).collect();
    if bytes.len() < XSAVE_BYTES {
        bytes.resize(XSAVE_BYTES, 0);
    }
    // MXCSR_MASK says what the host's processor has, and is not restored.
    bytes[28..32].fill(0);
    // Bytes 464 to 511 are free for software, 520 on are the rest of the header.
    bytes[464..STATE_BITS_AT].fill(0);
    let has_avx = bytes[STATE_BITS_AT] & 4 != 0;
    bytes[STATE_BITS_AT..AVX_AT].fill(0);
    bytes[STATE_BITS_AT] = 3;
    if !has_avx {
        bytes[AVX_AT..].fill(0);
    } else if bytes[AVX_AT..].iter().any(|byte| *byte != 0) {
        bytes[STATE_BITS_AT] = 7;
    }
    bytes
}

/// The other way.
pub(super) fn xsave_to(bytes: &[u8], region: &mut [u32]) {
    region.fill(0);
    for (word, part) in region.iter_mut().zip(bytes.chunks_exact(4)) {
        *word = u32::from_le_bytes([part[0], part[1], part[2], part[3]]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_survive_the_way_there_and_back() {
        for attributes in [0x93, 0x9b, 0xc093, 0xa09b, 0x8b, 0x82, 0x1_0000, 0x1_f0ff] {
            let segment = SegmentV1 { selector: 0x18, base: 0x1234, limit: 0xf_ffff, attributes };
            assert_eq!(segment_from(&segment_to(&segment)), segment, "{attributes:#x}");
        }
    }

    #[test]
    fn events_survive_the_way_there_and_back() {
        let events = EventsV1 {
            exception: Some(ExceptionV1 { vector: 14, error_code: Some(2), injected: true }),
            interrupt: Some((0x30, false)),
            shadow: 1,
            nmi_injected: false,
            nmi_pending: true,
            nmi_masked: true,
            sipi_vector: 0x9f,
        };
        assert_eq!(events_from(&events_to(&events)), events);
    }

    #[test]
    fn an_avx_part_in_its_initial_state_has_one_form() {
        let mut region = [0u32; 1024];
        let without = xsave_from(&region);
        region[128] = 7;
        assert_eq!(xsave_from(&region), without);
        region[144] = 1;
        assert_eq!(xsave_from(&region)[512], 7);
    }
}
