//! The DSDT: what a guest can not find out by looking at the bus.

use acpi_tables::aml::{
    AddressSpace, AddressSpaceCacheable, And, Arg, CreateDWordField, EISAName, Field, FieldAccessType, FieldEntry,
    FieldLockRule, FieldUpdateRule, IO, If, LessThan, Memory32Fixed, MethodCall, OpRegion, OpRegionSpace, Or, Path,
    Return, Store, ZERO,
};

use super::AcpiConfig;
use super::aml::{Encoded, IsaIrq, PciIrqs, Processor, device, encode, method, name, package, resources, scope};
use super::tables::{Table, described_cpus, table};

/// Registers of the ISA bridge that route PIRQA to PIRQD, as the DSDT calls them.
const ROUTES: [&str; 4] = ["PRQ0", "PRQ1", "PRQ2", "PRQ3"];
const LINKS: [&str; 4] = ["LNKA", "LNKB", "LNKC", "LNKD"];
/// The link of the SCI, which is wired to IRQ 9.
const SCI_LINK: &str = "LNKS";
const SCI_IRQ: u32 = 9;
/// What PIRQs can be routed to.
const PIRQ_CHOICES: [u32; 3] = [5, 10, 11];
/// In a route register: not routed.
const ROUTE_OFF: u8 = 0x80;

const PRESENT: u8 = 0x0f;
/// Present and working, but not to be shown.
const PRESENT_HIDDEN: u8 = 0x0b;
const DISABLED: u8 = 0x09;

const SLOTS: u32 = 32;
/// The ISA bridge's slot, whose function 3 raises the SCI.
const ISA_SLOT: u32 = 1;

const LAST_PCI_ADDRESS: u32 = 0xfebf_ffff;

pub(super) fn dsdt(config: &AcpiConfig) -> Table {
    let mut system = vec![pci_root(config)];
    system.extend(interrupt_links());
    if config.hpet {
        system.push(hpet());
    }
    system.extend((0..described_cpus(config.cpus)).map(processor));
    // Soft off. Sleeping states are left out, and so not offered to the user.
    let soft_off = package(&[encode(&0u8), encode(&0u8), encode(&0u8), encode(&0u8)]);
    let mut aml = name("\\_S5_", &soft_off).into_bytes();
    aml.extend(scope("\\_SB_", &system).into_bytes());
    // Revision 1: integers have 32 bits, which all systems agree on.
    Table { bytes: table(*b"DSDT", 1, &aml), pointers: Vec::new() }
}

fn hid(id: &str) -> Encoded {
    name("_HID", &EISAName::new(id))
}

fn status(value: u8) -> Encoded {
    name("_STA", &value)
}

/// `len_bytes` ports from `first`.
fn ports(first: u16, len_bytes: u8) -> Encoded {
    encode(&IO::new(first, first, 1, len_bytes))
}

fn processor(id: u8) -> Encoded {
    encode(&Processor { path: format!("CP{id:02X}"), id })
}

fn hpet() -> Encoded {
    const BASE: u32 = 0xfed0_0000;
    const LEN_BYTES: u32 = 0x400;
    let registers = resources(&[encode(&Memory32Fixed::new(false, BASE, LEN_BYTES))]);
    device("HPET", &[hid("PNP0103"), name("_UID", &ZERO), status(PRESENT), name("_CRS", &registers)])
}

fn pci_root(config: &AcpiConfig) -> Encoded {
    device(
        "PCI0",
        &[
            hid("PNP0A03"),
            name("_ADR", &ZERO),
            name("_UID", &ZERO),
            name("_BBN", &ZERO),
            name("_CRS", &pci_windows(config)),
            name("_PRT", &pci_routes()),
            isa_bridge(config),
        ],
    )
}

