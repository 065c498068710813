//! The pair of 8259As, driven through its ports.

use std::sync::atomic::AtomicU32;

use proptest::prelude::*;

use super::*;
use crate::conformance::device_round_trip;

#[derive(Default)]
struct Output(AtomicU32);

impl PicOutput for Output {
    fn intr_changed(&self, _: bool) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

fn out(pic: &mut Pic, port: u16, value: u8) {
    pic.port_write(port, &[value]);
}

fn inb(pic: &mut Pic, port: u16) -> u8 {
    let mut data = [0xff];
    pic.port_read(port, &mut data);
    data[0]
}

fn read_isr(pic: &mut Pic, port: u16) -> u8 {
    out(pic, port, 0x0b);
    inb(pic, port)
}

/// Initialised to vectors 08h and 70h, nothing masked.
fn pic() -> Pic {
    let mut pic = Pic::new(Arc::new(Output::default()));
    for (port, data, base, icw3) in [(0x20, 0x21, 0x08, 4), (0xa0, 0xa1, 0x70, 2)] {
        out(&mut pic, port, 0x11);
        out(&mut pic, data, base);
        out(&mut pic, data, icw3);
        out(&mut pic, data, 0x01);
    }
    pic
}

fn pulse(pic: &mut Pic, irq: u8) {
    pic.set_irq(irq, true);
    pic.set_irq(irq, false);
}

#[test]
fn priorities_nest() {
    let mut pic = pic();
    pulse(&mut pic, 4);
    assert!(pic.pending());
    assert_eq!(pic.acknowledge(), 0x0c);
    assert!(!pic.pending());
    pulse(&mut pic, 5);
    assert!(!pic.pending(), "a lower one waits");
    pulse(&mut pic, 1);
    assert!(pic.pending(), "a higher one does not");
    assert_eq!(pic.acknowledge(), 0x09);
    assert_eq!(read_isr(&mut pic, 0x20), 0x12);
    out(&mut pic, 0x20, 0x20);
    assert_eq!(read_isr(&mut pic, 0x20), 0x10);
    assert!(!pic.pending());
    out(&mut pic, 0x20, 0x64);
    assert_eq!(pic.acknowledge(), 0x0d);
}

#[test]
fn the_slave_comes_in_at_two() {
    let mut pic = pic();
    pulse(&mut pic, 14);
    pulse(&mut pic, 3);
    assert_eq!(pic.acknowledge(), 0x76, "IR2 is before IR3");
    assert_eq!((read_isr(&mut pic, 0x20), read_isr(&mut pic, 0xa0)), (4, 0x40));
    pulse(&mut pic, 8);
    assert!(!pic.pending(), "the master holds IR2 in service");
    out(&mut pic, 0x20, 0x20);
    assert!(pic.pending());
    assert_eq!(pic.acknowledge(), 0x70);
    out(&mut pic, 0xa0, 0x20);
    out(&mut pic, 0xa0, 0x20);
    out(&mut pic, 0x20, 0x20);
    assert_eq!(pic.acknowledge(), 0x0b);
}

#[test]
fn special_fully_nested_lets_the_slave_preempt_itself() {
    let mut pic = Pic::new(Arc::new(Output::default()));
    for (port, data, base, icw3, icw4) in [(0x20, 0x21, 0x08, 4, 0x11), (0xa0, 0xa1, 0x70, 2, 0x01)] {
        out(&mut pic, port, 0x11);
        for value in [base, icw3, icw4] {
            out(&mut pic, data, value);
        }
    }
    pulse(&mut pic, 14);
    assert_eq!(pic.acknowledge(), 0x76);
    pulse(&mut pic, 9);
    assert!(pic.pending());
    assert_eq!(pic.acknowledge(), 0x71);
}

#[test]
fn level_inputs_come_back_until_they_fall() {
    let mut pic = pic();
    out(&mut pic, 0x4d0, 0xff);
    out(&mut pic, 0x4d1, 0xff);
    assert_eq!((inb(&mut pic, 0x4d0), inb(&mut pic, 0x4d1)), (0xf8, 0xde));
    pic.set_irq(10, true);
    assert_eq!(pic.acknowledge(), 0x72);
    out(&mut pic, 0xa0, 0x20);
    out(&mut pic, 0x20, 0x20);
    assert!(pic.pending());
    pic.set_irq(10, false);
    assert!(!pic.pending());
    // An edge input is taken once for a rise.
    pic.set_irq(1, true);
    assert_eq!(pic.acknowledge(), 0x09);
    out(&mut pic, 0x20, 0x20);
    assert!(!pic.pending());
}

#[test]
fn masks_special_mask_and_spurious() {
    let mut pic = pic();
    out(&mut pic, 0x21, 0x02);
    pulse(&mut pic, 1);
    assert!(!pic.pending());
    assert_eq!(inb(&mut pic, 0x20), 0x02, "IRR shows it all the same");
    out(&mut pic, 0x21, 0);
    assert!(pic.pending());
    assert_eq!(pic.acknowledge(), 0x09);
    // Special mask mode: the one in service is masked, and lower ones get through.
    out(&mut pic, 0x21, 0x02);
    out(&mut pic, 0x20, 0x68);
    pulse(&mut pic, 6);
    assert!(pic.pending());
    assert_eq!(pic.acknowledge(), 0x0e);
    out(&mut pic, 0x20, 0x20);
    assert_eq!(read_isr(&mut pic, 0x20), 0x02, "the masked one is not ended by a non-specific EOI");
    out(&mut pic, 0x20, 0x61);
    assert_eq!(read_isr(&mut pic, 0x20), 0);
    // Nothing pending: the spurious vector, and nothing in service.
    assert_eq!(pic.acknowledge(), 0x0f);
    assert_eq!(read_isr(&mut pic, 0x20), 0);
}

#[test]
fn rotation() {
    let mut pic = pic();
    pulse(&mut pic, 4);
    assert_eq!(pic.acknowledge(), 0x0c);
    out(&mut pic, 0x20, 0xa0);
    pulse(&mut pic, 4);
    pulse(&mut pic, 3);
    pulse(&mut pic, 5);
    assert_eq!(pic.acknowledge(), 0x0d, "4 is the lowest now, so 5 is the highest");
    out(&mut pic, 0x20, 0xc0 | 7);
    out(&mut pic, 0x20, 0x65);
    assert_eq!(pic.acknowledge(), 0x0b);
}

#[test]
fn auto_eoi_and_poll() {
    let mut pic = pic();
    out(&mut pic, 0x20, 0x13);
    out(&mut pic, 0x21, 0x20);
    out(&mut pic, 0x21, 0x03);
    pulse(&mut pic, 3);
    assert_eq!(pic.acknowledge(), 0x23);
    assert_eq!(read_isr(&mut pic, 0x20), 0);
    let mut pic = self::pic();
    pulse(&mut pic, 5);
    out(&mut pic, 0x20, 0x0c);
    assert_eq!(inb(&mut pic, 0x20), 0x85);
    assert!(!pic.pending());
    assert_eq!(read_isr(&mut pic, 0x20), 0x20);
    out(&mut pic, 0x20, 0x0c);
    assert_eq!(inb(&mut pic, 0x20), 0);
}

#[test]
fn icw1_forgets_edges_and_waits_for_the_rest() {
    let mut pic = pic();
    pic.set_irq(1, true);
    out(&mut pic, 0x20, 0x11);
    assert!(!pic.pending());
    out(&mut pic, 0x21, 0x40);
    out(&mut pic, 0x21, 0x04);
    out(&mut pic, 0x21, 0x01);
    assert!(!pic.pending(), "a line that is high needs a new edge");
    pic.set_irq(1, false);
    pic.set_irq(1, true);
    assert_eq!(pic.acknowledge(), 0x41);
}

#[test]
fn output_is_told_of_changes_only() {
    let output = Arc::new(Output::default());
    let mut pic = Pic::new(output.clone());
    out(&mut pic, 0x20, 0x12);
    out(&mut pic, 0x21, 0x08);
    pulse(&mut pic, 1);
    pulse(&mut pic, 3);
    assert_eq!(output.0.load(Ordering::SeqCst), 1);
    out(&mut pic, 0x21, 0xff);
    assert_eq!(output.0.load(Ordering::SeqCst), 2);
}

#[test]
fn round_trip() {
    device_round_trip(
        || Box::new(Pic::new(Arc::new(Output::default()))),
        |device| {
            let io = device.port_io().unwrap();
            for (port, value) in [
                (0x20, 0x11),
                (0x21, 8),
                (0x21, 4),
                (0x21, 0x13),
                (0xa0, 0x11),
                (0xa1, 0x70),
                (0xa1, 2),
                (0x4d1, 0x0c),
                (0x20, 0xc3),
                (0x20, 0x6f),
                (0x21, 0x55),
            ] {
                io.port_write(port, &[value]);
            }
        },
    );
}

proptest! {
    /// INTR says what the INTA cycle then finds, whatever was written.
    #[test]
    fn hostile(steps in prop::collection::vec((any::<u8>(), any::<u8>(), any::<bool>()), 0..300)) {
        let mut pic = pic();
        for (what, value, flag) in steps {
            match what % 8 {
                0..=5 => {
                    let port = [0x20, 0x21, 0xa0, 0xa1, 0x4d0, 0x4d1][usize::from(what % 8)];
                    if flag { out(&mut pic, port, value) } else { let _ = inb(&mut pic, port); }
                }
                6 => pic.set_irq(value % 20, flag),
                _ => {
                    let pending = pic.pending();
                    let before = (pic.master.clone(), pic.slave.clone());
                    let vector = pic.acknowledge();
                    if pending {
                        prop_assert!(vector & !7 == pic.master.vector_base || vector & !7 == pic.slave.vector_base);
                    } else {
                        prop_assert_eq!(before, (pic.master.clone(), pic.slave.clone()));
                    }
                }
            }
        }
    }
}
