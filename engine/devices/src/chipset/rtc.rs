//! MC146818A real-time clock and its CMOS RAM, at ports 70h (index) and 71h (data).
//!
//! The clock shows the host's wall clock in UTC plus an offset, which changes when the guest sets the time. So it is
//! right again after a pause or a resume, and a guest that keeps local time keeps doing so. Interrupts are timed by
//! the virtual clock; what falls into a pause, or happens while IRQ8 waits to be acknowledged, is one interrupt.
//!
//! Facts: Motorola MC146818A datasheet; the CMOS cells are those SeaBIOS reads.

mod calendar;
mod cmos;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{Device, Poll, PortIo, PortRange, RestoreError, SavedState, VirtualClock, Wire};
use calendar::DateTime;

pub use cmos::{BootClass, CmosLayout};

const KIND: &str = "rtc";
const VERSION: u32 = 1;

const INDEX_PORT: u16 = 0x70;
const DATA_PORT: u16 = 0x71;

const CELLS: usize = 128;

const SECONDS: usize = 0x00;
const SECONDS_ALARM: usize = 0x01;
const MINUTES: usize = 0x02;
const MINUTES_ALARM: usize = 0x03;
const HOURS: usize = 0x04;
const HOURS_ALARM: usize = 0x05;
const WEEKDAY: usize = 0x06;
const DAY: usize = 0x07;
const MONTH: usize = 0x08;
const YEAR: usize = 0x09;
const REGISTER_A: usize = 0x0a;
const REGISTER_B: usize = 0x0b;
const REGISTER_C: usize = 0x0c;
const REGISTER_D: usize = 0x0d;
const CENTURY: usize = 0x32;
const CENTURY_PS2: usize = 0x37;

/// Register A: an update is about to happen or under way.
const A_UIP: u8 = 0x80;
/// Register A: the divider chain, which one pattern of two holds in reset.
const A_DIVIDER_RESET: u8 = 0x60;
const A_RATE: u8 = 0x0f;
/// Divider for 32.768 kHz, periodic rate 1024 Hz.
const A_POWER_ON: u8 = 0x26;

/// Register B: updates are halted while the guest sets the time.
const B_SET: u8 = 0x80;
const B_ALARM_INTERRUPT: u8 = 0x20;
const B_PERIODIC_INTERRUPT: u8 = 0x40;
const B_UPDATE_INTERRUPT: u8 = 0x10;
const B_SQUARE_WAVE: u8 = 0x08;
const B_BINARY: u8 = 0x04;
const B_24_HOURS: u8 = 0x02;

/// Register C: the interrupt flags, at the places of their enables in register B, and their sum.
const C_IRQ: u8 = 0x80;
const C_PERIODIC: u8 = 0x40;
const C_ALARM: u8 = 0x20;
const C_UPDATE: u8 = 0x10;
const C_FLAGS: u8 = C_PERIODIC | C_ALARM | C_UPDATE;

/// Register D: RAM and time are valid.
const D_VALID: u8 = 0x80;

/// From here up an alarm cell matches everything.
const ALARM_ANY: u8 = 0xc0;

const NS_PER_SECOND: i128 = 1_000_000_000;
/// UIP goes up 244 us before an update, which takes 1984 us at this crystal.
const UIP_NS: i128 = 2_228_000;
/// When the divider is released from reset, the first update comes half a second later.
const DIVIDER_START_NS: i128 = NS_PER_SECOND / 2;
const SECONDS_PER_DAY: i128 = 86_400;

/// Farthest the guest's time can be from the host's: what the calendar cells can express, and some.
const MAX_OFFSET_NS: i128 = 20_000 * 366 * SECONDS_PER_DAY * NS_PER_SECOND;

/// Where the RTC takes the host's time from: nanoseconds since 1970, UTC.
pub type WallClock = Arc<dyn Fn() -> u64 + Send + Sync>;

