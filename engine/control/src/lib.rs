//! What a client (CLI, GUI) and the monitor of a VM say to each other: the bundle and its configuration, commands,
//! events, states, statistics and the wire format. No emulation.
//!
//! ```text
//!   Library ─▶ Bundle ─ machine.toml ─▶ VmConfig
//!   Client ── Request (JSON, descriptors beside it) ──▶ monitor      over a socket in the RuntimeFolder
//!          ◀── Reply · Event ───────────────────────
//!          ◀── Picture ── shared screen file ───────
//! ```
//!
//! Errors that reach a person are [`Failure`]s: what failed, why, what to do, and a [`FailureKind`] that is also the
//! exit code. Nothing here starts a thread.

#[cfg(unix)]
pub mod bundle;
#[cfg(unix)]
pub mod client;
pub mod command;
pub mod config;
pub mod config_file;
#[cfg(unix)]
pub mod disk_identity;
pub mod failure;
#[cfg(unix)]
pub mod holder;
#[cfg(unix)]
pub mod library;
pub mod names;
#[cfg(unix)]
pub mod runtime;
#[cfg(unix)]
pub mod screen;
pub mod size;
pub mod stats;
#[cfg(unix)]
pub mod wire;

#[cfg(unix)]
pub use bundle::{Bundle, BundleLock};
#[cfg(unix)]
pub use client::Client;
pub use command::{Command, Event, Reply, VmInfo, VmState};
pub use config::VmConfig;
#[cfg(unix)]
pub use disk_identity::DiskIdentity;
pub use failure::{Failure, FailureKind};
#[cfg(unix)]
pub use holder::Holder;
#[cfg(unix)]
pub use library::{Library, VmName};
#[cfg(unix)]
pub use runtime::RuntimeFolder;
pub use size::Size;
