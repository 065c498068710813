//! Counters and latency histograms of one disk, kept without a lock.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::Operation;

/// Requests by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RequestCounts {
    /// Reads.
    pub read: u64,
    /// Writes.
    pub write: u64,
    /// Flushes.
    pub flush: u64,
    /// Discards.
    pub other: u64,
}

/// Bytes moved by requests that succeeded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RequestBytes {
    /// Disk to guest.
    pub read: u64,
    /// Guest to disk.
    pub written: u64,
}

/// Quantiles of the time from submission to completion, each rounded up by at most one eighth.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Latency {
    /// Median.
    pub p50: Duration,
    /// 99th percentile.
    pub p99: Duration,
}

/// Latency by kind of request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RequestLatency {
    /// All kinds together.
    pub all: Latency,
    /// Reads.
    pub read: Latency,
    /// Writes.
    pub write: Latency,
    /// Flushes.
    pub flush: Latency,
}

/// What a disk has done since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskStats {
    /// Requests completed, well or not.
    pub requests: RequestCounts,
    /// Requests completed with an error.
    pub failed: u64,
    /// Bytes moved.
    pub bytes: RequestBytes,
    /// Syncs the image was asked for, whoever wanted them.
    pub syncs: u64,
    /// How long requests took. Time a request waited for space or for a reopen does not count.
    pub latency: RequestLatency,
    /// Requests accepted and not completed.
    pub in_flight: u64,
    /// Requests that wait for space on the host, or for the image to be reopened; not in `in_flight`.
    pub parked: u64,
    /// Bytes acknowledged to the guest that a power cut now could lose.
    pub bytes_at_risk: u64,
    /// How long ago everything acknowledged was last known durable; zero while it is.
    pub since_durable: Duration,
}

/// Sub-buckets per power of two, as a power of two.
const SUB_BITS: u32 = 3;
const SUB: u64 = 1 << SUB_BITS;
/// The last bucket starts above 2^42 ns (73 minutes) and takes all beyond.
const BUCKETS: usize = ((42 - SUB_BITS + 2) as usize) << SUB_BITS;

/// A log-linear histogram of nanoseconds: eight buckets per power of two.
struct Histogram {
    buckets: [AtomicU64; BUCKETS],
}

impl Histogram {
    fn new() -> Self {
        Self { buckets: std::array::from_fn(|_| AtomicU64::new(0)) }
    }

    fn bucket(nanos: u64) -> usize {
        if nanos < SUB {
            return nanos as usize;
        }
        let shift = nanos.ilog2() - SUB_BITS;
        let index = (u64::from(shift + 1) << SUB_BITS) + ((nanos >> shift) - SUB);
        (index as usize).min(BUCKETS - 1)
    }

    /// The largest value of a bucket.
    fn upper_nanos(bucket: usize) -> u64 {
        let bucket = bucket as u64;
        if bucket < SUB {
            return bucket;
        }
        let shift = (bucket >> SUB_BITS) - 1;
        ((SUB + bucket % SUB + 1) << shift) - 1
    }

    fn record(&self, nanos: u64) {
        self.buckets[Self::bucket(nanos)].fetch_add(1, Relaxed);
    }

    fn add_to(&self, sums: &mut [u64; BUCKETS]) {
        for (sum, bucket) in sums.iter_mut().zip(&self.buckets) {
            *sum = sum.saturating_add(bucket.load(Relaxed));
        }
    }

    fn latency(&self) -> Latency {
        let mut sums = [0; BUCKETS];
        self.add_to(&mut sums);
        quantiles(&sums)
    }
}

fn quantiles(sums: &[u64; BUCKETS]) -> Latency {
    let total = sums.iter().fold(0u64, |total, count| total.saturating_add(*count));
    let at = |percent: u64| {
        let wanted = (u128::from(total) * u128::from(percent)).div_ceil(100);
        let mut seen = 0u128;
        for (bucket, count) in sums.iter().enumerate() {
            seen += u128::from(*count);
            if *count > 0 && seen >= wanted {
                return Duration::from_nanos(Histogram::upper_nanos(bucket));
            }
        }
        Duration::ZERO
    };
    Latency { p50: at(50), p99: at(99) }
}