/// The RTC and CMOS RAM.
pub struct Rtc {
    clock: VirtualClock,
    wall_clock: WallClock,
    irq: Wire,
    layout: CmosLayout,
    index: u8,
    /// All cells. The time's are current only while updates are halted or just after [`Self::refresh`].
    cells: [u8; CELLS],
    /// Guest's time less host's.
    offset_ns: i128,
    /// The guest's second up to which updates and alarms are accounted for.
    second_seen: i128,
    /// Periods since the virtual clock's 0 that are accounted for, at the present rate.
    periods_seen: u64,
    deadline_ns: Option<u64>,
}

#[derive(Serialize, Deserialize)]
struct RtcV1 {
    index: u8,
    cells: Vec<u8>,
    offset_ns: i128,
    second_seen: i128,
    periods_seen: u64,
}

impl Rtc {
    /// The ports it answers at.
    pub const PORTS: PortRange = PortRange { first: INDEX_PORT, count: 2 };

    /// An RTC that shows the host's time. `irq` is IRQ8.
    pub fn new(clock: VirtualClock, irq: Wire, layout: CmosLayout) -> Self {
        Self::with_wall_clock(clock, Arc::new(VirtualClock::wall_clock_ns), irq, layout)
    }

    /// An RTC with another source of the time of day, for tests and for VMs that start at a chosen time.
    pub fn with_wall_clock(clock: VirtualClock, wall_clock: WallClock, irq: Wire, layout: CmosLayout) -> Self {
        let mut cells = [0; CELLS];
        cells[REGISTER_A] = A_POWER_ON;
        cells[REGISTER_B] = B_24_HOURS;
        cells[REGISTER_D] = D_VALID;
        layout.fill(&mut cells);
        let mut rtc = Self {
            clock,
            wall_clock,
            irq,
            layout,
            index: 0,
            cells,
            offset_ns: 0,
            second_seen: 0,
            periods_seen: 0,
            deadline_ns: None,
        };
        rtc.second_seen = rtc.guest_second();
        rtc.periods_seen = rtc.periods(rtc.clock.now_ns());
        rtc.refresh();
        rtc
    }

    /// The guest's time less the host's, in whole seconds: what a VM's settings keep so that the guest finds its clock
    /// as it set it when the VM is next switched on.
    pub fn offset_seconds(&self) -> i64 {
        i64::try_from(self.offset_ns.div_euclid(NS_PER_SECOND)).unwrap_or(0)
    }

    /// Sets what [`offset_seconds`](Self::offset_seconds) gave earlier. For a VM that has not started yet.
    pub fn set_offset_seconds(&mut self, offset_seconds: i64) {
        self.offset_ns = (i128::from(offset_seconds) * NS_PER_SECOND).clamp(-MAX_OFFSET_NS, MAX_OFFSET_NS);
        self.second_seen = self.guest_second();
        self.refresh();
    }

    fn guest_ns(&self) -> i128 {
        i128::from((self.wall_clock)()) + self.offset_ns
    }

    fn guest_second(&self) -> i128 {
        self.guest_ns().div_euclid(NS_PER_SECOND)
    }

    fn divider_in_reset(&self) -> bool {
        self.cells[REGISTER_A] & A_DIVIDER_RESET == A_DIVIDER_RESET
    }

    /// Whether the time cells stand still.
    fn halted(&self) -> bool {
        self.cells[REGISTER_B] & B_SET != 0 || self.divider_in_reset()
    }

    /// A number as the cells hold it.
    fn encode(&self, value: u8) -> u8 {
        if self.cells[REGISTER_B] & B_BINARY != 0 { value } else { ((value / 10) << 4) | (value % 10) }
    }

    /// A cell's number. What is no BCD gives some number below 166.
    fn decode(&self, cell: u8) -> u8 {
        if self.cells[REGISTER_B] & B_BINARY != 0 { cell } else { (cell >> 4) * 10 + (cell & 0x0f) }
    }

    fn encode_hour(&self, hour: u8) -> u8 {
        if self.cells[REGISTER_B] & B_24_HOURS != 0 {
            return self.encode(hour);
        }
        let afternoon = if hour >= 12 { 0x80 } else { 0 };
        let twelve = if hour.is_multiple_of(12) { 12 } else { hour % 12 };
        self.encode(twelve) | afternoon
    }

