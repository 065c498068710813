//! The interval timer: Intel 8254 (order number 231164), and the system control port 61h next to it.
//!
//! Counters are computed from the virtual clock when looked at; the only timed work is the rising edges of counter 0,
//! which is IRQ 0. Between them its wire stays high: the controllers take the edge.
//!
//! Edges that come late are not lost: up to `MAX_BACKLOG` of them are made up for at twice the programmed rate, for
//! guests that count ticks to know the time. Edges closer than `MIN_INTERVAL_TICKS` are merged and not made up for,
//! so no count a guest can program makes a storm. What the counters read is exact all the same.

mod counter;

use serde::{Deserialize, Serialize};

use crate::{Device, Poll, PortIo, PortRange, RestoreError, SavedState, VirtualClock, Wire};
use counter::{Counter, CounterV1};

/// Frequency of the counters' clock in Hz.
pub const FREQUENCY_HZ: u64 = 1_193_182;
/// The ports it answers at.
pub const PORTS: [PortRange; 2] = [PortRange { first: 0x40, count: 4 }, PortRange { first: 0x61, count: 1 }];

/// Late ticks that are remembered: a third of a second at 100 Hz.
const MAX_BACKLOG: u64 = 32;
/// Closest distance of two interrupts, in ticks: 100 µs.
const MIN_INTERVAL_TICKS: u64 = 119;
/// Half a refresh cycle, in nanoseconds: how long port 61h bit 4 stays the same.
const REFRESH_TOGGLE_NS: u64 = 15_085;

const KIND: &str = "pit";
const VERSION: u32 = 1;

/// Ticks of the counters' clock up to a time of the virtual clock.
fn ticks_at(now_ns: u64) -> u64 {
    let ticks = u128::from(now_ns) * u128::from(FREQUENCY_HZ) / 1_000_000_000;
    u64::try_from(ticks).unwrap_or(u64::MAX)
}

/// The first nanosecond at which [`ticks_at`] is `tick`.
fn ns_of(tick: u64) -> u64 {
    let ns = (u128::from(tick) * 1_000_000_000).div_ceil(u128::from(FREQUENCY_HZ));
    u64::try_from(ns).unwrap_or(u64::MAX)
}

/// When counter 0 interrupts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Ticker {
    /// Edges up to here are accounted for.
    seen_tick: u64,
    /// The last interrupt.
    last_tick: Option<u64>,
    /// Edges still to be made up for.
    backlog: u64,
}

/// The 8254 and port 61h.
pub struct Pit {
    clock: VirtualClock,
    irq: Wire,
    counters: [Counter; 3],
    ticker: Ticker,
    /// Port 61h bits 3:0: gate of counter 2, speaker, and two enables that are only kept.
    control: u8,
}

#[derive(Serialize, Deserialize)]
struct PitV1 {
    counters: Vec<CounterV1>,
    seen_tick: u64,
    last_tick: Option<u64>,
    backlog: u64,
    control: u8,
}

impl Pit {
    /// A timer whose counter 0 drives `irq` (IRQ 0).
    pub fn new(clock: VirtualClock, irq: Wire) -> Self {
        let mut pit = Self { clock, irq, counters: Default::default(), ticker: Ticker::default(), control: 0 };
        pit.counters[2].set_gate(false, 0);
        pit
    }

    fn now(&self) -> u64 {
        ticks_at(self.clock.now_ns())
    }

    /// Brings counters and interrupts up to `now`.
    fn advance(&mut self, now: u64) {
        let [irq_counter, others @ ..] = &mut self.counters;
        for counter in others {
            counter.advance(now);
        }
        // A count written over a running one starts a new sequence at the end of the old one's period.
        let mut edges = 0_u64;
        if let Some(at) = irq_counter.next_sequence()
            && at <= now
        {
            edges = irq_counter.edges(self.ticker.seen_tick, at);
            self.ticker.seen_tick = self.ticker.seen_tick.max(at);
        }
        irq_counter.advance(now);
        edges = edges.saturating_add(irq_counter.edges(self.ticker.seen_tick, now));
        self.ticker.seen_tick = self.ticker.seen_tick.max(now);

        let interval = irq_counter.interval().unwrap_or(0);
        self.ticker.backlog = if interval < MIN_INTERVAL_TICKS {
            // One-shot, or too fast to be delivered one by one.
            (self.ticker.backlog + edges.min(1)).min(1)
        } else {
            self.ticker.backlog.saturating_add(edges).min(MAX_BACKLOG + 1)
        };
        if self.ticker.backlog > 0 && now >= self.earliest_interrupt() {
            self.ticker.backlog -= 1;
            self.ticker.last_tick = Some(now);
            self.irq.set(false);
            self.irq.set(true);
        }
    }

    /// The tick before which no further interrupt is due although there is a backlog.
    fn earliest_interrupt(&self) -> u64 {
        let spacing = (self.counters[0].interval().unwrap_or(0) / 2).max(MIN_INTERVAL_TICKS);
        self.ticker.last_tick.map_or(0, |last| last.saturating_add(spacing))
    }

