//! The controller and its devices, driven as firmware and drivers drive them.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use proptest::prelude::*;

use super::keymap::{KeymapError, chord, type_text};
use super::*;
use crate::chipset::control::{SystemControl, SystemProbe};
use crate::conformance::device_round_trip;
use crate::{Device, Poll, PortIo, VirtualClock, Wire, WireProbe};

struct Bench {
    controller: I8042,
    keyboard_irq: Arc<WireProbe>,
    aux_irq: Arc<WireProbe>,
    system: Arc<SystemProbe>,
    clock: VirtualClock,
}

impl Bench {
    fn new() -> Self {
        let (keyboard_wire, keyboard_irq) = Wire::probe();
        let (aux_wire, aux_irq) = Wire::probe();
        let system = Arc::new(SystemProbe::default());
        let clock = VirtualClock::stopped();
        let controller = I8042::new(keyboard_wire, aux_wire, system.clone(), clock.clone());
        Self { controller, keyboard_irq, aux_irq, system, clock }
    }

    fn out(&mut self, port: u16, value: u8) {
        self.controller.port_write(port, &[value]);
    }

    fn input(&mut self, port: u16) -> u8 {
        let mut data = [0xff];
        self.controller.port_read(port, &mut data);
        data[0]
    }

    fn status(&mut self) -> u8 {
        self.input(0x64)
    }

    /// Reads all there is: the value and whether it is the mouse's.
    fn drain(&mut self) -> Vec<(u8, bool)> {
        let mut bytes = Vec::new();
        loop {
            let status = self.status();
            if status & 1 == 0 {
                return bytes;
            }
            bytes.push((self.input(0x60), status & 0x20 != 0));
            assert!(bytes.len() < 1000);
        }
    }

    fn keyboard_bytes(&mut self) -> Vec<u8> {
        self.drain().into_iter().filter(|(_, aux)| !aux).map(|(byte, _)| byte).collect()
    }

    fn aux_bytes(&mut self) -> Vec<u8> {
        self.drain().into_iter().filter(|(_, aux)| *aux).map(|(byte, _)| byte).collect()
    }

    fn command(&mut self, command: u8, expected: &[u8]) {
        self.out(0x64, command);
        assert_eq!(self.keyboard_bytes(), expected, "command {command:#x}");
    }

    fn keyboard(&mut self, bytes: &[u8], expected: &[u8]) {
        for byte in bytes {
            self.out(0x60, *byte);
        }
        assert_eq!(self.keyboard_bytes(), expected, "keyboard {bytes:x?}");
    }

    fn mouse(&mut self, bytes: &[u8], expected: &[u8]) {
        for byte in bytes {
            self.out(0x64, 0xd4);
            self.out(0x60, *byte);
        }
        assert_eq!(self.aux_bytes(), expected, "mouse {bytes:x?}");
    }

    fn set_ctr(&mut self, value: u8) {
        self.out(0x64, 0x60);
        self.out(0x60, value);
    }

    fn tap(&mut self, key: KeyCode) -> Vec<u8> {
        assert!(self.controller.key(key, true));
        assert!(self.controller.key(key, false));
        self.keyboard_bytes()
    }
}

#[test]
fn firmware_start_up() {
    let mut bench = Bench::new();
    bench.out(0x64, 0xad);
    bench.out(0x64, 0xa7);
    assert!(bench.drain().is_empty());
    bench.command(0xaa, &[0x55]);
    bench.command(0xab, &[0x00]);
    bench.set_ctr(0x20);
    bench.keyboard(&[0xff], &[0xfa, 0xaa]);
    bench.keyboard(&[0xf5], &[0xfa]);
    bench.keyboard(&[0xf0], &[0xfa]);
    bench.keyboard(&[0x02], &[0xfa]);
    bench.set_ctr(0x41);
    bench.keyboard(&[0xf4], &[0xfa]);
    assert_eq!(bench.tap(KeyCode::A), [0x1e, 0x9e]);
    assert_eq!(bench.tap(KeyCode::Delete), [0xe0, 0x53, 0xe0, 0xd3]);
    assert_eq!(bench.tap(KeyCode::F7), [0x41, 0xc1]);
}

