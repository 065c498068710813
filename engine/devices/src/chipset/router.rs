//! Interrupt lines: from devices through PIRQ routing to the PIC and the I/O APIC.
//!
//! ```text
//!   isa_wire(n) ──────────────────────────┐
//!   pci_wire(slot, pin) ─▶ PIRQ A-D ─▶ OR ┴─▶ IRQ n ─▶ PIC input n
//!                                                  └─▶ I/O APIC input n (IRQ 0: input 2)
//! ```
//!
//! Each wire is a source of its own: a line is high while any of its sources is. Lock order: device, router, then PIC
//! or I/O APIC.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::chipset::ioapic::IoApic;
use crate::chipset::pic::Pic;
use crate::{Device, RestoreError, SavedState, Wire, WireSink};

const KIND: &str = "interrupt-router";
const VERSION: u32 = 1;
/// IRQs a PIRQ can be routed to: not 0, 1, 2, 8 and 13.
const PIRQ_TARGETS: u16 = 0b1101_1110_1111_1000;

/// Whether PIRQ routing register `value` routes anywhere, and where to (82371SB data sheet, PIRQRC).
fn pirq_target(value: u8) -> Option<u8> {
    let irq = value & 0x0f;
    (value & 0x80 == 0 && PIRQ_TARGETS & (1 << irq) != 0).then_some(irq)
}

#[derive(Clone, Copy, Debug)]
enum Line {
    Isa(u8),
    Pirq(u8),
}

#[derive(Debug)]
struct Source {
    line: Line,
    level: bool,
}

#[derive(Debug)]
struct Lines {
    sources: Vec<Source>,
    /// PIRQ routing registers, as the ISA bridge has them.
    pirq: [u8; 4],
    /// Levels of the 16 IRQs.
    irqs: u16,
}

impl Lines {
    fn levels(&self) -> u16 {
        let mut irqs = 0;
        for source in self.sources.iter().filter(|source| source.level) {
            let irq = match source.line {
                Line::Isa(irq) => Some(irq),
                Line::Pirq(pirq) => pirq_target(self.pirq[usize::from(pirq & 3)]),
            };
            if let Some(irq) = irq {
                irqs |= 1 << (irq & 15);
            }
        }
        irqs
    }
}

/// Carries interrupt lines. Attached to the bus (as a device without ports) so that it is reset, saved and restored.
pub struct InterruptRouter {
    lines: Mutex<Lines>,
    pic: Arc<Mutex<Pic>>,
    intr: Arc<AtomicBool>,
    ioapic: Arc<Mutex<IoApic>>,
}

#[derive(Serialize, Deserialize)]
struct RouterV1 {
    /// Levels of the sources, in the order their wires were made.
    sources: Vec<bool>,
    pirq: [u8; 4],
}

impl InterruptRouter {
    /// A router with no wires, to these controllers.
    pub fn new(pic: Arc<Mutex<Pic>>, ioapic: Arc<Mutex<IoApic>>) -> Arc<Self> {
        let intr = pic.lock().intr();
        let lines = Mutex::new(Lines { sources: Vec::new(), pirq: [0x80; 4], irqs: 0 });
        Arc::new(Self { lines, pic, intr, ioapic })
    }

    /// A new wire to ISA line `irq` (0 to 15; 2 is the cascade and leads nowhere). IRQ 9 is the SCI's.
    pub fn isa_wire(self: &Arc<Self>, irq: u8) -> Wire {
        if irq > 15 || irq == 2 { Wire::disconnected() } else { self.wire(Line::Isa(irq)) }
    }

    /// A new wire to interrupt pin `pin` of PCI slot `slot`. `pin` is as the interrupt pin register has it: 1 is
    /// INTA#, 4 is INTD#, and 0 leads nowhere.
    pub fn pci_wire(self: &Arc<Self>, slot: u8, pin: u8) -> Wire {
        match pin {
            // PIRQ = (slot + pin - 1) mod 4, with pins counted from 0.
            1..=4 => self.wire(Line::Pirq((slot & 3).wrapping_add(pin).wrapping_sub(2) & 3)),
            _ => Wire::disconnected(),
        }
    }

