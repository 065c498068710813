//! The `benchtop` command.

fn main() {}
