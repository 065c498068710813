//! The power management function of the PIIX4 (00:01.3): ACPI's fixed registers, the PM timer, a block of general
//! purpose events, and the SMBus host.
//!
//! There is no system management mode: a write of the APM command port reaches [`Pm::acpi_enable`] through the board,
//! and APMC_EN is preset so that firmware does not look for SMM.
//!
//! Facts: Intel 82371AB (PIIX4) datasheet, chapter 7; ACPI Specification 6.4, section 4.8.

mod smbus;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::SystemControl;
use crate::pci::config::{COMMAND_IO, ConfigSpace, ConfigSpaceV1, PciIdentity, STATUS};
use crate::{BarKind, BarMapping, Device, PciFunction, Poll, PortIo, RestoreError, SavedState, VirtualClock, Wire};
use smbus::Smbus;

const KIND: &str = "piix4-pm";
const VERSION: u32 = 1;

/// PM register base: 64 ports.
const PMBA: u8 = 0x40;
/// Device activity B: bit 25 enables SMI by the APM command port.
const DEVACTB: u8 = 0x58;
const DEVACTB_APMC_EN: u32 = 1 << 25;
/// Bit 0 lets the PM ports decode.
const PMREGMISC: u8 = 0x80;
/// SMBus base: 16 ports.
const SMBBA: u8 = 0x90;
/// Bit 0 enables the SMBus host.
const SMBHSTCFG: u8 = 0xd2;

const PM_LEN: u16 = 64;
const SMBUS_LEN: u16 = 16;

/// Where the general purpose events are, apart from the PM base: the place firmware keeps free for them.
const GPE_BASE: u16 = 0xafe0;
const GPE_LEN: u16 = 4;

// Byte offsets from the PM base.
const PM1_STATUS: u16 = 0x00;
const PM1_ENABLE: u16 = 0x02;
const PM1_CONTROL: u16 = 0x04;
const PM_TIMER: u16 = 0x08;

const TIMER_EVENT: u16 = 1 << 0;
const GLOBAL_EVENT: u16 = 1 << 5;
const POWER_BUTTON_EVENT: u16 = 1 << 8;
const RTC_EVENT: u16 = 1 << 10;
const WAKE_STATUS: u16 = 1 << 15;
const STATUS_BITS: u16 = TIMER_EVENT | GLOBAL_EVENT | POWER_BUTTON_EVENT | RTC_EVENT | WAKE_STATUS;
const ENABLE_BITS: u16 = TIMER_EVENT | GLOBAL_EVENT | POWER_BUTTON_EVENT | RTC_EVENT;

const SCI_EN: u16 = 1 << 0;
/// SCI_EN, BM_RLD and SLP_TYP can be read back; GBL_RLS and SLP_EN read 0.
const CONTROL_BITS: u16 = SCI_EN | 1 << 1 | SLEEP_TYPE;
const SLEEP_TYPE: u16 = 7 << 10;
/// SLP_EN, in the high byte of the control register.
const SLEEP_ENABLE_HIGH: u8 = 1 << 5;
/// SLP_TYP for soft off.
const SLEEP_TYPE_SOFT_OFF: u16 = 0;

/// The PM timer's frequency in hertz.
pub const PM_TIMER_HZ: u64 = 3_579_545;
const TIMER_MASK: u64 = 0xff_ffff;
/// TMR_STS is set whenever bit 23 changes.
const TIMER_STATUS_SHIFT: u32 = 23;

/// Numbers of the port ranges in [`PciFunction::bars`], past those of real BARs.
const PM_INDEX: u8 = 16;
const SMBUS_INDEX: u8 = 17;
const GPE_INDEX: u8 = 18;

/// The PIIX4's power management function.
///
/// Its ports do not have BARs but bases in device-specific registers. [`PciFunction::bars`] reports them like BARs,
/// with numbers from 16 (PM registers, 17 SMBus, 18 general purpose events, the last at a fixed place), so that they
/// are mapped and moved like any BAR.
pub struct Pm {
    clock: VirtualClock,
    sci: Wire,
    control: Arc<dyn SystemControl>,
    config: ConfigSpace,
    pm1_status: u16,
    pm1_enable: u16,
    pm1_control: u16,
    /// Changes of the timer's bit 23 that are accounted for.
    timer_toggles_seen: u64,
    gpe_status: u16,
    gpe_enable: u16,
    smbus: Smbus,
    deadline_ns: Option<u64>,
}