    fn wire(self: &Arc<Self>, line: Line) -> Wire {
        let mut lines = self.lines.lock();
        let Ok(number) = u32::try_from(lines.sources.len()) else { return Wire::disconnected() };
        lines.sources.push(Source { line, level: false });
        Wire::new(self.clone(), number)
    }

    /// PIRQ routing register `pirq` (0 to 3: A to D) has a new value.
    pub fn set_pirq_route(&self, pirq: u8, value: u8) {
        let mut lines = self.lines.lock();
        if let Some(register) = lines.pirq.get_mut(usize::from(pirq)) {
            *register = value;
            self.settle(&mut lines);
        }
    }

    /// Whether the PIC asserts INTR. Takes no lock.
    pub fn pic_pending(&self) -> bool {
        self.intr.load(Ordering::SeqCst)
    }

    /// The INTA cycle: the vector, or `None` (and no cycle) where INTR is no longer asserted.
    pub fn pic_acknowledge(&self) -> Option<u8> {
        let mut pic = self.pic.lock();
        pic.pending().then(|| pic.acknowledge())
    }

    /// A local APIC ended the interrupt of `vector`.
    pub fn ioapic_eoi(&self, vector: u8) {
        self.ioapic.lock().eoi(vector);
    }

    /// Tells the controllers what changed. The lines stay locked, so that two devices can not tell it out of order.
    fn settle(&self, lines: &mut Lines) {
        let irqs = lines.levels();
        let changed = irqs ^ lines.irqs;
        lines.irqs = irqs;
        for irq in (0..16).filter(|irq| changed & (1 << irq) != 0) {
            let level = irqs & (1 << irq) != 0;
            self.pic.lock().set_irq(irq, level);
            self.ioapic.lock().set_pin(if irq == 0 { 2 } else { irq }, level);
        }
    }
}

impl WireSink for InterruptRouter {
    fn set_level(&self, line: u32, level: bool) {
        let mut lines = self.lines.lock();
        let Some(source) = usize::try_from(line).ok().and_then(|line| lines.sources.get_mut(line)) else { return };
        if source.level != level {
            source.level = level;
            self.settle(&mut lines);
        }
    }
}

impl Device for Arc<InterruptRouter> {
    fn reset(&mut self) {
        let mut lines = self.lines.lock();
        lines.pirq = [0x80; 4];
        for source in &mut lines.sources {
            source.level = false;
        }
        self.settle(&mut lines);
    }

    fn save(&self) -> SavedState {
        let lines = self.lines.lock();
        let sources = lines.sources.iter().map(|source| source.level).collect();
        SavedState::encode(KIND, VERSION, &RouterV1 { sources, pirq: lines.pirq })
    }

