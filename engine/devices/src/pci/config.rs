//! A type-0 configuration header, as every function of the board has one (PCI Local Bus Specification 3.0, chapter 6).

use benchtop_memory::SharedRegion;
use serde::{Deserialize, Serialize};

use crate::{BarKind, BarMapping, RestoreError};

/// Vendor ID (u16).
pub const VENDOR_ID: u8 = 0x00;
/// Device ID (u16).
pub const DEVICE_ID: u8 = 0x02;
/// Command register (u16).
pub const COMMAND: u8 = 0x04;
/// Status register (u16).
pub const STATUS: u8 = 0x06;
/// Revision ID (u8).
pub const REVISION_ID: u8 = 0x08;
/// Class code: programming interface, subclass, base class (u8 each).
pub const CLASS_CODE: u8 = 0x09;
/// Cache line size (u8).
pub const CACHE_LINE_SIZE: u8 = 0x0c;
/// Latency timer (u8).
pub const LATENCY_TIMER: u8 = 0x0d;
/// Header type (u8).
pub const HEADER_TYPE: u8 = 0x0e;
/// First of six base address registers (u32 each).
pub const BAR0: u8 = 0x10;
/// Subsystem vendor ID (u16).
pub const SUBSYSTEM_VENDOR_ID: u8 = 0x2c;
/// Subsystem ID (u16).
pub const SUBSYSTEM_ID: u8 = 0x2e;
/// Expansion ROM base address (u32).
pub const ROM_BAR: u8 = 0x30;
/// Capabilities pointer (u8).
pub const CAPABILITIES_POINTER: u8 = 0x34;
/// Interrupt line (u8): scratch for firmware.
pub const INTERRUPT_LINE: u8 = 0x3c;
/// Interrupt pin (u8): 0 none, 1 A to 4 D.
pub const INTERRUPT_PIN: u8 = 0x3d;

/// COMMAND bit: answers I/O accesses.
pub const COMMAND_IO: u16 = 1 << 0;
/// COMMAND bit: answers memory accesses.
pub const COMMAND_MEMORY: u16 = 1 << 1;
/// COMMAND bit: may act as bus master.
pub const COMMAND_BUS_MASTER: u16 = 1 << 2;
/// COMMAND bit: INTx assertion is off.
pub const COMMAND_INTX_DISABLE: u16 = 1 << 10;
/// COMMAND bits a guest may change: I/O, memory, bus master, parity response, SERR#, INTx disable.
const COMMAND_WRITABLE: u16 = 0x0547;
/// STATUS bit: INTx is asserted.
pub const STATUS_INTERRUPT: u16 = 1 << 3;
/// STATUS bit: there is a capability list.
pub const STATUS_CAPABILITIES: u16 = 1 << 4;
/// STATUS bits that a write of 1 clears: the error bits.
const STATUS_W1C: u16 = 0xf900;

/// Number of the expansion ROM in [`BarMapping::index`].
pub const ROM_INDEX: u8 = 6;
const BAR_SLOTS: usize = 7;
const SPACE_LEN: usize = 256;

/// Who a function is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PciIdentity {
    /// Vendor ID.
    pub vendor: u16,
    /// Device ID.
    pub device: u16,
    /// Base class, subclass and programming interface: 010180h for IDE.
    pub class: u32,
    /// Revision ID.
    pub revision: u8,
    /// Subsystem vendor ID.
    pub subsystem_vendor: u16,
    /// Subsystem ID.
    pub subsystem: u16,
}

#[derive(Clone, Debug)]
enum Decoder {
    Io,
    Mmio,
    Memory { region: SharedRegion, prefetch: bool },
    Rom { region: SharedRegion },
}

#[derive(Clone, Debug)]
struct Bar {
    decoder: Decoder,
    len_bytes: u32,
}

impl Bar {
    /// Bits of the register that say what kind it is.
    fn type_bits(&self) -> u32 {
        match &self.decoder {
            Decoder::Io => 1,
            Decoder::Memory { prefetch: true, .. } => 8,
            Decoder::Mmio | Decoder::Memory { prefetch: false, .. } | Decoder::Rom { .. } => 0,
        }
    }

    /// Bits of the register a guest may change.
    fn writable_bits(&self) -> u32 {
        let address_bits = !(self.len_bytes - 1);
        match &self.decoder {
            Decoder::Rom { .. } => address_bits | 1,
            // All 32 address bits, of I/O BARs too (PCI 2.1 §6.2.5.1 allows 16): SeaBIOS takes upper bits that read 0
            // after sizing for a BAR of nearly 4 GiB.
            Decoder::Io | Decoder::Mmio | Decoder::Memory { .. } => address_bits,
        }
    }

