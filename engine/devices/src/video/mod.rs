//! The display adapter: a VGA with the DISPI extensions (PCI 1234:1111), which SeaBIOS's vgabios, Linux's bochs-drm and
//! every VESA driver know.
//!
//! ```text
//!   ports 3B0-3DFh, BAR2+400h ─▶ registers ─┐
//!   ports 1CE-1D0h, BAR2+500h ─▶ dispi ─────┼─▶ ScreenState ─▶ Frame, text
//!   A0000-BFFFFh ─▶ memory (planes, latch) ─┤        ▲
//!   BAR0 (plain memory, no exits) ──────────┴─ video memory
//! ```
//!
//! [`ScreenState`] is a copy of all registers a picture depends on; it is judged as a whole and rendered from without
//! the device's lock, while the guest goes on changing video memory. Nothing a guest writes there is trusted: every
//! address is masked or checked when it is used.

pub mod dispi;
pub mod edid;
pub mod memory;
mod ports;
pub mod registers;
mod render;
mod state;
mod text;

use benchtop_memory::SharedRegion;

use crate::pci::config::{COMMAND_MEMORY, ConfigSpace, PciIdentity};
use crate::{BarMapping, Device, Mmio, PciFunction, PortIo, PortRange, RestoreError, SavedState, VirtualClock};

use dispi::Dispi;
use memory::{WINDOW_BASE, WINDOW_LEN_BYTES, Window};
use registers::Registers;
pub use render::{Frame, ScreenState};

/// Video memory unless asked otherwise.
pub const DEFAULT_VRAM_BYTES: u64 = 16 << 20;
const MIN_VRAM_BYTES: u64 = 1 << 20;
const MAX_VRAM_BYTES: u64 = 256 << 20;

/// The ports of a VGA with DISPI. 3BCh on belongs to a parallel port.
pub const PORTS: [PortRange; 3] = [
    PortRange { first: 0x3b0, count: 0x0c },
    PortRange { first: 0x3c0, count: 0x20 },
    PortRange { first: 0x1ce, count: 3 },
];

/// The legacy window, first address and length: stores in it have no side effect a guest could await, only their order
/// among themselves, with loads from it and with this device's ports matters. So a hypervisor may gather them and hand
/// them over late, before any other access to this device and before a picture is taken.
pub const COALESCED_WINDOW: (u64, u64) = (WINDOW_BASE, WINDOW_LEN_BYTES);

const VRAM_BAR: u8 = 0;
const MMIO_BAR: u8 = 2;
const MMIO_LEN_BYTES: u32 = 0x1000;

/// The adapter.
#[derive(Debug)]
pub struct Vga {
    config: ConfigSpace,
    registers: Registers,
    dispi: Dispi,
    latch: u32,
    vram: SharedRegion,
    edid: [u8; edid::EDID_LEN],
    big_endian: bool,
    clock: VirtualClock,
    /// The virtual time the status port was read last and what it said.
    last_status: (u64, u8),
    generation: u64,
}

impl Vga {
    /// An adapter with `vram_bytes` of memory (made a power of two from 1 to 256 MiB) and `rom` as its BIOS; without
    /// one it has no expansion ROM.
    ///
    /// # Errors
    /// The host's, when it has no memory for it.
    pub fn new(vram_bytes: u64, rom: &[u8], clock: VirtualClock) -> std::io::Result<Self> {
        let vram_bytes = vram_bytes.clamp(MIN_VRAM_BYTES, MAX_VRAM_BYTES).next_power_of_two();
        let vram = SharedRegion::new("vga-vram", vram_bytes)?;
        let mut config = ConfigSpace::new(PciIdentity {
            vendor: 0x1234,
            device: 0x1111,
            class: 0x03_0000,
            revision: 2,
            subsystem_vendor: 0x1af4,
            subsystem: 0x1100,
        });
        config.add_memory_bar(VRAM_BAR, vram.clone(), true);
        config.add_mmio_bar(MMIO_BAR, MMIO_LEN_BYTES);
        if !rom.is_empty() {
            let region = SharedRegion::new("vga-rom", (rom.len() as u64).next_power_of_two())?;
            if !region.write(0, rom) {
                return Err(std::io::ErrorKind::InvalidInput.into());
            }
            config.set_rom(region);
        }
        Ok(Self {
            config,
            registers: Registers::default(),
            dispi: Dispi::default(),
            latch: 0,
            vram,
            edid: edid::edid(1280, 800),
            big_endian: false,
            clock,
            last_status: (u64::MAX, 0),
            generation: 0,
        })
    }

