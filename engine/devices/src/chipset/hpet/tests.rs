use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::WireProbe;

struct Bench {
    hpet: Hpet,
    clock: VirtualClock,
    irq0: Arc<WireProbe>,
    irq8: Arc<WireProbe>,
    pins: [Arc<WireProbe>; 4],
    pit: Wire,
}

impl Bench {
    fn new() -> Self {
        let clock = VirtualClock::stopped();
        let (wire0, irq0) = Wire::probe();
        let (wire8, irq8) = Wire::probe();
        let (pin_wires, pins): (Vec<_>, Vec<_>) = (0..4).map(|_| Wire::probe()).unzip();
        let legacy0 = LegacyIrq::new(wire0);
        let pit = legacy0.timer_wire();
        let wires = HpetWires { irq0: legacy0, irq8: LegacyIrq::new(wire8), pins: pin_wires.try_into().unwrap() };
        let hpet = Hpet::new(clock.clone(), wires);
        Self { hpet, clock, irq0, irq8, pins: pins.try_into().unwrap(), pit }
    }

    fn read(&mut self, offset: u64) -> u64 {
        let mut data = [0xff; 8];
        self.hpet.mmio_read(Hpet::BASE + offset, &mut data);
        u64::from_le_bytes(data)
    }

    fn read32(&mut self, offset: u64) -> u32 {
        let mut data = [0xff; 4];
        self.hpet.mmio_read(Hpet::BASE + offset, &mut data);
        u32::from_le_bytes(data)
    }

    fn write(&mut self, offset: u64, value: u64) {
        self.hpet.mmio_write(Hpet::BASE + offset, &value.to_le_bytes());
    }

    fn write32(&mut self, offset: u64, value: u32) {
        self.hpet.mmio_write(Hpet::BASE + offset, &value.to_le_bytes());
    }

    /// Passes time, polling at each deadline as the board does. Returns how often.
    fn pass(&mut self, time: Duration) -> u32 {
        let end = self.clock.now_ns() + time.as_nanos() as u64;
        let mut polls = 0;
        while let Some(at) = self.hpet.deadline_ns().filter(|at| *at <= end) {
            assert!(at >= self.clock.now_ns(), "a deadline in the past");
            self.clock.set_ns(at);
            Poll::poll(&mut self.hpet, at);
            polls += 1;
        }
        self.clock.set_ns(end);
        polls
    }
}

#[test]
fn capabilities_and_counter() {
    let mut bench = Bench::new();
    assert_eq!(bench.read(0), 10_000_000 << 32 | 0x8086_a201);
    assert_eq!(bench.read32(4), 10_000_000);
    assert_eq!(bench.read(0x100), 0x00f0_0000_0000_0030);
    bench.clock.advance(Duration::from_millis(1));
    assert_eq!(bench.read(0xf0), 0);
    bench.write(0x10, 1);
    bench.clock.advance(Duration::from_millis(1));
    assert_eq!(bench.read(0xf0), 100_000);
    bench.write(0x10, 0);
    bench.clock.advance(Duration::from_millis(1));
    assert_eq!(bench.read(0xf0), 100_000);
    bench.write32(0xf4, 1);
    bench.write(0x10, 1);
    bench.clock.advance(Duration::from_micros(1));
    assert_eq!(bench.read(0xf0), 1 << 32 | 100_100);
    assert_eq!(bench.read32(0xf4), 1);
}

#[test]
fn a_one_shot_fires_once() {
    let mut bench = Bench::new();
    bench.write(0x10, 1);
    bench.write(0x140, 21 << 9 | 1 << 2);
    bench.write(0x148, 5_000);
    assert_eq!(bench.hpet.deadline_ns(), Some(50_000));
    bench.pass(Duration::from_nanos(49_999));
    assert_eq!(bench.pins[1].rises(), 0);
    bench.pass(Duration::from_secs(10));
    assert_eq!(bench.pins[1].rises(), 1);
    assert_eq!(bench.hpet.deadline_ns(), None);

    // A moment that has just passed is now; one long gone is not.
    let now = bench.read(0xf0);
    bench.write(0x148, now - 10);
    assert_eq!(bench.pins[1].rises(), 2);
    bench.write(0x148, now - (1 << 29));
    assert_eq!(bench.pins[1].rises(), 2);
    assert_eq!(bench.hpet.deadline_ns(), None);
}

#[test]
fn a_periodic_timer_as_linux_sets_it_up() {
    let mut bench = Bench::new();
    bench.write(0x10, 3);
    bench.write32(0x100, 1 << 2 | 1 << 3 | 1 << 6 | 1 << 8);
    bench.write32(0x108, 400_000);
    bench.write32(0x108, 400_000);
    bench.pass(Duration::from_millis(41));
    assert_eq!(bench.irq0.rises(), 10);
    assert_eq!(bench.read(0x108), 4_400_000);
    // What was missed is one interrupt, and the beat is kept.
    bench.clock.advance(Duration::from_millis(20));
    let now_ns = bench.clock.now_ns();
    Poll::poll(&mut bench.hpet, now_ns);
    assert_eq!(bench.irq0.rises(), 11);
    assert_eq!(bench.hpet.deadline_ns(), Some(64_000_000));
}

