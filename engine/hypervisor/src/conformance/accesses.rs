//! Ports and MMIO.

use super::rig::{Event, RESULT, Rig, STOP, code, run_to_stop};
use super::running::enter_long_mode;
use crate::Hypervisor;

/// IN and OUT of 1, 2 and 4 bytes.
pub fn port_sizes(hypervisor: &dyn Hypervisor) {
    let guest = code(&[
        &[0xba, 0x00, 0x05],                   // mov dx, 500h
        &[0xb0, 0x11, 0xee],                   // mov al, 11h; out dx, al
        &[0xb8, 0x33, 0x22, 0xef],             // mov ax, 2233h; out dx, ax
        &[0x66, 0xb8, 0x77, 0x66, 0x55, 0x44], // mov eax, 44556677h
        &[0x66, 0xef],                         // out dx, eax
        &[0xec, 0xa2, 0x00, 0x20],             // in al, dx; mov [2000h], al
        &[0xed, 0xa3, 0x02, 0x20],             // in ax, dx; mov [2002h], ax
        &[0x66, 0xed, 0x66, 0xa3, 0x04, 0x20], // in eax, dx; mov [2004h], eax
        STOP,
    ]);
    let mut rig = Rig::new(hypervisor, 1, &guest);
    let board = rig.board();
    let mut vcpu = rig.bind();
    run_to_stop(&mut *vcpu, &board);
    assert_eq!(
        board.events(),
        [
            Event::PortWrite(0x500, 1, vec![0x11]),
            Event::PortWrite(0x500, 2, vec![0x33, 0x22]),
            Event::PortWrite(0x500, 4, vec![0x77, 0x66, 0x55, 0x44]),
            Event::PortRead(0x500, 1, vec![1]),
            Event::PortRead(0x500, 2, vec![2, 3]),
            Event::PortRead(0x500, 4, vec![4, 5, 6, 7]),
        ]
    );
    assert_eq!(rig.peek(RESULT), [1, 0, 2, 3, 4, 5, 6, 7]);
    let exits = rig.handles[0].exits();
    assert!(exits.port >= 7 && exits.mmio == 0, "{exits:?}");
}

/// Loads and stores of 1, 2, 4 and 8 bytes where there is no memory.
pub fn mmio_sizes(hypervisor: &dyn Hypervisor) {
    let guest = code(&[
        &[0x48, 0xc7, 0xc3, 0x00, 0x00, 0x20, 0x00],       // mov rbx, 200000h
        &[0x8a, 0x03],                                     // mov al, [rbx]
        &[0x66, 0x8b, 0x03],                               // mov ax, [rbx]
        &[0x8b, 0x03],                                     // mov eax, [rbx]
        &[0x48, 0x8b, 0x03],                               // mov rax, [rbx]
        &[0x48, 0x89, 0x04, 0x25, 0x00, 0x20, 0x00, 0x00], // mov [2000h], rax
        &[0x88, 0x03],                                     // mov [rbx], al
        &[0x66, 0x89, 0x03],                               // mov [rbx], ax
        &[0x89, 0x03],                                     // mov [rbx], eax
        &[0x48, 0x89, 0x03],                               // mov [rbx], rax
        STOP,
    ]);
    let mut rig = Rig::new(hypervisor, 1, &guest);
    let board = rig.board();
    let mut vcpu = rig.bind();
    enter_long_mode(&rig, &mut *vcpu);
    run_to_stop(&mut *vcpu, &board);
    let at = 0x20_0000;
    assert_eq!(
        board.events(),
        [
            Event::MmioRead(at, vec![1]),
            Event::MmioRead(at, vec![2, 3]),
            Event::MmioRead(at, vec![4, 5, 6, 7]),
            Event::MmioRead(at, vec![8, 9, 10, 11, 12, 13, 14, 15]),
            Event::MmioWrite(at, vec![8]),
            Event::MmioWrite(at, vec![8, 9]),
            Event::MmioWrite(at, vec![8, 9, 10, 11]),
            Event::MmioWrite(at, vec![8, 9, 10, 11, 12, 13, 14, 15]),
        ]
    );
    assert_eq!(rig.peek(RESULT), [8, 9, 10, 11, 12, 13, 14, 15]);
}

