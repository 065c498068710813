//! The 8042 keyboard controller (IBM PS/2 technical reference, keyboard and auxiliary device controller).
//!
//! There is one output buffer for everybody. It is filled with the controller's own answers first, then the keyboard's
//! bytes, then the mouse's, and only while it is empty, except that an answer of the controller goes ahead of a device's
//! byte not yet read, which is kept and comes after it. A disabled port holds its bytes in the device.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::chipset::SystemControl;
use crate::{Device, Poll, PortIo, PortRange, RestoreError, SavedState, VirtualClock, Wire};

use super::keyboard::{Keyboard, KeyboardV1};
use super::keycode::translate;
use super::mouse::{Mouse, MouseV1};
use super::{KeyCode, MouseButtons};

/// Its ports: data and, four further on, status and command.
pub const KEYBOARD_PORTS: [PortRange; 2] = [PortRange { first: 0x60, count: 1 }, PortRange { first: 0x64, count: 1 }];

const DATA: u16 = 0x60;
const COMMAND: u16 = 0x64;

/// Status: output buffer full.
const STATUS_OUTPUT_FULL: u8 = 0x01;
/// Status: the self-test was passed (follows the command byte).
const STATUS_SYSTEM: u8 = 0x04;
/// Status: the last write was a command.
const STATUS_COMMAND: u8 = 0x08;
/// Status: the keyboard lock is open.
const STATUS_UNLOCKED: u8 = 0x10;
/// Status: the output buffer holds a byte of the auxiliary device.
const STATUS_AUX: u8 = 0x20;

/// Command byte: IRQ 1 on keyboard bytes.
const CTR_KEYBOARD_IRQ: u8 = 0x01;
/// Command byte: IRQ 12 on auxiliary bytes.
const CTR_AUX_IRQ: u8 = 0x02;
/// Command byte: shown as the system flag.
const CTR_SYSTEM: u8 = 0x04;
/// Command byte: keyboard port off.
const CTR_KEYBOARD_OFF: u8 = 0x10;
/// Command byte: auxiliary port off.
const CTR_AUX_OFF: u8 = 0x20;
/// Command byte: set 2 is translated to set 1.
const CTR_TRANSLATE: u8 = 0x40;
/// As firmware leaves it, for a kernel that is started without one.
const CTR_INITIAL: u8 = CTR_KEYBOARD_IRQ | CTR_AUX_IRQ | CTR_SYSTEM | CTR_TRANSLATE;

const BREAK_PREFIX: u8 = 0xf0;

/// What the next write to the data port is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Expecting {
    KeyboardData,
    Ram(u8),
    OutputPort,
    KeyboardOutput,
    AuxOutput,
    AuxData,
}

/// A byte in the output buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Output {
    value: u8,
    aux: bool,
    from_device: bool,
}

/// The controller with a keyboard and a mouse.
pub struct I8042 {
    ram: [u8; 32],
    expecting: Expecting,
    last_was_command: bool,
    output: Option<Output>,
    /// A device's byte that an answer went ahead of.
    displaced: Option<Output>,
    last_output: u8,
    /// The keyboard's last byte was the break prefix, which the translation swallows.
    break_pending: bool,
    keyboard: Keyboard,
    mouse: Mouse,
    keyboard_irq: Wire,
    aux_irq: Wire,
    system: Arc<dyn SystemControl>,
    clock: VirtualClock,
}

#[derive(Serialize, Deserialize)]
struct I8042V1 {
    ram: [u8; 32],
    expecting: Expecting,
    last_was_command: bool,
    output: Option<Output>,
    displaced: Option<Output>,
    last_output: u8,
    break_pending: bool,
    keyboard: KeyboardV1,
    mouse: MouseV1,
}

const KIND: &str = "i8042";
const VERSION: u32 = 1;

impl fmt::Debug for I8042 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("I8042")
            .field("command_byte", &self.ram[0])
            .field("output", &self.output)
            .field("keyboard", &self.keyboard)
            .field("mouse", &self.mouse)
            .finish_non_exhaustive()
    }
}

impl I8042 {
    /// A controller that drives IRQ 1 and IRQ 12 by these wires and asks `system` for resets.
    pub fn new(keyboard_irq: Wire, aux_irq: Wire, system: Arc<dyn SystemControl>, clock: VirtualClock) -> Self {
        let mut ram = [0; 32];
        ram[0] = CTR_INITIAL;
        Self {
            ram,
            expecting: Expecting::KeyboardData,
            last_was_command: false,
            output: None,
            displaced: None,
            last_output: 0,
            break_pending: false,
            keyboard: Keyboard::new(),
            mouse: Mouse::new(),
            keyboard_irq,
            aux_irq,
            system,
            clock,
        }
    }

    /// Presses or lets go of a key. A key held repeats by itself; telling again that it is down changes nothing. False
    /// when the keyboard's queue has no room: a press is then lost, a release is made good later.
    pub fn key(&mut self, key: KeyCode, pressed: bool) -> bool {
        let queued = self.keyboard.key(key, pressed, self.clock.now_ns());
        self.refill();
        queued
    }

