//! The two 8237A DMA controllers and their page registers (82371SB data sheet), for software that sets them up: what
//! is written reads back. Nothing on this board asks for a DMA cycle, so none ever runs.

use serde::{Deserialize, Serialize};

use crate::state::same_fields;
use crate::{Device, PortIo, PortRange, RestoreError, SavedState};

/// The ports the controllers answer at. Port 80h, the first page register, is the ISA bridge's (POST codes).
pub const PORTS: [PortRange; 3] =
    [PortRange { first: 0x00, count: 16 }, PortRange { first: 0x81, count: 15 }, PortRange { first: 0xc0, count: 32 }];

const KIND: &str = "dma";
const VERSION: u32 = 1;
const CHANNEL_REGISTERS: usize = 8;

#[derive(Clone, Debug, PartialEq, Eq)]
struct Controller {
    /// Address and count of each channel in turn.
    channels: [u16; CHANNEL_REGISTERS],
    /// The next byte is the high one.
    high_byte: bool,
    mask: u8,
}

impl Default for Controller {
    fn default() -> Self {
        Self { channels: [0; CHANNEL_REGISTERS], high_byte: false, mask: 0x0f }
    }
}

impl Controller {
    fn read(&mut self, register: usize) -> u8 {
        match register {
            0..CHANNEL_REGISTERS => {
                let [low, high] = self.channels[register].to_le_bytes();
                self.high_byte = !self.high_byte;
                if self.high_byte { low } else { high }
            }
            // The mask register reads with its unused bits high; status (no request, nothing done) and temporary as 0.
            0x0f => 0xf0 | self.mask,
            _ => 0,
        }
    }

    fn write(&mut self, register: usize, value: u8) {
        match register {
            0..CHANNEL_REGISTERS => {
                let [low, high] = self.channels[register].to_le_bytes();
                let bytes = if self.high_byte { [low, value] } else { [value, high] };
                self.channels[register] = u16::from_le_bytes(bytes);
                self.high_byte = !self.high_byte;
            }
            0x0a => {
                let bit = 1 << (value & 3);
                self.mask = if value & 4 != 0 { self.mask | bit } else { self.mask & !bit };
            }
            0x0c => self.high_byte = false,
            0x0d => *self = Self { channels: self.channels, ..Self::default() },
            0x0e => self.mask = 0,
            0x0f => self.mask = value & 0x0f,
            // Command, request and mode only steer cycles that never come.
            _ => {}
        }
    }
}

/// Both controllers.
#[derive(Debug, Default)]
pub struct Dma {
    controllers: [Controller; 2],
    pages: [u8; 16],
}

#[derive(Serialize, Deserialize)]
struct ControllerV1 {
    channels: [u16; CHANNEL_REGISTERS],
    high_byte: bool,
    mask: u8,
}

same_fields!(Controller, ControllerV1; channels, high_byte, mask);

#[derive(Serialize, Deserialize)]
struct DmaV1 {
    controllers: [ControllerV1; 2],
    pages: [u8; 16],
}

impl Dma {
    /// Controllers after a reset: all channels masked.
    pub fn new() -> Self {
        Self::default()
    }
}

impl Device for Dma {
    fn reset(&mut self) {
        *self = Self::new();
    }

    fn save(&self) -> SavedState {
        let controllers = self.controllers.clone().map(ControllerV1::from);
        SavedState::encode(KIND, VERSION, &DmaV1 { controllers, pages: self.pages })
    }

    fn restore(&mut self, state: &SavedState) -> Result<(), RestoreError> {
        let DmaV1 { controllers, pages } = state.decode(KIND, VERSION)?;
        if controllers.iter().any(|controller| controller.mask > 0x0f) {
            return Err(RestoreError::Field { kind: KIND, field: "mask" });
        }
        self.controllers = controllers.map(Controller::from);
        self.pages = pages;
        Ok(())
    }

    fn port_io(&mut self) -> Option<&mut dyn PortIo> {
        Some(self)
    }
}

impl PortIo for Dma {
    fn port_read(&mut self, port: u16, data: &mut [u8]) {
        for (byte, port) in data.iter_mut().zip(port..=u16::MAX) {
            match port {
                0x00..=0x0f => *byte = self.controllers[0].read(usize::from(port)),
                0x81..=0x8f => *byte = self.pages[usize::from(port - 0x80)],
                // The second controller's registers are two ports apart.
                0xc0..=0xdf => *byte = self.controllers[1].read(usize::from((port - 0xc0) / 2)),
                _ => {}
            }
        }
    }

    fn port_write(&mut self, port: u16, data: &[u8]) {
        for (byte, port) in data.iter().zip(port..=u16::MAX) {
            match port {
                0x00..=0x0f => self.controllers[0].write(usize::from(port), *byte),
                0x81..=0x8f => self.pages[usize::from(port - 0x80)] = *byte,
                0xc0..=0xdf => self.controllers[1].write(usize::from((port - 0xc0) / 2), *byte),
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::device_round_trip;

    fn inb(dma: &mut Dma, port: u16) -> u8 {
        let mut data = [0xff];
        dma.port_read(port, &mut data);
        data[0]
    }

    #[test]
    fn reads_back_what_was_written() {
        let mut dma = Dma::new();
        for (port, value) in
            [(0x0c, 0), (0x04, 0x34), (0x04, 0x12), (0x81, 0x56), (0xd8, 0), (0xc6, 0xff), (0xc6, 0x03)]
        {
            dma.port_write(port, &[value]);
        }
        dma.port_write(0x0c, &[0]);
        assert_eq!((inb(&mut dma, 0x04), inb(&mut dma, 0x04)), (0x34, 0x12));
        assert_eq!((inb(&mut dma, 0xc6), inb(&mut dma, 0xc6)), (0xff, 0x03));
        assert_eq!((inb(&mut dma, 0x81), inb(&mut dma, 0x80), inb(&mut dma, 0x08)), (0x56, 0xff, 0));
        dma.port_write(0x0a, &[2]);
        assert_eq!(inb(&mut dma, 0x0f), 0xfb);
        dma.port_write(0x0d, &[0]);
        assert_eq!(inb(&mut dma, 0x0f), 0xff);
    }

    #[test]
    fn round_trip() {
        device_round_trip(
            || Box::new(Dma::new()),
            |device| {
                let io = device.port_io().unwrap();
                for (port, value) in [(0x00, 1), (0x0f, 3), (0x8f, 9), (0xc2, 7)] {
                    io.port_write(port, &[value]);
                }
            },
        );
    }
}
