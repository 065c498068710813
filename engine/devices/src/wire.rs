//! Interrupt lines as a device sees them: something to raise and lower, with no number it could get wrong.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// The far end of wires: an interrupt router.
pub trait WireSink: Send + Sync {
    /// Line `line` is now at `level`. Told only of changes, except for edges that repeat.
    fn set_level(&self, line: u32, level: bool);
}

/// One interrupt line. The default is connected to nothing.
#[derive(Clone, Default)]
pub struct Wire {
    end: Option<(Arc<dyn WireSink>, u32)>,
}

impl Wire {
    /// A wire to line `line` of `sink`.
    pub fn new(sink: Arc<dyn WireSink>, line: u32) -> Self {
        Self { end: Some((sink, line)) }
    }

    /// A wire that leads nowhere.
    pub fn disconnected() -> Self {
        Self::default()
    }

    /// A wire and a probe that watches it: the test double.
    pub fn probe() -> (Self, Arc<WireProbe>) {
        let probe = Arc::new(WireProbe::default());
        (Self::new(probe.clone(), 0), probe)
    }

    /// Drives the line.
    pub fn set(&self, level: bool) {
        if let Some((sink, line)) = &self.end {
            sink.set_level(*line, level);
        }
    }

    /// One edge: up and down again.
    pub fn pulse(&self) {
        self.set(true);
        self.set(false);
    }
}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.end {
            Some((_, line)) => write!(f, "Wire({line})"),
            None => f.write_str("Wire(disconnected)"),
        }
    }
}

/// Watches a [`Wire`] in tests.
#[derive(Debug, Default)]
pub struct WireProbe {
    level: AtomicBool,
    rises: AtomicU64,
}

impl WireProbe {
    /// The level now.
    pub fn level(&self) -> bool {
        self.level.load(Ordering::SeqCst)
    }

    /// How often it went from low to high.
    pub fn rises(&self) -> u64 {
        self.rises.load(Ordering::SeqCst)
    }
}

impl WireSink for WireProbe {
    fn set_level(&self, _line: u32, level: bool) {
        if level && !self.level.swap(level, Ordering::SeqCst) {
            self.rises.fetch_add(1, Ordering::SeqCst);
        }
        self.level.store(level, Ordering::SeqCst);
    }
}