    fn decode_hour(&self, cell: u8) -> u8 {
        if self.cells[REGISTER_B] & B_24_HOURS != 0 {
            return self.decode(cell);
        }
        self.decode(cell & 0x7f) % 12 + if cell & 0x80 != 0 { 12 } else { 0 }
    }

    /// Brings the time cells up to date, unless they stand still.
    fn refresh(&mut self) {
        if self.halted() {
            return;
        }
        let time = DateTime::from_seconds(self.guest_second());
        self.cells[SECONDS] = self.encode(time.second);
        self.cells[MINUTES] = self.encode(time.minute);
        self.cells[HOURS] = self.encode_hour(time.hour);
        self.cells[WEEKDAY] = self.encode(time.weekday);
        self.cells[DAY] = self.encode(time.day);
        self.cells[MONTH] = self.encode(time.month);
        self.cells[YEAR] = self.encode(time.year_of_century());
        self.cells[CENTURY] = self.encode(time.century());
        self.cells[CENTURY_PS2] = self.cells[CENTURY];
    }

    /// Makes the time cells the guest's time, `phase_ns` into that second. Impossible dates are carried over, as in
    /// 31 April, which is 1 May.
    fn take_time_from_cells(&mut self, phase_ns: i128) {
        let time = DateTime {
            year: u16::from(self.decode(self.cells[CENTURY])) * 100 + u16::from(self.decode(self.cells[YEAR])),
            month: self.decode(self.cells[MONTH]),
            day: self.decode(self.cells[DAY]),
            weekday: 0,
            hour: self.decode_hour(self.cells[HOURS]),
            minute: self.decode(self.cells[MINUTES]),
            second: self.decode(self.cells[SECONDS]),
        };
        let wanted_ns = time.to_seconds() * NS_PER_SECOND + phase_ns;
        let offset_ns = wanted_ns - i128::from((self.wall_clock)());
        self.offset_ns = offset_ns.clamp(-MAX_OFFSET_NS, MAX_OFFSET_NS);
        self.second_seen = self.guest_second();
    }

    fn phase_ns(&self) -> i128 {
        self.guest_ns().rem_euclid(NS_PER_SECOND)
    }

    /// Periodic interrupts per second, where there are any.
    fn periodic_hz(&self) -> Option<u64> {
        match self.cells[REGISTER_A] & A_RATE {
            _ if self.divider_in_reset() => None,
            0 => None,
            // The two slowest-looking settings repeat 256 and 128 Hz.
            rate @ 1..=2 => Some(512 >> rate),
            rate => Some(65_536 >> rate),
        }
    }

    /// Periods that have passed since the virtual clock's 0.
    fn periods(&self, now_ns: u64) -> u64 {
        let Some(hz) = self.periodic_hz() else { return 0 };
        u64::try_from(u128::from(now_ns) * u128::from(hz) / 1_000_000_000).unwrap_or(u64::MAX)
    }

    /// Sets the flags of all that happened until now, drives IRQ8 and works out when to look again.
    fn catch_up(&mut self, now_ns: u64) {
        if !self.halted() {
            let second = self.guest_second();
            if second != self.second_seen {
                self.cells[REGISTER_C] |= C_UPDATE;
                if self.alarm_between(self.second_seen, second) {
                    self.cells[REGISTER_C] |= C_ALARM;
                }
                self.second_seen = second;
            }
        }
        let periods = self.periods(now_ns);
        if periods != self.periods_seen {
            self.cells[REGISTER_C] |= C_PERIODIC;
            self.periods_seen = periods;
        }
        self.settle(now_ns);
    }

    fn pending(&self) -> bool {
        self.cells[REGISTER_B] & self.cells[REGISTER_C] & C_FLAGS != 0
    }

    fn settle(&mut self, now_ns: u64) {
        self.irq.set(self.pending());
        self.deadline_ns = self.next_deadline(now_ns);
    }

