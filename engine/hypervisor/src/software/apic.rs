//! The local APIC (Intel SDM volume 3, chapter 10): xAPIC and x2APIC, with its timer.

use std::time::{Duration, Instant};

use crate::state::LocalApicV1;

/// Nanoseconds a tick of the timer's input takes: 1 GHz, as KVM's.
pub const BUS_KHZ: u32 = 1_000_000;

/// Offsets of registers, as in the xAPIC page; x2APIC's MSR is 800h plus a sixteenth.
mod offset {
    pub const ID: usize = 0x20;
    pub const VERSION: usize = 0x30;
    pub const TPR: usize = 0x80;
    pub const APR: usize = 0x90;
    pub const PPR: usize = 0xa0;
    pub const EOI: usize = 0xb0;
    pub const LDR: usize = 0xd0;
    pub const DFR: usize = 0xe0;
    pub const SVR: usize = 0xf0;
    pub const ISR: usize = 0x100;
    pub const TMR: usize = 0x180;
    pub const IRR: usize = 0x200;
    pub const ESR: usize = 0x280;
    pub const ICR: usize = 0x300;
    pub const ICR_HIGH: usize = 0x310;
    pub const TIMER: usize = 0x320;
    pub const LINT0: usize = 0x350;
    pub const ERROR: usize = 0x370;
    pub const INITIAL: usize = 0x380;
    pub const CURRENT: usize = 0x390;
    pub const DIVIDE: usize = 0x3e0;
    pub const SELF_IPI: usize = 0x3f0;
}
use offset::*;

const MASKED: u32 = 1 << 16;
const ENABLED: u32 = 1 << 8;
/// IA32_APIC_BASE.
const BASE_BSP: u64 = 1 << 8;
const BASE_X2APIC: u64 = 1 << 10;
const BASE_ENABLE: u64 = 1 << 11;
const BASE_ADDRESS: u64 = 0xff_ffff_f000;
/// Integrated, six local vectors.
const VERSION_VALUE: u32 = 0x0005_0014;

/// What a write asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Nothing.
    None,
    /// An interrupt between processors: the low half of ICR, and the destination.
    Send(u32, u32),
    /// The EOI of a level-triggered interrupt, for the IOAPICs.
    Eoi(u8),
}

/// How an interrupt is delivered (ICR and MSI data bits 10:8).
pub mod delivery {
    #![allow(missing_docs, reason = "they are called what they are")]
    #![allow(clippy::allow_attributes, reason = "an expectation does not reach into constants")]
    pub const FIXED: u32 = 0;
    pub const LOWEST: u32 = 1;
    pub const NMI: u32 = 4;
    pub const INIT: u32 = 5;
    pub const STARTUP: u32 = 6;
    pub const EXT_INT: u32 = 7;
}

/// A local APIC.
#[derive(Clone, Debug)]
pub struct Apic {
    id: u32,
    base: u64,
    /// The register page.
    registers: Vec<u32>,
    /// When the timer was last set going.
    started: Instant,
    /// When it fires next.
    due: Option<Instant>,
    /// IA32_TSC_DEADLINE.
    deadline: u64,
}

fn word(offset: usize) -> usize {
    offset / 16
}

impl Apic {
    /// After power-on.
    pub fn new(id: u32) -> Self {
        let base = 0xfee0_0000 | BASE_ENABLE | if id == 0 { BASE_BSP } else { 0 };
        let mut apic = Self { id, base, registers: vec![0; 64], started: Instant::now(), due: None, deadline: 0 };
        apic.init();
        apic
    }

    /// After INIT: all but the identity and the base.
    pub fn init(&mut self) {
        self.registers = vec![0; 64];
        self.set(ID, if self.is_x2apic() { self.id } else { self.id << 24 });
        self.set(VERSION, VERSION_VALUE);
        self.set(SVR, 0xff);
        self.set(DFR, u32::MAX);
        for offset in (TIMER..=ERROR).step_by(16) {
            self.set(offset, MASKED);
        }
        if self.id == 0 {
            // As firmware expects it of a board with a PIC: virtual wire.
            self.set(LINT0, delivery::EXT_INT << 8);
        }
        if self.is_x2apic() {
            self.renew_ldr();
        }
        (self.due, self.deadline) = (None, 0);
    }

