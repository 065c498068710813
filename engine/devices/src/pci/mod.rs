//! PCI: the configuration space every function shares, and the host bridge that carries accesses to it.

pub mod config;
pub mod host;
