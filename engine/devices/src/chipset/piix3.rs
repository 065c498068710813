//! The ISA bridge: function 0 of the Intel 82371SB (PIIX3, order number 290550), with the ports it answers itself:
//! reset control (CF9h), port 92h, the APM ports (B2h, B3h) and the delay ports (80h, EDh).

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::chipset::SystemControl;
use crate::chipset::router::InterruptRouter;
use crate::pci::config::{COMMAND, ConfigSpace, ConfigSpaceV1, PciIdentity, STATUS};
use crate::{BarMapping, Device, PciFunction, PortIo, PortRange, RestoreError, SavedState};

/// The ports the bridge answers at.
pub const PORTS: [PortRange; 5] = [
    PortRange { first: POST_PORT, count: 1 },
    PortRange { first: PORT_92, count: 1 },
    PortRange { first: APM_CONTROL_PORT, count: 2 },
    PortRange { first: DELAY_PORT, count: 1 },
    PortRange { first: RESET_CONTROL_PORT, count: 1 },
];

const POST_PORT: u16 = 0x80;
const PORT_92: u16 = 0x92;
const APM_CONTROL_PORT: u16 = 0xb2;
const APM_STATUS_PORT: u16 = 0xb3;
const DELAY_PORT: u16 = 0xed;
const RESET_CONTROL_PORT: u16 = 0xcf9;

/// First of the four PIRQ routing registers.
const PIRQ_ROUTE: u8 = 0x60;
/// Port 92h: a rise resets.
const FAST_RESET: u8 = 1 << 0;
/// Port 92h: the A20 gate.
const A20: u8 = 1 << 1;
/// Port 92h: the bits that are only kept (the password lock and the activity lamp).
const PORT_92_KEPT: u8 = 0xc8;
/// Reset control: hard rather than soft. Either resets the whole machine here.
const RESET_HARD: u8 = 1 << 1;
/// Reset control: a rise resets.
const RESET_CPU: u8 = 1 << 2;

const KIND: &str = "piix3";
const VERSION: u32 = 1;

/// The ISA bridge.
pub struct Piix3 {
    config: ConfigSpace,
    router: Arc<InterruptRouter>,
    control: Arc<dyn SystemControl>,
    /// Port 92h without the A20 bit, which [`SystemControl`] has.
    port_92: u8,
    reset_control: u8,
    apm_control: u8,
    apm_status: u8,
    /// The last POST code, which reads back.
    post_code: u8,
}

#[derive(Serialize, Deserialize)]
struct Piix3V1 {
    config: ConfigSpaceV1,
    a20: bool,
    port_92: u8,
    reset_control: u8,
    apm_control: u8,
    apm_status: u8,
    post_code: u8,
}

impl Piix3 {
    /// The bridge, with PIRQs that go through `router`.
    pub fn new(router: Arc<InterruptRouter>, control: Arc<dyn SystemControl>) -> Self {
        let mut config = ConfigSpace::new(PciIdentity {
            vendor: 0x8086,
            device: 0x7000,
            class: 0x06_0100,
            revision: 0,
            subsystem_vendor: 0x1af4,
            subsystem: 0x1100,
        });
        config.set_multifunction();
        // I/O, memory and bus master are always on in this chip.
        config.preset_u16(COMMAND, 0x0007);
        config.allow_write(COMMAND, &0x0108_u16.to_le_bytes());
        config.preset_u16(STATUS, 0x0200);
        // Timing, chip selects, memory hole, DMA and APIC registers hold what is written, and do nothing.
        config.preset(0x4c, &[0x4d]);
        config.allow_write(0x4c, &[0xff, 0, 0xff, 0x0f]);
        config.preset(0x4e, &[0x03]);
        config.preset(PIRQ_ROUTE, &[0x80; 4]);
        config.allow_write(PIRQ_ROUTE, &[0x8f; 4]);
        config.preset(0x69, &[0x02]);
        config.allow_write(0x69, &[0xfe, 0x87]);
        config.preset(0x70, &[0x80]);
        config.allow_write(0x70, &[0xef]);
        config.preset(0x76, &[0x0c, 0x0c]);
        config.allow_write(0x76, &[0x8f, 0x8f]);
        config.allow_write(0x80, &[0x7f]);
        config.preset(0xa0, &[0x08]);
        config.allow_write(0xa0, &[0x1f, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0xff, 0, 0xff]);
        Self { config, router, control, port_92: 0, reset_control: 0, apm_control: 0, apm_status: 0, post_code: 0 }
    }

