//! One comparator. It knows the counter's value only when told, and says at which value it has something to do.

use serde::{Deserialize, Serialize};

use super::{FIRST_PIN, MIN_PERIODIC_TICKS, PINS};

const LEVEL: u64 = 1 << 1;
const INTERRUPT_ENABLE: u64 = 1 << 2;
const PERIODIC: u64 = 1 << 3;
/// Can be periodic, and has 64 bits.
const CAPABILITIES: u64 = 1 << 4 | 1 << 5;
/// The next write of the comparator sets it although the timer is periodic. Always reads 0.
const VALUE_SET: u64 = 1 << 6;
const MODE_32: u64 = 1 << 8;
const ROUTE_SHIFT: u32 = 9;
const ROUTE: u64 = 0x1f << ROUTE_SHIFT;
const WRITABLE: u64 = LEVEL | INTERRUPT_ENABLE | PERIODIC | MODE_32 | ROUTE;
const ROUTES: u64 = ((1 << PINS) - 1) << FIRST_PIN;

/// A comparator written with a value this little behind the counter was meant to be in front of it.
const LATE_TICKS: u64 = 1 << 28;

/// When a timer next matches. Values are those of the 64-bit counter, which may wrap around between now and then.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Schedule {
    /// When the comparator matches.
    matches: u64,
    /// When that is acted on: the same, unless the period is too short.
    due: u64,
}

#[derive(Clone, Debug)]
pub(super) struct Timer {
    configuration: u64,
    comparator: u64,
    period: u64,
    value_set: bool,
    schedule: Option<Schedule>,
}

#[derive(Serialize, Deserialize)]
pub(super) struct TimerV1 {
    configuration: u64,
    comparator: u64,
    period: u64,
    value_set: bool,
    schedule: Option<Schedule>,
}

impl Default for Timer {
    fn default() -> Self {
        Self { configuration: 0, comparator: u64::MAX, period: 0, value_set: false, schedule: None }
    }
}

impl Timer {
    pub(super) fn configuration(&self) -> u64 {
        self.configuration | CAPABILITIES | ROUTES << 32
    }

    pub(super) fn comparator(&self) -> u64 {
        self.comparator
    }

    pub(super) fn is_level(&self) -> bool {
        self.configuration & LEVEL != 0
    }

    pub(super) fn interrupt_enabled(&self) -> bool {
        self.configuration & INTERRUPT_ENABLE != 0
    }

    /// The IOAPIC pin it is routed to; below 20 it is none of the timers'.
    pub(super) fn route(&self) -> usize {
        ((self.configuration & ROUTE) >> ROUTE_SHIFT) as usize
    }

    fn periodic(&self) -> bool {
        self.configuration & PERIODIC != 0
    }

    fn mask(&self) -> u64 {
        if self.configuration & MODE_32 != 0 { 0xffff_ffff } else { u64::MAX }
    }

    /// The counter's value at which [`expire`](Self::expire) will have an interrupt to give.
    pub(super) fn due(&self, already_pending: bool) -> Option<u64> {
        let waits = self.interrupt_enabled() && !(self.is_level() && already_pending);
        self.schedule.filter(|_| waits).map(|schedule| schedule.due)
    }

    pub(super) fn configure(&mut self, configuration: u64, counter: u64) {
        let mut new = configuration & WRITABLE;
        // A route that there is not does not stick: so software finds out.
        if ROUTES >> ((new & ROUTE) >> ROUTE_SHIFT) & 1 == 0 {
            new = (new & !ROUTE) | (self.configuration & ROUTE);
        }
        let changed = new ^ self.configuration;
        self.configuration = new;
        self.value_set = configuration & VALUE_SET != 0 && self.periodic();
        self.comparator &= self.mask();
        self.period &= self.mask();
        if changed & (PERIODIC | MODE_32) != 0 {
            self.schedule(counter);
        }
    }

    /// A write of the comparator's `mask` bits.
    pub(super) fn set_comparator(&mut self, value: u64, mask: u64, counter: u64) {
        let merge = |old: u64| (old & !mask) | (value & mask);
        if self.periodic() {
            self.period = merge(self.period) & self.mask();
            if !std::mem::take(&mut self.value_set) {
                return;
            }
        }
        self.comparator = merge(self.comparator) & self.mask();
        let behind = counter.wrapping_sub(self.comparator) & self.mask();
        if behind < LATE_TICKS {
            self.schedule = Some(Schedule { matches: counter, due: counter });
        } else {
            self.schedule(counter);
        }
    }

    /// Works out the next match from the comparator.
    pub(super) fn schedule(&mut self, counter: u64) {
        let ahead = self.comparator.wrapping_sub(counter) & self.mask();
        // Farther away than 2^63 ticks (three thousand years) is never.
        self.schedule = i64::try_from(ahead).is_ok().then(|| {
            let at = counter.wrapping_add(ahead);
            Schedule { matches: at, due: at }
        });
    }

    /// Whether the timer has come to its match. It is then set for its next one; matches missed meanwhile are gone.
    pub(super) fn expire(&mut self, counter: u64) -> bool {
        let Some(Schedule { matches, due }) = self.schedule else { return false };
        if i64::try_from(counter.wrapping_sub(due)).is_err() {
            return false;
        }
        // One-shot timers of 32 bits match again when those have come round.
        let repeats = match (self.periodic(), self.configuration & MODE_32 != 0) {
            (true, _) if self.period != 0 => Some(self.period),
            (_, true) => Some(1 << 32),
            _ => None,
        };
        self.schedule = repeats.map(|period| {
            let missed = counter.wrapping_sub(matches) / period;
            let matches = matches.wrapping_add(missed.wrapping_mul(period)).wrapping_add(period);
            let shortest = u64::from(MIN_PERIODIC_TICKS);
            let due = if period < shortest { counter.wrapping_add(shortest) } else { matches };
            Schedule { matches, due }
        });
        if self.periodic()
            && let Some(schedule) = self.schedule
        {
            self.comparator = schedule.matches & self.mask();
        }
        true
    }

    pub(super) fn save(&self) -> TimerV1 {
        let Self { configuration, comparator, period, value_set, schedule } = self.clone();
        TimerV1 { configuration, comparator, period, value_set, schedule }
    }

    /// `None` where the state can not be.
    pub(super) fn restore(state: TimerV1) -> Option<Self> {
        let TimerV1 { configuration, comparator, period, value_set, schedule } = state;
        let timer = Self { configuration, comparator, period, value_set, schedule };
        let route_exists = timer.route() == 0 || ROUTES >> timer.route() & 1 != 0;
        let fits = (comparator | period) & !timer.mask() == 0;
        (configuration & !WRITABLE == 0 && route_exists && fits).then_some(timer)
    }
}
