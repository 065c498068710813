//! Text and key names as keystrokes of a US keyboard.

use super::KeyCode;

/// A key going down or up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyEvent {
    /// The key.
    pub key: KeyCode,
    /// Down rather than up.
    pub pressed: bool,
}

/// Why text or a chord can not be typed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeymapError {
    /// No key, with or without Shift, gives this character.
    #[error("no key of a US keyboard types {0:?}")]
    Character(char),
    /// No key has this name.
    #[error("there is no key `{0}`")]
    Key(String),
    /// No key at all.
    #[error("no key named")]
    Empty,
}

/// Keys by the two characters they type, without and with Shift.
const CHARACTERS: [(KeyCode, char, char); 48] = [
    (KeyCode::A, 'a', 'A'),
    (KeyCode::B, 'b', 'B'),
    (KeyCode::C, 'c', 'C'),
    (KeyCode::D, 'd', 'D'),
    (KeyCode::E, 'e', 'E'),
    (KeyCode::F, 'f', 'F'),
    (KeyCode::G, 'g', 'G'),
    (KeyCode::H, 'h', 'H'),
    (KeyCode::I, 'i', 'I'),
    (KeyCode::J, 'j', 'J'),
    (KeyCode::K, 'k', 'K'),
    (KeyCode::L, 'l', 'L'),
    (KeyCode::M, 'm', 'M'),
    (KeyCode::N, 'n', 'N'),
    (KeyCode::O, 'o', 'O'),
    (KeyCode::P, 'p', 'P'),
    (KeyCode::Q, 'q', 'Q'),
    (KeyCode::R, 'r', 'R'),
    (KeyCode::S, 's', 'S'),
    (KeyCode::T, 't', 'T'),
    (KeyCode::U, 'u', 'U'),
    (KeyCode::V, 'v', 'V'),
    (KeyCode::W, 'w', 'W'),
    (KeyCode::X, 'x', 'X'),
    (KeyCode::Y, 'y', 'Y'),
    (KeyCode::Z, 'z', 'Z'),
    (KeyCode::Digit1, '1', '!'),
    (KeyCode::Digit2, '2', '@'),
    (KeyCode::Digit3, '3', '#'),
    (KeyCode::Digit4, '4', '$'),
    (KeyCode::Digit5, '5', '%'),
    (KeyCode::Digit6, '6', '^'),
    (KeyCode::Digit7, '7', '&'),
    (KeyCode::Digit8, '8', '*'),
    (KeyCode::Digit9, '9', '('),
    (KeyCode::Digit0, '0', ')'),
    (KeyCode::Grave, '`', '~'),
    (KeyCode::Minus, '-', '_'),
    (KeyCode::Equal, '=', '+'),
    (KeyCode::BracketLeft, '[', '{'),
    (KeyCode::BracketRight, ']', '}'),
    (KeyCode::Backslash, '\\', '|'),
    (KeyCode::Semicolon, ';', ':'),
    (KeyCode::Apostrophe, '\'', '"'),
    (KeyCode::Comma, ',', '<'),
    (KeyCode::Period, '.', '>'),
    (KeyCode::Slash, '/', '?'),
    (KeyCode::Space, ' ', ' '),
];

/// Names of keys that type no character, and of those whose character a chord can not name.
const NAMES: &[(&str, KeyCode)] = &[
    ("esc", KeyCode::Escape),
    ("escape", KeyCode::Escape),
    ("ret", KeyCode::Enter),
    ("return", KeyCode::Enter),
    ("enter", KeyCode::Enter),
    ("tab", KeyCode::Tab),
    ("space", KeyCode::Space),
    ("spc", KeyCode::Space),
    ("backspace", KeyCode::Backspace),
    ("bksp", KeyCode::Backspace),
    ("minus", KeyCode::Minus),
    ("equal", KeyCode::Equal),
    ("comma", KeyCode::Comma),
    ("dot", KeyCode::Period),
    ("period", KeyCode::Period),
    ("slash", KeyCode::Slash),
    ("backslash", KeyCode::Backslash),
    ("semicolon", KeyCode::Semicolon),
    ("apostrophe", KeyCode::Apostrophe),
    ("grave", KeyCode::Grave),
    ("bracketleft", KeyCode::BracketLeft),
    ("bracketright", KeyCode::BracketRight),
    ("less", KeyCode::IntlBackslash),
    ("ctrl", KeyCode::ControlLeft),
    ("control", KeyCode::ControlLeft),
    ("rctrl", KeyCode::ControlRight),
    ("alt", KeyCode::AltLeft),
    ("ralt", KeyCode::AltRight),
    ("altgr", KeyCode::AltRight),
    ("shift", KeyCode::ShiftLeft),
    ("rshift", KeyCode::ShiftRight),
    ("meta", KeyCode::MetaLeft),
    ("win", KeyCode::MetaLeft),
    ("super", KeyCode::MetaLeft),
    ("rwin", KeyCode::MetaRight),
    ("menu", KeyCode::Menu),
    ("capslock", KeyCode::CapsLock),
    ("numlock", KeyCode::NumLock),
    ("scrolllock", KeyCode::ScrollLock),
    ("print", KeyCode::PrintScreen),
    ("printscreen", KeyCode::PrintScreen),
    ("sysrq", KeyCode::PrintScreen),
    ("pause", KeyCode::Pause),
    ("ins", KeyCode::Insert),
    ("insert", KeyCode::Insert),
    ("del", KeyCode::Delete),
    ("delete", KeyCode::Delete),
    ("home", KeyCode::Home),
    ("end", KeyCode::End),
    ("pgup", KeyCode::PageUp),
    ("pageup", KeyCode::PageUp),
    ("pgdn", KeyCode::PageDown),
    ("pagedown", KeyCode::PageDown),
    ("up", KeyCode::ArrowUp),
    ("down", KeyCode::ArrowDown),
    ("left", KeyCode::ArrowLeft),
    ("right", KeyCode::ArrowRight),
    ("f1", KeyCode::F1),
    ("f2", KeyCode::F2),
    ("f3", KeyCode::F3),
    ("f4", KeyCode::F4),
    ("f5", KeyCode::F5),
    ("f6", KeyCode::F6),
    ("f7", KeyCode::F7),
    ("f8", KeyCode::F8),
    ("f9", KeyCode::F9),
    ("f10", KeyCode::F10),
    ("f11", KeyCode::F11),
    ("f12", KeyCode::F12),
    ("kp0", KeyCode::Numpad0),
    ("kp1", KeyCode::Numpad1),
    ("kp2", KeyCode::Numpad2),
    ("kp3", KeyCode::Numpad3),
    ("kp4", KeyCode::Numpad4),
    ("kp5", KeyCode::Numpad5),
    ("kp6", KeyCode::Numpad6),
    ("kp7", KeyCode::Numpad7),
    ("kp8", KeyCode::Numpad8),
    ("kp9", KeyCode::Numpad9),
    ("kpdot", KeyCode::NumpadDecimal),
    ("kpplus", KeyCode::NumpadAdd),
    ("kpminus", KeyCode::NumpadSubtract),
    ("kpstar", KeyCode::NumpadMultiply),
    ("kpslash", KeyCode::NumpadDivide),
    ("kpenter", KeyCode::NumpadEnter),
];