struct Kind {
    count: AtomicU64,
    latency: Histogram,
}

impl Kind {
    fn new() -> Self {
        Self { count: AtomicU64::new(0), latency: Histogram::new() }
    }
}

/// The live counters.
pub(crate) struct Counters {
    read: Kind,
    write: Kind,
    flush: Kind,
    other: Kind,
    failed: AtomicU64,
    bytes_read: AtomicU64,
    bytes_written: AtomicU64,
    syncs: AtomicU64,
}

impl Counters {
    pub fn new() -> Self {
        Self {
            read: Kind::new(),
            write: Kind::new(),
            flush: Kind::new(),
            other: Kind::new(),
            failed: AtomicU64::new(0),
            bytes_read: AtomicU64::new(0),
            bytes_written: AtomicU64::new(0),
            syncs: AtomicU64::new(0),
        }
    }

    pub fn completed(&self, operation: Operation, len_bytes: u64, took: Duration, ok: bool) {
        let (kind, bytes) = match operation {
            Operation::Read => (&self.read, Some(&self.bytes_read)),
            Operation::Write { .. } => (&self.write, Some(&self.bytes_written)),
            Operation::Flush => (&self.flush, None),
            Operation::Discard => (&self.other, None),
        };
        kind.count.fetch_add(1, Relaxed);
        kind.latency.record(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
        match bytes {
            Some(bytes) if ok => {
                bytes.fetch_add(len_bytes, Relaxed);
            }
            _ => {}
        }
        if !ok {
            self.failed.fetch_add(1, Relaxed);
        }
    }

    pub fn synced(&self) {
        self.syncs.fetch_add(1, Relaxed);
    }

    /// The counters' part of the statistics; the queue adds its own.
    pub fn snapshot(&self) -> DiskStats {
        let mut sums = [0; BUCKETS];
        for kind in [&self.read, &self.write, &self.flush, &self.other] {
            kind.latency.add_to(&mut sums);
        }
        DiskStats {
            requests: RequestCounts {
                read: self.read.count.load(Relaxed),
                write: self.write.count.load(Relaxed),
                flush: self.flush.count.load(Relaxed),
                other: self.other.count.load(Relaxed),
            },
            failed: self.failed.load(Relaxed),
            bytes: RequestBytes { read: self.bytes_read.load(Relaxed), written: self.bytes_written.load(Relaxed) },
            syncs: self.syncs.load(Relaxed),
            latency: RequestLatency {
                all: quantiles(&sums),
                read: self.read.latency.latency(),
                write: self.write.latency.latency(),
                flush: self.flush.latency.latency(),
            },
            ..DiskStats::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_in_order_and_hold_their_values() {
        for nanos in (0..5000).chain([u64::from(u32::MAX), 1 << 41, (1 << 42) + 1]) {
            let bucket = Histogram::bucket(nanos);
            let upper = Histogram::upper_nanos(bucket);
            assert!(nanos <= upper, "{nanos} in {bucket} up to {upper}");
            assert!(upper - nanos <= nanos / SUB, "{nanos} rounded up to {upper}");
            assert_eq!(Histogram::bucket(upper), bucket);
            assert!(Histogram::bucket(upper + 1) == bucket + 1);
        }
        assert_eq!(Histogram::bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn quantiles_of_a_known_mix() {
        let counters = Counters::new();
        for _ in 0..98 {
            counters.completed(Operation::Read, 512, Duration::from_nanos(1000), true);
        }
        for _ in 0..2 {
            counters.completed(Operation::Write { fua: false }, 512, Duration::from_micros(900), false);
        }
        let stats = counters.snapshot();
        assert_eq!(stats.latency.all.p50, stats.latency.read.p99);
        assert!(stats.latency.all.p99 >= Duration::from_micros(900));
        assert_eq!((stats.requests.read, stats.requests.write, stats.failed), (98, 2, 2));
        assert_eq!((stats.bytes.read, stats.bytes.written), (98 * 512, 0));
        assert_eq!(stats.latency.flush, Latency::default());
    }
}
