//! The tables with fixed layouts. Checksums are left 0 for the loader to fill in.

use acpi_tables::sdt::Sdt;

/// Where a table's checksum is.
pub(super) const CHECKSUM_OFFSET: u32 = 9;
const HEADER_BYTES: u32 = 36;

pub(super) const RSDP_RSDT: u32 = 16;
pub(super) const RSDP_XSDT: u32 = 24;
pub(super) const RSDP_CHECKSUM: u32 = 8;
pub(super) const RSDP_EXTENDED_CHECKSUM: u32 = 32;
/// What the first checksum covers: the root pointer as it was in ACPI 1.0.
pub(super) const RSDP_V1_LEN: u32 = 20;

const OEM_ID: [u8; 6] = *b"BNCHTP";
const OEM_TABLE_ID: [u8; 8] = *b"BENCHTOP";
const OEM_REVISION: u32 = 1;

const SCI_IRQ: u8 = 9;
const LOCAL_APIC: u32 = 0xfee0_0000;
const IO_APIC: u32 = 0xfec0_0000;
const HPET: u64 = 0xfed0_0000;
/// Most local APICs with 8-bit IDs; FFh is the broadcast.
const MAX_CPUS: u8 = 254;

/// A place in a table that holds an offset into the tables file, and needs the file's address added.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pointer {
    pub(super) offset: u32,
    pub(super) len_bytes: u8,
}

/// A table on its way into the file.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) bytes: Vec<u8>,
    pub(super) pointers: Vec<Pointer>,
}