    fn get(&self, offset: usize) -> u32 {
        self.registers.get(word(offset)).copied().unwrap_or_default()
    }

    fn set(&mut self, offset: usize, value: u32) {
        if let Some(register) = self.registers.get_mut(word(offset)) {
            *register = value;
        }
    }

    /// IA32_APIC_BASE.
    pub fn base(&self) -> u64 {
        self.base
    }

    /// Changes IA32_APIC_BASE. False: not from the mode that it is in (Intel SDM volume 3, 10.12.5).
    pub fn set_base(&mut self, value: u64) -> bool {
        let mode = |base: u64| (base & BASE_ENABLE != 0, base & BASE_X2APIC != 0);
        if value & !(BASE_ADDRESS | BASE_ENABLE | BASE_X2APIC | BASE_BSP) != 0 {
            return false;
        }
        match (mode(self.base), mode(value)) {
            (_, (false, true)) | ((true, true), (true, false)) | ((false, false), (true, true)) => return false,
            _ => {}
        }
        let was = mode(self.base);
        self.base = value & !BASE_BSP | self.base & BASE_BSP;
        if was != mode(self.base) {
            if !mode(self.base).0 {
                self.init();
            } else if mode(self.base).1 {
                self.set(ID, self.id);
                self.renew_ldr();
            } else {
                self.init();
            }
        }
        true
    }

    fn renew_ldr(&mut self) {
        self.set(LDR, (self.id >> 4) << 16 | 1 << (self.id & 15));
    }

    /// Whether its registers are at this address.
    pub fn is_at(&self, gpa: u64) -> bool {
        self.is_on() && !self.is_x2apic() && gpa & !0xfff == self.base & BASE_ADDRESS
    }

    fn is_on(&self) -> bool {
        self.base & BASE_ENABLE != 0
    }

    /// Whether it is in x2APIC mode.
    pub fn is_x2apic(&self) -> bool {
        self.base & (BASE_ENABLE | BASE_X2APIC) == BASE_ENABLE | BASE_X2APIC
    }

    fn is_enabled(&self) -> bool {
        self.is_on() && self.get(SVR) & ENABLED != 0
    }

    /// Whether the PIC's interrupts come through.
    pub fn takes_pic(&self) -> bool {
        let lint = self.get(LINT0);
        !self.is_on() || (lint & MASKED == 0 && lint >> 8 & 7 == delivery::EXT_INT)
    }

    fn bit(&self, base: usize, vector: u8) -> bool {
        self.get(base + usize::from(vector) / 32 * 16) >> (vector % 32) & 1 != 0
    }

    fn set_bit(&mut self, base: usize, vector: u8, is: bool) {
        let offset = base + usize::from(vector) / 32 * 16;
        let mask = 1 << (vector % 32);
        let old = self.get(offset);
        self.set(offset, if is { old | mask } else { old & !mask });
    }

    fn highest(&self, base: usize) -> Option<u8> {
        (0..8usize).rev().find_map(|index| {
            let bits = self.get(base + index * 16);
            (bits != 0).then(|| (index as u32 * 32 + 31 - bits.leading_zeros()) as u8)
        })
    }

    /// An interrupt arrives. False: it is not for a processor whose APIC is off.
    pub fn accept(&mut self, vector: u8, level: bool) -> bool {
        if !self.is_enabled() || vector < 16 {
            return false;
        }
        self.set_bit(IRR, vector, true);
        self.set_bit(TMR, vector, level);
        true
    }

    fn priority(&self) -> u8 {
        let service = self.highest(ISR).unwrap_or(0) & 0xf0;
        let task = self.get(TPR) as u8;
        if task & 0xf0 >= service { task } else { service }
    }

