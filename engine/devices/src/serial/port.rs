//! A UART at eight I/O ports with an ISA interrupt line.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::{Device, Poll, PortIo, PortRange, RestoreError, SavedState, VirtualClock, Wire};

use super::uart::{SerialSink, Uart16550, UartV1};

/// First port of COM1, on IRQ 4.
pub const COM1_BASE: u16 = 0x3f8;
/// First port of COM2, on IRQ 3.
pub const COM2_BASE: u16 = 0x2f8;

/// Input held for a guest that is slow to read.
const MOST_INPUT_BYTES: usize = 64 << 10;

const KIND: &str = "serial";
const VERSION: u32 = 1;

/// COM1 or COM2.
#[derive(Debug)]
pub struct SerialPort {
    base: u16,
    uart: Uart16550,
    /// Input the FIFO has no room for yet.
    input: VecDeque<u8>,
    irq: Wire,
    clock: VirtualClock,
}

#[derive(Serialize, Deserialize)]
struct SerialPortV1 {
    uart: UartV1,
    input: Vec<u8>,
}

impl SerialPort {
    /// A port at `base` that drives `irq` and sends to `sink`.
    pub fn new(base: u16, irq: Wire, clock: VirtualClock, sink: SerialSink) -> Self {
        Self { base, uart: Uart16550::new(sink), input: VecDeque::new(), irq, clock }
    }

    /// Its ports.
    pub fn ports(&self) -> PortRange {
        PortRange { first: self.base, count: 8 }
    }

    /// Input from the host. Says how many bytes were taken; the rest is to be offered again later.
    pub fn receive(&mut self, bytes: &[u8]) -> usize {
        let taken = (MOST_INPUT_BYTES - self.input.len()).min(bytes.len());
        self.input.extend(&bytes[..taken]);
        self.settle();
        taken
    }

    /// Moves waiting input into the FIFO and drives the interrupt line.
    fn settle(&mut self) {
        let now_ns = self.clock.now_ns();
        while self.uart.room() > 0 {
            let Some(byte) = self.input.pop_front() else { break };
            self.uart.receive(&[byte], now_ns);
        }
        self.irq.set(self.uart.interrupt() && self.uart.out2());
    }

    /// The register behind `port`, where it is one of ours.
    fn register(&self, port: u16) -> Option<u8> {
        let index = port.checked_sub(self.base).filter(|index| *index < 8)?;
        u8::try_from(index).ok()
    }
}

impl Device for SerialPort {
    fn reset(&mut self) {
        self.uart.reset();
        self.input.clear();
        self.irq.set(false);
    }

    fn save(&self) -> SavedState {
        let state = SerialPortV1 { uart: self.uart.save(), input: self.input.iter().copied().collect() };
        SavedState::encode(KIND, VERSION, &state)
    }

    fn restore(&mut self, saved: &SavedState) -> Result<(), RestoreError> {
        let state: SerialPortV1 = saved.decode(KIND, VERSION)?;
        let bad = |field| RestoreError::Field { kind: KIND, field };
        if state.input.len() > MOST_INPUT_BYTES {
            return Err(bad("waiting input"));
        }
        self.uart.restore(state.uart).map_err(bad)?;
        self.input = state.input.into();
        self.irq.set(self.uart.interrupt() && self.uart.out2());
        Ok(())
    }

    fn port_io(&mut self) -> Option<&mut dyn PortIo> {
        Some(self)
    }

    fn poll(&mut self) -> Option<&mut dyn Poll> {
        Some(self)
    }
}

impl PortIo for SerialPort {
    fn port_read(&mut self, port: u16, data: &mut [u8]) {
        let now_ns = self.clock.now_ns();
        for (port, byte) in (port..=u16::MAX).zip(data) {
            if let Some(index) = self.register(port) {
                *byte = self.uart.read(index, now_ns);
            }
        }
        self.settle();
    }

    fn port_write(&mut self, port: u16, data: &[u8]) {
        let now_ns = self.clock.now_ns();
        for (port, byte) in (port..=u16::MAX).zip(data) {
            if let Some(index) = self.register(port) {
                self.uart.write(index, *byte, now_ns);
            }
        }
        self.settle();
    }

    fn port_write_string(&mut self, port: u16, width: usize, data: &[u8]) {
        if width == 1 && port == self.base {
            self.uart.send(data, self.clock.now_ns());
            self.settle();
            return;
        }
        for element in data.chunks_exact(width) {
            self.port_write(port, element);
        }
    }
}

impl Poll for SerialPort {
    fn deadline_ns(&self) -> Option<u64> {
        self.uart.deadline_ns()
    }

    fn poll(&mut self, now_ns: u64) {
        self.uart.poll(now_ns);
        self.settle();
    }
}
