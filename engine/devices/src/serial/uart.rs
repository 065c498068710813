//! The 16550A UART (National Semiconductor PC16550D datasheet), apart from where its eight registers are.
//!
//! Sending takes no time: a byte written is on the line at once, and the transmitter is empty again before the guest
//! can look. Receiving is paced by the guest: what does not fit its FIFO waits outside.

use std::collections::VecDeque;
use std::fmt;

use serde::{Deserialize, Serialize};

/// Takes what the guest sends. Called with the device locked: it must not block, and is to drop bytes rather than wait.
pub type SerialSink = Box<dyn FnMut(&[u8]) + Send>;

const FIFO_LEN: usize = 16;

const IER_RECEIVED: u8 = 0x01;
const IER_TRANSMITTER_EMPTY: u8 = 0x02;
const IER_LINE_STATUS: u8 = 0x04;
const IER_MODEM_STATUS: u8 = 0x08;

const IIR_NONE: u8 = 0x01;
const IIR_MODEM_STATUS: u8 = 0x00;
const IIR_TRANSMITTER_EMPTY: u8 = 0x02;
const IIR_RECEIVED: u8 = 0x04;
const IIR_LINE_STATUS: u8 = 0x06;
const IIR_TIMEOUT: u8 = 0x0c;
const IIR_FIFOS: u8 = 0xc0;

const FCR_ENABLE: u8 = 0x01;
const FCR_CLEAR_RECEIVER: u8 = 0x02;
const FCR_CLEAR_TRANSMITTER: u8 = 0x04;
const FCR_KEPT: u8 = 0xc9;

const LCR_BREAK: u8 = 0x40;
const LCR_DIVISOR_LATCH: u8 = 0x80;

const MCR_DTR: u8 = 0x01;
const MCR_RTS: u8 = 0x02;
const MCR_OUT1: u8 = 0x04;
const MCR_OUT2: u8 = 0x08;
const MCR_LOOPBACK: u8 = 0x10;
const MCR_WRITABLE: u8 = 0x1f;

const LSR_DATA_READY: u8 = 0x01;
const LSR_OVERRUN: u8 = 0x02;
const LSR_BREAK: u8 = 0x10;
const LSR_TRANSMITTER_EMPTY: u8 = 0x60;
const LSR_ERRORS: u8 = 0x1e;

const MSR_DELTA_CTS: u8 = 0x01;
const MSR_DELTA_DSR: u8 = 0x02;
const MSR_RING_ENDED: u8 = 0x04;
const MSR_DELTA_DCD: u8 = 0x08;
const MSR_CTS: u8 = 0x10;
const MSR_DSR: u8 = 0x20;
const MSR_RING: u8 = 0x40;
const MSR_DCD: u8 = 0x80;
/// The far end is there and ready.
const MSR_CONNECTED: u8 = MSR_CTS | MSR_DSR | MSR_DCD;

/// The crystal, divided by 16: bits per second at a divisor of 1.
const BASE_RATE: u64 = 115_200;

/// The chip.
pub struct Uart16550 {
    interrupt_enable: u8,
    fifo_control: u8,
    line_control: u8,
    modem_control: u8,
    /// Overrun and break; the other bits of the register follow from the rest.
    line_errors: u8,
    modem_status: u8,
    scratch: u8,
    divisor: u16,
    received: VecDeque<u8>,
    /// The transmitter emptied and nobody has read or written since.
    transmitter_empty_pending: bool,
    /// When the character timeout fires (virtual nanoseconds).
    timeout_at_ns: Option<u64>,
    timeout_pending: bool,
    sink: SerialSink,
}

#[derive(Serialize, Deserialize)]
pub(super) struct UartV1 {
    interrupt_enable: u8,
    fifo_control: u8,
    line_control: u8,
    modem_control: u8,
    line_errors: u8,
    modem_status: u8,
    scratch: u8,
    divisor: u16,
    received: Vec<u8>,
    transmitter_empty_pending: bool,
    timeout_at_ns: Option<u64>,
    timeout_pending: bool,
}