#[derive(Serialize, Deserialize)]
struct PmV1 {
    config: ConfigSpaceV1,
    pm1_status: u16,
    pm1_enable: u16,
    pm1_control: u16,
    timer_toggles_seen: u64,
    gpe_status: u16,
    gpe_enable: u16,
    smbus: smbus::SmbusV1,
}

impl Pm {
    /// The function as it is after power-on. `sci` is IRQ9.
    pub fn new(clock: VirtualClock, sci: Wire, control: Arc<dyn SystemControl>) -> Self {
        let mut config = ConfigSpace::new(PciIdentity {
            vendor: 0x8086,
            device: 0x7113,
            class: 0x06_8000,
            revision: 3,
            subsystem_vendor: 0x1af4,
            subsystem: 0x1100,
        });
        // Medium DEVSEL# timing, fast back-to-back.
        config.preset_u16(STATUS, 0x0280);
        config.set_interrupt_pin(1);
        config.preset_u32(PMBA, 1);
        config.allow_write(PMBA, &[0xc0, 0xff]);
        // Device activity and resource registers: nothing here watches those devices, but they read back.
        config.allow_write(0x44, &[0xff; 0x24]);
        config.preset_u32(DEVACTB, DEVACTB_APMC_EN);
        config.allow_write(PMREGMISC, &[0x01]);
        config.preset_u32(SMBBA, 1);
        config.allow_write(SMBBA, &[0xf0, 0xff]);
        config.allow_write(SMBHSTCFG, &[0x0f, 0xff, 0xff, 0xff]);
        let mut pm = Self {
            clock,
            sci,
            control,
            config,
            pm1_status: 0,
            pm1_enable: 0,
            pm1_control: 0,
            timer_toggles_seen: 0,
            gpe_status: 0,
            gpe_enable: 0,
            smbus: Smbus::default(),
            deadline_ns: None,
        };
        pm.timer_toggles_seen = pm.timer_toggles(pm.clock.now_ns());
        pm
    }

    /// Switches between ACPI mode and legacy mode: what system management code would do at the APM commands F1h and
    /// F0h.
    pub fn acpi_enable(&mut self, enabled: bool) {
        let now_ns = self.clock.now_ns();
        self.catch_up(now_ns);
        if enabled {
            self.pm1_control |= SCI_EN;
        } else {
            self.pm1_control &= !SCI_EN;
        }
        self.settle(now_ns);
    }

    /// Whether an operating system has switched to ACPI mode, and so will take notice of the power button.
    pub fn acpi_enabled(&self) -> bool {
        self.pm1_control & SCI_EN != 0
    }

    /// Presses the power button. The guest decides what to do about it.
    pub fn press_power_button(&mut self) {
        self.pm1_status |= POWER_BUTTON_EVENT;
        self.settle(self.clock.now_ns());
    }

    /// The PM timer's count since the virtual clock's 0, all bits of it.
    fn timer(now_ns: u64) -> u64 {
        let count = u128::from(now_ns) * u128::from(PM_TIMER_HZ) / 1_000_000_000;
        u64::try_from(count).unwrap_or(u64::MAX)
    }

    fn timer_toggles(&self, now_ns: u64) -> u64 {
        Self::timer(now_ns) >> TIMER_STATUS_SHIFT
    }

    fn catch_up(&mut self, now_ns: u64) {
        let toggles = self.timer_toggles(now_ns);
        if toggles != self.timer_toggles_seen {
            self.pm1_status |= TIMER_EVENT;
            self.timer_toggles_seen = toggles;
        }
    }

    /// Drives the SCI and works out when the timer event next needs a look.
    fn settle(&mut self, now_ns: u64) {
        let pending = self.pm1_status & self.pm1_enable != 0 || self.gpe_status & self.gpe_enable != 0;
        self.sci.set(self.acpi_enabled() && pending);
        let timer_wanted = self.acpi_enabled() && self.pm1_enable & !self.pm1_status & TIMER_EVENT != 0;
        self.deadline_ns = timer_wanted.then(|| {
            let count = (u128::from(self.timer_toggles(now_ns)) + 1) << TIMER_STATUS_SHIFT;
            u64::try_from((count * 1_000_000_000).div_ceil(u128::from(PM_TIMER_HZ))).unwrap_or(u64::MAX)
        });
    }

    fn pm_base(&self) -> u16 {
        self.config.u16_at(PMBA) & !(PM_LEN - 1)
    }