#[test]
fn every_byte_is_an_edge() {
    let mut bench = Bench::new();
    bench.controller.key(KeyCode::Delete, true);
    assert_eq!(bench.keyboard_irq.rises(), 1);
    assert_eq!(bench.input(0x60), 0xe0);
    assert_eq!(bench.keyboard_irq.rises(), 2);
    assert_eq!(bench.input(0x60), 0x53);
    assert!(!bench.keyboard_irq.level());
    assert_eq!(bench.keyboard_irq.rises(), 2);
    // An empty buffer gives the last byte again, and no interrupt.
    assert_eq!(bench.input(0x60), 0x53);
    assert_eq!((bench.keyboard_irq.rises(), bench.aux_irq.rises()), (2, 0));
}

#[test]
fn a_disabled_port_holds_its_bytes() {
    let mut bench = Bench::new();
    bench.out(0x64, 0xad);
    bench.controller.key(KeyCode::B, true);
    bench.controller.key(KeyCode::B, false);
    assert_eq!(bench.status() & 1, 0);
    bench.out(0x64, 0xae);
    assert_eq!(bench.keyboard_bytes(), [0x30, 0xb0]);
}

#[test]
fn an_answer_goes_ahead_and_loses_nothing() {
    let mut bench = Bench::new();
    bench.controller.key(KeyCode::C, true);
    bench.controller.key(KeyCode::C, false);
    // The make code is in the output buffer already.
    bench.out(0x64, 0x20);
    let [answer, make, break_code] = bench.keyboard_bytes()[..] else { panic!() };
    assert_eq!((answer, make, break_code), (0x47, 0x2e, 0xae));
    // An acknowledgement goes ahead of scan codes.
    bench.out(0x64, 0xad);
    bench.controller.key(KeyCode::D, true);
    bench.out(0x60, 0xee);
    assert_eq!(bench.keyboard_bytes(), [0xee, 0x20]);
}

#[test]
fn keyboard_commands() {
    let mut bench = Bench::new();
    bench.keyboard(&[0xf2], &[0xfa, 0xab, 0x41]);
    bench.set_ctr(0x07);
    bench.keyboard(&[0xf2], &[0xfa, 0xab, 0x83]);
    bench.keyboard(&[0xed, 0x05], &[0xfa, 0xfa]);
    assert_eq!(bench.controller.leds(), 5);
    bench.keyboard(&[0xf0, 0x00], &[0xfa, 0xfa, 0x02]);
    bench.keyboard(&[0xf0, 0x03], &[0xfa, 0xfa]);
    assert_eq!(bench.tap(KeyCode::ControlRight), [0x58, 0xf0, 0x58]);
    bench.keyboard(&[0xf9], &[0xfa]);
    assert_eq!(bench.tap(KeyCode::ControlRight), [0x58]);
    bench.keyboard(&[0xfc, 0x58, 0xf4], &[0xfa, 0xfa, 0xfa]);
    assert_eq!(bench.tap(KeyCode::ControlRight), [0x58, 0xf0, 0x58]);
    bench.keyboard(&[0xf0, 0x01], &[0xfa, 0xfa]);
    assert_eq!(bench.tap(KeyCode::ControlRight), [0xe0, 0x1d, 0xe0, 0x9d]);
    bench.keyboard(&[0xfe], &[0x9d]);
    bench.keyboard(&[0xe0], &[0xfe]);
    bench.keyboard(&[0xf3, 0xf5], &[0xfa, 0xfa]);
    assert!(bench.tap(KeyCode::A).is_empty());
    assert_eq!(bench.controller.keyboard_ready(), 0);
}

#[test]
fn pause_and_print_screen() {
    let mut bench = Bench::new();
    assert_eq!(bench.tap(KeyCode::Pause), [0xe1, 0x1d, 0x45, 0xe1, 0x9d, 0xc5]);
    assert_eq!(bench.tap(KeyCode::PrintScreen), [0xe0, 0x2a, 0xe0, 0x37, 0xe0, 0xb7, 0xe0, 0xaa]);
    bench.controller.key(KeyCode::AltLeft, true);
    bench.drain();
    assert_eq!(bench.tap(KeyCode::PrintScreen), [0x54, 0xd4]);
    bench.controller.key(KeyCode::AltLeft, false);
    bench.controller.key(KeyCode::ControlLeft, true);
    bench.drain();
    assert_eq!(bench.tap(KeyCode::Pause), [0xe0, 0x46, 0xe0, 0xc6]);
}

