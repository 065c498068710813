//! Host files read and written straight from and to guest memory: what image formats are built on.

mod lock;
mod vectored;

pub use lock::{Lock, try_lock};
pub use vectored::{Durability, read_at, write_at};