    /// How many more bytes of scan codes the keyboard takes, for whoever types at it; 16 when it has none. A letter with
    /// Shift takes 6 of them, Ctrl-Alt-Del 11, Print Screen 10. 0 while the guest has the keyboard turned off, when keys
    /// would go nowhere.
    pub fn keyboard_ready(&self) -> usize {
        if self.ctr() & CTR_KEYBOARD_OFF == 0 && self.keyboard.enabled() { self.keyboard.free() } else { 0 }
    }

    /// Whether the guest has taken everything the keyboard sent.
    pub fn keyboard_drained(&self) -> bool {
        self.keyboard.free() == super::keyboard::CODES && self.output.is_none_or(|output| output.aux)
    }

    /// Keyboard lights: 1 Scroll Lock, 2 Num Lock, 4 Caps Lock.
    pub fn leds(&self) -> u8 {
        self.keyboard.leds()
    }

    /// Moves the mouse (right, down) and turns its wheel (notches towards the user).
    pub fn mouse_motion(&mut self, right: i32, down: i32, wheel: i32) {
        self.mouse.moved(right, down, wheel);
        self.refill();
    }

    /// These mouse buttons are held now.
    pub fn mouse_buttons(&mut self, buttons: MouseButtons) {
        self.mouse.set_buttons(buttons);
        self.refill();
    }

    /// Sends a mouse packet without motion or change: the guest's driver then looks at the
    /// [absolute pointer](super::Backdoor).
    pub fn announce_pointer(&mut self) {
        self.mouse.announce();
        self.refill();
    }

    fn ctr(&self) -> u8 {
        self.ram[0]
    }

    /// Fills the output buffer if it is empty and somebody has a byte.
    fn refill(&mut self) {
        if self.output.is_none() {
            self.output = self.displaced.take().or_else(|| self.keyboard_byte()).or_else(|| self.mouse_byte());
        }
        self.drive_wires();
    }

    fn keyboard_byte(&mut self) -> Option<Output> {
        if self.ctr() & CTR_KEYBOARD_OFF != 0 {
            return None;
        }
        let output = |value| Some(Output { value, aux: false, from_device: true });
        // At most one prefix is swallowed per byte that comes out, so this ends with the keyboard's queue.
        while let Some(byte) = self.keyboard.next_byte() {
            if self.ctr() & CTR_TRANSLATE == 0 {
                self.break_pending = false;
                return output(byte);
            }
            if byte == BREAK_PREFIX {
                self.break_pending = true;
                continue;
            }
            let release = if std::mem::take(&mut self.break_pending) { 0x80 } else { 0 };
            return output(translate(byte) | release);
        }
        None
    }

    fn mouse_byte(&mut self) -> Option<Output> {
        if self.ctr() & CTR_AUX_OFF != 0 {
            return None;
        }
        let value = self.mouse.next_byte()?;
        Some(Output { value, aux: true, from_device: true })
    }

    fn drive_wires(&self) {
        let is_full = |aux| self.output.is_some_and(|output| output.aux == aux);
        self.keyboard_irq.set(is_full(false) && self.ctr() & CTR_KEYBOARD_IRQ != 0);
        self.aux_irq.set(is_full(true) && self.ctr() & CTR_AUX_IRQ != 0);
    }

    fn lower_wires(&self) {
        self.keyboard_irq.set(false);
        self.aux_irq.set(false);
    }

    /// Puts an answer of the controller into the output buffer.
    fn answer(&mut self, value: u8, aux: bool) {
        if let Some(output) = self.output.take()
            && output.from_device
        {
            self.displaced = Some(output);
        }
        // Each byte is an edge of its own.
        self.lower_wires();
        self.output = Some(Output { value, aux, from_device: false });
        self.drive_wires();
    }

    fn status(&self) -> u8 {
        let output = match self.output {
            Some(Output { aux: true, .. }) => STATUS_OUTPUT_FULL | STATUS_AUX,
            Some(_) => STATUS_OUTPUT_FULL,
            None => 0,
        };
        let system = if self.ctr() & CTR_SYSTEM != 0 { STATUS_SYSTEM } else { 0 };
        output | system | if self.last_was_command { STATUS_COMMAND } else { 0 } | STATUS_UNLOCKED
    }

    fn read_data(&mut self) -> u8 {
        if let Some(output) = self.output.take() {
            self.last_output = output.value;
            self.lower_wires();
            self.refill();
        }
        self.last_output
    }

