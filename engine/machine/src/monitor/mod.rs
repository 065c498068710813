//! The monitor: a process (or, for a throw-away VM, a thread) that owns a [`Machine`](crate::Machine) and does what
//! its user's clients ask.
//!
//! ```text
//!   benchtop start ─ StartRequest ─▶ process::run
//!                                      open    bundle, lock, disks, discs, firmware, accelerator, socket, screen
//!                                      sandbox from here on nothing outside the bundle can be opened
//!                                      Session the machine, and every command on it
//!                                      Server  poll loop: clients, serial consoles, events
//!   benchtop start ◀─ answer ───────── guest runs
//! ```
//!
//! Threads: the poll loop (`monitor`), one that executes commands (`commands`), and the machine's own. A client is
//! dropped when it sends nonsense, too much, or does not take what it is sent.

mod feed;
pub mod firmware;
pub mod host;
pub mod identity;
pub mod image;
pub mod open;
pub mod process;
pub mod sandbox;
mod seccomp;
mod server;
mod session;
mod trouble;

pub use feed::{Feed, SerialFeed};
pub use server::{Server, listen};
pub use session::{About, Session};
pub use trouble::{block_failure, hypervisor_failure, machine_failure};