/// What the host bridge passes on to the PCI bus.
fn pci_windows(config: &AcpiConfig) -> Encoded {
    const VGA_FIRST: u32 = 0xa_0000;
    const VGA_LAST: u32 = 0xb_ffff;
    let memory = |cacheable, first, last| encode(&AddressSpace::<u32>::new_memory(cacheable, true, first, last, None));
    let mut windows = vec![
        encode(&AddressSpace::<u16>::new_bus_number(0, 0xff)),
        // The bridge's own configuration ports.
        ports(0xcf8, 8),
        encode(&AddressSpace::<u16>::new_io(0, 0xcf7, None)),
        encode(&AddressSpace::<u16>::new_io(0xd00, 0xffff, None)),
        memory(AddressSpaceCacheable::Cacheable, VGA_FIRST, VGA_LAST),
    ];
    if config.low_ram_top < LAST_PCI_ADDRESS {
        windows.push(memory(AddressSpaceCacheable::NotCacheable, config.low_ram_top, LAST_PCI_ADDRESS));
    }
    if let Some(window) = config.high_window
        && let Some(last) = window.len_bytes.checked_sub(1).and_then(|len| window.base.checked_add(len))
    {
        let cacheable = AddressSpaceCacheable::Cacheable;
        windows.push(encode(&AddressSpace::<u64>::new_memory(cacheable, true, window.base, last, None)));
    }
    resources(&windows)
}

/// Interrupt pins of all slots: pin A of slot 1 is PIRQA, and each further slot or pin is the next PIRQ.
fn pci_routes() -> Encoded {
    let route = |slot: u32, pin: u32| {
        let link = if (slot, pin) == (ISA_SLOT, 0) { SCI_LINK } else { LINKS[((slot + pin + 3) % 4) as usize] };
        let address = slot << 16 | 0xffff;
        package(&[encode(&address), encode(&pin), encode(&Path::new(link)), encode(&ZERO)])
    };
    let routes: Vec<_> = (0..SLOTS).flat_map(|slot| (0..4).map(move |pin| (slot, pin))).collect();
    package(&routes.into_iter().map(|(slot, pin)| route(slot, pin)).collect::<Vec<_>>())
}

fn isa_bridge(config: &AcpiConfig) -> Encoded {
    const PIRQ_ROUTES: u8 = 0x60;
    const PIRQ_ROUTES_LEN: u8 = 4;
    let registers = OpRegion::new("P40C".into(), OpRegionSpace::PCIConfig, &PIRQ_ROUTES, &PIRQ_ROUTES_LEN);
    let mut terms = vec![
        name("_ADR", &(ISA_SLOT << 16)),
        encode(&registers),
        // Kept plain: SeaBIOS looks for a keyboard controller here with a parser that knows few terms.
        isa_device("KBD_", "PNP0303", &[(0x60, 1), (0x64, 1)], Some(1)),
        isa_device("MOU_", "PNP0F13", &[], Some(12)),
        isa_device("RTC_", "PNP0B00", &[(0x70, 8)], Some(8)),
    ];
    if config.serial {
        terms.push(serial());
    }
    terms.push(motherboard(config.pm_base));
    device("ISA_", &terms)
}

fn isa_device(path: &str, id: &str, port_ranges: &[(u16, u8)], irq: Option<u8>) -> Encoded {
    let mut descriptors: Vec<_> = port_ranges.iter().map(|(first, len_bytes)| ports(*first, *len_bytes)).collect();
    descriptors.extend(irq.map(|irq| encode(&IsaIrq(irq))));
    device(path, &[hid(id), status(PRESENT), name("_CRS", &resources(&descriptors))])
}

fn serial() -> Encoded {
    let descriptors = resources(&[ports(0x3f8, 8), encode(&IsaIrq(4))]);
    device("COM1", &[hid("PNP0501"), name("_UID", &1u8), status(PRESENT), name("_CRS", &descriptors)])
}

