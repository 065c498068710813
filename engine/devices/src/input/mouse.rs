//! A PS/2 mouse with the wheel (IntelliMouse) and five-button (Explorer) extensions.

use serde::{Deserialize, Serialize};

use super::queue::Queue;

const ACK: u8 = 0xfa;
const RESEND: u8 = 0xfe;
const BAT_PASSED: u8 = 0xaa;

const REPLIES: usize = 16;
const PACKETS: usize = 256;

const DEFAULT_RESOLUTION: u8 = 2;
const DEFAULT_RATE: u8 = 100;

/// Device IDs: plain, with a wheel, with a wheel and five buttons.
const ID_PLAIN: u8 = 0;
const ID_WHEEL: u8 = 3;
const ID_EXPLORER: u8 = 4;

/// Motion gathered while nobody reads is kept up to this much.
const MOST_MOTION: i32 = 8192;

/// Buttons held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub struct MouseButtons {
    pub left: bool,
    pub right: bool,
    pub middle: bool,
    pub side: bool,
    pub extra: bool,
}

impl MouseButtons {
    /// Bits as a packet has them: 1 left, 2 right, 4 middle, 8 side, 10h extra.
    fn bits(self) -> u8 {
        u8::from(self.left)
            | u8::from(self.right) << 1
            | u8::from(self.middle) << 2
            | u8::from(self.side) << 3
            | u8::from(self.extra) << 4
    }
}

/// The mouse.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mouse {
    id: u8,
    reporting: bool,
    remote: bool,
    wrap: bool,
    scaling: bool,
    resolution: u8,
    rate: u8,
    /// The last three sample rates set: the knock that turns extensions on.
    rates: [u8; 3],
    awaiting: Option<u8>,
    replies: Queue<u8, REPLIES>,
    packets: Queue<u8, PACKETS>,
    buttons: u8,
    /// A button changed that no packet has told of.
    report_due: bool,
    /// Motion not yet told: right, up, wheel towards the user.
    motion: [i32; 3],
    last_sent: u8,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct MouseV1 {
    id: u8,
    reporting: bool,
    remote: bool,
    wrap: bool,
    scaling: bool,
    resolution: u8,
    rate: u8,
    rates: [u8; 3],
    awaiting: Option<u8>,
    replies: Vec<u8>,
    packets: Vec<u8>,
    buttons: u8,
    report_due: bool,
    motion: [i32; 3],
    last_sent: u8,
}

impl Mouse {
    pub fn new() -> Self {
        Self {
            id: ID_PLAIN,
            reporting: false,
            remote: false,
            wrap: false,
            scaling: false,
            resolution: DEFAULT_RESOLUTION,
            rate: DEFAULT_RATE,
            rates: [0; 3],
            awaiting: None,
            replies: Queue::default(),
            packets: Queue::default(),
            buttons: 0,
            report_due: false,
            motion: [0; 3],
            last_sent: 0,
        }
    }

    fn set_defaults(&mut self) {
        self.reporting = false;
        self.remote = false;
        self.scaling = false;
        self.resolution = DEFAULT_RESOLUTION;
        self.rate = DEFAULT_RATE;
        self.motion = [0; 3];
        self.report_due = false;
    }

    fn reply(&mut self, bytes: &[u8]) {
        // A host that sends commands without reading the answers loses the newest ones.
        let _fits = self.replies.push_all(bytes);
    }

    /// A byte from the host.
    pub fn write(&mut self, value: u8) {
        // A command ends the packet on its way; what it said about buttons is said again.
        self.report_due |= !self.packets.is_empty();
        self.packets.clear();
        if self.wrap && !matches!(value, 0xec | 0xff) {
            self.reply(&[value]);
            return;
        }
        if let Some(command) = self.awaiting.take() {
            self.argument(command, value);
            return;
        }
        match value {
            0xff => {
                *self = Self { buttons: self.buttons, ..Self::new() };
                self.reply(&[ACK, BAT_PASSED, ID_PLAIN]);
            }
            0xfe => {
                let last = self.last_sent;
                self.reply(&[last]);
            }
            0xf6 => {
                self.set_defaults();
                self.reply(&[ACK]);
            }
            0xf4 | 0xf5 => {
                self.reporting = value == 0xf4;
                self.motion = [0; 3];
                self.report_due = false;
                self.reply(&[ACK]);
            }
            0xf3 | 0xe8 => {
                self.awaiting = Some(value);
                self.reply(&[ACK]);
            }
            0xf2 => {
                let id = self.id;
                self.reply(&[ACK, id]);
            }
            0xf0 | 0xea => {
                self.remote = value == 0xf0;
                self.motion = [0; 3];
                self.reply(&[ACK]);
            }
            0xee | 0xec => {
                self.wrap = value == 0xee;
                self.reply(&[ACK]);
            }
            0xeb => {
                self.reply(&[ACK]);
                let (packet, len) = self.take_packet();
                self.reply(&packet[..len]);
            }
            0xe9 => {
                let buttons = (self.buttons & 1) << 2 | (self.buttons & 4) >> 1 | (self.buttons & 2) >> 1;
                let status =
                    u8::from(self.remote) << 6 | u8::from(self.reporting) << 5 | u8::from(self.scaling) << 4 | buttons;
                let (resolution, rate) = (self.resolution, self.rate);
                self.reply(&[ACK, status, resolution, rate]);
            }
            0xe6 | 0xe7 => {
                self.scaling = value == 0xe7;
                self.reply(&[ACK]);
            }
            _ => self.reply(&[RESEND]),
        }
    }

