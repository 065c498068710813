//! Keys and serial input at a pace the guest keeps up with.

use std::time::{Duration, Instant};

use benchtop_devices::input::keymap::{self, KeyEvent};

use crate::MachineError;
use crate::board::Board;

/// Between two characters: a person's pace at its fastest.
const BETWEEN_CHARACTERS: Duration = Duration::from_millis(20);
/// How long a guest that reads no keys is waited for. A boot loader that loads modules
/// looks away for seconds.
const PATIENCE: Duration = Duration::from_secs(5);
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// Types `text`, a character at a time.
pub fn type_text(board: &Board, text: &str) -> Result<(), MachineError> {
    let groups = keymap::type_text(text).map_err(|error| MachineError::NoKey(error.to_string()))?;
    let mut reads = true;
    for group in &groups {
        // A guest that did not read once is not waited for again.
        reads = reads && wait_until_read(board);
        press(board, group);
        std::thread::sleep(BETWEEN_CHARACTERS);
    }
    Ok(())
}

/// Presses a chord.
pub fn send_keys(board: &Board, chord: &str) -> Result<(), MachineError> {
    let group = keymap::chord(chord).map_err(|error| MachineError::NoKey(error.to_string()))?;
    wait_until_read(board);
    press(board, &group);
    Ok(())
}

/// Waits until the guest has taken what was typed before: from the controller, and from the firmware's buffer, which
/// holds no more than 15 keys. False when it does not seem to read at all.
fn wait_until_read(board: &Board) -> bool {
    let waiting_since = Instant::now();
    while !board.keyboard_drained() || board.firmware_holds_keys() {
        if waiting_since.elapsed() >= PATIENCE {
            return false;
        }
        std::thread::sleep(LOOK_AGAIN);
    }
    true
}

/// Queues one group.
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