    fn next_deadline(&self, now_ns: u64) -> Option<u64> {
        // Until the guest acknowledges, nothing more can come out of the line.
        if self.pending() {
            return None;
        }
        let enabled = self.cells[REGISTER_B];
        let periodic = if enabled & B_PERIODIC_INTERRUPT != 0 { self.periodic_hz() } else { None };
        let next_period = periodic.map(|hz| {
            let boundary = (u128::from(self.periods_seen) + 1) * 1_000_000_000;
            u64::try_from(boundary.div_ceil(u128::from(hz))).unwrap_or(u64::MAX)
        });
        // An alarm is compared at each update, as in the chip. That also finds it when the wall clock jumps.
        let next_update = if enabled & (B_UPDATE_INTERRUPT | B_ALARM_INTERRUPT) != 0 && !self.halted() {
            let wait_ns = NS_PER_SECOND - self.phase_ns();
            Some(now_ns.saturating_add(u64::try_from(wait_ns).unwrap_or(0)))
        } else {
            None
        };
        next_period.into_iter().chain(next_update).min()
    }

    /// Whether the alarm time is among the seconds after `from` up to `to`.
    fn alarm_between(&self, from: i128, to: i128) -> bool {
        let matches = |cell: u8, value: u8, number: u8| cell >= ALARM_ANY || number == value;
        let [second, minute, hour] = [SECONDS_ALARM, MINUTES_ALARM, HOURS_ALARM].map(|at| self.cells[at]);
        let numbers = [self.decode(second), self.decode(minute), self.decode_hour(hour)];
        // A day's worth of seconds holds every time of day.
        let first = (from + 1).max(to - SECONDS_PER_DAY + 1);
        let start = u32::try_from(first.rem_euclid(SECONDS_PER_DAY)).unwrap_or(0);
        let count = u32::try_from(to - first + 1).unwrap_or(0);
        (start..start + count).any(|at| {
            let time = DateTime::from_time_of_day(at);
            matches(second, time.second, numbers[0])
                && matches(minute, time.minute, numbers[1])
                && matches(hour, time.hour, numbers[2])
        })
    }

    fn read_cell(&mut self) -> u8 {
        let index = usize::from(self.index);
        match index {
            SECONDS | MINUTES | HOURS | WEEKDAY..=YEAR | CENTURY | CENTURY_PS2 => {
                self.refresh();
                self.cells[index]
            }
            REGISTER_A => {
                let updating = !self.halted() && self.phase_ns() >= NS_PER_SECOND - UIP_NS;
                self.cells[REGISTER_A] | if updating { A_UIP } else { 0 }
            }
            REGISTER_C => {
                let now_ns = self.clock.now_ns();
                self.catch_up(now_ns);
                let value = self.cells[REGISTER_C] | if self.pending() { C_IRQ } else { 0 };
                self.cells[REGISTER_C] = 0;
                self.settle(now_ns);
                value
            }
            _ => self.cells[index],
        }
    }

    fn write_cell(&mut self, value: u8) {
        let index = usize::from(self.index);
        match index {
            SECONDS | MINUTES | HOURS | WEEKDAY..=YEAR | CENTURY | CENTURY_PS2 => {
                self.refresh();
                self.cells[index] = value;
                if matches!(index, CENTURY | CENTURY_PS2) {
                    self.cells[CENTURY] = value;
                    self.cells[CENTURY_PS2] = value;
                }
                if !self.halted() {
                    self.take_time_from_cells(self.phase_ns());
                }
            }
            REGISTER_A | REGISTER_B => self.write_control(index, value),
            REGISTER_C | REGISTER_D => {}
            _ => self.cells[index] = value,
        }
    }

    fn write_control(&mut self, index: usize, value: u8) {
        let now_ns = self.clock.now_ns();
        self.catch_up(now_ns);
        // Where the clock stops now, the cells keep this time.
        self.refresh();
        let was_halted = self.halted();
        let divider_was_in_reset = self.divider_in_reset();
        self.cells[index] = match index {
            REGISTER_A => value & !A_UIP,
            // Setting SET clears the update interrupt's enable.
            _ if value & B_SET != 0 => value & !B_UPDATE_INTERRUPT,
            _ => value,
        };
        if was_halted && !self.halted() {
            let started_now = divider_was_in_reset && !self.divider_in_reset();
            let phase_ns = if started_now { DIVIDER_START_NS } else { self.phase_ns() };
            self.take_time_from_cells(phase_ns);
        }
        // A change of rate is not a period that passed.
        self.periods_seen = self.periods(now_ns);
        self.settle(now_ns);
    }
}