/// A header with this signature, and `body`.
pub(super) fn table(signature: [u8; 4], revision: u8, body: &[u8]) -> Vec<u8> {
    let mut sdt = Sdt::new(signature, HEADER_BYTES, revision, OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    sdt.append_slice(body);
    let mut bytes = sdt.as_slice().to_vec();
    bytes[CHECKSUM_OFFSET as usize] = 0;
    bytes
}

fn plain(signature: [u8; 4], revision: u8, body: &[u8]) -> Table {
    Table { bytes: table(signature, revision, body), pointers: Vec::new() }
}

/// Firmware ACPI Control Structure: the global lock, and no waking vector.
pub(super) fn facs() -> Vec<u8> {
    let mut facs = b"FACS".to_vec();
    facs.extend(64u32.to_le_bytes());
    facs.resize(64, 0);
    // Version.
    facs[32] = 1;
    facs
}

/// A generic address structure for `len_bytes` of I/O ports at `port`; all zero for none.
fn port_register(port: u16, len_bytes: u8) -> [u8; 12] {
    const SYSTEM_IO: u8 = 1;
    let mut register = [0; 12];
    if len_bytes != 0 {
        // The access size is left undefined, as ACPI 1.0 software knows no other.
        register[..4].copy_from_slice(&[SYSTEM_IO, len_bytes * 8, 0, 0]);
        register[4..6].copy_from_slice(&port.to_le_bytes());
    }
    register
}

/// Fixed ACPI Description Table, revision 3. `facs` and `dsdt` are offsets into the file.
pub(super) fn fadt(pm_base: u16, facs: u32, dsdt: u32) -> Table {
    const FACS_POINTER: u32 = 36;
    const DSDT_POINTER: u32 = 40;
    const X_DSDT_POINTER: u32 = 140;
    const PROFILE_DESKTOP: u8 = 1;
    const SMI_COMMAND: u32 = 0xb2;
    const ACPI_ENABLE: u8 = 0xf1;
    const ACPI_DISABLE: u8 = 0xf0;
    const GPE0: u16 = 0xafe0;
    /// Longer than 100 us and 1000 us: there is no C2 and no C3.
    const NO_C2: u16 = 0xfff;
    const NO_C3: u16 = 0xfff;
    const CENTURY: u8 = 0x32;
    /// Legacy devices and an 8042.
    const BOOT_ARCHITECTURE: u16 = 0b11;
    /// WBINVD works, C1 on all processors, the sleep button is no fixed one (and the power button is), the RTC's wake
    /// status is not in the fixed registers, there is a reset register. The timer has 24 bits.
    const FLAGS: u32 = 1 | 1 << 2 | 1 << 5 | 1 << 6 | 1 << 10;
    const RESET_PORT: u16 = 0xcf9;
    const RESET_VALUE: u8 = 6;

    let pm = |offset: u16| pm_base.wrapping_add(offset);
    let mut body = Vec::with_capacity(208);
    body.extend(facs.to_le_bytes());
    body.extend(dsdt.to_le_bytes());
    body.extend([0, PROFILE_DESKTOP]);
    body.extend(u16::from(SCI_IRQ).to_le_bytes());
    body.extend(SMI_COMMAND.to_le_bytes());
    // No S4BIOS, no processor performance control.
    body.extend([ACPI_ENABLE, ACPI_DISABLE, 0, 0]);
    // PM1a event, PM1b event, PM1a control, PM1b control, PM2 control, timer, GPE0, GPE1.
    for block in [pm(0), 0, pm(4), 0, 0, pm(8), GPE0, 0] {
        body.extend(u32::from(block).to_le_bytes());
    }
    // Their lengths, where GPE1 would start, and no _CST support.
    body.extend([4, 2, 0, 4, 4, 0, 0, 0]);
    body.extend(NO_C2.to_le_bytes());
    body.extend(NO_C3.to_le_bytes());
    // No cache flush by reading; no duty cycle; no alarm day and month.
    body.extend([0; 8]);
    body.push(CENTURY);
    body.extend(BOOT_ARCHITECTURE.to_le_bytes());
    body.push(0);
    body.extend(FLAGS.to_le_bytes());
    body.extend(port_register(RESET_PORT, 1));
    body.push(RESET_VALUE);
    body.extend([0; 3]);
    // The FACS is named by its 32-bit pointer only, as the two must not both be used.
    body.extend(0u64.to_le_bytes());
    body.extend(u64::from(dsdt).to_le_bytes());
    for (port, len_bytes) in [(pm(0), 4), (0, 0), (pm(4), 2), (0, 0), (0, 0), (pm(8), 4), (GPE0, 4), (0, 0)] {
        body.extend(port_register(port, len_bytes));
    }
    let pointers = [(FACS_POINTER, 4), (DSDT_POINTER, 4), (X_DSDT_POINTER, 8)];
    Table {
        bytes: table(*b"FACP", 3, &body),
        pointers: pointers.map(|(offset, len_bytes)| Pointer { offset, len_bytes }).into(),
    }
}

/// Number of CPUs that are described.
pub(super) fn described_cpus(cpus: u8) -> u8 {
    cpus.clamp(1, MAX_CPUS)
}

/// Multiple APIC Description Table.
pub(super) fn madt(cpus: u8) -> Table {
    const PCAT_COMPAT: u32 = 1;
    const ENABLED: u32 = 1;
    const ALL_CPUS: u8 = 0xff;
    /// Active high, level triggered.
    const LEVEL_HIGH: u16 = 0b1101;
    const AS_THE_BUS: u16 = 0;

    let mut body = LOCAL_APIC.to_le_bytes().to_vec();
    body.extend(PCAT_COMPAT.to_le_bytes());
    for cpu in 0..described_cpus(cpus) {
        // The processor's number in the DSDT, and its APIC ID.
        body.extend([0, 8, cpu, cpu]);
        body.extend(ENABLED.to_le_bytes());
    }
    // The IOAPIC with ID 0, from interrupt 0.
    body.extend([1, 12, 0, 0]);
    body.extend(IO_APIC.to_le_bytes());
    body.extend(0u32.to_le_bytes());
    // The PIT is on pin 2; what PIRQs and the SCI can be routed to is level triggered.
    for (irq, pin, flags) in
        [(0, 2, AS_THE_BUS), (5, 5, LEVEL_HIGH), (9, 9, LEVEL_HIGH), (10, 10, LEVEL_HIGH), (11, 11, LEVEL_HIGH)]
    {
        body.extend([2, 10, 0, irq]);
        body.extend(u32::to_le_bytes(pin));
        body.extend(flags.to_le_bytes());
    }
    // LINT1 of every local APIC is the NMI.
    body.extend([4, 6, ALL_CPUS, 0, 0, 1]);
    plain(*b"APIC", 3, &body)
}

/// HPET Description Table (IA-PC HPET Specification 1.0a, section 3.2.4).
pub(super) fn hpet() -> Table {
    /// As in the timer's own capability register: Intel, legacy replacement, 64 bits, three timers, revision 1.
    const BLOCK_ID: u32 = crate::chipset::hpet::BLOCK_ID;
    const MEMORY: u8 = 0;
    let mut body = BLOCK_ID.to_le_bytes().to_vec();
    body.extend([MEMORY, 0, 0, 0]);
    body.extend(HPET.to_le_bytes());
    // Its number, the least period in periodic mode, and no page protection.
    body.push(0);
    body.extend(crate::chipset::hpet::MIN_PERIODIC_TICKS.to_le_bytes());
    body.push(0);
    plain(*b"HPET", 1, &body)
}

/// Windows ACPI Emulated Devices Table: the PM timer need not be read twice. The other flag, that the RTC needs no
/// acknowledgement, is not true here.
pub(super) fn waet() -> Table {
    const PM_TIMER_GOOD: u32 = 1 << 1;
    plain(*b"WAET", 1, &PM_TIMER_GOOD.to_le_bytes())
}

/// Root System Description Table.
pub(super) fn rsdt(entries: &[u32]) -> Table {
    let body: Vec<u8> = entries.iter().flat_map(|entry| entry.to_le_bytes()).collect();
    Table { bytes: table(*b"RSDT", 1, &body), pointers: entry_pointers(entries.len(), 4) }
}

/// Extended System Description Table.
pub(super) fn xsdt(entries: &[u32]) -> Table {
    let body: Vec<u8> = entries.iter().flat_map(|entry| u64::from(*entry).to_le_bytes()).collect();
    Table { bytes: table(*b"XSDT", 1, &body), pointers: entry_pointers(entries.len(), 8) }
}

fn entry_pointers(count: usize, len_bytes: u8) -> Vec<Pointer> {
    let offsets = (HEADER_BYTES..).step_by(usize::from(len_bytes));
    offsets.take(count).map(|offset| Pointer { offset, len_bytes }).collect()
}

/// Root System Description Pointer, with both pointers and both checksums still to be completed.
pub(super) fn rsdp(rsdt: u32, xsdt: u32) -> Vec<u8> {
    const REVISION: u8 = 2;
    const LEN_BYTES: u32 = 36;
    let mut rsdp = b"RSD PTR ".to_vec();
    rsdp.push(0);
    rsdp.extend(OEM_ID);
    rsdp.push(REVISION);
    rsdp.extend(rsdt.to_le_bytes());
    rsdp.extend(LEN_BYTES.to_le_bytes());
    rsdp.extend(u64::from(xsdt).to_le_bytes());
    rsdp.resize(LEN_BYTES as usize, 0);
    rsdp
}
