//! Memory slots.

use std::sync::atomic::{AtomicBool, Ordering};

use super::rig::{Event, RESULT, Rig, STOP, code, region, run_to_stop, slot};
use crate::{Hypervisor, MemorySlot};

/// A store to a read-only slot goes to the board and changes nothing; loads read the memory.
pub fn read_only_memory(hypervisor: &dyn Hypervisor) {
    let guest = code(&[
        &[0xb8, 0x00, 0x90, 0x8e, 0xc0],       // mov ax, 9000h; mov es, ax
        &[0x26, 0xc6, 0x06, 0x10, 0x00, 0xaa], // mov byte es:[10h], 0aah
        &[0x26, 0xa0, 0x10, 0x00],             // mov al, es:[10h]
        &[0xa2, 0x00, 0x20],                   // mov [2000h], al
        STOP,
    ]);
    let mut rig = Rig::new(hypervisor, 1, &guest);
    let rom = region(0x1000);
    assert!(rom.write(0x10, &[0x55]));
    rig.vm.map(&MemorySlot { read_only: true, ..slot(2, 0x9_0000, &rom) }).expect("read-only memory can be mapped");
    let board = rig.board();
    let mut vcpu = rig.bind();
    run_to_stop(&mut *vcpu, &board);
    assert_eq!(board.events(), [Event::MmioWrite(0x9_0010, vec![0xaa])]);
    assert_eq!(rig.peek(RESULT), [0x55]);
    let mut byte = [0];
    assert!(rom.read(0x10, &mut byte) && byte == [0x55], "the read-only memory changed to {byte:x?}");
}

/// The log names the pages that were written, once.
pub fn dirty_log(hypervisor: &dyn Hypervisor) {
    let guest = code(&[
        &[0xb8, 0x00, 0x91, 0x8e, 0xc0], // mov ax, 9100h; mov es, ax
        &[0x26, 0xa2, 0x00, 0x00],       // mov es:[0], al
        &[0xb8, 0x00, 0x93, 0x8e, 0xc0], // mov ax, 9300h; mov es, ax
        &[0x26, 0xa2, 0x08, 0x00],       // mov es:[8], al
        &[0xb8, 0x00, 0x92, 0x8e, 0xc0], // mov ax, 9200h; mov es, ax
        &[0x26, 0xa0, 0x00, 0x00],       // mov al, es:[0]
        &[0xe6, 0x80],                   // out 80h, al
        &[0xb8, 0x00, 0x91, 0x8e, 0xc0], // mov ax, 9100h; mov es, ax
        &[0x26, 0xa2, 0x00, 0x00],       // mov es:[0], al
        STOP,
    ]);
    let mut rig = Rig::new(hypervisor, 1, &guest);
    let memory = region(0x4000);
    rig.vm.map(&slot(2, 0x9_0000, &memory)).expect("memory can be mapped");
    assert!(rig.vm.take_dirty(2).is_err(), "no log was asked for");
    rig.vm.map(&MemorySlot { log_dirty: true, ..slot(2, 0x9_0000, &memory) }).expect("a log can be had later");
    let vm = rig.vm.clone();
    let board = rig.board_with(move |_| {
        assert_eq!(vm.take_dirty(2).expect("there is a log"), [0b1010]);
        assert_eq!(vm.take_dirty(2).expect("there is a log"), [0]);
    });
    let mut vcpu = rig.bind();
    run_to_stop(&mut *vcpu, &board);
    assert_eq!(board.events().len(), 1);
    assert_eq!(rig.vm.take_dirty(2).expect("there is a log"), [0b0010]);
    rig.vm.unmap(2).expect("a slot can be removed");
    rig.vm.unmap(2).expect("twice is fine");
}

/// A slot is replaced again and again under a vCPU that reads from it and one that runs code in it: neither ever sees
/// it missing.
pub fn slots_can_be_replaced_while_running(hypervisor: &dyn Hypervisor) {
    // The BSP starts the AP in the slot (SIPI vector 90h), then reads from it.
    let guest = code(&[
        super::interrupts::X2APIC_ON,
        super::interrupts::INIT_AP,
        &[0x66, 0xb8, 0x90, 0x46, 0x00, 0x00, 0x0f, 0x30], // mov eax, 4690h; wrmsr (SIPI, 9000:0)
        &[0xb8, 0x00, 0x90, 0x8e, 0xc0],                   // mov ax, 9000h; mov es, ax
        &[0x26, 0xa0, 0x80, 0x00],                         // again: mov al, es:[80h]
        &[0x3c, 0x33, 0x74, 0x0a],                         // cmp al, 33h; je done
        &[0x3c, 0x22, 0x74, 0xf4],                         // cmp al, 22h; je again
        &[0x3c, 0x11, 0x74, 0xf0],                         // cmp al, 11h; je again
        &[0xe6, 0x81],                                     // out 81h, al
        STOP,                                              // done
    ]);
    let mut rig = Rig::new(hypervisor, 2, &guest);
    let regions = [0x11u8, 0x22, 0x33].map(|mark| {
        let region = region(0x1000);
        // again: inc word ds:[2000h]; jmp again
        assert!(region.write(0, &[0xff, 0x06, 0x00, 0x20, 0xeb, 0xfa]) && region.write(0x80, &[mark]));
        region
    });
    rig.vm.map(&slot(2, 0x9_0000, &regions[0])).expect("memory can be mapped");
    let board = rig.board();
    let ready = AtomicBool::new(false);
    let ap = rig.seeds.pop_back().expect("there are two");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut ap = ap.bind().expect("a vCPU can be bound");
            ready.store(true, Ordering::SeqCst);
            run_to_stop(&mut *ap, &board);
        });
        let (vm, ram, regions, board) = (&rig.vm, &rig.ram, &regions, &board);
        scope.spawn(move || {
            let count = || {
                let mut count = [0; 2];
                assert!(ram.read(RESULT, &mut count));
                u16::from_le_bytes(count)
            };
            for round in 0..200usize {
                vm.map(&slot(2, 0x9_0000, &regions[round % 2])).expect("a slot can be replaced");
                let before = count();
                for _ in 0..100 {
                    if count() != before || board.stopped() {
                        break;
                    }
                    std::thread::sleep(std::time::Duration::from_micros(200));
                }
            }
            vm.map(&slot(2, 0x9_0000, &regions[2])).expect("a slot can be replaced");
        });
        while !ready.load(Ordering::SeqCst) {
            std::thread::yield_now();
        }
        let mut bsp = rig.seeds.pop_front().expect("there are two").bind().expect("a vCPU can be bound");
        run_to_stop(&mut *bsp, board);
    });
    assert_eq!(board.events(), [], "a vCPU saw something else than the slot");
    assert_ne!(rig.peek(RESULT), [0u8; 2], "the second vCPU ran");
}
