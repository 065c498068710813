//! Keys and serial input at a pace the guest keeps up with.

use std::time::{Duration, Instant};

use benchtop_devices::input::keymap::{self, KeyEvent};

use crate::MachineError;
use crate::board::Board;

/// Between two characters: firmware's own buffer holds 15, and a boot loader looks into it only now and then.
const BETWEEN_CHARACTERS: Duration = Duration::from_millis(20);
/// How long a guest that reads no keys is waited for.
const PATIENCE: Duration = Duration::from_secs(1);
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// Types `text`, a character at a time.
pub fn type_text(board: &Board, text: &str) -> Result<(), MachineError> {
    let groups = keymap::type_text(text).map_err(|error| MachineError::NoKey(error.to_string()))?;
    for group in &groups {
        press(board, group);
        std::thread::sleep(BETWEEN_CHARACTERS);
    }
    Ok(())
}

/// Presses a chord.
pub fn send_keys(board: &Board, chord: &str) -> Result<(), MachineError> {
    let group = keymap::chord(chord).map_err(|error| MachineError::NoKey(error.to_string()))?;
    press(board, &group);
    Ok(())
}

/// Queues one group once the guest has read what was queued before, or does not seem to read at all.
fn press(board: &Board, group: &[KeyEvent]) {
    let waiting_since = Instant::now();
    while !board.keyboard_drained() && waiting_since.elapsed() < PATIENCE {
        std::thread::sleep(LOOK_AGAIN);
    }
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