    /// The mode the monitor says it prefers.
    pub fn set_preferred_mode(&mut self, width: u16, height: u16) {
        self.edid = edid::edid(width, height);
    }

    /// Video memory. The saved state of this device leaves it out: it is saved as a region, next to RAM.
    pub fn vram(&self) -> &SharedRegion {
        &self.vram
    }

    /// A number that is another one whenever a register the picture depends on, or video memory by way of the legacy
    /// window, has changed since it was last asked for, or something blinks. Stores through BAR0 cause no exit and
    /// are not in it.
    pub fn generation(&self) -> u64 {
        let screen = self.screen_state();
        self.generation.wrapping_mul(4) | u64::from(screen.cursor_phase) << 1 | u64::from(screen.blink_phase)
    }

    /// All that a picture depends on besides video memory.
    pub fn screen_state(&self) -> ScreenState {
        ScreenState::new(&self.registers, self.dispi.mode(self.vram.len()), self.clock.now_ns())
    }

    /// The picture now. [`ScreenState::render`] does the same without the device.
    pub fn render(&self) -> Frame {
        self.screen_state().render(&self.vram)
    }

    /// The characters on the screen, a line each without trailing spaces, where it is in a text mode.
    pub fn text_screen(&self) -> Option<Vec<String>> {
        self.screen_state().text(&self.vram)
    }

    fn changed(&mut self) {
        self.generation = self.generation.wrapping_add(1);
    }

    fn window(&mut self) -> Window<'_> {
        Window {
            registers: &self.registers,
            vram: &self.vram,
            bank_bytes: self.dispi.bank_bytes(),
            latch: &mut self.latch,
        }
    }

    /// The offset of `gpa` into the legacy window, where that is decoded.
    fn window_offset(&self, gpa: u64) -> Option<usize> {
        let offset = gpa.checked_sub(WINDOW_BASE).filter(|offset| *offset < WINDOW_LEN_BYTES)?;
        // RAM enable of the miscellaneous output register is not looked at: BIOSes differ in whether they set it.
        (self.config.command() & COMMAND_MEMORY != 0).then_some(usize::try_from(offset).ok()?)
    }

    /// The offset of `gpa` into BAR2, where that is mapped.
    fn mmio_offset(&self, gpa: u64) -> Option<u64> {
        let bar = self.config.bar(MMIO_BAR)?;
        gpa.checked_sub(bar.base).filter(|offset| *offset < bar.len_bytes)
    }
}

impl Device for Vga {
    fn reset(&mut self) {
        self.config.reset();
        self.registers = Registers::default();
        self.dispi = Dispi::default();
        self.latch = 0;
        self.big_endian = false;
        self.last_status = (u64::MAX, 0);
        self.changed();
    }

    fn save(&self) -> SavedState {
        state::save(self)
    }

    fn restore(&mut self, saved: &SavedState) -> Result<(), RestoreError> {
        state::restore(self, saved)
    }

    fn port_io(&mut self) -> Option<&mut dyn PortIo> {
        Some(self)
    }

    fn mmio(&mut self) -> Option<&mut dyn Mmio> {
        Some(self)
    }

    fn pci(&mut self) -> Option<&mut dyn PciFunction> {
        Some(self)
    }
}

impl Mmio for Vga {
    fn mmio_read(&mut self, gpa: u64, data: &mut [u8]) {
        if let Some(offset) = self.window_offset(gpa) {
            let mut window = self.window();
            for (at, byte) in (offset..).zip(data) {
                *byte = window.read(at);
            }
        } else if let Some(offset) = self.mmio_offset(gpa) {
            self.register_read(offset, data);
        }
    }

    fn mmio_write(&mut self, gpa: u64, data: &[u8]) {
        if let Some(offset) = self.window_offset(gpa) {
            let mut window = self.window();
            let mut written = false;
            for (at, byte) in (offset..).zip(data) {
                written |= window.write(at, *byte);
            }
            if written {
                self.changed();
            }
        } else if let Some(offset) = self.mmio_offset(gpa) {
            self.register_write(offset, data);
        }
    }
}

impl PciFunction for Vga {
    fn config_read(&mut self, offset: u8) -> u32 {
        self.config.read(offset)
    }

    fn config_write(&mut self, offset: u8, value: u32, byte_mask: u32) {
        self.config.write(offset, value, byte_mask);
    }

    fn bars(&self) -> Vec<BarMapping> {
        self.config.bars()
    }
}

#[cfg(test)]
mod tests;