/// Ports that belong to the board itself, so that no system puts a device over them.
fn motherboard(pm_base: u16) -> Encoded {
    const PM_LEN: u8 = 64;
    let smbus = pm_base.wrapping_add(0x100);
    let reserved = [
        // A20 and reset, APM, ELCR, fw_cfg, debug port.
        (0x92, 1),
        (0xb2, 2),
        (0x402, 1),
        (0x4d0, 2),
        (0x510, 12),
        (pm_base, PM_LEN),
        (smbus, 16),
        (0xafe0, 4),
    ];
    let descriptors: Vec<_> = reserved.iter().map(|(first, len_bytes)| ports(*first, *len_bytes)).collect();
    device("MBRD", &[hid("PNP0C02"), status(PRESENT_HIDDEN), name("_CRS", &resources(&descriptors))])
}

/// The links LNKA to LNKD, each with its route register, and the fixed one of the SCI.
fn interrupt_links() -> Vec<Encoded> {
    let entries = ROUTES.map(|route| {
        // Four characters each.
        let bytes = route.as_bytes();
        FieldEntry::Named([bytes[0], bytes[1], bytes[2], bytes[3]], 8)
    });
    let registers = Field::new(
        "PCI0.ISA_.P40C".into(),
        FieldAccessType::Byte,
        FieldLockRule::NoLock,
        FieldUpdateRule::Preserve,
        entries.into(),
    );
    let mut terms = vec![encode(&registers), link_status(), link_settings()];
    for ((link, route), uid) in LINKS.into_iter().zip(ROUTES).zip(0u8..) {
        terms.push(interrupt_link(link, route, uid));
    }
    terms.push(sci_link());
    terms
}

/// `IQST(route)`: the status of a link.
fn link_status() -> Encoded {
    let off = And::new(&ZERO, &Arg(0), &ROUTE_OFF);
    method(
        "IQST",
        1,
        false,
        &[encode(&If::new(&off, vec![&Return::new(&DISABLED)])), encode(&Return::new(&PRESENT_HIDDEN))],
    )
}

/// Where the interrupt number is in a template of one extended interrupt descriptor.
const IRQ_NUMBER_OFFSET: u8 = 5;

/// `IQCR(route)`: the present settings of a link.
fn link_settings() -> Encoded {
    let number = Path::new("PRRI");
    let unset = resources(&[encode(&PciIrqs(&[0]))]);
    let routed = LessThan::new(&Arg(0), &ROUTE_OFF);
    method(
        "IQCR",
        1,
        true,
        &[
            name("PRR0", &unset),
            encode(&CreateDWordField::new(&number, &Path::new("PRR0"), &IRQ_NUMBER_OFFSET)),
            encode(&If::new(&routed, vec![&Store::new(&number, &Arg(0))])),
            encode(&Return::new(&Path::new("PRR0"))),
        ],
    )
}

fn interrupt_link(link: &str, route: &str, uid: u8) -> Encoded {
    let register = Path::new(route);
    let ask = |question: &str| encode(&Return::new(&MethodCall::new(question.into(), vec![&register])));
    let number = Path::new("PRRI");
    device(
        link,
        &[
            hid("PNP0C0F"),
            name("_UID", &uid),
            name("_PRS", &resources(&[encode(&PciIrqs(&PIRQ_CHOICES))])),
            method("_STA", 0, false, &[ask("IQST")]),
            method("_DIS", 0, false, &[encode(&Or::new(&register, &register, &ROUTE_OFF))]),
            method("_CRS", 0, false, &[ask("IQCR")]),
            method(
                "_SRS",
                1,
                false,
                &[
                    encode(&CreateDWordField::new(&number, &Arg(0), &IRQ_NUMBER_OFFSET)),
                    encode(&Store::new(&register, &number)),
                ],
            ),
        ],
    )
}

fn sci_link() -> Encoded {
    const UID: u8 = 4;
    let fixed = resources(&[encode(&PciIrqs(&[SCI_IRQ]))]);
    device(
        SCI_LINK,
        &[
            hid("PNP0C0F"),
            name("_UID", &UID),
            name("_PRS", &fixed),
            status(PRESENT_HIDDEN),
            method("_DIS", 0, false, &[]),
            name("_CRS", &fixed),
            method("_SRS", 1, false, &[]),
        ],
    )
}
