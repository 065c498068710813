//! Real, protected and virtual-8086 mode.

use super::{Bench, CODE, CODE_32, CODE_USER_32, DATA, DATA_USER, FREE, GDT, HANDLER, IDT, STACK, STACK_0, TASK, TSS};
use crate::cpu::{Effect, Exception, Request, cr4, vector};
use crate::flags;
use crate::op::seg;
use crate::run::Exit;
use crate::system::Event;

#[test]
fn an_interrupt_of_real_mode_goes_in_and_comes_back() {
    let mut bench = Bench::real(&[0xcd, 0x10, 0x90]);
    bench.put_64(0x40, 0x0a00_0000);
    bench.put(HANDLER, &[0xcf]);
    let cpu = bench.cpu();
    cpu.flags.rest |= flags::IF | flags::TF;
    cpu.flags.rest &= !flags::TF;
    assert_eq!(bench.steps(1), None);
    assert_eq!((bench.cpu().rip, bench.selector(seg::CS)), (0, 0xa00));
    assert_eq!(bench.stack(2, 3), [CODE + 2, 0, 0x202]);
    assert_eq!(bench.steps(1), None);
    assert_eq!((bench.cpu().rip, bench.selector(seg::CS), bench.cpu().regs[4]), (CODE + 2, 0, STACK));
    assert_eq!(bench.cpu().flags.get(), 0x202);
}

#[test]
fn far_calls_of_real_mode_return() {
    // call 0xa00:0; the other end is retf 4
    let mut bench = Bench::real(&[0x9a, 0x00, 0x00, 0x00, 0x0a]);
    bench.put(HANDLER, &[0xca, 0x04, 0x00]);
    assert_eq!(bench.steps(2), None);
    assert_eq!((bench.cpu().rip, bench.selector(seg::CS), bench.cpu().regs[4]), (CODE + 5, 0, STACK + 4));
}

#[test]
fn limits_of_protected_mode_stay_in_real_mode() {
    let mut bench = Bench::real(&[0x8e, 0xd8, 0x2e, 0xa3, 0x00, 0x60]);
    bench.cpu().segs[usize::from(seg::DS)].limit = u32::MAX;
    bench.cpu().regs[0] = 0x123;
    assert_eq!(bench.steps(1), None);
    let segment = bench.cpu().segs[usize::from(seg::DS)];
    assert_eq!((segment.base, segment.limit, segment.selector), (0x1230, u32::MAX, 0x123));
    // Code can be written.
    assert_eq!(bench.steps(1), None);
    assert_eq!(bench.get(0x6000, 2), 0x123);
}

#[test]
fn an_interrupt_of_32_bits_goes_in_and_comes_back() {
    let mut bench = Bench::protected(3, &[0xcd, 0x80]);
    bench.gate(0x80, CODE_32, 3);
    bench.put(HANDLER, &[0xcf]);
    assert_eq!(bench.steps(1), None);
    assert_eq!(bench.stack(4, 5), [CODE + 2, (CODE_USER_32 | 3).into(), 2, STACK, (DATA_USER | 3).into()]);
    assert_eq!((bench.cpu().cpl, bench.selector(seg::SS)), (0, DATA));
    // What level 3 must not have is taken from it.
    bench.cpu().load_segment(seg::ES, DATA).unwrap();
    assert_eq!(bench.steps(1), None);
    assert_eq!((bench.cpu().rip, bench.cpu().cpl, bench.cpu().regs[4]), (CODE + 2, 3, STACK));
    assert!(!bench.cpu().segs[usize::from(seg::ES)].is_usable());
    assert_eq!(bench.selector(seg::DS), DATA_USER | 3);
}

#[test]
fn a_call_gate_takes_parameters_along() {
    // call FREE:0; the other end is retf 8
    let mut bench = Bench::protected(3, &[0x9a, 0, 0, 0, 0, FREE as u8, 0]);
    bench.put_64(GDT + u64::from(FREE), HANDLER | u64::from(CODE_32) << 16 | 0xec02 << 32);
    bench.put(HANDLER, &[0xca, 0x08, 0x00]);
    bench.put_32(STACK, 111);
    bench.put_32(STACK + 4, 222);
    assert_eq!(bench.steps(1), None);
    assert_eq!((bench.cpu().rip, bench.cpu().cpl), (HANDLER, 0));
    let pushed = [CODE + 7, (CODE_USER_32 | 3).into(), 111, 222, STACK, (DATA_USER | 3).into()];
    assert_eq!(bench.stack(4, 6), pushed);
    assert_eq!(bench.steps(1), None);
    assert_eq!((bench.cpu().rip, bench.cpu().cpl, bench.cpu().regs[4]), (CODE + 7, 3, STACK + 8));
}