impl PortIo for Rtc {
    fn port_read(&mut self, port: u16, data: &mut [u8]) {
        // 70h can only be written.
        if let Some(byte) = data.get_mut(usize::from(DATA_PORT.wrapping_sub(port))) {
            *byte = self.read_cell();
        }
    }

    fn port_write(&mut self, port: u16, data: &[u8]) {
        for (port, byte) in (port..=DATA_PORT).zip(data) {
            match port {
                // Bit 7 masks the NMI, which nothing here raises.
                INDEX_PORT => self.index = byte & 0x7f,
                DATA_PORT => self.write_cell(*byte),
                _ => {}
            }
        }
    }
}

impl Poll for Rtc {
    fn deadline_ns(&self) -> Option<u64> {
        self.deadline_ns
    }

    fn poll(&mut self, now_ns: u64) {
        self.catch_up(now_ns);
    }
}

impl Device for Rtc {
    /// The RESET# pin: interrupts are off and forgotten. Time and RAM live on the battery and stay; the cells that
    /// describe the machine are written again.
    fn reset(&mut self) {
        let now_ns = self.clock.now_ns();
        self.catch_up(now_ns);
        self.index = 0;
        let interrupts = B_PERIODIC_INTERRUPT | B_ALARM_INTERRUPT | B_UPDATE_INTERRUPT | B_SQUARE_WAVE;
        self.cells[REGISTER_B] &= !interrupts;
        self.cells[REGISTER_C] = 0;
        self.layout.fill(&mut self.cells);
        self.settle(now_ns);
    }

    fn save(&self) -> SavedState {
        let Self {
            clock: _,
            wall_clock: _,
            irq: _,
            layout: _,
            index,
            cells,
            offset_ns,
            second_seen,
            periods_seen,
            deadline_ns: _,
        } = self;
        let state = RtcV1 {
            index: *index,
            cells: cells.to_vec(),
            offset_ns: *offset_ns,
            second_seen: *second_seen,
            periods_seen: *periods_seen,
        };
        SavedState::encode(KIND, VERSION, &state)
    }

    fn restore(&mut self, state: &SavedState) -> Result<(), RestoreError> {
        let RtcV1 { index, cells, offset_ns, second_seen, periods_seen } = state.decode(KIND, VERSION)?;
        let refused = |field| RestoreError::Field { kind: KIND, field };
        let mut cells = <[u8; CELLS]>::try_from(cells).or(Err(refused("number of cells")))?;
        if usize::from(index) >= CELLS {
            return Err(refused("index"));
        }
        if offset_ns.abs() > MAX_OFFSET_NS {
            return Err(refused("time offset"));
        }
        if second_seen.abs() > 2 * MAX_OFFSET_NS / NS_PER_SECOND {
            return Err(refused("last second"));
        }
        cells[REGISTER_A] &= !A_UIP;
        cells[REGISTER_C] &= C_FLAGS;
        cells[REGISTER_D] = D_VALID;
        self.index = index;
        self.cells = cells;
        self.offset_ns = offset_ns;
        self.second_seen = second_seen;
        self.periods_seen = periods_seen;
        self.settle(self.clock.now_ns());
        Ok(())
    }

    fn port_io(&mut self) -> Option<&mut dyn PortIo> {
        Some(self)
    }

    fn poll(&mut self) -> Option<&mut dyn Poll> {
        Some(self)
    }
}

impl fmt::Debug for Rtc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rtc")
            .field("index", &self.index)
            .field("offset_ns", &self.offset_ns)
            .field("deadline_ns", &self.deadline_ns)
            .finish_non_exhaustive()
    }
}
