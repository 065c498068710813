//! Interrupts and the local APIC.

use std::time::Duration;

use super::rig::{Event, RESULT, Rig, STOP, code, run_to_kick, run_to_stop};
use crate::state::LocalApicV1;
use crate::{Hypervisor, Msi};

/// Switches the local APIC to x2APIC mode and enables it; real mode can reach it no other way.
pub const X2APIC_ON: &[u8] = &[
    0x66, 0xb9, 0x1b, 0x00, 0x00, 0x00, 0x0f, 0x32, // mov ecx, 1bh; rdmsr (IA32_APIC_BASE)
    0x66, 0x0d, 0x00, 0x04, 0x00, 0x00, 0x0f, 0x30, // or eax, 400h; wrmsr
    0x66, 0xb9, 0x0f, 0x08, 0x00, 0x00, // mov ecx, 80fh (spurious vector)
    0x66, 0xb8, 0xff, 0x01, 0x00, 0x00, // mov eax, 1ffh
    0x66, 0x31, 0xd2, 0x0f, 0x30, // xor edx, edx; wrmsr
];

/// INIT to APIC 1; afterwards ECX is the ICR and EDX the destination, for the SIPI.
pub const INIT_AP: &[u8] = &[
    0x66, 0xb9, 0x30, 0x08, 0x00, 0x00, // mov ecx, 830h (ICR)
    0x66, 0xba, 0x01, 0x00, 0x00, 0x00, // mov edx, 1
    0x66, 0xb8, 0x00, 0x45, 0x00, 0x00, 0x0f, 0x30, // mov eax, 4500h; wrmsr
];

/// Handler: counts at 2000h, EOI to the local APIC, `iret`.
const HANDLER: &[u8] = &[
    0xfe, 0x06, 0x00, 0x20, // inc byte [2000h]
    0x66, 0xb9, 0x0b, 0x08, 0x00, 0x00, // mov ecx, 80bh (EOI)
    0x66, 0x31, 0xc0, 0x66, 0x31, 0xd2, 0x0f, 0x30, // xor eax, eax; xor edx, edx; wrmsr
    0xcf, // iret
];

/// The PIC's interrupt is not delivered before the guest allows it, and then at once.
pub fn pic_waits_for_the_window(hypervisor: &dyn Hypervisor) {
    let guest = code(&[
        &[0xfa, 0xbc, 0x00, 0x80],       // cli; mov sp, 8000h
        &[0xe6, 0x80],                   // out 80h, al: the board raises it
        &[0xc6, 0x06, 0x01, 0x20, 0x01], // mov byte [2001h], 1
        &[0xfb, 0x90],                   // sti; nop
        &[0x80, 0x3e, 0x00, 0x20, 0x02], // again: cmp byte [2000h], 2
        &[0x72, 0xf9],                   // jb again
        STOP,
    ]);
    let mut rig = Rig::new(hypervisor, 1, &guest);
    rig.vector(0x20, 0x1100);
    rig.vector(0x71, 0x1100);
    let handler = [
        0xa0, 0x01, 0x20, 0xe6, 0x81, // mov al, [2001h]; out 81h, al
        0xfe, 0x06, 0x00, 0x20, 0xcf, // inc byte [2000h]; iret
    ];
    rig.poke(0x1100, &handler);
    let board = rig.board();
    // Raised by the write to port 80h in a real board; here it waits from the start, which must not matter.
    board.pic.lock().extend([0x20, 0x71]);
    let mut vcpu = rig.bind();
    run_to_stop(&mut *vcpu, &board);
    assert_eq!(
        board.events(),
        [Event::PortWrite(0x80, 1, vec![0]), Event::PortWrite(0x81, 1, vec![1]), Event::PortWrite(0x81, 1, vec![1]),]
    );
    let exits = rig.handles[0].exits();
    assert!(exits.interrupt_window >= 1 && exits.interrupt_window <= 8, "{exits:?}");
}

