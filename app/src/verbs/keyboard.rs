//! `type` and `keys`: the VM's keyboard.

use benchtop_control::{Command, Failure};
use benchtop_machine::check_chord;
use benchtop_machine::monitor::machine_failure;
use clap::Args;

use crate::output::Output;
use crate::target::running;

/// `type`.
#[derive(Debug, Args)]
#[command(after_help = "In TEXT, \\n is Enter, \\t is Tab, \\e is Escape and \\\\ a backslash.")]
pub struct Type {
    /// VM
    pub vm: String,
    /// Text for a US keyboard
    #[arg(allow_hyphen_values = true)]
    pub text: String,
}

/// `keys`.
#[derive(Debug, Args)]
#[command(after_help = "A chord is key names with - between: a character of a US keyboard, esc, enter, tab, space, \
    backspace, ctrl,\nalt, shift, meta (and rctrl, altgr, rshift, rwin), menu, ins, del, home, end, pgup, pgdn, up, \
    down, left, right,\nf1 to f12, kp0 to kp9, kpenter, print, pause, capslock, numlock, scrolllock.")]
pub struct Keys {
    /// VM
    pub vm: String,
    /// Chords such as ctrl-alt-del or f12, pressed one after the other
    #[arg(required = true, value_name = "CHORD")]
    pub chords: Vec<String>,
}

impl Type {
    /// Runs the verb.
    ///
    /// # Errors
    /// The VM is off, or a character is on no key.
    pub fn run(&self, output: &Output) -> Result<(), Failure> {
        let text = unescape(&self.text);
        running(&self.vm)?.command(Command::Type { text })?;
        output.done("type", &serde_json::json!({ "name": self.vm }), || format!("typed into {}", self.vm))
    }
}

impl Keys {
    /// Runs the verb.
    ///
    /// # Errors
    /// The VM is off, or there is no such key; nothing was pressed then.
    pub fn run(&self, output: &Output) -> Result<(), Failure> {
        for chord in &self.chords {
            check_chord(chord).map_err(|error| machine_failure(&format!("can not press `{chord}`"), &error))?;
        }
        let mut client = running(&self.vm)?;
        for chord in &self.chords {
            client.command(Command::Keys { chord: chord.clone() })?;
        }
        output.done("keys", &serde_json::json!({ "name": self.vm, "chords": self.chords }), || {
            format!("pressed {} in {}", self.chords.join(" "), self.vm)
        })
    }
}

/// The escapes a shell makes hard to type.
pub fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            out.push(c);
            continue;
        }
        match chars.next() {
            Some('n') => out.push('\n'),
            Some('t') => out.push('\t'),
            Some('e') => out.push('\u{1b}'),
            Some('\\') | None => out.push('\\'),
            Some(other) => {
                out.push('\\');
                out.push(other);
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_few() {
        assert_eq!(unescape(r"ls (cd0)/\n"), "ls (cd0)/\n");
        assert_eq!(unescape(r"a\\n\x\"), r"a\n\x\");
    }
}
