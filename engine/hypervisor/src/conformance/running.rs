//! Starting and stopping.

use std::time::Duration;

use super::rig::{CODE, Event, RESULT, Rig, STOP, code, run_once, run_to_kick, run_to_stop};
use crate::state::DescriptorTableV1;
use crate::{EntryState, Hypervisor, StopReason, Vcpu};

/// Where the checks keep their page tables (three pages) and their GDT.
const PAGE_TABLES: usize = 0x1_0000;
const GDT: usize = 0x1_4000;

fn gdt(rig: &Rig, code_segment: u64) -> DescriptorTableV1 {
    let data: u64 = 0x00cf_9300_0000_ffff;
    let task: u64 = 0x0000_8b00_0000_0067;
    for (at, entry) in [(0x10, code_segment), (0x18, data), (0x20, task)] {
        rig.poke(GDT + at, &entry.to_le_bytes());
    }
    DescriptorTableV1 { base: GDT as u64, limit: 0x2f }
}

/// Sets vCPU 0 up to run [`CODE`] in 64-bit mode, the first GiB mapped to itself.
pub fn enter_long_mode(rig: &Rig, vcpu: &mut dyn Vcpu) {
    // Present, writable; the last level is a large page.
    rig.poke(PAGE_TABLES, &((PAGE_TABLES as u64 + 0x1000) | 3).to_le_bytes());
    rig.poke(PAGE_TABLES + 0x1000, &((PAGE_TABLES as u64 + 0x2000) | 3).to_le_bytes());
    for page in 0..512usize {
        rig.poke(PAGE_TABLES + 0x2000 + page * 8, &(((page as u64) << 21) | 0x83).to_le_bytes());
    }
    let gdt = gdt(rig, 0x00af_9b00_0000_ffff);
    let entry = EntryState::Long { rip: CODE as u64, rsi: 0x1234_5678_9abc, rsp: 0x8000, cr3: PAGE_TABLES as u64, gdt };
    vcpu.set_entry(&entry).expect("registers can be set");
}

/// The entry of Linux's 64-bit boot protocol.
pub fn long_mode_entry(hypervisor: &dyn Hypervisor) {
    let guest = code(&[
        &[0x48, 0x89, 0x34, 0x25, 0x00, 0x20, 0x00, 0x00], // mov [2000h], rsi
        &[0x0f, 0x20, 0xc0],                               // mov rax, cr0
        &[0x48, 0xc1, 0xe8, 0x1f],                         // shr rax, 31
        STOP,
    ]);
    let mut rig = Rig::new(hypervisor, 1, &guest);
    let board = rig.board();
    let mut vcpu = rig.bind();
    enter_long_mode(&rig, &mut *vcpu);
    run_to_stop(&mut *vcpu, &board);
    assert_eq!(u64::from_le_bytes(rig.peek(RESULT)), 0x1234_5678_9abc);
    let state = vcpu.save().expect("a vCPU can be saved");
    assert_eq!(state.special.efer & 0x500, 0x500);
    assert_eq!(state.general.registers[0] & 1, 1, "paging is on");
}

/// The PVH entry.
pub fn protected_mode_entry(hypervisor: &dyn Hypervisor) {
    let guest = code(&[
        &[0x89, 0x1d, 0x00, 0x20, 0x00, 0x00], // mov [2000h], ebx
        &[0x89, 0x35, 0x04, 0x20, 0x00, 0x00], // mov [2004h], esi
        &[0xb8, 0x78, 0x56, 0x34, 0x12],       // mov eax, 12345678h
        &[0xa3, 0x08, 0x20, 0x00, 0x00],       // mov [2008h], eax
        STOP,
    ]);
    let mut rig = Rig::new(hypervisor, 1, &guest);
    let board = rig.board();
    let mut vcpu = rig.bind();
    let gdt = gdt(&rig, 0x00cf_9b00_0000_ffff);
    let entry = EntryState::Protected { eip: CODE as u32, ebx: 0x0b0b_01e5, esi: 0x1000_2000, esp: 0x8000, gdt };
    vcpu.set_entry(&entry).expect("registers can be set");
    run_to_stop(&mut *vcpu, &board);
    assert_eq!(u32::from_le_bytes(rig.peek(RESULT)), 0x0b0b_01e5);
    assert_eq!(u32::from_le_bytes(rig.peek(RESULT + 4)), 0x1000_2000);
    assert_eq!(u32::from_le_bytes(rig.peek(RESULT + 8)), 0x1234_5678);
}

/// A kick before the vCPU has a thread is not lost, and the guest does nothing before it is heard.
pub fn kick_before_run(hypervisor: &dyn Hypervisor) {
    let mut rig = Rig::new(hypervisor, 1, STOP);
    let board = rig.board();
    rig.handles[0].kick();
    rig.handles[0].kick();
    let mut vcpu = rig.bind();
    run_to_kick(&mut *vcpu, &board);
    assert!(!board.stopped(), "the guest ran");
    rig.handles[0].kick();
    run_to_kick(&mut *vcpu, &board);
    assert!(!board.stopped(), "the guest ran");
    run_to_stop(&mut *vcpu, &board);
}