/// An interrupt that waits while the guest holds interrupts off is taken when it goes to HLT: nobody kicks again.
pub fn pic_is_taken_at_hlt(hypervisor: &dyn Hypervisor) {
    let guest = code(&[
        &[0xfa, 0xbc, 0x00, 0x80],       // cli; mov sp, 8000h
        &[0xe6, 0x80],                   // out 80h, al
        &[0xfb, 0xf4, 0xfa],             // again: sti; hlt; cli
        &[0x80, 0x3e, 0x00, 0x20, 0x03], // cmp byte [2000h], 3
        &[0x72, 0xf6],                   // jb again
        STOP,
    ]);
    let mut rig = Rig::new(hypervisor, 1, &guest);
    for vector in [0x08, 0x20, 0x71] {
        rig.vector(vector, 0x1100);
    }
    rig.poke(0x1100, &[0xfe, 0x06, 0x00, 0x20, 0xcf]); // inc byte [2000h]; iret
    let board = rig.board();
    board.pic.lock().extend([0x08, 0x20, 0x71]);
    let mut vcpu = rig.bind();
    run_to_stop(&mut *vcpu, &board);
    assert_eq!(rig.peek(RESULT), [3]);
}

/// A vCPU that waits in HLT is woken by the PIC, once it was kicked to look.
pub fn pic_wakes_a_halted_vcpu(hypervisor: &dyn Hypervisor) {
    let guest = code(&[
        &[0xbc, 0x00, 0x80],             // mov sp, 8000h
        &[0xb0, 0x03, 0xe6, 0x80],       // mov al, 3; out 80h, al
        &[0xfb, 0xf4],                   // again: sti; hlt
        &[0x80, 0x3e, 0x00, 0x20, 0x03], // cmp byte [2000h], 3
        &[0x72, 0xf7],                   // jb again
        STOP,
    ]);
    let mut rig = Rig::new(hypervisor, 1, &guest);
    rig.vector(0x08, 0x1100);
    rig.poke(0x1100, &[0xfe, 0x06, 0x00, 0x20, 0xe6, 0x81, 0xcf]); // inc byte [2000h]; out 81h, al; iret
    let (raise, raised) = std::sync::mpsc::sync_channel::<()>(8);
    let raise_again = raise.clone();
    let board = rig.board_with(move |_| {
        // The receiver is gone once it has heard enough.
        raise_again.send(()).unwrap_or(());
    });
    drop(raise);
    let handle = rig.handles[0].clone();
    let mut vcpu = rig.bind();
    std::thread::scope(|scope| {
        let board = &board;
        scope.spawn(move || {
            for _ in 0..3 {
                raised.recv().expect("the guest says when it is ready");
                std::thread::sleep(Duration::from_millis(20));
                board.pic.lock().push_back(0x08);
                handle.kick();
            }
        });
        run_to_stop(&mut *vcpu, board);
    });
    assert_eq!(rig.peek(RESULT), [3]);
}

/// A message reaches the local APIC it names; one that names none, or is none, does no harm.
pub fn msi(hypervisor: &dyn Hypervisor) {
    let guest = code(&[
        &[0xfa, 0xbc, 0x00, 0x80], // cli; mov sp, 8000h
        X2APIC_ON,
        &[0xe6, 0x80],                   // out 80h, al: the board sends it
        &[0xfb, 0xf4],                   // again: sti; hlt
        &[0x80, 0x3e, 0x00, 0x20, 0x01], // cmp byte [2000h], 1
        &[0x72, 0xf7],                   // jb again
        STOP,
    ]);
    let mut rig = Rig::new(hypervisor, 1, &guest);
    rig.vector(0x40, 0x1100);
    rig.vector(0x42, 0x1200);
    rig.poke(0x1100, HANDLER);
    rig.poke(0x1200, STOP);
    let vm = rig.vm.clone();
    let board = rig.board_with(move |_| {
        for (address, data) in [(0xfec0_0000, 0x42), (0x1_fee0_0000, 0x42), (0xfee7_0000, 0x42), (0xfee0_0000, 0x40)] {
            vm.signal_msi(Msi { address, data }).expect("no message is an error");
        }
    });
    let mut vcpu = rig.bind();
    run_to_stop(&mut *vcpu, &board);
    assert_eq!(rig.peek(RESULT), [1]);
}