#[test]
fn legacy_replacement_disconnects_the_pit() {
    let mut bench = Bench::new();
    bench.pit.set(true);
    assert!(bench.irq0.level());
    bench.write(0x10, 3);
    assert!(!bench.irq0.level());
    bench.pit.pulse();
    assert_eq!(bench.irq0.rises(), 1);
    bench.write(0x120, 1 << 2);
    bench.write(0x128, 1_000);
    bench.pass(Duration::from_millis(1));
    assert_eq!(bench.irq8.rises(), 1);
    bench.pit.set(true);
    bench.hpet.reset();
    assert!(bench.irq0.level());
}

#[test]
fn level_interrupts_stay_until_acknowledged() {
    let mut bench = Bench::new();
    bench.write(0x10, 1);
    bench.write(0x140, 23 << 9 | 1 << 1 | 1 << 2 | 1 << 3 | 1 << 6);
    bench.write(0x148, 100_000);
    assert_eq!(bench.pass(Duration::from_millis(5)), 1);
    assert!(bench.pins[3].level());
    assert_eq!(bench.read(0x20), 4);
    bench.write(0x20, 4);
    assert!(!bench.pins[3].level());
    bench.pass(Duration::from_millis(1));
    assert!(bench.pins[3].level());
    // Sent elsewhere, it leaves no line behind.
    bench.write(0x140, 22 << 9 | 1 << 1 | 1 << 2 | 1 << 3);
    assert!(!bench.pins[3].level());
    assert!(bench.pins[2].level());
    bench.hpet.reset();
    assert!(!bench.pins[2].level());
}

#[test]
fn routes_that_there_are_not_do_not_stick() {
    let mut bench = Bench::new();
    bench.write(0x100, 22 << 9);
    bench.write(0x100, 3 << 9);
    assert_eq!(bench.read32(0x100), 22 << 9 | 0x30);
}

#[test]
fn a_tiny_period_comes_no_faster_than_the_least() {
    let mut bench = Bench::new();
    bench.write(0x10, 1);
    bench.write(0x100, 20 << 9 | 1 << 2 | 1 << 3 | 1 << 6);
    bench.write(0x108, 1);
    assert!(bench.pass(Duration::from_millis(10)) <= 101);
    assert!(bench.pins[0].rises() >= 99);
}

#[test]
fn a_32_bit_timer_matches_again_when_its_bits_come_round() {
    let mut bench = Bench::new();
    bench.write(0x10, 1);
    bench.write(0x100, 20 << 9 | 1 << 2 | 1 << 8);
    bench.write(0x108, 1_000);
    bench.pass(Duration::from_secs(42));
    assert_eq!(bench.pins[0].rises(), 1);
    bench.pass(Duration::from_secs(1));
    assert_eq!(bench.pins[0].rises(), 2);
}

#[test]
fn odd_accesses_have_no_effect() {
    let mut bench = Bench::new();
    bench.hpet.mmio_write(Hpet::BASE + 0x10, &[1]);
    bench.hpet.mmio_write(Hpet::BASE + 0x0c, &[1; 8]);
    assert_eq!(bench.read(0x10), 0);
    let mut byte = [0xff];
    bench.hpet.mmio_read(Hpet::BASE, &mut byte);
    assert_eq!(byte, [0xff]);
    assert_eq!(bench.read(0x3f8), 0);
}

#[test]
fn round_trip() {
    crate::conformance::device_round_trip(
        || Box::new(Bench::new().hpet),
        |hpet| {
            if let Some(io) = hpet.mmio() {
                for (offset, value) in [
                    (0xf0, 0x1234_5678_9abc_u64),
                    (0x10, 3),
                    (0x100, 0x4e),
                    (0x108, 0x1234_5679_9abc),
                    (0x108, 77_777),
                    (0x140, 21 << 9 | 0x106),
                    (0x148, 0x5679_0000),
                    (0x120, 0x4c),
                ] {
                    io.mmio_write(Hpet::BASE + offset, &value.to_le_bytes());
                }
            }
        },
    );
}

proptest! {
    #[test]
    fn garbage_is_survived(
        accesses in prop::collection::vec((0u64..0x34, any::<u64>(), 1usize..=8, 0u64..10_000_000), 0..100),
    ) {
        let mut bench = Bench::new();
        bench.write(0x10, 1);
        for (at, value, len, wait_ns) in accesses {
            let offset = at * 8 + if len == 4 { value >> 60 & 4 } else { 0 };
            bench.hpet.mmio_write(Hpet::BASE + offset, &value.to_le_bytes()[..len]);
            let polls = bench.pass(Duration::from_nanos(wait_ns));
            // Three timers at their fastest.
            prop_assert!(u64::from(polls) <= 3 * (wait_ns / 100_000 + 2));
            bench.read(offset & !7);
        }
        let saved = bench.hpet.save();
        bench.hpet.restore(&saved).unwrap();
    }
}
