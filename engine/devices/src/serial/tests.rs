//! The chip and the port, as 8250 drivers use them.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use proptest::prelude::*;

use super::*;
use crate::conformance::device_round_trip;
use crate::{Device, Poll, PortIo, VirtualClock, Wire, WireProbe};

struct Bench {
    port: SerialPort,
    irq: Arc<WireProbe>,
    clock: VirtualClock,
    sent: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Bench {
    fn new() -> Self {
        let (wire, irq) = Wire::probe();
        let clock = VirtualClock::stopped();
        let sent = Arc::new(Mutex::new(Vec::new()));
        let into = sent.clone();
        let port =
            SerialPort::new(COM1_BASE, wire, clock.clone(), Box::new(move |bytes| into.lock().push(bytes.to_vec())));
        Self { port, irq, clock, sent }
    }

    fn out(&mut self, index: u16, value: u8) {
        self.port.port_write(COM1_BASE + index, &[value]);
    }

    fn input(&mut self, index: u16) -> u8 {
        let mut data = [0xff];
        self.port.port_read(COM1_BASE + index, &mut data);
        data[0]
    }

    fn sent(&self) -> Vec<u8> {
        self.sent.lock().concat()
    }

    fn pass(&mut self, time: Duration) {
        self.clock.advance(time);
        let now_ns = self.clock.now_ns();
        if self.port.deadline_ns().is_some_and(|deadline_ns| deadline_ns <= now_ns) {
            Poll::poll(&mut self.port, now_ns);
        }
    }
}

#[test]
fn detection_as_drivers_do_it() {
    let mut bench = Bench::new();
    bench.out(1, 0);
    assert_eq!(bench.input(1), 0);
    bench.out(1, 0xff);
    assert_eq!(bench.input(1), 0x0f);
    bench.out(1, 0);
    // Loopback: RTS and OUT2 come back as CTS and DCD.
    bench.out(4, 0x1a);
    assert_eq!(bench.input(6) & 0xf0, 0x90);
    bench.out(4, 0);
    bench.out(2, 1);
    assert_eq!(bench.input(2) >> 6, 3);
    bench.out(2, 0);
    assert_eq!(bench.input(2), 1);
    bench.out(7, 0x5a);
    assert_eq!(bench.input(7), 0x5a);
    bench.out(3, 0x83);
    bench.out(0, 1);
    bench.out(1, 0);
    assert_eq!((bench.input(0), bench.input(1), bench.input(3)), (1, 0, 0x83));
    assert_eq!(bench.input(5), 0x60);
    assert!(bench.sent().is_empty());
}

#[test]
fn sending_and_the_transmitter_interrupt() {
    let mut bench = Bench::new();
    bench.out(4, 0x0b);
    bench.out(1, 2);
    assert!(bench.irq.level());
    assert_eq!(bench.input(2), 2);
    assert!(!bench.irq.level());
    assert_eq!(bench.input(2), 1);
    bench.out(0, b'A');
    assert!(bench.irq.level());
    assert_eq!(bench.input(2), 2);
    // Turned off and on again with nothing sent: raised anew, as drivers test for.
    bench.out(1, 0);
    bench.out(1, 2);
    assert_eq!(bench.input(2), 2);
    bench.port.port_write_string(COM1_BASE, 1, b"hello");
    assert_eq!(bench.sent.lock().last().unwrap(), b"hello");
    assert_eq!(bench.sent(), b"Ahello");
    // OUT2 gates the line.
    bench.out(4, 3);
    assert!(!bench.irq.level());
}

#[test]
fn receiving_with_trigger_level_and_timeout() {
    let mut bench = Bench::new();
    bench.out(4, 0x0b);
    bench.out(2, 0x81);
    bench.out(1, 1);
    assert_eq!(bench.port.receive(b"abc"), 3);
    assert!(!bench.irq.level());
    assert_eq!(bench.input(5) & 1, 1);
    bench.pass(Duration::from_millis(5));
    assert!(bench.irq.level());
    assert_eq!(bench.input(2), 0xcc);
    assert_eq!(bench.input(0), b'a');
    assert!(!bench.irq.level());
    bench.port.receive(b"defghijk");
    assert_eq!(bench.input(2), 0xc4);
    let rest: Vec<u8> = (0..10).map(|_| bench.input(0)).collect();
    assert_eq!(rest, b"bcdefghijk");
    assert_eq!((bench.input(5) & 1, bench.input(2)), (0, 0xc1));
    assert_eq!(bench.port.deadline_ns(), None);
}

#[test]
fn input_waits_for_room() {
    let mut bench = Bench::new();
    let text: Vec<u8> = (0..100_000u32).map(|byte| byte.to_le_bytes()[0]).collect();
    let mut offered = bench.port.receive(&text);
    assert!((64 << 10..text.len()).contains(&offered));
    let mut read = Vec::new();
    while bench.input(5) & 1 != 0 {
        read.push(bench.input(0));
        offered += bench.port.receive(&text[offered..]);
    }
    assert_eq!(read, text);
}

#[test]
fn loopback_returns_data_and_errors() {
    let mut bench = Bench::new();
    bench.out(4, 0x10);
    bench.out(1, 4);
    bench.out(0, 0x42);
    assert_eq!(bench.input(0), 0x42);
    bench.out(0, 1);
    bench.out(0, 2);
    assert_eq!(bench.input(2), 6);
    assert_eq!(bench.input(5) & 0x03, 0x03);
    assert_eq!(bench.input(5) & 0x02, 0);
    assert_eq!(bench.input(0), 2);
    bench.out(3, 0x40);
    assert_eq!(bench.input(5) & 0x11, 0x11);
    assert!(bench.sent().is_empty());
    // Modem lines: changes are latched until read.
    bench.out(1, 8);
    bench.input(6);
    bench.out(4, 0x14);
    // Only the end of a ring counts.
    assert_eq!(bench.input(2), 1);
    bench.out(4, 0x10);
    assert_eq!(bench.input(2), 0);
    assert_eq!(bench.input(6) & 0x44, 0x04);
    assert_eq!(bench.input(2), 1);
}

/// Class of CVE-2016-8669: a divisor of 0 divides nothing.
#[test]
fn divisor_of_zero() {
    let mut bench = Bench::new();
    bench.out(3, 0x80);
    bench.out(0, 0);
    bench.out(1, 0);
    bench.out(3, 0);
    bench.out(2, 0x41);
    bench.port.receive(b"x");
    assert!(bench.port.deadline_ns().unwrap() > 0);
    bench.pass(Duration::from_secs(1));
    assert_eq!(bench.port.deadline_ns(), None);
}

#[test]
fn conformance() {
    let make = || -> Box<dyn Device> { Box::new(Bench::new().port) };
    device_round_trip(make, |device| {
        let ports = device.port_io().unwrap();
        for (index, value) in [(3, 0x83), (0, 1), (3, 0x03), (2, 0x81), (4, 0x1b), (1, 0x0f), (0, 0x55), (7, 3)] {
            ports.port_write(COM1_BASE + index, &[value]);
        }
    });
}

proptest! {
    #[test]
    fn survives_anything(steps in proptest::collection::vec((0u8..5, 0u16..8, any::<u8>()), 0..300)) {
        let mut bench = Bench::new();
        for (kind, index, value) in steps {
            match kind {
                0 | 1 => bench.out(index, value),
                2 => {
                    bench.input(index);
                }
                3 => {
                    bench.port.receive(&vec![value; usize::from(value)]);
                }
                _ => bench.pass(Duration::from_micros(u64::from(value) * 100)),
            }
        }
        let saved = bench.port.save();
        let mut twin = Bench::new();
        twin.port.restore(&saved).unwrap();
        prop_assert_eq!(twin.port.save(), saved);
        prop_assert_eq!(twin.irq.level(), bench.irq.level());
    }
}