#[test]
fn a_held_key_repeats_while_the_guest_reads() {
    let mut bench = Bench::new();
    bench.controller.key(KeyCode::X, true);
    bench.controller.key(KeyCode::X, true);
    assert_eq!(bench.keyboard_bytes(), [0x2d]);
    let deadline_ns = bench.controller.deadline_ns().unwrap();
    assert_eq!(deadline_ns, 500_000_000);
    for _ in 0..100 {
        bench.clock.advance(Duration::from_millis(500));
        let now_ns = bench.clock.now_ns();
        Poll::poll(&mut bench.controller, now_ns);
    }
    // One is in the output buffer and one in the queue: nobody read.
    assert_eq!(bench.keyboard_bytes(), [0x2d, 0x2d]);
    bench.controller.key(KeyCode::X, false);
    assert_eq!(bench.keyboard_bytes(), [0xad]);
    assert_eq!(bench.controller.deadline_ns(), None);
}

#[test]
fn a_full_queue_loses_no_release() {
    let mut bench = Bench::new();
    let mut down = Vec::new();
    for key in KeyCode::ALL {
        if bench.controller.key(*key, true) {
            down.push(*key);
        }
    }
    assert!((8..20).contains(&down.len()));
    for key in KeyCode::ALL {
        bench.controller.key(*key, false);
    }
    assert_eq!(bench.controller.keyboard_ready(), 0);
    let bytes = bench.keyboard_bytes();
    for key in &down {
        let code = key.codes().set1;
        assert!(bytes.contains(&code) && bytes.contains(&(code | 0x80)), "{key:?} in {bytes:x?}");
    }
    assert!(bench.controller.keyboard_drained());
    assert_eq!(bench.controller.keyboard_ready(), 16);
}

#[test]
fn reset_line_and_a20() {
    let mut bench = Bench::new();
    bench.out(0x64, 0xfe);
    assert_eq!(bench.system.resets.load(Ordering::SeqCst), 1);
    bench.out(0x64, 0xff);
    bench.out(0x64, 0xd1);
    bench.out(0x60, 0xdf);
    assert!(bench.system.a20());
    assert_eq!(bench.system.resets.load(Ordering::SeqCst), 1);
    bench.command(0xd0, &[0xc3]);
    bench.out(0x64, 0xd1);
    bench.out(0x60, 0xdc);
    assert!(!bench.system.a20());
    assert_eq!(bench.system.resets.load(Ordering::SeqCst), 2);
}

#[test]
fn aux_loopback_and_tests() {
    let mut bench = Bench::new();
    bench.command(0xa9, &[0x00]);
    bench.out(0x64, 0xd3);
    bench.out(0x60, 0x5a);
    assert!(bench.aux_irq.level());
    assert_eq!(bench.drain(), [(0x5a, true)]);
    bench.out(0x64, 0xa7);
    bench.command(0x20, &[0x67]);
    bench.out(0x64, 0xa8);
    bench.command(0x20, &[0x47]);
    bench.out(0x64, 0xd2);
    bench.out(0x60, 0x12);
    assert_eq!(bench.drain(), [(0x12, false)]);
    bench.out(0x64, 0x7f);
    bench.out(0x60, 0x99);
    bench.command(0x3f, &[0x99]);
}

