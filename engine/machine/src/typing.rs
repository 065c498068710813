//! Keys and serial input at a pace the guest keeps up with.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use benchtop_devices::input::keymap::{self, KeyEvent};

use crate::MachineError;
use crate::board::Board;

/// Between two characters: a person's pace at its fastest.
const BETWEEN_CHARACTERS: Duration = Duration::from_millis(20);
/// How long a guest that reads nothing is waited for by those who can not wait longer.
const PATIENCE: Duration = Duration::from_secs(5);
/// What the firmware's buffer holds; it drops what comes after.
const FIRMWARE_KEYS: usize = 15;
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// A text on its way into the guest, a character at a time, each when the guest has taken the one before: from the
/// controller, and from the firmware's buffer while that empties, else as long as that has room. Nothing is lost on the way, however
/// long the guest looks away.
#[derive(Debug)]
pub struct Typing {
    characters: VecDeque<Vec<KeyEvent>>,
    typed: usize,
    /// When the last character was pressed, or the text was begun.
    since: Instant,
    patience: Duration,
    /// The firmware's buffer was empty when last waited for. One that does not empty may belong to a guest that does
    /// without firmware; from then on it need only have room.
    empties: bool,
}

impl Typing {
    /// Will type `text` on a US keyboard; `patience` is how long the guest may look away from one character.
    ///
    /// # Errors
    /// [`MachineError::NoKey`].
    pub fn new(text: &str, patience: Duration) -> Result<Self, MachineError> {
        let characters = keymap::type_text(text).map_err(|error| MachineError::NoKey(error.to_string()))?.into();
        Ok(Self { characters, typed: 0, since: Instant::now(), patience, empties: true })
    }

    /// Presses the next character if it is time. True once all are pressed. Never waits.
    ///
    /// # Errors
    /// [`MachineError::KeysNotRead`] when the guest's patience is over: what was typed up to here is with the guest.
    pub(crate) fn step(&mut self, board: &Board) -> Result<bool, MachineError> {
        if self.characters.is_empty() {
            return Ok(true);
        }
        let waited = self.since.elapsed();
        if self.typed > 0 && waited < BETWEEN_CHARACTERS {
            return Ok(false);
        }
        if !board.keyboard_drained() {
            return if waited < self.patience { Ok(false) } else { Err(self.not_read()) };
        }
        let held = board.firmware_held_keys();
        if held >= FIRMWARE_KEYS || (self.empties && held > 0) {
            if waited < self.patience {
                return Ok(false);
            }
            if held >= FIRMWARE_KEYS {
                return Err(self.not_read());
            }
            self.empties = false;
        }
        if let Some(character) = self.characters.pop_front() {
            press(board, &character);
            self.typed += 1;
            self.since = Instant::now();
        }
        Ok(self.characters.is_empty())
    }

    fn not_read(&self) -> MachineError {
        MachineError::KeysNotRead { typed: self.typed, of: self.typed + self.characters.len() }
    }
}

/// Types `text` and waits until it is typed.
pub fn type_text(board: &Board, text: &str) -> Result<(), MachineError> {
    let mut typing = Typing::new(text, PATIENCE)?;
    while !typing.step(board)? {
        std::thread::sleep(LOOK_AGAIN);
    }
    Ok(())
}

/// Checks a chord without pressing it.
///
/// # Errors
/// [`MachineError::BadChord`].
pub fn check_chord(chord: &str) -> Result<(), MachineError> {
    keys_of(chord).map(drop)
}

fn keys_of(chord: &str) -> Result<Vec<KeyEvent>, MachineError> {
    keymap::chord(chord).map_err(|error| MachineError::BadChord(error.to_string()))
}

/// Presses a chord, once what was pressed before is read; after a while in any case, for it may be what wakes a guest
/// that reads nothing else.
pub fn send_keys(board: &Board, chord: &str) -> Result<(), MachineError> {
    let chord = keys_of(chord)?;
    let waiting_since = Instant::now();
    while (!board.keyboard_drained() || board.firmware_held_keys() > 0) && waiting_since.elapsed() < PATIENCE {
        std::thread::sleep(LOOK_AGAIN);
    }
    press(board, &chord);
    Ok(())
}

/// Queues the events of one character or chord.
fn press(board: &Board, group: &[KeyEvent]) {
    for event in group {
        // A full queue loses the key, as a keyboard's own buffer does.
        board.key(*event);
    }
}

/// Feeds COM1 as fast as its FIFO is emptied.
pub fn serial_input(board: &Board, bytes: &[u8]) {
    let mut rest = bytes;
    let mut progress_at = Instant::now();
    while !rest.is_empty() && progress_at.elapsed() < PATIENCE {
        let taken = board.serial_input(rest);
        if taken > 0 {
            rest = &rest[taken.min(rest.len())..];
            progress_at = Instant::now();
        } else {
            std::thread::sleep(LOOK_AGAIN);
        }
    }
}
