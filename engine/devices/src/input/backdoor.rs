//! The VMware backdoor: IN EAX, DX from port 5658h with a magic number in EAX and a command in ECX, answered in the
//! general registers. Only what a driver needs to keep time and to follow the pointer is here; there is no channel for
//! strings or files.

use serde::{Deserialize, Serialize};

use crate::{Device, RestoreError, SavedState};

use super::MouseButtons;
use super::queue::Queue;

/// The port.
pub const BACKDOOR_PORT: u16 = 0x5658;
/// What EAX must hold.
pub const BACKDOOR_MAGIC: u32 = 0x564d_5868;

const GET_VERSION: u16 = 10;
const GET_MEMORY: u16 = 20;
const ABSPOINTER_DATA: u16 = 39;
const ABSPOINTER_STATUS: u16 = 40;
const ABSPOINTER_COMMAND: u16 = 41;
const GET_HZ: u16 = 45;
const GET_VCPU_INFO: u16 = 68;
const ABSPOINTER_RESTRICT: u16 = 86;

const POINTER_ENABLE: u32 = 0x4541_4552;
const POINTER_RELATIVE: u32 = 0x4c45_5252;
const POINTER_ABSOLUTE: u32 = 0x5342_4152;
const POINTER_DISABLE: u32 = 0xf5;
/// The first word read after enabling.
const POINTER_ID: u32 = 0x3442_554a;
const POINTER_ERROR: u32 = 0xffff_0000;

/// Words per position: buttons, x, y, wheel.
const SAMPLE_WORDS: usize = 4;
const QUEUE_WORDS: usize = 1024;
/// Most words one call hands out: as many as there are registers.
const MOST_WORDS: u32 = 6;

const BUTTON_LEFT: u32 = 0x20;
const BUTTON_RIGHT: u32 = 0x10;
const BUTTON_MIDDLE: u32 = 0x08;

const VERSION_NUMBER: u32 = 6;
const PRODUCT_WORKSTATION: u32 = 4;
const UNKNOWN: u32 = u32::MAX;

/// The general registers of a call, changed in place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BackdoorCall {
    /// Magic in, result out.
    pub eax: u32,
    /// Argument.
    pub ebx: u32,
    /// The command in its low half.
    pub ecx: u32,
    /// The port in its low half.
    pub edx: u32,
    /// Result.
    pub esi: u32,
    /// Result.
    pub edi: u32,
}

/// A position of the absolute pointer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PointerSample {
    /// 0 is the left edge of the screen, FFFFh the right one.
    pub x: u16,
    /// 0 is the upper edge, FFFFh the lower one.
    pub y: u16,
    /// Notches towards the user.
    pub wheel: i8,
    /// Buttons held.
    pub buttons: MouseButtons,
}

/// The backdoor of one machine.
#[derive(Debug)]
pub struct Backdoor {
    memory_mib: u32,
    tsc_hz: u64,
    bus_hz: Option<u32>,
    enabled: bool,
    absolute: bool,
    words: Queue<u32, QUEUE_WORDS>,
    last_sample: Option<PointerSample>,
}

#[derive(Serialize, Deserialize)]
struct BackdoorV1 {
    enabled: bool,
    absolute: bool,
    words: Vec<u32>,
}

const KIND: &str = "backdoor";
const STATE_VERSION: u32 = 1;

impl Backdoor {
    /// A backdoor that tells of so much RAM, a TSC of `tsc_hz` (0 where unknown) and local APIC timers clocked at
    /// `bus_hz`, if known.
    pub fn new(memory_mib: u32, tsc_hz: u64, bus_hz: Option<u32>) -> Self {
        Self { memory_mib, tsc_hz, bus_hz, enabled: false, absolute: false, words: Queue::default(), last_sample: None }
    }

    /// Whether the guest's driver wants positions; the PS/2 mouse's motion is then to be left out.
    pub fn pointer_is_absolute(&self) -> bool {
        self.enabled && self.absolute
    }

    /// Queues a position; the oldest ones are dropped when the guest does not read. True when there is news, which is
    /// to be announced on the PS/2 mouse.
    pub fn pointer(&mut self, sample: PointerSample) -> bool {
        if !self.pointer_is_absolute() || (self.last_sample == Some(sample) && sample.wheel == 0) {
            return false;
        }
        self.last_sample = Some(sample);
        let pressed = |held: bool, bit: u32| if held { bit } else { 0 };
        let buttons = pressed(sample.buttons.left, BUTTON_LEFT)
            | pressed(sample.buttons.right, BUTTON_RIGHT)
            | pressed(sample.buttons.middle, BUTTON_MIDDLE);
        // Drops whole positions from the front; the ID word, if it is still there, goes with the first of them.
        while self.words.free() < SAMPLE_WORDS {
            let odd = self.words.len() % SAMPLE_WORDS;
            for _ in 0..SAMPLE_WORDS + odd {
                self.words.pop();
            }
        }
        self.words.push_all(&[
            buttons,
            u32::from(sample.x),
            u32::from(sample.y),
            // Only the low byte counts.
            u32::from(sample.wheel.to_le_bytes()[0]),
        ])
    }