#[test]
fn mouse_start_up_and_packets() {
    let mut bench = Bench::new();
    bench.mouse(&[0xff], &[0xfa, 0xaa, 0x00]);
    bench.mouse(&[0xf2], &[0xfa, 0x00]);
    bench.mouse(
        &[0xe8, 0, 0xe8, 0, 0xe8, 0, 0xe8, 0, 0xe9],
        &[0xfa; 9].iter().copied().chain([0, 0, 100]).collect::<Vec<_>>(),
    );
    bench.controller.mouse_motion(5, 5, 0);
    assert!(bench.aux_bytes().is_empty());
    bench.mouse(&[0xf4], &[0xfa]);
    bench.controller.mouse_motion(5, 3, 1);
    assert_eq!(bench.aux_bytes(), [0x28, 5, 0xfd]);
    bench.mouse(&[0xf3, 200, 0xf3, 100, 0xf3, 80, 0xf2], &[0xfa, 0xfa, 0xfa, 0xfa, 0xfa, 0xfa, 0xfa, 3]);
    bench.controller.mouse_motion(-300, 0, -1);
    assert_eq!(bench.aux_bytes(), [0x18, 0x00, 0, 0xff, 0x18, 0xd4, 0, 0]);
    bench.mouse(&[0xf3, 200, 0xf3, 200, 0xf3, 80, 0xf2], &[0xfa, 0xfa, 0xfa, 0xfa, 0xfa, 0xfa, 0xfa, 4]);
    bench.controller.mouse_buttons(MouseButtons { left: true, extra: true, ..MouseButtons::default() });
    bench.controller.mouse_buttons(MouseButtons::default());
    assert_eq!(bench.aux_bytes(), [9, 0, 0, 0x20, 8, 0, 0, 0]);
    bench.mouse(&[0xf0, 0xeb], &[0xfa, 0xfa, 8, 0, 0, 0]);
    bench.mouse(&[0xee, 0x42, 0xec], &[0xfa, 0x42, 0xfa]);
}

#[test]
fn mouse_packets_are_never_split_by_overflow() {
    let mut bench = Bench::new();
    bench.mouse(&[0xf4], &[0xfa]);
    for round in 0..500 {
        bench.controller.mouse_motion(3, -3, 0);
        bench.controller.mouse_buttons(MouseButtons { left: round % 2 == 0, ..MouseButtons::default() });
    }
    let bytes = bench.aux_bytes();
    assert!(bytes.len() <= 256 + 8 + 3 * 40 && bytes.len().is_multiple_of(3), "{}", bytes.len());
    let moved: i32 = bytes.chunks(3).map(|packet| i32::from(packet[1]) - i32::from(packet[0] >> 4 & 1) * 256).sum();
    assert_eq!(moved, 1500);
    assert!(bytes.chunks(3).all(|packet| packet[0] & 8 != 0));
    assert_eq!(bytes[bytes.len() - 3] & 1, 0, "the last packet has the state of now");
}

#[test]
fn keyboard_goes_before_mouse_and_does_not_overwrite_it() {
    let mut bench = Bench::new();
    bench.mouse(&[0xf4], &[0xfa]);
    bench.controller.mouse_motion(1, 0, 0);
    bench.controller.key(KeyCode::A, true);
    assert_eq!(bench.drain(), [(8, true), (0x1e, false), (1, true), (0, true)]);
    assert!(bench.aux_irq.rises() >= 4);
}

#[test]
fn text_and_chords() {
    let keys =
        |events: Vec<keymap::KeyEvent>| events.into_iter().map(|event| (event.key, event.pressed)).collect::<Vec<_>>();
    let typed = type_text("aB\n").unwrap();
    assert_eq!(keys(typed[0].clone()), [(KeyCode::A, true), (KeyCode::A, false)]);
    assert_eq!(
        keys(typed[1].clone()),
        [(KeyCode::ShiftLeft, true), (KeyCode::B, true), (KeyCode::B, false), (KeyCode::ShiftLeft, false)]
    );
    assert_eq!(keys(typed[2].clone()), [(KeyCode::Enter, true), (KeyCode::Enter, false)]);
    assert_eq!(type_text("hä"), Err(KeymapError::Character('ä')));
    assert_eq!(type_text("a\r\nb").unwrap().len(), 3);
    for ascii in ' '..='~' {
        assert!(type_text(&ascii.to_string()).is_ok(), "{ascii:?}");
    }
    let pressed = |text: &str| {
        let events = chord(text).unwrap();
        events.into_iter().filter(|event| event.pressed).map(|event| event.key).collect::<Vec<_>>()
    };
    assert_eq!(pressed("ctrl-alt-del"), [KeyCode::ControlLeft, KeyCode::AltLeft, KeyCode::Delete]);
    assert_eq!(pressed("F12"), [KeyCode::F12]);
    assert_eq!(pressed("shift-a"), [KeyCode::ShiftLeft, KeyCode::A]);
    assert_eq!(pressed("ctrl--"), [KeyCode::ControlLeft, KeyCode::Minus]);
    assert_eq!(pressed("-"), [KeyCode::Minus]);
    assert_eq!(pressed("up"), [KeyCode::ArrowUp]);
    assert_eq!(pressed("shift-!"), [KeyCode::ShiftLeft, KeyCode::Digit1]);
    assert_eq!(chord("ctrl-bogus"), Err(KeymapError::Key("bogus".into())));
    assert_eq!(chord("ctrl-"), Err(KeymapError::Key("ctrl-".into())));
    assert_eq!(chord("é"), Err(KeymapError::Key("é".into())));
    assert_eq!(chord(" "), Err(KeymapError::Empty));
}

