//! Strata: a disk file that remembers.
//!
//! ```text
//!   StrataDisk ─▶ log: records and data, appended ─┐
//!       │                                          ├─▶ segments in places of the file ─▶ Medium
//!       └─▶ map: pages, written at checkpoints ────┘
//!   superblock ─▶ head ─▶ map · segments · points · where the log goes on
//! ```
//!
//! docs/format.md has the byte maps and the reasons.
#![forbid(unsafe_code)]

mod bytes;
mod check;
mod checkpoint;
mod disk;
mod head;
mod layout;
mod log;
mod medium;
mod open;
mod pages;
mod points;
mod record;
mod replay;
mod seal;
mod slots;
mod snapshots;
mod space;
mod state;
mod superblock;

pub use check::CheckReport;
pub use disk::StrataDisk;
pub use medium::Medium;
pub use open::{CreateOptions, NEEDS_PASSWORD, WRONG_PASSWORD};
pub use points::Retention;
pub use slots::Cost;
pub use snapshots::PointInfo;
