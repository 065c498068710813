//! The ISA bridge's ports and PIRQ registers.

use std::sync::atomic::Ordering;

use parking_lot::Mutex;
use proptest::prelude::*;

use super::*;
use crate::chipset::control::SystemProbe;
use crate::chipset::ioapic::{IoApic, IoApicOutput};
use crate::chipset::pic::{Pic, PicOutput};
use crate::conformance::device_round_trip;

struct Nowhere;

impl PicOutput for Nowhere {
    fn intr_changed(&self, _: bool) {}
}

impl IoApicOutput for Nowhere {
    fn send_msi(&self, _: u64, _: u32) {}
    fn mirror(&self, _: &[Option<(u64, u32)>]) {}
}

fn bridge() -> (Piix3, Arc<InterruptRouter>, Arc<SystemProbe>) {
    let board = Arc::new(SystemProbe::default());
    board.set_a20(true);
    let mut pic = Pic::new(Arc::new(Nowhere));
    for (port, value) in
        [(0x20, 0x11), (0x21, 8), (0x21, 4), (0x21, 1), (0xa0, 0x11), (0xa1, 0x70), (0xa1, 2), (0xa1, 1)]
    {
        pic.port_write(port, &[value]);
    }
    let router = InterruptRouter::new(Arc::new(Mutex::new(pic)), Arc::new(Mutex::new(IoApic::new(Arc::new(Nowhere)))));
    (Piix3::new(router.clone(), board.clone()), router, board)
}

fn inb(bridge: &mut Piix3, port: u16) -> u8 {
    let mut data = [0xff];
    bridge.port_read(port, &mut data);
    data[0]
}

#[test]
fn reset_control_resets_on_the_rise() {
    let (mut bridge, _, board) = bridge();
    bridge.port_write(0xcf9, &[0x02]);
    assert_eq!(board.resets.load(Ordering::SeqCst), 0);
    bridge.port_write(0xcf9, &[0x06]);
    assert_eq!(board.resets.load(Ordering::SeqCst), 1);
    bridge.port_write(0xcf9, &[0x06]);
    assert_eq!(board.resets.load(Ordering::SeqCst), 1);
    bridge.reset();
    assert_eq!(inb(&mut bridge, 0xcf9), 0);
    bridge.port_write(0xcf9, &[0x0e]);
    assert_eq!(board.resets.load(Ordering::SeqCst), 2);
}

#[test]
fn port_92_has_a20_and_fast_reset() {
    let (mut bridge, _, board) = bridge();
    assert_eq!(inb(&mut bridge, 0x92), 2);
    bridge.port_write(0x92, &[0]);
    assert!(!board.a20());
    assert_eq!(inb(&mut bridge, 0x92), 0);
    // The keyboard controller's view is the same bit.
    board.set_a20(true);
    assert_eq!(inb(&mut bridge, 0x92), 2);
    bridge.port_write(0x92, &[3]);
    assert_eq!(board.resets.load(Ordering::SeqCst), 1);
    bridge.port_write(0x92, &[0]);
    bridge.reset();
    assert!(board.a20());
}

#[test]
fn apm_and_delay_ports() {
    let (mut bridge, _, board) = bridge();
    bridge.port_write(0xb2, &[0xf1]);
    assert_eq!(board.apm.load(Ordering::SeqCst), 0xf1);
    bridge.port_write(0xb3, &[0x12]);
    assert_eq!((inb(&mut bridge, 0xb2), inb(&mut bridge, 0xb3)), (0xf1, 0x12));
    bridge.port_write(0x80, &[0x55]);
    assert_eq!(inb(&mut bridge, 0x80), 0x55);
    bridge.port_write(0xed, &[0]);
    assert_eq!(inb(&mut bridge, 0xed), 0xff);
}

#[test]
fn pirq_registers_route() {
    let (mut bridge, router, _) = bridge();
    assert_eq!(bridge.config_read(0), 0x7000_8086);
    assert_eq!(bridge.config_read(0x0c) >> 16, 0x80);
    assert_eq!(bridge.config_read(0x60), 0x8080_8080);
    let wire = router.pci_wire(2, 1);
    wire.set(true);
    bridge.config_write(0x60, 0x0000_0a00, 0x0000_ff00);
    assert_eq!(bridge.config_read(0x60), 0x8080_0a80);
    assert_eq!(router.pic_acknowledge(), Some(0x72));
    assert!(bridge.bars().is_empty());
}

#[test]
fn round_trip() {
    device_round_trip(
        || Box::new(bridge().0),
        |device| {
            device.pci().unwrap().config_write(0x60, 0x0b0b_0a0a, 0xffff_ffff);
            let io = device.port_io().unwrap();
            for (port, value) in [(0x92, 0x40), (0xb2, 1), (0xb3, 2), (0x80, 3), (0xcf9, 2)] {
                io.port_write(port, &[value]);
            }
        },
    );
}

proptest! {
    #[test]
    fn hostile(writes in prop::collection::vec((0_usize..6, any::<u8>(), any::<u32>(), 0_u8..3), 0..200)) {
        let (mut bridge, router, _) = bridge();
        let wires: Vec<_> = (0..4).map(|pin| router.pci_wire(1, pin + 1)).collect();
        for (port, offset, value, width) in writes {
            let port = [0x80, 0x92, 0xb2, 0xed, 0xcf9, 0xffff][port];
            bridge.port_write(port, &value.to_le_bytes()[..1 << width]);
            bridge.config_write(offset & 0xfc, value, 0xffff_00ff);
            wires[usize::from(offset & 3)].set(value & 1 != 0);
            let _ = router.pic_acknowledge();
        }
        let saved = bridge.save();
        prop_assert!(bridge.restore(&saved).is_ok());
    }
}
