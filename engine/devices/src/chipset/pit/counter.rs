//! One counter of the 8254, in all six modes, as a function of time.

use serde::{Deserialize, Serialize};

use crate::state::same_fields;

/// What a counter does. Times are ticks of its clock since the machine was first powered on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Run {
    /// Waits for a count.
    Idle,
    /// Has a count and waits for its gate to rise (modes 1 and 5).
    Armed,
    /// Counts since this tick.
    Running(u64),
    /// Held by a low gate, after this many ticks.
    Held(u64),
}

/// A count that takes over at the end of the period in progress (modes 2 and 3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Next {
    at_tick: u64,
    count: u32,
}

/// How the two bytes of the count are transferred.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Access {
    Low,
    High,
    LowThenHigh,
}

/// One counter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Counter {
    mode: u8,
    bcd: bool,
    access: Access,
    gate: bool,
    run: Run,
    /// The count in progress: 1 to 65536 (10000 in BCD).
    count: u32,
    /// The count register, for a trigger to load.
    loaded: u32,
    next: Option<Next>,
    written_low: Option<u8>,
    read_high: bool,
    latched_count: Option<u16>,
    latched_status: Option<u8>,
    null_count: bool,
}

/// Saved form of a counter.
#[derive(Serialize, Deserialize)]
pub(super) struct CounterV1 {
    mode: u8,
    bcd: bool,
    access: Access,
    gate: bool,
    run: Run,
    count: u32,
    loaded: u32,
    next: Option<Next>,
    written_low: Option<u8>,
    read_high: bool,
    latched_count: Option<u16>,
    latched_status: Option<u8>,
    null_count: bool,
}

same_fields!(Counter, CounterV1; mode, bcd, access, gate, run, count, loaded, next, written_low, read_high,
    latched_count, latched_status, null_count);

impl Default for Counter {
    /// Mode 0 with no count: the real chip's state at power-on is not defined, and this one does nothing.
    fn default() -> Self {
        Self {
            mode: 0,
            bcd: false,
            access: Access::LowThenHigh,
            gate: true,
            run: Run::Idle,
            count: 0x1_0000,
            loaded: 0x1_0000,
            next: None,
            written_low: None,
            read_high: false,
            latched_count: None,
            latched_status: None,
            null_count: true,
        }
    }
}

impl Counter {
    pub(super) fn gate(&self) -> bool {
        self.gate
    }

    /// Whether OUT goes low when the counter is programmed: mode 0, where the end of the count is the edge.
    pub(super) fn starts_low(&self) -> bool {
        self.mode == 0
    }

    fn periodic(&self) -> bool {
        matches!(self.mode, 2 | 3)
    }

    /// Length of a period. A count of 1 is not allowed in these modes and taken as 2.
    fn period(&self) -> u64 {
        u64::from(self.count.max(2))
    }

    /// Ticks between two edges of OUT, where it is periodic.
    pub(super) fn interval(&self) -> Option<u64> {
        self.periodic().then(|| self.period())
    }

    /// A control word other than a latch command.
    pub(super) fn program(&mut self, value: u8) {
        self.mode = match (value >> 1) & 7 {
            6 => 2,
            7 => 3,
            mode => mode,
        };
        self.bcd = value & 1 != 0;
        self.access = match value & 0x30 {
            0x10 => Access::Low,
            0x20 => Access::High,
            _ => Access::LowThenHigh,
        };
        self.run = Run::Idle;
        self.next = None;
        self.written_low = None;
        self.read_high = false;
        self.latched_count = None;
        self.latched_status = None;
        self.null_count = true;
    }

    /// A byte of the count. True where counting starts anew.
    pub(super) fn write(&mut self, value: u8, now: u64) -> bool {
        let raw = match (self.access, self.written_low) {
            (Access::Low, _) => u16::from(value),
            (Access::High, _) => u16::from(value) << 8,
            (Access::LowThenHigh, None) => {
                self.written_low = Some(value);
                if self.mode == 0 {
                    // The first byte stops the count.
                    self.run = Run::Idle;
                }
                return self.mode == 0;
            }
            (Access::LowThenHigh, Some(low)) => {
                self.written_low = None;
                u16::from_le_bytes([low, value])
            }
        };
        self.load(self.count_of(raw), now)
    }

