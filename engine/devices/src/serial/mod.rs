//! Serial ports: the chip ([`Uart16550`]) and its place on the ISA bus ([`SerialPort`]).

mod port;
mod uart;

pub use port::{COM1_BASE, COM2_BASE, SerialPort};
pub use uart::{SerialSink, Uart16550};

#[cfg(test)]
mod tests;
