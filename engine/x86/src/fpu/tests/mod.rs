//! The unit against the host's own, instruction by instruction on the same states; and what needs no host.

mod exact;
mod hostless;
mod operands;

#[cfg(target_arch = "x86_64")]
mod host;
#[cfg(target_arch = "x86_64")]
mod instructions;
#[cfg(target_arch = "x86_64")]
mod state;
#[cfg(target_arch = "x86_64")]
mod transcendentals;
