//! Long mode.

use super::{Bench, CODE, CODE_64, CODE_USER_64, DATA, DATA_USER, GDT, HANDLER, IDT, PML4, STACK, STACK_0, TSS};
use crate::cpu::{Effect, Exception, efer, vector};
use crate::flags;
use crate::op::seg;
use crate::run::Exit;
use crate::system::Event;

#[test]
fn code_goes_from_real_to_64_bit_mode() {
    let mut bench = Bench::real(&[
        0x0f, 0x01, 0x16, 0x00, 0x70, // lgdt [0x7000]
        0x0f, 0x20, 0xc0, 0x0c, 0x01, 0x0f, 0x22, 0xc0, // or cr0, PE
        0x66, 0xea, 0x00, 0x11, 0x00, 0x00, 0x08, 0x00, // jmp dword 8:0x1100
    ]);
    bench.put(
        0x1100,
        &[
            0x66, 0xb8, 0x10, 0x00, 0x8e, 0xd8, 0x8e, 0xd0, // mov ds, 0x10; mov ss, 0x10
            0xb8, 0x20, 0x00, 0x00, 0x00, 0x0f, 0x22, 0xe0, // mov cr4, PAE
            0xb8, 0x00, 0x30, 0x01, 0x00, 0x0f, 0x22, 0xd8, // mov cr3, PML4
            0xb9, 0x80, 0x00, 0x00, 0xc0, 0x0f, 0x32, 0x80, 0xcc, 0x01, 0x0f, 0x30, // EFER.LME
            0x0f, 0x20, 0xc0, 0x0d, 0x00, 0x00, 0x00, 0x80, 0x0f, 0x22, 0xc0, // or cr0, PG
            0xea, 0x00, 0x12, 0x00, 0x00, 0x18, 0x00, // jmp 0x18:0x1200
        ],
    );
    bench.put(0x1200, &[0x48, 0xb8, 1, 2, 3, 4, 5, 6, 7, 8, 0xf4]);
    bench.put(0x7000, &[0xff, 0x0f, 0x00, 0x20, 0x00, 0x00]);
    bench.map();
    assert_eq!(bench.steps(40), Some(Exit::Effects(vec![Effect::Halt])));
    let cpu = bench.cpu();
    assert!(cpu.is_64() && cpu.efer & efer::LMA != 0);
    assert_eq!((cpu.rip, cpu.regs[0]), (0x120b, 0x0807_0605_0403_0201));
    // Accessed.
    assert_eq!(bench.get(GDT + 0x18 + 5, 1), 0x9b);
    assert_eq!(bench.selector(seg::CS), CODE_64);
}

#[test]
fn an_interrupt_goes_in_and_comes_back() {
    // INT 0x80 from level 3; the handler is IRETQ.
    let mut bench = Bench::long(3, &[0xcd, 0x80]);
    bench.gate(0x80, CODE_64, 3);
    bench.put(HANDLER, &[0x48, 0xcf]);
    bench.cpu().flags.rest |= flags::IF;
    let before = bench.cpu().flags.get();
    assert_eq!(bench.steps(1), None);
    assert_eq!((bench.cpu().rip, bench.cpu().cpl, bench.cpu().regs[4]), (HANDLER, 0, STACK_0 - 40));
    assert_eq!(bench.stack(8, 5), [CODE + 2, (CODE_USER_64 | 3).into(), before, STACK, (DATA_USER | 3).into()]);
    assert_eq!((bench.selector(seg::CS), bench.selector(seg::SS)), (CODE_64, 0));
    assert_eq!(bench.cpu().flags.rest & flags::IF, 0);
    assert_eq!(bench.steps(1), None);
    assert_eq!((bench.cpu().rip, bench.cpu().cpl, bench.cpu().regs[4]), (CODE + 2, 3, STACK));
    assert_eq!(bench.cpu().flags.get(), before);
    assert_eq!(bench.selector(seg::SS), DATA_USER | 3);
}

#[test]
fn a_gate_that_may_not_be_used_is_a_fault_of_int() {
    let mut bench = Bench::long(3, &[0xcd, 0x80]);
    bench.gate(0x80, CODE_64, 0);
    bench.gate(vector::GP, CODE_64, 0);
    assert_eq!(bench.steps(1), None);
    let pushed = bench.stack(8, 4);
    assert_eq!(pushed[..3], [0x80 * 8 + 2, CODE, (CODE_USER_64 | 3).into()]);
    assert_ne!(pushed[3] & flags::RF, 0);
}

#[test]
fn a_page_fault_says_where_and_why() {
    // mov [0x300000], al
    let mut bench = Bench::long(3, &[0x88, 0x04, 0x25, 0x00, 0x00, 0x30, 0x00]);
    bench.gate(vector::PF, CODE_64, 0);
    assert_eq!(bench.steps(1), None);
    assert_eq!(bench.cpu().cr2, 0x30_0000);
    assert_eq!(bench.stack(8, 2), [6, CODE]);
}

