//! Saving, restoring, resetting, pausing.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::rig::{CODE, Event, RESULT, Rig, STOP, code, run_to_kick, run_to_stop};
use crate::state::{Element, MsrV1, RunStateV1, VcpuStateV1};
use crate::{Hypervisor, HypervisorError, StopReason};

/// Saved, reset and restored, a vCPU is as it was and goes on where it was.
pub fn round_trip(hypervisor: &dyn Hypervisor) {
    let guest = code(&[
        &[0xfa, 0xbc, 0x00, 0x80], // cli; mov sp, 8000h
        super::interrupts::X2APIC_ON,
        &[0x66, 0xbb, 0xef, 0xbe, 0xad, 0xde], // mov ebx, 0deadbeefh
        &[0x66, 0xb8, 0x21, 0x43, 0x65, 0x87], // mov eax, 87654321h
        &[0x0f, 0x22, 0xd0],                   // mov cr2, eax
        &[0x66, 0xb9, 0x74, 0x01, 0x00, 0x00], // mov ecx, 174h (IA32_SYSENTER_CS)
        &[0x66, 0x31, 0xd2, 0x0f, 0x30],       // xor edx, edx; wrmsr
        &[0xb8, 0x00, 0x30, 0x8e, 0xe0],       // mov ax, 3000h; mov fs, ax
        &[0xf9],                               // stc
        &[0xe6, 0x80],                         // out 80h, al: saved here
        &[0x66, 0x89, 0x1e, 0x00, 0x20],       // mov [2000h], ebx
        &[0x0f, 0x20, 0xd0],                   // mov eax, cr2
        &[0x66, 0xa3, 0x04, 0x20],             // mov [2004h], eax
        &[0x0f, 0x32, 0x66, 0xa3, 0x08, 0x20], // rdmsr; mov [2008h], eax
        &[0x8c, 0xe0, 0xa3, 0x0c, 0x20],       // mov ax, fs; mov [200ch], ax
        &[0x9c, 0x58, 0xa3, 0x0e, 0x20],       // pushf; pop ax; mov [200eh], ax
        STOP,
    ]);
    let mut rig = Rig::new(hypervisor, 1, &guest);
    let board = rig.board_that_kicks();
    let mut vcpu = rig.bind();
    run_to_kick(&mut *vcpu, &board);
    let saved = vcpu.save().expect("a vCPU can be saved");
    saved.validate().expect("what was saved is possible");
    assert_eq!(saved.general.registers[3], 0xdead_beef);
    vcpu.reset().expect("a vCPU can be reset");
    let reset = vcpu.save().expect("a vCPU can be saved");
    let changed = saved.differences(&reset);
    for element in [Element::General, Element::Special, Element::Msrs, Element::LocalApic] {
        assert!(changed.contains(&element), "{} was not reset", element.name());
    }
    vcpu.restore(&saved).expect("what was saved can be restored");
    let again = vcpu.save().expect("a vCPU can be saved");
    assert_eq!(saved.differences(&again), [], "{saved:#x?}\n{again:#x?}");
    assert!(again.tsc.ticks >= saved.tsc.ticks);
    run_to_stop(&mut *vcpu, &board);
    assert_eq!(u32::from_le_bytes(rig.peek(RESULT)), 0xdead_beef);
    assert_eq!(u32::from_le_bytes(rig.peek(RESULT + 4)), 0x8765_4321);
    assert_eq!(u32::from_le_bytes(rig.peek(RESULT + 8)), 0x8765_4321);
    assert_eq!(u16::from_le_bytes(rig.peek(RESULT + 12)), 0x3000);
    assert_eq!(rig.peek::<1>(RESULT + 14)[0] & 1, 1, "the carry flag");
}

