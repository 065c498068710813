//! Between the software CPU's state and the saved one.

use benchtop_x86::cpu::{Cpu, Segment, Table};

use crate::state::{DebugV1, DescriptorTableV1, ExtendedV1, GeneralV1, MsrV1, SegmentV1, SpecialV1};

/// MSRs that are the processor's own, with where they are.
fn msrs(cpu: &mut Cpu) -> Vec<(u32, &mut u64)> {
    let msrs = &mut cpu.msrs;
    let mut list = vec![
        (0x174, &mut msrs.sysenter_cs),
        (0x175, &mut msrs.sysenter_esp),
        (0x176, &mut msrs.sysenter_eip),
        (0x17a, &mut msrs.mcg_status),
        (0x1a0, &mut msrs.misc_enable),
        (0x277, &mut msrs.pat),
        (0x2ff, &mut msrs.mtrr_def_type),
        (0xc000_0081, &mut msrs.star),
        (0xc000_0082, &mut msrs.lstar),
        (0xc000_0083, &mut msrs.cstar),
        (0xc000_0084, &mut msrs.sfmask),
        (0xc000_0102, &mut msrs.kernel_gs_base),
        (0xc000_0103, &mut msrs.tsc_aux),
    ];
    let fixed = [0x250, 0x258, 0x259, 0x268, 0x269, 0x26a, 0x26b, 0x26c, 0x26d, 0x26e, 0x26f];
    list.extend(fixed.into_iter().zip(msrs.mtrr_fixed.iter_mut()));
    list.extend((0x200..).zip(msrs.mtrr_variable.iter_mut()));
    list.sort_unstable_by_key(|(index, _)| *index);
    list
}

pub fn general(cpu: &Cpu) -> GeneralV1 {
    let mut registers = [0; 16];
    registers.copy_from_slice(&cpu.regs[..16]);
    GeneralV1 { registers, rip: cpu.rip, rflags: cpu.flags.get() }
}

pub fn set_general(cpu: &mut Cpu, state: &GeneralV1) {
    cpu.regs[..16].copy_from_slice(&state.registers);
    cpu.rip = state.rip;
    cpu.flags.set(state.rflags);
}

fn segment(segment: &Segment) -> SegmentV1 {
    let Segment { selector, base, limit, attributes, .. } = *segment;
    SegmentV1 { selector, base, limit, attributes }
}

fn from_segment(state: &SegmentV1) -> Segment {
    let SegmentV1 { selector, base, limit, attributes } = *state;
    Segment { selector, base, limit, attributes, ..Segment::default() }
}

/// All but the APIC base, which is the APIC's.
pub fn special(cpu: &Cpu, apic_base: u64) -> SpecialV1 {
    let table = |table: &Table| DescriptorTableV1 { base: table.base, limit: table.limit };
    let [es, cs, ss, ds, fs, gs, ldt, tr] = cpu.segs.each_ref().map(segment);
    SpecialV1 {
        segments: [es, cs, ss, ds, fs, gs],
        ldt,
        tr,
        gdt: table(&cpu.gdt),
        idt: table(&cpu.idt),
        cr0: cpu.cr0,
        cr2: cpu.cr2,
        cr3: cpu.cr3,
        cr4: cpu.cr4,
        cr8: cpu.cr8.into(),
        efer: cpu.efer,
        apic_base,
    }
}

pub fn set_special(cpu: &mut Cpu, state: &SpecialV1) {
    for (place, saved) in cpu.segs.iter_mut().zip(state.segments.iter().chain([&state.ldt, &state.tr])) {
        *place = from_segment(saved);
    }
    let table = |table: &DescriptorTableV1| Table { base: table.base, limit: table.limit };
    (cpu.gdt, cpu.idt) = (table(&state.gdt), table(&state.idt));
    (cpu.cr0, cpu.cr2, cpu.cr3, cpu.cr4) = (state.cr0, state.cr2, state.cr3, state.cr4);
    (cpu.cr8, cpu.efer) = (state.cr8 as u8, state.efer);
    // As VMX has it: the privilege level is the stack segment's.
    let [_, cs, ss, ..] = &cpu.segs;
    cpu.cpl = match (state.cr0 & 1 != 0, cpu.flags.rest & benchtop_x86::flags::VM != 0) {
        (false, _) => 0,
        (_, true) => 3,
        _ if !ss.is_usable() => (cs.selector & 3) as u8,
        _ => ss.dpl(),
    };
}

pub fn debug(cpu: &Cpu) -> DebugV1 {
    let [a, b, c, d, ..] = cpu.dr;
    DebugV1 { addresses: [a, b, c, d], dr6: cpu.dr[6], dr7: cpu.dr[7] }
}

pub fn set_debug(cpu: &mut Cpu, state: &DebugV1) {
    cpu.dr[..4].copy_from_slice(&state.addresses);
    (cpu.dr[6], cpu.dr[7]) = (state.dr6, state.dr7);
}

/// x87 and SSE; the length is the same as KVM's.
pub fn extended(cpu: &Cpu) -> ExtendedV1 {
    let mut area = [0; 512];
    cpu.save_fx(&mut area);
    let mut xsave = vec![0; 4096];
    xsave[..512].copy_from_slice(&area);
    xsave[512] = 3;
    ExtendedV1 { xsave }
}

/// Takes x87 and SSE; a state that is left out is as FNINIT leaves it.
pub fn set_extended(cpu: &mut Cpu, state: &ExtendedV1) {
    let mut area = [0; 512];
    let mut initial = [0; 512];
    initial[..2].copy_from_slice(&0x37fu16.to_le_bytes());
    initial[24..28].copy_from_slice(&0x1f80u32.to_le_bytes());
    if let Some(saved) = state.xsave.get(..512) {
        area.copy_from_slice(saved);
    }
    let present = state.xsave.get(512).copied().unwrap_or_default();
    if present & 1 == 0 {
        area[..24].copy_from_slice(&initial[..24]);
        area[32..160].fill(0);
    }
    if present & 2 == 0 {
        area[160..416].fill(0);
    }
    cpu.load_fx(&area);
}

/// The processor's own MSRs, in order.
pub fn saved_msrs(cpu: &mut Cpu) -> Vec<MsrV1> {
    msrs(cpu).into_iter().map(|(index, value)| MsrV1 { index, value: *value }).collect()
}

/// Takes those of them that were saved.
pub fn set_msrs(cpu: &mut Cpu, saved: &[MsrV1]) {
    for (index, place) in msrs(cpu) {
        if let Some(msr) = saved.iter().find(|msr| msr.index == index) {
            *place = msr.value;
        }
    }
}
