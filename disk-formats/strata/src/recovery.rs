//! Recovery keys: 160 random bits, written down by a person and typed in once, years later.
//!
//! Eight groups of five characters of Crockford's base32 (no I, L, O, U; those three of them that look like digits are
//! read as digits). Four characters of a group are data, the fifth checks them and the group's place, so that a typing
//! mistake is found before anything is tried, and where it is can be said.

use zeroize::Zeroizing;

/// Bytes of one.
pub const RECOVERY_BYTES: usize = 20;
/// One, wiped when it is dropped.
pub type RecoveryBytes = Zeroizing<[u8; RECOVERY_BYTES]>;

const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
const GROUPS: usize = 8;
const DATA_CHARS: usize = 4;
const GROUP_CHARS: usize = DATA_CHARS + 1;

/// Why a text is no recovery key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecoveryKeyError {
    /// It has not forty characters, dashes and spaces not counted.
    Length,
    /// A character that none has.
    Character(char),
    /// This group, counted from 1, was not copied right.
    Group(usize),
}

impl std::fmt::Display for RecoveryKeyError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Length => write!(f, "a recovery key has eight groups of five characters"),
            Self::Character(character) => write!(f, "no recovery key has the character {character:?}"),
            Self::Group(group) => write!(f, "group {group} of the recovery key is not right"),
        }
    }
}

impl std::error::Error for RecoveryKeyError {}

/// Says whether a text can be a recovery key, and where it was mistyped: for dialogs, before the disk is asked.
///
/// # Errors
/// [`RecoveryKeyError`].
pub fn check_recovery_key(text: &str) -> Result<(), RecoveryKeyError> {
    parse(text).map(|_key| ())
}

/// Twice the number, in the field of 32 elements (x^5 + x^2 + 1).
fn twice(value: u8) -> u8 {
    let shifted = value << 1;
    if shifted & 0x20 == 0 { shifted } else { shifted ^ 0b10_0101 }
}

/// A sum whose every character has another weight in a field, none of them 1, which is that of the check itself: one
/// wrong character or two swapped ones always change it.
fn check_of(group: usize, values: &[u8]) -> u8 {
    values.iter().fold(group as u8, |sum, value| twice(sum ^ value))
}

/// As shown, with dashes.
pub fn show(key: &RecoveryBytes) -> Zeroizing<String> {
    let mut text = Zeroizing::new(String::with_capacity(GROUPS * (GROUP_CHARS + 1)));
    for group in 0..GROUPS {
        let values: Zeroizing<[u8; DATA_CHARS]> =
            Zeroizing::new(std::array::from_fn(|index| quintet(key, group * DATA_CHARS + index)));
        if group > 0 {
            text.push('-');
        }
        for value in values.iter().copied().chain([check_of(group, &values[..])]) {
            text.push(char::from(ALPHABET[usize::from(value & 31)]));
        }
    }
    text
}

/// Five bits, the first being the uppermost of the first byte.
fn quintet(key: &RecoveryBytes, index: usize) -> u8 {
    (0..5).fold(0, |value, bit| {
        let at = index * 5 + bit;
        let byte = key.get(at / 8).copied().unwrap_or(0);
        value << 1 | (byte >> (7 - at % 8) & 1)
    })
}

/// Reads one: dashes and spaces do not count, nor does case.
///
/// # Errors
/// [`RecoveryKeyError`].
pub fn parse(text: &str) -> Result<RecoveryBytes, RecoveryKeyError> {
    let mut values = Zeroizing::new([0u8; GROUPS * GROUP_CHARS]);
    let mut count = 0;
    for character in text.chars().filter(|character| *character != '-' && !character.is_whitespace()) {
        let plain = match character.to_ascii_uppercase() {
            'O' => '0',
            'I' | 'L' => '1',
            other => other,
        };
        let value = ALPHABET.iter().position(|known| char::from(*known) == plain);
        let value = value.ok_or(RecoveryKeyError::Character(character))?;
        *values.get_mut(count).ok_or(RecoveryKeyError::Length)? = value as u8;
        count += 1;
    }
    if count != values.len() {
        return Err(RecoveryKeyError::Length);
    }
    let mut key = Zeroizing::new([0; RECOVERY_BYTES]);
    for (group, values) in values.chunks(GROUP_CHARS).enumerate() {
        let (data, check) = values.split_at(DATA_CHARS);
        if check_of(group, data) != check[0] {
            return Err(RecoveryKeyError::Group(group + 1));
        }
        for (index, value) in data.iter().enumerate() {
            for bit in 0..5 {
                let at = (group * DATA_CHARS + index) * 5 + bit;
                key[at / 8] |= (value >> (4 - bit) & 1) << (7 - at % 8);
            }
        }
    }
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> RecoveryBytes {
        Zeroizing::new(std::array::from_fn(|index| (index * 37 + 11) as u8))
    }

    #[test]
    fn it_survives_being_written_down() {
        let text = show(&example());
        assert_eq!(text.len(), 8 * 5 + 7);
        for written in [
            text.to_string(),
            text.to_lowercase(),
            text.replace('-', ""),
            text.replace('-', " "),
            text.replace('0', "o").replace('1', "l"),
        ] {
            assert_eq!(parse(&written).unwrap(), example(), "{written}");
        }
    }

    #[test]
    fn every_wrong_or_swapped_character_is_found() {
        let text: Vec<char> = show(&example()).chars().filter(|character| *character != '-').collect();
        for at in 0..text.len() {
            for other in ALPHABET.iter().map(|byte| char::from(*byte)).filter(|other| *other != text[at]) {
                let mut wrong = text.clone();
                wrong[at] = other;
                let found = parse(&wrong.iter().collect::<String>());
                assert_eq!(found, Err(RecoveryKeyError::Group(at / 5 + 1)));
            }
            if at % 5 < 4 && text[at] != text[at + 1] {
                let mut wrong = text.clone();
                wrong.swap(at, at + 1);
                assert!(parse(&wrong.iter().collect::<String>()).is_err(), "{at}");
            }
        }
        let mut swapped = text.clone();
        swapped[..10].rotate_left(5);
        assert!(parse(&swapped.iter().collect::<String>()).is_err(), "groups have their place");
        assert_eq!(parse("ABC"), Err(RecoveryKeyError::Length));
        assert_eq!(parse("hunter2!"), Err(RecoveryKeyError::Character('u')));
    }
}
