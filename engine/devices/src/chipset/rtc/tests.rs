use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::WireProbe;

/// Tuesday, 31 December 2024, 23:59:58 and a half.
const START_NS: u64 = 1_735_689_598_500_000_000;

struct Bench {
    rtc: Rtc,
    irq: Arc<WireProbe>,
    clock: VirtualClock,
    wall: Arc<AtomicU64>,
}

impl Bench {
    fn new() -> Self {
        let clock = VirtualClock::stopped();
        let wall = Arc::new(AtomicU64::new(START_NS));
        let (wire, irq) = Wire::probe();
        let source = wall.clone();
        let rtc = Rtc::with_wall_clock(
            clock.clone(),
            Arc::new(move || source.load(Ordering::Relaxed)),
            wire,
            CmosLayout { low_ram_bytes: 1 << 30, high_ram_bytes: 0, cpus: 2, boot_order: Vec::new() },
        );
        Self { rtc, irq, clock, wall }
    }

    fn read(&mut self, index: u8) -> u8 {
        let mut byte = [0xff];
        self.rtc.port_write(0x70, &[index | 0x80]);
        self.rtc.port_read(0x71, &mut byte);
        byte[0]
    }

    fn write(&mut self, index: u8, value: u8) {
        self.rtc.port_write(0x70, &[index]);
        self.rtc.port_write(0x71, &[value]);
    }

    fn time(&mut self) -> [u8; 8] {
        [0x32, 0x09, 0x08, 0x07, 0x06, 0x04, 0x02, 0x00].map(|index| self.read(index))
    }

    /// Lets both clocks run, polling at each deadline as the board does.
    fn pass(&mut self, time: Duration) {
        let end = self.clock.now_ns() + time.as_nanos() as u64;
        while let Some(at) = self.rtc.deadline_ns().filter(|at| *at <= end) {
            self.to(at);
            Poll::poll(&mut self.rtc, at);
        }
        self.to(end);
    }

    fn to(&mut self, now_ns: u64) {
        let by = now_ns - self.clock.now_ns();
        self.clock.advance(Duration::from_nanos(by));
        self.wall.fetch_add(by, Ordering::Relaxed);
    }
}

#[test]
fn it_shows_the_hosts_time_in_bcd() {
    let mut bench = Bench::new();
    assert_eq!(bench.time(), [0x20, 0x24, 0x12, 0x31, 3, 0x23, 0x59, 0x58]);
    bench.pass(Duration::from_secs(2));
    assert_eq!(bench.time(), [0x20, 0x25, 0x01, 0x01, 4, 0, 0, 0]);
    assert_eq!(bench.read(0x37), 0x20);
    assert_eq!(bench.read(0x0d), 0x80);
}

#[test]
fn formats_follow_register_b() {
    let mut bench = Bench::new();
    bench.write(0x0b, 0x00);
    assert_eq!(bench.read(4), 0x91);
    bench.write(0x0b, 0x04);
    assert_eq!(bench.read(4), 0x80 | 11);
    assert_eq!(bench.read(2), 59);
    bench.pass(Duration::from_secs(2));
    assert_eq!(bench.read(4), 12);
}

#[test]
fn the_guest_can_set_the_time_and_it_stays_set_over_reset_and_resume() {
    let mut bench = Bench::new();
    // As Linux does: updates halted, divider reset, the cells, and back.
    bench.write(0x0b, 0x82);
    bench.write(0x0a, 0x76);
    for (index, value) in [(0x32, 0x19), (9, 0x99), (8, 2), (7, 0x28), (4, 0x23), (2, 0x59), (0, 0x59)] {
        bench.write(index, value);
    }
    bench.pass(Duration::from_secs(5));
    assert_eq!(bench.read(0), 0x59);
    bench.write(0x0b, 0x02);
    bench.write(0x0a, 0x26);
    bench.pass(Duration::from_millis(499));
    assert_eq!(bench.read(0), 0x59);
    bench.pass(Duration::from_millis(2));
    assert_eq!(bench.time(), [0x19, 0x99, 3, 1, 2, 0, 0, 0]);
    bench.rtc.reset();
    assert_eq!(bench.time(), [0x19, 0x99, 3, 1, 2, 0, 0, 0]);

    // An hour in which the VM did not run.
    let saved = bench.rtc.save();
    let mut later = Bench::new();
    later.wall.store(bench.wall.load(Ordering::Relaxed) + 3_600_000_000_000, Ordering::Relaxed);
    later.rtc.restore(&saved).unwrap();
    assert_eq!(later.time(), [0x19, 0x99, 3, 1, 2, 1, 0, 0]);
    let offset = later.rtc.offset_seconds();
    let mut next = Bench::new();
    next.rtc.set_offset_seconds(offset);
    assert_eq!(next.read(0x09), 0x99);
}