/// A second task whose code is at the handler's address.
fn with_task(mut bench: Bench) -> Bench {
    let base = 0xc000;
    bench.put_64(GDT + u64::from(FREE), 0x67 | base << 16 | 0xe9 << 40);
    // Of the task in use, which is busy.
    bench.put_64(GDT + u64::from(TASK), 0x2000 | TSS << 16 | 0x8b << 40);
    bench.put_32(base + 0x20, HANDLER as u32);
    bench.put_32(base + 0x24, 2);
    bench.put_32(base + 0x38, 0xd000);
    for (at, selector) in (0x48..).step_by(4).zip([DATA, CODE_32, DATA, DATA, 0, 0]) {
        bench.put_32(base + at, selector.into());
    }
    bench.cpu().regs[0] = 77;
    bench
}

#[test]
fn a_task_is_called_and_returns() {
    let mut bench = with_task(Bench::protected(3, &[0x9a, 0, 0, 0, 0, FREE as u8, 0]));
    bench.put(HANDLER, &[0xcf]);
    assert_eq!(bench.steps(1), None);
    assert_eq!((bench.cpu().rip, bench.cpu().cpl, bench.selector(seg::TR)), (HANDLER, 0, FREE));
    assert_eq!((bench.cpu().regs[0], bench.cpu().regs[4]), (0, 0xd000));
    assert_ne!(bench.cpu().flags.rest & flags::NT, 0);
    // The link, both busy, and what the old one left.
    assert_eq!((bench.get(0xc000, 2), bench.get(GDT + u64::from(FREE) + 5, 1)), (TASK.into(), 0xeb));
    assert_eq!((bench.get(TSS + 0x20, 4), bench.get(TSS + 0x28, 4)), (CODE + 7, 77));
    assert_eq!(bench.steps(1), None);
    assert_eq!((bench.cpu().rip, bench.cpu().cpl, bench.selector(seg::TR)), (CODE + 7, 3, TASK));
    assert_eq!((bench.cpu().regs[0], bench.cpu().regs[4]), (77, STACK));
    assert_eq!(bench.get(GDT + u64::from(FREE) + 5, 1), 0xe9);
    assert_eq!(bench.selector(seg::DS), DATA_USER | 3);
}

#[test]
fn a_task_gate_takes_an_exception() {
    let mut bench = with_task(Bench::protected(3, &[0xf4]));
    bench.put_64(IDT + 13 * 8, u64::from(FREE) << 16 | 0x85 << 40);
    assert_eq!(bench.steps(1), None);
    assert_eq!((bench.cpu().rip, bench.selector(seg::TR), bench.cpu().regs[4]), (HANDLER, FREE, 0xcffc));
    assert_eq!(bench.stack(4, 1), [0]);
    assert_eq!(bench.get(TSS + 0x20, 4), CODE);
}

#[test]
fn a_task_that_can_not_run_faults_itself() {
    let mut bench = with_task(Bench::protected(0, &[0x9a, 0, 0, 0, 0, FREE as u8, 0]));
    bench.put_32(0xc000 + 0x54, 0x7f8);
    bench.gate(vector::TS, CODE_32, 0);
    bench.put_64(IDT + 10 * 8, (HANDLER + 8) | u64::from(CODE_32) << 16 | 0x8e << 40);
    bench.cpu().gdt.limit = 0x7f;
    assert_eq!(bench.steps(1), None);
    assert_eq!((bench.cpu().rip, bench.selector(seg::TR)), (HANDLER + 8, FREE));
    assert_eq!(bench.stack(4, 2), [0x7f8, HANDLER]);
}

#[test]
fn virtual_8086_mode_is_entered_and_left() {
    let mut bench = Bench::protected(0, &[0xcf]);
    let frame = [0, 0x100, flags::VM as u32 | 2, 0x4000, 0x200, 0x300, 0x400, 0x500, 0x600];
    for (at, value) in (STACK..).step_by(4).zip(frame) {
        bench.put_32(at, value);
    }
    // int 0x21: at IOPL 0 it is the monitor's.
    bench.put(0x1000, &[0xcd, 0x21]);
    bench.put(CODE, &[0xcf]);
    bench.put_32(STACK, 0x800);
    bench.put(0x1800, &[0xcd, 0x21]);
    bench.gate(vector::GP, CODE_32, 0);
    assert_eq!(bench.steps(1), None);
    let cpu = bench.cpu();
    assert!(cpu.is_v86() && cpu.cpl == 3);
    assert_eq!((cpu.rip, cpu.segs[usize::from(seg::CS)].base, cpu.regs[4]), (0x800, 0x1000, 0x4000));
    assert_eq!(bench.steps(1), None);
    assert!(!bench.cpu().is_v86());
    let frame = [0, 0x800, 0x100, flags::VM | flags::RF | 2, 0x4000, 0x200, 0x300, 0x400, 0x500, 0x600];
    assert_eq!(bench.stack(4, 10), frame);
    assert_eq!(bench.cpu().regs[4], STACK_0 - 40);
    assert!(!bench.cpu().segs[usize::from(seg::GS)].is_usable());
    // INT3 asks for no IOPL, but for the gate's level.
    let mut bench = Bench::protected(0, &[0xcf]);
    for (at, value) in (STACK..).step_by(4).zip([0x800, 0x100, flags::VM as u32, 0x4000, 0, 0, 0, 0, 0]) {
        bench.put_32(at, value);
    }
    bench.put(0x1800, &[0xcc]);
    bench.gate(vector::BP, CODE_32, 3);
    assert_eq!(bench.steps(2), None);
    assert_eq!(bench.stack(4, 2), [0x801, 0x100]);
}

