//! The 8254 on a clock that the test moves.

use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::WireProbe;
use crate::conformance::device_round_trip;

struct Bench {
    pit: Pit,
    clock: VirtualClock,
    irq: Arc<WireProbe>,
}

impl Bench {
    fn new() -> Self {
        let clock = VirtualClock::stopped();
        let (wire, irq) = Wire::probe();
        Self { pit: Pit::new(clock.clone(), wire), clock, irq }
    }

    fn out(&mut self, port: u16, value: u8) {
        self.pit.port_write(port, &[value]);
    }

    fn inb(&mut self, port: u16) -> u8 {
        let mut data = [0xff];
        self.pit.port_read(port, &mut data);
        data[0]
    }

    fn program(&mut self, index: u8, mode: u8, count: u16) {
        self.out(0x43, (index << 6) | 0x30 | (mode << 1));
        for byte in count.to_le_bytes() {
            self.out(0x40 + u16::from(index), byte);
        }
    }

    fn count(&mut self, index: u8) -> u16 {
        self.out(0x43, index << 6);
        let port = 0x40 + u16::from(index);
        u16::from_le_bytes([self.inb(port), self.inb(port)])
    }

    fn status(&mut self, index: u8) -> u8 {
        self.out(0x43, 0xe0 | (2 << index));
        self.inb(0x40 + u16::from(index))
    }

    /// Sets the clock to the start of a tick, without polling.
    fn at(&mut self, tick: u64) {
        self.clock.set_ns(ns_of(tick));
    }

    /// Runs to a tick as the board would, polling at every deadline. Gives how many polls that took.
    fn run_to(&mut self, tick: u64) -> u64 {
        let end_ns = ns_of(tick);
        let mut polls = 0;
        while let Some(deadline_ns) = self.pit.deadline_ns().filter(|deadline_ns| *deadline_ns <= end_ns) {
            self.clock.set_ns(deadline_ns.max(self.clock.now_ns()));
            let now_ns = self.clock.now_ns();
            Poll::poll(&mut self.pit, now_ns);
            polls += 1;
            assert!(polls < 1_000_000, "the deadline does not move on");
        }
        self.clock.set_ns(end_ns);
        polls
    }
}

#[test]
fn ticks_and_nanoseconds_agree() {
    for tick in [0, 1, 2, 1_193_182, 1 << 40, u64::MAX / 1000] {
        let ns = ns_of(tick);
        if ns < u64::MAX {
            assert_eq!(ticks_at(ns), tick);
            assert!(tick == 0 || ticks_at(ns - 1) == tick - 1);
        }
    }
    assert_eq!(ns_of(u64::MAX), u64::MAX);
}

#[test]
fn periodic_modes_interrupt_once_a_period() {
    for mode in [2, 3] {
        let mut bench = Bench::new();
        bench.program(0, mode, 1000);
        bench.run_to(999);
        assert_eq!(bench.irq.rises(), 0);
        bench.run_to(1000);
        assert_eq!(bench.irq.rises(), 1);
        assert_eq!(bench.run_to(10_999), 9);
        assert_eq!(bench.irq.rises(), 10);
    }
}

#[test]
fn a_count_of_zero_is_65536() {
    let mut bench = Bench::new();
    bench.program(0, 2, 0);
    bench.run_to(65_535);
    assert_eq!(bench.irq.rises(), 0);
    bench.run_to(65_536 * 3);
    assert_eq!(bench.irq.rises(), 3);
}

#[test]
fn mode_2_counts_down_and_pulses_low() {
    let mut bench = Bench::new();
    bench.out(0x61, 1);
    bench.program(2, 2, 100);
    for (tick, count, out) in [(0, 100, true), (1, 99, true), (98, 2, true), (99, 1, false), (100, 100, true)] {
        bench.at(tick);
        assert_eq!((bench.count(2), bench.inb(0x61) & 0x20 != 0), (count, out), "tick {tick}");
    }
    // A new count waits for the end of the period.
    bench.at(150);
    bench.out(0x42, 10);
    bench.out(0x42, 0);
    assert_eq!(bench.count(2), 50);
    assert_eq!(bench.status(2) & 0x40, 0x40, "null count");
    bench.at(203);
    assert_eq!(bench.count(2), 7);
    assert_eq!(bench.status(2) & 0x40, 0);
}

#[test]
fn mode_3_is_a_square_wave() {
    for (count, high) in [(10_u16, 5_u64), (11, 6)] {
        let mut bench = Bench::new();
        bench.out(0x61, 1);
        bench.program(2, 3, count);
        for tick in 0..2 * u64::from(count) {
            bench.at(tick);
            assert_eq!(bench.inb(0x61) & 0x20 != 0, tick % u64::from(count) < high, "count {count} tick {tick}");
        }
        bench.at(2);
        assert_eq!(bench.count(2), 6);
    }
}