/// Kicks `rounds` times from another thread, each after the last was answered.
fn kick_from_outside(rig: &mut Rig, rounds: usize) {
    let (ready, begin) = std::sync::mpsc::sync_channel::<()>(1);
    let board = rig.board_with(move |_| ready.send(()).unwrap_or(()));
    let handle = rig.handles[0].clone();
    let mut vcpu = rig.bind();
    let (answered, heard) = std::sync::mpsc::sync_channel::<()>(1);
    std::thread::scope(|scope| {
        scope.spawn(move || {
            begin.recv().expect("the guest says when it is ready");
            for round in 0..rounds {
                // Sometimes well inside the guest, sometimes on the way in.
                if round % 4 == 0 {
                    std::thread::sleep(Duration::from_millis(2));
                }
                handle.kick();
                heard.recv().expect("a kick is answered");
            }
        });
        for _ in 0..rounds {
            run_to_kick(&mut *vcpu, &board);
            answered.send(()).unwrap_or(());
        }
    });
    assert_eq!(rig.handles[0].exits().kicked, rounds as u64);
}

/// A guest that never leaves by itself is stopped.
pub fn kick_while_spinning(hypervisor: &dyn Hypervisor) {
    // out 80h, al; jmp $
    kick_from_outside(&mut Rig::new(hypervisor, 1, &[0xe6, 0x80, 0xeb, 0xfe]), 200);
}

/// So is one that waits for an interrupt that never comes.
pub fn kick_while_halted(hypervisor: &dyn Hypervisor) {
    // out 80h, al; again: cli; hlt; jmp again
    kick_from_outside(&mut Rig::new(hypervisor, 1, &[0xe6, 0x80, 0xfa, 0xf4, 0xeb, 0xfc]), 200);
}

/// Kicked from within an access: the access is finished first, and not repeated.
pub fn a_kick_leaves_no_access_half_done(hypervisor: &dyn Hypervisor) {
    let guest = code(&[
        &[0xb0, 0x00, 0xe4, 0x80],       // mov al, 0; in al, 80h
        &[0xfc, 0xba, 0x00, 0x05],       // cld; mov dx, 500h
        &[0xbf, 0x00, 0x30],             // mov di, 3000h
        &[0xb9, 0x04, 0x00, 0xf3, 0x6d], // mov cx, 4; rep insw
        STOP,
    ]);
    let mut rig = Rig::new(hypervisor, 1, &guest);
    let board = rig.board_that_kicks();
    let mut vcpu = rig.bind();
    run_to_kick(&mut *vcpu, &board);
    assert_eq!(board.events(), [Event::PortRead(0x80, 1, vec![1])]);
    let state = vcpu.save().expect("a vCPU can be saved");
    assert_eq!(state.general.registers[0] & 0xff, 1, "the result is in AL");
    run_to_stop(&mut *vcpu, &board);
    assert_eq!(rig.peek(0x3000), [2, 3, 4, 5, 6, 7, 8, 9]);
}

/// A fault that can not be delivered stops the vCPU, and a reset gets it going again.
pub fn triple_fault(hypervisor: &dyn Hypervisor) {
    // The entry leaves the interrupt table empty.
    let guest = [
        0x31, 0xc0, // xor eax, eax
        0xf7, 0xf0, // div eax
    ];
    let mut rig = Rig::new(hypervisor, 1, &guest);
    let board = rig.board();
    let mut vcpu = rig.bind();
    let gdt = gdt(&rig, 0x00cf_9b00_0000_ffff);
    let entry = EntryState::Protected { eip: CODE as u32, ebx: 0, esi: 0, esp: 0x8000, gdt };
    vcpu.set_entry(&entry).expect("registers can be set");
    let stop = run_once(&mut *vcpu, &board);
    assert!(matches!(stop, Ok(StopReason::Shutdown)), "{stop:?}");
    vcpu.reset().expect("a vCPU can be reset");
    rig.poke(CODE, STOP);
    run_to_stop(&mut *vcpu, &board);
}

/// CPUID says what runs the guest and how fast its clocks are.
pub fn cpuid_names_the_hypervisor(hypervisor: &dyn Hypervisor) {
    let guest = code(&[
        &[0x66, 0xb8, 0x00, 0x00, 0x00, 0x40], // mov eax, 40000000h
        &[0x0f, 0xa2],                         // cpuid
        &[0x66, 0x89, 0x1e, 0x00, 0x20],       // mov [2000h], ebx
        &[0x66, 0x89, 0x0e, 0x04, 0x20],       // mov [2004h], ecx
        &[0x66, 0x89, 0x16, 0x08, 0x20],       // mov [2008h], edx
        &[0x66, 0xb8, 0x10, 0x00, 0x00, 0x40], // mov eax, 40000010h
        &[0x0f, 0xa2],                         // cpuid
        &[0x66, 0xa3, 0x0c, 0x20],             // mov [200ch], eax
        &[0x66, 0x89, 0x1e, 0x10, 0x20],       // mov [2010h], ebx
        &[0x66, 0xb8, 0x01, 0x00, 0x00, 0x00], // mov eax, 1
        &[0x0f, 0xa2],                         // cpuid
        &[0x66, 0x89, 0x0e, 0x14, 0x20],       // mov [2014h], ecx
        STOP,
    ]);
    let mut rig = Rig::new(hypervisor, 1, &guest);
    let board = rig.board();
    let mut vcpu = rig.bind();
    run_to_stop(&mut *vcpu, &board);
    assert_eq!(&rig.peek::<12>(RESULT), b"VMwareVMware");
    let rates = rig.vm.clock_rates();
    assert_eq!(u32::from_le_bytes(rig.peek(RESULT + 12)), rates.tsc_khz);
    assert_eq!(u32::from_le_bytes(rig.peek(RESULT + 16)), rates.apic_bus_khz);
    assert_eq!(u32::from_le_bytes(rig.peek(RESULT + 20)) >> 31, 1, "the bit that says there is a hypervisor");
}