    /// A new mode or count for counter 0: late ticks of the old one are nobody's any more.
    fn restart_ticker(&mut self, now: u64) {
        self.ticker.seen_tick = now;
        self.ticker.backlog = 0;
        if self.counters[0].starts_low() {
            self.irq.set(false);
        }
    }

    fn write_control_word(&mut self, value: u8, now: u64) {
        match value >> 6 {
            3 => {
                for (index, counter) in self.counters.iter_mut().enumerate() {
                    if value & (2 << index) != 0 {
                        counter.read_back(value & 0x20 == 0, value & 0x10 == 0, now);
                    }
                }
            }
            index => {
                let Some(counter) = self.counters.get_mut(usize::from(index)) else { return };
                if value & 0x30 == 0 {
                    counter.read_back(true, false, now);
                } else {
                    counter.program(value);
                    if index == 0 {
                        self.restart_ticker(now);
                    }
                }
            }
        }
    }

    fn read_byte(&mut self, port: u16, now: u64) -> u8 {
        match port {
            0x40..=0x42 => self.counters[usize::from(port - 0x40)].read(now),
            0x61 => {
                let refresh = u8::from((self.clock.now_ns() / REFRESH_TOGGLE_NS) % 2 == 1);
                self.control | (refresh << 4) | (u8::from(self.counters[2].out(now)) << 5)
            }
            _ => 0xff,
        }
    }

    fn write_byte(&mut self, port: u16, value: u8, now: u64) {
        match port {
            0x40..=0x42 => {
                let restarted = self.counters[usize::from(port - 0x40)].write(value, now);
                if restarted && port == 0x40 {
                    self.restart_ticker(now);
                }
            }
            0x43 => self.write_control_word(value, now),
            0x61 => {
                self.control = value & 0x0f;
                self.counters[2].set_gate(value & 1 != 0, now);
            }
            _ => {}
        }
    }
}

impl Device for Pit {
    fn reset(&mut self) {
        *self = Self::new(self.clock.clone(), self.irq.clone());
        self.irq.set(false);
    }

    fn save(&self) -> SavedState {
        let Self { clock: _, irq: _, counters, ticker, control } = self;
        let Ticker { seen_tick, last_tick, backlog } = *ticker;
        let counters = counters.iter().map(Counter::save).collect();
        SavedState::encode(KIND, VERSION, &PitV1 { counters, seen_tick, last_tick, backlog, control: *control })
    }

    fn restore(&mut self, state: &SavedState) -> Result<(), RestoreError> {
        let PitV1 { counters, seen_tick, last_tick, backlog, control } = state.decode(KIND, VERSION)?;
        let field = |field| RestoreError::Field { kind: KIND, field };
        let Ok(saved) = <[CounterV1; 3]>::try_from(counters) else { return Err(field("number of counters")) };
        let mut counters: [Counter; 3] = Default::default();
        for (counter, saved) in counters.iter_mut().zip(saved) {
            *counter = Counter::restore(saved).ok_or(field("counter"))?;
        }
        if backlog > MAX_BACKLOG + 1 {
            return Err(field("backlog"));
        }
        if control > 0x0f || counters[2].gate() != (control & 1 != 0) || !counters[0].gate() || !counters[1].gate() {
            return Err(field("gate"));
        }
        self.counters = counters;
        self.ticker = Ticker { seen_tick, last_tick, backlog };
        self.control = control;
        Ok(())
    }

    fn port_io(&mut self) -> Option<&mut dyn PortIo> {
        Some(self)
    }

    fn poll(&mut self) -> Option<&mut dyn Poll> {
        Some(self)
    }
}

impl PortIo for Pit {
    fn port_read(&mut self, port: u16, data: &mut [u8]) {
        let now = self.now();
        self.advance(now);
        for (byte, port) in data.iter_mut().zip(port..=u16::MAX) {
            *byte = self.read_byte(port, now);
        }
    }

    fn port_write(&mut self, port: u16, data: &[u8]) {
        let now = self.now();
        self.advance(now);
        for (byte, port) in data.iter().zip(port..=u16::MAX) {
            self.write_byte(port, *byte, now);
        }
    }
}

impl Poll for Pit {
    fn deadline_ns(&self) -> Option<u64> {
        let due = if self.ticker.backlog > 0 {
            self.earliest_interrupt()
        } else {
            let edge = self.counters[0].next_edge(self.ticker.seen_tick)?;
            // A pending new count may come first, and then counts.
            let floor = self.ticker.last_tick.map_or(0, |last| last.saturating_add(MIN_INTERVAL_TICKS));
            edge.max(floor)
        };
        Some(ns_of(due))
    }

    fn poll(&mut self, now_ns: u64) {
        self.advance(ticks_at(now_ns));
    }
}

#[cfg(test)]
mod tests;