/// The keystrokes that type `text`, a group per character; a group is meant to be queued together. `\n` is Enter, `\t`
/// Tab, `\u{8}` Backspace and `\u{1b}` Escape; `\r` before `\n` is passed over.
///
/// # Errors
/// [`KeymapError::Character`] for the first that no key types.
pub fn type_text(text: &str) -> Result<Vec<Vec<KeyEvent>>, KeymapError> {
    let text = text.replace("\r\n", "\n");
    text.chars()
        .map(|character| {
            let (key, shift) = key_for(character).ok_or(KeymapError::Character(character))?;
            Ok(press_together(if shift { vec![KeyCode::ShiftLeft, key] } else { vec![key] }))
        })
        .collect()
}

/// The keystrokes of a chord: key names with `-` between, as in `ctrl-alt-del`, `shift-a`, `f12` or `ctrl--`. Case does
/// not matter; a character that needs Shift is given its Shift.
///
/// # Errors
/// [`KeymapError::Key`] naming the one nobody knows, [`KeymapError::Empty`].
pub fn chord(chord: &str) -> Result<Vec<KeyEvent>, KeymapError> {
    let mut keys = Vec::new();
    let mut rest = chord.trim();
    if rest.is_empty() {
        return Err(KeymapError::Empty);
    }
    while !rest.is_empty() {
        // A dash in the place of a name is the dash key.
        let end = rest.char_indices().skip(1).find(|(_, character)| *character == '-').map_or(rest.len(), |(at, _)| at);
        let name = &rest[..end];
        rest = match rest[end..].strip_prefix('-') {
            Some("") => return Err(KeymapError::Key(chord.to_owned())),
            Some(after) => after,
            None => "",
        };
        for key in named(name).ok_or_else(|| KeymapError::Key(name.to_owned()))? {
            if !keys.contains(&key) {
                keys.push(key);
            }
        }
    }
    Ok(press_together(keys))
}

fn named(name: &str) -> Option<Vec<KeyCode>> {
    let lower = name.to_ascii_lowercase();
    if let Some((_, key)) = NAMES.iter().find(|(known, _)| *known == lower) {
        return Some(vec![*key]);
    }
    let mut characters = lower.chars();
    let (key, shift) = key_for(characters.next()?)?;
    match characters.next() {
        Some(_) => None,
        None if shift => Some(vec![KeyCode::ShiftLeft, key]),
        None => Some(vec![key]),
    }
}

fn key_for(character: char) -> Option<(KeyCode, bool)> {
    match character {
        '\n' | '\r' => return Some((KeyCode::Enter, false)),
        '\t' => return Some((KeyCode::Tab, false)),
        '\u{8}' => return Some((KeyCode::Backspace, false)),
        '\u{1b}' => return Some((KeyCode::Escape, false)),
        _ => {}
    }
    let (key, plain, _) = CHARACTERS.iter().find(|(_, plain, shifted)| [*plain, *shifted].contains(&character))?;
    Some((*key, character != *plain))
}

/// All down in order, then all up in the opposite order.
fn press_together(keys: Vec<KeyCode>) -> Vec<KeyEvent> {
    let down = keys.iter().map(|key| KeyEvent { key: *key, pressed: true });
    let up = keys.iter().rev().map(|key| KeyEvent { key: *key, pressed: false });
    down.chain(up).collect()
}