#[test]
fn mode_0_and_the_gate() {
    let mut bench = Bench::new();
    bench.program(2, 0, 0x800);
    bench.at(5000);
    assert_eq!(bench.count(2), 0x800, "the gate holds it");
    assert_eq!(bench.inb(0x61) & 0x20, 0);
    bench.out(0x61, 1);
    bench.at(5000 + 0x700);
    assert_eq!(bench.count(2), 0x100);
    bench.out(0x61, 0);
    bench.at(20_000);
    bench.out(0x61, 1);
    bench.at(20_000 + 0xff);
    assert_eq!(bench.inb(0x61) & 0x20, 0);
    bench.at(20_000 + 0x100);
    assert_eq!(bench.inb(0x61) & 0x20, 0x20);
    bench.at(20_000 + 0x101);
    assert_eq!(bench.count(2), 0xffff, "it counts on");
}

#[test]
fn one_shots_interrupt_once() {
    for (mode, at) in [(0, 500), (4, 501)] {
        let mut bench = Bench::new();
        bench.program(0, mode, 500);
        bench.run_to(at - 1);
        assert_eq!(bench.irq.rises(), 0);
        bench.run_to(100_000);
        assert_eq!((bench.irq.rises(), bench.irq.level()), (1, true));
        assert_eq!(bench.pit.deadline_ns(), None);
        bench.out(0x40, 200);
        bench.out(0x40, 0);
        bench.run_to(200_000);
        assert_eq!(bench.irq.rises(), 2);
    }
}

#[test]
fn triggered_modes_wait_for_the_gate() {
    for mode in [1, 5] {
        let mut bench = Bench::new();
        bench.program(2, mode, 50);
        bench.at(1000);
        assert_eq!(bench.inb(0x61) & 0x20, 0x20);
        bench.out(0x61, 1);
        bench.at(1010);
        assert_eq!(bench.count(2), 40);
        assert_eq!(bench.inb(0x61) & 0x20 != 0, mode == 5);
        bench.at(1050);
        assert_eq!(bench.inb(0x61) & 0x20 != 0, mode == 1);
        // A second trigger starts it again.
        bench.out(0x61, 0);
        bench.out(0x61, 1);
        bench.at(1060);
        assert_eq!(bench.count(2), 40);
    }
}

#[test]
fn bcd_latch_and_access_widths() {
    let mut bench = Bench::new();
    bench.out(0x61, 1);
    bench.out(0x43, 0xb5);
    bench.out(0x42, 0x00);
    bench.out(0x42, 0x10);
    bench.at(1);
    assert_eq!(bench.count(2), 0x0999);
    // A latch holds until it is read, and a second one changes nothing.
    bench.out(0x43, 0x80);
    bench.at(500);
    bench.out(0x43, 0x80);
    assert_eq!((bench.inb(0x42), bench.inb(0x42)), (0x99, 0x09));
    assert_eq!((bench.inb(0x42), bench.inb(0x42)), (0x00, 0x05));
    // Low byte only.
    bench.out(0x43, 0x94);
    bench.out(0x42, 0x20);
    bench.at(501);
    assert_eq!(bench.inb(0x42), 0x1f);
    assert_eq!(bench.inb(0x42), 0x1f);
    // High byte only.
    bench.out(0x43, 0xa4);
    bench.out(0x42, 0x20);
    assert_eq!(bench.count(2), 0x2020, "both reads give the high byte");
}

#[test]
fn read_back_gives_status_then_count() {
    let mut bench = Bench::new();
    bench.program(0, 2, 0x1234);
    assert_eq!(bench.status(0), 0x80 | 0x30 | 4);
    bench.at(4);
    bench.out(0x43, 0xc2);
    bench.at(100);
    assert_eq!(bench.inb(0x40), 0xb4);
    assert_eq!((bench.inb(0x40), bench.inb(0x40)), (0x30, 0x12));
    // Firmware's way: the count alone.
    bench.out(0x43, 0xd2);
    assert_eq!((bench.inb(0x40), bench.inb(0x40)), (0xd0, 0x11));
    bench.out(0x43, 0x36);
    assert_eq!(bench.status(0), 0xc0 | 0x36);
}

