//! A PS/2 keyboard: what it answers to its host's commands, and the scan codes it sends.

use serde::{Deserialize, Serialize};

use super::KeyCode;
use super::queue::Queue;

const ACK: u8 = 0xfa;
const RESEND: u8 = 0xfe;
const BAT_PASSED: u8 = 0xaa;
const ECHO: u8 = 0xee;

/// Default of F3h: 500 ms until a key repeats, then 10.9 times a second.
const DEFAULT_TYPEMATIC: u8 = 0x2b;

/// Set 3 key behaviour, a byte per code.
const SENDS_BREAK: u8 = 1;
const REPEATS: u8 = 2;

/// The longest sequence one event makes (Pause).
const LONGEST_SEQUENCE: usize = 8;
/// Bytes of scan codes held for the host.
pub(super) const CODES: usize = 16;
const REPLIES: usize = 16;

/// The keyboard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Keyboard {
    enabled: bool,
    set: u8,
    leds: u8,
    typematic: u8,
    /// The command whose argument comes next.
    awaiting: Option<u8>,
    replies: Queue<u8, REPLIES>,
    codes: Queue<u8, CODES>,
    /// Keys the host was told are down, oldest first. Each at most once.
    down: Vec<KeyCode>,
    /// Keys released while the queue was full: the host is still to be told.
    owed: Vec<KeyCode>,
    /// The key that repeats, and when (virtual nanoseconds).
    repeat: Option<(KeyCode, u64)>,
    set3: [u8; 256],
    last_sent: u8,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct KeyboardV1 {
    enabled: bool,
    set: u8,
    leds: u8,
    typematic: u8,
    awaiting: Option<u8>,
    replies: Vec<u8>,
    codes: Vec<u8>,
    /// Keys by their set 3 codes, which are unique.
    down: Vec<u8>,
    owed: Vec<u8>,
    repeat: Option<(u8, u64)>,
    set3: Vec<u8>,
    last_sent: u8,
}

impl Keyboard {
    pub fn new() -> Self {
        Self {
            enabled: true,
            set: 2,
            leds: 0,
            typematic: DEFAULT_TYPEMATIC,
            awaiting: None,
            replies: Queue::default(),
            codes: Queue::default(),
            down: Vec::new(),
            owed: Vec::new(),
            repeat: None,
            set3: [SENDS_BREAK | REPEATS; 256],
            last_sent: 0,
        }
    }

    /// LED bits: 1 Scroll Lock, 2 Num Lock, 4 Caps Lock.
    pub fn leds(&self) -> u8 {
        self.leds
    }

    /// Free bytes of the scan code queue.
    pub fn free(&self) -> usize {
        if self.owed.is_empty() { self.codes.free() } else { 0 }
    }

    /// Whether the host lets it send scan codes.
    pub fn enabled(&self) -> bool {
        self.enabled
    }

    fn set_defaults(&mut self) {
        self.set = 2;
        self.typematic = DEFAULT_TYPEMATIC;
        self.set3 = [SENDS_BREAK | REPEATS; 256];
        self.clear_codes();
    }

    fn clear_codes(&mut self) {
        self.codes.clear();
        self.down.clear();
        self.owed.clear();
        self.repeat = None;
    }

    fn reply(&mut self, bytes: &[u8]) {
        // A host that sends commands without reading the answers loses the newest ones.
        let _fits = self.replies.push_all(bytes);
    }

    /// A byte from the host.
    pub fn write(&mut self, value: u8) {
        if let Some(command) = self.awaiting.take()
            && self.argument(command, value)
        {
            return;
        }
        match value {
            0xff => {
                *self = Self { replies: std::mem::take(&mut self.replies), ..Self::new() };
                self.replies.clear();
                self.reply(&[ACK, BAT_PASSED]);
            }
            0xfe => {
                let last = self.last_sent;
                self.reply(&[last]);
            }
            0xf0 | 0xf3 | 0xed | 0xfb..=0xfd => {
                self.awaiting = Some(value);
                self.reply(&[ACK]);
            }
            0xf7..=0xfa => {
                let behaviour = [REPEATS, SENDS_BREAK, 0, SENDS_BREAK | REPEATS][usize::from(value - 0xf7)];
                self.set3 = [behaviour; 256];
                self.reply(&[ACK]);
            }
            0xf6 => {
                self.set_defaults();
                self.reply(&[ACK]);
            }
            0xf5 => {
                self.set_defaults();
                self.enabled = false;
                self.reply(&[ACK]);
            }
            0xf4 => {
                self.clear_codes();
                self.enabled = true;
                self.reply(&[ACK]);
            }
            0xf2 => self.reply(&[ACK, 0xab, 0x83]),
            0xee => self.reply(&[ECHO]),
            _ => self.reply(&[RESEND]),
        }
    }