    /// The interrupt that the processor should take.
    pub fn pending(&self) -> Option<u8> {
        if !self.is_enabled() {
            return None;
        }
        self.highest(IRR).filter(|vector| vector & 0xf0 > self.priority() & 0xf0)
    }

    /// It takes it.
    pub fn acknowledge(&mut self, vector: u8) {
        self.set_bit(IRR, vector, false);
        self.set_bit(ISR, vector, true);
    }

    fn eoi(&mut self) -> Action {
        let Some(vector) = self.highest(ISR) else { return Action::None };
        self.set_bit(ISR, vector, false);
        if self.bit(TMR, vector) { Action::Eoi(vector) } else { Action::None }
    }

    /// Whether a message to this destination is for it (Intel SDM volume 3, 10.6.2).
    pub fn is_addressed(&self, destination: u32, logical: bool, wide: bool) -> bool {
        let broadcast = if wide { u32::MAX } else { 0xff };
        if !self.is_on() {
            return false;
        }
        if destination == broadcast {
            return true;
        }
        if !logical {
            return destination == self.id;
        }
        let ldr = self.get(LDR);
        if self.is_x2apic() {
            if wide {
                return destination >> 16 == ldr >> 16 && destination & ldr & 0xffff != 0;
            }
            return ldr >> 16 == 0 && destination & ldr & 0xff != 0;
        }
        let (destination, own) = (destination & 0xff, ldr >> 24);
        if self.get(DFR) >> 28 == 0xf {
            destination & own != 0
        } else {
            destination >> 4 == own >> 4 && destination & own & 0xf != 0
        }
    }

    /// CR8.
    pub fn task_priority(&self) -> u8 {
        (self.get(TPR) >> 4) as u8 & 15
    }

    /// CR8 changes.
    pub fn set_task_priority(&mut self, cr8: u8) {
        self.set(TPR, u32::from(cr8 & 15) << 4);
    }

    fn divider(&self) -> u64 {
        let bits = self.get(DIVIDE);
        let power = bits & 3 | bits >> 1 & 4;
        1 << ((power + 1) & 7)
    }

    fn period(&self) -> Duration {
        Duration::from_nanos(u64::from(self.get(INITIAL)) * self.divider())
    }

    fn timer_mode(&self) -> u32 {
        self.get(TIMER) >> 17 & 3
    }

    fn current_count(&self, now: Instant) -> u32 {
        let (Some(due), true) = (self.due, self.timer_mode() < 2) else { return 0 };
        (due.saturating_duration_since(now).as_nanos() as u64 / self.divider()) as u32
    }

    fn start(&mut self, now: Instant) {
        self.started = now;
        self.due = (self.get(INITIAL) != 0 && self.timer_mode() < 2).then(|| now + self.period());
    }

    /// IA32_TSC_DEADLINE.
    pub fn deadline(&self) -> u64 {
        if self.timer_mode() == 2 { self.deadline } else { 0 }
    }

