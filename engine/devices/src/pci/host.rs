//! The host bridge: Intel 440FX (82441FX PMC, order number 290549), with configuration mechanism #1.
//!
//! It carries configuration accesses to the functions of bus 0, follows where their BARs are, and says which parts of
//! C0000h-FFFFFh are RAM. Mapping itself is the board's, through [`BarMapper`] and [`PamMapper`].
//!
//! BARs that overlap, or lie outside the PCI hole, are settled here and only by what the registers say now, not by the
//! order of the writes: a memory BAR decodes only inside the hole, and of BARs that overlap the one of the lowest
//! function (then the lowest BAR number) decodes and the others do not.

use std::ops::Range;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::bus::Attachment;
use crate::pci::config::{COMMAND, ConfigSpace, ConfigSpaceV1, LATENCY_TIMER, PciIdentity, STATUS};
use crate::{BarKind, BarMapping, Device, PortIo, RestoreError, SavedState};

/// CONFADD, a dword register.
pub const CONFIG_ADDRESS_PORT: u16 = 0xcf8;
/// CONFDATA, four ports.
pub const CONFIG_DATA_PORT: u16 = 0xcfc;

const KIND: &str = "pci-host";
const VERSION: u32 = 1;
/// First of the PAM registers.
const PAM0: u8 = 0x59;
/// System management RAM control.
const SMRAM: u8 = 0x72;
const SMRAM_LOCKED: u8 = 1 << 4;
const SMRAM_OPEN: u8 = 1 << 6;
const ADDRESS_ENABLE: u32 = 1 << 31;

/// The address ranges a [`PamState`] is about, as first address and length, in the order of
/// [`PamMapper::pam_changed`]: F0000h-FFFFFh, then twelve of 16 KiB from C0000h.
pub const PAM_REGIONS: [(u64, u64); 13] = {
    let mut regions = [(0xf_0000, 0x1_0000); 13];
    let mut index = 1;
    while index < 13 {
        regions[index] = (0xc_0000 + 0x4000 * (index as u64 - 1), 0x4000);
        index += 1;
    }
    regions
};

/// What answers in one range of the shadow area.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PamState {
    /// Reads go to RAM; else to the ROM.
    pub read_ram: bool,
    /// Writes go to RAM; else nowhere.
    pub write_ram: bool,
}

/// The board's side of BARs. Called with the host bridge locked, and the function not.
pub trait BarMapper: Send + Sync {
    /// `bar` of `function` decodes from now on. It overlaps no other mapped BAR.
    fn map(&self, function: &Arc<Attachment>, bar: &BarMapping);

    /// It does no longer.
    fn unmap(&self, function: &Arc<Attachment>, bar: &BarMapping);

    /// The configuration space of `function` was written: its deadline may have changed.
    fn config_written(&self, function: &Arc<Attachment>) {
        let _ = function;
    }
}

/// The board's side of the PAM registers. Called with the host bridge locked.
pub trait PamMapper: Send + Sync {
    /// What answers in each of [`PAM_REGIONS`] now; called once for a configuration write that changes any.
    fn pam_changed(&self, pam: &[PamState; 13]);
}

struct Function {
    address: u8,
    attachment: Arc<Attachment>,
    /// What its registers ask for.
    decoded: Vec<BarMapping>,
    /// What of that is mapped.
    mapped: Vec<BarMapping>,
}

/// The host bridge, which is also function 00.0.
pub struct HostBridge {
    config: ConfigSpace,
    config_address: u32,
    /// Sorted by address.
    functions: Vec<Function>,
    pci_hole: Range<u64>,
    bar_mapper: Arc<dyn BarMapper>,
    pam_mapper: Arc<dyn PamMapper>,
    pam: [PamState; 13],
}

#[derive(Serialize, Deserialize)]
struct HostBridgeV1 {
    config: ConfigSpaceV1,
    config_address: u32,
}

impl HostBridge {
    /// A bridge with an empty bus. Memory BARs decode only inside `pci_hole`: from the top of low RAM to the IOAPIC
    /// (FEC00000h).
    pub fn new(pci_hole: Range<u64>, bar_mapper: Arc<dyn BarMapper>, pam_mapper: Arc<dyn PamMapper>) -> Self {
        let mut config = ConfigSpace::new(PciIdentity {
            vendor: 0x8086,
            device: 0x1237,
            class: 0x06_0000,
            revision: 2,
            subsystem_vendor: 0x1af4,
            subsystem: 0x1100,
        });
        // Bus master and memory are always on in this chip; only SERR# can be switched.
        config.preset_u16(COMMAND, 0x0006);
        config.allow_write(COMMAND, &0x0100_u16.to_le_bytes());
        config.preset_u16(STATUS, 0x0280);
        config.allow_write(LATENCY_TIMER, &[0xf8]);
        // DRAM timing and row boundary registers hold what firmware writes, and do nothing.
        config.allow_write(0x50, &[0xff; 9]);
        config.allow_write(PAM0, &[0x30, 0x33, 0x33, 0x33, 0x33, 0x33, 0x33]);
        config.allow_write(0x60, &[0xff; 9]);
        config.preset(SMRAM, &[0x02]);
        config.allow_write(SMRAM, &[0x78]);
        Self {
            config,
            config_address: 0,
            functions: Vec::new(),
            pci_hole,
            bar_mapper,
            pam_mapper,
            pam: [PamState::default(); 13],
        }
    }