    fn load(&mut self, count: u32, now: u64) -> bool {
        self.loaded = count;
        self.null_count = true;
        match (self.mode, self.run) {
            // These count on, and take the new count at the next trigger.
            (1 | 5, Run::Running(_)) => return false,
            (1 | 5, _) => {
                self.run = Run::Armed;
                return false;
            }
            (2 | 3, Run::Running(start)) => {
                let elapsed = now.saturating_sub(start);
                let periods = elapsed / self.period() + 1;
                let at_tick = start.saturating_add(periods.saturating_mul(self.period()));
                self.next = Some(Next { at_tick, count });
                return false;
            }
            _ => {}
        }
        self.count = count;
        self.null_count = false;
        self.run = if self.gate { Run::Running(now) } else { Run::Held(0) };
        true
    }

    /// When a waiting count takes over.
    pub(super) fn next_sequence(&self) -> Option<u64> {
        self.next.map(|next| next.at_tick)
    }

    /// Lets a waiting count take over if its time has come.
    pub(super) fn advance(&mut self, now: u64) {
        if let Some(Next { at_tick, count }) = self.next
            && at_tick <= now
        {
            self.next = None;
            self.count = count;
            self.null_count = false;
            self.run = Run::Running(at_tick);
        }
    }

    /// The gate input. Call [`advance`](Self::advance) first.
    pub(super) fn set_gate(&mut self, level: bool, now: u64) {
        if level == self.gate {
            return;
        }
        self.gate = level;
        match (self.mode, level, self.run) {
            (0 | 4, false, Run::Running(start)) => self.run = Run::Held(now.saturating_sub(start)),
            (0 | 4, true, Run::Held(elapsed)) => self.run = Run::Running(now.saturating_sub(elapsed)),
            (2 | 3, false, Run::Running(start)) => self.run = Run::Held(now.saturating_sub(start)),
            (1 | 5, true, Run::Armed | Run::Running(_)) | (2 | 3, true, Run::Held(_)) => {
                self.count = self.loaded;
                self.null_count = false;
                self.next = None;
                self.run = Run::Running(now);
            }
            _ => {}
        }
        if !level && self.periodic() {
            // A new count is loaded by the trigger that starts it again.
            self.next = None;
        }
    }

    /// The OUT pin.
    pub(super) fn out(&self, now: u64) -> bool {
        let count = u64::from(self.count);
        let elapsed = match self.run {
            Run::Idle => return self.mode != 0,
            Run::Armed => return true,
            Run::Held(elapsed) if matches!(self.mode, 0 | 4) => elapsed,
            Run::Held(_) => return true,
            Run::Running(start) => now.saturating_sub(start),
        };
        match self.mode {
            0 | 1 => elapsed >= count,
            2 => elapsed % self.period() != self.period() - 1,
            3 => elapsed % self.period() < self.period().div_ceil(2),
            _ => elapsed != count,
        }
    }

    /// Rising edges of OUT after `from` and up to `to`.
    pub(super) fn edges(&self, from: u64, to: u64) -> u64 {
        let Run::Running(start) = self.run else { return 0 };
        match self.mode {
            2 | 3 => {
                let periods = |tick: u64| tick.saturating_sub(start) / self.period();
                periods(to).saturating_sub(periods(from))
            }
            _ => u64::from(self.one_shot_edge(start).is_some_and(|edge| from < edge && edge <= to)),
        }
    }

    /// The first rising edge of OUT after `from`.
    pub(super) fn next_edge(&self, from: u64) -> Option<u64> {
        let Run::Running(start) = self.run else { return None };
        match self.mode {
            2 | 3 => {
                let periods = from.saturating_sub(start) / self.period() + 1;
                Some(start.saturating_add(periods.saturating_mul(self.period())))
            }
            _ => self.one_shot_edge(start).filter(|edge| *edge > from),
        }
    }