    fn write_data(&mut self, value: u8) {
        self.last_was_command = false;
        match std::mem::replace(&mut self.expecting, Expecting::KeyboardData) {
            Expecting::KeyboardData => {
                // Sending to a device turns its port on.
                self.ram[0] &= !CTR_KEYBOARD_OFF;
                self.keyboard.write(value);
            }
            Expecting::AuxData => {
                self.ram[0] &= !CTR_AUX_OFF;
                self.mouse.write(value);
            }
            Expecting::Ram(index) => self.ram[usize::from(index & 0x1f)] = value,
            Expecting::OutputPort => {
                self.system.set_a20(value & 2 != 0);
                if value & 1 == 0 {
                    self.system.request_reset();
                }
            }
            Expecting::KeyboardOutput => self.answer(value, false),
            Expecting::AuxOutput => self.answer(value, true),
        }
        self.refill();
    }

    fn output_port(&self) -> u8 {
        let is_full = |aux| self.output.is_some_and(|output| output.aux == aux);
        0xc1 | u8::from(self.system.a20()) << 1 | u8::from(is_full(false)) << 4 | u8::from(is_full(true)) << 5
    }

    fn write_command(&mut self, command: u8) {
        self.last_was_command = true;
        self.expecting = Expecting::KeyboardData;
        match command {
            0x20..=0x3f => self.answer(self.ram[usize::from(command & 0x1f)], false),
            0x60..=0x7f => self.expecting = Expecting::Ram(command & 0x1f),
            // No password is installed.
            0xa4 => self.answer(0xf1, false),
            0xa7 => self.ram[0] |= CTR_AUX_OFF,
            0xa8 => self.ram[0] &= !CTR_AUX_OFF,
            0xa9 | 0xab => self.answer(0x00, false),
            0xaa => {
                self.ram[0] |= CTR_SYSTEM;
                self.answer(0x55, false);
            }
            0xad => self.ram[0] |= CTR_KEYBOARD_OFF,
            0xae => self.ram[0] &= !CTR_KEYBOARD_OFF,
            // Input port: the lock is open, nothing else is connected.
            0xc0 => self.answer(0x80, false),
            0xd0 => self.answer(self.output_port(), false),
            0xd1 => self.expecting = Expecting::OutputPort,
            0xd2 => self.expecting = Expecting::KeyboardOutput,
            0xd3 => self.expecting = Expecting::AuxOutput,
            0xd4 => self.expecting = Expecting::AuxData,
            0xdd | 0xdf => self.system.set_a20(command == 0xdf),
            0xf0..=0xff if command & 1 == 0 => self.system.request_reset(),
            _ => {}
        }
        self.refill();
    }
}

impl Device for I8042 {
    fn reset(&mut self) {
        let new = Self::new(self.keyboard_irq.clone(), self.aux_irq.clone(), self.system.clone(), self.clock.clone());
        *self = new;
        self.lower_wires();
    }

    fn save(&self) -> SavedState {
        let state = I8042V1 {
            ram: self.ram,
            expecting: self.expecting,
            last_was_command: self.last_was_command,
            output: self.output,
            displaced: self.displaced,
            last_output: self.last_output,
            break_pending: self.break_pending,
            keyboard: self.keyboard.save(),
            mouse: self.mouse.save(),
        };
        SavedState::encode(KIND, VERSION, &state)
    }

    fn restore(&mut self, saved: &SavedState) -> Result<(), RestoreError> {
        let state: I8042V1 = saved.decode(KIND, VERSION)?;
        let bad = |field| RestoreError::Field { kind: KIND, field };
        let keyboard = Keyboard::restore(state.keyboard).map_err(bad)?;
        let mouse = Mouse::restore(state.mouse).map_err(bad)?;
        if matches!(state.expecting, Expecting::Ram(index) if index >= 32) {
            return Err(bad("expected data"));
        }
        if state.displaced.is_some_and(|displaced| !displaced.from_device) {
            return Err(bad("displaced byte"));
        }
        self.keyboard = keyboard;
        self.mouse = mouse;
        self.ram = state.ram;
        self.expecting = state.expecting;
        self.last_was_command = state.last_was_command;
        self.output = state.output;
        self.displaced = state.displaced;
        self.last_output = state.last_output;
        self.break_pending = state.break_pending;
        self.drive_wires();
        Ok(())
    }

    fn port_io(&mut self) -> Option<&mut dyn PortIo> {
        Some(self)
    }

    fn poll(&mut self) -> Option<&mut dyn Poll> {
        Some(self)
    }
}

impl PortIo for I8042 {
    fn port_read(&mut self, port: u16, data: &mut [u8]) {
        for (port, byte) in (port..=u16::MAX).zip(data) {
            match port {
                DATA => *byte = self.read_data(),
                COMMAND => *byte = self.status(),
                _ => {}
            }
        }
    }

    fn port_write(&mut self, port: u16, data: &[u8]) {
        for (port, byte) in (port..=u16::MAX).zip(data) {
            match port {
                DATA => self.write_data(*byte),
                COMMAND => self.write_command(*byte),
                _ => {}
            }
        }
    }
}

impl Poll for I8042 {
    fn deadline_ns(&self) -> Option<u64> {
        self.keyboard.deadline_ns()
    }

    fn poll(&mut self, now_ns: u64) {
        self.keyboard.poll(now_ns);
        self.refill();
    }
}