    /// Where `register` puts it under `command`, or `None` where it does not decode.
    fn mapping(&self, index: u8, register: u32, command: u16) -> Option<BarMapping> {
        let enable = if matches!(self.decoder, Decoder::Io) { COMMAND_IO } else { COMMAND_MEMORY };
        if command & enable == 0 || (matches!(self.decoder, Decoder::Rom { .. }) && register & 1 == 0) {
            return None;
        }
        let address_bits = self.writable_bits() & !(self.len_bytes - 1);
        let base = register & address_bits;
        // All ones is a guest that asks for the size, and 0 is one that has not placed the BAR yet. The top of the
        // address space is no place for a BAR either, so what ends exactly there is left out for good.
        if base == address_bits || base == 0 {
            return None;
        }
        let (kind, backed_bytes) = match &self.decoder {
            Decoder::Io => (BarKind::Io, u64::MAX),
            Decoder::Mmio => (BarKind::Mmio, u64::MAX),
            Decoder::Memory { region, .. } => {
                (BarKind::Memory { region: region.clone(), read_only: false }, region.len() as u64)
            }
            Decoder::Rom { region } => {
                (BarKind::Memory { region: region.clone(), read_only: true }, region.len() as u64)
            }
        };
        // A BAR's length is a power of two; a mapping must not reach past the memory behind it.
        let len_bytes = u64::from(self.len_bytes).min(backed_bytes);
        Some(BarMapping { index, kind, base: u64::from(base), len_bytes })
    }
}

/// The configuration space of one function: its bytes, which of them a guest may change, and its BARs.
///
/// The device sets it up once when it is made; what was set up then is what [`reset`](Self::reset) goes back to.
#[derive(Clone, Debug)]
pub struct ConfigSpace {
    bytes: [u8; SPACE_LEN],
    at_reset: [u8; SPACE_LEN],
    writable: [u8; SPACE_LEN],
    clear_by_one: [u8; SPACE_LEN],
    bars: [Option<Bar>; BAR_SLOTS],
}

/// Saved form of a [`ConfigSpace`]: the 256 bytes. A device keeps it as a field of its own saved state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigSpaceV1 {
    /// All bytes, in order.
    pub bytes: Vec<u8>,
}

impl ConfigSpace {
    /// A header with these IDs, no BARs and no interrupt pin, and nothing writable past the header.
    pub fn new(identity: PciIdentity) -> Self {
        let mut space = Self {
            bytes: [0; SPACE_LEN],
            at_reset: [0; SPACE_LEN],
            writable: [0; SPACE_LEN],
            clear_by_one: [0; SPACE_LEN],
            bars: Default::default(),
        };
        space.preset_u16(VENDOR_ID, identity.vendor);
        space.preset_u16(DEVICE_ID, identity.device);
        let [interface, subclass, class, _] = identity.class.to_le_bytes();
        space.preset(REVISION_ID, &[identity.revision, interface, subclass, class]);
        space.preset_u16(SUBSYSTEM_VENDOR_ID, identity.subsystem_vendor);
        space.preset_u16(SUBSYSTEM_ID, identity.subsystem);
        space.allow_write(COMMAND, &COMMAND_WRITABLE.to_le_bytes());
        space.clear_by_one(STATUS, &STATUS_W1C.to_le_bytes());
        space.allow_write(CACHE_LINE_SIZE, &[0xff, 0xf8]);
        space.allow_write(INTERRUPT_LINE, &[0xff]);
        space
    }

    /// Gives bytes from `offset` a value, now and after every reset. Bytes past the end of the space are dropped.
    pub fn preset(&mut self, offset: u8, values: &[u8]) {
        for (at, value) in (usize::from(offset)..SPACE_LEN).zip(values) {
            self.bytes[at] = *value;
            self.at_reset[at] = *value;
        }
    }

    /// [`preset`](Self::preset) of a little-endian u16.
    pub fn preset_u16(&mut self, offset: u8, value: u16) {
        self.preset(offset, &value.to_le_bytes());
    }

    /// [`preset`](Self::preset) of a little-endian u32.
    pub fn preset_u32(&mut self, offset: u8, value: u32) {
        self.preset(offset, &value.to_le_bytes());
    }

    /// Bits a guest may change, for the bytes from `offset` (replaces what was allowed there before).
    pub fn allow_write(&mut self, offset: u8, masks: &[u8]) {
        for (at, mask) in (usize::from(offset)..SPACE_LEN).zip(masks) {
            self.writable[at] = *mask;
        }
    }

