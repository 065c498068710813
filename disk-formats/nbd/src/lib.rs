//! Network Block Device: a server that exports any disk, and a disk that is another server's export.
//!
//! ```text
//!   client ─ socket ─▶ handshake ─▶ connection: one thread leads (reads requests), others carry out ─▶ DiskBackend
//!   DiskBackend calls ─▶ NbdDisk ─ socket ─▶ server
//! ```
//!
//! Both speak the fixed newstyle handshake, structured replies and the `base:allocation` context of the NBD protocol
//! (doc/proto.md of the NetworkBlockDevice project, which every mention of "the protocol" here means). The client speaks TLS
//! where it is told to. Not here: TLS for servers, extended headers, resizing, several exports on one server, and
//! reconnecting a lost client. Each is refused with an error that names it.
//!
//! Trust: the peer is hostile. Every field is checked, a connection's memory is bounded ([`ServerOptions`] says by
//! what), the handshake has a deadline, and nothing panics. There is no authentication, so a server listens on a unix
//! socket that only its user can open, or on a loopback address, which every local user can reach.
//!
//! Errors: [`BlockError`](benchtop_block::BlockError) throughout. A peer that breaks the protocol loses its connection.
//!
//! Threading: everything public is `Send + Sync`. The server's threads are named `nbd-…` and end with
//! [`Server::shutdown`]. Only Unix hosts have this crate's content; elsewhere it is empty.
#![cfg(unix)]

mod address;
mod client;
mod incoming;
mod listener;
mod protocol;
mod server;
mod stream;
mod tls;

pub use address::{Address, Uri};
pub use client::{NO_SUCH_EXPORT, NbdDisk, WANTS_TLS};
pub use listener::Listener;
pub use protocol::MAX_PAYLOAD_BYTES;
pub use server::{Export, Server, ServerOptions};
pub use tls::Tls;