#[test]
fn the_longest_usual_chord_fits_the_keyboard() {
    let mut bench = Bench::new();
    bench.set_ctr(0x07);
    for event in chord("ctrl-alt-del").unwrap() {
        assert!(bench.controller.key(event.key, event.pressed));
    }
    assert_eq!(bench.keyboard_bytes(), [0x14, 0x11, 0xe0, 0x71, 0xe0, 0xf0, 0x71, 0xf0, 0x11, 0xf0, 0x14]);
}

#[test]
fn conformance() {
    let make = || -> Box<dyn Device> { Box::new(Bench::new().controller) };
    device_round_trip(make, |device| {
        let ports = device.port_io().unwrap();
        for (port, value) in
            [(0x64, 0x60), (0x60, 0x03), (0x64, 0xd4), (0x60, 0xf4), (0x60, 0xf0), (0x60, 3), (0x64, 0xd4)]
        {
            ports.port_write(port, &[value]);
        }
    });
    device_round_trip(|| Box::new(Backdoor::new(64, 1_000_000_000, None)), |_| {});
}

/// Class of CVE-2017-16845: a queue position from a saved state.
#[test]
fn a_saved_queue_that_is_too_long_is_refused() {
    let mut backdoor = Backdoor::new(64, 1, None);
    let saved = crate::SavedState::encode("backdoor", 1, &(true, true, vec![0u32; 1025]));
    assert!(backdoor.restore(&saved).is_err());
    let saved = crate::SavedState::encode("backdoor", 1, &(true, true, vec![0u32; 1024]));
    assert!(backdoor.restore(&saved).is_ok());
    assert!(backdoor.pointer(PointerSample::default()));
}

fn call(backdoor: &mut Backdoor, command: u32, ebx: u32) -> BackdoorCall {
    let mut registers = BackdoorCall { eax: 0x564d_5868, ebx, ecx: command, edx: 0x5658, ..BackdoorCall::default() };
    backdoor.call(&mut registers);
    registers
}

#[test]
fn backdoor_basics() {
    let mut backdoor = Backdoor::new(512, 0x1_2345_6789, Some(100_000_000));
    let version = call(&mut backdoor, 10, !0x564d_5868);
    assert_eq!((version.eax, version.ebx), (6, 0x564d_5868));
    assert_eq!(call(&mut backdoor, 20, 0).eax, 512);
    let hz = call(&mut backdoor, 45, 0xffff_ffff);
    assert_eq!((hz.eax, hz.ebx, hz.ecx), (0x2345_6789, 1, 100_000_000));
    assert_eq!(call(&mut backdoor, 0x77, 3).eax, u32::MAX);
    let mut wrong = BackdoorCall { eax: 1, ecx: 10, ..BackdoorCall::default() };
    backdoor.call(&mut wrong);
    assert_eq!((wrong.eax, wrong.ebx, wrong.ecx), (u32::MAX, 0, 10));
}

