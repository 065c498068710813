//! What is allowed, and what not.

use super::{Bench, CODE_32, CODE_64, DATA, DATA_USER, FREE, GDT, HANDLER};
use crate::cpu::{Cause, Effect, Request, attribute, cr0, cr4, efer, vector};
use crate::flags;
use crate::op::seg;
use crate::run::Exit;

/// The exception that a failure left.
fn fault(bench: &mut Bench) -> (u8, Option<u32>) {
    match bench.cpu().trap {
        Cause::Exception(exception) => (exception.vector, exception.error),
        other => panic!("{other:?}"),
    }
}

#[test]
fn segments_are_checked() {
    let mut bench = Bench::protected(3, &[]);
    for (number, selector, expected) in [
        (seg::DS, DATA, (vector::GP, Some(DATA.into()))),
        (seg::SS, 0, (vector::GP, Some(0))),
        (seg::SS, CODE_32, (vector::GP, Some(CODE_32.into()))),
        (seg::DS, 0x1008, (vector::GP, Some(0x1008))),
        (seg::DS, 0xc, (vector::GP, Some(0xc))),
    ] {
        let before = bench.cpu().segs;
        assert!(bench.cpu().load_segment(number, selector).is_err());
        assert_eq!(fault(&mut bench), expected, "{selector:#x}");
        assert_eq!(bench.cpu().segs, before);
    }
    bench.cpu().load_segment(seg::DS, 2).unwrap();
    assert!(!bench.cpu().segs[usize::from(seg::DS)].is_usable());
    // Not present.
    bench.put_64(GDT + u64::from(FREE), 0xcf_7200_0000_ffff);
    assert!(bench.cpu().load_segment(seg::SS, FREE | 3).is_err());
    assert_eq!(fault(&mut bench), (vector::SS, Some(FREE.into())));
    assert!(bench.cpu().load_segment(seg::ES, FREE | 3).is_err());
    assert_eq!(fault(&mut bench), (vector::NP, Some(FREE.into())));
    // The accessed bit.
    bench.put_64(GDT + u64::from(DATA_USER), 0xcf_f200_0000_ffff);
    bench.cpu().load_segment(seg::ES, DATA_USER | 3).unwrap();
    assert_eq!(bench.get(GDT + u64::from(DATA_USER) + 5, 1), 0xf3);
    assert_eq!(bench.cpu().segs[usize::from(seg::ES)].attributes, 0xc0f3);
}

#[test]
fn a_null_stack_is_for_supervisors_in_64_bit_mode() {
    let mut bench = Bench::long(0, &[]);
    bench.cpu().load_segment(seg::SS, 0).unwrap();
    assert_ne!(bench.cpu().segs[usize::from(seg::SS)].attributes & attribute::UNUSABLE, 0);
    let mut bench = Bench::long(3, &[]);
    assert!(bench.cpu().load_segment(seg::SS, 3).is_err());
    assert_eq!(fault(&mut bench), (vector::GP, Some(0)));
}

#[test]
fn nothing_comes_between_a_load_of_ss_and_the_next() {
    // mov ss, ax
    let mut bench = Bench::protected(0, &[0x8e, 0xd0, 0x90]);
    bench.cpu().regs[0] = DATA.into();
    assert_eq!(bench.steps(1), None);
    assert!(bench.cpu().shadow_ss);
    assert_eq!(bench.steps(1), None);
    assert!(!bench.cpu().shadow_ss);
}

#[test]
fn control_registers_refuse_contradictions() {
    let mut bench = Bench::protected(0, &[]);
    let cpu = bench.cpu();
    for value in [cr0::PG, cr0::PE | cr0::NW, 1 << 32 | cr0::PE] {
        assert!(cpu.set_cr0(value).is_err(), "{value:#x}");
    }
    assert!(cpu.set_cr4(1 << 31).is_err());
    assert!(cpu.set_cr4(cr4::PCIDE).is_err());
    // Long mode without PAE.
    cpu.efer = efer::LME;
    assert!(cpu.set_cr0(cr0::PE | cr0::PG).is_err());
    cpu.set_cr4(cr4::PAE).unwrap();
    cpu.set_cr0(cr0::PE | cr0::PG).unwrap();
    assert_ne!(cpu.efer & efer::LMA, 0);
    assert!(cpu.set_cr4(0).is_err());
    cpu.set_cr0(cr0::PE).unwrap();
    assert_eq!(cpu.efer, efer::LME);
    let mut bench = Bench::long(0, &[]);
    assert!(bench.cpu().set_cr0(cr0::PE).is_err());
}

#[test]
fn model_specific_registers_are_asked_for_and_checked() {
    // rdmsr; wrmsr
    let mut bench = Bench::long(0, &[0x0f, 0x32, 0x0f, 0x30]);
    bench.gate(vector::GP, CODE_64, 0);
    bench.cpu().regs[1] = 0x1b;
    let ask = Request::ReadMsr(0x1b);
    assert_eq!(bench.steps(1), Some(Exit::Ask(ask)));
    bench.processor.answer(ask, 0x1_fee0_0900);
    assert_eq!(bench.steps(1), None);
    assert_eq!((bench.cpu().regs[0], bench.cpu().regs[2]), (0xfee0_0900, 1));
    assert_eq!(bench.steps(1), Some(Exit::Effects(vec![Effect::WriteMsr(0x1b, 0x1_fee0_0900)])));
    // An address that is not canonical.
    for (number, low, high, fine) in [
        (0xc000_0082u64, 0u64, 0x8000u64, false),
        (0xc000_0082, 0, 0xffff_8000, true),
        (0x277, 2, 0, false),
        (0x277, 6, 0, true),
        (0x200, 0x206, 0, false),
        (0x201, 0x800, 0xff, true),
        (0xc000_0080, 2, 0, false),
        (0xc000_0080, 0x801, 0, false),
        (0xc000_0080, 0x901, 0, true),
        (0x12345, 0, 0, false),
    ] {
        let cpu = bench.cpu();
        (cpu.rip, cpu.regs[0], cpu.regs[1], cpu.regs[2]) = (super::CODE + 2, low, number, high);
        assert_eq!(bench.steps(1), None);
        assert_eq!(bench.cpu().rip, if fine { super::CODE + 4 } else { HANDLER }, "{number:#x} {low:#x}");
    }
}