    /// The argument of `command`; false when it is a command itself, which ends the other one.
    fn argument(&mut self, command: u8, value: u8) -> bool {
        match (command, value) {
            (0xf0, 0) => {
                let set = self.set;
                self.reply(&[ACK, set]);
            }
            (0xf0, 1..=3) => {
                self.set = value;
                self.clear_codes();
                self.reply(&[ACK]);
            }
            (0xf3, 0..=0x7f) => {
                self.typematic = value;
                self.reply(&[ACK]);
            }
            (0xed, 0..=7) => {
                self.leds = value;
                self.reply(&[ACK]);
            }
            (0xfb..=0xfd, 0x01..=0xec) => {
                self.set3[usize::from(value)] = [REPEATS, SENDS_BREAK, 0][usize::from(command - 0xfb)];
                // These take a list of keys, ended by the next command.
                self.awaiting = Some(command);
                self.reply(&[ACK]);
            }
            (_, 0xed..) => return false,
            _ => self.reply(&[RESEND]),
        }
        true
    }

    /// A key went down or up. A key that is down already repeats by itself, so being told again changes nothing. False
    /// when the key could not be queued: a press is then lost, a release is made good when there is room.
    pub fn key(&mut self, key: KeyCode, pressed: bool, now_ns: u64) -> bool {
        if !self.enabled {
            return true;
        }
        if pressed {
            if self.down.contains(&key) {
                return true;
            }
            let queued = self.owed.is_empty() && self.codes.push_all(&self.make(key));
            if queued {
                self.down.push(key);
                let delay_ns = (u64::from(self.typematic >> 5 & 3) + 1) * 250_000_000;
                self.repeat = self.repeats(key).then(|| (key, now_ns.saturating_add(delay_ns)));
            }
            return queued;
        }
        let Some(position) = self.down.iter().position(|down| *down == key) else { return true };
        let sequence = self.release(key);
        self.down.remove(position);
        if self.repeat.is_some_and(|(repeating, _)| repeating == key) {
            self.repeat = None;
        }
        let queued = self.owed.is_empty() && self.codes.push_all(&sequence);
        if !queued {
            self.owed.push(key);
        }
        queued
    }

    /// Takes the next byte for the host: answers before scan codes.
    pub fn next_byte(&mut self) -> Option<u8> {
        let byte = self.replies.pop().or_else(|| self.codes.pop())?;
        while let Some(key) = self.owed.first() {
            if self.codes.free() < LONGEST_SEQUENCE {
                break;
            }
            let sequence = self.release(*key);
            self.codes.push_all(&sequence);
            self.owed.remove(0);
        }
        self.last_sent = byte;
        Some(byte)
    }

    fn repeats(&self, key: KeyCode) -> bool {
        key != KeyCode::Pause && (self.set != 3 || self.set3[usize::from(key.codes().set3)] & REPEATS != 0)
    }

    /// When the held key repeats next.
    pub fn deadline_ns(&self) -> Option<u64> {
        self.repeat.map(|(_, deadline_ns)| deadline_ns)
    }

    /// Repeats the held key if it is time. While the host has not read what is there, nothing is added to it.
    pub fn poll(&mut self, now_ns: u64) {
        let Some((key, deadline_ns)) = self.repeat else { return };
        if now_ns < deadline_ns {
            return;
        }
        // Period = (8 + A) * 2^B * 4.17 ms (F3h: A is bits 2-0, B bits 4-3).
        let period_ns = ((8 + u64::from(self.typematic & 7)) << (self.typematic >> 3 & 3)) * 4_170_000;
        self.repeat = Some((key, now_ns.saturating_add(period_ns)));
        if self.codes.is_empty() {
            let sequence = self.repeated_make(key);
            self.codes.push_all(&sequence);
        }
    }

    fn is_down(&self, keys: &[KeyCode]) -> bool {
        keys.iter().any(|key| self.down.contains(key))
    }

    fn make(&self, key: KeyCode) -> Vec<u8> {
        let control = self.is_down(&[KeyCode::ControlLeft, KeyCode::ControlRight]);
        let shift = self.is_down(&[KeyCode::ShiftLeft, KeyCode::ShiftRight]);
        let alt = self.is_down(&[KeyCode::AltLeft, KeyCode::AltRight]);
        match (key, self.set) {
            (KeyCode::Pause, 1) if control => vec![0xe0, 0x46, 0xe0, 0xc6],
            (KeyCode::Pause, 2) if control => vec![0xe0, 0x7e, 0xe0, 0xf0, 0x7e],
            (KeyCode::Pause, 1) => vec![0xe1, 0x1d, 0x45, 0xe1, 0x9d, 0xc5],
            (KeyCode::Pause, 2) => vec![0xe1, 0x14, 0x77, 0xe1, 0xf0, 0x14, 0xf0, 0x77],
            // With Alt it is the SysRq key, with Shift or Control it leaves out the shift it else pretends.
            (KeyCode::PrintScreen, 1) if alt => vec![0x54],
            (KeyCode::PrintScreen, 2) if alt => vec![0x84],
            (KeyCode::PrintScreen, 1) if !shift && !control => vec![0xe0, 0x2a, 0xe0, 0x37],
            (KeyCode::PrintScreen, 2) if !shift && !control => vec![0xe0, 0x12, 0xe0, 0x7c],
            _ => self.repeated_make(key),
        }
    }