#[test]
fn an_interrupt_stack_is_taken_and_aligned() {
    let mut bench = Bench::long(0, &[0x90]);
    bench.gate(2, CODE_64, 0);
    bench.put(IDT + 2 * 16 + 4, &[3]);
    bench.put_64(TSS + 0x24 + 16, 0xb00f);
    assert!(bench.processor.take(Event::Nmi).is_ok());
    assert_eq!((bench.cpu().regs[4], bench.cpu().nmi_masked), (0xb000 - 40, true));
    assert_eq!(bench.selector(seg::SS), DATA);
    bench.put(HANDLER, &[0x48, 0xcf]);
    assert_eq!(bench.steps(1), None);
    assert_eq!((bench.cpu().rip, bench.cpu().regs[4], bench.cpu().nmi_masked), (CODE, STACK, false));
}

#[test]
fn two_faults_are_a_double_fault_and_three_the_end() {
    let fault = Event::Exception(Exception { vector: vector::GP, error: Some(0), address: 0 });
    let mut bench = Bench::long(0, &[]);
    bench.gate(vector::DF, CODE_64, 0);
    assert!(bench.processor.take(fault).is_ok());
    assert_eq!(bench.stack(8, 2), [0, CODE]);
    let mut bench = Bench::long(0, &[]);
    assert!(bench.processor.take(fault).is_err());
    // An interrupt that has no gate is no double fault.
    let mut bench = Bench::long(0, &[]);
    bench.gate(vector::GP, CODE_64, 0);
    assert!(bench.processor.take(Event::External(0x40)).is_ok());
    assert_eq!(bench.stack(8, 1), [0x40 * 8 + 3]);
    // The stack pointer stays where it was when a push faults.
    let mut bench = Bench::long(3, &[]);
    bench.gate(vector::UD, CODE_64, 0);
    bench.put_64(TSS + 4, 0x40_0000);
    let fault = Event::Exception(Exception { vector: vector::UD, error: None, address: 0 });
    assert!(bench.processor.take(fault).is_err());
    assert_eq!((bench.cpu().regs[4], bench.cpu().cpl, bench.cpu().rip), (STACK, 3, CODE));
}

#[test]
fn system_calls_go_in_and_come_back() {
    let mut bench = Bench::long(3, &[0x0f, 0x05]);
    bench.put(HANDLER, &[0x48, 0x0f, 0x07]);
    let cpu = bench.cpu();
    cpu.msrs.star = u64::from(CODE_64) << 32 | u64::from(DATA_USER - 8) << 48;
    cpu.msrs.lstar = HANDLER;
    cpu.msrs.sfmask = flags::IF;
    cpu.flags.rest |= flags::IF;
    let before = cpu.flags.get();
    assert_eq!(bench.steps(1), None);
    let cpu = bench.cpu();
    assert_eq!((cpu.rip, cpu.cpl, cpu.regs[1], cpu.regs[11]), (HANDLER, 0, CODE + 2, before));
    assert_eq!(cpu.flags.rest & flags::IF, 0);
    assert_eq!(bench.steps(1), None);
    let cpu = bench.cpu();
    assert_eq!((cpu.rip, cpu.cpl, cpu.flags.get()), (CODE + 2, 3, before));
    assert_eq!((bench.selector(seg::CS), bench.selector(seg::SS)), (CODE_USER_64 | 3, DATA_USER | 3));
    // An address that is not canonical is a fault of the supervisor's.
    let mut bench = Bench::long(0, &[0x48, 0x0f, 0x07]);
    bench.gate(vector::GP, CODE_64, 0);
    bench.cpu().regs[1] = 1 << 47;
    assert_eq!(bench.steps(1), None);
    assert_eq!((bench.cpu().rip, bench.cpu().cpl), (HANDLER, 0));
}

#[test]
fn bases_come_back_with_compatibility_mode() {
    let mut bench = Bench::long(0, &[0x48, 0xcb]);
    let cpu = bench.cpu();
    cpu.segs[usize::from(seg::DS)].base = 0x1234_0000;
    cpu.renew();
    assert_eq!(cpu.segs[usize::from(seg::DS)].start, 0);
    bench.put_64(STACK, 0x1100);
    bench.put_64(STACK + 8, 8);
    assert_eq!(bench.steps(1), None);
    assert!(!bench.cpu().is_64());
    assert_eq!(bench.cpu().segs[usize::from(seg::DS)].start, 0x1234_0000);
}

#[test]
fn a_page_is_invalidated_whatever_its_size() {
    // mov al, [0x100000] and invlpg [0x100000], twice
    let load = [0x8a, 0x04, 0x25, 0x00, 0x00, 0x10, 0x00];
    let forget = [0x0f, 0x01, 0x3c, 0x25, 0x00, 0x00, 0x10, 0x00];
    let mut bench = Bench::long(0, &[load.as_slice(), &forget, &load, &load].concat());
    bench.gate(vector::PF, CODE_64, 0);
    assert_eq!(bench.steps(1), None);
    // Now there are small pages, but for that one.
    bench.put_64(PML4 + 0x2000, 0x1_6007);
    for page in 0..256 {
        bench.put_64(0x1_6000 + page * 8, page << 12 | 7);
    }
    assert_eq!(bench.steps(2), None);
    assert_eq!((bench.cpu().rip, bench.cpu().cr2), (HANDLER, 0x10_0000));
}
