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
#![deny(unsafe_code)]

mod admin;
mod buffer;
mod bytes;
mod check;
mod checkpoint;
mod commit;
mod compact;
mod convert;
mod core;
mod crew;
mod disk;
mod due;
mod graves;
mod head;
mod heads;
#[cfg(test)]
mod hostile;
mod identity;
mod keeper;
mod layout;
mod log;
mod medium;
mod open;
mod pages;
mod passwords;
mod pens;
mod points;
mod read;
mod record;
mod recovery;
mod repair;
mod replay;
mod resize;
mod run;
mod seal;
mod secret_memory;
mod slots;
mod snapshots;
mod space;
mod state;
mod superblock;
mod tidy;
mod walk;
mod write;
mod zero;

pub use check::CheckReport;
pub use convert::{CryptStatus, Progress};
pub use disk::{SpaceInfo, StrataDisk};
pub use identity::{Identity, OTHER_DISK, ROLLED_BACK};
pub use medium::{HostCache, HostFile, Medium};
pub use open::{CreateOptions, NEEDS_PASSWORD, OpenOptions, WRONG_PASSWORD};
pub use pages::GIVEN_UP;
pub use passwords::SlotInfo;
pub use points::Retention;
pub use recovery::{RecoveryKeyError, check_recovery_key};
pub use repair::RepairReport;
pub use slots::{Cost, SlotKind};
pub use snapshots::PointInfo;
pub use superblock::Facts;
#[cfg(unix)]
pub use superblock::facts;
