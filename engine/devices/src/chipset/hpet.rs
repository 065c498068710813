//! High Precision Event Timer: a 100 MHz counter and three comparators, at FED0_0000h.
//!
//! In legacy replacement mode its first two timers take IRQ0 and IRQ8 from the PIT and the RTC; [`LegacyIrq`] is the
//! switch. Otherwise each timer goes to one of the IOAPIC's pins that nothing else uses.
//!
//! A comparator set to a moment that has just passed fires at once: a guest under a hypervisor can be late through no
//! fault of its own, and would otherwise wait for the counter to come round.
//!
//! Facts: IA-PC HPET Specification 1.0a.

mod legacy;
#[cfg(test)]
mod tests;
mod timer;

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{Device, Mmio, Poll, RestoreError, SavedState, VirtualClock, Wire};
use timer::{Timer, TimerV1};

pub use legacy::LegacyIrq;

const KIND: &str = "hpet";
const VERSION: u32 = 1;

/// The low half of the capability register: Intel, legacy replacement, a 64-bit counter, three timers, revision 1.
pub const BLOCK_ID: u32 = 0x8086_a201;
/// Least period, in ticks, that a periodic timer is meant to be used with: 100 us. A shorter one is kept, but its
/// interrupts come no faster.
pub const MIN_PERIODIC_TICKS: u16 = 10_000;

const TIMERS: usize = 3;
const NS_PER_TICK: u64 = 10;
const PERIOD_FEMTOSECONDS: u64 = NS_PER_TICK * 1_000_000;

/// First of the IOAPIC pins that timers can use.
const FIRST_PIN: usize = 20;
const PINS: usize = 4;

const CAPABILITIES: u64 = 0x000;
const CONFIGURATION: u64 = 0x010;
const INTERRUPT_STATUS: u64 = 0x020;
const COUNTER: u64 = 0x0f0;
const TIMERS_START: u64 = 0x100;
const TIMER_STRIDE: u64 = 0x20;

const ENABLE: u64 = 1 << 0;
const LEGACY: u64 = 1 << 1;

/// Where the HPET's interrupts go.
#[derive(Clone, Debug)]
pub struct HpetWires {
    /// IRQ0, shared with the PIT.
    pub irq0: Arc<LegacyIrq>,
    /// IRQ8, shared with the RTC.
    pub irq8: Arc<LegacyIrq>,
    /// Pins 20 to 23 of the IOAPIC.
    pub pins: [Wire; PINS],
}

/// The HPET.
pub struct Hpet {
    clock: VirtualClock,
    wires: HpetWires,
    configuration: u64,
    /// Level-triggered interrupts that are pending, a bit per timer.
    status: u64,
    /// The counter while it stands still; while it runs, what is to be added to the virtual clock's ticks.
    counter_base: u64,
    timers: [Timer; TIMERS],
}

#[derive(Serialize, Deserialize)]
struct HpetV1 {
    configuration: u64,
    status: u64,
    counter_base: u64,
    timers: [TimerV1; TIMERS],
}

/// What part of a register an access touches.
#[derive(Clone, Copy)]
struct Access {
    register: u64,
    mask: u64,
    shift: u32,
}

impl Access {
    /// Registers are accessed in whole aligned dwords or qwords; other accesses have no effect.
    fn new(gpa: u64, len: usize) -> Option<Self> {
        let offset = gpa.checked_sub(Hpet::BASE).filter(|offset| *offset < Hpet::LEN_BYTES)?;
        let (mask, shift) = match (len, offset & 7) {
            (8, 0) => (u64::MAX, 0),
            (4, 0) => (0xffff_ffff, 0),
            (4, 4) => (0xffff_ffff << 32, 32),
            _ => return None,
        };
        Some(Self { register: offset & !7, mask, shift })
    }
}

impl Hpet {
    /// Where its registers are.
    pub const BASE: u64 = 0xfed0_0000;
    /// Their length.
    pub const LEN_BYTES: u64 = 0x400;

    /// An HPET as it is after power-on: standing still at 0.
    pub fn new(clock: VirtualClock, wires: HpetWires) -> Self {
        Self { clock, wires, configuration: 0, status: 0, counter_base: 0, timers: Default::default() }
    }

    fn running(&self) -> bool {
        self.configuration & ENABLE != 0
    }