    fn argument(&mut self, command: u8, value: u8) {
        if command == 0xe8 {
            if value > 3 {
                self.reply(&[RESEND]);
                return;
            }
            self.resolution = value;
        } else {
            self.rate = value;
            self.rates = [self.rates[1], self.rates[2], value];
            match self.rates {
                [200, 100, 80] => self.id = ID_WHEEL,
                [200, 200, 80] => self.id = ID_EXPLORER,
                _ => {}
            }
        }
        self.reply(&[ACK]);
    }

    /// The pointer moved by so much (right, down) and the wheel by so many notches (towards the user).
    pub fn moved(&mut self, right: i32, down: i32, wheel: i32) {
        let deltas = [right, down.saturating_neg(), wheel];
        for (motion, delta) in self.motion.iter_mut().zip(deltas) {
            *motion = motion.saturating_add(delta).clamp(-MOST_MOTION, MOST_MOTION);
        }
    }

    /// These buttons are held now. Every change makes a packet of its own while there is room, so that a click is not
    /// lost between two reads.
    pub fn set_buttons(&mut self, buttons: MouseButtons) {
        if self.buttons == buttons.bits() {
            return;
        }
        if self.report_due && self.streaming() {
            self.queue_packet();
        }
        self.buttons = buttons.bits();
        self.report_due = true;
        if self.streaming() {
            self.queue_packet();
        }
    }

    /// Sends a packet that says nothing new, if none is on its way: it makes the guest's driver look elsewhere.
    pub fn announce(&mut self) {
        if self.packets.is_empty() {
            self.report_due = true;
        }
    }

    fn streaming(&self) -> bool {
        self.reporting && !self.remote && !self.wrap
    }

    fn queue_packet(&mut self) {
        if self.packets.free() >= 4 {
            let (packet, len) = self.take_packet();
            self.packets.push_all(&packet[..len]);
        }
    }

    /// The next packet, taking as much of the motion as it can say.
    fn take_packet(&mut self) -> ([u8; 4], usize) {
        let mut take = |axis: usize, least: i32, most: i32| {
            let taken = self.motion[axis].clamp(least, most);
            self.motion[axis] -= taken;
            taken
        };
        let mut right = take(0, -256, 255);
        let mut up = take(1, -256, 255);
        let wheel = take(2, -8, 7);
        if self.scaling && !self.remote {
            (right, up) = (scaled(right), scaled(up));
        }
        if self.id == ID_PLAIN {
            self.motion[2] = 0;
        }
        self.report_due = false;
        let first = self.buttons & 7 | 8 | u8::from(right < 0) << 4 | u8::from(up < 0) << 5;
        let fourth = match self.id {
            ID_EXPLORER => low_byte(wheel) & 0x0f | (self.buttons & 0x18) << 1,
            _ => low_byte(wheel),
        };
        ([first, low_byte(right), low_byte(up), fourth], if self.id == ID_PLAIN { 3 } else { 4 })
    }

    /// Takes the next byte for the host.
    pub fn next_byte(&mut self) -> Option<u8> {
        let byte = match self.replies.pop() {
            Some(reply) => reply,
            None => {
                let wheel_counts = self.id != ID_PLAIN;
                let moved = self.motion[0] != 0 || self.motion[1] != 0 || (wheel_counts && self.motion[2] != 0);
                if self.packets.is_empty() && self.streaming() && (moved || self.report_due) {
                    self.queue_packet();
                }
                self.packets.pop()?
            }
        };
        self.last_sent = byte;
        Some(byte)
    }

    pub fn save(&self) -> MouseV1 {
        let Self {
            id,
            reporting,
            remote,
            wrap,
            scaling,
            resolution,
            rate,
            rates,
            awaiting,
            replies,
            packets,
            buttons,
            report_due,
            motion,
            last_sent,
        } = self;
        MouseV1 {
            id: *id,
            reporting: *reporting,
            remote: *remote,
            wrap: *wrap,
            scaling: *scaling,
            resolution: *resolution,
            rate: *rate,
            rates: *rates,
            awaiting: *awaiting,
            replies: replies.to_saved(),
            packets: packets.to_saved(),
            buttons: *buttons,
            report_due: *report_due,
            motion: *motion,
            last_sent: *last_sent,
        }
    }

    /// The name of the field that can not be, where there is one.
    pub fn restore(saved: MouseV1) -> Result<Self, &'static str> {
        if !matches!(saved.id, ID_PLAIN | ID_WHEEL | ID_EXPLORER) {
            return Err("mouse ID");
        }
        if !matches!(saved.awaiting, None | Some(0xf3 | 0xe8)) {
            return Err("mouse command");
        }
        if saved.motion.iter().any(|motion| motion.checked_abs().is_none_or(|motion| motion > MOST_MOTION)) {
            return Err("mouse motion");
        }
        Ok(Self {
            id: saved.id,
            reporting: saved.reporting,
            remote: saved.remote,
            wrap: saved.wrap,
            scaling: saved.scaling,
            resolution: saved.resolution,
            rate: saved.rate,
            rates: saved.rates,
            awaiting: saved.awaiting,
            replies: Queue::from_saved(saved.replies).ok_or("mouse replies")?,
            packets: Queue::from_saved(saved.packets).ok_or("mouse packets")?,
            buttons: saved.buttons & 0x1f,
            report_due: saved.report_due,
            motion: saved.motion,
            last_sent: saved.last_sent,
        })
    }
}

/// The 2:1 scaling of stream mode (E7h).
fn scaled(delta: i32) -> i32 {
    let magnitude = match delta.abs() {
        small @ 0..=1 => small,
        2 => 1,
        3 => 3,
        4 => 6,
        5 => 9,
        large => (large * 2).min(255),
    };
    magnitude * delta.signum()
}

fn low_byte(value: i32) -> u8 {
    value.to_le_bytes()[0]
}