#[test]
fn one_cell_can_be_set_while_the_clock_runs() {
    let mut bench = Bench::new();
    bench.write(2, 0x30);
    assert_eq!(bench.time(), [0x20, 0x24, 0x12, 0x31, 3, 0x23, 0x30, 0x58]);
    bench.pass(Duration::from_millis(600));
    assert_eq!(bench.read(0), 0x59);
}

#[test]
fn update_in_progress_comes_before_each_second() {
    let mut bench = Bench::new();
    assert_eq!(bench.read(0x0a), 0x26);
    bench.pass(Duration::from_millis(498));
    assert_eq!(bench.read(0x0a), 0xa6);
    bench.pass(Duration::from_millis(3));
    assert_eq!(bench.read(0x0a), 0x26);
    assert_eq!(bench.read(0x0c) & 0x90, 0x10);
    assert_eq!(bench.read(0x0c), 0);
}

#[test]
fn periodic_interrupts_have_their_rate_and_wait_for_the_acknowledgement() {
    let mut bench = Bench::new();
    bench.write(0x0b, 0x42);
    for _ in 0..64 {
        let before = bench.irq.rises();
        bench.pass(Duration::from_nanos(1_000_000_000 / 1024 + 1));
        assert_eq!(bench.irq.rises(), before + 1);
        assert_eq!(bench.read(0x0c) & 0xc0, 0xc0);
        assert!(!bench.irq.level());
    }
    let before = bench.irq.rises();
    bench.pass(Duration::from_secs(1));
    assert_eq!(bench.irq.rises(), before + 1, "missed periods are one interrupt");
    assert_eq!(bench.rtc.deadline_ns(), None);
    bench.read(0x0c);
    assert!(bench.rtc.deadline_ns().is_some());
    bench.write(0x0a, 0x20);
    assert_eq!(bench.rtc.deadline_ns(), None);
}

#[test]
fn update_and_alarm_interrupts() {
    let mut bench = Bench::new();
    bench.write(0x0b, 0x12);
    bench.pass(Duration::from_millis(501));
    assert!(bench.irq.level());
    assert_eq!(bench.read(0x0c) & 0xb0, 0x90);

    // Midnight and one second, any hour.
    bench.write(1, 0x01);
    bench.write(3, 0x00);
    bench.write(5, 0xff);
    bench.write(0x0b, 0x22);
    bench.pass(Duration::from_millis(1900));
    assert!(!bench.irq.level());
    bench.pass(Duration::from_millis(200));
    assert!(bench.irq.level());
    assert_eq!(bench.read(0x0c) & 0xa0, 0xa0);
    bench.pass(Duration::from_secs(3599));
    assert!(!bench.irq.level());
    bench.pass(Duration::from_secs(2));
    assert!(bench.irq.level());
    bench.rtc.reset();
    assert!(!bench.irq.level());
}

#[test]
fn an_alarm_inside_a_pause_comes_after_it() {
    let mut bench = Bench::new();
    bench.write(1, 0x00);
    bench.write(3, 0x30);
    bench.write(5, 0x04);
    bench.write(0x0b, 0x22);
    bench.wall.fetch_add(10 * 3600 * 1_000_000_000, Ordering::Relaxed);
    bench.pass(Duration::from_secs(1));
    assert!(bench.irq.level());
}

#[test]
fn ram_cells_keep_what_is_written() {
    let mut bench = Bench::new();
    bench.write(0x0f, 0x0a);
    bench.write(0x5f, 0xee);
    bench.rtc.reset();
    assert_eq!(bench.read(0x0f), 0x0a);
    assert_eq!(bench.read(0x5f), 1);
    let mut both = [0xff; 2];
    bench.rtc.port_write(0x70, &[0x5f, 0x77]);
    bench.rtc.port_read(0x70, &mut both);
    assert_eq!(both, [0xff, 0x77]);
}

#[test]
fn round_trip() {
    crate::conformance::save_restore_round_trip(
        || Box::new(Bench::new().rtc),
        |rtc| {
            if let Some(io) = rtc.port_io() {
                for (index, value) in [(0x0b, 0x72), (0x0a, 0x23), (0x40, 0x55), (9, 0x99), (1, 0xc0)] {
                    io.port_write(0x70, &[index]);
                    io.port_write(0x71, &[value]);
                }
            }
        },
    );
}

proptest! {
    #[test]
    fn garbage_is_survived(accesses in prop::collection::vec((any::<u8>(), any::<u8>(), 0u64..5_000_000_000), 0..100)) {
        let mut bench = Bench::new();
        for (index, value, wait_ns) in accesses {
            bench.write(index % 16, value);
            bench.write(index, value);
            let before = bench.irq.rises();
            bench.pass(Duration::from_nanos(wait_ns));
            prop_assert!(bench.irq.rises() <= before + 1);
            for index in 0..16 {
                bench.read(index);
            }
        }
        let saved = bench.rtc.save();
        bench.rtc.restore(&saved).unwrap();
    }
}