    fn legacy(&self) -> bool {
        self.configuration & LEGACY != 0
    }

    fn counter(&self, now_ns: u64) -> u64 {
        if self.running() { self.counter_base.wrapping_add(now_ns / NS_PER_TICK) } else { self.counter_base }
    }

    /// Fires what is due.
    fn run(&mut self, now_ns: u64) {
        if !self.running() {
            return;
        }
        let counter = self.counter(now_ns);
        for index in 0..TIMERS {
            if self.timers[index].expire(counter) {
                self.fire(index);
            }
        }
    }

    fn fire(&mut self, index: usize) {
        let timer = &self.timers[index];
        if timer.is_level() {
            // The status is set whether or not the timer may interrupt.
            self.status |= 1 << index;
            self.drive_level(index);
        } else if timer.interrupt_enabled() {
            self.with_line(index, Wire::pulse, LegacyIrq::hpet_pulse);
        }
    }

    /// Does one thing with the line timer `index` goes to now.
    fn with_line(&self, index: usize, wire: impl FnOnce(&Wire), legacy: impl FnOnce(&LegacyIrq)) {
        match index {
            0 if self.legacy() => legacy(&self.wires.irq0),
            1 if self.legacy() => legacy(&self.wires.irq8),
            _ => {
                let pin = self.timers[index].route().checked_sub(FIRST_PIN);
                if let Some(line) = pin.and_then(|pin| self.wires.pins.get(pin)) {
                    wire(line);
                }
            }
        }
    }

    /// Makes a level-triggered timer's line what it should be.
    fn drive_level(&self, index: usize) {
        let timer = &self.timers[index];
        let level = timer.is_level() && timer.interrupt_enabled() && self.status & 1 << index != 0;
        self.with_line(index, |wire| wire.set(level), |legacy| legacy.set_hpet(level));
    }

    /// Lowers timer `index`'s line, before it is changed or sent elsewhere.
    fn release_line(&self, index: usize) {
        if self.timers[index].is_level() {
            self.with_line(index, |wire| wire.set(false), |legacy| legacy.set_hpet(false));
        }
    }

    fn drive_all(&self) {
        self.wires.irq0.select_hpet(self.legacy());
        self.wires.irq8.select_hpet(self.legacy());
        for index in 0..TIMERS {
            if self.timers[index].is_level() {
                self.drive_level(index);
            }
        }
    }

    fn release_all(&self) {
        for index in 0..TIMERS {
            self.release_line(index);
        }
    }

    fn read(&self, register: u64, now_ns: u64) -> u64 {
        match register {
            CAPABILITIES => u64::from(BLOCK_ID) | PERIOD_FEMTOSECONDS << 32,
            CONFIGURATION => self.configuration,
            INTERRUPT_STATUS => self.status,
            COUNTER => self.counter(now_ns),
            _ => match self.timer_register(register) {
                Some((index, 0x00)) => self.timers[index].configuration(),
                Some((index, 0x08)) => self.timers[index].comparator(),
                _ => 0,
            },
        }
    }

    /// The timer `register` belongs to, and which of its registers it is.
    fn timer_register(&self, register: u64) -> Option<(usize, u64)> {
        let offset = register.checked_sub(TIMERS_START)?;
        let index = usize::try_from(offset / TIMER_STRIDE).ok().filter(|index| *index < TIMERS)?;
        Some((index, offset % TIMER_STRIDE))
    }

    fn write(&mut self, register: u64, value: u64, mask: u64, now_ns: u64) {
        let merged = |old: u64| (old & !mask) | (value & mask);
        match register {
            CONFIGURATION => self.configure(merged(self.configuration) & (ENABLE | LEGACY), now_ns),
            INTERRUPT_STATUS => {
                self.status &= !(value & mask);
                for index in 0..TIMERS {
                    if self.timers[index].is_level() {
                        self.drive_level(index);
                    }
                }
            }
            COUNTER => {
                let counter = merged(self.counter(now_ns));
                self.counter_base = if self.running() { counter.wrapping_sub(now_ns / NS_PER_TICK) } else { counter };
                for timer in &mut self.timers {
                    timer.schedule(counter);
                }
            }
            _ => match self.timer_register(register) {
                Some((index, 0x00)) => {
                    self.release_line(index);
                    let configuration = merged(self.timers[index].configuration());
                    let counter = self.counter(now_ns);
                    self.timers[index].configure(configuration, counter);
                    if !self.timers[index].is_level() {
                        self.status &= !(1 << index);
                    } else {
                        self.drive_level(index);
                    }
                }
                Some((index, 0x08)) => {
                    let counter = self.counter(now_ns);
                    self.timers[index].set_comparator(value, mask, counter);
                }
                _ => {}
            },
        }
        self.run(now_ns);
    }