    fn one_shot_edge(&self, start: u64) -> Option<u64> {
        let end = start.saturating_add(u64::from(self.count));
        match self.mode {
            0 | 1 => Some(end),
            // The strobe is low for one tick.
            4 | 5 => Some(end.saturating_add(1)),
            _ => None,
        }
    }

    /// Latch commands.
    pub(super) fn read_back(&mut self, count: bool, status: bool, now: u64) {
        if count && self.latched_count.is_none() {
            self.latched_count = Some(self.value(now));
        }
        if status && self.latched_status.is_none() {
            let access = match self.access {
                Access::Low => 1,
                Access::High => 2,
                Access::LowThenHigh => 3,
            };
            let status = (u8::from(self.out(now)) << 7)
                | (u8::from(self.null_count) << 6)
                | (access << 4)
                | (self.mode << 1)
                | u8::from(self.bcd);
            self.latched_status = Some(status);
        }
    }

    /// A read of the counter's port.
    pub(super) fn read(&mut self, now: u64) -> u8 {
        if let Some(status) = self.latched_status.take() {
            return status;
        }
        let [low, high] = self.latched_count.unwrap_or_else(|| self.value(now)).to_le_bytes();
        let (byte, last) = match self.access {
            Access::Low => (low, true),
            Access::High => (high, true),
            Access::LowThenHigh if self.read_high => (high, true),
            Access::LowThenHigh => (low, false),
        };
        self.read_high = !last;
        if last {
            self.latched_count = None;
        }
        byte
    }

    /// What the counting element holds, in the form the guest reads.
    fn value(&self, now: u64) -> u16 {
        let count = u64::from(self.count);
        let elapsed = match self.run {
            Run::Idle | Run::Armed => 0,
            Run::Held(elapsed) => elapsed,
            Run::Running(start) => now.saturating_sub(start),
        };
        let value = match self.mode {
            2 => self.period() - elapsed % self.period(),
            3 => {
                // Counts by two, from the even count, twice a period.
                let first_half = self.period().div_ceil(2);
                let phase = elapsed % self.period();
                let within = if phase < first_half { phase } else { phase - first_half };
                (self.period() & !1).saturating_sub(2 * within)
            }
            // The others count on through 0.
            _ => count + self.modulus() - elapsed % self.modulus(),
        };
        self.raw_of(value % self.modulus())
    }

    fn modulus(&self) -> u64 {
        if self.bcd { 10_000 } else { 0x1_0000 }
    }

    fn count_of(&self, raw: u16) -> u32 {
        match (raw, self.bcd) {
            (0, false) => 0x1_0000,
            (0, true) => 10_000,
            (raw, false) => u32::from(raw),
            (raw, true) => {
                // Digits past 9 are no BCD; whatever they mean, the count stays in range.
                let digit = |shift: u16| u32::from((raw >> shift) & 0xf).min(9);
                digit(12) * 1000 + digit(8) * 100 + digit(4) * 10 + digit(0)
            }
        }
    }

    fn raw_of(&self, value: u64) -> u16 {
        let raw = if self.bcd {
            ((value / 1000 % 10) << 12) | ((value / 100 % 10) << 8) | ((value / 10 % 10) << 4) | (value % 10)
        } else {
            value & 0xffff
        };
        u16::try_from(raw).unwrap_or(0)
    }

    pub(super) fn save(&self) -> CounterV1 {
        self.clone().into()
    }

    /// `None` for what no counter can hold.
    pub(super) fn restore(saved: CounterV1) -> Option<Self> {
        let CounterV1 { mode, run, count, loaded, next, .. } = saved;
        let in_range = |count: u32| (1..=0x1_0000).contains(&count);
        let possible = mode <= 5
            && in_range(count)
            && in_range(loaded)
            && next.is_none_or(|next| in_range(next.count) && matches!(mode, 2 | 3) && matches!(run, Run::Running(_)));
        possible.then(|| saved.into())
    }
}
