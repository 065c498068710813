//! The configuration of a VM: what `machine.toml` in its bundle holds.

use serde::{Deserialize, Serialize};

/// The controller a disk sits behind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DiskBus {
    /// PIIX3 IDE.
    #[default]
    Ide,
}

/// When a write completes; see the block crate for what each promises.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CacheMode {
    /// When it is durable.
    #[default]
    Writethrough,
    /// When accepted; a guest flush makes it durable.
    Writeback,
    /// When accepted; flushes are ignored.
    Unsafe,
}

/// What the firmware tries first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BootFrom {
    /// The CD-ROM, where one holds a disc, then the disks.
    #[default]
    Cd,
    /// The disks, then the CD-ROM.
    Disk,
}