    /// Puts a function on the bus, at slot 0 to 31 and function 0 to 7. False, and nothing done, where there is one
    /// already: 00.0 is the bridge itself.
    #[must_use]
    pub fn add_function(&mut self, slot: u8, function: u8, attachment: Arc<Attachment>) -> bool {
        let address = (slot << 3) | (function & 7);
        if slot > 31 || function > 7 || address == 0 {
            return false;
        }
        match self.functions.binary_search_by_key(&address, |known| known.address) {
            Ok(_) => false,
            Err(place) => {
                let function = Function { address, attachment, decoded: Vec::new(), mapped: Vec::new() };
                self.functions.insert(place, function);
                true
            }
        }
    }

    /// Looks at the BARs of every function again: for after a restore, when all functions have their state back.
    pub fn remap(&mut self) {
        for function in &mut self.functions {
            let mut device = function.attachment.device.lock();
            function.decoded = device.pci().map(|function| function.bars()).unwrap_or_default();
        }
        self.settle_bars();
    }

    /// What answers in each of [`PAM_REGIONS`].
    pub fn pam(&self) -> [PamState; 13] {
        let mut pam = [PamState::default(); 13];
        let state = |nibble: u8| PamState { read_ram: nibble & 1 != 0, write_ram: nibble & 2 != 0 };
        pam[0] = state(self.config.u8_at(PAM0) >> 4);
        for (pair, offset) in pam[1..].chunks_exact_mut(2).zip(PAM0 + 1..) {
            let register = self.config.u8_at(offset);
            pair[0] = state(register);
            pair[1] = state(register >> 4);
        }
        pam
    }

    fn settle_pam(&mut self) {
        let pam = self.pam();
        if pam != self.pam {
            self.pam = pam;
            self.pam_mapper.pam_changed(&pam);
        }
    }

    /// Maps what the registers ask for, as far as it can be had.
    fn settle_bars(&mut self) {
        let mut taken: Vec<BarMapping> = Vec::new();
        let mut wanted: Vec<Vec<BarMapping>> = Vec::with_capacity(self.functions.len());
        for function in &self.functions {
            let mut decoded = function.decoded.clone();
            decoded.retain(|bar| {
                let fits = fits(bar, &self.pci_hole) && !taken.iter().any(|other| overlap(bar, other));
                if fits {
                    taken.push(bar.clone());
                }
                fits
            });
            wanted.push(decoded);
        }
        for (function, wanted) in self.functions.iter_mut().zip(&wanted) {
            function.mapped.retain(|bar| {
                let stays = wanted.iter().any(|other| same_place(bar, other));
                if !stays {
                    self.bar_mapper.unmap(&function.attachment, bar);
                }
                stays
            });
        }
        for (function, wanted) in self.functions.iter_mut().zip(wanted) {
            for bar in wanted {
                if !function.mapped.iter().any(|other| same_place(&bar, other)) {
                    self.bar_mapper.map(&function.attachment, &bar);
                    function.mapped.push(bar);
                }
            }
        }
    }

    fn config_read(&mut self) -> u32 {
        let Some((address, offset)) = self.selected() else { return 0xffff_ffff };
        if address == 0 {
            return self.config.read(offset);
        }
        let Ok(place) = self.functions.binary_search_by_key(&address, |known| known.address) else {
            return 0xffff_ffff;
        };
        let mut device = self.functions[place].attachment.device.lock();
        device.pci().map_or(0xffff_ffff, |function| function.config_read(offset))
    }

    fn config_write(&mut self, value: u32, byte_mask: u32) {
        let Some((address, offset)) = self.selected() else { return };
        if address == 0 {
            self.own_config_write(offset, value, byte_mask);
            return;
        }
        let Ok(place) = self.functions.binary_search_by_key(&address, |known| known.address) else { return };
        let known = &mut self.functions[place];
        let decoded = {
            let mut device = known.attachment.device.lock();
            let Some(function) = device.pci() else { return };
            function.config_write(offset, value, byte_mask);
            function.bars()
        };
        self.bar_mapper.config_written(&known.attachment);
        let unchanged = decoded.len() == known.decoded.len()
            && decoded.iter().zip(&known.decoded).all(|(now, before)| same_place(now, before));
        if !unchanged {
            known.decoded = decoded;
            self.settle_bars();
        }
    }

