//! What every accelerator must do, as functions that panic where it does not.
//!
//! Each check builds its own VM, with a few dozen bytes of guest code whose assembly stands beside it, and looks at
//! what the board was told. [`ALL`] lists them by name.

mod accesses;
mod interrupts;
mod memory;
mod rig;
mod running;
mod state;

use crate::Hypervisor;

/// One check.
pub type Check = fn(&dyn Hypervisor);

/// All checks, by name.
pub const ALL: &[(&str, Check)] = &[
    ("port_sizes", accesses::port_sizes),
    ("mmio_sizes", accesses::mmio_sizes),
    ("string_io", accesses::string_io),
    ("backdoor_registers", accesses::backdoor_registers),
    ("gathered_writes_come_in_order", accesses::gathered_writes_come_in_order),
    ("read_only_memory", memory::read_only_memory),
    ("dirty_log", memory::dirty_log),
    ("slots_can_be_replaced_while_running", memory::slots_can_be_replaced_while_running),
    ("pic_waits_for_the_window", interrupts::pic_waits_for_the_window),
    ("pic_is_taken_at_hlt", interrupts::pic_is_taken_at_hlt),
    ("pic_wakes_a_halted_vcpu", interrupts::pic_wakes_a_halted_vcpu),
    ("msi", interrupts::msi),
    ("ioapic_eoi", interrupts::ioapic_eoi),
    ("an_owed_eoi_is_in_the_state", interrupts::an_owed_eoi_is_in_the_state),
    ("sipi_starts_a_vcpu", interrupts::sipi_starts_a_vcpu),
    ("kick_before_run", running::kick_before_run),
    ("kick_while_spinning", running::kick_while_spinning),
    ("kick_while_halted", running::kick_while_halted),
    ("a_kick_leaves_no_access_half_done", running::a_kick_leaves_no_access_half_done),
    ("triple_fault", running::triple_fault),
    ("cpuid_names_the_hypervisor", running::cpuid_names_the_hypervisor),
    ("state_round_trip", state::round_trip),
    ("a_state_moves_to_another_vm", state::a_state_moves_to_another_vm),
    ("impossible_state_is_refused", state::impossible_state_is_refused),
    ("reset_starts_over", state::reset_starts_over),
    ("an_acknowledged_interrupt_survives_saving", state::an_acknowledged_interrupt_survives_saving),
    ("tsc_stands_still_while_paused", state::tsc_stands_still_while_paused),
    ("long_mode_entry", running::long_mode_entry),
    ("protected_mode_entry", running::protected_mode_entry),
];

/// The check of this name.
pub fn check(name: &str) -> Option<Check> {
    ALL.iter().find(|(known, _)| *known == name).map(|(_, check)| *check)
}