#[test]
fn late_ticks_are_made_up_for_within_bounds() {
    let mut bench = Bench::new();
    bench.program(0, 2, 11_932);
    bench.at(11_932 * 5);
    let now_ns = bench.clock.now_ns();
    Poll::poll(&mut bench.pit, now_ns);
    assert_eq!(bench.irq.rises(), 1, "one at a time");
    bench.run_to(11_932 * 10);
    assert_eq!(bench.irq.rises(), 10, "the four others came in between");
    // A long stall is not made up for in full.
    bench.at(11_932 * 1010);
    bench.run_to(11_932 * 1100);
    let made_up = bench.irq.rises() - 10 - 90;
    assert!((MAX_BACKLOG - 1..=MAX_BACKLOG + 1).contains(&made_up), "{made_up}");
    // What the guest reads was never wrong.
    assert_eq!(bench.count(0), 11_932);
}

#[test]
fn tiny_counts_make_no_storm() {
    for mode in [2, 3] {
        for count in [1, 2, 3, 118] {
            let mut bench = Bench::new();
            bench.program(0, mode, count);
            let polls = bench.run_to(FREQUENCY_HZ);
            assert!(polls <= 10_100, "{polls} polls a second at count {count}");
            assert!(bench.irq.rises() <= 10_100);
            assert!(bench.irq.rises() >= 9_900);
        }
    }
}

#[test]
fn reprogramming_drops_late_ticks() {
    let mut bench = Bench::new();
    bench.program(0, 2, 1000);
    bench.at(20_500);
    bench.program(0, 2, 2000);
    let before = bench.irq.rises();
    bench.run_to(22_499);
    assert_eq!(bench.irq.rises(), before);
    bench.run_to(22_500);
    assert_eq!(bench.irq.rises(), before + 1);
}

#[test]
fn port_61_keeps_its_bits_and_toggles_refresh() {
    let mut bench = Bench::new();
    bench.out(0x61, 0xff);
    assert_eq!(bench.inb(0x61) & 0xcf, 0x0f);
    let first = bench.inb(0x61) & 0x10;
    bench.clock.set_ns(REFRESH_TOGGLE_NS);
    assert_ne!(bench.inb(0x61) & 0x10, first);
}

#[test]
fn round_trip() {
    let clock = VirtualClock::stopped();
    device_round_trip(
        || {
            clock.set_ns(0);
            Box::new(Pit::new(clock.clone(), Wire::disconnected()))
        },
        |device| {
            let io = device.port_io().unwrap();
            for (port, value) in
                [(0x43, 0x34), (0x40, 0x10), (0x40, 0x20), (0x43, 0xb7), (0x42, 0x99), (0x42, 9), (0x61, 3)]
            {
                io.port_write(port, &[value]);
            }
            clock.set_ns(50_000_000);
            for (port, value) in [(0x40, 0x30), (0x40, 0x20), (0x42, 0x55), (0x43, 0xc6), (0x43, 0x72), (0x41, 7)] {
                io.port_write(port, &[value]);
            }
        },
    );
}

#[test]
fn impossible_states_are_refused() {
    let make = || Bench::new().pit;
    let good = make().save();
    let decoded = || good.decode::<PitV1>(KIND, VERSION).unwrap();
    let refused = |state: PitV1| assert!(make().restore(&SavedState::encode(KIND, VERSION, &state)).is_err());
    refused(PitV1 { backlog: 100, ..decoded() });
    refused(PitV1 { control: 0x10, ..decoded() });
    refused(PitV1 { control: 1, ..decoded() });
    let mut state = decoded();
    state.counters.pop();
    refused(state);
}

proptest! {
    /// Random programming and time: no panic, no storm, and the deadline always moves on.
    #[test]
    fn hostile(steps in prop::collection::vec((any::<u8>(), any::<u8>(), 0_u64..3_000_000), 0..120)) {
        let mut bench = Bench::new();
        let mut tick = 0;
        for (what, value, by) in steps {
            match what % 8 {
                port @ 0..=3 => bench.out(0x40 + u16::from(port), value),
                4 => bench.out(0x61, value),
                5 => { let _ = bench.inb(0x40 + u16::from(value % 4)); }
                6 => bench.pit.port_write(0x3e + u16::from(value % 8), &[value; 4]),
                _ => {
                    tick = ticks_at(bench.clock.now_ns()) + by / 50;
                    let rises = bench.irq.rises();
                    let polls = bench.run_to(tick);
                    prop_assert!(polls <= by / 50 / 50 + 40, "{polls} polls in {} ticks", by / 50);
                    prop_assert!(bench.irq.rises() - rises <= by / 50 / MIN_INTERVAL_TICKS + 2);
                }
            }
        }
        prop_assert!(tick < u64::MAX);
    }
}
