use std::sync::atomic::Ordering;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::WireProbe;
use crate::chipset::control::SystemProbe;

struct Bench {
    pm: Pm,
    sci: Arc<WireProbe>,
    control: Arc<SystemProbe>,
    clock: VirtualClock,
}

impl Bench {
    fn new() -> Self {
        let clock = VirtualClock::stopped();
        let (wire, sci) = Wire::probe();
        let control = Arc::new(SystemProbe::default());
        let pm = Pm::new(clock.clone(), wire, control.clone());
        Self { pm, sci, control, clock }
    }

    /// As SeaBIOS places it.
    fn placed() -> Self {
        let mut bench = Self::new();
        bench.pm.config_write(0x40, 0x601, 0xffff_ffff);
        bench.pm.config_write(0x80, 1, 0xff);
        bench
    }

    fn read(&mut self, port: u16) -> u32 {
        let mut data = [0xff; 4];
        self.pm.port_read(port, &mut data);
        u32::from_le_bytes(data)
    }

    fn write(&mut self, port: u16, value: u16) {
        self.pm.port_write(port, &value.to_le_bytes());
    }
}

#[test]
fn seabios_finds_its_registers() {
    let mut bench = Bench::new();
    assert_eq!(bench.pm.config_read(0), 0x7113_8086);
    assert_eq!(bench.pm.config_read(8), 0x0680_0003);
    assert_eq!(bench.pm.config_read(0x58), 1 << 25);
    assert_eq!(bench.pm.config_read(0x40), 1);
    assert_eq!(bench.pm.bars().len(), 1);
    bench.pm.config_write(0x40, 0x0000_0601, 0xffff_ffff);
    bench.pm.config_write(0x80, 1, 0xff);
    bench.pm.config_write(0x90, 0x701, 0xffff_ffff);
    bench.pm.config_write(0xd0, 9 << 16, 0x00ff_0000);
    bench.pm.config_write(0x04, 1, 0xffff);
    assert_eq!(bench.pm.config_read(0x40), 0x601);
    assert_eq!(bench.pm.config_read(0x90), 0x701);
    assert_eq!(bench.pm.config_read(0xd0), 9 << 16);
    let bars: Vec<_> = bench.pm.bars().iter().map(|bar| (bar.index, bar.base, bar.len_bytes)).collect();
    assert_eq!(bars, [(18, 0xafe0, 4), (16, 0x600, 64), (17, 0x700, 16)]);
    bench.pm.config_write(0x40, 0xb001, 0xffff);
    assert_eq!(bench.read(0x608), 0xffff_ffff);
    bench.clock.advance(Duration::from_secs(1));
    assert_eq!(bench.read(0xb008), 3_579_545);
}

#[test]
fn the_timer_counts_24_bits_in_real_time() {
    let mut bench = Bench::placed();
    assert_eq!(bench.read(0x608), 0);
    bench.clock.advance(Duration::from_secs(4));
    assert_eq!(bench.read(0x608), 4 * 3_579_545);
    bench.clock.advance(Duration::from_secs(1));
    assert_eq!(bench.read(0x608), 5 * 3_579_545 - (1 << 24));
}

#[test]
fn timer_events_come_when_bit_23_changes() {
    let mut bench = Bench::placed();
    bench.pm.acpi_enable(true);
    assert_eq!(bench.pm.deadline_ns(), None);
    bench.write(0x602, 1);
    for change in 1..4u64 {
        let at = bench.pm.deadline_ns().unwrap();
        assert_eq!(at, ((change << 23) * 1_000_000_000).div_ceil(3_579_545));
        bench.clock.set_ns(at - 1);
        Poll::poll(&mut bench.pm, at - 1);
        assert!(!bench.sci.level());
        bench.clock.set_ns(at);
        Poll::poll(&mut bench.pm, at);
        assert!(bench.sci.level());
        assert_eq!(bench.pm.deadline_ns(), None);
        assert_eq!(bench.read(0x600) & 0xffff, 1);
        bench.write(0x600, 1);
        assert!(!bench.sci.level());
    }
}