#[test]
fn absolute_pointer() {
    let mut backdoor = Backdoor::new(512, 1, None);
    assert_eq!(call(&mut backdoor, 40, 0).eax & 0xffff_0000, 0xffff_0000);
    assert!(!backdoor.pointer(PointerSample { x: 1, ..PointerSample::default() }));
    call(&mut backdoor, 41, 0x4541_4552);
    assert_eq!(call(&mut backdoor, 40, 0).eax, 1);
    assert_eq!(call(&mut backdoor, 39, 1).eax, 0x3442_554a);
    call(&mut backdoor, 41, 0x5342_4152);
    assert!(backdoor.pointer_is_absolute());
    let buttons = MouseButtons { left: true, ..MouseButtons::default() };
    let sample = PointerSample { x: 0x1234, y: 0xffff, wheel: -1, buttons };
    assert!(backdoor.pointer(sample));
    assert_eq!(call(&mut backdoor, 40, 0).eax, 4);
    let data = call(&mut backdoor, 39, 4);
    assert_eq!((data.eax, data.ebx, data.ecx, data.edx), (0x20, 0x1234, 0xffff, 0xff));
    // Never past the queue: an error, and the pointer is off.
    backdoor.pointer(PointerSample { x: 2, ..PointerSample::default() });
    assert_eq!(call(&mut backdoor, 39, 5).eax, 0xffff_0000);
    assert!(!backdoor.pointer_is_absolute());
}

#[test]
fn absolute_pointer_keeps_the_newest_positions() {
    let mut backdoor = Backdoor::new(512, 1, None);
    call(&mut backdoor, 41, 0x4541_4552);
    call(&mut backdoor, 41, 0x5342_4152);
    for x in 1..=2000 {
        assert!(backdoor.pointer(PointerSample { x, ..PointerSample::default() }));
    }
    let mut last = None;
    loop {
        let count = call(&mut backdoor, 40, 0).eax;
        assert!(count <= 1024 && count.is_multiple_of(4));
        if count == 0 {
            break;
        }
        let x = call(&mut backdoor, 39, 4).ebx;
        assert!(last.is_none_or(|last| x == last + 1));
        last = Some(x);
    }
    assert_eq!(last, Some(2000));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn controller_survives_anything(steps in proptest::collection::vec((0u8..8, any::<u8>()), 0..400)) {
        let mut bench = Bench::new();
        for (kind, value) in steps {
            match kind {
                0 | 1 => bench.out(0x60, value),
                2 | 3 => bench.out(0x64, value),
                4 => {
                    bench.input(0x60);
                }
                5 => {
                    let key = KeyCode::ALL[usize::from(value) % KeyCode::ALL.len()];
                    bench.controller.key(key, value & 1 != 0);
                }
                6 => {
                    bench.controller.mouse_motion(i32::from(value) * 77 - 9000, i32::MIN, i32::from(value) - 128);
                    bench.controller.mouse_buttons(MouseButtons { left: value & 1 != 0, ..MouseButtons::default() });
                }
                _ => {
                    bench.clock.advance(Duration::from_millis(u64::from(value)));
                    let now_ns = bench.clock.now_ns();
                    Poll::poll(&mut bench.controller, now_ns);
                }
            }
            prop_assert!(!(bench.keyboard_irq.level() && bench.aux_irq.level()));
        }
        let saved = bench.controller.save();
        let mut twin = Bench::new();
        twin.controller.restore(&saved).unwrap();
        prop_assert_eq!(twin.controller.save(), saved);
        prop_assert_eq!(twin.drain(), bench.drain());
    }

    #[test]
    fn backdoor_survives_anything(steps in proptest::collection::vec((any::<u8>(), any::<u8>()), 0..300)) {
        let mut backdoor = Backdoor::new(1, 1, None);
        let arguments = [0, 1, 4, 6, 7, 0x4541_4552, 0x5342_4152, 0x4c45_5252, 0xf5, u32::MAX];
        for (command, argument) in steps {
            if command & 0x80 != 0 {
                backdoor.pointer(PointerSample { x: u16::from(argument), ..PointerSample::default() });
            } else {
                let command = [39, 40, 41, u32::from(command)][usize::from(command & 3)];
                call(&mut backdoor, command, arguments[usize::from(argument) % arguments.len()]);
            }
            prop_assert!(call(&mut backdoor, 40, 0).eax & 0xffff <= 1024);
        }
    }
}
