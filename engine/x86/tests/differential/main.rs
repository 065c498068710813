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
