//! The time-stamp counter.

use std::time::Instant;

/// Counts ticks at a fixed rate, and can stand still.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// In kHz.
    pub khz: u32,
    /// Ticks at `since`.
    base: u64,
    /// None while it stands still.
    since: Option<Instant>,
}

impl Clock {
    /// Runs from 0 on.
    pub fn new(khz: u32) -> Self {
        Self { khz, base: 0, since: Some(Instant::now()) }
    }

    /// Runs, and was 0 at that time.
    pub fn since(began: Instant, khz: u32) -> Self {
        Self { khz, base: 0, since: Some(began) }
    }

    /// Ticks now.
    pub fn ticks(&self) -> u64 {
        self.ticks_at(Instant::now())
    }

    /// Ticks at a time that is not before the last change.
    pub fn ticks_at(&self, now: Instant) -> u64 {
        let nanos = self.since.map_or(0, |since| now.saturating_duration_since(since).as_nanos());
        self.base.wrapping_add((nanos * u128::from(self.khz) / 1_000_000) as u64)
    }

    /// Goes on from there.
    pub fn set(&mut self, ticks: u64) {
        self.base = ticks;
        self.since = self.since.map(|_| Instant::now());
    }

    /// Stands still.
    pub fn pause(&mut self) {
        if self.since.is_some() {
            self.base = self.ticks();
            self.since = None;
        }
    }

    /// Goes on.
    pub fn resume(&mut self) {
        self.since.get_or_insert_with(Instant::now);
    }
}