impl fmt::Debug for Uart16550 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Uart16550")
            .field("interrupt_enable", &self.interrupt_enable)
            .field("line_control", &self.line_control)
            .field("modem_control", &self.modem_control)
            .field("received", &self.received.len())
            .finish_non_exhaustive()
    }
}

impl Uart16550 {
    /// A chip that sends to `sink`.
    pub fn new(sink: SerialSink) -> Self {
        Self {
            interrupt_enable: 0,
            fifo_control: 0,
            line_control: 0,
            modem_control: 0,
            line_errors: 0,
            modem_status: MSR_CONNECTED,
            scratch: 0,
            divisor: 12,
            received: VecDeque::new(),
            transmitter_empty_pending: false,
            timeout_at_ns: None,
            timeout_pending: false,
            sink,
        }
    }

    /// Back to master reset. The sink stays. (The divisor and scratch registers, which the chip leaves alone, go back
    /// to 9600 bits per second and 0.)
    pub fn reset(&mut self) {
        let sink = std::mem::replace(&mut self.sink, Box::new(|_| {}));
        *self = Self::new(sink);
    }

    /// Whether the interrupt output is active. OUT2, which gates it on a PC, is not looked at here.
    pub fn interrupt(&self) -> bool {
        self.interrupt_identity() != IIR_NONE
    }

    /// Whether OUT2 lets the interrupt out. In loopback the pin is inactive.
    pub fn out2(&self) -> bool {
        self.modem_control & (MCR_OUT2 | MCR_LOOPBACK) == MCR_OUT2
    }

    fn fifos(&self) -> bool {
        self.fifo_control & FCR_ENABLE != 0
    }

    fn capacity(&self) -> usize {
        if self.fifos() { FIFO_LEN } else { 1 }
    }

    fn trigger(&self) -> usize {
        if self.fifos() { [1, 4, 8, 14][usize::from(self.fifo_control >> 6)] } else { 1 }
    }

    fn divisor_latch(&self) -> bool {
        self.line_control & LCR_DIVISOR_LATCH != 0
    }

    fn loopback(&self) -> bool {
        self.modem_control & MCR_LOOPBACK != 0
    }

    /// What IIR says, without the FIFO bits: the highest of the pending causes that are enabled.
    fn interrupt_identity(&self) -> u8 {
        let enabled = |bit: u8| self.interrupt_enable & bit != 0;
        if enabled(IER_LINE_STATUS) && self.line_errors != 0 {
            IIR_LINE_STATUS
        } else if enabled(IER_RECEIVED) && self.received.len() >= self.trigger() {
            IIR_RECEIVED
        } else if enabled(IER_RECEIVED) && self.timeout_pending && !self.received.is_empty() {
            IIR_TIMEOUT
        } else if enabled(IER_TRANSMITTER_EMPTY) && self.transmitter_empty_pending {
            IIR_TRANSMITTER_EMPTY
        } else if enabled(IER_MODEM_STATUS) && self.modem_status & 0x0f != 0 {
            IIR_MODEM_STATUS
        } else {
            IIR_NONE
        }
    }

    /// Reads register `index` (0 to 7).
    pub fn read(&mut self, index: u8, now_ns: u64) -> u8 {
        let [divisor_low, divisor_high] = self.divisor.to_le_bytes();
        match index & 7 {
            0 if self.divisor_latch() => divisor_low,
            0 => self.read_data(now_ns),
            1 if self.divisor_latch() => divisor_high,
            1 => self.interrupt_enable,
            2 => {
                let identity = self.interrupt_identity();
                if identity == IIR_TRANSMITTER_EMPTY {
                    self.transmitter_empty_pending = false;
                }
                identity | if self.fifos() { IIR_FIFOS } else { 0 }
            }
            3 => self.line_control,
            4 => self.modem_control,
            5 => {
                let ready = if self.received.is_empty() { 0 } else { LSR_DATA_READY };
                ready | std::mem::take(&mut self.line_errors) | LSR_TRANSMITTER_EMPTY
            }
            6 => {
                let status = self.modem_status;
                self.modem_status &= 0xf0;
                status
            }
            _ => self.scratch,
        }
    }

