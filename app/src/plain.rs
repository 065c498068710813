//! Text of files, bundles and arguments made safe for a terminal.

/// The longest cell of a table that others stand to the right of, in characters.
const CELL_CHARS_MAX: usize = 100;
/// The longest other piece of text: the last cell of a row, a part of an error.
const TEXT_CHARS_MAX: usize = 2000;

/// Whether a terminal would obey it instead of showing it: control characters, and those that change the direction of
/// the text around them or end a line (Unicode Standard Annex #9, section 2; U+2028 and U+2029).
pub fn is_active(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// One line of text: what a terminal would obey is written as an escape, and what is far too long is cut.
pub fn line(text: &str) -> String {
    escaped(text, TEXT_CHARS_MAX)
}

/// A cell of a table, `last` of its row or not.
pub fn cell(text: &str, last: bool) -> String {
    escaped(text, if last { TEXT_CHARS_MAX } else { CELL_CHARS_MAX })
}

/// Several lines: their ends and tabs stay, everything else that a terminal would obey is escaped.
pub fn lines(text: &str) -> String {
    escape_if(text.chars(), |c| is_active(c) && !matches!(c, '\n' | '\t'))
}

/// A JSON document: what a terminal would obey is written as JSON's own escape. Such characters occur in its strings
/// only.
pub fn json(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if is_active(c) && c != '\n' {
            // All of them are in the plane that one escape reaches.
            out.push_str(&format!("\\u{:04x}", u32::from(c)));
        } else {
            out.push(c);
        }
    }
    out
}

/// So many of something, whose plural ends in s.
pub fn count(number: usize, one: &str) -> String {
    format!("{number} {one}{}", if number == 1 { "" } else { "s" })
}

fn escaped(text: &str, chars_max: usize) -> String {
    let mut out = escape_if(text.chars().take(chars_max), is_active);
    if text.chars().nth(chars_max).is_some() {
        out.push('…');
    }
    out
}

fn escape_if(chars: impl Iterator<Item = char>, active: impl Fn(char) -> bool) -> String {
    let mut out = String::new();
    for c in chars {
        if active(c) {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A bundle's name cleared the screen and turned the rest of the line around.
    #[test]
    fn nothing_a_terminal_obeys_is_left() {
        let text = "a\u{1b}[2J\u{202e}b\u{9b}\u{7f}\u{2028}\r\nc";
        assert!(!line(text).contains(is_active));
        assert_eq!(line("é\u{202e}\u{1b}\n"), "é\\u{202e}\\u{1b}\\n");
        assert_eq!(lines("a\tb\n\u{1b}"), "a\tb\n\\u{1b}");
        let document = serde_json::to_string_pretty(&serde_json::json!({ "name": text })).unwrap();
        let safe = json(&document);
        assert!(!safe.replace('\n', "").contains(is_active));
        assert_eq!(serde_json::from_str::<serde_json::Value>(&safe).unwrap()["name"], text);
    }

    #[test]
    fn long_text_is_cut() {
        let long = "ä".repeat(70_000);
        assert_eq!(cell(&long, false).chars().count(), CELL_CHARS_MAX + 1);
        assert_eq!(line(&long).chars().count(), TEXT_CHARS_MAX + 1);
        assert_eq!(line("short"), "short");
    }
}