#[test]
fn virtual_8086_mode_has_interrupts_of_its_own() {
    // sti; int 0x21; and the handler: cli; iret
    let mut bench = Bench::protected(0, &[0xcf]);
    for (at, value) in (STACK..).step_by(4).zip([0x800, 0x100, flags::VM as u32, 0x4000, 0, 0, 0, 0, 0]) {
        bench.put_32(at, value);
    }
    bench.put(0x1800, &[0xfb, 0xcd, 0x21]);
    bench.put_32(0x21 * 4, 0x0a00_0000);
    bench.put(HANDLER, &[0xfa, 0xcf]);
    bench.put_16(TSS + 0x66, 0x100);
    bench.cpu().cr4 |= cr4::VME;
    assert_eq!(bench.steps(3), None);
    let cpu = bench.cpu();
    assert_eq!((cpu.is_v86(), cpu.rip, cpu.segs[usize::from(seg::CS)].base), (true, 0, HANDLER));
    assert_eq!(cpu.flags.rest & (flags::IF | flags::VIF), 0);
    // The program sees its own IF, and IOPL 3.
    assert_eq!(bench.stack(2, 3), [0x803, 0x100, flags::IF | flags::IOPL | 2]);
    assert_eq!(bench.steps(2), None);
    assert_eq!((bench.cpu().rip, bench.cpu().regs[4]), (0x803, 0x4000));
    assert_eq!(bench.cpu().flags.rest, flags::VM | flags::VIF);
    // With its bit set in the bitmap it is the monitor's.
    bench.put(TSS + 0x100 - 32 + 4, &[2]);
    bench.gate(vector::GP, CODE_32, 0);
    bench.cpu().rip = 0x801;
    assert_eq!(bench.steps(1), None);
    assert!(!bench.cpu().is_v86());
    assert_eq!(bench.stack(4, 2), [0, 0x801]);
}

#[test]
fn ports_are_asked_for_and_allowed_by_the_bitmap() {
    // in al, 0x21; out dx, ax
    let mut bench = Bench::protected(3, &[0xe4, 0x21, 0x66, 0xef]);
    bench.put_16(TSS + 0x66, 0x100);
    let ask = Request::In(0x21, 1);
    assert_eq!(bench.steps(1), Some(Exit::Ask(ask)));
    bench.processor.answer(ask, 0x5a);
    assert_eq!(bench.steps(1), None);
    assert_eq!(bench.cpu().regs[0], 0x5a);
    bench.cpu().regs[2] = 0x3f7;
    assert_eq!(bench.steps(1), Some(Exit::Effects(vec![Effect::Out(0x3f7, 2, 0x5a)])));
    // Bit 0 of the next byte is the word's second port.
    bench.put(TSS + 0x100 + 0x7f, &[1]);
    bench.gate(vector::GP, CODE_32, 0);
    bench.cpu().rip = CODE + 2;
    assert_eq!(bench.steps(1), None);
    assert_eq!(bench.cpu().rip, HANDLER);
}

#[test]
fn a_string_is_read_from_a_port_one_by_one() {
    let mut bench = Bench::protected(0, &[0xf3, 0x6c]);
    let cpu = bench.cpu();
    (cpu.regs[1], cpu.regs[2], cpu.regs[7]) = (2, 0x1f0, 0x6000);
    let ask = Request::In(0x1f0, 1);
    for value in [1, 2] {
        assert_eq!(bench.steps(1), Some(Exit::Ask(ask)));
        bench.processor.answer(ask, value);
        assert_eq!(bench.steps(1), None);
    }
    assert_eq!((bench.get(0x6000, 2), bench.cpu().regs[1], bench.cpu().rip), (0x201, 0, CODE + 2));
}

#[test]
fn an_exception_of_an_inner_level_stays_on_its_stack() {
    let mut bench = Bench::protected(0, &[]);
    bench.gate(vector::UD, CODE_32, 0);
    let fault = Event::Exception(Exception { vector: vector::UD, error: None, address: 0 });
    assert!(bench.processor.take(fault).is_ok());
    assert_eq!(bench.stack(4, 3), [CODE, CODE_32.into(), flags::RF | 2]);
    assert_eq!(bench.cpu().regs[4], STACK - 12);
}
