//! `type` and `keys`: the VM's keyboard.

use benchtop_control::{Command, Failure};
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
    /// The VM is off, or there is no such key.
    pub fn run(&self, output: &Output) -> Result<(), Failure> {
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
