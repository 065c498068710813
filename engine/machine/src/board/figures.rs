//! The figures `stats` shows.

use std::time::Duration;

use benchtop_block::{CacheMode, DiskStats};
use benchtop_control::config;
use benchtop_control::stats::{
    AccessExits, ByteCounts, DeviceStats, Latency, RequestCounts, VcpuExits, VcpuStats, VmStats,
};

use super::Board;

impl Board {
    /// Everything counted so far.
    pub fn stats(&self) -> VmStats {
        VmStats {
            accel: self.accel.to_owned(),
            uptime_ns: self.clock.now_ns(),
            start_ns: 0,
            devices: self.device_stats(),
            vcpus: self.vcpu_stats(),
        }
    }

    fn device_stats(&self) -> Vec<DeviceStats> {
        let media = self.media.lock();
        let ide = self.ide.device.lock();
        let mut devices: Vec<_> = media
            .iter()
            .map(|medium| {
                let unit = ide.stats(medium.drive.channel, medium.drive.unit);
                let disk = medium.disk.as_ref().map(benchtop_block::Disk::stats).unwrap_or_default();
                let cache = medium.disk.as_ref().map(benchtop_block::Disk::cache);
                let DiskStats { requests, bytes, latency, bytes_at_risk, .. } = disk;
                DeviceStats {
                    name: medium.drive.name.clone(),
                    bus: config::DiskBus::Ide,
                    mode_user: cache.map_or_else(Default::default, |cache| mode(cache.user)),
                    mode_effective: cache.map_or_else(Default::default, |cache| mode(cache.effective)),
                    bytes_at_risk,
                    exits: AccessExits {
                        pio_read: unit.pio_read,
                        pio_write: unit.pio_write,
                        mmio_read: 0,
                        mmio_write: 0,
                    },
                    kicks: unit.commands,
                    requests: RequestCounts {
                        read: requests.read,
                        write: requests.write,
                        flush: requests.flush,
                        other: requests.other,
                    },
                    bytes: ByteCounts { read: bytes.read, written: bytes.written },
                    interrupts: unit.interrupts,
                    coalesced: unit.coalesced,
                    latency_ns: Latency { p50: nanoseconds(latency.all.p50), p99: nanoseconds(latency.all.p99) },
                }
            })
            .collect();
        devices.sort_by(|left, right| left.name.cmp(&right.name));
        devices
    }

    fn vcpu_stats(&self) -> Vec<VcpuStats> {
        let handles = self.vcpus.handles().iter().zip(&self.ios);
        handles
            .map(|(handle, io)| {
                let exits = handle.exits();
                let (ports, addresses) = io.interrupt_controller_exits();
                VcpuStats {
                    exits: VcpuExits {
                        port: exits.port.saturating_sub(ports),
                        mmio: exits.mmio.saturating_sub(addresses),
                        interrupt_controller: ports + addresses + exits.interrupt_window + exits.ioapic_eoi,
                        kicked: exits.kicked,
                        other: exits.other,
                    },
                }
            })
            .collect()
    }
}

fn mode(mode: CacheMode) -> config::CacheMode {
    match mode {
        CacheMode::Writethrough => config::CacheMode::Writethrough,
        CacheMode::Writeback => config::CacheMode::Writeback,
        CacheMode::Unsafe => config::CacheMode::Unsafe,
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