    /// Bits that a guest clears by writing 1, for the bytes from `offset`.
    pub fn clear_by_one(&mut self, offset: u8, masks: &[u8]) {
        for (at, mask) in (usize::from(offset)..SPACE_LEN).zip(masks) {
            self.clear_by_one[at] = *mask;
        }
    }

    /// Marks function 0 of a device that has others.
    pub fn set_multifunction(&mut self) {
        self.preset(HEADER_TYPE, &[0x80]);
    }

    /// The interrupt pin the function uses: 1 (INTA#) to 4 (INTD#).
    pub fn set_interrupt_pin(&mut self, pin: u8) {
        self.preset(INTERRUPT_PIN, &[pin.min(4)]);
    }

    /// The pin the function uses; 0 is none.
    pub fn interrupt_pin(&self) -> u8 {
        self.bytes[usize::from(INTERRUPT_PIN)]
    }

    /// BAR `index` (0 to 5) is `len_bytes` ports, rounded up to a power of two from 4 to 256.
    pub fn add_io_bar(&mut self, index: u8, len_bytes: u32) {
        let len_bytes = len_bytes.clamp(4, 256).next_power_of_two();
        self.add_bar(index, Bar { decoder: Decoder::Io, len_bytes });
    }

    /// BAR `index` (0 to 5) is registers: 32-bit, not prefetchable, rounded up to a power of two of at least 4096
    /// bytes.
    pub fn add_mmio_bar(&mut self, index: u8, len_bytes: u32) {
        self.add_bar(index, Bar { decoder: Decoder::Mmio, len_bytes: memory_bar_len(u64::from(len_bytes)) });
    }

    /// BAR `index` (0 to 5) is plain memory: 32-bit. Its length is the region's, rounded up to a power of two; nothing
    /// is mapped past the end of the region.
    pub fn add_memory_bar(&mut self, index: u8, region: SharedRegion, prefetch: bool) {
        let len_bytes = memory_bar_len(region.len() as u64);
        self.add_bar(index, Bar { decoder: Decoder::Memory { region, prefetch }, len_bytes });
    }

    /// The function has an expansion ROM, which is BAR 6 in [`bars`](Self::bars).
    pub fn set_rom(&mut self, region: SharedRegion) {
        let len_bytes = memory_bar_len(region.len() as u64);
        self.add_bar(ROM_INDEX, Bar { decoder: Decoder::Rom { region }, len_bytes });
    }

    fn add_bar(&mut self, index: u8, bar: Bar) {
        let slot = usize::from(index.min(ROM_INDEX));
        let offset = bar_offset(slot);
        self.preset_u32(offset, bar.type_bits());
        self.allow_write(offset, &bar.writable_bits().to_le_bytes());
        self.bars[slot] = Some(bar);
    }

    /// The dword that holds `offset`.
    pub fn read(&self, offset: u8) -> u32 {
        self.u32_at(offset & !3)
    }

    /// A guest's write of the bytes of the dword at `offset` that `byte_mask` (each byte 00h or FFh) selects.
    /// Read-only bits keep their value, and write-1-to-clear bits are cleared.
    pub fn write(&mut self, offset: u8, value: u32, byte_mask: u32) {
        let start = usize::from(offset & !3);
        for (index, (value, selected)) in value.to_le_bytes().into_iter().zip(byte_mask.to_le_bytes()).enumerate() {
            let at = start + index;
            let writable = self.writable[at] & selected;
            let cleared = self.clear_by_one[at] & selected & value;
            self.bytes[at] = ((self.bytes[at] & !writable) | (value & writable)) & !cleared;
        }
    }

    /// One byte as it stands.
    pub fn u8_at(&self, offset: u8) -> u8 {
        self.bytes[usize::from(offset)]
    }

    /// A little-endian u16 as it stands; bytes past the end are 0.
    pub fn u16_at(&self, offset: u8) -> u16 {
        let [low, high, ..] = self.u32_at(offset).to_le_bytes();
        u16::from_le_bytes([low, high])
    }

    /// A little-endian u32 as it stands; bytes past the end are 0.
    pub fn u32_at(&self, offset: u8) -> u32 {
        let mut value = [0; 4];
        for (byte, stored) in value.iter_mut().zip(&self.bytes[usize::from(offset)..]) {
            *byte = *stored;
        }
        u32::from_le_bytes(value)
    }

    /// Changes a byte from the device's side, whatever a guest may write there.
    pub fn set_u8(&mut self, offset: u8, value: u8) {
        self.bytes[usize::from(offset)] = value;
    }

