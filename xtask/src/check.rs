//! `cargo xtask check`: everything that can be judged without running a VM. All checks run; all failures are told.

mod edges;
mod style;

use anyhow::{Result, bail};

use crate::process::{cargo, has_program, show};

/// The command.
///
/// # Errors
/// The names of the checks that failed.
pub fn check() -> Result<()> {
    let mut failed = Vec::new();
    let mut one = |name: &'static str, run: &dyn Fn() -> Result<()>| {
        eprintln!("== {name}");
        if let Err(error) = run() {
            eprintln!("{error:#}");
            failed.push(name);
        }
    };
    one("formatting", &|| show(&mut cargo(["fmt", "--all", "--check"])));
    one("lints", &|| {
        show(&mut cargo(["clippy", "--quiet", "--workspace", "--all-targets", "--", "--deny", "warnings"]))
    });
    one("licences, bans and sources", &deny);
    one("layering", &edges::check);
    one("style", &style::check);
    one("docs", &|| {
        show(
            cargo(["doc", "--quiet", "--workspace", "--no-deps", "--document-private-items"])
                .env("RUSTDOCFLAGS", "--deny warnings"),
        )
    });
    if failed.is_empty() {
        eprintln!("== all clean");
        return Ok(());
    }
    bail!("failed: {}", failed.join(", "))
}

fn deny() -> Result<()> {
    if !has_program("cargo-deny") {
        eprintln!("installing cargo-deny");
        show(&mut cargo(["install", "--locked", "--quiet", "cargo-deny"]))?;
    }
    show(&mut cargo(["deny", "--log-level", "warn", "check", "licenses", "bans", "sources"]))
}
