//! Whole-VM tests: what they share.
//!
//! ```text
//!   tests/*.rs ─▶ vm (runs the `benchtop` binary) ─▶ guests (bare-metal guest, sample guests) ─▶ iso · initrd
//!      └──────▶ records (what a guest that is killed must leave in its image)
//!   fuzz/*     ─▶ fuzz (what the fuzz targets and their smoke tests run)
//! ```
//!
//! A test that needs something this host lacks (/dev/kvm, a compiler for the guest, the sample guests) says so by name
//! and passes: [`vm::skip`] prints the line that `cargo xtask test` collects.

pub mod fuzz;
pub mod guests;
pub mod initrd;
pub mod iso;
pub mod records;
pub mod vm;