/// A state goes on in another VM that has the same memory, in 64-bit mode and with the second vCPU still waiting.
pub fn a_state_moves_to_another_vm(hypervisor: &dyn Hypervisor) {
    let guest = code(&[
        &[0x48, 0xbb, 0xef, 0xcd, 0xab, 0x89, 0x67, 0x45, 0x23, 0x01], // mov rbx, 123456789abcdefh
        &[0x49, 0x89, 0xdf],                                           // mov r15, rbx
        &[0xe6, 0x80],                                                 // out 80h, al: moved here
        &[0x4c, 0x89, 0x3c, 0x25, 0x00, 0x20, 0x00, 0x00],             // mov [2000h], r15
        STOP,
    ]);
    let mut from = Rig::new(hypervisor, 2, &guest);
    let board = from.board_that_kicks();
    let mut vcpu = from.bind();
    super::running::enter_long_mode(&from, &mut *vcpu);
    run_to_kick(&mut *vcpu, &board);
    let saved = [vcpu, from.bind()].map(|mut vcpu| vcpu.save().expect("a vCPU can be saved"));
    assert_eq!(saved[1].run_state, RunStateV1::Uninitialized);

    let mut to = Rig::new(hypervisor, 2, &[]);
    let mut memory = vec![0; super::rig::RAM_BYTES as usize];
    assert!(from.ram.read(0, &mut memory));
    to.poke(0, &memory);
    let mut vcpus = [to.bind(), to.bind()];
    for (vcpu, state) in vcpus.iter_mut().zip(&saved) {
        vcpu.restore(state).expect("what was saved can be restored");
        let again = vcpu.save().expect("a vCPU can be saved");
        assert_eq!(state.differences(&again), [], "{state:#x?}\n{again:#x?}");
    }
    let board = to.board();
    run_to_stop(&mut *vcpus[0], &board);
    assert_eq!(u64::from_le_bytes(to.peek(RESULT)), 0x0123_4567_89ab_cdef);
    assert_eq!(from.peek(RESULT), [0u8; 8], "the VM it came from is another");
}

/// A state that can not be is refused by the name of its part, and nothing of it is used.
pub fn impossible_state_is_refused(hypervisor: &dyn Hypervisor) {
    let mut rig = Rig::new(hypervisor, 1, STOP);
    let board = rig.board();
    let mut vcpu = rig.bind();
    let good = vcpu.save().expect("a vCPU can be saved");
    let mut bad = Vec::new();
    let spoilt: [fn(&mut VcpuStateV1); 12] = [
        |state| state.msrs.push(MsrV1 { index: 0xffff_ffff, value: 0 }),
        |state| state.extended.xsave.truncate(100),
        |state| state.extended.xsave[519] = 0x80,
        |state| state.extended.xsave[27] = 0xff,
        |state| state.xcr0 = 0x200,
        |state| state.local_apic.registers.clear(),
        |state| state.special.cr0 = 1 << 31,
        |state| state.special.cr8 = 16,
        |state| state.special.segments[1].attributes = u32::MAX,
        |state| state.general.rflags = 0,
        |state| state.debug.dr7 = 1 << 40,
        |state| state.events.shadow = 4,
    ];
    for spoil in spoilt {
        let mut state = good.clone();
        state.general.rip = 0x6666;
        spoil(&mut state);
        bad.push(state);
    }
    for state in bad {
        let refused = vcpu.restore(&state);
        assert!(matches!(refused, Err(HypervisorError::State { .. })), "{refused:?}");
        let now = vcpu.save().expect("a vCPU can be saved");
        assert_eq!(good.differences(&now), []);
    }
    run_to_stop(&mut *vcpu, &board);
}

/// After a reset the bootstrap processor starts at its reset vector, another waits.
pub fn reset_starts_over(hypervisor: &dyn Hypervisor) {
    let guest = code(&[
        &[0xfe, 0x06, 0x00, 0x20], // inc byte [2000h]
        &[0xfb],                   // sti
        STOP,
    ]);
    let mut rig = Rig::new(hypervisor, 2, &guest);
    let mut vcpu = rig.bind();
    for round in 1..=3 {
        let board = rig.board();
        run_to_stop(&mut *vcpu, &board);
        assert_eq!(rig.peek(RESULT), [round]);
        vcpu.reset().expect("a vCPU can be reset");
        let state = vcpu.save().expect("a vCPU can be saved");
        assert_eq!((state.general.rip, state.general.rflags), (0xfff0, 2));
        assert_eq!((state.special.segments[1].selector, state.special.segments[1].base), (0xf000, 0xffff_0000));
        assert_eq!(state.special.cr0 & 0x8000_0001, 0);
        assert_eq!(state.run_state, RunStateV1::Runnable);
    }
    let mut second = rig.bind();
    assert_eq!(second.save().expect("a vCPU can be saved").run_state, RunStateV1::Uninitialized);
    rig.handles[1].kick();
    let board = rig.board();
    assert!(matches!(second.run(&board), Ok(StopReason::Kicked)));
    assert_eq!(board.events(), []);
}

