//! The figures `benchtop stats --json` prints (design.md §8): counts are integers, times nanoseconds, sizes bytes.

use serde::{Deserialize, Serialize};

use crate::config::{CacheMode, DiskBus};

/// Exits to user space that accesses to one device cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessExits {
    /// IN; a string instruction's run counts once.
    pub pio_read: u64,
    /// OUT.
    pub pio_write: u64,
    /// Loads.
    pub mmio_read: u64,
    /// Stores.
    pub mmio_write: u64,
}

/// Requests by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestCounts {
    /// Reads.
    pub read: u64,
    /// Writes.
    pub write: u64,
    /// Flushes.
    pub flush: u64,
    /// Discards and everything else.
    pub other: u64,
}

/// Bytes by direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ByteCounts {
    /// Disk to guest.
    pub read: u64,
    /// Guest to disk.
    pub written: u64,
}

/// Request latency.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Latency {
    /// Median.
    pub p50: u64,
    /// 99th percentile.
    pub p99: u64,
}

/// One disk or CD-ROM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceStats {
    /// `disk0`, `cd0`, ….
    pub name: String,
    /// The controller it sits behind. Its exits are counted by channel and drive selected.
    pub bus: DiskBus,
    /// What the user chose.
    pub mode_user: CacheMode,
    /// What holds now.
    pub mode_effective: CacheMode,
    /// Bytes a power cut now could lose.
    pub bytes_at_risk: u64,
    /// Exits.
    pub exits: AccessExits,
    /// Doorbells.
    pub kicks: u64,
    /// Requests completed.
    pub requests: RequestCounts,
    /// Bytes moved.
    pub bytes: ByteCounts,
    /// Interrupts raised.
    pub interrupts: u64,
    /// Register writes gathered without an exit.
    pub coalesced: u64,
    /// Latency.
    pub latency_ns: Latency,
}

/// Exits of one vCPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VcpuExits {
    /// Port accesses, interrupt controllers apart.
    pub port: u64,
    /// MMIO accesses, interrupt controllers apart.
    pub mmio: u64,
    /// Interrupt windows, EOIs and accesses to PIC, IOAPIC and PIT.
    pub interrupt_controller: u64,
    /// Kicks and signals.
    pub kicked: u64,
    /// All others.
    pub other: u64,
}

/// One vCPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VcpuStats {
    /// Its exits.
    pub exits: VcpuExits,
}

/// Everything `stats` knows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmStats {
    /// The accelerator it runs on.
    pub accel: String,
    /// Virtual nanoseconds since power-on, pauses left out.
    pub uptime_ns: u64,
    /// Nanoseconds from the start of the monitor process to the first guest instruction.
    pub start_ns: u64,
    /// Disks and CD-ROMs.
    pub devices: Vec<DeviceStats>,
    /// vCPUs.
    pub vcpus: Vec<VcpuStats>,
}
