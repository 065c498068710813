//! What a client (CLI, GUI) and the monitor of a VM say to each other: the bundle's configuration, commands, events,
//! states, statistics and the wire format. No emulation.

pub mod config;
pub mod stats;