#[test]
fn the_interrupt_flag_has_its_rules() {
    // cli at level 3
    let mut bench = Bench::protected(3, &[0xfa]);
    bench.gate(vector::GP, CODE_32, 0);
    bench.cpu().flags.rest |= flags::IF;
    assert_eq!(bench.steps(1), None);
    assert_eq!(bench.cpu().rip, HANDLER);
    // With PVI it is the virtual one's.
    let mut bench = Bench::protected(3, &[0xfb, 0xfa]);
    bench.cpu().cr4 |= cr4::PVI;
    assert_eq!(bench.steps(1), None);
    assert_eq!(bench.cpu().flags.rest, flags::VIF);
    assert_eq!(bench.steps(1), None);
    assert_eq!(bench.cpu().flags.rest, 0);
    // popf at level 3 leaves IF and IOPL as they are.
    let mut bench = Bench::protected(3, &[0x9d]);
    bench.put_32(super::STACK, u32::MAX);
    assert_eq!(bench.steps(1), None);
    assert_eq!(bench.cpu().flags.get() & (flags::IF | flags::IOPL | flags::RF | flags::VM | flags::VIF), 0);
    assert_ne!(bench.cpu().flags.get() & flags::ID, 0);
    // sti holds interrupts off for one instruction, once.
    let mut bench = Bench::protected(0, &[0xfb, 0xfb]);
    assert_eq!(bench.steps(1), None);
    assert!(bench.cpu().shadow_sti);
    assert_eq!(bench.steps(1), None);
    assert!(!bench.cpu().shadow_sti);
}

#[test]
fn selectors_are_asked_about() {
    // lar eax, cx; lsl edx, cx; verw cx
    let mut bench = Bench::protected(3, &[0x0f, 0x02, 0xc1, 0x0f, 0x03, 0xd1, 0x0f, 0x00, 0xe9]);
    bench.cpu().regs[1] = u64::from(DATA_USER | 3);
    assert_eq!(bench.steps(3), None);
    assert_eq!((bench.cpu().regs[0], bench.cpu().regs[2]), (0x00cf_f200 & 0x00f0_ff00, 0xffff_ffff));
    assert!(bench.cpu().flags.zero());
    let cpu = bench.cpu();
    (cpu.regs[1], cpu.rip) = (DATA.into(), super::CODE);
    assert_eq!(bench.steps(1), None);
    assert!(!bench.cpu().flags.zero());
    assert_eq!(bench.cpu().regs[0], 0x00c0_f200);
}

#[test]
fn debug_registers_can_be_guarded() {
    // mov eax, dr0
    let mut bench = Bench::protected(0, &[0x0f, 0x21, 0xc0]);
    bench.gate(vector::DB, CODE_32, 0);
    bench.cpu().dr[7] |= 1 << 13;
    assert_eq!(bench.steps(1), None);
    assert_eq!(bench.cpu().rip, HANDLER);
    assert_eq!((bench.cpu().dr[6] >> 13 & 1, bench.cpu().dr[7] >> 13 & 1), (1, 0));
}

#[test]
fn tables_are_loaded_and_stored() {
    // lgdt [0x6000]; sgdt [0x6100]; ltr ax; str cx
    let mut bench = Bench::long(
        0,
        &[
            0x0f, 0x01, 0x14, 0x25, 0x00, 0x60, 0, 0, 0x0f, 0x01, 0x04, 0x25, 0x00, 0x61, 0, 0, 0x0f, 0x00, 0xd8, 0x0f,
            0x00, 0xc9,
        ],
    );
    bench.put_16(0x6000, 0x123);
    bench.put_64(0x6002, GDT);
    bench.cpu().regs[0] = super::TASK.into();
    assert_eq!(bench.steps(4), None);
    assert_eq!((bench.get(0x6100, 2), bench.get(0x6102, 8)), (0x123, GDT));
    assert_eq!(bench.cpu().regs[1], u64::from(super::TASK));
    assert_eq!(bench.get(GDT + u64::from(super::TASK) + 5, 1), 0x8b);
}

#[test]
fn power_on_begins_at_the_top() {
    let mut bench = Bench::real(&[]);
    bench.cpu().reset();
    let cpu = bench.cpu();
    let code = cpu.segs[usize::from(seg::CS)];
    assert_eq!((code.base + cpu.rip, code.selector, cpu.flags.get()), (0xffff_fff0, 0xf000, 2));
    assert_eq!((cpu.cr0, cpu.dr[6], cpu.dr[7]), (0x6000_0010, 0xffff_0ff0, 0x400));
    cpu.sipi(0x9a);
    assert_eq!((cpu.segs[usize::from(seg::CS)].base, cpu.rip), (0x9_a000, 0));
}
