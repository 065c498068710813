//! AML terms that `acpi_tables` has not, and encoded terms that can be kept without borrowing what they were made of.

use acpi_tables::aml::{Device, Method, Name, Package, Path, ResourceTemplate, Scope};
use acpi_tables::{Aml, AmlSink};

/// AML that is already encoded.
#[derive(Clone, Debug)]
pub(super) struct Encoded(Vec<u8>);

impl Aml for Encoded {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        sink.vec(&self.0);
    }
}

impl Encoded {
    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.0
    }
}

pub(super) fn encode(term: &dyn Aml) -> Encoded {
    let mut bytes = Vec::new();
    term.to_aml_bytes(&mut bytes);
    Encoded(bytes)
}

fn children(terms: &[Encoded]) -> Vec<&dyn Aml> {
    terms.iter().map(|term| -> &dyn Aml { term }).collect()
}

pub(super) fn name(path: &str, value: &dyn Aml) -> Encoded {
    encode(&Name::new(path.into(), value))
}

pub(super) fn scope(path: &str, terms: &[Encoded]) -> Encoded {
    encode(&Scope::new(path.into(), children(terms)))
}

pub(super) fn device(path: &str, terms: &[Encoded]) -> Encoded {
    encode(&Device::new(path.into(), children(terms)))
}

pub(super) fn method(path: &str, args: u8, serialized: bool, terms: &[Encoded]) -> Encoded {
    encode(&Method::new(path.into(), args, serialized, children(terms)))
}

pub(super) fn package(elements: &[Encoded]) -> Encoded {
    encode(&Package::new(children(elements)))
}

pub(super) fn resources(descriptors: &[Encoded]) -> Encoded {
    encode(&ResourceTemplate::new(children(descriptors)))
}

/// An edge-triggered ISA interrupt: the small IRQ descriptor (ACPI 6.4, section 6.4.2.1).
pub(super) struct IsaIrq(pub(super) u8);

impl Aml for IsaIrq {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        const SMALL_IRQ: u8 = 0x22;
        sink.byte(SMALL_IRQ);
        sink.word(1u16.checked_shl(u32::from(self.0)).unwrap_or(0));
    }
}

/// Level-triggered, active-high, shared interrupts, one of which is in use: the extended interrupt descriptor (ACPI
/// 6.4, section 6.4.3.6).
pub(super) struct PciIrqs<'a>(pub(super) &'a [u32]);

impl Aml for PciIrqs<'_> {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        const EXTENDED_IRQ: u8 = 0x89;
        const CONSUMER: u8 = 1 << 0;
        const SHARED: u8 = 1 << 3;
        // Six at most.
        let count = self.0.len() as u8;
        sink.byte(EXTENDED_IRQ);
        sink.word(2 + 4 * u16::from(count));
        sink.byte(CONSUMER | SHARED);
        sink.byte(count);
        for irq in self.0 {
            sink.dword(*irq);
        }
    }
}

/// A processor object. ACPI 6.0 prefers `ACPI0007` devices, which systems before Windows Vista do not know.
pub(super) struct Processor {
    /// Its name, four characters.
    pub(super) path: String,
    /// The number the MADT calls it by.
    pub(super) id: u8,
}

impl Aml for Processor {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        const PROCESSOR: [u8; 2] = [0x5b, 0x83];
        let name = encode(&Path::new(&self.path)).into_bytes();
        sink.vec(&PROCESSOR);
        // One byte of length is enough: it counts itself, the name, the number, and an empty block of registers.
        sink.byte(name.len() as u8 + 7);
        sink.vec(&name);
        sink.byte(self.id);
        sink.dword(0);
        sink.byte(0);
    }
}