    /// A 32-bit IN from the port.
    pub fn call(&mut self, registers: &mut BackdoorCall) {
        if registers.eax != BACKDOOR_MAGIC {
            registers.eax = UNKNOWN;
            return;
        }
        let [command_low, command_high, ..] = registers.ecx.to_le_bytes();
        match u16::from_le_bytes([command_low, command_high]) {
            GET_VERSION => {
                registers.eax = VERSION_NUMBER;
                registers.ebx = BACKDOOR_MAGIC;
                registers.ecx = PRODUCT_WORKSTATION;
            }
            GET_MEMORY => registers.eax = self.memory_mib,
            GET_HZ => {
                let [a, b, c, d, e, f, g, h] = self.tsc_hz.to_le_bytes();
                registers.eax = u32::from_le_bytes([a, b, c, d]);
                registers.ebx = if self.tsc_hz == 0 { UNKNOWN } else { u32::from_le_bytes([e, f, g, h]) };
                registers.ecx = self.bus_hz.unwrap_or(0);
            }
            // Neither the legacy x2APIC nor a TSC that can not be trusted: no bit is set.
            GET_VCPU_INFO => registers.eax = 0,
            ABSPOINTER_DATA => self.pointer_data(registers),
            ABSPOINTER_STATUS => registers.eax = self.pointer_status(),
            ABSPOINTER_COMMAND => {
                self.pointer_command(registers.ebx);
                registers.eax = 0;
            }
            // Who may read the pointer is up to the guest's I/O permissions; asking for less is harmless.
            ABSPOINTER_RESTRICT => registers.eax = 0,
            _ => registers.eax = UNKNOWN,
        }
    }

    fn pointer_status(&self) -> u32 {
        // At most 1024, so the low half holds it.
        let count = u32::try_from(self.words.len()).unwrap_or(0);
        if self.enabled { count } else { POINTER_ERROR | count }
    }

    fn pointer_command(&mut self, command: u32) {
        match command {
            POINTER_ENABLE => {
                self.stop_pointer();
                self.enabled = true;
                self.words.push_all(&[POINTER_ID]);
            }
            POINTER_ABSOLUTE => self.absolute = self.enabled,
            POINTER_RELATIVE => self.absolute = false,
            POINTER_DISABLE => self.stop_pointer(),
            _ => {}
        }
    }

    fn stop_pointer(&mut self) {
        self.enabled = false;
        self.absolute = false;
        self.words.clear();
        self.last_sample = None;
    }

    fn pointer_data(&mut self, registers: &mut BackdoorCall) {
        let count = registers.ebx;
        let available = u32::try_from(self.words.len()).unwrap_or(0);
        if count == 0 || count > MOST_WORDS || count > available {
            self.stop_pointer();
            registers.eax = POINTER_ERROR;
            return;
        }
        let BackdoorCall { eax, ebx, ecx, edx, esi, edi } = registers;
        for (register, _) in [eax, ebx, ecx, edx, esi, edi].into_iter().zip(0..count) {
            if let Some(word) = self.words.pop() {
                *register = word;
            }
        }
    }
}

impl Device for Backdoor {
    fn reset(&mut self) {
        self.stop_pointer();
    }

    fn save(&self) -> SavedState {
        let state = BackdoorV1 { enabled: self.enabled, absolute: self.absolute, words: self.words.to_saved() };
        SavedState::encode(KIND, STATE_VERSION, &state)
    }

    fn restore(&mut self, saved: &SavedState) -> Result<(), RestoreError> {
        let state: BackdoorV1 = saved.decode(KIND, STATE_VERSION)?;
        let bad = |field| RestoreError::Field { kind: KIND, field };
        if state.absolute && !state.enabled {
            return Err(bad("pointer mode"));
        }
        self.words = Queue::from_saved(state.words).ok_or(bad("pointer queue"))?;
        self.enabled = state.enabled;
        self.absolute = state.absolute;
        self.last_sample = None;
        Ok(())
    }
}