    fn smbus_base(&self) -> u16 {
        self.config.u16_at(SMBBA) & !(SMBUS_LEN - 1)
    }

    fn pm_decodes(&self) -> bool {
        self.config.u8_at(PMREGMISC) & 1 != 0
    }

    fn smbus_decodes(&self) -> bool {
        self.config.u8_at(SMBHSTCFG) & 1 != 0 && self.config.command() & COMMAND_IO != 0
    }

    /// Which block `port` is in, and how far.
    fn locate(&self, port: u16) -> Option<(u8, u16)> {
        let within = |base: u16, len: u16| port.checked_sub(base).filter(|offset| *offset < len);
        let pm = || within(self.pm_base(), PM_LEN).filter(|_| self.pm_decodes()).map(|offset| (PM_INDEX, offset));
        let smbus = || {
            within(self.smbus_base(), SMBUS_LEN).filter(|_| self.smbus_decodes()).map(|offset| (SMBUS_INDEX, offset))
        };
        within(GPE_BASE, GPE_LEN).map(|offset| (GPE_INDEX, offset)).or_else(pm).or_else(smbus)
    }

    fn read_pm(&self, offset: u16, now_ns: u64) -> u8 {
        let word = match offset & !1 {
            PM1_STATUS => self.pm1_status,
            PM1_ENABLE => self.pm1_enable,
            PM1_CONTROL => self.pm1_control,
            PM_TIMER | 0x0a => {
                let count = Self::timer(now_ns) & TIMER_MASK;
                return count.to_le_bytes()[usize::from(offset - PM_TIMER)];
            }
            // What else the PIIX4 has here (throttling, global status, traps) is idle.
            _ => 0,
        };
        word.to_le_bytes()[usize::from(offset & 1)]
    }

    fn write_pm(&mut self, offset: u16, value: u8) {
        match offset {
            PM1_STATUS => self.pm1_status &= !(u16::from(value) & STATUS_BITS),
            0x01 => self.pm1_status &= !(u16::from(value) << 8 & STATUS_BITS),
            PM1_ENABLE => self.pm1_enable = (self.pm1_enable & 0xff00 | u16::from(value)) & ENABLE_BITS,
            0x03 => self.pm1_enable = (self.pm1_enable & 0x00ff | u16::from(value) << 8) & ENABLE_BITS,
            PM1_CONTROL => self.pm1_control = (self.pm1_control & 0xff00 | u16::from(value)) & CONTROL_BITS,
            0x05 => {
                self.pm1_control = (self.pm1_control & 0x00ff | u16::from(value) << 8) & CONTROL_BITS;
                // Sleeping states are not offered in the ACPI tables, so soft off is the only one there is.
                if value & SLEEP_ENABLE_HIGH != 0 && self.pm1_control & SLEEP_TYPE == SLEEP_TYPE_SOFT_OFF {
                    self.control.request_power_off();
                }
            }
            _ => {}
        }
    }

    fn read_gpe(&self, offset: u16) -> u8 {
        let word = if offset < 2 { self.gpe_status } else { self.gpe_enable };
        word.to_le_bytes()[usize::from(offset & 1)]
    }

    fn write_gpe(&mut self, offset: u16, value: u8) {
        match offset {
            0 => self.gpe_status &= !u16::from(value),
            1 => self.gpe_status &= !(u16::from(value) << 8),
            2 => self.gpe_enable = self.gpe_enable & 0xff00 | u16::from(value),
            _ => self.gpe_enable = self.gpe_enable & 0x00ff | u16::from(value) << 8,
        }
    }
}

impl PortIo for Pm {
    fn port_read(&mut self, port: u16, data: &mut [u8]) {
        // One moment for the whole access, so that the timer's bytes belong together.
        let now_ns = self.clock.now_ns();
        self.catch_up(now_ns);
        for (port, byte) in (port..=u16::MAX).zip(data) {
            *byte = match self.locate(port) {
                Some((PM_INDEX, offset)) => self.read_pm(offset, now_ns),
                Some((SMBUS_INDEX, offset)) => self.smbus.read(offset),
                Some((_, offset)) => self.read_gpe(offset),
                None => continue,
            };
        }
    }