    fn repeated_make(&self, key: KeyCode) -> Vec<u8> {
        let codes = key.codes();
        match self.set {
            1 if codes.extended => vec![0xe0, codes.set1],
            1 => vec![codes.set1],
            3 => vec![codes.set3],
            _ if codes.extended => vec![0xe0, codes.set2],
            _ => vec![codes.set2],
        }
    }

    fn release(&self, key: KeyCode) -> Vec<u8> {
        let codes = key.codes();
        let control = self.is_down(&[KeyCode::ControlLeft, KeyCode::ControlRight]);
        let shift = self.is_down(&[KeyCode::ShiftLeft, KeyCode::ShiftRight]);
        let alt = self.is_down(&[KeyCode::AltLeft, KeyCode::AltRight]);
        match (key, self.set) {
            (KeyCode::Pause, 1 | 2) => Vec::new(),
            (KeyCode::PrintScreen, 1) if alt => vec![0xd4],
            (KeyCode::PrintScreen, 2) if alt => vec![0xf0, 0x84],
            (KeyCode::PrintScreen, 1) if !shift && !control => vec![0xe0, 0xb7, 0xe0, 0xaa],
            (KeyCode::PrintScreen, 2) if !shift && !control => vec![0xe0, 0xf0, 0x7c, 0xe0, 0xf0, 0x12],
            (_, 3) if self.set3[usize::from(codes.set3)] & SENDS_BREAK == 0 => Vec::new(),
            (_, 3) => vec![0xf0, codes.set3],
            (_, 1) if codes.extended => vec![0xe0, codes.set1 | 0x80],
            (_, 1) => vec![codes.set1 | 0x80],
            _ if codes.extended => vec![0xe0, 0xf0, codes.set2],
            _ => vec![0xf0, codes.set2],
        }
    }

    pub fn save(&self) -> KeyboardV1 {
        let Self { enabled, set, leds, typematic, awaiting, replies, codes, down, owed, repeat, set3, last_sent } =
            self;
        let ids = |keys: &[KeyCode]| keys.iter().map(|key| key.codes().set3).collect();
        KeyboardV1 {
            enabled: *enabled,
            set: *set,
            leds: *leds,
            typematic: *typematic,
            awaiting: *awaiting,
            replies: replies.to_saved(),
            codes: codes.to_saved(),
            down: ids(down),
            owed: ids(owed),
            repeat: repeat.map(|(key, deadline_ns)| (key.codes().set3, deadline_ns)),
            set3: set3.to_vec(),
            last_sent: *last_sent,
        }
    }

    /// The name of the field that can not be, where there is one.
    pub fn restore(saved: KeyboardV1) -> Result<Self, &'static str> {
        let down = keys(&saved.down).ok_or("keyboard keys down")?;
        let repeat = match saved.repeat {
            Some((id, deadline_ns)) => {
                let key = key_of(id).filter(|key| down.contains(key)).ok_or("keyboard repeat")?;
                Some((key, deadline_ns))
            }
            None => None,
        };
        if !(1..=3).contains(&saved.set) {
            return Err("keyboard scan code set");
        }
        if !matches!(saved.awaiting, None | Some(0xed | 0xf0 | 0xf3 | 0xfb..=0xfd)) {
            return Err("keyboard command");
        }
        Ok(Self {
            enabled: saved.enabled,
            set: saved.set,
            leds: saved.leds & 7,
            typematic: saved.typematic & 0x7f,
            awaiting: saved.awaiting,
            replies: Queue::from_saved(saved.replies).ok_or("keyboard replies")?,
            codes: Queue::from_saved(saved.codes).ok_or("keyboard scan codes")?,
            down,
            owed: keys(&saved.owed).ok_or("keyboard keys released")?,
            repeat,
            set3: saved.set3.try_into().ok().ok_or("keyboard key types")?,
            last_sent: saved.last_sent,
        })
    }
}

fn key_of(set3: u8) -> Option<KeyCode> {
    KeyCode::ALL.iter().copied().find(|key| key.codes().set3 == set3)
}

/// Keys by their set 3 codes; none unknown, and no more than there are.
fn keys(ids: &[u8]) -> Option<Vec<KeyCode>> {
    (ids.len() <= KeyCode::ALL.len()).then(|| ids.iter().map(|id| key_of(*id)).collect())?
}
