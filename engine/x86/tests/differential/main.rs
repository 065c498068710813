//! User code on our processor and on the host's: every instruction form, with ordinary operands and with such as make it
//! fault, and random programs. What must not be compared is in one place, [`table`].
//!
//! `BENCHTOP_CASES` says how many cases each form gets, `BENCHTOP_FORM` which forms by a part of the name,
//! `BENCHTOP_SHOW` that each is shown before it runs; `BENCHTOP_STEPS` how many instructions of random programs are run,
//! and `BENCHTOP_SEED` which.
#![cfg(all(target_arch = "x86_64", target_os = "linux"))]
#![expect(clippy::unwrap_used, reason = "a test that can not go on fails")]

mod cases;
mod compare;
mod forms;
mod guest;
mod layout;
mod native;
mod pair;
mod program;
mod random;
mod single;
mod streams;
mod table;

/// Fails a test for what differs on a host whose ways ours has. Where the manuals leave something open (the order of
/// faults, which of two NaNs comes out, what was stored before a fault), ours does as Intel's processors do; on another
/// host what differs is shown, and the test says that it is skipped.
fn judge(test: &str, wrong: &[String], said: &str) {
    let cpus = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    if wrong.is_empty() || cpus.contains("GenuineIntel") {
        assert!(wrong.is_empty(), "{said}{}:\n{}", wrong.len(), wrong.join("\n"));
        return;
    }
    println!("{said}{}:\n{}", wrong.len(), wrong.join("\n"));
    println!("SKIPPED {test}: what differs above may be this host's own way, which is not Intel's");
}