    /// Changes a little-endian u16 from the device's side; bytes past the end are dropped.
    pub fn set_u16(&mut self, offset: u8, value: u16) {
        for (at, byte) in (usize::from(offset)..SPACE_LEN).zip(value.to_le_bytes()) {
            self.bytes[at] = byte;
        }
    }

    /// Changes a little-endian u32 from the device's side; bytes past the end are dropped.
    pub fn set_u32(&mut self, offset: u8, value: u32) {
        for (at, byte) in (usize::from(offset)..SPACE_LEN).zip(value.to_le_bytes()) {
            self.bytes[at] = byte;
        }
    }

    /// The COMMAND register.
    pub fn command(&self) -> u16 {
        self.u16_at(COMMAND)
    }

    /// Whether the function may do DMA.
    pub fn bus_master_enabled(&self) -> bool {
        self.command() & COMMAND_BUS_MASTER != 0
    }

    /// Whether the function may assert its INTx pin.
    pub fn intx_enabled(&self) -> bool {
        self.command() & COMMAND_INTX_DISABLE == 0
    }

    /// Shows in STATUS whether the function has an interrupt pending (whether or not COMMAND lets it out).
    pub fn set_interrupt_status(&mut self, pending: bool) {
        let status = self.u16_at(STATUS) & !STATUS_INTERRUPT;
        self.set_u16(STATUS, if pending { status | STATUS_INTERRUPT } else { status });
    }

    /// Where the BARs are mapped, as [`PciFunction::bars`](crate::PciFunction::bars) wants it. A BAR at 0, at all ones,
    /// or with its decode off is absent.
    pub fn bars(&self) -> Vec<BarMapping> {
        let command = self.command();
        let mapping = |(slot, bar): (usize, &Option<Bar>)| {
            let index = u8::try_from(slot).ok()?;
            bar.as_ref()?.mapping(index, self.u32_at(bar_offset(slot)), command)
        };
        self.bars.iter().enumerate().filter_map(mapping).collect()
    }

    /// Where BAR `index` is mapped, if it is.
    pub fn bar(&self, index: u8) -> Option<BarMapping> {
        let slot = usize::from(index);
        self.bars.get(slot)?.as_ref()?.mapping(index, self.u32_at(bar_offset(slot)), self.command())
    }

    /// Back to the values given when the function was made.
    pub fn reset(&mut self) {
        self.bytes = self.at_reset;
    }

    /// The saved form.
    pub fn save(&self) -> ConfigSpaceV1 {
        ConfigSpaceV1 { bytes: self.bytes.to_vec() }
    }

    /// Takes a saved form. Bits that neither a guest nor a device can change must be as this function has them: a
    /// device says with `device_owned` which further bytes are its own to change (STATUS always is).
    ///
    /// # Errors
    /// [`RestoreError::Field`] in the name of `kind`; nothing is changed then.
    pub fn restore(
        &mut self,
        kind: &'static str,
        saved: &ConfigSpaceV1,
        device_owned: &[u8],
    ) -> Result<(), RestoreError> {
        let damaged = RestoreError::Field { kind, field: "configuration space" };
        let Ok(bytes) = <[u8; SPACE_LEN]>::try_from(saved.bytes.as_slice()) else { return Err(damaged) };
        for (at, (saved, fixed)) in bytes.iter().zip(&self.at_reset).enumerate() {
            let mut changeable = self.writable[at] | self.clear_by_one[at];
            if at == usize::from(STATUS) {
                changeable |= STATUS_INTERRUPT.to_le_bytes()[0];
            }
            if device_owned.iter().any(|owned| usize::from(*owned) == at) {
                changeable = 0xff;
            }
            if (saved ^ fixed) & !changeable != 0 {
                return Err(damaged);
            }
        }
        self.bytes = bytes;
        Ok(())
    }
}

fn bar_offset(slot: usize) -> u8 {
    match u8::try_from(slot) {
        Ok(slot @ 0..=5) => BAR0 + slot * 4,
        _ => ROM_BAR,
    }
}