    fn read_data(&mut self, now_ns: u64) -> u8 {
        let byte = self.received.pop_front().unwrap_or(0);
        self.timeout_pending = false;
        self.arm_timeout(now_ns);
        byte
    }

    /// Writes register `index` (0 to 7).
    pub fn write(&mut self, index: u8, value: u8, now_ns: u64) {
        let [divisor_low, divisor_high] = self.divisor.to_le_bytes();
        match index & 7 {
            0 if self.divisor_latch() => self.divisor = u16::from_le_bytes([value, divisor_high]),
            0 => self.send(&[value], now_ns),
            1 if self.divisor_latch() => self.divisor = u16::from_le_bytes([divisor_low, value]),
            1 => {
                let value = value & 0x0f;
                // Enabling the interrupt while the transmitter is empty raises it (8250 drivers count on that).
                if value & !self.interrupt_enable & IER_TRANSMITTER_EMPTY != 0 {
                    self.transmitter_empty_pending = true;
                }
                self.interrupt_enable = value;
            }
            2 => self.write_fifo_control(value),
            3 => {
                let was_break = self.line_control & LCR_BREAK != 0;
                self.line_control = value;
                if self.loopback() && value & LCR_BREAK != 0 && !was_break {
                    self.take_in(0, now_ns);
                    self.line_errors |= LSR_BREAK;
                }
            }
            4 => {
                self.modem_control = value & MCR_WRITABLE;
                self.update_modem_status();
            }
            // The status registers can be written for factory tests only.
            5 | 6 => {}
            _ => self.scratch = value,
        }
    }

    /// Sends bytes, as one or many writes of the data register do. Nothing is sent while it is the divisor latch.
    pub fn send(&mut self, bytes: &[u8], now_ns: u64) {
        if bytes.is_empty() {
            return;
        }
        if self.divisor_latch() {
            for byte in bytes {
                self.divisor = u16::from_le_bytes([*byte, self.divisor.to_le_bytes()[1]]);
            }
            return;
        }
        if self.loopback() {
            for byte in bytes {
                self.take_in(*byte, now_ns);
            }
        } else {
            (self.sink)(bytes);
        }
        self.transmitter_empty_pending = true;
    }

    fn write_fifo_control(&mut self, value: u8) {
        let toggled = (value ^ self.fifo_control) & FCR_ENABLE != 0;
        // The other bits are programmed only together with the enable bit.
        self.fifo_control = if value & FCR_ENABLE != 0 { value & FCR_KEPT } else { 0 };
        if toggled || value & FCR_CLEAR_RECEIVER != 0 {
            self.received.clear();
            self.timeout_pending = false;
            self.timeout_at_ns = None;
        }
        if toggled || value & FCR_CLEAR_TRANSMITTER != 0 {
            self.transmitter_empty_pending = true;
        }
    }

    fn update_modem_status(&mut self) {
        let wired = |control: u8, status: u8| if self.modem_control & control != 0 { status } else { 0 };
        let lines = if self.loopback() {
            wired(MCR_RTS, MSR_CTS) | wired(MCR_DTR, MSR_DSR) | wired(MCR_OUT1, MSR_RING) | wired(MCR_OUT2, MSR_DCD)
        } else {
            MSR_CONNECTED
        };
        let changed = lines ^ self.modem_status;
        let delta = |line: u8, bit: u8| if changed & line != 0 { bit } else { 0 };
        let ring_ended = if changed & MSR_RING != 0 && lines & MSR_RING == 0 { MSR_RING_ENDED } else { 0 };
        self.modem_status = lines
            | self.modem_status & 0x0f
            | delta(MSR_CTS, MSR_DELTA_CTS)
            | delta(MSR_DSR, MSR_DELTA_DSR)
            | delta(MSR_DCD, MSR_DELTA_DCD)
            | ring_ended;
    }