/// REP INS and REP OUTS: the elements come in order and whole, however many to a call.
pub fn string_io(hypervisor: &dyn Hypervisor) {
    let guest = code(&[
        &[0xfc, 0xba, 0x00, 0x05],       // cld; mov dx, 500h
        &[0xbf, 0x00, 0x30],             // mov di, 3000h
        &[0xb9, 0x05, 0x00, 0xf3, 0x6c], // mov cx, 5; rep insb
        &[0xb9, 0x00, 0x01, 0xf3, 0x6d], // mov cx, 256; rep insw
        &[0xbe, 0x00, 0x40],             // mov si, 4000h
        &[0xb9, 0x05, 0x00, 0xf3, 0x6e], // mov cx, 5; rep outsb
        &[0xb9, 0x03, 0x00, 0xf3, 0x6f], // mov cx, 3; rep outsw
        &[0x66, 0x6f],                   // outsd
        STOP,
    ]);
    let mut rig = Rig::new(hypervisor, 1, &guest);
    let source: Vec<u8> = (0x80..0x80 + 15).collect();
    rig.poke(0x4000, &source);
    let board = rig.board();
    let mut vcpu = rig.bind();
    run_to_stop(&mut *vcpu, &board);
    let (mut read, mut written) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new(), Vec::new()]);
    for event in board.events() {
        match event {
            Event::PortRead(0x500, width @ (1 | 2), data) => {
                assert!(data.len().is_multiple_of(width));
                read[width / 2].extend(data);
            }
            Event::PortWrite(0x500, width @ (1 | 2 | 4), data) => {
                assert!(data.len().is_multiple_of(width));
                written[width / 2].extend(data);
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(read[0], [1, 2, 3, 4, 5]);
    assert_eq!(read[1].len(), 512);
    assert_eq!(rig.peek::<512>(0x3005).as_slice(), read[1]);
    assert_eq!(rig.peek(0x3000), [1, 2, 3, 4, 5, 6, 7]);
    assert_eq!(written.concat(), source);
    assert_eq!(written[2].len(), 4);
}

/// A 32-bit IN from the backdoor port reads and changes general registers.
pub fn backdoor_registers(hypervisor: &dyn Hypervisor) {
    let guest = code(&[
        &[0x66, 0xb8, 0x68, 0x58, 0x4d, 0x56], // mov eax, 564d5868h
        &[0x66, 0xbb, 0x00, 0x00, 0x01, 0x00], // mov ebx, 10000h
        &[0x66, 0xb9, 0x00, 0x00, 0x02, 0x00], // mov ecx, 20000h
        &[0x66, 0xba, 0x58, 0x56, 0x00, 0x00], // mov edx, 5658h
        &[0x66, 0xbe, 0x00, 0x00, 0x03, 0x00], // mov esi, 30000h
        &[0x66, 0xbf, 0x00, 0x00, 0x04, 0x00], // mov edi, 40000h
        &[0x66, 0xed],                         // in eax, dx
        &[0x66, 0xa3, 0x00, 0x20],             // mov [2000h], eax
        &[0x66, 0x89, 0x1e, 0x04, 0x20],       // mov [2004h], ebx
        &[0x66, 0x89, 0x0e, 0x08, 0x20],       // mov [2008h], ecx
        &[0x66, 0x89, 0x16, 0x0c, 0x20],       // mov [200ch], edx
        &[0x66, 0x89, 0x36, 0x10, 0x20],       // mov [2010h], esi
        &[0x66, 0x89, 0x3e, 0x14, 0x20],       // mov [2014h], edi
        &[0xed],                               // in ax, dx: 16 bits, an ordinary port
        STOP,
    ]);
    let mut rig = Rig::new(hypervisor, 1, &guest);
    let board = rig.board();
    let mut vcpu = rig.bind();
    run_to_stop(&mut *vcpu, &board);
    let words: Vec<u32> = rig
        .peek::<24>(RESULT)
        .chunks_exact(4)
        .map(|word| word.iter().rev().fold(0, |sum, byte| sum << 8 | u32::from(*byte)))
        .collect();
    assert_eq!(words, [0x564d_5869, 0x1_0002, 0x2_0003, 0x5658, 0x3_0004, 0x4_0005]);
    assert_eq!(board.events(), [Event::PortRead(0x5658, 2, vec![1, 2])]);
}

/// Writes that are gathered arrive before the next exit, in order, also when there are more than fit.
pub fn gathered_writes_come_in_order(hypervisor: &dyn Hypervisor) {
    let guest = code(&[
        &[0xba, 0x00, 0x05],             // mov dx, 500h
        &[0xb8, 0x00, 0x00],             // mov ax, 0
        &[0xef],                         // again: out dx, ax
        &[0x40, 0x3d, 0x90, 0x01],       // inc ax; cmp ax, 400
        &[0x72, 0xf9],                   // jb again
        &[0xe4, 0x80],                   // in al, 80h
        &[0xb8, 0x00, 0xa0, 0x8e, 0xc0], // mov ax, 0a000h; mov es, ax
        &[0x26, 0xa2, 0x10, 0x00],       // mov es:[10h], al
        &[0xef],                         // out dx, ax
        STOP,
    ]);
    let mut rig = Rig::new(hypervisor, 1, &guest);
    let ports = rig.vm.coalesce_ports(0x500, 2).expect("asking costs nothing");
    let mmio = rig.vm.coalesce_mmio(0xa_0000, 0x1000).expect("asking costs nothing");
    let board = rig.board();
    let mut vcpu = rig.bind();
    run_to_stop(&mut *vcpu, &board);
    let mut expected: Vec<_> =
        (0..400u16).map(|value| Event::PortWrite(0x500, 2, value.to_le_bytes().into())).collect();
    expected.push(Event::PortRead(0x80, 1, vec![1]));
    expected.push(Event::MmioWrite(0xa_0010, vec![0]));
    expected.push(Event::PortWrite(0x500, 2, vec![0x00, 0xa0]));
    let events = board.events();
    let plain: Vec<_> = events
        .iter()
        .map(|event| match event.clone() {
            Event::GatheredPort(port, data) => Event::PortWrite(port, data.len(), data),
            Event::GatheredMmio(gpa, data) => Event::MmioWrite(gpa, data),
            other => other,
        })
        .collect();
    assert_eq!(plain, expected);
    let gathered = events.iter().filter(|event| matches!(event, Event::GatheredPort(..))).count();
    assert_eq!(gathered > 300, ports, "{gathered} of 401 port writes were gathered");
    assert_eq!(events.contains(&Event::GatheredMmio(0xa_0010, vec![0])), mmio);
    let exits = rig.handles[0].exits();
    assert!(!ports || exits.port < 100, "{exits:?}");
}