/// Whole pages, so that a BAR can be a memory slot; at most 1 GiB.
fn memory_bar_len(len_bytes: u64) -> u32 {
    u32::try_from(len_bytes.clamp(4096, 1 << 30).next_power_of_two()).unwrap_or(1 << 30)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn space() -> ConfigSpace {
        let mut space = ConfigSpace::new(PciIdentity {
            vendor: 0x8086,
            device: 0x7010,
            class: 0x01_0180,
            revision: 3,
            subsystem_vendor: 0x1af4,
            subsystem: 0x1100,
        });
        space.add_mmio_bar(0, 0x4000);
        space.add_memory_bar(1, SharedRegion::new("test", 0x1_0000).unwrap(), true);
        space.add_io_bar(4, 16);
        space.set_rom(SharedRegion::new("rom", 0x9000).unwrap());
        space.set_interrupt_pin(1);
        space
    }

    const ALL: u32 = 0xffff_ffff;

    #[test]
    fn header_fields() {
        let space = space();
        assert_eq!(space.read(0), 0x7010_8086);
        assert_eq!(space.read(0x08), 0x0101_8003);
        assert_eq!(space.read(0x2c), 0x1100_1af4);
        assert_eq!(space.read(0x3c), 0x0000_0100);
        assert_eq!(space.interrupt_pin(), 1);
    }

    #[test]
    fn sizing_gives_length_and_kind() {
        let mut space = space();
        for (offset, expected) in
            [(0x10, 0xffff_c000), (0x14, 0xffff_0008), (0x18, 0), (0x20, 0xffff_fff1), (0x30, 0xffff_0001)]
        {
            space.write(offset, ALL, ALL);
            assert_eq!(space.read(offset), expected, "{offset:#x}");
        }
        space.write(0x30, 0xffff_f800, ALL);
        assert_eq!(space.read(0x30), 0xffff_0000);
    }

    #[test]
    fn a_bar_decodes_only_when_enabled_and_placed() {
        let mut space = space();
        space.write(0x10, 0xf000_0000, ALL);
        space.write(0x20, 0xc001, ALL);
        assert!(space.bars().is_empty());
        space.write(0x04, 1, 0xff);
        let bars = space.bars();
        assert_eq!(bars.len(), 1);
        assert_eq!((bars[0].index, bars[0].base, bars[0].len_bytes), (4, 0xc000, 16));
        space.write(0x04, 3, 0xff);
        assert_eq!(space.bars().len(), 2);
        // Sizing with the decode left on does not map anything at the sizing pattern.
        space.write(0x10, ALL, ALL);
        assert_eq!(space.bars().len(), 1);
        space.write(0x10, 0xf000_4000, ALL);
        assert_eq!(space.bar(0).unwrap().base, 0xf000_4000);
        space.write(0x30, 0xfea0_0000, ALL);
        assert!(space.bar(6).is_none());
        space.write(0x30, 0xfea0_0001, ALL);
        let rom = space.bar(6).unwrap();
        assert_eq!((rom.base, rom.len_bytes), (0xfea0_0000, 0x9000), "no further than there is memory");
        assert!(matches!(space.bar(6).unwrap().kind, BarKind::Memory { read_only: true, .. }));
    }

    #[test]
    fn byte_masks_select_bytes() {
        let mut space = space();
        space.write(0x10, 0x1234_ffff, 0xff00_0000);
        assert_eq!(space.read(0x10), 0x1200_0000);
        space.write(0x10, 0x1234_ffff, 0x0000_ff00);
        assert_eq!(space.read(0x10), 0x1200_c000);
    }

    #[test]
    fn read_only_and_write_one_to_clear_bits() {
        let mut space = space();
        space.write(0, 0, ALL);
        assert_eq!(space.read(0), 0x7010_8086);
        space.set_u16(STATUS, 0x2280);
        space.write(4, 0xffff_0000, 0xffff_0000);
        assert_eq!(space.u16_at(STATUS), 0x0280 | (0x2000 & !STATUS_W1C));
        space.write(4, ALL, 0x0000_ffff);
        assert_eq!(space.command(), COMMAND_WRITABLE);
        assert!(space.bus_master_enabled() && !space.intx_enabled());
    }

    #[test]
    fn restore_refuses_what_can_not_be() {
        let mut changed = space();
        changed.write(0x04, 7, 0xff);
        changed.write(0x10, 0xf000_0000, ALL);
        let saved = changed.save();
        let mut twin = space();
        twin.restore("test", &saved, &[]).unwrap();
        assert_eq!(twin.save(), saved);
        twin.reset();
        assert_eq!(twin.save(), space().save());
        for at in [0_usize, 0x0e, 0x10, 0x3d, 0x80] {
            let mut bad = saved.clone();
            bad.bytes[at] ^= 1;
            assert!(twin.restore("test", &bad, &[]).is_err(), "{at:#x}");
        }
        assert!(twin.restore("test", &ConfigSpaceV1 { bytes: vec![0; 255] }, &[]).is_err());
        let mut owned = saved;
        owned.bytes[0x80] = 5;
        twin.restore("test", &owned, &[0x80]).unwrap();
    }
}