#[test]
fn the_power_button_raises_sci_in_acpi_mode() {
    let mut bench = Bench::placed();
    bench.write(0x602, 1 << 8);
    bench.pm.press_power_button();
    assert!(!bench.sci.level());
    assert_eq!(bench.read(0x604) & 1, 0);
    bench.pm.acpi_enable(true);
    assert!(bench.sci.level());
    assert_eq!(bench.read(0x604) & 1, 1);
    bench.write(0x600, 0xffff);
    assert!(!bench.sci.level());
    bench.pm.press_power_button();
    assert!(bench.sci.level());
    bench.pm.acpi_enable(false);
    assert!(!bench.sci.level());
    bench.pm.acpi_enable(true);
    bench.pm.reset();
    assert!(!bench.sci.level());
}

#[test]
fn soft_off_switches_off_and_other_sleep_types_do_not() {
    let mut bench = Bench::placed();
    bench.write(0x604, 1 << 10 | 1 << 13);
    assert_eq!(bench.control.power_offs.load(Ordering::SeqCst), 0);
    assert_eq!(bench.read(0x604) & 0xffff, 1 << 10);
    bench.write(0x604, 0x2000);
    assert_eq!(bench.control.power_offs.load(Ordering::SeqCst), 1);
    assert_eq!(bench.read(0x604) & 0xffff, 0);
}

#[test]
fn general_purpose_events_can_be_masked() {
    let mut bench = Bench::new();
    bench.write(0xafe2, 0x1234);
    assert_eq!(bench.read(0xafe0), 0x1234_0000);
    bench.write(0xafe0, 0xffff);
    assert_eq!(bench.read(0xafe0), 0x1234_0000);
}

#[test]
fn an_smbus_transaction_finds_nobody() {
    let mut bench = Bench::new();
    bench.pm.config_write(0x90, 0x701, 0xffff_ffff);
    bench.pm.config_write(0xd0, 1 << 16, 0x00ff_0000);
    bench.pm.config_write(0x04, 1, 0xffff);
    bench.pm.port_write(0x704, &[0xa1]);
    bench.pm.port_write(0x702, &[0x48]);
    assert_eq!(bench.read(0x700) & 0xff, 4);
    bench.pm.port_write(0x700, &[0xff]);
    assert_eq!(bench.read(0x700) & 0xff, 0);
}

#[test]
fn round_trip() {
    crate::conformance::device_round_trip(
        || Box::new(Bench::new().pm),
        |pm| {
            if let Some(function) = pm.pci() {
                function.config_write(0x40, 0x601, 0xffff_ffff);
                function.config_write(0x80, 1, 0xff);
                function.config_write(0x90, 0x701, 0xffff_ffff);
                function.config_write(0xd0, 9 << 16, 0x00ff_0000);
                function.config_write(0x04, 3, 0xffff);
            }
            if let Some(io) = pm.port_io() {
                io.port_write(0x602, &[0x21, 0x05]);
                io.port_write(0x604, &[0x01, 0x14]);
                io.port_write(0xafe2, &[3, 4]);
                for byte in 0..5 {
                    io.port_write(0x707, &[byte]);
                }
                io.port_write(0x702, &[0x48]);
            }
        },
    );
}

proptest! {
    #[test]
    fn garbage_is_survived(
        writes in prop::collection::vec((0u16..0x60, prop::collection::vec(any::<u8>(), 1..=4), any::<u32>(), 0u64..3_000_000_000), 0..100),
    ) {
        let mut bench = Bench::placed();
        bench.pm.acpi_enable(true);
        for (at, mut data, value, wait_ns) in writes {
            let port = if at < 0x40 { 0x5fe + at } else { 0xafc0 + at };
            bench.pm.port_write(port, &data);
            bench.pm.port_read(port, &mut data);
            bench.pm.config_write((at as u8).wrapping_mul(4) | 0x80, value, 0xffff_ffff);
            bench.clock.advance(Duration::from_nanos(wait_ns));
            if bench.pm.deadline_ns().is_some_and(|deadline| deadline <= bench.clock.now_ns()) {
                let now_ns = bench.clock.now_ns();
                Poll::poll(&mut bench.pm, now_ns);
                prop_assert!(bench.pm.deadline_ns().is_none_or(|deadline| deadline > now_ns));
            }
            let _ = bench.pm.bars();
        }
        let saved = bench.pm.save();
        bench.pm.restore(&saved).unwrap();
    }
}