/// The EOI of a level-triggered entry comes back. It need not come before the guest's next instruction, but soon.
pub fn ioapic_eoi(hypervisor: &dyn Hypervisor) {
    let guest = code(&[
        &[0xfa, 0xbc, 0x00, 0x80], // cli; mov sp, 8000h
        X2APIC_ON,
        &[0xe6, 0x80],                   // out 80h, al: the board sends it
        &[0xfb, 0xf4],                   // again: sti; hlt
        &[0x80, 0x3e, 0x00, 0x20, 0x01], // cmp byte [2000h], 1
        &[0x72, 0xf7],                   // jb again
        &[0xb9, 0xff, 0xff],             // mov cx, 0ffffh
        &[0x80, 0x3e, 0x01, 0x20, 0x01], // wait: cmp byte [2001h], 1
        &[0xe0, 0xf9],                   // loopne wait
        STOP,
    ]);
    let mut rig = Rig::new(hypervisor, 1, &guest);
    rig.vector(0x41, 0x1100);
    rig.poke(0x1100, HANDLER);
    // Level triggered, asserted, vector 41h.
    let level = Msi { address: 0xfee0_0000, data: 0xc041 };
    let mut entries = [None; 24];
    entries[5] = Some(level);
    rig.vm.mirror_ioapic(&entries).expect("entries can be mirrored");
    let (vm, ram) = (rig.vm.clone(), rig.ram.clone());
    let board = rig.board_with(move |event| match event {
        Event::PortWrite(..) => vm.signal_msi(level).expect("a message can be sent"),
        _ => assert!(ram.write(RESULT + 1, &[1])),
    });
    let mut vcpu = rig.bind();
    run_to_stop(&mut *vcpu, &board);
    assert_eq!(board.events(), [Event::PortWrite(0x80, 1, vec![0xff]), Event::Eoi(0x41)]);
    assert_eq!(rig.handles[0].exits().ioapic_eoi, 1);
}

/// As long as an interrupt was accepted and not ended, the saved local APIC says that its EOI is owed.
pub fn an_owed_eoi_is_in_the_state(hypervisor: &dyn Hypervisor) {
    let guest = code(&[
        &[0xfa, 0xbc, 0x00, 0x80], // cli; mov sp, 8000h
        X2APIC_ON,
        &[0xe6, 0x80],                   // out 80h, al: the board sends both; saved here
        &[0xfb],                         // sti
        &[0x80, 0x3e, 0x00, 0x20, 0x02], // again: cmp byte [2000h], 2
        &[0x72, 0xf9],                   // jb again
        STOP,
    ]);
    let mut rig = Rig::new(hypervisor, 1, &guest);
    for vector in [0x44, 0x9b] {
        rig.vector(vector, 0x1100);
    }
    rig.poke(0x1100, HANDLER);
    let (vm, handle) = (rig.vm.clone(), rig.handles[0].clone());
    let board = rig.board_with(move |_| {
        for data in [0x9b, 0x44] {
            vm.signal_msi(Msi { address: 0xfee0_0000, data }).expect("a message can be sent");
        }
        handle.kick();
    });
    let mut vcpu = rig.bind();
    run_to_kick(&mut *vcpu, &board);
    let owed = |apic: &LocalApicV1| (0..=255).filter(|vector| apic.owes_eoi(*vector)).collect::<Vec<u8>>();
    let saved = vcpu.save().expect("a vCPU can be saved");
    assert_eq!(owed(&saved.local_apic), [0x44, 0x9b]);
    // They come with the state.
    vcpu.reset().expect("a vCPU can be reset");
    assert_eq!(owed(&vcpu.save().expect("a vCPU can be saved").local_apic), []);
    vcpu.restore(&saved).expect("what was saved can be restored");
    run_to_stop(&mut *vcpu, &board);
    assert_eq!(owed(&vcpu.save().expect("a vCPU can be saved").local_apic), []);
}

/// The other vCPUs wait until they are sent INIT and SIPI.
pub fn sipi_starts_a_vcpu(hypervisor: &dyn Hypervisor) {
    let guest = code(&[
        X2APIC_ON,
        INIT_AP,
        &[0x66, 0xb8, 0x07, 0x46, 0x00, 0x00, 0x0f, 0x30], // mov eax, 4607h; wrmsr (SIPI, 700:0)
        &[0x80, 0x3e, 0x00, 0x20, 0x5a],                   // again: cmp byte [2000h], 5ah
        &[0x75, 0xf9],                                     // jne again
        STOP,
    ]);
    let mut rig = Rig::new(hypervisor, 2, &guest);
    // mov byte [2000h], 5ah; out 82h, al; hlt
    rig.poke(0x7000, &[0xe6, 0x82, 0xc6, 0x06, 0x00, 0x20, 0x5a, 0xfa, 0xf4]);
    let board = rig.board();
    let ap = rig.seeds.pop_back().expect("there are two");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut ap = ap.bind().expect("a vCPU can be bound");
            run_to_stop(&mut *ap, &board);
        });
        let mut bsp = rig.bind();
        run_to_stop(&mut *bsp, &board);
    });
    assert_eq!(board.events().len(), 1, "{:?}", board.events());
    assert!(matches!(board.events()[0], Event::PortWrite(0x82, 1, _)));
}