    fn update_routes(&self) {
        for pirq in 0..4 {
            self.router.set_pirq_route(pirq, self.config.u8_at(PIRQ_ROUTE + pirq));
        }
    }

    fn read_byte(&self, port: u16) -> u8 {
        match port {
            POST_PORT => self.post_code,
            PORT_92 => self.port_92 | if self.control.a20() { A20 } else { 0 },
            APM_CONTROL_PORT => self.apm_control,
            APM_STATUS_PORT => self.apm_status,
            RESET_CONTROL_PORT => self.reset_control,
            _ => 0xff,
        }
    }

    fn write_byte(&mut self, port: u16, value: u8) {
        match port {
            POST_PORT => self.post_code = value,
            PORT_92 => {
                let rose = value & !self.port_92 & FAST_RESET != 0;
                self.port_92 = value & (PORT_92_KEPT | FAST_RESET);
                self.control.set_a20(value & A20 != 0);
                if rose {
                    self.control.request_reset();
                }
            }
            APM_CONTROL_PORT => {
                self.apm_control = value;
                self.control.apm_command(value);
            }
            APM_STATUS_PORT => self.apm_status = value,
            RESET_CONTROL_PORT => {
                let rose = value & !self.reset_control & RESET_CPU != 0;
                self.reset_control = value & (RESET_HARD | RESET_CPU);
                if rose {
                    self.control.request_reset();
                }
            }
            _ => {}
        }
    }
}

impl Device for Piix3 {
    fn reset(&mut self) {
        let (router, control) = (self.router.clone(), self.control.clone());
        *self = Self::new(router, control);
        self.control.set_a20(true);
        self.update_routes();
    }

    fn save(&self) -> SavedState {
        let Self { config, router: _, control, port_92, reset_control, apm_control, apm_status, post_code } = self;
        let state = Piix3V1 {
            config: config.save(),
            a20: control.a20(),
            port_92: *port_92,
            reset_control: *reset_control,
            apm_control: *apm_control,
            apm_status: *apm_status,
            post_code: *post_code,
        };
        SavedState::encode(KIND, VERSION, &state)
    }

    fn restore(&mut self, state: &SavedState) -> Result<(), RestoreError> {
        let Piix3V1 { config, a20, port_92, reset_control, apm_control, apm_status, post_code } =
            state.decode(KIND, VERSION)?;
        if port_92 & !(PORT_92_KEPT | FAST_RESET) != 0 {
            return Err(RestoreError::Field { kind: KIND, field: "port 92h" });
        }
        if reset_control & !(RESET_HARD | RESET_CPU) != 0 {
            return Err(RestoreError::Field { kind: KIND, field: "reset control" });
        }
        self.config.restore(KIND, &config, &[])?;
        self.port_92 = port_92;
        self.reset_control = reset_control;
        self.apm_control = apm_control;
        self.apm_status = apm_status;
        self.post_code = post_code;
        self.control.set_a20(a20);
        self.update_routes();
        Ok(())
    }

    fn port_io(&mut self) -> Option<&mut dyn PortIo> {
        Some(self)
    }

    fn pci(&mut self) -> Option<&mut dyn PciFunction> {
        Some(self)
    }
}

impl PortIo for Piix3 {
    fn port_read(&mut self, port: u16, data: &mut [u8]) {
        for (byte, port) in data.iter_mut().zip(port..=u16::MAX) {
            *byte = self.read_byte(port);
        }
    }

    fn port_write(&mut self, port: u16, data: &[u8]) {
        for (byte, port) in data.iter().zip(port..=u16::MAX) {
            self.write_byte(port, *byte);
        }
    }
}

impl PciFunction for Piix3 {
    fn config_read(&mut self, offset: u8) -> u32 {
        self.config.read(offset)
    }

    fn config_write(&mut self, offset: u8, value: u32, byte_mask: u32) {
        self.config.write(offset, value, byte_mask);
        if offset & 0xfc == PIRQ_ROUTE {
            self.update_routes();
        }
    }

    fn bars(&self) -> Vec<BarMapping> {
        self.config.bars()
    }
}

#[cfg(test)]
mod tests;
