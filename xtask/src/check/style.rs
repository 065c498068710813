//! House rules no lint knows: file length, where `unsafe` may be, and nothing of one machine in the sources.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use crate::process::{quiet, repository};

/// No source file holds more lines than this: it would be about two things.
const MAX_LINES: usize = 800;

/// Folders and files in which `unsafe` may occur, each block with its `// SAFETY:`. Everywhere else it is denied.
const UNSAFE_ALLOWED: &[&str] = &[
    "disk-formats/block/src/file/",
    "disk-formats/strata/src/secret_memory.rs",
    "engine/hypervisor/src/kvm/",
    "engine/x86/src/map.rs",
    "engine/x86/src/memory.rs",
    // Tests that carry instructions out on the host's processor.
    "engine/x86/src/fpu/tests/host.rs",
    "engine/x86/src/simd/tests/harness.rs",
    "engine/x86/tests/differential/native.rs",
];

/// Paths and names that belong to somebody's machine.
const FOREIGN: &[&str] = &["/home/", "/root/", "/work/", "/Users/", "/mnt/c/"];

/// Looks at every source file that git knows.
///
/// # Errors
/// All that was found.
pub fn check() -> Result<()> {
    let root = repository();
    let listed = quiet(
        std::process::Command::new("git")
            .args(["ls-files", "--cached", "--others", "--exclude-standard", "*.rs", "*.c", "*.h", "*.S", "*.md"])
            .current_dir(&root),
    )?;
    let mut wrong = Vec::new();
    for name in listed.lines() {
        let path = PathBuf::from(name);
        let Ok(text) = fs::read_to_string(root.join(&path)) else { continue };
        judge(&path, &text, &mut wrong);
    }
    if wrong.is_empty() {
        return Ok(());
    }
    bail!("{}", wrong.join("\n"))
}

fn judge(path: &Path, text: &str, wrong: &mut Vec<String>) {
    let name = path.to_string_lossy().replace('\\', "/");
    let rust = path.extension().is_some_and(|extension| extension == "rs");
    let count_lines = text.lines().count();
    if rust && count_lines > MAX_LINES {
        wrong.push(format!("{name}: {count_lines} lines, more than {MAX_LINES}"));
    }
    let rules_themselves = name == "xtask/src/check/style.rs";
    for (index, line) in text.lines().enumerate() {
        let number = index + 1;
        if !rules_themselves && FOREIGN.iter().any(|foreign| line.contains(foreign)) {
            wrong.push(format!("{name}:{number}: a path of somebody's machine"));
        }
        if rust && !rules_themselves && has_unsafe(line) {
            if !UNSAFE_ALLOWED.iter().any(|allowed| name.starts_with(allowed)) {
                wrong.push(format!("{name}:{number}: `unsafe` outside the files that may use it"));
            } else if !explained(text, index) {
                wrong.push(format!("{name}:{number}: `unsafe` without a SAFETY comment"));
            }
        }
    }
}

/// Whether a line of code (not of comment) opens something unsafe. The type of a foreign function is a value like any
/// other; its call is what counts.
fn has_unsafe(line: &str) -> bool {
    let code = line.split("//").next().unwrap_or_default();
    ["unsafe {", "unsafe fn", "unsafe impl", "unsafe extern {"].iter().any(|form| code.contains(form))
}

/// Whether one of the lines just above says why it is sound.
fn explained(text: &str, index: usize) -> bool {
    let before: Vec<&str> = text.lines().take(index + 1).collect();
    before.iter().rev().take(9).any(|line| line.contains("SAFETY:") || line.contains("# Safety"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(name: &str, text: &str) -> usize {
        let mut wrong = Vec::new();
        judge(Path::new(name), text, &mut wrong);
        wrong.len()
    }

    #[test]
    fn each_rule_finds_what_it_is_for() {
        assert_eq!(found("app/src/main.rs", "fn main() {}\n"), 0);
        assert_eq!(found("app/src/main.rs", &"\n".repeat(801)), 1);
        assert_eq!(found("app/src/main.rs", "let x = unsafe { f() };\n"), 1);
        assert_eq!(found("engine/hypervisor/src/kvm/vm.rs", "let x = unsafe { f() };\n"), 1);
        assert_eq!(found("engine/hypervisor/src/kvm/vm.rs", "// SAFETY: f is sound.\nlet x = unsafe { f() };\n"), 0);
        assert_eq!(found("README.md", "see /home/me/notes\n"), 1);
    }
}