    fn own_config_write(&mut self, offset: u8, value: u32, byte_mask: u32) {
        let smram = self.config.u8_at(SMRAM);
        self.config.write(offset, value, byte_mask);
        if smram & SMRAM_LOCKED != 0 {
            self.config.set_u8(SMRAM, smram);
        } else if self.config.u8_at(SMRAM) & SMRAM_LOCKED != 0 {
            self.config.set_u8(SMRAM, self.config.u8_at(SMRAM) & !SMRAM_OPEN);
        }
        self.settle_pam();
    }

    /// The function address and dword offset CONFADD selects; nothing where it is off or names another bus.
    fn selected(&self) -> Option<(u8, u8)> {
        let [offset, address, bus, _] = self.config_address.to_le_bytes();
        (self.config_address & ADDRESS_ENABLE != 0 && bus == 0).then_some((address, offset & 0xfc))
    }
}

/// A memory BAR must be in the hole; an I/O BAR must end within the 64 KiB of ports.
fn fits(bar: &BarMapping, pci_hole: &Range<u64>) -> bool {
    let Some(end) = bar.base.checked_add(bar.len_bytes) else { return false };
    match bar.kind {
        BarKind::Io => end <= 0x1_0000,
        BarKind::Mmio | BarKind::Memory { .. } => bar.base >= pci_hole.start && end <= pci_hole.end,
    }
}

/// For BARs that [`fits`] accepted.
fn overlap(a: &BarMapping, b: &BarMapping) -> bool {
    matches!(a.kind, BarKind::Io) == matches!(b.kind, BarKind::Io)
        && a.base < b.base + b.len_bytes
        && b.base < a.base + a.len_bytes
}

/// The kind of a BAR never changes, so its number stands for it.
fn same_place(a: &BarMapping, b: &BarMapping) -> bool {
    (a.index, a.base, a.len_bytes) == (b.index, b.base, b.len_bytes)
}

impl Device for HostBridge {
    fn reset(&mut self) {
        self.config.reset();
        self.config_address = 0;
        // The functions reset themselves, before or after; neither order leaves a BAR mapped.
        for function in &mut self.functions {
            function.decoded.clear();
        }
        self.settle_bars();
        self.settle_pam();
    }

    fn save(&self) -> SavedState {
        let state = HostBridgeV1 { config: self.config.save(), config_address: self.config_address };
        SavedState::encode(KIND, VERSION, &state)
    }

    fn restore(&mut self, state: &SavedState) -> Result<(), RestoreError> {
        let HostBridgeV1 { config, config_address } = state.decode(KIND, VERSION)?;
        if config_address & !0x80ff_fffc != 0 {
            return Err(RestoreError::Field { kind: KIND, field: "configuration address" });
        }
        self.config.restore(KIND, &config, &[])?;
        self.config_address = config_address;
        self.settle_pam();
        Ok(())
    }

    fn port_io(&mut self) -> Option<&mut dyn PortIo> {
        Some(self)
    }
}

impl PortIo for HostBridge {
    fn port_read(&mut self, port: u16, data: &mut [u8]) {
        if port == CONFIG_ADDRESS_PORT && data.len() == 4 {
            data.copy_from_slice(&self.config_address.to_le_bytes());
        } else if let Some(first) = data_byte(port) {
            // Bytes past CFFh are not ours and stay FFh.
            let value = self.config_read().to_le_bytes();
            for (byte, value) in data.iter_mut().zip(&value[first..]) {
                *byte = *value;
            }
        }
    }

    fn port_write(&mut self, port: u16, data: &[u8]) {
        if port == CONFIG_ADDRESS_PORT {
            // Only a dword access is one to CONFADD; the others pass it by.
            if let Ok(value) = <[u8; 4]>::try_from(data) {
                self.config_address = u32::from_le_bytes(value) & 0x80ff_fffc;
            }
        } else if let Some(first) = data_byte(port) {
            let (mut value, mut mask) = ([0; 4], [0; 4]);
            for ((value, mask), byte) in value[first..].iter_mut().zip(&mut mask[first..]).zip(data) {
                *value = *byte;
                *mask = 0xff;
            }
            self.config_write(u32::from_le_bytes(value), u32::from_le_bytes(mask));
        }
    }
}

/// Which byte of CONFDATA a port is.
fn data_byte(port: u16) -> Option<usize> {
    let byte = usize::from(port.checked_sub(CONFIG_DATA_PORT)?);
    (byte < 4).then_some(byte)
}

#[cfg(test)]
mod tests;
