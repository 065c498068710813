//! The operations against the host's instructions.

#![expect(unsafe_code, reason = "the host's instructions are the measure, and only assembly names them exactly")]

mod floating;
mod harness;
mod integer;
mod speed;