    fn restore(&mut self, state: &SavedState) -> Result<(), RestoreError> {
        let RouterV1 { sources, pirq } = state.decode(KIND, VERSION)?;
        let mut lines = self.lines.lock();
        if sources.len() != lines.sources.len() {
            return Err(RestoreError::Field { kind: KIND, field: "number of wires" });
        }
        for (source, level) in lines.sources.iter_mut().zip(sources) {
            source.level = level;
        }
        lines.pirq = pirq;
        self.settle(&mut lines);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chipset::ioapic::IoApicOutput;
    use crate::chipset::pic::PicOutput;
    use crate::conformance::device_round_trip;
    use crate::{Mmio, PortIo};

    #[derive(Default)]
    struct Output {
        sent: Mutex<Vec<u32>>,
    }

    impl PicOutput for Output {
        fn intr_changed(&self, _: bool) {}
    }

    impl IoApicOutput for Output {
        fn send_msi(&self, _: u64, data: u32) {
            self.sent.lock().push(data);
        }
        fn mirror(&self, _: &[Option<(u64, u32)>]) {}
    }

    fn router() -> (Arc<InterruptRouter>, Arc<Output>) {
        let output = Arc::new(Output::default());
        let mut pic = Pic::new(output.clone());
        for (port, value) in
            [(0x20, 0x11), (0x21, 8), (0x21, 4), (0x21, 1), (0xa0, 0x11), (0xa1, 0x70), (0xa1, 2), (0xa1, 1)]
        {
            pic.port_write(port, &[value]);
        }
        pic.port_write(0x4d1, &[0x0c]);
        let ioapic = IoApic::new(output.clone());
        (InterruptRouter::new(Arc::new(Mutex::new(pic)), Arc::new(Mutex::new(ioapic))), output)
    }

    #[test]
    fn shared_pirq_is_an_or() {
        let (router, _) = router();
        let first = router.pci_wire(3, 1);
        let second = router.pci_wire(7, 1);
        router.set_pirq_route(2, 11);
        first.set(true);
        second.set(true);
        assert_eq!(router.pic_acknowledge(), Some(0x73));
        first.set(false);
        for port in [0xa0, 0x20] {
            router.pic.lock().port_write(port, &[0x20]);
        }
        assert!(router.pic_pending(), "the other still asserts it");
        second.set(false);
        assert!(!router.pic_pending());
        assert_eq!(router.pic_acknowledge(), None);
    }

    #[test]
    fn routes_can_change_under_a_raised_line() {
        let (router, _) = router();
        let wire = router.pci_wire(1, 4);
        wire.set(true);
        assert!(!router.pic_pending());
        router.set_pirq_route(3, 0x8a);
        assert!(!router.pic_pending(), "bit 7 switches it off");
        router.set_pirq_route(3, 13);
        assert!(!router.pic_pending(), "no PIRQ goes to IRQ 13");
        router.set_pirq_route(3, 10);
        assert!(router.pic_pending());
        router.set_pirq_route(3, 0x80);
        assert!(!router.pic_pending());
        router.set_pirq_route(4, 10);
    }

    #[test]
    fn pci_pins_swizzle_by_slot() {
        // The interrupt line firmware gives slot 2 pin A is that of PIRQ B, and so on.
        for (slot, pin, pirq) in
            [(1, 1, 0), (1, 4, 3), (2, 1, 1), (3, 2, 3), (4, 1, 3), (5, 1, 0), (0, 1, 3), (31, 4, 1)]
        {
            let (router, _) = router();
            let wire = router.pci_wire(slot, pin);
            router.set_pirq_route(pirq, 10);
            wire.set(true);
            assert!(router.pic_pending(), "slot {slot} pin {pin}");
        }
        let (router, _) = router();
        router.pci_wire(1, 0).set(true);
        router.pci_wire(1, 5).set(true);
        router.isa_wire(2).set(true);
        router.isa_wire(16).set(true);
        assert!(router.lines.lock().sources.is_empty());
    }

    #[test]
    fn irq_0_is_input_2_of_the_ioapic() {
        let (router, output) = router();
        {
            let mut ioapic = router.ioapic.lock();
            ioapic.mmio_write(0xfec0_0000, &[0x14]);
            ioapic.mmio_write(0xfec0_0010, &0x30_u32.to_le_bytes());
        }
        let wire = router.isa_wire(0);
        wire.pulse();
        wire.pulse();
        assert_eq!(*output.sent.lock(), [0x30, 0x30]);
        assert_eq!(router.pic_acknowledge(), Some(8));
    }

    #[test]
    fn round_trip() {
        let make = || {
            let (router, _) = router();
            let _wires = [router.isa_wire(9), router.pci_wire(3, 1)];
            router
        };
        device_round_trip(
            || Box::new(make()),
            |device| {
                let mut state = device.save();
                // Both wires up and PIRQ C on 11.
                state.data = vec![2, 1, 1, 0x80, 0x80, 11, 0x80];
                device.restore(&state).unwrap();
            },
        );
    }
}