    /// Bytes from the far end: says how many were taken. The rest is to be offered again when the guest has read.
    /// In loopback the line is disconnected and all is lost, as on the chip.
    pub fn receive(&mut self, bytes: &[u8], now_ns: u64) -> usize {
        if self.loopback() {
            return bytes.len();
        }
        let room = self.capacity().saturating_sub(self.received.len()).min(bytes.len());
        for byte in &bytes[..room] {
            self.take_in(*byte, now_ns);
        }
        room
    }

    /// How many bytes [`receive`](Self::receive) would take.
    pub fn room(&self) -> usize {
        self.capacity().saturating_sub(self.received.len())
    }

    fn take_in(&mut self, byte: u8, now_ns: u64) {
        if self.received.len() >= self.capacity() {
            self.line_errors |= LSR_OVERRUN;
            // Without FIFOs the newer byte takes the older one's place; with them the newer one is lost.
            if !self.fifos() {
                self.received.clear();
                self.received.push_back(byte);
            }
            return;
        }
        self.received.push_back(byte);
        self.arm_timeout(now_ns);
    }

    /// The character timeout: four characters' time without traffic while bytes wait below the trigger level.
    fn arm_timeout(&mut self, now_ns: u64) {
        let waits = self.fifos() && !self.received.is_empty();
        self.timeout_at_ns = waits.then(|| now_ns.saturating_add(self.character_ns().saturating_mul(4)));
    }

    /// Time of one character of ten bits. A divisor of 0 counts as 1, so that there always is one.
    fn character_ns(&self) -> u64 {
        10 * 1_000_000_000 * u64::from(self.divisor.max(1)) / BASE_RATE
    }

    /// When the character timeout is due.
    pub fn deadline_ns(&self) -> Option<u64> {
        self.timeout_at_ns
    }

    /// Time passed.
    pub fn poll(&mut self, now_ns: u64) {
        if self.timeout_at_ns.is_some_and(|at_ns| now_ns >= at_ns) {
            self.timeout_at_ns = None;
            self.timeout_pending = true;
        }
    }

    pub(super) fn save(&self) -> UartV1 {
        UartV1 {
            interrupt_enable: self.interrupt_enable,
            fifo_control: self.fifo_control,
            line_control: self.line_control,
            modem_control: self.modem_control,
            line_errors: self.line_errors,
            modem_status: self.modem_status,
            scratch: self.scratch,
            divisor: self.divisor,
            received: self.received.iter().copied().collect(),
            transmitter_empty_pending: self.transmitter_empty_pending,
            timeout_at_ns: self.timeout_at_ns,
            timeout_pending: self.timeout_pending,
        }
    }

    /// The name of the field that can not be, where there is one.
    pub(super) fn restore(&mut self, saved: UartV1) -> Result<(), &'static str> {
        let sane = |ok: bool, field: &'static str| if ok { Ok(()) } else { Err(field) };
        sane(saved.interrupt_enable & !0x0f == 0, "interrupt enable register")?;
        sane(saved.fifo_control & !FCR_KEPT == 0, "FIFO control register")?;
        sane(saved.modem_control & !MCR_WRITABLE == 0, "modem control register")?;
        sane(saved.line_errors & !LSR_ERRORS == 0, "line status register")?;
        let capacity = if saved.fifo_control & FCR_ENABLE != 0 { FIFO_LEN } else { 1 };
        sane(saved.received.len() <= capacity, "receiver FIFO")?;
        self.interrupt_enable = saved.interrupt_enable;
        self.fifo_control = saved.fifo_control;
        self.line_control = saved.line_control;
        self.modem_control = saved.modem_control;
        self.line_errors = saved.line_errors;
        self.modem_status = saved.modem_status;
        self.scratch = saved.scratch;
        self.divisor = saved.divisor;
        self.received = saved.received.into();
        self.transmitter_empty_pending = saved.transmitter_empty_pending;
        self.timeout_at_ns = saved.timeout_at_ns;
        self.timeout_pending = saved.timeout_pending;
        Ok(())
    }
}