    fn port_write(&mut self, port: u16, data: &[u8]) {
        let now_ns = self.clock.now_ns();
        self.catch_up(now_ns);
        for (port, byte) in (port..=u16::MAX).zip(data) {
            match self.locate(port) {
                Some((PM_INDEX, offset)) => self.write_pm(offset, *byte),
                Some((SMBUS_INDEX, offset)) => self.smbus.write(offset, *byte),
                Some((_, offset)) => self.write_gpe(offset, *byte),
                None => {}
            }
        }
        self.settle(now_ns);
    }
}

impl PciFunction for Pm {
    fn config_read(&mut self, offset: u8) -> u32 {
        self.config.read(offset)
    }

    fn config_write(&mut self, offset: u8, value: u32, byte_mask: u32) {
        self.config.write(offset, value, byte_mask);
    }

    fn bars(&self) -> Vec<BarMapping> {
        let range = |index, base: u16, len: u16| BarMapping {
            index,
            kind: BarKind::Io,
            base: u64::from(base),
            len_bytes: u64::from(len),
        };
        let mut bars = vec![range(GPE_INDEX, GPE_BASE, GPE_LEN)];
        if self.pm_decodes() && self.pm_base() != 0 {
            bars.push(range(PM_INDEX, self.pm_base(), PM_LEN));
        }
        if self.smbus_decodes() && self.smbus_base() != 0 {
            bars.push(range(SMBUS_INDEX, self.smbus_base(), SMBUS_LEN));
        }
        bars
    }
}

impl Poll for Pm {
    fn deadline_ns(&self) -> Option<u64> {
        self.deadline_ns
    }

    fn poll(&mut self, now_ns: u64) {
        self.catch_up(now_ns);
        self.settle(now_ns);
    }
}

impl Device for Pm {
    fn reset(&mut self) {
        let now_ns = self.clock.now_ns();
        self.config.reset();
        self.pm1_status = 0;
        self.pm1_enable = 0;
        self.pm1_control = 0;
        self.timer_toggles_seen = self.timer_toggles(now_ns);
        self.gpe_status = 0;
        self.gpe_enable = 0;
        self.smbus = Smbus::default();
        self.settle(now_ns);
    }

    fn save(&self) -> SavedState {
        let Self {
            clock: _,
            sci: _,
            control: _,
            config,
            pm1_status,
            pm1_enable,
            pm1_control,
            timer_toggles_seen,
            gpe_status,
            gpe_enable,
            smbus,
            deadline_ns: _,
        } = self;
        let state = PmV1 {
            config: config.save(),
            pm1_status: *pm1_status,
            pm1_enable: *pm1_enable,
            pm1_control: *pm1_control,
            timer_toggles_seen: *timer_toggles_seen,
            gpe_status: *gpe_status,
            gpe_enable: *gpe_enable,
            smbus: smbus.save(),
        };
        SavedState::encode(KIND, VERSION, &state)
    }

    fn restore(&mut self, state: &SavedState) -> Result<(), RestoreError> {
        let PmV1 { config, pm1_status, pm1_enable, pm1_control, timer_toggles_seen, gpe_status, gpe_enable, smbus } =
            state.decode(KIND, VERSION)?;
        let refused = |field| RestoreError::Field { kind: KIND, field };
        if pm1_status & !STATUS_BITS != 0 || pm1_enable & !ENABLE_BITS != 0 || pm1_control & !CONTROL_BITS != 0 {
            return Err(refused("PM1 register"));
        }
        let smbus = Smbus::restore(smbus).ok_or(refused("SMBus data index"))?;
        self.config.restore(KIND, &config, &[])?;
        self.pm1_status = pm1_status;
        self.pm1_enable = pm1_enable;
        self.pm1_control = pm1_control;
        self.timer_toggles_seen = timer_toggles_seen;
        self.gpe_status = gpe_status;
        self.gpe_enable = gpe_enable;
        self.smbus = smbus;
        self.settle(self.clock.now_ns());
        Ok(())
    }

    fn port_io(&mut self) -> Option<&mut dyn PortIo> {
        Some(self)
    }

    fn pci(&mut self) -> Option<&mut dyn PciFunction> {
        Some(self)
    }

    fn poll(&mut self) -> Option<&mut dyn Poll> {
        Some(self)
    }
}

impl fmt::Debug for Pm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pm")
            .field("pm1_status", &self.pm1_status)
            .field("pm1_enable", &self.pm1_enable)
            .field("pm1_control", &self.pm1_control)
            .field("deadline_ns", &self.deadline_ns)
            .finish_non_exhaustive()
    }
}
