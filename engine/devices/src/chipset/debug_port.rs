//! The debug port of Bochs and its descendants: each byte written to 402h is a character of firmware's log.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::{Device, PortIo, PortRange, RestoreError, SavedState};

const KIND: &str = "debug-port";
const VERSION: u32 = 1;

const PORT: u16 = 0x402;
/// What a reader finds where there is a debug port.
const PRESENT: u8 = 0xe9;

/// Bytes kept until somebody takes them. Of more, the oldest are lost.
const KEPT_BYTES: usize = 64 << 10;

/// The debug port.
#[derive(Debug, Default)]
pub struct DebugPort {
    log: VecDeque<u8>,
}

/// The device has no state a guest could read; what it logged belongs to the host.
#[derive(Serialize, Deserialize)]
struct DebugPortV1 {}

impl DebugPort {
    /// The port it answers at.
    pub const PORTS: PortRange = PortRange { first: PORT, count: 1 };

    /// A debug port with an empty log.
    pub fn new() -> Self {
        Self::default()
    }

    /// The bytes written since the last call, at most the newest 64 KiB. They are the guest's: any bytes at all.
    pub fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.log).into()
    }

    fn append(&mut self, bytes: &[u8]) {
        let newest = &bytes[bytes.len().saturating_sub(KEPT_BYTES)..];
        let excess = (self.log.len() + newest.len()).saturating_sub(KEPT_BYTES);
        self.log.drain(..excess);
        self.log.extend(newest);
    }
}

impl PortIo for DebugPort {
    fn port_read(&mut self, port: u16, data: &mut [u8]) {
        if port == PORT
            && let Some(byte) = data.first_mut()
        {
            *byte = PRESENT;
        }
    }

    fn port_write(&mut self, port: u16, data: &[u8]) {
        if port == PORT {
            self.append(&data[..data.len().min(1)]);
        }
    }

    fn port_write_string(&mut self, port: u16, width: usize, data: &[u8]) {
        if port == PORT && width == 1 {
            return self.append(data);
        }
        for element in data.chunks_exact(width) {
            self.port_write(port, element);
        }
    }
}

impl Device for DebugPort {
    /// The log stays: what came before a reset is what one wants to read after it.
    fn reset(&mut self) {}

    fn save(&self) -> SavedState {
        SavedState::encode(KIND, VERSION, &DebugPortV1 {})
    }

    fn restore(&mut self, state: &SavedState) -> Result<(), RestoreError> {
        let DebugPortV1 {} = state.decode(KIND, VERSION)?;
        Ok(())
    }

    fn port_io(&mut self) -> Option<&mut dyn PortIo> {
        Some(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_there_and_keeps_what_is_written() {
        let mut port = DebugPort::new();
        let mut byte = [0xff];
        port.port_read(0x402, &mut byte);
        assert_eq!(byte, [0xe9]);
        port.port_write(0x402, b"S");
        port.port_write_string(0x402, 1, b"eaBIOS");
        port.port_write(0x402, b"\n\0\0\0");
        assert_eq!(port.take(), b"SeaBIOS\n");
        assert_eq!(port.take(), b"");
    }

    #[test]
    fn the_log_is_bounded_and_keeps_the_newest() {
        let mut port = DebugPort::new();
        port.port_write_string(0x402, 1, &vec![b'a'; KEPT_BYTES - 1]);
        port.port_write_string(0x402, 1, b"bcd");
        let log = port.take();
        assert_eq!(log.len(), KEPT_BYTES);
        assert!(log.ends_with(b"aabcd"));
        port.port_write_string(0x402, 1, &vec![b'z'; 3 * KEPT_BYTES]);
        assert_eq!(port.take().len(), KEPT_BYTES);
    }

    #[test]
    fn round_trip() {
        crate::conformance::device_round_trip(
            || Box::new(DebugPort::new()),
            |port| {
                if let Some(io) = port.port_io() {
                    io.port_write(0x402, b"x");
                }
            },
        );
    }
}