    fn configure(&mut self, configuration: u64, now_ns: u64) {
        let counter = self.counter(now_ns);
        let started = configuration & !self.configuration & ENABLE != 0;
        self.release_all();
        self.configuration = configuration;
        self.counter_base = if self.running() { counter.wrapping_sub(now_ns / NS_PER_TICK) } else { counter };
        if started {
            for timer in &mut self.timers {
                timer.schedule(counter);
            }
        }
        self.drive_all();
    }
}

impl Mmio for Hpet {
    fn mmio_read(&mut self, gpa: u64, data: &mut [u8]) {
        let Some(access) = Access::new(gpa, data.len()) else { return };
        let now_ns = self.clock.now_ns();
        self.run(now_ns);
        let value = (self.read(access.register, now_ns) & access.mask) >> access.shift;
        for (byte, value) in data.iter_mut().zip(value.to_le_bytes()) {
            *byte = value;
        }
    }

    fn mmio_write(&mut self, gpa: u64, data: &[u8]) {
        let Some(access) = Access::new(gpa, data.len()) else { return };
        let mut value = [0; 8];
        value[..data.len()].copy_from_slice(data);
        let now_ns = self.clock.now_ns();
        self.run(now_ns);
        self.write(access.register, u64::from_le_bytes(value) << access.shift, access.mask, now_ns);
    }
}

impl Poll for Hpet {
    fn deadline_ns(&self) -> Option<u64> {
        if !self.running() {
            return None;
        }
        // Timers are scheduled in ticks of the counter, which runs with the virtual clock while it runs.
        let due = self.timers.iter().zip(0..).filter_map(|(timer, index)| {
            let at = timer.due(self.status & 1 << index != 0)?;
            Some(at.wrapping_sub(self.counter_base))
        });
        due.map(|ticks| ticks.saturating_mul(NS_PER_TICK)).min()
    }

    fn poll(&mut self, now_ns: u64) {
        self.run(now_ns);
    }
}

impl Device for Hpet {
    fn reset(&mut self) {
        self.release_all();
        self.configuration = 0;
        self.status = 0;
        self.counter_base = 0;
        self.timers = Default::default();
        self.drive_all();
    }

    fn save(&self) -> SavedState {
        let Self { clock: _, wires: _, configuration, status, counter_base, timers } = self;
        let state = HpetV1 {
            configuration: *configuration,
            status: *status,
            counter_base: *counter_base,
            timers: timers.each_ref().map(Timer::save),
        };
        SavedState::encode(KIND, VERSION, &state)
    }

    fn restore(&mut self, state: &SavedState) -> Result<(), RestoreError> {
        let HpetV1 { configuration, status, counter_base, timers } = state.decode(KIND, VERSION)?;
        let refused = |field| RestoreError::Field { kind: KIND, field };
        if configuration & !(ENABLE | LEGACY) != 0 {
            return Err(refused("configuration"));
        }
        if status >> TIMERS != 0 {
            return Err(refused("interrupt status"));
        }
        let [first, second, third] = timers.map(Timer::restore);
        let (Some(first), Some(second), Some(third)) = (first, second, third) else { return Err(refused("timer")) };
        self.release_all();
        self.configuration = configuration;
        self.status = status;
        self.counter_base = counter_base;
        self.timers = [first, second, third];
        self.drive_all();
        Ok(())
    }

    fn mmio(&mut self) -> Option<&mut dyn Mmio> {
        Some(self)
    }

    fn poll(&mut self) -> Option<&mut dyn Poll> {
        Some(self)
    }
}

impl fmt::Debug for Hpet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hpet")
            .field("configuration", &self.configuration)
            .field("status", &self.status)
            .field("timers", &self.timers)
            .finish_non_exhaustive()
    }
}
