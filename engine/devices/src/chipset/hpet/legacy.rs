//! The switch by which the HPET takes over an ISA timer's interrupt.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::{Wire, WireSink};

/// IRQ0 or IRQ8: driven by the PIT or the RTC, or by the HPET in legacy replacement mode.
#[derive(Debug)]
pub struct LegacyIrq {
    output: Wire,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    timer_level: bool,
    hpet_level: bool,
    hpet_selected: bool,
}

impl State {
    fn level(&self) -> bool {
        if self.hpet_selected { self.hpet_level } else { self.timer_level }
    }
}

impl LegacyIrq {
    /// A switch in front of `output`, set to the PIT or RTC.
    pub fn new(output: Wire) -> Arc<Self> {
        Arc::new(Self { output, state: Mutex::default() })
    }

    /// The end for the PIT or the RTC.
    pub fn timer_wire(self: &Arc<Self>) -> Wire {
        Wire::new(self.clone(), 0)
    }

    // The output is driven with the switch locked, so that what arrives there is in order.

    pub(super) fn select_hpet(&self, hpet_selected: bool) {
        let mut state = self.state.lock();
        if state.hpet_selected != hpet_selected {
            state.hpet_selected = hpet_selected;
            self.output.set(state.level());
        }
    }

    pub(super) fn set_hpet(&self, level: bool) {
        let mut state = self.state.lock();
        state.hpet_level = level;
        if state.hpet_selected {
            self.output.set(level);
        }
    }

    pub(super) fn hpet_pulse(&self) {
        let state = self.state.lock();
        if state.hpet_selected {
            self.output.pulse();
        }
    }
}

impl WireSink for LegacyIrq {
    fn set_level(&self, _line: u32, level: bool) {
        let mut state = self.state.lock();
        state.timer_level = level;
        if !state.hpet_selected {
            self.output.set(level);
        }
    }
}