/// Saved between the PIC's acknowledge cycle and the handler's first instruction, the interrupt is in the state; reset
/// there, it is gone.
pub fn an_acknowledged_interrupt_survives_saving(hypervisor: &dyn Hypervisor) {
    let guest = code(&[
        &[0xbc, 0x00, 0x80, 0xfb], // mov sp, 8000h; sti
        &[0x90, 0xe6, 0x80],       // nop; out 80h, al
        &[0xeb, 0xfe],             // jmp $
    ]);
    let mut rig = Rig::new(hypervisor, 1, &guest);
    rig.vector(0x33, 0x1100);
    rig.poke(0x1100, STOP);
    let mut vcpu = rig.bind();
    let board = rig.board_that_kicks();
    board.kick_on_acknowledge.store(true, Ordering::SeqCst);
    run_to_kick(&mut *vcpu, &board);
    board.pic.lock().push_back(0x33);
    run_to_kick(&mut *vcpu, &board);
    assert!(board.pic.lock().is_empty() && !board.stopped(), "the acknowledge cycle was in this run");
    let saved = vcpu.save().expect("a vCPU can be saved");
    assert_eq!(saved.events.interrupt, Some((0x33, false)), "acknowledged and not delivered");
    vcpu.reset().expect("a vCPU can be reset");
    vcpu.restore(&saved).expect("what was saved can be restored");
    run_to_stop(&mut *vcpu, &board);

    // Once more, but reset: nothing is left over.
    vcpu.restore(&saved).expect("what was saved can be restored");
    vcpu.reset().expect("a vCPU can be reset");
    let idle = code(&[&[0xbc, 0x00, 0x80, 0xfb, 0x90, 0x90], &[0xfa, 0xe6, 0x81], STOP]);
    rig.poke(CODE, &idle); // mov sp, 8000h; sti; nop; nop; cli; out 81h, al
    let board = rig.board();
    run_to_stop(&mut *vcpu, &board);
    assert!(matches!(board.events()[..], [Event::PortWrite(0x81, 1, _)]), "{:?}", board.events());
}

/// A pause takes no time off the guest's TSC, and a state saved in it resumes where the pause began.
pub fn tsc_stands_still_while_paused(hypervisor: &dyn Hypervisor) {
    let guest = code(&[
        &[0x0f, 0x31, 0x66, 0xa3, 0x00, 0x20], // rdtsc; mov [2000h], eax
        &[0x66, 0x89, 0x16, 0x04, 0x20],       // mov [2004h], edx
        &[0xe6, 0x80],                         // out 80h, al: paused here
        &[0x0f, 0x31, 0x66, 0xa3, 0x08, 0x20], // rdtsc; mov [2008h], eax
        &[0x66, 0x89, 0x16, 0x0c, 0x20],       // mov [200ch], edx
        STOP,
    ]);
    let mut rig = Rig::new(hypervisor, 1, &guest);
    let board = rig.board_that_kicks();
    let mut vcpu = rig.bind();
    run_to_kick(&mut *vcpu, &board);
    vcpu.tsc_pause().expect("the TSC can be stopped");
    let saved = vcpu.save().expect("a vCPU can be saved");
    std::thread::sleep(Duration::from_millis(200));
    let later = vcpu.save().expect("a vCPU can be saved");
    assert_eq!(saved.tsc, later.tsc);
    vcpu.restore(&saved).expect("what was saved can be restored");
    std::thread::sleep(Duration::from_millis(200));
    vcpu.tsc_resume().expect("the TSC can go on");
    run_to_stop(&mut *vcpu, &board);
    if !rig.vm.can_stop_tsc() {
        eprintln!("tsc_stands_still_while_paused: skipped in part: {} can not stop the TSC here", hypervisor.name());
        return;
    }
    let [before, after] = [RESULT, RESULT + 8].map(|at| u64::from_le_bytes(rig.peek(at)));
    let passed_millis = after.saturating_sub(before) / u64::from(rig.vm.clock_rates().tsc_khz);
    assert!(after > before && passed_millis < 200, "{passed_millis} ms passed");
}
