//! The I/O APIC, driven through its window.

use parking_lot::Mutex;
use proptest::prelude::*;

use super::*;
use crate::conformance::device_round_trip;

#[derive(Default)]
struct Output {
    sent: Mutex<Vec<Message>>,
    mirrors: Mutex<Vec<Vec<Option<Message>>>>,
}

impl IoApicOutput for Output {
    fn send_msi(&self, address: u64, data: u32) {
        self.sent.lock().push((address, data));
    }
    fn mirror(&self, entries: &[Option<Message>]) {
        self.mirrors.lock().push(entries.to_vec());
    }
}

fn ioapic() -> (IoApic, Arc<Output>) {
    let output = Arc::new(Output::default());
    (IoApic::new(output.clone()), output)
}

fn write(ioapic: &mut IoApic, register: u8, value: u32) {
    ioapic.mmio_write(BASE, &u32::from(register).to_le_bytes());
    ioapic.mmio_write(BASE + 0x10, &value.to_le_bytes());
}

fn read(ioapic: &mut IoApic, register: u8) -> u32 {
    ioapic.mmio_write(BASE, &[register]);
    let mut data = [0xff; 4];
    ioapic.mmio_read(BASE + 0x10, &mut data);
    u32::from_le_bytes(data)
}

fn set_entry(ioapic: &mut IoApic, pin: u8, low: u32, destination: u32) {
    write(ioapic, 0x11 + 2 * pin, destination << 24);
    write(ioapic, 0x10 + 2 * pin, low);
}

#[test]
fn registers() {
    let (mut ioapic, _) = ioapic();
    assert_eq!(read(&mut ioapic, 1), 0x0017_0011);
    write(&mut ioapic, 0, 0xffff_ffff);
    assert_eq!(read(&mut ioapic, 0), 0x0f00_0000);
    assert_eq!(read(&mut ioapic, 0x10), 0x0001_0000);
    write(&mut ioapic, 0x3e, 0xffff_ffff);
    assert_eq!(read(&mut ioapic, 0x3e), 0x0001_afff);
    write(&mut ioapic, 0x3f, 0xffff_ffff);
    assert_eq!(read(&mut ioapic, 0x3f), 0xff00_0000);
    assert_eq!(read(&mut ioapic, 0x40), 0);
    let mut data = [0xff; 8];
    ioapic.mmio_read(BASE + 0x0e, &mut data);
    assert_eq!(data, [0; 8]);
}

#[test]
fn edges_go_out_once_and_not_while_masked() {
    let (mut ioapic, output) = ioapic();
    ioapic.set_pin(1, true);
    ioapic.set_pin(1, false);
    set_entry(&mut ioapic, 1, 0x931, 3);
    assert!(output.sent.lock().is_empty());
    ioapic.set_pin(1, true);
    ioapic.set_pin(1, true);
    assert_eq!(*output.sent.lock(), [(0xfee0_3004, 0x131)]);
    ioapic.set_pin(1, false);
    ioapic.set_pin(1, true);
    assert_eq!(output.sent.lock().len(), 2);
}

#[test]
fn a_level_comes_again_after_the_eoi() {
    let (mut ioapic, output) = ioapic();
    set_entry(&mut ioapic, 10, 0x8041, 0);
    ioapic.set_pin(10, true);
    assert_eq!(*output.sent.lock(), [(0xfee0_0000, 0xc041)]);
    assert_eq!(read(&mut ioapic, 0x10 + 20), 0xc041);
    ioapic.set_pin(10, false);
    ioapic.set_pin(10, true);
    assert_eq!(output.sent.lock().len(), 1, "remote IRR holds it");
    ioapic.eoi(0x40);
    assert_eq!(output.sent.lock().len(), 1);
    ioapic.eoi(0x41);
    assert_eq!(output.sent.lock().len(), 2);
    ioapic.set_pin(10, false);
    ioapic.eoi(0x41);
    assert_eq!(output.sent.lock().len(), 2);
    assert_eq!(read(&mut ioapic, 0x10 + 20), 0x8041);
}