    /// Sets IA32_TSC_DEADLINE, with the counter as it is now.
    pub fn set_deadline(&mut self, value: u64, ticks: u64, khz: u32) {
        if self.timer_mode() != 2 {
            return;
        }
        self.deadline = value;
        let nanos = u128::from(value.saturating_sub(ticks)) * 1_000_000 / u128::from(khz.max(1));
        let wait = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX).min(1 << 60));
        self.due = (value != 0).then(|| Instant::now() + wait);
    }

    /// When the timer has to be looked at.
    pub fn due(&self) -> Option<Instant> {
        self.due
    }

    /// The timer fires if it is due.
    pub fn look(&mut self, now: Instant) {
        let Some(due) = self.due.filter(|due| *due <= now) else { return };
        let timer = self.get(TIMER);
        let period = self.period();
        self.due = if self.timer_mode() == 1 && !period.is_zero() {
            // Those that were missed are lost, as on the hardware: one of a vector waits at most.
            let mut next = due + period;
            if next <= now {
                next = now + period;
            }
            Some(next)
        } else {
            self.deadline = 0;
            None
        };
        if timer & MASKED == 0 {
            self.accept(timer as u8, false);
        }
    }

    /// Reads a register.
    pub fn read(&self, offset: usize) -> u32 {
        match offset & 0xff0 {
            PPR => self.priority().into(),
            CURRENT => self.current_count(Instant::now()),
            APR | EOI => 0,
            offset => self.get(offset),
        }
    }

    /// Writes a register; `high` is the destination of an x2APIC's ICR.
    pub fn write(&mut self, offset: usize, value: u32, high: u32) -> Action {
        match offset & 0xff0 {
            EOI => return self.eoi(),
            TPR => self.set(TPR, value & 0xff),
            LDR if !self.is_x2apic() => self.set(LDR, value & 0xff00_0000),
            DFR if !self.is_x2apic() => self.set(DFR, value | 0x0fff_ffff),
            SVR => {
                self.set(SVR, value & 0x1ff);
                if value & ENABLED == 0 {
                    for offset in (TIMER..=ERROR).step_by(16) {
                        let vector = self.get(offset);
                        self.set(offset, vector | MASKED);
                    }
                }
            }
            ESR => self.set(ESR, 0),
            ICR => {
                self.set(ICR, value & !(1 << 12));
                let to = if self.is_x2apic() { high } else { self.get(ICR_HIGH) >> 24 };
                if self.is_x2apic() {
                    self.set(ICR_HIGH, high);
                }
                return Action::Send(value, to);
            }
            ICR_HIGH if !self.is_x2apic() => self.set(ICR_HIGH, value & 0xff00_0000),
            SELF_IPI if self.is_x2apic() => return Action::Send(value & 0xff | 1 << 18, self.id),
            TIMER => {
                let before = self.timer_mode();
                self.set(TIMER, self.masked(value & 0x7_10ff));
                if before != self.timer_mode() {
                    (self.due, self.deadline) = (None, 0);
                }
            }
            INITIAL if self.timer_mode() < 2 => {
                self.set(INITIAL, value);
                self.start(Instant::now());
            }
            DIVIDE => {
                self.set(DIVIDE, value & 0xb);
                if self.due.is_some() && self.timer_mode() < 2 {
                    self.start(Instant::now());
                }
            }
            offset if (TIMER..=ERROR).contains(&offset) => self.set(offset, self.masked(value & 0x1_f7ff)),
            _ => {}
        }
        Action::None
    }

    /// A local vector, masked while the APIC is off.
    fn masked(&self, value: u32) -> u32 {
        if self.get(SVR) & ENABLED == 0 { value | MASKED } else { value }
    }

    /// As saved.
    pub fn save(&self) -> LocalApicV1 {
        let mut registers = vec![0; 1024];
        for (index, place) in registers.chunks_exact_mut(16).enumerate() {
            let value = self.read(index * 16);
            place[..4].copy_from_slice(&value.to_le_bytes());
        }
        LocalApicV1 { registers }
    }

    /// Takes a saved state.
    pub fn restore(&mut self, base: u64, saved: &LocalApicV1) {
        self.base = base & (BASE_ADDRESS | BASE_ENABLE | BASE_X2APIC | BASE_BSP);
        let word = |place: &[u8]| place[..4].iter().rev().fold(0, |value, byte| value << 8 | u32::from(*byte));
        let saved: Vec<u32> = saved.registers.chunks_exact(16).map(word).collect();
        let now = Instant::now();
        let current = saved.get(word_of(CURRENT)).copied().unwrap_or_default();
        self.registers = saved;
        self.registers.resize(64, 0);
        self.set(ID, if self.is_x2apic() { self.id } else { self.id << 24 });
        self.set(VERSION, VERSION_VALUE);
        self.deadline = 0;
        self.due = (current != 0 && self.timer_mode() < 2)
            .then(|| now + Duration::from_nanos(u64::from(current) * self.divider()));
        self.started = now;
    }

    /// Moves what is due by the time that the clock stood still.
    pub fn delay(&mut self, by: Duration) {
        if let Some(due) = &mut self.due {
            *due += by;
        }
    }
}

fn word_of(offset: usize) -> usize {
    word(offset)
}