#[test]
fn masking_in_service_keeps_the_mirror_and_unmasking_looks_at_the_line() {
    let (mut ioapic, output) = ioapic();
    set_entry(&mut ioapic, 11, 0x8052, 1);
    assert_eq!(output.mirrors.lock().len(), 1, "the masked half was not worth telling");
    ioapic.set_pin(11, true);
    write(&mut ioapic, 0x10 + 22, 0x1_8052);
    assert_eq!(output.mirrors.lock().len(), 1);
    ioapic.eoi(0x52);
    assert_eq!(output.sent.lock().len(), 1, "masked");
    write(&mut ioapic, 0x10 + 22, 0x8052);
    assert_eq!(output.sent.lock().len(), 2);
    assert_eq!(output.mirrors.lock().len(), 1);
    write(&mut ioapic, 0x10 + 22, 0x8053);
    assert_eq!(output.mirrors.lock().last().unwrap()[11], Some((0xfee0_1000, 0xc053)));
    ioapic.reset();
    assert!(output.mirrors.lock().last().unwrap().iter().all(Option::is_none));
}

#[test]
fn switching_to_edge_clears_remote_irr() {
    let (mut ioapic, output) = ioapic();
    set_entry(&mut ioapic, 9, 0x8061, 0);
    ioapic.set_pin(9, true);
    write(&mut ioapic, 0x10 + 18, 0x1_0061);
    assert_eq!(read(&mut ioapic, 0x10 + 18), 0x1_0061);
    write(&mut ioapic, 0x10 + 18, 0x8061);
    assert_eq!(output.sent.lock().len(), 2);
}

#[test]
fn extint_sends_nothing_and_nmi_is_an_edge() {
    let (mut ioapic, output) = ioapic();
    set_entry(&mut ioapic, 0, 0x700, 0);
    ioapic.set_pin(0, true);
    assert!(output.sent.lock().is_empty());
    set_entry(&mut ioapic, 5, 0x8400, 0);
    ioapic.set_pin(5, true);
    ioapic.set_pin(5, false);
    ioapic.set_pin(5, true);
    assert_eq!(*output.sent.lock(), [(0xfee0_0000, 0x400); 2]);
    ioapic.set_pin(24, true);
    ioapic.set_pin(255, true);
}

#[test]
fn round_trip() {
    device_round_trip(
        || Box::new(ioapic().0),
        |device| {
            let io = device.mmio().unwrap();
            for (register, value) in
                [(0x00_u32, 0x0500_0000_u32), (0x12, 0x8031), (0x15, 0x0100_0000), (0x14, 0x1_0033)]
            {
                io.mmio_write(BASE, &register.to_le_bytes());
                io.mmio_write(BASE + 0x10, &value.to_le_bytes());
            }
        },
    );
}

proptest! {
    /// Level entries: never two messages without an EOI (or a rewrite) between.
    #[test]
    fn hostile(steps in prop::collection::vec((any::<u8>(), any::<u8>(), any::<u32>()), 0..300)) {
        let (mut ioapic, output) = ioapic();
        for (what, pin, value) in steps {
            match what % 4 {
                0 => write(&mut ioapic, pin, value & 0xff01_ffff),
                1 => ioapic.set_pin(pin % 28, value & 1 != 0),
                2 => ioapic.eoi(pin),
                _ => ioapic.mmio_write(BASE + u64::from(pin), &value.to_le_bytes()[..1 + usize::from(what & 3)]),
            }
            for entry in ioapic.entries {
                prop_assert!(entry & RTE_REMOTE_IRR == 0 || by_level(entry));
            }
        }
        for (address, _) in &*output.sent.lock() {
            prop_assert_eq!(address >> 20, 0xfee);
        }
    }
}
